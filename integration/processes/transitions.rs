//! Members that leave or are removed, and changes of the replication factor and of zones, while clients work.

use crate::load::{Load, Model, check, import};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use kith::client::ClientError;
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::status::{Placement, State};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a member knows of no change that is under way, and then of so many copies of each partition.
async fn until_settled(member: &Member, copies: usize) -> Placement {
    until(&format!("nothing changes any more, says {}", member.name), PATIENCE, async || {
        let status = member.status().await?;
        if !status.transitions.is_empty() {
            return Err(format!("{:?}", status.transitions));
        }
        let placement = member.client().placement(None).await.map_err(|error| error.to_string())?;
        let fits = |row: &kith::node::handle::status::PlacementRow| {
            row.owners.len() == copies
                && row.owners.iter().all(|owner| owner.old && owner.new && owner.complete)
        };
        match placement.rows.iter().find(|row| !fits(row)) {
            Some(row) => Err(format!("{row:?}")),
            None => Ok(placement),
        }
    })
    .await
}

async fn all_have(members: &[&Member], model: &Model) {
    for member in members {
        check(member, Level::One, model).await.unwrap();
    }
}

async fn set(member: &Member, name: &str, value: &str) -> Result<(), ClientError> {
    let changes = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    member.client().change_settings(&changes).await.map(drop)
}

#[tokio::test]
async fn a_member_leaves_under_load_and_everything_is_with_the_others() {
    let group = Group::ready(3, &Plan::default().setting("replication_factor", "1")).await;
    let mut model = import(&group[0].client(), "before", 3_000).await;
    let clients: Vec<_> = group.members[..2].iter().map(|member| vec![member.http.to_string()]).collect();
    let load = Load::start(&clients);
    load.until_more(200).await;

    let left = group[2].kith(&["leave"]);
    assert!(left.status.success(), "{left:?}");
    assert!(told(&left).contains("leave of member3"), "it tells how far it is: {left:?}");
    assert!(String::from_utf8_lossy(&left.stdout).contains("empty data directory"), "{left:?}");
    load.until_more(200).await;
    assert_eq!(load.errors(), Vec::<String>::new());
    model.extend(load.stop().await);
    for member in &group.members[..2] {
        let placement = until_settled(member, 1).await;
        assert!(placement.rows.iter().all(|row| row.owners[0].name != "member3"));
        assert_eq!(member.client().cluster().await.unwrap().members.len(), 2);
    }
    assert_eq!(group[2].status().await.unwrap().state, State::Left);
    let again = group[2].kith(&["leave"]);
    assert!(again.status.success(), "it may be repeated: {again:?}");
    let refused = group[2].client().get(DEFAULT, b"before0", None).await;
    assert!(matches!(&refused, Err(ClientError::Refused { .. })), "{refused:?}");
    let cluster = group[2].client().cluster().await;
    assert!(matches!(&cluster, Err(ClientError::Refused { code, .. }) if code == "left"), "{cluster:?}");
    all_have(&[&group[0], &group[1]], &model).await;
}

