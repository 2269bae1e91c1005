//! A reading as it waits in flash, and how it becomes the payload of a publish.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use vigie_wire::{
    BootId, HUMIDITY, Quantities, QuantityId, Reading, SensorId, Start as Told, TEMPERATURE,
};

use crate::{Quantity, Start, Values};

/// The most bytes of an entry: ids and texts at their longest.
pub(crate) const MAX_BYTES: usize = 640;

const FORMAT: u8 = 1;
const UTC: u8 = 1;
const NEXT: u8 = 2;
const START: u8 = 4;
const CRASH: u8 = 8;

/// When a reading was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// ms since 1970.
    Utc(i64),
    /// ms since the boot began: the clock was not set yet.
    Uptime(u64),
}

/// One reading that waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) sensor: SensorId,
    /// Zeros fill up a shorter id.
    pub(crate) boot: [u8; 8],
    pub(crate) seq: u64,
    pub(crate) taken: Taken,
    pub(crate) next_s: Option<u32>,
    pub(crate) values: Values,
    pub(crate) start: Option<Box<Start>>,
}

impl Entry {
    /// The bytes in flash. Numbers are little endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        let when = match self.taken {
            Taken::Utc(ms) => {
                flags |= UTC;
                ms.to_le_bytes()
            }
            Taken::Uptime(ms) => ms.to_le_bytes(),
        };
        if self.next_s.is_some() {
            flags |= NEXT;
        }
        if let Some(start) = &self.start {
            flags |= START;
            if start.crash.is_some() {
                flags |= CRASH;
            }
        }
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&[FORMAT, flags]);
        out.extend_from_slice(&self.boot);
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&when);
        if let Some(next_s) = self.next_s {
            out.extend_from_slice(&next_s.to_le_bytes());
        }
        text(self.sensor.as_str(), &mut out);
        out.push(u8::try_from(self.values.len()).unwrap_or(0));
        for (quantity, value) in &self.values {
            out.push(*quantity as u8);
            out.extend_from_slice(&value.to_le_bytes());
        }
        if let Some(start) = &self.start {
            text(Told::cut(&start.firmware, Told::WORD), &mut out);
            text(Told::cut(&start.reset, Told::WORD), &mut out);
            if let Some(crash) = &start.crash {
                text(Told::cut(crash, Told::SENTENCE), &mut out);
            }
        }
        out
    }

    /// From the bytes in flash; nothing if they are not an entry.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Bytes(bytes);
        let [format, flags] = rest.take()?;
        if format != FORMAT {
            return None;
        }
        let boot = rest.take()?;
        let seq = u64::from_le_bytes(rest.take()?);
        let when = rest.take()?;
        let taken = if flags & UTC == 0 {
            Taken::Uptime(u64::from_le_bytes(when))
        } else {
            Taken::Utc(i64::from_le_bytes(when))
        };
        let next_s = match flags & NEXT {
            0 => None,
            _ => Some(u32::from_le_bytes(rest.take()?)),
        };
        let sensor = SensorId::try_from(rest.text()?).ok()?;
        let [count] = rest.take()?;
        let mut values = Values::with_capacity(usize::from(count));
        for _ in 0..count {
            let [quantity] = rest.take()?;
            let quantity = *Quantity::ALL.get(usize::from(quantity))?;
            values.push((quantity, f64::from_le_bytes(rest.take()?)));
        }
        let start = match flags & START {
            0 => None,
            _ => Some(Box::new(Start {
                firmware: String::from(rest.text()?),
                reset: String::from(rest.text()?),
                crash: match flags & CRASH {
                    0 => None,
                    _ => Some(String::from(rest.text()?)),
                },
            })),
        };
        Some(Self {
            sensor,
            boot,
            seq,
            taken,
            next_s,
            values,
            start,
        })
    }

    /// The payload of its publish, with the time that is known by now.
    pub(crate) fn payload(&self, time_ms: Option<i64>, names: &Names) -> Vec<u8> {
        let mut values: vigie_wire::Values = self
            .values
            .iter()
            .filter_map(|&(quantity, value)| Some((names.id(quantity)?, value)))
            .collect();
        values.sort_by_key(|&(id, _)| id);
        let reading = Reading {
            sensor: self.sensor,
            boot: BootId::from_bytes(self.boot).ok(),
            seq: Some(self.seq),
            time_ms,
            next_s: self.next_s,
            start: self.start.as_deref().map(|start| {
                let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
                Box::new(Told {
                    firmware: some(&start.firmware),
                    reset: some(&start.reset),
                    crash: start.crash.clone(),
                })
            }),
            values,
        };
        let mut payload = Vec::new();
        vigie_wire::encode(&reading, &names.quantities, &mut payload);
        payload
    }
}

