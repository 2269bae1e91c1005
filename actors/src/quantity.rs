//! The catalogue of quantities: name, unit, physical range, smallest meaningful spread. Built in
//! are temperature and humidity; config declares more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vigie_wire::{HUMIDITY, Quantities, QuantityId, TEMPERATURE};

use crate::config::Invalid;

/// No range reaches further, in whatever unit. Sums of squares of what is within stay finite, also with
/// seven digits.
pub const LARGEST: f64 = 1e15;
/// No floor is smaller: what is counted in floors stays finite as well.
pub const SMALLEST: f64 = 1e-15;

/// What config says of one quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Printed behind values: `°C`, `%`, `ppm`.
    pub unit: String,
    /// Smallest value that can be true, in `unit`; not below -[`LARGEST`].
    pub min: f64,
    /// Largest value that can be true, in `unit`; not above [`LARGEST`].
    pub max: f64,
    /// Smallest spread that means anything, in `unit`: standard deviations below it are taken as
    /// this. From [`SMALLEST`] to [`LARGEST`]. Default: a five-hundredth of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// Values that sensors send instead of a measurement when they are broken, in `unit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<f64>,
}

impl Config {
    /// # Errors
    /// [`Invalid`] if the range is empty or too wide to be one, or the floor is not positive or too
    /// small to be one.
    pub fn validate(&self, name: &str) -> Result<(), Invalid> {
        for (key, end) in [("min", self.min), ("max", self.max)] {
            if !(-LARGEST..=LARGEST).contains(&end) {
                return Err(Invalid::new(
                    &format!("{name}.{key}"),
                    format!("{end:?}"),
                    format!("not within -{LARGEST:e} to {LARGEST:e}"),
                    "give the physical range, in a larger unit if it takes such numbers",
                ));
            }
        }
        if self.min >= self.max {
            return Err(Invalid::new(
                &format!("{name}.max"),
                self.max,
                format!("not above {name}.min = {}", self.min),
                "give the physical range, lowest value in min, highest in max",
            ));
        }
        if let Some(floor) = self.floor
            && !(SMALLEST..=LARGEST).contains(&floor)
        {
            return Err(Invalid::new(
                &format!("{name}.floor"),
                format!("{floor:?}"),
                format!("not within {SMALLEST:e} to {LARGEST:e}"),
                "give the smallest spread that means anything, or leave the key out",
            ));
        }
        Ok(())
    }
}

/// Dew point in °C of air at `temperature` (°C, -45 to 60) and relative `humidity` (%, above 0, to
/// 100): Magnus formula with the coefficients of Sonntag 1990 for water, right within 0.1 °C there.
/// `None` outside, where it would only look like a number.
pub fn dew_point(temperature: f64, humidity: f64) -> Option<f64> {
    const A: f64 = 17.62;
    const B: f64 = 243.12;
    if !(-45.0..=60.0).contains(&temperature) || humidity <= 0.0 || humidity > 100.0 {
        return None;
    }
    let gamma = (humidity / 100.0).ln() + A * temperature / (B + temperature);
    Some(B * gamma / (A - gamma))
}

/// One quantity as the stages use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity {
    /// Key in payloads, config, API and metrics.
    pub name: String,
    /// Printed behind values.
    pub unit: String,
    /// Smallest value that can be true.
    pub min: f64,
    /// Largest value that can be true.
    pub max: f64,
    /// Standard deviations below it are taken as this.
    pub floor: f64,
    /// Known bad codes.
    pub error_codes: Vec<f64>,
    /// False for a quantity that only old rows have: config no longer declares it.
    pub declared: bool,
}

impl Quantity {
    /// Can `value` be a measurement at all?
    pub fn is_plausible(&self, value: f64) -> bool {
        value >= self.min && value <= self.max && !self.is_error_code(value)
    }

    /// Is `value` one of the known bad codes?
    pub fn is_error_code(&self, value: f64) -> bool {
        self.error_codes
            .iter()
            .any(|code| (value - code).abs() < 1e-9)
    }
}

/// All quantities of this engine, by id. Ids are stored in rows, so they never change meaning:
/// new names come behind the known ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    names: Quantities,
    specs: Vec<Quantity>,
}

impl Default for Catalogue {
    fn default() -> Self {
        // The starting lines of the range rule: DHT22, DS18B20 and SHT codes for "no measurement".
        let temperature = Quantity {
            name: "temperature".into(),
            unit: "°C".into(),
            min: -40.0,
            max: 80.0,
            floor: 0.1,
            error_codes: vec![-127.0, 85.0, -40.0],
            declared: true,
        };
        let humidity = Quantity {
            name: "humidity".into(),
            unit: "%".into(),
            min: 0.5,
            max: 99.5,
            floor: 0.4,
            error_codes: vec![],
            declared: true,
        };
        let names = Quantities::builtin();
        debug_assert_eq!(names.get("temperature"), Some(TEMPERATURE));
        debug_assert_eq!(names.get("humidity"), Some(HUMIDITY));
        Self {
            names,
            specs: vec![temperature, humidity],
        }
    }
}

