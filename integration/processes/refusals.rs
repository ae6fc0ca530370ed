//! Members that must not talk to each other, and what both sides say about it.

use crate::load::{check, import, until_everywhere};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use kith::client::{ClientError, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::status::{InitRequest, Link, State};
use kith::protocol::introduction::{ClusterFacts, Control, Introduction};
use kith::protocol::message::{self, Message, Request};
use kith::security::{ClusterKeys, Credentials, Handshake, Identity, Keyring, ProtocolRange, Role, Secret};
use std::fs;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A cluster of one member, ready, and a second member that looks for a cluster there.
async fn pair(plan: impl FnOnce(Plan) -> Plan) -> Group {
    let mut group = Group::empty().await;
    group.add("first", Plan::default().bootstrap());
    group.start();
    group[0].until_ready().await;
    let plan = plan(Plan::default().seeds([group[0].peers]));
    group.add("second", plan);
    group.start();
    group[1].until_answering().await;
    group
}

async fn is_kept_out(group: &Group) {
    let cluster = group[0].client().cluster().await.unwrap();
    assert_eq!(cluster.members.len(), 1, "{cluster:?}");
    assert_eq!(group[1].status().await.unwrap().state, State::NoCluster);
    // A refused member must not fill the log by trying again.
    let warnings = group[0].log().lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings <= 5, "{warnings} warnings");
}

#[tokio::test]
async fn a_second_member_of_one_name_is_refused_and_both_sides_say_why() {
    let mut group = Group::empty().await;
    group.add("first", Plan::default().bootstrap());
    group.start();
    group[0].until_ready().await;
    let elsewhere = group.directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let twin = Member::new(&elsewhere, "first", Plan::default().seeds([group[0].peers]));
    group.members.push(twin);
    group.start();
    for member in &group.members {
        member.until_refusal(&["`first`", "choose another `name`"]).await;
    }
    is_kept_out(&group).await;
}

