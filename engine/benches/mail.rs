//! Does a mail server that stalls slow the stream? Publish → PUBACK of the real binary, with incidents
//! all the time, beside a mail server that takes each mail at once and one that never answers to
//! its text: five runs of each, one after the other in turn, and the ratio of the medians.
//!
//! `cargo bench -p engine --bench mail`

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark prints, and may stop"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use common::{Engine, listed, median};
use vigie_actors::clock::{Clock, SystemClock};

const RUNS: usize = 5;

/// A mail server without TLS, which `localhost` may be; its port.
fn mail_server(stalls: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || talk(stream.unwrap(), stalls));
        }
    });
    port
}

fn talk(mut stream: TcpStream, stalls: bool) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut say = |words: &str| stream.write_all(words.as_bytes()).is_ok();
    let mut text = false;
    if !say("220 mail.test\r\n") {
        return;
    }
    while let Some(Ok(line)) = lines.next() {
        let answer = match line.as_str() {
            "." if text && stalls => continue,
            "." if text => "250 taken\r\n",
            _ if text => continue,
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 mail.test\r\n",
        };
        text = line == "DATA";
        if !say(answer) {
            return;
        }
    }
}

/// Median and 99th percentile of publish → PUBACK in ms, and how many incidents there were.
fn run(port: u16) -> (f64, f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vigie.toml");
    let text = format!(
        "[email]\nsmtp_host = \"localhost\"\nsmtp_port = {port}\nsmtp_tls = false\n\
         email_from = \"me@example.org\"\nemail_to = \"you@example.org\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let engine = Engine::start(dir.path(), &["--config", config.to_str().unwrap()]);
    let start = (SystemClock.now_ms() - 86_400_000).to_string();
    let (p50, p99) = engine.load(&[
        "--sensors",
        "2000",
        "--start",
        &start,
        "--faults",
        "sentinel",
        "--fault-every",
        "5",
        "--fault-warmup",
        "0",
    ]);
    (p50, p99, engine.metric("vigie_incidents_open"))
}

fn main() {
    // `cargo test --benches` passes --test: nothing to check then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let (well, stalled) = (mail_server(false), mail_server(true));
    let (mut calm, mut stuck) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        calm.push(run(well));
        stuck.push(run(stalled));
    }
    println!("2,000 readings/s for 10 s, 4 connections, medians of {RUNS} runs in turn");
    for (name, runs) in [("takes mails", &calm), ("stalls", &stuck)] {
        println!(
            "  server {name:<12} p50 {:.2} ms, p99 {:.2} ms (of {}), {:.0} incidents",
            median(runs.iter().map(|run| run.0)),
            median(runs.iter().map(|run| run.1)),
            listed(runs.iter().map(|run| run.1)),
            median(runs.iter().map(|run| run.2)),
        );
    }
    println!(
        "  p99 stalled / p99 calm: {:.2}",
        median(stuck.iter().map(|run| run.1)) / median(calm.iter().map(|run| run.1))
    );
}
