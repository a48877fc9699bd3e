//! Identifiers as types: a term can't be passed for an index, nor a pair for a chain.
//!
//! Every id is a plain integer inside, ordered, hashable and cheap to copy. Ids that count something
//! ([`Term`], [`LogIndex`], [`PairNumber`], [`ChainNumber`]) start at 1 where 0 means
//! "none yet", and never wrap: 2^64 appends at ten million a second take 58,000 years.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The value 0: "none yet" for ids that count, the first of its kind for the others.
            pub const ZERO: Self = Self(0);

            /// The plain integer.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        /// In text, the number in decimal, as a string: readers that keep numbers in doubles lose nothing.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map(Self).map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

macro_rules! counting_id {
    ($(#[$doc:meta])* $name:ident) => {
        id!($(#[$doc])* $name(u64));

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The one before this; `ZERO` stays `ZERO`.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }
    };
}

id!(
    /// A cluster, drawn at random when its certificates are made. Peers of another cluster are refused.
    ClusterId(u128)
);
id!(
    /// A node of a cluster, given by its operator; the SPIFFE ID of its certificate carries it.
    NodeId(u64)
);
id!(
    /// A data shard within one node, counted from 0. The control-plane shard has no number.
    ShardId(u16)
);
id!(
    /// A partition: one replicated log and its state machine.
    PartitionId(u128)
);
id!(
    /// What a replica's disk drew when it was formatted: an empty disk is a new replica.
    Incarnation(u64)
);
id!(
    /// The version of the derived data keys of a shard; grows with each rotation.
    DekEpoch(u32)
);
id!(
    /// The version of the integrity (MAC) keys of a shard; grows with each rotation.
    MacEpoch(u32)
);
counting_id!(
    /// A Raft term (Ongaro, "Consensus: Bridging Theory and Practice", 3.1).
    Term
);
counting_id!(
    /// A position in a partition's log. The first entry has index 1.
    LogIndex
);
counting_id!(
    /// A pair of segment and ledger file within one shard's directory; never reused.
    PairNumber
);
counting_id!(
    /// One durable chain: log write, flush, ledger write, flush. Never reused within a shard.
    ChainNumber
);
id!(
    /// One start of a shard's process; never reused. The upper half counts from 1; the lower is drawn at the start, so that no
    /// number comes twice where a disk goes back to what it was before a start that it has forgotten. 0 for none.
    BootNumber(u64)
);

impl BootNumber {
    /// The start after this one, of which `drawn` was drawn at random.
    #[must_use]
    pub const fn after(self, drawn: u32) -> Self {
        Self((((self.0 >> 32) + 1) << 32) | drawn as u64)
    }
}
