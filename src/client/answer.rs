//! Answers over HTTP, before anybody knows what they mean, and what is wrong with them.

use super::{ClientError, TlsProblem, Tried};
use crate::model::Timestamp;
use crate::node::handle::documents::{Ending, ErrorDocument, Outcome, parse_ttl};
use bytes::Bytes;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::time::Duration;

/// A member's answer.
#[derive(Debug)]
pub(super) struct RawAnswer {
    pub(super) address: String,
    pub(super) timestamp: Option<Timestamp>,
    /// How long the record lives still, in milliseconds.
    pub(super) ttl_ms: Option<u64>,
    pub(super) body: Bytes,
}

impl RawAnswer {
    /// Takes an answer in; one that is no success is an error.
    pub(super) async fn read(address: &str, changes: bool, response: Response) -> Result<Self, ClientError> {
        let status = response.status();
        let told = |name: &str| response.headers().get(name)?.to_str().ok();
        let timestamp = told("kith-timestamp").and_then(|text| text.parse().ok());
        let ttl_ms = told("kith-ttl").and_then(|text| parse_ttl(text).ok());
        let body = response.bytes().await.map_err(|error| lost(address, changes, cause(&error)))?;
        if status.is_success() {
            return Ok(Self { address: address.to_owned(), timestamp, ttl_ms, body });
        }
        Err(refusal(address, changes, status, timestamp, &body))
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| self.foreign(&error))
    }

    /// It says what no kith does.
    pub(super) fn foreign(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Foreign { address: self.address.clone(), reason: reason.to_string() }
    }
}

/// What a request failed with that got no whole answer.
pub(super) fn failure(address: &str, changes: bool, error: &reqwest::Error) -> ClientError {
    let address = address.to_owned();
    if error.is_connect() {
        return match TlsProblem::of(error) {
            Some(problem) => ClientError::Tls { address, problem },
            None => ClientError::Unreachable { tried: vec![Tried { address, reason: cause(error) }] },
        };
    }
    if is_no_http(error) {
        let plain = error.url().is_some_and(|url| url.scheme() == "http");
        let what =
            if plain { "what is no HTTP; with TLS write https:// before it" } else { "what is no HTTP" };
        return ClientError::Foreign { address, reason: what.to_owned() };
    }
    lost(&address, changes, cause(error))
}

/// Whether what came back can't be read as an answer.
fn is_no_http(error: &reqwest::Error) -> bool {
    let first: &(dyn Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |&cause| cause.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse))
}

fn lost(address: &str, changes: bool, reason: String) -> ClientError {
    let address = address.to_owned();
    if changes { ClientError::Unknown { address, reason } } else { ClientError::Lost { address, reason } }
}

/// What a request failed with whose answer took longer than this.
pub(super) fn late(address: &str, changes: bool, time: Duration) -> ClientError {
    let time = match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    };
    lost(address, changes, format!("nothing within {time}"))
}

/// What an answer says that is no success.
pub(super) fn refusal(
    address: &str,
    changes: bool,
    status: StatusCode,
    present: Option<Timestamp>,
    body: &[u8],
) -> ClientError {
    let Ok(ErrorDocument { error: code, message }) = serde_json::from_slice(body) else {
        return ClientError::Foreign { address: address.to_owned(), reason: format!("status {status}") };
    };
    refused(address, changes, status.as_u16(), present, code, message)
}

fn refused(
    address: &str,
    changes: bool,
    status: u16,
    present: Option<Timestamp>,
    code: String,
    message: String,
) -> ClientError {
    match code.as_str() {
        "condition_failed" => ClientError::ConditionFailed { present },
        "unauthenticated" | "no_tokens" => ClientError::Unauthenticated { code, message },
        "forbidden" => ClientError::Forbidden { message },
        "unknown" | "timeout" if changes => {
            ClientError::Unknown { address: address.to_owned(), reason: message }
        }
        _ => ClientError::Refused { status, code, message },
    }
}

/// Turns an outcome that failed into an error, as if the operation had been sent alone.
///
/// # Errors
/// [`ClientError::ConditionFailed`], [`ClientError::Unknown`], [`ClientError::Refused`].
pub fn completed(outcome: Outcome) -> Result<Outcome, ClientError> {
    match outcome.outcome {
        Ending::ConditionFailed => {
            let present = outcome.timestamp.as_ref().and_then(|text| text.parse().ok());
            Err(ClientError::ConditionFailed { present })
        }
        Ending::Failed => {
            let (code, message) = (outcome.error.unwrap_or_default(), outcome.message.unwrap_or_default());
            Err(refused("the member", true, StatusCode::OK.as_u16(), None, code, message))
        }
        _ => Ok(outcome),
    }
}

/// The innermost cause, which is what a person can do something about.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let ended = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
    if cause.downcast_ref().is_some_and(ended) {
        return "the connection ended".to_owned();
    }
    cause.to_string()
}
