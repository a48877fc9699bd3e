//! Real nodes under real faults: each `clustor serve` in a network namespace of its own, links cut and healed with iptables
//! in one direction and in both, processes killed, stopped and continued, while clients append and read. What the clients
//! saw must be linearizable.
//!
//! Needs root, `ip` and `iptables`; where one of them is missing it says so and tests nothing. `CLUSTOR_FAULT_SECONDS` is
//! how long faults are on at least, until each kind has struck as often as any other, 15 unless set; `CLUSTOR_FAULT_SEED` draws others.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

mod support;
use support::id;

const NODES: u8 = 3;
const PARTITIONS: u64 = 4;
const CLIENTS: u64 = 3;
const TRUST_DOMAIN: &str = "faults.example";
/// Terms that a partition goes through before it is led again, on a machine that does much else: more are a storm.
const FAILOVER_TERMS_MAX: u64 = 10;
/// A partition serves again within this, once nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done to a node, or to what it sends and hears.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// One other node does not hear it.
    OneWay,
    /// It and one other do not hear each other.
    BothWays,
    /// No other node hears it.
    Mute,
    /// It hears no other node.
    Deaf,
    /// Both.
    Alone,
    /// Its process stands still, and goes on.
    Stopped,
    /// Its process is killed, and started again.
    Killed,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::OneWay,
        Self::Stopped,
        Self::Alone,
        Self::Mute,
        Self::Killed,
        Self::Deaf,
        Self::BothWays,
    ];
}

fn run(program: &str, args: &[&str]) -> Result<Output, String> {
    let done = Command::new(program).args(args).output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(done);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{program} {args:?}: {said}"))
}

/// Namespaces of the nodes, on a bridge in one of its own, from where clients ask. They end with it.
struct Net {
    prefix: String,
}

