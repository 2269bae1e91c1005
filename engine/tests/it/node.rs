//! Software nodes, which are the firmware's core on a PC, against the engine and against mosquitto:
//! whom they trust, and that no reading is lost, doubled or out of order whatever happens between.
//!
//! `./test.sh` builds the node first; without it a run by hand says so.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::certificates::{Authority, Identity, Valid};
use super::foreign::is_there;
use super::harness::{
    Engine, PATIENCE, Process, engine, now_ms, number_after, package_file, setting, stored,
    text_of, wait_until,
};
use super::mosquitto::{Mosquitto, NODE, Way};

/// The built node. `None`: it is not there; in CI it has to be.
fn program() -> Option<PathBuf> {
    let built = package_file("../firmware/target/debug/node-host");
    let there = built.exists();
    assert!(
        there || std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing; ./test.sh builds it",
        built.display()
    );
    if !there {
        eprintln!("skipped: needs cargo build -p node-host in firmware/");
    }
    there.then_some(built)
}

/// A node's config.
struct NodeFile {
    broker: String,
    more: String,
    interval: &'static str,
}

impl NodeFile {
    /// For a broker at this port of localhost, in the clear.
    fn plain(port: u16) -> Self {
        Self {
            broker: format!("host = \"localhost\"\nport = {port}\ntls = false\n"),
            more: String::new(),
            interval: "100ms",
        }
    }

    /// For one with TLS, whose certificates this authority signs.
    fn tls(host: &str, port: u16, ca: &Path) -> Self {
        let ca = ca.display();
        Self {
            broker: format!("host = \"{host}\"\nport = {port}\nca_file = \"{ca}\"\n"),
            ..Self::plain(port)
        }
    }

    fn write(&self, dir: &Path, name: &str) -> String {
        let Self {
            broker,
            more,
            interval,
        } = self;
        let text = format!(
            "id = \"{name}\"\ninterval = \"{interval}\"\n{more}\n[broker]\n{broker}\n\
             [[sensor]]\nkind = \"generated\"\n"
        );
        let file = format!("{name}.toml");
        fs::write(dir.join(&file), text).unwrap();
        file
    }
}

fn start(program: &Path, dir: &Path, config: &str, more: &str) -> Process {
    let mut args = vec!["--config", config, "--hasty"];
    args.extend(more.split_whitespace());
    Process::start_program(program, dir, &args, Stdio::null())
}

/// Waits for its end, which is a good one.
fn finish(mut node: Process, within: Duration) -> Process {
    let code = node.wait(within);
    assert_eq!(code, 0, "{:?}", node.stderr());
    node
}

// ---- Whom a node trusts ----

/// What is wrong with a certificate, and what the node says of it; nothing: it is accepted.
fn certificates(
    authority: &Authority,
    stranger: &Authority,
) -> Vec<(&'static str, Identity, Option<&'static str>)> {
    let here = ["localhost"];
    vec![
        ("ECDSA", authority.server("good", &here, Valid::Now), None),
        ("RSA", authority.rsa_server("rsa", &here), None),
        (
            "wrong host",
            authority.server("elsewhere", &["broker.example"], Valid::Now),
            Some("for another host"),
        ),
        (
            "wrong authority",
            stranger.server("strange", &here, Valid::Now),
            Some("not signed by a trusted authority"),
        ),
        (
            "expired",
            authority.server("old", &here, Valid::Expired),
            Some("has expired"),
        ),
        (
            "not yet valid",
            authority.server("early", &here, Valid::NotYet),
            Some("not valid yet"),
        ),
        (
            "through a leaf",
            authority.through_a_leaf("grandchild", &here),
            Some("not signed by a trusted authority"),
        ),
    ]
}

