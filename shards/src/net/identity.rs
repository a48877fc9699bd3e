//! Who speaks: SPIFFE IDs in certificates, and this process's own certificate, key and CA bundle.
//!
//! The only thing believed about the other side is what a certificate says that one of the bundle's CAs signed.
//! DNS names play no part: an address may change hands, an identity may not. Session resumption is off, so that
//! every connection verifies both certificates anew.

use core::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clustor_wire::ids::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::error::NetError;
use super::preface::SessionKind;

/// The longest file of certificates or keys that is read, in bytes.
pub const IDENTITY_FILE_BYTES_MAX: u64 = 1 << 20;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const NAME_BYTES_MAX: usize = 64;
const KEY_MODE_FORBIDDEN: u32 = 0o077;

/// The role and name in a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `/node/<id>`
    Node(NodeId),
    /// `/operator/<name>`
    Operator(String),
    /// `/client/<name>`
    Client(String),
}

/// `spiffe://<trust-domain>/<role>/<name>`: who a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: String,
    role: Role,
}

impl SpiffeId {
    /// Puts an ID together.
    ///
    /// # Errors
    /// [`NetError::NoIdentity`] where the trust domain or the name break the rules of [`SpiffeId::parse`].
    pub fn new(trust_domain: &str, role: Role) -> Result<Self, NetError> {
        let id = Self {
            trust_domain: trust_domain.to_owned(),
            role,
        };
        Self::parse(&id.to_string())
    }

    /// Reads an ID. The trust domain has 1 to 255 of `a-z 0-9 . - _`, a node's id is a decimal number without
    /// leading zeros, another's name has 1 to 64 of `A-Z a-z 0-9 . - _`.
    ///
    /// # Errors
    /// [`NetError::NoIdentity`].
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let refuse = |why: &str| NetError::NoIdentity {
            of: format!("`{}`", text.chars().take(300).collect::<String>()),
            why: why.to_owned(),
        };
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| refuse("it does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let (Some(trust_domain), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse("it has not three parts"));
        };
        let domain_fits = (1..=TRUST_DOMAIN_BYTES_MAX).contains(&trust_domain.len())
            && trust_domain
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
        if !domain_fits {
            return Err(refuse("the trust domain is not 1 to 255 of a-z 0-9 . - _"));
        }
        let name_fits = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        if !name_fits {
            return Err(refuse("the name is not 1 to 64 of A-Z a-z 0-9 . - _"));
        }
        let role = match kind {
            "node" => {
                let id: u64 = name
                    .parse()
                    .map_err(|_| refuse("a node's id is a number"))?;
                if id.to_string() != name {
                    return Err(refuse("a node's id has no leading zeros or signs"));
                }
                Role::Node(NodeId(id))
            }
            "operator" => Role::Operator(name.to_owned()),
            "client" => Role::Client(name.to_owned()),
            _ => return Err(refuse("the role is none of node, operator, client")),
        };
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            role,
        })
    }

    /// The one SPIFFE ID of a certificate.
    ///
    /// # Errors
    /// [`NetError::NoIdentity`] where there is none, more than one, or not one of ours.
    pub fn of_certificate(der: &CertificateDer<'_>, of: &str) -> Result<Self, NetError> {
        let refuse = |why: String| NetError::NoIdentity {
            of: of.to_owned(),
            why,
        };
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| refuse(error.to_string()))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| refuse(error.to_string()))?
            .ok_or_else(|| refuse("it has no subject alternative names".to_owned()))?;
        let mut uris = names.value.general_names.iter().filter_map(|n| match n {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri),
            (None, _) => Err(refuse("it has no URI".to_owned())),
            (Some(_), Some(_)) => Err(refuse("it has more than one URI".to_owned())),
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The role and name.
    #[must_use]
    pub const fn role(&self) -> &Role {
        &self.role
    }

    /// The node, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self.role {
            Role::Node(node) => Some(node),
            Role::Operator(_) | Role::Client(_) => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name): (_, &dyn fmt::Display) = match &self.role {
            Role::Node(node) => ("node", node),
            Role::Operator(name) => ("operator", name),
            Role::Client(name) => ("client", name),
        };
        write!(f, "spiffe://{}/{kind}/{name}", self.trust_domain)
    }
}

/// Where an identity's three files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA bundle: PEM certificates, any of which may have issued the other side's.
    pub ca: PathBuf,
    /// This process's certificate (and intermediates): PEM.
    pub certificate: PathBuf,
    /// Its private key: PEM, mode 0600 or stricter.
    pub key: PathBuf,
}

