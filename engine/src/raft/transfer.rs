//! Handing leadership over: at a shutdown, where the disk failed or is slow, or because somebody asked for it.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::progress::Progress;
use super::replica::{Replica, RoleState, Turn};

/// Who declined to lead is not asked again for so long, in milliseconds, unless somebody wants it to lead.
pub const DECLINED_MS: u64 = 5_000;

/// A hand-over under way: nothing more is proposed meanwhile.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: PeerId,
    pub(super) until: Time,
    sent: bool,
}

/// Why leadership can't be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("this replica does not lead the partition")]
    NotLeader,
    /// Who is wanted does not vote.
    #[error("node {} is no voter of the partition; leadership stays here", peer.node)]
    NoVoter {
        /// Which.
        peer: PeerId,
    },
    /// No other voter, or not the one that was wanted, was heard of within an election timeout.
    #[error("no such voter answers; leadership stays here")]
    NobodyAnswers,
}

impl Replica {
    /// Hands leadership to a voter, `wanted` or the one that has most of the log, as soon as it has all of it. Until then,
    /// or until an election timeout has passed without success, nothing more is proposed. A second call changes nothing. A
    /// voter that could not serve declines; then leadership is here as before.
    ///
    /// # Errors
    /// [`TransferError`]; then nothing happened.
    pub fn transfer_leadership(
        &mut self,
        turn: &Turn<'_>,
        wanted: Option<PeerId>,
    ) -> Result<PeerId, TransferError> {
        self.transfer_to_one(turn, wanted, |_| true)
    }

    /// The same for a leader whose device is slow, to a voter that `fits`. One that was elected a moment ago is left in peace,
    /// and so is one that is quiet.
    ///
    /// # Errors
    /// [`TransferError`]; then nothing happened.
    pub fn leave_slow_device(
        &mut self,
        turn: &Turn<'_>,
        fits: impl Fn(PeerId) -> bool,
    ) -> Result<PeerId, TransferError> {
        match &self.role {
            RoleState::Leader(leading) if leading.quiet || !leading.is_settled(turn.now) => {
                Err(TransferError::NobodyAnswers)
            }
            _ => self.transfer_to_one(turn, None, |p| fits(p.peer())),
        }
    }

    /// The same for a leader that misses content, to a voter that needs none of it: what it would wait for nobody can send it.
    ///
    /// # Errors
    /// [`TransferError`]; then nothing happened.
    pub(super) fn leave_to_who_has_more(
        &mut self,
        turn: &Turn<'_>,
    ) -> Result<PeerId, TransferError> {
        let last = self.log.missing_last().unwrap_or_default();
        self.transfer_to_one(turn, None, |p| p.matched() >= last)
    }

    fn transfer_to_one(
        &mut self,
        turn: &Turn<'_>,
        wanted: Option<PeerId>,
        fits: impl Fn(&Progress) -> bool,
    ) -> Result<PeerId, TransferError> {
        let patience = u64::from(self.timers.election_ms_max);
        if let Some(peer) = wanted.filter(|peer| !self.configuration.contains(*peer))
            && self.is_leader()
        {
            return Err(TransferError::NoVoter { peer });
        }
        self.wake_leader(turn.now);
        let RoleState::Leader(leading) = &mut self.role else {
            return Err(TransferError::NotLeader);
        };
        if let Some(transfer) = &leading.transfer {
            return Ok(transfer.to);
        }
        let to = leading
            .progress
            .iter()
            .filter(|p| match wanted {
                Some(wanted) => p.peer() == wanted,
                None => fits(p) && !leading.declined(p.peer(), turn.now),
            })
            .filter(|p| self.configuration.contains(p.peer()))
            .filter(|p| turn.now < p.heard.plus_ms(patience))
            .max_by_key(|p| (p.matched(), p.durable_index()))
            .map(Progress::peer)
            .ok_or(TransferError::NobodyAnswers)?;
        leading.transfer = Some(Box::new(Transfer {
            to,
            until: turn.now.plus_ms(patience),
            sent: false,
        }));
        Ok(to)
    }

    /// From when on it may be asked to move by itself, because others would lead better: a leader has that long to begin with.
    /// `None` if it does not lead.
    #[must_use]
    pub fn settled_at(&self) -> Option<Time> {
        match &self.role {
            RoleState::Leader(leading) => Some(leading.settled_at()),
            _ => None,
        }
    }

    /// Whether leadership is being handed over: nothing is proposed.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leading) if leading.transfer.is_some())
    }

    /// The chosen voter could not serve either: leadership stays here, and others are asked, if at all.
    pub(super) fn on_declined(&mut self, turn: &Turn<'_>, from: PeerId) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let asked = leading.transfer.as_ref();
        if asked.is_some_and(|transfer| transfer.to == from && transfer.sent) {
            leading.transfer = None;
            if let Some(progress) = leading.of_mut(from) {
                progress.way.declined = Some(turn.now);
            }
        }
    }

    /// Its machine can go on from here on, or can't.
    pub fn set_lame(&mut self, is_lame: bool) {
        self.is_lame = is_lame;
    }

    /// Whether its machine can't go on.
    #[must_use]
    pub const fn is_lame(&self) -> bool {
        self.is_lame
    }

    /// Whether it would be of use as a leader: nothing stands before what is to be committed, and its machine goes on.
    pub(super) fn could_serve(&self) -> bool {
        !self.is_lame && self.log.missing_from(self.applicable.next()).is_none()
    }

    /// Tells the chosen voter to campaign once it has everything.
    pub(super) fn finish_transfer(&mut self, turn: &mut Turn<'_>) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let Some(transfer) = &leading.transfer else {
            return;
        };
        let to = transfer.to;
        let caught_up = leading
            .of(to)
            .is_some_and(|p| p.matched() == self.log.last());
        if transfer.sent || !caught_up {
            return;
        }
        if let Some(transfer) = &mut leading.transfer {
            transfer.sent = true;
        }
        self.tell_to_campaign(turn, to);
    }

    /// Leaves leadership to the voter that has most of the log, where nothing can be appended any more: what that one lacks was
    /// acknowledged to nobody, or others have it and win instead. Of those that have as much, to one that `is_fast`, whose device
    /// is not slow, and of these, to each of them in some of the partitions. To nobody who declined to lead a moment ago.
    pub fn bequeath(&mut self, turn: &mut Turn<'_>, is_fast: impl Fn(PeerId) -> bool) {
        let RoleState::Leader(leading) = &self.role else {
            return;
        };
        let patience = u64::from(self.bounds().election_ms_max);
        let answers = |p: &&Progress| leading.quiet || turn.now < p.heard.plus_ms(patience);
        let voters = leading.progress.iter();
        let heirs = voters
            .filter(|p| self.configuration.contains(p.peer()))
            .filter(answers)
            .filter(|p| !leading.declined(p.peer(), turn.now));
        let rank = |p: &&Progress| (p.matched(), is_fast(p.peer()), p.durable_index());
        let best = heirs.clone().map(|p| rank(&p)).max();
        let equals: Vec<PeerId> = heirs
            .filter(|p| Some(rank(p)) == best)
            .map(Progress::peer)
            .collect();
        if let Some(share) = self.partition.0.checked_rem(equals.len() as u128) {
            self.tell_to_campaign(turn, equals[share as usize]);
        }
    }

    fn tell_to_campaign(&mut self, turn: &mut Turn<'_>, to: PeerId) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        leading.lease.hand_over();
        turn.out.messages.push((
            to,
            RaftMessage {
                partition: self.partition,
                term: self.term,
                body: RaftBody::TimeoutNow,
            },
        ));
    }
}
