//! Mail by a real server: what arrives, and what becomes of what does not.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::certificates::{Authority, Identity, Valid};
use super::harness::{Engine, PATIENCE, engine, now_ms, simulate, text_of, wait_until};
use super::mail_server::{MailServer, PASSWORD};
use super::mqtt::{Publisher, Version};

/// A reading that cannot be true, which is an incident at once.
pub(crate) fn alarm(engine: &Engine, sensor: &str) {
    publish(engine, sensor, 1, -127.0);
}

pub(crate) fn publish(engine: &Engine, sensor: &str, seq: u64, temperature: f64) {
    // Notices of the same millisecond are sent in the order of their sensors.
    std::thread::sleep(Duration::from_millis(2));
    let payload = format!(
        r#"{{"id":"{sensor}","boot":"a","seq":{seq},"t":{},"temperature":{temperature}}}"#,
        now_ms()
    );
    Publisher::connect(engine.mqtt(), Version::V5).publish(
        &format!("sensors/{sensor}/reading"),
        payload.as_bytes(),
        false,
    );
}

/// Attempts to mail that ended so.
fn attempts(engine: &Engine, result: &str) -> u64 {
    let ends = format!("result=\"{result}\"}}");
    let metrics = engine.metrics();
    metrics
        .iter()
        .filter(|(series, _)| {
            series.starts_with("vigie_notices_total{channel=\"mail\"") && series.ends_with(&ends)
        })
        .map(|(_, value)| value.parse::<u64>().unwrap())
        .sum()
}

fn wait_attempts(engine: &Engine, result: &str, within: Duration) {
    wait_until(result, within, || match attempts(engine, result) {
        0 => Err(format!("{:?}", engine.process.stderr())),
        _ => Ok(()),
    });
}

/// Waits until so many mails are delivered, put aside and waiting.
fn settled(engine: &Engine, expected: [u64; 3]) {
    wait_until("delivered, put aside and waiting mails", PATIENCE, || {
        let now = [
            attempts(engine, "delivered"),
            attempts(engine, "undeliverable"),
            engine.count("vigie_notices_waiting{channel=\"mail\"}"),
        ];
        (now == expected)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
}

/// Subjects of mails about these sensors' temperature.
fn about(sensors: &[&str]) -> Vec<String> {
    let subject = |sensor: &&str| format!("[Vigie] {sensor}: temperature");
    sensors.iter().map(subject).collect()
}

pub(crate) fn header<'a>(mail: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = mail["headers"].as_array().unwrap();
    headers
        .iter()
        .filter(|header| header[0] == name)
        .map(|header| header[1].as_str().unwrap())
        .collect()
}

#[test]
fn an_incident_is_a_thread_of_mails() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine_that(dir.path(), PASSWORD, "3s");
    alarm(&engine, "cellar:C001");
    server.wait_mails(1, PATIENCE);
    // Good again, for longer than it takes to believe it.
    let mut seq = 1;
    let mails = wait_until("the end of the incident", PATIENCE, || {
        seq += 1;
        publish(&engine, "cellar:C001", seq, 20.0);
        match server.mails() {
            mails if mails.len() == 2 => Ok(mails),
            mails => Err(format!("{} mails", mails.len())),
        }
    });
    for mail in &mails {
        assert_eq!(mail["authenticated"], true, "{mail}");
        assert_eq!(mail["encrypted"], true, "{mail}");
        assert_eq!(mail["from"], "me@example.org");
        assert_eq!(mail["to"], serde_json::json!(["you@example.org"]));
        assert_eq!(mail["subject"], "[Vigie] cellar:C001: temperature");
        assert_eq!(header(mail, "Auto-Submitted"), ["auto-generated"]);
        assert!(header(mail, "Bcc").is_empty());
    }
    let (first, second) = (&mails[0], &mails[1]);
    assert!(text_of(&first["body"]).contains("temperature -127 °C cannot be true"));
    assert!(text_of(&second["body"]).contains("It is over"));
    let root = header(first, "Message-ID");
    assert_eq!(root.len(), 1);
    assert_eq!(header(second, "In-Reply-To"), root);
    assert_eq!(header(second, "References"), root);
    assert_ne!(header(second, "Message-ID"), root);
    settled(&engine, [2, 0, 0]);
    engine.process.stop();
    let said = engine.process.stderr().join("\n") + &engine.process.stdout().join("\n");
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
fn tls_from_the_start_at_its_own_port() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut server) = MailServer::start(dir.path()) else {
        return;
    };
    if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", 465)) {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "port 465: {error}; be root, or allow it: sysctl net.ipv4.ip_unprivileged_port_start=465"
        );
        eprintln!("skipped: port 465 is not ours to take: {error}");
        return;
    }
    server.down();
    server.port = 465;
    server.up(&["--tls"]);
    let mut running = server.engine(dir.path(), PASSWORD);
    alarm(&running, "C001");
    let mails = server.wait_mails(1, PATIENCE);
    assert_eq!(mails[0]["encrypted"], true);
    running.process.stop();
}

