//! The built-in listener: an MQTT ingest endpoint (3.1.1 and 5, `QoS` 0 and 1) on plain tokio; not
//! a broker.
//!
//! Per connection one task, in these steps:
//! 1. TLS, if certificates are configured, then CONNECT, both within the time limit: password, limits
//!    announced, CONNACK.
//! 2. Read what the socket has, feed the protocol core, decode every PUBLISH.
//! 3. Hand what the read brought to the intake as one delivery; up to two of them may
//!    wait for their answer. Beyond that the socket is not read: that is the backpressure.
//! 4. Deliveries are answered in order of receipt; all PUBACKs of one leave in one write. A refused
//!    delivery closes the connection without acknowledging, and the node sends again.
//! 5. At the end (client, keep-alive, broken protocol, shutdown) what is outstanding is finished
//!    and acknowledged first, then MQTT 5 clients are told why.
//!
//! Choices: PINGRESP, SUBACK and UNSUBACK promise nothing and leave at once, ahead of PUBACKs that
//! still wait; only while the socket is not read does a PINGREQ wait with the rest (the client
//! tolerates that for 1.5 × its keep-alive, and our own wait never counts as its silence). A second
//! connection with the same client id does not take over the first, both live: an ingest endpoint
//! keeps no session that could be taken. Last wills are accepted and ignored.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use mqtt_protocol_core::mqtt;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event};
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, GenericPacketTrait, MaximumPacketSize, MaximumQos, Packet, Property,
    Qos, ReasonString, ReceiveMaximum, RetainAvailable, ServerKeepAlive, SessionExpiryInterval,
    SharedSubscriptionAvailable, SubscriptionIdentifierAvailable, WildcardSubscriptionAvailable,
    v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode,
    SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};
use secrecy::{ExposeSecret, SecretSlice};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::acl;
use super::auth::{Account, Accounts};
pub use super::auth::{HashError, User, hash_password};
use super::bounds::{HEADER_ALLOWANCE, PAYLOAD_CEILING, ReadBuffer, Throttle, quoted};
use super::decode::{Decode, decode_safely};
use super::intake::{Answered, Intake, Refused, Room};
use crate::clock::Clock;
use crate::failpoint;
use crate::metrics::ListenerMetrics;
use crate::reading::Arrival;
use crate::tls::{self, ServerCertificates};

mod config;

pub use config::Config;

/// Deliveries of one connection that may wait for their answer. The second lets decoding go on
/// while the store syncs: half as much again with a store that takes a millisecond per commit.
const OUTSTANDING: usize = 2;

/// `QoS` 1 publishes that an MQTT 5 client may have unacknowledged, and the most that one delivery
/// holds (MQTT 3.1.1 clients cannot be told).
const RECEIVE_MAXIMUM: u16 = 1_000;

/// Bytes of a short PUBLISH: an estimate of how many a read has brought.
const USUAL_PUBLISH: usize = 96;

/// Added to `max_payload_bytes` in the announced Maximum Packet Size.
const ANNOUNCED_ALLOWANCE: u32 = 1024;

/// A CONNECT beyond this is not one of ours; bounds what strangers can make us hold.
const CONNECT_CEILING: usize = 16 * 1024;

/// A client that does not take its acknowledgements for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A delivery without an answer for this long is worth a warning.
const STALLED: Duration = Duration::from_mins(1);

/// How long a closed connection may still send before the socket goes; without it the reset that
/// answers its unread bytes could destroy the last PUBACKs on their way.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Password verifications at the same time: each costs tens of milliseconds and 19 MiB.
const VERIFICATIONS: usize = 2;

/// Connections over `max_connections` that are told so at the same time; further ones are dropped.
const REFUSALS: usize = 64;

/// What a client is told that wants to subscribe.
const NO_SUBSCRIPTIONS: &str =
    "this is an ingest endpoint, not a broker: it takes readings and hands out none";

/// A bound socket that does not accept yet.
#[derive(Debug)]
pub struct Listener {
    config: Config,
    accounts: Accounts,
    certificates: Option<Arc<ServerCertificates>>,
    socket: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Checks the config and takes the port.
    ///
    /// # Errors
    /// Names the address and what to do about it.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let (accounts, certificates) = config
            .check()
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let socket = TcpListener::bind(config.addr)
            .await
            .map_err(|error| explain_bind(config.addr, &error))?;
        let addr = socket.local_addr()?;
        if !addr.ip().is_loopback() && certificates.is_none() {
            warn!(
                %addr,
                "passwords and readings cross the network readable: set listener.cert_file and \
                 listener.key_file"
            );
        }
        Ok(Self {
            config,
            accounts,
            certificates: certificates.map(Arc::new),
            socket,
            addr,
        })
    }

    /// Where it listens; tells the port if the config said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it proves itself with.
    pub fn certificates(&self) -> Option<Arc<ServerCertificates>> {
        self.certificates.clone()
    }

    /// Whether clients have to speak TLS.
    pub fn is_tls(&self) -> bool {
        self.certificates.is_some()
    }

    /// Accepts and serves until `stop` becomes true (or its sender is gone), then finishes what is
    /// outstanding and returns when the last connection is closed.
    pub async fn run(
        self,
        intake: Intake,
        decode: Arc<dyn Decode>,
        clock: Arc<dyn Clock>,
        metrics: ListenerMetrics,
        stop: watch::Receiver<bool>,
    ) {
        let Self {
            config,
            accounts,
            certificates,
            socket,
            addr,
        } = self;
        let tls = certificates.is_some();
        info!(%addr, tls, users = config.users.len(), "listening for MQTT");
        let places = Arc::new(Semaphore::new(config.max_connections as usize));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let shared = Arc::new(Shared {
            config,
            accounts: Arc::new(accounts),
            certificates,
            verifications: Arc::new(Semaphore::new(VERIFICATIONS)),
            intake,
            decode,
            clock,
            metrics,
            warnings: Warnings::default(),
            assigned: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let mut connections = JoinSet::new();
        let mut stopped = pin!(stopped(stop.clone()));
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    shared.reap(ended);
                }
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Some(place) = Place::find(&places, &refusals) else {
                            shared.too_many(peer);
                            continue;
                        };
                        // Acknowledgements are small and waited for.
                        let _without = stream.set_nodelay(true);
                        let shared = Arc::clone(&shared);
                        connections.spawn(admit(stream, peer, shared, place, stop.clone()));
                    }
                    Err(error) => {
                        shared.warnings.accept.warn(|more| {
                            warn!(%error, more, "cannot accept connections; trying again");
                        });
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(socket);
        while let Some(ended) = connections.join_next().await {
            shared.reap(ended);
        }
        info!(%addr, "the listener has closed");
    }
}

