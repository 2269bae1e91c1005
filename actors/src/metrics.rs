//! Every metric of the stream: name, help, unit, labels. Counters are atomics handed to each
//! stage's constructor; nothing here blocks a stage for longer than one lock per batch.

mod board;
mod forwarder;
mod hdr;
mod mailbox;
mod watched;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::board::{Became, Board, BoardConfig, Latest, Seen, Shown};
pub use self::forwarder::ForwarderMetrics;
pub use self::hdr::{Bounds, HdrSeconds};
pub use self::mailbox::{Mailbox, Way};
pub use self::watched::Watched;
use crate::alert::Why;
use crate::ingest::broker::failure_labels;
use crate::quantity::Catalogue;
use crate::reading::Outcome;
use crate::score::incident::{Deed, NoticeKind};
use crate::score::rules::{Rule, Severity};
use crate::store::Ledger;
use crate::store::keeper::Done;

/// Bucket bounds of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The numbers that each stage moves.
#[derive(Debug, Clone)]
pub struct StageMetrics {
    /// Readings taken in.
    pub received: IntCounter,
    /// Readings passed on (Store: made durable).
    pub sent: IntCounter,
    /// Readings refused, because a handler panicked or failed.
    pub refused: IntCounter,
    /// Time one batch spends in the handler.
    pub seconds: Histogram,
    /// Times the stage came back after a panic.
    pub restarts: IntCounter,
    /// From the panic until it can take the next message.
    pub restart_seconds: Histogram,
    /// The way in.
    pub mailbox: Mailbox,
}

/// What the built-in listener counts.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Open connections.
    pub connections: IntGauge,
    /// CONNECTs answered, by result: `accepted`, `bad_credentials`, `refused`, `malformed`,
    /// `timeout`, `too_many`, `tls` (no handshake).
    pub connects: IntCounterVec,
    /// Connections that ended, by reason: `client`, `keep_alive`, `protocol`, `refused`,
    /// `shutdown`, `io`, `idle`.
    pub disconnects: IntCounterVec,
    /// PUBLISH packets, by result: `accepted`, `not_authorized`, `retained`, `status`,
    /// `too_large`.
    pub publishes: IntCounterVec,
    /// PUBACKs written.
    pub pubacks: IntCounter,
    /// From reading a publish off the socket to writing its PUBACK.
    pub puback_seconds: HdrSeconds,
}

/// What the source at an external broker counts.
#[derive(Debug, Clone)]
pub struct BrokerMetrics {
    /// 1 while connected and subscribed.
    pub connected: IntGauge,
    /// 1 if the broker still had our session at the last connect.
    pub session_present: IntGauge,
    /// Attempts to connect, by result: `accepted`, or what went wrong.
    pub connects: IntCounterVec,
    /// Connections that ended, by what went wrong.
    pub disconnects: IntCounterVec,
    /// PUBLISH packets, by result: `accepted`, `retained`, `status`.
    pub publishes: IntCounterVec,
    /// PUBACKs on their way.
    pub pubacks: IntCounter,
    /// Messages whose connection was gone before they could be acknowledged; they come again.
    pub stale: IntCounter,
    /// From the client's handing over a message to its PUBACK being on its way.
    pub puback_seconds: HdrSeconds,
}

/// What the Alerter of one channel counts.
#[derive(Debug, Clone)]
pub struct ChannelMetrics {
    name: String,
    notices: IntCounterVec,
    waiting: IntGauge,
    budget: IntGaugeVec,
    budget_left: IntGaugeVec,
}

/// Label value of an attempt to deliver.
fn result(failed: Option<Why>) -> &'static str {
    failed.map_or("delivered", Why::label)
}

impl ChannelMetrics {
    /// An attempt to deliver a notice; `None`: it succeeded.
    pub fn notice(&self, kind: NoticeKind, failed: Option<Why>) {
        self.notices
            .with_label_values(&[self.name.as_str(), kind.name(), result(failed)])
            .inc();
    }

    /// Notices in the outbox.
    pub fn waiting(&self, notices: u64) {
        self.waiting.set(i64::try_from(notices).unwrap_or(i64::MAX));
    }

