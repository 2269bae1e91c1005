//! Sources inside the process: a recorded CSV file, row by row, and how rows are handed to the
//! stream in chunks.

use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use smallvec::SmallVec;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use vigie_actors::ingest::intake::{Intake, Refused};
use vigie_actors::ingest::payload::parse_time;
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::{Arrival, Identity, Quarantined, Reading};
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::xxh3_64;

/// Rows handed over at once, and how many such chunks may be waiting for their answer.
const CHUNK: usize = 1000;
const CHUNKS: usize = 4;

/// The longest pause that is kept.
const LONGEST: Duration = Duration::from_hours(1);

/// Columns that can hold the time, the first present one counts.
const TIME: [&str; 4] = ["timestamp", "time", "ts", "t"];
/// Columns that can hold the sensor id.
const SENSOR: [&str; 4] = ["sensor", "sensor_id", "id", "device"];

/// A recorded file: a time column, quantity columns, and a sensor column or the file's name.
pub(crate) struct Recording<R> {
    rows: csv::Reader<R>,
    time: usize,
    sensor: Result<usize, SensorId>,
    quantities: Vec<(usize, QuantityId)>,
}

impl<R: Read> Recording<R> {
    /// Reads the header. `name`: the file, whose stem names the sensor if no column does.
    pub(crate) fn new(input: R, name: &Path, catalogue: &Catalogue) -> anyhow::Result<Self> {
        let mut rows = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(input);
        let header = rows
            .headers()
            .with_context(|| format!("cannot read {}", name.display()))?
            .clone();
        let column = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| header.iter().position(|column| column == *name))
        };
        let time = column(&TIME).ok_or_else(|| {
            anyhow!(
                "{}: no time column; name one of its columns {}",
                name.display(),
                TIME.join(", ")
            )
        })?;
        let sensor = match column(&SENSOR) {
            Some(column) => Ok(column),
            None => Err(sensor_of(name)?),
        };
        let mut quantities = Vec::new();
        for (id, spec) in catalogue.iter().filter(|(_, spec)| spec.declared) {
            if let Some(at) = header.iter().position(|column| column == spec.name) {
                quantities.push((at, id));
            }
        }
        if quantities.is_empty() {
            let known: Vec<&str> = catalogue
                .iter()
                .map(|(_, spec)| spec.name.as_str())
                .collect();
            bail!(
                "{}: no column is a declared quantity ({}); declare yours in [quantities], or name \
                 a single one `value`",
                name.display(),
                known.join(", ")
            );
        }
        Ok(Self {
            rows,
            time,
            sensor,
            quantities,
        })
    }

    /// The next row; `None` at the end. What is no reading is for the quarantine.
    pub(crate) fn next(&mut self) -> Option<Arrival> {
        let mut record = csv::StringRecord::new();
        match self.rows.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => Some(self.arrival(&record)),
            Err(error) => Some(quarantined("csv", error.to_string(), &record, 0)),
        }
    }

    fn arrival(&self, record: &csv::StringRecord) -> Arrival {
        let field = |at: usize| record.get(at).unwrap_or_default();
        let time_ms = match parse_time(field(self.time)) {
            Ok(time_ms) => time_ms,
            Err((reason, detail)) => return quarantined(reason, detail, record, 0),
        };
        let sensor = match &self.sensor {
            Err(sensor) => *sensor,
            Ok(at) => match SensorId::try_from(field(*at)) {
                Ok(sensor) => sensor,
                Err(error) => return quarantined("sensor_id", error.to_string(), record, time_ms),
            },
        };
        let mut values = SmallVec::new();
        for (at, id) in &self.quantities {
            let text = field(*at);
            if text.is_empty() {
                continue;
            }
            match text.parse::<f64>() {
                Ok(value) if value.is_finite() => values.push((*id, value)),
                Ok(_) => {
                    return quarantined(
                        "not_finite",
                        format!("{text} is no measurement"),
                        record,
                        time_ms,
                    );
                }
                Err(_) => {
                    return quarantined("type", format!("{text:?} is no number"), record, time_ms);
                }
            }
        }
        if values.is_empty() {
            return quarantined(
                "no_quantity",
                "all values are empty".to_owned(),
                record,
                time_ms,
            );
        }
        let bytes: Vec<u8> = record
            .iter()
            .flat_map(|field| field.bytes().chain([0]))
            .collect();
        Arrival::Reading(Reading {
            sensor,
            device_ms: Some(time_ms),
            received_ms: time_ms,
            order_ms: time_ms,
            identity: Identity::Payload(xxh3_64(&bytes)),
            next_s: None,
            start: None,
            values,
        })
    }
}

