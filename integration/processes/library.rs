//! What programs get from the Rust client while members die under it, and what its example does.

use crate::load::import;
use crate::members::{Group, KITH, PATIENCE, Plan, clean, signal, until};
use kith::Client;
use kith::client::{ClientError, Item, ListingQuery, WatchEvent, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Programs that write at the same time.
const WRITERS: usize = 4;

fn client_of(group: &Group, order: &[usize]) -> Client {
    let addresses = order.iter().map(|index| group[*index].http.to_string());
    Client::builder(addresses).patience(PATIENCE).build().unwrap()
}

/// What a writer was told of its increments and values.
#[derive(Debug, Default)]
struct Told {
    counted: i64,
    /// Increments of unknown fate.
    doubtful: i64,
    stored: BTreeMap<String, String>,
    number: u64,
}

/// Counts and stores until it is told to stop.
async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Told {
    let (mut told, options) = (Told::default(), WriteOptions::default());
    let counter = format!("counter/{writer}");
    while !stop.load(Ordering::Relaxed) {
        match client.increment(DEFAULT, counter.as_bytes(), 1, &options).await {
            Ok(_) => told.counted += 1,
            Err(ClientError::Unknown { .. }) => told.doubtful += 1,
            Err(other) => panic!("there is always a member to count: {other:?}"),
        }
        told.number += 1;
        // Each value is written once: what is acknowledged must be there in the end.
        let (key, value) = (format!("{writer}/{}", told.number), format!("value {}", told.number));
        match client.put(DEFAULT, key.as_bytes(), value.clone().into(), &options).await {
            Ok(_) => drop(told.stored.insert(key, value)),
            Err(ClientError::Unknown { .. }) => {}
            Err(other) => panic!("there is always a member to store: {other:?}"),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    told
}

#[tokio::test]
async fn while_members_die_and_stop_no_acknowledged_write_is_lost_and_none_is_done_twice() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        // Half of them share a client, and each order of the members occurs.
        let client = client_of(&group, &[writer % 3, (writer + 1) % 3, (writer + 2) % 3]);
        writers.spawn(write(client, writer, Arc::clone(&stop), Arc::clone(&done)));
    }
    let until_more = async |number: u64| {
        let goal = done.load(Ordering::Relaxed) + number;
        until("the writers go on", PATIENCE, async || {
            let now = done.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await;
    };
    for victim in 0..3 {
        until_more(100).await;
        if victim == 1 {
            assert!(group[victim].stop().await.success());
        } else {
            group[victim].kill();
        }
        until_more(100).await;
        group.start();
        group.until_ready().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    while let Some(ended) = writers.join_next().await {
        let ended = ended.unwrap();
        let writer = ended.stored.keys().next().unwrap().split('/').next().unwrap().to_owned();
        told.insert(writer, ended);
    }
    group.until_no_hints().await;
    for member in &group.members {
        let client = member.client();
        for (writer, told) in &told {
            let counter = format!("counter/{writer}");
            let within = told.counted..=told.counted + told.doubtful;
            until(&format!("{} counted what writer {writer} did", member.name), PATIENCE, async || {
                let found = client.get(DEFAULT, counter.as_bytes(), Some(Level::All)).await;
                let found = found.map_err(|error| error.to_string())?.ok_or("no counter")?;
                let number: i64 = String::from_utf8_lossy(&found.value).parse().unwrap();
                if within.contains(&number) { Ok(()) } else { Err(format!("{number} instead of {within:?}")) }
            })
            .await;
            let mut kept = client.scan(DEFAULT, ListingQuery::with_prefix(format!("{writer}/")));
            let mut found = BTreeMap::new();
            while let Some(item) = kept.next().await.transpose().unwrap() {
                found.insert(text(&item.key), text(item.value.as_ref().unwrap()));
            }
            let lost: Vec<_> =
                told.stored.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
            assert!(lost.is_empty(), "{} of {} at {}", lost.len(), told.stored.len(), member.name);
        }
    }
    let all: i64 = told.values().map(|told| told.counted + told.doubtful).sum();
    let doubtful: i64 = told.values().map(|told| told.doubtful).sum();
    assert!(doubtful < all / 4, "{doubtful} of {all} are of unknown fate");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_scan_over_many_pages_gives_each_key_once_while_others_write_and_its_member_dies() {
    const KEYS: usize = 3_000;
    const PAGE: usize = 100;
    let mut group = Group::ready(3, &Plan::default()).await;
    import(&group[0].client(), "stays", KEYS).await;
    let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let (writer, stopped, count) = (client_of(&group, &[2, 1]), Arc::clone(&stop), Arc::clone(&written));
    let writing = tokio::spawn(async move {
        for number in 0.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            // In the middle of those that stay.
            let key = format!("stays/{:06}/{number}", number % KEYS);
            writer.put(DEFAULT, key.as_bytes(), "new".into(), &WriteOptions::default()).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for reverse in [false, true] {
        let query = ListingQuery { limit: PAGE, reverse, ..ListingQuery::with_prefix("stays/") };
        let mut scan = client_of(&group, &[0, 1, 2]).scan(DEFAULT, query);
        let mut keys: Vec<Item> = Vec::new();
        while let Some(item) = scan.next().await {
            keys.push(item.unwrap());
            if keys.len() == 5 * PAGE {
                group[0].kill();
            }
        }
        let in_order = |pair: &[Item]| (pair[0].key < pair[1].key) != reverse && pair[0].key != pair[1].key;
        assert!(keys.windows(2).all(in_order), "each once and in order");
        let seen: BTreeSet<String> = keys.iter().map(|item| text(&item.key)).collect();
        let missing = (0..KEYS).map(|number| format!("stays/{number:06}")).filter(|key| !seen.contains(key));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<String>::new());
        group.start();
        group.until_ready().await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    assert!(written.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_watch_that_loses_its_member_goes_on_at_another_and_knows_at_last_what_is_there() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let (client, options) = (client_of(&group, &[1, 2]), WriteOptions::default());
    let put = async |key: &str, value: &'static str| {
        client.put("watched", key.as_bytes(), value.into(), &options).await.unwrap();
    };
    put("a/before", "1").await;
    put("b/other", "1").await;
    let mut watch = client_of(&group, &[0, 1, 2]).watch("watched", b"a/", true);
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let (mut resets, mut interruptions) = (0, 0);
    let mut until_known = async |wanted: &[(&str, &str)]| {
        let wanted: BTreeMap<_, _> =
            wanted.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut whole = resets > 0;
        let goes_on = async {
            while known != wanted || !whole {
                match watch.next().await.unwrap().unwrap() {
                    WatchEvent::Reset { .. } => {
                        known.clear();
                        resets += 1;
                        whole = false;
                    }
                    WatchEvent::Put(item) => {
                        drop(known.insert(text(&item.key), text(item.value.as_ref().unwrap())));
                    }
                    WatchEvent::Delete { key, .. } => drop(known.remove(&text(&key))),
                    WatchEvent::Synced => whole = true,
                    WatchEvent::Interrupted { .. } => interruptions += 1,
                    other => panic!("{other:?}"),
                }
            }
        };
        let known_in_time = tokio::time::timeout(PATIENCE, goes_on).await.is_ok();
        assert!(known_in_time, "{known:?} instead of {wanted:?}");
        (resets, interruptions)
    };
    assert_eq!(until_known(&[("a/before", "1")]).await, (1, 0));
    put("a/new", "1").await;
    put("a/before", "2").await;
    assert_eq!(until_known(&[("a/before", "2"), ("a/new", "1")]).await, (1, 0), "the same member goes on");
    group[0].kill();
    client.delete("watched", b"a/before", &options).await.unwrap();
    put("a/after", "1").await;
    let (resets, interruptions) = until_known(&[("a/after", "1"), ("a/new", "1")]).await;
    assert!(resets >= 2 && interruptions >= 1, "{resets} {interruptions}");
    put("a/new", "2").await;
    until_known(&[("a/after", "1"), ("a/new", "2")]).await;
}

/// A program that runs in the background and ends with this.
struct Program {
    process: Child,
    output: PathBuf,
}

impl Program {
    fn start(mut command: Command, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        let command = command.stdin(Stdio::null()).stderr(file.try_clone().unwrap()).stdout(file);
        Self { process: command.spawn().unwrap(), output }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    async fn until_last_line(&self, wanted: &str) {
        until(&format!("it says {wanted:?} at last"), PATIENCE, async || {
            let output = self.output();
            if output.lines().last() == Some(wanted) { Ok(()) } else { Err(output) }
        })
        .await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The example, built as this test is.
fn example(name: &str) -> PathBuf {
    let directory = Path::new(KITH).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", name, "--target-dir"]).arg(directory.parent().unwrap());
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    directory.join("examples").join(name)
}

#[tokio::test]
async fn the_registry_of_the_example_forgets_who_died_and_outlives_a_member() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let program = example("registry");
    let addresses: Vec<String> = group.members.iter().map(|member| member.http.to_string()).collect();
    let directory = group.directory.path().to_owned();
    let registry = |words: &[&str]| {
        let mut command = clean(Command::new(&program));
        command.args(words).env("KITH_ADDRESS", addresses.join(","));
        command
    };
    let watch = Program::start(registry(&["watch"]), directory.join("watch.out"));
    watch.until_last_line("services: none").await;
    let web = Program::start(registry(&["serve", "web", "10.0.0.5:8080"]), directory.join("web.out"));
    watch.until_last_line("services: web/10.0.0.5:8080").await;
    let mut mail = Program::start(registry(&["serve", "mail", "10.0.0.6:25"]), directory.join("mail.out"));
    watch.until_last_line("services: mail/10.0.0.6:25, web/10.0.0.5:8080").await;
    // The member that all of them talk to.
    group[0].kill();
    drop(web);
    watch.until_last_line("services: mail/10.0.0.6:25").await;
    assert!(watch.output().contains("the list may be old"), "{}", watch.output());
    signal(mail.process.id(), "INT");
    watch.until_last_line("services: none").await;
    assert!(mail.process.wait().unwrap().success(), "{}", mail.output());
    let list = registry(&["list"]).output().unwrap();
    assert_eq!(text(&list.stdout), "mail was started 1 times\nweb was started 1 times\n");
}
