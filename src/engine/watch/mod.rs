//! Watching: every change of what somebody watches, in an order that never goes back.
//!
//! The promise is of each key's latest state under a prefix, never older after newer. On one owner a key's record only
//! moves forward in the order of merging; two owners stand at different places of it. So a watch hears of each
//! partition from one complete owner, its *source*: this member where it is one, else one that can be reached. What a
//! source tells, pages of a listing and changes alike, travels in the order of its telling, for the messages
//! of one link do and so does what leaves here through [`Output`]s. Nobody keeps anything per key.
//!
//! **States.** A *feed* is an interest that this member watches for its clients. It *seeks* until every partition
//! has a source, then it is *begun* with a new epoch, and each source has a *watch*: a subscription here, or at a
//! peer. Who reads a feed asks for pages of the listing, source by source, and gets changes meanwhile. A feed whose
//! source is lost has a *gap*: nothing more is told of its epoch, and it seeks again. Its watches at peers end when it
//! is its turn to do so (`seeking`).
//!
//! **Invariants.**
//! - Within an epoch a partition has one source, and that one is complete for it from the beginning to the end. A
//!   source that loses a partition, if only for a moment, says that the watch is over before it says
//!   anything else (`Engine::unvouch`): what it merges while it is not complete may be older than what it told.
//! - A change is noted where readers begin to see it: a record that is merged, or resolved by a load. It is told
//!   once a turn with the record as it is then. A page that was made in the same turn before that may have it already; it
//!   never has anything newer than what is told after it.
//! - What a page takes from redb is no older than what was told. A record leaves memory only after the commit of
//!   it was noted here, and ranges and commits are answered in the order in which the disk did them: so where a range
//!   was read before a commit, what was committed is still in memory when the range comes.
//! - Nothing with an own stamp leaves before a reservation covers it: frames with messages wait for that, and so
//!   do outputs, all of them, so that their order stays.
//! - All is bounded: what waits for a peer that does not read ends its watches, what waits here ends all feeds'. Of
//!   one turn so many bytes are told, to this member's feeds and to each peer: a watch that needs more ends.
//!
//! **Interleavings.** A page from a source's earlier epoch: its token is void for the reader that heard of the
//! gap. A source that answers a page after its watch ended: the end comes first on the link. A watch that the source
//! refuses (its placement differs, it has just lost the partition): the refusal comes before any page. A link that ends
//! and comes up within a turn: the watches at both ends ended with it. A source that others can't reach goes on
//! telling what it has: that is old, and never older than what it told.
//!
//! Expiry is a change like any other; see `expiries` for how it comes in time.

mod expiries;
mod interests;
mod noted;
mod seeking;
mod source;

pub(super) use noted::Noted;

use super::operation::OperationError;
use super::requests::Purpose;
use super::scan::has_all_bits;
use super::{Engine, Mode};
use crate::model::limits::MAX_KEY_BYTES;
use crate::model::{KeyRange, MemberId};
use crate::protocol::message::{Request, ScanRequest};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::protocol::watch::{ChangeKind, Form, Interest, Kinds, NamedChange};

/// Feeds of one member: distinct interests that its clients watch.
pub const MAX_FEEDS: usize = 4_096;
/// Watches that one member tells changes to, those of its peers included.
const MAX_WATCHES: usize = 1 << 16;
/// Records in a page of a feed's listing.
const PAGE_RECORDS: u32 = 512;
/// Bytes of outputs that wait to be taken. A feed whose changes would exceed it has a gap; if what others tell exceeds
/// it, all have.
const MAX_OUTPUT_BYTES: usize = 32 << 20;

/// Why what was told of a feed may lack something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// A member that it heard of changes from is gone, or can't tell all any more.
    Source,
    /// Other members own what is watched.
    Moved,
    /// More changed at a time than could be kept.
    Overflow,
}

