//! `engine import mongo`: the readings of an old collection through the stream into the store. What
//! is imported once is not imported again; stopped, it goes on where it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use vigie_actors::clock::SystemClock;
use vigie_actors::pipeline::Pipeline;
use vigie_actors::reading::Arrival;
use vigie_actors::store::mongo::{Fields, Old, Place, Trouble};

use crate::config::Config;
use crate::console::say;
use crate::service::{Ground, in_system, settings};
use crate::source::feed;

/// Attempts for one page before it is given up.
const ATTEMPTS: u32 = 5;

/// What is asked for.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Import {
    /// The collection to read, at the server of mongodb.uri
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Its database; without it the one that mongodb.uri names
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The field that holds the sensor's id
    #[arg(long, value_name = "FIELD", default_value = "sensor_id")]
    sensor: String,
    /// The field that holds the time
    #[arg(long, value_name = "FIELD", default_value = "timestamp")]
    time: String,
    /// A quantity whose field is not called like it; may be given several times
    #[arg(long = "value", value_name = "QUANTITY=FIELD", value_parser = pair)]
    values: Vec<(String, String)>,
    /// From the beginning, although a part is imported already (nothing is stored twice)
    #[arg(long)]
    again: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((quantity, field)) if !quantity.is_empty() && !field.is_empty() => {
            Ok((quantity.to_owned(), field.to_owned()))
        }
        _ => Err("write QUANTITY=FIELD, for instance temperature=temp_c".to_owned()),
    }
}

/// Imports it.
pub(crate) fn run(config: &Config, import: Import) -> anyhow::Result<()> {
    if config.mongodb.uri.is_none() {
        bail!("mongodb.uri is not set: name the server there, or in VIGIE__MONGODB__URI");
    }
    let fields = Fields {
        sensor: import.sensor,
        time: import.time,
        values: import.values.into_iter().collect::<BTreeMap<_, _>>(),
    };
    in_system(async {
        let ground = Ground::open(config)?;
        for name in fields.values.keys() {
            if !ground
                .catalogue
                .iter()
                .any(|(_, known)| &known.name == name)
            {
                bail!("--value {name}=…: no quantity has this name; declare it in [quantities]");
            }
        }
        let place = Place::new(
            &config.mongodb,
            import.database.as_deref(),
            &import.collection,
        )
        .map_err(|trouble| advised(&trouble))?;
        let key = place.to_string();
        let position = if import.again {
            Vec::new()
        } else {
            ground.store.import_position(&key)?
        };
        let opened = Old::open(
            &config.mongodb,
            &place,
            fields,
            &ground.catalogue,
            &position,
        );
        let mut old = opened.await.map_err(|trouble| advised(&trouble))?;
        let count = old.count().await.map_err(|trouble| advised(&trouble))?;
        if count == 0 {
            bail!("{place} holds no documents; check mongodb.uri, --database and --collection");
        }
        let bar = ProgressBar::new(count).with_style(
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
                .context("the progress bar")?,
        );
        let before = ground.store.ledger()?;
        bar.set_position((before.received() * u64::from(!position.is_empty())).min(count));
        let pipeline = Pipeline::start(
            &settings(config, true),
            ground.store.clone(),
            &ground.catalogue,
            Arc::new(SystemClock),
            Vec::new(),
            &ground.metrics,
        )
        .map_err(anyhow::Error::msg)?;
        let work = async {
            loop {
                let page = patiently(&mut old).await?;
                if page.is_empty() {
                    return Ok::<bool, anyhow::Error>(true);
                }
                let documents = page.len() as u64;
                feed(pipeline.intake(), page.into_iter(), None).await?;
                ground.store.put_import_position(&key, &old.position())?;
                bar.inc(documents);
            }
        };
        let through = tokio::select! {
            through = work => through?,
            _ = tokio::signal::ctrl_c() => false,
            end = pipeline.health().ended() => return Err(end.into()),
        };
        bar.finish_and_clear();
        let drained = pipeline.drain(Duration::from_mins(1)).await;
        drained.map_err(anyhow::Error::msg)?;
        old.close().await;
        let after = ground.store.ledger()?;
        let aside = |ledger: &vigie_actors::store::Ledger| ledger.quarantined.values().sum::<u64>();
        say(&format!(
            "stored {} (late {}), duplicate {}, quarantined {}; data in {}",
            after.stored - before.stored,
            after.late - before.late,
            after.duplicate - before.duplicate,
            aside(&after) - aside(&before),
            config.data_dir.display(),
        ));
        if !through {
            say("stopped before the end; run it again to go on");
        }
        Ok(())
    })
}

/// The next page, also if the server hesitates.
async fn patiently(old: &mut Old) -> anyhow::Result<Vec<Arrival>> {
    let mut attempt = 1;
    loop {
        match old.next().await {
            Ok(page) => return Ok(page),
            Err(trouble) if attempt == ATTEMPTS => {
                return Err(advised(&trouble).context("run it again to go on"));
            }
            Err(trouble) => {
                tracing::warn!(error = %trouble, attempt, "cannot read on; trying again");
                tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
                attempt += 1;
            }
        }
    }
}

fn advised(trouble: &Trouble) -> anyhow::Error {
    anyhow!("{trouble}; {}", trouble.why.advice())
}
