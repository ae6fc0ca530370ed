//! Who may do what: the question that every front asks of each client, and the answer.
//!
//! The data thread publishes the tokens in force whenever they change ([`Publisher`]); fronts judge
//! with [`Access`], on any thread and without asking the data thread. Three things decide:
//!
//! - While no token is set, clients of this machine may do everything and others nothing, unless the
//!   member's file says otherwise in so many words.
//! - From the first token on, every client must show one.
//! - Who knows the cluster secret may do everything, with an operator's proof
//!   ([`crate::security::operator`]), so that a lost admin's token is no lost cluster. It is believed
//!   on this machine or inside TLS only, where nobody reads along.
//!
//! A member that may have lost its tokens with other records is *unsure* until it serves: who comes from its
//! own machine may look at its state, and only an operator may do more.
//!
//! Invariants: before the tokens are known nobody is let in; a token that is shown and wrong is refused
//! also where none is needed; no text of a token is kept, logged or repeated.

use crate::model::token::{Grant, Role, Token, Tokens};
use crate::security::limits::GateFull;
use crate::security::operator;
use crate::security::secret::{KeyId, Keyring};
use crate::security::tls::{ClientStream, Door};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Whether it runs on this machine.
    pub local: bool,
    /// Whether what passes can't be read by others on the way.
    pub encrypted: bool,
}

impl Origin {
    /// Of a connection from `peer` to `own`, this side's address if it is known.
    ///
    /// Only this machine itself connects from the address to which it connects, or from a loopback address:
    /// the answers to anybody else who claims these would not leave the machine.
    #[must_use]
    pub fn new(peer: IpAddr, own: Option<IpAddr>, encrypted: bool) -> Self {
        let peer = peer.to_canonical();
        Self { local: peer.is_loopback() || own.is_some_and(|own| own.to_canonical() == peer), encrypted }
    }
}

/// Why a client is not let in. Nothing was done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// It shows no token and needs one.
    #[error("this cluster serves clients with a token only; show one (`kith --token`, KITH_TOKEN)")]
    Missing,
    /// What it shows is no token of this cluster.
    #[error(
        "this is no token of this cluster, or it was revoked; an admin makes tokens with `kith token create`"
    )]
    Wrong,
    /// There are no tokens yet, and it comes from another machine.
    #[error(
        "this cluster has no tokens yet, so each member serves its own machine only; run `kith token create admin --role admin` on the machine of a member (in its container), and show what it prints"
    )]
    NoTokens,
    /// The member does not know its tokens yet.
    #[error("this member is still starting; try again in a moment")]
    Starting,
}

impl Denied {
    /// The error's name for programs, in snake case.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Missing | Self::Wrong => "unauthenticated",
            Self::NoTokens => "no_tokens",
            Self::Starting => "starting",
        }
    }
}

/// A client that was let in, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No token is needed.
    Anyone,
    /// Nobody knows whether a token is needed, and none is shown.
    Observer,
    /// Who knows the cluster secret of this id.
    Operator(KeyId),
    /// Who has this token.
    Token(String, Arc<Token>),
}

impl Caller {
    /// Whether it may do what takes `role` in a collection.
    #[must_use]
    pub fn allows(&self, role: Role, collection: &str) -> bool {
        match self {
            Self::Anyone | Self::Operator(_) => true,
            Self::Observer => false,
            Self::Token(_, token) => token.allows(role, collection),
        }
    }

    /// Whether it may do what takes `role` in every collection of clients.
    #[must_use]
    pub fn allows_everywhere(&self, role: Role) -> bool {
        match self {
            Self::Anyone | Self::Operator(_) => true,
            Self::Observer => false,
            Self::Token(_, token) => {
                token.grants.iter().any(|grant| grant.role >= role && grant.is_everywhere())
            }
        }
    }

    /// Whether it may do everything, also to the cluster.
    #[must_use]
    pub fn is_admin_of_all(&self) -> bool {
        match self {
            Self::Anyone | Self::Operator(_) => true,
            Self::Observer => false,
            Self::Token(_, token) => token.is_admin_of_all(),
        }
    }

    /// Whether it may make and revoke a token with these grants.
    #[must_use]
    pub fn governs(&self, grants: &[Grant]) -> bool {
        match self {
            Self::Anyone | Self::Operator(_) => true,
            Self::Observer => false,
            Self::Token(_, token) => token.governs(grants),
        }
    }

