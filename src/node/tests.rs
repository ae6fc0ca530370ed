//! Members in threads of their own, and strangers that speak to them, for the tests of this floor.

use super::clock;
use super::handle::Handle;
use super::handle::status::{State, Status};
use super::{Fronts, Shutdown};
use crate::config::MemberConfig;
use crate::protocol;
use crate::protocol::introduction::{Control, Introduction};
use crate::security::{ClusterKeys, Credentials, Identity, Keyring, ProtocolRange, Role, Secret};
use crate::telemetry::Telemetry;
use crate::transport::{self, Link};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What all members and strangers of a test know.
fn secret() -> String {
    Secret::generate([7; 32])
}

/// Waits until `look` gives something; its last complaint if that takes too long.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < Duration::from_secs(60), "not in time: {what}: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a member logged.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// How a member is started.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) seeds: Vec<String>,
    pub(super) bootstrap: bool,
    /// How far its wall clock is ahead.
    pub(super) ahead_ms: u64,
    pub(super) write_timeout: &'static str,
}

impl Plan {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, seeds: Vec::new(), bootstrap: false, ahead_ms: 0, write_timeout: "1s" }
    }

    /// Its data directory.
    pub(super) fn data(&self, directory: &Path) -> PathBuf {
        directory.join(self.name)
    }

    /// Its config, with a data directory of its name below `directory`.
    pub(super) fn config(&self, directory: &Path) -> MemberConfig {
        let Self { name, seeds, bootstrap, write_timeout, .. } = self;
        let text = format!(
            "name = \"{name}\"\ncluster = \"test\"\ndata_dir = \"{name}\"\nbootstrap = {bootstrap}\nseeds = {seeds:?}\n\
            [listen]\npeers = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nresp = \"127.0.0.1:0\"\n\
            [create.settings]\nreplication_factor = 1\nwrite_timeout = \"{write_timeout}\"\n"
        );
        let config = MemberConfig::from_text(&text, &directory.join("member.toml"), &|variable| {
            (variable == "KITH_SECRET").then(secret)
        });
        config.unwrap()
    }

    /// Starts it.
    pub(super) fn start(&self, directory: &Path) -> Running {
        let (config, ahead_ms) = (self.config(directory), self.ahead_ms);
        let (shared, from_shared) = mpsc::channel();
        let (local, from_local) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let fronts = move || Fronts {
            local: Box::new(move |listener, member, access, shutdown| {
                local.send(listener.local_addr().unwrap()).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                Box::pin(crate::resp::serve(
                    listener,
                    member,
                    access,
                    crate::resp::Limits::default(),
                    ended(shutdown),
                ))
            }),
            shared: Box::new(move |_, handle, _, telemetry, shutdown| {
                shared.send((handle, telemetry)).unwrap();
                Box::pin(ended(shutdown))
            }),
            give_up: Box::new(|| {}),
        };
        let log = Log::default();
        let lines = log.clone();
        let thread = std::thread::spawn(move || {
            let stop = async { _ = stopped.await };
            clock::put_ahead(ahead_ms);
            let lines =
                tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
            tracing::subscriber::with_default(lines, || crate::node::run(config, fronts(), stop).unwrap());
        });
        let (handle, telemetry) = from_shared.recv().unwrap();
        Running { handle, telemetry, log, resp: from_local.recv().unwrap(), stop, thread }
    }
}

async fn ended(mut shutdown: Shutdown) {
    _ = shutdown.wait_for(|stop| *stop).await;
}

/// A member in a thread of its own, and what its fronts were given.
pub(super) struct Running {
    pub(super) handle: Handle,
    pub(super) telemetry: Telemetry,
    pub(super) log: Log,
    pub(super) resp: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    /// Where peers reach it.
    pub(super) async fn address(&self) -> String {
        self.handle.physical().await.unwrap().members[0].address.clone()
    }

    /// Waits until it is in a state; gives its status then.
    pub(super) async fn until(&self, state: State) -> Status {
        until(&format!("state {state}"), async || {
            let status = self.handle.status().await.unwrap();
            if status.state == state { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

/// Someone who knows the secret and says what it likes.
pub(super) struct Stranger {
    credentials: Credentials,
    introduction: Introduction,
}

impl Stranger {
    pub(super) fn new(seed: u8, name: &str, address: &str) -> Self {
        let keys = ClusterKeys::derive(&Secret::parse(&secret()).unwrap(), "test").unwrap();
        let (min, max) = protocol::VERSIONS.into_inner();
        let credentials = Credentials {
            identity: Identity::generate([seed; 32]).unwrap(),
            keyring: Keyring::new(keys, None),
            cluster: "test".to_owned(),
            protocol: ProtocolRange { min, max },
        };
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let introduction = Introduction {
            cluster: None,
            name: name.to_owned(),
            address: address.to_owned(),
            http_address: address.to_owned(),
            zone: String::new(),
            incarnation: 1,
            life: u64::from(seed),
            wall_ms: u64::try_from(wall.as_millis()).unwrap(),
            bootstrap: true,
        };
        Self { credentials, introduction }
    }

    /// The same with a program that speaks no newer version of the protocol.
    pub(super) fn speaking(mut self, protocol: u16) -> Self {
        self.credentials.protocol.max = protocol;
        self
    }

    /// Its wall clock when it was made.
    pub(super) fn made_ms(&self) -> u64 {
        self.introduction.wall_ms
    }

    pub(super) fn protocol(&self) -> ProtocolRange {
        self.credentials.protocol
    }

    /// Takes the next link of one that looks for a cluster.
    pub(super) async fn accept(&self, acceptor: &transport::Acceptor) -> Result<Link, transport::LinkError> {
        let introduction = Introduction { bootstrap: false, ..self.introduction.clone() }.encode().unwrap();
        let arrival = acceptor.next().await;
        arrival.handshake(&self.credentials, Role::Joining, &introduction, Duration::from_secs(10)).await
    }

    /// Makes a link to a member.
    pub(super) async fn dial(&self, address: &str) -> Link {
        let introduction = self.introduction.encode().unwrap();
        let dialled = transport::connect(
            address,
            &self.credentials,
            Role::Joining,
            &introduction,
            Duration::from_secs(10),
        );
        dialled.await.unwrap()
    }

    /// Says something to a member; gives the answer, and the link.
    pub(super) async fn ask(&self, address: &str, request: &Control) -> (Option<Control>, Link) {
        let mut link = self.dial(address).await;
        assert!(super::links::send_control(&mut link.writer, request).await);
        (super::links::next_control(&mut link.reader).await, link)
    }
}
