//! TLS on the clients' ports, with rustls on ring.
//!
//! A [`Door`] holds the certificate and key of the moment; [`Door::reload`] takes new ones once their
//! files have changed and fit, and keeps the old ones else. [`ClientStream`] is a client's connection
//! with TLS or without: the handshake happens when it is first read from or written to, in the
//! connection's own task, within a deadline and a place at the door's gate.
//!
//! Invariants: a connection that has not ended its handshake takes a place at the gate, and loses both
//! at the deadline; a pair that does not fit is never served; keys are in no error and no `Debug`.

use super::limits::{Gate, GateFull, MAX_PENDING_PER_ADDRESS, Permit};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use x509_cert::der::Decode;

/// How long a client's handshake may take.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How often the files should be looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of the largest file of certificates or of a key.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why there is no TLS with a pair of files. What was served before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("{0} holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`); is it the right file?")]
    NoCertificate(String),
    /// There is no key in the file.
    #[error("{0} holds no private key in PEM form (`-----BEGIN PRIVATE KEY-----`); is it the right file?")]
    NoKey(String),
    /// Certificate and key don't go together, or can't be used.
    #[error("the certificate in {certificate} and the key in {key} can't be served: {reason}")]
    Unusable {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// The files of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// A pair that is served.
struct Pair {
    config: Arc<ServerConfig>,
    /// When the certificate ends, in seconds since the Unix epoch.
    expires_s: u64,
}

struct State {
    pair: Pair,
    /// The digest of what the files held when they were last looked at.
    seen: Vec<u8>,
    /// Why that is not served.
    problem: Option<String>,
}

/// What has come to the door, since the start.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    failed: AtomicU64,
    crowded: AtomicU64,
}

/// What a door shows about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoorStatus {
    /// When the certificate ends, in seconds since the Unix epoch.
    pub expires_s: u64,
    /// Why newer files are not served.
    pub problem: Option<String>,
    /// Handshakes that succeeded.
    pub opened: u64,
    /// Handshakes that failed or took too long.
    pub failed: u64,
    /// Connections that found no place at the gate.
    pub crowded: u64,
    /// Handshakes under way.
    pub pending: u64,
}

/// The certificate of the moment, and the places for handshakes under way.
pub struct Door {
    files: Files,
    state: Mutex<State>,
    gate: Arc<Gate>,
    counts: Counts,
}

impl Door {
    /// A door with the pair of these files, and `places` for handshakes under way.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(certificate: &Path, key: &Path, places: usize) -> Result<Arc<Self>, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let texts = files.read()?;
        let state = State { pair: files.pair(&texts)?, seen: digest(&texts), problem: None };
        let gate = Arc::new(Gate::new(places, MAX_PENDING_PER_ADDRESS));
        Ok(Arc::new(Self { files, state: Mutex::new(state), gate, counts: Counts::default() }))
    }

    /// A client's connection, whose handshake begins when it is first read from or written to.
    ///
    /// # Errors
    /// [`GateFull`] when too many are under way.
    pub fn enter(self: &Arc<Self>, stream: TcpStream, address: IpAddr) -> Result<ClientStream, GateFull> {
        let permit = self.gate.enter(address).inspect_err(|_| {
            self.counts.crowded.fetch_add(1, Ordering::Relaxed);
        })?;
        let config = Arc::clone(&self.lock().pair.config);
        let opening = Opening {
            accept: TlsAcceptor::from(config).accept(stream),
            deadline: Box::pin(tokio::time::sleep(HANDSHAKE_DEADLINE)),
            door: Arc::clone(self),
            _permit: permit,
        };
        Ok(ClientStream::Opening(Box::new(opening)))
    }

    /// Looks at the files, and serves what they hold if it is new. `None` if nothing has changed; to be
    /// called every [`RELOAD_INTERVAL`]. Reads files.
    ///
    /// # Errors
    /// [`TlsError`] when they are new and can't be served; the old pair is served on, and the error
    /// stays in the [`DoorStatus`].
    pub fn reload(&self) -> Option<Result<(), TlsError>> {
        let read = self.files.read();
        let seen = read.as_ref().map_or_else(|error| error.to_string().into_bytes(), digest);
        if self.lock().seen == seen {
            return None;
        }
        let pair = read.and_then(|texts| self.files.pair(&texts));
        let mut state = self.lock();
        state.seen = seen;
        state.problem = pair.as_ref().err().map(ToString::to_string);
        Some(pair.map(|pair| state.pair = pair))
    }

    /// What it shows about itself.
    #[must_use]
    pub fn status(&self) -> DoorStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let state = self.lock();
        DoorStatus {
            expires_s: state.pair.expires_s,
            problem: state.problem.clone(),
            opened: count(&self.counts.opened),
            failed: count(&self.counts.failed),
            crowded: count(&self.counts.crowded),
            pending: self.gate.pending() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // It is changed by assignments only, so it is true even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("files", &self.files).finish_non_exhaustive()
    }
}

