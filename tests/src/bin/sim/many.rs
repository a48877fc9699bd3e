//! Many seeds, one after the other or some at a time, until enough was done.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use clustor_sim::cluster::marks::Marks;

/// From one line of progress to the next, at least.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// A run's stack, in bytes: what a main thread has.
const STACK_BYTES: usize = 8 << 20;

/// What is to happen at least once, or it would be no run.
pub fn at_least_one() -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(1..)
}

/// What says nothing of one run alone.
pub const OF_MANY: [&str; 6] = [
    "seconds",
    "operations",
    "jobs",
    "failures_max",
    "json",
    "at_least_speed",
];

/// When it is enough, and how it is said.
#[derive(Args)]
pub struct Enough {
    /// Stop after this many seconds
    #[arg(long, value_parser = at_least_one())]
    pub seconds: Option<u64>,
    /// Go on until this many operations were carried out; fail if seeds or seconds run out before
    #[arg(long, value_parser = at_least_one())]
    operations: Option<u64>,
    /// Runs at a time, each on a thread of its own (1 to 256)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Stop at this many failures
    #[arg(long, default_value_t = 1, value_parser = at_least_one())]
    failures_max: u64,
    /// Print the summary as one line of JSON
    #[arg(long)]
    json: bool,
    /// Also print how often each mark was reached, the rare ones being worth a look (of clusters only)
    #[arg(long, conflicts_with = "json")]
    marks: bool,
    /// Fail if less virtual time passed than so many times the time that the runs took of a processor (of clusters only)
    #[arg(long, value_name = "TIMES")]
    at_least_speed: Option<u64>,
}

impl Enough {
    /// Whether anything but a number of seeds ends it.
    pub fn is_bounded(&self) -> bool {
        self.seconds.is_some() || self.operations.is_some()
    }
}

/// Numbers of a summary, by name.
pub type Totals = Vec<(&'static str, u64)>;

/// One run that held.
pub struct Held {
    /// What was asked of it.
    pub operations: u64,
    /// What it came to: the same names in each.
    pub totals: Totals,
    /// Time that passed in it, in microseconds; 0 where there is none.
    pub virtual_us: u64,
    /// The paths that it reached, where there are marks.
    pub marks: Option<Marks>,
}

/// What all threads share.
struct Shared {
    next: u64,
    runs: u64,
    failed: u64,
    operations: u64,
    totals: Totals,
    virtual_us: u64,
    /// Time that runs took of a processor, added up over all threads.
    busy: Duration,
    marks: Option<Marks>,
    said: Option<Instant>,
}

/// Takes the time that this thread gets of a processor: what else the machine does is no part of it.
struct Stopwatch {
    begun: Instant,
    had: Option<Duration>,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            begun: Instant::now(),
            had: Self::of_processor(),
        }
    }

    /// Where the kernel does not say, the time that passed.
    fn elapsed(&self) -> Duration {
        let had = self.had.zip(Self::of_processor());
        had.map_or_else(|| self.begun.elapsed(), |(then, now)| now - then)
    }

    fn of_processor() -> Option<Duration> {
        let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let ns = said.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(ns))
    }
}

/// Runs `count` seeds from `first` on, or fewer if `enough` says so, and prints what they came to. True if all held and
/// enough was done.
pub fn run(
    enough: &Enough,
    first: u64,
    count: u64,
    run: impl Fn(u64) -> Result<Held, String> + Sync,
) -> bool {
    let begun = Instant::now();
    let shared = Mutex::new(Shared {
        next: first,
        runs: 0,
        failed: 0,
        operations: 0,
        totals: Totals::new(),
        virtual_us: 0,
        busy: Duration::ZERO,
        marks: None,
        said: None,
    });
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || loop {
        let seed = lock().take(enough, first.saturating_add(count), begun);
        let Some(seed) = seed else { break };
        let since = Stopwatch::start();
        let outcome = run(seed);
        lock().add(outcome, since.elapsed());
    };
    std::thread::scope(|scope| {
        for _ in 1..enough.jobs {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn_scoped(scope, work) {
                eprintln!("sim: fewer runs at a time than asked for: {error}");
            }
        }
        work();
    });
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    summarize(enough, &shared, first, begun);
    let reached = shared.operations >= enough.operations.unwrap_or(0);
    if !reached {
        eprintln!(
            "sim: stopped after {} operations, {} were asked for",
            shared.operations,
            enough.operations.unwrap_or(0)
        );
    }
    let speed = shared.virtual_per_real();
    let fast = enough.at_least_speed.is_none_or(|least| speed >= least);
    if !fast {
        eprintln!(
            "sim: virtual time passed {speed} times as fast as real time, {} times was asked for",
            enough.at_least_speed.unwrap_or(0)
        );
    }
    shared.failed == 0 && reached && fast
}

