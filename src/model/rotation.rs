//! Changing the cluster secret while everybody runs: the state that follows from the records.
//!
//! A rotation brings the members from one secret (`from`) to another (`to`) in three steps, and each member takes
//! each of them durably before it tells so:
//!
//! ```text
//! step      accepts     offers first
//! -         from        from
//! added     from, to    from
//! used      from, to    to
//! retired   to          to
//! ```
//!
//! Each step is one record of [`super::key::SECRETS`], under the rotation's number, the id of `to` and the step's name;
//! that of `added` also has the keys of both, each sealed under the other: who has either has both. Steps are written and never taken back, so what is in
//! force is the greatest [`State`] of all records: by number, then step, then the time of adding, then id. Every member
//! that has the same records computes the same, and a member only ever goes up, also over restarts.
//!
//! **No step leaves two members without a common secret.** Of the four rows above only the first and the last have
//! none. So all rests on one rule: a member may take `retired` only when every member of the roster has `to` durably and
//! will never give it up for another one. Whoever writes `used` or `retired` must itself be in the state before, and must
//! have heard from every member of the roster that it is in that very state and knows the same roster. Then:
//!
//! - *Added on two sides of a cut.* Both have the same number; the later one holds everywhere, and everybody has `from`.
//!   Adding another secret before `used` is the same: it takes the place of the first.
//! - *One side goes on.* It can't: whom it does not hear, it does not know to be in its state.
//! - *A rival that is used at the same moment.* States are compared by step first, so `X added` < `Y added` < `X used` <
//!   `Y used`, where Y was added later. Who wrote `Y used` was in `Y added` just before and in `Y used` just after, and
//!   so is never in `X used`: nobody can hear that all are, and `X retired` is never written. If Y holds, everybody
//!   still has `from`.
//! - *The next rotation* has a higher number and begins only when the last was retired. Whoever has not heard of that
//!   yet has its `to`, which is the next one's `from`, since `added`.
//! - *A member that was away* finds others that accept `from` until they retire it, and takes what it missed. Afterwards
//!   it is refused, with the reason. Members that are dead are left out only when a person says so (`force`); what that
//!   means for them is the same. Forced on both sides of a cut, the two may retire all that they have in common.
//!
//! Who stops all members and writes a new secret into all their files begins anew: members go by their files then, and the
//! next rotation has a higher number than the last.
//!
//! Invariants: pure values; a record that can't be read counts for nothing and is counted.

use super::timestamp::{NotAnId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of a secret's keys when they are sealed: a nonce, the keys and a tag.
pub const SEALED_BYTES: usize = 12 + 32 + 16;

/// Tells two secrets of a cluster apart. Public: it tells nothing about a good one, but of one that can be guessed each guess
/// can be checked with it, at the price of stretching that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for KeyId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        let not_one = || NotAnId(text.to_owned(), "the id of a secret (16 hexadecimal digits)");
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(not_one)
    }
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Both secrets are accepted, the old one is offered first.
    Added = 1,
    /// Both are accepted, the new one is offered first.
    Used = 2,
    /// Only the new one is accepted.
    Retired = 3,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Added, Self::Used, Self::Retired];

    /// Its name in keys and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Used => "used",
            Self::Retired => "retired",
        }
    }
}

/// Where a member, or the cluster, is. The greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// Which rotation of the cluster; 1 is the first.
    pub number: u64,
    /// How far it is.
    pub step: Step,
    /// When its secret was added: of two rivals the later one holds.
    pub added: Timestamp,
    /// The secret that is to be.
    pub to: KeyId,
    /// The secret that was.
    pub from: KeyId,
}

impl State {
    /// Equal for equal states and never 0; also of a cluster that never changed its secret.
    #[must_use]
    pub fn digest(state: Option<&Self>) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("kith 2026 state of the cluster secret");
        if let Some(Self { number, step, added, to, from }) = state {
            hasher.update(&number.to_be_bytes()).update(&[*step as u8]).update(added.to_string().as_bytes());
            hasher.update(&to.0).update(&from.0);
        }
        let digest = hasher.finalize();
        u64::from_be_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default()).max(1)
    }

    /// The key of the record that makes it so.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        format!("{}/{}/{}", self.number, self.to, self.step.name()).into_bytes()
    }
}

