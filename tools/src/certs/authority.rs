//! A certificate authority for development: its certificate, and those it issues.

use std::path::{Path, PathBuf};

use clustor_engine::security::{SpiffeId, TlsFiles};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::CertsError;
use crate::files;

const PEM_BYTES_MAX: u64 = 64 * 1024;
/// How far a certificate's time begins in the past, so that clocks may differ a little, in minutes.
const BACKDATE_MINUTES: i64 = 10;
/// How long a CA lasts, in days.
const CA_DAYS: i64 = 3650;

/// A CA and the directory it lives in.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The CA's two files in `dir`.
    #[must_use]
    pub fn files(dir: &Path) -> [PathBuf; 2] {
        [dir.join("ca.pem"), dir.join("ca.key")]
    }

    /// Makes a CA in `dir`.
    ///
    /// # Errors
    /// [`CertsError::File`] if it is there already, [`CertsError::Issue`].
    pub fn create(dir: &Path, trust_domain: &str) -> Result<Self, CertsError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Clustor CA of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_time(&mut params, CA_DAYS);
        let key = KeyPair::generate().map_err(CertsError::issue)?;
        let certificate = params.self_signed(&key).map_err(CertsError::issue)?;
        let [certificate_path, key_path] = Self::files(dir);
        files::none_exists([certificate_path.as_path(), key_path.as_path()])?;
        files::create_secret(&key_path, &key.serialize_pem())?;
        files::create(&certificate_path, &certificate.pem())?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA that lives in `dir`.
    ///
    /// # Errors
    /// [`CertsError::File`], or [`CertsError::Authority`] if its files are not a CA's.
    pub fn load(dir: &Path) -> Result<Self, CertsError> {
        let [certificate_path, key_path] = Self::files(dir);
        let malformed = |path: &Path, error: rcgen::Error| CertsError::Authority {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let certificate = files::read_text(&certificate_path, PEM_BYTES_MAX)?;
        let key = files::read_secret(&key_path, PEM_BYTES_MAX)?;
        let key = KeyPair::from_pem(&key).map_err(|error| malformed(&key_path, error))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|error| malformed(&certificate_path, error))?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer,
        })
    }

    /// The files that [`Self::issue`] writes for `name`.
    #[must_use]
    pub fn issued_files(dir: &Path, name: &str) -> TlsFiles {
        let [ca, _] = Self::files(dir);
        TlsFiles {
            ca,
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        }
    }

    /// Issues `name`.pem and `name`.key in the CA's directory, for `days`.
    ///
    /// # Errors
    /// [`CertsError::File`] if they are there already, [`CertsError::Issue`].
    pub fn issue(&self, name: &str, id: &SpiffeId, days: u32) -> Result<TlsFiles, CertsError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, name.to_owned());
        let uri = id.to_string().try_into().map_err(CertsError::issue)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_time(&mut params, i64::from(days));
        let key = KeyPair::generate().map_err(CertsError::issue)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CertsError::issue)?;
        let issued = Self::issued_files(&self.dir, name);
        files::none_exists([issued.certificate.as_path(), issued.key.as_path()])?;
        files::create_secret(&issued.key, &key.serialize_pem())?;
        files::create(&issued.certificate, &certificate.pem())?;
        Ok(issued)
    }
}

fn set_time(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(BACKDATE_MINUTES);
    params.not_after = now + Duration::days(days);
}
