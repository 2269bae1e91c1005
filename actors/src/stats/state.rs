//! One sensor: everything that the engine remembers of it between two readings.
//!
//! The state is a pure function of the readings that entered it, in order: a snapshot plus the
//! readings since give it back bit for bit, which is how a restart works.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::QuantityId;

use super::Config;
use super::recent::{Recent, Sighting};
use super::window::{Moments, Window};
use crate::quantity::{Catalogue, Quantity};
use crate::reading::Reading;

/// Time between readings, learned as the median of the last 50.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    last: Vec<u32>,
    next: u8,
    median_ms: u32,
}

impl Interval {
    const KEPT: usize = 50;
    /// Below this many nothing is said.
    const ENOUGH: usize = 5;

    fn push(&mut self, gap_ms: i64) {
        let gap = u32::try_from(gap_ms).unwrap_or(u32::MAX);
        if self.last.len() < Self::KEPT {
            self.last.push(gap);
        } else {
            self.last[usize::from(self.next)] = gap;
        }
        self.next = (self.next + 1) % 50;
        // The median of 50 moves slowly: every eighth reading is often enough.
        if self.last.len() >= Self::ENOUGH && (self.last.len() < 16 || self.next.is_multiple_of(8))
        {
            let mut sorted: SmallVec<[u32; Self::KEPT]> = SmallVec::from_slice(&self.last);
            let middle = sorted.len() / 2;
            self.median_ms = *sorted.select_nth_unstable(middle).1;
        }
    }

    /// The learned interval; `None` until five gaps were seen.
    pub fn expected_ms(&self) -> Option<i64> {
        (self.last.len() >= Self::ENOUGH && self.median_ms > 0).then(|| i64::from(self.median_ms))
    }
}

/// Baseline of one quantity of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Last plausible value.
    last: f64,
    /// Exponentially weighted mean, the short-term expectation.
    ewma: f64,
    /// Exponentially weighted mean of squared deviations from `ewma`: the present noise.
    noise: f64,
    values: Window,
    /// Deviations from `ewma`.
    residuals: Window,
    /// Since when values have been too far away to enter `values`.
    frozen_since: Option<i64>,
    /// How many readings in a row deviated from `ewma` by more than the freeze line.
    astray: u8,
    /// Exponentially weighted share of such readings.
    astray_share: f64,
}

