//! Facts of placement: who owns what, and by which steps it changes.

use super::super::limits::{MAX_MEMBERS, MAX_REPLICATION_FACTOR};
use super::super::roster::{RosterEntry, entry_key, removal_key};
use super::super::settings::collection::CollectionSettings;
use super::super::timestamp::Timestamp;
use super::*;
use MemberState::{Active, Joining, Leaving};
use proptest::prelude::*;

fn entry(number: u16, state: MemberState, zone: &str) -> RosterEntry {
    let mut public_key = [0; 32];
    public_key[..2].copy_from_slice(&number.to_le_bytes());
    RosterEntry {
        name: format!("member{number}"),
        public_key,
        address: "127.0.0.1:7400".to_owned(),
        http_address: "127.0.0.1:7401".to_owned(),
        zone: zone.to_owned(),
        next_zone: None,
        state,
        admitted: u64::from(number),
    }
}

fn add(roster: &mut Roster, entry: &RosterEntry) -> MemberId {
    let id = entry.id();
    assert!(roster.apply(&entry_key(id), Some(&entry.encode()), Timestamp { time: 1, member: id }));
    id
}

/// Members 0, 1, 2… in the states and zones given.
fn roster(members: &[(MemberState, &str)]) -> Roster {
    let mut roster = Roster::default();
    for (number, (state, zone)) in (0..).zip(members) {
        add(&mut roster, &entry(number, *state, zone));
    }
    roster
}

fn id(number: u16) -> MemberId {
    entry(number, Active, "").id()
}

fn copies(in_force: u8, target: u8) -> Settings {
    Settings { replication_factor: target, replication_factor_in_force: in_force, ..Settings::default() }
}

fn members(set: &OwnerSet) -> Vec<MemberId> {
    set.owners.iter().map(|owner| owner.member).collect()
}

fn every_set(placement: &Placement) -> impl Iterator<Item = &OwnerSet> {
    (0..placement.partitions()).map(|partition| &**placement.set(partition as u16))
}

