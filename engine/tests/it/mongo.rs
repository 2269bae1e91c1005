//! The copy in MongoDB, with real servers and real faults: whatever happens to the database or to
//! the engine, in the end each stored reading is there once, and the stream did not notice.
//!
//! `VIGIE_LOST_ANSWERS` is how many answers get lost (default 20), `VIGIE_OUTAGE_S` how long the
//! database is away (default 5 s; from 60 s on the figures have to be those of the goals),
//! `VIGIE_KILLS` how often the engine is killed (default 10).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::certificates::{Authority, Valid};
use super::fault_proxy::{Fault, FaultProxy};
use super::harness::{
    Engine, PATIENCE, Process, Published, get, now_ms, number_after, setting, simulate,
    simulate_args, stored, wait_until,
};
use super::kill::{Campaign, LOAD};
use super::mongo_server::{Brand, DATABASE, MongoServer};
use super::mosquitto::Way;
use super::mqtt::{Publisher, Version};
use super::password_door::PasswordDoor;
use super::tls_door::TlsDoor;

const DAY_MS: i64 = 86_400_000;
const RATE: u64 = 2000;

/// Arguments of an engine on free ports that copies to `uri`.
fn config(dir: &Path, uri: &str, more: &str) -> [String; 2] {
    let path = dir.join("vigie.toml");
    fs::write(&path, section(uri, more)).unwrap();
    ["--config".to_owned(), path.to_str().unwrap().to_owned()]
}

/// In tests the gate would be what is measured.
fn section(uri: &str, more: &str) -> String {
    format!("[mongodb]\nuri = \"{uri}\"\noperations_per_second = 10000\n{more}")
}

fn run(dir: &Path, uri: &str, more: &str) -> Engine {
    let [flag, path] = config(dir, uri, more);
    Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", &flag, &path])
}

