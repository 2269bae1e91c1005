//! Starts the engine as a user would, reads what it prints, asks its API, and never leaves one
//! behind. What a process printed is shown when its test fails.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// No step of a test takes longer, unless it says so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a process that a failed test shows.
const SHOWN: usize = 60;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Looks until `check` has it; fails after `within` with what it saw last.
pub(crate) fn wait_until<T>(
    what: &str,
    within: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(seen) => return seen,
            Err(state) if begun.elapsed() > within => {
                panic!("{what}: not within {within:?}; last state: {state}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

// ---- Processes ----

type Lines = Arc<Mutex<Vec<String>>>;

/// A started engine, whatever its command.
pub(crate) struct Process {
    name: String,
    child: Child,
    out: Lines,
    err: Lines,
    readers: Vec<JoinHandle<()>>,
    code: Option<i32>,
}

impl Process {
    /// Starts `engine ARGS` in the directory `dir`, with nothing in the environment that it reads.
    pub(crate) fn start(dir: &Path, args: &[impl AsRef<OsStr>]) -> Self {
        Self::start_in(dir, args, &[])
    }

    /// The same with these variables in the environment.
    pub(crate) fn start_in(
        dir: &Path,
        args: &[impl AsRef<OsStr>],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_with(dir, args, environment, Stdio::null())
    }

    fn start_with(
        dir: &Path,
        args: &[impl AsRef<OsStr>],
        environment: &[(&str, &str)],
        stdin: Stdio,
    ) -> Self {
        let engine = Path::new(env!("CARGO_BIN_EXE_engine"));
        Self::spawn(engine, dir, args, environment, stdin)
    }

    /// Any program of ours.
    pub(crate) fn start_program(
        program: &Path,
        dir: &Path,
        args: &[impl AsRef<OsStr>],
        stdin: Stdio,
    ) -> Self {
        Self::spawn(program, dir, args, &[], stdin)
    }

    fn spawn(
        program: &Path,
        dir: &Path,
        args: &[impl AsRef<OsStr>],
        environment: &[(&str, &str)],
        stdin: Stdio,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if ["VIGIE", "SMTP_", "EMAIL_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(&key);
            }
        }
        command.envs(environment.iter().copied());
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (Lines::default(), Lines::default());
        let readers = vec![
            collect(child.stdout.take().unwrap(), &out),
            collect(child.stderr.take().unwrap(), &err),
        ];
        let command = args.first().map(|arg| arg.as_ref().to_string_lossy());
        let name = format!("{} {}", command.unwrap_or_default(), child.id());
        Self {
            name,
            child,
            out,
            err,
            readers,
            code: None,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.err
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The exit code, if it has ended; −1 if a signal ended it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        if self.code.is_none() {
            let status = self.child.try_wait().unwrap();
            self.code = status.map(|status| status.code().unwrap_or(-1));
        }
        self.code
    }

    /// Sends `TERM`, `INT` or `KILL`.
    pub(crate) fn signal(&self, signal: &str) {
        Self::signal_to(self.child.id(), signal);
    }

    /// The same for any process.
    pub(crate) fn signal_to(id: u32, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), id.to_string()])
            .status()
            .unwrap();
        assert!(sent.success(), "kill -{signal} {id}: {sent}");
    }

    /// Waits for its end, and for all it printed. Gives the exit code, as [`Process::ended`].
    pub(crate) fn wait(&mut self, within: Duration) -> i32 {
        let name = self.name.clone();
        let code = wait_until(&format!("the end of {name}"), within, || {
            self.ended().ok_or_else(|| "still running".to_owned())
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        code
    }

    /// `kill -9`, and nothing of it is left.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.code = self.child.wait().unwrap().code().or(Some(-1));
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }

    /// Asks it to stop, as Ctrl-C does.
    pub(crate) fn stop(&mut self) {
        self.signal("INT");
        let code = self.wait(PATIENCE);
        assert_eq!(code, 0, "{} after SIGINT", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _ended_already = self.child.kill();
            let _status = self.child.wait();
        }
        for reader in self.readers.drain(..) {
            let _panicked = reader.join();
        }
        if std::thread::panicking() {
            for (stream, lines) in [("out", self.stdout()), ("err", self.stderr())] {
                let left_out = lines.len().saturating_sub(SHOWN);
                if left_out > 0 {
                    eprintln!("[{} {stream}] … {left_out} lines …", self.name);
                }
                for line in &lines[left_out..] {
                    eprintln!("[{} {stream}] {line}", self.name);
                }
            }
        }
    }
}

fn collect(stream: impl Read + Send + 'static, into: &Lines) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    })
}

/// What became of a command that ends by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    fn of(mut process: Process) -> Self {
        let code = process.wait(Duration::from_mins(2));
        Self {
            code,
            stdout: process.stdout().join("\n"),
            stderr: process.stderr().join("\n"),
        }
    }

    /// Fails unless it exited with `code`, and its standard error holds all of `words`.
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "exit code; {self:#?}");
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not on stderr; {self:#?}"
            );
        }
        self
    }
}

