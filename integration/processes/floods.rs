//! Strangers that knock without an end, and clients that waste a member's time.
//!
//! The attacker has a loopback address of its own, as a stranger would; it is bounded, so that it is the
//! members that are measured and not the machine.

use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::security::{Authority, encrypted, line};
use kith::client::{Client, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::status::Link;
use kith::security::{ClusterKeys, Credentials, Identity, Keyring, ProtocolRange, Role, Secret};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;

/// Where the attacker sits.
const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Connections to the members' port that say nothing, or only begin to speak; so many are made, and the
/// attacker closes none of the latest.
const HALF_OPEN: usize = 10_000;
/// Tasks that open them, and the pause of each after every one.
const KNOCKERS: usize = 20;
const KNOCK_PAUSE: Duration = Duration::from_millis(10);
/// The pause of who guesses tokens, at each port, after every one.
const GUESS_PAUSE: Duration = Duration::from_millis(2);
/// Clients that send a request byte by byte, at each of the clients' ports.
const SLOW: usize = 300;
/// Clients that ask for large values and read no answer.
const DEAF: usize = 20;
const LARGE_BYTES: usize = 512 << 10;
/// Handshakes with a wrong secret that one task makes one after the other.
const LIARS: usize = 2;
/// Healthy clients, and how long their operations are measured, in each of so many rounds with and without the
/// attack: what else the machine does meets both.
const HEALTHY: usize = 4;
const MEASURED: Duration = Duration::from_millis(1_500);
const ROUNDS: usize = 3;
/// Quicker than this the machine itself is what is measured.
const NOISE: Duration = Duration::from_millis(20);
/// What a member may need for all that: places for handshakes and some room, those that are slow, its bounded buffers.
const HANDSHAKES: usize = 256 + 50;
const MORE_DESCRIPTORS: usize = 2 * SLOW + DEAF + HANDSHAKES;
const MORE_BYTES: u64 = 160 << 20;

fn descriptors(member: &Member) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", member.pid().unwrap())).unwrap().count()
}

fn resident_bytes(member: &Member) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", member.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ATTACKER, 0)).ok()?;
    tokio::time::timeout(Duration::from_secs(5), socket.connect(address)).await.ok()?.ok()
}

