//! What reads rely on, as a shard has it: the gate, the levels, the clock alarm.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::{Arc, Mutex};

use clustor_engine::gate::{ControlFacts, ControlView};
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{ReadLevel, Refusal, RefusalClause};
use clustor_engine::profile::Profile;
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::turn::{Application, Inbox, Outbox, Time};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use core_support::{P, peer};
use support::{MemoryDisk, TestKey};

const WALL_US: u64 = 1_800_000_000_000_000;

#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        self.0 += batch.iter().count() as u64;
        Applied::Ack
    }
}

/// A control plane that says what it is told to.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<ControlFacts>>);

impl ControlView for Said {
    fn facts(&self, partition: PartitionId) -> ControlFacts {
        assert_eq!(partition, P);
        *self.0.lock().expect("no panic holds it")
    }
}

/// A sole voter.
struct Node {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    replies: Vec<Reply>,
    now: Time,
    /// How far the wall clock was set ahead.
    set_us: u64,
    tickets: u64,
}

impl Node {
    fn boot(said: &Said) -> Self {
        let now = Time(1_000_000);
        let me = peer(1);
        let mut profile = Profile::throughput().with_segment_bytes(1 << 20);
        profile.entry_bytes_max = 64 << 10;
        assert!(profile.leases, "the throughput profile has them on");
        let partitions = vec![PartitionSpec {
            id: P,
            voters: vec![me],
            factory: Box::new(|_| Box::new(Count::default())),
        }];
        let config = CoreConfig {
            control: Box::new(said.clone()),
            ..core_support::config(profile, partitions)
        };
        let mut disk = MemoryDisk::default();
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        let mut node = Self {
            core,
            disk,
            inbox: Inbox::default(),
            replies: Vec::new(),
            now,
            set_us: 0,
            tickets: 0,
        };
        node.run_ms(500);
        node
    }

    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            let mut outbox = Outbox::default();
            self.inbox.now = self.now;
            self.inbox.wall_us = Some(WALL_US + self.now.0 + self.set_us);
            self.core.turn(&mut self.inbox, &mut outbox);
            for op in outbox.disk {
                self.inbox.disk.push(self.disk.carry(op));
            }
            self.replies.append(&mut outbox.replies);
        }
    }

    fn ask(&mut self, body: RequestBody) -> Reply {
        self.tickets += 1;
        let ticket = self.tickets;
        self.inbox.requests.push(Request {
            ticket,
            partition: P,
            body,
        });
        self.run_ms(10);
        let at = self.replies.iter().position(|r| r.ticket() == Some(ticket));
        self.replies.remove(at.expect("answered"))
    }

    fn read(&mut self, level: ReadLevel) -> Result<u64, Refusal> {
        let read = Box::new(|machine: &dyn std::any::Any| {
            let count: &Count = machine.downcast_ref().expect("a Count");
            Box::new(count.0) as Box<dyn std::any::Any + Send>
        });
        match self.ask(RequestBody::Read { level, read }) {
            Reply::Read { found, .. } => found.map(|found| *found.downcast().expect("a number")),
            other => panic!("not a read's answer: {other:?}"),
        }
    }

    fn append(&mut self) {
        self.ask(RequestBody::Append {
            payload: b"x".to_vec(),
            key: None,
            wait: Wait::Applied,
            only_in: None,
        });
    }

    fn trouble(&self) -> String {
        self.core.status(None).trouble
    }
}

#[test]
fn the_gate_names_what_forbids_a_linearizable_read_and_lets_local_ones_pass() {
    let said = Said::default();
    let mut node = Node::boot(&said);
    node.append();
    let set = |facts: ControlFacts| *said.0.lock().expect("no panic holds it") = facts;
    let healthy = ControlFacts::default();
    let cases = [
        (
            ControlFacts {
                strict_fallback: true,
                ..healthy
            },
            "strict_fallback",
        ),
        (
            ControlFacts {
                is_fresh: false,
                ..healthy
            },
            "control_plane_stale",
        ),
        (
            ControlFacts {
                proof: Some((Term(9), LogIndex(2))),
                ..healthy
            },
            "proof_differs",
        ),
    ];
    for (facts, clause) in cases {
        set(facts);
        for level in [ReadLevel::Linearizable, ReadLevel::Lease] {
            let refused = node.read(level).expect_err("forbidden");
            assert_eq!(refused.clause, RefusalClause::ReadGate);
            assert!(refused.message.contains(clause), "{}", refused.message);
            assert!(refused.retry_after_ms >= 250);
        }
        assert_eq!(node.read(ReadLevel::Local), Ok(1));
        set(healthy);
        assert_eq!(node.read(ReadLevel::Linearizable), Ok(1));
        assert_eq!(node.read(ReadLevel::Lease), Ok(1));
    }
}

#[test]
fn a_proof_of_what_the_log_holds_forbids_nothing() {
    let said = Said::default();
    let mut node = Node::boot(&said);
    node.append();
    let status = node.core.partition(P).expect("here").status();
    *said.0.lock().expect("no panic holds it") = ControlFacts {
        proof: Some((status.term, status.last_index)),
        ..ControlFacts::default()
    };
    assert_eq!(node.read(ReadLevel::Linearizable), Ok(1));
}

#[test]
fn a_wall_clock_that_is_set_raises_the_alarm_for_ten_seconds() {
    let mut node = Node::boot(&Said::default());
    node.append();
    assert_eq!(node.trouble(), "");
    // Slewed by one part in two thousand it raises none.
    for _ in 0..3_000 {
        node.set_us += 1;
        node.run_ms(1);
    }
    assert_eq!(node.trouble(), "");
    node.set_us += 12_000;
    node.run_ms(1);
    assert!(node.trouble().contains("clocks"), "{}", node.trouble());
    // It asks a majority, its own, and answers.
    assert_eq!(node.read(ReadLevel::Lease), Ok(1));
    node.run_ms(9_900);
    assert!(node.trouble().contains("clocks"), "{}", node.trouble());
    node.run_ms(200);
    assert_eq!(node.trouble(), "");
}

#[test]
fn whoever_watches_the_clocks_may_raise_the_alarm() {
    let mut node = Node::boot(&Said::default());
    assert!(matches!(
        node.ask(RequestBody::ClockAlarm),
        Reply::Profile { .. }
    ));
    assert!(node.trouble().contains("clocks"), "{}", node.trouble());
}
