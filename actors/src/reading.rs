//! A reading inside the engine: admitted, with its place in time and its identity; and what can
//! become of a message that arrives.

use vigie_wire::{BootId, SensorId, Start, Values};

/// One admitted measurement message. All times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Who measured.
    pub sensor: SensorId,
    /// When, by the device's clock; `None` if the device did not say.
    pub device_ms: Option<i64>,
    /// When the engine received it.
    pub received_ms: i64,
    /// Its place in the order of its sensor: min(device time, receive time), so that a node with a
    /// fast clock does not make its own future readings late.
    pub order_ms: i64,
    /// What makes a redelivery recognisable.
    pub identity: Identity,
    /// Seconds until the next reading, as announced by a node that sleeps.
    pub next_s: Option<u32>,
    /// What the device told of its start, with its first reading since.
    pub start: Option<Box<Start>>,
    /// Finite values, sorted by quantity, one each.
    pub values: Values,
}

impl Reading {
    /// True if the store key of a redelivery would differ, because the order time is not the
    /// device's own: such identities need an index entry of their own.
    pub fn needs_index(&self) -> bool {
        self.device_ms != Some(self.order_ms) && !matches!(self.identity, Identity::Unique(_))
    }
}

/// What two deliveries of the same reading have in common (within one sensor).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The device numbers its readings.
    Sequence {
        /// Chosen anew at each boot of the device.
        boot: BootId,
        /// Counts up from boot on.
        seq: u64,
    },
    /// A device time but no number: hash of the payload (which holds the time).
    Payload(u64),
    /// Neither: every delivery counts as a reading of its own (at-least-once).
    Unique(u64),
}

impl Identity {
    /// 16 bytes that sort by (boot, seq). Boot ids are ASCII, so the three kinds never meet.
    pub fn to_bytes(self) -> [u8; 16] {
        let (head, tail) = match self {
            Self::Sequence { boot, seq } => (boot.to_bytes(), seq),
            Self::Payload(hash) => ([0; 8], hash),
            Self::Unique(number) => ([0xff; 8], number),
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&head);
        bytes[8..].copy_from_slice(&tail.to_be_bytes());
        bytes
    }

    /// Inverse of [`Identity::to_bytes`]; `None` if the bytes are not such a form.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let mut head = [0; 8];
        let mut tail = [0; 8];
        head.copy_from_slice(&bytes[..8]);
        tail.copy_from_slice(&bytes[8..]);
        let number = u64::from_be_bytes(tail);
        match head {
            [0, ..] => Some(Self::Payload(number)),
            [0xff, ..] => Some(Self::Unique(number)),
            _ => BootId::from_bytes(head)
                .ok()
                .map(|boot| Self::Sequence { boot, seq: number }),
        }
    }
}

/// A received message after decoding: a reading, or the reason why it is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// Goes through the stages.
    Reading(Reading),
    /// Goes straight to the store's quarantine, and is acknowledged.
    Quarantine(Quarantined),
}

/// A message that could not become a reading. It is kept, counted and acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub struct Quarantined {
    /// Why: one of a bounded set of words, used as a metric label.
    pub reason: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// Where it came from: the MQTT topic, cut to 256 bytes.
    pub topic: String,
    /// The payload, cut to [`Quarantined::KEPT_BYTES`].
    pub payload: Vec<u8>,
    /// When the engine received it.
    pub received_ms: i64,
}

impl Quarantined {
    /// How much of a payload is kept for inspection.
    pub const KEPT_BYTES: usize = 1024;

    /// Keeps what fits of topic and payload.
    pub fn new(
        reason: &'static str,
        detail: String,
        topic: &str,
        payload: &[u8],
        received_ms: i64,
    ) -> Self {
        Self {
            reason,
            detail,
            topic: topic.chars().take(256).collect(),
            payload: payload[..payload.len().min(Self::KEPT_BYTES)].to_vec(),
            received_ms,
        }
    }
}

/// What became of one arrival; received = the sum of these, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In the store.
    Stored,
    /// Was in the store already; nothing changed.
    Duplicate,
    /// In the store's quarantine, for this reason.
    Quarantined(&'static str),
}