impl Shared {
    /// The next seed, unless it is enough.
    fn take(&mut self, enough: &Enough, end: u64, begun: Instant) -> Option<u64> {
        let over = |seconds| begun.elapsed() >= Duration::from_secs(seconds);
        if self.next >= end
            || self.failed >= enough.failures_max
            || enough.seconds.is_some_and(over)
            || enough.operations.is_some_and(|n| self.operations >= n)
        {
            return None;
        }
        if self.said.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.said = Some(Instant::now());
            let rate = self.operations as f64 / begun.elapsed().as_secs_f64().max(0.001);
            let of = enough.operations.map(|n| format!(" of {n}"));
            print(&format!(
                "seeds {}.. operations={}{} ({rate:.0} a second) failed={}",
                self.next,
                self.operations,
                of.unwrap_or_default(),
                self.failed
            ));
        }
        let seed = self.next;
        self.next += 1;
        Some(seed)
    }

    /// How many times as fast as real time virtual time passed; 0 where there is none.
    fn virtual_per_real(&self) -> u64 {
        let busy_us = u64::try_from(self.busy.as_micros()).unwrap_or(u64::MAX);
        self.virtual_us / busy_us.max(1)
    }

    fn add(&mut self, outcome: Result<Held, String>, took: Duration) {
        self.runs += 1;
        self.busy += took;
        match outcome {
            Ok(held) => {
                self.operations += held.operations;
                self.virtual_us += held.virtual_us;
                if let Some(marks) = held.marks {
                    self.marks.get_or_insert_default().add(&marks);
                }
                for (name, number) in held.totals {
                    match self.totals.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, total)) => *total += number,
                        None => self.totals.push((name, number)),
                    }
                }
            }
            Err(failure) => {
                eprintln!("{failure}");
                self.failed += 1;
            }
        }
    }
}

fn summarize(enough: &Enough, shared: &Shared, first: u64, begun: Instant) {
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut all = vec![
        ("runs", shared.runs),
        ("failed", shared.failed),
        ("operations", shared.operations),
        (
            "operations_per_second",
            shared.operations * 1000 / ms.max(1),
        ),
        ("first_seed", first),
        ("last_seed", shared.next.saturating_sub(1)),
    ];
    all.extend(&shared.totals);
    if shared.virtual_us > 0 {
        all.push(("virtual_per_real", shared.virtual_per_real()));
    }
    let mut pairs: Vec<(&str, String)> = all
        .iter()
        .map(|(name, number)| (*name, number.to_string()))
        .collect();
    if enough.json {
        if let Some(marks) = &shared.marks {
            let marks: Vec<String> = marks.all().map(|(n, t)| format!("\"{n}\":{t}")).collect();
            pairs.push(("marks", format!("{{{}}}", marks.join(","))));
        }
        let pairs = pairs
            .iter()
            .map(|(name, what)| format!("\"{name}\":{what}"));
        print(&format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")));
        return;
    }
    let pairs = pairs.iter().map(|(name, what)| format!("{name}={what}"));
    print(&pairs.collect::<Vec<_>>().join(" "));
    if let Some(marks) = &shared.marks {
        say_marks(marks, enough.marks);
    }
}

/// How many marks were reached, and which were not; with `each`, how often each was.
fn say_marks(marks: &Marks, each: bool) {
    if each {
        for (name, times) in marks.all() {
            print(&format!("{times:>12} {name}"));
        }
    }
    let (never, reached): (Vec<_>, Vec<_>) = marks.all().partition(|(_, times)| *times == 0);
    let never: Vec<_> = never.into_iter().map(|(name, _)| name).collect();
    print(&format!(
        "marks: {} of {} reached; not reached: {}",
        reached.len(),
        reached.len() + never.len(),
        if never.is_empty() {
            "none".to_owned()
        } else {
            never.join(" ")
        }
    ));
}

/// A line on the standard output.
pub fn print(line: &str) {
    // Whoever reads may have seen enough.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
