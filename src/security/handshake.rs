//! The handshake of a link, as a state machine without a socket.
//!
//! `Noise_XXpsk3_25519_ChaChaPoly_SHA256` between two clear hellos and a confirmation:
//!
//! ```text
//! initiator → responder   hello                     (clear)
//! initiator ← responder   hello                     (clear)
//! initiator → responder   e
//! initiator ← responder   e, ee, s, es
//! initiator → responder   s, se, psk, introduction  (proves the secret)
//! initiator ← responder   sealed introduction       (proves it back)
//! ```
//!
//! The responder introduces itself only in the last message: until the third Noise message nothing
//! proves that the initiator knows the secret, and nothing at all would prove it of the responder.
//! The prologue is a hash of both hellos, so neither can be altered on the way.
//!
//! Invariants: a session exists only after the peer proved the secret in an exchange that contains a
//! fresh key of ours, so nothing recorded can be replayed or reflected. Any failure ends the machine
//! and leaves a short clear refusal to be sent. Whether the peer's key is the expected one, and
//! whether it may be here at all, is for the caller to decide from [`Established`].

use super::hello::{Agreement, Hello, ProtocolRange, Refusal, Role, agree, is_cluster_name};
use super::identity::Identity;
use super::seal::{Opener, Sealer};
use super::secret::{KeyId, Keyring};
use crate::model::MemberId;
use ring::digest;
use snow::{Builder, HandshakeState, StatelessTransportState};
use std::fmt;
use std::sync::Arc;

const NOISE: &str = "Noise_XXpsk3_25519_ChaChaPoly_SHA256";
const PROLOGUE_LABEL: &[u8] = b"kith 2026 link";
const PSK_POSITION: u8 = 3;

const KIND_HELLO: u8 = 1;
const KIND_NOISE: u8 = 2;
const KIND_REFUSAL: u8 = 3;

/// Bytes in front of each handshake message: kind and length.
pub const HEAD_BYTES: usize = 3;
/// Bytes of what a side may tell about itself.
pub const MAX_INTRODUCTION_BYTES: usize = 4_096;
/// Bytes of the largest message behind its head: an introduction, a key and two tags.
pub const MAX_MESSAGE_BYTES: usize = MAX_INTRODUCTION_BYTES + 32 + 2 * 16;

/// Why a handshake ended without a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// This side refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The other side refused; the reason is what it told, unprotected.
    #[error("refused by the other side: {0}")]
    RefusedByPeer(Refusal),
    /// The introduction is too long.
    #[error("an introduction has at most {MAX_INTRODUCTION_BYTES} bytes, this one has {0}")]
    IntroductionTooLong(usize),
    /// The cluster's name can't be told.
    #[error("a cluster's name has 1 to 63 characters of a-z, A-Z, 0-9, `_`, `-` and `.`")]
    ClusterName,
    /// The cipher suite could not be set up.
    #[error("the handshake's ciphers could not be set up: is the system's random generator available?")]
    Cipher,
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a member is and holds in all its handshakes.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The member's own key pair.
    pub identity: Identity,
    /// The valid secrets.
    pub keyring: Keyring,
    /// The cluster's name: see [`is_cluster_name`].
    pub cluster: String,
    /// The protocol versions that this member speaks.
    pub protocol: ProtocolRange,
}

/// What a successful handshake gives.
#[derive(Debug)]
pub struct Established {
    /// The peer's static public key, proved.
    pub public_key: [u8; 32],
    /// The id that belongs to it.
    pub member: MemberId,
    /// What the peer wants to be in this link.
    pub role: Role,
    /// The newest protocol version that both speak.
    pub protocol: u16,
    /// The secret that both proved.
    pub key: KeyId,
    /// Names this session and no other, the same on both sides. Not secret.
    pub binding: [u8; 32],
    /// What the peer told about itself, authenticated; at most [`MAX_INTRODUCTION_BYTES`].
    pub introduction: Vec<u8>,
    /// Seals what is sent.
    pub sealer: Sealer,
    /// Opens what is received.
    pub opener: Opener,
}

/// Where a handshake stands after a message.
#[derive(Debug)]
pub enum Progress {
    /// The peer's next message is needed.
    Continue,
    /// The session stands; whatever was written to `out` must still be sent.
    Done(Box<Established>),
}

enum Step {
    Hello,
    FirstNoise(Box<HandshakeState>, Agreement, Role),
    SecondNoise(Box<HandshakeState>, Agreement, Role),
    ThirdNoise(Box<HandshakeState>, Agreement, Role),
    Confirmation(Finished, Agreement, Role),
    Over,
}

/// One side of one handshake.
pub struct Handshake<'a> {
    credentials: &'a Credentials,
    introduction: &'a [u8],
    initiates: bool,
    hello: Hello,
    step: Step,
}

impl<'a> Handshake<'a> {
    /// The side that opened the connection; writes its first message to `out`.
    ///
    /// # Errors
    /// [`HandshakeError::IntroductionTooLong`], [`HandshakeError::ClusterName`].
    pub fn initiator(
        credentials: &'a Credentials,
        role: Role,
        introduction: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        let handshake = Self::new(credentials, role, introduction, true)?;
        out.extend_from_slice(&message(KIND_HELLO, |body| handshake.hello.encode(body)));
        Ok(handshake)
    }

