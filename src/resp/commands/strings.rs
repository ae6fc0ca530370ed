//! SET, SETEX, GETRANGE, MSET, MGET and the commands that count.

use super::edits;
use super::table::Spec;
use super::{Context, Flow, GatherReply, NOT_AN_INTEGER, Progress, ReadReply};
use crate::engine::operation::Change;
use crate::model::edit::{Condition, NewExpiry};
use crate::node::local::Local;
use crate::resp::parse::{Arguments, number};
use crate::resp::replies::{Since, Unit};

/// SET key value \[NX | XX\] \[GET\] \[EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | KEEPTTL\]
pub fn set<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let value = arguments.get(2);
    if arguments.len() == 3 {
        return context.write(arguments.get(1), Change::Set { value, expiry_ms: None });
    }
    let Some(options) = options(arguments, 3, false) else { return context.error("syntax error") };
    let expiry_ms = match options.expiry.map(|expiry| expiry.at(context.wall_ms, "set")).transpose() {
        Ok(expiry_ms) => expiry_ms,
        Err(message) => return context.error(&message),
    };
    if options.condition == Condition::Always && !options.get && !options.keep {
        return context.write(arguments.get(1), Change::Set { value, expiry_ms });
    }
    let expiry = match expiry_ms {
        Some(at) => NewExpiry::At(at),
        None if options.keep => NewExpiry::Keep,
        None => NewExpiry::None,
    };
    edits::set(context, arguments, &options, expiry)
}

/// What stands behind the key and value of SET, or the key of GETEX.
pub struct Options<'a> {
    /// Whether there must be something, or nothing.
    pub condition: Condition,
    /// What was there is the reply.
    pub get: bool,
    /// The expiry stays.
    pub keep: bool,
    /// The expiry goes.
    pub persist: bool,
    /// The new expiry.
    pub expiry: Option<Expiry<'a>>,
}

/// A moment as a client names it.
#[derive(Clone, Copy)]
pub struct Expiry<'a> {
    since: Since,
    unit: Unit,
    amount: &'a [u8],
}

impl Expiry<'_> {
    /// The moment in milliseconds since the Unix epoch, or what is wrong with it.
    pub fn at(self, wall_ms: u64, command: &str) -> Result<u64, String> {
        let amount = number(self.amount).ok_or(NOT_AN_INTEGER)?;
        let moment = moment(amount, self.since, self.unit, wall_ms).filter(|_| amount > 0);
        let moment = moment.and_then(|moment| u64::try_from(moment).ok());
        moment.ok_or_else(|| format!("invalid expire time in '{command}' command"))
    }
}

/// Reads options from an argument on; `None` when they make no sense together.
pub fn options(arguments: Arguments<'_>, from: usize, of_getex: bool) -> Option<Options<'_>> {
    let (condition, get, keep, persist, expiry) = (Condition::Always, false, false, false, None);
    let mut options = Options { condition, get, keep, persist, expiry };
    let (mut at, mut named) = (from, None);
    while at < arguments.len() {
        let word = arguments.get(at).to_ascii_uppercase();
        let free = !options.keep && !options.persist;
        match word.as_slice() {
            b"NX" if !of_getex && options.condition != Condition::Present => {
                options.condition = Condition::Absent;
            }
            b"XX" if !of_getex && options.condition != Condition::Absent => {
                options.condition = Condition::Present;
            }
            b"GET" if !of_getex => options.get = true,
            b"KEEPTTL" if !of_getex && options.expiry.is_none() => options.keep = true,
            b"PERSIST" if of_getex && options.expiry.is_none() => options.persist = true,
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if free && at + 1 < arguments.len() => {
                if named.get_or_insert_with(|| word.clone()) != &word {
                    return None;
                }
                at += 1;
                let since = if word.ends_with(b"AT") { Since::Epoch } else { Since::Now };
                let unit = if word.starts_with(b"P") { Unit::Milliseconds } else { Unit::Seconds };
                options.expiry = Some(Expiry { since, unit, amount: arguments.get(at) });
            }
            _ => return None,
        }
        at += 1;
    }
    Some(options)
}

/// SETEX key seconds value, PSETEX key milliseconds value
pub fn set_expiring<L: Local>(
    context: &mut Context<'_, L>,
    arguments: Arguments<'_>,
    spec: &Spec,
    unit: Unit,
) -> Flow {
    let amount = match context.integer(arguments.get(2)) {
        Ok(amount) => amount,
        Err(refused) => return refused,
    };
    match moment(amount, Since::Now, unit, context.wall_ms) {
        Some(expiry_ms) if amount > 0 => {
            let expiry_ms = u64::try_from(expiry_ms).ok();
            let change = Change::Set { value: arguments.get(3), expiry_ms };
            context.write(arguments.get(1), change)
        }
        _ => context.error(&format!("invalid expire time in '{}' command", spec.name)),
    }
}

/// GETRANGE key first last
pub fn get_range<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let range = context.integer(arguments.get(2)).and_then(|first| {
        let last = context.integer(arguments.get(3))?;
        Ok(ReadReply::Range(first, last))
    });
    range.map_or_else(|refused| refused, |reply| context.read(arguments.get(1), reply))
}

/// The moment that an amount of time names, in milliseconds since the Unix epoch, if there is such a moment.
pub fn moment(amount: i64, since: Since, unit: Unit, wall_ms: u64) -> Option<i64> {
    let amount_ms = match unit {
        Unit::Seconds => amount.checked_mul(1_000)?,
        Unit::Milliseconds => amount,
    };
    let from_ms = match since {
        Since::Now => i64::try_from(wall_ms).ok()?,
        Since::Epoch => 0,
    };
    from_ms.checked_add(amount_ms)
}

/// MGET key \[key …\]: each element is a reply of its own, so a failed one is an error in its place.
pub fn mget<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if context.client.progress.next == 0 {
        context.client.progress.next = 1;
        context.replies.ready(|out| out.array(arguments.len() - 1));
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
        let at = context.client.progress.next;
        if context.must_wait() || context.replies.is_looked_at(arguments.get(at)) {
            return Flow::Held;
        }
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
