//! Nodes that speak TLS over loopback and answer by script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::SystemTime;

use clustor_engine::security::{TlsFiles, TlsIdentity};
use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, PREFACE_BYTES, Preface, SessionKind,
};
use clustor_wire::message::{ClientRequest, ClientResponseBody};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{DOMAIN, request, response};

/// What a node does with a request.
pub enum Action {
    Answer(ClientResponseBody),
    Hang,
    CutOff,
}

/// A CA with its files.
pub struct Ca {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::default();
        // Names of their own, or two CAs would pass for one with another key.
        let name = dir.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA certificate");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("ca.pem");
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    /// An identity whose CA bundle is `trusted`'s.
    pub fn identity(&self, name: &str, trusted: &Self) -> TlsIdentity {
        self.identity_in(DOMAIN, name, trusted)
    }

    /// The same, in a trust domain of its own.
    pub fn identity_in(&self, domain: &str, name: &str, trusted: &Self) -> TlsIdentity {
        let uri = format!("spiffe://{domain}/{name}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |suffix: &str| {
            let name = name.replace('/', "-");
            self.dir.path().join(format!("{name}.{suffix}"))
        };
        let files = TlsFiles {
            ca: file("ca.pem"),
            certificate: file("pem"),
            key: file("key"),
        };
        let mut bundle = std::fs::read(self.dir.path().join("ca.pem")).expect("ca.pem");
        if !std::ptr::eq(self, trusted) {
            bundle.extend(std::fs::read(trusted.dir.path().join("ca.pem")).expect("ca.pem"));
        }
        std::fs::write(&files.ca, bundle).expect("a bundle");
        std::fs::write(&files.certificate, certificate.pem()).expect("a certificate");
        std::fs::write(&files.key, key.serialize_pem()).expect("a key");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&files.key, private).expect("mode");
        TlsIdentity::load(&files, SystemTime::now()).expect("an identity")
    }
}

type Script = Arc<dyn Fn(&ClientRequest) -> Action + Send + Sync>;

/// Starts a node; its threads end with the test's process.
pub fn start(
    identity: TlsIdentity,
    script: impl Fn(&ClientRequest) -> Action + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let script: Script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (identity, script) = (identity.clone(), Arc::clone(&script));
            std::thread::spawn(move || serve(stream.expect("a connection"), &identity, &script));
        }
    });
    address
}

/// Serves until either side ends the connection.
fn serve(mut stream: TcpStream, identity: &TlsIdentity, script: &Script) {
    let mut preface = [0; PREFACE_BYTES];
    if stream.read_exact(&mut preface).is_err() {
        return;
    }
    let preface = Preface::decode(&preface).expect("a preface");
    assert_eq!(preface.kind, SessionKind::Client);
    let limits = ConnectionLimits::default();
    let mut tls = Connection::accept(identity, SessionKind::Client, Expected::Anyone, limits)
        .expect("a connection");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut out = Vec::new();
        while tls
            .transmit(&mut out, usize::MAX)
            .is_ok_and(|made| made > 0)
        {}
        if stream.write_all(&out).is_err() || tls.ended().is_some() {
            return;
        }
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let mut taken = 0;
        while taken < count {
            match tls.receive(&mut buffer[taken..count]) {
                Ok(more) => taken += more,
                Err(_) => break,
            }
            while let Some(frame) = tls.next_frame() {
                let request = request(&frame);
                match script(&request) {
                    Action::Answer(body) => {
                        tls.send(response(request.id, body)).expect("room");
                    }
                    Action::Hang => {}
                    Action::CutOff => return,
                }
            }
        }
    }
}
