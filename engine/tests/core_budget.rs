//! What a machine takes over its batches, against what it may: on a core whose stopwatch is scripted.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clustor_engine::machine::{
    Applied, Batch, Effects, MachineError, Opened, StateMachine, Stopwatch,
};
use clustor_engine::outcome::{Leadership, Outcome, RefusalClause};
use clustor_engine::profile::{Profile, ProfileNews};
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::turn::{Application, Inbox, Outbox, PeerId, Time};
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{PartitionStatus, Refusal};
use core_support::{P, peer};
use support::{MemoryDisk, TestKey};

const ME: PeerId = peer(1);
const BUDGET_US: u64 = 2_000;
const BACKLOG: u64 = 64;

/// Time as the machine spends it, and what the next batches cost.
#[derive(Clone, Default)]
struct Script {
    spent_us: Arc<AtomicU64>,
    cost_us: Arc<AtomicU64>,
    /// Panics at the next batch, and there only.
    panics: Arc<AtomicBool>,
    /// What a machine on disk says at its opening.
    saved: Option<Arc<AtomicU64>>,
}

impl Script {
    fn cost(&self, us: u64) {
        self.cost_us.store(us, Ordering::Relaxed);
    }
}

impl Stopwatch for Script {
    fn read_us(&self) -> u64 {
        self.spent_us.load(Ordering::Relaxed)
    }
}

struct Slow(Script);

impl StateMachine for Slow {
    fn open(&mut self) -> Result<Opened, MachineError> {
        let saved = self.0.saved.as_ref();
        let saved = saved.map_or(0, |saved| saved.load(Ordering::Relaxed));
        Ok(Opened::at(LogIndex(saved)))
    }

    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        let cost_us = self.0.cost_us.load(Ordering::Relaxed);
        self.0.spent_us.fetch_add(cost_us, Ordering::Relaxed);
        assert!(!self.0.panics.swap(false, Ordering::Relaxed), "asked to");
        for item in batch {
            if let Some(saved) = &self.0.saved {
                saved.store(item.index.get(), Ordering::Relaxed);
            }
        }
        Applied::Ack
    }
}

/// A sole voter, each batch of which is one entry.
struct Node {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    replies: Vec<Reply>,
    script: Script,
    now: Time,
    tickets: u64,
}

fn profile() -> Profile {
    let mut profile = Profile::latency().with_segment_bytes(4 << 20);
    profile.apply_entries_max = 1;
    profile.apply_budget_us = BUDGET_US;
    profile.apply_backlog_max = BACKLOG;
    profile.queue_batches_max = 4_096;
    profile
}

impl Node {
    fn boot(script: Script, mut disk: MemoryDisk, now: Time) -> Self {
        let machine = script.clone();
        let partitions = vec![PartitionSpec {
            id: P,
            voters: vec![ME],
            factory: Box::new(move |_| Box::new(Slow(machine.clone()))),
        }];
        let config = CoreConfig {
            stopwatch: Box::new(script.clone()),
            ..core_support::config(profile(), partitions)
        };
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        let mut node = Self {
            core,
            disk,
            inbox: Inbox::default(),
            replies: Vec::new(),
            script,
            now,
            tickets: 0,
        };
        node.run_until_ready();
        node
    }

    fn new() -> Self {
        Self::boot(Script::default(), MemoryDisk::default(), Time(1_000_000))
    }

