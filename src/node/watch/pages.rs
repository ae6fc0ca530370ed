//! Pages of listings: so many are asked for or being read at a time, and whoever wants another one waits in line.
//!
//! Waiting is the hub's, not the watch's: its client may stop reading meanwhile, and then a page that came is dropped
//! after a while and makes room for others.

use super::WatchRequest;
use super::hub::{Hub, State};
use crate::engine::watch::FeedPage;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pages that are asked for or being read at a time; more wait.
pub(super) const MAX_PAGES: usize = 16;
/// How long a page may be read; then it is dropped and asked for again.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);
/// What a page of a listing costs, about, most of it on the data thread of its source.
const PAGE_COST: Duration = Duration::from_micros(200);

/// A page that a watch wants. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct PageSlot {
    pub(super) feed: u64,
    pub(super) page: PageState,
    pub(super) news: Arc<Notify>,
    /// Since when it can be read.
    since: Instant,
    /// Once it was its turn.
    room: Option<OwnedSemaphorePermit>,
    asking: JoinHandle<()>,
}

/// Where a page is.
#[derive(Debug)]
pub(super) enum PageState {
    /// In line, or on its way.
    Awaited,
    /// The source did not answer.
    Failed,
    /// It came when the ring's next place was this.
    Came(u64, FeedPage),
}

impl Drop for PageSlot {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl PageSlot {
    /// It came, or will not come.
    pub(super) fn bring(&mut self, next: u64, page: Option<FeedPage>) {
        self.since = Instant::now();
        self.page = page.map_or(PageState::Failed, |page| PageState::Came(next, page));
        self.news.notify_waiters();
    }

    /// Whether nobody reads it.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        !matches!(self.page, PageState::Awaited) && now >= self.since + PAGE_PATIENCE
    }
}

impl Hub {
    /// Asks for a page of a feed's listing when it is its turn, and names it.
    pub(super) fn ask_for_page(
        self: &Arc<Self>,
        feed: u64,
        news: &Arc<Notify>,
        (epoch, source, after): (u64, usize, Option<Vec<u8>>),
    ) -> u64 {
        let mut state = self.state();
        let token = state.next_name();
        let request = WatchRequest::Page { token, feed, epoch, source, after };
        let asking = tokio::spawn(Arc::clone(self).ask_in_turn(token, request));
        let (news, since) = (Arc::clone(news), Instant::now());
        let slot = PageSlot { feed, page: PageState::Awaited, news, since, room: None, asking };
        state.pages.insert(token, slot);
        token
    }

    async fn ask_in_turn(self: Arc<Self>, token: u64, request: WatchRequest) {
        // The semaphore is never closed.
        let Ok(room) = Arc::clone(&self.room_for_pages).acquire_owned().await else { return };
        if self.state().take_turn(token, room) {
            self.ask(request).await;
        }
    }
}

impl State {
    /// It is a page's turn; says whether anybody still wants it.
    fn take_turn(&mut self, token: u64, room: OwnedSemaphorePermit) -> bool {
        let Some(slot) = self.pages.get_mut(&token) else { return false };
        slot.room = Some(room);
        // Whoever gets it waits for that with the next piece.
        self.charge(PAGE_COST);
        true
    }
}