fn sensor_of(name: &Path) -> anyhow::Result<SensorId> {
    let stem = name
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let id: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "_:-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(vigie_wire::MAX_SENSOR_ID)
        .collect();
    SensorId::try_from(id.as_str())
        .map_err(|error| anyhow!("{}: its name is no sensor id: {error}", name.display()))
}

fn quarantined(
    reason: &'static str,
    detail: String,
    record: &csv::StringRecord,
    time_ms: i64,
) -> Arrival {
    let line = record.position().map_or(0, csv::Position::line);
    let text = record.iter().collect::<Vec<_>>().join(",");
    Arrival::Quarantine(Quarantined::new(
        reason,
        detail,
        &format!("line {line}"),
        text.as_bytes(),
        time_ms,
    ))
}

/// What was handed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fed {
    /// Rows, readings or not.
    pub(crate) rows: u64,
    /// Event time of the last reading; 0 if there was none.
    pub(crate) last_ms: i64,
}

/// Hands `arrivals` to the stream in order, a few chunks ahead. `speed`: event seconds per second;
/// `None` as fast as the stream takes them.
pub(crate) async fn feed(
    intake: &Intake,
    arrivals: impl Iterator<Item = Arrival>,
    speed: Option<f64>,
) -> anyhow::Result<Fed> {
    let mut fed = Fed::default();
    let mut chunks = Chunks::default();
    let begun = Instant::now();
    let mut first_ms = None;
    for arrival in arrivals {
        if let Arrival::Reading(reading) = &arrival {
            fed.last_ms = fed.last_ms.max(reading.order_ms);
            if let Some(speed) = speed {
                let first = *first_ms.get_or_insert(reading.order_ms);
                let since = (reading.order_ms - first).max(0) as f64 / 1000.0 / speed;
                // One absurd time must not stop the replay for ever.
                let pause = Duration::try_from_secs_f64(since).unwrap_or(LONGEST);
                let due = begun + pause.min(begun.elapsed() + LONGEST);
                // Rows of the same moment go together; then the file's own pause is kept.
                if due > Instant::now() {
                    chunks.send(intake).await?;
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        fed.rows += 1;
        chunks.next.push(arrival);
        if chunks.next.len() == CHUNK {
            chunks.send(intake).await?;
        }
    }
    chunks.send(intake).await?;
    chunks.settle(0).await?;
    Ok(fed)
}

/// Chunks on their way, in order.
#[derive(Default)]
struct Chunks {
    next: Vec<Arrival>,
    waiting: VecDeque<JoinHandle<Result<(), Refused>>>,
}

impl Chunks {
    async fn send(&mut self, intake: &Intake) -> anyhow::Result<()> {
        if self.next.is_empty() {
            return Ok(());
        }
        let arrivals = std::mem::replace(&mut self.next, Vec::with_capacity(CHUNK));
        let intake = intake.clone();
        // Tasks of a current-thread runtime start in the order in which they were spawned.
        self.waiting
            .push_back(tokio::spawn(async move { intake.deliver(arrivals).await }));
        self.settle(CHUNKS).await
    }

    /// Waits until at most `most` chunks are under way.
    async fn settle(&mut self, most: usize) -> anyhow::Result<()> {
        while self.waiting.len() > most {
            if let Some(oldest) = self.waiting.pop_front() {
                oldest
                    .await?
                    .context("the stream stopped before the end of the source")?;
            }
        }
        Ok(())
    }
}