    /// The process ends, and another begins on the same disk.
    fn restarted(self) -> Self {
        Self::boot(self.script, self.disk, self.now)
    }

    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            let mut outbox = Outbox::default();
            self.inbox.now = self.now;
            self.core.turn(&mut self.inbox, &mut outbox);
            for op in outbox.disk {
                self.inbox.disk.push(self.disk.carry(op));
            }
            self.replies.append(&mut outbox.replies);
        }
    }

    /// What its machine has to apply again is read from the log, an entry at a time.
    fn run_until_ready(&mut self) {
        for _ in 0..10_000 {
            self.run_ms(1);
            let partition = self.core.partition(P).expect("there");
            if matches!(partition.leadership(), Leadership::Ready { .. })
                && partition.applied() == partition.status().last_index
            {
                return;
            }
        }
        panic!("never ready: {:?}", self.status());
    }

    fn append(&mut self) {
        self.tickets += 1;
        self.inbox.requests.push(Request {
            ticket: self.tickets,
            partition: P,
            body: RequestBody::Append {
                payload: b"x".to_vec(),
                key: None,
                wait: Wait::Applied,
                only_in: None,
            },
        });
    }

    /// So many batches, each of which costs `us`: one at a time, so that none ever waits.
    fn batches(&mut self, batches: u64, us: u64) {
        self.script.cost(us);
        self.replies.clear();
        for _ in 0..batches {
            self.append();
            self.run_ms(4);
        }
        let applied = self.replies.iter().filter(|reply| {
            matches!(
                reply,
                Reply::Append {
                    outcome: Outcome::Applied { .. },
                    ..
                }
            )
        });
        assert_eq!(applied.count() as u64, batches, "every append was applied");
    }

    /// So many appends in one turn: the refusals.
    fn burst(&mut self, appends: u64) -> Vec<Refusal> {
        self.replies.clear();
        for _ in 0..appends {
            self.append();
        }
        self.run_ms(200);
        assert_eq!(self.replies.len() as u64, appends);
        let refused = self.replies.drain(..).filter_map(|reply| match reply {
            Reply::Append {
                outcome: Outcome::NotExecuted { refusal },
                ..
            } => Some(refusal),
            _ => None,
        });
        refused.collect()
    }

    fn status(&self) -> PartitionStatus {
        self.core.partition(P).expect("there").status()
    }

    fn retune(&mut self, profile: Profile) {
        self.inbox.requests.push(Request {
            ticket: u64::MAX,
            partition: P,
            body: RequestBody::Profile(ProfileNews::Obey(Box::new(profile))),
        });
        self.run_ms(1);
        self.replies.clear();
    }
}

/// What was measured: the 99th percentile, breaches, and how many entries may wait.
fn told(status: &PartitionStatus) -> (Option<u64>, u64, Option<u64>) {
    (
        status.apply_p99_us,
        status.apply_breaches,
        status.apply_backlog_max,
    )
}

#[test]
fn a_machine_that_takes_all_of_its_budget_keeps_it() {
    let mut node = Node::new();
    assert_eq!(told(&node.status()), (None, 0, None));
    node.batches(600, BUDGET_US);
    assert_eq!(told(&node.status()), (Some(BUDGET_US), 0, None));
    assert_eq!(node.burst(3 * BACKLOG), []);
    assert_eq!(node.status().trouble, "");
}

#[test]
fn one_batch_of_a_hundred_may_be_slow_and_two_are_a_breach() {
    let mut node = Node::new();
    node.batches(99, 100);
    node.batches(1, 9_000);
    assert_eq!(told(&node.status()), (Some(112), 0, None));
    node.batches(97, 100);
    node.batches(3, 9_000);
    // In the bucket from 8192 to 10240 us.
    assert_eq!(told(&node.status()), (Some(10_240), 1, None));
}

