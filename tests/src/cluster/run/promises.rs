//! Faults that strike while a promise is due: a voter's clock goes wrong, and again before its silence is over; a partition shrinks to
//! one voter, which restarts while a lease of who led before may last.

use clustor_engine::raft::configuration::Standing;
use clustor_engine::raft::{Change, Configuration, MemberChange};
use clustor_engine::request::{MembersRequest, RequestBody};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::super::host::Host;
use super::super::layout::PartitionLayout;
use super::super::marks::{CLOCK_AGAIN, SOLE_RESTARTED};
use super::super::members;
use super::Run;
use super::faults::{Fault, token_of};
use crate::disk::Crash;

/// From the first fault of a clock to the second, in microseconds: within the least election timeout.
const AGAIN_US: [(u64, u64); 4] = [
    (500, 5_000),
    (500, 5_000),
    (5_000, 40_000),
    (40_000, 140_000),
];
/// How far a clock jumps, as powers of two of a microsecond: about as long as a silence, up to seconds.
const JUMP_BITS: (u32, u32) = (17, 22);
/// How much faster a clock runs that runs wild, in parts per million.
const WILD_PPM: (i64, i64) = (500_000, 9_000_000);
/// Between two looks at whether a voter is the only one, in microseconds, and how many of them there are at most.
const LOOK_US: u64 = 250;
const LOOKS_MAX: u32 = 4_000;

/// Which faults follow the one that has struck.
#[derive(Debug)]
pub(super) struct Promises {
    rng: Xoshiro256PlusPlus,
    clocks: Option<ClockPlan>,
    sole: Option<SolePlan>,
}

/// The clocks of some voters go wrong, twice.
#[derive(Debug, Clone)]
struct ClockPlan {
    leader: NodeId,
    struck: Vec<NodeId>,
    /// When they went wrong first; `None` if they have not yet.
    first_us: Option<u64>,
    /// Whether they went wrong again.
    twice: bool,
    /// Whether the leader is cut off from them with the first fault, or with the second.
    cut_at_first: bool,
    cut_at_second: bool,
}

/// A partition is to have one voter, which is killed as soon as it is.
#[derive(Debug, Clone, Copy)]
struct SolePlan {
    partition: PartitionId,
    leader: PeerId,
    sole: PeerId,
    /// Whether who leads acts on it later than the one that is left.
    slows: bool,
    looks: u32,
    killed: bool,
    restarted: bool,
}

impl Promises {
    pub fn new(rng: Xoshiro256PlusPlus) -> Self {
        Self {
            rng,
            clocks: None,
            sole: None,
        }
    }

    pub fn rng(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.rng
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.rng.random_range(least..=most)
    }
}

impl Run {
    fn wake_in(&mut self, us: u64, fault: Fault) {
        let at = self.world.now_us() + us;
        self.world.wake_at(at, token_of(fault));
    }

    /// A partition of the layout, drawn, with who leads it.
    fn led_partition(&mut self) -> Option<(PartitionLayout, PeerId, Configuration)> {
        let partitions = &self.world.layout().partitions;
        let which = self.promises.rng.random_range(0..partitions.len());
        let partition = partitions[which].clone();
        let (leader, configuration) = members::leader(&self.world, partition.id)?;
        let configuration = configuration.clone();
        Some((partition, leader, configuration))
    }

    fn part(&mut self, a: NodeId, b: NodeId) {
        self.world.network_mut().cut(a, b);
        self.world.network_mut().cut(b, a);
    }

