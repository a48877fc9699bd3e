//! Profiles: what is shipped holds its own limits, and a wrong file is told where and why.

use clustor_engine::profile::{Mode, Profile, ProfileError};

#[test]
fn shipped_profiles_are_within_their_own_limits() {
    for profile in [Profile::latency(), Profile::throughput()] {
        profile.check().expect(&profile.name);
    }
    assert_eq!(Profile::latency().mode, Mode::Strict);
    assert_eq!(Profile::throughput().mode, Mode::Group);
}

#[test]
fn what_a_file_leaves_out_comes_from_its_base() {
    let mine = Profile::parse("batch_ms_max = 2\n", "mine.toml").expect("valid");
    assert_eq!(mine.batch_ms_max, 2);
    assert_eq!(mine.segment_bytes, Profile::latency().segment_bytes);
    let text = "base = \"throughput\"\nbatch_ms_max = 2\n";
    let mine = Profile::parse(text, "mine.toml").expect("valid");
    assert_eq!(mine.segment_bytes, Profile::throughput().segment_bytes);
    assert_eq!(mine.mode, Mode::Group);
}

#[test]
fn a_value_outside_its_limits_is_refused_with_file_line_key_value_and_limit() {
    let text = "# mine\n\nbatch_ms_max = 51\n";
    let error = Profile::parse(text, "mine.toml").expect_err("over the limit");
    assert_eq!(
        error.to_string(),
        "mine.toml:3: batch_ms_max = 51 is outside 1 to 50"
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
                limit: 524_288,
                ..
            }
        ),
        "{error}"
    );
}
