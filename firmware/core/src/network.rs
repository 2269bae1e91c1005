//! How the core reaches a server.

use alloc::string::String;
use core::fmt;

use embedded_io_async::{Error as _, ErrorKind, ErrorType, Read, Write};

/// Where to dial, and as whom the server must prove itself.
#[derive(Clone, Copy, Debug)]
pub struct Target<'c> {
    /// Host name or address; over TLS it is sent as SNI and has to be in the certificate.
    pub host: &'c str,
    /// TCP port.
    pub port: u16,
    /// Over TLS: the PEM text of the authorities of which one has to have signed. Plain TCP if
    /// nothing.
    pub ca_pem: Option<&'c str>,
    /// The time that certificates' dates are compared with, in ms since 1970 UTC. The glue sets
    /// Mbed TLS's wall clock to it.
    pub utc_ms: i64,
}

/// Why there is no connection. The text of [`Tls`](DialError::Tls) says what was wrong with the
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Wi-Fi is not joined, or there is no address yet.
    NoNetwork,
    /// The name is unknown.
    Resolve,
    /// Nobody answers, or the connection is refused.
    Connect,
    /// The handshake failed, for this reason.
    Tls(String),
    /// It took too long.
    Timeout,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetwork => f.write_str("no network yet"),
            Self::Resolve => f.write_str("the host name is not known, see broker.host"),
            Self::Connect => f.write_str("nobody answers there, see broker.host and broker.port"),
            Self::Tls(why) => f.write_str(why),
            Self::Timeout => f.write_str("no answer in time"),
        }
    }
}

impl core::error::Error for DialError {}

/// Connections out of the node. By shared reference: a time server is asked while a connection is open.
pub trait Network {
    /// An open connection, after the TLS handshake if there is one. Dropping it closes it.
    type Link<'n>: Read + Write
    where
        Self: 'n;

    /// Connects. Certificates are always verified: chain, host name and dates. The core gives up
    /// (drops the future) after 30 s.
    fn dial<'n>(
        &'n self,
        target: Target<'_>,
    ) -> impl Future<Output = Result<Self::Link<'n>, DialError>>;

    /// Sends one UDP datagram to `host:port` and waits for one that comes back from there; gives
    /// its length, cut to `reply`. The core drops the future when it has waited long enough.
    fn exchange(
        &self,
        host: &str,
        port: u16,
        request: &[u8],
        reply: &mut [u8],
    ) -> impl Future<Output = Result<usize, DialError>>;
}

/// A connection: as it is, or inside TLS.
#[derive(Debug)]
pub enum Link<P, T> {
    /// As it is.
    Plain(P),
    /// Encrypted.
    Tls(T),
}

impl<P, T> ErrorType for Link<P, T> {
    type Error = ErrorKind;
}

impl<P: Read, T: Read> Read for Link<P, T> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        match self {
            Self::Plain(stream) => stream.read(bytes).await.map_err(|error| error.kind()),
            Self::Tls(session) => session.read(bytes).await.map_err(|error| error.kind()),
        }
    }
}

impl<P: Write, T: Write> Write for Link<P, T> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        match self {
            Self::Plain(stream) => stream.write(bytes).await.map_err(|error| error.kind()),
            Self::Tls(session) => session.write(bytes).await.map_err(|error| error.kind()),
        }
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        match self {
            Self::Plain(stream) => stream.flush().await.map_err(|error| error.kind()),
            Self::Tls(session) => session.flush().await.map_err(|error| error.kind()),
        }
    }
}
