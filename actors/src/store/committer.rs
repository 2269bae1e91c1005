//! Turns a scored batch into one atomic write: readings, anomalies, states, incidents, notices,
//! quarantine and ledger. Decides which late readings are duplicates, for only the store knows.

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use vigie_wire::{SensorId, topic};

use super::embedded::{Embedded, Marked, Write};
use super::hourly::hour_of;
use super::{Config, Error, Exceptions, Ledger};
use crate::alert::route::Route;
use crate::failpoint;
use crate::reading::{Arrival, Identity, Outcome, Quarantined, Reading};
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
    /// Who gets which notices.
    routes: Vec<Route>,
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
    pub fn new(store: Embedded, config: &Config, routes: Vec<Route>) -> Result<Self, Error> {
        let ledger = store.ledger()?;
        let quarantine = store
            .quarantine_span()?
            .map_or((0, 0), |(oldest, newest)| (oldest, newest + 1));
        let forward = store.mirror()?.is_some();
        Ok(Self {
            store,
            ledger,
            routes,
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
        let mut marked = store.marked();
        let mut change = Change {
            store: &store,
            marked: &marked,
            write: store.write().forwarding(self.forward),
            ledger: self.ledger.clone(),
            quarantine: self.quarantine,
            quarantine_rows: self.quarantine_rows,
            any_late: scored.readings.iter().any(|row| row.kind == Kind::Late),
            stored_here: HashSet::new(),
            due_here: HashSet::new(),
            exceptions: Touched::default(),
        };
        let arrivals = &scored.batch.arrivals;
        let mut outcomes = Vec::with_capacity(arrivals.len());
        let mut rows = scored.readings.iter().zip(scored.rows.iter()).peekable();
        for (index, arrival) in (0_u32..).zip(arrivals.iter()) {
            let outcome = match arrival {
                Arrival::Quarantine(message) => change.quarantined(message)?,
                Arrival::Reading(reading) => {
                    let Some((row, encoded)) = rows.next_if(|(row, _)| row.index == index) else {
                        return Err(Error::Damaged { what: "batch" });
                    };
                    change.reading(reading, row, encoded)?
                }
            };
            count(&mut change.ledger, outcome);
            outcomes.push(outcome);
        }

        let Change {
            mut write,
            mut ledger,
            quarantine,
            exceptions,
            due_here,
            ..
        } = change;
        for silent in &scored.silent {
            let since = silent.verdict.since_ms.to_be_bytes();
            write.anomaly(scored.batch.now_ms, &silent.sensor, &since, &silent.verdict)?;
            ledger.anomalies += 1;
        }
        let snapshots = !scored.snapshots.is_empty();
        for (sensor, snapshot) in scored.snapshots.drain(..) {
            write.state(&sensor, snapshot);
        }
        for incident in &scored.changes.incidents {
            write.incident(incident)?;
        }
        for incident in &scored.changes.past {
            write.past(incident)?;
        }
        for number in &scored.changes.done {
            write.done(*number);
        }
        for raised in &scored.changes.raised {
            write.raised(raised)?;
        }
        if let Some(silences) = &scored.changes.silences {
            write.silences(silences)?;
        }
        for notice in &scored.changes.notices {
            let takers = self.routes.iter().filter(|route| route.takes(notice));
            write.notice(notice, takers.map(|route| route.channel.as_str()))?;
        }
        for model in &scored.models {
            write.model(model)?;
        }
        for (sensor, row) in &exceptions.0 {
            write.exceptions(sensor, row)?;
        }
        if ledger != self.ledger {
            write.ledger(&ledger)?;
        }
        if !write.is_empty() {
            failpoint::pass("store.commit");
            if snapshots {
                failpoint::pass("store.snapshot");
            }
            write.commit()?;
            marked.add(due_here);
            failpoint::pass("store.committed");
        }
        self.ledger = ledger;
        self.quarantine = quarantine;
        Ok(Committed {
            outcomes,
            notices: !scored.changes.notices.is_empty(),
        })
    }
}

/// A batch on its way into one write.
struct Change<'a> {
    store: &'a Embedded,
    marked: &'a Marked,
    write: Write<'a>,
    ledger: Ledger,
    /// Numbers of the oldest kept and the next quarantined message.
    quarantine: (u64, u64),
    quarantine_rows: u64,
    any_late: bool,
    /// What this batch stores is not in the store yet: a late reading may be one of it.
    stored_here: HashSet<(SensorId, Identity)>,
    due_here: HashSet<(SensorId, i64)>,
    exceptions: Touched,
}

