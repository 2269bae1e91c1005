//! What waits to be copied to MongoDB, as it lies in the store: the same key and value as in the
//! keyspace it comes from, so that nothing is encoded twice.

use vigie_wire::SensorId;

use super::Error;
use super::hourly::{self, HourRow};
use super::row::{self, Row, StoredAnomaly, StoredReading};
use crate::score::rules::Verdict;

/// One row on its way.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// A reading.
    Reading(SensorId, StoredReading),
    /// An anomaly, and what tells it from others of the same sensor and time.
    Anomaly(StoredAnomaly, Vec<u8>),
    /// An hour of a sensor; it replaces the one that was sent before.
    Hour(HourRow),
}

/// Which keyspace a row is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Readings.
    Reading = 1,
    /// Anomalies.
    Anomaly = 2,
    /// Hours.
    Hour = 3,
}

/// `kind ‖ length of key ‖ key ‖ value`.
pub fn encode(kind: Kind, key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(key.len()).unwrap_or(u8::MAX);
    debug_assert!(usize::from(length) == key.len(), "keys are short");
    let mut bytes = Vec::with_capacity(2 + key.len() + value.len());
    bytes.extend_from_slice(&[kind as u8, length]);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

/// Inverse of [`encode`].
///
/// # Errors
/// [`Error::Damaged`].
pub fn decode(bytes: &[u8]) -> Result<Outgoing, Error> {
    let damaged = Error::Damaged {
        what: "outgoing row",
    };
    let Some((&[kind, length], rest)) = bytes.split_first_chunk::<2>() else {
        return Err(damaged);
    };
    let Some((key, value)) = rest.split_at_checked(usize::from(length)) else {
        return Err(damaged);
    };
    match kind {
        kind if kind == Kind::Reading as u8 => reading(key, value),
        kind if kind == Kind::Anomaly as u8 => anomaly(key, value),
        kind if kind == Kind::Hour as u8 => hour(key, value),
        _ => Err(damaged),
    }
}

/// From an entry of the keyspace of readings.
///
/// # Errors
/// [`Error::Damaged`].
pub fn reading(key: &[u8], value: &[u8]) -> Result<Outgoing, Error> {
    let sensor = row::sensor_before_nul(key)?;
    let (order_ms, identity) = row::split_reading_key(&sensor, key)?;
    let row = Row::decode(value)?;
    let stored = StoredReading {
        order_ms,
        identity,
        row,
    };
    Ok(Outgoing::Reading(sensor, stored))
}

/// From an entry of the keyspace of hours.
///
/// # Errors
/// [`Error::Damaged`].
pub fn hour(key: &[u8], value: &[u8]) -> Result<Outgoing, Error> {
    hourly::decode(key, value).map(Outgoing::Hour)
}

/// From an entry of the keyspace of anomalies.
///
/// # Errors
/// [`Error::Damaged`].
pub fn anomaly(key: &[u8], value: &[u8]) -> Result<Outgoing, Error> {
    let (time_ms, sensor) = row::split_by_time_key(key)?;
    let tail = key.get(8 + sensor.as_bytes().len() + 1..);
    let verdict: Verdict =
        postcard::from_bytes(value).map_err(|_| Error::Damaged { what: "anomaly" })?;
    let stored = StoredAnomaly {
        time_ms,
        sensor,
        verdict,
    };
    Ok(Outgoing::Anomaly(stored, tail.unwrap_or_default().to_vec()))
}
