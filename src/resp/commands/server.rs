//! Commands about the connection and the member.

use super::auth::{Need, log_in, refuse_hello};
use super::{Context, Flow};
use crate::model::key::DEFAULT;
use crate::node::local::{Local, LocalInfo};
use crate::resp::parse::{Arguments, number};
use crate::resp::reply;
use std::fmt::Write as _;

/// The version of Redis whose behaviour clients may expect.
const REDIS_VERSION: &str = "7.0.0";
/// Databases that SELECT knows.
const DATABASES: i64 = 1 << 16;
/// Bytes of a connection's name.
const MAX_NAME_BYTES: usize = 256;
/// What CONFIG GET knows: what clients and load generators ask before they begin.
const CONFIG: [(&str, &str); 4] =
    [("save", ""), ("appendonly", "yes"), ("databases", "65536"), ("maxmemory", "0")];

/// PING \[message\]
pub fn ping<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    match arguments.len() {
        1 => context.answer(|out| out.extend_from_slice(b"+PONG\r\n")),
        2 => context.answer(|out| reply::bulk(out, arguments.get(1))),
        _ => context.wrong_arity("ping"),
    }
}

/// SELECT index: database n is the collection named n, 0 the default one.
pub fn select<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    match number(arguments.get(1)) {
        None => context.error("value is not an integer or out of range"),
        Some(index) if !(0..DATABASES).contains(&index) => context.error("DB index is out of range"),
        Some(index) => {
            let client = &mut *context.client;
            client.collection = if index == 0 { DEFAULT.to_owned() } else { index.to_string() };
            client.session.select(&client.collection);
            context.answer(reply::ok)
        }
    }
}

/// HELLO \[2 \[AUTH user token\] \[SETNAME name\]\]
pub fn hello<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if arguments.len() > 1 {
        match number(arguments.get(1)) {
            None => return context.error("Protocol version is not an integer or out of range"),
            Some(2) => {}
            Some(_) => {
                return context.refuse("NOPROTO", b"unsupported protocol version");
            }
        }
    }
    let mut at = 2;
    while at < arguments.len() {
        let option = arguments.get(at);
        if option.eq_ignore_ascii_case(b"AUTH") && at + 2 < arguments.len() {
            if let Err(refused) = log_in(context, arguments.get(at + 1), arguments.get(at + 2)) {
                return refused;
            }
            at += 3;
            continue;
        }
        if !option.eq_ignore_ascii_case(b"SETNAME") || at + 1 >= arguments.len() {
            let option = String::from_utf8_lossy(option.get(..64).unwrap_or(option));
            return context.error(&format!("Syntax error in HELLO option '{option}'"));
        }
        if let Err(message) = set_name(context, arguments.get(at + 1)) {
            return context.error(message);
        }
        at += 2;
    }
    if !context.client.session.may(Need::Known) {
        return refuse_hello(context);
    }
    let id = context.client.id;
    context.answer(|out| {
        reply::array(out, 14);
        for (name, value) in [("server", "kith"), ("version", env!("CARGO_PKG_VERSION"))] {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
        reply::bulk(out, b"proto");
        reply::integer(out, 2);
        reply::bulk(out, b"id");
        reply::integer(out, id);
        for (name, value) in [("mode", "standalone"), ("role", "master")] {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
        reply::bulk(out, b"modules");
        reply::array(out, 0);
    })
}

/// CLIENT ID | GETNAME | SETNAME name | SETINFO attribute value
pub fn client<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let subcommand = arguments.get(1);
    let is = |name: &[u8]| subcommand.eq_ignore_ascii_case(name);
    let (name, length) = if is(b"ID") {
        ("client|id", 2)
    } else if is(b"GETNAME") {
        ("client|getname", 2)
    } else if is(b"SETNAME") {
        ("client|setname", 3)
    } else if is(b"SETINFO") {
        ("client|setinfo", 4)
    } else {
        return context.unknown_subcommand("CLIENT", subcommand);
    };
    if arguments.len() != length {
        return context.wrong_arity(name);
    }
    match name {
        "client|id" => {
            let id = context.client.id;
            context.answer(|out| reply::integer(out, id))
        }
        "client|getname" => {
            let name = context.client.name.as_slice();
            context
                .replies
                .ready(|out| if name.is_empty() { reply::nil(out) } else { reply::bulk(out, name) });
            Flow::Done
        }
        "client|setname" => match set_name(context, arguments.get(2)) {
            Ok(()) => context.answer(reply::ok),
            Err(message) => context.error(message),
        },
        // Libraries introduce themselves; nothing is kept of it.
        _ => context.answer(reply::ok),
    }
}

