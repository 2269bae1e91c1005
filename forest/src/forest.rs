//! The trained model: what it holds, what it must satisfy, and how it explains a score.

use crate::error::IsolationForestError;
use crate::math::{average_path_length, height_limit, to_f32};
use crate::params::IsolationForestParams;
use crate::table::Table;
use crate::tree::Node;

/// A trained isolation forest.
///
/// Scores rows one by one ([`score_one`](Self::score_one)), in blocks
/// ([`anomaly_scores_into`](Self::anomaly_scores_into)) or from `ndarray`
/// ([`anomaly_scores`](Self::anomaly_scores), linfa's `Predict`); explains a score
/// ([`contributions`](Self::contributions)); is stored with [`to_bytes`](Self::to_bytes).
/// Equality is equality of everything stored.
#[derive(Debug, Clone)]
pub struct IsolationForest {
    pub(crate) parts: Parts,
    /// The trees again, for scoring many rows; `None` of large ones.
    pub(crate) table: Option<Table>,
    /// Height limit of the trees.
    pub(crate) height: u32,
    /// t c(psi), what the sum of the path lengths is divided by; 0 if trees have one row.
    pub(crate) norm: f64,
}

/// Quantiles of the anomaly scores of the training rows. Each in (0, 1], in rising order.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TrainingScores {
    /// Median.
    pub median: f32,
    /// 0.99 quantile.
    pub q99: f32,
    /// 0.999 quantile.
    pub q999: f32,
}

/// Everything that is stored of a forest. [`Parts::check`] is what all scoring relies on.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Parts {
    pub(crate) seed: u64,
    pub(crate) sample_size: u32,
    pub(crate) n_rows: u32,
    pub(crate) threshold: f32,
    pub(crate) training: TrainingScores,
    pub(crate) medians: Vec<f32>,
    pub(crate) roots: Vec<u32>,
    pub(crate) nodes: Vec<Node>,
}

impl PartialEq for IsolationForest {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl IsolationForest {
    /// Default hyperparameters, see [`IsolationForestParams::new`].
    pub fn params() -> IsolationForestParams {
        IsolationForestParams::new()
    }

    /// Only for parts that training made or [`Parts::check`] passed.
    pub(crate) fn new(parts: Parts) -> Self {
        // c(psi) is rounded like the leaves are, so that rows without structure score exactly 0.5.
        let c = to_f32(average_path_length(u64::from(parts.sample_size)));
        let norm = parts.roots.len() as f64 * f64::from(c);
        let height = height_limit(parts.sample_size);
        Self {
            table: Table::of(&parts.nodes, &parts.roots, height, parts.medians.len()),
            height,
            norm,
            parts,
        }
    }

    /// A forest from parts of unknown origin.
    pub(crate) fn from_parts(parts: Parts) -> Result<Self, IsolationForestError> {
        parts.check().map_err(IsolationForestError::Damaged)?;
        Ok(Self::new(parts))
    }

    /// Number of features of a row.
    pub fn n_features(&self) -> usize {
        self.parts.medians.len()
    }

    /// Number of trees, the paper's *t*.
    pub fn n_trees(&self) -> usize {
        self.parts.roots.len()
    }

    /// Number of nodes of all trees; each takes 12 bytes.
    pub fn n_nodes(&self) -> usize {
        self.parts.nodes.len()
    }

    /// Rows that each tree was grown from, the paper's *ψ*: the smaller of `max_samples` and the
    /// number of training rows.
    pub fn sample_size(&self) -> usize {
        self.parts.sample_size as usize
    }

    /// Number of training rows.
    pub fn n_training_rows(&self) -> usize {
        self.parts.n_rows as usize
    }

    /// Seed that the forest was trained with.
    pub fn seed(&self) -> u64 {
        self.parts.seed
    }

    /// Anomaly score above which a row is called anomalous: the (1 − contamination) quantile of
    /// the training scores, or 0.5 if no contamination was set. In (0, 1].
    pub fn threshold(&self) -> f32 {
        self.parts.threshold
    }

    /// scikit-learn's `offset_`: the negated threshold.
    pub fn offset(&self) -> f32 {
        -self.parts.threshold
    }

    /// Quantiles of the anomaly scores of the training rows.
    pub fn training_scores(&self) -> TrainingScores {
        self.parts.training
    }

    /// Median of each feature over the training rows.
    pub fn feature_medians(&self) -> &[f32] {
        &self.parts.medians
    }

