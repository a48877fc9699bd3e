//! The registry of error codes: one number for each way in which something that crossed a process boundary was
//! refused. A number is never given a second meaning and never reused; new ones take the next free number of
//! their range. The ranges: 1000-1089 wire, 1090-1099 vendors (never assigned here), 2000-2012 control plane and reads.

use core::fmt;

macro_rules! registry {
    ($($(#[doc = $meaning:literal])+ $name:ident = $number:literal,)*) => {
        /// An entry of the registry. `docs/specification.md`, "Error codes", lists them all.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $meaning])+ $name = $number,)*
        }

        impl ErrorCode {
            /// The whole registry, ascending by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as the registry spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it means, in one line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+).trim_ascii(),)*
                }
            }

            /// The entry with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

registry! {
    /// The stream or the message ended before the length it declared.
    BodyTooShort = 1001,
    /// A frame declares, or a message would need, a body over the limit.
    BodyTooLarge = 1002,
    /// A flag or field is set that this version does not know.
    UnknownField = 1003,
    /// A chunked list ended with a chunk missing.
    ChunkMissing = 1004,
    /// Two chunks of a chunked list cover the same element.
    ChunkOverlap = 1005,
    /// A frame's kind is none that this version knows.
    UnknownKind = 1006,
    /// A frame is of a protocol version that this one does not speak.
    VersionUnsupported = 1007,
    /// A frame's checksum does not match its bytes.
    ChecksumMismatch = 1008,
    /// A message's structure is damaged: an offset, a required field or a text is wrong.
    Malformed = 1009,
    /// A field holds a value that its type does not have.
    ValueUnknown = 1010,
    /// A list holds more elements than its limit.
    ListTooLong = 1011,
    /// The control plane is unavailable, and reads need it.
    NeededForReadIndex = 2000,
    /// The copy of the control plane's state has expired.
    CacheExpired = 2001,
    /// Reads from snapshots alone are unavailable.
    SnapshotOnlyUnavailable = 2011,
    /// The capability to read from followers was revoked.
    FollowerCapabilityRevoked = 2012,
}

impl ErrorCode {
    /// The number, as it is sent and logged.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}
