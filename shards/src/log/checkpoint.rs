//! The checkpoint at the start of a pair: everything that must outlive the pairs before it.
//!
//! A byte string cut into blocks of payload, the same in both files. Its length stands in the header, its
//! integrity is the blocks' own. Layout in docs/specification.md. In a json ledger it is one JSON object with the same
//! fields, their names those of the structures here.

use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, NodeId, PairNumber, PartitionId, ShardId, Term,
};
use serde::{Deserialize, Serialize};

use super::codec::{NUMBER_MAX, Reader, Truncated, Writer};
use super::fold::{
    ConfigurationAt, HardState, IndexRange, PartitionLog, ShardFold, TermRun, decode_past,
    encode_past,
};
use super::format::Encoding;
use super::text::{ItemsText, OBJECT_BEGIN};
use super::trailer::Trailer;
use crate::turn::PeerPast;

const MAGIC: u32 = u32::from_le_bytes(*b"CKP1");

/// An older pair that still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OlderPair {
    /// Its number.
    pub pair: PairNumber,
    /// The last chain in it that is certain; what lies beyond is dead.
    pub last_certain: ChainNumber,
    /// Size of its segment, in blocks; the last is the trailer's.
    pub segment_blocks: u32,
    /// Its trailer; `None` where the slot that holds the figures is bad.
    pub trailer: Option<Trailer>,
    /// Whether the trailer's block was known to be durable.
    pub trailer_durable: bool,
}

/// Boots that a checkpoint names, at most: of those before, nobody can say any more how far they came.
pub const BOOTS_MAX: usize = 128;

/// A boot that opened a pair which was chosen at a later start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastBoot {
    /// Its number.
    pub boot: BootNumber,
    /// Its last chain that counted at that start: that, and no more, of what the boot wrote is part of the log.
    pub last: ChainNumber,
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Every partition, as of the last certain chain before this pair.
    pub fold: ShardFold,
    /// The older pairs that still live, ascending.
    pub older: Vec<OlderPair>,
    /// How far the latest boots before this pair's came, ascending; at most [`BOOTS_MAX`].
    pub boots: Vec<PastBoot>,
    /// Items of the records that the boot wrote again behind this checkpoint.
    pub tail: Vec<u8>,
}

/// A checkpoint in text, from its parts.
#[derive(Serialize)]
struct CheckpointParts<'a> {
    older: &'a [OlderPair],
    boots: &'a [PastBoot],
    peers: Vec<PeerChain>,
    partitions: BTreeMap<PartitionId, &'a PartitionLog>,
    tail: ItemsText,
}

/// The same, read back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointText {
    older: Vec<OlderPair>,
    boots: Vec<PastBoot>,
    peers: Vec<PeerChain>,
    partitions: BTreeMap<PartitionId, PartitionLog>,
    tail: ItemsText,
}

/// How far a peer shard had come when it was last heard.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerChain {
    node: NodeId,
    shard: ShardId,
    past: PeerPast,
}

/// Appends the encoding of a checkpoint, given by its parts.
pub(super) fn encode(
    encoding: Encoding,
    fold: &ShardFold,
    (older, boots): (&[OlderPair], &[PastBoot]),
    tail: &[u8],
    out: &mut Vec<u8>,
) {
    match encoding {
        Encoding::Binary => encode_binary(fold, (older, boots), tail, out),
        Encoding::Json => {
            let peers = fold.peers.iter().map(|((node, shard), past)| PeerChain {
                node: *node,
                shard: *shard,
                past: *past,
            });
            let parts = CheckpointParts {
                older,
                boots,
                peers: peers.collect(),
                partitions: fold
                    .partitions
                    .iter()
                    .map(|(id, log)| (*id, &**log))
                    .collect(),
                tail: ItemsText(tail.to_vec()),
            };
            serde_json::to_writer(out, &parts).expect("every part of a checkpoint has a text");
        }
    }
}

fn encode_binary(
    fold: &ShardFold,
    (older, boots): (&[OlderPair], &[PastBoot]),
    tail: &[u8],
    out: &mut Vec<u8>,
) {
    let mut w = Writer(out);
    w.u32(MAGIC);
    w.u32(fold.partitions.len() as u32);
    w.u32(fold.peers.len() as u32);
    w.u32(older.len() as u32);
    w.u32(boots.len() as u32);
    w.u32(tail.len() as u32);
    for older in older {
        w.u64(older.pair.get());
        w.u64(older.last_certain.get());
        w.u32(older.segment_blocks);
        w.u8(u8::from(older.trailer.is_some()));
        w.u8(u8::from(older.trailer_durable));
        w.u16(0);
        if let Some(trailer) = &older.trailer {
            trailer.encode(&mut w);
        }
    }
    for past in boots {
        w.u64(past.boot.get());
        w.u64(past.last.get());
    }
    for (peer, past) in &fold.peers {
        encode_past(&mut w, *peer, *past);
    }
    for (id, log) in &fold.partitions {
        w.u128(id.get());
        encode_partition(&mut w, log);
    }
    w.bytes(tail);
}

impl OlderPair {
    fn is_coherent(&self) -> bool {
        let trailer = self.trailer.as_ref();
        self.last_certain.get() <= NUMBER_MAX
            && trailer.is_none_or(|trailer| trailer.pair == self.pair)
    }
}

