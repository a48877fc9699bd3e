//! Reads: what each relies on, whether the gate lets it, and when the machine has got far enough for it.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{ReadLevel, Refusal, RefusalClause};

use super::{Answer, MachineSlot, Origin, Partition, ReadWhat, refusal};
use crate::gate::{ControlFacts, ReadFacts, linearizable_read};
use crate::raft::{LeaseClause, ReadError, ReadReady, Turn};

/// When a read that the gate forbids may be asked for again, in milliseconds.
const GATE_RETRY_MS: u32 = 250;

/// A read, as it was asked for.
pub(crate) struct Asked {
    /// Who asks.
    pub origin: Origin,
    /// What it relies on.
    pub level: ReadLevel,
    /// What it asks.
    pub what: ReadWhat,
}

/// A read that waits.
pub(super) struct PendingRead {
    origin: Origin,
    what: ReadWhat,
}

impl Partition {
    /// Takes a read; the answer comes later, maybe within the turn.
    pub(crate) fn start_read(
        &mut self,
        turn: &Turn<'_>,
        control: ControlFacts,
        asked: Asked,
        answers: &mut Vec<Answer>,
    ) {
        let token = self.next_read;
        self.next_read += 1;
        let Asked {
            origin,
            level,
            what,
        } = asked;
        let bytes = what.bytes();
        match self.admit_read(turn, control, level, token) {
            Ok(None) => {
                self.busy.read_bytes += bytes;
                self.busy
                    .reads_by_token
                    .insert(token, PendingRead { origin, what });
            }
            Ok(Some(ready)) => {
                self.busy.read_bytes += bytes;
                self.busy
                    .reads_confirmed
                    .push((ready, PendingRead { origin, what }));
            }
            Err(refused) => answers.push(Answer::Refused(origin, what, refused)),
        }
    }

    /// When it may be answered, if that is known at once.
    fn admit_read(
        &mut self,
        turn: &Turn<'_>,
        control: ControlFacts,
        level: ReadLevel,
        token: u64,
    ) -> Result<Option<ReadReady>, Refusal> {
        if level == ReadLevel::Local {
            return Ok(Some(ReadReady {
                partition: self.id,
                token,
                level,
                term: self.replica.term(),
                index: LogIndex::ZERO,
            }));
        }
        self.admit()?;
        if !self.replica.is_leader() {
            return Err(self.not_leader(self.replica.leader()));
        }
        if let Err(clause) = linearizable_read(&self.read_facts(control)) {
            self.replica.lose_lease();
            return Err(refusal(
                RefusalClause::ReadGate,
                format!(
                    "partition {}: linearizable reads are not allowed: {clause}",
                    self.id
                ),
                GATE_RETRY_MS,
            ));
        }
        let by_lease = match level {
            ReadLevel::Lease => self.replica.lease_read(turn, token),
            _ => Ok(None),
        };
        let asked = match by_lease {
            Ok(None) => self.replica.read_index(token).map(|()| None),
            known => known,
        };
        asked.map_err(|error| self.read_refusal(&error))
    }

    /// Whether a read by lease would be answered without asking anybody, and the clause by which a leader can't; empty where
    /// it can, and where it does not lead.
    pub(super) fn lease_status(
        &self,
        now: Time,
        clock_alarm: bool,
        control: ControlFacts,
    ) -> (bool, String) {
        if let Err(clause) = linearizable_read(&self.read_facts(control))
            && self.replica.is_leader()
        {
            return (false, clause.name().to_owned());
        }
        match self.replica.holds_lease(now, clock_alarm) {
            Ok(()) => (true, String::new()),
            Err(LeaseClause::NotLeading) => (false, String::new()),
            Err(clause) => (false, clause.name().to_owned()),
        }
    }

    fn read_facts(&self, control: ControlFacts) -> ReadFacts {
        ReadFacts {
            strict_fallback: control.strict_fallback,
            control_plane_fresh: control.is_fresh,
            proof_matches: control
                .proof
                .is_none_or(|(term, index)| self.replica.holds(term, index)),
            ..ReadFacts::default()
        }
    }