    /// The side that accepted the connection.
    ///
    /// # Errors
    /// [`HandshakeError::IntroductionTooLong`], [`HandshakeError::ClusterName`].
    pub fn responder(
        credentials: &'a Credentials,
        role: Role,
        introduction: &'a [u8],
    ) -> Result<Self, HandshakeError> {
        Self::new(credentials, role, introduction, false)
    }

    fn new(
        credentials: &'a Credentials,
        role: Role,
        introduction: &'a [u8],
        initiates: bool,
    ) -> Result<Self, HandshakeError> {
        if introduction.len() > MAX_INTRODUCTION_BYTES {
            return Err(HandshakeError::IntroductionTooLong(introduction.len()));
        }
        if !is_cluster_name(credentials.cluster.as_bytes()) {
            return Err(HandshakeError::ClusterName);
        }
        let hello = Hello::new(credentials.protocol, role, &credentials.keyring, &credentials.cluster);
        Ok(Self { credentials, introduction, initiates, hello, step: Step::Hello })
    }

    /// Takes the peer's next whole message, head included, and appends what must be sent to `out`:
    /// the next message, or on an error the refusal that tells the peer why.
    ///
    /// # Errors
    /// Every error ends the handshake.
    pub fn receive(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let start = out.len();
        let result = self.take(message, out);
        if let Err(error) = &result {
            out.truncate(start);
            if let HandshakeError::Refused(refusal) = error {
                out.extend_from_slice(&refusal_message(refusal, self.credentials.protocol));
            }
        }
        result
    }

    fn take(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let step = std::mem::replace(&mut self.step, Step::Over);
        let (head, body) = message.split_first_chunk::<HEAD_BYTES>().ok_or(Refusal::Malformed)?;
        if body.len() != body_bytes(*head)? {
            return Err(Refusal::Malformed.into());
        }
        let [kind, _, _] = *head;
        if kind == KIND_REFUSAL {
            return Err(HandshakeError::RefusedByPeer(Refusal::decode(body, self.credentials.protocol)));
        }
        match (step, kind) {
            (Step::Hello, KIND_HELLO) => self.take_hello(message, body, out),
            (Step::FirstNoise(noise, agreement, role), KIND_NOISE) => {
                self.take_first(noise, agreement, role, body, out)
            }
            (Step::SecondNoise(noise, agreement, role), KIND_NOISE) => {
                self.take_second(noise, agreement, role, body, out)
            }
            (Step::ThirdNoise(noise, agreement, role), KIND_NOISE) => {
                self.take_third(noise, agreement, role, body, out)
            }
            (Step::Confirmation(finished, agreement, role), KIND_NOISE) => {
                let introduction = open_introduction(&finished.cipher, body)?;
                Ok(established(&finished, agreement, role, introduction, (0, 1)))
            }
            (
                Step::Hello
                | Step::FirstNoise(..)
                | Step::SecondNoise(..)
                | Step::ThirdNoise(..)
                | Step::Confirmation(..)
                | Step::Over,
                _,
            ) => Err(Refusal::Malformed.into()),
        }
    }

    fn take_hello(
        &mut self,
        theirs: &[u8],
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        let hello = Hello::decode(body, self.credentials.protocol)?;
        let is_retired = |id| self.credentials.keyring.is_retired(id);
        let agreement = agree(&self.hello, &hello, self.initiates, is_retired)?;
        let ours = message(KIND_HELLO, |body| self.hello.encode(body));
        let mut noise = self.noise(agreement, &ours, theirs)?;
        self.step = if self.initiates {
            write_noise(&mut noise, &[], out)?;
            Step::SecondNoise(noise, agreement, hello.role)
        } else {
            out.extend_from_slice(&ours);
            Step::FirstNoise(noise, agreement, hello.role)
        };
        Ok(Progress::Continue)
    }

    fn take_first(
        &mut self,
        mut noise: Box<HandshakeState>,
        agreement: Agreement,
        role: Role,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        read_empty(&mut noise, body)?;
        write_noise(&mut noise, &[], out)?;
        self.step = Step::ThirdNoise(noise, agreement, role);
        Ok(Progress::Continue)
    }

    fn take_second(
        &mut self,
        mut noise: Box<HandshakeState>,
        agreement: Agreement,
        role: Role,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        read_empty(&mut noise, body)?;
        write_noise(&mut noise, self.introduction, out)?;
        self.step = Step::Confirmation(finish(*noise)?, agreement, role);
        Ok(Progress::Continue)
    }

    fn take_third(
        &self,
        mut noise: Box<HandshakeState>,
        agreement: Agreement,
        role: Role,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        let introduction = read_noise(&mut noise, body)?;
        let finished = finish(*noise)?;
        let mut sealed = vec![0; self.introduction.len() + 16];
        let written = finished.cipher.write_message(0, self.introduction, &mut sealed);
        written.map_err(|_| HandshakeError::Cipher)?;
        out.extend_from_slice(&message(KIND_NOISE, |body| body.extend_from_slice(&sealed)));
        Ok(established(&finished, agreement, role, introduction, (1, 0)))
    }

