//! `clustor host`: what lies under a data directory, and whether an acknowledgement can be kept there.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use clustor_shards::host::{Finding, HostError, Judgement, Outcome, override_file};
use serde_json::{Value, json};

use crate::exit::{CommandError, EXIT_HELP};
use crate::json;

const EXAMPLES: &str = "\
Examples:
  clustor host /var/lib/clustor        the file system, its options, the device, and what follows
  clustor host data --json | jq -r .outcome

The same judgement is made by a node before it writes anything. It is one of
  allow       runs; what was found is a warning
  quarantine  runs and stays silent: its replicas neither vote nor campaign nor acknowledge
  reject      does not run
A clause is allowed by name, until a date and for a reason, in host-override.toml in the data directory:
  [[allow]]
  clause = \"network_file_system\"
  until = 2027-03-31
  reason = \"filer with battery-backed log; exports are sync\"

Exit code 0 if a node would run and speak there, 1 if not, 3 if the override file is not acceptable.";

/// Judges the file system and device under a directory as a node would, and writes nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct HostArgs {
    /// The data directory; it need not exist yet.
    data: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A node would not run and speak there, or the override file is not acceptable.
pub fn run(args: &HostArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let judgement = judge(&args.data)?;
    let written = if args.json {
        json::line(out, &judgement_json(&judgement))
    } else {
        print(&judgement, out)
    };
    written.map_err(CommandError::failed)?;
    match judgement.outcome() {
        Outcome::Allow => Ok(()),
        outcome => Err(CommandError::failed(format!(
            "{}: {outcome}; where it must be, allow the clause in {}",
            args.data.display(),
            override_file(&args.data).display()
        ))),
    }
}

/// Judges a data directory as of now.
pub(crate) fn judge(data: &std::path::Path) -> Result<Judgement, CommandError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Judgement::gather(data, now.map_or(0, |now| now.as_secs())).map_err(|error| match error {
        HostError::Override(_) => CommandError::bad_input(error),
        other => CommandError::failed(other),
    })
}

pub(crate) fn print(judgement: &Judgement, out: &mut dyn Write) -> std::io::Result<()> {
    let facts = &judgement.facts;
    writeln!(out, "judged       {}", facts.path.display())?;
    if let Some(mount) = &facts.mount {
        writeln!(
            out,
            "file system  {}, {} on {}",
            mount.kind,
            mount.source,
            mount.point.display()
        )?;
        writeln!(out, "options      {}", mount.options.join(","))?;
    }
    match &facts.device {
        None => writeln!(out, "device       none of its own, or not told")?,
        Some(device) => writeln!(
            out,
            "device       {}, cache: {}, single writes past it: {}, {}",
            device.name,
            device.write_cache.as_deref().unwrap_or("not told"),
            match device.fua {
                None => "not told",
                Some(true) => "yes",
                Some(false) => "no (flushed after)",
            },
            match device.rotational {
                None => "kind not told",
                Some(true) => "rotating",
                Some(false) => "solid state",
            }
        )?,
    }
    for finding in &judgement.findings {
        writeln!(
            out,
            "{:<12} {}: {}",
            word(finding),
            finding.clause.name(),
            finding.reason
        )?;
        if let Some(by) = &finding.allowed_by {
            writeln!(
                out,
                "             allowed until {}: {}",
                by.until, by.reason
            )?;
        }
    }
    for unneeded in &judgement.unneeded {
        writeln!(
            out,
            "note         the override of {} is not needed",
            unneeded.clause.name()
        )?;
    }
    writeln!(out, "outcome      {}", judgement.outcome())
}

fn word(finding: &Finding) -> String {
    match finding.outcome {
        Outcome::Allow => "warning".to_owned(),
        other => other.to_string(),
    }
}

pub(crate) fn judgement_json(judgement: &Judgement) -> Value {
    let facts = &judgement.facts;
    let findings: Vec<Value> = judgement
        .findings
        .iter()
        .map(|finding| {
            json!({
                "clause": finding.clause.name(),
                "outcome": finding.outcome.to_string(),
                "reason": finding.reason,
                "allowed_until": finding.allowed_by.as_ref().map(|by| &by.until),
                "allowed_because": finding.allowed_by.as_ref().map(|by| &by.reason),
            })
        })
        .collect();
    json!({
        "path": facts.path.display().to_string(),
        "file_system": facts.mount.as_ref().map(|mount| &mount.kind),
        "source": facts.mount.as_ref().map(|mount| &mount.source),
        "options": facts.mount.as_ref().map(|mount| &mount.options),
        "device": facts.device.as_ref().map(|device| json!({
            "name": device.name,
            "write_cache": device.write_cache,
            "fua": device.fua,
            "rotational": device.rotational,
        })),
        "findings": findings,
        "outcome": judgement.outcome().to_string(),
    })
}
