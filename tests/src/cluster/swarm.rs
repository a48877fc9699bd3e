//! What a seed draws: the cluster, its load, and which faults are on and how strong.
//!
//! Most faults are off on most seeds (swarm testing, Groce et al., ISSTA 2012): a run in which everything fails
//! at once never gets far enough to show what one fault alone would.

use std::collections::{BTreeMap, BTreeSet};

use clustor_engine::profile::{Profile, ProfileNews};
use clustor_shards::disk::FlushKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::deferred::EFFECTS_STAY;
use super::layout::{Layout, PartitionLayout, VISIT_US, peer, small};
use super::machine::Cost;
use super::more::{self, Harm, Shape};
use super::network::NetworkOptions;
use super::tardy::Keeping;
use super::wide;
use crate::disk::{SimDiskOptions, Timing};

/// Nodes of a cluster, at most.
const NODES_MAX: u64 = 7;

/// How often something is done, on average, in microseconds; `None` for never.
pub type Every = Option<u64>;

/// The faults of a run.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// A process is killed.
    pub kill: Every,
    /// A node loses power.
    pub power: Every,
    /// Every node loses power at once.
    pub blackout: Every,
    /// A node is stopped in order.
    pub stop: Every,
    /// A node that is down is started again after at most this long.
    pub down_us_max: u64,
    /// Nodes are cut off from each other.
    pub cut: Every,
    /// A cut lasts at most this long.
    pub cut_us_max: u64,
    /// A session ends.
    pub reset: Every,
    /// A process gets no processor.
    pub stall: Every,
    /// For at most this long.
    pub stall_us_max: u64,
    /// A disk is full for a while.
    pub full: Every,
    /// A machine fails.
    pub sabotage: Every,
    /// A partition is asked for another durability mode.
    pub mode: Every,
    /// A flush or a write fails on the node whose disk may fail.
    pub disk: Every,
    /// A shard is told of another profile.
    pub retune: Every,
    /// A partition's members are changed, or its leader.
    pub members: Every,
    /// They are changed only so that the node whose disk was replaced votes again.
    pub replaces: bool,
    /// A node moves to another address; one at a time.
    pub moves: Every,
    /// A clock jumps, is set, or runs wild for a while.
    pub clock: Every,
    /// The clocks of voters on which a lease stands go wrong, and again within the silence that they keep for it.
    pub again: Every,
    /// A partition shrinks to one voter, which restarts at once, or grows again.
    pub sole: Every,
    /// Clocks drift by at most this many parts per million, and nobody can see it.
    pub drift_ppm_max: i64,
    /// An image is taken of the disks of the node that may fail; once in a run it comes back.
    pub image: Every,
    /// The node that may fail comes back with an empty disk, once.
    pub empty: Every,
    /// The node whose disk may fail.
    pub fragile: Option<NodeId>,
    /// It does not fail but rot, once: a block that was at rest when the node ended.
    pub rot: bool,
    /// Harm that is done to it besides, and how often it is tried; what takes content away happens once.
    pub harm: Option<(Harm, u64)>,
    /// Another node to whose disk the same is done, where two are a minority of every partition's voters.
    pub second: Option<NodeId>,
    /// A disk is slow for a while.
    pub slow: Every,
    /// A write and a flush take at most this long on it then.
    pub slow_io_us_max: u64,
    /// For at most this long.
    pub slow_us_max: u64,
    /// A link goes down and up many times.
    pub flap: Every,
    /// The way out of a node is slow for a while.
    pub clog: Every,
    /// A client that is no operator asks for what only operators may have.
    pub intrude: Every,
    /// A control plane says for a while that a partition may not do what it would.
    pub control: Every,
    /// A log gives up its beginning.
    pub floor: Every,
    /// Messages are kept for so long that they are of another time when they arrive.
    pub tardy: Option<Keeping>,
}

impl Faults {
    /// None at all.
    pub const NONE: Self = Self {
        kill: None,
        power: None,
        blackout: None,
        stop: None,
        down_us_max: 10_000,
        cut: None,
        cut_us_max: 10_000,
        reset: None,
        stall: None,
        stall_us_max: 1_000,
        full: None,
        sabotage: None,
        mode: None,
        disk: None,
        retune: None,
        members: None,
        replaces: false,
        moves: None,
        clock: None,
        again: None,
        sole: None,
        drift_ppm_max: 0,
        image: None,
        empty: None,
        fragile: None,
        rot: false,
        harm: None,
        second: None,
        slow: None,
        slow_io_us_max: 1_000,
        slow_us_max: 1_000,
        flap: None,
        clog: None,
        intrude: None,
        control: None,
        floor: None,
        tardy: None,
    };
}

