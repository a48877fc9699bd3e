//! `clustor demo`: three nodes, a load, a kill, and the proof that nothing was lost.
//!
//! - `nodes`: the node processes
//! - `load`: clients that write, and what they were told
//! - `proof`: everything read back, and looked up in the files of the nodes

mod load;
mod nodes;
mod proof;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use clustor_engine::client::{Client, ClientConfig};
use clustor_engine::security::TlsIdentity;
use clustor_shards::host::file_system;
use clustor_shards::log::DISK_HARD_PERCENT;
use clustor_shards::sys::{free_bytes, memlock_limit, used_percent};
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::Role;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::{CommandError, EXIT_HELP};
use load::{Load, Told};
use nodes::Nodes;

const EXAMPLES: &str = "\
Examples:
  clustor demo                                    15 seconds, 64 clients, 16 partitions
  clustor demo --seconds 60 --payload-bytes 4096
  clustor demo --json result.json --keep /var/tmp/demo

What it does: makes certificates and a temporary directory, starts three nodes as processes on loopback with the
throughput profile (group-fsync), writes from all clients with idempotent retries, kills the busiest leader with SIGKILL
a third of the way in, starts it again later, then reads everything back and looks every acknowledged write up in
the nodes' files. Ends with one line:
  acked=N lost=0 duplicated=0 leader_changes=K p50_us=.. p99_us=.. unavailable_ms=..
and with 1 if anything was lost, executed twice, or can't be proved from a quorum of disks.

Limits: 3 to 3600 seconds, 1 to 1024 clients, 1 to 1024 partitions, payloads of 16 bytes to 64 KiB.";

/// Disk space that a demo asks for, besides what its load may write.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Size of a segment file in the demo.
const SEGMENT_BYTES: u64 = 16 << 20;
/// How long the cluster may take until every partition has a leader.
const LEADERS_WAIT: Duration = Duration::from_secs(20);

/// Shows three nodes on this machine losing one and losing nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct DemoArgs {
    /// How long the load runs.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Clients, each with one write under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Partitions, spread over the shards.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    partitions: u32,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65536))]
    payload_bytes: u32,
    /// Also write the result to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep everything in this directory, which must not exist.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// The demo's directory: removed at the end, unless it is to be kept or something failed.
struct Place {
    path: PathBuf,
    keep: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep {
            // What can't be removed is in a directory for temporary files; there is nobody to tell.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The machine can't run it, a node failed, it was interrupted, or something was lost, doubled or unproven.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(CommandError::failed)?;
    }
    let mut place = make_place(args.keep.as_deref())?;
    say(out, &format!("directory   {}", place.path.display()))?;
    check_machine(&place.path, out)?;
    let result = whole(args, &place.path, &interrupted, out);
    if let Err(error) = &result
        && !interrupted.load(Ordering::Relaxed)
    {
        place.keep = true;
        return Err(CommandError::failed(format!(
            "{error}; everything is kept in {}",
            place.path.display()
        )));
    }
    result
}

fn say(out: &mut dyn Write, line: &str) -> Result<(), CommandError> {
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(CommandError::failed)
}

/// A directory on a file system that outlives a power loss, where one is found.
fn make_place(keep: Option<&Path>) -> Result<Place, CommandError> {
    if let Some(path) = keep {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .and_then(|()| std::fs::create_dir(path))
            .map_err(|error| CommandError::failed(format!("{}: {error}", path.display())))?;
        return Ok(Place {
            path: path.to_owned(),
            keep: true,
        });
    }
    let candidates = [
        std::env::temp_dir(),
        PathBuf::from("/var/tmp"),
        PathBuf::from("."),
    ];
    let on_disk = |path: &PathBuf| file_system(path).is_ok_and(|found| !found.in_memory);
    let parent = candidates.iter().find(|path| on_disk(path)).ok_or_else(|| {
        CommandError::failed(
            "no directory on a disk was found in $TMPDIR, /var/tmp or here; name one with --keep DIR",
        )
    })?;
    let path = tempfile::Builder::new()
        .prefix("clustor-demo-")
        .tempdir_in(parent)
        .map_err(|error| CommandError::failed(format!("{}: {error}", parent.display())))?
        .keep();
    Ok(Place { path, keep: false })
}

fn check_machine(path: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let free = free_bytes(path).map_err(CommandError::failed)?;
    if free < FREE_BYTES_MIN {
        return Err(CommandError::failed(format!(
            "{}: {} MiB free, the demo needs {} MiB: free some space or set TMPDIR",
            path.display(),
            free >> 20,
            FREE_BYTES_MIN >> 20
        )));
    }
    let used = used_percent(path).map_err(CommandError::failed)?;
    if used >= DISK_HARD_PERCENT {
        return Err(CommandError::failed(format!(
            "{}: its file system is {used}% used, and nodes refuse appends from {DISK_HARD_PERCENT}% on (disk_hard_percent): free some space or set TMPDIR",
            path.display(),
        )));
    }
    let memlock = match memlock_limit().map_err(CommandError::failed)? {
        Some(limit) => format!("{} KiB", limit >> 10),
        None => "unlimited".to_owned(),
    };
    say(
        out,
        &format!(
            "disk        {} MiB free; locked memory {memlock}",
            free >> 20
        ),
    )
}

