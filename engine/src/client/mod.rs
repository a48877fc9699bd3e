//! The remote client: appends, reads and status over the network, for programs that embed no replica.
//!
//! - [`Machine`]: routing, retries and pipelining without I/O: events and time in, [`Effect`]s out, a seed for jitter
//! - [`Client`]: the adapter for plain threads. This part touches the world: one thread, non-blocking sockets, the
//!   monotonic clock, the system's randomness
//!
//! The machine relies on a carrier that dials when told, reports each connection's begin and end, and hands frames
//! over in order. It promises: every question gets exactly one answer, at its deadline at the latest; a retry of an
//! append carries the key and index of its first sending; [`Outcome::NotExecuted`](crate::outcome::Outcome) is
//! said only if no sending can have executed; an append without a key is never sent twice.
//!
//! Order: questions under way together may take effect in any order. Who needs an order waits for the answer.
//!
//! Bounds: [`ClientSettings`].

mod addresses;
mod config;
mod driver;
mod handle;
mod link;
mod loss;
mod machine;
mod pending;
mod question;
mod routes;
mod settings;
mod socket;
mod timers;

pub use clustor_wire::message::{
    DurabilityMode, MembersVerb, PartitionMembers, ProfileReload, ScrubStatus, ShardStatus,
};
pub use config::{ClientConfig, ClientError};
pub use handle::{AppendWith, Client};
pub use loss::Loss;
pub use machine::{Effect, Machine};
pub use pending::{CallError, MembersError, Pending, ReadAnswer};
pub use question::{Answer, Keying, PAYLOAD_BYTES_MAX, Question};
pub use settings::ClientSettings;
