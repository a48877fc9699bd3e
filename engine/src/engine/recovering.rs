//! Watching a recovery: how much of the log it has read, said from time to time, and left behind as the boot's record.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{BootDisk, DiskError, FileId, FoundPair};
use clustor_shards::host::{BootRecord, RecoveryWork};
use clustor_shards::log::{LogIdentity, RecoveryReport};
use clustor_shards::runtime::OnBegin;
use clustor_wire::ids::ShardId;

use crate::shard_core::ShardCore;

/// Incidents that a start tells the process's log, at most; the boot's record has more of them.
const INCIDENTS_TOLD_MAX: usize = 16;

/// How often a long recovery says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// A shard's disk during its recovery, counting.
pub(super) struct Watched<'a> {
    disk: &'a mut dyn BootDisk,
    shard: ShardId,
    begun: Instant,
    said: Instant,
    work: RecoveryWork,
}

impl<'a> Watched<'a> {
    pub fn new(shard: ShardId, disk: &'a mut dyn BootDisk) -> Self {
        let begun = Instant::now();
        Self {
            disk,
            shard,
            begun,
            said: begun,
            work: RecoveryWork::default(),
        }
    }

    /// What it has taken so far.
    pub fn work(&self) -> RecoveryWork {
        let took = self.begun.elapsed().as_millis();
        RecoveryWork {
            duration_ms: u64::try_from(took).unwrap_or(u64::MAX),
            ..self.work
        }
    }

    fn tell(&mut self) {
        if self.said.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.said = Instant::now();
        let work = self.work();
        tracing::info!(
            shard = %self.shard,
            read_mib = work.read_bytes >> 20,
            of_mib = work.found_bytes >> 20,
            seconds = work.duration_ms / 1_000,
            "recovering: the log is being read"
        );
    }
}

impl BootDisk for Watched<'_> {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        let pairs = self.disk.pairs()?;
        let bytes = |pair: &FoundPair| {
            pair.segment_bytes
                .unwrap_or(0)
                .saturating_add(pair.ledger_bytes.unwrap_or(0))
        };
        self.work.found_pairs = pairs.len();
        self.work.found_bytes = pairs.iter().map(bytes).fold(0, u64::saturating_add);
        Ok(pairs)
    }

    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        let outcome = self.disk.read(file, block, into);
        self.work.read_bytes += into.byte_len() as u64;
        self.tell();
        outcome
    }

    fn is_written(&mut self, file: FileId) -> bool {
        self.disk.is_written(file)
    }

    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError> {
        self.disk.keep(blocks, count)
    }
}

/// Tells the process's log what the recovery of a shard found wrong, if anything.
pub(super) fn tell_found(core: &ShardCore, report: &RecoveryReport) {
    let shard = core.shard();
    for incident in report.incidents.iter().take(INCIDENTS_TOLD_MAX) {
        tracing::warn!(%shard, %incident, "found by the start");
    }
    let more = report.incidents.len().saturating_sub(INCIDENTS_TOLD_MAX);
    if more > 0 {
        tracing::warn!(%shard, more, "found by the start, too; boot_record.json says more");
    }
    if report.missing > 0 {
        tracing::warn!(%shard, missing = report.missing, "content of entries is missing: other replicas are asked for it");
    }
    if let Some(quarantine) = core.log().quarantine() {
        tracing::error!(%shard, %quarantine, "quarantined: the replicas of this shard stay silent");
    }
}

/// The boot's record, to be left in the shard's directory when anything may be written there. One that can't be written is
/// no reason not to start.
pub(super) fn record_to_leave(
    directory: PathBuf,
    identity: LogIdentity,
    core: &ShardCore,
    report: &RecoveryReport,
    work: RecoveryWork,
) -> OnBegin {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| now.as_millis());
    let record = BootRecord {
        identity,
        report,
        log: core.log(),
        work,
        written_unix_ms: u64::try_from(now_ms).unwrap_or(u64::MAX),
    };
    let record = record.written();
    Box::new(move || {
        if let Err(error) = record.put(&directory) {
            tracing::warn!(shard = %identity.shard, directory = %directory.display(), %error, "the boot's record can't be written");
        }
    })
}
