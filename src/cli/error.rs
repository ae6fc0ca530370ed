//! What can go wrong on the command line, and the exit code that it gives.

use crate::client::ClientError;
use crate::config::ConfigErrors;
use std::io;

/// The code of wrong usage.
pub(super) const USAGE: &str = "usage";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A member could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A member's file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A file, a process or the terminal failed.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The command line is wrong in a way that only shows when it is carried out.
    #[error("{0}")]
    Usage(String),
    /// There is nothing under the key that was asked for.
    #[error("there is no record under `{key}` in collection `{collection}`")]
    NotFound { key: String, collection: String },
    /// It was carried out, and failed with a reason of its own.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// Whether it is only that nobody reads the output any more.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Its name for programs.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Client(error) => error.code(),
            Self::Config(_) => "bad_config",
            Self::Io { .. } => "io",
            Self::Usage(_) => USAGE,
            Self::NotFound { .. } => "not_found",
            Self::Failed(_) => "failed",
        }
    }

    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Client(ClientError::Address(_) | ClientError::MixedAddresses(_)) => 2,
            Self::Client(_) | Self::Config(_) | Self::Io { .. } | Self::NotFound { .. } | Self::Failed(_) => {
                1
            }
        }
    }
}
