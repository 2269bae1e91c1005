//! The external broker as a source: subscribes, hands over what comes, acknowledges what is durable.
//!
//! - Each connection has a client of its own (see `client`), so nothing of an old one can be
//!   acknowledged on a new one. What is not acknowledged comes again: the session is persistent.
//! - One task polls the client, another decodes, delivers and acknowledges: the client must be
//!   polled while acknowledgements are put into it, and must not be interrupted.
//! - Acknowledgements leave in order of receipt (MQTT 5, 4.6).
//! - The broker sends no more than `receive_maximum` messages ahead: that is the backpressure.

mod client;
mod explain;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use rand::Rng as _;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use self::client::{Message, News, Opening, Receiving, Sending};
use self::explain::{Failure, Kind};
use super::acl;
use super::bounds::{HEADER_ALLOWANCE, PAYLOAD_CEILING, quoted};
use super::decode::{Decode, decode_safely};
use super::intake::{Answered, Intake, Refused, Room};
use crate::clock::Clock;
use crate::config::{Invalid, Span, in_range};
use crate::failpoint;
use crate::metrics::BrokerMetrics;
use crate::reading::Arrival;
use crate::secret::{REDACTED, redacted};
use crate::stats::hearing::Hearing;
use crate::tls;

/// Deliveries that may wait for their answer. The second lets decoding go on while the store syncs.
const OUTSTANDING: usize = 2;

/// Pause before the second attempt to connect; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that the broker closes within this time of accepting it was not wanted.
const SHORT_LIVED: Duration = Duration::from_secs(5);
/// So many of them in a row look like two clients that take each other's place.
const SHORT_LIVED_IN_A_ROW: u32 = 3;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The same trouble is told again after so long.
const REMIND: Duration = Duration::from_mins(1);

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1, for brokers that know nothing newer. It has no backpressure beyond the broker's
    /// own limit of unacknowledged messages, and no limit of a message's size.
    #[serde(rename = "3.1.1")]
    V311,
}

/// Settings of the external broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Host name or IP address, without scheme and port. Not set: no external broker.
    pub host: Option<String>,
    /// TCP port, 1 to 65,535.
    pub port: u16,
    /// Encrypt, and verify the broker's certificate. Without, everything crosses the network
    /// readable for everybody; it is never left out on its own accord.
    pub tls: bool,
    /// PEM file with the CA that signed the broker's certificate. Not set: the CAs that this system
    /// trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate, if the broker asks for one.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file with its private key.
    pub client_key_file: Option<PathBuf>,
    /// User name at the broker.
    pub username: Option<String>,
    /// Password at the broker.
    #[serde(serialize_with = "redacted")]
    pub password: Option<SecretString>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Under which the broker keeps our session, so it must stay the same and nobody else may use
    /// it. Not set: `vigie-` and the id of the store in the data directory.
    pub client_id: Option<String>,
    /// Topic filters to subscribe to.
    pub topics: Vec<String>,
    /// Quality of service, 1 or 0. With 0 everything is lost that the broker sends while the engine
    /// is away, and sometimes more.
    pub qos: u8,
    /// "5" or "3.1.1".
    pub protocol: Protocol,
    /// How long the broker keeps messages for us while the engine is away, 1m to 365d (MQTT 5; the
    /// broker may grant less, and has a limit of its own for how many).
    pub session_expiry: Span,
    /// Messages that the broker may send ahead of our acknowledgements, 1 to 10,000 (MQTT 5).
    pub receive_maximum: u16,
    /// A connection on which nothing is heard for 1.5 times this is given up, 5s to 18h.
    pub keep_alive: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: None,
            port: 8883,
            tls: true,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            username: None,
            password: None,
            password_file: None,
            client_id: None,
            topics: vec!["sensors/+/reading".into()],
            qos: 1,
            protocol: Protocol::V5,
            session_expiry: Span::secs(7 * 24 * 3600),
            receive_maximum: 1_000,
            keep_alive: Span::secs(30),
        }
    }
}

