//! Every structure of a data directory is shown, as text and as JSON, with what it says; and of a damaged one, what is wrong.

#[path = "../../shards/tests/support/mod.rs"]
mod memory;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Output;

use clustor_engine::raft::configuration::Standing;
use clustor_engine::raft::entry::{EntryBody, EntryKey, EntryKind, KeysMax, SystemKind};
use clustor_engine::raft::{Cause, Configuration, Transition};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record_parts};
use clustor_shards::log::{HardState, HashSuite, LogFormat, Mode, ShardLog};
use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term,
};
use clustor_wire::message::IdempotencyKey;
use memory::{MemoryDisk, TestKey, identity, options, pool, settle};
use serde_json::Value;
use support::clustor;

const P: PartitionId = PartitionId(1);
const BLOCK: u64 = 4096;
const DAMAGED: Option<i32> = Some(13);

fn peer(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(0),
    }
}

fn boot(disk: &mut MemoryDisk) -> ShardLog {
    let format = LogFormat {
        merkle_leaves: true,
        ..LogFormat::default()
    };
    let options = options().with_format(format);
    let recovery = ShardLog::recover(disk, identity(), options, &TestKey(9), pool());
    let mut log = recovery.expect("recovers").log;
    settle(&mut log, disk);
    log
}

fn frame(kind: RecordKind, partition: PartitionId, at: (u64, u64), body: &[u8]) -> Vec<u8> {
    let (term, index) = (Term(at.0), LogIndex(at.1));
    let mut frame = Vec::new();
    let leaf = Some(HashSuite::Sha256);
    encode_record_parts(&mut frame, leaf, kind, partition, term, index, &[body]);
    frame
}

fn body(kind: EntryKind, key: Option<EntryKey>, payload: &[u8]) -> Vec<u8> {
    let entry = EntryBody {
        kind,
        stamp_ms: 1_700_000_000_123,
        key,
        payload,
    };
    [entry.head().as_slice(), payload].concat()
}

/// Two boots; in the first a record of every kind.
fn history() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let mut log = boot(&mut disk);
    let voters = [peer(1), peer(2), peer(3)];
    let named = voters.map(|voter| (voter, Incarnation(50 + voter.node.get())));
    let first = Configuration::simple(voters.to_vec()).and_then(|of| of.naming(&named));
    let first = first.expect("three voters");
    let joint = first
        .with_member(peer(5), Standing::Observer, "10.0.0.5:7000")
        .and_then(|of| of.entering(&[peer(4)], &[peer(3)]))
        .expect("possible");
    log.create_partition(P, Incarnation(51), &first.encode());
    log.create_partition(PartitionId(2), Incarnation(51), &first.encode());
    let vote = HardState {
        term: Term(1),
        vote: Some(NodeId(3)),
    };
    log.hard_state(P, vote);
    let past = PeerPast {
        incarnation: Incarnation(61),
        boot: BootNumber(71),
        chain: ChainNumber(81),
    };
    log.peer_chains(&[(peer(2), past)]);
    let key = EntryKey {
        key: IdempotencyKey(0xabcd),
        known: LogIndex(1),
    };
    let mode = Transition {
        mode: Mode::Strict,
        wanted: Mode::Group,
        cause: Cause::Guard,
    };
    let keys_max = EntryKind::System(SystemKind::KeysMax);
    let transition = EntryKind::System(SystemKind::DurabilityTransition);
    let last = body(EntryKind::Command, None, b"secret of the sixth");
    let records = [
        (RecordKind::Entry, (1, 1), body(EntryKind::Empty, None, b"")),
        (
            RecordKind::Entry,
            (1, 2),
            body(EntryKind::Command, Some(key), b"secret payload"),
        ),
        (
            RecordKind::Entry,
            (1, 3),
            body(keys_max, None, &KeysMax::new(4321).encode()),
        ),
        (
            RecordKind::Entry,
            (1, 4),
            body(transition, None, &mode.encode()),
        ),
        (RecordKind::Configuration, (1, 5), joint.encode()),
        (RecordKind::ExitCommitted, (1, 5), Vec::new()),
        (RecordKind::Entry, (1, 6), last.clone()),
        (RecordKind::Missing, (1, 5), 1u64.to_le_bytes().to_vec()),
        (RecordKind::Missing, (1, 6), 1u64.to_le_bytes().to_vec()),
        (RecordKind::SnapshotMark, (1, 1), Vec::new()),
        (RecordKind::Floor, (1, 1), Vec::new()),
    ];
    for (kind, at, body) in &records {
        let frame = frame(*kind, P, *at, body);
        log.append(&decode_record(&frame).expect("just made"), Mode::Strict);
        settle(&mut log, &mut disk);
    }
    for (kind, index, body) in [
        (RecordKind::Configuration, 5, joint.encode()),
        (RecordKind::Entry, 6, last),
    ] {
        log.relocate(&decode_record(&frame(kind, P, (1, index), &body)).expect("just made"));
    }
    let extra = frame(
        RecordKind::Entry,
        P,
        (1, 7),
        &body(EntryKind::Empty, None, b""),
    );
    log.append(&decode_record(&extra).expect("just made"), Mode::Strict);
    log.truncate(P, Term(2), LogIndex(7));
    let gone = frame(RecordKind::PartitionTombstone, PartitionId(2), (0, 0), b"");
    log.append(&decode_record(&gone).expect("just made"), Mode::Strict);
    settle(&mut log, &mut disk);
    let mut log = boot(&mut disk);
    let more = frame(
        RecordKind::Entry,
        P,
        (2, 7),
        &body(EntryKind::Empty, None, b""),
    );
    log.append(&decode_record(&more).expect("just made"), Mode::Strict);
    settle(&mut log, &mut disk);
    disk
}

