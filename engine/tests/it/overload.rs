//! More than the engine can take, and somebody who reads slowly: publishers wait, nothing that was
//! acknowledged is lost, memory stays within its bounds, others are served.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::{
    Engine, PATIENCE, Process, Published, get, now_ms, simulate, simulate_args, wait_until,
};
use super::mqtt::{Publisher, Version};

/// Readings of a calm publisher.
const COUNT: u32 = 15_000;
const TIMES: u32 = 10;
/// More than what the stream, its connections and the store's buffers may hold.
const GROWTH_MIB: u64 = 96;

fn resident_mib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() / 1024
}

fn load(after_s: i64, more: &str) -> String {
    let start = now_ms() - 2 * 86_400_000 + after_s * 1000;
    format!("--sensors 200 --seed 3 --interval 1s --start {start} {more}")
}

#[test]
fn ten_times_too_much_waits_at_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    let begun = Instant::now();
    let calm = load(0, &format!("--rate max --count {COUNT}"));
    simulate(dir.path(), &engine.door(), &calm);
    let sustained = f64::from(COUNT) / begun.elapsed().as_secs_f64();

    let before_mib = resident_mib(&engine.process);
    // As many connections, each with as much under way as MQTT allows.
    let rate = sustained * f64::from(TIMES);
    let count = COUNT * TIMES;
    let flood = load(
        10_000,
        &format!(
            "--boot flood --connections {TIMES} --window 65535 --rate {rate:.0} --count {count}"
        ),
    );
    let mut publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &flood));
    let mut most_mib = 0;
    wait_until("the end of the load", Duration::from_mins(3), || {
        most_mib = most_mib.max(resident_mib(&engine.process));
        let (status, body) = get(engine.http, "/readyz?verbose")?;
        assert_eq!(status, 200, "{body}");
        publisher.ended().ok_or_else(|| format!("{most_mib} MiB"))
    });
    let took = begun.elapsed();
    publisher.wait(PATIENCE);
    let published = Published::read(&publisher.stdout().join("\n"));
    assert_eq!(
        (published.sent, published.acknowledged, published.reconnects),
        (u64::from(count), u64::from(count), 0),
        "{published:?}"
    );
    let grown_mib = most_mib.saturating_sub(before_mib);
    assert!(grown_mib <= GROWTH_MIB, "{grown_mib} MiB more");
    let ledger = engine.json("/api/v1/ledger");
    assert_eq!(ledger["stored"], u64::from(COUNT + count), "{ledger}");
    assert_eq!(ledger["missing"], 0, "{ledger}");
    eprintln!("overload: {rate:.0}/s offered, {took:?} in all, {grown_mib} MiB more");
    engine.process.stop();
}

#[test]
fn who_reads_slowly_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    simulate(
        dir.path(),
        &engine.door(),
        &load(0, "--rate max --count 200000"),
    );
    let before_mib = resident_mib(&engine.process);
    let sensor = &engine.sensors()[0];
    let mut slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(engine.http).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(
                stream,
                "GET /api/v1/sensors/{sensor}/readings?limit=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            .unwrap();
            stream
        })
        .collect();
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    for round in 0..20_u32 {
        for stream in &mut slow {
            // A byte at a time, of answers of a hundred thousand.
            let read = stream.read(&mut [0]);
            assert_eq!(read.unwrap(), 1, "a slow reader is served as well");
        }
        let payload = format!(
            r#"{{"id":"C9","boot":"a","seq":{round},"t":{},"temperature":20}}"#,
            now_ms()
        );
        publisher.publish("sensors/C9/reading", payload.as_bytes(), false);
        for path in ["/metrics", "/api/v1/ledger", "/api/v1/sensors/C9/readings"] {
            let (status, body) = get(engine.http, path).unwrap();
            assert_eq!(status, 200, "{path}: {body}");
        }
    }
    let grown_mib = resident_mib(&engine.process).saturating_sub(before_mib);
    assert!(grown_mib <= GROWTH_MIB, "{grown_mib} MiB more");
    drop(slow);
    engine.process.stop();
}