fn whole(
    args: &DemoArgs,
    dir: &Path,
    interrupted: &AtomicBool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut nodes = Nodes::make(dir, args.partitions, SEGMENT_BYTES)?;
    nodes.start_all(interrupted)?;
    say(
        out,
        "nodes       3 processes on loopback, TLS 1.3, profile throughput (group-fsync)",
    )?;
    let identity = TlsIdentity::load(&nodes.client_files(), SystemTime::now())
        .map_err(CommandError::failed)?;
    let client = Client::connect(ClientConfig::new(nodes.placement(), identity))
        .map_err(CommandError::failed)?;
    let mut leaders = wait_for_leaders(&client, args.partitions, interrupted)?;
    say_downgrades(&client, out)?;
    let load = Load::start(&client, args.clients, args.partitions, args.payload_bytes);
    let outcome = conduct(
        args,
        &mut nodes,
        &client,
        &load,
        &mut leaders,
        interrupted,
        out,
    );
    let told = load.stop()?;
    let story = outcome?;
    say(out, "reading everything back")?;
    let read = proof::read_back(&client, &told)?;
    client.close();
    let memory_kib = nodes.memory_kib();
    nodes.stop_all()?;
    say(
        out,
        "looking every acknowledged write up in the nodes' files",
    )?;
    let unproven = proof::unproven(&nodes, &told)?;
    conclude(args, &told, &story, &read, unproven, memory_kib, out)
}

/// A partition's place in lists: they are numbered from 1.
fn place_of(partition: PartitionId) -> usize {
    usize::try_from(partition.get()).map_or(usize::MAX, |number| number.wrapping_sub(1))
}

/// Who leads each partition, as the cluster says; 0 for nobody.
type Leaders = Vec<u64>;

fn ask_leaders(client: &Client, partitions: u32) -> Leaders {
    let mut leaders: Leaders = vec![0; partitions as usize];
    for (at, pending) in client.status_all(Some(Duration::from_millis(500))) {
        let Ok(status) = pending.wait() else { continue };
        for partition in status.partitions {
            if partition.role == Role::Leader
                && let Some(leader) = leaders.get_mut(place_of(partition.partition))
            {
                *leader = at.node.get();
            }
        }
    }
    leaders
}

