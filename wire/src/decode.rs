//! A payload to its reading.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt;
use core::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{
    BootId, BootIdError, MAX_PAYLOAD_BYTES, MAX_QUANTITIES, Quantities, QuantityId, Reading,
    SensorId, SensorIdError, Start, VERSION, Values, plain,
};

/// Why a payload is not a reading.
///
/// When a payload has several faults, this is the first in the order of the bytes; a key that is
/// missing comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload is longer than [`MAX_PAYLOAD_BYTES`].
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// The payload is not UTF-8.
    Utf8 {
        /// The first byte that cannot be read.
        position: usize,
    },
    /// The payload is not JSON, or more than one JSON value.
    Json {
        /// What is wrong and where, from a fixed set of sentences.
        detail: Box<str>,
    },
    /// The payload is JSON, but not an object.
    NotAnObject {
        /// The type that it has.
        found: &'static str,
    },
    /// A known key has a value of another type.
    WrongType {
        /// The key.
        key: Box<str>,
        /// The type that the key has in the format.
        expected: &'static str,
        /// The type that the value has.
        found: &'static str,
    },
    /// A known key is there twice.
    DuplicateKey {
        /// The key.
        key: Box<str>,
    },
    /// There is no `id`.
    MissingId,
    /// The `id` is not a sensor id.
    SensorId(SensorIdError),
    /// The `boot` is not a boot id.
    BootId(BootIdError),
    /// The `v` is not a version that this program reads.
    Version {
        /// The version.
        found: u64,
    },
    /// There is no known quantity.
    NoQuantity,
    /// There are more than [`MAX_QUANTITIES`] known quantities.
    TooManyQuantities,
    /// A number is not finite, or is beyond the range of `f64`.
    NotFinite {
        /// The key whose value it is.
        key: Box<str>,
    },
}

impl DecodeError {
    /// A short name of the kind of fault, from a fixed set: fit for a label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Utf8 { .. } => "utf8",
            Self::Json { .. } => "json",
            Self::NotAnObject { .. } | Self::WrongType { .. } => "type",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::MissingId => "missing_id",
            Self::SensorId(_) => "sensor_id",
            Self::BootId(_) => "boot_id",
            Self::Version { .. } => "version",
            Self::NoQuantity => "no_quantity",
            Self::TooManyQuantities => "too_many_quantities",
            Self::NotFinite { .. } => "not_finite",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len } => {
                write!(
                    f,
                    "the payload has {len} bytes, send at most {MAX_PAYLOAD_BYTES}"
                )
            }
            Self::Utf8 { position } => {
                write!(
                    f,
                    "the payload is not utf-8 at byte {position}, send json in utf-8"
                )
            }
            Self::Json { detail } => {
                write!(
                    f,
                    "the payload is not json: {detail}; send one json object per message"
                )
            }
            Self::NotAnObject { found } => {
                write!(
                    f,
                    "the payload is {found}, send one json object per message"
                )
            }
            Self::WrongType {
                key,
                expected,
                found,
            } => {
                write!(
                    f,
                    "key '{key}' has {found}, send {expected} or leave the key out"
                )
            }
            Self::DuplicateKey { key } => write!(f, "key '{key}' is there twice, send it once"),
            Self::MissingId => f.write_str("key 'id' is missing, send the id of the sensor"),
            Self::SensorId(error) => write!(f, "key 'id': {error}"),
            Self::BootId(error) => write!(f, "key 'boot': {error}"),
            Self::Version { found } => {
                write!(
                    f,
                    "key 'v' is {found}, send version {VERSION} or update this program"
                )
            }
            Self::NoQuantity => f.write_str(
                "no known quantity, send a temperature, a humidity or one that is configured",
            ),
            Self::TooManyQuantities => write!(
                f,
                "more than {MAX_QUANTITIES} known quantities, send the others in another message"
            ),
            Self::NotFinite { key } => write!(
                f,
                "key '{key}' has a number that is not finite, send a finite one or leave the key out"
            ),
        }
    }
}

impl core::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::SensorId(error) => Some(error),
            Self::BootId(error) => Some(error),
            _ => None,
        }
    }
}

/// Reads one payload.
///
/// # Errors
///
/// When the payload is not what the [crate] describes; [`DecodeError`] lists the ways.
pub fn decode(payload: &[u8], quantities: &Quantities) -> Result<Reading, DecodeError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(DecodeError::TooLarge { len: payload.len() });
    }
    plain::read(payload, quantities).map_or_else(|| general(payload, quantities), Ok)
}

