//! The cluster secret: how far a change of it is, and its steps.

use super::failover::{Nature, Request};
use super::{Client, ClientError};
use crate::node::handle::secrets::{AddRequest, SecretState};
use crate::node::handle::tokens::TokenText;
use reqwest::Method;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

impl Client {
    /// The secrets that are accepted, and how far each member is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn secret(&self) -> Result<SecretState, ClientError> {
        self.read(Nature::Read, "/v1/secret").await
    }

    /// Lets all members accept a new secret beside the present one. It is sent over TLS or within this machine only.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NotPrivate`] before anything is sent.
    pub async fn add_secret(&self, secret: &str) -> Result<SecretState, ClientError> {
        if self.scheme != "https" {
            for address in self.members.addresses() {
                if !is_here(address).await {
                    return Err(ClientError::NotPrivate(address.to_owned()));
                }
            }
        }
        let request = AddRequest { secret: TokenText::new(secret.to_owned()) };
        self.send(Nature::Govern, Method::POST, "/v1/secret/add", &request).await
    }

    /// Lets all members offer the new secret first; with `force` also while some can't be heard.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn use_secret(&self, force: bool) -> Result<SecretState, ClientError> {
        self.step(&format!("/v1/secret/use?force={force}")).await
    }

    /// Lets no member accept the old secret any more; with `force` also while some can't be heard.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn retire_secret(&self, force: bool) -> Result<SecretState, ClientError> {
        self.step(&format!("/v1/secret/retire?force={force}")).await
    }

    async fn step(&self, path: &str) -> Result<SecretState, ClientError> {
        self.ask(Request::new(Nature::Govern, Method::POST, path)).await?.json()
    }
}

/// Whether what is sent to an address does not leave this machine. Where a name leads is looked up once more when the
/// request is sent; whoever can change that between the two can do worse.
async fn is_here(address: &str) -> bool {
    let Ok(mut found) = tokio::net::lookup_host(address).await else {
        // Nobody can be connected to there, and the request says so.
        return true;
    };
    found.all(is_own)
}

/// Only to an address of its own this machine sends from that very address. Nothing is sent to find out.
fn is_own(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    address.ip().is_loopback() || from.is_ok_and(|from| from.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_leaves_this_machine_encrypted_or_not_at_all() {
        for here in ["127.0.0.1:7401", "localhost:7401", "[::1]:7401"] {
            assert!(is_here(here).await, "{here}");
        }
        assert!(!is_here("192.0.2.7:7401").await);
        let client = Client::new(["127.0.0.1:9", "192.0.2.7:7401"]).unwrap();
        let refused = client.add_secret("correct horse battery").await.unwrap_err();
        assert_eq!(refused.code(), "not_private");
        assert!(!refused.to_string().contains("horse"), "{refused}");
    }
}
