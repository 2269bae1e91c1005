//! What is usual at this time of day, and over the last week: means of ten minutes, by time of day
//! for seven days. Slow rules live on them, whatever the pace of the sensor.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::sketch::Sketch;
use super::table::{BINS_PER_DAY, DAYS, Table};
use super::window::{self, Moments, Rounded, Window};

/// Length of a bin.
pub const BIN_MS: i64 = 600_000;
/// Bins on each side whose means tell what is usual at a time of day.
const AROUND: i64 = 3;
/// Residuals whose median is the offset of the day: twelve hours.
const OFFSET_BINS: usize = 72;
/// The newest residuals say nothing about the offset yet: an hour.
const LAG: usize = 6;
/// Bins of the short mean that is compared with the week: two hours.
const SHORT_BINS: i64 = 12;
/// Novelty is looked for every half hour …
const HALF_HOUR: i64 = 3;
/// … up to so many bins before and after this time of day: an hour.
const NEARBY: i64 = 6;

/// How the present stands to the time of day and to the week.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slow {
    /// Distance from what is usual at this time of day.
    pub season: Option<Distance>,
    /// Distance of the last two hours from the last week.
    pub level: Option<Distance>,
    /// Distance of the two hours before from the nearest of the last week.
    pub novelty: Option<Distance>,
}

/// A jump that is the beginning or the end of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jump {
    /// The value that is unlike this time of day, in the quantity's unit: before the jump or after it.
    pub observed: f32,
    /// What is usual at this time of day.
    pub expected: f32,
    /// For so long the values were away before they jumped back; 0: they have jumped away.
    pub away_ms: u32,
}

/// How far something is from what is usual.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Distance {
    /// What was to be expected, in the quantity's unit.
    pub expected: f32,
    /// Signed distance, in the quantity's unit.
    pub distance: f32,
    /// Usual size of such a distance.
    pub scale: f32,
    /// Distance that is at the line.
    pub line: f32,
}

impl Distance {
    /// These travel from stage to stage by the thousand: half the size.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "seven digits are enough for a judgement"
    )]
    pub fn new(expected: f64, distance: f64, scale: f64, line: f64) -> Self {
        Self {
            expected: expected as f32,
            distance: distance as f32,
            scale: scale as f32,
            line: line as f32,
        }
    }

    /// With a line so many times as far away.
    #[must_use]
    pub fn with_margin(self, margin: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "as in Distance::new")]
        let line = self.line * margin as f32;
        Self { line, ..self }
    }

    /// Observed over line.
    pub fn ratio(&self) -> f64 {
        f64::from(self.distance.abs()) / f64::from(self.line)
    }
}

/// The slow memory of one quantity of one sensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Season {
    /// Number of the open bin: time ÷ its length.
    bin: i64,
    count: u32,
    sum: f64,
    /// Means of closed bins.
    table: Table,
    /// What is usual at the open bin's time of day.
    expected: Option<f64>,
    /// Sum and number of the means of the two hours before the open bin.
    short: (f64, f64),
    /// Residuals (mean minus expected) of the last bins, oldest first.
    residuals: Vec<f32>,
    /// Their median.
    offset: f64,
    /// Residual of the bin just before, offset taken off.
    before: Option<f32>,
    /// Sizes of residuals, offset taken off.
    sizes: Sketch,
    /// Sizes of z.
    zs: Sketch,
    scale: f64,
    usual_z: f64,
    /// Bins of the last week.
    week: Window<Moments, Rounded>,
    novelty: Novelty,
    /// Since when the slow rules have been over their lines.
    away_since: Option<i64>,
}

/// Two hours beside those of the last days around the same time of day. Where others ask how far the
/// usual is, this asks for the nearest of them: days differ, and what was there on one of them is no
/// news. So it sees what stays within the range of the week at the wrong time, and what is slow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Novelty {
    /// The last half hour that was looked at.
    last: Option<i64>,
    /// The size of the distance found last, in the quantity's unit.
    size: f32,
    /// The largest one before it, fading.
    largest: f32,
    /// From the nearest; `None` while little is known.
    distance: Option<Distance>,
}

/// The mean of two hours, and the nearest to it of the days before.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    mean: f32,
    nearest: f32,
    /// How many days have means around this time.
    days: u8,
}

