//! Asking for a step of changing the secret, and how far it is.
//!
//! `use` and `retire` are written only when all members have taken the step before, which is waited for, for
//! [`SPREAD_WITHIN`]; why is told in [`crate::model::rotation`].
//!
//! Invariants: a step is written only behind the very state that was judged, and between the two nothing is awaited; no text
//! of a secret is kept, logged or told.

use super::follow;
use crate::config::SecretText;
use crate::gossip::Facts;
use crate::model::Timestamp;
use crate::model::key::SECRETS;
use crate::model::rotation::{Note, State, Step};
use crate::node::access::Caller;
use crate::node::changes::write_confirmed;
use crate::node::control::alive;
use crate::node::core::{Core, Shared};
use crate::node::handle::ControlError;
use crate::node::handle::secrets::{AddRequest, Control, SecretRow, SecretState, SecretStep};
use crate::node::membership;
use crate::security::{ClusterKeys, KeyId, Secret};
use rand::RngExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long it is waited for that all members have taken a step.
const SPREAD_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const fn id_of(number: u64) -> KeyId {
    KeyId(number.to_be_bytes())
}

/// Answers a question about the secret, or begins to.
pub(in crate::node) fn answer(shared: &Rc<Shared>, control: Control) {
    let shared = Rc::clone(shared);
    // A reply that nobody waits for any more is no matter.
    match control {
        Control::Show { reply } => _ = reply.send(show(&shared)),
        Control::Add { request, by, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(add(&shared, &request, &by).await);
            });
        }
        Control::Use { force, by, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(step(&shared, Step::Used, force, &by).await);
            });
        }
        Control::Retire { force, by, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(step(&shared, Step::Retired, force, &by).await);
            });
        }
    }
}

fn invalid(reason: impl ToString) -> ControlError {
    ControlError::InvalidSecret(reason.to_string())
}

fn not_now(reason: impl Into<String>) -> ControlError {
    ControlError::SecretStep(reason.into())
}

/// Takes what is known, and gives where this member is then: as far as the records are, or it is not the one to ask.
fn state_now(shared: &Shared) -> Result<Option<State>, ControlError> {
    membership::check_records(shared)?;
    let in_force = shared.with(|core| core.engine.latest_rotations().in_force());
    follow(shared);
    let state = shared.secrets.state();
    match shared.secrets.problem.borrow().as_ref() {
        Some(problem) if in_force > state => Err(not_now(problem.clone())),
        _ => Ok(state),
    }
}

async fn add(shared: &Shared, request: &AddRequest, by: &Caller) -> Result<SecretState, ControlError> {
    let text = SecretText::new(request.secret.expose()).map_err(invalid)?;
    let secret = Secret::parse(&String::from_utf8_lossy(text.expose())).map_err(invalid)?;
    let cluster = shared.config.cluster.clone();
    let derived = tokio::task::spawn_blocking(move || ClusterKeys::derive(&secret, &cluster)).await;
    let keys = derived.map_err(|_| ControlError::Stopping)?.map_err(invalid)?;
    let is_begun = state_now(shared)?.is_some_and(|state| state.step != Step::Retired);
    if !is_begun {
        // Who is away takes it when it comes back.
        all_have_taken(shared, true).await?;
    }
    let state = state_now(shared)?;
    let secrets = &shared.secrets;
    let (number, from) = match state {
        Some(state) if state.step != Step::Retired && state.to == keys.id() => return show(shared),
        Some(state) if state.step == Step::Used => {
            return Err(not_now(format!(
                "the secret {} is in use already and the one before is not retired; run `kith secret retire` first",
                state.to
            )));
        }
        Some(state) if state.step == Step::Added => (state.number, state.from),
        Some(state) => (state.number + 1, state.to),
        // What was in force before all files were changed at once counts no more, but its number is taken.
        None => (shared.core.borrow().engine.rotations().last() + 1, secrets.ids().0),
    };
    if from == keys.id() {
        return Err(invalid(
            "this is the secret that the cluster has now; make another one with `kith secret`",
        ));
    }
    let ring = secrets.ring.borrow().clone();
    if ring.keyring().is_retired(keys.id()) {
        return Err(invalid("this secret was retired; make another one with `kith secret`"));
    }
    let present = ring.keyring().find(from);
    let present = present.ok_or_else(|| not_now("this member lacks the present secret; ask another one"))?;
    let sealed = present.envelope(&keys, [rand::rng().random(), rand::rng().random()]).map_err(invalid)?;
    let added = State { number, step: Step::Added, added: Timestamp::ZERO, to: keys.id(), from };
    let state = write(shared, &added, Note::of_added(from, &sealed), by).await?;
    check_holds(shared, keys.id())?;
    Ok(state)
}

