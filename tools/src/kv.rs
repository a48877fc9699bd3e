//! The key-value machine that `clustor serve` runs in every partition, and the bytes of its commands.
//!
//! A command is tag, key length (u32, little-endian), key, value: tag 1 puts, tag 2 deletes (no value). A query is a key.
//! Both are answered by the key's version (u64, little-endian: how often it was put since it was last absent, after the
//! command; 0 if it is absent), then 1 and the value (a command's: the former one), or 0 where there is none.

use std::collections::BTreeMap;

use clustor_engine::machine::{Applied, Batch, Effects, MachineError, StateMachine};

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// A command for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvCommand<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> KvCommand<'a> {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (tag, key, value) = match self {
            Self::Put { key, value } => (TAG_PUT, *key, *value),
            Self::Delete { key } => (TAG_DELETE, *key, &[][..]),
        };
        let mut bytes = Vec::with_capacity(5 + key.len() + value.len());
        bytes.push(tag);
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        bytes
    }

    /// Reads a command; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        match *tag {
            TAG_PUT => Some(Self::Put { key, value }),
            TAG_DELETE if value.is_empty() => Some(Self::Delete { key }),
            _ => None,
        }
    }
}

/// What the machine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvAnswer<'a> {
    /// How often the key was put since it was last absent; 0 if it is absent.
    pub version: u64,
    /// To a query, the value; to a command, the former one.
    pub value: Option<&'a [u8]>,
}

impl<'a> KvAnswer<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.to_le_bytes());
        out.push(u8::from(self.value.is_some()));
        out.extend_from_slice(self.value.unwrap_or_default());
    }

    /// Reads an answer; `None` for anything else, also for the empty answer to a repeated command.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<8>()?;
        let value = match rest.split_first()? {
            (0, []) => None,
            (1, value) => Some(value),
            _ => return None,
        };
        Some(Self {
            version: u64::from_le_bytes(*version),
            value,
        })
    }
}

#[derive(Debug)]
struct Stored {
    version: u64,
    value: Vec<u8>,
}

/// The machine: a map in memory, rebuilt from the log at each start.
#[derive(Debug, Default)]
pub struct KvMachine {
    map: BTreeMap<Vec<u8>, Stored>,
}

impl StateMachine for KvMachine {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let (version, former) = match KvCommand::decode(item.command) {
                Some(KvCommand::Put { key, value }) => {
                    let before = self.map.remove(key);
                    let version = before.as_ref().map_or(0, |stored| stored.version) + 1;
                    let value = value.to_vec();
                    self.map.insert(key.to_vec(), Stored { version, value });
                    (version, before)
                }
                Some(KvCommand::Delete { key }) => (0, self.map.remove(key)),
                // Not ours to judge: it is in the log, and changes nothing.
                None => (0, None),
            };
            let answer = KvAnswer {
                version,
                value: former.as_ref().map(|stored| stored.value.as_slice()),
            };
            out.reply_with(item.index, |reply| answer.write(reply));
        }
        Applied::Ack
    }

    fn query(&self, request: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError> {
        let stored = self.map.get(request);
        let answer = KvAnswer {
            version: stored.map_or(0, |stored| stored.version),
            value: stored.map(|stored| stored.value.as_slice()),
        };
        answer.write(reply);
        Ok(())
    }
}
