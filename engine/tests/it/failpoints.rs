//! The engine dies at each of the places where it matters, again and again, under load: nothing
//! acknowledged is lost, nothing is stored or copied twice, and what it finds is what a run without
//! any death finds.
//!
//! `VIGIE_FAILPOINTS` is how often at each place (default 1). A place is named where the code calls
//! `failpoint::pass`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::harness::{
    Engine, PATIENCE, Process, RUN, doctor, now_ms, package_file, setting, simulate, wait_until,
};
use super::keep::{assert_rolled_up, hours};
use super::kill::{Campaign, LOAD};
use super::mongo::{assert_same, load_beside, wait_copied};
use super::mongo_server::{Brand, MongoServer};
use super::mosquitto::Way;

/// A place, and up to which passage there the death may wait.
type Place = (&'static str, u32);

/// Between the batch's way in and its answer.
const STREAM: &[Place] = &[
    ("store.opened", 1),
    ("stats.recalled", 20),
    ("store.commit", 100),
    ("store.snapshot", 5),
    ("store.committed", 100),
    ("store.answered", 100),
    ("ingest.answered", 100),
];
/// A notice that was delivered and is still in the outbox is delivered again: there is always one.
const ALERTER: &[Place] = &[("alert.delivered", 1)];
const LISTENER: &[Place] = &[("listener.puback", 50), ("listener.acknowledged", 50)];
const BROKER: &[Place] = &[("broker.puback", 50), ("broker.acknowledged", 500)];
const FORWARDER: &[Place] = &[
    ("forward.insert", 3),
    ("forward.inserted", 3),
    ("forward.removed", 3),
];
const KEEPER: &[Place] = &[("keeper.rolled_up", 3), ("keeper.remove", 1)];
/// What is removed may stay removed over the death, so it happens once.
const REMOVED: &str = "keeper.removed";
/// There is little that was stored before there was a MongoDB, so this happens once, at the beginning.
const BACKLOG: &str = "forward.backlog";

/// A MongoDB that is taken out of the config happens once.
const UNMIRROR: [&str; 2] = ["forward.unmirror", "forward.unmirrored"];

fn times() -> u32 {
    setting("VIGIE_FAILPOINTS", 1)
}

/// Dies at each of the places, so many times, at passages that differ.
fn dies(places: &[Place], mut die: impl FnMut(&str)) -> u32 {
    let mut random = StdRng::seed_from_u64(12);
    let mut deaths = 0;
    for (place, latest) in places {
        for _ in 0..times() {
            die(&format!("{place}@{}", random.gen_range(1..=*latest)));
            deaths += 1;
        }
    }
    deaths
}

fn survives(dir: &Path, way: &Way, server: Option<&MongoServer>, places: &[Place]) {
    let planned = times() * u32::try_from(places.len()).unwrap();
    let rate = server.map_or(LOAD, |_| load_beside(planned));
    // What is stored before there is a MongoDB is a backlog. A broker acknowledges before that.
    let (mut campaign, mut engine) = Campaign::begin(dir, way, rate, "");
    engine.wait_stored(1);
    engine.process.kill();
    if let Some(server) = server {
        let uri = MongoServer::uri(server.addr);
        // In tests the gate would be what is measured.
        campaign.configure(&format!(
            "[mongodb]\nuri = \"{uri}\"\noperations_per_second = 10000\n"
        ));
    }
    let die = |at: &str| campaign.until_death(&[("VIGIE_FAILPOINT", at)]);
    if server.is_some() {
        die(&format!("{BACKLOG}@1"));
    }
    let deaths = dies(places, die);
    let engine = campaign.start();
    let kept = campaign.end(engine, deaths, |engine| {
        wait_until("an empty outbox", PATIENCE, || {
            match engine.count("vigie_notices_waiting") {
                0 => Ok(()),
                waiting => Err(format!("{waiting} notices wait")),
            }
        });
        if let Some(server) = server {
            wait_copied(engine, Duration::from_mins(2));
            assert_same(engine, server);
        }
    });
    eprintln!(
        "failpoints: {deaths} deaths at {} places, {kept}",
        places.len()
    );
}

#[test]
fn dying_anywhere_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    survives(
        dir.path(),
        &Way::Listener,
        None,
        &[ALERTER, STREAM, LISTENER].concat(),
    );
}

#[test]
fn a_subscriber_that_dies_anywhere_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        survives(dir.path(), &way, None, &[BROKER, STREAM].concat());
    }
}

/// With mongo-java-server: the other one stalls now and then when its clients die in the middle.
#[test]
fn dying_anywhere_loses_and_doubles_nothing_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    let places = [FORWARDER, STREAM, LISTENER].concat();
    survives(dir.path(), &Way::Listener, Some(&server), &places);
}

#[test]
fn a_subscriber_that_dies_anywhere_loses_and_doubles_nothing_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MongoServer::start(dir.path(), Brand::Java) else {
        return;
    };
    if let Some(way) = Way::mosquitto(dir.path()) {
        let places = [FORWARDER, BROKER, STREAM].concat();
        survives(dir.path(), &way, Some(&server), &places);
    }
}

