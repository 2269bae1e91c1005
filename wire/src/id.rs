//! Who sent a reading: the sensor, and which of its boots.

use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::MAX_SENSOR_ID;

/// The name of a sensor: 1 to 64 characters among `A-Z a-z 0-9 _ : -`.
///
/// Held inline, so that a reading costs no allocation and an id can be copied into maps, messages
/// and errors. The characters are those that need no escape in JSON, in an MQTT topic or in a path.
#[derive(Clone, Copy)]
pub struct SensorId {
    len: u8,
    bytes: [u8; MAX_SENSOR_ID],
}

/// Why a text is not a [`SensorId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorIdError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`MAX_SENSOR_ID`].
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character is not among those allowed.
    Character {
        /// The byte where it starts.
        position: usize,
        /// The character.
        character: char,
    },
}

impl SensorId {
    /// The name.
    pub fn as_str(&self) -> &str {
        // Always valid: it was made from an ASCII `&str`. Checking again is a few ns, and spares
        // the crate its only unsafe code.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The bytes of the name, all ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl TryFrom<&str> for SensorId {
    type Error = SensorIdError;

    fn try_from(text: &str) -> Result<Self, SensorIdError> {
        if text.is_empty() {
            return Err(SensorIdError::Empty);
        }
        let mut bytes = [0; MAX_SENSOR_ID];
        let len = text.len();
        let (Some(held), Ok(short)) = (bytes.get_mut(..len), u8::try_from(len)) else {
            return Err(SensorIdError::TooLong { len });
        };
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b':' | b'-');
        if let Some((position, character)) = first_refused(text, allowed) {
            return Err(SensorIdError::Character {
                position,
                character,
            });
        }
        held.copy_from_slice(text.as_bytes());
        Ok(Self { len: short, bytes })
    }
}

impl FromStr for SensorId {
    type Err = SensorIdError;

    fn from_str(text: &str) -> Result<Self, SensorIdError> {
        Self::try_from(text)
    }
}

impl PartialEq for SensorId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for SensorId {}

impl PartialOrd for SensorId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SensorId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for SensorId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a `str` hashes, which `Borrow<str>` promises, without looking for UTF-8 once more.
        state.write(self.as_bytes());
        state.write_u8(0xff);
    }
}

/// Lets a map keyed by sensor be asked with a `&str`.
impl Borrow<str> for SensorId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for SensorId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for SensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for SensorIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "a sensor id is empty, give it 1 to {MAX_SENSOR_ID} bytes"
            ),
            Self::TooLong { len } => {
                write!(
                    f,
                    "a sensor id has {len} bytes, shorten it to {MAX_SENSOR_ID}"
                )
            }
            Self::Character {
                position,
                character,
            } => write!(
                f,
                "a sensor id has '{}' at byte {position}, use only A-Z a-z 0-9 _ : -",
                character.escape_default()
            ),
        }
    }
}

impl core::error::Error for SensorIdError {}

/// One start of a device: 1 to 8 characters among `A-Z a-z 0-9`, drawn anew each time.
///
/// Within one boot `seq` only grows, so the pair tells a repeated message from a restarted count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId([u8; 8]);

/// Why a text, or 8 bytes, are not a [`BootId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootIdError {
    /// The text is empty.
    Empty,
    /// The text is longer than 8 bytes.
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character is not among those allowed.
    Character {
        /// The byte where it starts.
        position: usize,
        /// The character.
        character: char,
    },
}

impl BootId {
    /// The text.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        // Always valid, as for `SensorId::as_str`.
        str::from_utf8(self.0.get(..len).unwrap_or_default()).unwrap_or_default()
    }

    /// The text, padded with zeros: the form to store.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// Reads back what [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    ///
    /// When the bytes before the padding are not a text that [`BootId`] accepts, or when the
    /// padding holds anything but zeros.
    pub fn from_bytes(bytes: [u8; 8]) -> Result<Self, BootIdError> {
        let len = bytes
            .iter()
            .rposition(|&b| b != 0)
            .map_or(0, |last| last + 1);
        let text = bytes.get(..len).unwrap_or_default();
        if text.is_empty() {
            return Err(BootIdError::Empty);
        }
        match text.iter().position(|b| !b.is_ascii_alphanumeric()) {
            Some(position) => Err(BootIdError::Character {
                position,
                character: char::from(bytes[position]),
            }),
            None => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<&str> for BootId {
    type Error = BootIdError;

    fn try_from(text: &str) -> Result<Self, BootIdError> {
        if text.is_empty() {
            return Err(BootIdError::Empty);
        }
        let mut bytes = [0; 8];
        let Some(held) = bytes.get_mut(..text.len()) else {
            return Err(BootIdError::TooLong { len: text.len() });
        };
        if let Some((position, character)) = first_refused(text, |b| b.is_ascii_alphanumeric()) {
            return Err(BootIdError::Character {
                position,
                character,
            });
        }
        held.copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

impl FromStr for BootId {
    type Err = BootIdError;

    fn from_str(text: &str) -> Result<Self, BootIdError> {
        Self::try_from(text)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for BootIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a boot id is empty, give it 1 to 8 letters or digits"),
            Self::TooLong { len } => write!(f, "a boot id has {len} bytes, shorten it to 8"),
            Self::Character {
                position,
                character,
            } => write!(
                f,
                "a boot id has '{}' at byte {position}, use only A-Z a-z 0-9",
                character.escape_default()
            ),
        }
    }
}

impl core::error::Error for BootIdError {}

/// The first character that is not one of the allowed ASCII bytes, and where it starts.
fn first_refused(text: &str, allowed: impl Fn(u8) -> bool) -> Option<(usize, char)> {
    // Bytes first: nearly every text passes, and none needs its characters decoded to do so.
    let position = text.bytes().position(|b| !allowed(b))?;
    // All bytes before are ASCII, so this one starts a character.
    let character = text.get(position..)?.chars().next()?;
    Some((position, character))
}

/// Reads a type that is a checked string from any format.
struct Text<T>(core::marker::PhantomData<T>);

impl<T, E> de::Visitor<'_> for Text<T>
where
    T: for<'t> TryFrom<&'t str, Error = E>,
    E: fmt::Display,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id as a string")
    }

    fn visit_str<D: de::Error>(self, text: &str) -> Result<T, D> {
        T::try_from(text).map_err(D::custom)
    }
}

impl Serialize for SensorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SensorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(core::marker::PhantomData))
    }
}

impl Serialize for BootId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(core::marker::PhantomData))
    }
}
