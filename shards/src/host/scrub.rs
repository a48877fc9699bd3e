//! A stopped shard's log scrubbed on several threads, for offline tools.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::log::audit::{Audit, AuditReport, Checked, Checker, Piece};
use crate::log::{KeyProvider, LogIdentity, RecoverError};

use super::offline::OfflineDisk;

/// How far a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubProgress {
    /// What is read: first the ledgers, then the extents that they prove.
    pub what: &'static str,
    /// Bytes of it that are checked.
    pub done: u64,
    /// Bytes of it in all.
    pub total: u64,
}

/// Reads and verifies everything that counts in a shard's log, on `threads` threads (at least one), and judges it as a start
/// would. `tell` hears of every piece that is checked.
///
/// # Errors
/// [`RecoverError`]: the log is another's, or its key or format is not what was given.
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
    let pieces = audit.ledger_pieces();
    for checked in check_all(&audit, disk, &pieces, threads, ("ledgers", tell)) {
        audit.take(checked);
    }
    let pieces = audit.extent_pieces();
    for checked in check_all(&audit, disk, &pieces, threads, ("extents", tell)) {
        audit.take(checked);
    }
    audit.finish(disk, keys)
}

/// Checks the pieces; each thread takes the next one when it is done with one.
fn check_all(
    audit: &Audit,
    disk: &OfflineDisk,
    pieces: &[Piece],
    threads: usize,
    (what, tell): (&'static str, &mut dyn FnMut(ScrubProgress)),
) -> Vec<Checked> {
    let mut progress = ScrubProgress {
        what,
        done: 0,
        total: pieces.iter().map(Piece::bytes).sum(),
    };
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
