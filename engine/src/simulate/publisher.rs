//! Publishes a fleet to an MQTT broker over several connections, as fast as asked or as it goes.
//!
//! Each sensor belongs to one connection. Packets are encoded into one buffer per connection and
//! written at once; acknowledgements are read in bulk. A connection that is lost comes back with a
//! jittered back-off and first sends what is unacknowledged: at `QoS` 1 no reading is lost.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::future::{pending, poll_fn};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::Rng as _;
use secrecy::SecretString;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout};
use vigie_actors::tls;
use vigie_wire::{BootId, Quantities};

use super::fleet::{Fleet, mix};
use super::lane::{Lane, Next, Run, Tally};
use super::packet::{self, Incoming, LONGEST_INCOMING, Protocol, Qos};
use super::transport::{Broker, DialError, Dialer, Link, Stream};

/// What to publish, where and how.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where to.
    pub(crate) broker: Broker,
    /// PEM file with the CA certificates to trust; without it, those of the system.
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM files of a certificate chain and its key, for brokers that ask for one.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Version of MQTT.
    pub(crate) protocol: Protocol,
    /// User name; needed when there is a password.
    pub(crate) username: Option<String>,
    /// Password.
    pub(crate) password: Option<SecretString>,
    /// Client id; several connections add `-0`, `-1`, …. Without it, a random one.
    pub(crate) client_id: Option<String>,
    /// Connections, 1 to 65,535; no more are opened than there are sensors.
    pub(crate) connections: usize,
    /// Quality of service.
    pub(crate) qos: Qos,
    /// Unacknowledged publishes per connection, 1 to 65,535; the broker may lower it (MQTT 5).
    pub(crate) window: u16,
    /// Readings per second of the whole fleet, above 0; none = as fast as possible.
    pub(crate) rate: Option<f64>,
    /// Readings of the whole fleet after which to end, those that drop out included; none = never.
    pub(crate) count: Option<u64>,
    /// Time after which to end; none = never.
    pub(crate) duration: Option<Duration>,
    /// How long to wait for PUBACKs when time is up or a stop is asked for.
    pub(crate) grace: Duration,
    /// Time of reading 0 of each sensor, ms since 1970 UTC; reading `n` is `n` intervals later.
    pub(crate) start_ms: i64,
    /// Boot id in the readings; without it, one derived from the fleet's seed. Readings with the
    /// same sensor, boot and number are duplicates to the engine.
    pub(crate) boot: Option<BootId>,
    /// Time between two packets from the client, at most 65,535 s; a broker that has been silent
    /// for one and a half of it counts as lost.
    pub(crate) keep_alive: Duration,
    /// File to append `sensor boot seq t` of every acknowledged reading to.
    pub(crate) acked_file: Option<PathBuf>,
    /// The sensors.
    pub(crate) fleet: Arc<Fleet>,
}

impl Options {
    /// One connection of MQTT 5 at `QoS` 1, as fast as possible and without end.
    pub(crate) fn new(broker: Broker, fleet: Arc<Fleet>, start_ms: i64) -> Self {
        Self {
            broker,
            ca_file: None,
            identity: None,
            protocol: Protocol::default(),
            username: None,
            password: None,
            client_id: None,
            connections: 1,
            qos: Qos::default(),
            window: 1_000,
            rate: None,
            count: None,
            duration: None,
            grace: Duration::from_secs(5),
            start_ms,
            boot: None,
            keep_alive: Duration::from_mins(1),
            acked_file: None,
            fleet,
        }
    }

    fn check(&self) -> Result<(), PublishError> {
        let wrong = if self.fleet.len() == 0 {
            "the fleet needs at least one sensor"
        } else if !(1..=65_535).contains(&self.connections) {
            "the number of connections must be 1 to 65535"
        } else if self.window == 0 {
            "the window must be 1 to 65535"
        } else if self
            .rate
            .is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
        {
            "the rate must be above 0 readings per second"
        } else if self.password.is_some() && self.username.is_none() {
            "a password needs a user name"
        } else if self.keep_alive < Duration::from_secs(1) {
            "the keep-alive must be 1 to 65535 seconds"
        } else {
            return Ok(());
        };
        Err(PublishError::Invalid(wrong.to_owned()))
    }

