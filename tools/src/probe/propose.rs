//! From measurements to a profile. A knob is turned only where what was measured says clearly that it pays; what is
//! not clear stays as in the base.

use clustor_engine::profile::{Profile, Value};
use clustor_shards::log::Mode;

use super::measure::{Cell, Measurements};

/// What another setting must gain at least before it is proposed: noise is less on most devices.
const GAIN_MIN: f64 = 1.10;
/// Fewer chains than this tell nothing.
const CHAINS_MIN: u64 = 50;
/// Election timeouts are at least so many of the device's slow flushes.
const ELECTION_FLUSHES: f64 = 20.0;
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

/// The profile that is proposed in place of `base`, and what differs.
pub fn propose(base: &Profile, measured: &Measurements) -> (Profile, Vec<Turn>) {
    let mut profile = base.clone();
    let mut turns = Vec::new();
    let mut turn = |key: &'static str, after: Value, why: String| {
        let Some(before) = profile.get(key).filter(|before| *before != after) else {
            return;
        };
        let mut turned = profile.clone();
        // What does not go together with the rest is not proposed.
        if turned.set(key, after).is_ok() && turned.check().is_ok() {
            profile = turned;
            turns.push(Turn {
                key,
                before,
                after,
                why,
            });
        }
    };
    if let Some((depth, why)) = fewer_in_flight(base, measured) {
        turn("chains_in_flight_max", Value::Number(depth), why);
    }
    // Strict appends share no batch.
    if base.mode == Mode::Group
        && let Some((bytes, why)) = longer_batches(base, measured)
    {
        turn("batch_bytes_max", Value::Number(bytes), why);
    }
    let (flush, through) = (measured.write_flush.us(0.5), measured.write_through.us(0.5));
    if through * GAIN_MIN <= flush {
        let why = format!("one durable write takes {through} us, write and flush {flush} us");
        turn("flush", Value::Word("dsync"), why);
    }
    let slow = measured.flush.us(0.99);
    let least = (slow * ELECTION_FLUSHES / 1000.0).ceil() as u64;
    if least > base.election_ms_min {
        let why =
            format!("one flush in a hundred takes {slow} us and more; {ELECTION_FLUSHES} of them");
        turn("election_ms_max", Value::Number(least * 2), why.clone());
        turn("election_ms_min", Value::Number(least), why);
    }
    (profile, turns)
}

/// Whether there are enough of them to go by.
fn tells(cell: &Cell) -> bool {
    cell.latencies.count() >= CHAINS_MIN
}

/// Fewer chains in flight, where the device does clearly more with them than with as many as the base keeps.
fn fewer_in_flight(base: &Profile, measured: &Measurements) -> Option<(u64, String)> {
    let of_one_block: Vec<&Cell> = measured.chains.iter().filter(|c| c.blocks == 1).collect();
    let now = of_one_block
        .iter()
        .rfind(|cell| u64::from(cell.depth) <= base.chains_in_flight_max)?;
    let best = of_one_block
        .iter()
        .filter(|cell| cell.depth < now.depth && tells(cell))
        .max_by(|a, b| a.per_second.total_cmp(&b.per_second))?;
    (best.per_second >= now.per_second * GAIN_MIN).then(|| {
        let why = format!(
            "{:.0} chains a second with {} in flight, {:.0} with {}",
            best.per_second, best.depth, now.per_second, now.depth
        );
        (u64::from(best.depth), why)
    })
}

/// Longer batches, where the device writes clearly more bytes a second with longer chains.
fn longer_batches(base: &Profile, measured: &Measurements) -> Option<(u64, String)> {
    let deepest = measured
        .chains
        .iter()
        .map(|cell| cell.depth)
        .filter(|depth| u64::from(*depth) <= base.chains_in_flight_max)
        .max()?;
    let bytes_of = |cell: &Cell| u64::from(cell.blocks) * 4096;
    let limit = BATCH_BYTES_MAX.min(base.segment_bytes / 16);
    let at_depth: Vec<&Cell> = measured
        .chains
        .iter()
        .filter(|cell| cell.depth == deepest && bytes_of(cell) <= limit)
        .collect();
    let now = at_depth
        .iter()
        .rfind(|cell| bytes_of(cell) <= base.batch_bytes_max)?;
    let best = at_depth
        .iter()
        .filter(|cell| bytes_of(cell) > base.batch_bytes_max && tells(cell))
        .max_by(|a, b| a.bytes_per_second().total_cmp(&b.bytes_per_second()))?;
    (best.bytes_per_second() >= now.bytes_per_second() * GAIN_MIN).then(|| {
        let why = format!(
            "{:.0} MiB a second in chains of {} KiB, {:.0} in chains of {} KiB, {deepest} in flight",
            best.bytes_per_second() / f64::from(1 << 20),
            bytes_of(best) / 1024,
            now.bytes_per_second() / f64::from(1 << 20),
            bytes_of(now) / 1024,
        );
        (bytes_of(best), why)
    })
}
