//! More sensor ids than the config allows: the known ones do not notice, and memory and metrics
//! stay bounded.

use std::fs;
use std::time::Duration;

use super::harness::{Engine, Process, Published, now_ms, setting, simulate, simulate_args};

const MAX_SENSORS: u32 = 2000;
const KNOWN: u32 = 1000;
const MAX_RSS_MIB: u64 = 250;

#[test]
fn a_flood_of_ids_leaves_known_sensors_memory_and_series_alone() {
    // With five digits and more these ids are none of the known ones, which have four.
    let flood = setting("VIGIE_FLOOD", 20_000);
    assert!(flood >= 10_000, "VIGIE_FLOOD={flood}: 10000 or more");
    let dir = tempfile::tempdir().unwrap();
    let config = format!("[stats]\nmax_sensors = {MAX_SENSORS}\nshares = 1\n");
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let mut engine = Engine::run_with(
        dir.path(),
        &["--config", "vigie.toml", "--mqtt", "127.0.0.1:0"],
    );

    let start = now_ms() - 3_600_000;
    let known = |from: i64, boot: &str, rounds: u32, rate: &str| {
        let count = KNOWN * rounds;
        format!(
            "--sensors {KNOWN} --seed 1 --count {count} --rate {rate} --interval 10s --start {from} \
             --boot {boot}"
        )
    };
    simulate(
        dir.path(),
        &engine.door(),
        &known(start, "before", 1, "max"),
    );

    let args = format!(
        "--sensors {flood} --seed 2 --count {flood} --rate max --connections 4 --interval 10s \
         --start {start} --boot flood"
    );
    let mut flooder = Process::start(dir.path(), &simulate_args(&engine.door(), &args));
    let during = known(start + 10_000, "during", 4, "4000");
    let during = simulate(dir.path(), &engine.door(), &during);
    assert_eq!(
        flooder.wait(Duration::from_mins(10)),
        0,
        "the flood's exit code"
    );
    let flooded = Published::read(&flooder.stdout().join("\n"));
    assert_eq!(flooded.acknowledged, u64::from(flood), "{flooded:?}");

    let (known, room) = (u64::from(KNOWN), u64::from(MAX_SENSORS - KNOWN));
    let rest = u64::from(flood) - room;
    let ledger = engine.json("/api/v1/ledger");
    assert_eq!(
        ledger["stored"],
        known + during.sent + room,
        "stored; {ledger}"
    );
    assert_eq!(
        ledger["quarantined"]["too_many_sensors"], rest,
        "quarantined; {ledger}"
    );
    for sensor in ["C0001", "C0500", "C1000"] {
        assert_eq!(engine.readings(sensor).len(), 5, "readings of {sensor}");
    }
    assert_eq!(
        engine.sensors().len(),
        MAX_SENSORS as usize,
        "sensors in the API"
    );

    let metrics = engine.metrics();
    let counted = "vigie_quarantined_total{reason=\"too_many_sensors\"}";
    assert_eq!(metrics[counted], rest.to_string(), "{counted}");
    let series = metrics
        .keys()
        .filter(|series| series.starts_with("vigie_sensor_anomaly_score{"))
        .count();
    assert!((1..=1000).contains(&series), "{series} series of scores");
    let rss = resident_mib(engine.process.id());
    assert!(
        rss.is_none_or(|mib| mib < MAX_RSS_MIB),
        "{rss:?} MiB resident, {MAX_RSS_MIB} are allowed"
    );
    engine.process.stop();
    eprintln!(
        "flood: {flood} ids, {rest} readings turned away, {series} series, {rss:?} MiB resident"
    );
}

/// Memory that the process has in RAM, where the system tells.
fn resident_mib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}
