//! Timers of an embedder's machine: they expire once, also after restarts, in memory and on disk.

mod support;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clustor_engine::engine::{Engine, PartitionHandle};
use clustor_engine::machine::{
    Applied, Batch, Effects, Expired, MachineError, Opened, StateMachine, TIMERS_DUE_MAX, Timer,
};
use clustor_wire::ids::LogIndex;
use support::{PATIENCE, builder, text};

type Done = Result<(), Box<dyn Error>>;

/// Grants leases: a command is a name and the milliseconds for which it is held, or a number of leases of one millisecond.
#[derive(Default, Clone)]
struct State {
    index: LogIndex,
    held: Vec<String>,
    expired: Vec<(String, LogIndex)>,
    timers: Vec<Timer>,
}

#[derive(Default)]
struct Leases {
    state: State,
    /// Where it keeps its state, if it is on disk.
    disk: Option<Arc<Mutex<State>>>,
}

impl Leases {
    fn save(&mut self, index: LogIndex, out: &Effects) {
        self.state.index = index;
        self.state.timers = out.timers().iter().cloned().collect();
        if let Some(disk) = &self.disk {
            *disk.lock().expect("nobody panics with it") = self.state.clone();
        }
    }
}

impl StateMachine for Leases {
    fn open(&mut self) -> Result<Opened, MachineError> {
        if let Some(disk) = &self.disk {
            self.state = disk.lock().expect("nobody panics with it").clone();
        }
        Ok(Opened::at(self.state.index).with_timers(self.state.timers.clone()))
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let (name, ms) = text(item.command).split_once(' ').expect("name and ms");
            let ms = ms.parse().expect("milliseconds");
            let many = name.parse::<u32>().unwrap_or(1);
            for number in 0..many {
                let name = if many == 1 {
                    name.to_owned()
                } else {
                    number.to_string()
                };
                out.set_timer(item.index, name.as_bytes(), item.stamp.plus_ms(ms))
                    .expect("few and short");
                self.state.held.push(name);
            }
        }
        self.save(batch.last_index(), out);
        Applied::Ack
    }

    fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied {
        for timer in expired.timers {
            assert!(timer.due <= expired.stamp, "not before it is due");
            let name = text(&timer.name).to_owned();
            self.state.held.retain(|held| *held != name);
            self.state.expired.push((name, expired.index));
        }
        self.save(expired.index, out);
        Applied::Ack
    }
}

fn start(
    temp: &tempfile::TempDir,
    disk: Option<&Arc<Mutex<State>>>,
) -> Result<Engine, Box<dyn Error>> {
    let disk = disk.cloned();
    Ok(builder(temp.path())
        .partition(1, move |_| Leases {
            disk: disk.clone(),
            ..Leases::default()
        })
        .start()?)
}

fn wait_until_none_is_held(leases: &PartitionHandle<Leases>) -> Result<State, Box<dyn Error>> {
    let begun = Instant::now();
    loop {
        let state = leases.read_blocking(|leases| leases.state.clone())?;
        if state.held.is_empty() {
            return Ok(state);
        }
        assert!(begun.elapsed() < PATIENCE, "still held: {:?}", state.held);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names(state: &State) -> Vec<&str> {
    state
        .expired
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn timers_expire_by_themselves_and_survive_a_restart_of_a_machine_in_memory() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = start(&temp, None)?;
    let leases = engine.partition::<Leases>(1)?;
    leases.append_blocking("slow 60000")?;
    leases.append_blocking("b 40")?;
    leases.append_blocking("a 20")?;
    let begun = Instant::now();
    while leases.read_blocking(|l| l.state.expired.len())? < 2 {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = leases.read_blocking(|l| l.state.clone())?;
    assert_eq!(names(&before), ["a", "b"]);
    assert_eq!(before.held, ["slow"]);
    engine.shutdown(PATIENCE)?;

    let engine = start(&temp, None)?;
    let leases = engine.partition::<Leases>(1)?;
    let after = leases.read_blocking(|l| l.state.clone())?;
    assert_eq!(after.expired, before.expired, "at the same indexes");
    leases.append_blocking("slow 1")?;
    let last = wait_until_none_is_held(&leases)?;
    assert_eq!(names(&last), ["a", "b", "slow"]);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_machine_on_disk_says_which_timers_it_holds() -> Done {
    let temp = tempfile::tempdir()?;
    let disk = Arc::new(Mutex::new(State::default()));
    let engine = start(&temp, Some(&disk))?;
    engine
        .partition::<Leases>(1)?
        .append_blocking("lease 500")?;
    engine.shutdown(PATIENCE)?;

    let engine = start(&temp, Some(&disk))?;
    let leases = engine.partition::<Leases>(1)?;
    let state = wait_until_none_is_held(&leases)?;
    assert_eq!(names(&state), ["lease"]);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn many_timers_expire_in_portions() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = start(&temp, None)?;
    let leases = engine.partition::<Leases>(1)?;
    leases.append_blocking("1100 1")?;
    let state = wait_until_none_is_held(&leases)?;
    let mut portions: Vec<(LogIndex, usize)> = Vec::new();
    for (_, index) in &state.expired {
        match portions.last_mut() {
            Some((last, count)) if last == index => *count += 1,
            _ => portions.push((*index, 1)),
        }
    }
    let counts: Vec<usize> = portions.iter().map(|(_, count)| *count).collect();
    assert_eq!(
        counts,
        [TIMERS_DUE_MAX, TIMERS_DUE_MAX, 1100 - 2 * TIMERS_DUE_MAX]
    );
    engine.shutdown(PATIENCE)?;
    Ok(())
}
