//! Whether a partition may answer linearizable reads, from a lease or not.

use core::fmt;

use clustor_wire::ids::{LogIndex, PartitionId, Term};

/// What the control plane says of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFacts {
    /// Its word is fresh enough to rely on.
    pub is_fresh: bool,
    /// The leader has to wait for a proof of what was committed when its term began.
    pub strict_fallback: bool,
    /// What it holds to be durable, if it has published anything: term and index.
    pub proof: Option<(Term, LogIndex)>,
}

impl Default for ControlFacts {
    fn default() -> Self {
        Self {
            is_fresh: true,
            strict_fallback: false,
            proof: None,
        }
    }
}

/// The control plane as a data shard sees it: a copy that it was handed. It is asked in the turn, for every read: it answers
/// from memory.
pub trait ControlView {
    /// What it says of this partition.
    fn facts(&self, partition: PartitionId) -> ControlFacts;
}

/// No control plane beside the node's own configuration: a lone node, or a cluster under a static placement that its
/// operator signed. Always healthy.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelfGoverned;

impl ControlView for SelfGoverned {
    fn facts(&self, _: PartitionId) -> ControlFacts {
        ControlFacts::default()
    }
}

/// What the predicate looks at. The default is a healthy leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFacts {
    /// See [`ControlFacts::strict_fallback`].
    pub strict_fallback: bool,
    /// Readers see only what is durable on a quorum. Always so: nothing else is ever applied.
    pub durable_only: bool,
    /// See [`ControlFacts::is_fresh`].
    pub control_plane_fresh: bool,
    /// The log here holds the entry that the control plane proved durable.
    pub proof_matches: bool,
}

impl Default for ReadFacts {
    fn default() -> Self {
        Self {
            strict_fallback: false,
            durable_only: true,
            control_plane_fresh: true,
            proof_matches: true,
        }
    }
}

/// The clause that forbids linearizable reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadClause {
    /// See [`ReadFacts::strict_fallback`].
    StrictFallback,
    /// See [`ReadFacts::durable_only`].
    Visibility,
    /// See [`ReadFacts::control_plane_fresh`].
    ControlPlaneStale,
    /// See [`ReadFacts::proof_matches`].
    ProofDiffers,
}

impl ReadClause {
    /// Its name, as refusals show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StrictFallback => "strict_fallback",
            Self::Visibility => "visibility",
            Self::ControlPlaneStale => "control_plane_stale",
            Self::ProofDiffers => "proof_differs",
        }
    }
}

impl fmt::Display for ReadClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether linearizable reads are allowed.
///
/// # Errors
/// The first clause that forbids them, in the order in which [`ReadFacts`] lists them.
pub const fn linearizable_read(facts: &ReadFacts) -> Result<(), ReadClause> {
    if facts.strict_fallback {
        return Err(ReadClause::StrictFallback);
    }
    if !facts.durable_only {
        return Err(ReadClause::Visibility);
    }
    if !facts.control_plane_fresh {
        return Err(ReadClause::ControlPlaneStale);
    }
    if !facts.proof_matches {
        return Err(ReadClause::ProofDiffers);
    }
    Ok(())
}
