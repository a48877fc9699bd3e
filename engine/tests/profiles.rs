//! Profiles: what is shipped holds its own limits, and a wrong file is told where and why.

use clustor_engine::profile::{Profile, ProfileError};
use clustor_shards::log::Mode;

#[test]
fn shipped_profiles_are_within_their_own_limits() {
    for profile in [Profile::latency(), Profile::throughput()] {
        profile.check().expect(&profile.name);
        profile.log_options(0).check().expect(&profile.name);
    }
    assert_eq!(Profile::latency().mode, Mode::Strict);
    assert_eq!(Profile::throughput().mode, Mode::Group);
}

#[test]
fn what_a_file_leaves_out_comes_from_its_base() {
    let mine = Profile::parse("chains_in_flight_max = 2\n", "mine.toml").expect("valid");
    assert_eq!(mine.chains_in_flight_max, 2);
    assert_eq!(mine.segment_bytes, Profile::latency().segment_bytes);
    let text = "base = \"throughput\"\nchains_in_flight_max = 2\n";
    let mine = Profile::parse(text, "mine.toml").expect("valid");
    assert_eq!(mine.segment_bytes, Profile::throughput().segment_bytes);
    assert_eq!(mine.mode, Mode::Group);
}

#[test]
fn a_value_outside_its_limits_is_refused_with_file_line_key_value_and_limit() {
    let text = "# mine\n\nchains_in_flight_max = 9\n";
    let error = Profile::parse(text, "mine.toml").expect_err("over the limit");
    assert_eq!(
        error.to_string(),
        "mine.toml:3: chains_in_flight_max = 9 is outside 1 to 8"
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = "mode = \"group\"\nbatch_ms = 5\n";
    let error = Profile::parse(text, "mine.toml").expect_err("unknown key");
    let text = error.to_string();
    assert!(text.starts_with("mine.toml:2: "), "{text}");
    assert!(text.contains("batch_ms"), "{text}");
}

#[test]
fn an_entry_over_an_eighth_of_the_segment_is_refused() {
    let text = "segment_bytes = 4_194_304\n";
    let error = Profile::parse(text, "mine.toml").expect_err("entry limit too great for it");
    assert!(
        matches!(
            error,
            ProfileError::Relation {
                key: "entry_bytes_max",
                limit: 516_032,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_the_limits_allow_the_log_takes() {
    let text = "segment_bytes = 1_048_576\nentry_bytes_max = 122_816\nbatch_bytes_max = 65_536\n";
    let smallest = Profile::parse(text, "mine.toml").expect("valid");
    smallest.log_options(2).check().expect("valid for the log");
    let text =
        "base = \"throughput\"\nsegment_bytes = 4_294_967_296\nsegment_blocks_per_slot = 1\n";
    let greatest = Profile::parse(text, "mine.toml").expect("valid");
    greatest.log_options(0).check().expect("valid for the log");
}

#[test]
fn a_mode_that_does_not_exist_is_refused_with_those_that_do() {
    let error = Profile::parse("\nmode = \"fast\"\n", "mine.toml").expect_err("no such mode");
    assert_eq!(
        error.to_string(),
        "mine.toml:2: \"fast\": expected mode = \"strict\" or \"group\""
    );
}