fn explain_bind(addr: SocketAddr, error: &io::Error) -> io::Error {
    let fix = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program (a broker?) has this port: choose another address with `addr` in the \
             listener's section of the config, or do without the listener with `enabled = false` \
             there"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges: set `addr` in the listener's section of the config \
             to a higher port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address: correct `addr` in the listener's \
             section of the config"
        }
        _ => "check `addr` in the listener's section of the config",
    };
    io::Error::new(
        error.kind(),
        format!("cannot listen on {addr}: {error}; {fix}"),
    )
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An owner that is gone cannot say stop any more: that is one too.
    let _gone = stop.wait_for(|stop| *stop).await.map(|_guard| ());
}

/// What all connections share.
struct Shared {
    config: Config,
    accounts: Arc<Accounts>,
    certificates: Option<Arc<ServerCertificates>>,
    verifications: Arc<Semaphore>,
    intake: Intake,
    decode: Arc<dyn Decode>,
    clock: Arc<dyn Clock>,
    metrics: ListenerMetrics,
    warnings: Warnings,
    /// Client ids given out.
    assigned: AtomicU64,
    /// See [`Shared::open`].
    open: AtomicUsize,
}

impl Shared {
    /// Connections that were accepted and live.
    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn reap(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            self.metrics
                .disconnects
                .with_label_values(&["protocol"])
                .inc();
            self.warnings.panicked.warn(|more| {
                warn!(%error, more, "a connection's task panicked; the others are untouched");
            });
        }
    }

    fn too_many(&self, peer: SocketAddr) {
        self.metrics.connects.with_label_values(&["too_many"]).inc();
        self.warnings.too_many.warn(|more| {
            let limit = self.config.max_connections;
            warn!(%peer, limit, more, "connection refused: max_connections are open already");
        });
    }
}

/// What a new connection got: a place, or only the time to be told that there is none.
enum Place {
    Free(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit),
    Full(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit),
}

impl Place {
    fn find(places: &Arc<Semaphore>, refusals: &Arc<Semaphore>) -> Option<Self> {
        let full = |_none| Arc::clone(refusals).try_acquire_owned().map(Self::Full);
        Arc::clone(places)
            .try_acquire_owned()
            .map(Self::Free)
            .or_else(full)
            .ok()
    }
}

#[derive(Default)]
struct Warnings {
    accept: Throttle,
    panicked: Throttle,
    too_many: Throttle,
    credentials: Throttle,
    tls: Throttle,
    connect: Throttle,
    acl: Throttle,
    subscribe: Throttle,
    protocol: Throttle,
    refused: Throttle,
    silent: Throttle,
    stalled: Throttle,
}

/// What CONNECT said, in either version.
struct Hello {
    client_id: String,
    clean: bool,
    keep_alive_s: u16,
    name: Option<String>,
    /// Zeros when it is no longer needed.
    password: Option<Arc<SecretSlice<u8>>>,
    own_authentication: bool,
}

fn secret(bytes: &[u8]) -> Arc<SecretSlice<u8>> {
    Arc::new(bytes.to_vec().into())
}

/// Why a CONNECT was not accepted.
struct Rejected {
    /// Label of the metric.
    result: &'static str,
    answer: Option<(ConnectReasonCode, ConnectReturnCode)>,
    reason: String,
}

impl Rejected {
    fn silently(result: &'static str, reason: impl Into<String>) -> Self {
        Self {
            result,
            answer: None,
            reason: reason.into(),
        }
    }

    fn with(
        result: &'static str,
        code: ConnectReasonCode,
        old: ConnectReturnCode,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            result,
            answer: Some((code, old)),
            reason: reason.into(),
        }
    }
}

/// Why an accepted connection ends.
enum End {
    Client,
    Io(io::Error),
    KeepAlive,
    /// Silent, and had asked for no keep-alive.
    Idle,
    Protocol(DisconnectReasonCode, String),
    Refused,
    Shutdown,
}

impl End {
    /// Label of the metric.
    fn label(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Io(_) => "io",
            Self::KeepAlive => "keep_alive",
            Self::Idle => "idle",
            Self::Protocol(..) => "protocol",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
        }
    }

    /// What an MQTT 5 client is told.
    fn farewell(&self) -> Option<(DisconnectReasonCode, &str)> {
        match self {
            Self::Client | Self::Io(_) => None,
            Self::KeepAlive | Self::Idle => Some((
                DisconnectReasonCode::KeepAliveTimeout,
                "nothing was heard for too long",
            )),
            Self::Protocol(code, what) => Some((*code, what)),
            Self::Refused => Some((
                DisconnectReasonCode::ServerBusy,
                "not stored: connect and send again",
            )),
            Self::Shutdown => Some((
                DisconnectReasonCode::ServerShuttingDown,
                "the engine is shutting down",
            )),
        }
    }
}

