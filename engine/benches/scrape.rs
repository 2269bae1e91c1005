//! What a scrape costs: the time of `/metrics` with a thousand sensors, and publish → PUBACK of the real
//! binary while somebody scrapes every second, beside nobody: five runs of each, one after the
//! other in turn, and the ratio of the medians.
//!
//! `cargo bench -p engine --bench scrape`

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark prints, and may stop"
)]

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{ENGINE, Engine, listed, median};
use vigie_actors::clock::{Clock, SystemClock};

const RUNS: usize = 5;
const SENSORS: &str = "1000";
/// Readings of each sensor before: with so many, bands, z and the forest have something to say.
const BEFORE: i64 = 400;
/// Between two readings of a sensor.
const INTERVAL_MS: i64 = 10_000;

/// Publishes the readings that end at `until_ms`.
fn fill(engine: &Engine, until_ms: i64) {
    let start = (until_ms - BEFORE * INTERVAL_MS).to_string();
    let count = (BEFORE * 1000).to_string();
    let status = Command::new(ENGINE)
        .args(["simulate", "--broker", &format!("mqtt://{}", engine.mqtt)])
        .args(["--sensors", SENSORS, "--interval", "10s", "--rate", "max"])
        .args(["--count", &count, "--start", &start, "--boot", "before"])
        .args(["--connections", "4"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let bands = engine
        .scrape()
        .matches("_band_celsius{bound=\"low\"")
        .count();
    assert!(bands > 900, "{bands} sensors have a band");
}

/// 99th percentile of publish → PUBACK in ms; of each scrape its time in ms and its bytes.
fn run(scrapes: bool) -> (f64, Vec<(f64, usize)>) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::start(dir.path(), &[]);
    let start_ms = SystemClock.now_ms() - 86_400_000;
    fill(&engine, start_ms);
    let start = start_ms.to_string();
    let done = AtomicBool::new(!scrapes);
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut took = Vec::new();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                let begun = Instant::now();
                let bytes = engine.scrape().len();
                took.push((begun.elapsed().as_secs_f64() * 1000.0, bytes));
            }
            took
        });
        let (_, p99) = engine.load(&["--sensors", SENSORS, "--start", &start]);
        done.store(true, Ordering::Relaxed);
        (p99, scraper.join().unwrap())
    })
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let (mut alone, mut scraped, mut scrapes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        alone.push(run(false).0);
        let (p99, took) = run(true);
        scraped.push(p99);
        scrapes.extend(took);
    }
    println!("2,000 readings/s of 1,000 sensors for 10 s, medians of {RUNS} runs in turn");
    let slowest = scrapes.iter().map(|scrape| scrape.0).fold(0.0, f64::max);
    println!(
        "  /metrics: median {:.2} ms, slowest {slowest:.2} ms of {} scrapes, {} KiB",
        median(scrapes.iter().map(|scrape| scrape.0)),
        scrapes.len(),
        scrapes.iter().map(|scrape| scrape.1).max().unwrap_or(0) / 1024
    );
    for (name, p99) in [("nobody scrapes", &alone), ("every second", &scraped)] {
        let each = listed(p99.iter().copied());
        println!(
            "  {name:<14} p99 {:.2} ms (of {each})",
            median(p99.iter().copied())
        );
    }
    let ratio = median(scraped.iter().copied()) / median(alone.iter().copied());
    println!("  p99 scraped / p99 alone: {ratio:.2}");
}
