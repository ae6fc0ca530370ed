//! Which member is asked, and who is asked when one does not answer as it should.
//!
//! An operation is an order of *attempts*: rounds over all members ([`super::members`]), with growing pauses between
//! them, until one succeeds, one fails for good, or the client's patience is over. What a failure leads to depends on
//! what the request may have done:
//!
//! - *Surely nothing* — nobody could be connected to, or the member says that it can't take it now ([`PASSING`]) or
//!   ever ([`GONE`]): another member is asked; in later rounds the first kind again, the second not.
//! - *Nothing, for it only reads* — a lost answer, a member that is too busy: likewise.
//! - *Perhaps something* — a change was sent and no answer says what became of it. It is never sent again: a repeated
//!   increment would count twice, and a repeated value could replace a later one of somebody else.
//! - *A decision* — a refusal that any member would give, a condition that does not hold: told at once.
//!
//! Requests that concern one member are not for others: nobody wants member 2 to leave because member 1 is down.

use super::ClientError;
use super::answer::{RawAnswer, failure, late};
use super::members::Members;
use super::{Client, Tried};
use bytes::Bytes;
use reqwest::{Method, Response};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause; each later one is twice as long, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long a read waits for a member while there is another one to ask.
const READ_ATTEMPT: Duration = Duration::from_secs(10);
/// The least that a change of the cluster is waited for; members give up before that.
const GOVERN_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the rest of an answer may take that has begun.
const REST_TIMEOUT: Duration = Duration::from_secs(60);
/// What bodies are sent at, if slowly.
const SLOW_BYTES_PER_SECOND: usize = 256 << 10;

/// Refusals after which surely nothing was changed, that pass or that other members may not give.
const PASSING: [&str; 10] = [
    "starting",
    "creating",
    "stopping",
    "overloaded",
    "storage",
    "no_room_for_hint",
    "not_enough_owners",
    "unreachable",
    "too_many_connections",
    "too_many_watches",
];
/// Refusals of members that serve no cluster (any more): they do not pass.
const GONE: [&str; 5] = ["left", "removed", "outdated", "no_cluster", "records_lost"];
/// Of a change to the cluster these say that something may be done.
const DOUBTFUL_FOR_CLUSTER: [&str; 3] = ["stopping", "storage", "unreachable"];

/// What a request is about, which decides who else may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// Reads what every member can tell.
    Read,
    /// Changes records; every member can do it.
    Change,
    /// Changes the cluster; every member can do it.
    Govern,
    /// Reads what concerns the asked member: the first that can be connected to.
    ReadOne,
    /// Changes the asked member: the first of the addresses and no other.
    ChangeOne,
}

impl Nature {
    pub(super) const fn changes(self) -> bool {
        matches!(self, Self::Change | Self::Govern | Self::ChangeOne)
    }
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Others may be asked, and this one again later.
    Elsewhere,
    /// Others may be asked.
    NeverHere,
    /// It is told.
    Final,
}

fn verdict(nature: Nature, error: &ClientError) -> Verdict {
    use Verdict::{Elsewhere, Final, NeverHere};
    match (error, nature) {
        (_, Nature::ChangeOne) => Final,
        (ClientError::Unreachable { .. }, _) => Elsewhere,
        // Certificates don't mend within a client's patience.
        (ClientError::Tls { .. }, _) => NeverHere,
        (_, Nature::ReadOne) => Final,
        (ClientError::Lost { .. }, _) | (ClientError::Foreign { .. }, Nature::Read) => Elsewhere,
        (ClientError::Refused { code, .. }, _) => {
            let code = code.as_str();
            if GONE.contains(&code) {
                NeverHere
            } else if nature == Nature::Govern && DOUBTFUL_FOR_CLUSTER.contains(&code) {
                Final
            } else if PASSING.contains(&code) || (nature == Nature::Read && code == "timeout") {
                Elsewhere
            } else {
                Final
            }
        }
        _ => Final,
    }
}

