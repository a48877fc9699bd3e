//! What may be asked of one shard and not be answered yet: a bound on requests and on payload bytes.
//!
//! Taken by handles before they submit, given back by the shard with the answer. Counters only; nobody
//! waits here.

use std::sync::atomic::{AtomicU64, Ordering};

/// One shard's budget, shared by all handles to its partitions.
#[derive(Debug)]
pub(super) struct Budget {
    requests: AtomicU64,
    bytes: AtomicU64,
    requests_max: u64,
    bytes_max: AtomicU64,
}

impl Budget {
    pub fn new(requests_max: u64, bytes_max: u64) -> Self {
        Self {
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            requests_max,
            bytes_max: AtomicU64::new(bytes_max),
        }
    }

    /// Takes one request of `bytes`, or says which bound is reached.
    pub fn take(&self, bytes: u64) -> Result<(), String> {
        // Relaxed: the counters guard nothing but themselves; the queue orders what is submitted.
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        if requests >= self.requests_max {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(format!(
                "the shard has {requests} unanswered requests, as many as queue_requests_max allows"
            ));
        }
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(format!(
                "{before} unanswered payload bytes wait for the shard, {bytes} more would exceed queue_bytes_max = {bytes_max}"
            ));
        }
        Ok(())
    }

    /// Takes one request without bytes, whatever the bounds: for what a busy shard must hear.
    pub fn take_beyond(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Bounds the bytes anew. What was taken under the bound before stays taken.
    pub fn retune(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Gives one request of `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        let bytes_before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let requests_before = self.requests.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(bytes_before >= bytes, "more bytes given back than taken");
        debug_assert!(requests_before >= 1, "more requests given back than taken");
    }
}
