//! The guardrails of group mode, on whole cores whose leader has a slow disk: what holds a partition back, for how long,
//! and what its status says meanwhile.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use clustor_engine::outcome::{Outcome, RefusalClause};
use clustor_engine::request::{Request, RequestBody};
use clustor_shards::log::Mode;
use clustor_wire::message::DurabilityMode::{self, Group, Strict};
use core_support::P;
use core_support::net::{Net, Node};

/// More than half of what a batch takes: two of them are two batches.
static LARGE: [u8; 40 << 10] = [7; 40 << 10];

/// A net whose leader leads in group mode, its leader, and the next ticket.
struct Guarded {
    net: Net,
    leader: u64,
    tickets: u64,
}

impl Guarded {
    fn new() -> Self {
        let mut net = Net::new(&[1, 2, 3]);
        net.run_ms(2_000);
        let leader = net.ready_leader();
        let guarded = Self {
            net,
            leader,
            tickets: 0,
        };
        guarded.assert_modes(Group, "");
        guarded
    }

    fn node(&mut self) -> &mut Node {
        self.net.nodes.get_mut(&self.leader).expect("here")
    }

    fn append(&mut self, payload: &[u8]) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.node().append(ticket, payload, None);
    }

    fn run_ms(&mut self, ms: u64) {
        self.net.run_ms(ms);
        assert_eq!(self.net.ready_leader(), self.leader, "it leads all along");
    }

    /// Chains that its leader has submitted.
    fn chains(&self) -> u64 {
        let log = self.net.nodes[&self.leader].core.log();
        log.retired_chain().get() + log.chains_in_flight() as u64
    }

    /// Group was asked for: this is in force on every replica, and its leader says why.
    fn assert_modes(&self, mode: DurabilityMode, why: &str) {
        for id in self.net.nodes.keys() {
            let (now, wanted, held_back) = self.net.mode_on(*id);
            assert_eq!((now, wanted), (mode, Group), "node {id}: {held_back}");
            let why = if *id == self.leader { why } else { "" };
            assert_eq!(held_back, why, "node {id}");
        }
    }

    /// Something is appended, and in force everywhere after that is this.
    fn assert_modes_after_an_append(&mut self, mode: DurabilityMode, why: &str) {
        self.append(b"wakes it");
        self.run_ms(200);
        self.assert_modes(mode, why);
    }

    /// The disk takes a while, less than what counts as slow, and as many batches as `late` wait behind a full pipeline
    /// for longer than they may. Ends in the turn in which the last of them went to the disk.
    fn stall(&mut self, late: u64) {
        let log = self.net.nodes[&self.leader].core.log();
        let (pipeline, batch_ms) = {
            let options = log.options();
            assert!(90 < options.slow_chain_ms);
            (options.chains_in_flight_max, options.batch_ms_max)
        };
        self.node().slow_ms = 90;
        let before = self.chains();
        for _ in 0..pipeline {
            self.append(b"fills the pipeline");
            self.run_ms(1);
        }
        assert_eq!(self.chains() - before, pipeline as u64);
        for _ in 0..late {
            self.append(&LARGE);
        }
        self.run_ms(2 * batch_ms + 1);
        assert_eq!(self.chains() - before, pipeline as u64, "they wait");
        while self.chains() - before < pipeline as u64 + late {
            self.run_ms(1);
        }
    }

    fn overrun(&mut self) {
        self.stall(2);
        self.node().slow_ms = 0;
        self.run_ms(300);
    }

    fn slow_chains(&mut self, count: usize) {
        let log = self.net.nodes[&self.leader].core.log();
        let slow_ms = log.options().slow_chain_ms + 1;
        for _ in 0..count {
            self.append(b"takes long");
            self.node().slow_ms = slow_ms;
            self.run_ms(1);
            // What is written because of it does not.
            self.node().slow_ms = 0;
            self.run_ms(slow_ms);
        }
        self.run_ms(300);
    }

    /// Why group mode is refused to who asks for it, and when it may be asked for again.
    fn refused(&mut self) -> (String, u32) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.node().inbox.requests.push(Request {
            ticket,
            partition: P,
            body: RequestBody::Mode(Mode::Group),
        });
        self.run_ms(100);
        match self.node().outcome(ticket).expect("answered") {
            Outcome::NotExecuted { refusal } => {
                assert_eq!(refusal.clause, RefusalClause::ModeConflict);
                (refusal.message, refusal.retry_after_ms)
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    fn assert_all_applied(&mut self) {
        for ticket in 1..=self.tickets {
            let outcome = self.node().outcome(ticket).expect("answered");
            assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
        }
    }
}

#[test]
fn two_batches_in_a_row_that_wait_too_long_make_the_partition_strict_between_two_batches() {
    let mut guarded = Guarded::new();
    let before = guarded.chains();
    guarded.stall(2);
    let stalled = guarded.chains() - before;
    // The turn that hears of it still takes these in group mode, before it changes the mode.
    for _ in 0..5 {
        guarded.append(b"grouped");
    }
    guarded.run_ms(1);
    let (mode, wanted, held_back) = guarded.net.mode_on(guarded.leader);
    assert_eq!((mode, wanted), (Strict, Group));
    assert_eq!(held_back, "backoff");
    for _ in 0..4 {
        guarded.append(b"alone");
    }
    guarded.run_ms(1);
    guarded.node().slow_ms = 0;
    guarded.run_ms(300);
    assert_eq!(
        guarded.chains() - before,
        stalled + 1 + 1 + 4,
        "what was grouped, the change, each alone"
    );
    guarded.assert_modes(Strict, "backoff");
    guarded.assert_all_applied();
}

#[test]
fn one_batch_that_waits_too_long_changes_nothing() {
    let mut guarded = Guarded::new();
    for _ in 0..3 {
        guarded.stall(1);
        guarded.node().slow_ms = 0;
        guarded.run_ms(300);
        guarded.assert_modes_after_an_append(Group, "");
    }
    guarded.assert_all_applied();
}

#[test]
fn a_downgrade_lasts_a_minute_and_the_next_one_two() {
    let mut guarded = Guarded::new();
    for seconds in [60, 120] {
        guarded.overrun();
        guarded.assert_modes(Strict, "backoff");
        guarded.run_ms((seconds - 2) * 1_000);
        guarded.assert_modes_after_an_append(Strict, "backoff");
        guarded.run_ms(2_000);
        guarded.assert_modes_after_an_append(Group, "");
    }
    guarded.assert_all_applied();
}

#[test]
fn a_downgrade_ends_where_nothing_else_happens() {
    let mut guarded = Guarded::new();
    guarded.overrun();
    guarded.assert_modes(Strict, "backoff");
    guarded.run_ms(62_000);
    guarded.assert_modes(Group, "");
}

#[test]
fn who_asks_for_group_mode_in_a_downgrade_is_told_when_it_ends() {
    let mut guarded = Guarded::new();
    guarded.overrun();
    guarded.run_ms(10_000);
    let (message, retry_ms) = guarded.refused();
    assert!(message.contains("backoff"), "{message}");
    assert!((45_000..50_000).contains(&retry_ms), "{retry_ms}");
}

#[test]
fn three_slow_chains_in_a_minute_make_the_partition_strict_until_the_minute_is_over() {
    let mut guarded = Guarded::new();
    guarded.slow_chains(2);
    guarded.assert_modes_after_an_append(Group, "");
    guarded.run_ms(62_000);
    // These are forgotten: two more are two.
    guarded.slow_chains(2);
    guarded.assert_modes_after_an_append(Group, "");
    guarded.slow_chains(1);
    let why = "device_latency (3 slow chains in a minute)";
    guarded.assert_modes_after_an_append(Strict, why);
    let (message, _) = guarded.refused();
    assert!(message.contains(why), "{message}");
    guarded.run_ms(55_000);
    guarded.assert_modes_after_an_append(Strict, why);
    guarded.run_ms(6_000);
    guarded.assert_modes_after_an_append(Group, "");
}

#[test]
fn slow_chains_are_forgotten_where_nothing_else_happens() {
    let mut guarded = Guarded::new();
    guarded.slow_chains(3);
    guarded.assert_modes(Strict, "device_latency (3 slow chains in a minute)");
    guarded.run_ms(62_000);
    guarded.assert_modes(Group, "");
}
