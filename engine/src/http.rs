//! The HTTP side: a page for people, `/metrics` for Prometheus, probes, the JSON API over the store,
//! and events for who watches. It only reads: nothing here can change what the stream does, but for
//! the answers of people to incidents. With certificates it speaks TLS.
//!
//! warp says what a request holds; the connections are hyper's, for warp's own server has neither
//! a limit on how many there are nor on how long one may take to send its headers.

mod answers;
mod api;
mod assets;
mod events;
mod live;
pub(crate) use self::api::{Account, Failure, Query, Wish, incident, incidents, write_reading};
pub(crate) use self::live::{Judgement, Mails};
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::{Stream, StreamExt as _};
use hyper::Request;
use hyper::body::Buf;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use rustls::ServerConfig;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vigie_actors::alert::link::{Answer, Signer};
use vigie_actors::clock::Clock;
use vigie_actors::forward;
use vigie_actors::ingest::broker::{Link, LinkState};
use vigie_actors::metrics::{Metrics, Seen};
use vigie_actors::quantity::Catalogue;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::supervise::Health;
use vigie_actors::tls::{self, ServerCertificates};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::filters::path::FullPath;
use warp::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE as COOKIES,
    ETAG, HOST, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply as _, Response};

use self::assets::Asset;
use self::events::{Hub, Patience, Watching};

use crate::config::without_port;

/// What the answers are made from.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Where everything is.
    pub store: Embedded,
    /// Names and units.
    pub catalogue: Arc<Catalogue>,
    /// Everything that `/metrics` shows.
    pub registry: Registry,
    /// The gauges that are refreshed when somebody looks.
    pub metrics: Metrics,
    /// Whether the stream can go on.
    pub health: Arc<Health>,
    /// The stream's clock.
    pub clock: Arc<dyn Clock>,
    /// With a token, everything but the probes asks for it.
    pub token: Option<SecretString>,
    /// Where the built-in listener listens, if there is one.
    pub mqtt_addr: Option<SocketAddr>,
    /// The connection to an external broker.
    pub link: Option<Arc<Link>>,
    /// The copy in MongoDB.
    pub copy: Option<forward::Board>,
    /// Knows the links in mails.
    pub signer: Signer,
    /// True once the engine takes nothing more in.
    pub draining: watch::Receiver<bool>,
    /// By what the engine judges.
    pub judgement: Judgement,
    /// What may be mailed, if mails are sent at all.
    pub mails: Option<Mails>,
    /// False: time is that of the readings.
    pub live: bool,
    /// People come by HTTPS only, here or at a proxy: cookies are not for anything else.
    pub secure: bool,
}

/// Bounds on what clients can hold.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at a time; more wait until one ends.
    connections: usize,
    /// For the headers of a request, and between requests.
    headers: Duration,
    /// For a connection as a whole: afterwards it may finish its answer.
    connection: Duration,
    /// For an answer under way when its connection has to end.
    last_answer: Duration,
    /// Of those who watch events.
    patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            headers: Duration::from_secs(5),
            connection: Duration::from_mins(1),
            last_answer: Duration::from_secs(5),
            patience: Patience::default(),
        }
    }
}

/// Bytes of a request's head at most.
const HEAD_BYTES: usize = 16 << 10;
/// Answers that are read from the store at the same time: the stream needs the cores, too.
const READERS: usize = 2;
/// How old the size of the store may be.
const MEASURED_EVERY_MS: i64 = 10_000;
/// After this the store counts as unreadable.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// So long an answer to an incident waits until the stream has done it …
const DONE_WITHIN: Duration = Duration::from_secs(3);
/// … looking this often.
const LOOKED_EVERY: Duration = Duration::from_millis(50);
/// Bytes of a request's body at most.
const BODY_BYTES: usize = 4 << 10;

/// Of the pages behind the links of mails: a style of their own, a form, no script.
const CSP: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                   form-action 'self'; frame-ancestors 'none'";
/// Of the live page and all that it asks for: only what comes from here, and nothing written into
/// the page itself.
const STRICT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Name of the cookie that a browser shows in place of the token.
const COOKIE: &str = "vigie_session";
/// A browser has to give the token again after this time.
const SESSION: Duration = Duration::from_hours(30 * 24);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// A bound address, ready to serve.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    certificates: Option<Arc<ServerCertificates>>,
    limits: Limits,
    /// The host under which people find it, if that is known.
    public_host: Option<String>,
}

