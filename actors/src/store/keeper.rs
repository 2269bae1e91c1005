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
/// For so long a removal waits for tables to be written, so that it goes on with 100,000 readings in a
/// second at least.
const MOST_PATIENT: Duration = Duration::from_millis(20);
/// A merge has to come along before the disk is smaller. So for this long the bytes of a reading are the
/// least that they have been, rather than what those that are gone already make of them.
const MERGED_MS: i64 = 3 * HOUR_MS;
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
    /// The least bytes of a reading on the disk, all that belongs to it included, and when that was.
    density: Option<(i64, f64)>,
    /// When nothing could go.
    stuck: Option<i64>,
    /// How many readings were stored when that was written down last.
    marked: Option<u64>,
}

impl Keeper {
    /// Keeps `store` as `config` says.
    pub fn new(store: Embedded, config: Config) -> Self {
        Self {
            store,
            config,
            density: None,
            stuck: None,
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
    pub fn is_too_large(&mut self, now_ms: i64) -> Result<bool, Error> {
        Ok(self.surplus(now_ms)? > 0.0)
    }

    /// How many readings have to go.
    fn surplus(&mut self, now_ms: i64) -> Result<f64, Error> {
        let (size, max) = self.size();
        let within = |at: i64, ms: i64| (now_ms - at).abs() < ms;
        if size <= max || self.stuck.is_some_and(|at| within(at, AGAIN_MS)) {
            return Ok(0.0);
        }
        let stored = self.store.ledger()?.stored;
        let kept = stored.saturating_sub(self.store.removed()?) as f64;
        let now = size as f64 / kept.max(1.0);
        let least = match self.density.filter(|(at, _)| within(*at, MERGED_MS)) {
            Some((_, least)) if least < now => least,
            _ => {
                self.density = Some((now_ms, now));
                now
            }
        };
        Ok(surplus(kept, least, max))
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

    fn each_sensor(
        &self,
        stop: &dyn Fn() -> bool,
        mut job: impl FnMut(&Embedded, &SensorId) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.sensors(after.as_deref(), SENSORS)?;
            for sensor in &page.items {
                if stop() {
                    return Ok(());
                }
                job(&self.store, sensor)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// If the store is too large, the oldest of its readings go, whichever sensor's they are.
    fn make_room(&mut self, now_ms: i64, stop: &dyn Fn() -> bool) -> Result<u64, Error> {
        let surplus = self.surplus(now_ms)?;
        if surplus <= 0.0 {
            return Ok(0);
        }
        // Readings are rolled up before they go, so the hours know how many there are from when.
        let mut per_hour = BTreeMap::new();
        self.each_sensor(stop, |store, sensor| {
            store.count_per_hour(sensor, &mut per_hour)
        })?;
        let before_ms = cut(&per_hour, surplus);
        let mut removed = 0;
        self.each_sensor(stop, |store, sensor| {
            removed += remove(store, sensor, before_ms, stop)?;
            Ok(())
        })?;
        self.stuck = (removed == 0).then_some(now_ms);
        tracing::warn!(
            removed,
            max_mib = self.config.max_mib,
            "the store is larger than store.max_mib: the oldest readings go, their hours stay"
        );
        Ok(removed)
    }
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

/// How many readings of `kept` have to go from a store of `max` bytes, if each takes so many bytes.
fn surplus(kept: f64, bytes: f64, max: u64) -> f64 {
    let fit = max as f64 / bytes;
    if kept <= fit {
        return 0.0;
    }
    (kept - fit).max(kept * SHARE)
}

/// Removes what is older than `before_ms`, rolled up, and no part of what a restart reads.
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
    let Some(rolled_up) = store.newest_hour(sensor)? else {
        return Ok(0);
    };
    let Some(state) = store.snapshot(sensor)? else {
        return Ok(0);
    };
    // Whole hours. A restart begins with the newest reading of the snapshot.
    let needed_ms = if state.entered == 0 {
        i64::MIN
    } else {
        state.newest_ms
    };
    let before_ms = hour_of(before_ms.min(needed_ms)).min(rolled_up);
    let mut removed = 0;
    while !stop() {
        give_way(store);
        match store.remove_readings(sensor, before_ms, CHUNK)? {
            0 => break,
            some => {
                failpoint::pass("keeper.removed");
                removed += some as u64;
            }
        }
    }
    Ok(removed)
}

/// Readings that come are more urgent than those that go; but for ever they cannot wait either.
fn give_way(store: &Embedded) {
    let begun = Instant::now();
    while store.is_behind() && begun.elapsed() < MOST_PATIENT {
        std::thread::sleep(Duration::from_millis(2));
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
        let goes = |kept| format!("{:.2}", surplus(kept, 10.0, 1000));
        assert_eq!(goes(100.0), "0.00");
        assert_eq!(goes(101.0), "5.05", "a few percent at a time");
        assert_eq!(goes(200.0), "100.00");
    }
}
