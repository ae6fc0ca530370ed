//! Links to other members: accepting, dialling, judging who is at the other end, and carrying frames.
//!
//! Both sides of a pair dial until a link stands. When two links meet, one rule decides on both
//! sides: the one that the member with the lower id dialled wins over the other, and a link of a
//! later life wins over any of an earlier one. A losing link is told so and closed.
//!
//! States of a link: *shaken* (the handshake is done, nothing is believed yet) → *admitted* (the
//! introduction was judged; the engine has it) or *refused* (with the reason, in both logs).

use super::changes::refuse_old;
use super::core::{Core, Outgoing, Shared, wake};
use super::secrets::{self, Proven};
use super::{departure, membership, outdated};
use crate::model::MemberId;
use crate::model::roster::Roster;
use crate::protocol::introduction::{Control, Introduction, Refusal};
use crate::security::{KeyId, Role};
use crate::transport::{self, Acceptor, FrameKind, Link, LinkError, LinkReader, LinkWriter, PeerInfo};
use rand::RngExt as _;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// Connection and handshake together.
pub(super) const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// How often the dialler looks for members without a link.
const DIAL_ROUND: Duration = Duration::from_millis(100);
/// How long a peer that asks to join may take over each message.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);
/// How often the number of connections that were turned away is looked at, at least.
const TURNED_AWAY_ROUND: Duration = Duration::from_secs(1);
/// A link that lasted so long begins the delays between attempts anew.
const LASTING_US: u64 = 5_000_000;
/// A link that was silent for so long gives way to any new one.
const SILENT_US: u64 = 1_500_000;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

impl Shared {
    /// What this member says of itself in handshakes.
    pub(super) fn introduction(&self) -> Introduction {
        let core = self.core.borrow();
        let identity = core.engine.identity();
        Introduction {
            cluster: core.cluster.clone(),
            name: self.config.name.clone(),
            address: self.view.borrow().address.clone(),
            http_address: self.view.borrow().http_address.clone(),
            zone: self.config.zone.clone(),
            incarnation: identity.incarnation,
            life: identity.life,
            wall_ms: self.clock.now().wall_ms,
            bootstrap: self.config.bootstrap,
        }
    }

