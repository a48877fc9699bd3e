//! Structures as JSON, with the field names that docs/operations.md promises. Identifiers, indexes and whatever else
//! may exceed 2^53 are strings.

use clustor_shards::log::audit::Role;
use clustor_shards::log::checkpoint::{Checkpoint, OlderPair};
use clustor_shards::log::header::PairHeader;
use clustor_shards::log::inspect::{
    ChainView, ExtentView, ItemView, Judgement, PairView, RecordView, SlotView,
};
use clustor_shards::log::nonce::NonceAccount;
use clustor_shards::log::record::{RECORD_VERSION, RecordHeader};
use clustor_shards::log::slot::Slot;
use clustor_shards::log::trailer::{FoundTrailer, SegmentFigures, Trailer};
use clustor_shards::log::{LogIdentity, PartitionLog};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use serde_json::{Value, json};

use super::{Wanted, asked_for_missing, body, hex};

pub(super) fn pair(identity: &LogIdentity, pair: &PairView, wanted: &Wanted) -> Value {
    let (role, last_certain) = match pair.role {
        Role::Chosen => ("newest", None),
        Role::Older { last_certain } => ("older", Some(last_certain)),
        Role::Unused => ("unused", None),
    };
    let chains = pair
        .chains
        .iter()
        .filter_map(|chain| self::chain(chain, wanted));
    json!({
        "structure": "pair",
        "cluster": format!("{:032x}", identity.cluster.get()),
        "node": identity.node,
        "shard": identity.shard.get(),
        "pair": pair.pair,
        "role": role,
        "last_certain_chain": last_certain,
        "is_spare": pair.is_spare,
        "faults": pair.faults,
        "header": pair.header.as_ref().map(header),
        "header_whole": copies(pair.header_copies),
        "checkpoint": pair.checkpoint.as_ref().map(|of| checkpoint(of, &pair.rewritten)),
        "checkpoint_whole": copies(pair.checkpoint_copies),
        "trailer": pair.trailer.as_ref().map(found_trailer),
        "nonces": pair.nonces.as_ref().map(nonces),
        "chains": chains.collect::<Vec<_>>(),
    })
}

fn nonces(account: &NonceAccount) -> Value {
    json!({
        "reserved_bytes": account.reserved_bytes,
        "sealed_bytes": account.sealed_bytes,
        "abandoned_bytes": account.abandoned_bytes,
        "unreserved_bytes": account.gaps.unreserved_bytes,
        "unsealed_bytes": account.gaps.unsealed_bytes,
        "has_lost_slots": account.has_lost_slots,
    })
}

fn copies(whole: [bool; 2]) -> Value {
    json!({ "segment": whole[0], "ledger": whole[1] })
}

fn header(header: &PairHeader) -> Value {
    json!({
        "boot": header.boot,
        "first_chain": header.first_chain,
        "segment_blocks": header.segment_blocks,
        "recycled": header.recycled,
        "ledger_blocks": header.ledger_blocks,
        "checkpoint_bytes": header.checkpoint_bytes,
        "checkpoint_blocks": header.checkpoint_blocks,
        "log_encoding": header.format.log_encoding.to_string(),
        "ledger_encoding": header.format.ledger_encoding.to_string(),
        "sealing": header.format.sealing.to_string(),
        "hash": header.format.hash.to_string(),
        "merkle_leaves": header.format.merkle_leaves,
        "dek_epoch": header.dek_epoch.get(),
        "mac_epoch": header.mac_epoch.get(),
        "salt": hex(&header.salt),
    })
}

