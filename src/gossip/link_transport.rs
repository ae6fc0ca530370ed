//! chitchat's transport over the members' links: two bounded queues instead of datagrams.
//!
//! What chitchat sends is encoded and put into a queue that the node empties into links; what arrived on a
//! link comes back through another one, together with the member at the link's other end. Gossip repeats
//! itself, so a full queue drops its newest message, counts it, and never waits.
//!
//! Invariants: the sender of a message is the member whose link brought it; nothing is decoded before
//! [`inspect`] let it pass; a message that can't be decoded is counted and skipped.

use super::wire::{MAX_MESSAGE_BYTES, WireError, inspect};
use super::{address_of, member_at};
use crate::model::MemberId;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Mutex, mpsc};

/// Messages in each of the two queues: at most 64 MiB of the largest, a few hundred kilobytes in practice.
pub const QUEUE_MESSAGES: usize = 1_024;

/// A message to or from a member.
type Letter = (MemberId, Vec<u8>);

/// Gossip's ends of the two queues.
#[derive(Debug)]
pub struct Wires {
    /// What gossip sends: to whom, and the bytes.
    pub outgoing: mpsc::Sender<Letter>,
    /// What came: from whom, by the link's authenticated identity, and the bytes.
    pub incoming: mpsc::Receiver<Letter>,
}

/// The node's ends of the two queues.
#[derive(Debug)]
pub struct LinkEnd {
    /// What gossip wants sent; bytes to a member without a link are to be dropped.
    pub outgoing: mpsc::Receiver<Letter>,
    /// For what came on a link; to be filled with `try_send`, a full queue drops. Closing it ends gossip.
    pub incoming: mpsc::Sender<Letter>,
}

/// The two queues.
#[must_use]
pub fn wires() -> (Wires, LinkEnd) {
    let (to_links, from_gossip) = mpsc::channel(QUEUE_MESSAGES);
    let (to_gossip, from_links) = mpsc::channel(QUEUE_MESSAGES);
    (
        Wires { outgoing: to_links, incoming: from_links },
        LinkEnd { outgoing: from_gossip, incoming: to_gossip },
    )
}

/// What happened on the wires; read for metrics.
#[derive(Debug, Default)]
pub struct GossipCounters {
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages decoded and given to chitchat.
    pub received: AtomicU64,
    /// Messages dropped because the queue to the links was full.
    pub dropped: AtomicU64,
    /// Messages refused before or by decoding.
    pub refused: AtomicU64,
    /// Times that chitchat's task ended and was started again.
    pub restarts: AtomicU64,
}

/// Implements chitchat's transport; cheap to clone, all clones share the queues.
#[derive(Debug, Clone)]
pub struct LinkTransport {
    outgoing: mpsc::Sender<Letter>,
    // Shared with the socket, because the queue outlives a chitchat that ends and is started again.
    incoming: Arc<Mutex<mpsc::Receiver<Letter>>>,
    counters: Arc<GossipCounters>,
}

impl LinkTransport {
    /// A transport over these queues.
    #[must_use]
    pub fn new(wires: Wires, counters: Arc<GossipCounters>) -> Self {
        Self { outgoing: wires.outgoing, incoming: Arc::new(Mutex::new(wires.incoming)), counters }
    }

    /// Whether the node has gone: it neither takes nor gives messages any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.outgoing.is_closed() || self.incoming.try_lock().is_ok_and(|queue| queue.is_closed())
    }
}

#[async_trait]
impl Transport for LinkTransport {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(self.clone()))
    }
}

/// The node closed its end of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the links are gone: gossip ends with them")]
struct LinksGone;

#[async_trait]
impl Socket for LinkTransport {
    async fn send(&mut self, to: SocketAddr, msg: ChitchatMessage) -> anyhow::Result<()> {
        let Some(member) = member_at(to) else { return Ok(()) };
        let bytes = msg.serialize_to_vec();
        let counter = if bytes.len() > MAX_MESSAGE_BYTES {
            &self.counters.dropped
        } else {
            match self.outgoing.try_send((member, bytes)) {
                Ok(()) => &self.counters.sent,
                Err(mpsc::error::TrySendError::Full(_)) => &self.counters.dropped,
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(LinksGone.into()),
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let letter = self.incoming.lock().await.recv().await;
            let Some((member, bytes)) = letter else { return Err(LinksGone.into()) };
            match decode(&bytes) {
                Ok(message) => {
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    return Ok((address_of(member), message));
                }
                Err(error) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%member, %error, "refused a gossip message");
                }
            }
        }
    }
}

/// Inspects, then decodes; a panic of the foreign decoder is contained and becomes an error.
pub(super) fn decode(bytes: &[u8]) -> Result<ChitchatMessage, WireError> {
    inspect(bytes)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let mut rest = bytes;
        ChitchatMessage::deserialize(&mut rest)
    }));
    decoded.ok().and_then(Result::ok).ok_or(WireError::Undecodable)
}
