//! What every stage's config shares: the error that names key, value and fix, and durations as
//! people write them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A config value that cannot work. Printed as `key = value: problem; fix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {problem}; {fix}")]
pub struct Invalid {
    /// Dotted path of the key.
    pub key: String,
    /// What was found there (never a secret).
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl Invalid {
    /// All four parts; `key` is relative to the section, see [`Invalid::within`].
    pub fn new(
        key: &str,
        value: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// Puts the section's name in front of the key.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.key = format!("{section}.{}", self.key);
        self
    }
}

/// Errs unless `low <= value <= high`.
///
/// # Errors
/// [`Invalid`] that names the range.
pub fn in_range<T: PartialOrd + fmt::Display + Copy>(
    key: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), Invalid> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Invalid::new(
        key,
        value,
        "out of range",
        format!("use a value from {low} to {high}"),
    ))
}

/// A span of time, written `"90s"`, `"15m"`, `"24h"`, `"7d"` or `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Milliseconds; spans are far below the range of an i64.
    pub fn as_ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (unit, size) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
        ] {
            if ms > 0 && ms.is_multiple_of(size) {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => {
                return Err(format!(
                    "{text:?} is not a span of time: write \"90s\", \"15m\", \"24h\" or \"7d\""
                ));
            }
        };
        let number: u64 = number.parse().map_err(|_| {
            format!("{text:?} is not a span of time: it needs a whole number first")
        })?;
        let ms = number
            .checked_mul(scale)
            .filter(|ms| *ms <= 36_525 * 86_400_000)
            .ok_or_else(|| format!("{text:?} is longer than a hundred years"))?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_they_print() {
        for text in ["250ms", "90s", "15m", "24h", "7d", "1s"] {
            let span: Span = text.parse().unwrap();
            let again: Span = span.to_string().parse().unwrap();
            assert_eq!(span, again, "{text}");
        }
        assert_eq!("60s".parse::<Span>().unwrap().to_string(), "1m");
        for bad in ["", "s", "5", "5 weeks", "-1s", "99999999999d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
