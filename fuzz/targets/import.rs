//! Any bytes as a document of a foreign collection: a reading whose values are numbers, or a message
//! for the quarantine.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::Arrival;
use vigie_actors::store::mongo::{Fields, Reader};

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let fields = Fields {
        sensor: "sensor_id".to_owned(),
        time: "timestamp".to_owned(),
        values: BTreeMap::new(),
    };
    Reader::new(fields, &Catalogue::default())
});

fuzz_target!(|document: &[u8]| {
    if let Some(Arrival::Reading(reading)) = READER.arrival_of(document) {
        assert!(reading.values.iter().all(|(_, value)| value.is_finite()));
    }
});
