//! Profiles: what is shipped holds its own limits, and a wrong file is told where and why.

use clustor_engine::profile::{Allowed, Profile, ProfileError, Value};
use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::log::Mode;
use clustor_shards::log::merkle::MERKLE_BYTES;
use clustor_shards::log::record::RECORD_HEADER_BYTES;

#[test]
fn shipped_profiles_are_within_their_own_limits() {
    for name in Profile::SHIPPED {
        let profile = Profile::shipped(name).expect("it is shipped");
        profile.check().expect(&profile.name);
        profile.log_options(0).check().expect(&profile.name);
    }
    assert_eq!(Profile::latency().mode, Mode::Strict);
    assert_eq!(Profile::throughput().mode, Mode::Group);
}

#[test]
fn buffers_of_two_shards_fit_into_8_mib_of_locked_memory() {
    for name in Profile::SHIPPED {
        let options = Profile::shipped(name)
            .expect("it is shipped")
            .log_options(0);
        let classes = options.pool_classes();
        let blocks: usize = classes.iter().map(|class| class.blocks * class.runs).sum();
        assert!(
            2 * blocks * BLOCK_BYTES < 8 << 20,
            "{name}: {blocks} blocks"
        );
    }
}

#[test]
fn a_batch_for_throughput_takes_four_entries_of_64_kib() {
    let frame = RECORD_HEADER_BYTES + MERKLE_BYTES + (64 << 10);
    assert!(Profile::throughput().batch_bytes_max >= 4 * frame as u64);
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
        "mine.toml:3: chains_in_flight_max = 9 is not a number from 1 to 8"
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = "mode = \"group\"\nbatch_byte_max = 5\n";
    let error = Profile::parse(text, "mine.toml").expect_err("unknown key");
    assert_eq!(
        error.to_string(),
        "mine.toml:2: unknown key `batch_byte_max`; the nearest known one is `batch_bytes_max`"
    );
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
    let text = "base = \"zfs\"\nsegment_bytes = 4_294_967_296\nsegment_blocks_per_slot = 1\n";
    let greatest = Profile::parse(text, "mine.toml").expect("valid");
    greatest.log_options(0).check().expect("valid for the log");
}

#[test]
fn a_mode_that_does_not_exist_is_refused_with_those_that_do() {
    let error = Profile::parse("\nmode = \"fast\"\n", "mine.toml").expect_err("no such mode");
    assert_eq!(
        error.to_string(),
        "mine.toml:2: mode = \"fast\" is not \"strict\" or \"group\""
    );
}

#[test]
fn shipped_files_say_what_the_table_says() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    for name in Profile::SHIPPED {
        let path = directory.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).expect("it is shipped");
        let profile = Profile::shipped(name).expect("it is shipped");
        let head = Profile::shipped_head(name).expect("it is shipped");
        assert_eq!(
            text,
            profile.to_toml(&head),
            "{}: differs from the table in engine/src/profile/limits.rs; write it anew: clustor profile show {name} --toml",
            path.display()
        );
    }
}

#[test]
fn a_written_profile_reads_back_as_it_was() {
    for name in Profile::SHIPPED {
        let profile = Profile::shipped(name).expect("it is shipped");
        let text = profile.to_toml("mine\n\nwith two paragraphs");
        assert_eq!(Profile::parse(&text, name).expect("valid"), profile);
    }
}

#[test]
fn everything_that_is_wrong_is_found_at_once_in_the_order_of_the_lines() {
    let text = "mode = 1\nheartbeat_ms = true\nbase = \"lan\"\nnodes = 3\nhigh_rtt_ms = -1\n\n[more]\nx = 1\n";
    let wrong = Profile::judge(text, "mine.toml").expect_err("five things are wrong");
    let said: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "mine.toml:1: mode = 1 is not \"strict\" or \"group\"",
            "mine.toml:2: heartbeat_ms = true is not a number from 10 to 1_000",
            "mine.toml:3: base = \"lan\" is not \"latency\", \"throughput\", \"wan\" or \"zfs\"",
            "mine.toml:4: unknown key `nodes`; the nearest known one is `mode`",
            "mine.toml:5: high_rtt_ms = -1 is not a number from 10 to 5_000",
            "mine.toml:7: unknown key `more`; the nearest known one is `mode`",
        ]
    );
}

