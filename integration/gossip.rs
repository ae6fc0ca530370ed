//! Gossip between several members over queues in memory: what they see, when they call each other dead,
//! and what hostile bytes can't break.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use kith::gossip::{
    Ended, Facts, Gossip, GossipConfig, LinkEnd, Phase, Pulses, Standing, View, address_of, wires,
};
use kith::model::MemberId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const A: MemberId = MemberId(0xa);
const B: MemberId = MemberId(0xb);
const C: MemberId = MemberId(0xc);
/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Port = (mpsc::Sender<(MemberId, Vec<u8>)>, Pulses);

/// A network of queues: every member has a link to every other one that is plugged in.
#[derive(Clone)]
struct Net {
    origin: Instant,
    interval: Duration,
    silence: Duration,
    ports: Arc<Mutex<BTreeMap<MemberId, Port>>>,
}

impl Net {
    fn fast() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn new(interval: Duration, silence: Duration) -> Self {
        Self { origin: Instant::now(), interval, silence, ports: Arc::default() }
    }

    fn start(&self, member: MemberId, incarnation: u64, cluster: &str) -> Gossip {
        let (ours, theirs) = wires();
        let mut config = GossipConfig::new(member, cluster, self.origin, facts(member, incarnation));
        (config.interval, config.silence) = (self.interval, self.silence);
        let gossip = Gossip::spawn(config, ours).unwrap();
        let LinkEnd { mut outgoing, incoming } = theirs;
        self.ports.lock().unwrap().insert(member, (incoming, gossip.pulses()));
        let net = self.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = outgoing.recv().await {
                net.deliver(member, to, bytes);
            }
        });
        for other in self.members() {
            gossip.gossip_with(other);
        }
        gossip
    }

    fn members(&self) -> Vec<MemberId> {
        self.ports.lock().unwrap().keys().copied().collect()
    }

    fn deliver(&self, from: MemberId, to: MemberId, bytes: Vec<u8>) {
        let ports = self.ports.lock().unwrap();
        if let Some((incoming, pulses)) = ports.get(&to) {
            let _ = incoming.try_send((from, bytes));
            pulses.of(from).beat(u64::try_from(self.origin.elapsed().as_micros()).unwrap());
        }
    }

    /// Nothing reaches the member any more.
    fn unplug(&self, member: MemberId) {
        self.ports.lock().unwrap().remove(&member);
    }
}

fn facts(member: MemberId, incarnation: u64) -> Facts {
    Facts {
        name: format!("member-{member}"),
        address: format!("127.0.0.1:{}", 7_000 + incarnation),
        incarnation,
        phase: Phase::Ready,
        ..Facts::default()
    }
}

/// Waits until the view is as wanted; `always` must hold in every view on the way.
async fn until(gossip: &Gossip, always: impl Fn(&View) -> bool, wanted: impl Fn(&View) -> bool) -> View {
    let mut view = gossip.view();
    let waiting = view.wait_for(|view| {
        assert!(always(view), "what must hold always does not hold in {view:#?}");
        wanted(view)
    });
    tokio::time::timeout(PATIENCE, waiting).await.expect("the view becomes as wanted").unwrap().clone()
}

fn standing(view: &View, member: MemberId) -> Standing {
    view.members.get(&member).map_or(Standing::Unheard, |seen| seen.standing)
}

fn alive_with_facts(view: &View, member: MemberId, incarnation: u64) -> bool {
    let seen = view.members.get(&member).filter(|seen| seen.alive());
    seen.is_some_and(|seen| seen.facts.as_ref() == Some(&facts(member, incarnation)))
}

