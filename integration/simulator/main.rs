//! The simulator: whole clusters of engines in one thread, with simulated network, clocks, disks and
//! liveness, everything drawn from one seed.
//!
//! ```text
//! cargo test --release --test simulator -- --seeds 500            seeds 0 to 499
//! cargo test --release --test simulator -- --from 500 --seeds 500
//! cargo test --release --test simulator -- --seed 42 [--trace]    one seed, with all that happened
//! ```
//!
//! A world lives through faults while clients work, then all faults end, everything must come to
//! rest, and what the members hold is compared with what the clients were told. A seed that fails
//! says so with its number and replays exactly; a few seeds of every run are run twice to show it.
//! Seeds that once found a defect are run before all others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a test program: a panic is a failed test, and it prints its results"
)]

mod check;
mod clients;
mod copies;
mod disk;
mod member;
mod network;
mod plan;
mod random;
mod real;
mod removal;
#[path = "../support/disk.rs"]
mod support;
mod watchers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use world::{Violation, World};

/// Seeds of a plain `cargo test`.
const FEW: u64 = 40;
/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 16;
/// Lines of the trace that a failure shows.
const LAST_LINES: usize = 30;
/// Writes of the key that a failure shows.
const LAST_WRITES: usize = 12;

/// Seeds that found a defect, and the fact that was false then. Run first, whatever else is asked for
/// but one seed. What a seed means changes with what the simulator draws, so the exact interleaving is
/// also a test of its own wherever it can be.
const REGRESSIONS: [(u64, &str); 40] = [
    (58, "a healthy owner takes what another healthy one stamps, wherever clocks were meanwhile"),
    (196, "of two members that join together, each is complete for what it owns when it turns active"),
    (460, "a clock that was set back from the future stamps nothing while others can"),
    (860, "what was acknowledged reaches every owner, however slow the links are"),
    (980, "a frame that waited in a cut does not make its sender's clock look late"),
    (1109, "a checkpoint that the power interrupts leaves journal and store in agreement"),
    (1134, "a member that starts with a late clock stamps nothing before it has heard the others"),
    (1179, "what a start has replayed survives a power cut"),
    (3404, "owners whose clocks are all wrong take each other's writes"),
    (3470, "half of all clocks outvote one"),
    (3680, "damage that is met while copying is told"),
    (4782, "a right clock is not outvoted by the wrong ones that happen to be heard first"),
    (5799, "who is outvoted believes the others, not another wrong clock"),
    (6250, "a write that meets a newer record is told so, also where that one left memory"),
    (56, "damage that a comparison meets is made good, and the tree is that of the records"),
    (192, "what expires does so by the time of day that is believed"),
    (235, "a tombstone that is ahead of the clock holds up nothing but itself"),
    (389, "a member that left sees its own removal through, though its records are refused"),
    (689, "what a checkpoint repeats does not ask for the next one"),
    (941, "what a tombstone hid in redb leaves the tree when leaves are compared"),
    (1068, "a member that was removed keeps no hints that nobody takes"),
    (205, "tombstones that only redb has come into memory to be reclaimed, and stay there"),
    (999, "a tombstone ahead of another member's clock holds up no other"),
    (1340, "a tombstone waits for the clock that stamps, and not for the time of day"),
    (1986, "who removed a member and was down at the end still knows it then"),
    (6433, "a tombstone that no other clock has come to keeps nothing in redb from being reclaimed"),
    (8765, "a start keeps no more hints than have room, whatever was on its way before"),
    (10304, "who is lost for good is removed at the end, also if all were down when it began"),
    (10830, "who left takes no write that nobody takes from it"),
    (11018, "what expires is reclaimed once it has ended by every clock that members act by"),
    (11349, "a tombstone that another member does not confirm keeps nothing in redb from being reclaimed"),
    (7809, "redb closes what it checked under a seal without touching it"),
    (11369, "every key can be written at last, also where half of all clocks were wrong a moment ago"),
    (11530, "a quorum that was met before all know of a removal is not held against later ones"),
    (16112, "who left and was cut off before all knew it has ended when it is told so"),
    (30124, "a setting reaches every member, also when its author is lost before it told all"),
    (30654, "settings agree at last, whoever was cut off and lost meanwhile"),
    (30907, "an owner that was copied before it was complete vouches once it is"),
    (41865, "nobody vouches twice for a member that joins on the smaller side of a cut"),
    (100_656, "where nobody can tell which clock is wrong nothing is written, and no watch is told of it"),
];

