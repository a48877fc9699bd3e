//! One connection: TLS 1.3 with certificates on both sides, frames over it, no socket and no clock.
//!
//! Bytes that arrived go into [`Connection::receive`], bytes to send come out of [`Connection::transmit`], frames
//! go in by [`Connection::send`] and come out of [`Connection::next_frame`]. The caller moves bytes, keeps time and
//! closes the descriptor once [`Connection::is_finished`].
//!
//! Bounds: [`ConnectionLimits`]. `receive` takes nothing while more than `received_bytes_max` of frames wait to be
//! fetched, so a caller who stops fetching stops the sender. The other side's identity is checked as soon as the
//! handshake is done, before anything is sent or handed out.

use std::collections::VecDeque;

use clustor_wire::frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameKind,
    encode_frame, goodbye_text,
};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

use super::error::NetError;
use super::identity::{Role, SpiffeId, TlsIdentity, application_protocol, server_name};
use super::preface::SessionKind;
use super::tls::{RECORD_OVERHEAD_BYTES_MAX, RECORD_PLAIN_BYTES_MAX, TlsFailure, TlsStream};

/// The most that one call of [`Connection::receive`] takes, in bytes.
pub const RECEIVE_BYTES_MAX: usize = 64 * 1024;
/// Plaintext scratch above this is given back once it is empty, in bytes.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

/// Bounds of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Frames waiting to be sent.
    pub send_frames_max: usize,
    /// Bytes of frames waiting to be sent, headers included. At least one frame always fits.
    pub send_bytes_max: usize,
    /// Bytes of frames waiting to be fetched; one `receive` may exceed it once.
    pub received_bytes_max: usize,
}

impl Default for ConnectionLimits {
    /// 1,024 frames, 16 MiB to send, 8 MiB received: four largest frames one way, two the other.
    fn default() -> Self {
        Self {
            send_frames_max: 1024,
            send_bytes_max: 16 << 20,
            received_bytes_max: 8 << 20,
        }
    }
}

/// Whom the other side's certificate must name. Its trust domain must be ours in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this identity.
    Exactly(SpiffeId),
    /// Any node.
    AnyNode,
    /// Anyone of the trust domain.
    Anyone,
}

/// One connection.
pub struct Connection {
    tls: TlsStream,
    kind: SessionKind,
    trust_domain: String,
    expected: Expected,
    limits: ConnectionLimits,
    peer: Option<SpiffeId>,
    decoder: FrameDecoder,
    received: VecDeque<Frame>,
    received_bytes: usize,
    heard_frame: bool,
    queue: VecDeque<Frame>,
    queue_bytes: usize,
    plain: Vec<u8>,
    plain_sent: usize,
    closing: bool,
    close_queued: bool,
    ended: Option<NetError>,
}

impl Connection {
    /// The dialling side. The preface must have been sent before the first byte from here.
    ///
    /// # Errors
    /// [`NetError::Setup`] or [`NetError::Tls`].
    pub fn dial(
        identity: &TlsIdentity,
        kind: SessionKind,
        expected: Expected,
        limits: ConnectionLimits,
    ) -> Result<Self, NetError> {
        let tls = UnbufferedClientConnection::new_with_alpn(
            identity.client_config(),
            server_name(),
            vec![application_protocol(kind).to_vec()],
        )
        .map_err(|error| NetError::Setup {
            why: error.to_string(),
        })?;
        let mut connection = Self::new(TlsStream::client(tls), identity, kind, expected, limits);
        connection.tls.start().map_err(|failure| match failure {
            TlsFailure::Tls(why) => NetError::Tls {
                handshaking: true,
                why,
            },
            TlsFailure::Sink(never) => match never {},
        })?;
        Ok(connection)
    }