    /// The clocks of so many voters will go wrong that a leader's lease stands by theirs. The others hear nothing of it first, so
    /// that they want to be elected.
    pub(super) fn strike_clocks(&mut self) {
        if self.promises.clocks.is_some() {
            return;
        }
        let Some((_, leader, configuration)) = self.led_partition() else {
            return;
        };
        let voters = configuration.first().iter().map(|voter| voter.node);
        let mut struck: Vec<NodeId> = voters.filter(|node| *node != leader.node).collect();
        if struck.len() < 2 || configuration.is_joint() {
            return;
        }
        let rng = &mut self.promises.rng;
        let count = rng.random_range(struck.len().div_ceil(2)..=struck.len());
        while struck.len() > count {
            let node = struck.remove(self.promises.rng.random_range(0..struck.len()));
            self.part(leader.node, node);
        }
        let all = count == configuration.first().len() - 1;
        let rng = &mut self.promises.rng;
        let wait_us = rng.random_range(if all { 1..=20_000 } else { 150_000..=500_000 });
        let cut_at_first = rng.random_bool(0.3);
        self.promises.clocks = Some(ClockPlan {
            leader: leader.node,
            struck,
            first_us: None,
            twice: false,
            cut_at_first,
            cut_at_second: self.promises.rng.random_bool(0.9),
        });
        self.wake_in(wait_us, Fault::Next);
    }

    /// What was planned for clocks goes on.
    pub(super) fn strike_next(&mut self) {
        let Some(mut plan) = self.promises.clocks.take() else {
            return;
        };
        let Some(first_us) = plan.first_us else {
            self.part_if(plan.cut_at_first, &plan);
            self.spoil_clocks(&plan.struck);
            plan.first_us = Some(self.world.now_us());
            let which = self.promises.rng.random_range(0..AGAIN_US.len());
            let us = self.promises.between(AGAIN_US[which]);
            self.promises.clocks = Some(plan);
            return self.wake_in(us, Fault::Next);
        };
        if !plan.twice {
            self.part_if(plan.cut_at_second, &plan);
            for node in &plan.struck {
                let has_seen = |host: &Host| host.runs() && host.last_turn_us > first_us;
                let mut hosts = self.world.hosts().filter(|host| host.id.node == *node);
                // It has seen the first, and by no even clock its silence is over.
                let is_silent = hosts.any(has_seen);
                drop(hosts);
                if is_silent {
                    self.world.marks.reach(CLOCK_AGAIN);
                }
            }
            self.spoil_clocks(&plan.struck);
            plan.twice = true;
            self.promises.clocks = Some(plan);
            let us = self.promises.between((20_000, 250_000));
            return self.wake_in(us, Fault::Next);
        }
        self.even_clocks(&plan.struck);
        self.heal();
        // An alarm lasts for longer than most runs: who restarts has none.
        for node in plan.struck {
            if self.promises.rng.random_bool(0.8) && self.world.node_runs(node) {
                self.restart(node);
            }
        }
    }

    fn part_if(&mut self, parts: bool, plan: &ClockPlan) {
        for node in plan.struck.iter().filter(|_| parts) {
            self.part(plan.leader, *node);
        }
    }

