//! Any bytes as a payload, on any topic, in each preset: a reading whose values are numbers, or a
//! message for the quarantine.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use vigie_actors::ingest::decode::Decode;
use vigie_actors::ingest::payload::{Config, Decoder, Preset};
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::Arrival;

const NOW_MS: i64 = 1_790_000_000_000;

static DECODERS: LazyLock<[Decoder; 2]> = LazyLock::new(|| {
    [Preset::Native, Preset::Flat].map(|preset| {
        let config = Config {
            preset,
            ..Config::default()
        };
        Decoder::new(config, Arc::new(Catalogue::default()), 0)
    })
});

// A preset in the first byte, the topic up to the first line break, the payload behind it.
fuzz_target!(|input: &[u8]| {
    let Some((preset, rest)) = input.split_first() else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let topic = String::from_utf8_lossy(&rest[..end]);
    let decoder = &DECODERS[usize::from(*preset) % DECODERS.len()];
    if let Arrival::Reading(reading) = decoder.decode(&topic, &rest[end..], NOW_MS) {
        assert!(reading.values.iter().all(|(_, value)| value.is_finite()));
        assert!(!reading.values.is_empty() && reading.order_ms <= NOW_MS);
    }
});
