//! The table of commands: what each is called, what it takes, what clients are told of it, and how it
//! is found.
//!
//! What stands here of a command beside how it is run is what Redis says of it, because clients find keys by
//! it and decide whether a command may be repeated. Only `Run` is kith's own.
//!
//! A name is found by one hash over its bytes in lower case; the slots are filled when kith is built.

use super::auth::Need;
use crate::resp::listening::Kind;
use crate::resp::replies::{ReadReply, Since, Unit};

/// How a command is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// One read of the first argument.
    Read(ReadReply),
    GetRange,
    Set,
    SetEx(Unit),
    MGet,
    MSet,
    SetNx,
    GetSet,
    GetDel,
    GetEx,
    Append,
    SetRange,
    AddFloat,
    Expire(Since, Unit),
    Persist,
    Rename,
    Copy,
    /// Adds a number, or its opposite.
    Count {
        down: bool,
    },
    Del,
    Exists,
    Scan,
    Keys,
    DbSize,
    RandomKey,
    FlushDb,
    Select,
    Ping,
    Echo,
    Time,
    Wait,
    Subscribe(Kind),
    Unsubscribe(Kind),
    Auth,
    Hello,
    Quit,
    Reset,
    /// A command whose subcommands do the work.
    Container,
    ClientId,
    ClientGetName,
    ClientSetName,
    ClientSetInfo,
    ClientSwitch,
    ClientInfo,
    ClientList,
    CommandCount,
    CommandDocs,
    CommandInfo,
    CommandList,
    Help,
    ConfigGet,
    Info,
}

impl Run {
    /// Whether it may be sent while only messages are expected.
    pub const fn is_for_listeners(self) -> bool {
        matches!(self, Self::Subscribe(_) | Self::Unsubscribe(_) | Self::Ping | Self::Quit | Self::Reset)
    }
}

/// A command or a subcommand.
#[derive(Debug)]
pub struct Spec {
    /// Its name in lower case; a subcommand's begins with its command's and `|`.
    pub name: &'static str,
    /// Arguments with the name; below zero: at least as many.
    pub arity: i64,
    /// How it is carried out.
    pub run: Run,
    /// What clients must know of it, words between spaces.
    pub flags: &'static str,
    /// The first argument that is a key, the last one (counted from the end if below zero), and how
    /// far it is from one to the next.
    pub keys: (i64, i64, i64),
    /// The categories of access lists that it is in, without `@`.
    pub categories: &'static str,
    /// What proxies do with it.
    pub tips: &'static str,
    /// What it does to its keys; a `/` parts the first key from the second.
    pub access: &'static str,
    /// The version of Redis in which it appeared.
    pub since: &'static str,
    /// The chapter in which it is described.
    pub group: &'static str,
    /// How long it takes, as it is written where algorithms are compared.
    pub complexity: &'static str,
    /// What it does, for people.
    pub summary: &'static str,
}

impl Spec {
    /// Whether a command of so many arguments, its name included, is one of these.
    pub fn takes(&self, arguments: usize) -> bool {
        let needed = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        arguments == needed || (self.arity < 0 && arguments > needed)
    }

    /// Whether the argument at a place is a key, when there are so many, the name included.
    pub fn is_key(&self, at: usize, of: usize) -> bool {
        let (first, last, step) = self.keys;
        let (Ok(at), Ok(of)) = (i64::try_from(at), i64::try_from(of)) else { return false };
        let last = if last < 0 { of + last } else { last };
        // A command without keys has no step.
        (first..=last).contains(&at) && (at - first).checked_rem(step) == Some(0)
    }

    /// What a client must be allowed.
    pub const fn need(&self) -> Need {
        match self.run {
            Run::Auth | Run::Hello | Run::Quit | Run::Reset => Need::Nothing,
            Run::Ping
            | Run::Echo
            | Run::Time
            | Run::Wait
            | Run::Subscribe(_)
            | Run::Unsubscribe(_)
            | Run::Select
            | Run::Container
            | Run::ClientId
            | Run::ClientGetName
            | Run::ClientSetName
            | Run::ClientSetInfo
            | Run::ClientSwitch
            | Run::ClientInfo
            | Run::ClientList
            | Run::CommandCount
            | Run::CommandDocs
            | Run::CommandInfo
            | Run::CommandList
            | Run::Help
            | Run::ConfigGet
            | Run::Info => Need::Known,
            Run::Read(_)
            | Run::GetRange
            | Run::MGet
            | Run::Exists
            | Run::Scan
            | Run::Keys
            | Run::DbSize
            | Run::RandomKey => Need::Read,
            Run::Set
            | Run::SetEx(_)
            | Run::SetNx
            | Run::GetSet
            | Run::GetDel
            | Run::GetEx
            | Run::MSet
            | Run::Append
            | Run::SetRange
            | Run::AddFloat
            | Run::Expire(..)
            | Run::Persist
            | Run::Rename
            | Run::Copy
            | Run::Count { .. }
            | Run::Del
            | Run::FlushDb => Need::Write,
        }
    }

