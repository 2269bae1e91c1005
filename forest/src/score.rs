//! Scoring (algorithm 3 and equation 2 of the paper): one row, a block of rows, an array.

use linfa::Float;
use linfa::traits::PredictInplace;
use ndarray::{Array1, ArrayBase, Axis, Data, Ix2};

use crate::error::IsolationForestError;
use crate::forest::IsolationForest;
use crate::math::{exp2_neg, to_f32};
use crate::table::ROWS;

/// Rows that are walked through a large tree together. Their walks do not depend on each other, so the
/// processor overlaps the waits for memory.
const LANES: usize = 8;

/// In all of these a NaN in a row goes right at every split on its feature (`x < p` is false), as
/// a value above all others would; infinities compare as usual. No row makes scoring fail or
/// panic.
impl IsolationForest {
    /// The paper's anomaly score of one row, 2^(−E\[h(x)\] / c(ψ)): in (0, 1], higher is more
    /// anomalous. Allocates nothing.
    ///
    /// A row with another number of features than the training data has no score: the result is
    /// NaN, for which [`is_anomaly`](Self::is_anomaly) says yes. Equal to the other scoring
    /// functions bit by bit.
    pub fn score_one(&self, row: &[f32]) -> f32 {
        if row.len() != self.n_features() {
            return f32::NAN;
        }
        let sum = self
            .parts
            .roots
            .iter()
            .map(|&root| f64::from(self.path_length(root, row)))
            .sum();
        self.score_of_sum(sum)
    }

    /// Anomaly scores of many rows, `rows` holding one after the other: `out[i]` is what
    /// [`score_one`](Self::score_one) gives for row `i`, bit by bit, in a fifth to half of the
    /// time. Allocates nothing.
    ///
    /// # Errors
    /// `rows` does not hold `out.len()` rows.
    pub fn anomaly_scores_into(
        &self,
        rows: &[f32],
        out: &mut [f32],
    ) -> Result<(), IsolationForestError> {
        let width = self.n_features();
        let expected = out.len().saturating_mul(width);
        if rows.len() != expected {
            return Err(IsolationForestError::LengthMismatch {
                expected,
                found: rows.len(),
            });
        }
        if let Some(table) = &self.table {
            for (rows, out) in rows.chunks(ROWS * width).zip(out.chunks_mut(ROWS)) {
                let sums = table.path_lengths(rows, width);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = self.score_of_sum(sum);
                }
            }
            return Ok(());
        }
        let blocks = rows.chunks_exact(LANES * width);
        let rest = blocks.remainder();
        let mut outs = out.chunks_exact_mut(LANES);
        for (block, out) in blocks.zip(&mut outs) {
            self.score_block(block, out);
        }
        for (row, out) in rest.chunks_exact(width).zip(outs.into_remainder()) {
            *out = self.score_one(row);
        }
        Ok(())
    }

    /// Anomaly scores of an array of rows: the paper's sign, in (0, 1], higher is more anomalous.
    /// Values are rounded to `f32`, as in training.
    ///
    /// # Errors
    /// The rows have another number of features than the training data.
    pub fn anomaly_scores<F, D>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f32>, IsolationForestError>
    where
        F: Float,
        D: Data<Elem = F>,
    {
        self.check_width(rows.ncols())?;
        let mut scores = vec![0.0; rows.nrows()];
        let mut block = Vec::with_capacity(ROWS.min(rows.nrows()) * rows.ncols());
        let blocks = rows.axis_chunks_iter(Axis(0), ROWS);
        for (rows, out) in blocks.into_iter().zip(scores.chunks_mut(ROWS)) {
            block.clear();
            block.extend(rows.iter().map(|x| x.to_f32().unwrap_or(f32::NAN)));
            self.anomaly_scores_into(&block, out)?;
        }
        Ok(Array1::from(scores))
    }

    /// scikit-learn's `score_samples`: the negated anomaly score, in [−1, 0), **lower is more
    /// anomalous**.
    ///
    /// # Errors
    /// The rows have another number of features than the training data.
    pub fn score_samples<F, D>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f32>, IsolationForestError>
    where
        F: Float,
        D: Data<Elem = F>,
    {
        Ok(-self.anomaly_scores(rows)?)
    }

    /// scikit-learn's `decision_function`: `score_samples` − [`offset`](Self::offset); **negative
    /// is anomalous**, in (−1, 1).
    ///
    /// # Errors
    /// The rows have another number of features than the training data.
    pub fn decision_function<F, D>(
        &self,
        rows: &ArrayBase<D, Ix2>,
    ) -> Result<Array1<f32>, IsolationForestError>
    where
        F: Float,
        D: Data<Elem = F>,
    {
        Ok(self.score_samples(rows)? - self.offset())
    }

    /// Whether an anomaly score is above [`threshold`](Self::threshold). NaN, the score of a row
    /// of the wrong width, is: what cannot be judged is not called normal.
    pub fn is_anomaly(&self, score: f32) -> bool {
        score.is_nan() || score > self.parts.threshold
    }

    /// h(x) of one tree. Ends because children come after their parents.
    fn path_length(&self, root: u32, row: &[f32]) -> f32 {
        let nodes = &self.parts.nodes;
        let mut node = nodes[root as usize];
        while !node.is_leaf() {
            let left = row[node.feature as usize] < node.value;
            node = nodes[(node.child + u32::from(left)) as usize];
        }
        node.value
    }

    /// Scores `LANES` rows, tree by tree.
    fn score_block(&self, block: &[f32], out: &mut [f32]) {
        let nodes = &self.parts.nodes[..];
        let width = self.n_features();
        let mut sums = [0.0_f64; LANES];
        for &root in &self.parts.roots {
            let mut at = [root; LANES];
            for _ in 0..self.height {
                let mut inner = 0;
                for (lane, at) in at.iter_mut().enumerate() {
                    let node = nodes[*at as usize];
                    let left = block[lane * width + node.feature as usize] < node.value;
                    let next = node.child + u32::from(left);
                    // A lane that has arrived stays; its comparison above is without effect.
                    *at = if node.is_leaf() { *at } else { next };
                    inner |= node.child;
                }
                if inner == 0 {
                    break;
                }
            }
            for (sum, at) in sums.iter_mut().zip(at) {
                *sum += f64::from(nodes[at as usize].value);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = self.score_of_sum(sum);
        }
    }

    /// Equation 2. The sum of path lengths is exact: they are 0 or at least 1 and have 24 bits, so
    /// f64 holds the sum of millions of them without rounding, and its order does not matter.
    fn score_of_sum(&self, sum: f64) -> f32 {
        // Trees of a single row know nothing; scikit-learn gives 0.5 too.
        let exponent = if self.norm > 0.0 {
            sum / self.norm
        } else {
            1.0
        };
        to_f32(exp2_neg(exponent))
    }
}

