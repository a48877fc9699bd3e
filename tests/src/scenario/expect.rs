//! What a script expects, compared with what is.

use std::collections::BTreeSet;

use clustor_engine::outcome::Leadership;
use clustor_engine::raft::Change;
use clustor_engine::raft::configuration::Standing;
use clustor_wire::ids::{LogIndex, NodeId};
use clustor_wire::message::Role;

use super::line::{Answer, Expectation, Number};
use super::play::{Became, P, Stage};
use crate::cluster::host::Host;
use crate::cluster::machine::History;

/// A number of a host, by name.
fn value(host: &Host, name: &str) -> Result<u64, String> {
    let partition = host
        .partition(P)
        .ok_or_else(|| format!("node {} is down", host.id.node))?;
    let status = partition.status();
    let state = host
        .core
        .as_ref()
        .and_then(|core| core.log().partition(P))
        .map(|log| log.hard_state)
        .unwrap_or_default();
    Ok(match name {
        "term" => status.term.get(),
        "last" => status.last_index.get(),
        "durable" => status.durable.get(),
        "committed" => status.wal_committed.get(),
        "applied" => status.applied.get(),
        "missing" => status.missing,
        "trouble" => u64::from(!status.trouble.is_empty()),
        "shard_trouble" => {
            let status = host.core.as_ref().map(|core| core.status(None));
            u64::from(status.is_some_and(|status| !status.trouble.is_empty()))
        }
        "lease" => {
            let now = host.core.as_ref().map(|core| core.status(Some(P)));
            let held = now.is_some_and(|now| now.partitions.iter().all(|p| p.lease_held));
            u64::from(held)
        }
        "p99" => status.apply_p99_us.unwrap_or(0),
        "breaches" => status.apply_breaches,
        "backlog" => status.apply_backlog_max.unwrap_or(0),
        "keys_max" => u64::from(partition.keys_max().get()),
        "voters" => {
            let configuration = partition.configuration();
            configuration
                .halves()
                .last()
                .map_or(0, |half| half.len() as u64)
        }
        "halves" => partition.configuration().halves().count() as u64,
        "change" => match partition.change() {
            Change::None => 0,
            Change::Joint { exit: None, .. } => 1,
            Change::Joint { exit: Some(_), .. } => 2,
            Change::Finishing { .. } => 3,
        },
        "member" => match partition.configuration().standing(host.id) {
            None => 0,
            Some(Standing::Voter) => 1,
            Some(Standing::Learner) => 2,
            Some(Standing::Observer) => 3,
        },
        "towards" => match partition.leadership() {
            Leadership::Follower => 0,
            Leadership::Elected { .. } => 1,
            Leadership::Ready { .. } => 2,
            Leadership::Draining => 3,
            Leadership::Lost => 4,
        },
        "vote" => state.vote.map_or(0, NodeId::get),
        _ => {
            return Err(format!(
                "{name} is not term, last, durable, committed, applied, missing, trouble, shard_trouble, lease, keys_max, p99, breaches, backlog, vote, voters, halves, change, member or towards"
            ));
        }
    })
}

fn role_name(host: &Host) -> &'static str {
    match Stage::role(host) {
        None => "down",
        Some(Role::Follower) => "follower",
        Some(Role::PreCandidate) => "pre-candidate",
        Some(Role::Candidate) => "candidate",
        Some(Role::Leader) => "leader",
        Some(Role::Quarantined) => "quarantined",
    }
}

fn as_expected(holds: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found()) }
}

