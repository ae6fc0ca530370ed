//! What gossip sees, as one value: every member once.
//!
//! chitchat lists each life of a member by itself, live ones and dead ones; a [`View`] has one entry per
//! member, with the facts of its highest generation, and remembers the facts of members that chitchat has
//! forgotten for as long as the detector has a trace of them.

use super::detector::{Detector, Standing};
use super::facts::Facts;
use crate::model::MemberId;
use std::collections::BTreeMap;

/// What is known of one member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// What it last told; `None` while only frames or digests tell of it.
    pub facts: Option<Facts>,
    /// Alive, dead, or never heard.
    pub standing: Standing,
    /// The highest generation whose facts are known: incarnation << 16 | restarts of its gossip.
    pub generation: u64,
    /// When its last frame came, in `Now::mono_us`; `None` if only others told of it.
    pub last_heard_us: Option<u64>,
}

impl Seen {
    /// Whether it is alive.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.standing == Standing::Alive
    }
}

/// Every member but oneself of which there was a sign since this process started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// By identity; bounded.
    pub members: BTreeMap<MemberId, Seen>,
}

impl View {
    /// Members that are alive.
    pub fn alive(&self) -> impl Iterator<Item = (&MemberId, &Seen)> {
        self.members.iter().filter(|(_, seen)| seen.alive())
    }

    /// Members that are dead.
    pub fn dead(&self) -> impl Iterator<Item = (&MemberId, &Seen)> {
        self.members.iter().filter(|(_, seen)| seen.standing == Standing::Dead)
    }
}

/// One life of a member, as chitchat lists it.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub member: MemberId,
    pub generation: u64,
    pub live: bool,
    /// `None` when not yet received, or when not readable.
    pub facts: Option<Facts>,
}

/// Tells the detector chitchat's verdicts: a member is live if any of its lives is, because the heartbeats
/// of the last one prove as much as those of the next.
pub(super) fn judge(lives: &[Life], detector: &mut Detector) {
    let mut verdicts: BTreeMap<MemberId, bool> = BTreeMap::new();
    for life in lives {
        *verdicts.entry(life.member).or_default() |= life.live;
    }
    let gone: Vec<MemberId> = detector.members().filter(|member| !verdicts.contains_key(member)).collect();
    for member in gone {
        detector.phi(member, false);
        // Nobody speaks of it any more, and it never spoke itself.
        if detector.standing(member) == Standing::Unheard {
            detector.forget(member);
        }
    }
    for (member, live) in verdicts {
        detector.phi(member, live);
    }
}

/// The next view: facts of the highest generation, whether chitchat or the previous view has them.
pub(super) fn compose(previous: &View, lives: Vec<Life>, detector: &Detector) -> View {
    let mut members: BTreeMap<MemberId, Seen> = BTreeMap::new();
    for member in detector.members() {
        let before = previous.members.get(&member);
        let seen = Seen {
            facts: before.and_then(|seen| seen.facts.clone()),
            generation: before.map_or(0, |seen| seen.generation),
            standing: detector.standing(member),
            last_heard_us: detector.last_frame_us(member),
        };
        members.insert(member, seen);
    }
    for life in lives {
        let (Some(seen), Some(facts)) = (members.get_mut(&life.member), life.facts) else { continue };
        if life.generation >= seen.generation {
            seen.facts = Some(facts);
            seen.generation = life.generation;
        }
    }
    View { members }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);

    fn life(generation: u64, live: bool, name: Option<&str>) -> Life {
        let facts = name.map(|name| Facts { name: name.into(), ..Facts::default() });
        Life { member: A, generation, live, facts }
    }

    fn next(previous: &View, lives: Vec<Life>) -> View {
        let mut detector = Detector::new(3_000_000);
        judge(&lives, &mut detector);
        detector.observe(0);
        compose(previous, lives, &detector)
    }

    #[test]
    fn a_member_with_two_lives_is_listed_once_with_the_higher_one() {
        for lives in [
            vec![life(1, true, Some("old")), life(2, false, Some("new"))],
            vec![life(2, false, Some("new")), life(1, true, Some("old"))],
        ] {
            let view = next(&View::default(), lives);
            let seen = &view.members[&A];
            assert_eq!((view.members.len(), seen.generation), (1, 2));
            assert_eq!(seen.facts.as_ref().unwrap().name, "new");
            assert!(seen.alive());
        }
    }

    #[test]
    fn a_life_without_readable_facts_hides_nothing() {
        let view = next(&View::default(), vec![life(1, false, Some("old")), life(2, true, None)]);
        assert_eq!(view.members[&A].facts.as_ref().unwrap().name, "old");
    }

    #[test]
    fn a_member_of_hearsay_goes_with_the_hearsay_and_a_heard_one_stays() {
        let mut detector = Detector::new(3_000_000);
        let heard = MemberId(2);
        judge(&[life(1, false, Some("m")), Life { member: heard, ..life(1, true, None) }], &mut detector);
        detector.observe(0);
        judge(&[], &mut detector);
        detector.observe(1);
        assert_eq!(detector.members().collect::<Vec<_>>(), [heard]);
        assert_eq!(detector.standing(heard), Standing::Dead);
    }

    #[test]
    fn facts_outlive_what_chitchat_forgets() {
        let before = next(&View::default(), vec![life(4, true, Some("m"))]);
        let after = next(&before, vec![life(3, true, Some("older"))]);
        assert_eq!(after.members[&A].facts.as_ref().unwrap().name, "m");
    }
}