fn put(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("changed");
}

/// A data directory with everything that may lie in one.
fn directory(disk: &MemoryDisk) -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path();
    let wal = path.join("shard-0/wal");
    fs::create_dir_all(&wal).expect("made");
    put(
        &path.join("identity"),
        format!("clustor-data 1\nmember\ncluster {:032x}\nnode 1\n", 7).as_bytes(),
    );
    put(
        &path.join("kek"),
        format!("{}\n", "09".repeat(32)).as_bytes(),
    );
    put(&path.join("lock"), b"");
    let until = time::OffsetDateTime::now_utc().date() + time::Duration::days(30);
    let allow = format!("[[allow]]\nclause = \"fuse\"\nuntil = {until}\nreason = \"a trial\"\n");
    put(&path.join("host-override.toml"), allow.as_bytes());
    let state = r#"{"pid":4711,"readings":3,"profile":"latency","obeyed":true,"live":[],"at_restart":[],"wrong":[]}"#;
    put(&path.join("profile-state.json"), state.as_bytes());
    put(&path.join("shard-0/lock"), b"4711\n");
    put(
        &path.join("shard-0/boot_record.json"),
        br#"{"version":1,"boot":"2","state":"healthy"}"#,
    );
    for (file, blocks) in &disk.files {
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.0).collect();
        put(&wal.join(file.to_string()), &bytes);
    }
    for spare in [
        "segment-90.log",
        "durability-90.log",
        "segment-91.log.new",
        "segment-80.log.kept",
        "durability-81.log.gone",
    ] {
        put(&wal.join(spare), &[0; 8 * BLOCK as usize]);
    }
    put(&wal.join("notes.txt"), b"an operator's");
    data
}