impl Catalogue {
    /// `known`: the names that the store has given ids to, in order of id; `declared`: config.
    ///
    /// # Errors
    /// [`Invalid`] for a name that cannot be a quantity, a built-in one declared again, or a bad
    /// range.
    pub fn build(declared: &BTreeMap<String, Config>, known: &[String]) -> Result<Self, Invalid> {
        let mut catalogue = Self::default();
        for (name, config) in declared {
            config.validate(name)?;
            if let Some(spec) = catalogue.specs.iter_mut().find(|spec| spec.name == *name) {
                // Built in: config may narrow the range, the unit is fixed by the wire format.
                if spec.unit != config.unit {
                    return Err(Invalid::new(
                        &format!("{name}.unit"),
                        &config.unit,
                        format!("{name} is built in and measured in {}", spec.unit),
                        "declare a quantity of another name",
                    ));
                }
                spec.min = config.min;
                spec.max = config.max;
                spec.floor = config.floor.unwrap_or(spec.floor);
                if !config.error_codes.is_empty() {
                    spec.error_codes.clone_from(&config.error_codes);
                }
            }
        }
        for name in known {
            catalogue.add(name, declared.get(name))?;
        }
        for (name, config) in declared {
            catalogue.add(name, Some(config))?;
        }
        Ok(catalogue)
    }

    fn add(&mut self, name: &str, config: Option<&Config>) -> Result<(), Invalid> {
        if self.names.get(name).is_some() {
            return Ok(());
        }
        self.names.push(name).map_err(|error| {
            Invalid::new(
                name,
                "…",
                error.to_string(),
                "use a lower-case name such as co2 or pm2_5",
            )
        })?;
        self.specs.push(Quantity {
            name: name.into(),
            unit: config.map(|config| config.unit.clone()).unwrap_or_default(),
            min: config.map_or(-LARGEST, |config| config.min),
            max: config.map_or(LARGEST, |config| config.max),
            // Nobody is told of a retired one, and it is to be heard when it is declared again.
            floor: config.map_or(LARGEST, |config| {
                config.floor.unwrap_or((config.max - config.min) / 500.0)
            }),
            error_codes: config
                .map(|config| config.error_codes.clone())
                .unwrap_or_default(),
            declared: config.is_some(),
        });
        Ok(())
    }

    /// For the wire format's decoder.
    pub fn names(&self) -> &Quantities {
        &self.names
    }

    /// The quantity of an id; `None` for an id that this catalogue never gave.
    pub fn get(&self, id: QuantityId) -> Option<&Quantity> {
        self.specs.get(usize::from(id.0))
    }

    /// All, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (QuantityId, &Quantity)> {
        (0..=u8::MAX).map(QuantityId).zip(&self.specs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn co2() -> Config {
        Config {
            unit: "ppm".into(),
            min: 0.0,
            max: 5000.0,
            floor: None,
            error_codes: vec![],
        }
    }

    #[test]
    fn dew_points_are_those_of_the_tables() {
        for (temperature, humidity, expect) in [
            (20.0, 50.0, 9.3),
            (25.0, 60.0, 16.7),
            (10.0, 90.0, 8.4),
            (0.0, 100.0, 0.0),
            (30.0, 30.0, 10.5),
        ] {
            let got = dew_point(temperature, humidity).unwrap();
            assert!(
                (got - expect).abs() < 0.1,
                "{temperature} {humidity}: {got}"
            );
        }
        assert_eq!(dew_point(20.0, 0.0), None);
        assert_eq!(dew_point(f64::NAN, 50.0), None);
        assert_eq!(dew_point(20.0, 100.5), None);
        assert_eq!(dew_point(85.0, 50.0), None);
    }

    #[test]
    fn ids_survive_a_change_of_config() {
        let mut declared = BTreeMap::from([("co2".to_owned(), co2())]);
        let first = Catalogue::build(&declared, &[]).unwrap();
        let co2_id = first.names().get("co2").unwrap();

        declared.insert("co".into(), co2());
        let known: Vec<String> = first.iter().map(|(_, spec)| spec.name.clone()).collect();
        let second = Catalogue::build(&declared, &known).unwrap();
        assert_eq!(
            second.names().get("co2"),
            Some(co2_id),
            "a name that sorts before it came in"
        );

        let third = Catalogue::build(&BTreeMap::new(), &known).unwrap();
        assert!(!third.get(co2_id).unwrap().declared);
        assert_eq!(third.names().get("co2"), Some(co2_id));
    }

    #[test]
    fn ranges_and_units_are_checked() {
        let upside_down = Config {
            min: 10.0,
            max: 1.0,
            ..co2()
        };
        let error =
            Catalogue::build(&BTreeMap::from([("co2".into(), upside_down)]), &[]).unwrap_err();
        assert_eq!(error.key, "co2.max");
        for min in [-1e16, f64::NEG_INFINITY, f64::NAN] {
            let error = Config { min, ..co2() }.validate("co2").unwrap_err();
            assert_eq!(error.key, "co2.min");
        }
        let too_wide = Config {
            max: 1e300,
            ..co2()
        };
        let error = too_wide.validate("co2").unwrap_err().to_string();
        assert!(
            error.contains("co2.max") && error.contains("1e300"),
            "{error}"
        );
        for floor in [0.0, -1.0, 1e-16, 1e16, f64::NAN] {
            let floor = Some(floor);
            let error = Config { floor, ..co2() }.validate("co2").unwrap_err();
            assert_eq!(error.key, "co2.floor");
        }
        let fahrenheit = BTreeMap::from([(
            "temperature".into(),
            Config {
                unit: "°F".into(),
                ..co2()
            },
        )]);
        assert_eq!(
            Catalogue::build(&fahrenheit, &[]).unwrap_err().key,
            "temperature.unit"
        );
        let spec = Catalogue::default().get(TEMPERATURE).unwrap().clone();
        assert!(spec.is_plausible(21.4) && !spec.is_plausible(-127.0) && !spec.is_plausible(85.0));
    }
}
