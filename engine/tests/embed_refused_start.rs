//! A start that one shard refuses leaves the files of all shards as they were.
#![cfg(feature = "net")]

mod client_support;
mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client_support::DOMAIN;
use client_support::server::Ca;
use clustor_engine::engine::{Engine, EngineError, Member};
use clustor_engine::outcome::AppendError;
use clustor_engine::profile::Profile;
use clustor_engine::security::{PlacedNode, Placement, PlacementDraft, PlacementSecret};
use clustor_shards::log::Encoding;
use clustor_wire::ids::{ClusterId, NodeId};
use support::{Counter, PATIENCE, small, text};

type Done = Result<(), Box<dyn Error>>;

const SHARDS: u16 = 2;
/// Where a header has its format's version, and what this build writes.
const VERSION_AT: u64 = 8;
const VERSION: u16 = 5;

/// One node with two shards and a partition on each.
struct Host {
    temp: tempfile::TempDir,
    member: Member,
    profile: Profile,
}

impl Host {
    fn new() -> Result<Self, Box<dyn Error>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let placed = PlacedNode {
            address,
            shards: SHARDS,
        };
        let draft = PlacementDraft {
            cluster: ClusterId(7),
            trust_domain: DOMAIN.to_owned(),
            record_codec: 1,
            nodes: [(NodeId(1), placed)].into_iter().collect(),
            partitions: BTreeMap::new(),
        };
        let draft = draft.spread(u32::from(SHARDS), 1);
        let secret = PlacementSecret::from_seed(&[1; 32]);
        let ca = Ca::new();
        Ok(Self {
            temp: tempfile::tempdir()?,
            member: Member {
                placement: Placement::load(draft.sign(&secret)?.as_bytes(), &secret.public())?,
                identity: ca.identity("node/1", &ca),
                listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            },
            profile: small(),
        })
    }

    /// The same node on another directory.
    fn twin(&self) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            temp: tempfile::tempdir()?,
            member: self.member.clone(),
            profile: self.profile.clone(),
        })
    }

    fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    fn shard(&self, shard: u16) -> PathBuf {
        self.data().join(format!("shard-{shard}"))
    }

    fn start(&self) -> Result<Engine, EngineError> {
        Engine::builder(self.data())
            .profile(self.profile.clone())
            .partition(1, |_| Counter::default())
            .partition(2, |_| Counter::default())
            .node(self.member.clone())
            .start()
    }

    /// Starts, adds `add` to the counters of both partitions, stops. What they answered.
    fn live(&self, add: i64) -> Result<[i64; 2], Box<dyn Error>> {
        let engine = self.start()?;
        let sums = [appended(&engine, 1, add)?, appended(&engine, 2, add)?];
        engine.shutdown(PATIENCE)?;
        Ok(sums)
    }

    /// Starts once more, which must fail, and leave everything as it was. What it said.
    fn refused(&self) -> Result<String, Box<dyn Error>> {
        let before = files(&self.data())?;
        assert!(before.len() > 6, "{:?}", before.keys());
        let error = self.start().expect_err("it must not start");
        let after = files(&self.data())?;
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{error}");
        for (name, file) in &before {
            assert!(
                file == &after[name],
                "{} was written: {error}",
                name.display()
            );
        }
        Ok(error.to_string())
    }
}

