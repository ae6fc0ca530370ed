//! Backups: a whole cluster in one file, and another cluster out of it.

use crate::members::{Group, Plan};
use kith::client::{ListingQuery, WriteOptions};
use kith::node::handle::settings::SettingsRequest;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

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
    let lasting = WriteOptions { ttl: Some(Duration::from_secs(3_600)), ..WriteOptions::default() };
    client.put("a", b"lasting", "l".into(), &lasting).await.unwrap();
    client.increment("counters", b"visits", 42, &options).await.unwrap();
    client.put("gone", b"k", "v".into(), &options).await.unwrap();
    client.delete("gone", b"k", &options).await.unwrap();
    let request = SettingsRequest {
        settings: BTreeMap::from([("write_timeout".to_owned(), Some("2s".to_owned()))]),
        collections: BTreeMap::from([(
            "a".to_owned(),
            BTreeMap::from([("write_level".to_owned(), Some("quorum".to_owned()))]),
        )]),
    };
    client.change_settings(&request, false).await.unwrap();
    let names = ["default", "shop.users", "a", "counters", "gone"];
    let before = contents(&group, 1, &names).await;
    assert_eq!(before.len(), 402);

    let file = group.directory.path().join("all.jsonl");
    let made = group[2].kith(&["backup", path(&file)]);
    assert!(made.status.success(), "{made:?}");
    assert!(String::from_utf8_lossy(&made.stdout).contains("402 records"), "{made:?}");

    let other = Group::ready(1, &Plan::default().setting("replication_factor", "1")).await;
    let restored = other[0].kith(&["restore", path(&file)]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(contents(&other, 0, &names).await, before);
    let client = other[0].client();
    let ttl = client.get("a", b"lasting", None).await.unwrap().unwrap().ttl.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&ttl), "{ttl}");
    assert_eq!(client.increment("counters", b"visits", 1, &options).await.unwrap().number, 43);
    let settings = client.settings().await.unwrap();
    let value = |name: &str| settings.entries.iter().find(|row| row.name == name).unwrap().value.clone();
    assert_eq!((value("write_timeout").as_str(), value("replication_factor").as_str()), ("2s", "1"));
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
