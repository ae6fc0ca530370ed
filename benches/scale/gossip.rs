//! Gossip of many members over queues, in real time: chitchat reads the clock itself.
//!
//! All run in this program, so a number of members that the machine can't carry shows as rounds that are late:
//! the messages a second of each member fall then, and nothing is made up for them.

use super::options::Options;
use super::report::{Report, bytes, seconds, short};
use super::roster::entry;
use anyhow::{Context, Result, bail};
use kith::gossip::{Facts, Gossip, GossipConfig, LinkEnd, Phase, Pulses, wires};
use kith::model::MemberId;
use kith::model::roster::MemberState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Until every member sees every other one.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
/// Rounds that are not those of the beginning any more.
const REST: Duration = Duration::from_secs(5);

/// Where a member's messages go to, and who notes that it was heard.
type Port = (mpsc::Sender<(MemberId, Vec<u8>)>, Pulses);

/// What travelled.
#[derive(Default)]
struct Counted {
    messages: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

pub fn measure(column: usize, members: u64, options: &Options, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(run(column, members, options.load * 2, report));
    runtime.shutdown_timeout(Duration::from_secs(1));
    measured
}

async fn run(column: usize, members: u64, time: Duration, report: &mut Report) -> Result<()> {
    let origin = Instant::now();
    let counted = Arc::<Counted>::default();
    let (mut all, mut ends, mut ports) = (Vec::new(), Vec::new(), BTreeMap::<MemberId, Port>::new());
    for number in 0..members {
        let known = entry(number, MemberState::Active);
        let (ours, LinkEnd { outgoing, incoming }) = wires();
        let facts = Facts {
            name: known.name.clone(),
            address: known.address.clone(),
            http_address: known.http_address.clone(),
            incarnation: 1,
            life: number,
            phase: Phase::Ready,
            ..Facts::default()
        };
        let gossip = Gossip::spawn(GossipConfig::new(known.id(), "scale", origin, facts), ours)?;
        ports.insert(known.id(), (incoming, gossip.pulses()));
        ends.push((known.id(), outgoing));
        all.push(gossip);
    }
    let ports = Arc::new(ports);
    for (from, outgoing) in ends {
        tokio::spawn(carry(from, outgoing, Arc::clone(&ports), Arc::clone(&counted), origin));
    }
    for gossip in &all {
        ports.keys().for_each(|member| gossip.gossip_with(*member));
    }
    let cpu = processor_seconds()?;
    wait_until_seen(&all).await?;
    report.note(column, "gossip: all see all after", seconds(origin.elapsed().as_secs_f64()));
    let cpu = (processor_seconds()? - cpu) / members as f64;
    report.add(column, "gossip: processor time of a member until then", seconds(cpu), cpu);
    tokio::time::sleep(REST).await;
    let look = || {
        [&counted.messages, &counted.bytes, &counted.dropped]
            .map(|count| count.load(Ordering::Relaxed) as f64)
    };
    let (before, cpu, began) = (look(), processor_seconds()?, Instant::now());
    tokio::time::sleep(time).await;
    let (then, passed) = (look(), began.elapsed().as_secs_f64());
    let cpu = (processor_seconds()? - cpu) / passed;
    let [messages, wire, dropped] = [0, 1, 2].map(|at: usize| {
        let change = then.get(at).zip(before.get(at)).map_or(0.0, |(then, before)| then - before);
        change / passed / members as f64
    });
    if dropped > 0.0 {
        bail!("queues were full: {dropped:.1} messages a second of each member were dropped");
    }
    report.add(column, "gossip: messages a second that a member sends", short(messages), messages);
    report.add(column, "gossip: bytes a second that a member sends", bytes(wire), wire);
    report.add(column, "gossip: bytes of a message", bytes(wire / messages), wire / messages);
    report.add(
        column,
        "gossip: processor time a second of a member",
        seconds(cpu / members as f64),
        cpu / members as f64,
    );
    Ok(())
}

/// Brings a member's messages to where they go, as links do.
async fn carry(
    from: MemberId,
    mut outgoing: mpsc::Receiver<(MemberId, Vec<u8>)>,
    ports: Arc<BTreeMap<MemberId, Port>>,
    counted: Arc<Counted>,
    origin: Instant,
) {
    while let Some((to, bytes)) = outgoing.recv().await {
        let Some((incoming, pulses)) = ports.get(&to) else { continue };
        counted.messages.fetch_add(1, Ordering::Relaxed);
        counted.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if incoming.try_send((from, bytes)).is_err() {
            counted.dropped.fetch_add(1, Ordering::Relaxed);
        }
        pulses.of(from).beat(u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

async fn wait_until_seen(all: &[Gossip]) -> Result<()> {
    let began = Instant::now();
    let sees_all = |gossip: &Gossip| {
        let view = gossip.view();
        let seen = view.borrow().members.values().filter(|seen| seen.alive() && seen.facts.is_some()).count();
        seen + 1 == all.len()
    };
    while !all.iter().all(sees_all) {
        if began.elapsed() > PATIENCE {
            bail!("not all members see all after {} s: too many for this machine", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Seconds of processor time of this program so far.
fn processor_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').context("no name in /proc's stat")?.1;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times in /proc's stat")?;
    Ok((user + system) / 100.0)
}