/// Lines of `engine export` with the config in `dir`, and `more` arguments separated by spaces; of
/// each moment in the order of the sensors.
fn exported(dir: &Path, more: &str) -> Vec<String> {
    let mut args = vec!["export", "--data-dir", "data", "--config", "vigie.toml"];
    args.extend(more.split_whitespace());
    let said = super::harness::engine(dir, &args).expect(0, &[]).stdout;
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn progress(engine: &Engine) -> Value {
    engine.json("/api/v1/mongodb")
}

/// Waits until nothing waits any more; gives how long that took.
pub(crate) fn wait_copied(engine: &Engine, within: Duration) -> Duration {
    let begun = Instant::now();
    wait_until("the copy", within, || {
        let progress = progress(engine);
        let done = progress["waiting"] == 0
            && progress["connected"] == true
            && progress["catching_up"] == false;
        done.then_some(()).ok_or_else(|| progress.to_string())
    });
    begun.elapsed()
}

/// Fails unless MongoDB holds exactly what the store holds.
pub(crate) fn assert_same(engine: &Engine, server: &MongoServer) -> usize {
    assert_same_in(engine, server, DATABASE)
}

fn assert_same_in(engine: &Engine, server: &MongoServer, database: &str) -> usize {
    let stored: BTreeSet<String> = stored(engine)
        .into_keys()
        .map(|(sensor, boot, seq)| format!("{sensor}/{boot}/{seq}"))
        .collect();
    let documents = server.documents_of(database, "measurements");
    let copied: BTreeSet<String> = documents
        .iter()
        .map(|document| document.get_str("_id").unwrap().to_owned())
        .collect();
    assert_eq!(documents.len(), copied.len(), "readings with the same _id");
    let lost: Vec<_> = stored.difference(&copied).take(5).collect();
    let more: Vec<_> = copied.difference(&stored).take(5).collect();
    assert!(
        lost.is_empty() && more.is_empty(),
        "{} stored, {} copied; missing: {lost:?}; too many: {more:?}",
        stored.len(),
        copied.len()
    );
    // A sensor whose publisher has ended may fall silent meanwhile.
    wait_until("the anomalies in the copy", PATIENCE, || {
        let told = engine.ledger("anomalies");
        let copied = server.documents_of(database, "anomalies").len() as u64;
        let same = copied == told;
        same.then_some(())
            .ok_or_else(|| format!("{told} told, {copied} copied"))
    });
    stored.len()
}

/// A fleet of the last days, so that its time is over.
fn fleet(more: &str) -> String {
    format!(
        "--sensors 20 --seed 4 --interval 1s --faults spike,sentinel --fault-every 300 \
         --fault-warmup 100 --start {} {more}",
        now_ms() - 3 * DAY_MS
    )
}

/// Looks at an engine's memory all the time.
struct Memory {
    id: u32,
    before_mib: u64,
    ended: Arc<AtomicBool>,
    largest: JoinHandle<u64>,
}

impl Memory {
    fn of(engine: &Engine) -> Self {
        let id = engine.process.id();
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let largest = std::thread::spawn(move || {
            let mut largest = 0;
            while !end.load(Ordering::Relaxed) {
                largest = largest.max(resident_mib(id));
                std::thread::sleep(Duration::from_millis(50));
            }
            largest
        });
        Self {
            id,
            before_mib: resident_mib(id),
            ended,
            largest,
        }
    }

    /// Ends it; gives by how many MiB it was larger than at the beginning when it was largest.
    fn grown_mib(self) -> u64 {
        let last = resident_mib(self.id);
        self.ended.store(true, Ordering::Relaxed);
        let largest = self.largest.join().unwrap().max(last);
        largest.saturating_sub(self.before_mib)
    }
}

fn resident_mib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// How long the database is away. In the long form the figures have to be those of the goals; in
/// the short one other tests take the cores.
fn outage() -> (Duration, bool) {
    let seconds = setting("VIGIE_OUTAGE_S", 5);
    (Duration::from_secs(seconds.into()), seconds >= 60)
}

/// Publishes while something is wrong: acknowledgements go on.
struct Load(Process);

impl Load {
    fn start(dir: &Path, engine: &Engine) -> Self {
        let load = fleet(&format!("--rate {RATE}"));
        Self(Process::start(dir, &simulate_args(&engine.door(), &load)))
    }

    /// Ends it; everything it sent must be acknowledged.
    fn end(mut self) -> Published {
        let published = Published::end(&mut self.0);
        assert_eq!(published.reconnects, 0, "{published:?}");
        published
    }
}

#[test]
fn everything_is_copied_once_and_readable() {
    for brand in [Brand::Ferret, Brand::Java] {
        let dir = tempfile::tempdir().unwrap();
        let Some(server) = MongoServer::start(dir.path(), brand) else {
            continue;
        };
        let mut engine = run(dir.path(), &MongoServer::uri(server.addr), "");
        simulate(
            dir.path(),
            &engine.door(),
            &fleet("--rate max --count 20000"),
        );
        wait_copied(&engine, PATIENCE);
        assert_eq!(assert_same(&engine, &server), 20_000);

        // As the API shows it.
        let reading = &engine.readings("C001")[7];
        let id = format!(
            "C001/{}/{}",
            reading["boot"].as_str().unwrap(),
            reading["seq"]
        );
        let one = |collection: &'static str, id: String| {
            server.ask(async move |database| {
                let collection = database.collection::<Document>(collection);
                collection.find_one(doc! { "_id": id }).await
            })
        };
        let document = one("measurements", id).unwrap();
        assert_eq!(document.get_str("sensor_id").unwrap(), "C001");
        let time = document.get_datetime("timestamp").unwrap();
        assert_eq!(Some(time.timestamp_millis()), reading["t"].as_i64());
        for quantity in ["temperature", "humidity"] {
            let (copied, shown) = (document.get_f64(quantity), &reading[quantity]);
            assert!((copied.unwrap() - shown.as_f64().unwrap()).abs() < 1e-12);
        }
        let anomaly = server.documents("anomalies").pop().unwrap();
        for field in ["rule", "text", "severity"] {
            assert!(!anomaly.get_str(field).unwrap().is_empty(), "{anomaly}");
        }
        // The export reads it while the engine runs.
        let from_copy = |more: &str| exported(dir.path(), &format!("--from mongodb {more}"));
        let since = vigie_actors::clock::rfc3339(now_ms() - 3 * DAY_MS + 600_000);
        let some = &format!("--sensor C002 --sensor C003 --since {since}");
        let copies = ["", some, "--format ndjson"].map(from_copy);
        engine.process.stop();
        let kept = ["", some, "--format ndjson"].map(|more| exported(dir.path(), more));
        assert_eq!(copies[0][0], kept[0][0], "columns");
        assert!(kept[1].len() > 1 && kept[1].len() < kept[0].len());
        for (copies, kept) in copies.iter().zip(&kept).take(2) {
            assert_eq!(copies.len(), kept.len());
            for (copy, row) in copies.iter().zip(kept) {
                let columns = |row: &str| row.split(',').map(str::to_owned).collect::<Vec<_>>();
                let (mut copy, mut row) = (columns(copy), columns(row));
                // Of what was received within a second it is not kept when.
                copy.remove(2);
                row.remove(2);
                assert_eq!(copy, row);
            }
        }
        let read = |lines: &[String]| {
            let rows = lines.iter();
            let rows = rows.map(|line| serde_json::from_str::<Value>(line).unwrap());
            let name = |row: &Value| {
                (
                    row["sensor"].to_string(),
                    row["t"].as_i64(),
                    row["seq"].as_i64(),
                )
            };
            let mut rows: Vec<Value> = rows.collect();
            rows.sort_by_key(name);
            rows
        };
        let (copies, kept) = (read(&copies[2]), read(&kept[2]));
        assert_eq!(copies.len(), kept.len());
        for (copy, row) in copies.iter().zip(&kept) {
            for field in [
                "sensor",
                "t",
                "boot",
                "seq",
                "temperature",
                "humidity",
                "score",
                "anomaly",
            ] {
                assert_eq!(copy[field], row[field], "{field} of {copy} and {row}");
            }
        }
    }
}

