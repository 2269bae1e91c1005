//! Certificates for tests: authorities, and what they sign, right or wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
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

    /// For a server with an RSA key.
    pub(crate) fn rsa_server(&self, name: &str, hosts: &[&str]) -> Identity {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let params = params(name, hosts, Valid::Now, ExtendedKeyUsagePurpose::ServerAuth);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        self.write(name, &[cert.pem()], &key)
    }

    /// For a server, signed by somebody who has a certificate of this authority but is none: the
    /// chain is shown.
    pub(crate) fn through_a_leaf(&self, name: &str, hosts: &[&str]) -> Identity {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let leaf_params = params("leaf", &["leaf.example"], Valid::Now, usage.clone());
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = leaf_params.signed_by(&leaf_key, &self.issuer).unwrap();
        let leaf_issuer = Issuer::new(leaf_params, leaf_key);
        let key = KeyPair::generate().unwrap();
        let params = params(name, hosts, Valid::Now, usage);
        let cert = params.signed_by(&key, &leaf_issuer).unwrap();
        self.write(name, &[cert.pem(), leaf.pem()], &key)
    }

    fn sign(
        &self,
        name: &str,
        hosts: &[&str],
        valid: Valid,
        usage: ExtendedKeyUsagePurpose,
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = params(name, hosts, valid, usage);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        self.write(name, &[cert.pem()], &key)
    }

    fn write(&self, name: &str, chain: &[String], key: &KeyPair) -> Identity {
        let identity = Identity {
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&identity.cert, chain.concat()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        private(&identity.key);
        identity
    }
}

/// What a certificate says.
fn params(
    name: &str,
    hosts: &[&str],
    valid: Valid,
    usage: ExtendedKeyUsagePurpose,
) -> CertificateParams {
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
    params
}

/// Nobody else may open it.
pub(crate) fn private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
