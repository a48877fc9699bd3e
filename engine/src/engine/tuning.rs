//! Turning a running engine's knobs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clustor_shards::mesh::Rejected;
use clustor_shards::mesh::reply::{Reply as ReplyOf, ReplySender, pair};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::ProfileReload;

use super::handle::Port;
use super::served::on_shard;
use super::submission::{Answer, Asked, Submission};
use crate::profile::{Profile, ProfileError, ProfileNews, Retuned};
use crate::request::RequestBody;

/// How long a reload waits for the shards.
const RELOAD_WAIT: Duration = Duration::from_secs(5);
/// How often it tries a queue that is full.
const RETRY: Duration = Duration::from_millis(5);

/// Why a running engine does not obey a new profile, or not everywhere yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The profile is not acceptable; nothing has changed.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Shards that did not say within five seconds that they obey it: their queue is full, or they are in a long turn.
    /// Those that were told obey it when they come to it; repeat the reload for the others.
    #[error("of {shards} shards, {late} have not said within {} s that they obey the profile; repeat it", RELOAD_WAIT.as_secs())]
    Late {
        /// How many are late.
        late: usize,
        /// How many there are.
        shards: usize,
    },
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

/// What of an engine any thread may turn. Cheap to clone; outlives its engine, and then refuses.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Vec<Arc<Port>>,
    /// What the engine runs under. Held while the shards are told, so that all hear reloads in one order.
    profile: Mutex<Profile>,
}

impl core::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("shards", &self.shared.ports.len())
            .finish_non_exhaustive()
    }
}

impl EngineHandle {
    pub(super) fn new(ports: Vec<Arc<Port>>, profile: Profile) -> Self {
        Self {
            shared: Arc::new(Shared {
                ports,
                profile: Mutex::new(profile),
            }),
        }
    }

