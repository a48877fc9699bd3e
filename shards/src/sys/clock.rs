//! The clock that a shard's turns see.

/// Microseconds since the machine was started, time spent asleep included (CLOCK_BOOTTIME): it never goes
/// back, and a suspended machine's leases have run out when it wakes.
#[must_use]
pub fn boottime_us() -> u64 {
    let mut at = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `at` is a valid timespec that the call fills; nothing is kept.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) };
    assert_eq!(code, 0, "CLOCK_BOOTTIME exists on every Linux since 2.6.39");
    at.tv_sec.cast_unsigned() * 1_000_000 + at.tv_nsec.cast_unsigned() / 1_000
}
