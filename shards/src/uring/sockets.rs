//! The socket carrier: bytes of TCP connections through the shard's ring.
//!
//! Knows descriptors and bytes, not what they mean: whoever uses it names each socket by a key of its own, says
//! when to read, gives bytes to send one buffer at a time, and is told what happened. A socket closed from here
//! first sends what it was given, then ends its direction and reads on for a moment, so that the other side gets
//! the last words instead of a reset.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode, types};
use rustix::net::sockopt;

use super::error::RingError;
use super::receive_buffers::{GROUP, ReceiveBuffers};
use super::ring::{Done, Mark, Owner, Ring};
use super::slab::Slab;
use crate::sys::{self, RawAddress};

/// How long a socket that is closed here waits for the other side to close.
const LINGER_US: u64 = 500_000;
/// Send buffers kept for the next use.
const SPARE_BUFFERS_MAX: usize = 64;

/// After how long without a word the kernel asks whether the other side is still there, in seconds.
pub const KEEPALIVE_IDLE_S: u64 = 15;
/// How long it waits for the answer before it asks again, in seconds.
pub const KEEPALIVE_INTERVAL_S: u64 = 5;
/// How often it asks.
pub const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may go unacknowledged, or the other side take in nothing, until the kernel gives the connection up, in
/// milliseconds: as long as a silent one has.
pub const UNACKNOWLEDGED_MS_MAX: u32 = 30_000;
const _: () = assert!(
    UNACKNOWLEDGED_MS_MAX as u64
        == 1000 * (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES as u64)
);

/// Names a socket; chosen by the user of the carrier, never used twice.
pub type SocketKey = u64;

/// What happened to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketEvent {
    /// It is connected.
    Connected(SocketKey),
    /// Bytes are there; nothing more is read before they were taken.
    Received(SocketKey),
    /// The buffer it was given has left.
    Sent(SocketKey),
    /// It ended from the other side or by an error, and is closed.
    Closed(SocketKey, String),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    /// Closed from here: sends its last buffer.
    Flushing {
        until_us: u64,
    },
    /// Closed from here: waits for the other side to close.
    Lingering {
        until_us: u64,
    },
    /// Waits for the kernel to give back what it works on.
    Gone,
}

struct Socket {
    key: SocketKey,
    stream: TcpStream,
    /// Where it is being connected to; the kernel may look at it.
    address: Box<RawAddress>,
    state: State,
    receiving: bool,
    /// The buffer with bytes not taken yet, and which of them.
    received: Option<(u16, usize, usize)>,
    sending: Option<Vec<u8>>,
    sent: usize,
    in_flight: u8,
}

pub(super) struct Sockets {
    table: Slab<Socket>,
    keys: BTreeMap<SocketKey, u32>,
    buffers: ReceiveBuffers,
    /// Sockets whose receive found no buffer.
    hungry: BTreeSet<u32>,
    /// Sockets that close by a deadline.
    closing: BTreeSet<u32>,
    events: Vec<SocketEvent>,
    spare: Vec<Vec<u8>>,
}

