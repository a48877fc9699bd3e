//! The table of tunables: name, limits, meaning; everything else about a profile follows from it.
//!
//! A line is a key, what it may stand at, and when a new value is obeyed by a running node:
//!
//! - `(1..=8)`: a number (`u64`), both ends included; units stand at the end of the key's stem
//! - `(word Mode)`: a word for each value of a type; its words are given by `words!` in `knob`
//! - `(switch)`: on or off (`bool`)
//! - `live`: at the next batch of each shard; `restart`: at the next start
//!
//! The first line of the text says what it means; what follows says when to change it. It is printed above the key in
//! the shipped files, which a test compares with the table.

use clustor_shards::disk::FlushKind;
use clustor_shards::log::{Encoding, HashSuite, Mode, OnAuthenticationFailure, Suite};
use clustor_shards::uring::WriterChoice;

use super::knob::{Allowed, Kind, Knob, Value, When, Word};

/// What a file that names its base may set a knob to, where that is less than the table allows: key, base, and what.
pub(super) const NARROWER: &[(&str, &str, Allowed)] = &[
    ("segment_bytes", "latency", number(1 << 20, 2 << 30)),
    ("segment_bytes", "throughput", number(1 << 20, 2 << 30)),
    ("segment_bytes", "wan", number(512 << 20, 2 << 30)),
    ("segment_bytes", "zfs", number(2 << 30, 4 << 30)),
    ("entry_bytes_max", "latency", number(1 << 10, 1 << 20)),
    ("entry_bytes_max", "zfs", number(1 << 10, 1 << 20)),
    ("hash", "latency", Allowed::Word(&["sha256"])),
    ("hash", "zfs", Allowed::Word(&["sha256"])),
    // The way between nodes far apart takes longer than lease_rtt_ms allows for; where each flush takes milliseconds, asking a
    // majority costs little beside it.
    ("leases", "wan", Allowed::Fixed(false)),
    ("leases", "zfs", Allowed::Fixed(false)),
];

const fn number(min: u64, max: u64) -> Allowed {
    Allowed::Number { min, max }
}

macro_rules! kind_of {
    ((word $type:ty)) => {
        $type
    };
    ((switch)) => {
        bool
    };
    (($min:literal..=$max:literal)) => {
        u64
    };
}

macro_rules! allowed {
    ((word $type:ty)) => {
        Allowed::Word(<$type as Word>::WORDS)
    };
    ((switch)) => {
        Allowed::Switch
    };
    (($min:literal..=$max:literal)) => {
        Allowed::Number {
            min: $min,
            max: $max,
        }
    };
}

macro_rules! when {
    (live) => {
        When::Live
    };
    (restart) => {
        When::Restart
    };
}

macro_rules! start_of {
    ((word $type:ty)) => {
        <$type as Word>::from_word(<$type as Word>::WORDS[0]).expect("the first of its words")
    };
    ((switch)) => {
        false
    };
    (($min:literal..=$max:literal)) => {
        $min
    };
}