/// What is told to who reads feeds, in this order.
#[derive(Debug)]
pub enum Output {
    /// A feed hears of all changes from now on; pages of so many sources can be asked for.
    Begun {
        /// The feed.
        feed: u64,
        /// Rises with each time.
        epoch: u64,
        /// How many there are.
        sources: usize,
    },
    /// The latest records of keys of a feed whose form is [`Form::Latest`], in their canonical form.
    Changed {
        /// The feed.
        feed: u64,
        /// One after the other; tombstones and expired ones among them.
        records: Vec<u8>,
    },
    /// Changes of a feed whose form is [`Form::Each`].
    Named {
        /// The feed.
        feed: u64,
        /// In the order in which they came at their owners.
        changes: Vec<NamedChange>,
    },
    /// A page of a listing.
    Page {
        /// What the asker named it.
        token: u64,
        /// The page; `None` when the source did not answer: to be asked for again.
        page: Option<FeedPage>,
    },
    /// Something may be missing from here on until the feed is begun again.
    Gap {
        /// The feed.
        feed: u64,
        /// Why.
        reason: Gap,
    },
    /// The feed is over: this member serves nobody any more.
    Ended {
        /// The feed.
        feed: u64,
        /// Why.
        error: OperationError,
    },
}

/// A page of one source's part of a listing.
#[derive(Debug)]
pub struct FeedPage {
    /// Canonical bytes of readable records, in order of their keys.
    pub records: Vec<u8>,
    /// The key to continue after; none at the end.
    pub resume: Option<Vec<u8>>,
}

/// Where a feed hears of some partitions from.
#[derive(Debug)]
struct Source {
    member: MemberId,
    partitions: Vec<u8>,
    watch: u64,
}

/// An interest that is watched for clients of this member.
#[derive(Debug)]
struct Feed {
    interest: Interest,
    form: Form,
    epoch: u64,
    /// Whether it hears of all changes; else it seeks.
    is_begun: bool,
    /// Where it hears of them from; while it seeks, watches that are still to be ended.
    sources: Vec<Source>,
    /// Before this time in microseconds it does not seek again.
    again_us: u64,
}

/// All that is watched, here and for others.
#[derive(Debug, Default)]
pub(super) struct Watches {
    feeds: BTreeMap<u64, Feed>,
    last_feed: u64,
    last_watch: u64,
    seeking: seeking::Seeking,
    /// Watches at peers, and the feeds that they are for.
    at_peers: BTreeMap<u64, u64>,
    told: source::Told,
    /// Partitions that this member can't vouch for any more.
    unvouched: BTreeSet<u16>,
    outputs: Vec<Output>,
    output_bytes: usize,
    expiries: expiries::Expiries,
}

impl Watches {
    fn output(&mut self, output: Output) {
        self.output_bytes += output.bytes();
        self.outputs.push(output);
    }

    const fn next_watch(&mut self) -> u64 {
        self.last_watch += 1;
        self.last_watch
    }

    /// Feeds, and watches that changes are told to.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.feeds.len(), self.told.len())
    }
}

impl Output {
    /// Memory that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_change =
            |change: &NamedChange| size_of::<NamedChange>() + change.collection.len() + change.key.len();
        let contents = match self {
            Self::Changed { records, .. } => records.len(),
            Self::Named { changes, .. } => changes.iter().map(of_change).sum(),
            Self::Page { page, .. } => page.as_ref().map_or(0, |page| page.records.len()),
            Self::Begun { .. } | Self::Gap { .. } | Self::Ended { .. } => 0,
        };
        size_of::<Self>() + contents
    }

    /// What is still to be told of it where it was lost: that a feed is over, and that a page will not come. All else
    /// is covered by the gap.
    #[must_use]
    pub fn that_was_lost(self) -> Option<Self> {
        match self {
            Self::Ended { .. } => Some(self),
            Self::Page { token, .. } => Some(Self::Page { token, page: None }),
            Self::Begun { .. } | Self::Changed { .. } | Self::Named { .. } | Self::Gap { .. } => None,
        }
    }

    /// The same for whom the feed has another name.
    #[must_use]
    pub fn renamed(mut self, name: u64) -> Self {
        match &mut self {
            Self::Begun { feed, .. }
            | Self::Changed { feed, .. }
            | Self::Named { feed, .. }
            | Self::Gap { feed, .. }
            | Self::Ended { feed, .. } => *feed = name,
            Self::Page { .. } => {}
        }
        self
    }
}

