//! The faults of a run: when each strikes, and how.

use clustor_engine::request::RequestBody;
use clustor_shards::log::Mode;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};
use rand::Rng;

use super::super::check::Violation;
use super::super::control::SAYINGS;
use super::super::machine::SABOTAGES;
use super::super::marks::named;
use super::super::members;
use super::super::swarm::{Every, draw_news};
use super::Run;
use crate::disk::Crash;

/// Wake tokens from here on are the run's own; below are clients'.
pub(super) const FAULT_TOKEN: u64 = 1 << 62;

/// The faults, as wake tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Power,
    Blackout,
    Stop,
    Cut,
    Reset,
    Stall,
    Full,
    Sabotage,
    Disk,
    Mode,
    Heal,
    Room,
    Retune,
    Members,
    Clock,
    Image,
    Empty,
    Move,
    Harm,
    Slow,
    Hurry,
    Flap,
    Flip,
    Control,
    Free,
    Clog,
    Clear,
    Intrude,
    Again,
    Next,
    Sole,
    Watch,
    Alone,
    Floor,
}

pub(super) const FAULTS: [Fault; 35] = [
    Fault::Kill,
    Fault::Power,
    Fault::Blackout,
    Fault::Stop,
    Fault::Cut,
    Fault::Reset,
    Fault::Stall,
    Fault::Full,
    Fault::Sabotage,
    Fault::Disk,
    Fault::Mode,
    Fault::Heal,
    Fault::Room,
    Fault::Retune,
    Fault::Members,
    Fault::Clock,
    Fault::Image,
    Fault::Empty,
    Fault::Move,
    Fault::Harm,
    Fault::Slow,
    Fault::Hurry,
    Fault::Flap,
    Fault::Flip,
    Fault::Control,
    Fault::Free,
    Fault::Clog,
    Fault::Clear,
    Fault::Intrude,
    Fault::Again,
    Fault::Next,
    Fault::Sole,
    Fault::Watch,
    Fault::Alone,
    Fault::Floor,
];

/// A node that went back starts so often before anybody can tell it, at most.
const LONE_STARTS_MAX: u32 = 3;

/// A link that goes down and up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flapping {
    link: (NodeId, NodeId),
    /// In both directions.
    both: bool,
    /// Sessions end with it, and begin anew.
    resets: bool,
    pause_us_max: u64,
    down: bool,
    /// Turns that are left.
    left: u32,
}

named!(MARKS, mark, Fault, "fault":
    Kill Power Blackout Stop Cut Reset Stall Full Sabotage Disk Mode Heal Room Retune Members Clock Image Empty Move
    Harm Slow Hurry Flap Flip Control Free Clog Clear Intrude Again Next Sole Watch Alone
    Floor);

/// The marks of faults that struck.
pub(in crate::cluster) fn fault_marks() -> impl Iterator<Item = &'static str> {
    MARKS.iter().copied()
}

pub(super) fn token_of(fault: Fault) -> u64 {
    let place = FAULTS.iter().position(|known| *known == fault).unwrap_or(0);
    FAULT_TOKEN | place as u64
}

impl Run {
    pub(super) fn every(&self, fault: Fault) -> Every {
        let faults = &self.faults;
        match fault {
            Fault::Kill => faults.kill,
            Fault::Power => faults.power,
            Fault::Blackout => faults.blackout,
            Fault::Stop => faults.stop,
            Fault::Cut => faults.cut,
            Fault::Reset => faults.reset,
            Fault::Stall => faults.stall,
            Fault::Full => faults.full,
            Fault::Sabotage => faults.sabotage,
            Fault::Disk => faults.fragile.and(faults.disk),
            Fault::Retune => faults.retune,
            Fault::Mode => faults.mode,
            Fault::Members => faults.members,
            Fault::Clock => faults.clock,
            Fault::Image => faults.image,
            Fault::Empty => faults.empty,
            Fault::Move => faults.moves,
            Fault::Harm => faults.harm.map(|(_, every)| every),
            Fault::Slow => faults.slow,
            Fault::Flap => faults.flap,
            Fault::Control => faults.control,
            Fault::Clog => faults.clog,
            Fault::Intrude => faults.intrude,
            Fault::Again => faults.again,
            Fault::Sole => faults.sole,
            Fault::Floor => faults.floor,
            Fault::Heal
            | Fault::Room
            | Fault::Hurry
            | Fault::Flip
            | Fault::Free
            | Fault::Clear
            | Fault::Next
            | Fault::Watch
            | Fault::Alone => None,
        }
    }

