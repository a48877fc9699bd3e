//! A running node's profile file: watched, read again, obeyed, and how it went.
//!
//! The file is looked at twice a second. Editors replace files by renaming others over them, or write them in pieces: what
//! counts is that it differs (device, inode, length, time of change) from what was read last and has stood still for one
//! look. SIGHUP reads it at once, and so does an operator's question over the network, which is answered with how that went. How the last reading went lies in `DATA/profile-state.json`, replaced whole, together
//! with the process that serves; `clustor profile reload --config` waits for it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clustor_engine::engine::{EngineHandle, ReloadAsked, ReloadError};
use clustor_engine::profile::Value;
use clustor_wire::ids::NodeId;
use clustor_wire::message::{ProfileReload, TurnedKnob};
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::files::{self, FileError};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);
const STATE_FILE: &str = "profile-state.json";
/// The longest state file in bytes: errors of a profile file of 64 KiB.
const STATE_BYTES_MAX: u64 = 4 << 20;
/// Faults of a profile that are kept.
const WRONG_MAX: usize = 100;

/// A knob that was turned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turned {
    /// Its key.
    pub key: String,
    /// What it stood at.
    pub before: String,
    /// What it is to stand at.
    pub after: String,
}

impl Turned {
    fn told(&self) -> TurnedKnob {
        TurnedKnob {
            key: self.key.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
        }
    }
}

/// How a node's profile stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadState {
    /// The process that serves the node.
    pub pid: u32,
    /// Readings of the file since it started.
    pub readings: u64,
    /// The profile: a shipped one's name, or a file.
    pub profile: String,
    /// Whether the last reading was obeyed; true before the first.
    pub obeyed: bool,
    /// Knobs that the last reading turned.
    pub live: Vec<Turned>,
    /// Knobs whose new value takes effect at the next start.
    pub at_restart: Vec<Turned>,
    /// Why the last reading was not obeyed: file, line, key, value, limit.
    pub wrong: Vec<String>,
}

impl ReloadState {
    /// Where the state of a node's profile lies.
    #[must_use]
    pub fn path(data: &Path) -> PathBuf {
        data.join(STATE_FILE)
    }

    /// The state that a node last wrote.
    ///
    /// # Errors
    /// There is none, or it is not readable.
    pub fn read(data: &Path) -> Result<Self, FileError> {
        let path = Self::path(data);
        let bytes = files::read(&path, STATE_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| FileError::Unreadable {
            path,
            why: error.to_string(),
        })
    }

    /// As a client is told it.
    #[must_use]
    pub fn told(&self, node: NodeId) -> ProfileReload {
        ProfileReload {
            node,
            readings: self.readings,
            profile: self.profile.clone(),
            obeyed: self.obeyed,
            live: self.live.iter().map(Turned::told).collect(),
            at_restart: self.at_restart.iter().map(Turned::told).collect(),
            wrong: self.wrong.clone(),
        }
    }

    fn write(&self, data: &Path) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.persist(Self::path(data))?;
        Ok(())
    }
}

/// Reads a node's profile again when it is told to.
#[derive(Debug)]
pub struct Reloader {
    config: NodeConfig,
    handle: EngineHandle,
    state: Mutex<ReloadState>,
}

impl Reloader {
    /// For a node that has just started under the profile of its config.
    #[must_use]
    pub fn new(config: NodeConfig, handle: EngineHandle) -> Arc<Self> {
        let state = ReloadState {
            pid: std::process::id(),
            readings: 0,
            profile: config.profile.clone(),
            obeyed: true,
            live: Vec::new(),
            at_restart: Vec::new(),
            wrong: Vec::new(),
        };
        let reloader = Arc::new(Self {
            config,
            handle,
            state: Mutex::new(state),
        });
        reloader.publish(&reloader.lock());
        reloader
    }

