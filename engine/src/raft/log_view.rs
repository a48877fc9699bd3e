//! What a replica knows about its log without holding an entry: where it begins and ends, which term each index
//! has, and of which entries the content is missing.
//!
//! One run per term; so a log of a million entries under three leaders takes three runs. They are kept as long as their
//! entries are: 16 bytes for each term since the base, without another bound, since logs are compared by any of them.

use clustor_shards::log::{IndexRange, TermRun};
use clustor_wire::ids::{LogIndex, Term};

/// The shape of a log.
#[derive(Debug, Clone, Default)]
pub struct LogView {
    base: LogIndex,
    base_term: Term,
    runs: Vec<TermRun>,
    last: LogIndex,
    missing: Vec<IndexRange>,
}

impl LogView {
    /// A log behind (`base_term`, `base`), with these runs up to `last`, both lists ascending.
    ///
    /// # Panics
    /// If the runs do not cover exactly what lies between base and last, or go back in term: such a log was not
    /// recovered but invented.
    #[must_use]
    pub fn new(
        base: LogIndex,
        base_term: Term,
        runs: Vec<TermRun>,
        last: LogIndex,
        missing: Vec<IndexRange>,
    ) -> Self {
        assert!(last >= base, "a log ends before its base");
        assert_eq!(runs.is_empty(), last == base, "runs and length disagree");
        if let Some(run) = runs.first() {
            assert_eq!(
                run.first,
                base.next(),
                "the first run begins behind the base"
            );
            assert!(run.term >= base_term, "terms of a log never go back");
        }
        for pair in runs.windows(2) {
            assert!(pair[0].first < pair[1].first, "runs of a log ascend");
            assert!(pair[0].term < pair[1].term, "terms of a log never go back");
        }
        assert!(runs.last().is_none_or(|run| run.first <= last));
        Self {
            base,
            base_term,
            runs,
            last,
            missing,
        }
    }

    /// Gives back the memory that it does not need while it does not grow.
    pub(super) fn rest(&mut self) {
        self.runs.shrink_to_fit();
        self.missing.shrink_to_fit();
    }

    /// The index before the first entry.
    #[must_use]
    pub const fn base(&self) -> LogIndex {
        self.base
    }

    /// The last index.
    #[must_use]
    pub const fn last(&self) -> LogIndex {
        self.last
    }

    /// Term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.runs.last().map_or(self.base_term, |run| run.term)
    }

    /// Term of the entry at `index`, or of the base; `None` below the base and beyond the end.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.base || index > self.last {
            return None;
        }
        let behind = self.runs.partition_point(|run| run.first <= index);
        Some(match behind.checked_sub(1) {
            Some(at) => self.runs[at].term,
            None => self.base_term,
        })
    }

    /// The greatest index, not above `index`, whose term is not above `term`; the base if there is none. What a
    /// log with that (index, term) can have in common with this one ends there at the latest.
    #[must_use]
    pub fn common_with(&self, index: LogIndex, term: Term) -> LogIndex {
        let index = index.min(self.last);
        let above = self.runs.partition_point(|run| run.term <= term);
        match self.runs.get(above) {
            Some(run) => index.min(run.first.prev()).max(self.base),
            None => index.max(self.base),
        }
    }

    /// One more entry at the end.
    ///
    /// # Panics
    /// If its term is below the last one's: log matching is lost.
    pub fn push(&mut self, term: Term) -> LogIndex {
        assert!(term >= self.last_term(), "terms of a log never go back");
        self.last = self.last.next();
        if self.runs.is_empty() || self.last_term() < term {
            if self.runs.is_empty() {
                self.runs.reserve_exact(1);
            }
            self.runs.push(TermRun {
                first: self.last,
                term,
            });
        }
        self.last
    }

    /// Takes everything from `from` on away.
    ///
    /// # Panics
    /// At or below the base: what lies there is committed.
    pub fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.base, "a truncation can't reach below the base");
        self.last = self.last.min(from.prev());
        self.runs.retain(|run| run.first < from);
        self.missing.retain(|range| range.first < from);
        if let Some(range) = self.missing.last_mut() {
            range.last = range.last.min(from.prev());
        }
    }

    /// The content of entries `first` to `last` is lost, as far as they are in the log.
    pub fn mark_missing(&mut self, first: LogIndex, last: LogIndex) {
        let (mut first, mut last) = (first.max(self.base.next()), last.min(self.last));
        if first > last {
            return;
        }
        self.missing.retain(|range| {
            let apart = range.last.next() < first || last.next() < range.first;
            if !apart {
                first = first.min(range.first);
                last = last.max(range.last);
            }
            apart
        });
        let at = self.missing.partition_point(|range| range.first < first);
        self.missing.insert(at, IndexRange { first, last });
    }

    /// The content of the entry at `index` was found again.
    pub fn mark_found(&mut self, index: LogIndex) {
        let Some(at) = self
            .missing
            .iter()
            .position(|range| range.first <= index && index <= range.last)
        else {
            return;
        };
        let range = self.missing.remove(at);
        let behind = IndexRange {
            first: index.next(),
            last: range.last,
        };
        let before = IndexRange {
            first: range.first,
            last: index.prev(),
        };
        for part in [behind, before] {
            if part.first <= part.last {
                self.missing.insert(at, part);
            }
        }
    }

    /// The first range of missing entries that reaches to `from` or beyond, from there on.
    #[must_use]
    pub fn missing_range_from(&self, from: LogIndex) -> Option<IndexRange> {
        let range = self.missing.iter().find(|range| range.last >= from)?;
        Some(IndexRange {
            first: range.first.max(from),
            last: range.last,
        })
    }

    /// The term of the entry at `index`, and the last index of its run; `None` at or below the base and beyond the
    /// end.
    #[must_use]
    pub fn run_at(&self, index: LogIndex) -> Option<(Term, LogIndex)> {
        if index <= self.base || index > self.last {
            return None;
        }
        let behind = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(behind.checked_sub(1)?)?;
        let last = self
            .runs
            .get(behind)
            .map_or(self.last, |next| next.first.prev());
        Some((run.term, last))
    }

    /// The first index from `from` on whose content is missing.
    #[must_use]
    pub fn missing_from(&self, from: LogIndex) -> Option<LogIndex> {
        self.missing
            .iter()
            .find(|range| range.last >= from)
            .map(|range| range.first.max(from))
    }

    /// The last index whose content is missing.
    #[must_use]
    pub fn missing_last(&self) -> Option<LogIndex> {
        self.missing.last().map(|range| range.last)
    }

    /// How many entries are missing.
    #[must_use]
    pub fn missing_count(&self) -> u64 {
        self.missing
            .iter()
            .map(|range| range.last.get() - range.first.get() + 1)
            .sum()
    }
}
