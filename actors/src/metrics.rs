//! Every metric of the stream: name, help, unit, labels. Counters are atomics handed to each
//! stage's constructor; nothing here blocks a stage for longer than one lock per batch.

mod forwarder;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

pub use self::forwarder::ForwarderMetrics;
use crate::alert::Why;
use crate::group::Groups;
use crate::ingest::broker::failure_labels;
use crate::quantity::Catalogue;
use crate::reading::Outcome;
use crate::score::incident::NoticeKind;
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
}

/// What the Alerter of one channel counts.
#[derive(Debug, Clone)]
pub struct ChannelMetrics {
    name: String,
    notices: IntCounterVec,
    waiting: IntGauge,
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

    /// Recipients that are left of the budget of 24 hours, without its reserve.
    pub fn budget_left(&self, recipients: u32) {
        self.budget_left
            .with_label_values(&[&self.name])
            .set(i64::from(recipients));
    }
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
    /// One commit of the store.
    pub commit_seconds: HdrSeconds,
    /// Readings per commit.
    pub commit_readings: Histogram,
    anomalies: IntCounterVec,
    /// Incidents that are open.
    pub incidents_open: IntGauge,
    notices: IntCounterVec,
    notices_waiting: IntGaugeVec,
    budget_left: IntGaugeVec,
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
    hours: IntCounter,
    removed: IntCounter,
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
        let stage_seconds = HistogramVec::new(
            HistogramOpts::new(
                "vigie_stage_seconds",
                "Time one batch spends in a stage's handler.",
            )
            .buckets(SECONDS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(stage_seconds.clone()))?;
        let stage_restart_seconds = HistogramVec::new(
            HistogramOpts::new(
                "vigie_stage_restart_seconds",
                "From a panic in a stage until it can take the next message.",
            )
            .buckets(SECONDS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(stage_restart_seconds.clone()))?;
        let commit_readings = Histogram::with_opts(
            HistogramOpts::new(
                "vigie_commit_readings",
                "Readings made durable by one commit.",
            )
            .buckets(vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0]),
        )?;
        registry.register(Box::new(commit_readings.clone()))?;
        let notices_waiting = IntGaugeVec::new(
            Opts::new(
                "vigie_notices_waiting",
                "Notices in the outbox, by the channel that has yet to deliver them.",
            ),
            &["channel"],
        )?;
        registry.register(Box::new(notices_waiting.clone()))?;
        let budget_left = IntGaugeVec::new(
            Opts::new(
                "vigie_notice_budget_left",
                "Recipients that a channel may still send to in 24 hours, without its reserve.",
            ),
            &["channel"],
        )?;
        registry.register(Box::new(budget_left.clone()))?;
        let ledger = IntGaugeVec::new(
            Opts::new(
                "vigie_ledger_readings",
                "Readings since the store was made, by what became of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(ledger.clone()))?;
        let missing = IntGaugeVec::new(
            Opts::new(
                "vigie_missing_readings",
                "Readings that never came since the store was made, by what was going on meanwhile.",
            ),
            &["while"],
        )?;
        registry.register(Box::new(missing.clone()))?;
        let build = Gauge::with_opts(
            Opts::new(
                "vigie_build_info",
                "1; the labels say which engine this is.",
            )
            .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1.0);
        registry.register(Box::new(build))?;

        let metrics = Self {
            stage_readings: counters(
                registry,
                "vigie_stage_readings_total",
                "Readings that a stage received, sent on or refused.",
                &["stage", "event"],
            )?,
            stage_seconds,
            stage_restarts: counters(
                registry,
                "vigie_stage_restarts_total",
                "Times a stage was rebuilt after a panic.",
                &["stage"],
            )?,
            stage_restart_seconds,
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
            durable_seconds: HdrSeconds::registered(
                registry,
                "vigie_durable_seconds",
                "From sending a batch through the stages to its being durable, per reading.",
            )?,
            commit_seconds: HdrSeconds::registered(
                registry,
                "vigie_commit_seconds",
                "Time of one synced commit.",
            )?,
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
            notices_waiting,
            budget_left,
            ledger,
            missing,
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
            },
            broker: BrokerMetrics::new(registry)?,
            board: Board::new(Arc::clone(catalogue), board),
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
        registry.register(Box::new(metrics.board.clone()))?;
        Ok(metrics)
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
        }
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

/// Durations in a high-dynamic-range histogram (two digits, 1 µs to 60 s), exported as a classic
/// Prometheus histogram.
#[derive(Clone)]
pub struct HdrSeconds {
    desc: Desc,
    micros: Arc<Mutex<(hdrhistogram::Histogram<u64>, f64)>>,
}

impl std::fmt::Debug for HdrSeconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HdrSeconds")
            .field("name", &self.desc.fq_name)
            .finish_non_exhaustive()
    }
}

impl HdrSeconds {
    const LONGEST: u64 = 60_000_000;

