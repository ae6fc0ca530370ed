//! Quiet rounds: telling that whatever was under way at some moment has arrived.
//!
//! Who reclaims a tombstone must know that nothing older is on its way any more, at any member. Each member
//! counts rounds. A round has two stages, one after the other:
//!
//! 1. What may bring records here or send them on ends, as far as it had begun: reads and their repairs, requests,
//!    a pass. No partition is incomplete, and nothing is held of partitions that others own; what was
//!    held is dropped, and the drop is fsynced.
//! 2. The links are marked: those with records in their queue, and each member of whom the present link has brought no frame
//!    yet (frames of earlier links, of earlier lives too, may lie unread there). A mark is done when its
//!    records are confirmed after fsync on that very link, or a frame came on a newer one.
//!
//! Two rounds that end after a question include one that began after it. That this suffices, and that each part
//! of it is needed, `integration/reclaim_model.rs` shows.

use super::Engine;
use super::peer::Peer;
use crate::model::MemberId;
use crate::model::timestamp::time_of_ms;
use crate::protocol::reclaim::Quietness;

/// What is waited for on one link.
#[derive(Debug)]
struct Mark {
    member: MemberId,
    /// The link, if there was one.
    link: Option<u64>,
    /// The last record that was queued on it.
    queued: u64,
}

#[derive(Debug)]
enum Stage {
    /// Until what was begun before these numbers has ended: requests, gathers, and passes.
    Ending { request: u64, gather: u64, pass: u64 },
    /// Until these marks are done.
    Sending(Vec<Mark>),
}

/// Where the present round stands.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    rounds: u64,
    stage: Option<Stage>,
    /// Placements that were adopted in this life.
    pub(super) adoptions: u64,
}

impl Engine {
    /// Rounds that ended in this life.
    pub(super) const fn quiet_rounds(&self) -> u64 {
        self.quiet.rounds
    }

    /// How quiet this member has been.
    pub(super) fn quietness(&self) -> Quietness {
        Quietness {
            life: self.identity.life,
            adoptions: self.quiet.adoptions,
            rounds: self.quiet.rounds,
            time: self.passed_time(),
        }
    }

    /// Whatever this member stamps from now on, for clients, is stamped with a higher time: above all that it has seen,
    /// and not behind the time of day.
    pub(super) fn passed_time(&self) -> u64 {
        self.clock.time().max(time_of_ms(self.wall_ms))
    }

    /// Goes on with the present round, and begins the next. Called at each tick.
    pub(super) fn step_quiet(&mut self) {
        match &self.quiet.stage {
            None => {
                let (request, gather) = (self.requests.last_sent(), self.requests.last_gather);
                let pass = self.anti_entropy.last_number();
                self.quiet.stage = Some(Stage::Ending { request, gather, pass });
            }
            Some(Stage::Ending { request, gather, pass }) => {
                let ended = self.requests.have_ended(*request, *gather)
                    && self.anti_entropy.has_ended(*pass)
                    && self.copying.is_empty()
                    && self.holds_nothing_foreign();
                if ended {
                    self.quiet.stage = Some(Stage::Sending(self.marks()));
                }
            }
            Some(Stage::Sending(marks)) => {
                if marks.iter().all(|mark| self.is_done(mark)) {
                    self.quiet.stage = None;
                    self.quiet.rounds += 1;
                }
            }
        }
    }

    fn marks(&self) -> Vec<Mark> {
        let me = self.identity.member;
        let members = self.roster.members().map(|(member, _)| member).filter(|member| *member != me);
        let marks =
            members.filter_map(|member| match self.peer(member).and_then(|peer| peer.link.as_ref()) {
                Some(link) if link.was_heard() && link.is_quiet() => None,
                Some(link) => Some(Mark { member, link: Some(link.id), queued: link.queued() }),
                None => Some(Mark { member, link: None, queued: 0 }),
            });
        marks.collect()
    }

    fn is_done(&self, mark: &Mark) -> bool {
        let link = self.peer(mark.member).and_then(|peer: &Peer| peer.link.as_ref());
        let Some(link) = link else { return self.roster.get(mark.member).is_none() };
        let is_newer = mark.link != Some(link.id);
        link.was_heard() && (is_newer || link.fsynced() >= mark.queued)
    }
}
