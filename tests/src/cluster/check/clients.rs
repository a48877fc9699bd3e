//! What clients were told: every request is answered at most once, what is acknowledged is where the answer says, what is
//! refused never happens, and no operation is placed before one that had ended when it began. A shard whose control plane forbids
//! linearizable reads answers none.

use std::collections::BTreeMap;

use clustor_engine::outcome::{Outcome, ReadLevel};
use clustor_engine::request::{Reply, RequestBody, Wait};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::consensus::Consensus;
use super::{Violation, must};
use crate::cluster::control::Forbidden;
use crate::cluster::machine::{Seen, digest_of};
use crate::cluster::messages::name;

/// A shard, as it is when something is asked of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) id: PeerId,
    pub(crate) boot: u64,
    /// Its control plane forbids linearizable reads.
    pub(crate) forbidden: Option<Forbidden>,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    to: PeerId,
    /// The boot of the shard that it was sent to.
    boot: u64,
    /// The time of its control plane's forbidding in which it was sent.
    forbidden: Option<Forbidden>,
    partition: PartitionId,
    /// The operation of an append.
    op: Option<u64>,
    /// What a read relies on.
    level: ReadLevel,
    /// What an append waits for.
    wait: Wait,
    /// The greatest index known to anybody when its operation began.
    floor: LogIndex,
    /// The only term in which it may have entered the log.
    only_in: Option<Term>,
}

/// How often an operation was tried, and how often refused.
#[derive(Debug, Default, Clone, Copy)]
struct Tries {
    sent: u32,
    refused: u32,
    floor: LogIndex,
}

/// An acknowledgement: what it says is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of which partition.
    pub partition: PartitionId,
    /// The operation.
    pub op: u64,
    /// Where its entry stands.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// That the effects of the command are safe where it was asked, too.
    pub effects: bool,
}

/// What clients asked and were told.
#[derive(Debug, Default)]
pub struct Clients {
    tickets: BTreeMap<u64, Ticket>,
    issued: u64,
    tries: BTreeMap<u64, Tries>,
    /// The same at each shard alone.
    tries_at: BTreeMap<(u64, PeerId), Tries>,
    floors: BTreeMap<PartitionId, LogIndex>,
    /// Acknowledged appends.
    pub acknowledged: u64,
    /// Answered reads.
    pub reads: u64,
}

impl Clients {
    /// Notes a request; returns its ticket. Attempts of one operation share its number.
    pub(crate) fn ask(
        &mut self,
        consensus: &mut Consensus,
        to: Asked,
        partition: PartitionId,
        op: Option<u64>,
        body: &RequestBody,
    ) -> u64 {
        let (wait, only_in) = match body {
            RequestBody::Append { wait, only_in, .. } => (*wait, *only_in),
            _ => (Wait::default(), None),
        };
        let level = match body {
            RequestBody::Read { level, .. } => *level,
            _ => ReadLevel::Linearizable,
        };
        self.issued += 1;
        let now = self.floors.get(&partition).copied().unwrap_or_default();
        let floor = match op {
            None => now,
            Some(op) => {
                let first = Tries {
                    floor: now,
                    ..Tries::default()
                };
                let tries = self.tries.entry(op).or_insert(first);
                tries.sent += 1;
                let floor = tries.floor;
                self.tries_at.entry((op, to.id)).or_default().sent += 1;
                consensus.agreed_mut(partition).retry(op, to.id, only_in);
                floor
            }
        };
        let ticket = Ticket {
            to: to.id,
            boot: to.boot,
            forbidden: to.forbidden,
            partition,
            op,
            level,
            wait,
            floor,
            only_in,
        };
        self.tickets.insert(self.issued, ticket);
        self.issued
    }

    /// Looks at an answer of a shard, whose control plane may forbid linearizable reads. Returns what it acknowledges.
    pub(crate) fn on_reply(
        &mut self,
        consensus: &mut Consensus,
        (from, forbidden): (PeerId, Option<Forbidden>),
        reply: &Reply,
    ) -> Result<Option<Acknowledged>, Violation> {
        let Some(number) = reply.ticket() else {
            return Ok(None);
        };
        let asked = self
            .tickets
            .remove(&number)
            .filter(|asked| asked.to == from);
        let Some(asked) = asked else {
            return Err(Violation::new(
                "a request is answered once, by whom it was sent to",
                format!("ticket {number}: {reply:?}"),
            ));
        };
        match (reply, asked.op) {
            (Reply::Append { outcome, .. }, Some(op)) => {
                self.on_append(consensus, asked, op, outcome)
            }
            (
                Reply::Read {
                    found: Ok(found), ..
                },
                None,
            ) => {
                let seen = found.downcast_ref::<Seen>().copied();
                let Some(seen) = seen else {
                    return Err(Violation::new("a read finds what it asks", "not a Seen"));
                };
                // Between the two moments the gate was asked, whenever that was.
                let same = asked.forbidden.is_some() && asked.forbidden == forbidden;
                must(
                    asked.level == ReadLevel::Local || !same,
                    "who forbids linearizable reads answers none",
                    || format!("{}: {asked:?} found {seen:?}", name(from)),
                )?;
                self.on_read(consensus, asked, seen)?;
                Ok(None)
            }
            (
                Reply::Read { found: Err(_), .. }
                | Reply::Status { .. }
                | Reply::Members { .. }
                | Reply::Profile { .. },
                None,
            ) => Ok(None),
            _ => Err(Violation::new(
                "a request is answered in its own kind",
                format!("ticket {number}: {reply:?}"),
            )),
        }
    }

