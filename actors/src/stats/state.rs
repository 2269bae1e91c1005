//! One sensor: everything that the engine remembers of it between two readings.
//!
//! The state is a pure function of the readings that entered it, in order: a snapshot plus the
//! readings since give it back bit for bit, which is how a restart works.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::QuantityId;

use super::Config;
use super::channel::{Channel, Course, Look, Outlook, Pace};
use super::device::Device;
use super::recent::{Recent, Sighting};
use super::window::Summary;
use crate::quantity::{Catalogue, Quantity};
use crate::reading::Reading;

/// Time between readings, learned as the median of the last 50.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    last: Vec<u32>,
    next: u8,
    median_ms: u32,
    /// Third longest of the last 50: that long a gap is nothing special.
    common_ms: u32,
}

impl Interval {
    const KEPT: usize = 50;
    /// Below this many nothing is said.
    const ENOUGH: usize = 5;

    fn push(&mut self, gap_ms: i64) {
        let gap = u32::try_from(gap_ms).unwrap_or(u32::MAX);
        if self.last.len() < Self::KEPT {
            self.last.reserve_exact(Self::KEPT - self.last.len());
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
            let third = sorted.len() - 3;
            self.common_ms = *sorted.select_nth_unstable(third).1;
        }
    }

    /// See [`SensorState::touch`].
    fn touch(&self) -> u64 {
        u64::from(self.median_ms)
    }

    /// See [`SensorState::touch_beyond`].
    fn touch_beyond(&self) -> u64 {
        u64::from(self.last.get(usize::from(self.next)).copied().unwrap_or(0))
    }

    /// The longest gap that is nothing special.
    pub fn common_ms(&self) -> i64 {
        i64::from(self.common_ms)
    }

    /// The learned interval; `None` until five gaps were seen.
    pub fn expected_ms(&self) -> Option<i64> {
        (self.last.len() >= Self::ENOUGH && self.median_ms > 0).then(|| i64::from(self.median_ms))
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

/// The state of one sensor. Below 16 KB with two quantities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SensorState {
    /// How many readings entered. From here to `next_s` a start reads of every sensor: see
    /// [`SensorState::decode_head`].
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
    /// What the device told of itself.
    pub device: Option<Box<Device>>,
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
    /// The device started, or told of a start.
    pub started: bool,
    /// The node has restarted since the reading before.
    pub restarted: bool,
}

impl SensorState {
    /// The beginning of a state in `postcard`'s format: everything up to `next_s`, the rest as in a
    /// new state. `None`: that is no state.
    pub fn decode_head(bytes: &[u8]) -> Option<Self> {
        let (head, _rest) = postcard::take_from_bytes(bytes).ok()?;
        let (entered, newest_ms, received_ms, first_ms, device_ms, interval, next_s) = head;
        Some(Self {
            entered,
            newest_ms,
            received_ms,
            first_ms,
            device_ms,
            interval,
            next_s,
            ..Self::default()
        })
    }

    /// What is stored of a sensor with its first reading, in place of the whole state: nothing has
    /// entered, for that reading says it all; only what a start asks for is there.
    #[must_use]
    pub fn announced(&self) -> Self {
        Self {
            received_ms: self.received_ms,
            first_ms: self.first_ms,
            next_s: self.next_s,
            ..Self::default()
        }
    }

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
            .or_else(|| {
                let learned = self.interval.expected_ms()?;
                // Who sends now and then is not silent so soon.
                Some(learned.max(self.interval.common_ms() / 2))
            })
    }

    /// Old enough for the baseline to speak.
    pub fn is_seasoned(&self, config: &Config) -> bool {
        self.entered >= u64::from(config.warmup_readings)
            || (self.entered > 0 && self.newest_ms - self.first_ms >= config.warmup.as_ms())
    }

    /// Takes in a reading whose standing is [`Standing::InOrder`].
    pub fn enter(&mut self, reading: &Reading, catalogue: &Catalogue, config: &Config) -> Observed {
        let mut observed = Observed::default();
        self.enter_into(&mut observed, reading, catalogue, config);
        observed
    }

