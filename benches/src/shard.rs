//! A shard's log on a shard's ring, driven by hand: what an append costs where nothing is above it.
//!
//! One thread does nothing else. The clock runs from the append to the retirement of its chain: framing, sealing,
//! checksums, submission and the device are all in it. Rounds stay within one segment; what rollovers do is measured by
//! [`ShardBench::measure_rolling`].

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clustor_engine::profile::Profile;
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::record::{RecordKind, encode_record, parse_record};
use clustor_shards::log::{Kek, KeyError, KeyProvider, LogIdentity, Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_shards::uring::ShardRing;
use clustor_wire::ids::{
    ChainNumber, ClusterId, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term,
};

use crate::BenchError;
use crate::allocations::Since;
use crate::interrupt::Interrupt;
use crate::measured::Measured;

/// The partition that everything is appended to.
pub const PARTITION: PartitionId = PartitionId(1);
/// In whose first term everything is appended.
pub const TERM: Term = Term(1);
/// What is run before the clock starts.
const WARM_UP: Duration = Duration::from_millis(200);
/// In eighths of the segment: another log is opened for a round where more is used, its warm-up ends when this much more is,
/// and the round at the last. Fast devices use up a segment in less than a warm-up takes.
const SEGMENT_EIGHTHS: (u32, u32, u32) = (2, 1, 6);

/// The key that everything here is sealed under.
pub struct BenchKey;

impl KeyProvider for BenchKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new([7; 32].into()))
    }
}

/// Who writes.
pub const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(1),
    node: NodeId(1),
    shard: ShardId(0),
};

/// What a round asks of the log.
#[derive(Debug, Clone, Copy)]
pub struct ShardWork {
    /// How each append is made durable.
    pub mode: Mode,
    /// Appends under way.
    pub clients: u32,
    /// Bytes of each entry.
    pub payload_bytes: u32,
}

/// What a round did beside its latencies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Chains submitted.
    pub chains: u64,
    /// Their log blocks.
    pub blocks: u64,
    /// Sum, over the chains, of the chains in flight once it was submitted.
    pub in_flight: u64,
    /// Enters of the ring.
    pub enters: u64,
    /// Allocations.
    pub allocations: u64,
}

impl Counts {
    fn per_chain(self, sum: u64) -> f64 {
        sum as f64 / self.chains.max(1) as f64
    }

    /// Log blocks in each chain.
    pub fn blocks_per_chain(self) -> f64 {
        self.per_chain(self.blocks)
    }

    /// Chains in flight, as each chain found it, itself included.
    pub fn depth(self) -> f64 {
        self.per_chain(self.in_flight)
    }
}

/// Latencies by what an append met on its way.
#[derive(Debug)]
pub struct Rolling {
    /// Nothing but other appends.
    pub quiet: Measured,
    /// The next segment was being zeroed, and no old one removed.
    pub preparing: Measured,
    /// A rollover: the old pair's last chains, the opening, the mark.
    pub rollover: Measured,
    /// A pair that nothing needs any more was being removed, or its segment set aside for the next, which may have been
    /// made of one meanwhile.
    pub reclaim: Measured,
    /// Rollovers.
    pub rollovers: u64,
    /// Pairs that were removed.
    pub reclaims: u64,
    /// What was done for all of them.
    pub counts: Counts,
}

/// What is under way besides appends. The numbers grow when it begins and when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Beside {
    rolling: u64,
    preparing: u64,
    reclaiming: u64,
}

impl Beside {
    /// Whether something of the kind was under way at some time since `then`.
    fn met(now: u64, then: u64) -> bool {
        now != then || !then.is_multiple_of(2)
    }
}

/// A log on a shard's ring, driven by hand.
pub struct ShardBench<'a> {
    parent: PathBuf,
    opened: u32,
    profile: Profile,
    open: OpenLog,
    ops: Vec<DiskOp>,
    events: Vec<DiskEvent>,
    retirement: Retirement,
    counts: Counts,
    beside: Beside,
    /// The mark of the rollover that is under way.
    mark: Option<ChainNumber>,
    /// Whether segments go as soon as they are closed.
    reclaims: bool,
    /// When the log's time began.
    begun: Instant,
    interrupt: &'a Interrupt,
}

/// The log and its ring.
struct OpenLog {
    ring: ShardRing,
    log: ShardLog,
    next: LogIndex,
    /// Blocks of the current segment that are used.
    used: u32,
}

