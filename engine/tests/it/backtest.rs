//! `engine backtest` as its users meet it: on the recording that ships with the engine, and, where
//! they are, on labelled data sets (`VIGIE_DATA`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::alerts::post;
use super::harness::{Engine, engine, now_ms, package_file, simulate, text_of};

fn backtest(dir: &Path, args: &[&str]) -> String {
    let finished = engine(dir, &[&["backtest"], args].concat()).expect(0, &[]);
    finished.stdout
}

#[test]
fn the_recording_is_counted_compared_and_written_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let recording = package_file("data/single-hop-wsn.csv");
    let recording = recording.to_str().unwrap();
    let labels = r#"{"single-hop-wsn.csv": [["2010-05-09 00:00:00", "2010-05-11 00:00:00"]]}"#;
    fs::write(dir.path().join("labels.json"), labels).unwrap();
    let said = backtest(
        dir.path(),
        &[recording, "--out", "out", "--labels", "labels.json"],
    );
    for words in [
        "indoor-1",
        "outdoor-4",
        "rule (the explanation)",
        "2880 readings",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let out = fs::read_to_string(dir.path().join("out/single-hop-wsn.csv")).unwrap();
    let mut lines = out.lines();
    assert_eq!(
        lines.next(),
        Some("timestamp,score,episode_score,sensor,rule,quantity,observed,expected,line")
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let readings = rows.iter().filter(|row| row[4] != "silence").count();
    assert!(readings <= 2_880 && rows.len() >= 2_880, "{}", rows.len());
    let score = |row: &Vec<&str>, column: usize| row[column].parse::<f64>().unwrap();
    let alarms = rows.iter().filter(|row| score(row, 1) >= 0.5).count();
    let told = rows.iter().filter(|row| score(row, 2) >= 0.5).count();
    assert!(
        0 < told && told < alarms,
        "{told} of {alarms} anomalies are told: one per episode"
    );
    for row in &rows {
        assert_eq!(score(row, 1) >= 0.5, !row[4].is_empty(), "{row:?}");
    }

    // A stricter config says less; nothing new appears.
    fs::write(
        dir.path().join("few.toml"),
        "[score]\nfalse_alarms_per_week = 0.01\n",
    )
    .unwrap();
    let said = backtest(
        dir.path(),
        &[recording, "--config", "few.toml", "--against", "few.toml"],
    );
    assert!(said.contains("0 vanish, 0 appear"), "{said}");
    fs::write(dir.path().join("many.toml"), "").unwrap();
    let said = backtest(
        dir.path(),
        &[recording, "--config", "few.toml", "--against", "many.toml"],
    );
    assert!(said.contains(" vanish, 0 appear"), "{said}");
}

#[test]
fn a_silence_is_told_once_however_long_it_lasts() {
    let dir = tempfile::tempdir().unwrap();
    // Two days every ten minutes, thirty hours of nothing, and on for six hours.
    let mut recording = "timestamp,temperature\n".to_owned();
    for bin in (0..288).chain(288 + 180..288 + 180 + 36) {
        let (day, hour, minute) = (1 + bin / 144, bin / 6 % 24, bin % 6 * 10);
        let value = 20.0 + f64::from(bin % 7) / 10.0;
        writeln!(
            recording,
            "2026-03-{day:02} {hour:02}:{minute:02}:00,{value}"
        )
        .unwrap();
    }
    fs::write(dir.path().join("room.csv"), recording).unwrap();
    backtest(dir.path(), &["room.csv", "--out", "out"]);
    let out = fs::read_to_string(dir.path().join("out/room.csv")).unwrap();
    let rows = out.lines().skip(1).map(|line| line.split(',').collect());
    let told: Vec<Vec<&str>> = rows
        .filter(|row: &Vec<&str>| row[2].parse::<f64>().unwrap() >= 0.5)
        .collect();
    // The last reading is of ten to midnight; four intervals later it is missed.
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0][0].starts_with("2026-03-03 00:30"), "{told:?}");
    assert_eq!(told[0][4], "silence");
}

