//! From bytes on a topic to a reading: the payload presets, the judgement on time and identity, and
//! the reason where it is none. Never panics, never trusts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};
use vigie_wire::{SensorId, Values, decode, topic};
use xxhash_rust::xxh3::xxh3_64;

use super::decode::Decode;
use crate::config::{Invalid, Span, in_range};
use crate::quantity::Catalogue;
use crate::reading::{Arrival, Identity, Quarantined, Reading};

/// The decoder of the native format takes no more ([`vigie_wire::MAX_PAYLOAD_BYTES`]).
const MAX_BYTES: u32 = 8192;
const _: () = assert!(MAX_BYTES as usize == vigie_wire::MAX_PAYLOAD_BYTES);

/// How payloads are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Vigie's own format, see the crate `vigie-wire`.
    #[default]
    Native,
    /// Any flat JSON object; the keys are named in the mapping.
    Flat,
}

/// Section `[payload]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `native` or `flat`.
    pub preset: Preset,
    /// Payloads above this size are quarantined, in bytes.
    pub max_bytes: u32,
    /// A device time further back than this is quarantined.
    pub oldest: Span,
    /// A device time further ahead than this is quarantined.
    pub newest: Span,
    /// Where a flat object keeps what.
    pub flat: Flat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            preset: Preset::Native,
            max_bytes: 8192,
            oldest: Span::secs(7 * 24 * 3600),
            newest: Span::secs(5 * 60),
            flat: Flat::default(),
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        in_range("max_bytes", self.max_bytes, 64, MAX_BYTES)?;
        in_range(
            "oldest",
            self.oldest,
            Span::secs(0),
            Span::secs(36_500 * 24 * 3600),
        )?;
        in_range(
            "newest",
            self.newest,
            Span::secs(0),
            Span::secs(36_500 * 24 * 3600),
        )?;
        if self.flat.sensor.is_empty() {
            return Err(Invalid::new(
                "flat.sensor",
                "[]",
                "no key to find the sensor id in",
                "name at least one key, for instance [\"sensor_id\"]",
            ));
        }
        Ok(())
    }
}

/// Key names of the `flat` preset; of several, the first one present counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flat {
    /// Sensor id: a string, or a whole number.
    pub sensor: Vec<String>,
    /// Time: milliseconds or seconds since 1970 (told apart by size), or RFC 3339; a time without
    /// zone is taken as UTC. None present: the receive time.
    pub time: Vec<String>,
    /// Quantity name → key, where they differ.
    pub values: std::collections::BTreeMap<String, String>,
}

impl Default for Flat {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            sensor: names(&["sensor_id", "sensor", "id", "device"]),
            time: names(&["timestamp", "time", "ts", "t"]),
            values: std::collections::BTreeMap::new(),
        }
    }
}

/// Decodes payloads by one config.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    catalogue: Arc<Catalogue>,
    /// Key of each declared quantity in a flat object.
    keys: Vec<(String, vigie_wire::QuantityId)>,
    has_retired: bool,
    unique: AtomicU64,
}

