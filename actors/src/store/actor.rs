//! The Store as a stage: commits, then answers the batch.

use std::sync::Arc;
use std::time::Duration;

use vigie_wire::topic;

use super::Error;
use super::committer::Committer;
use super::room::Room;
use crate::batch::Refusal;
use crate::clock::Clock;
use crate::failpoint;
use crate::message::Carrier;
use crate::metrics::{Became, Latest, Metrics, Shown};
use crate::reading::{Arrival, Outcome, Reading};
use crate::score::scorer::{Kind, Scored, ScoredReading};
use crate::supervise::{End, Failure, Health, Stage, chain};

/// The Committer and whom it tells.
#[derive(Debug)]
pub struct Storing {
    committer: Committer,
    room: Room,
    /// None while time is that of the readings: then they have no age.
    clock: Option<Arc<dyn Clock>>,
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
    pub fn new(
        committer: Committer,
        room: Room,
        clock: Option<Arc<dyn Clock>>,
        metrics: Metrics,
        health: Arc<Health>,
    ) -> Self {
        metrics.ledger(committer.ledger());
        Self {
            committer,
            room,
            clock,
            metrics,
            health,
        }
    }

    fn publish(&self, scored: &Scored, outcomes: &[Outcome]) {
        self.ages(scored);
        self.show(scored, outcomes);
        self.fired(scored);
        for deed in &scored.changes.deeds {
            self.metrics.answered(*deed);
        }
        self.metrics.ledger(self.committer.ledger());
    }
}

impl Storing {
    /// What became of each sensor's messages, and what the newest reading shows.
    fn show(&self, scored: &Scored, outcomes: &[Outcome]) {
        let mut rows = scored.readings.iter().peekable();
        let answered = (0_u32..).zip(scored.batch.arrivals.iter().zip(outcomes));
        let messages = answered.filter_map(|(index, (arrival, outcome))| {
            Some(match arrival {
                Arrival::Reading(reading) => {
                    let row = rows.next_if(|row| row.index == index)?;
                    let became = match outcome {
                        Outcome::Stored if row.kind == Kind::Late => Became::Late,
                        Outcome::Stored => Became::Stored((reading, row)),
                        Outcome::Duplicate => Became::Duplicate,
                        Outcome::Quarantined(_) => Became::Quarantined,
                    };
                    (reading.sensor, became)
                }
                Arrival::Quarantine(message) => {
                    (topic::parse(&message.topic)?.0, Became::Quarantined)
                }
            })
        });
        let board = &self.metrics.board;
        board.update(scored.batch.now_ms, messages, |(reading, row)| {
            latest(reading, row)
        });
    }

    /// How old the readings are by now.
    fn ages(&self, scored: &Scored) {
        let Some(clock) = &self.clock else {
            return;
        };
        let now_ms = clock.now_ms();
        let ages = scored.readings.iter().filter_map(|row| {
            let arrival = scored.batch.arrivals.get(row.index as usize);
            let Some(Arrival::Reading(reading)) = arrival else {
                return None;
            };
            let age_ms = now_ms - reading.device_ms?;
            let is_stored = matches!(row.kind, Kind::Entered | Kind::Late);
            // A clock that is ahead gives no age.
            is_stored.then(|| Duration::from_millis(age_ms.try_into().unwrap_or(0)))
        });
        self.metrics.age_seconds.record_all(ages);
    }

    /// Rules that fired; few.
    fn fired(&self, scored: &Scored) {
        let of_silent = scored.silent.iter().map(|silent| {
            let at_ms = scored.batch.now_ms;
            (silent.sensor, at_ms, &silent.verdict)
        });
        let of_readings = scored.readings.iter().flat_map(|row| {
            let arrival = scored.batch.arrivals.get(row.index as usize);
            let reading = match arrival {
                Some(Arrival::Reading(reading)) => Some(reading),
                Some(Arrival::Quarantine(_)) | None => None,
            };
            let verdicts = reading.map(|reading| (reading, &row.fired));
            verdicts.into_iter().flat_map(|(reading, fired)| {
                fired
                    .iter()
                    .map(|verdict| (reading.sensor, reading.order_ms, verdict))
            })
        });
        let mut fired = Vec::new();
        for (sensor, at_ms, verdict) in of_silent.chain(of_readings) {
            self.metrics.anomaly(verdict.rule, verdict.severity());
            fired.push((sensor, verdict.rule, at_ms));
        }
        self.metrics.board.fired(&fired);
    }
}

/// What a reading that entered shows.
fn latest(reading: &Reading, row: &ScoredReading) -> Latest {
    let values = reading.values.iter().zip(&row.z).zip(&row.bands);
    Latest {
        received_ms: reading.received_ms,
        expected_ms: row.expected_ms,
        score: row.score,
        forest: (row.generation > 0).then_some(row.forest),
        values: values
            .map(|(((quantity, value), z), band)| Shown {
                quantity: *quantity,
                value: *value,
                z: *z,
                band: *band,
            })
            .collect(),
        skipped: row.skipped,
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
            return Err(Refusal::Full(why).into());
        }
        self.metrics.disk_full.set(0);
        let begun = tokio::time::Instant::now();
        let committed = self
            .committer
            .commit(&mut scored)
            // What the disk has is not known until the store is opened again: nothing may be
            // written, nothing acknowledged.
            .map_err(|error| match error {
                Error::NoRoom(_) | Error::Stopped(_) => End::Reopen(chain(&error)),
                _ => End::Fatal(chain(&error)),
            })?;
        if !committed.outcomes.is_empty() {
            self.metrics.commit_seconds.record(begun.elapsed(), 1);
            self.metrics
                .commit_readings
                .observe(committed.outcomes.len() as f64);
            self.health.committed();
        }
        batch.commit(committed.outcomes.clone());
        failpoint::pass("store.answered");
        self.publish(&scored, &committed.outcomes);
        Ok(Some(Stored {
            notices: committed.notices,
        }))
    }
}