impl Novelty {
    /// The line is so many times the largest distance so far.
    const LINE: f64 = 1.25;
    /// After so many half hours that one has faded to 1/e: 60 days.
    const FADED: f32 = 60.0 * 48.0;
    /// With fewer days to compare with, nothing is said.
    const DAYS: u8 = 5;

    /// Looks at a half hour; `spread` (of the week, 0: not known) and `floor` in the quantity's unit.
    fn look(&mut self, half_hour: i64, found: Option<Found>, spread: f64, floor: f64) {
        if let Some(last) = self.last {
            let passed = (half_hour - last) as f32;
            self.largest = (self.largest * (-passed / Self::FADED).exp()).max(self.size);
        }
        self.last = Some(half_hour);
        (self.size, self.distance) = (0.0, None);
        let Some(found) = found.filter(|_| spread > 0.0) else {
            return;
        };
        let nearest = f64::from(found.nearest);
        let distance = f64::from(found.mean) - nearest;
        #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let size = distance.abs() as f32;
        self.size = size;
        if found.days >= Self::DAYS {
            // What is further away is found by the level: something that once was must not hide more.
            let usual = f64::from(self.largest).min(LEVEL_LINE * spread).max(floor);
            let line = Self::LINE * usual;
            // Of a quantity without a floor that has stood still, nothing can be said.
            self.distance = (line > 0.0).then(|| Distance::new(nearest, distance, usual, line));
        }
    }
}

/// What a sensor's quantity is expected to be by the time of day.
#[derive(Debug, Clone, PartialEq)]
pub struct SeasonOutlook {
    /// Beginning of each bin, and what is usual in it.
    pub expected: Vec<(i64, f64)>,
    /// Usual size of a distance from that.
    pub scale: f64,
    /// Distance at which the rule fires, before the margin.
    pub line: f64,
}

/// So many sizes of residuals are needed before the rule speaks: half a day of them.
const ENOUGH_SIZES: f64 = 72.0;

/// So many of the oldest residuals tell of half a day ago.
const OLDEST: usize = 24;
/// Over twice so many bins a drift shows: six hours.
const HALF: usize = 18;
/// Who was away was that for an hour, by this share of the distance from which he returns.
const AWAY_BINS: usize = 6;
const ASIDE: f64 = 0.2;

/// Line of the level, in standard deviations.
const LEVEL_LINE: f64 = 4.7;
/// A level shift that lasts this long is the new normal for the statistics.
const ACCEPT_MS: i64 = 12 * 3_600_000;

impl Season {
    /// Takes in a value of `time_ms`; `floor`: the smallest distance that means anything.
    pub fn observe(&mut self, value: f64, time_ms: i64, floor: f64) {
        let bin = time_ms.div_euclid(BIN_MS);
        if self.count > 0 && bin > self.bin {
            self.close(floor);
        }
        if self.count == 0 {
            self.open(bin, floor);
        }
        self.count += 1;
        self.sum += value;
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        let sums = self.sum.to_bits() ^ self.offset.to_bits() ^ self.usual_z.to_bits();
        let novelty = u64::from(self.novelty.size.to_bits());
        sums ^ u64::from(self.count) ^ self.sizes.touch() ^ self.week.touch() ^ novelty
    }

    /// What the time of day lets expect.
    pub fn expected(&self) -> Option<f32> {
        #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        self.expected
            .map(|expected| (expected + self.offset) as f32)
    }

    /// Usual size of a distance from that.
    pub fn scale(&self, floor: f64) -> f64 {
        self.scale.max(floor)
    }

    /// Spread of the last week's means; 0 without a day of them.
    pub fn spread(&self) -> f64 {
        let week = self.week.gathered();
        if i64::from(week.count) < BINS_PER_DAY {
            return 0.0;
        }
        week.sd()
    }

    /// How the open bin stands; nothing is learned.
    // Inline: who has it written to memory and reads it at once waits for it.
    #[inline]
    pub fn look(&self, floor: f64) -> Slow {
        if self.count == 0 {
            return Slow::default();
        }
        let mean = self.sum / f64::from(self.count);
        Slow {
            season: self.season(mean, floor),
            level: self.level(mean, floor),
            novelty: self.novelty.distance,
        }
    }

