//! From a published reading to what a person sees: a fleet with labelled faults, a real recording,
//! and the demo.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::harness::{
    Engine, RUN, acked, assert_kept, doctor, engine, mails, now_ms, number_after, package_file,
    simulate, stored, text_of, wait_until,
};
use super::mosquitto::Way;

const DAY_MS: i64 = 86_400_000;
const INTERVAL_MS: i64 = 60_000;

/// 10 sensors, 1,000 readings each, a minute apart.
fn fleet(start_ms: i64) -> String {
    format!("--sensors 10 --seed 7 --count 10000 --rate max --interval 60s --start {start_ms}")
}

fn whole(value: &Value) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("no whole number: {value}"))
}

fn anomalies(engine: &Engine) -> Vec<Value> {
    engine.list("/api/v1/anomalies", "anomalies", 500)
}

/// One injected fault, as in the file of labels.
#[derive(Debug)]
struct Label {
    sensor: String,
    kind: String,
    start_ms: i64,
    end_ms: i64,
}

fn labels(file: &Path) -> Vec<Label> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("sensor,kind,quantity,start_ms,end_ms,magnitude")
    );
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Label {
                sensor: fields[0].to_owned(),
                kind: fields[1].to_owned(),
                start_ms: fields[3].parse().unwrap(),
                end_ms: fields[4].parse().unwrap(),
            }
        })
        .collect()
}

impl Label {
    /// Is this anomaly the report of this fault?
    fn is_reported_by(&self, anomaly: &Value) -> bool {
        let rules: &[&str] = match self.kind.as_str() {
            "spike" => &["rate", "noise", "z"],
            "sentinel" => &["range"],
            "dropout" => &["silence"],
            other => panic!("no such fault was asked for: {other}"),
        };
        anomaly["sensor"] == *self.sensor
            && (self.start_ms..=self.end_ms + 2 * INTERVAL_MS).contains(&whole(&anomaly["t"]))
            && rules.contains(&anomaly["rule"].as_str().unwrap())
    }
}

#[test]
fn ten_thousand_readings_are_stored_once_and_every_obvious_fault_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    every_reading_and_fault_arrives(dir.path(), &Way::Listener);
}

#[test]
fn through_mosquitto_too_every_reading_is_stored_once_and_every_fault_reported() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        every_reading_and_fault_arrives(dir.path(), &way);
    }
}

fn every_reading_and_fault_arrives(dir: &Path, way: &Way) {
    let mut engine = way.run(dir);
    let faulty = format!(
        "{} --faults spike,sentinel,dropout --fault-every 100 --labels labels --acked acked",
        fleet(now_ms() - 5 * DAY_MS)
    );
    let published = simulate(dir, &way.door(&engine), &faulty);
    assert_eq!(
        published.sent + published.dropped_out,
        10_000,
        "{published:?}"
    );
    assert!(published.dropped_out > 0, "no dropout; {published:?}");

    engine.wait_stored(published.sent);
    assert_eq!(
        engine.ledger("stored"),
        published.sent,
        "stored in the ledger"
    );
    assert_eq!(
        engine.ledger("received"),
        published.sent,
        "received in the ledger"
    );
    let acked = acked(&dir.join("acked"));
    assert_eq!(
        acked.len() as u64,
        published.sent,
        "lines in the file of acknowledged readings"
    );
    let stored = stored(&engine);
    assert_kept(&acked, &stored);
    assert_eq!(
        stored.len() as u64,
        published.sent,
        "different readings in the API"
    );

    let labels = labels(&dir.join("labels"));
    let anomalies = anomalies(&engine);
    let mut found: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut missed = Vec::new();
    for label in &labels {
        let (reported, injected) = found.entry(&label.kind).or_default();
        *injected += 1;
        if anomalies
            .iter()
            .any(|anomaly| label.is_reported_by(anomaly))
        {
            *reported += 1;
        } else {
            missed.push(label);
        }
    }
    let figures = format!(
        "reported of injected: {found:?}, {} anomalies in all",
        anomalies.len()
    );
    assert_eq!(found.len(), 3, "kinds of fault; {figures}");
    assert!(missed.is_empty(), "{figures}; missed: {missed:#?}");
    engine.process.stop();
    assert_eq!(doctor(dir), published.sent, "the doctor's count");
    eprintln!("fleet: {} stored; {figures}", published.sent);
}

