//! Certificates on disk and in-memory wires for the suites of `net`.

#![allow(dead_code)]

pub mod by_hand;
pub mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clustor_shards::net::{NetError, TlsFiles, TlsIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

pub const TRUST_DOMAIN: &str = "test.clustor";

/// A CA with its files in a directory of its own.
pub struct Ca {
    pub dir: tempfile::TempDir,
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
        fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("ca.pem");
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn ca_path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Issues a certificate with these URIs; the years bound its time.
    pub fn issue(&self, name: &str, uris: &[&str], years: (i32, i32)) -> TlsFiles {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().expect("an ASCII URI")))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = TlsFiles {
            ca: self.ca_path(),
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).expect("certificate");
        write_key(&files.key, &key.serialize_pem());
        files
    }

    pub fn node_files(&self, node: u64) -> TlsFiles {
        let uri = format!("spiffe://{TRUST_DOMAIN}/node/{node}");
        self.issue(&format!("node-{node}"), &[&uri], (2020, 2100))
    }

    pub fn node(&self, node: u64) -> TlsIdentity {
        load(&self.node_files(node)).expect("a node's identity")
    }

    pub fn client(&self, name: &str) -> TlsIdentity {
        let uri = format!("spiffe://{TRUST_DOMAIN}/client/{name}");
        load(&self.issue(name, &[&uri], (2020, 2100))).expect("a client's identity")
    }
}

pub fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).expect("key");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
}

pub fn load(files: &TlsFiles) -> Result<TlsIdentity, NetError> {
    TlsIdentity::load(files, SystemTime::now())
}

/// A dialler's verifier that accepts any certificate: for diallers that are not ours.
#[derive(Debug)]
pub struct AcceptAny;

impl rustls::client::danger::ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