fn wait_for_leaders(
    client: &Client,
    partitions: u32,
    interrupted: &AtomicBool,
) -> Result<Leaders, CommandError> {
    let until = Instant::now() + LEADERS_WAIT;
    loop {
        let leaders = ask_leaders(client, partitions);
        if leaders.iter().all(|leader| *leader != 0) {
            return Ok(leaders);
        }
        check_interrupt(interrupted)?;
        if Instant::now() > until {
            return Err(CommandError::failed(format!(
                "not every partition had a leader within {} s",
                LEADERS_WAIT.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn check_interrupt(interrupted: &AtomicBool) -> Result<(), CommandError> {
    if interrupted.load(Ordering::Relaxed) {
        return Err(CommandError::failed(
            "interrupted; the nodes are stopped, and their files are removed unless --keep was given",
        ));
    }
    Ok(())
}

fn say_downgrades(client: &Client, out: &mut dyn Write) -> Result<(), CommandError> {
    for (at, pending) in client.status_all(None) {
        if let Ok(status) = pending.wait()
            && status.io_writer_mode != 0
        {
            say(
                out,
                &format!(
                    "note        node {} shard {} writes with RegisteredUring instead of FixedUring: raise `ulimit -l`",
                    at.node, at.shard
                ),
            )?;
        }
    }
    Ok(())
}

/// What happened while the load ran.
struct Story {
    killed: NodeId,
    leader_changes: u64,
    unavailable_ms: u64,
    per_s_before: f64,
    per_s_after: f64,
}

fn conduct(
    args: &DemoArgs,
    nodes: &mut Nodes,
    client: &Client,
    load: &Load,
    leaders: &mut Leaders,
    interrupted: &AtomicBool,
    out: &mut dyn Write,
) -> Result<Story, CommandError> {
    let begun = Instant::now();
    let kill_at = begun + Duration::from_secs(args.seconds) / 3;
    let start_at = begun + Duration::from_secs(args.seconds) * 2 / 3;
    let end_at = begun + Duration::from_secs(args.seconds);
    let mut killed: Option<(NodeId, Instant, u64, Vec<usize>)> = None;
    let mut started_again = false;
    let mut leader_changes = 0;
    let mut next_line = begun + Duration::from_secs(1);
    let mut last_line = (begun, 0);
    while Instant::now() < end_at {
        check_interrupt(interrupted)?;
        let now = Instant::now();
        if killed.is_none() && now >= kill_at {
            let (busiest, led) = busiest(leaders);
            load.mark_kill(&led);
            let acked = load.acked();
            nodes.kill(busiest)?;
            say(
                out,
                &format!(
                    "             SIGKILL to node {busiest}, which led {} partitions",
                    led.len()
                ),
            )?;
            killed = Some((busiest, now, acked, led));
        }
        if let Some((node, ..)) = &killed
            && !started_again
            && now >= start_at
        {
            nodes.start(*node, interrupted)?;
            started_again = true;
            say(out, &format!("             node {node} was started again"))?;
        }
        if now >= next_line {
            let seen = ask_leaders(client, args.partitions);
            leader_changes += count_changes(leaders, &seen);
            let acked = load.acked();
            let (p50, p99) = load.take_interval();
            say(
                out,
                &format!(
                    "{:>4} s      {:>7} acks/s   p50 {:>6} us   p99 {:>7} us   leaders {}",
                    now.duration_since(begun).as_secs(),
                    per_second(acked - last_line.1, now.duration_since(last_line.0)),
                    p50,
                    p99,
                    leaders_line(leaders)
                ),
            )?;
            last_line = (now, acked);
            next_line = now + Duration::from_secs(1);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (killed, killed_at, acked_then, led) =
        killed.ok_or_else(|| CommandError::failed("the load ended before the kill"))?;
    let after = end_at.duration_since(killed_at).as_secs_f64();
    Ok(Story {
        killed,
        leader_changes,
        unavailable_ms: load.unavailable_ms(&led),
        per_s_before: acked_then as f64 / killed_at.duration_since(begun).as_secs_f64(),
        per_s_after: (load.acked() - acked_then) as f64 / after,
    })
}

fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()).round() as u64
}

/// The node that leads most, and what it leads.
fn busiest(leaders: &Leaders) -> (NodeId, Vec<usize>) {
    let led_by = |node: u64| -> Vec<usize> {
        let of_it = leaders
            .iter()
            .enumerate()
            .filter(|(_, leader)| **leader == node);
        of_it.map(|(partition, _)| partition).collect()
    };
    (1..=3)
        .map(|node| (NodeId(node), led_by(node)))
        .max_by_key(|(_, led)| led.len())
        .unwrap_or((NodeId(1), Vec::new()))
}

/// Takes what was seen; nobody seen is no change.
fn count_changes(leaders: &mut Leaders, seen: &Leaders) -> u64 {
    let mut changes = 0;
    for (known, seen) in leaders.iter_mut().zip(seen) {
        if *seen != 0 && *seen != *known {
            *known = *seen;
            changes += 1;
        }
    }
    changes
}

fn leaders_line(leaders: &Leaders) -> String {
    let of = |node: u64| leaders.iter().filter(|leader| **leader == node).count();
    format!("{}/{}/{}", of(1), of(2), of(3))
}

fn conclude(
    args: &DemoArgs,
    told: &[Told],
    story: &Story,
    read: &proof::ReadBack,
    unproven: u64,
    memory_kib: u64,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let acked: u64 = told.iter().map(|told| told.acked.len() as u64).sum();
    let doubled = read.duplicated + told.iter().map(|told| told.duplicated).sum::<u64>();
    let unresolved: u64 = told.iter().map(|told| told.unresolved).sum();
    let mut latencies = load::histogram();
    for told in told {
        latencies
            .add(&told.latencies)
            .map_err(CommandError::failed)?;
    }
    let (p50, p99) = (
        latencies.value_at_quantile(0.5),
        latencies.value_at_quantile(0.99),
    );
    say(
        out,
        &format!(
            "rates       {:.0} acks/s before the kill, {:.0} after; greatest memory of a node {} MiB",
            story.per_s_before,
            story.per_s_after,
            memory_kib >> 10
        ),
    )?;
    if unresolved > 0 {
        say(
            out,
            &format!("note        {unresolved} writes were still unknown at the end"),
        )?;
    }
    if let Some(file) = &args.json {
        let result = json!({
            "acked": acked,
            "lost": read.lost,
            "duplicated": doubled,
            "unproven": unproven,
            "unresolved": unresolved,
            "leader_changes": story.leader_changes,
            "killed_node": story.killed,
            "p50_us": p50,
            "p99_us": p99,
            "unavailable_ms": story.unavailable_ms,
            "acks_per_s_before_kill": story.per_s_before,
            "acks_per_s_after_kill": story.per_s_after,
            "node_memory_kib_max": memory_kib,
            "seconds": args.seconds,
            "clients": args.clients,
            "partitions": args.partitions,
            "payload_bytes": args.payload_bytes,
        });
        std::fs::write(file, format!("{result:#}\n"))
            .map_err(|error| CommandError::failed(format!("{}: {error}", file.display())))?;
    }
    if unproven > 0 {
        say(
            out,
            &format!("unproven    {unproven} acknowledged writes are not on a quorum of disks"),
        )?;
    }
    say(
        out,
        &format!(
            "acked={acked} lost={} duplicated={doubled} leader_changes={} p50_us={p50} p99_us={p99} unavailable_ms={}",
            read.lost, story.leader_changes, story.unavailable_ms
        ),
    )?;
    if read.lost + doubled + unproven > 0 {
        return Err(CommandError::failed("the demo failed"));
    }
    Ok(())
}
