//! `engine replay`: a recorded file through the same stream, into a data directory of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use vigie_actors::alert::Channel;
use vigie_actors::alert::mail::EmlFiles;
use vigie_actors::alert::route::Route;
use vigie_actors::clock::SystemClock;
use vigie_actors::pipeline::Pipeline;
use vigie_actors::quantity;

use crate::config::Config;
use crate::console::{Console, say};
use crate::service::{Ground, in_system, settings};
use crate::source::{Recording, feed};

/// What `engine replay` was asked for.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) file: PathBuf,
    /// Event seconds per second; `None` as fast as possible.
    pub(crate) speed: Option<f64>,
    /// Write mails (to files), which a replay otherwise does not.
    pub(crate) mail: bool,
    /// Given on the command line: then the data directory is taken as it is.
    pub(crate) data_dir_given: bool,
}

/// Feeds the file and says what became of it.
pub(crate) fn run(mut config: Config, replay: &Replay) -> anyhow::Result<()> {
    let input = File::open(&replay.file)
        .with_context(|| format!("cannot open {}; give a CSV file", replay.file.display()))?;
    if !replay.data_dir_given {
        // Recorded data must not mix with what the engine watches over.
        let stem = replay
            .file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        config.data_dir = config.data_dir.join(format!("replay-{stem}"));
    }
    declare_value(&mut config, &replay.file)?;
    in_system(async {
        let ground = Ground::open(&config)?;
        let mut rows = Recording::new(input, &replay.file, &ground.catalogue)?;
        let before = ground.store.ledger()?;
        let console = Box::new(Console::new(&ground.catalogue));
        let mut channels: Vec<(Box<dyn Channel>, Route)> =
            vec![(console, Route::all(Console::NAME))];
        if replay.mail {
            let letters = config.email.letters(Arc::clone(&ground.catalogue))?;
            let letters = letters.with(Box::new(ground.store.clone()), None);
            let files = EmlFiles::new(config.data_dir.join("mail"), letters);
            channels.push((Box::new(files), config.email.route()));
        }
        let pipeline = Pipeline::start(
            &settings(&config, true),
            ground.store.clone(),
            &ground.catalogue,
            Arc::new(SystemClock),
            channels,
            &ground.metrics,
        )
        .map_err(anyhow::Error::msg)?;
        let begun = tokio::time::Instant::now();
        let fed = tokio::select! {
            fed = feed(pipeline.intake(), std::iter::from_fn(|| rows.next()), replay.speed) => Some(fed?),
            _ = tokio::signal::ctrl_c() => None,
            end = pipeline.health().ended() => return Err(end.into()),
        };
        let took = begun.elapsed();
        pipeline
            .drain(Duration::from_mins(1))
            .await
            .map_err(anyhow::Error::msg)?;
        let after = ground.store.ledger()?;
        match fed {
            Some(fed) => say(&format!("{} rows in {:.2} s", fed.rows, took.as_secs_f64())),
            None => say("stopped before the end of the file; run it again to go on"),
        }
        say(&format!(
            "stored {}, duplicate {}, quarantined {}, anomalies {}; data in {}",
            after.stored - before.stored,
            after.duplicate - before.duplicate,
            after.quarantined.values().sum::<u64>() - before.quarantined.values().sum::<u64>(),
            after.anomalies - before.anomalies,
            config.data_dir.display(),
        ));
        for (reason, count) in &after.quarantined {
            let known = before.quarantined.get(reason).copied().unwrap_or(0);
            if *count > known {
                say(&format!("  quarantined for {reason}: {}", count - known));
            }
        }
        Ok(())
    })
}

/// A file with a single column `value` needs no declaration.
pub(crate) fn declare_value(config: &mut Config, file: &Path) -> anyhow::Result<()> {
    let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(input);
    let header = reader
        .headers()
        .with_context(|| format!("cannot read {}", file.display()))?;
    if header.iter().any(|column| column == "value") {
        config
            .quantities
            .entry("value".to_owned())
            .or_insert_with(|| quantity::Config {
                unit: String::new(),
                min: -quantity::LARGEST,
                max: quantity::LARGEST,
                floor: Some(1e-9),
                error_codes: Vec::new(),
            });
    }
    Ok(())
}
