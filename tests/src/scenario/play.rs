//! A script played on a cluster.

use std::collections::BTreeMap;

use clustor_engine::outcome::{IdempotencyKey, Outcome, RefusalClause};
use clustor_engine::profile::{Profile, Value, When};
use clustor_engine::raft::{Change, MemberChange};
use clustor_engine::request::{MembersRequest, Reply, RequestBody, Wait};
use clustor_shards::disk::FileKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{RaftBody, RaftMessage, Role};

use super::line::{Asked, ClockChange, Line, ParseError, parse};
use crate::cluster::check::Violation;
use crate::cluster::host::Host;
use crate::cluster::layout::{Layout, peer, small};
use crate::cluster::machine::{History, Seen};
use crate::cluster::members;
use crate::cluster::messages::MessageKind;
use crate::cluster::network::{NetworkOptions, Rule, RuleAction};
use crate::cluster::trace::Trace;
use crate::cluster::world::{Happened, World};
use crate::disk::WriteFault;

/// The one partition of every scenario.
pub(super) const P: PartitionId = PartitionId(1);
/// Operations of other partitions have numbers from here on.
const OTHER_OP: u64 = 1 << 40;
/// An election, or settling, takes at most this long, in microseconds of virtual time.
const PATIENCE_US: u64 = 15_000_000;
/// After an election everybody has heard of it, in microseconds.
const KNOWN_US: u64 = 150_000;

/// Why a script did not play.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{number}: `{line}`: {what}")]
pub struct ScenarioError {
    /// The script's name, as handed in.
    pub name: String,
    /// Line, from 1.
    pub number: usize,
    /// The line.
    pub line: String,
    /// What is wrong with it, or was not as it says.
    pub what: String,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    Waiting,
    Applied { duplicate: bool },
    Unknown,
    Refused(RefusalClause),
    Begun,
    Saw(Vec<String>),
}

#[derive(Debug)]
struct Setup {
    nodes: u64,
    partitions: u64,
    /// The first voters; empty for all nodes.
    voters: Vec<NodeId>,
    /// Nodes with another placement.
    listed: Vec<(NodeId, Vec<NodeId>)>,
    /// Nodes whose machines are on disk, and after how many batches they save themselves.
    on_disk: BTreeMap<NodeId, u32>,
    profile: Profile,
    /// Of nodes that have their own.
    profiles: BTreeMap<NodeId, Profile>,
    seed: u64,
}

/// A script under way.
pub(super) struct Stage {
    pub(super) world: World,
    /// What operations say, by number from 1.
    pub(super) texts: Vec<String>,
    keys: BTreeMap<u128, u64>,
    names: BTreeMap<u64, String>,
    pub(super) answers: BTreeMap<String, Became>,
}

/// Plays a script; `name` is for errors.
///
/// # Errors
/// The first line that can't be read, does not hold, or on which a rule was broken.
pub fn play(name: &str, script: &str, trace: Trace) -> Result<(), Box<ScenarioError>> {
    let mut setup = Setup {
        nodes: 3,
        partitions: 1,
        voters: Vec::new(),
        listed: Vec::new(),
        on_disk: BTreeMap::new(),
        profile: awake(Profile::latency()),
        profiles: BTreeMap::new(),
        seed: 1,
    };
    let mut stage: Option<Stage> = None;
    let mut trace = Some(trace);
    for (line, number) in script.lines().zip(1..) {
        let error = |what: String| {
            Box::new(ScenarioError {
                name: name.to_owned(),
                number,
                line: line.trim().to_owned(),
                what,
            })
        };
        let parsed = parse(line).map_err(|e: ParseError| error(e.to_string()))?;
        let Some(parsed) = parsed else { continue };
        if let Some(done) = set_up(&mut setup, &parsed) {
            done.map_err(error)?;
            continue;
        }
        let stage =
            stage.get_or_insert_with(|| Stage::new(&setup, trace.take().unwrap_or_default()));
        stage
            .world
            .say(|| format!("---- {number}: {}", line.trim()));
        stage.play(parsed).map_err(error)?;
    }
    Ok(())
}

