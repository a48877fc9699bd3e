//! How a reading of the profile went, as a client is told it.

use flatbuffers::WIPOffset;

use super::super::codec::{Builder, Scratch, check_list};
use super::super::{MessageError, PROFILE_FAULTS_MAX, ProfileReload, TURNED_KNOBS_MAX, TurnedKnob};
use crate::generated::fb;
use crate::ids::NodeId;

type Knobs<'a> =
    WIPOffset<flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<fb::TurnedKnob<'a>>>>;

/// The sum of its texts.
pub(super) fn reload_bytes(reload: &ProfileReload) -> usize {
    let knobs = reload.live.iter().chain(&reload.at_restart);
    let knobs = knobs.map(|knob| knob.key.len() + knob.before.len() + knob.after.len());
    let wrong = reload.wrong.iter().map(String::len);
    reload.profile.len() + knobs.sum::<usize>() + wrong.sum::<usize>()
}

pub(super) fn check_reload(reload: &ProfileReload) -> Result<(), MessageError> {
    check_lens(
        [&reload.live, &reload.at_restart].map(Vec::len),
        reload.wrong.len(),
    )
}

fn check_lens([live, at_restart]: [usize; 2], wrong: usize) -> Result<(), MessageError> {
    check_list("ReloadReply.live", live, TURNED_KNOBS_MAX)?;
    check_list("ReloadReply.at_restart", at_restart, TURNED_KNOBS_MAX)?;
    check_list("ReloadReply.wrong", wrong, PROFILE_FAULTS_MAX)
}

pub(super) fn build_reload(
    scratch: &mut Scratch,
    reload: &ProfileReload,
) -> WIPOffset<fb::ReloadReply<'static>> {
    let b = &mut scratch.builder;
    let live = build_knobs(b, &reload.live);
    let at_restart = build_knobs(b, &reload.at_restart);
    let wrong: Vec<_> = reload
        .wrong
        .iter()
        .map(|why| b.create_string(why))
        .collect();
    let wrong = b.create_vector(&wrong);
    let profile = b.create_string(&reload.profile);
    fb::ReloadReply::create(
        b,
        &fb::ReloadReplyArgs {
            node: reload.node.0,
            readings: reload.readings,
            profile: Some(profile),
            obeyed: reload.obeyed,
            live: Some(live),
            at_restart: Some(at_restart),
            wrong: Some(wrong),
        },
    )
}

fn build_knobs(b: &mut Builder, knobs: &[TurnedKnob]) -> Knobs<'static> {
    let mut offsets = Vec::with_capacity(knobs.len());
    for knob in knobs {
        let key = Some(b.create_string(&knob.key));
        let before = Some(b.create_string(&knob.before));
        let after = Some(b.create_string(&knob.after));
        let args = fb::TurnedKnobArgs { key, before, after };
        offsets.push(fb::TurnedKnob::create(b, &args));
    }
    b.create_vector(&offsets)
}

pub(super) fn reload(m: fb::ReloadReply<'_>) -> Result<ProfileReload, MessageError> {
    check_lens([m.live().len(), m.at_restart().len()], m.wrong().len())?;
    Ok(ProfileReload {
        node: NodeId(m.node()),
        readings: m.readings(),
        profile: m.profile().to_owned(),
        obeyed: m.obeyed(),
        live: m.live().iter().map(knob).collect(),
        at_restart: m.at_restart().iter().map(knob).collect(),
        wrong: m.wrong().iter().map(str::to_owned).collect(),
    })
}

fn knob(m: fb::TurnedKnob<'_>) -> TurnedKnob {
    TurnedKnob {
        key: m.key().to_owned(),
        before: m.before().to_owned(),
        after: m.after().to_owned(),
    }
}