/// Reads all of JSON, of any length.
pub(crate) fn general(payload: &[u8], quantities: &Quantities) -> Result<Reading, DecodeError> {
    // All at once, ignored values included: serde_json would look only at the strings it hands out.
    let text = str::from_utf8(payload).map_err(|error| DecodeError::Utf8 {
        position: error.valid_up_to(),
    })?;
    let mut state = State::new(quantities);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_any(Top(&mut state))
        .and_then(|()| deserializer.end())
        .map_err(|error| state.explain(&error, text))?;
    state.finish()
}

/// What is read so far.
struct State<'q> {
    quantities: &'q Quantities,
    version: Option<()>,
    sensor: Option<SensorId>,
    boot: Option<BootId>,
    seq: Option<u64>,
    time_ms: Option<i64>,
    next_s: Option<u32>,
    firmware: Option<String>,
    reset: Option<String>,
    crash: Option<String>,
    values: Values,
    /// Why a visitor stopped: serde's errors are texts, and this keeps the type.
    fault: Option<DecodeError>,
    /// The known key whose value could not be read.
    failed: Option<Key>,
}

/// A key of the object.
#[derive(Clone, Copy)]
enum Key {
    Version,
    Sensor,
    Boot,
    Seq,
    Time,
    Next,
    Firmware,
    Reset,
    Crash,
    Quantity(QuantityId),
    Unknown,
}

impl<'q> State<'q> {
    fn new(quantities: &'q Quantities) -> Self {
        Self {
            quantities,
            version: None,
            sensor: None,
            boot: None,
            seq: None,
            time_ms: None,
            next_s: None,
            firmware: None,
            reset: None,
            crash: None,
            values: Values::new(),
            fault: None,
            failed: None,
        }
    }

    fn finish(self) -> Result<Reading, DecodeError> {
        let sensor = self.sensor.ok_or(DecodeError::MissingId)?;
        if self.values.is_empty() {
            return Err(DecodeError::NoQuantity);
        }
        let start = Start {
            firmware: self.firmware,
            reset: self.reset,
            crash: self.crash,
        };
        Ok(Reading {
            sensor,
            boot: self.boot,
            seq: self.seq,
            time_ms: self.time_ms,
            next_s: self.next_s,
            start: (!start.is_empty()).then(|| Box::new(start)),
            values: self.values,
        })
    }

    fn key_name(&self, key: Key) -> &'q str {
        match key {
            Key::Version => "v",
            Key::Sensor => "id",
            Key::Boot => "boot",
            Key::Seq => "seq",
            Key::Time => "t",
            Key::Next => "next_s",
            Key::Firmware => "fw",
            Key::Reset => "reset",
            Key::Crash => "crash",
            Key::Quantity(id) => self.quantities.name(id).unwrap_or_default(),
            Key::Unknown => "",
        }
    }

    /// Reads the value of one key.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        let name = self.key_name(key);
        let fault = &mut self.fault;
        match key {
            Key::Version => field::<Version, A>(&mut self.version, name, fault, map),
            Key::Sensor => field::<SensorId, A>(&mut self.sensor, name, fault, map),
            Key::Boot => field::<BootId, A>(&mut self.boot, name, fault, map),
            Key::Seq => field::<u64, A>(&mut self.seq, name, fault, map),
            Key::Time => field::<i64, A>(&mut self.time_ms, name, fault, map),
            Key::Next => field::<u32, A>(&mut self.next_s, name, fault, map),
            Key::Firmware => note(&mut self.firmware, Start::WORD, map),
            Key::Reset => note(&mut self.reset, Start::WORD, map),
            Key::Crash => note(&mut self.crash, Start::SENTENCE, map),
            Key::Quantity(id) => quantity(&mut self.values, id, name, fault, map),
            Key::Unknown => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }

    /// The error to report, when `serde_json` stopped.
    #[cold]
    fn explain(&mut self, error: &serde_json::Error, text: &str) -> DecodeError {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        let detail = error.to_string();
        if let Some(key) = self.failed
            // The one case where serde_json gives nothing but a text: no visitor sees the number.
            && (detail.starts_with("number out of range") || is_not_finite_at(text, error))
        {
            return DecodeError::NotFinite {
                key: self.key_name(key).into(),
            };
        }
        DecodeError::Json {
            detail: detail.into(),
        }
    }
}