impl Server {
    /// Binds `addr`. With certificates it speaks TLS, and nothing else.
    ///
    /// # Errors
    /// Names the address, and says what to do.
    pub(crate) async fn bind(
        addr: SocketAddr,
        certificates: Option<ServerCertificates>,
    ) -> anyhow::Result<Self> {
        let advice = |error: std::io::Error| {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => {
                    "something else listens there; give another address with --http or http.addr"
                }
                ErrorKind::AddrNotAvailable => {
                    "this machine does not have that address; give one that it has with --http or \
                     http.addr"
                }
                ErrorKind::PermissionDenied => {
                    "not allowed; give a port above 1023 with --http or http.addr"
                }
                _ => "give another address with --http or http.addr",
            };
            anyhow::Error::new(error).context(format!("cannot serve HTTP on {addr}: {advice}"))
        };
        let listener = TcpListener::bind(addr).await.map_err(advice)?;
        let addr = listener
            .local_addr()
            .context("cannot tell the address of the HTTP server")?;
        Ok(Self {
            listener,
            addr,
            certificates: certificates.map(Arc::new),
            limits: Limits::default(),
            public_host: None,
        })
    }

    /// The host of `http.public_url`: without a token, requests may name it as well.
    pub(crate) fn known_as(mut self, public_host: Option<&str>) -> Self {
        self.public_host = public_host.map(str::to_owned);
        self
    }

    /// What it shows to clients, if it speaks TLS.
    pub(crate) fn certificates(&self) -> Option<Arc<ServerCertificates>> {
        self.certificates.clone()
    }

    /// `https` or `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.certificates {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Where it listens: tells the port if it was bound to port 0.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` holds true, then lets answers under way finish.
    pub(crate) async fn run(self, state: State, mut stop: watch::Receiver<bool>) {
        let limits = self.limits;
        let names = Names {
            bound: self.addr.ip(),
            public: self.public_host,
        };
        let shared = Arc::new(Shared::new(state, limits.patience, names));
        let watch = tokio::spawn(watch_over(Arc::clone(&shared)));
        let routes = routes(shared);
        let places = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = told(&mut stop) => break,
                Some(_ended) = connections.join_next() => continue,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let Some((stream, place)) = accepted else {
                break;
            };
            let (routes, stop) = (routes.clone(), stop.clone());
            let tls = self.certificates.as_ref().map(|files| files.config());
            connections.spawn(async move {
                match tls {
                    None => converse(stream, routes, limits, stop).await,
                    Some(config) => {
                        if let Some(stream) = shake_hands(stream, config, limits).await {
                            converse(stream, routes, limits, stop).await;
                        }
                    }
                }
                drop(place);
            });
        }
        watch.abort();
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// The next connection, when there is a place for it; `None` if there will never be one.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                // Out of file handles, most likely: wait until some are free again.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender is gone: nobody will ever tell.
        std::future::pending::<()>().await;
    }
}

/// The TLS handshake; `None`: the other side does not want it, or takes too long.
async fn shake_hands(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    limits: Limits,
) -> Option<TlsStream<TcpStream>> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(limits.headers, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            // Anybody can cause it, as often as they like: nothing that a log should fill with.
            let why = tls::explain(&error).unwrap_or_else(|| error.to_string());
            tracing::debug!(why, "no TLS handshake with an HTTP client");
            None
        }
        Err(_elapsed) => None,
    }
}