#[test]
fn what_is_stored_is_judged_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Engine::run(dir.path());
    let load = format!(
        "--sensors 5 --seed 7 --count 4000 --rate max --interval 60s --faults spike,sentinel \
         --fault-every 100 --start {}",
        now_ms() - 86_400_000
    );
    let published = simulate(dir.path(), &running.door(), &load);
    let anomalies = running.list("/api/v1/anomalies", "anomalies", 500);
    let live = |rule: &str| anomalies.iter().filter(|one| one["rule"] == rule).count();
    // What cannot be true is no matter of opinion: it would be told again.
    let incidents = running.incidents();
    let named = incidents.iter().find(|one| one["rule"] == "range").unwrap();
    let id = text_of(&named["id"]);
    let path = format!("/api/v1/incidents/{id}/false-alarm");
    let (status, answer) = post(running.http, &path, "application/json", "{}");
    assert_eq!(status, 200, "{answer}");
    running.process.stop();

    let said = backtest(
        dir.path(),
        &["--since", "2d", "--data-dir", "data", "--out", "out"],
    );
    assert!(
        said.contains(&format!("{} readings", published.sent)),
        "{said}"
    );
    let opinion =
        format!("1 incidents were called false alarms; 1 of them would be told again: {id}");
    assert!(said.contains(&opinion), "{said}");
    let out = fs::read_to_string(dir.path().join("out/store.csv")).unwrap();
    let again = |rule: &str| {
        let named = |line: &&str| line.split(',').nth(4) == Some(rule);
        out.lines().filter(named).count()
    };
    // A rule that fires beside another one is in the API, but not the explanation.
    assert_eq!(again("range"), live("range"), "{out}");
    assert!(again("rate") > 0 && again("rate") <= live("rate"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = |args: &[&str], words: &[&str]| {
        engine(dir.path(), &[&["backtest"], args].concat()).expect(1, words);
    };
    said(&["nowhere.csv"], &["nowhere.csv", "no such file"]);
    said(
        &["--since", "1d", "--data-dir", "nothing"],
        &["no store", "--data-dir"],
    );
    fs::create_dir(dir.path().join("empty")).unwrap();
    said(&["empty"], &["no CSV file", "empty"]);
    fs::write(dir.path().join("a.csv"), "timestamp,temperature\n").unwrap();
    fs::write(dir.path().join("labels.json"), "[1]").unwrap();
    let labels = ["a.csv", "--labels", "labels.json"];
    said(&labels, &["labels.json", "file name and list"]);
}

/// The labelled data sets, if they are here.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("VIGIE_DATA").map(PathBuf::from)?;
    data.join("injected").is_dir().then_some(data)
}

/// The number behind the first `mark` of a line that begins with `line`.
fn figure(said: &str, line: &str, column: usize) -> f64 {
    let row = said
        .lines()
        .find(|text| text.split_whitespace().next() == Some(line))
        .unwrap_or_else(|| panic!("no line {line} in {said}"));
    row.split_whitespace().nth(column).unwrap().parse().unwrap()
}

#[test]
fn injected_faults_are_found_within_the_budget_of_false_alarms() {
    let Some(data) = data() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (streams, labels) = (data.join("injected"), data.join("injected/labels.json"));
    let said = backtest(
        dir.path(),
        &[
            streams.to_str().unwrap(),
            "--labels",
            labels.to_str().unwrap(),
        ],
    );
    let wrong = figure(&said, "all", 5);
    assert!(wrong <= 1.0, "{wrong} false alarms per sensor-week; {said}");
    let recall = said.split("all: recall ").nth(1).unwrap();
    let recall: f64 = recall.split(';').next().unwrap().parse().unwrap();
    assert!(recall >= 0.90, "recall {recall}; {said}");
    for (fault, least) in [
        ("sentinel", 1.0),
        ("dropout", 1.0),
        ("battery_death", 1.0),
        ("noise_burst", 0.9),
        ("drift", 0.84),
        ("stuck", 0.85),
    ] {
        assert!(figure(&said, fault, 2) >= least, "{fault}: {said}");
    }
}

#[test]
fn rooms_without_known_faults_are_left_alone() {
    let Some(data) = data() else { return };
    let dir = tempfile::tempdir().unwrap();
    let said = backtest(dir.path(), &[data.join("clean").to_str().unwrap()]);
    let episodes = figure(&said, "all", 5);
    assert!(episodes <= 1.0, "{episodes} per sensor-week; {said}");
}
