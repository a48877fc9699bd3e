//! The client's bounds and times.

/// Bounds and times of a client. All times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSettings {
    /// Questions under way in the whole client; one more is refused as busy.
    pub questions_max: usize,
    /// Requests sent and not answered on one connection.
    pub link_requests_max: usize,
    /// Bytes of those requests; one request may exceed it alone.
    pub link_bytes_max: usize,
    /// How long a sending may stay unanswered: then a connection that said nothing since is given up, and on one
    /// that did, a question that may be repeated is also asked elsewhere.
    pub attempt_us: u64,
    /// From the begin of a dial to the node's first answer.
    pub dial_us_max: u64,
    /// The least pause before a refused or lost question is sent again.
    pub pause_us_min: u64,
    /// The greatest such pause; also caps what a refusal asks for.
    pub pause_us_max: u64,
    /// The least wait between two dials of one shard.
    pub redial_us_min: u64,
    /// The greatest such wait.
    pub redial_us_max: u64,
    /// The time a call has if it names none.
    pub timeout_us: u64,
}

impl Default for ClientSettings {
    /// 16,384 questions; 256 requests or 8 MiB on a connection; pauses of 5 to 500 ms (an election of the latency
    /// profile fits between), redials after 20 ms to 2 s, a sending may take 2 s, a call 10 s.
    fn default() -> Self {
        Self {
            questions_max: 16_384,
            link_requests_max: 256,
            link_bytes_max: 8 << 20,
            attempt_us: 2_000_000,
            dial_us_max: 3_000_000,
            pause_us_min: 5_000,
            pause_us_max: 500_000,
            redial_us_min: 20_000,
            redial_us_max: 2_000_000,
            timeout_us: 10_000_000,
        }
    }
}