#[test]
fn a_wrong_password_is_told_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut running = server.engine(dir.path(), "wrong");
    // In the order of time, which is not that of names.
    alarm(&running, "C002");
    wait_attempts(&running, "credentials", PATIENCE);
    let said = running.process.stderr().join("\n");
    assert!(
        said.contains("check email.smtp_user and email.smtp_password"),
        "{said}"
    );
    settled(&running, [0, 0, 1]);
    alarm(&running, "C001");
    settled(&running, [0, 0, 2]);
    for sensor in ["C002", "C001"] {
        wait_until("the terminal does not wait for the mail", PATIENCE, || {
            let lines = running.process.stdout();
            let told = lines.iter().any(|line| line.contains(sensor));
            told.then_some(()).ok_or_else(|| format!("{lines:?}"))
        });
    }
    // An account that is hammered gets locked.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.lines("events").len(), 1, "attempts to log in");
    running.process.stop();

    let args = ["test-alert", "--config", "vigie.toml"];
    let refused = engine(dir.path(), &args).expect(1, &["did not go by mail"]);
    assert!(
        refused.stdout.contains("check email.smtp_user"),
        "{refused:?}"
    );
    let mut running = server.engine(dir.path(), PASSWORD);
    server.wait_mails(2, PATIENCE);
    assert_eq!(server.arrived(), about(&["C002", "C001"]));
    let tested = engine(dir.path(), &args).expect(0, &[]);
    for step in [
        "STARTTLS",
        "logged in as",
        "sender accepted",
        "mail taken: 250",
        "spam too",
    ] {
        assert!(tested.stdout.contains(step), "{step} in {tested:?}");
    }
    let mails = server.wait_mails(3, PATIENCE);
    assert_eq!(mails[2]["subject"], "[Vigie] TEST: temperature");
    running.process.stop();
}

#[test]
fn what_is_refused_for_now_comes_again_and_what_is_refused_for_good_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.mode("451");
    alarm(&engine, "C004");
    wait_attempts(&engine, "unavailable", PATIENCE);
    settled(&engine, [0, 0, 1]);
    alarm(&engine, "C001");
    settled(&engine, [0, 0, 2]);
    server.mode("550 C002");
    server.wait_mails(2, PATIENCE);
    alarm(&engine, "C002");
    wait_attempts(&engine, "undeliverable", PATIENCE);
    alarm(&engine, "C003");
    server.wait_mails(3, PATIENCE);
    assert_eq!(server.arrived(), about(&["C004", "C001", "C003"]));
    let aside: Vec<_> = fs::read_dir(dir.path().join("data/mail/undeliverable"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        aside.len() == 1 && aside[0].starts_with("C002-"),
        "{aside:?}"
    );
    let said = engine.process.stderr().join("\n");
    assert!(
        said.contains("(550): never") && said.contains("it was written into"),
        "{said}"
    );
    assert!(
        said.contains("check the addresses in email.email_to"),
        "{said}"
    );
    engine.process.stop();
}

