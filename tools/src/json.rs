//! What `--json` prints: one object to a line, under one rule for its numbers.
//!
//! Ids (of nodes, partitions, clusters, incarnations), terms, indexes, and the numbers of boots, pairs and chains are
//! strings, always: they have 64 or 128 bits, and many readers of JSON keep numbers in doubles, which are exact up to
//! 2^53. All else that is counted or measured (sizes, times, shards, blocks) is a number below that. docs/operations.md
//! tells users the same.
//!
//! Nobody has to remember it: an id of `clustor_wire` serializes as a string, so it is handed to `json!` as it is, and
//! what breaks the rule panics here in a debug build.

use std::io::Write;

use serde_json::Value;

/// The fields, in any object, that hold what the rule makes a string.
pub const STRINGS: [&str; 28] = [
    "applied",
    "base",
    "base_term",
    "boot",
    "chain",
    "cluster",
    "durable",
    "entered",
    "exit",
    "first",
    "first_chain",
    "incarnation",
    "index",
    "key_wal_committed",
    "killed_node",
    "last",
    "last_certain_chain",
    "last_chain",
    "last_index",
    "leader",
    "node",
    "pair",
    "partition",
    "retired",
    "term",
    "torn",
    "vote",
    "wal_committed",
];

/// The greatest whole number that every reader of JSON keeps exactly.
const EXACT_MAX: u64 = 1 << 53;

/// Prints one object and ends its line.
///
/// # Errors
/// Nobody reads any more.
pub fn line(out: &mut dyn Write, object: &Value) -> std::io::Result<()> {
    debug_assert_eq!(broken(object), None, "{object}");
    writeln!(out, "{object}")
}

/// Where the rule is broken: the field and what it holds.
#[must_use]
pub fn broken(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let is_listed = STRINGS.contains(&name.as_str());
            if is_listed && value.is_number() {
                return Some(format!("{name}: {value} is no string"));
            }
            broken(value).map(|inside| format!("{name}: {inside}"))
        }),
        Value::Array(values) => values.iter().find_map(broken),
        Value::Number(number) => {
            let too_great = number.as_u64().is_some_and(|number| number > EXACT_MAX);
            too_great.then(|| format!("{number} is above 2^53"))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}