    /// [`SensorState::enter`], for who needs it fast: a new `observed`, which is too large to be moved,
    /// is filled where it is.
    pub fn enter_into(
        &mut self,
        observed: &mut Observed,
        reading: &Reading,
        catalogue: &Catalogue,
        config: &Config,
    ) {
        let is_first = self.entered == 0;
        let gap_ms = (!is_first).then(|| reading.order_ms - self.newest_ms);
        let expected_gap_ms = self.expected_gap_ms().filter(|_| !is_first);
        let seasoned = self.is_seasoned(config);
        if is_first {
            self.first_ms = reading.order_ms;
            self.device_ms = i64::MIN;
        }
        self.device_ms = reading
            .device_ms
            .map_or(self.device_ms, |device| device.max(self.device_ms));
        let heard_before_ms = (!is_first).then_some(self.received_ms);
        if let Some(gap) = gap_ms {
            self.interval.push(gap);
        }
        self.entered += 1;
        self.newest_ms = reading.order_ms;
        self.received_ms = reading.received_ms;
        self.next_s = reading.next_s;
        let restarted = self.recent.is_of_another_boot(reading.identity);
        let started = Device::learn(&mut self.device, reading, restarted);
        let skipped = self.recent.record(reading.identity, reading.order_ms);

        let pace = Pace {
            time_ms: reading.order_ms,
            gap_ms,
            expected_ms: expected_gap_ms,
            seasoned,
            age_ms: reading.order_ms - self.first_ms,
            others: 0.0,
        };
        // How far each known quantity goes.
        let mut stirs: SmallVec<[(QuantityId, f64); 4]> = SmallVec::new();
        for (id, value) in &reading.values {
            let is_plausible = |spec: &Quantity| spec.is_plausible(*value);
            let known = self.channels.iter().find(|(known, _)| known == id);
            if let Some((_, channel)) =
                known.filter(|_| catalogue.get(*id).is_some_and(is_plausible))
            {
                stirs.push((*id, channel.stir(*value)));
            }
        }
        observed.entered = self.entered;
        observed.gap_ms = gap_ms;
        observed.heard_before_ms = heard_before_ms;
        observed.expected_gap_ms = expected_gap_ms;
        observed.skipped = skipped;
        observed.started = started;
        observed.restarted = restarted;
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
                    let look = Channel::new(*value).look(*id, *value, spec, false);
                    observed.looks.push(look);
                    continue;
                }
            };
            let others = stirs.iter().filter(|(other, _)| other != id);
            let others = others.fold(0.0_f64, |most, (_, stir)| most.max(*stir));
            let pace = Pace { others, ..pace };
            observed.looks.push(Look::of(*id, *value));
            if let Some(look) = observed.looks.last_mut() {
                channel.observe(look, pace, spec, config);
            }
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
            started: false,
            restarted: false,
        }
    }

    /// What each quantity is expected to be in a span of time, by what is known now.
    pub fn outlook(
        &self,
        catalogue: &Catalogue,
        config: &Config,
        span: (i64, i64),
    ) -> Vec<(QuantityId, Outlook)> {
        let seasoned = self.is_seasoned(config);
        let known = self.channels.iter();
        let outlook = known.filter_map(|(id, channel)| {
            let spec = catalogue.get(*id)?;
            Some((*id, channel.outlook(*id, spec, seasoned, span)))
        });
        outlook.collect()
    }

    /// Reads a little of every part that the next reading will need; the sum means nothing.
    pub fn touch(&self) -> u64 {
        let own = self.entered ^ self.interval.touch() ^ self.recent.touch();
        let channels = self.channels.iter();
        channels.fold(own, |sum, (id, channel)| {
            sum ^ u64::from(id.0) ^ channel.touch()
        })
    }

    /// The same of what those parts only point at.
    pub fn touch_beyond(&self) -> u64 {
        let channels = self.channels.iter();
        channels.fold(self.interval.touch_beyond(), |sum, (_, channel)| {
            sum ^ channel.touch_beyond()
        })
    }

    /// Where its quantities were last, and when.
    pub fn courses(&self) -> impl Iterator<Item = (QuantityId, i64, Course)> {
        self.channels.iter().map(|(id, channel)| {
            let (at_ms, course) = channel.course();
            (*id, at_ms, course)
        })
    }

    /// The baseline of one quantity, for the API and the tests.
    pub fn baseline(&self, quantity: QuantityId) -> Option<Summary> {
        let (_, channel) = self.channels.iter().find(|(id, _)| *id == quantity)?;
        Some(channel.baseline())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;
    use crate::quantity::{LARGEST, SMALLEST};
    use crate::reading::Identity;

    pub(crate) fn reading(seq: u64, time_ms: i64, temperature: f64) -> Reading {
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
            start: None,
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
        assert_eq!(baseline.moments.count, 400);
        assert!((baseline.moments.mean - 21.01).abs() < 0.01);
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
        assert!((baseline.moments.mean - 26.0).abs() < 0.1, "{baseline:?}");
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

    /// The largest numbers that a config can allow, in the smallest floors, back and forth for two days;
    /// then a room.
    #[test]
    fn what_swings_from_end_to_end_stays_finite_and_is_judged_again_afterwards() {
        let wide = crate::quantity::Config {
            unit: "J".into(),
            min: -LARGEST,
            max: LARGEST,
            floor: Some(SMALLEST),
            error_codes: vec![],
        };
        let catalogue = Catalogue::build(&[("energy".to_owned(), wide)].into(), &[]).unwrap();
        let energy = catalogue.names().get("energy").unwrap();
        let config = Config::default();
        let mut state = SensorState::default();
        let mut last = None;
        for n in 0..40 * 144 {
            let value = match n {
                0..288 if n % 2 == 0 => LARGEST,
                0..288 => -LARGEST,
                _ => noisy(n),
            };
            let mut next = reading(n, n.cast_signed() * 600_000, 20.0);
            next.values = SmallVec::from_slice(&[(energy, value)]);
            let look = state.enter(&next, &catalogue, &config).looks[0];
            let said = format!("{look:?}");
            assert!(
                !said.contains("NaN") && !said.contains("inf"),
                "{n}: {said}"
            );
            last = Some(look);
        }
        let last = last.unwrap();
        assert!(
            last.warm && last.spread < 1.0 && last.usual_z < 8.0,
            "{last:?}"
        );
    }

    /// A start may replay readings of a quantity that the config names no longer.
    #[test]
    fn a_retired_quantity_is_not_deaf_when_it_is_declared_again() {
        let names = ["temperature", "humidity", "co2"].map(str::to_owned);
        let retired = Catalogue::build(&[].into(), &names).unwrap();
        let co2 = retired.names().get("co2").unwrap();
        let mut state = SensorState::default();
        for n in 0..400 {
            let mut next = reading(n, n.cast_signed() * 10_000, 20.0);
            // It stands still, and moves in the end.
            let value = if n < 390 { 400.0 } else { 404.0 };
            next.values = SmallVec::from_slice(&[(co2, value)]);
            let look = state.enter(&next, &retired, &Config::default()).looks[0];
            assert!(look.usual_z < 8.0, "{look:?}");
        }
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

    /// Every size of step that there is: no sketch is spared a bucket.
    #[test]
    fn a_week_is_below_its_size() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut state = SensorState::default();
        for n in 0..9 * 1440 {
            let far = 2.0_f64.powi((n % 17) as i32 - 12);
            let next = reading(n, n.cast_signed() * 60_000, noisy(n) + far);
            state.enter(&next, &catalogue, &config);
        }
        let bytes = postcard::to_allocvec(&state).unwrap();
        assert!(bytes.len() < 16_384, "{} bytes", bytes.len());
    }

    #[test]
    fn what_is_stored_with_the_first_reading_grows_to_the_same_state() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut first = reading(0, 5_000, 21.0);
        first.next_s = Some(60);
        let mut whole = SensorState::default();
        whole.enter(&first, &catalogue, &config);
        let announced = whole.announced();
        let bytes = postcard::to_allocvec(&announced).unwrap();
        assert!(bytes.len() < 64, "{} bytes", bytes.len());
        assert_eq!(SensorState::decode_head(&bytes), Some(announced));
        let mut restored: SensorState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(restored.expected_gap_ms(), Some(60_000));
        restored.enter(&first, &catalogue, &config);
        assert_eq!(restored, whole);
    }

    #[test]
    fn a_snapshot_gives_the_state_back_bit_for_bit() {
        let (catalogue, config) = (Catalogue::default(), Config::default());
        let mut whole = grown(300);
        let bytes = postcard::to_allocvec(&whole).unwrap();
        assert!(bytes.len() < 16_384, "{} bytes", bytes.len());
        let mut restored: SensorState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(restored, whole);
        let head = SensorState {
            recent: Recent::default(),
            device: None,
            channels: SmallVec::new(),
            ..whole.clone()
        };
        assert_eq!(SensorState::decode_head(&bytes), Some(head));
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
