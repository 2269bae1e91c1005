//! Training (algorithm 1 of the paper), and what the forest remembers of its training data.

use linfa::traits::Fit;
use linfa::{DatasetBase, Float};
use ndarray::{ArrayBase, Data, Ix2};

use crate::error::IsolationForestError;
use crate::forest::{IsolationForest, Parts, TrainingScores};
use crate::math::{height_limit, to_f32};
use crate::params::IsolationForestValidParams;
use crate::rng::Rng;
use crate::tree::Grower;

/// The threshold without `contamination`: the paper's mark for "nothing stands out".
const DEFAULT_THRESHOLD: f32 = 0.5;

/// Trains on the records; targets and weights are not looked at. Records are rounded to `f32`.
///
/// Fails on data without rows or columns, and on a value that is not finite (or not in `f32`).
impl<F, D, T> Fit<ArrayBase<D, Ix2>, T, IsolationForestError> for IsolationForestValidParams
where
    F: Float,
    D: Data<Elem = F>,
{
    type Object = IsolationForest;

    fn fit(
        &self,
        dataset: &DatasetBase<ArrayBase<D, Ix2>, T>,
    ) -> Result<IsolationForest, IsolationForestError> {
        let records = dataset.records();
        // ndarray iterates in row order, whatever the layout in memory.
        let rows: Vec<f32> = records
            .iter()
            .map(|x| x.to_f32().unwrap_or(f32::NAN))
            .collect();
        if records.nrows() == 0 {
            return Err(IsolationForestError::NoRows);
        }
        self.fit_rows(&rows, records.ncols())
    }
}

impl IsolationForestValidParams {
    /// Trains on rows of `n_features` values each, one after the other in `rows`.
    ///
    /// # Errors
    /// No rows, no features, a length that is not a multiple of `n_features`, a value that is not
    /// finite, or more data than 32-bit offsets can address.
    pub fn fit_rows(
        &self,
        rows: &[f32],
        n_features: usize,
    ) -> Result<IsolationForest, IsolationForestError> {
        let n_rows = row_count(rows, n_features)?;
        let samples = self.max_samples().min(n_rows);
        let too_large = || IsolationForestError::TooLarge {
            rows: n_rows,
            trees: self.n_trees(),
            samples,
        };
        let (Ok(width), Ok(count), Ok(psi), Ok(trees)) = (
            u32::try_from(n_features),
            u32::try_from(n_rows),
            u32::try_from(samples),
            u32::try_from(self.n_trees()),
        ) else {
            return Err(too_large());
        };
        if u64::from(trees).saturating_mul(2 * u64::from(psi)) > u64::from(u32::MAX) {
            return Err(too_large());
        }

        let mut grower = Grower::new(rows, width, height_limit(psi));
        let mut sampler = Sampler::new(count);
        let mut sample = Vec::with_capacity(samples);
        let mut roots = Vec::with_capacity(self.n_trees());
        for tree in 0..trees {
            let mut rng = Rng::for_tree(self.seed(), tree);
            sampler.draw(psi, &mut rng, &mut sample);
            let root = grower.grow(&mut sample, &mut rng);
            roots.push(u32::try_from(root).map_err(|_| too_large())?);
        }

        let mut forest = IsolationForest::new(Parts {
            seed: self.seed(),
            sample_size: psi,
            n_rows: count,
            threshold: DEFAULT_THRESHOLD,
            training: TrainingScores {
                median: 0.5,
                q99: 0.5,
                q999: 0.5,
            },
            medians: (0..n_features)
                .map(|column| median(rows, n_features, column))
                .collect(),
            roots,
            nodes: grower.nodes,
        });
        let mut scores = vec![0.0; n_rows];
        forest.anomaly_scores_into(rows, &mut scores)?;
        scores.sort_unstable_by(f32::total_cmp);
        forest.parts.training = TrainingScores {
            median: quantile(&scores, 0.5),
            q99: quantile(&scores, 0.99),
            q999: quantile(&scores, 0.999),
        };
        if let Some(share) = self.contamination() {
            forest.parts.threshold = quantile(&scores, 1.0 - share);
        }
        Ok(forest)
    }
}

/// Number of rows, after all checks of the data.
fn row_count(rows: &[f32], width: usize) -> Result<usize, IsolationForestError> {
    if width == 0 {
        return Err(IsolationForestError::NoFeatures);
    }
    if rows.is_empty() {
        return Err(IsolationForestError::NoRows);
    }
    let whole = rows.len() / width;
    if whole * width != rows.len() {
        let (expected, found) = ((whole + 1).saturating_mul(width), rows.len());
        return Err(IsolationForestError::LengthMismatch { expected, found });
    }
    match rows.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(IsolationForestError::NotFinite {
            row: i / width,
            column: i % width,
        }),
        None => Ok(whole),
    }
}

/// Draws samples without replacement in time that depends on the sample and not on the data.
struct Sampler {
    order: Vec<u32>,
    swaps: Vec<usize>,
}

impl Sampler {
    fn new(rows: u32) -> Self {
        Self {
            order: (0..rows).collect(),
            swaps: Vec::new(),
        }
    }

    fn draw(&mut self, size: u32, rng: &mut Rng, sample: &mut Vec<u32>) {
        let size = (size as usize).min(self.order.len());
        for i in 0..size {
            let rest = u32::try_from(self.order.len() - i).unwrap_or(u32::MAX);
            let other = i + rng.below(rest) as usize;
            self.order.swap(i, other);
            self.swaps.push(other);
        }
        sample.clear();
        sample.extend_from_slice(&self.order[..size]);
        // Undone, so that a tree depends on its own seed alone.
        while let Some(other) = self.swaps.pop() {
            self.order.swap(self.swaps.len(), other);
        }
    }
}

