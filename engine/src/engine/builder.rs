//! Putting an engine together and starting it.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use clustor_shards::host::{DataDir, Judgement};
use clustor_shards::log::{KeyProvider, LogIdentity, Suite};
use clustor_shards::mesh::Submitter;
use clustor_shards::mesh::reply::ReplyPool;
use clustor_shards::runtime::{Build, Node, NodeOptions, ShardPlan};
use clustor_shards::sys::free_bytes;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{PartitionId, ShardId};

use super::budget::Budget;
use super::handle::Port;
use super::keys::Keys;
use super::leaders::Leaders;
use super::recovering::{Watched, record_to_leave, tell_found};
#[cfg(feature = "net")]
use super::seat::Member;
use super::seat::{Core, Seat, Sockets};
use super::served::Served;
use super::stopwatch::ProcessStopwatch;
use super::submission::Submission;
use super::tuning::EngineHandle;
use super::{Engine, EngineError, Local, environment};
use crate::gate::SelfGoverned;
use crate::machine::deferred::AckBox;
use crate::machine::{AnyMachine, MachineFactory, StateMachine};
use crate::outcome::Leadership;
use crate::profile::Profile;
use crate::shard_core::{BootError, CoreConfig, PartitionSpec, ShardCore};

/// How long a start waits for its partitions to be led; then it returns, and they refuse until they are.
const READY_WAIT: Duration = Duration::from_secs(5);
/// Reply cells kept for use again, at most; more are made and freed as needed.
const OUTCOME_CELLS_MAX: usize = 1_024;
/// Messages that may be under way between two shards; the engine's shards have little to say to each other.
const MESH_MESSAGES_MAX: usize = 16;

/// What an engine is made of; [`EngineBuilder::start`] makes it.
///
/// A node of a cluster names its placement, certificates and addresses here as well (feature `net`);
/// whatever is not named makes it a lone node.
pub struct EngineBuilder {
    data: PathBuf,
    profile: Profile,
    partitions: Vec<PartitionPlan>,
    keys: Option<Box<dyn KeyProvider + Send>>,
    #[cfg(feature = "net")]
    member: Option<Member>,
}

impl core::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("data", &self.data)
            .field("profile", &self.profile.name)
            .field("partitions", &self.partitions.len())
            .finish()
    }
}

struct PartitionPlan {
    id: PartitionId,
    type_id: TypeId,
    type_name: &'static str,
    factory: MachineFactory,
}

impl EngineBuilder {
    pub(super) fn new(data: PathBuf) -> Self {
        Self {
            data,
            profile: Profile::latency(),
            partitions: Vec::new(),
            keys: None,
            #[cfg(feature = "net")]
            member: None,
        }
    }

    /// Adds a partition. `factory` makes its machine, on its shard: when the engine starts, and again when
    /// the machine failed.
    #[must_use]
    pub fn partition<M: StateMachine>(
        mut self,
        id: impl Into<PartitionId>,
        factory: impl Fn(PartitionId) -> M + Send + 'static,
    ) -> Self {
        self.partitions.push(PartitionPlan {
            id: id.into(),
            type_id: TypeId::of::<M>(),
            type_name: core::any::type_name::<M>(),
            factory: Box::new(move |id| -> Box<dyn AnyMachine> { Box::new(factory(id)) }),
        });
        self
    }

    /// Makes the engine one node of a cluster. Its partitions are then those that the placement puts on this
    /// node, each of which must have been given by [`Self::partition`], and no other.
    #[cfg(feature = "net")]
    #[must_use]
    pub fn node(mut self, member: Member) -> Self {
        self.member = Some(member);
        self
    }

    /// Runs under this profile instead of [`Profile::latency`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Seals the log under the key that this provider gives: from a key management service, say. No key file is made in the data
    /// directory then, and one that is there is not read.
    ///
    /// It is asked once at each start, on the thread that calls [`Self::start`] and before anything is written; nothing bounds
    /// how long it may take but itself. Every start of a directory needs the key that its first start had: with another one, or
    /// without the provider, the start is refused. The key can't be changed.
    ///
    /// ```no_run
    /// use clustor_engine::engine::{Engine, Kek, KeyError, KeyProvider};
    /// # use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
    /// # #[derive(Default)]
    /// # struct Counter;
    /// # impl StateMachine for Counter {
    /// #     fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
    /// #         Applied::Ack
    /// #     }
    /// # }
    ///
    /// struct Vault {
    ///     secret: String,
    /// }
    ///
    /// impl KeyProvider for Vault {
    ///     fn kek(&self) -> Result<Kek, KeyError> {
    ///         let fail = |what: &dyn std::fmt::Display| KeyError(format!("secret {}: {what}", self.secret));
    ///         let bytes = fetch(&self.secret).map_err(|error| fail(&error))?;
    ///         let bytes: [u8; 32] = bytes.try_into().map_err(|_| fail(&"it is not 32 bytes"))?;
    ///         Ok(Kek::new(bytes.into()))
    ///     }
    /// }
    /// # fn fetch(_: &str) -> std::io::Result<Vec<u8>> { Ok(Vec::new()) }
    ///
    /// let vault = Vault { secret: "clustor/kek".into() };
    /// let engine = Engine::builder("data")
    ///     .keys(vault)
    ///     .partition(1, |_| Counter::default())
    ///     .start()?;
    /// # Ok::<(), clustor_engine::engine::EngineError>(())
    /// ```
    #[must_use]
    pub fn keys(mut self, provider: impl KeyProvider + Send + 'static) -> Self {
        self.keys = Some(Box::new(provider));
        self
    }

