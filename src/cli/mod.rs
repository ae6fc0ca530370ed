//! The command line: what people and scripts start.
//!
//! `serve` is a member, `dev` is a whole cluster on one machine, `secret` and `check-config` prepare
//! files, and everything else asks a member over HTTP through [`crate::client`].
//!
//! Invariants: results go to standard output and everything else to standard error, so output can be
//! piped; `--json` prints one JSON document, or one a line, on either; the exit code is 0 when it is done, 1 when it
//! was refused or failed, 2 when the command line itself is wrong. A reader that goes away is no error, but of a backup or
//! an export it is one: what it has read is not whole.

mod backup;
mod cluster;
mod convergence;
mod departure;
mod dev;
mod error;
mod files;
mod import;
mod keys;
mod listing;
mod output;
mod progress;
mod secret;
mod serve;
mod settings;
mod sink;
mod sync;
mod token;

use crate::client::{Client, DEFAULT_ADDRESS, is_address};
use crate::model::Timestamp;
use crate::model::key::DEFAULT;
use crate::model::settings::Level;
use crate::node::handle::documents::{TtlError, parse_ttl};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use error::CliError;
use output::Output;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Under what `--help` shows the options of commands that ask a member.
const MEMBER: &str = "Which member is asked, and how";

/// A key-value store for machines that must stay writable whatever fails.
#[derive(Debug, Parser)]
#[command(
    name = "kith",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        kith dev                        a cluster of three members on this machine, for trying out\n  \
        kith put greeting hello         store a value\n  \
        kith get greeting               read it, from any member: --address 127.0.0.1:7411\n  \
        kith status                     how a member is\n\n\
        Exit codes: 0 done, 1 refused or failed, 2 wrong usage.\n\
        With --json, standard error has a JSON document a line: {\"error\", \"message\"}, the last\n\
        one, of what failed; {\"warning\"} or {\"note\"} of all else."
)]
struct Cli {
    /// HTTP address of a member, https://HOST:PORT with TLS; of several (A,B,C) the first that can take it is asked
    #[arg(
        long,
        short = 'a',
        global = true,
        help_heading = MEMBER,
        env = "KITH_ADDRESS",
        default_value = DEFAULT_ADDRESS,
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    address: Vec<String>,
    #[command(flatten)]
    access: token::AccessArgs,
    /// Print JSON for programs instead of text for people, errors too: {"error": CODE, "message": TEXT}
    #[arg(long, global = true, help_heading = MEMBER)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine, each member a process, for trying out
    #[command(after_help = "Example:\n  kith dev --members 5 --data-dir /tmp/try\n\n\
        Member i listens on 7400 + 10 (i - 1) for members, one higher for HTTP, two higher for RESP.\n\
        Ctrl-C stops all members; the next start in the same directory finds the data again.")]
    Dev(dev::DevArgs),
    /// Run one member until it is told to stop (Ctrl-C, SIGTERM); SIGHUP changes nothing
    #[command(
        after_help = "Example:\n  kith secret > cluster.secret\n  kith serve --config config/member1.toml"
    )]
    Serve(serve::ServeArgs),
    /// Make a good cluster secret and print it; or change the cluster's, with no member down
    #[command(
        after_help = "Examples:\n  (umask 077; kith secret > cluster.secret)   # the same file for every member\n\n\
        To change the secret of a cluster that runs:\n  \
        kith secret add --new new.secret            # all members accept it beside the present one\n  \
        kith secret use                             # all offer it first\n  \
        cp new.secret /etc/kith/cluster.secret      # on every machine; nothing is restarted\n  \
        kith secret retire                          # the old one is accepted no more\n\n\
        Each step waits until all members have taken it, and is refused before the step in front of it is everywhere."
    )]
    Secret(secret::SecretArgs),
    /// Check a member's file and show everything that is wrong with it
    CheckConfig {
        /// The member's file
        file: PathBuf,
    },
    /// Create a cluster with the asked member as its first
    #[command(after_help = "Example:\n  kith init --partitions 256 replication_factor=3")]
    Init(cluster::InitArgs),
    /// Let the asked member join the cluster of another one
    #[command(after_help = "Example:\n  kith join 10.0.0.1:7400 --address 10.0.0.2:7401")]
    Join {
        /// Where a member of the cluster listens for members
        #[arg(value_name = "HOST:PORT", value_parser = parse_peer)]
        peer: String,
    },
    /// Let the asked member hand over what it holds, and leave its cluster
    #[command(after_help = "Example:\n  kith leave --address 10.0.0.2:7401\n\n\
        It ends when the member has left; then it can be stopped. --no-wait only begins it, and `kith status`\n\
        shows how far it is. Giving up waiting stops nothing. On a terminal it asks first: who left comes back\n\
        only as a new member.")]
    Leave {
        /// Don't ask
        #[arg(long)]
        yes: bool,
        /// Begin it and don't wait for its end
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove a dead member that will not come back
    #[command(after_help = "Example:\n  kith remove member3\n\n\
        Its key is fenced for good: to come back it must be started with an empty data directory.\n\
        A member that lives leaves by itself, with `kith leave`.")]
    Remove {
        /// The member's name, or its id
        name: String,
        /// Remove it also where something may be lost; what that is is told
        #[arg(long)]
        force: bool,
    },
    /// Show how a member is, and how far it and the others are from holding the same
    #[command(
        after_help = "Examples:\n  kith status\n  kith status --wait --timeout 5m    # after a repair, before the next step\n\n\
        --wait asks every member of the cluster, at the HTTP addresses that they tell; it ends with 0 when all that\n\
        was acknowledged before is with all its owners, and with 1 and what is in the way when the time is over."
    )]
    Status(cluster::StatusArgs),
    /// Ask whether a member is ready: exit code 0 if it is, 1 if not
    Health {
        /// Ask only whether it is alive, whatever its cluster does
        #[arg(long)]
        live: bool,
    },
    /// Show the members of the cluster
    Members {
        /// Show what gossip sees instead of what the cluster admitted
        #[arg(long)]
        physical: bool,
    },
    /// Show who owns a key, or every partition
    Placement(cluster::PlacementArgs),
    /// Read a key and print its value as it is
    #[command(
        after_help = "Examples:\n  kith get greeting\n  kith get --collection images logo.png > logo.png"
    )]
    Get(keys::GetArgs),
    /// Store a value under a key
    #[command(after_help = "Examples:\n  \
        kith put greeting hello\n  \
        kith put --ttl 10m session 'a b c'\n  \
        kith put --collection images logo.png - < logo.png\n  \
        kith put --if-absent leader me                 # only if nobody is it\n\n\
        A condition that does not hold changes nothing and ends with 1. While members can't talk to each other,\n\
        the condition may hold on both sides: no lock is made of it.")]
    Put(keys::PutArgs),
    /// Delete a key
    #[command(
        after_help = "Examples:\n  kith delete greeting\n  kith delete leader --if-timestamp \"$(kith get leader --json | jq -r .timestamp)\""
    )]
    Delete(keys::DeleteArgs),
    /// Add to a counter and show its number
    #[command(after_help = "Examples:\n  kith increment visits\n  kith increment stock -5 -c shop\n\n\
        All increments count, also those made at members that can't talk; what is shown is what the member knows.")]
    Increment(keys::IncrementArgs),
    /// List keys and values in order of the keys
    #[command(
        after_help = "Examples:\n  kith scan --prefix user: --keys --limit 1000\n  kith scan --start 2026-01 --end 2026-02 --reverse"
    )]
    Scan(listing::ScanArgs),
    /// Show what is there and then every change as it comes, until Ctrl-C
    #[command(after_help = "Examples:\n  \
        kith watch                            # all keys of the collection `default`\n  \
        kith watch user: --keys\n  \
        kith watch --json -c services | jq .  # one event a line: reset, put, delete, synced, interrupted\n\n\
        Of a key that changes quickly only the latest state may be told. With several addresses it goes on at\n\
        another member when one is gone.")]
    Watch(listing::WatchArgs),
    /// Keep files equal to keys, for programs that know nothing of kith, until Ctrl-C
    #[command(after_help = "Examples:\n  \
        kith sync --prefix nginx/ --dir /etc/nginx/conf.d --exec 'nginx -t && nginx -s reload'\n  \
        kith sync -c config --dir /run/app --once      # before the program starts\n\n\
        The key nginx/a/b.conf is the file a/b.conf there. Files are replaced whole, and removed when their key is\n\
        gone. What somebody else put there stays, unless a key has its name: then it is replaced, and goes with the\n\
        key. While no member can be reached files stay as they are. A directory is kept for one prefix of one\n\
        collection of one cluster. A key that can't have a file is told and tried again; others have theirs. The\n\
        command runs after what changed together has changed, once, and again for what changes meanwhile; when it\n\
        fails, or kith ends before it has run, it runs again. It gets KITH_SYNC_DIR, KITH_SYNC_CHANGED (paths, a line\n\
        each; empty beyond 64 KiB) and KITH_SYNC_COUNT; both tell nothing of what changed before kith was started.")]
    Sync(sync::SyncArgs),
    /// Write a whole collection as JSON Lines, which `kith import` reads
    #[command(
        after_help = "Examples:\n  kith export backup.jsonl\n  kith export -c images --prefix logo | gzip > logos.gz"
    )]
    Export(listing::ExportArgs),
    /// Store the records of a JSON Lines file
    #[command(
        after_help = "Examples:\n  kith import words.jsonl\n  kith export | kith import --address 10.0.0.9:7401 -\n\n\
        Each line is an object: {\"key\": \"a\", \"value\": \"b\"}, and if wanted \"collection\" and \"ttl\"\n\
        (seconds, or \"10m\"; \"none\": it lasts, also where the collection has a default_ttl); bytes that are not UTF-8 go into \"key_base64\" and \"value_base64\".\n\
        Lines that are wrong or refused are reported by number, and the rest is stored. Of several lines of one\n\
        key the last one that is stored stays. What got no answer is sent again: what others wrote under the same\n\
        keys meanwhile may be replaced."
    )]
    Import(import::ImportArgs),
    /// Write all records of all collections, and the settings, into one file, while the cluster runs
    #[command(after_help = "Examples:\n  \
        kith backup kith-$(date +%F).jsonl\n  \
        kith backup - | zstd > kith.jsonl.zst      # to be unpacked before it is restored\n\n\
        Each key is in it as it was at some moment while the backup ran, and all that was acknowledged before: it waits until\n\
        all members hold the same. If they don't, or one is down, there is no backup, unless --incomplete takes what there\n\
        is. The secret, the tokens and the members are not in it. The file is lines of JSON with a checksum at the end; it has\n\
        its name only once it is whole, and only its owner may read it.")]
    Backup(backup::BackupArgs),
    /// Fill a new cluster, of any size, with what a backup holds
    #[command(after_help = "Example:\n  kith restore kith-2026-11-22.jsonl\n\n\
        The whole file is checked before anything is changed. A cluster that has records is refused; --force stores the\n\
        backup over what is there, for instance after a restore that was interrupted. Settings become what they were,\n\
        also those that had their defaults.")]
    Restore(backup::RestoreArgs),
    /// The settings that all members share, and their history
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Tokens that clients show
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print what makes a shell complete kith's commands
    #[command(after_help = "Examples:\n  \
        kith completions bash > ~/.local/share/bash-completion/completions/kith\n  \
        kith completions zsh > ~/.zfunc/_kith\n  \
        kith completions fish > ~/.config/fish/completions/kith.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Which collection.
