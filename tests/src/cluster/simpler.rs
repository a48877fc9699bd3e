//! Ways to make what a seed drew simpler: a fault less, a node less, half the clients. Each has a name, and a list of names
//! replays a simpler run.

use std::fmt;
use std::str::FromStr;

use clustor_engine::profile::Profile;
use clustor_wire::ids::{NodeId, PartitionId};

use super::layout::{Layout, PartitionLayout, VISIT_US};
use super::swarm::{Faults, Load, Swarm};
use super::wide;

/// Clients whose like a run keeps, at least.
const CLIENTS_MIN: u64 = 1;
/// Faults last at least this long, in microseconds.
const CHAOS_US_MIN: u64 = 250_000;
/// A disk and a network that are fast, in microseconds.
const FAST_US: (u64, u64) = (20, 60);

/// One way to make a run simpler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simpler {
    /// One of [`WITHOUT`].
    Without(usize),
    /// Half as many clients.
    HalfTheClients,
    /// Faults for half as long.
    HalfTheTime,
    /// A partition less.
    Partition(PartitionId),
    /// A node less.
    Node(NodeId),
    /// Everything that is not drawn with the cluster is drawn in another way, of which there are many.
    Draws(u64),
}

/// A part of what was drawn, and how it is taken out.
type Without = (&'static str, fn(&mut Swarm));

/// What a run can do without.
const WITHOUT: [Without; 53] = [
    ("kill", |s| s.faults.kill = None),
    ("power", |s| s.faults.power = None),
    ("blackout", |s| s.faults.blackout = None),
    ("stop", |s| s.faults.stop = None),
    ("cut", |s| s.faults.cut = None),
    ("reset", |s| s.faults.reset = None),
    ("stall", |s| s.faults.stall = None),
    ("full", |s| s.faults.full = None),
    ("sabotage", |s| s.faults.sabotage = None),
    ("mode", |s| s.faults.mode = None),
    ("retune", |s| s.faults.retune = None),
    ("members", without_members),
    ("moves", |s| s.faults.moves = None),
    ("unlisted", |s| s.layout.unlisted.clear()),
    ("visits", |s| s.layout.visit_us = VISIT_US),
    ("clock", |s| s.faults.clock = None),
    ("clock-again", |s| s.faults.again = None),
    ("sole", |s| s.faults.sole = None),
    ("drift", |s| s.faults.drift_ppm_max = 0),
    ("disk", |s| without_disk_faults(&mut s.faults)),
    ("image", |s| s.faults.image = None),
    ("empty", |s| s.faults.empty = None),
    ("loss", |s| s.network.lost = 0),
    ("repeats", |s| s.network.repeated = 0),
    ("late", |s| s.network.late = 0),
    ("delays", |s| s.network.delay_us = FAST_US),
    ("harm", without_harm),
    ("slow", without_slow),
    ("flap", |s| s.faults.flap = None),
    ("clog", |s| s.faults.clog = None),
    ("strangers", |s| s.faults.intrude = None),
    ("distances", wide::gather),
    ("speeds", without_speeds),
    ("second", |s| s.faults.second = None),
    ("control", |s| s.faults.control = None),
    ("strays", |s| s.load.strays = 0),
    ("recalls", |s| s.load.recalls = 0),
    ("blocking", |s| s.layout.blocking = None),
    ("slow-disks", |s| without_slow_disks(&mut s.layout)),
    ("reads", |s| s.load.reads = 0),
    ("lease-reads", |s| s.load.lease_reads = 0),
    ("local-reads", |s| s.load.local_reads = 0),
    ("keys", |s| s.load.keyed = 0),
    ("timers", |s| s.load.timers = 0),
    ("deferred", |s| s.load.deferred = 0),
    ("payloads", |s| without_payloads(&mut s.load)),
    ("leases", without_leases),
    ("quiet", |s| s.layout.profile.quiet_after_ms = 0),
    ("on-disk", |s| s.layout.on_disk.clear()),
    ("costs", |s| s.layout.costs.clear()),
    ("profiles", |s| s.layout.profiles.clear()),
    ("floors", |s| s.faults.floor = None),
    ("tardy", |s| s.faults.tardy = None),
];

fn without_members(swarm: &mut Swarm) {
    swarm.faults.members = None;
    swarm.faults.moves = None;
    swarm.layout.unlisted.clear();
    for partition in &mut swarm.layout.partitions {
        partition.spares.clear();
    }
    let layout = &mut swarm.layout;
    let newcomers = layout.newcomers();
    layout
        .shards
        .retain(|shard| !newcomers.contains(&shard.node));
}

fn without_leases(swarm: &mut Swarm) {
    swarm.layout.profile.leases = false;
    swarm.load.lease_reads = 0;
}

fn without_disk_faults(faults: &mut Faults) {
    faults.disk = None;
    faults.rot = false;
    without_fragile(faults);
}

fn without_harm(swarm: &mut Swarm) {
    swarm.faults.harm = None;
    swarm.faults.second = None;
    without_fragile(&mut swarm.faults);
    let profile = &mut swarm.layout.profile;
    let shipped = Profile::latency();
    profile.stuck_io_ms = shipped.stuck_io_ms;
    profile.on_authentication_failure = shipped.on_authentication_failure;
}

fn without_slow(swarm: &mut Swarm) {
    swarm.faults.slow = None;
    if swarm.layout.timings.is_empty() {
        swarm.layout.profile.slow_chain_ms = Profile::latency().slow_chain_ms;
    }
}

fn without_speeds(swarm: &mut Swarm) {
    swarm.layout.timings.clear();
    if swarm.faults.slow.is_none() {
        swarm.layout.profile.slow_chain_ms = Profile::latency().slow_chain_ms;
    }
}

/// Where nothing happens to it no disk is apart.
fn without_fragile(faults: &mut Faults) {
    let others = faults.disk.is_none() && faults.harm.is_none();
    if others && faults.image.is_none() && faults.empty.is_none() {
        faults.fragile = None;
    }
}

fn without_slow_disks(layout: &mut Layout) {
    layout.disk.timing.write_us = FAST_US;
    layout.disk.timing.flush_us = FAST_US;
    layout.disk.timing.read_us = FAST_US;
}

fn without_payloads(load: &mut Load) {
    load.payload_bytes_max = load.payload_bytes_max.min(16);
}

impl Simpler {
    /// Everything that may be tried on a run, what takes out most first.
    #[must_use]
    pub fn all(swarm: &Swarm) -> Vec<Self> {
        let mut all: Vec<Self> = (0..WITHOUT.len()).map(Self::Without).collect();
        let partitions = swarm.layout.partitions.iter().rev();
        all.splice(
            0..0,
            partitions.map(|partition| Self::Partition(partition.id)),
        );
        all.extend(swarm.layout.nodes().into_iter().rev().map(Self::Node));
        all.extend([Self::HalfTheClients, Self::HalfTheTime]);
        all
    }

    /// Makes a run simpler. False if it was as simple before, or would not be one any more.
    #[must_use]
    pub fn apply(self, swarm: &mut Swarm) -> bool {
        match self {
            Self::Without(place) => {
                let before = format!("{swarm:?}");
                (WITHOUT[place].1)(swarm);
                before != format!("{swarm:?}")
            }
            Self::HalfTheClients => {
                let fewer = (swarm.load.clients / 2).max(CLIENTS_MIN);
                std::mem::replace(&mut swarm.load.clients, fewer) != fewer
            }
            Self::HalfTheTime => {
                let less = (swarm.chaos_us / 2).max(CHAOS_US_MIN);
                std::mem::replace(&mut swarm.chaos_us, less) != less
            }
            Self::Partition(id) => {
                let partitions = &mut swarm.layout.partitions;
                let before = partitions.len();
                if before > 1 {
                    partitions.retain(|partition| partition.id != id);
                }
                partitions.len() < before
            }
            Self::Node(node) => without_node(swarm, node),
            Self::Draws(_) => true,
        }
    }
}

/// Takes out a node, where every partition keeps a voter, and enough of them where a disk is bad.
fn without_node(swarm: &mut Swarm, node: NodeId) -> bool {
    let faults = &swarm.faults;
    let least = match (faults.fragile, faults.second) {
        (_, Some(_)) => 5,
        (Some(_), None) => 3,
        (None, None) => 1,
    };
    let bad = [faults.fragile, faults.second].contains(&Some(node));
    let is_enough = |partition: &PartitionLayout| {
        let left = partition.voters.iter().filter(|voter| voter.node != node);
        let left = left.count();
        left == partition.voters.len() || left >= least
    };
    let enough = swarm.layout.partitions.iter().all(is_enough);
    let nodes = swarm.layout.nodes();
    if !enough || nodes.len() < 2 || !nodes.contains(&node) || bad {
        return false;
    }
    let layout = &mut swarm.layout;
    layout.shards.retain(|shard| shard.node != node);
    layout.unlisted.remove(&node);
    for partition in &mut layout.partitions {
        partition.voters.retain(|voter| voter.node != node);
        partition.spares.retain(|spare| spare.node != node);
    }
    true
}

impl fmt::Display for Simpler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Without(place) => f.write_str(WITHOUT[*place].0),
            Self::HalfTheClients => f.write_str("half-the-clients"),
            Self::HalfTheTime => f.write_str("half-the-time"),
            Self::Partition(id) => write!(f, "partition-{}", id.get()),
            Self::Node(node) => write!(f, "node-{}", node.get()),
            Self::Draws(which) => write!(f, "draws-{which}"),
        }
    }
}

impl FromStr for Simpler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(place) = WITHOUT.iter().position(|(name, _)| *name == text) {
            return Ok(Self::Without(place));
        }
        let number = |after: &str| after.parse::<u64>().ok();
        let of = match text.rsplit_once('-') {
            Some(("partition", id)) => number(id).map(|id| Self::Partition(PartitionId(id.into()))),
            Some(("node", node)) => number(node).map(|node| Self::Node(NodeId(node))),
            Some(("draws", which)) => number(which).map(Self::Draws),
            _ if text == "half-the-clients" => Some(Self::HalfTheClients),
            _ if text == "half-the-time" => Some(Self::HalfTheTime),
            _ => None,
        };
        of.ok_or_else(|| {
            let names: Vec<_> = WITHOUT.iter().map(|(name, _)| *name).collect();
            format!(
                "`{text}` is none of {}, half-the-clients, half-the-time, partition-ID, node-ID, draws-NUMBER",
                names.join(", ")
            )
        })
    }
}
