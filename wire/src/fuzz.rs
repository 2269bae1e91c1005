//! Payloads broken on purpose, and in great number: `VIGIE_FUZZ=10000000 cargo test --release`.

use alloc::string::ToString;
use alloc::vec::Vec;

use crate::decode::general;
use crate::{
    DecodeError, MAX_PAYLOAD_BYTES, MAX_QUANTITIES, Quantities, Reading, SensorId, decode, encode,
    plain,
};

const REASONS: [&str; 12] = [
    "too_large",
    "utf8",
    "json",
    "type",
    "duplicate_key",
    "missing_id",
    "sensor_id",
    "boot_id",
    "version",
    "no_quantity",
    "too_many_quantities",
    "not_finite",
];

/// Valid payloads to start from; the first has the usual form.
const SEEDS: [&str; 6] = [
    r#"{"v":1,"id":"C001","boot":"9f3a","seq":1042,"t":1790000000123,"temperature":21.4,"humidity":53.2,"next_s":10}"#,
    r#"{"id":"A","temperature":-1.5e-7}"#,
    r#" { "x" : [ {} , "\u00e9\n" , null ] , "\u0069d" : "a:b_c-d" , "humidity" : 0 } "#,
    r#"{"id":"A","q0":0,"q1":1,"q2":2,"q3":3,"q4":4,"q5":5,"q6":6,"q7":7,"q8":8,"q9":9}"#,
    r#"{"id":"A","temperature":20.5,"fw":"1.4.0","reset":"panic","crash":"queue.rs:7: \"full\"\n"}"#,
    r#"{"t":-9223372036854775808,"seq":18446744073709551615,"note":"21 °C","temperature":1.7976931348623157e308,"id":"Z"}"#,
];

/// No mutation makes a payload longer than this.
const LONGEST: usize = 300_000;

