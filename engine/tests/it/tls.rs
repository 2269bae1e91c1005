//! TLS in both directions: what is refused, in which words, and that it works as soon as the fault
//! is mended, without a restart.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::certificates::{Authority, Identity, Valid, private};
use super::harness::{
    Door, Engine, Finished, PATIENCE, engine, now_ms, simulate, simulate_args, wait_until,
};
use super::mosquitto::{Mosquitto, NODE};
use super::mqtt::{Publisher, Version};

/// How soon everything that cannot work is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(11);

/// Waits for a line on the standard error that holds `words`, among those behind the first `seen`.
fn wait_said(engine: &Engine, seen: usize, words: &str) {
    wait_until(&format!("{words:?} in the log"), REFUSED_WITHIN, || {
        let lines = engine.process.stderr();
        let said = &lines[seen.min(lines.len())..];
        if said.iter().any(|line| line.contains(words)) {
            Ok(())
        } else {
            Err(said.join("\n"))
        }
    });
}

// ---- The engine as a client ----

/// In how many days a certificate ends, as the metrics say.
fn days_left(engine: &Engine, used_for: &str) -> Option<i64> {
    let name = format!("vigie_certificate_expiry_timestamp_seconds{{use=\"{used_for}\"}}");
    let at_s: i64 = engine.metrics().get(&name)?.parse().unwrap();
    Some((at_s - now_ms() / 1000 + 3600).div_euclid(86_400))
}

/// One reading that reaches the store.
fn passes(mosquitto: &Mosquitto, engine: &Engine, seq: u64) {
    engine.wait_subscribed();
    let mut publisher = Publisher::connect_as(mosquitto.plain, Version::V5, Some(NODE));
    let payload = format!(
        r#"{{"id":"C001","boot":"a","seq":{seq},"t":{},"temperature":21}}"#,
        now_ms()
    );
    publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    engine.wait_stored(seq + 1);
}

#[test]
fn a_broker_that_is_not_to_be_trusted_is_refused_in_words_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut mosquitto) = Mosquitto::start(dir.path()) else {
        return;
    };
    let [flag, config] = mosquitto.config(dir.path(), "");
    let mut engine = Engine::run_with(dir.path(), &["--mqtt", "127.0.0.1:0", &flag, &config]);
    passes(&mosquitto, &engine, 0);
    assert_eq!(days_left(&engine, "broker"), Some(30));
    assert_eq!(days_left(&engine, "listener"), None, "it has none");

    let right = mosquitto.identity.clone();
    let ca = fs::read(&mosquitto.authority.file).unwrap();
    let stranger = Authority::new(dir.path(), "stranger");
    let host = ["localhost"];
    let certify =
        |name, hosts: &[&str], valid| Some(mosquitto.authority.server(name, hosts, valid));
    let cases: [(&str, Option<Identity>, &str); 5] = [
        ("unknown CA", Some(right.clone()), "unknown issuer"),
        (
            "wrong host",
            certify("elsewhere", &["broker.example"], Valid::Now),
            "for another host",
        ),
        (
            "expired",
            certify("expired", &host, Valid::Expired),
            "has expired",
        ),
        (
            "not yet valid",
            certify("early", &host, Valid::NotYet),
            "not valid yet",
        ),
        ("plaintext", None, "plaintext port"),
    ];
    for (nth, (what, identity, words)) in (1..).zip(cases) {
        let accepted = "vigie_broker_connects_total{result=\"accepted\"}";
        let (seen, connects) = (engine.process.stderr().len(), engine.count(accepted));
        mosquitto.down("TERM");
        if what == "unknown CA" {
            fs::copy(&stranger.file, &mosquitto.authority.file).unwrap();
        }
        mosquitto.speak(identity.as_ref());
        mosquitto.up();
        wait_said(&engine, seen, words);
        assert_eq!(engine.count(accepted), connects, "{what}: connections");
        let ready = super::harness::get(engine.http, "/readyz?verbose").unwrap();
        assert!(ready.1.contains(words), "{what}: {ready:?}");

        mosquitto.down("TERM");
        fs::write(&mosquitto.authority.file, &ca).unwrap();
        mosquitto.speak(Some(&right));
        mosquitto.up();
        passes(&mosquitto, &engine, nth);
    }
    engine.process.stop();
}

