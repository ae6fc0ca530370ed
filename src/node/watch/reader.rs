//! One watch: a place in a feed's ring, and how it came there.

use super::event::{append_error, append_record, append_reset, append_synced};
use super::hub::{Feed, Hub, State};
use super::pages::PageState;
use crate::engine::operation::OperationError;
use crate::model::RecordRef;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of text in one piece, about.
const PIECE_BYTES: usize = 64 << 10;
/// How long nothing may be given before a comment says that the watch is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long after a source did not answer it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Where a watch is.
#[derive(Debug)]
enum Phase {
    /// It must begin, for a reason.
    Begins(&'static str),
    /// It waits until its feed is begun.
    Seeks,
    /// It gives the current state.
    Lists(Listing),
    /// It gives changes of an epoch.
    Live(u64),
    /// Nothing more comes.
    Over,
}

/// How far a listing is.
#[derive(Debug)]
struct Listing {
    epoch: u64,
    sources: usize,
    /// Which of the sources is listed.
    source: usize,
    /// The last key that was given of it.
    after: Option<Vec<u8>>,
    /// The page that was asked for, and how much of it was given.
    page: Option<(u64, usize)>,
    /// Not asked again before.
    rests_until: Option<Instant>,
}

/// What to do next.
enum Step {
    /// Give this.
    Give(Vec<u8>),
    /// Ask a source for a page.
    Ask { epoch: u64, source: usize, after: Option<Vec<u8>> },
    /// Wait for news, or until then.
    Wait(Option<Instant>),
    /// Nothing more comes.
    End,
}

/// An open watch. Dropping it closes it.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    feed: u64,
    news: Arc<Notify>,
    page_news: Arc<Notify>,
    with_values: bool,
    phase: Phase,
    /// The place of the next change to be given.
    at: u64,
    not_before: Option<Instant>,
    last_given: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let page = match &self.phase {
            Phase::Lists(Listing { page: Some((token, _)), .. }) => Some(*token),
            _ => None,
        };
        self.hub.leave(self.feed, page);
    }
}

impl Watch {
    pub(super) fn new(
        hub: Arc<Hub>,
        feed: u64,
        news: Arc<Notify>,
        with_values: bool,
        reason: &'static str,
        resumed: Option<(u64, u64)>,
    ) -> Self {
        let (at, phase) = match resumed {
            Some((at, epoch)) => (at, Phase::Live(epoch)),
            None => (0, Phase::Begins(reason)),
        };
        let (page_news, last_given) = (Arc::default(), Instant::now());
        Self { hub, feed, news, page_news, with_values, phase, at, not_before: None, last_given }
    }

    /// The last piece of a stream that ends for a reason.
    #[must_use]
    pub fn ending(code: &str, message: &str) -> Bytes {
        let mut piece = Vec::new();
        append_error(&mut piece, code, message);
        piece.into()
    }

    pub(super) const fn feed(&self) -> u64 {
        self.feed
    }

    /// As if nothing had been given for long.
    #[cfg(test)]
    pub(super) fn be_silent(&mut self) {
        self.last_given -= KEEP_ALIVE;
    }