    fn client_id(&self, prefix: &str, lane: usize, lanes: usize) -> String {
        match &self.client_id {
            // At most 23 letters and digits: every server of MQTT 3.1.1 must take those.
            None => format!("{prefix}{lane}"),
            Some(id) if lanes == 1 => id.clone(),
            Some(id) => format!("{id}-{lane}"),
        }
    }
}

/// The boot id that a seed stands for: 8 hexadecimal digits.
fn boot_of(seed: u64) -> Result<BootId, PublishError> {
    let text = format!("{:08x}", mix(seed ^ 0xB007) >> 32);
    BootId::try_from(text.as_str()).map_err(|error| PublishError::Invalid(error.to_string()))
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Time since the first reading was due.
    pub(crate) elapsed: Duration,
    /// Readings sent, each counted once.
    pub(crate) sent: u64,
    /// Readings acknowledged; 0 at `QoS` 0.
    pub(crate) acked: u64,
    /// Readings that the broker acknowledged without taking them (MQTT 5).
    pub(crate) refused: u64,
    /// Connections lost and opened again.
    pub(crate) reconnects: u64,
    /// Connections open now.
    pub(crate) connected: usize,
    /// Why a connection was lost or could not be opened, the latest; none while all are open.
    pub(crate) trouble: Option<String>,
}

/// PUBACK latency: from the first write of a reading, a lost connection in between included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
    pub(crate) max: Duration,
}

/// What a run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Readings sent, each counted once.
    pub(crate) sent: u64,
    /// Readings sent again after a lost connection.
    pub(crate) resent: u64,
    /// Readings acknowledged; 0 at `QoS` 0.
    pub(crate) acked: u64,
    /// Readings that the broker acknowledged without taking them (MQTT 5).
    pub(crate) refused: u64,
    /// Readings given up on when the run was stopped.
    pub(crate) unacked: u64,
    /// Readings that were due but dropped out.
    pub(crate) dropped_out: u64,
    /// Readings per sensor that the run came to: labels cover `0..readings_per_sensor`.
    pub(crate) readings_per_sensor: u64,
    /// From the first reading to the last acknowledgement.
    pub(crate) elapsed: Duration,
    /// PUBACK latency; none when nothing was acknowledged.
    pub(crate) latency: Option<Latency>,
    /// Connections lost and opened again.
    pub(crate) reconnects: u64,
}

/// Why a run did not start or could not go on.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// An option is out of range.
    Invalid(String),
    /// TLS cannot be set up.
    Tls(String),
    /// The first connection could not be opened.
    Unreachable {
        /// The address.
        broker: Broker,
        /// What happened.
        cause: io::Error,
    },
    /// The broker refused the first connection, or does not offer what was asked for.
    Refused {
        /// The address.
        broker: Broker,
        /// The broker's reason.
        reason: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file of acknowledged readings cannot be written.
    AckedFile {
        /// The file.
        path: PathBuf,
        /// What happened.
        cause: io::Error,
    },
    /// A fault of this program.
    Internal(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) | Self::Tls(what) => f.write_str(what),
            Self::Unreachable { broker, cause } => {
                let why = tls::explain(cause)
                    .unwrap_or_else(|| format!("{cause}; {}", advice(broker, cause)));
                write!(f, "no connection to {broker}: {why}")
            }
            Self::Refused {
                broker,
                reason,
                advice,
            } => {
                write!(f, "{broker} refused the connection: {reason}; {advice}")
            }
            Self::AckedFile { path, cause } => {
                write!(f, "cannot write {}: {cause}", path.display())
            }
            Self::Internal(what) => write!(f, "internal fault: {what}"),
        }
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { cause, .. } | Self::AckedFile { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// What to do about a connection that cannot be opened.
fn advice(broker: &Broker, cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            "start the broker, or correct the port (1883 is usual, 8883 with TLS)"
        }
        io::ErrorKind::TimedOut => "check the address, the port and the firewall",
        io::ErrorKind::UnexpectedEof if broker.tls => "check that the port speaks TLS",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if !broker.tls => {
            "if the port speaks TLS, use mqtts://; if not, look into the broker's log"
        }
        io::ErrorKind::InvalidData => "check that the port speaks MQTT",
        _ => "check the address",
    }
}

