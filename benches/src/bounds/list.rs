//! The bounds: what is measured for each, by which other subcommand, and what it has to be.

use serde_json::Value;

use super::Options;

/// One measurement; several bounds may be read from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// One client, strict, in the shard.
    Strict,
    /// The same through a handle.
    Handle,
    /// Beside raft-engine.
    Peers,
    /// Many clients with large entries.
    Bandwidth,
    /// Over the ends of segments, and removals.
    Rollover,
    /// A start on a long log.
    Start,
    /// The core's instructions.
    Consensus,
    /// Partitions in which nothing happens.
    Idle,
    /// Three processes, of which one is killed.
    Failover,
}

impl Call {
    /// The subcommand and its arguments, but where to measure and where the results go.
    pub fn arguments(self, options: &Options) -> Vec<String> {
        let line = match self {
            Self::Strict => "log --sizes 4096 --clients 1 --modes strict --at shard",
            Self::Handle => "log --sizes 4096 --clients 1 --modes strict --at handle",
            Self::Peers => "peers log --sizes 128,1024,4096 --clients 64",
            Self::Bandwidth => "log --sizes 65536 --clients 256 --modes group --at shard",
            Self::Rollover => "log --rollover --reclaim --sizes 4096 --clients 1 --modes strict",
            Self::Start => "start",
            Self::Consensus => "consensus --batches 1,16,256",
            Self::Idle => "idle --partitions 10000 --repeat 1",
            Self::Failover => "demo --seconds 6 --clients 16 --partitions 8 --payload-bytes 128",
        };
        let mut arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut more = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        match self {
            Self::Strict | Self::Handle | Self::Peers | Self::Bandwidth => {
                more("--seconds", options.seconds.to_string());
                more("--repeat", "1".to_owned());
            }
            // Ends of segments are rare.
            Self::Rollover => {
                more("--seconds", (5.0 * options.seconds).min(3600.0).to_string());
                more("--repeat", "1".to_owned());
            }
            Self::Idle => more("--seconds", options.seconds.to_string()),
            Self::Start => more("--mib", options.log_mib().to_string()),
            Self::Consensus | Self::Failover => {}
        }
        arguments
    }

    /// Whether it is the `clustor` command that measures, which lies beside this program.
    pub const fn is_of_the_command(self) -> bool {
        matches!(self, Self::Failover)
    }
}

/// What a measured value has to be.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Limit {
    /// Whether it is.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// The relation, as a sign, and the number.
    pub const fn parts(self) -> (&'static str, f64) {
        match self {
            Self::AtMost(limit) => ("<=", limit),
            Self::Below(limit) => ("<", limit),
            Self::AtLeast(limit) => (">=", limit),
        }
    }
}

/// One bound.
#[derive(Debug)]
pub struct Bound {
    /// As `--only` has it.
    pub name: &'static str,
    /// What is compared with what.
    pub what: &'static str,
    /// By which measurement.
    pub call: Call,
    /// Reads it from that measurement's JSON; `None` where it was not measured.
    pub value: fn(&Value) -> Option<f64>,
    /// What it has to be.
    pub limit: Limit,
}