/// Why something is no reading: the metric's label, and a sentence.
pub type Why = (&'static str, String);

impl Decoder {
    /// `unique_from`: where numbers for readings without any identity begin; must be above those
    /// of earlier runs (the start time in microseconds is).
    pub fn new(config: Config, catalogue: Arc<Catalogue>, unique_from: u64) -> Self {
        let keys = catalogue
            .iter()
            .filter(|(_, spec)| spec.declared)
            .map(|(id, spec)| {
                let key = config.flat.values.get(&spec.name).unwrap_or(&spec.name);
                (key.clone(), id)
            })
            .collect();
        let has_retired = catalogue.iter().any(|(_, spec)| !spec.declared);
        Self {
            config,
            catalogue,
            keys,
            has_retired,
            unique: AtomicU64::new(unique_from),
        }
    }

    fn native(&self, at: &str, payload: &[u8]) -> Result<vigie_wire::Reading, Why> {
        let mut reading = decode(payload, self.catalogue.names())
            .map_err(|error| (error.reason(), error.to_string()))?;
        if self.has_retired {
            // A quantity that config no longer names is an unknown key.
            reading
                .values
                .retain(|(id, _)| self.catalogue.get(*id).is_some_and(|spec| spec.declared));
            if reading.values.is_empty() {
                return Err((
                    "no_quantity",
                    "no declared quantity in the payload".to_owned(),
                ));
            }
        }
        match topic::parse(at) {
            Some((sensor, _)) if sensor != reading.sensor => Err((
                "topic_mismatch",
                format!(
                    "the topic is that of {sensor}, the payload says {}",
                    reading.sensor
                ),
            )),
            _ => Ok(reading),
        }
    }

    fn flat(&self, payload: &[u8]) -> Result<vigie_wire::Reading, Why> {
        let text = std::str::from_utf8(payload).map_err(|error| {
            (
                "utf8",
                format!("not UTF-8 from byte {}", error.valid_up_to()),
            )
        })?;
        let object: FlatObject = serde_json::from_str(text).map_err(|error| flat_error(&error))?;
        let field = |names: &[String]| names.iter().find_map(|name| object.get(name));
        let sensor = match field(&self.config.flat.sensor) {
            Some(Scalar::Text(id)) => id.clone(),
            Some(Scalar::Number { text, .. }) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.clone()
            }
            Some(_) => {
                return Err((
                    "sensor_id",
                    "the sensor id is neither text nor number".into(),
                ));
            }
            None => {
                return Err((
                    "missing_id",
                    format!("none of the keys {:?} is there", self.config.flat.sensor),
                ));
            }
        };
        let sensor = SensorId::try_from(sensor.as_str())
            .map_err(|error| ("sensor_id", error.to_string()))?;
        let time_ms = match field(&self.config.flat.time) {
            None | Some(Scalar::Other) => None,
            Some(Scalar::Number { value, .. }) => Some(epoch_ms(*value)?),
            Some(Scalar::Text(text)) => Some(calendar_ms(text)?),
        };
        let mut values = Values::new();
        for (key, id) in &self.keys {
            match object.get(key) {
                None => {}
                Some(Scalar::Number { value, .. }) => values.push((*id, *value)),
                Some(_) => return Err(("type", format!("{key} is not a number"))),
            }
        }
        if values.is_empty() {
            return Err(("no_quantity", "no declared quantity in the payload".into()));
        }
        if values.len() > vigie_wire::MAX_QUANTITIES {
            return Err(("too_many_quantities", "more than 16 quantities".into()));
        }
        Ok(vigie_wire::Reading {
            sensor,
            boot: None,
            seq: None,
            time_ms,
            next_s: None,
            start: None,
            values,
        })
    }

    fn admit(
        &self,
        wire: vigie_wire::Reading,
        payload: &[u8],
        received_ms: i64,
    ) -> Result<Reading, Why> {
        if let Some(time_ms) = wire.time_ms {
            let oldest = received_ms - self.config.oldest.as_ms();
            let newest = received_ms + self.config.newest.as_ms();
            if time_ms < oldest {
                return Err((
                    "time_past",
                    format!("device time {time_ms} is too far back"),
                ));
            }
            if time_ms > newest {
                return Err((
                    "time_future",
                    format!("device time {time_ms} is too far ahead"),
                ));
            }
        }
        let identity = match (wire.boot, wire.seq, wire.time_ms) {
            (Some(boot), Some(seq), _) => Identity::Sequence { boot, seq },
            (_, _, Some(_)) => Identity::Payload(xxh3_64(payload)),
            _ => Identity::Unique(self.unique.fetch_add(1, Ordering::Relaxed)),
        };
        Ok(Reading {
            sensor: wire.sensor,
            device_ms: wire.time_ms,
            received_ms,
            order_ms: wire
                .time_ms
                .map_or(received_ms, |time| time.min(received_ms)),
            identity,
            next_s: wire.next_s,
            start: wire.start,
            values: wire.values,
        })
    }
}

