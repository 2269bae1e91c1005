//! A running engine, for benchmarks that need the real binary.

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
        let mut find = |scheme: &str| {
            loop {
                let line = lines
                    .next()
                    .expect("the engine prints its addresses")
                    .unwrap();
                if let Some(at) = line.find(scheme) {
                    let rest = &line[at + scheme.len()..];
                    break rest.split([' ', '/']).next().unwrap_or(rest).to_owned();
                }
            }
        };
        let mqtt = find("mqtt://");
        let http = find("http://");
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
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.http).unwrap();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
