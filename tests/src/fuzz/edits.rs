//! What a fuzzer's bytes do to a shard's files: a list of edits of 8 bytes and more.
//!
//! | byte | |
//! | --- | --- |
//! | 0 | which of the files, by its place in the directory |
//! | 1 | which block of it, counted from its start; from 0xf0 on from its end |
//! | 2 | what to do ([`Act`]), and with bit 7 set, to seal the block again, so that readers believe it |
//! | 3, 4 | where in the block, little-endian |
//! | 5 | how many bytes, or which bits |
//! | 6, 7 | another block, for what is copied |
//!
//! [`Act::Bytes`] is followed by the bytes.

/// What is done to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<'a> {
    /// Bits of one byte turn over.
    Flip(u8),
    /// A byte is set.
    Set(u8),
    /// Bytes are laid over it.
    Bytes(&'a [u8]),
    /// It is as if never written.
    Zero,
    /// The number in 8 bytes, little-endian, grows by so much, or shrinks.
    Add(i8),
    /// It becomes a copy of another block: file and block as in bytes 0 and 1.
    Copy(u8, u8),
    /// It can't be read.
    Unreadable,
    /// The file loses its name.
    LoseFile,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit<'a> {
    /// Which file.
    pub file: u8,
    /// Which block.
    pub block: u8,
    /// Where in the block.
    pub offset: u16,
    /// Whether the block is sealed again.
    pub reseal: bool,
    /// What is done.
    pub act: Act<'a>,
}

/// Bytes of an edit, without those that [`Act::Bytes`] lays over.
pub const EDIT_BYTES: usize = 8;

/// The edits in `bytes`; what is left at the end and is none is ignored.
pub fn edits(mut bytes: &[u8]) -> impl Iterator<Item = Edit<'_>> {
    core::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<EDIT_BYTES>()?;
        bytes = rest;
        let [file, block, what, low, high, amount, file_from, block_from] = *head;
        let act = match what & 7 {
            0 => Act::Flip(amount),
            1 => Act::Set(amount),
            2 => {
                let (over, rest) = rest.split_at(rest.len().min(usize::from(amount)));
                bytes = rest;
                Act::Bytes(over)
            }
            3 => Act::Zero,
            4 => Act::Add(amount as i8),
            5 => Act::Copy(file_from, block_from),
            6 => Act::Unreadable,
            _ => Act::LoseFile,
        };
        Some(Edit {
            file,
            block,
            offset: u16::from_le_bytes([low, high]),
            reseal: what & 0x80 != 0,
            act,
        })
    })
}
