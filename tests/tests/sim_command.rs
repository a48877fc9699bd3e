//! How `sim` ends, and what it refuses to begin.

use std::process::Command;

const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// How `sim` ends with these arguments, and what it says of errors.
fn sim(arguments: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments.split_whitespace())
        .output()
        .expect("sim starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it ends by itself"), said)
}

/// A script in the folder for tests' files.
fn script(name: &str, text: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("a file for a test");
    path.display().to_string()
}

#[test]
fn nothing_to_run_is_a_mistake_of_who_asks() {
    for of in [
        "--seeds 0",
        "--operations 0",
        "--seconds 0",
        "--steps 0 --seed 1",
        "log --seeds 0",
        "--scenario no/such/file.txt",
    ] {
        let (code, said) = sim(of);
        assert_eq!(code, USAGE, "{of}: {said}");
    }
}

#[test]
fn a_script_that_can_be_read_is_played_and_its_failure_is_another() {
    let held = script("held.txt", "nodes 1\nstart\nelect 1\n");
    let broken = script("broken.txt", "nodes 1\nstart\nelect 1\nexpect 1 follower\n");
    assert_eq!(sim(&format!("--scenario {held}")).0, 0);
    let (code, said) = sim(&format!("--scenario {broken}"));
    assert_eq!(code, FAILED, "{said}");
    // One that is missing is told of before any is played.
    let (code, said) = sim(&format!("--scenario {broken} no/such/file.txt"));
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("no/such/file.txt"), "{said}");
    assert!(!said.contains("broken.txt"), "{said}");
}

#[test]
fn what_one_run_would_ignore_is_refused_beside_it() {
    let of_many = [
        "--jobs 2",
        "--failures-max 2",
        "--json",
        "--at-least-speed 10",
        "--seconds 1",
        "--operations 1",
    ];
    let runs = ["--seed 1", "log --seed 1", "log --crash-points --tiny"];
    let clusters = ["--seed 1 --marks", "--seed 1 --from 2"];
    let logs = ["log --seed 1 --fresh", "log --seed 1 --from 2"];
    let each = runs.iter().flat_map(|run| {
        let with = of_many.iter();
        with.map(move |option| format!("{run} {option}"))
    });
    let others = clusters.iter().chain(&logs).map(|of| (*of).to_owned());
    for of in each.chain(others) {
        let (code, said) = sim(&of);
        assert_eq!(code, USAGE, "{of}: {said}");
        assert!(said.contains("cannot be used with"), "{of}: {said}");
    }
}

#[test]
fn help_says_how_it_ends() {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .arg("--help")
        .output()
        .expect("sim starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for code in ["Ends with 0", "with 1", "with 2"] {
        assert!(said.contains(code), "{said}");
    }
}