#[test]
fn what_a_base_forbids_is_found_beside_what_nothing_allows() {
    let text = "base = \"wan\"\nleases = true\nnodes = 3\n";
    let wrong = Profile::judge(text, "mine.toml").expect_err("two things are wrong");
    let lines: Vec<usize> = wrong.iter().map(ProfileError::line).collect();
    assert_eq!(lines, [2, 3], "{wrong:?}");
}

#[test]
fn values_that_dont_go_together_are_told_with_the_line_of_the_one_in_the_file() {
    let text = "\nheartbeat_ms = 76\n";
    let error = Profile::parse(text, "mine.toml").expect_err("over half of election_ms_min");
    assert!(
        error
            .to_string()
            .starts_with("mine.toml:2: heartbeat_ms = 76 must not exceed 75"),
        "{error}"
    );
    // The value that is limited comes from the base, and the file has the one that limits it.
    for (text, told) in [
        (
            "\n\nelection_ms_max = 100\n",
            "mine.toml:3: election_ms_min = 150 must not exceed 100",
        ),
        (
            "\nsegment_bytes = 1_048_576\n",
            "mine.toml:2: entry_bytes_max = 1048576 must not exceed 122816",
        ),
        (
            "\nleases = true\nlease_rtt_ms = 25\n",
            "mine.toml:3: lease_ms = 80 must not exceed",
        ),
    ] {
        let error = Profile::parse(text, "mine.toml").expect_err(text);
        assert!(error.to_string().starts_with(told), "{error}");
    }
}

#[test]
fn values_that_dont_go_together_are_told_with_the_lines_of_both() {
    let text = "heartbeat_ms = 40\n\nelection_ms_min = 70\n";
    let error = Profile::parse(text, "mine.toml").expect_err("half of 70 is less");
    let said = error.to_string();
    assert!(
        said.starts_with("mine.toml:1: heartbeat_ms = 40 must not exceed 35"),
        "{said}"
    );
    assert!(said.ends_with("; line 3: election_ms_min"), "{said}");

    // By itself the file is good; what of it waits for the next start does not go together with the rest.
    let text = "queue_bytes_max = 100_000\nentry_bytes_max = 65_536\n";
    let wanted = Profile::parse(text, "mine.toml").expect("good by itself");
    let error = Profile::latency()
        .retune(&wanted)
        .expect_err("entries of 1 MiB are let in");
    assert_eq!(error.line(), 0, "a profile has no lines");
    let said = error.in_text(text).to_string();
    assert!(
        said.starts_with("mine.toml:2: entry_bytes_max = 1048576 must not exceed 100000"),
        "{said}"
    );
    assert!(
        said.ends_with(
            "; line 2: entry_bytes_max, which waits for the next start; line 1: queue_bytes_max"
        ),
        "{said}"
    );
}

#[test]
fn what_is_not_toml_is_refused_and_nothing_panics() {
    for text in [
        "mode",
        "mode = ",
        "mode = \"strict\"\nmode = \"group\"",
        "\u{0}",
        "= 1",
        "[a",
        "\"\" = 1",
    ] {
        let error = Profile::parse(text, "mine.toml").expect_err(text);
        assert!(error.line() > 0, "{error}");
    }
}