/// Said otherwise than in `choose`: rank all, take the first of each zone, then the rest.
fn reference(roster: &Roster, partition: u16, copies: usize) -> Vec<MemberId> {
    let mut ranked: Vec<(u64, MemberId, String)> =
        roster.members().map(|(id, known)| (score(id, partition), id, known.entry.zone.clone())).collect();
    ranked.sort_by_key(|(score, id, _)| std::cmp::Reverse((*score, *id)));
    let mut seen = BTreeSet::new();
    let (first, rest): (Vec<_>, Vec<_>) =
        ranked.into_iter().partition(|(_, _, zone)| zone.is_empty() || seen.insert(zone.clone()));
    first.into_iter().chain(rest).map(|(_, id, _)| id).take(copies).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn owners_are_distinct_as_many_as_there_can_be_and_in_distinct_zones_first(
        zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b", "c"]), 0..12),
        factor in 1..=MAX_REPLICATION_FACTOR,
    ) {
        let states: Vec<_> = zones.iter().map(|zone| (Active, *zone)).collect();
        let roster = roster(&states);
        let placement = Placement::compute(4, &roster, &copies(factor, factor));
        let expected = zones.len().min(factor.into());
        for partition in 0..16 {
            let owners = members(placement.set(partition));
            prop_assert_eq!(&owners, &reference(&roster, partition, expected));
            prop_assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), expected);
        }
    }

    #[test]
    fn a_newcomer_displaces_owners_and_moves_nothing_else(
        count in 1u16..12,
        factor in 1..=MAX_REPLICATION_FACTOR,
    ) {
        let mut roster = roster(&vec![(Active, ""); count.into()]);
        let before = Placement::compute(6, &roster, &copies(factor, factor));
        let newcomer = add(&mut roster, &entry(count, Active, ""));
        let after = Placement::compute(6, &roster, &copies(factor, factor));
        for (old, new) in every_set(&before).zip(every_set(&after)) {
            let (old, new) = (members(old), members(new));
            let stayed: Vec<_> = new.iter().copied().filter(|owner| *owner != newcomer).collect();
            prop_assert!(old.starts_with(&stayed));
            prop_assert!(new.len() >= old.len());
        }
    }

    #[test]
    fn old_and_new_owners_are_those_of_the_rosters_before_and_after(
        states in prop::collection::vec(prop::sample::select(vec![Joining, Active, Leaving]), 1..10),
        zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b"]), 10),
        in_force in 1..=MAX_REPLICATION_FACTOR,
        target in 1..=MAX_REPLICATION_FACTOR,
    ) {
        let joining = states.iter().enumerate().filter(|(_, state)| **state == Joining);
        let waits: BTreeSet<usize> = joining.map(|(number, _)| number).skip(MAX_ARRIVING).collect();
        let leaving = (0..states.len()).filter(|at| in_force == target && states[*at] == Leaving);
        let leaves = leaving.min_by_key(|at| id(*at as u16));
        let side = |fits: &dyn Fn(usize) -> bool| {
            let mut roster = Roster::default();
            for (number, (state, zone)) in states.iter().zip(&zones).enumerate() {
                if fits(number) && !waits.contains(&number) {
                    add(&mut roster, &entry(number as u16, *state, zone));
                }
            }
            roster
        };
        let all: Vec<_> = states.iter().copied().zip(zones.iter().copied()).collect();
        let placement = Placement::compute(3, &roster(&all), &copies(in_force, target));
        let (before, after) = (side(&|at| states[at] != Joining), side(&|at| Some(at) != leaves));
        let next = (in_force + u8::from(in_force < target)) - u8::from(in_force > target);
        let (before, in_force) = if before.is_empty() { (&after, next) } else { (&before, in_force) };
        let (after, next) = if after.is_empty() { (before, in_force) } else { (&after, next) };
        for partition in 0..8 {
            let set = placement.set(partition);
            let old: Vec<_> = set.owners.iter().filter(|o| o.in_old).map(|o| o.member).collect();
            let mut new: Vec<_> = set.owners.iter().filter(|o| o.in_new).map(|o| o.member).collect();
            prop_assert_eq!(&old, &reference(before, partition, in_force.into()));
            prop_assert!(members(set).starts_with(&old));
            let mut expected = reference(after, partition, next.into());
            let joining = states.iter().filter(|state| **state == Joining).count();
            if joining + usize::from(placement.step().is_some()) <= 1 {
                let same = old.iter().collect::<BTreeSet<_>>() == expected.iter().collect();
                prop_assert_eq!(set.is_settled(), same);
            }
            new.sort();
            expected.sort();
            prop_assert_eq!(new, expected);
            prop_assert_eq!((set.old_len(), set.new_len()), (old.len(), set.owners.iter().filter(|o| o.in_new).count()));
        }
    }

    /// Whichever step is taken first: the owner sets then were among those in which levels had to be met.
    #[test]
    fn whichever_step_is_taken_the_owners_then_were_a_side_before(
        states in prop::collection::vec(prop::sample::select(vec![Joining, Leaving, Active, Active]), 1..9),
        zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b"]), 9),
        next_zones in prop::collection::vec(prop::sample::select(vec![None, None, Some(""), Some("c")]), 9),
        in_force in 1..=MAX_REPLICATION_FACTOR,
        up in 0..=2u8,
    ) {
        prop_assume!(states.contains(&Active));
        let settings = copies(in_force, (in_force + 1).saturating_sub(up).clamp(1, MAX_REPLICATION_FACTOR));
        let mut entries: Vec<RosterEntry> =
            (0..).zip(states.iter().zip(&zones)).map(|(at, (state, zone))| entry(at, *state, zone)).collect();
        for (entry, next) in entries.iter_mut().zip(&next_zones) {
            entry.next_zone = next.map(str::to_owned);
        }
        let of = |entries: &[RosterEntry], settings: &Settings| {
            let mut roster = Roster::default();
            entries.iter().for_each(|entry| _ = add(&mut roster, entry));
            Placement::compute(3, &roster, settings)
        };
        let before = of(&entries, &settings);
        let mut afters = Vec::new();
        for at in (0..entries.len()).filter(|at| before.is_arriving(entries[*at].id())) {
            let mut entries = entries.clone();
            entries[at].state = Active;
            afters.push((of(&entries, &settings), false));
        }
        match before.step() {
            Some(Step::Copies { copies: next, .. }) => {
                let settings = Settings { replication_factor_in_force: next, ..settings };
                afters.push((of(&entries, &settings), true));
            }
            Some(Step::Leave(member)) => {
                entries.retain(|entry| entry.id() != member);
                afters.push((of(&entries, &settings), true));
            }
            Some(Step::Zone(member)) => {
                let entry = entries.iter_mut().find(|entry| entry.id() == member).unwrap();
                entry.zone = entry.next_zone.take().unwrap();
                afters.push((of(&entries, &settings), true));
            }
            Some(Step::Own) | None => {}
        }
        let nobody = BTreeSet::new();
        for (after, is_step) in &afters {
            for (before, after) in every_set(&before).zip(every_set(after)) {
                let now: BTreeSet<_> = before.old().collect();
                let next: BTreeSet<_> = after.old().collect();
                let of_side = |side: &Side| side.iter().map(|at| before.owners[*at].member).collect();
                prop_assert!(before.sides().iter().any(|side| next == of_side(side)));
                if *is_step {
                    let stepped: BTreeSet<_> = before.after_step().map(|owner| owner.member).collect();
                    prop_assert_eq!(&stepped, if next == now { &nobody } else { &next });
                    prop_assert!(next.difference(&now).count() <= 1, "a step moves only what it must");
                    prop_assert!(now.difference(&next).count() <= 1);
                }
            }
        }
    }
}