type Texts = [zeroize::Zeroizing<Vec<u8>>; 2];

impl Files {
    fn read(&self) -> Result<Texts, TlsError> {
        Ok([read(&self.certificate)?, read(&self.key)?])
    }

    fn pair(&self, [certificate, key]: &Texts) -> Result<Pair, TlsError> {
        let names = || (self.certificate.display().to_string(), self.key.display().to_string());
        let unusable = |reason: String| {
            let (certificate, key) = names();
            TlsError::Unusable { certificate, key, reason }
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
        let first = chain.first().ok_or_else(|| TlsError::NoCertificate(names().0))?;
        let ends = x509_cert::Certificate::from_der(first).map_err(|error| unusable(error.to_string()))?;
        let ends = ends.tbs_certificate().validity().not_after.to_unix_duration();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey(names().1))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => unusable("they are not of one pair".to_owned()),
                other => unusable(other.to_string()),
            })?;
        Ok(Pair { config: Arc::new(config), expires_s: ends.as_secs() })
    }
}

fn read(file: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    use std::io::Read;
    let fail = |source| TlsError::Read { file: file.display().to_string(), source };
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(file).map_err(fail)?;
    opened.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn digest(texts: &Texts) -> Vec<u8> {
    use ring::digest::{SHA256, digest};
    texts.iter().flat_map(|text| digest(&SHA256, text).as_ref().to_vec()).collect()
}

/// Makes ring what TLS clients of this process rest on, unless the program has chosen before.
pub fn use_ring() {
    _ = default_provider().install_default();
}

/// A handshake under way.
pub struct Opening {
    accept: Accept<TcpStream>,
    deadline: Pin<Box<Sleep>>,
    door: Arc<Door>,
    _permit: Permit,
}

/// A client's connection.
pub enum ClientStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS, before its handshake ended.
    Opening(Box<Opening>),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "ClientStream::Plain",
            Self::Opening(_) => "ClientStream::Opening",
            Self::Tls(_) => "ClientStream::Tls",
        })
    }
}

impl ClientStream {
    /// Whether what passes can't be read by others.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Goes on with the handshake. Ready once it has succeeded.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Opening(opening) = self else { return Poll::Ready(Ok(())) };
        let ended = match Pin::new(&mut opening.accept).poll(cx) {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                ready!(opening.deadline.as_mut().poll(cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        let counts = &opening.door.counts;
        let count = if ended.is_ok() { &counts.opened } else { &counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
        *self = Self::Tls(Box::new(ended?));
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Self::Plain(stream) = &mut *self {
            return Pin::new(stream).poll_read(cx, buffer);
        }
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Plain(_) | Self::Opening(_) => Poll::Pending,
        }
    }
}

impl AsyncWrite for ClientStream {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Self::Plain(stream) = &mut *self {
            return Pin::new(stream).poll_write(cx, bytes);
        }
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(_) | Self::Opening(_) => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Opening(_) => Poll::Pending,
        }
    }

    fn is_write_vectored(&self) -> bool {
        // TLS gathers parts as well.
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            // Nothing is kept back without TLS, and nothing was written before its handshake ended.
            Self::Plain(_) | Self::Opening(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Opening(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
