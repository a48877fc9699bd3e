//! A shard's directory, changed as a fuzzer says, and recovered.

use std::sync::OnceLock;

use clustor_shards::buffer::{BLOCK_BYTES, BlockPool, Blocks};
use clustor_shards::disk::{BootDisk as _, DiskEvent, DiskOp, FileId, FileKind};
use clustor_shards::log::format::{Encoding, Suite};
use clustor_shards::log::options::{LEDGER_SLOTS_MIN, SEGMENT_BLOCKS_MIN};
use clustor_shards::log::{LogOptions, Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};

use super::edits::{Act, Edit, edits};
use super::reseal::Seals;
use crate::disk::{Crash, Fate, SimDisk};
use crate::log_life::shard::{FixedKey, IDENTITY};
use crate::log_life::{Boot, Shard};

/// Edits of one run.
const EDITS_MAX: usize = 64;
/// Micro-steps after which a log that opens counts as one that never will.
const STEPS_MAX: u32 = 1 << 16;
type BlockBytes = [u8; BLOCK_BYTES];

/// A shard that lived for a while, and how its log is made.
struct Base {
    options: LogOptions,
    shard: Shard,
}

/// Three pairs and an unfinished end, in every encoding: even numbers sealed, odd ones in clear.
fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let kinds = [Encoding::Binary, Encoding::Json].into_iter();
        let kinds = kinds.flat_map(|e| [Suite::ChaCha20Poly1305, Suite::None].map(|s| (e, s)));
        kinds
            .map(|(encoding, suite)| base(encoding, suite))
            .collect()
    })
}

fn base(encoding: Encoding, suite: Suite) -> Base {
    let mut options = LogOptions::for_segment_bytes(u64::from(SEGMENT_BLOCKS_MIN) * 4096);
    options.ledger_slots = LEDGER_SLOTS_MIN;
    options.format.log_encoding = encoding;
    options.format.ledger_encoding = encoding;
    options.format.sealing = suite;
    options.entry_body_bytes_max = options
        .entry_body_bytes_max
        .min(options.segment_entry_bytes_max());
    let mut shard = Shard::new(SimDisk::new(1), options);
    let lives = "a shard without faults lives";
    assert_eq!(shard.boot().expect(lives), Boot::Opening);
    shard.settle().expect(lives);
    let (a, b) = (PartitionId(1), PartitionId(2));
    shard.create(a);
    shard.create(b);
    for round in 0..14 {
        let term = Term(1 + round / 5);
        shard.append(a, term, 100, Mode::Strict);
        shard.append(b, term, 4500, Mode::Group);
        match round {
            3 => shard.vote(a, term, Some(NodeId(3))),
            6 => shard.truncate(b, term, LogIndex(5)),
            9 => assert!(shard.configure(a, term)),
            _ => {}
        }
        shard.turn().expect(lives);
        if round < 12 {
            shard.settle().expect(lives);
        }
    }
    for _ in 0..5 {
        shard.step().expect(lives);
    }
    shard.crash(Crash::Power, Fate::Landed);
    Base { options, shard }
}

/// Any file may be changed. Where nothing was sealed again, what comes back must be what was decided, up to some
/// place: damage invents nothing.
///
/// # Panics
/// If not, or if the log panics or never comes to rest.
pub fn segment_recovery(bytes: &[u8]) {
    run(bytes, |_| true, |edit| edit.reseal);
}

/// Only ledgers may be changed, and all that is changed in them is sealed again.
///
/// # Panics
/// If the log panics or never comes to rest.
pub fn ledger_replay(bytes: &[u8]) {
    run(bytes, |file| file.kind == FileKind::Ledger, |_| true);
}

