//! Tokens: what clients show, and what they may do then.
//!
//! A token is text, `kith_NAME_SECRET`, of which the cluster keeps only a hash: one record of
//! [`super::key::TOKENS`] under the token's name, on every member; a revoked token is a tombstone. The
//! secret part has 256 random bits, so one fast hash is enough: nobody can go through them, however
//! quick each try is.
//!
//! Invariants: the secret is never kept and never shown; comparing takes as long for a wrong secret as
//! for a right one; a record that can't be read counts as a token that nobody has, so that what a newer
//! version wrote never opens a cluster that its owner closed.

use super::key::SYSTEM_PREFIX;
use super::limits::{MAX_COLLECTION_BYTES, MAX_NAME_BYTES};
use super::roster::is_name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Tokens in one cluster.
pub const MAX_TOKENS: usize = 1_000;
/// Grants of one token.
pub const MAX_GRANTS: usize = 16;
/// Bytes of the text of a token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 256;

const TEXT_PREFIX: &str = "kith_";
const HASH_LABEL: &str = "kith 2026 client token";

/// What may be done; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reading, listing, watching.
    Read,
    /// Changing keys.
    Write,
    /// Tokens of the same collections; over all collections also everything that is about the cluster.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// The role's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is `read`, `write` or `admin`")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// Stands for all names, and behind a beginning for those that begin with it.
const ANY: char = '*';

/// A role in one collection, or in all whose names begin with the same characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// What may be done there.
    pub role: Role,
    /// The name of a collection; or how names begin with `*` behind it, and then all those are meant; `*` for all.
    pub collections: String,
}

impl Grant {
    /// A role in all collections.
    #[must_use]
    pub fn everywhere(role: Role) -> Self {
        Self { role, collections: ANY.into() }
    }

    /// Whether it is about all collections.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.prefix() == Some("")
    }

    /// How the names of the collections begin, unless it is about one only.
    fn prefix(&self) -> Option<&str> {
        self.collections.strip_suffix(ANY)
    }

    /// Whether it names collections as [`Self::collections`] says, and none of kith's own.
    fn check(&self) -> Result<(), TokenError> {
        if self.collections.starts_with(SYSTEM_PREFIX) {
            return Err(TokenError::SystemCollections);
        }
        let name = self.prefix().unwrap_or(&self.collections);
        let is_named = self.prefix().is_some() || !name.is_empty();
        if !is_named || name.len() > MAX_COLLECTION_BYTES || !name.bytes().all(is_plain) {
            return Err(TokenError::Collections);
        }
        Ok(())
    }

    /// Whether it is about a collection; or, of what another grant names, about all of that.
    fn covers(&self, collections: &str) -> bool {
        match self.prefix() {
            Some(prefix) => collections.starts_with(prefix),
            None => collections == self.collections,
        }
    }

    /// Whether it allows `role` in a collection. kith's own collections take an admin of everything.
    #[must_use]
    pub fn allows(&self, role: Role, collection: &str) -> bool {
        if collection.starts_with(SYSTEM_PREFIX) {
            return self.is_admin_of_all();
        }
        self.role >= role && self.covers(collection)
    }

    /// Whether it is about everything, the cluster itself included.
    #[must_use]
    pub fn is_admin_of_all(&self) -> bool {
        self.role == Role::Admin && self.is_everywhere()
    }

    /// Whether who has this may hand out and take back the other one.
    #[must_use]
    pub fn governs(&self, other: &Self) -> bool {
        self.role == Role::Admin && self.covers(&other.collections)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everywhere() {
            return write!(f, "{} in all collections", self.role);
        }
        write!(f, "{} in `{}`", self.role, self.collections)
    }
}

/// Why a token can't be as it was asked for. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The name has a bad length or character.
    #[error("a token's name has 1 to {MAX_NAME_BYTES} characters of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    Name,
    /// What names collections has a bad length or character.
    #[error(
        "collections are a name, 1 to {MAX_COLLECTION_BYTES} characters of a-z, A-Z, 0-9, `_`, `-` and `.`; or the beginning of names and `*` behind it; or `*` for all"
    )]
    Collections,
    /// kith's own collections can't be granted apart.
    #[error("collections that begin with `{SYSTEM_PREFIX}` go with the role `admin` in all collections")]
    SystemCollections,
    /// It would allow nothing, or has too many parts.
    #[error("a token has 1 to {MAX_GRANTS} grants")]
    Grants,
}

/// What is kept of a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What it allows.
    pub grants: Vec<Grant>,
    hash: [u8; blake3::OUT_LEN],
}

