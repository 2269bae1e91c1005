//! A collection that another program filled, the Python system for instance: read page by page in
//! the order of `_id`, each document a reading or the reason why it is none.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{ClientOptions, ConnectionString};
use mongodb::{Client, Collection};
use secrecy::ExposeSecret;
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::xxh3_64;

use super::{BATCH, Config, Trouble, Why, hosts};
use crate::ingest::payload::parse_time;
use crate::quantity::Catalogue;
use crate::reading::{Arrival, Identity, Quarantined, Reading};

/// What is where in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Holds the sensor's id.
    pub sensor: String,
    /// Holds the time: a date, a number since 1970, or text.
    pub time: String,
    /// Fields of quantities that are not called like them.
    pub values: BTreeMap<String, String>,
}

/// The collection, and how far it is read.
#[derive(Debug)]
pub struct Old {
    client: Client,
    collection: Collection<Document>,
    reader: Reader,
    /// `{_id: …}` of the last document that was read.
    last: Option<Document>,
}

/// Which collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    hosts: String,
    database: String,
    collection: String,
}

impl Place {
    /// A collection at the server of `mongodb.uri`; without a database in the one named there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn new(config: &Config, database: Option<&str>, collection: &str) -> Result<Self, Trouble> {
        let Some(uri) = &config.uri else {
            return Err(Trouble::new(Why::Other, "no connection string"));
        };
        let parsed = ConnectionString::parse(uri.expose_secret());
        let parsed = parsed.map_err(|error| Trouble::of(&error))?;
        let Some(database) = database.map(str::to_owned).or(parsed.default_database) else {
            let words = "the connection string names no database; give one with --database";
            return Err(Trouble::new(Why::Other, words));
        };
        Ok(Self {
            hosts: hosts(&parsed.host_info),
            database,
            collection: collection.to_owned(),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.hosts, self.database, self.collection)
    }
}

/// Types of `_id` in the order in which MongoDB sorts them. What is not of the type that is asked
/// for a comparison does not show.
const TYPES: [&str; 9] = [
    "null",
    "number",
    "string",
    "object",
    "binData",
    "objectId",
    "bool",
    "date",
    "timestamp",
];

/// Where the type of a value is among them; `None`: no `_id` that anybody has.
fn rank(id: &Bson) -> Option<usize> {
    Some(match id {
        Bson::Null => 0,
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Decimal128(_) => 1,
        Bson::String(_) => 2,
        Bson::Document(_) => 3,
        Bson::Binary(_) => 4,
        Bson::ObjectId(_) => 5,
        Bson::Boolean(_) => 6,
        Bson::DateTime(_) => 7,
        Bson::Timestamp(_) => 8,
        _ => return None,
    })
}

/// What sorts behind an `_id`, whatever its type.
fn behind(id: &Bson) -> Document {
    let greater = match id {
        // Not a number sorts before all numbers, and is greater and less than none.
        Bson::Double(number) if number.is_nan() => {
            doc! { "_id": { "$gte": f64::NEG_INFINITY } }
        }
        id => doc! { "_id": { "$gt": id } },
    };
    let later = rank(id).map_or(TYPES.len(), |rank| rank + 1);
    let mut parts = vec![greater];
    parts.extend(
        TYPES[later..]
            .iter()
            .map(|name| doc! { "_id": { "$type": *name } }),
    );
    doc! { "$or": parts }
}

impl Old {
    /// Opens it behind `position`, which [`Old::position`] gave; empty: at the beginning.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn open(
        config: &Config,
        place: &Place,
        fields: Fields,
        catalogue: &Catalogue,
        position: &[u8],
    ) -> Result<Self, Trouble> {
        let Some(uri) = &config.uri else {
            return Err(Trouble::new(Why::Other, "no connection string"));
        };
        let options = ClientOptions::parse(uri.expose_secret())
            .await
            .map_err(|error| Trouble::of(&error))?;
        let client = Client::with_options(options).map_err(|error| Trouble::of(&error))?;
        let last = RawDocumentBuf::from_bytes(position.to_vec())
            .ok()
            .and_then(|raw| Document::try_from(raw).ok());
        Ok(Self {
            collection: client
                .database(&place.database)
                .collection(&place.collection),
            reader: Reader::new(fields, catalogue),
            client,
            last,
        })
    }

    /// How many documents there are, roughly.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn count(&self) -> Result<u64, Trouble> {
        let count = self.collection.estimated_document_count().await;
        count.map_err(|error| Trouble::of(&error))
    }

    /// The next documents; none at the end.
    ///
    /// # Errors
    /// [`Trouble`]: nothing is skipped, it may be tried again.
    pub async fn next(&mut self) -> Result<Vec<Arrival>, Trouble> {
        let behind = match self.last.as_ref().and_then(|last| last.get("_id")) {
            Some(id) => behind(id),
            None => doc! {},
        };
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let find = self.collection.find(behind);
        let find = find.sort(doc! { "_id": 1 }).limit(limit);
        let mut cursor = find.await.map_err(|error| Trouble::of(&error))?;
        let mut arrivals = Vec::with_capacity(BATCH);
        let mut last = None;
        while cursor
            .advance()
            .await
            .map_err(|error| Trouble::of(&error))?
        {
            let document = cursor
                .deserialize_current()
                .map_err(|error| Trouble::of(&error))?;
            arrivals.push(self.reader.arrival(self.collection.name(), &document));
            last = document.get("_id").map(|id| doc! { "_id": id });
        }
        self.last = last.or(self.last.take());
        Ok(arrivals)
    }

    /// Where to go on.
    pub fn position(&self) -> Vec<u8> {
        let raw = self
            .last
            .as_ref()
            .and_then(|last| RawDocumentBuf::try_from(last).ok());
        raw.map(RawDocumentBuf::into_bytes).unwrap_or_default()
    }

    /// Closes all connections.
    pub async fn close(self) {
        self.client.shutdown().immediate(true).await;
    }
}

