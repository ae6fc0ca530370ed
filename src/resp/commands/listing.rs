//! SCAN, KEYS, DBSIZE and FLUSHDB: commands that go through the keys of a collection.
//!
//! They ask for pages in the order of keys, one at a time, as each says where the next one begins. The
//! connection waits meanwhile and nobody else does: between two pages the data thread serves others. A page
//! shows what was there when it was made, so a key that is written or deleted meanwhile may be seen or not;
//! one that is there from the beginning to the end is seen once.

use super::{Asked, Context, Flow, GatherReply, PROBE};
use crate::engine::operation::{Change, OperationError, Outcome, Page, Row, Scan};
use crate::model::KeyRange;
use crate::model::limits::MAX_SCAN_LIMIT;
use crate::node::local::Local;
use crate::resp::glob;
use crate::resp::parse::Arguments;
use crate::resp::reply::Encoder;

/// Keys in a page of a command that goes through all of them.
const PAGE_KEYS: usize = 1_000;
/// Keys that SCAN looks at when it is not told how many.
const SCAN_KEYS: usize = 10;
/// Bytes of the keys that KEYS answers, and how many keys.
const MAX_LISTED_BYTES: usize = 8 << 20;
const MAX_LISTED_KEYS: usize = 1 << 20;

/// What a command that goes through all keys has found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The key after which the next page begins.
    after: Option<Vec<u8>>,
    /// What KEYS or SCAN has found: each key behind its length.
    keys: Vec<u8>,
    /// How many keys were found.
    count: usize,
    /// What is left of the last page, the next key last: FLUSHDB deletes it, KEYS and SCAN compare it with their pattern.
    page: Vec<Row>,
    /// No page is to come.
    over: bool,
}

impl Listing {
    /// Bytes of memory of the keys that were found, and of the page that is looked at.
    pub fn room(&self) -> usize {
        self.keys.len() + rows_room(&self.page)
    }

    /// The keys that were found.
    fn encode(&self, out: &mut Encoder<'_>) {
        out.array(self.count);
        let mut rest = self.keys.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (key, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into()).unwrap_or_default();
            out.bulk(key);
            rest = tail;
        }
    }

    /// Whether a page was taken in.
    pub const fn has_begun(&self) -> bool {
        self.over || self.after.is_some()
    }
}

/// Bytes of memory of rows.
pub fn rows_room(rows: &[Row]) -> usize {
    rows.iter().map(|row| size_of::<Row>() + row.bytes()).sum()
}

/// SCAN cursor \[MATCH pattern\] \[COUNT count\] \[TYPE type\]
pub fn scan<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let Some(cursor) = cursor(arguments.get(1)) else { return context.error("invalid cursor") };
    let (mut pattern, mut limit, mut strings) = (&b"*"[..], SCAN_KEYS, true);
    let mut at = 2;
    while at < arguments.len() {
        let (option, value) = (arguments.get(at), arguments.get(at + 1));
        let is = |name: &[u8]| option.eq_ignore_ascii_case(name) && at + 1 < arguments.len();
        if is(b"COUNT") {
            limit = match context.integer(value) {
                Ok(count) if count < 1 => return context.error("syntax error"),
                Ok(count) => usize::try_from(count).unwrap_or(usize::MAX).min(MAX_SCAN_LIMIT),
                Err(refused) => return refused,
            };
        } else if is(b"MATCH") {
            pattern = value;
        } else if is(b"TYPE") {
            strings = value.eq_ignore_ascii_case(b"string");
        } else {
            return context.error("syntax error");
        }
        at += 2;
    }
    if glob::is_too_wild(pattern) {
        return context.error(glob::TOO_WILD);
    }
    let mut after = None;
    let progress = &context.client.progress;
    if cursor > 0 && matches!(progress.asked, Asked::Nothing) && !progress.listing.over {
        match context.shared.cursors.key(cursor) {
            Some(key) => after = Some(key.to_vec()),
            None => return context.error("invalid cursor"),
        }
    }
    // Every value is a string.
    if !strings {
        return scanned(context);
    }
    if !context.client.progress.listing.over {
        match page(context, glob::literal_prefix(pattern), after, limit) {
            None => return Flow::Held,
            Some(Err(error)) => return failed(context, &error),
            Some(Ok(Page { rows, resume })) => {
                let listing = &mut context.client.progress.listing;
                (listing.page, listing.after, listing.over) = (backwards(rows), resume, true);
            }
        }
    }
    match compare(context, pattern) {
        Flow::Held => Flow::Held,
        Flow::Done => scanned(context),
    }
}

/// A cursor as Redis reads it: a number, counted down from 2^64 behind a minus; nothing is 0.
fn cursor(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    let text = std::str::from_utf8(text).ok()?;
    // The digits may have one sign, the plus that is read with them.
    text.strip_prefix('-').map_or_else(
        || text.parse().ok(),
        |digits| {
            let number: u64 = digits.parse().ok().filter(|_| !digits.starts_with('+'))?;
            Some(number.wrapping_neg())
        },
    )
}

