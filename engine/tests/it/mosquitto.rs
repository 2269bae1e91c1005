//! A real broker: mosquitto with TLS, passwords and an access list, on ports of its own. It can be
//! killed, frozen and started again.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::certificates::{Authority, Identity, Valid, private};
use super::foreign::is_there;
use super::harness::{Door, Engine, PATIENCE, Process, wait_until};

/// Publishes.
pub(crate) const NODE: (&str, &str) = ("node", "node's secret");
/// Subscribes.
const ENGINE: (&str, &str) = ("engine", "engine's secret");

/// A running mosquitto.
pub(crate) struct Mosquitto {
    dir: PathBuf,
    child: Option<Child>,
    pub(crate) tls: SocketAddr,
    /// In the clear, with passwords and access list all the same.
    pub(crate) plain: SocketAddr,
    /// Has signed its certificate.
    pub(crate) authority: Authority,
    pub(crate) identity: Identity,
}

impl Mosquitto {
    /// Its files are in `dir`/mosquitto. `None`: there is no mosquitto here.
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        if !(is_there("mosquitto") && is_there("mosquitto_passwd")) {
            return None;
        }
        let dir = dir.join("mosquitto");
        fs::create_dir(&dir).unwrap();
        let authority = Authority::new(&dir, "ca");
        let identity = authority.server("server", &["localhost", "127.0.0.1"], Valid::Now);
        let passwords = dir.join("passwords");
        let entry = |(name, password)| format!("{name}:{password}\n");
        fs::write(&passwords, entry(NODE) + &entry(ENGINE)).unwrap();
        let hashed = Command::new("mosquitto_passwd")
            .arg("-U")
            .arg(&passwords)
            .status();
        assert!(hashed.unwrap().success(), "mosquitto_passwd");
        let access = dir.join("access");
        fs::write(
            &access,
            "user node\ntopic write sensors/#\n\nuser engine\ntopic read sensors/#\n",
        )
        .unwrap();
        private(&access);
        let mut mosquitto = Self {
            child: None,
            tls: free(),
            plain: free(),
            authority,
            identity,
            dir,
        };
        mosquitto.speak(Some(&mosquitto.identity));
        mosquitto.up();
        Some(mosquitto)
    }

    /// Writes its config for the next start: with this certificate at the port for TLS, or with no
    /// TLS there.
    pub(crate) fn speak(&self, identity: Option<&Identity>) {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut config = String::new();
        // It gives up root's rights otherwise, and with them its files.
        config += "user root\n";
        config += &format!("persistence true\npersistence_location {}/\n", file(""));
        config += "max_queued_messages 0\nallow_anonymous false\n";
        config += &format!(
            "password_file {}\nacl_file {}\nlog_dest file {}\n",
            file("passwords"),
            file("access"),
            file("log")
        );
        config += &format!("listener {} 127.0.0.1\n", self.plain.port());
        config += &format!("listener {} 127.0.0.1\n", self.tls.port());
        if let Some(Identity { cert, key }) = identity {
            let (cert, key) = (cert.display(), key.display());
            config += &format!("certfile {cert}\nkeyfile {key}\n");
        }
        fs::write(file("conf"), config).unwrap();
    }

    /// Starts it where it was, with what it kept.
    pub(crate) fn up(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("output"))
            .unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.dir.join("conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until("mosquitto", PATIENCE, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let connect = |addr: SocketAddr| TcpStream::connect(addr).map(drop);
            match connect(self.tls).and(connect(self.plain)) {
                Ok(()) => Ok(()),
                Err(error) => Err(format!("{error}; ended: {ended:?}; {}", self.log())),
            }
        });
    }

    /// Ends it with `TERM`, after which it has written everything down, or with `KILL`.
    pub(crate) fn down(&mut self, signal: &str) {
        self.signal(signal);
        self.child.take().unwrap().wait().unwrap();
    }

    /// `STOP` freezes it, `CONT` lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(sent.unwrap().success(), "kill -{signal}");
    }

    /// The text that it keeps on this topic, or what there is instead.
    pub(crate) fn retained(&self, topic: &str) -> String {
        let heard = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &self.plain.port().to_string()])
            .args(["-u", ENGINE.0, "-P", ENGINE.1, "-t", topic])
            .args(["--retained-only", "-C", "1", "-W", "1", "-F", "%p"])
            .output()
            .unwrap();
        let text = if heard.status.success() {
            heard.stdout
        } else {
            heard.stderr
        };
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("log") + &read("output")
    }

    /// How a fleet publishes at it.
    pub(crate) fn door(&self) -> Door {
        let broker = format!("mqtts://localhost:{}", self.tls.port());
        let ca = self.authority.file.to_str().unwrap();
        Door::new(&[
            "--broker",
            &broker,
            "--ca",
            ca,
            "--username",
            NODE.0,
            "--password",
            NODE.1,
        ])
    }

    /// Writes the config of an engine that subscribes at it, and gives the arguments that name it.
    /// `more` goes into the section.
    pub(crate) fn config(&self, dir: &Path, more: &str) -> [String; 2] {
        let secret = dir.join("mqtt-password");
        let mut file = File::create(&secret).unwrap();
        private(&secret);
        writeln!(file, "{}", ENGINE.1).unwrap();
        let config = dir.join("vigie.toml");
        let text = format!(
            "[mqtt]\nhost = \"localhost\"\nport = {}\nca_file = \"{}\"\nusername = \"{}\"\n\
             password_file = \"{}\"\n{more}\n",
            self.tls.port(),
            self.authority.file.display(),
            ENGINE.0,
            secret.display(),
        );
        fs::write(&config, text).unwrap();
        ["--config".to_owned(), config.to_str().unwrap().to_owned()]
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _status = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(30)..] {
                eprintln!("[mosquitto] {line}");
            }
        }
    }
}