/// Median of one column; with an even number of rows, the middle of the two in the middle.
fn median(rows: &[f32], width: usize, column: usize) -> f32 {
    let mut values: Vec<f32> = rows.iter().skip(column).step_by(width).copied().collect();
    values.sort_unstable_by(f32::total_cmp);
    quantile(&values, 0.5)
}

/// Quantile of sorted values with linear interpolation, numpy's default; 0 of nothing.
fn quantile(sorted: &[f32], q: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = q * last as f64;
    let index = floor_index(position).min(last);
    let (low, high) = (
        f64::from(sorted[index]),
        f64::from(sorted[index.saturating_add(1).min(last)]),
    );
    to_f32(low + (high - low) * (position - index as f64))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a position in a slice is neither negative nor above 2^53; rounding down is meant"
)]
fn floor_index(position: f64) -> usize {
    position as usize
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;
    use linfa::traits::Predict;
    use ndarray::{Array1, Array2, array};

    use super::*;
    use crate::IsolationForestParams;

    fn params() -> IsolationForestValidParams {
        IsolationForestParams::new().seed(11).check().unwrap()
    }

    #[test]
    fn bad_data_are_named() {
        let fit = |records: Array2<f64>| {
            IsolationForestParams::new()
                .fit(&DatasetBase::from(records))
                .unwrap_err()
        };
        assert!(matches!(
            fit(Array2::zeros((0, 3))),
            IsolationForestError::NoRows
        ));
        assert!(matches!(
            fit(Array2::zeros((3, 0))),
            IsolationForestError::NoFeatures
        ));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let mut records = Array2::zeros((10, 3));
            records[[7, 2]] = bad;
            let error = fit(records);
            assert!(matches!(
                error,
                IsolationForestError::NotFinite { row: 7, column: 2 }
            ));
            assert!(error.to_string().contains("row 7, column 2"));
        }
        assert!(matches!(
            params().fit_rows(&[0.0; 7], 3),
            Err(IsolationForestError::LengthMismatch {
                expected: 9,
                found: 7
            })
        ));
        assert!(matches!(
            IsolationForestParams::new()
                .n_trees(usize::MAX)
                .check()
                .unwrap()
                .fit_rows(&[0.0, 1.0], 1),
            Err(IsolationForestError::TooLarge { .. })
        ));
    }

    #[test]
    fn unchecked_params_are_checked_by_fit() {
        let dataset = DatasetBase::from(array![[1.0_f32], [2.0]]);
        assert!(matches!(
            IsolationForestParams::new().n_trees(0).fit(&dataset),
            Err(IsolationForestError::InvalidTrees)
        ));
    }

    #[test]
    fn f32_and_f64_and_memory_layout_give_the_same_forest() {
        let wide =
            Array2::from_shape_fn((300, 3), |(i, j)| ((i * 7919 + j * 104_729) % 997) as f64);
        let fortran = wide.t().as_standard_layout().into_owned().reversed_axes();
        let narrow = wide.mapv(to_f32);
        let forest = params().fit(&DatasetBase::from(wide.view())).unwrap();
        assert_eq!(forest, params().fit(&DatasetBase::from(fortran)).unwrap());
        assert_eq!(
            forest,
            params().fit(&DatasetBase::from(narrow.view())).unwrap()
        );
        let flat: Vec<f32> = narrow.iter().copied().collect();
        assert_eq!(forest, params().fit_rows(&flat, 3).unwrap());
    }

    #[test]
    fn samples_have_no_duplicates_and_depend_on_the_seed_alone() {
        let mut sampler = Sampler::new(40);
        let mut first = Vec::new();
        sampler.draw(25, &mut Rng::for_tree(3, 0), &mut first);
        let mut other = Vec::new();
        sampler.draw(25, &mut Rng::for_tree(3, 1), &mut other);
        assert_ne!(first, other);
        sampler.draw(25, &mut Rng::for_tree(3, 0), &mut other);
        assert_eq!(first, other);
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 25);
    }

    #[test]
    fn quantiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&sorted, q) - expected).abs() < 1e-6, "{q}");
        }
        assert!((quantile(&[5.0], 0.99) - 5.0).abs() < 1e-6);
    }

    #[test]
    fn medians_of_columns() {
        let forest = params()
            .fit_rows(&[1.0, 10.0, 5.0, 30.0, 2.0, 20.0, 100.0, 20.0], 2)
            .unwrap();
        assert_eq!(forest.feature_medians(), [3.5, 20.0]);
    }

    #[test]
    fn contamination_is_the_share_of_training_anomalies() {
        let rows: Vec<f32> = (0..4_000_u32)
            .map(|i| to_f32(f64::from(i * 48_271 % 65_537).sqrt()))
            .collect();
        for share in [0.01, 0.1, 0.5] {
            let forest = IsolationForestParams::new()
                .contamination(share)
                .check()
                .unwrap()
                .fit_rows(&rows, 2)
                .unwrap();
            let records = Array2::from_shape_vec((2_000, 2), rows.clone()).unwrap();
            let anomalous: Array1<bool> = forest.predict(&records);
            let found = anomalous.iter().filter(|&&a| a).count() as f64 / 2_000.0;
            assert!((found - share).abs() < 0.002, "{found} instead of {share}");
            let training = forest.training_scores();
            assert!(training.median < training.q99 && training.q99 < training.q999);
        }
    }
}
