//! The clocks that a shard's turns see.

/// Microseconds since the machine was started, time spent asleep included (CLOCK_BOOTTIME): it never goes
/// back, and a suspended machine's leases have run out when it wakes.
#[must_use]
pub fn boottime_us() -> u64 {
    read_us(libc::CLOCK_BOOTTIME)
}

/// Two readings of the boot-time clock that are further apart than this, in microseconds, say nothing of what was read
/// between them.
const TOGETHER_US: u64 = 200;
/// How often the two clocks are read in the hope that nothing comes between.
const TRIES: usize = 3;

/// The boot-time clock, and CLOCK_REALTIME in microseconds since 1970 at the same moment; `None` if something came between
/// the two readings each time.
#[must_use]
pub fn both_clocks_us() -> (u64, Option<u64>) {
    let mut before = boottime_us();
    for _ in 0..TRIES {
        let wall = read_us(libc::CLOCK_REALTIME);
        let after = boottime_us();
        if after - before <= TOGETHER_US {
            return (after, Some(wall));
        }
        before = after;
    }
    (before, None)
}

fn read_us(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `at` is a valid timespec that the call fills; nothing is kept.
    let code = unsafe { libc::clock_gettime(clock, &raw mut at) };
    assert_eq!(code, 0, "both clocks exist on every Linux since 2.6.39");
    at.tv_sec.cast_unsigned() * 1_000_000 + at.tv_nsec.cast_unsigned() / 1_000
}
