//! What follows when collections come to be placed by themselves, or are so no more.
//!
//! The classes of a cluster are known from its settings ([`Layout`]), and partitions are
//! numbered by them. Numbers travel between members that have the same placement only, and under the placement that numbered
//! them: a message that waits while the numbers change leaves under the one before, so whoever has another one by then refuses
//! it. What this member keeps by number while the placement changes is numbered anew here, by the names of classes; what it has
//! begun ends and begins anew, which whoever waits for it is prepared for. Completeness is kept: a collection that becomes a
//! class has the owners that it had, so who was complete for its records among all others still is. Invariant: nothing kept by
//! partition outlives the layout that numbered it, but through [`Engine::regroup`].

use super::Engine;
use super::journal::{self, Entry};
use super::peer::Told;
use super::scan::has_bit;
use crate::model::MemberId;
use crate::model::placement::{Layout, Placement};
use crate::protocol::CLASSES;
use crate::protocol::message::{Message, Notice};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bit p of byte p/8 for each p that holds.
fn bits_of(held: &[bool]) -> Vec<u8> {
    let mut bits = vec![0u8; held.len().div_ceil(8)];
    for (at, _) in held.iter().enumerate().filter(|(_, held)| **held) {
        if let Some(byte) = bits.get_mut(at / 8) {
            *byte |= 1 << (at % 8);
        }
    }
    bits
}

impl Told {
    /// A bit for each partition of a layout. A collection that the peer did not know to be a class it took for a part of
    /// class 0.
    fn bits(&self, layout: &Layout) -> Vec<u8> {
        let held = layout.every().map(|partition| {
            let own = layout.collection_at(partition).and_then(|collection| self.classes.get(collection));
            has_bit(own.unwrap_or(&self.of_others), layout.slice_at(partition))
        });
        bits_of(&held.collect::<Vec<bool>>())
    }
}

impl Engine {
    /// The classes changed with the placement: all that is kept by partition follows.
    pub(super) fn regroup(&mut self, before: &Placement) {
        let layout = Arc::clone(self.placement.layout());
        if *before.layout() == layout {
            return;
        }
        let was = Arc::clone(before.layout());
        let complete = &self.complete;
        let mut complete = layout.carried(&was, |at| complete.get(usize::from(at)) == Some(&true));
        self.take_told_classes(&mut complete);
        self.complete = complete;
        for peer in &mut self.peers {
            peer.complete = peer.told.as_ref().map(|told| (told.placement, told.bits(&layout)));
            if let Some(link) = &mut peer.link {
                link.end_placement(before.digest());
            }
        }
        self.records.regroup(layout);
        self.end_pass();
        self.refuse_listings();
        self.copying.begin_anew();
        self.rebuilding.copy_anew();
        self.end_batch(None);
        self.fail_ranges();
        self.rebegin_feeds();
        self.note_complete();
    }

    /// What the journal told of classes that were not known when it was read.
    fn take_told_classes(&mut self, complete: &mut [bool]) {
        let layout = self.placement.layout();
        for (collection, bits) in std::mem::take(&mut self.complete_of) {
            let class = layout.class_of(&collection);
            for slice in (0..layout.slices()).map_while(|slice| u16::try_from(slice).ok()) {
                let at = usize::from(layout.partition_at(class, slice));
                if let Some(known) = complete.get_mut(at).filter(|_| class > 0) {
                    *known = has_bit(&bits, slice);
                }
            }
        }
    }

    /// What this member is complete for, class by class: the names of their collections (none for class 0) and a bit for each
    /// slice.
    fn complete_by_class(&self) -> impl Iterator<Item = (Option<&str>, Vec<u8>)> + '_ {
        let layout = self.placement.layout();
        let names = std::iter::once(None).chain(layout.collections().iter().map(|name| Some(name.as_str())));
        let classes = self.complete.chunks(layout.slices());
        names.zip(classes.map(bits_of))
    }

    /// Makes completeness durable. What is told of class 0 comes last and lets all of it hold: a turn's bytes may be written in
    /// parts, and a crash between two of them leaves what held before.
    pub(super) fn note_complete(&mut self) {
        let mut out = std::mem::take(&mut self.lanes.journal);
        let mut classes = self.complete_by_class();
        let of_others = classes.next();
        for (collection, bits) in classes {
            journal::append(&mut out, &Entry::CompleteOf(collection.unwrap_or_default(), &bits));
        }
        if let Some((_, bits)) = of_others {
            journal::append(&mut out, &Entry::Complete(&bits));
        }
        self.lanes.journal = out;
    }

    /// Tells one peer, or all, what this member is a complete owner of, and with it that it knows the
    /// placement. It must know it after a power cut too, so that is told when it is durable.
    pub(super) fn tell_complete(&mut self, to: Option<MemberId>) {
        self.untold |= self.positions.synced < self.placement_position;
        if self.positions.synced < self.placement_position {
            return;
        }
        self.untold &= to.is_some();
        let (placement, catching_up) = (self.placement.digest(), self.is_catching_up());
        let mut classes = self.complete_by_class();
        let partitions = classes.next().map(|(_, bits)| bits).unwrap_or_default();
        let named = classes.map(|(name, bits)| (name.unwrap_or_default().to_owned(), bits));
        let classes: BTreeMap<String, Vec<u8>> = named.collect();
        let notice = if classes.is_empty() {
            Notice::Complete { placement, partitions, catching_up }
        } else {
            Notice::CompleteIn { placement, partitions, classes, catching_up }
        };
        // Who can't read of classes places their records otherwise: it could rely on nothing of this.
        let is_for_all = matches!(notice, Notice::Complete { .. });
        let message = Message::Notice(notice);
        let members: Vec<MemberId> = to.map_or_else(|| self.linked().collect(), |member| vec![member]);
        for member in members {
            if is_for_all || !self.old_peers.contains(&member) {
                self.send_message(member, &message);
            }
        }
    }

    /// Which version of the protocol links to a peer speak from now on; the newest if nobody says. Called before
    /// [`Engine::link_up`].
    pub fn link_speaks(&mut self, member: MemberId, protocol: u16) {
        if protocol < CLASSES {
            self.old_peers.insert(member);
        } else {
            self.old_peers.remove(&member);
        }
    }

    /// A peer told what it is a complete owner of.
    pub(super) fn take_complete(&mut self, member: MemberId, told: Told, catching_up: bool) {
        let complete = Some((told.placement, told.bits(self.placement.layout())));
        let Some(peer) = self.peer_mut(member) else { return };
        let is_news = peer.complete != complete;
        (peer.complete, peer.told) = (complete, Some(told));
        peer.catching_up = catching_up;
        if is_news && peer.compared.last.is_some() {
            self.compare_at_once(member);
        }
    }
}

#[cfg(test)]
mod tests;
