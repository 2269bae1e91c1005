//! Stats: the rolling baseline of each sensor, and what each reading looks like against it.
//!
//! `window` is the arithmetic, `recent` recognises redeliveries, `device`
//! keeps what a device tells of itself, `state` is one sensor, `share` is
//! the set of sensors that one actor owns, `hearing` tells silence from deafness.

pub mod actor;
pub mod channel;
pub mod device;
pub mod hearing;
pub mod recent;
pub mod season;
pub mod share;
pub mod sketch;
pub mod state;
pub mod table;
pub mod window;

use serde::{Deserialize, Serialize};

use crate::config::{Invalid, Span, in_range};

/// Section `[stats]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Span of the rolling baseline (mean, standard deviation, minimum, maximum). Old readings
    /// leave it a twelfth at a time.
    pub window: Span,
    /// A sensor's z-score is silent until it has this many readings, or is `warmup` old.
    pub warmup_readings: u32,
    /// See `warmup_readings`; whichever comes first.
    pub warmup: Span,
    /// Values further than this many standard deviations from the baseline do not enter it …
    pub freeze_z: f64,
    /// … until they have persisted for this long: then they are the new normal.
    pub accept_after: Span,
    /// Sensors that may be known in all; readings of further ids are quarantined.
    pub max_sensors: u32,
    /// Sensors whose state is kept in memory; the others wait in the store. At least 8,192.
    pub max_resident: u32,
    /// A sensor's state is written after this many readings; a restart replays the rest.
    pub snapshot_every: u32,
    /// Number of Stats actors, each on a thread of its own. 0: one up to four cores, then a
    /// quarter of the cores.
    pub shares: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window: Span::secs(24 * 3600),
            warmup_readings: 360,
            warmup: Span::secs(3 * 24 * 3600),
            freeze_z: 4.0,
            accept_after: Span::secs(3600),
            max_sensors: 100_000,
            max_resident: 20_000,
            snapshot_every: 256,
            shares: 0,
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        in_range(
            "window",
            self.window,
            Span::secs(60),
            Span::secs(366 * 24 * 3600),
        )?;
        in_range("warmup_readings", self.warmup_readings, 2, 1_000_000)?;
        in_range(
            "warmup",
            self.warmup,
            Span::secs(0),
            Span::secs(366 * 24 * 3600),
        )?;
        in_range("freeze_z", self.freeze_z, 1.0, 1000.0)?;
        in_range(
            "accept_after",
            self.accept_after,
            Span::secs(1),
            Span::secs(30 * 24 * 3600),
        )?;
        in_range("max_sensors", self.max_sensors, 1, 10_000_000)?;
        // Two batches may be under way, and what they touch cannot be put to sleep.
        in_range("max_resident", self.max_resident, 8192, 10_000_000)?;
        in_range("snapshot_every", self.snapshot_every, 1, 100_000)?;
        in_range("shares", self.shares, 0, 256)
    }
}
