//! What runs on a shard: the core, with the handles' reply cells beside it.
//!
//! The core's turn knows requests and replies as values with tickets; this puts them into and out of the
//! cells that handles wait on, keeps their deadlines, publishes leadership, and settles what is left when
//! the shard stops. It is the only thing of the facade that is called in a turn.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use clustor_shards::turn::{Application, Inbox, Outbox, Time};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::RefusalClause;

use super::budget::Budget;
use super::leaders::Leaders;
use super::submission::{Asked, Submission, refusal, stopping};
use super::waiting::Waiting;
use crate::machine::deferred::AckBox;
use crate::request::{Reply, Request, RequestBody};

thread_local! {
    static ON_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller runs on a shard's thread, where waiting for a shard would wait for itself.
pub(super) fn on_shard() -> bool {
    ON_SHARD.with(Cell::get)
}

/// A core with its handles.
pub(super) struct Served<C: Application> {
    core: C,
    waiting: Waiting,
    budget: Arc<Budget>,
    acks: Arc<AckBox>,
    leadership: BTreeMap<PartitionId, Arc<Leaders>>,
    /// Whether the core has said that nothing of it is in flight any more.
    settled: bool,
    inbox: Inbox<Request, C::Mesh>,
    outbox: Outbox<Reply, C::Mesh>,
}

impl<C: Application<Request = Request, Reply = Reply>> Served<C> {
    /// Serves `core` on the calling thread, which is its shard's.
    pub fn new(
        core: C,
        budget: Arc<Budget>,
        acks: Arc<AckBox>,
        leadership: BTreeMap<PartitionId, Arc<Leaders>>,
    ) -> Self {
        ON_SHARD.with(|on_shard| on_shard.set(true));
        Self {
            core,
            waiting: Waiting::default(),
            budget,
            acks,
            leadership,
            settled: false,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        }
    }

    fn take_requests(&mut self, inbox: &mut Inbox<Submission, C::Mesh>) {
        let settled = self.acks.take().into_iter();
        self.inbox.requests.extend(settled.map(|settled| Request {
            // Nobody is answered.
            ticket: u64::MAX,
            partition: settled.partition,
            body: RequestBody::Settled(settled),
        }));
        for submission in inbox.requests.drain(..) {
            if submission.is_nudge() {
                continue;
            }
            let partition = submission.partition;
            let (body, asked) = submission.take();
            if asked.deadline.is_some_and(|deadline| deadline <= inbox.now) {
                self.budget.give_back(asked.bytes);
                asked.answer.refuse(refusal(
                    RefusalClause::Busy,
                    "the timeout ran out in the shard's queue".to_owned(),
                    0,
                ));
                continue;
            }
            if self.settled {
                self.budget.give_back(asked.bytes);
                asked.answer.refuse(stopping());
                continue;
            }
            self.inbox.requests.push(Request {
                ticket: self.waiting.insert(asked),
                partition,
                body,
            });
        }
    }

    fn deliver(&mut self) {
        for reply in self.outbox.replies.drain(..) {
            if let Reply::Leadership {
                partition,
                leadership,
            } = reply
            {
                if let Some(leaders) = self.leadership.get(&partition) {
                    leaders.publish(leadership);
                }
                continue;
            }
            // A reply that nobody waits for any more came after its deadline.
            if let Some(asked) = reply
                .ticket()
                .and_then(|ticket| self.waiting.remove(ticket))
            {
                self.budget.give_back(asked.bytes);
                asked.answer.deliver(reply);
            }
        }
    }

    fn expire(&mut self, now: Time) {
        while let Some(asked) = self.waiting.expired(now) {
            give_up(&self.budget, asked, "the timeout ran out");
        }
    }

    /// Answers everything that is left, and refuses what still comes.
    fn settle(&mut self) {
        self.settled = true;
        for asked in self.waiting.take_all() {
            give_up(
                &self.budget,
                asked,
                "the engine stopped before it was known",
            );
        }
        for leaders in self.leadership.values() {
            leaders.close();
        }
    }
}

impl<C: Application> Drop for Served<C> {
    fn drop(&mut self) {
        // A shard that was abandoned was not settled; its waiting requests are answered by their own drop.
        for leaders in self.leadership.values() {
            leaders.close();
        }
    }
}

fn give_up(budget: &Budget, asked: Asked, why: &str) {
    budget.give_back(asked.bytes);
    asked.answer.give_up(why.to_owned());
}

/// One box put into the place of the other; what belongs to the facade stays.
fn swap_in<A, B, M>(a: &mut Inbox<A, M>, b: &mut Inbox<B, M>) {
    // Every field by name: one that is forgotten here never arrives.
    let Inbox {
        now,
        wall_us,
        disk,
        peers,
        clients,
        requests: _,
        mesh,
        stopping,
        guests,
    } = a;
    core::mem::swap(now, &mut b.now);
    core::mem::swap(wall_us, &mut b.wall_us);
    core::mem::swap(disk, &mut b.disk);
    core::mem::swap(peers, &mut b.peers);
    core::mem::swap(clients, &mut b.clients);
    core::mem::swap(mesh, &mut b.mesh);
    core::mem::swap(stopping, &mut b.stopping);
    core::mem::swap(guests, &mut b.guests);
}

fn swap_out<A, B, M>(a: &mut Outbox<A, M>, b: &mut Outbox<B, M>) {
    // Every field by name: one that is forgotten here never leaves.
    let Outbox {
        disk,
        peers,
        addresses,
        remembered,
        clients,
        replies: _,
        mesh,
        deadline: _,
        stopped: _,
    } = a;
    core::mem::swap(disk, &mut b.disk);
    core::mem::swap(peers, &mut b.peers);
    core::mem::swap(addresses, &mut b.addresses);
    core::mem::swap(remembered, &mut b.remembered);
    core::mem::swap(clients, &mut b.clients);
    core::mem::swap(mesh, &mut b.mesh);
}

impl<C: Application<Request = Request, Reply = Reply>> Application for Served<C> {
    type Request = Submission;
    /// Replies go to their cells; none is left for the carrier.
    type Reply = Infallible;
    type Mesh = C::Mesh;

    fn turn(
        &mut self,
        inbox: &mut Inbox<Submission, C::Mesh>,
        outbox: &mut Outbox<Infallible, C::Mesh>,
    ) {
        self.take_requests(inbox);
        swap_in(&mut self.inbox, inbox);
        swap_out(&mut self.outbox, outbox);
        self.outbox.deadline = None;
        self.outbox.stopped = false;
        self.core.turn(&mut self.inbox, &mut self.outbox);
        swap_in(&mut self.inbox, inbox);
        swap_out(&mut self.outbox, outbox);
        self.deliver();
        self.expire(inbox.now);

        outbox.stopped = self.outbox.stopped;
        if outbox.stopped && !self.settled {
            self.settle();
        }
        outbox.deadline = [self.outbox.deadline, self.waiting.next_deadline()]
            .into_iter()
            .flatten()
            .min();
    }
}
