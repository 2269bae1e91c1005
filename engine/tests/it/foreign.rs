//! Other people's programs against the real binary: a stock MQTT client publishes, Prometheus' own
//! checker reads the metrics. `./test.sh` installs both; without them a run by hand says so.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::harness::{Engine, wait_until};

/// True if `program` is there; in CI it has to be.
pub(crate) fn is_there(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    assert!(
        there || std::env::var("CI").as_deref() != Ok("true"),
        "{program} is missing; ./test.sh installs it"
    );
    if !there {
        eprintln!("skipped: needs {program}");
    }
    there
}

#[test]
fn mosquitto_pub_is_understood_and_promtool_finds_no_fault() {
    if !(is_there("mosquitto_pub") && is_there("promtool")) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    for (seq, version) in ["mqttv311", "mqttv5"].iter().enumerate() {
        let published = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-q", "1", "-t", "sensors/C001/reading"])
            .args(["-V", version, "-p", &engine.mqtt().port().to_string()])
            .args([
                "-m",
                &format!(r#"{{"id":"C001","boot":"a","seq":{seq},"temperature":21.4}}"#),
            ])
            .status()
            .unwrap();
        assert!(published.success(), "{version}");
    }
    wait_until("both readings", Duration::from_secs(5), || {
        let stored = engine.readings("C001").len();
        (stored == 2)
            .then_some(())
            .ok_or_else(|| format!("{stored} stored"))
    });

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = engine.text("/metrics");
    assert!(metrics.contains("vigie_sensor_temperature_celsius{sensor=\"C001\"} 21.4"));
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    engine.process.stop();
}
