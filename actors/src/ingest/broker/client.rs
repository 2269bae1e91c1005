//! One connection to the broker: MQTT 5 and 3.1.1 behind one face.
//!
//! Every connection gets a client of its own. A rumqttc client that reconnects by itself goes on with
//! what the old connection left in its queues: publishes of packet ids that mean something else by
//! now, and acknowledgements for them.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5 as packet5;
use rumqttc::v5::{self, mqttbytes::QoS as QoS5};
use rumqttc::{TlsConfiguration, Transport};

use super::explain::Failure;

/// Incoming packets have no other limit in MQTT 3.1.1 than that of the protocol (2.2.3): a client
/// cannot tell the broker one, and one that hangs up at a large message gets it again for ever.
const PROTOCOL_MAXIMUM: usize = 268_435_455;

/// TCP, TLS and CONNACK together.
const CONNECT_TIMEOUT_S: u64 = 10;

/// Everything that a connection is opened with.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    pub(super) client_id: &'a str,
    pub(super) credentials: Option<(String, String)>,
    pub(super) keep_alive: Duration,
    pub(super) session_expiry_s: u32,
    pub(super) receive_maximum: u16,
    pub(super) packet_maximum: u32,
}

/// A received PUBLISH.
#[derive(Debug)]
pub(super) enum Message {
    V5(packet5::Publish),
    V4(rumqttc::Publish),
}

impl Message {
    /// `None` if it is no UTF-8.
    pub(super) fn topic(&self) -> Option<&str> {
        match self {
            Self::V5(publish) => std::str::from_utf8(&publish.topic).ok(),
            Self::V4(publish) => Some(&publish.topic),
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Self::V5(publish) => &publish.payload,
            Self::V4(publish) => &publish.payload,
        }
    }

    pub(super) fn is_retained(&self) -> bool {
        match self {
            Self::V5(publish) => publish.retain,
            Self::V4(publish) => publish.retain,
        }
    }

    /// What to acknowledge; `None` at `QoS` 0.
    pub(super) fn id(&self) -> Option<u16> {
        let id = match self {
            Self::V5(publish) => publish.pkid,
            Self::V4(publish) => publish.pkid,
        };
        (id != 0).then_some(id)
    }
}

/// What a connection brings.
#[derive(Debug)]
pub(super) enum News {
    Connected {
        session_present: bool,
        /// If the broker keeps the session for another time than was asked for.
        session_expiry_s: Option<u32>,
    },
    /// One per filter: why it was refused.
    Subscribed(Vec<Option<String>>),
    Message(Message),
}

/// The side that receives. [`Receiving::next`] must not be cancelled: a half-sent acknowledgement
/// would be lost.
pub(super) enum Receiving {
    V5(Box<v5::EventLoop>),
    V4(Box<rumqttc::EventLoop>),
}

/// The side that sends.
pub(super) enum Sending {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// Requests that may wait to be sent.
const REQUESTS: usize = 1024;

/// MQTT 5.
pub(super) fn open_v5(opening: Opening<'_>) -> (Sending, Receiving) {
    let mut options = v5::MqttOptions::new(opening.client_id, opening.host, opening.port);
    options
        .set_keep_alive(opening.keep_alive)
        .set_connection_timeout(CONNECT_TIMEOUT_S)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(opening.session_expiry_s))
        .set_receive_maximum(Some(opening.receive_maximum))
        .set_max_packet_size(Some(opening.packet_maximum))
        .set_manual_acks(true);
    if let Some((user, password)) = opening.credentials {
        options.set_credentials(user, password);
    }
    if let Some(tls) = opening.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let (client, events) = v5::AsyncClient::new(options, REQUESTS);
    (Sending::V5(client), Receiving::V5(Box::new(events)))
}

/// MQTT 3.1.1: the broker decides how many messages may be unacknowledged, at most 65,535.
pub(super) fn open_v4(opening: Opening<'_>) -> (Sending, Receiving) {
    let mut options = rumqttc::MqttOptions::new(opening.client_id, opening.host, opening.port);
    options
        .set_keep_alive(opening.keep_alive)
        .set_clean_session(false)
        .set_max_packet_size(PROTOCOL_MAXIMUM, PROTOCOL_MAXIMUM)
        .set_manual_acks(true);
    if let Some((user, password)) = opening.credentials {
        options.set_credentials(user, password);
    }
    if let Some(tls) = opening.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS);
    events
        .network_options
        .set_connection_timeout(CONNECT_TIMEOUT_S);
    (Sending::V4(client), Receiving::V4(Box::new(events)))
}