/// The answer of SCAN: the place where it goes on, and what it has found.
fn scanned<L: Local>(context: &mut Context<'_, L>) -> Flow {
    let listing = std::mem::take(&mut context.client.progress.listing);
    let collection = &context.client.collection;
    let next = listing.after.as_ref().map_or(0, |key| context.shared.cursors.place(collection, key));
    context.answer(|out| {
        out.array(2);
        out.bulk(next.to_string().as_bytes());
        listing.encode(out);
    })
}

/// KEYS pattern: an array's length comes first, so all of it must be known, and that is bounded.
pub fn keys<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let pattern = arguments.get(1);
    if glob::is_too_wild(pattern) {
        return context.error(glob::TOO_WILD);
    }
    loop {
        if compare(context, pattern) == Flow::Held {
            return Flow::Held;
        }
        let listing = &mut context.client.progress.listing;
        if listing.keys.len() > MAX_LISTED_BYTES || listing.count > MAX_LISTED_KEYS {
            *listing = Listing::default();
            return context.error("too many keys match; use SCAN, which lists them some at a time");
        }
        if listing.over {
            break;
        }
        match next_page(context, glob::literal_prefix(pattern)) {
            Ok(rows) => context.client.progress.listing.page = backwards(rows),
            Err(flow) => return flow,
        }
    }
    let listing = std::mem::take(&mut context.client.progress.listing);
    context.answer(|out| listing.encode(out))
}

fn backwards(mut rows: Vec<Row>) -> Vec<Row> {
    rows.reverse();
    rows
}

/// Takes in what matches of the page. Patterns may be costly, so the connection's turn may end in the middle of it.
fn compare<L: Local>(context: &mut Context<'_, L>, pattern: &[u8]) -> Flow {
    let listing = &mut context.client.progress.listing;
    while let Some(row) = listing.page.pop() {
        let key = row.key();
        if glob::matches(pattern, key) {
            // A key's length fits: keys are short.
            listing.keys.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
            listing.keys.extend_from_slice(key);
            listing.count += 1;
        }
        context.replies.spend(glob::steps(pattern, key));
        if context.replies.is_turn_over() {
            return Flow::Held;
        }
    }
    Flow::Done
}

/// DBSIZE: how many keys there are, counted now.
pub fn size<L: Local>(context: &mut Context<'_, L>) -> Flow {
    while !context.client.progress.listing.over {
        match next_page(context, Vec::new()) {
            Ok(rows) => context.client.progress.listing.count += rows.len(),
            Err(flow) => return flow,
        }
    }
    let Listing { count, .. } = std::mem::take(&mut context.client.progress.listing);
    context.answer(|out| out.integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// FLUSHDB \[ASYNC | SYNC\]: deletes one key after the other, page by page.
pub fn flush<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let option = arguments.get(1);
    let known = option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC");
    if arguments.len() > 2 || (arguments.len() == 2 && !known) {
        return context.error("syntax error");
    }
    loop {
        while let Some(row) = context.client.progress.listing.page.pop() {
            if context.must_wait() {
                context.client.progress.listing.page.push(row);
                return Flow::Held;
            }
            let token = context.gather(GatherReply::Ok, 1);
            context.write_one_of(token, row.key(), Change::Delete);
        }
        if context.client.progress.listing.over {
            let token = context.gather(GatherReply::Ok, 1);
            return context.gathered(token);
        }
        match next_page(context, Vec::new()) {
            Ok(rows) => context.client.progress.listing.page = rows,
            Err(flow) => return flow,
        }
    }
}

/// The next page of a command that goes through all keys, or what to do without one.
fn next_page<L: Local>(context: &mut Context<'_, L>, prefix: Vec<u8>) -> Result<Vec<Row>, Flow> {
    let after = match context.client.progress.asked {
        Asked::Nothing => context.client.progress.listing.after.clone(),
        Asked::Waiting | Asked::Answered(_) => None,
    };
    match page(context, prefix, after, PAGE_KEYS) {
        None => Err(Flow::Held),
        Some(Err(error)) => Err(failed(context, &error)),
        Some(Ok(Page { rows, resume })) => {
            let listing = &mut context.client.progress.listing;
            (listing.over, listing.after) = (resume.is_none(), resume);
            Ok(rows)
        }
    }
}

/// A page of the selected collection, once it is there.
fn page<L: Local>(
    context: &mut Context<'_, L>,
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Option<Result<Page, OperationError>> {
    let answer = context.ask(|local, client| {
        let all = KeyRange::with_prefix(&prefix);
        let keys = match after {
            Some(after) => all.beyond(&after, false),
            None => all,
        };
        let collection = client.collection.clone();
        let scan = Scan { collection, keys, reverse: false, keys_only: true, limit, held: false };
        local.scan(&client.shown.mailbox, PROBE, &scan);
    })?;
    Some(match answer {
        Outcome::Page(page) => Ok(page),
        Outcome::Failed(error) => Err(error),
        _ => Err(OperationError::Unreachable),
    })
}

/// The end of a command that could not go through all keys.
fn failed<L: Local>(context: &mut Context<'_, L>, error: &OperationError) -> Flow {
    let begun = std::mem::take(&mut context.client.progress);
    // FLUSHDB may have deleted something before; its reply stands in its place already.
    if begun.next > 0 {
        context.replies.fail(begun.token, error.clone());
        context.replies.close(begun.token);
    } else {
        context.replies.refused(|out| out.operation_error(error));
    }
    Flow::Done
}