#[test]
fn what_was_stored_before_is_copied_too_and_another_database_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Ferret) else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    simulate(
        dir.path(),
        &engine.door(),
        &fleet("--rate max --count 5000"),
    );
    let (status, body) = get(engine.http, "/api/v1/mongodb").unwrap();
    assert!(status == 404 && body.contains("mongodb.uri"), "{body}");
    engine.process.stop();

    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), "");
    wait_copied(&engine, PATIENCE);
    assert_eq!(assert_same(&engine, &server), 5_000);
    engine.process.stop();

    let other = "database = \"another\"\n";
    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), other);
    wait_copied(&engine, PATIENCE);
    engine.process.stop();
    let count = server.ask(async |database| {
        let another = database.client().database("another");
        let measurements = another.collection::<Document>("measurements");
        measurements.count_documents(doc! {}).await
    });
    assert_eq!(count, 5_000);
}

#[test]
fn while_the_database_is_away_the_stream_goes_on_and_the_copy_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut server) = MongoServer::start(dir.path(), Brand::Ferret) else {
        return;
    };
    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), "");
    let load = Load::start(dir.path(), &engine);
    engine.wait_stored(5 * RATE);
    let memory = Memory::of(&engine);
    // In the midst of a batch, as likely as not.
    server.kill();
    let (outage, long) = outage();
    std::thread::sleep(outage);
    assert_eq!(progress(&engine)["connected"], false);
    let (status, ready) = get(engine.http, "/readyz?verbose").unwrap();
    assert!(status == 200 && ready.contains("rows wait"), "{ready}");
    let waiting = progress(&engine)["waiting"].as_u64().unwrap();
    let taken_before = progress(&engine)["forwarded"].as_u64().unwrap();
    server.up();
    let caught_up = wait_copied_under_load(&engine);
    let drained = progress(&engine)["forwarded"].as_u64().unwrap() - taken_before;
    let published = load.end();
    wait_copied(&engine, PATIENCE);
    let grown_mib = memory.grown_mib();
    assert!(
        grown_mib <= 64,
        "{grown_mib} MiB more while it was away and when it was back"
    );
    assert_eq!(assert_same(&engine, &server) as u64, published.sent);
    let rate = drained as f64 / caught_up.as_secs_f64();
    assert!(
        !long || rate >= 3.0 * RATE as f64,
        "drained at {rate:.0}/s, which is less than three times what comes in"
    );
    eprintln!(
        "away: {waiting} rows waited, {grown_mib} MiB more, drained at {rate:.0}/s = {:.1} x ingest",
        rate / RATE as f64
    );
    engine.process.stop();
}

/// Waits until less than what comes in two seconds waits.
fn wait_copied_under_load(engine: &Engine) -> Duration {
    let begun = Instant::now();
    wait_until("the backlog", Duration::from_mins(2), || {
        let progress = progress(engine);
        let waiting = progress["waiting"].as_u64().unwrap();
        (waiting <= 2 * RATE && progress["connected"] == true)
            .then_some(())
            .ok_or_else(|| progress.to_string())
    });
    begun.elapsed()
}