    /// The accepting side. The preface must have been read before the first byte to here.
    ///
    /// # Errors
    /// [`NetError::Setup`].
    pub fn accept(
        identity: &TlsIdentity,
        kind: SessionKind,
        expected: Expected,
        limits: ConnectionLimits,
    ) -> Result<Self, NetError> {
        let tls =
            UnbufferedServerConnection::new(identity.server_config(kind)).map_err(|error| {
                NetError::Setup {
                    why: error.to_string(),
                }
            })?;
        Ok(Self::new(
            TlsStream::server(tls),
            identity,
            kind,
            expected,
            limits,
        ))
    }

    fn new(
        tls: TlsStream,
        identity: &TlsIdentity,
        kind: SessionKind,
        expected: Expected,
        limits: ConnectionLimits,
    ) -> Self {
        Self {
            tls,
            kind,
            trust_domain: identity.id().trust_domain().to_owned(),
            expected,
            limits,
            peer: None,
            decoder: FrameDecoder::new(),
            received: VecDeque::new(),
            received_bytes: 0,
            heard_frame: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            plain: Vec::new(),
            plain_sent: 0,
            closing: false,
            close_queued: false,
            ended: None,
        }
    }

    /// Who the other side is, once its certificate is verified. On the dialling side this comes before the
    /// acceptor has judged *our* certificate: only the first frame proves that it accepted.
    #[must_use]
    pub const fn peer(&self) -> Option<&SpiffeId> {
        self.peer.as_ref()
    }

