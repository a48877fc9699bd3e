//! Rings in processes that are limited, killed, or panic. No libtest here: each case runs this binary again in a
//! role named by an environment variable, under limits set by the shell, and looks at what became of it.

mod ring_support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clustor_shards::buffer::{BLOCK_BYTES, BlockPool, Blocks, SizeClass};
use clustor_shards::disk::{DiskError, DiskEvent, DiskOp};
use clustor_shards::runtime::{Build, EXIT_PANIC, NodeOptions, ShardPlan, start};
use clustor_shards::turn::{Application, Inbox, Outbox};
use clustor_shards::uring::{RingError, ShardRing, WriterChoice, WriterMode};
use clustor_wire::ids::ShardId;
use ring_support::{carried, chain, directory, filled, prepare, until};

const ROLE: &str = "CLUSTOR_RING_TEST_ROLE";
const PLACE: &str = "CLUSTOR_RING_TEST_DIRECTORY";
/// The user that nobody is: without root's right to lock memory.
const NOBODY: u32 = 65_534;

/// Blocks of a file that the limited child may write: 16, in the shell's units of 512 bytes.
const FILE_LIMIT: &str = "trap '' XFSZ; ulimit -f 128; exec \"$0\"";
/// Enough for rings, not for the pool. Kibibytes.
const MEMLOCK_LIMIT: &str = "ulimit -l 256; exec \"$0\"";

type Case = (&'static str, fn());

const CASES: [Case; 8] = [
    (
        "a_failed_or_short_log_write_keeps_the_ledger_untouched",
        a_failed_or_short_log_write_keeps_the_ledger_untouched,
    ),
    (
        "a_killed_process_frees_its_directory_when_its_writes_have_landed",
        a_killed_process_frees_its_directory_when_its_writes_have_landed,
    ),
    (
        "a_blocking_writer_stops_at_its_first_short_write",
        a_blocking_writer_stops_at_its_first_short_write,
    ),
    (
        "a_killed_process_with_a_blocking_writer_frees_its_directory_too",
        a_killed_process_with_a_blocking_writer_frees_its_directory_too,
    ),
    (
        "too_little_lockable_memory_is_said_and_worked_with",
        too_little_lockable_memory_is_said_and_worked_with,
    ),
    (
        "a_panic_in_a_turn_ends_the_process_with_a_report",
        a_panic_in_a_turn_ends_the_process_with_a_report,
    ),
    (
        "a_panic_at_boot_ends_the_process_while_other_shards_wait",
        a_panic_at_boot_ends_the_process_while_other_shards_wait,
    ),
    (
        "whoever_is_interrupted_all_the_time_sleeps_no_longer_than_asked",
        whoever_is_interrupted_all_the_time_sleeps_no_longer_than_asked,
    ),
];

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        let place = PathBuf::from(std::env::var(PLACE).expect("a role has a directory"));
        match role.as_str() {
            "limited" => limited(&place),
            "limited-blocking" => limited_blocking(&place),
            "writing" => writing(&place, WriterChoice::Auto),
            "writing-blocking" => writing(&place, WriterChoice::Blocking),
            "poor" => poor(&place),
            "panicking" => panicking(&place),
            "panicking-at-boot" => panicking_at_boot(&place),
            "sleeping" => sleeping(&place),
            other => panic!("no such role: {other}"),
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, case) in CASES {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            case();
            writeln!(std::io::stdout(), "test {name} ... ok").expect("standard output takes it");
        }
    }
    ExitCode::SUCCESS
}

/// This binary again, in a role, through the shell line given.
fn again(role: &str, place: &Path, shell: &str) -> Command {
    let me = std::env::current_exe().expect("a test has a binary");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(shell)
        .arg(me)
        .env(ROLE, role)
        .env(PLACE, place);
    command
}

