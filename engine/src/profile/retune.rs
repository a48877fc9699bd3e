//! A new profile for a node that runs: what of it can be obeyed, and what has to wait for the next start.

use super::{Profile, ProfileError, Value, When};

/// What a running node makes of a new profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retuned {
    /// What the node runs under from here on.
    pub profile: Profile,
    /// Keys that are obeyed at the next batch, with the value before and the new one.
    pub live: Vec<(&'static str, Value, Value)>,
    /// Keys whose new value takes effect at the next start, with the value in force and the new one.
    pub at_restart: Vec<(&'static str, Value, Value)>,
}

/// What a shard is told of its node's profile: a value of its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileNews {
    /// Obey this one from the next batch on. It differs from the present one in knobs that can be turned while the node
    /// runs, and in no other.
    Obey(Box<Profile>),
    /// A new one was refused, or can't be read, for this reason; the present one stays.
    Refused(String),
}

impl Profile {
    /// What a node that runs under this profile makes of `wanted`.
    ///
    /// # Errors
    /// [`ProfileError`] if `wanted` is not within its limits, or if the part of it that can be obeyed now does not go
    /// together with what has to wait for the next start.
    pub fn retune(&self, wanted: &Profile) -> Result<Retuned, ProfileError> {
        wanted.check()?;
        let mut retuned = Retuned {
            profile: self.clone(),
            live: Vec::new(),
            at_restart: Vec::new(),
        };
        for (knob, before, after) in self.differences(wanted) {
            if knob.when == When::Live {
                let set = retuned.profile.set(knob.key, after);
                debug_assert!(set.is_ok(), "a checked profile's values are within");
                retuned.live.push((knob.key, before, after));
            } else {
                retuned.at_restart.push((knob.key, before, after));
            }
        }
        retuned.profile.name.clone_from(&wanted.name);
        retuned.profile.check().map_err(|mut error| {
            if let ProfileError::Relation { set, .. } = &mut error {
                let waits = |key| {
                    retuned
                        .at_restart
                        .iter()
                        .any(|(waiting, ..)| *waiting == key)
                };
                set.iter_mut().for_each(|at| at.waits = waits(at.key));
            }
            error
        })?;
        Ok(retuned)
    }
}
