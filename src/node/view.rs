//! The member's state beside its engine: addresses, steps of the start, what gossip sees, and why
//! there is no link to somebody.

use super::events;
use super::founding::Creating;
use super::handle::status::{StartStep, StepOutcome};
use super::outdated::Outdated;
use crate::gossip::{self, Gossip, Pulses};
use crate::model::MemberId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Refusals that are remembered.
const MAX_REFUSALS: usize = 256;

/// How long a refusal is told that did not come again: whatever stands is tried far more often.
const TOLD: Duration = Duration::from_secs(600);

/// What is told of a start after an ordinary crash, until all is compared.
pub(super) const CUT_OFF: &str = "the journal's end was cut off; what is missing comes from the others";

/// Addresses of which it is remembered who answered there.
const MAX_ANSWERED: usize = 1_024;

/// Why there is no link to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) reason: String,
    /// When it came last.
    at: Instant,
}

/// The member's state beside its engine.
#[derive(Debug)]
pub(super) struct View {
    /// Where peers reach this member.
    pub(super) address: String,
    /// Where its HTTP is reached.
    pub(super) http_address: String,
    /// Addresses that turned out to be this member's own.
    pub(super) own_addresses: BTreeSet<String>,
    /// Addresses of members that came for a cluster, or from one, while this one knew none.
    pub(super) callers: BTreeSet<String>,
    /// Seeds that did not answer when they were last asked for a cluster.
    pub(super) silent_seeds: BTreeSet<String>,
    /// Seeds that did not let this member in when they were asked last, and why.
    pub(super) refusing_seeds: BTreeMap<String, String>,
    /// Where the services' runtime is told how many bytes a value may have.
    pub(super) told_value_bytes: Arc<AtomicUsize>,
    /// This member's part in the creation of its cluster.
    pub(super) creating: Creating,
    /// The member that says that this one was removed.
    pub(super) expelled_by: Option<String>,
    /// The journal's end was cut off, and not all of it is compared with the others yet.
    pub(super) cut_off: bool,
    /// Why this member's data directory may not be used any more.
    pub(super) outdated: Option<Outdated>,
    /// Who answered last at an address that this member dialled.
    answered: BTreeMap<String, MemberId>,
    /// The version of the protocol that the last link to each member spoke.
    pub(super) protocols: BTreeMap<MemberId, u16>,
    pub(super) pulses: Pulses,
    pub(super) to_gossip: mpsc::Sender<(MemberId, Vec<u8>)>,
    pub(super) gossip: Option<Arc<Gossip>>,
    pub(super) seen: gossip::View,
    pub(super) steps: Vec<StartStep>,
    step_began: Option<Instant>,
    refusals: VecDeque<Refused>,
    /// What was noticed lately.
    pub(super) events: events::Log,
}

impl View {
    pub(super) fn new(
        address: String,
        http_address: String,
        to_gossip: mpsc::Sender<(MemberId, Vec<u8>)>,
    ) -> Self {
        Self {
            address,
            http_address,
            own_addresses: BTreeSet::new(),
            callers: BTreeSet::new(),
            silent_seeds: BTreeSet::new(),
            refusing_seeds: BTreeMap::new(),
            told_value_bytes: Arc::default(),
            creating: Creating::default(),
            expelled_by: None,
            cut_off: false,
            outdated: None,
            answered: BTreeMap::new(),
            protocols: BTreeMap::new(),
            pulses: Pulses::default(),
            to_gossip,
            gossip: None,
            seen: gossip::View::default(),
            steps: Vec::new(),
            step_began: None,
            refusals: VecDeque::new(),
            events: events::Log::default(),
        }
    }

    /// Begins a named step of the start, which ends the one before it.
    pub(super) fn begin_step(&mut self, name: &str) {
        self.end_step(StepOutcome::Done);
        self.steps.push(StartStep { name: name.to_owned(), duration_ms: 0, outcome: StepOutcome::Running });
        self.step_began = Some(Instant::now());
    }

    /// Ends the step that runs.
    pub(super) fn end_step(&mut self, outcome: StepOutcome) {
        let Some(began) = self.step_began.take() else { return };
        if let Some(step) = self.steps.last_mut() {
            step.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            step.outcome = outcome;
            tracing::info!(step = step.name, duration_ms = step.duration_ms, "start");
        }
    }

