//! What a shard's ring offers for sockets.

use std::net::{SocketAddr, TcpStream};

use super::error::RingError;
use super::shard_ring::ShardRing;
use super::sockets::{SocketEvent, SocketKey, Sockets};

impl ShardRing {
    /// Makes the buffers for receives (4 MiB, shared by all sockets). Before the first socket.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open_sockets(&mut self) -> Result<(), RingError> {
        if self.sockets.is_none() {
            self.sockets = Some(Sockets::new(&self.ring)?);
        }
        Ok(())
    }

    fn sockets(&mut self) -> (&mut super::ring::Ring, &mut Sockets) {
        let sockets = self
            .sockets
            .as_mut()
            .expect("`open_sockets` comes before the first socket");
        (&mut self.ring, sockets)
    }

    /// Takes over a connected socket under `key`.
    ///
    /// # Panics
    /// If the key was used before, or [`ShardRing::open_sockets`] was not called.
    pub fn adopt_socket(&mut self, key: SocketKey, stream: TcpStream) {
        self.sockets().1.adopt(key, stream);
    }

    /// Connects a new socket: [`SocketEvent::Connected`] or [`SocketEvent::Closed`] follows.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    pub fn connect_socket(&mut self, key: SocketKey, to: SocketAddr) -> Result<(), RingError> {
        let (ring, sockets) = self.sockets();
        sockets.connect(ring, key, to)
    }

    /// Reads from a socket once: [`SocketEvent::Received`] follows when bytes are there. Does nothing while it reads
    /// already or has bytes that were not taken.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    pub fn receive_socket(&mut self, key: SocketKey) -> Result<(), RingError> {
        let (ring, sockets) = self.sockets();
        sockets.receive(ring, key)
    }

    /// Bytes that were received and not taken, to be worked on in place.
    pub fn received(&mut self, key: SocketKey) -> Option<&mut [u8]> {
        self.sockets().1.received(key)
    }

    /// Takes the first `count` of them.
    pub fn consume(&mut self, key: SocketKey, count: usize) {
        self.sockets().1.consume(key, count);
    }

    /// Whether a buffer of this socket is on its way.
    pub fn is_sending(&mut self, key: SocketKey) -> bool {
        self.sockets().1.is_sending(key)
    }

    /// An empty buffer to fill and send.
    pub fn take_send_buffer(&mut self) -> Vec<u8> {
        self.sockets().1.take_buffer()
    }

    /// Gives a buffer back that is not sent.
    pub fn put_send_buffer(&mut self, buffer: Vec<u8>) {
        self.sockets().1.put_buffer(buffer);
    }

    /// Sends a buffer whole: [`SocketEvent::Sent`] follows. One of each socket at a time.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    pub fn send_socket(&mut self, key: SocketKey, bytes: Vec<u8>) -> Result<(), RingError> {
        let (ring, sockets) = self.sockets();
        sockets.send(ring, key, bytes)
    }

    /// Closes a socket after what it was given has left, within half a second. No event of it follows.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    pub fn close_socket(&mut self, key: SocketKey, now_us: u64) -> Result<(), RingError> {
        let (ring, sockets) = self.sockets();
        sockets.close(ring, key, now_us)
    }

    /// Goes on with what waited for a buffer or for time to pass. To be called before each enter.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    pub fn tend_sockets(&mut self, now_us: u64) -> Result<(), RingError> {
        let (ring, sockets) = self.sockets();
        sockets.on_time(ring, now_us)?;
        sockets.feed(ring)
    }

    /// When [`Self::tend_sockets`] has something to do even if nothing happens, in microseconds of the boot clock.
    pub fn sockets_due_us(&self) -> Option<u64> {
        self.sockets.as_ref().and_then(Sockets::next_deadline_us)
    }

    /// Moves what happened to sockets into `events`.
    pub fn take_socket_events(&mut self, events: &mut Vec<SocketEvent>) {
        self.sockets().1.take_events(events);
    }

    /// Whether a send, a connect or a close is under way.
    pub fn are_sockets_busy(&self) -> bool {
        self.sockets.as_ref().is_some_and(Sockets::is_busy)
    }
}
