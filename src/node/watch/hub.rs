//! The hub: feeds with their rings, and who reads them, on the services' runtime.

use super::WatchRequest;
use super::event::Cursor;
use super::pages::{MAX_PAGES, PageSlot};
use super::reader::Watch;
use super::ring::Ring;
use crate::engine::operation::OperationError;
use crate::engine::watch::{FeedPage, Gap, Interest, MAX_FEEDS, Output};
use crate::model::RecordRef;
use crate::node::handle::Request;
use crate::node::publish::gauge;
use crate::telemetry::names::WatchTotals;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

/// Watches of one member at a time, however many connections it takes.
const MAX_WATCHES: usize = 10_000;
/// Connections that are left to others.
const OTHER_CONNECTIONS: usize = 16;
/// Bytes of one ring.
const MAX_RING_BYTES: usize = 8 << 20;
/// Bytes of all rings together.
const MAX_RINGS_BYTES: usize = 128 << 20;
/// How long a feed that nobody watches is kept, for who comes again with a cursor.
const LINGER: Duration = Duration::from_secs(60);
/// How many of them at most, of those that the engine takes; its own tasks have feeds, too.
const MAX_IDLE_FEEDS: usize = MAX_FEEDS / 4;
/// How often what is left behind is looked for.
const UPKEEP: Duration = Duration::from_secs(1);
/// Messages of the data thread that may wait, and their bytes.
const QUEUED_BATCHES: usize = 1_024;
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// What giving a piece of text costs, about: the part that each has, and so many bytes in a microsecond.
const PIECE_COST: Duration = Duration::from_micros(30);
const BYTES_IN_MICROSECOND: u64 = 1_000;
/// All watches together take the time of one processor's `1 / SHARE`.
const SHARE: u32 = 10;

/// What the data thread hands on at the end of a turn.
#[derive(Debug)]
pub(in crate::node) struct Batch {
    outputs: Vec<Output>,
    bytes: usize,
}

/// The hub's end of the channel.
pub(in crate::node) type Batches = mpsc::Receiver<Batch>;

/// The data thread's end.
#[derive(Debug)]
pub(in crate::node) struct Inlet {
    batches: mpsc::Sender<Batch>,
    hub: Arc<Hub>,
}

impl Inlet {
    /// Hands outputs on, or gives them back if there is no room.
    pub(super) fn send(&self, outputs: Vec<Output>) -> Result<(), Vec<Output>> {
        let bytes = outputs.iter().map(Output::bytes).sum();
        if self.hub.queued.load(Ordering::Relaxed) > MAX_QUEUED_BYTES {
            return Err(outputs);
        }
        self.hub.queued.fetch_add(bytes, Ordering::Relaxed);
        self.batches.try_send(Batch { outputs, bytes }).map_err(|refused| {
            self.hub.queued.fetch_sub(bytes, Ordering::Relaxed);
            refused.into_inner().outputs
        })
    }

    /// Numbers for metrics.
    pub(super) fn totals(&self) -> WatchTotals {
        self.hub.totals()
    }
}

/// What a hub has done since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) behind: AtomicU64,
    refused: AtomicU64,
}

/// A feed as the hub has it.
#[derive(Debug)]
pub(super) struct Feed {
    interest: Interest,
    pub(super) ring: Ring,
    /// Names the ring's contents since the last gap.
    pub(super) stretch: u64,
    /// The engine's epoch and how many sources it has, while it is begun.
    pub(super) begun: Option<(u64, usize)>,
    /// Why the last stretch ended.
    pub(super) reason: &'static str,
    pub(super) ended: Option<OperationError>,
    pub(super) news: Arc<Notify>,
    /// The engine has it.
    is_taken: bool,
    watches: usize,
    idle_since: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) feeds: HashMap<u64, Feed>,
    by_interest: HashMap<Interest, u64>,
    pub(super) pages: BTreeMap<u64, PageSlot>,
    /// Names for feeds, stretches and pages.
    last: u64,
    watches: usize,
    pub(super) is_closed: bool,
    /// When all that was given so far is paid for.
    paid_until: Option<Instant>,
}