    /// Starts the engine: makes or opens the data directory, recovers the logs, makes the machines, and waits,
    /// up to five seconds, until the partitions are led and have applied what was committed before.
    ///
    /// The environment variables `CLUSTOR_LOG_ENCODING` and `CLUSTOR_WAL_CODEC`, `binary` or `json`, go before the
    /// profile's `log_encoding` and `wal_codec`.
    ///
    /// # Errors
    /// [`EngineError`]. Nothing runs then; and nothing was written where the error is about the builder, the profile, the
    /// file system, a directory that is someone else's, or a log of any shard that this start must not use (another key,
    /// another encoding, a newer format): locks aside, the directory is what it was.
    pub fn start(mut self) -> Result<Engine, EngineError> {
        self.profile = environment::apply(self.profile)?;
        self.check()?;
        let mut seat = self.take_seat()?;
        let (path, silent) = judge_host(&self.data)?;
        self.check_room(path, seat.shards)?;
        let given = self.keys.take().map(|keys| keys.kek()).transpose()?;
        if DataDir::is_new(&self.data)? {
            // A port that is refused leaves no directory behind.
            seat.listen()?;
        }
        // Otherwise the directory comes first: of two starts alike, the second is told what it should not have shared.
        let directory = match given {
            None => DataDir::open(&self.data, seat.claim)?,
            Some(_) => DataDir::open_without_key(&self.data, seat.claim)?,
        };
        let keys = match given {
            None => Keys::File(directory.keys().clone()),
            Some(kek) => Keys::Given(kek),
        };
        seat.listen()?;
        let options = NodeOptions {
            requests_max: self.profile.queue_requests_max as usize,
            mesh_messages_max: MESH_MESSAGES_MAX,
            cpus: core::mem::take(&mut seat.cpus),
        };
        let mut shards = seated(
            core::mem::take(&mut self.partitions),
            &seat,
            &directory,
            &self.profile,
        )?;
        let (plans, bells) =
            self.planned(&mut shards, &seat, &directory, &keys, silent.as_deref())?;
        let node = seat.start(&options, plans)?;
        for (number, bell) in (0u16..).zip(bells) {
            let submitter = node.submitter(ShardId(number));
            // For what was settled before anybody could say so.
            nudge(&submitter);
            let _ = bell.set(submitter);
        }
        let (ports, partitions) = opened(&shards, &node, self.profile.entry_bytes_max);
        if seat.is_alone() {
            wait_until_led(shards.iter().flat_map(|shard| shard.leaders.values()));
        }
        let shards = shards.len() as u16;
        note_logs(&directory, shards);
        Ok(Engine {
            directory,
            shards,
            partitions,
            node,
            handle: EngineHandle::new(ports, self.profile),
        })
    }

    /// What each shard's thread is to make of what was gathered for it, and the bells by which others reach it: each is hung
    /// when there is a thread that hears it.
    fn planned(
        &self,
        shards: &mut [ShardSeat],
        seat: &Seat,
        directory: &DataDir,
        keys: &Keys,
        silent: Option<&str>,
    ) -> Result<(Vec<Plan>, Vec<Bell>), EngineError> {
        let identity = directory.identity();
        let shards_total = u16::try_from(shards.len()).unwrap_or(u16::MAX);
        let placed = seat.placed();
        let mut plans = Vec::with_capacity(shards.len());
        let mut bells = Vec::with_capacity(shards.len());
        for (number, shard) in (0u16..).zip(shards) {
            let me = PeerId {
                node: identity.node,
                shard: ShardId(number),
            };
            let bell = Bell::default();
            let rung = Arc::clone(&bell);
            bells.push(bell);
            let config = CoreConfig {
                cluster: identity.cluster,
                me,
                partitions: core::mem::take(&mut shard.specs),
                profile: self.profile.clone(),
                io_writer_mode: 0,
                shards: shards_total,
                seed: seed()?,
                placement: seat.placement_file(),
                placed: Arc::clone(&placed),
                control: Box::new(SelfGoverned),
                stopwatch: Box::new(ProcessStopwatch::start()),
                acks: AckBox::new(move || {
                    if let Some(submitter) = rung.get() {
                        nudge(submitter);
                    }
                }),
                silent: silent.map(str::to_owned),
            };
            plans.push(ShardPlan {
                directory: directory.shard(me.shard)?,
                writer: self.profile.io_writer,
                pool: self.profile.log_options(0).pool_classes().to_vec(),
                build: build(
                    directory.shard(me.shard)?,
                    config,
                    keys.clone(),
                    Arc::clone(&shard.budget),
                    shard.leaders.clone(),
                    seat.sockets(me)?,
                ),
                // Replies go through their own cells.
                deliver: Box::new(|never| match never {}),
            });
        }
        Ok((plans, bells))
    }

