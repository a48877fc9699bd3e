//! What `clustor probe` proposes: the same for the same measurements, by a table, and always within the limits.

use std::time::Duration;

use clustor_engine::profile::{Profile, Value};
use clustor_shards::disk::FlushKind;
use clustor_tools::probe::measure::{
    CHAIN_BLOCKS, Cell, DEPTHS, KINDS, Latencies, Measurements, TURNS,
};
use clustor_tools::probe::propose::propose;
use proptest::prelude::*;

/// So many of each that was measured.
const COUNT: u32 = 200;

/// A device: what a chain takes, what one in fifty takes, and how many are done in a second.
struct Device<'a> {
    flush_us: (f64, f64),
    chain: &'a dyn Fn(FlushKind, u32, u32) -> (f64, f64, f64),
    chains: u32,
}

fn latencies(count: u32, usual_us: f64, late_us: f64) -> Latencies {
    let mut latencies = Latencies::default();
    for nth in 0..count {
        let us = if nth % 50 == 0 { late_us } else { usual_us };
        latencies.record(Duration::from_nanos((us * 1000.0) as u64));
    }
    latencies
}

impl Device<'_> {
    fn measured(&self) -> Measurements {
        let mut chains = Vec::new();
        for blocks in CHAIN_BLOCKS {
            for depth in DEPTHS {
                for flush in KINDS {
                    let (us, late_us, per_second) = (self.chain)(flush, depth, blocks);
                    chains.push(Cell {
                        flush,
                        depth,
                        blocks,
                        latencies: latencies(self.chains, us, late_us),
                        rates: vec![per_second; TURNS as usize],
                    });
                }
            }
        }
        let flush = latencies(COUNT, self.flush_us.0, self.flush_us.1);
        Measurements {
            flush: flush.clone(),
            write_flush: flush.clone(),
            // A lone write decides nothing: a shard makes chains.
            write_through: latencies(COUNT, 1.0, 1.0),
            write_flush_fresh: flush,
            chains,
            sequential: 1e9,
            writer: "FixedUring",
        }
    }
}

/// More in flight share flushes, longer ones take longer: nothing is gained by turning anything.
fn ordinary(_: FlushKind, depth: u32, blocks: u32) -> (f64, f64, f64) {
    let us = (150.0 + 2.0 * f64::from(blocks)) * (1.0 + 0.2 * f64::from(depth));
    (
        us,
        3.0 * us,
        1e6 * f64::from(depth) / us / f64::from(blocks).max(1.0),
    )
}

/// What is proposed over each shipped profile.
fn turned(device: &Device<'_>) -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let measured = device.measured();
    let over = |name: &&'static str| {
        let base = Profile::shipped(name).expect("it is shipped");
        let (proposed, turns) = propose(&base, &measured);
        for turn in &turns {
            assert_eq!(base.get(turn.key), Some(turn.before), "{name}: {turn:?}");
            assert_eq!(proposed.get(turn.key), Some(turn.after), "{name}: {turn:?}");
            assert!(!turn.why.is_empty());
        }
        let turned = turns.iter().map(|turn| (turn.key, turn.after));
        (*name, turned.collect())
    };
    Profile::SHIPPED.iter().map(over).collect()
}

fn nothing() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    Profile::SHIPPED.map(|name| (name, Vec::new())).to_vec()
}

