//! The static placement: which nodes there are, where they listen, and which shard holds which replica.
//!
//! A [`PlacementDraft`] is written as TOML and signed; a [`Placement`] is what a node believes, and exists only for
//! bytes whose signature was verified and whose rules hold. Two nodes talk only if their placements have the same
//! [`Placement::digest`].

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clustor_shards::log::Encoding;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{ClusterId, NodeId, PartitionId, ShardId};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{PlacementKey, PlacementSecret, SecurityError};

/// The version of the manifest that this release writes and reads.
pub const PLACEMENT_VERSION: u32 = 1;
/// The longest manifest in bytes, signature included.
pub const PLACEMENT_BYTES_MAX: usize = 16 << 20;
/// Nodes of a cluster.
pub const PLACEMENT_NODES_MAX: usize = 1024;
/// Data shards of a node.
pub const PLACEMENT_SHARDS_MAX: usize = 1024;
/// Partitions of a cluster.
pub const PLACEMENT_PARTITIONS_MAX: usize = 65_536;
/// Replicas of a partition.
pub const PLACEMENT_REPLICAS_MAX: usize = 7;

const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const VALUE_CHARS_SHOWN: usize = 60;

/// A node as the placement names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedNode {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its data shards, numbered from 0.
    pub shards: u16,
}

/// A placement before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementDraft {
    /// The cluster.
    pub cluster: ClusterId,
    /// The trust domain of its certificates.
    pub trust_domain: String,
    /// Codec of record bodies: 1 binary, 2 json.
    pub record_codec: u8,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, PlacedNode>,
    /// The partitions and their replicas.
    pub partitions: BTreeMap<PartitionId, Vec<PeerId>>,
}

impl PlacementDraft {
    /// Puts one replica of each of `partitions` partitions, numbered from 1, on `replicas` nodes each, in turns over
    /// all nodes and their shards.
    #[must_use]
    pub fn spread(mut self, partitions: u32, replicas: usize) -> Self {
        let nodes: Vec<_> = self.nodes.iter().map(|(id, n)| (*id, n.shards)).collect();
        self.partitions = (0..partitions as usize)
            .map(|number| {
                let held = (0..replicas.min(nodes.len())).map(|replica| {
                    let (node, shards) = nodes[(number + replica) % nodes.len()];
                    // All partitions with the same nodes, one after another, go over the shards.
                    let shard = number / nodes.len() % usize::from(shards.max(1));
                    PeerId {
                        node,
                        shard: ShardId(shard as u16),
                    }
                });
                (PartitionId(number as u128 + 1), held.collect())
            })
            .collect();
        self
    }

    /// The manifest's text and its signature line.
    ///
    /// # Errors
    /// What [`Placement::load`] would refuse.
    pub fn sign(&self, secret: &PlacementSecret) -> Result<String, SecurityError> {
        let file = secret.sign(self.to_text());
        Placement::load(file.as_bytes(), &secret.public())?;
        Ok(file)
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"clustor cluster 1\0");
        hash.update(self.cluster.get().to_le_bytes());
        hash.update([self.record_codec]);
        hash.update((self.trust_domain.len() as u64).to_le_bytes());
        hash.update(self.trust_domain.as_bytes());
        for id in self.partitions.keys() {
            hash.update(id.get().to_le_bytes());
        }
        hash.finalize().into()
    }

    fn to_text(&self) -> String {
        let codec = Encoding::from_u8(self.record_codec).map_or("unknown", Encoding::name);
        let mut text = format!(
            "version = {PLACEMENT_VERSION}\ncluster = \"{:032x}\"\ntrust_domain = \"{}\"\nrecord_codec = \"{codec}\"\n",
            self.cluster.get(),
            self.trust_domain,
        );
        for (id, node) in &self.nodes {
            let PlacedNode { address, shards } = node;
            write!(
                text,
                "\n[[node]]\nid = {id}\naddress = \"{address}\"\nshards = {shards}\n"
            )
            .expect("a string takes everything");
        }
        for (id, replicas) in &self.partitions {
            let replicas: Vec<_> = replicas
                .iter()
                .map(|at| format!("\"{}/{}\"", at.node, at.shard))
                .collect();
            write!(
                text,
                "\n[[partition]]\nid = \"{id}\"\nreplicas = [{}]\n",
                replicas.join(", ")
            )
            .expect("a string takes everything");
        }
        text
    }
}

