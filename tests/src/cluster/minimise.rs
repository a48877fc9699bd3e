//! Minimises a run that fails: takes out one thing after the other, as long as the same rule is still broken.
//!
//! What is left is no smallest run, only one of which nothing more can be taken out by itself (1-minimal: Zeller and
//! Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 2002). A run without something draws the rest in
//! another way, and may hold by chance: each is tried with some other draws too.

use super::simpler::Simpler;
use super::swarm::Swarm;

/// Draws that each simpler run is tried with.
const ATTEMPTS: u64 = 6;
/// Draws that what is left is tried with in the end, for the fewest steps.
const LAST_ATTEMPTS: u64 = 40;

/// What is left of a run that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minimised {
    /// How it was made simpler.
    pub simpler: Vec<Simpler>,
    /// The step at which it fails.
    pub step: u64,
}

/// Minimises the run that was drawn as `swarm` and fails at `step`. `fails` runs a simpler one and tells at which step it fails
/// in the same way, if it does; `say` hears of each one found.
pub fn minimise(
    swarm: &Swarm,
    step: u64,
    mut fails: impl FnMut(&[Simpler]) -> Option<u64>,
    mut say: impl FnMut(&Minimised),
) -> Minimised {
    let mut search = Search {
        ways: Vec::new(),
        draws: 0,
        step,
    };
    let mut now = swarm.clone();
    loop {
        let mut changed = false;
        for way in Simpler::all(&now) {
            let mut trial = now.clone();
            while way.apply(&mut trial) && search.attempt(way, &mut fails) {
                now = trial.clone();
                changed = true;
                say(&search.found());
            }
        }
        if !changed {
            break;
        }
    }
    for draws in 1..=LAST_ATTEMPTS {
        if search.draw_again(draws, &mut fails) {
            say(&search.found());
        }
    }
    search.found()
}

struct Search {
    ways: Vec<Simpler>,
    draws: u64,
    step: u64,
}

impl Search {
    fn list(&self, draws: u64) -> Vec<Simpler> {
        let drawn = (draws > 0).then_some(Simpler::Draws(draws));
        self.ways.iter().copied().chain(drawn).collect()
    }

    fn found(&self) -> Minimised {
        Minimised {
            simpler: self.list(self.draws),
            step: self.step,
        }
    }

    /// Whether it still fails when it is also made simpler in this way.
    fn attempt(&mut self, way: Simpler, fails: &mut impl FnMut(&[Simpler]) -> Option<u64>) -> bool {
        self.ways.push(way);
        for draws in self.draws..self.draws + ATTEMPTS {
            if let Some(step) = fails(&self.list(draws)) {
                (self.draws, self.step) = (draws, step);
                return true;
            }
        }
        self.ways.pop();
        false
    }

    /// Whether it fails after fewer steps when it is drawn in that way.
    fn draw_again(
        &mut self,
        draws: u64,
        fails: &mut impl FnMut(&[Simpler]) -> Option<u64>,
    ) -> bool {
        let step = fails(&self.list(draws)).filter(|step| *step < self.step);
        if let Some(step) = step {
            (self.draws, self.step) = (draws, step);
        }
        step.is_some()
    }
}
