//! Block 0 of both files of a pair: who wrote it, in which format, under which keys.
//!
//! Part of the opening chain's write, never written earlier. The two copies differ only in their magic and
//! MAC; each restores the other.

use clustor_wire::ids::{
    BootNumber, ChainNumber, ClusterId, DekEpoch, MacEpoch, NodeId, PairNumber, ShardId,
};
use hmac::Hmac;
use sha2::Sha256;

use super::codec::{NUMBER_MAX, Reader, Truncated, Writer};
use super::format::{Encoding, HashSuite, LogFormat, Suite, SuiteUnavailable};
use super::keys::{LogIdentity, SALT_BYTES};
use super::options::SEGMENT_BLOCKS_MAX;
use super::seal::{PAYLOAD_BYTES, authenticate, plain_payload, verify};
use crate::buffer::{BLOCK_BYTES, Block};
use crate::disk::FileKind;

/// Version of the file formats that this code writes and reads. It covers everything in both files of a pair:
/// blocks, extents, record frames, checkpoints, slots.
pub const FORMAT_VERSION: u16 = 5;

const MAGIC_SEGMENT: [u8; 8] = *b"CLUSTSEG";
const MAGIC_LEDGER: [u8; 8] = *b"CLUSTLDG";
/// Flag: records framed under this header carry a Merkle leaf.
const FLAG_MERKLE_LEAVES: u32 = 1;
/// Flag: the segment was another pair's before.
const FLAG_RECYCLED: u32 = 2;
/// Bytes of the fields; zeros follow up to the MAC.
const HEADER_FIELD_BYTES: usize = 128;

/// The header of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairHeader {
    /// Whose.
    pub identity: LogIdentity,
    /// The boot that wrote it.
    pub boot: BootNumber,
    /// Its number.
    pub pair: PairNumber,
    /// The opening chain.
    pub first_chain: ChainNumber,
    /// Epoch of the data key.
    pub dek_epoch: DekEpoch,
    /// Epoch of the integrity key.
    pub mac_epoch: MacEpoch,
    /// What the files are made of.
    pub format: LogFormat,
    /// Size of the segment, in blocks.
    pub segment_blocks: u32,
    /// Size of the ledger, in blocks.
    pub ledger_blocks: u32,
    /// Length of the checkpoint in bytes.
    pub checkpoint_bytes: u32,
    /// Length of the checkpoint in blocks.
    pub checkpoint_blocks: u32,
    /// Whether the segment was another pair's before: what was never written in it is not zero.
    pub recycled: bool,
    /// Salt of the segment's key.
    pub salt: [u8; SALT_BYTES],
}

/// Why block 0 is not a header this code can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Nothing that looks like a header of this kind of file.
    Bad,
    /// It looks like a header but is not authentic under our keys: damage, unless every header says so.
    Suspect(HeaderMismatch),
    /// It is authentic, and this build must not use it.
    Refused(HeaderMismatch),
}

/// What of a header does not fit this build or this shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderMismatch {
    /// Written in another version of the format.
    Version(u16),
    /// Written with an encoding, suite, hash, flag or block size that is not known; the text names them.
    Settings(String),
    /// Sealed with a suite that this build has no code for.
    Suite(SuiteUnavailable),
    /// Another cluster's, node's or shard's.
    Foreign(LogIdentity),
    /// Everything fits but the MAC: another key, or damage.
    Mac,
}

impl PairHeader {
    /// Slots of the ledger begin at this block; the extents of the segment too.
    pub fn body_block(&self) -> u32 {
        1 + self.checkpoint_blocks
    }

    /// Number of slots in the ledger.
    pub fn slots(&self) -> u32 {
        self.ledger_blocks.saturating_sub(self.body_block())
    }

    /// Whether files of these sizes can be: within the greatest segment, room behind the checkpoint, a checkpoint
    /// that fills its blocks.
    fn has_possible_sizes(&self) -> bool {
        let checkpoint_bytes_max = self.checkpoint_blocks as usize * PAYLOAD_BYTES;
        self.segment_blocks <= SEGMENT_BLOCKS_MAX
            && self.ledger_blocks <= 2 * SEGMENT_BLOCKS_MAX
            && self.checkpoint_blocks < self.segment_blocks.min(self.ledger_blocks)
            && self.checkpoint_bytes as usize <= checkpoint_bytes_max
    }

    /// Whether numbers are left for all its chains and for a next boot, which no log comes near to use up.
    fn has_numbers_to_follow(&self) -> bool {
        let numbers = [self.boot.get(), self.first_chain.get()];
        numbers.into_iter().all(|number| number <= NUMBER_MAX)
    }

    pub(super) fn encode(&self, kind: FileKind, integrity: &Hmac<Sha256>, block: &mut Block) {
        let mut fields = Vec::with_capacity(HEADER_FIELD_BYTES);
        let mut w = Writer(&mut fields);
        w.bytes(match kind {
            FileKind::Segment => &MAGIC_SEGMENT,
            FileKind::Ledger => &MAGIC_LEDGER,
        });
        w.u16(FORMAT_VERSION);
        w.u8(self.format.log_encoding as u8);
        w.u8(self.format.sealing as u8);
        w.u8(self.format.hash as u8);
        w.u8(self.format.ledger_encoding as u8);
        w.u16(self.identity.shard.get());
        w.u128(self.identity.cluster.get());
        w.u64(self.identity.node.get());
        w.u64(self.boot.get());
        w.u64(self.pair.get());
        w.u64(self.first_chain.get());
        w.u32(self.dek_epoch.get());
        w.u32(self.mac_epoch.get());
        w.u32(BLOCK_BYTES as u32);
        w.u32(self.segment_blocks);
        w.u32(self.ledger_blocks);
        w.u32(self.checkpoint_bytes);
        w.u32(self.checkpoint_blocks);
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        w.u32(
            flag(self.format.merkle_leaves, FLAG_MERKLE_LEAVES)
                | flag(self.recycled, FLAG_RECYCLED),
        );
        w.bytes(&self.salt);
        assert!(fields.len() == HEADER_FIELD_BYTES);
        authenticate(integrity, kind, self.pair, 0, &fields, block);
    }