fn a_failed_or_short_log_write_keeps_the_ledger_untouched() {
    let dir = directory();
    {
        let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
        prepare(&mut ring, 1, 64, 8);
    }
    let status = again("limited", dir.path(), FILE_LIMIT)
        .status()
        .expect("the shell runs");
    assert!(status.success(), "the child's own checks: {status}");
    let ledger = fs::read(dir.path().join("wal/durability-1.log")).expect("it is there");
    let first_bytes: Vec<u8> = ledger.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(
        first_bytes,
        [0xB0, 0, 0, 0xB3, 0, 0, 0, 0],
        "the kernel began no step behind a failed one"
    );
    let segment = fs::read(dir.path().join("wal/segment-1.log")).expect("it is there");
    assert_eq!(
        segment[14 * BLOCK_BYTES],
        0xA1,
        "the short write wrote something"
    );
    assert_eq!(segment[16 * BLOCK_BYTES], 0, "up to the limit");
}

fn a_blocking_writer_stops_at_its_first_short_write() {
    let dir = directory();
    {
        let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
        prepare(&mut ring, 1, 64, 8);
    }
    let status = again("limited-blocking", dir.path(), FILE_LIMIT)
        .status()
        .expect("the shell runs");
    assert!(status.success(), "the child's own checks: {status}");
    let ledger = fs::read(dir.path().join("wal/durability-1.log")).expect("it is there");
    let first_bytes: Vec<u8> = ledger.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(
        first_bytes,
        [0xB0, 0, 0, 0, 0, 0, 0, 0],
        "no step was begun behind a failed one, in its own chain or in a later one"
    );
}

/// The same four chains, by the helper thread: it carries out nothing behind an error.
fn limited_blocking(place: &Path) {
    let mut ring = ShardRing::open_with(place, WriterChoice::Blocking).expect("the ring opens");
    assert_eq!(ring.writer_mode(), WriterMode::Blocking);
    let outcomes = four_chains(&mut ring);
    let short = DiskError::Short {
        done: 2 * 4096,
        asked: 4 * 4096,
    };
    assert_eq!(outcomes[0], Some(Ok(())));
    assert_eq!(outcomes[1], Some(Err(short)));
    assert_eq!(outcomes[2], Some(Err(DiskError::Cancelled)));
    assert_eq!(outcomes[3], Some(Err(DiskError::Cancelled)));
}

fn limited(place: &Path) {
    let mut ring = ShardRing::open(place).expect("the ring opens");
    let outcomes = four_chains(&mut ring);
    assert_eq!(outcomes[0], Some(Ok(())));
    assert_eq!(
        outcomes[1],
        Some(Err(DiskError::Short {
            done: 2 * 4096,
            asked: 4 * 4096
        }))
    );
    match &outcomes[2] {
        Some(Err(DiskError::Io(text))) => {
            assert!(
                text.contains("writing segment-1.log"),
                "step and file: {text}"
            );
        }
        other => panic!("beyond the limit nothing is written: {other:?}"),
    }
    assert_eq!(outcomes[3], Some(Ok(())));
}

/// Four chains at once: one good, one whose log write is cut short, one whose log write fails, one good.
fn four_chains(ring: &mut ShardRing) -> [Option<Result<(), DiskError>>; 4] {
    for (number, (block, blocks)) in (0u8..).zip([(0u32, 2usize), (14, 4), (20, 1), (4, 2)]) {
        let log = filled(Blocks::from_heap(blocks), 0xA0 + number);
        let ledger = filled(Blocks::from_heap(1), 0xB0 + number);
        let op = chain(u64::from(number), 1, block, log, u32::from(number), ledger);
        ring.start(DiskOp::Chain(op))
            .expect("the ring takes submissions");
    }
    let mut events = Vec::new();
    until(ring, &mut events, |events| events.len() == 4);
    let mut outcomes = [const { None }; 4];
    for event in events {
        let DiskEvent::Chain {
            chain,
            outcome,
            log,
            ..
        } = event
        else {
            panic!("only chains were asked for: {event:?}");
        };
        assert!(!log.is_empty(), "the buffers come back");
        let number = usize::try_from(chain.get()).expect("small");
        assert!(
            outcomes[number].replace(outcome).is_none(),
            "one event for each"
        );
    }
    outcomes
}

