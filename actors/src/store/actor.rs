//! The Store as a stage: commits, then answers the batch.

use std::sync::Arc;

use super::committer::Committer;
use super::room::Room;
use crate::batch::Refusal;
use crate::failpoint;
use crate::message::Carrier;
use crate::metrics::{Latest, Metrics};
use crate::reading::Arrival;
use crate::score::scorer::{Kind, Scored};
use crate::supervise::{Failure, Health, Stage, chain};

/// The Committer and whom it tells.
#[derive(Debug)]
pub struct Storing {
    committer: Committer,
    room: Room,
    metrics: Metrics,
    health: Arc<Health>,
}

/// What the Alerter hears: there may be something in the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// True if the batch put a notice there.
    pub notices: bool,
}

impl Storing {
    /// Publishes what the ledger says at once.
    pub fn new(committer: Committer, room: Room, metrics: Metrics, health: Arc<Health>) -> Self {
        metrics.ledger(committer.ledger());
        Self {
            committer,
            room,
            metrics,
            health,
        }
    }

    fn publish(&self, scored: &Scored) {
        for silent in &scored.silent {
            self.metrics
                .anomaly(silent.verdict.rule, silent.verdict.severity());
        }
        let arrivals = &scored.batch.arrivals;
        let latest = scored.readings.iter().filter_map(|row| {
            for verdict in &row.fired {
                self.metrics.anomaly(verdict.rule, verdict.severity());
            }
            let Some(Arrival::Reading(reading)) = arrivals.get(row.index as usize) else {
                return None;
            };
            (row.kind == Kind::Entered).then(|| {
                let values = reading.values.iter().zip(&row.z);
                let latest = Latest {
                    received_ms: reading.received_ms,
                    expected_ms: row.expected_ms,
                    score: row.score,
                    values: values.map(|((id, value), z)| (*id, *value, *z)).collect(),
                };
                (reading.sensor, latest)
            })
        });
        self.metrics.board.update(scored.batch.now_ms, latest);
        self.metrics.ledger(self.committer.ledger());
    }
}

impl Stage for Storing {
    const NAME: &'static str = "store";
    type In = Scored;
    type Out = Stored;
    type Job = fn();
    type Done = ();

    fn handle(&mut self, mut scored: Scored) -> Result<Option<Stored>, Failure> {
        let batch = Arc::clone(scored.batch());
        if !batch.is_current() {
            return Err(Refusal::Stale.into());
        }
        if let Some(why) = self.room.missing() {
            self.metrics.disk_full.set(1);
            return Err(Refusal::Full(why.to_owned()).into());
        }
        self.metrics.disk_full.set(0);
        let begun = tokio::time::Instant::now();
        let committed = self
            .committer
            .commit(&mut scored)
            // What the disk has is not known until the store is opened again: nothing may be
            // written, nothing acknowledged.
            .map_err(|error| Failure::Fatal(chain(&error)))?;
        if !committed.outcomes.is_empty() {
            self.metrics.commit_seconds.record(begun.elapsed(), 1);
            self.metrics
                .commit_readings
                .observe(committed.outcomes.len() as f64);
            self.health.committed();
        }
        batch.commit(committed.outcomes);
        failpoint::pass("store.answered");
        self.publish(&scored);
        Ok(Some(Stored {
            notices: committed.notices,
        }))
    }
}
