//! The files of a data directory beside the pairs' content: what each is, and whether it can be used.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::disk::{FileId, FileKind};
use clustor_shards::host::{FileKeyProvider, Identity, parse_overrides};
use clustor_shards::log::KeyProvider as _;
use clustor_wire::ids::ShardId;
use serde_json::{Value, json};

use crate::files;

/// A file that is read whole is at most this long.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// One file.
pub(super) struct Seen {
    name: String,
    bytes: u64,
    mode: u32,
    what: String,
    /// What is wrong with it.
    fault: Option<String>,
}

impl Seen {
    pub(super) fn is_damaged(&self) -> bool {
        self.fault.is_some()
    }

    /// One line of a list.
    pub(super) fn line(&self) -> String {
        let Self {
            name,
            bytes,
            mode,
            what,
            ..
        } = self;
        let wrong = self
            .fault
            .as_ref()
            .map_or(String::new(), |why| format!("\n    BAD: {why}"));
        format!("  {name:<28} {bytes:>11}  {mode:04o}  {what}{wrong}")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "bytes": self.bytes,
            "mode": format!("{:04o}", self.mode),
            "what": self.what,
            "fault": self.fault,
        })
    }
}

/// What a file says and what is wrong with it.
type Said = (String, Option<String>);

/// The files of a data directory; `identity` as it was read, `key` where the key is kept elsewhere.
pub(super) fn of_node(data: &Path, identity: Result<Identity, String>) -> io::Result<Vec<Seen>> {
    list(data, "", |path, name, metadata| match name {
        "identity" => Some(match &identity {
            Ok(identity) => (identity.to_string(), None),
            Err(why) => ("whose directory it is".to_owned(), Some(why.clone())),
        }),
        "kek" => {
            let wrong = FileKeyProvider::new(path).kek().err();
            Some((
                "the key, which is never shown".to_owned(),
                wrong.map(|wrong| wrong.to_string()),
            ))
        }
        "lock" => Some(("locked while a node uses the directory".to_owned(), None)),
        _ if name.ends_with(".begun") => Some(("that the shard has a log".to_owned(), None)),
        "host-override.toml" => Some(host_override(path)),
        "profile-state.json" => Some(profile_state(path)),
        _ if name.ends_with(".tmp") => Some(("of a write that was cut short".to_owned(), None)),
        _ if metadata.is_dir() => None,
        _ => Some(("not the node's: left alone".to_owned(), None)),
    })
}

/// The files of one shard.
pub(super) fn of_shard(data: &Path, shard: ShardId) -> io::Result<Vec<Seen>> {
    let home = data.join(format!("shard-{shard}"));
    let mut seen = list(&home, "", |path, name, metadata| match name {
        "lock" => Some(shard_lock(path)),
        "boot_record.json" => Some(("what the last start found".to_owned(), None)),
        _ if metadata.is_dir() => None,
        _ => Some(("not the shard's: left alone".to_owned(), None)),
    })?;
    seen.extend(list(&home.join("wal"), "wal/", |_, name, metadata| {
        let what = wal_file(name);
        let is_whole = what.is_none() || metadata.len().is_multiple_of(BLOCK_BYTES as u64);
        let wrong = (!is_whole).then(|| format!("not of whole blocks of {BLOCK_BYTES} bytes"));
        Some((
            what.unwrap_or_else(|| "not the shard's: left alone".to_owned()),
            wrong,
        ))
    })?);
    Ok(seen)
}

fn list(
    directory: &Path,
    prefix: &str,
    judge: impl Fn(&Path, &str, &Metadata) -> Option<Said>,
) -> io::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A running node removes and renames files meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((what, fault)) = judge(&entry.path(), &name, &metadata) {
            seen.push(Seen {
                name: format!("{prefix}{name}"),
                bytes: metadata.len(),
                mode: metadata.permissions().mode() & 0o7777,
                what,
                fault,
            });
        }
    }
    seen.sort_by(|one, other| {
        one.name
            .len()
            .cmp(&other.name.len())
            .then(one.name.cmp(&other.name))
    });
    Ok(seen)
}

/// What a file of `wal` is, by its name; `None` if it is not the shard's.
fn wal_file(name: &str) -> Option<String> {
    let parts = [
        (".new", ", being made: removed at the next start"),
        (".gone", ", removed: its space is being given back"),
        (".kept", ", removed, and kept to make a later one of"),
    ];
    let (stem, why) = parts
        .into_iter()
        .find_map(|(end, why)| Some((name.strip_suffix(end)?, why)))
        .unwrap_or((name, ""));
    let file = FileId::from_name(stem)?;
    let kind = match file.kind {
        FileKind::Segment => "segment",
        FileKind::Ledger => "ledger",
    };
    Some(format!("{kind} of pair {}{why}", file.pair))
}

fn shard_lock(path: &Path) -> Said {
    let what = |pid: &str| format!("the last process was {pid}");
    match files::read_text(path, TEXT_BYTES_MAX) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(pid) => (what(&pid.to_string()), None),
            Err(_) => (
                what("?"),
                Some("expected a process id and a newline".to_owned()),
            ),
        },
        Err(error) => (what("?"), Some(error.to_string())),
    }
}

fn host_override(path: &Path) -> Said {
    let what = "what the host policy is to allow".to_owned();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_s = now.map_or(0, |since| since.as_secs());
    let text = files::read_text(path, TEXT_BYTES_MAX).map_err(|error| error.to_string());
    match text.and_then(|text| parse_overrides(&text, now_s)) {
        Ok(allowed) => {
            let allowed = allowed.iter().map(|entry| {
                format!(
                    "{} until {} ({})",
                    entry.clause.name(),
                    entry.until,
                    entry.reason
                )
            });
            (
                format!("allows {}", allowed.collect::<Vec<_>>().join(", ")),
                None,
            )
        }
        Err(why) => (what, Some(why)),
    }
}

fn profile_state(path: &Path) -> Said {
    let what = "how the profile was read last".to_owned();
    let text = files::read_text(path, TEXT_BYTES_MAX).map_err(|error| error.to_string());
    let state = text.and_then(|text| {
        serde_json::from_str::<Value>(&text).map_err(|error| format!("not JSON: {error}"))
    });
    match state {
        Ok(state) => {
            let list = |key: &str| state[key].as_array().map_or(0, Vec::len);
            let text = format!(
                "process {}, reading {} of {}: {}, {} knobs live, {} at a restart",
                state["pid"],
                state["readings"],
                state["profile"],
                if state["obeyed"] == true {
                    "obeyed"
                } else {
                    "NOT obeyed"
                },
                list("live"),
                list("at_restart")
            );
            (text, None)
        }
        Err(why) => (what, Some(why)),
    }
}