    fn read_refusal(&self, error: &ReadError) -> Refusal {
        let message = format!("partition {}: {error}", self.id);
        match error {
            ReadError::NotLeader { leader } => self.not_leader(*leader),
            ReadError::Full { .. } => refusal(RefusalClause::Busy, message, 250),
            ReadError::MissingContent { .. } => {
                refusal(RefusalClause::MissingContent, message, 1000)
            }
        }
    }

    /// What can still be had of a partition whose only voter is quarantined for damage in its log.
    pub(super) fn why_read_only(&self) -> String {
        format!(
            "this is its only voter, and its log is damaged: reads at level local have what stands before the damage, up to index {}, everything else is refused; see docs/operations.md, Quarantine",
            self.replica.applicable()
        )
    }

    /// The refusal of everything but such a read.
    pub(crate) fn read_only_refusal(&self) -> Refusal {
        refusal(
            RefusalClause::MissingContent,
            format!("partition {}: {}", self.id, self.why_read_only()),
            1000,
        )
    }

    /// Leadership of the read was confirmed.
    pub(crate) fn on_read_ready(&mut self, ready: ReadReady) {
        if let Some(read) = self.busy.reads_by_token.remove(&ready.token) {
            self.busy.reads_confirmed.push((ready, read));
        }
    }

    /// The read can't be answered here.
    pub(crate) fn on_read_failed(
        &mut self,
        token: u64,
        leader: Option<PeerId>,
        answers: &mut Vec<Answer>,
    ) {
        if let Some(read) = self.busy.reads_by_token.remove(&token) {
            self.busy.read_bytes -= read.what.bytes();
            let refused = self.not_leader(leader);
            answers.push(Answer::Refused(read.origin, read.what, refused));
        }
    }

    /// Hands out the reads the machine has got far enough for.
    pub(crate) fn release_reads(&mut self, answers: &mut Vec<Answer>) {
        if self.busy.reads_confirmed.is_empty() {
            return;
        }
        let applied = self.applied;
        let failed = match &self.machine {
            MachineSlot::Running(_) => None,
            MachineSlot::Failed(trouble) => Some(refusal(
                RefusalClause::MachineFailed,
                format!("partition {}: the machine {trouble}", self.id),
                250,
            )),
        };
        let stuck = self.stuck().map(|stuck| self.stuck_refusal(stuck));
        for (ready, read) in core::mem::take(&mut self.busy.reads_confirmed) {
            let behind = stuck.as_ref().filter(|_| ready.index > applied);
            let refused = failed.as_ref().or(behind);
            if refused.is_none() && ready.index > applied {
                self.busy.reads_confirmed.push((ready, read));
                continue;
            }
            self.busy.read_bytes -= read.what.bytes();
            answers.push(match refused {
                Some(refused) => Answer::Refused(read.origin, read.what, refused.clone()),
                None => Answer::Read(read.origin, read.what, ready),
            });
        }
    }

    /// Leadership is lost: whether the entries ever come that confirmed reads wait for, nobody here knows.
    pub(super) fn give_up_unreached(&mut self, answers: &mut Vec<Answer>) {
        let applied = self.applied;
        let refused = self.not_leader(None);
        let confirmed = core::mem::take(&mut self.busy.reads_confirmed).into_iter();
        for (ready, read) in confirmed {
            if ready.index > applied {
                self.busy.read_bytes -= read.what.bytes();
                answers.push(Answer::Refused(read.origin, read.what, refused.clone()));
            } else {
                self.busy.reads_confirmed.push((ready, read));
            }
        }
    }

    /// Bytes of the queries that wait.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.busy.read_bytes
    }

    /// The reads that wait are refused.
    pub(crate) fn give_up_reads(&mut self, refused: &Refusal, answers: &mut Vec<Answer>) {
        self.busy.read_bytes = 0;
        let waiting = core::mem::take(&mut self.busy.reads_by_token).into_values();
        let confirmed = core::mem::take(&mut self.busy.reads_confirmed)
            .into_iter()
            .map(|(_, read)| read);
        for read in waiting.chain(confirmed) {
            answers.push(Answer::Refused(read.origin, read.what, refused.clone()));
        }
    }
}
