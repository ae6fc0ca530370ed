//! What waits for clients to read it, of all connections of a port: replies, messages, and what KEYS has found so far.
//!
//! Each connection has a bound of its own beyond which it executes nothing more, and one reply may exceed it. These
//! exceptions, and a great number of connections, are bounded here together:
//! - While more than half of the bound waits for clients, what a connection may leave unread shrinks to
//!   [`SCARCE_BYTES`]. Waiting takes nothing back, and who reads does not notice.
//! - When the bound is exceeded, connections are cut until it is not. Candidates are those that have more than an equal
//!   part of the bound, so what takes little is never cut for what takes much. Of them go first those whose clients took
//!   nothing between two sweeps; of these, and of the others if there are none, the one with the greatest product of
//!   bytes and time since its client had read everything. The time counts up to [`OLDEST_SWEEPS`], so that a client that
//!   reads a large reply slowly is not worse off for ever.
//! - A client that takes nothing for a while of what could be sent is cut off ([`Limits::stall`]).
//!
//! So a client that has read what it asked for owes nothing, and nobody can have it cut. One that is in the middle of a
//! reply of more than an equal part can be cut though it reads, but not for one that has as much and does not. What counts
//! is what a socket did not take at once, and what a command has gathered. Invariant: the sum is that of what the connections show, and after each of their turns within the bound.
//!
//! [`Limits::stall`]: super::Limits::stall

use std::cell::Cell;
use std::rc::Rc;

use super::clients::{Clients, Shown};

/// Bytes of replies at which a connection executes no further command while room is scarce.
pub const SCARCE_BYTES: usize = 16 << 10;
/// Sweeps after which a connection that owes something gets no worse: ten seconds.
const OLDEST_SWEEPS: u32 = 40;

/// See the head of this file.
#[derive(Debug)]
pub struct Unsent {
    bytes: Cell<usize>,
    max_bytes: usize,
}

impl Unsent {
    /// Nothing waits.
    pub const fn new(max_bytes: usize) -> Self {
        Self { bytes: Cell::new(0), max_bytes }
    }

    /// Bytes of all connections.
    pub const fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether connections should keep what they leave unread small.
    pub const fn is_scarce(&self) -> bool {
        self.bytes.get() > self.max_bytes / 2
    }

    /// A connection has so much that waits for its client now.
    pub fn show(&self, shown: &Shown, bytes: usize) {
        let before = shown.unsent.replace(bytes);
        self.bytes.set((self.bytes.get() + bytes).saturating_sub(before));
        shown.owing.set(bytes > 0);
    }

    /// The connection that is to be cut, if there is too much.
    pub fn victim(&self, clients: &Clients) -> Option<Rc<Shown>> {
        if self.bytes.get() <= self.max_bytes {
            return None;
        }
        let mut owing = 0;
        clients.for_each(|shown| owing += usize::from(shown.unsent.get() > 0));
        let part = self.max_bytes.checked_div(owing)?;
        clients.max_by_key(|shown| {
            let bytes = shown.unsent.get();
            let sweeps = 1 + shown.owing.sweeps().min(OLDEST_SWEEPS) as usize;
            (bytes > part).then(|| (shown.stalled.sweeps() > 1, bytes.saturating_mul(sweeps)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    /// Connections that have so many bytes, for so many sweeps.
    fn clients(unsent: &Unsent, owing: &[(usize, u32)]) -> (Clients, Vec<Rc<Shown>>) {
        let (clients, address) = (Clients::default(), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let shown: Vec<_> = owing.iter().map(|_| clients.register((address, address), 0)).collect();
        for (shown, &(bytes, sweeps)) in shown.iter().zip(owing) {
            unsent.show(shown, bytes);
            for _ in 0..sweeps {
                shown.sweep();
            }
        }
        (clients, shown)
    }

    #[test]
    fn who_is_cut_has_more_than_an_equal_part_and_has_owed_it_for_long() {
        for (bound, owing, victim) in [
            (1_000, &[(500, 9), (500, 0)][..], None),
            (1_000, &[(600, 0), (401, 0)], Some(0)),
            // What just came is not cut for what nobody reads.
            (1_000, &[(600, 0), (550, 9)], Some(1)),
            // The first one has waited longest, and takes no more than its part.
            (1_000, &[(300, 99), (400, 0), (500, 0)], Some(2)),
            // Many small ones do not leave for a large one.
            (1_000, &[(260, 3), (260, 3), (260, 3), (5_000, 0)], Some(3)),
            // Whoever owes for long is as bad as who owes for longer.
            (1_000, &[(600, 50), (601, 40)], Some(1)),
        ] {
            let unsent = Unsent::new(bound);
            let (clients, shown) = clients(&unsent, owing);
            let found = unsent.victim(&clients);
            let at = found.map(|found| shown.iter().position(|shown| Rc::ptr_eq(shown, &found)).unwrap());
            assert_eq!(at, victim, "{owing:?}");
        }
    }

    #[test]
    fn who_takes_nothing_goes_before_who_takes_some_of_more() {
        let unsent = Unsent::new(1_000);
        let (clients, shown) = clients(&unsent, &[(900, 9), (550, 0)]);
        let is_victim =
            |at: usize| unsent.victim(&clients).is_some_and(|found| Rc::ptr_eq(&found, &shown[at]));
        assert!(is_victim(0));
        shown[1].stalled.set(true);
        assert!(is_victim(0), "it may have begun just now");
        shown[1].sweep();
        assert!(is_victim(0), "so it may still have");
        shown[1].sweep();
        assert!(is_victim(1));
        shown[1].stalled.end();
        assert!(is_victim(0), "it took something");
    }

    #[test]
    fn the_sum_is_what_the_connections_show() {
        let unsent = Unsent::new(1_000);
        let (_, shown) = clients(&unsent, &[(300, 0), (200, 0)]);
        assert!(unsent.bytes() == 500 && !unsent.is_scarce());
        unsent.show(&shown[0], 301);
        assert!(unsent.bytes() == 501 && unsent.is_scarce());
        unsent.show(&shown[0], 0);
        unsent.show(&shown[1], 0);
        assert_eq!((unsent.bytes(), shown[0].owing.sweeps()), (0, 0));
    }
}
