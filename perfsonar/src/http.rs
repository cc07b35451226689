//! A small HTTP client for pScheduler, archives and portals: one request per connection, over TLS
//! with a CA, with a pinned key, or explicitly without verification; bounded in time and size. It
//! follows no redirect.
//!
//! perfSONAR hosts ship with self-signed certificates, so trust on first use is the mode that works
//! for most hosts and still detects a later man in the middle.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Where distributions keep their CA certificates.
const CA_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What to do about a CA that is not known: the options of perfSONAR hosts.
const UNKNOWN_CA: &str = "its CA is not known here: name it (ca), pin the key (pin), or do without (insecure)";

/// When a server's certificate is accepted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// If a CA of this PEM file signed it; without a file, a CA that the host trusts.
    Ca(Option<std::path::PathBuf>),
    /// If its key has this pin. Without a pin any key is accepted, and the caller then keeps its
    /// pin ([`Client::seen_pin`]).
    Pin(Option<String>),
    /// Always.
    Insecure,
}

impl Trust {
    /// The trust that the word of a setting or option names.
    ///
    /// # Errors
    /// In words.
    pub fn of_word(word: &str, ca_file: Option<std::path::PathBuf>, pin: Option<String>) -> Result<Self, String> {
        match word {
            "ca" => Ok(Self::Ca(ca_file)),
            "pin" => Ok(Self::Pin(pin)),
            "insecure" => Ok(Self::Insecure),
            _ => Err(format!("unknown trust '{word}': write ca, pin or insecure")),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is not valid.
    #[error("'{0}' is not an address: write for instance https://host.example.org")]
    Url(String),
    /// CA certificates cannot be read.
    #[error("the CA certificates cannot be used: {0}")]
    Ca(String),
    /// No TCP connection.
    #[error("cannot connect to {to}: {reason}")]
    Connect {
        /// The server.
        to: String,
        /// Why not.
        reason: String,
    },
    /// The certificate is not trusted.
    #[error("{to} presents a certificate that is not trusted: {reason}")]
    Certificate {
        /// The server.
        to: String,
        /// Why not.
        reason: String,
    },
    /// The server's key is not the pinned one.
    #[error(
        "the key of {to} has CHANGED: {expected} was pinned, but it presents {found}; either it was \
         reinstalled, or somebody is impersonating it"
    )]
    PinChanged {
        /// The server.
        to: String,
        /// The pin that was kept.
        expected: String,
        /// The pin of the presented key.
        found: String,
    },
    /// No answer in time.
    #[error("{to} does not answer within {seconds} s")]
    TimeOut {
        /// The server.
        to: String,
        /// The time limit.
        seconds: u64,
    },
    /// The answer is too long.
    #[error("the answer of {to} has more than {} MiB: it is not what was requested", ANSWER_BYTES_MAX >> 20)]
    TooLong {
        /// The server.
        to: String,
    },
    /// TLS or HTTP failed.
    #[error("the connection to {to} broke: {reason}")]
    Broken {
        /// The server.
        to: String,
        /// What happened.
        reason: String,
    },
}

impl HttpError {
    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::TimeOut { .. } | Self::Broken { .. })
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's first value, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The beginning of the body as text, for errors.
    #[must_use]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    tls: Arc<ClientConfig>,
    expected_pin: Option<String>,
    seen_pin: Arc<Mutex<Option<String>>>,
    timeout: Duration,
    unknown_ca: &'static str,
}

