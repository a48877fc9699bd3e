//! Latencies of one round, as a histogram.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart: one minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What was measured, before it is put into words.
#[derive(Debug, Clone)]
pub struct Measured {
    latencies_ns: Histogram<u64>,
    elapsed: Duration,
}

impl Measured {
    /// Nothing yet. Three significant digits.
    pub fn new() -> Self {
        Self {
            latencies_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("the bounds are in order"),
            elapsed: Duration::ZERO,
        }
    }

    /// One operation took this long.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.saturating_record(ns.max(1));
    }

    /// All operations together took this long.
    pub fn took(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// Takes in what another measured: at the same time, or, if `after`, behind it.
    pub fn join(&mut self, other: &Self, after: bool) {
        self.latencies_ns
            .add(&other.latencies_ns)
            .expect("all histograms have the same bounds");
        self.elapsed = if after {
            self.elapsed + other.elapsed
        } else {
            self.elapsed.max(other.elapsed)
        };
    }

    /// A quantile in microseconds, or its nanoseconds exactly.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.latencies_ns.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> f64 {
        self.latencies_ns.max() as f64 / 1_000.0
    }

    /// Operations in a second.
    pub fn per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.latencies_ns.len() as f64 / seconds
        } else {
            0.0
        }
    }

    /// How many operations.
    pub fn operations(&self) -> u64 {
        self.latencies_ns.len()
    }

    /// The histogram, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.latencies_ns
    }
}

/// The median of `values`; of an even number, the mean of the middle two. Zero of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}
