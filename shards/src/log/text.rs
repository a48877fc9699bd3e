//! Records and items as JSON, for logs and ledgers that people read.
//!
//! The text of a record is one line, and exactly one text stands for each frame and one frame for each text: the same
//! fields in a fixed order, no blanks, integers in decimal without leading zeros (64 bits and more as strings), the
//! body in base64 (RFC 4648, section 4, with padding), checksum and leaf of the *binary* frame in lower-case
//! hexadecimal. So the checksum that the leader computed still guards the record when it comes back.
//!
//! ```text
//! {"version":2,"kind":"Entry","codec":"binary","partition":"1","term":"4","index":"17","body_len":3,"body":"YWJj","crc":"0123abcd"}
//! ```
//!
//! and a newline; with a leaf, `,"leaf":"sha256:...64 digits..."` follows the checksum.
//!
//! Items are objects: `{"run":{"kind":"Entry","count":3,"partition":"1","term":"4","first":"17"}}` or
//! `{"record":...}` with a record's text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::format::HashSuite;
use super::item::{BadItems, Item, Run, items, write_run, write_small};
use super::merkle::MerkleHash;
use super::record::{
    RECORD_BODY_BYTES_MAX, RECORD_VERSION, Record, RecordKind, parse_record, records,
    write_frame_head,
};

/// Bytes of a record's text beside its body's, at most: names and punctuation, the longest numbers, a leaf.
pub(super) const RECORD_TEXT_OVERHEAD_MAX: usize = 352;
/// Bytes of a run's text with its comma, at most.
pub(super) const RUN_TEXT_BYTES_MAX: usize = 176;
/// Bytes of a small record's item beside the record's text, with its comma.
const SMALL_TEXT_OVERHEAD: usize = 13;

/// By this byte a text is told from a binary structure, all of which begin with a letter or a small number.
pub(super) const OBJECT_BEGIN: u8 = b'{';

const CRC_DIGITS: usize = 8;

/// The longest text of a record with a body of this many bytes.
pub(super) const fn record_text_bytes_max(body_bytes: usize) -> usize {
    body_bytes.div_ceil(3) * 4 + RECORD_TEXT_OVERHEAD_MAX
}

/// Bytes that the item of a small record takes in text, at most.
pub(super) fn small_text_bytes_max(record: &Record<'_>) -> usize {
    SMALL_TEXT_OVERHEAD + record_text_bytes_max(record.body.len())
}

/// Bytes that `items` take in text, at most.
pub(super) fn items_text_bytes_max(bytes: &[u8]) -> usize {
    items(bytes)
        .flatten()
        .map(|item| match item {
            Item::Run(_) => RUN_TEXT_BYTES_MAX,
            Item::Small(record) => small_text_bytes_max(&record),
        })
        .sum()
}

/// Bytes that the text of these frames takes, at most.
pub(super) fn records_text_bytes_max(mut frames: &[u8]) -> usize {
    let mut bytes = 0;
    while let Ok(record) = parse_record(frames) {
        bytes += record_text_bytes_max(record.body.len());
        frames = &frames[record.frame.len()..];
    }
    bytes
}

// ---- records

/// Appends the text of a record, newline included.
pub(super) fn write_record(record: &Record<'_>, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let header = &record.header;
    write!(
        out,
        "{{\"version\":{RECORD_VERSION},\"kind\":\"{}\",\"codec\":\"binary\",\"partition\":\"{}\",\"term\":\"{}\",\"index\":\"{}\",\"body_len\":{},\"body\":\"",
        header.kind.name(), header.partition, header.term, header.index, header.body_len
    )
    .expect("a vector takes what is written");
    let start = out.len();
    out.resize(start + record.body.len().div_ceil(3) * 4, 0);
    let written = BASE64
        .encode_slice(record.body, &mut out[start..])
        .expect("the place is as long as the text");
    assert!(start + written == out.len());
    write!(out, "\",\"crc\":\"{:08x}\"", record.crc()).expect("as above");
    if let Some((hash, leaf)) = record.leaf {
        write!(out, ",\"leaf\":\"{hash}:").expect("as above");
        leaf.iter()
            .for_each(|byte| write!(out, "{byte:02x}").expect("as above"));
        out.push(b'"');
    }
    out.extend_from_slice(b"}\n");
}

/// The text of frames that lie one behind the other.
pub(super) fn from_frames(frames: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records_text_bytes_max(frames));
    for record in records(frames) {
        write_record(&record.expect("frames of a batch are sound"), &mut out);
    }
    out
}

/// The frames that a text stands for; `None` if any line is not exactly a record's text. Checksums and leaves are not
/// compared.
pub(super) fn to_frames(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        rest = read_record(rest, &mut out)?;
    }
    Some(out)
}

struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn literal(&mut self, literal: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(literal.as_bytes())?;
        Some(())
    }

    /// Everything up to the next quotation mark, which stays.
    fn quoted(&mut self, len_max: usize) -> Option<&'a [u8]> {
        let within = &self.0[..self.0.len().min(len_max + 1)];
        let len = within.iter().position(|byte| *byte == b'"')?;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(text)
    }

    /// A number in decimal without leading zeros.
    fn decimal<T: core::str::FromStr>(&mut self) -> Option<T> {
        const DIGITS_MAX: usize = 39;
        let len = self
            .0
            .iter()
            .take(DIGITS_MAX + 1)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (text, rest) = self.0.split_at(len);
        if len == 0 || len > 1 && text[0] == b'0' {
            return None;
        }
        self.0 = rest;
        core::str::from_utf8(text).ok()?.parse().ok()
    }

    /// Bytes in lower-case hexadecimal.
    fn hex<const N: usize>(&mut self) -> Option<[u8; N]> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (text, rest) = self.0.split_at_checked(2 * N)?;
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        self.0 = rest;
        Some(bytes)
    }
}

