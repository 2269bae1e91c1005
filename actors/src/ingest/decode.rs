//! What the sources ask of a payload format: one publish in, one arrival out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::warn;

use super::bounds::{Throttle, quoted};
use crate::reading::{Arrival, Quarantined};

/// Decodes one publish into an arrival, so that the sources know nothing of payload formats.
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

static PANICKED: Throttle = Throttle::new();

/// A message that makes the decoder panic would come back for ever, and take its connection with it
/// each time: it goes to the quarantine instead.
pub(crate) fn decode_safely(
    decoder: &dyn Decode,
    topic: &str,
    payload: &[u8],
    received_ms: i64,
) -> Arrival {
    let decode = AssertUnwindSafe(|| decoder.decode(topic, payload, received_ms));
    catch_unwind(decode).unwrap_or_else(|_panic| {
        PANICKED.warn(|more| {
            let topic = quoted(topic);
            warn!(topic, more, "the decoder panicked; message quarantined");
        });
        let detail = "the decoder panicked".to_owned();
        let message = Quarantined::new("decoder_panic", detail, topic, payload, received_ms);
        Arrival::Quarantine(message)
    })
}
