//! `engine backtest`: what the engine would have said about recorded data, and how good that is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::config::Span;
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::{Arrival, Reading};
use vigie_actors::score::incident::NoticeKind;
use vigie_actors::score::scorer::IncidentMemory as _;

use crate::config::Config;
use crate::console::say;
use crate::replay::declare_value;
use crate::service::Ground;
use crate::source::Recording;
use crate::stored::{Stored, all_sensors};

mod labels;
mod report;
mod timeline;

use labels::Labels;
use report::Report;
use timeline::{Moment, Timeline};

/// What `engine backtest` was asked for.
#[derive(Debug)]
pub(crate) struct Backtest {
    /// CSV files, and directories of them; none: the store.
    pub(crate) paths: Vec<PathBuf>,
    /// Of the store, how far back.
    pub(crate) since: Option<Span>,
    /// What was wrong when, in truth.
    pub(crate) labels: Option<PathBuf>,
    /// Where one CSV file per input file goes.
    pub(crate) out: Option<PathBuf>,
    /// Another config to compare with.
    pub(crate) against: Option<Config>,
}

/// A file, and what it is called in labels and output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Input {
    name: String,
    path: PathBuf,
}

/// Everything that was made of one file.
struct Seen {
    name: String,
    /// Readings.
    rows: u64,
    /// In the order of time.
    moments: Vec<Moment>,
}

/// Runs the files, or the store, and prints what came of them.
pub(crate) fn run(config: &Config, backtest: &Backtest) -> anyhow::Result<()> {
    let inputs = match backtest.since {
        Some(_) => vec![Input {
            name: "store.csv".to_owned(),
            path: config.data_dir.join("store"),
        }],
        None => inputs(&backtest.paths)?,
    };
    let store = backtest
        .since
        .map(|since| range(config, since))
        .transpose()?;
    let through = |config: &Config, input: &Input| match &store {
        Some((ground, from_ms)) => stored(config, ground, *from_ms),
        None => one(config, input),
    };
    let labels = backtest.labels.as_deref().map(Labels::read).transpose()?;
    if let Some(labels) = &labels {
        let named = |name: &&str| !inputs.iter().any(|input| input.name == **name);
        if let Some(unknown) = labels.files().find(named) {
            tracing::warn!(
                file = unknown,
                "labels name a file that is not among those given"
            );
        }
    }
    let begun = tokio::time::Instant::now();
    let bar = progress(inputs.len());
    let mut report = Report::default();
    let mut rows = 0;
    let mut told = BTreeMap::new();
    let mut again = None;
    for input in &inputs {
        let (seen, catalogue) = through(config, input)?;
        rows += seen.rows;
        if let Some(out) = &backtest.out {
            write(out, &seen, &catalogue)?;
        }
        if let Some(other) = &backtest.against {
            let (before, _) = through(other, input)?;
            told.insert(
                input.name.clone(),
                (alerts(&before, &catalogue), alerts(&seen, &catalogue)),
            );
        }
        if let Some((ground, from_ms)) = &store {
            again = Some(called_false(ground, *from_ms, &seen)?);
        }
        let truth = labels.as_ref().map(|labels| labels.of(&input.name));
        report.add(&seen.name, &seen.moments, truth, &catalogue);
        bar.inc(1);
    }
    bar.finish_and_clear();
    say(report.to_string().trim_end());
    if let Some(words) = again.flatten() {
        say(&words);
    }
    if backtest.against.is_some() {
        say(&report::difference(&told));
    }
    let took = begun.elapsed().as_secs_f64();
    say(&format!(
        "{} files, {rows} readings in {took:.1} s ({:.0}/s)",
        inputs.len(),
        rows as f64 / took.max(1e-9)
    ));
    Ok(())
}

fn progress(files: usize) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} files, {eta} left");
    let bar = indicatif::ProgressBar::new(files as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// All CSV files in `paths`, directories with everything below them, in order of their names.
fn inputs(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            below(path, path, &mut found)?;
        } else if path.is_file() {
            let name = path.file_name().unwrap_or_default();
            found.push(Input {
                name: name.to_string_lossy().into_owned(),
                path: path.clone(),
            });
        } else {
            bail!("{}: no such file or directory", path.display());
        }
    }
    if found.is_empty() {
        bail!("no CSV file in {paths:?}; give files or directories that have some");
    }
    found.sort();
    Ok(found)
}

fn below(root: &Path, dir: &Path, found: &mut Vec<Input>) -> anyhow::Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            below(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "csv") {
            let name = path.strip_prefix(root).unwrap_or(&path);
            let name = name.to_string_lossy().into_owned();
            found.push(Input { name, path });
        }
    }
    Ok(())
}

/// One file through the stages.
fn one(config: &Config, input: &Input) -> anyhow::Result<(Seen, Arc<Catalogue>)> {
    let mut config = config.clone();
    declare_value(&mut config, &input.path)?;
    let catalogue = Catalogue::build(&config.quantities, &[])
        .map_err(|invalid| anyhow!(invalid.within("quantities")))?;
    let catalogue = Arc::new(catalogue);
    let file =
        File::open(&input.path).with_context(|| format!("cannot open {}", input.path.display()))?;
    let mut rows = Recording::new(file, &input.path, &catalogue)?;
    let mut timeline = Timeline::new(&config, &catalogue, Vec::new())?;
    let mut moments = Vec::new();
    let mut read = 0;
    while let Some(arrival) = rows.next() {
        if let Arrival::Quarantine(bad) = &arrival {
            tracing::warn!(file = input.name, bad.topic, bad.detail, "not a reading");
        }
        read += 1;
        moments.append(&mut timeline.feed(arrival)?);
    }
    let seen = Seen {
        name: input.name.clone(),
        rows: read,
        moments,
    };
    Ok((seen, catalogue))
}

