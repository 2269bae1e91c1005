//! Count, mean, variance, minimum and maximum over a span of time, in constant memory.
//!
//! The span is cut into panes; each pane keeps its moments (Welford's update), and panes are merged
//! by the pairwise formula of Chan, Golub and `LeVeque` ("Updating formulae and a pairwise algorithm
//! for computing sample variances", 1979). The closed panes are merged once per pane, so one
//! reading costs one update and one merge.

use serde::{Deserialize, Serialize};

/// What can be gathered number by number, and merged.
pub trait Gathered: Copy + Default {
    /// Adds one finite number.
    fn push(&mut self, x: f64);
    /// Both sets together.
    #[must_use]
    fn merge(&self, other: &Self) -> Self;
    /// How many numbers.
    fn count(&self) -> u32;
}

/// Count, mean and variance of a set of finite numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many.
    pub count: u32,
    /// Their mean; 0 if there are none.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
}

/// [`Moments`] in half the room, for closed panes of what needs no more than seven digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rounded {
    count: u32,
    mean: f32,
    m2: f32,
}

#[allow(clippy::cast_possible_truncation, reason = "what it is for")]
impl From<Moments> for Rounded {
    fn from(Moments { count, mean, m2 }: Moments) -> Self {
        Self {
            count,
            mean: mean.clamp(f32::MIN.into(), f32::MAX.into()) as f32,
            m2: m2.min(f32::MAX.into()) as f32,
        }
    }
}

impl From<Rounded> for Moments {
    fn from(Rounded { count, mean, m2 }: Rounded) -> Self {
        Self {
            count,
            mean: f64::from(mean),
            m2: f64::from(m2),
        }
    }
}

impl Gathered for Moments {
    fn push(&mut self, x: f64) {
        self.count += 1;
        let delta = x - self.mean;
        self.mean += delta / f64::from(self.count);
        self.m2 += delta * (x - self.mean);
    }

    fn merge(&self, other: &Self) -> Self {
        if other.count == 0 {
            return *self;
        }
        if self.count == 0 {
            return *other;
        }
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let share = f64::from(other.count) / f64::from(count);
        Self {
            count,
            mean: self.mean + delta * share,
            m2: self.m2 + other.m2 + delta * delta * f64::from(self.count) * share,
        }
    }

    fn count(&self) -> u32 {
        self.count
    }
}

impl Moments {
    /// Sample variance; 0 below two numbers.
    pub fn variance(&self) -> f64 {
        if self.count < 2 {
            0.0
        } else {
            self.m2 / f64::from(self.count - 1)
        }
    }

    /// Sample standard deviation; 0 below two numbers.
    pub fn sd(&self) -> f64 {
        self.variance().sqrt()
    }
}

