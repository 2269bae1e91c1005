//! Which sensor misbehaves, when and how: planned from the seed, so that the labels need no record
//! of the run.
//!
//! The readings of a sensor are cut into blocks of [`FaultPlan::every`]. Each block holds one
//! episode, whose kind, place, length, size and quantity are drawn from a hash of (seed, sensor,
//! block): any reading can be asked about without those before it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::fleet::{HUMIDITY_SD, TEMPERATURE_SD, mix, unit};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FaultKind {
    /// One reading 15 to 40 noise standard deviations off.
    Spike,
    /// The value of the first reading of the episode is repeated (20–120 readings).
    Stuck,
    /// An offset that grows linearly to its full size (60–240 readings).
    Drift,
    /// No readings at all (10–60).
    Dropout,
    /// The code of a broken sensor instead of a value (1–3 readings).
    Sentinel,
    /// Eight times the usual noise (20–60 readings).
    Noise,
}

impl FaultKind {
    /// Every kind, in the order in which they are documented.
    pub(crate) const ALL: [Self; 6] = [
        Self::Spike,
        Self::Stuck,
        Self::Drift,
        Self::Dropout,
        Self::Sentinel,
        Self::Noise,
    ];

    /// The name used on the command line and in label files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spike => "spike",
            Self::Stuck => "stuck",
            Self::Drift => "drift",
            Self::Dropout => "dropout",
            Self::Sentinel => "sentinel",
            Self::Noise => "noise",
        }
    }

    /// Shortest and longest episode, in readings.
    fn lengths(self) -> (u64, u64) {
        match self {
            Self::Spike => (1, 1),
            Self::Stuck => (20, 120),
            Self::Drift => (60, 240),
            Self::Dropout => (10, 60),
            Self::Sentinel => (1, 3),
            Self::Noise => (20, 60),
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = UnknownFaultKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownFaultKind(text.to_owned()))
    }
}

/// A name that is not one of [`FaultKind::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownFaultKind(String);

impl fmt::Display for UnknownFaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown fault {:?}; the kinds are ", self.0)?;
        for (i, kind) in FaultKind::ALL.into_iter().enumerate() {
            write!(f, "{}{kind}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownFaultKind {}

/// The quantity that an episode touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Affected {
    /// Temperature, °C.
    Temperature,
    /// Relative humidity, %.
    Humidity,
    /// The reading as a whole: it is missing.
    All,
}

impl Affected {
    /// The name used in label files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::All => "all",
        }
    }
}

/// One stretch of faulty readings of one sensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Episode {
    /// Index of the sensor in its fleet.
    pub(crate) sensor: usize,
    /// What goes wrong.
    pub(crate) kind: FaultKind,
    /// What it goes wrong with.
    pub(crate) quantity: Affected,
    /// Number of the first faulty reading.
    pub(crate) first_n: u64,
    /// Number of the last faulty reading, inclusive.
    pub(crate) last_n: u64,
    /// Size, in the unit of the quantity: the offset of a spike, the final offset of a drift, the
    /// code of a sentinel; the factor of a noise burst; 0 for stuck and dropout.
    pub(crate) magnitude: f64,
}

impl Episode {
    /// Whether reading `n` is part of the episode.
    pub(crate) fn contains(&self, n: u64) -> bool {
        (self.first_n..=self.last_n).contains(&n)
    }
}

/// Which faults a fleet has, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FaultPlan {
    /// The kinds to draw from; none = a healthy fleet.
    pub(crate) kinds: Vec<FaultKind>,
    /// One episode per sensor in so many readings; at least 16, smaller values count as 16. An
    /// episode lasts at most a quarter of it. 0 = a healthy fleet.
    pub(crate) every: u64,
    /// Nothing starts before this reading of each sensor.
    pub(crate) warmup: u64,
}

/// Fewer readings per block than this leave no room for an episode and a recovery.
const SHORTEST_BLOCK: u64 = 16;
/// Factor on the noise during a burst.
const NOISE_FACTOR: f64 = 8.0;
/// What DS18B20 and DHT22 report when the bus or the conversion fails, °C.
const TEMPERATURE_CODES: [f64; 2] = [-127.0, 85.0];
/// What capacitive humidity sensors report when open or wet, % RH.
const HUMIDITY_CODES: [f64; 2] = [0.0, 100.0];

