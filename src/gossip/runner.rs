//! Runs chitchat: starts it, tells it this member's facts, asks it what it sees, and starts it again
//! when it ends.
//!
//! One task per member on a normal tokio runtime. Several times per interval it combines chitchat's
//! verdicts with the links' pulses in a [`Detector`] and publishes a [`View`]. chitchat's own task may
//! end (its code holds assertions that a peer's bytes can break): it is then started anew under a higher
//! generation, because peers would keep the *old* values of an equal one.
//!
//! Invariants: a generation is never used twice (incarnation << 16 | restarts); a restart loses no
//! view; [`Gossip::ended`] resolves if gossip really ends, whatever the reason, panics included.

use super::detector::{Detector, Pulse, Pulses, Standing};
use super::facts::{Facts, FactsError, NOW, WHO};
use super::link_transport::{GossipCounters, LinkTransport, Wires};
use super::view::{Life, View, compose, judge};
use super::{address_of, member_at};
use crate::model::MemberId;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Time between two rounds of gossip, unless the settings say otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(500);
/// Time without a frame after which a dead phi counts.
pub const DEFAULT_SILENCE: Duration = Duration::from_secs(3);
/// Mean intervals without a heartbeat after which phi says dead. Below chitchat's default of 8, so that
/// a death is noticed within 5 s although heartbeats of large clusters arrive some rounds late; what
/// it loses in patience, `silence` gives back.
const PHI_THRESHOLD: f64 = 6.0;
/// Heartbeats over which the mean interval is taken.
const PHI_WINDOW: usize = 100;
/// A gap longer than this many intervals is an outage, not a sample.
const MAX_SAMPLE_INTERVALS: u32 = 4;
/// How long chitchat remembers a dead life; it gossips it for half of this. Short, because every digest
/// names all of them and chitchat fails near 900.
const DEAD_LIFE_GRACE: Duration = Duration::from_secs(120);
/// Time before chitchat is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Members that are heard on a link but not yet live in gossip, to gossip with per round. Few, for whoever answers tells of all
/// others, too.
const NUDGES: usize = 4;
/// Bits of the generation that count restarts.
const RESTART_BITS: u32 = 16;
const QUEUE_COMMANDS: usize = 256;

/// What gossip starts with.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// This member.
    pub member: MemberId,
    /// How often it has started, durably counted: must rise with every start. Below 2^48.
    pub incarnation: u64,
    /// Only members with the same text gossip with each other.
    pub cluster: String,
    /// Time between two rounds.
    pub interval: Duration,
    /// Time without a frame after which a dead phi counts.
    pub silence: Duration,
    /// Where `Now::mono_us` counts from; the links' pulses must use the same.
    pub origin: Instant,
    /// What this member tells first.
    pub facts: Facts,
}

impl GossipConfig {
    /// The default interval and silence.
    #[must_use]
    pub fn new(member: MemberId, cluster: &str, origin: Instant, facts: Facts) -> Self {
        Self {
            member,
            incarnation: facts.incarnation,
            cluster: cluster.to_owned(),
            interval: DEFAULT_INTERVAL,
            silence: DEFAULT_SILENCE,
            origin,
            facts,
        }
    }
}

/// Why gossip ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// It was asked to.
    #[error("gossip was stopped")]
    Stopped,
    /// The node closed its end of the queues.
    #[error("the links are gone: gossip ended with them")]
    LinksGone,
    /// chitchat ended again and again.
    #[error("gossip failed too often, last because {0}: restart this member")]
    TooManyRestarts(String),
    /// The task that runs gossip panicked, which is a bug.
    #[error("gossip's task failed: restart this member and report this")]
    Failed,
}

/// What the runner shall tell and how often; the newest counts.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    values: [(&'static str, String); 2],
    interval: Duration,
}

enum Command {
    With(MemberId),
    Forget(MemberId),
}

/// A running gossip. Dropping it stops it.
#[derive(Debug)]
pub struct Gossip {
    commands: mpsc::Sender<Command>,
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<View>,
    ended: watch::Receiver<Option<Ended>>,
    pulses: Pulses,
    counters: Arc<GossipCounters>,
}

