//! A cluster of one node as processes: what the suites that start it share.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const TRUST_DOMAIN: &str = "dev.test";

pub fn clustor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clustor"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub struct Dir {
    home: tempfile::TempDir,
    pub path: PathBuf,
}

impl Dir {
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// The directory, and all that is in it.
pub fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A cluster of one node, which is its own quorum.
pub fn lone_cluster() -> Dir {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("dev");
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let made = clustor()
        .args([
            "certs",
            "cluster",
            "--trust-domain",
            TRUST_DOMAIN,
            "--nodes",
            "1",
            "--replicas",
            "1",
            "--shards",
            "1",
        ])
        .args([
            "--partitions",
            "2",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--dir",
        ])
        .arg(&path)
        .output()
        .expect("runs");
    assert!(made.status.success(), "{}", text(&made.stderr));
    Dir { home, path }
}

pub fn serve(dir: &Path) -> Command {
    serve_with(dir, "error")
}

pub fn serve_with(dir: &Path, log_level: &str) -> Command {
    let mut command = clustor();
    command
        .args(["serve", "--log-level", log_level, "--config"])
        .arg(dir.join("node-1.toml"));
    command
}

pub struct Running(pub Child);

impl Running {
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, "error")
    }

    pub fn start_with(dir: &Path, log_level: &str) -> Self {
        let mut child = serve_with(dir, log_level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let mut node = Self(child);
        if !line.starts_with("ready") {
            let mut said = String::new();
            let mut err = node.0.stderr.take().expect("piped");
            err.read_to_string(&mut said).expect("text");
            panic!("it did not become ready: {said}");
        }
        node
    }

    /// What it said on standard error until it was killed.
    pub fn killed(mut self) -> Vec<u8> {
        self.0.kill().expect("it runs");
        let mut said = Vec::new();
        let err = self.0.stderr.as_mut().expect("piped");
        err.read_to_end(&mut said).expect("readable");
        said
    }

    pub fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended can't be killed; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn ask(dir: &Path, what: &str, args: &[&str]) -> Output {
    clustor()
        .args([what, "--cluster"])
        .arg(dir)
        .args(args)
        .output()
        .expect("runs")
}