    /// The name of its token.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anyone | Self::Observer | Self::Operator(_) => None,
            Self::Token(name, _) => Some(name),
        }
    }
}

/// What a front needs to receive clients.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Who may do what.
    pub access: Access,
    /// TLS, if the member speaks it with clients; then with all of them.
    pub tls: Option<Arc<Door>>,
    /// The host by which clients are told to reach this member's HTTP.
    pub advertised: Arc<str>,
}

impl Guard {
    /// A client's connection as it is to be spoken with, and where it comes from.
    ///
    /// # Errors
    /// [`GateFull`] when too many handshakes are under way; the connection is closed.
    pub fn receive(&self, stream: TcpStream, peer: IpAddr) -> Result<(ClientStream, Origin), GateFull> {
        let own = stream.local_addr().ok().map(|address| address.ip());
        let origin = Origin::new(peer, own, self.tls.is_some());
        let stream = match &self.tls {
            Some(door) => door.enter(stream, peer)?,
            None => ClientStream::Plain(stream),
        };
        Ok((stream, origin))
    }
}

/// Clients that were not let in or went too far, since the start.
#[derive(Debug, Default)]
pub struct DeniedCounts {
    missing: AtomicU64,
    wrong: AtomicU64,
    no_tokens: AtomicU64,
    forbidden: AtomicU64,
}

impl DeniedCounts {
    /// The counts, in the order of [`crate::telemetry::DENIALS`].
    #[must_use]
    pub fn totals(&self) -> [u64; 4] {
        [&self.missing, &self.wrong, &self.no_tokens, &self.forbidden]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// What the fronts know of the tokens.
#[derive(Debug, Clone)]
enum Known {
    /// Nothing yet: the member is at this step of its start.
    Nothing(&'static str),
    /// There are none, and some may have been lost.
    Unsure,
    /// These hold.
    Tokens(Arc<Tokens>),
}

/// Publishes the tokens in force, and the secrets, to every [`Access`].
#[derive(Debug)]
pub struct Publisher {
    known: watch::Sender<Known>,
    keyring: watch::Sender<Arc<Keyring>>,
}

impl Publisher {
    /// The member is at this step of its start and knows no tokens yet.
    pub fn publish_step(&self, step: &'static str) {
        self.known.send_replace(Known::Nothing(step));
    }

    /// These tokens hold from now on.
    pub fn publish(&self, tokens: &Arc<Tokens>) {
        self.known.send_if_modified(|known| {
            let changed = !matches!(known, Known::Tokens(known) if Arc::ptr_eq(known, tokens));
            if changed {
                *known = Known::Tokens(Arc::clone(tokens));
            }
            changed
        });
    }

    /// There are no tokens, and some may have been lost.
    pub fn publish_unsure(&self) {
        self.known.send_if_modified(|known| {
            let changed = !matches!(known, Known::Unsure);
            *known = Known::Unsure;
            changed
        });
    }

    /// These secrets are accepted from now on.
    pub fn publish_keyring(&self, keyring: Keyring) {
        self.keyring.send_replace(Arc::new(keyring));
    }
}

/// Judges clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    known: watch::Receiver<Known>,
    keyring: watch::Receiver<Arc<Keyring>>,
    /// Whether clients of other machines are served while there are no tokens.
    anyone: bool,
    counts: Arc<DeniedCounts>,
}

impl Access {
    /// Access to a member with these keys, to which nobody is let before tokens were published.
    #[must_use]
    pub fn new(keyring: Keyring, anyone: bool) -> (Publisher, Self) {
        let (tokens, known) = watch::channel(Known::Nothing("ports"));
        let (secrets, keyring) = watch::channel(Arc::new(keyring));
        let publisher = Publisher { known: tokens, keyring: secrets };
        (publisher, Self { known, keyring, anyone, counts: Arc::default() })
    }

    /// Completes once the member knows its tokens, or has ended.
    pub async fn known(&self) {
        // An error means that the member has ended; then nobody is let in.
        _ = self.known.clone().wait_for(|known| !matches!(known, Known::Nothing(_))).await;
    }

    /// The step of its start that the member is at, as long as it does not know its tokens.
    #[must_use]
    pub fn step(&self) -> Option<&'static str> {
        match &*self.known.borrow() {
            Known::Nothing(step) => Some(*step),
            Known::Unsure | Known::Tokens(_) => None,
        }
    }

    /// Lets a client in that shows `shown`, or says why not.
    ///
    /// # Errors
    /// [`Denied`], which was counted.
    pub fn admit(&self, origin: Origin, shown: Option<&str>) -> Result<Caller, Denied> {
        let judged = self.judge(origin, shown);
        if let Err(denied) = judged {
            self.count(denied);
        }
        judged
    }

    /// As [`Self::admit`], where nothing depends on it: nobody is refused, so nobody is counted.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge(&self, origin: Origin, shown: Option<&str>) -> Result<Caller, Denied> {
        let known = self.known.borrow().clone();
        match (shown, known) {
            (_, Known::Nothing(_)) => Err(Denied::Starting),
            (None, known) => self.without_token(&known, origin),
            (Some(proof), _) if operator::is_proof(proof) => {
                let read_by_nobody = origin.local || origin.encrypted;
                let keyring = Arc::clone(&self.keyring.borrow());
                let proven = operator::verify(&keyring, proof, unix_seconds()).filter(|_| read_by_nobody);
                proven.map(Caller::Operator).ok_or(Denied::Wrong)
            }
            (Some(_), Known::Unsure) => Err(Denied::Starting),
            (Some(text), Known::Tokens(tokens)) => match tokens.authenticate(text) {
                Some((name, token)) => Ok(Caller::Token(name.to_owned(), Arc::clone(token))),
                None => Err(Denied::Wrong),
            },
        }
    }

