//! Pairs of shards between which partitions are quiet.
//!
//! Each side beats as long as it has such partitions, or the other has. A beat says how many partitions its sender leads
//! quietly in which the receiver gets the log, and a digest over them; the receiver compares that with those it follows
//! quietly. What differs for long is listed, on demand, and what is not on the list wakes: its leader has stepped down, or
//! never agreed. The other way round, who follows and is not quiet waits for its leader, asks for votes, and by that wakes
//! it; a learner, that asks for none, is told that it is on the list. Silence, or a new boot of the other side, wakes everything between the two.

use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_shards::alike::Alike;
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{BootNumber, PartitionId, Term};
use clustor_wire::message::{ElectionBounds, PairBeat, QUIET_LISTED_MAX, QuietLed};

use super::links::Links;
use crate::raft::bounds::ELECTION_MS_MAX;
use crate::raft::{Quiet, QuietFiled as Filed, Timers};

/// One other shard.
#[derive(Debug, Default)]
struct Pair {
    led: BTreeMap<PartitionId, Term>,
    led_digest: u64,
    /// With the moment at which each went quiet.
    followed: BTreeMap<PartitionId, (Term, Time)>,
    followed_digest: u64,
    boot: Option<BootNumber>,
    /// The longest election timeout of the other side, as it stated it last, in milliseconds.
    election_ms_max: u32,
    /// When it was last heard, or when there was first something to be heard for.
    heard: Time,
    /// Until then it wants to be beaten to.
    wanted_until: Time,
    /// Since when it says that it leads others than are followed here.
    differs_since: Option<Time>,
    /// It asked for the list.
    is_asked: bool,
    beat_due: Time,
}

impl Pair {
    fn keeps(&self) -> bool {
        !self.led.is_empty() || !self.followed.is_empty()
    }

    fn beats(&self, now: Time) -> bool {
        self.keeps() || now < self.wanted_until
    }

    /// Before something is filed where nothing was: silence begins to count.
    fn begin(&mut self, now: Time) {
        if !self.keeps() {
            self.heard = now;
            self.differs_since = None;
            self.beat_due = now;
        }
    }

    /// For how long a difference may be due to what is under way, a follower to what its leader does not know yet, and
    /// silence to bad luck, in milliseconds: whoever of the two waits longer beats the more slowly.
    fn patience_ms(&self, timers: &Timers) -> u64 {
        u64::from(self.election_ms_max.max(timers.election_ms_max))
    }

    fn all(&self) -> impl Iterator<Item = PartitionId> {
        self.led.keys().chain(self.followed.keys()).copied()
    }
}

/// What follows from a beat.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// These follow quietly a leader that does not lead them so.
    pub woken: Vec<PartitionId>,
    /// These are led quietly and do not follow so.
    pub missed: Vec<PartitionId>,
}

/// All of them, and the lists of followers that partitions led here have alike.
#[derive(Debug, Default)]
pub(super) struct Pairs(BTreeMap<PeerId, Pair>, Alike<[PeerId]>);

fn mixed(partition: PartitionId, term: Term) -> u64 {
    QuietLed { partition, term }.mixed()
}

impl Pairs {
    /// Files a partition as its replica is.
    pub fn file(
        &mut self,
        now: Time,
        id: PartitionId,
        term: Term,
        quiet: &Quiet<'_>,
        filed: &mut Option<Filed>,
    ) {
        let same = match (quiet, &*filed) {
            (Quiet::No, None) => true,
            (Quiet::Leads(to), Some(Filed::Led(then, peers))) => {
                *then == term && to.peers().eq(peers.iter().copied())
            }
            (Quiet::Follows(leader), Some(Filed::Followed(then, peer))) => {
                *then == term && leader == peer
            }
            _ => false,
        };
        if same {
            return;
        }
        match filed.take() {
            Some(Filed::Led(term, peers)) => peers.iter().for_each(|peer| {
                let pair = self.0.entry(*peer).or_default();
                pair.led.remove(&id);
                pair.led_digest = pair.led_digest.wrapping_sub(mixed(id, term));
            }),
            Some(Filed::Followed(term, peer)) => {
                let pair = self.0.entry(peer).or_default();
                pair.followed.remove(&id);
                pair.followed_digest = pair.followed_digest.wrapping_sub(mixed(id, term));
            }
            None => {}
        }
        match quiet {
            Quiet::No => {}
            Quiet::Leads(to) => {
                let mut peers: Arc<[PeerId]> = to.peers().collect();
                self.1.share(&mut peers);
                for peer in &*peers {
                    let pair = self.0.entry(*peer).or_default();
                    pair.begin(now);
                    pair.led.insert(id, term);
                    pair.led_digest = pair.led_digest.wrapping_add(mixed(id, term));
                }
                *filed = Some(Filed::Led(term, peers));
            }
            Quiet::Follows(leader) => {
                let pair = self.0.entry(*leader).or_default();
                pair.begin(now);
                pair.followed.insert(id, (term, now));
                pair.followed_digest = pair.followed_digest.wrapping_add(mixed(id, term));
                *filed = Some(Filed::Followed(term, *leader));
            }
        }
    }

