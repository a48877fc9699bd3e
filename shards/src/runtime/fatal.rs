//! The end of a process whose shard can't go on.

use std::any::Any;
use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use clustor_wire::ids::ShardId;

use crate::sys;
use crate::uring::RingError;

/// Exit code of a process that ended because a turn panicked (EX_SOFTWARE of sysexits.h).
pub const EXIT_PANIC: i32 = 70;
/// Exit code of a process that ended because a shard's ring failed (EX_OSERR of sysexits.h).
pub const EXIT_RING: i32 = 71;

thread_local! {
    /// On a shard's thread: where it panicked last.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics note where they happened, besides whatever the process's hook does with them.
pub(super) fn note_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            // A thread that is being torn down has no place to note it in.
            drop(PLACE.try_with(|last| last.replace(place)));
            before(info);
        }));
    });
}

fn report(message: &str) {
    tracing::error!("{message}");
    // Also where no subscriber listens. Nothing can be done if standard error is closed.
    drop(writeln!(std::io::stderr(), "{message}"));
}

/// Reports a panic on a shard's thread and ends the process.
pub(super) fn panicked(shard: ShardId, payload: &(dyn Any + Send)) -> ! {
    let what = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    let place = PLACE
        .with(RefCell::take)
        .unwrap_or_else(|| "an unknown place".to_owned());
    report(&format!(
        "clustor: shard {shard} panicked at {place}: {what}; the process ends with code {EXIT_PANIC}, \
         what was acknowledged is on disk; set RUST_BACKTRACE=1 for a backtrace"
    ));
    sys::end_process(EXIT_PANIC)
}

/// Reports a ring that failed and ends the process.
pub(super) fn ring_failed(shard: ShardId, error: &RingError) -> ! {
    report(&format!(
        "clustor: shard {shard}: {error}; the process ends with code {EXIT_RING}, what was acknowledged is on disk"
    ));
    sys::end_process(EXIT_RING)
}
