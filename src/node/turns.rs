//! The tasks that drive the data thread: the flusher that ends turns, housekeeping's clock, and the
//! disk threads' answers.

use super::NodeError;
use super::core::{Core, Shared};
use super::disks::DiskAnswer;
use crate::engine::{self, Mode};
use crate::model::limits::MAX_VALUE_BYTES;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

impl Core {
    /// Bytes that a value may have; the most that any may while the settings may be others than the cluster's.
    pub(super) fn max_value_bytes(&self) -> usize {
        match self.engine.mode() {
            Mode::Serving => usize::try_from(self.engine.settings().max_value_bytes).unwrap_or(usize::MAX),
            _ => MAX_VALUE_BYTES,
        }
    }
}

impl Shared {
    /// The flusher: ends a turn whenever one was begun.
    pub(super) async fn flush_turns(self: Rc<Self>) {
        loop {
            std::future::poll_fn(|context| {
                if self.flush_wanted.get() {
                    return Poll::Ready(());
                }
                *self.flusher.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            self.flush_wanted.set(false);
            if self.is_broken() {
                return;
            }
            let (turned, changed) = {
                let mut core = self.core.borrow_mut();
                let turned = core.turn(&self.clock);
                self.publish_tokens(&core);
                let told = &self.view.borrow().told_value_bytes;
                told.store(core.max_value_bytes(), Ordering::Relaxed);
                (turned, std::mem::take(&mut core.engine.lanes.membership_changed))
            };
            if changed {
                self.changed.notify_one();
            }
            match turned {
                Ok(true) => self.flush_wanted.set(true),
                Ok(false) => {}
                Err(error) => return self.storage_failed(error),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tells the fronts the tokens in force.
    pub(super) fn publish_tokens(&self, core: &Core) {
        let tokens = core.engine.tokens();
        let may_lack = core.engine.distrusts_roster() && *core.engine.mode() == Mode::Starting;
        if tokens.is_empty() && may_lack {
            self.guard.0.publish_unsure();
        } else {
            self.guard.0.publish(tokens);
        }
    }

    /// Housekeeping's clock.
    pub(super) async fn tick(self: Rc<Self>) {
        let mut interval = tokio::time::interval(Duration::from_micros(engine::TICK_US));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.with(|core| {
                core.engine.advance(self.clock.now());
                core.tick();
            });
            if !self.core.borrow().disks.are_running() {
                let ended = "see the log for the reason".to_owned();
                return self.fail(NodeError::PartEnded("a thread that works on the disk", ended));
            }
        }
    }

    /// Takes the disk threads' answers as they come.
    pub(super) async fn take_disk_answers(
        self: Rc<Self>,
        mut answers: tokio::sync::mpsc::UnboundedReceiver<DiskAnswer>,
    ) {
        while let Some(answer) = answers.recv().await {
            let taken = self.with(|core| core.disk_answer(answer));
            if let Err(error) = taken {
                return self.storage_failed(error);
            }
        }
    }
}