    /// The subcommands.
    pub fn subcommands(&self) -> impl Iterator<Item = &'static Self> + Clone {
        let own = |spec: &&Self| spec.parts().is_some_and(|(command, _)| command == self.name);
        SUBCOMMANDS.iter().filter(own)
    }

    /// The subcommand of that name.
    pub fn subcommand(&self, word: &[u8]) -> Option<&'static Self> {
        self.subcommands().find(|spec| {
            spec.parts().is_some_and(|(_, subcommand)| word.eq_ignore_ascii_case(subcommand.as_bytes()))
        })
    }

    /// The command and the subcommand, if it is one.
    pub fn parts(&self) -> Option<(&'static str, &'static str)> {
        self.name.split_once('|')
    }
}

macro_rules! commands {
    ($($name:literal $arity:literal $run:expr,
       $flags:literal $first:literal $last:literal $step:literal $categories:literal $tips:literal $access:literal
       $since:literal $group:literal $complexity:literal $summary:literal;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            run: $run,
            flags: $flags,
            keys: ($first, $last, $step),
            categories: $categories,
            tips: $tips,
            access: $access,
            since: $since,
            group: $group,
            complexity: $complexity,
            summary: $summary,
        }),*]
    };
}

/// Every command.
pub const COMMANDS: &[Spec] = commands! {
    "get" 2 Run::Read(ReadReply::Value),
        "readonly fast" 1 1 1 "read string fast" "" "RO access"
        "1.0.0" "string" "O(1)" "Answers the value of a key.";
    "set" -3 Run::Set,
        "write denyoom" 1 1 1 "write string slow" "" "RW access update variable_flags"
        "1.0.0" "string" "O(1)" "Stores a value under a key.";
    "setex" 4 Run::SetEx(Unit::Seconds),
        "write denyoom" 1 1 1 "write string slow" "" "OW update"
        "2.0.0" "string" "O(1)" "Stores a value that expires after some seconds.";
    "psetex" 4 Run::SetEx(Unit::Milliseconds),
        "write denyoom" 1 1 1 "write string slow" "" "OW update"
        "2.6.0" "string" "O(1)" "Stores a value that expires after some milliseconds.";
    "setnx" 3 Run::SetNx,
        "write denyoom fast" 1 1 1 "write string fast" "" "OW insert"
        "1.0.0" "string" "O(1)" "Stores a value under a key that has none.";
    "getset" 3 Run::GetSet,
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "1.0.0" "string" "O(1)" "Stores a value and answers the one before.";
    "getdel" 2 Run::GetDel,
        "write fast" 1 1 1 "write string fast" "" "RW access delete"
        "6.2.0" "string" "O(1)" "Answers the value of a key and deletes the key.";
    "getex" -2 Run::GetEx,
        "write fast" 1 1 1 "write string fast" "" "RW access update"
        "6.2.0" "string" "O(1)" "Answers the value of a key and changes when it expires.";
    "mget" -2 Run::MGet,
        "readonly fast" 1 -1 1 "read string fast" "request_policy:multi_shard" "RO access"
        "1.0.0" "string" "O(N) for N keys" "Answers the values of several keys.";
    "mset" -3 Run::MSet,
        "write denyoom" 1 -1 2 "write string slow" "request_policy:multi_shard response_policy:all_succeeded" "OW update"
        "1.0.1" "string" "O(N) for N keys" "Stores values under several keys, one after the other.";
    "append" 3 Run::Append,
        "write denyoom fast" 1 1 1 "write string fast" "" "RW insert"
        "2.0.0" "string" "O(N) for N bytes of the new value" "Adds bytes to the end of a value.";
    "strlen" 2 Run::Read(ReadReply::Length),
        "readonly fast" 1 1 1 "read string fast" "" "RO"
        "2.2.0" "string" "O(1)" "Answers how many bytes a value has.";
    "setrange" 4 Run::SetRange,
        "write denyoom" 1 1 1 "write string slow" "" "RW update"
        "2.2.0" "string" "O(N) for N bytes of the new value" "Writes bytes into a value, from an offset on.";
    "getrange" 4 Run::GetRange,
        "readonly" 1 1 1 "read string slow" "" "RO access"
        "2.4.0" "string" "O(N) for N bytes of the answer" "Answers a part of a value.";
    "substr" 4 Run::GetRange,
        "readonly" 1 1 1 "read string slow" "" "RO access"
        "1.0.0" "string" "O(N) for N bytes of the answer" "Answers a part of a value; the older name of GETRANGE.";
    "incr" 2 Run::Count { down: false },
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "1.0.0" "string" "O(1)" "Adds 1 to a number.";
    "decr" 2 Run::Count { down: true },
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "1.0.0" "string" "O(1)" "Takes 1 from a number.";
    "incrby" 3 Run::Count { down: false },
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "1.0.0" "string" "O(1)" "Adds to a number.";
    "decrby" 3 Run::Count { down: true },
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "1.0.0" "string" "O(1)" "Takes from a number.";
    "incrbyfloat" 3 Run::AddFloat,
        "write denyoom fast" 1 1 1 "write string fast" "" "RW access update"
        "2.6.0" "string" "O(1)" "Adds to a number with a fraction.";
    "del" -2 Run::Del,
        "write" 1 -1 1 "keyspace write slow" "request_policy:multi_shard response_policy:agg_sum" "RM delete"
        "1.0.0" "generic" "O(N) for N keys" "Deletes keys.";
    "unlink" -2 Run::Del,
        "write fast" 1 -1 1 "keyspace write fast" "request_policy:multi_shard response_policy:agg_sum" "RM delete"
        "4.0.0" "generic" "O(N) for N keys" "Deletes keys.";
    "exists" -2 Run::Exists,
        "readonly fast" 1 -1 1 "keyspace read fast" "request_policy:multi_shard response_policy:agg_sum" "RO"
        "1.0.0" "generic" "O(N) for N keys" "Counts which keys are there.";
    "touch" -2 Run::Exists,
        "readonly fast" 1 -1 1 "keyspace read fast" "request_policy:multi_shard response_policy:agg_sum" "RO"
        "3.2.1" "generic" "O(N) for N keys" "Counts which keys are there.";
    "type" 2 Run::Read(ReadReply::Type),
        "readonly fast" 1 1 1 "keyspace read fast" "" "RO"
        "1.0.0" "generic" "O(1)" "Answers the type of a value, which is string.";
    "expire" -3 Run::Expire(Since::Now, Unit::Seconds),
        "write fast" 1 1 1 "keyspace write fast" "" "RW update"
        "1.0.0" "generic" "O(1)" "Lets a key expire after some seconds.";
    "pexpire" -3 Run::Expire(Since::Now, Unit::Milliseconds),
        "write fast" 1 1 1 "keyspace write fast" "" "RW update"
        "2.6.0" "generic" "O(1)" "Lets a key expire after some milliseconds.";
    "expireat" -3 Run::Expire(Since::Epoch, Unit::Seconds),
        "write fast" 1 1 1 "keyspace write fast" "" "RW update"
        "1.2.0" "generic" "O(1)" "Lets a key expire at a Unix time in seconds.";
    "pexpireat" -3 Run::Expire(Since::Epoch, Unit::Milliseconds),
        "write fast" 1 1 1 "keyspace write fast" "" "RW update"
        "2.6.0" "generic" "O(1)" "Lets a key expire at a Unix time in milliseconds.";
    "ttl" 2 Run::Read(ReadReply::Expiry(Since::Now, Unit::Seconds)),
        "readonly fast" 1 1 1 "keyspace read fast" "nondeterministic_output" "RO access"
        "1.0.0" "generic" "O(1)" "Answers in how many seconds a key expires.";
    "pttl" 2 Run::Read(ReadReply::Expiry(Since::Now, Unit::Milliseconds)),
        "readonly fast" 1 1 1 "keyspace read fast" "nondeterministic_output" "RO access"
        "2.6.0" "generic" "O(1)" "Answers in how many milliseconds a key expires.";
    "expiretime" 2 Run::Read(ReadReply::Expiry(Since::Epoch, Unit::Seconds)),
        "readonly fast" 1 1 1 "keyspace read fast" "" "RO access"
        "7.0.0" "generic" "O(1)" "Answers the Unix time in seconds at which a key expires.";
    "pexpiretime" 2 Run::Read(ReadReply::Expiry(Since::Epoch, Unit::Milliseconds)),
        "readonly fast" 1 1 1 "keyspace read fast" "" "RO access"
        "7.0.0" "generic" "O(1)" "Answers the Unix time in milliseconds at which a key expires.";
    "persist" 2 Run::Persist,
        "write fast" 1 1 1 "keyspace write fast" "" "RW update"
        "2.2.0" "generic" "O(1)" "Lets a key expire no more.";
    "scan" -2 Run::Scan,
        "readonly" 0 0 0 "keyspace read slow" "nondeterministic_output request_policy:special" ""
        "2.8.0" "generic" "O(N) for a COUNT of N" "Lists keys, some at a time.";
    "keys" 2 Run::Keys,
        "readonly" 0 0 0 "keyspace read slow dangerous" "request_policy:all_shards nondeterministic_output_order" ""
        "1.0.0" "generic" "O(N) for N keys of the database that begin as the pattern does" "Lists the keys that match a pattern, if they are not too many.";
    "dbsize" 1 Run::DbSize,
        "readonly fast" 0 0 0 "keyspace read fast" "request_policy:all_shards response_policy:agg_sum" ""
        "1.0.0" "server" "O(N) for N keys of the database" "Counts the keys of a database.";
    "randomkey" 1 Run::RandomKey,
        "readonly" 0 0 0 "keyspace read slow" "request_policy:all_shards nondeterministic_output" ""
        "1.0.0" "generic" "O(log(N)) for N keys of the database" "Answers some key.";
    "rename" 3 Run::Rename,
        "write" 1 2 1 "keyspace write slow" "" "RW access delete / OW update"
        "1.0.0" "generic" "O(N) for N bytes of the value" "Moves a value to another key, in two steps.";
    "copy" -3 Run::Copy,
        "write denyoom" 1 2 1 "keyspace write slow" "" "RO access / OW update"
        "6.2.0" "generic" "O(N) for N bytes of the value" "Copies a value to another key, in two steps.";
    "select" 2 Run::Select,
        "loading stale fast" 0 0 0 "fast connection" "" ""
        "1.0.0" "connection" "O(1)" "Chooses the database, which is the collection of that name.";
    "flushdb" -1 Run::FlushDb,
        "write" 0 0 0 "keyspace write slow dangerous" "request_policy:all_shards response_policy:all_succeeded" ""
        "1.0.0" "server" "O(N) for N keys of the database" "Deletes the keys of a database one after the other.";
    "ping" -1 Run::Ping,
        "fast" 0 0 0 "fast connection" "request_policy:all_shards response_policy:all_succeeded" ""
        "1.0.0" "connection" "O(1)" "Shows that the member answers.";
    "echo" 2 Run::Echo,
        "loading stale fast" 0 0 0 "fast connection" "" ""
        "1.0.0" "connection" "O(1)" "Answers its argument.";
    "time" 1 Run::Time,
        "loading stale fast" 0 0 0 "fast" "nondeterministic_output" ""
        "2.6.0" "server" "O(1)" "Answers the time of the member.";
    "wait" 3 Run::Wait,
        "noscript" 0 0 0 "slow connection" "request_policy:all_shards response_policy:agg_min" ""
        "3.0.0" "generic" "O(1)" "Waits until the writes before have so many copies.";
    "auth" -2 Run::Auth,
        "noscript loading stale fast no_auth allow_busy" 0 0 0 "fast connection" "" ""
        "1.0.0" "connection" "O(1)" "Tells who the client is.";
    "hello" -1 Run::Hello,
        "noscript loading stale fast no_auth allow_busy" 0 0 0 "fast connection" "" ""
        "6.0.0" "connection" "O(1)" "Chooses the protocol and tells about the member.";
    "quit" -1 Run::Quit,
        "noscript loading stale fast no_auth allow_busy" 0 0 0 "fast connection" "" ""
        "1.0.0" "connection" "O(1)" "Ends the connection.";
    "reset" 1 Run::Reset,
        "noscript loading stale fast no_auth allow_busy" 0 0 0 "fast connection" "" ""
        "6.2.0" "connection" "O(1)" "Makes the connection as it was when it began.";
    "client" -2 Run::Container,
        "" 0 0 0 "slow" "" ""
        "2.4.0" "connection" "as the subcommand" "Tells about connections.";
    "command" -1 Run::Container,
        "loading stale" 0 0 0 "slow connection" "nondeterministic_output_order" ""
        "2.8.13" "server" "O(N) for N commands" "Tells about commands.";
    "config" -2 Run::Container,
        "" 0 0 0 "slow" "" ""
        "2.0.0" "server" "as the subcommand" "Tells about the configuration.";
    "info" -1 Run::Info,
        "loading stale" 0 0 0 "slow dangerous" "nondeterministic_output request_policy:all_shards response_policy:special" ""
        "1.0.0" "server" "O(N) for N connections" "Tells how the member is.";
    "subscribe" -2 Run::Subscribe(Kind::Channel),
        "pubsub noscript loading stale" 0 0 0 "pubsub slow" "" ""
        "2.0.0" "pubsub" "O(N) for N channels" "Listens to channels.";
    "psubscribe" -2 Run::Subscribe(Kind::Pattern),
        "pubsub noscript loading stale" 0 0 0 "pubsub slow" "" ""
        "2.0.0" "pubsub" "O(N) for N patterns" "Listens to all channels that match patterns.";
    "unsubscribe" -1 Run::Unsubscribe(Kind::Channel),
        "pubsub noscript loading stale" 0 0 0 "pubsub slow" "" ""
        "2.0.0" "pubsub" "O(N) for N channels" "Stops listening to channels.";
    "punsubscribe" -1 Run::Unsubscribe(Kind::Pattern),
        "pubsub noscript loading stale" 0 0 0 "pubsub slow" "" ""
        "2.0.0" "pubsub" "O(N) for N patterns" "Stops listening to patterns.";
};