/// A publish to acknowledge.
#[derive(Clone, Copy)]
struct Ack {
    id: u16,
    authorized: bool,
}

/// What a delivery has to be acknowledged for, and when it arrived.
type Due = (Instant, Vec<Ack>);

/// What feeding the protocol core brought.
#[derive(Default)]
struct Batch {
    arrivals: Vec<Arrival>,
    acks: Vec<Ack>,
    publishes: usize,
    end: Option<End>,
    tally: Tally,
}

/// PUBLISH packets by result; goes to the metrics once per batch.
#[derive(Default)]
struct Tally {
    accepted: u64,
    not_authorized: u64,
    retained: u64,
    status: u64,
    too_large: u64,
}

impl Tally {
    fn record(&self, metrics: &ListenerMetrics) {
        for (result, count) in [
            ("accepted", self.accepted),
            ("not_authorized", self.not_authorized),
            ("retained", self.retained),
            ("status", self.status),
            ("too_large", self.too_large),
        ] {
            if count > 0 {
                metrics.publishes.with_label_values(&[result]).inc_by(count);
            }
        }
    }
}

/// A PUBLISH in either version.
struct Publish<'a> {
    topic: &'a str,
    payload: &'a [u8],
    qos: Qos,
    id: Option<u16>,
    retain: bool,
}

/// Serves one connection from the first byte, which is TLS if certificates are configured.
async fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
    stop: watch::Receiver<bool>,
) {
    let deadline = Instant::now() + shared.config.connect_timeout.duration();
    let Some(certificates) = &shared.certificates else {
        return serve(stream, peer, shared, place, stop, deadline).await;
    };
    let handshake = TlsAcceptor::from(certificates.config()).accept(stream);
    let shaken = tokio::select! {
        biased;
        () = stopped(stop.clone()) => return,
        shaken = timeout_at(deadline, handshake) => shaken,
    };
    let problem = match shaken {
        Ok(Ok(stream)) => return serve(stream, peer, shared, place, stop, deadline).await,
        Ok(Err(error)) => tls::explain(&error).unwrap_or_else(|| error.to_string()),
        Err(_elapsed) => "it did not finish in time".to_owned(),
    };
    shared.metrics.connects.with_label_values(&["tls"]).inc();
    shared.warnings.tls.warn(|more| {
        warn!(%peer, problem, more, "connection not accepted: no TLS handshake");
    });
}

/// Serves one connection from CONNECT, which must come before `deadline`, to close.
async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
    stop: watch::Receiver<bool>,
    deadline: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stopped = pin!(stopped(stop));
    let mut connection = Connection::new(stream, peer, Arc::clone(&shared));
    let greeted = tokio::select! {
        biased;
        () = &mut stopped => Err(Rejected::silently("refused", "the engine is shutting down")),
        greeted = connection.greet(&place, deadline) => greeted,
    };
    if let Err(rejected) = greeted {
        connection.reject(rejected).await;
        return;
    }
    let _open = Open::count(shared);
    let end = connection.stream_readings(stopped).await;
    connection.close(end).await;
}

/// Counts an open connection for as long as it lives, panics included.
struct Open(Arc<Shared>);

