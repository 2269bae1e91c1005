//! The live page in headless Chromium, against the real engine. `engine/tests/page/page.mjs` drives
//! the browser. With `VIGIE_PICTURES=1` the pictures in `docs/images` are taken anew.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use vigie_actors::tls::client_config;

use super::certificates::{Authority, Valid};
use super::foreign::is_there;
use super::harness::{
    Engine, PATIENCE, Process, engine as command, package_file, setting, simulate_args, wait_until,
};

/// Whether there are a browser and what drives it; in CI they have to be.
fn can_look() -> bool {
    let driver = package_file("tests/page/node_modules/playwright-core").exists();
    assert!(
        driver || std::env::var("CI").as_deref() != Ok("true"),
        "playwright-core is missing; ./test.sh installs it"
    );
    if !driver {
        eprintln!("skipped: needs playwright-core (npm ci --prefix engine/tests/page)");
    }
    driver && is_there("chromium") && is_there("node")
}

/// Runs a job of `page.mjs` to its end.
fn look(job: &str, mut settings: Value) {
    settings["chromium"] = program("chromium").into();
    if settings["pictures"].is_null() {
        let pictures = package_file("../target/page");
        fs::create_dir_all(&pictures).unwrap();
        settings["pictures"] = pictures.to_str().into();
    }
    let output = Command::new("node")
        .arg(package_file("tests/page/page.mjs"))
        .args([job, &settings.to_string()])
        .output()
        .unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{job}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Where a program is.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = places.find(|path| path.exists()).unwrap();
    found.to_str().unwrap().to_owned()
}

#[test]
fn the_page_shows_what_happens_and_people_answer() {
    if !can_look() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    engine.wait_ready(PATIENCE);
    let url = format!("http://{}/", engine.http);
    look(
        "watch",
        json!({ "url": url, "mqtt": engine.mqtt().to_string() }),
    );
    engine.process.stop();
}

#[test]
fn the_page_asks_for_the_token_once_and_keeps_no_secret() {
    if !can_look() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let token = "a-token-for-the-page-0123";
    let authority = Authority::new(dir.path(), "ca");
    let identity = authority.server("page", &["127.0.0.1"], Valid::Now);
    let config = format!(
        "[http]\ntoken = \"{token}\"\ncert_file = {:?}\nkey_file = {:?}\n",
        identity.cert, identity.key
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let more = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut engine = Engine::run_with(dir.path(), &more);
    let url = format!("https://{}/", engine.http);
    look("login", json!({ "url": url, "token": token }));
    engine.process.stop();
}

#[test]
fn a_thousand_sensors_scroll_smoothly() {
    if !can_look() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = "[groups.cellar]\nsensors = [\"*7\"]\n";
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let more = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut engine = Engine::run_with(dir.path(), &more);
    engine.wait_ready(PATIENCE);
    let all = "--sensors 1000 --rate 500 --duration 10m";
    let args = simulate_args(&engine.door(), all);
    let mut fleet = Process::start(dir.path(), &args);
    engine.wait_stored(1000);
    look(
        "crowd",
        json!({ "url": format!("http://{}/", engine.http) }),
    );
    fleet.kill();
    engine.process.stop();
}

/// A connection to a server whose certificate a CA in `ca` has signed.
fn connect(addr: SocketAddr, ca: &Path) -> StreamOwned<ClientConnection, TcpStream> {
    // Another test may have been first.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = client_config(Some(ca), None).unwrap();
    let name = ServerName::IpAddress(addr.ip().into());
    let connection = ClientConnection::new(config, name).unwrap();
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// Reads until `part` has come.
fn read_until(stream: &mut impl Read, part: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(part) {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the end came before {part:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

#[test]
fn https_follows_its_certificate_and_keeps_connections() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let chain = |name| {
        let identity = authority.server(name, &["127.0.0.1"], Valid::Now);
        let own = fs::read_to_string(&identity.cert).unwrap();
        let ca = fs::read_to_string(&authority.file).unwrap();
        fs::write(&identity.cert, own + &ca).unwrap();
        identity
    };
    let used = chain("used");
    let config = format!(
        "[http]\ncert_file = {:?}\nkey_file = {:?}\n",
        used.cert, used.key
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let more = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut engine = Engine::run_with(dir.path(), &more);

    let mut watcher = connect(engine.http, &authority.file);
    watcher
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    read_until(&mut watcher, "event: health");
    let shown = |stream: &StreamOwned<ClientConnection, TcpStream>| {
        let certificates = stream.conn.peer_certificates().unwrap();
        certificates[0].to_vec()
    };
    let before = shown(&watcher);

    let renewed = chain("renewed");
    fs::copy(&renewed.key, &used.key).unwrap();
    fs::copy(&renewed.cert, &used.cert).unwrap();
    wait_until("the renewed certificate", PATIENCE, || {
        let mut client = connect(engine.http, &authority.file);
        client
            .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
        read_until(&mut client, "ok\n");
        if shown(&client) == before {
            Err("the old one".to_owned())
        } else {
            Ok(())
        }
    });
    // Who was there before is still told.
    read_until(&mut watcher, "event: health");
    drop(watcher);

    // Nothing is said in the clear.
    let mut plain = TcpStream::connect(engine.http).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    // Commands on this machine ask it as well.
    let args = [
        "incidents",
        "list",
        "--config",
        "vigie.toml",
        "--data-dir",
        "data",
    ];
    let listed = command(dir.path(), &args).expect(0, &[]);
    assert!(listed.stdout.contains("nothing is wrong"), "{listed:?}");
    engine.process.stop();
}

/// Only when asked: what is in the documentation.
#[test]
fn pictures_for_the_documentation() {
    if setting("VIGIE_PICTURES", 0) == 0 || !can_look() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = ["demo", "--data-dir", "data", "--http", "127.0.0.1:0"];
    let mut engine = Engine::start(
        dir.path(),
        &[&args[..], &["--mqtt", "127.0.0.1:0"]].concat(),
    );
    let text = engine.text("/api/v1/incidents?open");
    assert!(text.contains("incidents"), "{text}");
    wait_until("an incident", Duration::from_mins(5), || {
        let open = engine.json("/api/v1/incidents?open");
        let count = open["incidents"].as_array().map_or(0, Vec::len);
        if count > 0 {
            Ok(())
        } else {
            Err(open.to_string())
        }
    });
    let images = package_file("../docs/images");
    look(
        "pictures",
        json!({ "url": format!("http://{}/", engine.http), "pictures": images.to_str() }),
    );
    small(&images);
    engine.process.stop();
}

/// Pictures are part of the repository: none is large.
fn small(images: &Path) {
    for entry in fs::read_dir(images).unwrap() {
        let entry = entry.unwrap();
        let size = entry.metadata().unwrap().len();
        assert!(size < 300_000, "{}: {size} bytes", entry.path().display());
    }
}
