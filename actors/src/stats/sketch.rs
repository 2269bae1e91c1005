//! Quantiles of the sizes of numbers over the last days, in constant memory: a histogram with
//! logarithmic buckets (the idea of Masson, Rim and Lee, "`DDSketch`", VLDB 2019), whose weights
//! fade day by day.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Histogram of sizes (numbers ≥ 0).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    /// The day of the last [`Sketch::advance`].
    day: i32,
    /// Weight of the numbers that are zero, or too small beside the largest.
    zeros: f32,
    /// Number of the bucket that `weights` begins with.
    first: i32,
    weights: Vec<f32>,
    total: f32,
}

/// A sketch of what comes often. Eight sizes are sorted in together: the buckets lie in memory that is
/// slow to reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Often {
    /// Its weight is that of all sizes.
    sketch: Sketch,
    /// Sizes with their weights that have not been sorted into it yet.
    waiting: SmallVec<[(f32, f32); 8]>,
}

impl Often {
    /// See [`Sketch::advance`].
    pub fn advance(&mut self, day: i64) {
        if day > self.sketch.day.into() {
            self.settle();
            self.sketch.advance(day);
        }
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        self.sketch.touch() ^ self.waiting.len() as u64
    }

    /// See `SensorState::touch_beyond`. `soon`: the buckets will be needed.
    pub fn touch_beyond(&self, soon: bool) -> u64 {
        if !soon && self.waiting.len() + 1 < self.waiting.inline_size() {
            return 0;
        }
        // One of each cache line.
        let weights = self.sketch.weights.iter().step_by(16);
        weights.fold(0, |sum, weight| sum ^ u64::from(weight.to_bits()))
    }

    /// See [`Sketch::push`].
    pub fn push(&mut self, size: f64, weight: f32) {
        self.sketch.total += weight;
        #[allow(clippy::cast_possible_truncation, reason = "sorted into wide buckets")]
        self.waiting.push((size as f32, weight));
        if self.waiting.len() == self.waiting.inline_size() {
            self.settle();
        }
    }

    /// All sizes so far, sorted in.
    pub fn settle(&mut self) -> &Sketch {
        for (size, weight) in std::mem::take(&mut self.waiting) {
            self.sketch.sort_in(f64::from(size), weight);
        }
        &self.sketch
    }

    /// See [`Sketch::weight`].
    pub fn weight(&self) -> f64 {
        self.sketch.weight()
    }
}

impl Sketch {
    /// Buckets per doubling: a quantile is right within 6 %.
    const PER_DOUBLING: f64 = 6.0;
    /// Buckets kept: sizes from the largest down to a 65,000th of it.
    const KEPT: i32 = 96;
    /// Buckets that there is made room for at once.
    const AT_ONCE: usize = 8;
    /// After so many days the weight of a number has faded to 1/e.
    const DAYS: f64 = 7.0;

    /// Moves on to `day`; what is older weighs less.
    pub fn advance(&mut self, day: i64) {
        #[allow(clippy::cast_possible_truncation, reason = "clamped")]
        let day = day.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        if self.total > 0.0 && day > self.day {
            #[allow(clippy::cast_possible_truncation, reason = "a factor from 0 to 1")]
            let fade = ((f64::from(self.day) - f64::from(day)) / Self::DAYS).exp() as f32;
            self.zeros *= fade;
            self.total *= fade;
            for weight in &mut self.weights {
                *weight *= fade;
            }
        }
        self.day = self.day.max(day);
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        u64::from(self.day.cast_unsigned() ^ self.total.to_bits()) ^ self.weights.len() as u64
    }

    /// Takes in the size of a finite number; with a weight below 1 it counts for less.
    pub fn push(&mut self, size: f64, weight: f32) {
        self.total += weight;
        self.sort_in(size, weight);
    }