impl Config {
    /// Checks every value; the files are read too, if a broker is configured.
    ///
    /// # Errors
    /// [`Invalid`] with the fix.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(host) = &self.host {
            check_host("host", host)?;
        }
        in_range("port", self.port, 1, u16::MAX)?;
        in_range("qos", self.qos, 0, 1)?;
        in_range("receive_maximum", self.receive_maximum, 1, 10_000)?;
        let day = 24 * 3600;
        in_range(
            "session_expiry",
            self.session_expiry,
            Span::secs(60),
            Span::secs(365 * day),
        )?;
        in_range(
            "keep_alive",
            self.keep_alive,
            Span::secs(5),
            Span::secs(18 * 3600),
        )?;
        if self
            .password
            .as_ref()
            .is_some_and(|password| password.expose_secret().is_empty())
        {
            let fix = "fill it in, or leave the key out";
            return Err(Invalid::new("password", REDACTED, "empty", fix));
        }
        if self.host.is_some() && self.password.is_some() && self.username.is_none() {
            let problem = "is set without mqtt.username";
            return Err(Invalid::new("password", REDACTED, problem, "set both"));
        }
        if self.topics.is_empty() {
            let fix = "name at least one, for instance \"sensors/+/reading\"";
            return Err(Invalid::new("topics", "[]", "nothing to subscribe to", fix));
        }
        for topic in &self.topics {
            if let Err(problem) = acl::Filter::new(topic, "") {
                let fix = "write a topic filter, for instance \"sensors/+/reading\"";
                return Err(Invalid::new("topics", quoted(topic), problem, fix));
            }
        }
        if let Some(id) = &self.client_id
            && (id.is_empty() || id.len() > 256 || id.chars().any(char::is_control))
        {
            let fix = "use letters, digits, - and _";
            return Err(Invalid::new("client_id", quoted(id), "not usable", fix));
        }
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            let (key, other) = if self.client_cert_file.is_some() {
                ("client_cert_file", "mqtt.client_key_file")
            } else {
                ("client_key_file", "mqtt.client_cert_file")
            };
            let problem = format!("is set without {other}");
            return Err(Invalid::new(key, "…", problem, "set both"));
        }
        self.check_files()
    }

    /// Certificates are read anew for each connection; that they can be read is checked at once.
    fn check_files(&self) -> Result<(), Invalid> {
        if self.host.is_none() || !self.tls {
            return Ok(());
        }
        let keys = [
            ("ca_file", self.ca_file.as_ref()),
            ("client_cert_file", self.client_cert_file.as_ref()),
            ("client_key_file", self.client_key_file.as_ref()),
        ];
        self.tls_config(&tls::Ends::default())
            .map(drop)
            .map_err(|unusable| unusable.invalid(&keys))
    }

    fn tls_config(&self, ends: &tls::Ends) -> Result<Arc<rustls::ClientConfig>, tls::Unusable> {
        let identity = self
            .client_cert_file
            .as_deref()
            .zip(self.client_key_file.as_deref());
        tls::watched_client_config(self.ca_file.as_deref(), identity, ends)
    }
}

/// Errs unless `host` is a host name or an address, and nothing else.
///
/// # Errors
/// [`Invalid`] with the fix.
pub fn check_host(key: &str, host: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if !host.is_empty() && host.bytes().all(plain) {
        return Ok(());
    }
    // A URL that was pasted here may hold a password.
    let value = if host.contains('@') {
        REDACTED.to_owned()
    } else {
        format!("{host:?}")
    };
    Err(Invalid::new(
        key,
        value,
        "not a host name",
        "write only the name or IP address; scheme, port, user and password have no place here",
    ))
}

/// How the connection to the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected (yet), and why not, if there was an attempt.
    Down(Option<String>),
    /// Connected and subscribed.
    Up,
}

/// The connection as others see it: the readiness page, and the rule that judges silence.
#[derive(Debug)]
pub struct Link {
    /// For people: host and port.
    pub broker: String,
    state: Mutex<LinkState>,
    hearing: Arc<Hearing>,
}

impl Link {
    /// Not connected yet: nothing can be heard.
    pub fn new(broker: String, hearing: Arc<Hearing>) -> Self {
        hearing.lost();
        Self {
            broker,
            state: Mutex::new(LinkState::Down(None)),
            hearing,
        }
    }