    /// Whether the caller should go on reading.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.ended.is_none() && self.received_bytes < self.limits.received_bytes_max
    }

    /// Whether [`Self::transmit`] has something to give.
    #[must_use]
    pub fn wants_write(&mut self) -> bool {
        if !self.tls.outgoing().is_empty() {
            return true;
        }
        self.peer.is_some()
            && self.ended.is_none()
            && (self.plain_left() > 0 || !self.queue.is_empty() || self.close_due())
    }

    /// Takes bytes that arrived, at most [`RECEIVE_BYTES_MAX`] at a time, decrypting them in place; what was taken
    /// is garbage afterwards. Returns how many were taken: 0 while [`Self::wants_read`] is false, or for no bytes.
    ///
    /// # Errors
    /// Whatever ends the connection. The same error comes again from then on; what [`Self::transmit`] still gives
    /// (an alert) should be sent before the descriptor is closed.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, NetError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if !self.wants_read() {
            return Ok(0);
        }
        let taken = bytes.len().min(RECEIVE_BYTES_MAX);
        let result = self.take(&mut bytes[..taken]);
        if let Err(error) = result {
            self.end(error.clone());
            return Err(error);
        }
        Ok(taken)
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), NetError> {
        let handshaking = self.tls.is_handshaking() || !self.heard_frame;
        // Frames are decoded as records come; whether their sender may speak is judged before they are handed out.
        let Self {
            tls,
            decoder,
            received,
            received_bytes,
            ..
        } = self;
        let result = tls.receive(bytes, &mut |mut plain: &[u8]| {
            while let Some(frame) = decoder.decode(&mut plain)? {
                *received_bytes += frame_bytes(&frame);
                received.push_back(frame);
            }
            Ok(())
        });
        match result {
            Ok(()) => {}
            Err(TlsFailure::Tls(why)) => return Err(NetError::Tls { handshaking, why }),
            Err(TlsFailure::Sink(error)) => {
                let error: FrameError = error;
                return Err(NetError::Frame {
                    why: error.to_string(),
                });
            }
        }
        self.heard_frame |= !self.received.is_empty();
        if self.peer.is_none() && !self.tls.is_handshaking() {
            self.peer = Some(self.judge_peer()?);
        }
        if self.tls.peer_closed() {
            let decoder = core::mem::take(&mut self.decoder);
            decoder.finish().map_err(|error| NetError::Frame {
                why: error.to_string(),
            })?;
            if self.received.is_empty() {
                return Err(NetError::ClosedByPeer);
            }
        }
        Ok(())
    }

    fn judge_peer(&self) -> Result<SpiffeId, NetError> {
        if self.tls.application_protocol() != Some(application_protocol(self.kind)) {
            return Err(NetError::Tls {
                handshaking: true,
                why: "no application protocol was agreed on".to_owned(),
            });
        }
        let certificate = self
            .tls
            .peer_certificate()
            .ok_or_else(|| NetError::NoIdentity {
                of: "the other side".to_owned(),
                why: "it presented none".to_owned(),
            })?;
        let id = SpiffeId::of_certificate(certificate, "the other side")?;
        if id.trust_domain() != self.trust_domain {
            return Err(NetError::WrongTrustDomain {
                expected: self.trust_domain.clone(),
                found: id.trust_domain().to_owned(),
            });
        }
        let expected = match &self.expected {
            Expected::Exactly(expected) if *expected == id => None,
            Expected::Exactly(expected) => Some(expected.to_string()),
            Expected::AnyNode => match id.role() {
                Role::Node(_) => None,
                Role::Operator(_) | Role::Client(_) => Some("a node".to_owned()),
            },
            Expected::Anyone => None,
        };
        match expected {
            None => Ok(id),
            Some(expected) => Err(NetError::WrongIdentity {
                expected,
                found: id,
            }),
        }
    }

    /// The carrier saw the end of the stream, or an error on it.
    pub fn lost(&mut self, why: &str) -> NetError {
        let error = if self.tls.peer_closed() {
            NetError::ClosedByPeer
        } else {
            NetError::Lost {
                why: why.to_owned(),
            }
        };
        self.end(error)
    }

    /// The next frame that arrived; `None` for none, or if the connection ended. Frames that came before an orderly
    /// close are still handed out; a goodbye ends the connection with [`NetError::RefusedByPeer`].
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.peer.is_none() || self.ended.is_some() {
            return None;
        }
        let frame = self.received.pop_front()?;
        self.received_bytes -= frame_bytes(&frame);
        if frame.kind == FrameKind::Goodbye {
            let reason = goodbye_text(&frame.body);
            self.end(NetError::RefusedByPeer { reason });
            return None;
        }
        if self.received.is_empty() && self.tls.peer_closed() {
            self.end(NetError::ClosedByPeer);
        }
        Some(frame)
    }

    /// Queues a frame. It leaves when the handshake is done.
    ///
    /// # Errors
    /// The frame comes back with [`NetError::SendQueueFull`], [`NetError::FrameTooLarge`] or [`NetError::Closed`].
    pub fn send(&mut self, frame: Frame) -> Result<(), (Frame, NetError)> {
        if self.ended.is_some() || self.closing {
            return Err((frame, NetError::Closed));
        }
        let bytes = frame_bytes(&frame);
        if frame.body.len() > FRAME_BODY_BYTES_MAX {
            let error = NetError::FrameTooLarge {
                bytes: frame.body.len(),
                limit: FRAME_BODY_BYTES_MAX,
            };
            return Err((frame, error));
        }
        let waiting = self.send_bytes();
        let fits = waiting == 0 || waiting + bytes <= self.limits.send_bytes_max;
        if self.queue.len() >= self.limits.send_frames_max || !fits {
            let error = NetError::SendQueueFull {
                frames: self.queue.len(),
                bytes: waiting,
            };
            return Err((frame, error));
        }
        self.queue_bytes += bytes;
        self.queue.push_back(frame);
        Ok(())
    }

    /// Bytes of frames waiting to be sent.
    #[must_use]
    pub fn send_bytes(&self) -> usize {
        self.queue_bytes + self.plain_left()
    }

    /// Appends to `out` what is to be sent, until it holds at least `bytes_max` or nothing is left; the last record
    /// may exceed it by 16 KiB and a record's overhead (handshake bytes by their own limit). Returns how many were
    /// appended.
    ///
    /// # Errors
    /// [`NetError::Tls`] ends the connection.
    pub fn transmit(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> Result<usize, NetError> {
        let before = out.len();
        out.append(self.tls.outgoing());
        if self.ended.is_some() || self.peer.is_none() {
            return Ok(out.len() - before);
        }
        // Bounded: each round encrypts at least one byte of a bounded queue.
        while out.len() - before < bytes_max && self.fill_plain() {
            let end = (self.plain_sent + RECORD_PLAIN_BYTES_MAX).min(self.plain.len());
            let result = self.tls.encrypt(&self.plain[self.plain_sent..end], out);
            if let Err(why) = result {
                let error = NetError::Tls {
                    handshaking: false,
                    why,
                };
                return Err(self.end(error));
            }
            self.plain_sent = end;
            if self.plain_left() == 0 {
                self.plain.clear();
                self.plain_sent = 0;
                self.plain.shrink_to(SCRATCH_BYTES_KEPT);
            }
        }
        if self.close_due() {
            self.close_queued = true;
            if let Err(why) = self.tls.close() {
                let error = NetError::Tls {
                    handshaking: false,
                    why,
                };
                return Err(self.end(error));
            }
            out.append(self.tls.outgoing());
        }
        Ok(out.len() - before)
    }

    /// Encodes queued frames until a whole record is at hand; false if there is nothing to encrypt.
    fn fill_plain(&mut self) -> bool {
        while self.plain_left() < RECORD_PLAIN_BYTES_MAX {
            let Some(frame) = self.queue.pop_front() else {
                break;
            };
            self.queue_bytes -= frame_bytes(&frame);
            encode_frame(&frame, &mut self.plain).expect("`send` checked the length");
        }
        self.plain_left() > 0
    }

    fn plain_left(&self) -> usize {
        self.plain.len() - self.plain_sent
    }

    fn close_due(&self) -> bool {
        self.closing && !self.close_queued && self.queue.is_empty() && self.plain_left() == 0
    }

    /// Closes after what was queued has left; nothing more can be queued.
    pub const fn close(&mut self) {
        self.closing = true;
    }

    /// Why the connection ended, if it did.
    #[must_use]
    pub const fn ended(&self) -> Option<&NetError> {
        self.ended.as_ref()
    }

    /// Whether the carrier may close the descriptor: the connection ended, or was closed from here and everything
    /// has been transmitted.
    #[must_use]
    pub fn is_finished(&mut self) -> bool {
        let closed = self.close_queued || (self.closing && self.peer.is_none());
        (self.ended.is_some() || closed) && self.tls.outgoing().is_empty()
    }

    /// Ends the connection from here: nothing more is received or sent, but for a goodbye that carries the reason
    /// (where TLS stands and no frame is half sent), an alert or a close_notify, which [`Self::transmit`] still
    /// gives. The first reason stays.
    pub fn end(&mut self, error: NetError) -> NetError {
        if self.ended.is_some() {
            return error;
        }
        if error.is_refusal() && self.plain_sent == 0 {
            self.say_goodbye(&error.to_string());
        }
        // Best effort: the connection is over whether or not the other side can be told.
        let _ = self.tls.close();
        self.queue.clear();
        self.queue_bytes = 0;
        self.plain = Vec::new();
        self.plain_sent = 0;
        self.received.clear();
        self.received_bytes = 0;
        self.ended = Some(error.clone());
        error
    }

    fn say_goodbye(&mut self, reason: &str) {
        if self.tls.is_handshaking() || self.tls.peer_closed() {
            return;
        }
        let mut plain = Vec::new();
        encode_frame(&Frame::goodbye(reason), &mut plain).expect("a goodbye is short");
        let mut out = core::mem::take(self.tls.outgoing());
        // Best effort, as above.
        let _ = self.tls.encrypt(&plain, &mut out);
        *self.tls.outgoing() = out;
    }
}

impl core::fmt::Debug for Connection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connection")
            .field("kind", &self.kind)
            .field("peer", &self.peer)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// What a frame takes on the wire before TLS.
fn frame_bytes(frame: &Frame) -> usize {
    FRAME_HEADER_BYTES + frame.body.len()
}

const _: () = assert!(RECORD_OVERHEAD_BYTES_MAX < RECORD_PLAIN_BYTES_MAX);
