//! What a claim promises, and what a start makes of the mark.

use super::*;
use crate::engine::{Bounds, Engine};
use crate::node::handle::status::State;
use crate::node::tests::{Plan, Running, Stranger, until};
use crate::protocol::ProtocolError;
use crate::security::Identity;
use crate::storage::OsDisk;
use std::path::Path;

const SECOND_US: u64 = 1_000_000;
const PROMISE_US: u64 = PROMISE.as_secs() * SECOND_US;

fn me() -> (MemberId, &'static str) {
    (MemberId(5), "me")
}

#[test]
fn a_promise_binds_to_one_until_it_is_released_or_over() {
    let mut creating = Creating::default();
    let first = creating.promise(me(), (MemberId(9), "nine"), 0).unwrap();
    for now_us in [1, PROMISE_US - 1] {
        assert_eq!(creating.promise(me(), (MemberId(1), "one"), now_us), Err("nine".to_owned()));
        assert_eq!(creating.begin(now_us), Err("nine".to_owned()));
    }
    // The same one may try again; what it was promised before is not what is released then.
    let again = creating.promise(me(), (MemberId(9), "nine"), SECOND_US).unwrap();
    creating.release(first);
    assert!(creating.begin(PROMISE_US).is_err());
    creating.release(again);
    creating.promise(me(), (MemberId(1), "one"), 2 * SECOND_US).unwrap();
    creating.begin(2 * SECOND_US + PROMISE_US).unwrap();
}

#[test]
fn of_two_claims_the_lower_id_goes_on() {
    let mut creating = Creating::default();
    creating.begin(0).unwrap();
    assert_eq!(creating.promise(me(), (MemberId(6), "six"), 1), Err("me".to_owned()));
    assert!(creating.promised(1).is_none());
    creating.promise(me(), (MemberId(4), "four"), 1).unwrap();
    assert_eq!(creating.promised(2).map(|promise| promise.name.as_str()), Some("four"));
}

#[test]
fn what_a_member_belongs_to_is_read_as_it_was_written() {
    let place = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(place.path()).unwrap();
    assert!(load_cluster(&disk).unwrap().is_none());
    let facts = ClusterFacts { id: 7, name: "name".to_owned(), partition_bits: 3 };
    for belonging in [
        Belonging::Together,
        Belonging::Alone,
        Belonging::Founding(Vec::new()),
        Belonging::Founding(vec![1, 2, 3]),
    ] {
        store_cluster(&disk, &facts, &belonging).unwrap();
        assert_eq!(load_cluster(&disk).unwrap(), Some((facts.clone(), belonging)));
    }
    let no_cluster = ClusterFacts { partition_bits: MAX_PARTITION_BITS + 1, ..facts };
    store_cluster(&disk, &no_cluster, &Belonging::Alone).unwrap();
    assert!(load_cluster(&disk).is_err());
    for garbage in [&b""[..], b"\x00", b"\x00\xff\xff\xff\xff", b"\x09\x00\x00\x00\x00"] {
        small::write_atomic(&disk, CLUSTER_FILE, garbage).unwrap();
        assert!(load_cluster(&disk).is_err(), "{garbage:?}");
    }
}

fn belonging(data: &Path) -> Belonging {
    load_cluster(&OsDisk::new(data).unwrap()).unwrap().unwrap().1
}

/// Removes every record, but what tells who the member is and what it belongs to.
fn lose_records(data: &Path) {
    const KEPT: [&str; 4] = ["identity", "incarnation", "cluster", "lock"];
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match KEPT.contains(&name) {
            true => {}
            false if path.is_dir() => std::fs::remove_dir_all(&path).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
    }
}

/// The stamps of the first settings; the roster's entry may get a new address at each start here.
async fn stamps(member: &Running) -> Vec<Option<String>> {
    let settings = member.handle.settings().await.unwrap();
    settings.entries.into_iter().map(|entry| entry.timestamp).collect()
}

