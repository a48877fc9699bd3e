//! A machine that lives on disk: `cargo run -p clustor-engine --example on_disk_machine`.
//!
//! Its balances and the index of the last command in them are stored in one file, replaced as a whole after
//! each batch, so that both are always of the same moment. On a restart it says where it stands, and the
//! engine goes on behind that: nothing is applied twice, nothing is replayed from the beginning.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clustor_engine::engine::Engine;
use clustor_engine::ids::LogIndex;
use clustor_engine::machine::{Applied, Batch, Effects, MachineError, Opened, StateMachine};

/// Accounts and their balances. A command is `account amount`, the reply the new balance.
struct Accounts {
    file: PathBuf,
    /// Index of the last command whose effect is in the file.
    index: LogIndex,
    balances: BTreeMap<String, i64>,
    /// Commands applied since the process started; not part of the state.
    applied_here: usize,
}

impl Accounts {
    fn in_file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            index: LogIndex::ZERO,
            balances: BTreeMap::new(),
            applied_here: 0,
        }
    }

    /// Reads what was stored: the index in the first line, then `account amount` lines.
    fn load(&mut self) -> Result<(), MachineError> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let damaged = || MachineError::new(format!("{}: damaged", self.file.display()));
        let (index, rest) = text.split_once('\n').ok_or_else(damaged)?;
        let mut balances = BTreeMap::new();
        for line in rest.lines() {
            let (account, balance) = parse(line.as_bytes()).ok_or_else(damaged)?;
            balances.insert(account.to_owned(), balance);
        }
        self.index = LogIndex(index.parse().map_err(|_| damaged())?);
        self.balances = balances;
        Ok(())
    }

    /// The transaction: index and balances together, durable when this returns.
    fn store(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let temporary = self.file.with_extension("tmp");
        let mut text = format!("{}\n", self.index);
        for (account, balance) in &self.balances {
            text.push_str(&format!("{account} {balance}\n"));
        }
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.file)?;
        File::open(directory)?.sync_all()
    }
}

/// `account amount`
fn parse(command: &[u8]) -> Option<(&str, i64)> {
    let (account, amount) = core::str::from_utf8(command).ok()?.split_once(' ')?;
    let plain = !account.is_empty() && !account.contains(char::is_whitespace);
    plain.then_some((account, amount.parse().ok()?))
}

impl StateMachine for Accounts {
    fn open(&mut self) -> Result<Opened, MachineError> {
        self.load()?;
        Ok(Opened::at(self.index))
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            self.applied_here += 1;
            match parse(item.command) {
                Some((account, amount)) => {
                    let balance = self.balances.entry(account.to_owned()).or_default();
                    *balance = balance.saturating_add(amount);
                    out.reply(item.index, balance.to_string().as_bytes());
                }
                None => out.reply(item.index, b"error: expected 'account amount'"),
            }
        }
        self.index = batch.last_index();
        match self.store() {
            Ok(()) => Applied::Ack,
            // Whether the file has the batch is open, so this object can't go on. The factory makes a
            // new one, which opens at whatever the file has.
            Err(error) => Applied::Fatal(format!("{}: {error}", self.file.display())),
        }
    }

    fn durable_applied(&self) -> LogIndex {
        self.index
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("clustor-disk".to_owned()));
    fs::create_dir_all(&dir)?;
    for life in ["first life", "after the restart"] {
        let file = dir.join("accounts");
        let engine = Engine::builder(dir.join("log"))
            .partition(1, move |_| Accounts::in_file(&file))
            .start()?;
        let accounts = engine.partition::<Accounts>(1)?;
        let (index, replayed) = accounts.read_blocking(|m| (m.index, m.applied_here))?;
        println!("{life}: opened at index {index}, {replayed} commands replayed");
        for command in ["anna 10", "bert 5", "anna -3"] {
            let done = accounts.append_blocking(command)?;
            let balance = String::from_utf8_lossy(&done.reply);
            println!("  index {}: {command} -> {balance}", done.index);
        }
        engine.shutdown(Duration::from_secs(5))?;
    }
    Ok(())
}
