//! `clustor member replace`: a node whose disk is gone gets its place back, in one partition or in all of its own.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use clustor_engine::client::Client;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};
use clustor_wire::message::{
    MemberStanding, MemberStatus, MembersChange, MembersVerb, PartitionMembers,
};

use super::asking::{Asking, Failure, LOOK_EVERY};
use super::everywhere::{Became, Tally};
use super::{Reach, Whom};

/// A voter that answers for so long is on the disk that the others know: of one that was stopped a moment ago, or that came
/// back on another disk, the leader hears nothing. Well above the election timeouts of the shipped profiles.
const WATCHED_FOR: Duration = Duration::from_secs(5);

/// What a node was, and is to be again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Former {
    /// It voted.
    Voter,
    /// It got the log, and was to be promoted some time.
    Learner,
    /// It got the log, and was never to vote.
    Observer,
}

impl Former {
    const fn word(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Observer => "observer",
        }
    }

    const fn of(member: &MemberStatus, change: MembersChange) -> Option<Self> {
        Some(match member.standing {
            MemberStanding::Voter | MemberStanding::Joining => Self::Voter,
            MemberStanding::Leaving if matches!(change, MembersChange::Joint { .. }) => Self::Voter,
            // It has left.
            MemberStanding::Leaving => return None,
            MemberStanding::Learner => Self::Learner,
            MemberStanding::Observer => Self::Observer,
        })
    }
}

/// How a partition stands after the first half.
enum Half<'a> {
    /// The node is no member.
    NoMember,
    /// It votes, and answers on the disk that the others know.
    Stands,
    /// It gets the log, anew.
    Added(Replacing<'a>),
}

/// One partition in which the node gets the log, and is to be what it was.
struct Replacing<'a> {
    asking: Asking<'a>,
    former: Former,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Replace<'a> {
    pub client: &'a Client,
    pub reach: &'a Reach,
    pub whom: Whom,
    /// What the node was, where an earlier command was interrupted behind its removal.
    pub former: Option<Former>,
    /// When the command began.
    pub since: Instant,
}

impl<'a> Replace<'a> {
    /// One partition.
    ///
    /// # Errors
    /// The node is no member; refused, or begun and not over in time.
    pub fn one(&self, partition: u128) -> Result<(), Failure> {
        match self.add(partition)? {
            Half::NoMember => Err(Failure::not_changed(
                PartitionId(partition),
                format!(
                    "node {} is no member: `clustor member add` makes it one; if an earlier `replace` has removed it, say what \
                     it was with --as",
                    self.node()
                ),
            )),
            Half::Stands => Ok(()),
            Half::Added(replacing) => replacing.finish(),
        }
    }

    /// All that the node is a member of, whatever becomes of one of them: it is removed and added in each first, then each waits
    /// for it.
    ///
    /// # Errors
    /// Some were not changed, or it is not known; or the node belongs to none.
    pub fn all(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let partitions = self.client.placement().partitions().keys();
        let halves: Vec<_> = partitions
            .map(|partition| (*partition, self.add(partition.get())))
            .collect();
        let until = Instant::now() + self.reach.timeout();
        let mut tally = Tally::new(self.reach, self.whom);
        for (partition, half) in halves {
            let became = match half {
                Ok(Half::NoMember) => Became::NoMember,
                Ok(Half::Stands) => Became::Done("stands", "answers as the voter that it is"),
                Ok(Half::Added(mut replacing)) => {
                    replacing.asking.until = until;
                    match replacing.finish() {
                        Ok(()) => Became::Done("replaced", replacing.former.is_again()),
                        Err(failure) => Became::No(failure),
                    }
                }
                Err(failure) => Became::No(failure),
            };
            tally.note(partition, &became, out)?;
        }
        tally.end(out)
    }

    fn node(&self) -> NodeId {
        NodeId(self.whom.node.unwrap_or_default())
    }

    /// Removes the node and adds it again, as far as that is not done.
    fn add(&self, partition: u128) -> Result<Half<'a>, Failure> {
        let node = self.node();
        let nobody = Whom {
            node: None,
            ..self.whom
        };
        let mut asking = Asking::new(self.client, self.reach, partition, nobody)?;
        let members = asking.show()?;
        let here = members.members.iter().find(|member| {
            member.node == node && self.whom.shard.is_none_or(|s| member.shard.get() == s)
        });
        let stands_as = here.and_then(|member| Former::of(member, members.change));
        let Some(former) = self.former.or(stands_as) else {
            return Ok(Half::NoMember);
        };
        let placed = || asking.placed(node, self.whom.shard);
        let shard = here.map(|member| member.shard).or_else(placed);
        asking.peer = PeerId {
            node,
            shard: shard.unwrap_or(ShardId(0)),
        };
        let replacing = Replacing { asking, former };
        if former == Former::Voter && replacing.stands(self.since, &members)? {
            replacing.say("answers as the voter that it is: there is nothing to replace (to change its disk, stop it first)");
            return Ok(Half::Stands);
        }
        // A learner that was a voter was removed and added by an earlier command.
        let was_added = stands_as == Some(Former::Learner) && former == Former::Voter;
        if stands_as.is_some() && !was_added {
            let removed = replacing.asking.take(MembersVerb::Remove);
            removed.map_err(|failure| replacing.interrupted(failure))?;
            replacing.say("removed");
        }
        let (verb, told) = match former {
            Former::Observer => (MembersVerb::Observe, "gets the log, as an observer"),
            Former::Voter | Former::Learner => (MembersVerb::Add, "gets the log, as a learner"),
        };
        // Where it is added already, it is told where it listens.
        let added = replacing.asking.take(verb);
        added.map_err(|failure| replacing.interrupted(failure.after("the node is removed")))?;
        replacing.say(told);
        Ok(Half::Added(replacing))
    }
}

impl Former {
    const fn is_again(self) -> &'static str {
        match self {
            Self::Voter => "votes again",
            Self::Learner => "gets the log again, as a learner",
            Self::Observer => "gets the log again, as an observer",
        }
    }
}

impl Replacing<'_> {
    /// Whether it is a voter that answers, all the time from `since` for [`WATCHED_FOR`].
    fn stands(&self, since: Instant, members: &PartitionMembers) -> Result<bool, Failure> {
        let answers = |members: &PartitionMembers| {
            let me = self.asking.me(members);
            let here = me.is_some_and(|me| me.standing == MemberStanding::Voter && me.answers);
            here && members.change == MembersChange::None
        };
        let mut stands = answers(members);
        while stands && since.elapsed() < WATCHED_FOR {
            std::thread::sleep(LOOK_EVERY);
            stands = answers(&self.asking.show()?);
        }
        Ok(stands)
    }

    /// Has it vote, if it did.
    fn finish(&self) -> Result<(), Failure> {
        if self.former != Former::Voter {
            return Ok(());
        }
        let promoted = self.asking.take(MembersVerb::Promote);
        promoted.map_err(|failure| {
            let added = "the node is removed, and gets the log as a learner";
            self.interrupted(failure.after(added))
        })?;
        self.say("votes");
        Ok(())
    }

    /// What to repeat, if it is not known that nothing was done.
    fn interrupted(&self, failure: Failure) -> Failure {
        if !failure.is_unknown() {
            return failure;
        }
        let former = self.former.word();
        failure.with_advice(&format!(
            "it was a {former}: `clustor member replace` for this partition with --as {former} goes on from there"
        ))
    }

    fn say(&self, what: &str) {
        eprintln!(
            "partition {}: node {}: {what}",
            self.asking.partition, self.asking.peer.node
        );
    }
}
