//! Metrics of each other member, with the label `member`: its name.
//!
//! Members come and go, and a recorder keeps every series that it was ever given. So these are kept as they
//! were last published and written by hand, and who is no member any more is not among them.

use super::names::{self, Metric};
use super::recorder::header;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of another member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerTotals {
    /// Its name.
    pub member: String,
    /// Seconds since the last completed comparison with it began; infinite before the first.
    pub lag_seconds: f64,
    /// Records on their way to it.
    pub records_under_way: f64,
    /// Hints that are kept for it.
    pub hints: f64,
    /// Leaves of hash trees that differed from its own when that was last looked at.
    pub differing_leaves: f64,
    /// Tombstones that it held back from being reclaimed.
    pub tombstones_held_back: f64,
}

/// What each metric shows.
type Shows = fn(&PeerTotals) -> f64;

const SHOWN: [(Metric, Shows); 5] = [
    (names::PEER_LAG, |peer| peer.lag_seconds),
    (names::PEER_UNDER_WAY, |peer| peer.records_under_way),
    (names::PEER_HINTS, |peer| peer.hints),
    (names::PEER_DIFFERING, |peer| peer.differing_leaves),
    (names::PEER_TOMBSTONES, |peer| peer.tombstones_held_back),
];

/// Where they are published; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<Mutex<Vec<PeerTotals>>>);

impl Peers {
    /// Publishes what is known of all other members now.
    pub fn publish(&self, peers: Vec<PeerTotals>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    pub(super) fn render(&self, out: &mut String) {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.is_empty() {
            return;
        }
        for (metric, shows) in SHOWN {
            header(metric, out);
            for peer in peers.iter() {
                let (number, member) = (shows(peer), escaped(&peer.member));
                let number = if number.is_infinite() { "+Inf".to_owned() } else { number.to_string() };
                // Writing into a String can't fail.
                let _ = writeln!(out, "{}{{member=\"{member}\"}} {number}", metric.name);
            }
        }
    }
}

/// A label's value as the text format wants it.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use crate::telemetry::{PeerTotals, Telemetry};

    #[test]
    fn who_is_no_member_any_more_has_no_series() {
        let telemetry = Telemetry::new("one", "0");
        let peer = |name: &str, hints| PeerTotals { member: name.to_owned(), hints, ..PeerTotals::default() };
        telemetry.metrics().peers.publish(vec![peer("a\"b", 3.0), peer("c", 0.0)]);
        let text = telemetry.render();
        assert!(text.contains("kith_peer_hints{member=\"a\\\"b\"} 3\n"), "{text}");
        telemetry.metrics().peers.publish(vec![peer("c", 1.0)]);
        let text = telemetry.render();
        assert!(text.contains("kith_peer_hints{member=\"c\"} 1\n") && !text.contains("a\\\"b"), "{text}");
    }
}
