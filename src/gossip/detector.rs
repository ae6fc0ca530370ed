//! Who is alive: one rule over two kinds of evidence.
//!
//! Evidence is a frame on a link, and chitchat's verdict (phi, an accrual failure detector: Hayashibara
//! et al., 2004). A member is *alive* while a frame came within `silence` or chitchat calls it live; it is
//! *dead* when neither holds and it was heard before; it is *unheard* until the first evidence. So a fresh
//! link counts at once, although chitchat calls a returning member dead until its third heartbeat; and a
//! member whose link is cut lives on while others hear it.
//!
//! Invariants: never heard is not dead; nobody dies of our own pause ([`Detector::observe`] notices that it
//! was not called for long, and gives everybody one more `silence`); traces are bounded.
//!
//! A closed link is no evidence of death: links are replaced, and a member whose link just broke is not
//! more dead than one that is silent.

use crate::model::MemberId;
use crate::model::limits::MAX_MEMBERS;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Members of which evidence is kept: the roster, and as many that are not in it.
const MAX_TRACES: usize = 2 * MAX_MEMBERS;

/// What is known of a member's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// No evidence since this process started: neither alive nor dead.
    #[default]
    Unheard,
    /// A frame came of late, or chitchat calls it live.
    Alive,
    /// Was heard, and now is not.
    Dead,
}

#[derive(Debug, Clone, Copy, Default)]
struct Trace {
    last_frame_us: Option<u64>,
    live_by_phi: bool,
    standing: Standing,
}

/// Combines the evidence; pure, times are `Now::mono_us`.
#[derive(Debug)]
pub struct Detector {
    silence_us: u64,
    traces: BTreeMap<MemberId, Trace>,
    observed_us: Option<u64>,
    judge_from_us: u64,
}

impl Detector {
    /// A detector for which a member may be silent for `silence_us` before a dead phi kills it.
    #[must_use]
    pub fn new(silence_us: u64) -> Self {
        Self { silence_us, traces: BTreeMap::new(), observed_us: None, judge_from_us: 0 }
    }

    /// A frame of `member` came, or a handshake with it succeeded. Tells whether that made it alive.
    pub fn heard(&mut self, member: MemberId, mono_us: u64) -> bool {
        let silence_us = self.silence_us;
        let observed_us = self.observed_us.unwrap_or(0).max(mono_us);
        let Some(trace) = self.trace(member) else { return false };
        trace.last_frame_us = trace.last_frame_us.max(Some(mono_us));
        // A frame that was reported late may already be too old to prove life.
        let fresh = observed_us.saturating_sub(mono_us) < silence_us;
        let rises = fresh && trace.standing != Standing::Alive;
        if rises {
            trace.standing = Standing::Alive;
        }
        rises
    }

    /// chitchat's verdict on `member`: whether its phi is below the threshold.
    pub fn phi(&mut self, member: MemberId, live: bool) {
        if let Some(trace) = self.trace(member) {
            trace.live_by_phi = live;
        }
    }

    /// Forgets a member: it was removed from the roster, its next evidence is its first.
    pub fn forget(&mut self, member: MemberId) {
        self.traces.remove(&member);
    }

    /// Applies the rule to everybody; gives those whose standing changed. To be called several times per
    /// `silence`; when it was not, for more than half of `silence`, the process was paused, and whoever
    /// was alive stays so for one more `silence`.
    pub fn observe(&mut self, mono_us: u64) -> Vec<(MemberId, Standing)> {
        let pause_us = mono_us.saturating_sub(self.observed_us.unwrap_or(mono_us));
        if pause_us > self.silence_us / 2 {
            self.judge_from_us = mono_us.saturating_add(self.silence_us);
        }
        self.observed_us = Some(mono_us);
        let may_die = mono_us >= self.judge_from_us;
        let mut changes = Vec::new();
        for (member, trace) in &mut self.traces {
            let silent_us = trace.last_frame_us.map(|at| mono_us.saturating_sub(at));
            let evidence = trace.live_by_phi || silent_us.is_some_and(|us| us < self.silence_us);
            let standing = match (evidence, trace.standing) {
                (true, _) => Standing::Alive,
                (false, Standing::Alive) if may_die => Standing::Dead,
                (false, standing) => standing,
            };
            if standing != trace.standing {
                trace.standing = standing;
                changes.push((*member, standing));
            }
        }
        changes
    }

    /// A member's standing as of the last event.
    #[must_use]
    pub fn standing(&self, member: MemberId) -> Standing {
        self.traces.get(&member).map_or(Standing::Unheard, |trace| trace.standing)
    }

    /// When the last frame of a member came, in `Now::mono_us`.
    #[must_use]
    pub fn last_frame_us(&self, member: MemberId) -> Option<u64> {
        self.traces.get(&member).and_then(|trace| trace.last_frame_us)
    }

    /// Whether chitchat called the member live when last asked.
    #[must_use]
    pub fn live_by_phi(&self, member: MemberId) -> bool {
        self.traces.get(&member).is_some_and(|trace| trace.live_by_phi)
    }

    /// Everybody of whom there was any sign, in the order of ids.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.traces.keys().copied()
    }

    /// The member's trace; at the bound the one that was silent for longest and is not alive makes room.
    fn trace(&mut self, member: MemberId) -> Option<&mut Trace> {
        if self.traces.len() >= MAX_TRACES && !self.traces.contains_key(&member) {
            let idle = self.traces.iter().filter(|(_, trace)| trace.standing != Standing::Alive);
            let oldest = idle.min_by_key(|(_, trace)| trace.last_frame_us).map(|(id, _)| *id)?;
            self.traces.remove(&oldest);
        }
        Some(self.traces.entry(member).or_default())
    }
}

