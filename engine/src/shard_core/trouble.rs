//! What is wrong with a shard, in words: the gravest thing, and what to do about it.

use clustor_shards::disk::DiskError;
use clustor_shards::log::Pressure;
use clustor_shards::log::nonce::GapVerdict;

use clustor_wire::message::PartitionStatus;

use super::ShardCore;
use crate::partition::Partition;

/// How the disk stands, as far as the log of the process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskStands {
    failed: bool,
    no_spare: bool,
    pressure: Pressure,
}

impl DiskStands {
    /// Nothing is to be told.
    pub(super) const WELL: Self = Self {
        failed: false,
        no_spare: false,
        pressure: Pressure::None,
    };
}

impl ShardCore {
    /// What keeps the shard from its work, or will soon; empty if nothing does.
    pub(super) fn trouble(&self) -> String {
        let log = &self.shared.log;
        if let Some(failure) = log.failure() {
            return format!(
                "the disk failed: {failure}; restart the node to recover what is durable"
            );
        }
        if let Some(quarantine) = log.quarantine() {
            return format!("quarantined: {quarantine}");
        }
        if let Some(why) = &self.behind {
            return format!("quarantined: {why}");
        }
        if let Some(why) = &self.silent {
            return format!("quarantined by the host policy: {why}");
        }
        if let Some(trouble) = self.disk_trouble() {
            return trouble;
        }
        if log.is_device_slow() {
            return format!(
                "the device is slow: chains take {} ms (slow_chain_ms = {}): others lead where they can; see what else uses the disk",
                log.chain_us() / 1000,
                log.options().slow_chain_ms
            );
        }
        if self.shared.clocks.is_raised() {
            return "the clocks can't be trusted: no leases, linearizable reads ask a majority; see docs/operations.md, Leases".to_owned();
        }
        if let (GapVerdict::Alarm | GapVerdict::Incident, bytes) = log.nonce_gaps() {
            return format!(
                "the nonces of {bytes} bytes are not accounted for: see docs/operations.md, Nonces that are not accounted for"
            );
        }
        match &self.profile_refused {
            Some(why) => format!("the profile was not reloaded, the one before it stays: {why}"),
            None => String::new(),
        }
    }

    /// How a partition stands; its shard's trouble where it has none of its own.
    pub(super) fn status_of(&self, partition: &Partition) -> PartitionStatus {
        let mut status = partition.status_among(&|peer| self.peers.has_session(peer));
        if status.trouble.is_empty() {
            status.trouble = self.trouble();
        }
        status
    }

    /// Logs it once when the disk begins to fill, fails, or has room again.
    pub(super) fn tell_disk(&mut self) {
        let log = &self.shared.log;
        let stands = DiskStands {
            failed: log.failure().is_some(),
            no_spare: log.spare_failure().is_some(),
            pressure: log.pressure(),
        };
        if stands == self.disk_told {
            return;
        }
        self.disk_told = stands;
        let shard = self.me.shard;
        match stands {
            DiskStands::WELL => tracing::info!(%shard, "the disk has room again"),
            DiskStands { failed: true, .. } => tracing::error!(%shard, "{}", self.trouble()),
            _ => {
                let trouble = self.disk_trouble().unwrap_or_default();
                tracing::warn!(%shard, "{trouble}");
            }
        }
    }

    /// What is wrong with the room on the disk.
    pub(super) fn disk_trouble(&self) -> Option<String> {
        let log = &self.shared.log;
        let (percent, options) = (log.used_percent(), log.options());
        if let Some(error) = log.spare_failure() {
            let what = match error {
                DiskError::Full => "free space on its file system",
                _ => "see to its directory and file system",
            };
            let until = if log.is_open() {
                "appends are refused when the present one is full, reads go on"
            } else {
                "the shard can't start without it"
            };
            return Some(format!(
                "the log's next segment can't be made: {error}; {until}; {what}"
            ));
        }
        match log.pressure() {
            Pressure::None => None,
            Pressure::Soft => Some(format!(
                "the disk is {percent}% used (disk_soft_percent = {}): half as much may wait for it; free space on its file system",
                options.disk_soft_percent
            )),
            Pressure::Hard => Some(format!(
                "the disk is {percent}% used (disk_hard_percent = {}): appends are refused, reads go on; free space on its file system",
                options.disk_hard_percent
            )),
        }
    }
}