impl Decode for Decoder {
    fn decode(&self, topic: &str, payload: &[u8], received_ms: i64) -> Arrival {
        let reading = if payload.len() > self.config.max_bytes as usize {
            Err((
                "too_large",
                format!(
                    "{} bytes, {} are allowed",
                    payload.len(),
                    self.config.max_bytes
                ),
            ))
        } else {
            match self.config.preset {
                Preset::Native => self.native(topic, payload),
                Preset::Flat => self.flat(payload),
            }
            .and_then(|wire| self.admit(wire, payload, received_ms))
        };
        match reading {
            Ok(reading) => Arrival::Reading(reading),
            Err((reason, detail)) => Arrival::Quarantine(Quarantined::new(
                reason,
                detail,
                topic,
                payload,
                received_ms,
            )),
        }
    }
}

/// Seconds and milliseconds are told apart by size: 10¹¹ seconds is the year 5138, 10¹¹
/// milliseconds is 1973.
fn epoch_ms(value: f64) -> Result<i64, Why> {
    let ms = if value.abs() < 1e11 {
        value * 1000.0
    } else {
        value
    };
    if !ms.is_finite() || ms.abs() > 9e15 {
        return Err(("time_future", format!("{value} is no time")));
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 2^53")]
    let whole = ms.round() as i64;
    Ok(whole)
}

/// A time as people write it: RFC 3339, the same without zone (then UTC), or a number of seconds
/// or milliseconds since 1970.
///
/// # Errors
/// [`Why`] it is no time.
pub fn parse_time(text: &str) -> Result<i64, Why> {
    match text.parse::<f64>() {
        Ok(value) => epoch_ms(value),
        Err(_) => calendar_ms(text),
    }
}

fn calendar_ms(text: &str) -> Result<i64, Why> {
    const NAIVE: [&[time::format_description::BorrowedFormatItem<'_>]; 2] = [
        time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]"
        ),
        time::macros::format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]]"
        ),
    ];
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        NAIVE
            .iter()
            .find_map(|format| PrimitiveDateTime::parse(text, format).ok())
            .map(PrimitiveDateTime::assume_utc)
    });
    let moment = moment.ok_or_else(|| {
        let start: String = text.chars().take(40).collect();
        (
            "time",
            format!("{start:?} is not a time: write RFC 3339 or a number"),
        )
    })?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
        .map_err(|_| ("time", "time out of range".to_owned()))
}

/// A value of a flat object.
#[derive(Debug)]
enum Scalar {
    Number {
        value: f64,
        text: String,
    },
    Text(String),
    /// Null, true, false, an array or an object: only ever ignored.
    Other,
}

/// A flat JSON object without repeated keys.
#[derive(Debug)]
struct FlatObject(SmallVec<[(String, Scalar); 8]>);

impl FlatObject {
    /// More keys than any honest payload of 8 KiB has; keeps the look-up for repeats cheap.
    const MOST: usize = 256;

    fn get(&self, key: &str) -> Option<&Scalar> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }
}

fn flat_error(error: &serde_json::Error) -> Why {
    let text = error.to_string();
    let reason = if text.starts_with("duplicate key") {
        "duplicate_key"
    } else if text.starts_with("number out of range") {
        "not_finite"
    } else if text.starts_with("invalid type") {
        "type"
    } else {
        "json"
    };
    (reason, text)
}

