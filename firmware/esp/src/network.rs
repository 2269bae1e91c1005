//! Connections for the core: TCP with or without TLS, and UDP.

use core::net::{IpAddr, SocketAddr};

use embassy_net::dns::DnsQueryType;
use embassy_net::tcp::client::{TcpClient, TcpClientState, TcpConnection};
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{IpAddress, Stack};
use embassy_time::Duration;
use embedded_nal_async::TcpConnect as _;
use esp_hal::rng::Trng;
use mbedtls_rs::Session;
use node_core::{DialError, Target};

use crate::tls::MbedTls;

/// One connection is open and one may be closing.
pub(crate) const CONNECTIONS: usize = 2;
const TX_BYTES: usize = 2_048;
const RX_BYTES: usize = 4_096;
/// A peer that does not acknowledge for so long is gone; the core's own ping notices earlier.
const PEER_TIMEOUT: Duration = Duration::from_secs(90);
/// A time server's answer has 48 bytes.
const DATAGRAM: usize = 256;

type Tcp<'n> = TcpConnection<'n, CONNECTIONS, TX_BYTES, RX_BYTES>;

/// A connection to the broker.
pub(crate) type Link<'n> = node_core::Link<Tcp<'n>, Session<'n, Tcp<'n>>>;

/// The chip's network.
pub(crate) struct Network {
    stack: Stack<'static>,
    tcp: TcpClient<'static, CONNECTIONS, TX_BYTES, RX_BYTES>,
    tls: MbedTls,
}

impl Network {
    /// On this stack.
    ///
    /// # Errors
    ///
    /// When TLS was started before.
    pub(crate) fn new(stack: Stack<'static>, random: Trng) -> Result<Self, &'static str> {
        let state = alloc::boxed::Box::leak(alloc::boxed::Box::new(TcpClientState::new()));
        let mut tcp = TcpClient::new(stack, state);
        tcp.set_timeout(Some(PEER_TIMEOUT));
        Ok(Self {
            stack,
            tcp,
            tls: MbedTls::start(random)?,
        })
    }

    async fn resolve(&self, host: &str) -> Result<IpAddress, DialError> {
        if !self.stack.is_config_up() {
            return Err(DialError::NoNetwork);
        }
        let found = self.stack.dns_query(host, DnsQueryType::A).await;
        let found = found.map_err(|_| DialError::Resolve)?;
        found.first().copied().ok_or(DialError::Resolve)
    }
}

impl node_core::Network for Network {
    type Link<'n> = Link<'n>;

    async fn dial<'n>(&'n self, target: Target<'_>) -> Result<Link<'n>, DialError> {
        let IpAddress::Ipv4(address) = self.resolve(target.host).await?;
        let remote = SocketAddr::new(IpAddr::V4(address), target.port);
        let stream = self
            .tcp
            .connect(remote)
            .await
            .map_err(|_| DialError::Connect)?;
        let Some(ca_pem) = target.ca_pem else {
            return Ok(Link::Plain(stream));
        };
        self.tls
            .handshake(stream, target.host, ca_pem, target.utc_ms)
            .await
            .map(Link::Tls)
            .map_err(DialError::Tls)
    }

    async fn exchange(
        &self,
        host: &str,
        port: u16,
        request: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, DialError> {
        let address = self.resolve(host).await?;
        let mut rx_meta = [PacketMetadata::EMPTY; 2];
        let mut tx_meta = [PacketMetadata::EMPTY; 1];
        let mut rx = [0; 2 * DATAGRAM];
        let mut tx = [0; DATAGRAM];
        let mut socket = UdpSocket::new(self.stack, &mut rx_meta, &mut rx, &mut tx_meta, &mut tx);
        // Any port that is free: what comes back is the answer to this request only.
        socket.bind(0).map_err(|_| DialError::NoNetwork)?;
        socket
            .send_to(request, (address, port))
            .await
            .map_err(|_| DialError::Connect)?;
        loop {
            let mut datagram = [0; DATAGRAM];
            // One that is too long is not an answer.
            let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
                continue;
            };
            if from.endpoint.addr == address && from.endpoint.port == port {
                let length = length.min(reply.len());
                reply[..length].copy_from_slice(&datagram[..length]);
                return Ok(length);
            }
        }
    }
}