async fn three(net: &Net) -> [Gossip; 3] {
    let members = [A, B, C].map(|member| net.start(member, 1, "c"));
    for (own, gossip) in [A, B, C].into_iter().zip(&members) {
        let others = [A, B, C].into_iter().filter(|other| *other != own);
        let all = |view: &View| others.clone().all(|other| alive_with_facts(view, other, 1));
        let view = until(gossip, |_| true, all).await;
        assert_eq!(view.members.len(), 2, "oneself is not listed");
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn members_see_each_other_and_changed_facts_spread() {
    let [a, b, c] = three(&Net::fast()).await;
    let changed = Facts { settings_digest: 77, phase: Phase::Leaving, ..facts(A, 1) };
    a.update_facts(&changed).unwrap();
    for gossip in [&b, &c] {
        let told = |view: &View| view.members[&A].facts.as_ref() == Some(&changed);
        until(gossip, |view| standing(view, A) == Standing::Alive, told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_member_is_dead_to_all_and_returns_once_with_new_facts() {
    let net = Net::fast();
    let [a, b, c] = three(&net).await;
    assert_eq!(c.shutdown().await, Ended::Stopped);
    net.unplug(C);
    for (gossip, other) in [(&a, B), (&b, A)] {
        let live = |view: &View| standing(view, other) == Standing::Alive;
        until(gossip, live, |view| standing(view, C) == Standing::Dead).await;
    }
    let c = net.start(C, 2, "c");
    for (gossip, other) in [(&a, B), (&b, A)] {
        let live = |view: &View| standing(view, other) == Standing::Alive;
        let view = until(gossip, live, |view| alive_with_facts(view, C, 2)).await;
        assert_eq!(view.members.len(), 2, "two lives, one entry");
    }
    until(&c, |view| view.dead().count() == 0, |view| view.alive().count() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_noticed_and_a_return_too_within_five_seconds_by_default() {
    let net = Net::new(Duration::from_millis(500), Duration::from_secs(3));
    let [a, b, c] = three(&net).await;
    net.unplug(C);
    c.shutdown().await;
    let died = Instant::now();
    for gossip in [&a, &b] {
        until(gossip, |_| true, |view| standing(view, C) == Standing::Dead).await;
    }
    let noticed = died.elapsed();
    let c = net.start(C, 2, "c");
    let returned = Instant::now();
    for gossip in [&a, &b] {
        until(gossip, |_| true, |view| alive_with_facts(view, C, 2)).await;
    }
    let welcomed = returned.elapsed();
    println!("death noticed after {noticed:?}, return after {welcomed:?}");
    assert!(noticed < Duration::from_secs(5), "{noticed:?}");
    assert!(welcomed < Duration::from_secs(5), "{welcomed:?}");
    drop(c);
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_different_texts_do_not_mix() {
    let net = Net::fast();
    let [a, b] = [net.start(A, 1, "one"), net.start(B, 1, "one")];
    let c = net.start(C, 1, "two");
    for (gossip, other) in [(&a, B), (&b, A)] {
        let strangers = |view: &View| view.members.get(&C).is_none_or(|seen| seen.facts.is_none());
        until(gossip, strangers, |view| alive_with_facts(view, other, 1)).await;
    }
    // C was heard on its link by now, and yet nothing that it tells is believed.
    for gossip in [&a, &b] {
        let heard = |view: &View| standing(view, C) == Standing::Alive && view.members[&C].facts.is_none();
        until(gossip, |_| true, heard).await;
    }
    assert!(c.view().borrow().members.values().all(|seen| seen.facts.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_are_refused_and_break_nothing() {
    let net = Net::fast();
    let [a, _b, _c] = three(&net).await;
    let counters = a.counters();
    let hostile = MemberId(0xbad);
    let before = counters.refused.load(std::sync::atomic::Ordering::Relaxed);
    for bytes in [vec![], vec![0xff; 65_536], vec![0; 70_000], b"\x53\xb0\x00\x02\x01\xff\xff".to_vec()] {
        net.deliver(hostile, A, bytes);
    }
    let others = |view: &View| [B, C].into_iter().all(|other| standing(view, other) == Standing::Alive);
    until(&a, others, |view| {
        counters.refused.load(std::sync::atomic::Ordering::Relaxed) >= before + 4 && others(view)
    })
    .await;
    assert_eq!(counters.restarts.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// A delta that chitchat accepts and then fails an assertion on: a value beyond the version that it
/// claims to end at.
fn poison(victim: MemberId, generation: u64) -> Vec<u8> {
    let IpAddr::V6(ip) = address_of(victim).ip() else { panic!("gossip addresses are IPv6") };
    let mut block = vec![0, 16, 0];
    block.extend(victim.to_string().bytes());
    block.extend(generation.to_le_bytes());
    block.push(6);
    block.extend(ip.octets());
    block.extend(address_of(victim).port().to_le_bytes());
    block.extend([0; 16]);
    block.extend([1, 1, 0, b'k', 0, 0]);
    block.extend(1_000_000u64.to_le_bytes());
    block.push(0);
    block.push(2);
    block.extend(999_999u64.to_le_bytes());
    let mut bytes = b"\x53\xb0\x00\x02\x02".to_vec();
    bytes.extend(u16::try_from(block.len()).unwrap().to_le_bytes());
    bytes.extend(block);
    bytes.push(0);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_that_fails_is_started_again_and_nobody_dies_of_it() {
    let net = Net::fast();
    let [a, b, _c] = three(&net).await;
    let counters = a.counters();
    let generation = a.view().borrow().members[&B].generation;
    net.deliver(MemberId(0xbad), A, poison(B, generation));
    let others = |view: &View| [B, C].into_iter().all(|other| standing(view, other) == Standing::Alive);
    until(&a, others, |_| counters.restarts.load(std::sync::atomic::Ordering::Relaxed) == 1).await;
    // What A tells after it reaches the others, so they believe its new generation.
    let changed = Facts { roster_digest: 5, ..facts(A, 1) };
    a.update_facts(&changed).unwrap();
    let told = |view: &View| view.members[&A].facts.as_ref() == Some(&changed);
    until(&b, |view| standing(view, A) == Standing::Alive, told).await;
    until(&a, others, |view| [B, C].into_iter().all(|other| alive_with_facts(view, other, 1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interval_can_change_while_it_runs() {
    let net = Net::fast();
    let [a, b, _c] = three(&net).await;
    a.set_interval(Duration::from_millis(20));
    let generation = |view: &View| view.members[&A].generation & 0xffff;
    until(&b, |view| standing(view, A) == Standing::Alive, |view| generation(view) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_tells_when_it_ends_because_the_links_are_gone() {
    let (ours, theirs) = wires();
    let config = GossipConfig::new(A, "c", Instant::now(), facts(A, 1));
    let gossip = Gossip::spawn(config, ours).unwrap();
    let ended = gossip.ended();
    drop(theirs);
    assert_eq!(tokio::time::timeout(PATIENCE, ended).await.unwrap(), Ended::LinksGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_member_is_unheard_again() {
    let net = Net::fast();
    let [a, _b, c] = three(&net).await;
    net.unplug(C);
    c.shutdown().await;
    until(&a, |_| true, |view| standing(view, C) == Standing::Dead).await;
    a.forget(C).await;
    until(&a, |_| true, |view| standing(view, C) == Standing::Unheard).await;
}