/// Whether parsing stopped in `NaN` or `Infinity`, which several languages write in their JSON.
fn is_not_finite_at(text: &str, error: &serde_json::Error) -> bool {
    let line = text
        .split('\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default()
        .as_bytes();
    // Columns count from 1; where the sign or a letter was read already, the word starts before.
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+');
    let stop = error.column().saturating_sub(1).min(line.len());
    let (before, after) = line.split_at(stop);
    let start = before
        .iter()
        .rposition(|b| !is_word(b))
        .map_or(0, |place| place + 1);
    let end = stop
        + after
            .iter()
            .position(|b| !is_word(b))
            .unwrap_or(after.len());
    if !line[..start].ends_with(b":") && !line[..start].ends_with(b" ") {
        // Inside a string, where a control character may have stopped the parser.
        return false;
    }
    let word = line.get(start..end).unwrap_or_default();
    let word = word
        .strip_prefix(b"-")
        .or_else(|| word.strip_prefix(b"+"))
        .unwrap_or(word);
    ["nan", "inf", "infinity"]
        .iter()
        .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Reads a key that has one place in the reading.
fn field<'de, T: Accept, A: MapAccess<'de>>(
    place: &mut Option<T::Out>,
    key: &str,
    fault: &mut Option<DecodeError>,
    map: &mut A,
) -> Result<(), A::Error> {
    if place.is_some() {
        return Err(stop(fault, DecodeError::DuplicateKey { key: key.into() }));
    }
    *place = Some(map.next_value_seed(Field::<T> {
        key,
        fault,
        accept: PhantomData,
    })?);
    Ok(())
}

/// Reads a text for people, cut to `most` bytes. Nothing of it is a reason to refuse the reading.
fn note<'de, A: MapAccess<'de>>(
    place: &mut Option<String>,
    most: usize,
    map: &mut A,
) -> Result<(), A::Error> {
    *place = map.next_value_seed(Note(most))?;
    Ok(())
}

/// Reads a quantity.
fn quantity<'de, A: MapAccess<'de>>(
    values: &mut Values,
    id: QuantityId,
    key: &str,
    fault: &mut Option<DecodeError>,
    map: &mut A,
) -> Result<(), A::Error> {
    let Err(place) = values.binary_search_by_key(&id, |&(held, _)| held) else {
        return Err(stop(fault, DecodeError::DuplicateKey { key: key.into() }));
    };
    if values.len() == MAX_QUANTITIES {
        return Err(stop(fault, DecodeError::TooManyQuantities));
    }
    let value = map.next_value_seed(Field::<f64> {
        key,
        fault,
        accept: PhantomData,
    })?;
    if !value.is_finite() {
        return Err(stop(fault, DecodeError::NotFinite { key: key.into() }));
    }
    values.insert(place, (id, value));
    Ok(())
}

/// Keeps the typed error and gives serde one to stop with, whose text nobody reads.
#[cold]
fn stop<E: de::Error>(fault: &mut Option<DecodeError>, error: DecodeError) -> E {
    *fault = Some(error);
    E::custom("")
}

/// The whole payload.
struct Top<'s, 'q>(&'s mut State<'q>);

impl Top<'_, '_> {
    #[cold]
    fn refuse<E: de::Error>(self, found: &'static str) -> E {
        stop(&mut self.0.fault, DecodeError::NotAnObject { found })
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed(self.0.quantities))? {
            if let Err(error) = self.0.read(key, &mut map) {
                self.0.failed = Some(key).filter(|key| !matches!(key, Key::Unknown));
                return Err(error);
            }
        }
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Err(self.refuse("null"))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse("a boolean"))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.refuse("a string"))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an array"))
    }
}

/// Recognises a key.
struct KeySeed<'q>(&'q Quantities);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
        Ok(match name {
            "v" => Key::Version,
            "id" => Key::Sensor,
            "boot" => Key::Boot,
            "seq" => Key::Seq,
            "t" => Key::Time,
            "next_s" => Key::Next,
            "fw" => Key::Firmware,
            "reset" => Key::Reset,
            "crash" => Key::Crash,
            _ => self.0.get(name).map_or(Key::Unknown, Key::Quantity),
        })
    }
}

/// What the value of one known key may be. Whatever is not accepted is of the wrong type.
trait Accept {
    type Out;
    const EXPECTED: &'static str;

