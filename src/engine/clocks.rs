//! The members' wall clocks: which time of day this member believes, whether it may stamp, and how far
//! into the future times from elsewhere may lead.
//!
//! What is known of a peer's wall clock is kept as its distance to this member's *monotonic* clock, so
//! it stays true while the own wall clock is set, frozen or runs at another speed. The time of day that
//! is believed is the median of the clocks of the whole roster.
//!
//! Invariants, as long as the members' medians differ by less than a quarter of `max_clock_ahead`:
//!
//! - No healthy member refuses the stamp of a healthy one. Fresh writes are taken up to *median +
//!   `max_clock_ahead`*, but times from elsewhere move the own clock only to three quarters of that,
//!   and a wall clock that is more than half of it away from the median stamps nothing.
//! - What healthy members stamped, a session's next write exceeds anywhere: what a session has seen
//!   counts as far as fresh writes are taken.

use super::Engine;
use super::peer::Peer;
use crate::model::MemberId;
use crate::model::clock::RESERVATION_MS;
use crate::model::timestamp::{ms_of_time, time_of_ms};

/// Milliseconds by which a clock leaves its course before the median is found anew at once.
const JUMP_MS: u64 = 100;
/// Microseconds within which a peer's first frame comes, unless it is stuck.
const FIRST_FRAME_US: u64 = 1_500_000;
/// Microseconds for which a reading counts, at least; at most twice as long while others come.
const READING_US: u64 = 10_000_000;

/// What the frames of a peer told of its wall clock, in milliseconds over the own monotonic clock.
///
/// A frame that was under way for long (it waited in a cut, or for this member) tells a time that is
/// past. So the highest reading of the last frames counts: that of the quickest one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    since_us: u64,
    highest: i64,
    before: i64,
}

impl Reading {
    fn add(known: Option<Self>, now_us: u64, reading: i64) -> Self {
        match known {
            None => Self { since_us: now_us, highest: reading, before: reading },
            Some(known) if now_us >= known.since_us + READING_US => {
                Self { since_us: now_us, highest: reading, before: known.highest }
            }
            Some(known) => Self { highest: known.highest.max(reading), ..known },
        }
    }

    fn value(self) -> i64 {
        self.highest.max(self.before)
    }
}

/// The own wall clock and that of the majority; both in milliseconds over the own monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clocks {
    /// The own wall clock, when the median was found.
    own_ms: i64,
    median_ms: i64,
}

impl Engine {
    fn mono_ms(&self) -> i64 {
        i64::try_from(self.now.mono_us / 1_000).unwrap_or(i64::MAX)
    }

    /// A wall clock's reading of now as its distance to the monotonic clock.
    fn over_mono(&self, wall_ms: u64) -> i64 {
        i64::try_from(wall_ms).unwrap_or(i64::MAX).saturating_sub(self.mono_ms())
    }

    /// Time passed: was the wall clock set meanwhile?
    pub(super) fn watch_clock(&mut self) {
        if self.over_mono(self.now.wall_ms).abs_diff(self.clocks.own_ms) > JUMP_MS {
            self.check_clock();
        }
    }

    /// A frame tells a peer's clocks: its wall clock and the time that it stamps above.
    pub(super) fn note_clock(&mut self, member: MemberId, wall_ms: u64, time: u64) {
        self.follow(time);
        let reading = self.over_mono(wall_ms);
        let now_us = self.now.mono_us;
        let Some(peer) = self.peer_mut(member) else { return };
        peer.clock_time = time;
        let known = Reading::add(peer.clock, now_us, reading);
        let before = peer.clock.replace(known);
        if before.is_none_or(|before| before.value().abs_diff(known.value()) > JUMP_MS) {
            self.check_clock();
        }
    }

    /// A start continues above the reservation that it found, which is a little in the future. Until the
    /// wall clock is there, nothing is stamped for clients: whoever does not hear of such a stamp would
    /// stamp lower what a client writes later. No longer than a reservation reaches: the wall clock may
    /// have been set back.
    pub(super) fn wait_out_reservation(&mut self) {
        let ahead_ms = ms_of_time(self.clock.time()).saturating_sub(self.now.wall_ms);
        self.rests_until_us = self.now.mono_us + 1_000 * ahead_ms.min(RESERVATION_MS);
    }

    fn is_resting(&self) -> bool {
        self.now.mono_us < self.rests_until_us
    }

    /// The time that frames tell others to stamp above. A reservation that nothing was stamped above
    /// yet is nobody else's.
    pub(super) fn time_to_tell(&self) -> u64 {
        let is_untouched = self.is_resting() && self.clock.stamped() == 0;
        let time = self.clock.time();
        if is_untouched { time.min(time_of_ms(self.now.wall_ms)) } else { time }
    }

