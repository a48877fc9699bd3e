//! A replica in full: consensus, the machine it feeds, and everyone who waits for an answer.
//!
//! Owns the [`Replica`], the machine and its place in the log, the idempotency table, pending appends and reads. Relies on
//! the shard for records, reads from the log and delivery. Promises that every append gets exactly one outcome, and every
//! read an answer or a refusal.
//!
//! - [`idempotency`]: which keys were executed
//! - `durability`: the mode of its appends, and what the gate allows
//! - `members`: who belongs to it
//! - `deferral`: items whose side effects are not safe yet
//! - `clock`: the partition's time, and the timers that are due by it
//! - `pace`: how long the machine takes over its batches, and what may wait for it where that is too long
//! - `pause`: what a machine did not take, until it is called again
//! - `busy`: what it has only while something happens in it
//! - `reads`: what reads rely on, and when they are answered
//! - `starting`: how far a start is with applying what its log held
//! - `unread`, `lost`: an entry of a newer build, or one whose content is lost, before which applying stops
//! - `apply`: committed entries through the machine, and what becomes of it when it fails

mod apply;
mod busy;
mod clock;
mod deferral;
pub(crate) mod durability;
pub mod idempotency;
mod lost;
mod members;
pub mod pace;
mod pause;
mod reads;
mod starting;
mod unread;

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_shards::turn::{ConnectionId, PeerId, Time};
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{
    AskedAnswer, AskedNode, IdempotencyKey, LeaderAt, MEMBERS_MAX, PartitionStatus, RefetchVerdict,
    Refusal, RefusalClause, Role,
};

use crate::gate::ControlFacts;
use crate::lent::Lent;
use crate::machine::deferred::AckBox;
use crate::machine::{AnyMachine, Guarded, MachineFactory};
use crate::outcome::{Leadership, Outcome};
use crate::profile::Profile;
use crate::raft::entry::EntryKey;
use crate::raft::{
    CampaignFiled, Glance, Limits, ProposeError, QuietFiled, ReadReady, Replica, Timers,
};
use crate::request::{ReadFn, Wait};

pub use apply::{ApplyStep, MachineTrouble};
use busy::Busy;
use durability::Durability;
use idempotency::{IdempotencyTable, KeysMaxWish};
use pace::Pace;
pub(crate) use reads::Asked;
use starting::Starting;

/// Appends and reads that may wait for an answer in one partition; more are refused as Busy.
pub const WAITING_MAX: usize = 65_536;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A handle of this process, by its ticket.
    Handle(u64),
    /// A remote client, by its connection and request id.
    Client(ConnectionId, u64),
}

/// What a partition answers.
#[derive(Debug)]
pub enum Answer {
    /// What became of an append.
    Append(Origin, Outcome),
    /// A read whose time has come: run it against the machine.
    Read(Origin, ReadWhat, ReadReady),
    /// A read that is refused.
    Refused(Origin, ReadWhat, Refusal),
    /// How it stands towards leadership.
    Leadership(Leadership),
}

/// What a read asks.
pub enum ReadWhat {
    /// A closure against the machine.
    Closure(ReadFn),
    /// A query in the machine's own terms.
    Query(Vec<u8>),
}

impl ReadWhat {
    /// Bytes that it holds while it waits; what a closure captured is not counted.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Closure(_) => 0,
            Self::Query(query) => query.len() as u64,
        }
    }
}

impl core::fmt::Debug for ReadWhat {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure(..)",
            Self::Query(_) => "Query(..)",
        })
    }
}

struct PendingAppend {
    index: LogIndex,
    origin: Origin,
    key: Option<EntryKey>,
    wait: Wait,
}

/// The machine, or why there is none.
enum MachineSlot {
    Running(Guarded<Box<dyn AnyMachine>>),
    Failed(Box<MachineTrouble>),
}