/// Runs a node until its reading is acknowledged, or until it has said why not.
fn judge(program: &Path, dir: &Path, config: &str, what: &str, refused: Option<&str>) {
    let Some(words) = refused else {
        let node = start(program, dir, config, "--count 1");
        finish(node, PATIENCE);
        return;
    };
    let mut node = start(program, dir, config, "");
    wait_until(&format!("{what}: {words:?}"), PATIENCE, || {
        let said = node.stderr().join("\n");
        if said.contains(words) {
            Ok(())
        } else {
            Err(said)
        }
    });
    let said = node.stderr().join("\n");
    assert!(!said.contains("connected"), "{what}: {said}");
    node.stop();
}

#[test]
fn a_node_trusts_the_right_broker_and_says_what_is_wrong_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(program), Some(mut mosquitto)) = (program(), Mosquitto::start(dir.path())) else {
        return;
    };
    let stranger = Authority::new(dir.path(), "stranger");
    let mut file = NodeFile::tls("localhost", mosquitto.tls.port(), &mosquitto.authority.file);
    let without_password = file.broker.clone();
    file.broker += &format!("user = \"{}\"\npassword = \"{}\"\n", NODE.0, NODE.1);
    let config = file.write(dir.path(), "C001");
    let cases = certificates(&mosquitto.authority, &stranger);
    for (what, identity, refused) in cases {
        mosquitto.down("TERM");
        mosquitto.speak(Some(&identity));
        mosquitto.up();
        judge(&program, dir.path(), &config, what, refused);
    }
    // A wrong password comes back in words, and the password does not.
    mosquitto.down("TERM");
    mosquitto.speak(Some(&mosquitto.identity));
    mosquitto.up();
    file.broker = format!("{without_password}user = \"node\"\npassword = \"canary-pass\"\n");
    let config = file.write(dir.path(), "C002");
    let words = "not authorized: wrong user or password";
    let mut node = start(&program, dir.path(), &config, "");
    wait_until("the refusal in words", PATIENCE, || {
        let said = node.stderr().join("\n");
        if said.contains(words) {
            Ok(())
        } else {
            Err(said)
        }
    });
    node.stop();
    assert!(!node.stderr().join("\n").contains("canary"));
}

#[test]
fn a_node_trusts_the_right_engine_and_says_what_is_wrong_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let authority = Authority::new(dir.path(), "ca");
    let stranger = Authority::new(dir.path(), "stranger");
    for (what, identity, refused) in certificates(&authority, &stranger) {
        let config = format!(
            "[listener]\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            identity.cert.display(),
            identity.key.display()
        );
        fs::write(dir.path().join("vigie.toml"), config).unwrap();
        // An engine with a certificate that has no date now starts all the same: it may be mended.
        let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
        let mut engine = Engine::run_with(dir.path(), &args);
        let file = NodeFile::tls("localhost", engine.mqtt().port(), &authority.file);
        let config = file.write(dir.path(), "C001");
        judge(&program, dir.path(), &config, what, refused);
        engine.process.stop();
    }
}

// ---- Whatever happens in between ----

const PASS: u8 = 0;
const FROZEN: u8 = 1;
const REFUSED: u8 = 2;

/// Passes bytes on between nodes and an engine that may move, until it is told not to.
struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: AtomicU8,
    upstream: Mutex<SocketAddr>,
    open: Mutex<Vec<TcpStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(PASS),
            upstream: Mutex::new(upstream),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.serve(client);
            }
        });
        Self { addr, shared }
    }

    fn mode(&self, mode: u8) {
        self.shared.mode.store(mode, Ordering::SeqCst);
    }

    /// Breaks every connection, whatever is on its way.
    fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
    }

    fn moves_to(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, client: TcpStream) {
        if self.mode.load(Ordering::SeqCst) == REFUSED {
            return;
        }
        let upstream = *lock(&self.upstream);
        let Ok(server) = TcpStream::connect(upstream) else {
            return;
        };
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        lock(&self.open).extend([clone(&client), clone(&server)]);
        for (from, to) in [(clone(&client), clone(&server)), (server, client)] {
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.pass(from, &to));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: &TcpStream) {
        let mut bytes = [0; 4096];
        while let Ok(length) = from.read(&mut bytes) {
            while self.mode.load(Ordering::SeqCst) == FROZEN {
                std::thread::sleep(Duration::from_millis(20));
            }
            if length == 0 || to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _gone_already = to.shutdown(Shutdown::Both);
        let _gone_already = from.shutdown(Shutdown::Both);
    }
}

