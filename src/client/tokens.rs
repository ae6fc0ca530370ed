//! Tokens: made, listed, revoked.

use super::{Client, ClientError};
use crate::node::handle::tokens::{CreatedToken, TokenList, TokenRequest, TokenRow};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

impl Client {
    /// The tokens that this client's own may make and revoke.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.read("/v1/tokens").await
    }

    /// Makes a token. Its text is in the answer, and nowhere else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.foreign(&error))?;
        self.ask(Method::POST, "/v1/tokens", &[], body.into()).await?.json()
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_token(&self, name: &str) -> Result<TokenRow, ClientError> {
        let path = format!("/v1/tokens/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
        self.ask(Method::DELETE, &path, &[], Bytes::new()).await?.json()
    }
}