#[test]
fn knobs_are_got_and_set_by_their_keys() {
    let mut profile = Profile::latency();
    profile
        .set("chains_in_flight_max", Value::Number(3))
        .expect("within");
    assert_eq!(profile.get("chains_in_flight_max"), Some(Value::Number(3)));
    let error = profile.set("chains_in_flight_max", Value::Number(0));
    assert_eq!(error, Err(Some(Allowed::Number { min: 1, max: 8 })));
    assert_eq!(profile.set("nothing", Value::Number(0)), Err(None));
    profile.set("mode", Value::Word("group")).expect("a mode");
    let changed: Vec<_> = Profile::latency()
        .differences(&profile)
        .into_iter()
        .map(|(knob, mine, theirs)| (knob.key, mine, theirs))
        .collect();
    assert_eq!(
        changed,
        [
            ("mode", Value::Word("strict"), Value::Word("group")),
            ("chains_in_flight_max", Value::Number(8), Value::Number(3)),
        ]
    );
}

#[test]
fn a_lease_that_outlives_the_least_election_timeout_is_refused() {
    let text = "leases = true\nlease_ms = 85\n";
    let error = Profile::parse(text, "mine.toml").expect_err("85 + 10 + 5 + 50 is not below 150");
    assert_eq!(error.line(), 2);
    assert!(
        matches!(
            error,
            ProfileError::Relation {
                key: "lease_ms",
                limit: 84,
                ..
            }
        ),
        "{error}"
    );
    // Without leases nobody relies on it.
    Profile::parse("lease_ms = 85\n", "mine.toml").expect("off");
    assert!(!Profile::latency().leases && !Profile::wan().leases && !Profile::zfs().leases);
    assert!(Profile::throughput().leases);
}

#[test]
fn a_named_base_narrows_limits_and_the_error_names_it() {
    let text = "base = \"wan\"\nsegment_bytes = 33_554_432\n";
    let error = Profile::parse(text, "mine.toml").expect_err("too small for it");
    assert_eq!(
        error.to_string(),
        "mine.toml:2: segment_bytes = 33_554_432 is not a number from 536_870_912 to 2_147_483_648, all that base = \"wan\" allows"
    );
    assert_eq!((error.line(), error.key()), (2, Some("segment_bytes")));
    let text = "hash = \"blake3\"\nbase = \"zfs\"\n";
    let error = Profile::parse(text, "mine.toml").expect_err("not there");
    assert_eq!(
        error.to_string(),
        "mine.toml:1: hash = \"blake3\" is not \"sha256\", all that base = \"zfs\" allows"
    );
    Profile::parse("base = \"throughput\"\nhash = \"blake3\"\n", "mine.toml").expect("allowed");
    for base in ["wan", "zfs"] {
        let text = format!("base = \"{base}\"\nlease_ms = 10\nleases = true\n");
        let error = Profile::parse(&text, "mine.toml").expect_err("not there");
        assert_eq!(
            error.to_string(),
            format!("mine.toml:3: leases = true is not false, all that base = \"{base}\" allows")
        );
        Profile::parse(&text.replace("true", "false"), "mine.toml").expect("as it is");
    }
    for base in ["latency", "throughput"] {
        let text = format!("base = \"{base}\"\nleases = true\n");
        Profile::parse(&text, "mine.toml").expect("allowed");
    }
    Profile::parse("segment_bytes = 4_294_967_296\n", "mine.toml").expect("no base is named");
}

#[test]
fn narrower_limits_lie_within_the_wider_and_the_shipped_profiles_within_them() {
    for knob in Profile::KNOBS {
        for (base, allowed) in knob.narrower() {
            let shipped = Profile::shipped(base).expect("a base is shipped");
            let value = shipped.get(knob.key).expect("a knob has a value");
            assert!(allowed.admits(value), "{base}: {} = {value}", knob.key);
            if let Allowed::Number { min, max } = allowed {
                let ends = [Value::Number(min), Value::Number(max)];
                assert!(
                    ends.into_iter().all(|end| knob.allowed.admits(end)),
                    "{}",
                    knob.key
                );
            }
        }
    }
}
