//! The demo's clients: each puts values under keys of its own, one at a time, and remembers what it was told.
//!
//! A key's version counts its puts, so a write that executed twice shows at the next one: its version is then too
//! high by one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clustor_engine::client::{AppendWith, Client, Keying};
use clustor_engine::outcome::{AppendError, Appended, is_past_repeating};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use hdrhistogram::Histogram;

use crate::exit::CommandError;
use crate::kv::{KvAnswer, KvCommand};

/// Keys of each client in each partition.
const KEYS_PER_PARTITION: u64 = 4;
/// The time one write is given before it is asked again with the same key.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client goes on resolving an unknown write after the load has ended.
const RESOLVE_WAIT: Duration = Duration::from_secs(20);
const LATENCY_US_MAX: u64 = 60_000_000;

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub partition: PartitionId,
    pub term: Term,
    pub index: LogIndex,
}

/// What is known of one key.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyState {
    pub partition: PartitionId,
    pub key: Vec<u8>,
    /// Puts that were acknowledged.
    pub puts: u64,
    /// The last acknowledged value.
    pub value: Vec<u8>,
    /// A put of this value has an unknown outcome.
    pub unknown: Option<Vec<u8>>,
}

/// What one client was told.
pub(super) struct Told {
    pub acked: Vec<Acked>,
    pub keys: Vec<KeyState>,
    pub duplicated: u64,
    pub unresolved: u64,
    pub latencies: Histogram<u64>,
}

struct Shared {
    begun: Instant,
    stop: AtomicBool,
    acked: AtomicU64,
    interval: Mutex<Histogram<u64>>,
    /// When the kill came, in microseconds since the begin; 0 before.
    killed_us: AtomicU64,
    /// Per partition, when the first write begun after the kill was acknowledged.
    back_us: Vec<AtomicU64>,
}

/// The running clients.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Told>>,
}

impl Load {
    pub fn start(client: &Client, clients: u32, partitions: u32, payload_bytes: u32) -> Self {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            interval: Mutex::new(histogram()),
            killed_us: AtomicU64::new(0),
            back_us: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        });
        let threads = (0..clients)
            .map(|number| {
                let writer = Writer::new(
                    client.clone(),
                    Arc::clone(&shared),
                    number,
                    partitions,
                    payload_bytes,
                );
                std::thread::spawn(move || writer.run())
            })
            .collect();
        Self { shared, threads }
    }

    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Median and 99th percentile since the last call, in microseconds.
    pub fn take_interval(&self) -> (u64, u64) {
        let mut interval = self
            .shared
            .interval
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let quantiles = (
            interval.value_at_quantile(0.5),
            interval.value_at_quantile(0.99),
        );
        interval.reset();
        quantiles
    }

    /// The leader of these partitions is killed now.
    pub fn mark_kill(&self, led: &[usize]) {
        for partition in led {
            self.shared.back_us[*partition].store(0, Ordering::Relaxed);
        }
        let now = elapsed_us(self.shared.begun);
        self.shared.killed_us.store(now.max(1), Ordering::Release);
    }

    /// How long it took, after the kill, until each of these partitions had acknowledged a write again: the longest.
    pub fn unavailable_ms(&self, led: &[usize]) -> u64 {
        let killed = self.shared.killed_us.load(Ordering::Acquire);
        let end = elapsed_us(self.shared.begun);
        led.iter()
            .map(|partition| {
                let back = self.shared.back_us[*partition].load(Ordering::Relaxed);
                let back = if back == 0 { end } else { back };
                back.saturating_sub(killed) / 1000
            })
            .max()
            .unwrap_or(0)
    }

    /// Ends the load and waits until every client knows what became of its last write, or gives up.
    pub fn stop(self) -> Result<Vec<Told>, CommandError> {
        self.shared.stop.store(true, Ordering::Release);
        self.threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| CommandError::failed("a client of the demo panicked"))
            })
            .collect()
    }
}