impl State {
    pub(super) fn next_name(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Bytes of each ring. With another feed all have less, also those that hear of nothing new.
    fn room(&self) -> usize {
        (MAX_RINGS_BYTES / self.feeds.len().max(1)).min(MAX_RING_BYTES)
    }

    /// Enters a feed.
    fn add_feed(&mut self, interest: &Interest) -> u64 {
        let (name, stretch) = (self.next_name(), self.next_name());
        self.by_interest.insert(interest.clone(), name);
        self.feeds.insert(name, Feed::new(interest.clone(), stretch));
        let room = self.room();
        for feed in self.feeds.values_mut() {
            feed.ring.shrink_to(room);
        }
        name
    }

    /// Takes a feed out.
    fn remove_feed(&mut self, name: u64) {
        if let Some(feed) = self.feeds.remove(&name)
            && self.by_interest.get(&feed.interest) == Some(&name)
        {
            self.by_interest.remove(&feed.interest);
        }
    }

    /// Feeds that the engine has and nobody watches, the longest idle first.
    fn idle_feeds(&self) -> Vec<(Instant, u64)> {
        let kept = self.feeds.iter().filter(|(_, feed)| feed.is_taken && feed.ended.is_none());
        let mut idle: Vec<_> = kept.filter_map(|(name, feed)| Some((feed.idle_since?, *name))).collect();
        idle.sort_unstable();
        idle
    }

    /// Accounts for a piece of text; gives the time before which its reader gets no other one.
    pub(super) fn charge_piece(&mut self, bytes: usize) -> Instant {
        self.charge(PIECE_COST + Duration::from_micros(bytes as u64 / BYTES_IN_MICROSECOND))
    }

    pub(super) fn charge(&mut self, cost: Duration) -> Instant {
        let now = Instant::now();
        let paid_until = self.paid_until.map_or(now, |until| until.max(now)) + cost * SHARE;
        self.paid_until = Some(paid_until);
        paid_until
    }
}

/// Where watches come from.
#[derive(Debug)]
pub(in crate::node) struct Hub {
    requests: mpsc::WeakSender<Request>,
    life: u64,
    state: Mutex<State>,
    pub(super) room_for_pages: Arc<Semaphore>,
    pub(super) counts: Counts,
    /// Watches that are taken.
    most: AtomicUsize,
    /// Bytes of the data thread's messages that wait.
    queued: AtomicUsize,
}

impl Hub {
    pub(in crate::node) fn new(requests: mpsc::WeakSender<Request>, life: u64) -> Self {
        Self {
            requests,
            life,
            state: Mutex::default(),
            room_for_pages: Arc::new(Semaphore::new(MAX_PAGES)),
            counts: Counts::default(),
            most: AtomicUsize::new(MAX_WATCHES),
            queued: AtomicUsize::new(0),
        }
    }

    /// Both ends of the data thread's channel to this hub, which takes fewer watches than there may be connections of
    /// clients.
    pub(in crate::node) fn channel(self: &Arc<Self>, connections: usize) -> (Inlet, Batches) {
        let most = connections.saturating_sub(OTHER_CONNECTIONS).clamp(1, MAX_WATCHES);
        self.most.store(most, Ordering::Relaxed);
        let (batches, receiver) = mpsc::channel(QUEUED_BATCHES);
        (Inlet { batches, hub: Arc::clone(self) }, receiver)
    }

    /// No await can happen while it is held. A panic under it leaves nothing half done that a later one would trip over.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn cursor(&self, stretch: u64, place: u64) -> Cursor {
        Cursor { life: self.life, stretch, place }
    }

    pub(super) async fn ask(&self, request: WatchRequest) -> bool {
        match self.requests.upgrade() {
            Some(requests) => requests.send(Request::Watch(request)).await.is_ok(),
            None => false,
        }
    }

