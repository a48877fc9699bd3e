//! A disk that is really full, one that is too small, and one that may not be written to.
//!
//! The first two want a file system of their own: an image in a loop device, which only root can mount. Whoever runs
//! this as an ordinary user is told so, and can name an empty directory on a small file system instead.

// What a test could not try it says; cargo shows that with `--nocapture`.
#![expect(clippy::print_stderr)]

mod support;

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clustor_engine::engine::{Engine, EngineError, PartitionHandle};
use clustor_engine::outcome::{AppendError, RefusalClause};
use clustor_engine::profile::Profile;
use clustor_shards::host::{Claim, DataDir, WithoutLog};
use support::{Lines, PATIENCE, small};

type Done = Result<(), Box<dyn Error>>;

/// An empty directory on a file system of 64 to 256 MiB, for whoever can't mount one.
const SMALL_DISK: &str = "CLUSTOR_TEST_SMALL_DISK";
const DISK_BYTES: u64 = 96 << 20;
/// How long a full disk may take to be noticed, or room.
const NOTICE: Duration = Duration::from_secs(60);

/// A small file system, gone with this value.
struct SmallDisk {
    at: PathBuf,
    mounted: bool,
    _image: Option<tempfile::TempDir>,
    /// One directory, one test at a time.
    _turn: Option<MutexGuard<'static, ()>>,
}

static TURN: Mutex<()> = Mutex::new(());

impl SmallDisk {
    /// `None`, out loud, where there can be none.
    fn new() -> Result<Option<Self>, Box<dyn Error>> {
        if let Some(at) = std::env::var_os(SMALL_DISK) {
            return Ok(Some(Self {
                at: at.into(),
                mounted: false,
                _image: None,
                _turn: Some(TURN.lock().unwrap_or_else(PoisonError::into_inner)),
            }));
        }
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        if fs::metadata(temp.path())?.uid() != 0 {
            eprintln!(
                "not tried on a full disk: only root can mount one; run this as root, or set {SMALL_DISK} to an empty directory on a file system of 64 to 256 MiB"
            );
            return Ok(None);
        }
        let (image, at) = (temp.path().join("image"), temp.path().join("disk"));
        File::create(&image)?.set_len(DISK_BYTES)?;
        fs::create_dir(&at)?;
        // No blocks are kept for root, who runs this.
        let options = ["-q", "-F", "-m", "0"].map(AsRef::as_ref);
        let made = run("mkfs.ext4", options.into_iter().chain([image.as_os_str()]));
        let arguments = [
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
            at.as_os_str(),
        ];
        // Root in a container may have no right to mount.
        if let Err(error) = made.and_then(|()| run("mount", arguments)) {
            eprintln!(
                "not tried on a full disk: {error}; set {SMALL_DISK} to an empty directory on a file system of 64 to 256 MiB"
            );
            return Ok(None);
        }
        Ok(Some(Self {
            at,
            mounted: true,
            _image: Some(temp),
            _turn: None,
        }))
    }

