//! How partitions are made durable: changes that are asked for, and those that the guardrails ask for.

use clustor_shards::log::Mode;
use clustor_shards::turn::{ConnectionId, Time};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{Refusal, RefusalClause};

use super::ShardCore;
use crate::outcome::Outcome;
use crate::partition::{Answer, Origin, refusal};

/// What stands in a certificate's name between the trust domain and an operator's own name.
const OPERATOR: &str = "operator";

/// Whether this is an operator's name: `spiffe://<trust-domain>/operator/<name>`.
fn is_operator(name: &str) -> bool {
    name.split('/').nth(3) == Some(OPERATOR)
}

impl ShardCore {
    /// A client's connection began, under the name that its certificate proved.
    pub(super) fn client_opened(&mut self, connection: ConnectionId, name: &str) {
        if is_operator(name) {
            self.operators.insert(connection);
        }
    }

    pub(super) fn client_closed(&mut self, connection: ConnectionId) {
        self.operators.remove(&connection);
        self.forget_reloads_of(connection);
    }

    /// Lets every touched partition move to the mode that is asked for and allowed, and to the number of keys that its
    /// leader's profile asks for.
    pub(super) fn tend_modes(&mut self, now: Time) {
        if !self.shared.log.is_open() {
            return;
        }
        let facts = self.shared.facts(now);
        for id in &self.touched {
            if let Some(partition) = self.partitions.get_mut(id) {
                partition.tend_mode(&mut self.shared.lend(now), facts);
                partition.tend_keys_max(&mut self.shared.lend(now));
            }
        }
    }

    /// Lets timers that are due expire, in every touched partition that is led here.
    pub(super) fn tend_timers(&mut self, now: Time) {
        if !self.shared.log.is_open() {
            return;
        }
        for id in &self.touched {
            if let Some(partition) = self.partitions.get_mut(id)
                && !partition.timers().is_empty()
            {
                let admitted = self.shared.admit_entry(0).is_ok();
                partition.tend_timers(&mut self.shared.lend(now), admitted);
            }
        }
    }

    /// Partitions whose group batches waited too long: they are looked at in the next turn.
    pub(super) fn take_overruns(&mut self, now: Time) {
        for id in self.shared.log.take_overruns() {
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.on_overrun(now);
                self.touched.insert(id);
            }
        }
    }

    /// Somebody asks for a mode; the answer comes when the change is applied.
    pub(super) fn ask_mode(
        &mut self,
        now: Time,
        stopping: bool,
        id: PartitionId,
        origin: Origin,
        wanted: Mode,
    ) {
        if let Err(refused) = self.try_ask_mode(now, stopping, id, origin, wanted) {
            let outcome = Outcome::NotExecuted { refusal: refused };
            self.answers.push((id, Answer::Append(origin, outcome)));
        }
    }

    fn try_ask_mode(
        &mut self,
        now: Time,
        stopping: bool,
        id: PartitionId,
        origin: Origin,
        wanted: Mode,
    ) -> Result<(), Refusal> {
        if let Origin::Client(connection, _) = origin
            && !self.operators.contains(&connection)
        {
            return Err(refusal(
                RefusalClause::Forbidden,
                format!("partition {id}: only an operator's certificate may change the mode"),
                0,
            ));
        }
        self.admit_to(stopping, id)?;
        let not_here = self.not_here(id);
        let facts = self.shared.facts(now);
        self.shared.admit_entry(0)?;
        let partition = self.partitions.get_mut(&id).ok_or(not_here)?;
        partition.ask_mode(&mut self.shared.lend(now), facts, wanted, origin)?;
        self.touched.insert(id);
        Ok(())
    }
}