/// One value of a reading against its baseline, as it was before that value.
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
    /// The baseline.
    pub baseline: Moments,
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
    /// The baseline has enough readings to speak.
    pub warm: bool,
    /// Deviations have enough readings to speak (earlier than the baseline).
    pub residual_warm: bool,
    /// Since when the values have been away from the baseline.
    pub frozen_since: Option<i64>,
    /// With this value the new level became the baseline.
    pub new_normal: bool,
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

    fn new(value: f64) -> Self {
        Self {
            last: value,
            ewma: value,
            noise: 0.0,
            values: Window::default(),
            residuals: Window::default(),
            frozen_since: None,
            astray: 0,
            astray_share: 0.0,
        }
    }

    fn look(&self, id: QuantityId, value: f64, spec: &Quantity, seasoned: bool) -> Look {
        let baseline = self.values.moments();
        let spread = baseline.sd().max(spec.floor);
        let residuals = self.residuals.moments();
        let residual_spread = residuals.sd().max(spec.floor);
        let z = if baseline.count < 2 {
            0.0
        } else {
            (value - baseline.mean) / spread
        };
        Look {
            quantity: id,
            value,
            plausible: spec.is_plausible(value),
            baseline,
            spread,
            z,
            expected: self.ewma,
            residual_spread,
            residual_z: (value - self.ewma) / residual_spread,
            step: value - self.last,
            noise_ratio: ((self.noise.sqrt() + 0.1 * spec.floor)
                / (residual_spread + 0.1 * spec.floor))
                .ln(),
            warm: seasoned && baseline.count >= 30,
            residual_warm: residuals.count >= Self::RESIDUALS,
            frozen_since: self.frozen_since,
            new_normal: false,
        }
    }

    /// Looks at `value`, then learns from it what may be learned.
    fn observe(
        &mut self,
        id: QuantityId,
        value: f64,
        time_ms: i64,
        seasoned: bool,
        spec: &Quantity,
        config: &Config,
    ) -> Look {
        let pane_ms = (config.window.as_ms() / Window::PANES).max(1);
        self.values.advance(time_ms, pane_ms);
        self.residuals.advance(time_ms, pane_ms);
        let mut look = self.look(id, value, spec, seasoned);
        if !look.plausible {
            return look;
        }

        // Long term: far values wait outside until they have stayed for `accept_after`.
        if look.warm && look.z.abs() > config.freeze_z {
            let since = *self.frozen_since.get_or_insert(time_ms);
            look.frozen_since = Some(since);
            if time_ms - since >= config.accept_after.as_ms() {
                self.values = Window::default();
                self.values.advance(time_ms, pane_ms);
                self.values.push(value);
                self.frozen_since = None;
                look.new_normal = true;
            }
        } else {
            self.frozen_since = None;
            look.frozen_since = None;
            self.values.push(value);
        }

        // Short term: one stray value is not followed, the third in a row is.
        let residual = value - self.ewma;
        let stray = look.residual_warm && look.residual_z.abs() > config.freeze_z;
        self.astray_share += Self::BETA * (f64::from(u8::from(stray)) - self.astray_share);
        if stray {
            self.astray = self.astray.saturating_add(1);
            if self.astray >= Self::FOLLOW {
                self.ewma = value;
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
        self.last = value;
        look
    }
}

/// How a reading stands to what is known of its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The next one: it enters the state.
    InOrder,
    /// Older than the newest: stored, scored against the state as it is, never entering it. The
    /// store checks whether it is a duplicate.
    Late,
    /// Was taken in before.
    Duplicate,
    /// Newer than the newest by receive time, but its number may be known: ask the store first.
    AskStore,
}

/// The state of one sensor. Below 4 KB with two quantities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SensorState {
    /// How many readings entered. The first ones in a snapshot are these three, so that a start
    /// can read them without the rest.
    pub entered: u64,
    /// Order time of the newest.
    pub newest_ms: i64,
    /// Receive time of the newest.
    pub received_ms: i64,
    /// Order time of the first.
    pub first_ms: i64,
    /// The latest device time that entered: ahead of `newest_ms` if the node's clock is fast.
    pub device_ms: i64,
    /// Learned time between readings.
    pub interval: Interval,
    /// Announced by the newest reading.
    pub next_s: Option<u32>,
    /// Redeliveries and gaps.
    pub recent: Recent,
    channels: SmallVec<[(QuantityId, Channel); 2]>,
}

/// A reading against the state of its sensor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Its number among the readings that entered the state, from 1; of a late one: that of the
    /// newest.
    pub entered: u64,
    /// One per value, in the same order.
    pub looks: SmallVec<[Look; 2]>,
    /// Since the reading before, by order time; `None` for the first.
    pub gap_ms: Option<i64>,
    /// When the reading before was received.
    pub heard_before_ms: Option<i64>,
    /// The gap that was to be expected.
    pub expected_gap_ms: Option<i64>,
    /// Sequence numbers skipped just before.
    pub skipped: u64,
}

impl SensorState {
    /// How `reading` stands to this state. Changes nothing.
    pub fn standing(&self, reading: &Reading) -> Standing {
        let sighting = self.recent.sighting(reading.identity, reading.order_ms);
        if sighting == Sighting::Seen {
            return Standing::Duplicate;
        }
        if self.entered > 0 && reading.order_ms < self.newest_ms {
            return Standing::Late;
        }
        // A redelivery has the device time of its original, so later than all of those is new.
        let later = self.entered == 0 || reading.device_ms > Some(self.device_ms);
        let newer = self.entered == 0 || reading.order_ms > self.newest_ms;
        match sighting {
            Sighting::Fresh => Standing::InOrder,
            _ if reading.needs_index() => Standing::AskStore,
            _ if newer && later => Standing::InOrder,
            _ if newer => Standing::AskStore,
            _ => Standing::Late,
        }
    }