/// As Gmail refuses when a day's mails are gone: nothing is lost, nobody hammers.
#[test]
fn a_spent_quota_stops_the_mails_and_they_come_in_order_when_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.mode("quota");
    alarm(&engine, "C002");
    wait_attempts(&engine, "quota", PATIENCE);
    let said = engine.process.stderr().join("\n");
    for words in [
        "5.4.5 Daily user sending limit exceeded",
        "set email.daily_budget lower",
        "waits in the outbox",
        "\"pause\":\"3600s\"",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // It would take them again, but is not asked.
    server.mode("ok");
    alarm(&engine, "C001");
    std::thread::sleep(Duration::from_secs(4));
    settled(&engine, [0, 0, 2]);
    assert_eq!(attempts(&engine, "quota"), 1);
    assert_eq!(server.events("auth"), 1, "attempts to log in");
    let aside = dir.path().join("data/mail/undeliverable");
    assert!(!aside.exists(), "nothing is put aside for that");
    engine.process.stop();
    // A start is a new beginning.
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.wait_mails(2, PATIENCE);
    assert_eq!(server.arrived(), about(&["C002", "C001"]));
    settled(&engine, [2, 0, 0]);
    engine.process.stop();
}

/// Waits until the metric says that so many more recipients may get a mail.
fn wait_left(engine: &Engine, expected: usize) {
    wait_until("the budget's metric", PATIENCE, || {
        let metrics = engine.metrics();
        let left = metrics.get("vigie_notice_budget_left{channel=\"mail\"}");
        (left == Some(&expected.to_string()))
            .then_some(())
            .ok_or_else(|| format!("{left:?} instead of {expected}"))
    });
}

const YOU: &str = "you@example.org";
const ADA: &str = "ada@example.org";
const BOTH: [(&str, &str); 1] = [("email_to", "you@example.org, ada@example.org")];

/// What went out counts for a day, once for each recipient, in the mail as in the metric, whoever
/// starts meanwhile.
#[test]
fn the_budget_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    // Of 400 recipients 50 are for what is critical.
    for (start, sensors) in [["C001", "C002"], ["C003", "C004"]].into_iter().enumerate() {
        let mut engine = server.engine_mailing(dir.path(), &BOTH);
        wait_left(&engine, 350 - 4 * start);
        for (nth, sensor) in sensors.into_iter().enumerate() {
            let count = 2 * start + nth + 1;
            alarm(&engine, sensor);
            let mails = server.wait_mails(count, PATIENCE);
            let body = text_of(&mails[count - 1]["body"]);
            let used = 2 * count;
            let footer =
                format!("Mails: {used} of 400 in the last 24 hours, one for each recipient");
            assert!(body.contains(&footer), "{body}");
            assert_eq!(mails[count - 1]["to"], serde_json::json!([YOU, ADA]));
            wait_left(&engine, 350 - used);
        }
        engine.process.stop();
    }
}

/// The server refuses one of two for good: the other gets every mail, at once.
#[test]
fn who_is_refused_for_good_keeps_no_mail_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine_mailing(dir.path(), &BOTH);
    server.mode(&format!("rcpt 550 {ADA}"));
    alarm(&engine, "C002");
    server.wait_mails(1, PATIENCE);
    alarm(&engine, "C001");
    let mails = server.wait_mails(2, PATIENCE);
    for mail in &mails {
        assert_eq!(mail["to"], serde_json::json!([YOU]));
    }
    settled(&engine, [2, 0, 0]);
    assert_eq!(server.events("rcpt"), 2, "asked once for each mail");
    wait_left(&engine, 346);
    let said = engine.process.stderr().join("\n");
    assert!(
        said.contains(ADA) && said.contains("did NOT get a mail that others have: check email"),
        "{said}"
    );
    // If nobody is left, it is put aside.
    server.mode(&format!("rcpt 550 {YOU}"));
    engine.process.stop();
    let mut engine = server.engine(dir.path(), PASSWORD);
    alarm(&engine, "C003");
    settled(&engine, [0, 1, 0]);
    engine.process.stop();
}

