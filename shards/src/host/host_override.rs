//! `host-override.toml`: what the host policy is to allow, by name, until a date, for a reason.
//!
//! ```toml
//! [[allow]]
//! clause = "network_file_system"
//! until = 2027-03-31             # the last day, UTC; at most 366 days ahead
//! reason = "filer with battery-backed log; exports are sync"
//! ```

use std::path::{Path, PathBuf};

use toml::value::Date;
use toml::{Table, Value};

use super::files;
use super::policy::Clause;

pub(super) const OVERRIDE_FILE: &str = "host-override.toml";
const BYTES_MAX: u64 = 16 * 1024;
/// The farthest an override may reach, in days.
pub const OVERRIDE_DAYS_MAX: i64 = 366;
const SECONDS_A_DAY: u64 = 86_400;
const KEYS: [&str; 3] = ["clause", "until", "reason"];

/// An entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// What it allows.
    pub clause: Clause,
    /// The last day it does, as the file has it.
    pub until: String,
    /// Why.
    pub reason: String,
}

/// Why an override file was refused. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct OverrideError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what was expected.
    pub why: String,
}

/// The override file's path in a data directory.
#[must_use]
pub fn override_file(data: &Path) -> PathBuf {
    data.join(OVERRIDE_FILE)
}

/// Reads the overrides of a data directory; none if there is no file. `now_s`: seconds since 1970.
pub(super) fn read(data: &Path, now_s: u64) -> Result<Vec<Override>, OverrideError> {
    let path = override_file(data);
    let wrong = |why: String| OverrideError {
        path: path.clone(),
        why,
    };
    let bytes = match files::get(&path, BYTES_MAX) {
        Ok(None) => return Ok(Vec::new()),
        Ok(Some((bytes, _))) if bytes.len() as u64 > BYTES_MAX => {
            return Err(wrong(format!("longer than {BYTES_MAX} bytes")));
        }
        Ok(Some((bytes, _))) => bytes,
        Err(error) => return Err(wrong(error.to_string())),
    };
    let text = core::str::from_utf8(&bytes).map_err(|_| wrong("not UTF-8 text".to_owned()))?;
    parse_overrides(text, now_s).map_err(wrong)
}

/// The overrides in a file's text. `now_s`: seconds since 1970.
///
/// # Errors
/// What is wrong, with the number of the entry: an unknown key or clause, a clause that can't be allowed, a date that has
/// passed or lies too far ahead, no reason.
pub fn parse_overrides(text: &str, now_s: u64) -> Result<Vec<Override>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            1 + text.as_bytes()[..span.start.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
        });
        format!("line {line}: not TOML: {}", error.message())
    })?;
    if let Some(key) = table.keys().find(|key| *key != "allow") {
        return Err(format!("unknown key `{key}`; expected [[allow]] entries"));
    }
    let entries = match table.get("allow") {
        None => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err("`allow` is no list; write [[allow]]".to_owned()),
    };
    let today = i64::try_from(now_s / SECONDS_A_DAY).unwrap_or(i64::MAX);
    entries
        .iter()
        .zip(1..)
        .map(|(entry, number): (&Value, u32)| {
            parse_entry(entry, today).map_err(|why| format!("entry {number}: {why}"))
        })
        .collect()
}

fn parse_entry(entry: &Value, today: i64) -> Result<Override, String> {
    let table = entry.as_table().ok_or("not a table; write [[allow]]")?;
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!(
            "unknown key `{key}`; expected clause, until, reason"
        ));
    }
    let text = |key: &str| {
        let text = table.get(key).and_then(Value::as_str).map(str::trim);
        text.filter(|text| !text.is_empty())
            .ok_or_else(|| format!("`{key}` is missing or no text"))
    };
    let name = text("clause")?;
    let clause = Clause::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Clause::ALL.iter().map(|clause| clause.name()).collect();
        format!(
            "no clause is named `{name}`; there are {}",
            known.join(", ")
        )
    })?;
    if clause == Clause::ReadOnly {
        return Err("read_only can't be allowed: nothing can be written there".to_owned());
    }
    let reason = text("reason")?.to_owned();
    let until = table
        .get("until")
        .and_then(Value::as_datetime)
        .filter(|at| at.time.is_none() && at.offset.is_none())
        .and_then(|at| at.date)
        .ok_or("`until` is missing or no date; expected a day like 2027-03-31")?;
    let last = days_since_1970(until);
    if last < today {
        return Err(format!(
            "{name} was allowed until {until}, which has passed; judge it anew, and renew or remove the entry"
        ));
    }
    if last - today > OVERRIDE_DAYS_MAX {
        return Err(format!(
            "{name}: {until} lies more than {OVERRIDE_DAYS_MAX} days ahead; an override must expire"
        ));
    }
    Ok(Override {
        clause,
        until: until.to_string(),
        reason,
    })
}

/// Days from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
fn days_since_1970(date: Date) -> i64 {
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
