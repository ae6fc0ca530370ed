//! Watching, from the engine's feeds to whoever reads them.
//!
//! The data thread (`Outlet`) hands on what its engine tells once a turn: to subscribers of its own tasks by
//! mailbox, and everything else in one message to the *hub* (`hub`) on the services' runtime. There each feed keeps
//! a *ring* (`ring`), the latest change of each key of a bounded recent time, in the order in which they came; a
//! *watch* (`reader`) is a place in it. However many watch, a change is taken in once and becomes text once, and
//! nothing of the data thread's time depends on their number.
//!
//! **States of a watch.** It *begins* with a reset, *seeks* until its feed is begun, *lists* source by source,
//! and is then *live*. A gap of its feed, or a place that left the ring, begins it anew, with the reason. A
//! cursor is a place in the ring of one feed in one life of one member, between two gaps; who comes with
//! one that still is there is live at once.
//!
//! **Invariants.**
//! - Outputs of one feed reach the hub in the engine's order: one channel. What does not fit into it is a gap of all
//!   feeds, told when there is room again.
//! - A watch gives what the ring has from before a page came ahead of that page, and what came later after it: so pages
//!   and changes stand in the order of their source. A change may be left out if a later one of its key is in the ring.
//! - No cursor is given while it lists: who comes again in the middle of a listing gets all of it again.
//! - A feed is begun whether or not the client that wanted it first is still there: others may have joined it.
//! - All is bounded: watches, feeds, the bytes of rings, pages that are asked for (one that is not read in time is
//!   dropped and asked for again), the part of a processor that the hub takes for all watches together.

mod event;
mod hub;
mod pages;
mod reader;
mod ring;

pub use event::{Cursor, CursorError};
pub use reader::Watch;

pub(super) use hub::{Hub, run};

use super::core::{Core, Shared};
use super::local::{Mailbox, Subscription};
use super::publish::gauge;
use crate::engine::Engine;
use crate::engine::operation::OperationError;
use crate::engine::watch::{Form, Interest, Kinds, MAX_FEEDS, NamedChange, Output};
use crate::telemetry::Metrics;
use crate::telemetry::names::WatchTotals;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::oneshot;

/// Subscriptions of tasks of the data thread.
const MAX_SUBSCRIPTIONS: usize = 65_536;
/// Feeds for them; the other half is the hub's, whatever tasks ask for.
const MAX_TASK_FEEDS: usize = MAX_FEEDS / 2;

/// What the hub asks of the data thread.
#[derive(Debug)]
pub enum WatchRequest {
    /// Begin a feed, that the hub calls so.
    Begin {
        /// The hub's number for it.
        feed: u64,
        /// What is watched.
        interest: Interest,
        /// Where a refusal goes.
        reply: oneshot::Sender<Result<(), OperationError>>,
    },
    /// End it.
    End {
        /// The hub's number for it.
        feed: u64,
    },
    /// Ask for a page of its listing.
    Page {
        /// What the page is called.
        token: u64,
        /// The hub's number for the feed.
        feed: u64,
        /// The feed's epoch.
        epoch: u64,
        /// Which of its sources.
        source: usize,
        /// The key to begin after.
        after: Option<Vec<u8>>,
    },
}

/// Who reads a feed of the engine.
#[derive(Debug)]
enum Reader {
    /// The hub, that calls it so.
    Hub(u64),
    /// Tasks of the data thread.
    Tasks { interest: (Interest, Kinds), subscribers: Vec<(Subscription, Mailbox)> },
}

/// The data thread's end.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    hub: Option<hub::Inlet>,
    readers: BTreeMap<u64, Reader>,
    /// The engine's feeds by the hub's numbers.
    of_hub: BTreeMap<u64, u64>,
    of_tasks: BTreeMap<(Interest, Kinds), u64>,
    subscriptions: BTreeMap<Subscription, u64>,
    last_subscription: u64,
    /// Feeds of the hub that are over, and pages that won't come, which it could not be told yet.
    ends: Vec<Output>,
}

impl Outlet {
    /// Hands on to a hub from now on.
    pub(super) fn connect(&mut self, hub: hub::Inlet) {
        self.hub = Some(hub);
    }

    /// Publishes what is watched, and how many listeners were refused beside what the hub refused.
    pub(super) fn publish(&self, engine: &Engine, refused: u64, metrics: &Metrics) {
        let (feeds, told) = engine.watch_counts();
        let of_hub = self.hub.as_ref().map(hub::Inlet::totals).unwrap_or_default();
        metrics.watch.publish(&WatchTotals {
            subscriptions: gauge(self.subscriptions.len() as u64),
            feeds: gauge(feeds as u64),
            told: gauge(told as u64),
            rejected: of_hub.rejected + refused,
            ..of_hub
        });
    }
}