/// A child that is killed when this is dropped, whatever became of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_killed_process_frees_its_directory_when_its_writes_have_landed() {
    kill_while("writing");
}

fn a_killed_process_with_a_blocking_writer_frees_its_directory_too() {
    kill_while("writing-blocking");
}

fn kill_while(role: &str) {
    let dir = directory();
    let mut child = Killed(
        again(role, dir.path(), "exec \"$0\"")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell runs"),
    );
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("the child speaks");
    assert_eq!(line, "writing\n");
    match ShardRing::open(dir.path()) {
        Err(RingError::Locked { holder, .. }) => {
            assert_eq!(holder, format!("process {}", child.0.id()));
        }
        other => panic!("it is refused: {other:?}"),
    }
    child.0.kill().expect("killed");
    let begun = Instant::now();
    let _ring = ShardRing::open(dir.path()).expect("free within the wait");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let status = child.0.wait().expect("waited for");
    assert_eq!(status.signal(), Some(9));
    // Nothing of the dead process's lands any more.
    let read = || fs::read(dir.path().join("wal/segment-1.log")).expect("it is there");
    let then = read();
    std::thread::sleep(Duration::from_millis(200));
    assert!(then == read(), "a late write landed behind the lock");
}

/// Keeps eight chains in flight until it is killed.
fn writing(place: &Path, choice: WriterChoice) {
    let mut ring = ShardRing::open_with(place, choice).expect("the ring opens");
    prepare(&mut ring, 1, 1_024, 1_024);
    let mut events = Vec::new();
    for number in 0u64.. {
        let at = u32::try_from(number % 1_024).expect("small");
        let fill = u8::try_from(number % 251).expect("small");
        let run = || filled(Blocks::from_heap(1), fill);
        ring.start(DiskOp::Chain(chain(number, 1, at, run(), at, run())))
            .expect("the ring takes submissions");
        if number == 8 {
            writeln!(std::io::stdout(), "writing").expect("standard output takes it");
        }
        if number >= 8 {
            ring.wait().expect("the ring waits");
            ring.drain(&mut events).expect("the ring drains");
            events.clear();
        }
    }
}

fn too_little_lockable_memory_is_said_and_worked_with() {
    let dir = directory();
    let mut command = again("poor", dir.path(), MEMLOCK_LIMIT);
    if fs::metadata(dir.path()).expect("it is there").uid() == 0 {
        // Root may lock what it likes.
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().expect("the shell runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("RegisteredUring"),
        "what was downgraded: {said}"
    );
    assert!(said.contains("ulimit -l"), "and the remedy: {said}");
    assert!(said.contains("256 KiB"), "and the limit: {said}");
}

fn poor(place: &Path) {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut ring = ShardRing::open(place).expect("the ring opens");
    let mut pool = BlockPool::new(&[SizeClass {
        blocks: 16,
        runs: 64,
    }]);
    assert_eq!(ring.register_pool(&mut pool), WriterMode::RegisteredUring);
    prepare(&mut ring, 1, 16, 4);
    let op = chain(1, 1, 0, filled(pool.take(2), 1), 0, filled(pool.take(1), 2));
    let events = carried(&mut ring, DiskOp::Chain(op));
    assert!(
        matches!(
            &events[0],
            DiskEvent::Chain {
                outcome: Ok(()),
                ..
            }
        ),
        "{events:?}"
    );
}

/// What a process of this role says, which ends by a panic of shard 1.
fn last_words(role: &str) -> String {
    let dir = directory();
    let mut child = Killed(
        again(role, dir.path(), "exec \"$0\"")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the shell runs"),
    );
    let mut said = String::new();
    child
        .0
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut said)
        .expect("the child speaks");
    let status = child.0.wait().expect("waited for");
    assert_eq!(status.code(), Some(EXIT_PANIC), "{said}");
    assert!(said.contains("shard 1 panicked at"), "which shard: {said}");
    said
}

