//! The engine behind mosquitto, durable and scored, beside a bare rumqttc subscriber that throws
//! every message away: the same fleet, the same broker, `QoS` 1, everything on the same cores.
//!
//! `cargo bench -p engine --bench broker`, with mosquitto installed; `VIGIE_BENCH_READINGS` makes it
//! shorter or longer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark prints, watches the clock, and may stop"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

const ENGINE: &str = env!("CARGO_BIN_EXE_engine");
const SENSORS: &str = "10000";
/// As the engine's default.
const RECEIVE_MAXIMUM: u16 = 1000;
const RUNS: usize = 3;

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn mosquitto(dir: &Path) -> (Process, u16) {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n\
         persistence false\nlog_dest none\n"
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    (Process(child), port)
}

/// Publishes `count` readings as fast as the broker takes them.
fn publish(port: u16, count: u64, run: usize) -> Process {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let start = now.as_millis() - 6 * 86_400_000;
    let child = Command::new(ENGINE)
        .args(["simulate", "--broker", &format!("mqtt://127.0.0.1:{port}")])
        .args(["--sensors", SENSORS, "--interval", "10s", "--rate", "max"])
        .args(["--connections", "2", "--count", &count.to_string()])
        .args([
            "--start",
            &start.to_string(),
            "--boot",
            &format!("run{run}"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// Readings per second through a subscriber that does nothing with them.
fn bare(count: u64, run: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, port) = mosquitto(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = MqttOptions::new("bare", "127.0.0.1", port);
        options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
        let (client, mut events) = AsyncClient::new(options, 1024);
        client
            .subscribe("sensors/+/reading", QoS::AtLeastOnce)
            .await
            .unwrap();
        while !matches!(
            events.poll().await.unwrap(),
            Event::Incoming(Packet::SubAck(_))
        ) {}
        let begun = Instant::now();
        let _publisher = publish(port, count, run);
        let mut received = 0;
        while received < count {
            if let Event::Incoming(Packet::Publish(_)) = events.poll().await.unwrap() {
                received += 1;
            }
        }
        count as f64 / begun.elapsed().as_secs_f64()
    })
}

/// A number of the metrics page.
fn metric(http: &str, series: &str) -> f64 {
    let mut stream = TcpStream::connect(http).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with(series)).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Readings per second until the last one is durable.
fn engine(count: u64, run: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, port) = mosquitto(dir.path());
    let config = dir.path().join("vigie.toml");
    let text = format!(
        "[listener]\nenabled = false\n\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\ntls = false\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(ENGINE)
        .args(["run", "--http", "127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _engine = Process(child);
    let http = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split('/').next().map(str::to_owned)
        })
        .unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    while metric(&http, "vigie_broker_connected") < 1.0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    let _publisher = publish(port, count, run);
    while metric(&http, "vigie_ledger_readings{outcome=\"stored\"}") < count as f64 {
        std::thread::sleep(Duration::from_millis(50));
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let count: u64 =
        std::env::var("VIGIE_BENCH_READINGS").map_or(1_000_000, |text| text.parse().unwrap());
    let (mut stored, mut thrown) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        thrown.push(bare(count, run));
        stored.push(engine(count, run));
        println!(
            "run {run}: bare subscriber {:.0}/s, engine {:.0}/s",
            thrown[run], stored[run]
        );
    }
    let (stored, thrown) = (median(&mut stored), median(&mut thrown));
    println!(
        "{count} readings of {SENSORS} sensors, medians of {RUNS}: engine, durable and scored \
         {stored:.0}/s; bare subscriber {thrown:.0}/s; ratio {:.2}",
        stored / thrown
    );
}
