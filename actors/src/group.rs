//! Groups of sensors as people name them: what lies in one room or behind one link. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vigie_wire::SensorId;
use wildmatch::WildMatch;

use crate::config::Invalid;

/// Section `[groups.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ids of its sensors; `*` stands for any characters, `?` for one.
    pub sensors: Vec<String>,
}

impl Config {
    /// Whether group `name` can be told apart and be written about.
    ///
    /// # Errors
    /// [`Invalid`], with the key below `groups`.
    pub fn validate(&self, name: &str) -> Result<(), Invalid> {
        let key = format!("{name}.sensors");
        let plain = |c: char| c.is_alphanumeric() || " _-.".contains(c);
        if name.is_empty() || name.chars().count() > 64 || !name.chars().all(plain) {
            let problem = "not a name that can stand in a mail";
            let fix = "use 1 to 64 letters, digits, spaces, '_', '-' or '.'";
            // Escaped, for whoever reads it at a terminal.
            let key = format!("{name:?}.sensors");
            return Err(Invalid::new(&key, format_args!("{name:?}"), problem, fix));
        }
        if self.sensors.is_empty() {
            let fix = "write ids, such as [\"hall-*\", \"C001\"]";
            return Err(Invalid::new(&key, "[]", "the group has no sensors", fix));
        }
        Patterns::new(&self.sensors).validate(&key)
    }
}

/// Ids of sensors with wildcards.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patterns(Vec<WildMatch>);

impl Patterns {
    /// `*` stands for any characters, `?` for one.
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|text| WildMatch::new(text)).collect())
    }

    /// Whether one of them fits.
    pub fn fit(&self, sensor: &SensorId) -> bool {
        self.0
            .iter()
            .any(|pattern| pattern.matches(sensor.as_str()))
    }

    /// Whether each could ever fit.
    ///
    /// # Errors
    /// [`Invalid`] that names `key`.
    pub fn validate(&self, key: &str) -> Result<(), Invalid> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-:*?".contains(c);
        for pattern in &self.0 {
            let text = pattern.to_string();
            if text.is_empty() || !text.chars().all(fits) {
                let problem = "no sensor has such an id";
                let fix = "write letters, digits, '_', '-', ':', and '*' or '?' for any";
                return Err(Invalid::new(key, format_args!("{text:?}"), problem, fix));
            }
        }
        Ok(())
    }
}

/// All groups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Groups(Vec<(String, Patterns)>);

impl Groups {
    /// By name.
    pub fn new(config: &BTreeMap<String, Config>) -> Self {
        let group =
            |(name, group): (&String, &Config)| (name.clone(), Patterns::new(&group.sensors));
        Self(config.iter().map(group).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The group of a sensor: the first by name that it fits; `None`: it is in none.
    pub fn of(&self, sensor: &SensorId) -> Option<&str> {
        self.number_of(sensor)
            .map(|number| self.0[number].0.as_str())
    }

    /// The same as its place among the groups, in the order of their names.
    pub fn number_of(&self, sensor: &SensorId) -> Option<usize> {
        let mut patterns = self.0.iter().map(|(_, patterns)| patterns);
        patterns.position(|patterns| patterns.fit(sensor))
    }
}

/// Some sensors, by id or by group. Nothing written: all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    sensors: Patterns,
    groups: Vec<String>,
}

impl Selection {
    /// Those that fit `sensors` or are in one of `groups`.
    pub fn new(sensors: &[String], groups: &[String]) -> Self {
        Self {
            sensors: Patterns::new(sensors),
            groups: groups.to_vec(),
        }
    }

    /// Whether all sensors are meant.
    pub fn is_all(&self) -> bool {
        self.sensors.0.is_empty() && self.groups.is_empty()
    }

    /// Whether a sensor, which is in `group`, is meant.
    pub fn has(&self, sensor: &SensorId, group: Option<&str>) -> bool {
        self.is_all()
            || self.sensors.fit(sensor)
            || group.is_some_and(|group| self.groups.iter().any(|name| name == group))
    }

    /// Whether ids can exist and groups do.
    ///
    /// # Errors
    /// [`Invalid`] that names `sensors` or `groups`.
    pub fn validate(&self, known: &BTreeMap<String, Config>) -> Result<(), Invalid> {
        self.sensors.validate("sensors")?;
        match self.groups.iter().find(|name| !known.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let fix = format!("write [groups.{name}] with its sensors, or leave it out");
                let shown = format_args!("{name:?}");
                Err(Invalid::new("groups", shown, "there is no such group", fix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(groups: &[(&str, &[&str])]) -> BTreeMap<String, Config> {
        let group = |(name, sensors): &(&str, &[&str])| {
            let sensors = sensors.iter().map(|text| (*text).to_owned()).collect();
            ((*name).to_owned(), Config { sensors })
        };
        groups.iter().map(group).collect()
    }

    #[test]
    fn a_sensor_is_in_the_first_group_that_it_fits() {
        let groups = Groups::new(&config(&[("hall", &["hall-*", "C001"]), ("rest", &["*"])]));
        for (sensor, group) in [("hall-7", "hall"), ("C001", "hall"), ("C0012", "rest")] {
            assert_eq!(groups.of(&sensor.try_into().unwrap()), Some(group));
        }
        let none = Groups::default();
        assert_eq!(none.of(&"C001".try_into().unwrap()), None);
    }

    #[test]
    fn a_selection_is_by_id_or_by_group() {
        let text = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let some = Selection::new(&text(&["C00?"]), &text(&["hall"]));
        let has = |id: &str, group| some.has(&id.try_into().unwrap(), group);
        assert!(has("C001", None) && has("x", Some("hall")) && !has("x", Some("cellar")));
        assert!(Selection::default().has(&"x".try_into().unwrap(), None));
        assert!(some.validate(&config(&[("hall", &["*"])])).is_ok());
        let invalid = some.validate(&BTreeMap::new()).unwrap_err();
        assert_eq!(invalid.key, "groups");
    }

    #[test]
    fn what_can_fit_nothing_is_refused() {
        for (name, sensors) in [
            ("hall", vec![]),
            ("hall", vec!["a b"]),
            ("hall", vec![""]),
            ("", vec!["*"]),
            ("a\nb", vec!["*"]),
        ] {
            let sensors = sensors.into_iter().map(str::to_owned).collect();
            let group = Config { sensors };
            assert!(group.validate(name).is_err(), "{name:?} {group:?}");
        }
    }
}
