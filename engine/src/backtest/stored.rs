//! Stored readings as they came: those of all sensors, in the order of their times, page by page.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use vigie_actors::reading::Reading;
use vigie_actors::store;
use vigie_actors::store::embedded::Embedded;
use vigie_wire::SensorId;

/// Readings of one sensor that are read at once.
const PAGE: usize = 256;

/// Merges the sensors.
pub(crate) struct Stored {
    store: Embedded,
    from_ms: i64,
    sensors: Vec<Ahead>,
    /// Time of each sensor's next reading.
    next: BinaryHeap<Reverse<(i64, usize)>>,
}

/// What was read ahead of one sensor.
struct Ahead {
    sensor: SensorId,
    rows: VecDeque<Reading>,
    /// Where the next page begins; `None`: there is none.
    after: Option<Vec<u8>>,
}

impl Stored {
    /// Everything from `from_ms` on. Late readings are left out: they entered no state.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn new(store: Embedded, from_ms: i64) -> Result<Self, store::Error> {
        let mut stored = Self {
            store,
            from_ms,
            sensors: Vec::new(),
            next: BinaryHeap::new(),
        };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = stored.store.sensors(after.as_deref(), 1000)?;
            for sensor in page.items {
                stored.sensors.push(Ahead {
                    sensor,
                    rows: VecDeque::new(),
                    after: Some(Vec::new()),
                });
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for at in 0..stored.sensors.len() {
            stored.line_up(at)?;
        }
        Ok(stored)
    }

    /// The next reading of all; `None` at the end.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<Reading>, store::Error> {
        let Some(Reverse((_, at))) = self.next.pop() else {
            return Ok(None);
        };
        let reading = self.sensors[at].rows.pop_front();
        self.line_up(at)?;
        Ok(reading)
    }

    /// Puts the sensor's next reading in line, if it has one.
    fn line_up(&mut self, at: usize) -> Result<(), store::Error> {
        let (store, from_ms) = (&self.store, self.from_ms);
        let ahead = &mut self.sensors[at];
        while ahead.rows.is_empty() {
            let Some(after) = ahead.after.take() else {
                return Ok(());
            };
            let after = Some(after.as_slice()).filter(|after| !after.is_empty());
            let page = store.readings(&ahead.sensor, (from_ms, i64::MAX), after, PAGE)?;
            let fresh = page.items.into_iter().filter(|stored| !stored.row.late);
            ahead.rows.extend(fresh.map(|stored| {
                let (time_ms, identity) = (stored.order_ms, stored.identity);
                let reading = stored.row.reading(ahead.sensor, time_ms, identity);
                // The clock of a backtest is that of the readings.
                Reading {
                    received_ms: time_ms,
                    ..reading
                }
            }));
            ahead.after = page.next;
        }
        if let Some(reading) = ahead.rows.front() {
            self.next.push(Reverse((reading.order_ms, at)));
        }
        Ok(())
    }
}
