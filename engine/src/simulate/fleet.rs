//! The sensors of a simulated fleet and what they measure: pure, and the same for the same seed.
//!
//! A value is a daily cycle of the sensor's own phase, base and amplitude, plus Gaussian noise that
//! depends on (seed, sensor, number of the reading) alone, plus the fault planned for that reading.
//! Any reading can be computed without those before it; a publisher that must send one again
//! computes it again.

use std::f64::consts::TAU;
use std::ops::Range;
use std::time::Duration;

use super::faults::{Affected, Episode, FaultKind, FaultPlan};

/// Standard deviation of the noise on temperature, °C.
pub(crate) const TEMPERATURE_SD: f64 = 0.1;
/// Standard deviation of the noise on humidity, % RH.
pub(crate) const HUMIDITY_SD: f64 = 0.4;

const DAY_MS: i64 = 86_400_000;
/// What a healthy sensor can report, % RH: the codes of a broken one lie outside.
const PLAUSIBLE_HUMIDITY: (f64, f64) = (5.0, 95.0);

/// What a fleet is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetConfig {
    /// Number of sensors, at least 1.
    pub(crate) sensors: usize,
    /// Everything random comes from here.
    pub(crate) seed: u64,
    /// Time between two readings of one sensor; kept to the microsecond.
    pub(crate) interval: Duration,
    /// What goes wrong, and how often.
    pub(crate) faults: FaultPlan,
}

/// The interval at which `sensors` sensors together make `rate` readings per second; 1 ms without
/// a rate, and never less than 1 µs.
pub(crate) fn interval_for(sensors: usize, rate: Option<f64>) -> Duration {
    let seconds = rate.map_or(0.001, |rate| sensors as f64 / rate);
    Duration::try_from_secs_f64(seconds)
        .unwrap_or(Duration::from_secs(u64::from(u32::MAX)))
        .max(Duration::from_micros(1))
}

/// One reading of one sensor, rounded to two decimals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// °C.
    pub(crate) temperature: f64,
    /// % RH.
    pub(crate) humidity: f64,
}

/// A fleet: its sensors are numbered from 0 and named `C001`, `C002`, ….
#[derive(Debug)]
pub(crate) struct Fleet {
    config: FleetConfig,
    interval_us: u64,
    sensors: Vec<Sensor>,
}

/// What is particular to one sensor.
#[derive(Debug)]
struct Sensor {
    /// Hash of seed and index; noise and faults derive from it.
    key: u64,
    /// °C, 18–24.
    base: f64,
    /// °C, 1.5–3.
    amplitude: f64,
    /// Time of day of the warmest moment, ms UTC.
    peak_ms: i64,
    /// % RH at `base`, 42–58.
    humidity: f64,
    /// % RH lost per °C above `base`, 1.5–2.5.
    slope: f64,
}

impl Sensor {
    fn new(seed: u64, index: usize) -> Self {
        let key = mix(mix(seed) ^ (index as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let draw = |salt: u64| unit(mix(key ^ mix(salt)));
        Self {
            key,
            base: 18.0 + 6.0 * draw(1),
            amplitude: 1.5 + 1.5 * draw(2),
            peak_ms: whole_ms(3_600_000.0 * (13.0 + 4.0 * draw(3))),
            humidity: 42.0 + 16.0 * draw(4),
            slope: 1.5 + draw(5),
        }
    }

    /// The healthy value with `noise` times the usual noise on each quantity.
    fn measure(&self, n: u64, time_ms: i64, noise: [f64; 2]) -> Sample {
        let of_day = time_ms.wrapping_sub(self.peak_ms).rem_euclid(DAY_MS);
        let warmer = self.amplitude * (TAU * of_day as f64 / DAY_MS as f64).cos();
        let [a, b] = normals(mix(self
            .key
            .wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))));
        let humidity = self.humidity - self.slope * warmer + noise[1] * HUMIDITY_SD * b;
        Sample {
            temperature: self.base + warmer + noise[0] * TEMPERATURE_SD * a,
            humidity: humidity.clamp(PLAUSIBLE_HUMIDITY.0, PLAUSIBLE_HUMIDITY.1),
        }
    }
}

impl Fleet {
    /// The fleet of this configuration.
    pub(crate) fn new(config: FleetConfig) -> Self {
        let sensors = (0..config.sensors)
            .map(|i| Sensor::new(config.seed, i))
            .collect();
        let interval_us = u64::try_from(config.interval.as_micros()).unwrap_or(u64::MAX);
        Self {
            config,
            interval_us,
            sensors,
        }
    }

