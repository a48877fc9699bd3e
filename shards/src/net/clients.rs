//! Which client gives way where all places are taken.

use super::error::NetError;
use super::shard_net::{Role, ShardNet, Socket, SocketId};
use crate::turn::Time;

impl ShardNet {
    /// Closes the client that has been silent longest, of those that have been for a while and are owed nothing. One that has
    /// just come has a while to ask something, and one whose answers have not left keeps its place.
    pub(super) fn displace_idle_client(&mut self, now: Time) {
        let idle_us = self.limits.client_idle_ms_min * 1000;
        let idle = |(id, socket): &(&SocketId, &Socket)| {
            let unsent = |connection: &super::Connection| connection.send_bytes() > 0;
            socket.role == Role::Client
                && socket.asked == 0
                && !self.stalled.contains(id)
                && !socket.connection.as_ref().is_some_and(unsent)
                && now.since_us(last_word(socket)) >= idle_us
        };
        let longest = self
            .sockets
            .iter()
            .filter(idle)
            .min_by_key(|(_, socket)| last_word(socket))
            .map(|(id, socket)| (*id, now.since_us(last_word(socket)) / 1000));
        if let Some((id, silent_ms)) = longest {
            let limit = self.limits.clients_max;
            self.refuse(id, NetError::Displaced { limit, silent_ms }, now);
        }
    }
}

/// When a socket was heard or spoken to last.
fn last_word(socket: &Socket) -> Time {
    socket.heard.max(socket.said)
}
