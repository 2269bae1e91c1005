//! A canary in every secret: whatever the engine says, writes or serves, none of them sings.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::certificates::private;
use super::foreign::is_there;
use super::harness::{
    Engine, PATIENCE, Process, RUN, engine, engine_in, engine_reading, get_with, now_ms, wait_until,
};
use super::mqtt::{Publisher, Version};

/// Part of every secret here.
const CANARY: &str = "kanarie";

/// Every secret that there is, in the config itself.
fn config() -> String {
    format!(
        "[http]\ntoken = \"{CANARY}-token-of-the-page\"\n\n\
         [mongodb]\nuri = \"mongodb+srv://me:{CANARY}-of-the-database@cluster.example.net/\"\n\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = 9\ntls = false\nusername = \"me\"\n\
         password = \"{CANARY}-of-the-broker\"\n\n\
         [email]\nsmtp_host = \"localhost\"\nsmtp_port = 9\nsmtp_user = \"me@example.org\"\n\
         smtp_password = \"{CANARY}-of-the-mailbox\"\nemail_to = \"you@example.org\"\n\n\
         [webhook.pager]\nurl = \"http://localhost:9/{CANARY}?key={CANARY}-of-the-query\"\n\
         secret = \"{CANARY}-of-the-hook\"\n\n\
         [alertmanager.main]\nurl = \"http://localhost:9\"\ntoken = \"{CANARY}-of-the-proxy\"\n"
    )
}

/// Takes every POST, and keeps its head.
fn taker() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, heads) = (listener.local_addr().unwrap(), Arc::default());
    let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let head = take(stream);
            kept.lock().unwrap().push(head);
        }
    });
    (addr, heads)
}

fn take(mut stream: TcpStream) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    reader.read_exact(&mut vec![0; length]).unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    head
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
fn no_secret_is_said_written_or_served_at_the_finest_level_of_the_log() {
    const TRACE: [(&str, &str); 1] = [("VIGIE_LOG", "trace,ureq=trace,ureq_proto::client=trace")];
    let dir = tempfile::tempdir().unwrap();
    // Two of those whom it tells are there, and are shown their secrets.
    let (addr, heads) = taker();
    let there = format!(
        "\n[webhook.taken]\nurl = \"http://{addr}/{CANARY}-of-the-path?key={CANARY}\"\n\
         secret = \"{CANARY}-of-the-taken-hook\"\n\n\
         [alertmanager.taken]\nurl = \"http://{addr}\"\ntoken = \"{CANARY}-of-the-manager\"\n"
    );
    fs::write(dir.path().join("vigie.toml"), config() + &there).unwrap();
    let named = ["--config", "vigie.toml"];
    let mut said = String::new();
    for command in [&["check"][..], &["config", "show"], &["test-alert"]] {
        let finished = engine_in(dir.path(), &[command, &named].concat(), &TRACE);
        said += &(finished.stdout + &finished.stderr);
    }
    assert_eq!(said.matches("[redacted]").count(), 10, "{said}");

    let (args, _port_for_devices) = RUN.split_at(5);
    let args = [args, &["--mqtt", "127.0.0.1:0"], &named].concat();
    let mut running = Engine::of(Process::start_in(dir.path(), &args, &TRACE)).unwrap();
    let payload = format!(r#"{{"id":"C001","t":{},"temperature":-127}}"#, now_ms());
    let mut publisher = Publisher::connect(running.mqtt(), Version::V5);
    publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    // Of the others each way complains. A secret at the wrong place is quarantined, which is where
    // `doctor` shows it: not ours.
    wait_until("all complaints", PATIENCE, || {
        let lines = running.process.stderr().join("\n");
        let complained = lines.matches("a notice waits").count() >= 3
            && lines.contains("not connected to the broker");
        complained.then_some(()).ok_or(lines)
    });
    for mark in [
        format!("POST /{CANARY}-of-the-path?key={CANARY} "),
        format!("Bearer {CANARY}-of-the-manager"),
    ] {
        wait_until("both are told", PATIENCE, || {
            let heads = heads.lock().unwrap().concat();
            heads.contains(&mark).then_some(()).ok_or(heads)
        });
    }
    let token = format!("Authorization: Bearer {CANARY}-token-of-the-page\r\n");
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/readyz?verbose",
        "/api/v1/ledger",
        "/api/v1/ledger/sensors",
        "/api/v1/health",
        "/api/v1/sensors",
        "/api/v1/incidents",
        "/api/v1/anomalies",
        "/api/v1/mongodb",
        "/api/v1/quantities",
    ] {
        let (status, body) = get_with(running.http, path, &token).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        said += &body;
    }
    running.process.stop();
    said += &running.process.stdout().join("\n");
    said += &running.process.stderr().join("\n");
    // It does tell everything else.
    for level in ["TRACE", "DEBUG"] {
        assert!(said.contains(&format!("\"level\":\"{level}\"")), "{level}");
    }
    let sings: Vec<_> = said.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(sings.is_empty(), "{sings:#?}");
    assert_silent_files(&dir.path().join("data"));
}

