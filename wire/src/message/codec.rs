//! What the codecs of peer and client messages share: the builder and its reuse, the verifier and its limits.

use core::cell::RefCell;

use flatbuffers::{
    FlatBufferBuilder, Follow, Verifiable, VerifierOptions, WIPOffset, root_with_opts,
};

use super::{IO_WRITER_MODE_MAX, MessageError};
use crate::frame::{FRAME_BODY_BYTES_MAX, FrameError};
use crate::generated::fb;
use crate::ids::PartitionId;

/// A builder whose output lives as long as the thread's scratch.
pub(super) type Builder = FlatBufferBuilder<'static>;

/// A finished member of a union.
pub(super) type UnionOffset = WIPOffset<flatbuffers::UnionWIPOffset>;

/// Deepest nesting of tables: message, element of its list, member of the element's union.
const DEPTH_MAX: usize = 3;

/// Most bytes the verifier may visit. FlatBuffers lets many offsets lead to the same vector, which decoding then
/// copies each time; this bounds what it copies. Sound messages visit each byte of a vector once, each table with
/// its layout at most 100 bytes beyond its size, and there are at most 2 x 16,384 tables: far below twice the body.
const VISITED_BYTES_MAX: usize = 2 * FRAME_BODY_BYTES_MAX;

/// Shortest FlatBuffers message: the root's offset and an empty table.
const MESSAGE_BYTES_MIN: usize = 8;

/// A builder that grew beyond this is given back after use, in bytes.
const SCRATCH_BYTES_KEPT_MAX: usize = 1024 * 1024;

/// Working memory of a thread's encoding, reused.
#[derive(Default)]
pub(super) struct Scratch {
    pub builder: Builder,
    /// Offsets of a list's tables, which stand before the list.
    pub offsets: Vec<u32>,
}

std::thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Builds a message and appends it to `out`. `bytes` is the sum of its byte vectors and texts, judged first: the
/// builder must not even begin what cannot end well.
pub(super) fn encode<T>(
    out: &mut Vec<u8>,
    bytes: usize,
    build: impl FnOnce(&mut Scratch) -> WIPOffset<T>,
) -> Result<(), MessageError> {
    if bytes > FRAME_BODY_BYTES_MAX {
        return Err(FrameError::TooLarge { len: bytes }.into());
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.builder.reset();
        scratch.offsets.clear();
        let root = build(scratch);
        scratch.builder.finish_minimal(root);
        let data = scratch.builder.finished_data();
        let len = data.len();
        if len <= FRAME_BODY_BYTES_MAX {
            out.extend_from_slice(data);
        }
        if len > SCRATCH_BYTES_KEPT_MAX {
            *scratch = Scratch::default();
        }
        if len > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::TooLarge { len }.into());
        }
        Ok(())
    })
}

/// Verifies `bytes` as a message of at most `tables_max` tables.
pub(super) fn verified<'buf, T>(
    message: &'static str,
    bytes: &'buf [u8],
    tables_max: usize,
) -> Result<T, MessageError>
where
    T: 'buf + Follow<'buf, Inner = T> + Verifiable,
{
    if bytes.len() < MESSAGE_BYTES_MIN {
        let len = bytes.len();
        return Err(MessageError::TooShort { message, len });
    }
    if bytes.len() > FRAME_BODY_BYTES_MAX {
        return Err(FrameError::TooLarge { len: bytes.len() }.into());
    }
    let options = VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: tables_max,
        max_apparent_size: VISITED_BYTES_MAX,
        ignore_missing_null_terminator: false,
    };
    root_with_opts::<T>(&options, bytes).map_err(|error| malformed(message, &error.to_string()))
}

/// The first line of `detail`: the verifier's texts continue with a trace of positions.
pub(super) fn malformed(message: &'static str, detail: &str) -> MessageError {
    MessageError::Malformed {
        message,
        detail: detail.lines().next().unwrap_or_default().to_owned(),
    }
}

pub(super) fn check_list(field: &'static str, len: usize, max: usize) -> Result<(), MessageError> {
    if len > max {
        return Err(MessageError::ListTooLong { field, len, max });
    }
    Ok(())
}

pub(super) fn check_io_writer_mode(field: &'static str, mode: u8) -> Result<u8, MessageError> {
    if mode > IO_WRITER_MODE_MAX {
        let value = mode.into();
        return Err(MessageError::ValueUnknown { field, value });
    }
    Ok(mode)
}

pub(super) fn id128(value: u128) -> fb::Id128 {
    fb::Id128::new(value as u64, (value >> 64) as u64)
}

pub(super) fn u128_of(id: &fb::Id128) -> u128 {
    (u128::from(id.high()) << 64) | u128::from(id.low())
}

pub(super) fn partition_of(id: &fb::Id128) -> PartitionId {
    PartitionId(u128_of(id))
}
