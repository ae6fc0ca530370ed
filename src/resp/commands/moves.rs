//! RENAME and COPY, in steps: the source is read, the destination is written, and RENAME then deletes the
//! source if it is still what was read.
//!
//! Two keys may live on different members, so these are no single step: between them, and if the member ends
//! between them, both keys are there. Nothing is lost: the source is deleted only once the destination is
//! stored, and one that was changed meanwhile stays, as if it had been changed after it was moved. A counter
//! is moved as its number.

use super::auth::{self, Need};
use super::{Context, Flow, PROBE, collection_of, note};
use crate::engine::operation::{Change, Modified, OperationError, Outcome, Read, Stored, Write};
use crate::model::edit::{Condition, Edit, Modify, NewExpiry, Returns};
use crate::model::record::LASTING_MS;
use crate::model::{KeyRef, Record};
use crate::node::local::Local;
use crate::resp::parse::Arguments;
use crate::resp::replies::WriteReply;
use crate::resp::reply::{DIGITS, readable};
use bytes::Bytes;

/// RENAME source destination
pub fn rename<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let (source, destination) = (arguments.get(1), arguments.get(2));
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1)) {
        return refused;
    }
    let record = match read(context, source) {
        Step::Held => return Flow::Held,
        Step::Failed(error) => return failed(context, &error),
        Step::Done(None) => return over(context, |context| context.error("no such key")),
        Step::Done(Some(record)) => record,
    };
    if source == destination {
        return over(context, |context| context.answer_ok());
    }
    let element = record.view().element();
    let collection = context.client.collection.clone();
    match store(context, &collection, destination, &record, Condition::Always) {
        Step::Held => {
            context.client.progress.moved = Some(record);
            Flow::Held
        }
        Step::Failed(error) => failed(context, &error),
        Step::Done(_) => over(context, |context| {
            let (condition, returns) = (Condition::Element(element), Returns::Nothing);
            context.modify(source, &Modify { condition, edit: Edit::Delete, returns }, WriteReply::Ok)
        }),
    }
}

/// COPY source destination \[DB database\] \[REPLACE\]
pub fn copy<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let (source, destination) = (arguments.get(1), arguments.get(2));
    let (mut collection, mut condition) = (context.client.collection.clone(), Condition::Absent);
    let mut at = 3;
    while at < arguments.len() {
        let option = arguments.get(at);
        if option.eq_ignore_ascii_case(b"REPLACE") {
            condition = Condition::Always;
        } else if option.eq_ignore_ascii_case(b"DB") && at + 1 < arguments.len() {
            at += 1;
            match context.database(arguments.get(at)) {
                Ok(database) => collection = collection_of(database),
                Err(refused) => return refused,
            }
        } else {
            return context.error("syntax error");
        }
        at += 1;
    }
    if source == destination && collection == context.client.collection {
        return context.error("source and destination objects are the same");
    }
    if !context.client.session.may_write(&collection) {
        return auth::refuse(context, "copy", Need::Write);
    }
    if let Some(refused) = context.refuse_bad_keys(arguments.from(1).take(2)) {
        return refused;
    }
    let record = match read(context, source) {
        Step::Held => return Flow::Held,
        Step::Failed(error) => return failed(context, &error),
        Step::Done(None) => return over(context, |context| context.answer(|out| out.integer(0))),
        Step::Done(Some(record)) => record,
    };
    match store(context, &collection, destination, &record, condition) {
        Step::Held => {
            context.client.progress.moved = Some(record);
            Flow::Held
        }
        Step::Failed(error) => failed(context, &error),
        Step::Done(stored) => {
            over(context, |context| context.answer(|out| out.integer(i64::from(stored.is_some()))))
        }
    }
}

/// How far a step is.
enum Step<T> {
    Held,
    Failed(OperationError),
    Done(T),
}

/// The source, read once.
fn read<L: Local>(context: &mut Context<'_, L>, source: &[u8]) -> Step<Option<Record>> {
    if let Some(record) = context.client.progress.moved.take() {
        return Step::Done(Some(record));
    }
    let answer = context.ask(|local, client| {
        if let Ok(key) = KeyRef::new(&client.collection, source) {
            local.read(&client.shown.mailbox, PROBE, Read { key, level: None });
        }
    });
    match answer {
        None => Step::Held,
        Some(Outcome::Found(found)) => {
            note(&mut context.client.seen, found.as_ref().map(Record::view));
            Step::Done(found)
        }
        Some(Outcome::Failed(error)) => Step::Failed(error),
        Some(_) => Step::Failed(OperationError::Unreachable),
    }
}

/// Stores what was read under the destination.
fn store<L: Local>(
    context: &mut Context<'_, L>,
    collection: &str,
    destination: &[u8],
    record: &Record,
    condition: Condition,
) -> Step<Option<Stored>> {
    let answer = context.ask(|local, client| {
        let mut digits = [0; DIGITS];
        let value = Bytes::copy_from_slice(readable(record.view(), &mut digits).unwrap_or_default());
        // What had no end has none there either.
        let expiry = NewExpiry::At(record.view().expiry_ms().unwrap_or(LASTING_MS));
        let modify = Modify { condition, edit: Edit::Set { value, expiry }, returns: Returns::Nothing };
        if let Ok(key) = KeyRef::new(collection, destination) {
            let (change, after) = (Change::Modify(&modify), client.seen);
            local.write(&client.shown.mailbox, PROBE, Write { key, change, level: None, after });
        }
    });
    match answer {
        None => Step::Held,
        Some(Outcome::Modified(Modified { stored, .. })) => Step::Done(stored),
        Some(Outcome::Failed(error)) => Step::Failed(error),
        Some(_) => Step::Failed(OperationError::Unknown { copies: 0 }),
    }
}

/// Nothing of the command is left to do but its reply.
fn over<L: Local>(context: &mut Context<'_, L>, reply: impl FnOnce(&mut Context<'_, L>) -> Flow) -> Flow {
    context.client.progress = super::Progress::default();
    reply(context)
}

fn failed<L: Local>(context: &mut Context<'_, L>, error: &OperationError) -> Flow {
    over(context, |context| {
        context.replies.refused(|out| out.operation_error(error));
        Flow::Done
    })
}