/// Rows that waited for a MongoDB that is taken out of the config, and what is there when it is named
/// again.
#[test]
fn dying_while_mongodb_is_given_up_loses_nothing_in_the_copy() {
    for place in UNMIRROR {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut server) = MongoServer::start(dir.path(), Brand::Java) else {
            return;
        };
        let addr = "127.0.0.1:0";
        let args = |more: &str| Way::Listener.args(dir.path(), addr, more);
        let mirrored = format!("[mongodb]\nuri = \"{}\"\n", MongoServer::uri(server.addr));
        server.kill();
        let mut engine = Engine::try_start(dir.path(), &args(&mirrored)).unwrap_or_else(|ended| {
            panic!("{ended:#?}");
        });
        let fleet = format!("--rate max --count 300 --start {}", now_ms() - 86_400_000);
        simulate(dir.path(), &engine.door(), &fleet);
        engine.process.kill();

        let at = format!("{place}@1");
        let environment = [("VIGIE_FAILPOINT", at.as_str())];
        let mut process = Process::start_in(dir.path(), &args(""), &environment);
        assert_eq!(process.wait(PATIENCE), -1, "{place}");

        server.up();
        let mut engine = Engine::try_start(dir.path(), &args(&mirrored)).unwrap_or_else(|ended| {
            panic!("{ended:#?}");
        });
        wait_copied(&engine, PATIENCE);
        assert_eq!(assert_same(&engine, &server), 300, "{place}");
        engine.process.stop();
    }
}

#[test]
fn a_keeper_that_dies_anywhere_removes_nothing_that_is_not_rolled_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let day_ms = 86_400_000;
    let begun_ms = now_ms() - 10 * day_ms;
    let mut engine = Engine::run_with(
        path,
        &["--mqtt", "127.0.0.1:0", "--config", &config(path, "")],
    );
    let fleet =
        format!("--sensors 3 --seed 6 --interval 300s --rate max --count 8000 --start {begun_ms}");
    simulate(path, &engine.door(), &fleet);
    let all = ["C001", "C002", "C003"].map(|id| (id, engine.readings(id)));
    engine.process.kill();

    let config = config(path, "[store]\nkeep = \"8d\"\n");
    let args = [&RUN[..], &["--config", &config]].concat();
    let mut die = |at: &str| {
        let mut process = Process::start_in(path, &args, &[("VIGIE_FAILPOINT", at)]);
        let code = wait_until("its death", PATIENCE, || {
            let ended = process.ended();
            ended.ok_or_else(|| format!("{:?}", process.stderr()))
        });
        assert_eq!(code, -1, "{at}: {:?}", process.stderr());
    };
    let deaths = dies(KEEPER, &mut die) + 1;
    die(&format!("{REMOVED}@1"));
    let mut engine = Engine::start(path, &args);
    for (sensor, readings) in &all {
        // Whichever of its lives rolled them up.
        wait_until("all hours", PATIENCE, || {
            let (found, wanted) = (hours(&engine, sensor).len(), hours_of(readings));
            (found == wanted)
                .then_some(())
                .ok_or_else(|| format!("{found} of {wanted}"))
        });
        let left = wait_until("that the old ones go", PATIENCE, || {
            let left = engine.readings(sensor);
            let time = |reading: &Value| reading["t"].as_i64().unwrap();
            let oldest = time(readings.last().unwrap()) - 8 * day_ms - 3_600_000;
            (time(&left[0]) >= oldest)
                .then_some(left.clone())
                .ok_or_else(|| format!("{} of {} left", left.len(), readings.len()))
        });
        assert_eq!(left, readings[readings.len() - left.len()..], "{sensor}");
        assert_rolled_up(&hours(&engine, sensor), readings);
    }
    let left = engine.ledger("stored");
    assert_eq!(left, 8000, "the ledger counts what was removed as well");
    engine.process.stop();
    doctor(path);
    eprintln!("failpoints: {deaths} deaths of the Keeper");
}

/// In how many hours they are.
fn hours_of(readings: &[Value]) -> usize {
    let hours = readings
        .iter()
        .map(|reading| reading["t"].as_i64().unwrap() / 3_600_000);
    hours.collect::<BTreeSet<_>>().len()
}

/// Readings of the last month are taken.
fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("vigie.toml");
    fs::write(&path, format!("[payload]\noldest = \"30d\"\n{more}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every place in the code is one of those above.
#[test]
fn no_place_is_left_out() {
    fn collect(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, names);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let calls = text.split("failpoint::pass(\"").skip(1);
            names.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    let mut names = BTreeSet::new();
    collect(&package_file("../actors/src"), &mut names);
    let known = [ALERTER, STREAM, LISTENER, BROKER, FORWARDER, KEEPER].concat();
    let known = known
        .iter()
        .map(|(name, _)| *name)
        .chain([REMOVED, BACKLOG])
        .chain(UNMIRROR);
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    assert_eq!(names, known);
}
