//! The member and its cluster: init, join, status, health, members, placement.

use super::convergence;
use super::departure::describe_transition;
use super::error::CliError;
use super::output::{Output, counted, duration, or_dash, size, table};
use crate::client::Client;
use crate::model::key::DEFAULT;
use crate::model::limits::MAX_PARTITION_BITS;
use crate::node::handle::status::{
    Cluster, InitRequest, Link, MemberRow, Placement, PlacementRow, Standing, State, Status, StepOutcome,
    StorageStatus,
};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Slices of the key space, a power of two, fixed for ever [default: what the member's file says]
    #[arg(long, value_parser = parse_partitions)]
    partitions: Option<u32>,
    /// First settings [default: what the member's file says]
    #[arg(value_name = "NAME=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct PlacementArgs {
    /// The key [default: every partition]
    key: Option<OsString>,
    /// The collection of the key [default: default]
    #[arg(long, short, requires = "key")]
    collection: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Wait until all members hold the same
    #[arg(long)]
    wait: bool,
    /// How long to wait for that, such as 30s or 5m
    #[arg(long, default_value = "60s", requires = "wait", value_name = "TIME", value_parser = super::parse_ttl_arg)]
    timeout: u64,
    /// Show the latest writes that lost to concurrent ones, as any member knows them
    #[arg(long, conflicts_with = "wait")]
    superseded: bool,
}

fn parse_partitions(text: &str) -> Result<u32, String> {
    let most = 1 << MAX_PARTITION_BITS;
    let count = text.parse::<u32>().ok().filter(|count| count.is_power_of_two() && *count <= most);
    count.ok_or_else(|| format!("a power of two from 1 to {most} is needed"))
}

pub(super) fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, such as replication_factor=3".to_owned()),
    }
}

fn by_name(given: &[(String, String)]) -> Result<BTreeMap<String, String>, CliError> {
    let mut settings = BTreeMap::new();
    for (name, value) in given {
        if settings.insert(name.clone(), value.clone()).is_some() {
            return Err(CliError::Usage(format!("`{name}` is given more than once")));
        }
    }
    Ok(settings)
}

/// `kith init`
pub(super) async fn init(client: &Client, args: &InitArgs, output: Output) -> Result<(), CliError> {
    let settings = by_name(&args.settings)?;
    let request = InitRequest { partitions: args.partitions, settings };
    let cluster = client.init(&request).await?;
    show_cluster(&cluster, output)
}

/// `kith join`
pub(super) async fn join(client: &Client, peer: &str, output: Output) -> Result<(), CliError> {
    let cluster = client.join(peer).await?;
    show_cluster(&cluster, output)
}

fn show_cluster(cluster: &Cluster, output: Output) -> Result<(), CliError> {
    output.show(cluster, || {
        let members = counted(cluster.members.len() as u64, "member", "members");
        format!("member of cluster `{}` ({}), {members} in all", cluster.name, cluster.id)
    })
}

/// `kith health`
pub(super) async fn health(client: &Client, live: bool, output: Output) -> Result<(), CliError> {
    let (name, answer) = if live { ("alive", client.live().await) } else { ("ready", client.ready().await) };
    if output.json {
        output.document(&json!({ name: answer.is_ok() }))?;
    } else if answer.is_ok() {
        output.line(name)?;
    }
    Ok(answer?)
}

/// `kith status`
pub(super) async fn status(client: &Client, args: &StatusArgs, output: Output) -> Result<(), CliError> {
    if args.wait {
        return convergence::wait(client, Duration::from_millis(args.timeout), output).await;
    }
    if args.superseded {
        return convergence::superseded(client, output).await;
    }
    let status = client.status().await?;
    output.show(&status, || describe(&status))
}

fn describe(status: &Status) -> String {
    let cluster = status.cluster.as_ref();
    let cluster = cluster.map_or_else(|| "none yet".to_owned(), |c| format!("{} ({})", c.name, c.id));
    let storage = &status.storage;
    let stamps = if status.clock.may_stamp { "" } else { ", too far off to stamp writes" };
    let facts = [
        ("member", format!("{} ({})", status.name, status.id)),
        ("state", status.state.to_string()),
        ("cluster", cluster),
        ("version", format!("{}, life {}", status.version, status.incarnation)),
        ("up for", duration(status.uptime_ms)),
        ("clock", format!("{:+} ms from the others' median{stamps}", status.clock.offset_ms)),
        (
            "storage",
            format!(
                "{}, {} in memory ({}), journal {}, sync {}{}",
                counted(storage.records, "record", "records"),
                storage.table_records,
                size(storage.table_bytes),
                size(storage.journal_bytes),
                status.sync,
                if storage.accepts_writes { "" } else { ", takes no writes" },
            ),
        ),
        ("scrub", scrubbed(storage)),
        ("hints", format!("{} ({})", status.hints.pending, size(status.hints.bytes))),
    ];
    let mut text = String::new();
    for (name, fact) in facts {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<9}{fact}");
    }
    if let Some(told) = &status.convergence {
        let _ = writeln!(text, "{:<9}{}", "to do", convergence::describe(told));
        if told.superseded_records > 0 {
            let lost = counted(told.superseded_records, "concurrent write", "concurrent writes");
            let _ = writeln!(text, "{:<9}{lost}; `kith status --superseded` shows the latest", "lost");
        }
        let _ = writeln!(text, "{:<9}{}", "deleted", convergence::describe_tombstones(told));
    }
    for warning in status.warnings.iter().chain(&storage.problems) {
        let _ = writeln!(text, "warning  {warning}");
    }
    for transition in status.transitions.iter().filter(|_| !is_gone(status.state)) {
        let _ = writeln!(text, "change   {}", describe_transition(transition));
    }
    // Who is in no cluster any more takes no further steps.
    if !is_gone(status.state) {
        let _ = writeln!(text, "\n{}", steps_table(status));
    }
    if !status.peers.is_empty() {
        let _ = writeln!(text, "\n{}", peers_table(status));
    }
    if let Some(told) = status.convergence.as_ref().filter(|told| !told.peers.is_empty()) {
        let _ = writeln!(text, "\n{}", convergence::peers_table(told));
    }
    text
}