macro_rules! tunables {
    ($($section:literal {
        $($(#[doc = $doc:literal])* $key:ident: $kind:tt $when:ident,)*
    })*) => {
        /// Everything by which a node is tuned. Units stand at the end of the names' stems. [`Profile::KNOBS`] says
        /// what each may stand at.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Profile {
            /// The shipped profile's name, or the file it was read from.
            pub name: String,
            $($(
                $(#[doc = $doc])*
                pub $key: kind_of!($kind),
            )*)*
        }

        impl Profile {
            /// Every knob there is, in the order of the files.
            pub const KNOBS: &'static [Knob] = &[
                $($(
                    Knob {
                        key: stringify!($key),
                        section: $section,
                        meaning: &[$($doc,)*],
                        allowed: allowed!($kind),
                        when: when!($when),
                    },
                )*)*
            ];

            /// All knobs at the start of what they may stand at: to be filled from a complete file.
            pub(super) fn blank(name: &str) -> Self {
                Self {
                    name: name.to_owned(),
                    $($($key: start_of!($kind),)*)*
                }
            }

            /// What the knob of this key stands at.
            #[must_use]
            pub fn get(&self, key: &str) -> Option<Value> {
                match key {
                    $($(stringify!($key) => Some(self.$key.show()),)*)*
                    _ => None,
                }
            }

            /// Turns the knob of this key, within what it may stand at.
            ///
            /// # Errors
            /// What it may stand at; nothing has changed. `None` where there is no such knob.
            pub fn set(&mut self, key: &str, value: Value) -> Result<(), Option<Allowed>> {
                let knob = Self::knob(key).ok_or(None)?;
                if !knob.allowed.admits(value) {
                    return Err(Some(knob.allowed));
                }
                match key {
                    $($(stringify!($key) => self.$key = Kind::read(value).ok_or(Some(knob.allowed))?,)*)*
                    _ => return Err(None),
                }
                Ok(())
            }
        }
    };
}

tunables! {
    "How appends are made durable" {
        /// Strict: every append gets a chain of its own as soon as it arrives. Group: appends that arrive together share one.
        /// Group gives more appends a second at some latency for the lone one. Counts until a partition is asked for another (`clustor mode`).
        mode: (word Mode) restart,
        /// Group mode: a batch closes at this many bytes, or as soon as the pipeline has room for it.
        /// At most a sixteenth of segment_bytes. Raise it where the device is faster with longer writes (`clustor probe` shows it).
        batch_bytes_max: (4_096..=4_194_304) live,
        /// Group mode: a batch closes this long after its first append, in milliseconds, if a chain may still be submitted.
        /// Twice as late, twice in a row, and the partition is strict for a while. Raise it for slow devices.
        batch_ms_max: (1..=50) live,
        /// Group mode: a batch that is neither full nor old goes only while fewer chains than this are in flight.
        /// The flush under way is the window in which it gathers. Lower it where fewer, longer flushes are faster.
        group_chains_max: (1..=8) live,
        /// A chain that takes longer than this, in milliseconds, speaks against group mode; three within a minute forbid it.
        /// After three in a row, or half a second of such, others lead where they can. Well above the device's usual worst flush.
        slow_chain_ms: (1..=10_000) live,
        /// What the device has not answered within this time, in milliseconds, is taken for failed: the shard falls silent, others lead.
        /// Far above the longest pause that the device, or what it is attached by, makes and recovers from.
        stuck_io_ms: (1_000..=600_000) live,
        /// How a write is made durable: fdatasync flushes the file after it, dsync (RWF_DSYNC) makes write and flush one step.
        /// dsync where the device writes through fast (`clustor probe` shows it).
        flush: (word FlushKind) live,
        /// How writes reach the files: auto takes the best there is, and warns where that is not the ring with direct I/O.
        /// registered is the ring without registered buffers, blocking a helper thread without direct I/O: to try them.
        io_writer: (word WriterChoice) restart,
    }
    "The log's files" {
        /// Size of a segment file, in bytes; rounded down to whole blocks of 4096. Two or three exist per shard at any time, and those kept.
        /// Greater ones are rolled less often and take longer to zero before their first use; smaller ones lower the greatest entry.
        segment_bytes: (1_048_576..=4_294_967_296) restart,
        /// Segment blocks for each ledger slot; the pair rolls when either file is full.
        /// 1 suits lone small appends, 8 large batches.
        segment_blocks_per_slot: (1..=32) restart,
        /// Segment files of reclaimed pairs that are kept, on each shard, to be used again instead of zeroing new ones, and as many ledgers.
        /// They take the space of so many of both. 0 keeps none; from disk_soft_percent on none is kept either.
        kept_segments_max: (0..=8) live,
        /// Chains in flight on a shard.
        /// More share the device's flushes; beyond the device's own queue they only wait.
        chains_in_flight_max: (1..=8) live,
        /// What becomes of a shard that finds a part of its log rotten of which it knows what it held. repair: those entries are
        /// missing. quarantine: its replicas fall silent, for those who must suspect tampering. What is missing already counts from the next start.
        on_authentication_failure: (word OnAuthenticationFailure) live,
        /// Closed batches that may wait behind the chains in flight; while more do, appends are refused as Busy.
        /// In strict mode each append is one, and a vote waits behind them all.
        queue_batches_max: (8..=4_096) live,
        /// The greatest payload of an append, in bytes; with its headers at most 4 MiB and an eighth of the segment.
        /// Raise it only if entries are that long: queues must hold several.
        entry_bytes_max: (1_024..=4_194_240) restart,
    }
    "When the disk fills" {
        /// From this part of the file system on, in percent, half as much may wait for the disk, and `clustor status` says so.
        /// Low enough for somebody to make room before disk_hard_percent is reached.
        disk_soft_percent: (1..=100) live,
        /// From this part of the file system on, in percent, appends are refused and reads go on.
        /// What is above it is kept for the next start, for votes and for what was accepted already: several times segment_bytes
        /// for each shard. 100 refuses only when no next segment can be made.
        disk_hard_percent: (1..=100) live,
    }
    "What the log's files are made of" {
        /// How blocks of the log are sealed. aes-256-gcm needs a build with the feature aws-lc; none keeps no secret and
        /// protects against no tampering, only against rot. Another is used from the next pair of files on.
        sealing: (word Suite) restart,
        /// Whether records carry a 32-byte hash of themselves, and closed pairs a root over these.
        /// On where a copy of the log must be proved record by record; costs the hash of every byte and 32 bytes a record.
        merkle_leaves: (switch) restart,
        /// The hash of leaves and roots.
        /// blake3 is faster for long records.
        hash: (word HashSuite) restart,
        /// How records lie in segments. json is for people to read, and a third longer.
        /// A directory that was written with another is refused.
        log_encoding: (word Encoding) restart,
        /// How the durability ledger and checkpoints are written. json is for people to read.
        /// A directory that was written with another is refused.
        wal_codec: (word Encoding) restart,
    }
    "Looking for rot" {
        /// Every byte of the log is read and verified again at least once in this time, in hours, while nothing else wants the disk.
        /// Shorter finds rot while more replicas still have what it took; each round reads the log twice.
        scrub_round_hours: (1..=8_760) live,
        /// Every so many hours a sample of each segment is verified out of turn.
        /// Shorter notices a device that rots everywhere sooner.
        scrub_sample_hours: (1..=8_760) live,
        /// The part of each segment that a sample verifies, in percent, and 1,024 chains at most.
        /// 0 draws no samples.
        scrub_sample_percent: (0..=100) live,
    }
    "Consensus" {
        /// Election timeouts are drawn from here on, in milliseconds.
        /// Well above the round trip between nodes and the device's worst flush. The leader's holds for all, as of the next two.
        election_ms_min: (50..=10_000) live,
        /// Election timeouts are drawn up to here, in milliseconds.
        /// Twice the least makes split votes rare.
        election_ms_max: (100..=20_000) live,
        /// A leader's heartbeat, in milliseconds; at most half of election_ms_min.
        /// One lost heartbeat must not start an election.
        heartbeat_ms: (10..=1_000) live,
        /// A partition in which nothing happened for this long goes quiet, in milliseconds: it costs nothing until something does. 0 for never.
        /// Longer where clients ask rarely and from leases: a quiet partition has none, and the first read asks a majority.
        quiet_after_ms: (0..=3_600_000) live,
        /// Heartbeats that come more than this late, three in a row, make a follower say high_rtt, in milliseconds: elections get more time.
        /// Above what the network takes on a bad day.
        high_rtt_ms: (10..=5_000) live,
        /// Append batches in flight to each follower; together not much longer than so many full ones.
        /// More fill a long path: its bandwidth times its round trip over append_batch_bytes_max.
        append_batches_in_flight_max: (1..=64) live,
        /// Entries' bytes in one append batch; one entry may be longer.
        /// A follower takes a batch whole: long ones delay heartbeats behind them.
        append_batch_bytes_max: (4_096..=4_194_304) live,
    }
    "Reads that rely on clocks" {
        /// Whether a leader answers reads that ask for it from a lease, without asking a majority.
        /// Only where clocks run evenly and machines are not paused: docs/operations.md, Leases.
        leases: (switch) live,
        /// A lease lasts this long from the sending of the heartbeat that earned it, in milliseconds.
        /// Longer than heartbeat_ms, or there are gaps; with the two below and heartbeat_ms less than election_ms_min.
        lease_ms: (10..=100) live,
        /// What is added for the way to the followers, in milliseconds.
        /// Above the usual round trip between nodes.
        lease_rtt_ms: (1..=25) live,
        /// What clocks may run apart within a lease, in milliseconds; more, as the node sees it, raises the clock alarm.
        /// Raise it where alarms come without cause.
        lease_skew_ms: (1..=25) live,
        /// Entries that a majority has received and that are not known to be durable there, at most: beyond, no lease.
        /// Such reads would wait for the disks anyway.
        lease_gap_max: (0..=65_536) live,
    }
    "Applying" {
        /// Items in one batch handed to a machine.
        /// Fewer where a machine's apply is slow: a batch is applied within one turn.
        apply_entries_max: (1..=2_048) live,
        /// What a machine may take over one batch, in microseconds; it may take longer over one of a hundred. A leader whose machine
        /// often takes longer lets fewer appends wait for it, and refuses others as ApplyBudget: others on the shard wait too.
        /// More for a machine that writes in `apply`, or makes much of long batches (6_000 with 2_048 items).
        apply_budget_us: (100..=10_000_000) live,
        /// Entries that may wait for a machine that broke its budget, before it is halved, again and again until the budget is kept.
        /// About as many as clients have on their way at once.
        apply_backlog_max: (16..=65_536) live,
        /// A side effect that a machine deferred is settled within this time, in milliseconds, or the machine is made again.
        /// Above what its slowest storage takes.
        ack_ms_max: (10..=60_000) live,
        /// Idempotency keys remembered for each partition; the oldest are forgotten first.
        /// As many as appends with keys may be repeated after. It decides what is executed: the leader's holds for all.
        idempotency_keys_max: (1_024..=1_000_000) live,
        /// Bytes of the idempotency table of each partition, at 128 bytes a key.
        /// The leader's holds for all, as of idempotency_keys_max.
        idempotency_bytes_max: (65_536..=134_217_728) live,
    }
    "What may wait for a shard" {
        /// Requests that may wait for a shard, or for its answer; more are refused as Busy.
        /// As many as clients ask at once.
        queue_requests_max: (16..=65_536) restart,
        /// Payload bytes that may wait for a shard, or for its answer; more are refused as Busy.
        /// Several of the greatest entries.
        queue_bytes_max: (65_536..=1_073_741_824) live,
        /// Bytes accepted by a leader and not yet durable on a quorum, for each partition.
        /// Bounds what a leader that is cut off leaves unknown.
        inflight_bytes_max: (65_536..=8_388_608) live,
        /// The same for all partitions of the node together; its shards share it evenly.
        /// Bounds the memory that a slow quorum costs.
        node_inflight_bytes_max: (65_536..=1_073_741_824) restart,
        /// Bytes of entries kept in memory for followers and for applying, on each shard.
        /// Followers further behind are read for from the disk.
        cache_bytes_max: (1_048_576..=1_073_741_824) restart,
    }
}
