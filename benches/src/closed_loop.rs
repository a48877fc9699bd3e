//! Clients that each keep one operation under way.

use std::time::{Duration, Instant};

use crate::BenchError;
use crate::allocations::Since;
use crate::interrupt::Interrupt;
use crate::measured::Measured;

/// How long a client is to go on.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Nothing is recorded before this is over.
    pub warm_up: Duration,
    /// Then everything for this long.
    pub time: Duration,
}

/// Runs every client on a thread of its own. A client carries out one operation, and says whether it counts; one
/// that was turned away and has to be tried again does not, and its time goes on. Also returned: the allocations of the whole process while it was measured.
///
/// # Errors
/// The first error of a client; [`BenchError::Interrupted`] when a signal came.
pub fn closed_loop<C>(
    clients: Vec<C>,
    span: Span,
    interrupt: &Interrupt,
) -> Result<(Measured, u64), BenchError>
where
    C: FnMut() -> Result<bool, BenchError> + Send,
{
    let begun = Instant::now() + span.warm_up;
    let until = begun + span.time;
    let mut all = Measured::new();
    let mut allocations = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || one_client(client, begun, until, interrupt)))
            .collect();
        std::thread::sleep(begun.saturating_duration_since(Instant::now()));
        let since = Since::now();
        for thread in threads {
            let measured = thread.join().expect("a client does not panic")?;
            all.join(&measured, false);
        }
        allocations = since.count();
        Ok::<(), BenchError>(())
    })?;
    all.took(begun.elapsed().max(span.time));
    Ok((all, allocations))
}

fn one_client(
    mut client: impl FnMut() -> Result<bool, BenchError>,
    begun: Instant,
    until: Instant,
    interrupt: &Interrupt,
) -> Result<Measured, BenchError> {
    let mut measured = Measured::new();
    loop {
        interrupt.check()?;
        let at = Instant::now();
        if at >= until {
            return Ok(measured);
        }
        while !client()? {
            interrupt.check()?;
        }
        if at >= begun {
            measured.record(at.elapsed());
        }
    }
}
