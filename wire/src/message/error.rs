//! Why a message could not be made or read.

use thiserror::Error;

use crate::error_code::ErrorCode;
use crate::frame::FrameError;

/// Why a message could not be made or read. Each has a code of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The bytes end before a message can.
    #[error(
        "{code}: {message}: {len} bytes, no message is that short: the sender is at fault, close the session",
        code = ErrorCode::BodyTooShort
    )]
    TooShort {
        /// The message.
        message: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// The structure is damaged.
    #[error(
        "{code}: {message}: {detail}: the sender is at fault, close the session",
        code = ErrorCode::Malformed
    )]
    Malformed {
        /// The message.
        message: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A field holds a value that its type does not have.
    #[error(
        "{code}: {field} is {value}, unknown to this version: the sender is newer or at fault, close the session",
        code = ErrorCode::ValueUnknown
    )]
    ValueUnknown {
        /// The field, with its table.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A list is longer than its limit.
    #[error(
        "{code}: {field} has {len} elements, the limit is {max}: send less at a time",
        code = ErrorCode::ListTooLong
    )]
    ListTooLong {
        /// The list, with its table.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// No frame can hold the message, or its frame could not be made.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl MessageError {
    /// The registry's entry.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooShort { .. } => ErrorCode::BodyTooShort,
            Self::Malformed { .. } => ErrorCode::Malformed,
            Self::ValueUnknown { .. } => ErrorCode::ValueUnknown,
            Self::ListTooLong { .. } => ErrorCode::ListTooLong,
            Self::Frame(error) => error.code(),
        }
    }
}