impl OpenLog {
    fn new(directory: &Path, profile: &Profile) -> Result<Self, BenchError> {
        let mut ring = ShardRing::open(directory)?;
        let mut pool = profile.log_options(0).pool();
        let mode = ring.register_pool(&mut pool);
        let options = profile.log_options(mode as u8);
        let mut log = ShardLog::recover(&mut ring, IDENTITY, options, &BenchKey, pool)?.log;
        log.create_partition(PARTITION, Incarnation(1), b"bench");
        Ok(Self {
            ring,
            log,
            next: LogIndex(1),
            used: 0,
        })
    }
}

impl<'a> ShardBench<'a> {
    /// Opens a log in a directory of its own in `parent`, and waits until its spare is ready too.
    ///
    /// # Errors
    /// When the ring or the log can't be opened.
    pub fn open(
        parent: &Path,
        profile: Profile,
        interrupt: &'a Interrupt,
    ) -> Result<Self, BenchError> {
        let open = OpenLog::new(&parent.join("0"), &profile)?;
        let mut bench = Self {
            parent: parent.to_owned(),
            opened: 0,
            profile,
            open,
            ops: Vec::new(),
            events: Vec::new(),
            retirement: Retirement::default(),
            counts: Counts::default(),
            beside: Beside::default(),
            mark: None,
            reclaims: false,
            begun: Instant::now(),
            interrupt,
        };
        bench.settle()?;
        Ok(bench)
    }

    /// Waits until nothing is in flight and the spare is zeroed: nothing else is to be under way while it is measured.
    fn settle(&mut self) -> Result<(), BenchError> {
        while !self.open.log.is_open() || !self.open.log.is_settled() || self.open.ring.is_busy() {
            self.turn()?;
        }
        Ok(())
    }

    /// A new log in place of this one, in fresh segments.
    fn renew(&mut self) -> Result<(), BenchError> {
        let old = self.parent.join(self.opened.to_string());
        self.opened += 1;
        let directory = self.parent.join(self.opened.to_string());
        self.open = OpenLog::new(&directory, &self.profile)?;
        std::fs::remove_dir_all(&old).map_err(|source| BenchError::Output { path: old, source })?;
        self.settle()
    }

    /// Measures one round: at most `time`, less if the segment is used up before.
    ///
    /// # Errors
    /// When the log fails or a signal came.
    pub fn measure(
        &mut self,
        work: ShardWork,
        time: Duration,
    ) -> Result<(Measured, Counts), BenchError> {
        let eighth = self.open.log.options().segment_blocks / 8;
        let (used_max, warm_up, enough) = SEGMENT_EIGHTHS;
        if self.open.used > used_max * eighth {
            self.renew()?;
        }
        let warm = self.open.used + warm_up * eighth;
        self.keep(work, WARM_UP.min(time), warm, |_, _, _| {})?;
        let enough = enough * eighth;
        let mut measured = Measured::new();
        let took = self.keep(work, time, enough, |latency, _, _| measured.record(latency))?;
        measured.took(took);
        Ok((measured, self.counts))
    }

    /// Measures over the ends of segments, until `time` is over; `reclaims`: and lets go of each as soon as it is closed.
    ///
    /// # Errors
    /// When the log fails or a signal came.
    pub fn measure_rolling(
        &mut self,
        work: ShardWork,
        time: Duration,
        reclaims: bool,
    ) -> Result<Rolling, BenchError> {
        self.reclaims = reclaims;
        let mut rolling = Rolling {
            quiet: Measured::new(),
            preparing: Measured::new(),
            rollover: Measured::new(),
            reclaim: Measured::new(),
            rollovers: 0,
            reclaims: 0,
            counts: Counts::default(),
        };
        let before = self.beside;
        let begun = Instant::now();
        self.keep(work, time, u32::MAX, |latency, now, then| {
            let of = if Beside::met(now.rolling, then.rolling) {
                &mut rolling.rollover
            } else if Beside::met(now.reclaiming, then.reclaiming) {
                &mut rolling.reclaim
            } else if Beside::met(now.preparing, then.preparing) {
                &mut rolling.preparing
            } else {
                &mut rolling.quiet
            };
            of.record(latency);
        })?;
        for measured in [
            &mut rolling.quiet,
            &mut rolling.preparing,
            &mut rolling.rollover,
            &mut rolling.reclaim,
        ] {
            measured.took(begun.elapsed());
        }
        rolling.rollovers = (self.beside.rolling - before.rolling) / 2;
        rolling.reclaims = (self.beside.reclaiming - before.reclaiming) / 2;
        rolling.counts = self.counts;
        Ok(rolling)
    }

