//! Kills, pauses and cuts of members that serve. Many of them at random are in `integration/kills`.

use crate::load::{Load, Model, check, import, until_everywhere};
use crate::members::{Group, PATIENCE, Plan, until};
use crate::wires::{Cut, Wires};
use kith::client::{ClientError, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::status::Link;
use std::time::{Duration, Instant};

/// Within this time others promise to see that a process was killed, on a machine with room to spare.
const SEEN_DEAD: Duration = Duration::from_secs(5);

fn http_of(group: &Group) -> Vec<String> {
    group.members.iter().map(|member| member.http.to_string()).collect()
}

/// One client for each member, which goes to the next member while its own is down.
fn clients_of(group: &Group) -> Vec<Vec<String>> {
    let addresses = http_of(group);
    let rotated = |by: usize| {
        let mut addresses = addresses.clone();
        addresses.rotate_left(by);
        addresses
    };
    (0..addresses.len()).map(rotated).collect()
}

async fn until_all_agree(group: &Group, model: &Model) {
    group.until_no_hints().await;
    until_everywhere(&group.members, model).await;
}

#[tokio::test]
async fn a_member_that_returns_and_is_ready_lacks_nothing_that_was_written_meanwhile() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let mut model = import(&group[0].client(), "before", 500).await;
    group[2].kill();
    group[0].until_sees(&group[2].name, false, PATIENCE).await;
    model.extend(import(&group[0].client(), "meanwhile", 20_000).await);
    group.start();
    group[2].until_ready().await;
    for member in &group.members {
        check(member, Level::One, &model).await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_killed_as_a_whole_under_load_has_every_acknowledged_write_again() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let load = Load::start(&clients_of(&group));
    load.until_more(2_000).await;
    group.members.iter_mut().for_each(|member| member.kill());
    let model = load.stop().await;
    group.start();
    group.until_ready().await;
    until_all_agree(&group, &model).await;
}

#[tokio::test]
async fn a_killed_member_is_seen_dead_in_time_and_writes_go_on_without_errors() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let others = http_of(&group)[..2].iter().map(|address| vec![address.clone()]).collect::<Vec<_>>();
    let load = Load::start(&others);
    load.until_more(500).await;
    group[2].kill();
    let killed = Instant::now();
    for index in [0, 1] {
        // Other tests share the processors, so it is waited twice as long and told.
        group[index].until_sees("member3", false, 2 * SEEN_DEAD).await;
    }
    eprintln!("a killed member was seen dead by all after {:?}", killed.elapsed());
    load.until_more(500).await;
    assert_eq!(load.errors(), Vec::<String>::new());
    let started = Instant::now();
    group.start();
    for index in [0, 1] {
        group[index].until_sees("member3", true, 2 * SEEN_DEAD).await;
    }
    eprintln!("it was seen alive again by all {:?} after its start", started.elapsed());
    load.until_more(500).await;
    assert_eq!(load.errors(), Vec::<String>::new());
    let model = load.stop().await;
    group.until_ready().await;
    until_all_agree(&group, &model).await;
}

#[tokio::test]
async fn with_one_of_two_owners_dead_available_goes_on_and_quorum_and_all_tell_why_not() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    group[1].kill();
    let client = group[0].client();
    let put = async |level: Level| {
        let options = WriteOptions { level: Some(level), ..WriteOptions::default() };
        client.put(DEFAULT, level.as_str().as_bytes(), "value".into(), &options).await
    };
    for dead in [false, true] {
        if dead {
            group[0].until_sees("member2", false, PATIENCE).await;
        }
        let stored = put(Level::Available).await.unwrap();
        assert_eq!(stored.copies, 1, "dead: {dead}");
        assert_eq!(put(Level::One).await.unwrap().copies, 1);
        for level in [Level::Quorum, Level::All] {
            let refused = put(level).await;
            let is_known = match &refused {
                Err(ClientError::Refused { status: 503, code, .. }) => code == "not_enough_owners",
                Err(ClientError::Unknown { .. }) => true,
                _ => false,
            };
            assert!(is_known, "{level} gives {refused:?}, dead: {dead}");
            let refused = client.get(DEFAULT, b"available", Some(level)).await;
            let Err(ClientError::Refused { status, message, .. }) = refused else { panic!("{refused:?}") };
            assert!(status == 504 && message.contains(level.as_str()), "{status} {message}, dead: {dead}");
        }
    }
    group.start();
    group.until_ready().await;
    group.until_no_hints().await;
    let found = group[1].client().get(DEFAULT, b"available", Some(Level::One)).await.unwrap();
    assert_eq!(found.unwrap().value, "value");
    assert_eq!(put(Level::All).await.unwrap().copies, 2);
}