    /// As it is now.
    pub fn state(&self) -> LinkState {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, now_ms: i64) {
        *self.lock() = LinkState::Up;
        self.hearing.regained(now_ms);
    }

    fn down(&self, why: &str) {
        *self.lock() = LinkState::Down(Some(why.to_owned()));
        self.hearing.lost();
    }
}

/// What the source keeps between two runs of the engine: the filters that it is subscribed to.
pub trait Subscriptions: Send + Sync {
    /// Those of the last run.
    fn recall(&self) -> Vec<String>;
    /// The broker has granted these.
    fn remember(&self, filters: &[String]);
}

/// What the source works with.
pub struct Surroundings {
    /// The door of the stream.
    pub intake: Intake,
    /// Makes readings of payloads.
    pub decode: Arc<dyn Decode>,
    /// For receive times.
    pub clock: Arc<dyn Clock>,
    /// What it counts.
    pub metrics: BrokerMetrics,
    /// What others see of it.
    pub link: Arc<Link>,
    /// What it keeps.
    pub subscriptions: Box<dyn Subscriptions>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// The source.
#[derive(Debug)]
pub struct Broker {
    config: Config,
    host: String,
    client_id: String,
    surroundings: Surroundings,
    ends: tls::Ends,
}

/// How a connection ended.
enum End {
    Failed(Failure),
    Stopped,
}

/// What one connection achieved.
#[derive(Debug, Default, Clone, Copy)]
struct Achieved {
    accepted: Option<Instant>,
    /// Something that it brought is durable.
    progress: bool,
}

impl Broker {
    /// Made of a config that was validated; `None` if it names no broker. `client_id` counts if the
    /// config has none.
    pub fn new(config: Config, client_id: String, surroundings: Surroundings) -> Option<Self> {
        let host = config.host.clone()?;
        let client_id = config.client_id.clone().unwrap_or(client_id);
        Some(Self {
            config,
            host,
            client_id,
            surroundings,
            ends: tls::Ends::default(),
        })
    }

    /// How the connection is.
    pub fn link(&self) -> &Arc<Link> {
        &self.surroundings.link
    }

    /// When the certificates of the connection end.
    pub fn ends(&self) -> tls::Ends {
        self.ends.clone()
    }

