//! What a connection listens to: channels and patterns of channels, of which those that tell of changed keys carry
//! messages.
//!
//! Redis names such channels `__keyspace@DATABASE__:KEY`, whose messages are what became of the key, and
//! `__keyevent@DATABASE__:EVENT`, whose messages are keys. A channel or pattern is one subscription at this member,
//! of as few keys as its name tells; what comes of it is compared with the name again. Channels of other names may be
//! listened to, and nobody ever speaks there.
//!
//! Messages are kept apart from replies until they can stand between two of them, and are bounded: who does not read
//! is cut off, for what it would be told later would lack something.

use std::collections::BTreeMap;

use super::glob;
use super::reply::Encoder;
use crate::model::key::DEFAULT;
use crate::model::limits::MAX_KEY_BYTES;
use crate::node::local::{ChangeKind, Interest, Kinds, NamedChange, Subscription};

/// Channels and patterns of one connection.
pub const MAX_NAMES: usize = 1_024;
/// Those of them that tell of changed keys: each may be a feed of its own, of which a member has only so many.
pub const MAX_SUBSCRIPTIONS: usize = 64;

const KEYSPACE: &str = "__keyspace@";
const KEYEVENT: &str = "__keyevent@";
const KINDS: [ChangeKind; 4] =
    [ChangeKind::Set, ChangeKind::Delete, ChangeKind::Expire, ChangeKind::Increment];

/// Patterns among them. Each is compared with every change that it may match.
pub const MAX_PATTERNS: usize = 64;
/// Bytes of a name: a key and what stands around it.
pub const MAX_NAME_BYTES: usize = MAX_KEY_BYTES + 64;
/// Bytes of all names of a connection.
pub const MAX_ALL_BYTES: usize = 64 << 10;
/// How a client names what it listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A channel by its name.
    Channel,
    /// All channels that match a pattern.
    Pattern,
}

/// What a connection listens to.
#[derive(Debug, Default)]
pub struct Listening {
    names: BTreeMap<(Kind, Vec<u8>), Option<Subscription>>,
    of: BTreeMap<Subscription, (Kind, Vec<u8>)>,
    /// The collections that are listened to, but for what is of all of them.
    collections: BTreeMap<Subscription, String>,
    channels: usize,
    bytes: usize,
}

impl Listening {
    /// Whether it listens to anything.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Channels and patterns together.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Channels, and patterns.
    pub fn counts(&self) -> (usize, usize) {
        (self.channels, self.names.len() - self.channels)
    }

    /// Bytes of all names together.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it listens to that already.
    pub fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.names.contains_key(&(kind, name.to_vec()))
    }

    /// What it gets changes by.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = Subscription> {
        self.of.keys().copied()
    }

    /// The collections of which it gets changes, each of which it named.
    pub fn collections(&self) -> impl Iterator<Item = &str> {
        self.collections.values().map(String::as_str)
    }

    /// All names of a kind.
    pub fn names(&self, kind: Kind) -> Vec<Vec<u8>> {
        self.names.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Listens to one more, under a subscription if it is about keys.
    pub fn add(&mut self, kind: Kind, name: &[u8], subscription: Option<Subscription>) {
        self.channels += usize::from(kind == Kind::Channel);
        self.bytes += name.len();
        self.names.insert((kind, name.to_vec()), subscription);
        if let Some(subscription) = subscription {
            self.of.insert(subscription, (kind, name.to_vec()));
            let collection = interest(kind, name).and_then(|(interest, _)| interest.collection);
            self.collections.extend(collection.map(|collection| (subscription, collection)));
        }
    }

    /// Listens to one no more; gives the subscription that ends.
    pub fn remove(&mut self, kind: Kind, name: &[u8]) -> Option<Subscription> {
        let subscription = self.names.remove(&(kind, name.to_vec()))?;
        self.channels -= usize::from(kind == Kind::Channel);
        self.bytes -= name.len();
        subscription.inspect(|subscription| {
            self.of.remove(subscription);
            self.collections.remove(subscription);
        })
    }

    /// Encodes what changes of a subscription say on the channels that are listened to. Returns how many steps that
    /// took, at most.
    pub fn tell(&self, subscription: Subscription, change: &NamedChange, out: &mut Encoder<'_>) -> usize {
        let Some((kind, name)) = self.of.get(&subscription) else { return 1 };
        let Some(database) = database_of(&change.collection) else { return 1 };
        let event = event(change.kind);
        let mut keyspace = format!("{KEYSPACE}{database}__:").into_bytes();
        keyspace.extend_from_slice(&change.key);
        let keyevent = format!("{KEYEVENT}{database}__:{event}").into_bytes();
        let steps = match kind {
            Kind::Channel => name.len(),
            Kind::Pattern => glob::steps(name, &keyspace) + glob::steps(name, &keyevent),
        };
        for (channel, message) in [(keyspace, event.as_bytes()), (keyevent, change.key.as_slice())] {
            match kind {
                Kind::Channel if *name == channel => {
                    out.push(3);
                    out.bulk(b"message");
                }
                Kind::Pattern if glob::matches(name, &channel) => {
                    out.push(4);
                    out.bulk(b"pmessage");
                    out.bulk(name);
                }
                Kind::Channel | Kind::Pattern => continue,
            }
            out.bulk(&channel);
            out.bulk(message);
        }
        steps
    }
}

/// What Redis calls it.
const fn event(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Set => "set",
        ChangeKind::Delete => "del",
        ChangeKind::Expire => "expired",
        ChangeKind::Increment => "incrby",
    }
}

/// The database that a collection is, if it is one.
pub fn database_of(collection: &str) -> Option<u16> {
    match collection {
        DEFAULT => Some(0),
        name => name.parse::<u16>().ok().filter(|number| *number > 0 && number.to_string() == name),
    }
}

