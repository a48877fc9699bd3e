//! `clustor certs`: the command line over this room.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clustor_engine::security::{
    PLACEMENT_BYTES_MAX, PlacedNode, Placement, PlacementDraft, PlacementKey, Role, SpiffeId,
    TlsFiles,
};
use clustor_shards::log::Encoding;
use clustor_wire::ids::NodeId;
use serde_json::{Value, json};

use super::{
    Authority, CertsError, ClusterPlan, DEFAULT_CLIENT, DEFAULT_OPERATOR, load_placement_secret,
    make_cluster, make_placement_keys, nodes_in_a_row, placement_files, random_cluster,
};
use crate::exit::{CommandError, EXIT_HELP};
use crate::files;
use crate::json;

const EXAMPLES: &str = "\
Examples:
  clustor certs cluster --dir dev                        three nodes on 127.0.0.1, ports 7401 to 7403
  clustor certs cluster --dir dev --nodes 5 --shards 4 --partitions 64 --replicas 5
  clustor certs init --dir pki --trust-domain prod.example
  clustor certs node --dir pki --trust-domain prod.example --id 4
  clustor certs client --dir pki --trust-domain prod.example --name kv
  clustor certs placement --dir pki --trust-domain prod.example \\
      --node 1=10.0.0.1:7401/2 --node 2=10.0.0.2:7401/2 --node 3=10.0.0.3:7401/2 --partitions 16

Limits: 1024 nodes, 1024 shards each, 65536 partitions, 7 replicas each; names of 1 to 64 of A-Z a-z 0-9 . - _";

/// Makes certificates, keys and the signed placement of a cluster.
///
/// Secrets get mode 0600. Nothing is ever overwritten. The CA's and the placement's secret keys belong to the
/// operator: a node needs neither.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct CertsArgs {
    /// Print what was made as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A whole development cluster in one directory: CA, certificates, placement, a config per node.
    #[command(
        after_help = "Examples:\n  clustor certs cluster --dir dev\n  clustor certs cluster --dir dev --client kv --operator mae --profile throughput"
    )]
    Cluster(ClusterArgs),
    /// A CA, and the key pair that signs placements.
    #[command(after_help = "Examples:\n  clustor certs init --dir pki --trust-domain prod.example")]
    Init(Home),
    /// A node's certificate.
    #[command(after_help = "Examples:\n  clustor certs node --dir dev --id 4")]
    Node {
        #[command(flatten)]
        home: Signing,
        /// The node's id.
        #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
        id: u64,
        #[command(flatten)]
        life: Life,
    },
    /// A client's or an operator's certificate.
    #[command(
        after_help = "Examples:\n  clustor certs client --dir dev --name kv\n  clustor certs client --dir dev --name mae --operator"
    )]
    Client {
        #[command(flatten)]
        home: Signing,
        /// The client's name.
        #[arg(long)]
        name: String,
        /// Make it an operator's.
        #[arg(long)]
        operator: bool,
        #[command(flatten)]
        life: Life,
    },
    /// A signed placement: which nodes there are, and which shard holds which replica.
    #[command(
        after_help = "Examples:\n  clustor certs placement --dir pki --trust-domain prod.example --node 1=10.0.0.1:7401/2 --replicas 1\n  clustor certs placement --dir pki --trust-domain prod.example --sign placement.txt"
    )]
    Placement(PlacementArgs),
}

/// Where the CA is that signs.
#[derive(Debug, Args)]
struct Signing {
    /// Directory of the CA and of everything made.
    #[arg(long)]
    dir: PathBuf,
    /// Trust domain in the SPIFFE IDs [default: the one of the placement in that directory]
    #[arg(long)]
    trust_domain: Option<String>,
}

#[derive(Debug, Args)]
struct Home {
    /// Directory of the CA and of everything made.
    #[arg(long)]
    dir: PathBuf,
    /// Trust domain in the SPIFFE IDs: 1 to 255 of a-z 0-9 . - _
    #[arg(long)]
    trust_domain: String,
}

