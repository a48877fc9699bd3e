//! Little-endian integers in and out of byte strings: the one way fixed layouts are written here.

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, Term};

/// The greatest term, index, or number of a chain, pair or boot that is taken from a file: half of what the type holds.
/// No log comes near it, and what follows from a number below it by adding lengths can't overflow.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2;

/// Appends fixed-width fields to a byte vector.
pub(super) struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
}

/// The bytes ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Truncated;

/// Takes fixed-width fields from the front of a byte string.
#[derive(Clone)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Truncated)?;
        self.0 = rest;
        Ok(head)
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*head)
    }
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub fn u128(&mut self) -> Result<u128, Truncated> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub fn partition(&mut self) -> Result<PartitionId, Truncated> {
        self.u128().map(PartitionId)
    }
    pub fn term(&mut self) -> Result<Term, Truncated> {
        self.u64().map(Term)
    }
    pub fn index(&mut self) -> Result<LogIndex, Truncated> {
        self.u64().map(LogIndex)
    }
    pub fn pair(&mut self) -> Result<PairNumber, Truncated> {
        self.u64().map(PairNumber)
    }
    pub fn chain(&mut self) -> Result<ChainNumber, Truncated> {
        self.u64().map(ChainNumber)
    }
}
