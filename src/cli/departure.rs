//! How a member goes: `kith leave`, `kith remove`.

use super::error::CliError;
use super::output::{Output, counted};
use crate::client::Client;
use crate::node::handle::status::{Change, State, Status, Transition};
use std::io::IsTerminal;
use std::time::Duration;

/// How often a member that leaves is asked how far it is.
const POLL: Duration = Duration::from_millis(300);

/// Asks a person whether the asked member is meant; anything else than a person always means it.
pub(super) async fn ask(client: &Client, yes: bool, output: Output) -> Result<(), CliError> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let status = client.status().await?;
    output.note(&format!(
        "`{}` hands over what it holds and leaves its cluster; it can come back only as a new member. Go on? [y/N]",
        status.name
    ));
    let mut answer = String::new();
    _ = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Failed("nothing was changed".to_owned())),
    }
}

/// `kith leave`
pub(super) async fn leave(client: &Client, no_wait: bool, output: Output) -> Result<(), CliError> {
    let mut status = client.leave().await?;
    let mut told = String::new();
    while status.state != State::Left && !no_wait {
        let progress = progress(&status);
        if progress != told {
            output.note(&progress);
            told = progress;
        }
        tokio::time::sleep(POLL).await;
        status = client.status().await?;
        if status.state == State::Removed {
            let reasons = status.warnings.join("; ");
            return Err(CliError::Failed(format!("another member removed this one meanwhile: {reasons}")));
        }
    }
    output.show(&status, || match status.state {
        State::Left => format!(
            "`{}` left its cluster; its process can be stopped. To come back it starts with an empty data directory, as a new member.",
            status.name
        ),
        _ => format!("`{}` leaves; `kith status` shows how far it is", status.name),
    })
}

fn progress(status: &Status) -> String {
    let own = |transition: &&Transition| {
        transition.change == Change::Leave && transition.member.as_ref() == Some(&status.name)
    };
    let own = status.transitions.iter().find(own);
    own.map_or_else(|| format!("`{}` is about to leave", status.name), describe_transition)
}

/// A change in one line.
pub(super) fn describe_transition(transition: &Transition) -> String {
    let mut text = transition.change.to_string();
    if let Some(member) = &transition.member {
        text += &format!(" of {member}");
    }
    if let Some(collection) = &transition.collection {
        text += &format!(" of the collection {collection}");
    }
    if let (Some(from), Some(to)) = (&transition.from, &transition.to) {
        let name = |zone: &str| if zone.is_empty() { "none".to_owned() } else { zone.to_owned() };
        text += &format!(" from {} to {}", name(from), name(to));
    }
    // A collection that is to be placed by itself first moves nothing by that.
    if !transition.waits && (transition.partitions > 0 || transition.collection.is_none()) {
        let all = counted(transition.partitions, "partition", "partitions");
        text += &format!(": {} of {all} ready", transition.partitions_done);
    }
    let reason = transition.reason.as_ref();
    reason.map_or(text.clone(), |reason| {
        format!("{text}, {}{reason}", if transition.waits { "waits: " } else { "" })
    })
}

/// `kith remove`
pub(super) async fn remove(client: &Client, name: &str, force: bool, output: Output) -> Result<(), CliError> {
    let removed = client.remove(name, force).await?;
    for warning in &removed.warnings {
        output.warn(warning);
    }
    output.show(&removed, || format!("`{}` ({}) is removed", removed.name, removed.id))
}
