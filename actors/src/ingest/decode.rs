//! What the listener asks of a payload format: one publish in, one arrival out.

use crate::reading::Arrival;

/// Decodes one publish into an arrival, so that the listener knows nothing of payload formats.
/// Payloads above the configured size come here too: the decoder quarantines them.
pub trait Decode: Send + Sync {
    /// Never fails: what is no reading is a quarantined arrival.
    fn decode(&self, topic: &str, payload: &[u8], received_ms: i64) -> Arrival;
}

impl<F> Decode for F
where
    F: Fn(&str, &[u8], i64) -> Arrival + Send + Sync,
{
    fn decode(&self, topic: &str, payload: &[u8], received_ms: i64) -> Arrival {
        self(topic, payload, received_ms)
    }
}