    /// What is usual in each bin from `from_ms` to `to_ms`, as far as it is known now: the offset is
    /// that of the present. `None` while the rule does not speak.
    pub fn outlook(&self, (from_ms, to_ms): (i64, i64), floor: f64) -> Option<SeasonOutlook> {
        if self.count == 0 || self.sizes.weight() < ENOUGH_SIZES {
            return None;
        }
        // The table reaches back a week, and ahead as long as it has the days before.
        let first = from_ms.div_euclid(BIN_MS).max(self.bin - BINS_PER_DAY * 7);
        let last = to_ms.div_euclid(BIN_MS).min(self.bin + BINS_PER_DAY);
        let expected = (first..=last)
            .filter_map(|bin| Some((bin * BIN_MS, self.usual(bin)? + self.offset)))
            .collect();
        let (scale, line) = self.season_line(floor);
        Some(SeasonOutlook {
            expected,
            scale,
            line,
        })
    }

    /// Usual size of a distance from the time of day, and the distance at the line.
    fn season_line(&self, floor: f64) -> (f64, f64) {
        let scale = self.scale(floor);
        let line = (1.6 * self.usual_z).max(5.0);
        (scale, line * scale)
    }

    /// What a jump to `value` is part of, if it is not only a jump. `before`: the last values, the
    /// newest first; `shared`: the other quantities jump as well; `pace_ms`: between readings.
    pub fn jump(
        &self,
        before: [f64; 2],
        (value, shared): (f64, bool),
        pace_ms: i64,
        floor: f64,
    ) -> Option<Jump> {
        let oldest = self.residuals.get(..OLDEST)?;
        if self.sizes.weight() < ENOUGH_SIZES || self.residuals.len() < OFFSET_BINS {
            return None;
        }
        // What drifts away takes the day's offset along: that of half a day ago is still right.
        let offset = median(oldest);
        let expected = self.expected? + offset;
        let scale = self.scale(floor);
        let left = value - expected;
        #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let jump = |observed: f64, away_ms| Jump {
            observed: observed as f32,
            expected: expected as f32,
            away_ms,
        };
        // The bend of a course tells of the jump one reading later.
        for (later, before) in before.into_iter().enumerate() {
            let away = before - expected;
            let (far, rest) = (away.abs() / scale, left / away);
            let share = |residual: &f32| (f64::from(*residual) - offset) / away;
            let newest = self.residuals.iter().rev().skip(later);
            let bins = newest.take_while(|one| share(one) >= ASIDE).count();
            let mean = |bins: &[f32]| bins.iter().map(share).sum::<f64>() / bins.len() as f64;
            let course = &self.residuals[self.residuals.len() - 2 * HALF..];
            let drifts = (mean(&course[HALF..]) - mean(&course[..HALF])) * far >= 0.5;
            let least = if drifts || shared { 1.5 } else { 3.5 };
            // Who stops drifting may land beyond: the day has gone on meanwhile.
            let beyond = if drifts { -2.0 } else { -0.7 };
            if bins >= AWAY_BINS && far >= least && (beyond..=0.7).contains(&rest) {
                let away_ms = bins as u64 * BIN_MS.max(pace_ms).unsigned_abs();
                return Some(jump(before, u32::try_from(away_ms).unwrap_or(u32::MAX)));
            }
        }
        let leads_away = left.abs() > (before[0] - expected).abs().max(scale);
        (shared && leads_away).then(|| jump(value, 0))
    }

    fn season(&self, mean: f64, floor: f64) -> Option<Distance> {
        let expected = self.expected? + self.offset;
        if self.sizes.weight() < ENOUGH_SIZES {
            return None;
        }
        let now = mean - expected;
        // Two bins: a single one may be anything.
        let distance = match self.before {
            Some(before) => f64::midpoint(now, f64::from(before)),
            None => now,
        };
        let (scale, line) = self.season_line(floor);
        Some(Distance::new(expected, distance, scale, line))
    }

    fn level(&self, mean: f64, floor: f64) -> Option<Distance> {
        let week = self.week.gathered();
        if i64::from(week.count) < BINS_PER_DAY {
            return None;
        }
        let (sum, count) = (mean + self.short.0, 1.0 + self.short.1);
        if count < 3.0 {
            return None;
        }
        let scale = week.sd().max(floor);
        let distance = sum / count - week.mean;
        Some(Distance::new(
            week.mean,
            distance,
            scale,
            LEVEL_LINE * scale,
        ))
    }

    /// Begins a bin.
    // Cold as the end of one: once in ten minutes.
    #[cold]
    fn open(&mut self, bin: i64, floor: f64) {
        let half_hour = bin.div_euclid(HALF_HOUR);
        if self.novelty.last.is_none_or(|last| half_hour > last) {
            let found = self.nearest(half_hour * HALF_HOUR);
            self.novelty.look(half_hour, found, self.spread(), floor);
        }
        if bin != self.bin + 1 {
            self.before = None;
        }
        self.bin = bin;
        self.expected = self.usual(bin);
        let before = (bin - SHORT_BINS + 1..bin).filter_map(|bin| self.table.at(bin));
        self.short = before.fold((0.0, 0.0), |(sum, count), mean| {
            (sum + f64::from(mean), count + 1.0)
        });
    }

    /// Learns the open bin.
    #[cold]
    fn close(&mut self, floor: f64) {
        let mean = self.sum / f64::from(self.count);
        let slow = self.look(floor);
        let (bin, day) = (self.bin, self.bin.div_euclid(BINS_PER_DAY));
        let over = |distance: Option<Distance>| distance.is_some_and(|d| d.ratio() >= 1.0);
        let away = over(slow.season) || over(slow.level);
        let since = away.then(|| self.away_since.unwrap_or(bin));
        self.away_since = since;
        // What is over a line waits outside, until it has lasted.
        let learn = since.is_none_or(|since| (bin - since) * BIN_MS >= ACCEPT_MS);

        if let Some(expected) = self.expected {
            let residual = mean - expected;
            let own = residual - self.offset;
            self.sizes.advance(day);
            self.zs.advance(day);
            // What comes back day by day is usual: the beginning of it counts, though for less.
            let begins = since.is_some_and(|since| bin - since < 6);
            let weight = if learn {
                1.0
            } else if begins {
                0.5
            } else {
                0.0
            };
            if weight > 0.0 {
                self.sizes.push(own.abs(), weight);
                if let Some(season) = slow.season {
                    let z = (season.distance / season.scale).abs();
                    self.zs.push(f64::from(z), weight);
                }
                self.scale = self.sizes.quantile(0.68).into();
                self.usual_z = if self.zs.weight() < BINS_PER_DAY as f64 {
                    4.0
                } else {
                    self.zs.quantile(0.995).into()
                };
            }
            #[allow(clippy::cast_possible_truncation, reason = "means are kept as f32")]
            {
                self.before = Some(own as f32);
                if self.residuals.len() == OFFSET_BINS + LAG {
                    self.residuals.remove(0);
                }
                let room = OFFSET_BINS + LAG - self.residuals.len();
                self.residuals.reserve_exact(room);
                self.residuals.push(residual as f32);
            }
            let settled = self.residuals.len().saturating_sub(LAG);
            if settled >= 12 {
                self.offset = median(&self.residuals[..settled]);
            }
        } else {
            self.before = None;
        }
        self.week.advance(bin, BINS_PER_DAY * 7 / window::PANES);
        if learn {
            self.week.push(mean);
        }
        #[allow(clippy::cast_possible_truncation, reason = "means are kept as f32")]
        self.table.put(bin, mean as f32);
        self.count = 0;
        self.sum = 0.0;
    }

    /// The mean of the two hours before `bin`, and the nearest to it on the days before, from an hour
    /// earlier to an hour later. Of one bin alone no mean is made.
    fn nearest(&self, bin: i64) -> Option<Found> {
        let mean = |(sum, count): (f32, u8)| (count >= 2).then(|| sum / f32::from(count));
        let add = |(sum, count): (f32, u8), mean: Option<f32>| match mean {
            Some(mean) => (sum + mean, count + 1),
            None => (sum, count),
        };
        let bins = |end: i64| (end - SHORT_BINS..end).map(|bin| self.table.at(bin));
        let now = mean(bins(bin).fold((0.0, 0), add))?;
        let nearer = |a: &f32, b: &f32| (now - a).abs().total_cmp(&(now - b).abs());
        let mut nearest: Option<f32> = None;
        let mut days = 0;
        for back in 1..=7 {
            let centre = bin - back * BINS_PER_DAY;
            let first = centre - NEARBY - SHORT_BINS;
            let read: SmallVec<[Option<f32>; 24]> = (first..centre + NEARBY)
                .map(|bin| self.table.at(bin))
                .collect();
            let two_hours = read.windows(12).map(|bins| bins.iter().copied());
            let day = two_hours
                .filter_map(|bins| mean(bins.fold((0.0, 0), add)))
                .min_by(nearer);
            days += u8::from(day.is_some());
            nearest = nearest.into_iter().chain(day).min_by(nearer);
        }
        Some(Found {
            mean: now,
            nearest: nearest?,
            days,
        })
    }

    /// Median over the days before of the mean around this time of day.
    fn usual(&self, bin: i64) -> Option<f64> {
        let width = BINS_PER_DAY;
        let today = bin.div_euclid(width);
        let mut days: SmallVec<[f32; DAYS]> = SmallVec::new();
        for back in 1..=7 {
            let centre = bin - back * width;
            let (mut sum, mut count) = (0.0_f32, 0.0_f32);
            for near in centre - AROUND..=centre + AROUND {
                if let Some(mean) = self.table.at(near) {
                    sum += mean;
                    count += 1.0;
                }
            }
            if count > 0.0 && today - back >= self.table.day() - 7 {
                days.push(sum / count);
            }
        }
        if days.is_empty() {
            return None;
        }
        Some(median(&days))
    }
}

