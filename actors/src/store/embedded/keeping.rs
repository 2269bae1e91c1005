//! What the Keeper asks of the store: hours to roll up, hours rolled up, readings whose time is
//! over. Nothing here is synced: what a crash undoes is done again.

use std::sync::{MutexGuard, PoisonError};

use fjall::AbstractTree as _;
use hashbrown::HashSet;
use vigie_wire::SensorId;

use super::super::hourly::{self, HOUR_MS, HourRow, hour_of};
use super::super::outgoing::Kind;
use super::super::{Error, row};
use super::{Embedded, Page, StoredReading, Write, encode, failed, files, page};
use crate::failpoint;

/// An hour that has to be rolled up (again): its key, its beginning and its sensor.
pub(in crate::store) type Due = (Vec<u8>, i64, SensorId);

impl Embedded {
    /// The beginning of the newest hour of a sensor that is rolled up.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn newest_hour(&self, sensor: &SensorId) -> Result<Option<i64>, Error> {
        let Some(guard) = self.hours.prefix(row::sensor_prefix(sensor)).next_back() else {
            return Ok(None);
        };
        let key = guard.key().map_err(failed)?;
        row::time_behind_nul(sensor, &key).map(Some)
    }

    /// A rolled-up hour of a sensor.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn hour(&self, sensor: &SensorId, hour_ms: i64) -> Result<Option<HourRow>, Error> {
        let key = row::reading_floor(sensor, hour_ms);
        let value = self.hours.get(&key).map_err(failed)?;
        value.map(|value| hourly::decode(&key, &value)).transpose()
    }

    /// Order time of the oldest reading of a sensor.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn oldest(&self, sensor: &SensorId) -> Result<Option<i64>, Error> {
        let Some(guard) = self.readings.prefix(row::sensor_prefix(sensor)).next() else {
            return Ok(None);
        };
        let key = guard.key().map_err(failed)?;
        row::time_behind_nul(sensor, &key).map(Some)
    }

    /// Rolls up the readings of a sensor with `from_ms` ≤ order time < `to_ms`, both the beginnings
    /// of hours. Hours without readings are left out.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn roll_up(
        &self,
        sensor: &SensorId,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Vec<HourRow>, Error> {
        let mut hours: Vec<HourRow> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.readings(sensor, (from_ms, to_ms), after.as_deref(), 4096)?;
            for reading in &page.items {
                let hour_ms = hour_of(reading.order_ms);
                if hours.last().is_none_or(|hour| hour.hour_ms != hour_ms) {
                    hours.push(HourRow::new(*sensor, hour_ms));
                }
                if let Some(hour) = hours.last_mut() {
                    hour.add(reading);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(hours);
            }
        }
    }

    /// The hours that are marked as due already. Held until the readings of their next change can be
    /// seen: whoever settles an hour meanwhile must not miss them.
    pub(in crate::store) fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hours that begin before `before_ms` and changed after they may have been rolled up, in the order
    /// of hour and sensor, behind those of `after`.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub(in crate::store) fn due(
        &self,
        before_ms: i64,
        after: Option<(i64, SensorId)>,
        limit: usize,
    ) -> Result<Vec<Due>, Error> {
        let behind = after.map_or_else(Vec::new, |(hour_ms, sensor)| {
            row::by_time_key(hour_ms, &sensor, &[u8::MAX; 9])
        });
        let end = row::time_floor(before_ms).to_vec();
        if behind >= end {
            return Ok(Vec::new());
        }
        self.due
            .range(behind..end)
            .take(limit)
            .map(|guard| {
                let key = guard.key().map_err(failed)?;
                let (hour_ms, sensor) = row::split_by_time_key(&key)?;
                Ok((key.to_vec(), hour_ms, sensor))
            })
            .collect()
    }

    /// Has this hour changed since it was rolled up?
    fn is_due(&self, sensor: &SensorId, hour_ms: i64) -> Result<bool, Error> {
        let changes = row::by_time_key(hour_ms, sensor, &[]);
        let first = self.due.prefix(changes).next();
        Ok(first
            .map(fjall::Guard::key)
            .transpose()
            .map_err(failed)?
            .is_some())
    }

    /// Keeps rolled-up hours, and puts them in line for MongoDB if `forward`; `done` are the keys
    /// of changes that they settle.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_hours(
        &self,
        hours: &[HourRow],
        done: &[Vec<u8>],
        forward: bool,
    ) -> Result<(), Error> {
        let mut write = self.write_unsynced().forwarding(forward);
        for hour in hours {
            let (key, value) = (hour.key(), hour.encode()?);
            write.forward(Kind::Hour, &key, &value);
            write.batch.insert(&self.hours, key, value);
        }
        for key in done {
            write.batch.remove(&self.due, key.as_slice());
        }
        if write.is_empty() {
            return Ok(());
        }
        write.commit()
    }

    /// Hours of a sensor with `from_ms` ≤ beginning < `to_ms`, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn hours(
        &self,
        sensor: &SensorId,
        (from_ms, to_ms): (i64, i64),
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<HourRow>, Error> {
        let prefix = row::sensor_prefix(sensor);
        let floor = row::reading_floor(sensor, from_ms);
        let ceiling = row::reading_floor(sensor, to_ms);
        let start = after
            .map(|tail| [prefix.as_slice(), tail, &[0]].concat())
            .map_or_else(|| floor.clone(), |after| after.max(floor.clone()));
        if start >= ceiling {
            return Ok(Page {
                items: Vec::new(),
                next: None,
            });
        }
        page(
            self.hours.range(start..ceiling),
            limit,
            prefix.len(),
            hourly::decode,
        )
    }

    /// The hours of a sensor that are rolled up, from its oldest reading on, and how many readings
    /// each has, as far as its roll-up knows.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub(in crate::store) fn each_hour(
        &self,
        sensor: &SensorId,
        mut job: impl FnMut(i64, u64),
    ) -> Result<(), Error> {
        let Some(oldest_ms) = self.oldest(sensor)? else {
            return Ok(());
        };
        // The hours of readings that are gone stay.
        let first = row::reading_floor(sensor, hour_of(oldest_ms));
        let end = row::reading_floor(sensor, i64::MAX);
        for guard in self.hours.range(first..end) {
            let (key, value) = guard.into_inner().map_err(failed)?;
            let hour = hourly::decode(&key, &value)?;
            let counts = hour.quantities.iter().map(|summary| summary.count);
            job(hour.hour_ms, u64::from(counts.max().unwrap_or(0)));
        }
        Ok(())
    }

    /// Removals in the tables: about as many readings that are gone still take room on the disk.
    pub(in crate::store) fn unmerged_removals(&self) -> u64 {
        self.readings.tree.tombstone_count()
    }

    /// Readings that were removed since the store was made.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn removed(&self) -> Result<u64, Error> {
        Ok(self.meta_value("removed")?.unwrap_or_default())
    }

    /// Writes down beside the journal how many readings were stored, so that a journal whose end is
    /// missing does not go unnoticed.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read, or the file not written.
    pub fn mark(&self, stored: u64) -> Result<(), Error> {
        files::mark(&self.dir, stored)
    }

    /// Readings that are known to be lost by damage.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        Ok(self.meta_value("lost")?.unwrap_or_default())
    }

    /// Keeps how many readings are lost by damage.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_lost(&self, readings: u64) -> Result<(), Error> {
        self.put_meta("lost", &readings)
    }

    /// Are there tables to be written? Then what can wait had better.
    pub(in crate::store) fn is_behind(&self) -> bool {
        self.buffers.are_behind()
    }

    /// Removes the oldest readings of a sensor, those with order time < `before_ms`, up to `limit`;
    /// gives how many. Ends at an hour that has to be rolled up again: its roll-up lacks one of them.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read or written.
    pub fn remove_readings(
        &self,
        sensor: &SensorId,
        before_ms: i64,
        limit: usize,
    ) -> Result<usize, Error> {
        let mut readings = self
            .readings(sensor, (i64::MIN, before_ms), None, limit)?
            .items;
        let mut hour = None;
        let mut end = readings.len();
        for (at, stored) in readings.iter().enumerate() {
            let of = hour_of(stored.order_ms);
            if hour.replace(of) != Some(of) && self.is_due(sensor, of)? {
                end = at;
                break;
            }
        }
        readings.truncate(end);
        let removed = readings.len();
        if removed == 0 {
            return Ok(0);
        }
        let mut write = self.write_unsynced();
        let all = self.removed()? + removed as u64;
        write
            .batch
            .insert(&self.meta, "removed", encode(&all, "meta")?);
        for stored in readings {
            let StoredReading {
                order_ms,
                identity,
                row,
            } = stored;
            let key = row::reading_key(sensor, order_ms, identity);
            write.batch.remove(&self.readings, key);
            if row.reading(*sensor, order_ms, identity).needs_index() {
                let key = row::identity_key(sensor, identity);
                write.batch.remove(&self.identities, key);
            }
        }
        failpoint::pass("keeper.remove");
        write.commit()?;
        Ok(removed)
    }
}

