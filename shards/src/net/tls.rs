//! TLS as a machine: ciphertext in, plaintext out, and back; no socket.
//!
//! Drives rustls's unbuffered API. What it relies on, and the traps it avoids:
//!
//! - records are decrypted in place, in the buffer they arrived in; only the tail of an incomplete record (or of
//!   a handshake message spread over records) is kept, at most [`TAIL_BYTES_MAX`];
//! - the library may hand out application data while handshake output is still being written: every state that
//!   carries data is drained before the next step, or the record would be lost;
//! - after an error the alert that tells the other side is still to be fetched.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls_pki_types::CertificateDer;

/// Longest plaintext of a TLS record (RFC 8446, 5.1).
pub(super) const RECORD_PLAIN_BYTES_MAX: usize = 16 * 1024;
/// What a record adds at most: header 5, content type 1, tag 16; the rest of 256 is the RFC's allowance.
pub(super) const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 256;
/// The longest tail kept between two calls: a handshake message of at most 64 KiB and one record.
pub(super) const TAIL_BYTES_MAX: usize =
    64 * 1024 + RECORD_PLAIN_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX;
/// More handshake bytes than this waiting to be sent means that the other side feeds us without reading.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What one step of the machine came to.
enum Step {
    Again,
    Blocked,
}

/// One TLS stream.
pub(super) struct TlsStream {
    side: Side,
    tail: Vec<u8>,
    outgoing: Vec<u8>,
    peer_closed: bool,
    close_sent: bool,
    failed: bool,
}

/// Why TLS ended, in the library's words, or the sink's own error.
pub(super) enum TlsFailure<E> {
    Tls(String),
    Sink(E),
}

impl TlsStream {
    pub(super) fn client(connection: UnbufferedClientConnection) -> Self {
        Self::new(Side::Client(connection))
    }

    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Side::Server(connection))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            tail: Vec::new(),
            outgoing: Vec::new(),
            peer_closed: false,
            close_sent: false,
            failed: false,
        }
    }

    /// Whether the handshake is still going on.
    pub(super) fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Client(connection) => connection.is_handshaking(),
            Side::Server(connection) => connection.is_handshaking(),
        }
    }

    /// The other side's certificate, once the handshake has brought it.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = match &self.side {
            Side::Client(connection) => connection.peer_certificates(),
            Side::Server(connection) => connection.peer_certificates(),
        };
        chain.and_then(<[_]>::first)
    }

    /// The application protocol agreed on.
    pub(super) fn application_protocol(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Client(connection) => connection.alpn_protocol(),
            Side::Server(connection) => connection.alpn_protocol(),
        }
    }

    /// Whether the other side closed in order.
    pub(super) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Handshake bytes and alerts waiting to be sent.
    pub(super) const fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Takes all of `bytes`, decrypting in place, and hands each record's plaintext to `sink`.
    pub(super) fn receive<E>(
        &mut self,
        bytes: &mut [u8],
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), TlsFailure<E>> {
        if self.failed {
            return Err(TlsFailure::Tls("an earlier record was refused".to_owned()));
        }
        if self.close_sent || self.peer_closed {
            // Whoever closed has heard enough; nothing counts after the other side's close_notify.
            return Ok(());
        }
        let Self {
            side,
            tail,
            outgoing,
            peer_closed,
            ..
        } = self;
        let result = if tail.is_empty() {
            let (used, result) = process(side, bytes, outgoing, peer_closed, sink);
            tail.extend_from_slice(&bytes[used..]);
            result
        } else {
            tail.extend_from_slice(bytes);
            let (used, result) = process(side, tail, outgoing, peer_closed, sink);
            tail.drain(..used);
            result
        };
        if let Err(failure) = result {
            self.failed = matches!(failure, TlsFailure::Tls(_));
            self.tail = Vec::new();
            return Err(failure);
        }
        if self.peer_closed {
            self.tail.clear();
        }
        if self.tail.len() > TAIL_BYTES_MAX || self.outgoing.len() > OUTGOING_BYTES_MAX {
            self.failed = true;
            return Err(TlsFailure::Tls(
                "a handshake message or record beyond its limit".to_owned(),
            ));
        }
        Ok(())
    }

    /// Starts the handshake: a client's first flight lands in `outgoing`.
    pub(super) fn start(&mut self) -> Result<(), TlsFailure<core::convert::Infallible>> {
        self.receive(&mut [], &mut |_| Ok(()))
    }

    /// Encrypts `plain`, at most [`RECORD_PLAIN_BYTES_MAX`], behind what `out` holds.
    ///
    /// Only after the handshake.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        assert!(plain.len() <= RECORD_PLAIN_BYTES_MAX);
        self.write(
            out,
            plain.len() + RECORD_OVERHEAD_BYTES_MAX,
            |traffic, out| traffic.encrypt(plain, out),
        )
    }

    /// Queues close_notify behind what `outgoing` holds; nothing can be encrypted after it.
    pub(super) fn close(&mut self) -> Result<(), String> {
        if self.close_sent || self.failed || self.is_handshaking() {
            return Ok(());
        }
        self.close_sent = true;
        let mut out = core::mem::take(&mut self.outgoing);
        let result = self.write(&mut out, RECORD_OVERHEAD_BYTES_MAX, |traffic, out| {
            traffic.queue_close_notify(out)
        });
        self.outgoing = out;
        result
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        mut write: impl FnMut(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), String> {
        if self.failed {
            return Err("an earlier record was refused".to_owned());
        }
        let start = out.len();
        out.resize(start + room, 0);
        // One more try: an error names the room that is missing (a key update may ride along).
        for _ in 0..2 {
            let result = match &mut self.side {
                Side::Client(connection) => {
                    match connection.process_tls_records(&mut self.tail).state {
                        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                            write(&mut traffic, &mut out[start..])
                        }
                        other => return Err(not_writable(&other)),
                    }
                }
                Side::Server(connection) => {
                    match connection.process_tls_records(&mut self.tail).state {
                        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                            write(&mut traffic, &mut out[start..])
                        }
                        other => return Err(not_writable(&other)),
                    }
                }
            };
            match result {
                Ok(written) => {
                    out.truncate(start + written);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    out.resize(start + required_size, 0);
                }
                Err(error) => {
                    out.truncate(start);
                    return Err(error.to_string());
                }
            }
        }
        out.truncate(start);
        Err("the library asked for room twice".to_owned())
    }
}