/// Takes a line that sets up; `None` for others.
fn set_up(setup: &mut Setup, line: &Line) -> Option<Result<(), String>> {
    Some(match line {
        Line::Nodes(nodes) => {
            setup.nodes = *nodes;
            let fits = (1..=7).contains(nodes);
            fits.then_some(()).ok_or_else(|| "1 to 7 nodes".to_owned())
        }
        Line::Partitions(partitions) => {
            setup.partitions = *partitions;
            let fits = (1..=256).contains(partitions);
            fits.then_some(())
                .ok_or_else(|| "1 to 256 partitions".to_owned())
        }
        Line::Voters(voters) => {
            setup.voters.clone_from(voters);
            Ok(())
        }
        Line::Listed(node, nodes) => {
            setup.listed.push((*node, nodes.clone()));
            Ok(())
        }
        Line::Machines(node, every) => {
            setup.on_disk.insert(*node, *every);
            Ok(())
        }
        Line::Seed(seed) => {
            setup.seed = *seed;
            Ok(())
        }
        Line::Profile(name) => match name.as_str() {
            "latency" => {
                setup.profile = awake(Profile::latency());
                Ok(())
            }
            "throughput" => {
                setup.profile = awake(Profile::throughput());
                Ok(())
            }
            _ => Err("latency or throughput".to_owned()),
        },
        Line::Set(key, value, None) => set(&mut setup.profile, key, *value),
        Line::Set(key, value, Some(node)) => {
            let profile = setup.profiles.entry(*node);
            set(
                profile.or_insert_with(|| setup.profile.clone()),
                key,
                *value,
            )
        }
        _ => return None,
    })
}

/// Small, and nothing goes quiet unless a script wants it to: scripts count heartbeats.
fn awake(profile: Profile) -> Profile {
    let mut profile = small(profile);
    profile.quiet_after_ms = 0;
    profile
}

/// Turns a knob; some, to be quick, beyond what they may stand at.
fn set(profile: &mut Profile, key: &str, value: Value) -> Result<(), String> {
    let beyond = match key {
        "idempotency_keys_max" => Some(&mut profile.idempotency_keys_max),
        "cache_bytes_max" => Some(&mut profile.cache_bytes_max),
        _ => None,
    };
    if let (Some(knob), Value::Number(number)) = (beyond, value) {
        *knob = number;
        return Ok(());
    }
    profile
        .set(key, value)
        .map_err(|_| "a knob of the profile, and what it may stand at".to_owned())
}

