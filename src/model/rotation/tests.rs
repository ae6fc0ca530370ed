use super::*;
use crate::model::MemberId;
use proptest::prelude::*;
use std::collections::BTreeMap;

const A: KeyId = KeyId([1; 8]);
const B: KeyId = KeyId([2; 8]);
const C: KeyId = KeyId([3; 8]);
const SEALED: Envelope = Envelope { to: [9; SEALED_BYTES], from: [8; SEALED_BYTES] };

type Records = BTreeMap<Vec<u8>, (Vec<u8>, Timestamp)>;

fn stamp(time: u64) -> Timestamp {
    Timestamp { time, member: MemberId(7) }
}

fn state(number: u64, step: Step, added: u64, to: KeyId, from: KeyId) -> State {
    State { number, step, added: stamp(added), to, from }
}

fn record(state: &State) -> (Vec<u8>, (Vec<u8>, Timestamp)) {
    let note = match state.step {
        Step::Added => Note::of_added(state.from, &SEALED),
        Step::Used | Step::Retired => Note::of_step(state),
    };
    (state.key(), (note.to_bytes(), state.added))
}

fn read_all(records: &Records) -> Rotations {
    let records = records.iter().map(|(key, (value, at))| (key.as_slice(), value.as_slice(), *at));
    Rotations::from_records(records)
}

#[test]
fn a_state_survives_its_record_and_the_sealed_keys_go_with_those_of_the_same_secret() {
    for step in Step::ALL {
        let state = state(3, step, 5, B, A);
        let rotations = read_all(&Records::from([record(&state)]));
        assert_eq!((rotations.in_force(), rotations.unreadable()), (Some(state), 0));
        assert_eq!(rotations.sealed(&state).is_some(), step == Step::Added);
    }
    let (added, used) = (state(1, Step::Added, 5, B, A), state(1, Step::Used, 5, B, A));
    let rotations = read_all(&Records::from([record(&added), record(&used)]));
    assert_eq!(rotations.in_force(), Some(used));
    assert_eq!(rotations.sealed(&used), Some(&SEALED));
    assert_eq!(rotations.sealed(&state(1, Step::Used, 5, C, A)), None);
}

#[test]
fn what_goes_further_holds_and_of_rivals_the_one_that_was_added_later() {
    let rising = [
        state(1, Step::Added, 1, C, A),
        state(1, Step::Added, 2, B, A),
        state(1, Step::Used, 1, C, A),
        state(1, Step::Used, 2, B, A),
        state(1, Step::Retired, 1, C, A),
        state(2, Step::Added, 1, B, C),
    ];
    assert!(rising.is_sorted());
    let digests: std::collections::BTreeSet<u64> =
        rising.iter().map(Some).chain([None]).map(State::digest).collect();
    assert_eq!(digests.len(), rising.len() + 1);
}

#[test]
fn the_last_time_of_adding_is_that_of_any_rotation_and_step() {
    assert_eq!(Rotations::default().last_added(), 0);
    let all = [state(1, Step::Used, 9, B, A), state(1, Step::Added, 3, C, A), state(2, Step::Added, 5, C, B)];
    assert_eq!(read_all(&all.iter().map(record).collect()).last_added(), 9);
}

