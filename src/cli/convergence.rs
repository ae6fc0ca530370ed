//! Whether all members hold the same: `kith status --wait`, `kith status --superseded`, and the part of
//! `kith status` about it.

use super::cluster::is_gone;
use super::error::CliError;
use super::output::{Output, counted, duration, or_dash, printable, table};
use super::progress;
use crate::client::Client;
use crate::client::convergence::{Look, Watch};
use crate::node::handle::convergence::{Convergence, SupersededWrite};
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};

/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The least that it is given at the end of the time.
const LAST_ANSWER: Duration = Duration::from_millis(500);
/// Time between two looks at all members.
const POLL: Duration = Duration::from_millis(300);

/// `kith status --wait`
pub(super) async fn wait(client: &Client, timeout: Duration, output: Output) -> Result<(), CliError> {
    let began = Instant::now();
    let look = until_equal(client, timeout, output).await?;
    conclude(&look, began.elapsed(), output)
}

/// Looks at all members until they hold the same or the time is over, and gives the last look. Without an obstacle in it
/// all that was acknowledged before this began is with all its owners.
pub(super) async fn until_equal(
    client: &Client,
    timeout: Duration,
    output: Output,
) -> Result<Look, CliError> {
    let (began, progress) = (Instant::now(), progress::of_time(output));
    if let Ok(Ok(status)) = tokio::time::timeout(ANSWER, client.status()).await
        && is_gone(status.state)
    {
        let (name, state) = (status.name, status.state);
        return Err(CliError::Failed(format!(
            "`{name}` is in its cluster no more ({state}), so it will never hold what the others do; ask another member"
        )));
    }
    let mut watch = Watch::new(client);
    let look = loop {
        let left = timeout.saturating_sub(began.elapsed());
        let look = watch.look(ANSWER.min(left).max(LAST_ANSWER)).await;
        if look.obstacles.is_empty() || began.elapsed() + POLL >= timeout {
            break look;
        }
        progress.set_message(summary(&look));
        tokio::time::sleep(POLL).await;
    };
    progress.finish_and_clear();
    Ok(look)
}

fn conclude(look: &Look, waited: Duration, output: Output) -> Result<(), CliError> {
    let converged = look.obstacles.is_empty();
    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    if output.json {
        output.document(&json!({
            "converged": converged,
            "members": look.members,
            "partitions": look.partitions,
            "waited_ms": waited_ms,
            "in_the_way": look.obstacles,
        }))?;
    }
    let members = counted(look.members as u64, "member", "members");
    if converged {
        let partitions = counted(look.partitions as u64, "partition", "partitions");
        return if output.json {
            Ok(())
        } else {
            output.line(&format!("all is equal: {members}, {partitions}, after {}", duration(waited_ms)))
        };
    }
    let reasons: Vec<String> = look.obstacles.iter().map(|reason| format!("\n  {reason}")).collect();
    let waited = duration(waited_ms);
    Err(CliError::Failed(format!("not all is equal after {waited}; in the way:{}", reasons.concat())))
}