#[derive(Debug, Clone, Args)]
struct CollectionArg {
    /// The collection
    #[arg(long, short, default_value = DEFAULT)]
    collection: String,
}

/// How many owners.
#[derive(Debug, Clone, Copy, Args)]
struct LevelArg {
    /// How many owners must answer: one, available, quorum or all [default: the cluster's setting]
    #[arg(long, value_parser = parse_level)]
    level: Option<Level>,
}

fn parse_level(text: &str) -> Result<Level, String> {
    text.parse::<Level>().map_err(|error| error.to_string())
}

fn parse_ttl_arg(text: &str) -> Result<u64, TtlError> {
    parse_ttl(text)
}

fn parse_timestamp(text: &str) -> Result<Timestamp, String> {
    text.parse::<Timestamp>().map_err(|error| error.to_string())
}

fn parse_peer(text: &str) -> Result<String, String> {
    if is_address(text) {
        return Ok(text.to_owned());
    }
    Err("write HOST:PORT, such as 10.0.0.1:7400".to_owned())
}

/// The bytes of an argument: keys need not be UTF-8.
fn argument_bytes(argument: &OsString) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(argument.as_os_str()).to_vec()
}

/// Reads the command line, does what it says and gives the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return no_command(&error),
    };
    let output = Output { json: cli.json };
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output.fail(error.code(), &error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version go to standard output with code 0, wrong usage to standard error with 2.
fn no_command(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    let json =
        std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if json && error.use_stderr() {
        Output { json }.fail(error::USAGE, &usage_message(error));
        return code;
    }
    if error.print().is_ok() { code } else { ExitCode::FAILURE }
}

/// Without the word that tells people that it is an error.
fn usage_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.trim();
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

fn run(cli: Cli, output: Output) -> Result<(), CliError> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Dev(args) => block_on(dev::run(&args, output)),
        Command::Secret(args) => secret::run(args, &cli.access, cli.address, output),
        Command::CheckConfig { file } => files::check_config(&file, output),
        Command::Token(command) => {
            let client = command.client(&cli.access, cli.address)?;
            block_on(token::run(&client, command, output))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kith", &mut script);
            output.raw(&script)
        }
        other => {
            let addresses = cli.address.len();
            let client = cli.access.client(cli.address)?;
            block_on(ask(other, &client, addresses, output))
        }
    }
}