#[test]
fn a_record_that_makes_no_sense_counts_for_nothing_and_is_counted() {
    let (key, (good, at)) = record(&state(1, Step::Added, 1, B, A));
    let text = |text: &str| text.as_bytes().to_vec();
    let wrong = [
        (text("1/0202020202020202/added/x"), good.clone()),
        (text("01/0202020202020202/added"), good.clone()),
        (text("1/02/added"), good.clone()),
        (text("1/0202020202020202/used"), good.clone()),
        (text("1/0202020202020202/forgotten"), good),
        (key.clone(), text("{}")),
        (key.clone(), text(r#"{"from":"0101010101010101"}"#)),
        (key, text(r#"{"from":"0101010101010101","sealed":"00","back":"00"}"#)),
        (text("\u{ff}"), Vec::new()),
    ];
    for (key, value) in wrong {
        let shown = String::from_utf8_lossy(&key).into_owned();
        let rotations = read_all(&Records::from([(key, (value, at))]));
        assert_eq!((rotations.in_force(), rotations.unreadable()), (None, 1), "{shown}");
    }
}

#[test]
fn only_the_last_step_stays_of_a_rotation_that_is_over() {
    let over = state(2, Step::Retired, 5, C, B);
    let all = [
        state(1, Step::Retired, 1, B, A),
        state(2, Step::Added, 4, A, B),
        state(2, Step::Added, 5, C, B),
        state(2, Step::Used, 5, C, B),
        over,
        state(3, Step::Added, 9, A, C),
    ];
    let rotations = read_all(&all.iter().map(record).collect());
    let mut surplus = rotations.surplus(&over);
    surplus.sort();
    let mut expected: Vec<_> = all[..4].iter().map(State::key).collect();
    expected.sort();
    assert_eq!(surplus, expected);
}

/// Members that hear of each other when they like, add, use and retire as the rules allow, and take what they know
/// when they like. What each has told is what the others go by, however old it is.
#[derive(Debug, Default)]
struct Cluster {
    /// What each member knows.
    known: Vec<Records>,
    /// Where each member is, and what it accepts.
    at: Vec<(Option<State>, Vec<KeyId>)>,
    /// What each member last heard of each other one.
    heard: Vec<Vec<Option<State>>>,
    secrets: u8,
    time: u64,
}

impl Cluster {
    fn new(members: usize) -> Self {
        Self {
            known: vec![Records::new(); members],
            at: vec![(None, vec![A]); members],
            heard: vec![vec![None; members]; members],
            secrets: 1,
            time: 0,
        }
    }

    fn share(&self, one: usize, other: usize) -> bool {
        self.at[one].1.iter().any(|key| self.at[other].1.contains(key))
    }

    /// A member takes what it knows; its records of retired secrets are gone by then.
    fn take(&mut self, member: usize) {
        let rotations = read_all(&self.known[member]);
        let Some(target) = rotations.in_force().filter(|target| Some(*target) > self.at[member].0) else {
            return;
        };
        let keys = &self.at[member].1;
        let can_open = keys.contains(&target.from) && rotations.sealed(&target).is_some();
        assert!(keys.contains(&target.to) || can_open, "{member} can't take {target:?}: {self:?}");
        self.at[member].1 = match target.step {
            Step::Retired => vec![target.to],
            Step::Added | Step::Used => vec![target.from, target.to],
        };
        self.at[member].0 = Some(target);
    }

    fn write(&mut self, member: usize, state: &State) {
        let (key, value) = record(state);
        self.known[member].insert(key, value);
        self.take(member);
    }

    fn act(&mut self, member: usize, what: u8) {
        self.take(member);
        self.time += 1;
        let here = self.at[member].0;
        let all_are_here =
            self.heard[member].iter().enumerate().all(|(other, at)| other == member || *at == here);
        let next = |here: State, step| State { step, ..here };
        match (what, here) {
            (0, Some(here)) if here.step == Step::Used => {}
            (0, _) => {
                let (number, from) = match here {
                    None => (1, A),
                    Some(here) if here.step == Step::Added => (here.number, here.from),
                    Some(here) => (here.number + 1, here.to),
                };
                self.secrets += 1;
                let to = KeyId([self.secrets; 8]);
                self.write(member, &State { number, step: Step::Added, added: stamp(self.time), to, from });
            }
            (1, Some(here)) if here.step == Step::Added && all_are_here => {
                self.write(member, &next(here, Step::Used));
            }
            (2, Some(here)) if here.step == Step::Used && all_are_here => {
                let retired = next(here, Step::Retired);
                let surplus = read_all(&self.known[member]).surplus(&retired);
                self.write(member, &retired);
                surplus.iter().for_each(|key| drop(self.known[member].remove(key)));
            }
            _ => {}
        }
    }

    /// One member sends another what it knows, or tells where it is.
    fn talk(&mut self, from: usize, to: usize, tells: bool) {
        if !self.share(from, to) || from == to {
            return;
        }
        if tells {
            self.heard[to][from] = self.at[from].0;
        } else {
            let known = self.known[from].clone();
            self.known[to].extend(known);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whoever_asks_whom_for_what_any_two_members_always_have_a_secret_in_common(
        members in 2..5_usize,
        steps in prop::collection::vec((0..4_usize, 0..4_usize, 0..6_u8), 1..200),
    ) {
        let mut cluster = Cluster::new(members);
        for (one, other, what) in steps {
            let (one, other) = (one % members, other % members);
            match what {
                0..=2 => cluster.act(one, what),
                3 => cluster.take(one),
                4 => cluster.talk(one, other, true),
                _ => cluster.talk(one, other, false),
            }
            for one in 0..members {
                for other in 0..one {
                    prop_assert!(cluster.share(one, other), "{one} and {other}: {cluster:?}");
                }
            }
        }
        // Everybody comes to the same once all talk.
        for _ in 0..members {
            for (one, other) in (0..members).flat_map(|one| (0..members).map(move |other| (one, other))) {
                cluster.talk(one, other, false);
                cluster.take(other);
            }
        }
        for at in &cluster.at {
            prop_assert_eq!(at.0, cluster.at[0].0);
        }
    }
}
