//! The copy in MongoDB, read back: readings in the order of their times, as far as their documents
//! say what they were.

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Cursor};
use secrecy::ExposeSecret;
use smallvec::SmallVec;
use vigie_wire::{BootId, QuantityId, SensorId};

use super::{BATCH, Config, MEASUREMENTS, NOTICE, Trouble, Why};
use crate::quantity::Catalogue;
use crate::reading::Identity;
use crate::store::row::{Row, StoredReading, StoredValue};

/// What the copy says of a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// Whose.
    pub sensor: SensorId,
    /// Without what documents do not keep: z-scores of each quantity, the forest's generation, and
    /// when it was received if that was within a second.
    pub reading: StoredReading,
    /// The z-score that was furthest out.
    pub z_score: f64,
}

/// Readings, one after the other.
#[derive(Debug)]
pub struct Copy {
    client: Client,
    cursor: Cursor<Document>,
    quantities: Vec<(QuantityId, String)>,
}

impl Copy {
    /// Those of `sensors` (of all, if there are none) with `from_ms` ≤ time < `to_ms`.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn open(
        config: &Config,
        catalogue: &Catalogue,
        sensors: &[SensorId],
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Self, Trouble> {
        let trouble = |error| Trouble::of(&error);
        let (Some(uri), Some(target)) = (&config.uri, config.target()) else {
            return Err(Trouble::new(Why::Other, "no connection string"));
        };
        let mut options = ClientOptions::parse(uri.expose_secret())
            .await
            .map_err(trouble)?;
        options.server_selection_timeout.get_or_insert(NOTICE);
        options.connect_timeout.get_or_insert(NOTICE);
        let client = Client::with_options(options).map_err(trouble)?;
        let mut filter = Document::new();
        if !sensors.is_empty() {
            let names: Vec<&str> = sensors.iter().map(SensorId::as_str).collect();
            filter.insert("sensor_id", doc! { "$in": names });
        }
        let mut span = Document::new();
        for (operator, bound, open) in [("$gte", from_ms, i64::MIN), ("$lt", to_ms, i64::MAX)] {
            if bound != open {
                span.insert(operator, DateTime::from_millis(bound));
            }
        }
        if !span.is_empty() {
            filter.insert("timestamp", span);
        }
        let batch = u32::try_from(BATCH).unwrap_or(u32::MAX);
        let cursor = client
            .database(&target.database)
            .collection(MEASUREMENTS)
            .find(filter)
            .sort(doc! { "timestamp": 1 })
            .batch_size(batch)
            .await
            .map_err(trouble)?;
        let quantities = catalogue
            .iter()
            .map(|(id, quantity)| (id, quantity.name.clone()));
        Ok(Self {
            quantities: quantities.collect(),
            cursor,
            client,
        })
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// [`Trouble`], also about a document that is no reading.
    pub async fn next(&mut self) -> Result<Option<Copied>, Trouble> {
        let trouble = |error| Trouble::of(&error);
        if !self.cursor.advance().await.map_err(trouble)? {
            return Ok(None);
        }
        let document = self.cursor.deserialize_current().map_err(trouble)?;
        copied(&document, &self.quantities)
            .map(Some)
            .ok_or_else(|| {
                let id = document.get("_id").map(ToString::to_string);
                let words = format!("{} is no reading of this engine", id.unwrap_or_default());
                Trouble::new(Why::Foreign, words)
            })
    }

    /// Closes all connections.
    pub async fn close(self) {
        self.client.shutdown().immediate(true).await;
    }
}

/// Inverse of the document of a reading, as far as there is one.
fn copied(document: &Document, quantities: &[(QuantityId, String)]) -> Option<Copied> {
    let sensor = SensorId::try_from(document.get_str("sensor_id").ok()?).ok()?;
    let order_ms = document.get_datetime("timestamp").ok()?.timestamp_millis();
    let received_ms = match document.get("received") {
        Some(Bson::DateTime(received)) => received.timestamp_millis(),
        _ => order_ms,
    };
    let values: SmallVec<[StoredValue; 2]> = quantities
        .iter()
        .filter_map(|(quantity, name)| {
            Some(StoredValue {
                quantity: *quantity,
                value: document.get_f64(name).ok()?,
                z: 0.0,
            })
        })
        .collect();
    #[allow(clippy::cast_possible_truncation, reason = "it was an f32")]
    let score = document.get_f64("score").ok()? as f32;
    let row = Row {
        entered: 0,
        late: document.get_bool("late").unwrap_or_default(),
        anomaly: document.get_bool("anomaly").ok()?,
        score,
        generation: 0,
        delay_ms: received_ms - order_ms,
        ahead_ms: None,
        next_s: None,
        values,
    };
    let identity = identity(&sensor, document.get_str("_id").ok()?)?;
    Some(Copied {
        sensor,
        reading: StoredReading {
            order_ms,
            identity,
            row,
        },
        z_score: document.get_f64("z_score").unwrap_or_default(),
    })
}

/// What the `_id` says.
fn identity(sensor: &SensorId, id: &str) -> Option<Identity> {
    let rest = id.strip_prefix(sensor.as_str())?;
    let (kind, rest) = (rest.get(..1)?, rest.get(1..)?);
    match kind {
        "/" => {
            let (boot, seq) = rest.split_once('/')?;
            let boot = BootId::try_from(boot).ok()?;
            let seq = seq.parse().ok()?;
            Some(Identity::Sequence { boot, seq })
        }
        "@" => {
            let (_, hash) = rest.split_once('/')?;
            u64::from_str_radix(hash, 16).ok().map(Identity::Payload)
        }
        "#" => rest.parse().ok().map(Identity::Unique),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::measurement;
    use super::*;

    #[test]
    fn what_a_document_says_is_what_was_stored() {
        let catalogue = Catalogue::default();
        let quantities: Vec<_> = catalogue
            .iter()
            .map(|(id, quantity)| (id, quantity.name.clone()))
            .collect();
        let sensor = SensorId::try_from("C:1_a-b").unwrap();
        let boot = BootId::try_from("9f3a").unwrap();
        for (nth, identity) in [
            Identity::Sequence {
                boot,
                seq: u64::MAX,
            },
            Identity::Payload(0x0123),
            Identity::Unique(77),
        ]
        .into_iter()
        .enumerate()
        {
            let late = nth == 1;
            let values = quantities.iter().map(|(quantity, _)| StoredValue {
                quantity: *quantity,
                value: 20.1 + f64::from(quantity.0),
                z: 0.0,
            });
            let reading = StoredReading {
                order_ms: 1_790_000_000_123,
                identity,
                row: Row {
                    entered: 0,
                    late,
                    anomaly: !late,
                    score: 0.7,
                    generation: 0,
                    delay_ms: if late { 5_000 } else { 0 },
                    ahead_ms: None,
                    next_s: None,
                    values: values.collect(),
                },
            };
            let document = measurement(&sensor, &reading, &catalogue);
            let copied = copied(&document, &quantities).unwrap();
            assert_eq!((copied.sensor, copied.reading), (sensor, reading));
        }
        assert_eq!(copied(&doc! { "temperature": 20.0 }, &quantities), None);
    }
}