impl Stage {
    pub(super) fn expect(&self, expectation: &Expectation) -> Result<(), String> {
        match expectation {
            Expectation::Node {
                node,
                role,
                numbers,
            } => self.expect_nodes(*node, role.as_deref(), numbers),
            Expectation::Has(node, texts) => {
                let host = self.world.host(self.shard(*node)?);
                let taken = host.and_then(|host| host.history(P)).map(|h| h.taken());
                let found: Vec<String> = taken
                    .unwrap_or_default()
                    .iter()
                    .map(|taken| self.text(taken.op))
                    .collect();
                as_expected(found == *texts, || format!("it has {found:?}"))
            }
            Expectation::Expired(node, names) => {
                let host = self.world.host(self.shard(*node)?);
                let expired = host.and_then(|host| host.history(P)).map(History::expired);
                let found: Vec<_> = expired
                    .unwrap_or_default()
                    .iter()
                    .map(|expiry| String::from_utf8_lossy(&expiry.timer.name))
                    .collect();
                as_expected(found == *names, || format!("expired are {found:?}"))
            }
            Expectation::Leaders(count) => {
                let leads = |host: &&Host| Self::role(host) == Some(Role::Leader);
                let found = self.world.hosts().filter(leads).count() as u64;
                as_expected(found == *count, || self.standing())
            }
            Expectation::Led(count) => {
                let led = |host: &Host| {
                    let partitions = host.core.iter().flat_map(|core| core.partitions());
                    let led =
                        partitions.filter(|partition| partition.status().role == Role::Leader);
                    led.map(|partition| partition.status().partition)
                        .collect::<Vec<_>>()
                };
                let found: BTreeSet<_> = self.world.hosts().flat_map(led).collect();
                as_expected(found.len() as u64 == *count, || {
                    format!("{} are led", found.len())
                })
            }
            Expectation::Sent(from, to, kind, compare, count) => {
                let found = self.world.sent(*from, *to, *kind);
                as_expected(compare.holds(found, *count), || {
                    format!("{found} were sent")
                })
            }
            Expectation::Answer(name, answer) => {
                let found = self
                    .answers
                    .get(name)
                    .ok_or_else(|| format!("nothing was asked as {name}"))?;
                as_expected(fits(found, answer), || format!("it is {found:?}"))
            }
        }
    }

    fn expect_nodes(
        &self,
        node: Option<NodeId>,
        role: Option<&str>,
        numbers: &[Number],
    ) -> Result<(), String> {
        if let Some(node) = node {
            self.shard(node)?;
        }
        let asked = |host: &&Host| match node {
            Some(node) => host.id.node == node,
            None => host.runs(),
        };
        for host in self.world.hosts().filter(asked) {
            let found = role_name(host);
            as_expected(role.is_none_or(|role| role == found), || self.standing())?;
            for number in numbers {
                let found = value(host, &number.name)?;
                as_expected(number.compare.holds(found, number.value), || {
                    self.standing()
                })?;
            }
        }
        Ok(())
    }

    /// How all nodes stand, in words.
    pub(super) fn standing(&self) -> String {
        let one = |host: &Host| {
            let numbers = [
                "term",
                "vote",
                "last",
                "durable",
                "committed",
                "applied",
                "voters",
                "halves",
                "change",
                "member",
            ];
            let numbers = numbers
                .iter()
                .filter_map(|name| Some(format!(" {name}={}", value(host, name).ok()?)));
            format!(
                "node {} {}{}",
                host.id.node,
                role_name(host),
                numbers.collect::<String>()
            )
        };
        let all: Vec<String> = self.world.hosts().map(one).collect();
        let committed: LogIndex = self.world.consensus().committed(P);
        format!("{}; committed is {committed}", all.join(", "))
    }
}

fn fits(found: &Became, answer: &Answer) -> bool {
    match (found, answer) {
        (Became::Applied { duplicate }, Answer::Applied) => !duplicate,
        (Became::Applied { duplicate }, Answer::Duplicate) => *duplicate,
        (Became::Begun, Answer::Begun) => true,
        (Became::Unknown, Answer::Unknown) | (Became::Waiting, Answer::Waiting) => true,
        (Became::Refused(_), Answer::Refused(None)) => true,
        (Became::Refused(clause), Answer::Refused(Some(name))) => format!("{clause:?}") == *name,
        (Became::Saw(found), Answer::Sees(texts)) => found == texts,
        _ => false,
    }
}
