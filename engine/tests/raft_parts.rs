//! The parts of the consensus core that are pure: majorities, configurations, entry bodies, the shape of a log, the cache.

use std::collections::BTreeMap;

use clustor_engine::raft::configuration::{ConfigurationError, VOTERS_MAX};
use clustor_engine::raft::entry::{EntryBody, EntryError, EntryKey, EntryKind, SystemKind};
use clustor_engine::raft::log_view::LogView;
use clustor_engine::raft::quorum::{self, Ballot};
use clustor_engine::raft::{Configuration, EntryCache};
use clustor_shards::log::{IndexRange, TermRun};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, ShardId, Term};
use clustor_wire::message::IdempotencyKey;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::{collection, option, prop_oneof, sample};

fn peer(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId((node % 3) as u16),
    }
}

fn half() -> impl Strategy<Value = Vec<PeerId>> {
    sample::subsequence((0..12).collect::<Vec<u64>>(), 1..=VOTERS_MAX)
        .prop_map(|nodes| nodes.into_iter().map(peer).collect())
}

fn configuration() -> impl Strategy<Value = Configuration> {
    prop_oneof![
        half().prop_map(|first| Configuration::simple(first).expect("voters")),
        (half(), half()).prop_map(|(a, b)| Configuration::joint(a, b).expect("voters")),
    ]
}

