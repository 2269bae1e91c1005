//! One quantity of one sensor: its baselines, and how each value stands to them.
//!
//! Every baseline ends before the value that it judges, and does not learn from what is over its
//! line until that has lasted: then it is the new normal.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::QuantityId;

use super::Config;
use super::season::{BIN_MS, Distance, Jump, Season, SeasonOutlook, Slow};
use super::sketch::Often;
use super::window::{self, Moments, Rounded, Summary, Window};
use crate::quantity::Quantity;

/// Baselines of one quantity of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Last plausible value.
    last: f64,
    /// The step that led to it.
    last_step: f64,
    /// Plausible values so far, up to a few.
    seen: u8,
    /// Exponentially weighted mean, the short-term expectation.
    ewma: f64,
    /// Exponentially weighted mean of squared deviations from `ewma`: the present noise.
    noise: f64,
    /// Exponentially weighted mean of squared second differences: roughness.
    rough: f64,
    values: Window<Summary>,
    /// Deviations from `ewma`.
    residuals: Window<Moments, Rounded>,
    /// Since when values have been too far away to enter `values`.
    frozen_since: Option<i64>,
    /// How many readings in a row deviated from `ewma` by more than the freeze line.
    astray: u8,
    /// Exponentially weighted share of such readings.
    astray_share: f64,
    /// Sizes of steps.
    steps: Often,
    /// Roughness so far.
    roughs: Often,
    /// Size that `z` hardly ever exceeds: half of the way up with every larger one, and down again
    /// within two weeks.
    usual_z: f64,
    /// What was read off the sketches, and how many readings ago.
    usual: Usual,
    stale: u8,
    /// Since when the restlessness has been over its line.
    restless_since: Option<i64>,
    /// Exponentially weighted mean of the logarithm of reversals: see [`Channel::restless`].
    restless: f32,
    /// What it hardly ever exceeds.
    usual_restless: f32,
    /// A step that would have been at the line of the last reading.
    large: f32,
    /// How much the other quantities move when this one does, usually.
    company: f32,
    /// How much they move at any time.
    stirred: f32,
    run: Run,
    season: Season,
    /// Where the last plausible value was, and when.
    course: (i64, Course),
}

/// Quantiles that hardly change from one reading to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Usual {
    /// Median step, largest usual step.
    step: f32,
    large_step: f32,
    /// Nine of ten are smaller.
    brisk_step: f32,
    rough: f32,
}

/// Equal values in a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    /// Length of the present one, and when it began.
    length: u32,
    since_ms: i64,
    /// How far the other quantities went meanwhile, as shares of their lines.
    stirred: f32,
    /// What the time of day let expect meanwhile, at least and at most.
    low: f32,
    high: f32,
    /// Longest run of the week before it.
    usual: u32,
    /// Longest run of each of the last days, newest last, and the newest day.
    longest: SmallVec<[u32; 7]>,
    day: i64,
}

/// Where a value is, for its peers: signed shares of the lines of season, level and z.
pub type Course = [f32; 3];

/// What decides beside the value itself.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Order time of the reading.
    pub time_ms: i64,
    /// Since the reading before.
    pub gap_ms: Option<i64>,
    /// The gap that was to be expected.
    pub expected_ms: Option<i64>,
    /// The sensor is old enough for `z` to speak.
    pub seasoned: bool,
    /// Since its first reading.
    pub age_ms: i64,
    /// How far the other quantities went with this reading: the largest step, as a share of its line.
    pub others: f64,
}

impl Pace {
    /// Lines are this much higher while the history is shorter than the week that they stand on.
    fn young(&self) -> f64 {
        let week = (7 * 144 * BIN_MS) as f64;
        1.0 + YOUNG * (1.0 - self.age_ms as f64 / week).max(0.0)
    }

    /// After a pause a larger step is no news: it grows like the root of the time.
    fn patience(&self) -> f64 {
        let expected_ms = self.expected_ms.unwrap_or(BIN_MS).max(1);
        let pauses = self.gap_ms.unwrap_or(0) as f64 / expected_ms as f64;
        if pauses > 1.5 { pauses.sqrt() } else { 1.0 }
    }
}

const YOUNG: f64 = 0.4;