/// The server refuses one of two for now: the other has every mail at once, and the one gets what the
/// server takes for them within half a minute. Longer than that nobody waits, and that is told.
#[test]
fn who_is_refused_for_now_gets_it_later_and_holds_up_nobody_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine_mailing(dir.path(), &BOTH);
    server.mode(&format!("rcpt 452 {ADA}"));
    alarm(&engine, "C002");
    server.wait_mails(1, PATIENCE);
    server.mode("ok");
    let mails = server.wait_mails(2, PATIENCE);
    assert_eq!(mails[0]["to"], serde_json::json!([YOU]));
    assert_eq!(mails[1]["to"], serde_json::json!([ADA]));
    assert_eq!(
        header(&mails[0], "Message-ID"),
        header(&mails[1], "Message-ID")
    );
    settled(&engine, [1, 0, 0]);
    wait_left(&engine, 348);

    server.mode(&format!("rcpt 452 {ADA}"));
    alarm(&engine, "C003");
    server.wait_mails(3, PATIENCE);
    alarm(&engine, "C001");
    server.wait_mails(4, Duration::from_mins(1));
    // Nobody waits for the same one again and again.
    let begun = Instant::now();
    alarm(&engine, "C004");
    let mails = server.wait_mails(5, PATIENCE);
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    for mail in &mails[2..] {
        assert_eq!(mail["to"], serde_json::json!([YOU]));
    }
    assert_eq!(
        server.arrived()[1..],
        about(&["C002", "C003", "C001", "C004"])
    );
    settled(&engine, [4, 0, 0]);
    assert_eq!(attempts(&engine, "unavailable"), 0);
    // Who did not get which, and why.
    wait_until("what is told", PATIENCE, || {
        let lines = engine.process.stderr();
        let told = lines
            .iter()
            .filter(|line| line.contains("did NOT get a mail") && line.contains(ADA))
            .filter(|line| line.contains("mailbox full") && line.contains("check email.email_to"));
        let told: Vec<&String> = told.collect();
        let each = ["C003-", "C001-", "C004-"].iter().zip(&told);
        let right = each.filter(|(mail, line)| line.contains(*mail)).count() == 3;
        (right && told.len() == 3)
            .then_some(())
            .ok_or_else(|| lines.join("\n"))
    });
    server.mode("ok");
    alarm(&engine, "C005");
    let mails = server.wait_mails(6, PATIENCE);
    assert_eq!(mails[5]["to"], serde_json::json!([YOU, ADA]));
    engine.process.stop();
}

#[test]
fn a_sender_that_is_refused_puts_no_mail_aside() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    server.mode("sender");
    let mut engine = server.engine(dir.path(), PASSWORD);
    alarm(&engine, "C002");
    wait_attempts(&engine, "credentials", PATIENCE);
    settled(&engine, [0, 0, 1]);
    alarm(&engine, "C001");
    settled(&engine, [0, 0, 2]);
    let said = engine.process.stderr().join("\n");
    assert!(said.contains("check email.email_from"), "{said}");
    engine.process.stop();
    server.mode("ok");
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.wait_mails(2, PATIENCE);
    assert_eq!(server.arrived(), about(&["C002", "C001"]));
    engine.process.stop();
}

#[test]
fn after_a_stall_every_mail_gets_its_own_answer_and_the_stream_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine_mailing(dir.path(), &[("answer_within", "10s")]);
    server.mode("stall");
    alarm(&engine, "C001");
    server.wait_stalled();
    let begun = Instant::now();
    let published = simulate(dir.path(), &engine.door(), "--count 5000 --rate max");
    assert_eq!(engine.ledger("stored"), published.sent + 1);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?} while a mail stalls",
        begun.elapsed()
    );
    // One of them is refused: its answer must not be taken for another's.
    server.mode("550 C003");
    for sensor in ["C014", "C012", "C003", "C013"] {
        alarm(&engine, sensor);
    }
    wait_attempts(&engine, "unavailable", Duration::from_secs(35));
    wait_attempts(&engine, "undeliverable", PATIENCE);
    server.wait_mails(4, PATIENCE);
    assert_eq!(server.arrived(), about(&["C001", "C014", "C012", "C013"]));
    settled(&engine, [4, 1, 0]);
    engine.process.stop();
}