/// Others may have added one, too, or used one, while this one was written.
fn check_holds(shared: &Shared, added: KeyId) -> Result<(), ControlError> {
    let in_force = shared.with(|core| core.engine.latest_rotations().in_force());
    match in_force.filter(|state| state.to != added) {
        Some(State { step: Step::Added, to, .. }) => {
            Err(not_now(format!("another secret was added later: {to}")))
        }
        Some(State { to, .. }) => Err(not_now(format!("another secret is in use already: {to}"))),
        None => Ok(()),
    }
}

/// Takes the second or third step, if everybody has taken the one before.
async fn step(shared: &Shared, wanted: Step, force: bool, by: &Caller) -> Result<SecretState, ControlError> {
    if is_done(state_now(shared)?, wanted)? {
        return show(shared);
    }
    let judged = all_have_taken(shared, force).await?;
    let state = state_now(shared)?;
    if is_done(state, wanted)? {
        return show(shared);
    }
    // What was found of the others says nothing about another state.
    let Some(state) = state.filter(|_| state == judged) else {
        return Err(not_now(
            "the secret was changed by somebody else just now; look at `kith secret status` and try again",
        ));
    };
    let next = State { step: wanted, ..state };
    write(shared, &next, Note::of_step(&next), by).await
}

/// Whether a step was taken already; else it is the next one, or refused.
fn is_done(state: Option<State>, wanted: Step) -> Result<bool, ControlError> {
    let at = state.map(|state| state.step);
    match (wanted, at) {
        (Step::Used, Some(Step::Used)) | (Step::Retired, Some(Step::Retired)) => Ok(true),
        (Step::Used, Some(Step::Added)) | (Step::Retired, Some(Step::Used)) => Ok(false),
        (Step::Retired, Some(Step::Added)) => {
            Err(not_now("the new secret is not in use yet; run `kith secret use` first"))
        }
        (Step::Added | Step::Retired, None | Some(_)) => {
            Err(not_now("there is only one secret, which can't be retired; run `kith secret add` first"))
        }
        (Step::Used, None | Some(Step::Retired)) => {
            Err(not_now("there is only one secret, which is in use; run `kith secret add` first"))
        }
    }
}

/// Writes a step, and takes it here.
async fn write(shared: &Shared, state: &State, note: Note, by: &Caller) -> Result<SecretState, ControlError> {
    let by = by.name().unwrap_or_default();
    tracing::info!(step = state.step.name(), new = %state.to, by, "a step of changing the cluster secret");
    let note = note.asked(by, &shared.config.name);
    let written = write_confirmed(shared, &[(SECRETS, state.key(), note.to_bytes())]).await;
    shared.with(|core| _ = core.engine.latest_rotations());
    follow(shared);
    written?;
    show(shared)
}