/// Publishes until the count or the duration is reached or `stop` becomes true, and reports. A
/// dropped sender of `stop` is no stop. `on_progress` is called once a second and at the end.
///
/// The connections run as tasks of their own: give them a runtime with several threads for the
/// highest rates. Dropping the future ends them.
///
/// # Errors
///
/// When an option is out of range, or the first attempt to open any of the connections fails. Later
/// losses are repaired, for as long as it takes.
pub(crate) async fn publish(
    options: Options,
    stop: watch::Receiver<bool>,
    mut on_progress: impl FnMut(Progress),
) -> Result<Report, PublishError> {
    options.check()?;
    let lanes = options.connections.min(options.fleet.len());
    let boot = match options.boot {
        Some(boot) => boot,
        None => boot_of(options.fleet.config().seed)?,
    };
    let acked_file = options
        .acked_file
        .clone()
        .map(AckedFile::open)
        .transpose()?
        .map(Arc::new);
    let dialer = Arc::new(Dialer::new(&options)?);
    let prefix = format!("vigiesim{:08x}", rand::random::<u32>());
    let ids: Vec<_> = (0..lanes)
        .map(|lane| options.client_id(&prefix, lane, lanes))
        .collect();
    let mut stopping = Stop(stop.clone());
    let links = tokio::select! {
        links = connect_all(&options, &dialer, &ids) => links?,
        () = stopping.wait() => Vec::new(),
    };

    let begin = Instant::now();
    let run = Arc::new(Run {
        fleet: Arc::clone(&options.fleet),
        quantities: Quantities::builtin(),
        boot,
        protocol: options.protocol,
        qos: options.qos,
        start_ms: options.start_ms,
        rate: options.rate,
        count: options.count.unwrap_or(u64::MAX),
        begin,
    });
    let trouble = Arc::new(Mutex::new(None));
    let mut gauges = Vec::new();
    let mut drivers = JoinSet::new();
    for (lane, (link, client_id)) in links.into_iter().zip(ids).enumerate() {
        let gauge = Arc::new(Gauge::default());
        gauges.push(Arc::clone(&gauge));
        let log = acked_file.is_some();
        let driver = Driver {
            lane: Lane::new(Arc::clone(&run), lane, lanes, latency_histogram()?, log),
            client_id,
            dialer: Arc::clone(&dialer),
            window: options.window,
            protocol: options.protocol,
            keep_alive: options.keep_alive,
            deadline: options
                .duration
                .and_then(|duration| begin.checked_add(duration)),
            grace: options.grace,
            give_up: None,
            stop: Stop(stop.clone()),
            gauge,
            trouble: Arc::clone(&trouble),
            acked_file: acked_file.clone(),
        };
        drivers.spawn(driver.run(link));
    }

    let mut report = Report {
        sent: 0,
        resent: 0,
        acked: 0,
        refused: 0,
        unacked: 0,
        dropped_out: 0,
        readings_per_sensor: 0,
        elapsed: Duration::ZERO,
        latency: None,
        reconnects: 0,
    };
    let mut latency = latency_histogram()?;
    let mut ticks = tokio::time::interval_at(begin + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            joined = drivers.join_next() => {
                let Some(joined) = joined else { break };
                let lane = joined.map_err(|e| PublishError::Internal(e.to_string()))??;
                report.add(lane.tally, lane.unacked());
                latency.add(&lane.latency).map_err(|e| PublishError::Internal(e.to_string()))?;
            }
            _ = ticks.tick() => on_progress(progress(begin, &gauges, &trouble)),
        }
    }
    let last = progress(begin, &gauges, &trouble);
    report.elapsed = last.elapsed;
    report.reconnects = last.reconnects;
    report.latency = (report.acked > 0).then(|| Latency::of(&latency));
    on_progress(last);
    Ok(report)
}

/// Time between two reports of progress.
const TICK: Duration = Duration::from_secs(1);
/// TLS handshakes at a time.
const DIALS: usize = 32;

