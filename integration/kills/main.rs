//! Kills, pauses and cuts at random, hundreds of them, while clients work; whatever the clients were
//! told must be true then and afterwards.
//!
//! Members are real processes. What happens to them is drawn from one number, which a failing run
//! prints; when it happens depends on the machine, so the same number gives the same kind of run and not the
//! same run. `KITH_KILLS` sets how many processes are killed in all, `KITH_PRNG_SEED` the number.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "what is not as expected fails the test, also in its helpers"
)]

#[path = "../support/members.rs"]
mod members;
#[path = "../simulator/random.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod random;
#[path = "../support/wires.rs"]
mod wires;

mod history;
mod sessions;

use history::Found;
use kith::client::{Client, ListingQuery};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use members::{Group, PATIENCE, Plan, until};
use random::Random;
use sessions::{Sessions, Shared};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wires::{Cut, Wires};

/// Processes that are killed in all tests together, unless `KITH_KILLS` says otherwise.
const KILLS: usize = 212;
/// Tests that share them: as many again as run side by side on a small machine, so that none runs alone at last.
const TESTS: usize = 4;
/// Clients of a cluster.
const SESSIONS: usize = 10;
/// Acknowledged changes between two faults, at least.
const BETWEEN: usize = 15;
/// Kills after which the clients turn to other keys.
const EPOCH: usize = 25;
/// A start as a killed member is usually caught in.
const START_MS: u64 = 900;
/// Members are away for up to this long: longer than it takes to notice.
const AWAY_MS: u64 = 4_500;
/// What members sent up to this long before they are killed may be lost.
const LAST_MS: u64 = 120;
/// One change of a cut that flaps takes up to this long.
const FLAP_MS: u64 = 250;
/// Keys that are read one by one at the end.
const SAMPLE: usize = 200;
/// Keys of one page of a listing.
const PAGE: usize = 500;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A cluster under attack.
struct Rig {
    group: Group,
    wires: Wires,
    random: Random,
    sessions: Sessions,
    kills: usize,
    in_all: bool,
}

impl Rig {
    async fn new(members: usize, sync: &str, in_all: bool) -> Self {
        let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
        let prng_seed = variable("KITH_PRNG_SEED").unwrap_or_else(drawn);
        eprintln!("{members} members, sync {sync}: KITH_PRNG_SEED={prng_seed}");
        let mut random = Random::new(prng_seed);
        let mut group = Group::empty().await;
        // Small enough for checkpoints to be met by kills.
        let plan = Plan { journal_bytes: Some("16MiB"), ..Plan::default() };
        group.add_together(members, &plan.setting("sync", sync));
        let wires = Wires::between(&mut group).await;
        group.start();
        wires.learn(&group);
        group.until_ready().await;
        let clients: Vec<Client> = group.members.iter().map(|member| member.client()).collect();
        let sessions = Sessions::start(SESSIONS, &clients, &mut random);
        Self { group, wires, random, sessions, kills: 0, in_all }
    }

    /// Members that may be away while the others are a majority.
    fn minority(&self) -> usize {
        (self.group.members.len() - 1) / 2
    }

