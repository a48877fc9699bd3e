//! Which keys the table of executed ones takes for new: what its clients knew of decides, to the index.

use clustor_engine::partition::idempotency::{IdempotencyTable, KeyVerdict};
use clustor_engine::raft::entry::{EntryKey, KeysMax};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::IdempotencyKey;

const TERM: Term = Term(1);

/// What becomes of a key at an index, whose client knew of as many entries.
fn judge(table: &mut IdempotencyTable, key: u128, known: u64, index: u64) -> KeyVerdict {
    let key = EntryKey {
        key: IdempotencyKey(key),
        known: LogIndex(known),
    };
    table.judge(&key, TERM, LogIndex(index))
}

/// Two keys are remembered, those at 4 and 5; the one at 3 was forgotten.
fn forgetful() -> IdempotencyTable {
    let mut table = IdempotencyTable::default();
    table.set_keys_max(KeysMax::new(2));
    for index in 3..=5 {
        let verdict = judge(&mut table, u128::from(index), index - 1, index);
        assert_eq!(verdict, KeyVerdict::Execute);
    }
    table
}

#[test]
fn a_forgotten_key_is_refused_though_its_client_knew_all_before_it() {
    let mut table = forgetful();
    assert_eq!(judge(&mut table, 3, 2, 6), KeyVerdict::Expired);
    let first = KeyVerdict::Duplicate {
        term: TERM,
        index: LogIndex(4),
    };
    assert_eq!(judge(&mut table, 4, 3, 6), first);
}

#[test]
fn who_knows_of_the_forgotten_key_may_use_a_new_one() {
    assert_eq!(judge(&mut forgetful(), 9, 3, 6), KeyVerdict::Execute);
    assert_eq!(judge(&mut forgetful(), 9, 2, 6), KeyVerdict::Expired);
}

#[test]
fn nobody_knows_of_an_entry_before_it_is_there() {
    let table = IdempotencyTable::default;
    assert_eq!(judge(&mut table(), 1, 6, 7), KeyVerdict::Execute);
    assert_eq!(judge(&mut table(), 1, 7, 7), KeyVerdict::Expired);
    assert_eq!(judge(&mut table(), 1, 8, 7), KeyVerdict::Expired);
}
