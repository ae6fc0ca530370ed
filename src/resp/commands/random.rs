//! RANDOMKEY: some key, any of them, without going through all.
//!
//! Nobody can count keys quickly, so chance goes down the tree of their names instead: from what all keys have in
//! common it draws the byte that follows, takes the next one that there is, and goes on below it, until the keys that
//! begin alike fit into one page; one of these is drawn. Each byte that is there is drawn with some chance, so every key
//! can come; one whose name is far from others comes more often than one among many.
//!
//! A page that was cut off before anything readable came says where it goes on, and is no end: many deleted keys may lie
//! before one that is there.

use super::{Context, Flow, PROBE, Progress};
use crate::engine::operation::{OperationError, Outcome, Page, Row, Scan};
use crate::model::KeyRange;
use crate::node::local::Local;
use rand::RngExt as _;

/// Keys from which one is drawn evenly.
const PAGE_KEYS: usize = 1_000;
/// How often chance begins again because what it had come to was deleted meanwhile. Then the first keys that are found do.
const MAX_RESTARTS: u8 = 8;
/// What a page without keys costs that has more behind it: thousands of records were looked at, which is about a turn.
const BARREN_COST: usize = 256 << 10;

/// How far down chance has come.
#[derive(Debug, Default)]
pub struct Descent {
    /// What the keys from which one is drawn begin with.
    common: Vec<u8>,
    /// The byte that was drawn to follow it; the next one that there is counts.
    byte: Option<u8>,
    /// The first two of the keys that begin so, once it is known that they don't fit into a page.
    first: Option<[Vec<u8>; 2]>,
    /// The key that the pages of what is asked for now have come to, none of which had keys.
    after: Option<Vec<u8>>,
    restarts: u8,
}

impl Descent {
    /// Whether anything was learned.
    pub const fn has_begun(&self) -> bool {
        !self.is_at_top() || self.after.is_some() || self.restarts > 0
    }

    /// Whether all keys are asked for.
    const fn is_at_top(&self) -> bool {
        self.byte.is_none() && self.first.is_none()
    }

    /// What is asked for next: the first keys, or the last one.
    fn scan(&self, collection: &str) -> Scan {
        let (reverse, keys) = match (&self.first, self.byte) {
            (Some([first, _]), _) => (true, KeyRange::with_prefix(self.chosen(first))),
            (None, Some(byte)) => {
                let start = [&*self.common, &[byte]].concat();
                (false, KeyRange::with_prefix(&self.common).starting_at(&start))
            }
            (None, None) => (false, KeyRange::default()),
        };
        let keys = match &self.after {
            Some(after) => keys.beyond(after, reverse),
            None => keys,
        };
        let limit = if reverse { 1 } else { PAGE_KEYS };
        Scan { collection: collection.to_owned(), keys, reverse, keys_only: true, limit, held: false }
    }