impl<'de> Deserialize<'de> for FlatObject {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = FlatObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<FlatObject, A::Error> {
                let mut object = FlatObject(SmallVec::new());
                while let Some(key) = map.next_key::<String>()? {
                    if object.get(&key).is_some() {
                        return Err(serde::de::Error::custom("duplicate key"));
                    }
                    if object.0.len() == FlatObject::MOST {
                        return Err(serde::de::Error::custom("more than 256 keys"));
                    }
                    let value = map.next_value::<Scalar>()?;
                    object.0.push((key, value));
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> serde::de::Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Number {
                    value,
                    text: String::new(),
                })
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number {
                    value: value as f64,
                    text: value.to_string(),
                })
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number {
                    value: value as f64,
                    text: value.to_string(),
                })
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Scalar, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Scalar, A::Error> {
                while map
                    .next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?
                    .is_some()
                {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn decoder(preset: Preset) -> Decoder {
        let config = Config {
            preset,
            ..Config::default()
        };
        Decoder::new(config, Arc::new(Catalogue::default()), 7)
    }

    fn reading(preset: Preset, payload: &str) -> Reading {
        match decoder(preset).decode("sensors/C001/reading", payload.as_bytes(), NOW) {
            Arrival::Reading(reading) => reading,
            Arrival::Quarantine(message) => panic!("{message:?}"),
        }
    }

    fn reason(preset: Preset, payload: &str) -> &'static str {
        match decoder(preset).decode("sensors/C001/reading", payload.as_bytes(), NOW) {
            Arrival::Reading(reading) => panic!("{reading:?}"),
            Arrival::Quarantine(message) => message.reason,
        }
    }

    #[test]
    fn order_time_and_identity() {
        let on_time = reading(
            Preset::Native,
            r#"{"id":"C001","boot":"b","seq":3,"t":1789999999000,"temperature":21.4}"#,
        );
        assert_eq!(on_time.order_ms, 1_789_999_999_000);
        assert!(!on_time.needs_index());
        let fast_clock = reading(
            Preset::Native,
            r#"{"id":"C001","boot":"b","seq":3,"t":1790000001000,"temperature":21.4}"#,
        );
        assert_eq!((fast_clock.order_ms, fast_clock.needs_index()), (NOW, true));
        assert_eq!(fast_clock.identity, on_time.identity);
        let no_number = reading(
            Preset::Native,
            r#"{"id":"C001","t":1789999999000,"temperature":21.4}"#,
        );
        assert!(matches!(no_number.identity, Identity::Payload(_)));
        let nothing = reading(Preset::Native, r#"{"id":"C001","temperature":21.4}"#);
        assert_eq!(nothing.identity, Identity::Unique(7));
    }

    #[test]
    fn reasons() {
        let native = |payload: &str| reason(Preset::Native, payload);
        assert_eq!(
            native(r#"{"id":"C002","temperature":21.4}"#),
            "topic_mismatch"
        );
        assert_eq!(
            native(r#"{"id":"C001","temperature":21.4,"t":-1}"#),
            "time_past"
        );
        assert_eq!(
            native(r#"{"id":"C001","temperature":21.4,"t":4102444800000}"#),
            "time_future"
        );
        assert_eq!(
            native(&format!(r#"{{"id":"C001","x":"{}"}}"#, "x".repeat(20_000))),
            "too_large"
        );
        assert_eq!(native(r#"{"id":"C001","temperature":1e309}"#), "not_finite");
        assert_eq!(native(r#"{"id":"C001","temperature":NaN}"#), "not_finite");
    }

    #[test]
    fn the_python_systems_payload() {
        let got = reading(
            Preset::Flat,
            r#"{"sensor_id":"C001","timestamp":"2026-09-21T14:13:19.000Z","temperature":21.4,"humidity":53.2,"tags":["a",{"b":1}]}"#,
        );
        assert_eq!(got.device_ms, Some(1_790_000_000_000 - 1000));
        assert_eq!(
            got.values.as_slice(),
            [(TEMPERATURE, 21.4), (HUMIDITY, 53.2)]
        );
        for time in ["1789999999", "1789999999000", "\"2026-09-21 14:13:19\""] {
            let payload = format!(r#"{{"sensor_id":"C001","timestamp":{time},"temperature":1}}"#);
            assert_eq!(
                reading(Preset::Flat, &payload).device_ms,
                Some(1_789_999_999_000),
                "{time}"
            );
        }
    }

    #[test]
    fn reasons_of_flat_payloads() {
        let flat = |payload: &str| reason(Preset::Flat, payload);
        assert_eq!(flat(r#"{"temperature":1}"#), "missing_id");
        assert_eq!(flat(r#"{"id":"a b","temperature":1}"#), "sensor_id");
        assert_eq!(flat(r#"{"id":"C001","temperature":"21"}"#), "type");
        assert_eq!(
            flat(r#"{"id":"C001","temperature":1,"temperature":2}"#),
            "duplicate_key"
        );
        assert_eq!(flat(r#"{"id":"C001","temperature":1e309}"#), "not_finite");
        assert_eq!(flat(r#"{"id":"C001","pressure":1}"#), "no_quantity");
        assert_eq!(
            flat(r#"{"id":"C001","temperature":1,"time":"soon"}"#),
            "time"
        );
        assert_eq!(flat("[1]"), "type");
        assert_eq!(flat("{"), "json");
    }
}