async fn until_members(member: &Member, count: usize) {
    until(&format!("{} knows {count} members", member.name), PATIENCE, async || {
        let members = member.client().cluster().await.map_err(|error| error.to_string())?.members;
        if members.len() == count { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
}

#[tokio::test]
async fn of_two_let_in_under_one_name_the_later_stops_with_the_reason_and_comes_back_under_another() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let (one, two) = (group[0].peers, group[1].peers);
    let elsewhere = group.directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let first = group.add("twin", Plan::default().seeds([one]));
    group.members.push(Member::new(&elsewhere, "twin", Plan::default().seeds([two])));
    let second = first + 1;
    // Each is let in by a member that can't know of the other.
    group[1].kill();
    group[first].start();
    until_members(&group[0], 3).await;
    group[0].kill();
    group[first].kill();
    group[1].start();
    group[1].until_ready().await;
    group[second].start();
    until_members(&group[1], 3).await;
    group[0].start();
    group[first].start();

    for index in [0, 1, first] {
        group[index].until_ready().await;
    }
    let stopped = async || {
        let status = group[second].status().await?;
        let told = status.warnings.iter().any(|warning| warning.contains("choose another `name`"));
        if status.state == State::NameTaken && told { Ok(()) } else { Err(format!("{status:?}")) }
    };
    until("the later one stops and says what to do", PATIENCE, stopped).await;
    assert!(group[second].log().contains("choose another `name`"));
    for index in [0, 1, first] {
        until_members(&group[index], 4).await;
        let members = group[index].client().cluster().await.unwrap().members;
        let names: Vec<&str> = members.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["member1", "member2", "twin", "twin"], "they are sorted by name");
        let owners = members.iter().filter(|row| row.name == "twin" && row.partitions > 0).count();
        assert_eq!(owners, 1, "{members:?}");
    }
    group[first].client().put(DEFAULT, b"key", "value".into(), &WriteOptions::default()).await.unwrap();

    assert!(group[second].stop().await.success());
    group[second].name = "another".to_owned();
    group[second].write_config();
    group[second].start();
    group.until_ready().await;
    let cluster = group[second].client().cluster().await.unwrap();
    assert!(cluster.members.iter().all(|row| row.partitions > 0), "{cluster:?}");
}

#[tokio::test]
async fn a_member_with_another_secret_is_refused_and_both_sides_say_why() {
    let group = pair(|plan| Plan { secret: "another secret altogether".to_owned(), ..plan }).await;
    for member in &group.members {
        let reason = member.until_refusal(&["different cluster secrets", "same one"]).await;
        assert!(!reason.contains("altogether"), "a secret is shown: {reason}");
        assert!(!member.log().contains("altogether"), "a secret is in the log of {}", member.name);
    }
    // The way out is the right secret, and no cluster of its own beside the one that there is.
    let stranger = group.members.last().unwrap();
    until("its status tells the reason", PATIENCE, async || {
        let warnings = stranger.status().await?.warnings;
        let told = warnings.iter().any(|warning| warning.contains("different cluster secrets"));
        let misled = warnings.iter().any(|warning| warning.contains("kith init"));
        if told && !misled { Ok(()) } else { Err(format!("{warnings:?}")) }
    })
    .await;
    let refused = stranger.client().init(&InitRequest::default()).await;
    let Err(ClientError::Refused { code, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(code, "wrong_secret", "{refused:?}");
    is_kept_out(&group).await;
}

/// Sends these bytes, and gives all that comes until the other side hangs up.
async fn answer_to(member: &Member, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(member.peers).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A connection that was reset is closed, too.
    assert!(read.is_ok(), "it was not hung up");
    answer
}

#[tokio::test]
async fn whoever_does_not_know_the_secret_is_refused_whatever_it_asks() {
    let mut group = Group::ready(2, &Plan::default()).await;
    group[0].client().put(DEFAULT, b"key", "value".into(), &WriteOptions::default()).await.unwrap();
    let before = group[0].client().cluster().await.unwrap();
    let credentials = |secret: &str| {
        let cluster = Plan::default().cluster;
        let keys = ClusterKeys::derive(&Secret::parse(secret).unwrap(), &cluster).unwrap();
        Credentials {
            identity: Identity::generate([9; 32]).unwrap(),
            keyring: Keyring::new(keys, None),
            cluster,
            protocol: ProtocolRange { min: 1, max: u16::MAX },
        }
    };
    let introduction = Introduction {
        cluster: Some(ClusterFacts { id: 7, name: before.name.clone(), partition_bits: 8 }),
        name: "stranger".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        http_address: "127.0.0.1:2".to_owned(),
        zone: String::new(),
        incarnation: 1,
        life: 1,
        wall_ms: 0,
        bootstrap: true,
    };
    let introduction = introduction.encode().unwrap();
    // Nothing can be asked before the secret is proved, as what one ever comes.
    let stranger = credentials("not the secret of this cluster");
    for role in [Role::Member, Role::Joining] {
        let to = group[0].peers.to_string();
        let link = kith::transport::connect(&to, &stranger, role, &introduction, PATIENCE).await;
        let error = link.unwrap_err().to_string();
        assert!(error.contains("different cluster secrets"), "{error}");
    }

    // Nor does it help to leave the proof out: everything that members say, in the clear, at once or after the
    // first half of a handshake that began well.
    let read = Request::Read { collection: DEFAULT.to_owned(), key: b"key".to_vec() };
    let asked: Vec<Vec<u8>> = [Control::Join, Control::Claim, Control::Release]
        .iter()
        .map(|control| control.encode().unwrap())
        .chain(
            [Message::Request(1, read), Message::Request(2, Request::System { records: Vec::new() })]
                .iter()
                .map(|message| {
                    let mut bytes = Vec::new();
                    message::encode(&mut bytes, message).unwrap();
                    bytes
                }),
        )
        .chain([b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"*1\r\n$4\r\nPING\r\n".to_vec(), vec![0xff; 200_000]])
        .collect();
    let mut hello = Vec::new();
    let known = credentials(&Plan::default().secret);
    Handshake::initiator(&known, Role::Member, &introduction, &mut hello).unwrap();
    for request in &asked {
        for begun in [&[][..], &hello] {
            let answer = answer_to(&group[0], &[begun, request].concat()).await;
            let said = |secret: &[u8]| answer.windows(secret.len()).any(|part| part == secret);
            assert!(!said(b"value") && !said(b"member2"), "{answer:?}");
            assert!(answer.len() < 1_000, "{} bytes are no refusal", answer.len());
        }
    }

    until("each of them is counted", PATIENCE, async || {
        let refused = group[0].metric("kith_handshakes_rejected_total").await?;
        if refused >= (2 + 2 * asked.len()) as f64 { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
    assert_eq!(group[0].client().cluster().await.unwrap().members.len(), before.members.len());
    group[0].client().ready().await.unwrap();
    // The one that knows it is heard all the while.
    group[1].kill();
    group[1].start();
    group.until_ready().await;
}

#[tokio::test]
async fn members_of_one_cluster_with_two_secrets_share_no_record_until_they_have_one_again() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let one_secret = group[2].plan.secret.clone();
    assert!(group[2].stop().await.success());
    group[2].plan.secret = "another secret altogether".to_owned();
    group[2].write_config();
    group[2].start();
    for index in [0, 2] {
        group[index].until_refusal(&["different cluster secrets", "same one"]).await;
    }
    // Each side goes on for itself.
    group[2].until_ready().await;
    let here = import(&group[0].client(), "here", 200).await;
    let there = import(&group[2].client(), "there", 200).await;
    for (member, foreign) in [(&group[0], &there), (&group[1], &there), (&group[2], &here)] {
        for key in foreign.keys() {
            let found = member.client().get(DEFAULT, key.as_bytes(), Some(Level::One)).await.unwrap();
            assert!(found.is_none(), "{} has {key}", member.name);
        }
    }
    let peers = group[2].status().await.unwrap().peers;
    assert!(peers.iter().all(|peer| peer.link == Link::Down), "{peers:?}");

    assert!(group[2].stop().await.success());
    group[2].plan.secret = one_secret;
    group[2].write_config();
    group[2].start();
    group.until_ready().await;
    group.until_no_hints().await;
    until_everywhere(&group.members, &here.into_iter().chain(there).collect()).await;
}

#[tokio::test]
async fn a_member_of_a_cluster_of_another_name_is_refused_and_both_sides_say_why() {
    let group = pair(|plan| Plan { cluster: "other".to_owned(), ..plan }).await;
    for member in &group.members {
        member.until_refusal(&["clusters of different names", "check the cluster's name"]).await;
    }
    is_kept_out(&group).await;
}

#[tokio::test]
async fn two_clusters_of_one_name_and_secret_stay_apart_when_they_are_pointed_at_each_other() {
    let mut group = Group::empty().await;
    for name in ["first", "second"] {
        group.add(name, Plan::default().bootstrap().setting("replication_factor", "1"));
    }
    group.start();
    for member in &group.members {
        member.until_ready().await;
        let key = member.name.as_bytes();
        member.client().put(DEFAULT, key, "mine".into(), &WriteOptions::default()).await.unwrap();
    }
    let first = group[0].peers;
    assert!(group[1].stop().await.success());
    group[1].plan.seeds = vec![first];
    group[1].write_config();
    group.start();
    group[1].until_ready().await;

    let (one, other) = (id_of(&group[0]).await, id_of(&group[1]).await);
    assert_ne!(one, other);
    for member in &group.members {
        member.until_refusal(&["belongs to cluster", &one, &other, "empty data directory"]).await;
    }
    for (member, foreign) in [(&group[0], "second"), (&group[1], "first")] {
        assert_eq!(member.client().cluster().await.unwrap().members.len(), 1);
        assert!(member.client().get(DEFAULT, foreign.as_bytes(), None).await.unwrap().is_none());
        let peers = member.status().await.unwrap().peers;
        assert!(peers.iter().all(|peer| peer.link == Link::Down), "{peers:?}");
    }
    let joined = group[1].kith(&["join", &first.to_string()]);
    assert_eq!(joined.status.code(), Some(1), "{joined:?}");
    assert!(String::from_utf8_lossy(&joined.stderr).contains("empty data directory"), "{joined:?}");
}

async fn id_of(member: &Member) -> String {
    member.client().cluster().await.unwrap().id
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Waits until a member has stopped for its outdated data directory, says so, and answers no client; gives
/// its incarnation.
async fn until_outdated(member: &Member) -> u64 {
    let status = until(&format!("{} stops as outdated", member.name), PATIENCE, async || {
        let status = member.status().await?;
        if status.state == State::Outdated { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let words = ["copy, or an old one", "`member1` has seen", "kith remove", "empty data directory"];
    let said = |text: &str| words.iter().all(|word| text.contains(word));
    assert!(status.warnings.iter().any(|warning| said(warning)), "{:?}", status.warnings);
    assert!(member.log().lines().any(said));
    let told = member.kith(&["status"]);
    assert!(said(&String::from_utf8_lossy(&told.stdout)), "{told:?}");
    let health = member.kith(&["health"]);
    assert!(!health.status.success(), "{health:?}");
    assert!(String::from_utf8_lossy(&health.stderr).contains("outdated"), "{health:?}");
    assert!(status.peers.iter().all(|peer| peer.link == Link::Down), "{:?}", status.peers);
    member.client().get(DEFAULT, b"before/000000", Some(Level::One)).await.unwrap_err();
    let options = WriteOptions { level: Some(Level::One), ..WriteOptions::default() };
    member.client().put(DEFAULT, b"key", "old".into(), &options).await.unwrap_err();
    status.incarnation
}

#[tokio::test]
async fn a_restored_data_directory_is_refused_and_stops_for_good_while_the_others_lose_nothing() {
    let mut group = Group::ready(3, &Plan::default().setting("replication_factor", "3")).await;
    let mut model = import(&group[0].client(), "before", 200).await;
    group.until_no_hints().await;
    assert!(group[1].stop().await.success());
    let old = group.directory.path().join("old copy");
    copy(&group[1].data(), &old);
    // The member itself goes on, which makes the copy one of an earlier life.
    for _ in 0..2 {
        group[1].start();
        group.until_ready().await;
        assert!(group[1].stop().await.success());
    }
    for key in ["before/000000", "before/000001"] {
        group[0]
            .client()
            .put(DEFAULT, key.as_bytes(), "newer".into(), &WriteOptions::default())
            .await
            .unwrap();
        model.insert(key.to_owned(), vec![Some("newer".into())]);
    }
    fs::remove_dir_all(group[1].data()).unwrap();
    fs::rename(&old, group[1].data()).unwrap();
    // So it is the first member that says so.
    group[2].kill();
    group[1].start();
    group[1].until_answering().await;
    group[0].until_refusal(&["later life", "copy or was restored", "empty one"]).await;
    group[1].until_refusal(&["later life", "copy or was restored", "empty one"]).await;
    let incarnation = until_outdated(&group[1]).await;
    group[2].start();
    group[2].until_ready().await;

    // Two restarts would bring it above what the others remember, if it still counted.
    for _ in 0..3 {
        group[1].kill();
        group[1].start();
        group[1].until_answering().await;
        assert_eq!(until_outdated(&group[1]).await, incarnation);
    }
    for index in [0, 2] {
        group[index].until_refusal(&["later life"]).await;
        let peer = group[index].peer("member2").await.unwrap();
        assert_eq!(peer.link, Link::Down, "{peer:?}");
    }
    model.extend(import(&group[2].client(), "after", 200).await);
    for index in [0, 2] {
        until("nothing is lost", PATIENCE, async || check(&group[index], Level::One, &model).await).await;
    }

    // What it says to do brings it back as a new member.
    assert!(group[1].stop().await.success());
    fs::remove_dir_all(group[1].data()).unwrap();
    group[0].until_sees("member2", false, PATIENCE).await;
    let removed = group[0].kith(&["remove", "member2"]);
    assert!(removed.status.success(), "{removed:?}");
    group[1].start();
    group.until_ready().await;
    until_everywhere(&group.members, &model).await;
}

#[tokio::test]
async fn a_copied_data_directory_that_runs_beside_the_original_is_refused() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    assert!(group[1].stop().await.success());
    let seeds = [group[0].peers];
    let twin = group.add("copy", Plan { seeds: seeds.to_vec(), ..group[1].plan.clone() });
    copy(&group[1].data(), &group[twin].data());
    group[1].start();
    group[1].until_ready().await;
    group[0].until_sees("member2", true, PATIENCE).await;
    // The same incarnation, another life.
    group[twin].start();
    group[twin].until_answering().await;
    group[0].until_refusal(&["life", "copy or was restored"]).await;
    group[twin].until_refusal(&["life", "copy or was restored"]).await;
    let incarnation = until_outdated(&group[twin]).await;
    assert!(group[twin].stop().await.success());
    group[twin].start();
    group[twin].until_answering().await;
    assert_eq!(until_outdated(&group[twin]).await, incarnation);
    until("the original stays linked", PATIENCE, async || {
        let peer = group[0].peer("member2").await?;
        if peer.link == Link::Up && peer.alive == Some(true) { Ok(()) } else { Err(format!("{peer:?}")) }
    })
    .await;
}