    /// Connects and receives until `stop` becomes true; then finishes what is outstanding, says
    /// goodbye and returns. The session stays at the broker.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let broker = &self.surroundings.link.broker;
        info!(%broker, client_id = %self.client_id, topics = ?self.config.topics, "subscribing");
        if self.config.qos == 0 {
            warn!(%broker, "mqtt.qos = 0: what is sent while the engine is away is lost");
        }
        if !self.config.tls && self.config.password.is_some() {
            warn!(%broker, "mqtt.tls = false: the password crosses the network readable");
        }
        let mut stopped = pin!(stopped(stop));
        let mut pause = FIRST_PAUSE;
        let mut short_lived = 0;
        let mut troubles = Troubles::default();
        loop {
            let mut achieved = Achieved::default();
            let end = self.connection(&mut stopped, &mut achieved).await;
            self.surroundings.metrics.connected.set(0);
            let mut failure = match end {
                End::Stopped => return,
                End::Failed(failure) => failure,
            };
            let lived = achieved.accepted.map(|accepted| accepted.elapsed());
            let cut_short = lived.is_some_and(|lived| lived < SHORT_LIVED);
            if cut_short && failure.may_be_takeover() && !achieved.progress {
                short_lived += 1;
            } else {
                short_lived = 0;
            }
            if short_lived >= SHORT_LIVED_IN_A_ROW {
                failure = Failure::suspected_takeover(short_lived);
            }
            let counter = match lived {
                Some(_) => &self.surroundings.metrics.disconnects,
                None => &self.surroundings.metrics.connects,
            };
            counter.with_label_values(&[failure.kind.label()]).inc();
            self.surroundings.link.down(&failure.text);
            // Only progress shortens the pause: a message that ends each connection must not turn
            // into a storm of connections.
            if achieved.progress {
                pause = FIRST_PAUSE;
                troubles.over();
            }
            if failure.kind == Kind::TakenOver {
                pause = LONGEST_PAUSE;
            }
            troubles.tell(broker, &failure);
            let jitter = rand::thread_rng().gen_range(0.5..1.0);
            tokio::select! {
                () = &mut stopped => return,
                () = sleep(pause.mul_f64(jitter)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from TCP to its end.
    async fn connection(
        &self,
        mut stopped: impl Future<Output = ()> + Unpin,
        achieved: &mut Achieved,
    ) -> End {
        let (sending, receiving) = match self.open() {
            Ok(opened) => opened,
            Err(unusable) => return End::Failed(Failure::new(Kind::Tls, unusable.to_string())),
        };
        let (sender, news) = mpsc::channel(usize::from(self.config.receive_maximum) + 64);
        let mut polling = tokio::spawn(poll(receiving, sender));
        let session = Session {
            broker: self,
            sending,
            news,
            waiting: Vec::new(),
            waiting_since: Instant::now(),
            unacknowledged: 0,
            achieved,
        };
        let end = session.run(&mut stopped).await;
        if matches!(end, End::Stopped) {
            // It ends by itself when the broker has heard the goodbye.
            let _frozen = timeout(GOODBYE, &mut polling).await;
        }
        polling.abort();
        end
    }

    fn open(&self) -> Result<(Sending, Receiving), tls::Unusable> {
        let config = &self.config;
        let tls = config
            .tls
            .then(|| config.tls_config(&self.ends))
            .transpose()?;
        let password = |password: &SecretString| password.expose_secret().to_owned();
        let credentials = config.username.clone().map(|username| {
            let password = config.password.as_ref().map(password);
            (username, password.unwrap_or_default())
        });
        let opening = Opening {
            host: &self.host,
            port: config.port,
            tls,
            client_id: &self.client_id,
            credentials,
            keep_alive: config.keep_alive.duration(),
            session_expiry_s: u32::try_from(config.session_expiry.duration().as_secs())
                .unwrap_or(u32::MAX),
            receive_maximum: config.receive_maximum,
            packet_maximum: PAYLOAD_CEILING + HEADER_ALLOWANCE,
        };
        Ok(match config.protocol {
            Protocol::V5 => client::open_v5(opening),
            Protocol::V311 => client::open_v4(opening),
        })
    }
}

/// Polls the client until it fails. Goes on when nobody wants to hear more: acknowledgements still
/// have to leave.
async fn poll(mut receiving: Receiving, sender: mpsc::Sender<Result<News, Failure>>) {
    loop {
        match receiving.next().await {
            Ok(news) => {
                for news in news {
                    let _gone = sender.send(Ok(news)).await;
                }
            }
            Err(failure) => {
                // Whoever listened may have gone first.
                let _gone = sender.send(Err(failure)).await;
                return;
            }
        }
    }
}

/// The side of a connection that delivers and acknowledges.
struct Session<'a> {
    broker: &'a Broker,
    sending: Sending,
    news: mpsc::Receiver<Result<News, Failure>>,
    /// Received and not yet delivered.
    waiting: Vec<Message>,
    /// Since when the oldest of them has been.
    waiting_since: Instant,
    /// Handed over and not acknowledged.
    unacknowledged: usize,
    achieved: &'a mut Achieved,
}

/// Packet ids of a delivery, in order of receipt.
type Ids = Vec<u16>;

/// What a delivery has to be acknowledged for, and when it arrived.
type Due = (Instant, Ids);

impl Session<'_> {
    async fn run(mut self, mut stopped: impl Future<Output = ()> + Unpin) -> End {
        let most = usize::from(self.broker.config.receive_maximum);
        let mut outstanding = FuturesOrdered::new();
        let end = loop {
            let room = match self.room(outstanding.len()).await {
                Ok(room) => room,
                Err(Refused) => break Self::refused(),
            };
            if let Some(room) = room {
                let (arrivals, ids) = self.decode(room.readings());
                self.unacknowledged += ids.len();
                let due = (self.waiting_since, ids);
                outstanding.push_back(durable(room.send(arrivals), due));
                continue;
            }
            tokio::select! {
                biased;
                Some(answer) = outstanding.next(), if !outstanding.is_empty() => {
                    if let Err(end) = self.settle(answer).await {
                        break end;
                    }
                }
                () = &mut stopped => break End::Stopped,
                first = self.news.recv(), if self.waiting.len() < most => {
                if let Err(failure) = self.take_all(first, most) {
                    break End::Failed(failure);
                }}
            }
        };
        if matches!(end, End::Stopped) {
            // Nobody hears what still comes: the broker delivers it to the next connection.
            self.news.close();
            while let Some(answer) = outstanding.next().await {
                if self.settle(answer).await.is_err() {
                    break;
                }
            }
            self.sending.disconnect();
        }
        // Durable or not, their ids mean nothing on the next connection.
        let stale = self.unacknowledged as u64;
        self.broker.surroundings.metrics.stale.inc_by(stale);
        end
    }

    /// The first news and what else is there already, up to `most` messages.
    fn take_all(
        &mut self,
        first: Option<Result<News, Failure>>,
        most: usize,
    ) -> Result<(), Failure> {
        let ended = || Failure::new(Kind::Io, "the client ended");
        let mut next = first.ok_or_else(ended)?;
        loop {
            self.take(next?)?;
            if self.waiting.len() >= most {
                return Ok(());
            }
            match self.news.try_recv() {
                Ok(news) => next = news,
                Err(_empty_or_ended) => return Ok(()),
            }
        }
    }

    fn refused() -> End {
        let why = "the stream did not take the readings; they will come again";
        End::Failed(Failure::new(Kind::Stream, why))
    }

    /// Room in the stream for what waits; `None`: there is nothing, or something has to be answered
    /// first.
    async fn room(&self, outstanding: usize) -> Result<Option<Room>, Refused> {
        if self.waiting.is_empty() || outstanding >= OUTSTANDING {
            return Ok(None);
        }
        let intake = &self.broker.surroundings.intake;
        if outstanding > 0 {
            return Ok(intake.try_reserve(self.waiting.len()));
        }
        intake.reserve(self.waiting.len()).await.map(Some)
    }

    fn take(&mut self, news: News) -> Result<(), Failure> {
        let Broker {
            config,
            surroundings,
            ..
        } = self.broker;
        match news {
            News::Message(message) => {
                if self.waiting.is_empty() {
                    self.waiting_since = Instant::now();
                }
                self.waiting.push(message);
            }
            News::Connected {
                session_present,
                session_expiry_s,
            } => {
                self.achieved.accepted = Some(Instant::now());
                let metrics = &surroundings.metrics;
                metrics.connects.with_label_values(&["accepted"]).inc();
                metrics.session_present.set(session_present.into());
                self.subscribe(session_present)?;
                let broker = &surroundings.link.broker;
                info!(%broker, session_present, "connected to the broker");
                if let Some(granted_s) = session_expiry_s
                    && Duration::from_secs(granted_s.into()) < config.session_expiry.duration()
                {
                    warn!(
                        %broker,
                        granted_s,
                        asked = %config.session_expiry,
                        "the broker keeps messages for us for a shorter time than asked"
                    );
                }
            }
            News::Subscribed(refusals) => self.subscribed(&refusals)?,
        }
        Ok(())
    }

    /// On every CONNACK: a broker may have lost our subscriptions with or without our session.
    fn subscribe(&self, session_present: bool) -> Result<(), Failure> {
        let Broker {
            config,
            surroundings,
            ..
        } = self.broker;
        let full = || Failure::new(Kind::Io, "the connection ended before we could subscribe");
        if session_present {
            let recalled = surroundings.subscriptions.recall();
            for filter in recalled
                .iter()
                .filter(|filter| !config.topics.contains(filter))
            {
                info!(
                    filter,
                    "unsubscribing: the config does not name it any more"
                );
                if !self.sending.unsubscribe(filter) {
                    return Err(full());
                }
            }
        }
        if self.sending.subscribe(&config.topics, config.qos) {
            Ok(())
        } else {
            Err(full())
        }
    }

    fn subscribed(&mut self, refusals: &[Option<String>]) -> Result<(), Failure> {
        let Broker {
            config,
            surroundings,
            ..
        } = self.broker;
        for (filter, refusal) in config.topics.iter().zip(refusals) {
            if let Some(reason) = refusal {
                let user = config.username.as_deref().unwrap_or("anonymous clients");
                let text = format!(
                    "the broker does not let us subscribe to {filter:?} ({reason}): give {user} \
                     read access to it (mosquitto: a line \"topic read {filter}\" in the acl_file)"
                );
                return Err(Failure::new(Kind::Subscribe, text));
            }
        }
        surroundings.subscriptions.remember(&config.topics);
        surroundings.metrics.connected.set(1);
        surroundings.link.up(surroundings.clock.now_ms());
        Ok(())
    }

    /// Readings of the first `most` messages that wait, and the ids of all of these.
    fn decode(&mut self, most: usize) -> (Vec<Arrival>, Ids) {
        let Surroundings {
            decode,
            clock,
            metrics,
            ..
        } = &self.broker.surroundings;
        let now_ms = clock.now_ms();
        let count = most.min(self.waiting.len());
        let mut arrivals = Vec::with_capacity(count);
        let mut ids = Vec::with_capacity(count);
        let (mut accepted, mut retained, mut status) = (0, 0, 0);
        for message in self.waiting.drain(..count) {
            ids.extend(message.id());
            let topic = message.topic().unwrap_or("\u{fffd}");
            if message.is_retained() {
                retained += 1;
            } else if acl::is_status(topic) {
                status += 1;
            } else {
                accepted += 1;
                arrivals.push(decode_safely(&**decode, topic, message.payload(), now_ms));
            }
        }
        for (result, count) in [
            ("accepted", accepted),
            ("retained", retained),
            ("status", status),
        ] {
            if count > 0 {
                metrics.publishes.with_label_values(&[result]).inc_by(count);
            }
        }
        (arrivals, ids)
    }

    /// Acknowledges a delivery, if it is durable.
    async fn settle(&mut self, answer: Result<Due, Refused>) -> Result<(), End> {
        let (arrived, ids) = answer.map_err(|Refused| Self::refused())?;
        self.achieved.progress = true;
        failpoint::pass("broker.puback");
        let all = ids.len() as u64;
        for id in ids {
            if !self.acknowledge(id).await.map_err(End::Failed)? {
                // The connection is gone; the poller will tell why.
                return Ok(());
            }
            self.unacknowledged -= 1;
            self.broker.surroundings.metrics.pubacks.inc();
            failpoint::pass("broker.acknowledged");
        }
        if all > 0 {
            let seconds = &self.broker.surroundings.metrics.puback_seconds;
            seconds.record(arrived.elapsed(), all);
        }
        Ok(())
    }

    /// Waits for its turn, and takes what comes meanwhile: a poller that cannot get rid of its news
    /// sends no acknowledgements.
    async fn acknowledge(&mut self, id: u16) -> Result<bool, Failure> {
        loop {
            let news = tokio::select! {
                biased;
                sent = self.sending.acknowledge(id) => return Ok(sent),
                news = self.news.recv() => news,
            };
            match news {
                Some(news) => self.take(news?)?,
                None => return Ok(self.sending.acknowledge(id).await),
            }
        }
    }
}

async fn durable(answer: Answered, due: Due) -> Result<Due, Refused> {
    answer.await.map(|()| due)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An owner that is gone cannot say stop any more: that is one too.
    let _gone = stop.wait_for(|stop| *stop).await.map(|_guard| ());
}

/// Tells trouble once, and reminds of it.
#[derive(Default)]
struct Troubles {
    last: Option<(Failure, Instant)>,
    untold: u32,
}

impl Troubles {
    fn over(&mut self) {
        *self = Self::default();
    }

    fn tell(&mut self, broker: &str, failure: &Failure) {
        let recent = self
            .last
            .as_ref()
            .is_some_and(|(last, told)| last == failure && told.elapsed() < REMIND);
        if recent {
            self.untold += 1;
            debug!(%broker, why = failure.text, "not connected to the broker");
            return;
        }
        let more = std::mem::take(&mut self.untold);
        warn!(%broker, more, "not connected to the broker: {}", failure.text);
        self.last = Some((failure.clone(), Instant::now()));
    }
}

/// Label values of the metrics, so that all of them are there from the start.
pub(crate) fn failure_labels() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().map(Kind::label)
}
