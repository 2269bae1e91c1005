//! Settings of the built-in listener, and whether they can work.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::auth::{Accounts, User};
use super::super::bounds::PAYLOAD_CEILING;
use crate::config::{Invalid, Span, in_range};
use crate::tls::{ServerCertificates, ServerFiles};

/// Settings of the built-in listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether there is a listener at all: an engine that only subscribes at a broker needs none.
    pub enabled: bool,
    /// IP address and port to listen on. Only a loopback address is allowed while everybody could
    /// publish, that is without `users` and without `client_ca_file`.
    pub addr: SocketAddr,
    /// Certificate chain of the listener (PEM, its own certificate first). With it and `key_file`
    /// the listener speaks TLS (1.2 and 1.3) and nothing else. Read again when the file changes:
    /// a renewed certificate needs no restart.
    pub cert_file: Option<PathBuf>,
    /// Private key of that certificate (PEM, no passphrase), not readable for every user.
    pub key_file: Option<PathBuf>,
    /// With it, clients must show a certificate that a CA in this file (PEM) has signed. `users`
    /// have to give their password all the same.
    pub client_ca_file: Option<PathBuf>,
    /// Connections at the same time, 1 to 1,000,000. Further ones are answered "quota exceeded"
    /// (MQTT 5) or "server unavailable" (3.1.1), counted and closed. Each needs a file descriptor.
    pub max_connections: u32,
    /// Payload size in bytes up to which a message is decoded, 64 to 1,048,576. MQTT 5 clients are
    /// told (this + 1,024 for the topic, as Maximum Packet Size). Larger messages up to 1 MiB are
    /// quarantined and acknowledged; beyond that the connection is closed.
    pub max_payload_bytes: u32,
    /// Time for a new connection to finish its TLS handshake and send its CONNECT, and again to
    /// wait for its password check, 1s to 5m. Slower connections are closed.
    pub connect_timeout: Span,
    /// Longest keep-alive, 10s to 18h; a connection silent for 1.5 × its keep-alive is closed.
    /// MQTT 5 clients that ask for more (or for none) are given this; 3.1.1 clients cannot be told:
    /// theirs counts as it is, and this one if they ask for none.
    pub max_keep_alive: Span,
    /// Who may connect and what each may publish to. Empty: everybody may, everything.
    pub users: Vec<User>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883),
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            max_connections: 10_000,
            max_payload_bytes: 8_192,
            connect_timeout: Span::secs(10),
            max_keep_alive: Span::secs(30 * 60),
            users: Vec::new(),
        }
    }
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Invalid`] with the fix.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.check().map(drop)
    }

    /// Who may connect and how: everything that the values stand for.
    pub(super) fn check(&self) -> Result<(Accounts, Option<ServerCertificates>), Invalid> {
        in_range("max_connections", self.max_connections, 1, 1_000_000)?;
        in_range(
            "max_payload_bytes",
            self.max_payload_bytes,
            64,
            PAYLOAD_CEILING,
        )?;
        in_range(
            "connect_timeout",
            self.connect_timeout,
            Span::secs(1),
            Span::secs(300),
        )?;
        in_range(
            "max_keep_alive",
            self.max_keep_alive,
            Span::secs(10),
            Span::secs(18 * 3600),
        )?;
        let open = self.users.is_empty() && self.client_ca_file.is_none();
        if open && !self.addr.ip().is_loopback() {
            return Err(Invalid::new(
                "addr",
                self.addr,
                "everybody who reaches this address could publish, because no users are configured",
                "add [[listener.users]] with name and password_hash, or listen on 127.0.0.1",
            ));
        }
        Ok((Accounts::new(&self.users)?, self.certificates()?))
    }

    /// What TLS is spoken with; `None`: no TLS. The files of a listener that is not enabled may be
    /// anywhere.
    fn certificates(&self) -> Result<Option<ServerCertificates>, Invalid> {
        let cert_file = self.cert_file.as_ref();
        let client_ca_file = self.client_ca_file.as_ref();
        let files = ServerFiles::of(cert_file, self.key_file.as_ref(), client_ca_file);
        let files = files.map_err(alone)?.filter(|_| self.enabled);
        files.map(ServerFiles::read).transpose()
    }
}

fn alone(missing: &str) -> Invalid {
    Invalid::new(
        missing,
        "(nothing)",
        "TLS needs a certificate and its key",
        "set both listener.cert_file and listener.key_file",
    )
}