    /// What the fleet was made from.
    pub(crate) fn config(&self) -> &FleetConfig {
        &self.config
    }

    /// Number of sensors.
    pub(crate) fn len(&self) -> usize {
        self.sensors.len()
    }

    /// The name of a sensor: `C` and its number from 1, all of the same length, at least 3 digits.
    pub(crate) fn id(&self, sensor: usize) -> String {
        let digits = self.len().max(1).ilog10() as usize + 1;
        format!("C{:0width$}", sensor + 1, width = digits.max(3))
    }

    /// The time of reading `n` of any sensor, when reading 0 is at `start_ms`.
    pub(crate) fn time_of(&self, start_ms: i64, n: u64) -> i64 {
        let offset_ms = n.saturating_mul(self.interval_us) / 1_000;
        start_ms.saturating_add(i64::try_from(offset_ms).unwrap_or(i64::MAX))
    }

    /// Reading `n` of a sensor at `time_ms` (since 1970, UTC), or `None` when it drops out or there
    /// is no such sensor.
    pub(crate) fn sample(&self, sensor: usize, n: u64, time_ms: i64) -> Option<Sample> {
        let model = self.sensors.get(sensor)?;
        let Some(episode) = self.config.faults.at(sensor, model.key, n) else {
            return Some(rounded(model.measure(n, time_ms, [1.0; 2])));
        };
        let mut noise = [1.0; 2];
        let humid = usize::from(episode.quantity == Affected::Humidity);
        if episode.kind == FaultKind::Noise {
            noise[humid] = episode.magnitude;
        }
        let mut sample = model.measure(n, time_ms, noise);
        let value = if humid == 1 {
            &mut sample.humidity
        } else {
            &mut sample.temperature
        };
        match episode.kind {
            FaultKind::Dropout => return None,
            FaultKind::Noise => {}
            FaultKind::Spike => *value += episode.magnitude,
            FaultKind::Sentinel => *value = episode.magnitude,
            FaultKind::Drift => {
                let length = (episode.last_n - episode.first_n + 1) as f64;
                *value += episode.magnitude * (n - episode.first_n + 1) as f64 / length;
            }
            FaultKind::Stuck => {
                let behind = self.time_of(0, n - episode.first_n);
                let frozen = model.measure(episode.first_n, time_ms - behind, [1.0; 2]);
                *value = if humid == 1 {
                    frozen.humidity
                } else {
                    frozen.temperature
                };
            }
        }
        sample.humidity = sample.humidity.clamp(0.0, 100.0);
        Some(rounded(sample))
    }

    /// The episodes of a sensor that have a reading in `readings`, in order.
    pub(crate) fn episodes(&self, sensor: usize, readings: Range<u64>) -> Vec<Episode> {
        self.sensors.get(sensor).map_or_else(Vec::new, |model| {
            self.config.faults.within(sensor, model.key, &readings)
        })
    }
}

fn rounded(sample: Sample) -> Sample {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    Sample {
        temperature: round(sample.temperature),
        humidity: round(sample.humidity),
    }
}

/// Scrambles 64 bits (the finalizer of `SplitMix64`).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in [0, 1) from a hash.
pub(crate) fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// Two independent standard normals from one hash (Box–Muller). 32 bits each: never beyond ±6.7.
fn normals(hash: u64) -> [f64; 2] {
    const STEP: f64 = 1.0 / 4_294_967_296.0;
    let high = ((hash >> 32) as f64 + 1.0) * STEP;
    let low = (hash & 0xFFFF_FFFF) as f64 * STEP;
    let radius = (-2.0 * high.ln()).sqrt();
    let (sin, cos) = (TAU * low).sin_cos();
    [radius * cos, radius * sin]
}

