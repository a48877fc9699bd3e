//! Whether a partition may be in group mode, where appends share chains.

use core::fmt;

use clustor_wire::ids::NodeId;

/// Chains that took longer than the profile's `slow_chain_ms` within [`SLOW_CHAINS_WINDOW_MS`], from which on group mode
/// is not allowed.
pub const SLOW_CHAINS_MAX: usize = 3;
/// The window in which slow chains are counted, in milliseconds.
pub const SLOW_CHAINS_WINDOW_MS: u64 = 60_000;
/// The number of the way of writing that forbids group mode: a helper thread with pwrite and fdatasync.
pub const IO_WRITER_BLOCKING: u8 = 2;

/// What the predicate looks at. The default is a healthy node that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFacts {
    /// The leader has not applied everything that earlier terms left, or the control plane has not published a proof of
    /// its commit.
    pub strict_fallback: bool,
    /// The control plane's word is fresh enough. A lone node, and a cluster under a static placement, are their own
    /// control plane: always.
    pub control_plane_fresh: bool,
    /// No downgrade is being sat out.
    pub backoff_over: bool,
    /// A voter that writes in Blocking mode, if there is one.
    pub blocking_voter: Option<NodeId>,
    /// Slow chains within the window on the leader's shard.
    pub slow_chains: usize,
    /// The shard or the replica is quarantined, or content is missing here.
    pub quarantined: bool,
}

impl Default for GroupFacts {
    fn default() -> Self {
        Self {
            strict_fallback: false,
            control_plane_fresh: true,
            backoff_over: true,
            blocking_voter: None,
            slow_chains: 0,
            quarantined: false,
        }
    }
}

/// The clause that forbids group mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupClause {
    /// See [`GroupFacts::strict_fallback`].
    StrictFallback,
    /// See [`GroupFacts::control_plane_fresh`].
    ControlPlaneStale,
    /// See [`GroupFacts::backoff_over`].
    Backoff,
    /// See [`GroupFacts::blocking_voter`].
    BlockingVoter(NodeId),
    /// See [`GroupFacts::slow_chains`].
    DeviceLatency(usize),
    /// See [`GroupFacts::quarantined`].
    Quarantine,
}

impl GroupClause {
    /// Its name, as status shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StrictFallback => "strict_fallback",
            Self::ControlPlaneStale => "control_plane_stale",
            Self::Backoff => "backoff",
            Self::BlockingVoter(_) => "blocking_voter",
            Self::DeviceLatency(_) => "device_latency",
            Self::Quarantine => "quarantine",
        }
    }
}

impl fmt::Display for GroupClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::BlockingVoter(node) => write!(f, " (node {node})"),
            Self::DeviceLatency(slow) => write!(f, " ({slow} slow chains in a minute)"),
            _ => Ok(()),
        }
    }
}

/// Whether group mode is allowed.
///
/// # Errors
/// The first clause that forbids it, in the order in which [`GroupFacts`] lists them.
pub const fn group_fsync(facts: &GroupFacts) -> Result<(), GroupClause> {
    if facts.strict_fallback {
        return Err(GroupClause::StrictFallback);
    }
    if !facts.control_plane_fresh {
        return Err(GroupClause::ControlPlaneStale);
    }
    if !facts.backoff_over {
        return Err(GroupClause::Backoff);
    }
    if let Some(node) = facts.blocking_voter {
        return Err(GroupClause::BlockingVoter(node));
    }
    if facts.slow_chains >= SLOW_CHAINS_MAX {
        return Err(GroupClause::DeviceLatency(facts.slow_chains));
    }
    if facts.quarantined {
        return Err(GroupClause::Quarantine);
    }
    Ok(())
}
