//! The running engine: store, stream, listener and HTTP, put together from the config and taken
//! apart in the order of the stream.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vigie_actors::alert::link::Signer;
use vigie_actors::alert::mail;
use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::forward;
use vigie_actors::group::Groups;
use vigie_actors::ingest::broker::{Broker, Link, Subscriptions, Surroundings};
use vigie_actors::ingest::decode::Decode;
use vigie_actors::ingest::intake::Intake;
use vigie_actors::ingest::listener::Listener;
use vigie_actors::ingest::payload::Decoder;
use vigie_actors::metrics::{BoardConfig, ForwarderMetrics, Metrics};
use vigie_actors::pipeline::{Pipeline, Settings, open_store};
use vigie_actors::quantity::Catalogue;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::store::mongo::Target;
use vigie_actors::store::room::Room;
use vigie_actors::supervise::End;

use crate::channels;
use crate::config::Config;
use crate::console::say;
use crate::http::{self, Judgement, Mails};
use crate::incidents::Address;

/// How long a shutdown may take before it says who is not done.
const DRAIN: Duration = Duration::from_secs(4);

/// What differs between `run`, `demo` and a replay with a page to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Time is that of the readings, not of the clock on the wall.
    pub(crate) event_time: bool,
    /// Write mails (to files).
    pub(crate) mails: bool,
    /// Hear devices: with the listener, at an external broker.
    pub(crate) listen: bool,
}

impl Mode {
    /// The real job.
    pub(crate) const LIVE: Self = Self {
        event_time: false,
        mails: true,
        listen: true,
    };
}

/// Settings of the stages, from the config.
pub(crate) fn settings(config: &Config, event_time: bool) -> Settings {
    Settings {
        stats: config.stats.clone(),
        score: config.score.clone(),
        incidents: config.setup(),
        store: config.store.clone(),
        credits: 0,
        event_time,
        forward: None,
        sabotage: Vec::new(),
    }
}

/// The opened store and what belongs to it.
pub(crate) struct Ground {
    pub(crate) store: Embedded,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) registry: prometheus::Registry,
    pub(crate) metrics: Metrics,
}

impl Ground {
    /// The same, of a store that must be there.
    pub(crate) fn existing(config: &Config) -> anyhow::Result<Self> {
        if !config.data_dir.join("store").exists() {
            return Err(anyhow!(
                "there is no store in {}; give its directory with --data-dir",
                config.data_dir.display()
            ));
        }
        Self::open(config)
    }

    /// Opens the store in the config's data directory.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir).with_context(|| {
            format!(
                "cannot make the data directory {}; give a writable one with --data-dir",
                config.data_dir.display()
            )
        })?;
        let dir = config.data_dir.join("store");
        let (store, catalogue) =
            open_store(&dir, &config.store, &config.quantities).map_err(|why| anyhow!(why))?;
        let registry = prometheus::Registry::new();
        let board = BoardConfig {
            max_sensors: config.metrics.max_sensor_series as usize,
            stale_intervals: i64::from(config.metrics.stale_intervals),
            groups: Arc::new(Groups::new(&config.groups)),
        };
        let metrics = Metrics::new(&registry, &catalogue, board)?;
        Ok(Self {
            store,
            catalogue,
            registry,
            metrics,
        })
    }
}

/// A running engine.
pub(crate) struct Service {
    pipeline: Pipeline,
    edges: Edges,
    /// Becomes true with SIGINT or SIGTERM.
    asked: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    sources: Vec<JoinHandle<()>>,
    http: JoinHandle<()>,
    ticks: Option<JoinHandle<()>>,
    mqtt_addr: Option<SocketAddr>,
    mqtt_scheme: &'static str,
    link: Option<Arc<Link>>,
    http_addr: SocketAddr,
    http_scheme: &'static str,
    data_dir: PathBuf,
    /// For commands that ask a running engine.
    _address: Address,
    /// Where everything is copied to.
    copy: Option<Target>,
    /// Where mails go; `None`: there are none.
    mails: Option<String>,
}

