//! Members that leave or are removed, and changes of the replication factor and of zones, while clients work.

use crate::load::{Load, Model, check, import};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::wires::{Cut, Wires};
use kith::client::{ClientError, ListingQuery, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::documents::Entry;
use kith::node::handle::settings::SettingsRequest;
use kith::node::handle::status::{Placement, Removed, State, Status};
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
    let settings = BTreeMap::from([(name.to_owned(), Some(value.to_owned()))]);
    let request = SettingsRequest { settings, ..SettingsRequest::default() };
    member.client().change_settings(&request, false).await.map(drop)
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

/// Ends a member's process, empties its directory, and starts it.
async fn start_empty(member: &mut Member) {
    member.kill();
    std::fs::remove_dir_all(member.data()).unwrap();
    member.start();
}

async fn until_state(member: &Member, state: State) -> Status {
    until(&format!("{} is {state}", member.name), PATIENCE, async || {
        let status = member.status().await?;
        if status.state == state { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// Whoever asks a member that is in its cluster no more for anything is told why it gets nothing.
async fn is_turned_away(member: &Member, code: &str, words: &str) {
    let client = member.client();
    until(&format!("{} turns clients away", member.name), PATIENCE, async || {
        match client.get(DEFAULT, b"key", None).await {
            Err(ClientError::Refused { code: told, .. }) if told == code => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let query = ListingQuery { limit: 10, ..ListingQuery::default() };
    for refused in [
        client.get(DEFAULT, b"key", Some(Level::Quorum)).await.map(drop),
        client.put(DEFAULT, b"key", "value".into(), &WriteOptions::default()).await.map(drop),
        client.delete(DEFAULT, b"key", &WriteOptions::default()).await.map(drop),
        client.list(DEFAULT, &query).await.map(drop),
        client.cluster().await.map(drop),
        client.settings().await.map(drop),
    ] {
        let Err(ClientError::Refused { status, code: told, message }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((status, told.as_str()), (409, code), "{message}");
        assert!(message.contains(words), "{message}");
    }
    client.ready().await.unwrap_err();
    let get = member.kith(&["get", "key"]);
    assert!(get.status.code() == Some(1) && told(&get).contains(words), "{get:?}");
}

/// What a member itself holds, as `kith export` writes it.
fn exported(member: &Member) -> BTreeMap<String, String> {
    let export = member.kith(&["export"]);
    assert!(export.status.success(), "{export:?}");
    assert!(told(&export).contains("in its cluster no more"), "{export:?}");
    let lines = String::from_utf8(export.stdout).unwrap();
    let entries = lines.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap());
    entries.map(|entry| (entry.key.unwrap(), entry.value.unwrap())).collect()
}

#[tokio::test]
async fn of_two_members_one_leaves_by_itself_comes_back_and_is_removed_by_the_other() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 300).await;
    let id = group[1].status().await.unwrap().id;
    let left = group[1].kith(&["leave", "--json"]);
    assert!(left.status.success(), "{left:?}");
    until_settled(&group[0], 1).await;
    let refused = group[0].kith(&["leave", "--no-wait"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("no other active member"), "{refused:?}");
    is_turned_away(&group[1], "left", "left").await;
    group[1].kill();
    group[1].start();
    group[1].until_answering().await;
    until_state(&group[1], State::Left).await;
    is_turned_away(&group[1], "left", "left").await;
    exported(&group[1]);

    start_empty(&mut group[1]).await;
    group.until_ready().await;
    assert_ne!(group[1].status().await.unwrap().id, id, "it is a new member");
    until_settled(&group[1], 2).await;
    all_have(&[&group[0], &group[1]], &model).await;

    // Alone it is no majority of two.
    group[1].kill();
    group[0].until_sees("member2", false, PATIENCE).await;
    let refused = group[0].kith(&["remove", "member2"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("1 of 2 members") && told(&refused).contains("--force"), "{refused:?}");
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), 2, "nothing was changed");
    let forced = group[0].kith(&["remove", "member2", "--force"]);
    let warned = told(&forced).contains("warning: only 1 of 2 members were heard");
    assert!(forced.status.success() && warned, "{forced:?}");
    until_settled(&group[0], 1).await;
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), 1);
    all_have(&[&group[0]], &model).await;
}

#[tokio::test]
async fn a_dead_member_is_removed_by_a_majority_told_so_when_it_returns_and_rejoins_as_a_new_one() {
    let mut group = Group::ready(4, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 1_000).await;
    group.until_no_hints().await;
    for (name, words) in [
        ("member3", &["alive", "kith leave", "--force"][..]),
        ("member1", &["itself", "kith leave"]),
        ("membr4", &["no member `membr4`", "`member4`"]),
    ] {
        let refused = group[0].kith(&["remove", name]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(words.iter().all(|word| told(&refused).contains(word)), "{refused:?}");
    }
    let id = group[3].status().await.unwrap().id;
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

    // It returns, and once more.
    for _ in 0..2 {
        group[3].start();
        group[3].until_answering().await;
        let status = until_state(&group[3], State::Removed).await;
        let says = |words: &str| status.warnings.iter().any(|text| text.contains(words));
        assert!(says("empty data directory") && says("kith export"), "{:?}", status.warnings);
        is_turned_away(&group[3], "removed", "was removed").await;
        // What it held can still be read.
        let held = exported(&group[3]);
        assert!(held.len() > 100, "it owned its share, and has {} records", held.len());
        assert!(held.iter().all(|(key, value)| model[key] == [Some(value.clone())]), "{held:?}");
        group[3].kill();
    }

    start_empty(&mut group[3]).await;
    group.until_ready().await;
    assert_ne!(group[3].status().await.unwrap().id, id, "it has a new identity");
    for member in &group.members {
        until_settled(member, 2).await;
        assert_eq!(member.client().cluster().await.unwrap().members.len(), 4);
        check(member, Level::One, &model).await.unwrap();
    }

    // One that lives is removed by force only, and serves no more.
    group.until_no_hints().await;
    let forced = group[0].kith(&["remove", "member2", "--force"]);
    assert!(forced.status.success() && told(&forced).contains("was alive"), "{forced:?}");
    until_state(&group[1], State::Removed).await;
    is_turned_away(&group[1], "removed", "was removed").await;
    for index in [0, 2, 3] {
        until_settled(&group[index], 2).await;
        check(&group[index], Level::One, &model).await.unwrap();
    }
}

#[tokio::test]
async fn of_two_sides_of_a_cut_only_a_live_majority_removes_members_of_the_other() {
    let (group, wires) = Wires::ready(4).await;
    let mut model = import(&group[0].client(), "before", 300).await;
    let sees_dead = async |pairs: &[(usize, usize)]| {
        for (one, other) in pairs {
            group[*one].until_sees(&group[*other].name, false, PATIENCE).await;
        }
    };
    let refused = |refused: Result<Removed, ClientError>, words: &str| {
        let Err(ClientError::Refused { status, code, message }) = refused else { panic!("{refused:?}") };
        assert_eq!((status, code.as_str()), (409, "no_majority"), "{message}");
        assert!(message.contains(words) && message.contains("--force"), "{message}");
    };
    let names = async |member: &Member| {
        let cluster = member.client().cluster().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(cluster.members.into_iter().map(|row| row.name).collect::<Vec<_>>())
    };

    for member in &group.members {
        until_settled(member, 3).await;
    }
    // Half is no majority, on either side.
    wires.cut(Cut::Silent, &["member3", "member4"]);
    sees_dead(&[(0, 2), (0, 3), (1, 2), (2, 0), (2, 1), (3, 0)]).await;
    let (one, other) = (group[0].client(), group[2].client());
    let (one, other) = tokio::join!(one.remove("member3", false), other.remove("member1", false));
    refused(one, "2 of 4 members");
    refused(other, "2 of 4 members");
    wires.heal();
    group.until_ready().await;
    for member in &group.members {
        assert_eq!(names(member).await.unwrap().len(), 4, "nobody was removed");
        until_settled(member, 3).await;
    }

    // Three of four are, and the fourth lives on elsewhere.
    wires.cut(Cut::Silent, &["member4"]);
    sees_dead(&[(0, 3), (1, 3), (2, 3), (3, 0), (3, 1), (3, 2)]).await;
    let (one, other) = (group[1].client(), group[3].client());
    let (one, other) = tokio::join!(one.remove("member4", false), other.remove("member1", false));
    assert_eq!(one.unwrap().warnings, Vec::<String>::new());
    refused(other, "1 of 4 members");
    group[3].client().put(DEFAULT, b"after", "the removal".into(), &WriteOptions::default()).await.unwrap();
    model.extend(import(&group[1].client(), "majority", 300).await);
    wires.heal();
    until_state(&group[3], State::Removed).await;
    is_turned_away(&group[3], "removed", "was removed").await;
    for member in &group.members[..3] {
        until("the others are the cluster", PATIENCE, async || {
            let names = names(member).await?;
            if names == ["member1", "member2", "member3"] { Ok(()) } else { Err(format!("{names:?}")) }
        })
        .await;
        until_settled(member, 3).await;
    }
    // What only the removed one had taken is with it and nowhere else.
    model.insert("after".to_owned(), vec![None]);
    all_have(&[&group[0], &group[1], &group[2]], &model).await;
    assert_eq!(exported(&group[3]).get("after").map(String::as_str), Some("the removal"));
}

#[tokio::test]
async fn the_last_copy_of_anything_is_given_up_only_by_force_and_the_last_member_never_goes() {
    let mut group = Group::ready(3, &Plan::default().setting("replication_factor", "1")).await;
    let mut model = import(&group[0].client(), "before", 200).await;
    for key in model.keys().cloned().collect::<Vec<_>>() {
        let placement = group[0].client().placement(Some((DEFAULT, key.as_bytes()))).await.unwrap();
        if placement.rows[0].owners.iter().any(|owner| owner.name == "member3") {
            model.remove(&key);
        }
    }
    assert!((1..200).contains(&model.len()), "{} keys are with the others", model.len());
    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    let refused = group[0].kith(&["remove", "member3"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = ["would be lost", "start it again", "--force"];
    assert!(words.iter().all(|word| told(&refused).contains(word)), "{refused:?}");
    let over_http = group[0].client().remove("member3", false).await;
    let is_refused =
        matches!(&over_http, Err(ClientError::Refused { status: 409, code, .. }) if code == "last_copy");
    assert!(is_refused, "{over_http:?}");
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), 3, "nothing was changed");
    // Who leaves waits for it, too, and says so.
    let leaves = group[1].kith(&["leave", "--no-wait"]);
    assert!(leaves.status.success(), "{leaves:?}");
    for member in &group.members[..2] {
        until("it names for whom the leave may wait", PATIENCE, async || {
            let changes = member.status().await?.transitions;
            let reasons: Vec<_> = changes.iter().filter_map(|change| change.reason.clone()).collect();
            let words = ["`member3`, out of reach", "kith remove"];
            let said = reasons.iter().any(|reason| words.iter().all(|word| reason.contains(word)));
            if said { Ok(()) } else { Err(format!("{changes:?}")) }
        })
        .await;
    }
    let leaves = group[0].kith(&["leave", "--no-wait"]);
    assert!(leaves.status.success(), "{leaves:?}");
    let forced = group[0].kith(&["remove", "member3", "--force"]);
    assert!(forced.status.success() && told(&forced).contains("is lost"), "{forced:?}");
    until_state(&group[1], State::Left).await;
    until("the last one stays and says why", PATIENCE, async || {
        let status = group[0].status().await?;
        let reason = status.transitions.first().and_then(|change| change.reason.clone());
        let stays =
            reason.is_some_and(|reason| reason.contains("no other member") && reason.contains("add one"));
        if stays && status.state == State::Ready { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), 1);
    all_have(&[&group[0]], &model).await;
}

#[tokio::test]
async fn when_one_of_two_members_leaves_the_other_can_not_and_at_once_they_never_both_go() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "1")).await;
    let model = import(&group[0].client(), "before", 1_000).await;
    let begun = group[1].kith(&["leave", "--no-wait"]);
    assert!(begun.status.success(), "{begun:?}");
    let refused = group[0].kith(&["leave", "--no-wait"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = ["no other active member", "add a member first"];
    assert!(words.iter().all(|word| told(&refused).contains(word)), "{refused:?}");
    until_state(&group[1], State::Left).await;
    all_have(&[&group[0]], &model).await;

    start_empty(&mut group[1]).await;
    group.until_ready().await;
    until_settled(&group[0], 1).await;
    // Neither knows of the other's wish when it is asked.
    let (one, other) = (group[0].client(), group[1].client());
    let (one, other) = tokio::join!(one.leave(), other.leave());
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    let stays = until("one of them goes", PATIENCE, async || {
        let states = [group[0].status().await?.state, group[1].status().await?.state];
        match states {
            [State::Left, State::Ready] => Ok(1),
            [State::Ready, State::Left] => Ok(0),
            _ => Err(format!("{states:?}")),
        }
    })
    .await;
    let what = "who stays has everything";
    until(what, PATIENCE, async || check(&group[stays], Level::One, &model).await).await;
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