    fn victims(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.group.members.len()).collect();
        (0..count).map(|_| all.swap_remove(self.random.index(all.len()))).collect()
    }

    fn some_victims(&mut self) -> Vec<usize> {
        let most = self.minority() as u64;
        let count = self.random.between(1, most);
        self.victims(usize::try_from(count).unwrap())
    }

    fn kill(&mut self, index: usize) {
        self.group[index].kill();
        self.kills += 1;
        self.sessions.shared.epoch.store(self.kills / EPOCH, Ordering::Relaxed);
    }

    fn start(&mut self) {
        self.group.start();
        self.wires.learn(&self.group);
    }

    async fn wait(&mut self, most_ms: u64) {
        let wait = self.random.between(0, most_ms);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }

    /// Kills these, mostly starts them at once, and kills some of them while they start.
    async fn kill_and_start(&mut self, victims: &[usize]) {
        let names: Vec<String> = victims.iter().map(|index| self.group[*index].name.clone()).collect();
        // What they sent at last is lost with them, as if their machine had lost its power.
        let swallow = self.random.chance(400);
        if swallow {
            self.wires.cut(Cut::Swallow, &names.iter().map(String::as_str).collect::<Vec<_>>());
            self.wait(LAST_MS).await;
        }
        for index in victims {
            self.kill(*index);
            if self.random.chance(300) {
                self.wait(50).await;
            }
        }
        if swallow {
            self.wires.heal();
        }
        loop {
            if self.random.chance(100) {
                self.wait(AWAY_MS).await;
            }
            self.start();
            if self.random.chance(550) {
                return;
            }
            self.wait(START_MS).await;
            let again = self.random.pick(victims).unwrap();
            self.kill(again);
        }
    }

    async fn pause(&mut self, victims: &[usize]) {
        victims.iter().for_each(|index| self.group[*index].signal("STOP"));
        self.wait(AWAY_MS).await;
        if self.random.chance(300) {
            // SIGKILL ends a stopped process, too.
            self.kill_and_start(victims).await;
        }
        // A process that was killed and started runs already.
        victims.iter().for_each(|index| self.group[*index].signal("CONT"));
    }

    async fn cut(&mut self, victims: &[usize]) {
        let names: Vec<String> = victims.iter().map(|index| self.group[*index].name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let cut = self.random.pick(&[Cut::Loud, Cut::Silent, Cut::OneWay]).unwrap();
        if self.random.chance(300) {
            // It flaps.
            for _ in 0..self.random.between(3, 12) {
                self.wires.cut(cut, &names);
                self.wait(FLAP_MS).await;
                self.wires.heal();
                self.wait(FLAP_MS).await;
            }
        }
        self.wires.cut(cut, &names);
        self.wait(AWAY_MS).await;
        if self.random.chance(300) {
            self.kill_and_start(victims).await;
            self.wait(AWAY_MS / 2).await;
        }
        self.wires.heal();
    }

    /// One fault, and waits until all members serve again.
    async fn trouble(&mut self) {
        let victims = self.some_victims();
        match self.random.below(100) {
            0..82 => self.kill_and_start(&victims).await,
            82..89 => self.pause(&victims).await,
            89..96 => self.cut(&victims).await,
            _ if self.in_all => {
                let all = self.victims(self.group.members.len());
                self.kill_and_start(&all).await;
            }
            _ => self.kill_and_start(&victims).await,
        }
        for member in &self.group.members {
            member.until_ready().await;
        }
        let goal = self.sessions.acknowledged() + BETWEEN;
        until("clients' changes are acknowledged", PATIENCE, async || {
            let now = self.sessions.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await;
        self.assert_no_violation();
    }

    fn assert_no_violation(&self) {
        assert_holds(&self.sessions.shared);
    }

    /// Ends the clients and checks what the others have of it while one member stays dead: what that one was
    /// sending may be on one of them only.
    async fn without_one(&mut self, shared: &Shared) {
        let dead = self.random.index(self.group.members.len());
        self.kill(dead);
        let other = (dead + 1) % self.group.members.len();
        let client = self.group[other].client();
        let keys = shared.history.lock().unwrap().keys();
        // Such a read mends what it finds; what differs is to be mended by the members themselves.
        for key in sample(&keys) {
            let floor = shared.history.lock().unwrap().floor(key);
            let found = read(&client, key, Level::Quorum).await;
            shared.history.lock().unwrap().read(key, Some(Level::Quorum), floor, &found);
        }
        self.start();
    }

    /// Ends the clients, waits until all members hold the same, and checks it.
    async fn conclude(mut self, began: Instant) {
        let troubled = began.elapsed();
        let sessions = std::mem::take(&mut self.sessions);
        let shared = sessions.stop().await;
        self.without_one(&shared).await;
        let Self { group, kills, .. } = self;
        group.until_ready().await;
        group.until_no_hints().await;
        let listing = until("all members hold the same", PATIENCE, async || {
            let first = all_of(&group[0].client()).await?;
            for member in &group.members[1..] {
                let other = all_of(&member.client()).await?;
                if let Some(differs) = difference(&first, &other) {
                    return Err(format!("{} and {}: {differs}", group[0].name, member.name));
                }
            }
            Ok(first)
        })
        .await;
        let keys = shared.history.lock().unwrap().keys();
        for key in keys.iter().chain(listing.keys()) {
            shared.history.lock().unwrap().read_at_rest(key, &listing.get(key).cloned());
        }
        let client = group[0].client();
        for key in sample(&keys) {
            let found = read(&client, key, Level::All).await;
            assert_eq!(listing.get(key), found.as_ref(), "{key}: the listing and a read at `all`");
        }
        assert_holds(&shared);
        let history = shared.history.lock().unwrap();
        eprintln!(
            "{kills} kills in {troubled:.1?}, {:.1?} in all; changes: {} acknowledged, {} refused, {} in doubt; \
             {} reads, of which {} went behind what no majority had",
            began.elapsed(),
            history.acknowledged,
            history.refused,
            history.in_doubt,
            history.reads,
            history.went_behind,
        );
    }
}

fn assert_holds(shared: &Shared) {
    let history = shared.history.lock().unwrap();
    assert!(history.violations.is_empty(), "\n{}\n", history.violations.join("\n\n"));
}

/// Some of the keys, from all over them.
fn sample(keys: &[String]) -> impl Iterator<Item = &String> {
    keys.iter().step_by(keys.len().div_ceil(SAMPLE).max(1))
}

/// Reads a key, as often as it takes to get an answer.
async fn read(client: &Client, key: &str, level: Level) -> Found {
    until(&format!("{key} can be read at `{level}`"), PATIENCE, async || {
        let found = client.get(DEFAULT, key.as_bytes(), Some(level)).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|found| {
            let value = String::from_utf8_lossy(&found.value).into_owned();
            (value, found.timestamp)
        }))
    })
    .await
}

