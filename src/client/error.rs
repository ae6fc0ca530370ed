//! Why a client's wish was not fulfilled.

use super::DEFAULT_ADDRESS;
use crate::model::Timestamp;
use crate::model::key::KeyError;
use crate::security::trust::TlsProblem;
use std::fmt;

/// An address that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The address.
    pub address: String,
    /// What happened there.
    pub reason: String,
}

/// Why a request was not answered as it wished. Each variant says what became of a change.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address that can't be one. Nothing was sent.
    #[error(
        "`{0}` is not an address; write HOST:PORT, such as {DEFAULT_ADDRESS}, or with TLS https://HOST:PORT for all"
    )]
    Address(String),
    /// An address with https:// beside one without. Nothing was sent.
    #[error("`{0}` and another address differ in https://; write it before all of them, or before none")]
    MixedAddresses(String),
    /// A token that can't be one. Nothing was sent.
    #[error("the token has characters that no token has; is it the right file or variable (KITH_TOKEN)?")]
    Token,
    /// A file of authorities without a certificate. Nothing was sent.
    #[error(
        "the file of trusted authorities holds no certificate in PEM form; is it the right file (--ca-file)?"
    )]
    Authorities,
    /// A secret for a member to which it would go in clear. Nothing was sent.
    #[error(
        "the secret was not sent: others could read it on its way to {0}; use https://, or run this on the machine of a member with its address there"
    )]
    NotPrivate(String),
    /// A collection or key that can't be one. Nothing was sent.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A condition that the change can't be under. Nothing was sent.
    #[error("{0}")]
    Condition(&'static str),
    /// No member could be connected to. Nothing was changed.
    #[error(
        "no member listens at {}; start one with `kith dev` or `kith serve`, or name another with --address or KITH_ADDRESS",
        Listed(tried)
    )]
    Unreachable {
        /// Every address, and why it is none.
        tried: Vec<Tried>,
    },
    /// A member was connected to, and TLS with it failed. Nothing was changed.
    #[error("no TLS with {address}: {problem}")]
    Tls {
        /// Who was asked.
        address: String,
        /// What is wrong.
        problem: TlsProblem,
    },
    /// The connection was lost after a question was sent, which changes nothing.
    #[error(
        "{address} gave no whole answer ({reason}); is it the HTTP port of a member, and with TLS written as https://?"
    )]
    Lost {
        /// Who was asked.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Whether a change was made is unknown: the connection was lost after it was sent, or its level was not met
    /// in time. It may still come true. It is never sent again by itself: read before you repeat it.
    #[error("{address} did not confirm the change ({reason}); whether it was made is unknown")]
    Unknown {
        /// Who was asked.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The condition of a change does not hold. Nothing was changed.
    #[error("the condition does not hold, so nothing was changed: {}", Present(*present))]
    ConditionFailed {
        /// The timestamp of what is there; `None`: there is nothing.
        present: Option<Timestamp>,
    },
    /// The token is missing, wrong or revoked, or there is none yet. Nothing was changed.
    #[error("{message}")]
    Unauthenticated {
        /// The error's name for programs.
        code: String,
        /// What to do.
        message: String,
    },
    /// The token does not allow it. Nothing was changed.
    #[error("{message}")]
    Forbidden {
        /// What it would take.
        message: String,
    },
    /// The member refused. Nothing was changed, unless the message says so.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error's name for programs.
        code: String,
        /// What happened and what to do.
        message: String,
    },
    /// An answer that kith does not give, such as a proxy's. Of a change the fate is unknown.
    #[error("{address} answered what no kith does ({reason}); is it the HTTP port of a member?")]
    Foreign {
        /// Who was asked.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Its name for programs, in snake case; the member's, where one refused.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Address(_) | Self::MixedAddresses(_) => "bad_address",
            Self::Token => "bad_token",
            Self::Authorities => "bad_authorities",
            Self::NotPrivate(_) => "not_private",
            Self::Key(_) => "bad_key",
            Self::Condition(_) => "bad_condition",
            Self::Unreachable { .. } => "no_member",
            Self::Tls { .. } => "tls",
            Self::Lost { .. } => "lost",
            Self::Unknown { .. } => "unknown",
            Self::ConditionFailed { .. } => "condition_failed",
            Self::Forbidden { .. } => "forbidden",
            Self::Refused { code, .. } | Self::Unauthenticated { code, .. } => code,
            Self::Foreign { .. } => "foreign_answer",
        }
    }

    /// Whether a change may have been made all the same, or may still be.
    #[must_use]
    pub const fn is_of_unknown_fate(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Foreign { .. })
    }
}

struct Listed<'a>(&'a [Tried]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Tried { address, reason }) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { ", " };
            write!(f, "{between}{address} ({reason})")?;
        }
        Ok(())
    }
}

struct Present(Option<Timestamp>);

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(stamp) => write!(f, "what is there has the timestamp {stamp}"),
            None => f.write_str("there is nothing under this key"),
        }
    }
}
