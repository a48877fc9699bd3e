//! What the process's environment says: it goes before the profile.

use clustor_shards::log::Encoding;

use super::EngineError;
use crate::profile::Profile;

/// Names the encoding of the log: `binary` or `json`.
pub const LOG_ENCODING_VARIABLE: &str = "CLUSTOR_LOG_ENCODING";
/// Names the encoding of the ledger and of checkpoints: `binary` or `json`.
pub const WAL_CODEC_VARIABLE: &str = "CLUSTOR_WAL_CODEC";

/// The profile, with the encodings that the environment names.
pub(super) fn apply(profile: Profile) -> Result<Profile, EngineError> {
    let log = named(LOG_ENCODING_VARIABLE)?;
    let ledger = named(WAL_CODEC_VARIABLE)?;
    if log.is_none() && ledger.is_none() {
        return Ok(profile);
    }
    let format = profile.format();
    Ok(profile.with_encodings(
        log.unwrap_or(format.log_encoding),
        ledger.unwrap_or(format.ledger_encoding),
    ))
}

fn named(variable: &'static str) -> Result<Option<Encoding>, EngineError> {
    let Some(value) = std::env::var_os(variable) else {
        return Ok(None);
    };
    match value.to_str().and_then(Encoding::from_name) {
        Some(encoding) => Ok(Some(encoding)),
        None => Err(EngineError::Variable { variable, value }),
    }
}
