//! How nodes begin, end, and come back, and what is done to their disks and clocks.

use clustor_shards::log::Damage;
use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::NodeId;
use rand::Rng;

use super::super::check::{Violation, must, provable};
use super::super::clocks::Clocks;
use super::super::machine::Cost;
use super::super::messages::name;
use super::{Event, World};
use crate::disk::{Crash, SimDisk};

/// From a killed process to its peers' notice, in microseconds.
pub(super) const NOTICE_KILL_US: (u64, u64) = (100, 5_000);

/// From a node without power to its peers' notice, in microseconds.
const NOTICE_POWER_US: (u64, u64) = (1_000, 400_000);

impl World {
    /// Starts a node at a moment.
    pub fn boot_at(&mut self, node: NodeId, at_us: u64) {
        self.queue.push(at_us.max(self.now_us), Event::Boot(node));
    }

    pub(super) fn boot(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.node_runs(node) {
            return Ok(());
        }
        for shard in self.shards_of(node) {
            let seed = self.rng.random();
            let now_us = self.now_us;
            let (lossy, damaged) = (self.is_lossy(shard), self.may_hold_damage(shard));
            let may_silence = self.may_silence(shard);
            let host = self.hosts.get_mut(&shard).expect("a shard of the layout");
            let report = host.boot(&self.layout, now_us, seed)?;
            self.marks.on_boot(host.boots, &report);
            let core = host.core.as_ref().expect("just booted");
            self.consensus.on_boot(shard, core, lossy, may_silence)?;
            for (partition, log) in core.log().partitions() {
                let saved = host.saved(partition);
                must(
                    log.base <= saved,
                    "a log gives up what its machine has saved",
                    || {
                        let (shard, base) = (name(shard), log.base);
                        format!("{shard} p{}: {base}, saved is {saved}", partition.get())
                    },
                )?;
            }
            self.trace.note(now_us, || {
                format!(
                    "boot {} number {} chosen {:?} chains {} torn {:?} rewritten {} missing {} incidents {}",
                    name(shard),
                    report.boot,
                    report.chosen,
                    report.chains,
                    report.torn,
                    report.rewritten,
                    report.missing,
                    report.incidents.len()
                )
            });
            // A slot may be torn: its chain never retired.
            let mut incidents = report
                .incidents
                .iter()
                .filter(|incident| incident.damage != Damage::Slot);
            must(
                damaged || incidents.next().is_none(),
                "a disk that neither lost anything nor failed has no incidents",
                || format!("{}: {:?}", name(shard), report.incidents),
            )?;
            self.wake_host(shard);
            self.addresses.forget(shard);
            self.connect_all(shard);
        }
        Ok(())
    }

    /// Ends a node's process, or its power.
    pub fn crash(&mut self, node: NodeId, crash: Crash) {
        self.crash_with(node, crash, crate::disk::Fate::Random);
    }

