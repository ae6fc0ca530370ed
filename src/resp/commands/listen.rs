//! SUBSCRIBE, UNSUBSCRIBE and their kin with patterns.

use super::auth::{self, Need};
use super::{Context, Flow};
use crate::engine::operation::OperationError;
use crate::model::limits::MAX_KEY_BYTES;
use crate::node::local::Local;
use crate::resp::glob;
use crate::resp::listening::{
    Kind, Listening, MAX_ALL_BYTES, MAX_NAME_BYTES, MAX_NAMES, MAX_PATTERNS, MAX_SUBSCRIPTIONS, interest,
};
use crate::resp::parse::Arguments;
use crate::resp::reply::{Encoder, Protocol};
use crate::resp::shared::count;

/// SUBSCRIBE channel \[channel …\], PSUBSCRIBE pattern \[pattern …\]: each is confirmed by itself.
pub fn subscribe<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>, kind: Kind) -> Flow {
    for name in arguments.from(1) {
        if !context.client.listening.has(kind, name)
            && let Err(refused) = begin(context, kind, name)
        {
            return refused;
        }
        let listened = context.client.listening.len();
        let word = if kind == Kind::Channel { "subscribe" } else { "psubscribe" };
        context.replies.ready(|out| confirm(out, word, Some(name), listened));
    }
    show(context);
    Flow::Done
}

fn begin<L: Local>(context: &mut Context<'_, L>, kind: Kind, name: &[u8]) -> Result<(), Flow> {
    if let Some(message) = beyond_bounds(&context.client.listening, kind, name) {
        return Err(too_much(context, message));
    }
    let client = &*context.client;
    let subscription = match interest(kind, name) {
        None => None,
        Some((interest, kinds)) => {
            // Of what is in more than one collection, each is looked at when there is something to tell.
            if interest.collection.as_ref().is_some_and(|collection| !client.session.may_read(collection)) {
                return Err(auth::refuse(context, "subscribe", Need::Read));
            }
            if interest.prefix.len() > MAX_KEY_BYTES {
                return Err(too_much(context, "a key has at most 4096 bytes, so nobody speaks there"));
            }
            if client.listening.subscriptions().len() >= MAX_SUBSCRIPTIONS {
                let message = "a connection listens to 64 channels and patterns of changed keys at most; use patterns, or more connections";
                return Err(too_much(context, message));
            }
            match context.local.subscribe(&client.shown.mailbox, &interest, kinds) {
                Ok(subscription) => Some(subscription),
                Err(error) => {
                    if error == OperationError::TooManyWatches {
                        count(&context.shared.counts.refused_listeners, 1);
                    }
                    context.replies.refused(|out| out.operation_error(&error));
                    return Err(Flow::Done);
                }
            }
        }
    };
    context.client.listening.add(kind, name, subscription);
    Ok(())
}

/// What speaks against listening to one more, whatever it tells of.
fn beyond_bounds(listening: &Listening, kind: Kind, name: &[u8]) -> Option<&'static str> {
    let is_pattern = kind == Kind::Pattern;
    if name.len() > MAX_NAME_BYTES {
        Some("a channel or pattern has at most 4160 bytes")
    } else if is_pattern && glob::is_too_wild(name) {
        Some(glob::TOO_WILD)
    } else if is_pattern && listening.counts().1 >= MAX_PATTERNS {
        Some("a connection listens to 64 patterns at most")
    } else if listening.len() >= MAX_NAMES {
        Some("a connection listens to 1024 channels and patterns at most")
    } else if listening.bytes() + name.len() > MAX_ALL_BYTES {
        Some("the channels and patterns of a connection have at most 65536 bytes together")
    } else {
        None
    }
}

/// Refuses what is beyond a bound.
fn too_much<L: Local>(context: &mut Context<'_, L>, message: &str) -> Flow {
    count(&context.shared.counts.refused_listeners, 1);
    context.error(message)
}

/// UNSUBSCRIBE \[channel …\], PUNSUBSCRIBE \[pattern …\]: without names from all of them.
pub fn unsubscribe<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>, kind: Kind) -> Flow {
    let word = if kind == Kind::Channel { "unsubscribe" } else { "punsubscribe" };
    let names: Vec<Vec<u8>> = match arguments.len() {
        1 => context.client.listening.names(kind),
        _ => arguments.from(1).map(<[u8]>::to_vec).collect(),
    };
    if names.is_empty() {
        let count = context.client.listening.len();
        context.replies.ready(|out| confirm(out, word, None, count));
    }
    for name in &names {
        end(context, kind, name);
        let count = context.client.listening.len();
        context.replies.ready(|out| confirm(out, word, Some(name), count));
    }
    show(context);
    Flow::Done
}

/// Listens to nothing any more.
pub fn end_all<L: Local>(context: &mut Context<'_, L>) {
    for kind in [Kind::Channel, Kind::Pattern] {
        for name in context.client.listening.names(kind) {
            end(context, kind, &name);
        }
    }
    show(context);
}

/// Ends a connection that may not read any more what it listens to, and tells it so: what it would be told from now
/// on would lack something.
pub fn revoke<L: Local>(context: &mut Context<'_, L>) {
    auth::refuse(context, "subscribe", Need::Read);
    end_all(context);
    context.client.quits = true;
}

fn end<L: Local>(context: &mut Context<'_, L>, kind: Kind, name: &[u8]) {
    if let Some(subscription) = context.client.listening.remove(kind, name) {
        context.local.unsubscribe(subscription);
    }
}

fn confirm(out: &mut Encoder<'_>, word: &str, name: Option<&[u8]>, count: usize) {
    out.push(3);
    out.bulk(word.as_bytes());
    match name {
        Some(name) => out.bulk(name),
        None => out.nil(),
    }
    out.integer(i64::try_from(count).unwrap_or(i64::MAX));
}

fn show<L: Local>(context: &Context<'_, L>) {
    context.client.shown.listening.set(context.client.listening.counts());
}

/// Whether replies can't be told from messages any more, so that only what ends that may be sent.
pub fn is_listening_only<L: Local>(context: &Context<'_, L>) -> bool {
    !context.client.listening.is_empty() && context.replies.protocol() == Protocol::Resp2
}

/// What is said to any other command then.
pub fn refuse<L: Local>(context: &mut Context<'_, L>, command: &str) -> Flow {
    context.error(&format!(
        "Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
         in this context"
    ))
}
