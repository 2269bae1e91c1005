//! What the command line says to those who ask wrongly, and to those who ask well.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::harness::{Engine, engine, engine_reading, simulate_args};

/// Names as in the files of the Python system that this engine follows.
const SECRETS: &str = r#"
[mongodb]
uri = "mongodb+srv://someone:canary-mongo@cluster.example.org/?retryWrites=true"

[mqtt]
host = "broker.example.org"
port = 8883
username = "node"
password = "canary-mqtt"

[email]
smtp_host = "smtp.example.org"
smtp_port = 587
smtp_user = "someone@example.org"
smtp_password = "canary smtp"
email_to = "someone@example.org"
"#;

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn check_says_ok_or_key_value_and_fix() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(engine(dir, &["check"]).expect(0, &[]).stdout, "ok");
    write(dir, "good.toml", "[score]\nforest_trees = 50\n");
    engine(dir, &["check", "--config", "good.toml"]).expect(0, &[]);
    for (text, words) in [
        (
            "[score]\nforest_tres = 50\n",
            ["score.forest_tres", "unknown", "forest_trees"],
        ),
        (
            "[score]\nforest_trees = 1\n",
            ["score.forest_trees", "1", "1000"],
        ),
        (
            "[score]\nfalse_alarms_per_week = \"one\"\n",
            ["score.false_alarms_per_week", "one", "number"],
        ),
        ("[stats]\nwindow = \"1y\"\n", ["stats.window", "1y", "7d"]),
        (
            "[score\nforest_trees = 50\n",
            ["bad.toml:1:7", "not TOML", "]"],
        ),
        (
            "[listener]\naddr = \"0.0.0.0:1883\"\n",
            ["listener.addr", "0.0.0.0:1883", "127.0.0.1"],
        ),
    ] {
        write(dir, "bad.toml", text);
        engine(dir, &["check", "--config", "bad.toml"]).expect(2, &words);
        let run = ["run", "--config", "bad.toml", "--data-dir", "data"];
        engine(dir, &run).expect(2, &words);
    }
    engine(dir, &["check", "--config", "absent.toml"]).expect(2, &["absent.toml"]);
    assert!(
        !dir.join("data").exists(),
        "a bad config must not leave a store behind"
    );
}

#[test]
fn config_show_tells_origins_and_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "secrets.toml", SECRETS);
    let shown = engine(dir.path(), &["config", "show", "--config", "secrets.toml"]).expect(0, &[]);
    for word in [
        "secrets.toml",
        "default",
        "broker.example.org",
        "someone@example.org",
    ] {
        assert!(
            shown.stdout.contains(word),
            "{word} is not shown; {shown:#?}"
        );
    }
    for stream in [&shown.stdout, &shown.stderr] {
        assert!(!stream.contains("canary"), "a secret is shown; {shown:#?}");
    }
    engine(dir.path(), &["check", "--config", "secrets.toml"]).expect(0, &[]);
}

#[test]
fn every_command_has_help() {
    let dir = tempfile::tempdir().unwrap();
    for command in [
        "",
        "run",
        "demo",
        "replay",
        "simulate",
        "check",
        "config",
        "config show",
        "doctor",
        "hash-password",
    ] {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = engine(dir.path(), &args).expect(0, &[]);
        assert!(help.stdout.contains("Usage: engine"), "{help:#?}");
        assert!(
            help.stdout.lines().all(|line| line.chars().count() <= 100),
            "{help:#?}"
        );
    }
}

#[test]
fn wrong_flags_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ["--broker", "mqtt://127.0.0.1:1"];
    for (args, words) in [
        (&["run", "--prot", "1"][..], ["--prot", "Usage"]),
        (&["run", "--mqtt", "here"], ["--mqtt", "here"]),
        (&["frobnicate"], ["frobnicate", "Usage"]),
        (&["demo", "--speed", "2"], ["--recording", "Usage"]),
        (&["replay", "x.csv", "--speed", "-1"], ["-1", "Usage"]),
        (&["replay", "x.csv", "--speed", "0"], ["--speed", "max"]),
        (&["simulate"], ["--broker", "Usage"]),
        (&["simulate", "--broker", "http://x"], ["--broker", "mqtt"]),
        (
            &[&["simulate"], &broker[..], &["--faults", "glitch"]].concat(),
            ["glitch", "spike"],
        ),
        (
            &[&["simulate"], &broker[..], &["--rate", "fast"]].concat(),
            ["--rate", "max"],
        ),
    ] {
        engine(dir.path(), args).expect(2, &words);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    engine(dir, &["replay", "absent.csv", "--data-dir", "data"]).expect(1, &["absent.csv"]);
    write(dir, "odd.csv", "when,what\n1,2\n");
    engine(dir, &["replay", "odd.csv", "--data-dir", "data"]).expect(1, &["odd.csv", "timestamp"]);
    engine(dir, &["doctor", "--data-dir", "nowhere"]).expect(1, &["nowhere", "--data-dir"]);
    engine(
        dir,
        &["simulate", "--broker", "mqtt://127.0.0.1:1", "--count", "1"],
    )
    .expect(1, &["127.0.0.1:1"]);
}

#[test]
fn ports_and_data_in_use_are_named_with_the_flag_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (flag, mqtt, http) in [("--mqtt", &*addr, free), ("--http", free, &*addr)] {
        let args = ["run", "--data-dir", "data", "--mqtt", mqtt, "--http", http];
        engine(dir.path(), &args).expect(1, &[flag, &addr]);
    }

    let mut first = Engine::run(dir.path());
    let args = ["run", "--data-dir", "data", "--mqtt", free, "--http", free];
    engine(dir.path(), &args).expect(1, &["in use", "--data-dir"]);
    engine(dir.path(), &["doctor", "--data-dir", "data"]).expect(1, &["in use"]);
    assert_eq!(first.text("/readyz"), "ready\n", "the first engine goes on");
    first.process.stop();
}

#[test]
fn a_hashed_password_lets_its_user_in_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let hashed = engine_reading(dir, &["hash-password"], "right horse\n").expect(0, &[]);
    let hash = hashed.stdout.trim();
    assert!(hash.starts_with("$argon2id$"), "{hashed:#?}");
    engine_reading(dir, &["hash-password"], "\n").expect(2, &["empty"]);

    let user = format!(
        "[[listener.users]]\nname = \"node\"\npassword_hash = \"{hash}\"\npublish = [\"sensors/#\"]\n"
    );
    write(dir, "vigie.toml", &user);
    let shown = engine(dir, &["config", "show", "--config", "vigie.toml"]).expect(0, &[]);
    assert!(
        !shown.stdout.contains(hash),
        "the hash is shown; {shown:#?}"
    );

    let args = ["--config", "vigie.toml", "--mqtt", "127.0.0.1:0"];
    let mut running = Engine::run_with(dir, &args);
    let load = "--sensors 2 --count 20 --rate max --interval 1s --username node --password";
    for wrong in ["--count 1", "--count 1 --username node --password mule"] {
        let refused = engine(dir, &simulate_args(&running.door(), wrong));
        let refused = refused.expect(1, &["refused"]);
        assert!(
            !refused.stderr.contains("mule"),
            "the password is shown; {refused:#?}"
        );
    }
    assert_eq!(
        running.ledger("received"),
        0,
        "received from those who were refused"
    );
    let mut args = simulate_args(&running.door(), load);
    args.push("right horse".to_owned());
    engine(dir, &args).expect(0, &[]);
    assert_eq!(
        running.ledger("stored"),
        20,
        "stored from the one who was let in"
    );
    running.process.stop();
}