#[test]
fn one_step_is_under_way_at_a_time_copies_first_then_who_leaves_then_zones() {
    let mut many = roster(&[(Active, "a"), (Leaving, "a"), (Leaving, "b"), (Active, "b")]);
    let moving = RosterEntry { next_zone: Some("c".to_owned()), ..entry(3, Active, "b") };
    let stamp = |time| Timestamp { time, member: id(0) };
    many.apply(&entry_key(id(3)), Some(&moving.encode()), stamp(2));
    many.apply(&entry_key(id(1)), Some(&entry(1, Leaving, "a").encode()), stamp(9));
    many.apply(&entry_key(id(2)), Some(&entry(2, Leaving, "b").encode()), stamp(8));
    let step = |roster: &Roster, settings| Placement::compute(4, roster, &settings).step();
    assert_eq!(step(&many, copies(2, 5)), Some(Step::Copies { class: 0, copies: 3 }));
    assert_eq!(step(&many, copies(4, 1)), Some(Step::Copies { class: 0, copies: 3 }));
    assert_eq!(step(&many, copies(2, 2)), Some(Step::Leave(id(2))), "it was the first to say so");
    many.apply(&removal_key(id(2)), None, Timestamp::ZERO);
    assert_eq!(step(&many, copies(2, 2)), Some(Step::Leave(id(1))));
    many.apply(&removal_key(id(1)), None, Timestamp::ZERO);
    assert_eq!(step(&many, copies(2, 2)), Some(Step::Zone(id(3))));
    let moved = entry(3, Active, "c");
    many.apply(&entry_key(id(3)), Some(&moved.encode()), stamp(10));
    assert_eq!(step(&many, copies(2, 2)), None);
}

fn with_own(settings: Settings, own: &[(&str, u8, Option<u8>)]) -> Settings {
    let mut settings = settings;
    for (collection, in_force, wanted) in own {
        settings.factors_in_force.insert((*collection).to_owned(), *in_force);
        let own = CollectionSettings { replication_factor: *wanted, ..CollectionSettings::default() };
        settings.collections.insert((*collection).to_owned(), own);
    }
    settings
}

