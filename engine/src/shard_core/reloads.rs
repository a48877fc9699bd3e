//! Clients that ask for the node's profile to be read anew, and the program that reads it.
//!
//! The core can't read a file. A program that serves reloads has a request standing ([`RequestBody::AwaitReload`]), which is
//! answered when a client has asked; it reads, has every shard obey, and says how that went ([`RequestBody::Reloaded`]). Who
//! asked before the reading began is answered with it; who asks while it goes on, with the next.
//!
//! [`RequestBody::AwaitReload`]: crate::request::RequestBody::AwaitReload
//! [`RequestBody::Reloaded`]: crate::request::RequestBody::Reloaded

use clustor_shards::turn::{ConnectionId, Outbox};
use clustor_wire::message::{ClientResponseBody, ProfileReload, Refusal, RefusalClause};

use super::outward::respond;
use super::{CoreMesh, ShardCore};
use crate::partition::refusal;
use crate::request::Reply;

/// Clients that may wait for one reading.
const ASKED_MAX: usize = 64;

/// Who asked, and who serves.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// Whether the program serves reloads at all.
    is_served: bool,
    /// Its standing request.
    standing: Option<u64>,
    /// Who waits for a reading to begin: connections and the requests' ids.
    asked: Vec<(ConnectionId, u64)>,
    /// Who waits for the one that goes on.
    reading: Vec<(ConnectionId, u64)>,
}

impl ShardCore {
    /// A client asks. Refused at once unless it may and somebody reads.
    pub(super) fn ask_reload(
        &mut self,
        stopping: bool,
        (connection, id): (ConnectionId, u64),
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        match self.admit_reload(stopping, connection) {
            Ok(()) => {
                self.reloads.asked.push((connection, id));
                self.begin_reload(outbox);
            }
            Err(refused) => {
                let body = ClientResponseBody::NotExecuted(refused);
                respond(connection, id, body, outbox);
            }
        }
    }

    fn admit_reload(&self, stopping: bool, connection: ConnectionId) -> Result<(), Refusal> {
        let (clause, message, retry_ms) = if !self.operators.contains(&connection) {
            let message = "only an operator's certificate may have the profile read anew";
            (RefusalClause::Forbidden, message, 0)
        } else if stopping {
            (RefusalClause::Stopping, "the node is stopping", 0)
        } else if !self.reloads.is_served {
            let message = "this shard has no profile read anew: ask shard 0; where that refuses too, the program that \
                           runs the node gives it its profile";
            (RefusalClause::Unsupported, message, 0)
        } else if self.reloads.asked.len() >= ASKED_MAX {
            let message = "64 clients wait for the profile to be read already";
            (RefusalClause::Busy, message, 1_000)
        } else {
            return Ok(());
        };
        Err(refusal(clause, message.to_owned(), retry_ms))
    }

    /// The program waits for clients to ask.
    pub(super) fn await_reload(&mut self, ticket: u64, outbox: &mut Outbox<Reply, CoreMesh>) {
        self.reloads.is_served = true;
        if let Some(before) = self.reloads.standing.replace(ticket) {
            // One at a time: another that waited is told to look.
            outbox.replies.push(Reply::Profile { ticket: before });
        }
        self.begin_reload(outbox);
    }

    fn begin_reload(&mut self, outbox: &mut Outbox<Reply, CoreMesh>) {
        let reloads = &mut self.reloads;
        if !reloads.asked.is_empty()
            && let Some(ticket) = reloads.standing.take()
        {
            reloads.reading.append(&mut reloads.asked);
            outbox.replies.push(Reply::Profile { ticket });
        }
    }

    /// The program has read the profile.
    pub(super) fn reloaded(
        &mut self,
        outcome: &ProfileReload,
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        for (connection, id) in self.reloads.reading.drain(..) {
            let body = ClientResponseBody::Reload(outcome.clone());
            respond(connection, id, body, outbox);
        }
    }

    /// A connection ended: nobody there waits any more.
    pub(super) fn forget_reloads_of(&mut self, connection: ConnectionId) {
        self.reloads.asked.retain(|(asker, _)| *asker != connection);
        self.reloads
            .reading
            .retain(|(asker, _)| *asker != connection);
    }
}