    /// Opens a watch.
    pub(in crate::node) async fn watch(
        self: &Arc<Self>,
        interest: Interest,
        with_values: bool,
        cursor: Option<Cursor>,
    ) -> Result<Watch, OperationError> {
        let (watch, is_new) = self.enter(&interest, with_values, cursor)?;
        if is_new {
            // Others may join before it is begun, and this client may go: beginning goes on without it.
            let begun = tokio::spawn(Arc::clone(self).begin(watch.feed(), interest)).await;
            begun.unwrap_or(Err(OperationError::Stopping))?;
        }
        Ok(watch)
    }

    /// Lets the engine begin a feed. Where it has too many, those that nobody watches make room.
    async fn begin(self: Arc<Self>, feed: u64, interest: Interest) -> Result<(), OperationError> {
        loop {
            let (reply, begun) = tokio::sync::oneshot::channel();
            self.ask(WatchRequest::Begin { feed, interest: interest.clone(), reply }).await;
            match begun.await.unwrap_or(Err(OperationError::Stopping)) {
                Ok(()) => {
                    if let Some(feed) = self.state().feeds.get_mut(&feed) {
                        feed.is_taken = true;
                    }
                    return Ok(());
                }
                Err(OperationError::TooManyWatches) if let Some(idle) = self.drop_idle() => {
                    self.ask(WatchRequest::End { feed: idle }).await;
                }
                Err(error) => {
                    self.end_feed(feed, &error);
                    return Err(error);
                }
            }
        }
    }

    /// Drops the feed that nobody has watched for longest; gives its name, for the engine must end it.
    fn drop_idle(&self) -> Option<u64> {
        let mut state = self.state();
        let (_, name) = *state.idle_feeds().first()?;
        state.remove_feed(name);
        Some(name)
    }

