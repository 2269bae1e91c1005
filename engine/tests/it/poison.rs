//! Messages that are no readings: each acknowledged, counted under its reason, and out of the way
//! of the next good reading.

use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{Engine, now_ms, wait_until};
use super::mosquitto::{NODE, Way};
use super::mqtt::{Publisher, Version};

/// What is wrong, the reason it is counted under, and the payload.
fn poison(now_ms: i64) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let nested = |brackets: usize| {
        let half = brackets / 2;
        let (open, close) = ("[".repeat(half), "]".repeat(half));
        format!(r#"{{"id":"poison","temperature":{open}{close}}}"#).into_bytes()
    };
    let long = |bytes: usize| {
        let mut payload = br#"{"id":"poison","temperature":20,"x":""#.to_vec();
        payload.resize(bytes - 2, b'x');
        payload.extend(b"\"}");
        payload
    };
    let with = |rest: &str| format!(r#"{{"id":"poison",{rest}}}"#).into_bytes();
    let named = |id: &str| format!(r#"{{"id":"{id}","temperature":20}}"#).into_bytes();
    let at = |time: i64| with(&format!(r#""temperature":20,"t":{time}"#));
    vec![
        ("20 KB", "too_large", long(20_000)),
        ("1 MB", "too_large", long(1_000_000)),
        ("10,000 brackets", "too_large", nested(10_000)),
        ("8,000 brackets", "type", nested(8_000)),
        ("8,000 opening brackets", "type", vec![b'['; 8_000]),
        ("NaN", "not_finite", with(r#""temperature":NaN"#)),
        ("1e309", "not_finite", with(r#""temperature":1e309"#)),
        ("-Infinity", "not_finite", with(r#""humidity":-Infinity"#)),
        (
            "a quantity twice",
            "duplicate_key",
            with(r#""temperature":20,"temperature":21"#),
        ),
        (
            "the id twice",
            "duplicate_key",
            with(r#""id":"poison","temperature":20"#),
        ),
        ("text for a number", "type", with(r#""temperature":"20""#)),
        ("a list for a number", "type", with(r#""temperature":[20]"#)),
        (
            "a number for the id",
            "type",
            br#"{"id":7,"temperature":20}"#.to_vec(),
        ),
        (
            "a list",
            "type",
            br#"[{"id":"poison","temperature":20}]"#.to_vec(),
        ),
        (
            "bytes",
            "utf8",
            (0..=255).cycle().skip(128).take(3000).collect(),
        ),
        (
            "bytes in text",
            "utf8",
            b"{\"id\":\"poison\",\"x\":\"\xff\xfe\",\"temperature\":20}".to_vec(),
        ),
        (
            "half a character",
            "utf8",
            b"{\"id\":\"poison\xc3\",\"temperature\":20}".to_vec(),
        ),
        (
            "a surrogate",
            "utf8",
            b"{\"id\":\"poison\xed\xa0\x80\",\"temperature\":20}".to_vec(),
        ),
        ("nothing", "json", Vec::new()),
        (
            "half an object",
            "json",
            br#"{"id":"poison","temp"#.to_vec(),
        ),
        ("NUL bytes", "json", vec![0; 100]),
        ("CR in the id", "sensor_id", named(r"poi\rson")),
        ("LF in the id", "sensor_id", named(r"poi\nson")),
        (
            "CR and LF in the id as they are",
            "json",
            named("poi\r\nson"),
        ),
        ("$ in the id", "sensor_id", named("$poison")),
        ("NUL in the id", "sensor_id", named(r"poi\u0000son")),
        ("no id", "missing_id", br#"{"temperature":20}"#.to_vec()),
        ("nothing known", "no_quantity", with(r#""pressure":1013"#)),
        ("1969", "time_past", at(-1_000)),
        ("eight days ago", "time_past", at(now_ms - 8 * 86_400_000)),
        ("2100", "time_future", at(4_102_444_800_000)),
        ("the end of time", "time_future", at(i64::MAX)),
    ]
}

/// Publishes good readings over the connection that takes the poison.
struct Bench {
    way: Way,
    engine: Engine,
    publisher: Publisher,
    version: Version,
    sensor: String,
    good: u64,
    bad: u64,
    slowest: Duration,
}

impl Bench {
    fn new(way: Way, dir: &Path) -> Self {
        let engine = way.run(dir);
        Self {
            publisher: publisher(&way, &engine, Version::V311),
            way,
            engine,
            version: Version::V311,
            sensor: "good-1".to_owned(),
            good: 0,
            bad: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Goes on with another connection and sensor.
    fn change_to(&mut self, version: Version, sensor: &str) {
        self.publisher = publisher(&self.way, &self.engine, version);
        self.version = version;
        sensor.clone_into(&mut self.sensor);
    }

    /// It is stored when the engine has acknowledged it.
    fn publish_good(&mut self) {
        self.good += 1;
        let payload = format!(
            r#"{{"id":"{}","boot":"good","seq":{},"t":{},"temperature":20}}"#,
            self.sensor,
            self.good,
            now_ms()
        );
        let begun = Instant::now();
        let topic = format!("sensors/{}/reading", self.sensor);
        let code = self.publisher.publish(&topic, payload.as_bytes(), false);
        assert_eq!(code, 0, "reason code for a good reading");
        if let Way::Mosquitto(_) = self.way {
            self.engine.wait_stored(self.good);
        }
        let stored = self.engine.ledger("stored");
        assert_eq!(stored, self.good, "stored after the good readings so far");
        self.slowest = self.slowest.max(begun.elapsed());
    }

    fn publish_bad(&mut self, what: &str, reason: &str, payload: &[u8]) {
        self.bad += 1;
        let counted = format!("vigie_quarantined_total{{reason=\"{reason}\"}}");
        let before = self.engine.count(&counted);
        let code = self
            .publisher
            .publish("sensors/poison/reading", payload, false);
        assert_eq!(code, 0, "{what}: reason code with {:?}", self.version);
        wait_until(
            &format!("{what} to be counted as {reason} ({:?})", self.version),
            Duration::from_secs(1),
            || match self.engine.count(&counted) {
                now if now == before + 1 => Ok(()),
                now => Err(format!(
                    "{before} before, {now} now, {}",
                    self.engine.json("/api/v1/ledger")
                )),
            },
        );
    }

    /// The engine's numbers of connections: open, accepted so far.
    fn connections(&self) -> (u64, u64) {
        let (open, accepted) = match self.way {
            Way::Listener => (
                "vigie_mqtt_connections",
                "vigie_mqtt_connects_total{result=\"accepted\"}",
            ),
            Way::Mosquitto(_) => (
                "vigie_broker_connected",
                "vigie_broker_connects_total{result=\"accepted\"}",
            ),
        };
        (self.engine.count(open), self.engine.count(accepted))
    }
}

fn publisher(way: &Way, engine: &Engine, version: Version) -> Publisher {
    match way {
        Way::Listener => Publisher::connect(engine.mqtt(), version),
        Way::Mosquitto(broker) => Publisher::connect_as(broker.plain, version, Some(NODE)),
    }
}

#[test]
fn poison_is_acknowledged_and_counted_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    poison_harms_nothing(Way::Listener, dir.path());
}

#[test]
fn poison_through_mosquitto_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        poison_harms_nothing(way, dir.path());
    }
}

fn poison_harms_nothing(way: Way, dir: &Path) {
    let mut bench = Bench::new(way, dir);
    for (nth, version, sensor) in [(1, Version::V311, "good-1"), (2, Version::V5, "good-2")] {
        if version != bench.version {
            bench.change_to(version, sensor);
        }
        let before = bench.good;
        bench.publish_good();
        for (what, reason, payload) in poison(now_ms()) {
            bench.publish_bad(what, reason, &payload);
            bench.publish_good();
        }
        // A broker passes a retained message on as a fresh one to those who are there.
        if let Way::Listener = bench.way {
            let old = format!(r#"{{"id":"old","t":{},"temperature":20}}"#, now_ms());
            let code = bench
                .publisher
                .publish("sensors/old/reading", old.as_bytes(), true);
            assert_eq!(
                code, 0,
                "reason code for a retained reading with {version:?}"
            );
            bench.publish_good();
            let retained = "vigie_mqtt_publishes_total{result=\"retained\"}";
            assert_eq!(bench.engine.count(retained), nth, "{retained}");
        }
        let made = match bench.way {
            Way::Listener => nth,
            Way::Mosquitto(_) => 1,
        };
        let readings = bench.engine.readings(sensor).len() as u64;
        assert_eq!(readings, bench.good - before, "readings of {sensor}");
        // The first connection ends when its socket goes, which the engine may learn a bit later.
        wait_until(
            "a single connection",
            Duration::from_secs(5),
            || match bench.connections() {
                (1, accepted) if accepted == made => Ok(()),
                other => Err(format!(
                    "{other:?} are open and were accepted, {made} were made"
                )),
            },
        );
    }
    let Bench {
        mut engine,
        good,
        bad,
        slowest,
        ..
    } = bench;
    assert!(
        slowest < Duration::from_secs(1),
        "the slowest good reading took {slowest:?} to be stored"
    );
    assert_eq!(engine.sensors(), ["good-1", "good-2"]);
    let ledger = engine.json("/api/v1/ledger");
    let quarantined: u64 = ledger["quarantined"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    assert_eq!(
        (ledger["received"].as_u64(), quarantined),
        (Some(good + bad), bad),
        "received and quarantined; {ledger}"
    );
    assert_eq!(
        engine.count("vigie_stage_restarts_total{"),
        0,
        "restarts of stages"
    );
    engine.process.stop();
    eprintln!(
        "poison: {bad} messages counted, {good} good readings stored, the slowest in {slowest:?}"
    );
}
