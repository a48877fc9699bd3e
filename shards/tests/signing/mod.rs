//! A second writer of MACs, from what the specification says of them.
#![allow(unreachable_pub)]

use clustor_shards::buffer::Block;
use clustor_shards::disk::{FileId, FileKind};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::support::identity;

/// Puts the MAC that the specification asks for behind the payload of a block that is in clear, under `TestKey(9)`.
pub fn sign(file: FileId, number: u32, block: &mut Block) {
    let mut info = b"clustor mac".to_vec();
    info.extend(identity().cluster.get().to_le_bytes());
    info.extend(identity().node.get().to_le_bytes());
    info.extend(identity().shard.get().to_le_bytes());
    info.extend(1u32.to_le_bytes());
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, &[9; 32])
        .expand(&info, &mut key)
        .expect("32 bytes");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(match file.kind {
        FileKind::Segment => b"seg",
        FileKind::Ledger => b"led",
    });
    mac.update(&file.pair.get().to_le_bytes());
    mac.update(&number.to_le_bytes());
    mac.update(&block.0[..4064]);
    block.0[4064..].copy_from_slice(&mac.finalize().into_bytes());
}
