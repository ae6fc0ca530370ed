//! Tokens and TLS on real members: what opens, what closes, and what nobody gets to see.

use crate::members::{Group, KITH, Member, PATIENCE, Plan, until};
use bytes::Bytes;
use kith::client::{Client, ClientError, WatchEvent, WriteOptions};
use kith::model::key::DEFAULT;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

/// Runs `kith token` against a member, showing a token unless it is empty.
fn token_command(member: &Member, token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(KITH);
    command.env_remove("KITH_TOKEN").arg("token").args(arguments);
    if !token.is_empty() {
        command.env("KITH_TOKEN", token);
    }
    command.args(["--address", &member.http.to_string()]).output().unwrap()
}

/// The text of a token that is made like this.
fn create(member: &Member, token: &str, arguments: &[&str]) -> String {
    let output = token_command(member, token, &[&["create"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn client(member: &Member, token: &str) -> Client {
    Client::builder([member.http.to_string()]).token(token).build().unwrap()
}

fn is_refused<T: std::fmt::Debug>(answer: &Result<T, ClientError>, wanted: &str) -> bool {
    answer.as_ref().is_err_and(|error| error.code() == wanted)
}

/// Sends a line of RESP and gives the first line of the answer.
pub async fn line<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, command: &str) -> String {
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_token_made_on_one_member_opens_all_and_one_that_is_revoked_closes_all() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let first = complaint(&token_command(&group[0], "", &["create", "app", "--role", "write"]));
    assert!(first.contains("--role admin"), "{first}");
    let mut early = TcpStream::connect(group[1].resp).await.unwrap();
    assert_eq!(line(&mut early, "PING").await, "+PONG\r\n");
    let admin = create(&group[0], "", &["admin", "--role", "admin"]);
    until("everybody needs a token", PATIENCE, async || {
        for member in &group.members {
            if !is_refused(&member.client().status().await, "unauthenticated") {
                return Err(member.name.clone());
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(line(&mut early, "PING").await, NOAUTH);
    group[2].until_ready().await;

    // Made on the second, used on the third and by RESP on every one.
    let app = create(&group[1], &admin, &["app", "--role", "write", "--collections", "default"]);
    let options = WriteOptions::default();
    until("the third knows it", PATIENCE, async || {
        let put = client(&group[2], &app).put(DEFAULT, b"k", Bytes::from_static(b"v"), &options).await;
        put.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert!(is_refused(
        &client(&group[2], &app).put("other", b"k", Bytes::new(), &options).await,
        "forbidden"
    ));
    assert!(is_refused(&client(&group[2], &app).leave().await, "forbidden"));
    let listed = token_command(&group[2], &admin, &["list", "--json"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(r#""name":"app""#) && !listed.contains(&app), "{listed}");
    let mut open = Vec::new();
    for member in &group.members {
        let mut stream = TcpStream::connect(member.resp).await.unwrap();
        assert_eq!(line(&mut stream, "GET k").await, NOAUTH);
        assert_eq!(line(&mut stream, &format!("AUTH app {app}")).await, "+OK\r\n");
        assert_eq!(line(&mut stream, "SET k v").await, "+OK\r\n");
        open.push(stream);
    }

    // A member that is away meanwhile learns of it, too.
    group[1].kill();
    open.remove(1);
    revoke_and_see(&mut group, &admin, &app, &mut open).await;
}

async fn revoke_and_see(group: &mut Group, admin: &str, app: &str, open: &mut [TcpStream]) {
    let refused = complaint(&token_command(&group[0], admin, &["revoke", "admin"]));
    assert!(refused.contains("last token"), "{refused}");
    assert!(complaint(&token_command(&group[0], app, &["revoke", "admin"])).contains("admin"));
    assert!(token_command(&group[0], admin, &["revoke", "app"]).status.success());
    group.start();
    group[1].until_ready().await;
    until("it is closed everywhere", Duration::from_secs(10), async || {
        for stream in open.iter_mut() {
            let answer = line(stream, "GET k").await;
            if answer != NOAUTH {
                return Err(answer);
            }
        }
        for member in &group.members {
            let answer = client(member, app).get(DEFAULT, b"k", None).await;
            if !is_refused(&answer, "unauthenticated") {
                return Err(format!("{}: {answer:?}", member.name));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(
        line(&mut open[0], &format!("AUTH {app}")).await,
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    );
    for member in &group.members {
        assert!(client(member, admin).status().await.is_ok(), "{}", member.name);
        for text in [admin, app] {
            let secret = text.rsplit('_').next().unwrap();
            assert!(!member.log().contains(secret), "a token is in the log of {}", member.name);
        }
    }
    let metrics = client(&group[0], admin).status().await.unwrap();
    assert!(metrics.warnings.is_empty(), "{:?}", metrics.warnings);
}

#[tokio::test]
async fn who_watches_with_a_token_that_is_revoked_is_told_so_and_hears_no_more() {
    let group = Group::ready(1, &Plan::default()).await;
    let member = &group[0];
    let admin = create(member, "", &["admin", "--role", "admin"]);
    let app = create(member, &admin, &["app", "--role", "read"]);
    let http = reqwest::Client::new().get(member.url(&format!("/v1/watch/{DEFAULT}"))).bearer_auth(&app);
    let mut events = http.send().await.unwrap();
    let mut watch = client(member, &app).watch(DEFAULT, b"", true);
    let synced = async { while watch.next().await.unwrap().unwrap() != WatchEvent::Synced {} };
    tokio::time::timeout(PATIENCE, synced).await.unwrap();
    let printed = group.directory.path().join("watch.out");
    let mut command = Command::new(KITH);
    command.args(["watch", "--json", "--address", &member.http.to_string()]).env("KITH_TOKEN", &app);
    command.stdin(Stdio::null()).stdout(fs::File::create(&printed).unwrap()).stderr(Stdio::piped());
    let mut command = command.spawn().unwrap();
    until("the command watches", PATIENCE, async || {
        let text = fs::read_to_string(&printed).unwrap();
        if text.contains("synced") { Ok(()) } else { Err(text) }
    })
    .await;

    assert!(token_command(member, &admin, &["revoke", "app"]).status.success());
    let told = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(is_refused(&told, "unauthenticated"), "{told:?}");
    assert!(watch.next().await.is_none());
    let mut text = String::new();
    while let Some(piece) = tokio::time::timeout(PATIENCE, events.chunk()).await.unwrap().unwrap() {
        text += std::str::from_utf8(&piece).unwrap();
    }
    let (_, last) = text.trim_end().rsplit_once("\n\n").unwrap();
    assert!(last.starts_with("event: error\ndata: {\"error\":\"unauthenticated\","), "{text}");
    until("the command ends", PATIENCE, async || {
        command.try_wait().unwrap().ok_or_else(|| "it watches".to_owned())
    })
    .await;
    let complaint = complaint(&command.wait_with_output().unwrap());
    assert!(complaint.starts_with("{\"error\":\"unauthenticated\","), "{complaint}");
}

#[tokio::test]
async fn who_holds_the_cluster_secret_makes_a_token_when_all_admins_are_lost() {
    let group = Group::ready(2, &Plan::default()).await;
    let _lost = create(&group[0], "", &["lost", "--role", "admin"]);
    let config = group[1].config().display().to_string();
    until("the second needs a token", PATIENCE, async || {
        if group[1].client().status().await.is_err() { Ok(()) } else { Err(String::new()) }
    })
    .await;
    let denied = complaint(&token_command(&group[1], "", &["create", "new", "--role", "admin"]));
    assert!(denied.contains("token"), "{denied}");
    // The address comes from the file, whatever else is said.
    let new = create(&group[0], "kith_wrong_token", &["new", "--role", "admin", "--config", &config]);
    assert!(client(&group[1], &new).status().await.is_ok());

    let other = group.directory.path().join("other.toml");
    let text = fs::read_to_string(group[1].config()).unwrap();
    fs::write(&other, text.replace(&Plan::default().secret, "another secret of some length")).unwrap();
    let other = other.display().to_string();
    let denied = token_command(&group[1], "", &["create", "x", "--role", "admin", "--config", &other]);
    assert!(complaint(&denied).contains("no token of this cluster"));
    for member in &group.members {
        assert!(!member.log().contains("kith-operator"), "{}", member.log());
    }
}

/// An address of this machine that is not loopback, if it has one. Nothing is sent.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 200), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

/// Connects as somebody from elsewhere would: by an address that is neither loopback nor the member's.
async fn connect_from(outer: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(outer, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

async fn http_from(outer: IpAddr, to: SocketAddr, path: &str) -> String {
    let mut stream = connect_from(outer, to).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: member\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn without_tokens_other_machines_are_served_only_if_the_file_says_so() {
    let Some(outer) = outer_address() else {
        eprintln!("this machine has no address but loopback; nothing is shown");
        return;
    };
    let open = "[clients]\nwithout_tokens = \"anyone\"\n";
    let mut group = Group::empty().await;
    group.add_together(2, &Plan::default());
    group.members[1].plan.tables = open.to_owned();
    group.members[1].write_config();
    group.start();
    group.until_ready().await;

    let refused = http_from(outer, group[0].http, "/v1/status").await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains(r#""error":"no_tokens""#), "{refused}");
    assert!(refused.contains("kith token create"), "{refused}");
    assert!(http_from(outer, group[0].http, "/health/ready").await.starts_with("HTTP/1.1 200"));
    let mut stream = connect_from(outer, group[0].resp).await;
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("-DENIED this cluster has no tokens yet") && told.ends_with("\r\n"), "{told}");

    assert!(http_from(outer, group[1].http, "/v1/status").await.starts_with("HTTP/1.1 200"));
    let mut stream = connect_from(outer, group[1].resp).await;
    assert_eq!(line(&mut stream, "SET k v").await, "+OK\r\n");

    let admin = create(&group[0], "", &["admin", "--role", "admin"]);
    until("everybody needs a token", PATIENCE, async || {
        let answer = http_from(outer, group[1].http, "/v1/status").await;
        if answer.contains(r#""error":"unauthenticated""#) { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(line(&mut stream, "GET k").await, NOAUTH);
    assert_eq!(line(&mut stream, &format!("AUTH {admin}")).await, "+OK\r\n");
    let mut stream = connect_from(outer, group[0].resp).await;
    assert_eq!(line(&mut stream, &format!("AUTH {admin}")).await, "+OK\r\n");
}

/// An authority and what it has vouched for.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// A certificate for this machine and its key.
    fn vouch(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// A first token, an admin's, made by the command line over TLS.
    pub fn first_token(&self, group: &Group) -> String {
        let ca = group.directory.path().join("ca.pem");
        fs::write(&ca, self.pem()).unwrap();
        let config = group[0].config().display().to_string();
        let mut command = Command::new(KITH);
        command
            .args(["token", "create", "admin", "--role", "admin", "--config", &config, "--ca-file"])
            .arg(&ca);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What a member answers at a path.
    pub async fn get(&self, member: &Member, token: &str, path: &str) -> String {
        kith::security::tls::use_ring();
        let authority = reqwest::Certificate::from_pem(self.pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
        let asked = http.get(format!("https://{}{path}", member.http)).bearer_auth(token);
        asked.send().await.unwrap().text().await.unwrap()
    }

    pub fn client(&self, member: &Member, token: &str) -> Client {
        let client = Client::builder([format!("https://{}", member.http)]);
        client.token(token).authorities(self.pem()).build().unwrap()
    }
}

/// Where the certificate and key of a test's members are.
fn pair_in(directory: &Path) -> [PathBuf; 2] {
    ["certificate.pem", "key.pem"].map(|name| directory.join(name))
}

/// A cluster of two that speaks TLS with clients.
pub async fn encrypted(authority: &Authority) -> Group {
    let mut group = Group::empty().await;
    let files = pair_in(group.directory.path());
    let (certificate, key) = authority.vouch();
    fs::write(&files[0], certificate).unwrap();
    fs::write(&files[1], key).unwrap();
    let [certificate, key] = files.map(|file| file.display().to_string());
    let tables = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    group.add_together(2, &Plan { tables, ..Plan::default() });
    group.start();
    for member in &group.members {
        until(&format!("{} is ready", member.name), PATIENCE, async || {
            let client = Client::builder([format!("https://{}", member.http)]).authorities(authority.pem());
            client.build().unwrap().ready().await.map_err(|error| error.to_string())
        })
        .await;
    }
    group
}

#[tokio::test]
async fn with_tls_both_ports_are_encrypted_and_new_certificates_are_taken_without_a_restart() {
    let authority = Authority::new();
    let group = encrypted(&authority).await;
    let admin = authority.first_token(&group);
    let client = authority.client(&group[0], &admin);
    client.put(DEFAULT, b"k", Bytes::from(vec![b'v'; 300_000]), &WriteOptions::default()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(group[1].resp).await.unwrap();
    let mut resp = authority.connector().connect(name.clone(), stream).await.unwrap();
    until("the second knows the token", PATIENCE, async || {
        match line(&mut resp, &format!("AUTH {admin}")).await.as_str() {
            "+OK\r\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    // More than the sockets take at once, in both directions.
    let asked = "GET k\r\n".repeat(20);
    let (mut from, mut to) = tokio::io::split(resp);
    let (_, answered) = tokio::join!(to.write_all(asked.as_bytes()), async {
        let mut answer = vec![0; 20 * ("$300000\r\n".len() + 300_000 + 2)];
        from.read_exact(&mut answer).await.map(|_| answer)
    });
    assert!(answered.unwrap().ends_with(b"vv\r\n"));

    // Who speaks in plain text gets no answer.
    assert!(matches!(group[0].client().status().await, Err(ClientError::Foreign { .. })));
    let mut plain = TcpStream::connect(group[0].resp).await.unwrap();
    assert!(!line(&mut plain, "PING").await.contains("PONG"));

    let next = Authority::new();
    let [certificate, key] = pair_in(group.directory.path());
    let (new_certificate, new_key) = next.vouch();
    fs::write(&certificate, &new_certificate).unwrap();
    until("a pair that does not fit is told", PATIENCE, async || {
        let warnings = client.status().await.map_err(|error| error.to_string())?.warnings;
        if warnings.iter().any(|warning| warning.contains("old certificate")) {
            Ok(())
        } else {
            Err(warnings.join("; "))
        }
    })
    .await;
    assert!(authority.client(&group[0], &admin).status().await.is_ok(), "the old one is served on");
    fs::write(&key, &new_key).unwrap();
    until("the new one is served", PATIENCE, async || {
        let status = next.client(&group[0], &admin).status().await.map_err(|error| error.to_string())?;
        if status.warnings.is_empty() { Ok(()) } else { Err(status.warnings.join("; ")) }
    })
    .await;
    assert!(authority.client(&group[0], &admin).status().await.is_err());
    // What was open before goes on.
    to.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    from.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    for member in &group.members {
        assert!(
            !member.log().contains("PRIVATE KEY")
                && !member.log().contains(admin.rsplit('_').next().unwrap())
        );
    }
}

#[tokio::test]
async fn a_certificate_that_can_not_be_served_is_told_before_and_at_the_start() {
    let mut group = Group::empty().await;
    let (certificate, _) = Authority::new().vouch();
    let (_, key) = Authority::new().vouch();
    let files = pair_in(group.directory.path());
    fs::write(&files[0], certificate).unwrap();
    fs::write(&files[1], key).unwrap();
    let [certificate, key] = files.map(|file| file.display().to_string());
    let tables = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    group.add("only", Plan { tables, ..Plan::default() });
    let config = group[0].config().display().to_string();
    let checked = Command::new(KITH).args(["check-config", &config]).output().unwrap();
    assert!(complaint(&checked).contains("not of one pair"), "{checked:?}");
    group.start();
    assert_eq!(group[0].ended(PATIENCE).await.code(), Some(1));
    assert!(group[0].log().contains("not of one pair"), "{}", group[0].log());
}
