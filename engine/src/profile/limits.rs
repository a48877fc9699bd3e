//! The table of tunables: name, limits, meaning; everything else about a profile follows from it.

use serde::Deserialize;
use toml::Spanned;

use clustor_shards::log::{LogFormat, Mode};

use super::{ProfileError, start};

macro_rules! tunables {
    ($($(#[doc = $doc:literal])* $key:ident: $min:literal..=$max:literal,)*) => {
        /// Every number by which a node is tuned. Units stand at the end of the names' stems.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Profile {
            /// The shipped profile's name, or the file it was read from.
            pub name: String,
            /// How appends are made durable.
            pub mode: Mode,
            /// What the log's files are made of: the keys `sealing`, `merkle_leaves`, `hash`, `log_encoding` and
            /// `wal_codec`.
            pub format: LogFormat,
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nLimits: ", stringify!($min), " to ", stringify!($max), ".")]
                pub $key: u64,
            )*
        }

        /// A profile as its file has it: anything may be left out.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct RawProfile {
            pub(super) base: Option<Spanned<String>>,
            pub(super) mode: Option<Spanned<String>>,
            pub(super) sealing: Option<Spanned<String>>,
            pub(super) merkle_leaves: Option<bool>,
            pub(super) hash: Option<Spanned<String>>,
            pub(super) log_encoding: Option<Spanned<String>>,
            pub(super) wal_codec: Option<Spanned<String>>,
            $($key: Option<Spanned<u64>>,)*
        }

        impl RawProfile {
            /// The profile, if nothing is left out.
            pub(super) fn complete(
                &self,
                name: &str,
                mode: Mode,
                format: LogFormat,
            ) -> Option<Profile> {
                Some(Profile {
                    name: name.to_owned(),
                    mode,
                    format,
                    $($key: *self.$key.as_ref()?.get_ref(),)*
                })
            }

            /// The profile, with what is left out taken from `base`.
            pub(super) fn over(
                &self,
                base: Profile,
                mode: Option<Mode>,
                format: LogFormat,
                name: &str,
            ) -> Profile {
                Profile {
                    name: name.to_owned(),
                    mode: mode.unwrap_or(base.mode),
                    format,
                    $($key: self.$key.as_ref().map_or(base.$key, |value| *value.get_ref()),)*
                }
            }

            /// Where the value of `key` starts in the file, if it is there.
            pub(super) fn span_of(&self, key: &str) -> Option<usize> {
                match key {
                    $(stringify!($key) => self.$key.as_ref().map(start),)*
                    _ => None,
                }
            }
        }

        impl Profile {
            pub(super) fn check_limits(
                &self,
                file: &str,
                line: impl Fn(&str) -> usize,
            ) -> Result<(), ProfileError> {
                $(
                    if !($min..=$max).contains(&self.$key) {
                        return Err(ProfileError::Limit {
                            file: file.to_owned(),
                            line: line(stringify!($key)),
                            key: stringify!($key),
                            value: self.$key,
                            min: $min,
                            max: $max,
                        });
                    }
                )*
                Ok(())
            }
        }
    };
}

tunables! {
    /// Group mode: a batch closes at this many bytes, or as soon as the pipeline has room for it.
    batch_bytes_max: 4_096..=4_194_304,
    /// Size of a segment file, in bytes; rounded down to whole blocks of 4096.
    segment_bytes: 1_048_576..=4_294_967_296,
    /// Segment blocks for each ledger slot: 1 suits lone small appends, 8 large batches. The pair rolls when
    /// either file is full.
    segment_blocks_per_slot: 1..=32,
    /// Chains in flight on a shard.
    chains_in_flight_max: 1..=8,
    /// The greatest payload of an append, in bytes; with its headers at most 4 MiB.
    entry_bytes_max: 1_024..=4_194_240,
    /// Election timeouts are drawn from here on, in milliseconds.
    election_ms_min: 50..=10_000,
    /// Election timeouts are drawn up to here, in milliseconds.
    election_ms_max: 100..=20_000,
    /// A leader's heartbeat, in milliseconds.
    heartbeat_ms: 10..=1_000,
    /// A round trip over this makes a follower say high_rtt, in milliseconds.
    high_rtt_ms: 10..=5_000,
    /// Append batches in flight to each follower.
    append_batches_in_flight_max: 1..=64,
    /// Entries' bytes in one append batch; one entry may be longer.
    append_batch_bytes_max: 4_096..=4_194_304,
    /// Items in one batch handed to a machine.
    apply_entries_max: 1..=2_048,
    /// Idempotency keys remembered for each partition.
    idempotency_keys_max: 1_024..=1_000_000,
    /// Bytes of the idempotency table of each partition.
    idempotency_bytes_max: 65_536..=134_217_728,
    /// Requests that may wait for a shard, or for its answer.
    queue_requests_max: 16..=65_536,
    /// Payload bytes that may wait for a shard, or for its answer.
    queue_bytes_max: 65_536..=1_073_741_824,
    /// Bytes accepted by a leader and not yet durable on a quorum, for each partition.
    inflight_bytes_max: 65_536..=8_388_608,
    /// Bytes of entries kept in memory for followers and for applying, on each shard.
    cache_bytes_max: 1_048_576..=1_073_741_824,
}
