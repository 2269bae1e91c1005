//! The Keeper's work: rolls hours up when they are over, and removes readings whose time is over,
//! but none that a roll-up or a restart still needs.

pub mod actor;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use vigie_wire::SensorId;

use super::embedded::Embedded;
use super::hourly::{HOUR_MS, hour_of};
use super::{Config, Error};
use crate::failpoint;

/// An hour is rolled up this long after its end: what is under way at its end still gets in.
const GRACE_MS: i64 = 5 * 60_000;
/// Sensors in one look.
const SENSORS: usize = 256;
/// Hours settled, and readings removed, in one write.
const CHUNK: usize = 2048;
/// When the store is too large, this share of its readings goes at least.
const SHARE: f64 = 0.05;
/// For so long a removal of [`CHUNK`] readings waits for tables to be written, of fewer less.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// If nothing can go, it is tried again after this time.
const AGAIN_MS: i64 = 10 * 60_000;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Hours rolled up.
    pub hours: u64,
    /// Readings removed.
    pub removed: u64,
}

/// Its memory between passes.
#[derive(Debug)]
pub struct Keeper {
    store: Embedded,
    config: Config,
    /// When readings were to go and none could.
    none_went_ms: Option<i64>,
    /// How many readings were stored when that was written down last.
    marked: Option<u64>,
}

impl Keeper {
    /// Keeps `store` as `config` says.
    pub fn new(store: Embedded, config: Config) -> Self {
        Self {
            store,
            config,
            none_went_ms: None,
            marked: None,
        }
    }

    /// Size of the store, and the size that it is kept below, in bytes.
    pub fn size(&self) -> (u64, u64) {
        let max = u64::from(self.config.max_mib) << 20;
        (self.store.disk_bytes(), max)
    }

    /// See [`Embedded::mark`]. Nothing to do, if nothing was stored since.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read, or the file not written.
    pub fn mark(&mut self) -> Result<(), Error> {
        let stored = self.store.ledger()?.stored;
        if self.marked != Some(stored) {
            self.store.mark(stored)?;
            self.marked = Some(stored);
        }
        Ok(())
    }