/// One request as it is sent to any of the members.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) nature: Nature,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn new(nature: Nature, method: Method, path: impl Into<String>) -> Self {
        Self { nature, method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Nature::Read, Method::GET, path)
    }

    pub(super) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// How far an operation is.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    members: &'a Members,
    nature: Nature,
    began: Instant,
    timeout: Duration,
    patience: Duration,
    pause: Duration,
    /// Members to be asked in this round.
    queue: VecDeque<usize>,
    /// Members that need not be asked again.
    gone: BTreeSet<usize>,
    /// The last failure of each member.
    failures: BTreeMap<usize, ClientError>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(client: &'a Client, nature: Nature) -> Self {
        let members: &Members = &client.members;
        let queue = match nature {
            Nature::ChangeOne => VecDeque::from([0]),
            Nature::ReadOne => (0..members.addresses().count()).collect(),
            Nature::Read | Nature::Change | Nature::Govern => members.order().into(),
        };
        let patience = match nature {
            Nature::ChangeOne | Nature::ReadOne => Duration::ZERO,
            _ => client.patience,
        };
        let timeout = match nature {
            Nature::Govern | Nature::ChangeOne => client.timeout.max(GOVERN_TIMEOUT),
            _ => client.timeout,
        };
        Self {
            members,
            nature,
            began: Instant::now(),
            timeout,
            patience,
            pause: FIRST_PAUSE,
            queue,
            gone: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }

    /// The member to be asked next, after a pause if there must be one; `None` when it is time to give up.
    pub(super) async fn next(&mut self) -> Option<usize> {
        if self.queue.is_empty() {
            // Between half of it and all of it: clients that failed together do not come back together.
            let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
            if self.began.elapsed() + pause >= self.patience {
                return None;
            }
            self.queue = self.members.order().into();
            self.queue.retain(|member| !self.gone.contains(member));
            if self.queue.is_empty() {
                return None;
            }
            self.pause = (2 * self.pause).min(LAST_PAUSE);
            tokio::time::sleep(pause).await;
        }
        if self.began.elapsed() >= self.timeout { None } else { self.queue.pop_front() }
    }

    /// How long the member may take that is asked now.
    pub(super) fn time(&self) -> Duration {
        let left = self.timeout.saturating_sub(self.began.elapsed());
        if self.nature == Nature::Read && !self.queue.is_empty() { left.min(READ_ATTEMPT) } else { left }
    }

    /// Tries again for as long as it takes.
    pub(super) const fn never_give_up(&mut self) {
        (self.patience, self.timeout) = (Duration::MAX, Duration::MAX);
    }

    /// Whether others may be asked after this.
    pub(super) fn passes(&self, error: &ClientError) -> bool {
        verdict(self.nature, error) != Verdict::Final
    }

    /// Takes note of a failure; it comes back if nobody else is to be asked.
    pub(super) fn failed(&mut self, member: usize, error: ClientError) -> Result<(), ClientError> {
        match verdict(self.nature, &error) {
            Verdict::Final => return Err(error),
            Verdict::NeverHere => drop(self.gone.insert(member)),
            Verdict::Elsewhere => {}
        }
        self.members.failed(member);
        self.failures.insert(member, error);
        Ok(())
    }

    /// Why all was in vain: where nobody could be reached at all, that; else what a member said.
    pub(super) fn give_up(self) -> ClientError {
        let mut all = Vec::new();
        for (_, failure) in self.failures {
            match failure {
                ClientError::Unreachable { tried } => all.extend(tried),
                told => return told,
            }
        }
        if all.is_empty() {
            let reason = "no time was left to ask".to_owned();
            all = self
                .members
                .addresses()
                .map(|address| Tried { address: address.to_owned(), reason: reason.clone() })
                .collect();
        }
        ClientError::Unreachable { tried: all }
    }
}

impl Client {
    /// Asks members until one answers.
    pub(super) async fn ask(&self, request: Request) -> Result<RawAnswer, ClientError> {
        let mut attempts = Attempts::new(self, request.nature);
        while let Some(member) = attempts.next().await {
            match self.ask_at(member, &request, attempts.time()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.failed(member, error)?,
            }
        }
        Err(attempts.give_up())
    }

    /// Asks one member, which begins to answer within this time.
    pub(super) async fn ask_at(
        &self,
        member: usize,
        request: &Request,
        time: Duration,
    ) -> Result<RawAnswer, ClientError> {
        let (address, changes) = (self.members.address(member), request.nature.changes());
        let response = self.begun(member, request, time).await?;
        let rest = tokio::time::timeout(REST_TIMEOUT, RawAnswer::read(address, changes, response)).await;
        let answer = rest.unwrap_or_else(|_| Err(late(address, changes, REST_TIMEOUT)));
        let seen = match &answer {
            Ok(answer) => answer.timestamp,
            Err(ClientError::ConditionFailed { present }) => *present,
            Err(_) => return answer,
        };
        self.members.answered(member);
        if let Some(seen) = seen {
            self.note(seen);
        }
        answer
    }

    /// An answer that has begun within this time, beside what the request takes to be sent.
    pub(super) async fn begun(
        &self,
        member: usize,
        request: &Request,
        time: Duration,
    ) -> Result<Response, ClientError> {
        let (address, changes) = (self.members.address(member), request.nature.changes());
        let url = format!("{}://{address}{}", self.scheme, request.path);
        let sent = self.http.request(request.method.clone(), url);
        let sent = request.headers.iter().fold(sent, |sent, (name, value)| sent.header(*name, value));
        let slowly = Duration::from_secs((request.body.len() / SLOW_BYTES_PER_SECOND) as u64);
        let time = time.saturating_add(slowly);
        let begun = tokio::time::timeout(time, sent.body(request.body.clone()).send()).await;
        let response = begun.map_err(|_| late(address, changes, time))?;
        response.map_err(|error| failure(address, changes, &error))
    }
}