/// Opens the first connection of each client id. Nothing is retried: what is wrong now is wrong with
/// the options, or with the broker in a way that somebody has to look at.
async fn connect_all(
    options: &Options,
    dialer: &Arc<Dialer>,
    ids: &[String],
) -> Result<Vec<Link>, PublishError> {
    let permits = Arc::new(Semaphore::new(DIALS));
    let mut dials = JoinSet::new();
    for (lane, id) in ids.iter().enumerate() {
        let (dialer, permits, id) = (Arc::clone(dialer), Arc::clone(&permits), id.clone());
        dials.spawn(async move {
            let _permit = permits.acquire().await;
            (lane, dialer.dial(&id).await)
        });
    }
    let mut links = Vec::with_capacity(ids.len());
    while let Some(joined) = dials.join_next().await {
        let (lane, dialled) = joined.map_err(|e| PublishError::Internal(e.to_string()))?;
        let broker = options.broker.clone();
        let link = dialled.map_err(|error| match error {
            DialError::Io(cause) => PublishError::Unreachable {
                broker: broker.clone(),
                cause,
            },
            DialError::Refused(refusal) => PublishError::Refused {
                broker: broker.clone(),
                reason: refusal.reason,
                advice: refusal.advice,
            },
        })?;
        if options.qos == Qos::AtLeastOnce && link.limits.qos == 0 {
            let reason = "it offers QoS 0 only".to_owned();
            return Err(PublishError::Refused {
                broker,
                reason,
                advice: "use --qos 0",
            });
        }
        if link.limits.packet_bytes < LONGEST_PUBLISH {
            let reason = format!(
                "it takes packets of at most {} bytes",
                link.limits.packet_bytes
            );
            let advice = "raise the broker's maximum packet size to 512 bytes";
            return Err(PublishError::Refused {
                broker,
                reason,
                advice,
            });
        }
        links.push((lane, link));
    }
    links.sort_unstable_by_key(|(lane, _)| *lane);
    Ok(links.into_iter().map(|(_, link)| link).collect())
}

/// No publish of a simulated reading is longer, bytes.
const LONGEST_PUBLISH: u32 = 512;

impl Report {
    fn add(&mut self, tally: Tally, unacked: u64) {
        self.sent += tally.sent;
        self.resent += tally.resent;
        self.acked += tally.acked;
        self.refused += tally.refused;
        self.unacked += unacked;
        self.dropped_out += tally.dropped_out;
        self.readings_per_sensor = self.readings_per_sensor.max(tally.per_sensor);
    }
}

impl Latency {
    fn of(us: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(us.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_micros(us.max()),
        }
    }
}

/// 1 µs to an hour, to three digits.
fn latency_histogram() -> Result<Histogram<u64>, PublishError> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3)
        .map_err(|error| PublishError::Internal(error.to_string()))
}

/// A lane's counts, for progress.
#[derive(Debug, Default)]
struct Gauge {
    sent: AtomicU64,
    acked: AtomicU64,
    refused: AtomicU64,
    reconnects: AtomicU64,
    connected: AtomicBool,
}

impl Gauge {
    fn show(&self, tally: Tally) {
        self.sent.store(tally.sent, Ordering::Relaxed);
        self.acked.store(tally.acked, Ordering::Relaxed);
        self.refused.store(tally.refused, Ordering::Relaxed);
    }
}

fn progress(begin: Instant, gauges: &[Arc<Gauge>], trouble: &Mutex<Option<String>>) -> Progress {
    let sum = |of: fn(&Gauge) -> &AtomicU64| {
        gauges
            .iter()
            .map(|gauge| of(gauge).load(Ordering::Relaxed))
            .sum()
    };
    let connected = gauges
        .iter()
        .filter(|g| g.connected.load(Ordering::Relaxed))
        .count();
    let trouble = trouble
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Progress {
        elapsed: begin.elapsed(),
        sent: sum(|gauge| &gauge.sent),
        acked: sum(|gauge| &gauge.acked),
        refused: sum(|gauge| &gauge.refused),
        reconnects: sum(|gauge| &gauge.reconnects),
        connected,
        trouble: trouble.filter(|_| connected < gauges.len()),
    }
}

/// The file of acknowledged readings. What was acknowledged is handed to the system at once: it
/// survives this process, though not a power cut.
#[derive(Debug)]
struct AckedFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl AckedFile {
    fn open(path: PathBuf) -> Result<Self, PublishError> {
        match File::options().create(true).append(true).open(&path) {
            Ok(file) => Ok(Self {
                path,
                file: Mutex::new(file),
            }),
            Err(cause) => Err(PublishError::AckedFile { path, cause }),
        }
    }

