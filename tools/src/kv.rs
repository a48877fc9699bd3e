//! The key-value machine that `clustor serve` runs in every partition, and the bytes of its commands.
//!
//! A command is tag, key length (u32, little-endian), key, value: tag 1 puts, tag 2 deletes (no value). It is answered
//! by 1 and the former value, or 0 where there was none. A query is a key; its answer has the same form.

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

/// Reads an answer: the value, or that there is none; an error for anything else.
///
/// # Errors
/// The bytes are no answer of this machine.
pub fn decode_answer(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    match bytes.split_first() {
        Some((0, [])) => Ok(None),
        Some((1, value)) => Ok(Some(value)),
        _ => Err("not an answer of the key-value machine".to_owned()),
    }
}

fn answer(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(value.unwrap_or_default());
}

/// The machine: a map in memory, rebuilt from the log at each start.
#[derive(Debug, Default)]
pub struct KvMachine {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl StateMachine for KvMachine {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let former = match KvCommand::decode(item.command) {
                Some(KvCommand::Put { key, value }) => {
                    self.map.insert(key.to_vec(), value.to_vec())
                }
                Some(KvCommand::Delete { key }) => self.map.remove(key),
                // Not ours to judge: it is in the log, and changes nothing.
                None => None,
            };
            out.reply_with(item.index, |reply| answer(reply, former.as_deref()));
        }
        Applied::Ack
    }

    fn query(&self, request: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError> {
        answer(reply, self.map.get(request).map(Vec::as_slice));
        Ok(())
    }
}
