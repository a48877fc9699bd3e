//! A change of members that is asked for and followed until it is over, and what is said of one that is not.

use std::time::{Duration, Instant};

use clustor_engine::client::{Client, MembersError};
use clustor_engine::outcome::{Refusal, RefusalClause, describe};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};
use clustor_wire::message::{
    MemberStanding, MemberStatus, MembersChange, MembersVerb, PartitionMembers, Role,
};
use serde_json::{Value, json};

use super::super::{Reach, check_partition};
use super::Whom;
use super::view::under_way;
use crate::exit::{CommandError, Exit};

/// Between two looks at a change that is under way.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What had begun and is neither done nor under way any more was given up or taken back: it is asked for again after so long,
/// twice as long each time, as a hand-over of leadership holds up appends.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a change, or a question, has not the answer that was hoped for.
pub(super) struct Failure {
    pub error: CommandError,
    /// For programs, where the cluster was asked.
    said: Option<Said>,
}

struct Said {
    partition: PartitionId,
    outcome: &'static str,
    clause: Option<RefusalClause>,
    leader: Option<NodeId>,
    why: String,
}

impl Failure {
    /// Of a partition, in these words.
    fn of(partition: PartitionId, exit: Exit, outcome: &'static str, why: String) -> Self {
        let error = CommandError {
            exit,
            message: format!("partition {partition}: {outcome}: {why}"),
        };
        let said = Some(Said {
            partition,
            outcome,
            clause: None,
            leader: None,
            why,
        });
        Self { error, said }
    }

    /// Nothing was changed.
    pub fn not_changed(partition: PartitionId, why: String) -> Self {
        Self::of(partition, Exit::Failed, "not changed", why)
    }

    /// It has begun, or may have, and is not known to be over.
    pub fn unknown(partition: PartitionId, why: String) -> Self {
        Self::of(partition, Exit::Unknown, "unknown", why)
    }

    /// Nobody said who belongs to it.
    pub fn not_shown(partition: PartitionId, refusal: &Refusal) -> Self {
        Self::of(partition, Exit::Failed, "not shown", describe(refusal)).by(refusal)
    }

    fn by(mut self, refusal: &Refusal) -> Self {
        if let Some(said) = &mut self.said {
            said.clause = Some(refusal.clause);
            said.leader = refusal.leader;
        }
        self
    }

    /// The same with what is to be done about it.
    pub fn with_advice(mut self, advice: &str) -> Self {
        self.error.message = format!("{}; {advice}", self.error.message);
        if let Some(said) = &mut self.said {
            said.why = format!("{}; {advice}", said.why);
        }
        self
    }

    /// An earlier step than the one that failed is done: so it is begun, whatever was said of that one.
    pub fn after(self, done: &str) -> Self {
        let Self { error, said } = self;
        let Some(said) = said else {
            return Self { error, said: None };
        };
        let outcome = "unknown";
        let why = format!("begun and not over: {done}; then: {}", said.why);
        let partition = said.partition;
        Self {
            error: CommandError::unknown(format!("partition {partition}: {outcome}: {why}")),
            said: Some(Said {
                outcome,
                why,
                ..said
            }),
        }
    }

    /// Whether it is not known that nothing was changed.
    pub fn is_unknown(&self) -> bool {
        self.error.exit == Exit::Unknown
    }

    /// For programs; nothing where the cluster was not asked, or all was said before.
    pub fn object(&self) -> Option<Value> {
        self.said.as_ref().map(|said| {
            json!({
                "outcome": said.outcome,
                "partition": said.partition,
                "clause": said.clause.map(|clause| format!("{clause:?}")),
                "why": said.why,
                "leader": said.leader,
            })
        })
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self { error, said: None }
    }
}

/// A change that is asked for and followed until it is over.
pub(super) struct Asking<'a> {
    client: &'a Client,
    pub partition: PartitionId,
    pub peer: PeerId,
    pub address: String,
    pub until: Instant,
}

impl<'a> Asking<'a> {
    pub fn new(
        client: &'a Client,
        reach: &Reach,
        partition: u128,
        whom: Whom,
    ) -> Result<Self, Failure> {
        check_partition(client, partition)?;
        let mut asking = Self {
            client,
            partition: PartitionId::from(partition),
            peer: nobody(),
            address: whom.address.map(|at| at.to_string()).unwrap_or_default(),
            until: Instant::now() + reach.timeout(),
        };
        if let Some(node) = whom.node.map(NodeId) {
            asking.peer = asking.find(node, &whom)?;
        }
        Ok(asking)
    }

    /// Which replica is meant: as asked, as the placement has it, as the members are, or of a node that is new here.
    fn find(&self, node: NodeId, whom: &Whom) -> Result<PeerId, Failure> {
        if let Some(shard) = self.placed(node, whom.shard) {
            return Ok(PeerId { node, shard });
        }
        let known = self.show()?;
        let member = known.members.iter().find(|member| member.node == node);
        if let Some(member) = member {
            return Ok(PeerId {
                node,
                shard: member.shard,
            });
        }
        if whom.is_new {
            return Ok(PeerId {
                node,
                shard: ShardId(0),
            });
        }
        let neither = format!(
            "the placement gives node {node} no replica of partition {}, and it is no member",
            self.partition
        );
        let what_to_do = if whom.may_be_new {
            "say where it listens with --address"
        } else {
            "`clustor member show` says who is, and `clustor member add` makes it one"
        };
        Err(Failure::not_changed(
            self.partition,
            format!("{neither}: {what_to_do}"),
        ))
    }