    fn noise(
        &self,
        agreement: Agreement,
        ours: &[u8],
        theirs: &[u8],
    ) -> Result<Box<HandshakeState>, HandshakeError> {
        let keys = self.credentials.keyring.find(agreement.key).ok_or(Refusal::UnknownKeyId)?;
        let (first, second) = if self.initiates { (ours, theirs) } else { (theirs, ours) };
        let mut prologue = digest::Context::new(&digest::SHA256);
        for part in [PROLOGUE_LABEL, first, second] {
            prologue.update(part);
        }
        let prologue = prologue.finish();
        let build = || {
            let builder = Builder::new(NOISE.parse()?)
                .psk(PSK_POSITION, keys.link())?
                .local_private_key(self.credentials.identity.private_key())?
                .prologue(prologue.as_ref())?;
            if self.initiates { builder.build_initiator() } else { builder.build_responder() }
        };
        build().map(Box::new).map_err(|_: snow::Error| HandshakeError::Cipher)
    }
}

impl fmt::Debug for Handshake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("initiates", &self.initiates).finish_non_exhaustive()
    }
}

/// Bytes that follow this head.
///
/// # Errors
/// [`Refusal::Malformed`] when the head is not one of a handshake or its message would be over
/// [`MAX_MESSAGE_BYTES`].
pub fn body_bytes(head: [u8; HEAD_BYTES]) -> Result<usize, Refusal> {
    let [kind, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let bound = match kind {
        KIND_HELLO => super::hello::MAX_HELLO_BYTES,
        KIND_NOISE => MAX_MESSAGE_BYTES,
        KIND_REFUSAL => super::hello::REFUSAL_BYTES,
        _ => 0,
    };
    if (1..=bound).contains(&length) { Ok(length) } else { Err(Refusal::Malformed) }
}

/// The whole message that tells the peer why it is refused.
#[must_use]
pub fn refusal_message(refusal: &Refusal, ours: ProtocolRange) -> Vec<u8> {
    message(KIND_REFUSAL, |body| body.extend_from_slice(&refusal.encode(ours)))
}

fn message(kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0];
    write(&mut bytes);
    let length = u16::try_from(bytes.len() - HEAD_BYTES).unwrap_or(u16::MAX);
    if let Some(place) = bytes.get_mut(1..HEAD_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

fn write_noise(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut room = vec![0; MAX_MESSAGE_BYTES + 32];
    let written = noise.write_message(payload, &mut room).map_err(|_| HandshakeError::Cipher)?;
    room.truncate(written);
    out.extend_from_slice(&message(KIND_NOISE, |body| body.extend_from_slice(&room)));
    Ok(())
}

fn read_noise(noise: &mut HandshakeState, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut payload = vec![0; body.len()];
    let length = noise.read_message(body, &mut payload).map_err(|_| Refusal::Authentication)?;
    payload.truncate(length);
    if length <= MAX_INTRODUCTION_BYTES { Ok(payload) } else { Err(Refusal::Malformed) }
}

fn read_empty(noise: &mut HandshakeState, body: &[u8]) -> Result<(), Refusal> {
    if read_noise(noise, body)?.is_empty() { Ok(()) } else { Err(Refusal::Malformed) }
}

fn open_introduction(cipher: &StatelessTransportState, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut introduction = vec![0; body.len()];
    let length = cipher.read_message(0, body, &mut introduction).map_err(|_| Refusal::Authentication)?;
    introduction.truncate(length);
    if length <= MAX_INTRODUCTION_BYTES { Ok(introduction) } else { Err(Refusal::Malformed) }
}

/// What is left of Noise when its messages are over.
struct Finished {
    cipher: Arc<StatelessTransportState>,
    public_key: [u8; 32],
    binding: [u8; 32],
}

fn finish(noise: HandshakeState) -> Result<Finished, HandshakeError> {
    let key = noise.get_remote_static().and_then(|key| key.try_into().ok());
    let binding = noise.get_handshake_hash().try_into().ok();
    let cipher = noise.into_stateless_transport_mode().map_err(|_| HandshakeError::Cipher)?;
    Ok(Finished {
        cipher: Arc::new(cipher),
        public_key: key.ok_or(HandshakeError::Cipher)?,
        binding: binding.ok_or(HandshakeError::Cipher)?,
    })
}

/// The responder's confirmation used nonce 0 of its direction, so frames begin at `(send, receive)`.
fn established(
    finished: &Finished,
    agreement: Agreement,
    role: Role,
    introduction: Vec<u8>,
    (send, receive): (u64, u64),
) -> Progress {
    let Finished { cipher, public_key, binding } = finished;
    Progress::Done(Box::new(Established {
        public_key: *public_key,
        member: MemberId::of_public_key(public_key),
        role,
        protocol: agreement.protocol,
        key: agreement.key,
        binding: *binding,
        introduction,
        sealer: Sealer::new(Arc::clone(cipher), send),
        opener: Opener::new(Arc::clone(cipher), receive),
    }))
}