#[test]
fn a_frozen_database_is_noticed_and_what_it_did_meanwhile_is_not_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Ferret) else {
        return;
    };
    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), "");
    let load = Load::start(dir.path(), &engine);
    engine.wait_stored(2 * RATE);
    server.signal("STOP");
    let frozen = Instant::now();
    wait_until("that it is noticed", PATIENCE, || {
        match progress(&engine)["connected"].as_bool() {
            Some(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let noticed = frozen.elapsed();
    let (_, long) = outage();
    assert!(
        noticed < Duration::from_secs(if long { 5 } else { 10 }),
        "noticed after {noticed:?}"
    );
    server.signal("CONT");
    let published = load.end();
    wait_copied(&engine, PATIENCE);
    assert_eq!(assert_same(&engine, &server) as u64, published.sent);
    eprintln!("frozen: noticed after {noticed:?}");
    engine.process.stop();
}

/// An engine loses some seven answers in ten seconds, so many lost answers take many engines.
#[test]
fn answers_that_get_lost_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let proxy = FaultProxy::start(server.addr);
    let wanted = u64::from(setting("VIGIE_LOST_ANSWERS", 20));
    // Few readings and many commands: each engine sends one in a second, and what gets lost again.
    let fleet = format!(
        "--sensors 10 --seed 4 --interval 500ms --rate 20 --faults spike --fault-every 300 \
         --fault-warmup 100 --start {}",
        now_ms() - 6 * DAY_MS
    );
    let engines: Vec<(String, Engine)> = (0..(wanted / 300).clamp(3, 32))
        .map(|nth| {
            let dir = dir.path().join(nth.to_string());
            fs::create_dir(&dir).unwrap();
            let database = format!("lost-{nth}");
            let more = format!("database = \"{database}\"\n");
            (database, run(&dir, &MongoServer::uri(proxy.addr), &more))
        })
        .collect();
    let begun = Instant::now();
    proxy.set(Fault::LostAnswers);
    let loads: Vec<Load> = engines
        .iter()
        .map(|(_, engine)| {
            Load(Process::start(
                dir.path(),
                &simulate_args(&engine.door(), &fleet),
            ))
        })
        .collect();
    while proxy.lost() < wanted {
        let before = proxy.lost();
        wait_until("more lost answers", PATIENCE, || match proxy.lost() {
            lost if lost > before => Ok(()),
            lost => Err(format!("{lost} of {wanted}")),
        });
    }
    let took = begun.elapsed();
    let lost = proxy.lost();
    proxy.set(Fault::CutAfter(5_000));
    wait_until("answers that are cut", PATIENCE, || {
        match proxy.lost() - lost {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    });
    let sent: u64 = loads.into_iter().map(|load| load.end().sent).sum();
    proxy.set(Fault::None);
    let mut copied = 0;
    for (database, mut engine) in engines {
        wait_copied(&engine, PATIENCE);
        copied += assert_same_in(&engine, &server, &database) as u64;
        engine.process.stop();
    }
    assert_eq!(copied, sent, "copied and acknowledged");
    eprintln!("lost answers: {lost} in {took:.0?}, {sent} rows, all copied once");
}

#[test]
fn slow_silent_closed_and_full_databases_keep_nothing_from_being_stored() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let proxy = FaultProxy::start(server.addr);
    let mut engine = run(dir.path(), &MongoServer::uri(proxy.addr), "");
    let load = Load::start(dir.path(), &engine);
    let troubled = |words: &str| {
        wait_until("its trouble", PATIENCE, || {
            let progress = progress(&engine);
            let trouble = progress["trouble"].as_str().unwrap_or_default();
            trouble
                .contains(words)
                .then_some(())
                .ok_or_else(|| progress.to_string())
        });
    };
    proxy.set(Fault::Slow(Duration::from_millis(300)));
    engine.wait_stored(engine.ledger("stored") + 2 * RATE);
    // At a tenth of its speed it is still fast enough.
    proxy.set(Fault::Tenth);
    engine.wait_stored(engine.ledger("stored") + 4 * RATE);
    wait_copied_under_load(&engine);
    proxy.set(Fault::BlackHole);
    troubled("Network Access");
    proxy.set(Fault::None);
    wait_copied_under_load(&engine);
    proxy.set(Fault::Closed);
    troubled("Network Access");
    proxy.set(Fault::None);
    wait_copied_under_load(&engine);
    proxy.set(Fault::Answer(b"", 8000));
    troubled("mongodb.max_mib");
    assert!(engine.count("vigie_mongodb_failures_total{reason=\"full\"}") > 0);
    let during = engine.ledger("stored");
    engine.wait_stored(during + RATE);
    proxy.set(Fault::None);
    // It looks again after up to a minute: nobody makes room at once.
    let published = load.end();
    wait_copied(&engine, Duration::from_secs(100));
    assert_eq!(assert_same(&engine, &server) as u64, published.sent);
    engine.process.stop();
}

#[test]
fn a_document_that_is_refused_goes_aside_alone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let proxy = FaultProxy::start(server.addr);
    proxy.set(Fault::Answer(b"BAD-1", 121));
    let mut engine = run(dir.path(), &MongoServer::uri(proxy.addr), "");
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    for seq in 0..50_u32 {
        let sensor = if seq == 20 { "BAD-1" } else { "C001" };
        let payload = format!(
            r#"{{"v":1,"id":"{sensor}","boot":"b1","seq":{seq},"t":{},"temperature":20.5}}"#,
            now_ms() - 100_000 + i64::from(seq) * 1000
        );
        publisher.publish(
            &format!("sensors/{sensor}/reading"),
            payload.as_bytes(),
            false,
        );
    }
    wait_copied(&engine, PATIENCE);
    let copied = server.documents("measurements");
    assert_eq!(copied.len(), 49, "all but the refused one");
    assert_eq!(
        engine.count("vigie_mongodb_rows_total{result=\"rejected\"}"),
        1
    );
    assert_eq!(engine.ledger("stored"), 50, "the store keeps it");
    engine.process.stop();
}

#[test]
fn kills_of_the_engine_lose_and_double_nothing_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    survives_kills(dir.path(), &Way::Listener);
}

