//! `clustor-bench cluster`: three nodes in this process, over loopback TLS, closed loop.
//!
//! Each node is a whole engine with one shard, a certificate and a place in a signed placement; entries are acknowledged
//! when a quorum has them durable. The three share this machine's processors and its one device, so what this shows is
//! the cost of the way, not what three machines can do.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use clustor_engine::engine::{AppendOptions, Engine, Member, PartitionHandle};
use clustor_engine::outcome::Leadership;
use clustor_engine::profile::Profile;
use clustor_engine::security::{
    PlacedNode, Placement, PlacementDraft, PlacementSecret, Role, SpiffeId, TlsFiles, TlsIdentity,
};
use clustor_shards::disk::FlushKind;
use clustor_shards::log::Encoding;
use clustor_shards::uring::{ChainSteps, RigWork};
use clustor_wire::ids::{ClusterId, NodeId, PartitionId};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::closed_loop::{Span, closed_loop};
use crate::device::{Device, flush_name};
use crate::interrupt::Interrupt;
use crate::nothing::Nothing;
use crate::progress::Progress;
use crate::report::{Line, Machine, MeasuredAt, Report, Round, Workload};
use crate::setup::{STOP_WAIT, Setup};
use crate::{BenchError, Common};

/// Nodes of a cluster.
pub const NODES: u64 = 3;
const TRUST_DOMAIN: &str = "clustor-bench";
const SEGMENT_BYTES: u64 = 64 << 20;
/// What is run before the clock starts.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a client that found no leader waits before it looks again.
const LEADER_PAUSE: Duration = Duration::from_millis(5);
/// How long the nodes may take to elect leaders.
const LEADERS_WAIT: Duration = Duration::from_secs(20);

/// Measures three nodes in one process, over loopback TLS.
///
/// Closed loop: each client is a thread with one append under way, at the node that leads its partition, answered when
/// a quorum has it durable. Group-fsync and strict.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench cluster
  clustor-bench cluster --dir /var/lib/clustor --seconds 10 --clients 1,64 --json cluster.json

Needs about 1 GiB in DIR, on a file system with direct I/O (not tmpfs).
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Clients, a list: each is measured by itself (1 to 256).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: Vec<u32>,
    /// Bytes of each entry (1 to 65536).
    #[arg(long, value_name = "N", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub payload_bytes: u32,
    /// Partitions (1 to 64); clients go to them in turns.
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub partitions: u32,
}

/// Measures strict and group-fsync with every number of clients.
///
/// # Errors
/// When the place is no good, a node fails, or a signal came before anything was measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let setup = Setup::begin(&options.common)?;
    let mut device = Device::open(setup.path(), 1, &setup.interrupt)?;
    let mut report = Report::new(Machine::of(&setup.place, device.writer_mode()));
    let mut progress = Progress::new(2 * options.clients.len());
    for (name, profile) in [
        ("strict", Profile::latency()),
        ("group", Profile::throughput()),
    ] {
        let directory = setup.path().join(name);
        let cluster = Cluster::start(
            &directory,
            options.partitions,
            &profile,
            LEADERS_WAIT,
            &setup.interrupt,
        )?;
        for &clients in &options.clients {
            progress.step(&format!("{name}, {clients} clients"));
            let line = Line {
                benchmark: "cluster",
                mode: name,
                suite: profile.sealing.name(),
                flush: flush_name(profile.flush),
                workload: Workload {
                    depth: clients,
                    payload_bytes: options.payload_bytes,
                },
                measured_at: MeasuredAt::Handle,
            };
            let mut rounds = Vec::new();
            for _ in 0..options.common.repeat {
                match cluster.round(&setup, &mut device, clients, options.payload_bytes) {
                    Ok(round) => rounds.push(round),
                    Err(BenchError::Interrupted) => {
                        report.add(line, rounds);
                        return report.interrupted();
                    }
                    Err(error) => return Err(error),
                }
            }
            report.add(line, rounds);
        }
        cluster.stop()?;
    }
    Ok(report)
}

/// Three engines and the handles of their partitions.
pub struct Cluster {
    engines: Vec<Engine>,
    /// Per partition, each node's handle.
    handles: Vec<Vec<PartitionHandle<Nothing>>>,
}

