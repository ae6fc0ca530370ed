//! The one table of keys: paths, defaults, meanings.

/// One key of a member's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its path, with dots.
    pub path: &'static str,
    /// What holds when it is given nowhere, as it would be written in the environment; `None` when it must
    /// be given, or when its absence has a meaning of its own.
    pub default: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
}

impl Key {
    /// The environment's variable that overrides it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("KITH_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn key(path: &'static str, default: Option<&'static str>, meaning: &'static str) -> Key {
    Key { path, default, meaning }
}

/// Table of settings to create a cluster with; its keys are names of settings.
pub(super) const CREATE_SETTINGS: &str = "create.settings";

/// Every key. `create.settings` is besides a table of settings by their names.
pub const KEYS: &[Key] = &[
    key("name", None, "the member's name, unique in the cluster; required"),
    key("cluster", Some("kith"), "the cluster's name; members of another one are refused"),
    key("data_dir", None, "directory for this member's data; required"),
    key("zone", Some(""), "what fails together with this member; copies go to distinct zones first"),
    key("seeds", Some(""), "addresses host:port of members at which the cluster is looked for"),
    key("bootstrap", Some("false"), "may create the cluster when every seed answers that it knows none"),
    key("secret", None, "the cluster secret; prefer `secret_file` or the environment"),
    key("secret_file", None, "file that holds the cluster secret"),
    key("listen.peers", Some("0.0.0.0:7400"), "address on which members reach this one"),
    key("listen.http", Some("127.0.0.1:7401"), "address of HTTP for clients and people"),
    key("listen.resp", Some("127.0.0.1:7402"), "address of RESP for clients, or `off`"),
    key(
        "advertise.peers",
        None,
        "host:port told to other members; required if `listen.peers` is any address",
    ),
    key("advertise.http", None, "host:port of HTTP told to others; by default that of `listen.http`"),
    key("log.format", Some("text"), "`text` for people, `json` for programs"),
    key(
        "log.level",
        Some("info"),
        "error, warn, info, debug or trace; or a list such as `info,kith::gossip=debug`",
    ),
    key(
        "memory.table_bytes",
        Some("512MiB"),
        "memory for records; beyond it they are evicted and read from disk",
    ),
    key(
        "memory.journal_bytes",
        None,
        "size of the journal at which a checkpoint begins; by default as large as the records in memory, but \
         512 MiB at least and half of `memory.table_bytes` at most",
    ),
    key("memory.store_cache_bytes", Some("16MiB"), "cache of the store on disk"),
    key("limits.http_connections", Some("1024"), "open HTTP connections"),
    key("limits.resp_connections", Some("10000"), "open RESP connections"),
    key("limits.pending_handshakes", Some("256"), "members' connections that have not proved the secret yet"),
    key(
        "tls.certificate",
        None,
        "file (PEM) of the certificate that clients are shown, with its chain; with `tls.key`",
    ),
    key("tls.key", None, "file (PEM) of the certificate's private key"),
    key(
        "clients.without_tokens",
        Some("this_machine"),
        "who is served while the cluster has no tokens: `this_machine`, or `anyone` who can connect",
    ),
    key("create.partitions", Some("256"), "partitions of a cluster that this member creates: a power of two"),
];

/// Variables that are no keys of a file: what the command line asks members with.
const OF_CLIENTS: [&str; 4] = ["KITH_ADDRESS", "KITH_TOKEN", "KITH_TOKEN_FILE", "KITH_CA_FILE"];

/// Of the environment's variables those that look like keys and are none, each with the nearest that is one.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let is_unknown = |name: &String| {
        name.starts_with("KITH_") && !known.contains(name) && !OF_CLIENTS.contains(&name.as_str())
    };
    let nearest =
        |name: &str| known.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known)).cloned();
    let with_nearest = |name: String| {
        let nearest = nearest(&name).unwrap_or_default();
        (name, nearest)
    };
    names.filter(is_unknown).map(with_nearest).collect()
}

pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The known path that is most like a text: by the whole path, or by its last part.
pub(super) fn nearest(path: &str) -> &'static str {
    let path: String = path.chars().take(64).collect();
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &&'static str| {
        let whole = strsim::damerau_levenshtein(&path, known);
        // A key in the wrong table is likelier than that much misspelling.
        let tail = 1 + strsim::damerau_levenshtein(&last(&path), &last(known));
        whole.min(tail)
    };
    let known = KEYS.iter().map(|key| key.path).chain(std::iter::once(CREATE_SETTINGS));
    known.min_by_key(distance).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_by_path_and_by_last_part() {
        for (wrong, right) in [
            ("nmae", "name"),
            ("listen.htpp", "listen.http"),
            ("table_bytes", "memory.table_bytes"),
            ("log.levl", "log.level"),
            ("create.setting", "create.settings"),
        ] {
            assert_eq!(nearest(wrong), right);
        }
    }

    #[test]
    fn a_misspelled_variable_is_told_with_the_nearest_and_others_are_not() {
        let names = ["PATH", "KITH_LISTEN_HTPP", "KITH_NAME", "KITH_TOKEN", "MY_KITH_X"].map(str::to_owned);
        let told = unknown_variables(names.into_iter());
        assert_eq!(told, [("KITH_LISTEN_HTPP".to_owned(), "KITH_LISTEN_HTTP".to_owned())]);
    }

    #[test]
    fn variables_are_paths_in_capitals() {
        assert_eq!(find("listen.peers").map(Key::variable).as_deref(), Some("KITH_LISTEN_PEERS"));
    }
}