/// Writes and reads of healthy clients; the time that 99 of 100 stay below.
async fn p99(members: &[Member], client: impl Fn(&Member) -> Client) -> Duration {
    let ends = Instant::now() + MEASURED;
    let mut clients = JoinSet::new();
    for number in 0..HEALTHY {
        let client = client(&members[number % members.len()]);
        clients.spawn(async move {
            let (mut took, key) = (Vec::new(), format!("healthy/{number}"));
            while Instant::now() < ends {
                let began = Instant::now();
                client.put(DEFAULT, key.as_bytes(), "v".into(), &WriteOptions::default()).await.unwrap();
                took.push(began.elapsed());
                let began = Instant::now();
                client.get(DEFAULT, key.as_bytes(), Some(Level::One)).await.unwrap().unwrap();
                took.push(began.elapsed());
            }
            took
        });
    }
    let mut took = clients.join_all().await.concat();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// What attacks cost healthy clients and the member that is attacked, round by round.
#[derive(Default)]
struct Toll {
    quiet: Vec<Duration>,
    attacked: Vec<Duration>,
    more_files: usize,
    more_bytes: u64,
}

impl Toll {
    /// Measures healthy clients, then the same with the attack on the first member that `begin` gives once it is on
    /// its way. Gives the attack and the descriptors from before it.
    async fn round<A>(
        &mut self,
        members: &[Member],
        client: impl Fn(&Member) -> Client,
        begin: impl AsyncFnOnce() -> A,
    ) -> (A, usize) {
        self.quiet.push(p99(members, &client).await);
        let (files, bytes) = (descriptors(&members[0]), resident_bytes(&members[0]));
        let attack = begin().await;
        self.attacked.push(p99(members, &client).await);
        self.more_files = self.more_files.max(descriptors(&members[0]).saturating_sub(files));
        self.more_bytes = self.more_bytes.max(resident_bytes(&members[0]).saturating_sub(bytes));
        (attack, files)
    }

    fn judge(mut self, attacked: &Member, more_descriptors: usize) {
        self.quiet.sort_unstable();
        self.attacked.sort_unstable();
        let Self { quiet, attacked: slowed, more_files, more_bytes } = self;
        let figures = format!(
            "p99 {quiet:?}, attacked {slowed:?}; {more_files} more descriptors, {more_bytes} more bytes"
        );
        eprintln!("{figures}");
        assert!(more_files <= more_descriptors && more_bytes <= MORE_BYTES, "{figures}");
        assert!(slowed[ROUNDS / 2] <= 2 * quiet[ROUNDS / 2].max(NOISE), "{figures}");
        let lines = attacked.log().lines().count();
        assert!(lines < 1_000, "the flood fills the log: {lines} lines");
    }
}

/// Waits until a member has no more descriptors than it had before a flood, but for a few.
async fn until_given_back(member: &Member, files: usize) {
    until("what the flood took is given back", PATIENCE, async || {
        let left = descriptors(member);
        if left <= files + 20 { Ok(()) } else { Err(format!("{left} descriptors, {files} before")) }
    })
    .await;
}

/// Everything that knocks, until it is dropped.
struct Attack {
    refused: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Attack {
    fn on(target: &Member, knocked: &Arc<AtomicUsize>) -> Self {
        let refused: Arc<AtomicUsize> = Arc::default();
        let mut tasks = JoinSet::new();
        let (peers, http, resp) = (target.peers, target.http, target.resp);
        for knocker in 0..KNOCKERS {
            let knocked = Arc::clone(knocked);
            tasks.spawn(async move {
                let mut open = VecDeque::new();
                for number in 0.. {
                    if open.len() >= HALF_OPEN / KNOCKERS {
                        open.pop_front();
                    }
                    if let Some(mut stream) = connect(peers).await {
                        let begun: &[u8] = [&b""[..], &[2, 0, 48], &[0xff; 64], b"GET / HTTP/1.1\r\n"]
                            [(knocker + number) % 4];
                        // Whether it is heard or the connection is already closed makes no difference.
                        let _ = stream.write_all(begun).await;
                        open.push_back(stream);
                    }
                    knocked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(KNOCK_PAUSE).await;
                }
            });
        }
        for _ in 0..SLOW {
            tasks.spawn(drip(
                http,
                b"GET /v1/kv/default/key HTTP/1.1\r\nhost: slow\r\nx-slow: aaaaaaaaaaaaaaa",
            ));
            tasks
                .spawn(drip(resp, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$100000\r\naaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        }
        for _ in 0..DEAF {
            tasks.spawn(async move {
                let Some(mut stream) = connect(resp).await else { return };
                let asked = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(200);
                let _ = stream.write_all(&asked).await;
                std::future::pending().await
            });
        }
        for _ in 0..LIARS {
            let refused = Arc::clone(&refused);
            tasks.spawn(async move {
                let secret = Secret::parse("not the secret of this cluster").unwrap();
                let keys = ClusterKeys::derive(&secret, &Plan::default().cluster).unwrap();
                let credentials = Credentials {
                    identity: Identity::generate([7; 32]).unwrap(),
                    keyring: Keyring::new(keys, None),
                    cluster: Plan::default().cluster,
                    protocol: ProtocolRange { min: 1, max: u16::MAX },
                };
                loop {
                    let to = peers.to_string();
                    let deadline = Duration::from_secs(2);
                    let link = kith::transport::connect(&to, &credentials, Role::Member, b"", deadline).await;
                    assert!(link.is_err(), "a wrong secret opened a link");
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(KNOCK_PAUSE).await;
                }
            });
        }
        Self { refused, _tasks: tasks }
    }
}

/// Sends a request byte by byte and never ends it; once it is cut off it begins anew.
async fn drip(to: SocketAddr, request: &'static [u8]) {
    loop {
        if let Some(mut stream) = connect(to).await {
            for byte in request {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let _ = stream.read(&mut [0; 64]).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_and_slow_clients_cost_healthy_ones_little_and_are_bounded_and_members_get_in_meanwhile() {
    let mut group = Group::alone().await;
    group.add_together(3, &Plan::default());
    group.start();
    group.until_ready().await;
    let options = WriteOptions::default();
    let large = vec![b'x'; LARGE_BYTES];
    group[0].client().put(DEFAULT, b"large", large.into(), &options).await.unwrap();

    let knocked: Arc<AtomicUsize> = Arc::default();
    let mut toll = Toll::default();
    for round in 0..ROUNDS {
        let begin = async || {
            let attack = Attack::on(&group[0], &knocked);
            let goal = (round + 1) * HALF_OPEN / ROUNDS;
            until("the attack is on its way", PATIENCE, async || {
                let (knocked, refused) =
                    (knocked.load(Ordering::Relaxed), attack.refused.load(Ordering::Relaxed));
                if knocked > goal && refused > 5 { Ok(()) } else { Err(format!("{knocked} {refused}")) }
            })
            .await;
            attack
        };
        let (attack, files) = toll.round(&group.members, Member::client, begin).await;
        if round + 1 == ROUNDS {
            // A member from elsewhere is let in, the attacker is not.
            let seed = group[0].peers;
            group.add("member4", Plan::default().seeds([seed]));
            group.start();
            group.until_ready().await;
        }
        drop(attack);
        until_given_back(&group[0], files).await;
    }
    assert!(knocked.load(Ordering::Relaxed) >= HALF_OPEN);
    toll.judge(&group[0], MORE_DESCRIPTORS);
    let peers = group[0].status().await.unwrap().peers;
    assert_eq!(peers.iter().filter(|peer| peer.link == Link::Up).count(), 3, "{peers:?}");
    let cluster = group[0].client().cluster().await.unwrap();
    assert_eq!(cluster.members.len(), 4, "{cluster:?}");
}

/// Strangers at the clients' ports who speak TLS, or begin to, and have no token.
fn strangers(member: &Member, authority: &Authority, tried: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for port in [member.http, member.resp] {
        for knocker in 0..KNOCKERS / 2 {
            tasks.spawn(async move {
                let mut open = VecDeque::new();
                for number in 0.. {
                    if open.len() >= 500 {
                        open.pop_front();
                    }
                    if let Some(mut stream) = connect(port).await {
                        // Nothing, the head of a ClientHello whose rest never comes, and what is none.
                        let begun: &[u8] = [&b""[..], &[22, 3, 1, 2, 0, 1, 0], b"PING\r\nPING\r\nPING\r\n"]
                            [(knocker + number) % 3];
                        let _ = stream.write_all(begun).await;
                        open.push_back(stream);
                    }
                    tokio::time::sleep(KNOCK_PAUSE).await;
                }
            });
        }
        // Handshakes that are given up when the certificate has come, which has cost a signature.
        let connector = Authority::new().connector();
        tasks.spawn(async move {
            loop {
                if let Some(stream) = connect(port).await {
                    let name = ServerName::try_from("localhost").unwrap();
                    assert!(connector.connect(name, stream).await.is_err());
                }
                tokio::time::sleep(KNOCK_PAUSE).await;
            }
        });
    }
    let client = authority.client(member, "kith_admin_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    let guessed = Arc::clone(tried);
    tasks.spawn(async move {
        loop {
            let refused = client.status().await.unwrap_err();
            assert!(refused.to_string().contains("no token of this cluster"), "{refused}");
            guessed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(GUESS_PAUSE).await;
        }
    });
    let (connector, resp, guessed) = (authority.connector(), member.resp, Arc::clone(tried));
    tasks.spawn(async move {
        let stream = TcpStream::connect(resp).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        loop {
            let answer =
                line(&mut stream, "AUTH kith_admin_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
                    .await;
            assert!(answer.starts_with("-WRONGPASS"), "{answer}");
            guessed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(GUESS_PAUSE).await;
        }
    });
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_tls_handshakes_and_of_wrong_tokens_cost_healthy_clients_little_and_are_bounded() {
    let authority = Authority::new();
    let group = encrypted(&authority).await;
    let admin = authority.first_token(&group);
    let healthy = |member: &Member| authority.client(member, &admin);
    until("the second knows the token", PATIENCE, async || {
        healthy(&group[1]).status().await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let mut toll = Toll::default();
    let tried: Arc<AtomicUsize> = Arc::default();
    for _ in 0..ROUNDS {
        let begin = async || {
            let before = tried.load(Ordering::Relaxed);
            let attack = strangers(&group[0], &authority, &tried);
            until("the attack is on its way", PATIENCE, async || {
                let tried = tried.load(Ordering::Relaxed) - before;
                if tried > 200 { Ok(()) } else { Err(format!("{tried} tokens")) }
            })
            .await;
            attack
        };
        let (attack, files) = toll.round(&group.members, healthy, begin).await;
        drop(attack);
        until_given_back(&group[0], files).await;
    }
    toll.judge(&group[0], HANDSHAKES);
    let metrics = authority.get(&group[0], &admin, "/metrics").await;
    for name in ["kith_tls_handshakes_rejected_total", "kith_tls_handshakes_failed_total"] {
        assert!(metrics.contains(name) && !metrics.contains(&format!("{name} 0\n")), "{metrics}");
    }
}

#[tokio::test]
async fn who_takes_all_files_ends_no_member_and_writes_go_on_when_they_are_given_back() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    /// Clients that say nothing, and files that are left for them: fewer.
    const IDLE: usize = 60;
    const LEFT: usize = 30;
    let mut group = Group::ready(1, &Plan { journal_bytes: Some("16MiB"), ..Plan::default() }).await;
    let mut client = TcpStream::connect(group[0].resp).await.unwrap();
    assert_eq!(line(&mut client, "PING").await, "+PONG\r\n");

    let pid = Pid::from_raw(i32::try_from(group[0].pid().unwrap()).unwrap());
    let most = descriptors(&group[0]) + LEFT;
    let few = Rlimit { current: Some(most as u64), maximum: getrlimit(Resource::Nofile).maximum };
    let old = prlimit(pid, Resource::Nofile, few).unwrap();
    assert_eq!(old.current, old.maximum, "a member may open as many files as the system permits");
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(group[0].resp).await.unwrap());
    }
    until("no file can be opened any more", PATIENCE, async || {
        let open = descriptors(&group[0]);
        if open >= most { Ok(()) } else { Err(format!("{open} of {most}")) }
    })
    .await;

    // Before the journal has grown so far, another segment is begun.
    let value = "x".repeat(LARGE_BYTES);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}", value.len());
    let mut refused = String::new();
    for _ in 0..(64 << 20) / LARGE_BYTES {
        refused = line(&mut client, &set).await;
        if refused != "+OK\r\n" {
            break;
        }
    }
    assert!(refused.starts_with('-'), "all was taken: {refused}");
    until("the member says why", PATIENCE, async || {
        let answer = line(&mut client, &set).await;
        if answer.contains("files") { Ok(()) } else { Err(answer) }
    })
    .await;
    drop(idle);
    until("writes go on", PATIENCE, async || {
        let answer = line(&mut client, &set).await;
        if answer == "+OK\r\n" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(group[0].status().await.unwrap().storage.accepts_writes);
    assert!(group[0].stop().await.success());
}
