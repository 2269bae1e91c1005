//! Stored readings of many sensors in the order of their times, page by page: memory grows with the
//! number of sensors, not with that of readings.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use vigie_actors::store;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::store::row::StoredReading;
use vigie_wire::SensorId;

/// Readings of one sensor that are read at once.
const PAGE: usize = 256;

/// Merges the sensors.
pub(crate) struct Stored {
    store: Embedded,
    span: (i64, i64),
    sensors: Vec<Ahead>,
    /// Time of each sensor's next reading.
    next: BinaryHeap<Reverse<(i64, usize)>>,
}

/// What was read ahead of one sensor.
struct Ahead {
    sensor: SensorId,
    rows: VecDeque<StoredReading>,
    /// Where the next page begins; `None`: there is none.
    after: Option<Vec<u8>>,
}

/// All sensors of a store, in the order of their ids.
///
/// # Errors
/// If the store cannot be read.
pub(crate) fn all_sensors(store: &Embedded) -> Result<Vec<SensorId>, store::Error> {
    let mut sensors = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.sensors(after.as_deref(), 1000)?;
        sensors.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(sensors);
        }
    }
}

impl Stored {
    /// What `sensors` sent, with `from_ms` ≤ order time < `to_ms`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn new(
        store: Embedded,
        sensors: Vec<SensorId>,
        span: (i64, i64),
    ) -> Result<Self, store::Error> {
        let ahead = |sensor| Ahead {
            sensor,
            rows: VecDeque::new(),
            after: Some(Vec::new()),
        };
        let mut stored = Self {
            store,
            span,
            sensors: sensors.into_iter().map(ahead).collect(),
            next: BinaryHeap::new(),
        };
        for at in 0..stored.sensors.len() {
            stored.line_up(at)?;
        }
        Ok(stored)
    }

    /// The next reading of all; `None` at the end.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<(SensorId, StoredReading)>, store::Error> {
        let Some(Reverse((_, at))) = self.next.pop() else {
            return Ok(None);
        };
        let ahead = &mut self.sensors[at];
        let reading = ahead.rows.pop_front().map(|row| (ahead.sensor, row));
        self.line_up(at)?;
        Ok(reading)
    }

    /// Puts the sensor's next reading in line, if it has one.
    fn line_up(&mut self, at: usize) -> Result<(), store::Error> {
        let (store, span) = (&self.store, self.span);
        let ahead = &mut self.sensors[at];
        while ahead.rows.is_empty() {
            let Some(after) = ahead.after.take() else {
                return Ok(());
            };
            let after = Some(after.as_slice()).filter(|after| !after.is_empty());
            let page = store.readings(&ahead.sensor, span, after, PAGE)?;
            ahead.rows.extend(page.items);
            ahead.after = page.next;
        }
        if let Some(reading) = ahead.rows.front() {
            self.next.push(Reverse((reading.order_ms, at)));
        }
        Ok(())
    }
}
