//! Certificates for tests: authorities, and what they sign, right or wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Valid {
    Now,
    /// Until yesterday.
    Expired,
    /// From tomorrow.
    NotYet,
}

/// Files of a certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    /// PEM file of its own certificate.
    pub(crate) file: PathBuf,
}

impl Authority {
    /// A new one; what it signs is written into `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let file = dir.join(format!("{name}.pem"));
        fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            dir: dir.to_owned(),
            file,
        }
    }

    /// For a server under any of `hosts` (names or addresses), in files called `name`.
    pub(crate) fn server(&self, name: &str, hosts: &[&str], valid: Valid) -> Identity {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        self.sign(name, hosts, valid, usage)
    }

    /// For a client.
    pub(crate) fn client(&self, name: &str, valid: Valid) -> Identity {
        self.sign(name, &[], valid, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        name: &str,
        hosts: &[&str],
        valid: Valid,
        usage: ExtendedKeyUsagePurpose,
    ) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (now - Duration::days(1), now + Duration::days(30)),
            Valid::Expired => (now - Duration::days(30), now - Duration::days(1)),
            Valid::NotYet => (now + Duration::days(1), now + Duration::days(30)),
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&identity.cert, cert.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        private(&identity.key);
        identity
    }
}

/// Nobody else may open it.
pub(crate) fn private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