#[derive(Debug, Args)]
struct Life {
    /// How long certificates last, in days.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// Where everything goes; made if need be.
    #[arg(long)]
    dir: PathBuf,
    /// Trust domain in the SPIFFE IDs [default: made from the cluster's id]
    #[arg(long)]
    trust_domain: Option<String>,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: u16,
    /// Data shards of each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: u16,
    /// How many partitions.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    partitions: u32,
    /// Replicas of each partition [default: 3, or the number of nodes if that is less]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=7))]
    replicas: Option<u16>,
    /// Address of the first node; the others follow at the next ports.
    #[arg(long, default_value = "127.0.0.1:7401")]
    listen: SocketAddr,
    /// A client that gets a certificate; may be repeated [default: dev]
    #[arg(long = "client")]
    clients: Vec<String>,
    /// An operator that gets a certificate, for `mode`, `member` and `profile reload`; may be repeated [default: ops]
    #[arg(long = "operator")]
    operators: Vec<String>,
    /// Profile in the configs.
    #[arg(long, default_value = "latency", value_parser = ["latency", "throughput", "wan", "zfs"])]
    profile: String,
    #[command(flatten)]
    life: Life,
}

#[derive(Debug, Args)]
struct PlacementArgs {
    #[command(flatten)]
    home: Home,
    /// A node: `<id>=<ip>:<port>/<shards>`; repeat it for each.
    #[arg(long = "node", value_parser = parse_node, conflicts_with = "sign", required_unless_present = "sign")]
    nodes: Vec<(NodeId, PlacedNode)>,
    /// How many partitions, spread over all nodes and shards.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    partitions: u32,
    /// Replicas of each partition.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    replicas: u16,
    /// Sign this text, written by hand, instead of making one.
    #[arg(long)]
    sign: Option<PathBuf>,
}

fn parse_node(text: &str) -> Result<(NodeId, PlacedNode), String> {
    let parts = text
        .split_once('=')
        .and_then(|(id, rest)| rest.rsplit_once('/').map(|(at, shards)| (id, at, shards)));
    let (id, address, shards) = parts.ok_or("expected <id>=<ip>:<port>/<shards>")?;
    let id = id.parse().map_err(|_| format!("`{id}` is no node id"))?;
    let address = address
        .parse()
        .map_err(|_| format!("`{address}` is no IP address and port"))?;
    let shards = shards
        .parse()
        .map_err(|_| format!("`{shards}` is no number of shards"))?;
    Ok((NodeId(id), PlacedNode { address, shards }))
}

/// Runs `clustor certs`.
///
/// # Errors
/// [`CommandError`], with its exit code.
pub fn run(args: &CertsArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let made = match &args.what {
        What::Cluster(args) => cluster(args)?,
        What::Init(home) => init(home)?,
        What::Node { home, id, life } => {
            issue(home, &format!("node-{id}"), Role::Node(NodeId(*id)), life)?
        }
        What::Client {
            home,
            name,
            operator: false,
            life,
        } => issue(
            home,
            &format!("client-{name}"),
            Role::Client(name.clone()),
            life,
        )?,
        What::Client {
            home, name, life, ..
        } => issue(
            home,
            &format!("operator-{name}"),
            Role::Operator(name.clone()),
            life,
        )?,
        What::Placement(args) => placement(args)?,
    };
    print(&made, args.json, out).map_err(CommandError::failed)
}

