//! TLS with certificates made for the occasion, over real sockets.

use super::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A directory with a certificate for `localhost` that ends in this year, and its key.
struct Pem {
    directory: tempfile::TempDir,
}

impl Pem {
    fn new() -> Self {
        let pem = Self { directory: tempfile::tempdir().unwrap() };
        pem.write(2099);
        pem
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(self.file("certificate"), certificate.pem()).unwrap();
        fs::write(self.file("key"), key.serialize_pem()).unwrap();
    }

    fn door(&self, places: usize) -> Result<Arc<Door>, TlsError> {
        Door::open(&self.file("certificate"), &self.file("key"), places)
    }

    /// What trusts the certificate that is in the directory now.
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let pem = fs::read(self.file("certificate")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Whether a client that trusts what `connector` trusts is served by the door.
async fn is_served(door: &Arc<Door>, connector: TlsConnector) -> bool {
    let (server, client) = pair().await;
    let mut server = door.enter(server, HERE).unwrap();
    assert!(server.is_encrypted());
    let serve = async {
        let mut asked = [0; 4];
        server.read_exact(&mut asked).await?;
        server.write_all(&asked).await?;
        server.flush().await
    };
    let ask = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = connector.connect(name, client).await?;
        client.write_all(b"ping").await?;
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await?;
        Ok::<_, io::Error>(answer == *b"ping")
    };
    let (served, answered) = tokio::join!(serve, ask);
    served.is_ok() && answered.unwrap_or(false)
}

#[tokio::test]
async fn a_client_that_trusts_the_certificate_is_served_and_another_is_not() {
    let (pem, stranger) = (Pem::new(), Pem::new());
    let door = pem.door(4).unwrap();
    assert!(is_served(&door, pem.connector()).await);
    assert!(!is_served(&door, stranger.connector()).await);
    let status = door.status();
    assert_eq!((status.opened, status.failed, status.pending), (1, 1, 0));
    assert_eq!(status.expires_s, 4_070_908_800, "the first of January 2099");
}

#[tokio::test]
async fn new_files_are_served_once_they_fit_and_the_old_ones_until_then() {
    let pem = Pem::new();
    let door = pem.door(4).unwrap();
    let old = pem.connector();
    assert!(door.reload().is_none(), "nothing has changed");
    let old_key = fs::read(pem.file("key")).unwrap();
    pem.write(2098);
    let new_key = fs::read(pem.file("key")).unwrap();
    fs::write(pem.file("key"), old_key).unwrap();
    let error = door.reload().unwrap().unwrap_err();
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
    assert!(door.reload().is_none(), "it is told once");
    assert!(door.status().problem.is_some());
    assert!(is_served(&door, old.clone()).await);
    fs::write(pem.file("key"), new_key).unwrap();
    assert!(door.reload().unwrap().is_ok());
    assert_eq!(door.status().problem, None);
    assert!(is_served(&door, pem.connector()).await && !is_served(&door, old).await);
    fs::remove_file(pem.file("key")).unwrap();
    assert!(matches!(door.reload(), Some(Err(TlsError::Read { .. }))));
    assert!(door.reload().is_none() && is_served(&door, pem.connector()).await);
}

#[test]
fn files_that_can_not_be_served_are_told_apart() {
    let pem = Pem::new();
    fs::write(pem.file("certificate"), "nothing").unwrap();
    assert!(matches!(pem.door(1), Err(TlsError::NoCertificate(_))));
    pem.write(2099);
    fs::write(pem.file("key"), "nothing").unwrap();
    let error = pem.door(1).unwrap_err();
    assert!(matches!(&error, TlsError::NoKey(file) if file.ends_with("key")), "{error}");
    fs::remove_file(pem.file("certificate")).unwrap();
    assert!(matches!(pem.door(1), Err(TlsError::Read { .. })));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up_at_its_deadline_and_gives_its_place_back() {
    let pem = Pem::new();
    let door = pem.door(1).unwrap();
    let (server, _silent) = pair().await;
    let mut silent = door.enter(server, HERE).unwrap();
    let (server, _client) = pair().await;
    assert_eq!(door.enter(server, HERE).unwrap_err(), GateFull::Total);
    let ClientStream::Opening(opening) = &mut silent else { unreachable!() };
    opening.deadline.as_mut().reset(tokio::time::Instant::now());
    let error = silent.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(silent);
    assert_eq!(
        door.status(),
        DoorStatus { failed: 1, crowded: 1, expires_s: 4_070_908_800, ..DoorStatus::default() }
    );
    assert!(is_served(&door, pem.connector()).await);
}

#[tokio::test]
async fn who_does_not_speak_tls_is_closed_without_an_answer() {
    let pem = Pem::new();
    let door = pem.door(1).unwrap();
    let (server, mut client) = pair().await;
    let mut server = door.enter(server, HERE).unwrap();
    client.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(server.read(&mut [0; 8]).await.is_err());
    drop(server);
    let mut answer = Vec::new();
    // An alert, or a reset: in any case nothing of HTTP.
    _ = client.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(door.status().failed, 1);
}