#[test]
fn kills_of_a_subscriber_lose_and_double_nothing_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        survives_kills(dir.path(), &way);
    }
}

/// Readings in a second beside mongo-java-server, which sorts all its documents when the engine starts
/// and asks for the first and the last: with a million it takes longer than from one death to the next.
pub(crate) fn load_beside(deaths: u32) -> u32 {
    if deaths > 100 { LOAD / 4 } else { LOAD }
}

/// It always starts with the same MongoDB, or everything would be copied anew. With
/// mongo-java-server: the other one stalls now and then when its clients die in the middle.
fn survives_kills(dir: &Path, way: &Way) {
    let Some(server) = MongoServer::start(dir, Brand::Java) else {
        return;
    };
    let kills = setting("VIGIE_KILLS", 10);
    let mut random = StdRng::seed_from_u64(16);
    let text = section(&MongoServer::uri(server.addr), "");
    let (campaign, mut engine) = Campaign::begin(dir, way, load_beside(kills), &text);
    let mut while_copying = 0;
    for kill in 0..kills {
        engine.wait_ready(PATIENCE);
        // Every other time in the midst of copying, else whatever happens after the start.
        if kill % 2 == 0 {
            campaign.wait_acknowledged();
            wait_until("the first rows", PATIENCE, || {
                let progress = progress(&engine);
                let copying = progress["forwarded"] != 0;
                copying.then_some(()).ok_or_else(|| progress.to_string())
            });
            while_copying += u32::from(progress(&engine)["waiting"] != 0);
        }
        std::thread::sleep(Duration::from_millis(random.gen_range(0..=400)));
        engine.process.kill();
        engine = campaign.start();
    }
    assert!(while_copying > 0, "no kill while rows waited");
    engine.wait_ready(PATIENCE);
    let mut copied = 0;
    let kept = campaign.end(engine, kills, |engine| {
        wait_copied(engine, Duration::from_mins(2));
        copied = assert_same(engine, &server);
    });
    eprintln!(
        "kills: {kills}, {while_copying} of them while rows waited, {kept}, {copied} in the copy"
    );
}

