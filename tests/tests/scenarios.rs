//! Every script in `tests/scenarios`, played.

use std::path::Path;

use clustor_sim::cluster::trace::Trace;
use clustor_sim::scenario::play;

/// Scripts there are, at least.
const SCRIPTS_MIN: usize = 118;

#[test]
fn every_scenario_goes_as_its_script_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut scripts: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= SCRIPTS_MIN);
    let mut failed = Vec::new();
    for path in scripts {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let script = std::fs::read_to_string(&path).expect("a script");
        if let Err(error) = play(&name, &script, Trace::Off) {
            failed.push(error.to_string());
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_script_is_refused_with_its_line() {
    for (script, number, what) in [
        ("nodes 3\nfly 2", 2, "expected a command, found \"fly\""),
        ("run 5", 1, "expected a time as 200ms or 3s, found \"5\""),
        ("expect 9 leader", 1, "there is no node 9"),
        ("start 1\nexpect 1 leader", 2, "node 1 follower"),
        ("append 1 \"a", 1, "no end of \"a"),
        ("heal now", 1, "\"now\" is too much here"),
        (
            "nodes 3\nstart\nelect 1\ncopy 1->2 Append\nappend 1 \"a\" as a\nrun 100ms\ncrash 1 kill\nrepeat",
            8,
            "node 1 sent what was copied, and is down",
        ),
    ] {
        let error = play("script", script, Trace::Off).expect_err("refused");
        assert_eq!(error.number, number, "{error}");
        assert!(error.what.contains(what), "{error}");
    }
}