fn median(numbers: &[f32]) -> f64 {
    let mut sorted: SmallVec<[f32; 80]> = SmallVec::from_slice(numbers);
    let middle = sorted.len() / 2;
    let (below, at, _) = sorted.select_nth_unstable_by(middle, f32::total_cmp);
    let upper = *at;
    if numbers.len() % 2 == 1 {
        return f64::from(upper);
    }
    let lower = below.iter().copied().fold(f32::MIN, f32::max);
    f64::from(f32::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: f64 = 0.3;

    /// A day's wave of 2.4 °C around 20, and a little noise that needs no generator.
    fn wave(bin: i64) -> f64 {
        let turn = usize::try_from(bin.rem_euclid(7)).unwrap();
        let noise = [0.0, 0.05, -0.04, 0.02, -0.06, 0.03, 0.01][turn];
        let turn = bin as f64 / BINS_PER_DAY as f64 * std::f64::consts::TAU;
        20.0 + 2.4 * turn.sin() + noise
    }

    fn observe(season: &mut Season, value: f64, time_ms: i64) -> Slow {
        season.observe(value, time_ms, FLOOR);
        season.look(FLOOR)
    }

    /// A season after `days` days of readings every ten minutes.
    fn grown(days: i64) -> Season {
        let mut season = Season::default();
        for bin in 0..days * BINS_PER_DAY {
            observe(&mut season, wave(bin), bin * BIN_MS);
        }
        season
    }

    /// Beside the same thing done the long way, on a course with holes.
    #[test]
    fn the_nearest_of_the_days_before_is_found() {
        // The table's steps are up to 0.06.
        const OFF: f64 = 0.03;
        let mut season = Season::default();
        let mut means: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
        let mean_before = |means: &std::collections::BTreeMap<i64, f64>, end: i64| {
            let read: Vec<f64> = means.range(end - 12..end).map(|(_, mean)| *mean).collect();
            (read.len() >= 2).then(|| read.iter().sum::<f64>() / read.len() as f64)
        };
        let mut compared = 0;
        for bin in 0..9 * BINS_PER_DAY {
            let is_hole = bin % 5 == 3 || (400..430).contains(&bin) || bin % BINS_PER_DAY > 120;
            if !is_hole {
                let value = wave(bin) + (bin as f64 / 190.0).cos() * 1.5;
                observe(&mut season, value, bin * BIN_MS);
                // That of the present bin is not known yet.
                if let Some(now) = mean_before(&means, bin)
                    && let Some(found) = season.nearest(bin)
                {
                    let around = (1..=6)
                        .flat_map(|back| (-6..=6).map(move |off| bin - back * BINS_PER_DAY + off));
                    let others = around.filter_map(|end| mean_before(&means, end));
                    let least = others
                        .map(|then| (now - then).abs())
                        .fold(f64::MAX, f64::min);
                    assert!((f64::from(found.mean) - now).abs() < OFF, "bin {bin}");
                    let distance = f64::from((found.mean - found.nearest).abs());
                    // The table may still have the seventh day back.
                    assert!(distance < least + OFF, "bin {bin}: {distance}, not {least}");
                    compared += usize::from((distance - least).abs() < OFF);
                }
                means.insert(bin, value);
            }
        }
        assert!(compared > 500, "{compared}");
    }

    #[test]
    fn a_level_that_no_day_had_around_this_time_is_new_once() {
        let ratio = |slow: Slow| slow.novelty.map(|novelty| novelty.ratio());
        let mut young = Season::default();
        // Around midnight the day before counts as well.
        for bin in 0..5 * BINS_PER_DAY - NEARBY {
            let slow = observe(&mut young, wave(bin), bin * BIN_MS);
            assert_eq!(ratio(slow), None, "bin {bin}");
        }
        let mut season = grown(8);
        let (first, quarter) = (8 * BINS_PER_DAY, BINS_PER_DAY / 4);
        // From the warmest time of the day on it stays warm for six hours.
        let warm = |bin: i64| {
            if bin >= quarter && bin < 2 * quarter {
                22.4
            } else {
                wave(bin)
            }
        };
        for day in 0..2 {
            let mut most = 0.0_f64;
            for bin in 0..BINS_PER_DAY {
                let now = first + day * BINS_PER_DAY + bin;
                let slow = observe(&mut season, warm(bin), now * BIN_MS);
                let novelty = slow.novelty.unwrap();
                assert!(
                    bin > quarter || novelty.ratio() < 0.8,
                    "bin {bin}: {novelty:?}"
                );
                most = most.max(novelty.ratio());
                if novelty.ratio() >= 1.0 {
                    assert!(
                        novelty.distance > 0.0 && novelty.expected < 22.2,
                        "{novelty:?}"
                    );
                }
            }
            // The day after it has been there.
            assert_eq!(most >= 1.0, day == 0, "{most}");
        }
    }

    /// The largest ratio of novelty while a course is read from `days.0` to `days.1`.
    fn most_novel(season: &mut Season, days: (i64, i64), course: impl Fn(i64) -> f64) -> f64 {
        let bins = days.0 * BINS_PER_DAY..days.1 * BINS_PER_DAY;
        let novelties = bins.filter_map(|bin| {
            let slow = observe(season, course(bin), bin * BIN_MS);
            // As many as they like in a bin.
            for _ in 0..bin.rem_euclid(3) {
                observe(season, course(bin), bin * BIN_MS + 1);
            }
            slow.novelty
        });
        novelties.map(|novelty| novelty.ratio()).fold(0.0, f64::max)
    }

    #[test]
    fn what_stood_still_for_long_or_went_far_is_not_deaf_afterwards() {
        // A value whose mean is no whole step.
        let mut still = Season::default();
        assert!(most_novel(&mut still, (0, 9), |_| 20.1) < 1.0);
        // The day's wave begins, and is known after a week; then a day that is warm at night.
        most_novel(&mut still, (9, 18), wave);
        assert!(most_novel(&mut still, (18, 19), wave) < 1.0);
        let night = |bin: i64| {
            let is_night = bin.rem_euclid(BINS_PER_DAY) > 90;
            if is_night { 22.0 } else { wave(bin) }
        };
        assert!(most_novel(&mut still, (19, 20), night) >= 1.0);

        let mut far = grown(8);
        most_novel(&mut far, (8, 9), |bin| wave(bin) + 1e6);
        most_novel(&mut far, (9, 18), wave);
        let line = far.novelty.distance.unwrap().line;
        assert!((1.0..12.0).contains(&line), "{line}");
    }

    #[test]
    fn after_a_gap_it_is_silent_until_there_are_days_to_compare_with() {
        for (gap, silent) in [(1, 0), (4, 5), (6, 5), (30, 5), (400, 5)] {
            let mut season = grown(8);
            let back = 8 + gap;
            // Warmer by far, but there is nothing to say so.
            let course = |bin: i64| wave(bin) + if bin / BINS_PER_DAY == back { 5.0 } else { 0.0 };
            for day in back..back + 9 {
                let most = most_novel(&mut season, (day, day + 1), course);
                // The last hour before midnight has the days around it.
                if day != back + silent - 1 {
                    assert_eq!(
                        most > 0.0,
                        day >= back + silent,
                        "gap {gap}, day {day}: {most}"
                    );
                }
                assert!(day == back || most < 1.0, "gap {gap}, day {day}: {most}");
            }
        }
        // An hour on the bench, installed days later.
        let mut installed = Season::default();
        for bin in 0..6 {
            observe(&mut installed, wave(bin), bin * BIN_MS);
        }
        assert!(most_novel(&mut installed, (6, 15), |bin| wave(bin) + 3.0) < 1.0);
    }

    #[test]
    fn a_day_like_the_others_is_usual_and_one_out_of_phase_is_not() {
        let mut season = grown(8);
        let (first, half, quarter) = (8 * BINS_PER_DAY, BINS_PER_DAY / 2, BINS_PER_DAY / 4);
        let mut usual = season.clone();
        for bin in first..first + BINS_PER_DAY {
            let slow = observe(&mut usual, wave(bin), bin * BIN_MS);
            let ratio = slow.season.unwrap().ratio();
            assert!(ratio < 0.5, "bin {bin}: {ratio}");
            assert!(slow.level.unwrap().ratio() < 0.7);
        }
        // From the warmest time of the day on it is as if it were the coldest.
        for bin in first..first + quarter {
            observe(&mut season, wave(bin), bin * BIN_MS);
        }
        let worst = (first + quarter..first + half)
            .map(|bin| {
                let slow = observe(&mut season, wave(bin + half), bin * BIN_MS);
                slow.season.unwrap().ratio()
            })
            .fold(0.0, f64::max);
        assert!(worst > 1.0, "{worst}");
    }

    #[test]
    fn an_offset_of_the_whole_day_is_weather_but_a_shift_is_a_level() {
        let mut season = grown(8);
        let first = 8 * BINS_PER_DAY;
        let mut level = 0.0_f64;
        for bin in first..first + 12 {
            let slow = observe(&mut season, wave(bin) + 9.0, bin * BIN_MS);
            level = level.max(slow.level.unwrap().ratio());
        }
        assert!(level > 1.0, "{level}");
    }

    /// After 8 days, `course` of the bins since, added to what is usual, and the jump to the last of them.
    fn jumps(course: &[f64], shared: bool) -> Option<Jump> {
        let mut season = grown(8);
        let mut values = vec![0.0; 2];
        for (bin, off) in (8 * BINS_PER_DAY..).zip(course) {
            values.push(wave(bin) + off);
            observe(&mut season, wave(bin) + off, bin * BIN_MS);
        }
        let [.., second, first, value] = values[..] else {
            return None;
        };
        season.jump([first, second], (value, shared), BIN_MS, FLOOR)
    }

    #[test]
    fn a_jump_back_tells_of_the_drift_before_it() {
        // Eight hours of it: steady, or all at once.
        let drift = |off: f64| (0..48).map(move |bin| off * f64::from(bin) / 48.0);
        let shift = |off: f64| (0..48).map(move |_| off);
        let usual = wave(8 * BINS_PER_DAY + 48);
        for (drifts, off, lands, tells) in [
            (true, 3.0, 0.0, true),
            (true, -3.0, 0.0, true),
            (false, 3.0, 0.0, true),
            // What stops drifting may land beyond.
            (true, 3.0, -3.0, true),
            (false, 3.0, -3.0, false),
            // It goes on: that is no return.
            (true, 3.0, 4.5, false),
            // Less is needed of a drift.
            (true, 0.8, 0.0, true),
            (false, 0.8, 0.0, false),
            (true, 0.3, 0.0, false),
        ] {
            let mut course: Vec<f64> = if drifts {
                drift(off).collect()
            } else {
                shift(off).collect()
            };
            course.push(lands);
            let jump = jumps(&course, false);
            assert_eq!(jump.is_some(), tells, "{drifts} {off} {lands}: {jump:?}");
            if let Some(jump) = jump {
                let away = f64::from(jump.observed - jump.expected);
                assert!((away - off).abs() < 0.4, "{off}: {jump:?}");
                assert!((f64::from(jump.expected) - usual).abs() < 0.4, "{jump:?}");
                let hours = f64::from(jump.away_ms) / 3.6e6;
                assert!((5.0..=8.0).contains(&hours), "{hours} of 8 hours");
            }
        }
        // One reading later it shows as a bend.
        let late: Vec<f64> = drift(3.0).chain([0.0, 0.0]).collect();
        assert!(jumps(&late, false).is_some());
    }

    #[test]
    fn a_jump_away_is_a_jump_unless_it_is_shared() {
        let calm = [0.0; 12];
        let spike = [&calm[..], &[2.0]].concat();
        assert_eq!(jumps(&spike, false), None);
        let led = jumps(&spike, true).unwrap();
        assert!(led.away_ms == 0 && (led.observed - led.expected - 2.0).abs() < 0.3);
        // Back from a spike, or to where it comes from: nothing was away.
        let back = [&calm[..], &[2.0, 2.0, 0.0]].concat();
        assert_eq!(jumps(&back, false), None);
        assert_eq!(jumps(&back, true), None);
        // Half a day must be known.
        let mut young = grown(1);
        observe(&mut young, 25.0, BINS_PER_DAY * BIN_MS);
        assert_eq!(young.jump([20.0; 2], (25.0, true), BIN_MS, FLOOR), None);
    }

    #[test]
    fn the_pace_of_the_sensor_does_not_matter() {
        let (mut slow, mut fast) = (Season::default(), Season::default());
        for bin in 0..3 * BINS_PER_DAY {
            observe(&mut slow, wave(bin), bin * BIN_MS);
            for tenth in 0..10 {
                let time_ms = bin * BIN_MS + tenth * BIN_MS / 10;
                observe(&mut fast, wave(bin), time_ms);
            }
        }
        let (slow, fast) = (slow.look(FLOOR), fast.look(FLOOR));
        let close = |a: Option<Distance>, b: Option<Distance>| {
            (a.unwrap().ratio() - b.unwrap().ratio()).abs() < 1e-3
        };
        assert!(close(slow.season, fast.season) && close(slow.level, fast.level));
    }

    #[test]
    fn the_outlook_is_what_the_rule_goes_by() {
        let mut season = grown(8);
        let bin = 8 * BINS_PER_DAY + 40;
        for bin in 8 * BINS_PER_DAY..=bin {
            observe(&mut season, wave(bin), bin * BIN_MS);
        }
        let span = (0, (bin + 1000) * BIN_MS);
        let outlook = season.outlook(span, FLOOR).unwrap();
        let rule = season.look(FLOOR).season.unwrap();
        let now = outlook.expected.iter().find(|(at, _)| *at == bin * BIN_MS);
        let (_, now) = now.unwrap();
        assert!((now - f64::from(rule.expected)).abs() < 1e-4);
        assert!((outlook.line - f64::from(rule.line)).abs() < 1e-4);
        // As far back as the table has the days before, and a day ahead, however long the span is.
        let bins = outlook.expected.len();
        assert!((5 * 144..7 * 144).contains(&bins), "{bins}");
        // Tomorrow is expected to be as the days before were.
        let (at, ahead) = outlook.expected[bins - 1];
        assert!((ahead - wave(at / BIN_MS)).abs() < 0.3, "{ahead}");
        assert_eq!(Season::default().outlook(span, FLOOR), None);
        assert_eq!(grown(1).outlook(span, FLOOR), None, "a day is too little");
    }

    #[test]
    fn pauses_leave_holes_and_a_week_of_them_begins_anew() {
        let mut season = grown(3);
        let later = 6 * BINS_PER_DAY + 5;
        observe(&mut season, 20.0, later * BIN_MS);
        assert!(season.expected.is_some(), "three days are remembered");
        let much_later = 30 * BINS_PER_DAY;
        observe(&mut season, 20.0, much_later * BIN_MS);
        observe(&mut season, 20.0, (much_later + 1) * BIN_MS);
        assert_eq!(season.expected, None);
    }
}
