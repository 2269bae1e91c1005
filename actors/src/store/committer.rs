//! Turns a scored batch into one atomic write: readings, anomalies, states, incidents, notices,
//! quarantine and ledger. Decides which late readings are duplicates, for only the store knows.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::embedded::Embedded;
use super::hourly::hour_of;
use super::row::{Row, StoredValue};
use super::{Config, Error, Ledger};
use crate::reading::{Arrival, Outcome, Quarantined, Reading};
use crate::score::scorer::{Kind, Scored, ScoredReading};

/// A quarantined message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMessage {
    /// One of a bounded set of words.
    pub reason: String,
    /// A sentence for people.
    pub detail: String,
    /// Where it came from.
    pub topic: String,
    /// Its beginning.
    pub payload: Vec<u8>,
    /// When it was received.
    pub received_ms: i64,
}

/// What a commit changed, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// One per arrival, in order.
    pub outcomes: Vec<Outcome>,
    /// Notices are waiting in the outbox.
    pub notices: bool,
}

/// The Store's logic: the only writer of readings.
#[derive(Debug)]
pub struct Committer {
    store: Embedded,
    ledger: Ledger,
    /// Each gets every notice.
    channels: Vec<&'static str>,
    quarantine_rows: u64,
    /// Numbers of the oldest kept and the next quarantined message.
    quarantine: (u64, u64),
    /// There is a MongoDB to copy to.
    forward: bool,
}

impl Committer {
    /// Goes on where the store stopped.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn new(
        store: Embedded,
        config: &Config,
        channels: Vec<&'static str>,
    ) -> Result<Self, Error> {
        let ledger = store.ledger()?;
        let quarantine = store
            .quarantine_span()?
            .map_or((0, 0), |(oldest, newest)| (oldest, newest + 1));
        let forward = store.mirror()?.is_some();
        Ok(Self {
            store,
            ledger,
            channels,
            quarantine_rows: u64::from(config.quarantine_rows),
            quarantine,
            forward,
        })
    }

    /// The ledger as of the last commit.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Makes `scored` durable, all of it or nothing. Takes the snapshots out of it.
    ///
    /// # Errors
    /// [`Error`]: nothing of the batch is stored.
    pub fn commit(&mut self, scored: &mut Scored) -> Result<Committed, Error> {
        let store = self.store.clone();
        let mut write = store.write().forwarding(self.forward);
        let mut ledger = self.ledger.clone();
        let mut quarantine = self.quarantine;
        let arrivals = &scored.batch.arrivals;
        let mut outcomes = Vec::with_capacity(arrivals.len());
        // What this batch stores is not in the store yet: a late reading may be one of it.
        let any_late = scored.readings.iter().any(|row| row.kind == Kind::Late);
        let mut stored_here = HashSet::new();
        let mut due_here = HashSet::new();
        let mut rows = scored.readings.iter().peekable();

        for (index, arrival) in (0_u32..).zip(arrivals.iter()) {
            let kept = |message: &Quarantined| KeptMessage {
                reason: message.reason.to_owned(),
                detail: message.detail.clone(),
                topic: message.topic.clone(),
                payload: message.payload.clone(),
                received_ms: message.received_ms,
            };
            let outcome = match arrival {
                Arrival::Quarantine(message) => {
                    self.keep(&mut write, &mut quarantine, &kept(message))?;
                    Outcome::Quarantined(message.reason)
                }
                Arrival::Reading(reading) => {
                    let Some(row) = rows.next_if(|row| row.index == index) else {
                        return Err(Error::Damaged { what: "batch" });
                    };
                    match row.kind {
                        Kind::Duplicate => Outcome::Duplicate,
                        Kind::TooManySensors => {
                            let message = too_many_sensors(reading);
                            self.keep(&mut write, &mut quarantine, &kept(&message))?;
                            Outcome::Quarantined(message.reason)
                        }
                        Kind::Late
                            if stored_here.contains(&(reading.sensor, reading.identity))
                                || self.store.contains(reading)? =>
                        {
                            Outcome::Duplicate
                        }
                        Kind::Late | Kind::Entered => {
                            if any_late {
                                stored_here.insert((reading.sensor, reading.identity));
                            }
                            put(&mut write, reading, row, &mut ledger)?;
                            let hour = hour_of(reading.order_ms);
                            // Its hour may be rolled up already.
                            if hour_of(reading.received_ms) != hour
                                && due_here.insert((reading.sensor, hour))
                            {
                                // It counts on with each reading stored.
                                write.due(&reading.sensor, hour, ledger.stored);
                            }
                            Outcome::Stored
                        }
                    }
                }
            };
            count(&mut ledger, outcome);
            outcomes.push(outcome);
        }

        for silent in &scored.silent {
            let since = silent.verdict.since_ms.to_be_bytes();
            write.anomaly(scored.batch.now_ms, &silent.sensor, &since, &silent.verdict)?;
            ledger.anomalies += 1;
        }
        for (sensor, state) in scored.snapshots.drain(..) {
            write.state(&sensor, state);
        }
        for incident in &scored.changes.incidents {
            write.incident(incident)?;
        }
        for notice in &scored.changes.notices {
            write.notice(notice, &self.channels)?;
        }
        for model in &scored.models {
            write.model(model)?;
        }
        if ledger != self.ledger {
            write.ledger(&ledger)?;
        }
        if !write.is_empty() {
            write.commit()?;
        }
        self.ledger = ledger;
        self.quarantine = quarantine;
        Ok(Committed {
            outcomes,
            notices: !scored.changes.notices.is_empty(),
        })
    }

    fn keep(
        &self,
        write: &mut super::embedded::Write<'_>,
        (oldest, next): &mut (u64, u64),
        message: &KeptMessage,
    ) -> Result<(), Error> {
        write.quarantine(*next, message)?;
        *next += 1;
        while *next - *oldest > self.quarantine_rows {
            write.drop_quarantined(*oldest);
            *oldest += 1;
        }
        Ok(())
    }
}