proptest! {
    #[test]
    fn what_is_reached_is_the_greatest_value_that_majorities_of_all_halves_have(
        configuration in configuration(),
        values in collection::vec(0u64..20, 12),
    ) {
        let value = |p: PeerId| values[p.node.get() as usize];
        let reached = quorum::reached(&configuration, value);
        let has = |n: u64| configuration.halves().all(|half| {
            half.iter().filter(|p| value(**p) >= n).count() * 2 > half.len()
        });
        prop_assert!(has(reached));
        prop_assert!(!has(reached + 1));
    }

    #[test]
    fn a_ballot_is_won_by_majorities_of_all_halves_and_lost_when_they_are_out_of_reach(
        configuration in configuration(),
        votes in collection::vec(option::of(any::<bool>()), 12),
    ) {
        let vote = |p: PeerId| votes[p.node.get() as usize];
        let with = |open: bool| configuration.halves().all(|half| {
            half.iter().filter(|p| vote(**p).unwrap_or(open)).count() * 2 > half.len()
        });
        let expected = match (with(false), with(true)) {
            (true, _) => Ballot::Won,
            (false, true) => Ballot::Open,
            (false, false) => Ballot::Lost,
        };
        prop_assert_eq!(quorum::count(&configuration, vote), expected);
    }

    #[test]
    fn two_quorums_of_one_configuration_meet(
        configuration in configuration(),
        one in collection::vec(any::<bool>(), 12),
        other in collection::vec(any::<bool>(), 12),
    ) {
        let won = |yes: &[bool]| {
            quorum::count(&configuration, |p| Some(yes[p.node.get() as usize])) == Ballot::Won
        };
        if won(&one) && won(&other) {
            prop_assert!(one.iter().zip(&other).any(|(a, b)| *a && *b));
        }
    }

    #[test]
    fn configurations_survive_their_bytes(configuration in configuration(), me in 0u64..12) {
        let bytes = configuration.encode();
        prop_assert_eq!(Configuration::decode(&bytes), Ok(configuration.clone()));
        prop_assert_eq!(
            Configuration::decode(&bytes[..bytes.len() - 1]),
            Err(ConfigurationError::Bytes)
        );
        let others: Vec<PeerId> = configuration.others(peer(me)).collect();
        for other in &others {
            prop_assert!(configuration.contains(*other));
            prop_assert_eq!(others.iter().filter(|p| *p == other).count(), 1);
        }
        prop_assert!(!others.contains(&peer(me)));
        prop_assert_eq!(
            configuration.is_sole_voter(peer(me)),
            others.is_empty() && configuration.contains(peer(me))
        );
    }

    #[test]
    fn configurations_are_read_without_panic(bytes in collection::vec(any::<u8>(), 0..64)) {
        if let Ok(configuration) = Configuration::decode(&bytes) {
            prop_assert!(configuration.halves().count() >= 1);
        }
    }

    #[test]
    fn entry_bodies_survive_their_bytes(
        kind in prop_oneof![
            Just(EntryKind::Empty),
            Just(EntryKind::Command),
            (1u8..=7).prop_map(|n| EntryKind::System(SystemKind::from_u8(n).expect("numbered"))),
        ],
        stamp_ms in any::<u64>(),
        key in option::of((any::<u128>(), any::<u64>())),
        payload in collection::vec(any::<u8>(), 0..100),
    ) {
        let body = EntryBody {
            kind,
            stamp_ms,
            key: key.map(|(key, known)| EntryKey {
                key: IdempotencyKey(key),
                known: LogIndex(known),
            }),
            payload: &payload,
        };
        let mut bytes = body.head().as_slice().to_vec();
        bytes.extend_from_slice(&payload);
        prop_assert_eq!(EntryBody::decode(&bytes), Ok(body));
    }

    #[test]
    fn entry_bodies_are_read_without_panic(bytes in collection::vec(any::<u8>(), 0..64)) {
        if let Ok(body) = EntryBody::decode(&bytes) {
            let mut again = body.head().as_slice().to_vec();
            again.extend_from_slice(body.payload);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn the_shape_of_a_log_agrees_with_its_list_of_terms(
        base in 0u64..5,
        steps in collection::vec((0u64..3, 0u64..10, any::<bool>()), 1..60),
        ask in (0u64..70, 0u64..40),
    ) {
        // The list holds the term at the base, then that of each entry.
        let mut view = LogView::new(LogIndex(base), Term(1), Vec::new(), LogIndex(base), Vec::new());
        let mut terms = vec![1u64];
        for (raise, cut, truncate) in steps {
            if truncate && terms.len() > 1 {
                let keep = terms.len().saturating_sub(cut as usize).max(1);
                terms.truncate(keep);
                view.truncate(LogIndex(base + keep as u64));
            } else {
                let term = terms.last().expect("the base") + raise;
                terms.push(term);
                let index = view.push(Term(term));
                prop_assert_eq!(index, LogIndex(base + terms.len() as u64 - 1));
            }
        }
        prop_assert_eq!(view.last(), LogIndex(base + terms.len() as u64 - 1));
        prop_assert_eq!(view.last_term().get(), *terms.last().expect("the base"));
        for index in 0..base + terms.len() as u64 + 3 {
            let expected = index.checked_sub(base).and_then(|at| terms.get(at as usize));
            let found = view.term_at(LogIndex(index)).map(Term::get);
            prop_assert_eq!(found.as_ref(), expected);
        }
        let (index, term) = ask;
        let common = (base..=index.max(base))
            .filter(|i| terms.get((i - base) as usize).is_some_and(|t| *t <= term))
            .max()
            .unwrap_or(base);
        prop_assert_eq!(view.common_with(LogIndex(index), Term(term)), LogIndex(common));
    }

    #[test]
    fn the_cache_gives_back_what_was_laid_down_or_nothing(
        capacity in 1usize..400,
        steps in collection::vec((0usize..3, 0usize..60, 0u64..6), 1..200),
    ) {
        let mut cache = EntryCache::new(capacity);
        let slots = [cache.register(), cache.register(), cache.register()];
        let mut laid: [BTreeMap<u64, Vec<u8>>; 3] = Default::default();
        let mut next = [1u64; 3];
        for (step, (which, len, back)) in steps.into_iter().enumerate() {
            let slot = slots[which];
            if len == 0 {
                let from = next[which].saturating_sub(back).max(1);
                cache.truncate(slot, LogIndex(from));
                laid[which].split_off(&from);
                next[which] = from;
            } else {
                let frame = vec![step as u8; len];
                cache.push(slot, LogIndex(next[which]), &frame);
                laid[which].insert(next[which], frame);
                next[which] += 1;
            }
            let mut held = 0;
            for (slot, laid) in slots.iter().zip(&laid) {
                for index in 0..next[0].max(next[1]).max(next[2]) + 2 {
                    if let Some(frame) = cache.frame(*slot, LogIndex(index)) {
                        held += frame.len();
                        prop_assert_eq!(Some(frame), laid.get(&index).map(Vec::as_slice));
                    }
                }
            }
            prop_assert!(held <= capacity);
            if len > 0 && len <= capacity {
                let newest = cache.frame(slot, LogIndex(next[which] - 1));
                prop_assert!(newest.is_some(), "what was laid down last is there");
            }
        }
    }
}

#[test]
fn configurations_without_or_with_too_many_or_doubled_voters_are_refused() {
    assert_eq!(
        Configuration::simple(Vec::new()),
        Err(ConfigurationError::Count(0))
    );
    assert_eq!(
        Configuration::simple((0..10).map(peer).collect()),
        Err(ConfigurationError::Count(10))
    );
    let twice = PeerId {
        shard: ShardId(9),
        ..peer(1)
    };
    assert_eq!(
        Configuration::joint(vec![peer(0)], vec![peer(1), twice]),
        Err(ConfigurationError::Twice(NodeId(1)))
    );
}

#[test]
fn entry_bodies_of_other_versions_are_refused() {
    let mut bytes = EntryBody {
        kind: EntryKind::Command,
        stamp_ms: 1,
        key: None,
        payload: b"",
    }
    .head()
    .as_slice()
    .to_vec();
    assert_eq!(
        EntryBody::decode(&bytes[..11]),
        Err(EntryError::Short { have: 11, need: 12 })
    );
    bytes[3] = 1;
    assert_eq!(EntryBody::decode(&bytes), Err(EntryError::Fields));
    bytes[3] = 0;
    bytes[2] = 1;
    assert_eq!(
        EntryBody::decode(&bytes),
        Err(EntryError::Short { have: 12, need: 36 })
    );
    bytes[2] = 0;
    bytes[0] = 2;
    bytes[1] = 200;
    assert_eq!(
        EntryBody::decode(&bytes),
        Err(EntryError::Kind {
            kind: 2,
            number: 200
        })
    );
}

#[test]
fn missing_ranges_merge_and_are_cut_with_the_log() {
    let runs = vec![TermRun {
        term: Term(1),
        first: LogIndex(1),
    }];
    let mut view = LogView::new(
        LogIndex(0),
        Term(0),
        runs,
        LogIndex(20),
        Vec::<IndexRange>::new(),
    );
    view.mark_missing(LogIndex(5), LogIndex(6));
    view.mark_missing(LogIndex(9), LogIndex(9));
    view.mark_missing(LogIndex(7), LogIndex(7));
    view.mark_missing(LogIndex(18), LogIndex(99));
    assert_eq!(view.missing_count(), 7);
    assert_eq!(view.missing_from(LogIndex(1)), Some(LogIndex(5)));
    assert_eq!(view.missing_from(LogIndex(6)), Some(LogIndex(6)));
    assert_eq!(view.missing_from(LogIndex(8)), Some(LogIndex(9)));
    assert_eq!(view.missing_from(LogIndex(10)), Some(LogIndex(18)));
    view.truncate(LogIndex(19));
    assert_eq!(view.missing_count(), 5);
    view.truncate(LogIndex(6));
    assert_eq!(view.missing_count(), 1);
    assert_eq!(view.missing_from(LogIndex(6)), None);
}
