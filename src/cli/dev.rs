//! `kith dev`: a whole cluster on this machine, each member a process of its own.
//!
//! It writes a secret and one file per member into a directory, starts `kith serve` for each, waits
//! until all are ready, and then watches them. The members are real: own data, own key, sealed
//! links; only the machine is shared.
//!
//! Invariants: a member that ends takes no other with it; no member outlives this process (they stop
//! at the end of their standard input, which closes with it); what is in the directory is reused, so a
//! second start finds the data of the first.

mod directory;
mod member;

use super::error::CliError;
use super::output::{Output, counted};
use super::serve::signalled;
use super::token::operators_client;
use crate::client::{Client, ClientError};
use crate::node::handle::status::State;
use clap::Args;
use directory::Plan;
use member::Member;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::SignalKind;
use tokio::time::{Instant, timeout};

/// Members at most: more make no better trial on one machine.
const MAX_MEMBERS: u16 = 9;
/// How long all members may take to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often they are asked.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long a member may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// How many members
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_MEMBERS)))]
    members: u16,
    /// Where secret, configuration, data and logs are kept
    #[arg(long, default_value = "kith-dev", value_name = "DIR")]
    data_dir: PathBuf,
}

/// `kith dev`
pub(super) async fn run(args: &DevArgs, output: Output) -> Result<(), CliError> {
    let plans = directory::prepare(&args.data_dir, args.members)?;
    // The last one comes when the terminal is closed.
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut stop = pin!(signalled(signals));
    let mut members = Vec::new();
    for plan in plans {
        match Member::start(plan) {
            Ok(member) => members.push(member),
            Err(error) => {
                stop_all(&mut members, output).await;
                return Err(error);
            }
        }
    }
    let ready = tokio::select! {
        () = &mut stop => Ok(None),
        ready = all_ready(&mut members, output) => ready.map(Some),
    };
    match ready {
        Ok(Some(gone)) => {
            output.line(&introduction(&members, &gone, &args.data_dir.display().to_string()))?;
            tokio::select! {
                () = &mut stop => {}
                () = watch(&mut members, output) => {}
            }
        }
        Ok(None) => {}
        Err(error) => {
            stop_all(&mut members, output).await;
            return Err(error);
        }
    }
    output.note("stopping all members");
    if stop_all(&mut members, output).await {
        output.note(&format!(
            "stopped; `kith dev` in the same place goes on with the data in {}",
            args.data_dir.display()
        ));
        return Ok(());
    }
    Err(CliError::Failed("not every member stopped in order; their logs say more".to_owned()))
}

/// Waits until every member serves clients, but for those that are in the cluster no more: which these are.
async fn all_ready(members: &mut [Member], output: Output) -> Result<BTreeSet<usize>, CliError> {
    let deadline = Instant::now() + READY_DEADLINE;
    let mut gone = BTreeSet::new();
    for index in 0..members.len() {
        let Some(http) = members.get(index).map(|member| member.plan.http.to_string()) else { break };
        let client = Client::new([http])?;
        loop {
            let answer = match timeout(ASK_PAUSE * 20, client.ready()).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            if let Some(ended) = members.iter_mut().find_map(Member::ended) {
                return Err(CliError::Failed(ended));
            }
            if let Some(member) = members.get(index)
                && let Some(State::Left | State::Removed | State::Outdated) =
                    state_of(&client, &member.plan.config).await
            {
                output.complain(&format!("{} serves nobody: {answer}", member.describe()));
                gone.insert(index);
                break;
            }
            if Instant::now() >= deadline {
                let member = members.get(index).map(Member::describe).unwrap_or_default();
                let seconds = READY_DEADLINE.as_secs();
                return Err(CliError::Failed(format!("{member} was not ready after {seconds} s: {answer}")));
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }
    Ok(gone)
}

/// The state of a member, also if its cluster has tokens.
async fn state_of(client: &Client, config: &Path) -> Option<State> {
    let status = match client.status().await {
        Err(ClientError::Unauthenticated { .. }) => {
            operators_client(config, |addresses| Ok(Client::builder(addresses))).ok()?.status().await
        }
        other => other,
    };
    status.ok().map(|status| status.state)
}

/// Tells of members that end, and comes back when none is left.
async fn watch(members: &mut Vec<Member>, output: Output) {
    while !members.is_empty() {
        tokio::time::sleep(ASK_PAUSE).await;
        members.retain_mut(|member| match member.ended() {
            Some(how) => {
                output.complain(&how);
                false
            }
            None => true,
        });
    }
    output.complain("no member is left");
}

/// Lets every member stop in order; kills those that don't. Tells whether all did.
async fn stop_all(members: &mut Vec<Member>, output: Output) -> bool {
    // All at once first, so that they stop side by side.
    members.iter_mut().for_each(Member::ask_to_stop);
    let deadline = Instant::now() + STOP_DEADLINE;
    let mut orderly = true;
    for mut member in members.drain(..) {
        match tokio::time::timeout_at(deadline, member.stopped()).await {
            Ok(Ok(())) => {}
            Ok(Err(how)) => {
                orderly = false;
                output.complain(&how);
            }
            Err(_) => {
                orderly = false;
                output.complain(&format!("{} did not stop in time and is killed", member.describe()));
                member.kill().await;
            }
        }
    }
    orderly
}

/// What to try.
fn introduction(members: &[Member], gone: &BTreeSet<usize>, directory: &str) -> String {
    let count = counted((members.len() - gone.len()) as u64, "member", "members");
    let mut text = format!("A cluster of {count} is ready; its files are in {directory}.\n\n");
    let serving =
        members.iter().enumerate().filter(|(index, _)| !gone.contains(index)).map(|(_, member)| member);
    for member in serving.clone() {
        let Plan { name, peers, http, resp, .. } = &member.plan;
        let pid = member.pid();
        text.push_str(&format!("  {name}  members {peers}  HTTP {http}  RESP {resp}  pid {pid}\n"));
    }
    let (Some(first), Some(last)) = (serving.clone().next(), serving.last()) else { return text };
    let kith = std::env::args().next().unwrap_or_else(|| "kith".to_owned());
    let (one, other, pid) = (first.plan.http, last.plan.http, last.pid());
    let config = last.plan.config.display();
    text.push_str(&format!(
        "\nTry:\n  {kith} put greeting hello --address {one}\n  {kith} get greeting --address {other}\n  \
         kill -9 {pid}; {kith} get greeting --address {one}\n  \
         {kith} serve --config {config}   # brings that one back, in a terminal of its own\n\n\
         Ctrl-C stops them all."
    ));
    text
}
