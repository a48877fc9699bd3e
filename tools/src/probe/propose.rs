//! From measurements to a profile. A knob is turned only where what was measured says clearly that it pays; what is
//! not clear stays as in the base, and what another measurement speaks against is not proposed at all. A rate is better than another if it
//! is in most turns: one that a moment of noise made decides nothing.

use clustor_engine::profile::{Allowed, Profile, Value, Word as _};
use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::disk::FlushKind;
use clustor_shards::log::Mode;

use super::measure::{CHAIN_BLOCKS, Cell, DEPTHS, Measurements};

/// What another setting must gain at least before it is proposed: noise is less on most devices.
const GAIN_MIN: f64 = 1.10;
/// Fewer chains than this tell nothing.
const CHAINS_MIN: u64 = 50;
/// Election timeouts are at least so many of the device's slow flushes.
const ELECTION_FLUSHES: f64 = 20.0;
/// A chain that takes so many times one in a hundred is slow.
const SLOW_CHAINS: f64 = 2.0;
/// Longer batches than the base's are proposed up to this.
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// A knob that is turned, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its key.
    pub key: &'static str,
    /// The base's value.
    pub before: Value,
    /// What is proposed.
    pub after: Value,
    /// What was measured that says so.
    pub why: String,
}

/// A profile in the making.
struct Proposal {
    profile: Profile,
    turns: Vec<Turn>,
}

impl Proposal {
    /// Turns knobs that go together: all of them, or none. What does not go together with the rest is not proposed.
    fn turn(&mut self, knobs: &[(&'static str, Value)], why: &str) {
        let mut turned = self.profile.clone();
        let mut turns = Vec::new();
        for (key, after) in knobs {
            let before = turned.get(key).expect("it is a knob");
            if turned.set(key, *after).is_err() {
                return;
            }
            if before != *after {
                turns.push(Turn {
                    key,
                    before,
                    after: *after,
                    why: why.to_owned(),
                });
            }
        }
        if turned.check().is_ok() {
            self.profile = turned;
            self.turns.append(&mut turns);
        }
    }
}

/// The profile that is proposed in place of `base`, and what differs. The same measurements propose the same.
pub fn propose(base: &Profile, measured: &Measurements) -> (Profile, Vec<Turn>) {
    let mut proposal = Proposal {
        profile: base.clone(),
        turns: Vec::new(),
    };
    // How writes are made durable comes first: everything else is judged by chains of that kind.
    if let Some((flush, why)) = another_flush(base, measured) {
        proposal.turn(&[("flush", Value::Word(flush.word()))], &why);
    }
    let chains = Chains {
        measured,
        flush: proposal.profile.flush,
    };
    if let Some((depth, why)) = fewer_in_flight(base, chains) {
        let depth = Value::Number(u64::from(depth));
        proposal.turn(&[("chains_in_flight_max", depth)], &why);
    }
    let (depth, blocks) = (greatest_depth(&proposal.profile), usual_blocks(base));
    if let Some(usual) = chains.at(depth, blocks) {
        wait_for_the_device(base, usual, &mut proposal);
    }
    // Strict appends share no batch.
    if base.mode == Mode::Group
        && let Some((bytes, why)) = longer_batches(base, depth, chains)
    {
        proposal.turn(&[("batch_bytes_max", Value::Number(bytes))], &why);
    }
    wait_for_elections(base, measured, &mut proposal);
    (proposal.profile, proposal.turns)
}

/// The measured chains of one kind of flush.
#[derive(Clone, Copy)]
struct Chains<'a> {
    measured: &'a Measurements,
    flush: FlushKind,
}

impl<'a> Chains<'a> {
    fn all(self) -> impl Iterator<Item = &'a Cell> {
        let of_this = self.measured.chains.iter();
        of_this.filter(move |cell| cell.flush == self.flush)
    }

    fn at(self, depth: u32, blocks: u32) -> Option<&'a Cell> {
        self.all()
            .find(|cell| (cell.depth, cell.blocks) == (depth, blocks))
            .filter(|cell| tells(cell))
    }
}

/// Whether there are enough of them to go by.
fn tells(cell: &Cell) -> bool {
    cell.latencies.count() >= CHAINS_MIN
}

