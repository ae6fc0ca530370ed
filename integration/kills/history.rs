//! What clients were told of every key, and what may therefore be read.
//!
//! A change is open, acknowledged with its stamp, superseded by a stamp, refused, or in doubt. Every
//! value is written once in all, so what a reader finds names the change that it comes from.

use kith::model::Timestamp;
use kith::model::settings::Level;
use std::collections::{BTreeMap, HashMap};

/// Owners of a key that make a majority; every cluster here has three copies.
pub const MAJORITY: u16 = 2;
/// Changes of a key that are shown when something is wrong with it.
const SHOWN: usize = 30;
/// Digits of a change's number, with which its value begins.
const DIGITS: usize = 12;

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Sets a value of so many bytes.
    Set(usize),
    Delete,
    Increment(i64),
}

/// What is known of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not answered yet.
    Open,
    /// It may or may not have been done.
    Doubt,
    /// Nothing was done.
    Refused,
    /// Done, with this stamp and so many copies.
    Stored(Timestamp, u16),
    /// Something with this stamp won over it.
    Superseded(Timestamp),
}

/// A read's answer: the bytes as text and their stamp.
pub type Found = Option<(String, Timestamp)>;

/// What a read that begins now must not go behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The highest stamp that a majority of the owners confirmed.
    stamp: Option<Timestamp>,
    /// The sum of the increments that a majority confirmed.
    sum: i64,
}

#[derive(Debug, Default)]
struct Key {
    changes: BTreeMap<u64, (Change, State)>,
    floor: Floor,
    /// When a reader at `quorum` saw what no majority had confirmed, its stamp.
    shown: Option<Timestamp>,
}

/// Everything that all clients were told.
#[derive(Debug, Default)]
pub struct History {
    keys: HashMap<String, Key>,
    last: u64,
    /// Facts that were false.
    pub violations: Vec<String>,
    /// Changes that were acknowledged, and those whose fate is unknown.
    pub acknowledged: usize,
    pub in_doubt: usize,
    pub refused: usize,
    pub reads: usize,
    /// Reads at `quorum` or `all` that went behind what another such read had shown before a majority
    /// had it.
    pub went_behind: usize,
}

/// The value that a change writes: its number, then letters up to its length.
pub fn value_of(number: u64, length: usize) -> String {
    let mut value = format!("{number:0DIGITS$}");
    value.extend((DIGITS..length).map(|at| char::from(b'a' + u8::try_from((at * 7 + 3) % 26).unwrap_or(0))));
    value
}

fn number_of(value: &str) -> Option<u64> {
    value.get(..DIGITS)?.parse().ok()
}

impl History {
    /// A change is about to be sent; gives its number.
    pub fn begin(&mut self, key: &str, change: Change) -> u64 {
        self.last += 1;
        let known = self.keys.entry(key.to_owned()).or_default();
        known.changes.insert(self.last, (change, State::Open));
        self.last
    }

    /// A change was answered, or never will be.
    pub fn end(&mut self, key: &str, number: u64, state: State) {
        let known = self.keys.get_mut(key).unwrap();
        let (change, now) = known.changes.get_mut(&number).unwrap();
        *now = state;
        match state {
            State::Stored(stamp, copies) => {
                self.acknowledged += 1;
                if copies >= MAJORITY {
                    match *change {
                        Change::Increment(delta) => known.floor.sum += delta,
                        _ => known.floor.stamp = known.floor.stamp.max(Some(stamp)),
                    }
                }
            }
            State::Superseded(_) => self.acknowledged += 1,
            State::Refused => self.refused += 1,
            State::Open | State::Doubt => self.in_doubt += 1,
        }
    }

    /// To be taken when a read is sent.
    pub fn floor(&self, key: &str) -> (Floor, Option<Timestamp>) {
        self.keys.get(key).map(|known| (known.floor, known.shown)).unwrap_or_default()
    }

    /// A read was answered.
    pub fn read(
        &mut self,
        key: &str,
        level: Option<Level>,
        before: (Floor, Option<Timestamp>),
        found: &Found,
    ) {
        self.reads += 1;
        let strict = matches!(level, Some(Level::Quorum | Level::All));
        let known = self.keys.entry(key.to_owned()).or_default();
        let (floor, shown) = before;
        let wrong = known.misfit(found, if strict { floor } else { Floor::default() });
        if let Some(wrong) = wrong {
            return self.violate(key, &format!("read at {level:?} after {floor:?}: {wrong}"));
        }
        let stamp = found.as_ref().map(|(_, stamp)| *stamp);
        if strict && !known.is_counter() {
            self.went_behind += usize::from(stamp.is_some() && stamp < shown);
            known.shown = known.shown.max(stamp);
        }
    }

