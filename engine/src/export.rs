//! `engine export`: stored readings, or their copies in MongoDB, as a table or as one JSON object
//! per line, in the order of their times. What it writes as a table, `replay` and `backtest` read.

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
use vigie_actors::store;
use vigie_actors::store::mongo::{Copy, Trouble};
use vigie_actors::store::row::StoredReading;
use vigie_wire::SensorId;

use crate::config::Config;
use crate::http::write_reading;
use crate::service::{Ground, in_system};
use crate::stored::{Stored, all_sensors};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table with a header.
    Csv,
    /// One JSON object per line, as `/api/v1/sensors/{id}/readings` gives them.
    Ndjson,
}

/// Where readings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Origin {
    /// The engine's own store; no engine may have it open.
    Store,
    /// The copy at the server of mongodb.uri; an engine may run.
    Mongodb,
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
    /// Where they are read
    #[arg(long, value_enum, default_value = "store")]
    from: Origin,
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

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<serde_json::Error> for Stop {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.into())
    }
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
pub(crate) fn run(config: &Config, export: &Export) -> anyhow::Result<()> {
    let now_ms = SystemClock.now_ms();
    let bound = |moment: Option<Moment>, default| moment.map_or(default, |at| at.ms(now_ms));
    let span = (bound(export.since, i64::MIN), bound(export.until, i64::MAX));
    if span.0 >= span.1 {
        bail!("--since is not before --until: there is nothing between them");
    }
    let written = match export.from {
        Origin::Store => from_store(config, export, span),
        Origin::Mongodb => from_mongodb(config, export, span),
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

fn from_store(config: &Config, export: &Export, span: (i64, i64)) -> Result<u64, Stop> {
    let ground = Ground::existing(config)?;
    let known = all_sensors(&ground.store)?;
    for sensor in &export.sensors {
        if !known.contains(sensor) {
            return Err(Stop::Failed(anyhow!(
                "no sensor {sensor} has ever sent a reading; `engine ledger` lists those that have"
            )));
        }
    }
    let sensors = match export.sensors.as_slice() {
        [] => known,
        some => some.to_vec(),
    };
    let mut readings = Stored::new(ground.store.clone(), sensors, span)?;
    let mut writer = Writer::begin(export, &ground.catalogue)?;
    while let Some((sensor, reading)) = readings.next()? {
        writer.reading(&sensor, &reading, None)?;
    }
    writer.end()
}

fn from_mongodb(config: &Config, export: &Export, span: (i64, i64)) -> Result<u64, Stop> {
    if config.mongodb.uri.is_none() {
        return Err(Stop::Failed(anyhow!(
            "mongodb.uri is not set: name the server there, or in VIGIE__MONGODB__URI"
        )));
    }
    let catalogue = Catalogue::build(&config.quantities, &[])
        .map_err(|invalid| anyhow!("{}", invalid.within("quantities")))?;
    let advised = |trouble: &Trouble| Stop::Failed(anyhow!("{trouble}; {}", trouble.why.advice()));
    let mut stop = None;
    let rows = in_system(async {
        let work = async {
            let opened = Copy::open(&config.mongodb, &catalogue, &export.sensors, span);
            let mut copy = opened.await.map_err(|trouble| advised(&trouble))?;
            let mut writer = Writer::begin(export, &catalogue)?;
            while let Some(copied) = copy.next().await.map_err(|trouble| advised(&trouble))? {
                writer.reading(&copied.sensor, &copied.reading, Some(copied.z_score))?;
            }
            copy.close().await;
            writer.end()
        };
        Ok(work.await.unwrap_or_else(|why| {
            stop = Some(why);
            0
        }))
    })?;
    stop.map_or(Ok(rows), Err)
}

/// Writes one reading after the other.
struct Writer<'a> {
    out: BufWriter<Box<dyn Write>>,
    format: Format,
    table: Table<'a>,
    rows: u64,
}

impl<'a> Writer<'a> {
    fn begin(export: &Export, catalogue: &'a Catalogue) -> Result<Self, Stop> {
        let out: Box<dyn Write> =
            match &export.out {
                None => Box::new(io::stdout().lock()),
                Some(path) => Box::new(File::create(path).with_context(|| {
                    format!("cannot write {}; give another --out", path.display())
                })?),
            };
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let table = Table::new(catalogue);
        if export.format == Format::Csv {
            out.write_all(table.header().as_bytes())?;
        }
        Ok(Self {
            out,
            format: export.format,
            table,
            rows: 0,
        })
    }

    /// `z_score`: all that is known of its z-scores.
    fn reading(
        &mut self,
        sensor: &SensorId,
        reading: &StoredReading,
        z_score: Option<f64>,
    ) -> Result<(), Stop> {
        match self.format {
            Format::Csv => {
                let row = self.table.row(sensor, reading);
                self.out.write_all(row.as_bytes())?;
            }
            Format::Ndjson => {
                let mut line = Vec::with_capacity(256);
                write_reading(&mut line, sensor, reading, self.table.catalogue)?;
                if let Some(z_score) = z_score {
                    let mut known: serde_json::Map<String, serde_json::Value> =
                        serde_json::from_slice(&line)?;
                    known.remove("z");
                    known.insert("z_score".to_owned(), z_score.into());
                    line = serde_json::to_vec(&known)?;
                }
                line.push(b'\n');
                self.out.write_all(&line)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn end(mut self) -> Result<u64, Stop> {
        self.out.flush()?;
        Ok(self.rows)
    }
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
