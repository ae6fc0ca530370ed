//! Whether all members hold the same: asks each of them, and says what is in the way.
//!
//! No member can tell for the others: each knows its own hints, and what it compared. So every member
//! of the roster is asked, at the address that the roster has for it. Of two members it must be
//! shown that they hold the same:
//!
//! - the digests of all partitions that both own are equal, or
//! - one of them has compared itself with the other since the watch began, and found no lasting difference.
//!   That is how it shows while clients go on writing, when digests differ at every moment.
//!
//! Whatever was acknowledged before the watch began is then with all its owners, durably: nobody keeps hints,
//! and what was under way has arrived, or nothing is.

use super::answer::late;
use super::failover::Nature;
use super::members::Members;
use super::{Client, ClientError};
use crate::model::MemberId;
use crate::model::limits::MAX_SCAN_LIMIT;
use crate::node::handle::convergence::{Convergence, PeerConvergence, Superseded, SupersededWrite};
use crate::node::handle::documents::Collections;
use crate::node::handle::status::State;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Quiet rounds that must end, so that one of them began after the watch did.
const ROUNDS: u64 = 2;

/// What all members answered.
struct Answers<T> {
    /// Who did, with their names.
    told: Vec<(String, T)>,
    /// By name who did not, and why.
    silent: BTreeMap<String, String>,
}

/// The collections that a cluster has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionNames {
    /// Their names; some may have nothing under them any more.
    pub names: BTreeSet<String>,
    /// Whether there may be more than members know by name.
    pub is_cut_off: bool,
    /// Whether the client may read all of them; if not, others may be missing here.
    pub may_read_all: bool,
}

/// What a look at all members has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Members that answered.
    pub members: usize,
    /// Partitions of the cluster that they own.
    pub partitions: usize,
    /// What is in the way of all members holding the same; nothing if they do.
    pub obstacles: Vec<String>,
}

/// Watches a cluster until all its members hold the same.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    began: Instant,
    /// The lives and quiet rounds of the members when they first answered.
    first: BTreeMap<MemberId, (u64, u64)>,
}

impl Watch {
    /// Begins. Whatever was acknowledged before this is what the members are to hold.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), began: Instant::now(), first: BTreeMap::new() }
    }

    /// Looks at all members once; each has so long to answer.
    pub async fn look(&mut self, within: Duration) -> Look {
        let asked_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answers = self.client.ask_all::<Convergence>("/v1/cluster/convergence?roots=true", within).await;
        let Answers { told, silent } = match answers {
            Ok(answers) => answers,
            Err(error) => return Look { obstacles: vec![error.to_string()], ..Look::default() },
        };
        let told: Vec<Convergence> = told.into_iter().map(|(_, told)| told).collect();
        for member in &told {
            let now = (member.incarnation, member.quiet_rounds);
            let first = self.first.entry(member.id).or_insert(now);
            if first.0 != member.incarnation {
                *first = now;
            }
        }
        let partitions: BTreeSet<u16> = told.iter().flat_map(|member| member.roots.keys().copied()).collect();
        let mut obstacles: Vec<String> = silent.into_values().collect();
        obstacles.extend(obstacles_of(&told, &self.first, asked_ms));
        Look { members: told.len(), partitions: partitions.len(), obstacles }
    }
}

