//! Three members of etcd, and a client of their key-value service.
//!
//! The service speaks gRPC: a request is a POST of HTTP/2 with one message of protocol buffers, and its status comes in
//! the trailers. What the comparison needs of both is so little that it is written here.

use crate::support::processes::{Process, ask, free_ports};
use anyhow::{Context, Result, bail, ensure};
use axum::body::Bytes;
use axum::http::{HeaderMap, Request};
use h2::client::SendRequest;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// etcd takes up to 128 operations in one transaction.
pub const MOST_IN_TRANSACTION: u64 = 100;
/// How long an election may take.
const ELECTION: Duration = Duration::from_secs(30);

/// Its version, if it is installed.
pub fn version() -> Option<String> {
    let output = Command::new("etcd").arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.replace(" Version:", "").trim().to_owned())
}

/// Three members with default settings: a write is on the disks of a majority before it is answered.
pub struct Etcd {
    directory: PathBuf,
    ports: [u16; 3],
    peers: [u16; 3],
    pub processes: Vec<Process>,
}

impl Etcd {
    /// Returns when they have a leader.
    pub fn start(directory: &Path) -> Result<Self> {
        let (ports, peers) = (free_ports()?, free_ports()?);
        let mut etcd = Self { directory: directory.to_owned(), ports, peers, processes: Vec::new() };
        etcd.begin()?;
        Ok(etcd)
    }

    /// Ends all and starts them again. Version 3.4 copies a buffer at each read that is as large as the largest batch of
    /// writes since the start; without this, reads would pay for the way in which the keys were filled in.
    pub fn restart(&mut self) -> Result<()> {
        self.processes.drain(..).try_for_each(Process::stop)?;
        self.begin()
    }

    fn begin(&mut self) -> Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            self.peers.iter().map(|port| format!("etcd-{port}={}", url(*port))).collect();
        for (port, peer) in self.ports.into_iter().zip(self.peers) {
            let name = format!("etcd-{peer}");
            let mut command = Command::new("etcd");
            command.stdin(Stdio::null());
            command.args(["--name", &name, "--initial-cluster", &cluster.join(",")]);
            command.args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)]);
            command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
            command.arg("--data-dir").arg(self.directory.join(&name));
            let log = self.directory.join(format!("{name}.log"));
            self.processes.push(Process::start(&mut command, log)?);
        }
        self.leader().map(|_| ())
    }

    /// The port of the member that leads.
    pub fn leader(&self) -> Result<u16> {
        let began = Instant::now();
        while began.elapsed() < ELECTION {
            if let Some(port) = self.ports.into_iter().find(|port| leads(*port)) {
                return Ok(port);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("etcd has no leader after {} s", ELECTION.as_secs())
    }
}

/// What its gateway tells of a member, in JSON with numbers as text.
#[derive(Deserialize)]
struct Status {
    header: Header,
    leader: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    member_id: String,
}

fn leads(port: u16) -> bool {
    let request = "POST /v3/maintenance/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Content-Length: 2\r\n\r\n{}";
    let status = ask(port, request, |_| false).ok().and_then(|answer| {
        let body = answer.split_once("\r\n\r\n")?.1;
        serde_json::from_str::<Status>(body).ok()
    });
    status.is_some_and(|status| status.leader.is_some_and(|leader| leader == status.header.member_id))
}

/// One connection.
pub struct Client {
    requests: SendRequest<Bytes>,
    port: u16,
}

impl Client {
    /// The connection is a task of the runtime that this is called in.
    pub async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        // Its errors are those of the requests, too.
        tokio::spawn(connection);
        Ok(Self { requests, port })
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        self.call("Put", &put_request(key, value)).await.map(|_| ())
    }

    /// Fails if there is no such key.
    pub async fn get(&mut self, key: &str, is_serializable: bool) -> Result<()> {
        let mut message = Vec::new();
        field(&mut message, 1, key.as_bytes());
        if is_serializable {
            // The 7th field, a number: 1.
            message.extend_from_slice(&[7 << 3, 1]);
        }
        let answer = self.call("Range", &message).await?;
        ensure!(answer.windows(key.len()).any(|part| part == key.as_bytes()), "{key} was not found");
        Ok(())
    }

    /// At most [`MOST_IN_TRANSACTION`] at once.
    pub async fn put_all(&mut self, keys: impl Iterator<Item = String>, value: &str) -> Result<()> {
        let mut message = Vec::new();
        for key in keys {
            let mut operation = Vec::new();
            field(&mut operation, 2, &put_request(&key, value));
            field(&mut message, 2, &operation);
        }
        self.call("Txn", &message).await.map(|_| ())
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        let request = Request::post(format!("http://127.0.0.1:{}/etcdserverpb.KV/{method}", self.port))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        // Not compressed, and the length.
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        framed.extend_from_slice(message);
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut out) = requests.send_request(request, false)?;
        out.send_data(Bytes::from(framed), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut answer = Vec::new();
        while let Some(part) = body.data().await {
            let part = part?;
            answer.extend_from_slice(&part);
            body.flow_control().release_capacity(part.len())?;
        }
        // Who refuses at once has no trailers.
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        check(&trailers)?;
        Ok(answer)
    }
}

fn check(trailers: &HeaderMap) -> Result<()> {
    let told = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let status = told("grpc-status").context("an answer without a status")?;
    ensure!(status == "0", "etcd said {status}: {}", told("grpc-message").unwrap_or_default());
    Ok(())
}

fn put_request(key: &str, value: &str) -> Vec<u8> {
    let mut message = Vec::new();
    field(&mut message, 1, key.as_bytes());
    field(&mut message, 2, value.as_bytes());
    message
}

/// A field of bytes: its number and kind, its length in groups of seven bits, the lowest first, and the bytes.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}
