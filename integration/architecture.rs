//! The shape of the sources, checked against the table of floors.
//!
//! Read as text on purpose: a dependency that compiles is no less a dependency. Comments and strings
//! are blanked first, and tests (`#[cfg(test)]` modules and `tests.rs` files) are left out, because they
//! may use what they like.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test, also in its helpers")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and its floor. A module imports from itself and from floors below its own.
const FLOORS: [(&str, u8); 15] = [
    ("model", 0),
    ("protocol", 1),
    ("engine", 2),
    ("storage", 3),
    ("gossip", 3),
    ("transport", 3),
    ("security", 3),
    ("telemetry", 3),
    ("config", 3),
    ("node", 4),
    ("http", 5),
    ("resp", 5),
    ("terminal", 5),
    ("client", 5),
    ("cli", 5),
];

/// Imports within a floor, each with its reason. There is no way back along any of them.
const NEIGHBOURS: [(&str, &str); 5] = [
    // A link is what security seals.
    ("transport", "security"),
    // Who comes with a browser is shown the page.
    ("http", "terminal"),
    // The command line starts the doors and speaks through the client.
    ("cli", "http"),
    ("cli", "resp"),
    ("cli", "client"),
];

/// What only one module may use.
const OWNERS: [(&str, &[&str]); 8] = [
    ("redb", &["storage"]),
    ("chitchat", &["gossip"]),
    ("snow", &["security"]),
    ("ring", &["security"]),
    ("tokio_rustls", &["security"]),
    ("x509_cert", &["security"]),
    ("bincode", &["protocol"]),
    ("axum", &["http"]),
];

/// What decisions must not depend on: clocks, chance, the outside.
const IMPURE: [&str; 19] = [
    "std::time",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::io",
    "std::thread",
    "std::env",
    "std::process",
    "std::sync::Mutex",
    "SystemTime",
    "Instant",
    "HashMap::new",
    "RandomState",
    "rand",
    "getrandom",
    "tokio",
    "uuid",
];

/// The highest floor that must be free of [`IMPURE`].
const HIGHEST_PURE_FLOOR: u8 = 2;
/// Lines of a file, tests left out: "about 500", with room for what a formatter does.
const MAX_FILE_LINES: usize = 520;

struct Source {
    path: PathBuf,
    module: String,
    /// Without comments, strings and tests; lines keep their numbers.
    code: String,
    opens_with_docs: bool,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_owned();
    let is_test = |path: &PathBuf| {
        path.components().any(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs") == "tests")
    };
    let wanted = files.iter().filter(|path| !is_test(&relative(path)));
    wanted
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let inside = relative(path);
            let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
            Source {
                module: first.trim_end_matches(".rs").to_owned(),
                path: inside,
                opens_with_docs: text.starts_with("//!"),
                code: without_tests(&without_comments_and_strings(&text)),
            }
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Blanks comments and what stands in strings and character literals; newlines stay.
fn without_comments_and_strings(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < characters.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => (index..).find(|i| matches!(at(*i), '\n' | '\0')).unwrap(),
            ('/', '*') => end_of_block_comment(&at, index, characters.len()),
            ('"', _) => end_of_string(&at, index, characters.len()),
            ('r', '"' | '#') if !is_word(at(index.wrapping_sub(1))) || at(index.wrapping_sub(1)) == 'b' => {
                end_of_raw_string(&at, index, characters.len())
            }
            ('\'', next) if next == '\\' || at(index + 2) == '\'' => {
                let first = if next == '\\' { index + 3 } else { index + 2 };
                (first..characters.len()).find(|i| at(*i) == '\'').map_or(characters.len(), |i| i + 1)
            }
            _ => index,
        };
        if end == index {
            out.push(at(index));
            index += 1;
            continue;
        }
        out.extend((index..end).map(|i| if at(i) == '\n' { '\n' } else { ' ' }));
        index = end;
    }
    out
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn end_of_block_comment(at: &dyn Fn(usize) -> char, start: usize, length: usize) -> usize {
    let (mut depth, mut index) = (0, start);
    while index < length {
        match (at(index), at(index + 1)) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            break;
        }
    }
    index
}

fn end_of_string(at: &dyn Fn(usize) -> char, start: usize, length: usize) -> usize {
    let mut index = start + 1;
    while index < length && at(index) != '"' {
        index += if at(index) == '\\' { 2 } else { 1 };
    }
    (index + 1).min(length)
}

fn end_of_raw_string(at: &dyn Fn(usize) -> char, start: usize, length: usize) -> usize {
    let hashes = (start + 1..length).take_while(|i| at(*i) == '#').count();
    if at(start + 1 + hashes) != '"' {
        return start;
    }
    let closes = |i: &usize| at(*i) == '"' && (1..=hashes).all(|offset| at(i + offset) == '#');
    (start + 2 + hashes..length).find(closes).map_or(length, |i| i + 1 + hashes)
}

