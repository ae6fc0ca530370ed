//! Which slots changed in this turn, noted where records change and only while anybody watches.

use super::super::hints::HintKey;
use super::super::table::SlotId;
use crate::model::{KeyHash, Kind, RecordRef};
use crate::protocol::watch::ChangeKind;

/// Changes that are noted in one turn; beyond it every watch of this member has a gap.
const MAX_NOTED: usize = 1 << 18;

/// What changed in this turn.
#[derive(Debug, Default)]
pub(in crate::engine) struct Noted {
    is_active: bool,
    changes: Vec<(SlotId, ChangeKind)>,
    overflowed: bool,
    /// What left memory and will expire: when, and its names.
    evicted: Vec<(u64, KeyHash, HintKey)>,
}

impl Noted {
    /// Whether anybody watches.
    #[inline]
    pub(in crate::engine) const fn is_active(&self) -> bool {
        self.is_active
    }

    /// Begins, or ends, to note what changes.
    pub(super) fn set_active(&mut self, is_active: bool) {
        self.is_active = is_active;
        if !is_active {
            *self = Self::default();
        }
    }

    /// Notes that readers see another record in a slot now, or none any more.
    pub(in crate::engine) fn note(&mut self, id: SlotId, kind: Kind) {
        if self.changes.len() >= MAX_NOTED {
            self.overflowed = true;
            return;
        }
        let kind = match kind {
            Kind::Value => ChangeKind::Set,
            Kind::Counter => ChangeKind::Increment,
            Kind::Tombstone => ChangeKind::Delete,
            Kind::ExpiredValue | Kind::ExpiredCounter => ChangeKind::Expire,
        };
        self.changes.push((id, kind));
    }

    /// Notes that a record which will expire leaves memory.
    pub(in crate::engine) fn note_evicted(&mut self, record: RecordRef<'_>, hash: KeyHash) {
        let names = record.expiry_ms().zip(record.key_ref().ok());
        if let Some((expiry_ms, key)) = names.filter(|_| self.evicted.len() < MAX_NOTED) {
            self.evicted.push((expiry_ms, hash, HintKey::of(key)));
        }
    }

    /// What changed since the last call; `None` when not all of it is known.
    pub(super) fn take(&mut self) -> Option<Vec<(SlotId, ChangeKind)>> {
        let changes = std::mem::take(&mut self.changes);
        (!std::mem::take(&mut self.overflowed)).then_some(changes)
    }

    /// Gives an allocation back.
    pub(super) fn recycle(&mut self, mut changes: Vec<(SlotId, ChangeKind)>) {
        if self.changes.is_empty() && changes.capacity() <= 4_096 {
            changes.clear();
            self.changes = changes;
        }
    }

    /// What left memory since the last call.
    pub(super) fn take_evicted(&mut self) -> Vec<(u64, KeyHash, HintKey)> {
        std::mem::take(&mut self.evicted)
    }
}
