//! What holds for every reading and for every payload.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use vigie_wire::{
    BootId, MAX_QUANTITIES, Quantities, QuantityId, Reading, SensorId, Start, decode, encode,
};

fn quantities() -> Quantities {
    let mut all = Quantities::builtin();
    for name in 0..30 {
        all.push(&format!("q{name}")).expect("a quantity name");
    }
    all
}

/// Every finite float as often as another, which `any::<f64>()` does not give.
fn finite() -> impl Strategy<Value = f64> {
    any::<u64>()
        .prop_map(f64::from_bits)
        .prop_filter("finite", |value| value.is_finite())
}

/// Texts of any characters that are not cut.
fn start() -> impl Strategy<Value = Start> {
    let word = || option::of("(?s).{0,8}");
    (word(), word(), option::of("(?s).{0,64}")).prop_map(|(firmware, reset, crash)| Start {
        firmware,
        reset,
        crash,
    })
}

fn readings() -> impl Strategy<Value = Reading> {
    let sensor = "[A-Za-z0-9_:-]{1,64}".prop_map(|id| SensorId::try_from(&*id).expect("an id"));
    let boot = "[A-Za-z0-9]{1,8}".prop_map(|id| BootId::try_from(&*id).expect("a boot"));
    let values = btree_map((0u8..32).prop_map(QuantityId), finite(), 1..=MAX_QUANTITIES);
    (
        sensor,
        option::of(boot),
        option::of(any::<u64>()),
        option::of(any::<i64>()),
        option::of(any::<u32>()),
        start(),
        values,
    )
        .prop_map(
            |(sensor, boot, seq, time_ms, next_s, start, values)| Reading {
                sensor,
                boot,
                seq,
                time_ms,
                next_s,
                start: (!start.is_empty()).then(|| Box::new(start)),
                values: values.into_iter().collect(),
            },
        )
}

fn bits(reading: &Reading) -> Vec<(QuantityId, u64)> {
    reading
        .values
        .iter()
        .map(|(id, value)| (*id, value.to_bits()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_reading_survives_its_payload(reading in readings()) {
        let mut payload = Vec::new();
        encode(&reading, &quantities(), &mut payload);
        let got = decode(&payload, &quantities()).expect("what encode wrote");
        prop_assert_eq!(bits(&got), bits(&reading));
        prop_assert_eq!(got, reading);
    }

    #[test]
    fn one_float_survives_its_digits(values in vec(finite(), 100)) {
        let quantities = Quantities::builtin();
        let sensor = SensorId::try_from("A").expect("an id");
        let mut payload = Vec::new();
        for value in values {
            let values = [(QuantityId(0), value)].into_iter().collect();
            let reading =
                Reading { sensor, boot: None, seq: None, time_ms: None, next_s: None, start: None, values };
            payload.clear();
            encode(&reading, &quantities, &mut payload);
            let got = decode(&payload, &quantities).expect("what encode wrote");
            prop_assert_eq!(bits(&got), bits(&reading));
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(payload in vec(any::<u8>(), 0..300)) {
        let _ = decode(&payload, &quantities());
    }

    #[test]
    fn any_text_decodes_or_is_refused(payload in "\\PC*") {
        let _ = decode(payload.as_bytes(), &quantities());
    }

    #[test]
    fn a_changed_payload_decodes_or_is_refused(
        reading in readings(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut payload = Vec::new();
        encode(&reading, &quantities(), &mut payload);
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Ok(got) = decode(&payload, &quantities()) {
            prop_assert!(got.values.iter().all(|(_, value)| value.is_finite()));
            prop_assert!(got.values.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
}
