//! Changing the cluster secret, as data that is also JSON, and what can be asked about it.

use super::tokens::TokenText;
use super::{ControlError, Handle, Request};
use crate::node::access::Caller;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::oneshot;

/// How far the change of the secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretStep {
    /// No change is under way: the members go by their files.
    Unchanged,
    /// A new one is accepted beside the one that is in use.
    Added,
    /// The new one is in use, the old one is accepted still.
    Used,
    /// Only the new one is accepted.
    Retired,
}

impl fmt::Display for SecretStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "unchanged",
            Self::Added => "added",
            Self::Used => "used",
            Self::Retired => "retired",
        })
    }
}

/// The secrets that are accepted, by ids that tell nothing about a good one, and how far each member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretState {
    /// The step that the asked member took last.
    pub step: SecretStep,
    /// The secret that it offers first.
    pub uses: String,
    /// All that it accepts.
    pub accepts: Vec<String>,
    /// How far each member is, as far as this one knows.
    pub members: Vec<SecretRow>,
    /// Why this member does not take the step that the others take, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How far a member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRow {
    /// The member's name.
    pub name: String,
    /// Whether it took the same step as the asked member, durably; absent while it can't be heard.
    pub taken: Option<bool>,
    /// The secret that it offers first; absent while it can't be heard.
    pub uses: Option<String>,
    /// The other one that it accepts, if there is one.
    pub also: Option<String>,
    /// The one that stands in its file, looked at every few seconds; absent while it can't be heard.
    pub file: Option<String>,
    /// Whether that is one that it accepts; absent while it can't be heard.
    pub file_is_accepted: Option<bool>,
    /// Whether that is one that the asked member knows as retired; one that is neither would be the only one that the
    /// member accepts when it starts again. Absent while it can't be heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_is_retired: Option<bool>,
}

/// A secret that is to be accepted beside the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Its text, 16 to 1024 bytes, as it will stand in the members' files.
    pub secret: TokenText,
}

/// A question about the secret, or a step of changing it.
#[derive(Debug)]
pub enum Control {
    /// How far all are.
    Show {
        /// Where it goes.
        reply: oneshot::Sender<Result<SecretState, ControlError>>,
    },
    /// A new secret is accepted.
    Add {
        /// Which.
        request: AddRequest,
        /// Who asks.
        by: Caller,
        /// Where it goes once that is durable.
        reply: oneshot::Sender<Result<SecretState, ControlError>>,
    },
    /// The new one is offered first.
    Use {
        /// Leave out members that can't be heard.
        force: bool,
        /// Who asks.
        by: Caller,
        /// Where it goes once that is durable.
        reply: oneshot::Sender<Result<SecretState, ControlError>>,
    },
    /// The old one is accepted no more.
    Retire {
        /// Leave out members that can't be heard.
        force: bool,
        /// Who asks.
        by: Caller,
        /// Where it goes once that is durable.
        reply: oneshot::Sender<Result<SecretState, ControlError>>,
    },
}

impl Handle {
    /// The secrets that are accepted, and how far each member is.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn secret(&self) -> Result<SecretState, ControlError> {
        self.ask(|reply| control(Control::Show { reply })).await?
    }

    /// Lets all members accept a new secret beside the present one.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::InvalidSecret`], [`ControlError::SecretStep`].
    pub async fn add_secret(&self, request: AddRequest, by: Caller) -> Result<SecretState, ControlError> {
        self.ask(|reply| control(Control::Add { request, by, reply })).await?
    }

    /// Lets all members offer the new secret first; `force` leaves out those that can't be heard.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::SecretStep`].
    pub async fn use_secret(&self, force: bool, by: Caller) -> Result<SecretState, ControlError> {
        self.ask(|reply| control(Control::Use { force, by, reply })).await?
    }

    /// Lets no member accept the old secret any more; `force` leaves out those that can't be heard.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::SecretStep`].
    pub async fn retire_secret(&self, force: bool, by: Caller) -> Result<SecretState, ControlError> {
        self.ask(|reply| control(Control::Retire { force, by, reply })).await?
    }
}

const fn control(control: Control) -> Request {
    Request::Control(super::Control::Secrets(control))
}
