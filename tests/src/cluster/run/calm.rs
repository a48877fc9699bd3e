//! The end of a run: without faults, every partition must live.

use std::collections::BTreeMap;

use clustor_engine::partition::Partition;
use clustor_engine::raft::{Change, Timers};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId};

use super::super::check::Violation;
use super::super::deferred::EFFECTS_STAY;
use super::super::host::Host;
use super::super::layout::peer;
use super::super::members;
use super::super::network::NetworkOptions;
use super::probe::{Heard, Probe, Stage};
use super::{ENTRY_US_MAX, LIVENESS_US_MAX, Run};
use crate::disk::Crash;

/// Operations of the last phase: numbers clients don't reach.
const PROBE_OP: u64 = 1 << 40;

impl Run {
    /// No more faults; what is down comes up, what failed is restarted.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.world.calm = true;
        self.world.effects_stay = self.world.effects_stay.min(EFFECTS_STAY);
        self.clients.resting = true;
        self.world.say(|| "no more faults".to_owned());
        self.world.network_mut().set_options(NetworkOptions {
            delay_us: (50, 2_000),
            ..NetworkOptions::CALM
        });
        self.world.network_mut().set_tardy(None);
        self.clear();
        self.make_room();
        self.hurry_disks();
        self.free();
        for node in self.world.layout().nodes() {
            self.world
                .turn_clocks(node, |clocks, now| clocks.run_wild(now, 0));
            // A disk that failed is failed until a restart.
            let failed = self
                .world
                .hosts()
                .filter(|host| host.id.node == node)
                .any(|host| {
                    let core = host.core.as_ref();
                    core.is_some_and(|core| core.log().failure().is_some())
                        || host.disk.is_stuck()
                        || host.disk.has_planted_fault()
                });
            // A partition begins once all its first voters say that they are new, and who came back as an older image of itself
            // says nothing: its operator does what the refusal asks for.
            let keeps_others_waiting = self.world.is_an_old_image(node) && !self.has_begun();
            if failed || keeps_others_waiting {
                self.world.crash(node, Crash::Kill);
            }
            if keeps_others_waiting {
                self.world.empty_disks(node);
            }
            // What was planted while it was down would strike at its start.
            let shards = self.world.layout().shards.clone();
            for shard in shards.into_iter().filter(|shard| shard.node == node) {
                self.world.host_mut(shard).disk.forget_planted_faults();
            }
            let at = self.world.now_us() + 3_000_000;
            self.world.boot_at(node, self.world.now_us() + 1);
            // One that was stopping then is down now.
            self.world.boot_at(node, at);
        }
        self.heal();
    }

    /// What takes so long in usual clusters, in this one: so much longer as its election timeouts are longer.
    fn stretched(&self, us: u64) -> u64 {
        let layout = self.world.layout();
        let profiles = layout.profiles.values().chain([&layout.profile]);
        let most_ms = profiles.map(|profile| profile.election_ms_max).max();
        let usual_ms = u64::from(Timers::LOCAL.election_ms_max);
        us * most_ms.unwrap_or(usual_ms).max(usual_ms) / usual_ms
    }

    /// Every partition serves a write and a read in bounded time, and every replica that may speak gets whole and applies
    /// everything. That takes as long as there is to heal and to apply, over distances and in small batches: so long may none of them
    /// come any further with what was there at half of that time, when all that is to start has, or when all had served. What is
    /// appended after that puts nothing off. All of it together is bounded by how much was there, see [`ENTRY_US_MAX`].
    pub(super) fn must_live(&mut self) -> Result<bool, Violation> {
        let since = self.world.now_us();
        let liveness_us = self.stretched(LIVENESS_US_MAX);
        let mut until = since + liveness_us;
        let mut there: Option<BTreeMap<PartitionId, LogIndex>> = None;
        let mut applied = 0;
        let mut served = false;
        let mut probes: Vec<Probe> = Vec::new();
        for (partition, number) in self.world.layout().partitions.iter().zip(0..) {
            probes.push(Probe::new(
                partition,
                PROBE_OP + number,
                self.world.now_us(),
            ));
        }
        loop {
            let waiting = probes.iter().filter(|p| p.stage != Stage::Done).count();
            if waiting == 0 && self.all_applied() {
                break;
            }
            let is_half_over = there.is_none() && self.world.now_us() > since + liveness_us / 2;
            if is_half_over || (waiting == 0 && !served) {
                served = waiting == 0;
                let ends = self.ends();
                applied = self.applied_of(&ends);
                there = Some(ends);
            }
            let entries = there.iter().flat_map(BTreeMap::values);
            let entries: u64 = entries.map(|end| end.get()).sum();
            let whole_us = liveness_us + self.stretched(ENTRY_US_MAX) * entries;
            if self.world.now_us() - since > whole_us {
                return Err(Violation::new(
                    "when faults stop, all is applied in bounded time",
                    format!(
                        "{entries} entries may take {whole_us} us: {}",
                        self.state_of(&probes)
                    ),
                ));
            }
            if self.world.now_us() > until {
                let so_far = there.as_ref().map_or(0, |ends| self.applied_of(ends));
                if so_far <= applied {
                    return Err(Violation::new(
                        "when faults stop, every partition serves",
                        format!(
                            "after {} us: {}",
                            self.world.now_us() - since,
                            self.state_of(&probes)
                        ),
                    ));
                }
                applied = so_far;
                until = self.world.now_us() + liveness_us;
            }
            self.find_each_other(since);
            for probe in &mut probes {
                probe.ask(&mut self.world, &mut self.rng);
            }
            // The probes' pace needs an event at least this often.
            let at = self.world.now_us() + 20_000;
            if self.world.next_at_us().is_none_or(|next| next > at) {
                self.world.wake_at(at, u64::MAX);
            }
            let mut replies = Vec::new();
            let goes_on = self.step(|from, reply| {
                if let Some(heard) = Heard::of(from, reply) {
                    replies.push(heard);
                }
            })?;
            for heard in &replies {
                probes
                    .iter_mut()
                    .for_each(|probe| probe.hear(heard, self.world.now_us()));
            }
            if !goes_on {
                return Ok(false);
            }
        }
        self.look_at_members();
        self.drain()?;
        // On a slow disk tries of the probes still wait behind each other.
        let until = self.world.now_us() + liveness_us;
        while self.world.is_settled().is_err() && self.world.now_us() < until {
            if !self.step(|_, _| {})? {
                break;
            }
        }
        self.world.settle()?;
        Ok(true)
    }

    /// Clients ask no more, and whoever still waits is answered.
    pub(super) fn drain(&mut self) -> Result<(), Violation> {
        self.clients.silent = true;
        let until = self.world.now_us() + 1_000_000;
        while self.world.now_us() < until && self.step(|_, _| {})? {}
        Ok(())
    }

    /// The last entry that any replica has, by partition.
    fn ends(&self) -> BTreeMap<PartitionId, LogIndex> {
        let partitions = self.world.layout().partitions.iter();
        let end = |id| {
            let replicas = self.world.hosts().filter_map(|host| host.partition(id));
            replicas.map(|found| found.glance().last_index).max()
        };
        partitions
            .map(|partition| (partition.id, end(partition.id).unwrap_or_default()))
            .collect()
    }

    /// How many entries up to `ends` all replicas together have applied.
    fn applied_of(&self, ends: &BTreeMap<PartitionId, LogIndex>) -> u64 {
        let of = |host: &Host| -> u64 {
            let found = ends.iter().filter_map(|(id, end)| {
                let applied = host.partition(*id)?.applied();
                Some(applied.min(*end).get())
            });
            found.sum()
        };
        self.world.hosts().map(of).sum()
    }

    /// Whether every replica has applied everything that is committed and holds all of it. Only where a disk lost something may
    /// one stay out for good: quarantined, on an older image of its disk, or on another disk than the one that the leader's
    /// configuration names, which wants an operator.
    fn all_applied(&self) -> bool {
        self.world.layout().partitions.iter().all(|partition| {
            let committed = self.world.consensus().committed(partition.id);
            let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
                return false;
            };
            let leads = self.world.host(leader);
            let leads = leads.and_then(|host| host.partition(partition.id));
            let over = leads.is_some_and(|found| found.change() == Change::None);
            // No node has this number: everybody is another one.
            // Nobody sets timers any more.
            let guest = self.world.layout().guest.is_some();
            let expired = guest || leads.is_some_and(|found| found.timers().is_empty());
            over && expired
                && configuration.members(peer(u64::MAX, 0)).all(|voter| {
                    let host = self.world.host(voter);
                    let named = configuration.incarnation_of(voter);
                    let stays_out = host.is_some_and(|host| {
                        let is_new = host.is_other_than(partition.id, named);
                        (host.is_silenced() && self.world.may_silence(voter))
                            || (is_new && self.world.is_lossy(voter))
                    });
                    stays_out
                        || host
                            .and_then(|host| host.partition(partition.id))
                            .is_some_and(|found| {
                                self.has_applied(voter, found, committed)
                                    && found.machine().is_some()
                                    && self.misses_nothing_needed(voter, partition.id)
                            })
                })
        })
    }

    /// Whether a replica has applied everything up to `committed`, or all it can without a snapshot: the next entry is lost here, and
    /// another replica has given it up.
    fn has_applied(&self, at: PeerId, found: &Partition, committed: LogIndex) -> bool {
        let log = self.world.host(at).and_then(|host| host.core.as_ref());
        let log = log.and_then(|core| core.log().partition(found.glance().partition));
        found.applied() >= committed
            || log.is_some_and(|log| log.is_missing(found.applied().next()))
    }

    /// Whether a replica holds all entries, but for what another one has given up: every machine has that.
    fn misses_nothing_needed(&self, at: PeerId, partition: PartitionId) -> bool {
        let log_of = |host: &Host| Some(host.core.as_ref()?.log().partition(partition)?.clone());
        let logs = self.world.hosts().filter_map(log_of);
        let given_up = logs.map(|log| log.base).max();
        let own = self.world.host(at).and_then(log_of);
        let missing = own.into_iter().flat_map(|log| log.missing);
        missing.map(|range| range.last).max() <= given_up
    }

    fn state_of(&self, probes: &[Probe]) -> String {
        let mut text = String::new();
        for probe in probes {
            text.push_str(&format!(
                "p{} {:?}: ",
                probe.partition.id.get(),
                probe.stage
            ));
            for voter in &probe.replicas {
                let host = self.world.host(*voter);
                match host.and_then(|host| host.partition(probe.partition.id)) {
                    Some(found) => text.push_str(&format!(
                        "{voter:?} {:?} timers {:?} {:?} {:?}; ",
                        found.status(),
                        found.timers().next_due(),
                        found.configuration(),
                        found.change()
                    )),
                    None => text.push_str(&format!("{voter:?} is down; ")),
                }
            }
        }
        text
    }
}
