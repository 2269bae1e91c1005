//! What ended a connection to the broker, in a word for the metrics and a sentence for people.

use std::io;

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode};
use rumqttc::v5::{self, StateError};

use crate::tls;

/// Why there is no connection (any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// What happened, and what to do.
    pub(super) text: String,
}

/// Label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Certificates and TLS handshakes.
    Tls,
    /// The broker said no to our CONNECT.
    Refused,
    /// The broker said no to our SUBSCRIBE.
    Subscribe,
    /// Another client took our client id.
    TakenOver,
    /// No route, no listener, reset, closed.
    Io,
    /// No answer in time.
    Timeout,
    /// The broker ended it with a reason, or sent what is no MQTT.
    Protocol,
    /// The stream did not take the readings.
    Stream,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Tls,
        Self::Refused,
        Self::Subscribe,
        Self::TakenOver,
        Self::Io,
        Self::Timeout,
        Self::Protocol,
        Self::Stream,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Refused => "refused",
            Self::Subscribe => "subscribe",
            Self::TakenOver => "taken_over",
            Self::Io => "io",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Stream => "stream",
        }
    }
}

impl Failure {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    fn refused(code: ConnectReturnCode) -> Self {
        let text = match code {
            ConnectReturnCode::BadUserNamePassword => {
                "wrong user name or password: check mqtt.username and mqtt.password".into()
            }
            ConnectReturnCode::NotAuthorized => {
                "not authorized: check mqtt.username and mqtt.password, and whether the broker lets \
                 this user connect with this mqtt.client_id"
                    .into()
            }
            ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => {
                "the broker does not accept this client id: set another mqtt.client_id".into()
            }
            ConnectReturnCode::RefusedProtocolVersion
            | ConnectReturnCode::UnsupportedProtocolVersion => {
                "the broker does not speak this version of MQTT: set mqtt.protocol = \"3.1.1\"".into()
            }
            ConnectReturnCode::ServiceUnavailable
            | ConnectReturnCode::ServerUnavailable
            | ConnectReturnCode::ServerBusy
            | ConnectReturnCode::ConnectionRateExceeded => {
                format!("the broker takes no connections at the moment ({code:?})")
            }
            other => format!("the broker refused the connection ({other:?})"),
        };
        Self::new(Kind::Refused, text)
    }

    /// The broker went without a word.
    fn closed() -> Self {
        Self::new(
            Kind::Io,
            "the broker closed the connection; if that happens right after connecting: a plaintext \
             client at a TLS port (set mqtt.tls = true), or a second client with the same \
             mqtt.client_id",
        )
    }

    fn io(error: &io::Error) -> Self {
        use io::ErrorKind as E;

        if let Some(text) = tls::explain(error) {
            return Self::new(Kind::Tls, text);
        }
        match error.kind() {
            E::ConnectionRefused => Self::new(
                Kind::Io,
                "nothing listens there: is the broker running, and is mqtt.port right?",
            ),
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof => {
                Self::closed()
            }
            E::TimedOut => Self::timeout(),
            E::NetworkUnreachable | E::HostUnreachable => {
                Self::new(Kind::Io, format!("{error}: is the network up?"))
            }
            // The resolver's errors have no kind of their own.
            _ if error.to_string().contains("lookup") => Self::new(
                Kind::Io,
                format!("the name is not known: check mqtt.host ({error})"),
            ),
            _ => Self::new(Kind::Io, error.to_string()),
        }
    }

    fn timeout() -> Self {
        Self::new(
            Kind::Timeout,
            "no answer within 10 s: a firewall, a wrong mqtt.port, or a broker that hangs",
        )
    }

    /// In the handshake, which comes after the connection.
    fn tls(error: &rumqttc::TlsError) -> Self {
        use io::ErrorKind as E;

        match error {
            rumqttc::TlsError::Io(error) => match error.kind() {
                E::UnexpectedEof | E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe => {
                    Self::new(
                        Kind::Tls,
                        "the connection was closed during the TLS handshake: is this a plaintext \
                         port (usually 1883; TLS is usually at 8883)?",
                    )
                }
                _ => Self::io(error),
            },
            other => Self::new(
                Kind::Tls,
                tls::explain(other).unwrap_or_else(|| other.to_string()),
            ),
        }
    }

    fn taken_over() -> Self {
        Self::new(
            Kind::TakenOver,
            "another client connected with the same client id: two engines with one mqtt.client_id \
             take each other's connection; give each its own",
        )
    }

    /// Whether a second client with our id would explain it (MQTT 3.1.1 does not say).
    pub(super) fn may_be_takeover(&self) -> bool {
        *self == Self::closed()
    }

    /// After some of those in a row.
    pub(super) fn suspected_takeover(times: u32) -> Self {
        let text = format!(
            "the broker closed the connection right after accepting it, {times} times in a row: \
             probably a second client uses the same client id; give each engine its own \
             mqtt.client_id"
        );
        Self::new(Kind::TakenOver, text)
    }
}

impl From<v5::ConnectionError> for Failure {
    fn from(error: v5::ConnectionError) -> Self {
        match error {
            v5::ConnectionError::Io(error)
            | v5::ConnectionError::MqttState(StateError::Io(error)) => Self::io(&error),
            v5::ConnectionError::Tls(error) => Self::tls(&error),
            v5::ConnectionError::Timeout(_) => Self::timeout(),
            v5::ConnectionError::ConnectionRefused(code) => Self::refused(code),
            v5::ConnectionError::MqttState(StateError::ConnectionAborted) => Self::closed(),
            v5::ConnectionError::MqttState(StateError::AwaitPingResp) => {
                Self::new(Kind::Timeout, "the broker did not answer our ping")
            }
            v5::ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::SessionTakenOver,
                ..
            }) => Self::taken_over(),
            v5::ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code,
                reason_string,
            }) => {
                let words = reason_string.map(|words| format!(": {words:?}"));
                let words = words.unwrap_or_default();
                let text = format!("the broker ended the connection ({reason_code:?}{words})");
                Self::new(Kind::Protocol, text)
            }
            other => Self::new(Kind::Protocol, other.to_string()),
        }
    }
}

impl From<rumqttc::ConnectionError> for Failure {
    fn from(error: rumqttc::ConnectionError) -> Self {
        use rumqttc::ConnectReturnCode as Old;
        use rumqttc::{ConnectionError as E, StateError as S};

        match error {
            E::Io(error) | E::MqttState(S::Io(error)) => Self::io(&error),
            E::Tls(error) => Self::tls(&error),
            E::NetworkTimeout | E::FlushTimeout => Self::timeout(),
            E::ConnectionRefused(code) => Self::refused(match code {
                Old::Success => ConnectReturnCode::Success,
                Old::RefusedProtocolVersion => ConnectReturnCode::RefusedProtocolVersion,
                Old::BadClientId => ConnectReturnCode::BadClientId,
                Old::ServiceUnavailable => ConnectReturnCode::ServiceUnavailable,
                Old::BadUserNamePassword => ConnectReturnCode::BadUserNamePassword,
                Old::NotAuthorized => ConnectReturnCode::NotAuthorized,
            }),
            E::MqttState(S::ConnectionAborted) => Self::closed(),
            E::MqttState(S::AwaitPingResp) => {
                Self::new(Kind::Timeout, "the broker did not answer our ping")
            }
            other => Self::new(Kind::Protocol, other.to_string()),
        }
    }
}