/// One partition on its shard.
pub struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) replica: Replica,
    machine: MachineSlot,
    factory: MachineFactory,
    /// Entries up to here have gone through the table and, above `machine_from`, through the machine.
    applied: LogIndex,
    /// The machine said at its opening that everything up to here is in it.
    machine_from: LogIndex,
    table: Lent<IdempotencyTable>,
    keys_wish: KeysMaxWish,
    /// The greatest stamp up to the applied index, in milliseconds.
    stamp_ms: u64,
    /// How this leader's clock becomes the partition's: the stamp at a moment.
    clock: Option<(Time, u64)>,
    pub(crate) busy: Lent<Busy>,
    next_read: u64,
    /// Where handles of deferred items say what became of them.
    acks: Arc<AckBox>,
    /// Where nodes listen by the placement.
    placed: Arc<BTreeMap<NodeId, SocketAddr>>,
    /// How long an effect, or a machine without progress, may take, in milliseconds.
    patience_ms: u64,
    leadership: Leadership,
    /// Leadership is being given up for good: it is not ready again if nobody takes it.
    pub(crate) stopping: bool,
    /// The machine failed: somebody else had better lead.
    pub(crate) hand_over: bool,
    apply_entries_max: usize,
    pace: Pace,
    /// How the shard filed it while it is without a leader.
    pub(crate) filed_campaign: CampaignFiled,
    /// How the shard filed it while it is quiet.
    pub(crate) filed_quiet: Option<QuietFiled>,
    durability: Durability,
    /// While it applies what its log held at the start.
    starting: Option<Box<Starting>>,
}

/// The entry whose lost content is asked for, and of whom.
fn asked(
    replica: &Replica,
    is_connected: &dyn Fn(PeerId) -> bool,
) -> (Option<LogIndex>, Vec<AskedNode>) {
    let Some(search) = replica.refetching() else {
        return (None, Vec::new());
    };
    let answer = |peer, verdict| match verdict {
        Some(RefetchVerdict::Missing) => AskedAnswer::Missing,
        Some(RefetchVerdict::Compacted) => AskedAnswer::Compacted,
        Some(RefetchVerdict::Never) => AskedAnswer::Never,
        None if !is_connected(peer) => AskedAnswer::Unreachable,
        Some(RefetchVerdict::Have) | None => AskedAnswer::None,
    };
    let said = search.said.iter().take(MEMBERS_MAX);
    let asked = said.map(|(peer, verdict)| AskedNode {
        node: peer.node,
        answer: answer(*peer, *verdict),
    });
    (Some(search.index), asked.collect())
}

/// What is lost here, and whom it waits for.
fn lost(status: &Glance, index: Option<LogIndex>, asked: &[AskedNode]) -> String {
    let mut text = format!("the content of {} entries is lost here", status.missing);
    let Some(index) = index else {
        text.push_str(match status.role {
            Role::Quarantined => "; a quarantined replica asks for nothing",
            _ => "; it is asked for as soon as somebody leads",
        });
        return text;
    };
    text.push_str(&format!("; entry {index} is asked for"));
    for asked in asked {
        let answer = match asked.answer {
            AskedAnswer::None => "has not answered",
            AskedAnswer::Missing => "lost it too",
            AskedAnswer::Compacted => "has it only in a snapshot",
            AskedAnswer::Never => "never had it",
            AskedAnswer::Unreachable => "is not reachable",
        };
        text.push_str(&format!(", node {} {answer}", asked.node));
    }
    text
}

/// The parts of a refusal that differ.
pub(crate) fn refusal(clause: RefusalClause, message: String, retry_after_ms: u32) -> Refusal {
    Refusal {
        clause,
        message,
        retry_after_ms,
        leader: None,
        leader_at: None,
        wal_committed: None,
    }
}

