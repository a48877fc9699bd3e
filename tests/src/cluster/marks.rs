//! Marks: which paths a run reached. Some are rare; a seed, or many of them, that never reach one say nothing about it.

use std::collections::BTreeMap;

use clustor_engine::gate::{GroupClause, ReadClause};
use clustor_engine::outcome::{Leadership, Outcome};
use clustor_engine::raft::{Change, LeaseClause, MemberChange};
use clustor_engine::request::{MembersRequest, Reply};
use clustor_shards::disk::{DiskError, DiskEvent, DiskOp};
use clustor_shards::log::{Damage, RecoveryReport};
use clustor_wire::ids::NodeId;
use clustor_wire::message::{
    PartitionStatus, PeerBatch, RaftBody, RefetchVerdict, RefusalClause, Role,
};

use super::messages::MessageKind;

/// Names for the variants of an enum: a list of all, and which one a value has. A variant that is left out does not compile;
/// those that no node has are named apart.
macro_rules! named {
    ($list:ident, $of:ident, $type:ident, $kind:literal: $($variant:ident)+ $(; never $($other:ident)+)?) => {
        const $list: &[&str] = &[$(concat!($kind, ".", stringify!($variant))),+];

        const fn $of(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => concat!($kind, ".", stringify!($variant)),)+
                $($($type::$other { .. } => concat!($kind, ".", stringify!($other)),)+)?
            }
        }
    };
}

named!(MESSAGES, message, MessageKind, "message":
    Heartbeat HeartbeatAck PreVote PreVoteResponse Vote VoteResponse Append AppendAccepted AppendRejected DurabilityAck
    TimeoutNow Refetch Refetched Founding Quiesce QuiesceAck NotMember PairBeat);
named!(REFUSALS, refusal, RefusalClause, "refused":
    NotLeader NotHere TooLarge Busy KeyExpired IndexNeeded Stopping Unavailable DiskFull Unsupported MachineFailed
    MissingContent ModeConflict Forbidden Rejected TermChanged ReadGate ApplyBudget;
    never NotPlaced TooLong Unreached Untrusted TurnedAway Unanswered Incompatible Closed);
named!(LEADERSHIPS, leadership, Leadership, "leadership": Follower Elected Ready Draining Lost);
named!(ROLES, role, Role, "role": Follower PreCandidate Candidate Leader Quarantined);
named!(ASKED, asked, MemberChange, "asked": AddLearner AddObserver Address RemoveSilent Voters RollBack);
named!(CHANGES, change, Change, "members": None Joint Finishing);
named!(OPS, op, DiskOp, "disk": Chain Read Prepare Trailer Remove Retire);
named!(ERRORS, error, DiskError, "error": Full Short Cancelled NoFile Stuck Passing TooLarge Io);
named!(VERDICTS, verdict, RefetchVerdict, "refetched": Have Missing Compacted Never);
named!(DAMAGES, damage, Damage, "damage": Header Checkpoint Slot UnusedSlot Extent Trailer Pair Nonces);

pub(super) use named;

const ANSWER_DUPLICATE: &str = "answer.duplicate";
const ANSWER_UNKNOWN: &str = "answer.unknown";
const TRANSFER_ASKED: &str = "asked.Transfer";
const SEGMENT_RECYCLED: &str = "disk.recycled";
const BOOT_TORN: &str = "boot.torn";
const BOOT_REWRITTEN: &str = "boot.rewritten";
const BOOT_MISSING: &str = "boot.missing";
const BOOT_EMPTY_AGAIN: &str = "boot.empty-again";
/// A log lost its end to that of a leader.
const LOG_CUT_BACK: &str = "log.cut-back";
/// A configuration was taken back with the end of a log.
const LOG_BACK: &str = "members.back";
/// A node that no placement names came to vote in a partition.
pub(super) const JOINED: &str = "members.joined";
/// A node moved, and all partitions were told of it.
pub(super) const MOVED: &str = "members.moved";
/// Everybody needed a new placement in the end.
pub(super) const PLACED: &str = "members.placed";
/// A visitor whom neither the placement nor a configuration named was named in time.
pub(super) const GUEST_NAMED: &str = "guest.named";
/// One was not, and had to go.
pub(super) const GUEST_LEFT: &str = "guest.left";
/// The place of a voter was taken by one with another disk.
pub(super) const REPLACED: &str = "members.replaced";
/// Such a one led, and was not heeded by who knew the former: another had to lead for a moment.
pub(super) const UNHEEDED: &str = "members.unheeded";

/// A leader whose device was slow handed over.
const SLOW_LEFT: &str = "slow.left";
/// A device was slow.
const SLOW: &str = "slow.device";
/// It was fit again.
const SLOW_NO_MORE: &str = "slow.fit-again";

/// Whoever asked for votes was told of a slow path to the leader.
const PATH_TOLD: &str = "slow-path.told";
/// Its election was given more time.
const PATH_WIDENED: &str = "slow-path.widened";
/// The next leader took that back.
const PATH_USUAL: &str = "slow-path.usual-again";