    fn registered(registry: &Registry, name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let histogram = hdrhistogram::Histogram::new_with_bounds(1, Self::LONGEST, 2)
            .map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        let metric = Self {
            desc: Desc::new(name.into(), help.into(), Vec::new(), HashMap::new())?,
            micros: Arc::new(Mutex::new((histogram, 0.0))),
        };
        registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// The same duration for `count` readings.
    pub fn record(&self, duration: Duration, count: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut inner = lock(&self.micros);
        inner
            .0
            .saturating_record_n(micros.clamp(1, Self::LONGEST), count);
        inner.1 += duration.as_secs_f64() * count as f64;
    }

    /// Value below which the share `quantile` of the durations lie, in seconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        lock(&self.micros).0.value_at_quantile(quantile) as f64 / 1e6
    }
}

impl Collector for HdrSeconds {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let inner = lock(&self.micros);
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(inner.0.len());
        histogram.set_sample_sum(inner.1);
        let mut below = 0;
        let mut from = 0;
        let mut buckets = Vec::with_capacity(SECONDS.len());
        for bound in SECONDS {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounds are small and positive"
            )]
            let to = (bound * 1e6) as u64;
            below += inner.0.count_between(from, to);
            // An equivalent range may straddle the bound: never count it twice.
            from = inner.0.next_non_equivalent(to);
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(below.min(inner.0.len()));
            bucket.set_upper_bound(bound);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        vec![family(
            &self.desc.fq_name,
            &self.desc.help,
            MetricType::HISTOGRAM,
            vec![metric],
        )]
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// How many sensors get series of their own, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardConfig {
    /// Sensors with series of their own; the others appear only in the sums and in the API.
    pub max_sensors: usize,
    /// Value series disappear when a sensor has not been heard for this many expected intervals;
    /// its last-seen time stays.
    pub stale_intervals: i64,
    /// Which sensors belong together.
    pub groups: Arc<Groups>,
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self {
            max_sensors: 1000,
            stale_intervals: 10,
            groups: Arc::default(),
        }
    }
}

/// What a sensor showed last.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    /// Receive time.
    pub received_ms: i64,
    /// Expected interval; `None` if not learned yet.
    pub expected_ms: Option<i64>,
    /// r / (1 + r).
    pub score: f32,
    /// Value and z-score per quantity.
    pub values: Vec<(QuantityId, f64, f32)>,
}

/// The latest reading of each sensor, rendered as gauges when somebody scrapes.
#[derive(Clone)]
pub struct Board {
    catalogue: Arc<Catalogue>,
    config: BoardConfig,
    inner: Arc<Mutex<BoardInner>>,
    descs: Arc<Vec<Desc>>,
}

#[derive(Default)]
struct BoardInner {
    latest: HashMap<SensorId, Latest, Xxh3DefaultBuilder>,
    /// Readings of sensors beyond the cap.
    overflow: u64,
    now_ms: i64,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("sensors", &lock(&self.inner).latest.len())
            .finish_non_exhaustive()
    }
}

/// Its group is a label; so that others need not carry it.
const INFO: (&str, &str) = (
    "vigie_sensor_info",
    "1, with the sensor's group; of a sensor in no group, that is empty.",
);

const BOARD: [(&str, &str); 5] = [
    (
        "vigie_sensor_anomaly_score",
        "Score of the newest reading: 0.5 is the line.",
    ),
    (
        "vigie_sensor_zscore",
        "Distance of the newest value from its rolling baseline, in standard deviations.",
    ),
    (
        "vigie_sensor_last_seen_timestamp_seconds",
        "When the sensor was last heard.",
    ),
    (
        "vigie_sensor_expected_interval_seconds",
        "Announced or learned time between readings.",
    ),
    (
        "vigie_sensor_series_overflow_total",
        "Readings of sensors beyond the cap on series of their own.",
    ),
];

