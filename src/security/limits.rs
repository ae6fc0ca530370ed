//! What strangers may cost before they have proved the secret.
//!
//! A [`Gate`] counts handshakes that are under way, in all and per address, and gives a [`Permit`]
//! for each; the count falls when the permit is dropped. Beyond the bounds a connection is closed at
//! once. Together with [`HANDSHAKE_DEADLINE`] and the bound on a handshake's messages this bounds
//! memory, descriptors and key agreements per second, whatever knocks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a handshake may take from the first byte to the last.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Handshakes under way at once.
pub const MAX_PENDING_HANDSHAKES: usize = 256;
/// Handshakes under way at once with one address (IPv6: one /64). Enough for a whole trial cluster
/// on one machine.
pub const MAX_PENDING_PER_ADDRESS: usize = 64;

/// Which bound was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateFull {
    /// Too many handshakes in all.
    #[error("too many handshakes are under way: the connection was closed, trying again later will do")]
    Total,
    /// Too many from this address.
    #[error(
        "too many handshakes from one address are under way: the connection was closed, trying again later will do"
    )]
    Address,
}

/// Counts handshakes that are under way.
#[derive(Debug)]
pub struct Gate {
    max_total: usize,
    max_per_address: usize,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    total: usize,
    per_address: HashMap<IpAddr, usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(MAX_PENDING_HANDSHAKES, MAX_PENDING_PER_ADDRESS)
    }
}

impl Gate {
    /// A gate with these bounds.
    #[must_use]
    pub fn new(max_total: usize, max_per_address: usize) -> Self {
        Self { max_total, max_per_address, pending: Mutex::default() }
    }

    /// Lets one handshake in, or says which bound stands against it.
    ///
    /// # Errors
    /// [`GateFull`]; nothing was counted.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Permit, GateFull> {
        let source = source_of(address);
        let mut pending = self.lock();
        if pending.total >= self.max_total {
            return Err(GateFull::Total);
        }
        let from_source = pending.per_address.get(&source).copied().unwrap_or(0);
        if from_source >= self.max_per_address {
            return Err(GateFull::Address);
        }
        pending.per_address.insert(source, from_source + 1);
        pending.total += 1;
        drop(pending);
        Ok(Permit { gate: Arc::clone(self), source })
    }

    /// Handshakes under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // The counts are changed by code that can't panic in between, so they are true even then.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, source: IpAddr) {
        let mut pending = self.lock();
        pending.total = pending.total.saturating_sub(1);
        if let Some(count) = pending.per_address.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pending.per_address.remove(&source);
            }
        }
    }
}

/// One handshake under way; dropping it frees its place.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    source: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(self.source);
    }
}

/// A host may have a whole IPv6 /64 to itself, so that is counted as one.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_bounded_in_all_and_per_address_and_come_back() {
        let gate = Arc::new(Gate::new(3, 2));
        let one = gate.enter(address("10.0.0.1")).unwrap();
        let _two = gate.enter(address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(gate.enter(address("10.0.0.1")).unwrap_err(), GateFull::Address);
        let _three = gate.enter(address("10.0.0.2")).unwrap();
        assert_eq!(gate.enter(address("10.0.0.3")).unwrap_err(), GateFull::Total);
        drop(one);
        assert_eq!(gate.pending(), 2);
        assert!(gate.enter(address("10.0.0.1")).is_ok());
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one_address() {
        let gate = Arc::new(Gate::new(10, 1));
        let _one = gate.enter(address("2001:db8::1")).unwrap();
        assert_eq!(gate.enter(address("2001:db8::ffff:2")).unwrap_err(), GateFull::Address);
        assert!(gate.enter(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn an_idle_gate_remembers_no_address() {
        let gate = Arc::new(Gate::default());
        for last in 0..=255 {
            let _permit = gate.enter(IpAddr::from([10, 0, 0, last])).unwrap();
        }
        assert_eq!(gate.pending(), 0);
        assert!(gate.lock().per_address.is_empty());
    }
}