/// A time of day in whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the argument lies within one day"
)]
fn whole_ms(ms: f64) -> i64 {
    ms as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::faults::FaultKind;

    const NOON: i64 = 1_790_000_000_000;

    fn fleet(sensors: usize, seed: u64, kinds: &[FaultKind], every: u64) -> Fleet {
        let faults = FaultPlan {
            kinds: kinds.to_vec(),
            every,
            warmup: 0,
        };
        Fleet::new(FleetConfig {
            sensors,
            seed,
            interval: Duration::from_secs(10),
            faults,
        })
    }

    fn value(sample: Sample, quantity: Affected) -> f64 {
        if quantity == Affected::Humidity {
            sample.humidity
        } else {
            sample.temperature
        }
    }

    #[test]
    fn ids_have_as_many_digits_as_needed_and_at_least_three() {
        assert_eq!(fleet(2, 1, &[], 0).id(0), "C001");
        assert_eq!(fleet(999, 1, &[], 0).id(998), "C999");
        assert_eq!(fleet(1_000, 1, &[], 0).id(0), "C0001");
        assert_eq!(fleet(10_000, 1, &[], 0).id(9_999), "C10000");
    }

    #[test]
    fn the_same_seed_gives_the_same_readings_in_any_order() {
        let (a, b) = (
            fleet(20, 7, &FaultKind::ALL, 200),
            fleet(20, 7, &FaultKind::ALL, 200),
        );
        let other = fleet(20, 8, &FaultKind::ALL, 200);
        let mut differing = 0;
        for n in 0..1_000 {
            for sensor in 0..20 {
                let (back, time) = (999 - n, a.time_of(NOON, 999 - n));
                assert_eq!(a.sample(sensor, back, time), b.sample(sensor, back, time));
                differing += usize::from(
                    a.sample(sensor, n, a.time_of(NOON, n))
                        != other.sample(sensor, n, a.time_of(NOON, n)),
                );
            }
        }
        assert!(differing > 19_000, "{differing}");
    }

    #[test]
    fn noise_has_its_mean_its_deviation_and_no_memory() {
        let fleet = fleet(50, 3, &[], 0);
        let (mut sum, mut squares, mut lagged, mut crossed, mut count) =
            ([0.0; 2], [0.0; 2], 0.0, 0.0, 0.0);
        for sensor in 0..50 {
            let model = &fleet.sensors[sensor];
            let mut before = 0.0;
            for n in 0..4_000 {
                let clean = model.measure(n, NOON, [0.0; 2]);
                let noisy = model.measure(n, NOON, [1.0; 2]);
                let z = [
                    (noisy.temperature - clean.temperature) / TEMPERATURE_SD,
                    (noisy.humidity - clean.humidity) / HUMIDITY_SD,
                ];
                for q in 0..2 {
                    sum[q] += z[q];
                    squares[q] += z[q] * z[q];
                }
                lagged += z[0] * before;
                crossed += z[0] * z[1];
                before = z[0];
                count += 1.0;
            }
        }
        for q in 0..2 {
            assert!((sum[q] / count).abs() < 0.01, "mean {}", sum[q] / count);
            assert!(((squares[q] / count).sqrt() - 1.0).abs() < 0.01);
        }
        assert!((lagged / count).abs() < 0.01 && (crossed / count).abs() < 0.01);
    }

    #[test]
    fn a_day_has_its_range_and_humidity_falls_as_it_warms() {
        let fleet = fleet(200, 11, &[], 0);
        for sensor in 0..200 {
            let day: Vec<_> = (0..288)
                .filter_map(|n| fleet.sample(sensor, n, NOON + 300_000 * i64::try_from(n).ok()?))
                .collect();
            let mean = |f: fn(&Sample) -> f64| day.iter().map(f).sum::<f64>() / 288.0;
            let (t, h) = (mean(|s| s.temperature), mean(|s| s.humidity));
            assert!((17.9..24.1).contains(&t), "{t}");
            assert!((41.5..58.5).contains(&h), "{h}");
            let max = day.iter().map(|s| s.temperature - t).fold(0.0, f64::max);
            assert!((1.4..3.5).contains(&max), "{max}");
            let covariance: f64 = day
                .iter()
                .map(|s| (s.temperature - t) * (s.humidity - h))
                .sum();
            assert!(covariance < -1.0);
            for s in &day {
                assert!((s.temperature * 100.0 - (s.temperature * 100.0).round()).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn readings_are_faulty_exactly_where_the_episodes_say() {
        let faulty = fleet(5, 21, &FaultKind::ALL, 300);
        let healthy = fleet(5, 21, &[], 0);
        let mut seen = std::collections::HashSet::new();
        for sensor in 0..5 {
            let episodes = faulty.episodes(sensor, 0..60_000);
            assert!((190..=200).contains(&episodes.len()));
            let mut expected = episodes.iter().peekable();
            for n in 0..60_000 {
                while expected.next_if(|e| e.last_n < n).is_some() {}
                let time = faulty.time_of(NOON, n);
                let clean = healthy.sample(sensor, n, time).unwrap();
                let got = faulty.sample(sensor, n, time);
                let Some(episode) = expected.peek().filter(|e| e.contains(n)) else {
                    assert_eq!(got, Some(clean), "sensor {sensor} reading {n}");
                    continue;
                };
                seen.insert(episode.kind);
                if episode.kind == FaultKind::Dropout {
                    assert_eq!(got, None);
                    continue;
                }
                let got = got.unwrap();
                let untouched = match episode.quantity {
                    Affected::Humidity => Affected::Temperature,
                    _ => Affected::Humidity,
                };
                assert_eq!(
                    value(got, untouched).to_bits(),
                    value(clean, untouched).to_bits()
                );
                let off = value(got, episode.quantity) - value(clean, episode.quantity);
                let humid = episode.quantity == Affected::Humidity;
                let sd = if humid { HUMIDITY_SD } else { TEMPERATURE_SD };
                match episode.kind {
                    FaultKind::Spike => assert!(off.abs() >= 10.0 * sd, "{episode:?} {off}"),
                    FaultKind::Drift => {
                        let done = (n - episode.first_n + 1) as f64
                            / (episode.last_n - episode.first_n + 1) as f64;
                        assert!(
                            (off - done * episode.magnitude).abs() < 0.011,
                            "{episode:?}"
                        );
                    }
                    FaultKind::Sentinel => {
                        assert!((value(got, episode.quantity) - episode.magnitude).abs() < 1e-9);
                    }
                    FaultKind::Stuck => {
                        let first = faulty.time_of(NOON, episode.first_n);
                        let frozen = healthy.sample(sensor, episode.first_n, first).unwrap();
                        let (now, then) = (
                            value(got, episode.quantity),
                            value(frozen, episode.quantity),
                        );
                        assert_eq!(now.to_bits(), then.to_bits());
                    }
                    FaultKind::Noise => assert!(off.abs() < 7.0 * 7.0 * sd),
                    FaultKind::Dropout => unreachable!("handled above"),
                }
            }
        }
        assert_eq!(seen.len(), FaultKind::ALL.len());
    }

    #[test]
    fn a_burst_is_eight_times_as_noisy() {
        let faulty = fleet(40, 5, &[FaultKind::Noise], 300);
        let (mut squares, mut count) = (0.0, 0.0);
        for sensor in 0..40 {
            for e in faulty.episodes(sensor, 0..30_000) {
                for n in e.first_n..=e.last_n {
                    let time = faulty.time_of(NOON, n);
                    let clean = faulty.sensors[sensor].measure(n, time, [0.0; 2]);
                    let got = faulty.sample(sensor, n, time).unwrap();
                    let humid = e.quantity == Affected::Humidity;
                    let sd = if humid { HUMIDITY_SD } else { TEMPERATURE_SD };
                    let z = (value(got, e.quantity) - value(clean, e.quantity)) / sd;
                    squares += z * z;
                    count += 1.0;
                }
            }
        }
        let factor = f64::sqrt(squares / count);
        assert!((7.9..8.1).contains(&factor), "{factor}");
    }

    #[test]
    fn times_keep_to_a_fraction_of_a_millisecond() {
        assert_eq!(
            interval_for(100, Some(300_000.0)),
            Duration::from_nanos(333_333)
        );
        assert_eq!(interval_for(100, Some(10.0)), Duration::from_secs(10));
        assert_eq!(interval_for(5, None), Duration::from_millis(1));
        assert!(interval_for(5, Some(f64::INFINITY)) >= Duration::from_micros(1));
        let fast = Fleet::new(FleetConfig {
            sensors: 100,
            seed: 1,
            interval: Duration::from_nanos(333_333),
            faults: FaultPlan::none(),
        });
        assert_eq!(fast.time_of(1_000, 3), 1_000);
        assert_eq!(fast.time_of(1_000, 3_000_000), 1_000 + 999_000);
        assert_eq!(fast.time_of(i64::MAX - 1, u64::MAX), i64::MAX);
    }

    #[test]
    fn a_sensor_that_does_not_exist_has_no_reading() {
        let fleet = fleet(2, 1, &FaultKind::ALL, 100);
        assert_eq!(fleet.sample(2, 0, NOON), None);
        assert!(fleet.episodes(2, 0..1_000).is_empty());
    }
}