    fn on_append(
        &mut self,
        consensus: &mut Consensus,
        asked: Ticket,
        op: u64,
        outcome: &Outcome,
    ) -> Result<Option<Acknowledged>, Violation> {
        match outcome {
            Outcome::Unknown { .. } => Ok(None),
            Outcome::NotExecuted { .. } => {
                if let Some(tries) = self.tries.get_mut(&op) {
                    tries.refused += 1;
                    if tries.refused == tries.sent {
                        consensus.agreed_mut(asked.partition).refuse(op)?;
                    }
                }
                if let Some(tries) = self.tries_at.get_mut(&(op, asked.to)) {
                    tries.refused += 1;
                    if tries.refused == tries.sent {
                        consensus.refused_at(asked.partition, op, asked.to)?;
                    }
                }
                Ok(None)
            }
            Outcome::Applied {
                term,
                index,
                reply,
                duplicate,
            } => {
                self.acknowledged += 1;
                let fenced = asked.only_in.is_none_or(|wanted| wanted == *term);
                must(
                    fenced || *duplicate,
                    "an append for a term enters the log in it alone",
                    || {
                        format!(
                            "operation {op} is for {:?}, it is at {index} of term {term}",
                            asked.only_in
                        )
                    },
                )?;
                must(*index > asked.floor, "appends are linearizable", || {
                    format!(
                        "operation {op} is at index {index}, {} had ended before it began",
                        asked.floor
                    )
                })?;
                let agreed = consensus.agreed_mut(asked.partition);
                match agreed.at(*index) {
                    None => agreed.expect(*index, op)?,
                    Some((_, taken)) => {
                        must(taken.op == op, "what is acknowledged stays", || {
                            format!("operation {op} at index {index}, where {taken:?} is")
                        })?;
                        let right = reply.is_empty() || digest_of(reply) == taken.told;
                        must(
                            right && taken.term == *term && (!duplicate || reply.is_empty()),
                            "an acknowledgement is the machine's answer",
                            || format!("operation {op} at {index}: {outcome:?}, taken {taken:?}"),
                        )?;
                    }
                }
                let floor = self.floors.entry(asked.partition).or_default();
                *floor = (*floor).max(*index);
                Ok(Some(Acknowledged {
                    partition: asked.partition,
                    op,
                    index: *index,
                    term: *term,
                    effects: asked.wait == Wait::Applied,
                }))
            }
        }
    }

    fn on_read(
        &mut self,
        consensus: &Consensus,
        asked: Ticket,
        seen: Seen,
    ) -> Result<(), Violation> {
        self.reads += 1;
        // A local read may see anything that once was.
        let fresh = asked.level == ReadLevel::Local || seen.last >= asked.floor;
        must(fresh, "reads are linearizable", || {
            format!(
                "partition {}: a read ({:?}) saw up to index {}, {} had ended before it began",
                asked.partition.get(),
                asked.level,
                seen.last,
                asked.floor
            )
        })?;
        if let Some(place) = seen.len.checked_sub(1) {
            let taken = consensus.agreed(asked.partition).taken().get(place);
            let same = taken.is_some_and(|t| t.index == seen.last && t.digest == seen.digest);
            must(same, "a read sees what the machines agreed on", || {
                format!("{seen:?}, agreed {taken:?}")
            })?;
        }
        let floor = self.floors.entry(asked.partition).or_default();
        *floor = (*floor).max(seen.last);
        Ok(())
    }

    /// A request that never reached its shard, or died with it: nobody will answer.
    pub(crate) fn on_boot(&mut self, shard: PeerId, boot: u64) {
        self.tickets
            .retain(|_, asked| asked.to != shard || asked.boot == boot);
    }

    /// The end of a run: every request to a shard that lived on was answered.
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        must(self.tickets.is_empty(), "every request is answered", || {
            format!(
                "{} were not, among them {:?}",
                self.tickets.len(),
                self.tickets.first_key_value()
            )
        })
    }
}