/// `true` is an anomaly: [`IsolationForest::is_anomaly`] of the anomaly score.
///
/// The trait leaves no room for an error, so rows with another number of features than the
/// training data are all called anomalous. Use [`IsolationForest::anomaly_scores`] to be told.
impl<F, D> PredictInplace<ArrayBase<D, Ix2>, Array1<bool>> for IsolationForest
where
    F: Float,
    D: Data<Elem = F>,
{
    /// Panics if `targets` has another length than `rows` has rows, as all of linfa does.
    fn predict_inplace(&self, rows: &ArrayBase<D, Ix2>, targets: &mut Array1<bool>) {
        assert_eq!(
            rows.nrows(),
            targets.len(),
            "The number of data points must match the number of output targets."
        );
        match self.anomaly_scores(rows) {
            Ok(scores) => targets.zip_mut_with(&scores, |target, &s| *target = self.is_anomaly(s)),
            Err(_) => targets.fill(true),
        }
    }

    fn default_target(&self, rows: &ArrayBase<D, Ix2>) -> Array1<bool> {
        Array1::default(rows.nrows())
    }
}

#[cfg(test)]
mod tests {
    use linfa::traits::Predict;
    use linfa::{DatasetBase, ParamGuard};
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::forest::tests::{cloud, small_forest};
    use crate::{IsolationForestParams, average_path_length};

    fn trained(rows: &[f32], width: usize, params: IsolationForestParams) -> IsolationForest {
        params.check().unwrap().fit_rows(rows, width).unwrap()
    }

    fn bits(scores: &[f32]) -> Vec<u32> {
        scores.iter().map(|score| score.to_bits()).collect()
    }

    #[test]
    fn small_cases_by_hand() {
        // Two rows: one split, every path is 1 = c(2), the score 2^-1.
        let forest = trained(&[0.0, 1.0], 1, IsolationForest::params());
        assert_eq!(
            bits(&[forest.score_one(&[0.0]), forest.score_one(&[9.0])]),
            bits(&[0.5; 2])
        );
        // Three rows, height limit 2: of 0, 1 and 1000 the last is cut off first but for one
        // split in 1000, so its path is 1 and that of the others 2.
        let forest = trained(&[0.0, 1.0, 1_000.0], 1, IsolationForest::params());
        let c = average_path_length(3);
        let odd = f64::from(forest.score_one(&[1_000.0]));
        assert!((odd - (-1.0 / c).exp2()).abs() < 0.01, "{odd}");
        let usual = f64::from(forest.score_one(&[0.0]));
        assert!((usual - (-2.0 / c).exp2()).abs() < 0.01, "{usual}");
        // One row: nothing to compare with.
        let forest = trained(&[4.0], 1, IsolationForest::params());
        assert_eq!(bits(&[forest.score_one(&[4.0])]), bits(&[0.5]));
    }

