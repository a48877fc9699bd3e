//! ^C and SIGTERM end a measurement at its next step, so that what was measured is shown and directories are removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::BenchError;

/// A flag that a signal raises.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from here on. A second signal ends the program at once.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn listen() -> Result<Self, BenchError> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(|error| BenchError::Place(format!("listening for ^C: {error}")))?;
        }
        Ok(Self(flag))
    }

    /// Fails once a signal has come.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`].
    pub fn check(&self) -> Result<(), BenchError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        Ok(())
    }
}
