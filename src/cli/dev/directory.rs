//! The directory of a `kith dev` cluster: the secret, one file per member, data and logs.
//!
//! Invariants: an existing secret is kept, because the data can't be used with another one; members'
//! files are written anew each time, so they always fit the ports and the number of members; the
//! secret can be read by its owner only; a start that is refused leaves everything as it was.

use super::MAX_MEMBERS;
use crate::cli::error::CliError;
use crate::cli::files::new_secret;
use crate::cli::output::counted;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The first member's port for members; HTTP and RESP follow, and the next member is 10 higher.
const FIRST_PORT: u16 = 7_400;
const PORTS_PER_MEMBER: u16 = 10;

/// Where one member's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) peers: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) resp: SocketAddr,
}

/// Makes the directory what `members` members need, and checks that their ports are free.
pub(super) fn prepare(directory: &Path, members: u16) -> Result<Vec<Plan>, CliError> {
    check_directory(directory, members)?;
    let plans: Vec<Plan> = (0..members).map(|index| plan(directory, index)).collect();
    for plan in &plans {
        check_ports(plan)?;
    }
    make_directory(directory)?;
    make_secret(&directory.join("cluster.secret"))?;
    for plan in &plans {
        let text = config_text(plan, &plans);
        fs::write(&plan.config, text).map_err(|error| failed("write", &plan.config, error))?;
    }
    Ok(plans)
}

fn failed(verb: &str, path: &Path, error: io::Error) -> CliError {
    CliError::io(format!("can't {verb} {}", path.display()), error)
}

/// Refuses a directory that holds other things than a `kith dev` cluster, or more members than are to be
/// started: the others would miss them, and so would the data that only they hold.
fn check_directory(directory: &Path, members: u16) -> Result<(), CliError> {
    let mut entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| failed("read", directory, error))?,
    };
    let name = directory.display();
    if entries.next().is_some() && !directory.join("cluster.secret").exists() {
        return Err(CliError::Failed(format!(
            "{name} holds something else than a `kith dev` cluster; name a new or empty directory with --data-dir"
        )));
    }
    let holds = |count: &u16| directory.join(member_name(*count)).exists();
    match (members + 1..=MAX_MEMBERS).rev().find(holds) {
        None => Ok(()),
        Some(count) => Err(CliError::Failed(format!(
            "{name} holds {}; start {count} with --members {count}, or use another --data-dir",
            counted(count, "member", "members")
        ))),
    }
}

/// Makes a directory for its owner only.
fn make_directory(directory: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| failed("make", directory, error))
}

fn make_secret(path: &Path) -> Result<(), CliError> {
    let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        created => created.map_err(|error| failed("write", path, error))?,
    };
    let secret = new_secret()?;
    writeln!(file, "{secret}").and_then(|()| file.sync_all()).map_err(|error| failed("write", path, error))
}

/// The name of a member, which is also its data directory's; the first has number 1.
fn member_name(number: u16) -> String {
    format!("member{number}")
}

fn plan(directory: &Path, index: u16) -> Plan {
    let name = member_name(index + 1);
    let address =
        |offset| SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + PORTS_PER_MEMBER * index + offset));
    Plan {
        config: directory.join(format!("{name}.toml")),
        log: directory.join(format!("{name}.log")),
        name,
        peers: address(0),
        http: address(1),
        resp: address(2),
    }
}

/// A port that is taken would show only in a member's log.
fn check_ports(plan: &Plan) -> Result<(), CliError> {
    for (what, address) in [("members", plan.peers), ("HTTP", plan.http), ("RESP", plan.resp)] {
        if let Err(error) = TcpListener::bind(address) {
            let (name, port) = (&plan.name, address.port());
            return Err(CliError::Failed(format!(
                "port {port}, which {name} needs for {what}, can't be used ({error}); is another `kith dev` running? `ss -ltnp 'sport = :{port}'` shows who has it"
            )));
        }
    }
    Ok(())
}

fn config_text(plan: &Plan, plans: &[Plan]) -> String {
    let seeds = plans.iter().filter(|other| *other != plan).map(|other| format!("\"{}\"", other.peers));
    let seeds = seeds.collect::<Vec<_>>().join(", ");
    let Plan { name, peers, http, resp, .. } = plan;
    let copies = plans.len().min(3);
    format!(
        "# Written by `kith dev`, anew at each start.\n\
         name = \"{name}\"\ncluster = \"dev\"\ndata_dir = \"{name}\"\nseeds = [{seeds}]\nbootstrap = true\n\
         secret_file = \"cluster.secret\"\n\n[listen]\npeers = \"{peers}\"\nhttp = \"{http}\"\nresp = \"{resp}\"\n\n\
         [create.settings]\nreplication_factor = {copies}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemberConfig;
    use std::os::unix::fs::PermissionsExt;

    /// Like [`prepare`], without asking for ports that other tests may hold.
    fn prepare_files(directory: &Path, members: u16) -> Vec<Plan> {
        make_directory(directory).unwrap();
        make_secret(&directory.join("cluster.secret")).unwrap();
        let plans: Vec<Plan> = (0..members).map(|index| plan(directory, index)).collect();
        for plan in &plans {
            fs::write(&plan.config, config_text(plan, &plans)).unwrap();
        }
        plans
    }

    #[test]
    fn every_members_file_is_a_good_one_with_its_own_ports_and_the_others_as_seeds() {
        let directory = tempfile::tempdir().unwrap();
        let plans = prepare_files(directory.path(), 3);
        let second = plans.get(1).unwrap();
        let text = fs::read_to_string(&second.config).unwrap();
        let config = MemberConfig::from_text(&text, &second.config, &|_| None).unwrap();
        assert_eq!((config.name.as_str(), config.bootstrap), ("member2", true));
        assert_eq!(config.seeds, ["127.0.0.1:7400", "127.0.0.1:7420"]);
        assert_eq!(config.listen_http.port(), 7_411);
        assert_eq!(config.data_dir, directory.path().join("member2"));
    }

    #[test]
    fn the_secret_is_its_owners_and_survives_a_second_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.secret");
        prepare_files(directory.path(), 1);
        let secret = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        prepare_files(directory.path(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    }

    #[test]
    fn a_directory_with_other_things_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
        let error = prepare(directory.path(), 1).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn fewer_members_than_the_directory_holds_are_refused_and_more_are_welcome() {
        let directory = tempfile::tempdir().unwrap();
        for plan in prepare_files(directory.path(), 5) {
            fs::create_dir(directory.path().join(plan.name)).unwrap();
        }
        let error = check_directory(directory.path(), 3).unwrap_err().to_string();
        assert!(error.contains("holds 5 members") && error.contains("--members 5"), "{error}");
        for members in [5, 6] {
            check_directory(directory.path(), members).unwrap();
        }
    }

    #[test]
    fn a_start_that_is_refused_for_its_ports_leaves_no_directory_behind() {
        let directory = tempfile::tempdir().unwrap();
        // Whoever holds the first member's port, it is taken.
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST_PORT));
        let fresh = directory.path().join("fresh");
        prepare(&fresh, 1).unwrap_err();
        assert!(!fresh.exists());
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = taken.local_addr().unwrap();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let plan = Plan { peers: free, http, resp: free, ..plan(Path::new("."), 0) };
        let error = check_ports(&plan).unwrap_err().to_string();
        assert!(error.contains(&format!("port {}", http.port())) && error.contains("HTTP"), "{error}");
    }
}
