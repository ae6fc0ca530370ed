//! What people and scripts get from the command line.

use crate::members::{Group, KITH, PATIENCE, Plan, clean, signal, until};
use std::fs::File;
use std::process::{Command, Output, Stdio};

/// Standard output and exit code.
fn told(output: &Output) -> (String, Option<i32>) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

/// `kith` with these addresses.
fn kith(group: &Group, members: &[usize], arguments: &[&str]) -> Output {
    let addresses: Vec<String> = members.iter().map(|index| group[*index].http.to_string()).collect();
    let mut command = clean(Command::new(KITH));
    command.args(arguments).args(["--address", &addresses.join(",")]).output().unwrap()
}

fn timestamp_of(document: &str) -> String {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    document["timestamp"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn keys_are_changed_under_conditions_counted_listed_and_watched() {
    let group = Group::ready(1, &Plan::default()).await;
    let kith = |arguments: &[&str]| kith(&group, &[0], arguments);
    let first = kith(&["put", "k", "one\n", "--if-absent", "--json"]);
    assert_eq!(first.status.code(), Some(0));
    let stamp = timestamp_of(&told(&first).0);
    let (document, code) = told(&kith(&["put", "k", "two", "--if-absent", "--json"]));
    assert_eq!((timestamp_of(&document), code), (stamp.clone(), Some(1)), "{document}");
    assert!(document.contains("condition_failed"), "{document}");
    let second = kith(&["put", "k", "two\n", "--if-timestamp", &stamp, "--json"]);
    assert_eq!(second.status.code(), Some(0));
    let refused = kith(&["delete", "k", "--if-timestamp", &stamp]);
    assert_eq!(refused.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("nothing was changed") && !complaint.contains('\x1b'), "{complaint}");
    assert_eq!(told(&kith(&["get", "k"])), ("two\n".to_owned(), Some(0)), "exactly what was stored");
    assert_eq!(told(&kith(&["increment", "n"])), ("1\n".to_owned(), Some(0)));
    assert_eq!(told(&kith(&["increment", "n", "-5"])), ("-4\n".to_owned(), Some(0)));
    assert_eq!(told(&kith(&["increment", "k"])).1, Some(1), "it is no number");
    assert_eq!(told(&kith(&["scan", "--reverse"])).0, "n\t-4\nk\ttwo\\n\n");
    assert_eq!(told(&kith(&["scan", "--start", "k", "--end", "n", "--keys"])).0, "k\n");
    let limited = kith(&["scan", "--limit", "1"]);
    assert_eq!(told(&limited).0, "k\ttwo\\n\n");
    assert!(String::from_utf8_lossy(&limited.stderr).contains("more keys"));
    let events = told(&kith(&["watch", "k", "--json", "--until-synced"]));
    let kinds: Vec<String> = events
        .0
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!((kinds, events.1), (["reset", "put", "synced"].map(str::to_owned).to_vec(), Some(0)));
    let stamp = timestamp_of(&told(&second).0);
    assert_eq!(kith(&["delete", "k", "--if-timestamp", &stamp]).status.code(), Some(0));
    assert_eq!(kith(&["get", "k"]).status.code(), Some(1));
}

#[tokio::test]
async fn a_watch_prints_changes_as_they_come_and_ends_in_order_when_it_is_told_to() {
    let group = Group::ready(1, &Plan::default()).await;
    // What changes while the watch begins may be told twice.
    assert!(group[0].kith(&["put", "a/x", "one"]).status.success());
    let output = group.directory.path().join("watch.out");
    let mut command = clean(Command::new(KITH));
    command.args(["watch", "a/", "--address", &group[0].http.to_string()]).stdin(Stdio::null());
    let mut watch = command.stdout(File::create(&output).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    let until_told = async |wanted: &str| {
        until("the change is printed", PATIENCE, async || {
            let text = std::fs::read_to_string(&output).unwrap();
            if text == wanted { Ok(()) } else { Err(text) }
        })
        .await;
    };
    until_told("put     a/x\tone\n").await;
    assert!(group[0].kith(&["put", "b/x", "one"]).status.success());
    assert!(group[0].kith(&["delete", "a/x"]).status.success());
    until_told("put     a/x\tone\ndelete  a/x\n").await;
    assert!(group[0].kith(&["put", "a/y", "two"]).status.success());
    until_told("put     a/x\tone\ndelete  a/x\nput     a/y\ttwo\n").await;
    signal(watch.id(), "INT");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn of_several_addresses_one_that_left_is_passed_over_and_none_leaves_for_another() {
    let group = Group::ready(3, &Plan::default()).await;
    let kith = |members: &[usize], arguments: &[&str]| kith(&group, members, arguments);
    let refused = kith(&[2, 0], &["leave", "--yes"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(kith(&[2], &["leave", "--yes"]).status.success());
    let file = group.directory.path().join("records.jsonl");
    let lines: String = (0..1_000).map(|n| format!("{{\"key\":\"{n:04}\",\"value\":\"v\"}}\n")).collect();
    std::fs::write(&file, &lines).unwrap();
    let imported = kith(&[2, 0], &["import", file.to_str().unwrap(), "--json"]);
    assert!(imported.status.success() && told(&imported).0.contains("\"stored\":1000"), "{imported:?}");
    assert!(kith(&[2, 0], &["put", "k", "v"]).status.success());
    assert_eq!(told(&kith(&[2, 1], &["get", "k"])), ("v".to_owned(), Some(0)));
    let exported = kith(&[2, 1], &["export"]);
    assert_eq!(told(&exported).0.lines().count(), 1_001);
    // One that left and no other: it says so once, and not for every line.
    let given_up = kith(&[2], &["import", file.to_str().unwrap()]);
    assert_eq!(given_up.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&given_up.stderr).contains("given up"), "{given_up:?}");
}

#[tokio::test]
async fn what_is_said_to_members_goes_by_no_proxy_and_is_not_sent_on() {
    let group = Group::ready(1, &Plan::default()).await;
    let (proxy, elsewhere) = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).into();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let kith = |address: String, arguments: &[&str]| {
        let mut command = clean(Command::new(KITH));
        command.env("KITH_ADDRESS", address).env("http_proxy", &url).env("all_proxy", &url);
        command.args(arguments).output().unwrap()
    };
    let put = kith(group[0].http.to_string(), &["put", "k", "v"]);
    assert!(put.status.success(), "{put:?}");
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "nobody asked the proxy");

    // Who answers there sends on to the member, where the change would be made.
    let (from, to) = (elsewhere.local_addr().unwrap().to_string(), group[0].http);
    let sends_on = std::thread::spawn(move || {
        let (mut stream, _) = elsewhere.accept().unwrap();
        let mut asked = [0; 4_096];
        assert!(std::io::Read::read(&mut stream, &mut asked).unwrap() > 0);
        let answer =
            format!("HTTP/1.1 307 x\r\nlocation: http://{to}/v1/kv/default/k\r\ncontent-length: 0\r\n\r\n");
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
    });
    let sent_on = kith(from, &["put", "k", "other"]);
    sends_on.join().unwrap();
    assert_eq!(sent_on.status.code(), Some(1), "{sent_on:?}");
    assert_eq!(told(&group[0].kith(&["get", "k"])), ("v".to_owned(), Some(0)));
}

#[tokio::test]
async fn of_an_empty_variable_nothing_is_meant() {
    let group = Group::ready(1, &Plan::default()).await;
    let mut command = clean(Command::new(KITH));
    command.env("KITH_ADDRESS", group[0].http.to_string());
    for name in ["KITH_TOKEN", "KITH_TOKEN_FILE", "KITH_CA_FILE"] {
        command.env(name, "");
    }
    let status = command.arg("status").output().unwrap();
    assert!(status.status.success(), "{status:?}");
}

/// The documents on standard error, and the exit code.
fn documents(output: &Output) -> (Vec<serde_json::Value>, Option<i32>) {
    let text = String::from_utf8_lossy(&output.stderr);
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.code())
}

#[tokio::test]
async fn with_json_what_failed_is_told_as_over_http_and_the_exit_code_stays() {
    let group = Group::ready(1, &Plan::default()).await;
    let kith = |arguments: &[&str]| {
        let mut command = clean(Command::new(KITH));
        command.env("KITH_ADDRESS", group[0].http.to_string());
        command.args(arguments).arg("--json").output().unwrap()
    };
    for (arguments, code, exit) in [
        (&["get", "none"][..], "not_found", 1),
        (&["get", "k", "-c", "_no_/such"], "bad_key", 1),
        (&["increment", "text"], "not_a_number", 1),
        (&["delete", "text", "--if-timestamp", "0000000000000001-0000000000000001"], "condition_failed", 1),
        (&["get"], "usage", 2),
        (&["get", "k", "--level", "most"], "usage", 2),
        (&["leave", "-a", "localhost:1,localhost:2"], "usage", 2),
        (&["check-config", "/nowhere"], "bad_config", 1),
        (&["status", "-a", "127.0.0.1:1"], "no_member", 1),
        (&["export", "/nowhere/file"], "io", 1),
    ] {
        assert!(group[0].kith(&["put", "text", "words"]).status.success());
        let output = kith(arguments);
        let (documents, got) = documents(&output);
        let [document] = &documents[..] else { panic!("{arguments:?}: {output:?}") };
        assert_eq!((document["error"].as_str(), got), (Some(code), Some(exit)), "{arguments:?}: {output:?}");
        assert!(document["message"].as_str().is_some_and(|message| message.len() > 10), "{document}");
    }
    let limited = kith(&["scan", "--limit", "1"]);
    assert_eq!(documents(&limited), (Vec::new(), Some(0)), "there is nothing to tell");
    assert!(group[0].kith(&["put", "more", "words"]).status.success());
    let told = documents(&kith(&["scan", "--limit", "1"])).0;
    assert!(told[0]["note"].as_str().unwrap().contains("more keys"), "{told:?}");
}

#[test]
fn shells_are_told_how_to_complete() {
    for (shell, part) in
        [("bash", "complete -F _kith"), ("zsh", "#compdef kith"), ("fish", "complete -c kith")]
    {
        let output = clean(Command::new(KITH)).args(["completions", shell]).output().unwrap();
        let (script, code) = told(&output);
        assert!(code == Some(0) && script.contains(part) && script.contains("increment"), "{script}");
    }
}
