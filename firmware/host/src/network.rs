//! The PC's network, with TLS by the same library as on a chip.

use std::io::ErrorKind;

use embedded_io_adapters::tokio_1::FromTokio;
use mbedtls_rs::Session;
use node_core::{DialError, Network, Target};
use tokio::net::{TcpStream, UdpSocket};

use crate::{board, tls};

/// The name of the time server that is the PC's own clock.
pub(crate) const SYSTEM_CLOCK: &str = "system-clock";

/// TCP and UDP by tokio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PcNetwork;

/// A connection, with TLS or without.
pub(crate) type Link =
    node_core::Link<FromTokio<TcpStream>, Session<'static, FromTokio<TcpStream>>>;

fn meaning(error: &std::io::Error) -> DialError {
    match error.kind() {
        ErrorKind::TimedOut => DialError::Timeout,
        ErrorKind::NetworkDown | ErrorKind::NetworkUnreachable => DialError::NoNetwork,
        _ => DialError::Connect,
    }
}

impl Network for PcNetwork {
    type Link<'n> = Link;

    async fn dial(&self, target: Target<'_>) -> Result<Link, DialError> {
        let addresses: Vec<_> = tokio::net::lookup_host((target.host, target.port))
            .await
            .map_err(|_| DialError::Resolve)?
            .collect();
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream = stream.map_err(|error| meaning(&error))?;
        let _slower_only = stream.set_nodelay(true);
        let stream = FromTokio::new(stream);
        match target.ca_pem {
            None => Ok(Link::Plain(stream)),
            Some(ca_pem) => tls::handshake(stream, target.host, ca_pem, target.utc_ms)
                .await
                .map(Link::Tls),
        }
    }

    async fn exchange(
        &self,
        host: &str,
        port: u16,
        request: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, DialError> {
        if host == SYSTEM_CLOCK {
            return Ok(board::system_clock(request, reply));
        }
        let server = tokio::net::lookup_host((host, port)).await;
        let server = server.ok().and_then(|mut found| found.next());
        let server = server.ok_or(DialError::Resolve)?;
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)
            .await
            .map_err(|error| meaning(&error))?;
        socket
            .connect(server)
            .await
            .map_err(|error| meaning(&error))?;
        socket
            .send(request)
            .await
            .map_err(|error| meaning(&error))?;
        socket.recv(reply).await.map_err(|error| meaning(&error))
    }
}