impl Service {
    /// Starts everything. Must run inside an actix `System`.
    pub(crate) async fn start(config: &Config, ground: Ground, mode: Mode) -> anyhow::Result<Self> {
        let Ground {
            store,
            catalogue,
            registry,
            metrics,
        } = ground;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let asked = asked_to_stop()?;
        let edges = Edges::start()?;
        let (stop, stopped) = watch::channel(false);

        // Both addresses first: whoever cannot have one should not find the stream half started.
        let certificates = config.http.certificates().map_err(|why| anyhow!(why))?;
        let server = http::Server::bind(config.http.addr, certificates);
        let server = edges.run(server).await?;
        let server = server.known_as(config.http.public_host());
        let listener = if mode.listen && config.listener.enabled {
            let bound = edges.run(Listener::bind(config.listener.clone())).await;
            Some(bound.context("cannot listen for devices at --mqtt (listener.addr)")?)
        } else {
            None
        };

        let forward = forward(config, mode, &registry)?;
        let signer = Signer::new(store.link_key()?);
        let pipeline = Pipeline::start(
            &Settings {
                forward: forward.clone(),
                ..settings(config, mode.event_time)
            },
            store.clone(),
            &catalogue,
            Arc::clone(&clock),
            channels::all(config, mode, &store, &catalogue, &signer, &clock)?,
            &metrics,
        )
        .map_err(|why| anyhow!(why))?;

        let http_addr = server.local_addr();
        let http_scheme = server.scheme();
        let mqtt_addr = listener.as_ref().map(Listener::local_addr);
        let is_tls = listener.as_ref().is_some_and(Listener::is_tls);
        // Numbers of readings without identity must be above those of earlier runs.
        let unique_from = clock.now_ms().unsigned_abs() * 1000;
        let decoder = Decoder::new(config.payload.clone(), Arc::clone(&catalogue), unique_from);
        let decode: Arc<dyn Decode> = Arc::new(decoder);
        let broker = broker(config, mode, &store, &pipeline, &decode, &clock, &metrics)?;
        let link = broker.as_ref().map(|broker| Arc::clone(broker.link()));
        watch_certificates(&metrics, &server, listener.as_ref(), broker.as_ref());
        let state = http::State {
            store,
            catalogue,
            registry,
            metrics: metrics.clone(),
            health: Arc::clone(pipeline.health()),
            clock: Arc::clone(&clock),
            token: config.http.token.clone(),
            mqtt_addr,
            link: link.clone(),
            copy: forward.as_ref().map(|forward| forward.board.clone()),
            signer,
            draining: stopped.clone(),
            judgement: Judgement::new(&config.stats, &config.score, Groups::new(&config.groups)),
            mails: mode.mails.then(|| mail_budget(config)),
            live: !mode.event_time,
            secure: http_scheme == "https" || config.http.is_public_https(),
        };
        // The page stays up while the stream drains: it ends with the runtime.
        let (_never, http_stop) = watch::channel(false);
        let http = edges.handle.spawn(server.run(state, http_stop));
        let mut sources = Vec::new();
        if let Some(listener) = listener {
            sources.push(edges.handle.spawn(listener.run(
                pipeline.intake().clone(),
                decode,
                clock,
                metrics.listener.clone(),
                stopped.clone(),
            )));
        }
        if let Some(broker) = broker {
            sources.push(edges.handle.spawn(broker.run(stopped)));
        }
        let ticks = (!mode.event_time).then(|| keep_time(&edges, &pipeline));
        Ok(Self {
            pipeline,
            edges,
            asked,
            stop,
            sources,
            http,
            ticks,
            mqtt_addr,
            mqtt_scheme: if is_tls { "mqtts" } else { "mqtt" },
            link,
            http_addr,
            http_scheme,
            data_dir: config.data_dir.clone(),
            _address: Address::keep(&config.data_dir, &address(config, http_scheme, http_addr))
                .context("cannot write into the data directory")?,
            copy: forward.map(|forward| forward.target),
            mails: mode.mails.then(|| mails(config)),
        })
    }

    /// The door for sources inside the process.
    pub(crate) fn intake(&self) -> &Intake {
        self.pipeline.intake()
    }

    /// Where devices publish.
    pub(crate) fn mqtt_addr(&self) -> Option<SocketAddr> {
        self.mqtt_addr
    }

    /// Threads for whatever talks to the network.
    pub(crate) fn edges(&self) -> &Handle {
        &self.edges.handle
    }

