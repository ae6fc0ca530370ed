//! Commands on several keys: DEL, UNLINK, EXISTS and TOUCH.

use super::{Context, Flow, GatherReply, note};
use crate::engine::operation::{Change, Read};
use crate::model::KeyRef;
use crate::model::edit::{Condition, Edit, Modify, Returns};
use crate::node::local::Local;
use crate::resp::connection::Client;
use crate::resp::parse::Arguments;

/// DEL key \[key …\], UNLINK too: deletes what is there, one key after the other, and counts it. Each key's
/// home looks and deletes in one step.
pub fn del<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1)) {
        return refused;
    }
    let token = context.gather(GatherReply::Counted, 1);
    let modify = Modify { condition: Condition::Always, edit: Edit::Delete, returns: Returns::Nothing };
    while context.client.progress.next < arguments.len() {
        if context.must_wait() {
            return Flow::Held;
        }
        let key = arguments.get(context.client.progress.next);
        context.write_one_of(token, key, Change::Modify(&modify));
        context.client.progress.next += 1;
    }
    context.gathered(token)
}

/// EXISTS key \[key …\], TOUCH too: counts what is there; a key that is named twice counts twice.
pub fn exists<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1)) {
        return refused;
    }
    let token = context.gather(GatherReply::Found, 1);
    while context.client.progress.next < arguments.len() {
        let key = arguments.get(context.client.progress.next);
        if context.replies.is_full() || context.replies.is_looked_at(key) {
            return Flow::Held;
        }
        let Client { collection, seen, progress, shown, .. } = &mut *context.client;
        if let Ok(key) = KeyRef::new(collection, key) {
            let hit = context.local.get_now(key, key.hash(), |found| {
                note(seen, found);
                found.is_some()
            });
            context.replies.step(0);
            match hit {
                Some(true) => context.replies.count(token),
                Some(false) => {}
                None if context.replies.awaits_writes() => return Flow::Held,
                None => {
                    context.replies.expect(token);
                    context.local.read(&shown.mailbox, token, Read { key, level: None });
                }
            }
        }
        progress.next += 1;
    }
    context.gathered(token)
}