/// A port that nobody listens on, below those that the system hands out by itself.
pub(crate) fn free() -> SocketAddr {
    let mut ports = (0..50).map(|_| rand::Rng::gen_range(&mut rand::thread_rng(), 20_000..32_000));
    ports
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .unwrap()
        .local_addr()
        .unwrap()
}

/// How readings reach the engine.
pub(crate) enum Way {
    /// Straight to its own listener.
    Listener,
    /// To mosquitto, where the engine is a subscriber.
    Mosquitto(Box<Mosquitto>),
}

impl Way {
    /// Through mosquitto. `None`: there is none here.
    pub(crate) fn mosquitto(dir: &Path) -> Option<Self> {
        Some(Self::Mosquitto(Box::new(Mosquitto::start(dir)?)))
    }

    /// `engine run` on free ports with its data in `dir`/data, which hears what is published.
    pub(crate) fn run(&self, dir: &Path) -> Engine {
        self.run_at(dir, "127.0.0.1:0")
    }

    /// The same, with the listener at `addr`.
    pub(crate) fn run_at(&self, dir: &Path, addr: &str) -> Engine {
        self.started(Process::start(dir, &self.args(dir, addr, "")))
    }

    /// The arguments for that; `more` is what the config says beside.
    pub(crate) fn args(&self, dir: &Path, addr: &str, more: &str) -> Vec<String> {
        let [flag, config] = match self {
            Self::Mosquitto(mosquitto) => mosquitto.config(dir, more),
            Self::Listener => {
                let config = dir.join("vigie.toml");
                fs::write(&config, more).unwrap();
                ["--config".to_owned(), config.to_str().unwrap().to_owned()]
            }
        };
        let place = ["run", "--data-dir", "data", "--http", "127.0.0.1:0"];
        let mut args: Vec<String> = place.map(str::to_owned).into();
        args.extend(["--mqtt".to_owned(), addr.to_owned(), flag, config]);
        args
    }

    /// Waits until a process started with such arguments hears what is published.
    pub(crate) fn started(&self, process: Process) -> Engine {
        let engine = match Engine::of(process) {
            Ok(engine) => engine,
            Err(finished) => panic!("the engine ended: {finished:#?}"),
        };
        if let Self::Mosquitto(_) = self {
            engine.wait_subscribed();
        }
        engine
    }

    /// Where a fleet publishes.
    pub(crate) fn door(&self, engine: &Engine) -> Door {
        match self {
            Self::Listener => engine.door(),
            Self::Mosquitto(mosquitto) => mosquitto.door(),
        }
    }
}