/// Waits until every member of the roster is where this one is and knows the same roster; gives where that is. Dead ones
/// are refused, or left out with `force`.
async fn all_have_taken(shared: &Shared, force: bool) -> Result<Option<State>, ControlError> {
    let began = Instant::now();
    loop {
        let (away, behind) = others(shared);
        if behind.is_empty() && (force || away.is_empty()) {
            return Ok(shared.secrets.state());
        }
        if behind.is_empty() || began.elapsed() >= SPREAD_WITHIN {
            return Err(not_all(&away, &behind, force));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn not_all(away: &[String], behind: &[String], force: bool) -> ControlError {
    let mut reasons = Vec::new();
    if !behind.is_empty() {
        reasons.push(format!(
            "{} did not take the step before yet; try again in a moment, `kith secret status` shows how far they are",
            behind.join(", ")
        ));
    }
    if !away.is_empty() && !force {
        reasons.push(format!(
            "{} can't be heard; start what is down or `kith remove` it. With --force it is left out: if it comes back \
             only after the old secret was retired, it is refused until the new one stands in its file",
            away.join(", ")
        ));
    }
    not_now(reasons.join("; "))
}

/// Members that can't be heard, and those that are not where this one is.
fn others(shared: &Shared) -> (Vec<String>, Vec<String>) {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let (engine, me) = (&core.engine, core.engine.identity().member);
    let roster = engine.roster().digest();
    let here = State::digest(shared.secrets.state().as_ref());
    let (mut away, mut behind) = (Vec::new(), Vec::new());
    for (member, known) in engine.roster().members().filter(|(member, _)| *member != me) {
        let facts = view.seen.members.get(&member).and_then(|seen| seen.facts.as_ref());
        let heard = facts.filter(|_| alive(&view, member) == Some(true));
        match heard {
            None => away.push(known.entry.name.clone()),
            Some(facts) if facts.secret_state == here && facts.roster_digest == roster => {}
            Some(facts) if facts.secret_state == 0 => {
                behind.push(format!("{} (whose version of kith can't)", known.entry.name));
            }
            Some(_) => behind.push(known.entry.name.clone()),
        }
    }
    (away, behind)
}

fn show(shared: &Shared) -> Result<SecretState, ControlError> {
    membership::check_records(shared)?;
    let core = shared.core.borrow();
    let ((uses, also), state) = (shared.secrets.ids(), shared.secrets.state());
    Ok(SecretState {
        step: match state.map(|state| state.step) {
            None => SecretStep::Unchanged,
            Some(Step::Added) => SecretStep::Added,
            Some(Step::Used) => SecretStep::Used,
            Some(Step::Retired) => SecretStep::Retired,
        },
        uses: uses.to_string(),
        accepts: std::iter::once(uses).chain(also).map(|id| id.to_string()).collect(),
        members: rows(shared, &core),
        problem: shared.secrets.problem.borrow().clone(),
    })
}

/// How far each member is: this one by itself, the others as gossip tells.
fn rows(shared: &Shared, core: &Core) -> Vec<SecretRow> {
    let (engine, view) = (&core.engine, shared.view.borrow());
    let own = shared.secrets.tell(Facts::default());
    let rows = engine.roster().members().map(|(member, known)| {
        let mine = member == engine.identity().member;
        let facts = view.seen.members.get(&member).and_then(|seen| seen.facts.as_ref());
        let heard = facts.filter(|_| alive(&view, member) == Some(true));
        let heard = if mine { Some(&own) } else { heard };
        let named = |number: u64| (number != 0).then(|| id_of(number).to_string());
        SecretRow {
            name: known.entry.name.clone(),
            taken: heard.map(|facts| facts.secret_state == own.secret_state),
            uses: heard.and_then(|facts| named(facts.secret_used)),
            also: heard.and_then(|facts| named(facts.secret_also)),
            file: heard.and_then(|facts| named(facts.secret_file)),
            file_is_accepted: heard
                .map(|facts| [facts.secret_used, facts.secret_also].contains(&facts.secret_file)),
            file_is_retired: heard.map(|facts| shared.secrets.is_retired(id_of(facts.secret_file))),
        }
    });
    let mut rows: Vec<SecretRow> = rows.collect();
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    rows
}

/// What a person should look at.
pub(in crate::node) fn warnings(shared: &Shared, core: &Core) -> Vec<String> {
    let mut warnings = Vec::new();
    let secrets = &shared.secrets;
    warnings.extend(secrets.problem.borrow().clone());
    let unreadable = core.engine.rotations().unreadable();
    if unreadable > 0 {
        warnings.push(format!(
            "{unreadable} records about the cluster secret can't be read, another version of kith made them; bring all members to the newest one"
        ));
    }
    if let Some(problem) = secrets.in_file.borrow().problem() {
        warnings.push(format!("this member could not start again: {problem}"));
    }
    let wrong = rows(shared, core).into_iter().filter(|row| row.file_is_accepted == Some(false));
    let (old, unknown): (Vec<_>, Vec<_>) = wrong.partition(|row| row.file_is_retired == Some(true));
    let names =
        |rows: &[SecretRow]| rows.iter().map(|row| format!("`{}`", row.name)).collect::<Vec<_>>().join(", ");
    let present = secrets.ids().0;
    if !old.is_empty() {
        warnings.push(format!(
            "the file of {} still holds a cluster secret that was retired; put the new one ({present}) into it: without its data directory it could not come back",
            names(&old)
        ));
    }
    if !unknown.is_empty() {
        warnings.push(format!(
            "the file of {} holds a secret that is not known here, mistyped perhaps: the next start would make it the only one that is accepted there; put the present one ({present}) into it",
            names(&unknown)
        ));
    }
    warnings
}
