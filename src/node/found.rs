//! What a start finds wrong with what is stored, in words for people.

use crate::storage::{Recovery, Scan, StoreRecovery};

/// What the store lacks.
pub(super) fn in_store(found: &StoreRecovery, scan: &Scan) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some((name, reason)) = &found.set_aside {
        problems.push(format!(
            "the record store was set aside as {name} ({reason}); it is rebuilt from the others"
        ));
    }
    if let Some(name) = &scan.set_aside {
        problems.push(format!(
            "the record store was damaged and set aside as {name}; what was whole is kept, {} damaged records and \
             what is gone come from the others",
            scan.damaged
        ));
    } else if !scan.complete && !found.created {
        problems.push("stored records are gone; they are fetched from the others".to_owned());
    }
    problems
}

/// What the journal lacks, in words. An end that an ordinary crash cut off is none.
pub(super) fn in_journal(recovery: &Recovery, store_created: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if recovery.missing_segments > 0 && store_created && recovery.segments > 0 {
        // Only a checkpoint drops the segments that are not there, and the store would tell of it.
        problems.push("the record store is gone; a new one is filled from the others".to_owned());
    } else if recovery.missing_segments > 0 {
        problems.push("a part of the journal is gone; what was in it comes from the others".to_owned());
    }
    if recovery.damaged {
        let aside = recovery.set_aside.join(", ");
        problems.push(format!(
            "the journal was damaged and set aside as {aside}; what was whole is kept, the rest comes from the others"
        ));
    }
    problems
}