    /// Recipients in 24 hours, without the reserve: of the budget, and what is left of it.
    pub fn budget(&self, whole: u32, left: u32) {
        for (gauge, recipients) in [(&self.budget, whole), (&self.budget_left, left)] {
            gauge
                .with_label_values(&[&self.name])
                .set(i64::from(recipients));
        }
    }
}

/// End to end, as the engine sees it.
fn puback_seconds(source: &'static str) -> Result<HdrSeconds, prometheus::Error> {
    HdrSeconds::new(
        "vigie_puback_seconds",
        "From the arrival of a publish to its PUBACK, by source.",
        Some(("source", source)),
        Bounds::WORK,
    )
}

impl BrokerMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            connected: gauge(
                registry,
                "vigie_broker_connected",
                "1 while the engine is subscribed at the external broker.",
            )?,
            session_present: gauge(
                registry,
                "vigie_broker_session_present",
                "1 if the broker still had the session at the last connect.",
            )?,
            connects: counters(
                registry,
                "vigie_broker_connects_total",
                "Attempts to connect to the external broker, by result.",
                &["result"],
            )?,
            disconnects: counters(
                registry,
                "vigie_broker_disconnects_total",
                "Connections to the external broker that ended, by reason.",
                &["reason"],
            )?,
            publishes: counters(
                registry,
                "vigie_broker_publishes_total",
                "PUBLISH packets from the external broker, by result.",
                &["result"],
            )?,
            pubacks: counter(
                registry,
                "vigie_broker_pubacks_total",
                "Messages acknowledged to the external broker.",
            )?,
            stale: counter(
                registry,
                "vigie_broker_stale_acks_total",
                "Messages whose connection was gone before they could be acknowledged.",
            )?,
            puback_seconds: puback_seconds("broker")?.registered(registry)?,
        };
        metrics.connects.with_label_values(&["accepted"]);
        for kind in failure_labels() {
            metrics.connects.with_label_values(&[kind]);
            metrics.disconnects.with_label_values(&[kind]);
        }
        for result in ["accepted", "retained", "status"] {
            metrics.publishes.with_label_values(&[result]);
        }
        Ok(metrics)
    }
}

/// All metrics of the stream. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    stage_readings: IntCounterVec,
    stage_seconds: HistogramVec,
    stage_restarts: IntCounterVec,
    stage_restart_seconds: HistogramVec,
    stage_in_flight: IntGaugeVec,
    mailbox_depth: IntGaugeVec,
    mailbox_seconds: HistogramVec,
    /// Room in the stream: `reserved` and `free`.
    pub intake: Watched,
    /// Sources that wait for room in the stream.
    pub intake_sources: Watched,
    /// Readings that entered the stream through any source.
    pub received: IntCounter,
    /// Readings inside the stream now.
    pub in_flight: IntGauge,
    outcomes: IntCounterVec,
    quarantined: IntCounterVec,
    /// Readings whose source was told to send them again.
    pub lost: IntCounter,
    /// From sending a batch through the stages to its answer, per reading.
    pub durable_seconds: HdrSeconds,
    /// From a reading's own time to its being durable.
    pub age_seconds: HdrSeconds,
    /// One commit of the store.
    pub commit_seconds: HdrSeconds,
    /// Readings per commit.
    pub commit_readings: Histogram,
    anomalies: IntCounterVec,
    /// Incidents that are open.
    pub incidents_open: IntGauge,
    notices: IntCounterVec,
    notices_waiting: IntGaugeVec,
    budget: IntGaugeVec,
    budget_left: IntGaugeVec,
    answers: IntCounterVec,
    ledger: IntGaugeVec,
    missing: IntGaugeVec,
    /// Generation of the newest forest.
    pub forest_generation: IntGauge,
    /// New forests that were not fit to take over.
    pub forests_refused: IntCounter,
    /// Sensors that are known.
    pub sensors: IntGauge,
    /// Bytes of the store on disk.
    pub store_bytes: IntGauge,
    /// 1 while nothing is written for want of room on the disk.
    pub disk_full: IntGauge,
    store_max: IntGauge,
    room: IntGauge,
    full: Gauge,
    hours: IntCounter,
    removed: IntCounter,
    /// When certificates end, by what they are used for.
    pub certificates: Watched,
    /// The listener's numbers.
    pub listener: ListenerMetrics,
    /// The source at an external broker.
    pub broker: BrokerMetrics,
    /// Latest values per sensor.
    pub board: Board,
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    let metric = HistogramVec::new(options, &["stage"])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl ListenerMetrics {
    /// Numbers that nobody shows, for tests.
    ///
    /// # Errors
    /// Never: the names are good.
    pub fn unregistered() -> Result<Self, prometheus::Error> {
        let counters = |label| IntCounterVec::new(Opts::new("n", "n"), &[label]);
        Ok(Self {
            connections: IntGauge::new("n", "n")?,
            connects: counters("result")?,
            disconnects: counters("reason")?,
            publishes: counters("result")?,
            pubacks: IntCounter::new("n", "n")?,
            puback_seconds: puback_seconds("listener")?,
        })
    }
}