/// The engine has to show these to others, so they are in its memory as long as it runs. Nothing else
/// of the config is. What a node showed is not looked for: our copy is overwritten, but the packet is
/// only freed, and of that any piece may be left.
const HELD: [&str; 8] = [
    "-token-of-the-page",
    "-of-the-database",
    "-of-the-broker",
    "-of-the-mailbox",
    "?key=",
    "-of-the-query",
    "-of-the-hook",
    "-of-the-proxy",
];

#[test]
fn no_core_is_written_and_memory_holds_only_the_secrets_that_are_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let password = "shown-by-the-node";
    let hash = engine_reading(dir.path(), &["hash-password"], password);
    let hash = hash.expect(0, &[]).stdout;
    let user = format!(
        "\n[[listener.users]]\nname = \"node\"\npassword_hash = \"{}\"\npublish = [\"sensors/#\"]\n",
        hash.trim()
    );
    let old = format!("# The one before was {CANARY}-of-last-year.\n");
    fs::write(dir.path().join("vigie.toml"), old + &config() + &user).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut running = Engine::run_with(dir.path(), &args);
    let user = Some(("node", password));
    let mut publisher = Publisher::connect_as(running.mqtt(), Version::V5, user);
    for seq in 0..200 {
        let payload = format!(r#"{{"id":"C001","boot":"a","seq":{seq},"temperature":20}}"#);
        publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.process.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
    if is_there("gcore") {
        let id = running.process.id().to_string();
        let dump = Command::new("gcore")
            .arg("-o")
            .arg(dir.path().join("core"))
            .arg(&id)
            .output()
            .unwrap();
        assert!(dump.status.success(), "{dump:?}");
        let memory = fs::read(dir.path().join(format!("core.{id}"))).unwrap();
        let mut held = BTreeSet::new();
        for at in memchr(&memory, CANARY.as_bytes()) {
            let rest = &memory[at + CANARY.len()..];
            let rest = String::from_utf8_lossy(&rest[..rest.len().min(24)]).into_owned();
            held.insert(rest);
        }
        let known = |rest: &String| HELD.iter().any(|known| rest.starts_with(known));
        let unknown: Vec<_> = held.iter().filter(|rest| !known(rest)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let is_held = |known: &&str| held.iter().any(|rest| rest.starts_with(known));
        let found = HELD.iter().copied().filter(is_held).count();
        assert_eq!(found, HELD.len(), "a core shows what is in use: {held:?}");
    }
    drop(publisher);
    running.process.stop();
}

/// Where `needle` is.
fn memchr<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle[0];
    (0..bytes.len() - needle.len())
        .filter(move |at| bytes[*at] == first && bytes[*at..].starts_with(needle))
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