/// One value of a reading against its baselines, as they were before that value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts about one value"
)]
pub struct Look {
    /// Which quantity.
    pub quantity: QuantityId,
    /// As measured.
    pub value: f64,
    /// False if it cannot be true (out of range, an error code): then the rest is as it was.
    pub plausible: bool,
    /// Mean of the baseline.
    pub mean: f64,
    /// Spread used for `z`: the baseline's standard deviation, not below the quantity's floor.
    pub spread: f64,
    /// (value − mean) / spread; 0 without a baseline.
    pub z: f64,
    /// Short-term expectation.
    pub expected: f64,
    /// Spread of deviations from `expected`, not below the floor.
    pub residual_spread: f64,
    /// (value − expected) / residual spread.
    pub residual_z: f64,
    /// Value minus the last plausible one.
    pub step: f64,
    /// Present noise over usual noise, as a logarithm.
    pub noise_ratio: f64,
    /// Size that `z` hardly ever exceeds.
    pub usual_z: f64,
    /// The baseline has enough readings to speak.
    pub warm: bool,
    /// Deviations have enough readings to speak (earlier than the baseline).
    pub residual_warm: bool,
    /// Since when the values have been away from the baseline.
    pub frozen_since: Option<i64>,
    /// With this value the new level became the baseline.
    pub new_normal: bool,
    /// What the step of `rate` is part of, if it is not only a step.
    pub jump: Option<Jump>,
    /// Step against the usual sizes of steps, or bend against the usual roughness.
    pub rate: Option<Distance>,
    /// Equal values in a row: how many, how many would be too many, since when.
    pub stuck: Option<(u32, f64, i64)>,
    /// Size of reversals against the usual one.
    pub rough: Option<Distance>,
    /// Against the time of day and the week.
    pub slow: Slow,
}

impl Look {
    /// Of a value that nothing is known of yet.
    pub fn of(quantity: QuantityId, value: f64) -> Self {
        Self {
            quantity,
            value,
            plausible: false,
            mean: 0.0,
            spread: 0.0,
            z: 0.0,
            expected: 0.0,
            residual_spread: 0.0,
            residual_z: 0.0,
            step: 0.0,
            noise_ratio: 0.0,
            usual_z: 0.0,
            warm: false,
            residual_warm: false,
            frozen_since: None,
            new_normal: false,
            jump: None,
            rate: None,
            stuck: None,
            rough: None,
            slow: Slow::default(),
        }
    }

    /// See [`Course`].
    pub fn course(&self) -> Course {
        self.course_of(self.slow)
    }

    fn course_of(&self, slow: Slow) -> Course {
        let share = |distance: Option<Distance>| {
            distance.map_or(0.0, |distance| distance.distance / distance.line)
        };
        #[allow(clippy::cast_possible_truncation, reason = "a share")]
        let z = (self.z / z_line(self.usual_z)) as f32;
        let z = if self.warm { z } else { 0.0 };
        [share(slow.season), share(slow.level), z]
    }
}

/// Least line of the z-score, in standard deviations.
const Z_LINE: f64 = 8.0;

/// How many spreads from the baseline the line of the z-score is, before the margin.
pub fn z_line(usual_z: f64) -> f64 {
    Z_LINE.max(2.0 * usual_z)
}

/// What one quantity of one sensor is expected to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Mean of the rolling baseline.
    pub mean: f64,
    /// Its spread, not below the quantity's floor.
    pub spread: f64,
    /// Size that `z` hardly ever exceeds.
    pub usual_z: f64,
    /// The baseline has enough readings to speak.
    pub warm: bool,
    /// By the time of day; `None` until enough days are known.
    pub season: Option<SeasonOutlook>,
}

impl Channel {
    /// Weight of the newest value in `ewma`.
    const ALPHA: f64 = 0.25;
    /// Weight of the newest value in `noise` and `astray_share`.
    const BETA: f64 = 0.1;
    /// After so many deviations in a row the short-term expectation moves to the new level.
    const FOLLOW: u8 = 3;
    /// Deviations needed before `residual_z` speaks.
    const RESIDUALS: u32 = 60;
    /// See `usual_z`.
    const FORGET_MS: f64 = 14.0 * 86_400_000.0;
    /// Of sensors that send more often than once a minute, every fourth roughness is learned, and it
    /// counts as noise.
    pub const OFTEN_MS: f64 = 60_000.0;
    /// Readings after which quantiles are read off anew.
    const STALE: u8 = 8;
    /// Steps needed before the rate speaks; twice as many before the roughness does.
    const STEPS: f64 = 36.0;
    /// Roughness is that of this time, or of six readings if that is longer.
    const ROUGH_MS: f64 = 3_600_000.0;
    /// Restlessness is that of this time, or of eight readings if that is longer.
    const RESTLESS_MS: f64 = 4_800_000.0;
    /// Restlessness is known after this time, and over its line for this long it is the new normal.
    const RESTLESS_ACCEPT_MS: i64 = 12 * 3_600_000;
    /// Of these steps the company is learned.
    const NOTABLE: f64 = 0.3;
    /// A step that others share by this share of their lines is one of the air.
    const SHARED: f64 = 0.15;
    /// Others that move by less than this at any time are none.
    const STIRRED: f64 = 1e-4;
    /// More company than this says no more.
    const COMPANY: f64 = 0.06;