fn summary(look: &Look) -> String {
    let first = look.obstacles.first().cloned().unwrap_or_default();
    match look.obstacles.len() {
        0 | 1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}

/// `kith status --superseded`
pub(super) async fn superseded(client: &Client, output: Output) -> Result<(), CliError> {
    let (writes, silent) = client.superseded_anywhere(ANSWER).await?;
    for reason in &silent {
        output.warn(reason);
    }
    output.show(&json!({ "latest": writes, "silent": silent }), || {
        if writes.is_empty() {
            let who = if silent.is_empty() { "no member" } else { "no member that answered" };
            return format!("{who} knows of a write that lost to a concurrent one");
        }
        table(&["KEY", "COLLECTION", "LOST", "WON", "NOTICED"], writes.iter().map(row))
    })
}

fn row(write: &SupersededWrite) -> Vec<String> {
    let key = match (&write.key, &write.key_base64) {
        (Some(key), _) => printable(key.as_bytes()),
        (None, base64) => format!("base64:{}", or_dash(base64.as_ref())),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(write.noticed_ms);
    let noticed = format!("{} ago", duration(ago_ms));
    vec![key, write.collection.clone(), write.timestamp.clone(), write.winner.clone(), noticed]
}

/// What a member has to do yet, in a line, as `kith status` shows it.
pub(super) fn describe(convergence: &Convergence) -> String {
    let partitions = |count: u32, what: &str| {
        (count > 0).then(|| format!("{} {what}", counted(count, "partition", "partitions")))
    };
    let unsorted = convergence.unsorted_collections;
    let parts = [
        convergence.catching_up.then(|| "catches up".to_owned()),
        partitions(convergence.incomplete_partitions, "incomplete"),
        partitions(convergence.awaited_partitions, "waiting for new owners"),
        partitions(convergence.foreign_partitions, "held for others"),
        (unsorted > 0).then(|| format!("{} to sort", counted(unsorted, "collection", "collections"))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Tombstones and whom they wait for, in a line.
pub(super) fn describe_tombstones(convergence: &Convergence) -> String {
    let Convergence { tombstones_waiting, tombstones_settled, .. } = convergence;
    let mut text = format!("{tombstones_waiting} wait, {tombstones_settled} settled");
    let holding = convergence.peers.iter().filter(|peer| peer.tombstones_held_back > 0);
    let holding: Vec<String> =
        holding.map(|peer| format!("{} ({})", peer.name, peer.tombstones_held_back)).collect();
    if !holding.is_empty() {
        text += &format!(", held back by {}", holding.join(", "));
    }
    text
}

/// How far this member and each other one are from holding the same.
pub(super) fn peers_table(convergence: &Convergence) -> String {
    let rows = convergence.peers.iter().map(|peer| {
        vec![
            peer.name.clone(),
            peer.lag_ms.map_or_else(|| "never".to_owned(), |lag| format!("{} ago", duration(lag))),
            peer.records_under_way.to_string(),
            peer.hints.to_string(),
            peer.differing_leaves.to_string(),
            peer.clock_offset_ms.map_or_else(|| "-".to_owned(), |offset| format!("{offset:+} ms")),
        ]
    });
    table(&["WITH", "COMPARED", "UNDER WAY", "HINTS", "LEAVES THAT DIFFER", "CLOCK"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::convergence::tests::equal;

    #[test]
    fn a_status_tells_what_is_to_be_done_and_for_whom_tombstones_wait() {
        let mut convergence = equal(1);
        assert_eq!(describe(&convergence), "nothing");
        assert_eq!(describe_tombstones(&convergence), "0 wait, 0 settled");
        (convergence.incomplete_partitions, convergence.foreign_partitions) = (2, 1);
        (convergence.tombstones_waiting, convergence.peers[1].tombstones_held_back) = (9, 7);
        convergence.peers[0].lag_ms = None;
        assert_eq!(describe(&convergence), "2 partitions incomplete, 1 partition held for others");
        convergence.unsorted_collections = 1;
        assert!(describe(&convergence).ends_with(", 1 collection to sort"));
        assert_eq!(describe_tombstones(&convergence), "9 wait, 0 settled, held back by m3 (7)");
        let table = peers_table(&convergence);
        assert!(table.contains("never") && table.contains("9.0 s ago"), "{table}");
    }

    #[test]
    fn what_is_in_the_way_is_told_and_fails() {
        let obstacles = vec!["m2 keeps 3 hints for m3".to_owned(), "m3 does not answer".to_owned()];
        let look = Look { members: 2, partitions: 256, obstacles };
        assert_eq!(summary(&look), "m2 keeps 3 hints for m3 (and 1 more)");
        let error = conclude(&look, Duration::from_secs(2), Output { json: false }).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let told = error.to_string();
        assert!(told.contains("keeps 3 hints") && told.contains("m3 does not answer"), "{told}");
    }
}
