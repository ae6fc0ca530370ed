//! What both sides say in the clear before they have a key: the hello, and the refusal.
//!
//! A hello tells the range of protocol versions, the cluster's name, the role and the ids of the
//! valid keys. From two hellos both sides compute the same agreement or the same kind of
//! refusal. Magic and protocol range keep their places for ever; what follows them is read only once
//! the ranges meet, so later versions may change it.
//!
//! Invariants: hellos are bounded by [`MAX_HELLO_BYTES`] and must be consumed whole; a name from
//! outside is plain ASCII, so it may be logged. The handshake's prologue covers both hellos, so an
//! altered one ends the handshake. A refusal is not protected by anything: it tells a person why, and
//! nothing else depends on it.

use super::secret::{KeyId, Keyring};
use crate::model::limits::MAX_NAME_BYTES;
use std::fmt;

/// The first bytes of every hello.
const MAGIC: &[u8; 4] = b"kith";
/// Keys that may be valid at once.
const MAX_KEYS: usize = 2;
/// Bytes of the longest hello: magic, range, role, two key ids and the longest name.
pub const MAX_HELLO_BYTES: usize = 4 + 4 + 1 + 1 + MAX_KEYS * 8 + 1 + MAX_NAME_BYTES;
/// Bytes of every refusal: a code and the refusing side's protocol range.
pub const REFUSAL_BYTES: usize = 5;

/// The protocol versions that a member speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl ProtocolRange {
    /// The newest version that both sides speak.
    #[must_use]
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a side wants to be in this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member of the cluster.
    Member,
    /// One that wants to become a member.
    Joining,
}

/// Why a handshake came to nothing. The texts are for whoever reads the log of either side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The sides belong to clusters of different names.
    #[error("the two sides belong to clusters of different names{}: check the cluster's name and the seeds in both configs", Named(.theirs))]
    WrongCluster {
        /// The other side's cluster, where it was heard.
        theirs: Option<String>,
    },
    /// No protocol version is spoken by both.
    #[error(
        "no common protocol version, this member speaks {ours} and the other {theirs}: \
         upgrade the older one, through a release in between if need be"
    )]
    IncompatibleProtocol {
        /// This member's versions.
        ours: ProtocolRange,
        /// The other side's.
        theirs: ProtocolRange,
    },
    /// The sides have no secret in common.
    #[error("the two sides have different cluster secrets: give both the same one")]
    UnknownKeyId,
    /// What the sides have in common is retired: one of them knows only a secret that the other accepts no more.
    #[error(
        "one of the two sides has only a cluster secret that was retired: put the new one into its file (`secret_file`) and start it again"
    )]
    RetiredSecret,
    /// A proof did not hold although the key's id was known.
    #[error("the proof of the cluster secret failed: something on the way alters or imitates handshakes")]
    Authentication,
    /// The handshake took too long.
    #[error("the handshake took too long: check the network and the load of both sides")]
    Timeout,
    /// Bytes that are no handshake.
    #[error("the other side does not speak kith's protocol between members: is the address right?")]
    Malformed,
    /// Too many handshakes are under way.
    #[error("too many handshakes are under way at the other side: trying again later will do")]
    Busy,
}

struct Named<'a>(&'a Option<String>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |name| write!(f, " (the other's is `{name}`)"))
    }
}

impl Refusal {
    /// The bytes that tell the other side.
    pub(super) fn encode(&self, ours: ProtocolRange) -> [u8; REFUSAL_BYTES] {
        let code = match self {
            Self::WrongCluster { .. } => 1,
            Self::IncompatibleProtocol { .. } => 2,
            Self::UnknownKeyId => 3,
            Self::Authentication => 4,
            Self::Timeout => 5,
            Self::Malformed => 6,
            Self::Busy => 7,
            Self::RetiredSecret => 8,
        };
        let [a, b] = ours.min.to_be_bytes();
        let [c, d] = ours.max.to_be_bytes();
        [code, a, b, c, d]
    }