    /// Files the next fault of a kind.
    pub(super) fn file(&mut self, fault: Fault) {
        if let Some(every) = self.every(fault) {
            let rng = match fault {
                Fault::Harm
                | Fault::Slow
                | Fault::Flap
                | Fault::Control
                | Fault::Clog
                | Fault::Intrude => &mut self.more,
                Fault::Again | Fault::Sole => self.promises.rng(),
                Fault::Floor => &mut self.floors,
                _ => &mut self.rng,
            };
            let at = self.world.now_us() + rng.random_range(1..=2 * every);
            self.world.wake_at(at, token_of(fault));
        }
    }

    fn any_node(&mut self) -> NodeId {
        let nodes = self.world.layout().nodes();
        nodes[self.rng.random_range(0..nodes.len())]
    }

    fn any_shard(&mut self) -> PeerId {
        let shards = &self.world.layout().shards;
        shards[self.rng.random_range(0..shards.len())]
    }

    pub(super) fn start_later(&mut self, node: NodeId) {
        let at = self.world.now_us() + self.rng.random_range(1_000..=self.faults.down_us_max);
        self.world.boot_at(node, at);
    }

    pub(super) fn injure(&mut self, token: u64) -> Result<(), Violation> {
        let place = usize::try_from(token - FAULT_TOKEN).unwrap_or(usize::MAX);
        let Some(fault) = FAULTS.get(place).copied().filter(|_| !self.calm) else {
            return Ok(());
        };
        self.world.marks.reach(mark(&fault));
        self.world.mark_clauses();
        match fault {
            Fault::Kill => self.end_one(Crash::Kill),
            Fault::Power => self.end_one(Crash::Power),
            Fault::Blackout => {
                self.world.prove_all()?;
                for node in self.world.layout().nodes() {
                    self.world.crash(node, Crash::Power);
                    self.start_later(node);
                }
            }
            Fault::Stop => {
                let node = self.any_node();
                self.world.stop(node);
            }
            Fault::Cut => self.cut(),
            Fault::Heal => self.heal(),
            Fault::Reset => {
                let (a, b) = (self.any_shard(), self.any_shard());
                if a.node != b.node {
                    self.world.reset_session(a, b);
                }
            }
            Fault::Stall => {
                let shard = self.any_shard();
                let for_us = self.rng.random_range(1_000..=self.faults.stall_us_max);
                self.world.stall(shard, for_us);
            }
            Fault::Full => {
                let shard = self.any_shard();
                self.world.say(|| format!("the disk of {shard:?} is full"));
                let percent = self.rng.random_range(70..100);
                let disk = &mut self.world.host_mut(shard).disk;
                disk.set_full(true);
                disk.set_used_percent(percent);
                let at = self.world.now_us() + self.rng.random_range(10_000..1_000_000);
                self.world.wake_at(at, token_of(Fault::Room));
            }
            Fault::Room => self.make_room(),
            Fault::Sabotage => {
                let shard = self.any_shard();
                let order = self.world.host_mut(shard).sabotage.clone();
                let how = self.rng.random_range(1..=SABOTAGES);
                order.store(how, std::sync::atomic::Ordering::Relaxed);
                self.world
                    .say(|| format!("a machine of {shard:?} will fail: {how}"));
            }
            Fault::Disk => self.fail_disk(),
            Fault::Retune => self.retune(),
            Fault::Mode => self.change_mode(),
            Fault::Members => self.change_members(),
            Fault::Clock => self.turn_clock(),
            Fault::Image => self.go_back()?,
            Fault::Empty => self.empty_disk(),
            Fault::Move => self.go_elsewhere(),
            Fault::Harm => self.harm_disk(),
            Fault::Slow => self.slow_disks(),
            Fault::Hurry => self.hurry_disks(),
            Fault::Flap => self.flap(),
            Fault::Flip => self.flip(),
            Fault::Control => self.take_control(),
            Fault::Free => self.free(),
            Fault::Clog => self.clog(),
            Fault::Clear => self.clear(),
            Fault::Intrude => self.intrude(),
            Fault::Again => self.strike_clocks(),
            Fault::Next => self.strike_next(),
            Fault::Sole => self.leave_one(),
            Fault::Watch => self.watch_sole(),
            Fault::Alone => self.restart_alone(),
            Fault::Floor => self.give_up_beginnings()?,
        }
        self.file(fault);
        Ok(())
    }

    /// The fragile node comes back with an empty disk, once.
    fn empty_disk(&mut self) {
        // Only a voter that was one can be replaced.
        let early = self.faults.replaces && !self.has_begun();
        let fragile = self.faults.fragile.filter(|_| !early);
        if let Some(node) = fragile.filter(|n| !self.world.is_damaged(*n)) {
            self.world.crash(node, Crash::Power);
            self.world.empty_disks(node);
            self.start_later(node);
        }
    }