impl Sockets {
    pub(super) fn new(ring: &Ring) -> Result<Self, RingError> {
        Ok(Self {
            table: Slab::new(),
            keys: BTreeMap::new(),
            buffers: ReceiveBuffers::new(ring)?,
            hungry: BTreeSet::new(),
            closing: BTreeSet::new(),
            events: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Whether a socket has a send or a close under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.closing.is_empty()
            || self
                .table
                .iter()
                .any(|socket| socket.sending.is_some() || socket.state == State::Connecting)
    }

    pub(super) fn adopt(&mut self, key: SocketKey, stream: TcpStream) {
        self.insert(key, stream, RawAddress::none(), State::Open);
    }

    fn insert(
        &mut self,
        key: SocketKey,
        stream: TcpStream,
        address: RawAddress,
        state: State,
    ) -> u32 {
        // Frames are batched by the turn; waiting for more in the kernel only adds latency. A socket that refuses
        // the option is slower, no more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "keepalive was refused");
        }
        let place = self.table.insert(Socket {
            key,
            stream,
            address: Box::new(address),
            state,
            receiving: false,
            received: None,
            sending: None,
            sent: 0,
            in_flight: 0,
        });
        let before = self.keys.insert(key, place);
        assert!(before.is_none(), "socket key {key} is used twice");
        place
    }

    pub(super) fn connect(
        &mut self,
        ring: &mut Ring,
        key: SocketKey,
        to: SocketAddr,
    ) -> Result<(), RingError> {
        let stream = match sys::tcp_socket(to) {
            Ok(stream) => stream,
            Err(error) => {
                self.events
                    .push(SocketEvent::Closed(key, error.to_string()));
                return Ok(());
            }
        };
        let place = self.insert(key, stream, RawAddress::of(to), State::Connecting);
        let socket = self.table.get_mut(place).expect("inserted above");
        let fd = types::Fd(socket.stream.as_raw_fd());
        let entry = opcode::Connect::new(fd, socket.address.as_ptr(), socket.address.len()).build();
        self.push(ring, place, Owner::Connect, entry)
    }

    fn push(
        &mut self,
        ring: &mut Ring,
        place: u32,
        owner: Owner,
        entry: Entry,
    ) -> Result<(), RingError> {
        let socket = self.table.get_mut(place).expect("a socket of the table");
        socket.in_flight += 1;
        ring.push(&[entry.user_data(Mark::new(owner, 0, place).pack())])
    }

    /// Reads from a socket, once, unless it does so already or bytes of it wait to be taken.
    pub(super) fn receive(&mut self, ring: &mut Ring, key: SocketKey) -> Result<(), RingError> {
        let Some(&place) = self.keys.get(&key) else {
            return Ok(());
        };
        self.arm(ring, place)
    }

    fn arm(&mut self, ring: &mut Ring, place: u32) -> Result<(), RingError> {
        let Some(socket) = self.table.get_mut(place) else {
            return Ok(());
        };
        let reads = matches!(
            socket.state,
            State::Open | State::Flushing { .. } | State::Lingering { .. }
        );
        if !reads || socket.receiving || socket.received.is_some() {
            return Ok(());
        }
        if !self.buffers.has_room() {
            self.hungry.insert(place);
            return Ok(());
        }
        socket.receiving = true;
        let fd = types::Fd(socket.stream.as_raw_fd());
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(ring, place, Owner::Receive, entry)
    }

    /// Arms receives again that had found no buffer.
    pub(super) fn feed(&mut self, ring: &mut Ring) -> Result<(), RingError> {
        while self.buffers.has_room() {
            let Some(place) = self.hungry.pop_first() else {
                break;
            };
            self.arm(ring, place)?;
        }
        Ok(())
    }

    /// Bytes that were received and not taken.
    pub(super) fn received(&mut self, key: SocketKey) -> Option<&mut [u8]> {
        let place = *self.keys.get(&key)?;
        let (buffer, from, to) = self.table.get_mut(place)?.received?;
        Some(self.buffers.bytes(buffer, from, to))
    }

    /// Takes the first `count` of them.
    pub(super) fn consume(&mut self, key: SocketKey, count: usize) {
        let Some(&place) = self.keys.get(&key) else {
            return;
        };
        let socket = self.table.get_mut(place).expect("a key names a socket");
        let Some((buffer, from, to)) = socket.received else {
            assert_eq!(count, 0, "only received bytes can be taken");
            return;
        };
        let from = from + count;
        assert!(from <= to, "only received bytes can be taken");
        socket.received = (from < to).then_some((buffer, from, to));
        if from == to {
            self.buffers.offer(buffer);
        }
    }

    pub(super) fn is_sending(&mut self, key: SocketKey) -> bool {
        self.keys
            .get(&key)
            .and_then(|place| self.table.get_mut(*place))
            .is_some_and(|socket| socket.sending.is_some())
    }

    /// An empty buffer to fill for a send.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn put_buffer(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    pub(super) fn send(
        &mut self,
        ring: &mut Ring,
        key: SocketKey,
        bytes: Vec<u8>,
    ) -> Result<(), RingError> {
        let place = self.keys.get(&key).copied();
        let open = place
            .and_then(|place| self.table.get_mut(place))
            .filter(|socket| socket.state == State::Open);
        let Some(socket) = open else {
            // It ended; whoever sent it is told, or asked for it.
            self.put_buffer(bytes);
            return Ok(());
        };
        assert!(
            socket.sending.is_none(),
            "one buffer of a socket is sent at a time"
        );
        assert!(!bytes.is_empty(), "there is nothing to send");
        socket.sending = Some(bytes);
        socket.sent = 0;
        let place = place.expect("looked up above");
        self.send_rest(ring, place)
    }

