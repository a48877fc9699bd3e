//! One line of the results: medians over its rounds.

use clustor_shards::uring::RigWork;
use serde::Serialize;

use crate::measured::{Measured, median};

const MIB: f64 = (1u64 << 20) as f64;

/// Where the clock stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasuredAt {
    /// In the shard, from the append to the retirement of its chain.
    Shard,
    /// At a handle on another thread, from the call to the answer.
    Handle,
    /// On the threads that call a library, from the call to its return.
    #[cfg_attr(
        not(feature = "peers"),
        expect(dead_code, reason = "only peers are called like this")
    )]
    Caller,
}

/// The work of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Operations under way at a time: the clients, or chains in flight.
    pub depth: u32,
    /// Bytes of each entry, or of a chain's log write.
    pub payload_bytes: u32,
}

/// What a line says of itself before anything is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Which subcommand measured it.
    pub benchmark: &'static str,
    /// What was done: a mode of the log, steps of a chain, or the name of a peer.
    pub mode: &'static str,
    /// The suite that sealed it; `none` where nothing was sealed.
    pub suite: &'static str,
    /// How writes were made durable: `fdatasync` or `dsync`.
    pub flush: &'static str,
    /// Its parameters.
    #[serde(flatten)]
    pub workload: Workload,
    /// Where the clock stood.
    pub measured_at: MeasuredAt,
}

/// One round of a line, and what was measured beside it.
#[derive(Debug)]
pub struct Round {
    /// The latencies.
    pub measured: Measured,
    /// Log blocks of 4 KiB in each chain, on average; 0 where chains were not counted.
    pub chain_blocks: f64,
    /// Operations in each chain, on average; 0 where chains were not counted.
    pub operations_per_chain: f64,
    /// Allocations by the whole process in the round, if they were counted.
    pub allocations: Option<u64>,
    /// System calls that handed submissions over, if they were counted.
    pub enters: Option<u64>,
    /// The device's chains right behind it: what was asked of it, and how it did.
    pub device: Option<(RigWork, Measured)>,
    /// MiB of blocks that the suite seals in a second on one core, measured right behind it.
    pub suite_mib_per_s: Option<f64>,
    /// Wake-ups of a thread right behind it.
    pub wake: Option<Measured>,
    /// The median of the same work in the shard, in microseconds, where this line is at a handle.
    pub in_shard_p50_us: Option<f64>,
    /// The same work through a peer, beside it.
    pub peer: Option<Measured>,
    /// Instructions of one operation, if they were counted.
    pub instructions: Option<f64>,
    /// Rollovers in the round, where they were looked for.
    pub rollovers: Option<u64>,
    /// Pairs that were removed, where that was measured.
    pub reclaims: Option<u64>,
    /// p99.9 of what met nothing in the same round, in microseconds: what rollovers and reclaims are held against.
    pub quiet_p999_us: Option<f64>,
}

impl Round {
    /// A round with nothing beside it.
    pub fn new(measured: Measured) -> Self {
        Self {
            measured,
            chain_blocks: 0.0,
            operations_per_chain: 0.0,
            allocations: None,
            enters: None,
            device: None,
            suite_mib_per_s: None,
            wake: None,
            in_shard_p50_us: None,
            peer: None,
            instructions: None,
            rollovers: None,
            reclaims: None,
            quiet_p999_us: None,
        }
    }

    /// How much more than what met nothing all but one in a thousand took, in full chains of the device.
    fn over_quiet_chains(&self) -> Option<f64> {
        let more = self.measured.quantile_us(0.999) - self.quiet_p999_us?;
        let (_, device) = self.device.as_ref()?;
        let chains = more / device.quantile_us(0.5);
        chains.is_finite().then_some(chains)
    }

    fn operations(&self) -> f64 {
        self.measured.operations().max(1) as f64
    }
}

/// The device beside a line: medians over the same rounds.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceBeside {
    /// Chains in flight.
    pub depth: u32,
    /// Log blocks of 4 KiB in each.
    pub blocks: u32,
    /// Half took no longer, in microseconds.
    pub p50_us: f64,
    /// All but one in a hundred took no longer, in microseconds.
    pub p99_us: f64,
    /// Chains in a second.
    pub per_s: f64,
    /// MiB of log blocks in a second.
    pub mib_per_s: f64,
}

