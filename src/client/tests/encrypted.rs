//! Whom a client trusts over TLS, and what it says when it does not, with real handshakes.

use super::*;
use crate::security::tls::Door;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
};

/// What a certificate for these names is made from, within its time.
fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

/// As `openssl req -x509` makes them: signed by itself, and an authority.
fn of_openssl(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn signed_by_itself(params: &CertificateParams) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// A member that speaks TLS and holds nothing.
struct Encrypted {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Encrypted {
    async fn start(certificate: &Certificate, key: &KeyPair) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["certificate", "key"].map(|name| directory.path().join(name));
        std::fs::write(&first, certificate.pem()).unwrap();
        std::fs::write(&second, key.serialize_pem()).unwrap();
        let door = Door::open(&first, &second, 8).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (stream, from) = listener.accept().await.unwrap();
                let mut stream = door.enter(stream, from.ip()).unwrap();
                tokio::spawn(async move {
                    let mut asked = [0; 4_096];
                    if stream.read(&mut asked).await.is_ok() {
                        let answer = "HTTP/1.1 404 x\r\nconnection: close\r\ncontent-length: 43\r\n\r\n{\"error\":\"not_found\",\"message\":\"not there\"}";
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                });
            }
        });
        Self { port, task }
    }

    /// What a client gets that trusts `pem` and asks under this name.
    async fn asked(&self, name: &str, pem: &str) -> Result<(), ClientError> {
        ask(&format!("https://{name}:{}", self.port), pem).await
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads what is not there.
async fn ask(address: &str, pem: &str) -> Result<(), ClientError> {
    // A failure that is no decision would be repeated for so long.
    let patience = Duration::from_secs(60);
    let client = Client::builder([address]).authorities(pem).patience(patience).build().unwrap();
    let found = tokio::time::timeout(patience / 2, client.get("c", b"k", None)).await.unwrap()?;
    assert_eq!(found, None);
    Ok(())
}

fn problem(answer: Result<(), ClientError>) -> TlsProblem {
    match answer {
        Err(ClientError::Tls { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_that_vouches_for_itself_is_trusted_where_it_is_named_also_as_an_authority() {
    for params in [of_openssl(&["127.0.0.1", "localhost"]), params(&["127.0.0.1", "localhost"])] {
        let (certificate, key) = signed_by_itself(&params);
        let member = Encrypted::start(&certificate, &key).await;
        for name in ["127.0.0.1", "localhost"] {
            member.asked(name, &certificate.pem()).await.unwrap();
        }
        let (twin, _) = signed_by_itself(&params);
        let refused = problem(member.asked("localhost", &twin.pem()).await);
        assert!(matches!(refused, TlsProblem::Untrusted { .. }), "{refused:?}");
        assert!(refused.to_string().contains("--ca-file"), "{refused}");
        let vouches = refused.to_string().contains("it vouches for itself");
        assert_eq!(vouches, params.is_ca != IsCa::NoCa, "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_no_authority_vouches_for_itself_alone() {
    let key = KeyPair::generate().unwrap();
    let mut signing = params(&["elsewhere"]);
    signing.is_ca = IsCa::ExplicitNoCa;
    // Who has the key of a member's certificate makes another one with it, as if it were an authority's.
    let signer = CertifiedIssuer::self_signed(signing, key).unwrap();
    let (name, own_key) = (params(&["localhost"]), KeyPair::generate().unwrap());
    let member = Encrypted::start(&name.signed_by(&own_key, &signer).unwrap(), &own_key).await;
    let (authority, _) = signed_by_itself(&of_openssl(&["the authority"]));
    for named in [signer.pem(), format!("{}{}", signer.pem(), authority.pem())] {
        let refused = problem(member.asked("localhost", &named).await);
        assert!(matches!(refused, TlsProblem::Untrusted { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_trusted_must_be_for_the_name_and_within_its_time() {
    let (certificate, key) = signed_by_itself(&of_openssl(&["elsewhere", "192.0.2.1"]));
    let member = Encrypted::start(&certificate, &key).await;
    let wrong = problem(member.asked("localhost", &certificate.pem()).await);
    let names = ["elsewhere", "192.0.2.1"].map(str::to_owned).to_vec();
    assert_eq!(wrong, TlsProblem::WrongName { wanted: "localhost".to_owned(), names });

    let (mut ended, mut early) = (of_openssl(&["localhost"]), of_openssl(&["localhost"]));
    ended.not_after = date_time_ymd(2021, 1, 1);
    early.not_before = date_time_ymd(2098, 1, 1);
    for (params, expected) in [(ended, TlsProblem::Expired), (early, TlsProblem::NotYetValid)] {
        let (certificate, key) = signed_by_itself(&params);
        let member = Encrypted::start(&certificate, &key).await;
        assert_eq!(problem(member.asked("localhost", &certificate.pem()).await), expected);
    }
}

#[tokio::test]
async fn who_is_vouched_for_by_an_authority_is_trusted_by_the_same_rules() {
    let authority =
        CertifiedIssuer::self_signed(of_openssl(&["the authority"]), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["localhost"]).signed_by(&key, &authority).unwrap();
    let member = Encrypted::start(&certificate, &key).await;
    member.asked("localhost", &authority.pem()).await.unwrap();
    let wrong = problem(member.asked("127.0.0.1", &authority.pem()).await);
    assert!(matches!(wrong, TlsProblem::WrongName { .. }), "{wrong:?}");
    let (other, _) = signed_by_itself(&of_openssl(&["the authority"]));
    let refused = problem(member.asked("localhost", &other.pem()).await);
    assert!(matches!(refused, TlsProblem::Untrusted { .. }), "{refused:?}");

    let mut ended = params(&["localhost"]);
    ended.not_after = date_time_ymd(2021, 1, 1);
    let certificate = ended.signed_by(&key, &authority).unwrap();
    let member = Encrypted::start(&certificate, &key).await;
    assert_eq!(problem(member.asked("localhost", &authority.pem()).await), TlsProblem::Expired);
}

#[tokio::test]
async fn where_only_one_side_speaks_tls_that_is_told() {
    let (certificate, key) = signed_by_itself(&of_openssl(&["localhost"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://{}", listener.local_addr().unwrap());
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _hello = stream.read(&mut [0; 4_096]).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let pem = certificate.pem();
    let (asked, ()) = tokio::join!(ask(&plain, &pem), answer);
    let refused = problem(asked);
    assert!(matches!(refused, TlsProblem::NotSpoken), "{refused:?}");

    let member = Encrypted::start(&certificate, &key).await;
    let client = client_of([&format!("localhost:{}", member.port)], 0);
    for error in [client.get("c", b"k", None).await.unwrap_err(), put(&client).await.unwrap_err()] {
        assert!(matches!(error, ClientError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("https://"), "{error}");
    }
}

#[tokio::test]
async fn a_member_whose_certificate_is_refused_is_passed_over() {
    let (good, key) = signed_by_itself(&of_openssl(&["localhost"]));
    let member = Encrypted::start(&good, &key).await;
    let (strange, key) = signed_by_itself(&of_openssl(&["localhost"]));
    let stranger = Encrypted::start(&strange, &key).await;
    let addresses = [stranger.port, member.port].map(|port| format!("https://localhost:{port}"));
    let client = Client::builder(addresses).authorities(good.pem()).build().unwrap();
    assert_eq!(client.get("c", b"k", None).await.unwrap(), None);
    // It was asked once, and nothing was sent to it, so a change may go on as well.
    let error = client.increment("c", b"k", 1, &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), "not_found", "{error}");
}