/// Something that is allowed and seldom meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementWarning {
    /// An even number of voters tolerates no more failures than one voter less.
    EvenVoters {
        /// The first such partition.
        partition: PartitionId,
        /// Its replicas.
        replicas: usize,
        /// How many such partitions there are.
        partitions: usize,
    },
    /// A node that holds nothing.
    IdleNode {
        /// Which.
        node: NodeId,
    },
}

impl core::fmt::Display for PlacementWarning {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::EvenVoters {
                partition,
                replicas,
                partitions,
            } => write!(
                f,
                "{partitions} partitions, the first {partition}, have an even number of replicas ({replicas}): they \
                 tolerate no more failures than with one less"
            ),
            Self::IdleNode { node } => write!(f, "node {node} holds no replica"),
        }
    }
}

/// A placement whose signature and rules were verified.
#[derive(Debug, Clone)]
pub struct Placement {
    draft: PlacementDraft,
    by_shard: BTreeMap<PeerId, Vec<PartitionId>>,
    warnings: Vec<PlacementWarning>,
    digest: [u8; 32],
    file: Vec<u8>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "version")]
    _version: u32,
    cluster: String,
    trust_domain: String,
    record_codec: String,
    #[serde(default)]
    node: Vec<ManifestNode>,
    #[serde(default)]
    partition: Vec<ManifestPartition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestNode {
    id: u64,
    address: String,
    shards: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestPartition {
    id: String,
    replicas: Vec<String>,
}

impl Placement {
    /// Verifies and reads a signed manifest: the signature first, over the exact bytes, then the form, then the
    /// rules.
    ///
    /// # Errors
    /// All but the first variant of [`SecurityError`].
    pub fn load(file: &[u8], key: &PlacementKey) -> Result<Self, SecurityError> {
        if file.len() > PLACEMENT_BYTES_MAX {
            return Err(SecurityError::PlacementTooLong { bytes: file.len() });
        }
        let signed = key.verify(file)?;
        let text = core::str::from_utf8(signed).map_err(|_| SecurityError::Syntax {
            line: 0,
            why: "not UTF-8".to_owned(),
        })?;
        let VersionOnly { version } = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        if version != PLACEMENT_VERSION {
            return Err(SecurityError::UnknownVersion { version });
        }
        let manifest: Manifest = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        let draft = manifest.judge()?;
        let mut by_shard: BTreeMap<PeerId, Vec<PartitionId>> = BTreeMap::new();
        for (partition, replicas) in &draft.partitions {
            for at in replicas {
                by_shard.entry(*at).or_default().push(*partition);
            }
        }
        Ok(Self {
            warnings: warnings(&draft),
            by_shard,
            digest: draft.digest(),
            draft,
            file: file.to_vec(),
        })
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.draft.cluster
    }

    /// The trust domain of the cluster's certificates.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.draft.trust_domain
    }

    /// Codec of record bodies: 1 binary, 2 json.
    #[must_use]
    pub const fn record_codec(&self) -> u8 {
        self.draft.record_codec
    }

    /// The nodes, ascending.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<NodeId, PlacedNode> {
        &self.draft.nodes
    }

    /// The partitions and their replicas, ascending.
    #[must_use]
    pub const fn partitions(&self) -> &BTreeMap<PartitionId, Vec<PeerId>> {
        &self.draft.partitions
    }

    /// One node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<PlacedNode> {
        self.draft.nodes.get(&node).copied()
    }

    /// The replicas of one partition.
    #[must_use]
    pub fn replicas(&self, partition: PartitionId) -> Option<&[PeerId]> {
        self.draft.partitions.get(&partition).map(Vec::as_slice)
    }

    /// The shard of `node` that holds a replica of `partition`.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId, node: NodeId) -> Option<ShardId> {
        let replicas = self.replicas(partition)?;
        let at = replicas.iter().find(|at| at.node == node)?;
        Some(at.shard)
    }

    /// The partitions with a replica on this shard, ascending.
    #[must_use]
    pub fn partitions_on(&self, at: PeerId) -> &[PartitionId] {
        self.by_shard.get(&at).map_or(&[], Vec::as_slice)
    }

    /// The shards of other nodes that share a partition with this one, ascending, with their nodes' addresses.
    #[must_use]
    pub fn peers_of(&self, at: PeerId) -> Vec<(PeerId, SocketAddr)> {
        let peers: BTreeSet<PeerId> = self
            .partitions_on(at)
            .iter()
            .flat_map(|partition| &self.draft.partitions[partition])
            .copied()
            .filter(|peer| peer.node != at.node)
            .collect();
        peers
            .into_iter()
            .map(|peer| (peer, self.draft.nodes[&peer.node].address))
            .collect()
    }

    /// What is allowed and seldom meant.
    #[must_use]
    pub fn warnings(&self) -> &[PlacementWarning] {
        &self.warnings
    }

    /// SHA-256 of what must be the same on every node: the cluster, its trust domain, the encoding of its logs, and which
    /// partitions there are. Nodes, their addresses and who holds what may differ: members come and go meanwhile.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The signed file, as it was loaded.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.file
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> SecurityError {
    let line = error.span().map_or(0, |span| {
        text.as_bytes()[..span.start.min(text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    });
    SecurityError::Syntax {
        line,
        why: error.message().to_owned(),
    }
}

fn field(field: impl Into<String>, value: &str, expected: &'static str) -> SecurityError {
    SecurityError::Field {
        field: field.into(),
        value: value.chars().take(VALUE_CHARS_SHOWN).collect(),
        expected,
    }
}

fn count(what: impl Into<String>, count: usize, limit: usize) -> Result<(), SecurityError> {
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    Err(SecurityError::Count {
        what: what.into(),
        count,
        limit,
    })
}

impl Manifest {
    fn judge(self) -> Result<PlacementDraft, SecurityError> {
        let cluster = Some(&self.cluster)
            .filter(|text| text.len() == 32 && !text.bytes().any(|b| b.is_ascii_uppercase()))
            .and_then(|text| u128::from_str_radix(text, 16).ok())
            .filter(|id| *id != 0)
            .ok_or_else(|| {
                let expected = "32 lowercase hexadecimal digits, not all 0";
                field("cluster", &self.cluster, expected)
            })?;
        let domain_fits = (1..=TRUST_DOMAIN_BYTES_MAX).contains(&self.trust_domain.len())
            && self
                .trust_domain
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
        if !domain_fits {
            let expected = "1 to 255 of a-z 0-9 . - _";
            return Err(field("trust_domain", &self.trust_domain, expected));
        }
        let Some(record_codec) = Encoding::from_name(&self.record_codec) else {
            return Err(field(
                "record_codec",
                &self.record_codec,
                "`binary` or `json`",
            ));
        };
        let nodes = judge_nodes(&self.node)?;
        let partitions = judge_partitions(&self.partition, &nodes)?;
        Ok(PlacementDraft {
            cluster: ClusterId(cluster),
            trust_domain: self.trust_domain,
            record_codec: record_codec as u8,
            nodes,
            partitions,
        })
    }
}

fn judge_nodes(listed: &[ManifestNode]) -> Result<BTreeMap<NodeId, PlacedNode>, SecurityError> {
    count("nodes", listed.len(), PLACEMENT_NODES_MAX)?;
    let mut nodes = BTreeMap::new();
    let mut addresses: BTreeMap<SocketAddr, NodeId> = BTreeMap::new();
    for entry in listed {
        let node = NodeId(entry.id);
        let address: SocketAddr = entry.address.parse().map_err(|_| {
            let name = format!("address of node {node}");
            field(name, &entry.address, "an IP address and a port")
        })?;
        if address.port() == 0 {
            let name = format!("address of node {node}");
            return Err(field(name, &entry.address, "a port that is not 0"));
        }
        let what = format!("shards on node {node}");
        count(what, usize::from(entry.shards), PLACEMENT_SHARDS_MAX)?;
        if let Some(first) = addresses.insert(address, node)
            && first != node
        {
            return Err(SecurityError::DuplicateAddress {
                address,
                first,
                second: node,
            });
        }
        let placed = PlacedNode {
            address,
            shards: entry.shards,
        };
        if nodes.insert(node, placed).is_some() {
            return Err(SecurityError::DuplicateNode { node });
        }
    }
    Ok(nodes)
}

fn judge_partitions(
    listed: &[ManifestPartition],
    nodes: &BTreeMap<NodeId, PlacedNode>,
) -> Result<BTreeMap<PartitionId, Vec<PeerId>>, SecurityError> {
    count("partitions", listed.len(), PLACEMENT_PARTITIONS_MAX)?;
    let mut partitions = BTreeMap::new();
    for entry in listed {
        let id = parse_decimal(&entry.id)
            .ok_or_else(|| field("partition id", &entry.id, "a decimal number below 2^128"))?;
        let partition = PartitionId(id);
        let what = format!("replicas of partition {partition}");
        count(what, entry.replicas.len(), PLACEMENT_REPLICAS_MAX)?;
        let mut replicas: Vec<PeerId> = Vec::with_capacity(entry.replicas.len());
        for text in &entry.replicas {
            let at = parse_replica(text).ok_or_else(|| {
                let name = format!("replica of partition {partition}");
                field(name, text, "`<node>/<shard>`")
            })?;
            let node = nodes.get(&at.node).ok_or(SecurityError::UnknownNode {
                partition,
                node: at.node,
            })?;
            if at.shard.get() >= node.shards {
                return Err(SecurityError::UnknownShard {
                    partition,
                    at,
                    last: node.shards - 1,
                });
            }
            if replicas.iter().any(|other| other.node == at.node) {
                return Err(SecurityError::ReplicasShareNode {
                    partition,
                    node: at.node,
                });
            }
            replicas.push(at);
        }
        if partitions.insert(partition, replicas).is_some() {
            return Err(SecurityError::DuplicatePartition { partition });
        }
    }
    Ok(partitions)
}

/// A decimal number in its one form: no sign, no leading zeros.
fn parse_decimal<T: core::str::FromStr + ToString>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn parse_replica(text: &str) -> Option<PeerId> {
    let (node, shard) = text.split_once('/')?;
    Some(PeerId {
        node: NodeId(parse_decimal(node)?),
        shard: ShardId(parse_decimal(shard)?),
    })
}

fn warnings(draft: &PlacementDraft) -> Vec<PlacementWarning> {
    let mut warnings = Vec::new();
    let mut even = draft
        .partitions
        .iter()
        .filter(|(_, replicas)| replicas.len() % 2 == 0);
    if let Some((partition, replicas)) = even.next() {
        warnings.push(PlacementWarning::EvenVoters {
            partition: *partition,
            replicas: replicas.len(),
            partitions: 1 + even.count(),
        });
    }
    let busy: BTreeSet<NodeId> = draft
        .partitions
        .values()
        .flatten()
        .map(|at| at.node)
        .collect();
    let idle = draft.nodes.keys().filter(|node| !busy.contains(node));
    warnings.extend(idle.map(|node| PlacementWarning::IdleNode { node: *node }));
    warnings
}
