//! `sim --seed N --minimise`: a simpler run that fails in the same way.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clustor_sim::cluster::minimise::minimise;
use clustor_sim::cluster::run::{Failure, Kind, draw, run, run_simpler};
use clustor_sim::cluster::trace::Trace;

use crate::many::print;

/// A simpler run may go on for so many times the steps after which the first one failed, and so many more.
const STEPS_MAX: (u64, u64) = (2, 20_000);

/// Minimises a seed for so many seconds.
pub fn search(kind: Kind, seed: u64, steps: u64, seconds: u64) -> ExitCode {
    let until = Instant::now() + Duration::from_secs(seconds);
    // Runs that panic are told of by what they come to.
    std::panic::set_hook(Box::new(|_| {}));
    let first = match run(kind, seed, steps, Trace::Off) {
        Err(first) => *first,
        Ok(_) => {
            eprintln!("sim: seed {seed} holds: there is nothing to minimise");
            return ExitCode::from(2);
        }
    };
    print(&first.to_string());
    let steps_max = (STEPS_MAX.0 * first.step + STEPS_MAX.1).min(steps);
    let mut tried = 0;
    let (swarm, _) = draw(kind, seed, &[]);
    let fails = |simpler: &[_]| {
        if Instant::now() >= until {
            return None;
        }
        tried += 1;
        let failure = run_simpler(kind, seed, simpler, steps_max, Trace::Off).err()?;
        (failure.rule == first.rule).then_some(failure.step)
    };
    let least = minimise(&swarm, first.step, fails, |less| {
        let ways: Vec<_> = less.simpler.iter().map(ToString::to_string).collect();
        eprintln!("fails at step {} without {}", less.step, ways.join(","));
    });
    let last = Failure {
        simpler: least.simpler,
        step: least.step,
        ..first
    };
    let over = if Instant::now() >= until {
        ", time is up"
    } else {
        ""
    };
    print(&format!(
        "{tried} runs were tried{over}; the first line of the replay's trace says what is left"
    ));
    print(&format!("replay: {}", last.replay()));
    ExitCode::FAILURE
}