    /// A shard's first start makes its first pair and a spare: refused before anything is written where there is no room
    /// for them. A later start has its files, and waits for room if it must.
    fn check_room(&self, path: PathBuf, shards: usize) -> Result<(), EngineError> {
        let shards = u16::try_from(shards).unwrap_or(u16::MAX);
        let without = DataDir::without_log(&self.data, shards)?;
        if without.shards == 0 {
            return Ok(());
        }
        let pairs = 2 * without.shards as u64;
        let needed_bytes = pairs * self.profile.log_options(0).first_pair_bytes();
        match free_bytes(&path) {
            Ok(free_bytes) if free_bytes.saturating_add(without.begun_bytes) < needed_bytes => {
                Err(EngineError::TooSmall {
                    path,
                    free_bytes,
                    needed_bytes,
                    shards: without.shards,
                })
            }
            Ok(_) => Ok(()),
            Err(error) => Err(EngineError::Room { path, error }),
        }
    }

    #[cfg(feature = "net")]
    fn take_seat(&mut self) -> Result<Seat, EngineError> {
        match self.member.take() {
            Some(member) => Seat::of_member(
                member,
                self.profile.format().log_encoding,
                self.partitions.iter().map(|plan| plan.id),
            ),
            None => Ok(Seat::alone()),
        }
    }

    #[cfg(not(feature = "net"))]
    #[expect(clippy::unnecessary_wraps, reason = "a member's seat can be refused")]
    fn take_seat(&mut self) -> Result<Seat, EngineError> {
        Ok(Seat::alone())
    }

    /// What can be judged before anything is touched.
    fn check(&self) -> Result<(), EngineError> {
        self.profile.check()?;
        if self.partitions.is_empty() {
            return Err(EngineError::NoPartitions);
        }
        let mut ids: Vec<PartitionId> = self.partitions.iter().map(|plan| plan.id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(EngineError::PartitionTwice(pair[0])),
            None => Ok(()),
        }
    }
}