impl Token {
    /// What is to be kept of a new token, and its text for whoever is to use it. `secret` are random
    /// letters and digits.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn create(
        name: &str,
        secret: &str,
        grants: Vec<Grant>,
        created_ms: u64,
    ) -> Result<(Self, String), TokenError> {
        if !is_name(name) {
            return Err(TokenError::Name);
        }
        check_grants(&grants)?;
        let hash = *hash_of(name, secret).as_bytes();
        Ok((Self { created_ms, grants, hash }, format!("{TEXT_PREFIX}{name}_{secret}")))
    }

    /// Whether the token allows `role` in a collection.
    #[must_use]
    pub fn allows(&self, role: Role, collection: &str) -> bool {
        self.grants.iter().any(|grant| grant.allows(role, collection))
    }

    /// Whether the token is an admin's of everything.
    #[must_use]
    pub fn is_admin_of_all(&self) -> bool {
        self.grants.iter().any(Grant::is_admin_of_all)
    }

    /// Whether who has this token may make and revoke one with these grants.
    #[must_use]
    pub fn governs(&self, grants: &[Grant]) -> bool {
        grants.iter().all(|other| self.grants.iter().any(|grant| grant.governs(other)))
    }

    /// The value of its record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings, a number and a fixed array: nothing that JSON can't express.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a record says, if all of its grants say something today: else it would be a token that lets its holder
    /// in and opens nothing, or less than whoever made it meant.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let token: Self = serde_json::from_slice(bytes).ok()?;
        check_grants(&token.grants).is_ok().then_some(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("grants", &self.grants).finish_non_exhaustive()
    }
}

/// The tokens of a cluster, as one member knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    by_name: BTreeMap<String, Arc<Token>>,
    /// Names of records that can't be read.
    unreadable: BTreeSet<String>,
}

impl Tokens {
    /// The tokens that follow from the names and values of the live records.
    pub fn from_records<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut tokens = Self::default();
        for (name, value) in records {
            match (std::str::from_utf8(name), Token::decode(value)) {
                (Ok(name), Some(token)) => _ = tokens.by_name.insert(name.to_owned(), Arc::new(token)),
                _ => _ = tokens.unreadable.insert(String::from_utf8_lossy(name).into_owned()),
            }
        }
        tokens
    }

    /// Whether no token was made: then clients are judged by where they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.unreadable.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len() + self.unreadable.len()
    }

    /// The token of this text, with its name.
    #[must_use]
    pub fn authenticate(&self, text: &str) -> Option<(&str, &Arc<Token>)> {
        if text.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (name, secret) = text.strip_prefix(TEXT_PREFIX)?.rsplit_once('_')?;
        let shown = hash_of(name, secret);
        let (name, token) = self.by_name.get_key_value(name)?;
        // Comparing two of blake3's hashes takes the same time wherever they differ.
        (blake3::Hash::from_bytes(token.hash) == shown).then_some((name.as_str(), token))
    }

    /// The token of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Token>> {
        self.by_name.get(name)
    }

    /// Whether there is a token of a name that can't be read.
    #[must_use]
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(name)
    }

    /// Names of tokens that can't be read: what they allow is not known, and nobody is let in with them.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.unreadable.iter().map(String::as_str)
    }

    /// Every token that can be read, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Token>)> {
        self.by_name.iter().map(|(name, token)| (name.as_str(), token))
    }
}

fn check_grants(grants: &[Grant]) -> Result<(), TokenError> {
    if !(1..=MAX_GRANTS).contains(&grants.len()) {
        return Err(TokenError::Grants);
    }
    grants.iter().try_for_each(Grant::check)
}

