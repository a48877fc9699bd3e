//! A node's two clocks: the one that its turns are given, and the wall clock that this one is compared with.

use clustor_wire::ids::NodeId;

/// A million parts of a second a second: a clock without drift.
const EVEN_PPM: i64 = 1_000_000;

/// The clocks of one node. Both drift alike, which nobody on the node can see; what is done to one of them alone, it can.
#[derive(Debug, Clone)]
pub struct Clocks {
    /// The moment from which on the rate holds.
    since_us: u64,
    /// The boot-time clock at that moment.
    base_us: u64,
    /// By how much the boot-time clock is faster than the wall clock, in parts per million.
    wild_ppm: i64,
    /// By how much both are faster than virtual time, in parts per million.
    drift_ppm: i64,
    wall_base_us: u64,
}

fn passed(us: u64, ppm: i64) -> u64 {
    let scaled = i128::from(us) * i128::from(EVEN_PPM + ppm) / i128::from(EVEN_PPM);
    u64::try_from(scaled).unwrap_or(0)
}

impl Clocks {
    /// Clocks of different nodes have nothing to do with each other.
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            since_us: 0,
            base_us: 1_000_000 + node.get() * 777_777_777,
            wild_ppm: 0,
            drift_ppm: 0,
            wall_base_us: 1_800_000_000_000_000,
        }
    }

    /// The boot-time clock.
    pub(crate) fn boot_us(&self, now_us: u64) -> u64 {
        self.base_us + passed(now_us - self.since_us, self.drift_ppm + self.wild_ppm)
    }

    /// The wall clock.
    pub(crate) fn wall_us(&self, now_us: u64) -> u64 {
        self.wall_base_us + passed(now_us - self.since_us, self.drift_ppm)
    }

    /// When the boot-time clock will say so, if nothing happens to it.
    pub(crate) fn moment_us(&self, boot_us: u64) -> u64 {
        let left = i128::from(boot_us.saturating_sub(self.base_us)) * i128::from(EVEN_PPM);
        let rate = i128::from(EVEN_PPM + self.drift_ppm + self.wild_ppm);
        let moment = i128::from(self.since_us) + (left + rate - 1) / rate;
        u64::try_from(moment).unwrap_or(u64::MAX)
    }

    fn settle(&mut self, now_us: u64) {
        (self.base_us, self.wall_base_us) = (self.boot_us(now_us), self.wall_us(now_us));
        self.since_us = now_us;
    }

    /// Both clocks drift like this from now on.
    pub(crate) fn drift(&mut self, now_us: u64, ppm: i64) {
        self.settle(now_us);
        self.drift_ppm = ppm;
    }

    /// The boot-time clock is faster than the wall clock by this much from now on; slower, if negative.
    pub(crate) fn run_wild(&mut self, now_us: u64, ppm: i64) {
        self.settle(now_us);
        self.wild_ppm = ppm;
    }

    /// The boot-time clock jumps ahead.
    pub(crate) fn jump(&mut self, now_us: u64, by_us: u64) {
        self.settle(now_us);
        self.base_us += by_us;
    }

    /// The wall clock is set.
    pub(crate) fn set_wall(&mut self, now_us: u64, by_us: i64) {
        self.settle(now_us);
        self.wall_base_us = self.wall_base_us.saturating_add_signed(by_us);
    }
}
