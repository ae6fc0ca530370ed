//! What memory hides of redb is no difference between members.

use super::super::shadows::MAX_LIFTED;
use super::*;

/// Gives every member the same newer value of some keys that the first one has in redb only.
fn overwrite(world: &mut World, count: usize) {
    let numbers: Vec<usize> =
        (0..world.stored.len()).filter(|at| !has(&world.engines[0], *at)).take(count).collect();
    assert_eq!(numbers.len(), count, "so many are in redb only");
    let stamp = Timestamp { time: 5_000_000, member: entry(0).id() };
    for number in numbers {
        let newer = Record::value(record(number).view().key_ref().unwrap(), stamp, None, b"newer");
        for at in 0..3 {
            keep_to_itself(world, at, &newer);
        }
    }
}

fn passes(world: &World) -> u64 {
    world.engines[0].counters().passes
}

/// Whether anybody asked what a leaf holds.
fn anything_was_listed(world: &World) -> bool {
    world.questions.iter().any(|(_, question)| !matches!(question, Compare::Roots { .. }))
}

#[test]
fn a_few_records_over_such_as_left_memory_are_no_difference_whoever_begins() {
    for begins in 0..2 {
        let mut world = world(0, 60);
        overwrite(&mut world, 20);
        assert_ne!(roots(&world, 0), roots(&world, 1), "what they replaced is still in the tree");
        world.questions.clear();
        compare_from(&mut world, begins, 12_000);
        assert_eq!(roots(&world, 0), roots(&world, 1));
        assert!(!anything_was_listed(&world), "{:?}", world.questions);
    }
}

#[test]
fn while_many_records_are_over_such_as_left_memory_passes_that_only_repeat_are_put_off() {
    let mut world = world(0, 3_000);
    // A pass that lists lifts some, too.
    overwrite(&mut world, 2 * MAX_LIFTED + 500);
    let before = passes(&world);
    compare_from(&mut world, 0, 4_000);
    assert!(!world.engines[0].is_checkpointing(), "writes may go on");
    compare_from(&mut world, 0, 56_000);
    assert_eq!(passes(&world), before);
    assert!(world.engines[0].is_checkpointing(), "the load rests, so all is set right at once");
    // A new link brings a pass all the same: something may have been missed.
    world.cut(0, 1);
    world.link(0, 1);
    compare_from(&mut world, 0, 20_000);
    assert_eq!(passes(&world), before + 1);
    compare_from(&mut world, 0, 300_000);
    assert!(passes(&world) > before + 1, "not for ever: {} and {before}", passes(&world));
}

#[test]
fn who_leaves_does_not_wait_with_comparing() {
    let mut world = world(0, 1_800);
    overwrite(&mut world, MAX_LIFTED + 100);
    let before = passes(&world);
    world.engines[0].is_leaving = true;
    compare_from(&mut world, 0, 30_000);
    assert!(passes(&world) > before);
}