/// Every subcommand.
pub const SUBCOMMANDS: &[Spec] = commands! {
    "client|id" 2 Run::ClientId,
        "noscript loading stale" 0 0 0 "slow connection" "" ""
        "5.0.0" "connection" "O(1)" "Answers the number of this connection.";
    "client|getname" 2 Run::ClientGetName,
        "noscript loading stale" 0 0 0 "slow connection" "" ""
        "2.6.9" "connection" "O(1)" "Answers the name of this connection.";
    "client|setname" 3 Run::ClientSetName,
        "noscript loading stale" 0 0 0 "slow connection" "" ""
        "2.6.9" "connection" "O(1)" "Names this connection.";
    "client|setinfo" 4 Run::ClientSetInfo,
        "noscript loading stale" 0 0 0 "slow connection" "" ""
        "7.2.0" "connection" "O(1)" "Tells which library the client uses.";
    "client|no-evict" 3 Run::ClientSwitch,
        "admin noscript loading stale" 0 0 0 "admin slow dangerous connection" "" ""
        "7.0.0" "connection" "O(1)" "Accepted; connections are never evicted.";
    "client|no-touch" 3 Run::ClientSwitch,
        "noscript loading stale" 0 0 0 "slow connection" "" ""
        "7.2.0" "connection" "O(1)" "Accepted; reads change nothing about keys.";
    "client|info" 2 Run::ClientInfo,
        "noscript loading stale" 0 0 0 "slow connection" "nondeterministic_output" ""
        "6.2.0" "connection" "O(1)" "Tells about this connection.";
    "client|list" -2 Run::ClientList,
        "admin noscript loading stale" 0 0 0 "admin slow dangerous connection" "nondeterministic_output" ""
        "2.4.0" "connection" "O(N) for N connections" "Tells about all connections of this member.";
    "client|help" 2 Run::Help,
        "loading stale" 0 0 0 "slow connection" "" ""
        "5.0.0" "connection" "O(1)" "Lists the subcommands.";
    "command|count" 2 Run::CommandCount,
        "loading stale" 0 0 0 "slow connection" "" ""
        "2.8.13" "server" "O(1)" "Answers how many commands there are.";
    "command|docs" -2 Run::CommandDocs,
        "loading stale" 0 0 0 "slow connection" "nondeterministic_output_order" ""
        "7.0.0" "server" "O(N) for N commands" "Tells what commands do.";
    "command|info" -2 Run::CommandInfo,
        "loading stale" 0 0 0 "slow connection" "nondeterministic_output_order" ""
        "2.8.13" "server" "O(N) for N commands" "Tells what clients must know of commands.";
    "command|list" -2 Run::CommandList,
        "loading stale" 0 0 0 "slow connection" "nondeterministic_output_order" ""
        "7.0.0" "server" "O(N) for N commands" "Lists the names of commands.";
    "command|help" 2 Run::Help,
        "loading stale" 0 0 0 "slow connection" "" ""
        "5.0.0" "server" "O(1)" "Lists the subcommands.";
    "config|get" -3 Run::ConfigGet,
        "admin noscript loading stale" 0 0 0 "admin slow dangerous" "" ""
        "2.0.0" "server" "O(N) for N patterns" "Answers parts of the configuration.";
    "config|help" 2 Run::Help,
        "loading stale" 0 0 0 "slow" "" ""
        "5.0.0" "server" "O(1)" "Lists the subcommands.";
};