impl Client {
    /// What the member knows of whether all hold the same.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn convergence(&self) -> Result<Convergence, ClientError> {
        self.read(Nature::ReadOne, "/v1/cluster/convergence").await
    }

    /// The writes that the member knows to have lost to concurrent ones.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn superseded(&self) -> Result<Superseded, ClientError> {
        self.read(Nature::ReadOne, "/v1/cluster/superseded").await
    }

    /// The latest writes that any member knows to have lost, the last one first and each once, and who
    /// did not answer within the time.
    ///
    /// # Errors
    /// [`ClientError`] when no member could be asked who the others are; [`ClientError::Forbidden`] when the token
    /// may not see them, for which it takes the role `read` in all collections.
    pub async fn superseded_anywhere(
        &self,
        within: Duration,
    ) -> Result<(Vec<SupersededWrite>, Vec<String>), ClientError> {
        let answers = self.ask_all::<Superseded>("/v1/cluster/superseded", within).await?;
        let (mut seen, mut writes) = (BTreeSet::new(), Vec::new());
        let mut all: Vec<SupersededWrite> =
            answers.told.into_iter().flat_map(|(_, superseded)| superseded.latest).collect();
        all.sort_by_key(|write| std::cmp::Reverse(write.noticed_ms));
        for write in all {
            let key = write.key.as_ref().or(write.key_base64.as_ref()).cloned();
            if seen.insert((write.collection.clone(), key, write.timestamp.clone())) {
                writes.push(write);
            }
        }
        Ok((writes, answers.silent.into_values().collect()))
    }

    /// Names of the collections that any member holds records of, and who did not tell all of them within the time.
    ///
    /// # Errors
    /// [`ClientError`] when no member could be asked who the others are.
    pub async fn collections_anywhere(
        &self,
        within: Duration,
    ) -> Result<(CollectionNames, Vec<String>), ClientError> {
        let mut all = CollectionNames { may_read_all: true, ..CollectionNames::default() };
        let (mut after, mut silent) = (String::new(), BTreeMap::new());
        loop {
            let behind = utf8_percent_encode(&after, NON_ALPHANUMERIC);
            let path = format!("/v1/kv?limit={MAX_SCAN_LIMIT}&after={behind}");
            let answers = self.ask_all::<Collections>(&path, within).await?;
            // Behind the first page that ends nothing is known yet.
            let next = answers.told.iter().filter_map(|(_, page)| page.next.clone()).min();
            for (_, page) in answers.told {
                all.is_cut_off |= page.is_cut_off;
                all.may_read_all &= page.may_read_all;
                all.names.extend(page.collections);
            }
            silent.extend(answers.silent);
            match next {
                Some(next) if next > after => after = next,
                _ => return Ok((all, silent.into_values().collect())),
            }
        }
    }

    /// Asks every member of the roster the same; the first that answers tells who they are.
    async fn ask_all<T>(&self, path: &str, within: Duration) -> Result<Answers<T>, ClientError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let mut last = None;
        for address in self.members.addresses() {
            let first = self.at(address);
            match in_time(address, within, first.convergence()).await {
                Ok(known) => return first.ask_known(&known, path, within).await,
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.foreign(&"no address")))
    }

    async fn ask_known<T>(
        &self,
        known: &Convergence,
        path: &str,
        within: Duration,
    ) -> Result<Answers<T>, ClientError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let mut answers = Answers { told: Vec::new(), silent: BTreeMap::new() };
        let mut asked: JoinSet<(String, String, Result<T, ClientError>)> = JoinSet::new();
        let mut ask = |name: &str, client: Self| {
            let (name, path) = (name.to_owned(), path.to_owned());
            asked.spawn(async move {
                let address = client.addresses();
                let answer = in_time(&address, within, client.read::<T>(Nature::ReadOne, &path)).await;
                (name, address, answer)
            });
        };
        ask(&known.name, self.clone());
        for peer in &known.peers {
            match &peer.http_address {
                Some(address) => ask(&peer.name, self.at(address)),
                None => {
                    let reason = format!("{} tells no address for HTTP", peer.name);
                    answers.silent.insert(peer.name.clone(), reason);
                }
            }
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((name, _, Ok(answer))) => answers.told.push((name, answer)),
                // Every member says the same, so it is no silence of this one.
                Ok((_, _, Err(error @ ClientError::Forbidden { .. }))) => return Err(error),
                Ok((name, address, Err(error))) => {
                    let reason = format!("{name} does not answer at {address}: {error}");
                    answers.silent.insert(name, reason);
                }
                Err(error) => _ = answers.silent.insert(error.to_string(), error.to_string()),
            }
        }
        answers.told.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(answers)
    }

    /// The same client for one address.
    fn at(&self, address: &str) -> Self {
        Self { members: Arc::new(Members::new([address.to_owned()])), ..self.clone() }
    }
}

/// An answer, unless it takes too long.
async fn in_time<T>(
    address: &str,
    within: Duration,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(within, answer).await.map_err(|_| late(address, false, within))?
}

