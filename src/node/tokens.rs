//! Making and revoking tokens.
//!
//! A token is one record under its name, so the rules are checked against what this member knows:
//! two members that are asked at the same time may both make a token of one name, and the later one
//! holds; or revoke the last two admins' tokens, and the operator's proof makes another
//! ([`super::access`]). At one member what is made or revoked is known to whoever is judged next, though it be
//! in the same turn: nothing is awaited between judging and writing.

use super::changes::write_confirmed;
use super::core::Shared;
use super::handle::ControlError;
use super::handle::tokens::{Control, CreatedToken, TokenList, TokenRequest, TokenRow, TokenText};
use super::local::{Mailbox, next};
use super::publish::Asked;
use super::{access::Caller, membership};
use crate::engine::operation::{Change, Outcome};
use crate::model::KeyRef;
use crate::model::key::TOKENS;
use crate::model::spelling::nearest;
use crate::model::token::{Grant, MAX_TOKENS, Token, Tokens};
use crate::security::Secret;
use rand::RngExt as _;
use std::rc::Rc;
use std::sync::Arc;

/// Answers a question about tokens, or begins to.
pub(super) fn answer(shared: &Rc<Shared>, control: Control) {
    let shared = Rc::clone(shared);
    // A reply that nobody waits for any more is no matter.
    match control {
        Control::List { by, reply } => _ = reply.send(list(&shared, &by)),
        Control::Create { request, by, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(create(&shared, request, &by).await);
            });
        }
        Control::Revoke { name, by, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(revoke(&shared, name, &by).await);
            });
        }
    }
}

fn tokens(shared: &Shared) -> Arc<Tokens> {
    shared.with(|core| core.engine.latest_tokens())
}

fn list(shared: &Shared, by: &Caller) -> Result<TokenList, ControlError> {
    membership::check_records(shared)?;
    Ok(listed(&tokens(shared), by))
}

fn listed(tokens: &Tokens, by: &Caller) -> TokenList {
    let known = tokens.iter().filter(|(_, token)| by.governs(&token.grants));
    let unreadable = tokens.unreadable().filter(|_| by.is_admin_of_all()).map(unreadable_row);
    let mut rows: Vec<TokenRow> = known.map(|(name, token)| row(name, token)).chain(unreadable).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    TokenList { tokens: rows }
}

fn row(name: &str, token: &Token) -> TokenRow {
    let (grants, created_ms) = (token.grants.clone(), Some(token.created_ms));
    TokenRow { name: name.to_owned(), grants, created_ms, unreadable: false }
}

fn unreadable_row(name: &str) -> TokenRow {
    TokenRow { name: name.to_owned(), grants: Vec::new(), created_ms: None, unreadable: true }
}

async fn create(shared: &Shared, request: TokenRequest, by: &Caller) -> Result<CreatedToken, ControlError> {
    membership::check_records(shared)?;
    let TokenRequest { name, grants } = request;
    let secret = zeroize::Zeroizing::new(Secret::generate(rand::rng().random()));
    let made = Token::create(&name, &secret, grants, shared.clock.now().wall_ms);
    let (token, text) = made.map_err(|error| ControlError::InvalidToken(error.to_string()))?;
    may_make(&tokens(shared), &name, &token, by)?;
    tracing::info!(name, by = by.name(), "token made");
    write_confirmed(shared, &[(TOKENS, name.as_bytes().to_vec(), token.encode())]).await?;
    Ok(CreatedToken { token: TokenText::new(text), row: row(&name, &token) })
}

fn may_make(tokens: &Tokens, name: &str, token: &Token, by: &Caller) -> Result<(), ControlError> {
    if !by.governs(&token.grants) {
        return Err(beyond(&token.grants));
    }
    if tokens.is_empty() && !token.is_admin_of_all() {
        return Err(ControlError::FirstToken);
    }
    if tokens.get(name).is_some() || tokens.is_unreadable(name) {
        return Err(ControlError::TokenExists(name.to_owned()));
    }
    if tokens.len() >= MAX_TOKENS {
        let message = format!("there are {MAX_TOKENS} tokens already; revoke what is not needed");
        return Err(ControlError::InvalidToken(message));
    }
    Ok(())
}