/// A server may look at a mail for long (RFC 5321 §4.5.3.2.6); whoever hangs up before it has
/// answered has the same mail delivered again.
#[test]
fn a_server_that_takes_its_time_to_answer_gets_each_mail_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.mode("later");
    alarm(&engine, "C002");
    server.wait_mails(1, PATIENCE);
    alarm(&engine, "C001");
    let waits = "vigie_notices_waiting{channel=\"mail\"}";
    assert_eq!(engine.count(waits), 1, "the mail that waits is counted");
    server.wait_mails(2, Duration::from_secs(40));
    settled(&engine, [2, 0, 0]);
    assert_eq!(attempts(&engine, "unavailable"), 0);
    assert_eq!(server.events("answered"), 2);
    assert_eq!(server.arrived(), about(&["C002", "C001"]));
    engine.process.stop();
}

#[test]
fn a_stall_does_not_hold_up_the_end_and_the_mail_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.mode("stall");
    alarm(&engine, "C001");
    server.wait_stalled();
    let begun = Instant::now();
    engine.process.signal("TERM");
    let code = engine.process.wait(Duration::from_secs(10));
    let took = begun.elapsed();
    assert_eq!(code, 0, "exit code");
    assert!(took < Duration::from_secs(5), "the shutdown took {took:?}");
    server.mode("ok");
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.wait_mails(1, PATIENCE);
    assert_eq!(server.arrived(), about(&["C001"]));
    engine.process.stop();
}

#[test]
fn a_server_that_is_not_to_be_trusted_gets_neither_mail_nor_password_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut server) = MailServer::start(dir.path()) else {
        return;
    };
    let stranger = Authority::new(dir.path(), "stranger");
    let host = ["localhost"];
    let cases: [(&str, Option<Identity>, &str); 5] = [
        (
            "another CA",
            Some(stranger.server("strange", &host, Valid::Now)),
            "unknown issuer",
        ),
        (
            "wrong host",
            Some(
                server
                    .authority
                    .server("elsewhere", &["mail.example"], Valid::Now),
            ),
            "for another host",
        ),
        (
            "expired",
            Some(server.authority.server("expired", &host, Valid::Expired)),
            "has expired",
        ),
        (
            "not yet valid",
            Some(server.authority.server("early", &host, Valid::NotYet)),
            "not valid yet",
        ),
        ("no TLS", None, "nothing is sent in the clear"),
    ];
    for (nth, (what, identity, words)) in cases.into_iter().enumerate() {
        server.down();
        server.up_with(identity.as_ref(), &[]);
        let mut engine = server.engine(dir.path(), PASSWORD);
        let sensors = [format!("C{nth}9"), format!("C{nth}1")];
        alarm(&engine, &sensors[0]);
        wait_attempts(&engine, "unavailable", PATIENCE);
        alarm(&engine, &sensors[1]);
        let said = engine.process.stderr().join("\n");
        assert!(said.contains(words), "{what}: {said}");
        assert_eq!(server.lines("events").len(), 2 * nth, "{what}: logins");
        assert_eq!(server.mails().len(), 2 * nth, "{what}: mails");
        server.down();
        server.up(&[]);
        server.wait_mails(2 * nth + 2, PATIENCE);
        let sensors = sensors.each_ref().map(String::as_str);
        assert_eq!(server.arrived()[2 * nth..], about(&sensors), "{what}");
        engine.process.stop();
    }
}

#[test]
fn a_server_that_hangs_up_or_is_slow_gets_every_mail_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let mut engine = server.engine(dir.path(), PASSWORD);
    server.mode("close");
    alarm(&engine, "C002");
    wait_attempts(&engine, "unavailable", PATIENCE);
    alarm(&engine, "C001");
    server.mode("slow");
    server.wait_mails(2, PATIENCE);
    assert_eq!(server.arrived(), about(&["C002", "C001"]));
    settled(&engine, [2, 0, 0]);
    engine.process.stop();
}