    fn unsigned(_: u64) -> Result<Option<Self::Out>, DecodeError> {
        Ok(None)
    }

    fn signed(_: i64) -> Option<Self::Out> {
        None
    }

    fn float(_: f64) -> Option<Self::Out> {
        None
    }

    fn text(_: &str) -> Result<Option<Self::Out>, DecodeError> {
        Ok(None)
    }
}

struct Version;

impl Accept for Version {
    type Out = ();
    const EXPECTED: &'static str = "the integer 1";

    fn unsigned(found: u64) -> Result<Option<()>, DecodeError> {
        if found == VERSION {
            Ok(Some(()))
        } else {
            Err(DecodeError::Version { found })
        }
    }
}

impl Accept for SensorId {
    type Out = Self;
    const EXPECTED: &'static str = "a string";

    fn text(text: &str) -> Result<Option<Self>, DecodeError> {
        Self::try_from(text)
            .map(Some)
            .map_err(DecodeError::SensorId)
    }
}

impl Accept for BootId {
    type Out = Self;
    const EXPECTED: &'static str = "a string";

    fn text(text: &str) -> Result<Option<Self>, DecodeError> {
        Self::try_from(text).map(Some).map_err(DecodeError::BootId)
    }
}

impl Accept for u64 {
    type Out = Self;
    const EXPECTED: &'static str = "an integer from 0 to 18446744073709551615";

    fn unsigned(value: u64) -> Result<Option<Self>, DecodeError> {
        Ok(Some(value))
    }
}

impl Accept for u32 {
    type Out = Self;
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";

    fn unsigned(value: u64) -> Result<Option<Self>, DecodeError> {
        Ok(Self::try_from(value).ok())
    }
}

impl Accept for i64 {
    type Out = Self;
    const EXPECTED: &'static str = "an integer of milliseconds since 1970 utc";

    fn unsigned(value: u64) -> Result<Option<Self>, DecodeError> {
        Ok(Self::try_from(value).ok())
    }

    fn signed(value: i64) -> Option<Self> {
        Some(value)
    }
}

impl Accept for f64 {
    type Out = Self;
    const EXPECTED: &'static str = "a number";

    fn unsigned(value: u64) -> Result<Option<Self>, DecodeError> {
        Ok(Some(value as Self))
    }

    fn signed(value: i64) -> Option<Self> {
        Some(value as Self)
    }

    fn float(value: f64) -> Option<Self> {
        Some(value)
    }
}

/// Reads the value of one known key.
struct Field<'a, T> {
    key: &'a str,
    fault: &'a mut Option<DecodeError>,
    accept: PhantomData<T>,
}

impl<T: Accept> Field<'_, T> {
    fn judge<E: de::Error>(self, value: Option<T::Out>, found: &'static str) -> Result<T::Out, E> {
        value.ok_or_else(|| {
            let key = self.key.into();
            stop(
                self.fault,
                DecodeError::WrongType {
                    key,
                    expected: T::EXPECTED,
                    found,
                },
            )
        })
    }

    fn check<E: de::Error>(
        self,
        value: Result<Option<T::Out>, DecodeError>,
        found: &'static str,
    ) -> Result<T::Out, E> {
        match value {
            Ok(value) => self.judge(value, found),
            Err(error) => Err(stop(self.fault, error)),
        }
    }
}

impl<'de, T: Accept> DeserializeSeed<'de> for Field<'_, T> {
    type Value = T::Out;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Out, D::Error> {
        // Not `deserialize_f64` and its like: they report another type before the visitor sees it.
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Accept> Visitor<'de> for Field<'_, T> {
    type Value = T::Out;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T::Out, E> {
        self.check(T::unsigned(value), "another number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T::Out, E> {
        self.judge(T::signed(value), "a negative number")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T::Out, E> {
        self.judge(
            T::float(value),
            "a number with a fraction, an exponent or too many digits",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T::Out, E> {
        self.check(T::text(text), "a string")
    }

    fn visit_unit<E: de::Error>(self) -> Result<T::Out, E> {
        self.judge(None, "null")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<T::Out, E> {
        self.judge(None, "a boolean")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<T::Out, A::Error> {
        self.judge(None, "an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<T::Out, A::Error> {
        self.judge(None, "an object")
    }
}

/// Reads a text of at most so many bytes; `None` if the value is something else.
struct Note(usize);

impl<'de> DeserializeSeed<'de> for Note {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Note {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Start::cut(text, self.0).into()))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
