//! From a broker's address to an open, authenticated byte stream: TCP or TLS, then CONNECT.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vigie_actors::tls;

use super::packet::{self, Hello, Incoming, Limits, Protocol, Refusal};
use super::publisher::{Options, PublishError};

/// The address of an MQTT broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    /// Name or IP address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// Whether to use TLS.
    pub(crate) tls: bool,
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("write it as mqtt://host:port, or mqtts://host:port for TLS")?;
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            _ => {
                return Err(format!(
                    "unknown scheme {scheme:?}: use mqtt:// or mqtts://"
                ));
            }
        };
        if rest.contains('@') {
            return Err(
                "give the user name and the password apart from the address, where \
                        process lists and shell histories do not show them"
                    .to_owned(),
            );
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(after) = rest.strip_prefix('[') {
            let (host, tail) = after
                .split_once(']')
                .ok_or("the ] of the IPv6 address is missing")?;
            (host, tail.strip_prefix(':'))
        } else {
            rest.split_once(':')
                .map_or((rest, None), |(host, port)| (host, Some(port)))
        };
        if host.is_empty() || host.contains('/') {
            return Err("write it as mqtt://host:port, or mqtts://host:port for TLS".to_owned());
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(port) => port
                .parse()
                .map_err(|_| format!("{port:?} is not a port"))?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Opens connections to one broker.
pub(super) struct Dialer {
    broker: Broker,
    protocol: Protocol,
    username: Option<String>,
    password: Option<secrecy::SecretString>,
    keep_alive: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// How long to wait for TCP, TLS and CONNACK together.
const PATIENCE: Duration = Duration::from_secs(10);

impl Dialer {
    pub(super) fn new(options: &Options) -> Result<Self, PublishError> {
        let broker = options.broker.clone();
        let tls = if broker.tls {
            let name = ServerName::try_from(broker.host.clone())
                .map_err(|_| PublishError::Tls(format!("{:?} is not a host name", broker.host)))?;
            let identity = options.identity.as_ref();
            let identity = identity.map(|(cert, key)| (cert.as_path(), key.as_path()));
            let config = tls::client_config(options.ca_file.as_deref(), identity)
                .map_err(|unusable| PublishError::Tls(unusable.to_string()))?;
            Some((TlsConnector::from(config), name))
        } else {
            None
        };
        Ok(Self {
            broker,
            protocol: options.protocol,
            username: options.username.clone(),
            password: options.password.clone(),
            keep_alive: options.keep_alive,
            tls,
        })
    }

    /// An accepted connection.
    pub(super) async fn dial(&self, client_id: &str) -> Result<Link, DialError> {
        match tokio::time::timeout(PATIENCE, self.dial_patiently(client_id)).await {
            Ok(link) => link,
            Err(_) => Err(DialError::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", PATIENCE.as_secs()),
            ))),
        }
    }

    async fn dial_patiently(&self, client_id: &str) -> Result<Link, DialError> {
        let tcp = TcpStream::connect((self.broker.host.as_str(), self.broker.port)).await?;
        tcp.set_nodelay(true)?;
        let mut stream = match &self.tls {
            None => Stream::Tcp(tcp),
            Some((connector, name)) => {
                Stream::Tls(Box::new(connector.connect(name.clone(), tcp).await?))
            }
        };
        let hello = Hello {
            client_id,
            username: self.username.as_deref(),
            password: self.password.as_ref().map(ExposeSecret::expose_secret),
            keep_alive: self.keep_alive,
        };
        let connect = packet::connect(self.protocol, &hello)
            .map_err(|_| io::Error::other("the user name or the password is too long"))?;
        stream.write_all(&connect).await?;
        stream.flush().await?;
        let mut received = Vec::new();
        loop {
            match packet::next_packet(&received) {
                Ok(None) => {}
                Ok(Some((Incoming::ConnAck(body), used))) => {
                    let limits = packet::parse_connack(self.protocol, body)
                        .map_err(|_| not_mqtt())?
                        .map_err(DialError::Refused)?;
                    received.drain(..used);
                    return Ok(Link {
                        stream,
                        received,
                        limits,
                    });
                }
                Ok(Some(_)) | Err(_) => return Err(not_mqtt().into()),
            }
            if stream.read_buf(&mut received).await? == 0 {
                return Err(DialError::Io(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed in answer to CONNECT",
                )));
            }
        }
    }
}

fn not_mqtt() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the answer to CONNECT is not a CONNACK",
    )
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(refusal) => write!(f, "refused: {}", refusal.reason),
        }
    }
}

/// A connection that the broker has accepted.
pub(super) struct Link {
    pub(super) stream: Stream,
    /// What came behind the CONNACK.
    pub(super) received: Vec<u8>,
    pub(super) limits: Limits,
}

/// TCP, in the clear or inside TLS.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, printed) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            (
                "mqtts://broker.example.org/",
                "mqtts://broker.example.org:8883",
            ),
            ("mqtts://10.0.0.1:1234", "mqtts://10.0.0.1:1234"),
            ("mqtt://[::1]:1883", "mqtt://[::1]:1883"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
        ] {
            assert_eq!(text.parse::<Broker>().unwrap().to_string(), printed);
        }
        for wrong in [
            "localhost:1883",
            "http://x",
            "mqtt://",
            "mqtt://h:99999",
            "mqtt://[::1",
        ] {
            assert!(wrong.parse::<Broker>().is_err(), "{wrong}");
        }
        let error = "mqtt://me:secret@host".parse::<Broker>().unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