fn run(bytes: &[u8], of: impl Fn(&FileId) -> bool, reseals: impl Fn(&Edit<'_>) -> bool) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let base = &bases()[usize::from(first & 3)];
    // Salts come from the seed: another than the base was made with.
    let mut shard = base.shard.fork(1_000 + u64::from(*first));
    let files: Vec<FileId> = shard.disk.file_names().into_iter().filter(of).collect();
    let mut forged = false;
    for edit in edits(bytes).take(EDITS_MAX) {
        let reseal = reseals(&edit);
        forged |= reseal;
        apply(&mut shard.disk, &files, &edit, reseal);
    }
    shard.damage = 2;
    let opens = if forged {
        recover_and_open(&mut shard.disk, base.options)
    } else {
        // The simulator's own checks: nothing invented, nothing vouched for that is not there.
        let boot = shard.boot().unwrap_or_else(|broken| panic!("{broken}"));
        boot == Boot::Opening && shard.settle().map_err(|broken| panic!("{broken}")).is_ok()
    };
    let _ = opens;
}

fn block_of(disk: &SimDisk, file: FileId, block: u8) -> u32 {
    let blocks = disk.file_blocks(file).unwrap_or(1);
    match block {
        0xf0.. => blocks - 1 - u32::from(0xff - block) % blocks,
        _ => u32::from(block) % blocks,
    }
}

fn read(disk: &mut SimDisk, file: FileId, block: u32) -> Option<BlockBytes> {
    let mut into = Blocks::from_heap(1);
    disk.read(file, block, &mut into).ok()?;
    Some(into.as_slice()[0].0)
}

fn apply(disk: &mut SimDisk, files: &[FileId], edit: &Edit<'_>, reseal: bool) {
    let nth = |nth: u8| files.get(usize::from(nth) % files.len().max(1)).copied();
    let Some(file) = nth(edit.file) else { return };
    let number = block_of(disk, file, edit.block);
    let copied = match edit.act {
        Act::Unreadable => {
            disk.make_unreadable(file, number, None);
            return;
        }
        Act::LoseFile => {
            disk.lose_file(file);
            return;
        }
        Act::Copy(from, block) => {
            let from = nth(from).unwrap_or(file);
            let block = block_of(disk, from, block);
            let Some(copied) = read(disk, from, block) else {
                return;
            };
            Some(copied)
        }
        _ => None,
    };
    let header = read(disk, file, 0);
    let Some((mut block, header)) = read(disk, file, number).zip(header) else {
        return;
    };
    let change = |content: &mut [u8]| {
        let at = usize::from(edit.offset) % content.len();
        match edit.act {
            Act::Flip(bits) => content[at] ^= bits.max(1),
            Act::Set(byte) => content[at] = byte,
            Act::Bytes(over) => {
                content[at..]
                    .iter_mut()
                    .zip(over)
                    .for_each(|(to, from)| *to = *from);
            }
            Act::Zero => content.fill(0),
            Act::Add(amount) => {
                let at = at.min(content.len() - 8);
                let field = content[at..].first_chunk_mut().expect("8 bytes are there");
                let number = u64::from_le_bytes(*field);
                *field = number.wrapping_add_signed(i64::from(amount)).to_le_bytes();
            }
            Act::Copy(..) | Act::Unreadable | Act::LoseFile => {
                if let Some(copied) = &copied {
                    content.copy_from_slice(&copied[..content.len()]);
                }
            }
        }
    };
    if reseal {
        Seals::of(&header, file.pair.get()).change(file, number, &mut block, change);
    } else {
        change(&mut block[..]);
    }
    disk.overwrite(file, number, &block);
}

/// What a forged directory must not do: make recovery panic, or a log that never comes to rest.
fn recover_and_open(disk: &mut SimDisk, options: LogOptions) -> bool {
    let pool = BlockPool::new(&[]);
    let Ok(recovery) = ShardLog::recover(disk, IDENTITY, options, &FixedKey, pool) else {
        return false;
    };
    let mut log = recovery.log;
    if log.quarantine().is_some() {
        return false;
    }
    let (mut ops, mut events) = (Vec::<DiskOp>::new(), Vec::<DiskEvent>::new());
    let mut retirement = Retirement::default();
    let (mut now, mut idle) = (Time(0), 0);
    for _ in 0..STEPS_MAX {
        log.poll(now, &mut ops);
        ops.drain(..).for_each(|op| disk.submit(op));
        if log.failure().is_some() || log.is_open() && log.is_settled() {
            return log.is_open();
        }
        if !disk.step() {
            now = now.plus_ms(500);
            idle += 1;
            assert!(idle < 64, "the log does not open");
        }
        disk.take_events(&mut events);
        for event in events.drain(..) {
            log.on_event(now, event, &mut retirement);
        }
    }
    panic!("the log never comes to rest");
}

/// Whether the writer that forges blocks knows the formats: every block of every file, in clear where it can
/// read it, is what it would have made of it.
#[must_use]
pub fn forger_agrees() -> bool {
    let mut agrees = true;
    for base in bases().iter().skip(1).step_by(2) {
        let mut disk = base.shard.disk.fork(2);
        for file in disk.file_names() {
            let Some(header) = read(&mut disk, file, 0).filter(|h| h.iter().any(|b| *b != 0))
            else {
                continue;
            };
            let seals = Seals::of(&header, file.pair.get());
            for number in 0..disk.file_blocks(file).unwrap_or(0) {
                let block = read(&mut disk, file, number).expect("nothing was damaged");
                let untouched = block.iter().all(|byte| *byte == 0);
                agrees &= untouched || seals.is_authentic(file, number, &block);
            }
        }
    }
    agrees
}