#[test]
fn a_collection_with_a_factor_of_its_own_is_placed_by_the_same_scores() {
    let members = roster(&[(Active, "a"), (Active, "b"), (Active, "a"), (Active, ""), (Active, "c")]);
    let settings = with_own(copies(2, 2), &[("few", 1, Some(1)), ("many", 4, Some(4))]);
    let placement = Placement::compute(4, &members, &settings);
    assert_eq!((placement.partitions(), placement.step()), (48, None));
    let alone = |factor| Placement::compute(4, &members, &copies(factor, factor));
    for number in 0..200u8 {
        for (collection, factor) in [("few", 1), ("many", 4), ("other", 2)] {
            let key = [number];
            let key = KeyRef::new(collection, &key).unwrap();
            let set = placement.set_of(key, key.hash());
            assert_eq!(set, alone(factor).set_of(key, key.hash()), "{collection}");
            assert_eq!(set.owners.len(), usize::from(factor));
        }
    }
}

#[test]
fn a_collection_is_placed_by_itself_before_its_factor_or_any_other_moves() {
    let members = roster(&[(Active, ""); 5]);
    let of = |settings: &Settings| Placement::compute(4, &members, settings);
    let mut settings = with_own(copies(2, 3), &[("a", 2, Some(4))]);
    let own = CollectionSettings { replication_factor: Some(1), ..CollectionSettings::default() };
    settings.collections.insert("b".to_owned(), own);
    let before = of(&settings);
    assert_eq!(before.step(), Some(Step::Own));
    assert!(every_set(&before).all(|set| set.is_settled() && set.after_step().len() == 0));
    settings.factors_in_force.insert("b".to_owned(), 2);
    let after = of(&settings);
    assert_ne!((before.digest(), before.transition()), (after.digest(), after.transition()));
    assert_eq!(after.step(), Some(Step::Copies { class: 0, copies: 3 }));
    let moves = |placement: &Placement| -> Vec<bool> {
        let layout = Arc::clone(placement.layout());
        (0..layout.classes())
            .map(|class| !placement.set(layout.partition_at(class, 0)).is_settled())
            .collect()
    };
    assert_eq!(moves(&after), [true, false, false], "each class moves by itself");
    settings.replication_factor_in_force = 3;
    assert_eq!(of(&settings).step(), Some(Step::Copies { class: 1, copies: 3 }));
    assert_eq!(moves(&of(&settings)), [false, true, false]);
    settings.factors_in_force.insert("a".to_owned(), 4);
    assert_eq!(of(&settings).step(), Some(Step::Copies { class: 2, copies: 1 }));
    // What is taken back follows the cluster, and stays placed by itself.
    settings.collections.clear();
    assert_eq!(of(&settings).step(), Some(Step::Copies { class: 1, copies: 3 }));
    let again = Settings { factor_times: [("a".to_owned(), 7)].into(), ..settings.clone() };
    assert_ne!(of(&settings).transition(), of(&again).transition(), "it was asked for anew");
}

#[test]
fn the_last_member_does_not_leave() {
    let alone = roster(&[(Leaving, "")]);
    let placement = Placement::compute(4, &alone, &copies(2, 2));
    assert!(every_set(&placement).all(|set| set.is_settled() && set.contains(id(0))));
}

#[test]
fn a_step_that_is_begun_anew_is_told_from_the_one_before() {
    let members = roster(&[(Active, ""); 4]);
    let at = |time| Settings { replication_factor_time: time, ..copies(2, 3) };
    let of = |settings| Placement::compute(4, &members, &settings);
    assert_ne!(of(at(1)).digest(), of(at(2)).digest());
    assert_ne!(of(at(1)).transition(), of(at(2)).transition());
    let settled = |time| Settings { replication_factor_time: time, ..copies(3, 3) };
    assert_eq!(of(settled(1)).digest(), of(settled(2)).digest(), "nothing is changing");
}

