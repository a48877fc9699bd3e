//! The keys that say what the log's files are made of.

use clustor_shards::log::{Encoding, HashSuite, LogFormat, Suite};
use toml::Spanned;

use super::limits::RawProfile;

/// A value that names nothing, and what may stand there.
type Misnamed<'a> = (&'a Spanned<String>, &'static str);

/// `base` with what the file says.
pub(super) fn over(raw: &RawProfile, base: LogFormat) -> Result<LogFormat, Misnamed<'_>> {
    let encodings = "\"binary\" or \"json\"";
    Ok(LogFormat {
        log_encoding: named(&raw.log_encoding, Encoding::from_name, encodings)?
            .unwrap_or(base.log_encoding),
        ledger_encoding: named(&raw.wal_codec, Encoding::from_name, encodings)?
            .unwrap_or(base.ledger_encoding),
        sealing: named(
            &raw.sealing,
            Suite::from_name,
            "sealing = \"chacha20-poly1305\", \"aes-256-gcm\" or \"none\"",
        )?
        .unwrap_or(base.sealing),
        merkle_leaves: raw.merkle_leaves.unwrap_or(base.merkle_leaves),
        hash: named(
            &raw.hash,
            HashSuite::from_name,
            "hash = \"sha256\" or \"blake3\"",
        )?
        .unwrap_or(base.hash),
    })
}

fn named<'a, T>(
    value: &'a Option<Spanned<String>>,
    parse: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Result<Option<T>, Misnamed<'a>> {
    match value {
        None => Ok(None),
        Some(at) => parse(at.get_ref()).map(Some).ok_or((at, expected)),
    }
}
