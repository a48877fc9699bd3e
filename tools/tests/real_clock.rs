//! A node whose wall clock jumps.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::{clustor, free_ports, make_lone};

type Done = Result<(), Box<dyn std::error::Error>>;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The library that moves the wall clock of what it is preloaded into.
fn moved_clock(dir: &Path) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/moved_clock.c");
    let library = dir.join("moved_clock.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("a C compiler, which the workspace needs anyway");
    assert!(built.success(), "{} compiles", source.display());
    library
}

#[test]
fn a_wall_clock_that_jumps_raises_the_alarm_of_its_node() -> Done {
    let home = tempfile::tempdir()?;
    let cluster = home.path().join("cluster");
    make_lone(&cluster, free_ports(1));

    let offset = home.path().join("offset");
    let mut node = clustor(&["serve", "--log-level", "warn", "--config"])
        .arg(cluster.join("node-1.toml"))
        .env("LD_PRELOAD", moved_clock(home.path()))
        .env("CLOCK_OFFSET", &offset)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut ready = String::new();
    BufReader::new(node.stdout.take().expect("piped")).read_line(&mut ready)?;
    assert!(ready.starts_with("ready"), "{ready}");

    std::fs::write(&offset, "3600")?;
    let (tell, told) = mpsc::channel();
    let mut lines = BufReader::new(node.stderr.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    let reader = std::thread::spawn(move || {
        let alarm = lines.find(|line| line.contains("the wall clock move apart"));
        // Nobody listens any more where it came too late.
        let _ = tell.send(alarm);
    });
    let said = told.recv_timeout(PATIENCE).ok().flatten();
    node.kill()?;
    node.wait()?;
    reader.join().expect("it only reads");
    assert!(said.is_some(), "the alarm is raised and logged");
    Ok(())
}
