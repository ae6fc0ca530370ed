//! Commands that look at a value and change it in one step: at the key's home, so that of two of them that
//! go through one home the second sees what the first did.
//!
//! While members can't see each other, two of them may both take themselves for a key's home. Then two SETs
//! with NX may both succeed, and the later write wins when they meet again. One that meets the later write before
//! it is answered is answered as if it had come after it.

use super::strings::{Options, moment, options};
use super::table::Spec;
use super::{Context, Flow, ReadReply, quoted};
use crate::model::edit::{Condition, Decimal, Edit, ExpireWhen, Modify, NewExpiry, Returns};
use crate::model::limits::MAX_VALUE_BYTES;
use crate::node::local::Local;
use crate::resp::parse::Arguments;
use crate::resp::replies::{Since, Unit, WriteReply};
use bytes::Bytes;

/// SET with an option that asks what is there.
pub fn set<L: Local>(
    context: &mut Context<'_, L>,
    arguments: Arguments<'_>,
    options: &Options<'_>,
    expiry: NewExpiry,
) -> Flow {
    let value = Bytes::copy_from_slice(arguments.get(2));
    let (returns, reply) = match (options.get, options.condition) {
        (true, Condition::Absent) => (Returns::Before, WriteReply::LockedRecord),
        (true, _) => (Returns::Before, WriteReply::Record),
        (false, Condition::Absent) => (Returns::Nothing, WriteReply::Locked),
        (false, _) => (Returns::Nothing, WriteReply::OkOrNil),
    };
    let modify = Modify { condition: options.condition, edit: Edit::Set { value, expiry }, returns };
    context.modify(arguments.get(1), &modify, reply)
}

/// SETNX key value
pub fn set_absent<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let edit = Edit::Set { value: Bytes::copy_from_slice(arguments.get(2)), expiry: NewExpiry::None };
    let modify = Modify { condition: Condition::Absent, edit, returns: Returns::Nothing };
    context.modify(arguments.get(1), &modify, WriteReply::LockedFlag)
}

/// GETSET key value
pub fn get_set<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let edit = Edit::Set { value: Bytes::copy_from_slice(arguments.get(2)), expiry: NewExpiry::None };
    always(context, arguments, edit, Returns::Before, WriteReply::Record)
}

/// GETDEL key
pub fn get_delete<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    always(context, arguments, Edit::Delete, Returns::Before, WriteReply::Record)
}

/// GETEX key \[EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | PERSIST\]
pub fn get_expire<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let Some(options) = options(arguments, 2, true) else { return context.error("syntax error") };
    let at = match options.expiry {
        None if !options.persist => return context.read(arguments.get(1), ReadReply::Value),
        None => None,
        Some(expiry) => match expiry.at(context.wall_ms, "getex") {
            Ok(at) => Some(at),
            Err(message) => return context.error(&message),
        },
    };
    let edit = Edit::Expire { at, when: ExpireWhen::Always };
    always(context, arguments, edit, Returns::Before, WriteReply::Record)
}

/// APPEND key bytes
pub fn append<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let edit = Edit::Append(Bytes::copy_from_slice(arguments.get(2)));
    always(context, arguments, edit, Returns::Nothing, WriteReply::Length)
}

/// SETRANGE key offset bytes
pub fn set_range<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let bytes = arguments.get(3);
    let offset = match context.integer(arguments.get(2)).map(u64::try_from) {
        Err(refused) => return refused,
        Ok(Err(_)) => return context.error("offset is out of range"),
        Ok(Ok(offset)) => offset,
    };
    if bytes.is_empty() {
        return context.read(arguments.get(1), ReadReply::Length);
    }
    if offset.saturating_add(bytes.len() as u64) > MAX_VALUE_BYTES as u64 {
        return context.error("string exceeds maximum allowed size (proto-max-bulk-len)");
    }
    let edit = Edit::SetRange { offset, bytes: Bytes::copy_from_slice(bytes) };
    always(context, arguments, edit, Returns::Nothing, WriteReply::Length)
}

/// INCRBYFLOAT key number
pub fn add_float<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let Some(number) = Decimal::parse(arguments.get(2)) else {
        return context.error("value is not a valid float");
    };
    always(context, arguments, Edit::Add(number), Returns::After, WriteReply::Record)
}

/// EXPIRE key seconds \[NX | XX | GT | LT\], and its kin with milliseconds and Unix times.
pub fn expire<L: Local>(
    context: &mut Context<'_, L>,
    arguments: Arguments<'_>,
    spec: &Spec,
    since: Since,
    unit: Unit,
) -> Flow {
    let when = match when(arguments) {
        Ok(when) => when,
        Err(message) => return context.error(&message),
    };
    let amount = match context.integer(arguments.get(2)) {
        Ok(amount) => amount,
        Err(refused) => return refused,
    };
    let Some(at) = moment(amount, since, unit, context.wall_ms) else {
        return context.error(&format!("invalid expire time in '{}' command", spec.name));
    };
    // A time in the past, or before there were any, deletes.
    let edit = Edit::Expire { at: Some(u64::try_from(at).unwrap_or_default()), when };
    always(context, arguments, edit, Returns::Nothing, WriteReply::Flag)
}

/// What EXPIRE's options ask of the present expiry.
fn when(arguments: Arguments<'_>) -> Result<ExpireWhen, String> {
    let (mut none, mut some, mut later, mut sooner) = (false, false, false, false);
    for option in arguments.from(3) {
        let flags = [(&b"NX"[..], &mut none), (b"XX", &mut some), (b"GT", &mut later), (b"LT", &mut sooner)];
        match flags.into_iter().find(|(name, _)| option.eq_ignore_ascii_case(name)) {
            Some((_, flag)) => *flag = true,
            None => {
                return Err(format!("Unsupported option {}", quoted(option)));
            }
        }
    }
    match (none, some, later, sooner) {
        (true, true, ..) | (true, _, true, _) | (true, _, _, true) => {
            Err("NX and XX, GT or LT options at the same time are not compatible".to_owned())
        }
        (_, _, true, true) => Err("GT and LT options at the same time are not compatible".to_owned()),
        (true, ..) => Ok(ExpireWhen::None),
        // Nothing is later than never.
        (_, _, true, _) => Ok(ExpireWhen::Later),
        (_, true, _, true) => Ok(ExpireWhen::SomeSooner),
        (_, _, _, true) => Ok(ExpireWhen::Sooner),
        (_, true, ..) => Ok(ExpireWhen::Some),
        _ => Ok(ExpireWhen::Always),
    }
}

/// PERSIST key
pub fn persist<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let edit = Edit::Expire { at: None, when: ExpireWhen::Always };
    always(context, arguments, edit, Returns::Nothing, WriteReply::Flag)
}

fn always<L: Local>(
    context: &mut Context<'_, L>,
    arguments: Arguments<'_>,
    edit: Edit,
    returns: Returns,
    reply: WriteReply,
) -> Flow {
    context.modify(arguments.get(1), &Modify { condition: Condition::Always, edit, returns }, reply)
}
