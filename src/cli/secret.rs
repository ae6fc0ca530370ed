//! The cluster secret: made, and changed with no member down.

use super::error::CliError;
use super::files;
use super::output::{Output, counted, or_dash, table};
use super::token::{AccessArgs, OperatorArgs};
use crate::client::Client;
use crate::node::handle::secrets::{SecretRow, SecretState, SecretStep};
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long it is waited for that all members that can be heard have taken a step.
const SPREAD_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of the largest file that may hold a secret.
const MAX_FILE_BYTES: u64 = 4 << 10;

#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    command: Option<SecretCommand>,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Show which secrets the members accept, and how far a change is on each of them
    Status {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// First step: let all members accept a new secret beside the present one
    #[command(after_help = "Examples:\n  \
        kith secret add --new new.secret     # make a good one, keep it in this file, and add it\n  \
        kith secret add new.secret           # one that is there already\n  \
        pass show kith | kith secret add -\n\n\
        It is sent over TLS or within this machine only. The members keep what comes from it in their data\n\
        directories, so nothing is restarted. Adding the same again changes nothing; another one takes the place of\n\
        one that is not in use yet. A member that is down learns of it when it comes back.")]
    Add {
        /// File that holds the secret; - for standard input
        file: PathBuf,
        /// Make a good secret and write it into the file first, which must not exist
        #[arg(long)]
        new: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Second step: let all members offer the new secret first, and accept the old one still
    #[command(after_help = "Example:\n  kith secret use\n\n\
        Now put the new secret into the file of every member (`secret_file`). None needs to be restarted:\n\
        `kith secret status` shows within seconds what stands in the files.")]
    Use {
        #[command(flatten)]
        step: StepArgs,
    },
    /// Last step: let no member accept the old secret any more
    #[command(after_help = "Example:\n  kith secret retire\n\n\
        A member that was down since before `kith secret add` is refused from then on, until the new secret stands\n\
        in its file and it is started again.")]
    Retire {
        #[command(flatten)]
        step: StepArgs,
    },
}

#[derive(Debug, Args)]
struct StepArgs {
    /// Leave out members that are down: they may need the new secret in their files to come back
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl SecretCommand {
    const fn operator(&self) -> &OperatorArgs {
        match self {
            Self::Status { operator } | Self::Add { operator, .. } => operator,
            Self::Use { step } | Self::Retire { step } => &step.operator,
        }
    }
}

/// `kith secret …`
pub(super) fn run(
    args: SecretArgs,
    access: &AccessArgs,
    addresses: Vec<String>,
    output: Output,
) -> Result<(), CliError> {
    let Some(command) = args.command else { return files::secret(output) };
    let client = command.operator().client(access, addresses)?;
    super::block_on(ask(client, command, output))
}

async fn ask(client: Client, command: SecretCommand, output: Output) -> Result<(), CliError> {
    let (state, next) = match command {
        SecretCommand::Status { .. } => {
            let state = client.secret().await?;
            return output.show(&state, || describe(&state));
        }
        SecretCommand::Add { file, new, .. } => {
            if new {
                make(&file)?;
            }
            let secret = read(&file)?;
            let text = String::from_utf8_lossy(&secret);
            let text = Zeroizing::new(text.trim().to_owned());
            let next =
                "all accept it; `kith secret use` is the next step, and the file must reach every member";
            let added = client.add_secret(&text).await;
            if new && added.is_err() {
                output.note(&kept(&file));
            }
            (added?, next)
        }
        SecretCommand::Use { step } => {
            let next =
                "now put the new secret into the file of every member; `kith secret retire` is the last step";
            (client.use_secret(step.force).await?, next)
        }
        SecretCommand::Retire { step } => {
            (client.retire_secret(step.force).await?, "the old secret opens nothing any more")
        }
    };
    finish(&client, state, next, output).await
}

/// What is to be done with a new secret that was not added: its file can't be made once more.
fn kept(file: &Path) -> String {
    let file = file.display();
    format!("the secret is in {file}; go on with `kith secret add {file}`")
}

/// Makes a good secret and keeps it in a file of its owner.
fn make(file: &Path) -> Result<(), CliError> {
    let failed = |source| CliError::io(format!("can't write {}", file.display()), source);
    if file == Path::new("-") {
        return Err(CliError::Usage("--new needs the name of a file to keep the secret in".to_owned()));
    }
    let secret = Zeroizing::new(files::new_secret()?);
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    writeln!(made, "{}", secret.as_str()).and_then(|()| made.sync_all()).map_err(failed)
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    let failed = |source| CliError::io(format!("can't read {}", file.display()), source);
    if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(file).map_err(failed)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}

/// Shows what a step came to, once the members have taken it that can be heard.
async fn finish(client: &Client, mut state: SecretState, next: &str, output: Output) -> Result<(), CliError> {
    let began = Instant::now();
    let wanted = coming(&state).cloned();
    let lacks = |state: &SecretState| state.members.iter().any(|member| member.taken == Some(false));
    while lacks(&state) && began.elapsed() < SPREAD_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        match client.secret().await {
            Ok(now) => state = now,
            // The step is done all the same. Who showed a secret that it retired is let in no more.
            Err(error) => {
                output.show(&state, || describe(&state))?;
                output.warn(&format!("it is done, but how far the others are can't be asked: {error}"));
                return Ok(());
            }
        }
    }
    output.show(&state, || describe(&state))?;
    check_holds(wanted.as_ref(), &state)?;
    if lacks(&state) {
        output.warn("some members have not taken it yet; `kith secret status` shows when they have");
    } else {
        output.note(next);
    }
    Ok(())
}

/// The secret to which a change that is under way leads.
fn coming(state: &SecretState) -> Option<&String> {
    match state.step {
        SecretStep::Added => state.accepts.get(1),
        SecretStep::Used => state.accepts.first(),
        SecretStep::Unchanged | SecretStep::Retired => None,
    }
}

/// Another member may have been asked to add one at the same time: of two the later one holds.
fn check_holds(wanted: Option<&String>, state: &SecretState) -> Result<(), CliError> {
    let other = coming(state).filter(|coming| wanted.is_some_and(|wanted| wanted != *coming));
    other.map_or(Ok(()), |other| Err(CliError::Failed(format!("another secret was added later: {other}"))))
}

fn describe(state: &SecretState) -> String {
    let what = match state.step {
        SecretStep::Unchanged => "no change of the secret is under way",
        SecretStep::Added => "a new secret is accepted beside the one in use",
        SecretStep::Used => "the new secret is in use, and the old one is accepted still",
        SecretStep::Retired => "the old secret is retired",
    };
    let rows = state.members.iter().map(columns);
    let mut text = format!("{what}\n\n{}", table(&["MEMBER", "TAKEN", "USES", "ALSO ACCEPTS", "FILE"], rows));
    let taken = state.members.iter().filter(|row| row.taken == Some(true)).count() as u64;
    let all = counted(state.members.len() as u64, "member", "members");
    let _ = write!(text, "\n\ntaken by {taken} of {all}");
    if let Some(problem) = &state.problem {
        let _ = write!(text, "\nthis member does not go on: {problem}");
    }
    text
}

fn columns(row: &SecretRow) -> Vec<String> {
    let taken = match row.taken {
        Some(true) => "yes",
        Some(false) => "not yet",
        None => "not heard",
    };
    let file = match (&row.file, row.file_is_accepted, row.file_is_retired) {
        (Some(file), Some(false), Some(true)) => format!("{file} (retired)"),
        (Some(file), Some(false), _) => format!("{file} (unknown)"),
        (file, _, _) => or_dash(file.as_ref()),
    };
    vec![row.name.clone(), taken.to_owned(), or_dash(row.uses.as_ref()), or_dash(row.also.as_ref()), file]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_secret_is_its_owners_and_replaces_no_file() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("new.secret");
        make(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = read(&file).unwrap();
        assert_eq!(secret.len(), 53);
        assert!(matches!(make(&file), Err(CliError::Io { .. })));
        assert_eq!(read(&file).unwrap(), secret);
        assert!(matches!(make(Path::new("-")), Err(CliError::Usage(_))));
    }

    #[test]
    fn a_secret_that_gave_way_to_another_one_is_no_success() {
        let state = |step, accepts: [&str; 2]| SecretState {
            step,
            uses: accepts[0].to_owned(),
            accepts: accepts.map(str::to_owned).to_vec(),
            members: Vec::new(),
            problem: None,
        };
        let wanted = coming(&state(SecretStep::Added, ["old", "one"])).cloned();
        assert_eq!(wanted.as_deref(), Some("one"));
        for (now, holds) in [
            (state(SecretStep::Added, ["old", "one"]), true),
            (state(SecretStep::Used, ["one", "old"]), true),
            (state(SecretStep::Added, ["old", "other"]), false),
            (state(SecretStep::Used, ["other", "old"]), false),
            // A member that has not heard of the change yet.
            (state(SecretStep::Unchanged, ["old", ""]), true),
        ] {
            let checked = check_holds(wanted.as_ref(), &now).map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), holds, "{now:?}: {checked:?}");
            assert!(checked.err().is_none_or(|error| error.ends_with("added later: other")));
        }
        assert!(describe(&state(SecretStep::Unchanged, ["old", ""])).starts_with("no change"));
    }

    #[test]
    fn what_was_made_and_not_added_is_told_with_the_way_on() {
        let told = kept(Path::new("new.secret"));
        assert_eq!(told, "the secret is in new.secret; go on with `kith secret add new.secret`");
    }

    #[test]
    fn who_was_not_heard_and_whose_file_is_out_of_date_stands_in_the_table() {
        let row = |name: &str, taken, file_is_accepted, file_is_retired| SecretRow {
            name: name.to_owned(),
            taken,
            uses: taken.map(|_| "00000000000000aa".to_owned()),
            also: None,
            file: taken.map(|_| "00000000000000bb".to_owned()),
            file_is_accepted,
            file_is_retired,
        };
        let state = SecretState {
            step: SecretStep::Retired,
            uses: "00000000000000aa".to_owned(),
            accepts: vec!["00000000000000aa".to_owned()],
            members: vec![
                row("one", Some(true), Some(false), Some(true)),
                row("two", None, None, None),
                row("three", Some(true), Some(false), Some(false)),
            ],
            problem: None,
        };
        let text = describe(&state);
        assert!(text.contains("00000000000000bb (retired)") && text.contains("not heard"), "{text}");
        assert!(text.contains("00000000000000bb (unknown)"), "{text}");
        assert!(text.ends_with("taken by 2 of 3 members"), "{text}");
    }
}
