//! What the time that a machine takes is measured by.
//!
//! A turn has one moment, and its core no clock. How long a machine took over a batch is a fact of the process it runs in, so
//! whoever runs the core lends it something to read: the facade a clock, the simulator what it has a machine cost. What is
//! measured decides what a replica takes from clients, never what it applies.

/// Read before and after a machine is called.
pub trait Stopwatch: Send {
    /// Microseconds since an arbitrary start; never less than before.
    fn read_us(&self) -> u64;
}
