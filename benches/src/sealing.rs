//! How fast a suite seals on one core: a log that seals can't be faster, however fast its device.

use std::time::{Duration, Instant};

use clustor_shards::log::Suite;
use clustor_shards::log::aead::{Aead, NONCE_BYTES, TAG_BYTES};

use crate::BLOCK_BYTES;

/// Sealed for this long.
const TIME: Duration = Duration::from_millis(30);
/// Walked through again and again: as much as a few chains hold.
const BUFFER_BLOCKS: usize = 256;

/// Blocks of 4 KiB that `suite` seals in a second, in MiB; `None` if it seals nothing. Takes about 30 ms.
pub fn mib_per_s(suite: Suite) -> Option<f64> {
    let aead = match suite {
        Suite::ChaCha20Poly1305 => Aead::chacha20_poly1305(&[7; 32]),
        #[cfg(feature = "aws-lc")]
        Suite::Aes256Gcm => Aead::aes_256_gcm(&[7; 32]),
        _ => return None,
    };
    let mut buffer = vec![0x5a; BUFFER_BLOCKS * BLOCK_BYTES];
    let mut sealed = 0u64;
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        for block in buffer.chunks_exact_mut(BLOCK_BYTES) {
            let mut nonce = [0; NONCE_BYTES];
            nonce[4..].copy_from_slice(&sealed.to_be_bytes());
            let (content, tag) = block.split_at_mut(BLOCK_BYTES - TAG_BYTES);
            tag.copy_from_slice(&aead.seal(&nonce, b"clustor-bench", content));
            sealed += 1;
        }
    }
    let mib = sealed as f64 * BLOCK_BYTES as f64 / (1u64 << 20) as f64;
    Some(mib / begun.elapsed().as_secs_f64())
}
