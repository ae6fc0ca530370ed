//! What proves to a member that a person knows the cluster secret, without showing it.
//!
//! The proof is a moment and its MAC under a key that HKDF makes from the stretched secret under a label of
//! its own. So it says nothing about the secret or about any other key: links prove another key, in a
//! handshake to which both sides add fresh random numbers, and no part of a proof could be played back in one.
//! A proof itself could be, to the same cluster, for [`LIFETIME_S`]; so members believe it only where
//! nobody reads along (on their own machine, where who can read along could read the secret's file as
//! well, or inside TLS).

use super::secret::{ClusterKeys, KeyId, Keyring};
use ring::hmac;

/// How far a proof's moment may be from a member's clock, in seconds.
pub const LIFETIME_S: u64 = 60;

/// No client's token begins like this.
const PREFIX: &str = "kith-operator.";

/// A proof of this moment, in seconds since the Unix epoch.
#[must_use]
pub fn prove(keys: &ClusterKeys, unix_s: u64) -> String {
    let tag = hmac::sign(&key(keys), unix_s.to_string().as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{unix_s}.{hex}")
}

/// Whether a text means to be a proof.
#[must_use]
pub fn is_proof(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// By which of these keys it is one, and of now, if it is. Takes as long wherever it is wrong.
#[must_use]
pub fn verify(keyring: &Keyring, proof: &str, unix_s: u64) -> Option<KeyId> {
    let (moment, tag) = proof.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'))?;
    let tag = unhex(tag)?;
    let is_of_now = moment.parse::<u64>().is_ok_and(|then| then.abs_diff(unix_s) <= LIFETIME_S);
    let by = keyring.keys().find(|keys| hmac::verify(&key(keys), moment.as_bytes(), &tag).is_ok());
    by.map(ClusterKeys::id).filter(|_| is_of_now)
}

fn key(keys: &ClusterKeys) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, keys.operator())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    fn keys(secret: &str, cluster: &str) -> ClusterKeys {
        ClusterKeys::derive(&Secret::parse(secret).unwrap(), cluster).unwrap()
    }

    #[test]
    fn a_proof_holds_for_its_secret_cluster_and_minute() {
        let (right, old) = (keys("correct horse battery", "c"), keys("an older secret of it", "c"));
        let keyring = Keyring::new(right.clone(), Some(old.clone()));
        let proof = prove(&right, 1_000);
        assert!(is_proof(&proof));
        assert_eq!(verify(&keyring, &proof, 1_000 + LIFETIME_S), Some(right.id()));
        assert_eq!(verify(&keyring, &prove(&old, 1_000), 1_000 - LIFETIME_S), Some(old.id()));
        assert_eq!(verify(&keyring, &proof, 1_001 + LIFETIME_S), None);
        for stranger in [keys("another horse battery", "c"), keys("correct horse battery", "d")] {
            assert_eq!(verify(&keyring, &prove(&stranger, 1_000), 1_000), None);
        }
        let later = proof.replacen("1000", "1010", 1);
        let cut = proof.get(..proof.len() - 1).unwrap();
        for wrong in [later.as_str(), cut, &format!("{proof}0"), "kith-operator.", "kith-operator.1000.", "x"]
        {
            assert_eq!(verify(&keyring, wrong, 1_000), None, "{wrong}");
        }
    }

    #[test]
    fn a_proof_holds_nothing_of_the_keys() {
        let keys = keys("correct horse battery", "c");
        let proof = prove(&keys, 1_000);
        for key in [keys.link(), keys.operator()] {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!proof.contains(&hex));
        }
        assert_ne!(keys.link(), keys.operator());
    }
}
