//! When nobody wants to be told: recurring maintenance windows, and silences that a person asked
//! for. What happens then is stored all the same, and told afterwards if it still goes on. Pure.

use std::collections::BTreeMap;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use vigie_wire::SensorId;

use crate::config::{Invalid, Span, in_range};
use crate::group::{self, Selection};

/// An element of `[[maintenance]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// When it begins: minute, hour, day of month, month, day of week, as in crontab(5).
    pub cron: String,
    /// How long it lasts, up to 7 days.
    #[serde(rename = "for")]
    pub lasts: Span,
    /// Time zone of `cron`, as in the IANA database; without it, this machine's.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Ids of the sensors concerned, with `*` and `?`.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// Groups concerned. With neither sensors nor groups: everything.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self, groups: &BTreeMap<String, group::Config>) -> Result<(), Invalid> {
        in_range("for", self.lasts, Span::secs(60), Span::secs(7 * 24 * 3600))?;
        Selection::new(&self.sensors, &self.groups).validate(groups)?;
        Window::new(self).map(drop)
    }
}

/// A recurring window.
#[derive(Debug, Clone)]
struct Window {
    begins: Cron,
    lasts_ms: i64,
    zone: TimeZone,
    concerns: Selection,
}

impl Window {
    fn new(config: &Config) -> Result<Self, Invalid> {
        let begins = config.cron.parse::<Cron>().map_err(|error| {
            let fix = "write five fields as in crontab: \"0 2 * * SUN\" is Sundays at 2:00";
            Invalid::new("cron", &config.cron, error.to_string(), fix)
        })?;
        let zone = match &config.time_zone {
            None => TimeZone::system(),
            Some(name) => TimeZone::get(name).map_err(|_| {
                let fix = "write one of the IANA database, such as \"Europe/Paris\"";
                Invalid::new("time_zone", name, "there is no such time zone", fix)
            })?,
        };
        Ok(Self {
            begins,
            lasts_ms: config.lasts.as_ms(),
            zone,
            concerns: Selection::new(&config.sensors, &config.groups),
        })
    }

    /// Whether it lies over `now_ms`.
    fn is_open(&self, now_ms: i64) -> bool {
        let Ok(now) = Timestamp::from_millisecond(now_ms) else {
            return false;
        };
        let now: Zoned = now.to_zoned(self.zone.clone());
        self.begins
            .find_previous_occurrence(&now, true)
            .is_ok_and(|begin| now_ms - begin.timestamp().as_millisecond() < self.lasts_ms)
    }
}

/// Whom a person does not want to hear about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// One sensor.
    Sensor(SensorId),
    /// All of a group.
    Group(String),
    /// The link to the broker.
    Link,
}

/// A silence that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// About whom nothing is told …
    pub whom: Whom,
    /// … until then.
    pub until_ms: i64,
}

/// The windows, and which of them are open.
#[derive(Debug, Clone, Default)]
pub struct Calendar {
    windows: Vec<Window>,
    /// Minute in which it was looked at last.
    minute: Option<i64>,
    open: Vec<usize>,
}

impl Calendar {
    /// Windows that cannot be are left out: [`Config::validate`] has told of them.
    pub fn new(config: &[Config]) -> Self {
        Self {
            windows: config
                .iter()
                .filter_map(|one| Window::new(one).ok())
                .collect(),
            minute: None,
            open: Vec::new(),
        }
    }

    /// Looks at the clock, if a minute has passed: windows begin and end with minutes.
    pub fn look(&mut self, now_ms: i64) {
        let minute = Some(now_ms.div_euclid(60_000));
        if self.windows.is_empty() || self.minute == minute {
            return;
        }
        self.minute = minute;
        let windows = self.windows.iter().enumerate();
        self.open = windows
            .filter(|(_, window)| window.is_open(now_ms))
            .map(|(at, _)| at)
            .collect();
    }

    /// Whether nothing is told about a sensor now.
    pub fn covers(&self, sensor: &SensorId, group: Option<&str>) -> bool {
        self.open_windows()
            .any(|window| window.concerns.has(sensor, group))
    }

    /// Whether nothing is told about anything now.
    pub fn covers_all(&self) -> bool {
        self.open_windows().any(|window| window.concerns.is_all())
    }

    fn open_windows(&self) -> impl Iterator<Item = &Window> {
        self.open.iter().filter_map(|at| self.windows.get(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str) -> Config {
        Config {
            cron: cron.to_owned(),
            lasts: Span::secs(2 * 3600),
            time_zone: Some("Europe/Paris".to_owned()),
            sensors: vec!["hall-*".to_owned()],
            groups: Vec::new(),
        }
    }

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_window_opens_and_closes_by_the_clock_of_its_place() {
        // Sundays at 2:00 in Paris: 1:00 UTC in winter, midnight in summer.
        let mut calendar = Calendar::new(&[window("0 2 * * SUN")]);
        for (time, open) in [
            ("2026-11-22T00:59:59Z", false),
            ("2026-11-22T01:00:00Z", true),
            ("2026-11-22T02:59:59Z", true),
            ("2026-11-22T03:00:00Z", false),
            ("2026-07-19T00:00:00Z", true),
            ("2026-11-23T01:30:00Z", false),
        ] {
            calendar.look(ms(time));
            assert_eq!(
                calendar.covers(&"hall-1".try_into().unwrap(), None),
                open,
                "{time}"
            );
            assert!(!calendar.covers(&"C001".try_into().unwrap(), None));
            assert!(!calendar.covers_all());
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_its_key() {
        let none = BTreeMap::new();
        assert!(window("0 2 * * SUN").validate(&none).is_ok());
        let zone = Config {
            time_zone: Some("Mars/North".to_owned()),
            ..window("0 2 * * *")
        };
        let long = Config {
            lasts: Span::secs(30 * 24 * 3600),
            ..window("0 2 * * *")
        };
        let group = Config {
            groups: vec!["attic".to_owned()],
            ..window("0 2 * * *")
        };
        for (config, key) in [
            (window("at night"), "cron"),
            (zone, "time_zone"),
            (long, "for"),
            (group, "groups"),
        ] {
            assert_eq!(config.validate(&none).unwrap_err().key, key);
        }
    }
}
