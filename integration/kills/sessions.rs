//! Clients that read and write at random, one operation after the other, and note what they are told.

use super::history::{Change, Found, History, State, value_of};
use super::random::Random;
use kith::client::{Client, ClientError, WriteOptions, Written};
use kith::model::Timestamp;
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::documents::{Ending, Entry, Verb};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a client waits for an answer before it goes elsewhere.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two operations of a client, so that members have time for their starts.
const PAUSE: Duration = Duration::from_millis(4);
/// Keys of each kind at a time.
const REGISTERS: u64 = 60;
const COUNTERS: u64 = 15;
/// Most values are short; some are up to this long, so that checkpoints happen meanwhile.
const LARGE_BYTES: u64 = 24 << 10;

/// What all clients share.
#[derive(Debug, Default)]
pub struct Shared {
    pub history: Mutex<History>,
    /// Which set of keys is in use: a counter has room for so many lives of members only.
    pub epoch: AtomicUsize,
    stop: AtomicBool,
}

/// Clients that work until they are told to stop.
#[derive(Debug, Default)]
pub struct Sessions {
    pub shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Sessions {
    /// So many clients, which go from member to member.
    pub fn start(count: usize, members: &[Client], random: &mut Random) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let session = Session {
                number,
                once: 0,
                members: members.to_vec(),
                front: number % members.len(),
                random: Random::new(random.number()),
                shared: Arc::clone(&shared),
                // Half of them tell what they have seen.
                seen: (number % 2 == 0).then_some(Timestamp::ZERO),
            };
            tasks.spawn(session.work());
        }
        Self { shared, tasks }
    }

    pub fn acknowledged(&self) -> usize {
        self.shared.history.lock().unwrap().acknowledged
    }

    /// Ends the clients, each after the answer that it waits for.
    pub async fn stop(mut self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.shared
    }
}

struct Session {
    number: usize,
    /// Keys that it has written once.
    once: usize,
    members: Vec<Client>,
    front: usize,
    random: Random,
    shared: Arc<Shared>,
    seen: Option<Timestamp>,
}

impl Session {
    async fn work(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.random.chance(80) {
                self.front = self.random.index(self.members.len());
            }
            let epoch = self.shared.epoch.load(Ordering::Relaxed);
            let level = if self.random.chance(400) { None } else { self.random.pick(&Level::ALL) };
            let register = format!("e{epoch:04}/r{:03}", self.random.below(REGISTERS));
            let counter = format!("e{epoch:04}/c{:03}", self.random.below(COUNTERS));
            match self.random.below(100) {
                0..15 => {
                    // Never written again, so nothing hides its loss.
                    self.once += 1;
                    let once = format!("e{epoch:04}/o{:02}/{:06}", self.number, self.once);
                    self.change(&once, Change::Set(16), level).await;
                }
                15..32 => {
                    let long = self.random.chance(150);
                    let length = self.random.between(16, if long { LARGE_BYTES } else { 200 });
                    let length = usize::try_from(length).unwrap();
                    self.change(&register, Change::Set(length), level).await;
                }
                32..40 => self.change(&register, Change::Delete, level).await,
                40..60 => {
                    let delta = i64::try_from(self.random.between(1, 1_000)).unwrap();
                    self.change(&counter, Change::Increment(delta), level).await;
                }
                60..70 => self.read(&counter, level).await,
                _ => self.read(&register, level).await,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn change(&mut self, key: &str, change: Change, level: Option<Level>) {
        let number = self.shared.history.lock().unwrap().begin(key, change);
        let after = self.seen.filter(|seen| *seen > Timestamp::ZERO);
        let options = WriteOptions { level, after, ..WriteOptions::default() };
        let client = self.members[self.front].clone();
        let sent = async {
            match change {
                Change::Set(length) => {
                    client.put(DEFAULT, key.as_bytes(), value_of(number, length).into(), &options).await
                }
                Change::Delete => client.delete(DEFAULT, key.as_bytes(), &options).await,
                Change::Increment(delta) => {
                    let about = Entry::about(Verb::Increment, DEFAULT, key.as_bytes());
                    let entry = Entry { delta: Some(delta), ..about };
                    let mut outcomes = client.batch(&[entry], level).await?;
                    let outcome = kith::client::completed(outcomes.pop().unwrap())?;
                    let timestamp = outcome.timestamp.unwrap().parse().unwrap();
                    let superseded = outcome.outcome == Ending::Superseded;
                    Ok(Written { timestamp, copies: outcome.copies.unwrap(), superseded })
                }
            }
        };
        let state = match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(outcome)) => state_of(&outcome),
            Ok(Err(error)) => self.state_of_failure(&error).await,
            Err(_) => State::Doubt,
        };
        let mut history = self.shared.history.lock().unwrap();
        history.end(key, number, state);
        // An increment stamps nothing.
        if let (State::Stored(stamp, _), false) = (state, matches!(change, Change::Increment(_))) {
            if after.is_some_and(|after| stamp.time <= after.time) {
                history.violate(key, &format!("{number} got {stamp} and its session saw {after:?} before"));
            }
            self.seen = self.seen.max(self.seen.map(|_| stamp));
        }
    }

    async fn read(&mut self, key: &str, level: Option<Level>) {
        let before = self.shared.history.lock().unwrap().floor(key);
        let client = self.members[self.front].clone();
        match tokio::time::timeout(PATIENCE, client.get(DEFAULT, key.as_bytes(), level)).await {
            Ok(Ok(found)) => {
                let found = found.map(|found| {
                    let value = String::from_utf8_lossy(&found.value).into_owned();
                    (value, found.timestamp)
                });
                self.note_read(key, level, before, &found);
            }
            Ok(Err(error)) => drop(self.state_of_failure(&error).await),
            Err(_) => self.front = self.random.index(self.members.len()),
        }
    }

    fn note_read(
        &mut self,
        key: &str,
        level: Option<Level>,
        before: (super::history::Floor, Option<Timestamp>),
        found: &Found,
    ) {
        self.shared.history.lock().unwrap().read(key, level, before, found);
        let stamp = found.as_ref().map(|(_, stamp)| *stamp);
        self.seen = self.seen.map(|seen| seen.max(stamp.unwrap_or_default()));
    }

    /// What a failure says of a change. The client goes to another member.
    async fn state_of_failure(&mut self, error: &ClientError) -> State {
        self.front = self.random.index(self.members.len());
        match error {
            ClientError::Unreachable { .. } => {
                // Nothing was sent; there is no hurry to find out again.
                tokio::time::sleep(Duration::from_millis(20)).await;
                State::Refused
            }
            ClientError::Refused { code, .. } if is_refusal(code) => State::Refused,
            ClientError::Foreign { reason, .. } => {
                let mut history = self.shared.history.lock().unwrap();
                history.violations.push(format!("an answer that is none: {reason}"));
                State::Doubt
            }
            _ => State::Doubt,
        }
    }
}

fn state_of(written: &Written) -> State {
    match *written {
        Written { timestamp, superseded: true, .. } => State::Superseded(timestamp),
        Written { timestamp, copies, .. } => State::Stored(timestamp, copies),
    }
}

/// Whether an error's name says that nothing was changed.
fn is_refusal(code: &str) -> bool {
    ["no_cluster", "starting", "stopping", "overloaded", "storage", "no_room_for_hint", "not_enough_owners"]
        .contains(&code)
}
