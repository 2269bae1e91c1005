//! The names of what is measured.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// The most names in [`Quantities`]: each has an index in a `u8`, and 255 stays free as a mark.
const MAX_NAMES: usize = 255;

/// The most bytes in a name.
const MAX_NAME: usize = 32;

/// What no quantity may be called: the keys of a reading, then the keys that the engine adds to a
/// reading when it stores or shows one.
const RESERVED: [&str; 31] = [
    "v",
    "id",
    "boot",
    "seq",
    "t",
    "next_s",
    "fw",
    "reset",
    "crash",
    "device",
    "group",
    "learning",
    "silent_after_s",
    "zscore",
    "info",
    "time",
    "timestamp",
    "sensor",
    "z",
    "score",
    "anomaly",
    "late",
    "readings",
    "missing",
    "incident",
    "last_seen",
    "expected_interval_s",
    "received",
    "sensor_id",
    "z_score",
    "hour",
];

/// A quantity, as its index into [`Quantities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QuantityId(pub u8);

/// Air temperature in °C, known to every build.
pub const TEMPERATURE: QuantityId = QuantityId(0);

/// Relative humidity in %, known to every build.
pub const HUMIDITY: QuantityId = QuantityId(1);

/// The quantities that a program knows: [`TEMPERATURE`], [`HUMIDITY`], then those it adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantities {
    /// By id.
    names: Vec<Box<str>>,
    /// The ids ordered by name: a reading looks up every key it carries.
    by_name: Vec<u8>,
}

/// Why a name cannot be added to [`Quantities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityNameError {
    /// The name is empty.
    Empty,
    /// The name is longer than 32 bytes.
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character is not allowed at this place: a name is `[a-z][a-z0-9_]*`.
    Character {
        /// The byte where it starts.
        position: usize,
        /// The character.
        character: char,
    },
    /// The name is a key with another meaning.
    Reserved {
        /// The name.
        name: &'static str,
    },
    /// The name is known already.
    Duplicate {
        /// The quantity that has it.
        id: QuantityId,
    },
    /// There are 255 quantities already.
    Full,
}

impl Quantities {
    /// The quantities known to every build: `temperature`, `humidity`.
    pub fn builtin() -> Self {
        Self {
            names: vec!["temperature".into(), "humidity".into()],
            by_name: vec![HUMIDITY.0, TEMPERATURE.0],
        }
    }

    /// Adds a name and gives its id, one more than the last.
    ///
    /// # Errors
    ///
    /// When the name is not `[a-z][a-z0-9_]{0,31}`, when it is reserved or already known, and when
    /// there are 255 names.
    pub fn push(&mut self, name: &str) -> Result<QuantityId, QuantityNameError> {
        if name.is_empty() {
            return Err(QuantityNameError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(QuantityNameError::TooLong { len: name.len() });
        }
        let refused = name.char_indices().find(|&(position, c)| match c {
            'a'..='z' => false,
            '0'..='9' | '_' => position == 0,
            _ => true,
        });
        if let Some((position, character)) = refused {
            return Err(QuantityNameError::Character {
                position,
                character,
            });
        }
        if let Some(name) = RESERVED.into_iter().find(|&reserved| reserved == name) {
            return Err(QuantityNameError::Reserved { name });
        }
        match self.find(name) {
            Ok(id) => Err(QuantityNameError::Duplicate { id }),
            Err(place) => {
                let id = u8::try_from(self.names.len())
                    .ok()
                    .filter(|&id| usize::from(id) < MAX_NAMES)
                    .ok_or(QuantityNameError::Full)?;
                self.by_name.insert(place, id);
                self.names.push(name.into());
                Ok(QuantityId(id))
            }
        }
    }

    /// The quantity of that name.
    pub fn get(&self, name: &str) -> Option<QuantityId> {
        self.find(name).ok()
    }

    /// The name of a quantity.
    pub fn name(&self, id: QuantityId) -> Option<&str> {
        self.names.get(usize::from(id.0)).map(AsRef::as_ref)
    }

    /// Every quantity and its name, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (QuantityId, &str)> {
        // The zip ends with the names, never with the 256 ids.
        (0..=u8::MAX)
            .zip(&self.names)
            .map(|(id, name)| (QuantityId(id), name.as_ref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Always false: the builtin quantities cannot be removed.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The id of a name, or its place in `by_name`.
    fn find(&self, name: &str) -> Result<QuantityId, usize> {
        self.by_name
            .binary_search_by(|&id| self.name(QuantityId(id)).unwrap_or_default().cmp(name))
            .map(|place| QuantityId(self.by_name[place]))
    }
}

/// The builtin quantities.
impl Default for Quantities {
    fn default() -> Self {
        Self::builtin()
    }
}

impl fmt::Display for QuantityNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a quantity name is empty, give it 1 to {MAX_NAME} bytes"),
            Self::TooLong { len } => {
                write!(
                    f,
                    "a quantity name has {len} bytes, shorten it to {MAX_NAME}"
                )
            }
            Self::Character {
                position,
                character,
            } => write!(
                f,
                "a quantity name has '{}' at byte {position}, start with a-z and go on with \
                 a-z 0-9 _",
                character.escape_default()
            ),
            Self::Reserved { name } => {
                write!(
                    f,
                    "'{name}' has another meaning in a reading, choose another name"
                )
            }
            Self::Duplicate { id } => {
                write!(
                    f,
                    "the name is already that of quantity {}, list it once",
                    id.0
                )
            }
            Self::Full => write!(f, "there are {MAX_NAMES} quantities already, remove one"),
        }
    }
}

impl core::error::Error for QuantityNameError {}
