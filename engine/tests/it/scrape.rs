//! What a scrape costs while a thousand sensors have all their series: the time that was promised. What
//! it costs the stream is a benchmark (`engine/benches/scrape.rs`).

use std::time::{Duration, Instant};

use super::harness::{Engine, now_ms, simulate};

const SENSORS: usize = 1000;
/// So many that bands, z and the forest have something to say.
const READINGS: usize = 400;
const AT_MOST: Duration = Duration::from_millis(20);

#[test]
fn metrics_of_a_thousand_sensors_are_written_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    let fleet = format!(
        "--sensors {SENSORS} --interval 10s --rate max --connections 4 --count {} --start {}",
        SENSORS * READINGS,
        now_ms() - 86_400_000
    );
    simulate(dir.path(), &engine.door(), &fleet);
    let mut bytes = 0;
    let mut took: Vec<Duration> = (0..10)
        .map(|_| {
            // As somebody who comes anew each time, not as fast as it goes.
            std::thread::sleep(Duration::from_millis(200));
            let begun = Instant::now();
            bytes = engine.text("/metrics").len();
            begun.elapsed()
        })
        .collect();
    took.sort();
    let median = (took[4] + took[5]) / 2;
    eprintln!("{} KiB of metrics in {median:?} ({took:?})", bytes / 1024);
    assert!(median <= AT_MOST, "a scrape takes {median:?}: {took:?}");
    let metrics = engine.metrics();
    for all in [
        "temperature_celsius{",
        "temperature_band_celsius{bound=\"low\"",
        "forest_score{",
    ] {
        let series = metrics
            .keys()
            .filter(|name| name.starts_with(&format!("vigie_sensor_{all}")))
            .count();
        assert!(series > SENSORS * 9 / 10, "{series} series of {all}");
    }
    engine.process.stop();
}
