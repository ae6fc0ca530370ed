//! The file of this member that holds the secret, looked at while the member runs.
//!
//! What stands there counts only when the member starts ([`crate::security::Ring::load`]). It is told before that, so that
//! people see whether each file is as it should be while that is easy to mend. A secret that stands in the environment or
//! among the other keys of the config is read at a start only.
//!
//! Invariants: what is found here opens nothing; a text is stretched only when it is another one than before, and never on
//! the data thread; no text is logged.

use super::Secrets;
use crate::config::SecretText;
use crate::node::core::Shared;
use crate::security::{ClusterKeys, KeyId, Secret};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the file held when it was last looked at.
#[derive(Debug)]
pub(super) struct InFile {
    text: SecretText,
    id: KeyId,
    /// Why nothing can be read there now.
    problem: Option<String>,
}

impl InFile {
    /// Of a member that starts with it.
    pub(super) const fn new(text: SecretText, id: KeyId) -> Self {
        Self { text, id, problem: None }
    }

    /// The secret's id.
    pub(super) const fn id(&self) -> KeyId {
        self.id
    }

    /// Why the next start would find no secret.
    pub(super) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }
}

/// Looks at the file for ever.
pub(in crate::node) async fn watch(shared: Rc<Shared>) {
    loop {
        sleep(LOOK_INTERVAL).await;
        if let Some(file) = shared.config.secret_file.clone() {
            look(&shared.secrets, file, shared.config.cluster.clone()).await;
        }
    }
}

/// Looks at the file once.
pub(super) async fn look(secrets: &Secrets, file: PathBuf, cluster: String) {
    let known = secrets.in_file.borrow().text.clone();
    let found = tokio::task::spawn_blocking(move || another(&file, &known, &cluster)).await;
    // It is looked at again soon, and nothing is looked at while the member stops.
    let Ok(found) = found else { return };
    let mut in_file = secrets.in_file.borrow_mut();
    match found {
        Ok(None) => in_file.problem = None,
        Ok(Some((text, id))) => {
            *in_file = InFile::new(text, id);
            tell(secrets, id);
        }
        Err(problem) => {
            if in_file.problem.as_ref() != Some(&problem) {
                tracing::warn!("this member could not start again: {problem}");
            }
            in_file.problem = Some(problem);
        }
    }
}

/// What a file holds and its id, if it is not what is known.
fn another(file: &Path, known: &SecretText, cluster: &str) -> Result<Option<(SecretText, KeyId)>, String> {
    let text = SecretText::read(file).map_err(|error| error.to_string())?;
    if text == *known {
        return Ok(None);
    }
    let secret = Secret::parse(&String::from_utf8_lossy(text.expose()));
    let keys = secret.and_then(|secret| ClusterKeys::derive(&secret, cluster));
    let id = keys.map_err(|error| error.to_string())?.id();
    Ok(Some((text, id)))
}

fn tell(secrets: &Secrets, id: KeyId) {
    if secrets.accepts(id) {
        tracing::info!(%id, "another secret stands in this member's file; it is one that is accepted");
    } else if secrets.is_retired(id) {
        tracing::warn!(%id, "another secret stands in this member's file, and it is one that was retired");
    } else {
        tracing::warn!(
            %id,
            "another secret stands in this member's file, and nobody knows it: the next start would make it the only one that this member accepts"
        );
    }
}