fn appended(engine: &Engine, partition: u128, add: i64) -> Result<i64, Box<dyn Error>> {
    let counter = engine.partition::<Counter>(partition)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match counter.append_blocking(add.to_string()) {
            Ok(done) => return Ok(text(&done.reply).parse()?),
            // A node of a cluster starts before its partitions are led.
            Err(AppendError::NotExecuted { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Name, inode and bytes: a file that was replaced by its like was written too.
type Files = BTreeMap<PathBuf, (u64, Vec<u8>)>;

fn files(directory: &Path) -> Result<Files, Box<dyn Error>> {
    let mut found = Files::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            let metadata = path.metadata()?;
            if metadata.is_dir() {
                waiting.push(path);
            } else {
                let bytes = fs::read(&path)?;
                found.insert(path, (metadata.ino(), bytes));
            }
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Done {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Puts what earlier boots may leave into a shard's directory; it must be given up, but not before all shards are there.
fn litter(shard: &Path) -> Result<[PathBuf; 3], Box<dyn Error>> {
    let litter = [
        "segment-900.log.gone",
        "durability-901.log.new",
        "segment-902.log.kept",
    ]
    .map(|name| shard.join("wal").join(name));
    for path in &litter {
        fs::write(path, [7; 5000])?;
    }
    Ok(litter)
}

/// The version in every header that a directory's files have.
fn set_version(wal: &Path, from: u16, to: u16) -> Result<usize, Box<dyn Error>> {
    let mut set = 0;
    for entry in fs::read_dir(wal)? {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(entry?.path())?;
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, VERSION_AT)?;
        if bytes == from.to_le_bytes() {
            file.write_all_at(&to.to_le_bytes(), VERSION_AT)?;
            set += 1;
        }
    }
    Ok(set)
}

/// Has shard 1 be another's, sees to it that the node refuses, and that it starts once shard 1 is back.
fn with_shard_of(host: &Host, other: &Path, said: &[&str]) -> Done {
    let aside = host.temp.path().join("aside");
    fs::rename(host.shard(1), &aside)?;
    copy(other, &host.shard(1))?;
    let error = host.refused()?;
    for part in said.iter().chain(&["shard 1"]) {
        assert!(error.contains(part), "no {part:?} in {error:?}");
    }
    fs::remove_dir_all(host.shard(1))?;
    fs::rename(aside, host.shard(1))?;
    Ok(())
}

#[test]
fn nothing_is_written_before_every_shard_has_read_its_log() -> Done {
    let host = Host::new()?;
    assert_eq!(host.live(5)?, [5, 5]);
    assert_eq!(host.live(1)?, [6, 6]);
    let litter = litter(&host.shard(0))?;

    // Another encoding of the ledger.
    let mut twin = host.twin()?;
    twin.profile.wal_codec = Encoding::Json;
    fs::create_dir(twin.data())?;
    for name in ["identity", "kek"] {
        fs::copy(host.data().join(name), twin.data().join(name))?;
    }
    assert_eq!(twin.live(1)?, [1, 1]);
    let said = [
        "written with log encoding binary and ledger encoding json",
        "CLUSTOR_WAL_CODEC",
    ];
    with_shard_of(&host, &twin.shard(1), &said)?;

    // Another key, of a directory of the same node.
    let twin = host.twin()?;
    assert_eq!(twin.live(1)?, [1, 1]);
    with_shard_of(&host, &twin.shard(1), &["is not authentic under this key"])?;

    // Another shard's files.
    with_shard_of(&host, &host.shard(0), &["shard 0"])?;

    // A newer format.
    let wal = host.shard(1).join("wal");
    let set = set_version(&wal, VERSION, VERSION + 1)?;
    assert!(set >= 2, "two files of one pair at least");
    let error = host.refused()?;
    assert!(
        error.contains("shard 1")
            && error.contains("written by format 6, this build reads up to 5"),
        "{error}"
    );
    assert_eq!(set_version(&wal, VERSION + 1, VERSION)?, set);

    // Another key for the node as a whole.
    let kek = host.data().join("kek");
    let ours = fs::read(&kek)?;
    fs::copy(twin.data().join("kek"), &kek)?;
    let error = host.refused()?;
    assert!(error.contains("is not authentic under this key"), "{error}");
    fs::write(&kek, ours)?;

    // A newer directory.
    let identity = host.data().join("identity");
    let ours = fs::read_to_string(&identity)?;
    fs::write(&identity, ours.replace("clustor-data 1", "clustor-data 2"))?;
    let error = host.refused()?;
    assert!(error.contains("format 2 of data directories"), "{error}");
    fs::write(&identity, ours)?;

    assert!(litter.iter().all(|path| path.exists()));
    assert_eq!(host.live(1)?, [7, 7], "all is there again");
    assert!(litter.iter().all(|path| !path.exists()), "and tidied up");
    Ok(())
}
