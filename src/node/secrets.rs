//! Changing the cluster secret while everybody runs: what this member makes of it, and what it is asked for.
//!
//! What the steps are, and why none of them leaves two members without a common secret, is told in
//! [`crate::model::rotation`]; here they are carried out:
//!
//! - *Follow*: what the records have come to is taken a few times a second. The ring is stored first and used then, and
//!   only what is stored is told in gossip, so what others have heard of this member stays true whatever happens to it.
//! - *Prove*: a link that was made with the old secret need not be made anew. Over it each side proves that it has the
//!   new one, once a second until the other has done so too. At `retired` the links end whose other side did not.
//! - *Write again*: records that were lost although a ring had them already are written anew.
//! - *Erase*: the sealed keys are deleted once the old secret is retired, by the living member with the lowest id.
//!
//! Whoever asks for a step is answered in [`steps`]; what stands in the member's file is looked at in [`mod@file`].
//!
//! Invariants: what is not stored is not used and not told; a link carries nothing once what it was proved with is retired.

mod file;
mod steps;

pub(super) use file::watch as watch_file;
pub(super) use steps::{answer, warnings};

use super::control::alive;
use super::core::{Outgoing, Shared, wake};
use super::{NodeError, membership};
use crate::config::{MemberConfig, SecretText};
use crate::engine::operation::Change as Write;
use crate::engine::{Mode, NOBODY};
use crate::gossip::Facts;
use crate::model::key::SECRETS;
use crate::model::rotation::{Note, Rotations, State, Step};
use crate::model::{KeyRef, MemberId};
use crate::protocol::introduction::{Control, Refusal};
use crate::security::secret::PROOF_BYTES;
use crate::security::{ClusterKeys, Credentials, KeyId, Ring, RingError};
use crate::storage::{Disk, StorageError, small};
use crate::transport::{FrameKind, PeerInfo};
use file::InFile;
use rand::RngExt as _;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// The small file with the ring.
const RING_FILE: &str = "secrets";
/// How often links are proved, and records looked at that are to be erased.
const TEND_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets that the other side of a link has proved.
#[derive(Debug)]
pub(super) struct Proven {
    /// The one that the link was made with and those that were proved since, as long as they are accepted.
    keys: Vec<KeyId>,
    /// Names the link in proofs.
    binding: [u8; 32],
}

impl Proven {
    /// Of a link that was just made.
    pub(super) fn new(peer: &PeerInfo) -> Self {
        Self { keys: vec![peer.key], binding: peer.binding }
    }
}

/// The secrets of this member.
#[derive(Debug)]
pub(super) struct Secrets {
    /// Of the member's file as it was when the member started.
    file: ClusterKeys,
    /// What stands there now. Nothing is opened with it.
    in_file: RefCell<InFile>,
    ring: RefCell<Ring>,
    credentials: RefCell<Rc<Credentials>>,
    /// Why a step that was written is not taken here.
    problem: RefCell<Option<String>>,
}

/// The ring of a data directory, beside the secret of the member's file.
pub(super) fn load<D: Disk>(disk: &D, file: &ClusterKeys) -> Result<Ring, StorageError> {
    let damaged = |detail: &str| {
        let way_out = "put the cluster's present secret into this member's file, remove the file `secrets` from its data directory, and start it again";
        StorageError::damaged(RING_FILE, format!("{detail}; {way_out}"))
    };
    let bytes = small::read(disk, RING_FILE).map_err(|error| match error {
        StorageError::Damaged { detail, .. } => damaged(&detail),
        other => other,
    })?;
    let Some(bytes) = bytes.map(Zeroizing::new) else { return Ok(Ring::of_file(file.clone())) };
    Ring::load(&bytes, file).map_err(|error| match error {
        RingError::Format(version) => {
            StorageError::Format { what: RING_FILE.to_owned(), version: version.into() }
        }
        other => damaged(&other.to_string()),
    })
}

impl Secrets {
    /// With what is fixed of the credentials, the text in the member's file and its keys, and the ring.
    fn new(fixed: Credentials, text: SecretText, file: ClusterKeys, ring: Ring) -> Self {
        let credentials = Credentials { keyring: ring.keyring().clone(), ..fixed };
        let (ring, credentials) = (RefCell::new(ring), RefCell::new(Rc::new(credentials)));
        let in_file = RefCell::new(InFile::new(text, file.id()));
        Self { file, in_file, ring, credentials, problem: RefCell::default() }
    }

    /// What handshakes are made with now.
    pub(super) fn credentials(&self) -> Rc<Credentials> {
        Rc::clone(&self.credentials.borrow())
    }

    /// Whether a secret is accepted now.
    pub(super) fn accepts(&self, id: KeyId) -> bool {
        self.ring.borrow().keyring().find(id).is_some()
    }

    /// Whether a secret was accepted once and is no more.
    fn is_retired(&self, id: KeyId) -> bool {
        self.ring.borrow().keyring().is_retired(id)
    }