    /// What the drawn keys begin with, of which `key` is one.
    fn chosen<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        let bytes = if self.byte.is_some() { self.common.len() + 1 } else { 0 };
        key.get(..bytes).unwrap_or(key)
    }

    /// Takes in what came, and gives the key once it is found; of no keys, none.
    fn take_in(&mut self, page: &Page) -> Option<Option<Vec<u8>>> {
        let rows = &page.rows;
        let Some(next) = rows.first() else {
            if page.resume.is_some() {
                self.after.clone_from(&page.resume);
                return None;
            }
            // Nothing at all, or what was there has been deleted meanwhile.
            let is_over = self.is_at_top();
            *self = Self { restarts: self.restarts.saturating_add(1), ..Self::default() };
            return is_over.then_some(None);
        };
        self.after = None;
        if let Some(first) = self.first.take() {
            return self.go_down(first, next.key()).map(Some);
        }
        let chosen = self.chosen(next.key());
        let fits = |row: &&Row| row.key().starts_with(chosen);
        let found = rows.iter().take_while(fits).count();
        if found == rows.len() && page.resume.is_some() && self.restarts < MAX_RESTARTS {
            let second = rows.get(1).unwrap_or(next);
            self.first = Some([next, second].map(|row| row.key().to_vec()));
            return None;
        }
        let drawn = rows.get(rand::rng().random_range(0..found.max(1))).unwrap_or(next);
        Some(Some(drawn.key().to_vec()))
    }

    /// Draws the byte behind what the first key and the last one have in common. The first key may end there: then it
    /// takes part as if it had one byte less than the second, or than any if no second one is known, and is the answer if
    /// it is drawn.
    fn go_down(&mut self, [first, second]: [Vec<u8>; 2], last: &[u8]) -> Option<Vec<u8>> {
        let common = first.iter().zip(last).take_while(|(one, other)| one == other).count();
        let byte = |key: &[u8]| key.get(common).copied().map(i16::from);
        let (least, ends) = match (byte(&first), byte(&second)) {
            (Some(least), _) => (least, false),
            (None, Some(next)) => (next - 1, true),
            (None, None) => (-1, true),
        };
        let drawn = rand::rng().random_range(least..=byte(last).unwrap_or(least).max(least));
        if ends && drawn == least {
            return Some(first);
        }
        self.common = first.get(..common).unwrap_or_default().to_vec();
        self.byte = u8::try_from(drawn).ok();
        None
    }
}

/// RANDOMKEY
pub fn random_key<L: Local>(context: &mut Context<'_, L>) -> Flow {
    loop {
        let answer = context.ask(|local, client| {
            local.scan(&client.shown.mailbox, PROBE, &client.progress.descent.scan(&client.collection));
        });
        let found = match answer {
            None => return Flow::Held,
            Some(Outcome::Page(page)) => {
                let is_barren = page.rows.is_empty() && page.resume.is_some();
                context.replies.spend(if is_barren {
                    BARREN_COST
                } else {
                    page.rows.iter().map(Row::bytes).sum()
                });
                match context.client.progress.descent.take_in(&page) {
                    None => continue,
                    Some(found) => Ok(found),
                }
            }
            Some(Outcome::Failed(error)) => Err(error),
            Some(_) => Err(OperationError::Unreachable),
        };
        context.client.progress = Progress::default();
        return match found {
            Ok(Some(key)) => context.answer(|out| out.bulk(&key)),
            Ok(None) => context.answer(|out| out.nil()),
            Err(error) => {
                context.replies.refused(|out| out.operation_error(&error));
                Flow::Done
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, Record, Timestamp};

    fn row(key: &str) -> Row {
        Row::Whole(Record::value(KeyRef::new("c", key.as_bytes()).unwrap(), Timestamp::ZERO, None, b"v"))
    }

    #[test]
    fn chance_ends_though_whatever_it_comes_to_is_deleted_before_it_is_asked_for() {
        let mut descent = Descent::default();
        for _ in 0..1_000 {
            let page = if descent.scan("c").reverse {
                Page { rows: Vec::new(), resume: None }
            } else {
                Page { rows: vec![row("a"), row("b")], resume: Some(b"b".to_vec()) }
            };
            if let Some(found) = descent.take_in(&page) {
                assert!(found == Some(b"a".to_vec()) || found == Some(b"b".to_vec()));
                return;
            }
        }
        panic!("it goes on for ever");
    }

    #[test]
    fn a_key_that_the_others_begin_with_is_not_the_only_one_though_they_are_far_behind_it() {
        let goes_down = |_| {
            let mut descent = Descent::default();
            let page = Page { rows: vec![row("a")], resume: Some(b"a1".to_vec()) };
            assert_eq!(descent.take_in(&page), None);
            descent.take_in(&Page { rows: vec![row("ab")], resume: None }).is_none() && descent.common == b"a"
        };
        assert!((0..100).any(goes_down));
    }
}
