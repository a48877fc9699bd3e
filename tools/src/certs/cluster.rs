//! A whole cluster's directory: CA, certificates, signed placement, and a config per node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clustor_engine::security::{
    PlacedNode, Placement, PlacementDraft, PlacementKey, PlacementSecret, Role, SpiffeId, TlsFiles,
};
use clustor_shards::log::Encoding;
use clustor_wire::ids::{ClusterId, NodeId};

use super::CertsError;
use super::authority::Authority;
use crate::config::NodeConfig;
use crate::files;

const SECRET_BYTES_MAX: u64 = 4096;

/// What a new cluster shall be.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// Where its files go; made if need be.
    pub dir: PathBuf,
    /// The trust domain; `None`: `clustor-` and the first 16 digits of the cluster's id.
    pub trust_domain: Option<String>,
    /// Its nodes: where each listens and how many data shards it has.
    pub nodes: BTreeMap<NodeId, PlacedNode>,
    /// Its partitions, spread over all nodes and shards.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replicas: usize,
    /// Names of clients that get a certificate, as `client-<name>.pem`.
    pub clients: Vec<String>,
    /// Names of operators that get a certificate, as `operator-<name>.pem`.
    pub operators: Vec<String>,
    /// How long certificates last, in days.
    pub days: u32,
    /// The profile in the configs.
    pub profile: String,
    /// Size of a segment file in the configs, in bytes; `None`: the profile's.
    pub segment_bytes: Option<u64>,
}

/// A cluster that was made.
#[derive(Debug)]
pub struct Cluster {
    /// Its directory.
    pub dir: PathBuf,
    /// Its trust domain.
    pub trust_domain: String,
    /// Config file of each node.
    pub configs: BTreeMap<NodeId, PathBuf>,
    /// Certificate files of each client.
    pub clients: BTreeMap<String, TlsFiles>,
    /// Certificate files of each operator.
    pub operators: BTreeMap<String, TlsFiles>,
    /// The signed placement.
    pub placement: PathBuf,
    /// The public key that verifies it.
    pub placement_key: PathBuf,
    /// The same, loaded.
    pub loaded: Placement,
}

/// The placement's files in `dir`: the signed manifest, the public and the secret key.
#[must_use]
pub fn placement_files(dir: &Path) -> [PathBuf; 3] {
    ["placement.toml", "placement.pub", "placement.secret"].map(|name| dir.join(name))
}

/// Nodes 1 to `count` at consecutive ports.
///
/// # Errors
/// [`CertsError::Plan`] if the ports don't fit.
pub fn nodes_in_a_row(
    count: u16,
    first: SocketAddr,
    shards: u16,
) -> Result<BTreeMap<NodeId, PlacedNode>, CertsError> {
    (0..count)
        .map(|at| {
            let port = first.port().checked_add(at).ok_or_else(|| {
                CertsError::Plan(format!("{count} ports from {} on do not fit", first.port()))
            })?;
            let address = SocketAddr::new(first.ip(), port);
            Ok((NodeId(u64::from(at) + 1), PlacedNode { address, shards }))
        })
        .collect()
}

