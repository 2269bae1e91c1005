//! Keys and values of the store: byte forms that sort the way they are read.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId, Start};

use super::Error;
use crate::reading::{Identity, Reading};
use crate::score::forest::GroupKey;
use crate::score::rules::Verdict;

/// Order time so that bytes sort like numbers, negative ones too.
fn time_bytes(ms: i64) -> [u8; 8] {
    (ms.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn time_from(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

/// `sensor ‖ 0`: ids hold no NUL, so no sensor's rows lie between another's.
pub fn sensor_prefix(sensor: &SensorId) -> Vec<u8> {
    let mut key = Vec::with_capacity(sensor.as_bytes().len() + 33);
    key.extend_from_slice(sensor.as_bytes());
    key.push(0);
    key
}

/// `sensor ‖ 0 ‖ order time ‖ boot ‖ seq`: one sensor's readings in the order of time.
pub fn reading_key(sensor: &SensorId, order_ms: i64, identity: Identity) -> Vec<u8> {
    let mut key = Vec::with_capacity(sensor.as_bytes().len() + 25);
    put_reading_key(&mut key, sensor, order_ms, identity);
    key
}

fn put_reading_key(key: &mut Vec<u8>, sensor: &SensorId, order_ms: i64, identity: Identity) {
    key.extend_from_slice(sensor.as_bytes());
    key.push(0);
    key.extend_from_slice(&time_bytes(order_ms));
    key.extend_from_slice(&identity.to_bytes());
}

/// Where the readings of `sensor` at `order_ms` or later begin.
pub fn reading_floor(sensor: &SensorId, order_ms: i64) -> Vec<u8> {
    let mut key = sensor_prefix(sensor);
    key.extend_from_slice(&time_bytes(order_ms));
    key
}

/// `quantities ‖ 255 ‖ sensor ‖ 0`, the sensor and its NUL only of a forest for one: in front of the
/// generation of a forest.
pub fn group_prefix(group: &GroupKey) -> Vec<u8> {
    let mut key: Vec<u8> = group.quantities.iter().map(|quantity| quantity.0).collect();
    key.push(u8::MAX);
    if let Some(sensor) = &group.sensor {
        key.extend_from_slice(&sensor_prefix(sensor));
    }
    key
}

/// `sensor ‖ 0 ‖ boot ‖ seq`: finds a reading whose order time is not the device's own.
pub fn identity_key(sensor: &SensorId, identity: Identity) -> Vec<u8> {
    let mut key = sensor_prefix(sensor);
    key.extend_from_slice(&identity.to_bytes());
    key
}

/// `time ‖ sensor ‖ 0 ‖ tail`: all sensors' rows in the order of time.
pub fn by_time_key(time_ms: i64, sensor: &SensorId, tail: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(32 + tail.len());
    key.extend_from_slice(&time_bytes(time_ms));
    key.extend_from_slice(&sensor_prefix(sensor));
    key.extend_from_slice(tail);
    key
}

/// `time ‖ id`: incidents in the order of their opening.
pub fn incident_key(opened_ms: i64, id: &str) -> Vec<u8> {
    [time_bytes(opened_ms).as_slice(), id.as_bytes()].concat()
}

/// Where rows at `time_ms` or later begin.
pub fn time_floor(time_ms: i64) -> [u8; 8] {
    time_bytes(time_ms)
}

/// The time that [`time_floor`] wrote.
pub fn time_of(bytes: &[u8]) -> Option<i64> {
    <[u8; 8]>::try_from(bytes).ok().map(time_from)
}

/// Time and sensor of a [`by_time_key`].
///
/// # Errors
/// [`Error::Damaged`].
pub fn split_by_time_key(key: &[u8]) -> Result<(i64, SensorId), Error> {
    let damaged = Error::Damaged { what: "key" };
    let Some((time, rest)) = key.split_first_chunk::<8>() else {
        return Err(damaged);
    };
    Ok((time_from(*time), sensor_before_nul(rest)?))
}

/// The sensor at the beginning of `key`, up to a NUL or the end.
///
/// # Errors
/// [`Error::Damaged`].
pub fn sensor_before_nul(key: &[u8]) -> Result<SensorId, Error> {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    std::str::from_utf8(&key[..end])
        .ok()
        .and_then(|id| SensorId::try_from(id).ok())
        .ok_or(Error::Damaged { what: "key" })
}

/// The time behind `sensor ‖ 0` at the beginning of `key`.
///
/// # Errors
/// [`Error::Damaged`].
pub fn time_behind_nul(sensor: &SensorId, key: &[u8]) -> Result<i64, Error> {
    key.get(sensor.as_bytes().len() + 1..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map(|time| time_from(*time))
        .ok_or(Error::Damaged { what: "key" })
}

/// Order time and identity of a [`reading_key`] whose sensor is known.
///
/// # Errors
/// [`Error::Damaged`].
pub fn split_reading_key(sensor: &SensorId, key: &[u8]) -> Result<(i64, Identity), Error> {
    let tail = key
        .get(sensor.as_bytes().len() + 1..)
        .and_then(|tail| <&[u8; 24]>::try_from(tail).ok())
        .ok_or(Error::Damaged { what: "key" })?;
    let mut time = [0; 8];
    let mut identity = [0; 16];
    time.copy_from_slice(&tail[..8]);
    identity.copy_from_slice(&tail[8..]);
    let identity = Identity::from_bytes(identity).ok_or(Error::Damaged { what: "key" })?;
    Ok((time_from(time), identity))
}

/// One value of a stored reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StoredValue {
    /// Which quantity.
    pub quantity: QuantityId,
    /// As measured.
    pub value: f64,
    /// Against the baseline as it was.
    pub z: f32,
}

/// A stored reading without what its key says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its number among the sensor's readings; of a late one: that of the newest.
    pub entered: u64,
    /// Older than the newest when it came: no part of the sensor's state.
    pub late: bool,
    /// A rule fired on it.
    pub anomaly: bool,
    /// r / (1 + r); 0.5 is the line.
    pub score: f32,
    /// Generation of the forest that took part; 0 if none.
    pub generation: u32,
    /// Receive time minus order time, ms.
    pub delay_ms: i64,
    /// Device time minus order time, ms; `None` if the device did not say.
    pub ahead_ms: Option<i64>,
    /// As announced.
    pub next_s: Option<u32>,
    /// As told.
    pub start: Option<Box<Start>>,
    /// Its values.
    pub values: SmallVec<[StoredValue; 2]>,
}

/// A stored reading with what its key says.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReading {
    /// Order time.
    pub order_ms: i64,
    /// Boot and number, or what stands in for them.
    pub identity: Identity,
    /// The rest.
    pub row: Row,
}

/// A stored anomaly.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAnomaly {
    /// Order time of the reading, or when the silence was noticed.
    pub time_ms: i64,
    /// Whose.
    pub sensor: SensorId,
    /// What fired.
    pub verdict: Verdict,
}