    /// Says what it listens on and what to open.
    pub(crate) fn announce(&self, what: &str) {
        let mut text = format!("Vigie {} – {what}\n", env!("CARGO_PKG_VERSION"));
        text += &format!(
            "  HTTP  {}://{}/   open this in a browser\n",
            self.http_scheme, self.http_addr
        );
        if let Some(addr) = self.mqtt_addr {
            let scheme = self.mqtt_scheme;
            text +=
                &format!("  MQTT  {scheme}://{addr}   devices publish to sensors/<id>/reading\n");
        }
        if let Some(link) = &self.link {
            text += &format!("  from  {}   as a subscriber\n", link.broker);
        }
        text += &format!("  data  {}", self.data_dir.display());
        if let Some(copy) = &self.copy {
            text += &format!("\n  copy  MongoDB {copy}");
        }
        if let Some(mails) = &self.mails {
            text += &format!("\n  mail  {mails}");
        }
        text += "\n  Ctrl-C stops it; started again it goes on where it was\n";
        say(&text);
    }

    /// Waits for SIGINT, SIGTERM or the end of what can go on. `Err`: the stream gave up.
    pub(crate) async fn until_stopped(&self) -> Result<(), End> {
        let mut asked = self.asked.clone();
        tokio::select! {
            _ = asked.wait_for(|asked| *asked) => Ok(()),
            end = self.pipeline.health().ended() => Err(end),
        }
    }

    /// Takes everything down: sources first, then what is inside gets stored and answered.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + DRAIN;
        // Nobody listening any more is what this asks for.
        let _ = self.stop.send(true);
        if let Some(ticks) = self.ticks {
            ticks.abort();
        }
        let sources_end = tokio::time::Instant::now() + DRAIN / 2;
        for mut source in self.sources {
            if tokio::time::timeout_at(sources_end, &mut source)
                .await
                .is_err()
            {
                // Somebody does not take what we send: its readings are safe or will come again.
                tracing::warn!("a connection did not end in time; closing it");
                source.abort();
            }
        }
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let drained = self
            .pipeline
            .drain(left.max(Duration::from_millis(200)))
            .await;
        self.http.abort();
        drop(self.edges);
        drained.map_err(|why| anyhow!("shut down before everything was done: {why}"))
    }
}

/// When certificates end: of the page, of the listener, of the broker, and the one that the broker
/// is shown.
fn watch_certificates(
    metrics: &Metrics,
    server: &http::Server,
    listener: Option<&Listener>,
    broker: Option<&Broker>,
) {
    let watched = &metrics.certificates;
    if let Some(certificates) = server.certificates() {
        watched.watch("http", move || certificates.ends().map(|end| end as f64));
    }
    if let Some(certificates) = listener.and_then(Listener::certificates) {
        let ends = move || certificates.ends().map(|end| end as f64);
        watched.watch("listener", ends);
    }
    if let Some(broker) = broker {
        let (theirs, ours) = (broker.ends(), broker.ends());
        watched.watch("broker", move || theirs.theirs().map(|end| end as f64));
        watched.watch("broker_client", move || ours.ours().map(|end| end as f64));
    }
}

/// The copy to MongoDB, if there is one. What is replayed is nobody's present, and not copied.
fn forward(
    config: &Config,
    mode: Mode,
    registry: &prometheus::Registry,
) -> anyhow::Result<Option<forward::Settings>> {
    if mode.event_time || config.mongodb.uri.is_none() {
        return Ok(None);
    }
    let metrics = ForwarderMetrics::new(registry)?;
    Ok(forward::Settings::new(&config.mongodb, metrics))
}

/// Where commands on this machine find the engine: a certificate is for a name.
fn address(config: &Config, scheme: &str, addr: SocketAddr) -> String {
    let named = config.http.public_host().filter(|_| scheme == "https");
    match named {
        Some(host) => format!("{scheme}://{host}:{}", addr.port()),
        None => format!("{scheme}://{addr}"),
    }
}

/// Tells the stages each second that time passes.
fn keep_time(edges: &Edges, pipeline: &Pipeline) -> JoinHandle<()> {
    let tick = pipeline.ticker();
    edges.handle.spawn(async move {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        loop {
            interval.tick().await;
            tick();
        }
    })
}

