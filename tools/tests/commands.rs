//! What all commands have in common: examples in their help, one rule for the numbers of `--json`, and an end without a word
//! where nobody reads their output.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clustor_tools::json::{STRINGS, broken};
use serde_json::Value;
use signal_hook::consts::SIGPIPE;
use support::{clustor, free_ports, make_lone};

fn said(command: &mut Command) -> String {
    let output = command.output().expect("the clustor binary runs");
    assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The subcommands that a help lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !name.is_empty() && *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Each command that does something, by its words, with its help.
fn commands() -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut groups = vec![Vec::<String>::new()];
    while let Some(words) = groups.pop() {
        let help = said(clustor(&[]).args(&words).arg("--help"));
        let within = listed(&help);
        if within.is_empty() {
            found.push((words, help));
            continue;
        }
        groups.extend(
            within
                .into_iter()
                .map(|word| [&words[..], &[word]].concat()),
        );
    }
    found.sort();
    found
}

#[test]
fn every_command_has_examples_of_itself_in_its_help() {
    let commands = commands();
    assert!(commands.len() > 25, "{}", commands.len());
    for (words, help) in commands {
        let example = format!("  clustor {}", words.join(" "));
        let examples = help.lines().skip_while(|line| *line != "Examples:");
        let mut examples = examples.skip(1);
        assert!(
            examples.any(|line| line.starts_with(&example)),
            "{words:?}: {help}"
        );
    }
}

/// A cluster of one node, which runs until this ends.
struct Lone {
    home: tempfile::TempDir,
    node: Child,
    ready: String,
}

impl Lone {
    fn start() -> Self {
        // On a disk: what is in memory is no device for a probe.
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        make_lone(&home.path().join("dev"), free_ports(1));
        std::fs::write(home.path().join("mine.toml"), "heartbeat_ms = 30\n").expect("written");
        let config = home.path().join("dev/node-1.toml");
        let text = std::fs::read_to_string(&config).expect("text");
        let text = text.replace("\"latency\"", "\"../mine.toml\"");
        std::fs::write(&config, text).expect("written");
        let mut node = clustor(&[
            "serve",
            "--log-level",
            "error",
            "--json",
            "--config",
            "dev/node-1.toml",
        ])
        .current_dir(home.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the clustor binary runs");
        let mut ready = String::new();
        let out = node.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut ready).expect("a line");
        Self { home, node, ready }
    }

    /// A copy of what the node wrote, at rest.
    fn copy(&self) -> PathBuf {
        let to = self.home.path().join("copy");
        let from = self.home.path().join("dev/data-1");
        let copied = Command::new("cp").arg("-r").args([&from, &to]).status();
        assert!(copied.expect("cp runs").success());
        to
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        // One that has ended already can't be killed; that is as good.
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

const REACH: [&str; 2] = ["--cluster", "dev"];
const OPERATES: [&str; 4] = ["--cluster", "dev", "--operator", "ops"];

/// One call of each command that prints, in an order in which each finds what it needs; without `--json`.
fn calls() -> Vec<Vec<&'static str>> {
    let with = |command: &[&'static str], reach: &[&'static str], rest: &[&'static str]| {
        [command, reach, rest].concat()
    };
    vec![
        vec![
            "certs",
            "init",
            "--dir",
            "pki",
            "--trust-domain",
            "prod.example",
        ],
        vec!["certs", "node", "--dir", "dev", "--id", "9"],
        vec!["certs", "client", "--dir", "dev", "--name", "kv"],
        vec![
            "certs",
            "placement",
            "--dir",
            "pki",
            "--trust-domain",
            "prod.example",
            "--node",
            "1=127.0.0.1:7/1",
            "--replicas",
            "1",
        ],
        vec!["certs", "cluster", "--dir", "other"],
        with(&["append"], &REACH, &["1", "colour", "green"]),
        with(&["read"], &REACH, &["1", "colour"]),
        with(&["status"], &REACH, &[]),
        with(&["mode"], &OPERATES, &["1", "strict"]),
        with(&["member", "show"], &REACH, &["1"]),
        with(&["member", "address"], &OPERATES, &["all", "1"]),
        with(&["profile", "reload"], &OPERATES, &["1"]),
        vec!["profile", "reload", "--config", "dev/node-1.toml"],
        vec!["profile", "list"],
        vec!["profile", "show", "wan"],
        vec!["profile", "check", "mine.toml"],
        vec!["profile", "diff", "latency", "zfs"],
        vec!["host", "copy"],
        vec!["inspect", "copy", "--records"],
        vec!["scrub", "copy"],
        vec!["probe", ".", "--cell-ms", "10"],
    ]
}

/// Where a string is but a number outside of the fields that the rule names; words of a profile aside.
fn stray(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let text = value.as_str().unwrap_or_default();
            let is_number = text
                .parse::<u64>()
                .is_ok_and(|number| number.to_string() == text);
            let exempt =
                ["before", "after", "value"].contains(&name.as_str()) || name.ends_with("crc");
            if is_number && !exempt && !STRINGS.contains(&name.as_str()) {
                return Some(format!("{name}: {value}"));
            }
            // A file of its own, shown as it lies there.
            let inside = Some(value).filter(|_| name != "boot_record");
            inside.and_then(stray)
        }),
        Value::Array(values) => values.iter().find_map(stray),
        _ => None,
    }
}

