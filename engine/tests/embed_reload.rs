//! Turning a running engine's knobs: what is obeyed, what waits for the next start, what changes nothing.

mod support;

use std::error::Error;

use clustor_engine::engine::ReloadError;
use clustor_engine::profile::{Profile, Value};
use support::{Counter, PATIENCE, builder, small};

#[test]
fn a_reload_is_obeyed_and_says_what_waits_for_the_next_start() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let handle = engine.handle();
    let before = handle.profile();
    assert_eq!(before, small());

    let mut wanted = before.clone();
    wanted.name = "mine.toml".to_owned();
    wanted.heartbeat_ms = 20;
    wanted.segment_blocks_per_slot = 4;
    let retuned = handle.reload_profile(&wanted)?;
    assert_eq!(
        retuned.live,
        [(
            "heartbeat_ms",
            Value::Number(before.heartbeat_ms),
            Value::Number(20)
        )]
    );
    let waits = (
        "segment_blocks_per_slot",
        Value::Number(before.segment_blocks_per_slot),
        Value::Number(4),
    );
    assert_eq!(retuned.at_restart, [waits]);
    let running = handle.profile();
    assert_eq!(
        (running.heartbeat_ms, running.name.as_str()),
        (20, "mine.toml")
    );
    assert_eq!(
        running.segment_blocks_per_slot,
        before.segment_blocks_per_slot
    );

    let mut bad = wanted.clone();
    bad.chains_in_flight_max = 9;
    let error = handle.reload_profile(&bad).expect_err("over its limit");
    assert!(matches!(error, ReloadError::Profile(_)), "{error}");
    assert_eq!(handle.profile(), running);

    handle.refuse_profile("mine.toml:3: chains_in_flight_max = 9")?;
    let counter = engine.partition::<Counter>(1)?;
    counter.append_blocking(b"+1".to_vec())?;
    engine.shutdown(PATIENCE)?;
    assert_eq!(handle.reload_profile(&wanted), Err(ReloadError::Stopping));
    Ok(())
}

#[test]
fn what_can_be_obeyed_must_go_together_with_what_waits() {
    let mut running = Profile::throughput();
    running.entry_bytes_max = 1 << 20;
    let mut wanted = running.clone();
    // Fits the smaller entries that the next start brings, not those of today.
    wanted.entry_bytes_max = 64 << 10;
    wanted.queue_bytes_max = 64 << 10;
    wanted.check().expect("a good profile by itself");
    let error = running.retune(&wanted).expect_err("not yet");
    assert_eq!(error.key(), Some("entry_bytes_max"));
}