fn inspect(data: &Path, args: &[&str]) -> Output {
    let mut command = clustor(&["inspect"]);
    command
        .arg(data)
        .args(args)
        .output()
        .expect("the clustor binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    let out = text(&output.stdout);
    out.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Every object under `value` that has a `kind`.
fn kinds<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("kind") {
                into.push(value);
            }
            fields.values().for_each(|value| kinds(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| kinds(value, into)),
        _ => {}
    }
}

#[test]
fn every_structure_is_shown_with_what_it_says() {
    let data = directory(&history());
    let shown = inspect(data.path(), &["--records", "--json"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let all = lines(&shown);
    let of = |structure: &'static str| {
        all.iter()
            .filter(move |line| line["structure"] == structure)
    };

    let files: Vec<&Value> = of("files")
        .flat_map(|line| line["files"].as_array().expect("a list"))
        .collect();
    let what = |name: &str| {
        let file = files.iter().find(|file| file["name"] == name);
        file.unwrap_or_else(|| panic!("{name}"))["what"]
            .as_str()
            .expect("a text")
    };
    assert!(what("identity").contains("node 1 of cluster 00000000000000000000000000000007"));
    assert!(what("kek").contains("never shown"));
    assert!(what("lock").contains("locked while"));
    assert!(what("host-override.toml").contains("allows fuse until"));
    assert!(what("profile-state.json").contains("process 4711, reading 3 of \"latency\": obeyed"));
    assert!(what("wal/segment-1.log").contains("segment of pair 1"));
    assert!(what("wal/segment-91.log.new").contains("being made"));
    assert!(what("wal/segment-80.log.kept").contains("kept"));
    assert!(what("wal/durability-81.log.gone").contains("given back"));
    assert!(what("wal/notes.txt").contains("left alone"));
    let record = of("boot_record").next().expect("one");
    assert_eq!(record["boot_record"]["state"], "healthy");

    let pairs: Vec<&Value> = of("pair").collect();
    assert!(
        pairs
            .iter()
            .all(|pair| pair["faults"] == Value::Array(Vec::new())),
        "{pairs:?}"
    );
    let spare = pairs
        .iter()
        .find(|pair| pair["pair"] == "90")
        .expect("the spare");
    assert_eq!(spare["is_spare"], true);
    let older = pairs
        .iter()
        .find(|pair| pair["role"] == "older")
        .expect("the first");
    assert_eq!(older["header"]["merkle_leaves"], true);
    assert_eq!(older["trailer"]["state"], "whole");
    let newest = pairs
        .iter()
        .find(|pair| pair["role"] == "newest")
        .expect("the second");
    let partition = &newest["checkpoint"]["partitions"][0];
    assert_eq!(partition["vote"], "3", "{partition}");
    let again = newest["checkpoint"]["rewritten"].as_array();
    assert!(again.is_some_and(|items| !items.is_empty()), "{newest}");
    assert_eq!(newest["checkpoint"]["peers"][0]["retired"], "81");
    assert_eq!(newest["checkpoint"]["older_pairs"][0]["pair"], "1");

    let mut records = Vec::new();
    for pair in &pairs {
        kinds(pair, &mut records);
    }
    let (in_slots, in_extents): (Vec<&Value>, Vec<&Value>) =
        records.iter().partition(|record| record["crc"].is_null());
    let name = |record: &&Value| record["kind"].as_str().expect("a name").to_owned();
    let every: BTreeSet<String> = (1..=u8::MAX)
        .map_while(RecordKind::from_u8)
        .map(|kind| kind.name().to_owned())
        .collect();
    assert_eq!(in_slots.iter().map(name).collect::<BTreeSet<_>>(), every);
    assert_eq!(in_extents.iter().map(name).collect::<BTreeSet<_>>(), every);
    for record in &in_extents {
        assert_eq!(record["version"], 2);
        assert_eq!(record["leaf_hash"], "sha256");
        assert_eq!(record["leaf"].as_str().map(str::len), Some(64));
    }
    let says = |kind: &str, index: &str| {
        let found = in_extents
            .iter()
            .find(|record| record["kind"] == kind && record["index"] == index);
        found.unwrap_or_else(|| panic!("{kind} {index}"))["says"].clone()
    };
    assert_eq!(says("HardState", "0")["vote"], "3");
    assert_eq!(says("Configuration", "0")["incarnation"], "51");
    let joint = says("Configuration", "5");
    assert_eq!(joint["step"], "enters");
    assert_eq!(joint["voters_after"][2]["node"], "4");
    assert_eq!(joint["voters"][0]["incarnation"], "51");
    assert_eq!(joint["notes"][0]["address"], "10.0.0.5:7000");
    assert_eq!(says("RelocatedConfiguration", "5"), joint);
    assert_eq!(says("Entry", "1")["type"], "empty");
    assert_eq!(says("Entry", "2")["key"], format!("{:032x}", 0xabcd));
    assert_eq!(says("Entry", "2")["payload_bytes"], 14);
    assert_eq!(says("Entry", "3")["keys_max"], 4321);
    assert_eq!(says("Entry", "4")["wanted_mode"], "group");
    assert_eq!(says("Entry", "4")["cause"], "guard");
    assert_eq!(says("Relocated", "6")["type"], "command");
    assert_eq!(says("Missing", "5")["missing_count"], 1);
    assert_eq!(says("PeerChains", "0")["peers"][0]["boot"], "71");
    assert_eq!(says("Floor", "1"), Value::Null);

    let shown = text(&inspect(data.path(), &["--records"]).stdout);
    for name in &every {
        assert!(
            shown.contains(&format!("record {name} partition")),
            "{name}: {shown}"
        );
    }
    for said in [
        "identity",
        "host-override.toml",
        "allows fuse until",
        "segment-91.log.new",
        "boot record:",
        "a spare, never opened",
        "vote 3",
        "step enters",
        "(node 5 shard 0 address 10.0.0.5:7000 standing observer)",
        "keys max 4321",
        "wanted mode group",
        "missing count 1",
        "key 0000000000000000000000000000abcd",
        "leaf sha256 ",
        "Merkle root ",
        "nonces reserved",
        "peer node 2 shard 0",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(
        !shown.contains("secret") && !shown.contains(&"09".repeat(8)),
        "{shown}"
    );
    assert!(!shown.contains("BAD"), "{shown}");
}

#[test]
fn only_what_is_asked_for_is_shown() {
    let data = directory(&history());
    let shown = |args: &[&str]| {
        let shown = inspect(data.path(), args);
        assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
        text(&shown.stdout)
    };
    assert!(!shown(&["--brief"]).contains("\n  chain "));
    let kind = shown(&["--kind", "Missing", "--records"]);
    assert!(
        kind.contains("record Missing") && !kind.contains("HardState"),
        "{kind}"
    );
    let chain = shown(&["--pair", "1", "--chains", "3..4"]);
    assert_eq!(chain.matches("\n  chain ").count(), 2, "{chain}");
    assert!(!shown(&["--damaged"]).contains("\npair "));
    for wrong in [["--kind", "Nothing"], ["--chains", "x"]] {
        assert_eq!(inspect(data.path(), &wrong).status.code(), Some(2));
    }
}

#[test]
fn what_is_asked_for_by_number_and_is_not_there_is_an_error_that_says_what_there_is() {
    let data = directory(&history());
    let refused = |args: &[&str], code: i32| {
        let shown = inspect(data.path(), args);
        let said = text(&shown.stderr);
        assert_eq!(shown.status.code(), Some(code), "{args:?}: {said}");
        said
    };
    for (args, what) in [
        (&["--pair", "77"][..], "no pair 77 here; there is 1 to "),
        (
            &["--pair", "1", "--chains", "900..901"],
            "no such chain here; there is 1 to ",
        ),
        (&["--chains", "900.."], "no such chain here; there is 1 to "),
        (
            &["--partition", "9"],
            "nothing of partition 9 here; there is 1",
        ),
        (
            &["--partition", "1", "--from", "90000"],
            "no such entry of partition 1 here; there is 1 to ",
        ),
        (
            &["--json", "--partition", "1", "--from", "90000", "--records"],
            "no such entry of partition 1",
        ),
    ] {
        let said = refused(args, 1);
        assert!(said.contains(what), "{args:?}: {said}");
    }
    for args in [
        &["--chains", "4..3"][..],
        &["--partition", "1", "--from", "5", "--to", "4"],
    ] {
        let said = refused(args, 2);
        assert!(said.contains("is above the last"), "{args:?}: {said}");
    }
    // What is there, and only not of the kind or not damaged, is no error.
    for args in [
        &["--partition", "1", "--from", "1", "--to", "1"][..],
        &["--partition", "1", "--kind", "SnapshotMark"],
        &["--pair", "1", "--damaged"],
    ] {
        assert_eq!(
            inspect(data.path(), args).status.code(),
            Some(0),
            "{args:?}"
        );
    }
}

/// Turns a bit of a block over.
fn flip(data: &Path, file: &str, offset: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(data.join(file));
    let file = file.expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

#[test]
fn a_flipped_bit_is_told_in_words_and_by_the_exit_code() {
    let disk = history();
    let whole = directory(&disk);
    let pairs = lines(&inspect(whole.path(), &["--json"]));
    let role = |role: &str| {
        pairs
            .iter()
            .find(|pair| pair["role"] == role)
            .expect("there")
    };
    let (newest, older) = (role("newest"), role("older"));
    let number = |value: &Value| value.as_u64().expect("a number");
    let chain = &older["chains"][4];
    let slots = 1 + number(&older["header"]["checkpoint_blocks"]);
    let (slot, extent) = (slots + 4, number(&chain["first_block"]));
    let trailer = number(&older["header"]["segment_blocks"]) - 1;
    let (old, new) = (&older["pair"], &newest["pair"]);
    let (old, new) = (old.as_str().expect("one"), new.as_str().expect("one"));
    let wal = [
        (
            format!("segment-{new}.log"),
            0,
            "the header does not have the MAC",
        ),
        (
            format!("durability-{new}.log"),
            0,
            "the header does not have the MAC",
        ),
        (
            format!("segment-{new}.log"),
            1,
            "the checkpoint is not authentic",
        ),
        (
            format!("durability-{new}.log"),
            1,
            "the checkpoint is not authentic",
        ),
        (
            format!("segment-{old}.log"),
            extent,
            "the extent's block is not authentic",
        ),
        (
            format!("durability-{old}.log"),
            slot,
            "the slot is not authentic",
        ),
        (
            format!("segment-{old}.log"),
            trailer,
            "the trailer is not authentic",
        ),
    ];
    for (file, block, why) in wal {
        let data = directory(&disk);
        flip(
            data.path(),
            &format!("shard-0/wal/{file}"),
            block * BLOCK + 100,
        );
        for args in [&[][..], &["--damaged"], &["--json"]] {
            let shown = inspect(data.path(), args);
            assert_eq!(shown.status.code(), DAMAGED, "{file} {block}: {shown:?}");
            assert!(text(&shown.stderr).contains("1 damaged"), "{shown:?}");
            let said = format!("{file} block {block}: {why}");
            assert!(text(&shown.stdout).contains(&said), "{said}: {shown:?}");
        }
    }
    for (file, offset, code, why) in [
        ("identity", 0, 13, "expected the lines"),
        ("kek", 3, 3, "is not authentic under this key"),
        ("host-override.toml", 0, 13, "not TOML"),
        ("profile-state.json", 0, 13, "not JSON"),
        ("shard-0/lock", 4, 13, "expected a process id"),
        ("shard-0/boot_record.json", 0, 13, "not JSON"),
    ] {
        let data = directory(&disk);
        if file == "shard-0/lock" {
            put(&data.path().join(file), b"none\n");
        } else {
            flip(data.path(), file, offset);
        }
        for args in [&[][..], &["--json"]] {
            let shown = inspect(data.path(), args);
            assert_eq!(shown.status.code(), Some(code), "{file}: {shown:?}");
            let all = text(&shown.stdout) + &text(&shown.stderr);
            assert!(all.contains(why), "{file}: {all}");
        }
    }
}