impl Change<'_> {
    fn reading(
        &mut self,
        reading: &Reading,
        row: &ScoredReading,
        encoded: (&[u8], &[u8]),
    ) -> Result<Outcome, Error> {
        let duplicate = match row.kind {
            Kind::TooManySensors => return self.keep(&too_many_sensors(reading)),
            Kind::Duplicate => true,
            Kind::Late => {
                self.stored_here
                    .contains(&(reading.sensor, reading.identity))
                    || self.store.contains(reading)?
            }
            Kind::Entered => false,
        };
        if duplicate {
            self.exceptions.of(self.store, reading.sensor)?.duplicate += 1;
            return Ok(Outcome::Duplicate);
        }
        if self.any_late {
            self.stored_here.insert((reading.sensor, reading.identity));
        }
        self.write.encoded(reading, encoded);
        put(&mut self.write, reading, row, &mut self.ledger)?;
        if row.kind == Kind::Late || row.skipped > 0 || row.restarted {
            let exception = self.exceptions.of(self.store, reading.sensor)?;
            exception.late += u64::from(row.kind == Kind::Late);
            exception.missing = exception.missing.saturating_add(row.skipped);
            exception.missing_while.add(row.meanwhile, row.skipped);
            exception.restarts += u64::from(row.restarted);
        }
        let hour = hour_of(reading.order_ms);
        // Its hour may be rolled up already.
        if hour_of(reading.received_ms) != hour
            && !self.marked.contains(reading.sensor, hour)
            && self.due_here.insert((reading.sensor, hour))
        {
            // The number counts on with each reading stored.
            self.write.due(&reading.sensor, hour, self.ledger.stored);
        }
        Ok(Outcome::Stored)
    }

    fn quarantined(&mut self, message: &Quarantined) -> Result<Outcome, Error> {
        // Whoever makes names up makes no rows.
        if let Some((sensor, _)) = topic::parse(&message.topic)
            && self.store.has_sensor(&sensor)?
        {
            let row = self.exceptions.of(self.store, sensor)?;
            *row.quarantined
                .entry(message.reason.to_owned())
                .or_default() += 1;
        }
        self.keep(message)
    }

    fn keep(&mut self, message: &Quarantined) -> Result<Outcome, Error> {
        let kept = KeptMessage {
            reason: message.reason.to_owned(),
            detail: message.detail.clone(),
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            received_ms: message.received_ms,
        };
        let (oldest, next) = &mut self.quarantine;
        self.write.quarantine(*next, &kept)?;
        *next += 1;
        while *next - *oldest > self.quarantine_rows {
            self.write.drop_quarantined(*oldest);
            *oldest += 1;
        }
        Ok(Outcome::Quarantined(message.reason))
    }
}

/// The rows of sensors that this batch changes.
#[derive(Default)]
struct Touched(HashMap<SensorId, Exceptions>);

impl Touched {
    fn of(&mut self, store: &Embedded, sensor: SensorId) -> Result<&mut Exceptions, Error> {
        Ok(match self.0.entry(sensor) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(store.exceptions(&sensor)?),
        })
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

/// What goes with a stored reading.
fn put(
    write: &mut Write<'_>,
    reading: &Reading,
    scored: &ScoredReading,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    for verdict in &scored.fired {
        write.anomaly(
            reading.order_ms,
            &reading.sensor,
            &reading.identity.to_bytes(),
            verdict,
        )?;
        ledger.anomalies += 1;
    }
    ledger.late += u64::from(scored.kind == Kind::Late);
    ledger.missing = ledger.missing.saturating_add(scored.skipped);
    ledger.missing_while.add(scored.meanwhile, scored.skipped);
    ledger.restarts += u64::from(scored.restarted);
    Ok(())
}