fn checkpoint(checkpoint: &Checkpoint, rewritten: &[ItemView]) -> Value {
    let partitions = checkpoint.fold.partitions.iter();
    json!({
        "partitions": partitions.map(|(id, log)| partition(*id, log)).collect::<Vec<_>>(),
        "older_pairs": checkpoint.older.iter().map(older).collect::<Vec<_>>(),
        "past_boots": checkpoint.boots.iter().map(|past| json!({
            "boot": past.boot,
            "last_chain": past.last,
        })).collect::<Vec<_>>(),
        "peers": checkpoint.fold.peers.iter().map(|((node, shard), past)| json!({
            "node": node,
            "shard": shard.get(),
            "incarnation": past.incarnation,
            "boot": past.boot,
            "retired": past.chain,
        })).collect::<Vec<_>>(),
        "rewritten_bytes": checkpoint.tail.len(),
        "rewritten": rewritten.iter().map(item).collect::<Vec<_>>(),
    })
}

/// What a start would miss in a shard, or why that can't be told.
pub(super) fn missing(
    identity: &LogIdentity,
    short: Result<&[(PartitionId, PartitionLog)], &String>,
) -> Value {
    let partitions = short.unwrap_or_default().iter().map(|(id, log)| {
        json!({
            "partition": id,
            "missing": ranges(log),
            "missing_asked": asked_for_missing(log, identity).iter().map(|peer| json!({
                "node": peer.node,
                "shard": peer.shard.get(),
            })).collect::<Vec<_>>(),
        })
    });
    json!({
        "structure": "missing",
        "shard": identity.shard.get(),
        "partitions": partitions.collect::<Vec<_>>(),
        "fault": short.err(),
    })
}

fn ranges(log: &PartitionLog) -> Vec<Value> {
    let ranges = log.missing.iter().map(|range| {
        json!({
            "first": range.first,
            "last": range.last,
        })
    });
    ranges.collect()
}

fn partition(id: PartitionId, log: &PartitionLog) -> Value {
    let place = |place: Option<(Term, LogIndex)>| {
        place.map(|(term, index)| json!({ "term": term, "index": index }))
    };
    json!({
        "partition": id,
        "incarnation": log.incarnation,
        "term": log.hard_state.term,
        "vote": log.hard_state.vote,
        "base": log.base,
        "base_term": log.base_term,
        "last": log.last,
        "terms": log.terms.iter().map(|run| json!({
            "term": run.term,
            "first": run.first,
        })).collect::<Vec<_>>(),
        "missing": ranges(log),
        "configurations": log.configurations.iter().map(|at| json!({
            "term": at.term,
            "index": at.index,
            "body": hex(&at.body),
            "members": configuration_members(&at.body),
        })).collect::<Vec<_>>(),
        "exit_committed": place(log.exit_committed),
        "snapshot_mark": place(log.snapshot_mark),
    })
}

/// Who belongs to a partition by a configuration's bytes; `null` where they are none.
fn configuration_members(body: &[u8]) -> Value {
    let Some(fields) = body::configuration(body) else {
        return Value::Null;
    };
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fields.collect::<serde_json::Map<_, _>>().into()
}

fn older(older: &OlderPair) -> Value {
    json!({
        "pair": older.pair,
        "last_certain_chain": older.last_certain,
        "segment_blocks": older.segment_blocks,
        "trailer": older.trailer.as_ref().map(trailer),
        "trailer_durable": older.trailer_durable,
    })
}

fn found_trailer(found: &FoundTrailer) -> Value {
    let (state, what) = match found {
        FoundTrailer::Untouched => ("untouched", None),
        FoundTrailer::Whole(what) => ("whole", Some(trailer(what))),
        FoundTrailer::Bad => ("bad", None),
        FoundTrailer::Unreadable => ("unreadable", None),
    };
    json!({ "state": state, "trailer": what })
}

fn trailer(trailer: &Trailer) -> Value {
    json!({
        "first_chain": trailer.first.0,
        "first_block": trailer.first.1,
        "last_chain": trailer.last.0,
        "end_block": trailer.last.1,
        "figures": figures(&trailer.figures),
    })
}

fn figures(figures: &SegmentFigures) -> Value {
    json!({
        "records": figures.records,
        "entries_crc": hex(&figures.entries.to_bytes()),
        "offsets_crc": hex(&figures.offsets.to_bytes()),
        "merkle_root": figures.merkle_root.map(|root| hex(&root)),
    })
}

const fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Proven => "proven",
        Judgement::Tail => "tail",
        Judgement::SlotLost => "slot_lost",
        Judgement::Rot => "rot",
        Judgement::Unnamed => "unnamed",
        Judgement::Torn => "torn",
        Judgement::Blank => "blank",
        Judgement::Dead => "dead",
        Judgement::Unused => "unused",
    }
}

/// `None` where the chain is not wanted, or only some records are wanted, and the chain holds none of them.
fn chain(chain: &ChainView, wanted: &Wanted) -> Option<Value> {
    if !wanted.takes_chain(chain) {
        return None;
    }
    let (state, said, held) = match &chain.slot {
        SlotView::Good(slot, held) => ("good", Some(slot), held.as_slice()),
        SlotView::Untouched => ("untouched", None, &[][..]),
        SlotView::Bad => ("bad", None, &[][..]),
        SlotView::Torn => ("torn", None, &[][..]),
        SlotView::Unreadable => ("unreadable", None, &[][..]),
    };
    let items: Vec<Value> = held
        .iter()
        .filter(|item| wanted.takes(&item.at, item.count))
        .map(item)
        .collect();
    let records = chain.extent.iter().flat_map(|extent| &extent.records);
    let records: Vec<Value> = records.map(record).collect();
    if !wanted.all() && items.is_empty() && records.is_empty() {
        return None;
    }
    let mut value = json!({
        "chain": chain.chain,
        "first_block": chain.first_block,
        "judgement": judgement(chain.judgement),
        "faults": chain.faults,
        "slot": state,
        "slot_fields": said.map(slot),
        "items": items,
        "extent": chain.extent.as_ref().map(extent),
    });
    if wanted.records {
        value["records"] = records.into();
    }
    Some(value)
}

fn slot(slot: &Slot) -> Value {
    json!({
        "retired": slot.retired,
        "blocks": slot.blocks,
        "digest": hex(&slot.digest),
        "io_writer_mode": slot.io_writer_mode,
        "figures": figures(&slot.figures),
        "sweep": slot.sweep.map(|place| json!({
            "pair": place.pair,
            "slot": place.slot,
            "last": place.last,
            "last_slots": place.last_slots,
            "chains_done": place.chains_done,
            "spent_ms": place.spent_ms,
        })),
        "nonces_reserved": slot.nonces.reserved.map(|range| json!({
            "pair": range.pair,
            "start": range.start,
            "blocks": range.blocks,
        })),
        "nonces_abandoned": slot.nonces.abandoned.map(|abandoned| json!({
            "pair": abandoned.pair,
            "reason": format!("{:?}", abandoned.reason).to_lowercase(),
        })),
    })
}

fn extent(extent: &ExtentView) -> Value {
    json!({
        "blocks": extent.header.blocks,
        "records": extent.header.records,
        "bytes": extent.header.bytes,
        "crc": format!("{:08x}", extent.header.crc),
        "digest": hex(&extent.digest),
        "previous": hex(&extent.header.previous),
    })
}

fn item(item: &ItemView) -> Value {
    let mut value = place(&item.at);
    value["count"] = item.count.into();
    if let Some(record) = &item.small {
        value["says"] = body::json(record);
    }
    value
}

fn place(at: &RecordHeader) -> Value {
    json!({
        "kind": at.kind.name(),
        "partition": at.partition,
        "term": at.term,
        "index": at.index,
    })
}

fn record(record: &RecordView) -> Value {
    let mut value = place(&record.header);
    value["version"] = RECORD_VERSION.into();
    value["codec"] = "binary".into();
    value["body_bytes"] = record.header.body_len.into();
    value["crc"] = format!("{:08x}", record.crc).into();
    value["leaf_hash"] = record.leaf.map(|(hash, _)| hash.to_string()).into();
    value["leaf"] = record.leaf.map(|(_, leaf)| hex(&leaf)).into();
    value["says"] = body::json(record);
    value
}