/// What is in the way, by what the members told `asked_ms` after the watch had begun.
fn obstacles_of(told: &[Convergence], first: &BTreeMap<MemberId, (u64, u64)>, asked_ms: u64) -> Vec<String> {
    let mut obstacles: Vec<String> = Vec::new();
    for member in told {
        let rounds = first.get(&member.id).map_or(u64::MAX, |(_, rounds)| rounds.saturating_add(ROUNDS));
        obstacles_at(member, member.quiet_rounds >= rounds, &mut obstacles);
    }
    let digests = |member: &Convergence| (member.system_digest.clone(), member.placement_digest.clone());
    if told.iter().map(digests).collect::<BTreeSet<_>>().len() > 1 {
        obstacles.push("the members do not have the same roster and settings yet".to_owned());
    }
    for (at, one) in told.iter().enumerate() {
        for other in told.iter().skip(at + 1) {
            let differing = differing(one, other);
            if differing > 0 && !(compared(one, other, asked_ms) || compared(other, one, asked_ms)) {
                let what = if differing == 1 { "partition" } else { "partitions" };
                obstacles.push(format!("{} and {} differ in {differing} {what}", one.name, other.name));
            }
        }
    }
    obstacles
}

/// What one member has to do yet. With `is_quiet` all has arrived that was under way when the watch began.
fn obstacles_at(member: &Convergence, is_quiet: bool, obstacles: &mut Vec<String>) {
    let name = &member.name;
    if member.state != State::Ready {
        obstacles.push(format!("{name} is not ready but {}", member.state));
    }
    if member.catching_up {
        obstacles.push(format!("{name} has just started and takes what it missed"));
    }
    let numbers = [
        (member.incomplete_partitions.into(), "partitions are still copied by it"),
        (
            member.foreign_partitions.into(),
            "partitions are held by it for others, who lack something of them",
        ),
        (
            member.unsorted_collections.into(),
            "collections are brought into hash trees of their own by it, until when it compares with nobody",
        ),
        (member.wrong_leaves, "leaves of its hash trees are wrong because records were lost"),
        (member.changes.into(), "changes of the cluster are not done, as it knows"),
        (member.awaited_partitions.into(), "partitions wait for their new owners, as it knows"),
    ];
    for (number, what) in numbers.into_iter().filter(|(number, _)| *number > 0) {
        obstacles.push(format!("{name}: {number} {what}"));
    }
    let kept = |peer: &&PeerConvergence| peer.hints > 0;
    for peer in member.peers.iter().filter(kept) {
        obstacles.push(format!("{name} keeps {} for {}", hints(peer.hints), peer.name));
    }
    let others = member.hints.saturating_sub(member.peers.iter().map(|peer| peer.hints).sum());
    if others > 0 {
        obstacles.push(format!("{name} keeps {} for members that it does not know", hints(others)));
    }
    for peer in member.peers.iter().filter(|peer| peer.records_under_way > 0 && !is_quiet) {
        let number = peer.records_under_way;
        obstacles.push(format!("{name}: {number} records are on their way to {}", peer.name));
    }
}

/// Partitions that both own and hold differently.
fn differing(one: &Convergence, other: &Convergence) -> usize {
    let differs = |(at, root): &(&u16, &String)| other.roots.get(at).is_some_and(|known| known != *root);
    one.roots.iter().filter(differs).count()
}

/// Whether a member has compared itself with another one since the watch began, and found them equal.
fn compared(one: &Convergence, other: &Convergence, asked_ms: u64) -> bool {
    let peer = one.peers.iter().find(|peer| peer.id == other.id);
    peer.is_some_and(|peer| peer.differing_leaves == 0 && peer.lag_ms.is_some_and(|lag| lag <= asked_ms))
}

