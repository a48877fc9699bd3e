//! Telling how far a start is with applying what its log held, where that takes long.

use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;

use super::{MachineSlot, Partition};

/// How often it is told; what is applied within this time is not told of.
const TELL_EVERY_MS: u64 = 2_000;

/// A start that applies what the log held.
#[derive(Debug)]
pub(super) struct Starting {
    /// Since when, and how far it was then.
    begun: Time,
    from: LogIndex,
    /// When it was told last, if it was.
    told: Option<Time>,
}

impl Partition {
    /// Tells how far it is, when it is time to; and that it is done, if it told before.
    pub(crate) fn tell_starting(&mut self, now: Time) {
        let (id, applied, to) = (self.id, self.applied, self.durability.recovered());
        if applied >= to || !self.is_in_fallback() {
            if let Some(starting) = self.starting.take().filter(|at| at.told.is_some()) {
                let seconds = now.since_us(starting.begun) / 1_000_000;
                let entries = to.get().saturating_sub(starting.from.get());
                tracing::info!(partition = %id, entries, seconds, "what the log held is applied");
            }
            return;
        }
        let runs = matches!(self.machine, MachineSlot::Running(_));
        if !runs || applied >= self.replica.applicable() {
            return;
        }
        let starting = self.starting.get_or_insert_with(|| {
            Box::new(Starting {
                begun: now,
                from: applied,
                told: None,
            })
        });
        let before = starting.told.unwrap_or(starting.begun);
        if now.since_us(before) < TELL_EVERY_MS * 1_000 {
            return;
        }
        starting.told = Some(now);
        // A machine that is made again has it all before it again.
        let from = starting.from.min(applied);
        let (done, of) = (applied.get() - from.get(), to.get() - from.get());
        tracing::info!(
            partition = %id,
            applied = done,
            of,
            percent = u128::from(done) * 100 / u128::from(of),
            seconds = now.since_us(starting.begun) / 1_000_000,
            "starting: what the log held is being applied"
        );
    }
}
