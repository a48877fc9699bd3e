//! The encodings of log and ledger, as the environment and the profile choose them. Each engine runs in a process of its
//! own, because the environment is the process's.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use clustor_engine::engine::{LOG_ENCODING_VARIABLE, WAL_CODEC_VARIABLE};
use support::{Counter, PATIENCE, builder};

const DIRECTORY: &str = "CLUSTOR_TEST_DIRECTORY";
const VARIABLES: [&str; 2] = [LOG_ENCODING_VARIABLE, WAL_CODEC_VARIABLE];

/// What runs in the process of its own: counts one up and prints the count, or prints why it could not start.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let engine = builder(Path::new(&directory))
        .partition(1, |_| Counter::default())
        .start();
    match engine {
        Ok(engine) => {
            let counter = engine.partition::<Counter>(1).expect("it was given");
            let done = counter.append_blocking(b"+1");
            let done = done.expect("a lone engine leads");
            say(&format!("count={}", support::text(&done.reply)));
            engine.shutdown(PATIENCE).expect("stops");
        }
        Err(error) => say(&format!("refused={error}")),
    }
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the parent reads");
}

fn run(directory: &Path, values: [Option<&str>; 2]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, directory);
    for (variable, value) in VARIABLES.into_iter().zip(values) {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    let Output { status, stdout, .. } = command.output().expect("runs");
    assert!(status.success());
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Every file under the directory with its bytes, but for locks.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                waiting.push(path);
            } else if !path.ends_with("lock") {
                let bytes = std::fs::read(&path).expect("read");
                found.push((path.display().to_string(), bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_is_used_with_the_encodings_it_was_written_with_and_no_others() {
    let text = [Some("json"), Some("json")];
    for first in [
        [None, None],
        [Some("binary"), Some("json")],
        [Some("json"), None],
        text,
    ] {
        let temp = tempfile::tempdir().expect("a directory");
        assert!(run(temp.path(), first).contains("count=1"), "{first:?}");
        assert!(run(temp.path(), first).contains("count=2"), "{first:?}");
        let other = if first == text { [None, None] } else { text };
        let before = files(temp.path());
        let refused = run(temp.path(), other);
        assert!(refused.contains("refused="), "{refused}");
        assert!(
            refused.contains("was written with log encoding"),
            "{refused}"
        );
        assert!(
            refused.contains("binary") && refused.contains("json"),
            "{refused}"
        );
        assert!(
            refused.contains("CLUSTOR_LOG_ENCODING and CLUSTOR_WAL_CODEC"),
            "{refused}"
        );
        assert!(
            before == files(temp.path()),
            "a refused start wrote something"
        );
        assert!(run(temp.path(), first).contains("count=3"), "{first:?}");
    }
}

#[test]
fn an_unknown_encoding_is_refused_by_name_and_nothing_is_made() {
    let temp = tempfile::tempdir().expect("a directory");
    for (values, variable) in [
        ([Some("xml"), None], LOG_ENCODING_VARIABLE),
        ([None, Some("JSON")], WAL_CODEC_VARIABLE),
        ([Some(""), None], LOG_ENCODING_VARIABLE),
    ] {
        let refused = run(temp.path(), values);
        let value = values.into_iter().flatten().next().expect("one is set");
        assert!(
            refused.contains(&format!("{variable} = {value:?}")),
            "{refused}"
        );
        assert!(files(temp.path()).is_empty());
    }
}
