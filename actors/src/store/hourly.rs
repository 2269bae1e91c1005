//! Hourly roll-ups: of each sensor, hour and quantity how many values, the least, the largest and
//! the mean. They are made from the stored readings of the hour, all of them each time, so an hour
//! that is rolled up twice is the same hour; and they stay when the readings have gone.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};

use super::Error;
use super::row::{self, StoredReading};

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// The beginning of the hour that `ms` is in, ms since 1970 UTC.
pub fn hour_of(ms: i64) -> i64 {
    ms.div_euclid(HOUR_MS) * HOUR_MS
}

/// One quantity in one hour.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Which quantity.
    pub quantity: QuantityId,
    /// How many values; at least one.
    pub count: u32,
    /// The least of them.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their arithmetic mean.
    pub mean: f64,
}

/// One hour of one sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct HourRow {
    /// Whose.
    pub sensor: SensorId,
    /// Its beginning, ms since 1970 UTC.
    pub hour_ms: i64,
    /// In order of id; those that were measured.
    pub quantities: SmallVec<[Summary; 2]>,
}

impl HourRow {
    /// An hour without any value yet.
    pub fn new(sensor: SensorId, hour_ms: i64) -> Self {
        Self {
            sensor,
            hour_ms,
            quantities: SmallVec::new(),
        }
    }

    /// Takes in the values of a reading of this hour.
    pub fn add(&mut self, reading: &StoredReading) {
        for stored in &reading.row.values {
            let value = stored.value;
            let place = self
                .quantities
                .binary_search_by_key(&stored.quantity, |summary| summary.quantity);
            match place {
                Ok(at) => {
                    let summary = &mut self.quantities[at];
                    summary.count = summary.count.saturating_add(1);
                    summary.min = summary.min.min(value);
                    summary.max = summary.max.max(value);
                    // Welford: no sum that grows out of precision.
                    summary.mean += (value - summary.mean) / f64::from(summary.count);
                }
                Err(at) => self.quantities.insert(
                    at,
                    Summary {
                        quantity: stored.quantity,
                        count: 1,
                        min: value,
                        max: value,
                        mean: value,
                    },
                ),
            }
        }
    }

    /// Has it as many values of each quantity as `other`, or more?
    pub fn holds(&self, other: &Self) -> bool {
        other.quantities.iter().all(|other| {
            let same = self
                .quantities
                .iter()
                .find(|own| own.quantity == other.quantity);
            same.is_some_and(|own| own.count >= other.count)
        })
    }

    /// Its key in the store: like a reading's, without an identity.
    pub fn key(&self) -> Vec<u8> {
        row::reading_floor(&self.sensor, self.hour_ms)
    }

    /// Its value in the store.
    ///
    /// # Errors
    /// [`Error::Damaged`] cannot happen with a row made by this program.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        postcard::to_allocvec(&self.quantities).map_err(|_| Error::Damaged { what: "hour" })
    }
}

/// Inverse of [`HourRow::key`] and [`HourRow::encode`].
///
/// # Errors
/// [`Error::Damaged`].
pub fn decode(key: &[u8], value: &[u8]) -> Result<HourRow, Error> {
    let sensor = row::sensor_before_nul(key)?;
    let hour_ms = row::time_behind_nul(&sensor, key)?;
    let quantities = postcard::from_bytes(value).map_err(|_| Error::Damaged { what: "hour" })?;
    Ok(HourRow {
        sensor,
        hour_ms,
        quantities,
    })
}

#[cfg(test)]
mod tests {
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::super::row::{Row, StoredValue};
    use super::*;
    use crate::reading::Identity;

    fn reading(values: &[(QuantityId, f64)]) -> StoredReading {
        let values = values.iter().map(|&(quantity, value)| StoredValue {
            quantity,
            value,
            z: 0.0,
        });
        StoredReading {
            order_ms: 0,
            identity: Identity::Unique(1),
            row: Row {
                entered: 1,
                late: false,
                anomaly: false,
                score: 0.0,
                generation: 0,
                delay_ms: 0,
                ahead_ms: None,
                next_s: None,
                start: None,
                values: values.collect(),
            },
        }
    }

    #[test]
    fn an_hour_sums_up_and_comes_back() {
        let sensor = SensorId::try_from("C001").unwrap();
        let mut hour = HourRow::new(sensor, hour_of(7_200_001));
        hour.add(&reading(&[(HUMIDITY, 50.0)]));
        hour.add(&reading(&[(TEMPERATURE, 20.0), (HUMIDITY, 40.0)]));
        hour.add(&reading(&[(TEMPERATURE, 23.0), (HUMIDITY, 45.0)]));
        let [temperature, humidity] = hour.quantities.as_slice() else {
            panic!("{hour:?}");
        };
        assert_eq!((temperature.count, humidity.count), (2, 3));
        assert!((temperature.mean - 21.5).abs() < 1e-12 && (humidity.mean - 45.0).abs() < 1e-12);
        assert!((humidity.min, humidity.max) == (40.0, 50.0));
        assert_eq!(decode(&hour.key(), &hour.encode().unwrap()).unwrap(), hour);
        let mut smaller = HourRow::new(sensor, hour.hour_ms);
        smaller.add(&reading(&[(TEMPERATURE, 20.0)]));
        assert!(hour.holds(&smaller) && hour.holds(&hour) && !smaller.holds(&hour));
        assert_eq!(hour.hour_ms, 7_200_000);
        assert_eq!(hour_of(-1), -HOUR_MS);
    }
}