impl Gossip {
    /// Starts gossip on the current tokio runtime.
    ///
    /// # Errors
    /// When the facts exceed their bounds; nothing was started.
    pub fn spawn(config: GossipConfig, wires: Wires) -> Result<Self, FactsError> {
        let values = config.facts.to_values()?;
        let (commands, from_handle) = mpsc::channel(QUEUE_COMMANDS);
        let (wanted, to_tell) = watch::channel(Wanted { values, interval: config.interval });
        let (view_sender, view) = watch::channel(View::default());
        let (ended_sender, ended) = watch::channel(None);
        let pulses = Pulses::default();
        let counters = Arc::new(GossipCounters::default());
        let own = config.member;
        let silence_us = u64::try_from(config.silence.as_micros()).unwrap_or(u64::MAX);
        let runner = Runner {
            transport: LinkTransport::new(wires, Arc::clone(&counters)),
            detector: Detector::new(silence_us),
            config,
            commands: from_handle,
            wanted: to_tell,
            view: view_sender,
            pulses: pulses.clone(),
            counters: Arc::clone(&counters),
            restarts: 0,
            // Each member begins the turns behind itself.
            nudged: own,
        };
        tokio::spawn(async move {
            let reason = runner.run().await;
            ended_sender.send_replace(Some(reason));
        });
        Ok(Self { commands, wanted, view, ended, pulses, counters })
    }

    /// What this member tells from now on; spreads within a few rounds.
    ///
    /// # Errors
    /// When the facts exceed their bounds; the old ones stay.
    pub fn update_facts(&self, facts: &Facts) -> Result<(), FactsError> {
        let values = facts.to_values()?;
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.values != values;
            wanted.values = values;
            changed
        });
        Ok(())
    }

    /// Changes the time between two rounds. Peers see a new generation of this member, and no death.
    pub fn set_interval(&self, interval: Duration) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(&mut wanted.interval, interval) != interval);
    }

    /// Gossips with a member now: to be called when a link to it comes up. When the queue of such
    /// requests is full the request is dropped; the next rounds reach every member that is heard anyway.
    pub fn gossip_with(&self, member: MemberId) {
        let _ = self.commands.try_send(Command::With(member));
    }

    /// Forgets what was seen of a member that was removed from the roster, until it is heard again.
    pub async fn forget(&self, member: MemberId) {
        self.pulses.forget(member);
        // Fails only when gossip has ended, and then nothing is remembered.
        let _ = self.commands.send(Command::Forget(member)).await;
    }

    /// The pulse of a member: its links note each frame there.
    #[must_use]
    pub fn pulse(&self, member: MemberId) -> Pulse {
        self.pulses.of(member)
    }

    /// All pulses, for whoever makes the links.
    #[must_use]
    pub fn pulses(&self) -> Pulses {
        self.pulses.clone()
    }

    /// What is seen; changes a few times per interval.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// What happened on the wires.
    #[must_use]
    pub fn counters(&self) -> Arc<GossipCounters> {
        Arc::clone(&self.counters)
    }

    /// Resolves when gossip has ended: a member must not run on without it.
    pub fn ended(&self) -> impl Future<Output = Ended> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(Ended::Failed),
                Err(_) => Ended::Failed,
            }
        }
    }

    /// Stops gossip and waits for its end. Peers notice the silence.
    pub async fn shutdown(self) -> Ended {
        let ended = self.ended();
        drop(self);
        ended.await
    }
}

/// Why the runner stopped serving one chitchat.
enum Leave {
    For(Ended),
    Restart(String),
    Reconfigure,
}

struct Runner {
    config: GossipConfig,
    transport: LinkTransport,
    detector: Detector,
    commands: mpsc::Receiver<Command>,
    wanted: watch::Receiver<Wanted>,
    view: watch::Sender<View>,
    pulses: Pulses,
    counters: Arc<GossipCounters>,
    restarts: u16,
    /// The last member that was nudged. They take turns, or many members would ask the same few at once.
    nudged: MemberId,
}

