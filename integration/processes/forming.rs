//! How clusters come to be, grow, and come back.

use crate::load::{check, import};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use kith::client::{ClientError, ListingQuery};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::status::{InitRequest, Standing, State};
use std::collections::BTreeSet;

async fn cluster_ids(group: &Group) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for member in &group.members {
        ids.insert(member.client().cluster().await.unwrap().id);
    }
    ids
}

#[tokio::test]
async fn three_new_members_started_at_once_form_one_cluster_and_form_it_again_with_all_data() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let before = cluster_ids(&group).await;
    assert_eq!(before.len(), 1, "{before:?}");
    let creators = group.members.iter().filter(|member| member.log().contains("cluster created")).count();
    assert_eq!(creators, 1, "exactly one member creates the cluster");
    let model = import(&group[0].client(), "before", 1_000).await;

    group.members.iter_mut().for_each(|member| member.kill());
    group.start();
    group.until_ready().await;
    assert_eq!(cluster_ids(&group).await, before);
    for member in &group.members {
        check(member, Level::One, &model).await.unwrap();
    }
}

#[tokio::test]
async fn a_member_whose_seeds_are_all_down_keeps_trying_and_joins_when_they_come() {
    let mut group = Group::empty().await;
    group.add_together(2, &Plan::default());
    let seeds: Vec<_> = group.members.iter().map(|member| member.peers).collect();
    let late = group.add("late", Plan::default().seeds(seeds).bootstrap());
    group[late].start();
    group[late].until_answering().await;
    let refusals = async || {
        let peers = group[late].status().await?.peers;
        let tried = peers.iter().filter(|peer| peer.last_refusal.is_some()).count();
        if tried == 2 { Ok(()) } else { Err(format!("{peers:?}")) }
    };
    until("both seeds were tried in vain", PATIENCE, refusals).await;
    assert_eq!(group[late].status().await.unwrap().state, State::NoCluster, "silence is no answer");
    until("it tells for whom it waits", PATIENCE, async || {
        let told = group[late].client().ready().await.unwrap_err().to_string();
        let named = group.members[..late].iter().all(|member| told.contains(&member.peers.to_string()));
        if told.contains("waiting for seeds") && named { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(group[late].log().matches("waiting for seeds").count(), 1, "{}", group[late].log());

    group.start();
    group.until_ready().await;
    assert_eq!(cluster_ids(&group).await.len(), 1);
}

#[tokio::test]
async fn members_that_may_create_the_cluster_and_are_known_to_some_only_form_one_cluster() {
    // The ids are drawn anew each time, so either side may have the lowest.
    for _ in 0..3 {
        let mut group = Group::empty().await;
        group.add_together(2, &Plan::default());
        let seeds: Vec<_> = group.members.iter().map(|member| member.peers).collect();
        group.add("unknown", Plan::default().seeds(seeds).bootstrap());
        group.start();
        group.until_ready().await;
        assert_eq!(cluster_ids(&group).await.len(), 1);
    }
}

#[tokio::test]
async fn two_that_may_create_the_cluster_and_know_one_common_seed_only_form_one_cluster() {
    for _ in 0..3 {
        let mut group = Group::empty().await;
        let common = group.add("common", Plan::default());
        let seed = group[common].peers;
        for name in ["one", "other"] {
            group.add(name, Plan::default().seeds([seed]).bootstrap());
        }
        group.start();
        group.until_ready().await;
        assert_eq!(cluster_ids(&group).await.len(), 1);
    }
}

#[tokio::test]
async fn init_during_another_members_last_round_makes_no_second_cluster() {
    for _ in 0..3 {
        let mut group = Group::empty().await;
        let other = group.add("other", Plan::default());
        let seed = group[other].peers;
        let creator = group.add("creator", Plan::default().seeds([seed]).bootstrap());
        group[other].start();
        group[other].until_answering().await;
        group[creator].start();
        // As early as it can be heard of: its rounds over the seeds have just begun.
        group[creator].until_answering().await;
        let refused = group[other].client().init(&InitRequest::default()).await;
        if let Err(refused) = refused {
            let ClientError::Refused { code, .. } = &refused else { panic!("{refused:?}") };
            // The other one claims the creation, or has created the cluster and is not ready.
            assert!(["creating", "not_ready"].contains(&code.as_str()), "{refused:?}");
        }
        group.until_ready().await;
        assert_eq!(cluster_ids(&group).await.len(), 1);
    }
}

#[tokio::test]
async fn init_of_all_members_at_once_makes_one_cluster() {
    for _ in 0..3 {
        let mut group = Group::empty().await;
        group.add_together(3, &Plan::default());
        for member in &mut group.members {
            member.plan.bootstrap = false;
            member.write_config();
        }
        group.start();
        for member in &group.members {
            member.until_answering().await;
        }
        let init = async |member: &Member| member.client().init(&InitRequest::default()).await;
        let told = futures_util::future::join_all(group.members.iter().map(init)).await;
        // Two that refuse each other change nothing; then a person repeats it.
        until("somebody creates it", PATIENCE, async || {
            for member in &group.members {
                if member.status().await?.cluster.is_some() {
                    return Ok(());
                }
            }
            init(&group[0]).await.map(drop).map_err(|error| format!("{error}, at first {told:?}"))
        })
        .await;
        group.until_ready().await;
        assert_eq!(cluster_ids(&group).await.len(), 1, "{told:?}");
    }
}

#[tokio::test]
async fn a_creator_that_lost_its_records_gets_roster_and_settings_back_as_they_were() {
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let model = import(&group[0].client(), "before", 200).await;
    let creator = usize::from(!group[0].log().contains("cluster created"));
    let other = 1 - creator;
    let seen = async |member: &Member| {
        let (settings, roster) =
            (member.client().settings().await.unwrap(), member.client().roster().await.unwrap());
        let stamps = settings.entries.into_iter().map(|entry| (entry.name, entry.timestamp));
        let members = roster.entries.into_iter().map(|row| (row.name, Some(row.timestamp)));
        stamps.chain(members).collect::<BTreeSet<_>>()
    };
    until("both know the same", PATIENCE, async || {
        let (one, two) = (seen(&group[creator]).await, seen(&group[other]).await);
        if one == two { Ok(()) } else { Err(format!("{one:?} {two:?}")) }
    })
    .await;
    let before = seen(&group[other]).await;
    group.members.iter_mut().for_each(|member| member.kill());
    for entry in std::fs::read_dir(group[creator].data()).unwrap() {
        let path = entry.unwrap().path();
        let kept = ["identity", "incarnation", "cluster"].map(|name| path.ends_with(name));
        match (kept.contains(&true), path.is_dir()) {
            (true, _) => {}
            (false, true) => std::fs::remove_dir_all(path).unwrap(),
            (false, false) => std::fs::remove_file(path).unwrap(),
        }
    }

    group[creator].start();
    let lost = async || {
        let status = group[creator].status().await?;
        if status.state == State::RecordsLost { Ok(status) } else { Err(format!("{status:?}")) }
    };
    let status = until("it has lost its records and waits for the other member", PATIENCE, lost).await;
    assert!(status.warnings.iter().any(|warning| warning.contains("kith join")), "{:?}", status.warnings);
    let refused = group[creator].kith(&["init", "replication_factor=2"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has lost"), "{refused:?}");

    group[other].start();
    group.until_ready().await;
    for member in &group.members {
        assert_eq!(seen(member).await, before, "{}", member.name);
        check(member, Level::One, &model).await.unwrap();
    }
}

#[tokio::test]
async fn before_a_cluster_exists_data_is_refused_and_init_creates_it_once() {
    let mut group = Group::empty().await;
    group.add("alone", Plan::default());
    group.start();
    group[0].until_answering().await;
    let client = group[0].client();
    for answer in [
        client.get(DEFAULT, b"key", None).await.map(drop),
        client.put(DEFAULT, b"key", "value".into(), &Default::default()).await.map(drop),
        client.cluster().await.map(drop),
        client.placement(None).await.map(drop),
        client.settings().await.map(drop),
    ] {
        let Err(ClientError::Refused { status, code, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!((status, code.as_str()), (409, "no_cluster"));
    }
    assert_eq!(group[0].status().await.unwrap().state, State::NoCluster);
    client.live().await.unwrap();
    client.ready().await.unwrap_err();

    for (content, word) in
        [("replication_factor=0", "from 1 to"), ("replication_factr=1", "`replication_factor`")]
    {
        let refused = group[0].kith(&["init", content]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(word), "{refused:?}");
    }
    assert_eq!(group[0].status().await.unwrap().state, State::NoCluster);
    let made = group[0].kith(&["init", "--partitions", "64", "replication_factor=1"]);
    assert!(made.status.success(), "{made:?}");
    group[0].until_ready().await;
    let id = client.cluster().await.unwrap().id;
    let again = group[0].kith(&["init", "--partitions", "64", "replication_factor=1"]);
    assert!(again.status.success(), "{again:?}");
    let others: [&[&str]; 4] = [
        &["--partitions", "128", "replication_factor=1"],
        &["--partitions=64", "replication_factor=2"],
        &["--partitions=64", "replication_factor=1", "read_level=all"],
        // What is not said is the default, and not what there happens to be.
        &["--partitions=64"],
    ];
    for other in others {
        let refused = group[0].kith(&[&["init"], other].concat());
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("differs in"), "{refused:?}");
    }
    let cluster = client.cluster().await.unwrap();
    assert_eq!((cluster.id, cluster.partitions, cluster.replication_factor), (id, 64, 1));
    client.put(DEFAULT, b"key", "value".into(), &Default::default()).await.unwrap();
}

#[tokio::test]
async fn joining_through_a_dead_member_fails_clearly_and_through_live_ones_works_and_may_be_repeated() {
    let mut group = Group::empty().await;
    for name in ["first", "second", "third"] {
        group.add(name, Plan::default());
    }
    group[0].start();
    group[1].start();
    group[0].until_answering().await;
    group[1].until_answering().await;
    let (first, second) = (group[0].peers.to_string(), group[1].peers.to_string());
    let too_early = group[1].kith(&["join", &first]);
    assert_eq!(too_early.status.code(), Some(1), "{too_early:?}");
    assert!(String::from_utf8_lossy(&too_early.stderr).contains("kith init"), "{too_early:?}");

    group[0].client().init(&InitRequest::default()).await.unwrap();
    group[0].until_ready().await;
    for _ in 0..2 {
        let joined = group[1].kith(&["join", &first]);
        assert!(joined.status.success(), "{joined:?}");
    }
    group.until_ready().await;

    group[1].kill();
    group[2].start();
    group[2].until_answering().await;
    let refused = group[2].kith(&["join", &second]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("no member answered") && message.contains(&second), "{message}");
    assert_eq!(group[2].status().await.unwrap().state, State::NoCluster);

    // Twice at once, through two members.
    group[1].start();
    group[1].until_ready().await;
    let third = group[2].client();
    let (one, other) = tokio::join!(third.join(&first), third.join(&second));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    group.until_ready().await;
    for member in &group.members {
        let cluster = member.client().cluster().await.unwrap();
        let names: Vec<&str> = cluster.members.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["first", "second", "third"]);
    }
}

#[tokio::test]
async fn a_fourth_member_joins_a_cluster_with_data_and_takes_its_share_of_it() {
    const KEYS: usize = 10_000;
    let plan = Plan::default().setting("replication_factor", "2");
    let mut group = Group::ready(3, &plan).await;
    let model = import(&group[0].client(), "joined", KEYS).await;
    let seeds = [group[1].peers];
    let fourth = group.add("member4", Plan { seeds: seeds.to_vec(), ..plan });
    group.start();
    group.until_ready().await;

    until("the fourth member owns its share", PATIENCE, async || {
        let cluster = group[fourth].client().cluster().await.map_err(|error| error.to_string())?;
        let row = cluster.members.iter().find(|row| row.this_member).ok_or("it is not in the roster")?;
        if row.standing == Standing::Active && row.partitions > 0 { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    for member in &group.members {
        check(member, Level::One, &model).await.unwrap();
    }
    // The others keep what is theirs: two copies of everything, all in all.
    until("the data has moved", PATIENCE, async || {
        let mut shares = Vec::new();
        for member in &group.members {
            let query = ListingQuery { limit: KEYS, values: false, held: true, ..ListingQuery::default() };
            let held = member.client().list(DEFAULT, &query).await.map_err(|error| error.to_string())?;
            shares.push(held.entries.len());
        }
        let is_shared = shares.iter().all(|share| *share > KEYS / 4);
        if is_shared && shares.iter().sum::<usize>() == 2 * KEYS {
            Ok(())
        } else {
            Err(format!("{shares:?}"))
        }
    })
    .await;
}