    /// What the other side told; anything unknown is [`Refusal::Malformed`].
    pub(super) fn decode(bytes: &[u8], ours: ProtocolRange) -> Self {
        let Ok([code, a, b, c, d]) = <[u8; REFUSAL_BYTES]>::try_from(bytes) else {
            return Self::Malformed;
        };
        let theirs = ProtocolRange { min: u16::from_be_bytes([a, b]), max: u16::from_be_bytes([c, d]) };
        match code {
            1 => Self::WrongCluster { theirs: None },
            2 => Self::IncompatibleProtocol { ours, theirs },
            3 => Self::UnknownKeyId,
            4 => Self::Authentication,
            5 => Self::Timeout,
            7 => Self::Busy,
            8 => Self::RetiredSecret,
            _ => Self::Malformed,
        }
    }
}

/// What one side says in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub protocol: ProtocolRange,
    pub role: Role,
    /// The preferred first.
    pub keys: Vec<KeyId>,
    pub cluster: String,
}

impl Hello {
    pub(super) fn new(protocol: ProtocolRange, role: Role, keyring: &Keyring, cluster: &str) -> Self {
        let keys = keyring.keys().map(super::secret::ClusterKeys::id).collect();
        Self { protocol, role, keys, cluster: cluster.to_owned() }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.protocol.min.to_be_bytes());
        out.extend_from_slice(&self.protocol.max.to_be_bytes());
        out.push(match self.role {
            Role::Member => 0,
            Role::Joining => 1,
        });
        out.push(length_byte(self.keys.len()));
        for id in &self.keys {
            out.extend_from_slice(&id.0);
        }
        out.push(length_byte(self.cluster.len()));
        out.extend_from_slice(self.cluster.as_bytes());
    }

    /// Reads the other side's hello; `ours` decides whether there is any point in reading on.
    pub(super) fn decode(bytes: &[u8], ours: ProtocolRange) -> Result<Self, Refusal> {
        let mut input = Input(bytes);
        if input.array::<4>()? != *MAGIC {
            return Err(Refusal::Malformed);
        }
        let theirs = ProtocolRange {
            min: u16::from_be_bytes(input.array()?),
            max: u16::from_be_bytes(input.array()?),
        };
        if ours.agree(theirs).is_none() {
            return Err(Refusal::IncompatibleProtocol { ours, theirs });
        }
        let role = match input.array::<1>()? {
            [0] => Role::Member,
            [1] => Role::Joining,
            _ => return Err(Refusal::Malformed),
        };
        let [count] = input.array()?;
        if !(1..=MAX_KEYS).contains(&usize::from(count)) {
            return Err(Refusal::Malformed);
        }
        let keys = (0..count).map(|_| input.array().map(KeyId)).collect::<Result<_, _>>()?;
        let [length] = input.array()?;
        let cluster = input.rest(usize::from(length))?;
        Ok(Self { protocol: theirs, role, keys, cluster })
    }
}

/// What two hellos lead to; the same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreement {
    pub protocol: u16,
    pub key: KeyId,
}

/// Computes the newest common protocol and the first of the initiator's keys that both have. `is_retired` tells secrets
/// that this side accepted once, so that who comes with one learns why it is refused.
pub(super) fn agree(
    ours: &Hello,
    theirs: &Hello,
    we_initiate: bool,
    is_retired: impl Fn(KeyId) -> bool,
) -> Result<Agreement, Refusal> {
    let protocol = ours
        .protocol
        .agree(theirs.protocol)
        .ok_or(Refusal::IncompatibleProtocol { ours: ours.protocol, theirs: theirs.protocol })?;
    if ours.cluster != theirs.cluster {
        return Err(Refusal::WrongCluster { theirs: Some(theirs.cluster.clone()) });
    }
    let (first, second) = if we_initiate { (ours, theirs) } else { (theirs, ours) };
    let key = first.keys.iter().find(|id| second.keys.contains(id)).copied();
    let unknown = || {
        let retired = theirs.keys.iter().any(|id| is_retired(*id));
        if retired { Refusal::RetiredSecret } else { Refusal::UnknownKeyId }
    };
    Ok(Agreement { protocol, key: key.ok_or_else(unknown)? })
}