/// One line of the results. Numbers are medians over the rounds; ratios are medians of each round's own ratio.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// What was done.
    #[serde(flatten)]
    pub line: Line,
    /// How many rounds.
    pub rounds: usize,
    /// Operations in all rounds together.
    pub operations: u64,
    /// Half took no longer, in microseconds.
    pub p50_us: f64,
    /// All but one in a hundred took no longer, in microseconds.
    pub p99_us: f64,
    /// All but one in a thousand took no longer, in microseconds.
    pub p999_us: f64,
    /// The longest of all rounds, in microseconds.
    pub max_us: f64,
    /// Operations in a second.
    pub per_s: f64,
    /// MiB of payload in a second.
    pub mib_per_s: f64,
    /// Log blocks of 4 KiB in each chain, on average; 0 where chains were not counted.
    pub chain_blocks: f64,
    /// Operations in each chain, on average; 0 where chains were not counted.
    pub operations_per_chain: f64,
    /// Allocations per operation, by the whole process.
    pub allocations_per_operation: Option<f64>,
    /// System calls that handed submissions over, per operation.
    pub enters_per_operation: Option<f64>,
    /// Instructions per operation, by callgrind on a disk in memory.
    pub instructions_per_operation: Option<f64>,
    /// Rollovers in all rounds together.
    pub rollovers: Option<u64>,
    /// Pairs that were removed, where that was measured.
    pub reclaims: Option<u64>,
    /// p99.9 above that of what met nothing, over the device's p50: in full chains.
    pub p999_over_quiet_chains: Option<f64>,
    /// The same in writes with a flush, half a full chain each, where pairs were removed.
    pub p999_over_quiet_flushes: Option<f64>,
    /// The device beside it.
    pub device: Option<DeviceBeside>,
    /// p50 over the device's p50.
    pub ratio_to_device: Option<f64>,
    /// p99 over the device's p99.
    pub ratio_p99_to_device: Option<f64>,
    /// MiB of log blocks in a second over the device's; chains of the same size and depth.
    pub bandwidth_to_device: Option<f64>,
    /// MiB of blocks that the suite seals in a second on one core.
    pub suite_mib_per_s: Option<f64>,
    /// MiB of log blocks in a second over what the suite seals.
    pub bandwidth_to_suite: Option<f64>,
    /// Waking a thread took this long in half of the cases, in microseconds.
    pub wake_p50_us: Option<f64>,
    /// What the handle adds to the median in the shard, in wake-ups of a thread.
    pub wakes_over_shard: Option<f64>,
    /// Operations in a second over the peer's.
    pub rate_to_peer: Option<f64>,
    /// p99 over the peer's.
    pub p99_to_peer: Option<f64>,
}

