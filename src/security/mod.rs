//! Floor 3: the cluster secret, a member's identity, the handshake and the sealing of frames.
//!
//! The only user of snow and ring. A link begins with a handshake that proves the cluster secret
//! both ways and tells each side the other's static key ([`handshake`]); everything after it is
//! sealed ([`seal`]). Both are state machines without a socket: [`crate::transport`] carries their
//! bytes, keeps the deadline and counts who is waiting ([`limits`]).
//!
//! Invariants: nothing a peer says is acted on before it is authenticated, except to refuse it;
//! what is read before that is bounded by [`handshake::MAX_MESSAGE_BYTES`]; secrets and private keys
//! are wiped when dropped and never shown by `Debug` or an error.

pub mod handshake;
pub mod held;
pub mod hello;
pub mod identity;
pub mod limits;
pub mod operator;
pub mod seal;
pub mod secret;
pub mod tls;
pub mod trust;

pub use handshake::{Credentials, Established, Handshake, HandshakeError, Progress};
pub use held::{Ring, RingError};
pub use hello::{ProtocolRange, Refusal, Role};
pub use identity::{Identity, IdentityError};
pub use limits::{Gate, GateFull, HANDSHAKE_DEADLINE, MAX_PENDING_PER_ADDRESS, Permit};
pub use seal::{Advance, Opener, SealError, Sealer};
pub use secret::{ClusterKeys, KeyId, Keyring, Secret, SecretError};