impl Cluster {
    /// Starts it, and waits for as long as `patience` until every partition has a leader.
    ///
    /// # Errors
    /// When it does not start in time, or a signal came.
    pub fn start(
        directory: &Path,
        partitions: u32,
        profile: &Profile,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let (placement, identities) = credentials(directory, partitions)?;
        let mut engines = Vec::new();
        for (node, identity) in identities {
            let mut builder = Engine::builder(directory.join(format!("data-{node}")))
                .profile(profile.clone().with_segment_bytes(SEGMENT_BYTES));
            for partition in 1..=partitions {
                builder = builder.partition(u128::from(partition), |_| Nothing);
            }
            let member = Member {
                placement: placement.clone(),
                identity,
                listen: None,
            };
            engines.push(builder.node(member).start()?);
        }
        let handles: Vec<Vec<PartitionHandle<Nothing>>> = (1..=partitions)
            .map(|partition| {
                engines
                    .iter()
                    .map(|engine| engine.partition::<Nothing>(u128::from(partition)))
                    .collect()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let until = Instant::now() + patience;
        while !handles.iter().all(|nodes| leader_of(nodes).is_some()) {
            interrupt.check()?;
            if Instant::now() > until {
                return Err(BenchError::Refused(format!(
                    "not every partition had a leader within {} s",
                    patience.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { engines, handles })
    }

    /// One round, and the device's lone chain right behind it.
    fn round(
        &self,
        setup: &Setup,
        device: &mut Device<'_>,
        clients: u32,
        payload_bytes: u32,
    ) -> Result<Round, BenchError> {
        let span = Span {
            warm_up: WARM_UP,
            time: setup.time,
        };
        let clients = (0..clients as usize)
            .map(|client| {
                let nodes = self.handles[client % self.handles.len()].clone();
                let body = vec![0x5a; payload_bytes as usize];
                move || Ok(append(&nodes, &body))
            })
            .collect();
        let (measured, allocations) = closed_loop(clients, span, &setup.interrupt)?;
        let work = RigWork {
            steps: ChainSteps::Full,
            depth: 1,
            blocks: 1,
            flush: FlushKind::default(),
        };
        Ok(Round {
            allocations: Some(allocations),
            device: Some((work, device.measure(work, setup.time)?)),
            ..Round::new(measured)
        })
    }

    /// One client's appends to the first partition: the median, in microseconds.
    ///
    /// # Errors
    /// When a signal came.
    pub fn lone_latency_us(
        &self,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<f64, BenchError> {
        let span = Span {
            warm_up: WARM_UP,
            time,
        };
        let nodes = self.handles[0].clone();
        let client = move || Ok(append(&nodes, &[0x5a; 128]));
        let (measured, _) = closed_loop(vec![client], span, interrupt)?;
        Ok(measured.quantile_us(0.5))
    }

    /// Stops it.
    ///
    /// # Errors
    /// When a node does not stop in time.
    pub fn stop(self) -> Result<(), BenchError> {
        drop(self.handles);
        for engine in self.engines {
            engine.shutdown(STOP_WAIT)?;
        }
        Ok(())
    }
}

fn leader_of(nodes: &[PartitionHandle<Nothing>]) -> Option<&PartitionHandle<Nothing>> {
    nodes
        .iter()
        .find(|node| matches!(node.leadership().latest(), Leadership::Ready { .. }))
}

/// Appends at the leader; false if it was refused, or nobody leads: then the leader is looked for again.
fn append(nodes: &[PartitionHandle<Nothing>], body: &[u8]) -> bool {
    let Some(node) = leader_of(nodes) else {
        std::thread::sleep(LEADER_PAUSE);
        return false;
    };
    let answer = node
        .append_with(body.to_vec(), AppendOptions::new().at_commit())
        .wait();
    if answer.is_err() {
        std::thread::sleep(LEADER_PAUSE);
    }
    answer.is_ok()
}

/// Certificates, and a placement that names three free ports.
fn credentials(
    directory: &Path,
    partitions: u32,
) -> Result<(Placement, BTreeMap<NodeId, TlsIdentity>), BenchError> {
    let wrong = |error: &dyn core::fmt::Display| BenchError::Place(format!("credentials: {error}"));
    fs::create_dir_all(directory).map_err(|error| wrong(&error))?;
    let mut listeners = Vec::new();
    let mut nodes = BTreeMap::new();
    for node in 1..=NODES {
        // Held until all are drawn, so that no port is drawn twice.
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .map_err(|error| wrong(&error))?;
        let address = listener.local_addr().map_err(|error| wrong(&error))?;
        nodes.insert(NodeId(node), PlacedNode { address, shards: 1 });
        listeners.push(listener);
    }
    let secret = PlacementSecret::from_seed(&[9; 32]);
    let signed = PlacementDraft {
        cluster: ClusterId(1),
        trust_domain: TRUST_DOMAIN.to_owned(),
        record_codec: Encoding::Binary as u8,
        nodes,
        partitions: BTreeMap::<PartitionId, _>::new(),
    }
    .spread(partitions, NODES as usize)
    .sign(&secret)
    .map_err(|error| wrong(&error))?;
    let placement =
        Placement::load(signed.as_bytes(), &secret.public()).map_err(|error| wrong(&error))?;
    let identities = identities(directory).map_err(|error| wrong(&error))?;
    Ok((placement, identities))
}

fn identities(
    directory: &Path,
) -> Result<BTreeMap<NodeId, TlsIdentity>, Box<dyn std::error::Error>> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let ca_path = directory.join("ca.pem");
    fs::write(&ca_path, ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let mut identities = BTreeMap::new();
    for node in (1..=NODES).map(NodeId) {
        let id = SpiffeId::new(TRUST_DOMAIN, Role::Node(node))?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        let key = KeyPair::generate()?;
        let files = TlsFiles {
            ca: ca_path.clone(),
            certificate: directory.join(format!("node-{node}.pem")),
            key: directory.join(format!("node-{node}.key")),
        };
        fs::write(&files.certificate, params.signed_by(&key, &issuer)?.pem())?;
        write_secret(&files.key, &key.serialize_pem())?;
        identities.insert(node, TlsIdentity::load(&files, SystemTime::now())?);
    }
    Ok(identities)
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
