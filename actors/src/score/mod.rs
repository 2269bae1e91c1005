//! Score: is this reading over a line, which one, and does a person have to hear about it?
//!
//! `rules` judges one look at a time, `forest` what is joint, `episodes` makes incidents of
//! anomalies, `peers` knows what a group does together and `maintenance` when nobody wants to be told; `scorer` puts them together for a
//! batch.

pub mod actor;
pub mod episodes;
pub mod forest;
pub mod incident;
pub mod maintenance;
pub mod peers;
pub mod rules;
pub mod scorer;

use serde::{Deserialize, Serialize};

use crate::config::{Invalid, Span, in_range};

/// Who shares an isolation forest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForestPer {
    /// All sensors with the same quantities: soon grown, and small for any number of sensors.
    #[default]
    Group,
    /// Each sensor has its own: for few sensors that are unlike each other. About 0.6 MB for each.
    Sensor,
}

/// Section `[score]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// False alarms per sensor and week that are worth it: the lines of all rules that are a matter
    /// of degree stand higher for fewer, and lower for more.
    pub false_alarms_per_week: f64,
    /// A sensor is silent after so many expected intervals without a reading …
    pub silence_intervals: f64,
    /// … but never before this time.
    pub silence_least: Span,
    /// Who shares an isolation forest.
    pub forest_per: ForestPer,
    /// Trees of each isolation forest.
    pub forest_trees: u32,
    /// Readings on which each tree is grown.
    pub forest_samples: u32,
    /// Share of training readings that lie above the forest's line before its margin is added.
    pub forest_contamination: f64,
    /// Where all random choices come from.
    pub seed: u64,
    /// A forest is grown anew after this many readings of its sensors (and at the doublings before).
    /// 0: never again after the first.
    pub refit_every: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            false_alarms_per_week: 1.0,
            silence_intervals: 4.0,
            silence_least: Span::secs(5),
            forest_per: ForestPer::Group,
            forest_trees: 100,
            forest_samples: 256,
            forest_contamination: 0.001,
            seed: 1,
            refit_every: 1_000_000,
        }
    }
}

impl Config {
    /// How many times as far away the lines are. Measured on rooms without known faults: one alarm
    /// per sensor and week at 1.03, and the alarms fall with about the 3.6th power of the lines
    /// (docs/detection.md).
    pub fn margin(&self) -> f64 {
        1.03 * self.false_alarms_per_week.powf(-1.0 / 3.6)
    }

    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        in_range(
            "false_alarms_per_week",
            self.false_alarms_per_week,
            0.01,
            10.0,
        )?;
        in_range("silence_intervals", self.silence_intervals, 1.5, 1000.0)?;
        in_range(
            "silence_least",
            self.silence_least,
            Span::secs(1),
            Span::secs(30 * 24 * 3600),
        )?;
        in_range("forest_trees", self.forest_trees, 10, 1000)?;
        in_range("forest_samples", self.forest_samples, 16, 4096)?;
        in_range(
            "forest_contamination",
            self.forest_contamination,
            0.000_01,
            0.5,
        )
    }
}
