//! SET, MSET, MGET and the commands that count.

use super::{Context, Flow, GatherReply, Progress, ReadReply};
use crate::engine::operation::Change;
use crate::node::local::Local;
use crate::resp::parse::{Arguments, number};
use crate::resp::reply;

const NOT_AN_INTEGER: &str = "value is not an integer or out of range";

/// SET key value \[EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds\]
pub fn set<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let value = arguments.get(2);
    let expiry_ms = match arguments.len() {
        3 => None,
        5 => match expiry(arguments.get(3), arguments.get(4), context.wall_ms) {
            Ok(expiry) => Some(expiry),
            Err(message) => return context.error(message),
        },
        _ => return context.error("syntax error"),
    };
    context.write(arguments.get(1), Change::Set { value, expiry_ms })
}

/// The moment that an option of SET names, in milliseconds since the Unix epoch.
fn expiry(option: &[u8], amount: &[u8], wall_ms: u64) -> Result<u64, &'static str> {
    let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
    let (unit, since) = if is(b"EX") {
        (1_000, wall_ms)
    } else if is(b"PX") {
        (1, wall_ms)
    } else if is(b"EXAT") {
        (1_000, 0)
    } else if is(b"PXAT") {
        (1, 0)
    } else {
        return Err("syntax error");
    };
    let amount = number(amount).ok_or(NOT_AN_INTEGER)?;
    let moment = i64::try_from(since).ok().and_then(|s| s.checked_add(amount.checked_mul(unit)?));
    let moment = moment.filter(|_| amount > 0).and_then(|m| u64::try_from(m).ok());
    moment.ok_or("invalid expire time in 'set' command")
}

/// MGET key \[key …\]: each element is a reply of its own, so a failed one is an error in its place.
pub fn mget<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if context.client.progress.next == 0 {
        context.client.progress.next = 1;
        context.replies.ready(|out| reply::array(out, arguments.len() - 1));
    }
    while context.client.progress.next < arguments.len() {
        if context.replies.is_full() {
            return Flow::Held;
        }
        let key = arguments.get(context.client.progress.next);
        if context.read(key, ReadReply::Value) == Flow::Held {
            return Flow::Held;
        }
        context.client.progress.next += 1;
    }
    context.client.progress = Progress::default();
    Flow::Done
}

/// MSET key value \[key value …\]: one write for each key; unlike Redis's not all or nothing.
pub fn mset<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if arguments.len().is_multiple_of(2) {
        return context.wrong_arity("mset");
    }
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1).step_by(2)) {
        return refused;
    }
    let token = context.gather(GatherReply::Ok, 1);
    while context.client.progress.next < arguments.len() {
        if context.must_wait() {
            return Flow::Held;
        }
        let at = context.client.progress.next;
        let change = Change::Set { value: arguments.get(at + 1), expiry_ms: None };
        context.write_one_of(token, arguments.get(at), change);
        context.client.progress.next += 2;
    }
    context.gathered(token)
}

/// INCR key, DECR key, INCRBY key delta, DECRBY key delta.
pub fn increment<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>, down: bool) -> Flow {
    let delta = if arguments.len() == 2 { Some(1) } else { number(arguments.get(2)) };
    let Some(delta) = delta else { return context.error(NOT_AN_INTEGER) };
    let delta = if down { delta.checked_neg() } else { Some(delta) };
    let Some(delta) = delta else { return context.error("decrement would overflow") };
    context.write(arguments.get(1), Change::Increment { delta })
}