    /// As [`Self::crash`], with one fate for everything that was not flushed.
    pub fn crash_with(&mut self, node: NodeId, crash: Crash, fate: crate::disk::Fate) {
        if !self.node_runs(node) {
            return;
        }
        self.note(|| format!("node {node} ends: {crash:?} {fate:?}"));
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            host.disk.crash_with(crash, fate);
            host.disk_frozen = false;
        }
        let notice = match crash {
            Crash::Kill => NOTICE_KILL_US,
            Crash::Power => NOTICE_POWER_US,
        };
        self.take_down(node, notice);
    }

    /// The processes of a node are gone: requests die with them, peers will notice.
    pub(super) fn take_down(&mut self, node: NodeId, notice: (u64, u64)) {
        self.stopping.retain(|stopping| *stopping != node);
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            host.core = None;
            host.turn_at = None;
            host.disk_at = None;
            host.stalled_until = 0;
            let boot = host.boots + 1;
            self.clients.on_boot(shard, boot);
            let others: Vec<PeerId> = self.hosts.keys().copied().collect();
            for other in others {
                self.network.end(shard, other);
                if self.network.is_up(other, shard) {
                    let session = self.network.session(other, shard);
                    let at = self.now_us + self.rng.random_range(notice.0..=notice.1);
                    self.queue.push(at, Event::Notice(other, shard, session));
                }
            }
        }
    }

    /// Asks a node to stop in order.
    pub fn stop(&mut self, node: NodeId) {
        if !self.node_runs(node) || self.stopping.contains(&node) {
            return;
        }
        self.note(|| format!("node {node} is asked to stop"));
        self.stopping.push(node);
        for shard in self.shards_of(node) {
            self.host_mut(shard).inbox.stopping = true;
            self.wake_host(shard);
        }
    }

    /// Keeps a node's disks as a power loss would leave them now.
    pub fn take_image(&mut self, node: NodeId) {
        self.note(|| format!("an image of node {node}'s disks"));
        for shard in self.shards_of(node) {
            let image = self.host_mut(shard).disk.image();
            self.images.insert(shard, image);
        }
    }

    /// Whether an image of a node's disks was taken.
    #[must_use]
    pub fn has_image(&self, node: NodeId) -> bool {
        self.images.keys().any(|shard| shard.node == node)
    }

    /// Whether an image of a node's disks was taken, and everybody else remembers durably that the node came
    /// further since then. Shorter ways back go unnoticed.
    ///
    /// # Errors
    /// If somebody's disk can't be recovered.
    pub fn is_way_back_long(&self, node: NodeId) -> Result<bool, Violation> {
        let others = self.hosts.keys().filter(|shard| shard.node != node).count();
        for shard in self.shards_of(node) {
            if self.who_knows_more(shard)?.len() < others {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Who remembers durably that a shard came further than its image.
    fn who_knows_more(&self, shard: PeerId) -> Result<Vec<PeerId>, Violation> {
        let mut knowing = Vec::new();
        let Some(image) = self.images.get(&shard) else {
            return Ok(knowing);
        };
        let log = provable::recovered_from(&self.layout, shard, image.clone())?;
        let (Some((_, partition)), Some(then)) = (log.partitions().next(), log.past_boots().last())
        else {
            return Ok(knowing);
        };
        let is_more = |past: &PeerPast| {
            let same = past.boot == then.boot && past.chain > then.last;
            past.incarnation == partition.incarnation && (same || past.boot > then.boot)
        };
        for (other, host) in &self.hosts {
            if other.node != shard.node {
                let log = provable::recovered(&self.layout, *other, &host.disk)?;
                let mut peers = log.peers();
                if peers.any(|(peer, past)| peer == shard && is_more(&past)) {
                    knowing.push(*other);
                }
            }
        }
        Ok(knowing)
    }

    /// Puts the image of a node that is down back on its disks.
    ///
    /// # Errors
    /// If somebody's disk can't be recovered.
    ///
    /// # Panics
    /// If the node runs, or there is no image of it.
    pub fn go_back(&mut self, node: NodeId) -> Result<(), Violation> {
        assert!(
            !self.node_runs(node),
            "an image is put back between two boots"
        );
        self.note(|| format!("node {node}'s disks are an older image of themselves"));
        for shard in self.shards_of(node) {
            let knowing = self.who_knows_more(shard)?;
            self.went_back
                .extend(knowing.into_iter().map(|other| (shard, other)));
            let image = self.images.remove(&shard).expect("an image was taken");
            self.host_mut(shard).disk.restore(image);
            self.consensus.went_back(shard);
            self.mark_lossy(shard);
        }
        Ok(())
    }

    /// Whether a node's disks are an older image of themselves.
    #[must_use]
    pub fn is_an_old_image(&self, node: NodeId) -> bool {
        self.went_back.iter().any(|(shard, _)| shard.node == node)
    }

    /// Puts empty disks into a node that is down.
    ///
    /// # Panics
    /// If the node runs.
    pub fn empty_disks(&mut self, node: NodeId) {
        assert!(!self.node_runs(node), "a disk is changed between two boots");
        self.note(|| format!("node {node}'s disks are new and empty"));
        for shard in self.shards_of(node) {
            let seed = self.rng.random();
            let options = self.layout.disk_of(node);
            self.host_mut(shard)
                .change_disk(SimDisk::with_options(seed, options));
            self.consensus.is_another(shard);
            self.mark_lossy(shard);
        }
        self.images.retain(|shard, _| shard.node != node);
        self.went_back.retain(|(shard, _)| shard.node != node);
    }

    /// A disk does nothing more until it is thawed.
    pub fn freeze_disk(&mut self, shard: PeerId, frozen: bool) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        host.disk_frozen = frozen;
        if !frozen {
            // What was due meanwhile happens from now on.
            host.disk_at = None;
            let due = host.disk.next_due_us();
            if let Some(due) = due {
                host.disk_at = Some(due.max(now_us));
                self.queue.push(due.max(now_us), Event::Disk(shard));
            }
        }
    }

    /// A process gets no processor for a while.
    pub fn stall(&mut self, shard: PeerId, for_us: u64) {
        let until = self.now_us + for_us;
        self.note(|| format!("stall {} for {for_us} us", name(shard)));
        let host = self.host_mut(shard);
        host.stalled_until = host.stalled_until.max(until);
    }

    /// A shard's disk takes so long over each write and each flush from here on.
    pub fn slow_disk(&mut self, shard: PeerId, us: u64) {
        self.note(|| format!("slow disk of {}: {us} us", name(shard)));
        self.host_mut(shard).disk.slow_down(us);
    }

    /// A node's disks are as fast again as they were made.
    pub fn hurry_disks(&mut self, node: NodeId) {
        let timing = self.layout.disk_of(node).timing;
        for shard in self.shards_of(node) {
            self.host_mut(shard).disk.set_timing(timing);
        }
        self.note(|| format!("disks of node {node} are not slowed any more"));
    }

    /// A shard's machines take so long over each batch from here on.
    pub fn slow(&mut self, shard: PeerId, batch_us: u64) {
        self.note(|| format!("slow {}: {batch_us} us a batch", name(shard)));
        let cost = Cost {
            batch_us,
            item_us: 0,
        };
        self.host_mut(shard).spent.set_cost(cost);
    }

    /// Does something to the clocks of a node.
    pub(crate) fn turn_clocks(&mut self, node: NodeId, how: impl Fn(&mut Clocks, u64)) {
        let now_us = self.now_us;
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            how(&mut host.clocks, now_us);
            self.note(|| format!("the clocks of {} change", name(shard)));
        }
    }
}
