//! The transport frame: what one shard or client sends another, length-delimited and checksummed.
//!
//! A frame is a header of [`FRAME_HEADER_BYTES`] and a body of at most [`FRAME_BODY_BYTES_MAX`]. The header names
//! the body's length and kind, flags (none assigned: 0), the protocol version, and the CRC32C of everything before
//! it in the header and of the body. TLS below authenticates; the checksum catches what goes wrong between the
//! two ends' memories, and FlatBuffers above it can't tell (it accepts most flipped bits).
//!
//! [`FrameDecoder`] holds at most the one frame it is in the middle of and allocates only for bytes that have
//! arrived. The first error is final: a stream that lied once about its boundaries has none any more.

use thiserror::Error;

use crate::error_code::ErrorCode;

/// Length of a frame's header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 12;

/// Longest body of a frame, in bytes: the largest entry, 4 MiB, and 64 KiB for the message around it.
pub const FRAME_BODY_BYTES_MAX: usize = 4 * 1024 * 1024 + 64 * 1024;

/// The version of the protocol that this crate speaks; frames of any other are refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest text of a [`FrameKind::Goodbye`] in bytes; a longer one is cut.
pub const GOODBYE_BYTES_MAX: usize = 512;

/// First allocation for a body that arrives in pieces, in bytes; doubled as more arrives.
const BODY_BYTES_FIRST: usize = 4096;

/// Header bytes that the checksum covers: all but itself.
const HEADER_BYTES_SUMMED: usize = 8;

const _: () = assert!(HEADER_BYTES_SUMMED + size_of::<u32>() == FRAME_HEADER_BYTES);
const _: () = assert!(FRAME_BODY_BYTES_MAX <= u32::MAX as usize);

/// What a frame's body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of a peer session, both ways: [`crate::message::PeerHello`].
    PeerHello = 1,
    /// Consensus traffic of one shard pair, one batch per turn: [`crate::message::PeerBatch`].
    PeerBatch = 2,
    /// A client asks: [`crate::message::ClientRequest`].
    ClientRequest = 3,
    /// A client is answered: [`crate::message::ClientResponse`].
    ClientResponse = 4,
    /// The last frame of a session that its sender refuses: why, in words. UTF-8, at most
    /// [`GOODBYE_BYTES_MAX`]; read with [`goodbye_text`].
    Goodbye = 5,
}

impl FrameKind {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::PeerHello),
            2 => Some(Self::PeerBatch),
            3 => Some(Self::ClientRequest),
            4 => Some(Self::ClientResponse),
            5 => Some(Self::Goodbye),
            _ => None,
        }
    }
}

/// One frame, decoded: its kind and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body holds.
    pub kind: FrameKind,
    /// The message, in FlatBuffers.
    pub body: Vec<u8>,
}

impl Frame {
    /// The frame that ends a session with a reason, cut to [`GOODBYE_BYTES_MAX`].
    #[must_use]
    pub fn goodbye(reason: &str) -> Self {
        let end = (0..=reason.len().min(GOODBYE_BYTES_MAX))
            .rev()
            .find(|end| reason.is_char_boundary(*end))
            .unwrap_or(0);
        Self {
            kind: FrameKind::Goodbye,
            body: reason.as_bytes()[..end].to_vec(),
        }
    }
}

/// The text of a [`FrameKind::Goodbye`] body, fit for a log: cut, invalid UTF-8 replaced, control characters
/// replaced by spaces.
#[must_use]
pub fn goodbye_text(body: &[u8]) -> String {
    let cut = &body[..body.len().min(GOODBYE_BYTES_MAX)];
    String::from_utf8_lossy(cut)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Why a frame could not be made or read. Each has a code of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error(
        "{code}: the stream ended {have} bytes into a frame of {want}: the connection broke, dial again",
        code = ErrorCode::BodyTooShort
    )]
    TooShort {
        /// Bytes of the frame that had arrived, header included.
        have: usize,
        /// Bytes of the whole frame, or of its header where not even that was complete.
        want: usize,
    },
    /// The body's length is over [`FRAME_BODY_BYTES_MAX`].
    #[error(
        "{code}: a frame's body of {len} bytes, the limit is {max}: send less at a time",
        code = ErrorCode::BodyTooLarge,
        max = FRAME_BODY_BYTES_MAX
    )]
    TooLarge {
        /// The body's length.
        len: usize,
    },
    /// A flag is set; none is assigned.
    #[error(
        "{code}: a frame has the flags {flags:#04x}, none is assigned in protocol version {PROTOCOL_VERSION}: the \
         sender is newer, or the bytes are not a frame",
        code = ErrorCode::UnknownField
    )]
    UnknownFlags {
        /// The flags.
        flags: u8,
    },
    /// The kind is none of [`FrameKind`].
    #[error(
        "{code}: a frame is of kind {kind}, unknown in protocol version {PROTOCOL_VERSION}: the sender is newer, or \
         the bytes are not a frame",
        code = ErrorCode::UnknownKind
    )]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// The protocol version is not [`PROTOCOL_VERSION`].
    #[error(
        "{code}: a frame is of protocol version {version}, this end speaks {PROTOCOL_VERSION}: run the same release \
         on both ends",
        code = ErrorCode::VersionUnsupported
    )]
    UnsupportedVersion {
        /// The version.
        version: u16,
    },
    /// The checksum does not match.
    #[error(
        "{code}: a frame's bytes have the CRC32C {computed:#010x}, its header says {stated:#010x}: the frame was \
         damaged on its way, dial again",
        code = ErrorCode::ChecksumMismatch
    )]
    Checksum {
        /// What the header says.
        stated: u32,
        /// What the bytes have.
        computed: u32,
    },
}