impl Receiving {
    /// What one read of the socket brought, which may be nothing of interest.
    pub(super) async fn next(&mut self) -> Result<Vec<News>, Failure> {
        match self {
            Self::V5(events) => {
                let first = events.poll().await?;
                let rest = std::mem::take(&mut events.state.events);
                Ok(std::iter::once(first)
                    .chain(rest)
                    .filter_map(news_v5)
                    .collect())
            }
            Self::V4(events) => {
                let first = events.poll().await?;
                let rest = std::mem::take(&mut events.state.events);
                Ok(std::iter::once(first)
                    .chain(rest)
                    .filter_map(news_v4)
                    .collect())
            }
        }
    }
}

fn news_v5(event: v5::Event) -> Option<News> {
    let v5::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        packet5::Packet::Publish(publish) => Some(News::Message(Message::V5(publish))),
        packet5::Packet::ConnAck(connack) => Some(News::Connected {
            session_present: connack.session_present,
            session_expiry_s: connack
                .properties
                .and_then(|properties| properties.session_expiry_interval),
        }),
        packet5::Packet::SubAck(suback) => {
            let refusal = |code: &packet5::SubscribeReasonCode| match code {
                packet5::SubscribeReasonCode::Success(_) => None,
                other => Some(format!("{other:?}")),
            };
            Some(News::Subscribed(
                suback.return_codes.iter().map(refusal).collect(),
            ))
        }
        _ => None,
    }
}

fn news_v4(event: rumqttc::Event) -> Option<News> {
    let rumqttc::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        rumqttc::Packet::Publish(publish) => Some(News::Message(Message::V4(publish))),
        rumqttc::Packet::ConnAck(connack) => Some(News::Connected {
            session_present: connack.session_present,
            session_expiry_s: None,
        }),
        rumqttc::Packet::SubAck(suback) => {
            let refusal = |code: &rumqttc::SubscribeReasonCode| match code {
                rumqttc::SubscribeReasonCode::Success(_) => None,
                rumqttc::SubscribeReasonCode::Failure => Some("Failure".to_owned()),
            };
            Some(News::Subscribed(
                suback.return_codes.iter().map(refusal).collect(),
            ))
        }
        _ => None,
    }
}

impl Sending {
    /// Puts a PUBACK on its way, which may have to wait for others; may be cancelled. False if the
    /// connection is gone: then there is nothing to do, the broker delivers the message again.
    pub(super) async fn acknowledge(&self, id: u16) -> bool {
        match self {
            Self::V5(client) => {
                let mut publish = packet5::Publish::new("", QoS5::AtLeastOnce, Vec::new(), None);
                publish.pkid = id;
                client.ack(&publish).await.is_ok()
            }
            Self::V4(client) => {
                let mut publish = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::new());
                publish.pkid = id;
                client.ack(&publish).await.is_ok()
            }
        }
    }

    /// Asks for `filters` in one SUBSCRIBE.
    pub(super) fn subscribe(&self, filters: &[String], qos: u8) -> bool {
        match self {
            Self::V5(client) => {
                let qos = if qos == 0 {
                    QoS5::AtMostOnce
                } else {
                    QoS5::AtLeastOnce
                };
                let filters = filters
                    .iter()
                    .map(|filter| packet5::Filter::new(filter.clone(), qos));
                client.try_subscribe_many(filters).is_ok()
            }
            Self::V4(client) => {
                let qos = if qos == 0 {
                    rumqttc::QoS::AtMostOnce
                } else {
                    rumqttc::QoS::AtLeastOnce
                };
                let filters = filters
                    .iter()
                    .map(|filter| rumqttc::SubscribeFilter::new(filter.clone(), qos));
                client.try_subscribe_many(filters).is_ok()
            }
        }
    }

    /// Ends a subscription that an earlier config had.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Says goodbye after everything that was put on its way before. The session stays.
    pub(super) fn disconnect(&self) -> bool {
        match self {
            Self::V5(client) => client.try_disconnect().is_ok(),
            Self::V4(client) => client.try_disconnect().is_ok(),
        }
    }
}