/// How many readings of each sensor there are by boot, each once and none left out from 0 on, in
/// the order in which they were taken.
fn whole(engine: &Engine) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for ((sensor, boot, seq), times) in stored(engine) {
        assert_eq!(times, 1, "{sensor} {boot} {seq}");
        let next = counts.entry((sensor.clone(), boot.clone())).or_insert(0);
        assert_eq!(seq, *next, "a gap of {sensor} in boot {boot}");
        *next += 1;
    }
    for sensor in engine.sensors() {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for reading in engine.readings(&sensor) {
            let boot = text_of(&reading["boot"]);
            let seq = reading["seq"].as_u64().unwrap();
            let before = last.insert(boot, seq);
            assert!(
                before.is_none_or(|before| before < seq),
                "{sensor}: {seq} after {before:?}"
            );
        }
    }
    let mut sums = BTreeMap::new();
    for ((sensor, _), count) in counts {
        *sums.entry(sensor).or_insert(0) += count;
    }
    sums
}

#[test]
fn every_reading_arrives_once_and_in_order_through_cuts_kills_and_freezes() {
    const NODES: usize = 20;
    const INTERVAL_MS: u64 = 100;
    let seconds = u64::from(setting("VIGIE_NODE_CHAOS_S", 25));
    let taken = seconds * 1_000 / INTERVAL_MS;
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    let link = Link::to(engine.mqtt());
    let mut file = NodeFile::plain(link.addr.port());
    assert_eq!(file.interval, format!("{INTERVAL_MS}ms"));
    let load = format!("--nodes {NODES} --take {taken} --count {taken}");
    let begun = Instant::now();
    let with_time = start(&program, dir.path(), &file.write(dir.path(), "T"), &load);
    // Nobody answers there: these never know the time.
    file.more = "ntp = [\"127.0.0.1:9\"]".to_owned();
    let load = format!("{load} --sntp --seed 2");
    let without = start(&program, dir.path(), &file.write(dir.path(), "U"), &load);

    let mut chance = StdRng::seed_from_u64(8);
    let within = Duration::from_millis(1200);
    let mut faults = 0;
    // Each kind at least twice, and until the last reading is taken.
    while faults < 10 || begun.elapsed() < Duration::from_secs(seconds) {
        let fault = if faults < 10 {
            faults % 5
        } else {
            chance.gen_range(0..5)
        };
        faults += 1;
        std::thread::sleep(Duration::from_millis(chance.gen_range(200..1200)));
        match fault {
            0 => link.cut(),
            // Longer than the nodes are patient.
            1 => {
                link.mode(FROZEN);
                std::thread::sleep(Duration::from_millis(2500));
                link.mode(PASS);
            }
            2 => {
                link.mode(REFUSED);
                link.cut();
                std::thread::sleep(within);
                link.mode(PASS);
            }
            3 => {
                engine.process.kill();
                link.cut();
                engine = Engine::run(dir.path());
                link.moves_to(engine.mqtt());
            }
            // Shorter than that.
            _ => {
                link.mode(FROZEN);
                std::thread::sleep(Duration::from_millis(300));
                link.mode(PASS);
                link.cut();
            }
        }
    }
    for node in [with_time, without] {
        let node = finish(node, Duration::from_mins(2));
        let said = node.stderr().join("\n");
        let total = taken * NODES as u64;
        assert!(
            said.contains(&format!(
                "acknowledged {total} of {total} readings, dropped 0"
            )),
            "{said}"
        );
        assert!(number_after(&said, "connects ") > NODES as u64);
    }
    let late = engine.text("/api/v1/ledger/sensors");
    assert_eq!(engine.ledger("late"), 0, "{late}");
    let sums = whole(&engine);
    assert_eq!(sums.len(), 2 * NODES);
    assert!(sums.values().all(|count| *count == taken), "{sums:?}");
    eprintln!(
        "chaos: {} readings in {:.0} s, {faults} faults",
        2 * NODES as u64 * taken,
        begun.elapsed().as_secs_f64()
    );
    engine.process.stop();
}

