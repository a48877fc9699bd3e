//! What files are made of: suites, leaves, versions. Each pair is read by what it says itself; what this build can't
//! read is refused by name, before anything is written: recovery sees the disk through a trait that can't write.

mod signing;
mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::FileId;
use clustor_shards::log::aead::HAS_AES;
use clustor_shards::log::record::{RecordKind, decode_record, encode_record_parts, records};
use clustor_shards::log::{
    Encoding, HashSuite, LogFormat, LogOptions, Mode, RecoverError, Recovery, Retirement, ShardLog,
    Suite,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PairNumber, PartitionId, Term};
use signing::sign;
use support::{MemoryDisk, TestKey, identity, options, pool, settle};

const P: PartitionId = PartitionId(1);
const KEY: u8 = 9;

fn with(format: LogFormat) -> LogOptions {
    options().with_format(format)
}

fn try_recover(disk: &mut MemoryDisk, format: LogFormat) -> Result<Recovery, RecoverError> {
    ShardLog::recover(disk, identity(), with(format), &TestKey(KEY), pool())
}

fn start(disk: &mut MemoryDisk, format: LogFormat) -> ShardLog {
    let mut log = try_recover(disk, format).expect("recovers").log;
    assert!(log.quarantine().is_none());
    settle(&mut log, disk);
    assert!(log.is_open());
    log
}

fn body(index: u64) -> Vec<u8> {
    vec![index as u8; 100 * index as usize]
}

fn append(log: &mut ShardLog, leaf: Option<HashSuite>, index: u64) {
    let mut frame = Vec::new();
    encode_record_parts(
        &mut frame,
        leaf,
        RecordKind::Entry,
        P,
        Term(1),
        LogIndex(index),
        &[&body(index)],
    );
    log.append(&decode_record(&frame).expect("just made"), Mode::Group);
}

fn read(log: &mut ShardLog, disk: &mut MemoryDisk, index: u64) -> Option<Vec<u8>> {
    let mut ops = Vec::new();
    log.read(P, LogIndex(index), &mut ops).ok()?;
    let mut retirement = Retirement::default();
    while !ops.is_empty() {
        for op in core::mem::take(&mut ops) {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut retirement);
        }
        if retirement.reads.is_empty() {
            log.poll(Time(0), &mut ops);
        }
    }
    let frames = retirement.reads.pop()?.frames?;
    let first = records(&frames).next()?.expect("sound");
    Some(first.body.to_vec())
}

/// Everything that may change between boots of a directory with these encodings.
fn formats_with(log_encoding: Encoding, ledger_encoding: Encoding) -> Vec<LogFormat> {
    let mut formats = Vec::new();
    for sealing in Suite::ALL {
        if sealing.check_available().is_err() {
            continue;
        }
        for (merkle_leaves, hash) in [
            (false, HashSuite::Sha256),
            (true, HashSuite::Sha256),
            (true, HashSuite::Blake3),
        ] {
            formats.push(LogFormat {
                log_encoding,
                ledger_encoding,
                sealing,
                merkle_leaves,
                hash,
            });
        }
    }
    formats
}

const ENCODINGS: [Encoding; 2] = [Encoding::Binary, Encoding::Json];

fn formats() -> Vec<LogFormat> {
    let mut formats = Vec::new();
    for log in ENCODINGS {
        for ledger in ENCODINGS {
            formats.extend(formats_with(log, ledger));
        }
    }
    formats
}

/// One boot for each of `formats`, ten entries each; everything is there at every boot and at the end.
fn boots(disk: &mut MemoryDisk, formats: &[LogFormat]) {
    let mut last = 0;
    for format in formats {
        let mut log = start(disk, *format);
        if last == 0 {
            log.create_partition(P, Incarnation(5), b"voters");
        }
        for index in 1..=last {
            assert_eq!(read(&mut log, disk, index), Some(body(index)), "{format:?}");
        }
        for index in last + 1..=last + 10 {
            append(&mut log, format.leaf(), index);
            settle(&mut log, disk);
        }
        last += 10;
    }
    let mut log = start(disk, formats[0]);
    for index in 1..=last {
        assert_eq!(read(&mut log, disk, index), Some(body(index)));
    }
}

