//! Blocks made authentic again after they were changed, from what the specification says of them: a second,
//! independent writer of the formats. It can seal what is in clear: ledgers, headers, and the blocks of a segment under
//! the suite `none`.

use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::disk::{FileId, FileKind};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::log_life::shard::{IDENTITY, KEK};

type BlockBytes = [u8; BLOCK_BYTES];

const MAC_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Offsets in block 0 of either file.
const VERSION_OFFSET: usize = 8;
const SUITE_OFFSET: usize = 11;
const SHARD_OFFSET: usize = 14;
const DEK_EPOCH_OFFSET: usize = 64;
const MAC_EPOCH_OFFSET: usize = 68;
const SALT_OFFSET: usize = 96;
const SALT_BYTES: usize = 32;

/// What the header of a pair says of how its blocks are sealed.
#[derive(Debug, Clone)]
pub(super) struct Seals {
    mac_epoch: [u8; 4],
    /// Of a segment under the suite `none`: salt and additional data.
    clear: Option<Vec<u8>>,
}

impl Seals {
    /// As `header`, block 0 of either file of pair `pair`, says.
    pub(super) fn of(header: &BlockBytes, pair: u64) -> Self {
        let mut salted = header[SALT_OFFSET..SALT_OFFSET + SALT_BYTES].to_vec();
        salted.push(header[SUITE_OFFSET]);
        salted.push(header[VERSION_OFFSET]);
        // Little-endian in the header, big-endian in the additional data.
        salted.extend([header[SHARD_OFFSET + 1], header[SHARD_OFFSET]]);
        salted.extend((0..4).rev().map(|at| header[DEK_EPOCH_OFFSET + at]));
        salted.extend(pair.to_be_bytes());
        let mut mac_epoch = [0; 4];
        mac_epoch.copy_from_slice(&header[MAC_EPOCH_OFFSET..MAC_EPOCH_OFFSET + 4]);
        Self {
            mac_epoch,
            clear: (header[SUITE_OFFSET] == 0).then_some(salted),
        }
    }

    fn mac(&self, file: FileId, number: u32, payload: &[u8]) -> [u8; MAC_BYTES] {
        let mut key = [0; 32];
        let parts: [&[u8]; 5] = [
            b"clustor mac",
            &IDENTITY.cluster.get().to_le_bytes(),
            &IDENTITY.node.get().to_le_bytes(),
            &IDENTITY.shard.get().to_le_bytes(),
            &self.mac_epoch,
        ];
        Hkdf::<Sha256>::new(None, &KEK)
            .expand_multi_info(&parts, &mut key)
            .expect("32 bytes are a valid length");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length is a key's");
        mac.update(match file.kind {
            FileKind::Segment => b"seg",
            FileKind::Ledger => b"led",
        });
        mac.update(&file.pair.get().to_le_bytes());
        mac.update(&number.to_le_bytes());
        mac.update(payload);
        mac.finalize().into_bytes().into()
    }

    fn tag(salted: &[u8], number: u32, content: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        let lanes = content.chunks_exact(content.len() / 4);
        for (lane, (place, content)) in tag.chunks_exact_mut(4).zip(lanes).enumerate() {
            let seed = crc32c::crc32c_append(crc32c::crc32c(salted), &[lane as u8]);
            let seed = crc32c::crc32c_append(seed, &number.to_be_bytes());
            place.copy_from_slice(&crc32c::crc32c_append(seed, content).to_le_bytes());
        }
        tag
    }

    /// Changes block `number` of `file`, and makes it authentic again if it was.
    pub(super) fn change(
        &self,
        file: FileId,
        number: u32,
        block: &mut BlockBytes,
        change: impl FnOnce(&mut [u8]),
    ) {
        let (payload, mac) = block.split_at_mut(BLOCK_BYTES - MAC_BYTES);
        if file.kind == FileKind::Ledger || *mac == self.mac(file, number, payload) {
            change(payload);
            mac.copy_from_slice(&self.mac(file, number, payload));
            return;
        }
        let (content, tag) = block.split_at_mut(BLOCK_BYTES - TAG_BYTES);
        match &self.clear {
            Some(salted) => {
                change(content);
                tag.copy_from_slice(&Self::tag(salted, number, content));
            }
            None => change(content),
        }
    }

    /// Whether the block is what this writer would have made of it.
    pub(super) fn is_authentic(&self, file: FileId, number: u32, block: &BlockBytes) -> bool {
        let mut again = *block;
        self.change(file, number, &mut again, |_| {});
        again == *block
    }
}