/// The load of a run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients.
    pub clients: u64,
    /// From an answer to the next operation, in microseconds, at most.
    pub think_us_max: u64,
    /// Of 100 operations, how many are reads.
    pub reads: u32,
    /// Of 100 reads, how many may be answered from a lease.
    pub lease_reads: u32,
    /// Of 100 reads, how many any replica answers.
    pub local_reads: u32,
    /// Of 100 appends, how many have a key.
    pub keyed: u32,
    /// Of 100 appends, how many set or cancel a timer.
    pub timers: u32,
    /// Of 100 appends, how many defer their effects.
    pub deferred: u32,
    /// Of 1,000 handles of such effects, how many a turn leaves alone.
    pub effects_stay: u32,
    /// Bytes of a command, at most.
    pub payload_bytes_max: usize,
    /// Of 1,000 operations, how many go to a shard that may have no replica.
    pub strays: u32,
    /// Of 100 operations, how many go to whom the client last knew to lead; the others to any replica.
    pub recalls: u32,
    /// A client gives up waiting after at most this long.
    pub patience_us_max: u64,
}

/// Everything a seed draws.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// The cluster.
    pub layout: Layout,
    /// The network while faults are on.
    pub network: NetworkOptions,
    /// The faults.
    pub faults: Faults,
    /// The load.
    pub load: Load,
    /// How long faults are on, in microseconds.
    pub chaos_us: u64,
    /// Whether of each entry every replica but one loses its copy then, and all restart.
    pub helical: bool,
}

pub(super) fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

impl Swarm {
    /// Draws what an embedder's machine is tested under: a cluster of these nodes whose disks keep what they flushed.
    #[must_use]
    pub fn for_guest(rng: &mut Xoshiro256PlusPlus, nodes: u64, partitions: u128) -> Self {
        let mut profile = small(Profile::latency());
        profile.apply_entries_max = pick(rng, &[1, 16, 512]);
        profile.cache_bytes_max = pick(rng, &[16 << 10, 1 << 20]);
        let layout = Layout::plain(nodes, partitions, profile);
        let faults = draw_faults(rng, &layout);
        let sabotage = rng.random_bool(0.5);
        Self {
            network: draw_network(rng),
            faults: Faults {
                sabotage: sabotage.then(|| rng.random_range(200_000..=2_000_000)),
                mode: None,
                disk: None,
                fragile: None,
                rot: false,
                ..faults
            },
            load: draw_load(rng),
            chaos_us: rng.random_range(1_000_000..8_000_000),
            helical: false,
            layout,
        }
    }