/// `WriteTraffic` of either side.
trait Traffic {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Traffic for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, plain, out)
    }

    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::queue_close_notify(self, out)
    }
}

fn not_writable<Data>(state: &Result<ConnectionState<'_, '_, Data>, rustls::Error>) -> String {
    match state {
        Ok(state) => format!("nothing can be written in state {state:?}"),
        Err(error) => error.to_string(),
    }
}

/// Runs the machine over `buffer` until it needs more or fails; returns how many bytes of it are used up.
///
/// Bounded: every step uses up a record, hands out one, or empties a finite queue of the library.
fn process<E>(
    side: &mut Side,
    buffer: &mut [u8],
    outgoing: &mut Vec<u8>,
    peer_closed: &mut bool,
    sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> (usize, Result<(), TlsFailure<E>>) {
    let mut used = 0;
    loop {
        let rest = &mut buffer[used..];
        let (discard, step) = match side {
            Side::Client(connection) => handle(
                connection.process_tls_records(rest),
                outgoing,
                peer_closed,
                sink,
            ),
            Side::Server(connection) => handle(
                connection.process_tls_records(rest),
                outgoing,
                peer_closed,
                sink,
            ),
        };
        used += discard;
        match step {
            Ok(Step::Again) => {}
            Ok(Step::Blocked) => return (used, Ok(())),
            Err(failure) => {
                if matches!(failure, TlsFailure::Tls(_)) {
                    collect_alert(side, &mut buffer[used..], outgoing);
                }
                return (used, Err(failure));
            }
        }
    }
}

fn handle<E, Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    peer_closed: &mut bool,
    sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> (usize, Result<Step, TlsFailure<E>>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(TlsFailure::Tls(error.to_string())),
                Some(Ok(record)) => {
                    discard += record.discard;
                    if let Err(error) = sink(record.payload) {
                        break Err(TlsFailure::Sink(error));
                    }
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            match encode_into(outgoing, |out| data.encode(out)) {
                Ok(()) => Ok(Step::Again),
                Err(why) => Err(TlsFailure::Tls(why)),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => {
            *peer_closed = true;
            Ok(Step::Again)
        }
        Ok(
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed,
        ) => Ok(Step::Blocked),
        Ok(other) => Err(TlsFailure::Tls(format!("unexpected state {other:?}"))),
        Err(error) => Err(TlsFailure::Tls(error.to_string())),
    };
    (discard, step)
}

fn encode_into(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), String> {
    let start = outgoing.len();
    let needed = match encode(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            required_size
        }
        Err(error) => return Err(error.to_string()),
    };
    outgoing.resize(start + needed, 0);
    match encode(&mut outgoing[start..]) {
        Ok(written) => {
            outgoing.truncate(start + written);
            Ok(())
        }
        Err(error) => {
            outgoing.truncate(start);
            Err(error.to_string())
        }
    }
}

/// After an error the library still holds what tells the other side.
///
/// With bytes left over, one step and no more: a second would read the refused record again, and the library may
/// raise one alert only. Without, every chunk (a failed handshake may have begun its answer).
fn collect_alert(side: &mut Side, rest: &mut [u8], outgoing: &mut Vec<u8>) {
    const CHUNKS_MAX: usize = 8;
    let steps = if rest.is_empty() { CHUNKS_MAX } else { 1 };
    for _ in 0..steps {
        let collected = match side {
            Side::Client(connection) => {
                collect_chunk(connection.process_tls_records(rest), outgoing)
            }
            Side::Server(connection) => {
                collect_chunk(connection.process_tls_records(rest), outgoing)
            }
        };
        if !collected {
            return;
        }
    }
}

fn collect_chunk<Data>(status: UnbufferedStatus<'_, '_, Data>, outgoing: &mut Vec<u8>) -> bool {
    match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode_into(outgoing, |out| data.encode(out)).is_ok()
        }
        _ => false,
    }
}