/// The clock of a voter that kept silent for one fault of it went wrong again.
pub(super) const CLOCK_AGAIN: &str = "clock.again";
/// The only voter that was left restarted while who had led before held a lease.
pub(super) const SOLE_RESTARTED: &str = "members.sole-restarted";

/// A log gave up its beginning, as far as it was asked to.
pub(super) const GIVEN_UP: &str = "log.given-up";

/// A message arrived that was kept for long; and one of an earlier boot of its sender.
pub(super) const TARDY: &str = "tardy.arrived";
pub(super) const TARDY_BOOT: &str = "tardy.of-earlier-boot";

/// Clauses by which a leader has no lease, with their marks.
const LEASES: [(&str, &str); 11] = [
    (LeaseClause::Off.name(), "lease.Off"),
    (LeaseClause::HandedOver.name(), "lease.HandedOver"),
    (LeaseClause::Gap.name(), "lease.Gap"),
    (LeaseClause::TermUncommitted.name(), "lease.TermUncommitted"),
    (LeaseClause::ClockAlarm.name(), "lease.ClockAlarm"),
    (LeaseClause::Unconfirmed.name(), "lease.Unconfirmed"),
    (LeaseClause::Quiet.name(), "lease.Quiet"),
    (LeaseClause::RanOut.name(), "lease.RanOut"),
    (ReadClause::StrictFallback.name(), "gate.StrictFallback"),
    (
        ReadClause::ControlPlaneStale.name(),
        "gate.ControlPlaneStale",
    ),
    (ReadClause::ProofDiffers.name(), "gate.ProofDiffers"),
];

/// Clauses by which a partition is strict that was asked to be in group mode, with their marks.
const GROUPS_HELD: [(&str, &str); 5] = [
    (GroupClause::StrictFallback.name(), "group.StrictFallback"),
    (GroupClause::Backoff.name(), "group.Backoff"),
    (
        GroupClause::BlockingVoter(NodeId(0)).name(),
        "group.BlockingVoter",
    ),
    (GroupClause::DeviceLatency(0).name(), "group.DeviceLatency"),
    (GroupClause::Quarantine.name(), "group.Quarantine"),
];

const OTHERS: &[&str] = &[
    SLOW,
    SLOW_LEFT,
    SLOW_NO_MORE,
    ANSWER_DUPLICATE,
    ANSWER_UNKNOWN,
    TRANSFER_ASKED,
    SEGMENT_RECYCLED,
    BOOT_TORN,
    BOOT_REWRITTEN,
    BOOT_MISSING,
    BOOT_EMPTY_AGAIN,
    LOG_CUT_BACK,
    LOG_BACK,
    JOINED,
    MOVED,
    PLACED,
    GUEST_NAMED,
    GUEST_LEFT,
    REPLACED,
    UNHEEDED,
    PATH_TOLD,
    PATH_WIDENED,
    PATH_USUAL,
    CLOCK_AGAIN,
    SOLE_RESTARTED,
    GIVEN_UP,
    TARDY,
    TARDY_BOOT,
];

/// Every mark but those of faults.
const GROUPS: [&[&str]; 11] = [
    MESSAGES,
    REFUSALS,
    LEADERSHIPS,
    ROLES,
    ASKED,
    CHANGES,
    OPS,
    ERRORS,
    DAMAGES,
    VERDICTS,
    OTHERS,
];

/// How often each mark was reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    reached: BTreeMap<&'static str, u64>,
    /// Messages by kind: there are more of them than of anything else.
    messages: [u64; MESSAGES.len()],
}

