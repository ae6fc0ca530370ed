//! Members that exist as roster entries only.

use super::load::scramble;
use kith::model::MemberId;
use kith::model::Timestamp;
use kith::model::key::{ROSTER, SETTINGS};
use kith::model::roster::{MemberState, Roster, RosterEntry, entry_key};
use kith::model::settings::Settings;

/// Copies of each record.
pub const COPIES: u8 = 3;
/// The logarithm of the number of partitions.
pub const PARTITION_BITS: u8 = kith::model::limits::DEFAULT_PARTITION_BITS;

/// The entry of a member; each number has its own key.
pub fn entry(number: u64, state: MemberState) -> RosterEntry {
    let mut public_key = [0; 32];
    for (place, word) in public_key.chunks_exact_mut(8).zip(1u64..) {
        place.copy_from_slice(&scramble(number << 8 | word).to_le_bytes());
    }
    RosterEntry {
        name: format!("member-{number:03}"),
        public_key,
        address: format!("10.1.{}.{}:7400", number / 250, number % 250),
        http_address: format!("10.1.{}.{}:7401", number / 250, number % 250),
        zone: String::new(),
        next_zone: None,
        state,
        admitted: 1 + number,
    }
}

/// The settings in force.
pub fn settings() -> Settings {
    Settings { replication_factor: COPIES, replication_factor_in_force: COPIES, ..Settings::default() }
}

/// A roster of these members.
pub fn roster(entries: &[RosterEntry]) -> Roster {
    let mut roster = Roster::default();
    for entry in entries {
        let timestamp = Timestamp { time: entry.admitted, member: MemberId(1) };
        roster.apply(&entry_key(entry.id()), Some(&entry.encode()), timestamp);
    }
    roster
}

/// Roster and settings as the records that a cluster is created with.
pub fn first_records(entries: &[RosterEntry]) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let roster = entries.iter().map(|entry| (ROSTER, entry_key(entry.id()), entry.encode()));
    let settings = settings();
    let settings =
        settings.records().map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes()));
    roster.chain(settings).collect()
}