    /// The gap after which the next reading is overdue: announced, else learned.
    pub fn expected_gap_ms(&self) -> Option<i64> {
        self.next_s
            .filter(|seconds| *seconds > 0)
            .map(|seconds| i64::from(seconds) * 1000)
            .or_else(|| self.interval.expected_ms())
    }

    /// Old enough for the baseline to speak.
    fn is_seasoned(&self, config: &Config) -> bool {
        self.entered >= u64::from(config.warmup_readings)
            || (self.entered > 0 && self.newest_ms - self.first_ms >= config.warmup.as_ms())
    }

    /// Takes in a reading whose standing is [`Standing::InOrder`].
    pub fn enter(&mut self, reading: &Reading, catalogue: &Catalogue, config: &Config) -> Observed {
        let gap_ms = (self.entered > 0).then(|| reading.order_ms - self.newest_ms);
        let expected_gap_ms = self.expected_gap_ms();
        let seasoned = self.is_seasoned(config);
        if self.entered == 0 {
            self.first_ms = reading.order_ms;
            self.device_ms = i64::MIN;
        }
        self.device_ms = reading
            .device_ms
            .map_or(self.device_ms, |device| device.max(self.device_ms));
        let heard_before_ms = (self.entered > 0).then_some(self.received_ms);
        if let Some(gap) = gap_ms {
            self.interval.push(gap);
        }
        self.entered += 1;
        self.newest_ms = reading.order_ms;
        self.received_ms = reading.received_ms;
        self.next_s = reading.next_s;
        let skipped = self.recent.record(reading.identity, reading.order_ms);

        let mut looks = SmallVec::new();
        for (id, value) in &reading.values {
            let Some(spec) = catalogue.get(*id) else {
                continue;
            };
            let at = self.channels.iter().position(|(known, _)| known == id);
            let channel = match at {
                Some(at) => &mut self.channels[at].1,
                None if spec.is_plausible(*value) => {
                    self.channels.push((*id, Channel::new(*value)));
                    let newest = self.channels.len() - 1;
                    &mut self.channels[newest].1
                }
                None => {
                    looks.push(Channel::new(*value).look(*id, *value, spec, false));
                    continue;
                }
            };
            looks.push(channel.observe(*id, *value, reading.order_ms, seasoned, spec, config));
        }
        Observed {
            entered: self.entered,
            looks,
            gap_ms,
            heard_before_ms,
            expected_gap_ms,
            skipped,
        }
    }

    /// Looks at a late reading; changes nothing.
    pub fn look_back(&self, reading: &Reading, catalogue: &Catalogue, config: &Config) -> Observed {
        let seasoned = self.is_seasoned(config);
        let looks = reading
            .values
            .iter()
            .filter_map(|(id, value)| {
                let spec = catalogue.get(*id)?;
                let known = self.channels.iter().find(|(known, _)| known == id);
                Some(match known {
                    Some((_, channel)) => channel.look(*id, *value, spec, seasoned),
                    None => Channel::new(*value).look(*id, *value, spec, false),
                })
            })
            .collect();
        Observed {
            entered: self.entered,
            looks,
            gap_ms: None,
            heard_before_ms: None,
            expected_gap_ms: self.expected_gap_ms(),
            skipped: 0,
        }
    }

    /// The baseline of one quantity, for the API and the tests.
    pub fn baseline(&self, quantity: QuantityId) -> Option<Moments> {
        let (_, channel) = self.channels.iter().find(|(id, _)| *id == quantity)?;
        Some(channel.values.moments())
    }
}

#[cfg(test)]
mod tests {
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;
    use crate::reading::Identity;

    fn reading(seq: u64, time_ms: i64, temperature: f64) -> Reading {
        Reading {
            sensor: "C001".try_into().unwrap(),
            device_ms: Some(time_ms),
            received_ms: time_ms + 20,
            order_ms: time_ms,
            identity: Identity::Sequence {
                boot: "b".try_into().unwrap(),
                seq,
            },
            next_s: None,
            values: SmallVec::from_slice(&[(TEMPERATURE, temperature), (HUMIDITY, 50.0)]),
        }
    }