impl Stage {
    fn new(setup: &Setup, trace: Trace) -> Self {
        let mut layout = Layout::plain(
            setup.nodes,
            u128::from(setup.partitions),
            setup.profile.clone(),
        );
        layout.profiles.clone_from(&setup.profiles);
        layout.on_disk.clone_from(&setup.on_disk);
        if !setup.voters.is_empty() {
            for partition in &mut layout.partitions {
                let all = std::mem::take(&mut partition.voters).into_iter();
                (partition.voters, partition.spares) =
                    all.partition(|peer| setup.voters.contains(&peer.node));
            }
        }
        for (node, nodes) in &setup.listed {
            let nodes = nodes.iter().map(|node| peer(node.get(), 0)).collect();
            layout.listed.insert(*node, nodes);
        }
        let mut world = World::new(layout, NetworkOptions::CALM, setup.seed);
        world.trace = trace;
        world.set_proofs(u32::MAX);
        world.count_sent();
        Self {
            world,
            texts: Vec::new(),
            keys: BTreeMap::new(),
            names: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    fn play(&mut self, line: Line) -> Result<(), String> {
        let broken = |violation: Violation| violation.to_string();
        match line {
            Line::Voters(_)
            | Line::Listed(..)
            | Line::Machines(..)
            | Line::Nodes(_)
            | Line::Partitions(_)
            | Line::Profile(_)
            | Line::Seed(_)
            | Line::Set(..) => {}
            Line::Busy(node) => {
                let to = self.shard(node)?;
                let op = OTHER_OP + self.world.steps();
                let body = RequestBody::Append {
                    payload: op.to_le_bytes().to_vec(),
                    key: None,
                    wait: Wait::Applied,
                    only_in: None,
                };
                self.world.append(to, PartitionId(2), op, body);
            }
            Line::Reload(node, knobs) => self.reload(node, &knobs)?,
            Line::Start(nodes) => {
                let all = self.world.layout().nodes();
                let nodes = if nodes.is_empty() { all } else { nodes };
                for node in nodes {
                    self.world.boot_at(node, 0);
                }
                self.run(1).map_err(broken)?;
            }
            Line::Run(us) => self.run(us).map_err(broken)?,
            Line::Elect(node, at_once) => self.elect(node, at_once)?,
            Line::Append {
                node,
                text,
                key,
                known,
                only_in,
                name,
            } => {
                let to = self.shard(node)?;
                let key = key.map(|key| (key, known));
                self.append(to, text, key, only_in.map(Term), name);
            }
            Line::Fill(node, count) => {
                let to = self.shard(node)?;
                for _ in 0..count {
                    self.append(to, "fill".to_owned(), None, None, "fill".to_owned());
                }
            }
            Line::Read(node, level, name) => {
                let to = self.shard(node)?;
                let body = RequestBody::Read {
                    level,
                    read: History::reader(),
                };
                let ticket = self.world.read(to, P, body);
                self.asked(ticket, name);
            }
            Line::Members(node, asked, name) => {
                let to = self.shard(node)?;
                let body = RequestBody::Members(self.members(&asked)?);
                let ticket = self.world.read(to, P, body);
                self.asked(ticket, name);
            }
            Line::Cut(pairs) => pairs
                .into_iter()
                .for_each(|(from, to)| self.world.network_mut().cut(from, to)),
            Line::Heal => self.heal(),
            Line::Rule(from, to, kind, action) => self.world.network_mut().add_rule(Rule {
                from,
                to,
                kind,
                action,
            }),
            Line::Allow => {
                self.world.network_mut().replace_rules(Vec::new());
            }
            Line::Release => self.world.release_held(),
            Line::Repeat => self.repeat()?,
            Line::Freeze(node, frozen) => {
                let shard = self.shard(node)?;
                self.world.freeze_disk(shard, frozen);
            }
            Line::Fail(node, flush, file) => {
                let shard = self.shard(node)?;
                self.world.mark_damaged(node);
                let disk = &mut self.world.host_mut(shard).disk;
                if flush {
                    disk.fail_next_flush(file);
                } else {
                    disk.fault_next_write(file, WriteFault::Error);
                }
            }
            Line::Rot(node, file, block) => self.rot(node, file, block)?,
            Line::Clock(node, change) => self.turn_clock(node, change)?,
            Line::Disk(node, us) => {
                let shard = self.shard(node)?;
                self.world.slow_disk(shard, us);
            }
            Line::Slow(node, us) => self.world.slow(self.shard(node)?, us),
            Line::Stall(node, us) => self.world.stall(self.shard(node)?, us),
            Line::Crash(node, crash, fate) => self.world.crash_with(node, crash, fate),
            Line::Image(node) => self.world.take_image(node),
            Line::Empty(node) => {
                if self.world.node_runs(node) {
                    return Err("a node that is down".to_owned());
                }
                self.world.empty_disks(node);
            }
            Line::GoBack(node) => {
                if self.world.node_runs(node) || !self.world.has_image(node) {
                    return Err("a node that is down, and an image of it".to_owned());
                }
                self.world.go_back(node).map_err(broken)?;
            }
            Line::Shorten(node, until) => {
                let shard = self.shard(node)?;
                if self.world.node_runs(node) {
                    return Err("a node that is down".to_owned());
                }
                let shortened = self.world.shorten(shard, P, LogIndex(until));
                shortened.map_err(broken)?;
            }
            Line::Stop(node) => self.world.stop(node),
            Line::Stand(node, term) => self.stand(node, Term(term))?,
            Line::Count => self.world.count_sent(),
            Line::Settle => self.settle()?,
            Line::Expect(expectation) => self.expect(&expectation)?,
        }
        Ok(())
    }

    /// Asks everybody for a vote in the name of `node`, with a log as recent as its own could be.
    fn stand(&mut self, node: NodeId, term: Term) -> Result<(), String> {
        let from = self.shard(node)?;
        let host = self.world.host(from);
        let status = host.and_then(|host| Some(host.partition(P)?.status()));
        let status = status.ok_or_else(|| "a node that runs".to_owned())?;
        let request = RaftMessage {
            partition: P,
            term,
            body: RaftBody::Vote {
                last_index: status.last_index,
                last_term: status.term,
                transfer: false,
            },
        };
        for to in self.world.layout().shards.clone() {
            if to != from {
                self.world.say_as(from, to, request.clone());
            }
        }
        Ok(())
    }

    /// Who sent what was copied sends it once more, whatever session it was in.
    fn repeat(&mut self) -> Result<(), String> {
        let copied = self.world.network_mut().take_copied();
        if copied.is_empty() {
            return Err("consensus messages that were copied".to_owned());
        }
        let runs = |from: PeerId| self.world.host(from).is_some_and(Host::runs);
        if let Some((from, ..)) = copied.iter().find(|(from, ..)| !runs(*from)) {
            return Err(format!(
                "node {} sent what was copied, and is down",
                from.node
            ));
        }
        for (from, to, message) in copied {
            self.world.say_as(from, to, message);
        }
        Ok(())
    }

    /// A running node obeys its profile with other values in it.
    fn reload(&mut self, node: NodeId, knobs: &[(String, Value)]) -> Result<(), String> {
        self.shard(node)?;
        let mut profile = self.world.layout().profile_of(node).clone();
        for (key, value) in knobs {
            if Profile::knob(key).is_none_or(|knob| knob.when != When::Live) {
                return Err("knobs that a running node obeys".to_owned());
            }
            set(&mut profile, key, *value)?;
        }
        self.world.reload(node, profile);
        Ok(())
    }

    fn turn_clock(&mut self, node: NodeId, change: ClockChange) -> Result<(), String> {
        self.shard(node)?;
        let ppm = |percent: u64| i64::try_from(percent).map_or(0, |p| (p - 100) * 10_000);
        self.world.turn_clocks(node, |clocks, now_us| match change {
            ClockChange::Jump(us) => clocks.jump(now_us, us),
            ClockChange::Wild(percent) => clocks.run_wild(now_us, ppm(percent)),
            ClockChange::Drift(percent) => clocks.drift(now_us, ppm(percent)),
        });
        Ok(())
    }

    pub(super) fn shard(&self, node: NodeId) -> Result<PeerId, String> {
        let shard = peer(node.get(), 0);
        let known = self.world.host(shard).is_some();
        known
            .then_some(shard)
            .ok_or_else(|| format!("there is no node {node}"))
    }

    fn members(&self, asked: &Asked) -> Result<MembersRequest, String> {
        let shards = |nodes: &[NodeId]| -> Result<Vec<_>, String> {
            nodes.iter().map(|node| self.shard(*node)).collect()
        };
        // Who is in nobody's placement is found by its address.
        let address = |node: &NodeId| {
            let strange = !self.world.layout().listed.is_empty();
            let address = strange.then(|| self.world.address(*node));
            address.unwrap_or_default()
        };
        Ok(MembersRequest::Change(match asked {
            Asked::Learn(node) => MemberChange::AddLearner {
                peer: self.shard(*node)?,
                address: address(node),
            },
            Asked::Observe(node) => MemberChange::AddObserver {
                peer: self.shard(*node)?,
                address: address(node),
            },
            Asked::Forget(node) => MemberChange::RemoveSilent(self.shard(*node)?),
            Asked::Voters(add, remove) => MemberChange::Voters {
                add: shards(add)?,
                remove: shards(remove)?,
            },
            Asked::Back => MemberChange::RollBack,
            Asked::Transfer(to) => return Ok(MembersRequest::Transfer(Some(self.shard(*to)?))),
        }))
    }

    fn asked(&mut self, ticket: u64, name: String) {
        self.names.insert(ticket, name.clone());
        self.answers.insert(name, Became::Waiting);
    }

    fn append(
        &mut self,
        to: PeerId,
        text: String,
        key: Option<(u128, Option<u64>)>,
        only_in: Option<Term>,
        name: String,
    ) {
        let next = self.texts.len() as u64 + 1;
        // A retry with a key is the same operation.
        let op = key.map_or(next, |(key, _)| *self.keys.entry(key).or_insert(next));
        let mut payload = op.to_le_bytes().to_vec();
        payload.extend_from_slice(text.as_bytes());
        if op == next {
            self.texts.push(text);
        }
        let body = RequestBody::Append {
            payload,
            key: key.map(|(key, known)| (IdempotencyKey(key), known.map(LogIndex))),
            wait: Wait::Applied,
            only_in,
        };
        let ticket = self.world.append(to, P, op, body);
        self.asked(ticket, name);
    }

    fn step(&mut self) -> Result<(), Violation> {
        if let Some(Happened::Replies(replies)) = self.world.step()? {
            for (_, reply) in &replies {
                self.hear(reply);
            }
        }
        Ok(())
    }

    fn hear(&mut self, reply: &Reply) {
        let Some(name) = reply.ticket().and_then(|ticket| self.names.remove(&ticket)) else {
            return;
        };
        let became = match reply {
            Reply::Append { outcome, .. } => match outcome {
                Outcome::Applied { duplicate, .. } => Became::Applied {
                    duplicate: *duplicate,
                },
                Outcome::Unknown { .. } => Became::Unknown,
                Outcome::NotExecuted { refusal } => Became::Refused(refusal.clause),
            },
            Reply::Read {
                found: Err(refusal),
                ..
            } => Became::Refused(refusal.clause),
            Reply::Read {
                found: Ok(found), ..
            } => {
                let seen = found.downcast_ref::<Seen>().map_or(0, |seen| seen.len);
                let taken = &self.world.consensus().agreed(P).taken()[..seen];
                Became::Saw(taken.iter().map(|taken| self.text(taken.op)).collect())
            }
            Reply::Members { members, .. } => match members {
                Ok(_) => Became::Begun,
                Err(refusal) => Became::Refused(refusal.clause),
            },
            Reply::Status { .. } | Reply::Profile { .. } | Reply::Leadership { .. } => return,
        };
        self.answers.insert(name, became);
    }

    pub(super) fn text(&self, op: u64) -> String {
        let at = usize::try_from(op).unwrap_or(usize::MAX).wrapping_sub(1);
        self.texts.get(at).cloned().unwrap_or_default()
    }

    fn run(&mut self, us: u64) -> Result<(), Violation> {
        let until = self.world.now_us() + us;
        while self.world.next_at_us().is_some_and(|at| at <= until) {
            self.step()?;
        }
        self.world.pass_to_us(until);
        Ok(())
    }

    pub(super) fn role(host: &Host) -> Option<Role> {
        host.partition(P).map(|partition| partition.status().role)
    }

    fn leads(&self, node: NodeId) -> bool {
        let host = self.world.host(peer(node.get(), 0));
        host.and_then(Self::role) == Some(Role::Leader)
    }

    /// Keeps everybody else quiet until `node` leads.
    fn elect(&mut self, node: NodeId, at_once: bool) -> Result<(), String> {
        let nodes = self.world.layout().nodes();
        let mut rules = Vec::new();
        for from in nodes.iter().filter(|from| **from != node) {
            for to in nodes.iter().filter(|to| *to != from) {
                for kind in [
                    MessageKind::Heartbeat,
                    MessageKind::Append,
                    MessageKind::PreVote,
                    MessageKind::Vote,
                ] {
                    rules.push(Rule {
                        from: *from,
                        to: *to,
                        kind,
                        action: RuleAction::Drop,
                    });
                }
            }
        }
        let others = self.world.network_mut().replace_rules(Vec::new());
        rules.extend_from_slice(&others);
        self.world.network_mut().replace_rules(rules);
        let until = self.world.now_us() + PATIENCE_US;
        while !self.leads(node) && self.world.now_us() < until && self.world.next_at_us().is_some()
        {
            self.step().map_err(|violation| violation.to_string())?;
        }
        self.world.network_mut().replace_rules(others);
        if !self.leads(node) {
            return Err(format!("node {node} does not become leader"));
        }
        if !at_once {
            self.run(KNOWN_US)
                .map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }

    fn rot(&mut self, node: NodeId, kind: FileKind, block: u64) -> Result<(), String> {
        let shard = self.shard(node)?;
        self.world.mark_lossy(shard);
        let disk = &mut self.world.host_mut(shard).disk;
        let newest = disk
            .file_names()
            .into_iter()
            .rfind(|file| file.kind == kind && !disk.blocks_at_rest(*file).is_empty());
        let rotten = match (newest, u32::try_from(block)) {
            (Some(file), Ok(block)) => {
                disk.blocks_at_rest(file).contains(&block) && disk.plant_rot(file, block)
            }
            _ => false,
        };
        rotten
            .then_some(())
            .ok_or_else(|| "nothing was written there".to_owned())
    }

    /// Whether whoever leads counts it among the members; everybody is while nobody leads.
    fn is_member(&self, host: &Host) -> bool {
        members::leader(&self.world, P)
            .is_none_or(|(_, configuration)| configuration.standing(host.id).is_some())
    }

    fn heal(&mut self) {
        self.world.network_mut().heal();
        for shard in self.world.layout().shards.clone() {
            self.world.connect_all(shard);
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        let broken = |violation: Violation| violation.to_string();
        self.world.network_mut().replace_rules(Vec::new());
        self.world.release_held();
        self.heal();
        for shard in self.world.layout().shards.clone() {
            self.world.freeze_disk(shard, false);
            self.world.slow(shard, 0);
            self.world.boot_at(shard.node, 0);
        }
        let until = self.world.now_us() + PATIENCE_US;
        loop {
            self.run(50_000).map_err(broken)?;
            let committed = self.world.consensus().committed(P);
            let agree = self.world.hosts().all(|host| {
                // Who is no member gets nothing.
                !self.is_member(host)
                // What is damaged may wait for a repair.
                || self.world.is_damaged(host.id.node)
                    || host
                        .partition(P)
                        .is_some_and(|partition| partition.applied() >= committed)
            });
            let leaders = self
                .world
                .hosts()
                .filter(|h| Self::role(h) == Some(Role::Leader));
            let over = self.world.hosts().all(|host| {
                !self.is_member(host)
                    || host
                        .partition(P)
                        .is_none_or(|partition| partition.change() == Change::None)
            });
            if agree && over && leaders.count() == 1 {
                break;
            }
            if self.world.now_us() > until {
                return Err(format!("they don't agree: {}", self.standing()));
            }
        }
        // Whoever still waits is answered.
        self.run(1_000_000).map_err(broken)?;
        self.world.settle().map_err(broken)
    }
}