impl FaultPlan {
    /// No faults at all.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    fn block_len(&self) -> Option<u64> {
        (self.every > 0 && !self.kinds.is_empty()).then(|| self.every.max(SHORTEST_BLOCK))
    }

    /// The episode that reading `n` of the sensor is part of. `key` is the sensor's own hash of
    /// the seed.
    pub(crate) fn at(&self, sensor: usize, key: u64, n: u64) -> Option<Episode> {
        if n < self.warmup {
            return None;
        }
        let block = n / self.block_len()?;
        self.in_block(sensor, key, block)
            .filter(|episode| episode.contains(n))
    }

    /// The episodes that have a reading in `readings`, in order.
    pub(crate) fn within(&self, sensor: usize, key: u64, readings: &Range<u64>) -> Vec<Episode> {
        let Some(len) = self.block_len().filter(|_| !readings.is_empty()) else {
            return Vec::new();
        };
        // No episode starts in a block that ends before the warm-up does.
        let first = readings.start.max(self.warmup) / len;
        let last = (readings.end - 1) / len;
        (first..=last)
            .filter_map(|block| self.in_block(sensor, key, block))
            .filter(|e| e.first_n < readings.end && e.last_n >= readings.start)
            .collect()
    }

    fn in_block(&self, sensor: usize, key: u64, block: u64) -> Option<Episode> {
        let len = self.block_len()?;
        let mut state = mix(key ^ mix(block ^ 0xFA17_FA17_FA17_FA17));
        let mut draw = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            mix(state)
        };
        let kind = *self.kinds.get(below(draw(), self.kinds.len() as u64))?;
        let (shortest, longest) = kind.lengths();
        let longest = longest.min(len / 4);
        let shortest = shortest.min(longest);
        let length = shortest + draw() % (longest - shortest + 1);
        // The last reading of a block is always healthy: neighbouring episodes never touch.
        let first_n = block.checked_mul(len)? + draw() % (len - length);
        if first_n < self.warmup {
            return None;
        }
        let quantity = match kind {
            FaultKind::Dropout => Affected::All,
            _ if draw() & 1 == 0 => Affected::Temperature,
            _ => Affected::Humidity,
        };
        let sign = if draw() & 1 == 0 { 1.0 } else { -1.0 };
        let size = unit(draw());
        let humid = quantity == Affected::Humidity;
        let magnitude = match kind {
            FaultKind::Spike => {
                let sd = if humid { HUMIDITY_SD } else { TEMPERATURE_SD };
                sign * (15.0 + 25.0 * size) * sd
            }
            FaultKind::Drift if humid => sign * (8.0 + 12.0 * size),
            FaultKind::Drift => sign * (2.0 + 4.0 * size),
            FaultKind::Sentinel => {
                let codes = if humid {
                    HUMIDITY_CODES
                } else {
                    TEMPERATURE_CODES
                };
                codes[usize::from(size < 0.5)]
            }
            FaultKind::Noise => NOISE_FACTOR,
            FaultKind::Stuck | FaultKind::Dropout => 0.0,
        };
        let last_n = first_n + length - 1;
        Some(Episode {
            sensor,
            kind,
            quantity,
            first_n,
            last_n,
            magnitude,
        })
    }
}

/// A number below `bound` from a hash. The bound is a length in memory, so it fits `usize`.
fn below(hash: u64, bound: u64) -> usize {
    usize::try_from(hash % bound.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(every: u64, warmup: u64) -> FaultPlan {
        FaultPlan {
            kinds: FaultKind::ALL.to_vec(),
            every,
            warmup,
        }
    }

    #[test]
    fn names_parse_back_and_the_error_lists_them() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "glitch".parse::<FaultKind>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown fault \"glitch\"; the kinds are spike, stuck, drift, dropout, sentinel, noise"
        );
    }

    #[test]
    fn asking_one_by_one_and_asking_for_a_range_agree() {
        for every in [1, 16, 17, 100, 1_000] {
            let plan = plan(every, 50);
            let all = plan.within(3, 77, &(0..5_000));
            assert!(all.len() >= 3, "{every}");
            for n in 0..5_000 {
                let listed: Vec<_> = all.iter().copied().filter(|e| e.contains(n)).collect();
                assert!(listed.len() <= 1, "episodes overlap at {n}");
                assert_eq!(
                    plan.at(3, 77, n),
                    listed.first().copied(),
                    "every {every}, n {n}"
                );
            }
            for pair in all.windows(2) {
                assert!(
                    pair[0].last_n + 1 < pair[1].first_n,
                    "no recovery between {pair:?}"
                );
            }
            assert!(all.iter().all(|e| e.first_n >= 50));
        }
    }

    #[test]
    fn a_range_lists_the_episodes_that_reach_into_it() {
        let plan = plan(1_000, 0);
        for episode in plan.within(0, 5, &(0..20_000)) {
            let touching = plan.within(0, 5, &(episode.last_n..episode.last_n + 1));
            assert_eq!(touching, [episode]);
        }
        let empty: Range<u64> = 7..7;
        assert!(plan.within(0, 5, &empty).is_empty());
    }

    #[test]
    fn every_kind_occurs_with_its_length_and_size() {
        let plan = plan(1_000, 0);
        let all = plan.within(0, 9, &(0..600_000));
        assert_eq!(all.len(), 600);
        for kind in FaultKind::ALL {
            let of_kind: Vec<_> = all.iter().filter(|e| e.kind == kind).collect();
            assert!(of_kind.len() > 60, "{kind}: {}", of_kind.len());
            let (shortest, longest) = kind.lengths();
            for e in of_kind {
                let length = e.last_n - e.first_n + 1;
                assert!((shortest..=longest).contains(&length), "{e:?}");
                let sd = if e.quantity == Affected::Humidity {
                    0.4
                } else {
                    0.1
                };
                match kind {
                    FaultKind::Spike => {
                        assert!((14.9..40.1).contains(&(e.magnitude.abs() / sd)), "{e:?}");
                    }
                    FaultKind::Dropout => assert_eq!(e.quantity, Affected::All),
                    _ => assert_ne!(e.quantity, Affected::All),
                }
            }
        }
    }

    #[test]
    fn no_kinds_or_no_frequency_is_a_healthy_fleet() {
        assert!(FaultPlan::none().within(0, 1, &(0..10_000)).is_empty());
        let idle = FaultPlan {
            kinds: FaultKind::ALL.to_vec(),
            every: 0,
            warmup: 0,
        };
        assert_eq!(idle.at(0, 1, 500), None);
        let kindless = FaultPlan {
            kinds: Vec::new(),
            every: 100,
            warmup: 0,
        };
        assert_eq!(kindless.at(0, 1, 500), None);
    }
}