/// What was made, for people in this order.
type Made = Vec<(&'static str, Value)>;

fn print(made: &Made, as_json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if as_json {
        let object: serde_json::Map<_, _> = made
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        return json::line(out, &Value::Object(object));
    }
    for (key, value) in made {
        let key = key.replace('_', " ");
        match value {
            Value::Array(values) => {
                for value in values {
                    writeln!(out, "{key:<16}{}", plain(value))?;
                }
            }
            value => writeln!(out, "{key:<16}{}", plain(value))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn shown(path: &Path) -> Value {
    json!(path.display().to_string())
}

fn cluster(args: &ClusterArgs) -> Result<Made, CertsError> {
    let replicas = args.replicas.unwrap_or(args.nodes.min(3));
    let named = |names: &[String], default: &str| match names {
        [] => vec![default.to_owned()],
        some => some.to_vec(),
    };
    let made = make_cluster(&ClusterPlan {
        dir: args.dir.clone(),
        trust_domain: args.trust_domain.clone(),
        nodes: nodes_in_a_row(args.nodes, args.listen, args.shards)?,
        partitions: args.partitions,
        replicas: usize::from(replicas),
        clients: named(&args.clients, DEFAULT_CLIENT),
        operators: named(&args.operators, DEFAULT_OPERATOR),
        days: args.life.days,
        profile: args.profile.clone(),
        segment_bytes: None,
    })?;
    let configs: Vec<_> = made.configs.values().map(|path| shown(path)).collect();
    let certificates = |of: &BTreeMap<String, TlsFiles>| -> Vec<Value> {
        of.values().map(|files| shown(&files.certificate)).collect()
    };
    Ok(vec![
        (
            "cluster",
            json!(format!("{:032x}", made.loaded.cluster().get())),
        ),
        ("trust_domain", json!(made.trust_domain)),
        ("placement", shown(&made.placement)),
        ("placement_key", shown(&made.placement_key)),
        ("configs", json!(configs)),
        ("clients", json!(certificates(&made.clients))),
        ("operators", json!(certificates(&made.operators))),
        ("warnings", warnings(&made.loaded)),
        (
            "next",
            json!(format!(
                "clustor serve --config {}",
                made.dir.join("node-1.toml").display()
            )),
        ),
    ])
}

fn warnings(placement: &Placement) -> Value {
    let texts: Vec<_> = placement
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    json!(texts)
}

fn init(home: &Home) -> Result<Made, CertsError> {
    // A name that no certificate can carry later is refused before anything is written.
    SpiffeId::new(&home.trust_domain, Role::Node(NodeId(1)))?;
    let [ca, ca_key] = Authority::files(&home.dir);
    let [_, public, secret] = placement_files(&home.dir);
    files::none_exists([&ca, &ca_key, &public, &secret].map(PathBuf::as_path))?;
    files::make_dir(&home.dir)?;
    Authority::create(&home.dir, &home.trust_domain)?;
    make_placement_keys(&home.dir)?;
    Ok(vec![
        ("ca", shown(&ca)),
        ("ca_key", shown(&ca_key)),
        ("placement_key", shown(&public)),
        ("placement_secret", shown(&secret)),
    ])
}

/// The trust domain that the placement in `dir` is for.
fn placed_domain(dir: &Path) -> Result<String, CertsError> {
    let [placement, public, _] = placement_files(dir);
    if !placement.exists() {
        return Err(CertsError::Plan(format!(
            "{} has no placement that says the trust domain: give it with --trust-domain",
            dir.display()
        )));
    }
    let key = PlacementKey::parse(&files::read_text(&public, PLACEMENT_BYTES_MAX as u64)?)?;
    let text = files::read_text(&placement, PLACEMENT_BYTES_MAX as u64)?;
    Ok(Placement::load(text.as_bytes(), &key)?
        .trust_domain()
        .to_owned())
}

fn issue(home: &Signing, name: &str, role: Role, life: &Life) -> Result<Made, CertsError> {
    let trust_domain = match &home.trust_domain {
        Some(named) => named.clone(),
        None => placed_domain(&home.dir)?,
    };
    let id = SpiffeId::new(&trust_domain, role)?;
    let issued = Authority::load(&home.dir)?.issue(name, &id, life.days)?;
    Ok(vec![
        ("id", json!(id.to_string())),
        ("certificate", shown(&issued.certificate)),
        ("key", shown(&issued.key)),
    ])
}

fn placement(args: &PlacementArgs) -> Result<Made, CertsError> {
    let dir = &args.home.dir;
    let secret = load_placement_secret(dir)?;
    let signed = match &args.sign {
        Some(path) => {
            let text = files::read_text(path, PLACEMENT_BYTES_MAX as u64)?;
            secret.sign(text)
        }
        None => {
            let mut draft = PlacementDraft {
                cluster: random_cluster()?,
                trust_domain: args.home.trust_domain.clone(),
                record_codec: Encoding::Binary as u8,
                nodes: args.nodes.iter().copied().collect(),
                partitions: BTreeMap::new(),
            };
            if draft.nodes.len() < args.nodes.len() {
                return Err(CertsError::Plan("a node is named twice".to_owned()));
            }
            let replicas = usize::from(args.replicas);
            if replicas > draft.nodes.len() {
                return Err(CertsError::Plan(format!(
                    "{replicas} replicas need as many nodes, there are {}",
                    draft.nodes.len()
                )));
            }
            draft = draft.spread(args.partitions, replicas);
            draft
                .sign(&secret)
                .map_err(|error| CertsError::Plan(error.to_string()))?
        }
    };
    let public: PlacementKey = secret.public();
    let loaded = Placement::load(signed.as_bytes(), &public)?;
    if loaded.trust_domain() != args.home.trust_domain {
        return Err(CertsError::Plan(format!(
            "the text is for trust domain {}, not {}",
            loaded.trust_domain(),
            args.home.trust_domain
        )));
    }
    let [path, _, _] = placement_files(dir);
    files::create(&path, &signed)?;
    Ok(vec![
        ("cluster", json!(format!("{:032x}", loaded.cluster().get()))),
        ("placement", shown(&path)),
        ("warnings", warnings(&loaded)),
    ])
}