/// Where a link notes that a frame came: one relaxed store, for the data thread.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// A frame came at `mono_us`; also to be called when a handshake succeeded.
    pub fn beat(&self, mono_us: u64) {
        self.0.fetch_max(mono_us.max(1), Ordering::Relaxed);
    }

    /// When the last beat was, in `Now::mono_us`; 0 for never.
    #[must_use]
    pub fn last_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The pulses of all links, shared between the data thread and gossip. A link takes its [`Pulse`] once.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<MemberId, Arc<AtomicU64>>>>);

impl Pulses {
    /// The pulse of a member, the same for all of its links.
    #[must_use]
    pub fn of(&self, member: MemberId) -> Pulse {
        let mut pulses = self.lock();
        if pulses.len() >= MAX_TRACES && !pulses.contains_key(&member) {
            pulses.retain(|_, pulse| Arc::strong_count(pulse) > 1);
        }
        Pulse(Arc::clone(pulses.entry(member).or_default()))
    }

    /// Tells the detector every member's last frame, but `own`: a link to oneself is no other member.
    pub(super) fn feed(&self, own: MemberId, detector: &mut Detector) {
        for (member, pulse) in self.lock().iter() {
            let at = pulse.load(Ordering::Relaxed);
            if at > 0 && *member != own {
                detector.heard(*member, at);
            }
        }
    }

    pub(super) fn forget(&self, member: MemberId) {
        self.lock().remove(&member);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Arc<AtomicU64>>> {
        // The map is whole after every statement, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const SILENCE: u64 = 3_000_000;

    /// Observes every half second up to `until`, as gossip does, and gives the last standing.
    fn watch(detector: &mut Detector, from: u64, until: u64) -> Standing {
        for at in (from..=until).step_by(500_000) {
            detector.observe(at);
        }
        detector.standing(A)
    }

    #[test]
    fn a_member_never_heard_is_not_dead() {
        let mut detector = Detector::new(SILENCE);
        detector.phi(A, false);
        assert_eq!(watch(&mut detector, 0, 60_000_000), Standing::Unheard);
    }

    #[test]
    fn a_frame_makes_alive_at_once_although_phi_says_dead() {
        let mut detector = Detector::new(SILENCE);
        detector.phi(A, false);
        assert!(detector.heard(A, 10));
        assert_eq!(detector.standing(A), Standing::Alive);
        assert!(!detector.heard(A, 11), "already alive");
    }

    #[test]
    fn death_needs_both_silence_and_phi() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 0);
        detector.phi(A, true);
        assert_eq!(watch(&mut detector, 0, 10_000_000), Standing::Alive, "phi keeps it alive");
        detector.heard(A, 10_000_000);
        detector.phi(A, false);
        assert_eq!(watch(&mut detector, 10_000_000, 12_500_000), Standing::Alive, "the frame keeps it alive");
        assert_eq!(detector.observe(13_000_000), [(A, Standing::Dead)]);
        assert_eq!(detector.observe(13_500_000), [], "told once");
    }

    #[test]
    fn a_dead_member_that_sends_a_frame_is_alive_again() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 0);
        assert_eq!(watch(&mut detector, 0, 4_000_000), Standing::Dead);
        assert!(detector.heard(A, 4_100_000));
        assert_eq!(detector.standing(A), Standing::Alive);
    }

    #[test]
    fn an_old_frame_does_not_raise_the_dead() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 0);
        watch(&mut detector, 0, 4_000_000);
        assert!(!detector.heard(A, 0));
        assert_eq!(detector.standing(A), Standing::Dead);
    }

    #[test]
    fn nobody_dies_of_our_own_pause() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 0);
        detector.observe(0);
        assert_eq!(detector.observe(20_000_000), [], "we slept, not they");
        assert_eq!(watch(&mut detector, 20_500_000, 22_500_000), Standing::Alive);
        assert_eq!(
            watch(&mut detector, 23_000_000, 23_000_000),
            Standing::Dead,
            "one silence later it counts"
        );
    }

    #[test]
    fn a_forgotten_member_starts_anew() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 0);
        watch(&mut detector, 0, 4_000_000);
        detector.forget(A);
        assert_eq!(detector.standing(A), Standing::Unheard);
    }

    #[test]
    fn traces_are_bounded_and_the_living_stay() {
        let mut detector = Detector::new(SILENCE);
        detector.heard(A, 5);
        for id in 10..10 + 2 * MAX_TRACES as u64 {
            detector.phi(MemberId(id), false);
        }
        assert_eq!(detector.members().count(), MAX_TRACES);
        assert_eq!(detector.standing(A), Standing::Alive);
    }

    #[test]
    fn a_pulse_reaches_the_detector() {
        let pulses = Pulses::default();
        let pulse = pulses.of(A);
        let mut detector = Detector::new(SILENCE);
        pulses.feed(MemberId(99), &mut detector);
        assert_eq!(detector.standing(A), Standing::Unheard);
        pulse.beat(0);
        pulses.feed(MemberId(99), &mut detector);
        assert_eq!(detector.standing(A), Standing::Alive);
    }
}