#[test]
fn the_copy_is_kept_within_its_age_and_its_size() {
    let dir = tempfile::tempdir().unwrap();
    // FerretDB stalls now and then when many documents are removed.
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let uri = MongoServer::uri(server.addr);
    let mut engine = run(dir.path(), &uri, "");
    // Three days old, and one hour old; some 3 MiB.
    simulate(
        dir.path(),
        &engine.door(),
        &fleet("--rate max --count 2000"),
    );
    let recent = format!(
        "--sensors 200 --seed 5 --interval 40s --rate max --count 10000 --start {}",
        now_ms() - 3_600_000
    );
    simulate(dir.path(), &engine.door(), &recent);
    wait_copied(&engine, Duration::from_mins(2));
    engine.process.stop();

    let newest = |documents: &[Document]| {
        let times = documents.iter().map(|reading| {
            let time = reading.get_datetime("timestamp").unwrap();
            time.timestamp_millis()
        });
        (
            times.clone().min().unwrap(),
            times.max().unwrap(),
            documents.len(),
        )
    };
    let before = newest(&server.documents("measurements"));
    assert_eq!(before.2, 12_000);

    // It looks after the copy when it starts.
    let mut engine = run(dir.path(), &uri, "keep = \"1d\"\n");
    engine.wait_stored(0);
    wait_until("that the old ones go", PATIENCE, || {
        let (oldest, _, count) = newest(&server.documents("measurements"));
        (oldest > now_ms() - DAY_MS - 60_000 && count == 10_000)
            .then_some(())
            .ok_or_else(|| format!("{count} readings, the oldest of {oldest}"))
    });
    engine.process.stop();

    let mut engine = run(dir.path(), &uri, "max_mib = 1\n");
    let used = wait_until("that it is small enough", Duration::from_mins(2), || {
        let progress = progress(&engine);
        match progress["used_bytes"].as_u64() {
            Some(used) if used <= 1 << 20 => Ok(used),
            _ => Err(progress.to_string()),
        }
    });
    let after = newest(&server.documents("measurements"));
    assert_eq!(after.1, before.1, "the newest stays");
    assert!(
        after.2 > 1_000 && after.2 < 10_000,
        "{} readings left of {used} bytes",
        after.2
    );
    engine.process.stop();
}

#[test]
fn the_size_is_kept_while_what_was_stored_before_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    simulate(
        dir.path(),
        &engine.door(),
        &fleet("--rate max --count 30000"),
    );
    engine.process.stop();

    // Some 8 MiB, in one round; slowly, so that it is seen.
    let text = format!(
        "[mongodb]\nuri = \"{}\"\noperations_per_second = 20\nmax_mib = 1\n",
        MongoServer::uri(server.addr)
    );
    fs::write(dir.path().join("vigie.toml"), text).unwrap();
    let more = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut engine = Engine::run_with(dir.path(), &more);
    wait_until("that something is removed", PATIENCE, || {
        match engine.count("vigie_mongodb_removed_total") {
            0 => Err(progress(&engine).to_string()),
            _ => Ok(()),
        }
    });
    let progress = progress(&engine);
    assert_eq!(progress["catching_up"], true, "{progress}");
    engine.process.stop();
}

#[test]
fn an_old_collection_is_imported_once_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let begun_ms = now_ms() - 3 * DAY_MS;
    let fill = |from: i64, to: i64| {
        server.ask(async |database| {
            let documents: Vec<Document> = (from..to)
                .map(|nth| {
                    let time = mongodb::bson::DateTime::from_millis(begun_ms + nth * 10_000);
                    let temp = if nth == 7 {
                        f64::NAN
                    } else {
                        20.0 + (nth % 10) as f64
                    };
                    doc! {
                        "device": format!("C00{}", nth % 3), "when": time, "temp": temp,
                        "humidity": 40, "z_score": 0.5, "anomaly": false,
                    }
                })
                .collect();
            let collection = database.collection::<Document>("readings");
            collection.insert_many(documents).await.map(|_| ())
        });
    };
    let import = || {
        let [flag, path] = config(dir.path(), &MongoServer::uri(server.addr), "");
        let args = [
            "import",
            "mongo",
            "--collection",
            "readings",
            "--sensor",
            "device",
            "--time",
            "when",
            "--value",
            "temperature=temp",
            "--data-dir",
            "data",
            &flag,
            &path,
        ];
        super::harness::engine(dir.path(), &args)
            .expect(0, &[])
            .stdout
    };
    fill(0, 2500);
    let said = import();
    assert!(
        said.contains("stored 2499 (late 0), duplicate 0, quarantined 1"),
        "{said}"
    );
    fill(2500, 3000);
    let said = import();
    assert!(said.contains("stored 500 (late 0), duplicate 0"), "{said}");

    let mut engine = Engine::run(dir.path());
    let readings = engine.readings("C001");
    assert_eq!(readings.len(), 999);
    assert_eq!(readings[0]["t"].as_i64(), Some(begun_ms + 10_000));
    assert_eq!(readings[0]["temperature"].as_f64(), Some(21.0));
    assert_eq!(readings[0]["humidity"].as_f64(), Some(40.0));
    engine.process.stop();

    let nowhere = ["export", "--from", "mongodb", "--data-dir", "data"];
    super::harness::engine(dir.path(), &nowhere).expect(1, &["mongodb.uri"]);
    let nowhere = [
        "import",
        "mongo",
        "--collection",
        "readings",
        "--data-dir",
        "data",
    ];
    super::harness::engine(dir.path(), &nowhere).expect(1, &["mongodb.uri"]);
}

