//! AUTH, and what a client may do.
//!
//! Each command has a [`Need`], and a client a [`Session`], which knows the role that the client has in
//! the collection it selected; so the question costs a comparison. What a token loses meanwhile, also
//! by being revoked, the session loses with the connection's next turn ([`Session::refresh`]).
//!
//! Errors are Redis's, word for word where Redis has them.

use super::{Context, Flow};
use crate::model::token::Role;
use crate::node::access::{Access, Caller, Denied, Origin};
use crate::node::local::Local;
use crate::resp::clients::{DEFAULT_USER, Shown};
use crate::resp::parse::Arguments;

/// What a command takes. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing: it is how clients come in, or go.
    Nothing,
    /// To be let in.
    Known,
    /// The role `read` in the selected collection.
    Read,
    /// The role `write` there.
    Write,
}

/// Who a client is, and what that allows in the collection it selected.
#[derive(Debug)]
pub struct Session {
    access: Access,
    origin: Origin,
    caller: Option<Caller>,
    may: Need,
}

impl Session {
    /// Of a client that just came, with `collection` selected.
    pub fn new(access: Access, origin: Origin, collection: &str) -> Self {
        let mut session = Self { access, origin, caller: None, may: Need::Nothing };
        session.review(collection);
        session
    }

    /// Lets others see whose connection it is.
    fn show(&self, shown: &Shown) {
        *shown.user.borrow_mut() = self.caller.as_ref().and_then(Caller::name).map(str::to_owned);
    }

    /// Whether the client of `own` may be told of another connection: an admin of everything of all of them, others
    /// of those with the same token.
    pub fn may_see(&self, own: &Shown, other: &Shown) -> bool {
        let is_admin = self.caller.as_ref().is_some_and(Caller::is_admin_of_all);
        let has_name = own.user.borrow().is_some();
        is_admin || own.id == other.id || has_name && own.user == other.user
    }

    /// Whether a command may be carried out.
    #[inline]
    pub fn may(&self, need: Need) -> bool {
        need <= self.may
    }

    /// Another collection was selected.
    pub fn select(&mut self, collection: &str) {
        let allows = |role| self.caller.as_ref().is_some_and(|caller| caller.allows(role, collection));
        self.may = match self.caller {
            None => Need::Nothing,
            Some(_) if allows(Role::Write) => Need::Write,
            Some(_) if allows(Role::Read) => Need::Read,
            Some(_) => Need::Known,
        };
    }

    /// Forgets what the client showed, as if it had just come.
    pub fn reset(&mut self, collection: &str, shown: &Shown) {
        self.caller = None;
        self.review(collection);
        self.show(shown);
    }

    /// Whether a collection that is not selected may be read.
    pub fn may_read(&self, collection: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.allows(Role::Read, collection))
    }

    /// Whether a collection that is not selected may be written.
    pub fn may_write(&self, collection: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.allows(Role::Write, collection))
    }

    /// Takes in changes of the tokens since the last call. To be called once a turn.
    #[inline]
    pub fn refresh(&mut self, collection: &str, shown: &Shown) {
        if self.access.has_changed() {
            self.review(collection);
            self.show(shown);
        }
    }

    fn review(&mut self, collection: &str) {
        self.caller = self.access.review(self.origin, self.caller.take());
        self.select(collection);
    }

    /// Why nobody from where the client is can be let in now, whatever it shows.
    pub fn turned_away(&self) -> Option<Denied> {
        if self.caller.is_some() || self.access.needs_token() {
            return None;
        }
        self.access.admit(self.origin, None).err()
    }

    /// Takes the token that a client shows as the password of a user.
    fn authenticate(&mut self, user: &[u8], token: &[u8], collection: &str) -> Result<(), Denied> {
        let token = std::str::from_utf8(token).unwrap_or_default();
        let caller = self.access.admit(self.origin, Some(token))?;
        if user != DEFAULT_USER.as_bytes() && caller.name().is_some_and(|name| name.as_bytes() != user) {
            return Err(Denied::Wrong);
        }
        self.caller = Some(caller);
        self.select(collection);
        Ok(())
    }
}

/// AUTH \[user\] token
pub fn auth<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let (user, token) = match arguments.len() {
        2 => (DEFAULT_USER.as_bytes(), arguments.get(1)),
        3 => (arguments.get(1), arguments.get(2)),
        _ => return context.error("syntax error"),
    };
    if arguments.len() == 2 && !context.client.session.access.needs_token() {
        return context.error(
            "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        );
    }
    match log_in(context, user, token) {
        Ok(()) => context.answer_ok(),
        Err(refused) => refused,
    }
}

/// Takes the user and token of AUTH or HELLO; `Err` if that was answered with an error.
pub fn log_in<L: Local>(context: &mut Context<'_, L>, user: &[u8], token: &[u8]) -> Result<(), Flow> {
    let client = &mut *context.client;
    match client.session.authenticate(user, token, &client.collection) {
        Ok(()) => {
            client.session.show(&client.shown);
            Ok(())
        }
        Err(Denied::Starting) => Err(context.error(&Denied::Starting.to_string())),
        Err(_) => {
            let message = b"invalid username-password pair or user is disabled.";
            Err(context.refuse("WRONGPASS", message))
        }
    }
}

/// Answers a command that the client may not use.
///
/// One that lost its right in its middle ends the connection: neither is it known how far it came, nor may what it
/// has found or asked be met by a command after it.
pub fn refuse<L: Local>(context: &mut Context<'_, L>, command: &str, need: Need) -> Flow {
    let client = &mut *context.client;
    if client.progress.has_begun() {
        client.quits = true;
        let begun = std::mem::take(&mut client.progress);
        if !begun.is_between() {
            context.replies.withdraw(begun.token);
        }
    }
    if !context.client.session.may(Need::Known) {
        return context.refuse("NOAUTH", b"Authentication required.");
    }
    context.client.session.access.count_forbidden();
    let message = match need {
        Need::Read | Need::Write => {
            "this user has no permissions to access one of the keys used as arguments".to_owned()
        }
        Need::Nothing | Need::Known => {
            format!("this user has no permissions to run the '{command}' command")
        }
    };
    context.refuse("NOPERM", message.as_bytes())
}

/// Answers HELLO of a client that was not let in and shows nothing.
pub fn refuse_hello<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let message = b"HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
    context.refuse("NOAUTH", message)
}
