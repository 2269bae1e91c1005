//! The golden vectors of `vectors/`, which an implementation in another language can read too.
//!
//! Each file names the quantities that are configured beyond the builtin ones. A value is written
//! as the 16 hexadecimal digits of its bits, so that `-0.0` and the last digit count.

use serde::Deserialize;
use vigie_wire::{BootId, Quantities, Reading, SensorId, Start, Values, decode, encode};

#[derive(Deserialize)]
struct File<T> {
    quantities: Vec<String>,
    vectors: Vec<T>,
}

#[derive(Deserialize)]
struct Good {
    name: String,
    payload: String,
    reading: Expected,
}

#[derive(Deserialize)]
struct Bad {
    name: String,
    payload_hex: String,
    reason: String,
}

#[derive(Deserialize)]
struct Expected {
    sensor: SensorId,
    boot: Option<BootId>,
    seq: Option<u64>,
    time_ms: Option<i64>,
    next_s: Option<u32>,
    start: Option<Start>,
    values: Vec<(String, String)>,
}

impl Expected {
    fn reading(&self, quantities: &Quantities) -> Reading {
        let values: Values = self
            .values
            .iter()
            .map(|(name, bits)| {
                let bits = u64::from_str_radix(bits, 16).expect("16 digits");
                (
                    quantities.get(name).expect("a known quantity"),
                    f64::from_bits(bits),
                )
            })
            .collect();
        Reading {
            sensor: self.sensor,
            boot: self.boot,
            seq: self.seq,
            time_ms: self.time_ms,
            next_s: self.next_s,
            start: self.start.clone().map(Box::new),
            values,
        }
    }
}

fn load<T: for<'de> Deserialize<'de>>(file: &str) -> (Quantities, Vec<T>) {
    let file: File<T> = serde_json::from_str(file).expect("a file of vectors");
    let mut quantities = Quantities::builtin();
    for name in &file.quantities {
        quantities.push(name).expect("a quantity name");
    }
    assert!(!file.vectors.is_empty());
    (quantities, file.vectors)
}

/// As `==`, but with values compared by their bits.
fn assert_same(name: &str, got: &Reading, expected: &Reading) {
    let bits = |r: &Reading| {
        r.values
            .iter()
            .map(|(id, v)| (*id, v.to_bits()))
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(got), bits(expected), "{name}");
    assert_eq!(got, expected, "{name}");
}

#[test]
fn valid_payloads_decode() {
    let (quantities, vectors) = load::<Good>(include_str!("../vectors/valid.json"));
    for Good {
        name,
        payload,
        reading,
    } in vectors
    {
        let expected = reading.reading(&quantities);
        let got = decode(payload.as_bytes(), &quantities);
        assert_same(
            &name,
            &got.unwrap_or_else(|e| panic!("{name}: {e}")),
            &expected,
        );

        let mut again = Vec::new();
        encode(&expected, &quantities, &mut again);
        let got = decode(&again, &quantities);
        assert_same(
            &name,
            &got.unwrap_or_else(|e| panic!("{name}: {e}")),
            &expected,
        );
    }
}

#[test]
fn readings_encode_to_these_bytes() {
    let (quantities, vectors) = load::<Good>(include_str!("../vectors/encode.json"));
    for Good {
        name,
        payload,
        reading,
    } in vectors
    {
        let reading = reading.reading(&quantities);
        let mut out = b"kept".to_vec();
        encode(&reading, &quantities, &mut out);
        assert_eq!(
            str::from_utf8(&out),
            Ok(format!("kept{payload}").as_str()),
            "{name}"
        );

        let got = decode(payload.as_bytes(), &quantities);
        assert_same(
            &name,
            &got.unwrap_or_else(|e| panic!("{name}: {e}")),
            &reading,
        );
    }
}

#[test]
fn invalid_payloads_are_refused_for_the_right_reason() {
    let (quantities, vectors) = load::<Bad>(include_str!("../vectors/invalid.json"));
    let mut wrong = Vec::new();
    for Bad {
        name,
        payload_hex,
        reason,
    } in vectors
    {
        let payload: Vec<u8> = (0..payload_hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&payload_hex[at..at + 2], 16).expect("two digits"))
            .collect();
        match decode(&payload, &quantities) {
            Err(error) if error.reason() == reason => {
                let text = error.to_string();
                assert!(
                    text.starts_with(|c: char| c.is_ascii_lowercase()),
                    "{name}: {text}"
                );
                assert!(
                    !text.ends_with('.') && !text.contains(char::is_control),
                    "{name}: {text}"
                );
            }
            other => wrong.push(format!("{name}: {other:?} is not {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