/// `_id` of each type that programs use, and what they are compared with are only their like.
#[test]
fn an_import_that_is_killed_goes_on_and_reads_every_document_once() {
    for brand in [Brand::Java, Brand::Ferret] {
        let dir = tempfile::tempdir().unwrap();
        let Some(server) = MongoServer::start(dir.path(), brand) else {
            continue;
        };
        let begun_ms = now_ms() - 3 * DAY_MS;
        let time = |ms: i64| mongodb::bson::DateTime::from_millis(begun_ms + ms);
        let each = 1300;
        let types = 4;
        server.ask(async |database| {
            let collection = database.collection::<Document>("old");
            for kind in 0..types {
                let documents = (0..each).map(|nth: i32| {
                    let id = match kind {
                        0 if nth % 2 == 0 => Bson::Int32(nth),
                        0 => Bson::Double(f64::from(nth) + 0.5),
                        1 => Bson::String(format!("{nth:05}")),
                        2 => Bson::ObjectId(ObjectId::new()),
                        _ => Bson::DateTime(time(nth.into())),
                    };
                    let ms = i64::from(kind * each + nth) * 1000;
                    doc! {
                        "_id": id, "sensor_id": "C001", "temperature": 20.0,
                        "timestamp": time(ms),
                    }
                });
                collection.insert_many(documents).await?;
            }
            Ok(())
        });
        let proxy = FaultProxy::start(server.addr);
        proxy.set(Fault::Slow(Duration::from_millis(100)));
        let [flag, path] = config(dir.path(), &MongoServer::uri(proxy.addr), "");
        let args = [
            "import",
            "mongo",
            "--collection",
            "old",
            "--data-dir",
            "data",
            &flag,
            &path,
        ];
        let mut process = Process::start(dir.path(), &args);
        // Of the pages before that it is known that they are read.
        wait_until("the third page", PATIENCE, || match proxy.finds() {
            finds if finds >= 3 => Ok(()),
            finds => Err(format!("{finds} asked for")),
        });
        process.kill();
        proxy.set(Fault::None);
        let all = u64::try_from(types * each).unwrap();
        let said = super::harness::engine(dir.path(), &args)
            .expect(0, &[])
            .stdout;
        let number = |mark| number_after(&said, mark);
        let again = number("stored ") + number("duplicate ") + number("quarantined ");
        assert!(again > 0 && again <= all - 2000, "{all} of them; {said}");

        let mut engine = Engine::run(dir.path());
        let readings = engine.readings("C001");
        let times: BTreeSet<i64> = readings
            .iter()
            .map(|it| it["t"].as_i64().unwrap())
            .collect();
        assert_eq!(
            (readings.len() as u64, times.len() as u64),
            (all, all),
            "{said}"
        );
        engine.process.stop();

        // Another server, or another database, is another collection.
        let other = MongoServer::uri(proxy.addr).replace(DATABASE, "elsewhere");
        server.ask(async |database| {
            let elsewhere = database.client().database("elsewhere");
            let reading = doc! {
                "_id": 1, "sensor_id": "C002", "temperature": 20.0,
                "timestamp": time(0),
            };
            elsewhere
                .collection::<Document>("old")
                .insert_one(reading)
                .await
                .map(|_| ())
        });
        config(dir.path(), &other, "");
        let said = super::harness::engine(dir.path(), &args)
            .expect(0, &[])
            .stdout;
        assert!(said.contains("stored 1 "), "{said}");
    }
}

