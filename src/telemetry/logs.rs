//! Logs as lines for people or as JSON for programs, on standard error.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs can't be written as asked; nothing was installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter can't be read.
    #[error(
        "`{filter}` is no log level ({reason}); use error, warn, info, debug or trace, or a list such as `info,kith::gossip=debug`"
    )]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A process has one subscriber.
    #[error("logs were already set up in this process; set them up once, at its start")]
    AlreadyInstalled,
}

/// Installs the process's subscriber. `filter` is a level or a list of levels for parts of the program;
/// chitchat, which warns about every peer that is away, speaks only of errors unless it is named.
///
/// # Errors
/// When the filter can't be read, or a subscriber is installed already.
pub fn init(format: Format, filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).with_span_events(FmtSpan::NONE).try_init(),
    };
    installed.map_err(|_| LogError::AlreadyInstalled)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let quiet = if filter.contains("chitchat") { String::new() } else { "chitchat=error,".to_owned() };
    EnvFilter::builder()
        .parse(format!("{quiet}{filter}"))
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused_with_advice() {
        assert!(parse("info,kith::gossip=debug").is_ok());
        assert!(parse("chitchat=debug").is_ok());
        let refused = parse("kith=louder").unwrap_err();
        assert!(refused.to_string().contains("use error, warn"), "{refused}");
    }
}