/// The names of the fields that hold a string, of those which the rule names.
fn held(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if STRINGS.contains(&name.as_str()) && value.is_string() {
                    into.insert(name.clone());
                }
                held(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| held(value, into)),
        _ => {}
    }
}

#[test]
fn all_json_keeps_one_rule_and_ends_quietly_where_nobody_reads_it() {
    let cluster = Lone::start();
    let mut objects: Vec<(String, String)> = vec![("serve".to_owned(), cluster.ready.clone())];
    let mut asked: BTreeSet<String> = ["serve", "demo"].map(str::to_owned).into();
    for words in calls() {
        if words.contains(&"copy") && !cluster.home.path().join("copy").exists() {
            cluster.copy();
        }
        let mut command = clustor(&words);
        let text = said(command.arg("--json").current_dir(cluster.home.path()));
        assert!(!text.is_empty(), "{words:?}");
        objects.extend(text.lines().map(|line| (words.join(" "), line.to_owned())));
        asked.insert(words.join(" "));
    }
    let mut found = BTreeSet::new();
    for (by, line) in objects {
        let object: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{by}: {error}: {line}"));
        assert_eq!(broken(&object), None, "{by}: {object}");
        assert_eq!(stray(&object), None, "{by}: {object}");
        held(&object, &mut found);
    }
    for name in [
        "boot",
        "chain",
        "cluster",
        "index",
        "leader",
        "node",
        "pair",
        "partition",
        "term",
    ] {
        assert!(found.contains(name), "no {name} in {found:?}");
    }
    // None is forgotten. `demo --json` names a file; `tests/processes.rs` looks into it.
    let changes = [
        "member add",
        "member observe",
        "member promote",
        "member remove",
        "member replace",
        "member rollback",
        "member transfer",
    ];
    for (words, help) in commands() {
        let words = words.join(" ");
        let is_asked = asked.iter().any(|asked| asked.starts_with(&words))
            || changes.contains(&words.as_str());
        assert!(
            is_asked || !help.contains("--json"),
            "{words} was not asked"
        );
    }
    nobody_reads(cluster.home.path());
}

/// Every command that prints, into a pipe that is closed.
fn nobody_reads(dir: &Path) {
    for words in calls() {
        // What is made once can't be made again, and a probe takes its time.
        if ["certs", "probe"].contains(&words[0]) {
            continue;
        }
        for json in [false, true] {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let mut command = clustor(&words);
            let mut child = command
                .args(json.then_some("--json"))
                .current_dir(dir)
                .stdout(writer)
                .stderr(Stdio::piped())
                .spawn()
                .expect("the clustor binary runs");
            let status = child.wait().expect("it ends");
            let mut told = String::new();
            let mut err = child.stderr.take().expect("piped");
            err.read_to_string(&mut told).expect("text");
            assert_eq!(
                (status.signal(), told.as_str()),
                (Some(SIGPIPE), ""),
                "{words:?}"
            );
        }
    }
}

#[test]
fn the_docs_name_every_field_that_is_a_string_by_the_rule() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let docs = std::fs::read_to_string(path).expect("text");
    let section = docs.split("\n## ").find(|part| part.starts_with("JSON"));
    let section = section.expect("a section on JSON");
    for name in STRINGS {
        assert!(
            section.contains(&format!("`{name}`")),
            "{name} is not in the docs"
        );
    }
}
