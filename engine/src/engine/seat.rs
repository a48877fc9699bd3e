//! Where an engine sits: alone, or as one node of a cluster under a signed placement.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_shards::host::Claim;
#[cfg(feature = "net")]
use clustor_shards::runtime::{Listening, serve};
use clustor_shards::runtime::{Node, NodeOptions, ShardPlan, start};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};

use super::EngineError;
use super::served::Served;
use super::submission::Submission;
use crate::shard_core::{BootError, ShardCore};

/// What runs on a shard.
pub(super) type Core = Served<ShardCore>;

/// What opens a shard's sockets; nothing for a lone node.
#[cfg(feature = "net")]
pub(super) type Sockets = Option<cluster::ShardSockets>;
#[cfg(not(feature = "net"))]
pub(super) type Sockets = ();

/// A partition's place on this node.
pub(super) struct Place {
    pub shard: ShardId,
    pub voters: Vec<PeerId>,
}

/// Where the engine sits.
pub(super) struct Seat {
    /// Who may use the data directory.
    pub claim: Claim,
    /// How many data shards it has.
    pub shards: usize,
    /// The processors to pin them to.
    pub cpus: Vec<usize>,
    #[cfg(feature = "net")]
    member: Option<cluster::Seated>,
}

impl Seat {
    /// A lone node, on one shard.
    pub fn alone() -> Self {
        Self {
            claim: Claim::Alone,
            shards: 1,
            cpus: Vec::new(),
            #[cfg(feature = "net")]
            member: None,
        }
    }

    #[cfg(feature = "net")]
    pub fn is_alone(&self) -> bool {
        self.member.is_none()
    }

    #[cfg(not(feature = "net"))]
    #[expect(clippy::unused_self, reason = "a member is not alone")]
    pub fn is_alone(&self) -> bool {
        true
    }

    /// Where a partition's replica lies on this node.
    pub fn place(&self, node: NodeId, partition: PartitionId) -> Result<Place, EngineError> {
        #[cfg(feature = "net")]
        if let Some(member) = &self.member {
            return member.place(partition);
        }
        let _ = partition;
        Ok(Place {
            shard: ShardId(0),
            voters: vec![PeerId {
                node,
                shard: ShardId(0),
            }],
        })
    }

    /// The signed placement's bytes, for clients that ask.
    #[cfg(feature = "net")]
    pub fn placement_file(&self) -> Option<Vec<u8>> {
        let member = self.member.as_ref()?;
        Some(member.placement.file().to_vec())
    }

    #[cfg(not(feature = "net"))]
    #[expect(clippy::unused_self, reason = "a member has one")]
    pub fn placement_file(&self) -> Option<Vec<u8>> {
        None
    }

    /// Where nodes listen by the placement.
    #[cfg(feature = "net")]
    pub fn placed(&self) -> Arc<BTreeMap<NodeId, SocketAddr>> {
        let members = self.member.iter();
        let nodes = members.flat_map(|member| member.placement.nodes());
        Arc::new(
            nodes
                .map(|(node, placed)| (*node, placed.address))
                .collect(),
        )
    }

    #[cfg(not(feature = "net"))]
    #[expect(clippy::unused_self, reason = "a member has some")]
    pub fn placed(&self) -> Arc<BTreeMap<NodeId, SocketAddr>> {
        Arc::default()
    }

    /// What opens the sockets of a shard.
    #[cfg(feature = "net")]
    pub fn sockets(&self, me: PeerId) -> Result<Sockets, EngineError> {
        self.member
            .as_ref()
            .map(|member| member.sockets(me))
            .transpose()
    }

    #[cfg(not(feature = "net"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "a member has some"
    )]
    pub fn sockets(&self, _: PeerId) -> Result<Sockets, EngineError> {
        Ok(())
    }

    /// Takes a member's port, unless it has.
    #[cfg(feature = "net")]
    pub fn listen(&mut self) -> Result<(), EngineError> {
        self.member.as_mut().map_or(Ok(()), cluster::Seated::listen)
    }

    #[cfg(not(feature = "net"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "a member has a port"
    )]
    pub fn listen(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Starts the shards, and for a member the thread that accepts connections.
    pub fn start(
        &mut self,
        options: &NodeOptions,
        plans: Vec<ShardPlan<Core, BootError>>,
    ) -> Result<Node<Submission>, EngineError> {
        #[cfg(feature = "net")]
        if let Some(member) = &mut self.member
            && let Some(listener) = member.listener.take()
        {
            let listening = Listening::new(listener, Some(member.control_cpu));
            return Ok(serve(options, plans, listening)?);
        }
        Ok(start(options, plans)?)
    }
}

#[cfg(feature = "net")]
pub use cluster::Member;

#[cfg(feature = "net")]
mod cluster {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use clustor_shards::host::{Claim, LOCK_WAIT, Topology};
    use clustor_shards::log::Encoding;
    use clustor_shards::log::record::RECORD_VERSION;
    use clustor_shards::net::{LocalShard, NetLimits, ShardNet, TlsIdentity};
    use clustor_shards::turn::{PeerId, Time};
    use clustor_wire::ids::{NodeId, PartitionId};

    use super::{Place, Seat};
    use crate::engine::EngineError;
    use crate::security::{Placement, Role};
    use crate::shard_core::ShardCore;

    const LISTEN_RETRY: Duration = Duration::from_millis(20);