/// The store of `config`, and the time to begin at.
fn range(config: &Config, since: Span) -> anyhow::Result<(Ground, i64)> {
    let from_ms = SystemClock.now_ms() - since.as_ms();
    Ok((Ground::existing(config)?, from_ms))
}

/// What is stored through the stages, all sensors together. Of what is normal only the first and the
/// last reading of each sensor are kept: a plant's month does not fit into memory.
fn stored(
    config: &Config,
    ground: &Ground,
    from_ms: i64,
) -> anyhow::Result<(Seen, Arc<Catalogue>)> {
    let sensors = all_sensors(&ground.store)?;
    let mut readings = Stored::new(ground.store.clone(), sensors, (from_ms, i64::MAX))?;
    let mut timeline = Timeline::new(config, &ground.catalogue, ground.store.raised()?)?;
    let mut seen = Seen {
        name: "store.csv".to_owned(),
        rows: 0,
        moments: Vec::new(),
    };
    let mut last = BTreeMap::new();
    while let Some((sensor, stored)) = readings.next()? {
        if stored.row.late {
            // It entered no state.
            continue;
        }
        let reading = Reading {
            // The clock of a backtest is that of the readings.
            received_ms: stored.order_ms,
            ..stored.row.reading(sensor, stored.order_ms, stored.identity)
        };
        seen.rows += 1;
        for moment in timeline.feed(Arrival::Reading(reading))? {
            let normal = moment.fired.is_empty();
            if normal && last.insert(moment.sensor, moment.clone()).is_some() {
                continue;
            }
            seen.moments.push(moment);
        }
    }
    seen.moments.extend(last.into_values());
    seen.moments.sort_by_key(|moment| moment.time_ms);
    Ok((seen, Arc::clone(&ground.catalogue)))
}

/// What people called false alarms: how much of it would be told again. `None`: they called nothing so.
fn called_false(ground: &Ground, from_ms: i64, seen: &Seen) -> anyhow::Result<Option<String>> {
    let (mut named, mut again) = (0, Vec::new());
    let mut after: Option<Vec<u8>> = None;
    loop {
        let span = (from_ms, i64::MAX);
        let page = ground.store.incidents(span, after.as_deref(), 1000)?;
        for incident in page.items.iter().filter(|one| one.false_alarm.is_some()) {
            named += 1;
            let told = |moment: &Moment| {
                moment.told.is_some()
                    && (incident.opened_ms..=incident.last_ms).contains(&moment.time_ms)
                    && incident.sensors().any(|sensor| *sensor == moment.sensor)
            };
            if seen.moments.iter().any(told) {
                again.push(incident.id());
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if named == 0 {
        return Ok(None);
    }
    let mut words = format!(
        "{named} incidents were called false alarms; {} of them would be told again",
        again.len()
    );
    if !again.is_empty() {
        words += &format!(": {}", again.join(", "));
    }
    Ok(Some(words))
}

/// When a person would have been told of what.
fn alerts(seen: &Seen, catalogue: &Catalogue) -> Vec<(i64, String)> {
    let opened = |moment: &&Moment| moment.told == Some(NoticeKind::Opened);
    let words = |moment: &Moment| {
        let first = &moment.fired[0];
        let what = vigie_actors::alert::text::sentence(first, catalogue);
        let text = format!("{} {}: {what}", moment.sensor, first.rule.name());
        (moment.time_ms, text)
    };
    seen.moments.iter().filter(opened).map(words).collect()
}

/// Writes `out`/name: one line per moment.
fn write(out: &Path, seen: &Seen, catalogue: &Catalogue) -> anyhow::Result<()> {
    let path = out.join(&seen.name);
    let cannot = || format!("cannot write {}; give another --out", path.display());
    fs::create_dir_all(path.parent().unwrap_or(out)).with_context(cannot)?;
    let mut file = BufWriter::new(File::create(&path).with_context(cannot)?);
    let header = "timestamp,score,episode_score,sensor,rule,quantity,observed,expected,line";
    writeln!(file, "{header}").with_context(cannot)?;
    for moment in &seen.moments {
        let episode = if moment.told.is_some() {
            moment.score
        } else {
            moment.score.min(BELOW)
        };
        let first = moment.fired.first();
        let rule = first.map_or("", |verdict| verdict.rule.name());
        let quantity = first
            .and_then(|verdict| catalogue.get(verdict.quantity?))
            .map_or("", |spec| spec.name.as_str());
        let numbers = first.map_or_else(
            || ",,".to_owned(),
            |verdict| format!("{},{},{}", verdict.observed, verdict.expected, verdict.line),
        );
        writeln!(
            file,
            "{},{},{episode},{},{rule},{quantity},{numbers}",
            report::calendar(moment.time_ms),
            moment.score,
            moment.sensor,
        )
        .with_context(cannot)?;
    }
    file.flush().with_context(cannot)
}

/// Just below the line: an anomaly that nobody is told of again.
const BELOW: f32 = 0.49;
