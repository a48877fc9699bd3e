//! What every subcommand begins with, and the one-node engine that some of them drive.

use std::path::Path;
use std::time::Duration;

use clustor_engine::engine::{AppendOptions, Engine, PartitionHandle};
use clustor_engine::outcome::{AppendError, RefusalClause};
use clustor_engine::profile::Profile;

use crate::closed_loop::{Span, closed_loop};
use crate::interrupt::Interrupt;
use crate::measured::Measured;
use crate::nothing::Nothing;
use crate::place::Place;
use crate::{BenchError, Common};

/// How long an engine may take to stop.
pub const STOP_WAIT: Duration = Duration::from_secs(10);
/// How long a client that was turned away waits before it tries again.
const AGAIN_AFTER: Duration = Duration::from_micros(200);

/// A signal handler, a place to measure in, and the time for each round.
#[derive(Debug)]
pub struct Setup {
    /// Says when to stop.
    pub interrupt: Interrupt,
    /// Where to measure.
    pub place: Place,
    /// How long a round takes.
    pub time: Duration,
}

impl Setup {
    /// Listens for signals and makes the directory.
    ///
    /// # Errors
    /// When the place is no good.
    pub fn begin(common: &Common) -> Result<Self, BenchError> {
        Ok(Self {
            interrupt: Interrupt::listen()?,
            place: Place::new(&common.dir)?,
            time: Duration::from_secs_f64(common.seconds),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

/// An engine of one node with one partition.
pub struct OneNode {
    engine: Engine,
    handle: PartitionHandle<Nothing>,
}

impl OneNode {
    /// Starts it in `directory`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(directory: &Path, profile: Profile) -> Result<Self, BenchError> {
        let engine = Engine::builder(directory)
            .profile(profile)
            .partition(1, |_| Nothing)
            .start()?;
        let handle = engine.partition::<Nothing>(1)?;
        Ok(Self { engine, handle })
    }

    /// Keeps one append of each client under way, and measures each from the call to the answer at commit. Also
    /// returned: the allocations of the whole process meanwhile, the clients' own included.
    ///
    /// # Errors
    /// When an append fails, or a signal came.
    pub fn measure(
        &self,
        clients: u32,
        payload_bytes: u32,
        span: Span,
        interrupt: &Interrupt,
    ) -> Result<(Measured, u64), BenchError> {
        let clients = (0..clients)
            .map(|_| {
                let handle = self.handle.clone();
                let body = vec![0x5a; payload_bytes as usize];
                move || append(&handle, &body)
            })
            .collect();
        closed_loop(clients, span, interrupt)
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(self) -> Result<(), BenchError> {
        drop(self.handle);
        self.engine.shutdown(STOP_WAIT)?;
        Ok(())
    }
}

/// Appends once; false if the queue was full.
fn append(handle: &PartitionHandle<Nothing>, body: &[u8]) -> Result<bool, BenchError> {
    match handle
        .append_with(body.to_vec(), AppendOptions::new().at_commit())
        .wait()
    {
        Ok(_) => Ok(true),
        Err(AppendError::NotExecuted { refusal }) if refusal.clause == RefusalClause::Busy => {
            std::thread::sleep(AGAIN_AFTER);
            Ok(false)
        }
        Err(error) => Err(BenchError::Refused(error.to_string())),
    }
}