impl Open {
    fn count(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.inc();
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}

struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    shared: Arc<Shared>,
    codec: mqtt::Connection<mqtt::role::Server>,
    buffer: ReadBuffer,
    /// Bytes to write next.
    out: Vec<u8>,
    /// Client id, quoted for logs.
    client: String,
    /// `None`: anonymous, may publish everything.
    account: Option<Arc<Account>>,
    /// How long the client may be silent.
    patience: Duration,
    /// True if the client asked for no keep-alive and could not be told one.
    no_keep_alive: bool,
    /// True if the client takes reason strings.
    verbose: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S, peer: SocketAddr, shared: Arc<Shared>) -> Self {
        let options =
            ConnectionOptions::new().maximum_packet_size_recv(PAYLOAD_CEILING + HEADER_ALLOWANCE);
        Self {
            stream,
            peer,
            shared,
            codec: mqtt::Connection::with_options(mqtt::Version::Undetermined, options),
            buffer: ReadBuffer::default(),
            out: Vec::new(),
            client: String::new(),
            account: None,
            patience: Duration::MAX,
            no_keep_alive: false,
            verbose: false,
        }
    }

    fn is_v5(&self) -> bool {
        self.codec.get_protocol_version() == mqtt::Version::V5_0
    }

    /// Feeds the core until it has one packet or the buffer is empty.
    fn next_events(&mut self) -> Vec<Event> {
        let mut cursor = Cursor::new(self.buffer.unread());
        let events = self.codec.recv(&mut cursor);
        let fed = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        self.buffer.consume(fed);
        events
    }

    // ---- CONNECT ----

    async fn greet(&mut self, place: &Place, deadline: Instant) -> Result<(), Rejected> {
        let hello = match timeout_at(deadline, self.read_connect()).await {
            Ok(hello) => hello?,
            Err(_elapsed) => return Err(Rejected::silently("timeout", "no CONNECT in time")),
        };
        self.client = quoted(&hello.client_id);
        if matches!(place, Place::Full(_)) {
            return Err(Rejected::with(
                "too_many",
                ConnectReasonCode::QuotaExceeded,
                ConnectReturnCode::ServerUnavailable,
                "as many connections as allowed are open already",
            ));
        }
        Self::check(&hello)?;
        self.account = self.authenticate(&hello).await?;
        self.accept(&hello).await
    }

    async fn read_connect(&mut self) -> Result<Hello, Rejected> {
        let mut seen = 0;
        loop {
            let read = self
                .stream
                .read(self.buffer.space(self.shared.open()))
                .await;
            let read = read.map_err(|error| Rejected::silently("malformed", error.to_string()))?;
            if read == 0 {
                return Err(Rejected::silently("malformed", "closed before CONNECT"));
            }
            self.buffer.filled(read);
            let events = self.next_events();
            seen += read;
            for event in events {
                match event {
                    Event::NotifyPacketReceived(packet) => return self.hello(&packet),
                    // The core's own CONNACK for a CONNECT that it cannot read.
                    Event::RequestSendPacket { packet, .. } => {
                        self.out.extend(packet.to_continuous_buffer());
                    }
                    Event::NotifyError(MqttError::UnsupportedProtocolVersion) => {
                        // The answer of 3.1.1, which older and newer clients recognise.
                        self.out.extend_from_slice(&[0x20, 0x02, 0x00, 0x01]);
                        let reason = "protocol version is neither 3.1.1 nor 5";
                        return Err(Rejected::silently("malformed", reason));
                    }
                    Event::NotifyError(error) => {
                        return Err(Rejected::silently("malformed", error.to_string()));
                    }
                    _ => {}
                }
            }
            if seen > CONNECT_CEILING {
                return Err(Rejected::silently("malformed", "CONNECT is too large"));
            }
        }
    }

    fn hello(&mut self, packet: &Packet) -> Result<Hello, Rejected> {
        match packet {
            Packet::V3_1_1Connect(connect) => Ok(Hello {
                client_id: connect.client_id().to_owned(),
                clean: connect.clean_session(),
                keep_alive_s: connect.keep_alive(),
                name: connect.user_name().map(str::to_owned),
                password: connect.password().map(secret),
                own_authentication: false,
            }),
            Packet::V5_0Connect(connect) => {
                let mut own_authentication = false;
                self.verbose = true;
                for property in connect.props() {
                    match property {
                        Property::AuthenticationMethod(_) => own_authentication = true,
                        Property::RequestProblemInformation(wanted) if wanted.val() == 0 => {
                            self.verbose = false;
                        }
                        // Our longest packet with a reason string stays below this.
                        Property::MaximumPacketSize(most) if most.val() < 256 => {
                            self.verbose = false;
                        }
                        _ => {}
                    }
                }
                Ok(Hello {
                    client_id: connect.client_id().to_owned(),
                    clean: true,
                    keep_alive_s: connect.keep_alive(),
                    name: connect.user_name().map(str::to_owned),
                    password: connect.password().map(secret),
                    own_authentication,
                })
            }
            _ => Err(Rejected::silently(
                "malformed",
                "the first packet is no CONNECT",
            )),
        }
    }

    fn check(hello: &Hello) -> Result<(), Rejected> {
        if hello.own_authentication {
            return Err(Rejected::with(
                "refused",
                ConnectReasonCode::BadAuthenticationMethod,
                ConnectReturnCode::NotAuthorized,
                "only user name and password are supported",
            ));
        }
        if hello.client_id.is_empty() && !hello.clean {
            return Err(Rejected::with(
                "refused",
                ConnectReasonCode::ClientIdentifierNotValid,
                ConnectReturnCode::IdentifierRejected,
                "an empty client id needs a clean session",
            ));
        }
        Ok(())
    }

    async fn authenticate(&self, hello: &Hello) -> Result<Option<Arc<Account>>, Rejected> {
        let accounts = &self.shared.accounts;
        if accounts.is_empty() {
            return Ok(None);
        }
        let wrong = || {
            Rejected::with(
                "bad_credentials",
                ConnectReasonCode::BadUserNameOrPassword,
                ConnectReturnCode::BadUserNameOrPassword,
                "wrong user name or password",
            )
        };
        let (Some(name), Some(password)) = (hello.name.clone(), hello.password.clone()) else {
            return Err(wrong());
        };
        if let Some(account) = accounts.recall(&name, password.expose_secret()) {
            return Ok(Some(account));
        }
        let limit = self.shared.config.connect_timeout.duration();
        let turn = Arc::clone(&self.shared.verifications).acquire_owned();
        let Ok(Ok(turn)) = timeout(limit, turn).await else {
            return Err(Rejected::with(
                "refused",
                ConnectReasonCode::ServerBusy,
                ConnectReturnCode::ServerUnavailable,
                "too many nodes want their password checked at once; try again",
            ));
        };
        let accounts = Arc::clone(accounts);
        let verified = tokio::task::spawn_blocking(move || {
            // Another node of the same user may have been verified while this one waited.
            let password = password.expose_secret();
            let account = accounts
                .recall(&name, password)
                .or_else(|| accounts.verify(&name, password));
            drop(turn);
            account
        });
        verified.await.ok().flatten().map(Some).ok_or_else(wrong)
    }

    async fn accept(&mut self, hello: &Hello) -> Result<(), Rejected> {
        let longest = self.shared.config.max_keep_alive.duration();
        let asked = Duration::from_secs(u64::from(hello.keep_alive_s));
        let too_long = asked.is_zero() || asked > longest;
        let granted = if asked.is_zero() || (self.is_v5() && too_long) {
            longest
        } else {
            asked
        };
        self.patience = granted + granted / 2;
        self.no_keep_alive = asked.is_zero() && !self.is_v5();
        if self.is_v5() {
            self.accept_v5(hello, too_long.then_some(granted))
        } else {
            v3_1_1::Connack::builder()
                .session_present(false)
                .return_code(ConnectReturnCode::Accepted)
                .build()
                .map(|connack| {
                    self.out.extend_from_slice(&connack.to_continuous_buffer());
                    self.codec.checked_send(connack);
                })
        }
        .map_err(|error| Rejected::silently("malformed", error.to_string()))?;
        self.write()
            .await
            .map_err(|error| Rejected::silently("malformed", error.to_string()))?;
        self.shared
            .metrics
            .connects
            .with_label_values(&["accepted"])
            .inc();
        debug!(peer = %self.peer, client = %self.client, "connected");
        Ok(())
    }

    fn accept_v5(&mut self, hello: &Hello, keep_alive: Option<Duration>) -> Result<(), MqttError> {
        let mut limits: Vec<Property> = vec![
            Property::SessionExpiryInterval(SessionExpiryInterval::new(0)?),
            Property::ReceiveMaximum(ReceiveMaximum::new(RECEIVE_MAXIMUM)?),
            Property::MaximumQos(MaximumQos::new(1)?),
            Property::RetainAvailable(RetainAvailable::new(1)?),
            Property::WildcardSubscriptionAvailable(WildcardSubscriptionAvailable::new(0)?),
            Property::SubscriptionIdentifierAvailable(SubscriptionIdentifierAvailable::new(0)?),
            Property::SharedSubscriptionAvailable(SharedSubscriptionAvailable::new(0)?),
        ];
        if hello.client_id.is_empty() {
            let number = self.shared.assigned.fetch_add(1, Ordering::Relaxed);
            let id = format!("vigie-{:x}-{number:x}", self.shared.clock.now_ms());
            self.client = quoted(&id);
            let id = AssignedClientIdentifier::new(id.as_str())?;
            limits.push(Property::AssignedClientIdentifier(id));
        }
        if let Some(keep_alive) = keep_alive {
            let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
            limits.push(Property::ServerKeepAlive(ServerKeepAlive::new(seconds)?));
        }
        let connack = |limits: Vec<Property>| {
            v5_0::Connack::builder()
                .session_present(false)
                .reason_code(ConnectReasonCode::Success)
                .props(limits)
                .build()
        };
        // The core enforces the Maximum Packet Size of the CONNACK that it is given. Larger packets
        // are to be quarantined, not cut off; so it learns its own ceiling and the client the
        // configured size.
        self.codec.checked_send(connack(limits.clone())?);
        let announced = self.shared.config.max_payload_bytes + ANNOUNCED_ALLOWANCE;
        limits.push(Property::MaximumPacketSize(MaximumPacketSize::new(
            announced,
        )?));
        self.out
            .extend_from_slice(&connack(limits)?.to_continuous_buffer());
        Ok(())
    }

    async fn reject(mut self, rejected: Rejected) {
        let Rejected {
            result,
            answer,
            reason,
        } = rejected;
        let Shared {
            metrics, warnings, ..
        } = &*self.shared;
        if result == "too_many" {
            self.shared.too_many(self.peer);
        } else {
            metrics.connects.with_label_values(&[result]).inc();
            let cause = if result == "bad_credentials" {
                &warnings.credentials
            } else {
                &warnings.connect
            };
            cause.warn(|more| {
                let client = &self.client;
                warn!(peer = %self.peer, client, reason, more, "connection not accepted");
            });
        }
        if let Some((code, old)) = answer {
            self.answer_connect(code, old, &reason);
        }
        if self.out.is_empty() || self.write().await.is_err() {
            return;
        }
        self.linger().await;
    }

    fn answer_connect(&mut self, code: ConnectReasonCode, old: ConnectReturnCode, reason: &str) {
        let connack = if self.is_v5() {
            let builder = v5_0::Connack::builder()
                .session_present(false)
                .reason_code(code);
            let builder = match self.reason(reason) {
                Some(reason) => builder.props(vec![reason]),
                None => builder,
            };
            builder
                .build()
                .map(|connack| connack.to_continuous_buffer())
        } else {
            let builder = v3_1_1::Connack::builder()
                .session_present(false)
                .return_code(old);
            builder
                .build()
                .map(|connack| connack.to_continuous_buffer())
        };
        self.out.extend(connack.unwrap_or_default());
    }

    fn reason(&self, reason: &str) -> Option<Property> {
        let reason = self.verbose.then(|| ReasonString::new(reason).ok())??;
        Some(Property::ReasonString(reason))
    }

    // ---- PUBLISH ----

    async fn stream_readings(&mut self, mut stopped: impl Future<Output = ()> + Unpin) -> End {
        let mut outstanding = FuturesOrdered::new();
        let mut heard = Instant::now();
        // Of what is in the buffer: nothing more is read before all of it is decoded.
        let mut arrived = heard;
        let mut silence = pin!(sleep_until(heard + self.patience));
        let mut end = loop {
            let room = match self.room(outstanding.len()).await {
                Ok(room) => room,
                Err(Refused) => break End::Refused,
            };
            if let Some(room) = room {
                let batch = self.digest(room.readings());
                batch.tally.record(&self.shared.metrics);
                if !(batch.arrivals.is_empty() && batch.acks.is_empty()) {
                    let shared = Arc::clone(&self.shared);
                    let answer = room.send(batch.arrivals);
                    let acks = (arrived, batch.acks);
                    outstanding.push_back(patiently(shared, self.peer, answer, acks));
                }
                let written = self.write().await;
                if let Some(end) = batch.end.or(written.err().map(End::Io)) {
                    break end;
                }
                continue;
            }
            tokio::select! {
                biased;
                Some(answer) = outstanding.next(), if !outstanding.is_empty() => {
                    if let Err(end) = self.settle(answer).await {
                        break end;
                    }
                    // Time that we took is not the client's silence.
                    heard = Instant::now();
                }
                () = &mut stopped => break End::Shutdown,
                () = &mut silence => {
                    if !outstanding.is_empty() {
                        heard = Instant::now();
                    }
                    // Reset here and not at every read: timers cost more than a look at the clock.
                    let until = heard + self.patience;
                    if until <= Instant::now() {
                        break if self.no_keep_alive { End::Idle } else { End::KeepAlive };
                    }
                    silence.as_mut().reset(until);
                }
                read = self.stream.read(self.buffer.space(self.shared.open())),
                    if outstanding.len() < OUTSTANDING && self.buffer.is_empty() =>
                {
                    match read {
                        Ok(0) => break End::Client,
                        Ok(read) => {
                            self.buffer.filled(read);
                            heard = Instant::now();
                            arrived = heard;
                        }
                        Err(error) => break End::Io(error),
                    }
                }
            }
        };
        if matches!(end, End::Refused) {
            return end;
        }
        // What was taken is finished, even if nobody is left to hear of it: the stream may still
        // wait for room, and QoS 0 comes only once.
        while let Some(answer) = outstanding.next().await {
            match self.settle(answer).await {
                Ok(()) => {}
                Err(End::Refused) => return End::Refused,
                Err(other) => end = other,
            }
        }
        end
    }

    /// Room in the stream for what was read: decoded readings weigh more than their bytes. `None`:
    /// there is nothing to decode, or something has to be answered first.
    async fn room(&self, outstanding: usize) -> Result<Option<Room>, Refused> {
        if self.buffer.is_empty() || outstanding >= OUTSTANDING {
            return Ok(None);
        }
        let most = usize::from(RECEIVE_MAXIMUM);
        let readings = (self.buffer.unread().len() / USUAL_PUBLISH + 1).min(most);
        if outstanding > 0 {
            return Ok(self.shared.intake.try_reserve(readings));
        }
        self.shared.intake.reserve(readings).await.map(Some)
    }

    /// Everything that was read, or as much of it as `most` publishes.
    fn digest(&mut self, most: usize) -> Batch {
        let mut batch = Batch::default();
        let now_ms = self.shared.clock.now_ms();
        while batch.end.is_none() && batch.publishes < most && !self.buffer.is_empty() {
            for event in self.next_events() {
                match event {
                    Event::NotifyPacketReceived(packet) => {
                        self.packet(&packet, now_ms, &mut batch);
                    }
                    Event::NotifyError(error) => {
                        let what = format!("protocol error: {error}");
                        batch.end = Some(End::Protocol(disconnect_code(error), what));
                    }
                    // Keep-alive and the packets that end a connection are done here.
                    _ => {}
                }
            }
        }
        batch
    }

    fn packet(&mut self, packet: &Packet, now_ms: i64, batch: &mut Batch) {
        match packet {
            Packet::V3_1_1Publish(publish) => {
                let publish = Publish {
                    topic: publish.topic_name(),
                    payload: publish.payload().as_slice(),
                    qos: publish.qos(),
                    id: publish.packet_id(),
                    retain: publish.retain(),
                };
                self.publish(&publish, now_ms, batch);
            }
            Packet::V5_0Publish(publish) => {
                let publish = Publish {
                    topic: publish.topic_name(),
                    payload: publish.payload().as_slice(),
                    qos: publish.qos(),
                    id: publish.packet_id(),
                    retain: publish.retain(),
                };
                self.publish(&publish, now_ms, batch);
            }
            Packet::V3_1_1Pingreq(_) | Packet::V5_0Pingreq(_) => {
                self.out.extend_from_slice(&[0xd0, 0x00]);
            }
            Packet::V3_1_1Disconnect(_) | Packet::V5_0Disconnect(_) => {
                batch.end = Some(End::Client);
            }
            other => {
                let answer = self.answer_subscription(other);
                batch.end = answer.err().map(|error| {
                    End::Protocol(
                        disconnect_code(error),
                        "this packet has no place here".into(),
                    )
                });
            }
        }
    }

    fn publish(&mut self, publish: &Publish<'_>, now_ms: i64, batch: &mut Batch) {
        batch.publishes += 1;
        if let Some(end) = faulty(publish) {
            batch.end = Some(end);
            return;
        }
        let Publish { topic, payload, .. } = *publish;
        let authorized = self
            .account
            .as_ref()
            .is_none_or(|account| account.may_publish(topic));
        if let Some(id) = publish.id {
            batch.acks.push(Ack { id, authorized });
        }
        if !authorized {
            batch.tally.not_authorized += 1;
            self.warn_not_authorized(topic);
        } else if publish.retain {
            batch.tally.retained += 1;
        } else if acl::is_status(topic) {
            batch.tally.status += 1;
        } else {
            let too_large = payload.len() > self.shared.config.max_payload_bytes as usize;
            let counter = if too_large {
                &mut batch.tally.too_large
            } else {
                &mut batch.tally.accepted
            };
            *counter += 1;
            let decode = &*self.shared.decode;
            batch
                .arrivals
                .push(decode_safely(decode, topic, payload, now_ms));
        }
    }

    fn warn_not_authorized(&self, topic: &str) {
        self.shared.warnings.acl.warn(|more| {
            let user = self.account.as_ref().map(|account| quoted(&account.name));
            let user = user.unwrap_or_default();
            let (client, topic) = (&self.client, quoted(topic));
            warn!(peer = %self.peer, client, user, topic, more, "publish not authorized; dropped");
        });
    }

    /// SUBSCRIBE is refused in words, UNSUBSCRIBE granted: there is never anything to end.
    fn answer_subscription(&mut self, packet: &Packet) -> Result<(), MqttError> {
        let answer = match packet {
            Packet::V3_1_1Subscribe(subscribe) => {
                let codes = vec![SubackReturnCode::Failure; subscribe.entries().len()];
                let builder = v3_1_1::Suback::builder().packet_id(subscribe.packet_id());
                builder.return_codes(codes).build()?.to_continuous_buffer()
            }
            Packet::V5_0Subscribe(subscribe) => {
                let code = SubackReasonCode::ImplementationSpecificError;
                let builder = v5_0::Suback::builder()
                    .packet_id(subscribe.packet_id())
                    .reason_codes(vec![code; subscribe.entries().len()]);
                let builder = match self.reason(NO_SUBSCRIPTIONS) {
                    Some(reason) => builder.props(vec![reason]),
                    None => builder,
                };
                builder.build()?.to_continuous_buffer()
            }
            Packet::V3_1_1Unsubscribe(unsubscribe) => {
                let builder = v3_1_1::Unsuback::builder().packet_id(unsubscribe.packet_id());
                builder.build()?.to_continuous_buffer()
            }
            Packet::V5_0Unsubscribe(unsubscribe) => {
                let code = UnsubackReasonCode::NoSubscriptionExisted;
                v5_0::Unsuback::builder()
                    .packet_id(unsubscribe.packet_id())
                    .reason_codes(vec![code; unsubscribe.entries().len()])
                    .build()?
                    .to_continuous_buffer()
            }
            _ => return Err(MqttError::ProtocolError),
        };
        if matches!(
            packet,
            Packet::V3_1_1Subscribe(_) | Packet::V5_0Subscribe(_)
        ) {
            self.shared.warnings.subscribe.warn(|more| {
                let client = &self.client;
                warn!(peer = %self.peer, client, more, "SUBSCRIBE refused: {NO_SUBSCRIPTIONS}");
            });
        }
        self.out.extend_from_slice(&answer);
        Ok(())
    }

    /// Acknowledges one delivery, or ends the connection because it was refused.
    async fn settle(&mut self, answer: Result<Due, Refused>) -> Result<(), End> {
        let (arrived, acks) = answer.map_err(|Refused| End::Refused)?;
        for ack in &acks {
            self.acknowledge(*ack);
        }
        failpoint::pass("listener.puback");
        self.write().await.map_err(End::Io)?;
        failpoint::pass("listener.acknowledged");
        let (metrics, sent) = (&self.shared.metrics, acks.len() as u64);
        metrics.pubacks.inc_by(sent);
        if sent > 0 {
            metrics.puback_seconds.record(arrived.elapsed(), sent);
        }
        Ok(())
    }

    /// Four bytes (five with a reason). The core only has to know that the id is free again; what
    /// it answers does not matter, as after a protocol error it would send nothing any more.
    fn acknowledge(&mut self, ack: Ack) {
        let [high, low] = ack.id.to_be_bytes();
        if !self.is_v5() {
            self.out.extend_from_slice(&[0x40, 0x02, high, low]);
            if let Ok(puback) = v3_1_1::Puback::builder().packet_id(ack.id).build() {
                self.codec.checked_send(puback);
            }
            return;
        }
        if ack.authorized {
            self.out.extend_from_slice(&[0x40, 0x02, high, low]);
        } else {
            let code = PubackReasonCode::NotAuthorized as u8;
            self.out.extend_from_slice(&[0x40, 0x03, high, low, code]);
        }
        if let Ok(puback) = v5_0::Puback::builder().packet_id(ack.id).build() {
            self.codec.checked_send(puback);
        }
    }

    // ---- bytes out, and the end ----

    async fn write(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Self { stream, out, .. } = self;
        let write = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        let written = timeout(WRITE_TIMEOUT, write).await;
        out.clear();
        written.unwrap_or_else(|_elapsed| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            ))
        })
    }

    async fn close(mut self, end: End) {
        self.shared
            .metrics
            .disconnects
            .with_label_values(&[end.label()])
            .inc();
        self.log(&end);
        let Some((code, what)) = end.farewell() else {
            return;
        };
        if self.is_v5() {
            let builder = v5_0::Disconnect::builder().reason_code(code);
            let builder = match self.reason(what) {
                Some(reason) => builder.props(vec![reason]),
                None => builder,
            };
            let disconnect = builder
                .build()
                .map(|disconnect| disconnect.to_continuous_buffer());
            self.out.extend(disconnect.unwrap_or_default());
            if self.write().await.is_err() {
                return;
            }
        }
        self.linger().await;
    }

    fn log(&self, end: &End) {
        let Self { peer, client, .. } = self;
        let warnings = &self.shared.warnings;
        match end {
            End::Client | End::Shutdown => debug!(%peer, client, end = end.label(), "closed"),
            End::Io(error) => debug!(%peer, client, %error, "connection lost"),
            End::KeepAlive | End::Idle => warnings.silent.warn(|more| {
                let patience = self.patience;
                warn!(%peer, client, ?patience, more, "closed: nothing heard for too long");
            }),
            End::Protocol(_, what) => warnings.protocol.warn(|more| {
                warn!(%peer, client, more, "closed: {what}");
            }),
            End::Refused => warnings.refused.warn(|more| {
                warn!(%peer, client, more, "closed without acknowledging: the stream refused");
            }),
        }
    }

    /// Lets the client take the last bytes: closes our side, then reads into the void for a while.
    async fn linger(mut self) {
        let end = async {
            self.stream.shutdown().await?;
            while self
                .stream
                .read(self.buffer.space(self.shared.open()))
                .await?
                > 0
            {}
            io::Result::Ok(())
        };
        // Whatever happens here, the connection is over.
        let _over = timeout(LINGER, end).await;
    }
}