    fn state(&self) -> Option<State> {
        self.ring.borrow().state()
    }

    /// The one that is offered first, and the other one that is accepted.
    fn ids(&self) -> (KeyId, Option<KeyId>) {
        let ring = self.ring.borrow();
        let also = ring.keyring().keys().nth(1).map(ClusterKeys::id);
        (ring.keyring().current().id(), also)
    }

    /// Secrets that are accepted, and whether that of the member's file is not among them.
    pub(super) fn counts(&self) -> (usize, bool) {
        (self.ring.borrow().keyring().keys().count(), !self.accepts(self.in_file.borrow().id()))
    }

    /// Adds what gossip tells of this member's secrets.
    pub(super) fn tell(&self, facts: Facts) -> Facts {
        let (uses, also) = self.ids();
        Facts {
            secret_state: State::digest(self.state().as_ref()),
            secret_used: number_of(uses),
            secret_also: also.map_or(0, number_of),
            secret_file: number_of(self.in_file.borrow().id()),
            ..facts
        }
    }
}

/// Refuses to let in who proved a secret that was retired since: it would be told all that there is.
pub(super) fn judge(shared: &Shared, key: KeyId) -> Result<(), Refusal> {
    if shared.secrets.accepts(key) {
        return Ok(());
    }
    Err(Refusal::NotReady("the secret that it was asked with was retired just now".to_owned()))
}

const fn number_of(id: KeyId) -> u64 {
    u64::from_be_bytes(id.0)
}

/// Takes what the records have come to, if that is further than this member is.
pub(super) fn follow(shared: &Shared) {
    let rotations = Arc::clone(shared.core.borrow().engine.rotations());
    let secrets = &shared.secrets;
    let Some(target) = rotations.in_force().filter(|target| Some(*target) > secrets.state()) else {
        *secrets.problem.borrow_mut() = None;
        return;
    };
    let taken = secrets.ring.borrow().take(&target, rotations.sealed(&target), &secrets.file);
    if matches!(taken, Err(RingError::NotOpened(_))) && secrets.state().is_none() {
        // It goes by its file: what it knows of the cluster is outdated, or all files were changed at once. If it is
        // this member that is outdated, others refuse it and say so.
        return;
    }
    let stored = taken.map_err(|error| error.to_string()).and_then(|ring| {
        let stored = small::write_atomic(&shared.disk, RING_FILE, &ring.to_bytes());
        stored.map(|()| ring).map_err(|error| error.to_string())
    });
    match stored {
        Ok(ring) => {
            *secrets.problem.borrow_mut() = None;
            adopt(shared, ring);
            tracing::info!(step = target.step.name(), new = %target.to, old = %target.from, "cluster secret");
        }
        Err(problem) => {
            let known = secrets.problem.replace(Some(problem.clone()));
            if known.as_ref() != Some(&problem) {
                tracing::error!("a step of changing the cluster secret is not taken: {problem}");
            }
        }
    }
}

/// Goes by another ring, which is stored, from now on.
fn adopt(shared: &Shared, ring: Ring) {
    let secrets = &shared.secrets;
    let keyring = ring.keyring().clone();
    let fixed = secrets.credentials();
    *secrets.ring.borrow_mut() = ring;
    let credentials = Credentials { keyring: keyring.clone(), ..(*fixed).clone() };
    *secrets.credentials.borrow_mut() = Rc::new(credentials);
    shared.guard.0.publish_keyring(keyring);
    shared.with(|core| {
        for outgoing in core.links.values_mut() {
            outgoing.proven.keys.retain(|id| secrets.accepts(*id));
        }
        let unproved = core.links.iter().filter(|(_, outgoing)| outgoing.proven.keys.is_empty());
        let unproved: Vec<MemberId> = unproved.map(|(member, _)| *member).collect();
        for member in unproved {
            tracing::info!(%member, "the link was made with a secret that is retired; it is made anew");
            core.drop_link(member);
        }
    });
    prove(shared);
}

/// Tends to what a change of the secret leaves to be done, for ever.
pub(super) async fn tend(shared: Rc<Shared>) {
    loop {
        sleep(TEND_INTERVAL).await;
        prove(&shared);
        erase(&shared);
        write_again(&shared);
    }
}

/// Writes the records of this member's step once more if they are gone: with `sync = "interval"` a power cut may take
/// them and leave the ring, which is stored before anything else. All others would wait for ever then. To take a step only
/// when its record is fsynced would hold each of them up, and would not help where a disk damaged the record. What the
/// others still have comes first: only who serves has compared itself with them.
fn write_again(shared: &Shared) {
    if !membership::is_member(shared) || *shared.core.borrow().engine.mode() != Mode::Serving {
        return;
    }
    let rotations = Arc::clone(shared.core.borrow().engine.rotations());
    let missing = missing(&shared.secrets.ring.borrow(), &rotations);
    if missing.is_empty() {
        return;
    }
    tracing::warn!(
        "the records of the last step of changing the cluster secret are gone; they are written again"
    );
    shared.with(|core| {
        for (key, note) in missing {
            let value = note.asked("", &shared.config.name).to_bytes();
            if let Ok(key) = KeyRef::new(SECRETS, &key) {
                core.engine.write_system(NOBODY, key, Write::Set { value: &value, expiry_ms: None });
            }
        }
    });
}