    /// Draws everything.
    #[must_use]
    pub fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        // What came later is drawn from a stream of its own: what a seed draws from its first one stays what it was.
        let mut more = more::stream(rng);
        let shape = Shape::draw(&mut more);
        let nodes = pick(rng, &[1, 3, 3, 3, 3, 5]);
        let layout = draw_layout(rng, shape.nodes.unwrap_or(nodes), shape.shards);
        let faults = draw_faults(rng, &layout);
        let mut swarm = Self {
            network: draw_network(rng),
            faults,
            load: draw_load(rng),
            chaos_us: rng.random_range(1_000_000..8_000_000),
            helical: false,
            layout,
        };
        // Drawn last: what a seed draws before it stays what it was.
        if rng.random_bool(0.2) {
            swarm.faults.retune = Some(rng.random_range(100_000..=1_000_000));
        }
        if rng.random_bool(0.4) {
            swarm.faults.members = Some(rng.random_range(30_000..=800_000));
            add_spares(rng, &mut swarm.layout);
        }
        if rng.random_bool(0.5) {
            swarm.load.timers = pick(rng, &[5, 30, 80]);
        }
        if rng.random_bool(0.4) {
            let every = pick(rng, &[1, 3, 20]);
            let nodes = swarm.layout.nodes().into_iter();
            let on_disk = nodes.filter(|_| rng.random_bool(0.5));
            swarm.layout.on_disk = on_disk.map(|node| (node, every)).collect();
        }
        swarm.layout.profile.leases = rng.random_bool(0.6);
        if swarm.layout.profile.leases {
            swarm.load.lease_reads = pick(rng, &[0, 50, 90]);
            swarm.load.reads = swarm.load.reads.max(pick(rng, &[0, 30, 70]));
        }
        swarm.layout.profile.quiet_after_ms = pick(rng, &[0, 0, 60, 300, 1_000]);
        if swarm.layout.profile.quiet_after_ms > 0 && rng.random_bool(0.15) {
            add_partitions(rng, &mut swarm.layout);
        }
        swarm.load.local_reads = pick(rng, &[0, 0, 10]);
        if rng.random_bool(0.3) {
            swarm.faults.drift_ppm_max = pick(rng, &[500, 10_000, 25_000]);
        }
        if rng.random_bool(0.2) {
            swarm.faults.clock = Some(rng.random_range(30_000..=1_000_000));
        }
        let redundant = swarm.layout.partitions.iter().all(|p| p.voters.len() > 2);
        if redundant && rng.random_bool(0.2) {
            swarm.faults.image = Some(rng.random_range(100_000..=800_000));
            let nodes = swarm.layout.nodes();
            swarm
                .faults
                .fragile
                .get_or_insert_with(|| pick(rng, &nodes));
        }
        if redundant && swarm.faults.image.is_none() && rng.random_bool(0.25) {
            swarm.faults.empty = Some(rng.random_range(50_000..=2_000_000));
            let nodes = swarm.layout.nodes();
            let fragile = &mut swarm.faults.fragile;
            fragile.get_or_insert_with(|| pick(rng, &nodes));
        }
        // Many at once: batches, full queues and refusals, and most of the operations that all seeds together carry out.
        if rng.random_bool(0.25) {
            swarm.load.clients = rng.random_range(16..=64);
            swarm.load.think_us_max = pick(rng, &[100, 1_000, 5_000]);
            // Who gives up soon and asks for more piles up more on a slow disk than it writes in the time to live after it.
            swarm.load.patience_us_max = 2_000_000;
        }
        if rng.random_bool(0.3) {
            differ(rng, &mut swarm.layout);
        }
        if rng.random_bool(0.15) {
            slow_down(rng, &mut swarm.layout);
            // Enough batches for a machine's budget to be broken often, and enough who wait to be refused for it.
            if rng.random_bool(0.6) {
                swarm.layout.partitions.truncate(1);
                swarm.layout.profile.apply_entries_max = 1;
                swarm.load.reads = swarm.load.reads.min(20);
                swarm.load.clients = rng.random_range(40..=64);
                swarm.load.think_us_max = 100;
                swarm.load.patience_us_max = 2_000_000;
            }
        }
        if rng.random_bool(0.3) {
            swarm.load.deferred = pick(rng, &[5, 30, 90]);
            swarm.load.effects_stay = pick(rng, &[2, EFFECTS_STAY, 950]);
        }
        if swarm.faults.members.is_some() {
            if rng.random_bool(0.5) {
                swarm.layout.unlisted = swarm.layout.newcomers();
            }
            // Whoever moves is out of reach for a while: no disk is bad beside that.
            if swarm.faults.fragile.is_none() && rng.random_bool(0.4) {
                swarm.faults.moves = Some(rng.random_range(100_000..=1_000_000));
            }
        }
        swarm.draw_more(&mut more);
        swarm
    }
}

