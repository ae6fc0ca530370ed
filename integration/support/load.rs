//! Clients that write while things go wrong, and what they may expect to read afterwards.
//!
//! A write is acknowledged, refused, or in doubt. Of each key the model keeps every content that a
//! reader may find: after an acknowledged write only that one, after one in doubt the new one and the
//! old ones. Each key is written by one client only, so nothing else can be there.

#![allow(dead_code, reason = "each test program uses its own part")]

use super::members::{Member, PATIENCE, until};
use kith::client::{Client, ClientError};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::documents::{Ending, Entry, Outcome, Verb};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Operations in one request.
const BATCH: usize = 50;
/// Operations in one request that checks.
const CHECK_BATCH: usize = 500;

/// What readers may find under each key: `None` is nothing.
pub type Model = BTreeMap<String, Vec<Option<String>>>;

/// Clients that write until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    errors: Arc<std::sync::Mutex<Vec<String>>>,
    clients: JoinSet<Model>,
}

impl Load {
    /// One writing client for each list of addresses.
    pub fn start(addresses: &[Vec<String>]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            errors: Arc::default(),
            clients: JoinSet::new(),
        };
        for (number, addresses) in addresses.iter().enumerate() {
            let client = Client::new(addresses.clone()).unwrap();
            let (stop, acknowledged) = (Arc::clone(&load.stop), Arc::clone(&load.acknowledged));
            let errors = Arc::clone(&load.errors);
            load.clients.spawn(async move {
                let mut model = Model::new();
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    write_round(&client, number, round, &mut model, &acknowledged, &errors).await;
                }
                model
            });
        }
        load
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// What was refused or in doubt so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }

    /// Waits until so many more writes were acknowledged.
    pub async fn until_more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        until("writes are acknowledged", PATIENCE, async || {
            let now = self.acknowledged();
            let errors = self.errors();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}; last error {:?}", errors.last())) }
        })
        .await;
    }

    /// Stops the clients and gives what may be read.
    pub async fn stop(mut self) -> Model {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Model::new();
        while let Some(model) = self.clients.join_next().await {
            all.extend(model.unwrap());
        }
        all
    }
}

/// New keys, and changes of some that were written earlier.
async fn write_round(
    client: &Client,
    number: usize,
    round: usize,
    model: &mut Model,
    acknowledged: &AtomicUsize,
    errors: &std::sync::Mutex<Vec<String>>,
) {
    let mut operations = Vec::new();
    let key_of = |round: usize, index: usize| format!("client{number}/{round:06}/{index:02}");
    for index in 0..BATCH {
        match (index % 10, round.checked_sub(2)) {
            (7, Some(earlier)) => operations.push(put(&key_of(earlier, index - 7), "changed")),
            (8, Some(earlier)) => {
                operations.push(Entry::about(Verb::Delete, DEFAULT, key_of(earlier, index - 7).as_bytes()))
            }
            _ => operations.push(put(&key_of(round, index), "first")),
        }
    }
    let outcomes = send(client, &operations, None).await;
    for (operation, outcome) in operations.iter().zip(outcomes) {
        let allowed = model.entry(operation.key.clone().unwrap()).or_insert_with(|| vec![None]);
        let content = operation.value.clone();
        match outcome {
            // Only a write in doubt, of this same client, can be newer.
            Ok(Ending::Superseded) if allowed.len() > 1 => {}
            Ok(ending) => {
                assert_eq!(ending, Ending::Stored, "nobody else writes this key: {operation:?}");
                *allowed = vec![content];
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                allowed.push(content);
                errors.lock().unwrap().push(error);
            }
        }
    }
}

fn put(key: &str, what: &str) -> Entry {
    Entry::put(DEFAULT, key.as_bytes(), format!("{what} value of {key}").as_bytes())
}

/// One request; an error stands for each of its operations.
async fn send(client: &Client, operations: &[Entry], level: Option<Level>) -> Vec<Result<Ending, String>> {
    match client.batch(operations, level).await {
        Ok(outcomes) => outcomes.iter().map(ending).collect(),
        Err(error) => {
            if matches!(error, ClientError::Unreachable { .. }) {
                // Nothing was sent; there is no hurry to find out again.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            vec![Err(error.to_string()); operations.len()]
        }
    }
}

fn ending(outcome: &Outcome) -> Result<Ending, String> {
    match outcome.outcome {
        Ending::Failed => Err(format!(
            "{}: {}",
            outcome.error.clone().unwrap_or_default(),
            outcome.message.clone().unwrap_or_default()
        )),
        ending => Ok(ending),
    }
}

/// Stores `count` keys through a member, each acknowledged at the cluster's level.
pub async fn import(client: &Client, prefix: &str, count: usize) -> Model {
    import_copies(client, prefix, count).await.0
}

/// The same; and the fewest copies that any of them was acknowledged with.
///
/// What is in doubt is stored again until it is acknowledged: the disk may be busy for longer than a write waits.
pub async fn import_copies(client: &Client, prefix: &str, count: usize) -> (Model, u32) {
    let keys: Vec<String> = (0..count).map(|index| format!("{prefix}/{index:06}")).collect();
    let (mut model, mut fewest) = (Model::new(), u32::MAX);
    for part in keys.chunks(CHECK_BATCH) {
        let mut left: Vec<Entry> = part.iter().map(|key| put(key, "imported")).collect();
        until("what is imported is acknowledged", PATIENCE, async || {
            let outcomes = client.batch(&left, None).await.unwrap();
            for (operation, outcome) in
                left.iter().zip(&outcomes).filter(|(_, outcome)| !is_in_doubt(outcome))
            {
                assert_eq!(ending(outcome), Ok(Ending::Stored), "{operation:?}");
                fewest = fewest.min(outcome.copies.unwrap().into());
                model.insert(operation.key.clone().unwrap(), vec![operation.value.clone()]);
            }
            let mut in_doubt = outcomes.iter().map(is_in_doubt);
            left.retain(|_| in_doubt.next().unwrap());
            if left.is_empty() { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .await;
    }
    (model, fewest)
}

fn is_in_doubt(outcome: &Outcome) -> bool {
    outcome.error.as_deref() == Some("unknown")
}

/// Reads every key through one member and tells what should not be.
pub async fn check(member: &Member, level: Level, model: &Model) -> Result<(), String> {
    let client = member.client();
    let keys: Vec<&String> = model.keys().collect();
    let mut wrong = Vec::new();
    for part in keys.chunks(CHECK_BATCH) {
        let reads: Vec<Entry> =
            part.iter().map(|key| Entry::about(Verb::Get, DEFAULT, key.as_bytes())).collect();
        let outcomes = client.batch(&reads, Some(level)).await.map_err(|error| error.to_string())?;
        for (key, outcome) in part.iter().zip(&outcomes) {
            let found = ending(outcome).map(|_| outcome.value.clone());
            let allowed = &model[key.as_str()];
            if !found.as_ref().is_ok_and(|found| allowed.contains(found)) {
                wrong.push(format!("{key}: {found:?} instead of one of {allowed:?}"));
            }
        }
    }
    let shown: Vec<&String> = wrong.iter().take(5).collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {} at {}: {shown:#?}", wrong.len(), keys.len(), member.name))
    }
}

/// Waits until every member, asked for its own copy, gives what was acknowledged.
pub async fn until_everywhere(members: &[Member], model: &Model) {
    for member in members {
        let what = format!("{} has every acknowledged write", member.name);
        until(&what, PATIENCE, async || check(member, Level::One, model).await).await;
    }
}