#[test]
fn a_fourth_member_takes_its_share_and_nothing_else_moves() {
    let settings = copies(2, 2);
    let before = Placement::compute(8, &roster(&[(Active, ""); 3]), &settings);
    let after = Placement::compute(8, &roster(&[(Active, ""); 4]), &settings);
    let mut moved = 0;
    for (old, new) in every_set(&before).zip(every_set(&after)) {
        moved += members(new).iter().filter(|owner| !old.contains(**owner)).count();
    }
    // A fair share is 2 of 4 members, so half of 256 partitions with a standard deviation of
    // 8; had the table been dealt anew, three quarters of 512 copies would be in question.
    assert!((96..=160).contains(&moved), "{moved} copies moved");
}

#[test]
fn every_member_owns_about_as_much() {
    for (count, factor) in [(3usize, 1u8), (5, 3), (8, 3), (20, 2)] {
        let placement = Placement::compute(12, &roster(&vec![(Active, ""); count]), &copies(factor, factor));
        let fair = 4096.0 * f64::from(factor) / count as f64;
        for number in 0..count {
            let owned = every_set(&placement).filter(|set| set.contains(id(number as u16))).count() as f64;
            let home = every_set(&placement).filter(|set| set.position(id(number as u16)) == Some(0)).count();
            assert!((owned / fair - 1.0).abs() < 5.0 / fair.sqrt(), "{owned} for {fair}");
            let fair_home = 4096.0 / count as f64;
            assert!((home as f64 / fair_home - 1.0).abs() < 5.0 / fair_home.sqrt(), "{home} for {fair_home}");
        }
    }
}

#[test]
fn a_higher_replication_factor_appends_owners() {
    let roster = roster(&[(Active, "a"), (Active, "a"), (Active, "b"), (Active, ""), (Active, "b")]);
    let placement = Placement::compute(8, &roster, &copies(2, 4));
    for set in every_set(&placement) {
        assert_eq!((set.old_len(), set.new_len(), set.owners.len()), (2, 3, 3));
        assert!(!set.is_settled() && set.after_step().filter(|owner| !owner.in_old).count() == 1);
    }
}

#[test]
fn a_removed_member_owns_nothing() {
    let mut roster = roster(&[(Active, ""); 3]);
    roster.apply(&removal_key(id(1)), None, Timestamp::ZERO);
    let placement = Placement::compute(8, &roster, &copies(3, 3));
    assert!(every_set(&placement).all(|set| !set.contains(id(1)) && set.owners.len() == 2));
    assert!(!placement.system().contains(id(1)));
}

#[test]
fn of_two_members_of_one_name_only_the_one_admitted_first_owns_anything() {
    let settings = copies(3, 3);
    let mut both = roster(&[(Active, ""); 3]);
    let alone = Placement::compute(8, &both, &settings);
    let twin = RosterEntry { name: "member0".to_owned(), admitted: 1, ..entry(3, Joining, "") };
    let (first, second) = (id(0), add(&mut both, &twin));
    assert!(both.holds_its_name(first) && !both.holds_its_name(second));
    let placement = Placement::compute(8, &both, &settings);
    assert!(every_set(&placement).zip(every_set(&alone)).all(|(set, before)| set == before));
    assert_eq!(placement.system(), alone.system());
    assert_ne!(placement.digest(), alone.digest(), "who knows of the second tells who does not");

    both.apply(&removal_key(first), None, Timestamp::ZERO);
    assert!(both.holds_its_name(second), "the name is free again");
    assert!(Placement::compute(8, &both, &settings).system().contains(second));
    // The digest tells which of the two is out, though both rosters hold the same members.
    let named = |first_admitted: u64| {
        let mut roster = Roster::default();
        add(&mut roster, &RosterEntry { admitted: first_admitted, ..entry(0, Active, "") });
        add(&mut roster, &RosterEntry { name: "member0".to_owned(), admitted: 5, ..entry(1, Active, "") });
        Placement::compute(8, &roster, &settings).digest()
    };
    assert_ne!(named(4), named(6));
}