/// What must be heard of to tell what a channel or pattern tells; `None` if that is nothing.
pub fn interest(kind: Kind, name: &[u8]) -> Option<(Interest, Kinds)> {
    let known = match kind {
        Kind::Channel => name.to_vec(),
        Kind::Pattern => glob::literal_prefix(name),
    };
    let is_whole = kind == Kind::Channel;
    if let Some(rest) = known.strip_prefix(KEYSPACE.as_bytes()) {
        return match split(rest) {
            Some((collection, key)) => {
                Some((Interest { collection: Some(collection), prefix: key }, Kinds::ALL))
            }
            None => (!is_whole).then(all),
        };
    }
    if let Some(rest) = known.strip_prefix(KEYEVENT.as_bytes()) {
        return match split(rest) {
            Some((collection, known)) => {
                let fits = |kind: &&ChangeKind| {
                    let event = event(**kind).as_bytes();
                    if is_whole { event == known } else { event.starts_with(&known) }
                };
                let kinds = KINDS.iter().filter(fits).fold(Kinds::NONE, |kinds, kind| kinds.with(*kind));
                let interest = Interest { collection: Some(collection), prefix: Vec::new() };
                (kinds != Kinds::NONE).then_some((interest, kinds))
            }
            None => (!is_whole).then(all),
        };
    }
    let may_be = |beginning: &str| beginning.as_bytes().starts_with(&known);
    (!is_whole && (may_be(KEYSPACE) || may_be(KEYEVENT))).then(all)
}

fn all() -> (Interest, Kinds) {
    (Interest { collection: None, prefix: Vec::new() }, Kinds::ALL)
}

/// The collection and what follows it, of what stands behind the `@` of a channel's name.
fn split(rest: &[u8]) -> Option<(String, Vec<u8>)> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, tail) = rest.split_at_checked(digits)?;
    let tail = tail.strip_prefix(b"__:")?;
    let number = std::str::from_utf8(number).ok()?;
    let collection = if number == "0" { DEFAULT.to_owned() } else { number.to_owned() };
    database_of(&collection).map(|_| (collection, tail.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::reply::Protocol;

    fn asked(kind: Kind, name: &str) -> Option<(Option<String>, String, Kinds)> {
        let (Interest { collection, prefix }, kinds) = interest(kind, name.as_bytes())?;
        Some((collection, String::from_utf8(prefix).unwrap(), kinds))
    }

    #[test]
    fn a_name_asks_for_as_few_keys_as_it_tells() {
        let of = |collection: &str, prefix: &str, kinds| {
            Some((Some(collection.to_owned()), prefix.to_owned(), kinds))
        };
        let all = Some((None, String::new(), Kinds::ALL));
        let deleted = Kinds::of(ChangeKind::Delete);
        let set = Kinds::of(ChangeKind::Set);
        for (kind, name, expected) in [
            (Kind::Channel, "__keyspace@0__:user:1", of("default", "user:1", Kinds::ALL)),
            (Kind::Channel, "__keyspace@0__:a*", of("default", "a*", Kinds::ALL)),
            (Kind::Channel, "__keyevent@12__:del", of("12", "", deleted)),
            (Kind::Channel, "__keyevent@12__:lpush", None),
            (Kind::Channel, "__keyspace@x__:a", None),
            (Kind::Channel, "__keyspace@00__:a", None),
            (Kind::Channel, "news", None),
            (Kind::Pattern, "__keyspace@3__:user:*", of("3", "user:", Kinds::ALL)),
            (Kind::Pattern, "__keyevent@0__:*", of("default", "", Kinds::ALL)),
            (Kind::Pattern, "__keyevent@0__:s?t", of("default", "", set)),
            (Kind::Pattern, "__keyspace@*__:a", all.clone()),
            (Kind::Pattern, "__key*__:*", all.clone()),
            (Kind::Pattern, "*", all),
            (Kind::Pattern, "news*", None),
        ] {
            assert_eq!(asked(kind, name), expected, "{name}");
        }
    }

    #[test]
    fn a_change_is_told_on_each_channel_that_matches() {
        let told = |kind, name: &str, collection: &str, protocol| {
            let mut listening = Listening::default();
            let subscription = Subscription(7);
            listening.add(kind, name.as_bytes(), Some(subscription));
            let (collection, key) = (collection.to_owned(), b"k".to_vec());
            let change = NamedChange { kind: ChangeKind::Set, collection, key };
            let mut out = Vec::new();
            listening.tell(subscription, &change, &mut Encoder::new(&mut out, protocol));
            assert!(listening.remove(kind, name.as_bytes()).is_some() && listening.is_empty());
            String::from_utf8(out).unwrap()
        };
        let (space, event) =
            ("$16\r\n__keyspace@0__:k\r\n$3\r\nset\r\n", "$18\r\n__keyevent@0__:set\r\n$1\r\nk\r\n");
        let channel = |name, collection| told(Kind::Channel, name, collection, Protocol::Resp3);
        assert_eq!(channel("__keyspace@0__:k", "default"), format!(">3\r\n$7\r\nmessage\r\n{space}"));
        assert_eq!(channel("__keyevent@0__:set", "default"), format!(">3\r\n$7\r\nmessage\r\n{event}"));
        assert_eq!(channel("__keyspace@0__:kk", "default"), "");
        assert_eq!(channel("__keyspace@0__:k", "other"), "");
        let both = told(Kind::Pattern, "__key*@0__:*", "default", Protocol::Resp2);
        let head = "*4\r\n$8\r\npmessage\r\n$12\r\n__key*@0__:*\r\n";
        assert_eq!(both, format!("{head}{space}{head}{event}"));
    }
}