/// The moments, and how far the numbers reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Count, mean and variance.
    pub moments: Moments,
    /// Smallest; +∞ if there are none.
    pub min: f64,
    /// Largest; −∞ if there are none.
    pub max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            moments: Moments::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Gathered for Summary {
    fn push(&mut self, x: f64) {
        self.moments.push(x);
        self.min = self.min.min(x);
        self.max = self.max.max(x);
    }

    fn merge(&self, other: &Self) -> Self {
        Self {
            moments: self.moments.merge(&other.moments),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    fn count(&self) -> u32 {
        self.moments.count
    }
}

/// What was gathered in the last [`PANES`] panes, the current one included; `K` is what is kept of a
/// closed one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window<G, K = G> {
    /// Pane number of `current`: time divided by the pane's length.
    pane: i64,
    current: G,
    /// Closed panes, each at its number modulo [`PANES`]; empty until one is closed.
    closed: Vec<K>,
    /// `closed`, merged.
    merged: G,
}

impl<G: Gathered, K> Default for Window<G, K> {
    fn default() -> Self {
        Self {
            pane: i64::MIN,
            current: G::default(),
            closed: Vec::new(),
            merged: G::default(),
        }
    }
}

/// Into how many panes the span is cut: the oldest readings leave a twelfth at a time.
pub const PANES: i64 = 12;
const PLACES: usize = 12;

fn place(pane: i64) -> usize {
    usize::try_from(pane.rem_euclid(PANES)).unwrap_or(0)
}

impl<G: Gathered, K: Copy + Default + From<G> + Into<G>> Window<G, K> {
    /// Moves on to the pane of `time_ms`, letting go of panes that are too old. Time that goes
    /// back stays in the current pane.
    pub fn advance(&mut self, time_ms: i64, pane_ms: i64) {
        let pane = time_ms.div_euclid(pane_ms);
        if pane <= self.pane {
            return;
        }
        if self.current.count() > 0 && self.closed.is_empty() {
            self.closed = vec![K::default(); PLACES];
        }
        if !self.closed.is_empty() {
            self.closed[place(self.pane)] = self.current.into();
            // The panes that nothing came in, and the place of the one that begins.
            for skipped in (self.pane + 1..=pane).rev().take(PLACES) {
                self.closed[place(skipped)] = K::default();
            }
            self.merged = (pane + 1 - PANES..pane).fold(G::default(), |all, one| {
                all.merge(&self.closed[place(one)].into())
            });
        }
        self.current = G::default();
        self.pane = pane;
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        self.pane.cast_unsigned() ^ u64::from(self.current.count() ^ self.merged.count())
    }

    /// Adds `x` at the time of the last [`Window::advance`].
    pub fn push(&mut self, x: f64) {
        self.current.push(x);
    }

    /// What is in the window.
    pub fn gathered(&self) -> G {
        self.merged.merge(&self.current)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PANE: i64 = 100;

    /// The naive two-pass computation over the same readings.
    fn oracle(readings: &[(i64, f64)]) -> Option<(usize, f64, f64, f64, f64)> {
        let newest = readings.last()?.0.div_euclid(PANE);
        let inside: Vec<f64> = readings
            .iter()
            .filter(|(time, _)| time.div_euclid(PANE) > newest - PANES)
            .map(|(_, x)| *x)
            .collect();
        let n = inside.len() as f64;
        let mean = inside.iter().sum::<f64>() / n;
        let variance = if inside.len() < 2 {
            0.0
        } else {
            inside.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)
        };
        let min = inside.iter().copied().fold(f64::INFINITY, f64::min);
        let max = inside.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some((inside.len(), mean, variance, min, max))
    }

    proptest! {
        #[test]
        #[allow(clippy::float_cmp, reason = "minimum and maximum are copies, not results")]
        fn equals_the_naive_two_pass(
            steps in prop::collection::vec((prop_oneof![9 => 0_i64..400, 1 => 0_i64..4000], -1e3..1e3_f64), 1..300),
            offset in -1e6..1e6_f64,
        ) {
            let mut window = Window::<Summary>::default();
            let mut readings = Vec::new();
            let mut time = 1_790_000_000_000;
            for (step, x) in steps {
                time += step;
                let x = x + offset;
                readings.push((time, x));
                window.advance(time, PANE);
                window.push(x);
            }
            let (count, mean, variance, min, max) = oracle(&readings).unwrap();
            let Summary { moments: got, min: least, max: most } = window.gathered();
            prop_assert_eq!(got.count as usize, count);
            let scale = offset.abs() + 1e3;
            prop_assert!((got.mean - mean).abs() <= 1e-12 * scale, "{} {}", got.mean, mean);
            prop_assert!((got.variance() - variance).abs() <= 1e-9 * (variance + 1.0), "{} {variance}", got.variance());
            prop_assert_eq!((least, most), (min, max));
        }
    }

    #[test]
    fn a_long_pause_empties_it() {
        let mut window = Window::<Summary>::default();
        window.advance(0, PANE);
        window.push(5.0);
        window.advance(PANE * PANES, PANE);
        assert_eq!(window.gathered(), Summary::default());
    }
}
