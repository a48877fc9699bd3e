//! Questions about the members of a partition, and changes of them.

use clustor_shards::turn::Time;
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{PartitionMembers, Refusal};

use super::ShardCore;
use super::inward::log_refusal;
use crate::raft::configuration::CONFIGURATION_BYTES_MAX;
use crate::request::MembersRequest;

impl ShardCore {
    /// Answers a question about the members of a partition, or begins what it asks for.
    pub(super) fn members(
        &mut self,
        now: Time,
        stopping: bool,
        id: PartitionId,
        asked: &MembersRequest,
    ) -> Result<PartitionMembers, Refusal> {
        let not_here = self.not_here(id);
        if *asked != MembersRequest::Show {
            self.admit_any(stopping)?;
            self.shared
                .log
                .admit(CONFIGURATION_BYTES_MAX)
                .map_err(|refused| log_refusal(&refused))?;
        }
        let partition = self.partitions.get_mut(&id).ok_or(not_here)?;
        partition.members(&mut self.shared.lend(now), asked)?;
        self.touched.insert(id);
        Ok(partition.show_members(now))
    }
}
