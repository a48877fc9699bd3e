//! The small files beside the log, with any one bit flipped: a start refuses and says why, or goes on with what was
//! there. None takes another node's name or another key.

mod support;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clustor_engine::engine::{Engine, EngineError};
use clustor_shards::host::{Clause, Judgement, OfflineDir, override_file, parse_overrides};
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use support::{Counter, PATIENCE, builder, text};

type Done = Result<(), Box<dyn Error>>;

/// What the counter stands at.
const SUM: i64 = 41;

fn start(dir: &Path) -> Result<Engine, EngineError> {
    builder(dir).partition(1, |_| Counter::default()).start()
}

/// Adds to the counter and says what it then is.
fn add(engine: Engine, number: i64) -> Result<i64, Box<dyn Error>> {
    let counter = engine.partition::<Counter>(1)?;
    let done = counter.append_blocking(number.to_string())?;
    let sum = text(&done.reply).parse()?;
    engine.shutdown(PATIENCE)?;
    Ok(sum)
}

fn host() -> Result<tempfile::TempDir, Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    assert_eq!(add(start(temp.path())?, SUM)?, SUM);
    Ok(temp)
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// A flip that makes a capital of a hexadecimal digit, which means the same.
fn is_case(bytes: &[u8], bit: usize) -> bool {
    bytes[bit / 8].is_ascii_hexdigit() && bytes[bit / 8].is_ascii_alphabetic() && bit % 8 == 5
}

/// Flips each bit of a file that says who the node is or what its key is: every flip that changes what it says is refused.
fn every_bit_counts(name: &str) -> Done {
    let temp = host()?;
    let data = temp.path().join("data");
    let path = data.join(name);
    let whole = fs::read(&path)?;
    let ours = OfflineDir::open(&data)?.identity();
    let record = data.join("shard-0/boot_record.json");
    for bit in 0..whole.len() * 8 {
        fs::write(&path, flipped(&whole, bit))?;
        let place = format!("{name}, byte {}, bit {}", bit / 8, bit % 8);
        // Whatever it finds, it does not panic.
        let read = OfflineDir::open(&data).map(|dir| dir.identity());
        let before = fs::read(&record)?;
        match start(temp.path()) {
            Ok(engine) => {
                assert!(is_case(&whole, bit), "{place}: it was accepted");
                assert_eq!(read?, ours, "{place}");
                assert_eq!(add(engine, 0)?, SUM, "{place}");
            }
            Err(error) => {
                let said = error.to_string();
                assert!(
                    said.contains(name) || said.contains("shard 0"),
                    "{place}: {said}"
                );
                assert!(before == fs::read(&record)?, "{place}: it was written");
            }
        }
    }
    fs::write(&path, &whole)?;
    assert_eq!(add(start(temp.path())?, 0)?, SUM);
    Ok(())
}

#[test]
fn no_flipped_bit_of_the_identity_makes_another_node() -> Done {
    every_bit_counts("identity")
}

#[test]
fn no_flipped_bit_of_the_key_file_makes_another_key() -> Done {
    every_bit_counts("kek")
}

#[test]
fn what_a_start_does_not_go_by_may_hold_anything() -> Done {
    let temp = host()?;
    let data = temp.path().join("data");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut names: Vec<PathBuf> = Vec::new();
    for directory in [&data, &data.join("shard-0")] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.path());
            }
        }
    }
    // Those have their own cases.
    names.retain(|path| !path.ends_with("identity") && !path.ends_with("kek"));
    let mut left: Vec<_> = names
        .iter()
        .filter_map(|path| path.strip_prefix(&data).ok())
        .collect();
    left.sort();
    let known = [
        "lock",
        "shard-0/boot_record.json",
        "shard-0/lock",
        "shard-0.begun",
    ];
    assert_eq!(left, known.map(Path::new), "a file that no case flips");
    for path in &names {
        for _ in 0..8 {
            let whole = fs::read(path)?;
            if whole.is_empty() {
                continue;
            }
            let bit = random.random_range(0..whole.len() * 8);
            fs::write(path, flipped(&whole, bit))?;
            let sum = add(start(temp.path())?, 0)?;
            assert_eq!(sum, SUM, "{}, bit {bit}", path.display());
        }
    }
    Ok(())
}

#[test]
fn no_flipped_bit_of_an_override_allows_something_else() -> Done {
    // The first of January 2027.
    const NOW_S: u64 = 1_798_761_600;
    let entry = "# an exception\n[[allow]]\nclause = \"network_file_system\"\nuntil = 2027-03-31\nreason = \"a filer\"\n";
    let temp = tempfile::tempdir()?;
    let path = override_file(temp.path());
    let allowed = parse_overrides(entry, NOW_S)?;
    assert_eq!(allowed[0].clause, Clause::NetworkFileSystem);
    let mut refused = 0;
    for bit in 0..entry.len() * 8 {
        let bytes = flipped(entry.as_bytes(), bit);
        fs::write(&path, &bytes)?;
        match Judgement::gather(temp.path(), NOW_S) {
            Ok(_) => {
                // Day and reason are people's words; the day is within bounds, or it would be refused.
                let read = parse_overrides(core::str::from_utf8(&bytes)?, NOW_S)?;
                assert!(read.len() <= 1, "bit {bit}");
                assert!(
                    read.iter().all(|read| read.clause == allowed[0].clause),
                    "bit {bit}"
                );
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(said.contains("host-override.toml"), "bit {bit}: {said}");
            }
        }
    }
    assert!(refused > entry.len() * 4, "{refused}");
    Ok(())
}
