//! What a start leaves behind of itself.

mod support;

use std::error::Error;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;
use support::{Lines, PATIENCE, builder};

type Done = Result<(), Box<dyn Error>>;

const BLOCK_BYTES: u64 = 4096;

/// Starts, appends `lines`, stops; the record it left.
fn live(dir: &Path, lines: usize) -> Result<Value, Box<dyn Error>> {
    let engine = builder(dir).partition(7, |_| Lines::default()).start()?;
    let partition = engine.partition::<Lines>(7)?;
    for line in 0..lines {
        partition.append_blocking(format!("line {line}"))?;
    }
    engine.shutdown(PATIENCE)?;
    let path = dir.join("data/shard-0/boot_record.json");
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The upper half of a boot's number; the lower is drawn.
fn count_of_boots(record: &Value) -> Result<u64, Box<dyn Error>> {
    let boot: u64 = record["boot"].as_str().ok_or("a string")?.parse()?;
    Ok(boot >> 32)
}

#[test]
fn each_start_leaves_what_it_found_and_decided() -> Done {
    let temp = tempfile::tempdir()?;
    let first = live(temp.path(), 20)?;
    assert_eq!(
        (&first["version"], &first["state"]),
        (&1.into(), &"empty".into()),
        "{first:#}"
    );
    assert_eq!(count_of_boots(&first)?, 1, "{first:#}");
    assert!(first["recovery"]["chosen_pair"].is_null(), "{first:#}");
    assert_eq!(first["geometry"]["segment_blocks"], 512, "{first:#}");
    let second = live(temp.path(), 0)?;
    assert_eq!(
        (count_of_boots(&second)?, &second["state"]),
        (2, &"healthy".into()),
        "{second:#}"
    );
    let partition = &second["partitions"][0];
    assert_eq!(partition["partition"], "7", "{second:#}");
    let last: u64 = partition["last"].as_str().ok_or("a string")?.parse()?;
    assert!(last >= 20, "{second:#}");
    let nonces = &second["nonces"];
    let bytes = |key: &str| nonces[key].as_str().map(str::parse::<u64>);
    assert!(
        matches!((bytes("reserved_bytes"), bytes("sealed_bytes")), (Some(Ok(reserved)), Some(Ok(sealed))) if reserved >= sealed && sealed > 0),
        "{second:#}"
    );
    assert_eq!(nonces["unreserved_bytes"], "0", "{second:#}");
    assert_eq!(nonces["unsealed_bytes"], "0", "{second:#}");
    let passed = second["self_test"].as_array().ok_or("a list")?;
    for algorithm in [
        "crc32c",
        "sha256",
        "hmac-sha256",
        "hkdf-sha256",
        "chacha20-poly1305",
    ] {
        assert!(passed.contains(&algorithm.into()), "{second:#}");
    }
    assert_eq!(nonces["verdict"], "healthy", "{second:#}");
    let week_ms = 7 * 24 * 3_600_000;
    assert_eq!(second["scrub"]["round_ms"], week_ms, "{second:#}");
    let third = live(temp.path(), 0)?;
    assert!(
        third["nonces"]["pairs"][0]["abandoned_bytes"].is_string(),
        "what the first start left was given up by the second: {third:#}"
    );
    let read: u64 = second["recovery"]["read_bytes"]
        .as_str()
        .ok_or("a string")?
        .parse()?;
    assert!(read > 0, "{second:#}");
    Ok(())
}

#[test]
fn damage_that_a_start_dealt_with_is_in_its_record() -> Done {
    let temp = tempfile::tempdir()?;
    live(temp.path(), 20)?;
    // One header of the newest pair with something in it.
    let wal = temp.path().join("data/shard-0/wal");
    let mut pairs = Vec::new();
    for entry in fs::read_dir(&wal)? {
        let name = entry?.file_name().into_string().map_err(|_| "no text")?;
        if let Some(pair) = name
            .strip_prefix("segment-")
            .and_then(|rest| rest.strip_suffix(".log"))
        {
            let file = fs::File::open(wal.join(&name))?;
            let mut header = [0; BLOCK_BYTES as usize];
            file.read_exact_at(&mut header, 0)?;
            if header.iter().any(|byte| *byte != 0) {
                pairs.push(pair.parse::<u64>()?);
            }
        }
    }
    let pair = pairs.iter().max().ok_or("a pair is there")?;
    let path = wal.join(format!("segment-{pair}.log"));
    let segment = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    segment.read_exact_at(&mut byte, 60)?;
    segment.write_all_at(&[byte[0] ^ 1], 60)?;
    segment.sync_all()?;
    drop(segment);
    let record = live(temp.path(), 0)?;
    assert_eq!(record["state"], "repaired", "{record:#}");
    assert_eq!(record["recovery"]["incidents_total"], 1, "{record:#}");
    let said = record["recovery"]["incidents"][0]
        .as_str()
        .ok_or("a text")?;
    assert!(said.contains("a header was bad"), "{said}");
    // It is repaired in place.
    assert_eq!(live(temp.path(), 0)?["state"], "healthy");
    Ok(())
}