#[test]
fn every_format_survives_restarts() {
    for format in formats() {
        boots(&mut MemoryDisk::default(), &[format; 3]);
    }
}

#[test]
fn suite_and_leaves_change_with_a_boot() {
    for encoding in ENCODINGS {
        let mut every = formats_with(encoding, encoding);
        boots(&mut MemoryDisk::default(), &every);
        every.reverse();
        boots(&mut MemoryDisk::default(), &every);
    }
}

#[test]
fn a_directory_of_other_encodings_is_refused_by_both_names() {
    for found in formats() {
        let mut disk = MemoryDisk::default();
        start(&mut disk, found);
        for asked in formats() {
            let outcome = try_recover(&mut disk, asked);
            if asked.has_encodings_of(&found) {
                assert!(outcome.is_ok());
                continue;
            }
            let error = outcome.err().expect("refused");
            assert!(matches!(error, RecoverError::Encoding { .. }), "{error}");
            let text = error.to_string();
            let (has, wants) = (
                format!(
                    "log encoding {} and ledger encoding {}",
                    found.log_encoding, found.ledger_encoding
                ),
                format!(
                    "asks for {} and {}",
                    asked.log_encoding, asked.ledger_encoding
                ),
            );
            assert!(text.contains(&has) && text.contains(&wants), "{text}");
        }
    }
}