/// Everything that a member lists.
async fn all_of(client: &Client) -> Result<BTreeMap<String, (String, kith::model::Timestamp)>, String> {
    let mut all = BTreeMap::new();
    let mut query = ListingQuery { limit: PAGE, ..ListingQuery::default() };
    loop {
        let page = client.list(DEFAULT, &query).await.map_err(|error| error.to_string())?;
        for entry in page.entries {
            let stamp = entry.timestamp.unwrap().parse().unwrap();
            all.insert(entry.key.unwrap(), (entry.value.unwrap(), stamp));
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}

fn difference<T: PartialEq + std::fmt::Debug>(
    one: &BTreeMap<String, T>,
    other: &BTreeMap<String, T>,
) -> Option<String> {
    let differs = one.keys().chain(other.keys()).find(|key| one.get(*key) != other.get(*key))?;
    let show = |found: Option<&T>| format!("{found:?}").chars().take(80).collect::<String>();
    Some(format!("{differs}: {} and {}", show(one.get(differs)), show(other.get(differs))))
}

async fn what_clients_were_told_holds(members: usize, sync: &str, in_all: bool) {
    let kills = variable("KITH_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let mut rig = Rig::new(members, sync, in_all).await;
    let began = Instant::now();
    while rig.kills < kills.div_ceil(TESTS) {
        rig.trouble().await;
    }
    rig.conclude(began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_three_members_were_told_holds_through_kills_with_sync_always() {
    what_clients_were_told_holds(3, "always", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_three_members_were_told_holds_through_kills_with_sync_interval() {
    what_clients_were_told_holds(3, "interval", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_five_members_were_told_holds_through_kills_with_sync_always() {
    what_clients_were_told_holds(5, "always", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_five_members_were_told_holds_through_kills_with_sync_interval() {
    what_clients_were_told_holds(5, "interval", false).await;
}