    /// The shard of a node's replica as asked, or as the placement has it.
    pub fn placed(&self, node: NodeId, asked: Option<u16>) -> Option<ShardId> {
        let placed = || self.client.placement().shard_of(self.partition, node);
        asked.map(ShardId).or_else(placed)
    }

    /// Who belongs to the partition, as its leader knows.
    pub fn show(&self) -> Result<PartitionMembers, Failure> {
        let shown = self
            .ask(MembersVerb::Show)
            .map_err(|error| Failure::not_shown(self.partition, &error.refusal))?;
        if shown.role == Role::Leader {
            return Ok(shown);
        }
        let why = format!(
            "nobody leads in time; node {} answers: `clustor member show` says what it knows",
            shown.node
        );
        Err(Failure::not_changed(self.partition, why))
    }

    fn ask(&self, verb: MembersVerb) -> Result<PartitionMembers, MembersError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.max(LOOK_EVERY);
        self.client
            .members(self.partition, verb, self.peer, &self.address, Some(left))
            .wait()
    }

    /// Asks, again where it must wait or was given up, and looks until it is over.
    pub fn take(&self, verb: MembersVerb) -> Result<(), Failure> {
        let mut begun = false;
        let mut asked = verb;
        let mut again_after = AGAIN_AFTER;
        let mut again_at = Instant::now();
        loop {
            let answer = self.ask(asked);
            let now = Instant::now();
            let late = now >= self.until;
            match answer {
                Ok(members) => {
                    let leads = members.role == Role::Leader;
                    if leads && self.is_over(verb, &members) {
                        return Ok(());
                    }
                    if late {
                        return Err(self.not_over(verb, &members));
                    }
                    if asked == verb {
                        begun = true;
                        again_at = now + again_after;
                        again_after *= 2;
                    }
                    let is_given_up = leads && members.change == MembersChange::None;
                    // To ask again does no harm: what is done already is not done twice.
                    asked = if is_given_up && now >= again_at {
                        verb
                    } else {
                        MembersVerb::Show
                    };
                }
                Err(error) => {
                    begun |= error.may_have_begun;
                    if late || error.refusal.clause != RefusalClause::Busy {
                        return Err(self.refused(begun, &error));
                    }
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn not_over(&self, verb: MembersVerb, members: &PartitionMembers) -> Failure {
        let stands = match (verb, members.leader) {
            (MembersVerb::Transfer, Some(leader)) => format!(
                "node {leader} leads yet: node {} declined, or was not ready to take over",
                self.peer.node
            ),
            _ => under_way(members),
        };
        Failure::unknown(
            self.partition,
            format!("begun, and not over in time: {stands}; {LOOK}"),
        )
    }

    fn refused(&self, begun: bool, error: &MembersError) -> Failure {
        let refusal = &error.refusal;
        let why = describe(refusal);
        let failure = if !begun {
            Failure::not_changed(self.partition, why)
        } else if refusal.clause == RefusalClause::Unsupported && !error.may_have_begun {
            // A leader's word, which has no change under way: to that it would have said Busy.
            let why = format!("begun, taken back, and refused since then: {why}");
            Failure::not_changed(self.partition, why)
        } else {
            let why = format!("begun, or it may have, and nobody said how it ended: {why}; {LOOK}");
            Failure::unknown(self.partition, why)
        };
        failure.by(refusal)
    }

    /// The member that this is about, if it is one.
    pub fn me<'m>(&self, members: &'m PartitionMembers) -> Option<&'m MemberStatus> {
        let mut all = members.members.iter();
        all.find(|m| m.node == self.peer.node && m.shard == self.peer.shard)
    }

    fn is_over(&self, verb: MembersVerb, members: &PartitionMembers) -> bool {
        let me = self.me(members);
        let moved = self.address.is_empty() || me.is_some_and(|me| me.address == self.address);
        let me = me.map(|member| member.standing);
        let settled = members.change == MembersChange::None;
        match verb {
            MembersVerb::Show => true,
            MembersVerb::Add => settled && me.is_some() && moved,
            MembersVerb::Address => settled && moved,
            MembersVerb::Observe => settled && me == Some(MemberStanding::Observer),
            MembersVerb::Promote => settled && me == Some(MemberStanding::Voter),
            // One that left is told so for a moment.
            MembersVerb::Remove => settled && matches!(me, None | Some(MemberStanding::Leaving)),
            MembersVerb::RollBack => settled,
            MembersVerb::Transfer => members.leader == Some(self.peer.node),
        }
    }
}

const LOOK: &str = "look with `clustor member show`, or repeat the command";

pub(super) const fn nobody() -> PeerId {
    PeerId {
        node: NodeId(0),
        shard: ShardId(0),
    }
}