/// Makes readings of documents.
#[derive(Debug)]
pub struct Reader {
    fields: Fields,
    /// Quantities and their fields.
    values: Vec<(QuantityId, String)>,
}

impl Reader {
    /// Of documents with such fields.
    pub fn new(fields: Fields, catalogue: &Catalogue) -> Self {
        let values = catalogue.iter().map(|(id, quantity)| {
            let field = fields.values.get(&quantity.name);
            (id, field.unwrap_or(&quantity.name).clone())
        });
        Self {
            values: values.collect(),
            fields,
        }
    }

    /// Of a document as it comes from a server; `None` if the bytes are none.
    pub fn arrival_of(&self, bytes: &[u8]) -> Option<Arrival> {
        let document = Document::from_reader(bytes).ok()?;
        Some(self.arrival("bytes", &document))
    }

    fn arrival(&self, collection: &str, document: &Document) -> Arrival {
        self.reading(document).map_or_else(
            |(reason, detail)| {
                let name = document.get("_id").map(ToString::to_string);
                let topic = format!("{} {}", collection, name.unwrap_or_default());
                let text = document.to_string();
                Arrival::Quarantine(Quarantined::new(reason, detail, &topic, text.as_bytes(), 0))
            },
            Arrival::Reading,
        )
    }

    fn reading(&self, document: &Document) -> Result<Reading, (&'static str, String)> {
        let Fields { sensor, time, .. } = &self.fields;
        let id = match document.get(sensor) {
            Some(Bson::String(id)) => id.clone(),
            Some(Bson::Int32(id)) => id.to_string(),
            Some(Bson::Int64(id)) => id.to_string(),
            _ => return Err(("sensor_id", format!("no sensor id in {sensor:?}"))),
        };
        let sensor = SensorId::try_from(id.as_str())
            .map_err(|error| ("sensor_id", format!("{id:?}: {error}")))?;
        let time_ms = match document.get(time) {
            Some(Bson::DateTime(time)) => time.timestamp_millis(),
            Some(Bson::String(text)) => parse_time(text)?,
            Some(Bson::Double(number)) => parse_time(&number.to_string())?,
            Some(Bson::Int32(number)) => parse_time(&number.to_string())?,
            Some(Bson::Int64(number)) => parse_time(&number.to_string())?,
            _ => return Err(("time", format!("no time in {time:?}"))),
        };
        let mut values = SmallVec::new();
        for (quantity, field) in &self.values {
            let value = match document.get(field) {
                None | Some(Bson::Null) => continue,
                Some(Bson::Double(value)) => *value,
                Some(Bson::Int32(value)) => f64::from(*value),
                Some(Bson::Int64(value)) => *value as f64,
                Some(other) => return Err(("type", format!("{field} is {other}, no number"))),
            };
            if !value.is_finite() {
                return Err(("not_finite", format!("{field} is {value}, no measurement")));
            }
            values.push((*quantity, value));
        }
        if values.is_empty() {
            return Err(("no_quantity", "it holds no declared quantity".to_owned()));
        }
        let id = document.get("_id").map(ToString::to_string);
        Ok(Reading {
            sensor,
            device_ms: Some(time_ms),
            received_ms: time_ms,
            order_ms: time_ms,
            identity: Identity::Payload(xxh3_64(id.unwrap_or_default().as_bytes())),
            next_s: None,
            start: None,
            values,
        })
    }
}
