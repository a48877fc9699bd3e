//! Exit codes, and the error that carries one.

use clustor_shards::host::DataDirError;
use clustor_shards::log::RecoverError;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It failed, or was refused.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A file that was handed in (config, certificate, key, placement) is missing or not acceptable; nothing was
    /// written.
    BadInput = 3,
    /// Nobody knows whether it was done: it may still happen.
    Unknown = 4,
    /// A scrub found damage, and nothing is lost: the other copy is whole.
    Restorable = 10,
    /// A scrub found content lost whose identity is known.
    ContentMissing = 11,
    /// A scrub found damage for which a start keeps the shard silent.
    Quarantine = 12,
    /// An inspection showed everything, and something of it is damaged.
    Damaged = 13,
}

/// What `--help` says of exit codes.
pub const EXIT_HELP: &str = "\
Exit codes:
  0  done
  1  failed, or refused
  2  the command line makes no sense
  3  a file handed in (config, certificate, key, placement) is missing or not acceptable; nothing was written
  4  unknown: an append, or a change of members, may have happened or still happen; what to do is printed
  10 to 13  damage was found, by `scrub` and `inspect` only: their own --help says which";

/// Why a command ends otherwise than [`Exit::Done`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// The code.
    pub exit: Exit,
    /// What, where, why, what to do.
    pub message: String,
}

impl CommandError {
    /// A failure or refusal.
    #[must_use]
    pub fn failed(why: impl ToString) -> Self {
        Self {
            exit: Exit::Failed,
            message: why.to_string(),
        }
    }

    /// A file that is missing or not acceptable.
    #[must_use]
    pub fn bad_input(why: impl ToString) -> Self {
        Self {
            exit: Exit::BadInput,
            message: why.to_string(),
        }
    }

    /// A data directory that is looked at from outside: what can't be read says nothing of whose it is.
    #[must_use]
    pub fn of_directory(error: DataDirError) -> Self {
        match error {
            DataDirError::Io { .. } | DataDirError::Denied { .. } | DataDirError::InUse { .. } => {
                Self::failed(error)
            }
            _ => Self::bad_input(error),
        }
    }

    /// A shard's log that can't be told of: it is another's, or not for this key or build; or it can't be read.
    #[must_use]
    pub fn of_log(error: RecoverError) -> Self {
        match error {
            RecoverError::Disk(_) | RecoverError::Passing(_) | RecoverError::SelfTest(_) => {
                Self::failed(error)
            }
            _ => Self::bad_input(error),
        }
    }

    /// Something of which nobody knows whether it was done.
    #[must_use]
    pub fn unknown(why: impl ToString) -> Self {
        Self {
            exit: Exit::Unknown,
            message: why.to_string(),
        }
    }

    /// Arguments that don't go together.
    #[must_use]
    pub fn usage(why: impl ToString) -> Self {
        Self {
            exit: Exit::Usage,
            message: why.to_string(),
        }
    }
}