    /// A frame of this boot came from `peer`. Returns what wakes.
    pub fn heard_boot(&mut self, peer: PeerId, boot: BootNumber) -> Vec<PartitionId> {
        let pair = self.0.entry(peer).or_default();
        match pair.boot.replace(boot) {
            Some(before) if before != boot => pair.all().collect(),
            _ => Vec::new(),
        }
    }

    /// The disk of `peer` was formatted anew: it is somebody else. Returns what wakes.
    pub fn renewed(&self, peer: PeerId) -> Vec<PartitionId> {
        let pair = self.0.get(&peer);
        pair.map_or_else(Vec::new, |pair| pair.all().collect())
    }

    /// A guest is gone.
    pub fn forget(&mut self, peer: PeerId) {
        if self.0.get(&peer).is_some_and(|pair| !pair.keeps()) {
            self.0.remove(&peer);
        }
    }

    /// A beat came from `peer`.
    pub fn heard_beat(
        &mut self,
        now: Time,
        peer: PeerId,
        beat: &PairBeat,
        stated: Option<ElectionBounds>,
        timers: &Timers,
    ) -> Heard {
        let pair = self.0.entry(peer).or_default();
        pair.election_ms_max = stated.map_or(0, |b| b.election_ms_max.min(ELECTION_MS_MAX));
        let grace_ms = pair.patience_ms(timers);
        pair.heard = now;
        pair.wanted_until = if beat.keeps {
            now.plus_ms(grace_ms)
        } else {
            now
        };
        if beat.asks {
            pair.is_asked = true;
            pair.beat_due = now;
        }
        if (beat.count as usize, beat.digest) == (pair.followed.len(), pair.followed_digest) {
            pair.differs_since = None;
        } else {
            pair.differs_since.get_or_insert(now);
        }
        let Some(led) = &beat.led else {
            return Heard::default();
        };
        pair.differs_since = Some(now);
        let missed = led.iter().map(|led| led.partition);
        let missed = missed
            .filter(|id| !pair.followed.contains_key(id))
            .collect();
        let led: BTreeMap<PartitionId, Term> =
            led.iter().map(|led| (led.partition, led.term)).collect();
        let strangers = pair.followed.iter().filter(|(id, (term, since))| {
            since.plus_ms(grace_ms) <= now && led.get(id) != Some(term)
        });
        Heard {
            woken: strangers.map(|(id, _)| *id).collect(),
            missed,
        }
    }

    /// What wakes because the other side is silent.
    pub fn silent(&mut self, now: Time, timers: &Timers) -> Vec<PartitionId> {
        let mut wake = Vec::new();
        for pair in self.0.values_mut() {
            if pair.keeps() && pair.heard.plus_ms(pair.patience_ms(timers)) <= now {
                wake.extend(pair.all());
            }
        }
        wake
    }

    /// Beats that are due.
    pub fn beat(&mut self, now: Time, timers: &Timers, links: &mut Links) {
        let interval_us = u64::from(timers.heartbeat_ms) * 1000;
        for (peer, pair) in &mut self.0 {
            if !pair.beats(now) || now < pair.beat_due {
                continue;
            }
            pair.beat_due = Time((now.0 / interval_us + 1) * interval_us);
            let grace_ms = pair.patience_ms(timers);
            let asks = pair
                .differs_since
                .is_some_and(|since| since.plus_ms(grace_ms) <= now);
            if asks {
                pair.differs_since = Some(now);
            }
            let listed = core::mem::take(&mut pair.is_asked).then(|| {
                let led = pair.led.iter().take(QUIET_LISTED_MAX);
                led.map(|(id, term)| QuietLed {
                    partition: *id,
                    term: *term,
                })
                .collect()
            });
            links.beat(
                *peer,
                PairBeat {
                    count: u32::try_from(pair.led.len()).unwrap_or(u32::MAX),
                    digest: pair.led_digest,
                    keeps: pair.keeps(),
                    asks,
                    led: listed,
                },
            );
        }
    }

    /// When something is due next.
    pub fn deadline(&self, now: Time, timers: &Timers) -> Option<Time> {
        let of = |pair: &Pair| {
            let silence_ms = pair.patience_ms(timers);
            let silent = pair.keeps().then(|| pair.heard.plus_ms(silence_ms));
            let beat = pair.beats(now).then_some(pair.beat_due);
            [silent, beat].into_iter().flatten().min()
        };
        self.0.values().filter_map(of).min()
    }
}
