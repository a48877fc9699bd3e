//! `clustor profile`: the shipped profiles, and files of one's own.
//!
//! Parsing, limits and the text of a file are the engine's; this shows them. A file is judged whole: everything that is
//! wrong with it is said at once, with file, line, key, value and limit.

mod reload;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clustor_engine::profile::{
    Allowed, Knob, PROFILE_BYTES_MAX, Profile, ProfileError, Value, When,
};
use serde_json::json;

use crate::exit::{CommandError, EXIT_HELP};
use crate::files;
use crate::json;
use reload::ReloadArgs;

const EXAMPLES: &str = "\
Examples:
  clustor profile list                           the shipped profiles, side by side
  clustor profile show throughput                every knob: value, limits, when a change is obeyed
  clustor profile show latency --toml > my.toml  a complete file to start from, every knob explained
  clustor profile check my.toml                  is it good? says everything that is wrong, by line
  clustor profile diff latency my.toml           what differs
  clustor profile reload --config node.toml      a running node takes its changed file

A PROFILE is the name of a shipped one (latency, throughput, wan, zfs) or a file.";

/// Shows, checks and compares profiles: everything by which a node is tuned.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"), arg_required_else_help = true)]
pub struct ProfileArgs {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
enum ProfileCommand {
    /// Lists the shipped profiles, side by side.
    #[command(
        after_help = "Examples:\n  clustor profile list\n  clustor profile list --json | jq -r '.profiles[].name'"
    )]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Shows every knob of a profile.
    #[command(
        after_help = "Examples:\n  clustor profile show throughput\n  clustor profile show latency --toml > my.toml\n  clustor profile show my.toml"
    )]
    Show {
        /// A shipped profile's name, or a file.
        profile: String,
        /// Print one JSON object.
        #[arg(long, conflicts_with = "toml")]
        json: bool,
        /// Print it as a complete profile file, every knob explained.
        #[arg(long)]
        toml: bool,
    },
    /// Checks profile files; says everything that is wrong with them.
    ///
    /// Exit code 3 if one is not acceptable.
    #[command(
        after_help = "Examples:\n  clustor profile check my.toml\n  clustor profile check *.toml --json | jq -r 'select(.good | not).file'"
    )]
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print one JSON object per file and line.
        #[arg(long)]
        json: bool,
    },
    /// Shows the knobs that stand differently in two profiles.
    ///
    /// Exit code 0 whether or not they differ.
    #[command(
        after_help = "Examples:\n  clustor profile diff latency throughput\n  clustor profile diff latency my.toml --json | jq -r '.differences[].key'"
    )]
    Diff {
        /// A shipped profile's name, or a file.
        a: String,
        /// Another.
        b: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    Reload(ReloadArgs),
}

/// Runs the command.
///
/// # Errors
/// A profile is not acceptable, a node does not take it, or the output is gone.
pub fn run(args: &ProfileArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    match &args.command {
        ProfileCommand::List { json } => list(*json, out).map_err(CommandError::failed),
        ProfileCommand::Show {
            profile,
            json,
            toml,
        } => {
            let profile = load(profile)?;
            show(&profile, *json, *toml, out).map_err(CommandError::failed)
        }
        ProfileCommand::Check { files, json } => check(files, *json, out),
        ProfileCommand::Diff { a, b, json } => {
            let (a, b) = (load(a)?, load(b)?);
            diff(&a, &b, *json, out).map_err(CommandError::failed)
        }
        ProfileCommand::Reload(args) => reload::run(args, out),
    }
}

/// Reads a profile file; everything that is wrong with it.
pub(crate) fn judge(file: &Path) -> Result<Result<Profile, Vec<ProfileError>>, CommandError> {
    let text = files::read_text(file, PROFILE_BYTES_MAX).map_err(CommandError::bad_input)?;
    Ok(Profile::judge(&text, &file.display().to_string()))
}

/// A shipped profile, or the one in a file.
fn load(name: &str) -> Result<Profile, CommandError> {
    if let Some(profile) = Profile::shipped(name) {
        return Ok(profile);
    }
    let path = Path::new(name);
    if !name.ends_with(".toml") && !path.exists() {
        return Err(CommandError::bad_input(format!(
            "{name}: neither a file nor a shipped profile; shipped are {}",
            Profile::SHIPPED.join(", ")
        )));
    }
    judge(path)?.map_err(|wrong| CommandError::bad_input(said(&wrong).join("\n")))
}

fn said(wrong: &[ProfileError]) -> Vec<String> {
    wrong.iter().map(ToString::to_string).collect()
}

