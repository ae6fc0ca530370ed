//! A member alone that changes its secret.

use super::*;
use crate::model::Timestamp;
use crate::node::access::Caller;
use crate::node::handle::ControlError;
use crate::node::handle::secrets::{AddRequest, SecretStep};
use crate::node::handle::status::State as MemberState;
use crate::node::handle::tokens::TokenText;
use crate::node::links::{next_control, send_control};
use crate::node::tests::{Plan, Running, Stranger};
use crate::security::{Identity, ProtocolRange, Secret};
use crate::storage::OsDisk;

fn request(text: &str) -> AddRequest {
    AddRequest { secret: TokenText::new(text.to_owned()) }
}

async fn start(directory: &std::path::Path) -> Running {
    let member = Plan { bootstrap: true, ..Plan::new("one") }.start(directory);
    member.until(MemberState::Ready).await;
    member
}

#[tokio::test]
async fn a_member_alone_changes_its_secret_and_goes_by_it_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let member = start(place.path()).await;
    let first = member.handle.secret().await.unwrap();
    let added = member.handle.add_secret(request("  a second good secret\n"), Caller::Anyone).await.unwrap();
    assert_eq!((added.step, added.uses.clone()), (SecretStep::Added, first.uses.clone()));
    let used = member.handle.use_secret(false, Caller::Anyone).await.unwrap();
    assert_eq!(used.accepts, [added.accepts[1].clone(), first.uses.clone()]);
    member.stop().await;

    let member = start(place.path()).await;
    assert_eq!(member.handle.secret().await.unwrap(), used);
    let retired = member.handle.retire_secret(false, Caller::Anyone).await.unwrap();
    assert_eq!((retired.step, retired.accepts.clone()), (SecretStep::Retired, vec![used.uses]));
    let warnings = member.handle.status().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("the file of `one`")), "{warnings:?}");
    let again = member.handle.retire_secret(true, Caller::Anyone).await.unwrap();
    assert_eq!((again.step, again.accepts), (SecretStep::Retired, retired.accepts));
    let nothing = member.handle.use_secret(true, Caller::Anyone).await;
    assert!(matches!(nothing, Err(ControlError::SecretStep(_))), "{nothing:?}");
    assert!(!member.log.text().contains("second good"));
    member.stop().await;
}

