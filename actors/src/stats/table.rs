//! Means by day and time of day, at a byte each: whole steps from the first mean of the day. The step
//! of a day doubles until its farthest mean fits, so a mean is right within a 60th of how far those of
//! its day have reached, and mostly within a 200th.

use serde::{Deserialize, Serialize};

/// Bins of a day.
pub const BINS_PER_DAY: i64 = 144;
/// Days that are kept.
pub const DAYS: usize = 7;
/// [`BINS_PER_DAY`], as a length.
const WIDTH: usize = 144;
/// In place of a mean that there is not.
const EMPTY: i8 = i8::MIN;

/// Up to [`DAYS`] × [`BINS_PER_DAY`] means, oldest day first. Grows day by day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    cells: Vec<i8>,
    /// Of each row of `cells`.
    scales: [Scale; DAYS],
    /// Day of the newest row.
    day: i64,
}

/// What the cells of one day mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Scale {
    /// The first mean.
    origin: f32,
    /// How much a whole step is; 0 before the first mean.
    step: f32,
}

impl Table {
    /// The newest day in it.
    pub fn day(&self) -> i64 {
        self.day
    }

    /// Keeps the mean of a bin that is not older than the newest day.
    pub fn put(&mut self, bin: i64, mean: f32) {
        // Infinitely far is as far as can be told.
        let mean = mean.clamp(f32::MIN, f32::MAX);
        let day = bin.div_euclid(BINS_PER_DAY);
        // Days without any reading are empty rows.
        let is_over = usize::try_from(day - self.day).is_ok_and(|days| days >= DAYS);
        if self.cells.is_empty() || is_over {
            self.cells = vec![EMPTY; WIDTH];
            self.scales = <[Scale; DAYS]>::default();
            self.day = day;
        }
        while self.day < day {
            self.day += 1;
            if self.cells.len() == DAYS * WIDTH {
                self.cells.drain(..WIDTH);
                self.scales.rotate_left(1);
                self.scales[DAYS - 1] = Scale::default();
            }
            self.cells.reserve_exact(WIDTH);
            self.cells.extend([EMPTY; WIDTH]);
        }
        let start = self.cells.len() - WIDTH;
        let scale = &mut self.scales[start / WIDTH];
        let slot = usize::try_from(bin.rem_euclid(BINS_PER_DAY)).unwrap_or(0);
        let row = &mut self.cells[start..];
        row[slot] = scale.steps(mean, row);
    }

    /// The mean of a bin.
    pub fn at(&self, bin: i64) -> Option<f32> {
        let rows = i64::try_from(self.cells.len()).unwrap_or(0) / BINS_PER_DAY;
        let row = rows - 1 - (self.day - bin.div_euclid(BINS_PER_DAY));
        if row < 0 || row >= rows {
            return None;
        }
        let at = usize::try_from(row * BINS_PER_DAY + bin.rem_euclid(BINS_PER_DAY)).ok()?;
        let cell = self.cells.get(at).filter(|cell| **cell != EMPTY)?;
        let scale = self.scales.get(at / WIDTH)?;
        Some(scale.origin + f32::from(*cell) * scale.step).filter(|mean| mean.is_finite())
    }
}

impl Scale {
    /// `mean` in steps, which become as large as it takes, for the rest of its `day` too.
    fn steps(&mut self, mean: f32, day: &mut [i8]) -> i8 {
        if self.step <= 0.0 {
            self.origin = mean;
            self.step = f32::EPSILON * mean.abs().max(f32::MIN_POSITIVE / f32::EPSILON);
        }
        let distance = (mean - self.origin).clamp(f32::MIN, f32::MAX);
        while distance.abs() > self.step * f32::from(i8::MAX) {
            self.step *= 2.0;
            for cell in day.iter_mut().filter(|cell| **cell != EMPTY) {
                // Halves go to the even one: all of them away from zero would be further by each.
                let half = *cell >> 1;
                *cell = half + (half & *cell & 1);
            }
        }
        #[allow(clippy::cast_possible_truncation, reason = "within 127 steps")]
        let steps = (distance / self.step).round() as i8;
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means of `days` days: what is read is within a 60th of the reach of its day, and within a 200th
    /// on average.
    fn is_right(days: i64, mean: impl Fn(i64) -> f32) {
        let mut table = Table::default();
        let bins = 0..days * BINS_PER_DAY;
        for bin in bins.clone() {
            table.put(bin, mean(bin));
        }
        let reach = |bin: i64| {
            let first = bin - bin.rem_euclid(BINS_PER_DAY);
            let day = first..first + BINS_PER_DAY;
            day.map(|bin| (mean(bin) - mean(first)).abs())
                .fold(0.0, f32::max)
        };
        let kept = BINS_PER_DAY * i64::try_from(DAYS).unwrap();
        let (mut sum, mut count) = (0.0, 0.0_f32);
        for bin in bins {
            let read = table.at(bin);
            if bin < days * BINS_PER_DAY - kept {
                assert_eq!(read, None, "bin {bin} of {days} days");
                continue;
            }
            let off = (read.unwrap() - mean(bin)).abs();
            let least = mean(bin).abs() * 4.0 * f32::EPSILON;
            assert!(off <= (reach(bin) / 60.0).max(least), "bin {bin}: {off}");
            if reach(bin) > 1_000.0 * least {
                sum += off / reach(bin);
                count += 1.0;
            }
        }
        assert!(sum <= count / 200.0, "{sum} of {count}");
        assert_eq!(table.at(days * BINS_PER_DAY), None);
    }

    #[test]
    fn means_of_any_size_are_right() {
        let wave = |bin: i64| (bin as f32 / 144.0 * std::f32::consts::TAU).sin();
        is_right(2, |_| 0.0);
        is_right(2, |_| -7.5);
        is_right(9, |bin| 20.0 + 5.0 * wave(bin));
        is_right(7, |bin| 101_325.0 + 900.0 * wave(bin));
        is_right(3, |bin| 1e-6 * wave(bin));
        // Steps that double late: what is kept already is halved again and again.
        is_right(7, |bin| wave(bin) * (1.0 + bin as f32).powi(3));
        is_right(2, |bin| 1e35 * wave(bin));
    }

    #[test]
    fn nothing_makes_it_tell_what_is_no_number() {
        let means = [f32::INFINITY, f32::NEG_INFINITY, f32::MIN, f32::MAX, 20.0];
        for first in means {
            let mut table = Table::default();
            for (bin, mean) in (0..).zip([first].into_iter().chain(means)) {
                table.put(bin, mean);
                let read = table.at(bin);
                assert!(read.is_none_or(f32::is_finite), "{mean}: {table:?}");
            }
        }
    }
}