    /// Knows nothing but `value`.
    pub fn new(value: f64) -> Self {
        Self {
            last: value,
            last_step: 0.0,
            seen: 0,
            ewma: value,
            noise: 0.0,
            rough: 0.0,
            values: Window::default(),
            residuals: Window::default(),
            frozen_since: None,
            astray: 0,
            astray_share: 0.0,
            steps: Often::default(),
            roughs: Often::default(),
            usual_z: 0.0,
            usual: Usual::default(),
            stale: 0,
            restless_since: None,
            restless: f32::NEG_INFINITY,
            usual_restless: f32::NEG_INFINITY,
            large: f32::INFINITY,
            company: 0.0,
            stirred: 0.0,
            run: Run::default(),
            season: Season::default(),
            course: (0, Course::default()),
        }
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        self.last.to_bits()
            ^ u64::from(self.usual.step.to_bits())
            ^ u64::from(self.run.length)
            ^ self.values.touch()
            ^ self.residuals.touch()
            ^ self.steps.touch()
            ^ self.roughs.touch()
            ^ self.season.touch()
            ^ self.course.0.cast_unsigned()
            ^ u64::from(self.large.to_bits())
    }

    /// See `SensorState::touch_beyond`.
    pub fn touch_beyond(&self) -> u64 {
        let soon = self.stale + 1 >= Self::STALE;
        self.steps.touch_beyond(soon) ^ self.roughs.touch_beyond(soon)
    }

    /// How far `value` is from the last one, as a share of the step that would be at the line.
    pub fn stir(&self, value: f64) -> f64 {
        (value - self.last).abs() / f64::from(self.large)
    }

    /// Where the last plausible value was, and when.
    pub fn course(&self) -> (i64, Course) {
        self.course
    }

    /// The rolling baseline.
    pub fn baseline(&self) -> Summary {
        self.values.gathered()
    }

    /// What is expected from `span.0` to `span.1`, by what is known now.
    pub fn outlook(
        &self,
        id: QuantityId,
        spec: &Quantity,
        seasoned: bool,
        span: (i64, i64),
    ) -> Outlook {
        let look = self.look(id, self.last, spec, seasoned);
        Outlook {
            mean: look.mean,
            spread: look.spread,
            usual_z: look.usual_z,
            warm: look.warm,
            season: self.season.outlook(span, 3.0 * self.floor(spec)),
        }
    }

    /// What is small beside the swings of a week means nothing, whatever the unit.
    fn floor(&self, spec: &Quantity) -> f64 {
        spec.floor.max(0.05 * self.season.spread())
    }

    /// Looks at `value`, and learns nothing.
    pub fn look(&self, id: QuantityId, value: f64, spec: &Quantity, seasoned: bool) -> Look {
        let mut look = Look::of(id, value);
        self.look_at(&mut look, spec, seasoned);
        look
    }

    /// Says of a value how it stands to the baselines.
    fn look_at(&self, look: &mut Look, spec: &Quantity, seasoned: bool) {
        let value = look.value;
        let baseline = self.values.gathered().moments;
        look.plausible = spec.is_plausible(value);
        look.mean = baseline.mean;
        look.spread = baseline.sd().max(spec.floor);
        if baseline.count >= 2 {
            look.z = (value - baseline.mean) / look.spread;
        }
        let residuals = self.residuals.gathered();
        look.expected = self.ewma;
        look.residual_spread = residuals.sd().max(spec.floor);
        look.residual_z = (value - self.ewma) / look.residual_spread;
        look.step = value - self.last;
        let noise = self.noise.sqrt() + 0.1 * spec.floor;
        let usual_noise = look.residual_spread + 0.1 * spec.floor;
        #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let ratio = (noise / usual_noise) as f32;
        look.noise_ratio = ratio.max(f32::MIN_POSITIVE).ln().into();
        look.usual_z = self.usual_z;
        look.warm = seasoned && baseline.count >= 30;
        look.residual_warm = residuals.count >= Self::RESIDUALS;
        look.frozen_since = self.frozen_since;
    }

    /// Looks at a value, then learns from it what may be learned. `look` is [`Look::of`] it: a look is
    /// too large to be moved.
    pub fn observe(&mut self, look: &mut Look, pace: Pace, spec: &Quantity, config: &Config) {
        let (value, time_ms) = (look.value, pace.time_ms);
        let pane_ms = (config.window.as_ms() / window::PANES).max(1);
        self.values.advance(time_ms, pane_ms);
        self.residuals.advance(time_ms, pane_ms);
        self.look_at(look, spec, pace.seasoned);
        if !look.plausible {
            return;
        }
        let floor = self.floor(spec);
        let released = self.stuck(look, pace, floor);
        self.fast(look, pace, floor);
        let usual_run = f64::from(released) < 0.5 * Run::FACTOR * f64::from(self.run.usual);
        if released > 0 && usual_run && look.rate.is_some_and(|rate| rate.ratio() >= 1.0) {
            // It stood still as it often does: this is a jump.
            look.stuck = None;
        }
        self.season.observe(value, time_ms, 3.0 * floor);
        let slow = self.season.look(3.0 * floor);
        look.slow = slow;
        self.course = (time_ms, look.course_of(slow));
        look.jump = self.jump(look, pace, 3.0 * floor);
        self.learn_z(look, pace, config);
        self.long_term(look, time_ms, pane_ms, config);
        self.short_term(look, config);
        self.read_off();
        self.last = value;
        self.last_step = look.step;
        self.seen = self.seen.saturating_add(1);
    }