/// How many readings of each life of each node there are, the lives in the order of their times.
fn lives(engine: &Engine) -> BTreeMap<String, Vec<u64>> {
    let of = |sensor: &String| {
        let mut boots: Vec<(String, u64)> = Vec::new();
        for reading in engine.readings(sensor) {
            let boot = text_of(&reading["boot"]);
            match boots.iter_mut().find(|(known, _)| *known == boot) {
                Some((_, count)) => *count += 1,
                None => boots.push((boot, 1)),
            }
        }
        boots.into_iter().map(|(_, count)| count).collect()
    };
    let sensors = engine.sensors();
    sensors
        .into_iter()
        .map(|sensor| (sensor.clone(), of(&sensor)))
        .collect()
}

#[test]
fn a_node_that_is_killed_loses_nothing_that_it_kept() {
    const NODES: usize = 8;
    const INTERVAL_MS: u64 = 100;
    // A busy machine may keep a node from reading for so long.
    const SLACK_MS: u64 = 700;
    const LAST: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    let link = Link::to(engine.mqtt());
    let file = NodeFile::plain(link.addr.port());
    let config = file.write(dir.path(), "C001");
    let load = format!("--flash flash --nodes {NODES}");
    let mut chance = StdRng::seed_from_u64(9);
    let mut expected = Vec::new();
    for kill in 0..setting("VIGIE_NODE_KILLS", 5) {
        // Every other life is without a broker: what it takes waits in flash.
        link.mode(if kill % 2 == 0 { REFUSED } else { PASS });
        let mut node = start(&program, dir.path(), &config, &load);
        // A node takes its first reading before it says anything.
        wait_until("a word of each node", PATIENCE, || {
            let said = node.stderr();
            let spoke = |nth: usize| {
                let name = format!("C001-{nth:04}: ");
                said.iter().any(|line| line.starts_with(&name))
            };
            if (0..NODES).all(spoke) {
                Ok(())
            } else {
                Err(said.join("\n"))
            }
        });
        let lived_ms = chance.gen_range(800..2_500);
        std::thread::sleep(Duration::from_millis(lived_ms));
        assert_eq!(node.ended(), None, "{:?}", node.stderr());
        node.kill();
        link.cut();
        expected.push(1 + lived_ms.saturating_sub(SLACK_MS) / INTERVAL_MS);
    }
    link.mode(PASS);
    let more = format!("{load} --take {LAST}");
    let mut node = start(&program, dir.path(), &config, &more);
    let found = wait_until("the last life of each node", PATIENCE, || {
        assert_eq!(node.ended(), None, "{:?}", node.stderr());
        let found = lives(&engine);
        let is_all =
            |counts: &Vec<u64>| counts.len() == expected.len() + 1 && counts.last() == Some(&LAST);
        if found.len() == NODES && found.values().all(is_all) {
            Ok(found)
        } else {
            Err(format!("{found:?}, wanted of each {expected:?} and {LAST}"))
        }
    });
    node.stop();
    for (sensor, counts) in &found {
        for (life, (count, least)) in counts.iter().zip(&expected).enumerate() {
            assert!(
                count >= least,
                "{sensor}, life {life}: {count} of {least} readings: {found:?}"
            );
        }
    }
    assert_eq!(whole(&engine).len(), NODES);
    engine.process.stop();
}

