//! The broker goes away, politely, at once or into a long sleep: what the engine reports as missing
//! is what was lost, and it comes back by itself.

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::harness::{
    Engine, PATIENCE, Process, Published, now_ms, setting, simulate_args, stored, wait_until,
};
use super::mosquitto::{Mosquitto, NODE};
use super::mqtt::{Publisher, Version};

/// A fleet that publishes at a broker, and an engine that subscribes there.
struct Bench {
    mosquitto: Mosquitto,
    engine: Engine,
    publisher: Process,
}

impl Bench {
    fn start(dir: &Path, more: &str) -> Option<Self> {
        let mosquitto = Mosquitto::start(dir)?;
        let [flag, config] = mosquitto.config(dir, more);
        let engine = Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", &flag, &config]);
        engine.wait_subscribed();
        let load = format!(
            "--sensors 20 --seed 3 --interval 1s --rate 2000 --start {}",
            now_ms() - 6 * 86_400_000
        );
        let publisher = Process::start(dir, &simulate_args(&mosquitto.door(), &load));
        engine.wait_stored(1_000);
        Some(Self {
            mosquitto,
            engine,
            publisher,
        })
    }

    fn connects(&self) -> u64 {
        self.engine
            .count("vigie_broker_connects_total{result=\"accepted\"}")
    }

    /// Waits until the engine is a subscriber again and hears every sensor.
    fn recovered(&self, connects: u64) {
        wait_until("the way back to the broker", PATIENCE, || {
            let now = self.connects();
            let connected = self.engine.count("vigie_broker_connected");
            if now > connects && connected == 1 {
                Ok(())
            } else {
                Err(format!("{now} connects, {connects} before"))
            }
        });
        self.engine.wait_stored(self.engine.ledger("stored") + 500);
    }

    /// Ends the publishing: what was sent, what is stored, what the engine reports as missing.
    fn settle(&mut self) -> (u64, u64, u64) {
        let published = Published::end(&mut self.publisher);
        let reported = wait_until("the last readings", PATIENCE, || {
            let (stored, missing) = (self.engine.ledger("stored"), self.engine.ledger("missing"));
            if stored + missing == published.sent {
                Ok(missing)
            } else {
                Err(format!(
                    "{} sent, {stored} stored, {missing} reported as missing",
                    published.sent
                ))
            }
        });
        let different = stored(&self.engine);
        assert!(different.values().all(|times| *times == 1), "stored twice");
        (published.sent, different.len() as u64, reported)
    }
}

#[test]
fn what_is_reported_as_missing_is_what_a_restarted_or_killed_broker_lost() {
    let outages = setting("VIGIE_OUTAGES", 5);
    let mut random = StdRng::seed_from_u64(11);
    for signal in ["TERM", "KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut bench) = Bench::start(dir.path(), "") else {
            return;
        };
        for _ in 0..outages {
            std::thread::sleep(Duration::from_millis(random.gen_range(20..=200)));
            let connects = bench.connects();
            bench.mosquitto.down(signal);
            std::thread::sleep(Duration::from_millis(random.gen_range(0..=200)));
            bench.mosquitto.up();
            bench.recovered(connects);
        }
        let (sent, stored, missing) = bench.settle();
        assert_eq!(sent - stored, missing, "lost and reported, after {signal}");
        let ledger = bench.engine.json("/api/v1/ledger");
        let meanwhile = |name: &str| ledger["missing_while"][name].as_u64().unwrap();
        assert_eq!(meanwhile("engine_down"), 0, "{ledger}");
        // What the broker kept comes first when it is back; a hole behind that is none of the link's.
        assert_eq!(
            meanwhile("broker_away") + meanwhile("unknown"),
            missing,
            "{ledger}"
        );
        assert_eq!(meanwhile("broker_away") > 0, missing > 0, "{ledger}");
        if signal == "TERM" {
            assert_eq!(missing, 0, "a broker that is asked to end writes all down");
        }
        bench.engine.process.stop();
        eprintln!("outages: {outages} × {signal}: {sent} sent, {missing} lost and reported");
    }
}

#[test]
fn a_frozen_broker_is_given_up_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut bench) = Bench::start(dir.path(), "keep_alive = \"5s\"") else {
        return;
    };
    let connects = bench.connects();
    bench.mosquitto.signal("STOP");
    // One and a half keep-alives after it was last heard, and what a busy machine takes.
    wait_until(
        "the end of patience",
        Duration::from_secs(10),
        || match bench.engine.count("vigie_broker_connected") {
            0 => Ok(()),
            _ => Err("still connected".to_owned()),
        },
    );
    bench.mosquitto.signal("CONT");
    bench.recovered(connects);
    let (sent, stored, missing) = bench.settle();
    assert_eq!((sent - stored, missing), (0, 0), "lost and reported");
    bench.engine.process.stop();
}

/// Both sources at once: devices at the listener do not notice that the broker is gone, and the
/// other way round nothing is lost either.
#[test]
fn the_listener_goes_on_while_the_broker_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut mosquitto) = Mosquitto::start(dir.path()) else {
        return;
    };
    let [flag, config] = mosquitto.config(dir.path(), "");
    let engine = Engine::run_with(dir.path(), &["--mqtt", "127.0.0.1:0", &flag, &config]);
    engine.wait_subscribed();
    let reading = |sensor: &str, seq: u64| {
        let time_ms = now_ms();
        format!(r#"{{"id":"{sensor}","boot":"a","seq":{seq},"t":{time_ms},"temperature":21}}"#)
    };
    let mut here = Publisher::connect(engine.mqtt(), Version::V5);
    let mut there = Publisher::connect_as(mosquitto.plain, Version::V5, Some(NODE));
    for seq in 0..10 {
        here.publish(
            "sensors/H001/reading",
            reading("H001", seq).as_bytes(),
            false,
        );
        there.publish(
            "sensors/T001/reading",
            reading("T001", seq).as_bytes(),
            false,
        );
    }
    engine.wait_stored(20);

    mosquitto.down("TERM");
    wait_until("the loss of the broker", PATIENCE, || {
        match engine.count("vigie_broker_connected") {
            0 => Ok(()),
            _ => Err("still connected".to_owned()),
        }
    });
    for seq in 10..60 {
        here.publish(
            "sensors/H001/reading",
            reading("H001", seq).as_bytes(),
            false,
        );
    }
    assert_eq!(engine.ledger("stored"), 70, "acknowledged means stored");

    mosquitto.up();
    let mut there = Publisher::connect_as(mosquitto.plain, Version::V5, Some(NODE));
    for seq in 10..20 {
        there.publish(
            "sensors/T001/reading",
            reading("T001", seq).as_bytes(),
            false,
        );
    }
    engine.wait_stored(80);
    let different = stored(&engine);
    assert_eq!(different.len(), 80);
    assert!(different.values().all(|times| *times == 1), "stored twice");
    assert_eq!(engine.ledger("missing"), 0);
}
