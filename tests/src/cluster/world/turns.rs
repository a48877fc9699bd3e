//! Turns of shards: when one is due, what it takes, and the checks after it.

use clustor_engine::request::Reply;
use clustor_shards::turn::{Application, ClientEvent, Outbox, PeerId};
use rand::Rng;

use super::super::check::clients::Acknowledged;
use super::super::check::{Violation, must};
use super::super::messages::name;
use super::asking::MODE_TICKET;
use super::lives::NOTICE_KILL_US;
use super::{Event, Happened, World};
use crate::disk::Crash;

/// From something that arrives to the turn that takes it, in microseconds, at most.
const TURN_DELAY_US_MAX: u64 = 30;

/// Turns in a row, in one millisecond, in which nothing comes and nothing leaves, at most.
const IDLE_TURNS_MAX: u32 = 100;

impl World {
    pub(super) fn disk(&mut self, shard: PeerId) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.disk_at != Some(now_us) || host.disk_frozen {
            return;
        }
        host.disk_at = None;
        host.disk.advance_to_us(now_us);
        if host.runs() && host.disk.has_events() {
            self.wake_host(shard);
        }
        self.file_disk(shard);
    }

    fn file_disk(&mut self, shard: PeerId) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.disk_frozen || host.disk_at.is_some() {
            return;
        }
        if let Some(due) = host.disk.next_due_us() {
            let due = due.max(now_us);
            host.disk_at = Some(due);
            self.queue.push(due, Event::Disk(shard));
        }
    }

    /// Something arrived: a turn is due soon.
    pub(super) fn wake_host(&mut self, shard: PeerId) {
        let at = self.now_us + self.rng.random_range(1..=TURN_DELAY_US_MAX);
        self.file_turn(shard, at);
    }

    fn file_turn(&mut self, shard: PeerId, at_us: u64) {
        let host = self.host_mut(shard);
        let at_us = at_us.max(host.stalled_until);
        if host.runs() && host.turn_at.is_none_or(|filed| filed > at_us) {
            host.turn_at = Some(at_us);
            self.queue.push(at_us, Event::Turn(shard));
        }
    }

    pub(super) fn turn(&mut self, shard: PeerId) -> Result<Happened, Violation> {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.turn_at != Some(now_us) || !host.runs() {
            return Ok(Happened::Nothing);
        }
        host.turn_at = None;
        if host.stalled_until > now_us {
            let until = host.stalled_until;
            self.file_turn(shard, until);
            return Ok(Happened::Nothing);
        }
        if !host.disk_frozen {
            host.disk.advance_to_us(now_us);
        }
        host.disk.take_events(&mut host.inbox.disk);
        if let Some(host) = self.hosts.get_mut(&shard)
            && host.has_handles()
        {
            host.settle_some(&mut self.rng, self.effects_stay, self.calm);
        }
        let host = self.hosts.get_mut(&shard).expect("a shard of the layout");
        for event in &host.inbox.disk {
            self.marks.on_event(event);
        }
        let came = !host.inbox.is_empty();
        let clients = host.inbox.clients.iter();
        let questions = clients.filter(|event| matches!(event, ClientEvent::Frame(..)));
        let strangers = questions.count();
        host.inbox.now = host.clock(now_us);
        host.inbox.wall_us = Some(host.clocks.wall_us(now_us));
        let mut outbox = Outbox::default();
        if let Some(core) = &mut host.core {
            core.turn(&mut host.inbox, &mut outbox);
        }
        let spent_us = host.take_spent_us();
        host.stalled_until = host.stalled_until.max(now_us + spent_us);
        if let Some(core) = &host.core {
            let slow = core.log().is_device_slow();
            if std::mem::replace(&mut host.slow_device, slow) != slow {
                self.marks.on_slowness(slow);
            }
            let failure = core.log().failure();
            if !std::mem::replace(&mut host.failed, failure.is_some())
                && let Some(failure) = failure
            {
                self.marks.on_failure(failure);
            }
        }
        for reply in &outbox.replies {
            if reply.ticket() == Some(MODE_TICKET) {
                self.marks.on_reply(reply);
            }
        }
        outbox
            .replies
            .retain(|reply| reply.ticket() != Some(MODE_TICKET));
        let left =
            !(outbox.disk.is_empty() && outbox.peers.is_empty() && outbox.replies.is_empty());
        self.judge_pace(shard, came || left)?;
        self.judge_strangers(shard, strangers, &outbox.clients)?;
        self.look(shard, &outbox.replies)?;
        self.tell_of(shard, std::mem::take(&mut outbox.addresses));
        for (to, frame) in outbox.peers {
            self.send(shard, to, frame)?;
        }
        let host = self.hosts.get_mut(&shard).expect("a shard of the layout");
        for op in outbox.disk {
            self.marks.on_op(&op);
            host.disk.submit(op);
        }
        host.disk_at = None;
        self.file_disk(shard);
        if outbox.stopped {
            return self.stopped(shard);
        }
        if self.host_mut(shard).has_handles() {
            let at = now_us + self.rng.random_range(100..=20_000);
            self.file_turn(shard, at);
        }
        if let Some(deadline) = outbox.deadline {
            let at = self.host_mut(shard).moment(deadline).max(now_us + 1);
            self.file_turn(shard, at);
        }
        if outbox.replies.is_empty() {
            return Ok(Happened::Nothing);
        }
        Ok(Happened::Replies(
            outbox
                .replies
                .into_iter()
                .map(|reply| (shard, reply))
                .collect(),
        ))
    }

    /// An append is answered when the effects of its command are safe, and so is a retry of it.
    fn judge_effects(&self, shard: PeerId, told: Acknowledged) -> Result<(), Violation> {
        let host = self.hosts.get(&shard).filter(|_| told.effects);
        let owes = host.is_some_and(|host| host.owes(told.partition, told.index));
        must(!owes, "an answer waits for deferred effects", || {
            format!("{}: {told:?}, whose effects are not safe", name(shard))
        })
    }

    /// All shards of a node stop together: the last one ends the node.
    pub(super) fn stopped(&mut self, shard: PeerId) -> Result<Happened, Violation> {
        self.note(|| format!("{} has stopped", name(shard)));
        let host = self.host_mut(shard);
        host.core = None;
        host.disk.crash_with(Crash::Kill, crate::disk::Fate::Landed);
        if self.node_runs(shard.node) {
            return Ok(Happened::Nothing);
        }
        self.take_down(shard.node, NOTICE_KILL_US);
        Ok(Happened::Stopped(shard.node))
    }

    /// A shard that takes turn after turn for nothing would burn its core.
    fn judge_pace(&mut self, shard: PeerId, busy: bool) -> Result<(), Violation> {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        let partitions = host.core.iter().flat_map(|core| core.partitions());
        let applied = partitions.map(|partition| partition.applied().get()).sum();
        let busy = busy || std::mem::replace(&mut host.applied, applied) != applied;
        let soon = now_us < host.last_turn_us + 1000;
        host.last_turn_us = now_us;
        host.idle_turns = if busy || !soon {
            0
        } else {
            host.idle_turns + 1
        };
        must(
            host.idle_turns < IDLE_TURNS_MAX,
            "a shard with nothing to do waits",
            || format!("{}: {IDLE_TURNS_MAX} turns for nothing", name(shard)),
        )
    }

    pub(super) fn look(&mut self, shard: PeerId, replies: &[Reply]) -> Result<(), Violation> {
        let Some(core) = self.hosts.get(&shard).and_then(|host| host.core.as_ref()) else {
            return Ok(());
        };
        let guest = self.layout.guest.as_ref();
        if let Some(broken) = guest.and_then(super::super::guest::Plan::broken) {
            return Err(broken);
        }
        let damaged = self.may_hold_damage(shard);
        let blocks = self.layout.blocking == Some(shard.node);
        let forbidden = self.hosts[&shard].control.forbidden();
        self.consensus.after_turn(shard, core, damaged)?;
        self.modes.after_turn(shard, blocks, core)?;
        let unattended = core.unattended();
        must(
            unattended.is_none(),
            "a leader that is not quiet has its time",
            || format!("{}: {unattended:?} waits for none", name(shard)),
        )?;
        for reply in replies {
            self.marks.on_reply(reply);
            self.trace
                .note(self.now_us, || format!("answer {} {reply:?}", name(shard)));
            let acknowledged =
                self.clients
                    .on_reply(&mut self.consensus, (shard, forbidden), reply)?;
            if let Some(acknowledged) = acknowledged {
                self.judge_effects(shard, acknowledged)?;
                self.prove(acknowledged)?;
            }
        }
        Ok(())
    }
}
