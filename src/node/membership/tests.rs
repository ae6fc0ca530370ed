//! Who is let in and who is not, and what both sides say.

use crate::model::RecordRef;
use crate::model::key::ROSTER;
use crate::model::roster::RosterEntry;
use crate::model::timestamp::time_of_ms;
use crate::node::access::Caller;
use crate::node::handle::settings::SettingsRequest;
use crate::node::handle::status::{InitRequest, State};
use crate::node::tests::{Plan, Stranger, until};
use crate::protocol::CLASSES;
use crate::protocol::introduction::{Control, Refusal};
use crate::telemetry::tests::{parse, value};
use std::collections::BTreeMap;

#[tokio::test]
async fn a_member_whose_clock_is_far_off_is_refused_and_both_sides_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let first = Plan::new("first").start(directory.path());
    first.until(State::NoCluster).await;
    first.handle.init(InitRequest::default()).await.unwrap();
    first.until(State::Ready).await;
    let seeds = vec![first.address().await];
    for (name, ahead_ms) in [("hour", 3_600_000), ("minute", 60_000)] {
        let wrong = Plan { seeds: seeds.clone(), ahead_ms, ..Plan::new(name) }.start(directory.path());
        for (member, other) in [(&first, name), (&wrong, "")] {
            let said =
                |text: &str| [" ms off", "set its clock (NTP)", other].iter().all(|part| text.contains(part));
            until("a refusal with its reason", async || {
                let peers = member.handle.status().await.unwrap().peers;
                let told = peers.iter().any(|peer| {
                    let reason = peer.last_refusal.clone().unwrap_or_default();
                    said(&format!("{} {reason}", peer.name))
                });
                let logged = member.log.text().lines().any(said);
                if told && logged { Ok(()) } else { Err(format!("{peers:?}")) }
            })
            .await;
            until("the refusal is counted", async || {
                let families = parse(&member.telemetry.render());
                let counted = value(&families, "kith_handshakes_rejected_total{reason=\"clock\"}");
                if counted >= 1.0 { Ok(()) } else { Err(counted.to_string()) }
            })
            .await;
        }
        assert_eq!(wrong.handle.status().await.unwrap().state, State::NoCluster);
        wrong.stop().await;
    }
    assert_eq!(first.handle.cluster().await.unwrap().members.len(), 1);
    first.stop().await;
}

#[tokio::test]
async fn the_time_of_an_admission_is_that_of_its_day_however_long_nothing_was_stamped() {
    let directory = tempfile::tempdir().unwrap();
    let member = Plan::new("member").start(directory.path());
    member.until(State::NoCluster).await;
    member.handle.init(InitRequest::default()).await.unwrap();
    member.until(State::Ready).await;
    let stranger = Stranger::new(1, "stranger", "127.0.0.1:2");
    let (answer, _) = stranger.ask(&member.address().await, &Control::Join).await;
    let Some(Control::Welcome { records, .. }) = answer else { panic!("{answer:?}") };
    let mut rest = &records[..];
    let mut admitted = None;
    while let Ok((record, tail)) = RecordRef::parse(rest) {
        rest = tail;
        let entry = (record.collection() == ROSTER).then(|| RosterEntry::decode(record.body()).unwrap());
        admitted = entry.filter(|entry| entry.name == "stranger").map(|entry| entry.admitted).or(admitted);
    }
    assert!(admitted.unwrap() >= time_of_ms(stranger.made_ms()), "{admitted:?}");
    member.stop().await;
}

#[tokio::test]
async fn who_does_not_understand_factors_of_collections_is_let_in_only_while_there_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let member = Plan::new("member").start(directory.path());
    member.until(State::NoCluster).await;
    member.handle.init(InitRequest::default()).await.unwrap();
    member.until(State::Ready).await;
    let values = BTreeMap::from([("replication_factor".to_owned(), Some("1".to_owned()))]);
    let collections = BTreeMap::from([("c".to_owned(), values)]);
    let change = SettingsRequest { collections, ..SettingsRequest::default() };
    member.handle.change_settings(change, Caller::Anyone, false).await.unwrap();
    let address = member.address().await;
    let old = Stranger::new(1, "old", "127.0.0.1:2").speaking(CLASSES - 1);
    let (answer, _) = old.ask(&address, &Control::Join).await;
    let Some(Control::Refused(Refusal::NotReady(reason))) = answer else { panic!("{answer:?}") };
    assert!(reason.contains("upgrade that member"), "{reason}");
    let (answer, _) = Stranger::new(2, "new", "127.0.0.1:3").ask(&address, &Control::Join).await;
    assert!(matches!(answer, Some(Control::Welcome { .. })), "{answer:?}");
    member.stop().await;
}