impl std::ops::Deref for Run {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl Run {
    /// A line from its rounds; at least one.
    pub(super) fn new(line: Line, rounds: &[Round]) -> Self {
        let over = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
        let some = |value: &dyn Fn(&Round) -> Option<f64>| {
            let values: Vec<f64> = rounds.iter().filter_map(value).collect();
            (!values.is_empty()).then(|| median(values))
        };
        let ratio = |quantile: f64| {
            some(&|round: &Round| {
                let (_, device) = round.device.as_ref()?;
                let device = device.quantile_us(quantile);
                (device > 0.0).then(|| round.measured.quantile_us(quantile) / device)
            })
            .map(hundredth)
        };
        let payload = f64::from(line.workload.payload_bytes);
        let blocks = |round: &Round| {
            let chains = round.measured.per_second() / round.operations_per_chain.max(f64::EPSILON);
            (round.operations_per_chain > 0.0).then_some(chains * round.chain_blocks)
        };
        Self {
            line,
            rounds: rounds.len(),
            operations: rounds.iter().map(|round| round.measured.operations()).sum(),
            p50_us: tenth(over(&|round| round.measured.quantile_us(0.5))),
            p99_us: tenth(over(&|round| round.measured.quantile_us(0.99))),
            p999_us: tenth(over(&|round| round.measured.quantile_us(0.999))),
            max_us: tenth(
                rounds
                    .iter()
                    .map(|round| round.measured.max_us())
                    .fold(0.0, f64::max),
            ),
            per_s: tenth(over(&|round| round.measured.per_second())),
            mib_per_s: thousandth(over(&|round| round.measured.per_second() * payload / MIB)),
            chain_blocks: tenth(over(&|round| round.chain_blocks)),
            operations_per_chain: tenth(over(&|round| round.operations_per_chain)),
            allocations_per_operation: some(&|round| {
                round
                    .allocations
                    .map(|count| count as f64 / round.operations())
            }),
            enters_per_operation: some(&|round| {
                round.enters.map(|count| count as f64 / round.operations())
            })
            .map(hundredth),
            instructions_per_operation: some(&|round| round.instructions).map(f64::round),
            rollovers: rounds.iter().map(|round| round.rollovers).sum(),
            reclaims: rounds.iter().map(|round| round.reclaims).sum(),
            p999_over_quiet_chains: some(&Round::over_quiet_chains).map(hundredth),
            p999_over_quiet_flushes: some(&|round| {
                round.reclaims?;
                Some(2.0 * round.over_quiet_chains()?)
            })
            .map(hundredth),
            device: beside(rounds),
            ratio_to_device: ratio(0.5),
            ratio_p99_to_device: ratio(0.99),
            bandwidth_to_device: some(&|round| {
                let (work, device) = round.device.as_ref()?;
                let device = device.per_second() * f64::from(work.blocks);
                Some(blocks(round)? / device).filter(|ratio| ratio.is_finite())
            })
            .map(hundredth),
            suite_mib_per_s: some(&|round| round.suite_mib_per_s).map(tenth),
            bandwidth_to_suite: some(&|round| {
                let sealed = blocks(round)? * crate::BLOCK_BYTES as f64 / MIB;
                Some(sealed / round.suite_mib_per_s?)
            })
            .map(hundredth),
            wakes_over_shard: some(&|round| {
                let wake = round.wake.as_ref()?.quantile_us(0.5);
                let more = round.measured.quantile_us(0.5) - round.in_shard_p50_us?;
                Some(more / wake).filter(|wakes| wakes.is_finite())
            })
            .map(hundredth),
            rate_to_peer: some(&|round| {
                let peer = round.peer.as_ref()?.per_second();
                Some(round.measured.per_second() / peer).filter(|ratio| ratio.is_finite())
            })
            .map(hundredth),
            p99_to_peer: some(&|round| {
                let peer = round.peer.as_ref()?.quantile_us(0.99);
                Some(round.measured.quantile_us(0.99) / peer).filter(|ratio| ratio.is_finite())
            })
            .map(hundredth),
            wake_p50_us: some(&|round| Some(round.wake.as_ref()?.quantile_us(0.5))).map(tenth),
        }
    }

    /// A name for its files.
    pub fn name(&self) -> String {
        let at = match self.measured_at {
            MeasuredAt::Shard => "shard",
            MeasuredAt::Handle => "handle",
            MeasuredAt::Caller => "caller",
        };
        format!(
            "{}-{}-{}-{}-{at}-{}x{}",
            self.benchmark,
            self.mode,
            self.suite,
            self.flush,
            self.workload.depth,
            self.workload.payload_bytes
        )
    }
}

fn beside(rounds: &[Round]) -> Option<DeviceBeside> {
    let pairs: Vec<&(RigWork, Measured)> = rounds
        .iter()
        .filter_map(|round| round.device.as_ref())
        .collect();
    let (work, _) = pairs.last()?;
    let over = |value: &dyn Fn(&Measured) -> f64| {
        tenth(median(
            pairs.iter().map(|(_, measured)| value(measured)).collect(),
        ))
    };
    let block_mib = crate::BLOCK_BYTES as f64 / MIB;
    Some(DeviceBeside {
        depth: work.depth,
        blocks: work.blocks,
        p50_us: over(&|device| device.quantile_us(0.5)),
        p99_us: over(&|device| device.quantile_us(0.99)),
        per_s: over(&Measured::per_second),
        mib_per_s: over(&|device| device.per_second() * f64::from(work.blocks) * block_mib),
    })
}

/// Rounded to one decimal place: what is measured is not more exact.
fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandth(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