#[test]
fn five_breaches_in_a_row_halve_what_may_wait_and_as_many_stretches_without_give_it_back() {
    let mut node = Node::new();
    node.batches(499, BUDGET_US + 1);
    assert_eq!(told(&node.status()), (Some(2_048), 4, None));
    assert_eq!(node.burst(2 * BACKLOG), []);
    node.batches(372, BUDGET_US + 1);
    let status = node.status();
    assert_eq!(told(&status), (Some(2_048), 9, Some(BACKLOG / 2)));
    assert_eq!(
        status.trouble,
        "at most 32 may wait for the machine, whose batches take up to 2048 us (99th percentile; apply_budget_us = 2000)"
    );
    let refused = node.burst(BACKLOG);
    assert_eq!(refused.len() as u64, BACKLOG / 2, "no more may wait");
    assert_eq!(refused[0].clause, RefusalClause::ApplyBudget);
    assert_eq!(
        refused[0].retry_after_ms, 3,
        "a batch, in whole milliseconds"
    );
    let said = "partition 1: 32 entries wait: at most 32 may wait for the machine";
    assert!(refused[0].message.starts_with(said), "{:?}", refused[0]);
    // The least that may wait stays.
    node.batches(1_500, BUDGET_US + 1);
    assert_eq!(node.status().apply_backlog_max, Some(16));
    assert_eq!(node.burst(16), []);
    // To the end of the stretch that the bursts began.
    node.batches(53, BUDGET_US + 1);
    // The window still tells of what was; what is counts.
    node.batches(500, 50);
    assert_eq!(node.status().apply_backlog_max, Some(BACKLOG / 2));
    node.batches(500, 50);
    let status = node.status();
    assert_eq!(status.apply_backlog_max, None);
    assert_eq!(status.apply_p99_us, Some(2_048));
    assert_eq!(status.trouble, "");
    assert_eq!(node.burst(3 * BACKLOG), []);
}

#[test]
fn a_bad_while_that_is_over_is_held_against_nobody() {
    let mut node = Node::new();
    node.batches(100, 50_000);
    node.batches(900, 50);
    assert_eq!(told(&node.status()), (Some(57_344), 1, None));
    // Two halves of the window later nothing is left of it.
    node.batches(9_100, 50);
    assert_eq!(told(&node.status()), (Some(56), 1, None));
}

#[test]
fn a_bad_moment_in_a_good_while_is_no_breach() {
    let mut node = Node::new();
    node.batches(1_000, 50);
    node.batches(9, 50_000);
    node.batches(91, 50);
    assert_eq!(told(&node.status()), (Some(56), 0, None));
}

#[test]
fn what_a_machine_made_anew_applies_again_is_measured_and_not_judged() {
    let mut node = Node::new();
    node.batches(600, 50);
    node.script.cost(5_000);
    let mut node = node.restarted();
    assert_eq!(told(&node.status()), (Some(5_120), 0, None));
    // Its machine fails while it leads: all that was applied is applied again.
    node.script.panics.store(true, Ordering::Relaxed);
    node.append();
    node.run_ms(5);
    assert!(node.status().trouble.contains("asked to"));
    node.run_until_ready();
    assert_eq!(told(&node.status()), (Some(5_120), 0, None));
    node.batches(100, 5_000);
    assert_eq!(node.status().apply_breaches, 1);
}

#[test]
fn entries_that_a_machine_on_disk_has_cost_nothing() {
    let script = Script {
        saved: Some(Arc::default()),
        ..Script::default()
    };
    let mut node = Node::boot(script, MemoryDisk::default(), Time(1_000_000));
    node.batches(600, 5_000);
    assert_eq!(node.status().apply_backlog_max, Some(BACKLOG / 2));
    let mut node = node.restarted();
    assert_eq!(told(&node.status()), (None, 0, None));
    node.batches(1, 5_000);
    assert_eq!(told(&node.status()), (Some(5_120), 0, None));
}

#[test]
fn under_another_budget_everything_begins_anew() {
    let mut node = Node::new();
    node.batches(500, 5_000);
    assert_eq!(told(&node.status()), (Some(5_120), 5, Some(BACKLOG / 2)));
    node.retune(Profile {
        apply_backlog_max: 2 * BACKLOG,
        ..profile()
    });
    assert_eq!(told(&node.status()), (Some(5_120), 5, Some(BACKLOG)));
    node.retune(Profile {
        apply_budget_us: 5_000,
        ..profile()
    });
    assert_eq!(told(&node.status()), (None, 0, None));
    node.batches(500, 5_000);
    assert_eq!(told(&node.status()), (Some(5_000), 0, None));
}