    /// Reading quantiles off costs more than all the rest.
    fn read_off(&mut self) {
        self.stale += 1;
        if self.stale >= Self::STALE {
            self.stale = 0;
            let steps = self.steps.settle();
            self.usual = Usual {
                step: steps.quantile(0.5),
                large_step: steps.quantile(0.998),
                brisk_step: steps.quantile(0.9),
                rough: self.roughs.settle().quantile(0.99),
            };
        }
    }

    /// Returns the length of the run that ends with this reading; 0 if none does that was too long.
    fn stuck(&mut self, look: &mut Look, pace: Pace, floor: f64) -> u32 {
        let day = pace.time_ms.div_euclid(144 * BIN_MS);
        #[allow(clippy::float_cmp, reason = "stuck means the very same number")]
        if self.seen > 0 && look.value == self.last {
            self.run.length += 1;
            #[allow(clippy::cast_possible_truncation, reason = "a share")]
            let others = pace.others.min(Self::NOTABLE) as f32;
            self.run.stirred += others;
        } else {
            look.stuck = self.released(look.step.abs(), pace, floor);
            self.run.end(day, Run::common(pace));
            self.run.begin(pace.time_ms);
        }
        if let Some(expected) = self.season.expected() {
            self.run.low = self.run.low.min(expected);
            self.run.high = self.run.high.max(expected);
        }
        if let Some(line) = self.run.line(pace, || self.calm(3.0 * floor)) {
            look.stuck = Some((self.run.length, line * pace.young(), self.run.since_ms));
            return 0;
        }
        look.stuck.map_or(0, |(length, ..)| length)
    }

    /// Values stand still by nature when nothing goes on. The line is nearer (below 1) for a run through
    /// which the others have moved as ever, or the time of day lets expect a change; it is further
    /// away for one in still air.
    fn calm(&self, floor: f64) -> f64 {
        let (run, usual) = (&self.run, f64::from(self.stirred));
        // Without others nothing tells.
        let usual = usual.max(Self::STIRRED) * f64::from(run.length);
        let stir = f64::from(run.stirred) / usual;
        let course = f64::from((run.high - run.low).max(0.0)) / self.season.scale(floor);
        ((0.4 + stir) / 1.4 * ((0.3 + course) / 1.3)).powf(-0.3)
    }

    /// Was the run that `step` ends a stuck one? What stands still on its own moves on as it does,
    /// by a small step; a sensor that comes loose has the movement of hours to make up for.
    fn released(&self, step: f64, pace: Pace, floor: f64) -> Option<(u32, f64, i64)> {
        let length = f64::from(self.run.length);
        let before = Pace {
            time_ms: pace.time_ms - pace.gap_ms.unwrap_or(0),
            ..pace
        };
        let line = self.run.line(before, || 1.0)?;
        let least = Run::LEAST.max(0.25 * line);
        // A run as on three days of the week is no strange one, whatever ends it.
        if self.steps.weight() < Self::STEPS
            || length < least
            || self.run.length <= self.run.third()
        {
            return None;
        }
        let small = (1.5 * floor).max(2.0 * f64::from(self.usual.brisk_step));
        let ratio = step / (small * pace.patience() * pace.young());
        let ratio = ratio.min(length / Run::LEAST);
        (ratio >= 1.0).then(|| (self.run.length, length / ratio, self.run.since_ms))
    }

