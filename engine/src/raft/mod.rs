//! The consensus core: one replica of one partition. Sans-I/O: values in, values out, the same for the same.
//!
//! Raft with pre-vote, check-quorum, leader stickiness and durable votes. What is this house's own: an entry is
//! framed once, and the same bytes go to the log, the wire and every other log; the commit index counts only what
//! ledgers have acknowledged, by type ([`durable`]); entries themselves live in the shard's bounded cache
//! ([`cache`]) or its log, never here.
//!
//! How a shard drives a replica within one turn, in this order:
//!
//! 1. what the log proved ([`Replica::on_local_durable`], [`Replica::on_hard_state_durable`]) and read
//!    ([`Replica::entries_read`]);
//! 2. what peers sent ([`Replica::step`], [`Replica::on_heartbeat`], [`Replica::on_heartbeat_ack`]);
//! 3. what clients want ([`Replica::propose`], [`Replica::read_index`]);
//! 4. time, if [`Replica::next_deadline`] has passed ([`Replica::tick`]);
//! 5. once for every replica that was touched, [`Replica::finish_turn`], which sends, commits and acknowledges
//!    for everything together;
//! 6. the records of the [`Output`] enter the log's queue in their order, before any proof of a later turn is
//!    handed in.
//!
//! An append for which the log has no room is not handed in at all: it is lost, as on a network, and comes again.
//! Nothing is carried to peers before the log's opening has retired.
//!
//! Peers are authenticated, not believed: a message that names a term or an index which can't be counted on from is dropped,
//! and so are frames that are not what they should be. Asserts are for what no message and no disk may bring about while
//! all replicas obey the protocol: one that fails stops the node, by intent, before it acknowledges anything on a broken
//! premise.
//!
//! Rooms, from the ground up:
//!
//! - [`entry`]: an entry's body
//! - [`configuration`], [`quorum`]: who votes; majorities of one half and of two
//! - [`membership`]: which configuration is in force
//! - [`durable`]: evidence of durability, as types; [`durability`]: the modes along the log
//! - [`log_view`]: the shape of a log; [`cache`]: recent entries of all partitions of a shard
//! - [`output`]: what was decided; [`settings`]: bounds; [`status`]: how it stands
//! - `frames`: checks on entries that came from elsewhere; `progress`: a leader's view of one follower
//! - `replica`: the state, and changes of role
//! - `election`, [`bounds`], `founding`, `propose` and `replication` (leading), `following`, `read_index`, [`lease`], [`quiet`], `refetch`,
//!   `transfer`, [`change`], [`fitness`]: the protocol, one part each.

pub mod bounds;
pub mod cache;
pub mod change;
pub mod configuration;
pub mod durability;
pub mod durable;
mod election;
pub mod entry;
pub mod fitness;
mod following;
mod founding;
mod frames;
pub mod lease;
pub mod log_view;
pub mod membership;
pub mod output;
mod progress;
mod propose;
pub mod quiet;
pub mod quorum;
mod read_index;
mod refetch;
mod replica;
mod replication;
pub mod settings;
pub mod status;
mod transfer;

use clustor_wire::message::{RaftBody, RaftMessage};

pub use cache::{CacheSlot, EntryCache};
pub use change::{ChangeError, MemberChange};
pub use configuration::Configuration;
pub use durability::{Cause, Transition};
pub use durable::{AuthenticatedPeer, PeerDurable, QuorumDurable};
pub use election::CampaignFiled;
pub use founding::Estranged;
pub use lease::{LeaseBounds, LeaseClause};
pub use membership::{Change, ConfigurationAt};
pub use output::{
    Applicable, Leadership, LeadershipChange, Output, ReadFailed, ReadReady, RecordToPersist,
    WantedEntries, WantedFor,
};
pub use propose::{NewEntry, Position, ProposeError};
pub use quiet::{Quiet, QuietFiled};
pub use read_index::ReadError;
pub use replica::{Replica, Turn};
pub use settings::{Limits, ReplicaConfig, Restored, Timers};
pub use status::{FollowerStatus, Glance, RefetchStatus, Status};
pub use transfer::TransferError;

impl Replica {
    /// Takes a message of a peer. Messages may be lost, repeated, reordered and late; answers of those who are not asked,
    /// and messages of other partitions, are dropped.
    pub fn step(&mut self, turn: &mut Turn<'_>, from: AuthenticatedPeer, message: &RaftMessage) {
        if let RaftBody::Founding { configuration } = &message.body {
            if message.partition == self.partition {
                self.on_founding(turn, from.id(), configuration);
            }
            return;
        }
        if !frames::is_possible(message) {
            self.frames_refused = self.frames_refused.saturating_add(1);
            return;
        }
        if message.partition != self.partition || !self.admits(turn, from.id(), message) {
            return;
        }
        let peer = from.id();
        match message.body {
            RaftBody::QuiesceAck { .. } => {}
            // Who is no member disturbs nobody.
            RaftBody::PreVote { .. } if self.excludes(peer) => {}
            _ => self.wake_leader(turn.now),
        }
        match &message.body {
            RaftBody::PreVote {
                last_index,
                last_term,
            } => self.on_pre_vote(turn, peer, message.term, *last_index, *last_term),
            RaftBody::PreVoteResponse { granted, high_rtt } => {
                self.on_pre_vote_response(turn, peer, message.term, *granted, *high_rtt);
            }
            RaftBody::Vote {
                last_index,
                last_term,
                ..
            } => self.on_vote(turn, peer, *last_index, *last_term),
            RaftBody::VoteResponse { granted } => self.on_vote_response(turn, peer, *granted),
            RaftBody::Append { .. } => self.on_append(turn, peer, message),
            RaftBody::AppendAccepted { matched } => self.on_accepted(turn, peer, *matched),
            RaftBody::AppendRejected {
                hint_index,
                hint_term,
                ..
            } => self.on_rejected(turn, peer, *hint_index, *hint_term),
            RaftBody::DurabilityAck { .. } => self.on_durability_ack(turn, from, message),
            RaftBody::TimeoutNow => self.on_timeout_now(turn, peer),
            // Taken above: it is of no term.
            RaftBody::Founding { .. } => {}
            RaftBody::Quiesce { last_index, round } => {
                self.on_quiesce(turn, peer, *last_index, *round);
            }
            RaftBody::QuiesceAck { last_index, round } => {
                self.on_quiesce_ack(turn, peer, *last_index, *round);
            }
            RaftBody::NotMember {
                stated_term,
                stated_index,
            } => self.on_not_member(turn, (*stated_term, *stated_index)),
            RaftBody::Refetch {
                entry_term,
                first,
                last,
            } => self.on_refetch(turn, peer, *entry_term, *first, *last),
            RaftBody::Refetched {
                entry_term,
                first,
                verdict,
                frames,
            } => self.on_refetched(turn, peer, *entry_term, *first, *verdict, frames),
        }
    }
}
