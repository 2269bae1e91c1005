//! What is usual at this time of day, and over the last week: means of ten minutes, by time of day
//! for seven days. Slow rules live on them, whatever the pace of the sensor.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::sketch::Sketch;
use super::table::{BINS_PER_DAY, DAYS, Table};
use super::window::{self, Moments, Window};

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

/// How the present stands to the time of day and to the week.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slow {
    /// Distance from what is usual at this time of day.
    pub season: Option<Distance>,
    /// Distance of the last two hours from the last week.
    pub level: Option<Distance>,
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
#[derive(Debug, Clone, Copy, PartialEq, Default)]
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
    /// Residual of the bin before, offset taken off.
    before: Option<(i64, f32)>,
    /// Sizes of residuals, offset taken off.
    sizes: Sketch,
    /// Sizes of z.
    zs: Sketch,
    scale: f64,
    usual_z: f64,
    /// Bins of the last week.
    week: Window<Moments>,
    /// Since when the slow rules have been over their lines.
    away_since: Option<i64>,
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
    // What it returns is copied at once, and a processor waits for what it has only just written.
    #[inline]
    pub fn observe(&mut self, value: f64, time_ms: i64, floor: f64) -> Slow {
        let bin = time_ms.div_euclid(BIN_MS);
        if self.count > 0 && bin > self.bin {
            self.close(floor);
        }
        if self.count == 0 {
            self.open(bin);
        }
        self.count += 1;
        self.sum += value;
        self.look(floor)
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        let sums = self.sum.to_bits() ^ self.offset.to_bits() ^ self.usual_z.to_bits();
        sums ^ u64::from(self.count) ^ self.sizes.touch(false) ^ self.week.touch()
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

    /// What a value of `time_ms` would look like; nothing is learned.
    pub fn look(&self, floor: f64) -> Slow {
        if self.count == 0 {
            return Slow::default();
        }
        let mean = self.sum / f64::from(self.count);
        Slow {
            season: self.season(mean, floor),
            level: self.level(mean, floor),
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
            Some((bin, before)) if bin == self.bin - 1 => f64::midpoint(now, f64::from(before)),
            _ => now,
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
    fn open(&mut self, bin: i64) {
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
                self.sizes.settle();
                self.zs.settle();
                self.scale = self.sizes.quantile(0.68);
                self.usual_z = if self.zs.weight() < BINS_PER_DAY as f64 {
                    4.0
                } else {
                    self.zs.quantile(0.995)
                };
            }
            #[allow(clippy::cast_possible_truncation, reason = "means are kept as f32")]
            {
                self.before = Some((bin, own as f32));
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

    /// A season after `days` days of readings every ten minutes.
    fn grown(days: i64) -> Season {
        let mut season = Season::default();
        for bin in 0..days * BINS_PER_DAY {
            season.observe(wave(bin), bin * BIN_MS, FLOOR);
        }
        season
    }

    #[test]
    fn a_day_like_the_others_is_usual_and_one_out_of_phase_is_not() {
        let mut season = grown(8);
        let (first, half, quarter) = (8 * BINS_PER_DAY, BINS_PER_DAY / 2, BINS_PER_DAY / 4);
        let mut usual = season.clone();
        for bin in first..first + BINS_PER_DAY {
            let slow = usual.observe(wave(bin), bin * BIN_MS, FLOOR);
            let ratio = slow.season.unwrap().ratio();
            assert!(ratio < 0.5, "bin {bin}: {ratio}");
            assert!(slow.level.unwrap().ratio() < 0.7);
        }
        // From the warmest time of the day on it is as if it were the coldest.
        for bin in first..first + quarter {
            season.observe(wave(bin), bin * BIN_MS, FLOOR);
        }
        let worst = (first + quarter..first + half)
            .map(|bin| {
                let slow = season.observe(wave(bin + half), bin * BIN_MS, FLOOR);
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
            let slow = season.observe(wave(bin) + 9.0, bin * BIN_MS, FLOOR);
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
            season.observe(wave(bin) + off, bin * BIN_MS, FLOOR);
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
        young.observe(25.0, BINS_PER_DAY * BIN_MS, FLOOR);
        assert_eq!(young.jump([20.0; 2], (25.0, true), BIN_MS, FLOOR), None);
    }

    #[test]
    fn the_pace_of_the_sensor_does_not_matter() {
        let (mut slow, mut fast) = (Season::default(), Season::default());
        for bin in 0..3 * BINS_PER_DAY {
            slow.observe(wave(bin), bin * BIN_MS, FLOOR);
            for tenth in 0..10 {
                let time_ms = bin * BIN_MS + tenth * BIN_MS / 10;
                fast.observe(wave(bin), time_ms, FLOOR);
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
            season.observe(wave(bin), bin * BIN_MS, FLOOR);
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
        season.observe(20.0, later * BIN_MS, FLOOR);
        assert!(season.expected.is_some(), "three days are remembered");
        let much_later = 30 * BINS_PER_DAY;
        season.observe(20.0, much_later * BIN_MS, FLOOR);
        season.observe(20.0, (much_later + 1) * BIN_MS, FLOOR);
        assert_eq!(season.expected, None);
    }
}