/// Serves one connection within its limits.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: BoxedFilter<(Response,)>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let routes = TowerToHyperService::new(warp::service(routes));
    let (watching, mut is_watching) = watch::channel(false);
    let service = service_fn(move |mut request: Request<_>| {
        request.extensions_mut().insert(watching.clone());
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = overdue(&mut is_watching, limits) => {}
        () = told(&mut stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Whoever has not taken the answer by then does not get it.
    let _ended = tokio::time::timeout(limits.last_answer, connection).await;
}

/// A connection has lasted long enough: one that watches, when its events end.
async fn overdue(is_watching: &mut watch::Receiver<bool>, limits: Limits) {
    tokio::time::sleep(limits.connection).await;
    // The sender goes with the connection.
    let _gone = is_watching.wait_for(|watching| !watching).await;
}

/// Hands what a request says to [`Shared::answer`].
fn routes(shared: Arc<Shared>) -> BoxedFilter<(Response,)> {
    warp::method()
        .and(warp::path::full())
        .and(warp::query::<Vec<(String, String)>>())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Watching>())
        .and(warp::body::stream().then(body))
        .then(
            move |method, path: FullPath, query: Vec<(String, String)>, headers, watching, body| {
                let shared = Arc::clone(&shared);
                async move {
                    let answer = match body {
                        Err(failure) => Err(failure),
                        Ok(body) => {
                            let ask = Ask {
                                method,
                                headers,
                                watching,
                                body,
                            };
                            shared.answer(path.as_str(), &query, ask).await
                        }
                    };
                    dressed(answer.unwrap_or_else(|failure| refusal(&failure)))
                }
            },
        )
        .boxed()
}

/// What a request holds beside path and query.
struct Ask {
    method: Method,
    headers: HeaderMap,
    watching: Watching,
    body: Vec<u8>,
}

impl Ask {
    /// The value of a header, if it is text.
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Fails unless this can only come from a program or from our own page. A page elsewhere cannot
    /// send JSON without asking first (CORS), and is refused then; and a browser says who asks.
    fn is_ours(&self) -> Result<(), Failure> {
        let kind = self.header(&CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.starts_with(JSON)) {
            let fix = "send the header 'Content-Type: application/json'";
            return Err(Failure::new(415, "this is not marked as JSON", fix));
        }
        let from = self.header(&SEC_FETCH_SITE);
        if from.is_some_and(|from| !["same-origin", "none"].contains(&from)) {
            let fix = "use the engine's own page";
            return Err(Failure::new(403, "another page asks for this", fix));
        }
        Ok(())
    }

    /// What the browser shows in place of the token.
    fn session(&self) -> Option<&str> {
        let all = self.headers.get_all(COOKIES);
        let all = all.iter().filter_map(|value| value.to_str().ok());
        let mut cookies = all.flat_map(|value| value.split(';'));
        cookies.find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
    }
}

/// The body of a request, if it is small.
async fn body(
    stream: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<Vec<u8>, Failure> {
    let mut stream = pin!(stream);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let Ok(mut chunk) = chunk else {
            let fix = "send it again";
            return Err(Failure::new(400, "the body broke off", fix));
        };
        while chunk.has_remaining() && bytes.len() <= BODY_BYTES {
            let part = chunk.chunk();
            let taken = part.len();
            bytes.extend_from_slice(part);
            chunk.advance(taken);
        }
        if bytes.len() > BODY_BYTES {
            let fix = format!("send {BODY_BYTES} bytes at most");
            return Err(Failure::new(413, "the body is too large", fix));
        }
    }
    Ok(bytes)
}

/// What there is.
#[derive(Debug, Clone)]
enum Route {
    /// A file of the live page.
    Asset(&'static Asset),
    /// Whether this browser is known, and how it gets known.
    Session,
    Events,
    Health,
    Quantities,
    Trends,
    Chart(String),
    Metrics,
    Live,
    Ready,
    Sensors,
    Readings(String),
    Hours(String),
    Anomalies,
    Incidents,
    Incident(String),
    /// A program answers.
    Answer(String, Answer),
    /// A person answers, by a signed link.
    Link(String, Answer),
    Ledger,
    Accounts,
    Mongodb,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match segments.as_slice() {
            [""] => Self::Asset(assets::find("index.html")?),
            ["page", name @ ..] => Self::Asset(assets::find(&name.join("/"))?),
            ["api", "v1", "session"] => Self::Session,
            ["api", "v1", "events"] => Self::Events,
            ["api", "v1", "health"] => Self::Health,
            ["api", "v1", "quantities"] => Self::Quantities,
            ["api", "v1", "trends"] => Self::Trends,
            ["api", "v1", "sensors", id, "chart"] => Self::Chart(unescape(id)),
            ["metrics"] => Self::Metrics,
            ["livez" | "healthz"] => Self::Live,
            ["readyz"] => Self::Ready,
            ["api", "v1", "sensors"] => Self::Sensors,
            ["api", "v1", "sensors", id, "readings"] => Self::Readings(unescape(id)),
            ["api", "v1", "sensors", id, "hours"] => Self::Hours(unescape(id)),
            ["api", "v1", "anomalies"] => Self::Anomalies,
            ["api", "v1", "incidents"] => Self::Incidents,
            ["api", "v1", "incidents", id] => Self::Incident(unescape(id)),
            ["api", "v1", "incidents", id, answer] => {
                Self::Answer(unescape(id), Answer::of(answer)?)
            }
            ["incidents", id, answer] => Self::Link(unescape(id), Answer::of(answer)?),
            ["api", "v1", "ledger"] => Self::Ledger,
            ["api", "v1", "ledger", "sensors"] => Self::Accounts,
            ["api", "v1", "mongodb"] => Self::Mongodb,
            _ => return None,
        })
    }

    /// Parameters that it understands.
    const fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Asset(_)
            | Self::Session
            | Self::Events
            | Self::Health
            | Self::Quantities
            | Self::Metrics
            | Self::Live
            | Self::Incident(_)
            | Self::Answer(..)
            | Self::Ledger
            | Self::Mongodb => &[],
            Self::Trends => &["sensors", "from", "to", "points"],
            Self::Chart(_) => &["from", "to", "points"],
            Self::Link(..) => &["until", "signature"],
            Self::Ready => &["verbose"],
            Self::Sensors | Self::Accounts => &["limit", "cursor"],
            Self::Readings(_) | Self::Hours(_) | Self::Anomalies => {
                &["from", "to", "limit", "cursor"]
            }
            Self::Incidents => &["open", "from", "to", "limit", "cursor"],
        }
    }

    /// Whether strangers may ask: the links prove themselves, and the files hold no data.
    const fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Asset(_) | Self::Session | Self::Live | Self::Ready | Self::Link(..)
        )
    }

    /// Methods that it understands.
    const fn methods(&self) -> &'static str {
        match self {
            Self::Answer(..) => "POST",
            Self::Session => "GET, HEAD, POST, DELETE",
            Self::Link(..) => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }
}