    /// What is there when all is at rest.
    pub fn read_at_rest(&mut self, key: &str, found: &Found) {
        let Some(known) = self.keys.get(key) else {
            return self.violate(key, &format!("{found:?} is there, which nobody wrote"));
        };
        if let Some(wrong) = known.misfit_at_rest(found) {
            self.violate(key, &format!("at rest: {wrong}"));
        }
    }

    /// Every key that may be there.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.keys.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    pub fn violate(&mut self, key: &str, what: &str) {
        let changes = self.keys.get(key).map(|known| &known.changes);
        let first = changes.map_or(0, |changes| changes.len().saturating_sub(SHOWN));
        let shown: Vec<String> = changes
            .into_iter()
            .flatten()
            .skip(first)
            .map(|(number, change)| format!("  {number}: {change:?}"))
            .collect();
        self.violations.push(format!("{key}: {what}\n{}", shown.join("\n")));
    }
}

impl Key {
    fn is_counter(&self) -> bool {
        self.changes.values().any(|(change, _)| matches!(change, Change::Increment(_)))
    }

    /// What is wrong with an answer, if anything is.
    fn misfit(&self, found: &Found, floor: Floor) -> Option<String> {
        if self.is_counter() {
            return self.misfit_of_sum(found, floor.sum);
        }
        let Some((value, stamp)) = found else {
            // Only a delete that may be newer than the floor explains it.
            let explains = |(change, state): &(Change, State)| {
                *change == Change::Delete
                    && match state {
                        State::Stored(at, _) => Some(*at) >= floor.stamp,
                        State::Open | State::Doubt | State::Superseded(_) => true,
                        State::Refused => false,
                    }
            };
            let explained = floor.stamp.is_none() || self.changes.values().any(explains);
            return (!explained).then(|| "nothing is there".to_owned());
        };
        if let Some(wrong) = self.misfit_of_origin(value, *stamp) {
            return Some(wrong);
        }
        (Some(*stamp) < floor.stamp).then(|| format!("{} of {stamp} is older", short(value)))
    }

    /// What is wrong with a value whatever else there is.
    fn misfit_of_origin(&self, value: &str, stamp: Timestamp) -> Option<String> {
        let origin = number_of(value).and_then(|number| Some((number, self.changes.get(&number)?)));
        match origin {
            Some((number, (Change::Set(length), state))) if value == value_of(number, *length) => match state
            {
                State::Refused => Some(format!("{number} was refused and is there")),
                State::Stored(at, _) if *at != stamp => {
                    Some(format!("{number} was acknowledged with {at} and read with {stamp}"))
                }
                State::Superseded(winner) if *winner <= stamp => {
                    Some(format!("{number} lost to {winner} and is there with {stamp}"))
                }
                _ => None,
            },
            _ => Some(format!("{} was never written", short(value))),
        }
    }

    fn misfit_of_sum(&self, found: &Found, least: i64) -> Option<String> {
        let sum = match found {
            None => 0,
            Some((text, _)) => match text.parse::<i64>() {
                Ok(sum) => sum,
                Err(_) => return Some(format!("{} is no number", short(text))),
            },
        };
        let may_count = |state: &State| *state != State::Refused;
        let most: i64 = self.deltas(may_count).sum();
        let fits = (least..=most).contains(&sum);
        (!fits).then(|| format!("{sum} is not within {least} to {most}"))
    }

    fn deltas(&self, wanted: impl Fn(&State) -> bool) -> impl Iterator<Item = i64> {
        self.changes.values().filter_map(move |(change, state)| match change {
            Change::Increment(delta) if wanted(state) => Some(*delta),
            _ => None,
        })
    }

    fn misfit_at_rest(&self, found: &Found) -> Option<String> {
        if self.is_counter() {
            let least = self.deltas(|state| matches!(state, State::Stored(..))).sum();
            return self.misfit_of_sum(found, least);
        }
        let stamp_of = |state: &State| match state {
            State::Stored(stamp, _) | State::Superseded(stamp) => Some(*stamp),
            State::Open | State::Doubt | State::Refused => None,
        };
        let stamp = self.changes.values().filter_map(|(_, state)| stamp_of(state)).max();
        self.misfit(found, Floor { stamp, sum: 0 })
    }
}

fn short(value: &str) -> String {
    format!("`{}`", value.chars().take(2 * DIGITS).collect::<String>())
}
