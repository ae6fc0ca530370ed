//! Why a member did not answer as a caller wished.

use super::DEFAULT_ADDRESS;
use crate::model::key::KeyError;

/// Why a request was not answered as it wished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address that can't be one. Nothing was sent.
    #[error(
        "`{0}` is not an address; write HOST:PORT, such as {DEFAULT_ADDRESS}, or with TLS https://HOST:PORT for all"
    )]
    Address(String),
    /// A token that can't be one. Nothing was sent.
    #[error("the token has characters that no token has; is it the right file or variable (KITH_TOKEN)?")]
    Token,
    /// A file of authorities without a certificate. Nothing was sent.
    #[error(
        "the file of trusted authorities holds no certificate in PEM form; is it the right file (--ca-file)?"
    )]
    Authorities,
    /// A collection or key that can't be one. Nothing was sent.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No member could be connected to. Nothing was sent.
    #[error(
        "no member listens at {addresses} ({reason}); start one with `kith dev` or `kith serve`, or name another with --address or KITH_ADDRESS"
    )]
    Unreachable {
        /// Where it was tried.
        addresses: String,
        /// What happened at the last of them.
        reason: String,
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
    /// The connection was lost after a change was sent: whether it was made is unknown.
    #[error(
        "{address} gave no whole answer ({reason}); is it the HTTP port of a member, and with TLS written as https://? Whether a change was made is unknown"
    )]
    Unknown {
        /// Who was asked.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The member refused, or failed to do it.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error's name for programs.
        code: String,
        /// What happened and what to do.
        message: String,
    },
    /// An answer that kith does not give.
    #[error("{address} answered what no kith does ({reason}); is it the HTTP port of a member?")]
    Foreign {
        /// Who was asked.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}