/// Takes one connection, gives the answer (or none), and what was sent until it was closed.
fn answer_with(listener: &TcpListener, answer: &[u8]) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = vec![0; 4096];
    let length = stream.read(&mut sent).unwrap();
    sent.truncate(length);
    stream.write_all(answer).unwrap();
    // A reset ends it as well.
    let _reset = stream.read_to_end(&mut sent);
    sent
}

/// A `ServerHello` of TLS 1.1, as an old server answers whatever it is offered.
fn server_hello_1_1() -> Vec<u8> {
    let mut hello = vec![0x03, 0x02];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x02, 0, length + 4, 2, 0, 0, length];
    record.extend(hello);
    record
}

#[test]
fn old_tls_and_half_open_handshakes_end_in_time_and_no_secret_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = format!(
        "[mqtt]\nhost = \"localhost\"\nport = {}\nca_file = \"{}\"\nusername = \"engine\"\n\
         password = \"canary-of-the-broker\"\n",
        listener.local_addr().unwrap().port(),
        authority.file.display(),
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut engine = Engine::run_with(dir.path(), &args);
    let protocol_version_alert = vec![0x15, 0x03, 0x01, 0, 2, 2, 70];
    for (what, answer, words) in [
        ("an alert", protocol_version_alert, "TLS versions"),
        ("TLS 1.1", server_hello_1_1(), "no TLS version that we do"),
        ("MQTT", b"\x20\x03\0\0\0".to_vec(), "does not speak TLS"),
        ("nothing", Vec::new(), "no answer within 10 s"),
    ] {
        let begun = Instant::now();
        let seen = engine.process.stderr().len();
        let sent = answer_with(&listener, &answer);
        assert_eq!(sent.first(), Some(&0x16), "{what}: a TLS handshake");
        for secret in ["canary", "vigie-"] {
            let found = sent
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{what}: {secret} crossed the network");
        }
        wait_said(&engine, seen, words);
        // The pause before the attempt counts in.
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(engine.count("vigie_broker_connected"), 0);
    engine.process.stop();
    let said = engine.process.stderr().join("\n");
    assert!(!said.contains("canary"), "{said}");
}

// ---- The engine as a listener ----

/// An engine whose listener speaks TLS.
struct Served {
    engine: Engine,
    authority: Authority,
    used: Identity,
}

impl Served {
    /// With `more` in the listener's section.
    fn start(dir: &Path, valid: Valid, more: &str) -> Self {
        let authority = Authority::new(dir, "ca");
        let used = authority.server("listener", &["localhost"], valid);
        let config = format!(
            "[listener]\ncert_file = \"{}\"\nkey_file = \"{}\"\n{more}\n",
            used.cert.display(),
            used.key.display(),
        );
        fs::write(dir.join("vigie.toml"), config).unwrap();
        let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
        Self {
            engine: Engine::run_with(dir, &args),
            authority,
            used,
        }
    }

    /// For clients that trust `ca` and call the host by `host`; with more arguments.
    fn door(&self, host: &str, ca: &Path, more: &[&str]) -> Door {
        let broker = format!("mqtts://{host}:{}", self.engine.mqtt().port());
        let ca = ca.to_str().unwrap();
        Door::new(&[&["--broker", &broker, "--ca", ca], more].concat())
    }

    /// A client that trusts the right CA.
    fn trusting(&self, more: &[&str]) -> Door {
        self.door("localhost", &self.authority.file, more)
    }

    fn refused(&self) -> u64 {
        self.engine
            .count("vigie_mqtt_connects_total{result=\"tls\"}")
    }

    /// Waits until so many handshakes that failed are counted, and no more: a client ends before that.
    fn wait_refused(&self, expect: u64) {
        wait_until("every refusal to be counted", PATIENCE, || {
            let refused = self.refused();
            (refused == expect).then_some(()).ok_or(refused.to_string())
        });
    }
}

fn publish_some(dir: &Path, door: &Door) -> Finished {
    engine(dir, &simulate_args(door, "--count 30 --rate max"))
}

#[test]
fn a_listener_with_tls_takes_readings_and_refuses_the_rest_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::start(dir.path(), Valid::Now, "connect_timeout = \"3s\"");
    let load = "--count 100000 --sensors 100 --connections 4 --rate max --interval 1s";
    let load = format!("{load} --start {}", now_ms() - 86_400_000);
    let published = simulate(dir.path(), &served.trusting(&[]), &load);
    assert_eq!(published.sent, 100_000);
    assert_eq!(served.engine.ledger("stored"), 100_000);

    let stranger = Authority::new(dir.path(), "stranger");
    let refused = publish_some(dir.path(), &served.door("localhost", &stranger.file, &[]));
    refused.expect(1, &["unknown issuer"]);
    wait_said(&served.engine, 0, "does not trust the CA");
    let refused = publish_some(
        dir.path(),
        &served.door("127.0.0.1", &served.authority.file, &[]),
    );
    refused.expect(1, &["for another host"]);
    served.wait_refused(2);

    // Whoever speaks no TLS, or an old one, or nothing at all.
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(served.engine.mqtt()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let (begun, mut answer) = (Instant::now(), Vec::new());
        let _reset = stream.read_to_end(&mut answer);
        (begun.elapsed(), answer)
    };
    let (_, answer) = connect(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a");
    assert_ne!(answer.first(), Some(&0x20), "CONNACK in the clear");
    let mut hello = vec![0x16, 0x03, 0x01, 0, 47, 1, 0, 0, 43, 0x03, 0x02];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let (_, answer) = connect(&hello);
    assert_eq!(answer.first(), Some(&0x15), "an alert, not {answer:?}");
    let (elapsed, _) = connect(&hello[..20]);
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(5)).contains(&elapsed),
        "a half-open handshake was closed after {elapsed:?}"
    );
    served.wait_refused(5);
    publish_some(dir.path(), &served.trusting(&[])).expect(0, &[]);
    served.engine.process.stop();
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::start(dir.path(), Valid::Expired, "");
    let door = served.trusting(&[]);
    publish_some(dir.path(), &door).expect(1, &["has expired"]);
    wait_said(&served.engine, 0, "our certificate has expired");
    assert_eq!(days_left(&served.engine, "listener"), Some(-1));

    // Written in place, certificate first: meanwhile the old one stays.
    let early = served
        .authority
        .server("early", &["localhost"], Valid::NotYet);
    fs::copy(&early.cert, &served.used.cert).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    publish_some(dir.path(), &door).expect(1, &["has expired"]);
    wait_said(&served.engine, 0, "the old one stays");
    fs::copy(&early.key, &served.used.key).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    publish_some(dir.path(), &door).expect(1, &["not valid yet"]);

    // Renamed over.
    let right = served.authority.server("right", &["localhost"], Valid::Now);
    fs::rename(&right.key, &served.used.key).unwrap();
    fs::rename(&right.cert, &served.used.cert).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    // Seen without anybody's connecting.
    assert_eq!(days_left(&served.engine, "listener"), Some(30));
    publish_some(dir.path(), &door).expect(0, &[]);

    // A link that leads elsewhere.
    let other = Authority::new(dir.path(), "other");
    let next = other.server("next", &["localhost"], Valid::Now);
    for (to, link) in [
        (&next.key, &served.used.key),
        (&next.cert, &served.used.cert),
    ] {
        let new = link.with_extension("new");
        std::os::unix::fs::symlink(to, &new).unwrap();
        fs::rename(&new, link).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1100));
    publish_some(dir.path(), &served.door("localhost", &other.file, &[])).expect(0, &[]);

    // Garbage: the last good one stays.
    fs::write(&next.cert, "garbage").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    publish_some(dir.path(), &served.door("localhost", &other.file, &[])).expect(0, &[]);
    served.engine.process.stop();
}