struct Arguments {
    from: u64,
    seeds: u64,
    /// Seeds that are run before.
    first: Vec<u64>,
    trace: bool,
    threads: u64,
    skip: bool,
    list: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments {
        from: 0,
        seeds: FEW,
        first: REGRESSIONS.iter().map(|(seed, _)| *seed).collect(),
        trace: false,
        threads: 2,
        skip: false,
        list: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            text.parse::<u64>().map_err(|error| format!("{argument} {text}: {error}"))
        };
        match argument.as_str() {
            "--seeds" => found.seeds = number()?,
            "--from" => found.from = number()?,
            "--threads" | "--test-threads" => found.threads = number()?.clamp(1, 64),
            "--seed" => (found.from, found.seeds, found.first) = (number()?, 1, Vec::new()),
            "--trace" => found.trace = true,
            "--list" => found.list = true,
            // What the test harness of Rust takes and what means nothing here.
            other if other.starts_with('-') => {}
            // A filter by test names.
            name => found.skip |= !"simulator".contains(name),
        }
    }
    Ok(found)
}

/// Runs one seed; the world tells how it went, and the violation may be a panic.
fn run(seed: u64, record: bool) -> (World, Option<Violation>) {
    let mut world = World::new(seed, record);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match ended {
        Ok(()) => world.violation.clone(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(Violation { invariant: "nothing panics", key: None, text: text.unwrap_or_default() })
        }
    };
    (world, violation)
}

/// Tells all that helps to understand a failure.
fn explain(seed: u64, violation: &Violation) -> String {
    let (world, _) = run(seed, true);
    let regression = REGRESSIONS.iter().find(|(known, _)| *known == seed);
    let regression = regression.map_or_else(String::new, |(_, fact)| format!("  once mended: {fact}\n"));
    let mut text = format!(
        "seed {seed}: broken: {}\n  {}\n  replay: cargo test --release --test simulator -- --seed {seed} --trace\n",
        violation.invariant, violation.text
    );
    text += &regression;
    text += &format!("  plan: {:?}\n", world.plan);
    let mut lines: Vec<&String> = world.lines().iter().collect();
    if let Some(key) = violation.key.map(|key| &world.clients.keys[key]) {
        text += &format!("  history of {}:\n", key.name);
        let operations =
            key.operations.iter().filter_map(|id| Some((*id, world.clients.operations.get(id)?)));
        let is_write =
            |action: clients::Action| !matches!(action, clients::Action::Get | clients::Action::Scan);
        let writes: Vec<_> = operations.filter(|(_, operation)| is_write(operation.action)).collect();
        for (id, operation) in writes.iter().skip(writes.len().saturating_sub(LAST_WRITES)) {
            text += &format!("    {}\n", operation.line(*id));
        }
        lines.retain(|line| line.contains(&key.name));
    }
    text += "  last of the trace:\n";
    for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
        text += &format!("    {line}\n");
    }
    text
}

/// Checks one seed; an error explains itself.
fn check(seed: u64, trace: bool) -> Result<(), String> {
    let (world, violation) = run(seed, trace);
    if trace {
        for line in world.lines() {
            println!("{line}");
        }
    }
    if let Some(violation) = violation {
        return Err(explain(seed, &violation));
    }
    if seed.is_multiple_of(TWICE_EVERY) {
        let (again, _) = run(seed, false);
        if again.trace_hash() != world.trace_hash() {
            return Err(format!(
                "seed {seed}: two runs differ: a simulation must follow from its seed alone\n"
            ));
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        println!("simulator: test\n\n1 test, 0 benchmarks");
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let range = arguments.from..arguments.from + arguments.seeds;
    let seeds: Vec<u64> = arguments.first.iter().copied().chain(range).filter(|_| !arguments.skip).collect();
    println!("\nrunning {} tests", seeds.len());
    std::panic::set_hook(Box::new(|_| {}));
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(text) = check(*seed, arguments.trace) {
                        println!("test seed {seed} ... FAILED");
                        failures.lock().unwrap().push((*seed, text));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    if !failures.is_empty() {
        println!("\nfailures:\n");
        for (_, text) in failures.iter().take(5) {
            println!("{text}");
        }
        for (seed, text) in &failures {
            println!("    seed {seed}: {}", text.lines().next().unwrap_or_default());
        }
    }
    let (failed, word) = (failures.len(), if failures.is_empty() { "ok" } else { "FAILED" });
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        seeds.len() - failed,
        began.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