/// Whether a cluster's name may stand in a hello: 1 to [`MAX_NAME_BYTES`] plain characters.
#[must_use]
pub fn is_cluster_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Refusal::Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    fn rest(&mut self, length: usize) -> Result<String, Refusal> {
        if self.0.len() != length || !is_cluster_name(self.0) {
            return Err(Refusal::Malformed);
        }
        String::from_utf8(self.0.to_vec()).map_err(|_| Refusal::Malformed)
    }
}

fn length_byte(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RANGE: ProtocolRange = ProtocolRange { min: 3, max: 5 };

    fn hello() -> Hello {
        Hello {
            protocol: RANGE,
            role: Role::Joining,
            keys: vec![KeyId([1; 8]), KeyId([2; 8])],
            cluster: "orchard".to_owned(),
        }
    }

    fn encoded(hello: &Hello) -> Vec<u8> {
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_hello_survives_its_bytes_and_every_cut_is_malformed() {
        let bytes = encoded(&hello());
        assert!(bytes.len() <= MAX_HELLO_BYTES);
        assert_eq!(Hello::decode(&bytes, RANGE), Ok(hello()));
        for cut in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..cut], RANGE), Err(Refusal::Malformed));
        }
        let longer = [bytes, vec![0]].concat();
        assert_eq!(Hello::decode(&longer, RANGE), Err(Refusal::Malformed));
    }

    #[test]
    fn a_later_version_may_change_everything_behind_its_range() {
        let theirs = ProtocolRange { min: 6, max: 9 };
        let bytes = [b"kith".as_slice(), &[0, 6, 0, 9], b"something new"].concat();
        let refusal = Hello::decode(&bytes, RANGE).unwrap_err();
        assert_eq!(refusal, Refusal::IncompatibleProtocol { ours: RANGE, theirs });
    }

    #[test]
    fn ranges_meet_at_the_newest_common_version() {
        let range = |min, max| ProtocolRange { min, max };
        assert_eq!(range(1, 3).agree(range(2, 7)), Some(3));
        assert_eq!(range(2, 7).agree(range(1, 3)), Some(3));
        assert_eq!(range(1, 2).agree(range(3, 4)), None);
        assert_eq!(range(5, 4).agree(range(1, 9)), None, "a range that is upside down meets nothing");
    }

    #[test]
    fn both_sides_choose_the_initiators_first_common_key() {
        let other = Hello { keys: vec![KeyId([3; 8]), KeyId([2; 8])], ..hello() };
        let seen = agree(&hello(), &other, true, |_| false).unwrap();
        assert_eq!(seen, agree(&other, &hello(), false, |_| false).unwrap());
        assert_eq!(seen.key, KeyId([2; 8]));
        let stranger = Hello { keys: vec![KeyId([9; 8])], ..hello() };
        assert_eq!(agree(&hello(), &stranger, true, |_| false), Err(Refusal::UnknownKeyId));
        let late = agree(&hello(), &stranger, false, |id| id == KeyId([9; 8]));
        assert_eq!(late, Err(Refusal::RetiredSecret));
    }

    #[test]
    fn refusals_survive_their_bytes() {
        let theirs = ProtocolRange { min: 7, max: 8 };
        for refusal in [
            Refusal::WrongCluster { theirs: None },
            Refusal::IncompatibleProtocol { ours: RANGE, theirs },
            Refusal::UnknownKeyId,
            Refusal::Authentication,
            Refusal::Timeout,
            Refusal::Malformed,
            Refusal::Busy,
            Refusal::RetiredSecret,
        ] {
            assert_eq!(Refusal::decode(&refusal.encode(theirs), RANGE), refusal);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = bytes;
            let _ = Hello::decode(&bytes, RANGE);
            let _ = Refusal::decode(&bytes, RANGE);
            bytes.splice(0..0, encoded(&hello())[..9].iter().copied());
            if let Ok(read) = Hello::decode(&bytes, RANGE) {
                prop_assert_eq!(encoded(&read), bytes);
            }
        }
    }
}