    /// Does it have to let readings go? Then a pass is due, however short ago the last one was.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn is_too_large(&self, now_ms: i64) -> Result<bool, Error> {
        Ok(self.share_to_go(now_ms)? > 0.0)
    }

    /// The share of the stored readings that has to go.
    fn share_to_go(&self, now_ms: i64) -> Result<f64, Error> {
        let (size, max) = self.size();
        let lately = |at: i64| (now_ms - at).abs() < AGAIN_MS;
        if size <= max || self.none_went_ms.is_some_and(lately) {
            return Ok(0.0);
        }
        let gone = self.store.removed()? + self.store.lost()?;
        let kept = self.store.ledger()?.stored.saturating_sub(gone);
        Ok(share_to_go(
            (kept, self.store.unmerged_removals()),
            size,
            max,
        ))
    }

    /// One look at all sensors. Ends early, between two writes, when `stop` says so.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read or written.
    pub fn pass(&mut self, now_ms: i64, stop: &dyn Fn() -> bool) -> Result<Done, Error> {
        let mut done = Done::default();
        let forward = self.store.mirror()?.is_some();
        let over_ms = hour_of(now_ms - GRACE_MS);
        let keep_ms = self.config.keep.as_ms();
        self.settle(over_ms, forward, &mut done, stop)?;
        self.each_sensor(stop, |store, sensor| {
            let from_ms = match store.newest_hour(sensor)? {
                Some(newest) => newest + HOUR_MS,
                None => i64::MIN,
            };
            let hours = store.roll_up(sensor, (from_ms, over_ms))?;
            store.put_hours(&hours, &[], forward)?;
            failpoint::pass("keeper.rolled_up");
            done.hours += hours.len() as u64;
            // The last year of a sensor that is gone is worth as much as that of others.
            if let Some(newest) = store.newest(sensor)? {
                done.removed += remove(store, sensor, newest.order_ms - keep_ms, stop)?;
            }
            Ok(())
        })?;
        done.removed += self.make_room(now_ms, stop)?;
        Ok(done)
    }

    /// Rolls up again what changed since, each hour once: one that goes on changing is left to the next
    /// pass.
    fn settle(
        &self,
        over_ms: i64,
        forward: bool,
        done: &mut Done,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut last = None;
        loop {
            let due = self.store.due(over_ms, last, CHUNK)?;
            if due.is_empty() || stop() {
                return Ok(());
            }
            let mut hours = Vec::new();
            let mut keys = Vec::with_capacity(due.len());
            for (key, hour_ms, sensor) in due {
                keys.push(key);
                if last != Some((hour_ms, sensor)) {
                    self.store.marked().settling(sensor, hour_ms);
                    let anew = self.store.roll_up(&sensor, (hour_ms, hour_ms + HOUR_MS))?;
                    let known = self.store.hour(&sensor, hour_ms)?;
                    // Readings come; if there are fewer, they have been removed since, and the
                    // roll-up knew them.
                    hours.extend(anew.into_iter().filter(|anew| match &known {
                        Some(known) => anew.holds(known),
                        None => true,
                    }));
                }
                last = Some((hour_ms, sensor));
            }
            done.hours += hours.len() as u64;
            self.store.put_hours(&hours, &keys, forward)?;
        }
    }

    /// False if it was stopped on the way.
    fn each_sensor(
        &self,
        stop: &dyn Fn() -> bool,
        mut job: impl FnMut(&Embedded, &SensorId) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.sensors(after.as_deref(), SENSORS)?;
            for sensor in &page.items {
                if stop() {
                    return Ok(false);
                }
                job(&self.store, sensor)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    /// If the store is too large, the oldest of its readings go, whichever sensor's they are.
    fn make_room(&mut self, now_ms: i64, stop: &dyn Fn() -> bool) -> Result<u64, Error> {
        let share = self.share_to_go(now_ms)?;
        if share <= 0.0 {
            return Ok(0);
        }
        // Readings are rolled up before they go, so the hours know how many there are from when. (Of
        // readings that come quantity by quantity they know fewer; as a share that is the same.)
        let (mut counted, mut removable) = (0, BTreeMap::new());
        let all = self.each_sensor(stop, |store, sensor| {
            let before_ms = removable_before(store, sensor)?;
            store.each_hour(sensor, |hour_ms, readings| {
                counted += readings;
                if before_ms.is_some_and(|before_ms| hour_ms < before_ms) {
                    *removable.entry(hour_ms).or_default() += readings;
                }
            })
        })?;
        if !all {
            return Ok(0);
        }
        let before_ms = cut(&removable, counted as f64 * share);
        let mut removed = 0;
        let all = self.each_sensor(stop, |store, sensor| {
            removed += remove(store, sensor, before_ms, stop)?;
            Ok(())
        })?;
        let max_mib = self.config.max_mib;
        if removed > 0 {
            tracing::warn!(
                removed,
                max_mib,
                "the store is larger than store.max_mib: the oldest readings go, their hours stay"
            );
        } else if all {
            self.none_went_ms = Some(now_ms);
            tracing::warn!(
                max_mib,
                "the store is larger than store.max_mib, but nothing can go: its readings are of \
                 this hour, or all that is left of sensors that are gone"
            );
        }
        Ok(removed)
    }
}

/// The share of its readings that has to go from a store of `size` bytes that may have `max`. Readings that
/// are removed take room until tables are merged: how many of them there are tells how much of the
/// size is theirs.
fn share_to_go((kept, unmerged): (u64, u64), size: u64, max: u64) -> f64 {
    if kept == 0 {
        return 0.0;
    }
    let bytes = size as f64 / (kept + unmerged) as f64;
    let fit = max as f64 / bytes;
    let share = 1.0 - fit / kept as f64;
    if share <= 0.0 { 0.0 } else { share.max(SHARE) }
}

/// The end of the first hours that hold so many readings together, of how many each hour has.
fn cut(per_hour: &BTreeMap<i64, u64>, readings: f64) -> i64 {
    let mut held = 0;
    let last = per_hour.iter().find(|(_, count)| {
        held += **count;
        held as f64 >= readings
    });
    let last = last.or_else(|| per_hour.last_key_value());
    last.map_or(i64::MIN, |(hour_ms, _)| hour_ms + HOUR_MS)
}

/// The beginning of an hour: readings of `sensor` from then on must stay, for they are not rolled up, or a
/// restart reads them. `None`: all must.
fn removable_before(store: &Embedded, sensor: &SensorId) -> Result<Option<i64>, Error> {
    let Some(rolled_up) = store.newest_hour(sensor)? else {
        return Ok(None);
    };
    let state = store.snapshot(sensor)?;
    // A restart begins with the newest reading of the snapshot; with all that there are, if that cannot
    // be read or was stored with the first.
    let needed = state.filter(|state| state.entered > 0);
    Ok(needed.map(|state| hour_of(state.newest_ms).min(rolled_up)))
}

/// Removes what is older than `before_ms` and may go.
fn remove(
    store: &Embedded,
    sensor: &SensorId,
    before_ms: i64,
    stop: &dyn Fn() -> bool,
) -> Result<u64, Error> {
    if store
        .oldest(sensor)?
        .is_none_or(|oldest| oldest >= before_ms)
    {
        return Ok(0);
    }
    let Some(stays_ms) = removable_before(store, sensor)? else {
        return Ok(0);
    };
    // Whole hours: of part of one nobody could tell later what is missing.
    let before_ms = hour_of(before_ms.min(stays_ms));
    let mut removed = 0;
    while !stop() {
        let some = store.remove_readings(sensor, before_ms, CHUNK)?;
        removed += some as u64;
        if some == 0 {
            break;
        }
        failpoint::pass("keeper.removed");
        give_way(store, some);
    }
    Ok(removed)
}

/// Readings that come are more urgent than those that go; but for ever they cannot wait either.
fn give_way(store: &Embedded, removed: usize) {
    let patience = LONGEST_WAIT.mul_f64(removed as f64 / CHUNK as f64);
    let begun = Instant::now();
    while store.is_behind() && begun.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(2).min(patience));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_hours_with_enough_readings_go() {
        // Sparse at first, then a flood.
        let per_hour = BTreeMap::from([(0, 6), (HOUR_MS, 6), (100 * HOUR_MS, 6_000)]);
        assert_eq!(cut(&per_hour, 5.0), HOUR_MS);
        assert_eq!(cut(&per_hour, 12.0), 2 * HOUR_MS);
        assert_eq!(cut(&per_hour, 12.5), 101 * HOUR_MS);
        assert_eq!(cut(&per_hour, 1e9), 101 * HOUR_MS, "all there is");
        assert_eq!(cut(&BTreeMap::new(), 5.0), i64::MIN);
    }

    #[test]
    fn what_does_not_fit_goes() {
        let goes =
            |kept, unmerged, size| format!("{:.2}", share_to_go((kept, unmerged), size, 1000));
        assert_eq!(goes(100, 0, 1000), "0.00");
        assert_eq!(goes(100, 0, 1010), "0.05", "a few percent at a time");
        assert_eq!(goes(100, 0, 2000), "0.50");
        // The disk is not smaller yet.
        assert_eq!(goes(50, 50, 2000), "0.00");
        assert_eq!(goes(60, 50, 2200), "0.17", "what has come since");
        assert_eq!(goes(0, 0, 2000), "0.00");
    }
}