/// Hours, each of a sensor, that have a row in line for being settled, so that their next change
/// needs no other. Nothing is lost with it: what is not in it is marked once more.
#[derive(Debug, Default)]
pub(in crate::store) struct Marked(HashSet<(SensorId, i64)>);

impl Marked {
    /// What is remembered of a flood of hours.
    const MOST: usize = 32_768;

    pub(in crate::store) fn contains(&self, sensor: SensorId, hour_ms: i64) -> bool {
        self.0.contains(&(sensor, hour_ms))
    }

    /// After their rows are written.
    pub(in crate::store) fn add(&mut self, hours: HashSet<(SensorId, i64)>) {
        if self.0.len() > Self::MOST {
            self.0.clear();
        }
        self.0.extend(hours);
    }

    /// Before the readings of the hour are read: what comes from then on is marked anew.
    pub(in crate::store) fn settling(&mut self, sensor: SensorId, hour_ms: i64) {
        self.0.remove(&(sensor, hour_ms));
    }
}

impl Write<'_> {
    /// An hour whose readings changed after it may have been rolled up. `number` tells this change
    /// from others: it is settled only by a roll-up that has seen it.
    pub fn due(&mut self, sensor: &SensorId, order_ms: i64, number: u64) {
        let hour_ms = order_ms.div_euclid(HOUR_MS) * HOUR_MS;
        let key = row::by_time_key(hour_ms, sensor, &number.to_be_bytes());
        self.batch.insert(&self.store.due, key, []);
    }
}