/// What changes the asked member takes one address: nobody wants another one to leave.
fn check_addresses(command: &Command, addresses: usize) -> Result<(), CliError> {
    let changes_one = matches!(command, Command::Init(_) | Command::Join { .. } | Command::Leave { .. });
    if changes_one && addresses > 1 {
        let problem =
            "this changes the asked member, so give the address of that one only (--address, KITH_ADDRESS)";
        return Err(CliError::Usage(problem.to_owned()));
    }
    Ok(())
}

async fn ask(command: Command, client: &Client, addresses: usize, output: Output) -> Result<(), CliError> {
    check_addresses(&command, addresses)?;
    match command {
        Command::Init(args) => cluster::init(client, &args, output).await,
        Command::Join { peer } => cluster::join(client, &peer, output).await,
        Command::Leave { yes, no_wait } => {
            departure::ask(client, yes, output).await?;
            departure::leave(client, no_wait, output).await
        }
        Command::Remove { name, force } => departure::remove(client, &name, force, output).await,
        Command::Status(args) => cluster::status(client, &args, output).await,
        Command::Health { live } => cluster::health(client, live, output).await,
        Command::Members { physical: false } => cluster::members(client, output).await,
        Command::Members { physical: true } => cluster::physical(client, output).await,
        Command::Placement(args) => cluster::placement(client, &args, output).await,
        Command::Settings(command) => settings::run(client, &command, output).await,
        Command::Get(args) => keys::get(client, &args, output).await,
        Command::Put(args) => keys::put(client, &args, output).await,
        Command::Delete(args) => keys::delete(client, &args, output).await,
        Command::Increment(args) => keys::increment(client, &args, output).await,
        Command::Scan(args) => listing::scan(client, &args, output).await,
        Command::Watch(args) => listing::watch(client, &args, output).await,
        Command::Sync(args) => sync::run(client, &args, output).await,
        Command::Export(args) => listing::export(client, addresses, &args, output).await,
        Command::Backup(args) => backup::backup(client, &args, output).await,
        Command::Restore(args) => backup::restore(client, &args, output).await,
        Command::Import(args) => import::run(client, &args, output).await,
        Command::Serve(_)
        | Command::Dev(_)
        | Command::Secret(_)
        | Command::CheckConfig { .. }
        | Command::Token(_)
        | Command::Completions { .. } => Ok(()),
    }
}

/// Ends when this program is told to stop.
async fn shutdown() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => _ = terminated.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| CliError::io("can't start", source))?;
    let done = runtime.block_on(work);
    // A read of a terminal that nobody types on would never end.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests;
