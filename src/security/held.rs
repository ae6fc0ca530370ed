//! The secrets that a member holds, and what it makes of a step of changing them.
//!
//! A [`Ring`] is what the cluster's records have led to ([`crate::model::rotation`]), kept in the data directory so that
//! a start needs neither the others nor the old text. It decides together with the secret of the member's file:
//!
//! - *The file holds one that the ring accepts*: the ring holds, so the file may be changed before or after.
//! - *The file holds one that was retired here*: the ring holds, and the member says that its file is out of date.
//! - *The file holds one that the ring does not know*: a person wants another one, so it alone holds. So a member that
//!   was away for too long comes back, and so all secrets are replaced at once while everybody is stopped.
//!
//! Invariants: one or two secrets are accepted, the first is offered first; as long as the ring holds its state only
//! rises; bytes that are no ring are an error; keys are wiped when dropped and never shown.

use super::secret::{ClusterKeys, KeyId, Keyring, ROOT_BYTES};
use crate::model::rotation::{Envelope, State, Step};
use crate::model::{MemberId, Timestamp};
use zeroize::Zeroizing;

/// Retired secrets that are remembered by their ids.
const MAX_RETIRED: usize = 16;
/// Secrets that may be accepted at a time.
const MAX_KEYS: usize = 2;
const FORMAT: u8 = 1;

/// Why a ring can't be read, or can't take a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The bytes are none of a ring.
    #[error("its content makes no sense to this version")]
    Malformed,
    /// A newer version wrote it. Nothing is wrong with it.
    #[error("it has format {0}, which this version of kith does not know: run a newer kith")]
    Format(u8),
    /// Neither the new secret nor what it is sealed under is known here.
    #[error(
        "this member has neither the secret {0}, to which the cluster changes, nor the one before: put the cluster's present secret into this member's file and start it again"
    )]
    NotOpened(KeyId),
}

/// The secrets that a member accepts, and the step that it took last.
#[derive(Debug, Clone)]
pub struct Ring {
    keyring: Keyring,
    state: Option<State>,
}

impl Ring {
    /// That of a member which knows its file only.
    #[must_use]
    pub const fn of_file(keys: ClusterKeys) -> Self {
        Self { keyring: Keyring::new(keys, None), state: None }
    }

    /// Reads what [`Self::to_bytes`] gave; `file` are the keys of the secret in the member's file.
    ///
    /// # Errors
    /// [`RingError::Malformed`], [`RingError::Format`].
    pub fn load(bytes: &[u8], file: &ClusterKeys) -> Result<Self, RingError> {
        if let Some(version) = bytes.first().filter(|version| **version > FORMAT) {
            return Err(RingError::Format(*version));
        }
        let ring = Input(bytes).ring().ok_or(RingError::Malformed)?;
        if ring.keyring.find(file.id()).is_some() || ring.keyring.is_retired(file.id()) {
            return Ok(ring);
        }
        let mut retired = ring.keyring.retired().to_vec();
        retired.extend(ring.keyring.keys().map(ClusterKeys::id));
        let keyring = Keyring::new(file.clone(), None).with_retired(latest(retired));
        Ok(Self { keyring, state: None })
    }

    /// The bytes for the file in the data directory: as secret as the secrets.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it, so that no copy is left behind where it grows.
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        out.push(FORMAT);
        let state = self.state;
        out.extend(state.map_or(0, |state| state.number).to_be_bytes());
        out.push(state.map_or(0, |state| state.step as u8));
        let added = state.map_or(Timestamp::ZERO, |state| state.added);
        out.extend(added.time.to_be_bytes());
        out.extend(added.member.0.to_be_bytes());
        for id in [state.map(|state| state.to), state.map(|state| state.from)] {
            out.extend(id.unwrap_or_default().0);
        }
        out.push(self.keyring.keys().count() as u8);
        self.keyring.keys().for_each(|keys| out.extend(keys.root()));
        let retired = self.keyring.retired();
        out.push(retired.len() as u8);
        retired.iter().for_each(|id| out.extend(id.0));
        out
    }

    /// What is accepted, and what is offered first.
    #[must_use]
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The step that was taken last.
    #[must_use]
    pub const fn state(&self) -> Option<State> {
        self.state
    }

    /// The newest of the accepted secrets: what links are to be proved with.
    #[must_use]
    pub fn newest(&self) -> &ClusterKeys {
        let to = self.state.and_then(|state| self.keyring.find(state.to));
        to.unwrap_or_else(|| self.keyring.current())
    }

    /// What it is after a step; `sealed` are the keys of both its secrets, where the records have them still, and `file`
    /// those of the secret in the member's file. Steps between may have been missed.
    ///
    /// # Errors
    /// [`RingError`]; nothing changes.
    pub fn take(
        &self,
        target: &State,
        sealed: Option<&Envelope>,
        file: &ClusterKeys,
    ) -> Result<Self, RingError> {
        let held = |id: KeyId| self.keyring.find(id).or_else(|| Some(file).filter(|file| file.id() == id));
        let open = || held(target.from)?.open(&sealed?.to, target.to);
        let to = held(target.to).cloned().or_else(open).ok_or(RingError::NotOpened(target.to))?;
        let from = held(target.from).cloned().or_else(|| to.open(&sealed?.from, target.from));
        let (first, second) = match (target.step, from) {
            (Step::Added, Some(from)) => (from, Some(to)),
            (Step::Used, from) => (to, from),
            (Step::Added, None) | (Step::Retired, _) => (to, None),
        };
        let keyring = Keyring::new(first, second);
        let retired = latest(self.retired_by(target, &keyring));
        Ok(Self { keyring: keyring.with_retired(retired), state: Some(*target) })
    }

    /// The secrets that are retired once this ring has become `next`. Whatever is accepted no more was retired, also where
    /// that step was missed: one that stands in the file still must not be taken for a new one at the next start. Only a
    /// secret in whose place another one was added was never in use, and may be added again.
    fn retired_by(&self, target: &State, next: &Keyring) -> Vec<KeyId> {
        let begun = self.state.filter(|at| (at.number, at.step) == (target.number, Step::Added));
        let displaced = begun.map(|at| at.to);
        let gone = self.keyring.keys().map(ClusterKeys::id).filter(|id| Some(*id) != displaced);
        let from = (target.step == Step::Retired).then_some(target.from);
        let mut retired = self.keyring.retired().to_vec();
        for id in gone.chain(from) {
            retired.retain(|known| *known != id);
            retired.push(id);
        }
        retired.retain(|id| next.find(*id).is_none());
        retired
    }
}