#[test]
fn a_database_behind_tls_is_trusted_only_by_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let authority = Authority::new(dir.path(), "authority");
    let stranger = Authority::new(dir.path(), "stranger");
    let right = authority.server("right", &["localhost"], Valid::Now);
    let elsewhere = authority.server("elsewhere", &["db.example"], Valid::Now);
    let door = TlsDoor::start(server.addr, &right);
    let wrong_door = TlsDoor::start(server.addr, &elsewhere);
    let uri = |door: &TlsDoor, authority: &Authority| {
        format!(
            "mongodb://localhost:{}/{DATABASE}?tls=true&tlsCAFile={}",
            door.addr.port(),
            authority.file.display()
        )
    };
    for (uri, what) in [
        (uri(&door, &stranger), "UnknownIssuer"),
        (uri(&wrong_door, &authority), "db.example"),
    ] {
        let mut engine = run(dir.path(), &uri, "");
        if what == "UnknownIssuer" {
            simulate(dir.path(), &engine.door(), &fleet("--rate max --count 200"));
        }
        let trouble = wait_until("its trouble", PATIENCE, || {
            let progress = progress(&engine);
            let trouble = progress["trouble"].as_str().map(str::to_owned);
            trouble.ok_or_else(|| progress.to_string())
        });
        for words in [what, "tlsCAFile"] {
            assert!(trouble.contains(words), "{words:?} in {trouble}");
        }
        assert!(engine.count("vigie_mongodb_failures_total{reason=\"certificate\"}") > 0);
        engine.process.stop();
    }
    let mut engine = run(dir.path(), &uri(&door, &authority), "");
    wait_copied(&engine, PATIENCE);
    assert_eq!(assert_same(&engine, &server), 200);
    engine.process.stop();
}

/// Wrong or missing, nothing waits for it, and everything is copied when it is right.
#[test]
fn a_database_with_a_password_is_entered_with_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let door = PasswordDoor::start(server.addr, "vigie", "p@ss/word");
    let uri = |who: &str| {
        let options = "authMechanism=SCRAM-SHA-256&authSource=admin";
        let options = if who.is_empty() { "" } else { options };
        format!("mongodb://{who}{}/{DATABASE}?{options}", door.addr)
    };
    let mut boot = 0;
    for wrong in ["", "vigie:p%40ss%2Fwrong@", "else:p%40ss%2Fword@"] {
        let mut engine = run(dir.path(), &uri(wrong), "");
        boot += 1;
        let load = format!("--rate max --count 100 --boot life{boot}");
        simulate(dir.path(), &engine.door(), &fleet(&load));
        let trouble = wait_until("its trouble", PATIENCE, || {
            let progress = progress(&engine);
            let trouble = progress["trouble"].as_str().map(str::to_owned);
            trouble.ok_or_else(|| progress.to_string())
        });
        assert!(trouble.contains("mongodb.uri"), "{trouble}");
        assert!(engine.count("vigie_mongodb_failures_total{reason=\"denied\"}") > 0);
        let said = engine.process.stderr().join("\n");
        assert!(!said.contains("p%40ss") && !said.contains("p@ss"), "{said}");
        engine.process.stop();
    }
    let mut engine = run(dir.path(), &uri("vigie:p%40ss%2Fword@"), "");
    wait_copied(&engine, PATIENCE);
    assert_eq!(assert_same(&engine, &server), 300);
    engine.process.stop();
}

#[test]
fn documents_of_another_program_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    server.ask(async |database| {
        let foreign = database.collection::<Document>("measurements");
        let ancient = mongodb::bson::DateTime::from_millis(0);
        foreign
            .insert_one(doc! { "timestamp": ancient, "temperature": 20.0 })
            .await
            .map(|_| ())
    });
    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), "");
    simulate(dir.path(), &engine.door(), &fleet("--rate max --count 100"));
    let trouble = wait_until("its trouble", PATIENCE, || {
        let progress = progress(&engine);
        progress["trouble"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| progress.to_string())
    });
    assert!(trouble.contains("mongodb.database"), "{trouble}");
    assert_eq!(server.documents("measurements").len(), 1);
    engine.process.stop();

    let other = "database = \"cellar\"\n";
    let mut engine = run(dir.path(), &MongoServer::uri(server.addr), other);
    wait_copied(&engine, PATIENCE);
    engine.process.stop();
}
