//! A key of the embedder's own: what it seals is opened with it, and with nothing else.

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clustor_engine::engine::{EngineError, Kek, KeyError, KeyProvider};
use support::{Lines, PATIENCE, builder};

type Done = Result<(), Box<dyn Error>>;

/// A service that keeps one key, or none.
#[derive(Clone)]
struct Vault {
    key: Option<[u8; 32]>,
    asked: Arc<AtomicU32>,
}

impl Vault {
    fn with(key: Option<[u8; 32]>) -> Self {
        let asked = Arc::default();
        Self { key, asked }
    }
}

impl KeyProvider for Vault {
    fn kek(&self) -> Result<Kek, KeyError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let key = self
            .key
            .ok_or_else(|| KeyError("the vault is shut".to_owned()))?;
        Ok(Kek::new(key.into()))
    }
}

/// Starts, appends a line if there is one, and says what is there.
fn lines(
    dir: &Path,
    vault: Option<&Vault>,
    append: Option<&str>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut builder = builder(dir).partition(1, |_| Lines::default());
    if let Some(vault) = vault {
        builder = builder.keys(vault.clone());
    }
    let engine = builder.start()?;
    let lines = engine.partition::<Lines>(1)?;
    if let Some(line) = append {
        lines.append_blocking(line)?;
    }
    let there = lines.read_blocking(|l| l.0.clone())?;
    engine.shutdown(PATIENCE)?;
    Ok(there)
}

/// Every file of the directory with its bytes, but for what says which process had it last.
fn bytes_under(dir: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_none_or(|name| name != "lock") {
                found.insert(path.display().to_string(), std::fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

fn refusal(dir: &Path, vault: Option<&Vault>) -> String {
    let error = lines(dir, vault, Some("never")).expect_err("it is refused");
    error.to_string()
}

#[test]
fn a_log_sealed_by_an_own_provider_is_opened_with_it_and_refused_without() -> Done {
    let temp = tempfile::tempdir()?;
    let vault = Vault::with(Some([7; 32]));
    assert_eq!(lines(temp.path(), Some(&vault), Some("one"))?, ["one"]);
    assert_eq!(vault.asked.load(Ordering::Relaxed), 1, "once a start");
    assert!(!temp.path().join("data/kek").exists());
    assert_eq!(
        lines(temp.path(), Some(&vault), Some("two"))?,
        ["one", "two"]
    );
    assert_eq!(vault.asked.load(Ordering::Relaxed), 2);

    let before = bytes_under(temp.path())?;
    let without = refusal(temp.path(), None);
    assert!(
        without.contains("key provider that this directory was made with"),
        "{without}"
    );
    let other = refusal(temp.path(), Some(&Vault::with(Some([8; 32]))));
    assert!(
        other.contains("not the key that the directory was written with"),
        "{other}"
    );
    let shut = refusal(temp.path(), Some(&Vault::with(None)));
    assert!(shut.contains("the vault is shut"), "{shut}");
    assert!(
        bytes_under(temp.path())? == before,
        "none of them wrote anything"
    );
    assert_eq!(lines(temp.path(), Some(&vault), None)?, ["one", "two"]);
    Ok(())
}

#[test]
fn a_provider_without_a_key_leaves_no_directory_and_a_key_file_opens_nothing_for_another() -> Done {
    let temp = tempfile::tempdir()?;
    let start = builder(temp.path()).partition(1, |_| Lines::default());
    let error = start.keys(Vault::with(None)).start().expect_err("no key");
    assert!(matches!(error, EngineError::Key(_)), "{error}");
    assert!(!temp.path().join("data").exists());

    assert_eq!(lines(temp.path(), None, Some("one"))?, ["one"]);
    let other = refusal(temp.path(), Some(&Vault::with(Some([7; 32]))));
    assert!(
        other.contains("not the key that the directory was written with"),
        "{other}"
    );
    // The key of the file, from elsewhere.
    let text = std::fs::read_to_string(temp.path().join("data/kek"))?;
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16);
    let mut key = [0; 32];
    for (at, into) in key.iter_mut().enumerate() {
        *into = byte(at)?;
    }
    let moved = Vault::with(Some(key));
    std::fs::remove_file(temp.path().join("data/kek"))?;
    assert_eq!(lines(temp.path(), Some(&moved), None)?, ["one"]);
    Ok(())
}
