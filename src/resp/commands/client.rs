//! Commands about the connection: HELLO, RESET, QUIT and CLIENT.

use super::auth::{Need, log_in, refuse_hello};
use super::listen;
use super::{Context, Flow, collection_of, quoted};
use crate::node::local::Local;
use crate::resp::clients::MAX_TOLD_BYTES;
use crate::resp::parse::{Arguments, number};
use crate::resp::reply::{Encoder, Protocol};

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.0.15";

/// HELLO \[2 | 3 \[AUTH user token\] \[SETNAME name\]\]
///
/// Replies keep the protocol in which their commands were sent, so it changes when those before have left.
pub fn hello<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if context.replies.awaits_any() {
        return Flow::Held;
    }
    let mut protocol = context.replies.protocol();
    if arguments.len() > 1 {
        protocol = match number(arguments.get(1)) {
            None => return context.error("Protocol version is not an integer or out of range"),
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return context.refuse("NOPROTO", b"unsupported protocol version"),
        };
    }
    let (mut at, mut name) = (2, None);
    while at < arguments.len() {
        let (option, left) = (arguments.get(at), arguments.len() - at - 1);
        if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
            if let Err(refused) = log_in(context, arguments.get(at + 1), arguments.get(at + 2)) {
                return refused;
            }
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
            name = Some(arguments.get(at + 1));
            at += 2;
        } else {
            return context.error(&format!("Syntax error in HELLO option '{}'", quoted(option)));
        }
    }
    if !context.client.session.may(Need::Known) {
        return refuse_hello(context);
    }
    if let Some(Err(message)) = name.map(|name| rename(context, name)) {
        return context.error(message);
    }
    context.replies.set_protocol(protocol);
    context.client.shown.protocol.set(protocol);
    let id = context.client.shown.id;
    context.answer(|out| introduce(out, protocol, id))
}

fn introduce(out: &mut Encoder<'_>, protocol: Protocol, id: i64) {
    let pair = |out: &mut Encoder<'_>, name: &str, value: &str| {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    };
    out.map(7);
    pair(out, "server", "kith");
    pair(out, "version", REDIS_VERSION);
    out.bulk(b"proto");
    out.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(id);
    pair(out, "mode", "standalone");
    pair(out, "role", "master");
    out.bulk(b"modules");
    out.array(0);
}

/// RESET: as a connection that has just begun.
pub fn reset<L: Local>(context: &mut Context<'_, L>) -> Flow {
    if context.replies.awaits_any() {
        return Flow::Held;
    }
    listen::end_all(context);
    let shown = &context.client.shown;
    shown.name.borrow_mut().clear();
    shown.protocol.set(Protocol::Resp2);
    shown.database.set(0);
    context.client.collection = collection_of(0);
    context.client.session.reset(&context.client.collection, &context.client.shown);
    context.replies.set_protocol(Protocol::Resp2);
    context.answer(|out| out.simple("RESET"))
}

/// QUIT: the connection ends after the replies so far.
pub fn quit<L: Local>(context: &mut Context<'_, L>) -> Flow {
    context.client.quits = true;
    context.answer_ok()
}

/// CLIENT ID
pub fn id<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let id = context.client.shown.id;
    context.answer(|out| out.integer(id))
}

/// CLIENT GETNAME
pub fn get_name<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let name = context.client.shown.name.borrow();
    context.replies.ready(|out| if name.is_empty() { out.nil() } else { out.bulk(&name) });
    Flow::Done
}

/// CLIENT SETNAME name
pub fn set_name<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    match rename(context, arguments.get(2)) {
        Ok(()) => context.answer_ok(),
        Err(message) => context.error(message),
    }
}

fn rename<L: Local>(context: &Context<'_, L>, name: &[u8]) -> Result<(), &'static str> {
    if name.len() > MAX_TOLD_BYTES {
        return Err("Client names have at most 256 bytes.");
    }
    if !is_plain(name) {
        return Err("Client names cannot contain spaces, newlines or special characters.");
    }
    *context.client.shown.name.borrow_mut() = name.to_vec();
    Ok(())
}

/// Whether a client's words can stand in a line between spaces.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// CLIENT SETINFO LIB-NAME | LIB-VER text
pub fn set_info<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let (attribute, text) = (arguments.get(2), arguments.get(3));
    let [name, version] = &mut *context.client.shown.library.borrow_mut();
    let place = if attribute.eq_ignore_ascii_case(b"lib-name") {
        name
    } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
        version
    } else {
        let message = format!("Unrecognized option '{}'", quoted(attribute));
        context.replies.refused(|out| out.error("ERR", message.as_bytes()));
        return Flow::Done;
    };
    if text.len() > MAX_TOLD_BYTES || !is_plain(text) {
        let attribute = String::from_utf8_lossy(attribute);
        let message = format!("{attribute} cannot contain spaces, newlines or special characters.");
        context.replies.refused(|out| out.error("ERR", message.as_bytes()));
    } else {
        *place = text.to_vec();
        context.replies.ready(|out| out.ok());
    }
    Flow::Done
}

/// CLIENT NO-EVICT | NO-TOUCH ON | OFF: kith does neither, so both are as they are wished.
pub fn switch<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let word = arguments.get(2);
    if word.eq_ignore_ascii_case(b"ON") || word.eq_ignore_ascii_case(b"OFF") {
        return context.answer_ok();
    }
    context.error("syntax error")
}

/// CLIENT INFO
pub fn info<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let mut text = String::new();
    context.client.shown.line(&mut text, context.wall_ms);
    context.answer(|out| out.text(&text))
}

/// Of the connections that the client may be told of: CLIENT LIST \[TYPE type | ID id \[id …\]\]
pub fn list<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let option = arguments.get(2);
    let (mut ids, mut listening, mut none) = (None, None, false);
    if option.eq_ignore_ascii_case(b"TYPE") && arguments.len() == 4 {
        let kind = arguments.get(3);
        let is = |name: &[u8]| kind.eq_ignore_ascii_case(name);
        none = is(b"master") || is(b"replica") || is(b"slave");
        listening = Some(is(b"pubsub"));
        if !none && !is(b"normal") && !is(b"pubsub") {
            return context.error(&format!("Unknown client type '{}'", quoted(kind)));
        }
    } else if option.eq_ignore_ascii_case(b"ID") && arguments.len() > 3 {
        let Some(wanted) = arguments.from(3).map(number).collect::<Option<Vec<_>>>() else {
            return context.error("Invalid client ID");
        };
        ids = Some(wanted);
    } else if arguments.len() > 2 {
        return context.error("syntax error");
    }
    let mut text = String::new();
    let own = &context.client.shown;
    context.shared.clients.for_each(|shown| {
        if !context.client.session.may_see(own, shown) {
            return;
        }
        let is_of_type = listening.is_none_or(|listening| listening == shown.is_listening());
        if !none && is_of_type && ids.as_ref().is_none_or(|ids| ids.contains(&shown.id)) {
            shown.line(&mut text, context.wall_ms);
        }
    });
    context.answer(|out| out.text(&text))
}