impl Client {
    /// A client; each request may take `timeout`.
    ///
    /// # Errors
    /// [`HttpError::Ca`].
    ///
    /// # Panics
    /// If the crypto provider does not support TLS 1.2 and 1.3, which its tests rule out.
    pub fn new(trust: &Trust, timeout: Duration) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let seen_pin = Arc::new(Mutex::new(None));
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider supports TLS 1.2 and 1.3");
        let (config, expected_pin) = match trust {
            Trust::Ca(file) => (builder.with_root_certificates(roots(file.as_deref())?).with_no_client_auth(), None),
            Trust::Pin(_) | Trust::Insecure => {
                let expected = if let Trust::Pin(pin) = trust { pin.clone() } else { None };
                let verifier = PinVerifier { provider, expected: expected.clone(), seen: seen_pin.clone() };
                (
                    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
                    expected,
                )
            }
        };
        Ok(Self { tls: Arc::new(config), expected_pin, seen_pin, timeout, unknown_ca: UNKNOWN_CA })
    }

    /// The same client, with what an error says of a certificate whose CA is not known.
    #[must_use]
    pub const fn with_remedy(mut self, unknown_ca: &'static str) -> Self {
        self.unknown_ca = unknown_ca;
        self
    }

    /// The pin of the key that a server presented last.
    #[must_use]
    pub fn seen_pin(&self) -> Option<String> {
        self.seen_pin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a request and reads the whole answer. `wait` is added to the client's time limit, for
    /// requests that the server answers late on purpose.
    ///
    /// # Errors
    /// [`HttpError`]. An HTTP error status is an answer, not an error.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<Answer, HttpError> {
        let limit = self.timeout + wait;
        let to = authority(url);
        let made = tokio::time::timeout(limit, self.request_now(method, url, headers, body)).await;
        made.unwrap_or(Err(HttpError::TimeOut { to, seconds: limit.as_secs() }))
    }

    async fn request_now(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, HttpError> {
        let bad = || HttpError::Url(url.to_owned());
        let Place { uri, host, port, is_tls } = Place::of(url)?;
        let to = authority(url);
        let connect = |reason: String| HttpError::Connect { to: to.clone(), reason };
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| connect(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri.path_and_query().map_or("/", |path| path.as_str()));
        let shown_host = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        request = request
            .header("host", shown_host)
            .header("connection", "close")
            .header("user-agent", concat!("culvert/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::<Bytes>::from(body)).map_err(|_| bad())?;
        if !is_tls {
            return exchange(tcp, request, &to).await;
        }
        let name = ServerName::try_from(host).map_err(|_| bad())?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await
            .map_err(|error| self.tls_error(&to, &error))?;
        exchange(stream, request, &to).await
    }

    fn tls_error(&self, to: &str, error: &std::io::Error) -> HttpError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let broken = |reason: String| HttpError::Broken { to: to.to_owned(), reason };
        let reason = match inner {
            Some(rustls::Error::InvalidCertificate(reason)) => reason,
            Some(rustls::Error::InvalidMessage(_)) => {
                return broken("what listens there does not speak TLS".to_owned());
            }
            _ => return broken(error.to_string()),
        };
        if let (Some(expected), Some(found)) = (self.expected_pin.clone(), self.seen_pin())
            && expected != found
        {
            return HttpError::PinChanged { to: to.to_owned(), expected, found };
        }
        let hint = self.unknown_ca;
        let reason = match reason {
            CertificateError::UnknownIssuer => hint.to_owned(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it belongs to another host".to_owned()
            }
            other => format!("{other}; {hint}"),
        };
        HttpError::Certificate { to: to.to_owned(), reason }
    }
}

/// The pin of a certificate: SHA-256 of its public key, so that a renewed certificate with the same
/// key keeps it.
#[must_use]
pub fn pin_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let key = ParsedCertificate::try_from(certificate).map(|parsed| parsed.subject_public_key_info().to_vec());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_deref().unwrap_or(certificate));
    format!("sha256/{}", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// Checks a URL before it is used.
///
/// # Errors
/// [`HttpError::Url`].
pub fn check_url(url: &str) -> Result<(), HttpError> {
    let place = Place::of(url)?;
    if place.is_tls && ServerName::try_from(place.host).is_err() {
        return Err(HttpError::Url(url.to_owned()));
    }
    Ok(())
}

/// A URL, taken apart for a connection.
struct Place {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Place {
    fn of(url: &str) -> Result<Self, HttpError> {
        let bad = || HttpError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        // A port that is no number, or is too large, is not the default.
        let authority = uri.authority().ok_or_else(bad)?.as_str();
        let has_port = authority.rsplit(['@', ']']).next().is_some_and(|end| end.contains(':'));
        let port = match uri.port_u16() {
            Some(0) => return Err(bad()),
            None if has_port => return Err(bad()),
            port => port.unwrap_or(if is_tls { 443 } else { 80 }),
        };
        if host.is_empty() { Err(bad()) } else { Ok(Self { uri, host, port, is_tls }) }
    }
}

/// Host and port of a URL, without its login.
fn authority(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let authority = uri.as_ref().and_then(Uri::authority).map(hyper::http::uri::Authority::as_str);
    authority.map_or_else(|| url.to_owned(), |authority| authority.rsplit('@').next().unwrap_or(authority).to_owned())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
    to: &str,
) -> Result<Answer, HttpError> {
    let broken = |error: &dyn std::fmt::Display| HttpError::Broken { to: to.to_owned(), reason: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driving = tokio::spawn(connection);
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                HttpError::TooLong { to: to.to_owned() }
            } else {
                broken(&error)
            }
        })?;
        Ok(Answer { status, headers, body: body.to_bytes().to_vec() })
    };
    let answer = answered.await;
    driving.abort();
    answer
}

fn roots(file: Option<&std::path::Path>) -> Result<RootCertStore, HttpError> {
    let path =
        match file {
            Some(file) => file.to_owned(),
            None => CA_FILES.iter().map(std::path::PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
                HttpError::Ca("this host has none; install ca-certificates, or give a file".to_owned())
            })?,
        };
    let fail = |reason: String| HttpError::Ca(format!("{}: {reason}", path.display()));
    // A missing file is reported below. Opening a pipe would block.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(fail("it is not a file".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        // A host's bundle may contain a certificate that webpki does not understand; a file that
        // the user names must be usable as a whole.
        if let Err(error) = store.add(certificate)
            && file.is_some()
        {
            return Err(fail(error.to_string()));
        }
    }
    if store.is_empty() { Err(fail("it has no certificate".to_owned())) } else { Ok(store) }
}

/// Accepts the pinned key, or any key without a pin.
#[derive(Debug)]
struct PinVerifier {
    provider: Arc<CryptoProvider>,
    expected: Option<String>,
    seen: Arc<Mutex<Option<String>>>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pin = pin_of(certificate);
        let is_expected = self.expected.as_ref().is_none_or(|expected| *expected == pin);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
        if is_expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
