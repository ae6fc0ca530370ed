//! Who is let in, by where it comes from and what it shows.

use super::*;
use crate::security::secret::{ClusterKeys, Secret};
use std::sync::LazyLock;

static KEYS: LazyLock<ClusterKeys> =
    LazyLock::new(|| ClusterKeys::derive(&Secret::parse("a secret of sixteen bytes").unwrap(), "c").unwrap());

const HERE: Origin = Origin { local: true, encrypted: false };

fn elsewhere(encrypted: bool) -> Origin {
    from("192.0.2.7", "192.0.2.1", encrypted)
}

fn from(peer: &str, own: &str, encrypted: bool) -> Origin {
    Origin::new(peer.parse().unwrap(), Some(own.parse().unwrap()), encrypted)
}

fn access(anyone: bool) -> (Publisher, Access) {
    Access::new(Keyring::new(KEYS.clone(), None), anyone)
}

fn some_tokens(names: &[&str]) -> (Arc<Tokens>, Vec<String>) {
    let made = names.iter().map(|name| {
        let (token, text) = Token::create(name, "secret", vec![Grant::everywhere(Role::Write)], 0).unwrap();
        ((*name, token.encode()), text)
    });
    let (records, texts): (Vec<_>, Vec<_>) = made.unzip();
    let records = records.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
    (Arc::new(Tokens::from_records(records)), texts)
}

#[test]
fn nobody_is_let_in_before_the_tokens_are_known() {
    let (publisher, access) = access(true);
    publisher.publish_step("records");
    for shown in [None, Some("kith_a_b"), Some(&*operator::prove(&KEYS, unix_seconds()))] {
        assert_eq!(access.admit(HERE, shown), Err(Denied::Starting));
    }
    assert_eq!(access.step(), Some("records"));
    publisher.publish(&Arc::default());
    assert_eq!(access.step(), None);
}

#[test]
fn without_tokens_this_machine_is_served_and_others_only_if_the_file_says_so() {
    let (publisher, closed) = access(false);
    publisher.publish(&Arc::default());
    for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "192.0.2.1", "::ffff:192.0.2.1"] {
        assert_eq!(closed.admit(from(here, "192.0.2.1", false), None), Ok(Caller::Anyone), "{here}");
    }
    for there in ["192.168.1.2", "10.0.0.1", "0.0.0.0", "2001:db8::1", "::ffff:10.0.0.1", "fe80::1"] {
        let origin = from(there, "192.0.2.1", true);
        assert_eq!(closed.admit(origin, None), Err(Denied::NoTokens), "{there}");
        assert!(!Origin::new(there.parse().unwrap(), None, true).local, "{there}");
    }
    let (publisher, open) = access(true);
    publisher.publish(&Arc::default());
    assert_eq!(open.admit(elsewhere(false), None), Ok(Caller::Anyone));
    assert_eq!(open.admit(HERE, Some("kith_gone_secret")), Err(Denied::Wrong), "what is shown must be right");
}

#[test]
fn from_the_first_token_on_everybody_needs_one() {
    let (publisher, access) = access(true);
    let (tokens, texts) = some_tokens(&["app"]);
    publisher.publish(&tokens);
    for origin in [HERE, elsewhere(true)] {
        assert_eq!(access.admit(origin, None), Err(Denied::Missing));
        assert_eq!(access.admit(origin, Some("kith_app_Secret")), Err(Denied::Wrong));
        assert_eq!(access.admit(origin, Some(&texts[0])).unwrap().name(), Some("app"));
    }
    assert_eq!(access.counts().totals(), [2, 2, 0, 0]);
}

#[test]
fn an_operators_proof_is_believed_only_where_nobody_reads_along() {
    let (publisher, access) = access(false);
    publisher.publish(&some_tokens(&["app"]).0);
    let proof = operator::prove(&KEYS, unix_seconds());
    for (origin, believed) in [(HERE, true), (elsewhere(true), true), (elsewhere(false), false)] {
        let judged = access.admit(origin, Some(&proof));
        assert_eq!(judged.is_ok_and(|caller| caller.is_admin_of_all()), believed, "{origin:?}");
    }
    let old = operator::prove(&KEYS, unix_seconds() - 2 * operator::LIFETIME_S);
    assert_eq!(access.admit(HERE, Some(&old)), Err(Denied::Wrong));
}

#[test]
fn who_is_connected_loses_what_its_token_loses() {
    let (publisher, mut access) = access(false);
    publisher.publish(&Arc::default());
    let early = access.admit(HERE, None).unwrap();
    let (tokens, texts) = some_tokens(&["one", "two"]);
    publisher.publish(&tokens);
    assert!(access.has_changed());
    assert_eq!(access.review(HERE, Some(early)), None, "it came when none was needed");
    assert!(!access.has_changed());
    let [one, two] = [0, 1].map(|at: usize| access.admit(HERE, Some(&texts[at])).unwrap());
    publisher.publish(&some_tokens(&["two"]).0);
    assert!(access.has_changed());
    assert_eq!(access.review(HERE, Some(one)), None);
    assert_eq!(access.review(HERE, Some(two.clone())), Some(two));
    publisher.publish(&Arc::default());
    assert_eq!(access.review(elsewhere(true), None), None);
    assert_eq!(access.review(HERE, None), Some(Caller::Anyone));
}

#[test]
fn who_came_with_a_secret_that_is_retired_may_do_nothing_more() {
    let (publisher, mut access) = access(false);
    publisher.publish(&some_tokens(&["one"]).0);
    let proof = operator::prove(&KEYS, unix_seconds());
    let operator = access.admit(HERE, Some(&proof)).unwrap();
    let new = ClusterKeys::derive(&Secret::parse("another secret of some length").unwrap(), "c").unwrap();
    publisher.publish_keyring(Keyring::new(new.clone(), Some(KEYS.clone())));
    assert!(access.has_changed());
    assert_eq!(access.review(HERE, Some(operator.clone())), Some(operator.clone()));
    assert!(!access.has_changed());
    publisher.publish_keyring(Keyring::new(new, None));
    assert_eq!(access.review(HERE, Some(operator)), None);
    assert_eq!(access.admit(HERE, Some(&proof)), Err(Denied::Wrong));
}

#[test]
fn who_may_have_lost_its_tokens_shows_its_state_and_nothing_else() {
    let (publisher, mut access) = access(true);
    publisher.publish_unsure();
    let observer = access.admit(HERE, None).unwrap();
    assert!(
        !observer.allows(Role::Read, "default")
            && !observer.is_admin_of_all()
            && !observer.governs(&[Grant::everywhere(Role::Read)])
    );
    assert_eq!(access.admit(elsewhere(true), None), Err(Denied::Starting));
    assert_eq!(access.admit(HERE, Some("kith_app_secret")), Err(Denied::Starting));
    let proof = operator::prove(&KEYS, unix_seconds());
    assert_eq!(access.admit(HERE, Some(&proof)), Ok(Caller::Operator(KEYS.id())));
    publisher.publish(&Arc::default());
    assert_eq!(access.review(HERE, Some(observer)), Some(Caller::Anyone));
}