/// This process's identity: cheap to clone, the same for all of its connections.
#[derive(Clone)]
pub struct TlsIdentity {
    id: SpiffeId,
    client: Arc<ClientConfig>,
    peer_server: Arc<ServerConfig>,
    client_server: Arc<ServerConfig>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("id", &self.id.to_string())
            .finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Loads and checks an identity as of `now`: files readable, key private and the certificate's, certificate
    /// within its time, issued by the bundle, and naming somebody.
    ///
    /// # Errors
    /// The variants of [`NetError`] that carry a path, [`NetError::NoIdentity`] and [`NetError::Setup`].
    pub fn load(files: &TlsFiles, now: SystemTime) -> Result<Self, NetError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(load_roots(&files.ca)?);
        let chain = load_certificates(&files.certificate, "certificate")?;
        let key = load_key(&files.key)?;
        check_own_certificate(files, &roots, &provider, &chain, now)?;
        let id = SpiffeId::of_certificate(&chain[0], &files.certificate.display().to_string())?;
        check_key_fits(files, &provider, &chain, &key)?;
        let setup = |error: rustls::Error| NetError::Setup {
            why: error.to_string(),
        };

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(IssuedByBundle {
                roots: roots.clone(),
                algorithms: provider.signature_verification_algorithms,
            }))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(setup)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;

        let verifier = client_verifier(&roots, &provider)?;
        let server = |kind: SessionKind| -> Result<Arc<ServerConfig>, NetError> {
            let mut server = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(setup)?
                .with_client_cert_verifier(verifier.clone())
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(setup)?;
            server.send_tls13_tickets = 0;
            server.alpn_protocols = vec![application_protocol(kind).to_vec()];
            Ok(Arc::new(server))
        };
        Ok(Self {
            id,
            client: Arc::new(client),
            peer_server: server(SessionKind::Peer)?,
            client_server: server(SessionKind::Client)?,
        })
    }

    /// Who this process is.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(super) fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    pub(super) fn server_config(&self, kind: SessionKind) -> Arc<ServerConfig> {
        match kind {
            SessionKind::Peer => self.peer_server.clone(),
            SessionKind::Client => self.client_server.clone(),
        }
    }
}

/// The TLS application protocol (ALPN) of a session kind. Inside TLS it says again, authenticated, what the
/// preface said in clear.
#[must_use]
pub const fn application_protocol(kind: SessionKind) -> &'static [u8] {
    match kind {
        SessionKind::Peer => b"clustor-peer/1",
        SessionKind::Client => b"clustor-client/1",
    }
}

/// The name every dialler asks for: never looked up, never compared; the SPIFFE ID decides.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("clustor.invalid").expect("a literal DNS name")
}

fn read_file(path: &Path, what: &'static str) -> Result<Vec<u8>, NetError> {
    let unreadable = |why: String| NetError::Unreadable {
        path: path.to_owned(),
        what,
        why,
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(IDENTITY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > IDENTITY_FILE_BYTES_MAX {
        return Err(unreadable(format!(
            "longer than {IDENTITY_FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn load_certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let malformed = |why: String| NetError::Malformed {
        path: path.to_owned(),
        what,
        why,
    };
    let bytes = read_file(path, what)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(malformed("no PEM block CERTIFICATE in it".to_owned()));
    }
    for certificate in &certificates {
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(certificates)
}

fn load_roots(path: &Path) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path, "CA bundle")? {
        roots
            .add(certificate)
            .map_err(|error| NetError::Malformed {
                path: path.to_owned(),
                what: "CA bundle",
                why: error.to_string(),
            })?;
    }
    Ok(roots)
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, NetError> {
    let bytes = zeroize::Zeroizing::new(read_file(path, "private key")?);
    let mode = std::fs::metadata(path)
        .map_err(|error| NetError::Unreadable {
            path: path.to_owned(),
            what: "private key",
            why: error.to_string(),
        })?
        .permissions()
        .mode()
        & 0o7777;
    if mode & KEY_MODE_FORBIDDEN != 0 {
        return Err(NetError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| NetError::Malformed {
        path: path.to_owned(),
        what: "private key",
        why: error.to_string(),
    })
}

fn check_own_certificate(
    files: &TlsFiles,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), NetError> {
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now_s = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    let (_, parsed) =
        X509Certificate::from_der(&chain[0]).map_err(|error| NetError::Malformed {
            path: files.certificate.clone(),
            what: "certificate",
            why: error.to_string(),
        })?;
    let not_after_s = parsed.validity().not_after.timestamp();
    if now_s > not_after_s {
        return Err(NetError::Expired {
            path: files.certificate.clone(),
            not_after_s,
        });
    }
    let not_before_s = parsed.validity().not_before.timestamp();
    if now_s < not_before_s {
        return Err(NetError::NotYetValid {
            path: files.certificate.clone(),
            not_before_s,
        });
    }
    client_verifier(roots, provider)?
        .verify_client_cert(
            &chain[0],
            &chain[1..],
            UnixTime::since_unix_epoch(since_1970),
        )
        .map_err(|error| NetError::WrongCa {
            certificate: files.certificate.clone(),
            ca: files.ca.clone(),
            why: error.to_string(),
        })?;
    Ok(())
}

fn check_key_fits(
    files: &TlsFiles,
    provider: &CryptoProvider,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), NetError> {
    match rustls::sign::CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(NetError::KeyMismatch {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
        }),
        Err(error) => Err(NetError::Malformed {
            path: files.key.clone(),
            what: "private key",
            why: error.to_string(),
        }),
    }
}

fn client_verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, NetError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| NetError::Setup {
            why: error.to_string(),
        })
}

/// Judges an acceptor's certificate: issued by the bundle and in its time. The name is the SPIFFE ID, which the
/// connection compares as soon as the handshake is done and before it sends anything.
#[derive(Debug)]
struct IssuedByBundle {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for IssuedByBundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Only TLS 1.3 is configured; whatever asks for this is refused.
        Err(rustls::Error::InvalidCertificate(
            CertificateError::BadSignature,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