/// Waits for the answer, and grumbles once a minute while there is none.
async fn patiently(
    shared: Arc<Shared>,
    peer: SocketAddr,
    mut answer: Answered,
    acks: Due,
) -> Result<Due, Refused> {
    loop {
        match timeout(STALLED, &mut answer).await {
            Ok(answer) => return answer.map(|()| acks),
            Err(_elapsed) => shared.warnings.stalled.warn(|more| {
                warn!(%peer, more, "no answer from the stream for a minute or longer");
            }),
        }
    }
}

/// What makes a PUBLISH unacceptable as a packet, whatever its payload.
fn faulty(publish: &Publish<'_>) -> Option<End> {
    if publish.qos == Qos::ExactlyOnce {
        let what = "QoS 2 is not supported, use QoS 1";
        return Some(End::Protocol(
            DisconnectReasonCode::QosNotSupported,
            what.into(),
        ));
    }
    if publish.id == Some(0) {
        let what = "packet id 0 in a PUBLISH";
        return Some(End::Protocol(
            DisconnectReasonCode::ProtocolError,
            what.into(),
        ));
    }
    if !acl::is_topic_name(publish.topic) {
        let what = "a PUBLISH needs a topic without wildcards";
        return Some(End::Protocol(
            DisconnectReasonCode::TopicNameInvalid,
            what.into(),
        ));
    }
    None
}