impl Engine {
    /// Begins a feed; [`Output`]s tell what comes of it.
    ///
    /// # Errors
    /// [`OperationError`] when this member serves nobody, or has too many feeds.
    pub fn begin_feed(&mut self, interest: Interest, form: Form) -> Result<u64, OperationError> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let names_fit = interest.prefix.len() <= MAX_KEY_BYTES;
        if self.watches.feeds.len() >= MAX_FEEDS || !names_fit {
            return Err(OperationError::TooManyWatches);
        }
        self.watches.last_feed += 1;
        let (feed, again_us) = (self.watches.last_feed, self.now.mono_us);
        let seeking = Feed { interest, form, epoch: 0, is_begun: false, sources: Vec::new(), again_us };
        self.watches.feeds.insert(feed, seeking);
        self.watches.seeking.add_new(feed, again_us);
        // It is sought at the end of this turn, and told what changes in the rest of it.
        self.records.noted.set_active(true);
        Ok(feed)
    }

    /// Ends a feed. What was asked for it may still be told.
    pub fn end_feed(&mut self, feed: u64) {
        self.end_sources(feed);
        if let Some(ended) = self.watches.feeds.remove(&feed) {
            self.watches.seeking.remove(feed, ended.again_us);
        }
    }

    /// Asks for a page of a feed's listing: of one of its sources in an epoch, after a key. [`Output::Page`] brings it
    /// under `token`.
    pub fn feed_page(&mut self, token: u64, feed: u64, epoch: u64, source: usize, after: Option<Vec<u8>>) {
        self.take_writes();
        let begun = self.watches.feeds.get(&feed).filter(|feed| feed.is_begun && feed.epoch == epoch);
        let source = begun.and_then(|feed| Some((feed.interest.clone(), feed.sources.get(source)?)));
        let Some((Interest { collection: Some(collection), prefix }, source)) = source else {
            return self.feed_page_failed(token);
        };
        let (member, partitions) = (source.member, source.partitions.clone());
        let keys = KeyRange::with_prefix(&prefix);
        let keys = after.iter().fold(keys, |keys, after| keys.beyond(after, false));
        let (reverse, keys_only, limit) = (false, false, PAGE_RECORDS);
        let request = ScanRequest { collection, keys, reverse, keys_only, limit, partitions };
        if member == self.identity.member {
            self.scan_own_for_feed(token, request);
        } else if !self.ask(member, Request::Scan(request), Purpose::FeedPage(token)) {
            self.feed_page_failed(token);
        }
    }

    /// A page of a source arrived.
    pub(super) fn feed_page_came(&mut self, token: u64, records: Vec<u8>, resume: Option<Vec<u8>>) {
        self.watches.output(Output::Page { token, page: Some(FeedPage { records, resume }) });
    }

    /// A page will not come.
    pub(super) fn feed_page_failed(&mut self, token: u64) {
        self.watches.output(Output::Page { token, page: None });
    }

    /// What is to be told since the last call, in order; nothing while it may show a stamp that no durable reservation
    /// covers. To be taken at the end of a turn, behind its journal.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        if self.watches.outputs.is_empty() || !self.clock.is_covered(self.clock.stamped()) {
            return Vec::new();
        }
        self.watches.output_bytes = 0;
        std::mem::take(&mut self.watches.outputs)
    }

    /// Who takes outputs could not keep them: all feeds have a gap.
    pub fn outputs_lost(&mut self) {
        let lost = std::mem::take(&mut self.watches.outputs);
        self.watches.output_bytes = 0;
        for output in lost.into_iter().filter_map(Output::that_was_lost) {
            self.watches.output(output);
        }
        let feeds: Vec<u64> = self.watches.feeds.keys().copied().collect();
        for feed in feeds {
            // Also one that seeks: that it had a gap may be what was lost.
            self.stop_telling(feed);
            self.watches.output(Output::Gap { feed, reason: Gap::Overflow });
        }
    }

    /// Feeds of this member, and watches that it tells changes to.
    #[must_use]
    pub fn watch_counts(&self) -> (usize, usize) {
        self.watches.counts()
    }

    fn refusal(&self) -> Option<OperationError> {
        match self.mode {
            Mode::NoCluster => Some(OperationError::NoCluster),
            Mode::Starting => Some(OperationError::Starting),
            Mode::Stopping => Some(OperationError::Stopping),
            Mode::Gone(gone) => Some(OperationError::Gone(gone)),
            Mode::Serving => None,
        }
    }

    /// A peer can't tell changes any more.
    pub(super) fn source_lost(&mut self, member: MemberId) {
        let hears = |feed: &Feed| feed.sources.iter().any(|source| source.member == member);
        self.gap_where(Gap::Source, hears);
    }

    /// A peer says that a watch there is over, or refuses it.
    pub(super) fn watch_ended(&mut self, member: MemberId, watch: u64) {
        if let Some(feed) = self.feed_at_peer(member, watch) {
            self.watches.at_peers.remove(&watch);
            self.gap(feed, Gap::Source);
        }
    }

    /// A peer did not answer in time whether it watches. It may do so, now or once it reads what it was asked: it is told
    /// that nobody wants that any more.
    pub(super) fn watch_given_up(&mut self, member: MemberId, watch: u64) {
        if let Some(feed) = self.feed_at_peer(member, watch) {
            self.gap(feed, Gap::Source);
        }
    }

    /// The feed that a peer's watch is for.
    fn feed_at_peer(&self, member: MemberId, watch: u64) -> Option<u64> {
        let feed = *self.watches.at_peers.get(&watch)?;
        let is_its = |source: &Source| source.watch == watch && source.member == member;
        let begun = self.watches.feeds.get(&feed).filter(|feed| feed.is_begun)?;
        begun.sources.iter().any(is_its).then_some(feed)
    }

    fn gap_where(&mut self, reason: Gap, lacks: impl Fn(&Feed) -> bool) {
        let lacks = |(_, feed): &(&u64, &Feed)| feed.is_begun && lacks(feed);
        let feeds = self.watches.feeds.iter().filter(lacks).map(|(id, _)| *id);
        for feed in feeds.collect::<Vec<_>>() {
            self.gap(feed, reason);
        }
    }

    /// The placement changed: a source that owns a partition no more will not hear of its changes. (What this member
    /// itself is complete for it notices by itself.)
    pub(super) fn rebase_feeds(&mut self) {
        if self.watches.feeds.is_empty() {
            return;
        }
        let me = self.identity.member;
        // Once for all feeds, of which many have the same sources.
        let owned = self.partitions_by_owner();
        let owns = |source: &Source| {
            let owned = owned.get(&source.member);
            source.member == me || owned.is_some_and(|owned| has_all_bits(owned, &source.partitions))
        };
        self.gap_where(Gap::Moved, |feed| !feed.sources.iter().all(owns));
    }

    /// Partitions are numbered anew: whoever is told of changes of some begins anew.
    pub(super) fn rebegin_feeds(&mut self) {
        self.end_all_watches();
        self.gap_where(Gap::Moved, |_| true);
    }

    /// This member serves nobody any more.
    pub(super) fn end_feeds(&mut self) {
        let Some(error) = self.refusal() else { return };
        let feeds: Vec<u64> = self.watches.feeds.keys().copied().collect();
        for feed in feeds {
            self.end_feed(feed);
            self.watches.output(Output::Ended { feed, error: error.clone() });
        }
    }

    /// What is due with time. Called at each tick.
    pub(super) fn tick_watches(&mut self) {
        self.watches.seeking.tick();
        self.expire_watched();
    }
}

#[cfg(test)]
pub(super) mod tests;