impl Partition {
    pub(crate) fn new(
        id: PartitionId,
        replica: Replica,
        factory: MachineFactory,
        profile: &Profile,
        acks: &Arc<AckBox>,
        placed: &Arc<BTreeMap<NodeId, SocketAddr>>,
        now: Time,
    ) -> Self {
        let mut replica = replica;
        let recovered = replica.last_index();
        replica.set_fallback(recovered > replica.base_index());
        let mut partition = Self {
            id,
            replica,
            machine: MachineSlot::Failed(Box::new(MachineTrouble::not_opened())),
            factory,
            applied: LogIndex::ZERO,
            machine_from: LogIndex::ZERO,
            table: Lent::default(),
            keys_wish: KeysMaxWish::new(profile),
            stamp_ms: 0,
            clock: None,
            busy: Lent::default(),
            next_read: 0,
            acks: Arc::clone(acks),
            placed: Arc::clone(placed),
            patience_ms: profile.ack_ms_max,
            leadership: Leadership::Follower,
            stopping: false,
            hand_over: false,
            apply_entries_max: usize::try_from(profile.apply_entries_max).unwrap_or(512),
            pace: Pace::new(profile),
            filed_campaign: CampaignFiled::No,
            filed_quiet: None,
            durability: Durability::new(recovered),
            starting: None,
        };
        partition.open_machine(now);
        partition
    }

    /// Obeys the profile from here on, in what can be turned while it runs.
    pub(crate) fn retune(
        &mut self,
        now: Time,
        timers: Arc<Timers>,
        limits: Arc<Limits>,
        profile: &Profile,
    ) {
        self.replica.retune(now, timers, limits);
        self.apply_entries_max = usize::try_from(profile.apply_entries_max).unwrap_or(512);
        self.patience_ms = profile.ack_ms_max;
        self.keys_wish.retune(profile);
        self.pace.retune(profile);
    }