    /// Steps and roughness: from reading to reading.
    fn fast(&mut self, look: &mut Look, pace: Pace, floor: f64) {
        if self.seen == 0 {
            return;
        }
        let day = pace.time_ms.div_euclid(144 * BIN_MS);
        self.steps.advance(day);
        self.roughs.advance(day);
        let expected_ms = pace.expected_ms.unwrap_or(BIN_MS).max(1) as f64;
        let patience = pace.patience();
        let mut strange = false;
        let usual = (1.4826 * f64::from(self.usual.step)).max(floor);
        if self.steps.weight() >= Self::STEPS {
            let large = (6.0 * usual).max(1.5 * f64::from(self.usual.large_step));
            #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
            {
                self.large = large as f32;
            }
            let line = large * patience * pace.young();
            // What has no company is not learned as if it had.
            strange = look.step.abs() >= line;
            let alone = self.alone(0.55, 4.0, 1.3, pace.others);
            look.rate = Some(Distance::new(self.last, look.step, usual, line * alone));
            self.learn_company(look.step.abs() / line, pace.others);
        }
        if patience > 1.0 {
            return;
        }
        // A single spike is two steps: they do not move the quantile, what comes daily does.
        #[allow(clippy::cast_possible_truncation, reason = "a weight from 0 to 1")]
        let weight = (self.steps.weight() / 1_800.0).min(0.5) as f32;
        self.steps
            .push(look.step.abs(), if strange { weight } else { 1.0 });
        if self.seen < 2 {
            return;
        }
        let course = self.last + self.last_step;
        let bend = look.value - course;
        let weight = (expected_ms / Self::ROUGH_MS).min(1.0 / 6.0);
        let usual_rough = f64::from(self.usual.rough);
        let line = (2.5 * usual_rough).max(4.0 * floor) / 1.5 * pace.young();
        let known = self.roughs.weight() >= 2.0 * Self::STEPS;
        let often = expected_ms < Self::OFTEN_MS;
        let power = weight * bend * bend;
        self.rough += power - weight * self.rough;
        let rough = self.rough.sqrt();
        let mut over = false;
        if known {
            over = rough >= line;
            if often {
                // No single bend of so many makes half of an hour.
                look.rough = Some(Distance::new(usual_rough, rough, usual_rough, line));
            } else if power >= 0.5 * self.rough {
                // One bend makes up half of it: this is a jump.
                let line = line * self.alone(0.9, 1.0, 1.2, pace.others);
                let bent = Distance::new(course, bend, usual, bend.abs() * line / rough);
                if look.rate.is_none_or(|rate| rate.ratio() < bent.ratio()) {
                    look.rate = Some(bent);
                }
            }
        }
        self.restless(look, pace, expected_ms, floor);
        if expected_ms >= Self::OFTEN_MS || self.stale.is_multiple_of(4) {
            self.roughs.push(rough, if over { 0.1 } else { 1.0 });
        }
    }

    /// What a step near its line, or over it, is part of.
    fn jump(&self, look: &Look, pace: Pace, floor: f64) -> Option<Jump> {
        look.rate.filter(|rate| rate.ratio() >= 0.5)?;
        let before = [self.last, self.last - self.last_step];
        let shared = pace.others >= Self::SHARED;
        let pace_ms = pace.expected_ms.unwrap_or(BIN_MS);
        self.season
            .jump(before, (look.value, shared), pace_ms, floor)
    }

    /// Quantities of one sensor share their air: what moves one of them mostly stirs the others as
    /// well, while a fault has one of them move alone. Where that is so, the line of what moves alone
    /// is nearer (down to `low`, by `slope` for each of the others' lines) and that of what moves with
    /// the others is further away (up to `high`).
    fn alone(&self, low: f64, slope: f64, high: f64, others: f64) -> f64 {
        // Where all of them move all the time, that is no company.
        let company = f64::from(self.company) - 1.5 * f64::from(self.stirred);
        let known = (company / Self::COMPANY).clamp(0.0, 1.0);
        let low = 1.0 - (1.0 - low) * known;
        (low + slope * others).clamp(low, 1.0 + (high - 1.0) * known)
    }

    fn learn_company(&mut self, step: f64, others: f64) {
        #[allow(clippy::cast_possible_truncation, reason = "a share")]
        let others = others.min(Self::NOTABLE) as f32;
        self.stirred += (others - self.stirred) / 256.0;
        if step >= Self::NOTABLE {
            self.company += (others - self.company) / 32.0;
        }
    }

    /// Noise turns back with every reading; what a room does goes on for a while. The geometric mean
    /// of the sizes of reversals (two steps in opposite directions) knows noise from a few large
    /// steps.
    fn restless(&mut self, look: &mut Look, pace: Pace, expected_ms: f64, floor: f64) {
        let reversal = (-look.step * self.last_step).max(0.0).sqrt();
        let weight = (expected_ms / Self::RESTLESS_MS).min(0.125);
        #[allow(clippy::cast_possible_truncation, reason = "seven digits are enough")]
        let (size, weight) = ((reversal + floor) as f32, weight as f32);
        let size = size.clamp(f32::MIN_POSITIVE, f32::MAX).ln();
        if self.usual_restless == f32::NEG_INFINITY {
            self.restless = size;
        }
        self.restless += weight * (size - self.restless);
        if pace.age_ms < Self::RESTLESS_ACCEPT_MS || self.roughs.weight() < 2.0 * Self::STEPS {
            self.usual_restless = self.usual_restless.max(self.restless);
            return;
        }
        let now = f64::from(self.restless).exp() - floor;
        let usual = (f64::from(self.usual_restless).exp() - floor).max(floor);
        let distance = Distance::new(usual, now, usual, 1.5 * usual * pace.young());
        let over = distance.ratio() >= 1.0;
        if look
            .rough
            .is_none_or(|rough| rough.ratio() < distance.ratio())
        {
            look.rough = Some(distance);
        }
        self.restless_since = over.then(|| self.restless_since.unwrap_or(pace.time_ms));
        let lasted = |since: i64| pace.time_ms - since >= Self::RESTLESS_ACCEPT_MS;
        // The 0.99 quantile: a hundred small steps down for each step up.
        let learned = if self.restless_since.is_none_or(lasted) {
            0.05
        } else {
            0.005
        };
        #[allow(clippy::cast_possible_truncation, reason = "a small number")]
        let learned = (learned * (expected_ms / BIN_MS as f64).min(1.0)) as f32;
        self.usual_restless += if self.restless > self.usual_restless {
            0.99 * learned
        } else {
            -0.01 * learned
        };
    }

