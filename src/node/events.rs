//! What happened lately, for people who look at a member.
//!
//! Nobody tells this module of changes: it compares what is with what was, a few times a second. So nothing that changes
//! something can forget to tell, and what came from other members is noticed like what was done here. What comes
//! and goes again between two looks is not noticed.
//!
//! Invariants: the number of events and their lengths are bounded; numbers rise by one; while nothing
//! changes a look allocates nothing per member.

use super::control;
use super::convergence::{incomplete, partitions};
use super::core::{Core, Shared};
use super::handle::events::{Event, EventKind as Kind, Events};
use super::handle::status::State;
use crate::engine::{Engine, LEFT};
use crate::gossip::{self, Standing};
use crate::model::MemberId;
use crate::model::roster::MemberState;
use crate::model::settings::Settings;
use crate::model::settings::log::{Difference, differences};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Events that are remembered.
const MAX_EVENTS: usize = 512;
/// Characters of an event's text.
const MAX_TEXT: usize = 400;
/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The latest events, and what was seen when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Log {
    events: VecDeque<Event>,
    last: u64,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    state: State,
    members: BTreeMap<MemberId, (String, MemberState)>,
    fenced: BTreeSet<MemberId>,
    alive: BTreeMap<MemberId, bool>,
    settings: Settings,
    is_complete: bool,
    problems: usize,
    storage_problem: Option<String>,
    damaged: u64,
    may_stamp: bool,
}