    /// Enters a watch; says whether its feed must be begun.
    fn enter(
        self: &Arc<Self>,
        interest: &Interest,
        with_values: bool,
        cursor: Option<Cursor>,
    ) -> Result<(Watch, bool), OperationError> {
        let mut state = self.state();
        if state.is_closed {
            return Err(OperationError::Stopping);
        }
        if state.watches >= self.most.load(Ordering::Relaxed) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(OperationError::TooManyWatches);
        }
        let known = state.by_interest.get(interest).copied();
        let name = known.unwrap_or_else(|| state.add_feed(interest));
        state.watches += 1;
        let Some(feed) = state.feeds.get_mut(&name) else { return Err(OperationError::Stopping) };
        feed.watches += 1;
        feed.idle_since = None;
        let is_same = |cursor: &Cursor| (cursor.life, cursor.stretch) == (self.life, feed.stretch);
        let place = cursor
            .filter(is_same)
            .filter(|cursor| cursor.place > 0)
            .map(|cursor| cursor.place.saturating_add(1));
        let place = place.filter(|place| feed.begun.is_some() && feed.ring.reaches(*place));
        let reason = if cursor.is_some() { "cursor" } else { "begin" };
        let news = Arc::clone(&feed.news);
        let resumed = place.zip(feed.begun).map(|(place, (epoch, _))| (place, epoch));
        drop(state);
        Ok((Watch::new(Arc::clone(self), name, news, with_values, reason, resumed), known.is_none()))
    }

    /// A watch is over.
    pub(super) fn leave(&self, name: u64, page: Option<u64>) {
        let mut state = self.state();
        state.watches = state.watches.saturating_sub(1);
        if let Some(token) = page {
            state.pages.remove(&token);
        }
        if let Some(feed) = state.feeds.get_mut(&name) {
            feed.watches = feed.watches.saturating_sub(1);
            feed.idle_since = (feed.watches == 0).then(Instant::now);
        }
    }

    /// Ends all watches: the member stops.
    pub(in crate::node) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let of_feeds = state.feeds.values().map(|feed| &feed.news);
        for news in of_feeds.chain(state.pages.values().map(|slot| &slot.news)) {
            news.notify_waiters();
        }
    }

    /// A feed is over for a reason: who watches it is told, who comes begins another one.
    fn end_feed(&self, name: u64, error: &OperationError) {
        let mut state = self.state();
        let State { feeds, by_interest, .. } = &mut *state;
        if let Some(feed) = feeds.get_mut(&name) {
            feed.ended = Some(error.clone());
            feed.begun = None;
            feed.news.notify_waiters();
            if by_interest.get(&feed.interest) == Some(&name) {
                by_interest.remove(&feed.interest);
            }
        }
    }

    fn take(&self, batch: Batch) {
        self.queued.fetch_sub(batch.bytes, Ordering::Relaxed);
        let mut ended = Vec::new();
        let mut state = self.state();
        let room = state.room();
        for output in batch.outputs {
            match output {
                Output::Begun { feed, epoch, sources } => state.begin(feed, epoch, sources),
                Output::Changed { feed, records } => state.change(feed, &records, room),
                Output::Page { token, page } => state.bring(token, page),
                Output::Gap { feed, reason } => state.gap(feed, reason),
                Output::Ended { feed, error } => ended.push((feed, error)),
                // No feed of the hub has that form.
                Output::Named { .. } => {}
            }
        }
        drop(state);
        for (feed, error) in ended {
            self.end_feed(feed, &error);
        }
    }

    /// Drops pages that nobody reads and feeds that nobody watches; gives those that the engine must end.
    fn clear_up(&self) -> Vec<u64> {
        let now = Instant::now();
        let mut state = self.state();
        state.pages.retain(|_, slot| !slot.is_stale(now));
        let idle = state.idle_feeds();
        let too_many = idle.len().saturating_sub(MAX_IDLE_FEEDS);
        let is_left = |(at, (since, _)): &(usize, (Instant, u64))| *at < too_many || now >= *since + LINGER;
        let mut left: Vec<u64> =
            idle.into_iter().enumerate().filter(is_left).map(|(_, (_, name))| name).collect();
        let has_ended = |feed: &Feed| feed.ended.is_some() && feed.idle_since.is_some();
        left.extend(state.feeds.iter().filter(|(_, feed)| has_ended(feed)).map(|(name, _)| *name));
        for name in &left {
            state.remove_feed(*name);
        }
        left
    }

    /// Numbers for metrics.
    fn totals(&self) -> WatchTotals {
        let state = self.state();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        WatchTotals {
            watches: gauge(state.watches as u64),
            ring_bytes: gauge(state.feeds.values().map(|feed| feed.ring.bytes() as u64).sum()),
            events: of(&self.counts.events),
            resets: of(&self.counts.resets),
            behind: of(&self.counts.behind),
            rejected: of(&self.counts.refused),
            ..WatchTotals::default()
        }
    }
}

impl Feed {
    fn new(interest: Interest, stretch: u64) -> Self {
        Self {
            interest,
            ring: Ring::default(),
            stretch,
            begun: None,
            reason: "begin",
            ended: None,
            news: Arc::default(),
            is_taken: false,
            watches: 0,
            idle_since: None,
        }
    }
}

impl State {
    fn begin(&mut self, name: u64, epoch: u64, sources: usize) {
        let stretch = self.next_name();
        if let Some(feed) = self.feeds.get_mut(&name) {
            feed.ring = Ring::default();
            feed.stretch = stretch;
            feed.begun = Some((epoch, sources));
            feed.news.notify_waiters();
        }
    }

    fn change(&mut self, name: u64, records: &[u8], room: usize) {
        let Some(feed) = self.feeds.get_mut(&name).filter(|feed| feed.begun.is_some()) else { return };
        let mut rest = records;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            feed.ring.push(record);
        }
        feed.ring.shrink_to(room);
        feed.news.notify_waiters();
    }

    fn gap(&mut self, name: u64, reason: Gap) {
        if let Some(feed) = self.feeds.get_mut(&name) {
            feed.begun = None;
            feed.reason = match reason {
                Gap::Source => "source_lost",
                Gap::Moved => "placement_changed",
                Gap::Overflow => "too_many_changes",
            };
            feed.news.notify_waiters();
        }
    }

    fn bring(&mut self, token: u64, page: Option<FeedPage>) {
        let Some(slot) = self.pages.get_mut(&token) else { return };
        let next = self.feeds.get(&slot.feed).map_or(0, |feed| feed.ring.next());
        slot.bring(next, page);
    }
}