#[test]
fn a_healthy_fleet_opens_no_incident() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    let published = simulate(dir.path(), &engine.door(), &fleet(now_ms() - 5 * DAY_MS));
    assert_eq!(
        (published.sent, engine.ledger("stored")),
        (10_000, 10_000),
        "sent and stored"
    );
    let incidents = engine.incidents();
    assert!(
        incidents.is_empty(),
        "{} false alarms: {incidents:#?}",
        incidents.len()
    );
    engine.process.stop();
}

// ---- The recording ----

const RECORDED: u64 = 2_880;

/// First and last labelled time of each mote that has any, and the names of the others.
fn recorded_events(file: &Path) -> (BTreeMap<String, (i64, i64)>, Vec<String>) {
    let mut events = BTreeMap::new();
    let mut quiet = Vec::new();
    for line in fs::read_to_string(file).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let time = OffsetDateTime::parse(fields[0], &Rfc3339).unwrap();
        let (mote, time_ms) = (fields[1].to_owned(), time.unix_timestamp() * 1000);
        if fields[4] == "1" {
            events.entry(mote).or_insert((time_ms, time_ms)).1 = time_ms;
        } else if !quiet.contains(&mote) {
            quiet.push(mote);
        }
    }
    quiet.retain(|mote| !events.contains_key(mote));
    (events, quiet)
}

/// Fails unless both labelled events were found in time.
fn assert_events_are_found(engine: &Engine) {
    let (events, _) = recorded_events(&package_file("data/single-hop-wsn.csv"));
    assert_eq!(events.keys().collect::<Vec<_>>(), ["indoor-1", "outdoor-4"]);
    let anomalies = anomalies(engine);
    for (mote, (start_ms, end_ms)) in &events {
        let after = |anomaly: &Value| (whole(&anomaly["t"]) - start_ms) / 1000;
        let first = anomalies
            .iter()
            .filter(|anomaly| anomaly["sensor"] == **mote && after(anomaly) >= 0)
            .min_by_key(|anomaly| after(anomaly));
        let delay = first.map(after);
        assert!(
            delay.is_some_and(|delay| delay <= 60),
            "{mote}: first anomaly {delay:?} s after the start of the event, which lasts {} s; \
             {first:?}",
            (end_ms - start_ms) / 1000
        );
        eprintln!("recording: {mote} {delay:?} s after the start of the event");
    }
}

/// Fails if a mote without an event has an incident.
fn assert_quiet_motes_are_left_alone(engine: &Engine) {
    let (_, quiet) = recorded_events(&package_file("data/single-hop-wsn.csv"));
    assert_eq!(quiet, ["indoor-2", "outdoor-3"]);
    // Since the recording the motes have been silent for years; that is not the question.
    let incidents = engine.list("/api/v1/incidents?to=1300000000000", "incidents", 500);
    let false_alarms: Vec<&Value> = incidents
        .iter()
        .filter(|incident| quiet.contains(&text_of(&incident["sensor"])))
        .collect();
    assert!(
        false_alarms.is_empty(),
        "incidents of quiet motes: {false_alarms:#?}"
    );
}

#[test]
fn the_recordings_events_are_found_and_its_quiet_motes_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = package_file("data/single-hop-wsn.csv");
    let args = ["replay", file.to_str().unwrap(), "--data-dir", "data"];
    let outcome =
        |line: &str| ["stored ", "duplicate ", "quarantined "].map(|what| number_after(line, what));
    // At a pace at which the forest is grown between two readings, as it is in real life.
    let first = engine(dir.path(), &[&args[..], &["--speed", "600"]].concat()).expect(0, &[]);
    assert_eq!(outcome(&first.stdout), [RECORDED, 0, 0], "{first:#?}");

    let mut running = Engine::run(dir.path());
    assert_events_are_found(&running);
    assert_quiet_motes_are_left_alone(&running);
    assert_eq!(running.ledger("stored"), RECORDED);
    running.process.stop();

    let again = engine(dir.path(), &args).expect(0, &[]);
    assert_eq!(outcome(&again.stdout), [0, RECORDED, 0], "{again:#?}");
    assert_eq!(
        doctor(dir.path()),
        RECORDED,
        "the doctor's count after both"
    );
}

