//! What clusters live through: members that stop, come late, are cut off, lose their disk.

use crate::load::{check, import, import_copies, until_everywhere};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::wires::{Cut, Wires};
use kith::client::{ClientError, ListingQuery, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::documents::Entry;
use kith::node::handle::status::{InitRequest, Standing, State};
use std::fs;

/// What a member lists, and where it says that everything is.
async fn layout(member: &Member) -> Result<(Vec<Entry>, String), String> {
    let query = ListingQuery { limit: 10_000, ..ListingQuery::default() };
    let listed = member.client().list(DEFAULT, &query).await.map_err(|error| error.to_string())?;
    let placed = member.client().placement(None).await.map_err(|error| error.to_string())?;
    Ok((listed.entries, placed.digest))
}

async fn until_layouts_are_equal(members: &[Member]) {
    until("all members hold the same and place it alike", PATIENCE, async || {
        let first = layout(&members[0]).await?;
        for member in &members[1..] {
            let other = layout(member).await?;
            if other != first {
                let (these, those) = (first.0.len(), other.0.len());
                let digests = (&first.1, &other.1);
                return Err(format!("{} lists {those}, the first {these}, {digests:?}", member.name));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_was_down_during_inserts_updates_and_deletes_has_them_all_when_it_is_back() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let mut model = import(&group[0].client(), "before", 300).await;
    // It stops by itself this time, and the others need not find out.
    assert!(group[2].stop().await.success());
    let client = group[1].client();
    model.extend(import(&client, "inserted", 100).await);
    for number in 0..50 {
        let updated = format!("before/{number:06}");
        client.put(DEFAULT, updated.as_bytes(), "updated".into(), &WriteOptions::default()).await.unwrap();
        model.insert(updated, vec![Some("updated".to_owned())]);
        let deleted = format!("before/{:06}", 100 + number);
        client.delete(DEFAULT, deleted.as_bytes(), &WriteOptions::default()).await.unwrap();
        model.insert(deleted, vec![None]);
    }
    group.start();
    group.until_ready().await;
    check(&group[2], Level::One, &model).await.unwrap();
    until_layouts_are_equal(&group.members).await;
}

#[tokio::test]
async fn of_two_members_one_stops_by_itself_and_comes_back_to_what_was_written_meanwhile() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let mut model = import(&group[1].client(), "together", 200).await;
    let incarnation = group[1].status().await.unwrap().incarnation;
    for round in 0..2 {
        assert!(group[1].stop().await.success());
        group[0].until_sees("member2", false, PATIENCE).await;
        model.extend(import(&group[0].client(), &format!("alone{round}"), 200).await);
        group.start();
        group.until_ready().await;
        check(&group[1], Level::One, &model).await.unwrap();
    }
    let cluster = group[0].client().cluster().await.unwrap();
    assert_eq!(cluster.members.len(), 2, "it is the member that it was: {cluster:?}");
    assert_eq!(group[1].status().await.unwrap().incarnation, incarnation + 2);
    until_layouts_are_equal(&group.members).await;
}

#[tokio::test]
async fn a_member_that_was_away_while_others_came_and_went_and_settings_and_data_changed_catches_up() {
    let mut group = Group::ready(4, &Plan::default()).await;
    let mut model = import(&group[0].client(), "before", 300).await;
    group.until_no_hints().await;
    group[3].kill();
    group[0].until_sees("member4", false, PATIENCE).await;

    let seed = group[0].peers;
    let fifth = group.add("member5", Plan::default().seeds([seed]));
    group[fifth].start();
    group.until_ready().await;
    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    // Three of five live.
    let removed = group[0].kith(&["remove", "member3"]);
    assert!(removed.status.success(), "{removed:?}");
    drop(group.members.remove(2));
    let changed = group[0].kith(&["settings", "set", "max_value_bytes=2MiB"]);
    assert!(changed.status.success(), "{changed:?}");
    let client = group[1].client();
    model.extend(import(&client, "inserted", 100).await);
    for number in 0..50 {
        let updated = format!("before/{number:06}");
        client.put(DEFAULT, updated.as_bytes(), "updated".into(), &WriteOptions::default()).await.unwrap();
        model.insert(updated, vec![Some("updated".to_owned())]);
        let deleted = format!("before/{:06}", 100 + number);
        client.delete(DEFAULT, deleted.as_bytes(), &WriteOptions::default()).await.unwrap();
        model.insert(deleted, vec![None]);
    }

    let stale = 2;
    group[stale].start();
    group.until_ready().await;
    let cluster = group[stale].client().cluster().await.unwrap();
    let names: Vec<&str> = cluster.members.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["member1", "member2", "member4", "member5"]);
    let settings = group[stale].client().settings().await.unwrap().entries;
    let limit = settings.into_iter().find(|setting| setting.name == "max_value_bytes").unwrap();
    assert_eq!(limit.value, "2MiB");
    check(&group[stale], Level::One, &model).await.unwrap();
    until_layouts_are_equal(&group.members).await;
}

#[tokio::test]
async fn a_member_that_joins_one_side_of_a_cut_of_five_takes_its_part_when_the_cut_heals() {
    let mut group = Group::empty().await;
    group.add_together(5, &Plan::default());
    let seed = group[0].peers;
    let sixth = group.add("member6", Plan::default().seeds([seed]));
    let wires = Wires::between(&mut group).await;
    group.members[..sixth].iter_mut().for_each(Member::start);
    wires.learn(&group);
    group.until_ready().await;
    let mut model = import(&group[0].client(), "before", 500).await;

    wires.cut(Cut::Silent, &["member4", "member5"]);
    for (here, there) in [(0, "member4"), (0, "member5"), (3, "member1"), (3, "member2"), (3, "member3")] {
        group[here].until_sees(there, false, PATIENCE).await;
    }
    group[sixth].start();
    wires.learn(&group);
    let standing = async |member: &Member| {
        let cluster = member.client().cluster().await.map_err(|error| error.to_string())?;
        let row = cluster.members.iter().find(|row| row.name == "member6").cloned();
        row.map(|row| row.standing).ok_or_else(|| format!("{cluster:?}"))
    };
    for index in [0, 1, 2] {
        until("the larger side has let it in", PATIENCE, async || standing(&group[index]).await).await;
    }
    // What both missing members own can't be vouched for, so it can't be active yet.
    assert_eq!(standing(&group[0]).await, Ok(Standing::Joining));
    model.extend(import(&group[0].client(), "larger side", 200).await);
    model.extend(import(&group[4].client(), "smaller side", 200).await);
    assert!(standing(&group[4]).await.is_err(), "the smaller side can't know of it");

    wires.heal();
    group.until_ready().await;
    until("the sixth owns its share", PATIENCE, async || {
        let cluster = group[4].client().cluster().await.map_err(|error| error.to_string())?;
        let owns = |name: &str| cluster.members.iter().any(|row| row.name == name && row.partitions > 0);
        if owns("member6") { Ok(()) } else { Err(format!("{cluster:?}")) }
    })
    .await;
    group.until_no_hints().await;
    until_everywhere(&group.members, &model).await;
    until_layouts_are_equal(&group.members).await;
}

#[tokio::test]
async fn members_that_miss_one_create_no_cluster_until_a_person_says_so_and_it_joins_when_it_comes() {
    let mut group = Group::empty().await;
    group.add_together(3, &Plan::default());
    let missing = group[2].peers.to_string();
    group[0].start();
    group[1].start();
    for index in [0, 1] {
        until("it waits for the missing one only", PATIENCE, async || {
            let told = group[index].client().ready().await.unwrap_err().to_string();
            let others = group[1 - index].peers.to_string();
            if told.contains(&missing) && !told.contains(&others) { Ok(()) } else { Err(told) }
        })
        .await;
    }
    for index in [0, 1] {
        assert_eq!(group[index].status().await.unwrap().state, State::NoCluster);
        let refused = group[index].client().put(DEFAULT, b"k", "v".into(), &WriteOptions::default()).await;
        let Err(ClientError::Refused { status, code, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!((status, code.as_str()), (409, "no_cluster"));
    }

    let id = group[1].client().init(&InitRequest::default()).await.unwrap().id;
    group.until_ready().await;
    let model = import(&group[0].client(), "without it", 100).await;
    group.start();
    group.until_ready().await;
    for member in &group.members {
        assert_eq!(member.client().cluster().await.unwrap().id, id);
    }
    until_everywhere(&group.members, &model).await;
}

#[tokio::test]
async fn a_member_that_lost_its_disk_while_the_others_are_down_waits_and_makes_no_second_cluster() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let model = import(&group[0].client(), "before", 200).await;
    let id = group[0].client().cluster().await.unwrap().id;
    group.members.iter_mut().for_each(Member::kill);
    fs::remove_dir_all(group[1].data()).unwrap();
    group[1].start();
    until("it waits for the others", PATIENCE, async || {
        let told = group[1].client().ready().await.unwrap_err().to_string();
        let named = [0, 2].iter().all(|other| told.contains(&group[*other].peers.to_string()));
        if told.contains("waiting for seeds") && named { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(group[1].status().await.unwrap().state, State::NoCluster);

    group.start();
    // Its name belongs to the member that it was, of which nothing is left.
    group[1].until_refusal(&["`member2`", "choose another `name`"]).await;
    group[0].until_ready().await;
    group[2].until_ready().await;
    for index in [0, 2] {
        check(&group[index], Level::Quorum, &model).await.unwrap();
    }
    assert!(group[1].stop().await.success());
    group[1].name = "another".to_owned();
    group[1].write_config();
    group[1].start();
    for index in [0, 2] {
        group[index].until_sees("another", true, PATIENCE).await;
        assert_eq!(group[index].client().cluster().await.unwrap().id, id);
    }
}

#[tokio::test]
async fn what_was_acknowledged_while_all_owners_lived_is_readable_when_one_of_them_is_lost_for_good() {
    // Within this time an owner that lives answers also on a busy machine; of one that does not, nothing is promised.
    let mut group = Group::ready(3, &Plan::default().setting("write_timeout", "1m")).await;
    let (model, fewest) = import_copies(&group[0].client(), "lost", 500).await;
    assert!(fewest >= 2, "a write was acknowledged with {fewest} copies though all owners live");
    // The last answer has just come; then the member is gone, and its disk.
    group[0].kill();
    fs::remove_dir_all(group[0].data()).unwrap();
    for member in &group.members[1..] {
        let what = format!("{} has every acknowledged write", member.name);
        until(&what, PATIENCE, async || check(member, Level::Quorum, &model).await).await;
    }
}
