//! COMMAND: what clients are told of commands, all of it from the table.

use super::table::{self, COMMANDS, SUBCOMMANDS, Spec};
use super::{Context, Flow};
use crate::node::local::Local;
use crate::resp::glob;
use crate::resp::parse::Arguments;
use crate::resp::reply::Encoder;

/// COMMAND: everything about all commands.
pub fn all<L: Local>(context: &mut Context<'_, L>) -> Flow {
    context.answer(|out| {
        out.array(COMMANDS.len());
        for spec in COMMANDS {
            describe(out, spec);
        }
    })
}

/// COMMAND COUNT
pub fn count<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let count = i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX);
    context.answer(|out| out.integer(count))
}

/// COMMAND INFO \[name …\]: nothing in the place of an unknown one.
pub fn info<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if arguments.len() == 2 {
        return all(context);
    }
    context.answer(|out| {
        out.array(arguments.len() - 2);
        for name in arguments.from(2) {
            match table::find_whole(name) {
                Some(spec) => describe(out, spec),
                None => out.nil(),
            }
        }
    })
}

/// COMMAND DOCS \[name …\]: unknown ones are left out.
pub fn docs<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let wanted: Vec<&Spec> = if arguments.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        arguments.from(2).filter_map(table::find_whole).collect()
    };
    context.answer(|out| documents(out, &wanted))
}

/// COMMAND LIST \[FILTERBY MODULE name | ACLCAT category | PATTERN pattern\]
pub fn list<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let (kind, wanted) = (arguments.get(3).to_ascii_lowercase(), arguments.get(4));
    let filtered = arguments.len() == 5 && arguments.get(2).eq_ignore_ascii_case(b"FILTERBY");
    let fits = |spec: &&Spec| match kind.as_slice() {
        b"pattern" => glob::matches(&wanted.to_ascii_lowercase(), spec.name.as_bytes()),
        b"aclcat" => words(spec.categories).any(|category| wanted.eq_ignore_ascii_case(category.as_bytes())),
        // There are no modules.
        _ => false,
    };
    let known = matches!(kind.as_slice(), b"module" | b"aclcat" | b"pattern");
    if arguments.len() > 3 && !(filtered && known) || arguments.len() == 3 {
        return context.error("syntax error");
    }
    let names = || COMMANDS.iter().chain(SUBCOMMANDS).filter(|spec| !filtered || fits(spec));
    context.answer(|out| {
        out.array(names().count());
        for spec in names() {
            out.bulk(spec.name.as_bytes());
        }
    })
}

/// HELP of a command with subcommands: a line or two for each.
pub fn help<L: Local>(context: &mut Context<'_, L>, spec: &Spec) -> Flow {
    let command = spec.parts().and_then(|(command, _)| table::find(command.as_bytes()));
    let Some(command) = command else { return context.error("syntax error") };
    context.answer(|out| {
        out.array(1 + 2 * command.subcommands().count());
        out.simple(&format!("{} and one of these subcommands:", command.name.to_uppercase()));
        for spec in command.subcommands() {
            let name = spec.parts().map_or("", |(_, subcommand)| subcommand);
            out.simple(&name.to_uppercase());
            out.simple(&format!("    {}", spec.summary));
        }
    })
}

fn words(text: &'static str) -> impl Iterator<Item = &'static str> + Clone {
    text.split(' ').filter(|word| !word.is_empty())
}

/// One command as COMMAND INFO has it.
fn describe(out: &mut Encoder<'_>, spec: &Spec) {
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.integer(spec.arity);
    flags(out, spec.flags, "");
    let (first, last, step) = spec.keys;
    for number in [first, last, step] {
        out.integer(number);
    }
    flags(out, spec.categories, "@");
    out.set(words(spec.tips).count());
    for tip in words(spec.tips) {
        out.bulk(tip.as_bytes());
    }
    key_specs(out, spec);
    out.set(spec.subcommands().count());
    for subcommand in spec.subcommands() {
        describe(out, subcommand);
    }
}

fn flags(out: &mut Encoder<'_>, text: &'static str, mark: &str) {
    out.set(words(text).count());
    for word in words(text) {
        out.simple(&format!("{mark}{word}"));
    }
}

/// Where a command's keys stand and what it does to them. With two kinds of keys each is one argument.
fn key_specs(out: &mut Encoder<'_>, spec: &Spec) {
    let kinds = || spec.access.split(" / ").filter(|kind| !kind.is_empty());
    let (first, last, step) = spec.keys;
    let range = if last > 0 { 0 } else { last };
    out.set(kinds().count());
    for (kind, position) in kinds().zip(first..) {
        out.map(3);
        out.bulk(b"flags");
        flags(out, kind, "");
        for (name, method, places) in [
            ("begin_search", "index", &[("index", position)][..]),
            ("find_keys", "range", &[("lastkey", range), ("keystep", step), ("limit", 0)]),
        ] {
            out.bulk(name.as_bytes());
            out.map(2);
            out.bulk(b"type");
            out.bulk(method.as_bytes());
            out.bulk(b"spec");
            out.map(places.len());
            for (name, place) in places {
                out.bulk(name.as_bytes());
                out.integer(*place);
            }
        }
    }
}

/// What people are told of commands.
fn documents(out: &mut Encoder<'_>, specs: &[&Spec]) {
    out.map(specs.len());
    for spec in specs {
        let subcommands: Vec<&Spec> = spec.subcommands().collect();
        out.bulk(spec.name.as_bytes());
        out.map(if subcommands.is_empty() { 4 } else { 5 });
        let texts = [
            ("summary", spec.summary),
            ("since", spec.since),
            ("group", spec.group),
            ("complexity", spec.complexity),
        ];
        for (name, text) in texts {
            out.bulk(name.as_bytes());
            out.bulk(text.as_bytes());
        }
        if !subcommands.is_empty() {
            out.bulk(b"subcommands");
            documents(out, &subcommands);
        }
    }
}
