//! The demo's nodes: three processes of this very program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clustor_engine::security::{PlacedNode, Placement, TlsFiles};
use clustor_shards::host::OfflineDir;
use clustor_wire::ids::NodeId;

use super::check_interrupt;
use crate::certs::{Cluster, ClusterPlan, DEFAULT_CLIENT, DEFAULT_OPERATOR, make_cluster};
use crate::config::NodeConfig;
use crate::exit::CommandError;

/// Nodes of the demo.
pub(super) const NODES: u64 = 3;
/// Data shards of each.
const SHARDS: u16 = 2;
/// How long a node may take to be ready.
const READY_WAIT: Duration = Duration::from_secs(30);
/// How long a node may take to stop in order.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// The cluster, and those of its nodes that run.
pub(super) struct Nodes {
    cluster: Cluster,
    running: BTreeMap<NodeId, Child>,
    memory_kib: u64,
}

impl Nodes {
    /// Makes certificates, placement and configs.
    pub fn make(dir: &Path, partitions: u32, segment_bytes: u64) -> Result<Self, CommandError> {
        let mut listeners = Vec::new();
        let mut nodes = BTreeMap::new();
        for node in 1..=NODES {
            // Held until all are drawn, so that no port is drawn twice.
            let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                .map_err(CommandError::failed)?;
            let address = listener.local_addr().map_err(CommandError::failed)?;
            let shards = SHARDS;
            nodes.insert(NodeId(node), PlacedNode { address, shards });
            listeners.push(listener);
        }
        let plan = ClusterPlan {
            dir: dir.join("cluster"),
            trust_domain: None,
            nodes,
            partitions,
            replicas: NODES as usize,
            clients: vec![DEFAULT_CLIENT.to_owned()],
            operators: vec![DEFAULT_OPERATOR.to_owned()],
            days: 1,
            profile: "throughput".to_owned(),
            segment_bytes: Some(segment_bytes),
        };
        let cluster = make_cluster(&plan).map_err(CommandError::failed)?;
        Ok(Self {
            cluster,
            running: BTreeMap::new(),
            memory_kib: 0,
        })
    }

    pub fn client_files(&self) -> TlsFiles {
        self.cluster.clients[DEFAULT_CLIENT].clone()
    }

    pub fn placement(&self) -> Placement {
        self.cluster.loaded.clone()
    }

    pub fn start_all(&mut self, interrupted: &AtomicBool) -> Result<(), CommandError> {
        let nodes: Vec<NodeId> = self.cluster.configs.keys().copied().collect();
        for node in nodes {
            self.start(node, interrupted)?;
        }
        Ok(())
    }

    /// Starts a node and waits until it says that it is ready.
    pub fn start(&mut self, node: NodeId, interrupted: &AtomicBool) -> Result<(), CommandError> {
        let program = std::env::current_exe().map_err(CommandError::failed)?;
        let log_path = self.log_path(node);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(CommandError::failed)?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&self.cluster.configs[&node])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(CommandError::failed)?;
        let stdout = child.stdout.take();
        self.running.insert(node, child);
        let (said, ready) = channel();
        if let Some(stdout) = stdout {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line.starts_with("ready") {
                        // Nobody listens if the demo has ended.
                        let _ = said.send(());
                    }
                }
            });
        }
        let until = Instant::now() + READY_WAIT;
        loop {
            check_interrupt(interrupted)?;
            match ready.recv_timeout(Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => {
                    let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                    let last = said.lines().last().unwrap_or("nothing").to_owned();
                    return Err(CommandError::failed(format!(
                        "node {node} did not become ready; it said: {last}"
                    )));
                }
            }
        }
    }

    fn log_path(&self, node: NodeId) -> PathBuf {
        self.cluster.dir.join(format!("node-{node}.log"))
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: NodeId) -> Result<(), CommandError> {
        self.note_memory();
        let mut child = self
            .running
            .remove(&node)
            .ok_or_else(|| CommandError::failed(format!("node {node} does not run")))?;
        child.kill().map_err(CommandError::failed)?;
        child.wait().map_err(CommandError::failed)?;
        Ok(())
    }

    fn note_memory(&mut self) {
        for child in self.running.values() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
            let peak = status.ok().and_then(|status| {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmHWM:"))?;
                line.split_whitespace().next()?.parse().ok()
            });
            self.memory_kib = self.memory_kib.max(peak.unwrap_or(0));
        }
    }

    /// The greatest resident memory any node has had, in KiB.
    pub fn memory_kib(&mut self) -> u64 {
        self.note_memory();
        self.memory_kib
    }

    /// Stops all in order, with SIGTERM.
    pub fn stop_all(&mut self) -> Result<(), CommandError> {
        for child in self.running.values() {
            terminate(child)?;
        }
        let until = Instant::now() + STOP_WAIT;
        for (node, mut child) in core::mem::take(&mut self.running) {
            loop {
                if let Some(status) = child.try_wait().map_err(CommandError::failed)? {
                    if !status.success() {
                        return Err(CommandError::failed(format!(
                            "node {node} did not stop in order: {status}"
                        )));
                    }
                    break;
                }
                if Instant::now() > until {
                    child.kill().map_err(CommandError::failed)?;
                    return Err(CommandError::failed(format!(
                        "node {node} did not stop within {} s",
                        STOP_WAIT.as_secs()
                    )));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// The data directories of all nodes.
    pub fn directories(&self) -> Result<Vec<OfflineDir>, CommandError> {
        self.cluster
            .configs
            .values()
            .map(|file| {
                let config = NodeConfig::load(file).map_err(CommandError::failed)?;
                OfflineDir::open(&config.data_dir).map_err(CommandError::failed)
            })
            .collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // One that has ended already can't be killed; that is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(child: &Child) -> Result<(), CommandError> {
    clustor_shards::sys::terminate(child.id()).map_err(CommandError::failed)
}
