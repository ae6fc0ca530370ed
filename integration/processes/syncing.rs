//! `kith sync`: files of programs that know nothing of kith.

use crate::members::{Group, KITH, PATIENCE, Plan, clean, signal, until};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Every file below a directory but what kith keeps for itself.
fn files(directory: &Path) -> BTreeMap<String, String> {
    fn walk(directory: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() && relative != ".kith-sync" {
                walk(&path, root, found);
            } else if path.is_file() {
                found.insert(relative, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

async fn until_files(directory: &Path, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
    until("the files are equal to the keys", PATIENCE, async || {
        let present = files(directory);
        if present == wanted { Ok(()) } else { Err(format!("{present:?}")) }
    })
    .await;
}

/// A sync that runs until it is dropped.
struct Sync(Child);

impl Sync {
    fn start(group: &Group, members: &[usize], directory: &Path, more: &[&str]) -> Self {
        let addresses: Vec<String> = members.iter().map(|index| group[*index].http.to_string()).collect();
        let mut command = clean(Command::new(KITH));
        command.args(["sync", "--prefix", "app/", "--address", &addresses.join(","), "--dir"]).arg(directory);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::options().create(true).append(true).open(directory.with_extension("log")).unwrap();
        Self(command.stderr(log).spawn().unwrap())
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn files_follow_keys_and_the_command_runs_after_changes() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let put =
        |at: usize, key: &str, value: &str| assert!(group[at].kith(&["put", key, value]).status.success());
    put(0, "app/a.conf", "one");
    put(0, "app/sub/b.conf", "two");
    put(0, "other/c", "not this");
    put(0, "app/../escape", "not this");
    let directory = group.directory.path().join("files");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("mine"), "stays").unwrap();
    let runs = group.directory.path().join("runs");
    // What the command is told, and what it finds.
    let command = format!(
        "printf '%s' \"$KITH_SYNC_CHANGED\" | sort | tr '\\n' ' ' >> {runs}; cat \"$KITH_SYNC_DIR\"/a.conf >> {runs}; echo >> {runs}",
        runs = runs.display()
    );
    let sync = Sync::start(&group, &[1, 2], &directory, &["--exec", &command]);
    until_files(&directory, &[("a.conf", "one"), ("sub/b.conf", "two"), ("mine", "stays")]).await;
    let until_run = async |wanted: &str| {
        until("the command has run", PATIENCE, async || {
            let told = std::fs::read_to_string(&runs).unwrap_or_default();
            if told.ends_with(wanted) { Ok(()) } else { Err(told) }
        })
        .await;
    };
    until_run("a.conf sub/b.conf one\n").await;
    put(0, "app/a.conf", "three");
    until_run("a.conf three\n").await;
    assert!(group[0].kith(&["delete", "app/sub/b.conf"]).status.success());
    until_files(&directory, &[("a.conf", "three"), ("mine", "stays")]).await;
    until_run("sub/b.conf three\n").await;
    assert!(!directory.join("sub").exists(), "directories go with what was in them");
    let log = std::fs::read_to_string(directory.with_extension("log")).unwrap();
    assert!(log.contains("the key `../escape` has no file"), "{log}");
    assert!(!group.directory.path().join("escape").exists());

    // The member that it follows dies; another one goes on.
    group.members[1].kill();
    assert!(group[0].kith(&["put", "app/d.conf", "four"]).status.success());
    until_files(&directory, &[("a.conf", "three"), ("d.conf", "four"), ("mine", "stays")]).await;
    drop(sync);

    // What goes while nothing follows is removed by the next run.
    assert!(group[0].kith(&["delete", "app/d.conf"]).status.success());
    let _sync = Sync::start(&group, &[2], &directory, &[]);
    until_files(&directory, &[("a.conf", "three"), ("mine", "stays")]).await;
}

#[tokio::test]
async fn a_sync_that_runs_once_ends_when_all_is_equal_and_fails_with_its_command() {
    let group = Group::ready(1, &Plan::default()).await;
    assert!(group[0].kith(&["put", "a", "one"]).status.success());
    let directory = group.directory.path().join("files");
    let once = |more: &[&str]| {
        let mut arguments = vec!["sync", "--once", "--dir", directory.to_str().unwrap()];
        arguments.extend(more);
        group[0].kith(&arguments)
    };
    let first = once(&["--exec", "exit 3"]);
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    assert!(String::from_utf8_lossy(&first.stderr).contains("the command failed"), "{first:?}");
    assert_eq!(files(&directory), BTreeMap::from([("a".to_owned(), "one".to_owned())]));
    let (ran, marked) = (group.directory.path().join("ran"), "echo >> \"$KITH_SYNC_DIR\"/../ran");
    let runs = || std::fs::read_to_string(&ran).unwrap_or_default().len();
    for (expected, why) in [(1, "it is due until it has succeeded"), (1, "nothing changed, so nothing ran")] {
        let again = once(&["--exec", marked]);
        assert_eq!((again.status.code(), runs()), (Some(0), expected), "{why}: {again:?}");
    }
    let told = once(&["--json"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "");
    std::fs::write(directory.join("a"), "spoilt").unwrap();
    let told = once(&["--json"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "{\"written\":\"a\"}\n");
    assert_eq!(files(&directory), BTreeMap::from([("a".to_owned(), "one".to_owned())]));
}

#[tokio::test]
async fn a_sync_that_runs_once_tells_by_its_end_whether_the_files_are_equal_to_the_keys() {
    let group = Group::ready(1, &Plan::default()).await;
    let kith = |arguments: &[&str]| group[0].kith(arguments);
    let directory = group.directory.path().join("files");
    let arguments = ["sync", "--once", "--prefix", "app/", "--dir", directory.to_str().unwrap()];
    let once = || kith(&arguments);
    let is_equal = |wanted: &[(&str, &str)]| {
        let wanted = wanted.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned()));
        assert_eq!(files(&directory), wanted.collect::<BTreeMap<_, _>>());
    };
    assert!(kith(&["put", "app/a", "one"]).status.success());
    assert!(once().status.success());
    // What was a file is a directory now.
    assert!(kith(&["delete", "app/a"]).status.success() && kith(&["put", "app/a/b", "two"]).status.success());
    let again = once();
    assert!(again.status.success(), "{again:?}");
    is_equal(&[("a/b", "two")]);
    // A key that can have none costs nobody else his.
    assert!(kith(&["put", "app/a", "three"]).status.success());
    let long = format!("app/{}{}", format!("{}/", "l".repeat(200)).repeat(20), "x".repeat(72));
    assert!(
        kith(&["put", &long, "four"]).status.success() && kith(&["put", "app/z", "five"]).status.success()
    );
    let differs = once();
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    let told = String::from_utf8_lossy(&differs.stderr).into_owned();
    assert!(told.contains("the key `a` has no file") && told.contains("2 differ"), "{told}");
    is_equal(&[("a/b", "two"), ("z", "five")]);

    // The files are not given to other keys.
    let other = kith(&["sync", "--once", "--dir", directory.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("the prefix `app/`"), "{other:?}");
    is_equal(&[("a/b", "two"), ("z", "five")]);

    // Who ends it before its end is not told that all is well.
    assert!(kith(&["put", "app/z", "six"]).status.success());
    let began = group.directory.path().join("began");
    let command = format!("touch {}; sleep 5", began.display());
    let mut interrupted = clean(Command::new(KITH));
    interrupted.args(arguments).args(["--exec", &command, "--address", &group[0].http.to_string()]);
    let mut interrupted = interrupted.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the command runs", PATIENCE, async || {
        if began.exists() { Ok(()) } else { Err("it does not yet".to_owned()) }
    })
    .await;
    signal(interrupted.id(), "TERM");
    assert_eq!(interrupted.wait().unwrap().code(), Some(1));
}