/// Runs `engine ARGS` to its end.
pub(crate) fn engine(dir: &Path, args: &[impl AsRef<OsStr>]) -> Finished {
    Finished::of(Process::start(dir, args))
}

/// The same with these variables in the environment.
pub(crate) fn engine_in(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Finished {
    Finished::of(Process::start_in(dir, args, environment))
}

/// Runs `engine ARGS` to its end, with `input` on its standard input.
pub(crate) fn engine_reading(dir: &Path, args: &[&str], input: &str) -> Finished {
    let mut process = Process::start_with(dir, args, &[], Stdio::piped());
    let mut stdin = process.child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    Finished::of(process)
}

// ---- A running engine ----

/// An engine that serves HTTP, and listens for devices if its command does.
pub(crate) struct Engine {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    mqtt: Option<SocketAddr>,
    /// From the start to the line with the addresses.
    pub(crate) announced: Duration,
}

/// `engine run` on free ports with its data in `data`.
pub(crate) const RUN: [&str; 7] = [
    "run",
    "--data-dir",
    "data",
    "--http",
    "127.0.0.1:0",
    "--mqtt",
    "127.0.0.1:0",
];

impl Engine {
    /// [`RUN`] in `dir`.
    pub(crate) fn run(dir: &Path) -> Self {
        Self::start(dir, &RUN)
    }

    /// The same with more arguments; a free port for devices is up to them.
    pub(crate) fn run_with(dir: &Path, more: &[&str]) -> Self {
        let (args, _port_for_devices) = RUN.split_at(5);
        Self::start(dir, &[args, more].concat())
    }

    /// Any command that announces its addresses.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        match Self::try_start(dir, args) {
            Ok(engine) => engine,
            Err(finished) => panic!("engine {} ended: {finished:#?}", args.join(" ")),
        }
    }

    /// The same; gives what it said if it ends instead.
    pub(crate) fn try_start(dir: &Path, args: &[impl AsRef<OsStr>]) -> Result<Self, Finished> {
        Self::of(Process::start(dir, args))
    }

    /// Of a process that has just been started.
    pub(crate) fn of(mut process: Process) -> Result<Self, Finished> {
        let begun = Instant::now();
        let http = wait_until("the line with the HTTP address", PATIENCE, || {
            let lines = process.stdout();
            let schemes = ["http", "https"].iter();
            let mut found = schemes.map(|scheme| format!("  HTTP  {scheme}://"));
            match found.find_map(|mark| address(&lines, &mark)) {
                Some(addr) => Ok(Some(addr)),
                None if process.ended().is_some() => Ok(None),
                None => Err(format!("{lines:?} {:?}", process.stderr())),
            }
        });
        let announced = begun.elapsed();
        let Some(http) = http else {
            return Err(Finished::of(process));
        };
        let lines = process.stdout();
        let mqtt = ["mqtt", "mqtts"]
            .iter()
            .find_map(|scheme| address(&lines, &format!("  MQTT  {scheme}://")));
        Ok(Self {
            process,
            http,
            mqtt,
            announced,
        })
    }

    /// Where devices connect.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        self.mqtt.unwrap()
    }

    /// Where a fleet publishes straight to it.
    pub(crate) fn door(&self) -> Door {
        Door::new(&["--broker", &format!("mqtt://{}", self.mqtt())])
    }

    /// Waits until the engine says it is ready and takes a connection.
    pub(crate) fn wait_ready(&self, within: Duration) {
        wait_until("readiness", within, || {
            match get(self.http, "/readyz?verbose")? {
                (200, _) => {}
                (status, body) => return Err(format!("{status} {body}")),
            }
            TcpStream::connect(self.mqtt())
                .map(drop)
                .map_err(|error| format!("no connection to {}: {error}", self.mqtt()))
        });
    }

    /// Waits until the engine is a subscriber at its broker.
    pub(crate) fn wait_subscribed(&self) {
        wait_until("the subscription", PATIENCE, || {
            match self.count("vigie_broker_connected") {
                1 => Ok(()),
                _ => Err(format!("{:?}", self.process.stderr())),
            }
        });
    }

    /// Waits until so many readings are stored.
    pub(crate) fn wait_stored(&self, readings: u64) {
        wait_until("the readings in the store", PATIENCE, || {
            match self.ledger("stored") {
                stored if stored >= readings => Ok(()),
                stored => Err(format!("{stored} of {readings} stored")),
            }
        });
    }

    /// `GET path` that must succeed.
    pub(crate) fn text(&self, path: &str) -> String {
        match get(self.http, path) {
            Ok((200, body)) => body,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let text = self.text(path);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {path}: {error}: {text}"))
    }

    /// All of the list `name` at `path`, page by page.
    pub(crate) fn list(&self, path: &str, name: &str, page: usize) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let sign = if path.contains('?') { '&' } else { '?' };
            let mut answer = self.json(&format!("{path}{sign}limit={page}{cursor}"));
            let Value::Array(part) = answer[name].take() else {
                panic!("GET {path}: no list {name}");
            };
            assert!(
                part.len() <= page,
                "GET {path}: {} items, {page} were asked for",
                part.len()
            );
            items.extend(part);
            match &answer["next"] {
                Value::Null => return items,
                next => cursor = format!("&cursor={}", text_of(next)),
            }
        }
    }

    /// Every stored reading of `sensor`.
    pub(crate) fn readings(&self, sensor: &str) -> Vec<Value> {
        self.list(
            &format!("/api/v1/sensors/{sensor}/readings"),
            "readings",
            997,
        )
    }

    /// Ids of all sensors.
    pub(crate) fn sensors(&self) -> Vec<String> {
        let sensors = self.list("/api/v1/sensors", "sensors", 1000);
        sensors
            .iter()
            .map(|sensor| text_of(&sensor["id"]))
            .collect()
    }

    /// One number of the ledger.
    pub(crate) fn ledger(&self, name: &str) -> u64 {
        let ledger = self.json("/api/v1/ledger");
        ledger[name].as_u64().unwrap_or_else(|| panic!("{ledger}"))
    }

    pub(crate) fn incidents(&self) -> Vec<Value> {
        self.list("/api/v1/incidents", "incidents", 500)
    }

    /// Every series of `/metrics` and its value.
    pub(crate) fn metrics(&self) -> BTreeMap<String, String> {
        self.text("/metrics")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, value)| (series.to_owned(), value.to_owned()))
            .collect()
    }

    /// Sum of all series whose name and labels begin with `prefix`, which count something.
    pub(crate) fn count(&self, prefix: &str) -> u64 {
        let metrics = self.metrics();
        let series = metrics.range(prefix.to_owned()..);
        series
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| {
                let whole = value.parse::<u64>();
                whole.unwrap_or_else(|_| panic!("{name} is {value}, not a whole number"))
            })
            .sum()
    }
}