/// Makes everything a new cluster needs in one directory. Nothing is overwritten, and nothing is written if any of
/// the files is there already.
///
/// # Errors
/// [`CertsError`].
pub fn make_cluster(plan: &ClusterPlan) -> Result<Cluster, CertsError> {
    let cluster = random_cluster()?;
    let trust_domain = plan.trust_domain.clone().unwrap_or_else(|| {
        let digits = format!("{:032x}", cluster.get());
        format!("clustor-{}", &digits[..16])
    });
    let draft = PlacementDraft {
        cluster,
        trust_domain: trust_domain.clone(),
        record_codec: Encoding::Binary as u8,
        nodes: plan.nodes.clone(),
        partitions: BTreeMap::new(),
    }
    .spread(plan.partitions, plan.replicas);
    if plan.replicas > plan.nodes.len() {
        let (replicas, nodes) = (plan.replicas, plan.nodes.len());
        return Err(CertsError::Plan(format!(
            "{replicas} replicas need as many nodes, there are {nodes}"
        )));
    }
    let secret = random_secret()?;
    let ids = identities(plan, &trust_domain)?;
    let signed = draft
        .sign(&secret)
        .map_err(|error| CertsError::Plan(error.to_string()))?;
    refuse_existing(plan, &ids)?;

    files::make_dir(&plan.dir)?;
    let authority = Authority::create(&plan.dir, &trust_domain)?;
    let (mut clients, mut operators) = (BTreeMap::new(), BTreeMap::new());
    for (name, id) in &ids {
        let issued = authority.issue(name, id, plan.days)?;
        match id.role() {
            Role::Client(client) => drop(clients.insert(client.clone(), issued)),
            Role::Operator(operator) => drop(operators.insert(operator.clone(), issued)),
            Role::Node(_) => {}
        }
    }
    let [placement, placement_key, placement_secret] = placement_files(&plan.dir);
    files::create_secret(&placement_secret, &secret.to_text())?;
    files::create(&placement_key, &format!("{}\n", secret.public()))?;
    files::create(&placement, &signed)?;
    let mut configs = BTreeMap::new();
    for node in plan.nodes.keys() {
        let config = NodeConfig::beside(*node, &plan.profile, plan.segment_bytes);
        let path = plan.dir.join(&config.file);
        files::create(&path, &config.to_text())?;
        configs.insert(*node, path);
    }
    Ok(Cluster {
        dir: plan.dir.clone(),
        trust_domain,
        configs,
        clients,
        operators,
        loaded: Placement::load(signed.as_bytes(), &secret.public())?,
        placement,
        placement_key,
    })
}

/// Makes the key pair that signs placements in `dir`.
///
/// # Errors
/// [`CertsError`].
pub fn make_placement_keys(dir: &Path) -> Result<PlacementKey, CertsError> {
    let secret = random_secret()?;
    let [_, public_path, secret_path] = placement_files(dir);
    files::none_exists([public_path.as_path(), secret_path.as_path()])?;
    files::create_secret(&secret_path, &secret.to_text())?;
    files::create(&public_path, &format!("{}\n", secret.public()))?;
    Ok(secret.public())
}

/// The secret key in `dir`.
///
/// # Errors
/// [`CertsError`].
pub fn load_placement_secret(dir: &Path) -> Result<PlacementSecret, CertsError> {
    let [_, _, path] = placement_files(dir);
    Ok(PlacementSecret::parse(&files::read_secret(
        &path,
        SECRET_BYTES_MAX,
    )?)?)
}

/// A cluster id from the operating system's generator.
///
/// # Errors
/// [`CertsError::Random`].
pub fn random_cluster() -> Result<ClusterId, CertsError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| CertsError::Random(error.to_string()))?;
    // 0 stands for "not said" in a preface.
    Ok(ClusterId(u128::from_le_bytes(bytes).max(1)))
}

fn random_secret() -> Result<PlacementSecret, CertsError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| CertsError::Random(error.to_string()))?;
    Ok(PlacementSecret::from_seed(&seed))
}

/// File names and identities of all certificates of the plan.
fn identities(
    plan: &ClusterPlan,
    trust_domain: &str,
) -> Result<Vec<(String, SpiffeId)>, CertsError> {
    let nodes = plan
        .nodes
        .keys()
        .map(|node| (format!("node-{node}"), Role::Node(*node)));
    let clients = plan
        .clients
        .iter()
        .map(|name| (format!("client-{name}"), Role::Client(name.clone())));
    let operators = plan
        .operators
        .iter()
        .map(|name| (format!("operator-{name}"), Role::Operator(name.clone())));
    nodes
        .chain(clients)
        .chain(operators)
        .map(|(name, role)| Ok((name, SpiffeId::new(trust_domain, role)?)))
        .collect()
}

fn refuse_existing(plan: &ClusterPlan, ids: &[(String, SpiffeId)]) -> Result<(), CertsError> {
    let mut paths: Vec<PathBuf> = Authority::files(&plan.dir).into();
    paths.extend(placement_files(&plan.dir));
    for (name, _) in ids {
        let issued = Authority::issued_files(&plan.dir, name);
        paths.extend([issued.certificate, issued.key]);
    }
    for node in plan.nodes.keys() {
        paths.push(plan.dir.join(format!("node-{node}.toml")));
    }
    Ok(files::none_exists(paths.iter().map(PathBuf::as_path))?)
}
