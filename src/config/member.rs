//! A member's configuration: how it is put together from the file, the environment and the defaults.

use super::document::{Document, Given, Value, read};
use super::error::{ConfigErrors, Problem, Source};
use super::keys::{CREATE_SETTINGS, find};
use super::parse::{self, Parsed};
use super::secret::SecretText;
use crate::model::settings::{SettingError, Settings};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Bytes of the largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Seeds in one file.
const MAX_SEEDS: usize = 64;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Bounds of this member's memory and journal, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Records in memory; beyond it they are evicted.
    pub table_bytes: u64,
    /// Journal size at which a checkpoint begins; `None` if it is to follow the records.
    pub journal_bytes: Option<u64>,
    /// The store's cache.
    pub store_cache_bytes: u64,
}

/// Bounds of what may be open at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// HTTP connections.
    pub http_connections: usize,
    /// RESP connections.
    pub resp_connections: usize,
    /// Members' connections before their handshake is done.
    pub pending_handshakes: usize,
}

impl Limits {
    /// Files that no client opens: links to members, journal, store.
    const OWN_FILES: u64 = 512;
    /// Of each kind so many may be open however few files there are.
    const LEAST: u64 = 8;

    /// These bounds, lowered in proportion where a process that may have `files` files open has no room for them beside
    /// its own: 512, or half of all if there are few.
    #[must_use]
    pub fn within(self, files: u64) -> Self {
        let all = [self.http_connections, self.resp_connections, self.pending_handshakes];
        let all = all.iter().map(|count| *count as u64).sum::<u64>();
        let room = files - Self::OWN_FILES.min(files / 2);
        if all <= room {
            return self;
        }
        let lowered = |count: usize| {
            let share = (count as u64).saturating_mul(room) / all;
            count.min(usize::try_from(share.max(Self::LEAST)).unwrap_or(usize::MAX))
        };
        Self {
            http_connections: lowered(self.http_connections),
            resp_connections: lowered(self.resp_connections),
            pending_handshakes: lowered(self.pending_handshakes),
        }
    }
}

/// Files (PEM) for TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a cluster is created with, if this member creates one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The logarithm of the number of partitions.
    pub partition_bits: u8,
    /// Settings that differ from the defaults, checked, in the form in which they are stored.
    pub settings: BTreeMap<String, String>,
}

/// Everything that is one member's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberConfig {
    /// Unique in the cluster.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// Where its data is; absolute if the file's path is.
    pub data_dir: PathBuf,
    /// What fails together with it; empty for none.
    pub zone: String,
    /// `host:port` of members to look for.
    pub seeds: Vec<String>,
    /// Whether it may create the cluster.
    pub bootstrap: bool,
    /// What every member must know.
    pub secret: SecretText,
    /// The file that it was read from; `None` if it stands in this one or in the environment.
    pub secret_file: Option<PathBuf>,
    /// Where it listens for members.
    pub listen_peers: SocketAddr,
    /// Where it listens for HTTP.
    pub listen_http: SocketAddr,
    /// Where it listens for RESP; `None` for not at all.
    pub listen_resp: Option<SocketAddr>,
    /// `host:port` at which members reach it. Port 0 means: the port that was bound.
    pub advertise_peers: String,
    /// `host:port` at which clients reach its HTTP. Port 0 means: the port that was bound.
    pub advertise_http: String,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged: a level, or a list of levels for parts of the program.
    pub log_level: String,
    /// Bounds of memory.
    pub memory: Memory,
    /// Bounds of connections.
    pub limits: Limits,
    /// What TLS with clients is spoken with; `None` for none.
    pub tls: Option<TlsFiles>,
    /// Whether clients of other machines are served while the cluster has no tokens.
    pub serves_anyone: bool,
    /// What to create a cluster with.
    pub create: Create,
}

