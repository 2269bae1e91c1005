//! A running engine, for benchmarks that need the real binary.

#![allow(dead_code, reason = "none of them needs all of it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const ENGINE: &str = env!("CARGO_BIN_EXE_engine");
/// Ends when dropped.
pub(crate) struct Engine {
    child: Child,
    pub(crate) mqtt: String,
    http: String,
    pub(crate) ready_after: Duration,
}

impl Engine {
    /// `engine run` with its data in `dir`, and more arguments.
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(ENGINE)
            .args([
                "run",
                "--mqtt",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(dir)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut mqtt, mut http) = (None, None);
        let (mqtt, http) = loop {
            let line = lines
                .next()
                .expect("the engine prints its addresses")
                .unwrap();
            for (scheme, found) in [("mqtt://", &mut mqtt), ("http://", &mut http)] {
                if let Some((_, rest)) = line.split_once(scheme) {
                    *found = rest.split([' ', '/']).next().map(str::to_owned);
                }
            }
            if let (Some(mqtt), Some(http)) = (&mqtt, &http) {
                break (mqtt.clone(), http.clone());
            }
        };
        let ready_after = begun.elapsed();
        // Keeps the pipe open and empty.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            mqtt,
            http,
            ready_after,
        }
    }

    pub(crate) fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kb: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kb / 1024.0
    }

    /// Mean number of readings per commit so far.
    pub(crate) fn readings_per_commit(&self) -> f64 {
        let value = |name: &str| self.metric(name);
        value("vigie_commit_readings_sum") / value("vigie_commit_readings_count")
    }

    /// The first series that begins so.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.scrape();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// What Prometheus gets.
    pub(crate) fn scrape(&self) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.http).unwrap();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Publishes with four connections for ten seconds, 2,000 readings/s, and with more arguments.
    /// Median and 99th percentile of publish → PUBACK, ms.
    pub(crate) fn load(&self, more: &[&str]) -> (f64, f64) {
        let output = Command::new(ENGINE)
            .args(["simulate", "--broker", &format!("mqtt://{}", self.mqtt)])
            .args(["--interval", "10s", "--rate", "2000", "--duration", "10s"])
            .args(["--connections", "4"])
            .args(more)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let line = text
            .lines()
            .find(|line| line.starts_with("PUBACK"))
            .unwrap();
        let number = |mark: &str| -> f64 {
            let rest = line.split_once(mark).unwrap().1.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            rest[..end.unwrap_or(rest.len())].parse().unwrap()
        };
        (number("p50"), number("p99"))
    }
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// As people read a list of milliseconds.
pub(crate) fn listed(values: impl Iterator<Item = f64>) -> String {
    let each: Vec<String> = values.map(|value| format!("{value:.2}")).collect();
    each.join(", ")
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
