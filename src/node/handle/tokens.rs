//! Tokens of clients, as data that is also JSON, and what can be asked about them.

use super::{ControlError, Handle, Request};
use crate::model::token::Grant;
use crate::node::access::Caller;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::oneshot;

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What it is to allow.
    pub grants: Vec<Grant>,
}

/// What everybody may know of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRow {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub grants: Vec<Grant>,
    /// When it was made, in milliseconds since the Unix epoch; absent where its record can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
    /// Its record can't be read, for it is damaged or of a newer version: nobody is let in with it. It can be revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
}

/// All tokens that who asks may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenRow>,
}

/// A token's text. `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TokenText(String);

impl TokenText {
    /// Keeps a text from being shown by accident.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever is to use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(not shown)")
    }
}

/// A token that was made. Its text is told this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    /// What clients show.
    pub token: TokenText,
    /// What is kept of it.
    #[serde(flatten)]
    pub row: TokenRow,
}

/// A question about the tokens, or a change of them.
#[derive(Debug)]
pub enum Control {
    /// The tokens that who asks may make and revoke.
    List {
        /// Who asks.
        by: Caller,
        /// Where they go.
        reply: oneshot::Sender<Result<TokenList, ControlError>>,
    },
    /// Makes a token.
    Create {
        /// Which.
        request: TokenRequest,
        /// Who asks.
        by: Caller,
        /// Where it goes once it is durable.
        reply: oneshot::Sender<Result<CreatedToken, ControlError>>,
    },
    /// Takes a token back.
    Revoke {
        /// Its name.
        name: String,
        /// Who asks.
        by: Caller,
        /// Where what was revoked goes once that is durable.
        reply: oneshot::Sender<Result<TokenRow, ControlError>>,
    },
}

impl Handle {
    /// The tokens that `by` may make and revoke.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn tokens(&self, by: Caller) -> Result<TokenList, ControlError> {
        self.ask(|reply| control(Control::List { by, reply })).await?
    }

    /// Makes a token, which holds on every member within seconds.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_token(
        &self,
        request: TokenRequest,
        by: Caller,
    ) -> Result<CreatedToken, ControlError> {
        self.ask(|reply| control(Control::Create { request, by, reply })).await?
    }

    /// Takes a token back, on every member within seconds.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn revoke_token(&self, name: String, by: Caller) -> Result<TokenRow, ControlError> {
        self.ask(|reply| control(Control::Revoke { name, by, reply })).await?
    }
}

const fn control(control: Control) -> Request {
    Request::Control(super::Control::Tokens(control))
}
