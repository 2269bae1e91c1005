//! The stream without a network (decode, stats, scores, synced commits) beside the bare store's own
//! write rate with the same rows in the same batches; both in turn, in one run.
//!
//! `cargo bench -p vigie-actors --bench stream`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and may stop"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vigie_actors::clock::SystemClock;
use vigie_actors::ingest::decode::Decode;
use vigie_actors::ingest::payload::{self, Decoder};
use vigie_actors::metrics::{BoardConfig, Metrics};
use vigie_actors::pipeline::{Pipeline, Settings, open_store};
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::Arrival;
use vigie_actors::store::row::{Row, StoredValue};
use vigie_wire::{BootId, HUMIDITY, Quantities, SensorId, TEMPERATURE, encode};
use xxhash_rust::xxh3::xxh3_64;

/// As in the engine; the bare store gains from it as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 1_000;
const ROUNDS: usize = 5;
const START_MS: i64 = 1_790_000_000_000;

/// Payloads and when they are received: at once, as those of nodes that are online. (What comes after
/// its hour has to be rolled up again, which is a row more for each.)
fn payloads(sensors: u64, rows: u64) -> Vec<(i64, Vec<u8>)> {
    let names = Quantities::builtin();
    let boot = BootId::try_from("bench001").unwrap();
    let noise = |n: u64| (xxh3_64(&n.to_le_bytes()) % 2_000) as f64 / 1_000.0 - 1.0;
    let round = |x: f64| (x * 100.0).round() / 100.0;
    (0..rows)
        .map(|row| {
            let (sensor, seq) = (row % sensors, row / sensors);
            let time_ms = START_MS + i64::try_from(seq).unwrap() * 10_000;
            let reading = vigie_wire::Reading {
                sensor: SensorId::try_from(format!("S{sensor:05}").as_str()).unwrap(),
                boot: Some(boot),
                seq: Some(seq),
                time_ms: Some(time_ms),
                next_s: None,
                start: None,
                values: smallvec::smallvec![
                    (TEMPERATURE, round(21.0 + noise(row))),
                    (HUMIDITY, round(50.0 + 4.0 * noise(row + 7))),
                ],
            };
            let mut bytes = Vec::new();
            encode(&reading, &names, &mut bytes);
            (time_ms + 50, bytes)
        })
        .collect()
}

/// Rows per second of the bare store: the same rows, batches and syncs, nothing else.
fn bare(arrivals: &[Arrival]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let config = vigie_actors::store::Config::default();
    let (store, _) = open_store(dir.path(), &config, &std::collections::BTreeMap::new()).unwrap();
    let begun = Instant::now();
    for batch in arrivals.chunks(BATCH) {
        let mut write = store.write();
        for arrival in batch {
            let Arrival::Reading(reading) = arrival else {
                continue;
            };
            let values = reading.values.iter();
            let row = Row {
                entered: 1,
                late: false,
                anomaly: false,
                score: 0.25,
                generation: 1,
                delay_ms: reading.received_ms - reading.order_ms,
                ahead_ms: Some(0),
                next_s: None,
                start: None,
                values: values
                    .map(|(quantity, value)| StoredValue {
                        quantity: *quantity,
                        value: *value,
                        z: 0.5,
                    })
                    .collect(),
            };
            write.reading(reading, &row).unwrap();
        }
        write.commit().unwrap();
    }
    arrivals.len() as f64 / begun.elapsed().as_secs_f64()
}

fn decoder() -> Decoder {
    let century = "36500d".parse().unwrap();
    let config = payload::Config {
        oldest: century,
        newest: century,
        ..payload::Config::default()
    };
    Decoder::new(config, Arc::new(Catalogue::default()), 0)
}

/// Rows per second of the whole stream.
fn stream(payloads: &[(i64, Vec<u8>)], credits: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let mut settings = Settings {
            credits,
            event_time: true,
            ..Settings::default()
        };
        // Warm early, so that most of the run scores with a forest.
        settings.stats.warmup_readings = 30;
        let (store, catalogue) = open_store(
            dir.path(),
            &settings.store,
            &std::collections::BTreeMap::new(),
        )
        .unwrap();
        let metrics = Metrics::new(
            &prometheus::Registry::new(),
            &catalogue,
            BoardConfig::default(),
        )
        .unwrap();
        let pipeline = Pipeline::start(
            &settings,
            store.clone(),
            &catalogue,
            Arc::new(SystemClock),
            Vec::new(),
            &metrics,
        )
        .unwrap();
        let decoder = decoder();
        let begun = Instant::now();
        let mut waiting = VecDeque::new();
        for batch in payloads.chunks(BATCH) {
            let arrivals: Vec<Arrival> = batch
                .iter()
                .map(|(received_ms, payload)| decoder.decode("", payload, *received_ms))
                .collect();
            let intake = pipeline.intake().clone();
            waiting.push_back(tokio::spawn(async move { intake.deliver(arrivals).await }));
            while waiting.len() > 4 {
                waiting.pop_front().unwrap().await.unwrap().unwrap();
            }
            tokio::task::yield_now().await;
        }
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        let rate = payloads.len() as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(store.ledger().unwrap().stored, payloads.len() as u64);
        pipeline.drain(Duration::from_secs(10)).await.unwrap();
        rate
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    for (sensors, rows) in [(100, 1_000_000), (10_000, 1_000_000)] {
        let payloads = payloads(sensors, rows);
        let decoder = decoder();
        let arrivals: Vec<Arrival> = payloads
            .iter()
            .map(|(received_ms, payload)| decoder.decode("", payload, *received_ms))
            .collect();
        let (mut bares, mut ones, mut twos) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bares.push(bare(&arrivals));
            ones.push(stream(&payloads, 1));
            twos.push(stream(&payloads, 2));
        }
        // Of each round its own ratio: the machine is faster in one minute than in the next.
        let of_bare = |rates: &[f64]| {
            let rounds = rates.iter().zip(&bares);
            median(rounds.map(|(rate, bare)| rate / bare).collect())
        };
        let (of_one, of_two) = (of_bare(&ones), of_bare(&twos));
        let (bare, one, two) = (median(bares), median(ones), median(twos));
        println!("{sensors} sensors, {rows} rows, batches of {BATCH}; medians of {ROUNDS} in turn");
        println!("  bare store               {bare:>9.0} rows/s");
        println!("  stream, 1 under way      {one:>9.0} rows/s   {of_one:.2} of bare");
        println!("  stream, 2 under way      {two:>9.0} rows/s   {of_two:.2} of bare");
    }
}
