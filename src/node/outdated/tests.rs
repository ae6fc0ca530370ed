//! The mark of an outdated data directory, and what a member does that was refused for an old life.

use super::{Outdated, load, store};
use crate::node::handle::ControlError;
use crate::node::handle::status::{InitRequest, State};
use crate::node::tests::{Plan, until};
use crate::storage::{OsDisk, small};
use std::fs;

#[test]
fn the_mark_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(directory.path()).unwrap();
    assert_eq!(load(&disk).unwrap(), None);
    let outdated = Outdated { by: "member1".to_owned(), seen: 7, own: 3 };
    store(&disk, &outdated).unwrap();
    assert_eq!(load(&disk).unwrap(), Some(outdated));
    for content in [&b"short"[..], &[0; 15], b"0123456789012345\xff"] {
        small::write_atomic(&disk, super::MARK_FILE, content).unwrap();
        load(&disk).unwrap_err();
    }
}

#[tokio::test]
async fn one_that_never_got_in_and_is_refused_for_an_old_life_creates_and_joins_nothing_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let first = Plan::new("first").start(directory.path());
    first.until(State::NoCluster).await;
    first.handle.init(InitRequest::default()).await.unwrap();
    first.until(State::Ready).await;
    let seed = first.address().await;

    // Two starts, the second of which is known to the first member; then the directory is as before it.
    let alone = Plan::new("second");
    let second = alone.start(directory.path());
    second.until(State::NoCluster).await;
    second.stop().await;
    let data = alone.data(directory.path());
    let kept = ["identity", "incarnation"].map(|name| (name, fs::read(data.join(name)).unwrap()));
    for _ in 0..2 {
        let second = Plan { seeds: vec![seed.clone()], ..alone.clone() }.start(directory.path());
        second.until(State::Ready).await;
        second.stop().await;
    }
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    for (name, content) in &kept {
        fs::write(data.join(name), content).unwrap();
    }
    let old = Plan { seeds: vec![seed.clone()], ..alone.clone() }.start(directory.path());
    let status = old.until(State::Outdated).await;
    assert_eq!(status.incarnation, 2);
    assert!(status.cluster.is_none(), "{status:?}");
    old.stop().await;

    let again = Plan { bootstrap: true, ..alone.clone() }.start(directory.path());
    let status = again.until(State::Outdated).await;
    assert_eq!(status.incarnation, 2, "it is not raised any more");
    for refused in [
        again.handle.init(InitRequest::default()).await.map(|_| ()),
        again.handle.join(seed).await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(ControlError::Outdated { seen: 3, own: 2, .. })), "{refused:?}");
    }
    until("it says why", async || {
        let log = again.log.text();
        if log.contains("`first` has seen incarnation 3") { Ok(()) } else { Err(log) }
    })
    .await;
    again.stop().await;
    first.stop().await;
}
