//! The test kit for embedders: the documented example, a machine on disk, and what a failure says.

// The example's `main` is not called here.
#[allow(dead_code)]
#[path = "../examples/own_machine.rs"]
mod example;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use clustor_engine::machine::{Applied, Batch, Effects, MachineError, Opened, StateMachine};
use clustor_sim::simulation::{Place, Simulation};
use clustor_wire::ids::LogIndex;

#[test]
fn the_example_holds() {
    example::test_auction().unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn planted_nondeterminism_is_found_and_replayed() {
    let failed = example::test_careless().expect_err("its order differs between replicas");
    let text = failed.to_string();
    assert!(text.contains("machines agree at equal indexes"), "{text}");
    assert!(text.contains("they last agreed at index"), "{text}");
    let replay = format!(
        "replay: CLUSTOR_SIM_SEED={} cargo test planted_nondeterminism_is_found_and_replayed",
        failed.seed
    );
    assert!(text.contains(&replay), "{text}");
}

/// How much was counted, up to which index.
type Disk = Arc<Mutex<(u64, LogIndex)>>;

/// Counts commands. What it counted is on its disk, every so many batches.
#[derive(Default)]
struct OnDisk {
    disk: Disk,
    /// Says that it has less than it has, or forgets what it counted.
    lies: bool,
    batches: u64,
    counted: u64,
}

impl StateMachine for OnDisk {
    fn open(&mut self) -> Result<Opened, MachineError> {
        let (counted, index) = *self.disk.lock().expect("nobody panics with it");
        self.counted = counted;
        Ok(if self.lies {
            Opened::default()
        } else {
            Opened::at(index)
        })
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            self.counted += 1;
            out.reply(item.index, &self.counted.to_le_bytes());
        }
        self.batches += 1;
        if self.batches.is_multiple_of(3) {
            *self.disk.lock().expect("nobody panics with it") = (self.counted, batch.last_index());
        }
        Applied::Ack
    }

    fn digest(&self) -> Option<u64> {
        Some(self.counted)
    }
}

fn on_disk(lies: bool) -> impl Fn(Place) -> OnDisk + Send + Sync {
    let disks: Mutex<BTreeMap<Place, Disk>> = Mutex::default();
    move |place| OnDisk {
        disk: Arc::clone(
            disks
                .lock()
                .expect("nobody panics with it")
                .entry(place)
                .or_default(),
        ),
        lies,
        ..OnDisk::default()
    }
}

#[test]
fn a_machine_on_disk_goes_on_where_it_stood() {
    for seed in 0..20 {
        Simulation::new(seed)
            .partitions(2)
            .machine(on_disk(false))
            .workload(|_, dice| vec![b'x'; 1 + dice.below(100) as usize])
            .run()
            .unwrap_or_else(|failed| panic!("{failed}"));
    }
}

#[test]
fn one_that_is_given_again_what_it_has_is_found() {
    let found = (0..40).find_map(|seed| {
        Simulation::new(seed)
            .machine(on_disk(true))
            .workload(|_, _| b"x".to_vec())
            .run()
            .err()
    });
    let failed = found.expect("nodes restart on some of the seeds");
    assert!(failed.what.contains("machines agree"), "{failed}");
}

/// Gives up on some commands.
struct Weak {
    panics: bool,
}

impl StateMachine for Weak {
    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        match batch.iter().find(|item| item.command == b"bad") {
            Some(_) if self.panics => std::panic::resume_unwind(Box::new("it was bad")),
            Some(_) => Applied::Fatal("it was bad".to_owned()),
            None => Applied::Ack,
        }
    }
}

#[test]
fn one_that_fails_is_found() {
    for panics in [false, true] {
        let failed = Simulation::new(1)
            .nodes(1)
            .machine(move |_| Weak { panics })
            .workload(|_, dice| {
                if dice.chance(5) {
                    b"bad".to_vec()
                } else {
                    b"good".to_vec()
                }
            })
            .run()
            .expect_err("it fails");
        assert!(
            failed.what.contains("the machine does not fail"),
            "{failed}"
        );
        assert!(failed.what.contains("it was bad"), "{failed}");
    }
}

#[test]
fn a_run_is_the_same_each_time() {
    let run = || {
        Simulation::new(7)
            .nodes(5)
            .machine(on_disk(false))
            .workload(|op, dice| vec![op as u8, dice.below(9) as u8])
            .run()
            .unwrap_or_else(|failed| panic!("{failed}"))
    };
    assert_eq!(run(), run());
}