/// Takes what the data thread hands on, until it ends.
pub(in crate::node) async fn run(hub: Arc<Hub>, mut batches: Batches) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) => hub.take(batch),
                None => return hub.close(),
            },
            _ = upkeep.tick() => {
                for feed in hub.clear_up() {
                    hub.ask(WatchRequest::End { feed }).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Record, Timestamp};

    fn record(key: &str, time: u64, bytes: usize) -> Vec<u8> {
        let key = KeyRef::new("c", key.as_bytes()).unwrap();
        let value = format!("<{time}>{}", "v".repeat(bytes));
        let stamp = Timestamp { time, member: MemberId(1) };
        Record::value(key, stamp, None, value.as_bytes()).view().bytes().to_vec()
    }

    /// A hub with one watch whose feed is begun, and what it asks of the data thread.
    fn open() -> (Arc<Hub>, Watch, mpsc::Receiver<Request>, mpsc::Sender<Request>) {
        let (requests, receiver) = mpsc::channel(8);
        let hub = Arc::new(Hub::new(requests.downgrade(), 7));
        let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
        let (watch, is_new) = hub.enter(&interest, true, None).unwrap();
        assert!(is_new);
        tell(&hub, vec![Output::Begun { feed: watch.feed(), epoch: 1, sources: 1 }]);
        (hub, watch, receiver, requests)
    }

    fn tell(hub: &Hub, outputs: Vec<Output>) {
        hub.take(Batch { outputs, bytes: 0 });
    }

    fn changed(watch: &Watch, records: &[Vec<u8>]) -> Output {
        Output::Changed { feed: watch.feed(), records: records.concat() }
    }

    async fn next(watch: &mut Watch) -> String {
        let piece = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
        String::from_utf8(piece.unwrap().to_vec()).unwrap()
    }

    /// Lets the watch ask for a page and gives its token and where it is to begin.
    async fn asked(watch: &mut Watch, requests: &mut mpsc::Receiver<Request>) -> (u64, Option<Vec<u8>>) {
        tokio::select! {
            piece = watch.next() => panic!("{piece:?}"),
            request = requests.recv() => match request {
                Some(Request::Watch(WatchRequest::Page { token, after, .. })) => (token, after),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_page_stands_behind_the_changes_from_before_it_came_and_ahead_of_those_from_after_it() {
        let (hub, mut watch, mut requests, _keep) = open();
        let reset = next(&mut watch).await;
        assert!(reset.contains("event: reset") && reset.contains("-0\n"), "{reset}");
        let (token, after) = asked(&mut watch, &mut requests).await;
        assert_eq!(after, None);
        let (records, resume) = ([record("a", 2, 0), record("z", 2, 0)].concat(), None);
        let outputs = vec![
            changed(&watch, &[record("a", 1, 0), record("b", 1, 0)]),
            Output::Page { token, page: Some(FeedPage { records, resume }) },
            changed(&watch, &[record("z", 3, 0), record("b", 4, 0)]),
        ];
        tell(&hub, outputs);
        let text = next(&mut watch).await;
        let values: Vec<&str> =
            text.split('<').skip(1).filter_map(|rest| Some(rest.split_once('>')?.0)).collect();
        // What b was at first nobody needs to know any more.
        assert_eq!(values, ["1", "2", "2", "3", "4"], "{text}");
        let (listing, _) = text.split_once("event: synced").unwrap();
        assert!(!listing.contains("id: "), "who comes again in the middle must get all of it");
        assert_eq!(text.matches("id: ").count(), 1);
    }

    #[tokio::test]
    async fn a_page_that_was_taken_away_is_asked_for_again_behind_what_was_given_of_it() {
        let (hub, mut watch, mut requests, _keep) = open();
        next(&mut watch).await;
        let (token, _) = asked(&mut watch, &mut requests).await;
        let records = ["a", "b", "c"].map(|key| record(key, 1, 40_000)).concat();
        tell(&hub, vec![Output::Page { token, page: Some(FeedPage { records, resume: None }) }]);
        let piece = next(&mut watch).await;
        assert_eq!(piece.matches("event: put").count(), 2);
        hub.state().pages.clear();
        let (token, after) = asked(&mut watch, &mut requests).await;
        assert_eq!(after.as_deref(), Some(&b"b"[..]));
        let records = record("c", 1, 40_000);
        tell(&hub, vec![Output::Page { token, page: Some(FeedPage { records, resume: None }) }]);
        let piece = next(&mut watch).await;
        assert!(piece.contains("event: put") && piece.contains("event: synced"));
        assert_eq!(hub.room_for_pages.available_permits(), MAX_PAGES, "no page is kept");
    }

    #[tokio::test]
    async fn after_a_gap_comes_a_reset_with_the_reason_and_what_was_known_before_can_not_be_resumed() {
        let (hub, mut watch, mut requests, _keep) = open();
        next(&mut watch).await;
        let (token, _) = asked(&mut watch, &mut requests).await;
        let page = Some(FeedPage { records: Vec::new(), resume: None });
        tell(&hub, vec![Output::Page { token, page }]);
        let text = next(&mut watch).await;
        let cursor: Cursor = text.rsplit_once("id: ").unwrap().1.trim().parse().unwrap();
        tell(&hub, vec![changed(&watch, &[record("a", 1, 0)])]);
        let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
        let (mut resumed, _) = hub.enter(&interest, true, Some(cursor)).unwrap();
        assert!(next(&mut resumed).await.starts_with("event: put"));
        tell(&hub, vec![Output::Gap { feed: watch.feed(), reason: Gap::Source }]);
        assert!(next(&mut watch).await.contains("source_lost"));
        let (mut anew, _) = hub.enter(&interest, true, Some(cursor)).unwrap();
        assert!(next(&mut anew).await.contains("\"cursor\""));
    }

    #[tokio::test]
    async fn who_waits_for_room_for_a_page_keeps_its_place_and_hears_of_changes_and_that_the_watch_is_alive()
    {
        let (hub, mut watch, mut requests, _keep) = open();
        let pages = u32::try_from(MAX_PAGES).unwrap();
        let all = Arc::clone(&hub.room_for_pages).acquire_many_owned(pages).await.unwrap();
        next(&mut watch).await;
        tell(&hub, vec![changed(&watch, &[record("a", 1, 0)])]);
        assert!(next(&mut watch).await.starts_with("event: put"));
        watch.be_silent();
        assert_eq!(next(&mut watch).await, ": keep-alive\n\n");
        let behind = tokio::spawn(Arc::clone(&hub.room_for_pages).acquire_many_owned(pages));
        tokio::task::yield_now().await;
        drop(all);
        asked(&mut watch, &mut requests).await;
        assert!(!behind.is_finished(), "the watch was first");
        drop(watch);
        drop(tokio::time::timeout(Duration::from_secs(10), behind).await.unwrap().unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_watch_that_must_wait_for_others_share_is_known_to_be_alive() {
        let (hub, mut watch, _requests, _keep) = open();
        // All that is given from now on waits for hours.
        hub.state().charge_piece(1 << 40);
        next(&mut watch).await;
        tell(&hub, vec![changed(&watch, &[record("a", 1, 0)])]);
        watch.be_silent();
        assert_eq!(next(&mut watch).await, ": keep-alive\n\n");
        watch.be_silent();
        assert_eq!(next(&mut watch).await, ": keep-alive\n\n");
    }

    #[tokio::test]
    async fn a_closed_hub_ends_its_watches_and_opens_none() {
        let (hub, mut watch, _requests, _keep) = open();
        next(&mut watch).await;
        hub.close();
        assert!(next(&mut watch).await.contains("stopping"));
        assert!(watch.next().await.is_none());
        let interest = Interest { collection: None, prefix: Vec::new() };
        assert!(matches!(hub.enter(&interest, true, None), Err(OperationError::Stopping)));
    }

    fn interest(prefix: &str) -> Interest {
        Interest { collection: Some("c".to_owned()), prefix: prefix.as_bytes().to_vec() }
    }

    /// The next feed that is to be begun, and where the answer goes.
    async fn to_begin(
        requests: &mut mpsc::Receiver<Request>,
    ) -> (u64, tokio::sync::oneshot::Sender<Result<(), OperationError>>) {
        let request = tokio::time::timeout(Duration::from_secs(10), requests.recv()).await.unwrap();
        match request {
            Some(Request::Watch(WatchRequest::Begin { feed, reply, .. })) => (feed, reply),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_goes_before_its_feed_began_leaves_none_behind_that_never_begins() {
        let (sender, mut requests) = mpsc::channel(8);
        let hub = Arc::new(Hub::new(sender.downgrade(), 7));
        let reply = tokio::select! {
            watch = hub.watch(interest("k"), true, None) => panic!("{watch:?}"),
            (_, reply) = to_begin(&mut requests) => reply,
        };
        // Nobody is there to hear it.
        reply.send(Err(OperationError::TooManyWatches)).unwrap();
        while hub.state().by_interest.contains_key(&interest("k")) {
            tokio::task::yield_now().await;
        }
        tokio::select! {
            watch = hub.watch(interest("k"), true, None) => panic!("{watch:?}"),
            _ = to_begin(&mut requests) => {}
        }
    }

    #[tokio::test]
    async fn where_there_are_too_many_feeds_the_one_that_was_idle_for_longest_makes_room() {
        let (sender, mut requests) = mpsc::channel(8);
        let hub = Arc::new(Hub::new(sender.downgrade(), 7));
        let mut names = Vec::new();
        for prefix in ["a", "b", "c"] {
            let opening = tokio::spawn({
                let hub = Arc::clone(&hub);
                async move { hub.watch(interest(prefix), true, None).await }
            });
            let (name, reply) = to_begin(&mut requests).await;
            reply.send(Ok(())).unwrap();
            names.push(name);
            let watch = opening.await.unwrap().unwrap();
            if prefix == "a" {
                // Who watches keeps its feed.
                std::mem::forget(watch);
            }
        }
        let opening = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move { hub.watch(interest("d"), true, None).await }
        });
        let (wanted, reply) = to_begin(&mut requests).await;
        reply.send(Err(OperationError::TooManyWatches)).unwrap();
        let ended = requests.recv().await;
        assert!(
            matches!(ended, Some(Request::Watch(WatchRequest::End { feed })) if feed == names[1]),
            "{ended:?}"
        );
        let (again, reply) = to_begin(&mut requests).await;
        assert_eq!(again, wanted);
        reply.send(Ok(())).unwrap();
        assert!(opening.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn all_rings_together_are_bounded_also_those_that_filled_while_there_were_few() {
        let hub = Arc::new(Hub::new(mpsc::channel(1).0.downgrade(), 7));
        let mut watches = Vec::new();
        for number in 0..24 {
            let (watch, _) = hub.enter(&interest(&format!("{number}-")), true, None).unwrap();
            tell(&hub, vec![Output::Begun { feed: watch.feed(), epoch: 1, sources: 1 }]);
            for at in 0..8 {
                tell(&hub, vec![changed(&watch, &[record(&format!("{number}-{at}"), 1, 1 << 20)])]);
            }
            watches.push(watch);
        }
        let bytes: usize = hub.state().feeds.values().map(|feed| feed.ring.bytes()).sum();
        assert!(bytes <= MAX_RINGS_BYTES, "{} MiB", bytes >> 20);
    }

    #[tokio::test]
    async fn a_cursor_of_the_last_place_there_could_be_begins_anew() {
        let (hub, watch, _requests, _keep) = open();
        let stretch = hub.state().feeds[&watch.feed()].stretch;
        let (mut anew, _) = hub.enter(&interest(""), true, Some(hub.cursor(stretch, u64::MAX))).unwrap();
        assert!(next(&mut anew).await.contains("event: reset"));
    }
}