    fn append(&self, lines: &[u8]) -> Result<(), PublishError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(lines)
            .map_err(|cause| PublishError::AckedFile {
                path: self.path.clone(),
                cause,
            })
    }
}

/// The caller's wish to end.
#[derive(Debug)]
struct Stop(watch::Receiver<bool>);

impl Stop {
    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the stop is asked for; never when nobody can ask any more.
    async fn wait(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// The delay before attempt `failures` to reconnect: doubling from 100 ms to 5 s, of which a random
/// half is taken off so that many clients do not return at once; never below 100 ms.
fn back_off(failures: u32) -> Duration {
    let full = Duration::from_millis(100).saturating_mul(1 << failures.min(10));
    let capped = full.min(Duration::from_secs(5));
    let jittered = capped.mul_f64(rand::thread_rng().gen_range(0.5..=1.0));
    jittered.max(Duration::from_millis(100))
}

/// One lane and its connection.
struct Driver {
    lane: Lane,
    client_id: String,
    dialer: Arc<Dialer>,
    window: u16,
    protocol: Protocol,
    keep_alive: Duration,
    /// When to send nothing new any more.
    deadline: Option<Instant>,
    grace: Duration,
    /// When to wait for PUBACKs no longer, once the end is near.
    give_up: Option<Instant>,
    stop: Stop,
    gauge: Arc<Gauge>,
    trouble: Arc<Mutex<Option<String>>>,
    acked_file: Option<Arc<AckedFile>>,
}

/// How a connection ended.
enum Ended {
    /// Nothing is left to do.
    Finished,
    /// Too early.
    Lost(String),
}

/// What a connection woke up for.
enum Woke {
    Wrote,
    Read(usize),
    Time,
    Lost(io::Error),
}

/// A connection that lived so long does not count as another failure.
const PROVEN: Duration = Duration::from_secs(5);
/// How long to wait for the broker to close the connection after DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(2);
/// Paced lanes send in steps of this.
const STEP: Duration = Duration::from_millis(1);

impl Driver {
    async fn run(mut self, link: Link) -> Result<Lane, PublishError> {
        let mut next = Some(link);
        let mut failures = 0;
        while let Some(link) = next {
            let (opened, settled) = (Instant::now(), self.lane.tally.acked);
            self.gauge.connected.store(true, Ordering::Relaxed);
            let ended = self.drive(link).await?;
            self.gauge.connected.store(false, Ordering::Relaxed);
            self.gauge.show(self.lane.tally);
            let Ended::Lost(cause) = ended else { break };
            if self.lane.settled() && self.lane.exhausted() {
                break;
            }
            tracing::warn!(client = self.client_id, cause, "connection lost");
            self.set_trouble(cause);
            if self.lane.tally.acked > settled || opened.elapsed() > PROVEN {
                failures = 0;
            }
            next = self.reconnect(&mut failures).await;
        }
        Ok(self.lane)
    }

    fn set_trouble(&self, cause: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }

    /// Tries until it works, or the end of the run and its grace are over.
    async fn reconnect(&mut self, failures: &mut u32) -> Option<Link> {
        loop {
            let attempt = async {
                sleep(back_off(*failures)).await;
                self.dialer.dial(&self.client_id).await
            };
            let over = async {
                if self.give_up.is_none() {
                    tokio::select! {
                        () = self.stop.wait() => {}
                        () = until(self.deadline) => {}
                    }
                    let grace = if self.lane.settled() {
                        Duration::ZERO
                    } else {
                        self.grace
                    };
                    self.give_up = Some(Instant::now() + grace);
                }
                until(self.give_up).await;
            };
            let dialled = tokio::select! {
                dialled = attempt => dialled,
                () = over => return None,
            };
            *failures = failures.saturating_add(1);
            match dialled {
                Ok(link) => {
                    tracing::info!(client = self.client_id, "connection is back");
                    self.gauge.reconnects.fetch_add(1, Ordering::Relaxed);
                    return Some(link);
                }
                Err(error) => self.set_trouble(error.to_string()),
            }
        }
    }

    /// Whether nothing new may be sent. Sets when to give up, the first time that it is true.
    fn closing(&mut self, now: Instant) -> bool {
        if self.give_up.is_none()
            && (self.stop.is_set() || self.deadline.is_some_and(|deadline| now >= deadline))
        {
            self.give_up = Some(now + self.grace);
        }
        self.give_up.is_some()
    }

    /// Publishes over one connection until it is lost or nothing is left to do.
    async fn drive(&mut self, link: Link) -> Result<Ended, PublishError> {
        let Link {
            mut stream,
            received,
            limits,
        } = link;
        self.lane.connected(self.window.min(limits.receive_maximum));
        let mut input = Input::new(&received);
        let mut pulse = Pulse::new(limits.keep_alive.unwrap_or(self.keep_alive));
        let mut written = 0;
        // TLS may hold back what it was given until it is flushed.
        let mut unflushed = false;
        loop {
            let now = Instant::now();
            let closing = self.closing(now);
            let mut next = Next::Wait;
            if written == self.lane.out.len() {
                written = 0;
                self.lane.out.clear();
                pulse.beat(&mut self.lane.out);
                next = self.lane.fill(now, !closing);
            }
            self.gauge.show(self.lane.tally);
            if self.lane.out.is_empty() && !unflushed {
                let done = closing || self.lane.exhausted();
                if done && self.lane.settled() {
                    farewell(stream).await;
                    return Ok(Ended::Finished);
                }
            }
            if self.give_up.is_some_and(|give_up| now >= give_up) {
                return Ok(Ended::Finished);
            }
            if let Err(silence) = pulse.check(now) {
                return Ok(Ended::Lost(silence));
            }

            let mut wake = pulse.next;
            if let Next::At(due) = next {
                wake = wake.min(due.max(now + STEP));
            }
            for end in [self.deadline.filter(|_| !closing), self.give_up]
                .into_iter()
                .flatten()
            {
                wake = wake.min(end);
            }
            let woke = {
                let mut alarm = pin!(sleep_until(wake));
                let mut stop = pin!(self.stop.wait());
                let out = &self.lane.out;
                poll_fn(|cx| {
                    let had_output = written < out.len() || unflushed;
                    if let Err(error) = poll_output(
                        cx,
                        &mut stream,
                        out,
                        &mut written,
                        &mut unflushed,
                        &mut pulse,
                    ) {
                        return Poll::Ready(Woke::Lost(error));
                    }
                    let mut room = ReadBuf::new(input.room());
                    match Pin::new(&mut stream).poll_read(cx, &mut room) {
                        Poll::Ready(Ok(())) => {
                            return Poll::Ready(Woke::Read(room.filled().len()));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Woke::Lost(error)),
                        Poll::Pending => {}
                    }
                    if had_output && written == out.len() && !unflushed {
                        return Poll::Ready(Woke::Wrote);
                    }
                    let asked = !closing && stop.as_mut().poll(cx).is_ready();
                    if asked || alarm.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Woke::Time);
                    }
                    Poll::Pending
                })
                .await
            };
            match woke {
                Woke::Wrote | Woke::Time => {}
                Woke::Lost(error) => return Ok(Ended::Lost(error.to_string())),
                Woke::Read(0) => {
                    return Ok(Ended::Lost("the broker closed the connection".to_owned()));
                }
                Woke::Read(bytes) => {
                    pulse.heard();
                    let parsed = self.take_in(&mut input, bytes);
                    self.log_acked()?;
                    if let Err(cause) = parsed {
                        return Ok(Ended::Lost(cause));
                    }
                }
            }
        }
    }