    /// One node of a cluster: which, under which placement, and how it proves it.
    #[derive(Debug, Clone)]
    pub struct Member {
        /// The signed placement: which cluster this is, and what this node holds.
        pub placement: Placement,
        /// Its certificate, key and CA; which node it is, its certificate says.
        pub identity: TlsIdentity,
        /// Where to listen; `None` for the placement's address.
        pub listen: Option<SocketAddr>,
    }

    pub(in crate::engine) struct Seated {
        pub placement: Arc<Placement>,
        address: SocketAddr,
        pub listener: Option<TcpListener>,
        pub control_cpu: usize,
        node: NodeId,
        identity: TlsIdentity,
    }

    impl Seat {
        /// A member's seat. Everything that can be refused is, before anything is written: the certificate, the
        /// encoding of the log, the partitions. The port is not taken yet.
        pub fn of_member(
            member: Member,
            log_encoding: Encoding,
            given: impl Iterator<Item = PartitionId>,
        ) -> Result<Self, EngineError> {
            let Role::Node(node) = *member.identity.id().role() else {
                return Err(EngineError::NotANode {
                    found: member.identity.id().to_string(),
                });
            };
            if log_encoding as u8 != member.placement.record_codec() {
                return Err(EngineError::OtherEncoding {
                    node: log_encoding,
                    cluster: Encoding::from_u8(member.placement.record_codec()).unwrap_or_default(),
                });
            }
            let placed = member
                .placement
                .node(node)
                .ok_or(EngineError::NotPlaced { node })?;
            let here: BTreeSet<PartitionId> = (0..placed.shards)
                .flat_map(|shard| {
                    let at = PeerId {
                        node,
                        shard: clustor_wire::ids::ShardId(shard),
                    };
                    member.placement.partitions_on(at).to_vec()
                })
                .collect();
            let given: BTreeSet<PartitionId> = given.collect();
            if let Some(partition) = here.symmetric_difference(&given).next() {
                return Err(EngineError::OtherPartitions {
                    partition: *partition,
                    placed: here.contains(partition),
                });
            }
            let topology = Topology::detect().map_err(EngineError::Processors)?;
            let address = member.listen.unwrap_or(placed.address);
            Ok(Self {
                claim: Claim::Member(member.placement.cluster(), node),
                shards: usize::from(placed.shards),
                cpus: topology.data,
                member: Some(Seated {
                    placement: Arc::new(member.placement),
                    address,
                    listener: None,
                    control_cpu: topology.control,
                    node,
                    identity: member.identity,
                }),
            })
        }
    }

    /// Binds the node's port. A killed process's ring holds its sockets for a moment after the process is gone, so a
    /// port in use is tried again, as long as a directory in use is.
    fn listen(address: SocketAddr) -> Result<TcpListener, EngineError> {
        let until = Instant::now() + LOCK_WAIT;
        let mut told = false;
        loop {
            match TcpListener::bind(address) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                    if !core::mem::replace(&mut told, true) {
                        tracing::warn!(
                            %address,
                            seconds = LOCK_WAIT.as_secs(),
                            "waiting for the port, which another process has"
                        );
                    }
                    std::thread::sleep(LISTEN_RETRY);
                }
                Err(error) => return Err(EngineError::Listen { address, error }),
            }
        }
    }

    impl Seated {
        /// Takes the port, unless it has.
        pub fn listen(&mut self) -> Result<(), EngineError> {
            if self.listener.is_none() {
                self.listener = Some(listen(self.address)?);
            }
            Ok(())
        }

        pub fn place(&self, partition: PartitionId) -> Result<Place, EngineError> {
            let not_placed = EngineError::OtherPartitions {
                partition,
                placed: false,
            };
            let placement = &self.placement;
            match (
                placement.shard_of(partition, self.node),
                placement.replicas(partition),
            ) {
                (Some(shard), Some(voters)) => Ok(Place {
                    shard,
                    voters: voters.to_vec(),
                }),
                _ => Err(not_placed),
            }
        }

        pub fn sockets(&self, me: PeerId) -> Result<ShardSockets, EngineError> {
            Ok(ShardSockets {
                me,
                placement: Arc::clone(&self.placement),
                identity: self.identity.clone(),
                seed: getrandom::u64().map_err(EngineError::Seed)?,
            })
        }
    }

    /// What opens a shard's sockets once its core is there.
    pub(in crate::engine) struct ShardSockets {
        me: PeerId,
        placement: Arc<Placement>,
        identity: TlsIdentity,
        seed: u64,
    }

    impl ShardSockets {
        pub fn open(self, core: &ShardCore, now: Time) -> ShardNet {
            let local = LocalShard {
                cluster: self.placement.cluster(),
                node: self.me.node,
                shard: self.me.shard,
                incarnation: core.incarnation(),
                boot: core.boot_number(),
                last_chain: core.recovered_chain(),
                placement_digest: self.placement.digest(),
                record_version: RECORD_VERSION,
                record_codec: core.log().options().format.log_encoding as u8,
            };
            let peers = self.placement.peers_of(self.me);
            let mut net = ShardNet::new(
                local,
                self.identity,
                &peers,
                NetLimits::default(),
                self.seed,
                now,
            )
            .expect("the seat was taken with this node's certificate");
            for (peer, _) in peers {
                net.remember(peer, core.past_of(peer));
            }
            net
        }
    }
}