/// Looks for ever.
pub(super) async fn watch(shared: Rc<Shared>) {
    loop {
        look(&shared);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn look(shared: &Shared) {
    let state = control::state(shared);
    let mut log = {
        let mut view = shared.view.borrow_mut();
        view.cut_off = view.cut_off && incomplete(&shared.core.borrow().engine) > 0;
        std::mem::take(&mut view.events)
    };
    log.look(&shared.core.borrow(), &shared.view.borrow().seen, state);
    shared.view.borrow_mut().events = log;
}

/// What `/v1/events` answers.
pub(super) fn answer(shared: &Shared, after: u64) -> Events {
    let view = shared.view.borrow();
    let events = view.events.events.iter().filter(|event| event.number > after).cloned().collect();
    let identity = shared.core.borrow().engine.identity();
    Events { incarnation: identity.incarnation, life: format!("{:016x}", identity.life), events }
}

/// What is told of a member's place in the cluster.
fn told(state: MemberState) -> (Kind, &'static str) {
    match state {
        MemberState::Joining => (Kind::Joining, "was let in and takes its share"),
        MemberState::Active => (Kind::Active, "is active and owns its share"),
        MemberState::Leaving => (Kind::Leaving, "leaves and hands over what it holds"),
    }
}

impl Log {
    fn push(&mut self, noticed_ms: u64, kind: Kind, member: Option<&str>, text: &str) {
        self.last += 1;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        let text = text.chars().take(MAX_TEXT).collect();
        let member = member.map(str::to_owned);
        self.events.push_back(Event { number: self.last, noticed_ms, kind, member, text });
    }

    fn look(&mut self, core: &Core, gossip: &gossip::View, state: State) {
        let engine = &core.engine;
        let now = engine.now().wall_ms;
        let mut seen = self.seen.take().unwrap_or_else(|| {
            let text = format!(
                "kith {} started here, in life number {}",
                env!("CARGO_PKG_VERSION"),
                engine.identity().incarnation
            );
            self.push(now, Kind::Started, None, &text);
            Seen::of(engine, state)
        });
        if seen.state != state {
            seen.state = state;
            self.push(now, Kind::State, None, &format!("this member is now in the state {state}"));
        }
        // Whoever comes into a cluster finds members and settings there, who did not change just then.
        let is_news = !seen.members.is_empty();
        self.look_at_roster(now, engine, &mut seen, is_news);
        self.look_at_settings(now, engine.settings(), &mut seen, is_news);
        self.look_at_liveness(now, engine, gossip, &mut seen);
        self.look_at_partitions(now, engine, &mut seen);
        self.look_at_storage(now, core, &mut seen);
        let (offset_ms, may_stamp) = engine.clock_health();
        if std::mem::replace(&mut seen.may_stamp, may_stamp) != may_stamp {
            let text = if may_stamp {
                "this member's clock is near enough to the others' again".to_owned()
            } else {
                format!("this member's clock is {offset_ms} ms off the others' median")
            };
            self.push(now, Kind::Clock, None, &text);
        }
        self.seen = Some(seen);
    }

    fn look_at_roster(&mut self, now: u64, engine: &Engine, seen: &mut Seen, is_news: bool) {
        let roster = engine.roster();
        for (id, removal) in roster.removed() {
            if !seen.fenced.insert(id) || !is_news {
                continue;
            }
            let (kind, text) = if removal.reason == LEFT {
                (Kind::Left, format!("{} left the cluster", removal.name))
            } else {
                (Kind::Removed, format!("{} is out of the cluster: {}", removal.name, removal.reason))
            };
            self.push(now, kind, Some(&removal.name), &text);
        }
        seen.members.retain(|id, _| roster.get(*id).is_some());
        for (id, known) in roster.members() {
            let entry = &known.entry;
            let is_known =
                |(name, state): &(String, MemberState)| *name == entry.name && *state == entry.state;
            if seen.members.get(&id).is_some_and(is_known) {
                continue;
            }
            seen.members.insert(id, (entry.name.clone(), entry.state));
            if is_news {
                let (kind, text) = told(entry.state);
                self.push(now, kind, Some(&entry.name), &format!("{} {text}", entry.name));
            }
        }
    }

    fn look_at_liveness(&mut self, now: u64, engine: &Engine, gossip: &gossip::View, seen: &mut Seen) {
        seen.alive.retain(|id, _| gossip.members.contains_key(id));
        for (id, member) in &gossip.members {
            let alive = member.alive();
            if member.standing == Standing::Unheard || seen.alive.insert(*id, alive) == Some(alive) {
                continue;
            }
            let entry = engine.roster().get(*id).map(|known| &known.entry.name);
            let fact = member.facts.as_ref().map(|facts| &facts.name).filter(|name| !name.is_empty());
            let name = entry.or(fact).cloned().unwrap_or_else(|| id.to_string());
            let (kind, text) = if alive { (Kind::Alive, "alive") } else { (Kind::Dead, "dead") };
            self.push(now, kind, Some(&name), &format!("{name} is {text}"));
        }
    }

    fn look_at_settings(&mut self, now: u64, settings: &Settings, seen: &mut Seen, is_news: bool) {
        if seen.settings == *settings {
            return;
        }
        for ((name, before), (_, value)) in seen.settings.records().zip(settings.records()) {
            if is_news && before != value {
                let text = format!("the setting {name} is {value}; it was {before}");
                self.push(now, Kind::Setting, None, &text);
            }
        }
        for Difference { collection, name, from, to } in differences(&seen.settings, settings) {
            if let Some(collection) = collection.filter(|_| is_news) {
                let told = |text: Option<String>| text.unwrap_or_else(|| "the cluster's".to_owned());
                let (value, before) = (told(to), told(from));
                let text =
                    format!("the setting {name} of the collection {collection} is {value}; it was {before}");
                self.push(now, Kind::Setting, None, &text);
            }
        }
        seen.settings = settings.clone();
    }

    fn look_at_partitions(&mut self, now: u64, engine: &Engine, seen: &mut Seen) {
        let missing = incomplete(engine);
        if (missing == 0) == seen.is_complete {
            return;
        }
        seen.is_complete = missing == 0;
        let owned = partitions(engine).0;
        let text = if missing == 0 {
            format!("all {owned} partitions that this member owns are complete")
        } else {
            format!("{missing} of {owned} partitions that this member owns are being copied or compared")
        };
        self.push(now, Kind::Partitions, None, &text);
    }

    fn look_at_storage(&mut self, now: u64, core: &Core, seen: &mut Seen) {
        for problem in core.problems.iter().skip(seen.problems) {
            self.push(now, Kind::Storage, None, problem);
        }
        seen.problems = core.problems.len();
        let damaged = core.engine.counters().damaged_records;
        if damaged > seen.damaged {
            let text = format!(
                "{} stored records are damaged and come again from other members; check the disk",
                damaged - seen.damaged
            );
            self.push(now, Kind::Storage, None, &text);
        }
        seen.damaged = damaged;
        let problem = core.engine.storage_problem();
        if seen.storage_problem.as_deref() != problem {
            let text = problem.unwrap_or("this member takes writes again");
            self.push(now, Kind::Storage, None, text);
            seen.storage_problem = problem.map(str::to_owned);
        }
    }
}

impl Seen {
    /// What a start finds: that is no event.
    fn of(engine: &Engine, state: State) -> Self {
        let members = engine.roster().members();
        let members = members.map(|(id, known)| (id, (known.entry.name.clone(), known.entry.state)));
        Self {
            state,
            members: members.collect(),
            fenced: engine.roster().removed().map(|(id, _)| id).collect(),
            alive: BTreeMap::new(),
            settings: engine.settings().clone(),
            is_complete: incomplete(engine) == 0,
            problems: 0,
            storage_problem: None,
            damaged: 0,
            may_stamp: engine.clock_health().1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::access::Caller;
    use crate::node::handle::settings::SettingsRequest;
    use crate::node::tests::{Plan, until};
    use crate::security::KeyId;

    fn kinds(events: &Events) -> Vec<Kind> {
        events.events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn the_oldest_events_go_first_and_numbers_go_on() {
        let mut log = Log::default();
        for number in 0..MAX_EVENTS + 3 {
            log.push(number as u64, Kind::Alive, Some("a"), &"x".repeat(2 * MAX_TEXT));
        }
        assert_eq!(log.events.len(), MAX_EVENTS);
        assert_eq!(log.events.front().unwrap().number, 4);
        assert_eq!(log.events.back().unwrap().number, MAX_EVENTS as u64 + 3);
        assert!(log.events.iter().all(|event| event.text.len() == MAX_TEXT));
    }

    #[tokio::test]
    async fn a_member_notices_its_start_its_state_and_changed_settings() {
        let directory = tempfile::tempdir().unwrap();
        let member = Plan { bootstrap: true, ..Plan::new("one") }.start(directory.path());
        member.until(State::Ready).await;
        let handle = &member.handle;
        let noticed = async |after: u64, kind: Kind| {
            until("what is noticed", async || {
                let events = handle.events(after).await.unwrap();
                if kinds(&events).contains(&kind) { Ok(()) } else { Err(format!("{events:?}")) }
            })
            .await;
            handle.events(after).await.unwrap()
        };
        let events = noticed(0, Kind::State).await;
        assert_eq!((events.incarnation, events.life.len()), (1, 16));
        assert_eq!(kinds(&events)[0], Kind::Started);
        let last = events.events.last().unwrap().number;
        let settings = BTreeMap::from([("write_timeout".to_owned(), Some("3s".to_owned()))]);
        let change = SettingsRequest { settings, ..SettingsRequest::default() };
        handle.change_settings(change, Caller::Operator(KeyId::default()), false).await.unwrap();
        let events = noticed(last, Kind::Setting).await;
        let text = &events.events.iter().find(|event| event.kind == Kind::Setting).unwrap().text;
        assert!(text.starts_with("the setting write_timeout is 3s; it was "), "{text}");
        assert!(events.events.iter().all(|event| event.number > last), "{events:?}");
        let last = events.events.last().unwrap().number;
        let own = BTreeMap::from([("default_ttl".to_owned(), Some("1h".to_owned()))]);
        let change = SettingsRequest {
            collections: BTreeMap::from([("shop".to_owned(), own)]),
            ..SettingsRequest::default()
        };
        handle.change_settings(change, Caller::Operator(KeyId::default()), false).await.unwrap();
        let events = noticed(last, Kind::Setting).await;
        let text = &events.events.iter().find(|event| event.kind == Kind::Setting).unwrap().text;
        assert!(text.starts_with("the setting default_ttl of the collection shop is 1h; it was "), "{text}");
        member.stop().await;
    }
}