/// Appends the frame of the record whose text `text` begins with, and returns what follows it.
fn read_record<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    const KIND_BYTES_MAX: usize = 32;
    let mut scan = Scanner(text);
    scan.literal("{\"version\":")?;
    let version: u8 = scan.decimal()?;
    scan.literal(",\"kind\":\"")?;
    let name = core::str::from_utf8(scan.quoted(KIND_BYTES_MAX)?).ok()?;
    let kind = RecordKind::from_name(name)?;
    scan.literal("\",\"codec\":\"binary\",\"partition\":\"")?;
    let partition = PartitionId(scan.decimal()?);
    scan.literal("\",\"term\":\"")?;
    let term = Term(scan.decimal()?);
    scan.literal("\",\"index\":\"")?;
    let index = LogIndex(scan.decimal()?);
    scan.literal("\",\"body_len\":")?;
    let body_len: usize = scan.decimal()?;
    scan.literal(",\"body\":\"")?;
    if version != RECORD_VERSION || body_len > RECORD_BODY_BYTES_MAX {
        return None;
    }
    let body_text = scan.quoted(body_len.div_ceil(3) * 4)?;
    scan.literal("\",\"crc\":\"")?;
    let crc = u32::from_be_bytes(scan.hex::<{ CRC_DIGITS / 2 }>()?);
    scan.literal("\"")?;
    let mut leaf: Option<(HashSuite, MerkleHash)> = None;
    if scan.literal(",\"leaf\":\"").is_some() {
        let hash = [HashSuite::Sha256, HashSuite::Blake3]
            .into_iter()
            .find(|hash| scan.literal(hash.name()).is_some())?;
        scan.literal(":")?;
        leaf = Some((hash, scan.hex()?));
        scan.literal("\"")?;
    }
    scan.literal("}\n")?;
    let hash = leaf.map(|(hash, _)| hash);
    write_frame_head(out, hash, kind, partition, term, index, body_len);
    out.extend_from_slice(&crc.to_le_bytes());
    let body_at = out.len();
    // The decoder wants room for whole groups of three.
    out.resize(body_at + body_len.div_ceil(3) * 3, 0);
    let decoded = BASE64.decode_slice(body_text, &mut out[body_at..]).ok()?;
    if decoded != body_len {
        return None;
    }
    out.truncate(body_at + body_len);
    if let Some((_, leaf)) = leaf {
        out.extend_from_slice(&leaf);
    }
    Some(scan.0)
}

// ---- items

/// Items' bytes that stand as a JSON array.
pub(super) struct ItemsText(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ItemText {
    Run(RunText),
    Record(Box<RawValue>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunText {
    kind: String,
    count: u32,
    partition: PartitionId,
    term: Term,
    first: LogIndex,
}

impl Serialize for ItemsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let list = items(&self.0).map(|item| match item {
            Ok(Item::Run(run)) => Ok(ItemText::Run(RunText {
                kind: run.kind.name().to_owned(),
                count: run.count,
                partition: run.partition,
                term: run.term,
                first: run.first,
            })),
            Ok(Item::Small(record)) => {
                let mut text = Vec::new();
                write_record(&record, &mut text);
                text.pop();
                let text = String::from_utf8(text).map_err(S::Error::custom)?;
                RawValue::from_string(text)
                    .map(ItemText::Record)
                    .map_err(S::Error::custom)
            }
            Err(BadItems) => Err(S::Error::custom("items that were not built here")),
        });
        let list: Vec<ItemText> = list.collect::<Result<_, _>>()?;
        list.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ItemsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::<ItemText>::deserialize(deserializer)?;
        let mut bytes = Vec::new();
        for item in list {
            match item {
                ItemText::Run(text) => {
                    let kind = RecordKind::from_name(&text.kind)
                        .ok_or_else(|| D::Error::custom("a kind that is not known"))?;
                    let run = Run {
                        kind,
                        partition: text.partition,
                        term: text.term,
                        first: text.first,
                        count: text.count,
                    };
                    write_run(&mut bytes, &run);
                }
                ItemText::Record(text) => {
                    let line = format!("{}\n", text.get());
                    let mut frame = Vec::new();
                    let rest = read_record(line.as_bytes(), &mut frame);
                    if rest.is_none_or(|rest| !rest.is_empty()) {
                        return Err(D::Error::custom("not a record's text"));
                    }
                    write_small(&mut bytes, &frame);
                }
            }
        }
        Ok(Self(bytes))
    }
}

/// 32 bytes as 64 hexadecimal digits.
pub(super) mod hex_digest {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Scanner;

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut scan = Scanner(text.as_bytes());
        scan.hex()
            .filter(|_| scan.0.is_empty())
            .ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// 32 bytes as 64 hexadecimal digits, or null.
pub(super) mod hex_digest_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Digest(#[serde(with = "super::hex_digest")] [u8; 32]);

    pub fn serialize<S: Serializer>(
        digest: &Option<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        digest.map(Digest).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        Ok(Option::<Digest>::deserialize(deserializer)?.map(|digest| digest.0))
    }
}

/// A number of 64 bits as a decimal string.
pub(super) mod decimal {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Bytes in base64.
pub(super) mod base64_bytes {
    use base64::Engine as _;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::BASE64;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>, B: From<Vec<u8>>>(
        deserializer: D,
    ) -> Result<B, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(B::from).map_err(D::Error::custom)
    }
}