    /// Keeps an image of the fragile node's disks, or puts it back once everybody knows that the node came further.
    pub(super) fn go_back(&mut self) -> Result<(), Violation> {
        let Some(node) = self
            .faults
            .fragile
            .filter(|node| !self.world.is_damaged(*node))
        else {
            return Ok(());
        };
        if !self.world.has_image(node) {
            self.world.take_image(node);
        } else if self.world.is_way_back_long(node)? {
            self.world.crash(node, Crash::Power);
            self.world.go_back(node)?;
            self.start_later(node);
            self.faults.image = None;
            if self.more.random_bool(0.5) {
                self.cut_one_off(node, true);
                self.alone = Some((node, self.more.random_range(1..=LONE_STARTS_MAX)));
                self.file_alone();
            }
        }
        Ok(())
    }

    /// Nobody hears a node, and it hears nobody; or that is over.
    fn cut_one_off(&mut self, node: NodeId, is_off: bool) {
        let nodes = self.world.layout().nodes();
        let network = self.world.network_mut();
        for other in nodes.into_iter().filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if is_off {
                    network.cut(from, to);
                } else {
                    network.heal_one(from, to);
                }
            }
        }
        self.world
            .say(|| format!("node {node} is cut off: {is_off}"));
    }

    fn file_alone(&mut self) {
        let at = self.world.now_us() + self.more.random_range(50_000..=1_000_000);
        self.world.wake_at(at, token_of(Fault::Alone));
    }

    /// The node that went back starts once more before anybody can tell it, or may be told.
    fn restart_alone(&mut self) {
        let Some((node, left)) = self.alone.take() else {
            return;
        };
        if left == 0 {
            self.cut_one_off(node, false);
            for shard in self.world.layout().shards.clone() {
                self.world.connect_all(shard);
            }
            return;
        }
        if self.world.node_runs(node) {
            self.world.crash(node, Crash::Kill);
            self.start_later(node);
        }
        self.alone = Some((node, left - 1));
        self.file_alone();
    }

    /// A clock jumps ahead or runs wild, or the wall clock is set: more than leases allow for, and to be noticed.
    fn turn_clock(&mut self) {
        let node = self.any_node();
        match self.rng.random_range(0..4) {
            0 => {
                let by_us = 1 << self.rng.random_range(10..=22);
                self.world
                    .turn_clocks(node, |clocks, now| clocks.jump(now, by_us));
            }
            1 => {
                let by_us = self.rng.random_range(-1_000_000..=1_000_000);
                self.world
                    .turn_clocks(node, |clocks, now| clocks.set_wall(now, by_us));
            }
            _ => {
                let ppm = match self.rng.random_range(0..3) {
                    0 => 0,
                    1 => self.rng.random_range(-600_000..=-70_000),
                    _ => self.rng.random_range(70_000..=1_500_000),
                };
                self.world
                    .turn_clocks(node, |clocks, now| clocks.run_wild(now, ppm));
            }
        }
    }

    /// A shard is told of another profile, or that one was refused.
    fn retune(&mut self) {
        let shard = self.any_shard();
        let news = draw_news(&mut self.rng, self.world.layout());
        let body = RequestBody::Profile(news);
        self.world.read(shard, PartitionId::default(), body);
    }

    /// Asks every replica of a partition for a mode: the leader, if there is one, takes it.
    fn change_mode(&mut self) {
        let partitions = &self.world.layout().partitions;
        let partition = partitions[self.rng.random_range(0..partitions.len())].clone();
        let mode = if self.rng.random_bool(0.5) {
            Mode::Strict
        } else {
            Mode::Group
        };
        for to in partition.replicas() {
            self.world.ask_mode(to, partition.id, mode);
        }
    }

    /// Whoever leads a partition is asked to change its members.
    fn change_members(&mut self) {
        let partitions = &self.world.layout().partitions;
        let partition = partitions[self.rng.random_range(0..partitions.len())].clone();
        let fragile = self.faults.fragile;
        let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
            return;
        };
        let asked = members::draw(
            &mut self.rng,
            &self.world,
            &partition,
            configuration,
            fragile,
            self.faults.replaces,
        );
        self.moves
            .look(partition.id, configuration, self.world.layout());
        if let Some(asked) = asked {
            self.world
                .read(leader, partition.id, RequestBody::Members(asked));
        }
    }

    fn end_one(&mut self, crash: Crash) {
        let node = self.any_node();
        if self.world.node_runs(node) {
            self.world.crash(node, crash);
            self.start_later(node);
        }
    }

    /// Cuts a random set of nodes off from the others, in one direction or both.
    pub(super) fn cut(&mut self) {
        let nodes = self.world.layout().nodes();
        let apart: Vec<bool> = nodes.iter().map(|_| self.rng.random_bool(0.5)).collect();
        let both = self.rng.random_bool(0.7);
        for (a, a_apart) in nodes.iter().zip(&apart) {
            for (b, b_apart) in nodes.iter().zip(&apart) {
                if *a_apart && !*b_apart {
                    self.world.network_mut().cut(*a, *b);
                    if both {
                        self.world.network_mut().cut(*b, *a);
                    }
                }
            }
        }
        self.world
            .say(|| format!("cut {apart:?} off, both ways: {both}"));
        let at = self.world.now_us() + self.rng.random_range(10_000..=self.faults.cut_us_max);
        self.world.wake_at(at, token_of(Fault::Heal));
    }

    /// The control plane of some shard forbids something for a while.
    fn take_control(&mut self) {
        let shards = &self.world.layout().shards;
        let shard = shards[self.more.random_range(0..shards.len())];
        let what = self.more.random_range(1..SAYINGS);
        self.world.host_mut(shard).control.say(what);
        self.world
            .say(|| format!("the control plane of {shard:?} says {what}"));
        let at = self.world.now_us() + self.more.random_range(10_000..=1_000_000);
        self.world.wake_at(at, token_of(Fault::Free));
    }

    /// It says that all is well.
    pub(super) fn free(&mut self) {
        for shard in self.world.layout().shards.clone() {
            self.world.host_mut(shard).control.say(0);
        }
    }

    /// A link begins to go down and up.
    fn flap(&mut self) {
        let nodes = self.world.layout().nodes();
        if self.flapping.is_some() || nodes.len() < 2 {
            return;
        }
        let a = self.more.random_range(0..nodes.len());
        let b = (a + self.more.random_range(1..nodes.len())) % nodes.len();
        self.flapping = Some(Flapping {
            link: (nodes[a], nodes[b]),
            both: self.more.random_bool(0.5),
            resets: self.more.random_bool(0.5),
            pause_us_max: [10_000, 60_000, 300_000][self.more.random_range(0..3)],
            down: false,
            left: self.more.random_range(4..=60),
        });
        self.flip();
    }

    /// It goes down, or up.
    fn flip(&mut self) {
        let Some(mut flapping) = self.flapping.take() else {
            return;
        };
        let (a, b) = flapping.link;
        flapping.down = !flapping.down;
        flapping.left = flapping.left.saturating_sub(1);
        let (down, both) = (flapping.down, flapping.both);
        self.world
            .say(|| format!("the link of {a} with {b}: down {down}, both ways {both}"));
        self.world
            .turn_link(flapping.link, both, down, flapping.resets);
        // The last time it comes up.
        if flapping.left > 0 || down {
            let at = self.world.now_us() + self.more.random_range(1_000..=flapping.pause_us_max);
            self.world.wake_at(at, token_of(Fault::Flip));
            self.flapping = Some(flapping);
        }
    }

    /// The way out of who leads a partition brings nothing for a little longer than a slow path takes, and then everything at
    /// once, for some seconds. Many who follow hear of their leader in time all the same.
    fn clog(&mut self) {
        let partitions = &self.world.layout().partitions;
        let id = partitions[self.more.random_range(0..partitions.len())].id;
        let Some((leader, _)) = members::leader(&self.world, id) else {
            return;
        };
        let node = leader.node;
        let profile = self.world.layout().profile_of(node);
        let slow_ms = profile.heartbeat_ms + profile.high_rtt_ms;
        let more_ms = profile.election_ms_max.saturating_sub(slow_ms);
        let every_us = (slow_ms + self.more.random_range(1..=more_ms.max(3) / 3)) * 1_000;
        self.world
            .say(|| format!("what leaves {node} arrives every {every_us} us"));
        self.world.network_mut().clog(Some((node, every_us)));
        let at = self.world.now_us() + self.more.random_range(1_000_000..=5_000_000);
        self.world.wake_at(at, token_of(Fault::Clear));
    }

    /// A stranger asks some shard for what is an operator's.
    fn intrude(&mut self) {
        let layout = self.world.layout();
        let shard = layout.shards[self.more.random_range(0..layout.shards.len())];
        let partition = layout.partitions[self.more.random_range(0..layout.partitions.len())].id;
        self.world.intrude(shard, partition, &mut self.more);
    }

    /// All ways are free.
    pub(super) fn clear(&mut self) {
        self.world.network_mut().clog(None);
    }

    pub(super) fn heal(&mut self) {
        self.world.network_mut().heal();
        self.world.say(|| "cuts are healed".to_owned());
        for shard in self.world.layout().shards.clone() {
            self.world.connect_all(shard);
        }
    }

    pub(super) fn make_room(&mut self) {
        for shard in self.world.layout().shards.clone() {
            let disk = &mut self.world.host_mut(shard).disk;
            disk.set_full(false);
            disk.set_used_percent(60);
        }
        self.world.say(|| "disks have room".to_owned());
    }
}