    /// A value with some noise that needs no generator.
    fn noisy(n: u64) -> f64 {
        21.0 + [0.0, 0.11, -0.07, 0.05, -0.12, 0.02, 0.09][(n % 7) as usize]
    }

    fn grown(readings: u64) -> SensorState {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut state = SensorState::default();
        for n in 0..readings {
            state.enter(
                &reading(n, n.cast_signed() * 10_000, noisy(n)),
                &catalogue,
                &config,
            );
        }
        state
    }

    #[test]
    fn learns_interval_and_baseline() {
        let state = grown(400);
        assert_eq!(state.expected_gap_ms(), Some(10_000));
        let baseline = state.baseline(TEMPERATURE).unwrap();
        assert_eq!(baseline.count, 400);
        assert!((baseline.mean - 21.01).abs() < 0.01);
    }

    #[test]
    fn a_spike_stands_out_and_is_not_learned() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut state = grown(400);
        let before = state.baseline(TEMPERATURE);
        let seen = state.enter(&reading(400, 4_000_000, 26.0), &catalogue, &config);
        let look = seen.looks[0];
        assert!(
            look.warm && look.z > 40.0 && look.residual_z > 40.0,
            "{look:?}"
        );
        assert_eq!(state.baseline(TEMPERATURE), before);
        let next = state
            .enter(&reading(401, 4_010_000, 21.0), &catalogue, &config)
            .looks[0];
        assert!(
            next.residual_z.abs() < 2.0,
            "the expectation did not follow the spike"
        );
    }

    #[test]
    fn a_new_level_is_accepted_after_its_time() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut state = grown(400);
        let mut accepted = None;
        for n in 400..900 {
            let seen = state.enter(
                &reading(n, n.cast_signed() * 10_000, noisy(n) + 5.0),
                &catalogue,
                &config,
            );
            if seen.looks[0].new_normal {
                accepted.get_or_insert(n);
            }
        }
        assert_eq!(accepted, Some(760), "an hour of readings every 10 s");
        let baseline = state.baseline(TEMPERATURE).unwrap();
        assert!((baseline.mean - 26.0).abs() < 0.1, "{baseline:?}");
    }

    #[test]
    fn an_error_code_is_not_learned() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut state = grown(400);
        let before = state.baseline(TEMPERATURE);
        let seen = state.enter(&reading(400, 4_000_000, -127.0), &catalogue, &config);
        assert!(!seen.looks[0].plausible);
        assert_eq!(state.baseline(TEMPERATURE), before);
    }

    #[test]
    fn standing_of_a_reading() {
        let state = grown(10);
        assert_eq!(
            state.standing(&reading(10, 100_000, 21.0)),
            Standing::InOrder
        );
        assert_eq!(
            state.standing(&reading(9, 90_000, 21.0)),
            Standing::Duplicate
        );
        assert_eq!(
            state.standing(&reading(3, 30_000, 21.0)),
            Standing::Duplicate
        );
        let mut other_boot = reading(3, 30_000, 21.0);
        other_boot.identity = Identity::Sequence {
            boot: "older".try_into().unwrap(),
            seq: 3,
        };
        assert_eq!(state.standing(&other_boot), Standing::Late);
        other_boot.device_ms = None;
        other_boot.order_ms = 200_000;
        assert_eq!(state.standing(&other_boot), Standing::AskStore);
    }

    #[test]
    fn a_snapshot_gives_the_state_back_bit_for_bit() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut whole = grown(300);
        let bytes = postcard::to_allocvec(&whole).unwrap();
        assert!(bytes.len() < 4096, "{} bytes", bytes.len());
        let mut restored: SensorState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(restored, whole);
        for n in 300..700 {
            let next = reading(n, n.cast_signed() * 10_000, noisy(n * 3));
            assert_eq!(
                restored.enter(&next, &catalogue, &config),
                whole.enter(&next, &catalogue, &config)
            );
        }
        assert_eq!(
            postcard::to_allocvec(&restored).unwrap(),
            postcard::to_allocvec(&whole).unwrap()
        );
    }
}
