//! A payload in plain form, as nearly every node writes it: the known keys, each once, texts without
//! escapes, short decimal numbers, no blanks but after `,` and `:`. Reading it takes less time than with a
//! parser for all of JSON, and nearly every reading comes this way.
//!
//! It never refuses: what has another form, or a fault, is for the general
//! parser, which reads all of JSON and names the fault. What it reads, that reads as the same.

use crate::{BootId, MAX_QUANTITIES, Quantities, QuantityId, Reading, SensorId, VERSION, Values};

/// As many decimal digits as an `f64` holds exactly, whatever they are.
const DIGITS: usize = 15;
/// Powers of ten that an `f64` holds exactly: a number of [`DIGITS`] divided by one of them is rounded
/// once, thus correctly (Clinger, "How to read floating point numbers accurately", PLDI 1990).
const POWERS: [f64; DIGITS + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

/// The reading, if the payload is one in plain form.
pub(crate) fn read(payload: &[u8], quantities: &Quantities) -> Option<Reading> {
    let mut rest = Rest(payload);
    let (mut version, mut sensor, mut boot) = (None, None, None);
    let (mut seq, mut time_ms, mut next_s) = (None, None, None);
    let mut values = Values::new();
    rest.expect(b'{')?;
    loop {
        let key = rest.text()?;
        rest.expect(b':')?;
        rest.blank();
        match key {
            b"v" => once(&mut version, rest.unsigned().filter(|v| *v == VERSION))?,
            b"id" => once(&mut sensor, SensorId::try_from(rest.ascii()?).ok())?,
            b"boot" => once(&mut boot, BootId::try_from(rest.ascii()?).ok())?,
            b"seq" => once(&mut seq, rest.unsigned())?,
            b"t" => once(&mut time_ms, rest.signed())?,
            b"next_s" => once(&mut next_s, u32::try_from(rest.unsigned()?).ok())?,
            name => {
                let next = values
                    .last()
                    .map_or(Some(0), |(last, _)| last.0.checked_add(1))?;
                let id = find(name, QuantityId(next), quantities)?;
                if id.0 < next || values.len() == MAX_QUANTITIES {
                    return None;
                }
                values.push((id, rest.decimal()?));
            }
        }
        match rest.next()? {
            b',' => rest.blank(),
            b'}' => break,
            _ => return None,
        }
    }
    (rest.0.is_empty() && !values.is_empty()).then_some(())?;
    Some(Reading {
        sensor: sensor?,
        boot,
        seq,
        time_ms,
        next_s,
        start: None,
        values,
    })
}

/// The quantity of this name, which is most likely the `next` one.
fn find(name: &[u8], next: QuantityId, quantities: &Quantities) -> Option<QuantityId> {
    match quantities.name(next) {
        Some(known) if known.as_bytes() == name => Some(next),
        _ => quantities.get(str::from_utf8(name).ok()?),
    }
}

/// `None`: there is no value, or there was one.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    value.is_some().then_some(())?;
    place.is_none().then(|| *place = value)
}

/// What is not read yet.
struct Rest<'p>(&'p [u8]);