    /// Decodes and verifies block 0 of the file of `kind` named for `pair`. `integrity` gives the MAC key of an
    /// epoch. Identity and format are compared before the MAC, so that a directory of another node is told from
    /// a damaged one.
    pub(super) fn decode(
        kind: FileKind,
        pair: PairNumber,
        ours: &LogIdentity,
        integrity: impl Fn(MacEpoch) -> Hmac<Sha256>,
        block: &Block,
    ) -> Result<Self, HeaderError> {
        let raw = RawHeader::parse(kind, plain_payload(block))
            .ok()
            .flatten()
            .filter(|raw| raw.header.has_numbers_to_follow())
            .filter(|raw| raw.version != FORMAT_VERSION || raw.header.has_possible_sizes())
            .ok_or(HeaderError::Bad)?;
        let judged = raw.judge(ours);
        let authentic = raw.header.pair == pair
            && verify(&integrity(raw.header.mac_epoch), kind, pair, 0, block).is_ok();
        match (authentic, judged) {
            (true, Ok(format)) => Ok(Self {
                format,
                ..raw.header
            }),
            (true, Err(mismatch)) => Err(HeaderError::Refused(mismatch)),
            (false, Ok(_)) => Err(HeaderError::Suspect(HeaderMismatch::Mac)),
            (false, Err(mismatch)) => Err(HeaderError::Suspect(mismatch)),
        }
    }
}

/// A header's fields as they stand; nothing of them is judged.
struct RawHeader {
    version: u16,
    log_encoding: u8,
    suite: u8,
    hash: u8,
    ledger_encoding: u8,
    block_bytes: u32,
    flags: u32,
    /// Its format is still the default.
    header: PairHeader,
}

impl RawHeader {
    /// `None` if another magic stands there.
    fn parse(kind: FileKind, payload: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut r = Reader(payload);
        let magic = match kind {
            FileKind::Segment => MAGIC_SEGMENT,
            FileKind::Ledger => MAGIC_LEDGER,
        };
        if r.array::<8>()? != magic {
            return Ok(None);
        }
        let version = r.u16()?;
        let (log_encoding, suite, hash, ledger_encoding) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let shard = ShardId(r.u16()?);
        let identity = LogIdentity {
            cluster: ClusterId(r.u128()?),
            node: NodeId(r.u64()?),
            shard,
        };
        let (boot, pair, first_chain) = (BootNumber(r.u64()?), r.pair()?, r.chain()?);
        let (dek_epoch, mac_epoch) = (DekEpoch(r.u32()?), MacEpoch(r.u32()?));
        let block_bytes = r.u32()?;
        let (segment_blocks, ledger_blocks) = (r.u32()?, r.u32()?);
        let (checkpoint_bytes, checkpoint_blocks) = (r.u32()?, r.u32()?);
        let flags = r.u32()?;
        let header = PairHeader {
            identity,
            boot,
            pair,
            first_chain,
            dek_epoch,
            mac_epoch,
            format: LogFormat::default(),
            segment_blocks,
            ledger_blocks,
            checkpoint_bytes,
            checkpoint_blocks,
            recycled: flags & FLAG_RECYCLED != 0,
            salt: r.array()?,
        };
        Ok(Some(Self {
            version,
            log_encoding,
            suite,
            hash,
            ledger_encoding,
            block_bytes,
            flags,
            header,
        }))
    }

    /// What the files are made of, if this build and this shard may use them.
    fn judge(&self, ours: &LogIdentity) -> Result<LogFormat, HeaderMismatch> {
        if self.version != FORMAT_VERSION {
            return Err(HeaderMismatch::Version(self.version));
        }
        if self.header.identity != *ours {
            return Err(HeaderMismatch::Foreign(self.header.identity));
        }
        let format = self.format().ok_or_else(|| {
            HeaderMismatch::Settings(format!(
                "log encoding {}, ledger encoding {}, suite {}, hash {}, flags {:#x}, blocks of {} bytes",
                self.log_encoding,
                self.ledger_encoding,
                self.suite,
                self.hash,
                self.flags,
                self.block_bytes
            ))
        })?;
        format
            .sealing
            .check_available()
            .map_err(HeaderMismatch::Suite)?;
        Ok(format)
    }

    fn format(&self) -> Option<LogFormat> {
        let known = self.flags & !(FLAG_MERKLE_LEAVES | FLAG_RECYCLED) == 0
            && self.block_bytes as usize == BLOCK_BYTES;
        known.then_some(LogFormat {
            log_encoding: Encoding::from_u8(self.log_encoding)?,
            ledger_encoding: Encoding::from_u8(self.ledger_encoding)?,
            sealing: Suite::from_u8(self.suite)?,
            merkle_leaves: self.flags & FLAG_MERKLE_LEAVES != 0,
            hash: HashSuite::from_u8(self.hash)?,
        })
    }
}