fn text_of(disk: &MemoryDisk, file: FileId) -> String {
    let bytes: Vec<u8> = disk.files[&file].iter().flat_map(|block| block.0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn json_files_can_be_read() {
    let mut disk = MemoryDisk::default();
    let format = LogFormat {
        log_encoding: Encoding::Json,
        ledger_encoding: Encoding::Json,
        sealing: Suite::None,
        merkle_leaves: true,
        ..LogFormat::default()
    };
    let mut log = start(&mut disk, format);
    log.create_partition(P, Incarnation(5), b"voters");
    settle(&mut log, &mut disk);
    append(&mut log, format.leaf(), 1);
    settle(&mut log, &mut disk);
    let segment = text_of(&disk, FileId::segment(log.current_pair()));
    let entry = "{\"version\":2,\"kind\":\"Entry\",\"codec\":\"binary\",\"partition\":\"1\",\"term\":\"1\",\"index\":\"1\",\"body_len\":100,\"body\":\"AQEB";
    assert!(segment.contains(entry), "{segment}");
    assert!(segment.contains("\"leaf\":\"sha256:"), "{segment}");
    let ledger = text_of(&disk, FileId::ledger(log.current_pair()));
    let run = "\"items\":[{\"run\":{\"kind\":\"Entry\",\"count\":1,\"partition\":\"1\",\"term\":\"1\",\"first\":\"1\"}}]}";
    assert!(ledger.contains(run), "{ledger}");
    let configuration = "\"items\":[{\"record\":{\"version\":2,\"kind\":\"Configuration\"";
    assert!(ledger.contains(configuration), "{ledger}");
    // The checkpoint, in both files.
    for text in [&segment, &ledger] {
        assert!(
            text.contains("{\"older\":[],\"boots\":[],\"peers\":[],\"partitions\":{},\"tail\":[]}"),
            "{text}"
        );
    }
}

/// The greatest entries, the longest small records and many partitions at once: whatever is admitted fits.
#[test]
fn what_is_admitted_fits_under_every_format() {
    for format in formats() {
        let mut disk = MemoryDisk::default();
        let mut log = start(&mut disk, format);
        let partition = |number: u64| PartitionId(u128::MAX - u128::from(number));
        for number in 0..120 {
            log.create_partition(partition(number), Incarnation(u64::MAX / 2), &[0xff; 900]);
        }
        settle(&mut log, &mut disk);
        let greatest = log.options().entry_body_bytes_max;
        assert!(log.admit(greatest).is_ok() && log.admit(greatest + 1).is_err());
        for index in 1..=3 {
            for (number, bytes) in [(0, greatest), (1, 1), (2, 0), (3, 700)] {
                let mut frame = Vec::new();
                encode_record_parts(
                    &mut frame,
                    format.leaf(),
                    RecordKind::Entry,
                    partition(number),
                    Term(u64::MAX / 2),
                    LogIndex(index),
                    &[&vec![0xff; bytes]],
                );
                log.append(&decode_record(&frame).expect("just made"), Mode::Group);
            }
            for number in 4..120 {
                let mut frame = Vec::new();
                encode_record_parts(
                    &mut frame,
                    format.leaf(),
                    RecordKind::Entry,
                    partition(number),
                    Term(u64::MAX / 2),
                    LogIndex(index),
                    &[b"x"],
                );
                log.append(&decode_record(&frame).expect("just made"), Mode::Group);
            }
            settle(&mut log, &mut disk);
        }
        let log = start(&mut disk, format);
        for number in 0..120 {
            let found = log.partition(partition(number)).expect("there");
            assert_eq!(found.last, LogIndex(3));
            assert_eq!(found.missing_count(), 0);
            assert_eq!(*found.configurations[0].body, [0xff; 900]);
        }
    }
}

#[test]
fn the_report_says_how_the_log_is_sealed() {
    for format in formats() {
        let recovery = try_recover(&mut MemoryDisk::default(), format).expect("recovers");
        assert_eq!(recovery.report.format, format);
    }
}

#[test]
fn a_suite_that_the_build_lacks_is_refused_by_name() {
    let format = LogFormat {
        sealing: Suite::Aes256Gcm,
        ..LogFormat::default()
    };
    let refused = try_recover(&mut MemoryDisk::default(), format).err();
    assert_eq!(refused.is_none(), HAS_AES);
    if let Some(error) = refused {
        let text = error.to_string();
        assert!(
            text.contains("aes-256-gcm") && text.contains("feature `aws-lc`"),
            "{text}"
        );
    }
}

/// A directory with one written pair, one field of whose header is changed and signed again, in one file.
fn changed(file: fn(PairNumber) -> FileId, at: usize, bytes: &[u8]) -> (MemoryDisk, RecoverError) {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk, LogFormat::default());
    let pair = log.current_pair();
    log.create_partition(P, Incarnation(5), b"voters");
    settle(&mut log, &mut disk);
    let file = file(pair);
    let block = &mut disk.files.get_mut(&file).expect("written")[0];
    let before = block.0;
    sign(file, 0, block);
    assert!(
        before == block.0,
        "the specification's MAC is the one that was written"
    );
    block.0[at..at + bytes.len()].copy_from_slice(bytes);
    sign(file, 0, block);
    let error = try_recover(&mut disk, LogFormat::default())
        .err()
        .expect("refused");
    (disk, error)
}

#[test]
fn a_newer_format_is_refused_by_name_in_either_file() {
    for file in [FileId::segment, FileId::ledger] {
        let (_, error) = changed(file, 8, &6u16.to_le_bytes());
        assert!(
            matches!(
                error,
                RecoverError::Newer {
                    found: 6,
                    reads: 5,
                    ..
                }
            ),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("written by format 6, this build reads up to 5; use a newer build"),
            "{text}"
        );
        let (_, error) = changed(file, 8, &1u16.to_le_bytes());
        assert!(
            matches!(
                error,
                RecoverError::Older {
                    found: 1,
                    reads: 5,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn unknown_settings_are_refused_by_name() {
    for (at, name) in [
        (10, "log encoding 9"),
        (11, "suite 9"),
        (12, "hash 9"),
        (13, "ledger encoding 9"),
        (92, "flags 0x9"),
        (73, "blocks of 6400 bytes"),
    ] {
        let byte = if at == 73 { 25 } else { 9 };
        let (_, error) = changed(FileId::segment, at, &[byte]);
        assert!(matches!(error, RecoverError::Settings { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn another_key_is_refused_by_name() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk, LogFormat::default());
    log.create_partition(P, Incarnation(5), b"voters");
    settle(&mut log, &mut disk);
    let refused = ShardLog::recover(&mut disk, identity(), options(), &TestKey(KEY + 1), pool());
    assert!(matches!(refused.err(), Some(RecoverError::WrongKey { .. })));
}

/// Under every format, one flipped bit of an extent makes its entries missing, and no other.
#[test]
fn a_flipped_bit_of_an_extent_is_noticed_under_every_format() {
    for format in formats() {
        let mut disk = MemoryDisk::default();
        let mut log = start(&mut disk, format);
        log.create_partition(P, Incarnation(5), b"voters");
        for index in 1..=20 {
            append(&mut log, format.leaf(), index);
            settle(&mut log, &mut disk);
        }
        let segment = FileId::segment(log.current_pair());
        let blocks: Vec<u32> = (1..disk.files[&segment].len() as u32)
            .filter(|block| disk.files[&segment][*block as usize].0 != Block::ZERO.0)
            .collect();
        let mut missing = 0;
        for (at, block) in blocks.into_iter().enumerate() {
            let mut disk = disk.clone();
            disk.flip(segment, block, (at * 7919) % (4096 * 8));
            let mut recovery = try_recover(&mut disk, format).expect("recovers");
            assert!(recovery.log.quarantine().is_none());
            settle(&mut recovery.log, &mut disk);
            let last = recovery.log.partition(P).expect("there").last;
            for index in 1..=last.get() {
                let found = read(&mut recovery.log, &mut disk, index);
                let partition = recovery.log.partition(P).expect("there");
                if partition.is_missing(LogIndex(index)) {
                    missing += 1;
                    assert_eq!(found, None);
                } else {
                    assert_eq!(found, Some(body(index)), "{format:?} {block} {index}");
                }
            }
        }
        assert!(missing > 0);
    }
}

/// A block that lies where another pair's block should, as in a recycled file, is not taken for this pair's.
#[test]
fn a_block_of_another_pair_is_not_authentic_under_any_suite() {
    for format in formats() {
        let mut disk = MemoryDisk::default();
        let mut log = start(&mut disk, format);
        log.create_partition(P, Incarnation(5), b"voters");
        for index in 1..=4 {
            append(&mut log, format.leaf(), index);
            settle(&mut log, &mut disk);
        }
        let old = FileId::segment(log.current_pair());
        let mut log = start(&mut disk, format);
        for index in 5..=8 {
            append(&mut log, format.leaf(), index);
            settle(&mut log, &mut disk);
        }
        let new = FileId::segment(log.current_pair());
        let pool_of_old = disk.files[&old].clone();
        let place = disk.files[&new]
            .iter()
            .rposition(|block| block.0 != Block::ZERO.0)
            .expect("written");
        // The block before the last: its chain is certain, so it is rot that must be noticed, not a torn tail.
        let place = place - 1;
        disk.files.get_mut(&new).expect("there")[place] = pool_of_old[place];
        let mut recovery = try_recover(&mut disk, format).expect("recovers");
        settle(&mut recovery.log, &mut disk);
        assert_eq!(recovery.log.partition(P).expect("there").last, LogIndex(8));
        for index in 1..=8 {
            let found = read(&mut recovery.log, &mut disk, index);
            assert!(found.is_none() || found == Some(body(index)));
        }
        let partition = recovery.log.partition(P).expect("there");
        assert!(partition.missing_count() > 0, "{format:?}");
    }
}