    fn without_token(&self, known: &Known, origin: Origin) -> Result<Caller, Denied> {
        match known {
            Known::Nothing(_) => Err(Denied::Starting),
            Known::Unsure if origin.local => Ok(Caller::Observer),
            Known::Unsure => Err(Denied::Starting),
            Known::Tokens(tokens) if !tokens.is_empty() => Err(Denied::Missing),
            Known::Tokens(_) if self.anyone || origin.local => Ok(Caller::Anyone),
            Known::Tokens(_) => Err(Denied::NoTokens),
        }
    }

    /// Whether a token is needed now, as far as is known.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        !matches!(&*self.known.borrow(), Known::Tokens(tokens) if tokens.is_empty())
    }

    /// Whether the tokens, or the secrets, have changed since [`Self::review`] was last called on this very value: a load,
    /// no lock.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.known.has_changed().unwrap_or(false) || self.keyring.has_changed().unwrap_or(false)
    }

    /// Completes when [`Self::has_changed`] would tell so.
    pub async fn changed(&mut self) {
        let changed = tokio::select! {
            known = self.known.changed() => known,
            keyring = self.keyring.changed() => keyring,
        };
        if changed.is_err() {
            // The member has ended, and what it answers ends by itself.
            std::future::pending().await
        }
    }

    /// What a client that was let in before may still do: nothing if its token was revoked or replaced, or its secret retired,
    /// or if it came without one and now needs one.
    pub fn review(&mut self, origin: Origin, caller: Option<Caller>) -> Option<Caller> {
        let known = self.known.borrow_and_update().clone();
        let keyring = Arc::clone(&self.keyring.borrow_and_update());
        match caller {
            None | Some(Caller::Anyone | Caller::Observer) => self.without_token(&known, origin).ok(),
            Some(Caller::Operator(id)) => keyring.find(id).is_some().then_some(Caller::Operator(id)),
            Some(Caller::Token(name, token)) => {
                let Known::Tokens(tokens) = known else { return None };
                let same = tokens.get(&name).is_some_and(|now| **now == *token);
                same.then_some(Caller::Token(name, token))
            }
        }
    }

    /// Counts a client that asked for more than its token allows.
    pub fn count_forbidden(&self) {
        self.counts.forbidden.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, denied: Denied) {
        let count = match denied {
            Denied::Missing => &self.counts.missing,
            Denied::Wrong => &self.counts.wrong,
            Denied::NoTokens => &self.counts.no_tokens,
            Denied::Starting => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Clients that were not let in or went too far.
    #[must_use]
    pub fn counts(&self) -> Arc<DeniedCounts> {
        Arc::clone(&self.counts)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