/// By how much one cell does more chains in a second than another at least, in all turns but the worst quarter: each turn of one is held
/// against the same turn of the other.
fn steady_gain(then: &Cell, now: &Cell) -> f64 {
    let turns = then.rates.iter().zip(&now.rates);
    let mut gains: Vec<f64> = turns.map(|(then, now)| then / now).collect();
    gains.sort_by(f64::total_cmp);
    gains.get(gains.len() / 4).copied().unwrap_or_default()
}

/// The greatest depth that was measured and that the profile allows.
fn greatest_depth(profile: &Profile) -> u32 {
    let allowed = |depth: &u32| u64::from(*depth) <= profile.chains_in_flight_max;
    DEPTHS.into_iter().filter(allowed).max().unwrap_or(1)
}

/// The measured size that comes nearest to what the profile's chains write under load: a block for a strict append,
/// the greatest batch where appends share one.
fn usual_blocks(profile: &Profile) -> u32 {
    let blocks = match profile.mode {
        Mode::Strict => 1,
        Mode::Group => profile.batch_bytes_max / BLOCK_BYTES as u64,
    };
    let fits = |size: &u32| u64::from(*size) <= blocks;
    let sizes = CHAIN_BLOCKS.into_iter().filter(fits);
    sizes.max().unwrap_or(1)
}

/// The other kind of flush, where chains clearly gain by it: alone, or as many and as long as the base's, and in none of
/// these lose.
fn another_flush(base: &Profile, measured: &Measurements) -> Option<(FlushKind, String)> {
    let other = match base.flush {
        FlushKind::Fdatasync => FlushKind::Dsync,
        FlushKind::Dsync => FlushKind::Fdatasync,
    };
    let of = |flush| Chains { measured, flush };
    let both = |depth, blocks| {
        Some((
            of(base.flush).at(depth, blocks)?,
            of(other).at(depth, blocks)?,
        ))
    };
    let deepest = greatest_depth(base);
    let (lone, its_lone) = both(1, 1)?;
    let (full, its_full) = both(deepest, 1)?;
    let (usual, its_usual) = both(deepest, usual_blocks(base))?;
    let alone = lone.latencies.us(0.5) / its_lone.latencies.us(0.5);
    let gains = [
        alone,
        its_full.per_second() / full.per_second(),
        its_usual.per_second() / usual.per_second(),
    ];
    let steady = [
        alone,
        steady_gain(its_full, full),
        steady_gain(its_usual, usual),
    ];
    let loses = gains.iter().any(|gain| *gain < 1.0);
    let clearly = steady.iter().any(|gain| *gain >= GAIN_MIN);
    (clearly && !loses).then(|| {
        let why = format!(
            "a chain with {} takes {} us alone and {:.0} are done in a second, {deepest} in flight; with {} {} us and {:.0}",
            other.word(),
            its_lone.latencies.us(0.5),
            its_full.per_second(),
            base.flush.word(),
            lone.latencies.us(0.5),
            full.per_second(),
        );
        (other, why)
    })
}

/// Fewer chains in flight, where the device does clearly more with them than with as many as the base keeps, of the
/// size that the base writes; and not less of single blocks, of the sizes next to that, and with any number in between: a device that
/// minds many in flight shows it there, too.
fn fewer_in_flight(base: &Profile, chains: Chains<'_>) -> Option<(u32, String)> {
    let (deepest, usual) = (greatest_depth(base), usual_blocks(base));
    let both = |depth, blocks| Some((chains.at(depth, blocks)?, chains.at(deepest, blocks)?));
    let loses = |depth, blocks| {
        let both = both(depth, blocks);
        both.is_none_or(|(then, now)| then.per_second() < now.per_second())
    };
    let is_near = |blocks: &u32| {
        let size = |of: u32| CHAIN_BLOCKS.iter().position(|size| *size == of);
        size(*blocks)
            .zip(size(usual))
            .is_some_and(|(a, b)| a.abs_diff(b) <= 1)
    };
    let speaks_for = |depth: &u32| {
        let mut sizes = CHAIN_BLOCKS
            .into_iter()
            .filter(|blocks| *blocks == 1 || is_near(blocks));
        let mut between = DEPTHS
            .into_iter()
            .filter(|other| (*depth..deepest).contains(other));
        !sizes.any(|blocks| loses(*depth, blocks)) && !between.any(|other| loses(other, usual))
    };
    let shallower = DEPTHS.into_iter().filter(|depth| *depth < deepest);
    let gains = shallower.filter(speaks_for).filter_map(|depth| {
        let (then, now) = both(depth, usual)?;
        Some((depth, then, now, steady_gain(then, now)))
    });
    let (depth, then, now, gain) = gains.max_by(|(.., a), (.., b)| a.total_cmp(b))?;
    (gain >= GAIN_MIN).then(|| {
        let why = format!(
            "{:.0} chains of {} KiB a second with {depth} in flight, {:.0} with {deepest}",
            then.per_second(),
            kib(then),
            now.per_second(),
        );
        (depth, why)
    })
}

