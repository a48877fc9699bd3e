//! The bytes of logs that are always written in the same way. A digest that differs says that files of this build are not those of
//! the build before: where it can't read them any more, or they can't be read by it, the format's version
//! (`header::FORMAT_VERSION`) has to rise, so that they are refused by name. Where only other things are written in the
//! same format, the digests are made anew.

mod support;

use clustor_shards::disk::{BootDisk as _, FileId};
use clustor_shards::log::header::FORMAT_VERSION;
use clustor_shards::log::record::{RecordKind, decode_record, encode_record_parts};
use clustor_shards::log::{Encoding, HardState, HashSuite, LogFormat, Mode, ShardLog, Suite};
use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term,
};
use sha2::{Digest as _, Sha256};
use support::{MemoryDisk, TestKey, identity, options, pool, settle};

const P: PartitionId = PartitionId(1);

fn boot(disk: &mut MemoryDisk, format: LogFormat) -> ShardLog {
    let options = options().with_format(format);
    let recovery = ShardLog::recover(disk, identity(), options, &TestKey(9), pool());
    let mut log = recovery.expect("recovers").log;
    settle(&mut log, disk);
    log
}

fn append(
    log: &mut ShardLog,
    format: LogFormat,
    (term, index): (u64, u64),
    body: &[u8],
    mode: Mode,
) {
    let mut frame = Vec::new();
    encode_record_parts(
        &mut frame,
        format.leaf(),
        RecordKind::Entry,
        P,
        Term(term),
        LogIndex(index),
        &[body],
    );
    log.append(&decode_record(&frame).expect("just made"), mode);
}

/// Two boots in which every kind of record that is written without a snapshot is written, and a pair is filled.
fn history(format: LogFormat) -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let mut log = boot(&mut disk, format);
    log.create_partition(P, Incarnation(5), b"voters");
    log.hard_state(
        P,
        HardState {
            term: Term(2),
            vote: Some(NodeId(3)),
        },
    );
    for index in 1..=20 {
        append(
            &mut log,
            format,
            (2, index),
            &[index as u8; 300],
            Mode::Group,
        );
        settle(&mut log, &mut disk);
    }
    log.truncate(P, Term(3), LogIndex(18));
    append(&mut log, format, (3, 18), b"another", Mode::Strict);
    log.exit_committed(P, Term(3), LogIndex(18));
    let peer = PeerId {
        node: NodeId(4),
        shard: ShardId(1),
    };
    let past = PeerPast {
        incarnation: Incarnation(6),
        boot: BootNumber(7),
        chain: ChainNumber(8),
    };
    log.peer_chains(&[(peer, past)]);
    settle(&mut log, &mut disk);
    let pairs = disk.pairs().expect("in memory").len();
    let mut index = 19;
    while disk.pairs().expect("in memory").len() <= pairs {
        append(&mut log, format, (3, index), &[7; 3000], Mode::Group);
        settle(&mut log, &mut disk);
        index += 1;
    }
    let mut log = boot(&mut disk, format);
    append(&mut log, format, (3, index), b"the last", Mode::Group);
    settle(&mut log, &mut disk);
    disk
}

fn digest(disk: &MemoryDisk) -> String {
    let mut hash = Sha256::new();
    for (file, blocks) in &disk.files {
        let file: &FileId = file;
        hash.update(file.to_string());
        for block in blocks {
            hash.update(block.0);
        }
    }
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn what_is_on_disk_changes_with_the_version_alone() {
    let format = |encoding, sealing, merkle_leaves, hash| LogFormat {
        log_encoding: encoding,
        ledger_encoding: encoding,
        sealing,
        merkle_leaves,
        hash,
    };
    let written = [
        format(Encoding::Binary, Suite::None, false, HashSuite::Sha256),
        format(
            Encoding::Binary,
            Suite::ChaCha20Poly1305,
            true,
            HashSuite::Sha256,
        ),
        format(
            Encoding::Binary,
            Suite::ChaCha20Poly1305,
            true,
            HashSuite::Blake3,
        ),
        format(Encoding::Json, Suite::None, true, HashSuite::Blake3),
    ]
    .map(|format| digest(&history(format)));
    assert_eq!((FORMAT_VERSION, written), (5, GOLDEN.map(str::to_owned)));
}

/// The first 8 bytes of SHA-256 over all files.
const GOLDEN: [&str; 4] = [
    "e6520fdcc03bcc73",
    "67af3eba4df9562a",
    "a28258d13c57b537",
    "51597489df2cfd56",
];
