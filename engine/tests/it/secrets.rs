//! A canary in every secret: whatever the engine says, writes or serves, none of them sings.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::certificates::private;
use super::harness::{Engine, engine, get, now_ms, wait_until};
use super::mqtt::{Publisher, Version};

/// Part of every secret here.
const CANARY: &str = "kanarie";

/// Every secret that there is, in the config itself.
fn config() -> String {
    format!(
        "[http]\ntoken = \"{CANARY}-token-of-the-page\"\n\n\
         [mongodb]\nuri = \"mongodb+srv://me:{CANARY}@cluster.example.net/\"\n\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = 9\ntls = false\nusername = \"me\"\n\
         password = \"{CANARY}-of-the-broker\"\n\n\
         [email]\nsmtp_host = \"localhost\"\nsmtp_port = 9\nsmtp_user = \"me@example.org\"\n\
         smtp_password = \"{CANARY}-of-the-mailbox\"\nemail_to = \"you@example.org\"\n\n\
         [webhook.pager]\nurl = \"http://localhost:9/{CANARY}?key={CANARY}\"\n\
         secret = \"{CANARY}-of-the-hook\"\n\n\
         [alertmanager.main]\nurl = \"http://localhost:9\"\ntoken = \"{CANARY}-of-the-proxy\"\n"
    )
}

/// Fails if any file below `dir` holds the canary.
fn assert_silent_files(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_silent_files(&path);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let sings = bytes
            .windows(CANARY.len())
            .any(|window| window == CANARY.as_bytes());
        assert!(!sings, "{}", path.display());
    }
}

#[test]
fn no_secret_is_said_written_or_served() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vigie.toml"), config()).unwrap();
    let named = ["--config", "vigie.toml"];
    let mut said = String::new();
    for command in [&["check"][..], &["config", "show"], &["test-alert"]] {
        let finished = engine(dir.path(), &[command, &named].concat());
        said += &(finished.stdout + &finished.stderr);
    }
    assert_eq!(said.matches("[redacted]").count(), 7, "{said}");

    // Nobody whom it wants to reach is there: each way complains.
    let args = [&["--mqtt", "127.0.0.1:0"], &named[..]].concat();
    let mut running = Engine::run_with(dir.path(), &args);
    let payload = format!(r#"{{"id":"C001","t":{},"temperature":-127}}"#, now_ms());
    let mut publisher = Publisher::connect(running.mqtt(), Version::V5);
    publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    // A secret at the wrong place is quarantined, which is where `doctor` shows it: not ours.
    wait_until("all complaints", std::time::Duration::from_secs(15), || {
        let lines = running.process.stderr().join("\n");
        let complained = lines.matches("a notice waits").count() >= 3
            && lines.contains("not connected to the broker");
        complained.then_some(()).ok_or(lines)
    });
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/readyz?verbose",
        "/api/v1/ledger",
        "/api/v1/health",
    ] {
        let (_, body) = get(running.http, path).unwrap();
        said += &body;
    }
    running.process.stop();
    said += &running.process.stdout().join("\n");
    said += &running.process.stderr().join("\n");
    assert!(!said.contains(CANARY), "{said}");
    assert_silent_files(&dir.path().join("data"));
}

#[test]
fn wrong_secrets_are_told_without_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let hash = format!("$argon2id$v=19$m=19456,t=2,p=1${CANARY}");
    let wrong = [
        // A type that is wrong, a value that is, a section in its place, a key beside it.
        format!("[mqtt]\nhost = \"h\"\nusername = \"u\"\npassword = [\"{CANARY}\"]\n"),
        format!("[http]\ntoken = \"{CANARY}\"\n"),
        format!("[mongodb]\nuri = \"{CANARY}\"\n"),
        format!("[email]\nsmtp_password = {{ text = \"{CANARY}\" }}\n"),
        format!("[[listener.users]]\nname = \"a\"\npassword_hash = \"{hash}\"\n"),
        format!("[email]\nsmtp_host = \"h\"\nsmtp_password = \"{CANARY}\"\nemail_to = \"a@b.c\"\n"),
        format!("[http]\ntoken = \"{CANARY}\ntoken_file = 5\n"),
        format!("[http]\ntoken = \"{CANARY}-long-enough\"\ntoken_file = \"x\"\n"),
    ];
    for config in wrong {
        fs::write(dir.path().join("vigie.toml"), &config).unwrap();
        let finished = engine(dir.path(), &["check", "--config", "vigie.toml"]).expect(2, &[]);
        let said = finished.stdout + &finished.stderr;
        assert!(!said.contains(CANARY), "{config}\n{said}");
    }
}

#[test]
fn secret_files_are_read_unless_everybody_may() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    writeln!(fs::File::create(&file).unwrap(), "{CANARY}-in-a-file").unwrap();
    let config = format!(
        "[http]\ntoken_file = \"{0}\"\n\n[mongodb]\nuri_file = \"{0}\"\n\n[mqtt]\nhost = \"h\"\n\
         ca_file = \"/dev/null\"\nusername = \"u\"\npassword_file = \"{0}\"\n\n[email]\n\
         smtp_password_file = \"{0}\"\n",
        file.display()
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let check = ["check", "--config", "vigie.toml"];
    let finished = engine(dir.path(), &check).expect(2, &["chmod 600"]);
    for key in ["http.token_file", "mongodb.uri_file", "mqtt.password_file"] {
        assert!(finished.stderr.contains(key), "{finished:?}");
    }
    assert_eq!(finished.stderr.matches("every user").count(), 4);
    private(&file);
    let finished = engine(dir.path(), &check);
    assert!(!finished.stderr.contains("every user"), "{finished:?}");
    assert!(!finished.stderr.contains(CANARY), "{finished:?}");
}