fn a_panic_at_boot_ends_the_process_while_other_shards_wait() {
    let said = last_words("panicking-at-boot");
    assert!(said.contains("no way to boot"), "why: {said}");
    assert!(!said.contains("shard 0 began"), "none may write: {said}");
}

fn panicking_at_boot(place: &Path) {
    let waits: Build<Panics, String> = Box::new(|boot| {
        *boot.on_begin = Some(Box::new(|| panic!("shard 0 began")));
        Ok(Panics)
    });
    let panics: Build<Panics, String> = Box::new(|_| panic!("no way to boot"));
    let plans = vec![plan(place, 0, waits), plan(place, 1, panics)];
    let node = start(&NodeOptions::default(), plans);
    panic!("the process has ended: {node:?}");
}

fn a_panic_in_a_turn_ends_the_process_with_a_report() {
    let said = last_words("panicking");
    assert!(said.contains("uring_processes.rs:"), "where: {said}");
    assert!(said.contains("the answer was 41"), "why: {said}");
    assert!(said.contains("RUST_BACKTRACE=1"), "what to do: {said}");
}

struct Panics;

impl Application for Panics {
    type Request = u32;
    type Reply = ();
    type Mesh = ();

    fn turn(&mut self, inbox: &mut Inbox<u32, ()>, outbox: &mut Outbox<(), ()>) {
        // How full the disk is.
        inbox.disk.clear();
        for request in inbox.requests.drain(..) {
            assert_eq!(request, 42, "the answer was {request}");
        }
        outbox.stopped = inbox.stopping;
    }
}

fn plan(place: &Path, shard: u16, build: Build<Panics, String>) -> ShardPlan<Panics, String> {
    ShardPlan {
        directory: place.join(format!("shard-{shard}")),
        writer: WriterChoice::Auto,
        pool: Vec::new(),
        build,
        deliver: Box::new(|()| ()),
    }
}

fn panicking(place: &Path) {
    let plans = [0, 1].map(|shard| plan(place, shard, Box::new(|_| Ok(Panics))));
    let node = start(&NodeOptions::default(), plans.into()).expect("it starts");
    for (shard, request) in [(0, 42), (1, 41)] {
        node.submitter(ShardId(shard))
            .try_submit(request)
            .expect("there is room");
    }
    // The process ends before this does; that it does not is a failure of its own.
    std::thread::sleep(Duration::from_secs(20));
}

/// More interruptions than an enter may be refused in a row. Succeeds if the process is gone before the last.
const INTERRUPTS: &str = "i=0; while [ $i -lt 1500 ]; do kill -STOP $0 2>/dev/null || exit 0; kill -CONT $0; sleep 0.002; i=$((i + 1)); done; exit 1";

fn whoever_is_interrupted_all_the_time_sleeps_no_longer_than_asked() {
    let dir = directory();
    let mut child = again("sleeping", dir.path(), "exec \"$0\"")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the shell runs");
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    said.read_line(&mut String::new()).expect("it sleeps");
    let mut interrupts = Command::new("sh");
    interrupts.args(["-c", INTERRUPTS, &child.id().to_string()]);
    let mut interrupts = interrupts.spawn().expect("the shell runs");
    let status = child.wait().expect("it ends");
    let interrupts = interrupts.wait().expect("it ends");
    assert!(status.success(), "the child's own checks: {status}");
    assert!(
        interrupts.success(),
        "the time came while it was interrupted: {interrupts}"
    );
}

fn sleeping(place: &Path) {
    const TIME: Duration = Duration::from_millis(500);
    let mut ring = ShardRing::open(place).expect("the ring opens");
    writeln!(std::io::stdout(), "sleeping").expect("the parent reads");
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        ring.sleep(TIME.saturating_sub(begun.elapsed()))
            .expect("a signal is no failure");
    }
}
