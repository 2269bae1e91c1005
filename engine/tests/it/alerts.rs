//! What people and programs are told, by real servers: few mails however much goes wrong, each
//! incident in one, none twice but after a kill; and what becomes of the answers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use vigie_actors::alert::link::hmac_hex;

use super::certificates::{Authority, Identity, Valid};
use super::foreign::is_there;
use super::harness::{
    Engine, PATIENCE, engine, get, now_ms, package_file, setting, simulate, text_of, wait_until,
};
use super::mail_server::{MailServer, PASSWORD};
use super::mqtt::{Publisher, Version};
use super::smtp::{alarm, header, publish};

/// `POST path` with a JSON body: status and answer.
pub(crate) fn post(addr: SocketAddr, path: &str, kind: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Ids of incidents that a mail names.
fn named(mail: &Value) -> BTreeSet<String> {
    let text = text_of(&mail["body"]);
    let words = text.split(|c: char| c.is_whitespace() || "()".contains(c));
    let is_id = |word: &&str| {
        let parts = word.split_once('-');
        parts.is_some_and(|(_, rest)| rest.len() >= 13 && rest.as_bytes()[0].is_ascii_digit())
    };
    let ids = words.filter(is_id).map(str::to_owned);
    // Times have hyphens, too.
    ids.filter(|id| !id.starts_with("20")).collect()
}

#[test]
fn a_storm_is_a_few_mails_and_every_incident_is_in_one() {
    const SENSORS: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    let fleet = format!(
        "--sensors {SENSORS} --count 850000 --rate max --interval 1s --faults sentinel \
         --fault-every 1 --fault-warmup 0 --start {}",
        now_ms() - 86_400_000
    );
    simulate(dir.path(), &engine.door(), &fleet);
    let anomalies = engine.ledger("anomalies");
    assert!(anomalies >= 100_000, "{anomalies} anomalies");
    let incidents: BTreeSet<String> = engine
        .incidents()
        .iter()
        .map(|incident| text_of(&incident["id"]))
        .collect();
    assert!(incidents.len() >= SENSORS, "{} incidents", incidents.len());
    // The second digest comes when the day's budget allows.
    let mails = wait_until("mails about all incidents", Duration::from_mins(3), || {
        let mails = server.mails();
        let told: BTreeSet<String> = mails.iter().flat_map(named).collect();
        let missing = incidents.difference(&told).count();
        match missing {
            0 => Ok(mails),
            _ => Err(format!(
                "{missing} incidents are in none of {} mails",
                mails.len()
            )),
        }
    });
    assert!(mails.len() <= 15, "{} mails", mails.len());
    let digest = mails
        .iter()
        .map(|mail| text_of(&mail["subject"]))
        .find(|s| s.ends_with("incidents"));
    assert!(digest.is_some(), "{:?}", server.arrived());
    eprintln!(
        "{anomalies} anomalies of {} incidents: {} mails",
        incidents.len(),
        mails.len()
    );
    engine.process.stop();
}

/// Each kill may double what was under way, and loses nothing. The server takes its time to answer,
/// so that kills fall between its taking a mail and the engine's knowing so.
#[test]
fn kills_while_mails_go_out_double_one_each_at_most() {
    let kills = setting("VIGIE_MAIL_KILLS", 20);
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let config = "[incidents]\nclear_after = \"30d\"\n";
    // So much that digests follow each other within a second.
    let config = server.config(PASSWORD, config) + "daily_budget = 100000\n";
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    server.mode("late");
    let mut random = StdRng::seed_from_u64(6);
    for kill in 0..kills {
        let mut running = Engine::run_with(dir.path(), &args);
        for sensor in 0..3 {
            alarm(&running, &format!("K{kill:03}-{sensor}"));
        }
        if kill % 2 == 0 {
            // At a mail that is being taken.
            let before = server.mails().len();
            wait_until("a mail", PATIENCE, || match server.mails().len() {
                now if now > before => Ok(()),
                _ => Err(format!("{before} mails")),
            });
            std::thread::sleep(Duration::from_millis(random.gen_range(0..300)));
        } else {
            std::thread::sleep(Duration::from_millis(random.gen_range(0..1500)));
        }
        running.process.kill();
    }
    // Taken, and the engine was gone before it could hear so.
    let unheard = wait_until("no mail under way", PATIENCE, || {
        let before = (server.mails().len(), server.events("answered"));
        std::thread::sleep(Duration::from_millis(700));
        let now = (server.mails().len(), server.events("answered"));
        (before == now)
            .then_some(now.0 - now.1)
            .ok_or_else(|| format!("{before:?} {now:?}"))
    });
    server.mode("ok");
    let mut running = Engine::run_with(dir.path(), &args);
    wait_until("an empty outbox", Duration::from_mins(1), || match running
        .count("vigie_notices_waiting{channel=\"mail\"}")
    {
        0 => Ok(()),
        waiting => Err(format!("{waiting} notices wait")),
    });
    let mails = server.mails();
    let mut told = BTreeSet::new();
    // A mail that came before may come again together with what has happened since.
    let repeating = mails.iter().filter(|mail| {
        let mut again = false;
        for id in named(mail) {
            again |= !told.insert(id);
        }
        again
    });
    let repeating = repeating.count();
    let incidents = running.incidents();
    assert_eq!(incidents.len(), kills as usize * 3);
    for incident in &incidents {
        let id = text_of(&incident["id"]);
        assert!(told.contains(&id), "{id} was never told");
    }
    assert!(
        repeating <= kills as usize,
        "{repeating} of {} mails repeat others",
        mails.len()
    );
    assert!(
        unheard >= kills as usize / 3 && repeating >= 1,
        "too few kills fell while a mail was under way: {unheard} unheard, {repeating} repeated"
    );
    eprintln!(
        "{kills} kills, {unheard} of them during a mail, {} incidents, {} mails, of which \
         {repeating} repeat another",
        incidents.len(),
        mails.len()
    );
    running.process.stop();
}

#[test]
fn a_group_that_is_cut_off_is_one_mail_and_one_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let config = "[groups.hall]\nsensors = [\"C*\"]\n\n[incidents]\ngather = \"5s\"\n\
                  clear_after = \"3s\"\n";
    let mut engine = server.engine_with(dir.path(), PASSWORD, config);
    simulate(
        dir.path(),
        &engine.door(),
        "--sensors 40 --rate 40 --duration 25s",
    );
    let mails = server.wait_mails(1, PATIENCE);
    assert_eq!(mails[0]["subject"], "[Vigie] hall: silence");
    let text = text_of(&mails[0]["body"]);
    assert!(
        text.starts_with("Something is wrong: 40 sensors of hall are silent"),
        "{text}"
    );
    assert!(
        text.contains("40: C001, C002") && text.contains("and 20 more"),
        "{text}"
    );
    simulate(
        dir.path(),
        &engine.door(),
        "--sensors 40 --rate 40 --duration 5s --boot b",
    );
    let mails = server.wait_mails(2, PATIENCE);
    assert_eq!(mails[1]["subject"], mails[0]["subject"]);
    assert_eq!(
        header(&mails[1], "References"),
        header(&mails[0], "Message-ID")
    );
    assert!(text_of(&mails[1]["body"]).starts_with("It is over"));
    assert_eq!(engine.incidents().len(), 1);
    engine.process.stop();
}

