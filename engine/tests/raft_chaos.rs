//! Long random lives of small clusters: crashes, stalled disks, partitions, lost, repeated and late packets. Every turn is
//! checked (one leader per term, one entry per applied index, watermarks that only rise); what was acknowledged stays; and
//! once the faults stop, everybody comes to agree in bounded time.

mod raft_support;

use std::collections::BTreeMap;

use clustor_engine::raft::{Limits, NewEntry};
use clustor_wire::ids::{LogIndex, Term};
use raft_support::Cluster;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

struct Dice(SplitMix64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0.next_u64() % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }
}

struct Life {
    cluster: Cluster,
    dice: Dice,
    voters: usize,
    proposed: BTreeMap<(Term, LogIndex), Vec<u8>>,
    acknowledged: BTreeMap<LogIndex, (Term, Vec<u8>)>,
    reads: BTreeMap<u64, LogIndex>,
    number: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(SplitMix64::seed_from_u64(seed));
        let voters = [3, 3, 5][dice.below(3) as usize];
        let limits = Limits {
            batch_bytes_max: 200 + dice.below(2000) as usize,
            ..Limits::default()
        };
        let cache = 1000 + dice.below(20_000) as usize;
        Self {
            cluster: Cluster::with(voters, limits, cache),
            dice,
            voters,
            proposed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            reads: BTreeMap::new(),
            number: 0,
        }
    }

    fn some_node(&mut self) -> usize {
        1 + self.dice.below(self.voters as u64) as usize
    }

    fn down(&self) -> usize {
        self.cluster.nodes.iter().filter(|node| !node.up).count()
    }

    fn fault(&mut self) {
        let node = self.some_node();
        match self.dice.below(8) {
            0 if self.cluster.node(node).up && self.down() < self.voters / 2 => {
                self.cluster.crash(node);
            }
            0 | 1 if !self.cluster.node(node).up => self.cluster.restart(node),
            2 => {
                let other = self.some_node();
                self.cluster.cut.insert((node, other));
            }
            3 => self.cluster.isolate(node),
            4 | 5 => self.cluster.heal(),
            6 => self.cluster.node(node).stalled = true,
            _ => self.cluster.node(node).stalled = false,
        }
    }

    fn client(&mut self) {
        let node = self.some_node();
        if !self.cluster.node(node).up {
            return;
        }
        self.number += 1;
        let payload = self
            .number
            .to_le_bytes()
            .repeat(1 + self.dice.below(20) as usize);
        let entry = NewEntry {
            payload: &payload,
            key: None,
            stamp_ms: self.number,
        };
        let taken = self.cluster.turn(node, |r, t| r.propose(t, &entry));
        if let Ok(position) = taken {
            self.proposed
                .insert((position.term, position.index), payload);
        }
        if self.dice.one_in(4) {
            let token = self.number;
            let newest = self.acknowledged.keys().next_back().copied();
            if self.cluster.turn(node, |r, _| r.read_index(token)).is_ok() {
                self.reads.insert(token, newest.unwrap_or_default());
            }
        }
    }

    /// Notes what leaders may acknowledge, and checks reads against what was acknowledged before they were asked.
    fn observe(&mut self) {
        for node in &mut self.cluster.nodes {
            for ready in node.ready.drain(..) {
                let newest = self.reads.remove(&ready.token).expect("answered once");
                assert!(
                    ready.index >= newest,
                    "a read that missed an acknowledged entry"
                );
            }
            for failed in node.failed.drain(..) {
                self.reads.remove(&failed.token).expect("answered once");
            }
            if !node.up || !node.replica.is_leader() {
                continue;
            }
            let (term, committed) = (node.replica.term(), node.replica.wal_committed());
            let mine = self
                .proposed
                .range((term, LogIndex::ZERO)..=(term, committed));
            for ((term, index), payload) in mine {
                let told = self
                    .acknowledged
                    .entry(*index)
                    .or_insert_with(|| (*term, payload.clone()));
                assert_eq!(told, &(*term, payload.clone()));
            }
        }
    }

    fn step(&mut self) {
        if self.dice.one_in(12) {
            self.fault();
        }
        for _ in 0..self.dice.below(3) {
            self.client();
        }
        let (lose, late, twice) = (
            self.dice.below(20),
            self.dice.below(10),
            self.dice.below(20),
        );
        let dice = &mut self.dice;
        let repeated: Vec<_> = self
            .cluster
            .net
            .iter()
            .filter(|_| dice.below(100) < twice)
            .cloned()
            .collect();
        self.cluster.net.extend(repeated);
        self.cluster.take(|_| dice.below(100) < lose);
        let at = dice.below(1 + self.cluster.net.len() as u64) as usize;
        self.cluster.net.rotate_left(at);
        let ms = 1 + dice.below(30);
        let mut rounds = 0;
        self.cluster.pass_but(ms, |_| {
            rounds += 1;
            rounds > 2000 || dice.below(100) < 10 * late
        });
        self.observe();
    }

    fn settle(&mut self) {
        for node in 1..=self.voters {
            self.cluster.node(node).stalled = false;
            if !self.cluster.node(node).up {
                self.cluster.restart(node);
            }
        }
        self.cluster.heal();
        self.cluster.pass(8000);
        let leader = self
            .cluster
            .leader()
            .expect("faults stopped, somebody leads");
        let position = self.cluster.write(leader, &[b"the end"]);
        self.cluster.pass(1500);
        for node in 1..=self.voters {
            let applied = self.cluster.nodes[node - 1].applied;
            assert_eq!(
                applied, position.index,
                "node {node} has applied everything"
            );
            assert_eq!(self.cluster.terms(node), self.cluster.terms(leader));
        }
        for (index, told) in &self.acknowledged {
            assert_eq!(
                &self.cluster.history[index], told,
                "acknowledged at {index}"
            );
        }
    }
}

fn live(seeds: core::ops::Range<u64>) {
    let mut acknowledged = 0;
    for seed in seeds {
        // Shown by the test harness where a life fails.
        let result = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..150 {
                life.step();
            }
            life.settle();
            life.acknowledged.len()
        });
        acknowledged += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(
        acknowledged > 100,
        "only {acknowledged} entries were acknowledged"
    );
}

#[test]
fn lives_of_seeds_0_to_49_lose_nothing_and_come_to_rest() {
    live(0..50);
}

#[test]
fn lives_of_seeds_50_to_99_lose_nothing_and_come_to_rest() {
    live(50..100);
}
