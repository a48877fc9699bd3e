//! A device that is slow: what is busy and led here goes to voters whose devices are not.

use clustor_shards::turn::Time;

use super::ShardCore;

/// From the first time that the device is found slow to the hand-over, in milliseconds: peers say meanwhile how theirs are.
const FIRST_MS: u64 = 100;
/// While it stays slow, what came to be led here, or stayed, is handed over this often, in milliseconds.
const AGAIN_MS: u64 = 2_000;

/// Since when the device is slow, and when it is left next.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowDevice {
    since: Time,
    due: Time,
}

impl ShardCore {
    /// Hands over what it leads, if chains take too long here. Where every other voter's device is slow too, or nobody
    /// answers, leadership stays: a slow leader is better than none. Partitions that are quiet write nothing and stay, too.
    pub(super) fn leave_slow_device(&mut self, now: Time) {
        if !self.shared.log.is_device_slow() {
            self.slow_device = None;
            return;
        }
        let slow = self.slow_device.get_or_insert_with(|| {
            let chain_us = self.shared.log.chain_us();
            tracing::warn!(chain_us, "the device is slow: others are to lead");
            SlowDevice {
                since: now,
                due: now.plus_ms(FIRST_MS),
            }
        });
        if now < slow.due {
            return;
        }
        slow.due = now.plus_ms(AGAIN_MS);
        let since = slow.since;
        for partition in self.partitions.all_mut() {
            let fits = |peer| self.peers.is_fast_since(peer, since);
            let handed = partition
                .replica
                .leave_slow_device(&self.shared.lend(now), fits);
            if handed.is_ok() {
                self.touched.insert(partition.id);
            }
        }
    }
}
