//! What records say, field by field, for both outputs. A command's bytes are never among it.

use clustor_engine::raft::configuration::{Standing, Step};
use clustor_engine::raft::entry::{EntryBody, EntryKind, KeysMax, SystemKind};
use clustor_engine::raft::{Cause, Configuration, Transition};
use clustor_shards::log::Mode;
use clustor_shards::log::inspect::RecordView;
use clustor_shards::log::record::RecordKind;
use clustor_shards::turn::PeerId;
use serde_json::{Map, Value, json};

/// Fields in the order in which people are to read them.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// What a record's body says; empty where its kind has none. What can't be decoded says so under `undecodable`.
pub(super) fn fields(record: &RecordView) -> Fields {
    let body = record.body.as_slice();
    let decoded = match record.header.kind {
        RecordKind::Entry | RecordKind::Relocated => return entry(record),
        RecordKind::HardState => hard_state(body),
        RecordKind::Configuration if record.header.index.get() == 0 => created(body),
        RecordKind::Configuration | RecordKind::RelocatedConfiguration => configuration(body),
        RecordKind::Missing => number(body).map(|count| vec![("missing_count", json!(count))]),
        RecordKind::PeerChains => peer_chains(record),
        RecordKind::Truncate
        | RecordKind::ExitCommitted
        | RecordKind::SnapshotMark
        | RecordKind::PartitionTombstone
        | RecordKind::Floor => body.is_empty().then(Vec::new),
    };
    decoded.unwrap_or_else(|| vec![("undecodable", json!(super::hex(body)))])
}

/// The same as one JSON object; `null` for none.
pub(super) fn json(record: &RecordView) -> Value {
    let fields = fields(record);
    if fields.is_empty() {
        return Value::Null;
    }
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fields.collect::<Map<_, _>>().into()
}

/// The same in words, one text for each field that says something, and for each of those in a list.
pub(super) fn words(fields: &Fields) -> Vec<String> {
    let mut words = Vec::new();
    for (name, value) in fields {
        let name = name.replace('_', " ");
        match value {
            Value::Null => {}
            Value::Array(list) => {
                words.extend(list.iter().map(|value| format!("{name} {}", plain(value))));
            }
            value => words.push(format!("{name} {}", plain(value))),
        }
    }
    words
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .collect();
            fields.sort_by_key(|(name, _)| (*name != "node", *name != "shard"));
            let said = fields
                .iter()
                .map(|(name, value)| format!("{name} {}", plain(value)));
            format!("({})", said.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn number(body: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(body.try_into().ok()?))
}

fn hard_state(body: &[u8]) -> Option<Fields> {
    let (&voted, node) = body.split_first()?;
    let node = number(node)?;
    let vote = match voted {
        0 => Value::Null,
        1 => json!(node.to_string()),
        _ => return None,
    };
    Some(vec![("vote", vote)])
}

/// The configuration that a partition was created with, behind the replica's incarnation.
fn created(body: &[u8]) -> Option<Fields> {
    let (incarnation, rest) = body.split_at_checked(8)?;
    let mut fields = vec![("incarnation", json!(number(incarnation)?.to_string()))];
    fields.extend(configuration(rest)?);
    Some(fields)
}

/// The members of a configuration, and what its record does.
pub(super) fn configuration(body: &[u8]) -> Option<Fields> {
    let configuration = Configuration::decode(body).ok()?;
    let step = match configuration_step(body)? {
        Step::States => "states",
        Step::Enters => "enters",
        Step::LeavesForward => "leaves_forward",
        Step::LeavesBack => "leaves_back",
    };
    let voters = |half: &[PeerId]| -> Vec<Value> {
        let voters = half.iter().map(|peer| {
            let incarnation = configuration.incarnation_of(*peer).get();
            json!({
                "node": peer.node,
                "shard": peer.shard.get(),
                "incarnation": (incarnation != 0).then(|| incarnation.to_string()),
            })
        });
        voters.collect()
    };
    let notes = configuration.notes().iter().map(|note| {
        json!({
            "node": note.peer.node,
            "shard": note.peer.shard.get(),
            "standing": match note.standing {
                Standing::Voter => "voter",
                Standing::Learner => "learner",
                Standing::Observer => "observer",
            },
            "address": (!note.address.is_empty()).then_some(&note.address),
        })
    });
    Some(vec![
        ("step", json!(step)),
        ("voters", voters(configuration.first()).into()),
        ("voters_after", voters(configuration.second()).into()),
        ("notes", notes.collect::<Vec<_>>().into()),
    ])
}

/// What its record does, of a configuration that was decoded.
fn configuration_step(body: &[u8]) -> Option<Step> {
    let steps = [
        Step::States,
        Step::Enters,
        Step::LeavesForward,
        Step::LeavesBack,
    ];
    steps
        .into_iter()
        .find(|step| body.get(3) == Some(&(*step as u8)))
}

fn peer_chains(record: &RecordView) -> Option<Fields> {
    let peers = record.peers()?;
    let peers = peers.iter().map(|((node, shard), past)| {
        json!({
            "node": node,
            "shard": shard.get(),
            "incarnation": past.incarnation,
            "boot": past.boot,
            "retired": past.chain,
        })
    });
    Some(vec![("peers", peers.collect::<Vec<_>>().into())])
}

fn entry(record: &RecordView) -> Fields {
    let entry = match EntryBody::decode(&record.body) {
        Ok(entry) => entry,
        Err(error) => return vec![("undecodable", json!(error.to_string()))],
    };
    let head = record.body.len() - entry.payload.len();
    let mut fields = vec![
        (
            "type",
            json!(match entry.kind {
                EntryKind::Empty => "empty".to_owned(),
                EntryKind::Command => "command".to_owned(),
                EntryKind::System(kind) => format!("{kind:?}"),
            }),
        ),
        (
            "payload_bytes",
            json!(record.header.body_len as usize - head),
        ),
        ("stamp_ms", json!(entry.stamp_ms)),
    ];
    if let Some(key) = entry.key {
        fields.push(("key", json!(format!("{:032x}", key.key.0))));
        fields.push(("key_wal_committed", json!(key.known)));
    }
    match entry.kind {
        EntryKind::System(SystemKind::KeysMax) => {
            let keys = KeysMax::decode(entry.payload).map(KeysMax::get);
            fields.push(("keys_max", json!(keys)));
        }
        EntryKind::System(SystemKind::DurabilityTransition) => {
            let said = Transition::decode(entry.payload);
            let mode = |mode| match mode {
                Mode::Strict => "strict",
                Mode::Group => "group",
            };
            fields.push(("mode", json!(said.map(|said| mode(said.mode)))));
            fields.push(("wanted_mode", json!(said.map(|said| mode(said.wanted)))));
            fields.push((
                "cause",
                json!(said.map(|said| match said.cause {
                    Cause::Asked => "asked",
                    Cause::Guard => "guard",
                })),
            ));
        }
        EntryKind::Empty | EntryKind::Command | EntryKind::System(_) => {}
    }
    fields
}
