//! What a device tells of its start, with its first reading.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// A device's start, in its own words. For people only: nothing is computed from it.
///
/// The texts come from the network. They are cut to the lengths given here and are otherwise as
/// they came, so whoever shows them has to escape them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Key `fw`: the version of the firmware, up to [`Start::WORD`] bytes.
    pub firmware: Option<String>,
    /// Key `reset`: why the device started (`power-on`, `watchdog`, …), up to [`Start::WORD`] bytes.
    pub reset: Option<String>,
    /// Key `crash`: what a panic said before the start, up to [`Start::SENTENCE`] bytes.
    pub crash: Option<String>,
}

impl Start {
    /// Most bytes of UTF-8 that are kept of `fw` and of `reset`.
    pub const WORD: usize = 32;
    /// Most bytes of UTF-8 that are kept of `crash`.
    pub const SENTENCE: usize = 256;

    /// True if nothing is told.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The beginning of `text`, up to `most` bytes and never half a character.
    pub fn cut(text: &str, most: usize) -> &str {
        text.get(..text.floor_char_boundary(most)).unwrap_or(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_never_halves_a_character() {
        assert_eq!(Start::cut("21 °C", 4), "21 ");
        assert_eq!(Start::cut("21 °C", 5), "21 °");
        assert_eq!(Start::cut("21 °C", 99), "21 °C");
        assert_eq!(Start::cut("", 0), "");
    }
}