// ---- The demo ----

/// How soon the addresses are on the terminal.
const ANNOUNCED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 2 });

/// What any command that serves takes.
const ON_FREE_PORTS: &[&str] = RUN.split_at(1).1;

fn demo(dir: &Path, more: &[&str]) -> Engine {
    let engine = Engine::start(dir, &[&["demo"], ON_FREE_PORTS, more].concat());
    assert!(
        engine.announced <= ANNOUNCED,
        "its addresses came after {:?}, {ANNOUNCED:?} are allowed",
        engine.announced
    );
    engine
}

/// Lines that tell of an incident that opened at one of `sensors`.
fn incident_lines(engine: &Engine, sensors: &[&str]) -> Vec<String> {
    let tells = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 4
            && ["warn", "critical"].contains(&words[1])
            && sensors.contains(&words[2])
            && line.contains(" since ")
    };
    engine.process.stdout().into_iter().filter(tells).collect()
}

#[test]
fn the_demo_shows_an_incident_within_a_minute_and_goes_on_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = demo(dir.path(), &[]);
    let first = wait_until(
        "an incident on the terminal, as a mail, in the metrics and in the API",
        Duration::from_mins(1),
        || {
            let lines = incident_lines(&engine, &["C001", "C002", "C003"]);
            let mails = mails(dir.path());
            let counted = engine.count("vigie_anomalies_total{");
            let listed = engine.json("/api/v1/anomalies?limit=10")["anomalies"]
                .as_array()
                .map_or(0, Vec::len);
            if !lines.is_empty() && mails > 0 && counted > 0 && listed > 0 {
                Ok(lines[0].clone())
            } else {
                Err(format!(
                    "{} lines, {mails} mails, {counted} counted, {listed} in the API",
                    lines.len()
                ))
            }
        },
    );
    eprintln!("demo: announced after {:?}; {first}", engine.announced);
    engine.process.stop();
    let before = doctor(dir.path());
    assert!(
        before > 3 * 3 * 24 * 60,
        "three days of history and more: {before} readings"
    );

    let mut engine = demo(dir.path(), &[]);
    let stored = wait_until("new readings", Duration::from_secs(10), || {
        let stored = engine.ledger("stored");
        if stored > before {
            Ok(stored)
        } else {
            Err(format!("{stored} stored, {before} before"))
        }
    });
    assert!(
        stored < before + 1_000,
        "a second history? {before} readings before, {stored} now"
    );
    engine.process.stop();
}

#[test]
fn the_demo_with_the_recording_finds_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = demo(dir.path(), &["--recording", "--speed", "max"]);
    wait_until("the end of the recording", Duration::from_secs(20), || {
        let lines = engine.process.stdout();
        let through = |line: &String| line.starts_with("The recording is through: 2880 readings");
        if lines.iter().any(through) {
            Ok(())
        } else {
            Err(format!("{lines:#?}"))
        }
    });
    assert_eq!(engine.ledger("stored"), RECORDED);
    assert_events_are_found(&engine);
    for mote in ["indoor-1", "outdoor-4"] {
        wait_until(
            "the incident on the terminal",
            Duration::from_secs(5),
            || {
                let lines = incident_lines(&engine, &[mote]);
                if lines.is_empty() {
                    Err(format!("none of {mote}"))
                } else {
                    Ok(())
                }
            },
        );
    }
    wait_until("a mail", Duration::from_secs(5), || {
        match mails(dir.path()) {
            0 => Err("no mail".to_owned()),
            _ => Ok(()),
        }
    });
    engine.process.stop();
}