/// A time server that is an hour behind, from now on.
fn late_time_server(addr: SocketAddr) {
    const UNIX_EPOCH_SINCE_1900: i64 = 2_208_988_800;
    let socket = UdpSocket::bind(addr).unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 48];
        while let Ok((_, from)) = socket.recv_from(&mut request) {
            let now_ms = now_ms() - HOUR_MS;
            let seconds = u32::try_from(now_ms / 1000 + UNIX_EPOCH_SINCE_1900).unwrap();
            let fraction = u32::try_from(((now_ms % 1000) << 32) / 1000).unwrap();
            let mut reply = [0; 48];
            // Version 4, server; stratum 1.
            reply[..2].copy_from_slice(&[0x24, 1]);
            reply[24..32].copy_from_slice(&request[40..48]);
            reply[40..44].copy_from_slice(&seconds.to_be_bytes());
            reply[44..].copy_from_slice(&fraction.to_be_bytes());
            let _gone_already = socket.send_to(&reply, from);
        }
    });
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn readings_from_before_a_time_server_was_there_get_their_time() {
    const TAKEN: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    let link = Link::to(engine.mqtt());
    link.mode(REFUSED);
    let time = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = time.local_addr().unwrap();
    drop(time);
    let mut file = NodeFile::plain(link.addr.port());
    file.more = format!("ntp = [\"{addr}\"]");
    let config = file.write(dir.path(), "C001");
    let load = "--sntp --flash flash";
    let begun_ms = now_ms();
    // A life that never knew the time, and the next, which learns it.
    let mut node = start(&program, dir.path(), &config, load);
    std::thread::sleep(Duration::from_millis(1_500));
    node.kill();
    let mut node = start(
        &program,
        dir.path(),
        &config,
        &format!("{load} --take {TAKEN}"),
    );
    std::thread::sleep(Duration::from_millis(1_500));
    late_time_server(addr);
    let served_ms = now_ms();
    // Who asked just before must not get through without an answer.
    std::thread::sleep(Duration::from_millis(500));
    link.mode(PASS);
    wait_until("the last reading", PATIENCE, || {
        assert_eq!(node.ended(), None, "{:?}", node.stderr());
        let counts = lives(&engine);
        match counts.get("C001").map(Vec::as_slice) {
            Some([_, last]) if *last == TAKEN as u64 => Ok(()),
            _ => Err(format!("{counts:?} {:?}", node.stderr())),
        }
    });
    let ended_ms = now_ms();
    node.stop();
    let readings = engine.readings("C001");
    let time = |reading: &serde_json::Value| reading["t"].as_i64().unwrap() + HOUR_MS;
    let (earlier, later) = readings.split_at(readings.len() - TAKEN);
    assert!(earlier.len() > 3, "{}", earlier.len());
    // By their own clocks, not by when they came, which was after the server was there.
    assert!(time(&later[0]) < served_ms, "{readings:?}");
    // Asking takes its time.
    let begun_ms = begun_ms - 1_000;
    assert!(
        readings
            .iter()
            .all(|one| (begun_ms..ended_ms).contains(&time(one)))
    );
    for pair in readings.windows(2) {
        assert!(time(&pair[0]) < time(&pair[1]), "{pair:?}");
    }
    assert_eq!(engine.ledger("late"), 0);
    assert_eq!(whole(&engine).len(), 1);
    engine.process.stop();
}

// ---- What is said of it ----

#[test]
fn a_broker_and_the_engine_know_how_a_node_is() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(program), Some(way)) = (program(), Way::mosquitto(dir.path())) else {
        return;
    };
    if !is_there("mosquitto_sub") {
        return;
    }
    let mut engine = way.run(dir.path());
    let Way::Mosquitto(mosquitto) = &way else {
        unreachable!("asked for");
    };
    let mut file = NodeFile::tls("localhost", mosquitto.tls.port(), &mosquitto.authority.file);
    file.broker += &format!("user = \"{}\"\npassword = \"{}\"\n", NODE.0, NODE.1);
    let config = file.write(dir.path(), "C001");
    let mut node = start(&program, dir.path(), &config, "");
    let is_said = |status: &str| {
        wait_until(status, PATIENCE, || {
            let retained = mosquitto.retained("sensors/C001/status");
            if retained == status {
                Ok(())
            } else {
                Err(retained)
            }
        });
    };
    is_said("online");
    engine.wait_stored(1);
    node.kill();
    // Its last will.
    is_said("offline");
    let device = &engine.json("/api/v1/sensors")["sensors"][0]["device"];
    assert_eq!(device["reset"], "power-on", "{device}");
    let firmware = text_of(&device["firmware"]);
    assert!(firmware.starts_with("host-"), "{device}");
    // The next one says the same again.
    let mut node = start(&program, dir.path(), &config, "");
    is_said("online");
    node.stop();
    engine.process.stop();
}