impl Runner {
    async fn run(mut self) -> Ended {
        loop {
            let leave = match self.start().await {
                Ok(handle) => {
                    let leave = self.serve(&handle).await;
                    // A chitchat that failed says so again here; what counts is that it is gone.
                    let _ = handle.shutdown().await;
                    leave
                }
                Err(error) => Leave::Restart(format!("{error:#}")),
            };
            match leave {
                Leave::For(reason) => return reason,
                Leave::Reconfigure => {}
                Leave::Restart(_) if self.transport.is_closed() => return Ended::LinksGone,
                Leave::Restart(reason) => {
                    tracing::warn!(reason, restarts = self.restarts, "gossip failed and is started again");
                    self.counters.restarts.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RESTART_PAUSE).await;
                    if self.restarts == u16::MAX {
                        return Ended::TooManyRestarts(reason);
                    }
                }
            }
            // Changes of the interval stop counting at the bound: the old interval stays.
            self.restarts = self.restarts.saturating_add(1);
        }
    }

    async fn start(&mut self) -> anyhow::Result<ChitchatHandle> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.config.interval = wanted.interval.max(Duration::from_millis(10));
        let interval = self.config.interval;
        let address = address_of(self.config.member);
        let generation = self.config.incarnation << RESTART_BITS | u64::from(self.restarts);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(self.config.member.to_string(), generation, address),
            cluster_id: self.config.cluster.clone(),
            gossip_interval: interval,
            listen_addr: address,
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_THRESHOLD,
                sampling_window_size: PHI_WINDOW,
                max_interval: interval * MAX_SAMPLE_INTERVALS,
                initial_interval: interval,
                dead_node_grace_period: DEAD_LIFE_GRACE,
            },
            marked_for_deletion_grace_period: DEAD_LIFE_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let values = wanted.values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        spawn_chitchat(config, values, &self.transport).await
    }

    async fn serve(&mut self, handle: &ChitchatHandle) -> Leave {
        let round = (self.config.interval / 2).clamp(Duration::from_millis(10), Duration::from_millis(250));
        let mut ticks = tokio::time::interval(round);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminated = Box::pin(handle.termination_watcher());
        loop {
            tokio::select! {
                result = &mut terminated => {
                    let reason = result.err().map_or("it stopped".to_owned(), |error| format!("{error:#}"));
                    return Leave::Restart(reason);
                }
                _ = ticks.tick() => {
                    if let Err(reason) = self.refresh(handle).await {
                        return Leave::Restart(reason);
                    }
                }
                command = self.commands.recv() => match command {
                    None => return Leave::For(Ended::Stopped),
                    // Fails only when chitchat has ended, which the watcher tells.
                    Some(Command::With(member)) if member != self.config.member => {
                        let _ = handle.gossip(address_of(member));
                    }
                    Some(Command::With(_)) => {}
                    Some(Command::Forget(member)) => self.detector.forget(member),
                },
                Ok(()) = self.wanted.changed() => {
                    let wanted = self.wanted.borrow_and_update().clone();
                    if wanted.interval != self.config.interval {
                        self.config.interval = wanted.interval;
                        return Leave::Reconfigure;
                    }
                    if let Err(reason) = tell(handle, &wanted).await {
                        return Leave::Restart(reason);
                    }
                }
            }
        }
    }

    /// One round: evidence, verdicts, view, and a nudge to members that are heard but not yet live.
    async fn refresh(&mut self, handle: &ChitchatHandle) -> Result<(), String> {
        if self.transport.is_closed() {
            return Err(Ended::LinksGone.to_string());
        }
        let own = self.config.member;
        let lives = handle.with_chitchat(|chitchat| lives(chitchat, own)).await;
        let mono_us = u64::try_from(self.config.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        judge(&lives, &mut self.detector);
        self.pulses.feed(own, &mut self.detector);
        for (member, standing) in self.detector.observe(mono_us) {
            tracing::info!(%member, ?standing, "a member's standing changed");
        }
        for member in self.next_unseen() {
            handle.gossip(address_of(member)).map_err(|error| format!("{error:#}"))?;
            self.nudged = member;
        }
        let next = compose(&self.view.borrow(), lives, &self.detector);
        self.view.send_if_modified(|view| {
            let changed = *view != next;
            *view = next;
            changed
        });
        Ok(())
    }

    /// Some of the members that send frames while chitchat does not call them live: those whose turn it is.
    fn next_unseen(&self) -> Vec<MemberId> {
        let is_unseen = |member: &MemberId| {
            self.detector.standing(*member) == Standing::Alive && !self.detector.live_by_phi(*member)
        };
        let unseen: Vec<MemberId> = self.detector.members().filter(is_unseen).collect();
        let (before, behind) = unseen.split_at(unseen.partition_point(|member| *member <= self.nudged));
        behind.iter().chain(before).take(NUDGES).copied().collect()
    }
}

/// Sets this member's values. chitchat asserts on its own state, which a peer's bytes can spoil.
async fn tell(handle: &ChitchatHandle, wanted: &Wanted) -> Result<(), String> {
    let set = |chitchat: &mut Chitchat| {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            for (key, value) in &wanted.values {
                chitchat.self_node_state().set(key, value);
            }
        }));
        attempt.map_err(|_| "its own state was spoiled".to_owned())
    };
    handle.with_chitchat(set).await
}

/// Every life that chitchat lists, but one's own.
fn lives(chitchat: &Chitchat, own: MemberId) -> Vec<Life> {
    let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
    let others = chitchat.node_states().iter().filter_map(|(id, state)| {
        let member = member_at(id.gossip_advertise_addr).filter(|member| *member != own)?;
        let values = state.get(WHO).zip(state.get(NOW));
        let facts = values.and_then(|(who, now)| Facts::from_values(who, now).ok());
        Some(Life { member, generation: id.generation_id, live: live.contains(id), facts })
    });
    others.collect()
}