    /// Handles the packets that `bytes` more bytes complete.
    fn take_in(&mut self, input: &mut Input, bytes: usize) -> Result<(), String> {
        let now = Instant::now();
        let mut rest = input.with(bytes);
        loop {
            match packet::next_packet(rest) {
                Ok(None) => break,
                Ok(Some((packet, used))) => {
                    match packet {
                        Incoming::PubAck { packet_id, reason } => {
                            self.lane.on_ack(packet_id, reason, now);
                        }
                        Incoming::PingResp => {}
                        Incoming::Disconnect(body) if self.protocol == Protocol::V5 => {
                            let reason = packet::disconnect_reason(body);
                            return Err(format!("the broker closed the connection: {reason}"));
                        }
                        Incoming::Disconnect(_) | Incoming::ConnAck(_) | Incoming::Other(_) => {
                            return Err(
                                "the broker sent a packet that is not for a publisher".to_owned()
                            );
                        }
                    }
                    rest = &rest[used..];
                }
                Err(packet::Malformed) => return Err("the broker does not speak MQTT".to_owned()),
            }
        }
        let left = rest.len();
        input.keep_last(left);
        Ok(())
    }

    fn log_acked(&mut self) -> Result<(), PublishError> {
        if let (Some(file), Some(lines)) = (&self.acked_file, &mut self.lane.acked_lines)
            && !lines.is_empty()
        {
            file.append(lines)?;
            lines.clear();
        }
        Ok(())
    }
}