    fn learn_z(&mut self, look: &Look, pace: Pace, config: &Config) {
        if !look.warm {
            return;
        }
        let size = look.z.abs();
        if size > self.usual_z {
            let lasted = |since: i64| pace.time_ms - since >= config.accept_after.as_ms() / 2;
            let way = if self.frozen_since.is_none_or(lasted) {
                0.5
            } else {
                0.05
            };
            self.usual_z += way * (size - self.usual_z);
        } else {
            let gap_ms = pace.gap_ms.unwrap_or(0) as f64;
            self.usual_z *= (1.0 - gap_ms / Self::FORGET_MS).max(0.0);
        }
    }

    /// Far values wait outside of the baseline until they have stayed for `accept_after`.
    fn long_term(&mut self, look: &mut Look, time_ms: i64, pane_ms: i64, config: &Config) {
        if look.warm && look.z.abs() > config.freeze_z {
            let since = *self.frozen_since.get_or_insert(time_ms);
            look.frozen_since = Some(since);
            if time_ms - since >= config.accept_after.as_ms() {
                self.values = Window::default();
                self.values.advance(time_ms, pane_ms);
                self.values.push(look.value);
                self.frozen_since = None;
                look.new_normal = true;
            }
        } else {
            self.frozen_since = None;
            look.frozen_since = None;
            self.values.push(look.value);
        }
    }

    /// One stray value is not followed, the third in a row is.
    fn short_term(&mut self, look: &Look, config: &Config) {
        let residual = look.value - self.ewma;
        let stray = look.residual_warm && look.residual_z.abs() > config.freeze_z;
        self.astray_share += Self::BETA * (f64::from(u8::from(stray)) - self.astray_share);
        if stray {
            self.astray = self.astray.saturating_add(1);
            if self.astray >= Self::FOLLOW {
                self.ewma = look.value;
            }
            // A sensor that has become noisy for good must not be a stranger for ever.
            if self.astray_share > 0.3 {
                self.residuals.push(residual);
            }
        } else {
            self.astray = 0;
            self.ewma += Self::ALPHA * residual;
            self.noise += Self::BETA * (residual * residual - self.noise);
            self.residuals.push(residual);
        }
    }
}

impl Run {
    /// Runs shorter than this say nothing, however short they usually are.
    const LEAST: f64 = 14.0;
    const LEAST_MS: i64 = 2 * 3_600_000;
    /// One that is longer than usual by more than this is no usual one.
    const FACTOR: f64 = 1.95;
    /// Runs of this time are neither long nor short.
    const COMMON_MS: i64 = 4 * 3_600_000;

    fn begin(&mut self, time_ms: i64) {
        self.length = 1;
        self.since_ms = time_ms;
        self.stirred = 0.0;
        (self.low, self.high) = (f32::INFINITY, f32::NEG_INFINITY);
    }

    /// So many readings are neither a long run nor a short one.
    fn common(pace: Pace) -> f64 {
        Self::COMMON_MS as f64 / pace.expected_ms.unwrap_or(BIN_MS).max(1) as f64
    }

