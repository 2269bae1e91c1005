//! TLS in both directions: configurations made of certificate files, and what a failed handshake
//! means in words. TLS 1.2 and 1.3, always verified.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Invalid;
use crate::secret::read_private;

/// A certificate or key file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}; {fix}", path.display())]
pub struct Unusable {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl Unusable {
    fn new(path: &Path, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// As a problem of the config key that names the file.
    pub fn invalid(self, keys: &[(&str, Option<&PathBuf>)]) -> Invalid {
        let key = keys.iter().find(|(_, file)| *file == Some(&self.path));
        // The system's own CA certificates are used for want of a file.
        let key = key.or(keys.first()).map_or("", |(key, _)| key);
        Invalid::new(key, self.path.display(), self.problem, self.fix)
    }
}

/// For connections to a server whose certificate must be signed by a CA in `ca_file` (PEM), or by
/// one that this system trusts. With `identity`, the files of a certificate chain and its key (PEM),
/// the client shows who it is.
///
/// # Errors
/// [`Unusable`] names the file.
pub fn client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, Unusable> {
    let (config, _end) = client_config_with(roots(ca_file)?, identity)?;
    Ok(Arc::new(config))
}

/// And when the first of our own certificates ends, seconds since 1970.
fn client_config_with(
    roots: Arc<RootCertStore>,
    identity: Option<(&Path, &Path)>,
) -> Result<(ClientConfig, Option<i64>), Unusable> {
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((cert_file, key_file)) = identity else {
        return Ok((builder.with_no_client_auth(), None));
    };
    let (chain, key) = identity_of(cert_file, key_file)?;
    let end = end_of(&chain);
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| mismatched(cert_file, key_file, &error))?;
    Ok((config, end))
}

/// Those that a server's certificate has to come from.
fn roots(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, Unusable> {
    match ca_file {
        Some(path) => roots_of(path),
        None => system_roots(),
    }
    .map(Arc::new)
}

/// The certificates of the CA in `ca_file` (PEM), or those of all that this system trusts.
///
/// # Errors
/// [`Unusable`] names the file.
pub fn root_certificates(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    match ca_file {
        Some(path) => certificates_of(path),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(path)? {
        roots.add(certificate).map_err(|error| {
            let fix = "name a PEM file with the certificates of the CA";
            Unusable::new(path, format!("holds no CA certificate: {error}"), fix)
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = "this system has no CA certificates";
        let fix = "install them (Debian: apt install ca-certificates), or name a file with the CA";
        return Err(Unusable::new(Path::new("/etc/ssl/certs"), problem, fix));
    }
    Ok(roots)
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let fix = "name a PEM file (-----BEGIN CERTIFICATE-----) that the engine may read";
    let unusable = |problem: String| Unusable::new(path, problem, fix);
    let bytes =
        std::fs::read(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("is no PEM file: {error}")))?;
    if certificates.is_empty() {
        return Err(unusable("holds no certificate".into()));
    }
    Ok(certificates)
}

fn identity_of(
    cert_file: &Path,
    key_file: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Unusable> {
    let chain = certificates_of(cert_file)?;
    let bytes = read_private(key_file)
        .map_err(|error| Unusable::new(key_file, error.problem, error.fix))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_not_shown| {
        let fix = "name a PEM file with the private key, without a passphrase";
        Unusable::new(key_file, "holds no private key that can be read", fix)
    })?;
    Ok((chain, key))
}

fn mismatched(cert_file: &Path, key_file: &Path, error: &rustls::Error) -> Unusable {
    let problem = format!(
        "does not fit the certificate in {}: {error}",
        cert_file.display()
    );
    Unusable::new(key_file, problem, "name the key that belongs to it")
}

/// When the first of these certificates ends, seconds since 1970.
fn end_of(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let each = chain.iter().filter_map(|certificate| {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    each.min()
}

/// When the certificates of connections to a server end, as of the newest connection; clones
/// share it.
#[derive(Debug, Clone, Default)]
pub struct Ends(Arc<Mutex<Pair>>);

#[derive(Debug, Default)]
struct Pair {
    theirs: Option<i64>,
    ours: Option<i64>,
}

impl Ends {
    /// The server's, seconds since 1970; `None`: none was seen yet.
    pub fn theirs(&self) -> Option<i64> {
        self.lock().theirs
    }

    /// Ours, if we show one.
    pub fn ours(&self) -> Option<i64> {
        self.lock().ours
    }

    fn lock(&self) -> MutexGuard<'_, Pair> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`client_config`], and keeps when the certificates end.
///
/// # Errors
/// [`Unusable`] names the file.
pub fn watched_client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    ends: &Ends,
) -> Result<Arc<ClientConfig>, Unusable> {
    let roots = roots(ca_file)?;
    let (mut config, ours) = client_config_with(Arc::clone(&roots), identity)?;
    ends.lock().ours = ours;
    let built = WebPkiServerVerifier::builder(roots).build();
    let verifier = built.map_err(|error| {
        let fix = "name a PEM file with the certificates of the CA";
        Unusable::new(ca_file.unwrap_or(Path::new("")), error.to_string(), fix)
    })?;
    let watching = Watching {
        verifier,
        ends: ends.clone(),
    };
    // Dangerous is what does not verify; this asks the one that the configuration had.
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(watching));
    Ok(Arc::new(config))
}

/// Verifies as `WebPKI` does, and looks at what was verified.
#[derive(Debug)]
struct Watching {
    verifier: Arc<WebPkiServerVerifier>,
    ends: Ends,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        // What is sent along beside the server's own certificate may be of no use, and old.
        self.ends.lock().theirs = end_of(std::slice::from_ref(end_entity));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The files of a server: its certificate chain and key, and the CA of its clients (all PEM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The server's certificate first, then those that signed it.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// With it, clients must show a certificate that one of these CAs has signed.
    pub client_ca_file: Option<PathBuf>,
}

impl ServerFiles {
    /// As the keys of a config section name them: certificate and key, or no TLS at all.
    ///
    /// # Errors
    /// The key that is missing.
    pub fn of(
        cert_file: Option<&PathBuf>,
        key_file: Option<&PathBuf>,
        client_ca_file: Option<&PathBuf>,
    ) -> Result<Option<Self>, &'static str> {
        match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => Ok(Some(Self {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
                client_ca_file: client_ca_file.cloned(),
            })),
            (None, None) if client_ca_file.is_none() => Ok(None),
            (None, _) => Err("cert_file"),
            (Some(_), None) => Err("key_file"),
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`Invalid`] names the key, without its section.
    pub fn read(self) -> Result<ServerCertificates, Invalid> {
        let keys = self.clone();
        let keys = [
            ("cert_file", Some(&keys.cert_file)),
            ("key_file", Some(&keys.key_file)),
            ("client_ca_file", keys.client_ca_file.as_ref()),
        ];
        ServerCertificates::load(self).map_err(|unusable| unusable.invalid(&keys))
    }

    /// The configuration, and when its certificate ends.
    fn load(&self) -> Result<(Arc<ServerConfig>, Option<i64>), Unusable> {
        let builder = match &self.client_ca_file {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots_of(path)?);
                let verifier = WebPkiClientVerifier::builder(roots)
                    .build()
                    .map_err(|error| {
                        let fix = "name a PEM file with the certificates of the clients' CA";
                        Unusable::new(path, error.to_string(), fix)
                    })?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = identity_of(&self.cert_file, &self.key_file)?;
        let ends = end_of(&chain);
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| mismatched(&self.cert_file, &self.key_file, &error))?;
        Ok((Arc::new(config), ends))
    }

    /// What changes when a file is written, renamed over or linked elsewhere.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        [Some(&self.cert_file), Some(&self.key_file)]
            .into_iter()
            .chain([self.client_ca_file.as_ref()])
            .flatten()
            .map(|path| Stamp::of(path))
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    /// Of what a link leads to. `None`: there is no such file, for now.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            inode: inode(&metadata),
        })
    }
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;

    metadata.ino()
}

#[cfg(not(unix))]
fn inode(_metadata: &std::fs::Metadata) -> u64 {
    0
}

/// A server's certificate, which follows its files: a renewed one is used for the next handshake,
/// and connections that are open stay. While the files do not fit together (one of the two is
/// written already), the certificate that was in use stays in use.
#[derive(Debug)]
pub struct ServerCertificates {
    files: ServerFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    ends: Option<i64>,
    /// Of the files that `config` was made of.
    loaded: Vec<Option<Stamp>>,
    /// Of the files that could not be used, and were complained about.
    complained: Option<Vec<Option<Stamp>>>,
    looked: Instant,
}

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl ServerCertificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Unusable`] names the file.
    pub fn load(files: ServerFiles) -> Result<Self, Unusable> {
        let loaded = files.stamps();
        let (config, ends) = files.load()?;
        let current = Current {
            config,
            ends,
            loaded,
            complained: None,
            looked: Instant::now(),
        };
        Ok(Self {
            files,
            current: Mutex::new(current),
        })
    }

    /// Whether clients must show a certificate.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca_file.is_some()
    }

    /// What the next handshake is to use. Looks at the files at most once a second.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// When the certificate that is in use ends, or the first of its chain; seconds since 1970.
    pub fn ends(&self) -> Option<i64> {
        self.current().ends
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            self.look(&mut current);
        }
        current
    }

    fn look(&self, current: &mut Current) {
        // Taken before reading: what is written meanwhile is seen the next time.
        let stamps = self.files.stamps();
        if stamps == current.loaded {
            current.complained = None;
            return;
        }
        match self.files.load() {
            Ok((config, ends)) => {
                let cert_file = self.files.cert_file.display();
                info!(%cert_file, "the renewed certificate is in use");
                current.config = config;
                current.ends = ends;
                current.loaded = stamps;
                current.complained = None;
            }
            // Tried again with every look: the time of a file is coarser than a look at it.
            Err(unusable) => {
                let stamps = Some(stamps);
                if current.complained != stamps {
                    warn!(%unusable, "the new certificate cannot be used; the old one stays");
                    current.complained = stamps;
                }
            }
        }
    }
}

/// What is wrong with the other side, and what to do, if a TLS error is among the causes.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let error = find(error)?;
    Some(match error {
        rustls::Error::InvalidCertificate(why) => explain_certificate(why),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => "the other side takes no kind of certificate that we have".into(),
        rustls::Error::PeerIncompatible(_) => {
            "the other side speaks no TLS version that we do (1.2 and 1.3): update it".into()
        }
        rustls::Error::NoCertificatesPresented => {
            "the other side showed no client certificate, and one is required".into()
        }
        rustls::Error::InvalidMessage(_) => {
            "the other side does not speak TLS: is this a plaintext port or client?".into()
        }
        other => format!("TLS failed: {other}"),
    })
}

fn explain_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by a CA that is trusted here (unknown issuer): name the \
             file of the right CA, or check that this is the right host"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "its certificate is for another host ({why}): use the name that it was made for"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it, or set this machine's clock if that is wrong"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is this machine's clock right?".into()
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::ProtocolVersion => {
            "the other side refuses our TLS versions (1.2 and 1.3): update it".into()
        }
        AlertDescription::CertificateRequired => {
            "the other side requires a client certificate: configure one".into()
        }
        AlertDescription::UnknownCA => {
            "the other side does not trust the CA of our certificate (unknown CA)".into()
        }
        AlertDescription::CertificateExpired => {
            "the other side says that our certificate has expired".into()
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate => {
            format!("the other side does not accept our certificate ({alert:?})")
        }
        other => format!("the other side ended the TLS handshake ({other:?})"),
    }
}

/// The TLS error among the causes of `error`. An I/O error's own cause is what it wraps.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
