//! One connection to one shard, as the machine sees it.

use std::collections::{BTreeMap, VecDeque};

use super::settings::ClientSettings;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not dialled.
    Idle,
    /// Dialled; the handshake, or the answer to the greeting, is due. Its time is over then.
    Dialling { until: u64, greeted: bool },
    /// The node has answered: requests may be sent.
    Up,
    /// Lost; not dialled again before then.
    Down { until: u64 },
}

/// A request that was sent and not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub ticket: u64,
    pub sent_us: u64,
    pub bytes: usize,
    /// Whether it could execute.
    pub may_execute: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub state: State,
    pub in_flight: BTreeMap<u64, InFlight>,
    pub in_flight_bytes: usize,
    /// Questions that wait for room here. Bounded by the machine's questions.
    pub queue: VecDeque<u64>,
    pub heard_us: u64,
    pub failures: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            state: State::Idle,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            queue: VecDeque::new(),
            heard_us: 0,
            failures: 0,
        }
    }
}

impl Link {
    pub fn is_down(&self, now: u64) -> bool {
        matches!(self.state, State::Down { until } if until > now)
    }

    pub fn has_room(&self, bytes: usize, settings: &ClientSettings) -> bool {
        self.in_flight.len() < settings.link_requests_max
            && (self.in_flight.is_empty()
                || self.in_flight_bytes + bytes <= settings.link_bytes_max)
    }

    pub fn sent(&mut self, id: u64, request: InFlight) {
        self.in_flight_bytes += request.bytes;
        self.in_flight.insert(id, request);
    }

    pub fn settled(&mut self, id: u64) -> Option<InFlight> {
        let request = self.in_flight.remove(&id)?;
        self.in_flight_bytes -= request.bytes;
        Some(request)
    }
}