#[test]
fn an_empty_roster_gives_no_owners_and_no_panic() {
    let placement = Placement::compute(8, &Roster::default(), &Settings::default());
    assert!(every_set(&placement).all(|set| set.owners.is_empty() && set.is_settled()));
    assert!(placement.set(256).owners.is_empty());
    assert_eq!(Placement::compute(255, &Roster::default(), &Settings::default()).partitions(), 4096);
}

#[test]
fn system_collections_live_on_every_member() {
    let roster = roster(&[(Joining, ""), (Active, "a"), (Leaving, "a")]);
    let placement = Placement::compute(8, &roster, &copies(1, 1));
    let mut expected = vec![id(0), id(1), id(2)];
    expected.sort();
    assert_eq!(members(placement.system()), expected);
    assert!(placement.system().is_settled());
    let hash = KeyHash(0xAB00_0000_0000_0000);
    let of = |collection| placement.set_of(KeyRef::new(collection, b"k").unwrap(), hash);
    assert_eq!(of("_system_roster"), placement.system());
    assert_eq!(of("c"), placement.set(0xAB));
}

#[test]
fn the_digest_follows_what_placement_depends_on_and_nothing_else() {
    let digest = |members: &[(MemberState, &str)], settings: &Settings, bits| {
        Placement::compute(bits, &roster(members), settings).digest()
    };
    let base = [(Active, "a"), (Active, "")];
    let settings = copies(2, 2);
    let known = digest(&base, &settings, 8);
    let mut moves = roster(&base);
    let moving = RosterEntry { next_zone: Some("b".to_owned()), ..entry(0, Active, "a") };
    moves.apply(&entry_key(id(0)), Some(&moving.encode()), Timestamp { time: 1, member: id(1) });
    let moving = Placement::compute(8, &moves, &settings).digest();
    let unlike = [
        digest(&base[..1], &settings, 8),
        digest(&[(Active, "a"), (Leaving, "")], &settings, 8),
        digest(&[(Active, "a"), (Joining, "")], &settings, 8),
        digest(&[(Active, ""), (Active, "a")], &settings, 8),
        moving,
        digest(&[(Active, "ab"), (Active, "")], &settings, 8),
        digest(&base, &copies(2, 3), 8),
        digest(&base, &copies(3, 2), 8),
        digest(&base, &settings, 7),
    ];
    let distinct: BTreeSet<u64> = unlike.into_iter().chain([known]).collect();
    assert_eq!(distinct.len(), unlike.len() + 1);

    let mut renamed = roster(&base);
    let mut other = entry(1, Active, "");
    other.name = "other".to_owned();
    other.address = "10.0.0.1:1".to_owned();
    let stamp = Timestamp { time: 99, member: id(0) };
    assert!(renamed.apply(&entry_key(id(1)), Some(&other.encode()), stamp));
    let settings = Settings { write_timeout_ms: 77, ..settings };
    assert_eq!(Placement::compute(8, &renamed, &settings).digest(), known);
}

#[test]
fn scores_never_change_between_versions() {
    let known = [
        (0x0000_0000_0000_0000, 0, 0xE220_A839_7B1D_CDAF),
        (0x0000_0000_0000_0001, 0, 0xBFEF_8030_DDC2_D772),
        (0x0123_4567_89AB_CDEF, 255, 0x91E6_E455_8F43_E6B4),
        (0xFFFF_FFFF_FFFF_FFFF, 4095, 0xE190_9508_F5A6_33D4),
    ];
    for (member, partition, expected) in known {
        assert_eq!(score(MemberId(member), partition), expected);
    }
}

#[test]
fn the_largest_cluster_is_placed() {
    let zones = ["a", "b", "c"];
    let states: Vec<_> = (0..MAX_MEMBERS).map(|number| (Active, zones[number % 3])).collect();
    let placement = Placement::compute(8, &roster(&states), &copies(6, MAX_REPLICATION_FACTOR));
    assert!(every_set(&placement).all(|set| set.owners.len() == 7 && set.old_len() == 6));
}
