//! What was acknowledged survives kill -9 at any moment.
//!
//! The suite starts itself as its own child: given a directory, it appends numbers for ever and prints each
//! one that was acknowledged, until it is killed.

mod support;

use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

use clustor_shards::log::Mode;
use clustor_shards::uring::WriterChoice;
use support::{Lines, PATIENCE, builder, small};

const ROUNDS: usize = 5;
/// Appends that the child keeps in flight.
const IN_FLIGHT: usize = 16;
const CHILD: &str = "CLUSTOR_EMBED_KILL_CHILD";
/// Set for a child that shares flushes between appends.
const GROUP: &str = "CLUSTOR_EMBED_KILL_GROUP";

/// Set for a child that writes without direct I/O.
const BLOCKING: &str = "CLUSTOR_EMBED_KILL_BLOCKING";

fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(Path::new(&dir));
    }
    let temp = tempfile::tempdir()?;
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        acknowledged.extend(run_and_kill(temp.path(), round)?);
        let engine = builder(temp.path())
            .partition(1, |_| Lines::default())
            .start()?;
        let there = engine
            .partition::<Lines>(1)?
            .read_blocking(|lines| lines.0.clone())?;
        engine.shutdown(PATIENCE)?;
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|line| !there.contains(line))
            .collect();
        assert!(
            lost.is_empty(),
            "round {round}: acknowledged and lost: {lost:?}"
        );
        let mut once = there.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), there.len(), "round {round}: applied twice");
    }
    assert!(acknowledged.len() >= ROUNDS * 20);
    Ok(())
}

/// Runs a child, strict, group and by the blocking writer in turn, until it has acknowledged some appends, more in each round, kills
/// it, and returns what it said.
fn run_and_kill(dir: &Path, round: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let count = 20 + 30 * round;
    let mut command = Command::new(std::env::current_exe()?);
    command.env(CHILD, dir).stdout(Stdio::piped());
    match round % 3 {
        1 => drop(command.env(GROUP, "1")),
        2 => drop(command.env(BLOCKING, "1")),
        _ => {}
    }
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    let mut said = Vec::new();
    for line in lines.by_ref().take(count) {
        said.push(line?);
    }
    child.kill()?;
    // What it had said and we had not read.
    for line in lines {
        said.push(line?);
    }
    child.wait()?;
    if said.len() < count {
        return Err(format!("the child ended after {} of {count} appends", said.len()).into());
    }
    Ok(said)
}

fn child(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut profile = small();
    if std::env::var_os(GROUP).is_some() {
        profile.mode = Mode::Group;
    }
    if std::env::var_os(BLOCKING).is_some() {
        profile.io_writer = WriterChoice::Blocking;
    }
    let engine = builder(dir)
        .profile(profile)
        .partition(1, |_| Lines::default())
        .start()?;
    let lines = engine.partition::<Lines>(1)?;
    let mut under_way = std::collections::VecDeque::new();
    for n in 0_u64.. {
        let line = format!("{}-{n}", std::process::id());
        under_way.push_back((lines.append(line.clone()), line));
        if under_way.len() >= IN_FLIGHT
            && let Some((future, line)) = under_way.pop_front()
        {
            future.wait()?;
            let mut out = stdout().lock();
            out.write_all(format!("{line}\n").as_bytes())?;
            out.flush()?;
        }
    }
    Ok(())
}