fn dsync(name: &'static str) -> (&'static str, Vec<(&'static str, Value)>) {
    (name, vec![("flush", Value::Word("dsync"))])
}

const QUICK: (f64, f64) = (80.0, 400.0);

#[test]
fn an_ordinary_device_turns_nothing() {
    let device = Device {
        flush_us: QUICK,
        chain: &ordinary,
        chains: COUNT,
    };
    assert_eq!(turned(&device), nothing());
}

#[test]
fn the_other_flush_is_proposed_where_chains_gain_by_it_and_lose_in_nothing() {
    // (alone, many blocks by block, many of the usual size): by how much faster dsync is; whether it is proposed.
    let table = [
        ((1.2, 1.2, 1.2), true),
        ((1.0, 1.2, 1.0), true),
        ((1.2, 1.0, 1.0), true),
        ((1.0, 1.0, 1.2), true),
        ((1.05, 1.05, 1.05), false),
        ((2.0, 0.9, 1.0), false),
        ((0.9, 2.0, 2.0), false),
    ];
    for ((alone, many, long), proposed) in table {
        let chain = |flush, depth, blocks| {
            let (us, late_us, per_second) = ordinary(flush, depth, blocks);
            let gain = match (flush, depth, blocks) {
                (FlushKind::Fdatasync, ..) => 1.0,
                (FlushKind::Dsync, 1, 1) => alone,
                (FlushKind::Dsync, _, 1) => many,
                (FlushKind::Dsync, ..) => long,
            };
            (us / gain, late_us / gain, per_second * gain)
        };
        let device = Device {
            flush_us: QUICK,
            chain: &chain,
            chains: COUNT,
        };
        for (name, turned) in turned(&device) {
            // Strict profiles write one block.
            let long_counts = name == "throughput" || name == "wan";
            let proposed = proposed && (long_counts || (alone, many) != (1.0, 1.0));
            let expected = if proposed { dsync(name).1 } else { Vec::new() };
            assert_eq!(turned, expected, "{name}: {alone} {many} {long}");
        }
    }
}

#[test]
fn what_was_seen_too_rarely_decides_nothing() {
    let chain = |flush, depth, blocks| {
        let (us, late_us, per_second) = ordinary(flush, depth, blocks);
        match flush {
            FlushKind::Fdatasync => (us, late_us, per_second),
            FlushKind::Dsync => (us / 3.0, late_us / 3.0, per_second * 3.0),
        }
    };
    let device = |chains| Device {
        flush_us: QUICK,
        chain: &chain,
        chains,
    };
    assert_eq!(turned(&device(49)), nothing());
    let all: Vec<_> = Profile::SHIPPED.into_iter().map(dsync).collect();
    assert_eq!(turned(&device(50)), all);
}

#[test]
fn fewer_chains_and_longer_batches_are_proposed_where_the_base_writes_such() {
    // Beyond four in flight the device gets slower.
    let crowded = |flush, depth: u32, blocks| {
        let (us, late_us, per_second) = ordinary(flush, depth.min(4), blocks);
        let less = if depth > 4 { 0.8 } else { 1.0 };
        (us, late_us, per_second * less)
    };
    let device = Device {
        flush_us: QUICK,
        chain: &crowded,
        chains: COUNT,
    };
    let four = vec![("chains_in_flight_max", Value::Number(4))];
    for (name, turned) in turned(&device) {
        assert_eq!(turned, four, "{name}");
    }

    // What a chain takes does not depend on its length.
    let wide = |flush, depth, _| ordinary(flush, depth, 1);
    let device = Device {
        flush_us: QUICK,
        chain: &wide,
        chains: COUNT,
    };
    let longest = vec![("batch_bytes_max", Value::Number(1 << 20))];
    for (name, turned) in turned(&device) {
        let expected = match name {
            "throughput" | "wan" => longest.clone(),
            _ => Vec::new(),
        };
        assert_eq!(turned, expected, "{name}");
    }
}

/// What the latency profile's chains come to: single blocks, eight in flight.
fn in_flight(measured: &Measurements) -> Option<Value> {
    let base = Profile::shipped("latency").expect("it is shipped");
    let (_, turns) = propose(&base, measured);
    let turn = turns
        .into_iter()
        .find(|turn| turn.key == "chains_in_flight_max");
    turn.map(|turn| turn.after)
}

#[test]
fn noise_in_some_turns_or_at_one_depth_or_size_takes_no_chains_out_of_flight() {
    let ordinary = Device {
        flush_us: QUICK,
        chain: &ordinary,
        chains: COUNT,
    };
    let usual = ordinary.measured();
    assert_eq!(in_flight(&usual), None);
    let with = |noise: &dyn Fn(&mut Cell)| {
        let mut measured = ordinary.measured();
        measured.chains.iter_mut().for_each(noise);
        in_flight(&measured)
    };
    let slow = |cell: &mut Cell, turns: usize| {
        let rates = cell.rates.iter_mut().take(turns);
        rates.for_each(|rate| *rate /= 20.0);
    };
    // With eight in flight the device had a bad moment: in two turns of five, whatever was written.
    assert_eq!(
        with(&|cell| if cell.depth == 8 {
            slow(cell, 2)
        }),
        None
    );
    // In all of them, but for single blocks alone, as if that one cell had been measured beside a neighbour's work.
    let one_cell = |cell: &mut Cell| {
        if (cell.depth, cell.blocks) == (8, 1) {
            slow(cell, TURNS as usize);
        }
    };
    assert_eq!(with(&one_cell), None);
    // Two in flight had a lucky run that neither four nor longer chains confirm.
    let lucky = |cell: &mut Cell| {
        if (cell.depth, cell.blocks) == (2, 1) {
            cell.rates.iter_mut().for_each(|rate| *rate *= 20.0);
        }
    };
    assert_eq!(with(&lucky), None);
    // Where all of it says the same, one bad turn of the better hides nothing.
    let crowded = |cell: &mut Cell| match cell.depth {
        8 => slow(cell, TURNS as usize),
        4 => slow(cell, 1),
        _ => {}
    };
    assert_eq!(with(&crowded), Some(Value::Number(4)));
}

#[test]
fn alarms_and_elections_wait_for_a_slow_device_up_to_their_limits() {
    let slow = |late_us: f64| {
        move |flush, depth, blocks| {
            let (_, _, per_second) = ordinary(flush, depth, blocks);
            (late_us / 2.0, late_us, per_second)
        }
    };
    let chain = slow(30_000.0);
    let device = Device {
        flush_us: (5_000.0, 20_000.0),
        chain: &chain,
        chains: COUNT,
    };
    for (name, turned) in turned(&device) {
        let mut expected = Vec::new();
        if name == "throughput" || name == "wan" {
            expected.push(("batch_ms_max", 31));
        }
        expected.extend([("election_ms_min", 401), ("election_ms_max", 802)]);
        nearly(name, &turned, &expected);
    }

    // Nobody waits longer than a knob can say.
    let chain = slow(9_000_000.0);
    let device = Device {
        flush_us: (1_000_000.0, 5_000_000.0),
        chain: &chain,
        chains: COUNT,
    };
    for (name, turned) in turned(&device) {
        let mut expected = Vec::new();
        if name == "throughput" || name == "wan" {
            expected.push(("batch_ms_max", 50));
        }
        expected.extend([
            ("slow_chain_ms", 10_000),
            ("election_ms_min", 10_000),
            ("election_ms_max", 20_000),
        ]);
        nearly(name, &turned, &expected);
    }
}

/// The same keys in the same order, and numbers that differ by what a histogram can't tell apart at most.
fn nearly(name: &str, turned: &[(&str, Value)], expected: &[(&str, u64)]) {
    let keys: Vec<&str> = turned.iter().map(|(key, _)| *key).collect();
    let expected_keys: Vec<&str> = expected.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, expected_keys, "{name}: {turned:?}");
    for ((key, value), (_, wanted)) in turned.iter().zip(expected) {
        let Value::Number(value) = value else {
            panic!("{name}: {key} is a number");
        };
        assert!(
            value.abs_diff(*wanted) <= wanted / 100 + 1,
            "{name}: {key} = {value}, not {wanted}"
        );
    }
}