const ROW_VERSION: u8 = 2;

/// Keys and values of readings, one behind the other.
#[derive(Debug)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    /// Where each key ends, and its value behind it.
    ends: Vec<(usize, usize)>,
}

impl EncodedRows {
    /// With room for so many.
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(96 * rows),
            ends: Vec::with_capacity(rows),
        }
    }

    /// Adds a reading.
    ///
    /// # Errors
    /// [`Error::Damaged`] cannot happen with a row made by this program.
    pub fn push(&mut self, reading: &Reading, row: &Row) -> Result<(), Error> {
        put_reading_key(
            &mut self.bytes,
            &reading.sensor,
            reading.order_ms,
            reading.identity,
        );
        let key_end = self.bytes.len();
        self.bytes = row.encode_behind(std::mem::take(&mut self.bytes))?;
        self.ends.push((key_end, self.bytes.len()));
        Ok(())
    }

    /// Key and value of each, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let spans = begins.zip(&self.ends);
        spans
            .map(|(begin, (middle, end))| (&self.bytes[begin..*middle], &self.bytes[*middle..*end]))
    }
}

impl Row {
    /// For the store.
    ///
    /// # Errors
    /// [`Error::Damaged`] cannot happen with a row made by this program.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.encode_behind(Vec::with_capacity(64))
    }

    fn encode_behind(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        bytes.push(ROW_VERSION);
        postcard::to_extend(self, bytes).map_err(|_| Error::Damaged { what: "reading" })
    }

    /// Inverse of [`Row::encode`].
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&ROW_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|_| Error::Damaged { what: "reading" })
            }
            _ => Err(Error::Damaged { what: "reading" }),
        }
    }

    /// The reading as it was taken in.
    pub fn reading(&self, sensor: SensorId, order_ms: i64, identity: Identity) -> Reading {
        Reading {
            sensor,
            device_ms: self.ahead_ms.map(|ahead| order_ms + ahead),
            received_ms: order_ms + self.delay_ms,
            order_ms,
            identity,
            next_s: self.next_s,
            start: self.start.clone(),
            values: self
                .values
                .iter()
                .map(|value| (value.quantity, value.value))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;

    fn sensor() -> impl Strategy<Value = SensorId> {
        "[A-Za-z0-9_:-]{1,64}".prop_map(|id| SensorId::try_from(id.as_str()).unwrap())
    }

    proptest! {
        #[test]
        fn keys_sort_like_what_they_mean(
            a in (sensor(), any::<i64>(), any::<u64>()),
            b in (sensor(), any::<i64>(), any::<u64>()),
        ) {
            let key = |(sensor, time, seq): &(SensorId, i64, u64)| {
                reading_key(sensor, *time, Identity::Payload(*seq))
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), {
                let plain = |(sensor, time, seq): &(SensorId, i64, u64)| {
                    (sensor.as_str().to_owned() + "\0", *time, *seq)
                };
                plain(&a).cmp(&plain(&b))
            });
            let (time, identity) = split_reading_key(&a.0, &key(&a)).unwrap();
            prop_assert_eq!((time, identity), (a.1, Identity::Payload(a.2)));
            let by_time = by_time_key(a.1, &a.0, &[1, 2]);
            prop_assert_eq!(split_by_time_key(&by_time).unwrap(), (a.1, a.0));
        }

        #[test]
        fn damaged_rows_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Row::decode(&bytes);
        }
    }

    #[test]
    fn a_reading_comes_back_as_it_was() {
        let sensor = SensorId::try_from("C001").unwrap();
        let identity = Identity::Sequence {
            boot: "9f3a".try_into().unwrap(),
            seq: 7,
        };
        let reading = Reading {
            sensor,
            device_ms: Some(1_000_500),
            received_ms: 1_000_000,
            order_ms: 1_000_000,
            identity,
            next_s: Some(10),
            start: None,
            values: SmallVec::from_slice(&[(TEMPERATURE, 21.4), (HUMIDITY, 53.2)]),
        };
        let row = Row {
            entered: 12,
            late: false,
            anomaly: false,
            score: 0.25,
            generation: 3,
            delay_ms: 0,
            ahead_ms: Some(500),
            next_s: Some(10),
            start: None,
            values: reading
                .values
                .iter()
                .map(|(quantity, value)| StoredValue {
                    quantity: *quantity,
                    value: *value,
                    z: 0.5,
                })
                .collect(),
        };
        let mut late = row.clone();
        late.late = true;
        let mut rows = EncodedRows::with_capacity(2);
        rows.push(&reading, &row).unwrap();
        rows.push(&reading, &late).unwrap();
        let encoded: Vec<_> = rows.iter().collect();
        assert_eq!(encoded.len(), 2);
        for ((key, value), row) in encoded.into_iter().zip([row, late]) {
            assert_eq!(key, reading_key(&sensor, 1_000_000, identity));
            assert!(value.len() < 48, "{} bytes", value.len());
            let again = Row::decode(value).unwrap();
            assert_eq!(again.reading(sensor, 1_000_000, identity), reading);
            assert_eq!(again, row);
        }
    }
}
