//! Logs: JSON for a program that reads them, text for a person.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::harness::{Engine, PATIENCE};

#[test]
fn on_a_pipe_each_line_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    engine.process.stop();
    let lines = engine.process.stderr();
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "no {field}: {line}");
        }
    }
    assert!(lines.iter().any(|line| line.contains("listening for MQTT")));
}

#[test]
fn on_a_terminal_lines_are_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let engine = env!("CARGO_BIN_EXE_engine");
    let command = format!(
        "{engine} run --mqtt 127.0.0.1:0 --http 127.0.0.1:0 --data-dir {}",
        dir.path().display()
    );
    // It runs a program on a terminal of its own.
    let mut script = Command::new("script")
        .args(["-q", "-f", "-c", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is part of every Debian (bsdutils)");
    let lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _gone = sender.send(line);
        }
    });
    let line = loop {
        let line = receiver.recv_timeout(PATIENCE).expect("a line of the log");
        if line.contains("listening for MQTT") {
            break line;
        }
    };
    assert!(line.contains("INFO") && !line.contains('{'), "{line}");
    assert!(line.contains('\u{1b}'), "no colours: {line}");
    // Ctrl-C.
    script.stdin.take().unwrap().write_all(b"\x03").unwrap();
    let stopped = loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) if line.contains("stopped") => break true,
            Ok(_) => {}
            Err(_) => break false,
        }
    };
    let _ended = script.kill();
    let _status = script.wait();
    assert!(stopped, "Ctrl-C does not stop it");
}
