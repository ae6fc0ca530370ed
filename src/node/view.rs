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
use std::time::Instant;
use tokio::sync::mpsc;

/// Refusals that are remembered.
const MAX_REFUSALS: usize = 256;

/// Addresses of which it is remembered who answered there.
const MAX_ANSWERED: usize = 1_024;

/// Why there is no link to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) reason: String,
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
    /// Why this member's data directory may not be used any more.
    pub(super) outdated: Option<Outdated>,
    /// Who answered last at an address that this member dialled.
    answered: BTreeMap<String, MemberId>,
    pub(super) pulses: Pulses,
    pub(super) to_gossip: mpsc::Sender<(MemberId, Vec<u8>)>,
    pub(super) gossip: Option<Arc<Gossip>>,
    pub(super) seen: gossip::View,
    pub(super) steps: Vec<StartStep>,
    step_began: Option<Instant>,
    pub(super) refusals: VecDeque<Refused>,
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
            outdated: None,
            answered: BTreeMap::new(),
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
        let refused =
            Refused { address: address.to_owned(), name: name.map(str::to_owned), reason: reason.to_owned() };
        if self.refusals.contains(&refused) {
            return true;
        }
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

    /// A link to the member of this name stands.
    pub(super) fn forget_refusals(&mut self, name: &str) {
        self.refusals.retain(|refused| refused.name.as_deref() != Some(name));
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
        self.refusals.iter().rev().find(about).map(|refused| refused.reason.clone())
    }
}