    /// The present run is over.
    fn end(&mut self, day: i64, common: f64) {
        if self.longest.is_empty() {
            self.longest.push(0);
            self.day = day;
        }
        while self.day < day {
            self.day = if day - self.day > 7 {
                day
            } else {
                self.day + 1
            };
            if self.longest.len() == 7 {
                self.longest.remove(0);
            }
            self.longest.push(0);
        }
        // One that is much longer than those before it counts for less: nobody knows what it was.
        let most = f64::from(self.usual).max(common) * Self::FACTOR;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a length"
        )]
        let length = self.length.min(most as u32);
        if let Some(today) = self.longest.last_mut() {
            *today = (*today).max(length);
        }
        self.usual = self.longest.iter().copied().max().unwrap_or(0);
    }

    /// How many equal values in a row are too many; `None` while nothing can be said. `calm`: see
    /// [`Channel::calm`].
    fn line(&self, pace: Pace, calm: impl FnOnce() -> f64) -> Option<f64> {
        if self.longest.is_empty() || pace.time_ms - self.since_ms < Self::LEAST_MS {
            return None;
        }
        // One day of the week may have had an odd one. Long runs are less far apart than short ones.
        let third = f64::from(self.third());
        let usual = (f64::from(self.usual) * third).sqrt();
        let line = 1.5 * Self::common(pace).powf(0.3) * usual.powf(0.7) * calm();
        Some(line.max(1.3 * third).max(Self::LEAST))
    }

    /// The third longest of the days' longest runs; of fewer days, the shortest.
    fn third(&self) -> u32 {
        let mut days = self.longest.clone();
        days.sort_unstable();
        let at = days.len().saturating_sub(3);
        days.get(at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use vigie_wire::TEMPERATURE;

    use super::*;
    use crate::quantity::Catalogue;

    /// A channel that is fed every ten minutes.
    struct Room {
        channel: Channel,
        spec: Quantity,
        bin: i64,
    }

    impl Room {
        fn new(value: f64) -> Self {
            Self {
                channel: Channel::new(value),
                spec: Catalogue::default().get(TEMPERATURE).unwrap().clone(),
                bin: 0,
            }
        }

        /// `others`: see [`Pace`].
        fn feed(&mut self, value: f64, others: f64) -> Look {
            let pace = Pace {
                time_ms: self.bin * BIN_MS,
                gap_ms: (self.bin > 0).then_some(BIN_MS),
                expected_ms: Some(BIN_MS),
                seasoned: true,
                // A grown sensor: lines are where they are.
                age_ms: (self.bin + 7 * 144) * BIN_MS,
                others,
            };
            self.bin += 1;
            let config = Config::default();
            let (channel, spec) = (&mut self.channel, &self.spec);
            let mut look = Look::of(TEMPERATURE, value);
            channel.observe(&mut look, pace, spec, &config);
            look
        }

        /// Four days: a wave in tenths of a degree, and in the morning a window is opened, which stirs
        /// the others by `others` of their lines.
        fn lived_in(others: f64) -> Self {
            let mut room = Self::new(20.0);
            for bin in 0..4 * 144 {
                let time = f64::from(bin % 144);
                let wave = (10.0 * (time / 144.0 * std::f64::consts::TAU).sin()).round() / 10.0;
                let open = (50..54).contains(&(bin % 144));
                let moved = if [50, 54].contains(&(bin % 144)) {
                    others
                } else {
                    0.0
                };
                room.feed(20.0 + wave - if open { 0.6 } else { 0.0 }, moved);
            }
            room
        }
    }

    fn ratio(distance: Option<Distance>) -> f64 {
        distance.map_or(0.0, |distance| distance.ratio())
    }

    #[test]
    fn what_moves_alone_is_stranger_where_things_move_together() {
        let jump = |company: f64, others: f64| {
            let mut room = Room::lived_in(company);
            ratio(room.feed(room.channel.last + 0.8, others).rate)
        };
        let (together, alone) = (jump(0.3, 0.3), jump(0.3, 0.0));
        assert!(alone > 1.3 * together, "{alone} {together}");
        let (never, now) = (jump(0.0, 0.0), jump(0.0, 0.3));
        assert!(
            (never - now).abs() < 1e-6,
            "who never had company does not miss it"
        );
        assert!(
            together < never && never < alone,
            "{together} {never} {alone}"
        );
    }

    #[test]
    fn noise_is_restless_and_a_course_is_not() {
        let mut room = Room::lived_in(0.0);
        let mut course = Room::lived_in(0.0);
        let noise = [
            0.7, -0.9, 0.4, -0.3, 1.1, -0.6, 0.2, -0.8, 0.9, -0.5, 0.6, -1.0,
        ];
        let (mut worst, mut calm) = (0.0_f64, 0.0_f64);
        for (n, noise) in noise.iter().enumerate() {
            worst = worst.max(ratio(room.feed(20.0 + noise, 0.0).rough));
            // A heater: much larger steps, in one direction.
            calm = calm.max(ratio(course.feed(20.0 + 0.9 * n as f64, 0.0).rough));
        }
        assert!(worst > 1.0 && calm < 0.5, "{worst} {calm}");
    }

    #[test]
    fn one_spike_is_a_jump_and_no_noise() {
        let mut room = Room::lived_in(0.0);
        let spike = room.feed(23.0, 0.0);
        assert!(
            ratio(spike.rate) > 1.0 && ratio(spike.rough) < 1.0,
            "{spike:?}"
        );
        let back = room.feed(20.0, 0.0);
        assert!(
            ratio(back.rate) > 1.0 && ratio(back.rough) < 1.0,
            "{back:?}"
        );
    }

    #[test]
    fn a_jump_knows_what_it_ends_and_whether_others_share_it() {
        // (drift of eight hours, the last step, what others do, what the jump is told as: back or away)
        for (drift, step, others, told) in [
            (3.0, -3.0, 0.0, Some(true)),
            (0.0, 3.0, 0.0, None),
            (0.0, 3.0, 0.3, Some(false)),
        ] {
            let mut room = Room::lived_in(0.0);
            for bin in 0..48 {
                let time = f64::from(bin) / 144.0 * std::f64::consts::TAU;
                let wave = (10.0 * time.sin()).round() / 10.0;
                room.feed(20.0 + wave + drift * f64::from(bin) / 48.0, 0.0);
            }
            let look = room.feed(room.channel.last + step, others);
            assert!(ratio(look.rate) > 1.0, "{look:?}");
            let back = look.jump.map(|jump| jump.away_ms > 0);
            assert_eq!(back, told, "{drift} {step} {others}: {look:?}");
        }
    }

    #[test]
    fn what_stands_still_while_others_move_is_stuck_sooner() {
        // The others never rest; now and then this one does.
        let line = |moves: f64| {
            let mut room = Room::lived_in(0.1);
            for bin in 0..7 * 144 {
                let wave =
                    (10.0 * (f64::from(bin % 144) / 144.0 * std::f64::consts::TAU).sin()).round();
                room.feed(20.0 + wave / 10.0, 0.1);
            }
            let last = room.channel.last;
            let looks = (0..40).filter_map(|_| room.feed(last, moves).stuck);
            looks.last().map(|(_, line, _)| line).unwrap()
        };
        let (still, usual) = (line(0.0), line(0.1));
        assert!(still > 1.2 * usual, "{still} {usual}");
    }

    #[test]
    fn one_odd_day_of_the_week_is_not_the_measure_of_stuck() {
        let pace = |time_ms| Pace {
            time_ms,
            gap_ms: Some(BIN_MS),
            expected_ms: Some(BIN_MS),
            seasoned: true,
            age_ms: 8 * 144 * BIN_MS,
            others: 0.0,
        };
        let line = |runs: &[u32]| {
            let mut run = Run::default();
            for (day, length) in (0..).zip(runs) {
                run.length = *length;
                run.end(day, 24.0);
            }
            run.begin(0);
            [1.0, 0.1].map(|calm| run.line(pace(Run::LEAST_MS), || calm).unwrap())
        };
        let ([even, daily], [odd, _], [short, _]) = (
            line(&[20, 20, 20, 20]),
            line(&[20, 60, 20, 20]),
            line(&[4, 4, 4]),
        );
        assert!(even > 1.5 * 20.0 && odd > even, "{even} {odd}");
        assert!(odd < 1.95 * 60.0 && odd < 2.0 * even, "{even} {odd}");
        assert!(
            (daily - 1.3 * 20.0).abs() < 1e-9,
            "what comes daily is never strange"
        );
        assert!((short - Run::LEAST).abs() < 1e-9, "{short}");
        // Once it may have been stuck; day by day it is its nature.
        let ([once, _], [daily, _]) = (line(&[10, 10, 10, 200]), line(&[200; 6]));
        assert!(once < 60.0 && daily >= 1.3 * 200.0, "{once} {daily}");
        // Often is not seldom: a hundred readings of six seconds are ten minutes.
        let mut often = pace(Run::LEAST_MS);
        often.expected_ms = Some(6_000);
        let mut run = Run {
            length: 2000,
            usual: 2000,
            ..Run::default()
        };
        run.end(0, 2400.0);
        run.begin(0);
        let line = run.line(often, || 1.0).unwrap();
        assert!(line > 2000.0 * 1.3, "{line}");
    }

    #[test]
    fn what_comes_loose_with_a_jump_was_stuck() {
        // (how often the same value, the step after it, whether that tells)
        for (run, step, tells) in [(20, 0.1, false), (20, 0.45, true), (8, 0.45, false)] {
            let mut room = Room::lived_in(0.0);
            let mut long = 0.0_f64;
            for _ in 0..run {
                let stuck = room.feed(20.33, 0.0).stuck;
                long = long.max(stuck.map_or(0.0, |(run, line, _)| f64::from(run) / line));
            }
            assert!(
                long < 1.0,
                "{run} in a row say nothing by themselves: {long}"
            );
            let loose = room.feed(20.33 + step, 0.0).stuck;
            let ratio = loose.map_or(0.0, |(run, line, _)| f64::from(run) / line);
            assert_eq!(ratio >= 1.0, tells, "{run} {step}: {loose:?}");
        }
    }
}
