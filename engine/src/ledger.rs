//! `engine ledger`: what became of every message, of all sensors and of each.

use anyhow::bail;
use clap::ValueEnum;
use vigie_actors::store::Missing;
use vigie_wire::SensorId;

use crate::config::Config;
use crate::console::say;
use crate::http::Account;
use crate::service::Ground;
use crate::stored::all_sensors;

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    Text,
    /// One JSON object per sensor and line.
    Ndjson,
}

/// Prints it, of all sensors or of one.
pub(crate) fn run(config: &Config, format: Format, sensor: Option<SensorId>) -> anyhow::Result<()> {
    let ground = Ground::existing(config)?;
    let store = &ground.store;
    let sensors = match sensor {
        None => all_sensors(store)?,
        Some(sensor) if store.has_sensor(&sensor)? => vec![sensor],
        Some(sensor) => bail!("no sensor {sensor} has ever sent a reading"),
    };
    let width = sensors.iter().map(|sensor| sensor.as_str().len());
    let width = width.max().unwrap_or(0).max("sensor".len());
    if format == Format::Text {
        say(&format!(
            "{:width$} {:>12} {:>12} {:>10} {:>10} {:>10} {:>12}",
            "sensor", "received", "stored", "late", "duplicate", "missing", "quarantined"
        ));
    }
    for sensor in &sensors {
        let account = Account::of(store, sensor)?;
        match format {
            Format::Ndjson => say(&serde_json::to_string(&account)?),
            Format::Text => {
                let exceptions = &account.exceptions;
                let aside: u64 = exceptions.quarantined.values().sum();
                let mut line = format!(
                    "{:width$} {:>12} {:>12} {:>10} {:>10} {:>10} {aside:>12}",
                    sensor.as_str(),
                    account.received,
                    account.stored,
                    exceptions.late,
                    exceptions.duplicate,
                    exceptions.missing,
                );
                for (reason, count) in &exceptions.quarantined {
                    line += &format!("  {reason} {count}");
                }
                line += &missing_while(exceptions.missing_while);
                if exceptions.restarts > 0 {
                    line += &format!("  restarts {}", exceptions.restarts);
                }
                say(&line);
            }
        }
    }
    if format == Format::Text {
        let sums = store.ledger()?;
        let aside: u64 = sums.quarantined.values().sum();
        say(&format!(
            "\n{} sensors; received {} = stored {} + duplicate {} + quarantined {aside}; {} late, {} \
             missing{}; {} restarts",
            sensors.len(),
            sums.received(),
            sums.stored,
            sums.duplicate,
            sums.late,
            sums.missing,
            missing_while(sums.missing_while),
            sums.restarts
        ));
    }
    Ok(())
}

/// What was going on while readings went missing, in words.
fn missing_while(missing: Missing) -> String {
    let words = [
        (missing.engine_down, "while the engine was down"),
        (missing.broker_away, "while the broker was away"),
        (missing.unknown, "for reasons that it does not know"),
    ];
    let mut said = String::new();
    for (count, words) in words.iter().filter(|(count, _)| *count > 0) {
        said += &format!("  {count} missing {words}");
    }
    said
}
