//! One non-blocking socket with its TLS connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, NetError, Preface, SessionKind, TlsIdentity,
};
use clustor_shards::turn::PeerId;
use clustor_wire::frame::Frame;
use mio::net::TcpStream;

use super::loss::Loss;

/// Encrypted bytes made at a time.
const TRANSMIT_BYTES: usize = 256 * 1024;
/// Reads of one socket in one wake-up; others then have their turn.
const READS_MAX: usize = 32;

/// What a look at a socket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Everything there was.
    All,
    /// As much as one wake-up may take.
    More,
}

/// A connection to one shard.
pub(super) struct Socket {
    pub at: PeerId,
    pub stream: TcpStream,
    address: SocketAddr,
    tls: Connection,
    /// Bytes to write, from `written`.
    out: Vec<u8>,
    written: usize,
    /// Whether it was reported as connected.
    pub reported: bool,
    /// The TCP connection stands.
    open: bool,
}

impl Socket {
    /// Begins to connect.
    pub fn dial(
        at: PeerId,
        address: SocketAddr,
        preface: Preface,
        identity: &TlsIdentity,
        expected: Expected,
        limits: ConnectionLimits,
    ) -> Result<Self, Loss> {
        let tls = Connection::dial(identity, SessionKind::Client, expected, limits)?;
        let stream = TcpStream::connect(address)
            .map_err(|error| Loss::unreached(format!("connecting to {address}: {error}")))?;
        // Frames are batched before they are written; waiting for more would only delay them.
        stream
            .set_nodelay(true)
            .map_err(|error| Loss::unreached(format!("{address}: {error}")))?;
        Ok(Self {
            at,
            stream,
            address,
            tls,
            out: preface.encode().to_vec(),
            written: 0,
            reported: false,
            open: false,
        })
    }

    /// Whether the other side's certificate was verified.
    pub const fn is_verified(&self) -> bool {
        self.tls.peer().is_some()
    }

    /// Queues a frame.
    pub fn queue(&mut self, frame: Frame) -> Result<(), NetError> {
        self.tls.send(frame).map_err(|(_, error)| error)
    }

    /// Reads what there is, and appends whole frames to `frames`. The frames are good even with an error.
    pub fn read(&mut self, buffer: &mut [u8], frames: &mut Vec<Frame>) -> Result<Seen, Loss> {
        for _ in 0..READS_MAX {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(self.tls.lost("the node ended the connection").into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Seen::All),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if !self.open => return Err(self.unconnected(&error)),
                Err(error) => return Err(self.tls.lost(&error.to_string()).into()),
            };
            let mut rest = &mut buffer[..count];
            while !rest.is_empty() {
                let taken = self.tls.receive(rest)?;
                rest = &mut rest[taken..];
                while let Some(frame) = self.tls.next_frame() {
                    frames.push(frame);
                }
                if let Some(error) = self.tls.ended() {
                    return Err(error.clone().into());
                }
                assert!(
                    taken > 0,
                    "a connection without frames to fetch takes bytes"
                );
            }
        }
        Ok(Seen::More)
    }

    /// Writes what is to be sent, as far as the socket takes it.
    pub fn write(&mut self) -> Result<(), Loss> {
        if !self.open {
            if let Some(error) = self.stream.take_error().map_err(Loss::unreached)? {
                return Err(self.unconnected(&error));
            }
            match self.stream.peer_addr() {
                Ok(_) => self.open = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(self.unconnected(&error)),
            }
        }
        loop {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                let made = self.tls.transmit(&mut self.out, TRANSMIT_BYTES)?;
                if made == 0 {
                    return Ok(());
                }
            }
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.tls.lost(&error.to_string()).into()),
            }
        }
    }

    fn unconnected(&self, error: &io::Error) -> Loss {
        Loss::unreached(format!("connecting to {}: {error}", self.address))
    }

    /// Ends the connection in order, as far as that goes without waiting.
    pub fn farewell(&mut self) -> io::Result<()> {
        self.tls.close();
        // Best effort: the connection is over whether or not the other side learns it now.
        let _ = self.write();
        self.stream.shutdown(Shutdown::Write)
    }
}
