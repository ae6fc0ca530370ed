//! Breadth-first search over all states that a cluster can reach.

use super::steps::{State, Step, World};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A quick hash: states are our own, nobody picks them to collide.
#[derive(Default)]
struct Mix(u64);

impl Mix {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.add(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }
    fn write_u8(&mut self, word: u8) {
        self.add(word.into());
    }
    fn write_u16(&mut self, word: u16) {
        self.add(word.into());
    }
    fn write_isize(&mut self, word: isize) {
        self.add(word as u64);
    }
}

/// What a search found.
#[derive(Debug)]
pub enum Outcome {
    /// No state has a defect, and each can still come to the tombstone's end.
    Holds { states: usize },
    /// The shortest way to a defect.
    Defect { what: &'static str, steps: Vec<Step>, states: usize },
    /// More states than the bound.
    TooMany,
}

/// Looks at every state within `bound`.
pub fn explore(world: &World<'_>, bound: usize) -> Outcome {
    let first = world.start();
    let mut ids: HashMap<State, u32, BuildHasherDefault<Mix>> = HashMap::default();
    let (mut states, mut parents, mut edges) = (vec![first], vec![(0, Step::Start)], Vec::new());
    ids.insert(first, 0);
    let (mut at, mut next) = (0, Vec::new());
    while at < states.len() {
        let state = states[at];
        if let Some(what) = world.defect(&state) {
            return Outcome::Defect { what, steps: steps_to(&parents, at), states: states.len() };
        }
        if states.len() > bound {
            return Outcome::TooMany;
        }
        world.next(&state, &mut next);
        for (step, reached) in next.drain(..) {
            let id = *ids.entry(reached).or_insert_with(|| {
                states.push(reached);
                parents.push((at, step));
                states.len() as u32 - 1
            });
            edges.push((id, at as u32));
        }
        at += 1;
    }
    match stuck(world, &states, edges) {
        Some(at) => Outcome::Defect {
            what: "the tombstone can stay for ever",
            steps: steps_to(&parents, at),
            states: states.len(),
        },
        None => Outcome::Holds { states: states.len() },
    }
}

fn steps_to(parents: &[(usize, Step)], mut at: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    while at > 0 {
        steps.push(parents[at].1);
        at = parents[at].0;
    }
    steps.reverse();
    steps
}

/// A state from which no way leads to the tombstone's end: the first that was found.
fn stuck(world: &World<'_>, states: &[State], mut edges: Vec<(u32, u32)>) -> Option<usize> {
    edges.sort_unstable();
    let mut reaches: Vec<bool> = states.iter().map(|state| world.is_reclaimed(state)).collect();
    let mut work: Vec<usize> = (0..states.len()).filter(|at| reaches[*at]).collect();
    while let Some(to) = work.pop() {
        let first = edges.partition_point(|edge| (edge.0 as usize) < to);
        for (_, from) in edges[first..].iter().take_while(|edge| edge.0 as usize == to) {
            if !std::mem::replace(&mut reaches[*from as usize], true) {
                work.push(*from as usize);
            }
        }
    }
    reaches.iter().position(|reaches| !reaches)
}