    fn turn(&mut self) -> Result<(), BenchError> {
        self.interrupt.check()?;
        self.submit()?;
        let OpenLog { ring, log, .. } = &mut self.open;
        ring.wait()?;
        ring.drain(&mut self.events)?;
        let segment_blocks = log.options().segment_blocks;
        let now = Time(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        for event in self.events.drain(..) {
            match &event {
                DiskEvent::Chain { chain, .. } if self.mark == Some(*chain) => {
                    self.mark = None;
                    self.beside.rolling += 1;
                }
                DiskEvent::Progress {
                    segment_blocks_ready,
                    ..
                }
                | DiskEvent::Prepared {
                    segment_blocks_ready,
                    ..
                } if *segment_blocks_ready >= segment_blocks
                    && !self.beside.preparing.is_multiple_of(2) =>
                {
                    self.beside.preparing += 1;
                }
                DiskEvent::Removed { .. } if !self.beside.reclaiming.is_multiple_of(2) => {
                    self.beside.reclaiming += 1;
                }
                _ => {}
            }
            log.on_event(now, event, &mut self.retirement);
        }
        self.retirement.durable.clear();
        self.retirement.hard_states.clear();
        match log.failure() {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }

    /// The log's time.
    fn now(&self) -> Time {
        Time(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Starts what the log wants, and counts it.
    fn submit(&mut self) -> Result<(), BenchError> {
        let now = self.now();
        let OpenLog {
            ring, log, used, ..
        } = &mut self.open;
        if self.reclaims && !log.older_pairs().is_empty() {
            // What is closed is needed by nobody.
            let durable = log.durable(PARTITION).map(|proof| proof.index());
            log.set_floor(PARTITION, durable.unwrap_or_default());
        }
        let mut flying = log.chains_in_flight() as u64;
        log.poll(now, &mut self.ops);
        for op in self.ops.drain(..) {
            match &op {
                DiskOp::Chain(chain) => {
                    flying += 1;
                    self.counts.chains += 1;
                    self.counts.blocks += chain.log.len() as u64;
                    self.counts.in_flight += flying;
                    *used = chain.log_block + chain.log.len() as u32;
                    if chain.log_block == 0 {
                        self.mark = Some(chain.chain.next());
                        self.beside.rolling += 1;
                    }
                }
                DiskOp::Prepare(_) if self.beside.preparing.is_multiple_of(2) => {
                    self.beside.preparing += 1
                }
                DiskOp::Retire(_) if self.beside.reclaiming.is_multiple_of(2) => {
                    self.beside.reclaiming += 1
                }
                _ => {}
            }
            ring.start(op)?;
        }
        Ok(())
    }

    /// Keeps `clients` appends under way until `time` is over or `blocks` of the segment are used, and tells of each how
    /// long it took from its append to its retirement, and what was under way then and before.
    fn keep(
        &mut self,
        work: ShardWork,
        time: Duration,
        blocks: u32,
        mut tell: impl FnMut(Duration, Beside, Beside),
    ) -> Result<Duration, BenchError> {
        let mut under_way = VecDeque::with_capacity(work.clients as usize);
        let body = vec![0x5a; work.payload_bytes as usize];
        let mut frame = Vec::with_capacity(body.len() + 128);
        self.counts = Counts::default();
        let enters = self.open.ring.enters();
        let allocations = Since::now();
        let begun = Instant::now();
        loop {
            let open = begun.elapsed() < time && self.open.used < blocks;
            while open && under_way.len() < work.clients as usize {
                under_way.push_back((self.open.next, Instant::now(), self.beside));
                self.append(work.mode, &body, &mut frame);
            }
            if under_way.is_empty() {
                break;
            }
            self.turn()?;
            let durable = self
                .open
                .log
                .durable(PARTITION)
                .map_or(LogIndex::ZERO, |proof| proof.index());
            let now = Instant::now();
            while let Some((index, at, beside)) = under_way.front()
                && *index <= durable
            {
                tell(now - *at, self.beside, *beside);
                under_way.pop_front();
            }
        }
        let took = begun.elapsed();
        self.counts.allocations = allocations.count();
        self.counts.enters = self.open.ring.enters() - enters;
        Ok(took)
    }

    fn append(&mut self, mode: Mode, body: &[u8], frame: &mut Vec<u8>) {
        frame.clear();
        let OpenLog { log, next, .. } = &mut self.open;
        encode_record(frame, RecordKind::Entry, PARTITION, TERM, *next, body);
        let record = parse_record(frame).expect("a frame just made is one");
        log.append(&record, mode);
        *next = next.next();
    }
}