    /// Applied up to here.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// How it stands towards leadership.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// The machine's digest, if it runs and offers one.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        match &self.machine {
            MachineSlot::Running(machine) => machine.get().digest(),
            MachineSlot::Failed(_) => None,
        }
    }

    /// The machine, if it runs.
    #[must_use]
    pub fn machine(&self) -> Option<&dyn AnyMachine> {
        match &self.machine {
            MachineSlot::Running(machine) => Some(machine.get().as_ref()),
            MachineSlot::Failed(_) => None,
        }
    }

    /// Whether appends or reads wait for an answer.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.busy.appends.is_empty()
            || !self.busy.deferrals.is_empty()
            || !self.busy.reads_by_token.is_empty()
            || !self.busy.reads_confirmed.is_empty()
    }

    /// Whether one more may wait, and the machine can take what it waits for.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        if let MachineSlot::Failed(trouble) = &self.machine {
            return Err(refusal(
                RefusalClause::MachineFailed,
                format!("partition {}: the machine {trouble}", self.id),
                250,
            ));
        }
        if let Some(stuck) = self.stuck() {
            return Err(self.stuck_refusal(stuck));
        }
        let busy = &*self.busy;
        let appends = busy.appends.len() + busy.deferrals.waiting();
        if appends + busy.reads_by_token.len() + busy.reads_confirmed.len() >= WAITING_MAX {
            return Err(refusal(
                RefusalClause::Busy,
                format!("partition {}: {WAITING_MAX} requests wait already", self.id),
                250,
            ));
        }
        Ok(())
    }

    /// Whether an append for this term may enter the log.
    pub(crate) fn fence(&self, only_in: Option<Term>) -> Result<(), Refusal> {
        let term = self.replica.term();
        match only_in {
            Some(wanted) if wanted != term => Err(refusal(
                RefusalClause::TermChanged,
                format!(
                    "partition {}: the append is for term {wanted}, this is term {term}",
                    self.id
                ),
                0,
            )),
            _ => Ok(()),
        }
    }

    /// Whether an append under this key may be, or become, a duplicate: then the first one's outcome is its answer,
    /// whatever the machine says to the command by now.
    fn may_be_known(&self, key: &EntryKey) -> bool {
        let waits = |append: &PendingAppend| append.key.is_some_and(|k| k.key == key.key);
        !self.is_ready()
            || self.table.knows(&key.key)
            || self.table.may_have_forgotten(key)
            || self.busy.appends.iter().any(waits)
    }

    /// Notes an append that was proposed at `index`.
    pub(crate) fn await_append(
        &mut self,
        index: LogIndex,
        origin: Origin,
        key: Option<EntryKey>,
        wait: Wait,
    ) {
        self.busy.appends.push_back(PendingAppend {
            index,
            origin,
            key,
            wait,
        });
    }

    /// The refusal of a replica that does not lead.
    pub(crate) fn not_leader(&self, leader: Option<PeerId>) -> Refusal {
        let message = match leader {
            Some(leader) => format!(
                "partition {}: this replica does not lead it, node {} does",
                self.id, leader.node
            ),
            None => format!(
                "partition {}: no leader is known here at the moment",
                self.id
            ),
        };
        self.redirect(leader, message, 100)
    }

    /// A refusal that names who leads, or will, and where that listens.
    fn redirect(&self, leader: Option<PeerId>, message: String, retry_after_ms: u32) -> Refusal {
        let address = |of: PeerId| {
            let noted = self.replica.configuration().address_of(of);
            let noted = noted.filter(|noted| !noted.is_empty()).map(str::to_owned);
            let placed = || self.placed.get(&of.node).map(SocketAddr::to_string);
            noted.or_else(placed).unwrap_or_default()
        };
        Refusal {
            leader: leader.map(|leader| leader.node),
            leader_at: leader.map(|leader| LeaderAt {
                shard: leader.shard,
                address: address(leader),
            }),
            ..refusal(RefusalClause::NotLeader, message, retry_after_ms)
        }
    }

    /// The refusal of a proposal.
    pub(crate) fn propose_refusal(&self, error: &ProposeError) -> Refusal {
        let message = format!("partition {}: {error}", self.id);
        match error {
            ProposeError::NotLeader { leader } => self.not_leader(*leader),
            ProposeError::HandingOver { to } => self.redirect(Some(*to), message, 250),
            ProposeError::TooLarge { .. } => refusal(RefusalClause::TooLarge, message, 0),
            ProposeError::Full { .. } => refusal(RefusalClause::Busy, message, 250),
            ProposeError::MissingContent { .. } => {
                refusal(RefusalClause::MissingContent, message, 1000)
            }
        }
    }

    /// Nobody here knows any more what becomes of the appends that wait.
    pub(crate) fn give_up_appends(&mut self, why: &str, answers: &mut Vec<Answer>) {
        let parked: Vec<_> = self.busy.deferrals.take_appends().collect();
        answers.extend(parked.iter().map(|append| self.unknown(append, why)));
        self.give_up_those(why, |_| true, answers);
    }

    /// The same of those among them that are not parked and of which `is_lost` says so.
    fn give_up_those(
        &mut self,
        why: &str,
        is_lost: impl Fn(&PendingAppend) -> bool,
        answers: &mut Vec<Answer>,
    ) {
        if self.busy.appends.is_empty() {
            return;
        }
        for append in core::mem::take(&mut self.busy.appends) {
            if is_lost(&append) {
                answers.push(self.unknown(&append, why));
            } else {
                self.busy.appends.push_back(append);
            }
        }
    }

    fn unknown(&self, append: &PendingAppend, why: &str) -> Answer {
        let wal_committed = self.replica.wal_committed();
        Answer::Append(
            append.origin,
            Outcome::Unknown {
                why: format!("partition {}: {why}", self.id),
                clause: None,
                key: append.key.map(|key| key.key),
                wal_committed: append.key.map_or(wal_committed, |key| key.known),
            },
        )
    }

    /// Leadership as seen from outside; told only when it changes.
    pub(crate) fn set_leadership(&mut self, leadership: Leadership, answers: &mut Vec<Answer>) {
        if self.leadership != leadership && self.leadership != Leadership::Lost {
            self.leadership = leadership;
            answers.push(Answer::Leadership(leadership));
        }
    }

    /// This replica was elected; `first` is the empty entry of its term.
    pub(crate) fn on_elected(&mut self, term: Term, first: LogIndex, answers: &mut Vec<Answer>) {
        self.busy.ready_at = Some(first);
        self.keys_wish.forget();
        self.clock = None;
        self.busy.expiring = None;
        self.set_leadership(Leadership::Elected { term }, answers);
    }

    /// This replica leads no longer.
    pub(crate) fn on_deposed(&mut self, answers: &mut Vec<Answer>) {
        self.busy.ready_at = None;
        self.pace.on_deposed();
        self.keys_wish.forget();
        self.clock = None;
        self.give_up_appends(
            "leadership was lost while the append was on its way",
            answers,
        );
        self.give_up_unreached(answers);
        self.set_leadership(Leadership::Follower, answers);
    }

    /// Tells `Ready` once everything earlier than the term is applied, and `Draining` while leadership is handed over.
    pub(crate) fn tell_ready(&mut self, answers: &mut Vec<Answer>) {
        if !self.replica.is_leader() {
            return;
        }
        if self
            .busy
            .ready_at
            .is_some_and(|first| first <= self.applied)
        {
            self.busy.ready_at = None;
        }
        let term = self.replica.term();
        let leadership = if self.stopping || self.replica.is_handing_over() {
            Leadership::Draining
        } else if self.busy.ready_at.is_none() {
            Leadership::Ready { term }
        } else {
            Leadership::Elected { term }
        };
        self.set_leadership(leadership, answers);
    }

    /// The index that a client needs with its key.
    pub(crate) fn index_needed(&self, key: IdempotencyKey) -> Refusal {
        Refusal {
            wal_committed: Some(self.replica.wal_committed()),
            ..refusal(
                RefusalClause::IndexNeeded,
                format!(
                    "partition {}: key {:032x} came without the wal_committed index its client knew",
                    self.id, key.0
                ),
                1,
            )
        }
    }

    /// How it stands at this moment, its lease included.
    pub(crate) fn status_at(
        &self,
        now: Time,
        clock_alarm: bool,
        control: ControlFacts,
        is_connected: &dyn Fn(PeerId) -> bool,
    ) -> PartitionStatus {
        let (lease_held, no_lease) = self.lease_status(now, clock_alarm, control);
        PartitionStatus {
            lease_held,
            no_lease,
            ..self.status_among(is_connected)
        }
    }

    /// How far it is.
    #[must_use]
    pub fn glance(&self) -> Glance {
        self.replica.glance()
    }

    /// How it stands, with what is wrong in words. Says nothing of a lease: that depends on the moment.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        self.status_among(&|_| true)
    }

    /// The same, with the peers that it has a session with.
    pub(crate) fn status_among(&self, is_connected: &dyn Fn(PeerId) -> bool) -> PartitionStatus {
        let status = self.replica.glance();
        let (asked_index, asked) = asked(&self.replica, is_connected);
        let trouble = match (&self.machine, self.stuck()) {
            (MachineSlot::Failed(trouble), _) => format!("the machine {trouble}"),
            _ if self.replica.is_read_only() => self.why_read_only(),
            (_, Some(stuck)) if status.missing == 0 => stuck.to_owned(),
            _ if status.missing > 0 => lost(&status, asked_index, &asked),
            _ if self.busy.pause.is_some() => self
                .busy
                .pause
                .as_ref()
                .map_or_else(String::new, |pause| format!("the machine {pause}")),
            _ if self.estranged().is_some() => self.why_estranged(),
            _ => Some(self.why_undecided())
                .filter(|why| !why.is_empty())
                .unwrap_or_else(|| self.why_narrowed()),
        };
        let (mode, wanted_mode, held_back) = self.durability_status();
        PartitionStatus {
            partition: self.id,
            role: status.role,
            term: status.term,
            leader: self.replica.leader().map(|leader| leader.node),
            last_index: status.last_index,
            durable: status.durable,
            wal_committed: status.wal_committed,
            applied: self.applied,
            missing: status.missing,
            trouble,
            mode,
            wanted_mode,
            held_back,
            lease_held: false,
            no_lease: String::new(),
            apply_p99_us: self.pace.p99_us(),
            apply_breaches: self.pace.breaches(),
            apply_backlog_max: self.pace.backlog(),
            asked_index,
            asked,
        }
    }
}
