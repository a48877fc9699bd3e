//! What a driver asks of shards.

use clustor_engine::request::{Request, RequestBody};
use clustor_shards::log::Mode;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::PartitionId;

use super::super::check::clients::Asked;
use super::super::messages::name;
use super::{Event, World};

/// The ticket of all questions for a mode.
pub(super) const MODE_TICKET: u64 = u64::MAX;

impl World {
    /// Sends an append to a shard; returns its ticket. Attempts of one operation share its number.
    pub fn append(
        &mut self,
        to: PeerId,
        partition: PartitionId,
        op: u64,
        body: RequestBody,
    ) -> u64 {
        // What an embedder's machine makes of its commands is its own.
        if self.layout.guest.is_none()
            && let RequestBody::Append { payload, .. } = &body
        {
            let agreed = self.consensus.agreed_mut(partition);
            agreed.note_command(op, payload);
        }
        self.ask(to, partition, Some(op), body)
    }

    /// Sends a read to a shard; returns its ticket.
    pub fn read(&mut self, to: PeerId, partition: PartitionId, body: RequestBody) -> u64 {
        self.ask(to, partition, None, body)
    }

    pub(super) fn ask(
        &mut self,
        to: PeerId,
        partition: PartitionId,
        op: Option<u64>,
        body: RequestBody,
    ) -> u64 {
        let host = self.hosts.get(&to);
        let boot = host.map_or(0, |host| host.boots);
        let asked = Asked {
            id: to,
            boot,
            forbidden: host.and_then(|host| host.control.forbidden()),
        };
        let ticket = self
            .clients
            .ask(&mut self.consensus, asked, partition, op, &body);
        self.note(|| {
            let what = op.map_or_else(
                || format!("{body:?}"),
                |op| format!("append op {op} {body:?}"),
            );
            format!("ask #{ticket} {} p{} {what}", name(to), partition.get())
        });
        let counts = matches!(
            body,
            RequestBody::Append { .. } | RequestBody::Read { .. } | RequestBody::Members(_)
        );
        let host = self.host_mut(to);
        if host.runs() {
            if let RequestBody::Members(request) = &body {
                self.marks.on_members_asked(request);
            }
            let host = self.host_mut(to);
            host.inbox.requests.push(Request {
                ticket,
                partition,
                body,
            });
            self.operations += u64::from(counts);
            self.wake_host(to);
        } else {
            self.clients.on_boot(to, boot + 1);
        }
        ticket
    }

    /// Asks a shard for a durability mode. What becomes of it nobody waits for: it must do no harm.
    pub fn ask_mode(&mut self, to: PeerId, partition: PartitionId, mode: Mode) {
        self.note(|| format!("ask {} p{} for {mode:?}", name(to), partition.get()));
        let host = self.host_mut(to);
        if host.runs() {
            host.inbox.requests.push(Request {
                ticket: MODE_TICKET,
                partition,
                body: RequestBody::Mode(mode),
            });
            self.wake_host(to);
        }
    }

    /// Asks for a wake-up at a moment.
    pub fn wake_at(&mut self, at_us: u64, token: u64) {
        self.queue.push(at_us.max(self.now_us), Event::Wake(token));
    }
}