/// The records that a ring is ahead of, as far as it has what they hold. That of `added` gets another timestamp, which is
/// as if the same secret were added again.
fn missing(ring: &Ring, rotations: &Rotations) -> Vec<(Vec<u8>, Note)> {
    let Some(state) = ring.state().filter(|state| Some(*state) > rotations.in_force()) else {
        return Vec::new();
    };
    let mut missing = Vec::new();
    let is_opened = state.step == Step::Retired || rotations.sealed(&state).is_some();
    let keys = (ring.keyring().find(state.from), ring.keyring().find(state.to));
    if let (Some(from), Some(to)) = keys
        && (state.step == Step::Added || !is_opened)
        && let Ok(sealed) = from.envelope(to, [rand::rng().random(), rand::rng().random()])
    {
        let added = State { step: Step::Added, ..state };
        missing.push((added.key(), Note::of_added(state.from, &sealed)));
    }
    if state.step != Step::Added {
        missing.push((state.key(), Note::of_step(&state)));
    }
    missing
}

/// Proves the newest secret on all links on which the other side did not prove it yet.
fn prove(shared: &Shared) {
    let newest = shared.secrets.ring.borrow().newest().clone();
    let mut core = shared.core.borrow_mut();
    let me = core.engine.identity().member;
    for outgoing in core.links.values_mut().filter(|outgoing| !outgoing.proven.keys.contains(&newest.id())) {
        send_proof(outgoing, me, &newest);
    }
}

fn send_proof(outgoing: &mut Outgoing, me: MemberId, keys: &ClusterKeys) {
    let proof = Control::SecretProof { key: keys.id().0, proof: keys.prove(&outgoing.proven.binding, me) };
    let Ok(bytes) = proof.encode() else { return };
    // What can't be sent now is sent again; a link that broke is noticed by who reads from it.
    let sent = outgoing.writer.queue(FrameKind::Control, &bytes).and_then(|()| outgoing.writer.try_flush());
    if !matches!(sent, Ok(true)) {
        wake(&mut outgoing.drain);
    }
}

/// The other side of a link says that it has a secret. One that is not known here yet will be said again.
pub(super) fn take_proof(
    shared: &Shared,
    member: MemberId,
    link: u64,
    key: KeyId,
    proof: &[u8; PROOF_BYTES],
) {
    let Some(keys) = shared.secrets.ring.borrow().keyring().find(key).cloned() else { return };
    let mut core = shared.core.borrow_mut();
    let me = core.engine.identity().member;
    let Some(outgoing) = core.links.get_mut(&member).filter(|outgoing| outgoing.link == link) else { return };
    if !keys.is_proof(proof, &outgoing.proven.binding, member) {
        tracing::warn!(%member, "a proof of the cluster secret on a link failed");
    } else if !outgoing.proven.keys.contains(&key) {
        outgoing.proven.keys.push(key);
        send_proof(outgoing, me, &keys);
    }
}

/// Deletes the records of a change that is over, if that is for this member to do.
fn erase(shared: &Shared) {
    let Some(state) = shared.secrets.state().filter(|state| state.step == Step::Retired) else { return };
    if !membership::is_member(shared) {
        return;
    }
    let (surplus, is_first) = {
        let (core, view) = (shared.core.borrow(), shared.view.borrow());
        let me = core.engine.identity().member;
        let mut others = core.engine.roster().members().map(|(member, _)| member);
        let is_first = !others.any(|other| other < me && alive(&view, other) == Some(true));
        (core.engine.rotations().surplus(&state), is_first)
    };
    if !is_first || surplus.is_empty() {
        return;
    }
    shared.with(|core| {
        for key in &surplus {
            if let Ok(key) = KeyRef::new(SECRETS, key) {
                core.engine.write_system(NOBODY, key, Write::Delete);
            }
        }
    });
}

/// The ring of a data directory that is opened at a start.
pub(super) fn open<D: Disk>(
    disk: &D,
    config: &MemberConfig,
    fixed: Credentials,
    file: ClusterKeys,
) -> Result<Secrets, NodeError> {
    let directory = || config.data_dir.display().to_string();
    let failed = |source| NodeError::Storage { directory: directory(), source };
    let ring = load(disk, &file).map_err(failed)?;
    Ok(Secrets::new(fixed, config.secret.clone(), file, ring))
}

#[cfg(test)]
mod tests;
