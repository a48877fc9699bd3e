//! The machine under every measurement.

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};

/// A machine that does nothing: what is measured is the way to it.
pub struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
        Applied::Ack
    }
}