#[tokio::test]
async fn a_member_that_was_cut_off_loudly_silently_one_way_or_now_and_then_catches_up_and_so_do_the_others() {
    let (group, wires) = Wires::ready(3).await;
    let mut model = import(&group[0].client(), "before", 300).await;
    for (round, cut) in [Cut::Loud, Cut::Silent, Cut::OneWay].into_iter().enumerate() {
        wires.cut(cut, &["member3"]);
        for index in [0, 1] {
            group[index].until_sees("member3", false, PATIENCE).await;
        }
        // One way it still hears the others.
        if cut != Cut::OneWay {
            group[2].until_sees("member1", false, PATIENCE).await;
            group[2].until_sees("member2", false, PATIENCE).await;
        }
        // Both sides stay writable.
        model.extend(import(&group[0].client(), &format!("majority{round}"), 300).await);
        model.extend(import(&group[2].client(), &format!("minority{round}"), 300).await);
        wires.heal();
        let healed = Instant::now();
        group.until_ready().await;
        until_all_agree(&group, &model).await;
        eprintln!("after a {cut:?} cut all members agreed {:?} after it healed", healed.elapsed());
    }
    for round in 0..5 {
        for link in [Link::Down, Link::Up] {
            match link {
                Link::Down => wires.cut(Cut::Loud, &["member3"]),
                Link::Up => wires.heal(),
            }
            until(&format!("the link is {link:?}"), PATIENCE, async || {
                let peer = group[0].peer("member3").await?;
                if peer.link == link { Ok(()) } else { Err(format!("{peer:?}")) }
            })
            .await;
            model.extend(import(&group[0].client(), &format!("flapping{round}{link:?}"), 50).await);
            model.extend(import(&group[2].client(), &format!("other side{round}{link:?}"), 50).await);
        }
    }
    group.until_ready().await;
    until_all_agree(&group, &model).await;
    let cluster = group[0].client().cluster().await.unwrap();
    assert_eq!(cluster.members.len(), 3, "{cluster:?}");
}

#[tokio::test]
async fn a_process_that_was_stopped_for_a_while_catches_up_and_stays_one_member() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let ids =
        |rows: Vec<kith::node::handle::status::MemberRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let before = ids(group[0].client().cluster().await.unwrap().members);
    let incarnation = group[2].status().await.unwrap().incarnation;
    let addresses = http_of(&group);
    let load = Load::start(&[addresses[..1].to_vec(), addresses[1..2].to_vec()]);
    load.until_more(300).await;
    group[2].signal("STOP");
    for index in [0, 1] {
        group[index].until_sees("member3", false, PATIENCE).await;
    }
    load.until_more(300).await;
    group[2].signal("CONT");
    group.until_ready().await;
    let errors = load.errors();
    let model = load.stop().await;
    assert_eq!(errors, Vec::<String>::new());
    until_all_agree(&group, &model).await;
    for member in &group.members {
        assert_eq!(ids(member.client().cluster().await.unwrap().members), before);
    }
    assert_eq!(group[2].status().await.unwrap().incarnation, incarnation);
    // A stopped process ends at SIGKILL like any other.
    group[2].kill();
}
