//! A stopped shard's log scrubbed on several threads, for offline tools.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use clustor_wire::ids::PairNumber;

use crate::log::audit::{Audit, AuditReport, Checked, Checker, Piece};
use crate::log::{KeyProvider, LogIdentity, RecoverError};

use super::offline::OfflineDisk;

/// How far a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The pair that is read, oldest first.
    pub pair: PairNumber,
    /// How many pairs come before it, and how many there are in all.
    pub pairs: (usize, usize),
    /// What of it is read: first the ledger, then the extents that this proves.
    pub what: &'static str,
    /// Bytes of it that are checked.
    pub done: u64,
    /// Bytes of it in all.
    pub total: u64,
}

/// Reads and verifies everything that counts in a shard's log, on `threads` threads (at least one), and judges it as a start
/// would. `tell` hears of every piece that is checked.
///
/// It takes as much memory as a start on the log does, and besides for some hundred bytes of each ledger slot of one pair, and for 4 MiB a
/// thread.
///
/// # Errors
/// [`RecoverError`]: the log is another's, or its key or format is not what was given; or it can't be read.
///
/// # Panics
/// If there are no threads.
pub fn scrub_offline(
    disk: &mut OfflineDisk,
    identity: LogIdentity,
    keys: &dyn KeyProvider,
    threads: usize,
    tell: &mut dyn FnMut(ScrubProgress),
) -> Result<AuditReport, RecoverError> {
    assert!(threads > 0, "somebody has to verify");
    let mut audit = Audit::begin(disk, identity, keys)?;
    let start = audit.start();
    thread::scope(|scope| {
        let mut own = disk.clone();
        let started = scope.spawn(move || start.try_on(&mut own));
        audit_pairs(&mut audit, disk, threads, tell)?;
        let started = started
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(audit.finish(started))
    })
}

fn audit_pairs(
    audit: &mut Audit,
    disk: &mut OfflineDisk,
    threads: usize,
    tell: &mut dyn FnMut(ScrubProgress),
) -> Result<(), RecoverError> {
    let count = audit.pair_count();
    let mut before = 0;
    while let Some(pair) = audit.next_pair() {
        for what in [LEDGER, EXTENTS] {
            let pieces = match what {
                LEDGER => audit.ledger_pieces(),
                _ => audit.extent_pieces(),
            };
            let begun = ScrubProgress {
                pair,
                pairs: (before, count),
                what,
                done: 0,
                total: pieces.iter().map(Piece::bytes).sum(),
            };
            for checked in check_all(audit, disk, &pieces, threads, (begun, &mut *tell))? {
                audit.take(checked);
            }
        }
        audit.judge(disk)?;
        before += 1;
    }
    Ok(())
}

const LEDGER: &str = "ledger";
const EXTENTS: &str = "extents";

/// Checks the pieces; each thread takes the next one when it is done with one.
fn check_all(
    audit: &Audit,
    disk: &OfflineDisk,
    pieces: &[Piece],
    threads: usize,
    (mut progress, tell): (ScrubProgress, &mut dyn FnMut(ScrubProgress)),
) -> Result<Vec<Checked>, RecoverError> {
    let next = AtomicUsize::new(0);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.min(pieces.len()) {
            let done = done.clone();
            let next = &next;
            scope.spawn(move || {
                let mut disk = disk.clone();
                let mut checker = Checker::new(audit, &mut disk);
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checked = checker.check(piece);
                    if done.send((piece.bytes(), checked)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        // Gone with the first error, and the threads with it.
        let results = results;
        results
            .iter()
            .map(|(bytes, checked)| {
                progress.done += bytes;
                tell(progress);
                checked
            })
            .collect()
    })
}
