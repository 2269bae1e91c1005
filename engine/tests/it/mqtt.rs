//! A publisher made of bytes, so that it can say what a well-behaved one does not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::harness::PATIENCE;

/// Version of MQTT, as the byte in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V311 = 4,
    V5 = 5,
}

/// One connection.
pub(crate) struct Publisher {
    stream: TcpStream,
    version: Version,
    last_id: u16,
}

impl Publisher {
    /// Connects, and is accepted.
    pub(crate) fn connect(addr: SocketAddr, version: Version) -> Self {
        Self::connect_as(addr, version, None)
    }

    /// The same, with name and password.
    pub(crate) fn connect_as(
        addr: SocketAddr,
        version: Version,
        user: Option<(&str, &str)>,
    ) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // Clean start, keep-alive of a minute.
        let mut connect = b"\x00\x04MQTT".to_vec();
        let flags = if user.is_some() { 0xc2 } else { 0x02 };
        connect.extend([version as u8, flags, 0, 60]);
        if version == Version::V5 {
            connect.push(0);
        }
        connect.extend(b"\x00\x06raw-it");
        for text in user.iter().flat_map(|(name, password)| [name, password]) {
            connect.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            connect.extend(text.as_bytes());
        }
        stream.write_all(&packet(0x10, &connect)).unwrap();
        let mut publisher = Self {
            stream,
            version,
            last_id: 0,
        };
        let (kind, connack) = publisher.read();
        assert!(
            kind == 0x20 && connack.get(1) == Some(&0),
            "answer to CONNECT: {kind:#x} {connack:?}"
        );
        publisher
    }

    /// Publishes with `QoS` 1 and waits for the acknowledgement. Gives its reason code.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> u8 {
        self.last_id += 1;
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(self.last_id.to_be_bytes());
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload);
        let first = 0x32 | u8::from(retain);
        self.stream.write_all(&packet(first, &body)).unwrap();
        let (kind, puback) = self.read();
        assert!(
            kind == 0x40 && puback[..2] == self.last_id.to_be_bytes(),
            "answer to PUBLISH {}: {kind:#x} {puback:?}",
            self.last_id
        );
        puback.get(2).copied().unwrap_or(0)
    }

    /// The next packet: its first byte, and what follows the length.
    fn read(&mut self) -> (u8, Vec<u8>) {
        let [first] = self.bytes();
        let (mut length, mut shift) = (0, 0);
        loop {
            let [byte] = self.bytes();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (first, body)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream
            .read_exact(&mut bytes)
            .unwrap_or_else(|error| panic!("waiting for a packet: {error}"));
        bytes
    }
}

/// A packet: first byte, length, rest.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).unwrap();
        length /= 128;
        packet.push(byte | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