impl Net {
    fn lay() -> Result<Self, String> {
        let net = Self {
            prefix: format!("clu{}", std::process::id()),
        };
        run("iptables", &["--version"])?;
        let hub = net.hub();
        run("ip", &["netns", "add", &hub])?;
        let in_hub = |args: &[&str]| run("ip", &[&["-n", hub.as_str()], args].concat());
        in_hub(&["link", "add", "name", "hub0", "type", "bridge"])?;
        in_hub(&["addr", "add", "10.77.0.254/24", "dev", "hub0"])?;
        in_hub(&["link", "set", "hub0", "up"])?;
        for node in 1..=NODES {
            let (name, port) = (net.of(node), format!("port{node}"));
            run("ip", &["netns", "add", &name])?;
            let link = ["link", "add", "name", port.as_str(), "type", "veth"];
            in_hub(&[&link[..], &["peer", "name", "eth", "netns", &name]].concat())?;
            in_hub(&["link", "set", &port, "master", "hub0", "up"])?;
            let address = format!("10.77.0.{node}/24");
            run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth"])?;
            run("ip", &["-n", &name, "link", "set", "eth", "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            // That packets can be dropped is seen here, not when the first fault is due.
            net.rule(node, "-A", NODES + 1)?;
            net.rule(node, "-D", NODES + 1)?;
        }
        Ok(net)
    }

    fn hub(&self) -> String {
        format!("{}h", self.prefix)
    }

    fn of(&self, node: u8) -> String {
        format!("{}n{node}", self.prefix)
    }

    fn rule(&self, from: u8, verb: &str, to: u8) -> Result<Output, String> {
        let (name, to) = (self.of(from), format!("10.77.0.{to}"));
        let enter = ["netns", "exec", name.as_str(), "iptables"];
        let rule = ["-w", verb, "OUTPUT", "-d", to.as_str(), "-j", "DROP"];
        run("ip", &[&enter[..], &rule[..]].concat())
    }

    fn cut(&self, from: u8, to: u8) {
        self.rule(from, "-A", to).expect("a rule");
    }

    fn heal(&self) {
        for node in 1..=NODES {
            let name = self.of(node);
            let enter = ["netns", "exec", name.as_str(), "iptables", "-w", "-F"];
            run("ip", &enter).expect("no rules");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Some may not have been made.
        for node in 1..=NODES {
            let _ = run("ip", &["netns", "del", &self.of(node)]);
        }
        let _ = run("ip", &["netns", "del", &self.hub()]);
    }
}

/// The nodes of a cluster, which end with it.
struct Cluster {
    nodes: Vec<Option<Child>>,
    net: Net,
    dir: PathBuf,
    _home: tempfile::TempDir,
}

impl Cluster {
    fn start(net: Net) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = home.path().join("dev");
        let partitions = PARTITIONS.to_string();
        let at = dir.to_str().expect("a path in UTF-8");
        let clustor = env!("CARGO_BIN_EXE_clustor");
        let common = ["--trust-domain", TRUST_DOMAIN, "--partitions", &partitions];
        let made = ["certs", "cluster", "--dir", at, "--shards", "1"];
        run(clustor, &[&made[..], &common[..]].concat()).expect("a cluster");
        std::fs::remove_file(dir.join("placement.toml")).expect("it was made");
        let places: Vec<String> = (1..=NODES)
            .map(|node| format!("{node}=10.77.0.{node}:7400/1"))
            .collect();
        let mut placement = vec!["certs", "placement", "--dir", at];
        placement.extend(places.iter().flat_map(|place| ["--node", place]));
        placement.extend(common);
        run(clustor, &placement).expect("a placement");
        let mut cluster = Self {
            nodes: (0..NODES).map(|_| None).collect(),
            net,
            dir,
            _home: home,
        };
        (1..=NODES).for_each(|node| cluster.boot(node));
        cluster
    }

    fn boot(&mut self, node: u8) {
        let config = self.dir.join(format!("node-{node}.toml"));
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.net.of(node)])
            .arg(env!("CARGO_BIN_EXE_clustor"))
            .args(["serve", "--log-level", "error", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready"), "node {node}: {line}");
        self.nodes[usize::from(node) - 1] = Some(child);
    }

    fn kill(&mut self, node: u8) {
        if let Some(mut child) = self.nodes[usize::from(node) - 1].take() {
            child.kill().expect("it runs");
            child.wait().expect("it is waited for");
        }
    }

    fn signal(&self, node: u8, signal: &str) {
        if let Some(child) = &self.nodes[usize::from(node) - 1] {
            run("kill", &[signal, &child.id().to_string()]).expect("it runs");
        }
    }

    fn asker(&self) -> Asker {
        Asker {
            hub: self.net.hub(),
            dir: self.dir.clone(),
        }
    }

    /// Who leads a partition, as the nodes say, and in which term.
    fn leader(&self, partition: u64) -> Option<(u8, u64)> {
        let shown = self
            .asker()
            .ask(&["member", "show"], 20_000, partition, &[])?;
        let leader = u8::try_from(id(&shown["leader"])?).ok()?;
        Some((leader, id(&shown["term"])?))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            // A node that has ended can't be killed; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks as people do.
#[derive(Clone)]
struct Asker {
    hub: String,
    dir: PathBuf,
}

impl Asker {
    /// The answer, or `None` where it is unknown whether there will be one.
    fn ask(&self, what: &[&str], ms: u64, partition: u64, words: &[&str]) -> Option<Value> {
        let dir: &Path = &self.dir;
        let done = Command::new("ip")
            .args(["netns", "exec", &self.hub])
            .arg(env!("CARGO_BIN_EXE_clustor"))
            .args(what)
            .arg("--cluster")
            .arg(dir)
            .args(["--json", "--timeout-ms", &ms.to_string()])
            .arg(partition.to_string())
            .args(words)
            .output()
            .expect("ip runs");
        if !done.status.success() {
            return None;
        }
        serde_json::from_slice(&done.stdout).ok()
    }
}

/// An operation of a client on the one key of its partition.
#[derive(Debug, Clone)]
struct Did {
    partition: u64,
    /// What it wrote; `None` for a read.
    wrote: Option<String>,
    /// What it read.
    found: Option<String>,
    began: Instant,
    /// When it was answered, and at which index; `None` if nobody knows what became of it.
    ended: Option<(Instant, u64)>,
}

fn live(asker: &Asker, number: u64, done: &AtomicBool, next: &AtomicU64) -> Vec<Did> {
    let mut history = Vec::new();
    let mut step = number;
    while !done.load(Ordering::Relaxed) {
        step += 1;
        let partition = 1 + step % PARTITIONS;
        let value = next.fetch_add(1, Ordering::Relaxed).to_string();
        let began = Instant::now();
        let reads = step.is_multiple_of(3);
        let answer = if reads {
            // By a lease, wherever the leader holds one, every other time.
            let level = if step.is_multiple_of(2) {
                "lease"
            } else {
                "linearizable"
            };
            let read = ["read", "--level", level];
            asker.ask(&read, 3_000, partition, &["k"])
        } else {
            asker.ask(&["append"], 3_000, partition, &["k", &value])
        };
        let index = answer.as_ref().and_then(|answer| id(&answer["index"]));
        let found = answer.as_ref().and_then(|a| a["value"].as_str());
        history.push(Did {
            partition,
            wrote: (!reads).then_some(value),
            found: found.map(str::to_owned),
            began,
            ended: index.map(|index| (Instant::now(), index)),
        });
    }
    history
}

/// Every answer names a place in the log, so the order is given: it must be that of time, each place is one write's, and
/// each read must have seen the last write before its place. A write of which nobody knows what became may have got one
/// place, or none.
fn must_be_linearizable(history: &[Did]) -> Result<(), String> {
    for did in history {
        let Some((ended, index)) = did.ended else {
            continue;
        };
        let peers = || history.iter().filter(|o| o.partition == did.partition);
        let before = peers().filter_map(|o| o.ended.filter(|(at, _)| *at < did.began));
        let floor = before.map(|(_, index)| index).max().unwrap_or(0);
        let places = |o: &&Did| o.wrote.is_some() && o.ended.is_some_and(|(_, at)| at == index);
        if did.wrote.is_some() {
            if index <= floor {
                return Err(format!(
                    "{did:?} is placed at or before index {floor}, which had ended"
                ));
            }
            if peers().filter(places).count() > 1 {
                return Err(format!("{did:?} shares its place with another write"));
            }
            continue;
        }
        if index < floor {
            return Err(format!(
                "{did:?} is placed before index {floor}, which had ended"
            ));
        }
        let last = last_write(history, did.partition, index);
        if did.found.as_ref() == last.map(|(_, value)| value) {
            continue;
        }
        let lost = |o: &&Did| o.ended.is_none() && o.wrote.is_some() && o.wrote == did.found;
        let Some(wrote) = peers().find(lost) else {
            return Err(format!("{did:?} did not see {last:?}"));
        };
        if wrote.began > ended {
            return Err(format!("{did:?} saw what was written later: {wrote:?}"));
        }
        // Whoever else saw it saw it at the same place: after the last write before each of them.
        let same = peers().filter(|o| o.wrote.is_none() && o.found == did.found);
        let same = same.filter_map(|o| Some(o.ended?.1)).min().unwrap_or(index);
        if last.is_some_and(|(at, _)| at >= same) {
            return Err(format!(
                "{did:?} saw again, after {last:?}, what was seen at {same}"
            ));
        }
    }
    Ok(())
}

/// The last write that is known to stand at or before a place.
fn last_write(history: &[Did], partition: u64, index: u64) -> Option<(u64, &String)> {
    let peers = history.iter().filter(|o| o.partition == partition);
    let writes = peers.filter_map(|o| Some((o.ended?.1, o.wrote.as_ref()?)));
    writes.filter(|(at, _)| *at <= index).max()
}

/// A history in one partition, by the millisecond.
struct Told {
    start: Instant,
    history: Vec<Did>,
}

impl Told {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            history: Vec::new(),
        }
    }

    fn tell(
        mut self,
        ms: (u64, u64),
        index: Option<u64>,
        wrote: Option<&str>,
        found: &str,
    ) -> Self {
        let at = |ms| self.start + Duration::from_millis(ms);
        let did = Did {
            partition: 1,
            wrote: wrote.map(str::to_owned),
            found: (!found.is_empty()).then(|| found.to_owned()),
            began: at(ms.0),
            ended: index.map(|index| (at(ms.1), index)),
        };
        self.history.push(did);
        self
    }

    /// An append that was acknowledged at a place.
    fn wrote(self, began: u64, ended: u64, value: &str, index: u64) -> Self {
        self.tell((began, ended), Some(index), Some(value), "")
    }

    /// An append of which nobody knows what became.
    fn lost(self, began: u64, value: &str) -> Self {
        self.tell((began, began), None, Some(value), "")
    }

    /// A read at a place; "" where there was nothing.
    fn read(self, began: u64, ended: u64, found: &str, index: u64) -> Self {
        self.tell((began, ended), Some(index), None, found)
    }

    fn right(&self) {
        assert_eq!(must_be_linearizable(&self.history), Ok(()));
    }

    fn wrong(&self, why: &str) {
        let said = must_be_linearizable(&self.history).expect_err("it is not linearizable");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn true_histories_are_found_right() {
    Told::new().right();
    let told = Told::new().read(0, 5, "", 0).wrote(10, 20, "a", 1);
    told.read(30, 40, "a", 1)
        .wrote(50, 60, "b", 2)
        .read(70, 80, "b", 3)
        .right();
    // Two at once: the log says who came first, whoever was answered first; and one who read meanwhile saw either.
    let told = Told::new().wrote(0, 50, "a", 2).wrote(10, 30, "b", 1);
    told.read(5, 60, "b", 1).read(70, 80, "a", 2).right();
    // Partitions have nothing to do with each other.
    let mut told = Told::new().wrote(0, 10, "a", 1).read(20, 30, "", 0);
    told.history[1].partition = 2;
    told.right();
}

#[test]
fn an_append_of_unknown_outcome_may_have_happened_once_or_not() {
    let told = || Told::new().wrote(0, 10, "a", 1).lost(20, "b");
    told().read(30, 40, "a", 3).right();
    told().read(30, 40, "b", 3).read(50, 60, "b", 4).right();
    // It may come late.
    told().read(30, 40, "a", 1).read(50, 60, "b", 2).right();
    told()
        .wrote(30, 40, "c", 3)
        .read(50, 60, "c", 3)
        .read(70, 80, "b", 4)
        .right();
    // Seen, written over, and there again: it happened twice.
    let twice = told().read(30, 40, "b", 2).wrote(50, 60, "c", 3);
    twice.read(70, 80, "b", 4).wrong("saw again");
    // Nobody sees it before it was asked for.
    let told = Told::new().wrote(0, 10, "a", 1).read(20, 30, "b", 2);
    told.lost(40, "b").wrong("written later");
}

#[test]
fn false_histories_are_found_out() {
    let told = || Told::new().wrote(0, 10, "a", 1).wrote(20, 30, "b", 2);
    // A stale read: by its place, and by what it saw.
    told().read(40, 50, "a", 1).wrong("before index 2");
    told().read(40, 50, "a", 2).wrong("did not see");
    // A lost append: as if it had never been, and its place given away.
    told().read(40, 50, "", 3).wrong("did not see");
    told().wrote(40, 50, "c", 2).wrong("shares its place");
    Told::new()
        .wrote(0, 20, "a", 1)
        .wrote(10, 30, "b", 1)
        .wrong("shares its place");
    // One that happened twice: the first comes back after the second.
    told()
        .read(40, 50, "b", 2)
        .read(60, 70, "a", 3)
        .wrong("did not see");
    // Reordered: the later one stands before what had ended.
    Told::new()
        .wrote(0, 10, "a", 2)
        .wrote(20, 30, "b", 1)
        .wrong("at or before index 2");
    // What nobody ever wrote.
    told().read(40, 50, "z", 2).wrong("did not see");
}

/// Kills whoever leads the first partition; returns how long each partition that it led was without a leader. Each of them
/// is led by another then, after a few terms.
fn fail_over(cluster: &mut Cluster) -> Vec<Duration> {
    let leaders: Vec<_> = (1..=PARTITIONS).map(|p| cluster.leader(p)).collect();
    let Some((victim, _)) = leaders.iter().flatten().next().copied() else {
        return Vec::new();
    };
    let asker = cluster.asker();
    cluster.kill(victim);
    let killed = Instant::now();
    let led_in = |partition: u64| {
        let led = leaders[partition as usize - 1].filter(|(leader, _)| *leader == victim);
        led.map(|(_, term)| (partition, term))
    };
    let led: Vec<(u64, u64)> = (1..=PARTITIONS).filter_map(led_in).collect();
    let waiting: Vec<_> = led
        .iter()
        .map(|&(partition, _)| {
            let asker = asker.clone();
            std::thread::spawn(move || {
                let served = asker.ask(&["append"], 30_000, partition, &["failover", "x"]);
                assert!(
                    served.is_some(),
                    "partition {partition} moves to another node"
                );
                killed.elapsed()
            })
        })
        .collect();
    let moved = waiting.into_iter();
    let mut moved: Vec<Duration> = moved.map(|w| w.join().expect("it moved")).collect();
    moved.sort_unstable();
    for (partition, term) in led {
        let now = cluster.leader(partition);
        let (leader, risen) = now.map_or((victim, 0), |(leader, now)| (leader, now - term));
        assert_ne!(leader, victim, "partition {partition} moves");
        assert!(
            (1..=FAILOVER_TERMS_MAX).contains(&risen),
            "partition {partition} went through {risen} terms"
        );
    }
    cluster.boot(victim);
    moved
}

fn number(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|value| value.parse().ok())
        .unwrap_or(otherwise)
}

/// One kind of fault to nodes that are drawn, for a while that is drawn.
fn injure(cluster: &mut Cluster, fault: Fault, draw: u64) {
    let (one, two) = (1 + (draw % 3) as u8, 1 + ((draw + 1) % 3) as u8);
    let third = 1 + ((draw + 2) % 3) as u8;
    let pause = Duration::from_millis(500 + draw / 3 % 2_000);
    let cut = |links: &[(u8, u8)]| {
        for &(from, to) in links {
            cluster.net.cut(from, to);
        }
    };
    match fault {
        Fault::OneWay => cut(&[(one, two)]),
        Fault::BothWays => cut(&[(one, two), (two, one)]),
        Fault::Mute => cut(&[(one, two), (one, third)]),
        Fault::Deaf => cut(&[(two, one), (third, one)]),
        Fault::Alone => cut(&[(one, two), (two, one), (one, third), (third, one)]),
        Fault::Stopped => {
            cluster.signal(one, "-STOP");
            std::thread::sleep(pause);
            cluster.signal(one, "-CONT");
        }
        Fault::Killed => {
            cluster.kill(one);
            std::thread::sleep(pause);
            cluster.boot(one);
        }
    }
    std::thread::sleep(pause);
    cluster.net.heal();
    std::thread::sleep(pause / 2);
}

#[test]
fn what_clients_see_of_cut_killed_and_stopped_nodes_is_linearizable() {
    let net = match Net::lay() {
        Ok(net) => net,
        Err(why) => {
            eprintln!("NOT RUN: no network namespaces with iptables here: {why}");
            return;
        }
    };
    let mut cluster = Cluster::start(net);
    let asker = cluster.asker();
    let serves = |asker: &Asker| {
        for partition in 1..=PARTITIONS {
            let ms = PATIENCE.as_millis() as u64;
            let wrote = asker.ask(&["append"], ms, partition, &["probe", "x"]);
            assert!(wrote.is_some(), "partition {partition} serves");
        }
    };
    serves(&asker);
    let mut moved = Vec::new();
    for _ in 0..3 {
        moved.extend(fail_over(&mut cluster));
    }
    moved.sort_unstable();
    println!(
        "after SIGKILL of a leader: {} partitions moved, median {:?}, longest {:?}",
        moved.len(),
        moved.get(moved.len() / 2),
        moved.last()
    );
    let done = Arc::new(AtomicBool::new(false));
    let (next, history) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (asker, done, next) = (asker.clone(), done.clone(), next.clone());
            let history = history.clone();
            std::thread::spawn(move || {
                let did = live(&asker, client, &done, &next);
                history.lock().expect("not poisoned").extend(did);
            })
        })
        .collect();
    let mut draw = number("CLUSTOR_FAULT_SEED", 1);
    let until = Instant::now() + Duration::from_secs(number("CLUSTOR_FAULT_SECONDS", 15));
    while Instant::now() < until {
        // Each kind has struck by the end.
        for fault in Fault::ALL {
            // A multiplicative congruence (Lehmer): all that is wanted is variety.
            draw = draw * 48_271 % 0x7fff_ffff;
            injure(&mut cluster, fault, draw);
        }
    }
    serves(&asker);
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client's life");
    }
    let history = history.lock().expect("not poisoned");
    let ended = history.iter().filter(|did| did.ended.is_some()).count();
    println!("{} operations, {ended} of them answered", history.len());
    assert!(ended > 20, "{ended} answers are no history");
    must_be_linearizable(&history).expect("what clients saw is linearizable");
}