/// The names of quantities, as the wire format wants them.
#[derive(Debug)]
pub(crate) struct Names {
    quantities: Quantities,
    ids: [Option<QuantityId>; Quantity::ALL.len()],
}

impl Names {
    pub(crate) fn new() -> Self {
        let mut quantities = Quantities::builtin();
        let ids = Quantity::ALL.map(|quantity| match quantity {
            Quantity::Temperature => Some(TEMPERATURE),
            Quantity::Humidity => Some(HUMIDITY),
            Quantity::Pressure | Quantity::Battery => quantities.push(quantity.name()).ok(),
        });
        Self { quantities, ids }
    }

    fn id(&self, quantity: Quantity) -> Option<QuantityId> {
        self.ids.get(quantity as usize).copied().flatten()
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(
        text.as_bytes()
            .get(..usize::from(length))
            .unwrap_or_default(),
    );
}

/// What is left to read.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<&'b str> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        str::from_utf8(taken).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;

    pub(crate) fn sample(seq: u64) -> Entry {
        Entry {
            sensor: SensorId::try_from("C001").unwrap(),
            boot: *b"9f3a\0\0\0\0",
            seq,
            taken: Taken::Utc(1_790_000_000_123),
            next_s: Some(10),
            values: vec![(Quantity::Temperature, 21.4), (Quantity::Humidity, 53.2)],
            start: None,
        }
    }

    #[test]
    fn an_entry_comes_back_from_flash_as_it_was() {
        let start = Start {
            firmware: "0.1.0".into(),
            reset: "panic".into(),
            crash: Some("é".repeat(300)),
        };
        let mut entry = sample(u64::MAX);
        assert_eq!(Entry::decode(&entry.encode()), Some(entry.clone()));
        entry.taken = Taken::Uptime(12);
        entry.next_s = None;
        entry.start = Some(Box::new(start));
        let back = Entry::decode(&entry.encode()).unwrap();
        assert_eq!(
            back.start.as_ref().unwrap().crash.as_ref().unwrap().len(),
            256
        );
        assert_eq!(
            (back.taken, back.next_s, &back.values),
            (entry.taken, None, &entry.values)
        );
    }

    #[test]
    fn the_longest_entry_fits() {
        let mut entry = sample(0);
        entry.sensor = SensorId::try_from("x".repeat(64).as_str()).unwrap();
        entry.values = Quantity::ALL.map(|quantity| (quantity, 1.0)).to_vec();
        let long = "x".repeat(1000);
        entry.start = Some(Box::new(Start {
            firmware: long.clone(),
            reset: long.clone(),
            crash: Some(long),
        }));
        assert!(entry.encode().len() <= MAX_BYTES);
    }

    #[test]
    fn a_cut_entry_is_none() {
        let bytes = sample(1).encode();
        for end in 0..bytes.len() {
            assert_eq!(Entry::decode(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn the_payload_is_the_golden_one_of_the_wire_format() {
        let payload = sample(1042).payload(Some(1_790_000_000_123), &Names::new());
        assert_eq!(
            core::str::from_utf8(&payload).unwrap(),
            r#"{"v":1,"id":"C001","boot":"9f3a","seq":1042,"t":1790000000123,"temperature":21.4,"humidity":53.2,"next_s":10}"#
        );
    }
}
