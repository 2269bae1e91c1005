//! `kill -9` at random moments under load: nothing acknowledged is lost, nothing is stored twice,
//! and the statistics are those of a run without interruption.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::harness::{
    Engine, PATIENCE, Process, Published, acked, assert_kept, doctor, now_ms, setting, simulate,
    simulate_args, stored, wait_until,
};
use super::mosquitto::{Way, free};

const SEED: u64 = 9;
/// Readings in a second.
pub(crate) const LOAD: u32 = 2000;
const READY_WITHIN: Duration = Duration::from_secs(3);

/// What has to be the same however often the engine was killed, by sensor.
fn rows(engine: &Engine) -> Vec<(String, Vec<Value>)> {
    let fixed = ["t", "boot", "seq", "temperature", "humidity", "z", "late"];
    let row = |mut reading: Value| Value::from(fixed.map(|field| reading[field].take()).to_vec());
    engine
        .sensors()
        .into_iter()
        .map(|sensor| {
            let rows = engine.readings(&sensor).into_iter().map(row).collect();
            (sensor, rows)
        })
        .collect()
}

/// What the rules said of the readings: everything but the forest, which is grown when it is time,
/// and what no reading but only the clock on the wall told.
fn rule_results(engine: &Engine, until_ms: i64) -> Vec<Vec<Value>> {
    let fixed = [
        "sensor", "t", "rule", "quantity", "observed", "expected", "line", "ratio", "severity",
        "since",
    ];
    let mut results: Vec<Vec<Value>> = engine
        .list(
            &format!("/api/v1/anomalies?to={until_ms}"),
            "anomalies",
            1000,
        )
        .into_iter()
        .filter(|anomaly| anomaly["rule"] != "forest")
        .map(|mut anomaly| fixed.map(|field| anomaly[field].take()).to_vec())
        .collect();
    results.sort_by_key(|result| format!("{result:?}"));
    results
}

/// How many readings entered each sensor's state.
fn entered(engine: &Engine) -> Vec<(Value, Value)> {
    engine
        .list("/api/v1/sensors", "sensors", 1000)
        .into_iter()
        .map(|mut sensor| (sensor["id"].take(), sensor["readings"].take()))
        .collect()
}

#[test]
fn kill_nine_loses_nothing_doubles_nothing_and_changes_no_statistics() {
    let dir = tempfile::tempdir().unwrap();
    survives_kill_nine(dir.path(), &Way::Listener);
}

#[test]
fn kill_nine_of_a_subscriber_loses_nothing_doubles_nothing_and_changes_no_statistics() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        survives_kill_nine(dir.path(), &way);
    }
}

fn survives_kill_nine(dir: &Path, way: &Way) {
    let kills = setting("VIGIE_KILLS", 10);
    let mut random = StdRng::seed_from_u64(SEED);
    let (campaign, mut engine) = Campaign::begin(dir, way, LOAD, "");
    let mut slowest = Duration::ZERO;
    let mut begun = Instant::now();
    for kill in 0..kills {
        engine.wait_ready(READY_WITHIN);
        if kill > 0 {
            slowest = slowest.max(begun.elapsed());
        }
        // Every other time in the midst of readings, else whatever happens after the start.
        if kill % 2 == 0 {
            campaign.wait_acknowledged();
        }
        std::thread::sleep(Duration::from_millis(random.gen_range(50..=400)));
        engine.process.kill();
        begun = Instant::now();
        engine = campaign.start();
    }
    engine.wait_ready(READY_WITHIN);
    slowest = slowest.max(begun.elapsed());
    let kept = campaign.end(engine, kills, |_| {});
    eprintln!("kill: {kills} kills, {kept}, slowest restart {slowest:?}");
    assert!(
        slowest < READY_WITHIN,
        "the slowest restart took {slowest:?}"
    );
}

/// A fleet that publishes while the engine dies again and again.
pub(crate) struct Campaign<'a> {
    dir: &'a Path,
    way: &'a Way,
    args: Vec<String>,
    fleet: String,
    acked: PathBuf,
    publisher: Process,
}

impl<'a> Campaign<'a> {
    /// Starts both, with `rate` readings in a second; `more` is what the engine's config says beside.
    pub(crate) fn begin(dir: &'a Path, way: &'a Way, rate: u32, more: &str) -> (Self, Engine) {
        let fleet = format!(
            "--sensors 20 --seed {SEED} --faults spike,sentinel,stuck --fault-every 100 \
             --fault-warmup 100 --interval 1s --start {}",
            now_ms() - 6 * 86_400_000
        );
        // On a port of its own, so that the publisher finds it again. Below those that the system
        // hands out by itself: nobody takes it while the engine is away, not even the publisher
        // that tries to connect.
        let (engine, args) = (0..20)
            .find_map(|_| {
                let args = way.args(dir, &free().to_string(), more);
                match Engine::try_start(dir, &args) {
                    Ok(engine) => Some((engine, args)),
                    Err(ended) => {
                        assert!(ended.stderr.contains("--mqtt"), "{ended:#?}");
                        None
                    }
                }
            })
            .unwrap();
        if let Way::Mosquitto(_) = way {
            engine.wait_subscribed();
        }
        let load = format!("{fleet} --rate {rate} --acked acked");
        let publisher = Process::start(dir, &simulate_args(&way.door(&engine), &load));
        let campaign = Self {
            dir,
            way,
            args,
            fleet,
            acked: dir.join("acked"),
            publisher,
        };
        (campaign, engine)
    }