async fn revoke(shared: &Shared, name: String, by: &Caller) -> Result<TokenRow, ControlError> {
    membership::check_records(shared)?;
    let revoked = may_revoke(&tokens(shared), &name, by)?;
    tracing::info!(name, by = by.name(), "token revoked");
    let mailbox = Mailbox::new();
    shared.with(|core| {
        if let Ok(key) = KeyRef::new(TOKENS, name.as_bytes()) {
            let token = core.token(&mailbox, 0, Asked::Delete);
            core.engine.write_system(token, key, Change::Delete);
        }
    });
    let outcome = next(&mailbox).await.1;
    mailbox.close();
    match outcome {
        Outcome::Failed(error) => Err(ControlError::Unconfirmed(error.to_string())),
        _ => Ok(revoked),
    }
}

fn may_revoke(tokens: &Tokens, name: &str, by: &Caller) -> Result<TokenRow, ControlError> {
    if tokens.is_unreadable(name) && by.is_admin_of_all() {
        return Ok(unreadable_row(name));
    }
    let Some(token) = tokens.get(name) else {
        // Only names that may be known are told.
        let known = tokens.iter().filter(|(_, token)| by.governs(&token.grants)).map(|(name, _)| name);
        let name: String = name.chars().take(64).collect();
        let nearest = nearest(&name, known).map(str::to_owned);
        return Err(ControlError::UnknownToken { name, nearest });
    };
    if !by.governs(&token.grants) {
        return Err(beyond(&token.grants));
    }
    let admins = tokens.iter().filter(|(_, token)| token.is_admin_of_all()).count();
    if token.is_admin_of_all() && admins == 1 && tokens.len() > 1 {
        return Err(ControlError::LastAdminToken(name.to_owned()));
    }
    Ok(row(name, token))
}

