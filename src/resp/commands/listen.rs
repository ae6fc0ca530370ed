//! SUBSCRIBE, UNSUBSCRIBE and their kin with patterns.

use super::auth::{self, Need};
use super::{Context, Flow};
use crate::engine::operation::OperationError;
use crate::node::local::Local;
use crate::resp::connection::count;
use crate::resp::listening::{Kind, MAX_NAMES, MAX_SUBSCRIPTIONS, interest};
use crate::resp::parse::Arguments;
use crate::resp::reply::{Encoder, Protocol};

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
    if context.client.listening.len() >= MAX_NAMES {
        return Err(too_much(context, "a connection listens to 1024 channels and patterns at most"));
    }
    let client = &*context.client;
    let subscription = match interest(kind, name) {
        None => None,
        Some((interest, kinds)) => {
            // Of what is in more than one collection, each is looked at when there is something to tell.
            if interest.collection.as_ref().is_some_and(|collection| !client.session.may_read(collection)) {
                return Err(auth::refuse(context, "subscribe", Need::Read));
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