impl Board {
    fn new(catalogue: Arc<Catalogue>, config: BoardConfig) -> Self {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new()).ok()
        };
        let mut descs: Vec<Desc> = BOARD
            .iter()
            .filter_map(|(name, help)| desc(name, help, &["sensor"]))
            .collect();
        for (_, spec) in catalogue.iter() {
            let (name, help, _) = value_metric(spec);
            descs.extend(desc(&name, &help, &["sensor"]));
        }
        descs.extend(desc(INFO.0, INFO.1, &["group", "sensor"]));
        Self {
            catalogue,
            config,
            inner: Arc::default(),
            descs: Arc::new(descs),
        }
    }

    /// Readings that have just become durable, in order. One lock per batch.
    pub fn update(&self, now_ms: i64, readings: impl IntoIterator<Item = (SensorId, Latest)>) {
        let mut inner = lock(&self.inner);
        inner.now_ms = inner.now_ms.max(now_ms);
        for (sensor, latest) in readings {
            if let Some(known) = inner.latest.get_mut(&sensor) {
                *known = latest;
            } else if inner.latest.len() < self.config.max_sensors {
                inner.latest.insert(sensor, latest);
            } else {
                inner.overflow += 1;
            }
        }
    }
}

/// Metric of a quantity: name, help, factor. Percent on the wire, ratio here.
fn value_metric(spec: &crate::quantity::Quantity) -> (String, String, f64) {
    let (unit, factor) = match spec.unit.as_str() {
        "°C" => ("celsius".to_owned(), 1.0),
        "%" => ("ratio".to_owned(), 0.01),
        other => {
            let mut unit = String::new();
            for c in other.chars() {
                match c {
                    'a'..='z' | '0'..='9' => unit.push(c),
                    'A'..='Z' => unit.push(c.to_ascii_lowercase()),
                    'µ' | 'μ' => unit.push('u'),
                    '³' => unit.push('3'),
                    '/' => unit.push_str("_per_"),
                    _ => {}
                }
            }
            (unit, 1.0)
        }
    };
    let suffix = if unit.is_empty() {
        String::new()
    } else {
        format!("_{unit}")
    };
    (
        format!("vigie_sensor_{}{suffix}", spec.name),
        format!("Newest value of {}.", spec.name),
        factor,
    )
}

impl Collector for Board {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let label = |name: &str, value: &str| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let labelled = |sensor: &SensorId, other: Option<(&str, &str)>, value: f64| {
            let mut metric = proto::Metric::default();
            // Labels in alphabetical order, as everywhere else.
            let mut labels = Vec::with_capacity(2);
            labels.extend(other.map(|(name, value)| label(name, value)));
            labels.push(label("sensor", sensor.as_str()));
            metric.set_label(labels);
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
            metric
        };
        let sample = |sensor: &SensorId, quantity: Option<&str>, value: f64| {
            labelled(sensor, quantity.map(|name| ("quantity", name)), value)
        };
        let inner = lock(&self.inner);
        let mut infos = Vec::new();
        let mut sorted: Vec<(&SensorId, &Latest)> = inner.latest.iter().collect();
        sorted.sort_unstable_by_key(|(sensor, _)| **sensor);
        let (mut scores, mut zscores, mut seen, mut expected) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut values: HashMap<QuantityId, Vec<proto::Metric>> = HashMap::new();
        for (sensor, latest) in sorted {
            let group = self.config.groups.of(sensor).unwrap_or_default();
            infos.push(labelled(sensor, Some(("group", group)), 1.0));
            seen.push(sample(sensor, None, latest.received_ms as f64 / 1000.0));
            if let Some(interval) = latest.expected_ms {
                expected.push(sample(sensor, None, interval as f64 / 1000.0));
                if inner.now_ms - latest.received_ms > interval * self.config.stale_intervals {
                    continue;
                }
            }
            scores.push(sample(sensor, None, f64::from(latest.score)));
            for (quantity, value, z) in &latest.values {
                let Some(spec) = self.catalogue.get(*quantity) else {
                    continue;
                };
                zscores.push(sample(sensor, Some(&spec.name), f64::from(*z)));
                let (_, _, factor) = value_metric(spec);
                values
                    .entry(*quantity)
                    .or_default()
                    .push(sample(sensor, None, value * factor));
            }
        }
        let mut families = Vec::new();
        let mut push = |name: &str, help: &str, metrics: Vec<proto::Metric>| {
            if !metrics.is_empty() {
                families.push(family(name, help, MetricType::GAUGE, metrics));
            }
        };
        for ((name, help), metrics) in BOARD.iter().zip([scores, zscores, seen, expected]) {
            push(name, help, metrics);
        }
        push(INFO.0, INFO.1, infos);
        for (id, spec) in self.catalogue.iter() {
            let (name, help, _) = value_metric(spec);
            push(&name, &help, values.remove(&id).unwrap_or_default());
        }
        let mut metric = proto::Metric::default();
        let mut overflow = proto::Counter::default();
        overflow.set_value(inner.overflow as f64);
        metric.set_counter(overflow);
        let (name, help) = BOARD[4];
        families.push(family(name, help, MetricType::COUNTER, vec![metric]));
        families
    }
}