fn draw_layout(rng: &mut Xoshiro256PlusPlus, nodes: u64, shards: Option<u16>) -> Layout {
    let shards_per_node = pick(rng, &[1, 1, 2]);
    let shards_per_node = shards.unwrap_or(shards_per_node);
    let shards: Vec<PeerId> = (1..=nodes)
        .flat_map(|node| (0..shards_per_node).map(move |shard| peer(node, shard)))
        .collect();
    let count = rng.random_range(1..=4);
    let partitions = (1..=count)
        .map(|id| {
            let mut on: Vec<u64> = (1..=nodes).collect();
            on.shuffle(rng);
            let voters = if nodes >= 5 && rng.random_bool(0.5) {
                3
            } else if rng.random_bool(0.1) {
                1
            } else {
                nodes as usize
            };
            let mut voters: Vec<PeerId> = on[..voters]
                .iter()
                .map(|node| peer(*node, rng.random_range(0..shards_per_node)))
                .collect();
            voters.sort_unstable();
            PartitionLayout {
                id: PartitionId(id),
                voters,
                spares: Vec::new(),
            }
        })
        .collect();
    let mut profile = small(if rng.random_bool(0.5) {
        Profile::latency()
    } else {
        Profile::throughput()
    });
    profile.segment_bytes = pick(rng, &[256 << 10, 256 << 10, 1 << 20]);
    profile.segment_blocks_per_slot = pick(rng, &[1, 1, 4]);
    profile.idempotency_keys_max = pick(rng, &[8, 64, 1024]);
    profile.cache_bytes_max = pick(rng, &[16 << 10, 64 << 10, 1 << 20]);
    profile.chains_in_flight_max = pick(rng, &[1, 4, 8]);
    profile.apply_entries_max = pick(rng, &[1, 16, 512]);
    profile.node_inflight_bytes_max = pick(rng, &[16 << 10, 64 << 10, 64 << 20]);
    profile.queue_batches_max = pick(rng, &[8, 32, 256]);
    profile.group_chains_max = pick(rng, &[1, 2, 8]);
    profile.flush = pick(rng, &[FlushKind::Fdatasync, FlushKind::Dsync]);
    let (write, flush) = pick(rng, &[(40, 120), (100, 1_000), (500, 20_000)]);
    let disk = SimDiskOptions {
        timing: Timing {
            write_us: (10, write),
            flush_us: (40, flush),
            read_us: (20, write * 2),
            ..Timing::default()
        },
        ..SimDiskOptions::default()
    };
    Layout {
        listed: BTreeMap::new(),
        unlisted: BTreeSet::new(),
        visit_us: VISIT_US,
        shards,
        partitions,
        profile,
        profiles: BTreeMap::new(),
        disk,
        timings: BTreeMap::new(),
        blocking: None,
        on_disk: BTreeMap::new(),
        costs: BTreeMap::new(),
        distances_us: BTreeMap::new(),
        guest: None,
    }
}

/// Some nodes would remember another number of keys than the others.
fn differ(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    for node in layout.nodes() {
        if rng.random_bool(0.5) {
            let mut profile = layout.profile.clone();
            profile.idempotency_keys_max = pick(rng, &[1, 4, 32, 1024]);
            layout.profiles.insert(node, profile);
        }
    }
}

/// Some nodes' machines take longer over their batches than they may, at times or always.
fn slow_down(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    layout.profile.apply_budget_us = 100;
    layout.profile.apply_backlog_max = pick(rng, &[16, 32, 4_096]);
    for node in layout.nodes() {
        if rng.random_bool(0.8) {
            let cost = Cost {
                batch_us: pick(rng, &[0, 120, 250, 500]),
                item_us: pick(rng, &[0, 10, 100]),
            };
            layout.costs.insert(node, cost);
        }
    }
}

/// More nodes, and on every node that does not vote in a partition an empty replica of it that may come to.
pub(super) fn add_spares(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    let nodes = layout.nodes().len() as u64;
    let per_node = layout.shards.iter().map(|s| s.shard.get()).max();
    let per_node = per_node.unwrap_or(0) + 1;
    let more = rng.random_range(1..=3).min(NODES_MAX - nodes);
    for node in nodes + 1..=nodes + more {
        layout.shards.extend((0..per_node).map(|s| peer(node, s)));
    }
    for partition in &mut layout.partitions {
        for node in 1..=nodes + more {
            if partition.voters.iter().all(|v| v.node.get() != node) {
                let shard = rng.random_range(0..per_node);
                partition.spares.push(peer(node, shard));
            }
        }
    }
}

/// Many more partitions like the first ones, of which most have nothing to do at most times.
fn add_partitions(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    let more = pick(rng, &[4, 12, 40]);
    for number in 0..more {
        let like = number % layout.partitions.len();
        let mut partition = layout.partitions[like].clone();
        partition.id = PartitionId(100 + number as u128);
        layout.partitions.push(partition);
    }
}

fn draw_network(rng: &mut Xoshiro256PlusPlus) -> NetworkOptions {
    let delay = pick(rng, &[(20, 60), (50, 500), (200, 5_000), (1_000, 40_000)]);
    NetworkOptions {
        delay_us: delay,
        lost: pick(rng, &[0, 0, 10, 50, 200]),
        repeated: pick(rng, &[0, 0, 20, 100]),
        late: pick(rng, &[0, 0, 20, 200]),
        late_us_max: pick(rng, &[2_000, 50_000, 800_000]),
    }
}