/// The address behind `mark` in one of the lines.
fn address(lines: &[String], mark: &str) -> Option<SocketAddr> {
    let rest = lines.iter().find_map(|line| line.strip_prefix(mark))?;
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The text of a JSON string.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => panic!("not a text: {other}"),
    }
}

/// A `GET` over a connection of its own: status and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Result<(u16, String), String> {
    get_with(addr, path, "")
}

/// The same with more lines in the head, each with its end.
pub(crate) fn get_with(addr: SocketAddr, path: &str, more: &str) -> Result<(u16, String), String> {
    let failed = |error: std::io::Error| format!("GET http://{addr}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\n{more}Connection: close\r\n\r\n"
    )
    .map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("no head in {answer:?}"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| format!("no status in {head:?}"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) if length == body.len() => Ok((status, body.to_owned())),
        other => Err(format!("{} bytes of body, announced {other:?}", body.len())),
    }
}

// ---- Commands around it ----

/// Where a fleet publishes, as arguments of `engine simulate`.
#[derive(Debug, Clone)]
pub(crate) struct Door(Vec<String>);

impl Door {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self(args.iter().map(|arg| (*arg).to_owned()).collect())
    }
}

/// `engine simulate` at `door`, with `more` arguments separated by spaces.
pub(crate) fn simulate_args(door: &Door, more: &str) -> Vec<String> {
    let more = more.split_whitespace().map(str::to_owned);
    std::iter::once("simulate".to_owned())
        .chain(door.0.iter().cloned())
        .chain(more)
        .collect()
}

