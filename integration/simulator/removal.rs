//! Removals, by the rules of the real member (`node::departure`): of one that is taken for dead, and whose
//! partitions others hold whole, by whoever heard a majority since it was asked. And what meets the
//! removed one when it returns.

use crate::member::Input;
use crate::plan::{Fault, MS, SECOND};
use crate::world::{Event, World};
use kith::engine::{Engine, Mode, NOBODY};
use kith::model::MemberId;
use kith::model::roster::Removal;

/// How long the cut stands across which members try to remove each other.
pub const MINORITY: u64 = 13 * SECOND;
/// How long a removal waits to hear a majority.
const HEAR: u64 = 5 * SECOND;
/// How long a fenced member keeps its link at most, so that it learns why it ends.
const FENCED_LINK: u64 = 5 * SECOND;

impl World {
    /// Somebody wants a member removed that it takes for dead; now and then that one wants the same of it,
    /// as on both sides of a cut.
    pub fn try_removal(&mut self, front: usize) {
        let dead: Vec<usize> = (0..self.members.len())
            .filter(|at| *at != front && self.members[front].believes_dead(*at, &self.members) == Some(true))
            .collect();
        let Some(target) = self.random.pick(&dead) else { return };
        let asked = self.now;
        self.give(front, self.members[front].epoch, Input::Remove { target, asked });
        if self.random.chance(500) {
            self.give(target, self.members[target].epoch, Input::Remove { target: front, asked });
        }
    }

    /// A cut leaves less than half of the members on one side, for so long that each side takes the other
    /// for dead; then both try to remove one of the other.
    pub fn cut_minority(&mut self) {
        let few = self.plan.members.div_ceil(2) - 1;
        for one in 0..few {
            for other in few..self.members.len() {
                self.cut(one, other, MINORITY);
                self.cut(other, one, MINORITY);
            }
        }
        self.schedule(5 * SECOND, Event::RemoveAcross);
        self.schedule(6 * SECOND, Event::RemoveAcross);
    }

    /// Both sides of that cut are asked, the smaller one first.
    pub fn remove_across(&mut self) {
        let (first, last, asked) = (0, self.plan.members - 1, self.now);
        self.give(first, self.members[first].epoch, Input::Remove { target: last, asked });
        let (epoch, input) = (self.members[last].epoch, Input::Remove { target: first, asked });
        self.schedule(SECOND, Event::Input { member: last, epoch, input });
    }

    /// A member is asked to remove another one, or looks again whether it may.
    pub fn ask_removal(&mut self, index: usize, engine: &mut Engine, target: usize, asked: u64) {
        let id = self.members[target].id;
        let is_alive = engine.peer_facts(id).is_some_and(|(_, dead, linked)| linked || !dead);
        // At the end nobody is asked any more.
        let is_over = !self.troubled;
        if *engine.mode() != Mode::Serving || engine.roster().get(id).is_none() || is_alive || is_over {
            return;
        }
        let lonely = (0u16..).take(engine.placement().partitions()).find(|at| is_lonely(engine, id, *at));
        if lonely.is_some() {
            return self.note("only copy", &[index as u64, target as u64], || format!("m{index}, m{target}"));
        }
        let me = engine.identity().member;
        let heard = |slot: usize| slot == index || self.members[index].last_frame(slot) > asked;
        let was_heard = |holder: MemberId| {
            let mut slots = (0..self.members.len()).filter(|slot| self.members[*slot].id == holder);
            slots.any(heard)
        };
        if engine.roster().majority(me, was_heard).is_err() {
            if self.now > asked + HEAR {
                self.refusals += 1;
                return self
                    .note("no majority", &[index as u64, target as u64], || format!("m{index}, m{target}"));
            }
            let (epoch, input) = (self.members[index].epoch, Input::Remove { target, asked });
            return self.schedule(50 * MS, Event::Input { member: index, epoch, input });
        }
        // Counted here by itself.
        let slots = (0..self.members.len()).filter(|slot| {
            let member = &self.members[*slot];
            engine.roster().get(member.id).is_some() && !member.is_twin
        });
        let (all, there) = slots.fold((0, 0), |(all, there), at| (all + 1, there + usize::from(heard(at))));
        if 2 * there <= all {
            let text = format!("m{index} removes m{target}, having heard {there} of {all}");
            return self.violate("only a live majority removes", None, text);
        }
        // More than one would be too many for the copies that are planned.
        if self.removal.is_some_and(|(other, _)| other != target) {
            return;
        }
        let removal = Removal { name: format!("m{target}"), reason: format!("removed by m{index}") };
        engine.write_removal(NOBODY, id, &removal);
        self.removal = Some((target, self.now));
        self.note("remove", &[index as u64, target as u64], || format!("m{index} removes m{target}"));
    }