/// Whether a member is in its cluster no more.
pub(super) const fn is_gone(state: State) -> bool {
    matches!(state, State::Left | State::Removed | State::Outdated)
}

/// What reading through all that is stored has found.
fn scrubbed(storage: &StorageStatus) -> String {
    let Some(round) = storage.last_scrub else { return "no round done yet".to_owned() };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(round.ended_ms);
    if round.records == 0 {
        return format!("no records in the database yet, {} ago", duration(ago_ms));
    }
    let damaged = if round.damaged == 0 { "none".to_owned() } else { round.damaged.to_string() };
    format!(
        "{} read, {damaged} damaged, {} ago",
        counted(round.records, "record", "records"),
        duration(ago_ms)
    )
}

fn steps_table(status: &Status) -> String {
    let rows = status.start_steps.iter().map(|step| {
        let outcome = match &step.outcome {
            StepOutcome::Running => "running".to_owned(),
            StepOutcome::Done => "done".to_owned(),
            StepOutcome::Failed(reason) => format!("failed: {reason}"),
        };
        vec![step.name.clone(), duration(step.duration_ms), outcome]
    });
    table(&["START", "TOOK", "OUTCOME"], rows)
}

fn peers_table(status: &Status) -> String {
    let rows = status.peers.iter().map(|peer| {
        let link = match peer.link {
            Link::Up => "up",
            Link::Down => "down",
        };
        let refusal = peer.last_refusal.clone().unwrap_or_default();
        vec![peer.name.clone(), peer.address.clone(), link.to_owned(), alive(peer.alive), refusal]
    });
    table(&["PEER", "ADDRESS", "LINK", "ALIVE", "LAST REFUSAL"], rows)
}

fn alive(alive: Option<bool>) -> String {
    match alive {
        Some(true) => "alive",
        Some(false) => "dead",
        None => "unheard",
    }
    .to_owned()
}

/// `kith members`
pub(super) async fn members(client: &Client, output: Output) -> Result<(), CliError> {
    let cluster = client.cluster().await?;
    output.show(&cluster, || {
        let rows = cluster.members.iter().map(|member| {
            vec![
                format!("{}{}", member.name, if member.this_member { " *" } else { "" }),
                member.id.to_string(),
                member.standing.to_string(),
                alive(member.alive),
                member.address.clone(),
                or_dash(member.http_address.as_ref()),
                or_dash(member.zone.as_ref()),
                member.partitions.to_string(),
            ]
        });
        let header = ["NAME", "ID", "STANDING", "ALIVE", "MEMBERS AT", "HTTP AT", "ZONE", "PARTITIONS"];
        format!(
            "cluster {} ({}), {}, {}\n\n{}",
            cluster.name,
            cluster.id,
            counted(cluster.partitions, "partition", "partitions"),
            copies(&cluster),
            table(&header, rows)
        )
    })
}

/// How many copies there are of each record, and why not more.
fn copies(cluster: &Cluster) -> String {
    let wanted = counted(cluster.replication_factor, "copy", "copies");
    let holds = |member: &&MemberRow| member.standing == Standing::Active;
    let holders = cluster.members.iter().filter(holds).count();
    if holders as u64 >= u64::from(cluster.replication_factor) {
        return wanted;
    }
    format!("{wanted} wanted and {holders} possible: each member holds one")
}

/// `kith members --physical`
pub(super) async fn physical(client: &Client, output: Output) -> Result<(), CliError> {
    let seen = client.physical().await?;
    output.show(&seen, || {
        let rows = seen.members.iter().map(|member| {
            let id = member.id.to_string();
            let life = member.incarnation.to_string();
            vec![member.name.clone(), id, alive(Some(member.alive)), member.address.clone(), life]
        });
        table(&["NAME", "ID", "ALIVE", "MEMBERS AT", "LIFE"], rows)
    })
}

/// `kith placement`
pub(super) async fn placement(client: &Client, args: &PlacementArgs, output: Output) -> Result<(), CliError> {
    let key = args.key.as_ref().map(super::argument_bytes);
    let collection = args.collection.as_deref().unwrap_or(DEFAULT);
    let placement = client.placement(key.as_ref().map(|key| (collection, key.as_slice()))).await?;
    output.show(&placement, || describe_placement(&placement))
}

fn describe_placement(placement: &Placement) -> String {
    let rows = placement.rows.iter().map(|row| {
        let of = row.collection.as_ref().map_or_else(String::new, |collection| format!(" ({collection})"));
        vec![format!("{}{of}", row.partition), or_dash(row.home.as_ref()), owners(row)]
    });
    let text = table(&["PARTITION", "HOME", "OWNERS"], rows);
    format!("{text}\n\n? dead  ~ not compared yet  + to come  - to go")
}

/// Owners in order of preference, with marks for what is not as it should be.
fn owners(row: &PlacementRow) -> String {
    let owners = row.owners.iter().map(|owner| {
        let marks = [
            (!owner.alive, '?'),
            (owner.alive && !owner.complete, '~'),
            (owner.new && !owner.old, '+'),
            (owner.old && !owner.new, '-'),
        ];
        let marks = marks.into_iter().filter_map(|(shown, mark)| shown.then_some(mark));
        owner.name.chars().chain(marks).collect::<String>()
    });
    owners.collect::<Vec<_>>().join(" ")
}