    /// Reads the profile and obeys it, or leaves everything as it is and says why: in the log, in the status, and in the
    /// state file.
    pub fn reload(&self) -> ReloadState {
        let mut state = self.lock();
        state.readings += 1;
        let retuned = self.config.judge_profile().and_then(|profile| {
            self.handle
                .reload_profile(&profile)
                .map_err(|error| vec![self.placed(error)])
        });
        match retuned {
            Ok(retuned) => {
                let live = turned(&retuned.live);
                let at_restart = turned(&retuned.at_restart);
                for knob in &live {
                    let (key, before, after) = (&knob.key, &knob.before, &knob.after);
                    for shard in 0..self.handle.shards() {
                        tracing::info!(shard, key, before, after, "profile reloaded");
                    }
                }
                for knob in &at_restart {
                    let (key, before, after) = (&knob.key, &knob.before, &knob.after);
                    tracing::warn!(key, before, after, "takes effect at the next start");
                }
                (state.obeyed, state.live, state.at_restart) = (true, live, at_restart);
                state.wrong.clear();
            }
            Err(mut wrong) => {
                wrong.truncate(WRONG_MAX);
                for why in &wrong {
                    tracing::error!(%why, "the profile was not reloaded; the one before it stays");
                }
                let first = wrong.first().cloned().unwrap_or_default();
                if let Err(error) = self.handle.refuse_profile(first) {
                    tracing::warn!(%error, "not every shard's status says so");
                }
                state.obeyed = false;
                state.live.clear();
                state.at_restart.clear();
                state.wrong = wrong;
            }
        }
        self.publish(&state);
        state.clone()
    }

    /// Why a profile is not obeyed, with the lines of its file.
    fn placed(&self, error: ReloadError) -> String {
        let text = self.config.profile_text();
        match (error, text) {
            (ReloadError::Profile(error), Some(text)) => error.in_text(&text).to_string(),
            (error, _) => error.to_string(),
        }
    }

    /// Watches the profile file from a thread of its own until the watch is dropped; a shipped profile has no file.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn watch(self: &Arc<Self>, seen: Stamp) -> std::io::Result<Watch> {
        let (stop, stopped) = channel::<()>();
        let reloader = Arc::clone(self);
        let look = move || {
            let path = PathBuf::from(&reloader.config.profile);
            let (mut read, mut last) = (seen, seen);
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let now = Stamp::of(&path);
                if now != read && now == last {
                    read = now;
                    reloader.reload();
                }
                last = now;
            }
        };
        let thread = match self.config.profile_file() {
            Some(_) => Some(
                std::thread::Builder::new()
                    .name("profile-watch".to_owned())
                    .spawn(look)?,
            ),
            None => None,
        };
        Ok(Watch {
            stop: Some(stop),
            thread,
        })
    }

    /// Reads the profile whenever an operator asks for it over the network, from a thread of its own, until the engine ends.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn listen(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let reloader = Arc::clone(self);
        // Before anybody can ask.
        let mut expected = reloader.handle.expect_reload();
        let listen = move || {
            loop {
                match expected.map(ReloadAsked::wait) {
                    Ok(true) => {
                        let told = reloader.reload().told(reloader.config.node);
                        if let Err(error) = reloader.handle.answer_reload(&told) {
                            tracing::warn!(%error, "who asked for the reload is not answered");
                        }
                    }
                    // The shard's queue is full; it empties.
                    Err(ReloadError::Late { .. }) => {}
                    Ok(false) | Err(_) => break,
                }
                expected = reloader.handle.expect_reload();
            }
        };
        std::thread::Builder::new()
            .name("profile-asked".to_owned())
            .spawn(listen)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReloadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &ReloadState) {
        if let Err(error) = state.write(&self.config.data_dir) {
            let path = ReloadState::path(&self.config.data_dir);
            tracing::warn!(path = %path.display(), %error, "the state of the profile is not written");
        }
    }
}

fn turned(knobs: &[(&'static str, Value, Value)]) -> Vec<Turned> {
    knobs
        .iter()
        .map(|(key, before, after)| Turned {
            key: (*key).to_owned(),
            before: before.to_string(),
            after: after.to_string(),
        })
        .collect()
}

/// What tells one state of a file from another, without reading it: `None` where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    /// The file as it stands.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let stamp = fs::metadata(path).ok().map(|file| {
            (
                file.dev(),
                file.ino(),
                file.len(),
                file.mtime(),
                file.mtime_nsec(),
            )
        });
        Self(stamp)
    }
}

/// A watch of a profile file; ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It panics only where the reload did, and has said so.
            drop(thread.join());
        }
    }
}
