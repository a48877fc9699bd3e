//! `clustor append`, `clustor read`, `clustor status`, `clustor mode`, `clustor member`: one question to a running
//! cluster.
//!
//! All reach a cluster by its signed placement and a certificate, an operator's for `mode` and changes of members; the first two speak to the key-value machine
//! that `clustor serve` runs. Failures are of three kinds with an exit code each: refused, unknown, bad input.

mod append;
mod member;
mod mode;
mod read;
mod status;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use clustor_engine::client::{Client, ClientConfig};
use clustor_engine::security::{
    PLACEMENT_BYTES_MAX, Placement, PlacementKey, TlsFiles, TlsIdentity,
};
use serde_json::{Value, json};

pub use append::{AppendArgs, append};
pub use member::{MemberArgs, member};
pub use mode::{ModeArgs, mode};
pub use read::{ReadArgs, read};
pub use status::{StatusArgs, status};

use crate::certs::{DEFAULT_CLIENT, placement_files};
use crate::exit::CommandError;
use crate::files;

const KEY_FILE_BYTES_MAX: u64 = 4096;

/// How a cluster is reached.
#[derive(Debug, Args)]
pub struct Reach {
    /// Directory that `clustor certs` has filled: placement.toml, placement.pub, ca.pem, client-NAME.pem and .key.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Whose certificate in that directory.
    #[arg(long, default_value = DEFAULT_CLIENT, value_name = "NAME")]
    client: String,
    /// The signed placement, where it lies elsewhere.
    #[arg(long, value_name = "FILE")]
    placement: Option<PathBuf>,
    /// The public key that verifies it, where it lies elsewhere.
    #[arg(long, value_name = "FILE")]
    placement_key: Option<PathBuf>,
    /// How long to try, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Reach {
    /// The cluster of this directory, everything in its place.
    pub(crate) fn of(cluster: &Path, timeout_ms: u64) -> Self {
        Self {
            cluster: cluster.to_owned(),
            client: DEFAULT_CLIENT.to_owned(),
            placement: None,
            placement_key: None,
            timeout_ms,
            json: false,
        }
    }

    /// Loads what is needed and makes a client. Nothing is dialled yet.
    fn client(&self) -> Result<Client, CommandError> {
        self.connect(&format!("client-{}", self.client))
    }

    /// As [`Self::client`], with an operator's certificate.
    fn operator(&self, name: &str) -> Result<Client, CommandError> {
        self.connect(&format!("operator-{name}"))
    }

    /// As [`Self::client`], with the certificate and key of these names.
    pub(crate) fn connect(&self, certificate: &str) -> Result<Client, CommandError> {
        let [placement, public, _] = placement_files(&self.cluster);
        let placement = self.placement.clone().unwrap_or(placement);
        let public = self.placement_key.clone().unwrap_or(public);
        let in_file = |path: &Path, why: String| {
            CommandError::bad_input(format!("{}: {why}", path.display()))
        };
        let key = files::read_text(&public, KEY_FILE_BYTES_MAX).map_err(CommandError::bad_input)?;
        let key = PlacementKey::parse(&key).map_err(|e| in_file(&public, e.to_string()))?;
        let bytes =
            files::read(&placement, PLACEMENT_BYTES_MAX as u64).map_err(CommandError::bad_input)?;
        let placement =
            Placement::load(&bytes, &key).map_err(|e| in_file(&placement, e.to_string()))?;
        let identity = TlsFiles {
            ca: self.cluster.join("ca.pem"),
            certificate: self.cluster.join(format!("{certificate}.pem")),
            key: self.cluster.join(format!("{certificate}.key")),
        };
        let identity =
            TlsIdentity::load(&identity, SystemTime::now()).map_err(CommandError::bad_input)?;
        Client::connect(ClientConfig::new(placement, identity)).map_err(CommandError::bad_input)
    }

    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// A partition's number, refused where the placement has none such.
fn check_partition(client: &Client, partition: u128) -> Result<(), CommandError> {
    let known = client.placement().partitions();
    if known.contains_key(&partition.into()) {
        return Ok(());
    }
    let (Some((first, _)), Some((last, _))) = (known.first_key_value(), known.last_key_value())
    else {
        return Err(CommandError::failed("the placement names no partition"));
    };
    Err(CommandError::failed(format!(
        "the placement names no partition {partition}; it has {}, from {first} to {last}",
        known.len()
    )))
}

fn not_kv() -> CommandError {
    CommandError::failed(
        "the answer is not of the key-value machine: is it `clustor serve` that runs there?",
    )
}

/// A value for people: text as it is, anything else in hexadecimal.
fn shown(value: Option<&[u8]>) -> String {
    match value.map(|bytes| (bytes, core::str::from_utf8(bytes))) {
        None => "none".to_owned(),
        Some((_, Ok(text))) if !text.chars().any(char::is_control) => format!("\"{text}\""),
        Some((bytes, _)) => format!("0x{}", hex(bytes)),
    }
}

/// A value for programs: a string, or an object with its bytes in hexadecimal, or null.
fn value_json(value: Option<&[u8]>) -> Value {
    match value.map(|bytes| (bytes, core::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => json!(text),
        Some((bytes, Err(_))) => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
