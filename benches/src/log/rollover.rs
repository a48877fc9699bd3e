//! What the end of a segment, and the removal of an old one, do to the appends around them.

use clustor_engine::profile::Profile;
use clustor_shards::uring::{ChainSteps, RigWork};

use super::{Bench, ModeName, Plan};
use crate::BenchError;
use crate::device::{Device, flush_name};
use crate::measured::Measured;
use crate::report::{Line, MeasuredAt, Round, Workload};
use crate::setup::Setup;
use crate::shard::{Rolling, ShardBench, ShardWork};

/// The lines of one combination: everything, and everything by what it met; last, what met nothing or a reclaim.
const LINES: [&str; 6] = [
    "all",
    "quiet",
    "zeroing",
    "rollover",
    "reclaim",
    "quiet+reclaim",
];
/// Those of a measurement without reclaims.
const LINES_WITHOUT: usize = 4;

/// Measures one variant with every size and number of clients, over as many rollovers as the time allows.
pub(super) fn measure_variant(
    setup: &Setup,
    plan: &Plan,
    (mode, profile): (ModeName, Profile),
    reclaims: bool,
    (device, report, progress): Bench<'_, '_>,
) -> Result<(), BenchError> {
    for &payload_bytes in &plan.sizes {
        for &clients in &plan.clients {
            progress.step(&format!(
                "{}, {payload_bytes} bytes, {clients} clients, over rollovers",
                mode.name()
            ));
            let work = ShardWork {
                mode: mode.mode(),
                clients,
                payload_bytes,
            };
            let mut rounds: [Vec<Round>; LINES.len()] = Default::default();
            let what = (&profile, work, reclaims);
            let outcome = measure(setup, plan, what, device, &mut rounds);
            let lines = if reclaims { LINES.len() } else { LINES_WITHOUT };
            for (met, rounds) in LINES.into_iter().zip(rounds).take(lines) {
                let line = Line {
                    benchmark: match mode {
                        ModeName::Strict => "strict",
                        ModeName::Group => "group",
                    },
                    mode: met,
                    suite: profile.sealing.name(),
                    flush: flush_name(profile.flush),
                    workload: Workload {
                        depth: clients,
                        payload_bytes,
                    },
                    measured_at: MeasuredAt::Shard,
                };
                report.add(line, rounds);
            }
            outcome?;
        }
    }
    Ok(())
}

/// Rounds in a log of its own, of the profile's segments, removed afterwards.
fn measure(
    setup: &Setup,
    plan: &Plan,
    (profile, work, reclaims): (&Profile, ShardWork, bool),
    device: &mut Device<'_>,
    rounds: &mut [Vec<Round>; LINES.len()],
) -> Result<(), BenchError> {
    let directory = setup.path().join("rollover");
    for _ in 0..plan.repeat {
        let mut shard = ShardBench::open(&directory, profile.clone(), &setup.interrupt)?;
        let Rolling {
            quiet,
            preparing,
            rollover,
            reclaim,
            rollovers,
            reclaims: reclaimed,
            counts,
        } = shard.measure_rolling(work, plan.time, reclaims)?;
        drop(shard);
        std::fs::remove_dir_all(&directory).map_err(|source| BenchError::Output {
            path: directory.clone(),
            source,
        })?;
        let lone = RigWork {
            steps: ChainSteps::Full,
            depth: 1,
            flush: profile.flush,
            ..super::device_work(counts, profile.flush)
        };
        let device = device.measure(lone, plan.time.min(std::time::Duration::from_secs(1)))?;
        let mut all = Measured::new();
        for part in [&quiet, &preparing, &rollover, &reclaim] {
            all.join(part, false);
        }
        let mut beside = quiet.clone();
        beside.join(&reclaim, false);
        let quiet_p999_us = quiet.quantile_us(0.999);
        let appends = all.operations();
        for (at, (measured, rounds)) in [all, quiet, preparing, rollover, reclaim, beside]
            .into_iter()
            .zip(&mut *rounds)
            .enumerate()
        {
            // The others are a few, and tell nothing of one in a thousand.
            let is_compared = matches!(LINES[at], "all" | "quiet+reclaim");
            rounds.push(Round {
                device: Some((lone, device.clone())),
                rollovers: Some(rollovers),
                reclaims: reclaims.then_some(reclaimed),
                chain_blocks: counts.blocks_per_chain(),
                operations_per_chain: appends as f64 / counts.chains.max(1) as f64,
                quiet_p999_us: is_compared.then_some(quiet_p999_us),
                ..Round::new(measured)
            });
        }
    }
    Ok(())
}