#[test]
fn a_node_that_sleeps_says_when_it_comes_back_and_goes_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    let mut file = NodeFile::plain(engine.mqtt().port());
    file.interval = "10s";
    file.more = "sleep = \"deep\"".to_owned();
    let config = file.write(dir.path(), "C001");
    let node = start(&program, dir.path(), &config, "--count 2");
    let node = finish(node, PATIENCE);
    assert!(
        node.stderr()
            .concat()
            .contains("acknowledged 2 of 2 readings")
    );
    engine.wait_stored(2);
    let sensor = &engine.json("/api/v1/sensors")["sensors"][0];
    assert_eq!(sensor["expected_interval_s"], 10.0, "{sensor}");
    // One boot, although it slept in between.
    assert_eq!(lives(&engine)["C001"], [2]);
    assert_eq!(whole(&engine)["C001"], 2);
    engine.process.stop();
}

#[test]
fn a_fleet_of_two_hundred_nodes_leaves_nothing_missing() {
    const NODES: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = program() else {
        return;
    };
    let seconds = u64::from(setting("VIGIE_FLEET_S", 30));
    let mut engine = Engine::run(dir.path());
    let mut file = NodeFile::plain(engine.mqtt().port());
    file.interval = "500ms";
    let config = file.write(dir.path(), "F");
    let each = seconds * 2;
    let load = format!("--nodes {NODES} --take {each} --count {each}");
    let node = start(&program, dir.path(), &config, &load);
    finish(node, Duration::from_secs(seconds) + Duration::from_mins(1));
    assert_eq!(engine.ledger("stored"), NODES * each);
    assert_eq!(engine.ledger("missing"), 0);
    assert!(whole(&engine).values().all(|count| *count == each));
    engine.process.stop();
}

// ---- Its config ----

#[test]
fn a_config_becomes_a_partition_that_a_node_takes_and_no_secret_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let sample = package_file("../firmware/node.toml");
    let sample = sample.to_str().unwrap();
    let made = engine(dir.path(), &["node", "config", sample, "-o", "node.bin"]).expect(0, &[]);
    let shown = engine(dir.path(), &["node", "show", "node.bin"]).expect(0, &[]);
    for said in [&made.stdout, &shown.stdout] {
        assert!(said.contains("node C001"), "{said}");
        assert!(!said.contains("change me"), "{said}");
    }
    let wrong = "id = \"C001\"\n[broker]\nhost = \"mqtt://x\"\npassword = \"canary\"\n";
    fs::write(dir.path().join("wrong.toml"), wrong).unwrap();
    let finished = engine(dir.path(), &["node", "config", "wrong.toml"]);
    let finished = finished.expect(2, &["broker.host = ", "broker.user: missing", "sensor = 0"]);
    assert!(!finished.stderr.contains("canary"), "{finished:#?}");
    fs::write(
        dir.path().join("cut.bin"),
        &fs::read(dir.path().join("node.bin")).unwrap()[..99],
    )
    .unwrap();
    engine(dir.path(), &["node", "show", "cut.bin"]).expect(2, &["which are not there"]);

    let Some(program) = program() else {
        return;
    };
    let mut engine = Engine::run(dir.path());
    let config = NodeFile::plain(engine.mqtt().port()).write(dir.path(), "C007");
    super::harness::engine(
        dir.path(),
        &["node", "config", config.as_str(), "-o", "c007.bin"],
    )
    .expect(0, &[]);
    finish(
        start(&program, dir.path(), "c007.bin", "--count 3"),
        PATIENCE,
    );
    engine.wait_stored(3);
    assert_eq!(engine.sensors(), ["C007"]);
    engine.process.stop();
}