#[tokio::test]
async fn of_secrets_that_are_added_at_once_one_is_changed_to_and_nobody_is_told_that_another_one_was() {
    let place = tempfile::tempdir().unwrap();
    let member = start(place.path()).await;
    let texts = ["a second good secret", "a third good secret", "a fourth good secret"];
    let [one, two, three] = texts.map(|text| member.handle.add_secret(request(text), Caller::Anyone));
    let (one, two, three) = tokio::join!(one, two, three);
    let answers = [one, two, three];
    let used = member.handle.use_secret(false, Caller::Anyone).await.unwrap();
    let known = texts.map(|text| {
        let secret = Secret::parse(text).unwrap();
        ClusterKeys::derive(&secret, "test").unwrap().id().to_string()
    });
    assert!(known.contains(&used.uses), "{used:?}");
    for (id, answer) in known.into_iter().zip(answers) {
        match answer {
            Ok(added) => {
                assert_eq!((added.step, added.accepts.get(1)), (SecretStep::Added, Some(&id)));
            }
            Err(ControlError::SecretStep(reason)) => {
                assert!(id != used.uses && reason.contains("another secret was added later"), "{reason}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    member.stop().await;
}

#[tokio::test]
async fn nobody_is_let_in_whose_secret_is_retired_between_its_link_and_its_wish_to_join() {
    let place = tempfile::tempdir().unwrap();
    let member = start(place.path()).await;
    let stranger = Stranger::new(9, "late", "127.0.0.1:9");
    let mut link = stranger.dial(&member.address().await).await;
    member.handle.add_secret(request("a second good secret"), Caller::Anyone).await.unwrap();
    member.handle.use_secret(false, Caller::Anyone).await.unwrap();
    member.handle.retire_secret(false, Caller::Anyone).await.unwrap();
    assert!(send_control(&mut link.writer, &Control::Join).await);
    let answer = next_control(&mut link.reader).await;
    let Some(Control::Refused(Refusal::NotReady(reason))) = &answer else { panic!("{answer:?}") };
    assert!(reason.contains("retired"), "{reason}");
    assert_eq!(member.handle.roster().await.unwrap().entries.len(), 1);
    member.stop().await;
}

fn two_secrets() -> [ClusterKeys; 2] {
    ["a first good secret", "a second good secret"]
        .map(|text| ClusterKeys::derive(&Secret::parse(text).unwrap(), "c").unwrap())
}

/// A step of changing one to the other.
fn change_of(old: &ClusterKeys, new: &ClusterKeys, step: Step) -> State {
    let added = Timestamp { time: 5, member: MemberId(7) };
    State { number: 2, step, added, to: new.id(), from: old.id() }
}

#[tokio::test]
async fn what_stands_in_the_file_is_told_while_the_member_runs_and_opens_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("cluster.secret");
    let [old, new] = two_secrets();
    let retired = change_of(&old, &new, Step::Retired);
    let sealed = old.envelope(&new, [[1; 12], [2; 12]]).unwrap();
    let ring = Ring::of_file(old.clone()).take(&retired, Some(&sealed), &old).unwrap();
    let fixed = Credentials {
        identity: Identity::generate([9; 32]).unwrap(),
        keyring: ring.keyring().clone(),
        cluster: "c".to_owned(),
        protocol: ProtocolRange { min: 1, max: 1 },
    };
    let text = SecretText::new("a first good secret").unwrap();
    let secrets = Secrets::new(fixed, text, old.clone(), ring);
    let told = || secrets.tell(Facts::default()).secret_file;
    assert_eq!((told(), secrets.counts()), (number_of(old.id()), (1, true)));
    let look = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        file::look(&secrets, path.clone(), "c".to_owned()).await;
        secrets.in_file.borrow().problem().cloned()
    };
    assert_eq!(look("a second good secret\n").await, None);
    assert_eq!((told(), secrets.counts()), (number_of(new.id()), (1, false)));
    let cut = look("a second").await.unwrap();
    assert!(cut.contains("8 bytes") && !cut.contains("second"), "{cut}");
    assert_eq!(told(), number_of(new.id()), "the last that could be read");
    assert_eq!(look("a second good secert").await, None);
    let mistyped = secrets.in_file.borrow().id();
    assert!(!secrets.accepts(mistyped) && !secrets.is_retired(mistyped), "{mistyped}");
    assert_eq!((told(), secrets.counts()), (number_of(mistyped), (1, true)));
    assert_eq!(look("a first good secret").await, None);
    assert!(secrets.is_retired(secrets.in_file.borrow().id()));
    std::fs::remove_file(&path).unwrap();
    file::look(&secrets, path.clone(), "c".to_owned()).await;
    assert!(secrets.in_file.borrow().problem().is_some_and(|problem| problem.contains("can't read")));
}

#[test]
fn the_records_that_a_power_cut_took_from_under_a_ring_are_made_again_as_far_as_they_are_needed() {
    let [old, new] = two_secrets();
    let stamp = |time| Timestamp { time, member: MemberId(7) };
    let sealed = old.envelope(&new, [[1; 12], [2; 12]]).unwrap();
    let state = |step| change_of(&old, &new, step);
    let read = |records: &[(Vec<u8>, Note)], time| {
        let records: Vec<_> = records.iter().map(|(key, note)| (key, note.to_bytes())).collect();
        let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice(), stamp(time)));
        Rotations::from_records(records)
    };
    let mut ring = Ring::of_file(old.clone());
    for (step, lost) in [(Step::Added, 1), (Step::Used, 2), (Step::Retired, 1)] {
        ring = ring.take(&state(step), Some(&sealed), &old).unwrap();
        let again = missing(&ring, &Rotations::default());
        assert_eq!(again.len(), lost, "{step:?}");
        let rotations = read(&again, 9);
        // The same secret, added again, is a later state; the steps behind that are what they were.
        let expected =
            if step == Step::Added { State { added: stamp(9), ..state(step) } } else { state(step) };
        assert_eq!((rotations.in_force(), rotations.unreadable()), (Some(expected), 0));
        let opens = rotations.sealed(&expected).and_then(|sealed| old.open(&sealed.to, new.id()));
        assert_eq!(opens.is_some(), step != Step::Retired);
        assert!(missing(&ring, &rotations).is_empty());
    }
    // What others have still is not made again.
    let used = Ring::of_file(old.clone()).take(&state(Step::Used), Some(&sealed), &old).unwrap();
    let added = (state(Step::Added).key(), Note::of_added(old.id(), &sealed));
    let again = missing(&used, &read(&[added], 5));
    assert_eq!(again, [(state(Step::Used).key(), Note::of_step(&state(Step::Used)))]);
    assert!(missing(&Ring::of_file(old.clone()), &Rotations::default()).is_empty());
}

#[test]
fn a_ring_that_is_damaged_is_an_error_that_says_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(place.path()).unwrap();
    let keys = ClusterKeys::derive(&Secret::parse("a second good secret").unwrap(), "c").unwrap();
    assert_eq!(load(&disk, &keys).unwrap().keyring().current().id(), keys.id());
    small::write_atomic(&disk, RING_FILE, &Ring::of_file(keys.clone()).to_bytes()).unwrap();
    assert_eq!(load(&disk, &keys).unwrap().keyring().current().id(), keys.id());
    // Its format is known, and nothing else makes sense.
    small::write_atomic(&disk, RING_FILE, b"\x01no ring").unwrap();
    let whole_but_senseless = load(&disk, &keys).unwrap_err().to_string();
    small::write_atomic(&disk, RING_FILE, b"\x02and more").unwrap();
    let newer = load(&disk, &keys).unwrap_err().to_string();
    assert!(newer.contains("run a newer kith"), "{newer}");
    std::fs::write(place.path().join(RING_FILE), b"no file of kith").unwrap();
    for error in [whole_but_senseless, load(&disk, &keys).unwrap_err().to_string()] {
        assert!(
            error.starts_with("secrets is damaged") && error.contains("remove the file `secrets`"),
            "{error}"
        );
    }
}
