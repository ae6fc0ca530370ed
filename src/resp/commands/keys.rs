//! Commands on keys of any kind: DEL, UNLINK and EXISTS.

use super::{Context, Flow, GatherReply, PROBE, Probe, note};
use crate::engine::operation::{Change, OperationError, Read};
use crate::model::KeyRef;
use crate::node::local::Local;
use crate::resp::connection::Client;
use crate::resp::parse::Arguments;

/// DEL key \[key …\], UNLINK too: deletes what is there, one key after the other, and counts it.
pub fn del<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1)) {
        return refused;
    }
    let token = context.gather(GatherReply::Counted, 1);
    while context.client.progress.next < arguments.len() {
        if context.must_wait() {
            return Flow::Held;
        }
        let key = arguments.get(context.client.progress.next);
        match is_there(context, key) {
            None => return Flow::Held,
            Some(Ok(false)) => {}
            Some(Ok(true)) => {
                context.replies.count(token);
                context.write_one_of(token, key, Change::Delete);
            }
            Some(Err(error)) => context.replies.fail(token, error),
        }
        context.client.progress.next += 1;
    }
    context.gathered(token)
}

/// EXISTS key \[key …\]: counts what is there; a key that is named twice counts twice.
pub fn exists<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1)) {
        return refused;
    }
    let token = context.gather(GatherReply::Found, 1);
    while context.client.progress.next < arguments.len() {
        if context.replies.is_full() {
            return Flow::Held;
        }
        let Client { collection, seen, progress, .. } = &mut *context.client;
        if let Ok(key) = KeyRef::new(collection, arguments.get(progress.next)) {
            let hit = context.local.get_now(key, |found| {
                note(seen, found);
                found.is_some()
            });
            match hit {
                Some(true) => context.replies.count(token),
                Some(false) => {}
                None if context.replies.awaits_writes() => return Flow::Held,
                None => {
                    context.replies.expect(token);
                    context.local.read(context.mailbox, token, Read { key, level: None });
                }
            }
        }
        progress.next += 1;
    }
    context.gathered(token)
}

/// Whether there is a record; `None` while others are asked.
fn is_there<L: Local>(context: &mut Context<'_, L>, key: &[u8]) -> Option<Result<bool, OperationError>> {
    let Client { collection, seen, progress, .. } = &mut *context.client;
    match std::mem::take(&mut progress.probe) {
        Probe::Answered(answer) => return Some(answer),
        Probe::Asked => {
            progress.probe = Probe::Asked;
            return None;
        }
        Probe::Idle => {}
    }
    let key = KeyRef::new(collection, key).ok()?;
    let hit = context.local.get_now(key, |found| {
        note(seen, found);
        found.is_some()
    });
    if let Some(found) = hit {
        return Some(Ok(found));
    }
    if !context.replies.awaits_writes() {
        progress.probe = Probe::Asked;
        context.local.read(context.mailbox, PROBE, Read { key, level: None });
    }
    None
}