/// A path segment with its `%3A` and the like read; what is no such escape stays as it is.
fn unescape(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() {
            &behind[2..]
        } else {
            behind
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a request may call the engine while there is no token. A page elsewhere can have its own name
/// lead to this machine (DNS rebinding), and is of the same origin as the engine then: but its
/// browser says that name.
#[derive(Debug)]
struct Names {
    /// Where it listens.
    bound: IpAddr,
    /// The host of `http.public_url`; an IPv6 address stands in brackets.
    public: Option<String>,
}

impl Names {
    /// Is `host` one of them? It may have a port.
    fn know(&self, host: &str) -> bool {
        let host = without_port(host);
        let mut names = ["localhost"].into_iter().chain(self.public.as_deref());
        if names.any(|name| name.eq_ignore_ascii_case(host)) {
            return true;
        }
        let bare = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
        let ip: Option<IpAddr> = bare.unwrap_or(host).parse().ok();
        ip.is_some_and(|ip| ip.is_loopback() || ip == self.bound)
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    state: State,
    names: Names,
    readers: Arc<Semaphore>,
    /// When the size of the store was measured.
    measured_ms: AtomicI64,
    hub: Arc<Hub>,
    /// When the engine started.
    started_ms: i64,
}

impl Shared {
    fn new(state: State, patience: Patience, names: Names) -> Self {
        Self {
            started_ms: state.clock.now_ms(),
            hub: Arc::new(Hub::new(patience)),
            state,
            names,
            readers: Arc::new(Semaphore::new(READERS)),
            measured_ms: AtomicI64::new(i64::MIN),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        path: &str,
        query: &[(String, String)],
        ask: Ask,
    ) -> Result<Response, Failure> {
        self.is_meant(&ask)?;
        let route = Route::of(path);
        let known = self.knows(&ask);
        if !known && !route.as_ref().is_some_and(Route::is_open) {
            return Err(Failure::new(
                401,
                "this needs the engine's token",
                "send the header 'Authorization: Bearer <token>' with the token of http.token",
            ));
        }
        let Some(route) = route else {
            return Err(Failure::new(
                404,
                "there is nothing here",
                "/ shows what there is",
            ));
        };
        let methods = route.methods();
        if !methods.split(", ").any(|one| one == ask.method.as_str()) {
            return Ok(not_allowed(&ask.method, methods));
        }
        let query = Query::parse(query, route.parameters())?;
        match route {
            Route::Asset(asset) => Ok(file(asset, &ask)),
            Route::Session => self.session(&ask, known),
            Route::Events => self.events(ask.watching),
            Route::Health => {
                let health = self.health().await?;
                Ok(response(StatusCode::OK, JSON, health.into_bytes()))
            }
            Route::Quantities => {
                self.read(JSON, |state| live::quantities(&state.catalogue))
                    .await
            }
            Route::Trends => {
                self.read(JSON, move |state| live::trends(state, &query))
                    .await
            }
            Route::Chart(id) => {
                self.read(JSON, move |state| live::chart(state, &id, &query))
                    .await
            }
            Route::Metrics => self.metrics().await,
            Route::Live => Ok(response(StatusCode::OK, TEXT, b"ok\n".to_vec())),
            Route::Ready => Ok(self.ready(query.verbose, known).await),
            Route::Sensors => {
                self.read(JSON, move |state| api::sensors(state, &query))
                    .await
            }
            Route::Readings(id) => {
                self.read(JSON, move |state| {
                    api::readings(&state.store, &state.catalogue, &id, &query)
                })
                .await
            }
            Route::Hours(id) => {
                self.read(JSON, move |state| {
                    api::hours(&state.store, &state.catalogue, &id, &query)
                })
                .await
            }
            Route::Anomalies => {
                self.read(JSON, move |state| {
                    api::anomalies(&state.store, &state.catalogue, &query)
                })
                .await
            }
            Route::Incidents => {
                self.read(JSON, move |state| {
                    api::incidents(&state.store, &state.catalogue, &query)
                })
                .await
            }
            Route::Incident(id) => {
                self.read(JSON, move |state| {
                    api::incident(&state.store, &state.catalogue, &id)
                })
                .await
            }
            Route::Answer(id, answer) => self.answer_to(id, answer, ask).await,
            Route::Link(id, answer) => self.link(&ask.method, id, answer, query).await,
            Route::Ledger => self.read(JSON, |state| api::ledger(&state.store)).await,
            Route::Accounts => {
                self.read(JSON, move |state| api::accounts(&state.store, &query))
                    .await
            }
            Route::Mongodb => {
                self.read(JSON, |state| {
                    api::mongodb(state.copy.as_ref(), &state.store)
                })
                .await
            }
        }
    }

    /// A program answers to an incident.
    async fn answer_to(
        self: &Arc<Self>,
        id: String,
        answer: Answer,
        ask: Ask,
    ) -> Result<Response, Failure> {
        ask.is_ours()?;
        let body = ask.body;
        let incident = id.clone();
        self.done(move |state| {
            let now_ms = state.clock.now_ms();
            api::answer(&state.store, &incident, answer, &body, now_ms)
        })
        .await?;
        self.read(JSON, move |state| {
            api::incident(&state.store, &state.catalogue, &id)
        })
        .await
    }

    /// A person follows a link of a mail. Programs that look mails through follow links as well, so
    /// that alone does nothing: it shows a page with a button.
    async fn link(
        self: &Arc<Self>,
        method: &Method,
        id: String,
        answer: Answer,
        query: Query,
    ) -> Result<Response, Failure> {
        let now_ms = self.state.clock.now_ms();
        let (until_ms, signature) = (query.until_ms, &query.signature);
        let signer = &self.state.signer;
        if !signer.knows(&id, answer, until_ms, signature, now_ms) {
            let html = answers::refused();
            return Ok(response(StatusCode::FORBIDDEN, HTML, html.into_bytes()));
        }
        if *method == Method::POST {
            let incident = id.clone();
            self.done(move |state| {
                let wish = Wish::new(answer, "a link in a mail");
                wish.order(&state.store, &incident, state.clock.now_ms())
            })
            .await?;
        }
        let asks = *method != Method::POST;
        self.read(HTML, move |state| {
            let what = api::incident_sentence(&state.store, &state.catalogue, &id)?;
            Ok(answers::answer(answer, &what, asks).into_bytes())
        })
        .await
    }

    /// Gives an order to the stream, and waits a while until it is done: it is durable in any case.
    async fn done(
        self: &Arc<Self>,
        order: impl FnOnce(&State) -> Result<u64, Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let shared = Arc::clone(self);
        let ordered = tokio::task::spawn_blocking(move || order(&shared.state)).await;
        let number = ordered.map_err(|panic| Failure::inside(panic.to_string()))??;
        for _ in 0..DONE_WITHIN.as_millis() / LOOKED_EVERY.as_millis() {
            if !self.state.store.is_ordered(number)? {
                break;
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
        Ok(())
    }

    /// Fails if nothing but its name for the engine tells a request from one of a page elsewhere, and
    /// that name is not ours. Tools that give no name are no browsers.
    fn is_meant(&self, ask: &Ask) -> Result<(), Failure> {
        let mut hosts = ask.headers.get_all(HOST).iter();
        let ours = |host: &HeaderValue| host.to_str().is_ok_and(|host| self.names.know(host));
        if self.state.token.is_some() || hosts.all(ours) {
            return Ok(());
        }
        Err(Failure::new(
            421,
            "without a token, the engine does not answer under this name",
            "use localhost or 127.0.0.1; or set http.public_url to the address that people use, or \
             set http.token",
        ))
    }

    /// Does the request hold the token, or a session that was got for it, if one is asked for?
    /// Takes as long whatever the first wrong byte is.
    fn knows(&self, ask: &Ask) -> bool {
        let Some(token) = &self.state.token else {
            return true;
        };
        let token = token.expose_secret();
        let given = ask
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked(b"Bearer ".len()))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
        match given {
            Some((_, given)) => given.ct_eq(token.as_bytes()).into(),
            None => ask.session().is_some_and(|session| {
                let now_ms = self.state.clock.now_ms();
                self.state.signer.knows_session(session, token, now_ms)
            }),
        }
    }

    /// A browser gives the token once, and shows a cookie from then on that no script can read and
    /// no other site can use: `EventSource` cannot send a header.
    fn session(&self, ask: &Ask, known: bool) -> Result<Response, Failure> {
        let asks = self.state.token.is_some();
        let (known, cookie) = match (&ask.method, &self.state.token) {
            (&Method::POST, Some(token)) => {
                ask.is_ours()?;
                let token = token.expose_secret();
                if !is_token(&ask.body, token) {
                    let fix = "give the token of http.token";
                    return Err(Failure::new(403, "this is not the engine's token", fix));
                }
                let until_ms = self.state.clock.now_ms() + millis(SESSION);
                let session = self.state.signer.session(token, until_ms);
                (true, Some(self.cookie(ask, &session, SESSION)))
            }
            (&Method::DELETE, _) => (!asks, Some(self.cookie(ask, "", Duration::ZERO))),
            _ => (known, None),
        };
        let body = serde_json::json!({ "token": asks, "known": known });
        let mut response = response(StatusCode::OK, JSON, body.to_string().into_bytes());
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    fn cookie(&self, ask: &Ask, value: &str, lasts: Duration) -> String {
        // A proxy that says so may be believed: it can only make the cookie stricter.
        let by_proxy = ask.header(&FORWARDED_PROTO) == Some("https");
        let secure = if self.state.secure || by_proxy {
            "; Secure"
        } else {
            ""
        };
        let seconds = lasts.as_secs();
        format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// What changes, from now on.
    fn events(&self, watching: Watching) -> Result<Response, Failure> {
        let hello = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.started_ms,
            "live": self.state.live,
        });
        let hello = events::frame("hello", &hello.to_string());
        let Some(frames) = self.hub.watch(hello, watching) else {
            let fix = "try again later, or close other pages; the rest of the API answers as usual";
            let what = format!("{} pages watch already", events::WATCHERS);
            return Err(Failure::new(503, what, fix));
        };
        let mut response = warp::reply::stream(frames).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // nginx collects an answer otherwise.
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        Ok(response)
    }

    /// How the engine does, for the page.
    async fn health(self: &Arc<Self>) -> Result<String, Failure> {
        let parts = self.parts().await;
        self.made(move |shared| {
            shared.measure();
            let state = &shared.state;
            let ledger = state.store.ledger()?;
            let broker = state.link.as_ref().map(|link| {
                let (connected, trouble) = match link.state() {
                    LinkState::Up => (true, None),
                    LinkState::Down(why) => (false, why),
                };
                serde_json::json!({
                    "target": link.broker, "connected": connected, "trouble": trouble,
                })
            });
            let health = serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "now": state.clock.now_ms(),
                "started": shared.started_ms,
                "live": state.live,
                "token": state.token.is_some(),
                "ready": parts.iter().all(|part| part.ready),
                "parts": parts,
                "sensors": state.metrics.sensors.get(),
                "live_sensors": state.metrics.board.capacity(),
                "store_bytes": state.metrics.store_bytes.get(),
                "disk_full": state.metrics.disk_full.get() != 0,
                "watchers": shared.hub.watchers(),
                "ledger": api::Sums::of(ledger),
                "mail": live::budget(state)?,
                "broker": broker,
                "mongodb": state.copy.as_ref().map(|copy| copy.look(&state.store)),
            });
            Ok(health.to_string())
        })
        .await
    }

    /// Something from the store, off the threads that serve connections, and not too much at once.
    async fn made<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let reader = Arc::clone(&self.readers).acquire_owned().await;
        let shared = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            // Held by the thread: a client that goes away does not end the work.
            let _reader = reader;
            make(&shared)
        });
        made.await
            .unwrap_or_else(|panic| Err(Failure::inside(panic.to_string())))
    }

    /// An answer from the store.
    async fn read(
        self: &Arc<Self>,
        kind: &'static str,
        make: impl FnOnce(&State) -> Result<Vec<u8>, Failure> + Send + 'static,
    ) -> Result<Response, Failure> {
        let made = self.made(|shared| make(&shared.state)).await;
        made.inspect_err(|failure| {
            if failure.status >= 500 {
                tracing::error!(error = %failure.what, "cannot answer over HTTP");
            }
        })
        .map(|body| response(StatusCode::OK, kind, body))
    }

    async fn metrics(self: &Arc<Self>) -> Result<Response, Failure> {
        let shared = Arc::clone(self);
        let text = tokio::task::spawn_blocking(move || {
            shared.measure();
            shared.state.metrics.text(&shared.state.registry)
        })
        .await
        .map_err(|panic| Failure::inside(panic.to_string()))?
        .map_err(|error| Failure::inside(error.to_string()))?;
        Ok(response(
            StatusCode::OK,
            prometheus::TEXT_FORMAT,
            text.into_bytes(),
        ))
    }

    /// Refreshes what is too dear to be kept up to date all the time.
    fn measure(&self) {
        let now_ms = self.state.clock.now_ms();
        let last_ms = self.measured_ms.load(Ordering::Relaxed);
        let due = last_ms == i64::MIN || (now_ms - last_ms).abs() >= MEASURED_EVERY_MS;
        if due {
            self.measured_ms.store(now_ms, Ordering::Relaxed);
            let bytes = self.state.store.disk_bytes();
            self.state
                .metrics
                .store_bytes
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// The probe: which parts can do their work? Strangers get no details.
    async fn ready(&self, verbose: bool, known: bool) -> Response {
        let parts = self.parts().await;
        let ready = parts.iter().all(|part| part.ready);
        let mut text = String::new();
        for part in parts.iter().filter(|part| verbose || !part.ready) {
            let mark = if part.ready { '+' } else { '-' };
            // Writing to a String cannot fail.
            let _infallible = if known {
                writeln!(text, "[{mark}] {}: {}", part.name, part.detail)
            } else {
                writeln!(text, "[{mark}] {}", part.name)
            };
        }
        text.push_str(if ready { "ready\n" } else { "not ready\n" });
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        response(status, TEXT, text.into_bytes())
    }

    async fn parts(&self) -> Vec<Part> {
        let store = self.state.store.clone();
        let reading = tokio::task::spawn_blocking(move || store.ledger().map(drop));
        let store = match tokio::time::timeout(STORE_ANSWERS_WITHIN, reading).await {
            Ok(Ok(Ok(()))) => Part::new("store", true, "readable"),
            Ok(Ok(Err(error))) => Part::new("store", false, vigie_actors::supervise::chain(&error)),
            Ok(Err(panic)) => Part::new("store", false, panic.to_string()),
            Err(_elapsed) => Part::new("store", false, "does not answer"),
        };
        let stream = match self.state.health.end() {
            None => {
                let commits = self.state.health.commits();
                Part::new("stream", true, format!("{commits} commits so far"))
            }
            Some(end) => Part::new("stream", false, end.to_string()),
        };
        let listener = match self.state.mqtt_addr {
            Some(addr) => Part::new("listener", true, addr.to_string()),
            None => Part::new("listener", true, "none"),
        };
        // An engine whose broker is away is ready all the same: only the broker can help.
        let broker = self.state.link.as_ref().map(|link| {
            let detail = match link.state() {
                LinkState::Up => format!("connected to {}", link.broker),
                LinkState::Down(None) => format!("connecting to {}", link.broker),
                LinkState::Down(Some(why)) => format!("not connected to {}: {why}", link.broker),
            };
            Part::new("broker", true, detail)
        });
        // Nor does a database that is away keep anything from being stored.
        let copy = self.state.copy.as_ref().map(|copy| {
            let progress = copy.look(&self.state.store);
            let detail = match &progress.trouble {
                None if progress.connected => format!("{} rows wait", progress.waiting),
                None => format!("connecting to {}", progress.target),
                Some(trouble) => format!("{} rows wait: {trouble}", progress.waiting),
            };
            Part::new("mongodb", true, detail)
        });
        let draining = if *self.state.draining.borrow() {
            Part::new("draining", false, "the engine is shutting down")
        } else {
            Part::new("draining", true, "no")
        };
        let mut parts = vec![store, stream, listener];
        parts.extend(broker);
        parts.extend(copy);
        parts.push(draining);
        parts
    }
}

/// Looks at what there is to tell, as long as somebody watches.
async fn watch_over(shared: Arc<Shared>) {
    let hub = Arc::clone(&shared.hub);
    loop {
        hub.watched().await;
        let mut seen = Seen::default();
        let mut looks = tokio::time::interval(events::EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in 0_u64.. {
            looks.tick().await;
            if hub.watchers() == 0 {
                break;
            }
            let news = shared.state.metrics.board.news(&mut seen, events::SENSORS);
            if !news.is_empty() {
                match live::news(&news, &shared.state.catalogue) {
                    Ok(news) => hub.tell(events::frame("readings", &news)),
                    Err(failure) => tracing::error!(error = %failure.what, "cannot tell readings"),
                }
            }
            // A second for what is wrong, two for how the engine does.
            if look % 4 == 0 {
                shared.tell("incidents", shared.open_incidents().await);
            }
            if look % 8 == 1 {
                shared.tell("health", shared.health().await);
            }
        }
    }
}

impl Shared {
    async fn open_incidents(self: &Arc<Self>) -> Result<String, Failure> {
        self.made(|shared| live::open_incidents(&shared.state.store, &shared.state.catalogue))
            .await
    }

    fn tell(&self, event: &'static str, made: Result<String, Failure>) {
        match made {
            Ok(data) => self.hub.tell_whole(event, &data),
            Err(failure) => tracing::error!(error = %failure.what, "cannot tell {event}"),
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Is this the token? Takes as long whatever the first wrong byte is.
fn is_token(body: &[u8], token: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Body {
        token: SecretString,
    }
    let given: Option<Body> = serde_json::from_slice(body).ok();
    given.is_some_and(|given| {
        let given = given.token.expose_secret().as_bytes();
        given.ct_eq(token.as_bytes()).into()
    })
}

/// A file of the page. It is asked for each time, and sent when it has changed.
fn file(asset: &'static Asset, ask: &Ask) -> Response {
    let has = ask
        .header(&IF_NONE_MATCH)
        .zip(asset.tag.to_str().ok())
        .is_some_and(|(known, tag)| known.split(',').any(|one| one.trim().ends_with(tag)));
    let (status, bytes) = if has {
        (StatusCode::NOT_MODIFIED, &[] as &[u8])
    } else {
        (StatusCode::OK, asset.bytes)
    };
    let mut response = response(status, asset.kind, bytes.to_vec());
    let headers = response.headers_mut();
    headers.insert(ETAG, asset.tag.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(STRICT));
    response
}

/// One line of the probe.
#[derive(Debug, serde::Serialize)]
struct Part {
    name: &'static str,
    ready: bool,
    detail: String,
}

impl Part {
    /// Whatever `detail` says stays on one line.
    fn new(name: &'static str, ready: bool, detail: impl Into<String>) -> Self {
        Self {
            name,
            ready,
            detail: detail.into().replace(char::is_control, " "),
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Says which methods would do.
fn not_allowed(method: &Method, methods: &'static str) -> Response {
    let fix = format!("use {}", methods.replace(", ", " or "));
    let failure = Failure::new(405, format!("{method} does nothing here"), fix);
    let mut response = refusal(&failure);
    let allow = HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, allow);
    response
}

fn refusal(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = response(status, JSON, failure.body());
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = HeaderValue::from_static("10");
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// With the headers that every answer has.
fn dressed(mut response: Response) -> Response {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, CSP),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        let known = response.headers_mut().entry(name);
        known.or_insert(HeaderValue::from_static(value));
    }
    response
}