fn list(json: bool, out: &mut dyn Write) -> io::Result<()> {
    let profiles: Vec<Profile> = Profile::SHIPPED
        .iter()
        .filter_map(|name| Profile::shipped(name))
        .collect();
    if json {
        let all: Vec<_> = profiles.iter().map(profile_json).collect();
        return json::line(out, &json!({ "profiles": all }));
    }
    let width = widest(Profile::KNOBS.iter().map(|knob| knob.key));
    write!(out, "{:<width$}", "")?;
    for profile in &profiles {
        write!(out, "  {:>13}", profile.name)?;
    }
    writeln!(out)?;
    for knob in Profile::KNOBS {
        write!(out, "{:<width$}", knob.key)?;
        for profile in &profiles {
            write!(out, "  {:>13}", bare(value_of(profile, knob)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn show(profile: &Profile, json: bool, toml: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return json::line(out, &profile_json(profile));
    }
    if toml {
        let head = Profile::shipped_head(&profile.name).unwrap_or_else(|| {
            let name = &profile.name;
            format!("As {name}. What is left out is as in its base.")
        });
        return write!(out, "{}", profile.to_toml(&head));
    }
    let width = widest(Profile::KNOBS.iter().map(|knob| knob.key));
    let mut section = "";
    for knob in Profile::KNOBS {
        if knob.section != section {
            section = knob.section;
            writeln!(out, "{section}")?;
        }
        let value = value_of(profile, knob);
        writeln!(
            out,
            "  {:<width$}  {:>13}  {}; obeyed {}",
            knob.key,
            bare(value),
            knob.allowed,
            knob.when
        )?;
    }
    Ok(())
}

fn check(paths: &[PathBuf], json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut bad = 0;
    for path in paths {
        let judged = judge(path);
        bad += usize::from(!matches!(judged, Ok(Ok(_))));
        let written = match (&judged, json) {
            (judged, true) => json::line(out, &judged_json(path, judged)),
            (Ok(Ok(profile)), false) => {
                writeln!(out, "{}: good{}", path.display(), changes(profile))
            }
            (Ok(Err(wrong)), false) => writeln!(out, "{}", said(wrong).join("\n")),
            (Err(unread), false) => writeln!(out, "{unread}"),
        };
        written.map_err(CommandError::failed)?;
    }
    match bad {
        0 => Ok(()),
        bad => Err(CommandError::bad_input(format!(
            "{bad} of {} not acceptable; a node would not run under it",
            paths.len()
        ))),
    }
}

/// How a profile stands to the shipped one that is nearest.
fn changes(profile: &Profile) -> String {
    let nearest = Profile::SHIPPED
        .iter()
        .filter_map(|name| Profile::shipped(name))
        .min_by_key(|shipped| shipped.differences(profile).len());
    match nearest {
        Some(shipped) => match shipped.differences(profile).len() {
            0 => format!(": as {}", shipped.name),
            1 => format!(": as {}, but for 1 knob", shipped.name),
            count => format!(": as {}, but for {count} knobs", shipped.name),
        },
        None => String::new(),
    }
}

fn diff(a: &Profile, b: &Profile, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let differences = a.differences(b);
    if json {
        let knobs: Vec<_> = differences
            .iter()
            .map(|(knob, a, b)| {
                json!({ "key": knob.key, "a": value_json(*a), "b": value_json(*b),
                        "live": knob.when == When::Live })
            })
            .collect();
        let told = json!({ "a": a.name, "b": b.name, "differences": knobs });
        return json::line(out, &told);
    }
    if differences.is_empty() {
        return writeln!(out, "{} and {} stand the same", a.name, b.name);
    }
    let width = widest(differences.iter().map(|(knob, ..)| knob.key));
    for (knob, a, b) in differences {
        writeln!(
            out,
            "{:<width$}  {:>13} -> {:<13}  obeyed {}",
            knob.key,
            bare(a),
            bare(b),
            knob.when
        )?;
    }
    Ok(())
}

fn value_of(profile: &Profile, knob: &Knob) -> Value {
    profile.get(knob.key).expect("every knob has a value")
}

fn widest(keys: impl Iterator<Item = &'static str>) -> usize {
    keys.map(str::len).max().unwrap_or(0)
}

/// A value in a table: a word without its quotes.
fn bare(value: Value) -> String {
    match value {
        Value::Word(word) => word.to_owned(),
        other => other.to_string(),
    }
}

fn value_json(value: Value) -> serde_json::Value {
    match value {
        Value::Number(number) => json!(number),
        Value::Word(word) => json!(word),
        Value::Switch(on) => json!(on),
    }
}

fn allowed_json(allowed: Allowed) -> serde_json::Value {
    match allowed {
        Allowed::Number { min, max } => json!({ "min": min, "max": max }),
        Allowed::Word(words) => json!({ "words": words }),
        Allowed::Switch => json!({ "words": [true, false] }),
        Allowed::Fixed(on) => json!({ "words": [on] }),
    }
}

fn profile_json(profile: &Profile) -> serde_json::Value {
    let knobs: Vec<_> = Profile::KNOBS
        .iter()
        .map(|knob| {
            json!({
                "key": knob.key,
                "value": value_json(value_of(profile, knob)),
                "allowed": allowed_json(knob.allowed),
                "narrower": knob.narrower().map(|(base, allowed)| json!({
                    "base": base,
                    "allowed": allowed_json(allowed),
                })).collect::<Vec<_>>(),
                "live": knob.when == When::Live,
                "meaning": knob.meaning.join(" ").trim(),
            })
        })
        .collect();
    json!({ "name": profile.name, "knobs": knobs })
}

fn judged_json(
    path: &Path,
    judged: &Result<Result<Profile, Vec<ProfileError>>, CommandError>,
) -> serde_json::Value {
    let wrong: Vec<_> = match judged {
        Ok(Ok(_)) => Vec::new(),
        Ok(Err(wrong)) => wrong.iter().map(error_json).collect(),
        Err(unread) => vec![json!({ "message": unread.to_string() })],
    };
    json!({ "file": path.display().to_string(), "good": wrong.is_empty(), "wrong": wrong })
}

/// What is wrong, its parts apart.
pub(crate) fn error_json(error: &ProfileError) -> serde_json::Value {
    let (value, limit) = match error {
        ProfileError::Value { value, allowed, .. } => (json!(value), allowed_json(*allowed)),
        ProfileError::Relation { value, limit, .. } => (json!(value), json!({ "max": limit })),
        ProfileError::Malformed { .. } | ProfileError::UnknownKey { .. } => {
            (serde_json::Value::Null, serde_json::Value::Null)
        }
    };
    json!({
        "line": error.line(),
        "key": error.key(),
        "value": value,
        "limit": limit,
        "message": error.to_string(),
    })
}
