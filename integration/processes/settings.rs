//! Settings: changed on any member, in force on all within seconds, live, and taken back.

use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::wires::{Cut, Wires};
use kith::client::{ClientError, ListingQuery, WriteOptions};
use kith::model::settings::Level;
use kith::node::handle::settings::{RollbackRequest, Settings, SettingsHistory, SettingsRequest};
use std::collections::BTreeMap;
use std::time::Duration;

/// Within which a change is in force on every member that can be reached.
const SPREAD_WITHIN: Duration = Duration::from_secs(3);

fn of_cluster(settings: &[(&str, &str)]) -> SettingsRequest {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
    SettingsRequest { settings: settings.collect(), ..SettingsRequest::default() }
}

fn of_collection(collection: &str, settings: &[(&str, Option<&str>)]) -> SettingsRequest {
    let values = settings.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
    SettingsRequest {
        collections: BTreeMap::from([(collection.to_owned(), values.collect())]),
        ..SettingsRequest::default()
    }
}

fn value<'a>(settings: &'a Settings, name: &str) -> &'a str {
    &settings.entries.iter().find(|row| row.name == name).unwrap().value
}

async fn change(member: &Member, request: &SettingsRequest) -> Settings {
    member.client().change_settings(request, false).await.unwrap()
}

/// Every member tells that it and all others have this version in force.
async fn until_applied(members: &[Member], version: &str, within: Duration) {
    for member in members {
        until("all have applied the version", within, async || {
            let settings = member.client().settings().await.map_err(|error| error.to_string())?;
            let has = |row: &kith::node::handle::settings::AppliedRow| {
                row.applied == Some(true) && row.version.as_deref() == Some(version)
            };
            let all = settings.version == version && settings.members.iter().all(has);
            if all && settings.members.len() == members.len() { Ok(()) } else { Err(format!("{settings:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_change_is_in_force_on_every_member_within_three_seconds_and_has_a_history() {
    let group = Group::ready(3, &Plan::default()).await;
    let client = group[0].client();
    let began = client.settings().await.unwrap();
    assert_eq!((began.version.as_str(), value(&began, "write_timeout")), ("created", "1s"));

    let shown = client.change_settings(&of_cluster(&[("write_timeout", "2000ms")]), true).await.unwrap();
    assert_eq!((shown.version.as_str(), value(&shown, "write_timeout")), ("created", "1s"), "a dry run");
    assert_eq!(shown.differences.unwrap().len(), 1);

    let first =
        change(&group[0], &of_cluster(&[("write_timeout", "2000ms"), ("read_level", "quorum")])).await;
    until_applied(&group.members, &first.version, SPREAD_WITHIN).await;
    let second = change(&group[1], &of_cluster(&[("write_timeout", "3s"), ("max_value_bytes", "10B")])).await;
    until_applied(&group.members, &second.version, SPREAD_WITHIN).await;
    let refused = group[2].client().put("default", b"k", vec![0; 11].into(), &WriteOptions::default()).await;
    assert!(matches!(refused, Err(ClientError::Refused { .. })), "it is in force at once: {refused:?}");

    let same = change(&group[2], &of_cluster(&[("write_timeout", "3s")])).await;
    assert_eq!((same.version, same.differences), (second.version.clone(), Some(Vec::new())));

    let back = RollbackRequest { version: first.version.clone() };
    let third = group[2].client().roll_back_settings(&back, false).await.unwrap();
    until_applied(&group.members, &third.version, SPREAD_WITHIN).await;
    let now = client.settings().await.unwrap();
    assert_eq!(
        (value(&now, "write_timeout"), value(&now, "read_level"), value(&now, "max_value_bytes")),
        ("2s", "quorum", "1MiB")
    );
    let SettingsHistory { versions } = client.settings_history().await.unwrap();
    let names: Vec<&str> = versions.iter().map(|version| version.version.as_str()).collect();
    assert_eq!(names, [&third.version, &second.version, &first.version, "created"]);
    assert_eq!(versions[0].back_to.as_deref(), Some(first.version.as_str()));
    assert_eq!(versions[1].member.as_deref(), Some("member2"));
    let changed: Vec<String> = versions[1]
        .differences
        .iter()
        .map(|row| format!("{} {:?} {:?}", row.name, row.from.as_deref(), row.to.as_deref()))
        .collect();
    assert_eq!(
        changed,
        [r#"write_timeout Some("2s") Some("3s")"#, r#"max_value_bytes Some("1MiB") Some("10B")"#]
    );
}

#[tokio::test]
async fn one_goes_back_over_more_than_can_be_changed_at_once() {
    let group = Group::ready(3, &Plan::default()).await;
    let own = [("default_ttl", Some("90s")), ("write_level", Some("available"))];
    let part = |number: usize| {
        let names = (0..32).map(|at| format!("{number}-{at:0>60}"));
        SettingsRequest {
            collections: names.flat_map(|name| of_collection(&name, &own).collections).collect(),
            ..SettingsRequest::default()
        }
    };
    let mut whole = SettingsRequest::default();
    for number in 0..4 {
        whole.collections.extend(part(number).collections);
        let changed = change(&group[number % 3], &part(number)).await;
        until_applied(&group.members, &changed.version, SPREAD_WITHIN).await;
    }
    let refused = group[0].client().change_settings(&whole, false).await.unwrap_err();
    assert!(refused.to_string().contains("make several changes of it"), "{refused}");

    let back = RollbackRequest { version: "created".to_owned() };
    let back = group[1].client().roll_back_settings(&back, false).await.unwrap();
    assert_eq!(back.differences.map(|rows| rows.len()), Some(4 * 32 * 2));
    until_applied(&group.members, &back.version, SPREAD_WITHIN).await;
    assert_eq!(group[2].client().settings().await.unwrap().collections, []);
}

#[tokio::test]
async fn of_changes_on_both_sides_of_a_cut_the_later_one_holds_whole_on_every_member() {
    let (group, wires) = Wires::ready(3).await;
    wires.cut(Cut::Silent, &["member3"]);
    for (at, other) in [(0, "member3"), (2, "member1")] {
        group[at].until_sees(other, false, PATIENCE).await;
    }
    // On neither side all confirm it, so one of them says that it spreads later.
    let earlier = of_cluster(&[("write_timeout", "2s"), ("sync_interval", "2s"), ("gossip_interval", "1s")]);
    let later = of_cluster(&[("write_timeout", "3s"), ("sync_interval", "3s")]);
    for (at, request) in [(0, &earlier), (2, &later)] {
        match group[at].client().change_settings(request, false).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.code(), "unconfirmed", "{error}"),
        }
        // The clocks tell which is the later one.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wires.heal();
    let last = until("the sides agree", PATIENCE, async || {
        let mut all = Vec::new();
        for member in &group.members {
            all.push(member.client().settings().await.map_err(|error| error.to_string())?);
        }
        let agree = all.iter().all(|settings| settings.digest == all[0].digest)
            && all.iter().all(|settings| value(settings, "write_timeout") == "3s");
        if agree { Ok(all.remove(0)) } else { Err(format!("{all:?}")) }
    })
    .await;
    let all = ["write_timeout", "sync_interval", "gossip_interval"].map(|name| value(&last, name).to_owned());
    assert_eq!(all, ["3s", "3s", "1s"], "the later one whole, and of the earlier one what it does not name");
    let history = group[1].client().settings_history().await.unwrap();
    assert_eq!(history.versions.len(), 3, "both are told: {history:?}");
}

#[tokio::test]
async fn a_refused_change_changes_nothing_and_says_all_that_is_wrong() {
    let group = Group::ready(1, &Plan::default().setting("replication_factor", "1")).await;
    let client = group[0].client();
    let before = client.settings().await.unwrap();
    let mut request =
        of_cluster(&[("write_timeout", "5s"), ("write_level", "most"), ("replication_factor", "9")]);
    request.collections = of_collection("_system_tokens", &[("default_ttl", Some("1h"))]).collections;
    let error = client.change_settings(&request, false).await.unwrap_err();
    for told in ["nothing was changed", "`write_level` can't be `most`", "from 1 to 7", "kith's own"] {
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
    let error = client.change_settings(&of_cluster(&[("replication_factor", "2")]), false).await.unwrap_err();
    assert!(error.to_string().contains("the cluster has 1 member"), "{error}");
    let nowhere = RollbackRequest { version: "0123456789".to_owned() };
    let error = client.roll_back_settings(&nowhere, false).await.unwrap_err();
    assert_eq!(error.code(), "unknown_version", "{error}");
    assert_eq!(client.settings().await.unwrap(), before);
}

#[tokio::test]
async fn a_collection_has_its_own_level_and_time_to_live() {
    let mut group = Group::ready(3, &Plan::default()).await;
    // Nobody has heard of it: it may be mistyped.
    let mistyped = group[0].kith(&["settings", "set", "-c", "sesions", "write_level=all"]);
    let told = String::from_utf8_lossy(&mistyped.stderr).into_owned();
    assert!(!mistyped.status.success() && told.contains("`sesions`") && told.contains("--new"), "{told}");
    assert!(group[0].client().settings().await.unwrap().collections.is_empty());
    assert!(
        group[0].kith(&["settings", "set", "-c", "sessions", "--new", "read_level=one"]).status.success()
    );
    let set = of_collection("sessions", &[("default_ttl", Some("30m")), ("write_level", Some("all"))]);
    let changed = change(&group[0], &set).await;
    until_applied(&group.members, &changed.version, SPREAD_WITHIN).await;
    let client = group[1].client();
    let options = WriteOptions::default();
    let short = WriteOptions { ttl: Some(Duration::from_secs(60)), ..WriteOptions::default() };
    client.put("sessions", b"lasting", "v".into(), &options).await.unwrap();
    client.put("sessions", b"short", "v".into(), &short).await.unwrap();
    client.put("default", b"lasting", "v".into(), &options).await.unwrap();
    let ttl = async |collection: &str, key: &[u8]| {
        client.get(collection, key, None).await.unwrap().unwrap().ttl.map(|ttl| ttl.as_secs() / 60)
    };
    assert!(matches!(ttl("sessions", b"lasting").await, Some(29 | 30)));
    assert!(matches!(ttl("sessions", b"short").await, Some(0 | 1)));
    assert_eq!(ttl("default", b"lasting").await, None);
    assert!(group[1].kith(&["put", "-c", "sessions", "--ttl", "none", "lasting", "v"]).status.success());
    assert_eq!(ttl("sessions", b"lasting").await, None);
    // What is exported as lasting is so where it is imported.
    let file = group.directory.path().join("sessions.jsonl");
    assert!(group[0].kith(&["export", "-c", "sessions", file.to_str().unwrap()]).status.success());
    client.delete("sessions", b"lasting", &options).await.unwrap();
    assert!(group[1].kith(&["import", file.to_str().unwrap()]).status.success());
    assert_eq!(ttl("sessions", b"lasting").await, None);
    assert!(matches!(ttl("sessions", b"short").await, Some(0 | 1)));

    group.members[2].kill();
    group[1].until_sees("member3", false, PATIENCE).await;
    client.put("default", b"k", "v".into(), &options).await.unwrap();
    let error = client.put("sessions", b"k", "v".into(), &options).await.unwrap_err();
    assert_eq!(error.code(), "not_enough_owners", "all three must have it: {error}");
    let taken_back = of_collection("sessions", &[("write_level", None)]);
    let taken_back = group[0].client().change_settings(&taken_back, false).await.unwrap();
    until("it is taken back", SPREAD_WITHIN, async || {
        let settings = client.settings().await.map_err(|error| error.to_string())?;
        if settings.version == taken_back.version { Ok(()) } else { Err(settings.version) }
    })
    .await;
    client.put("sessions", b"k", "v".into(), &options).await.unwrap();
    let shown = group[1].kith(&["settings", "show"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("sessions") && text.contains("30m"), "{text}");
    assert!(text.contains("not heard of member3"), "{text}");
}

/// How many of the members hold each of these keys, which is told of itself by each of them.
async fn until_held(group: &Group, collection: &str, keys: usize, copies: usize) {
    until("so many members hold each key", PATIENCE, async || {
        let mut held = 0;
        for member in &group.members {
            let query = ListingQuery { limit: 1_000, values: false, held: true, ..ListingQuery::default() };
            let listing =
                member.client().list(collection, &query).await.map_err(|error| error.to_string())?;
            held += listing.entries.len();
        }
        if held == keys * copies {
            Ok(())
        } else {
            Err(format!("{held} copies of {keys} keys of {collection}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_collection_has_as_many_copies_as_it_asks_for_and_others_keep_theirs() {
    const KEYS: usize = 200;
    let mut group = Group::ready(3, &Plan::default()).await;
    let client = group[0].client();
    let all = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let name = |number: usize| format!("k{number}").into_bytes();
    for number in 0..KEYS {
        for collection in ["sessions", "orders"] {
            let copies = client.put(collection, &name(number), "v".into(), &all).await.unwrap().copies;
            assert_eq!(copies, 3);
        }
    }
    let factor = |copies: Option<&str>| of_collection("sessions", &[("replication_factor", copies)]);
    let error = client.change_settings(&factor(Some("4")), false).await.unwrap_err();
    assert!(error.to_string().contains("the cluster has 3 members"), "{error}");
    let many: Vec<String> = (0..15).map(|number| format!("c{number}")).collect();
    let one = |name: &String| of_collection(name, &[("replication_factor", Some("2"))]).collections;
    let many =
        SettingsRequest { collections: many.iter().flat_map(one).collect(), ..SettingsRequest::default() };
    let error = client.change_settings(&many, false).await.unwrap_err();
    assert!(error.to_string().contains("14 may"), "{error}");

    change(&group[1], &factor(Some("1"))).await;
    until_held(&group, "sessions", KEYS, 1).await;
    until_held(&group, "orders", KEYS, 3).await;
    let waited = group[2].kith(&["status", "--wait"]);
    assert!(waited.status.success(), "{waited:?}");
    for (collection, copies) in [("sessions", 1), ("orders", 3)] {
        let placement = group[2].client().placement(Some((collection, b"k7"))).await.unwrap();
        assert_eq!(placement.rows[0].owners.len(), copies, "{placement:?}");
        let written = client.put(collection, b"k7", "w".into(), &all).await.unwrap();
        assert_eq!(usize::from(written.copies), copies);
    }
    let shown = group[0].kith(&["placement", "k7", "--collection", "sessions"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("(sessions)"), "{shown:?}");

    // A member that starts knows it, and what it holds of it.
    group[1].kill();
    group[1].start();
    group.until_ready().await;
    until_held(&group, "sessions", KEYS, 1).await;
    change(&group[2], &factor(None)).await;
    until_held(&group, "sessions", KEYS, 3).await;
    for member in &group.members {
        for number in 0..KEYS {
            let found = member.client().get("sessions", &name(number), Some(Level::Quorum)).await.unwrap();
            assert!(found.is_some(), "k{number}");
        }
    }
}

#[tokio::test]
async fn the_command_line_shows_the_difference_first_and_who_has_applied_it() {
    let group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let told = |arguments: &[&str]| {
        let output = group[0].kith(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = told(&["settings", "set", "write_timeout=2s", "--dry-run"]);
    assert!(
        shown.starts_with("this would change") && shown.contains("1s") && shown.contains("2s"),
        "{shown}"
    );
    assert!(told(&["settings", "history"]).contains("created"));
    let changed = told(&["settings", "set", "write_timeout=2s"]);
    assert!(changed.contains("applied by 2 members"), "{changed}");
    let version = changed.split(['\n', ' ', ':']).find(|word| word.len() == 10).unwrap().to_owned();
    let history = told(&["settings", "history"]);
    assert!(history.contains(&version) && history.contains("write_timeout 1s → 2s"), "{history}");
    let back = told(&["settings", "rollback", "created"]);
    assert!(back.contains("applied by 2 members"), "{back}");
    assert!(told(&["settings", "set", "write_timeout=default"]).contains("nothing to change"));
    let wrong = group[0].kith(&["settings", "rollback", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("kith settings history"), "{wrong:?}");
}