/// What may be mailed, for the page.
fn mail_budget(config: &Config) -> Mails {
    Mails {
        channel: mail::NAME,
        to: mails(config),
        budget: config.email.budget(),
    }
}

/// Where mails go, for people.
fn mails(config: &Config) -> String {
    let email = &config.email;
    match &email.smtp_host {
        Some(host) => format!("{} by {host}:{}", email.email_to, email.smtp_port),
        None => format!("files in {}", config.data_dir.join("mail").display()),
    }
}

/// The source at an external broker, if the config names one.
fn broker(
    config: &Config,
    mode: Mode,
    store: &Embedded,
    pipeline: &Pipeline,
    decode: &Arc<dyn Decode>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> anyhow::Result<Option<Broker>> {
    let Some(host) = config.mqtt.host.as_ref().filter(|_| mode.listen) else {
        return Ok(None);
    };
    let name = format!("{host}:{}", config.mqtt.port);
    let surroundings = Surroundings {
        intake: pipeline.intake().clone(),
        decode: Arc::clone(decode),
        clock: Arc::clone(clock),
        metrics: metrics.broker.clone(),
        link: Arc::new(Link::new(name, Arc::clone(pipeline.hearing()))),
        subscriptions: Box::new(StoredSubscriptions(store.clone())),
    };
    let client_id = format!("vigie-{}", store.id()?);
    Ok(Broker::new(config.mqtt.clone(), client_id, surroundings))
}

/// The granted filters live in the store: with the session, they belong to it.
struct StoredSubscriptions(Embedded);

impl Subscriptions for StoredSubscriptions {
    fn recall(&self) -> Vec<String> {
        self.0.subscriptions().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the filters of the last run");
            Vec::new()
        })
    }

    fn remember(&self, filters: &[String]) {
        if let Err(error) = self.0.put_subscriptions(filters) {
            tracing::warn!(%error, "cannot keep the filters of this run");
        }
    }
}

/// Threads for whatever talks to the network. Ends when dropped, also inside another runtime and
/// also when the start failed half-way.
struct Edges {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Edges {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("edge")
            .enable_all()
            .build()
            .context("cannot start threads for the network")?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Runs a future on these threads, awaited from another runtime.
    async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle.spawn(future).await {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

impl Drop for Edges {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting: a runtime may not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}

/// Watches for signals from now on: one that comes before anybody waits is not lost.
fn asked_to_stop() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for signals")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // Kept: a receiver must be able to look at it later.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Runs `job` inside an actix `System`.
pub(crate) fn in_system<T>(job: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    actix::System::new().block_on(job)
}

/// This program is to be started again, in the same process: whatever it has open or running ends
/// with it, as after a kill, and its store is opened anew.
#[derive(Debug, thiserror::Error)]
#[error("{0}; starting again")]
pub(crate) struct StartAgain(End);

/// A store that fails sooner after it was opened, with room on the disk, would fail again.
const LASTING: Duration = Duration::from_mins(10);

/// `engine run`.
///
/// # Errors
/// [`StartAgain`] if that helps; the log is to be ended before.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    let ground = Ground::open(config)?;
    let room = Room::new(ground.store.dir().to_owned(), config.store.min_free_mib);
    in_system(async {
        let service = Service::start(config, ground, Mode::LIVE).await?;
        service.announce("watching over your sensors");
        let outcome = service.until_stopped().await;
        // Before the stream is drained: whoever filled the disk may have made room by then.
        let helps = room.missing().is_some() || begun.elapsed() >= LASTING;
        let asked = service.asked.clone();
        let stopped = service.stop().await;
        match outcome {
            Err(end @ End::Reopen(_)) if helps => {
                tracing::error!("{end}; starting again as soon as there is room");
                if has_room_again(&room, asked).await {
                    return Err(StartAgain(end).into());
                }
                say("stopped; everything acknowledged is stored");
            }
            Err(end) => return Err(end.into()),
            Ok(()) => {
                stopped?;
                say("stopped; everything received is stored");
            }
        }
        Ok(())
    })
}

/// Waits for room on the disk, a second at least. False: somebody asked to stop meanwhile.
async fn has_room_again(room: &Room, mut asked: watch::Receiver<bool>) -> bool {
    let again = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if room.missing().is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = again => true,
        _ = asked.wait_for(|asked| *asked) => false,
    }
}