/// Only an admin of all that a token is about changes it.
fn beyond(grants: &[Grant]) -> ControlError {
    let all: Vec<String> = grants.iter().map(ToString::to_string).collect();
    ControlError::Forbidden(format!(
        "tokens with {} are made and revoked by an admin of the same collections; use such a token",
        all.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::Role;
    use crate::node::handle::status::State;
    use crate::node::tests::Plan;
    use crate::security::KeyId;

    fn grant(role: Role, names: &str) -> Vec<Grant> {
        vec![Grant { role, collections: names.to_owned() }]
    }

    fn token(name: &str, grants: Vec<Grant>) -> Token {
        Token::create(name, "secret", grants, 0).unwrap().0
    }

    fn known(all: &[(&str, &Token)]) -> Tokens {
        let records: Vec<_> = all.iter().map(|(name, token)| (name.as_bytes(), token.encode())).collect();
        Tokens::from_records(records.iter().map(|(name, value)| (*name, value.as_slice())))
    }

    #[test]
    fn the_first_token_is_an_admins_of_everything() {
        for grants in [grant(Role::Write, "*"), grant(Role::Admin, "app")] {
            let made = may_make(&Tokens::default(), "t", &token("t", grants), &Caller::Anyone);
            assert_eq!(made, Err(ControlError::FirstToken));
        }
        let admin = token("t", grant(Role::Admin, "*"));
        assert_eq!(may_make(&Tokens::default(), "t", &admin, &Caller::Anyone), Ok(()));
    }

    #[test]
    fn the_last_admins_token_goes_last() {
        let (admin, other) = (token("a", grant(Role::Admin, "*")), token("o", grant(Role::Read, "*")));
        let both = known(&[("a", &admin), ("o", &other)]);
        let last = Err(ControlError::LastAdminToken("a".to_owned()));
        assert_eq!(may_revoke(&both, "a", &Caller::Operator(KeyId::default())).map(drop), last);
        assert!(may_revoke(&both, "o", &Caller::Operator(KeyId::default())).is_ok());
        assert!(may_revoke(&known(&[("a", &admin)]), "a", &Caller::Operator(KeyId::default())).is_ok());
        let second = token("b", grant(Role::Admin, "*"));
        let three = known(&[("a", &admin), ("b", &second), ("o", &other)]);
        assert!(may_revoke(&three, "a", &Caller::Operator(KeyId::default())).is_ok());
    }

    #[test]
    fn a_token_that_can_not_be_read_is_shown_to_and_revoked_by_an_admin_of_everything_and_its_name_is_taken_until_then()
     {
        let (admin, mine) = (token("a", grant(Role::Admin, "*")), token("m", grant(Role::Admin, "app.*")));
        let (one, two) = (admin.encode(), mine.encode());
        let records = [(&b"a"[..], &one[..]), (b"broken", b"no token"), (b"m", &two)];
        let all = Tokens::from_records(records.into_iter());
        let exists = Err(ControlError::TokenExists("broken".to_owned()));
        assert_eq!(may_make(&all, "broken", &mine, &Caller::Operator(KeyId::default())), exists);
        let by = Caller::Token("m".to_owned(), Arc::new(mine));
        assert!(matches!(may_revoke(&all, "broken", &by), Err(ControlError::UnknownToken { .. })));
        let names = |by: &Caller| {
            let rows = listed(&all, by).tokens.into_iter().map(|row| (row.name, row.unreadable));
            rows.collect::<Vec<_>>()
        };
        let named = |name: &str, unreadable| (name.to_owned(), unreadable);
        assert_eq!(names(&by), [named("m", false)]);
        for by in [Caller::Operator(KeyId::default()), Caller::Token("a".to_owned(), Arc::new(admin))] {
            assert_eq!(names(&by), [named("a", false), named("broken", true), named("m", false)]);
            let revoked = may_revoke(&all, "broken", &by).unwrap();
            assert!(revoked.unreadable && revoked.name == "broken" && revoked.created_ms.is_none());
        }
    }

    #[tokio::test]
    async fn of_those_who_ask_one_member_at_once_for_a_token_of_one_name_one_gets_it() {
        let place = tempfile::tempdir().unwrap();
        let member = Plan { bootstrap: true, ..Plan::new("one") }.start(place.path());
        member.until(State::Ready).await;
        for number in 0..8 {
            let request = TokenRequest { name: format!("admin-{number}"), grants: grant(Role::Admin, "*") };
            let ask = || member.handle.create_token(request.clone(), Caller::Operator(KeyId::default()));
            let answers = <[_; 4]>::from(tokio::join!(ask(), ask(), ask(), ask()));
            let made = answers.iter().filter(|answer| answer.is_ok()).count();
            let exists = Err(ControlError::TokenExists(request.name.clone()));
            let refused = answers.iter().filter(|answer| **answer == exists).count();
            assert_eq!((made, refused), (1, 3), "{answers:?}");
        }
        member.stop().await;
    }

    #[test]
    fn nobody_hands_out_or_takes_back_more_than_they_govern() {
        let (admin, mine) = (token("a", grant(Role::Admin, "*")), token("m", grant(Role::Admin, "app.*")));
        let all = known(&[("a", &admin), ("m", &mine)]);
        let by = Caller::Token("m".to_owned(), Arc::new(mine.clone()));
        let more = token("x", grant(Role::Read, "application"));
        assert!(matches!(may_make(&all, "x", &more, &by), Err(ControlError::Forbidden(_))));
        assert!(matches!(may_revoke(&all, "a", &by), Err(ControlError::Forbidden(_))));
        assert_eq!(may_make(&all, "x", &token("x", grant(Role::Write, "app.users")), &by), Ok(()));
        assert_eq!(may_make(&all, "m", &mine, &by), Err(ControlError::TokenExists("m".to_owned())));
        // The nearest name that it may know, and not the admin's.
        let alike = known(&[("other", &admin), ("mother", &mine)]);
        let unknown = may_revoke(&alike, "others", &by).unwrap_err();
        assert!(unknown.to_string().ends_with("`mother`"), "{unknown}");
    }
}