/// What `engine simulate` said at its end.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unacknowledged: u64,
    pub(crate) dropped_out: u64,
    pub(crate) reconnects: u64,
}

impl Published {
    /// From its standard output.
    pub(crate) fn read(stdout: &str) -> Self {
        Self {
            sent: number_after(stdout, "sent "),
            acknowledged: number_after(stdout, ", acknowledged "),
            unacknowledged: number_after(stdout, "unacknowledged "),
            dropped_out: number_after(stdout, "dropped out "),
            reconnects: number_after(stdout, "reconnects "),
        }
    }

    /// Ends a publisher. Everything that it sent is acknowledged.
    pub(crate) fn end(publisher: &mut Process) -> Self {
        publisher.signal("INT");
        assert_eq!(publisher.wait(PATIENCE), 0, "exit code of the publisher");
        let published = Self::read(&publisher.stdout().join("\n"));
        assert_eq!(
            (published.acknowledged, published.unacknowledged),
            (published.sent, 0),
            "{published:?}"
        );
        published
    }
}

/// Publishes a fleet, with `more` arguments separated by spaces; every reading is acknowledged.
pub(crate) fn simulate(dir: &Path, door: &Door, more: &str) -> Published {
    let finished = engine(dir, &simulate_args(door, more)).expect(0, &[]);
    let published = Published::read(&finished.stdout);
    assert_eq!(
        (published.acknowledged, published.unacknowledged),
        (published.sent, 0),
        "acknowledged and unacknowledged; {finished:#?}"
    );
    published
}

/// The number behind the first `mark`.
pub(crate) fn number_after(text: &str, mark: &str) -> u64 {
    let number = text.split_once(mark).map(|(_, rest)| {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        &rest[..end]
    });
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number behind {mark:?} in {text:?}"))
}

/// What names a reading: sensor, boot and number.
pub(crate) type Name = (String, String, u64);

/// The readings in a file that `engine simulate --acked` wrote, and how many there are.
pub(crate) fn acked(file: &Path) -> Vec<Name> {
    let text = std::fs::read_to_string(file).unwrap();
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let mut next = || {
            fields
                .next()
                .unwrap_or_else(|| panic!("{line:?}"))
                .to_owned()
        };
        let (sensor, boot, seq) = (next(), next(), next());
        (sensor, boot, seq.parse().unwrap())
    };
    text.lines().map(line).collect()
}

/// How often each reading is in the store.
pub(crate) fn stored(engine: &Engine) -> BTreeMap<Name, u32> {
    let mut times = BTreeMap::new();
    for sensor in engine.sensors() {
        for reading in engine.readings(&sensor) {
            let name = (
                sensor.clone(),
                text_of(&reading["boot"]),
                reading["seq"].as_u64().unwrap(),
            );
            *times.entry(name).or_default() += 1;
        }
    }
    times
}

/// Fails if an acknowledged reading is not in the store, or any is there twice.
pub(crate) fn assert_kept(acked: &[Name], stored: &BTreeMap<Name, u32>) {
    let lost: Vec<_> = acked
        .iter()
        .filter(|name| !stored.contains_key(name))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged readings are not stored, such as {:?}",
        lost.len(),
        acked.len(),
        &lost[..lost.len().min(5)]
    );
    let twice: Vec<_> = stored.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        twice.is_empty(),
        "{} of {} readings are stored more than once, such as {:?}",
        twice.len(),
        stored.len(),
        &twice[..twice.len().min(5)]
    );
}

/// `engine doctor` on the data of an engine that is not running: how many readings are stored.
pub(crate) fn doctor(dir: &Path) -> u64 {
    let finished = engine(dir, &["doctor", "--data-dir", "data"]).expect(0, &[]);
    number_after(&finished.stdout, "ok: the store holds the ")
}

/// Mails that an engine with its data in `dir`/data wrote.
pub(crate) fn mails(dir: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(dir.join("data/mail")) else {
        return 0;
    };
    files
        .filter(|file| {
            let path = file.as_ref().unwrap().path();
            path.extension().is_some_and(|extension| extension == "eml")
        })
        .count()
}

/// A file of this package.
pub(crate) fn package_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A number from the environment, for runs that do more.
pub(crate) fn setting(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
