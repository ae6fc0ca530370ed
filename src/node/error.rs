//! Why a member could not start, or had to stop.

use crate::storage::StorageError;

/// Why a member could not start, or had to stop. What was acknowledged is on its disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The data directory can't be used.
    #[error("data directory {directory}: {source}")]
    Storage {
        /// Where.
        directory: String,
        /// Why.
        source: StorageError,
    },
    /// A port can't be used.
    #[error(
        "can't listen on {address} for {purpose}: {source}; is another kith running, or is the port taken?"
    )]
    Listen {
        /// The configured address.
        address: String,
        /// For whom.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The secret can't be used.
    #[error("the cluster secret: {0}")]
    Secret(#[from] crate::security::SecretError),
    /// The certificate for clients can't be used.
    #[error("TLS for clients: {0}")]
    Tls(#[from] crate::security::tls::TlsError),
    /// The identity file can't be used.
    #[error(
        "the identity in the data directory: {0}; without it this member is a new one: move the directory away and join anew"
    )]
    Identity(#[from] crate::security::IdentityError),
    /// The journal can't be understood.
    #[error(transparent)]
    Journal(#[from] crate::engine::journal::JournalError),
    /// The system gives no threads, random numbers or descriptors.
    #[error("the system refuses {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A part that a member can't be without has ended.
    #[error("{0} ended: {1}")]
    PartEnded(&'static str, String),
    /// A part panicked. What memory holds can't be relied on, so the member ends without an orderly stop.
    #[error(
        "{part} failed by a defect of kith ({message}): start this member again, and report it with its log"
    )]
    Defect {
        /// Which part.
        part: &'static str,
        /// What the panic said.
        message: String,
    },
}