    fn sort_in(&mut self, size: f64, weight: f32) {
        let size = size.clamp(0.0, f32::MAX.into());
        if size <= f64::from(f32::MIN_POSITIVE) {
            self.zeros += weight;
            return;
        }
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the logarithm of a finite number"
        )]
        let bucket = (size.log2() * Self::PER_DOUBLING).floor() as i32;
        if self.weights.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let room = Self::KEPT - len(&self.weights);
            let lower = self.first - bucket;
            if lower > room {
                self.zeros += weight;
                return;
            }
            let lower = usize::try_from(lower).unwrap_or(0);
            self.reserve(self.weights.len() + lower);
            self.weights.splice(0..0, std::iter::repeat_n(0.0, lower));
            self.first = bucket;
        }
        let above = bucket - self.first - Self::KEPT + 1;
        if above > 0 {
            // The smallest ones lose their place.
            let gone = usize::try_from(above).unwrap_or(0).min(self.weights.len());
            self.zeros += self.weights.drain(..gone).sum::<f32>();
            self.first = if self.weights.is_empty() {
                bucket
            } else {
                self.first + above
            };
        }
        let at = usize::try_from(bucket - self.first).unwrap_or(0);
        if at >= self.weights.len() {
            self.reserve(at + 1);
            self.weights.resize(at + 1, 0.0);
        }
        self.weights[at] += weight;
    }

    /// Room for so many buckets, and a few more: most sketches never need all of them.
    fn reserve(&mut self, buckets: usize) {
        let buckets = buckets.next_multiple_of(Self::AT_ONCE);
        self.weights
            .reserve_exact(buckets.saturating_sub(self.weights.len()));
    }

    /// How much is in it: numbers of today count 1, older ones less.
    pub fn weight(&self) -> f64 {
        f64::from(self.total)
    }

    /// The size that a share `q` (from 0 to 1) of the numbers does not exceed; 0 without any.
    #[allow(clippy::cast_possible_truncation, reason = "right within a bucket")]
    pub fn quantile(&self, q: f64) -> f32 {
        let mut above = (1.0 - q) as f32 * self.total;
        for (index, weight) in self.weights.iter().enumerate().rev() {
            if *weight > above {
                // Between the bounds of the bucket, by how much of it lies above.
                let inside = 1.0 - f64::from(above / weight);
                let bucket = f64::from(self.first) + index as f64;
                let exponent = (bucket + inside.clamp(0.0, 1.0)) / Self::PER_DOUBLING;
                return exponent.exp2().min(f32::MAX.into()) as f32;
            }
            above -= weight;
        }
        0.0
    }
}

fn len(weights: &[f32]) -> i32 {
    i32::try_from(weights.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_right_within_a_bucket(
            sizes in prop::collection::vec(0.01..100.0_f64, 50..400),
            q in 0.05..0.999_f64,
        ) {
            let mut sketch = Often::default();
            for size in &sizes {
                sketch.push(*size, 1.0);
            }
            let mut sorted = sizes.clone();
            sorted.sort_by(f64::total_cmp);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let at = (q * sorted.len() as f64) as usize;
            let near = |index: usize| sorted[index.min(sorted.len() - 1)];
            let got = f64::from(sketch.settle().quantile(q));
            let (low, high) = (near(at.saturating_sub(1)) * 0.85, near(at + 1) * 1.15);
            prop_assert!((low..=high).contains(&got), "{got} is not from {low} to {high}");
        }
    }

    #[test]
    fn zeros_and_giants_have_their_place() {
        let mut sketch = Sketch::default();
        for _ in 0..90 {
            sketch.push(0.0, 1.0);
        }
        for _ in 0..10 {
            sketch.push(1.0, 1.0);
        }
        assert!(sketch.quantile(0.5) < 1e-9);
        assert!((sketch.quantile(0.95) - 1.0).abs() < 0.15);
        sketch.push(1e9, 1.0);
        assert!(sketch.quantile(0.9999) > 0.8e9);
        assert!(sketch.quantile(0.95) < 1e-9, "too small beside the giant");
        sketch.push(0.5, 1.0);
        assert!((sketch.weight() - 102.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_old_fades() {
        let mut sketch = Sketch::default();
        sketch.advance(100);
        for _ in 0..100 {
            sketch.push(10.0, 1.0);
        }
        sketch.advance(121);
        for _ in 0..10 {
            sketch.push(1.0, 1.0);
        }
        assert!((sketch.quantile(0.5) - 1.0).abs() < 0.15);
        sketch.advance(90);
        assert!(sketch.weight() < 16.0, "time does not go back");
    }
}