/// Longer batches, where the device writes clearly more bytes a second with longer chains.
fn longer_batches(base: &Profile, depth: u32, chains: Chains<'_>) -> Option<(u64, String)> {
    let limit = BATCH_BYTES_MAX.min(base.segment_bytes / 16);
    let now = chains.at(depth, usual_blocks(base))?;
    let longer = chains.all().filter(|cell| {
        let bytes = kib(cell) << 10;
        cell.depth == depth && tells(cell) && bytes > base.batch_bytes_max && bytes <= limit
    });
    let best = longer.max_by(|a, b| a.bytes_per_second().total_cmp(&b.bytes_per_second()))?;
    let longer = f64::from(best.blocks) / f64::from(now.blocks);
    (steady_gain(best, now) * longer >= GAIN_MIN).then(|| {
        let mib = |cell: &Cell| cell.bytes_per_second() / f64::from(1 << 20);
        let why = format!(
            "{:.0} MiB a second in chains of {} KiB, {:.0} in chains of {} KiB, {depth} in flight",
            mib(best),
            kib(best),
            mib(now),
            kib(now),
        );
        (kib(best) << 10, why)
    })
}

fn kib(cell: &Cell) -> u64 {
    u64::from(cell.blocks) * (BLOCK_BYTES as u64 >> 10)
}

/// Later alarms, where the base's would go off at what is usual on this device.
fn wait_for_the_device(base: &Profile, usual: &Cell, proposal: &mut Proposal) {
    let late_us = usual.latencies.us(0.99);
    let why = format!(
        "one chain of {} KiB in a hundred takes {late_us} us and more, {} in flight",
        kib(usual),
        usual.depth
    );
    let late_ms = (late_us / 1000.0).ceil() as u64;
    if base.mode == Mode::Group && late_ms > base.batch_ms_max {
        let later = Value::Number(most("batch_ms_max", late_ms));
        proposal.turn(&[("batch_ms_max", later)], &why);
    }
    if late_ms > base.slow_chain_ms {
        let slow_ms = (late_us * SLOW_CHAINS / 1000.0).ceil() as u64;
        let later = Value::Number(most("slow_chain_ms", slow_ms));
        proposal.turn(&[("slow_chain_ms", later)], &why);
    }
}

/// Later elections, where a slow flush would come near to one.
fn wait_for_elections(base: &Profile, measured: &Measurements, proposal: &mut Proposal) {
    let slow_us = measured.flush.us(0.99);
    let least = (slow_us * ELECTION_FLUSHES / 1000.0).ceil() as u64;
    let least = most("election_ms_min", least);
    if least > base.election_ms_min {
        let most = most("election_ms_max", (least * 2).max(base.election_ms_max));
        let why = format!(
            "one flush in a hundred takes {slow_us} us and more; {ELECTION_FLUSHES} of them"
        );
        let knobs = [
            ("election_ms_min", Value::Number(least)),
            ("election_ms_max", Value::Number(most)),
        ];
        proposal.turn(&knobs, &why);
    }
}

/// As much of it as the knob takes.
fn most(key: &str, wanted: u64) -> u64 {
    match Profile::knob(key).map(|knob| knob.allowed) {
        Some(Allowed::Number { max, .. }) => wanted.min(max),
        _ => wanted,
    }
}