#[tokio::test]
async fn init_answers_when_the_first_records_are_durable_and_a_start_stores_them_never_again() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan::new("one");
    let member = plan.start(directory.path());
    member.until(State::NoCluster).await;
    let id = member.handle.init(InitRequest::default()).await.unwrap().id;
    assert_eq!(belonging(&plan.data(directory.path())), Belonging::Alone);
    let status = member.until(State::Ready).await;
    // Every setting and the member's own entry, though there was no checkpoint yet.
    assert_eq!(status.storage.records, DEFINITIONS.len() as u64 + 1);
    member.handle.init(InitRequest::default()).await.unwrap();
    let other = InitRequest { partitions: Some(8), ..InitRequest::default() };
    assert!(matches!(member.handle.init(other).await, Err(ControlError::OtherContent(_))));
    let before = stamps(&member).await;
    member.stop().await;

    let member = plan.start(directory.path());
    member.until(State::Ready).await;
    assert_eq!(stamps(&member).await, before);
    member.stop().await;

    // Nobody else was ever let in, so nobody has what is lost here.
    lose_records(&plan.data(directory.path()));
    let plan = Plan { bootstrap: true, ..plan };
    let member = plan.start(directory.path());
    let status = member.until(State::RecordsLost).await;
    assert_eq!(status.cluster.unwrap().id, id);
    assert!(status.warnings.iter().any(|warning| warning.contains("is gone")), "{:?}", status.warnings);
    for refused in [member.handle.init(InitRequest::default()).await, member.handle.cluster().await] {
        assert!(matches!(refused, Err(ControlError::RecordsLost { .. })), "{refused:?}");
    }
    assert!(member.log.text().contains("is gone"), "{}", member.log.text());
    assert_eq!(member.handle.status().await.unwrap().state, State::RecordsLost);
    member.stop().await;
}

