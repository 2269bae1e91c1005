//! When the disk will be full: lines through what was measured in the last day. Pure.

use std::collections::VecDeque;

/// Older measurements say nothing about the present.
const SPAN_MS: i64 = 24 * 3_600_000;
/// Files grow and are merged again: over less time than this they say nothing about growth.
const LEAST_MS: i64 = 3 * 3_600_000;
/// Measurements at most: one in ten minutes makes half as many in a day.
const MOST: usize = 288;

/// The disk at some time, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// When, ms since 1970.
    pub at_ms: i64,
    /// Size of the store.
    pub store: u64,
    /// What may still be written, by whoever writes to this disk.
    pub room: u64,
}

/// The measurements of the last day.
#[derive(Debug, Default)]
pub struct Outlook {
    past: VecDeque<Measured>,
}

impl Outlook {
    /// Takes in what was measured now; the store is kept below `max` bytes. When the disk will be full,
    /// seconds since 1970; `None`: never at the present rate, or it is too early to tell.
    pub fn look(&mut self, now: Measured, max: u64) -> Option<f64> {
        // A clock that was set back begins anew.
        self.past
            .retain(|past| past.at_ms < now.at_ms && past.at_ms > now.at_ms - SPAN_MS);
        if self.past.len() == MOST {
            self.past.pop_front();
        }
        self.past.push_back(now);
        if now.at_ms - self.past.front()?.at_ms < LEAST_MS {
            return None;
        }
        let store = self.slope(|past| past.store);
        let others = -self.slope(|past| past.room) - store;
        let left = full_after(now, max, store, others)?;
        Some((now.at_ms as f64 + left) / 1000.0)
    }

    /// Bytes per millisecond, by least squares.
    fn slope(&self, of: impl Fn(&Measured) -> u64) -> f64 {
        let count = self.past.len() as f64;
        let begin_ms = self.past.front().map_or(0, |first| first.at_ms);
        let points = self.past.iter();
        let points = points.map(|past| ((past.at_ms - begin_ms) as f64, of(past) as f64));
        let points: Vec<(f64, f64)> = points.collect();
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        let (mut xy, mut xx) = (0.0, 0.0);
        for (x, y) in points {
            xy += (x - mean_x) * (y - mean_y);
            xx += (x - mean_x) * (x - mean_x);
        }
        if xx > 0.0 { xy / xx } else { 0.0 }
    }
}

/// After how many milliseconds nothing is left, with growth in bytes per millisecond: the store's ends
/// at `max`, that of others does not.
fn full_after(now: Measured, max: u64, store: f64, others: f64) -> Option<f64> {
    let (store, room) = (store.max(0.0), now.room as f64);
    let both = store + others;
    let until_max = if store > 0.0 {
        max.saturating_sub(now.store) as f64 / store
    } else {
        0.0
    };
    if both > 0.0 && room / both <= until_max {
        return Some(room / both);
    }
    let then = room - both * until_max;
    (others > 0.0).then(|| until_max + then / others)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const DAY_S: f64 = 86_400.0;
    const NEVER: u64 = u64::MAX;

    /// After a day of looks every hour; `store` and `room` by the hour.
    fn after_a_day(max: u64, store: impl Fn(u64) -> u64, room: impl Fn(u64) -> u64) -> Option<f64> {
        let mut outlook = Outlook::default();
        let mut full = None;
        for hour in 0_u64..=24 {
            let now = Measured {
                at_ms: hour.cast_signed() * HOUR_MS,
                store: store(hour),
                room: room(hour),
            };
            full = outlook.look(now, max);
            assert!(hour >= 3 || full.is_none(), "too early to tell");
        }
        full.map(|at_s| at_s / DAY_S - 1.0)
    }

    fn is_near(days: Option<f64>, wanted: f64) {
        let near = days.is_some_and(|days| (days - wanted).abs() < 0.05 * wanted);
        assert!(near, "{days:?}, not {wanted}");
    }

    #[test]
    fn what_grows_steadily_is_full_when_the_room_is_used_up() {
        // The store takes 10 an hour of a room of 2,640.
        is_near(after_a_day(NEVER, |h| 10 * h, |h| 2_640 - 10 * h), 10.0);
    }

    #[test]
    fn a_store_that_is_kept_below_its_size_fills_no_disk() {
        assert_eq!(after_a_day(1_000, |h| 10 * h, |h| 2_640 - 10 * h), None);
        // Others fill it all the same: three quarters of a day until the store is large enough, at
        // 15 an hour together; then 5 an hour for the rest.
        let full = after_a_day(420, |h| 10 * h, |h| 2_640 - 15 * h);
        is_near(full, 0.75 + (2_280.0 - 18.0 * 15.0) / 5.0 / 24.0);
    }

    #[test]
    fn what_goes_up_and_down_or_shrinks_is_never_full() {
        let saw = |h: u64| 1_000 + 100 * (h % 2);
        assert_eq!(after_a_day(NEVER, |_| 500, |h| 5_000 + h), None);
        let full = after_a_day(NEVER, saw, |h| 100_000 - saw(h));
        assert!(full.is_none_or(|days| days > 300.0), "{full:?}");
    }
}
