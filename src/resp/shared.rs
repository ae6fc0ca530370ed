//! What the connections of one port share: who they are, what they count, and the bounds of all of them together.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::clients::{Clients, Cut, Shown};
use super::cursors::Cursors;
use super::unsent::Unsent;
use super::{Limits, SWEEP};
use crate::node::local::RespCounts;

/// Sweeps without a byte after which an unfinished large command leaves its room to another one: two seconds.
const HALTED_SWEEPS: u32 = 8;

/// See the head of this file.
#[derive(Debug)]
pub struct Shared {
    stopping: Cell<bool>,
    /// The open connections.
    pub clients: Clients,
    /// The places that SCAN went to.
    pub cursors: Cursors,
    /// What the port has done, for metrics.
    pub counts: Rc<RespCounts>,
    /// Commands and bytes when INFO last looked, and when that was.
    pub rates: Cell<Rates>,
    /// Connections at a time.
    pub max_clients: usize,
    /// Bytes of all buffers for commands beyond what each has anyway.
    large_input: Cell<usize>,
    max_large_input: usize,
    /// What waits for the clients to read.
    unsent: Unsent,
    /// How long a client may take nothing of it, or send nothing more of a large command.
    pub stall: Duration,
    introduction: Duration,
}

/// What INFO remembers to tell how much was done since.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// When INFO looked, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Commands until then.
    pub commands: u64,
    /// Bytes received until then.
    pub received: u64,
    /// Bytes sent until then.
    pub sent: u64,
}

/// Adds to what the port has done.
pub fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

impl Shared {
    /// Without connections.
    pub fn new(counts: Rc<RespCounts>, limits: &Limits) -> Self {
        Self {
            stopping: Cell::default(),
            clients: Clients::default(),
            cursors: Cursors::default(),
            counts,
            rates: Cell::default(),
            max_clients: limits.connections,
            large_input: Cell::default(),
            max_large_input: limits.large_input_bytes,
            unsent: Unsent::new(limits.unsent_bytes),
            stall: limits.stall,
            introduction: limits.introduction,
        }
    }

    /// Makes every connection end once what it has read is answered.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.wake_all();
    }

    /// Whether connections are to end.
    pub const fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Lets every connection look at what has changed around it.
    pub fn wake_all(&self) {
        self.clients.for_each(|shown| shown.mailbox.wake());
    }

    /// Whether all buffers for commands together keep within their bound when one grows by so much. Connections whose
    /// clients sent nothing more of a large command for [`HALTED_SWEEPS`] are cut off for it, the longest idle first.
    pub fn make_room_for(&self, more: usize) -> bool {
        while self.large_input.get() + more > self.max_large_input {
            let idle = |shown: &Shown| {
                let sweeps = shown.halted.sweeps();
                (sweeps >= HALTED_SWEEPS && !shown.is_cut_off()).then_some(sweeps)
            };
            let Some(victim) = self.clients.max_by_key(idle) else { return false };
            self.cut(&victim, Cut::Stalled);
        }
        true
    }

    /// A connection's buffer for commands has so many bytes beyond its usual size now.
    pub fn resize_input(&self, shown: &Shown, bytes: usize) {
        let before = shown.large_input.replace(bytes);
        self.large_input.set((self.large_input.get() + bytes).saturating_sub(before));
    }

    /// Whether connections should keep what they leave unread small.
    pub const fn is_scarce(&self) -> bool {
        self.unsent.is_scarce()
    }

    /// A connection has so many bytes that wait for its client. Others, or it itself, are cut if that is too much.
    pub fn owe(&self, shown: &Shown, bytes: usize) {
        // Whoever is being cut has given up its part already.
        if shown.is_cut_off() {
            return;
        }
        self.unsent.show(shown, bytes);
        while let Some(victim) = self.unsent.victim(&self.clients) {
            self.cut(&victim, Cut::Evicted);
        }
        self.counts.unsent_bytes.set(self.unsent.bytes() as u64);
    }

    /// Looks for what takes too long. To be called each [`SWEEP`].
    pub fn sweep(&self) {
        self.clients.for_each(|shown| {
            shown.sweep();
            if shown.is_cut_off() {
                return;
            }
            // What a sweep found may have begun just before it.
            let longer = |sweeps: u32, than: Duration| SWEEP.saturating_mul(sweeps.saturating_sub(1)) >= than;
            let still = shown.stalled.sweeps().max(shown.halted.sweeps());
            if still > 0 && longer(still, self.stall) {
                self.cut(shown, Cut::Stalled);
            } else if shown.unknown.sweeps() > 0 && longer(shown.unknown.sweeps(), self.introduction) {
                self.cut(shown, Cut::Stranger);
            }
        });
        self.counts.unsent_bytes.set(self.unsent.bytes() as u64);
    }

    fn cut(&self, shown: &Shown, why: Cut) {
        shown.cut.set(Some(why));
        match why {
            Cut::Stranger => {}
            Cut::Stalled => count(&self.counts.stalled, 1),
            Cut::Evicted => count(&self.counts.evicted, 1),
        }
        if shown.is_cut_off() {
            self.unsent.show(shown, 0);
            self.resize_input(shown, 0);
        }
        shown.mailbox.wake();
    }
}
