//! A batch on its way: sent, and sent again as long as it may succeed later.

use super::Numbered;
use crate::client::{Client, ClientError, WriteOptions, Written, completed};
use crate::model::key::DEFAULT;
use crate::model::settings::Level;
use crate::node::handle::documents::{Ending, Entry, Outcome, Ttl};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a batch is tried.
const ATTEMPTS: u32 = 6;
/// How long the second attempt waits; each later one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) stored: u64,
    /// Records under whose key a newer one was found, which stays.
    pub(super) superseded: u64,
    /// Reasons by line.
    pub(super) failed: BTreeMap<u64, String>,
    /// How many of the failed may be stored all the same.
    pub(super) doubtful: u64,
    /// Why it makes no sense to go on.
    pub(super) stop: Option<String>,
}

/// Stores a batch, trying again what may succeed later.
pub(super) async fn store(client: Client, mut batch: Vec<Numbered>, level: Option<Level>) -> Report {
    let mut report = Report::default();
    // Whether an attempt that failed may have stored something.
    let mut doubt = false;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(FIRST_PAUSE * (1 << (attempt - 1))).await;
        }
        let last = attempt + 1 == ATTEMPTS;
        let (numbers, entries): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let results = match send(&client, &entries, level).await {
            Ok(results) => results,
            Err(error) if last || !may_succeed_later(&error) => {
                doubt |= error.is_of_unknown_fate();
                report.doubtful += if doubt { numbers.len() as u64 } else { 0 };
                report.failed.extend(numbers.into_iter().map(|number| (number, error.to_string())));
                report.stop = Some(error.to_string());
                return report;
            }
            Err(error) => {
                doubt |= error.is_of_unknown_fate();
                batch = numbers.into_iter().zip(entries).collect();
                continue;
            }
        };
        batch = Vec::new();
        for ((number, entry), result) in numbers.into_iter().zip(entries).zip(results) {
            match result {
                Ok(true) => report.superseded += 1,
                Ok(false) => report.stored += 1,
                Err(error) => {
                    doubt |= error.is_of_unknown_fate();
                    if !last && may_succeed_later(&error) {
                        batch.push((number, entry));
                    } else {
                        report.doubtful += u64::from(doubt);
                        report.failed.insert(number, error.to_string());
                        report.stop =
                            report.stop.or_else(|| is_of_the_member(&error).then(|| error.to_string()));
                    }
                }
            }
        }
        if batch.is_empty() {
            break;
        }
    }
    report
}

/// One attempt: of each record whether a newer one stays in its place or why it failed; or why none was heard of.
async fn send(
    client: &Client,
    entries: &[Entry],
    level: Option<Level>,
) -> Result<Vec<Result<bool, ClientError>>, ClientError> {
    // A value that fills a batch by itself goes as raw bytes, which need no room for escapes.
    if let [entry] = entries {
        return match put_raw(client, entry, level).await {
            Err(error @ (ClientError::Refused { status: 400..500, .. } | ClientError::Forbidden { .. })) => {
                Ok(vec![Err(error)])
            }
            other => other.map(|written| vec![Ok(written.superseded)]),
        };
    }
    let outcomes = client.batch(entries, level).await?;
    let is_superseded = |outcome: Outcome| outcome.outcome == Ending::Superseded;
    Ok(outcomes.into_iter().map(|outcome| completed(outcome).map(is_superseded)).collect())
}

async fn put_raw(client: &Client, entry: &Entry, level: Option<Level>) -> Result<Written, ClientError> {
    let wrong = |error: &dyn std::fmt::Display| ClientError::Refused {
        status: 400,
        code: "bad_document".to_owned(),
        message: error.to_string(),
    };
    let key = entry.key_bytes().map_err(|error| wrong(&error))?;
    let value = entry.value_bytes().map_err(|error| wrong(&error))?;
    let ttl_ms = entry.ttl.as_ref().map(Ttl::as_ms).transpose().map_err(|error| wrong(&error))?;
    let options = WriteOptions { level, ttl: ttl_ms.map(Duration::from_millis), ..WriteOptions::default() };
    let collection = entry.collection.as_deref().unwrap_or(DEFAULT);
    client.put(collection, &key, value, &options).await
}

/// Whether no other record will fare better: no member that was named serves its cluster, or who imports may not.
fn is_of_the_member(error: &ClientError) -> bool {
    const GONE: [&str; 4] = ["left", "removed", "outdated", "no_cluster"];
    matches!(error, ClientError::Unauthenticated { .. } | ClientError::Tls { .. })
        || GONE.contains(&error.code())
}

/// Whether the same request may be stored a little later.
fn may_succeed_later(error: &ClientError) -> bool {
    const PASSING: [&str; 8] = [
        "overloaded",
        "unreachable",
        "not_enough_owners",
        "starting",
        "stopping",
        "timeout",
        "no_room_for_hint",
        "too_many_connections",
    ];
    match error {
        ClientError::Lost { .. } | ClientError::Unknown { .. } | ClientError::Unreachable { .. } => true,
        ClientError::Refused { code, .. } => PASSING.contains(&code.as_str()),
        _ => false,
    }
}
