//! The real binary, with its publisher on the same cores: durable and scored readings per second
//! through the built-in listener beside the bare store's own write rate, latencies beside one bare
//! synced commit, memory, and the time of a start after ten million readings. One run, all ratios.
//!
//! `cargo bench -p engine --bench end_to_end`; `VIGIE_BENCH_READINGS` makes it shorter or longer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark prints, and may stop"
)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::pipeline::open_store;
use vigie_actors::reading::{Identity, Reading};
use vigie_actors::store::row::{Row, StoredValue};
use vigie_wire::{BootId, HUMIDITY, SensorId, TEMPERATURE};

use common::{ENGINE, Engine};

const SENSORS: u64 = 10_000;

/// What `engine simulate` says at its end.
struct Published {
    per_second: f64,
    latency: String,
}

fn simulate(engine: &Engine, args: &[&str]) -> Published {
    let output = Command::new(ENGINE)
        .args(["simulate", "--broker", &format!("mqtt://{}", engine.mqtt)])
        .args(["--sensors", &SENSORS.to_string()])
        .args(args)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let rate = text
        .split('(')
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap();
    let latency = text
        .lines()
        .find(|line| line.starts_with("PUBACK"))
        .unwrap_or("")
        .to_owned();
    Published {
        per_second: rate.parse().unwrap(),
        latency,
    }
}

fn rows(from: u64, count: u64) -> Vec<(Reading, Row)> {
    (from..from + count)
        .map(|n| {
            let (sensor, seq) = (n % SENSORS, n / SENSORS);
            let order_ms = 1_790_000_000_000 + i64::try_from(seq).unwrap() * 10_000;
            let boot = BootId::try_from("bench001").unwrap();
            let values = [(TEMPERATURE, 21.42), (HUMIDITY, 51.7)];
            let reading = Reading {
                sensor: SensorId::try_from(format!("C{sensor:05}").as_str()).unwrap(),
                device_ms: Some(order_ms),
                received_ms: order_ms + 400_000,
                order_ms,
                identity: Identity::Sequence { boot, seq },
                next_s: None,
                start: None,
                values: values.into_iter().collect(),
            };
            let row = Row {
                entered: seq + 1,
                late: false,
                anomaly: false,
                score: 0.25,
                generation: 1,
                delay_ms: 400_000,
                ahead_ms: Some(0),
                next_s: None,
                start: None,
                values: values
                    .map(|(quantity, value)| StoredValue {
                        quantity,
                        value,
                        z: 0.5,
                    })
                    .into_iter()
                    .collect(),
            };
            (reading, row)
        })
        .collect()
}

/// Rows per second of the bare store in batches of `batch`, and its commit times.
fn bare(batch: usize, count: u64) -> (f64, Vec<Duration>) {
    let dir = tempfile::tempdir().unwrap();
    let config = vigie_actors::store::Config::default();
    let (store, _) = open_store(dir.path(), &config, &std::collections::BTreeMap::new()).unwrap();
    let rows = rows(0, count);
    let mut times = Vec::new();
    let begun = Instant::now();
    for chunk in rows.chunks(batch) {
        let mut write = store.write();
        for (reading, row) in chunk {
            write.reading(reading, row).unwrap();
        }
        let commit = Instant::now();
        write.commit().unwrap();
        times.push(commit.elapsed());
    }
    (rows.len() as f64 / begun.elapsed().as_secs_f64(), times)
}

fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((times.len() - 1) as f64 * share) as usize;
    times[at].as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// So many readings in one go, and the bare store's with the batches that came of them.
fn throughput(connections: &str, readings: u64) {
    // As of nodes that are online, or nearly: what comes after its hour is a row more for each hour.
    let span_ms = i64::try_from(readings / SENSORS).unwrap() * 10_000;
    let start = (SystemClock.now_ms() - span_ms).to_string();
    let count = readings.to_string();
    let (mut streams, mut bares) = (Vec::new(), Vec::new());
    let mut batch = 0.0;
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::start(dir.path(), &[]);
        let args = [
            "--interval",
            "10s",
            "--rate",
            "max",
            "--count",
            &count,
            "--connections",
            connections,
            "--start",
            &start,
        ];
        streams.push(simulate(&engine, &args).per_second);
        batch = engine.readings_per_commit();
        drop(engine);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size"
        )]
        bares.push(bare(batch.max(1.0) as usize, readings).0);
    }
    let (stream, bare) = (median(&mut streams), median(&mut bares));
    println!(
        "  {connections:>4} connections: {stream:.0}/s; bare store, same batches ({batch:.0}): \
         {bare:.0}/s; ratio {:.2}",
        stream / bare
    );
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let total: u64 =
        std::env::var("VIGIE_BENCH_READINGS").map_or(10_000_000, |text| text.parse().unwrap());
    let start = (SystemClock.now_ms() - 6 * 86_400_000).to_string();

    println!("throughput, QoS 1, window 1,000 per connection, {SENSORS} sensors, medians of 3");
    for connections in ["4", "1000"] {
        throughput(connections, (total / 10).max(SENSORS));
    }

    println!("latency publish → PUBACK, 4 connections");
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::start(dir.path(), &[]);
    for (boot, rate) in [("lat2000", "2000"), ("lat20000", "20000")] {
        let args = [
            "--interval",
            "10s",
            "--rate",
            rate,
            "--duration",
            "10s",
            "--connections",
            "4",
            "--start",
            &start,
            "--boot",
            boot,
        ];
        let latency = simulate(&engine, &args).latency;
        println!(
            "  {rate:>5}/s: {latency}; resident {:.0} MB",
            engine.resident_mb()
        );
    }
    drop(engine);
    let (_, mut times) = bare(1, 2_000);
    println!(
        "  one bare synced commit of one row: p50 {:.3} ms, p99 {:.3} ms",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );

    println!("{total} readings into one engine");
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::start(dir.path(), &[]);
    let count = total.to_string();
    // With ten million, the states hold five and a half days.
    let args = [
        "--interval",
        "8m",
        "--rate",
        "max",
        "--count",
        &count,
        "--connections",
        "4",
        "--start",
        &start,
    ];
    let published = simulate(&engine, &args);
    let at_once = engine.resident_mb();
    // The allocator gives back what is free when it is asked for more, and the store merges tables.
    let args = ["--interval", "8m", "--rate", "2000", "--duration", "10s"];
    let _ = simulate(&engine, &[&args[..], &["--connections", "4"]].concat());
    println!(
        "  {:.0}/s; resident {at_once:.0} MB, {:.0} MB after ten seconds more at 2,000/s",
        published.per_second,
        engine.resident_mb()
    );
    // A kill, not a shutdown: the start has to repair as well.
    drop(engine);
    let engine = Engine::start(dir.path(), &[]);
    println!(
        "  start after a kill: {:.2} s; resident {:.0} MB",
        engine.ready_after.as_secs_f64(),
        engine.resident_mb()
    );
}
