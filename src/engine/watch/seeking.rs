//! Feeds that look for their sources.
//!
//! When a link is lost many feeds have a gap at once, and each must end its watches at other peers and begin new ones.
//! So between two ticks only so many watches are ended and begun, and whoever seeks for longest is first. One plan of
//! who tells of which partitions serves all that seek in a turn and watch collections that are placed alike.
//!
//! Invariants: a feed that is not begun is in the queue, once; whoever was sought in vain goes behind all that
//! are due.

use super::super::Engine;
use super::super::requests::Purpose;
use super::{Gap, Output, Source};
use crate::model::MemberId;
use crate::model::key::SYSTEM_PREFIX;
use crate::protocol::message::{Message, Notice, Request};
use crate::protocol::watch::WatchRequest;
use std::collections::{BTreeMap, BTreeSet};

/// Microseconds until the sources of a feed are looked for again.
const SEEK_US: u64 = 200_000;
/// Watches that are ended and begun between two ticks, give or take those of one feed: a millisecond or two.
pub(super) const WATCHES_A_TICK: usize = 1_024;

/// Who is asked for which partitions; `None` while one has no complete owner that can be reached.
type Plan = Option<BTreeMap<MemberId, Vec<u8>>>;

/// Feeds that seek.
#[derive(Debug)]
pub(super) struct Seeking {
    /// By the time in microseconds from which on they are sought.
    queue: BTreeSet<(u64, u64)>,
    /// Watches that may be ended and begun before the next tick.
    room: usize,
    /// Whether it is looked for sources at the end of this turn.
    is_wanted: bool,
}

impl Default for Seeking {
    fn default() -> Self {
        Self { queue: BTreeSet::new(), room: WATCHES_A_TICK, is_wanted: false }
    }
}

impl Seeking {
    /// A feed that is sought in this turn.
    pub(super) fn add_new(&mut self, feed: u64, again_us: u64) {
        self.queue.insert((again_us, feed));
        self.is_wanted = true;
    }

    /// A feed that is over seeks no more.
    pub(super) fn remove(&mut self, feed: u64, again_us: u64) {
        self.queue.remove(&(again_us, feed));
    }

    /// Time passed: there is room again, and whoever is due is sought at the end of this turn.
    pub(super) fn tick(&mut self) {
        (self.room, self.is_wanted) = (WATCHES_A_TICK, !self.queue.is_empty());
    }

    /// The feed that is due for longest, while there is room.
    fn pop(&mut self, now_us: u64) -> Option<u64> {
        let is_due = |(again_us, _): &(u64, u64)| self.room > 0 && *again_us <= now_us;
        let first = self.queue.first().copied().filter(is_due)?;
        self.queue.remove(&first);
        Some(first.1)
    }
}

impl Engine {
    /// Looks for the sources of feeds that lack them. Called at the end of a turn, before changes are told.
    pub(in crate::engine) fn seek_sources(&mut self) {
        if !std::mem::take(&mut self.watches.seeking.is_wanted) {
            return;
        }
        let mut plans: BTreeMap<(bool, Option<usize>), Plan> = BTreeMap::new();
        while let Some(id) = self.watches.seeking.pop(self.now.mono_us) {
            let Some(feed) = self.watches.feeds.get(&id) else { continue };
            // Every member has kith's own collections, whoever can't be reached.
            let collection = feed.interest.collection.as_deref();
            let is_system = collection.is_some_and(|name| name.starts_with(SYSTEM_PREFIX));
            let class = collection.map(|name| self.placement.layout().class_of(name));
            let plan = plans.entry((is_system, class));
            let plan = plan.or_insert_with(|| self.plan_parts(collection, false));
            let ended = self.end_sources(id);
            let begun = self.begin_sources(id, plan);
            let seeking = &mut self.watches.seeking;
            seeking.room = seeking.room.saturating_sub(1.max(ended + begun));
        }
    }

    /// Begins a feed if every partition has a source, else it seeks again later; gives the number of its sources.
    fn begin_sources(&mut self, id: u64, plan: &Plan) -> usize {
        let again_us = self.now.mono_us + SEEK_US;
        let Some(feed) = self.watches.feeds.get_mut(&id) else { return 0 };
        feed.again_us = again_us;
        let Some(plan) = plan else {
            self.watches.seeking.queue.insert((again_us, id));
            return 0;
        };
        let (interest, form) = (feed.interest.clone(), feed.form);
        let me = self.identity.member;
        let mut sources = Vec::with_capacity(plan.len());
        for (member, partitions) in plan {
            let (member, partitions, watch) = (*member, partitions.clone(), self.watches.next_watch());
            if member == me {
                self.watches.told.add_own(watch, id, &interest, form, partitions.clone());
                self.records.noted.set_active(true);
            } else {
                self.watches.at_peers.insert(watch, id);
                let (interest, partitions) = (interest.clone(), partitions.clone());
                let request = WatchRequest { watch, interest, form, partitions };
                // A link that is gone meanwhile is noticed as one that goes later.
                self.ask(member, Request::Watch(request), Purpose::Watch(watch));
            }
            sources.push(Source { member, partitions, watch });
        }
        let Some(feed) = self.watches.feeds.get_mut(&id) else { return 0 };
        feed.epoch += 1;
        let (epoch, count) = (feed.epoch, sources.len());
        (feed.is_begun, feed.sources) = (true, sources);
        self.watches.output(Output::Begun { feed: id, epoch, sources: count });
        count
    }

    /// Something may be missing of a feed: it begins anew.
    pub(super) fn gap(&mut self, feed: u64, reason: Gap) {
        if self.stop_telling(feed) {
            self.watches.output(Output::Gap { feed, reason });
        }
    }

    /// Nothing more is told of a feed until it is begun again; says whether it was begun.
    pub(super) fn stop_telling(&mut self, id: u64) -> bool {
        let Some(feed) = self.watches.feeds.get_mut(&id).filter(|feed| feed.is_begun) else { return false };
        feed.is_begun = false;
        self.watches.seeking.queue.insert((feed.again_us, id));
        let me = self.identity.member;
        for own in feed.sources.extract_if(.., |source| source.member == me) {
            self.watches.told.remove(own.watch);
        }
        true
    }

    /// Ends the watches of a feed; gives their number.
    pub(super) fn end_sources(&mut self, feed: u64) -> usize {
        let sources = self.watches.feeds.get_mut(&feed).map(|feed| std::mem::take(&mut feed.sources));
        let sources = sources.unwrap_or_default();
        let count = sources.len();
        for Source { member, watch, .. } in sources {
            if member == self.identity.member {
                self.watches.told.remove(watch);
            } else if self.watches.at_peers.remove(&watch).is_some() {
                self.send_message(member, &Message::Notice(Notice::Unwatch { watch }));
            }
        }
        count
    }
}
