//! Backups: a whole cluster in one file, and another cluster out of it.

use crate::members::{Group, KITH, PATIENCE, Plan, clean};
use kith::client::{LASTING, ListingQuery, WriteOptions};
use kith::node::handle::settings::SettingsRequest;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

/// Keys and values of collections.
type Contents = BTreeMap<(String, Vec<u8>), Vec<u8>>;

async fn contents(group: &Group, at: usize, collections: &[&str]) -> Contents {
    let mut all = Contents::new();
    for collection in collections {
        let mut items = group[at].client().scan(collection, ListingQuery::default());
        while let Some(item) = items.next().await.transpose().unwrap() {
            all.insert(((*collection).to_owned(), item.key.to_vec()), item.value.unwrap().to_vec());
        }
    }
    all
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

#[tokio::test]
async fn a_backup_of_a_cluster_that_is_written_to_is_restored_into_one_of_another_size() {
    let group = Group::ready(3, &Plan::default()).await;
    let client = group[0].client();
    let options = WriteOptions::default();
    for i in 0..400u32 {
        let collection = ["default", "shop.users", "a"][i as usize % 3];
        client.put(collection, &i.to_be_bytes(), vec![i as u8; 40].into(), &options).await.unwrap();
    }
    let brief = WriteOptions { ttl: Some(Duration::from_secs(3_600)), ..WriteOptions::default() };
    client.put("a", b"brief", "l".into(), &brief).await.unwrap();
    client.increment("counters", b"visits", 42, &options).await.unwrap();
    client.put("gone", b"k", "v".into(), &options).await.unwrap();
    client.delete("gone", b"k", &options).await.unwrap();
    let request = SettingsRequest {
        settings: BTreeMap::from([("write_timeout".to_owned(), Some("2s".to_owned()))]),
        collections: BTreeMap::from([(
            "a".to_owned(),
            BTreeMap::from([
                ("write_level".to_owned(), Some("quorum".to_owned())),
                ("default_ttl".to_owned(), Some("2h".to_owned())),
            ]),
        )]),
    };
    client.change_settings(&request, false).await.unwrap();
    let lasting = WriteOptions { ttl: Some(LASTING), ..WriteOptions::default() };
    client.put("a", b"lasting", "l".into(), &lasting).await.unwrap();
    let names = ["default", "shop.users", "a", "counters", "gone"];
    let before = contents(&group, 1, &names).await;
    assert_eq!(before.len(), 403);

    let file = group.directory.path().join("all.jsonl");
    let made = group[2].kith(&["backup", path(&file)]);
    assert!(made.status.success(), "{made:?}");
    assert!(String::from_utf8_lossy(&made.stdout).contains("403 records"), "{made:?}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it holds what tokens keep");
    let refused = group[2].kith(&["backup", path(&file)]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(errors(&refused).contains("--replace replaces it"), "{refused:?}");
    // Nor may others read it who might read what it replaces.
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert!(group[2].kith(&["backup", path(&file), "--replace"]).status.success());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let plan = Plan::default().setting("replication_factor", "1").setting("sync", "interval");
    let other = Group::ready(1, &plan).await;
    let restored = other[0].kith(&["restore", path(&file)]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(contents(&other, 0, &names).await, before);
    let client = other[0].client();
    let ttl = async |key: &[u8]| client.get("a", key, None).await.unwrap().unwrap().ttl;
    let brief = ttl(b"brief").await.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&brief), "{brief}");
    // Of those that had no end none has one, though its collection gives one to what is stored.
    assert_eq!((ttl(b"lasting").await, ttl(&2u32.to_be_bytes()).await), (None, None));
    assert_eq!(client.increment("counters", b"visits", 1, &options).await.unwrap().number, 43);
    let settings = client.settings().await.unwrap();
    let value = |name: &str| settings.entries.iter().find(|row| row.name == name).unwrap().value.clone();
    assert_eq!((value("write_timeout").as_str(), value("replication_factor").as_str()), ("2s", "1"));
    assert_eq!(value("sync"), "always", "it was the default where it comes from");
    assert_eq!(settings.collections.len(), 1);

    // A second time it would write over what is there.
    let refused = other[0].kith(&["restore", path(&file)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("the cluster has records"), "{refused:?}");
    let forced = other[0].kith(&["restore", path(&file), "--force"]);
    assert!(forced.status.success(), "{forced:?}");
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_refused_and_nothing_is_changed() {
    let group = Group::ready(1, &Plan::default().setting("replication_factor", "1")).await;
    let client = group[0].client();
    client.put("default", b"k", "value".into(), &WriteOptions::default()).await.unwrap();
    let file = group.directory.path().join("all.jsonl");
    assert!(group[0].kith(&["backup", path(&file)]).status.success());
    client.delete("default", b"k", &WriteOptions::default()).await.unwrap();
    let whole = std::fs::read_to_string(&file).unwrap();
    let cut = whole.lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
    let broken = group.directory.path().join("broken");
    for (bytes, told) in [
        (whole.replace("value\":\"value", "value\":\"other"), "checksum"),
        (cut, "cut off"),
        ("{\"key\":\"k\",\"value\":\"v\"}\n".to_owned(), "no backup of kith"),
        (String::new(), "it is empty"),
    ] {
        std::fs::write(&broken, bytes).unwrap();
        let refused = group[0].kith(&["restore", path(&broken)]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(
            errors(&refused).contains(told) && errors(&refused).contains("nothing was changed"),
            "{refused:?}"
        );
    }
    let missing = group[0].kith(&["restore", path(&group.directory.path().join("none"))]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    // What would be refused half-way is so before anything is stored.
    let small = BTreeMap::from([("max_value_bytes".to_owned(), Some("4B".to_owned()))]);
    let small = SettingsRequest { settings: small, ..SettingsRequest::default() };
    client.change_settings(&small, false).await.unwrap();
    let refused = group[0].kith(&["restore", path(&file), "--records-only"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        errors(&refused).contains("nothing was changed: the backup has a value of 5 bytes"),
        "{refused:?}"
    );
    assert!(client.get("default", b"k", None).await.unwrap().is_none());
    assert!(group[0].kith(&["restore", path(&file)]).status.success(), "deleted keys are no records");
    assert!(client.get("default", b"k", None).await.unwrap().is_some());
}

#[tokio::test]
async fn every_collection_is_in_a_backup_also_after_a_restart() {
    let plan = Plan::default().setting("replication_factor", "1");
    let mut group = Group::ready(1, &plan).await;
    for i in 0..20u32 {
        let collection = format!("c{i}");
        group[0].client().put(&collection, b"k", "v".into(), &WriteOptions::default()).await.unwrap();
    }
    assert!(group.members[0].stop().await.success());
    group.members[0].start();
    group[0].until_ready().await;
    let file = group.directory.path().join("all.jsonl");
    let made = group[0].kith(&["backup", path(&file), "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((told["records"].as_u64(), told["collections"].as_u64()), (Some(20), Some(20)), "{made:?}");
}

#[tokio::test]
async fn a_backup_of_members_that_do_not_all_hold_the_same_is_refused_or_says_so() {
    let group = Group::ready(3, &Plan::default()).await;
    let (client, options) = (group[0].client(), WriteOptions::default());
    group[2].signal("STOP");
    group[0].until_sees("member3", false, PATIENCE).await;
    client.put("default", b"k", "v".into(), &options).await.unwrap();
    let (file, other) = (group.directory.path().join("all.jsonl"), group.directory.path().join("some.jsonl"));
    let refused = group[0].kith(&["backup", path(&file), "--timeout", "1s"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = errors(&refused);
    assert!(told.contains("member3 does not answer") && told.contains("--incomplete"), "{told}");
    assert!(!file.exists());
    let some = group[0].kith(&["backup", path(&other), "--timeout", "1s", "--incomplete"]);
    assert!(some.status.success() && errors(&some).contains("may not hold all"), "{some:?}");
    let text = std::fs::read_to_string(&other).unwrap();
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(header["incomplete"].to_string().contains("member3"), "{header}");

    // Once it is back it is waited for until it holds what it missed.
    group[2].signal("CONT");
    let made = group[2].kith(&["backup", path(&file)]);
    assert!(made.status.success(), "{made:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(r#""key":"k","value":"v""#) && !text.contains("incomplete"), "{text}");
}

#[tokio::test]
async fn a_backup_that_is_read_slowly_tells_the_ends_of_lives_as_they_are() {
    let group = Group::ready(1, &Plan::default().setting("replication_factor", "1")).await;
    let life = Duration::from_secs(3_600);
    let options = WriteOptions { ttl: Some(life), ..WriteOptions::default() };
    let keys = 0..8u8;
    for key in keys.clone() {
        // Together more than a pipe holds.
        group[0].client().put("default", &[key], vec![b'v'; 100_000].into(), &options).await.unwrap();
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let latest_ms = u64::try_from((since + life).as_millis()).unwrap();
    let mut command = clean(Command::new(KITH));
    command.args(["backup", "-", "--address", &group[0].http.to_string()]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    // It comes when the first record is written, so when all of them were told.
    assert!(lines.next().unwrap().unwrap().contains("kith_backup"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lines: Vec<serde_json::Value> =
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(process.wait().unwrap().success());
    let ends: Vec<u64> = lines.iter().filter_map(|line| line["expires_ms"].as_u64()).collect();
    assert_eq!(ends.len(), keys.len());
    for end in ends {
        assert!(end <= latest_ms + 2_000, "{} ms late", end - latest_ms);
    }
}

#[tokio::test]
async fn a_backup_or_an_export_whose_reader_is_gone_has_failed() {
    let group = Group::ready(1, &Plan::default().setting("replication_factor", "1")).await;
    group[0].client().put("default", b"k", "v".into(), &WriteOptions::default()).await.unwrap();
    for arguments in [["backup", "-"], ["export", "-"]] {
        let mut command = clean(Command::new(KITH));
        command.args(arguments).args(["--address", &group[0].http.to_string()]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(process.stdout.take());
        let ended = process.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {ended:?}");
        assert!(errors(&ended).contains("not whole"), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn factors_that_a_cluster_has_no_place_for_are_left_out_of_a_restore_which_says_so() {
    let plan = Plan::default().setting("replication_factor", "1");
    let own = |names: &[&str]| {
        let setting = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        let values = BTreeMap::from([setting("replication_factor", "1"), setting("write_level", "one")]);
        let collections = names.iter().map(|name| ((*name).to_owned(), values.clone())).collect();
        SettingsRequest { collections, ..SettingsRequest::default() }
    };
    let group = Group::ready(1, &plan).await;
    let client = group[0].client();
    client.change_settings(&own(&["c3", "more"]), false).await.unwrap();
    client.put("more", b"k", "v".into(), &WriteOptions::default()).await.unwrap();
    let file = group.directory.path().join("all.jsonl");
    assert!(group[0].kith(&["backup", path(&file)]).status.success());

    let other = Group::ready(1, &plan).await;
    let client = other[0].client();
    let names: Vec<String> = (0..14).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.change_settings(&own(&names), false).await.unwrap();
    let restored = other[0].kith(&["restore", path(&file)]);
    assert!(restored.status.success(), "{restored:?}");
    let told = errors(&restored);
    assert!(
        told.contains("the backup's replication_factor of more is 1") && told.contains("14 may"),
        "{told}"
    );
    assert!(!told.contains("of c3"), "it has its place: {told}");
    assert_eq!(contents(&other, 0, &["more"]).await.len(), 1);
    let settings = client.settings().await.unwrap();
    let more = settings.collections.iter().find(|row| row.collection == "more").unwrap();
    let values = more.entries.iter().filter_map(|entry| entry.value.as_deref());
    assert_eq!(values.collect::<Vec<_>>(), ["one"]);
}
