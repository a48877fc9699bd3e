//! `sim`: runs and replays simulations.
fn main() {}