    /// Accepts links for ever.
    pub(super) async fn accept_links(self: Rc<Self>, acceptor: Acceptor) {
        loop {
            let arrival = timeout(TURNED_AWAY_ROUND, acceptor.next()).await;
            self.core.borrow_mut().counts.turned_away = acceptor.turned_away();
            let Ok(arrival) = arrival else { continue };
            let shared = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let from = arrival.address();
                let role = if membership::is_member(&shared) { Role::Member } else { Role::Joining };
                let Ok(introduction) = shared.introduction().encode() else { return };
                shared.core.borrow_mut().counts.pending_handshakes += 1;
                let credentials = shared.secrets.credentials();
                let shaken = arrival.handshake(&credentials, role, &introduction, DIAL_DEADLINE).await;
                shared.core.borrow_mut().counts.pending_handshakes -= 1;
                match shared.counted(shaken) {
                    Ok(link) => shared.admit(link, Side::Acceptor, from.to_string()).await,
                    // The caller's port is another one each time.
                    Err(error) => shared.note_refusal(&from.ip().to_string(), None, &error.to_string()),
                }
            });
        }
    }

    /// Dials one address as what this member is.
    pub(super) async fn dial(&self, address: &str) -> Result<Link, LinkError> {
        let role = if membership::is_member(self) { Role::Member } else { Role::Joining };
        let introduction = self.introduction().encode().unwrap_or_default();
        let credentials = self.secrets.credentials();
        let dialled = transport::connect(address, &credentials, role, &introduction, DIAL_DEADLINE).await;
        self.counted(dialled)
    }

    /// Counts how a handshake ended.
    fn counted(&self, shaken: Result<Link, LinkError>) -> Result<Link, LinkError> {
        let counts = &mut self.core.borrow_mut().counts;
        match &shaken {
            Ok(_) => counts.links.handshakes += 1,
            Err(error) => counts.handshake_failed(error),
        }
        shaken
    }

    /// Judges a link and carries it, or refuses it.
    pub(super) async fn admit(self: &Rc<Self>, link: Link, side: Side, address: String) {
        let Ok(theirs) = Introduction::decode(&link.peer.introduction) else {
            self.core.borrow_mut().counts.rejected("malformed");
            return self.note_refusal(&address, None, "its introduction makes no sense to this version");
        };
        // The secret may have been retired while the handshake went on. The next one is made without it.
        if !self.secrets.accepts(link.peer.key) {
            return self.note_refusal(&address, Some(&theirs.name), "its secret was retired just now");
        }
        if let Some(refusal) = outdated::refusal(self) {
            return self.tell_refusal(link, refusal).await;
        }
        let member = link.peer.member;
        // A caller is known by where it listens: its port is another one each time.
        let address = if side == Side::Acceptor { theirs.address.clone() } else { address };
        if member == self.core.borrow().engine.identity().member {
            self.view.borrow_mut().own_addresses.insert(address);
            return;
        }
        if side == Side::Acceptor && link.peer.role == Role::Joining {
            return membership::serve_joiner(self, link, &theirs).await;
        }
        if self.core.borrow().cluster.is_none() {
            membership::note_caller(self, &theirs);
        }
        match self.judge(&link.peer, &theirs) {
            Ok(()) => {
                self.view.borrow_mut().forget_refusals(Some(&theirs.name), &address);
                self.carry(link, side, &theirs).await;
            }
            Err(refusal) => self.refuse(link, &address, Some(&theirs.name), refusal).await,
        }
    }

    /// Whether a peer may have a link as a member.
    fn judge(&self, peer: &PeerInfo, theirs: &Introduction) -> Result<(), Refusal> {
        let mut core = self.core.borrow_mut();
        let ours = core.cluster.clone().ok_or(Refusal::NoCluster)?;
        match &theirs.cluster {
            Some(cluster) if cluster.id == ours.id => {}
            Some(cluster) => {
                let text = |id: u128| uuid::Uuid::from_u128(id).to_string();
                return Err(Refusal::OtherCluster { ours: text(ours.id), theirs: text(cluster.id) });
            }
            None => return Err(Refusal::NoCluster),
        }
        let roster = core.engine.roster();
        if core.engine.has_fenced(peer.member) {
            return Err(Refusal::Removed);
        }
        if roster.is_removed(peer.member) {
            return Err(Refusal::NotReady("it is writing down a removal".to_owned()));
        }
        // One that is in the roster and lost this name to another learns that from the roster itself, which
        // comes over the link.
        let entered = roster.get(peer.member).is_some_and(|known| known.entry.name == theirs.name);
        if !entered && name_is_taken(roster, peer.member, &theirs.name) {
            return Err(Refusal::NameTaken(theirs.name.clone()));
        }
        refuse_old(core.engine.settings(), peer.protocol)?;
        let seen = core.engine.check_life(peer.member, theirs.incarnation, theirs.life);
        seen.map_err(|seen| Refusal::OldLife { seen, got: theirs.incarnation })
    }

    /// Notes why there is no link, where people look for it.
    pub(super) fn note_refusal(&self, address: &str, name: Option<&str>, reason: &str) {
        let known = self.view.borrow_mut().note_refusal(address, name, reason);
        if known {
            tracing::debug!(address, name, reason, "no link");
        } else {
            tracing::warn!(address, name, reason, "no link");
        }
    }

    /// Tells the peer why it is refused, and closes.
    pub(super) async fn refuse(&self, link: Link, address: &str, name: Option<&str>, refusal: Refusal) {
        self.note_refusal(address, name, &refusal.to_string());
        self.tell_refusal(link, refusal).await;
    }

    async fn tell_refusal(&self, mut link: Link, refusal: Refusal) {
        self.core.borrow_mut().counts.link_refused(&refusal);
        send_control(&mut link.writer, &Control::Refused(refusal)).await;
        let _ = timeout(CONTROL_DEADLINE, link.writer.close()).await;
    }

    /// Hands an admitted link to the engine and carries its frames until it ends.
    async fn carry(self: &Rc<Self>, link: Link, side: Side, theirs: &Introduction) {
        let Link { peer, reader, writer } = link;
        let member = peer.member;
        let life = (theirs.incarnation, theirs.life);
        if !self.wins(member, side, life) {
            let mut writer = writer;
            let _ = writer.queue(FrameKind::Goodbye, b"another link to this member stands");
            let _ = timeout(CONTROL_DEADLINE, writer.close()).await;
            return;
        }
        let end = Rc::new(Notify::new());
        let pulse = self.view.borrow().pulses.of(member);
        pulse.beat(self.clock.now().mono_us);
        self.view.borrow_mut().protocols.insert(member, peer.protocol);
        let number = self.with(|core| {
            core.drop_link(member);
            let number = core.next_link();
            let dialled = side == Side::Dialler;
            let (proven, end) = (Proven::new(&peer), Rc::clone(&end));
            let outgoing = Outgoing { link: number, writer, dialled, life, proven, drain: None, end };
            core.links.insert(member, outgoing);
            core.counts.links.opened += 1;
            core.engine.link_speaks(member, peer.protocol);
            core.engine.link_up(member, number);
            number
        });
        tracing::info!(%member, name = theirs.name, "link up");
        self.view.borrow().gossip_with(member);
        tokio::task::spawn_local(drain(Rc::clone(self), member, number));
        let ended = tokio::select! {
            ended = self.receive(member, number, reader, &pulse) => ended,
            () = end.notified() => None,
        };
        self.with(|core| {
            if core.links.get(&member).is_some_and(|outgoing| outgoing.link == number) {
                core.drop_link(member);
            }
        });
        if let Some(reason) = ended {
            tracing::info!(%member, name = theirs.name, reason, "link down");
        }
    }

    /// Whether a new link takes the place of the one that stands, if one does.
    fn wins(&self, member: MemberId, side: Side, life: (u64, u64)) -> bool {
        let core = self.core.borrow();
        let Some(standing) = core.links.get(&member) else { return true };
        if standing.life != life {
            return life.0 >= standing.life.0;
        }
        let heard_us = self.view.borrow().last_heard_us(member);
        if self.clock.now().mono_us.saturating_sub(heard_us) > SILENT_US {
            return true;
        }
        let lower_dials = core.engine.identity().member < member;
        let preferred = |dialled: bool| dialled == lower_dials;
        // Of equal claims the standing link keeps its place: a second way to the same member, such
        // as a seed under another name, must not replace it again and again.
        preferred(side == Side::Dialler) && !preferred(standing.dialled)
    }

    /// Takes frames until the link ends; the reason, if there is one to tell.
    async fn receive(
        self: &Rc<Self>,
        member: MemberId,
        link: u64,
        mut reader: LinkReader,
        pulse: &crate::gossip::Pulse,
    ) -> Option<String> {
        let to_gossip = self.view.borrow().to_gossip.clone();
        loop {
            let mut next = match reader.next().await {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => return Some("closed by the peer".to_owned()),
                Err(error) => return Some(error.to_string()),
            };
            pulse.beat(self.clock.now().mono_us);
            while let Some(frame) = next {
                self.core.borrow_mut().counts.frame_received(frame.bytes.len());
                match frame.kind {
                    FrameKind::Engine => {
                        let taken = self.with(|core| core.engine.frame(member, link, frame.bytes));
                        if let Err(error) = taken {
                            return Some(error.to_string());
                        }
                    }
                    // A full queue drops: gossip repeats itself.
                    FrameKind::Gossip => {
                        let sent = to_gossip.try_send((member, frame.bytes.to_vec()));
                        self.core.borrow_mut().counts.gossip_dropped += u64::from(sent.is_err());
                    }
                    FrameKind::Control => match Control::decode(frame.bytes) {
                        Ok(Control::Refused(refusal)) => {
                            self.refused_by(member, &refusal);
                            return None;
                        }
                        Ok(Control::SecretProof { key, proof }) => {
                            secrets::take_proof(self, member, link, KeyId(key), &proof);
                        }
                        _ => {}
                    },
                    FrameKind::Goodbye => return Some(String::from_utf8_lossy(frame.bytes).into_owned()),
                }
                next = match reader.next_buffered() {
                    Ok(frame) => frame,
                    Err(error) => return Some(error.to_string()),
                };
            }
        }
    }

    fn refused_by(self: &Rc<Self>, member: MemberId, refusal: &Refusal) {
        self.core.borrow_mut().counts.link_refused(refusal);
        let (name, address) = {
            let core = self.core.borrow();
            let entry = core.engine.roster().get(member).map(|known| known.entry.clone());
            entry.map_or_else(|| (member.to_string(), String::new()), |entry| (entry.name, entry.address))
        };
        self.note_refusal(&address, Some(&name), &format!("{name} refuses this member: {refusal}"));
        if *refusal == Refusal::Removed {
            departure::note_expelled(self, member, &name);
        }
        outdated::note(self, member, &name, refusal);
    }

    /// Sends gossip's letters over the links, ahead of data.
    pub(super) async fn carry_gossip(self: Rc<Self>, mut letters: mpsc::Receiver<(MemberId, Vec<u8>)>) {
        while let Some((member, bytes)) = letters.recv().await {
            let mut core = self.core.borrow_mut();
            let Core { links, counts, .. } = &mut *core;
            let Some(outgoing) = links.get_mut(&member) else {
                counts.gossip_dropped += 1;
                continue;
            };
            let sent =
                outgoing.writer.queue(FrameKind::Gossip, &bytes).and_then(|()| outgoing.writer.try_flush());
            match sent {
                Ok(true) => counts.frame_sent(bytes.len()),
                Ok(false) => {
                    counts.frame_sent(bytes.len());
                    wake(&mut outgoing.drain);
                }
                Err(LinkError::Full) => {
                    counts.gossip_dropped += 1;
                    wake(&mut outgoing.drain);
                }
                Err(error) => {
                    tracing::debug!(%member, %error, "gossip could not be sent");
                    drop(core);
                    self.with(|core| core.drop_link(member));
                }
            }
        }
    }

    /// Dials every roster member and seed that has no link, for ever.
    pub(super) async fn dial_members(self: Rc<Self>) {
        let dialling: Rc<std::cell::RefCell<BTreeSet<String>>> = Rc::default();
        let mut waits: BTreeMap<String, Rc<Wait>> = BTreeMap::new();
        loop {
            sleep(DIAL_ROUND).await;
            let now_us = self.clock.now().mono_us;
            let targets = self.dial_targets();
            waits.retain(|address, _| targets.contains(address));
            for address in targets {
                let wait = Rc::clone(waits.entry(address.clone()).or_default());
                if wait.until_us.get() > now_us || !dialling.borrow_mut().insert(address.clone()) {
                    continue;
                }
                let (shared, dialling) = (Rc::clone(&self), Rc::clone(&dialling));
                tokio::task::spawn_local(async move {
                    let dialled = shared.dial(&address).await;
                    let attempt = wait.attempts.get();
                    wait.attempts.set(attempt.saturating_add(1));
                    let random = rand::rng().random::<u64>();
                    let delay = transport::retry_delay(attempt, random) + DIAL_ROUND;
                    let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
                    wait.until_us.set(shared.clock.now().mono_us.saturating_add(delay_us));
                    dialling.borrow_mut().remove(&address);
                    match dialled {
                        Ok(link) => {
                            shared.view.borrow_mut().answered(&address, link.peer.member);
                            let since_us = shared.clock.now().mono_us;
                            shared.admit(link, Side::Dialler, address).await;
                            // A link that ended at once is a failed attempt like any other.
                            if shared.clock.now().mono_us.saturating_sub(since_us) > LASTING_US {
                                wait.attempts.set(0);
                            }
                        }
                        Err(error) => shared.note_refusal(&address, None, &error.to_string()),
                    }
                });
            }
        }
    }

    /// Addresses of members without a link. A seed is asked only while some member is missing or
    /// nobody is linked: it may know a part of the cluster that this member was cut off from.
    fn dial_targets(&self) -> BTreeSet<String> {
        if !membership::is_member(self) {
            return BTreeSet::new();
        }
        let (core, view) = (self.core.borrow(), self.view.borrow());
        let me = core.engine.identity().member;
        let holders = core.engine.roster().holders();
        // One that lost its name stops, and comes back by itself under another.
        let others =
            core.engine.roster().members().filter(|(member, _)| *member != me && holders.contains(member));
        let mut targets: BTreeSet<String> = others
            .filter(|(member, _)| !core.links.contains_key(member))
            .map(|(_, known)| known.entry.address.clone())
            .collect();
        if core.links.is_empty() || !targets.is_empty() {
            let linked: BTreeSet<&str> = core
                .engine
                .roster()
                .members()
                .filter(|(member, _)| core.links.contains_key(member))
                .map(|(_, known)| known.entry.address.as_str())
                .collect();
            let is_linked = |seed: &&String| {
                linked.contains(seed.as_str())
                    || view.who_answered(seed).is_some_and(|member| core.links.contains_key(&member))
            };
            let seeds = self.config.seeds.iter().filter(|seed| !is_linked(seed));
            targets.extend(seeds.cloned());
        }
        targets.remove(&view.address);
        targets.retain(|address| !view.own_addresses.contains(address));
        targets
    }
}