/// Slots of the index; more than twice as many as commands, so that a search ends soon.
const SLOTS: usize = 256;
/// The longest name.
const WORD_BYTES: usize = 16;
/// Spreads names over the slots.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Places in [`COMMANDS`] plus one, by the hash of the name; 0 is free.
static INDEX: [u8; SLOTS] = index();

#[expect(clippy::indexing_slicing, reason = "it is carried out when kith is built")]
const fn index() -> [u8; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut at = 0;
    assert!(COMMANDS.len() < SLOTS / 2);
    while at < COMMANDS.len() {
        let name = COMMANDS[at].name.as_bytes();
        assert!(name.len() <= WORD_BYTES);
        let mut slot = hash(name);
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        at += 1;
        slots[slot] = at as u8;
    }
    slots
}

/// The slot at which the search for a name begins.
const fn hash(word: &[u8]) -> usize {
    let (mut sum, mut rest) = (0u64, word);
    while let [byte, tail @ ..] = rest {
        sum = (sum ^ byte.to_ascii_lowercase() as u64).wrapping_mul(SPREAD);
        rest = tail;
    }
    (sum >> 56) as usize
}

/// The command of that name, in whatever case it is written.
pub fn find(word: &[u8]) -> Option<&'static Spec> {
    if word.len() > WORD_BYTES {
        return None;
    }
    let mut slot = hash(word);
    loop {
        let place = INDEX.get(slot).copied().filter(|place| *place > 0)?;
        let spec = COMMANDS.get(usize::from(place) - 1)?;
        if word.eq_ignore_ascii_case(spec.name.as_bytes()) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The command or subcommand of that whole name.
pub fn find_whole(word: &[u8]) -> Option<&'static Spec> {
    find(word).or_else(|| SUBCOMMANDS.iter().find(|spec| word.eq_ignore_ascii_case(spec.name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case_and_nothing_else_is() {
        for spec in COMMANDS {
            for name in [spec.name.to_owned(), spec.name.to_uppercase()] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(spec.name));
            }
            for other in [format!("{}x", spec.name), format!("{}\0", spec.name), format!("\0{}", spec.name)] {
                assert_eq!(find(other.as_bytes()).map(|found| found.name), None);
            }
        }
        for word in ["", "client|id", "geta", "a-name-of-more-than-16-bytes"] {
            assert!(find(word.as_bytes()).is_none(), "{word}");
        }
    }

    #[test]
    fn keys_stand_where_clients_are_told_that_they_stand() {
        let keys = |command: &str, of| {
            let spec = find(command.as_bytes()).unwrap();
            (0..of).filter(|at| spec.is_key(*at, of)).collect::<Vec<_>>()
        };
        assert_eq!(keys("get", 2), [1]);
        assert_eq!(keys("set", 5), [1]);
        assert_eq!(keys("rename", 3), [1, 2]);
        assert_eq!(keys("mget", 4), [1, 2, 3]);
        assert_eq!(keys("mset", 5), [1, 3]);
        assert_eq!(keys("echo", 2), [0; 0]);
    }

    #[test]
    fn every_subcommand_is_one_of_a_command() {
        for spec in SUBCOMMANDS {
            let (command, subcommand) = spec.parts().unwrap();
            let command = find(command.as_bytes()).unwrap();
            assert_eq!(command.subcommand(subcommand.as_bytes()).unwrap().name, spec.name);
            assert_eq!(command.run, Run::Container);
        }
    }
}