impl Marks {
    /// The names of all marks, in groups.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let run = super::run::fault_marks().chain(super::run::harm_marks());
        let clauses = LEASES.iter().chain(&GROUPS_HELD).map(|(_, mark)| *mark);
        GROUPS
            .into_iter()
            .flatten()
            .copied()
            .chain(clauses)
            .chain(run)
    }

    /// Each mark and how often it was reached, 0 for never.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::names().map(|name| (name, self.times(name)))
    }

    /// How often a mark was reached.
    #[must_use]
    pub fn times(&self, name: &str) -> u64 {
        let mut kinds = MessageKind::ALL.iter().map(|(_, kind)| *kind);
        let times = kinds
            .find(|kind| message(kind) == name)
            .map(|kind| self.messages[kind as usize]);
        times.unwrap_or_else(|| self.reached.get(name).copied().unwrap_or(0))
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (name, times) in &other.reached {
            *self.reached.entry(name).or_default() += times;
        }
        for (mine, theirs) in self.messages.iter_mut().zip(other.messages) {
            *mine += theirs;
        }
    }

    pub(super) fn reach(&mut self, name: &'static str) {
        *self.reached.entry(name).or_default() += 1;
    }

    pub(super) fn reach_times(&mut self, name: &'static str, times: u64) {
        if times > 0 {
            *self.reached.entry(name).or_default() += times;
        }
    }

    pub(super) fn on_sent(&mut self, batch: &PeerBatch) {
        let mut count = |kind: MessageKind, times: usize| {
            self.messages[kind as usize] += times as u64;
        };
        count(MessageKind::Heartbeat, batch.heartbeats.len());
        count(MessageKind::HeartbeatAck, batch.heartbeat_acks.len());
        count(MessageKind::PairBeat, usize::from(batch.pair.is_some()));
        for message in &batch.messages {
            count(MessageKind::of(message), 1);
        }
        for message in &batch.messages {
            match message.body {
                RaftBody::Refetched { verdict: said, .. } => self.reach(verdict(&said)),
                RaftBody::TimeoutNow if batch.slow_device => self.reach(SLOW_LEFT),
                RaftBody::PreVoteResponse { high_rtt: true, .. } => self.reach(PATH_TOLD),
                _ => {}
            }
        }
    }

    pub(super) fn on_reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Append { outcome, .. } => match outcome {
                Outcome::Applied { duplicate, .. } if !duplicate => {}
                Outcome::Applied { .. } => self.reach(ANSWER_DUPLICATE),
                Outcome::NotExecuted { refusal: why } => self.reach(refusal(&why.clause)),
                Outcome::Unknown { .. } => self.reach(ANSWER_UNKNOWN),
            },
            Reply::Read {
                found: Err(why), ..
            }
            | Reply::Members {
                members: Err(why), ..
            } => self.reach(refusal(&why.clause)),
            Reply::Leadership { leadership: of, .. } => self.reach(leadership(of)),
            Reply::Read { .. }
            | Reply::Members { .. }
            | Reply::Status { .. }
            | Reply::Profile { .. } => {}
        }
    }

    pub(super) fn on_members_asked(&mut self, request: &MembersRequest) {
        match request {
            MembersRequest::Show => {}
            MembersRequest::Change(change) => self.reach(asked(change)),
            MembersRequest::Transfer(_) => self.reach(TRANSFER_ASKED),
        }
    }

    pub(super) fn on_role(&mut self, now: Role) {
        self.reach(role(&now));
    }

    pub(super) fn on_change(&mut self, now: &Change) {
        self.reach(change(now));
        if matches!(
            now,
            Change::Joint {
                exit: Some((_, true)),
                ..
            }
        ) {
            self.reach(LOG_BACK);
        }
    }

    pub(super) fn on_cut_back(&mut self, times: u64) {
        self.reach_times(LOG_CUT_BACK, times);
    }

    /// What keeps a replica that leads from a lease, and from the mode that it was asked for.
    pub(super) fn on_status(&mut self, status: &PartitionStatus) {
        let mut leases = LEASES.iter();
        if let Some((_, mark)) = leases.find(|(clause, _)| *clause == status.no_lease) {
            self.reach(mark);
        }
        let mut groups = GROUPS_HELD.iter();
        if let Some((_, mark)) = groups.find(|(clause, _)| status.held_back.starts_with(clause)) {
            self.reach(mark);
        }
    }

    /// An election was given more time because of a slow path, or the next leader was heard.
    pub(super) fn on_window(&mut self, widened: bool) {
        self.reach(if widened { PATH_WIDENED } else { PATH_USUAL });
    }

    /// A stranger was refused what is an operator's.
    pub(super) fn on_forbidden(&mut self) {
        self.reach(refusal(&RefusalClause::Forbidden));
    }

    /// A shard's log has failed.
    pub(super) fn on_failure(&mut self, why: &DiskError) {
        // What hangs reports nothing: the log's patience ends.
        if matches!(why, DiskError::Stuck { .. }) {
            self.reach(error(why));
        }
    }

    /// Whether a shard finds its device slow has changed.
    pub(super) fn on_slowness(&mut self, slow: bool) {
        self.reach(if slow { SLOW } else { SLOW_NO_MORE });
    }

    pub(super) fn on_op(&mut self, what: &DiskOp) {
        self.reach(op(what));
    }

    pub(super) fn on_event(&mut self, event: &DiskEvent) {
        match event {
            DiskEvent::Chain { outcome, .. }
            | DiskEvent::Read { outcome, .. }
            | DiskEvent::Trailer { outcome, .. }
            | DiskEvent::Removed { outcome, .. } => {
                if let Err(why) = outcome {
                    self.reach(error(why));
                }
            }
            DiskEvent::PrepareFailed { error: why, .. } => self.reach(error(why)),
            DiskEvent::Prepared { recycled: true, .. } => self.reach(SEGMENT_RECYCLED),
            DiskEvent::Prepared { .. }
            | DiskEvent::Advanced { .. }
            | DiskEvent::Progress { .. }
            | DiskEvent::Used { .. } => {}
        }
    }

    pub(super) fn on_boot(&mut self, boots: u64, report: &RecoveryReport) {
        let seen = [
            (BOOT_TORN, report.torn.is_some()),
            (BOOT_REWRITTEN, report.rewritten > 0),
            (BOOT_MISSING, report.missing > 0),
            (BOOT_EMPTY_AGAIN, boots > 1 && report.chosen.is_none()),
        ];
        for (name, _) in seen.into_iter().filter(|(_, seen)| *seen) {
            self.reach(name);
        }
        for incident in &report.incidents {
            self.reach(damage(&incident.damage));
        }
    }
}