fn set_name<L: Local>(context: &mut Context<'_, L>, name: &[u8]) -> Result<(), &'static str> {
    if name.len() > MAX_NAME_BYTES {
        return Err("Client names have at most 256 bytes.");
    }
    if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err("Client names cannot contain spaces, newlines or special characters.");
    }
    context.client.name = name.to_vec();
    Ok(())
}

/// COMMAND \[COUNT | LIST | INFO … | DOCS …\]: names only; what clients would learn from the rest
/// they do without.
pub fn command<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let subcommand = arguments.get(1);
    let is = |name: &[u8]| subcommand.eq_ignore_ascii_case(name);
    if arguments.len() == 1 || is(b"DOCS") || is(b"INFO") {
        return context.answer(|out| reply::array(out, 0));
    }
    if is(b"COUNT") {
        let count = i64::try_from(super::COMMANDS.len()).unwrap_or(i64::MAX);
        return context.answer(|out| reply::integer(out, count));
    }
    if is(b"LIST") {
        return context.answer(|out| {
            reply::array(out, super::COMMANDS.len());
            for (name, ..) in super::COMMANDS {
                reply::bulk(out, name.as_bytes());
            }
        });
    }
    context.unknown_subcommand("COMMAND", subcommand)
}

/// CONFIG GET parameter \[parameter …\]
pub fn config<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if !arguments.get(1).eq_ignore_ascii_case(b"GET") {
        return context.unknown_subcommand("CONFIG", arguments.get(1));
    }
    if arguments.len() < 3 {
        return context.wrong_arity("config|get");
    }
    let asked =
        |name: &str| arguments.from(2).any(|word| word == b"*" || word.eq_ignore_ascii_case(name.as_bytes()));
    context.answer(|out| {
        reply::array(out, 2 * CONFIG.iter().filter(|(name, _)| asked(name)).count());
        for (name, value) in CONFIG.iter().filter(|(name, _)| asked(name)) {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
    })
}

/// INFO \[section …\]
pub fn info<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let all = |word: &[u8]| {
        [b"all".as_slice(), b"default", b"everything"].iter().any(|name| word.eq_ignore_ascii_case(name))
    };
    let wanted = |name: &str| {
        arguments.len() == 1
            || arguments.from(1).any(|word| all(word) || word.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut text = String::new();
    for (name, lines) in sections(&context.local.info(), context.shared.connections()) {
        if wanted(name) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string can't fail.
            _ = write!(text, "{gap}# {name}\r\n{lines}");
        }
    }
    context.answer(|out| reply::bulk(out, text.as_bytes()))
}

fn sections(info: &LocalInfo, clients: usize) -> [(&'static str, String); 7] {
    let server = format!(
        "redis_version:{REDIS_VERSION}\r\nkith_version:{}\r\nredis_mode:standalone\r\nprocess_id:{}\r\n\
         uptime_in_seconds:{}\r\nuptime_in_days:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        info.uptime_seconds,
        info.uptime_seconds / 86_400,
    );
    let member = format!(
        "member:{}\r\ncluster:{}\r\nmembers:{}\r\nlive_peers:{}\r\nreplication_factor:{}\r\nrecords:{}\r\n",
        info.member, info.cluster, info.members, info.live_peers, info.replication_factor, info.records,
    );
    [
        ("Server", server),
        ("Clients", format!("connected_clients:{clients}\r\n")),
        ("Memory", format!("used_memory_dataset:{}\r\n", info.table_bytes)),
        ("Persistence", "loading:0\r\naof_enabled:1\r\n".to_owned()),
        ("Replication", format!("role:master\r\nconnected_slaves:{}\r\n", info.live_peers)),
        ("Keyspace", String::new()),
        ("Kith", member),
    ]
}

/// QUIT: the connection ends after the replies so far.
pub fn quit<L: Local>(context: &mut Context<'_, L>) -> Flow {
    context.client.quits = true;
    context.answer(reply::ok)
}
