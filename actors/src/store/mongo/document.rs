//! What is stored becomes documents. The fields that the Python system wrote keep their names
//! (`sensor_id`, `timestamp`, `temperature`, `humidity`, `z_score`, `anomaly`), so what reads them
//! goes on.

use std::fmt::Write as _;

use mongodb::bson::{Bson, DateTime, Document, doc};
use vigie_wire::SensorId;

use crate::alert::text::sentence;
use crate::quantity::Catalogue;
use crate::reading::Identity;
use crate::store::hourly::HourRow;
use crate::store::row::{StoredAnomaly, StoredReading};

/// What came this much after its time says when; other readings do without, for it takes room.
const LATE_MS: i64 = 1000;

/// Signs that no sensor id holds keep the parts of an `_id` apart.
fn reading_id(sensor: &SensorId, reading: &StoredReading) -> String {
    match reading.identity {
        Identity::Sequence { boot, seq } => format!("{sensor}/{boot}/{seq}"),
        Identity::Payload(hash) => {
            // The device's time: the order time may differ from one delivery to the next.
            let device_ms = reading.order_ms + reading.row.ahead_ms.unwrap_or(0);
            format!("{sensor}@{device_ms}/{hash:016x}")
        }
        Identity::Unique(number) => format!("{sensor}#{number}"),
    }
}

/// A number as MongoDB shows it best: what has no fraction stays a double nevertheless.
fn put_values(
    document: &mut Document,
    catalogue: &Catalogue,
    values: impl Iterator<Item = (vigie_wire::QuantityId, Bson)>,
) {
    for (quantity, value) in values {
        if let Some(quantity) = catalogue.get(quantity) {
            document.insert(quantity.name.as_str(), value);
        }
    }
}

/// A reading.
pub(super) fn measurement(
    sensor: &SensorId,
    reading: &StoredReading,
    catalogue: &Catalogue,
) -> Document {
    let row = &reading.row;
    let mut document = doc! {
        "_id": reading_id(sensor, reading),
        "sensor_id": sensor.as_str(),
        "timestamp": DateTime::from_millis(reading.order_ms),
    };
    let values = row.values.iter();
    put_values(
        &mut document,
        catalogue,
        values.map(|stored| (stored.quantity, Bson::Double(stored.value))),
    );
    // The z-score that is furthest out, with its sign.
    let furthest = row.values.iter().map(|stored| stored.z);
    let z = furthest.fold(
        0.0_f32,
        |z, other| if other.abs() > z.abs() { other } else { z },
    );
    document.insert("z_score", f64::from(z));
    document.insert("score", f64::from(row.score));
    document.insert("anomaly", row.anomaly);
    if row.late {
        document.insert("late", true);
    }
    if row.delay_ms >= LATE_MS {
        let received = DateTime::from_millis(reading.order_ms.saturating_add(row.delay_ms));
        document.insert("received", received);
    }
    document
}

/// An anomaly.
pub(super) fn anomaly(anomaly: &StoredAnomaly, tail: &[u8], catalogue: &Catalogue) -> Document {
    let StoredAnomaly {
        time_ms,
        sensor,
        verdict,
    } = anomaly;
    let tail = tail.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    });
    let quantity = verdict
        .quantity
        .and_then(|quantity| catalogue.get(quantity))
        .map(|quantity| quantity.name.as_str());
    doc! {
        "_id": format!("{sensor}@{time_ms}/{tail}"),
        "sensor_id": sensor.as_str(),
        "timestamp": DateTime::from_millis(*time_ms),
        "rule": verdict.rule.name(),
        "severity": verdict.severity().name(),
        "quantity": quantity,
        "observed": verdict.observed,
        "expected": verdict.expected,
        "line": verdict.line,
        "ratio": verdict.ratio,
        "since": DateTime::from_millis(verdict.since_ms),
        "text": sentence(verdict, catalogue),
    }
}

/// An hour of a sensor.
pub(super) fn hour(hour: &HourRow, catalogue: &Catalogue) -> Document {
    let HourRow {
        sensor, hour_ms, ..
    } = hour;
    let mut document = doc! {
        "_id": format!("{sensor}@{hour_ms}"),
        "sensor_id": sensor.as_str(),
        "hour": DateTime::from_millis(*hour_ms),
    };
    let summaries = hour.quantities.iter().map(|summary| {
        let count = i32::try_from(summary.count).unwrap_or(i32::MAX);
        let summarised = doc! {
            "count": count, "min": summary.min, "max": summary.max, "mean": summary.mean,
        };
        (summary.quantity, Bson::Document(summarised))
    });
    put_values(&mut document, catalogue, summaries);
    document
}
