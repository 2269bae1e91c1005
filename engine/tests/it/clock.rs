//! The clock of the machine is set while the engine runs: an hour ahead, and back again. Nothing is
//! lost, nobody is taken for silent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::foreign::is_there;
use super::harness::{Engine, Process, RUN, now_ms};
use super::mqtt::{Publisher, Version};

/// The library that lies to a program about the time. `None`: it is not here.
fn library() -> Option<PathBuf> {
    if !is_there("faketime") {
        return None;
    }
    let found = ["/usr/lib", "/usr/lib64"].iter().find_map(|dir| {
        let mut dirs = vec![PathBuf::from(dir).join("faketime")];
        dirs.extend(
            fs::read_dir(dir)
                .ok()?
                .flatten()
                .map(|entry| entry.path().join("faketime")),
        );
        let mut files = dirs.iter().map(|dir| dir.join("libfaketime.so.1"));
        files.find(|file| file.exists())
    });
    Some(found.expect("faketime is there, and its library is not"))
}

/// Sets the clock of whoever looks into the file, by so many seconds from the true time.
fn set(file: &Path, seconds: i32) {
    // In one step: a reader must not meet half of it.
    let new = file.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(&new, file).unwrap();
}

#[test]
fn a_clock_that_is_set_an_hour_ahead_and_back_loses_nothing_and_makes_nobody_silent() {
    let Some(library) = library() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("faketime");
    set(&file, 0);
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // Who sets a clock does not set this one.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let process = Process::start_in(dir.path(), &RUN, &environment);
    let mut engine = Engine::of(process).unwrap_or_else(|ended| panic!("{ended:#?}"));
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    let mut sent = 0_u64;
    let mut seq = 0_u32;
    // Nodes with a clock of their own, and nodes without. A reading a second; silent after five.
    let mut publish = |seconds: u32| {
        for _ in 0..seconds {
            for node in 0..8_u32 {
                let time = match node % 2 {
                    0 => format!("\"t\":{},", now_ms()),
                    _ => String::new(),
                };
                let value = 20.0 + f64::from((seq * 7 + node) % 10) / 10.0;
                let payload = format!(
                    r#"{{"id":"N{node}","boot":"a","seq":{seq},{time}"temperature":{value}}}"#
                );
                let topic = format!("sensors/N{node}/reading");
                publisher.publish(&topic, payload.as_bytes(), false);
                sent += 1;
            }
            seq += 1;
            std::thread::sleep(Duration::from_secs(1));
        }
        sent
    };
    publish(8);
    set(&file, 3600);
    publish(8);
    set(&file, 0);
    let sent = publish(8);

    let ledger = engine.json("/api/v1/ledger");
    assert_eq!(ledger["stored"], sent, "{ledger}");
    assert_eq!(ledger["missing"], 0, "{ledger}");
    assert_eq!(engine.count("vigie_quarantined_total"), 0);
    let incidents = engine.incidents();
    assert!(incidents.is_empty(), "{incidents:?}");
    for sensor in engine.sensors() {
        let readings = engine.readings(&sensor);
        assert_eq!(readings.len() as u64, sent / 8, "{sensor}");
        for reading in &readings {
            let z = &reading["z"]["temperature"];
            assert!(
                z.is_null() || z.as_f64().is_some_and(|z| z.abs() < 10.0),
                "{sensor}: {reading}"
            );
        }
        let late = readings.iter().filter(|reading| reading["late"] == true);
        let (late, odd) = (late.count() as u64, sensor.ends_with(['1', '3', '5', '7']));
        // Who has no clock has the engine's; what comes before its time is late.
        assert_eq!(late > 0, odd, "{late} late readings of {sensor}");
        assert!(late <= sent / 24 + 1, "{late} late readings of {sensor}");
    }
    let told = engine.process.stderr();
    let told = told
        .iter()
        .filter(|line| line.contains("was set, or it slept"));
    assert_eq!(told.count(), 2, "{:?}", engine.process.stderr());
    drop(publisher);
    engine.process.stop();
}
