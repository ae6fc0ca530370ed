//! Floor 3, the only user of chitchat: who is visible, who is alive or dead, and a few small facts
//! per member. Never user data.
//!
//! chitchat's messages travel inside the members' encrypted links: [`LinkTransport`] replaces its
//! datagrams by two bounded queues that the node pumps. A member's address in chitchat is made of
//! its id (see [`address_of`]), so gossip addresses *members*; where a member can be reached is one
//! of its [`Facts`].
//!
//! Invariants: nothing is decoded before [`wire::inspect`] has bounded what it can become; bytes of
//! a link count as sent by the member at its other end, whatever they claim; no queue here grows
//! without bound; a failure inside chitchat restarts it under a higher generation, and never ends
//! the process.
//!
//! Left to others: encrypting and carrying the bytes (security, transport), deciding what death or
//! a fact means (engine, node), contacting members that gossip does not see (node).

mod detector;
mod facts;
mod link_transport;
mod runner;
mod view;
mod wire;

pub use detector::{Detector, Pulse, Pulses, Standing};
pub use facts::{Facts, FactsError, MAX_ADDRESS_BYTES, Phase};
pub use link_transport::{GossipCounters, LinkEnd, LinkTransport, QUEUE_MESSAGES, Wires, wires};
pub use runner::{DEFAULT_SILENCE, Ended, Gossip, GossipConfig};
pub use view::{Seen, View};
pub use wire::{MAX_DELTA_BLOCKS, MAX_DIGEST_ENTRIES, MAX_MESSAGE_BYTES, WireError, inspect};

use crate::model::MemberId;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// First 64 bits of every gossip address: a unique local prefix, so that a mistake can't reach a
/// real host.
const ADDRESS_PREFIX: u128 = 0xfd6b_0000_0000_0000 << 64;
/// Port of every gossip address; it means nothing.
const ADDRESS_PORT: u16 = 7400;

/// The address that stands for a member inside chitchat. No socket is ever opened on it.
#[must_use]
pub fn address_of(member: MemberId) -> SocketAddr {
    let ip = Ipv6Addr::from(ADDRESS_PREFIX | u128::from(member.0));
    SocketAddr::new(IpAddr::V6(ip), ADDRESS_PORT)
}

/// The member that an address of [`address_of`] stands for; `None` for every other address.
#[must_use]
pub fn member_at(address: SocketAddr) -> Option<MemberId> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    let bits = u128::from(ip);
    let ours = bits >> 64 == ADDRESS_PREFIX >> 64 && address.port() == ADDRESS_PORT;
    #[expect(clippy::cast_possible_truncation, reason = "the low 64 bits are the id")]
    ours.then_some(MemberId(bits as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_survives_its_gossip_address() {
        for id in [0, 1, 77, u64::MAX] {
            assert_eq!(member_at(address_of(MemberId(id))), Some(MemberId(id)));
        }
    }

    #[test]
    fn an_address_of_a_real_host_is_no_member() {
        for address in ["127.0.0.1:7400", "[::1]:7400", "[fd6b::1]:7401"] {
            assert_eq!(member_at(address.parse().unwrap()), None, "{address}");
        }
    }
}