#[derive(Debug, Default)]
struct Wait {
    attempts: Cell<u32>,
    until_us: Cell<u64>,
}

/// Sends what a socket did not take at once, for as long as the link stands.
async fn drain(shared: Rc<Shared>, member: MemberId, link: u64) {
    std::future::poll_fn(|context| {
        let mut core = shared.core.borrow_mut();
        let Some(outgoing) = core.links.get_mut(&member).filter(|outgoing| outgoing.link == link) else {
            return Poll::Ready(());
        };
        loop {
            if outgoing.writer.buffered() == 0 {
                outgoing.drain = Some(context.waker().clone());
                return Poll::Pending;
            }
            let flushed = match outgoing.writer.poll_writable(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => outgoing.writer.try_flush(),
                Poll::Ready(Err(error)) => Err(error),
            };
            match flushed {
                // What was held back while the buffer was full may go now.
                Ok(true) => context.waker().wake_by_ref(),
                Ok(false) => continue,
                Err(_) => {
                    outgoing.end.notify_one();
                    return Poll::Ready(());
                }
            }
            drop(core);
            shared.with(|_| ());
            return Poll::Pending;
        }
    })
    .await;
}

pub(super) fn name_is_taken(roster: &Roster, member: MemberId, name: &str) -> bool {
    roster.holder_of(name).is_some_and(|holder| holder != member)
}

/// Sends one control message and waits until it is on its way.
pub(super) async fn send_control(writer: &mut LinkWriter, message: &Control) -> bool {
    let queued = message.encode().is_ok_and(|bytes| writer.queue(FrameKind::Control, &bytes).is_ok());
    queued && timeout(CONTROL_DEADLINE, writer.flush()).await.is_ok_and(|flushed| flushed.is_ok())
}

/// The next control message of a link that is not admitted yet.
pub(super) async fn next_control(reader: &mut LinkReader) -> Option<Control> {
    let wait = async {
        loop {
            match reader.next().await {
                Ok(Some(frame)) if frame.kind == FrameKind::Control => {
                    return Control::decode(frame.bytes).ok();
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    };
    timeout(CONTROL_DEADLINE, wait).await.ok().flatten()
}