    fn send_rest(&mut self, ring: &mut Ring, place: u32) -> Result<(), RingError> {
        let socket = self.table.get_mut(place).expect("a socket of the table");
        let fd = types::Fd(socket.stream.as_raw_fd());
        let bytes = &socket.sending.as_ref().expect("something is being sent")[socket.sent..];
        let count = u32::try_from(bytes.len().min(1 << 30)).expect("at most 1 GiB");
        let entry = opcode::Send::new(fd, bytes.as_ptr(), count)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(ring, place, Owner::Send, entry)
    }

    /// Closes a socket from here, after what it was given has left. No event follows.
    pub(super) fn close(
        &mut self,
        ring: &mut Ring,
        key: SocketKey,
        now_us: u64,
    ) -> Result<(), RingError> {
        let Some(place) = self.keys.remove(&key) else {
            return Ok(());
        };
        self.drop_received(place);
        let socket = self.table.get_mut(place).expect("a key names a socket");
        let until_us = now_us + LINGER_US;
        match socket.state {
            State::Connecting => self.give_up(ring, place),
            State::Open => {
                socket.state = State::Flushing { until_us };
                self.closing.insert(place);
                if socket.sending.is_none() {
                    self.linger(ring, place)
                } else {
                    self.arm(ring, place)
                }
            }
            State::Flushing { .. } | State::Lingering { .. } | State::Gone => {
                unreachable!("a closed socket has no key")
            }
        }
    }

    fn drop_received(&mut self, place: u32) {
        let socket = self.table.get_mut(place).expect("a socket of the table");
        if let Some((buffer, _, _)) = socket.received.take() {
            self.buffers.offer(buffer);
        }
    }

    /// Everything has been sent: ends this direction and reads on until the other side does the same.
    fn linger(&mut self, ring: &mut Ring, place: u32) -> Result<(), RingError> {
        let socket = self.table.get_mut(place).expect("a socket of the table");
        let State::Flushing { until_us } = socket.state else {
            return Ok(());
        };
        socket.state = State::Lingering { until_us };
        if socket.stream.shutdown(Shutdown::Write).is_err() {
            // The other side is gone already.
            return self.give_up(ring, place);
        }
        self.arm(ring, place)
    }

    /// Closes the descriptor as soon as the kernel has given back what it works on.
    fn give_up(&mut self, ring: &mut Ring, place: u32) -> Result<(), RingError> {
        self.drop_received(place);
        self.hungry.remove(&place);
        self.closing.remove(&place);
        let socket = self.table.get_mut(place).expect("a socket of the table");
        self.keys.remove(&socket.key);
        socket.state = State::Gone;
        if socket.in_flight == 0 {
            self.table.remove(place);
            return Ok(());
        }
        let all = CancelBuilder::fd(types::Fd(socket.stream.as_raw_fd())).all();
        let mark = Mark::new(Owner::Nobody, 0, 0).pack();
        ring.push(&[opcode::AsyncCancel2::new(all).build().user_data(mark)])
    }

    /// When the first of those that close has lingered long enough.
    pub(super) fn next_deadline_us(&self) -> Option<u64> {
        let of = |&place: &u32| match self.table.get(place)?.state {
            State::Flushing { until_us } | State::Lingering { until_us } => Some(until_us),
            State::Connecting | State::Open | State::Gone => None,
        };
        self.closing.iter().filter_map(of).min()
    }

    /// Ends what has lingered long enough.
    pub(super) fn on_time(&mut self, ring: &mut Ring, now_us: u64) -> Result<(), RingError> {
        let late: Vec<u32> = self
            .closing
            .iter()
            .copied()
            .filter(|&place| {
                self.table.get_mut(place).is_some_and(|socket| {
                    matches!(socket.state,
                        State::Flushing { until_us } | State::Lingering { until_us } if until_us <= now_us)
                })
            })
            .collect();
        for place in late {
            self.give_up(ring, place)?;
        }
        Ok(())
    }

