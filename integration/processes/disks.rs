//! Disks that are full, or slow.

use crate::load::{Load, Model, check, import, until_everywhere};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::slow_disk::SlowDisk;
use crate::tmpfs::Tmpfs;
use kith::client::{ClientError, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;

/// Of a disk with room enough.
const ROOM_MIB: u32 = 128;
/// Of one that is soon full: kith leaves 16 MiB free for its checkpoints.
const TIGHT_MIB: u32 = 24;
/// Of a value with which the disk is filled.
const VALUE_BYTES: usize = 64 << 10;

async fn until_accepts_writes(member: &Member, accepts: bool) {
    until(&format!("{} accepts writes: {accepts}", member.name), PATIENCE, async || {
        let storage = member.status().await?.storage;
        let metric = member.metric("kith_accepts_writes").await?;
        let told = storage.accepts_writes == accepts && (metric > 0.5) == accepts;
        if told { Ok(()) } else { Err(format!("{storage:?}, kith_accepts_writes {metric}")) }
    })
    .await;
}

/// Stores large values through a member until another one's disk is full; all are acknowledged.
async fn fill(front: &Member, other: &Member, value: &str, model: &mut Model) {
    for number in 0.. {
        if !other.status().await.unwrap().storage.accepts_writes {
            return;
        }
        let (key, value) = (format!("large/{number:04}"), format!("{number} {value}"));
        let options = WriteOptions::default();
        front.client().put(DEFAULT, key.as_bytes(), value.clone().into(), &options).await.unwrap();
        model.insert(key, vec![Some(value)]);
    }
}

#[tokio::test]
async fn a_member_whose_disk_is_full_reads_and_stays_alive_and_takes_writes_again_when_there_is_room() {
    let mut group = Group::empty().await;
    let Some(disk) = Tmpfs::mount(&group.directory.path().join("member3"), ROOM_MIB) else { return };
    group.add_together(3, &Plan::default());
    group.start();
    group.until_ready().await;
    let before = import(&group[0].client(), "before", 500).await;
    let mut model = before.clone();
    let addresses: Vec<String> = group.members.iter().map(|member| member.http.to_string()).collect();
    let load = Load::start(&[addresses[..1].to_vec(), addresses[1..2].to_vec()]);
    load.until_more(100).await;
    disk.resize(TIGHT_MIB);
    fill(&group[0], &group[2], &"x".repeat(VALUE_BYTES), &mut model).await;

    until_accepts_writes(&group[2], false).await;
    // The others go on, and nobody takes it for dead.
    load.until_more(500).await;
    for index in [0, 1] {
        group[index].until_sees("member3", true, PATIENCE).await;
    }
    let status = group[2].status().await.unwrap();
    assert!(status.storage.problems.iter().any(|problem| problem.contains("full")), "{status:?}");
    let client = group[2].client();
    client.live().await.unwrap();
    // It reads what it has, and what it has not it finds at the others; these are many large values.
    check(&group[2], Level::One, &before).await.unwrap();
    let at_others = "a full member finds every acknowledged write at the others";
    until(at_others, PATIENCE, async || check(&group[2], Level::Quorum, &model).await).await;
    // Writes through it are refused with the reason, or taken by another owner.
    for number in 0..20 {
        let key = format!("through a full member/{number}");
        match client.put(DEFAULT, key.as_bytes(), "value".into(), &WriteOptions::default()).await {
            Ok(stored) => {
                assert!(stored.copies >= 1, "{stored:?}");
                model.insert(key, vec![Some("value".to_owned())]);
            }
            Err(ClientError::Refused { status: 507, code, message }) => {
                assert!(code == "storage" && message.contains("full"), "{code} {message}");
                model.insert(key, vec![None]);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(load.errors(), Vec::<String>::new());

    disk.resize(ROOM_MIB);
    until_accepts_writes(&group[2], true).await;
    load.until_more(500).await;
    assert_eq!(load.errors(), Vec::<String>::new());
    model.extend(load.stop().await);
    group.until_ready().await;
    group.until_no_hints().await;
    until_everywhere(&group.members, &model).await;
    let all = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let stored = group[2].client().put(DEFAULT, b"after", "value".into(), &all).await.unwrap();
    assert_eq!(stored.copies, 3);
}

#[tokio::test]
async fn a_member_that_is_killed_on_a_disk_without_any_room_starts_when_there_is_room_and_lacks_nothing() {
    let mut group = Group::empty().await;
    let Some(disk) = Tmpfs::mount(&group.directory.path().join("member2"), ROOM_MIB) else { return };
    group.add_together(2, &Plan::default().setting("replication_factor", "2"));
    group.start();
    group.until_ready().await;
    let mut model = import(&group[1].client(), "before", 500).await;
    disk.fill();
    // The journal has some room of its own; then the disk is in the way.
    fill(&group[0], &group[1], &"x".repeat(VALUE_BYTES), &mut model).await;
    group[1].kill();
    group[1].start();
    let ended = group[1].ended(PATIENCE).await;
    assert_eq!(ended.code(), Some(1), "{ended}");
    let said = group[1].log();
    assert!(said.lines().last().is_some_and(|line| line.contains("disk is full")), "{said}");
    model.extend(import(&group[0].client(), "meanwhile", 500).await);

    disk.empty();
    group.start();
    group.until_ready().await;
    group.until_no_hints().await;
    until_everywhere(&group.members, &model).await;
}

#[tokio::test]
async fn a_member_whose_disk_is_slow_reads_and_stays_alive_holds_up_nobody_and_takes_what_it_missed() {
    let mut group = Group::empty().await;
    let disk = SlowDisk::build(group.directory.path());
    group.add_together(3, &Plan::default());
    group.members[2].plan.environment = disk.environment();
    group.start();
    group.until_ready().await;
    let mut model = import(&group[0].client(), "before", 300).await;
    disk.slow_down();

    let slow = group[2].client();
    let options = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let mut write = std::pin::pin!(slow.put(DEFAULT, b"slow", "v".into(), &options));
    tokio::select! {
        biased;
        written = &mut write => panic!("the disk is not slow: {written:?}"),
        checked = check(&group[2], Level::One, &model) => checked.unwrap(),
    }
    let unknown = write.await;
    assert!(matches!(&unknown, Err(ClientError::Unknown { .. })), "{unknown:?}");

    let addresses: Vec<String> = group.members[..2].iter().map(|member| member.http.to_string()).collect();
    let load = Load::start(&[addresses[..1].to_vec(), addresses[1..].to_vec()]);
    load.until_more(500).await;
    for member in &group.members[..2] {
        member.until_sees("member3", true, PATIENCE).await;
    }
    assert_eq!(load.errors(), Vec::<String>::new());
    model.extend(load.stop().await);

    disk.recover();
    until_everywhere(&group.members, &model).await;
}
