//! What disks do to the files of members: bits that flip, files that are gone.

use crate::load::{Model, check, import};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use kith::client::WriteOptions;
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Values that fill the smallest journal there may be.
const LARGE: usize = 36;
const LARGE_BYTES: usize = 512 << 10;

fn large_key(number: usize) -> Vec<u8> {
    format!("large/{number:02}").into_bytes()
}

fn large_value(number: usize) -> Vec<u8> {
    (0..LARGE_BYTES).map(|at| u8::try_from((at * 7 + number) % 251).unwrap()).collect()
}

/// Where the segments of a journal ended.
type Ends = BTreeMap<PathBuf, usize>;

/// Three members with records in their stores and others in their journals; where those of the last member
/// ended meanwhile.
async fn filled() -> (Group, Model, Ends) {
    let group = Group::ready(3, &Plan { journal_bytes: Some("16MiB"), ..Plan::default() }).await;
    let client = group[0].client();
    let mut model = import(&client, "stored", 1_000).await;
    for number in 0..LARGE {
        let value = large_value(number).into();
        client.put(DEFAULT, &large_key(number), value, &WriteOptions::default()).await.unwrap();
    }
    until("the store of the last member has records", PATIENCE, async || {
        match group[2].metric("kith_checkpoints_total").await? {
            0.0 => Err("no checkpoint".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let journal = group[2].status().await.unwrap().storage.journal_bytes;
    assert!(
        journal < (LARGE * LARGE_BYTES) as u64,
        "a start would replay {journal} bytes behind a checkpoint"
    );
    model.extend(import(&client, "journal", 500).await);
    group.until_no_hints().await;
    let ends = ends_of_journal(&group[2]);
    model.extend(import(&client, "later", 500).await);
    group.until_no_hints().await;
    (group, model, ends)
}

fn store(member: &Member) -> PathBuf {
    member.data().join("records.redb")
}

fn segments(member: &Member) -> Vec<PathBuf> {
    let files = fs::read_dir(member.data()).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("journal-") && name.ends_with(".log")
    };
    let mut segments: Vec<_> = files.filter(is_segment).collect();
    segments.sort();
    segments
}

/// Where each segment ends: zeros are written ahead of what is appended.
fn ends_of_journal(member: &Member) -> Ends {
    let end = |path: &PathBuf| {
        let content = fs::read(path).unwrap();
        content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    };
    segments(member).into_iter().map(|path| (path.clone(), end(&path))).collect()
}

/// Flips a bit in every so many bytes.
fn flip_bits(path: &PathBuf, every: usize) {
    let mut content = fs::read(path).unwrap();
    assert!(content.len() > every, "{} has {} bytes only", path.display(), content.len());
    for byte in content.iter_mut().skip(every / 2).step_by(every) {
        *byte ^= 4;
    }
    fs::write(path, content).unwrap();
}

/// The last member is stopped, its files are damaged, and it is started. It must say so in these words,
/// hold everything again, and keep what was damaged if anything was.
async fn rebuilds(damage: impl FnOnce(&Member, &Ends), words: &[&str], aside: Option<&str>) {
    let (mut group, model, ends) = filled().await;
    assert!(group[2].stop().await.success());
    damage(&group[2], &ends);
    group.start();
    group[2].until_ready().await;
    let warnings = group[2].status().await.unwrap().warnings.join("\n");
    assert!(words.iter().all(|word| warnings.contains(word)), "{warnings}");
    until("its metrics tell, too", PATIENCE, async || {
        let problems = group[2].metric("kith_storage_problems").await?;
        if problems >= 1.0 { Ok(()) } else { Err(problems.to_string()) }
    })
    .await;
    assert!(words.iter().all(|word| group[2].log().contains(word)));
    if let Some(aside) = aside {
        let names = fs::read_dir(group[2].data()).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        assert!(
            names.iter().any(|name| name.contains(aside) && warnings.contains(name.as_str())),
            "{names:?}"
        );
    }
    until("it is a complete owner of all that it owns", PATIENCE, async || {
        let owned = group[2].metric("kith_owned_partitions").await?;
        let complete = group[2].metric("kith_complete_partitions").await?;
        if owned > 0.0 && complete >= owned { Ok(()) } else { Err(format!("{complete} of {owned}")) }
    })
    .await;
    // Nobody else is there to answer for it.
    group[0].kill();
    group[1].kill();
    until("it has all that was acknowledged", PATIENCE, async || check(&group[2], Level::One, &model).await)
        .await;
    let client = group[2].client();
    for number in 0..LARGE {
        let found = client.get(DEFAULT, &large_key(number), Some(Level::One)).await.unwrap().unwrap();
        assert!(found.value == large_value(number), "value {number}");
    }
}

#[tokio::test]
async fn a_store_with_flipped_bits_is_rebuilt_from_the_others() {
    rebuilds(
        |member, _| flip_bits(&store(member), 100_000),
        &["records.redb", "set aside"],
        Some("redb.damaged-"),
    )
    .await;
}

#[tokio::test]
async fn a_store_that_is_no_store_any_more_is_rebuilt_from_the_others() {
    let damage = |member: &Member, _: &Ends| fs::write(store(member), vec![b'x'; 70_000]).unwrap();
    rebuilds(damage, &["records.redb", "set aside"], Some("redb.damaged-")).await;
}

#[tokio::test]
async fn a_store_that_is_gone_is_rebuilt_from_the_others() {
    rebuilds(|member, _| fs::remove_file(store(member)).unwrap(), &["record store is gone"], None).await;
}

#[tokio::test]
async fn a_journal_with_flipped_bits_is_rebuilt_from_the_others() {
    let damage = |member: &Member, _: &Ends| {
        // The last one may be too young to hold anything. What follows the bit shows that it is no torn end.
        let largest = segments(member).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
        let largest = largest.unwrap();
        let mut content = fs::read(&largest).unwrap();
        let at = content.len() / 16;
        content[at] ^= 4;
        fs::write(largest, content).unwrap();
    };
    rebuilds(damage, &["journal", "set aside"], Some(".damaged-")).await;
}

#[tokio::test]
async fn a_journal_that_is_gone_is_rebuilt_from_the_others() {
    let damage = |member: &Member, _: &Ends| {
        for segment in segments(member) {
            fs::remove_file(segment).unwrap();
        }
    };
    rebuilds(damage, &["journal", "gone"], None).await;
}

#[tokio::test]
async fn a_journal_of_which_the_disk_kept_less_than_it_said_is_found_out_by_the_others_and_rebuilt() {
    let damage = |member: &Member, ends: &Ends| {
        let mut lost = 0;
        for segment in segments(member) {
            let mut content = fs::read(&segment).unwrap();
            let kept = content.iter_mut().skip(ends.get(&segment).copied().unwrap_or(0));
            lost += kept.map(std::mem::take).filter(|byte| *byte != 0).count();
            fs::write(&segment, content).unwrap();
        }
        assert!(lost > 10_000, "the later records are in the journal: {lost}");
    };
    rebuilds(damage, &["the disk lost what it had said to have synced"], None).await;
}

#[tokio::test]
async fn an_ordinary_crash_is_no_damage_and_is_told_until_all_is_compared() {
    let mut group = Group::ready(2, &Plan::default()).await;
    let model = import(&group[0].client(), "before", 200).await;
    group.until_no_hints().await;
    group[1].kill();
    // The beginning of a write that nobody was told of.
    let (segment, end) = ends_of_journal(&group[1]).into_iter().max_by_key(|(_, end)| *end).unwrap();
    let mut content = fs::read(&segment).unwrap();
    content.truncate(end);
    content.extend([7; 100]);
    fs::write(&segment, content).unwrap();

    group.start();
    group[1].until_ready().await;
    assert!(group[1].log().contains("the journal's end was cut off"), "{}", group[1].log());
    until("all is compared, and nothing is told any more", PATIENCE, async || {
        let warnings = group[1].status().await?.warnings;
        if warnings.is_empty() { Ok(()) } else { Err(warnings.join("; ")) }
    })
    .await;
    until("its metrics are those of now", PATIENCE, async || {
        let owned = group[1].metric("kith_owned_partitions").await?;
        let complete = group[1].metric("kith_complete_partitions").await?;
        if owned > 0.0 && complete >= owned { Ok(()) } else { Err(format!("{complete} of {owned}")) }
    })
    .await;
    assert!(group[1].metric("kith_storage_problems").await.unwrap() < 1.0);
    check(&group[1], Level::One, &model).await.unwrap();
}
