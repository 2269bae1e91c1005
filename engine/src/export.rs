//! `engine export`: stored readings as a table or as one JSON object per line, in the order of
//! their times. What it writes as a table, `replay` and `backtest` read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use vigie_actors::clock::{Clock, SystemClock, rfc3339};
use vigie_actors::config::Span;
use vigie_actors::ingest::payload::parse_time;
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::Identity;
use vigie_actors::store::row::StoredReading;
use vigie_wire::SensorId;

use crate::config::Config;
use crate::http::write_reading;
use crate::service::Ground;
use crate::stored::{Stored, all_sensors};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table with a header.
    Csv,
    /// One JSON object per line, as `/api/v1/sensors/{id}/readings` gives them.
    Ndjson,
}

/// A moment: a time, or a span back from now.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(i64),
    Ago(Span),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        parse_time(text).map(Self::At).map_err(|_| {
            format!("{text:?} is neither a span such as 7d nor a time such as 2026-11-22T14:00:00Z")
        })
    }
}

impl Moment {
    fn ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(span) => now_ms - span.as_ms(),
        }
    }
}

/// What is asked for.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Export {
    /// How rows are written
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// Readings from this time on: a span such as 30d, or a time such as 2026-11-22T14:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Readings before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Only this sensor; may be given several times
    #[arg(long = "sensor", value_name = "ID")]
    sensors: Vec<SensorId>,
    /// A file in place of the standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Why it ended early.
enum Stop {
    /// Whoever reads has enough.
    Closed,
    Failed(anyhow::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Failed(anyhow!(error).context("cannot write"))
        }
    }
}

/// Writes them.
pub(crate) fn run(config: &Config, export: Export) -> anyhow::Result<()> {
    let ground = Ground::existing(config)?;
    let now_ms = SystemClock.now_ms();
    let bound = |moment: Option<Moment>, default| moment.map_or(default, |at| at.ms(now_ms));
    let span = (bound(export.since, i64::MIN), bound(export.until, i64::MAX));
    if span.0 >= span.1 {
        bail!("--since is not before --until: there is nothing between them");
    }
    let known = all_sensors(&ground.store)?;
    for sensor in &export.sensors {
        if !known.contains(sensor) {
            bail!(
                "no sensor {sensor} has ever sent a reading; `engine ledger` lists those that have"
            );
        }
    }
    let sensors = match export.sensors.as_slice() {
        [] => known,
        _ => export.sensors,
    };
    let readings = Stored::new(ground.store.clone(), sensors, span)?;
    let written = match &export.out {
        None => write(
            io::stdout().lock(),
            export.format,
            &ground.catalogue,
            readings,
        ),
        Some(path) => {
            let file = File::create(path)
                .with_context(|| format!("cannot write {}; give another --out", path.display()))?;
            write(file, export.format, &ground.catalogue, readings)
        }
    };
    match written {
        Ok(rows) => {
            tracing::info!(readings = rows, "exported");
            Ok(())
        }
        Err(Stop::Closed) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn write(
    out: impl Write,
    format: Format,
    catalogue: &Catalogue,
    mut readings: Stored,
) -> Result<u64, Stop> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let mut rows = 0;
    let mut table = Table::new(catalogue);
    if format == Format::Csv {
        out.write_all(table.header().as_bytes())?;
    }
    while let Some((sensor, reading)) = readings
        .next()
        .map_err(|error| Stop::Failed(error.into()))?
    {
        match format {
            Format::Csv => out.write_all(table.row(&sensor, &reading).as_bytes())?,
            Format::Ndjson => {
                let mut line = Vec::with_capacity(256);
                write_reading(&mut line, &sensor, &reading, catalogue)
                    .map_err(|error| Stop::Failed(error.into()))?;
                line.push(b'\n');
                out.write_all(&line)?;
            }
        }
        rows += 1;
    }
    out.flush()?;
    Ok(rows)
}

/// Lines of the table. Nothing in it needs quotes: ids and boots hold no commas, names of
/// quantities neither.
struct Table<'a> {
    catalogue: &'a Catalogue,
    line: String,
}

impl<'a> Table<'a> {
    fn new(catalogue: &'a Catalogue) -> Self {
        Self {
            catalogue,
            line: String::new(),
        }
    }

    fn header(&self) -> String {
        let mut header = "sensor,time,received,boot,seq,late,anomaly,score".to_owned();
        for (_, quantity) in self.catalogue.iter() {
            header += &format!(",{}", quantity.name);
        }
        header + "\n"
    }

    fn row(&mut self, sensor: &SensorId, reading: &StoredReading) -> &str {
        let row = &reading.row;
        let (boot, seq) = match &reading.identity {
            Identity::Sequence { boot, seq } => (boot.as_str(), seq.to_string()),
            Identity::Payload(_) | Identity::Unique(_) => ("", String::new()),
        };
        let line = &mut self.line;
        line.clear();
        *line += &format!(
            "{sensor},{},{},{boot},{seq},{},{},{}",
            rfc3339(reading.order_ms),
            rfc3339(reading.order_ms.saturating_add(row.delay_ms)),
            u8::from(row.late),
            u8::from(row.anomaly),
            row.score,
        );
        for (id, _) in self.catalogue.iter() {
            line.push(',');
            if let Some(value) = row.values.iter().find(|value| value.quantity == id) {
                *line += &value.value.to_string();
            }
        }
        line.push('\n');
        line
    }
}