/// Blanks the items that follow `#[cfg(test)]`; newlines stay.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        let (before, test) = rest.split_at(start);
        out.push_str(before);
        let end = end_of_item(test);
        let (test, after) = test.split_at(end);
        out.extend(test.chars().filter(|character| *character == '\n'));
        rest = after;
    }
    out + rest
}

fn end_of_item(item: &str) -> usize {
    let mut depth = 0;
    for (index, character) in item.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return index + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return index + 1,
            _ => {}
        }
    }
    item.len()
}

/// The first names after `crate::` in a piece of code, those in braces too.
fn imported(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, marker) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if is_word(before) || before == '$' {
            continue;
        }
        let tail = &code[at + marker.len()..];
        match tail.strip_prefix('{') {
            None => names.push(first_word(tail)),
            Some(group) => names.extend(top_level_names(group)),
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|character| is_word(*character)).collect()
}

/// `a::{b, c}, d::e}` gives `a` and `d`.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut expects_name) = (0, Vec::new(), true);
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            _ if expects_name && is_word(character) => {
                names.push(first_word(&group[index..]));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

/// Whether a path or name stands in the code as a whole, and not as part of another one.
fn mentions(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let after = code[at + path.len()..].chars().next().unwrap_or(' ');
        !is_word(before) && !is_word(after)
    })
}

/// Whether a crate is used: its name begins a path.
fn uses_crate(code: &str, name: &str) -> bool {
    let begins_a_path = |(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        !is_word(before) && before != ':'
    };
    code.match_indices(&format!("{name}::")).any(begins_a_path) || code.contains(&format!("use {name};"))
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_module_has_a_floor_and_imports_only_from_floors_below_its_own() {
    let floors: BTreeMap<&str, u8> = FLOORS.into_iter().collect();
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !matches!(source.module.as_str(), "lib" | "main")) {
        let Some(floor) = floors.get(source.module.as_str()) else {
            problems.push(format!("src/{} has no floor", source.path.display()));
            continue;
        };
        for name in imported(&source.code) {
            let lower = floors.get(name.as_str()).is_some_and(|imported| imported < floor);
            let neighbour = NEIGHBOURS.contains(&(source.module.as_str(), name.as_str()));
            if name != source.module && !lower && !neighbour {
                problems.push(format!("src/{} imports crate::{name}", source.path.display()));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn the_lower_floors_read_no_clock_draw_no_chance_and_touch_nothing_outside() {
    let mut problems = Vec::new();
    let pure = FLOORS.iter().filter(|(_, floor)| *floor <= HIGHEST_PURE_FLOOR).map(|(module, _)| *module);
    let pure: Vec<&str> = pure.collect();
    for source in sources().iter().filter(|source| pure.contains(&source.module.as_str())) {
        for word in IMPURE.iter().filter(|word| mentions(&source.code, word)) {
            problems.push(format!("src/{} uses {word}", source.path.display()));
        }
    }
    assert_none(&problems);
}

#[test]
fn each_outside_dependency_has_one_owner() {
    let mut problems = Vec::new();
    for source in sources() {
        for (name, owners) in OWNERS {
            if uses_crate(&source.code, name) && !owners.contains(&source.module.as_str()) {
                problems.push(format!("src/{} uses {name}, which is {owners:?}'s", source.path.display()));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_file_says_what_it_is_and_is_of_a_length_that_can_be_read() {
    let mut problems = Vec::new();
    for source in sources() {
        let path = source.path.display();
        if !source.opens_with_docs {
            problems.push(format!("src/{path} does not open with `//!`"));
        }
        let lines = source.code.trim_end().lines().count();
        if lines > MAX_FILE_LINES {
            problems.push(format!("src/{path} has {lines} lines; a second idea has moved in"));
        }
    }
    assert_none(&problems);
}

#[test]
fn the_table_of_floors_names_what_there_is() {
    let modules: Vec<String> = sources().into_iter().map(|source| source.module).collect();
    let missing =
        FLOORS.iter().map(|(module, _)| *module).filter(|module| !modules.iter().any(|m| m == module));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn the_reader_of_sources_sees_through_comments_strings_and_tests() {
    let text = "use crate::{model::{Key, Record}, engine}; // crate::cli\n\
        /* crate::http /* nested */ */ let a = \"crate::resp \\\" \"; let b = r#\"crate::node\"#; let c = '\"';\n\
        #[cfg(test)]\nmod tests { use crate::cli; fn f() {} }\nfn g() { crate::protocol::x() }\n";
    let code = without_tests(&without_comments_and_strings(text));
    assert_eq!(imported(&code), ["model", "engine", "protocol"]);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(uses_crate("use redb::X;", "redb") && uses_crate("let a = redb::X;", "redb"));
    assert!(!uses_crate("use crate::ring::X;", "ring") && !uses_crate("string::X", "ring"));
    assert!(mentions("use std::time::Instant;", "Instant") && !mentions("InstantX", "Instant"));
}