/// All of them, in the order in which they are measured.
pub const BOUNDS: &[Bound] = &[
    Bound {
        name: "strict-p50",
        what: "strict, 1 client, 4 KiB, in the shard: p50 over the raw full chain's",
        call: Call::Strict,
        value: |found| runs(found).next()?["ratio_to_device"].as_f64(),
        limit: Limit::AtMost(1.10),
    },
    Bound {
        name: "strict-p99",
        what: "the same: p99 over the raw full chain's",
        call: Call::Strict,
        value: |found| runs(found).next()?["ratio_p99_to_device"].as_f64(),
        limit: Limit::AtMost(1.25),
    },
    Bound {
        name: "allocations",
        what: "the same: allocations of the process per append (lists that double now and then)",
        call: Call::Strict,
        value: |found| runs(found).next()?["allocations_per_operation"].as_f64(),
        limit: Limit::Below(0.001),
    },
    Bound {
        name: "handle",
        what: "the same through a handle on another thread: thread wake-ups more than in the shard",
        call: Call::Handle,
        value: |found| at(found, "handle").next()?["wakes_over_shard"].as_f64(),
        limit: Limit::AtMost(2.0),
    },
    Bound {
        name: "peer-rate",
        what: "group, 64 clients, 128 B to 4 KiB, sealed, in the shard: appends/s over raft-engine's, least size",
        call: Call::Peers,
        value: |found| least(of_peers(found).map(|run| run["rate_to_peer"].as_f64())),
        limit: Limit::AtLeast(3.0),
    },
    Bound {
        name: "peer-p99",
        what: "the same: p99 over raft-engine's, worst size",
        call: Call::Peers,
        value: |found| most(of_peers(found).map(|run| run["p99_to_peer"].as_f64())),
        limit: Limit::AtMost(1.0),
    },
    Bound {
        name: "bandwidth",
        what: "group, 256 clients, 64 KiB: log blocks/s over the lower of the device's flushed and the suite's on one core",
        call: Call::Bandwidth,
        value: |found| {
            let run = runs(found).next()?;
            most(
                ["bandwidth_to_device", "bandwidth_to_suite"]
                    .map(|key| run[key].as_f64())
                    .into_iter(),
            )
        },
        limit: Limit::AtLeast(0.85),
    },
    Bound {
        name: "rollover",
        what: "p99.9 over rollovers beyond that of quiet times, in full chains of the device",
        call: Call::Rollover,
        value: |found| mode(found, "all", "rollovers")?["p999_over_quiet_chains"].as_f64(),
        limit: Limit::Below(2.0),
    },
    Bound {
        name: "reclaim",
        what: "p99.9 while pairs are removed beyond that of quiet times, in writes with a flush",
        call: Call::Rollover,
        value: |found| {
            mode(found, "quiet+reclaim", "reclaims")?["p999_over_quiet_flushes"].as_f64()
        },
        limit: Limit::Below(1.0),
    },
    Bound {
        name: "replay",
        what: "reading a log back over the least of device, suite on one core, 1 GB/s",
        call: Call::Start,
        value: |found| found["read_back_to_bound"].as_f64(),
        limit: Limit::AtLeast(0.90),
    },
    Bound {
        name: "scrub",
        what: "an offline scrub over the same, by the best number of threads of 1, 2 and 4",
        call: Call::Start,
        value: |found| {
            let scrubs = found["scrubs"].as_array()?.iter();
            most(scrubs.map(|scrub| scrub["to_bound"].as_f64()))
        },
        limit: Limit::AtLeast(0.90),
    },
    Bound {
        name: "start",
        what: "seconds until a shard speaks again, nothing to replay (on --gib of log)",
        call: Call::Start,
        value: |found| found["speaks_after_s"].as_f64(),
        limit: Limit::Below(2.0),
    },
    Bound {
        name: "core",
        what: "instructions of the core per entry over raft-rs's, worst of batches of 1, 16 and 256",
        call: Call::Consensus,
        value: |found| {
            let rows = found
                .as_array()?
                .iter()
                .filter(|row| row["who"] == "raft-rs");
            most(rows.map(|row| row["instructions_to_peer"].as_f64()))
        },
        limit: Limit::Below(1.0),
    },
    Bound {
        name: "idle",
        what: "10,000 idle partitions: a node's share of one core, in percent",
        call: Call::Idle,
        value: |found| found["core_percent"].as_f64(),
        limit: Limit::Below(3.0),
    },
    Bound {
        name: "among-idle",
        what: "an active partition among them: p50 over that of one alone",
        call: Call::Idle,
        value: |found| found["ratio"].as_f64(),
        limit: Limit::AtMost(1.05),
    },
    Bound {
        name: "failover",
        what: "ms without an answer where the leader's process is killed (`clustor demo`)",
        call: Call::Failover,
        value: |found| found["unavailable_ms"].as_f64(),
        limit: Limit::Below(600.0),
    },
];

fn runs(found: &Value) -> impl Iterator<Item = &Value> {
    found["runs"].as_array().into_iter().flatten()
}

fn at<'a>(found: &'a Value, place: &'a str) -> impl Iterator<Item = &'a Value> {
    runs(found).filter(move |run| run["measured_at"] == place)
}

/// The line of this mode, if what it is about happened at all.
fn mode<'a>(found: &'a Value, mode: &str, what: &str) -> Option<&'a Value> {
    runs(found).find(|run| run["mode"] == mode && run[what].as_u64() > Some(0))
}

fn of_peers(found: &Value) -> impl Iterator<Item = &Value> {
    at(found, "shard").filter(|run| run["mode"] == "clustor")
}

/// The least of all; `None` where there is none, or one was not measured.
fn least(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Option<Vec<f64>> = values.collect();
    values?.into_iter().reduce(f64::min)
}

/// The greatest of those that were measured.
fn most(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().reduce(f64::max)
}