fn draw_faults(rng: &mut Xoshiro256PlusPlus, layout: &Layout) -> Faults {
    let mut every = |share: f64, least: u64, most: u64| {
        rng.random_bool(share)
            .then(|| rng.random_range(least..=most))
    };
    let (kill, power) = (
        every(0.4, 200_000, 2_000_000),
        every(0.4, 200_000, 2_000_000),
    );
    let blackout = every(0.15, 1_000_000, 4_000_000);
    let (stop, cut) = (
        every(0.2, 500_000, 3_000_000),
        every(0.4, 300_000, 2_000_000),
    );
    let (reset, stall) = (
        every(0.3, 50_000, 1_000_000),
        every(0.3, 100_000, 1_000_000),
    );
    let (full, sabotage) = (
        every(0.1, 500_000, 2_000_000),
        every(0.15, 300_000, 2_000_000),
    );
    let disk = every(0.25, 300_000, 2_000_000);
    let mode = every(0.4, 50_000, 1_000_000);
    // One node's disk may fail, and no partition depends on it alone.
    let redundant = layout.partitions.iter().all(|p| p.voters.len() > 2);
    let fragile = (redundant && disk.is_some()).then(|| pick(rng, &layout.nodes()));
    Faults {
        kill,
        power,
        blackout,
        stop,
        down_us_max: pick(rng, &[50_000, 500_000, 2_000_000]),
        cut,
        cut_us_max: pick(rng, &[100_000, 1_000_000, 3_000_000]),
        reset,
        stall,
        stall_us_max: pick(rng, &[20_000, 200_000, 1_000_000]),
        full,
        sabotage,
        mode,
        disk,
        fragile,
        rot: fragile.is_some() && rng.random_bool(0.5),
        ..Faults::NONE
    }
}

/// What a shard is told of its profile: other values for what may be turned while it runs, or a refusal.
pub(super) fn draw_news(rng: &mut Xoshiro256PlusPlus, layout: &Layout) -> ProfileNews {
    if rng.random_bool(0.1) {
        return ProfileNews::Refused("drawn".to_owned());
    }
    let mut profile = layout.profile.clone();
    profile.batch_bytes_max = pick(rng, &[4 << 10, 16 << 10]);
    profile.batch_ms_max = pick(rng, &[1, 5, 50]);
    profile.group_chains_max = pick(rng, &[1, 2, 8]);
    profile.queue_batches_max = pick(rng, &[8, 32, 256]);
    profile.flush = pick(rng, &[FlushKind::Fdatasync, FlushKind::Dsync]);
    profile.slow_chain_ms = pick(rng, &[1, 20, 1_000]);
    profile.stuck_io_ms = pick(rng, &[1_000, 1_000, 30_000]);
    profile.chains_in_flight_max = pick(rng, &[1, 4, 8]);
    profile.apply_entries_max = pick(rng, &[1, 16, 512]);
    profile.append_batches_in_flight_max = pick(rng, &[1, 4, 16]);
    profile.append_batch_bytes_max = pick(rng, &[4 << 10, 64 << 10]);
    profile.inflight_bytes_max = pick(rng, &[64 << 10, 1 << 20]);
    profile.heartbeat_ms = pick(rng, &[20, 50]);
    (profile.election_ms_min, profile.election_ms_max) = wide::other_election_ms(rng, layout);
    profile.quiet_after_ms = pick(rng, &[0, 60, 300, 1_000]);
    profile.leases = rng.random_bool(0.7);
    // With the shorter timeouts the longest of them is too long: there are no leases then.
    profile.lease_ms = pick(rng, &[40, 80, 100]);
    profile.idempotency_keys_max = pick(rng, &[4, 64, 1024]);
    profile.apply_budget_us = pick(rng, &[100, 1_000, 5_000]);
    profile.apply_backlog_max = pick(rng, &[16, 64, 4_096]);
    ProfileNews::Obey(Box::new(profile))
}

fn draw_load(rng: &mut Xoshiro256PlusPlus) -> Load {
    Load {
        clients: rng.random_range(1..=8),
        think_us_max: pick(rng, &[1_000, 20_000, 200_000]),
        reads: pick(rng, &[0, 20, 50]),
        lease_reads: 0,
        local_reads: 0,
        keyed: pick(rng, &[0, 50, 100]),
        timers: 0,
        deferred: 0,
        effects_stay: EFFECTS_STAY,
        payload_bytes_max: pick(rng, &[16, 200, 4_000]),
        strays: 0,
        recalls: 90,
        patience_us_max: pick(rng, &[50_000, 500_000, 2_000_000]),
    }
}
