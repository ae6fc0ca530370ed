//! How single processes start and end: what they refuse, and what they leave behind.

use crate::load::{Load, check};
use crate::members::{Group, KITH, PATIENCE, Plan, clean, signal, until};
use crate::slow_disk::SlowDisk;
use kith::client::{ClientError, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What an orderly stop may take: the fronts' five seconds, then the member's ten.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Runs `kith serve` to its end. It is told to end, and does so with code 0, if nothing ends it before.
fn serve(config: &std::path::Path) -> Output {
    let mut command = clean(Command::new(KITH));
    command.args(["serve", "--stop-with-input", "--config"]).arg(config).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (input, deadline) = (child.stdin.take(), Instant::now() + STOP_DEADLINE);
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(input);
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn a_second_process_on_a_data_directory_ends_with_a_clear_message_and_harms_nothing() {
    let mut group = Group::empty().await;
    group.add("first", Plan::default().bootstrap());
    group.start();
    group[0].until_ready().await;
    // Other ports, the same directory.
    let second = group.add("second", Plan::default().bootstrap());
    let text = fs::read_to_string(group[second].config()).unwrap();
    let (own, other) = (group[second].data(), group[0].data());
    let text = text.replace(&own.display().to_string(), &other.display().to_string());
    fs::write(group[second].config(), text).unwrap();

    let ended = serve(&group[second].config());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(message.contains(&other.display().to_string()) && message.contains("another"), "{message}");
    group[0].client().ready().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_the_exit_code_is_1() {
    let mut group = Group::empty().await;
    group.add("first", Plan::default());
    for address in [group[0].peers, group[0].http, group[0].resp] {
        let _taken = TcpListener::bind(address).unwrap();
        let ended = serve(&group[0].config());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let message = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(message.contains(&address.to_string()), "{message}");
    }
}

#[test]
fn a_wrong_config_is_refused_with_all_its_problems_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("member.toml");
    let text = "nmae = \"a\"\nsecret = \"short\"\nseeds = [\"nowhere\"]\nbootstrap = \"perhaps\"\n[listen]\nhttp = \"x\"\n";
    fs::write(&file, text).unwrap();
    let ended = serve(&file);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    for word in ["nmae", "data_dir", "secret", "nowhere", "bootstrap", "listen.http"] {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
    assert!(!message.contains("short"), "a secret is shown: {message}");
    let wrong_usage = clean(Command::new(KITH)).args(["serve", "--confg", "x"]).output().unwrap();
    assert_eq!(wrong_usage.status.code(), Some(2));
}

#[tokio::test]
async fn members_that_are_told_to_stop_under_load_end_in_time_and_lose_nothing() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let addresses: Vec<String> = group.members.iter().map(|member| member.http.to_string()).collect();
    let load = Load::start(&[addresses[..1].to_vec(), addresses[1..].to_vec(), addresses[2..].to_vec()]);
    load.until_more(2_000).await;
    // One while the others serve, then the rest side by side.
    let began = Instant::now();
    let first = group[2].stop().await;
    assert!(first.success() && began.elapsed() < STOP_DEADLINE, "{first} after {:?}", began.elapsed());
    load.until_more(500).await;
    let began = Instant::now();
    group[0].signal("TERM");
    group[1].signal("INT");
    for index in [0, 1] {
        let status = group[index].ended(STOP_DEADLINE).await;
        assert!(status.success(), "{status}");
    }
    eprintln!("two members stopped in {:?}", began.elapsed());
    let model = load.stop().await;

    group.start();
    group.until_ready().await;
    group.until_no_hints().await;
    for member in &group.members {
        check(member, Level::One, &model).await.unwrap();
    }
}

#[tokio::test]
async fn a_hangup_changes_nothing_and_a_member_says_so() {
    let mut group = Group::ready(1, &Plan::default()).await;
    group[0].signal("HUP");
    until("the member says so", PATIENCE, async || {
        let log = group[0].log();
        if log.contains("SIGHUP changes nothing") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(group[0].client().ready().await.is_ok());
    group[0].signal("TERM");
    assert!(group[0].ended(PATIENCE).await.success(), "{}", group[0].log());
}

#[tokio::test]
async fn a_member_that_opens_its_storage_lives_says_that_it_starts_and_ends_when_it_is_told_to() {
    let mut group = Group::empty().await;
    let disk = SlowDisk::build(group.directory.path());
    // Not `slow`: its directory would be the mark.
    group.add("member", Plan { environment: disk.environment(), ..Plan::default().bootstrap() });
    group.start();
    group[0].until_ready().await;
    assert!(group[0].stop().await.success());

    // From here on it takes many seconds.
    disk.slow_down();
    group.start();
    let client = group[0].client();
    until("it lives", PATIENCE, async || client.live().await.map_err(|error| error.to_string())).await;
    let refused = client.put(DEFAULT, b"key", "value".into(), &WriteOptions::default()).await.unwrap_err();
    let is_told = |error: &ClientError, wanted: &str| matches!(error, ClientError::Refused { status: 503, code, .. } if code == wanted);
    assert!(is_told(&refused, "starting"), "{refused:?}");
    let unready = client.ready().await.unwrap_err();
    assert!(is_told(&unready, "not_ready") && unready.to_string().contains("step"), "{unready:?}");
    group[0].signal("TERM");
    let ended = group[0].ended(PATIENCE).await;
    assert!(ended.success(), "{ended}");
    let log = group[0].log();
    assert!(log.contains("stopping before the storage is open"), "it was open already: {log}");

    disk.recover();
    group.start();
    group[0].until_ready().await;
    let stored = group[0].client().put(DEFAULT, b"key", "value".into(), &WriteOptions::default()).await;
    assert!(!stored.unwrap().superseded);
}

/// A `kith dev` that ends with the test.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        // An ended process can't be killed; its members end with their standard input.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn ctrl_c_stops_kith_dev_and_all_its_members_and_so_does_the_end_of_its_terminal() {
    for signal in ["INT", "HUP"] {
        dev_is_stopped_by(signal).await;
    }
}

async fn dev_is_stopped_by(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    until("the ports of kith dev are free", PATIENCE, async || {
        for port in [7_400, 7_401, 7_402, 7_410, 7_411, 7_412] {
            TcpListener::bind(("127.0.0.1", port)).map_err(|error| format!("port {port}: {error}"))?;
        }
        Ok(())
    })
    .await;
    let mut command = clean(Command::new(KITH));
    command.args(["dev", "--members", "2", "--data-dir"]).arg(directory.path().join("dev"));
    let mut dev = Dev(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(dev.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids: Vec<u32> = lines
        .by_ref()
        .take_while(|line| !line.contains("Ctrl-C"))
        .filter_map(|line| line.split_once("  pid ")?.1.trim().parse().ok())
        .collect();
    assert_eq!(pids.len(), 2, "kith dev tells of its members");

    signal(dev.0.id(), name);
    let status = until("kith dev ends", STOP_DEADLINE, async || {
        dev.0.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
    });
    assert!(status.await.success());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "member {pid} still runs");
    }
}
