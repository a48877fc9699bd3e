//! A shard's status, as a client is told it.

use flatbuffers::WIPOffset;

use super::super::codec::{Scratch, check_io_writer_mode, check_list, id128, u128_of};
use super::super::{
    AskedNode, GuestStatus, MEMBERS_MAX, MessageError, PartitionStatus, STATUS_PARTITIONS_MAX,
    ScrubStatus, ShardStatus,
};
use super::values::{asked_answer, durability_mode, role};
use crate::generated::fb;
use crate::ids::{BootNumber, LogIndex, NodeId, PartitionId, ShardId, Term};

pub(super) fn check_partitions(len: usize) -> Result<(), MessageError> {
    check_list("ShardStatus.partitions", len, STATUS_PARTITIONS_MAX)
}

pub(super) fn build_status(
    scratch: &mut Scratch,
    status: &ShardStatus,
) -> WIPOffset<fb::ShardStatus<'static>> {
    let Scratch { builder, offsets } = scratch;
    for partition in &status.partitions {
        let trouble = Some(builder.create_string(&partition.trouble));
        let held_back = Some(builder.create_string(&partition.held_back));
        let asked = partition.asked.iter();
        let asked: Vec<_> = asked
            .map(|asked| fb::AskedNode::new(asked.node.0, fb::AskedAnswer(asked.answer as u8)))
            .collect();
        let asked = (!asked.is_empty()).then(|| builder.create_vector(&asked));
        let no_lease = Some(builder.create_string(&partition.no_lease));
        let partition = fb::PartitionStatus::create(
            builder,
            &fb::PartitionStatusArgs {
                partition: Some(&id128(partition.partition.0)),
                role: Some(fb::Role(partition.role as u8)),
                term: partition.term.0,
                leader: partition.leader.map(NodeId::get),
                last_index: partition.last_index.0,
                durable: partition.durable.0,
                wal_committed: partition.wal_committed.0,
                applied: partition.applied.0,
                missing: partition.missing,
                trouble,
                mode: Some(fb::DurabilityMode(partition.mode as u8)),
                wanted_mode: Some(fb::DurabilityMode(partition.wanted_mode as u8)),
                held_back,
                lease_held: partition.lease_held,
                no_lease,
                apply_p99_us: partition.apply_p99_us,
                apply_breaches: partition.apply_breaches,
                apply_backlog_max: partition.apply_backlog_max,
                asked_index: partition.asked_index.map(LogIndex::get),
                asked,
            },
        );
        offsets.push(partition.value());
    }
    let offsets = offsets.iter().map(|at| WIPOffset::new(*at));
    let partitions =
        builder.create_vector_from_iter::<WIPOffset<fb::PartitionStatus<'static>>>(offsets);
    let trouble = builder.create_string(&status.trouble);
    let scrub = &status.scrub;
    let guests = (status.guests != GuestStatus::default()).then(|| {
        let GuestStatus {
            here,
            unnamed,
            refused,
        } = status.guests;
        let guests = fb::GuestStatusArgs {
            here,
            unnamed,
            refused,
        };
        fb::GuestStatus::create(builder, &guests)
    });
    let scrub = fb::ScrubStatus::create(
        builder,
        &fb::ScrubStatusArgs {
            sweeps: scrub.sweeps,
            sweep_permille: scrub.sweep_permille,
            bytes: scrub.bytes,
            finished_ms_ago: scrub.finished_ms_ago,
            oldest_unverified_ms: scrub.oldest_unverified_ms,
            damaged_places: scrub.damaged_places,
            lost_entries: scrub.lost_entries,
        },
    );
    fb::ShardStatus::create(
        builder,
        &fb::ShardStatusArgs {
            node: status.node.0,
            shard: status.shard.0,
            boot: status.boot.0,
            io_writer_mode: status.io_writer_mode,
            trouble: Some(trouble),
            partitions: Some(partitions),
            scrub: Some(scrub),
            guests,
        },
    )
}

pub(super) fn shard_status(m: fb::ShardStatus<'_>) -> Result<ShardStatus, MessageError> {
    check_partitions(m.partitions().len())?;
    Ok(ShardStatus {
        node: NodeId(m.node()),
        shard: ShardId(m.shard()),
        boot: BootNumber(m.boot()),
        io_writer_mode: check_io_writer_mode("ShardStatus.io_writer_mode", m.io_writer_mode())?,
        trouble: m.trouble().to_owned(),
        partitions: m
            .partitions()
            .iter()
            .map(partition_status)
            .collect::<Result<_, _>>()?,
        scrub: m.scrub().map(scrub_status).unwrap_or_default(),
        guests: m.guests().map(guest_status).unwrap_or_default(),
    })
}

fn guest_status(m: fb::GuestStatus<'_>) -> GuestStatus {
    GuestStatus {
        here: m.here(),
        unnamed: m.unnamed(),
        refused: m.refused(),
    }
}

fn scrub_status(m: fb::ScrubStatus<'_>) -> ScrubStatus {
    ScrubStatus {
        sweeps: m.sweeps(),
        sweep_permille: m.sweep_permille(),
        bytes: m.bytes(),
        finished_ms_ago: m.finished_ms_ago(),
        oldest_unverified_ms: m.oldest_unverified_ms(),
        damaged_places: m.damaged_places(),
        lost_entries: m.lost_entries(),
    }
}

pub(super) fn check_asked(len: usize) -> Result<(), MessageError> {
    check_list("PartitionStatus.asked", len, MEMBERS_MAX)
}

fn partition_status(m: fb::PartitionStatus<'_>) -> Result<PartitionStatus, MessageError> {
    let asked = m.asked().unwrap_or_default();
    check_asked(asked.len())?;
    let asked = asked.iter().map(|asked| {
        Ok(AskedNode {
            node: NodeId(asked.node()),
            answer: asked_answer(asked.answer())?,
        })
    });
    let asked = asked.collect::<Result<_, MessageError>>()?;
    Ok(PartitionStatus {
        partition: PartitionId(u128_of(m.partition())),
        role: role(m.role())?,
        term: Term(m.term()),
        leader: m.leader().map(NodeId),
        last_index: LogIndex(m.last_index()),
        durable: LogIndex(m.durable()),
        wal_committed: LogIndex(m.wal_committed()),
        applied: LogIndex(m.applied()),
        missing: m.missing(),
        trouble: m.trouble().to_owned(),
        mode: durability_mode("PartitionStatus.mode", m.mode())?,
        wanted_mode: durability_mode("PartitionStatus.wanted_mode", m.wanted_mode())?,
        held_back: m.held_back().unwrap_or_default().to_owned(),
        lease_held: m.lease_held(),
        no_lease: m.no_lease().unwrap_or_default().to_owned(),
        apply_p99_us: m.apply_p99_us(),
        apply_breaches: m.apply_breaches(),
        apply_backlog_max: m.apply_backlog_max(),
        asked_index: m.asked_index().map(LogIndex),
        asked,
    })
}