    /// Each of these clocks jumps, or runs wild.
    fn spoil_clocks(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            let rng = &mut self.promises.rng;
            if rng.random_bool(0.3) {
                let ppm = rng.random_range(WILD_PPM.0..=WILD_PPM.1);
                self.world
                    .turn_clocks(*node, |clocks, now| clocks.run_wild(now, ppm));
            } else {
                let by_us = 1 << rng.random_range(JUMP_BITS.0..=JUMP_BITS.1);
                self.world
                    .turn_clocks(*node, |clocks, now| clocks.jump(now, by_us));
            }
        }
    }

    fn even_clocks(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.world
                .turn_clocks(*node, |clocks, now| clocks.run_wild(now, 0));
        }
    }

    /// A node is killed and starts again at once.
    fn restart(&mut self, node: NodeId) -> u64 {
        self.world.crash(node, Crash::Kill);
        let us = self.promises.between((200, 5_000));
        let at = self.world.now_us() + us;
        self.world.boot_at(node, at);
        us
    }

    /// A partition shrinks to one voter, or grows again.
    pub(super) fn leave_one(&mut self) {
        if self.promises.sole.is_some() {
            return;
        }
        let Some((partition, leader, configuration)) = self.led_partition() else {
            return;
        };
        let voters = configuration.first();
        if configuration.is_joint() {
            return;
        }
        if voters.len() == 1 || (voters.len() == 2 && self.promises.rng.random_bool(0.6)) {
            return self.grow(&partition, leader, &configuration);
        }
        let others: Vec<PeerId> = voters.iter().copied().filter(|v| *v != leader).collect();
        let rng = &mut self.promises.rng;
        let sole = if rng.random_bool(0.9) {
            others[rng.random_range(0..others.len())]
        } else {
            leader
        };
        let remove = voters.iter().copied().filter(|v| *v != sole).collect();
        let slows = rng.random_bool(0.9);
        let add = Vec::new();
        self.ask_members(leader, partition.id, MemberChange::Voters { add, remove });
        self.promises.sole = Some(SolePlan {
            partition: partition.id,
            leader,
            sole,
            slows,
            looks: 0,
            killed: false,
            restarted: false,
        });
        self.wake_in(LOOK_US, Fault::Watch);
    }

    fn ask_members(&mut self, leader: PeerId, partition: PartitionId, change: MemberChange) {
        let body = RequestBody::Members(MembersRequest::Change(change));
        self.world.read(leader, partition, body);
    }

    /// Learners are to vote; where there are none, two are added.
    fn grow(&mut self, partition: &PartitionLayout, leader: PeerId, now: &Configuration) {
        let of = |standing| {
            let replicas = partition.replicas().into_iter();
            let of: Vec<PeerId> = replicas.filter(|r| now.standing(*r) == standing).collect();
            of
        };
        let add = of(Some(Standing::Learner));
        let mut strangers = of(None);
        if !add.is_empty() && (add.len() > 1 || self.promises.rng.random_bool(0.5)) {
            let remove = Vec::new();
            return self.ask_members(leader, partition.id, MemberChange::Voters { add, remove });
        }
        for _ in 0..2 {
            if strangers.is_empty() {
                return;
            }
            let which = self.promises.rng.random_range(0..strangers.len());
            let peer = strangers.swap_remove(which);
            let address = if self.world.is_placed(peer.node) {
                String::new()
            } else {
                self.world.address(peer.node)
            };
            let change = MemberChange::AddLearner { peer, address };
            self.ask_members(leader, partition.id, change);
        }
    }

    /// Whether, as a shard has it, this voter is the only one.
    fn is_sole(&self, seen_by: PeerId, partition: PartitionId, voter: PeerId) -> bool {
        let host = self.world.host(seen_by);
        let found = host.and_then(|host| host.partition(partition));
        found.is_some_and(|found| {
            let configuration = found.configuration();
            configuration.first() == [voter] && !configuration.is_joint()
        })
    }

    /// Whether a leader has written that the voters before are to leave, and has not acted on it.
    fn is_leaving(&self, leader: PeerId, partition: PartitionId) -> bool {
        let host = self.world.host(leader);
        let found = host.and_then(|host| host.partition(partition));
        let change = found.map(|found| found.change());
        matches!(change, Some(Change::Joint { exit: Some(_), .. }))
    }

    /// A look at whether the voter is the only one, and what follows when it is.
    pub(super) fn watch_sole(&mut self) {
        let Some(mut plan) = self.promises.sole.take() else {
            return;
        };
        let SolePlan {
            partition,
            leader,
            sole,
            ..
        } = plan;
        if plan.restarted {
            self.hurry_disks();
            return self.heal();
        }
        let us = if plan.killed {
            plan.restarted = true;
            if self.world.holds_lease(leader, partition) {
                self.world.marks.reach(SOLE_RESTARTED);
            }
            self.promises.between((20_000, 300_000))
        } else if self.is_sole(sole, partition, sole) {
            plan.killed = true;
            if self.promises.rng.random_bool(0.8) {
                self.part(leader.node, sole.node);
            }
            self.restart(sole.node)
        } else {
            plan.looks += 1;
            if plan.slows && self.slowed.is_none() && self.is_leaving(leader, partition) {
                let us = self.promises.between((20_000, 100_000));
                self.world.slow_disk(leader, us);
                self.slowed = Some(leader.node);
            }
            if plan.looks > LOOKS_MAX {
                return self.hurry_disks();
            }
            LOOK_US
        };
        self.promises.sole = Some(plan);
        self.wake_in(us, Fault::Watch);
    }
}
