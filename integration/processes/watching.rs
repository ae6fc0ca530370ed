//! Watching real members: what is told, what happens when members go, and to those who read slowly.

use crate::members::{Group, Member, PATIENCE, Plan, until};
use kith::client::{ListingQuery, WriteOptions};
use kith::model::key::DEFAULT;
use kith::node::handle::documents::Entry;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// An event as it came.
#[derive(Debug, Clone)]
struct Event {
    name: String,
    data: serde_json::Value,
    id: Option<String>,
}

/// An open watch, and what it has told.
struct Watcher {
    response: reqwest::Response,
    buffer: Vec<u8>,
    state: BTreeMap<String, String>,
    /// What is listed; the state once that is all of it.
    listing: Option<BTreeMap<String, String>>,
    resets: Vec<String>,
    id: Option<String>,
}

impl Watcher {
    async fn open(member: &Member, query: &str, last: Option<&str>) -> Self {
        let url = member.url(&format!("/v1/watch/{DEFAULT}?{query}"));
        let request = reqwest::Client::new().get(url);
        let request = last.into_iter().fold(request, |request, last| request.header("last-event-id", last));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            buffer: Vec::new(),
            state: BTreeMap::new(),
            listing: None,
            resets: Vec::new(),
            id: None,
        }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let text = String::from_utf8(self.buffer.drain(..end + 2).collect()).unwrap();
                let field =
                    |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let Some(name) = field("event: ") else { continue };
                let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                let event = Event { name, data, id: field("id: ") };
                self.note(&event);
                return Some(event);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.unwrap();
            self.buffer.extend_from_slice(&chunk.ok()??);
        }
    }

    fn note(&mut self, event: &Event) {
        let text = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
        let known = self.listing.as_mut().unwrap_or(&mut self.state);
        match event.name.as_str() {
            "reset" => {
                self.resets.push(text("reason"));
                self.listing = Some(BTreeMap::new());
            }
            "put" => _ = known.insert(text("key"), text("value")),
            "delete" => _ = known.remove(&text("key")),
            "synced" => self.state = self.listing.take().unwrap(),
            "error" => {}
            other => panic!("{other}: {event:?}"),
        }
        self.id = event.id.clone().or(self.id.take());
    }

    /// Reads on until an event fits.
    async fn until(&mut self, what: &str, fits: impl Fn(&Self, &Event) -> bool) -> Event {
        timeout(PATIENCE, async {
            loop {
                let event = self.next().await.unwrap_or_else(|| panic!("the watch ended before {what}"));
                if fits(self, &event) {
                    return event;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    async fn until_synced(&mut self) {
        self.until("all is listed", |_, event| event.name == "synced").await;
    }
}

async fn put(member: &Member, key: &str, value: &str, ttl_ms: Option<u64>) {
    let ttl = ttl_ms.map_or_else(String::new, |ttl| format!("?ttl={ttl}ms"));
    let url = member.url(&format!("/v1/kv/{DEFAULT}/{key}{ttl}"));
    let answer = reqwest::Client::new().put(url).body(value.to_owned()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

async fn delete(member: &Member, key: &str) {
    member.client().delete(DEFAULT, key.as_bytes(), &WriteOptions::default()).await.unwrap();
}

async fn listed(member: &Member, prefix: &str) -> BTreeMap<String, String> {
    let prefix = prefix.as_bytes().to_vec();
    let query = ListingQuery { prefix, limit: 10_000, ..ListingQuery::default() };
    let entries = member.client().list(DEFAULT, &query).await.unwrap().entries;
    entries.into_iter().map(|Entry { key, value, .. }| (key.unwrap(), value.unwrap_or_default())).collect()
}

#[tokio::test]
async fn whoever_owns_it_and_dies_a_watch_ends_with_what_is_there() {
    let mut group = Group::ready(5, &Plan::default()).await;
    for number in 0..100 {
        put(&group[1], &format!("w/{number:03}"), "before", None).await;
    }
    let mut watcher = Watcher::open(&group[0], "prefix=w/", None).await;
    watcher.until_synced().await;
    assert_eq!((watcher.state.len(), &watcher.resets[..]), (100, &["begin".to_owned()][..]));

    for number in 0..60 {
        put(&group[2], &format!("w/{number:03}"), "during", None).await;
        if number == 20 {
            group[4].kill();
        }
        delete(&group[3], &format!("w/{:03}", 99 - number / 2)).await;
    }
    put(&group[1], "elsewhere", "not watched", None).await;
    put(&group[1], "w/last", "after", None).await;
    watcher.until("the last change", |watcher, _| watcher.state.contains_key("w/last")).await;
    assert_eq!(watcher.resets.get(1).map(String::as_str), Some("source_lost"), "{:?}", watcher.resets);
    assert_eq!(watcher.state, listed(&group[0], "w/").await);
    assert_eq!(watcher.state.values().filter(|value| *value == "during").count(), 60);
}

#[tokio::test]
async fn a_watch_goes_on_from_its_last_event_where_that_is_known_and_with_the_current_state_elsewhere() {
    let mut group = Group::ready(3, &Plan::default().setting("replication_factor", "2")).await;
    put(&group[0], "w/a", "1", None).await;
    let mut watcher = Watcher::open(&group[0], "prefix=w/", None).await;
    let reset = watcher.next().await.unwrap();
    watcher.until_synced().await;
    put(&group[1], "w/b", "2", None).await;
    let event = watcher.until("a put", |_, event| event.name == "put").await;
    assert_eq!((event.data["key"].as_str(), event.data["value"].as_str()), (Some("w/b"), Some("2")));
    let id = watcher.id.clone().unwrap();
    drop(watcher);

    put(&group[2], "w/c", "3", None).await;
    delete(&group[1], "w/a").await;
    let mut resumed = Watcher::open(&group[0], "prefix=w/", Some(&id)).await;
    let (one, other) = (resumed.next().await.unwrap(), resumed.next().await.unwrap());
    let mut names = [one.name.as_str(), other.name.as_str()];
    names.sort_unstable();
    assert_eq!(names, ["delete", "put"], "{one:?} {other:?}");
    let deleted = if one.name == "delete" { &one } else { &other };
    assert_eq!((deleted.data["key"].as_str(), &deleted.data["expired"]), (Some("w/a"), &false.into()));
    assert_eq!(resumed.resets.len(), 0);

    for (member, last) in [(1, &id), (0, reset.id.as_ref().unwrap())] {
        let mut anew =
            Watcher::open(&group[member], &format!("prefix=w/&values=false&cursor={last}"), None).await;
        anew.until_synced().await;
        assert_eq!(anew.resets, ["cursor"], "member {member}");
        let keys: Vec<&String> = anew.state.keys().collect();
        assert_eq!(keys, ["w/b", "w/c"]);
        assert!(anew.state.values().all(String::is_empty), "values were not asked for");
    }
    let answer = reqwest::get(group[0].url("/v1/watch/default?cursor=yesterday")).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("bad_cursor"));

    put(&group[1], "w/short", "gone soon", Some(1_500)).await;
    let expired = resumed.until("an expiry", |_, event| event.data["expired"] == true).await;
    assert_eq!((expired.name.as_str(), expired.data["key"].as_str()), ("delete", Some("w/short")));

    assert!(group[0].stop().await.success(), "an open watch does not keep a member from stopping");
    let last = resumed.until("the end", |_, event| event.name == "error").await;
    assert_eq!(last.data["error"].as_str(), Some("stopping"));
    assert!(resumed.next().await.is_none());
}

#[tokio::test]
async fn who_reads_slowly_is_told_so_and_gets_the_current_state_and_nobody_waits_for_it() {
    const KEYS: usize = 400;
    let group = Group::ready(3, &Plan::default()).await;
    put(&group[0], "w/first", "1", None).await;
    let mut slow = Watcher::open(&group[0], "prefix=w/", None).await;
    slow.until_synced().await;
    let mut quick = Watcher::open(&group[0], "prefix=w/&values=false", None).await;
    quick.until_synced().await;
    let value = "v".repeat(100_000);
    for number in 0..KEYS {
        put(&group[number % 3], &format!("w/{number:03}"), &value, None).await;
    }
    put(&group[1], "w/end", "2", None).await;
    quick.until("the end", |watcher, _| watcher.state.contains_key("w/end")).await;
    assert_eq!(quick.state.len(), KEYS + 2);
    assert_eq!(quick.resets, ["begin"], "who reads is not behind for another one");

    slow.until("the end", |watcher, _| watcher.state.contains_key("w/end")).await;
    assert_eq!(slow.resets, ["begin", "behind"]);
    assert_eq!(slow.state.len(), KEYS + 2);
    until("the member counts it", PATIENCE, async || {
        let behind = group[0].metric("kith_watch_behind_total").await?;
        if behind >= 1.0 { Ok(()) } else { Err(format!("{behind}")) }
    })
    .await;
    drop((slow, quick));
    until("closed watches are given up", Duration::from_secs(40), async || {
        let open = group[0].metric("kith_watches").await?;
        if open == 0.0 { Ok(()) } else { Err(format!("{open}")) }
    })
    .await;
}
