//! Carries out batches of operations on the data thread: those on different keys together, those on one key as if each came
//! after the answer of the one before.
//!
//! Reads among themselves need no order, nor increments. All others do, and take different ways: a change that looks at
//! a key is carried out at the key's home, another one is stamped by this member, whose clock may know nothing of that one
//! yet, or by whoever is an owner at that moment; a read may be answered by another owner than the one that takes a change.
//! So an operation waits until those before it on its key are answered, and follows in time what they met.

use super::handle::{Answer, Answers, Key, Operation, OperationError};
use super::local::{Local, Mailbox, next, relieved};
use crate::engine::operation::{Change, Outcome, Read, Write};
use std::collections::HashMap;

/// What may be under way on a key at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any number of reads.
    Read,
    /// Any number of increments.
    Increment,
    /// One change of another sort.
    Change,
}

impl Kind {
    const fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Get { .. } => Self::Read,
            Operation::Increment { .. } => Self::Increment,
            Operation::Put { .. } | Operation::Delete { .. } | Operation::Modify { .. } => Self::Change,
        }
    }
}

/// The operations that are not answered, by key; those of one key are of one kind.
#[derive(Debug, Default)]
struct Unanswered<'a>(HashMap<&'a Key, (Kind, usize)>);

impl<'a> Unanswered<'a> {
    /// Begins an operation, unless it must wait for an answer first.
    fn begin(&mut self, operation: &'a Operation) -> bool {
        let kind = Kind::of(operation);
        let (under_way, count) = self.0.entry(operation.key()).or_insert((kind, 0));
        let may_begin = *count == 0 || *under_way == kind && kind != Kind::Change;
        *count += usize::from(may_begin);
        may_begin
    }

    /// An operation was answered.
    fn end(&mut self, operation: &Operation) {
        if let Some((_, count)) = self.0.get_mut(operation.key()) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(operation.key());
            }
        }
    }
}

/// Carries out operations; the answers are in their order. Those that were not begun when `is_abandoned` says that nobody
/// waits for answers any more are left out.
pub(super) async fn run(
    local: &impl Local,
    operations: &[Operation],
    is_abandoned: impl Fn() -> bool,
) -> Answers {
    let mailbox = Mailbox::new();
    let mut answers: Vec<Option<Result<Answer, OperationError>>> = vec![None; operations.len()];
    let mut unanswered = Unanswered::default();
    // The highest time that was met.
    let mut seen = 0;
    let mut take = async |unanswered: &mut Unanswered<'_>, seen: &mut u64| {
        let (token, outcome) = next(&mailbox).await;
        let (Some(operation), Some(answer)) =
            (operations.get(token as usize), answers.get_mut(token as usize))
        else {
            return;
        };
        unanswered.end(operation);
        let answer = answer.insert(answer_of(outcome));
        *seen = (*seen).max(answer.as_ref().map_or(0, Answer::time));
    };
    for (token, operation) in (0u32..).zip(operations) {
        while !unanswered.begin(operation) {
            take(&mut unanswered, &mut seen).await;
        }
        if is_abandoned() {
            unanswered.end(operation);
            break;
        }
        if operation.is_change() {
            relieved(local).await;
        }
        submit(local, &mailbox, token, operation, seen);
    }
    while !unanswered.0.is_empty() {
        take(&mut unanswered, &mut seen).await;
    }
    mailbox.close();
    let lost = || Err(OperationError::Unknown { copies: 0 });
    answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
}

fn answer_of(outcome: Outcome) -> Result<Answer, OperationError> {
    match outcome {
        Outcome::Stored(stored) => Ok(Answer::Stored(stored)),
        Outcome::Modified(modified) => Ok(Answer::Modified(modified)),
        Outcome::Found(record) => Ok(Answer::Found(record)),
        Outcome::Failed(error) => Err(error),
        Outcome::Page(_) | Outcome::Copies(_) => Err(OperationError::Unreachable),
    }
}

fn submit(local: &impl Local, mailbox: &Mailbox, token: u32, operation: &Operation, seen: u64) {
    let Ok(key) = operation.key().key_ref() else { return };
    let (change, level, after) = match operation {
        Operation::Get { level, .. } => return local.read(mailbox, token, Read { key, level: *level }),
        Operation::Put { value, ttl_ms, level, after, .. } => {
            let expiry_ms = ttl_ms.map(|ttl| local.read_clocks().saturating_add(ttl));
            (Change::Set { value, expiry_ms }, *level, *after)
        }
        Operation::Delete { level, after, .. } => (Change::Delete, *level, *after),
        Operation::Increment { delta, level, after, .. } => {
            (Change::Increment { delta: *delta }, *level, *after)
        }
        Operation::Modify { modify, level, after, .. } => (Change::Modify(modify), *level, *after),
    };
    local.write(mailbox, token, Write { key, change, level, after: after.max(seen) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::edit::{Condition, Edit, Modify, Returns};

    /// Operations on a key: a read, an increment, and two changes of other sorts.
    fn of_each_sort(name: &str) -> [Operation; 4] {
        let key = || Key::new("default", name.to_owned()).unwrap();
        let (condition, edit, returns) = (Condition::Present, Edit::Delete, Returns::Nothing);
        let modify = Modify { condition, edit, returns };
        [
            Operation::Get { key: key(), level: None },
            Operation::Increment { key: key(), delta: 1, level: None, after: 0 },
            Operation::Delete { key: key(), level: None, after: 0 },
            Operation::Modify { key: key(), modify, level: None, after: 0 },
        ]
    }

    #[test]
    fn only_reads_and_only_increments_of_one_key_are_under_way_together() {
        let (these, others) = (of_each_sort("k"), of_each_sort("other"));
        for first in 0..4 {
            for second in 0..4 {
                let together = first == second && first < 2;
                let mut unanswered = Unanswered::default();
                assert!(unanswered.begin(&these[first]));
                assert_eq!(unanswered.begin(&these[second]), together, "{first} {second}");
                assert!(unanswered.begin(&others[second]), "another key waits for nothing");
                unanswered.end(&these[first]);
                if together {
                    assert!(!unanswered.begin(&these[3]), "one is unanswered still");
                    unanswered.end(&these[second]);
                }
                assert!(unanswered.begin(&these[second]));
            }
        }
    }
}