/// What a record says beside its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The secret that was.
    from: String,
    /// Of `used` and `retired`: when the secret was added. That of `added` is its own timestamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    added: Option<String>,
    /// Of `added`: the keys of the new secret, sealed under the old one, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    /// Of `added`: the keys of the old one, sealed under the new one, for who joins with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back: Option<String>,
    /// The name of the token with which it was asked for; empty where none was needed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    by: String,
    /// The member that was asked.
    #[serde(default)]
    member: String,
}

impl Note {
    /// Of a secret that is added.
    #[must_use]
    pub fn of_added(from: KeyId, sealed: &Envelope) -> Self {
        let hex = |bytes: &Sealed| Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let (back, sealed) = (hex(&sealed.from), hex(&sealed.to));
        Self { from: from.to_string(), sealed, back, ..Self::default() }
    }

    /// Of the steps behind that.
    #[must_use]
    pub fn of_step(state: &State) -> Self {
        let added = Some(state.added.to_string());
        Self { from: state.from.to_string(), added, ..Self::default() }
    }

    /// The same, telling who asked which member for it.
    #[must_use]
    pub fn asked(self, by: &str, member: &str) -> Self {
        Self { by: by.to_owned(), member: member.to_owned(), ..self }
    }

    /// The bytes under which it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A secret's keys as a record has them.
pub type Sealed = [u8; SEALED_BYTES];

/// The keys of both secrets of a rotation, each sealed under the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Of the new one, sealed under the old one.
    pub to: Sealed,
    /// Of the old one, sealed under the new one.
    pub from: Sealed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    state: State,
    sealed: Option<Envelope>,
}

/// All that the records say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotations {
    entries: Vec<Entry>,
    unreadable: usize,
}

impl Rotations {
    /// What keys, values and timestamps of records say.
    pub fn from_records<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8], Timestamp)>) -> Self {
        let mut rotations = Self::default();
        for (key, value, timestamp) in records {
            match read(key, value, timestamp) {
                Some(entry) => rotations.entries.push(entry),
                None => rotations.unreadable += 1,
            }
        }
        rotations
    }

    /// What is in force; `None` while the secret was never changed.
    #[must_use]
    pub fn in_force(&self) -> Option<State> {
        self.entries.iter().map(|entry| entry.state).max()
    }

    /// The number of the last rotation; 0 if there was none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.in_force().map_or(0, |state| state.number)
    }

    /// When the last secret was added, of all rotations and rivals; zero without any.
    #[must_use]
    pub fn last_added(&self) -> u64 {
        self.entries.iter().map(|entry| entry.state.added.time).max().unwrap_or(0)
    }

    /// The sealed keys of a state's secrets, unless they were erased.
    #[must_use]
    pub fn sealed(&self, state: &State) -> Option<&Envelope> {
        let is_its = |entry: &&Entry| (entry.state.number, entry.state.to) == (state.number, state.to);
        self.entries.iter().filter(is_its).find_map(|entry| entry.sealed.as_ref())
    }

    /// The keys of the records that mean nothing once a state is in force.
    #[must_use]
    pub fn surplus(&self, state: &State) -> Vec<Vec<u8>> {
        let others = self.entries.iter().filter(|entry| entry.state != *state);
        others.filter(|entry| entry.state.number <= state.number).map(|entry| entry.state.key()).collect()
    }

    /// Records that can't be read: another version of kith made them, or they are damaged.
    #[must_use]
    pub const fn unreadable(&self) -> usize {
        self.unreadable
    }
}

fn read(key: &[u8], value: &[u8], timestamp: Timestamp) -> Option<Entry> {
    let mut parts = std::str::from_utf8(key).ok()?.split('/');
    let (number, to, step) = (parts.next()?, parts.next()?, parts.next()?);
    let step = Step::ALL.into_iter().find(|known| known.name() == step)?;
    let note: Note = serde_json::from_slice(value).ok()?;
    let (added, sealed) = match step {
        Step::Added => (timestamp, Some(Envelope { to: unhex(&note.sealed?)?, from: unhex(&note.back?)? })),
        Step::Used | Step::Retired => (note.added?.parse().ok()?, None),
    };
    let (to, from) = (to.parse().ok()?, note.from.parse().ok()?);
    let state = State { number: number.parse().ok()?, step, added, to, from };
    (state.key() == key).then_some(Entry { state, sealed })
}

fn unhex(text: &str) -> Option<Sealed> {
    let mut bytes = [0; SEALED_BYTES];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