/// Carries out what the hub asks for.
pub(super) fn answer(shared: &Shared, request: WatchRequest) {
    shared.with(|core| match request {
        WatchRequest::Begin { feed, interest, reply } => {
            let begun = core.engine.begin_feed(interest, Form::Latest);
            if let Ok(id) = &begun {
                core.watching.of_hub.insert(feed, *id);
                core.watching.readers.insert(*id, Reader::Hub(feed));
            }
            _ = reply.send(begun.map(|_| ()));
        }
        WatchRequest::End { feed } => {
            if let Some(id) = core.watching.of_hub.remove(&feed) {
                core.watching.readers.remove(&id);
                core.engine.end_feed(id);
            }
        }
        WatchRequest::Page { token, feed, epoch, source, after } => {
            let id = core.watching.of_hub.get(&feed).copied().unwrap_or_default();
            core.engine.feed_page(token, id, epoch, source, after);
        }
    });
}

impl Core {
    /// Lets a mailbox have changes that match, from now on.
    pub(super) fn subscribe(
        &mut self,
        mailbox: &Mailbox,
        interest: &Interest,
        kinds: Kinds,
    ) -> Result<Subscription, OperationError> {
        if self.watching.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(OperationError::TooManyWatches);
        }
        let name = (interest.clone(), kinds);
        let feed = match self.watching.of_tasks.get(&name) {
            Some(feed) => *feed,
            None if self.watching.of_tasks.len() >= MAX_TASK_FEEDS => {
                return Err(OperationError::TooManyWatches);
            }
            None => {
                let feed = self.engine.begin_feed(interest.clone(), Form::Each(kinds))?;
                self.watching.of_tasks.insert(name.clone(), feed);
                let reader = Reader::Tasks { interest: name, subscribers: Vec::new() };
                self.watching.readers.insert(feed, reader);
                feed
            }
        };
        self.watching.last_subscription += 1;
        let subscription = Subscription(self.watching.last_subscription);
        if let Some(Reader::Tasks { subscribers, .. }) = self.watching.readers.get_mut(&feed) {
            subscribers.push((subscription, mailbox.clone()));
            self.watching.subscriptions.insert(subscription, feed);
        }
        Ok(subscription)
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, subscription: Subscription) {
        let Some(feed) = self.watching.subscriptions.remove(&subscription) else { return };
        let Some(Reader::Tasks { subscribers, interest }) = self.watching.readers.get_mut(&feed) else {
            return;
        };
        subscribers.retain(|(other, _)| *other != subscription);
        if subscribers.is_empty() {
            self.watching.of_tasks.remove(interest);
            self.watching.readers.remove(&feed);
            self.engine.end_feed(feed);
        }
    }

    /// Hands on what the engine told in this turn.
    pub(super) fn hand_on_changes(&mut self) {
        let outputs = self.engine.take_outputs();
        if outputs.is_empty() && self.watching.ends.is_empty() {
            return;
        }
        let mut for_hub = std::mem::take(&mut self.watching.ends);
        for output in outputs {
            for_hub.extend(self.hand_on(output));
        }
        if for_hub.is_empty() {
            return;
        }
        let Some(hub) = &self.watching.hub else { return };
        if let Err(lost) = hub.send(for_hub) {
            self.watching.ends = lost.into_iter().filter_map(Output::that_was_lost).collect();
            self.engine.outputs_lost();
        }
    }

    /// Gives an output to the mailboxes that it is for, or back if it is for the hub.
    fn hand_on(&mut self, output: Output) -> Option<Output> {
        let feed = match &output {
            Output::Page { .. } => return Some(output),
            Output::Begun { feed, .. }
            | Output::Changed { feed, .. }
            | Output::Named { feed, .. }
            | Output::Gap { feed, .. }
            | Output::Ended { feed, .. } => *feed,
        };
        let is_over = matches!(output, Output::Ended { .. });
        match (self.watching.readers.get_mut(&feed)?, output) {
            (Reader::Hub(name), output) => {
                let name = *name;
                if is_over {
                    self.watching.readers.remove(&feed);
                    self.watching.of_hub.remove(&name);
                }
                Some(output.renamed(name))
            }
            (Reader::Tasks { subscribers, .. }, Output::Named { changes, .. }) => {
                let changes: Rc<[NamedChange]> = changes.into();
                let mut closed = Vec::new();
                for (subscription, mailbox) in subscribers {
                    if !mailbox.push_changes(*subscription, &changes) {
                        closed.push(*subscription);
                    }
                }
                for subscription in closed {
                    self.unsubscribe(subscription);
                }
                None
            }
            (Reader::Tasks { interest, subscribers }, _) if is_over => {
                self.watching.of_tasks.remove(interest);
                for (subscription, _) in subscribers {
                    self.watching.subscriptions.remove(subscription);
                }
                self.watching.readers.remove(&feed);
                None
            }
            (Reader::Tasks { .. }, _) => None,
        }
    }
}
