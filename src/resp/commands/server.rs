//! PING, TIME, WAIT, SELECT and CONFIG.

use super::listen::is_listening_only;
use super::{Context, DATABASES, Flow, PROBE, Progress, collection_of};
use crate::engine::operation::{Outcome, Wait};
use crate::model::limits::MAX_VALUE_BYTES;
use crate::node::local::Local;
use crate::resp::glob;
use crate::resp::parse::{Arguments, number};
use std::time::{SystemTime, UNIX_EPOCH};

/// For how long WAIT asks the member at a time.
const MAX_ROUND_MS: u64 = 10_000;

/// PING \[message\]
pub fn ping<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if arguments.len() <= 2 && is_listening_only(context) {
        return context.answer(|out| {
            out.array(2);
            out.bulk(b"pong");
            out.bulk(arguments.get(1));
        });
    }
    match arguments.len() {
        1 => context.answer(|out| out.simple("PONG")),
        2 => context.answer(|out| out.bulk(arguments.get(1))),
        _ => context.wrong_arity("ping"),
    }
}

/// TIME: seconds, and microseconds beyond them.
pub fn time<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    context.answer(|out| {
        out.array(2);
        out.bulk(now.as_secs().to_string().as_bytes());
        out.bulk(now.subsec_micros().to_string().as_bytes());
    })
}

/// WAIT copies milliseconds: until all that the client wrote has so many copies beside the first one, or the time
/// is over; 0 is for ever, but no copies are waited for at all. The member is asked again and again, so that it soon forgets who left.
pub fn wait<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let copies = match context.integer(arguments.get(1)) {
        Ok(copies) => u16::try_from(copies.max(0)).unwrap_or(u16::MAX).saturating_add(1),
        Err(refused) => return refused,
    };
    let timeout_ms = match number(arguments.get(2)) {
        None => return context.error("timeout is not an integer or out of range"),
        Some(..0) => return context.error("timeout is negative"),
        // There is one copy of what was written, or none is needed.
        Some(_) if copies == 1 => 0,
        Some(0) => u64::MAX,
        Some(timeout_ms) => u64::try_from(timeout_ms).unwrap_or(u64::MAX),
    };
    let wall_ms = context.wall_ms;
    let until_ms = wall_ms.saturating_add(timeout_ms);
    let until_ms = *context.client.progress.until_ms.get_or_insert(until_ms);
    loop {
        let timeout_ms = until_ms.saturating_sub(wall_ms).min(MAX_ROUND_MS);
        let answer = context.ask(|local, client| {
            let (writes, least) = (client.written.last(), client.written.least());
            local.wait(&client.shown.mailbox, PROBE, Wait { writes, least, copies, timeout_ms });
        });
        let found = match answer {
            None => return Flow::Held,
            Some(Outcome::Copies(found)) if found < copies && wall_ms < until_ms => continue,
            Some(Outcome::Copies(found)) => Ok(i64::from(found.saturating_sub(1))),
            Some(Outcome::Failed(error)) => Err(error),
            Some(_) => Ok(0),
        };
        context.client.progress = Progress::default();
        return match found {
            Ok(found) => context.answer(|out| out.integer(found)),
            Err(error) => {
                context.replies.refused(|out| out.operation_error(&error));
                Flow::Done
            }
        };
    }
}

/// SELECT index: database n is the collection named n, 0 the default one.
pub fn select<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    match context.database(arguments.get(1)) {
        Ok(database) => {
            let client = &mut *context.client;
            client.collection = collection_of(database);
            client.session.select(&client.collection);
            client.shown.database.set(database);
            context.answer_ok()
        }
        Err(refused) => refused,
    }
}

/// CONFIG GET pattern \[pattern …\]: what is true of kith in Redis's words.
pub fn config_get<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let known = [
        ("appendonly", "yes".to_owned()),
        ("databases", DATABASES.to_string()),
        ("maxclients", context.shared.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("notify-keyspace-events", "AKE".to_owned()),
        ("proto-max-bulk-len", MAX_VALUE_BYTES.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    // A name that is no pattern comes back as it was written.
    let asked = |name: &'static str| {
        arguments.from(2).find_map(|word| match word.eq_ignore_ascii_case(name.as_bytes()) {
            true => Some(word),
            false => glob::matches(&word.to_ascii_lowercase(), name.as_bytes()).then_some(name.as_bytes()),
        })
    };
    let found = || known.iter().filter_map(|(name, value)| Some((asked(name)?, value)));
    context.answer(|out| {
        out.map(found().count());
        for (name, value) in found() {
            out.bulk(name);
            out.bulk(value.as_bytes());
        }
    })
}