fn hash_of(name: &str, secret: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_LABEL);
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(secret.as_bytes());
    hasher.finalize()
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, secret: &str, grants: &[(Role, &str)]) -> (Token, String) {
        let grant = |(role, names): &(Role, &str)| Grant { role: *role, collections: (*names).to_owned() };
        Token::create(name, secret, grants.iter().map(grant).collect(), 7).unwrap()
    }

    fn tokens(all: &[(&str, &Token)]) -> Tokens {
        let records: Vec<_> = all.iter().map(|(name, token)| (name.as_bytes(), token.encode())).collect();
        Tokens::from_records(records.iter().map(|(name, value)| (*name, value.as_slice())))
    }

    #[test]
    fn only_the_whole_text_of_a_token_is_one() {
        let (one, text) = token("a_b", "secret", &[(Role::Read, "*")]);
        let (two, other) = token("a", "secret", &[(Role::Admin, "*")]);
        assert_ne!(one.hash, two.hash, "the name is part of what is hashed");
        let all = tokens(&[("a_b", &one), ("a", &two)]);
        assert_eq!(all.authenticate(&text).unwrap().0, "a_b");
        assert_eq!(all.authenticate(&other).unwrap().1.grants, two.grants);
        let longer = format!("{text}x");
        for wrong in ["", "kith_", "kith__", "kith_a_b_", "kith_a_b_Secret", "a_b_secret", "kith_c_secret"] {
            assert!(all.authenticate(wrong).is_none(), "{wrong}");
        }
        assert!(all.authenticate(&longer).is_none());
        assert!(all.authenticate(&format!("kith_a_{}", "x".repeat(MAX_TOKEN_BYTES))).is_none());
    }

    #[test]
    fn a_record_under_another_name_is_another_token() {
        let (one, _) = token("one", "secret", &[(Role::Admin, "*")]);
        assert!(tokens(&[("two", &one)]).authenticate("kith_two_secret").is_none());
    }

    #[test]
    fn a_grant_holds_for_its_role_and_below_in_its_collections() {
        let (limited, _) =
            token("t", "s", &[(Role::Write, "app.*"), (Role::Read, "shared"), (Role::Read, "1")]);
        for (role, collection, allowed) in [
            (Role::Read, "app.users", true),
            (Role::Write, "app.users", true),
            (Role::Admin, "app.users", false),
            (Role::Read, "app", false),
            (Role::Read, "shared", true),
            (Role::Read, "shared2", false),
            (Role::Read, "share", false),
            (Role::Read, "1", true),
            (Role::Read, "12", false),
            (Role::Write, "shared", false),
            (Role::Read, "_system_tokens", false),
        ] {
            assert_eq!(limited.allows(role, collection), allowed, "{role} {collection}");
        }
        let (writer, _) = token("t", "s", &[(Role::Write, "*")]);
        assert!(writer.allows(Role::Write, "any") && !writer.allows(Role::Read, "_system_roster"));
        let (admin, _) = token("t", "s", &[(Role::Admin, "*")]);
        assert!(admin.allows(Role::Read, "_system_roster") && admin.is_admin_of_all());
    }

    #[test]
    fn an_admin_of_some_collections_governs_tokens_of_these_alone() {
        let (admin, _) =
            token("t", "s", &[(Role::Admin, "app.*"), (Role::Admin, "one"), (Role::Write, "other")]);
        let grants = |all: &[(Role, &str)]| token("u", "s", all).0.grants;
        for governed in ["app.*", "app.users", "app.users*", "app.", "one"] {
            assert!(admin.governs(&grants(&[(Role::Admin, governed)])), "{governed}");
        }
        for not_governed in ["*", "app*", "app", "one*", "on*", "one2", "other"] {
            assert!(
                !admin.governs(&grants(&[(Role::Read, "app.users"), (Role::Read, not_governed)])),
                "{not_governed}"
            );
        }
        assert!(!admin.is_admin_of_all() && !admin.allows(Role::Read, "_system_tokens"));
    }

    #[test]
    fn what_can_not_be_a_token_is_refused() {
        let everywhere = || vec![Grant::everywhere(Role::Read)];
        let names = |text: &str| vec![Grant { role: Role::Read, collections: text.to_owned() }];
        for (name, grants, error) in [
            ("", everywhere(), TokenError::Name),
            ("a b", everywhere(), TokenError::Name),
            (&*"n".repeat(MAX_NAME_BYTES + 1), everywhere(), TokenError::Name),
            ("a", vec![], TokenError::Grants),
            ("a", vec![Grant::everywhere(Role::Read); MAX_GRANTS + 1], TokenError::Grants),
            ("a", names("a/b"), TokenError::Collections),
            ("a", names(""), TokenError::Collections),
            ("a", names("a*b"), TokenError::Collections),
            ("a", names("**"), TokenError::Collections),
            ("a", names(&"c".repeat(MAX_COLLECTION_BYTES + 1)), TokenError::Collections),
            ("a", names("_system_settings"), TokenError::SystemCollections),
            ("a", names("_system_*"), TokenError::SystemCollections),
        ] {
            assert_eq!(Token::create(name, "s", grants, 0).unwrap_err(), error, "{name}");
        }
    }

    #[test]
    fn a_record_that_can_not_be_read_keeps_the_cluster_closed() {
        let tokens = Tokens::from_records([(&b"new"[..], &b"\x02from a newer version"[..])].into_iter());
        assert!(!tokens.is_empty() && tokens.len() == 1 && tokens.iter().next().is_none());
        assert!(tokens.authenticate("kith_new_secret").is_none());
    }

    #[test]
    fn a_record_with_a_grant_that_names_no_collections_of_today_can_not_be_read() {
        let (good, text) = token("t", "s", &[(Role::Read, "a")]);
        for names in ["", "a/b", "a*b", "_system_tokens", &"c".repeat(MAX_COLLECTION_BYTES + 1)] {
            let strange = Grant { role: Role::Read, collections: names.to_owned() };
            let stored = Token { grants: [&good.grants[..], &[strange]].concat(), ..good.clone() };
            let tokens = tokens(&[("t", &stored)]);
            assert!(tokens.is_unreadable("t") && tokens.get("t").is_none(), "{names}");
            assert!(!tokens.is_empty() && tokens.authenticate(&text).is_none(), "{names}");
        }
        for number in [0, MAX_GRANTS + 1] {
            let grants = vec![Grant::everywhere(Role::Read); number];
            assert!(tokens(&[("t", &Token { grants, ..good.clone() })]).is_unreadable("t"), "{number}");
        }
        assert!(!tokens(&[("t", &good)]).is_unreadable("t"));
    }

    #[test]
    fn nothing_secret_is_shown_or_stored() {
        let (token, text) = token("t", "thesecretpart", &[(Role::Read, "*")]);
        assert!(text.contains("thesecretpart"));
        let shown = format!("{token:?} {}", String::from_utf8(token.encode()).unwrap());
        assert!(!shown.contains("thesecretpart"));
        assert!(!format!("{token:?}").contains("hash"));
    }
}