/// As many as are remembered.
fn latest(mut retired: Vec<KeyId>) -> Vec<KeyId> {
    retired.drain(..retired.len().saturating_sub(MAX_RETIRED));
    retired
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn ring(mut self) -> Option<Ring> {
        if self.array()? != [FORMAT] {
            return None;
        }
        let number = self.number()?;
        let [step] = self.array()?;
        let added = Timestamp { time: self.number()?, member: MemberId(self.number()?) };
        let (to, from) = (KeyId(self.array()?), KeyId(self.array()?));
        let step = match step {
            0 => None,
            step => Some(Step::ALL.into_iter().find(|known| *known as u8 == step)?),
        };
        let state = step.map(|step| State { number, step, added, to, from });
        let [count] = self.array()?;
        if !(1..=MAX_KEYS).contains(&usize::from(count)) {
            return None;
        }
        let mut keys = (0..count).map(|_| {
            let root = Zeroizing::new(self.array::<ROOT_BYTES>()?);
            ClusterKeys::from_root(root).ok()
        });
        let first = keys.next()??;
        let second = match keys.next() {
            Some(second) => Some(second?),
            None => None,
        };
        drop(keys);
        let [count] = self.array()?;
        if usize::from(count) > MAX_RETIRED {
            return None;
        }
        let retired: Vec<KeyId> = (0..count).map(|_| self.array().map(KeyId)).collect::<Option<_>>()?;
        let keyring = Keyring::new(first, second).with_retired(retired);
        self.0.is_empty().then_some(Ring { keyring, state })
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;
    use std::sync::LazyLock;

    static KEYS: LazyLock<[ClusterKeys; 4]> = LazyLock::new(|| {
        ["the first good secret", "the second good secret", "the third good secret", "the fourth good secret"]
            .map(|text| ClusterKeys::derive(&Secret::parse(text).unwrap(), "c").unwrap())
    });

    fn state(number: u64, step: Step, from: usize, to: usize) -> State {
        let added = Timestamp { time: number, member: MemberId(3) };
        State { number, step, added, to: KEYS[to].id(), from: KEYS[from].id() }
    }

    fn ids(ring: &Ring) -> Vec<KeyId> {
        ring.keyring().keys().map(ClusterKeys::id).collect()
    }

    fn of(places: &[usize]) -> Vec<KeyId> {
        places.iter().map(|place| KEYS[*place].id()).collect()
    }

    fn sealed(from: usize, to: usize) -> Envelope {
        KEYS[from].envelope(&KEYS[to], [[5; 12], [6; 12]]).unwrap()
    }

    #[test]
    fn each_step_accepts_and_offers_what_the_table_says() {
        let file = &KEYS[0];
        let mut ring = Ring::of_file(file.clone());
        let sealed = sealed(0, 1);
        for (step, expected) in [(Step::Added, &[0, 1][..]), (Step::Used, &[1, 0]), (Step::Retired, &[1])] {
            let target = state(1, step, 0, 1);
            ring = ring.take(&target, Some(&sealed), file).unwrap();
            assert_eq!((ids(&ring), ring.state()), (of(expected), Some(target)));
            assert_eq!(ring.newest().id(), KEYS[1].id());
            let again = Ring::load(&ring.to_bytes(), file).unwrap();
            assert_eq!((ids(&again), again.state()), (ids(&ring), ring.state()));
            assert_eq!(again.newest().link(), ring.newest().link());
            assert_eq!(again.keyring().is_retired(file.id()), step == Step::Retired);
        }
    }

    #[test]
    fn steps_that_were_missed_are_made_up_for_as_long_as_one_of_the_secrets_is_known() {
        let missed = Ring::of_file(KEYS[0].clone());
        let used = missed.take(&state(1, Step::Used, 0, 1), Some(&sealed(0, 1)), &KEYS[0]).unwrap();
        assert_eq!(ids(&used), of(&[1, 0]));
        // The next one began before this member heard that the last was retired.
        let next = used.take(&state(2, Step::Added, 1, 2), Some(&sealed(1, 2)), &KEYS[0]).unwrap();
        assert_eq!(ids(&next), of(&[1, 2]));
        let again = Ring::load(&next.to_bytes(), &KEYS[0]).unwrap();
        assert_eq!((ids(&again), again.state()), (of(&[1, 2]), next.state()), "its file is only out of date");
        let rival = used.take(&state(1, Step::Used, 0, 3), Some(&sealed(0, 3)), &KEYS[0]).unwrap();
        assert_eq!(ids(&rival), of(&[3, 0]));
        assert!(rival.keyring().is_retired(KEYS[1].id()), "it was in use");
        // One that was only added gives way to another one, and may come back.
        let added = missed.take(&state(1, Step::Added, 0, 1), Some(&sealed(0, 1)), &KEYS[0]).unwrap();
        let other = added.take(&state(1, Step::Added, 0, 3), Some(&sealed(0, 3)), &KEYS[0]).unwrap();
        assert_eq!(ids(&other), of(&[0, 3]));
        assert!(other.keyring().retired().is_empty());
        // Who joins with the new one accepts the old one, too, like all others.
        let joiner = Ring::of_file(KEYS[1].clone());
        let added = joiner.take(&state(1, Step::Added, 0, 1), Some(&sealed(0, 1)), &KEYS[1]).unwrap();
        assert_eq!(ids(&added), of(&[0, 1]));
        // Too late, but the new one stands in the file.
        let retired = state(1, Step::Retired, 0, 1);
        let refused = missed.take(&retired, None, &KEYS[0]).unwrap_err();
        assert_eq!(refused, RingError::NotOpened(KEYS[1].id()));
        assert_eq!(ids(&missed.take(&retired, None, &KEYS[1]).unwrap()), of(&[1]));
    }

    #[test]
    fn what_the_file_holds_decides_only_where_the_ring_does_not_know_it() {
        let ring = Ring::of_file(KEYS[0].clone());
        let used = ring.take(&state(1, Step::Used, 0, 1), Some(&sealed(0, 1)), &KEYS[0]).unwrap();
        for file in [0, 1] {
            assert_eq!(ids(&Ring::load(&used.to_bytes(), &KEYS[file]).unwrap()), of(&[1, 0]));
        }
        let retired = used.take(&state(1, Step::Retired, 0, 1), None, &KEYS[0]).unwrap();
        assert_eq!(
            ids(&Ring::load(&retired.to_bytes(), &KEYS[0]).unwrap()),
            of(&[1]),
            "not the old one again"
        );
        let third = Ring::load(&retired.to_bytes(), &KEYS[2]).unwrap();
        assert_eq!((ids(&third), third.state()), (of(&[2]), None), "it alone holds");
        assert!([0, 1].iter().all(|place| third.keyring().is_retired(KEYS[*place].id())));
    }

    #[test]
    fn a_secret_that_comes_back_is_retired_no_more_and_few_are_remembered() {
        let mut ring = Ring::of_file(KEYS[0].clone());
        for number in 1..40 {
            let (from, to) = (usize::from(number % 2 == 0), usize::from(number % 2 == 1));
            let target = state(number, Step::Retired, from, to);
            ring = ring.take(&target, Some(&sealed(from, to)), &KEYS[0]).unwrap();
            assert!(ring.keyring().is_retired(KEYS[from].id()) && !ring.keyring().is_retired(KEYS[to].id()));
        }
        assert!(ring.to_bytes().len() <= 512);
        assert_eq!(ring.keyring().retired().len(), 1);
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_noticed() {
        let bytes = Ring::of_file(KEYS[0].clone()).to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(Ring::load(&bytes[..cut], &KEYS[0]).unwrap_err(), RingError::Malformed);
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Ring::load(&longer, &KEYS[0]).unwrap_err(), RingError::Malformed);
    }

    #[test]
    fn the_file_of_a_newer_version_is_told_from_damage() {
        let mut bytes = Ring::of_file(KEYS[0].clone()).to_bytes();
        bytes[0] = FORMAT + 1;
        let refused = Ring::load(&bytes, &KEYS[0]).unwrap_err();
        assert_eq!(refused, RingError::Format(FORMAT + 1));
        assert!(refused.to_string().contains("run a newer kith"));
        bytes[0] = FORMAT - 1;
        assert_eq!(Ring::load(&bytes, &KEYS[0]).unwrap_err(), RingError::Malformed);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let ring = Ring::of_file(KEYS[0].clone());
        let shown = format!("{ring:?}");
        assert!(shown.contains(&KEYS[0].id().to_string()), "{shown}");
        assert!(!shown.contains(&format!("{:?}", &KEYS[0].root()[..4]).replace(['[', ']'], "")), "{shown}");
    }
}