fn elapsed_us(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

struct Writer {
    client: Client,
    shared: Arc<Shared>,
    number: u32,
    payload_bytes: usize,
    told: Told,
    written: u64,
}

impl Writer {
    fn new(
        client: Client,
        shared: Arc<Shared>,
        number: u32,
        partitions: u32,
        payload_bytes: u32,
    ) -> Self {
        let keys = (1..=partitions)
            .flat_map(|partition| {
                (0..KEYS_PER_PARTITION).map(move |key| KeyState {
                    partition: PartitionId(u128::from(partition)),
                    key: format!("client-{number}/key-{key}").into_bytes(),
                    ..KeyState::default()
                })
            })
            .collect();
        Self {
            client,
            shared,
            number,
            payload_bytes: payload_bytes as usize,
            told: Told {
                acked: Vec::new(),
                keys,
                duplicated: 0,
                unresolved: 0,
                latencies: histogram(),
            },
            written: 0,
        }
    }

    fn run(mut self) -> Told {
        // Clients go through the keys in strides of their own, so that they don't march in step.
        let stride = 1 + 2 * (self.number as usize % 7);
        let mut at = self.number as usize;
        while !self.shared.stop.load(Ordering::Acquire) {
            at = (at + stride) % self.told.keys.len();
            if self.told.keys[at].unknown.is_none() {
                self.write(at);
            }
        }
        self.told
    }

    fn write(&mut self, at: usize) {
        self.written += 1;
        let mut value = format!("{}:{}:", self.number, self.written).into_bytes();
        value.resize(self.payload_bytes.max(value.len()), b'.');
        let state = &self.told.keys[at];
        let partition = state.partition;
        let command = KvCommand::Put {
            key: &state.key,
            value: &value,
        }
        .encode();
        let begun_us = elapsed_us(self.shared.begun);
        match self.resolve(partition, &command) {
            Some(done) => self.note(at, &done, value, begun_us),
            None => {
                self.told.unresolved += 1;
                self.told.keys[at].unknown = Some(value);
            }
        }
    }

    /// Appends until the outcome is known: a retry carries the same key and index.
    fn resolve(&self, partition: PartitionId, command: &[u8]) -> Option<Appended> {
        let mut keying = Keying::New(Client::draw_key());
        let mut give_up: Option<Instant> = None;
        loop {
            let with = AppendWith {
                keying,
                timeout: Some(WRITE_TIMEOUT),
                only_in: None,
            };
            match self.client.append_with(partition, command, with).wait() {
                Ok(done) => return Some(done),
                Err(AppendError::NotExecuted { .. }) => keying = Keying::New(Client::draw_key()),
                // Told as unresolved: what a read would find may be another client's.
                Err(AppendError::Unknown { clause, .. }) if is_past_repeating(clause) => {
                    return None;
                }
                Err(AppendError::Unknown {
                    key, wal_committed, ..
                }) => {
                    if let Some(key) = key {
                        keying = Keying::Retry(key, wal_committed);
                    }
                }
            }
            if self.shared.stop.load(Ordering::Acquire) {
                let until = *give_up.get_or_insert_with(|| Instant::now() + RESOLVE_WAIT);
                if Instant::now() > until {
                    return None;
                }
            }
        }
    }

    fn note(&mut self, at: usize, done: &Appended, value: Vec<u8>, begun_us: u64) {
        let state = &mut self.told.keys[at];
        state.puts += 1;
        state.value = value;
        // The answer to a repeated key is no longer at hand; the next put's version tells.
        if let Some(answer) = KvAnswer::decode(&done.reply)
            && answer.version != state.puts
        {
            self.told.duplicated += answer.version.saturating_sub(state.puts).max(1);
            state.puts = answer.version;
        }
        let partition = state.partition;
        self.told.acked.push(Acked {
            partition,
            term: done.term,
            index: done.index,
        });
        self.shared.acked.fetch_add(1, Ordering::Relaxed);
        let now_us = elapsed_us(self.shared.begun);
        self.told.latencies.saturating_record(now_us - begun_us);
        self.shared
            .interval
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .saturating_record(now_us - begun_us);
        let killed_us = self.shared.killed_us.load(Ordering::Acquire);
        if killed_us != 0
            && now_us > killed_us
            && let Some(back) = self.shared.back_us.get(super::place_of(partition))
        {
            // Only the first counts.
            let _ = back.compare_exchange(0, now_us, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