fn hints(count: u64) -> String {
    if count == 1 { "1 hint".to_owned() } else { format!("{count} hints") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The `at`-th of three members that hold the same.
    pub(crate) fn equal(at: u64) -> Convergence {
        let peers = (1..=3).filter(|other| *other != at).map(|other| PeerConvergence {
            id: MemberId(other),
            name: format!("m{other}"),
            http_address: None,
            reachable: true,
            lag_ms: Some(9_000),
            records_under_way: 0,
            hints: 0,
            differing_leaves: 0,
            clock_offset_ms: Some(0),
            tombstones_held_back: 0,
        });
        Convergence {
            id: MemberId(at),
            name: format!("m{at}"),
            state: State::Ready,
            incarnation: 1,
            placement_digest: "p".to_owned(),
            system_digest: "s".to_owned(),
            catching_up: false,
            owned_partitions: 2,
            incomplete_partitions: 0,
            changes: 0,
            awaited_partitions: 0,
            foreign_partitions: 0,
            unsorted_collections: 0,
            wrong_leaves: 0,
            hints: 0,
            tombstones_waiting: 0,
            tombstones_settled: 0,
            quiet_rounds: 5,
            superseded_records: 0,
            clock_offset_ms: 0,
            peers: peers.collect(),
            roots: BTreeMap::from([(0, "a".to_owned()), (1, "b".to_owned())]),
        }
    }

    fn in_the_way(change: impl FnOnce(&mut [Convergence; 3])) -> Vec<String> {
        let mut told = [equal(1), equal(2), equal(3)];
        change(&mut told);
        let first = told.iter().map(|member| (member.id, (1, 5))).collect();
        obstacles_of(&told, &first, 1_000)
    }

    #[test]
    fn nothing_is_in_the_way_of_members_that_hold_the_same_and_keep_nothing_for_each_other() {
        assert_eq!(in_the_way(|_| ()), Vec::<String>::new());
        let dead = in_the_way(|told| {
            told[0].tombstones_waiting = 7;
            told[0].peers[0].tombstones_held_back = 7;
        });
        assert_eq!(dead, Vec::<String>::new(), "what is deleted everywhere is equal everywhere");
    }

    #[test]
    fn what_any_member_has_to_do_yet_is_in_the_way_and_names_it() {
        type Change = fn(&mut Convergence);
        let changes: [(Change, &str); 11] = [
            (|m| m.state = State::Starting, "starting"),
            (|m| m.catching_up = true, "missed"),
            (|m| m.incomplete_partitions = 4, "4 partitions"),
            (|m| m.foreign_partitions = 3, "3 partitions"),
            (|m| m.unsorted_collections = 5, "5 collections"),
            (|m| m.wrong_leaves = 2, "2 leaves"),
            (|m| m.changes = 1, "1 changes"),
            (|m| m.awaited_partitions = 8, "8 partitions"),
            (|m| (m.hints, m.peers[1].hints) = (6, 6), "keeps 6 hints for m2"),
            (|m| m.hints = 1, "does not know"),
            (|m| m.peers[0].records_under_way = 9, "9 records are on their way to m1"),
        ];
        for (change, what) in changes {
            let obstacles = in_the_way(|told| change(&mut told[2]));
            assert_eq!(obstacles.len(), 1, "{obstacles:?}");
            assert!(obstacles[0].contains(what) && obstacles[0].starts_with("m3"), "{obstacles:?}");
        }
        assert_eq!(in_the_way(|told| told[1].system_digest.push('x')).len(), 1);
        assert_eq!(in_the_way(|told| told[1].placement_digest.push('x')).len(), 1);
    }

    #[test]
    fn what_is_under_way_is_in_the_way_until_two_quiet_rounds_have_ended() {
        let with = |rounds| {
            in_the_way(|told| {
                told[0].peers[0].records_under_way = 1;
                told[0].quiet_rounds = rounds;
            })
        };
        assert_eq!((with(6).len(), with(7).len()), (1, 0));
    }

    #[test]
    fn partitions_that_differ_are_in_the_way_until_a_comparison_since_then_found_none() {
        let with = |lag_ms, differing_leaves| {
            in_the_way(|told| {
                told[2].roots.insert(1, "c".to_owned());
                for (at, other) in [(0, 1), (1, 1)] {
                    told[at].peers[other].lag_ms = Some(lag_ms);
                    told[at].peers[other].differing_leaves = differing_leaves;
                }
            })
        };
        assert_eq!(with(1_001, 0), ["m1 and m3 differ in 1 partition", "m2 and m3 differ in 1 partition"]);
        assert_eq!(with(1_000, 3).len(), 2);
        assert_eq!(with(1_000, 0), Vec::<String>::new(), "clients go on writing");
        let one_side = in_the_way(|told| {
            told[2].roots.insert(1, "c".to_owned());
            told[0].peers[1].lag_ms = Some(10);
        });
        assert_eq!(one_side, ["m2 and m3 differ in 1 partition"]);
    }
}
