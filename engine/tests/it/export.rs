//! What is stored, as files and as accounts: nothing is missing, and what is exported reads back.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::harness::{Engine, PATIENCE, engine, now_ms, simulate, wait_until};
use super::mqtt::{Publisher, Version};

/// A store with two thousand readings of three sensors, a late one, one that came twice, one that
/// is none, and a gap.
fn fill(dir: &std::path::Path) -> Vec<(String, Vec<Value>)> {
    let mut engine = Engine::run(dir);
    let begun_ms = now_ms() - 86_400_000;
    let fleet =
        format!("--sensors 3 --seed 8 --interval 30s --rate max --count 2000 --start {begun_ms}");
    simulate(dir, &engine.door(), &fleet);
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    let mut publish = |boot: &str, seq: u64, t: i64, value: &str| {
        let payload = format!(
            r#"{{"v":1,"id":"C001","boot":"{boot}","seq":{seq},"t":{t},"temperature":{value}}}"#
        );
        publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    };
    publish("aa", 1, begun_ms + 77_777, "20.25");
    publish("bb", 1, now_ms() - 3000, "20.5");
    publish("bb", 5, now_ms() - 2000, "20.75");
    publish("bb", 5, now_ms() - 1000, "20.75");
    publish("bb", 6, now_ms() - 500, "null");
    drop(publisher);
    engine.wait_stored(2003);
    super::harness::wait_until("the last one", super::harness::PATIENCE, || {
        let ledger = engine.json("/api/v1/ledger");
        (ledger["received"] == 2005)
            .then_some(())
            .ok_or_else(|| ledger.to_string())
    });
    let account = engine
        .list("/api/v1/ledger/sensors", "sensors", 2)
        .remove(0);
    assert_eq!(account["sensor"], "C001");
    assert_eq!(account["late"], 1, "{account}");
    assert_eq!(account["duplicate"], 1, "{account}");
    assert_eq!(account["missing"], 3, "{account}");
    assert_eq!(
        account["quarantined"].as_object().map(serde_json::Map::len),
        Some(1)
    );
    let stored = account["stored"].as_u64().unwrap();
    assert_eq!(account["received"].as_u64().unwrap(), stored + 2);
    assert_eq!(stored, engine.readings("C001").len() as u64);
    // The metrics count the same since the start, which is since ever here.
    for (what, count) in [
        ("received_messages", stored + 2),
        ("late_readings", 1),
        ("duplicate_readings", 1),
        ("quarantined_messages", 1),
        ("missing_readings", 3),
    ] {
        let series = format!("vigie_sensor_{what}_total{{sensor=\"C001\"}}");
        // Devices are answered first.
        wait_until(&series, PATIENCE, || match engine.count(&series) {
            now if now == count => Ok(()),
            now => Err(format!("{now} instead of {count}")),
        });
    }
    let all = ["C001", "C002", "C003"].map(|id| (id.to_owned(), engine.readings(id)));
    engine.process.stop();
    all.into()
}

#[test]
fn what_is_exported_is_what_is_stored_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let stored = fill(dir.path());
    let place = ["--data-dir", "data"];
    let export = |more: &[&str]| {
        let args = [&["export"], place.as_slice(), more].concat();
        engine(dir.path(), &args).expect(0, &[]).stdout
    };

    let lines = export(&["--format", "ndjson"]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2003);
    let times: Vec<i64> = lines
        .iter()
        .map(|line| line["t"].as_i64().unwrap())
        .collect();
    assert!(times.is_sorted(), "in the order of time");
    for (sensor, readings) in &stored {
        let exported: Vec<Value> = lines
            .iter()
            .filter(|line| line["sensor"] == sensor.as_str())
            .map(|line| {
                let mut line = line.clone();
                line.as_object_mut().unwrap().remove("sensor");
                line
            })
            .collect();
        assert_eq!(&exported, readings, "{sensor}");
    }
    assert_eq!(
        export(&["--sensor", "C002", "--until", "2d"])
            .lines()
            .count(),
        1
    );
    let some = export(&["--sensor", "C002", "--since", "23h", "--sensor", "C003"]);
    assert!(some.lines().count() > 1 && !some.contains("C001"), "{some}");

    export(&["--out", "all.csv"]);
    let table = fs::read_to_string(dir.path().join("all.csv")).unwrap();
    assert_eq!(table.lines().count(), 2004);
    engine(dir.path(), &["replay", "all.csv", "--data-dir", "again"]).expect(0, &[]);
    let again = ["export", "--data-dir", "again", "--format", "ndjson"];
    let again = engine(dir.path(), &again).expect(0, &[]).stdout;
    let values = |line: &Value| {
        [
            &line["sensor"],
            &line["t"],
            &line["temperature"],
            &line["humidity"],
        ]
        .map(Clone::clone)
    };
    let again: Vec<_> = again
        .lines()
        .map(|line| values(&serde_json::from_str(line).unwrap()))
        .collect();
    assert_eq!(again.len(), lines.len());
    for (again, line) in again.iter().zip(&lines) {
        assert_eq!(again, &values(line));
    }
}

#[test]
fn who_has_read_enough_ends_the_export_quietly_and_mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_engine"))
        .args(["export", "--data-dir", "data"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let run = |args: &[&str]| engine(dir.path(), args);
    run(&["export", "--data-dir", "nowhere"]).expect(1, &["--data-dir"]);
    run(&["export", "--data-dir", "data", "--sensor", "C999"]).expect(1, &["C999"]);
    run(&["export", "--data-dir", "data", "--since", "soon"]).expect(2, &["soon"]);
    let text = run(&["ledger", "--data-dir", "data"]).expect(0, &[]).stdout;
    assert!(
        text.contains("received 2005 = stored 2003 + duplicate 1 + quarantined 1"),
        "{text}"
    );
    let one = run(&[
        "ledger",
        "--data-dir",
        "data",
        "--format",
        "ndjson",
        "--sensor",
        "C001",
    ]);
    let one: Value = serde_json::from_str(&one.expect(0, &[]).stdout).unwrap();
    assert_eq!(one["missing"], 3);
}
