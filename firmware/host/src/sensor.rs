//! Sensors of a PC: one made up, one out of a file.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use node_core::{Quantity, Sensor, SensorError, Values};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Readings of one day at one every 10 s.
const DAY: u32 = 8_640;

/// A day's cycle and noise. The same seed gives the same readings.
#[derive(Debug)]
pub(crate) struct Generated {
    chance: StdRng,
    /// Where in the day it is, in readings.
    place: u32,
    with_pressure: bool,
    /// How many more it gives.
    left: Option<u64>,
}

impl Generated {
    pub(crate) fn new(seed: u64, with_pressure: bool, left: Option<u64>) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let place = chance.random_range(0..DAY);
        Self {
            chance,
            place,
            with_pressure,
            left,
        }
    }

    /// Noise of this size, centred.
    fn noise(&mut self, size: f64) -> f64 {
        let sum: f64 = (0..4).map(|_| self.chance.random_range(-0.5..0.5)).sum();
        sum * size
    }
}

impl Sensor for Generated {
    async fn read(&mut self) -> Result<Values, SensorError> {
        take_one(&mut self.left).await;
        self.place = (self.place + 1) % DAY;
        let turn = f64::from(self.place) / f64::from(DAY) * core::f64::consts::TAU;
        let temperature = 21.0 + 3.0 * turn.sin() + self.noise(0.2);
        let humidity = 50.0 - 8.0 * turn.sin() + self.noise(0.8);
        let mut values = vec![
            (Quantity::Temperature, round(temperature, 100.0)),
            (Quantity::Humidity, round(humidity, 100.0)),
        ];
        if self.with_pressure {
            let pressure = 1013.0 + 4.0 * (turn / 3.0).sin() + self.noise(0.1);
            values.push((Quantity::Pressure, round(pressure, 100.0)));
        }
        Ok(values)
    }
}

/// Waits for ever when there is none left.
async fn take_one(left: &mut Option<u64>) {
    match left {
        None => {}
        Some(0) => std::future::pending().await,
        Some(left) => *left -= 1,
    }
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// The rows of a CSV file, one per reading, from the start again at its end. The columns
/// `temperature`, `humidity`, `pressure` and `battery` count, whichever are there.
#[derive(Debug)]
pub(crate) struct Recorded {
    rows: Vec<Values>,
    next: usize,
    left: Option<u64>,
}

impl Recorded {
    pub(crate) fn open(path: &Path, left: Option<u64>) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().ok_or("the file is empty")?;
        let head = head.map_err(|error| error.to_string())?;
        let columns: Vec<Option<Quantity>> = head
            .split(',')
            .map(|name| {
                let name = name.trim();
                Quantity::ALL.into_iter().find(|one| one.name() == name)
            })
            .collect();
        if columns.iter().all(Option::is_none) {
            return Err("no column is called temperature, humidity, pressure or battery".into());
        }
        let mut rows = Vec::new();
        for (nth, line) in (2..).zip(lines) {
            let line = line.map_err(|error| error.to_string())?;
            let mut row = Values::new();
            for (quantity, cell) in columns.iter().zip(line.split(',')) {
                let cell = cell.trim();
                if let Some(quantity) = quantity
                    && !cell.is_empty()
                {
                    let value: f64 = cell
                        .parse()
                        .map_err(|_| format!("line {nth}: {cell:?} is not a number"))?;
                    row.push((*quantity, value));
                }
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err("the file has no rows".into());
        }
        Ok(Self {
            rows,
            next: 0,
            left,
        })
    }
}

impl Sensor for Recorded {
    async fn read(&mut self) -> Result<Values, SensorError> {
        take_one(&mut self.left).await;
        let row = self.rows.get(self.next).cloned().unwrap_or_default();
        self.next = (self.next + 1) % self.rows.len();
        if row.is_empty() {
            return Err(SensorError::NotPresent);
        }
        Ok(row)
    }
}
