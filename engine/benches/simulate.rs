//! How fast `engine simulate` can publish: the real binary into a sink that acknowledges at once and
//! does nothing else, on the same cores. `QoS` 0 and 1, several connections.
//!
//! `cargo bench -p engine --bench simulate`; `VIGIE_BENCH_READINGS` makes it shorter or longer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark prints, and may stop"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ENGINE: &str = env!("CARGO_BIN_EXE_engine");
const CONNECTIONS: &str = "4";

/// Takes MQTT 5 connections, each on a thread of its own, and counts their publishes.
fn sink() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let publishes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&publishes);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let publishes = Arc::clone(&counted);
            std::thread::spawn(move || serve(stream.unwrap(), &publishes));
        }
    });
    (addr, publishes)
}

/// Length of the fixed header and of the whole packet, once that can be told (MQTT 5, 2.1.4).
fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Some((at + 1, at + 1 + length));
        }
    }
    None
}

/// All PUBACKs of one read leave in one write.
fn serve(mut stream: TcpStream, publishes: &AtomicU64) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = vec![0; 256 * 1024];
    let mut filled = 0;
    let mut out = Vec::new();
    loop {
        let read = stream.read(&mut bytes[filled..]).unwrap_or(0);
        if read == 0 {
            return;
        }
        filled += read;
        let mut at = 0;
        let mut count = 0;
        while let Some((header, size)) = measure(&bytes[at..filled]) {
            let Some(packet) = bytes[..filled].get(at..at + size) else {
                break;
            };
            match packet[0] >> 4 {
                // CONNECT: CONNACK, success, no properties.
                1 => out.extend([0x20, 3, 0, 0, 0]),
                3 => {
                    count += 1;
                    if packet[0] & 0b110 != 0 {
                        let topic = [packet[header], packet[header + 1]];
                        let id = header + 2 + usize::from(u16::from_be_bytes(topic));
                        out.extend([0x40, 2, packet[id], packet[id + 1]]);
                    }
                }
                12 => out.extend([0xd0, 0]),
                _ => {}
            }
            at += size;
        }
        bytes.copy_within(at..filled, 0);
        filled -= at;
        publishes.fetch_add(count, Ordering::Relaxed);
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let count: u64 =
        std::env::var("VIGIE_BENCH_READINGS").map_or(5_000_000, |text| text.parse().unwrap());
    println!(
        "engine simulate, {CONNECTIONS} connections, 10,000 sensors, {count} readings, best of 3"
    );
    for qos in ["0", "1"] {
        let mut best = (0.0, String::new());
        for _ in 0..3 {
            let (addr, publishes) = sink();
            let output = Command::new(ENGINE)
                .args(["simulate", "--broker", &format!("mqtt://{addr}")])
                .args(["--sensors", "10000", "--interval", "10s", "--rate", "max"])
                .args(["--count", &count.to_string(), "--qos", qos])
                .args(["--connections", CONNECTIONS])
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{text}");
            // QoS 0 is sent and forgotten: the rest is on its way when the command ends.
            while publishes.load(Ordering::Relaxed) < count {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let rate = text
                .split('(')
                .nth(1)
                .and_then(|rest| rest.split('/').next());
            let rate: f64 = rate.unwrap().parse().unwrap();
            let latency = text.lines().find(|line| line.starts_with("PUBACK"));
            if rate > best.0 {
                best = (rate, latency.unwrap_or_default().to_owned());
            }
        }
        println!("  QoS {qos}: {:.0}/s   {}", best.0, best.1);
    }
}
