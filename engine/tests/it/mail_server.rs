//! A mail server for tests that really speaks SMTP: `smtp_server.py` on aiosmtpd.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::certificates::{Authority, Identity, Valid};
use super::harness::{Engine, PATIENCE, package_file, text_of, wait_until};

pub(crate) const PASSWORD: &str = "canary-of-the-mailbox";

/// A mail server: `smtp_server.py` on aiosmtpd.
pub(crate) struct MailServer {
    child: Option<Child>,
    pub(crate) python: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) authority: Authority,
    identity: Identity,
    /// What it asks for, which need not be what the engine has.
    pub(crate) password: String,
}

/// Python with aiosmtpd, as `./test.sh` installs it. In CI it has to be there.
pub(crate) fn python() -> Option<PathBuf> {
    let python = package_file("../target/python/bin/python");
    let there = python.exists();
    assert!(
        there || std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing; ./test.sh makes it",
        python.display()
    );
    if !there {
        eprintln!("skipped: needs {}; ./test.sh makes it", python.display());
    }
    there.then_some(python)
}

impl MailServer {
    /// Its files are in `dir`/mailbox. `None`: there is no Python for it here.
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let python = python()?;
        let authority = Authority::new(dir, "mail-ca");
        let dir = dir.join("mailbox");
        fs::create_dir(&dir).unwrap();
        let identity = authority.server("mail", &["localhost"], Valid::Now);
        let mut server = Self {
            child: None,
            python,
            dir,
            port: 0,
            authority,
            identity,
            password: PASSWORD.to_owned(),
        };
        server.mode("ok");
        server.up(&[]);
        Some(server)
    }

    /// Starts it with its certificate, at the port that it had.
    pub(crate) fn up(&mut self, more: &[&str]) {
        let identity = self.identity.clone();
        self.up_with(Some(&identity), more);
    }

    pub(crate) fn up_with(&mut self, identity: Option<&Identity>, more: &[&str]) {
        let mut command = Command::new(&self.python);
        command
            .arg(package_file("tests/it/smtp_server.py"))
            .arg(&self.dir)
            .args(["--port", &self.port.to_string()])
            .args(["--user", "me@example.org", "--password", &self.password])
            .args(more);
        if let Some(Identity { cert, key }) = identity {
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        self.child = Some(child);
        self.port = line.trim().parse().unwrap();
    }

    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What it does from now on.
    pub(crate) fn mode(&self, mode: &str) {
        // At once, or it reads half a word.
        let new = self.dir.join("mode.new");
        fs::write(&new, mode).unwrap();
        fs::rename(new, self.dir.join("mode")).unwrap();
    }

    pub(crate) fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        // What follows the last line end is still being written.
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What it took.
    pub(crate) fn mails(&self) -> Vec<Value> {
        self.lines("mails")
    }

    /// Subjects of what it took, in the order in which it came.
    pub(crate) fn arrived(&self) -> Vec<String> {
        let mails = self.mails();
        mails.iter().map(|mail| text_of(&mail["subject"])).collect()
    }

    /// How often this happened.
    pub(crate) fn events(&self, what: &str) -> usize {
        let events = self.lines("events");
        events.iter().filter(|event| event["event"] == what).count()
    }

    pub(crate) fn wait_mails(&self, count: usize, within: Duration) -> Vec<Value> {
        wait_until(&format!("{count} mails"), within, || {
            let mails = self.mails();
            if mails.len() == count {
                Ok(mails)
            } else {
                Err(format!("{mails:?}; {:?}", self.lines("events")))
            }
        })
    }

    pub(crate) fn wait_stalled(&self) {
        wait_until("the stall", PATIENCE, || {
            let events = self.lines("events");
            let stalled = events.iter().any(|event| event["event"] == "stalled");
            stalled.then_some(()).ok_or_else(|| format!("{events:?}"))
        });
    }

    /// `engine run` that mails by it, with `password`.
    pub(crate) fn engine(&self, dir: &Path, password: &str) -> Engine {
        self.engine_that(dir, password, "10m")
    }

    /// The same; an incident is over after `clear_after` without anomalies.
    pub(crate) fn engine_that(&self, dir: &Path, password: &str, clear_after: &str) -> Engine {
        let incidents = format!("[incidents]\nclear_after = \"{clear_after}\"\n");
        self.engine_with(dir, password, &incidents)
    }

    /// The same, with `more` sections of a config.
    pub(crate) fn engine_with(&self, dir: &Path, password: &str, more: &str) -> Engine {
        fs::write(dir.join("vigie.toml"), self.config(password, more)).unwrap();
        Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"])
    }

    /// The same, with `more` lines in `[email]`, which may say otherwise.
    pub(crate) fn engine_mailing(&self, dir: &Path, more: &[(&str, &str)]) -> Engine {
        let mut config = self.config(PASSWORD, "");
        for (key, value) in more {
            let lines = config.lines();
            let others = lines.filter(|line| !line.starts_with(&format!("{key} = ")));
            let others: Vec<&str> = others.collect();
            config = format!("{}\n{key} = \"{value}\"\n", others.join("\n"));
        }
        fs::write(dir.join("vigie.toml"), config).unwrap();
        Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", "--config", "vigie.toml"])
    }

    /// A config of which `more` is the rest.
    pub(crate) fn config(&self, password: &str, more: &str) -> String {
        format!(
            "{more}\n[email]\nsmtp_host = \"localhost\"\nsmtp_port = {}\nsmtp_ca_file = \"{}\"\n\
             smtp_user = \"me@example.org\"\nsmtp_password = \"{password}\"\n\
             email_to = \"you@example.org\"\n",
            self.port,
            self.authority.file.display(),
        )
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.down();
    }
}
