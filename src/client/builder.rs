//! How a client is to be: where the members are, what it shows to them, and how patient it is.

use super::answer::cause;
use super::members::{Members, Session};
use super::{Client, ClientError, Tried, is_address};
use crate::model::settings::Level;
use crate::node::handle::tokens::TokenText;
use crate::security::{tls, trust};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use std::sync::Arc;
use std::time::Duration;

/// What addresses begin with where TLS is spoken.
const HTTPS: &str = "https://";
/// What addresses may begin with where it is not.
const HTTP: &str = "http://";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer about records may be waited for: a member gives up after a few times `write_timeout`, 1 s
/// by default.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long members that can't be asked are asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: less than members keep it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a client is to be. `Debug` shows no token.
///
/// ```
/// use kith::Client;
/// use kith::model::settings::Level;
/// use std::time::Duration;
///
/// let client = Client::builder(["127.0.0.1:7401", "127.0.0.1:7411"])
///     .token("kith_app_0123456789")
///     .read_level(Level::Quorum)
///     .patience(Duration::from_secs(3))
///     .build()?;
/// # Ok::<(), kith::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    addresses: Vec<String>,
    token: Option<TokenText>,
    authorities: Option<Vec<u8>>,
    timeout: Duration,
    patience: Duration,
    read_level: Option<Level>,
    write_level: Option<Level>,
    follows: bool,
}

impl ClientBuilder {
    pub(super) fn new<I>(addresses: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            token: None,
            authorities: None,
            timeout: TIMEOUT,
            patience: PATIENCE,
            read_level: None,
            write_level: None,
            follows: true,
        }
    }

    /// Shows this token with every request.
    #[must_use]
    pub fn token(self, text: impl Into<String>) -> Self {
        Self { token: Some(TokenText::new(text.into())), ..self }
    }

    /// Over `https`, trusts only these certificates (PEM) and those that they vouch for, instead of what the system
    /// trusts. A member's own certificate among them is trusted as it is, within its time and for its names.
    #[must_use]
    pub fn authorities(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Some(pem.into()), ..self }
    }

    /// How long an operation waits for its answer to begin, at however many members; 15 s unless told otherwise,
    /// for which a cluster with a long `write_timeout` is a reason. The fate of a change that takes longer is
    /// unknown. Values take the time that they take to be sent, at 256 KiB a second or more; changes of the cluster
    /// take 90 s or more.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How long an operation tries again, at growing intervals, while no member can take it; 10 s unless told
    /// otherwise. With zero each address is asked once.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The level of reads that name none, instead of the cluster's setting.
    #[must_use]
    pub fn read_level(self, level: Level) -> Self {
        Self { read_level: Some(level), ..self }
    }

    /// The level of changes that name none, instead of the cluster's setting.
    #[must_use]
    pub fn write_level(self, level: Level) -> Self {
        Self { write_level: Some(level), ..self }
    }

    /// Whether changes follow whatever this client and its clones have read or written before, also at other
    /// members and whatever their clocks say; true unless told otherwise.
    #[must_use]
    pub fn follow_what_was_seen(self, follows: bool) -> Self {
        Self { follows, ..self }
    }

    /// The client. Connects to no member yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::MixedAddresses`], [`ClientError::Token`], [`ClientError::Authorities`].
    pub fn build(self) -> Result<Client, ClientError> {
        let encrypted = self.addresses.first().is_some_and(|address| address.starts_with(HTTPS));
        let mut addresses = Vec::with_capacity(self.addresses.len());
        for text in &self.addresses {
            let secured = text.strip_prefix(HTTPS);
            if secured.is_some() != encrypted {
                return Err(ClientError::MixedAddresses(text.clone()));
            }
            let address = secured.or_else(|| text.strip_prefix(HTTP)).unwrap_or(text).trim_end_matches('/');
            if !is_address(address) {
                return Err(ClientError::Address(text.clone()));
            }
            addresses.push(address.to_owned());
        }
        if addresses.is_empty() {
            return Err(ClientError::Address(String::new()));
        }
        let http = self.http(encrypted)?;
        Ok(Client {
            http,
            scheme: if encrypted { "https" } else { "http" },
            members: Arc::new(Members::new(addresses)),
            session: self.follows.then(Arc::<Session>::default),
            timeout: self.timeout,
            patience: self.patience,
            read_level: self.read_level,
            write_level: self.write_level,
        })
    }

    fn http(&self, encrypted: bool) -> Result<reqwest::Client, ClientError> {
        tls::use_ring();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Tokens and values go to members only: neither to a proxy that the environment names for the web, nor
            // to where something else than a member sends on.
            .no_proxy()
            .redirect(Policy::none())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(pem) = &self.authorities {
            let trusting = trust::trusting(pem).ok_or(ClientError::Authorities)?;
            builder = builder.tls_backend_preconfigured(trusting);
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
        let failed = |error| {
            let tried = Tried { address: self.addresses.join(", "), reason: cause(&error) };
            ClientError::Unreachable { tried: vec![tried] }
        };
        builder.build().map_err(failed)
    }
}