impl MemberConfig {
    /// Reads a member's file, the process's environment and the file of the secret.
    ///
    /// # Errors
    /// Everything that is wrong, at once; nothing was changed anywhere.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = read_bounded(path, MAX_FILE_BYTES).map_err(|message| ConfigErrors {
            file: path.to_owned(),
            problems: vec![Problem::new("", &Source::Missing, message)],
        })?;
        Self::from_text(&text, path, &|variable| std::env::var(variable).ok())
    }

    /// Reads a member's configuration from a text; `path` is where it stands (relative paths in it start
    /// from its directory) and `environment` gives the values of variables.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(
        text: &str,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let Document { values, settings, problems } = read(text);
        let mut builder = Builder { values, problems, environment, directory };
        let config = builder.build(settings);
        match config {
            Some(config) if builder.problems.is_empty() => Ok(config),
            _ => Err(ConfigErrors { file: path.to_owned(), problems: builder.problems }),
        }
    }
}

struct Builder<'a> {
    values: BTreeMap<&'static str, Given>,
    problems: Vec<Problem>,
    environment: &'a dyn Fn(&str) -> Option<String>,
    directory: PathBuf,
}

impl Builder<'_> {
    /// Reads every key before it gives up, so that all problems are found.
    fn build(&mut self, settings: Vec<(String, Given)>) -> Option<MemberConfig> {
        let name = self.one("name", parse::name);
        let cluster = self.one("cluster", parse::name);
        let data_dir = self.one("data_dir", parse::path);
        let zone = self.one("zone", parse::name_or_empty);
        let seeds = self.seeds();
        let bootstrap = self.one("bootstrap", parse::truth);
        let (secret, secret_file) = self.secret().unzip();
        let listen_peers = self.one("listen.peers", parse::listen);
        let listen_http = self.one("listen.http", parse::listen);
        let listen_resp = self.one("listen.resp", parse::listen_or_off);
        let advertise_peers = self.advertise_peers(listen_peers);
        let advertise_http = self.advertise_http(listen_http, advertise_peers.as_deref());
        let log_format = self.one("log.format", parse::log_format);
        let log_level = self.one("log.level", parse::log_level);
        let (memory, limits) = (self.memory(), self.limits());
        let tls = self.tls();
        let serves_anyone = self.one("clients.without_tokens", parse::without_tokens);
        let create = self.create(settings);
        self.distinct(&[
            ("listen.peers", listen_peers),
            ("listen.http", listen_http),
            ("listen.resp", listen_resp.flatten()),
        ]);
        Some(MemberConfig {
            name: name?,
            cluster: cluster?,
            data_dir: self.directory.join(data_dir?),
            zone: zone?,
            seeds: seeds?,
            bootstrap: bootstrap?,
            secret: secret?,
            secret_file: secret_file?,
            listen_peers: listen_peers?,
            listen_http: listen_http?,
            listen_resp: listen_resp?,
            advertise_peers: advertise_peers?,
            advertise_http: advertise_http?,
            log_format: log_format?,
            log_level: log_level?,
            memory: memory?,
            limits: limits?,
            tls: tls?,
            serves_anyone: serves_anyone?,
            create: create?,
        })
    }

    fn memory(&mut self) -> Option<Memory> {
        let table_bytes = self.one("memory.table_bytes", parse::bytes(16 << 20, 1 << 40));
        let journal_bytes = self.optional("memory.journal_bytes", parse::bytes(16 << 20, 64 << 30));
        let store_cache_bytes = self.one("memory.store_cache_bytes", parse::bytes(1 << 20, 1 << 40));
        Some(Memory { table_bytes: table_bytes?, journal_bytes, store_cache_bytes: store_cache_bytes? })
    }

    fn limits(&mut self) -> Option<Limits> {
        let http_connections = self.one("limits.http_connections", parse::count(1, 1 << 20));
        let resp_connections = self.one("limits.resp_connections", parse::count(1, 1 << 20));
        let pending_handshakes = self.one("limits.pending_handshakes", parse::count(1, 1 << 16));
        Some(Limits {
            http_connections: http_connections?,
            resp_connections: resp_connections?,
            pending_handshakes: pending_handshakes?,
        })
    }

    /// What is given for a key: the environment wins over the file. An empty variable counts as unset.
    fn given(&self, path: &'static str) -> Option<Given> {
        let variable = find(path)?.variable();
        let from_environment = (self.environment)(&variable).filter(|text| !text.is_empty());
        match from_environment {
            Some(text) => Some(Given { value: Value::Scalar(text), source: Source::Environment(variable) }),
            None => self.values.get(path).cloned(),
        }
    }

    fn problem(&mut self, path: &str, source: &Source, message: impl Into<String>) {
        self.problems.push(Problem::new(path, source, message));
    }

    /// The key's value, by default the table's; `None` with a problem noted when there is none that fits.
    fn one<T>(&mut self, path: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let before = self.problems.len();
        let value = self.optional(path, parse);
        if value.is_none() && self.problems.len() == before {
            let meaning = find(path).map_or("", |key| key.meaning);
            let variable = find(path).map(|key| key.variable()).unwrap_or_default();
            let message = format!("is missing: {meaning}; set it here or as {variable}");
            self.problem(path, &Source::Missing, message);
        }
        value
    }

    /// Like [`Self::one`], for keys whose absence means something.
    fn optional<T>(&mut self, path: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let default = find(path).and_then(|key| key.default);
        let fallback =
            || default.map(|text| Given { value: Value::Scalar(text.to_owned()), source: Source::Missing });
        let given = self.given(path).or_else(fallback)?;
        let parsed = match given.value {
            Value::Scalar(text) => parse(&text),
            Value::List(_) => Err("is a list and must be one value".to_owned()),
            Value::Other(kind) => Err(format!("is {kind} and must be a plain value")),
        };
        parsed.map_err(|message| self.problem(path, &given.source, message)).ok()
    }

    fn seeds(&mut self) -> Option<Vec<String>> {
        let Some(given) = self.given("seeds") else { return Some(Vec::new()) };
        let texts: Vec<String> = match (given.value, &given.source) {
            (Value::List(texts), _) => texts,
            (Value::Scalar(text), Source::Environment(_)) => {
                text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
            }
            _ => {
                let message = "must be a list such as [\"127.0.0.1:7410\", \"127.0.0.1:7420\"]";
                self.problem("seeds", &given.source, message);
                return None;
            }
        };
        if texts.len() > MAX_SEEDS {
            let message = format!("has {} addresses; a few are enough, {MAX_SEEDS} at most", texts.len());
            self.problem("seeds", &given.source, message);
            return None;
        }
        let mut seeds = Vec::new();
        let mut complete = true;
        for text in &texts {
            match parse::reachable(text) {
                Ok(seed) => seeds.push(seed),
                Err(message) => {
                    complete = false;
                    self.problem("seeds", &given.source, message);
                }
            }
        }
        complete.then_some(seeds)
    }

    /// The secret, and the file that it was read from if it was. The secret itself wins in the environment; in the file
    /// only one of the two keys may stand.
    fn secret(&mut self) -> Option<(SecretText, Option<PathBuf>)> {
        let secret = self.given("secret");
        let file = self.given("secret_file");
        match (secret, file) {
            (Some(Given { value: Value::Scalar(text), source }), file) => {
                if file.is_some() && !matches!(source, Source::Environment(_)) {
                    self.problem("secret", &source, "stands beside `secret_file`: keep one of them");
                    return None;
                }
                let parsed = SecretText::new(&text);
                let parsed = parsed.map_err(|error| self.problem("secret", &source, error.to_string()));
                Some((parsed.ok()?, None))
            }
            (Some(given), _) => {
                self.problem("secret", &given.source, "must be a text");
                None
            }
            (None, Some(_)) => self.secret_from_file(),
            (None, None) => {
                let message = "is missing: make one with `kith secret > cluster.secret`, the same for every \
                               member, and name the file as `secret_file` or set KITH_SECRET";
                self.problem("secret_file", &Source::Missing, message);
                None
            }
        }
    }

    fn secret_from_file(&mut self) -> Option<(SecretText, Option<PathBuf>)> {
        let name = self.one("secret_file", parse::path)?;
        let file = self.directory.join(name);
        let read = SecretText::read(&file);
        let source = self.given("secret_file").map_or(Source::Missing, |given| given.source);
        let hint = "make one with `kith secret`, the same for every member";
        let read = read.map_err(|error| self.problem("secret_file", &source, format!("{error} ({hint})")));
        Some((read.ok()?, Some(file)))
    }

    /// Both files, or none.
    fn tls(&mut self) -> Option<Option<TlsFiles>> {
        if self.given("tls.certificate").is_none() && self.given("tls.key").is_none() {
            return Some(None);
        }
        let (certificate, key) = (self.one("tls.certificate", parse::path), self.one("tls.key", parse::path));
        let (certificate, key) = (self.directory.join(certificate?), self.directory.join(key?));
        Some(Some(TlsFiles { certificate, key }))
    }

    fn advertise_peers(&mut self, listen: Option<SocketAddr>) -> Option<String> {
        if self.given("advertise.peers").is_some() {
            return self.one("advertise.peers", parse::reachable);
        }
        let listen = listen?;
        if listen.ip().is_unspecified() {
            let message = format!(
                "is missing: `listen.peers` is {listen}, which other members can't connect to; set it to this \
                 machine's HOST:PORT, or let `listen.peers` name one address"
            );
            self.problem("advertise.peers", &Source::Missing, message);
            return None;
        }
        Some(listen.to_string())
    }

    /// By default what HTTP listens on; if that is any address, the host that members use.
    fn advertise_http(&mut self, listen: Option<SocketAddr>, peers: Option<&str>) -> Option<String> {
        if self.given("advertise.http").is_some() {
            return self.one("advertise.http", parse::reachable);
        }
        let listen = listen?;
        if !listen.ip().is_unspecified() {
            return Some(listen.to_string());
        }
        let (host, _) = peers?.rsplit_once(':')?;
        Some(format!("{host}:{}", listen.port()))
    }

    fn create(&mut self, given: Vec<(String, Given)>) -> Option<Create> {
        let partition_bits = self.one("create.partitions", parse::partition_bits);
        let mut changes = Vec::new();
        let mut lines = BTreeMap::new();
        for (name, Given { value, source }) in given {
            match value {
                Value::Scalar(text) => changes.push((name.clone(), text)),
                Value::List(_) | Value::Other(_) => {
                    let path = format!("{CREATE_SETTINGS}.{name}");
                    self.problem(&path, &source, "must be a plain value");
                }
            }
            lines.insert(name, source);
        }
        let checked = Settings::default().validate_change(&changes);
        let settings = checked.map_err(|errors| {
            for error in errors {
                let name = setting_of(&error);
                let source = name.and_then(|name| lines.get(name)).unwrap_or(&Source::Missing);
                let path =
                    name.map_or(CREATE_SETTINGS.to_owned(), |name| format!("{CREATE_SETTINGS}.{name}"));
                self.problems.push(Problem::new(&path, source, error.to_string()));
            }
        });
        Some(Create { partition_bits: partition_bits?, settings: settings.ok()?.into_iter().collect() })
    }

    /// Two services can't share an address; port 0 takes a free one each time.
    fn distinct(&mut self, listening: &[(&'static str, Option<SocketAddr>)]) {
        for (index, (path, address)) in listening.iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            let earlier = listening.iter().take(index);
            let same = |other: &SocketAddr| {
                let overlap = other.ip() == address.ip()
                    || other.ip().is_unspecified()
                    || address.ip().is_unspecified();
                other.port() == address.port() && overlap
            };
            let Some((taken, _)) = earlier.into_iter().find(|(_, other)| other.as_ref().is_some_and(same))
            else {
                continue;
            };
            let source = self.given(path).map_or(Source::Missing, |given| given.source);
            self.problem(path, &source, format!("{address} is already taken by `{taken}`: use another port"));
        }
    }
}

/// The setting that an error is about, if it is about one.
fn setting_of(error: &SettingError) -> Option<&str> {
    match error {
        SettingError::Unknown { name, .. } => Some(name),
        SettingError::Partitions => Some("partitions"),
        SettingError::Managed(name) | SettingError::Repeated(name) => Some(name),
        SettingError::Unreadable { name, .. } | SettingError::OutOfRange { name, .. } => Some(name),
        SettingError::HintsTooSmall { .. } => Some("hint_bytes"),
        SettingError::UnknownOfCollection { .. }
        | SettingError::Collection { .. }
        | SettingError::SystemCollection(_)
        | SettingError::TooManyCollections(_)
        | SettingError::TooManyFactors { .. } => None,
    }
}

/// A small text file; the error says what happened to which file.
pub(super) fn read_bounded(path: &Path, max: u64) -> Result<String, String> {
    use std::io::Read;
    let fail = |error: std::io::Error| format!("can't read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    file.take(max + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > max {
        return Err(format!("{} is larger than {max} bytes: is it the right file?", path.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