    /// How many data shards it has; they are numbered from 0.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shared.ports.len()
    }

    /// What the engine runs under. What waits for the next start is not in it.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.lock().clone()
    }

    /// Runs under this profile from each shard's next batch on, without a restart. Knobs that can't be turned while it runs
    /// stay, and are named in the answer. Waits until every shard has said that it obeys, up to five seconds.
    ///
    /// # Errors
    /// [`ReloadError`]. A profile that is not acceptable changes nothing.
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn reload_profile(&self, wanted: &Profile) -> Result<Retuned, ReloadError> {
        let mut running = self.lock();
        let retuned = running.retune(wanted)?;
        // Also where nothing differs: it takes back what was said of a bad file.
        *running = retuned.profile.clone();
        for port in &self.shared.ports {
            port.budget.retune(retuned.profile.queue_bytes_max);
        }
        self.tell(|| RequestBody::Profile(ProfileNews::Obey(Box::new(retuned.profile.clone()))))?;
        Ok(retuned)
    }

    /// Has every shard say in its status why a new profile was refused; the one it runs under stays.
    ///
    /// # Errors
    /// [`ReloadError::Late`] or [`ReloadError::Stopping`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn refuse_profile(&self, why: impl Into<String>) -> Result<(), ReloadError> {
        let running = self.lock();
        let why = why.into();
        let told = self.tell(|| RequestBody::Profile(ProfileNews::Refused(why.clone())));
        drop(running);
        told
    }

    /// Says that this node's clocks can't be trusted, for whoever watches them better than the engine, which compares the
    /// boot-time clock with the wall clock: no leases here for ten seconds, and none elsewhere that rely on this node, which gives no
    /// vote and is not elected for twice its least election timeout (300 ms by default) from each such call on. Waits until every
    /// shard has heard it, up to five seconds.
    ///
    /// # Errors
    /// [`ReloadError::Late`] or [`ReloadError::Stopping`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn raise_clock_alarm(&self) -> Result<(), ReloadError> {
        self.tell(|| RequestBody::ClockAlarm)
    }

    /// Has operators ask over the network that this node read its profile anew (`clustor profile reload`). When one has, the
    /// caller is to read it, to obey it ([`Self::reload_profile`]) or refuse it ([`Self::refuse_profile`]), to say how that went
    /// ([`Self::answer_reload`]) and to call this again. Until it was called for the first time, such questions are refused as
    /// unsupported. For one thread.
    ///
    /// # Errors
    /// [`ReloadError::Late`], where it may be called again, or [`ReloadError::Stopping`].
    ///
    /// # Panics
    /// On a shard's thread.
    pub fn expect_reload(&self) -> Result<ReloadAsked, ReloadError> {
        self.ask_first(|| RequestBody::AwaitReload).map(ReloadAsked)
    }

    /// Answers whoever had asked when [`ReloadAsked::wait`] returned.
    ///
    /// # Errors
    /// [`ReloadError::Late`] or [`ReloadError::Stopping`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn answer_reload(&self, outcome: &ProfileReload) -> Result<(), ReloadError> {
        let told = self.ask_first(|| RequestBody::Reloaded(Box::new(outcome.clone())))?;
        match told.wait() {
            Ok(true) => Ok(()),
            _ => Err(ReloadError::Stopping),
        }
    }

    /// Asks the node's first shard, which answers for the node.
    fn ask_first(&self, body: impl Fn() -> RequestBody) -> Result<ReplyOf<bool>, ReloadError> {
        assert!(
            !on_shard(),
            "a reload on a shard's thread would wait for itself: call it from another thread"
        );
        let port = self.shared.ports.first().ok_or(ReloadError::Stopping)?;
        let (to, reply) = pair();
        match hand_over(port, body(), to, Instant::now() + RELOAD_WAIT) {
            Submitted::Taken => Ok(reply),
            Submitted::Full => Err(ReloadError::Late { late: 1, shards: 1 }),
            Submitted::Closed => Err(ReloadError::Stopping),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Profile> {
        // A profile is replaced whole: one that a panic left is whole too.
        self.shared
            .profile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: impl Fn() -> RequestBody) -> Result<(), ReloadError> {
        assert!(
            !on_shard(),
            "a reload on a shard's thread would wait for itself: call it from another thread"
        );
        let until = Instant::now() + RELOAD_WAIT;
        let mut late = 0;
        let mut replies = Vec::with_capacity(self.shared.ports.len());
        for port in &self.shared.ports {
            let (to, reply) = pair();
            match hand_over(port, news(), to, until) {
                Submitted::Taken => replies.push(reply),
                Submitted::Full => late += 1,
                Submitted::Closed => return Err(ReloadError::Stopping),
            }
        }
        for mut reply in replies {
            let left = until.saturating_duration_since(Instant::now());
            match reply.wait_timeout(left) {
                Ok(true) => {}
                Ok(false) => return Err(ReloadError::Stopping),
                Err(_) => late += 1,
            }
        }
        if late > 0 {
            let shards = self.shared.ports.len();
            return Err(ReloadError::Late { late, shards });
        }
        Ok(())
    }
}

/// An operator's question to come, see [`EngineHandle::expect_reload`].
#[derive(Debug)]
#[must_use = "whoever asks waits for this to be waited for"]
pub struct ReloadAsked(ReplyOf<bool>);

impl ReloadAsked {
    /// Waits until an operator has asked; false if the engine ends first.
    #[must_use]
    pub fn wait(self) -> bool {
        self.0.wait() == Ok(true)
    }
}

/// What became of a submission.
enum Submitted {
    Taken,
    Full,
    Closed,
}

/// Hands a request to a shard, beyond the bound on requests: it must be heard by a shard that is busy.
fn hand_over(port: &Port, body: RequestBody, to: ReplySender<bool>, until: Instant) -> Submitted {
    let asked = Asked {
        answer: Answer::Profile(to),
        bytes: 0,
        deadline: None,
    };
    port.budget.take_beyond();
    let submission = Submission::new(PartitionId::default(), body, asked);
    let submitted = submit(port, submission, until);
    if !matches!(submitted, Submitted::Taken) {
        port.budget.give_back(0);
    }
    submitted
}

/// Submits, trying again while the queue is full.
fn submit(port: &Port, mut submission: Submission, until: Instant) -> Submitted {
    loop {
        match port.submitter.try_submit(submission) {
            Ok(()) => return Submitted::Taken,
            Err(Rejected::Full(back)) if Instant::now() < until => {
                std::thread::sleep(RETRY);
                submission = back;
            }
            Err(Rejected::Full(_)) => return Submitted::Full,
            Err(Rejected::Closed(_)) => return Submitted::Closed,
        }
    }
}