#[test]
fn clients_without_the_right_certificate_stay_outside() {
    let dir = tempfile::tempdir().unwrap();
    let devices = Authority::new(dir.path(), "devices");
    let more = format!("client_ca_file = \"{}\"", devices.file.display());
    let mut served = Served::start(dir.path(), Valid::Now, &more);
    let with = |identity: &Identity| {
        let (cert, key) = (&identity.cert, &identity.key);
        served.trusting(&[
            "--cert",
            cert.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
        ])
    };
    publish_some(dir.path(), &served.trusting(&[])).expect(1, &["requires a client certificate"]);
    wait_said(&served.engine, 0, "showed no client certificate");
    // The log says one thing a second.
    std::thread::sleep(Duration::from_millis(1100));
    let foreign = served.authority.client("foreign", Valid::Now);
    publish_some(dir.path(), &with(&foreign)).expect(1, &["does not trust the CA"]);
    wait_said(&served.engine, 0, "unknown issuer");
    std::thread::sleep(Duration::from_millis(1100));
    let old = devices.client("old", Valid::Expired);
    publish_some(dir.path(), &with(&old)).expect(1, &["our certificate has expired"]);
    wait_said(&served.engine, 0, "its certificate has expired");
    let right = devices.client("right", Valid::Now);
    publish_some(dir.path(), &with(&right)).expect(0, &[]);
    assert_eq!(
        (served.refused(), served.engine.ledger("stored")),
        (3, 30),
        "refused and stored"
    );
    served.engine.process.stop();
}

