//! Tokens: made, listed, revoked.

use super::failover::{Nature, Request};
use super::{Client, ClientError};
use crate::node::handle::tokens::{CreatedToken, TokenList, TokenRequest, TokenRow};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

impl Client {
    /// The tokens that this client's own may make and revoke.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.read(Nature::Read, "/v1/tokens").await
    }

    /// Makes a token. Its text is in the answer, and nowhere else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, ClientError> {
        self.send(Nature::Govern, Method::POST, "/v1/tokens", request).await
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_token(&self, name: &str) -> Result<TokenRow, ClientError> {
        let path = format!("/v1/tokens/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
        self.ask(Request::new(Nature::Govern, Method::DELETE, path)).await?.json()
    }
}