    /// Its config says `more` from the next start on.
    pub(crate) fn configure(&mut self, more: &str) {
        let at = self.args.iter().position(|arg| arg == "--mqtt").unwrap() + 1;
        self.args = self.way.args(self.dir, &self.args[at], more);
    }

    /// The engine again, with what it kept.
    pub(crate) fn start(&self) -> Engine {
        self.way.started(Process::start(self.dir, &self.args))
    }

    /// The engine again, until it dies where the environment says.
    pub(crate) fn until_death(&self, environment: &[(&str, &str)]) {
        let mut process = Process::start_in(self.dir, &self.args, environment);
        let code = wait_until(&format!("death by {environment:?}"), PATIENCE, || {
            let ended = process.ended();
            ended.ok_or_else(|| format!("{:?}", process.stderr()))
        });
        assert_eq!(code, -1, "{environment:?}; it said {:#?}", process.stderr());
    }

    /// Waits for acknowledgements that come from now on.
    pub(crate) fn wait_acknowledged(&self) {
        let size = || fs::metadata(&self.acked).map_or(0, |file| file.len());
        let before = size();
        wait_until("acknowledgements after the start", PATIENCE, || {
            (size() > before)
                .then_some(())
                .ok_or_else(|| format!("{before} bytes in the file of acknowledged readings"))
        });
    }

    /// Ends the publishing and checks everything: against what was acknowledged, and against a run
    /// without any death. `also` looks at the engine when all of it is stored. Gives what there was
    /// to check.
    pub(crate) fn end(
        mut self,
        mut engine: Engine,
        deaths: u32,
        also: impl FnOnce(&Engine),
    ) -> String {
        if let Way::Listener = self.way {
            wait_until("the publisher's way back", PATIENCE, || {
                let open = engine.count("vigie_mqtt_connections");
                (open > 0)
                    .then_some(())
                    .ok_or_else(|| format!("{open} connections"))
            });
        }
        let published = Published::end(&mut self.publisher);
        match self.way {
            Way::Listener => assert!(published.reconnects > 0 || deaths == 0, "{published:?}"),
            // It noticed nothing; what was under way comes again.
            Way::Mosquitto(_) => engine.wait_stored(published.sent),
        }

        let acked = acked(&self.acked);
        let stored = stored(&engine);
        assert_kept(&acked, &stored);
        assert_eq!(
            stored.len() as u64,
            published.sent,
            "readings in the store and sent; {published:?}"
        );
        also(&engine);
        // The fleet lives days ago; what the wall clock says is told at its own time.
        let until_ms = now_ms() - 86_400_000;
        let killed = (
            rows(&engine),
            entered(&engine),
            rule_results(&engine, until_ms),
        );
        engine.process.stop();
        assert_eq!(
            doctor(self.dir),
            stored.len() as u64,
            "the doctor's count and different readings"
        );

        let calm_dir = tempfile::tempdir().unwrap();
        let mut calm = Engine::run(calm_dir.path());
        let load = format!("{} --rate max --count {}", self.fleet, published.sent);
        simulate(calm_dir.path(), &calm.door(), &load);
        assert_same(&killed.0, &rows(&calm));
        assert_eq!(
            killed.1,
            entered(&calm),
            "readings that entered the state of each sensor"
        );
        assert_same_results(&killed.2, &rule_results(&calm, until_ms));
        calm.process.stop();
        format!(
            "{} readings acknowledged, {} rule results, {} reconnects",
            acked.len(),
            killed.2.len(),
            published.reconnects
        )
    }
}

/// Fails at the first difference.
fn assert_same(killed: &[(String, Vec<Value>)], calm: &[(String, Vec<Value>)]) {
    let mut spoke = 0;
    assert_eq!(killed.len(), calm.len(), "sensors");
    for ((sensor, killed), (_, calm)) in killed.iter().zip(calm) {
        assert_eq!(killed.len(), calm.len(), "readings of {sensor}");
        for (nth, (killed, calm)) in killed.iter().zip(calm).enumerate() {
            assert_eq!(
                killed, calm,
                "reading {nth} of {sensor}, with kills and without: \
                 t, boot, seq, temperature, humidity, z, late"
            );
            let z = &killed[5]["temperature"];
            spoke += u32::from(z.as_f64().is_some_and(|z| z.abs() > 0.0));
        }
    }
    assert!(spoke > 0, "no z-score to compare");
}

/// Fails at the first difference, and if there was little to compare.
fn assert_same_results(killed: &[Vec<Value>], calm: &[Vec<Value>]) {
    for rule in ["range", "rate"] {
        let told = calm.iter().filter(|result| result[2] == rule);
        assert!(told.count() > 0, "no result of the rule {rule} to compare");
    }
    assert_eq!(killed.len(), calm.len(), "rule results");
    for (killed, calm) in killed.iter().zip(calm) {
        assert_eq!(killed, calm, "a rule's result, with kills and without");
    }
}