impl Metrics {
    /// Registers everything. Known label values start at 0, so that no series appears late.
    ///
    /// # Errors
    /// If the registry has one of the names already.
    #[allow(
        clippy::too_many_lines,
        reason = "one list of all metrics, read from top to bottom"
    )]
    pub fn new(
        registry: &Registry,
        catalogue: &Arc<Catalogue>,
        board: BoardConfig,
    ) -> Result<Self, prometheus::Error> {
        let commit_readings = Histogram::with_opts(
            HistogramOpts::new(
                "vigie_commit_readings",
                "Readings made durable by one commit.",
            )
            .buckets(vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0]),
        )?;
        registry.register(Box::new(commit_readings.clone()))?;
        let build = Gauge::with_opts(
            Opts::new(
                "vigie_build_info",
                "1; the labels say which engine this is.",
            )
            .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1.0);
        registry.register(Box::new(build))?;
        let full = Gauge::with_opts(Opts::new(
            "vigie_store_full_timestamp_seconds",
            "When the disk will be full at the present rate; +Inf: never, or not known yet.",
        ))?;
        full.set(f64::INFINITY);
        registry.register(Box::new(full.clone()))?;

        let metrics = Self {
            stage_readings: counters(
                registry,
                "vigie_stage_readings_total",
                "Readings that a stage received, sent on or refused.",
                &["stage", "event"],
            )?,
            stage_seconds: seconds(
                registry,
                "vigie_stage_seconds",
                "Time one batch spends in a stage's handler.",
            )?,
            stage_restarts: counters(
                registry,
                "vigie_stage_restarts_total",
                "Times a stage was rebuilt after a panic.",
                &["stage"],
            )?,
            stage_restart_seconds: seconds(
                registry,
                "vigie_stage_restart_seconds",
                "From a panic in a stage until it can take the next message.",
            )?,
            stage_in_flight: gauges(
                registry,
                "vigie_stage_readings_in_flight",
                "Readings in a stage or in its mailbox.",
                &["stage"],
            )?,
            mailbox_depth: gauges(
                registry,
                "vigie_mailbox_depth",
                "Messages that wait in a stage's mailbox.",
                &["stage"],
            )?,
            mailbox_seconds: seconds(
                registry,
                "vigie_mailbox_seconds",
                "Time a message waits in a stage's mailbox.",
            )?,
            intake: Watched::registered(
                registry,
                "vigie_intake_readings",
                "Room for readings in the stream, reserved by sources and free.",
                Some("state"),
            )?,
            intake_sources: Watched::registered(
                registry,
                "vigie_intake_waiting_sources",
                "Sources that wait for room in the stream, and read nothing meanwhile.",
                None,
            )?,
            received: counter(
                registry,
                "vigie_readings_received_total",
                "Messages that entered the stream.",
            )?,
            in_flight: gauge(
                registry,
                "vigie_readings_in_flight",
                "Messages in the stream that are not answered yet.",
            )?,
            outcomes: counters(
                registry,
                "vigie_readings_total",
                "Messages answered, by what became of them.",
                &["outcome"],
            )?,
            quarantined: counters(
                registry,
                "vigie_quarantined_total",
                "Messages that could not become readings, by reason.",
                &["reason"],
            )?,
            lost: counter(
                registry,
                "vigie_refused_total",
                "Messages whose source has to send them again.",
            )?,
            durable_seconds: HdrSeconds::new(
                "vigie_durable_seconds",
                "From sending a batch through the stages to its being durable, per reading.",
                None,
                Bounds::WORK,
            )?
            .registered(registry)?,
            age_seconds: HdrSeconds::new(
                "vigie_reading_age_seconds",
                "From a reading's own time to its being durable; device clocks' errors are in it.",
                None,
                Bounds::AGES,
            )?
            .registered(registry)?,
            commit_seconds: HdrSeconds::new(
                "vigie_commit_seconds",
                "Time of one synced commit.",
                None,
                Bounds::WORK,
            )?
            .registered(registry)?,
            commit_readings,
            anomalies: counters(
                registry,
                "vigie_anomalies_total",
                "Rules that fired on readings, or on their absence.",
                &["rule", "severity"],
            )?,
            incidents_open: gauge(registry, "vigie_incidents_open", "Incidents that are open.")?,
            notices: counters(
                registry,
                "vigie_notices_total",
                "Attempts to deliver a notice about an incident, by channel, what it says and result.",
                &["channel", "kind", "result"],
            )?,
            notices_waiting: gauges(
                registry,
                "vigie_notices_waiting",
                "Notices in the outbox, by the channel that has yet to deliver them.",
                &["channel"],
            )?,
            budget: gauges(
                registry,
                "vigie_notice_budget",
                "Recipients that a channel may send to in 24 hours, without its reserve.",
                &["channel"],
            )?,
            budget_left: gauges(
                registry,
                "vigie_notice_budget_left",
                "Recipients that a channel may still send to in 24 hours, without its reserve.",
                &["channel"],
            )?,
            answers: counters(
                registry,
                "vigie_answers_total",
                "What people answered to incidents, and the stream did.",
                &["answer"],
            )?,
            ledger: gauges(
                registry,
                "vigie_ledger_readings",
                "Readings since the store was made, by what became of them.",
                &["outcome"],
            )?,
            missing: gauges(
                registry,
                "vigie_missing_readings",
                "Readings that never came since the store was made, by what was going on meanwhile.",
                &["while"],
            )?,
            forest_generation: gauge(
                registry,
                "vigie_forest_generation",
                "Generation of the newest isolation forest.",
            )?,
            forests_refused: counter(
                registry,
                "vigie_forests_refused_total",
                "New isolation forests that were not fit to take over from the one before.",
            )?,
            sensors: gauge(registry, "vigie_sensors", "Sensors that are known.")?,
            store_bytes: gauge(
                registry,
                "vigie_store_bytes",
                "Size of the embedded store on disk.",
            )?,
            disk_full: gauge(
                registry,
                "vigie_store_disk_full",
                "1 while the disk has too little room, and nothing is acknowledged.",
            )?,
            store_max: gauge(
                registry,
                "vigie_store_max_bytes",
                "Size beyond which the oldest readings are removed from the embedded store.",
            )?,
            room: gauge(
                registry,
                "vigie_store_room_bytes",
                "What may still be written to the disk before nothing is acknowledged.",
            )?,
            full,
            hours: counter(
                registry,
                "vigie_rollups_total",
                "Hours of sensors that were rolled up, some of them again.",
            )?,
            removed: counter(
                registry,
                "vigie_readings_removed_total",
                "Readings that were removed from the store for their age or for want of room.",
            )?,
            certificates: Watched::registered(
                registry,
                "vigie_certificate_expiry_timestamp_seconds",
                "When a certificate ends, by what it is used for; of a chain, the first that does.",
                Some("use"),
            )?,
            listener: ListenerMetrics {
                connections: gauge(
                    registry,
                    "vigie_mqtt_connections",
                    "Open connections of the built-in listener.",
                )?,
                connects: counters(
                    registry,
                    "vigie_mqtt_connects_total",
                    "CONNECT packets, by result.",
                    &["result"],
                )?,
                disconnects: counters(
                    registry,
                    "vigie_mqtt_disconnects_total",
                    "Connections that ended, by reason.",
                    &["reason"],
                )?,
                publishes: counters(
                    registry,
                    "vigie_mqtt_publishes_total",
                    "PUBLISH packets, by result.",
                    &["result"],
                )?,
                pubacks: counter(registry, "vigie_mqtt_pubacks_total", "PUBACK packets sent.")?,
                puback_seconds: puback_seconds("listener")?.registered(registry)?,
            },
            broker: BrokerMetrics::new(registry)?,
            board: Board::new(catalogue, board),
        };
        for outcome in ["stored", "duplicate", "quarantined"] {
            metrics.outcomes.with_label_values(&[outcome]);
        }
        for rule in Rule::ALL {
            for severity in [Severity::Warn, Severity::Critical] {
                metrics
                    .anomalies
                    .with_label_values(&[rule.name(), severity.name()]);
            }
        }
        for deed in Deed::NAMES {
            metrics.answers.with_label_values(&[deed]);
        }
        Ok(metrics)
    }

    /// Everything, as Prometheus reads it. Takes a few milliseconds with a thousand sensors.
    ///
    /// # Errors
    /// If one of the metrics in `registry` cannot be written.
    pub fn text(&self, registry: &Registry) -> Result<String, prometheus::Error> {
        let mut text = TextEncoder::new().encode_to_string(&registry.gather())?;
        self.board.write(&mut text);
        Ok(text)
    }

    /// The numbers of one stage.
    pub fn stage(&self, name: &str) -> StageMetrics {
        let event = |event: &str| self.stage_readings.with_label_values(&[name, event]);
        StageMetrics {
            received: event("received"),
            sent: event("sent"),
            refused: event("refused"),
            seconds: self.stage_seconds.with_label_values(&[name]),
            restarts: self.stage_restarts.with_label_values(&[name]),
            restart_seconds: self.stage_restart_seconds.with_label_values(&[name]),
            mailbox: Mailbox::new(
                self.mailbox_depth.with_label_values(&[name]),
                self.mailbox_seconds.with_label_values(&[name]),
                self.stage_in_flight.with_label_values(&[name]),
            ),
        }
    }

    /// What a person wanted is done.
    pub fn answered(&self, deed: Deed) {
        self.answers.with_label_values(&[deed.name()]).inc();
    }

    /// How large the store may become, how much room the disk has, and when that ends.
    pub fn outlook(&self, max: u64, room: u64, full_at: Option<f64>) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.store_max.set(bytes(max));
        self.room.set(bytes(room));
        self.full.set(full_at.unwrap_or(f64::INFINITY));
    }

    /// A batch was answered.
    pub fn outcomes(&self, outcomes: &[Outcome]) {
        let (mut stored, mut duplicate, mut quarantined) = (0, 0, 0);
        for outcome in outcomes {
            match outcome {
                Outcome::Stored => stored += 1,
                Outcome::Duplicate => duplicate += 1,
                Outcome::Quarantined(reason) => {
                    quarantined += 1;
                    self.quarantined.with_label_values(&[reason]).inc();
                }
            }
        }
        for (name, count) in [
            ("stored", stored),
            ("duplicate", duplicate),
            ("quarantined", quarantined),
        ] {
            if count > 0 {
                self.outcomes.with_label_values(&[name]).inc_by(count);
            }
        }
    }

    /// A rule fired.
    pub fn anomaly(&self, rule: Rule, severity: Severity) {
        self.anomalies
            .with_label_values(&[rule.name(), severity.name()])
            .inc();
    }

    /// The numbers of one way to people.
    pub fn channel(&self, name: &str) -> ChannelMetrics {
        for kind in NoticeKind::ALL {
            for why in Why::ALL.into_iter().map(Some).chain([None]) {
                self.notices
                    .with_label_values(&[name, kind.name(), result(why)]);
            }
        }
        ChannelMetrics {
            name: name.to_owned(),
            budget: self.budget.clone(),
            budget_left: self.budget_left.clone(),
            notices: self.notices.clone(),
            waiting: self.notices_waiting.with_label_values(&[name]),
        }
    }

    /// What a pass of the Keeper did.
    pub fn kept(&self, done: Done) {
        self.hours.inc_by(done.hours);
        self.removed.inc_by(done.removed);
    }

    /// The ledger as of the last commit.
    pub fn ledger(&self, ledger: &Ledger) {
        let set = |outcome: &str, count: u64| {
            self.ledger
                .with_label_values(&[outcome])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("stored", ledger.stored);
        set("late", ledger.late);
        set("duplicate", ledger.duplicate);
        set("quarantined", ledger.quarantined.values().sum());
        set("missing", ledger.missing);
        for (name, count) in ledger.missing_while.by_name() {
            let gauge = self.missing.with_label_values(&[name]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
