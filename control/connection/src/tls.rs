//! TLS 1.3 with raw Ed25519 keys, which carries every control connection.
//!
//! Both ends prove possession of their key (RFC 7250, RFC 8446 4.4.3); TLS accepts any such key.
//! The node decides right after the handshake whether it knows the key. It can then answer a
//! stranger with a reason and keep the key for approval; a TLS alert could say neither.

use std::sync::Arc;

use culvert_protocol::identity::{Identity, PublicKey};
use culvert_protocol::keys::{EXPORTER_LABEL, SECRET_BYTES, Secret};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

/// The application protocol: other TLS clients on the same port fail in the handshake.
const ALPN: &[u8] = b"culvert/1";

/// Accepts any Ed25519 key whose owner signs the handshake.
#[derive(Debug)]
struct AnyEd25519Key {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyEd25519Key {
    fn check(key: &CertificateDer<'_>) -> Result<(), Error> {
        PublicKey::from_spki(key).map(drop).map_err(|error| Error::General(error.to_string()))
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for AnyEd25519Key {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyEd25519Key {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// One identity's configuration as TLS client and server.
#[derive(Clone, Debug)]
pub struct TlsConfigs {
    /// For connections that this node makes.
    pub client: Arc<ClientConfig>,
    /// For connections that it accepts.
    pub server: Arc<ServerConfig>,
}

impl TlsConfigs {
    /// Makes the configurations. AWS-LC does the cryptography. X25519MLKEM768 is offered first, so
    /// that a recorded connection stays closed to quantum computers.
    ///
    /// # Panics
    /// If rustls and AWS-LC disagree about what they support, which their tests exclude.
    #[must_use]
    #[expect(clippy::expect_used, reason = "what rustls and AWS-LC support is no input")]
    pub fn new(identity: &Identity) -> Self {
        //= W-30
        //# TLS 1.3 only. Both ends present a raw Ed25519 public key (RFC 7250).
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        // Borrowed: a copy would not be erased from memory when it is dropped.
        let key = PrivatePkcs8KeyDer::from(identity.to_pkcs8());
        let key = aws_lc_rs::sign::any_eddsa_type(&key).expect("an identity is an Ed25519 key");
        let public = CertificateDer::from(identity.public_key().to_spki().to_vec());
        let certified = Arc::new(CertifiedKey::new(vec![public], key));
        let verifier = Arc::new(AnyEd25519Key { algorithms: provider.signature_verification_algorithms });

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider supports TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
                certified.clone(),
            )));
        client.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would not prove the keys again.
        client.resumption = rustls::client::Resumption::disabled();

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider supports TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified)));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }
}

/// The partner's key, and the secret that only the two ends of this connection know.
///
/// # Errors
/// A description, if the handshake yielded no key or no secret.
pub fn keys_of(connection: &rustls::CommonState, exporter: &impl ExportKeys) -> Result<(PublicKey, Secret), String> {
    let key = connection.peer_certificates().and_then(|chain| chain.first()).ok_or("the partner presented no key")?;
    let key = PublicKey::from_spki(key).map_err(|error| error.to_string())?;
    let secret = Secret::filled(|secret| exporter.export(secret)).map_err(|error| error.to_string())?;
    Ok((key, secret))
}

/// A connection that exports key material (RFC 8446 7.5): rustls has one type for clients and one
/// for servers.
pub trait ExportKeys {
    /// Fills `secret`.
    ///
    /// # Errors
    /// If the handshake is not complete.
    fn export(&self, secret: &mut [u8; SECRET_BYTES]) -> Result<(), Error>;
}

impl ExportKeys for rustls::ClientConnection {
    fn export(&self, secret: &mut [u8; SECRET_BYTES]) -> Result<(), Error> {
        self.export_keying_material(secret, EXPORTER_LABEL, None).map(drop)
    }
}

impl ExportKeys for rustls::ServerConnection {
    fn export(&self, secret: &mut [u8; SECRET_BYTES]) -> Result<(), Error> {
        self.export_keying_material(secret, EXPORTER_LABEL, None).map(drop)
    }
}

/// The answer to every TLS 1.2 callback.
fn only_tls13() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
}