fn too_many_sensors(reading: &Reading) -> Quarantined {
    Quarantined::new(
        "too_many_sensors",
        "more sensor ids than stats.max_sensors allows".to_owned(),
        reading.sensor.as_str(),
        format!("{reading:?}").as_bytes(),
        reading.received_ms,
    )
}

fn count(ledger: &mut Ledger, outcome: Outcome) {
    match outcome {
        Outcome::Stored => ledger.stored += 1,
        Outcome::Duplicate => ledger.duplicate += 1,
        Outcome::Quarantined(reason) => match ledger.quarantined.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                ledger.quarantined.insert(reason.to_owned(), 1);
            }
        },
    }
}

fn put(
    write: &mut super::embedded::Write<'_>,
    reading: &Reading,
    scored: &ScoredReading,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    let late = scored.kind == Kind::Late;
    let values = reading
        .values
        .iter()
        .enumerate()
        .map(|(at, (quantity, value))| StoredValue {
            quantity: *quantity,
            value: *value,
            z: scored.z.get(at).copied().unwrap_or_default(),
        })
        .collect();
    let row = Row {
        entered: scored.entered,
        late,
        anomaly: !scored.fired.is_empty(),
        score: scored.score,
        generation: scored.generation,
        delay_ms: reading.received_ms - reading.order_ms,
        ahead_ms: reading.device_ms.map(|device| device - reading.order_ms),
        next_s: reading.next_s,
        values,
    };
    write.reading(reading, &row)?;
    for verdict in &scored.fired {
        write.anomaly(
            reading.order_ms,
            &reading.sensor,
            &reading.identity.to_bytes(),
            verdict,
        )?;
        ledger.anomalies += 1;
    }
    ledger.late += u64::from(late);
    ledger.missing = ledger.missing.saturating_add(scored.skipped);
    Ok(())
}