/// Errors above 0xFF are the core's own; all of them mean bytes that are no MQTT.
fn disconnect_code(error: MqttError) -> DisconnectReasonCode {
    if error as u16 > 0xff {
        DisconnectReasonCode::MalformedPacket
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::pin::Pin;

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::clock::ManualClock;
    use crate::reading::Quarantined;

    fn shared(intake: Intake) -> Arc<Shared> {
        let metrics = ListenerMetrics::unregistered().unwrap();
        let decode = |topic: &str, payload: &[u8], now: i64| {
            Arrival::Quarantine(Quarantined::new("test", String::new(), topic, payload, now))
        };
        Arc::new(Shared {
            config: Config::default(),
            accounts: Arc::new(Accounts::new(&[]).unwrap()),
            certificates: None,
            verifications: Arc::new(Semaphore::new(1)),
            intake,
            decode: Arc::new(decode),
            clock: Arc::new(ManualClock::at(0)),
            metrics,
            warnings: Warnings::default(),
            assigned: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        })
    }

    /// Serves `bytes` through a pipe that holds `width` bytes, so that reads end at every multiple
    /// of it; returns everything that the listener wrote.
    async fn through(width: usize, bytes: Vec<u8>) -> Vec<u8> {
        let intake = Intake::new(1_000, |delivery| {
            delivery.complete();
            Ok(())
        });
        let (client, server): (DuplexStream, DuplexStream) = duplex(width);
        let (mut read, mut write) = tokio::io::split(client);
        let (_stop, stopped) = watch::channel(false);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let deadline = Instant::now() + Config::default().connect_timeout.duration();
        let place = Place::Free(place);
        let serving = serve(server, peer, shared(intake), place, stopped, deadline);
        let mut serving: Pin<Box<dyn Future<Output = ()>>> = Box::pin(serving);
        let mut answers = Vec::new();
        let writing = async {
            // The listener may close before it has read everything.
            let _closed = write.write_all(&bytes).await;
            let _closed = write.shutdown().await;
        };
        let reading = async {
            let _end = read.read_to_end(&mut answers).await;
        };
        tokio::join!(writing, reading, &mut serving);
        answers
    }

    #[tokio::test(start_paused = true)]
    async fn reads_may_end_anywhere() {
        for protocol in [4, 5] {
            let properties: &[u8] = if protocol == 5 { &[0] } else { &[] };
            let connect = [
                b"\0\x04MQTT",
                &[protocol, 2, 0, 60][..],
                properties,
                b"\0\x01a",
            ];
            let connect = connect.concat();
            let mut bytes = [&[0x10, u8::try_from(connect.len()).unwrap()][..], &connect].concat();
            for id in 1..=40_u8 {
                let payload = vec![b'x'; usize::from(id) * 5];
                let body = [b"\0\x03a/b\0", &[id][..], properties, &payload].concat();
                bytes.push(0x32);
                if body.len() > 127 {
                    bytes.push(u8::try_from(body.len() & 0x7f).unwrap() | 0x80);
                    bytes.push(u8::try_from(body.len() >> 7).unwrap());
                } else {
                    bytes.push(u8::try_from(body.len()).unwrap());
                }
                bytes.extend(body);
            }
            bytes.extend([0xc0, 0, 0xe0, 0]);
            for width in 1..=300 {
                let answers = through(width, bytes.clone()).await;
                let start = usize::from(answers[1]) + 2;
                let mut acknowledged = Vec::new();
                let mut rest = &answers[start..];
                while let [header, length, tail @ ..] = rest {
                    let (body, tail) = tail.split_at(usize::from(*length));
                    if *header == 0x40 {
                        acknowledged.push(body[1]);
                    }
                    rest = tail;
                }
                let expected: Vec<u8> = (1..=40).collect();
                assert_eq!(acknowledged, expected, "protocol {protocol}, width {width}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(
            protocol in 3..7_u8,
            garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            greeted in proptest::prelude::any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let mut bytes = Vec::new();
            if greeted {
                bytes.extend(b"\x10\x0e\0\x04MQTT");
                bytes.extend([protocol, 2, 0, 60, 0, 0, 1, b'a']);
            }
            bytes.extend(garbage);
            runtime.block_on(through(64, bytes));
        }
    }

    #[test]
    fn reasons_are_told_apart() {
        let labels: HashMap<_, _> = [End::Client, End::KeepAlive, End::Refused, End::Shutdown]
            .iter()
            .map(|end| (end.label(), end.farewell().map(|(code, _)| code as u8)))
            .collect();
        let expected = [
            ("client", None),
            ("keep_alive", Some(0x8d)),
            ("refused", Some(0x89)),
            ("shutdown", Some(0x8b)),
        ];
        assert_eq!(labels, HashMap::from(expected));
        assert_eq!(disconnect_code(MqttError::InsufficientBytes) as u8, 0x81);
    }
}
