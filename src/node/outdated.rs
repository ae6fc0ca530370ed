//! A data directory that is a copy, or an old one that was restored: its member stops for good.
//!
//! Each start raises the member's incarnation, and peers remember the highest one and which life had it. A
//! member that comes with less, or with another life of the same, would bring old records back and stamp
//! as one that has gone on without it; so it is refused, and the first refusal ends its service. That is
//! written to disk as a *mark*: a start that finds it neither raises the incarnation nor links, else some
//! restarts would bring it above what the peers remember, and they would take it in.
//!
//! A member that this one knows to be removed is not believed.

use super::core::Shared;
use super::departure;
use super::handle::status::StepOutcome;
use crate::model::MemberId;
use crate::protocol::introduction::Refusal;
use crate::storage::{Disk, StorageError, small};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

/// The small file that is the mark.
const MARK_FILE: &str = "outdated";
/// Between two tries to write the mark.
const MARK_RETRY: Duration = Duration::from_secs(1);

/// What a peer said when it refused this member for an old life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outdated {
    /// The peer's name.
    pub(super) by: String,
    /// The highest incarnation of this member that it had seen.
    pub(super) seen: u64,
    /// The one that this member came with.
    pub(super) own: u64,
}

/// Reads the mark, if there is one.
pub(super) fn load<D: Disk>(disk: &D) -> Result<Option<Outdated>, StorageError> {
    let Some(content) = small::read(disk, MARK_FILE)? else { return Ok(None) };
    let damaged = || StorageError::damaged(MARK_FILE, "its content makes no sense to this version");
    parse(&content).map(Some).ok_or_else(damaged)
}

fn parse(content: &[u8]) -> Option<Outdated> {
    let (seen, rest) = content.split_first_chunk()?;
    let (own, by) = rest.split_first_chunk()?;
    let by = String::from_utf8(by.to_vec()).ok()?;
    Some(Outdated { by, seen: u64::from_le_bytes(*seen), own: u64::from_le_bytes(*own) })
}

/// Writes the mark; durable when this returns.
fn store<D: Disk>(disk: &D, outdated: &Outdated) -> Result<(), StorageError> {
    let mut content = Vec::from(outdated.seen.to_le_bytes());
    content.extend(outdated.own.to_le_bytes());
    content.extend(outdated.by.as_bytes());
    small::write_atomic(disk, MARK_FILE, &content)
}

/// Notes that a peer refuses this member: for an old life, it serves nobody from now on.
pub(super) fn note(shared: &Rc<Shared>, by: MemberId, name: &str, refusal: &Refusal) {
    let Refusal::OldLife { seen, .. } = refusal else { return };
    let own = {
        let core = shared.core.borrow();
        if core.engine.roster().is_removed(by) || departure::gone(shared).is_some() {
            return;
        }
        core.engine.identity().incarnation
    };
    let outdated = Outdated { by: name.to_owned(), seen: *seen, own };
    let stored = store(&shared.disk, &outdated);
    shared.view.borrow_mut().outdated = Some(outdated.clone());
    stop_serving(shared);
    if let Err(error) = stored {
        tracing::error!(%error, "that this data directory is outdated could not be noted; it is tried again");
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            while let Err(error) = store(&shared.disk, &outdated) {
                tracing::debug!(%error, "the mark of an outdated data directory could not be written");
                sleep(MARK_RETRY).await;
            }
        });
    }
}

/// Ends service and links of an outdated member, and says why.
pub(super) fn stop_serving(shared: &Shared) {
    if let Err(error) = departure::check(shared) {
        tracing::error!("{error}");
        shared.view.borrow_mut().end_step(StepOutcome::Failed(error.to_string()));
    }
    departure::stop_serving(shared);
    shared.with(|core| {
        let linked: Vec<_> = core.links.keys().copied().collect();
        linked.into_iter().for_each(|member| core.drop_link(member));
    });
    shared.changed.notify_one();
}

/// What whoever comes to an outdated member is told.
pub(super) fn refusal(shared: &Shared) -> Option<Refusal> {
    let is_outdated = shared.view.borrow().outdated.is_some();
    is_outdated.then(|| {
        Refusal::NotReady("its data directory is a copy or was restored, so it serves no more".to_owned())
    })
}

#[cfg(test)]
mod tests;