    /// How much each feature has to do with the score of `row`: the drop in the anomaly score
    /// when that feature alone is replaced by its training median. Positive: the feature makes
    /// the row more anomalous. One scoring per feature plus one.
    ///
    /// # Errors
    /// `row` has another number of features than the training data.
    pub fn contributions(&self, row: &[f32]) -> Result<Vec<f32>, IsolationForestError> {
        self.contributions_against(row, &self.parts.medians)
    }

    /// [`contributions`](Self::contributions) with a reference of the caller's choice in place of
    /// the training medians.
    ///
    /// # Errors
    /// `row` or `reference` has another number of features than the training data.
    pub fn contributions_against(
        &self,
        row: &[f32],
        reference: &[f32],
    ) -> Result<Vec<f32>, IsolationForestError> {
        self.check_width(row.len())?;
        self.check_width(reference.len())?;
        let score = self.score_one(row);
        let mut altered = row.to_vec();
        let drops = row
            .iter()
            .zip(reference)
            .enumerate()
            .map(|(feature, (&x, &usual))| {
                altered[feature] = usual;
                let drop = score - self.score_one(&altered);
                altered[feature] = x;
                drop
            });
        Ok(drops.collect())
    }

    pub(crate) fn check_width(&self, found: usize) -> Result<(), IsolationForestError> {
        let expected = self.n_features();
        if found == expected {
            Ok(())
        } else {
            Err(IsolationForestError::WidthMismatch { expected, found })
        }
    }
}

impl Parts {
    /// Checks that the parts are a forest: that scoring ends, stays inside its arrays and gives a
    /// number in (0, 1]. What training makes always passes.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.sample_size == 0 || self.sample_size > self.n_rows {
            return Err("sample size");
        }
        if self.medians.is_empty() || u32::try_from(self.medians.len()).is_err() {
            return Err("number of features");
        }
        if !self.medians.iter().all(|median| median.is_finite()) {
            return Err("feature median");
        }
        let TrainingScores { median, q99, q999 } = self.training;
        let is_score = |score: f32| score > 0.0 && score <= 1.0;
        if !(is_score(median) && is_score(q999) && median <= q99 && q99 <= q999) {
            return Err("training scores");
        }
        if !is_score(self.threshold) {
            return Err("threshold");
        }
        if self.roots.first() != Some(&0) || u32::try_from(self.nodes.len()).is_err() {
            return Err("number of trees or nodes");
        }
        for (tree, &root) in self.roots.iter().enumerate() {
            let root = root as usize;
            let end = self
                .roots
                .get(tree + 1)
                .map_or(self.nodes.len(), |&next| next as usize);
            if root >= end {
                return Err("order of the roots");
            }
            self.check_tree(root, self.nodes.get(root..end).ok_or("root")?)?;
        }
        Ok(())
    }

    /// Checks that `nodes`, which begin at index `root` of the forest, are one tree.
    fn check_tree(&self, root: usize, nodes: &[Node]) -> Result<(), &'static str> {
        let limit = height_limit(self.sample_size);
        let longest = average_path_length(u64::from(self.sample_size));
        // Depth of every node that a parent has named; children come after their parents.
        let mut depths: Vec<Option<u32>> = vec![None; nodes.len()];
        depths[0] = Some(0);
        for (at, node) in nodes.iter().enumerate() {
            let depth = depths[at].ok_or("node without a parent")?;
            if !node.value.is_finite() {
                return Err("value of a node");
            }
            if node.is_leaf() {
                let (low, high) = (f64::from(depth), f64::from(depth) + longest);
                if node.feature != 0 || node.value < to_f32(low) || node.value > to_f32(high) {
                    return Err("leaf");
                }
                continue;
            }
            if node.feature as usize >= self.medians.len() {
                return Err("feature of a node");
            }
            if depth >= limit {
                return Err("height of a tree");
            }
            let right = (node.child as usize)
                .checked_sub(root)
                .ok_or("child before its tree")?;
            if right <= at {
                return Err("child before its parent");
            }
            for child in [right, right + 1] {
                let slot = depths.get_mut(child).ok_or("child outside its tree")?;
                if slot.replace(depth + 1).is_some() {
                    return Err("node with two parents");
                }
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for IsolationForest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parts.serialize(serializer)
    }
}