/// `SplitMix64`: a few lines, and the same payloads on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, and 0 when that is 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    /// A part of something `len` long.
    fn range(&mut self, len: usize) -> core::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below(len - start + 1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn insert(payload: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    payload.splice(at..at, bytes.iter().copied());
}

fn mutate(payload: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(payload.len());
    match random.below(9) {
        // A bit flips.
        0 if !payload.is_empty() => payload[at] ^= 1 << random.below(8),
        // A byte becomes one that matters to JSON.
        1 if !payload.is_empty() => payload[at] = *random.pick(b"{}[]:,\"\\-+.eE0129 \n\0\x1f\x80"),
        // Truncation.
        2 => payload.truncate(at),
        // A chunk is lost.
        3 => drop(payload.drain(random.range(payload.len()))),
        // Another payload starts in the middle.
        4 => {
            let other = random.pick(&SEEDS).as_bytes();
            payload.truncate(at);
            payload.extend_from_slice(&other[random.below(other.len())..]);
        }
        // A chunk is repeated.
        5 => {
            let chunk = payload[random.range(payload.len())].to_vec();
            insert(payload, at, &chunk);
        }
        // A number grows: digits go where a digit is.
        6 => {
            let digits: Vec<usize> = (0..payload.len())
                .filter(|&i| payload[i].is_ascii_digit())
                .collect();
            if !digits.is_empty() {
                let at = *random.pick(&digits);
                let count = 1 << random.below(10);
                let stretch = match random.below(4) {
                    0 => b"e309".to_vec(),
                    1 => b"e-".iter().copied().chain([b'9'; 20]).collect(),
                    2 => [b".".to_vec(), alloc::vec![b'0'; count]].concat(),
                    _ => alloc::vec![*random.pick(b"0123456789"); count],
                };
                insert(payload, at + 1, &stretch);
            }
        }
        // A word that matters.
        7 => {
            let word = random.pick(&[
                "null",
                "NaN",
                "-Infinity",
                "\"\"",
                "{}",
                "\\u0000",
                "\\ud800",
                "\"id\":\"B\",",
                "\"temperature\":3,",
                "\"humidity\":",
                "\"v\":2,",
                "\"boot\":\"!\",",
                "\u{e9}",
            ]);
            insert(payload, at, word.as_bytes());
        }
        // Depth, rarely much of it, as the value of a new key or anywhere.
        _ => {
            let depth = (1_usize << random.below(18).min(random.below(18))).min(100_000);
            let (open, close): (&[u8], &[u8]) = *random.pick(&[
                (&b"["[..], &b"]"[..]),
                (b"{\"a\":", b"}"),
                (b"[{\"id\":", b"}]"),
            ]);
            let depth = depth / open.len();
            let nest = match random.below(3) {
                0 => open.repeat(depth),
                1 => [open.repeat(depth), b"1".to_vec(), close.repeat(depth)].concat(),
                _ => [
                    b"\"x\":",
                    &*open.repeat(depth),
                    b"1",
                    &*close.repeat(depth),
                    b",",
                ]
                .concat(),
            };
            let at = if random.below(2) == 0 {
                at
            } else {
                payload.len().min(1)
            };
            insert(payload, at, &nest);
        }
    }
    payload.truncate(LONGEST);
}

fn check(payload: &[u8], quantities: &Quantities, out: &mut Vec<u8>) -> bool {
    let result = general(payload, quantities);
    let bounded = decode(payload, quantities);
    if payload.len() > MAX_PAYLOAD_BYTES {
        assert_eq!(bounded, Err(DecodeError::TooLarge { len: payload.len() }));
    } else {
        assert_eq!(bounded, result);
    }
    let bits = |r: &Reading| r.values.iter().map(|v| v.1.to_bits()).collect::<Vec<_>>();
    if let Some(read) = plain::read(payload, quantities) {
        assert_eq!(Ok(bits(&read)), result.as_ref().map(bits));
        assert_eq!(Ok(&read), result.as_ref());
    }
    match result {
        Ok(reading) => {
            assert_eq!(
                SensorId::try_from(reading.sensor.as_str()),
                Ok(reading.sensor)
            );
            assert!((1..=MAX_QUANTITIES).contains(&reading.values.len()));
            assert!(reading.values.iter().all(|(_, value)| value.is_finite()));
            assert!(reading.values.is_sorted_by(|a, b| a.0 < b.0));
            out.clear();
            encode(&reading, quantities, out);
            let again = decode(out, quantities).unwrap();
            assert_eq!(bits(&again), bits(&reading));
            assert_eq!(again, reading);
            true
        }
        Err(error) => {
            assert!(REASONS.contains(&error.reason()));
            let text = error.to_string();
            assert!(
                text.len() < 300 && !text.contains(char::is_control),
                "{text:?}"
            );
            false
        }
    }
}

fn quantities() -> Quantities {
    let mut all = Quantities::builtin();
    for digit in '0'..='9' {
        all.push(&["q", &digit.to_string()].concat()).unwrap();
    }
    all
}

#[test]
fn mutated_payloads_decode_or_are_refused() {
    let count = std::env::var("VIGIE_FUZZ").map_or(200_000, |count| count.parse().unwrap());
    let quantities = quantities();
    let mut out = Vec::new();
    for seed in SEEDS {
        assert!(check(seed.as_bytes(), &quantities, &mut out), "{seed}");
    }
    let mut accepted = 0;
    for round in 0..count {
        // Each round has its own seed, so that a failure is repeated alone.
        let mut random = Random(round);
        let mut payload = random.pick(&SEEDS).as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            mutate(&mut payload, &mut random);
        }
        let ok = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            check(&payload, &quantities, &mut out)
        }));
        let Ok(ok) = ok else {
            panic!("round {round}: {}", payload.escape_ascii());
        };
        accepted += u64::from(ok);
    }
    // Otherwise the mutations destroy every payload and the test sees nothing but the parser.
    assert!(
        count < 1000 || accepted > count / 50,
        "{accepted} of {count} accepted"
    );
}

#[test]
fn depth_costs_no_stack() {
    let quantities = quantities();
    let run = move || {
        const DEPTH: usize = 1_000_000;
        let around = |before: &str, open: &str, close: &str, after: &str| {
            let text = [
                before,
                &open.repeat(DEPTH),
                "1",
                &close.repeat(DEPTH),
                after,
            ]
            .concat();
            general(text.as_bytes(), &quantities).map_err(|error| error.reason())
        };
        assert!(around(r#"{"id":"A","x":"#, "[", "]", r#","temperature":1}"#).is_ok());
        assert!(around(r#"{"id":"A","x":"#, r#"{"a":"#, "}", r#","temperature":1}"#).is_ok());
        assert_eq!(around(r#"{"id":"A","x":"#, "[", "", ""), Err("json"));
        assert_eq!(
            around(r#"{"id":"A","temperature":"#, "[", "]", "}"),
            Err("type")
        );
        assert_eq!(around(r#"{"id":"#, r#"{"a":"#, "}", "}"), Err("type"));
        assert_eq!(around("", "[", "]", ""), Err("type"));
    };
    // The stack of a small task on a microcontroller, with room for an unoptimised build.
    let thread = std::thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(run)
        .unwrap();
    assert!(thread.join().is_ok());
}
