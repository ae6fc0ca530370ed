//! Batches: many operations in one request.
//!
//! All of a batch must be well-formed before the first operation is carried out; then each succeeds or fails by
//! itself, also where the client may not do it, on each key in the batch's order. What a batch brings and what it
//! finds are bounded.

use super::access::check;
use super::answers::Reserved;
use super::failure::Failure;
use super::names::{after_in, wall_ms};
use super::query::Query;
use super::routes::Shared;
use super::{MAX_BATCH_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_HTTP_BATCH_OPERATIONS};
use crate::model::token::Role;
use crate::node::access::Caller;
use crate::node::handle::documents::{Entry, Outcome, Outcomes};
use crate::node::handle::read::Object;
use crate::node::handle::{Answer, Handle, Operation, OperationError, Stopped};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;

/// Operations that are carried out together when a batch reads: so many of the largest values fit
/// into memory whatever they hold.
const READS_IN_A_PIECE: usize = 16;

/// `POST /v1/batch`
pub(super) async fn batch(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let asked = Query::parse(&uri, &["consistency"]).and_then(|query| query.level()).map_err(Failure::from);
    let asked = asked.and_then(|level| Ok((level, after_in(&headers)?)));
    let (level, after) = match asked {
        Ok(asked) => asked,
        Err(failure) => return Err(shared.bodies.refuse(&headers, body, failure)),
    };
    let body = shared.bodies.read(&headers, body, "a batch", MAX_BATCH_BYTES).await?;
    let wall_ms = wall_ms();
    let operations = operations_in(&body.bytes, |entry| Ok(entry.operation(level, after, wall_ms)?))?;
    let allow = |operation: &Operation| {
        let role = if is_read(operation) { Role::Read } else { Role::Write };
        check(&caller, role, operation.key().collection()).inspect_err(|_| shared.access.count_forbidden())
    };
    let room =
        if operations.iter().any(is_read) { shared.answers.reserve().await } else { Reserved::nothing() };
    let changes = operations.iter().any(|operation| !is_read(operation));
    // "Stopping" would say that surely nothing was changed.
    let lost =
        |stopped| if changes { OperationError::Unknown { copies: 0 }.into() } else { Failure::from(stopped) };
    Ok(room.json(&Outcomes { results: run(&shared.handle, operations, allow).await.map_err(lost)? }))
}

const fn is_read(operation: &Operation) -> bool {
    matches!(operation, Operation::Get { .. })
}

/// Carries out what `allow` allows of a batch, in pieces; those with reads are small, so that what they find stays
/// within bounds.
async fn run(
    handle: &Handle,
    operations: Vec<Operation>,
    allow: impl Fn(&Operation) -> Result<(), Failure>,
) -> Result<Vec<Outcome>, Stopped> {
    let piece = if operations.iter().any(is_read) { READS_IN_A_PIECE } else { operations.len() };
    let mut outcomes = Vec::with_capacity(operations.len());
    let (mut found_bytes, mut seen) = (0, 0);
    let mut operations = operations.into_iter().peekable();
    while operations.peek().is_some() {
        let (mut run, mut refusals) = (Vec::new(), Vec::new());
        for mut operation in operations.by_ref().take(piece) {
            operation.follow(seen);
            let too_much = found_bytes > MAX_BATCH_ANSWER_BYTES && is_read(&operation);
            let allowed = if too_much { Err(too_much_found()) } else { allow(&operation) };
            refusals.push(allowed.err());
            if let Some(None) = refusals.last() {
                run.push(operation);
            }
        }
        let mut answers = handle.run(run).await?.into_iter();
        for refusal in refusals {
            let outcome = match refusal {
                Some(failure) => failure.outcome(),
                None => {
                    let answer = answers.next().unwrap_or(Err(OperationError::Unknown { copies: 0 }));
                    seen = seen.max(answer.as_ref().map_or(0, Answer::time));
                    if let Ok(Answer::Found(Some(record))) = &answer {
                        found_bytes += record.view().body().len();
                    }
                    Outcome::of_answer(&answer, wall_ms())
                }
            };
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

fn too_much_found() -> Failure {
    let message =
        format!("a batch finds at most {MAX_BATCH_ANSWER_BYTES} bytes of values; read this key by itself");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

/// The operations of a batch, all of which must be well-formed.
fn operations_in(
    body: &Bytes,
    operation: impl Fn(&Entry) -> Result<Operation, Failure>,
) -> Result<Vec<Operation>, Failure> {
    let text =
        std::str::from_utf8(body).map_err(|_| Failure::bad_document("a batch is JSON, which is UTF-8"))?;
    let too_many = || {
        let message = format!("a batch has at most {MAX_HTTP_BATCH_OPERATIONS} operations; send several");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let mut operations = Vec::new();
    if text.trim_start().starts_with('[') {
        let entries: Vec<Object<Entry>> =
            serde_json::from_str(text).map_err(|error| Failure::bad_document(error.to_string()))?;
        if entries.len() > MAX_HTTP_BATCH_OPERATIONS {
            return Err(too_many());
        }
        for (index, Object(entry)) in entries.iter().enumerate() {
            operations
                .push(operation(entry).map_err(|failure| failure.at(&format!("element {}", index + 1)))?);
        }
        return Ok(operations);
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if operations.len() >= MAX_HTTP_BATCH_OPERATIONS {
            return Err(too_many());
        }
        let entry = Entry::parse(line).map_err(Failure::from);
        let read = entry.and_then(|entry| operation(&entry));
        operations.push(read.map_err(|failure| failure.at(&format!("line {}", index + 1)))?);
    }
    Ok(operations)
}