#[tokio::test]
async fn a_start_that_finds_the_mark_stores_the_same_first_records_and_removes_it() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan::new("one");
    let member = plan.start(directory.path());
    member.until(State::NoCluster).await;
    let address = member.address().await;
    member.stop().await;
    let data = plan.data(directory.path());
    let disk = OsDisk::new(&data).unwrap();
    let identity = Identity::from_bytes(&small::read(&disk, "identity").unwrap().unwrap()).unwrap();
    let entry = crate::model::roster::RosterEntry {
        name: "one".to_owned(),
        public_key: identity.public_key(),
        address: address.clone(),
        http_address: address,
        zone: String::new(),
        next_zone: None,
        state: MemberState::Active,
        admitted: 77,
    };
    let who = crate::engine::Identity { member: identity.member_id(), incarnation: 1, life: 1 };
    let mut engine = Engine::new(who, Bounds::default(), 4);
    let entries = [
        (ROSTER, entry_key(identity.member_id()), entry.encode()),
        (SETTINGS, b"replication_factor".to_vec(), b"2".to_vec()),
    ];
    let mark = Belonging::Founding(engine.stamp_first_records(&entries));
    let facts = ClusterFacts { id: 7, name: "test".to_owned(), partition_bits: 4 };

    // Killed before anything but the mark was written, after all of it was, and with the records lost again.
    let mut seen = Vec::new();
    for lost in [true, false, true] {
        store_cluster(&disk, &facts, &mark).unwrap();
        if lost {
            lose_records(&data);
        }
        let member = plan.start(directory.path());
        member.until(State::Ready).await;
        assert_eq!(belonging(&data), Belonging::Alone);
        let factor = member.handle.settings().await.unwrap();
        seen.push(factor.entries.into_iter().find(|entry| entry.name == "replication_factor").unwrap());
        member.stop().await;
    }
    assert_eq!(seen[0].value, "2");
    assert!(seen.iter().all(|entry| *entry == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn who_promised_creates_nothing_and_promises_nobody_else_until_it_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let member = Plan { bootstrap: true, seeds: vec!["127.0.0.1:1".to_owned()], ..Plan::new("one") }
        .start(directory.path());
    member.until(State::NoCluster).await;
    let address = member.address().await;
    let (first, second) =
        (Stranger::new(1, "first", "127.0.0.1:2"), Stranger::new(2, "second", "127.0.0.1:3"));
    let (promised, mut link) = first.ask(&address, &Control::Claim).await;
    assert_eq!(promised, Some(Control::Promised { callers: Vec::new() }));

    let refused = member.handle.init(InitRequest::default()).await;
    assert_eq!(refused, Err(ControlError::Creating("first".to_owned())));
    let (refused, _) = second.ask(&address, &Control::Claim).await;
    assert_eq!(refused, Some(Control::Refused(Refusal::Creating("first".to_owned()))));
    // Repeated by the same one it is promised again, and names the other.
    let (promised, _) = first.ask(&address, &Control::Claim).await;
    assert_eq!(promised, Some(Control::Promised { callers: vec!["127.0.0.1:3".to_owned()] }));

    // That promise is the one that stands: released is only the first.
    assert!(send_control(&mut link.writer, &Control::Release).await);
    let (_, mut link) = first.ask(&address, &Control::Claim).await;
    assert!(send_control(&mut link.writer, &Control::Release).await);
    until("the promise is given back", async || {
        let (promised, mut link) = second.ask(&address, &Control::Claim).await;
        let Some(Control::Promised { .. }) = promised else { return Err(format!("{promised:?}")) };
        assert!(send_control(&mut link.writer, &Control::Release).await);
        Ok(())
    })
    .await;
    until("a person creates the cluster", async || {
        member.handle.init(InitRequest::default()).await.map_err(|error| error.to_string())
    })
    .await;
    assert!(member.handle.status().await.unwrap().cluster.is_some());
    member.stop().await;
}

/// A seed that says it knows no cluster, and promises or refuses.
async fn seed(answer: impl Fn() -> Control + 'static) -> (String, tokio::task::JoinHandle<()>) {
    let gate = std::sync::Arc::new(crate::security::Gate::new(8, 8));
    let stranger = Stranger::new(9, "seed", "127.0.0.1:9");
    let protocol = stranger.protocol();
    let acceptor = crate::transport::Acceptor::bind("127.0.0.1:0", gate, protocol).await.unwrap();
    let address = acceptor.local_address().unwrap().to_string();
    let serving = tokio::task::spawn_local(async move {
        loop {
            let Ok(mut link) = stranger.accept(&acceptor).await else { continue };
            let answer = match next_control(&mut link.reader).await {
                Some(Control::Join) => Control::NoCluster,
                _ => answer(),
            };
            send_control(&mut link.writer, &answer).await;
            _ = link.writer.close().await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_member_creates_nothing_while_a_seed_that_knew_no_cluster_has_promised_another() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let directory = tempfile::tempdir().unwrap();
            let refusing = Rc::new(std::cell::Cell::new(true));
            let asked = Rc::new(std::cell::Cell::new(0));
            let (refuses, counts) = (Rc::clone(&refusing), Rc::clone(&asked));
            let (address, serving) = seed(move || {
                counts.set(counts.get() + 1);
                if refuses.get() {
                    Control::Refused(Refusal::Creating("another".to_owned()))
                } else {
                    Control::Promised { callers: Vec::new() }
                }
            })
            .await;
            // A stranger would create the cluster itself if its id were the lowest; it says that it would not.
            let member =
                Plan { bootstrap: true, seeds: vec![address], ..Plan::new("one") }.start(directory.path());
            until("the seed was asked for a promise", async || {
                if asked.get() > 1 { Ok(()) } else { Err(asked.get().to_string()) }
            })
            .await;
            assert_eq!(member.handle.status().await.unwrap().state, State::NoCluster);
            let refused = member.handle.init(InitRequest::default()).await;
            assert!(
                matches!(&refused, Err(ControlError::Refused { code, .. }) if code == "creating")
                    || matches!(&refused, Err(ControlError::Creating(_))),
                "{refused:?}"
            );
            refusing.set(false);
            member.until(State::Ready).await;
            serving.abort();
            member.stop().await;
        })
        .await;
}

#[test]
fn a_claim_and_its_answers_are_read_as_they_were_written() -> Result<(), ProtocolError> {
    for control in [
        Control::Claim,
        Control::Promised { callers: vec!["127.0.0.1:1".to_owned()] },
        Control::Release,
        Control::Refused(Refusal::Creating("name".to_owned())),
    ] {
        assert_eq!(Control::decode(&control.encode()?)?, control);
    }
    Ok(())
}