#[tokio::test]
async fn a_member_that_left_stays_out_after_a_restart_and_joins_with_an_empty_directory() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 300).await;
    let left = group[1].kith(&["leave", "--json"]);
    assert!(left.status.success(), "{left:?}");
    let refused = group[0].kith(&["leave"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("no other active member"), "{refused:?}");
    group[1].kill();
    group[1].start();
    group[1].until_answering().await;
    until("it knows that it left", PATIENCE, async || {
        let status = group[1].status().await?;
        if status.state == State::Left { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    group[1].kill();
    std::fs::remove_dir_all(group[1].data()).unwrap();
    group[1].start();
    group.until_ready().await;
    until_settled(&group[1], 2).await;
    all_have(&[&group[0], &group[1]], &model).await;
}

#[tokio::test]
async fn a_member_that_leaves_says_who_is_out_of_reach_and_goes_when_that_one_was_removed() {
    let mut group = Group::ready(4, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 300).await;
    group.until_no_hints().await;
    group[3].kill();
    group[0].until_sees("member4", false, PATIENCE).await;
    let begun = group[2].kith(&["leave", "--no-wait"]);
    assert!(begun.status.success(), "{begun:?}");
    for member in &group.members[..3] {
        until("it tells for whom the leave may wait", PATIENCE, async || {
            let status = member.status().await?;
            let reasons: Vec<_> = status.transitions.into_iter().filter_map(|one| one.reason).collect();
            let names = |reason: &String| reason.contains("`member4`") && reason.contains("kith remove");
            if reasons.iter().any(names) { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await;
    }
    assert_eq!(group[2].status().await.unwrap().state, State::Ready, "it serves until it went");

    let removed = group[0].kith(&["remove", "member4"]);
    assert!(removed.status.success(), "{removed:?}");
    until("it left", PATIENCE, async || {
        let status = group[2].status().await?;
        if status.state == State::Left { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    for member in &group.members[..2] {
        until_settled(member, 2).await;
    }
    all_have(&[&group[0], &group[1]], &model).await;
}

#[tokio::test]
async fn a_dead_member_is_removed_by_a_majority_and_told_so_when_it_returns() {
    let mut group = Group::ready(4, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 1_000).await;
    group.until_no_hints().await;
    for (name, words) in [
        ("member3", &["alive", "kith leave"][..]),
        ("member1", &["itself", "kith leave"]),
        ("membr4", &["no member `membr4`", "`member4`"]),
    ] {
        let refused = group[0].kith(&["remove", name]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(words.iter().all(|word| told(&refused).contains(word)), "{refused:?}");
    }
    group[3].kill();
    group[0].until_sees("member4", false, PATIENCE).await;
    let removed = group[0].kith(&["remove", "member4"]);
    assert!(removed.status.success(), "{removed:?}");
    let again = group[0].kith(&["remove", "member4"]);
    assert!(again.status.success() && told(&again).contains("already"), "{again:?}");
    for member in &group.members[..3] {
        until_settled(member, 2).await;
    }
    all_have(&[&group[0], &group[1], &group[2]], &model).await;

    group[3].start();
    group[3].until_answering().await;
    let status = until("it learns that it was removed", PATIENCE, async || {
        let status = group[3].status().await?;
        if status.state == State::Removed { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(
        status.warnings.iter().any(|text| text.contains("empty data directory")),
        "{:?}",
        status.warnings
    );
    group[3].client().get(DEFAULT, b"before0", None).await.unwrap_err();
}

#[tokio::test]
async fn without_a_majority_or_with_the_last_copy_at_stake_a_member_is_removed_only_by_force() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 200).await;
    group.until_no_hints().await;
    group[1].kill();
    group[0].until_sees("member2", false, PATIENCE).await;
    let refused = group[0].kith(&["remove", "member2"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("1 of 2 members") && told(&refused).contains("--force"), "{refused:?}");
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), 2, "nothing was changed");
    let forced = group[0].kith(&["remove", "member2", "--force"]);
    assert!(forced.status.success() && told(&forced).contains("warning"), "{forced:?}");
    until_settled(&group[0], 1).await;
    all_have(&[&group[0]], &model).await;

    let mut group = Group::ready(3, &Plan::default().setting("replication_factor", "1")).await;
    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    let refused = group[0].kith(&["remove", "member3"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("would be lost"), "{refused:?}");
    let forced = group[0].kith(&["remove", "member3", "--force"]);
    assert!(forced.status.success() && told(&forced).contains("is lost"), "{forced:?}");
    until_settled(&group[0], 1).await;
}

#[tokio::test]
async fn a_replication_factor_goes_up_and_down_under_load() {
    let group = Group::ready(3, &Plan::default().setting("replication_factor", "1")).await;
    let mut model = import(&group[0].client(), "before", 2_000).await;
    let clients: Vec<_> = group.members.iter().map(|member| vec![member.http.to_string()]).collect();
    let load = Load::start(&clients);
    load.until_more(200).await;
    for copies in ["3", "2"] {
        let changed = group[0].kith(&["settings", "set", &format!("replication_factor={copies}")]);
        assert!(changed.status.success(), "{changed:?}");
        for member in &group.members {
            until_settled(member, copies.parse().unwrap()).await;
        }
        load.until_more(200).await;
    }
    assert_eq!(load.errors(), Vec::<String>::new());
    model.extend(load.stop().await);
    all_have(&[&group[0], &group[1], &group[2]], &model).await;
}

#[tokio::test]
async fn settings_that_can_not_be_are_refused_as_a_whole_with_every_reason() {
    let group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let member = &group[0];
    let before = member.client().settings().await.unwrap();
    for (name, value, word) in [
        ("replication_factor", "3", "2 members"),
        ("replication_factor", "0", "from 1 to"),
        ("replication_factr", "1", "`replication_factor`"),
        ("replication_factor_in_force", "1", "kept by kith"),
        ("write_level", "some", "quorum"),
    ] {
        let refused = set(member, name, value).await;
        let Err(ClientError::Refused { status, code, message }) = refused else { panic!("{refused:?}") };
        assert_eq!((status, code.as_str()), (400, "invalid_settings"));
        assert!(message.contains(word), "{message}");
    }
    let refused = member.kith(&["settings", "set", "write_level=all", "write_timeout=0s", "nothing=1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(["write_timeout", "nothing"].iter().all(|name| told(&refused).contains(name)), "{refused:?}");
    assert_eq!(member.client().settings().await.unwrap(), before, "nothing was changed");

    set(member, "write_level", "quorum").await.unwrap();
    until("the other member has it", PATIENCE, async || {
        let settings = group[1].client().settings().await.map_err(|error| error.to_string())?;
        let level = settings.entries.into_iter().find(|entry| entry.name == "write_level").unwrap();
        if level.value == "quorum" { Ok(()) } else { Err(level.value) }
    })
    .await;
}

#[tokio::test]
async fn a_zone_that_is_changed_in_a_members_file_takes_effect_after_its_next_start() {
    let plan = Plan { zone: "a".to_owned(), ..Plan::default().setting("replication_factor", "2") };
    let mut group = Group::ready(3, &plan).await;
    let model = import(&group[0].client(), "before", 1_000).await;
    group.until_no_hints().await;
    group[2].kill();
    group[2].plan.zone = "b".to_owned();
    group[2].write_config();
    group[2].start();
    group.until_ready().await;
    for member in &group.members {
        until("every partition has a copy in the new zone", PATIENCE, async || {
            let placement = until_settled(member, 2).await;
            let owners = |row: &kith::node::handle::status::PlacementRow| {
                row.owners.iter().map(|owner| owner.name.clone()).collect::<BTreeSet<_>>()
            };
            let lacks = placement.rows.iter().find(|row| !owners(row).contains("member3"));
            lacks.map_or(Ok(()), |row| Err(format!("{row:?}")))
        })
        .await;
        let cluster = member.client().cluster().await.unwrap();
        let zone =
            |row: &kith::node::handle::status::MemberRow| (row.name.clone(), row.zone.clone().unwrap());
        let zones: BTreeMap<_, _> = cluster.members.iter().map(zone).collect();
        assert_eq!(zones["member3"], "b");
    }
    all_have(&[&group[0], &group[1], &group[2]], &model).await;
}
