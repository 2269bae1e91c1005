//! Detection alone, on one thread: statistics, rules, forest and incidents, without store and actors.
//!
//! `cargo bench -p vigie-actors --bench stack`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and may stop"
)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vigie_actors::batch::{Batch, Epochs};
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::{Arrival, Identity, Outcome, Reading};
use vigie_actors::score::forest::Model;
use vigie_actors::score::incident::Incident;
use vigie_actors::score::scorer::{IncidentMemory, Scorer};
use vigie_actors::stats::hearing::Hearing;
use vigie_actors::stats::share::{Memory, Share, SilenceLine};
use vigie_actors::{score, stats, store};
use vigie_wire::{BootId, HUMIDITY, SensorId, TEMPERATURE};
use xxhash_rust::xxh3::xxh3_64;

/// As in the engine.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SENSORS: u64 = 10_000;
const BATCH: u64 = 1_000;
const START_MS: i64 = 1_790_000_000_000;

/// A store that has nothing.
#[derive(Debug)]
struct Nothing;

impl Memory for Nothing {}

impl IncidentMemory for Nothing {
    fn current_incidents(&self) -> Result<Vec<Incident>, store::Error> {
        Ok(Vec::new())
    }

    fn newest_models(&self) -> Result<Vec<Model>, store::Error> {
        Ok(Vec::new())
    }
}

/// Reading `n` of the fleet: each sensor every ten seconds, a daily wave and noise.
fn reading(n: u64, names: &[SensorId]) -> Arrival {
    let (sensor, seq) = (n % SENSORS, n / SENSORS);
    let order_ms = START_MS + i64::try_from(seq).unwrap() * 10_000;
    let noise = (xxh3_64(&n.to_le_bytes()) % 2_000) as f64 / 1_000.0 - 1.0;
    let wave = (seq as f64 / 8_640.0 * std::f64::consts::TAU).sin();
    let round = |x: f64| (x * 100.0).round() / 100.0;
    Arrival::Reading(Reading {
        sensor: names[usize::try_from(sensor).unwrap()],
        device_ms: Some(order_ms),
        received_ms: order_ms,
        order_ms,
        identity: Identity::Sequence {
            boot: BootId::try_from("bench001").unwrap(),
            seq,
        },
        next_s: None,
        start: None,
        values: smallvec::smallvec![
            (TEMPERATURE, round(21.0 + 2.0 * wave + 0.1 * noise)),
            (HUMIDITY, round(50.0 - 5.0 * wave + 0.4 * noise)),
        ],
    })
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let names: Vec<SensorId> = (0..SENSORS)
        .map(|n| SensorId::try_from(format!("C{n:05}").as_str()).unwrap())
        .collect();
    let catalogue = Arc::new(Catalogue::default());
    let hearing = Arc::new(Hearing::since(i64::MIN));
    let line = SilenceLine {
        gaps: 4.0,
        least_ms: 5_000,
    };
    let config = stats::Config {
        snapshot_every: u32::MAX,
        ..stats::Config::default()
    };
    let mut share = Share::new(
        (0, 1),
        Nothing,
        Arc::clone(&catalogue),
        config.clone(),
        line,
        Arc::clone(&hearing),
        0,
    )
    .unwrap();
    let incidents = score::episodes::Setup::default();
    let score = score::Config::default();
    let mut scorer = Scorer::new(Nothing, catalogue, score, incidents, config, hearing, 0).unwrap();
    let epochs = Arc::new(Epochs::default());
    let (mut stats, mut scoring) = (Duration::ZERO, Duration::ZERO);
    let (mut counted, mut fired) = (0, 0);
    for batch in 0..8_000 {
        let arrivals: Vec<Arrival> = (batch * BATCH..(batch + 1) * BATCH)
            .map(|n| reading(n, &names))
            .collect();
        let now_ms = START_MS + i64::try_from(batch * BATCH / SENSORS).unwrap() * 10_000;
        let (batch_of, _answer) = Batch::new(arrivals.into(), now_ms, &epochs);
        let begun = Instant::now();
        let part = share.take(&batch_of).unwrap();
        let taken = begun.elapsed();
        let begun = Instant::now();
        let scored = scorer.score(vec![part]).unwrap().unwrap();
        let judged = begun.elapsed();
        batch_of.commit(vec![Outcome::Stored; batch_of.arrivals.len()]);
        for job in scorer.take_jobs() {
            scorer.install(job.run().ok());
        }
        // Until its baseline speaks, a sensor is cheaper.
        if batch >= 6_000 {
            stats += taken;
            scoring += judged;
            counted += scored.readings.len();
            fired += scored
                .readings
                .iter()
                .filter(|row| !row.fired.is_empty())
                .count();
        }
    }
    let rate = |time: Duration| counted as f64 / time.as_secs_f64();
    println!(
        "{SENSORS} sensors, {counted} readings of two quantities, {fired} over a line, one thread"
    );
    println!("  statistics        {:>9.0} readings/s", rate(stats));
    println!("  rules and forest  {:>9.0} readings/s", rate(scoring));
    println!(
        "  both              {:>9.0} readings/s",
        rate(stats + scoring)
    );
}
