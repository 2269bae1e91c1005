//! What the Forwarder counts. Its series exist only where a MongoDB is configured.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{counter, counters, gauge};
use crate::store::mongo::Why;

/// The numbers that the Forwarder moves.
#[derive(Debug, Clone)]
pub struct ForwarderMetrics {
    rows: IntCounterVec,
    failures: IntCounterVec,
    connected: IntGauge,
    waiting: IntGauge,
    /// Old readings that were removed from MongoDB by the engine.
    pub(crate) removed: IntCounter,
    /// Rounds that panicked.
    pub(crate) restarts: IntCounter,
    used: IntGauge,
    max: IntGauge,
    full: Gauge,
}

impl ForwarderMetrics {
    /// Registers all of them. Known label values start at 0.
    ///
    /// # Errors
    /// If the registry has one of the names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let full = Gauge::with_opts(Opts::new(
            "vigie_mongodb_full_timestamp_seconds",
            "When the copy will reach its limit at the present rate; +Inf: never, or not known yet.",
        ))?;
        full.set(f64::INFINITY);
        registry.register(Box::new(full.clone()))?;
        let metrics = Self {
            rows: counters(
                registry,
                "vigie_mongodb_rows_total",
                "Rows sent to MongoDB, by result.",
                &["result"],
            )?,
            failures: counters(
                registry,
                "vigie_mongodb_failures_total",
                "Times that MongoDB took nothing, by reason; everything is sent again.",
                &["reason"],
            )?,
            connected: gauge(
                registry,
                "vigie_mongodb_connected",
                "1 while MongoDB answers.",
            )?,
            waiting: gauge(
                registry,
                "vigie_mongodb_waiting",
                "Rows in the store that wait for MongoDB.",
            )?,
            removed: counter(
                registry,
                "vigie_mongodb_removed_total",
                "Old readings that the engine removed from MongoDB.",
            )?,
            restarts: counter(
                registry,
                "vigie_mongodb_restarts_total",
                "Times the Forwarder came back after a panic.",
            )?,
            used: gauge(
                registry,
                "vigie_mongodb_used_bytes",
                "Size of data and indexes in MongoDB.",
            )?,
            max: gauge(
                registry,
                "vigie_mongodb_max_bytes",
                "Size beyond which the oldest readings are removed from MongoDB.",
            )?,
            full,
        };
        for result in ["taken", "rejected"] {
            metrics.rows.with_label_values(&[result]);
        }
        for why in Why::ALL {
            metrics.failures.with_label_values(&[why.label()]);
        }
        Ok(metrics)
    }

    /// So many rows were taken, so many never will be.
    pub(crate) fn rows(&self, taken: u64, rejected: u64) {
        self.rows.with_label_values(&["taken"]).inc_by(taken);
        self.rows.with_label_values(&["rejected"]).inc_by(rejected);
    }

    /// MongoDB took nothing.
    pub(crate) fn failed(&self, why: Why) {
        self.failures.with_label_values(&[why.label()]).inc();
    }

    /// After each round.
    pub(crate) fn state(&self, connected: bool, waiting: u64) {
        self.connected.set(i64::from(connected));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// After each look at the size.
    pub(crate) fn used(&self, bytes: u64, max: u64, full_at: Option<f64>) {
        self.used.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.max.set(i64::try_from(max).unwrap_or(i64::MAX));
        self.full.set(full_at.unwrap_or(f64::INFINITY));
    }
}