    /// Whether one of two members has fenced the other: they never have a link. The fenced one is told, and
    /// believes it unless it has fenced the other itself.
    pub fn is_fenced(&mut self, one: usize, other: usize) -> bool {
        let fences = |by: usize, whom: usize| {
            let id = self.members[whom].id;
            self.members[by].engine().is_some_and(|engine| engine.roster().is_removed(id))
        };
        let (first, second) = (fences(one, other), fences(other, one));
        for (by, whom) in [(one, other)]
            .into_iter()
            .filter(|_| first && !second)
            .chain([(other, one)].into_iter().filter(|_| second && !first))
        {
            let id = self.members[whom].id;
            if !self.members[by].engine().is_some_and(|engine| engine.has_fenced(id)) {
                continue;
            }
            if !std::mem::replace(&mut self.members[whom].is_expelled, true) {
                self.note("expelled", &[by as u64, whom as u64], || format!("m{by} tells m{whom}"));
            }
        }
        first || second
    }

    /// Notes the moment from which every other member that is up knows of the removal.
    pub fn note_fenced(&mut self) {
        let Some((target, _)) = self.removal.filter(|_| self.fenced_by_all.is_none()) else { return };
        let id = self.members[target].id;
        let mut others =
            self.members.iter().filter(|member| member.is_member && !member.lost && member.id != id);
        let knows = |engine: &Engine| engine.roster().is_removed(id);
        if others.all(|member| member.engine().is_some_and(knows)) {
            self.fenced_by_all = Some(self.now);
        }
    }

    /// Whether a member was being removed at this moment or later. The owners change at once, not in two sides: who
    /// has not heard of it may meet a level with the removed one, and the others may not know of it.
    pub fn is_removing_since(&self, moment: u64) -> bool {
        self.removal.is_some() && self.fenced_by_all.is_none_or(|all| moment <= all)
    }

    /// Ends links to members that were fenced a while ago.
    pub fn drop_fenced(&mut self, index: usize, engine: &Engine) {
        if !self.plan.knows(Fault::Removal) {
            return;
        }
        let is_fenced = |at: &usize| engine.roster().is_removed(self.members[*at].id);
        let fenced: Vec<usize> = self.members[index].linked_slots().filter(is_fenced).collect();
        for peer in fenced {
            // Between the first tick and the last that it may stand.
            if self.random.chance(1_000 * kith::engine::TICK_US * 2 / FENCED_LINK) {
                self.break_link(index, peer);
            }
        }
    }

    /// At the end: a removal reached every member or none, the removed one returned and was told, and nobody
    /// fenced each other.
    pub fn conclude_removal(&mut self) {
        let Some((target, _)) = self.removal.filter(|(target, _)| !self.members[*target].lost) else {
            return;
        };
        let id = self.members[target].id;
        // Who is down may be the only one that knows it.
        self.wait_for(crate::check::REST, "every member starts again", Self::down);
        // Whoever wrote it may have lost it again.
        if !self.live().any(|(at, engine)| at != target && engine.roster().is_removed(id)) {
            self.removal = None;
            return;
        }
        self.wait_for(crate::check::REST, "a removed member that returns is told so", |world| {
            let (target, _) = world.removal?;
            let member = &world.members[target];
            // It may see its own fence over a link that stood, and end by itself.
            if member.left {
                return None;
            }
            let Some(engine) = member.engine() else { return Some(format!("m{target} is down")) };
            let knows = |engine: &Engine| engine.roster().is_removed(member.id);
            if !member.is_expelled && !knows(engine) {
                return Some(format!("m{target} does not know it"));
            }
            let unaware = |(at, other): &(usize, &Engine)| {
                let is_other = *at != target && world.members[*at].is_member;
                is_other && (!knows(other) || other.peer_facts(member.id).is_some_and(|facts| facts.2))
            };
            world.live().find(unaware).map(|(at, _)| format!("m{at} does not know it, or has a link still"))
        });
        let fenced_by = |at: usize, whom: MemberId| {
            self.members[at].engine().is_some_and(|engine| engine.roster().is_removed(whom))
        };
        let other = (0..self.members.len())
            .find(|at| *at != target && fenced_by(target, self.members[*at].id) && fenced_by(*at, id));
        if let Some(other) = other {
            let text = format!("m{target} and m{other} removed each other");
            return self.violate("only a live majority removes", None, text);
        }
        (self.members[target].lost, self.members[target].left) = (true, true);
        self.crash(target, false, 0);
    }
}

/// Whether no live owner but this one is known to hold all of a partition.
fn is_lonely(engine: &Engine, member: MemberId, partition: u16) -> bool {
    let set = engine.placement().set(partition);
    let me = engine.identity().member;
    let is_there = |owner| owner == me || engine.peer_facts(owner).is_some_and(|(_, dead, _)| !dead);
    let mut others = set.owners.iter().map(|owner| owner.member).filter(|owner| *owner != member);
    set.old().any(|owner| owner == member)
        && !others.any(|owner| is_there(owner) && engine.is_complete_at(owner, partition))
}
