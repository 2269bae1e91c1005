//! Count, mean, variance, minimum and maximum over a span of time, in constant memory.
//!
//! The span is cut into panes; each pane keeps its moments (Welford's update), and panes are merged
//! by the pairwise formula of Chan, Golub and `LeVeque` ("Updating formulae and a pairwise algorithm
//! for computing sample variances", 1979). The closed panes are merged once per pane, so one
//! reading costs one update and one merge.

use serde::{Deserialize, Serialize};

/// Moments of a set of finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many.
    pub count: u32,
    /// Their mean; 0 if there are none.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
    /// Smallest; +∞ if there are none.
    pub min: f64,
    /// Largest; −∞ if there are none.
    pub max: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            m2: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Moments {
    /// Adds one number.
    pub fn push(&mut self, x: f64) {
        self.count += 1;
        let delta = x - self.mean;
        self.mean += delta / f64::from(self.count);
        self.m2 += delta * (x - self.mean);
        self.min = self.min.min(x);
        self.max = self.max.max(x);
    }

    /// The moments of both sets together.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
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
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

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

/// Moments over the last [`Window::PANES`] panes, the current one included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Pane number of `current`: time divided by the pane's length.
    pane: i64,
    current: Moments,
    /// Closed panes with something in them, oldest first, by pane number.
    closed: Vec<(i64, Moments)>,
    /// `closed`, merged.
    merged: Moments,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            pane: i64::MIN,
            current: Moments::default(),
            closed: Vec::new(),
            merged: Moments::default(),
        }
    }
}

impl Window {
    /// Into how many panes the span is cut: the oldest readings leave a twelfth at a time.
    pub const PANES: i64 = 12;

    /// Moves on to the pane of `time_ms`, letting go of panes that are too old. Time that goes
    /// back stays in the current pane.
    pub fn advance(&mut self, time_ms: i64, pane_ms: i64) {
        let pane = time_ms.div_euclid(pane_ms);
        if pane <= self.pane {
            return;
        }
        if self.current.count > 0 {
            self.closed.push((self.pane, self.current));
            self.current = Moments::default();
        }
        self.pane = pane;
        self.closed
            .retain(|(number, _)| *number > pane - Self::PANES);
        self.merged = self
            .closed
            .iter()
            .fold(Moments::default(), |all, (_, moments)| all.merge(moments));
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        self.pane.cast_unsigned() ^ u64::from(self.current.count ^ self.merged.count)
    }

    /// Adds `x` at the time of the last [`Window::advance`].
    pub fn push(&mut self, x: f64) {
        self.current.push(x);
    }

    /// What is in the window.
    pub fn moments(&self) -> Moments {
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
            .filter(|(time, _)| time.div_euclid(PANE) > newest - Window::PANES)
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
            steps in prop::collection::vec((0_i64..400, -1e3..1e3_f64), 1..300),
            offset in -1e6..1e6_f64,
        ) {
            let mut window = Window::default();
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
            let got = window.moments();
            prop_assert_eq!(got.count as usize, count);
            let scale = offset.abs() + 1e3;
            prop_assert!((got.mean - mean).abs() <= 1e-12 * scale, "{} {}", got.mean, mean);
            prop_assert!((got.variance() - variance).abs() <= 1e-9 * (variance + 1.0), "{} {variance}", got.variance());
            prop_assert_eq!((got.min, got.max), (min, max));
        }
    }

    #[test]
    fn a_long_pause_empties_it() {
        let mut window = Window::default();
        window.advance(0, PANE);
        window.push(5.0);
        window.advance(PANE * Window::PANES, PANE);
        assert_eq!(window.moments(), Moments::default());
    }
}
