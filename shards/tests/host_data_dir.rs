//! A data directory says whose it is, before anything is written to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{BootDisk as _, DiskError, FileId};
use clustor_shards::host::{Claim, DataDir, DataDirError, FileKeyProvider, LONE_NODE, OfflineDisk};
use clustor_shards::log::keys::KeyProvider as _;
use clustor_wire::ids::{ClusterId, NodeId, PairNumber, ShardId};

const CLUSTER: ClusterId = ClusterId(0xabcd);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .expect("is a directory")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn first_start_makes_a_private_directory_with_a_private_key() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("deep/data");
    let data = DataDir::open(&path, Claim::Alone).expect("first start");
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("kek")), 0o600);
    assert_eq!(data.identity().node, LONE_NODE);
    assert!(data.identity().alone);
    data.keys().kek().expect("the key is there");
    let shard = data.shard(ShardId(0)).expect("made");
    assert_eq!(mode(&shard), 0o700);
}

#[test]
fn a_lone_node_finds_its_identity_and_key_again() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    let first = DataDir::open(&path, Claim::Alone)
        .expect("first start")
        .identity();
    let key = fs::read(path.join("kek")).expect("readable");
    let again = DataDir::open(&path, Claim::Alone)
        .expect("second start")
        .identity();
    assert_eq!(first, again);
    assert_eq!(key, fs::read(path.join("kek")).expect("readable"));
}

#[test]
fn the_directory_of_another_node_is_refused_and_left_as_it_was() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    drop(DataDir::open(&path, Claim::Member(CLUSTER, NodeId(1))).expect("first start"));
    fs::remove_file(path.join("lock")).expect("to see whether it comes back");
    let before = listing(&path);
    for claim in [
        Claim::Alone,
        Claim::Member(CLUSTER, NodeId(2)),
        Claim::Member(ClusterId(9), NodeId(1)),
    ] {
        let error = DataDir::open(&path, claim).expect_err("someone else's");
        assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("node 1 of cluster"), "{error}");
    }
    assert_eq!(before, listing(&path));
}

#[test]
fn a_directory_that_holds_other_things_is_refused_and_left_as_it_was() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    fs::write(temp.path().join("letter.txt"), "dear").expect("written");
    let error = DataDir::open(temp.path(), Claim::Alone).expect_err("not a data directory");
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert_eq!(listing(temp.path()), ["letter.txt"]);
}

#[test]
fn a_first_start_that_was_cut_short_is_repeated() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    drop(DataDir::open(&path, Claim::Alone).expect("first start"));
    fs::rename(path.join("identity"), path.join("identity.tmp")).expect("as before its rename");
    let key = fs::read(path.join("kek")).expect("readable");
    DataDir::open(&path, Claim::Alone).expect("repeated");
    assert_eq!(key, fs::read(path.join("kek")).expect("readable"));
}

#[test]
fn a_locked_directory_is_refused_after_a_wait() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    let first = DataDir::open(&path, Claim::Alone).expect("first start");
    let error = DataDir::open(&path, Claim::Alone).expect_err("in use");
    let DataDirError::Locked { holder, .. } = error else {
        panic!("{error}");
    };
    // Not every file system says who it is.
    assert!(holder.is_none_or(|pid| pid == std::process::id()));
    drop(first);
    DataDir::open(&path, Claim::Alone).expect("free again");
}

#[test]
fn a_damaged_identity_is_refused() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    drop(DataDir::open(&path, Claim::Alone).expect("first start"));
    for text in [
        "",
        "clustor-data\n",
        "clustor-data one\n",
        "clustor-data 1\n",
    ] {
        fs::write(path.join("identity"), text).expect("written");
        let error = DataDir::open(&path, Claim::Alone).expect_err("damaged");
        assert!(matches!(error, DataDirError::Identity { .. }), "{error}");
    }
}

#[test]
fn an_identity_of_a_newer_build_is_refused_by_name() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    drop(DataDir::open(&path, Claim::Alone).expect("first start"));
    fs::write(path.join("identity"), "clustor-data 2\nsomething else\n").expect("written");
    let error = DataDir::open(&path, Claim::Alone).expect_err("newer");
    assert!(
        matches!(error, DataDirError::Newer { found: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("use a newer build"), "{error}");
}

#[test]
fn a_key_that_is_a_pipe_is_refused_without_waiting() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("kek");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    let error = FileKeyProvider::new(&path).kek().expect_err("a pipe");
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused_with_its_mode() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let keys = FileKeyProvider::create(temp.path(), "kek").expect("made");
    keys.kek().expect("private");
    fs::set_permissions(temp.path().join("kek"), fs::Permissions::from_mode(0o640)).expect("set");
    let error = keys.kek().expect_err("others may read it");
    assert!(error.to_string().contains("mode 0640"), "{error}");
}

#[test]
fn a_missing_or_malformed_key_is_refused_with_what_was_expected() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let keys = FileKeyProvider::new(temp.path().join("kek"));
    let error = keys.kek().expect_err("there is none");
    assert!(
        error.to_string().contains("restore it from its backup"),
        "{error}"
    );
    fs::write(temp.path().join("kek"), "ABC\n").expect("written");
    fs::set_permissions(temp.path().join("kek"), fs::Permissions::from_mode(0o600)).expect("set");
    let error = keys.kek().expect_err("too short");
    assert!(
        error.to_string().contains("64 hexadecimal digits"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_gone_is_an_error_of_an_offline_read_as_it_is_of_a_start() {
    let temp = tempfile::tempdir().expect("a directory");
    fs::write(temp.path().join("segment-1.log"), [7; BLOCK_BYTES]).expect("written");
    let mut disk = OfflineDisk::open(temp.path()).expect("opened");
    let pair = PairNumber(1);
    let mut into = Blocks::from_heap(2);
    disk.read(FileId::segment(pair), 0, &mut into)
        .expect("it reads");
    assert_eq!(into.as_slice()[0].0, [7; BLOCK_BYTES]);
    assert_eq!(into.as_slice()[1].0, [0; BLOCK_BYTES], "beyond its end");
    let gone = FileId::ledger(pair);
    assert_eq!(disk.read(gone, 0, &mut into), Err(DiskError::NoFile(gone)));
}

#[test]
fn a_shard_whose_log_is_gone_does_not_begin_anew() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let path = temp.path().join("data");
    let data = DataDir::open(&path, Claim::Alone).expect("first start");
    let shard = data.shard(ShardId(0)).expect("made");
    data.note_logs(2).expect("noted");
    data.shard(ShardId(0)).expect("it has no log yet");
    fs::create_dir(shard.join("wal")).expect("made");
    fs::write(shard.join("wal/segment-1.log"), b"").expect("written");
    data.note_logs(2).expect("noted");
    assert_eq!(mode(&path.join("shard-0.begun")), 0o600);
    data.shard(ShardId(0)).expect("it is there");
    data.shard(ShardId(1)).expect("it has no log yet");

    fs::rename(&shard, temp.path().join("elsewhere")).expect("moved");
    for empty in [false, true] {
        if empty {
            fs::create_dir(&shard).expect("made");
        }
        let refused = data.shard(ShardId(0)).expect_err("its log is gone");
        assert!(matches!(refused, DataDirError::LogGone { .. }));
        let text = refused.to_string();
        assert!(text.contains("shard-0.begun"), "{text}");
        assert_eq!(shard.exists(), empty);
    }
    fs::remove_file(path.join("shard-0.begun")).expect("removed");
    data.shard(ShardId(0)).expect("it begins anew");
}