    /// Remembers who answered at an address.
    pub(super) fn answered(&mut self, address: &str, member: MemberId) {
        if self.answered.len() >= MAX_ANSWERED {
            self.answered.clear();
        }
        self.answered.insert(address.to_owned(), member);
    }

    /// Who answered last at an address.
    pub(super) fn who_answered(&self, address: &str) -> Option<MemberId> {
        self.answered.get(address).copied()
    }

    /// Remembers why there is no link; says whether the same was known.
    pub(super) fn note_refusal(&mut self, address: &str, name: Option<&str>, reason: &str) -> bool {
        let at = Instant::now();
        let is_same = |known: &&mut Refused| {
            known.address == address && known.name.as_deref() == name && known.reason == reason
        };
        if let Some(known) = self.refusals.iter_mut().find(is_same) {
            known.at = at;
            return true;
        }
        let (address, reason) = (address.to_owned(), reason.to_owned());
        let refused = Refused { address, name: name.map(str::to_owned), reason, at };
        // A caller's port changes with every try, so its name is what tells it again.
        self.refusals.retain(|known| {
            known.address != refused.address && (name.is_none() || known.name != refused.name)
        });
        if self.refusals.len() >= MAX_REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refused);
        false
    }

    /// A link to whoever listens at this address stands, and to the member of this name, or it let this one in.
    pub(super) fn forget_refusals(&mut self, name: Option<&str>, address: &str) {
        let is_named = |refused: &Refused| name.is_some() && refused.name.as_deref() == name;
        self.refusals.retain(|refused| refused.address != address && !is_named(refused));
    }

    /// Why there was no link to somebody lately.
    pub(super) fn refusals(&self) -> impl DoubleEndedIterator<Item = &Refused> {
        self.refusals.iter().filter(|refused| refused.at.elapsed() < TOLD)
    }

    pub(super) fn gossip_with(&self, member: MemberId) {
        if let Some(gossip) = &self.gossip {
            gossip.gossip_with(member);
        }
    }

    /// When a member's last frame came, in microseconds of this member's clock.
    pub(super) fn last_heard_us(&self, member: MemberId) -> u64 {
        self.pulses.of(member).last_us()
    }

    pub(super) fn refusal_of(&self, name: &str, address: &str) -> Option<String> {
        let about = |refused: &&Refused| refused.name.as_deref() == Some(name) || refused.address == address;
        self.refusals().rev().find(about).map(|refused| refused.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned(), mpsc::channel(1).0)
    }

    #[test]
    fn a_refusal_is_told_until_a_link_stands_by_whatever_address() {
        let mut view = view();
        for _ in 0..2 {
            view.note_refusal("seed.example:7400", None, "nobody listens");
            view.note_refusal("192.0.2.7:7400", Some("two"), "another cluster");
            view.note_refusal("192.0.2.8", None, "the wrong secret");
        }
        assert_eq!(view.refusals().count(), 3);
        assert_eq!(view.refusal_of("two", "elsewhere").as_deref(), Some("another cluster"));
        view.forget_refusals(None, "seed.example:7400");
        assert_eq!(view.refusals().count(), 2);
        view.forget_refusals(Some("two"), "192.0.2.9:7400");
        assert_eq!(
            view.refusals().map(|refused| refused.address.as_str()).collect::<Vec<_>>(),
            ["192.0.2.8"]
        );
    }

    #[test]
    fn a_refusal_that_came_no_more_for_long_is_not_told() {
        let mut view = view();
        for address in ["192.0.2.7", "192.0.2.8"] {
            assert!(!view.note_refusal(address, None, "the wrong secret"));
        }
        let long_ago = Instant::now().checked_sub(TOLD).unwrap();
        view.refusals.iter_mut().for_each(|refused| refused.at = long_ago);
        assert_eq!(view.refusals().count(), 0);
        assert!(view.note_refusal("192.0.2.8", None, "the wrong secret"), "its log line stood already");
        assert_eq!(
            view.refusals().map(|refused| refused.address.as_str()).collect::<Vec<_>>(),
            ["192.0.2.8"]
        );
    }
}
