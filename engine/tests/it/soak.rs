//! A long day: memory, threads and open files while as many readings come as asked for.
//!
//! `VIGIE_SOAK_READINGS` is how many (default 100,000; a day at 1,000 a second is 86,400,000),
//! `VIGIE_SOAK_RATE` how many in a second (default 5,000). With five million or more the slope of the
//! memory is judged as well; then a week comes first, so that what grows with the first days of a sensor
//! is as large as it gets.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::harness::{Engine, Process, Published, now_ms, setting, simulate, simulate_args};

const DAY_MS: i64 = 86_400_000;
/// From so many readings on the slope is judged.
const LONG: u32 = 5_000_000;
/// Readings of a thousand sensors that report once a second, in an hour.
const HOUR: f64 = 3_600_000.0;
/// What the memory may vary by: write buffers are larger while tables are merged.
const SPAN_MIB: f64 = 128.0;
/// Parts of the run whose means are compared: samples of one moment resemble each other.
const BLOCKS: usize = 24;

/// What a process holds at a moment.
struct Sample {
    at: f64,
    resident_mib: f64,
    threads: usize,
    /// Of the store, whose tables come and go.
    tables: usize,
    /// Everything else: sockets, events, the journal.
    handles: usize,
}

fn sample(process: &Process, at: f64) -> Sample {
    let proc = PathBuf::from(format!("/proc/{}", process.id()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse::<usize>().unwrap()
    };
    let open: Vec<PathBuf> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let tables = open
        .iter()
        .filter(|path| {
            path.components()
                .any(|part| part.as_os_str() == "keyspaces")
        })
        .count();
    Sample {
        at,
        resident_mib: field("VmRSS:") as f64 / 1024.0,
        threads: field("Threads:"),
        tables,
        handles: open.len() - tables,
    }
}

/// The slope of Theil and Sen, and its interval of 95 % (Sen, 1968).
fn slope(points: &[(f64, f64)]) -> (f64, f64, f64) {
    let mut slopes = Vec::new();
    for (nth, (x, y)) in points.iter().enumerate() {
        slopes.extend(
            points[..nth]
                .iter()
                .map(|(left, low)| (y - low) / (x - left)),
        );
    }
    slopes.sort_by(f64::total_cmp);
    let n = points.len() as f64;
    let spread = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let middle = slopes.len() as f64 / 2.0;
    let nth = |place: f64| {
        let place = place.clamp(0.0, slopes.len() as f64 - 1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped"
        )]
        slopes[place as usize]
    };
    (
        nth(middle),
        nth((middle - spread / 2.0).floor()),
        nth((middle + spread / 2.0).ceil()),
    )
}

#[test]
fn the_slope_of_a_line_is_found_and_noise_has_none() {
    let line: Vec<_> = (0..24)
        .map(|x| (f64::from(x), 3.0 * f64::from(x)))
        .collect();
    let (middle, low, high) = slope(&line);
    assert!(
        [middle, low, high]
            .iter()
            .all(|slope| (slope - 3.0).abs() < 1e-9)
    );
    let noise: Vec<_> = (0..24)
        .map(|x| (f64::from(x), f64::from((x * 7 + 3) % 11)))
        .collect();
    let (_, low, high) = slope(&noise);
    assert!(low < 0.0 && high > 0.0, "{low} to {high}");
}

#[test]
fn a_long_day_leaves_memory_threads_and_handles_as_they_were() {
    let readings = setting("VIGIE_SOAK_READINGS", 100_000);
    let rate = setting("VIGIE_SOAK_RATE", 5_000);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vigie.toml");
    // The disk is bounded, so that in a long day old readings go long before the first third is over.
    fs::write(&config, "[store]\nmax_mib = 512\n").unwrap();
    let config = config.to_str().unwrap();
    let mut engine = Engine::run_with(dir.path(), &["--mqtt", "127.0.0.1:0", "--config", config]);
    let is_long = readings >= LONG;
    let start = now_ms() - DAY_MS - i64::from(readings);
    if is_long {
        let week = format!(
            "--sensors 1000 --seed 8 --interval 10m --rate max --count 1008000 --boot week --start {}",
            start - 7 * DAY_MS
        );
        simulate(dir.path(), &engine.door(), &week);
    }
    let load = format!(
        "--sensors 1000 --seed 8 --interval 1s --rate {rate} --count {readings} --start {start}"
    );
    let stored_before = engine.ledger("stored");
    let mut publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
    let begun = Instant::now();
    let every = Duration::from_millis(
        (u64::from(readings) * 1000 / u64::from(rate) / 400).clamp(50, 2_000),
    );
    let mut samples = Vec::new();
    while publisher.ended().is_none() {
        samples.push(sample(&engine.process, begun.elapsed().as_secs_f64()));
        std::thread::sleep(every);
    }
    let published = Published::read(&publisher.stdout().join("\n"));
    assert_eq!(published.acknowledged, u64::from(readings), "{published:?}");
    assert_eq!(engine.ledger("stored") - stored_before, u64::from(readings));
    let took = begun.elapsed().as_secs_f64();
    engine.process.stop();

    // Caches and buffers fill first.
    let warm = &samples[samples.len() / 3..];
    let (first, second) = warm.split_at(warm.len() / 2);
    let most =
        |samples: &[Sample], what: fn(&Sample) -> usize| samples.iter().map(what).max().unwrap();
    // One more may be at work at a moment: a forest that is fitted, a question from outside.
    for (name, what, slack) in [
        (
            "threads",
            (|sample| sample.threads) as fn(&Sample) -> usize,
            1,
        ),
        ("handles", |sample| sample.handles, 1),
        ("tables", |sample| sample.tables, 64),
    ] {
        let (before, after) = (most(first, what), most(second, what));
        assert!(
            after <= before + slack,
            "{name}: {before} at most, then {after}"
        );
    }
    let memory = warm.iter().map(|sample| sample.resident_mib);
    let (least, largest) = memory.fold((f64::MAX, 0.0_f64), |(least, largest), mib| {
        (least.min(mib), largest.max(mib))
    });
    let hours = |seconds: f64| seconds * f64::from(readings) / took / HOUR;
    let points: Vec<(f64, f64)> = warm
        .chunks(warm.len().div_ceil(BLOCKS))
        .map(|block| {
            let mean =
                |what: fn(&Sample) -> f64| block.iter().map(what).sum::<f64>() / block.len() as f64;
            (
                hours(mean(|sample| sample.at)),
                mean(|sample| sample.resident_mib),
            )
        })
        .collect();
    let (middle, low, high) = slope(&points);
    eprintln!(
        "soak: {readings} readings in {took:.0} s; {least:.1} to {largest:.1} MiB, slope {middle:.2} \
         ({low:.2} to {high:.2}) MiB in an hour's readings; {} threads, {} handles, {} tables at most",
        most(warm, |sample| sample.threads),
        most(warm, |sample| sample.handles),
        most(warm, |sample| sample.tables),
    );
    assert!(largest - least <= SPAN_MIB, "{least} to {largest} MiB");
    if is_long {
        assert!(
            low <= 0.0,
            "{middle} MiB ({low} to {high}) in an hour's readings"
        );
    }
}