/// Refuses what [`IsolationForest::from_bytes`] would refuse.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for IsolationForest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_parts(Parts::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use linfa::ParamGuard;

    use super::*;
    use crate::rng::Rng;

    /// Rows about the origin, each value a sum of four uniforms (no libm, so the same anywhere).
    pub(crate) fn cloud(rows: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::for_tree(seed, u32::MAX);
        let mut value = || (0..4).map(|_| rng.unit()).sum::<f64>() - 2.0;
        (0..rows * width).map(|_| to_f32(value())).collect()
    }

    pub(crate) fn small_forest() -> IsolationForest {
        let params = IsolationForest::params()
            .n_trees(5)
            .max_samples(16)
            .seed(3)
            .check()
            .unwrap();
        params.fit_rows(&cloud(60, 3, 1), 3).unwrap()
    }

    #[test]
    fn contributions_name_the_feature() {
        let params = IsolationForest::params().seed(1).check().unwrap();
        let forest = params.fit_rows(&cloud(2_000, 4, 9), 4).unwrap();
        for odd in 0..4 {
            let mut row = [0.1, -0.1, 0.05, 0.0];
            row[odd] = 6.0;
            let found = forest.contributions(&row).unwrap();
            let top = (0..4)
                .max_by(|&a, &b| found[a].total_cmp(&found[b]))
                .unwrap();
            assert_eq!(top, odd, "{found:?}");
            assert!(found[odd] > 0.05, "{found:?}");
        }
        let medians = forest.feature_medians().to_vec();
        assert_eq!(forest.contributions(&medians).unwrap(), [0.0; 4]);
        assert!(forest.contributions(&[0.0; 3]).is_err());
        assert!(forest.contributions_against(&[0.0; 4], &[0.0; 5]).is_err());
        assert_eq!(
            forest.contributions_against(&[0.5; 4], &[0.5; 4]).unwrap(),
            [0.0; 4]
        );
    }

    #[test]
    fn trained_forests_pass_the_check() {
        for (rows, width) in [(1, 1), (2, 1), (3, 2), (100, 5), (700, 2)] {
            let params = IsolationForest::params().n_trees(7).check().unwrap();
            let forest = params.fit_rows(&cloud(rows, width, 2), width).unwrap();
            assert_eq!(forest.parts.check(), Ok(()), "{rows} rows");
            assert!(forest.n_nodes() <= 7 * (2 * forest.sample_size() - 1));
        }
    }

    #[test]
    fn contradictions_are_found() {
        type Alter<'a> = &'a dyn Fn(&mut Parts);
        let good = small_forest().parts;
        let inner = good.nodes.iter().rposition(|node| !node.is_leaf()).unwrap();
        let leaf = good.nodes.iter().position(Node::is_leaf).unwrap();
        let alterations: &[(&str, Alter<'_>)] = &[
            ("self loop", &|p| {
                p.nodes[inner].child = u32::try_from(inner).unwrap();
            }),
            ("loop", &|p| p.nodes[inner].child = 1),
            ("outside", &|p| p.nodes[inner].child = u32::MAX),
            ("feature", &|p| p.nodes[inner].feature = 3),
            ("split point", &|p| p.nodes[inner].value = f32::NAN),
            ("no split", &|p| p.nodes[0] = Node::leaf(0, 1)),
            ("negative path", &|p| p.nodes[leaf].value = -1.0),
            ("long path", &|p| p.nodes[leaf].value = 100.0),
            ("no tree", &|p| p.roots.clear()),
            ("no node", &|p| p.nodes.clear()),
            ("root order", &|p| p.roots.swap(1, 2)),
            ("root outside", &|p| p.roots[4] = u32::MAX),
            ("psi", &|p| p.sample_size = 0),
            ("height", &|p| p.sample_size = 2),
            ("rows", &|p| p.n_rows = 1),
            ("no feature", &|p| p.medians.clear()),
            ("median", &|p| p.medians[0] = f32::INFINITY),
            ("threshold", &|p| p.threshold = 1.5),
            ("quantile", &|p| p.training.q99 = f32::NAN),
            ("quantile order", &|p| p.training.median = 0.99),
        ];
        for (name, alter) in alterations {
            let mut parts = good.clone();
            alter(&mut parts);
            assert!(parts.check().is_err(), "{name}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_round_trip_and_check() {
        let forest = small_forest();
        let json = serde_json::to_string(&forest).unwrap();
        assert_eq!(
            serde_json::from_str::<IsolationForest>(&json).unwrap(),
            forest
        );
        let mut parts = forest.parts;
        parts.nodes[0].feature = 9;
        let json = serde_json::to_string(&parts).unwrap();
        assert!(serde_json::from_str::<IsolationForest>(&json).is_err());
    }
}