    #[test]
    fn golden_scores() {
        // Fixed by the algorithm and the seed on every platform. If this fails, stored forests
        // still load but retraining gives other scores: that is a breaking change.
        let forest = trained(&cloud(1_000, 3, 7), 3, IsolationForest::params().seed(42));
        let rows = [[0.0, 0.0, 0.0], [1.0, -0.5, 0.25], [4.0, 4.0, -4.0]];
        let found = rows.map(|row| forest.score_one(&row).to_bits());
        assert_eq!(
            found,
            [0x3EC8_2700, 0x3EFA_14B1, 0x3F3B_200A],
            "{found:#x?}"
        );
        assert_eq!(forest.n_nodes(), 14_092);
    }

    #[test]
    fn equal_seeds_give_equal_forests_and_others_do_not() {
        let rows = cloud(500, 2, 3);
        let one = trained(&rows, 2, IsolationForest::params().seed(5));
        assert_eq!(one, trained(&rows, 2, IsolationForest::params().seed(5)));
        let other = trained(&rows, 2, IsolationForest::params().seed(6));
        assert_ne!(one.parts.nodes, other.parts.nodes);
        // More trees do not change the ones before.
        let more = trained(&rows, 2, IsolationForest::params().seed(5).n_trees(150));
        assert_eq!(more.parts.nodes[..one.n_nodes()], one.parts.nodes);
    }

    #[test]
    fn block_equals_one() {
        // Some with a table, and some too large for one.
        for (width, samples, table) in [
            (1, 2, false),
            (1, 9, true),
            (2, 256, true),
            (5, 100, true),
            (3, 255, true),
            (8, 257, false),
            (32, 256, true),
            (33, 256, false),
        ] {
            let params = IsolationForest::params().max_samples(samples);
            let forest = trained(&cloud(600, width, 1), width, params);
            assert_eq!(forest.table.is_some(), table, "{samples} x {width}");
            for count in [0, 1, 7, 8, 9, 16, 100, 128, 301] {
                let mut rows = cloud(count, width, 77);
                if let [first, .., last] = &mut rows[..] {
                    (*first, *last) = (f32::NAN, f32::INFINITY);
                }
                let mut out = vec![0.0; count];
                forest.anomaly_scores_into(&rows, &mut out).unwrap();
                let one: Vec<f32> = rows
                    .chunks(width)
                    .map(|row| forest.score_one(row))
                    .collect();
                assert_eq!(bits(&out), bits(&one), "{count} x {width}");
                let array = Array2::from_shape_vec((count, width), rows).unwrap();
                let scores = forest.anomaly_scores(&array).unwrap();
                assert_eq!(bits(scores.as_slice().unwrap()), bits(&one));
            }
        }
    }

    #[test]
    fn signs_and_offset_are_scikit_learns() {
        let params = IsolationForest::params().contamination(0.05);
        let forest = trained(&cloud(400, 2, 8), 2, params);
        let rows = array![[0.0, 0.0], [3.0, 3.0]];
        let paper = forest.anomaly_scores(&rows).unwrap();
        let samples = forest.score_samples(&rows).unwrap();
        let decision = forest.decision_function(&rows).unwrap();
        assert!(paper[0] < paper[1] && samples[0] > samples[1]);
        assert!(decision[0] > 0.0 && decision[1] < 0.0);
        for i in 0..2 {
            assert_eq!(samples[i].to_bits(), (-paper[i]).to_bits());
            assert_eq!(
                decision[i].to_bits(),
                (samples[i] - forest.offset()).to_bits()
            );
        }
        let anomalous: Array1<bool> = forest.predict(&rows);
        assert_eq!(anomalous, array![false, true]);
    }

    #[test]
    fn predict_takes_a_dataset() {
        let dataset = DatasetBase::from(array![[0.0_f32, 0.0, 0.0], [50.0, 50.0, 50.0]]);
        let found: Array1<bool> = small_forest().predict(&dataset);
        assert_eq!(found, array![false, true]);
    }