    /// Takes one completion that belongs to a socket.
    pub(super) fn completed(&mut self, ring: &mut Ring, done: Done) -> Result<(), RingError> {
        let place = done.mark.place;
        let socket = self
            .table
            .get_mut(place)
            .expect("a socket in flight is in the table");
        socket.in_flight = socket
            .in_flight
            .checked_sub(1)
            .expect("each completes once");
        if done.mark.owner == Owner::Receive {
            socket.receiving = false;
        }
        let buffer = cqueue::buffer_select(done.flags);
        if buffer.is_some() {
            self.buffers.taken();
        }
        let socket = self.table.get_mut(place).expect("looked up above");
        if socket.state == State::Gone {
            if let Some(buffer) = buffer {
                self.buffers.offer(buffer);
            }
            if socket.in_flight == 0 {
                self.table.remove(place);
            }
            return Ok(());
        }
        match done.mark.owner {
            Owner::Receive => self.on_received(ring, place, buffer, done.result),
            Owner::Send => self.on_sent(ring, place, done.result),
            Owner::Connect if done.result < 0 => self.lost(ring, place, error_text(done.result)),
            Owner::Connect => {
                socket.state = State::Open;
                self.events.push(SocketEvent::Connected(socket.key));
                Ok(())
            }
            other => panic!("{other:?} is not a socket's"),
        }
    }

    fn on_received(
        &mut self,
        ring: &mut Ring,
        place: u32,
        buffer: Option<u16>,
        result: i32,
    ) -> Result<(), RingError> {
        if result == -libc::ENOBUFS {
            self.hungry.insert(place);
            return Ok(());
        }
        let socket = self.table.get_mut(place).expect("a socket of the table");
        let is_open = socket.state == State::Open;
        if result > 0 {
            let buffer = buffer.expect("received bytes lie in a buffer");
            if is_open {
                socket.received = Some((buffer, 0, result.unsigned_abs() as usize));
                self.events.push(SocketEvent::Received(socket.key));
                return Ok(());
            }
            self.buffers.offer(buffer);
            return self.arm(ring, place);
        }
        if let Some(buffer) = buffer {
            self.buffers.offer(buffer);
        }
        match (is_open, result) {
            (true, 0) => self.lost(
                ring,
                place,
                "the other side closed the connection".to_owned(),
            ),
            (true, error) => self.lost(ring, place, error_text(error)),
            // It has nothing more to say, and still hears what it was given: the end of that is seen to when it has left.
            (false, 0) if matches!(socket.state, State::Flushing { .. }) => Ok(()),
            (false, _) => self.give_up(ring, place),
        }
    }

    fn on_sent(&mut self, ring: &mut Ring, place: u32, result: i32) -> Result<(), RingError> {
        let socket = self.table.get_mut(place).expect("a socket of the table");
        let is_open = socket.state == State::Open;
        if result <= 0 {
            return if is_open {
                self.lost(ring, place, error_text(result))
            } else {
                self.give_up(ring, place)
            };
        }
        socket.sent += result.unsigned_abs() as usize;
        let bytes = socket
            .sending
            .as_ref()
            .expect("something was being sent")
            .len();
        assert!(socket.sent <= bytes, "a send stays within its buffer");
        if socket.sent < bytes {
            return self.send_rest(ring, place);
        }
        let buffer = socket.sending.take().expect("looked at above");
        let key = socket.key;
        self.put_buffer(buffer);
        if is_open {
            self.events.push(SocketEvent::Sent(key));
            Ok(())
        } else {
            self.linger(ring, place)
        }
    }

    /// The socket ended by itself: its user is told.
    fn lost(&mut self, ring: &mut Ring, place: u32, why: String) -> Result<(), RingError> {
        let key = self
            .table
            .get_mut(place)
            .expect("a socket of the table")
            .key;
        self.events.push(SocketEvent::Closed(key, why));
        self.give_up(ring, place)
    }

    pub(super) fn take_events(&mut self, into: &mut Vec<SocketEvent>) {
        into.append(&mut self.events);
    }

    /// Leaks every buffer that the kernel may still touch.
    pub(super) fn leak(self) {
        std::mem::forget(self);
    }
}

fn error_text(result: i32) -> String {
    if result == 0 {
        return "nothing could be sent".to_owned();
    }
    io::Error::from_raw_os_error(-result).to_string()
}

/// Lets the kernel find out that the other side is gone without a word.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(KEEPALIVE_IDLE_S))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}
