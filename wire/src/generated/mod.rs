//! What `flatc` makes of `wire/schema`; written by `tools/gates/wire-codegen`, never by hand.
//!
//! flatc's accessors read through unchecked offsets. They are sound only on a buffer that its verifier has
//! passed, so nothing outside [`crate::message`] may touch them.

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    deprecated,
    mismatched_lifetime_syntaxes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
mod wire_generated;

pub(crate) use wire_generated::clustor::wire as fb;