    #[test]
    fn obvious_outlier_has_the_highest_score() {
        let mut rows = cloud(1_000, 4, 4);
        rows.extend([8.0; 4]);
        let forest = trained(&rows, 4, IsolationForest::params());
        let mut scores = vec![0.0; 1_001];
        forest.anomaly_scores_into(&rows, &mut scores).unwrap();
        let (outlier, rest) = scores.split_last().unwrap();
        assert!(*outlier > 0.7 && forest.is_anomaly(*outlier), "{outlier}");
        assert!(rest.iter().all(|score| score < outlier));
        assert!(forest.training_scores().median < 0.5);
    }

    #[test]
    fn constant_data_score_exactly_one_half() {
        for (rows, psi) in [(500, 256), (10, 256), (3, 256), (1, 256), (400, 7)] {
            let forest = trained(
                &vec![3.5; rows * 2],
                2,
                IsolationForest::params().max_samples(psi),
            );
            assert_eq!(forest.n_nodes(), 100);
            for row in [[3.5, 3.5], [0.0, 9.0], [f32::NAN, f32::INFINITY]] {
                assert_eq!(bits(&[forest.score_one(&row)]), bits(&[0.5]));
                assert!(!forest.is_anomaly(forest.score_one(&row)));
            }
        }
    }

    #[test]
    fn constant_columns_change_nothing_but_the_draws() {
        let narrow = cloud(800, 2, 6);
        let wide: Vec<f32> = narrow
            .chunks(2)
            .flat_map(|x| [7.0, x[1], 7.0, x[0], 7.0])
            .collect();
        let params = || IsolationForest::params().n_trees(1_000);
        let (one, other) = (trained(&narrow, 2, params()), trained(&wide, 5, params()));
        for (x, wide) in narrow.chunks(2).zip(wide.chunks(5)).take(100) {
            let difference = one.score_one(x) - other.score_one(wide);
            assert!(difference.abs() < 0.03, "{x:?}: {difference}");
        }
    }

    #[test]
    fn duplicate_columns_keep_the_order_of_rows() {
        let rows: Vec<f32> = cloud(800, 1, 6).iter().flat_map(|&x| [x, x, x]).collect();
        let forest = trained(&rows, 3, IsolationForest::params());
        let score = |x: f32| forest.score_one(&[x, x, x]);
        assert!(score(0.0) < score(1.2) && score(1.2) < score(2.5));
    }

    #[test]
    fn nan_goes_right_like_a_very_large_value() {
        let forest = small_forest();
        let nan = forest.score_one(&[f32::NAN, 0.1, 0.2]);
        assert_eq!(
            bits(&[nan]),
            bits(&[forest.score_one(&[f32::INFINITY, 0.1, 0.2])])
        );
        assert!(nan > 0.0 && nan <= 1.0);
    }

    #[test]
    fn wrong_widths() {
        let forest = small_forest();
        for row in [&[][..], &[0.0; 2], &[0.0; 4]] {
            assert!(forest.score_one(row).is_nan());
        }
        assert!(forest.is_anomaly(f32::NAN));
        assert!(matches!(
            forest.anomaly_scores_into(&[0.0; 7], &mut [0.0; 2]),
            Err(IsolationForestError::LengthMismatch {
                expected: 6,
                found: 7
            })
        ));
        let rows = Array2::<f64>::zeros((2, 4));
        assert!(matches!(
            forest.score_samples(&rows),
            Err(IsolationForestError::WidthMismatch {
                expected: 3,
                found: 4
            })
        ));
        let anomalous: Array1<bool> = forest.predict(&rows);
        assert_eq!(anomalous, array![true, true]);
    }

    proptest! {
        #[test]
        fn any_row_has_a_score(row in prop::collection::vec(any::<f32>(), 3)) {
            let score = small_forest().score_one(&row);
            prop_assert!(score > 0.0 && score <= 1.0);
        }

        #[test]
        fn any_finite_data_can_be_trained_on(
            rows in prop::collection::vec(
                prop_oneof![any::<f32>().prop_filter("finite", |x| x.is_finite()), Just(0.0), Just(1.0)],
                1..200,
            ),
            width in 1_usize..4,
        ) {
            let rows = &rows[..rows.len() / width * width];
            prop_assume!(!rows.is_empty());
            let forest = trained(rows, width, IsolationForest::params().n_trees(4).max_samples(32));
            prop_assert_eq!(forest.parts.check(), Ok(()));
            let score = forest.score_one(&rows[..width]);
            prop_assert!(score > 0.0 && score <= 1.0);
        }
    }
}
