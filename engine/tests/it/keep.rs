//! What stays: hours are rolled up when they are over, also those that change later; old readings
//! go, but none that a restart needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::harness::{Engine, PATIENCE, now_ms, simulate, wait_until};
use super::mongo_server::{Brand, MongoServer};
use super::mqtt::{Publisher, Version};

const HOUR_MS: i64 = 3_600_000;

/// With readings of the last month, and what `more` says.
fn run(dir: &Path, more: &str) -> Engine {
    let path = dir.join("vigie.toml");
    fs::write(&path, format!("[payload]\noldest = \"30d\"\n{more}")).unwrap();
    let config = path.to_str().unwrap();
    Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", "--config", config])
}

/// The first look comes with the first tick.
fn wait_kept(engine: &Engine) {
    wait_until("a pass of the Keeper", PATIENCE, || {
        let (hours, removed) = (
            engine.count("vigie_rollups_total"),
            engine.count("vigie_readings_removed_total"),
        );
        (hours + removed > 0)
            .then_some(())
            .ok_or_else(|| "nothing rolled up, nothing removed".to_owned())
    });
}

pub(crate) fn hours(engine: &Engine, sensor: &str) -> Vec<Value> {
    engine.list(&format!("/api/v1/sensors/{sensor}/hours"), "hours", 100)
}

/// What the hours of a sensor have to be: from its readings, by another road.
fn expected(readings: &[Value], quantity: &str) -> BTreeMap<i64, (u64, f64, f64, f64)> {
    let mut hours: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for reading in readings {
        let hour = reading["t"].as_i64().unwrap() / HOUR_MS * HOUR_MS;
        hours
            .entry(hour)
            .or_default()
            .extend(reading[quantity].as_f64());
    }
    hours
        .into_iter()
        .map(|(hour, values)| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (hour, (values.len() as u64, least, largest, mean))
        })
        .collect()
}

pub(crate) fn assert_rolled_up(hours: &[Value], readings: &[Value]) {
    for quantity in ["temperature", "humidity"] {
        let expected = expected(readings, quantity);
        assert_eq!(hours.len(), expected.len(), "hours");
        for hour in hours {
            let (count, least, largest, mean) = expected[&hour["t"].as_i64().unwrap()];
            let found = &hour[quantity];
            assert_eq!(found["count"].as_u64(), Some(count), "{hour}");
            for (name, wanted) in [("min", least), ("max", largest), ("mean", mean)] {
                let value = found[name].as_f64().unwrap();
                assert!((value - wanted).abs() < 1e-9, "{name} of {hour}: {wanted}");
            }
        }
    }
}

#[test]
fn hours_are_rolled_up_stay_true_and_outlive_their_readings() {
    let dir = tempfile::tempdir().unwrap();
    let begun_ms = (now_ms() - 10 * 24 * HOUR_MS) / HOUR_MS * HOUR_MS;
    let mut engine = run(dir.path(), "");
    let fleet =
        format!("--sensors 3 --seed 6 --interval 300s --rate max --count 8000 --start {begun_ms}");
    simulate(dir.path(), &engine.door(), &fleet);
    engine.process.stop();

    let mut engine = run(dir.path(), "");
    wait_kept(&engine);
    let all = engine.readings("C002");
    wait_until("all hours", PATIENCE, || {
        let rolled_up = hours(&engine, "C003").len();
        (rolled_up > 200)
            .then_some(())
            .ok_or_else(|| format!("{rolled_up} hours"))
    });
    assert_rolled_up(&hours(&engine, "C002"), &all);

    // A reading of a time that is rolled up.
    let late_ms = begun_ms + 100 * HOUR_MS + 77_000;
    let payload = format!(
        r#"{{"v":1,"id":"C002","boot":"late","seq":1,"t":{late_ms},"temperature":99.5,"humidity":1.5}}"#
    );
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    publisher.publish("sensors/C002/reading", payload.as_bytes(), false);
    engine.wait_stored(8001);
    drop(publisher);
    engine.process.stop();

    let mut engine = run(dir.path(), "");
    wait_kept(&engine);
    let with_late = engine.readings("C002");
    assert_eq!(with_late.len(), all.len() + 1);
    let before = hours(&engine, "C002");
    assert_rolled_up(&before, &with_late);
    let state = engine.json("/api/v1/sensors")["sensors"].clone();
    engine.process.stop();

    let mut engine = run(dir.path(), "[store]\nkeep = \"8d\"\n");
    wait_kept(&engine);
    wait_until("that the old ones go", PATIENCE, || {
        let readings = engine.readings("C003");
        let time = |reading: &Value| reading["t"].as_i64().unwrap();
        let (oldest, newest) = (time(&readings[0]), time(readings.last().unwrap()));
        (oldest >= newest - 8 * 24 * HOUR_MS - HOUR_MS)
            .then_some(())
            .ok_or_else(|| format!("the oldest is of {oldest}"))
    });
    let left = engine.readings("C002");
    assert!(left.len() < all.len() && left.last() == with_late.last());
    assert_eq!(hours(&engine, "C002"), before, "the hours stay");
    assert_eq!(engine.json("/api/v1/sensors")["sensors"], state);
    let removed = engine.count("vigie_readings_removed_total");
    engine.process.stop();
    let finished = super::harness::engine(dir.path(), &["doctor", "--data-dir", "data"]);
    assert_eq!(finished.code, 0, "{removed} removed: {finished:#?}");
}

#[test]
fn hours_are_copied_to_mongodb() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let begun_ms = now_ms() - 30 * HOUR_MS;
    let fleet =
        format!("--sensors 3 --seed 6 --interval 60s --rate max --count 3000 --start {begun_ms}");
    let mut engine = run(dir.path(), "");
    simulate(dir.path(), &engine.door(), &fleet);
    engine.process.stop();
    // Rolled up before there was a MongoDB.
    let mut engine = run(dir.path(), "");
    wait_kept(&engine);
    engine.process.stop();
    let uri = MongoServer::uri(server.addr);
    let mut engine = run(dir.path(), &format!("[mongodb]\nuri = \"{uri}\"\n"));
    let wanted = wait_until("hours in MongoDB", PATIENCE, || {
        let copied = server.documents("measurements_hourly").len();
        let rolled_up: usize = engine
            .sensors()
            .iter()
            .map(|id| hours(&engine, id).len())
            .sum();
        (copied == rolled_up && copied > 40)
            .then_some(copied)
            .ok_or_else(|| format!("{copied} copied of {rolled_up}"))
    });
    let hour = &hours(&engine, "C001")[3];
    let id = format!("C001@{}", hour["t"]);
    let documents = server.documents("measurements_hourly");
    let document = documents
        .iter()
        .find(|document| document.get_str("_id").unwrap() == id)
        .unwrap_or_else(|| panic!("no {id} among {wanted}"));
    let copied = document.get_document("temperature").unwrap();
    let mean = copied.get_f64("mean").unwrap();
    assert!((mean - hour["temperature"]["mean"].as_f64().unwrap()).abs() < 1e-12);
    engine.process.stop();
}