#[test]
fn certificates_that_cannot_be_used_are_found_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let one = authority.server("one", &["localhost"], Valid::Now);
    let two = authority.server("two", &["localhost"], Valid::Now);
    let check = |listener: &str, words: &[&str]| {
        let config = format!("[listener]\n{listener}\n");
        fs::write(dir.path().join("vigie.toml"), config).unwrap();
        engine(dir.path(), &["check", "--config", "vigie.toml"]).expect(2, words);
    };
    let pair = |cert: &Path, key: &Path| {
        format!(
            "cert_file = \"{}\"\nkey_file = \"{}\"",
            cert.display(),
            key.display()
        )
    };
    check(
        &pair(&one.cert, &two.key),
        &["listener.key_file", "does not fit", "name the key"],
    );
    check(
        &pair(Path::new("nowhere"), &one.key),
        &["listener.cert_file", "nowhere", "cannot be read"],
    );
    check(
        &format!("cert_file = \"{}\"", one.cert.display()),
        &["listener.key_file", "set both"],
    );
    check(
        &pair(&one.key, &one.key),
        &["listener.cert_file", "holds no certificate"],
    );
    fs::set_permissions(
        &one.key,
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    check(
        &pair(&one.cert, &one.key),
        &["listener.key_file", "every user", "chmod 600"],
    );
    private(&one.key);
    check(
        "addr = \"0.0.0.0:1883\"",
        &["listener.addr", "no users are configured"],
    );
}

#[test]
fn client_certificates_allow_addresses_beyond_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let server = authority.server("server", &["localhost"], Valid::Now);
    let config = format!(
        "[listener]\naddr = \"0.0.0.0:1883\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n\
         client_ca_file = \"{}\"\n",
        server.cert.display(),
        server.key.display(),
        authority.file.display(),
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    engine(dir.path(), &["check", "--config", "vigie.toml"]).expect(0, &[]);
}