impl FrameError {
    /// The registry's entry.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooShort { .. } => ErrorCode::BodyTooShort,
            Self::TooLarge { .. } => ErrorCode::BodyTooLarge,
            Self::UnknownFlags { .. } => ErrorCode::UnknownField,
            Self::UnknownKind { .. } => ErrorCode::UnknownKind,
            Self::UnsupportedVersion { .. } => ErrorCode::VersionUnsupported,
            Self::Checksum { .. } => ErrorCode::ChecksumMismatch,
        }
    }
}

/// Appends `frame` to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`] if the body exceeds [`FRAME_BODY_BYTES_MAX`]; `out` is then as it was.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    encode_frame_with(frame.kind, out, |out| {
        out.extend_from_slice(&frame.body);
        Ok(())
    })
}

/// Appends a frame whose body `build` appends to the same buffer, without a copy in between.
///
/// `build` may only append; a message's `encode` does.
///
/// # Errors
/// What `build` returns, or [`FrameError::TooLarge`] if it appended more than [`FRAME_BODY_BYTES_MAX`]; `out` is then
/// as it was.
///
/// # Panics
/// If `build` removed bytes that were there before.
pub fn encode_frame_with<E: From<FrameError>>(
    kind: FrameKind,
    out: &mut Vec<u8>,
    build: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let body = out.len();
    let built = build(out);
    assert!(out.len() >= body, "a frame's body removed bytes before it");
    if let Err(error) = built {
        out.truncate(start);
        return Err(error);
    }
    let len = out.len() - body;
    if len > FRAME_BODY_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLarge { len }.into());
    }
    let (header, body) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    header[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    header[4] = kind as u8;
    header[5] = 0;
    header[6..8].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let sum = checksum(&header[..HEADER_BYTES_SUMMED], body);
    header[HEADER_BYTES_SUMMED..].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// A header that was judged acceptable.
#[derive(Debug, Clone, Copy)]
struct Header {
    len: usize,
    kind: FrameKind,
    stated: u32,
}

impl Header {
    /// The version is judged first: another version may lay out the rest as it likes.
    fn judge(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, flags, v0, v1, c0, c1, c2, c3] = *bytes;
        let version = u16::from_le_bytes([v0, v1]);
        if version != PROTOCOL_VERSION {
            return Err(FrameError::UnsupportedVersion { version });
        }
        if flags != 0 {
            return Err(FrameError::UnknownFlags { flags });
        }
        let kind = FrameKind::from_number(kind).ok_or(FrameError::UnknownKind { kind })?;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLarge { len });
        }
        let stated = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(Self { len, kind, stated })
    }
}

/// Takes a stream of bytes apart into frames.
///
/// Memory: at most the header and the declared body of one frame, and at most twice (or 4 KiB more than) what of
/// it has arrived.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; FRAME_HEADER_BYTES],
    header_len: usize,
    accepted: Option<Header>,
    body: Vec<u8>,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes bytes from the front of `input` until a frame is complete, and returns it; `None` once `input` is
    /// empty and the frame at hand, if any, is not complete. Call it until it returns `None`.
    ///
    /// # Errors
    /// The stream is not a sequence of frames. From then on every call returns the same error.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance(input);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.body = Vec::new();
        }
        result
    }

    /// The stream ended.
    ///
    /// # Errors
    /// [`FrameError::TooShort`] if it ended inside a frame; the earlier error, if there was one.
    pub fn finish(self) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let have = self.header_len + self.body.len();
        if have == 0 {
            return Ok(());
        }
        let want = FRAME_HEADER_BYTES + self.accepted.map_or(0, |header| header.len);
        Err(FrameError::TooShort { have, want })
    }

    /// Bytes of memory held for the frame at hand.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.header_len + self.body.capacity()
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        let header = match self.accepted {
            Some(header) => header,
            None => {
                let wanted = FRAME_HEADER_BYTES - self.header_len;
                let taken = take(input, wanted);
                self.header[self.header_len..][..taken.len()].copy_from_slice(taken);
                self.header_len += taken.len();
                if self.header_len < FRAME_HEADER_BYTES {
                    return Ok(None);
                }
                *self.accepted.insert(Header::judge(&self.header)?)
            }
        };
        let taken = take(input, header.len - self.body.len());
        self.reserve(taken.len(), header.len);
        self.body.extend_from_slice(taken);
        if self.body.len() < header.len {
            return Ok(None);
        }
        let computed = checksum(&self.header[..HEADER_BYTES_SUMMED], &self.body);
        if computed != header.stated {
            return Err(FrameError::Checksum {
                stated: header.stated,
                computed,
            });
        }
        self.accepted = None;
        self.header_len = 0;
        Ok(Some(Frame {
            kind: header.kind,
            body: core::mem::take(&mut self.body),
        }))
    }

    /// Room for `more` bytes of a body of `declared`: doubling, so that copying stays linear, but never beyond what
    /// the frame declared, and exactly that where all of it is at hand.
    fn reserve(&mut self, more: usize, declared: usize) {
        let needed = self.body.len() + more;
        if needed > self.body.capacity() {
            let target = (2 * self.body.capacity())
                .max(needed)
                .max(BODY_BYTES_FIRST)
                .min(declared);
            self.body.reserve_exact(target - self.body.len());
        }
    }
}

/// Splits up to `wanted` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], wanted: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(wanted.min(input.len()));
    *input = rest;
    taken
}
