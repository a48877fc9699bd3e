//! Whose time has come, and how many campaigns a shard has under way.
//!
//! When a node starts, or its peer ends, thousands of replicas want to be elected at once. Each campaign costs its own
//! messages and two durable votes; all at once they take longer than an election may, so that they time out, begin anew
//! and never end. So only some are under way, and the others wait for their turn in the order in which they were due:
//! most of them are told meanwhile who leads, and need none.
//!
//! A campaign has its place until it is decided, or its time is over; then it goes behind those who wait, so that
//! partitions that can't have a leader keep nobody from having one.
//!
//! Whom a leader tells to campaign, because it hands over, goes before all others: its partition has no leader any more. Where there
//! is no room, what it was told waits, and is judged when there is; but not for longer than the leader waits for it, which serves on
//! then.

use std::collections::VecDeque;

use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, PartitionId};
use clustor_wire::message::RaftMessage;

use super::ShardCore;
use crate::raft::{AuthenticatedPeer, CampaignFiled};

/// Campaigns under way at once. With those of two other shards they take some 40 ms of a processor, much less than an
/// election timeout.
const CAMPAIGNS_MAX: usize = 128;

/// A shard's campaigns.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    under_way: usize,
    /// Those that are not wanted any more are still here, until it is their turn.
    waiting: VecDeque<PartitionId>,
    /// What leaders that hand over said, each to one partition.
    told: VecDeque<Told>,
}

/// A leader's word that a replica is to campaign.
#[derive(Debug)]
struct Told {
    at: Time,
    from: AuthenticatedPeer,
    incarnation: Incarnation,
    message: RaftMessage,
}

impl Campaigns {
    const fn has_room(&self) -> bool {
        self.under_way < CAMPAIGNS_MAX
    }

    /// Whether somebody waits who need not.
    pub fn is_due(&self) -> bool {
        self.has_room() && !(self.waiting.is_empty() && self.told.is_empty())
    }
}

impl ShardCore {
    /// Those whose deadline has come have their time.
    pub(super) fn tick_due(&mut self, now: Time) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            partition.busy.filed_deadline = None;
            self.touched.insert(id);
            let due = partition
                .replica
                .next_deadline()
                .is_some_and(|at| at <= now);
            if due && self.shared.log.is_open() {
                self.tick_or_wait(now, id);
            }
        }
        self.begin_campaigns(now);
    }

    /// A replica's time has come. If it would campaign, it may have to wait.
    pub(super) fn tick_or_wait(&mut self, now: Time, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        if partition.replica.would_campaign(now) {
            match partition.filed_campaign {
                CampaignFiled::Waits => return,
                CampaignFiled::UnderWay => self.campaigns.under_way -= 1,
                CampaignFiled::No => {}
            }
            partition.filed_campaign = CampaignFiled::No;
            let campaigns = &self.campaigns;
            if !campaigns.has_room() || !campaigns.waiting.is_empty() || !campaigns.told.is_empty()
            {
                partition.filed_campaign = CampaignFiled::Waits;
                self.campaigns.waiting.push_back(id);
                return;
            }
        }
        partition.replica.tick(&mut self.shared.lend(now));
        self.file_campaign(now, id);
    }

    /// A leader hands over: its word is taken if there is room for a campaign, and waits otherwise. More words than there are
    /// partitions are not kept: those replicas campaign when they miss their leader.
    pub(super) fn take_timeout_now(
        &mut self,
        now: Time,
        from: AuthenticatedPeer,
        incarnation: Incarnation,
        message: RaftMessage,
    ) {
        if !self.campaigns.has_room() {
            if self.campaigns.told.len() < self.partitions.len() {
                self.campaigns.told.push_back(Told {
                    at: now,
                    from,
                    incarnation,
                    message,
                });
            }
            return;
        }
        let Some(partition) = self.partitions.get_mut(&message.partition) else {
            return;
        };
        if partition.replica.means(from.id(), incarnation) {
            let turn = &mut self.shared.lend(now);
            partition.replica.step(turn, from, &message);
            self.touched.insert(message.partition);
            self.file_campaign(now, message.partition);
        }
    }

    /// How long the leader of a partition waits for whom it hands over to, in milliseconds.
    fn patience_ms(&mut self, id: PartitionId) -> Option<u64> {
        let partition = self.partitions.get_mut(&id)?;
        Some(u64::from(partition.replica.bounds().election_ms_max))
    }

    /// Those whose turn it is begin.
    pub(super) fn begin_campaigns(&mut self, now: Time) {
        while self.campaigns.has_room()
            && let Some(told) = self.campaigns.told.pop_front()
        {
            let patience_ms = self.patience_ms(told.message.partition);
            if patience_ms.is_some_and(|ms| now < told.at.plus_ms(ms)) {
                self.take_timeout_now(now, told.from, told.incarnation, told.message);
            }
        }
        while self.campaigns.has_room()
            && let Some(id) = self.campaigns.waiting.pop_front()
        {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if partition.filed_campaign != CampaignFiled::Waits {
                continue;
            }
            partition.filed_campaign = CampaignFiled::No;
            self.touched.insert(id);
            if partition.replica.would_campaign(now) {
                partition.replica.tick(&mut self.shared.lend(now));
                self.file_campaign(now, id);
            }
        }
    }

    /// Counts what a replica does.
    pub(super) fn file_campaign(&mut self, now: Time, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        let filed = match partition.filed_campaign {
            CampaignFiled::Waits if partition.replica.would_campaign(now) => CampaignFiled::Waits,
            _ if partition.replica.is_campaigning() => CampaignFiled::UnderWay,
            _ => CampaignFiled::No,
        };
        let before = core::mem::replace(&mut partition.filed_campaign, filed);
        self.campaigns.under_way -= usize::from(before == CampaignFiled::UnderWay);
        self.campaigns.under_way += usize::from(filed == CampaignFiled::UnderWay);
    }
}