/// Sensors of a group that fall silent one after the other are one thread of mails, and so is a value
/// that swings about its line all the while.
#[test]
fn what_grows_and_what_flaps_are_a_thread_each() {
    const SENSORS: u64 = 7;
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let config = "[groups.hall]\nsensors = [\"C*\"]\n\n[score]\nsilence_least = \"5s\"\n\n\
                  [incidents]\ngather = \"1s\"\ntogether_within = \"1m\"\nclear_after = \"2s\"\n\n\
                  [quantities.level]\nunit = \"cm\"\nmin = 0.0\nmax = 25.0\n";
    let mut running = server.engine_with(dir.path(), PASSWORD, config);
    let mut publisher = Publisher::connect(running.mqtt(), Version::V5);
    let begun = Instant::now();
    let mut seq = 0;
    let mut flaps = 0;
    let subjects = |end: &str| -> Vec<Value> {
        let mails = server.mails().into_iter();
        mails
            .filter(|mail| text_of(&mail["subject"]).ends_with(end))
            .collect()
    };
    // The first falls silent after twelve seconds, each of the others three seconds after the one
    // before; a group that grows is told once a minute at most.
    while subjects("silence").len() < 2 {
        let elapsed_ms = begun.elapsed().as_millis();
        assert!(elapsed_ms < 150_000, "{:?}", server.arrived());
        let mut send = |sensor: &str, values: &str| {
            let payload = format!(
                r#"{{"id":"{sensor}","boot":"a","seq":{seq},"t":{},{values}}}"#,
                now_ms()
            );
            publisher.publish(
                &format!("sensors/{sensor}/reading"),
                payload.as_bytes(),
                false,
            );
        };
        for sensor in 0..SENSORS {
            if elapsed_ms < u128::from(12_000 + 3_000 * sensor) {
                send(&format!("C{sensor:03}"), r#""temperature":20.5"#);
            }
        }
        // Every three seconds over the line, or below it.
        let high = (elapsed_ms / 3_000) % 2 == 1;
        flaps += u64::from(high);
        let level = if high { 25.1 } else { 24.9 };
        send("F001", &format!(r#""level":{level}"#));
        seq += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    let thread = |mails: &[Value]| {
        let root = header(&mails[0], "Message-ID");
        assert_eq!(root.len(), 1);
        assert!(header(&mails[0], "References").is_empty());
        for mail in &mails[1..] {
            assert_eq!(mail["subject"], mails[0]["subject"]);
            assert_eq!(header(mail, "References"), root);
            assert_eq!(header(mail, "In-Reply-To"), root);
            assert_ne!(header(mail, "Message-ID"), root);
        }
    };
    let mails = subjects("silence");
    thread(&mails);
    let heads = mails.iter().map(|mail| text_of(&mail["body"]));
    let heads: Vec<String> = heads
        .map(|body| body.lines().next().unwrap_or_default().to_owned())
        .collect();
    assert!(
        heads[0].starts_with("Something is wrong: C000"),
        "{heads:?}"
    );
    let grown = format!("More sensors are concerned: {SENSORS} sensors of hall are silent");
    assert_eq!(heads[1], grown);
    let flapped = subjects("level");
    thread(&flapped);
    assert!(
        flaps >= 20 && flapped.len() <= 5,
        "{flaps}: {}",
        flapped.len()
    );
    let incidents = running.incidents();
    let mut whose: Vec<String> = incidents
        .iter()
        .map(|incident| text_of(&incident["sensor"]))
        .collect();
    whose.sort();
    assert_eq!(whose, ["C000", "F001"], "one incident of each");
    eprintln!(
        "{SENSORS} silent sensors: 2 mails; {flaps} readings over the line: {} mails",
        flapped.len()
    );
    running.process.stop();
}

/// Everything that a person can do about an incident, by mail, by command and by the API.
#[test]
fn people_answer_and_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let config = "[http]\npublic_url = \"https://vigie.example.org/\"\n";
    let mut running = server.engine_with(dir.path(), PASSWORD, config);
    alarm(&running, "cellar:C001");
    let mails = server.wait_mails(1, PATIENCE);
    let text = text_of(&mails[0]["body"]);
    let link = |answer: &str| {
        let mut links = text
            .split_whitespace()
            .filter(|word| word.starts_with("https://"));
        let link = links.find(|link| link.contains(answer)).unwrap();
        link.strip_prefix("https://vigie.example.org")
            .unwrap()
            .to_owned()
    };
    let id = text_of(&running.incidents()[0]["id"]);
    let path = format!("/api/v1/incidents/{}", id.replace(':', "%3A"));

    // Looking at the page does nothing, as programs do that look mails through.
    let (status, page) = get(running.http, &link("/ack?")).unwrap();
    assert!(status == 200 && page.contains("<button"), "{status} {page}");
    assert_eq!(running.json(&path)["acknowledged"], Value::Null);
    let form = "application/x-www-form-urlencoded";
    let (status, page) = post(running.http, &link("/ack?"), form, "");
    assert!(status == 200 && page.contains("Noted"), "{status} {page}");
    assert_eq!(
        running.json(&path)["acknowledged"]["by"],
        "a link in a mail"
    );

    // The command asks the engine that runs.
    let args = |more: &[&str]| -> Vec<String> {
        let place = ["--data-dir", "data"];
        let all = ["incidents"].iter().chain(more).chain(&place);
        all.map(|arg| (*arg).to_owned()).collect()
    };
    let listed = engine(dir.path(), &args(&["list"])).expect(0, &[]);
    assert!(
        listed.stdout.contains("a link in a mail looks after it"),
        "{listed:?}"
    );
    let hostile = "Eve\r\nBcc: eve@example.org \u{202e}<b>";
    let silenced = args(&["silence", &id, "--for", "1h", "--by", hostile]);
    engine(dir.path(), &silenced).expect(0, &[]);
    let (status, shown) = post(
        running.http,
        &format!("{path}/false-alarm"),
        "application/json",
        &json!({ "by": hostile }).to_string(),
    );
    assert_eq!(status, 200, "{shown}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(
        shown["resolved"].is_i64() && shown["false_alarm"]["at"].is_i64(),
        "{shown}"
    );
    assert!(
        !text_of(&shown["false_alarm"]["by"]).contains('\n'),
        "{shown}"
    );
    publish(&running, "cellar:C001", 9, -127.0);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.mails().len(), 1, "silence is silence");
    running.process.stop();

    // Without an engine the store is asked, and answers wait for the next one.
    let shown = engine(dir.path(), &args(&["show", &id])).expect(0, &[]);
    assert!(shown.stdout.contains("false alarm"), "{shown:?}");
    let unknown = engine(dir.path(), &args(&["ack", "nobody-1"])).expect(1, &["no incident"]);
    assert!(unknown.stderr.contains("lists those"), "{unknown:?}");
    let waits = engine(dir.path(), &args(&["ack", &id, "--by", "Ada"])).expect(0, &[]);
    assert!(waits.stdout.contains("when one starts"), "{waits:?}");
    let mut running = Engine::run_with(dir.path(), &["--mqtt", "127.0.0.1:0"]);
    wait_until("the answer", PATIENCE, || {
        let by = running.json(&path)["acknowledged"]["by"].clone();
        (by == "Ada").then_some(()).ok_or_else(|| by.to_string())
    });
    running.process.stop();
}

/// Texts that would like to be more than that, as TOML and JSON escape them.
const HOSTILE: [&str; 10] = [
    "x\\r\\nBcc: eve@example.org",
    "x\\nSubject: gotcha",
    "x\\r\\n\\r\\n<html>",
    "</td><script>alert(1)</script>",
    "<img src=https://example.org/x>",
    "\\\"><b>",
    "\\u202Egnp.exe",
    "\\u2066x\\u2069",
    "=?utf-8?q?=0d=0aBcc:_eve?=",
    "\\u0000\\u0007\\u001b[31m",
];

/// As names of groups, patterns, addresses, links: the config is refused, and for just that. Gives how
/// many were.
fn refused_by_the_config(dir: &Path) -> usize {
    type Template = fn(&str) -> String;
    let mut refused = 0;
    let templates: [(Template, &str, &str); 4] = [
        (
            |text| format!("[groups.\"{text}\"]\nsensors = [\"*\"]\n"),
            "not a name that can stand in a mail",
            "Hall 2",
        ),
        (
            |text| format!("[groups.hall]\nsensors = [\"{text}\"]\n"),
            "groups.hall.sensors",
            "hall-*",
        ),
        (
            |text| format!("[email]\nemail_to = \"{text}\"\n"),
            "email.email_to",
            "you@example.org",
        ),
        (
            |text| format!("[http]\npublic_url = \"https://{text}\"\n"),
            "http.public_url",
            "vigie.example.org",
        ),
    ];
    for (template, named, harmless) in templates {
        let check = |text: &str| {
            fs::write(dir.join("vigie.toml"), template(text)).unwrap();
            engine(dir, &["check", "--config", "vigie.toml"])
        };
        check(harmless).expect(0, &[]);
        for text in HOSTILE {
            let checked = check(text).expect(2, &[named]);
            let lines: Vec<&str> = checked.stderr.lines().collect();
            assert!(
                lines.len() <= 2 && !checked.stderr.contains(['\u{202e}', '\u{2066}', '\u{1b}']),
                "{text} {lines:?}"
            );
            refused += 1;
        }
    }
    refused
}

/// Whatever stands in names and units: a mail has the headers that it should have, and no other.
#[test]
fn nothing_can_be_put_into_a_mail_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let refused = refused_by_the_config(dir.path());
    // As units they are text, whatever they hold.
    let expected = BTreeSet::from(
        [
            "From",
            "To",
            "Auto-Submitted",
            "List-Id",
            "Subject",
            "Message-ID",
            "Date",
            "MIME-Version",
            "Content-Type",
        ]
        .map(str::to_owned),
    );
    let units: Vec<String> = (0..HOSTILE.len())
        .map(|at| {
            let unit = HOSTILE[at];
            format!("[quantities.q{at}]\nunit = \"{unit}\"\nmin = 0.0\nmax = 1.0\n")
        })
        .collect();
    // The eleventh mail need not wait either.
    let config = server.config(PASSWORD, &units.concat()) + "daily_budget = 100000\n";
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut running = Engine::run_with(dir.path(), &args);
    for at in 0..HOSTILE.len() {
        let payload = format!(r#"{{"id":"H{at:02}","t":{},"q{at}":77}}"#, now_ms());
        let topic = format!("sensors/H{at:02}/reading");
        super::mqtt::Publisher::connect(running.mqtt(), super::mqtt::Version::V5).publish(
            &topic,
            payload.as_bytes(),
            false,
        );
        server.wait_mails(at + 1, PATIENCE);
    }
    for mail in server.mails() {
        let headers = mail["headers"].as_array().unwrap();
        let names: Vec<String> = headers.iter().map(|header| text_of(&header[0])).collect();
        assert_eq!(names.len(), expected.len(), "{names:?}");
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(mail["to"], json!(["you@example.org"]));
        assert_eq!(mail["defects"], json!([]), "{mail}");
        let html = text_of(&mail["html"]);
        for markup in [
            "<script",
            "<img src=https",
            "<b>",
            "\u{202e}",
            "\u{2066}",
            "\u{1b}",
        ] {
            assert!(!html.contains(markup), "{markup:?} in {html}");
            assert!(markup.starts_with('<') || !text_of(&mail["body"]).contains(markup));
        }
    }
    // As ids of sensors they are no readings: kept aside, and no mail.
    let mut publisher = Publisher::connect(running.mqtt(), Version::V5);
    let before = running.count("vigie_quarantined_total");
    for text in HOSTILE {
        // What is an escape in TOML is one in JSON.
        let payload = format!(r#"{{"id":"{text}","t":{},"temperature":-127}}"#, now_ms());
        publisher.publish("sensors/H00/reading", payload.as_bytes(), false);
    }
    wait_until("the quarantine", PATIENCE, || {
        let now = running.count("vigie_quarantined_total") - before;
        (now == HOSTILE.len() as u64)
            .then_some(())
            .ok_or_else(|| format!("{now} in quarantine"))
    });
    // Who comes after them is mailed, and they were not.
    alarm(&running, "H99");
    let mails = server.wait_mails(HOSTILE.len() + 1, PATIENCE);
    let subject = text_of(&mails[HOSTILE.len()]["subject"]);
    assert_eq!(subject, "[Vigie] H99: temperature");
    assert_eq!(running.sensors().len(), HOSTILE.len() + 1);
    eprintln!(
        "{refused} refused by the config, {0} harmless in mails, {0} as ids in quarantine",
        HOSTILE.len()
    );
    running.process.stop();
}

/// The mail as mail programs show it: nothing is wider than a telephone.
/// A device that has crashed into another firmware says so, and the mail about it, too.
#[test]
fn a_mail_tells_of_the_device_its_start_and_its_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    let mut publisher = Publisher::connect(engine.mqtt(), Version::V5);
    // A device is not started twice within a millisecond.
    let mut time_ms = now_ms() - 3_000;
    let mut send = |rest: &str| {
        time_ms += 1_000;
        let payload = format!(r#"{{"id":"C001","t":{time_ms},{rest}}}"#);
        publisher.publish("sensors/C001/reading", payload.as_bytes(), false);
    };
    send(r#""boot":"a","seq":7,"temperature":21.5,"fw":"1.3.2","reset":"power_on""#);
    send(
        r#""boot":"b","seq":0,"temperature":21.5,"fw":"1.4.0","reset":"panic","crash":"<b>\r\nBcc: x""#,
    );
    send(r#""boot":"b","seq":1,"temperature":-127.0"#);
    let body = text_of(&server.wait_mails(1, PATIENCE)[0]["body"]);
    let line = |label: &str| {
        let line = body.lines().find(|line| line.starts_with(label));
        line.unwrap_or_else(|| panic!("no {label} in {body}"))
    };
    // What would break the line has been replaced.
    assert!(
        line("Restarted").ends_with("(panic: <b>\u{fffd}\u{fffd}Bcc: x)"),
        "{body}"
    );
    let firmware = line("Firmware");
    assert!(
        firmware.contains("1.4.0 since 2") && firmware.ends_with("before that 1.3.2"),
        "{body}"
    );
    let device = &engine.json("/api/v1/sensors")["sensors"][0]["device"];
    assert_eq!(
        (&device["firmware"], &device["reset"], &device["starts"]),
        (&json!("1.4.0"), &json!("panic"), &json!(1)),
        "{device}"
    );
    engine.process.stop();
}

#[test]
fn a_mail_looks_right_on_a_telephone() {
    let dir = tempfile::tempdir().unwrap();
    if !is_there("chromium") {
        return;
    }
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let config = server.config(
        PASSWORD,
        "[http]\npublic_url = \"https://vigie.example.org\"\n",
    );
    fs::write(
        dir.path().join("vigie.toml"),
        config + "language = \"fr\"\n",
    )
    .unwrap();
    engine(dir.path(), &["test-alert", "--config", "vigie.toml"]).expect(0, &[]);
    let mail = &server.wait_mails(1, PATIENCE)[0];
    assert_eq!(
        mail["parts"],
        json!([
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png"
        ])
    );
    let html = text_of(&mail["html"]);
    assert!(
        html.contains("Quelque chose ne va pas") && html.contains("cid:chart"),
        "{html}"
    );
    let pictures: Vec<_> = fs::read_dir(dir.path().join("mailbox"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .collect();
    let picture = pictures.first().expect("the picture of the mail");
    let html = html.replace("cid:chart", &format!("file://{}", picture.display()));
    fs::write(dir.path().join("mail.html"), &html).unwrap();
    // Headless windows are not narrower than 500 pixels, frames are.
    let frame = "<iframe id=f src=mail.html width=360 height=800 style=border:0></iframe><script>\
         f.onload=()=>{const d=f.contentDocument;\
         document.title=[d.documentElement.scrollWidth,d.images[0].naturalWidth,\
         d.querySelectorAll('a').length].join()}</script>";
    fs::write(dir.path().join("frame.html"), frame).unwrap();
    let shown = chromium(dir.path(), &["--dump-dom"], "frame.html");
    let title = shown
        .split_once("<title>")
        .map(|(_, rest)| rest.split('<').next());
    assert_eq!(
        title,
        Some(Some("360,1200,3")),
        "width, picture, buttons: {shown}"
    );
    let screenshot = dir.path().join("mail.png");
    let option = format!("--screenshot={}", screenshot.display());
    chromium(dir.path(), &[&option, "--window-size=640,760"], "mail.html");
    let size = fs::metadata(&screenshot).unwrap().len();
    assert!(size > 10_000, "{size} bytes of screenshot");
    // To be looked at.
    fs::copy(&screenshot, package_file("../target/mail.png")).unwrap();
}

/// What headless Chromium prints of a page.
fn chromium(dir: &Path, options: &[&str], page: &str) -> String {
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let page = format!("file://{}", dir.join(page).display());
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
        ])
        .args(["--virtual-time-budget=5000", &profile])
        .args(options)
        .arg(page)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that takes notices: how it answers, and what it got.
struct Receiver {
    addr: SocketAddr,
    status: Arc<Mutex<u16>>,
    got: Arc<Mutex<Vec<(String, String)>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            addr: listener.local_addr().unwrap(),
            status: Arc::new(Mutex::new(200)),
            got: Arc::default(),
        };
        let (status, got) = (Arc::clone(&receiver.status), Arc::clone(&receiver.got));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                reader.read_exact(&mut body).unwrap();
                let status = *status.lock().unwrap();
                if status == 200 {
                    got.lock()
                        .unwrap()
                        .push((head, String::from_utf8(body).unwrap()));
                }
                let _gone = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
        });
        receiver
    }

    fn got(&self) -> Vec<(String, String)> {
        self.got.lock().unwrap().clone()
    }
}

#[test]
fn programs_get_each_notice_signed_and_only_what_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    *receiver.status.lock().unwrap() = 503;
    let config = format!(
        "[groups.hall]\nsensors = [\"hall-*\"]\n\n[webhook.pager]\n\
         url = \"http://{}/hook\"\nsecret = \"a secret of both\"\ngroups = [\"hall\"]\n",
        receiver.addr
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut running = Engine::run_with(dir.path(), &args);
    alarm(&running, "attic");
    alarm(&running, "hall-1");
    let waiting = "vigie_notices_waiting{channel=\"webhook-pager\"}";
    wait_until("the refusal", PATIENCE, || {
        let said = running.process.stderr().join("\n");
        said.contains("answered 503").then_some(()).ok_or(said)
    });
    assert_eq!(running.count(waiting), 1, "the attic is not of the hall");
    *receiver.status.lock().unwrap() = 200;
    let got = wait_until("the notice", PATIENCE, || match receiver.got() {
        got if got.is_empty() => Err(running.process.stderr().join("\n")),
        got => Ok(got),
    });
    let (head, body) = &got[0];
    let header = |name: &str| {
        let mut lines = head.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {head}"))
            .to_owned()
    };
    let signature = header("x-vigie-signature");
    let (at, digest) = signature.split_once(",v1=").unwrap();
    let at = at.strip_prefix("t=").unwrap();
    assert!(
        (at.parse::<i64>().unwrap() - now_ms() / 1000).abs() < 60,
        "{at}"
    );
    let signed = format!("{at}.{body}");
    assert_eq!(digest, hmac_hex(b"a secret of both", signed.as_bytes()));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["event"], "opened");
    assert_eq!(body["id"], header("x-vigie-delivery").as_str());
    let incident = &body["incident"];
    assert_eq!(
        (&incident["sensor"], &incident["group"]),
        (&json!("hall-1"), &json!("hall"))
    );
    assert_eq!(
        *incident,
        running.json("/api/v1/incidents?open")["incidents"][1]
    );
    assert_eq!(receiver.got().len(), 1);

    // An address that is wrong, as it seems: nothing is thrown away, nobody hammers, and it is told
    // what to do.
    *receiver.status.lock().unwrap() = 404;
    alarm(&running, "hall-3");
    let said = wait_until("the refusal", PATIENCE, || {
        let said = running.process.stderr().join("\n");
        said.contains("answered 404")
            .then_some(said.clone())
            .ok_or(said)
    });
    assert!(said.contains("check the url"), "{said}");
    alarm(&running, "hall-2");
    wait_until("both wait", PATIENCE, || match running.count(waiting) {
        2 => Ok(()),
        count => Err(format!("{count} wait")),
    });
    *receiver.status.lock().unwrap() = 200;
    std::thread::sleep(Duration::from_secs(3));
    running.process.stop();
    assert_eq!(receiver.got().len(), 1, "tried again too soon");
    // A start is a new attempt.
    let mut running = Engine::run_with(dir.path(), &args);
    let got = wait_until("both notices", PATIENCE, || match receiver.got() {
        got if got.len() < 3 => Err(running.process.stderr().join("\n")),
        got => Ok(got),
    });
    let sensors: Vec<Value> = got
        .iter()
        .map(|(_, body)| serde_json::from_str::<Value>(body).unwrap()["incident"]["sensor"].clone())
        .collect();
    assert_eq!(sensors, ["hall-1", "hall-3", "hall-2"]);
    wait_until("nothing waits", PATIENCE, || match running.count(waiting) {
        0 => Ok(()),
        count => Err(format!("{count} wait")),
    });
    running.process.stop();
}

/// Takes POSTs over TLS, and says so line by line: the port first.
const TLS_RECEIVER: &str = "\
import http.server, ssl, sys
class Taker(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        self.send_response(204); self.end_headers()
        print(self.path, len(body), flush=True)
server = http.server.HTTPServer(('127.0.0.1', 0), Taker)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

#[test]
fn webhooks_are_encrypted_and_the_other_side_is_who_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "hook-ca");
    let Identity { cert, key } = authority.server("hook", &["localhost"], Valid::Now);
    let mut child = Command::new("python3")
        .args(["-c", TLS_RECEIVER])
        .args([&cert, &key])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap();
    let test = |host: &str, more: &str| {
        let config = format!("[webhook.x]\nurl = \"https://{host}:{port}/secret-path\"\n{more}");
        fs::write(dir.path().join("vigie.toml"), config).unwrap();
        let args = [
            "test-alert",
            "--channel",
            "webhook-x",
            "--config",
            "vigie.toml",
        ];
        engine(dir.path(), &args)
    };
    let ca = format!("ca_file = \"{}\"\n", authority.file.display());
    let strange = test("localhost", "").expect(1, &["did not go by webhook-x"]);
    assert!(strange.stdout.contains("unknown issuer"), "{strange:?}");
    let elsewhere = test("127.0.0.1", &ca).expect(1, &[]);
    assert!(
        elsewhere.stdout.contains("for another host"),
        "{elsewhere:?}"
    );
    let delivered = test("localhost", &ca).expect(0, &[]);
    assert!(delivered.stdout.contains("delivered"), "{delivered:?}");
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("/secret-path "), "{line}");
    for said in [strange, elsewhere, delivered] {
        assert!(!said.stdout.contains("secret-path"), "{said:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Alertmanager, on a port of its own.
pub(crate) struct Manager {
    child: Child,
    addr: SocketAddr,
}

impl Manager {
    fn start(dir: &Path, addr: SocketAddr) -> Self {
        let nobody = "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n";
        Self::start_with(dir, addr, nobody)
    }

    /// With a config of its own.
    pub(crate) fn start_with(dir: &Path, addr: SocketAddr, text: &str) -> Self {
        let config = dir.join("alertmanager.yml");
        fs::write(&config, text).unwrap();
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                dir.join("alertmanager").display()
            ))
            .arg(format!("--web.listen-address={addr}"))
            .arg("--cluster.listen-address=")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let manager = Self { child, addr };
        wait_until("Alertmanager", PATIENCE, || match get(addr, "/-/ready") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        manager
    }

    fn alerts(&self) -> Vec<Value> {
        let (_, body) = get(self.addr, "/api/v2/alerts").unwrap();
        serde_json::from_str(&body).unwrap()
    }

    fn wait_alerts(&self, sensors: &[&str], within: Duration) -> Vec<Value> {
        wait_until(&format!("alerts of {sensors:?}"), within, || {
            let alerts = self.alerts();
            let mut named: Vec<String> = alerts
                .iter()
                .map(|alert| text_of(&alert["labels"]["sensor"]))
                .collect();
            named.sort();
            (named == sensors)
                .then_some(alerts)
                .ok_or_else(|| format!("{named:?}"))
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A sensor goes on sending what cannot be true, until what this gives is called.
fn goes_on(mqtt: SocketAddr, sensor: &'static str) -> impl FnOnce() {
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let payload = format!(r#"{{"id":"{sensor}","t":{},"temperature":-127}}"#, now_ms());
                Publisher::connect(mqtt, Version::V5).publish(
                    &format!("sensors/{sensor}/reading"),
                    payload.as_bytes(),
                    false,
                );
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    };
    move || {
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
    }
}

#[test]
fn alertmanager_has_the_open_incidents_also_after_it_forgot_them() {
    if !is_there("prometheus-alertmanager") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let manager = Manager::start(dir.path(), free);
    let config = format!(
        "[incidents]\nclear_after = \"2s\"\n\n[alertmanager.main]\nurl = \"http://{free}\"\n"
    );
    fs::write(dir.path().join("vigie.toml"), config).unwrap();
    let args = ["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"];
    let mut running = Engine::run_with(dir.path(), &args);
    alarm(&running, "C001");
    let alerts = manager.wait_alerts(&["C001"], PATIENCE);
    let alert = &alerts[0];
    assert_eq!(alert["labels"]["alertname"], "VigieIncident");
    assert_eq!(alert["labels"]["severity"], "critical");
    let words = text_of(&alert["annotations"]["description"]);
    assert!(words.contains("cannot be true"), "{words}");

    // It is restarted with nothing, and is told again within a minute.
    drop(manager);
    fs::remove_dir_all(dir.path().join("alertmanager")).unwrap();
    let manager = Manager::start(dir.path(), free);
    let stop = goes_on(running.mqtt(), "C001");
    let begun = Instant::now();
    manager.wait_alerts(&["C001"], Duration::from_secs(75));
    eprintln!("told again after {:?}", begun.elapsed());
    stop();
    for seq in 0..4 {
        publish(&running, "C001", 100 + seq, 20.0);
        std::thread::sleep(Duration::from_secs(1));
    }
    manager.wait_alerts(&[], PATIENCE);

    // Whoever knows that it was nothing gets no mail about its end. Here it has to end, though it goes on.
    let stop = goes_on(running.mqtt(), "C002");
    manager.wait_alerts(&["C002"], PATIENCE);
    let incidents = running.incidents();
    let of = |incident: &&Value| incident["sensor"] == "C002";
    let id = text_of(&incidents.iter().find(of).unwrap()["id"]);
    let path = format!("/api/v1/incidents/{id}/false-alarm");
    let (status, body) = post(running.http, &path, "application/json", "{}");
    assert_eq!(status, 200, "{body}");
    manager.wait_alerts(&[], PATIENCE);
    stop();
    running.process.stop();
}
