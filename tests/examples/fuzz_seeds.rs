//! Writes the valid seeds of the `frames` fuzzer anew, after a format has changed.

use std::path::Path;

#[allow(dead_code)]
#[path = "../tests/fuzz_seeds/mod.rs"]
mod fuzz_seeds;

fn main() -> std::io::Result<()> {
    let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/frames");
    for seed in fuzz_seeds::valid_seeds() {
        std::fs::write(frames.join(seed.name), &seed.bytes)?;
        println!("{}: {} bytes", seed.name, seed.bytes.len());
    }
    Ok(())
}
