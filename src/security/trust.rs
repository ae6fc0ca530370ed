//! Whom a client trusts over TLS, and why a handshake with a member failed.
//!
//! A file of authorities names who may vouch for members. A member's own certificate in it vouches for itself,
//! also where it calls itself an authority, which the usual `openssl req -x509` makes: the web's rules allow no
//! authority to be a server, but who names one certificate means exactly that one. Only what calls itself an authority
//! vouches for others.
//!
//! Invariants: also a certificate that is trusted by itself must be for the name that was asked for and within
//! its time, and its holder must prove to have its key; nothing here is for the members among themselves.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

/// Why there is no TLS with a member. Nothing was sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsProblem {
    /// Nobody vouches for its certificate who is trusted.
    #[error(
        "its certificate is not trusted ({reason}); name the file of its authority with --ca-file or KITH_CA_FILE, or of the certificate itself if it is signed by none"
    )]
    Untrusted {
        /// What is wrong with it.
        reason: String,
    },
    /// Its certificate is for other names.
    #[error(
        "its certificate is for {}, not for {wanted}; write a name that it has, or make one with this name (`subjectAltName`)",
        listed(names)
    )]
    WrongName {
        /// The name or address that was asked for.
        wanted: String,
        /// The names and addresses that it has.
        names: Vec<String>,
    },
    /// Its certificate has ended.
    #[error(
        "its certificate has expired; give that member a new one, or is the clock of this machine wrong?"
    )]
    Expired,
    /// Its certificate has not begun.
    #[error("its certificate is not valid yet; is the clock of this machine wrong?")]
    NotYetValid,
    /// What answers there is no TLS.
    #[error("it speaks no TLS; write the address without https://")]
    NotSpoken,
    /// The handshake failed in another way.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

impl TlsProblem {
    /// The problem that an error is about, or one of its causes; `None` if it is about no TLS.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from(error));
            }
            cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                // The source of what it wraps is not what it wraps.
                Some(wrapped) => Some(wrapped),
                None => error.source(),
            };
        }
        None
    }
}

impl From<&rustls::Error> for TlsProblem {
    fn from(error: &rustls::Error) -> Self {
        use CertificateError as C;
        match error {
            rustls::Error::InvalidCertificate(problem) => match problem {
                C::Expired | C::ExpiredContext { .. } => Self::Expired,
                C::NotValidYet | C::NotValidYetContext { .. } => Self::NotYetValid,
                C::NotValidForNameContext { expected, presented } => Self::WrongName {
                    wanted: expected.to_str().into_owned(),
                    names: presented.iter().map(|name| bare(name)).collect(),
                },
                C::UnknownIssuer => Self::Untrusted { reason: "nobody who is trusted signed it".to_owned() },
                C::Other(other) if is_own_authority(other) => Self::Untrusted {
                    reason: "it vouches for itself and is not the one that was named".to_owned(),
                },
                other => Self::Untrusted { reason: other.to_string() },
            },
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotSpoken,
            other => Self::Handshake(other.to_string()),
        }
    }
}

/// Whether a certificate was refused because it calls itself an authority.
fn is_own_authority(error: &OtherError) -> bool {
    error.0.to_string() == "CaUsedAsEndEntity"
}

/// Whether a certificate may vouch for others.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let Ok(Some((_, constraints))) = certificate.tbs_certificate().get_extension::<BasicConstraints>() else {
        return false;
    };
    let usage = certificate.tbs_certificate().get_extension::<KeyUsage>();
    constraints.ca && usage.is_ok_and(|usage| usage.is_none_or(|(_, usage)| usage.key_cert_sign()))
}

/// `DnsName("a")` and `IpAddress(::1)` without what stands around them.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

/// TLS that trusts only these certificates (PEM) and whom they vouch for; `None` if there are none.
#[must_use]
pub fn trusting(pem: &[u8]) -> Option<ClientConfig> {
    let named = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    if named.is_empty() {
        return None;
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(named.iter().filter(|named| is_authority(named)).cloned());
    let is_alone = roots.is_empty();
    let provider = Arc::new(default_provider());
    let web = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    // Without an authority among them, nobody is vouched for.
    let web = if is_alone { None } else { Some(web.build().ok()?) };
    let trust = Trust { named, web, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    Some(config.dangerous().with_custom_certificate_verifier(Arc::new(trust)).with_no_client_auth())
}

/// The certificates that were named, and the web's rules for those that they vouch for.
#[derive(Debug)]
struct Trust {
    named: Vec<CertificateDer<'static>>,
    web: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.named.iter().any(|named| named == certificate) {
            let web = self.web.as_ref().ok_or(CertificateError::UnknownIssuer)?;
            return web.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        }
        within_its_time(certificate, now)?;
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn within_its_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let (validity, now) = (parsed.tbs_certificate().validity(), Duration::from_secs(now.as_secs()));
    if now < validity.not_before.to_unix_duration() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}
