//! What a client shows to members, and whom it believes to be one.

use super::{Client, ClientError, cause, is_address};
use crate::node::handle::tokens::TokenText;
use crate::security::tls;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, ClientBuilder};
use std::time::Duration;

/// What addresses begin with where TLS is spoken.
const HTTPS: &str = "https://";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take; members give up before that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an idle connection is kept: less than members keep it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client shows, and whom it trusts. `Debug` shows no token.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    token: Option<TokenText>,
    authorities: Option<Vec<u8>>,
}

impl ClientOptions {
    /// Shows this token with every request.
    #[must_use]
    pub fn token(self, text: impl Into<String>) -> Self {
        Self { token: Some(TokenText::new(text.into())), ..self }
    }

    /// Over `https`, trusts only certificates of these authorities (PEM) instead of the system's.
    #[must_use]
    pub fn authorities(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Some(pem.into()), ..self }
    }

    /// Gives a builder what it needs for `http` or `https`.
    pub(super) fn apply(
        &self,
        builder: ClientBuilder,
        encrypted: bool,
    ) -> Result<ClientBuilder, ClientError> {
        tls::use_ring();
        let mut builder = builder;
        if let Some(pem) = &self.authorities {
            let authorities = Certificate::from_pem_bundle(pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(ClientError::Authorities);
            }
            builder = builder.tls_certs_only(authorities);
        } else if !encrypted {
            // Nobody is to be trusted, so the system need not be asked whom it trusts.
            builder = builder.tls_certs_only([]);
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
        }
        Ok(builder)
    }
}

impl Client {
    /// As [`Self::new`], with a token or authorities; addresses may begin with `https://`, all of them
    /// or none.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Token`], [`ClientError::Authorities`].
    pub fn with<I>(addresses: I, options: &ClientOptions) -> Result<Self, ClientError>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let encrypted = addresses.first().is_some_and(|address| address.starts_with(HTTPS));
        let plain =
            |text: String| if encrypted { text.strip_prefix(HTTPS).map(str::to_owned) } else { Some(text) };
        let with_scheme = |text: String| plain(text.clone()).ok_or(ClientError::Address(text));
        let addresses: Vec<String> = addresses.into_iter().map(with_scheme).collect::<Result<_, _>>()?;
        if let Some(wrong) = addresses.iter().find(|address| !is_address(address)) {
            return Err(ClientError::Address(wrong.clone()));
        }
        if addresses.is_empty() {
            return Err(ClientError::Address(String::new()));
        }
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        let http = options.apply(builder, encrypted)?.build().map_err(|error| ClientError::Unreachable {
            addresses: addresses.join(", "),
            reason: cause(&error),
        })?;
        Ok(Self { http, scheme: if encrypted { "https" } else { "http" }, addresses })
    }
}