/// What the builder gathers for one shard.
struct ShardSeat {
    specs: Vec<PartitionSpec>,
    known: Vec<(PartitionId, TypeId, &'static str)>,
    leaders: BTreeMap<PartitionId, Arc<Leaders>>,
    budget: Arc<Budget>,
}

/// What a shard's thread begins with.
type Plan = ShardPlan<Core, BootError>;

/// What rings a shard from elsewhere, once its thread is there.
type Bell = Arc<OnceLock<Submitter<Submission>>>;

/// The partitions, each with the shard that holds it.
fn seated(
    partitions: Vec<PartitionPlan>,
    seat: &Seat,
    directory: &DataDir,
    profile: &Profile,
) -> Result<Vec<ShardSeat>, EngineError> {
    let node = directory.identity().node;
    let mut shards: Vec<ShardSeat> = Vec::new();
    shards.resize_with(seat.shards, || ShardSeat {
        specs: Vec::new(),
        known: Vec::new(),
        leaders: BTreeMap::new(),
        budget: Arc::new(Budget::new(
            profile.queue_requests_max,
            profile.queue_bytes_max,
        )),
    });
    for plan in partitions {
        let place = seat.place(node, plan.id)?;
        let shard = &mut shards[usize::from(place.shard.get())];
        shard.leaders.insert(plan.id, Arc::default());
        shard.known.push((plan.id, plan.type_id, plan.type_name));
        shard.specs.push(PartitionSpec {
            id: plan.id,
            voters: place.voters,
            factory: plan.factory,
        });
    }
    Ok(shards)
}

/// How the shards that run are reached, and each of their partitions.
fn opened(
    shards: &[ShardSeat],
    node: &Node<Submission>,
    entry_bytes_max: u64,
) -> (Vec<Arc<Port>>, BTreeMap<PartitionId, Local>) {
    let mut ports = Vec::with_capacity(shards.len());
    let mut partitions = Vec::new();
    for (number, shard) in (0u16..).zip(shards) {
        let port = Arc::new(Port {
            submitter: node.submitter(ShardId(number)),
            budget: Arc::clone(&shard.budget),
            outcomes: ReplyPool::new(OUTCOME_CELLS_MAX),
            entry_bytes_max,
        });
        ports.push(Arc::clone(&port));
        for (id, type_id, type_name) in &shard.known {
            let local = Local {
                type_id: *type_id,
                type_name,
                port: Arc::clone(&port),
                leaders: Arc::clone(&shard.leaders[id]),
            };
            partitions.push((*id, local));
        }
    }
    // Made of all at once, a map has no half-empty nodes.
    (ports, partitions.into_iter().collect())
}

/// Has a later start know which shards have a log, and miss it where their directories are not there.
pub(super) fn note_logs(directory: &DataDir, shards: u16) {
    if let Err(error) = directory.note_logs(shards) {
        tracing::warn!(%error, "that the shards have logs could not be noted: a later start would not miss them");
    }
}

/// What makes the shard's core, on the shard's thread.
fn build(
    directory: PathBuf,
    mut config: CoreConfig,
    keys: Keys,
    budget: Arc<Budget>,
    leadership: BTreeMap<PartitionId, Arc<Leaders>>,
    sockets: Sockets,
) -> Build<Core, BootError> {
    Box::new(move |boot| {
        config.io_writer_mode = boot.mode as u8;
        let acks = Arc::clone(&config.acks);
        let identity = LogIdentity {
            cluster: config.cluster,
            node: config.me.node,
            shard: config.me.shard,
        };
        let mut disk = Watched::new(boot.shard, boot.disk);
        let (core, report) = ShardCore::boot(config, boot.pool, boot.now, &mut disk, &keys)?;
        let work = disk.work();
        tracing::info!(
            shard = %boot.shard,
            boot = %report.boot,
            duration_ms = work.duration_ms,
            read_bytes = work.read_bytes,
            pairs = work.found_pairs,
            chains = report.chains,
            rewritten = report.rewritten,
            missing = report.missing,
            incidents = report.incidents.len(),
            "recovered; boot_record.json says more",
        );
        tell_found(&core, &report);
        let record = record_to_leave(directory, identity, &core, &report, work);
        *boot.on_begin = Some(record);
        if report.format.sealing == Suite::None {
            tracing::warn!(
                shard = %boot.shard,
                "sealing = \"none\": this shard's entries are written in clear and unprotected from tampering"
            );
        }
        #[cfg(feature = "net")]
        if let Some(sockets) = sockets {
            *boot.net = Some(sockets.open(&core, boot.now));
        }
        #[cfg(not(feature = "net"))]
        let () = sockets;
        Ok(Served::new(core, budget, acks, leadership))
    })
}

/// Has the shard take a turn. One whose queue is full takes one anyway, one that is gone needs none.
fn nudge(submitter: &Submitter<Submission>) {
    drop(submitter.try_submit(Submission::nudge()));
}

/// Judges what the directory lies on, and warns of what was found. The directory, or the nearest above it that exists;
/// and why the node must stay silent, if it must.
fn judge_host(data: &Path) -> Result<(PathBuf, Option<String>), EngineError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let judgement = Judgement::gather(data, now.map_or(0, |now| now.as_secs()))?;
    for finding in &judgement.findings {
        let allowed = finding.allowed_by.as_ref();
        tracing::warn!(
            path = %judgement.facts.path.display(),
            clause = finding.clause.name(),
            outcome = %finding.outcome,
            allowed_until = allowed.map(|by| by.until.as_str()),
            allowed_because = allowed.map(|by| by.reason.as_str()),
            "{}",
            finding.reason
        );
    }
    for unneeded in &judgement.unneeded {
        tracing::info!(
            clause = unneeded.clause.name(),
            "an override of the host policy is not needed"
        );
    }
    let silent = judgement.admit()?;
    Ok((judgement.facts.path, silent))
}

fn seed() -> Result<u64, EngineError> {
    getrandom::u64().map_err(EngineError::Seed)
}

/// Waits until each partition is led, or will not be; no longer than [`READY_WAIT`] for all of them.
fn wait_until_led<'a>(partitions: impl Iterator<Item = &'a Arc<Leaders>>) {
    let until = Instant::now() + READY_WAIT;
    for leaders in partitions {
        let mut watch = leaders.watch();
        loop {
            if matches!(
                watch.latest(),
                Leadership::Ready { .. } | Leadership::Draining | Leadership::Lost
            ) {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || watch.wait_changed_timeout(left).is_err() {
                break;
            }
        }
    }
}