    /// The next piece of the stream of events; `None` at its end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(not_before) = self.not_before {
            let silent_until = self.last_given + KEEP_ALIVE;
            tokio::time::sleep_until(not_before.min(silent_until)).await;
            if silent_until < not_before {
                return Some(self.keep_alive());
            }
            self.not_before = None;
        }
        loop {
            let (news, page_news) = (Arc::clone(&self.news), Arc::clone(&self.page_news));
            let (news, page_news) = (news.notified(), page_news.notified());
            tokio::pin!(news, page_news);
            // What comes from now on is not missed.
            news.as_mut().enable();
            page_news.as_mut().enable();
            match self.step() {
                Step::Give(piece) => {
                    self.last_given = Instant::now();
                    return Some(piece.into());
                }
                Step::End => return None,
                Step::Ask { epoch, source, after } => self.ask((epoch, source, after)),
                Step::Wait(until) => {
                    let silent_until = self.last_given + KEEP_ALIVE;
                    let wake_at = until.map_or(silent_until, |until| until.min(silent_until));
                    tokio::select! {
                        () = news => {}
                        () = page_news => {}
                        () = tokio::time::sleep_until(wake_at) => {}
                    }
                    if Instant::now() >= silent_until {
                        return Some(self.keep_alive());
                    }
                }
            }
        }
    }

    fn keep_alive(&mut self) -> Bytes {
        self.last_given = Instant::now();
        Bytes::from_static(b": keep-alive\n\n")
    }

    fn ask(&mut self, wanted: (u64, usize, Option<Vec<u8>>)) {
        if let Phase::Lists(listing) = &mut self.phase {
            listing.page = Some((self.hub.ask_for_page(self.feed, &self.page_news, wanted), 0));
        }
    }

    fn step(&mut self) -> Step {
        let hub = Arc::clone(&self.hub);
        let mut state = hub.state();
        if matches!(self.phase, Phase::Over) {
            return Step::End;
        }
        let ended = match state.feeds.get(&self.feed) {
            _ if state.is_closed => Some(OperationError::Stopping),
            Some(feed) => feed.ended.clone(),
            None => Some(OperationError::Stopping),
        };
        if let Some(error) = ended {
            self.phase = Phase::Over;
            let mut piece = Vec::new();
            append_error(&mut piece, error.code(), &error.to_string());
            return Step::Give(piece);
        }
        let mut piece = Vec::new();
        let wait = self.advance(&mut state, &mut piece);
        if piece.is_empty() {
            return wait;
        }
        self.not_before = Some(state.charge_piece(piece.len()));
        Step::Give(piece)
    }

    /// Goes on as far as it comes in one piece; says what else there is to do.
    fn advance(&mut self, state: &mut State, piece: &mut Vec<u8>) -> Step {
        loop {
            let Some(feed) = state.feeds.get_mut(&self.feed) else { return Step::End };
            let begun = feed.begun;
            match &mut self.phase {
                Phase::Over => return Step::End,
                Phase::Begins(reason) => {
                    append_reset(piece, reason, self.hub.cursor(feed.stretch, 0));
                    self.hub.counts.resets.fetch_add(1, Ordering::Relaxed);
                    self.phase = Phase::Seeks;
                }
                Phase::Seeks => match begun {
                    None => return Step::Wait(None),
                    Some((epoch, sources)) => {
                        self.at = feed.ring.next();
                        let (page, rests_until) = (None, None);
                        let listing = Listing { epoch, sources, source: 0, after: None, page, rests_until };
                        self.phase = Phase::Lists(listing);
                    }
                },
                Phase::Lists(Listing { epoch, .. }) | Phase::Live(epoch)
                    if begun.is_none_or(|(begun, _)| begun != *epoch) =>
                {
                    let reason = feed.reason;
                    self.begin_anew(state, reason);
                }
                Phase::Lists(_) | Phase::Live(_) if !feed.ring.reaches(self.at) => {
                    self.hub.counts.behind.fetch_add(1, Ordering::Relaxed);
                    self.begin_anew(state, "behind");
                }
                Phase::Live(_) => {
                    let to = feed.ring.next();
                    self.give_changes(feed_of(state, self.feed), to, piece, true);
                    return Step::Wait(None);
                }
                Phase::Lists(_) => {
                    if let Some(step) = self.list(state, piece) {
                        return step;
                    }
                }
            }
            if piece.len() >= PIECE_BYTES {
                return Step::Wait(None);
            }
        }
    }

    fn begin_anew(&mut self, state: &mut State, reason: &'static str) {
        if let Phase::Lists(Listing { page: Some((token, _)), .. }) = &self.phase {
            state.pages.remove(token);
        }
        self.phase = Phase::Begins(reason);
    }

    /// Gives changes up to a place, as far as they fit.
    fn give_changes(&mut self, feed: Option<&mut Feed>, to: u64, piece: &mut Vec<u8>, with_cursor: bool) {
        let Some(feed) = feed else { return };
        let how = (wall_ms(), self.with_values, with_cursor);
        let cursor = self.hub.cursor(feed.stretch, 0);
        let (at, count) = feed.ring.append(piece, (self.at, to), PIECE_BYTES, how, cursor);
        self.at = at;
        self.hub.counts.events.fetch_add(count, Ordering::Relaxed);
    }

    /// Goes on with the listing; `None` when there may be more to do at once.
    fn list(&mut self, state: &mut State, piece: &mut Vec<u8>) -> Option<Step> {
        let Phase::Lists(listing) = &mut self.phase else { return None };
        let next = state.feeds.get(&self.feed).map_or(0, |feed| feed.ring.next());
        if listing.source >= listing.sources {
            let epoch = listing.epoch;
            self.give_changes(feed_of(state, self.feed), next, piece, false);
            if self.at < next {
                return Some(Step::Wait(None));
            }
            let stretch = state.feeds.get(&self.feed).map_or(0, |feed| feed.stretch);
            append_synced(piece, self.hub.cursor(stretch, self.at - 1));
            self.phase = Phase::Live(epoch);
            return None;
        }
        let slot = listing.page.and_then(|(token, given)| Some((token, given, state.pages.get(&token)?)));
        match slot.map(|(token, given, slot)| (token, given, &slot.page)) {
            // Nothing was asked for, or it was not read in time.
            None => {
                listing.page = None;
                if let Some(until) = listing.rests_until.filter(|until| Instant::now() < *until) {
                    return Some(Step::Wait(Some(until)));
                }
                let Listing { epoch, source, ref after, .. } = *listing;
                Some(Step::Ask { epoch, source, after: after.clone() })
            }
            Some((_, _, PageState::Awaited)) => {
                self.give_changes(feed_of(state, self.feed), next, piece, false);
                Some(Step::Wait(None))
            }
            Some((token, _, PageState::Failed)) => {
                state.pages.remove(&token);
                listing.page = None;
                listing.rests_until = Some(Instant::now() + ASK_AGAIN);
                None
            }
            Some((token, given, PageState::Came(place, _))) => {
                let place = *place;
                self.give_changes(feed_of(state, self.feed), place, piece, false);
                if self.at < place || piece.len() >= PIECE_BYTES {
                    return Some(Step::Wait(None));
                }
                self.give_page(state, token, given, piece);
                None
            }
        }
    }

    /// Gives what fits of a page.
    fn give_page(&mut self, state: &mut State, token: u64, given: usize, piece: &mut Vec<u8>) {
        let Phase::Lists(listing) = &mut self.phase else { return };
        let Some(PageState::Came(_, page)) = state.pages.get_mut(&token).map(|slot| &mut slot.page) else {
            return;
        };
        let wall_ms = wall_ms();
        let (mut at, mut count) = (given, 0);
        while piece.len() < PIECE_BYTES
            && let Ok((record, rest)) = RecordRef::parse(page.records.get(at..).unwrap_or_default())
        {
            at = page.records.len() - rest.len();
            listing.after = Some(record.key().to_vec());
            append_record(piece, record, wall_ms, self.with_values);
            piece.push(b'\n');
            count += 1;
        }
        self.hub.counts.events.fetch_add(count, Ordering::Relaxed);
        listing.page = Some((token, at));
        if at < page.records.len() {
            return;
        }
        // All of it was given.
        match page.resume.take() {
            Some(resume) => listing.after = Some(resume),
            None => (listing.source, listing.after) = (listing.source + 1, None),
        }
        listing.page = None;
        state.pages.remove(&token);
    }
}

fn feed_of(state: &mut State, feed: u64) -> Option<&mut Feed> {
    state.feeds.get_mut(&feed)
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