    /// Whether writes of clients may be stamped.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        !self.is_resting() && self.knows_clocks()
    }

    /// Whether the clock of every peer that can be reached was heard in this life. Until then, which is
    /// a moment after a start, nothing is stamped for clients: a clock that is behind would not know it,
    /// and a session's write would not follow what it has seen.
    ///
    /// A peer whose disk is stuck shows no stamp and so sends nothing: nobody waits for it for long.
    fn knows_clocks(&self) -> bool {
        let is_late = |peer: &Peer| self.now.mono_us >= peer.linked_us + FIRST_FRAME_US;
        self.peers.iter().all(|peer| peer.clock.is_some() || !peer.is_reachable() || is_late(peer))
    }

    /// Finds the median of the members' clocks, and whether this member's is near enough to stamp.
    /// Members that can't be reached count as they were last heard: of the two on one side of a cut,
    /// neither could tell who is wrong.
    ///
    /// Less than half of all clocks are wrong. So this member's is, if more than that many others
    /// disagree with it, and then the others are believed. Else it is right, and whoever was never heard
    /// counts as if it agreed. Of two nobody can tell which one is wrong.
    pub(super) fn check_clock(&mut self) {
        let own_ms = self.over_mono(self.now.wall_ms);
        let reading = |member: MemberId| self.peer(member).and_then(|peer| Some(peer.clock?.value()));
        let others = self.roster.members().map(|(member, _)| member).filter(|m| *m != self.identity.member);
        let (mut readings, mut silent) = (Vec::new(), 0);
        for other in others {
            match reading(other) {
                Some(reading) => readings.push(reading),
                None => silent += 1,
            }
        }
        let allowed_ms = self.clock_offset_limit_ms();
        let disagree = readings.iter().filter(|reading| reading.abs_diff(own_ms) > allowed_ms).count();
        let wrong_at_most = ((readings.len() + silent) / 2).max(1);
        if disagree <= wrong_at_most {
            readings.extend(std::iter::repeat_n(own_ms, 1 + silent));
        }
        readings.sort_unstable();
        let middle = readings.len() / 2;
        let at = |index: usize| readings.get(index).copied().unwrap_or(own_ms);
        // Between two in the middle the nearer one: a clock is not moved by half a vote.
        let lower = if readings.len() % 2 == 1 { middle } else { middle.saturating_sub(1) };
        let nearer = [at(lower), at(middle)].into_iter().min_by_key(|reading| reading.abs_diff(own_ms));
        self.clocks = Clocks { own_ms, median_ms: nearer.unwrap_or(own_ms) };
        // A clock that was far ahead and was set back goes on giving stamps from there.
        self.may_stamp = self.is_near(own_ms) && self.clock.time() <= self.follow_bound();
    }

    /// The time of day to act by: the own wall clock, or what is believed if that is off. A member
    /// whose clock is off stamps what nobody else can, and others must be able to take it; and what expires
    /// does so at the same time everywhere.
    pub(super) fn wall_to_act_by(&self) -> u64 {
        if self.is_near(self.over_mono(self.now.wall_ms)) {
            self.now.wall_ms
        } else {
            self.believed_wall_ms()
        }
    }

    /// The time of day that times from elsewhere are measured against.
    fn believed_wall_ms(&self) -> u64 {
        u64::try_from(self.clocks.median_ms.saturating_add(self.mono_ms())).unwrap_or(0)
    }

    fn bound(&self, ahead_ms: u64) -> u64 {
        time_of_ms(self.believed_wall_ms().saturating_add(ahead_ms))
    }

    /// The highest time of a fresh write that this member takes.
    pub(super) fn foreign_bound(&self) -> u64 {
        self.bound(self.settings.max_clock_ahead_ms)
    }

    /// The highest time from elsewhere that this member's clock follows.
    pub(super) fn follow_bound(&self) -> u64 {
        self.bound(self.settings.max_clock_ahead_ms / 4 * 3)
    }

    /// Merges a time from elsewhere into the clock.
    pub(super) fn follow(&mut self, time: u64) {
        self.clock.observe(time, self.follow_bound());
    }

    /// Milliseconds that this member's wall clock is ahead of the median of the members, and whether
    /// it is near enough to stamp.
    #[must_use]
    pub const fn clock_health(&self) -> (i64, bool) {
        (self.clocks.own_ms.saturating_sub(self.clocks.median_ms), self.may_stamp)
    }

    /// A peer's wall clock minus this member's, in milliseconds.
    pub(super) fn clock_offset_ms(&self, peer: &Peer) -> Option<i64> {
        peer.clock.map(|clock| clock.value().saturating_sub(self.over_mono(self.now.wall_ms)))
    }

    /// Whether a peer's clock is near enough to the median for it to stamp, as far as is known.
    pub(super) fn has_right_clock(&self, peer: &Peer) -> bool {
        peer.clock_time <= self.foreign_bound() && peer.clock.is_none_or(|clock| self.is_near(clock.value()))
    }

    /// How far a wall clock may be away from the median for its member to stamp.
    #[must_use]
    pub const fn clock_offset_limit_ms(&self) -> u64 {
        self.settings.max_clock_ahead_ms / 2
    }

    const fn is_near(&self, reading: i64) -> bool {
        reading.abs_diff(self.clocks.median_ms) <= self.clock_offset_limit_ms()
    }
}

#[cfg(test)]
mod tests;