/// Writes what the socket takes of `out` from `written` on, and flushes behind its last byte.
fn poll_output(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    out: &[u8],
    written: &mut usize,
    unflushed: &mut bool,
    pulse: &mut Pulse,
) -> io::Result<()> {
    while *written < out.len() {
        match Pin::new(&mut *stream).poll_write(cx, &out[*written..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(bytes)) => {
                *written += bytes;
                *unflushed = true;
                pulse.wrote(*written < out.len());
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(()),
        }
    }
    if *unflushed && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
        *unflushed = false;
        return flushed;
    }
    Ok(())
}

/// Returns at that time; never when there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Says goodbye and waits for the broker to close: closing first, with unread bytes, would reset the
/// connection and could take back publishes that the broker has not read yet.
async fn farewell(mut stream: Stream) {
    let polite = async {
        stream.write_all(&packet::DISCONNECT).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 256];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // Everything is settled: what goes wrong now harms nothing.
    let _ = timeout(FAREWELL, polite).await;
}

/// Bytes from the broker of which the last packet may be incomplete.
struct Input {
    buffer: Box<[u8]>,
    filled: usize,
}

impl Input {
    fn new(received: &[u8]) -> Self {
        // Room for the longest packet that is accepted, and for thousands of PUBACKs.
        let mut buffer = vec![0; 2 * LONGEST_INCOMING + received.len()].into_boxed_slice();
        buffer[..received.len()].copy_from_slice(received);
        Self {
            buffer,
            filled: received.len(),
        }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// All bytes, of which `bytes` came last.
    fn with(&mut self, bytes: usize) -> &[u8] {
        self.filled += bytes;
        &self.buffer[..self.filled]
    }

    fn keep_last(&mut self, bytes: usize) {
        self.buffer.copy_within(self.filled - bytes..self.filled, 0);
        self.filled = bytes;
    }
}

/// Keeps a connection alive, and notices when it is not.
struct Pulse {
    every: Duration,
    next: Instant,
    /// Half keep-alives without a byte from the broker.
    silent: u32,
    due: bool,
}

impl Pulse {
    fn new(keep_alive: Duration) -> Self {
        // A keep-alive of 0 is none: look after the connection anyway.
        let keep_alive = if keep_alive.is_zero() {
            Duration::from_mins(1)
        } else {
            keep_alive
        };
        let every = keep_alive / 2;
        Self {
            every,
            next: Instant::now() + every,
            silent: 0,
            due: false,
        }
    }

    fn heard(&mut self) {
        self.silent = 0;
    }

    /// A write that leaves something unwritten shows that the broker reads: it is slow, not gone,
    /// and a ping would wait behind the publishes.
    fn wrote(&mut self, blocked: bool) {
        if blocked {
            self.silent = 0;
        }
    }

    /// Appends a ping when one is due.
    fn beat(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.due) {
            out.extend_from_slice(&packet::PINGREQ);
        }
    }

    /// An error when the broker has been silent too long.
    fn check(&mut self, now: Instant) -> Result<(), String> {
        if now < self.next {
            return Ok(());
        }
        self.next = now + self.every;
        self.due = true;
        self.silent += 1;
        if self.silent > 3 {
            let seconds = (self.every * 3).as_secs_f64();
            return Err(format!("the broker has been silent for {seconds} s"));
        }
        Ok(())
    }
}