impl Checkpoint {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let checkpoint = Self::decode_unchecked(bytes)?;
        let mut logs = checkpoint.fold.partitions.values().map(Arc::as_ref);
        let mut older = checkpoint.older.iter();
        let is_coherent = logs.all(PartitionLog::is_coherent) && older.all(OlderPair::is_coherent);
        is_coherent.then_some(checkpoint)
    }

    fn decode_unchecked(bytes: &[u8]) -> Option<Self> {
        if bytes.first() == Some(&OBJECT_BEGIN) {
            let text: CheckpointText = serde_json::from_slice(bytes).ok()?;
            let peers = text.peers.into_iter();
            return Some(Self {
                fold: ShardFold {
                    partitions: text
                        .partitions
                        .into_iter()
                        .map(|(id, log)| (id, Arc::new(log)))
                        .collect(),
                    peers: peers
                        .map(|peer| ((peer.node, peer.shard), peer.past))
                        .collect(),
                },
                older: text.older,
                boots: text.boots,
                tail: text.tail.0,
            });
        }
        Self::parse(bytes).ok().flatten()
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut r = Reader(bytes);
        if r.u32()? != MAGIC {
            return Ok(None);
        }
        let (partitions, peers, older) = (r.u32()?, r.u32()?, r.u32()?);
        let (boots, tail) = (r.u32()?, r.u32()?);
        let mut checkpoint = Self::default();
        for _ in 0..older {
            let mut older = OlderPair {
                pair: r.pair()?,
                last_certain: r.chain()?,
                segment_blocks: r.u32()?,
                trailer: None,
                trailer_durable: false,
            };
            let (stated, durable, _reserved) = (r.u8()?, r.u8()?, r.u16()?);
            older.trailer_durable = durable != 0;
            if stated != 0 {
                let Some(trailer) = Trailer::decode(&mut r)? else {
                    return Ok(None);
                };
                older.trailer = Some(trailer);
            }
            checkpoint.older.push(older);
        }
        for _ in 0..boots {
            checkpoint.boots.push(PastBoot {
                boot: BootNumber(r.u64()?),
                last: r.chain()?,
            });
        }
        for _ in 0..peers {
            let node = NodeId(r.u64()?);
            let shard = ShardId(r.u16()?);
            checkpoint
                .fold
                .peers
                .insert((node, shard), decode_past(&mut r)?);
        }
        for _ in 0..partitions {
            let id = r.partition()?;
            let log = decode_partition(&mut r)?;
            checkpoint.fold.partitions.insert(id, Arc::new(log));
        }
        checkpoint.tail = r.bytes(tail as usize)?.to_vec();
        Ok(r.0.is_empty().then_some(checkpoint))
    }
}

fn encode_partition(w: &mut Writer<'_>, log: &PartitionLog) {
    w.u64(log.incarnation.get());
    w.u64(log.hard_state.term.get());
    w.bytes(&log.hard_state.body());
    w.u64(log.base.get());
    w.u64(log.base_term.get());
    w.u64(log.last.get());
    for place in [log.exit_committed, log.snapshot_mark] {
        let (term, index) = place.unwrap_or_default();
        w.u8(u8::from(place.is_some()));
        w.u64(term.get());
        w.u64(index.get());
    }
    w.u32(log.terms.len() as u32);
    w.u32(log.missing.len() as u32);
    w.u32(log.configurations.len() as u32);
    for run in &log.terms {
        w.u64(run.term.get());
        w.u64(run.first.get());
    }
    for range in &log.missing {
        w.u64(range.first.get());
        w.u64(range.last.get());
    }
    for at in &log.configurations {
        w.u64(at.term.get());
        w.u64(at.index.get());
        w.u32(at.body.len() as u32);
        w.bytes(&at.body);
    }
}

fn decode_partition(r: &mut Reader<'_>) -> Result<PartitionLog, Truncated> {
    let incarnation = Incarnation(r.u64()?);
    let term = r.term()?;
    let voted = r.u8()? != 0;
    let node = NodeId(r.u64()?);
    let mut log = PartitionLog {
        incarnation,
        hard_state: HardState {
            term,
            vote: voted.then_some(node),
        },
        base: r.index()?,
        base_term: r.term()?,
        last: r.index()?,
        ..PartitionLog::default()
    };
    let place = |r: &mut Reader<'_>| -> Result<_, Truncated> {
        let there = r.u8()? != 0;
        let place: (Term, _) = (r.term()?, r.index()?);
        Ok(there.then_some(place))
    };
    log.exit_committed = place(r)?;
    log.snapshot_mark = place(r)?;
    let (terms, missing, configurations) = (r.u32()?, r.u32()?, r.u32()?);
    for _ in 0..terms {
        log.terms.push(TermRun {
            term: r.term()?,
            first: r.index()?,
        });
    }
    for _ in 0..missing {
        log.missing.push(IndexRange {
            first: r.index()?,
            last: r.index()?,
        });
    }
    for _ in 0..configurations {
        let (term, index) = (r.term()?, r.index()?);
        let len = r.u32()? as usize;
        log.configurations.push(ConfigurationAt {
            term,
            index,
            body: r.bytes(len)?.into(),
        });
    }
    Ok(log)
}