    /// Leaves `left` bytes free.
    fn fill(&self, left: u64) -> Result<File, Box<dyn Error>> {
        let filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.at.join("filler"))?;
        let (mut size, piece) = (filler.metadata()?.len(), vec![0x5a; 256 << 10]);
        while clustor_shards::sys::free_bytes(&self.at)? > left + piece.len() as u64 {
            std::io::Write::write_all(&mut &filler, &piece)?;
            size += piece.len() as u64;
        }
        // To the last block.
        let block = vec![0x5a; 4096];
        while left == 0 && std::io::Write::write_all(&mut &filler, &block).is_ok() {
            size += block.len() as u64;
        }
        filler.sync_all()?;
        assert!(size <= filler.metadata()?.len());
        Ok(filler)
    }

    fn free(&self) -> Done {
        Ok(fs::remove_file(self.at.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that fails leaves an engine that still uses it.
            let arguments = ["-l".as_ref(), self.at.as_os_str()];
            if let Err(error) = run("umount", arguments) {
                eprintln!("left mounted: {}: {error}", self.at.display());
            }
        } else {
            fs::remove_file(self.at.join("filler")).ok();
            fs::remove_dir_all(self.at.join("data")).ok();
        }
    }
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Done {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {}: {said}", output.status).into())
}

/// A profile with the thresholds that the shipped ones have.
fn careful() -> Profile {
    let shipped = Profile::latency();
    let mut profile = small();
    profile.disk_soft_percent = shipped.disk_soft_percent;
    profile.disk_hard_percent = shipped.disk_hard_percent;
    profile
}

fn start(at: &Path, profile: Profile) -> Result<(Engine, PartitionHandle<Lines>), Box<dyn Error>> {
    let engine = Engine::builder(at.join("data"))
        .profile(profile)
        .partition(1, |_| Lines::default())
        .start()?;
    let lines = engine.partition::<Lines>(1)?;
    Ok((engine, lines))
}

/// Appends long lines until one is refused; what was acknowledged goes to `there`.
fn append_until_refused(
    lines: &PartitionHandle<Lines>,
    there: &mut Vec<String>,
) -> Result<AppendError, Box<dyn Error>> {
    let until = Instant::now() + NOTICE;
    while Instant::now() < until {
        let line = format!("{:>40000}", there.len());
        match lines.append_blocking(line.as_str()) {
            Ok(_) => there.push(line),
            Err(error) => return Ok(error),
        }
    }
    Err("nothing was refused".into())
}

fn append_until_taken(lines: &PartitionHandle<Lines>, there: &mut Vec<String>) -> Done {
    let until = Instant::now() + NOTICE;
    loop {
        let line = format!("after {}", there.len());
        match lines.append_blocking(line.as_str()) {
            Ok(_) => {
                there.push(line);
                return Ok(());
            }
            Err(AppendError::NotExecuted { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_for_trouble(lines: &PartitionHandle<Lines>, what: &str) -> Done {
    let until = Instant::now() + NOTICE;
    loop {
        let trouble = lines.status_blocking()?.trouble;
        if trouble.contains(what) {
            return Ok(());
        }
        assert!(
            Instant::now() < until,
            "the trouble is {trouble:?}, not {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn refused_as_full(error: &AppendError) {
    let AppendError::NotExecuted { refusal } = error else {
        panic!("a full disk refuses before anything is written: {error}");
    };
    assert_eq!(refusal.clause, RefusalClause::DiskFull, "{refusal:?}");
    assert!(error.to_string().contains("free space"), "{error}");
}

#[test]
fn a_full_disk_refuses_reads_on_and_takes_appends_again_when_there_is_room() -> Done {
    let Some(disk) = SmallDisk::new()? else {
        return Ok(());
    };
    let mut there = Vec::new();
    let (engine, lines) = start(&disk.at, small())?;
    append_until_taken(&lines, &mut there)?;
    for round in 0..2 {
        disk.fill(1 << 20)?;
        refused_as_full(&append_until_refused(&lines, &mut there)?);
        assert!(
            lines.read_blocking(|lines| lines.0.clone())? == there,
            "reads go on"
        );
        let trouble = lines.status_blocking()?.trouble;
        assert!(
            trouble.contains("the disk is 100% used") || trouble.contains("no space left"),
            "round {round}: {trouble}"
        );
        disk.free()?;
        append_until_taken(&lines, &mut there)?;
    }
    disk.fill(1 << 20)?;
    refused_as_full(&append_until_refused(&lines, &mut there)?);
    engine.shutdown(PATIENCE)?;
    drop(lines);
    // A start on the full disk waits for room, and says so.
    disk.fill(0)?;
    let (engine, lines) = start(&disk.at, small())?;
    wait_for_trouble(&lines, "can't start without it")?;
    let Err(error) = lines.append_blocking("early") else {
        panic!("a log that is not open takes nothing");
    };
    assert!(error.to_string().contains("free space"), "{error}");
    disk.free()?;
    append_until_taken(&lines, &mut there)?;
    assert!(
        lines.read_blocking(|lines| lines.0.clone())? == there,
        "nothing is lost, nothing twice"
    );
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn past_the_hard_threshold_appends_are_refused_and_a_restart_still_has_room() -> Done {
    let Some(disk) = SmallDisk::new()? else {
        return Ok(());
    };
    let mut there = Vec::new();
    let (engine, lines) = start(&disk.at, careful())?;
    append_until_taken(&lines, &mut there)?;
    let room = clustor_shards::sys::free_bytes(&disk.at)?;
    disk.fill(room / 12)?;
    wait_for_trouble(&lines, "disk_hard_percent = 90")?;
    refused_as_full(&append_until_refused(&lines, &mut there)?);
    engine.shutdown(PATIENCE)?;
    drop(lines);
    let (engine, lines) = start(&disk.at, careful())?;
    assert!(
        lines.read_blocking(|lines| lines.0.clone())? == there,
        "it reads again, still full"
    );
    refused_as_full(&append_until_refused(&lines, &mut there)?);
    disk.free()?;
    append_until_taken(&lines, &mut there)?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

fn refused(at: &Path, profile: Profile) -> EngineError {
    match start(at, profile) {
        Ok(_) => panic!("it started"),
        Err(error) => *error
            .downcast::<EngineError>()
            .expect("a start fails with the engine's error"),
    }
}

fn holds_nothing(at: &Path) -> Result<bool, Box<dyn Error>> {
    let mut entries = fs::read_dir(at)?.filter_map(Result::ok);
    Ok(entries.all(|entry| entry.file_name() == "lost+found"))
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_written() -> Done {
    let temp = tempfile::tempdir()?;
    // A small disk of one's own, or greater segments than the disk at hand has room for.
    let mut profile = Profile::latency().with_segment_bytes(4 << 30);
    let room = clustor_shards::sys::free_bytes(temp.path())?;
    let mut at = temp.path().to_owned();
    let disk = SmallDisk::new()?;
    if let Some(disk) = &disk {
        profile = Profile::latency();
        at.clone_from(&disk.at);
    } else if room > 2 * profile.log_options(0).first_pair_bytes() {
        eprintln!("not tried on a disk that is too small: this one has room for anything");
        return Ok(());
    }
    let error = refused(&at, profile.clone());
    assert!(matches!(error, EngineError::TooSmall { .. }), "{error:?}");
    assert!(error.to_string().contains("segment_bytes"), "{error}");
    assert!(holds_nothing(&at)?);
    // As little room is there for a start after one that ended when it had written whose the directory is, and made no log.
    let data = at.join("data");
    drop(DataDir::open(&data, Claim::Alone)?);
    let wal = data.join("shard-0/wal");
    fs::create_dir_all(&wal)?;
    fs::write(wal.join("segment-1.log.new"), [0; 1 << 16])?;
    let error = refused(&at, profile);
    assert!(matches!(error, EngineError::TooSmall { .. }), "{error:?}");
    assert!(
        wal.join("segment-1.log.new").exists(),
        "nothing was touched"
    );
    fs::remove_dir_all(&data)?;
    Ok(())
}

#[test]
fn what_a_start_that_ended_in_between_has_taken_counts_as_room() -> Done {
    let temp = tempfile::tempdir()?;
    let none = |shards, begun_bytes| WithoutLog {
        shards,
        begun_bytes,
    };
    assert_eq!(DataDir::without_log(temp.path(), 2)?, none(2, 0));
    let wal = temp.path().join("shard-1/wal");
    fs::create_dir_all(&wal)?;
    let begun = wal.join("segment-1.log.new");
    fs::write(&begun, [1; 1 << 16])?;
    File::open(&begun)?.sync_all()?;
    let without = DataDir::without_log(temp.path(), 2)?;
    assert_eq!(without.shards, 2);
    assert!(without.begun_bytes >= 1 << 16, "{without:?}");
    fs::rename(&begun, wal.join("segment-1.log"))?;
    assert_eq!(DataDir::without_log(temp.path(), 2)?, none(1, 0));
    Ok(())
}

#[test]
fn a_directory_that_may_not_be_written_to_is_refused_with_a_reason() -> Done {
    let temp = tempfile::tempdir()?;
    if fs::metadata(temp.path())?.uid() != 0 {
        fs::set_permissions(temp.path(), Permissions::from_mode(0o555))?;
        let error = refused(temp.path(), small());
        assert!(matches!(error, EngineError::Directory(_)), "{error:?}");
        assert!(error.to_string().contains("let the node's user"), "{error}");
        fs::set_permissions(temp.path(), Permissions::from_mode(0o755))?;
        return Ok(());
    }
    // Root may write anywhere but to what is mounted read-only.
    let disk = SmallDisk::new()?;
    let Some(disk) = disk.filter(|disk| disk.mounted) else {
        eprintln!(
            "not tried on a read-only file system: {SMALL_DISK} is not this test's to mount again"
        );
        return Ok(());
    };
    let remount = |how: &'static str| {
        let until = Instant::now() + PATIENCE;
        loop {
            let arguments = ["-o".as_ref(), how.as_ref(), disk.at.as_os_str()];
            match run("mount", arguments) {
                // The kernel takes its time to close what a ring held.
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                done => return done,
            }
        }
    };
    remount("remount,ro")?;
    let error = refused(&disk.at, small());
    assert!(matches!(error, EngineError::Host(_)), "{error:?}");
    assert!(error.to_string().contains("mount it rw"), "{error}");
    remount("remount,rw")?;
    assert!(holds_nothing(&disk.at)?);
    // A directory with a log in it, too.
    let (engine, lines) = start(&disk.at, small())?;
    let mut there = Vec::new();
    append_until_taken(&lines, &mut there)?;
    engine.shutdown(PATIENCE)?;
    drop(lines);
    remount("remount,ro")?;
    let error = refused(&disk.at, small());
    assert!(error.to_string().contains("mount it rw"), "{error}");
    remount("remount,rw")?;
    let (engine, lines) = start(&disk.at, small())?;
    assert!(lines.read_blocking(|lines| lines.0.clone())? == there);
    engine.shutdown(PATIENCE)?;
    Ok(())
}