impl<'p> Rest<'p> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// One blank, if it is there.
    fn blank(&mut self) {
        if let [b' ', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// A text without its quotes. Nothing is done about escapes: no key that is known and no id has one.
    fn text(&mut self) -> Option<&'p [u8]> {
        self.expect(b'"')?;
        let end = self.0.iter().position(|byte| *byte == b'"')?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    fn ascii(&mut self) -> Option<&'p str> {
        str::from_utf8(self.text()?).ok()
    }

    /// Digits as a number, and how many; neither none, nor more than [`DIGITS`].
    fn digits(&mut self) -> Option<(u64, usize)> {
        let (mut number, mut count) = (0, 0);
        while let [digit @ b'0'..=b'9', rest @ ..] = self.0 {
            number = number * 10 + u64::from(digit - b'0');
            count += 1;
            self.0 = rest;
            if count > DIGITS {
                return None;
            }
        }
        (count > 0).then_some((number, count))
    }

    /// An integer without sign; JSON has no zeros in front.
    fn unsigned(&mut self) -> Option<u64> {
        let zero = self.0.first() == Some(&b'0');
        let (number, count) = self.digits()?;
        (!zero || count == 1).then_some(number)
    }

    fn minus(&mut self) -> bool {
        let minus = self.0.first() == Some(&b'-');
        if minus {
            self.0 = self.0.get(1..).unwrap_or_default();
        }
        minus
    }

    /// An integer; -0 is none.
    fn signed(&mut self) -> Option<i64> {
        let minus = self.minus();
        let number = i64::try_from(self.unsigned()?).ok()?;
        match (minus, number) {
            (true, 0) => None,
            (true, _) => Some(-number),
            (false, _) => Some(number),
        }
    }

    /// A number without exponent.
    fn decimal(&mut self) -> Option<f64> {
        let minus = self.minus();
        let before = self.0;
        let whole = self.unsigned()?;
        let digits = match whole {
            0 => 0,
            _ => before.len() - self.0.len(),
        };
        let (number, places) = match self.0 {
            [b'.', rest @ ..] => {
                self.0 = rest;
                let (fraction, places) = self.digits()?;
                if digits + places > DIGITS {
                    return None;
                }
                (
                    whole * 10_u64.pow(u32::try_from(places).ok()?) + fraction,
                    places,
                )
            }
            _ => (whole, 0),
        };
        // Below 2^53, so exact.
        let value = number as f64 / POWERS.get(places)?;
        Some(if minus { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::general;

    /// Whatever it reads is read by the general parser as the same, bit for bit.
    #[test]
    fn it_reads_what_is_plain_and_leaves_the_rest() {
        let quantities = Quantities::builtin();
        for (is_plain, text) in [
            (
                true,
                r#"{"v":1,"id":"C001","boot":"9f3a","seq":1042,"t":1790000000123,"temperature":21.4,"humidity":53.2,"next_s":10}"#,
            ),
            (
                true,
                r#"{"temperature": -0.07, "humidity": 0, "id": "a:b_c-d"}"#,
            ),
            (
                true,
                r#"{"id":"A","t":-5,"temperature":-0.0,"humidity":-0}"#,
            ),
            (
                true,
                r#"{"id":"A","temperature":999999999999999,"humidity":0.123456789012345}"#,
            ),
            // Its value is for the general parser: more digits, an exponent, an integer that is none.
            (
                false,
                r#"{"id":"A","temperature":1234567890123456,"humidity":1}"#,
            ),
            (false, r#"{"id":"A","temperature":0.1234567890123456}"#),
            (false, r#"{"id":"A","temperature":1e3}"#),
            (
                false,
                r#"{"id":"A","seq":18446744073709551615,"humidity":1}"#,
            ),
            (false, r#"{"id":"A","t":-0,"humidity":1}"#),
            (false, r#"{"id":"A","seq":1.0,"humidity":1}"#),
            (false, r#"{"id":"A","next_s":4294967296,"humidity":1}"#),
            (false, r#"{"id":"A","temperature":01}"#),
            (false, r#"{"id":"A","temperature":1.}"#),
            (false, r#"{"id":"A","temperature":.5}"#),
            (false, r#"{"id":"A","temperature":-}"#),
            // Keys.
            (false, r#"{"id":"A","humidity":1,"temperature":1}"#),
            (false, r#"{"id":"A","humidity":1,"humidity":1}"#),
            (false, r#"{"id":"A","id":"A","humidity":1}"#),
            (false, r#"{"id":"A","humidity":1,"fw":"1.0"}"#),
            (false, r#"{"id":"A","other":1,"humidity":1}"#),
            (false, r#"{"id":"A"}"#),
            (false, r#"{"humidity":1}"#),
            (false, r#"{"v":2,"id":"A","humidity":1}"#),
            // Form.
            (false, r#" {"id":"A","humidity":1}"#),
            (false, r#"{"id":"A","humidity":1} "#),
            (false, r#"{"id" :"A","humidity":1}"#),
            (false, r#"{"id":"A","humidity":1,}"#),
            (false, r#"{"\u0069d":"A","humidity":1}"#),
            (false, r#"{"id":"A\u0042","humidity":1}"#),
            (false, r#"{"id":"A","humidity":1"#),
            (false, "{}"),
            (false, ""),
        ] {
            let read = read(text.as_bytes(), &quantities);
            assert_eq!(read.is_some(), is_plain, "{text}");
            if let Some(read) = read {
                let bits = |reading: &Reading| {
                    let values = reading.values.iter();
                    values
                        .map(|(id, value)| (*id, value.to_bits()))
                        .collect::<alloc::vec::Vec<_>>()
                };
                let known = general(text.as_bytes(), &quantities).unwrap();
                assert_eq!(bits(&read), bits(&known), "{text}");
                assert_eq!(read, known, "{text}");
            }
        }
    }
}