/// Microseconds from one to some seconds, each magnitude as likely.
fn any_us() -> impl Strategy<Value = f64> {
    (0.0..7.0f64).prop_map(|magnitude| 10f64.powf(magnitude))
}

proptest! {
    #[test]
    fn whatever_is_measured_the_proposal_is_within_all_limits_and_always_the_same(
        flush in (any_us(), any_us()),
        cells in prop::collection::vec((any_us(), any_us(), 0.1..1e6f64), 40),
        chains in prop::sample::select(vec![0u32, 49, 50, COUNT]),
    ) {
        let place = |flush, depth, blocks| {
            let of = |all: &[u32], one| all.iter().position(|each| *each == one);
            let cell = of(&CHAIN_BLOCKS, blocks).zip(of(&DEPTHS, depth));
            let (blocks, depth) = cell.expect("it is one of them");
            cells[(blocks * DEPTHS.len() + depth) * KINDS.len() + usize::from(flush == FlushKind::Dsync)]
        };
        let device = Device { flush_us: flush, chain: &place, chains };
        let measured = device.measured();
        for name in Profile::SHIPPED {
            let base = Profile::shipped(name).expect("it is shipped");
            let (proposed, turns) = propose(&base, &measured);
            prop_assert_eq!(&propose(&base, &measured), &(proposed.clone(), turns.clone()));
            // What is said to be turned is all that differs.
            let mut differs: Vec<_> = base.differences(&proposed).iter().map(|(knob, ..)| knob.key).collect();
            let mut said: Vec<_> = turns.iter().map(|turn| turn.key).collect();
            differs.sort_unstable();
            said.sort_unstable();
            prop_assert_eq!(differs, said);
            proposed.check().map_err(|error| TestCaseError::fail(error.to_string()))?;
            for mode in 0..=2 {
                proposed.log_options(mode).check().map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
            // As it is written, whole; and as a file that names its base, within that base's narrower limits.
            let whole = Profile::parse(&proposed.to_toml("proposed"), &proposed.name);
            prop_assert_eq!(whole, Ok(proposed.clone()));
            let mut short = format!("base = \"{name}\"\n");
            for turn in &turns {
                short.push_str(&format!("{} = {}\n", turn.key, turn.after));
            }
            let short = Profile::parse(&short, &proposed.name);
            prop_assert_eq!(short, Ok(proposed));
        }
    }
}
