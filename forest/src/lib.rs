//! Isolation forest on linfa's `Fit` and `Predict` traits.
//!
//! The algorithm is that of F. T. Liu, K. M. Ting, Z.-H. Zhou, *Isolation Forest*, ICDM 2008, with
//! axis-parallel splits. Anomalies are few and different, so random splits separate ("isolate")
//! them from the rest after few steps: a short average path means an anomaly. Names follow the
//! paper:
//!
//! | paper | here |
//! |---|---|
//! | section 2, path length *h(x)*; equation 1, *c(n)* | [`average_path_length`] |
//! | section 2, equation 2, score *s(x, ψ) = 2^(−E\[h(x)\] / c(ψ))* | [`IsolationForest::score_one`] |
//! | section 3, sub-sampling size *ψ* | [`IsolationForestParams::max_samples`], [`IsolationForest::sample_size`] |
//! | section 4.1, algorithms 1 and 2 (training), *t* trees | [`IsolationForestParams`], `fit` |
//! | section 4.2, algorithm 3 (path length) | [`IsolationForest::score_one`], [`IsolationForest::anomaly_scores_into`] |
//!
//! # Agreement with scikit-learn
//!
//! Semantics are those of `sklearn.ensemble.IsolationForest` with its defaults (100 trees of 256
//! rows drawn without replacement): height limit ⌈log₂ ψ⌉, split features drawn only among those
//! that are not constant in the node, a leaf of *n* rows adds *c(n)*, data held as `f32`. Random
//! numbers differ, so scores agree in distribution and not number by number. Two details differ on
//! purpose: a feature counts as constant when its minimum equals its maximum (scikit-learn: when
//! they are within 1e-7, which depends on the unit of the feature), and the split is the paper's
//! `x < p` with *p* in (min, max] (scikit-learn: `x <= p` with *p* in [min, max)); both leave no
//! side empty.
//!
//! # Signs
//!
//! [`IsolationForest::anomaly_scores`] and [`IsolationForest::score_one`] are the paper's: in
//! (0, 1], **higher is more anomalous**, about 0.5 when nothing stands out.
//! [`IsolationForest::score_samples`] and [`IsolationForest::decision_function`] have
//! scikit-learn's sign: **lower is more anomalous**.
//!
//! # Cost
//!
//! Training is O(t ψ log ψ) after one pass over the data, plus O(n t log ψ) to score the *n*
//! training rows for the threshold and [`TrainingScores`]. Scoring is O(t log ψ) per row and
//! allocates nothing. Memory is 12 bytes per node and at most t (2ψ − 1) nodes, and 3 KB per tree
//! more if ψ is at most 256, rows have at most 32 features, and trees 8 nodes or more on average.
//!
//! # Determinism
//!
//! Equal data, parameters and seed give equal trees and equal scores, bit for bit, on every
//! platform: the generator, the logarithm and the exponential are the crate's own and use only
//! operations that IEEE 754 fixes.
//!
//! # Example
//!
//! ```
//! use linfa::traits::{Fit, Predict};
//! use linfa::DatasetBase;
//! use linfa_isolation_forest::{IsolationForest, IsolationForestError};
//! use ndarray::{Array1, Array2, array};
//!
//! # fn main() -> Result<(), IsolationForestError> {
//! // 500 rows on a small disc, none of them unusual.
//! let records = Array2::from_shape_fn((500, 2), |(row, column)| {
//!     let angle = row as f64 * 2.4;
//!     let radius = (row as f64 / 500.0).sqrt();
//!     radius * if column == 0 { angle.cos() } else { angle.sin() }
//! });
//! let forest = IsolationForest::params()
//!     .contamination(0.01)
//!     .seed(7)
//!     .fit(&DatasetBase::from(records))?;
//!
//! let anomalous: Array1<bool> = forest.predict(&array![[0.1, 0.0], [3.0, -3.0]]);
//! assert_eq!(anomalous, array![false, true]);
//!
//! // Which feature is to blame? The first, here.
//! let blame = forest.contributions(&[3.0, 0.0])?;
//! assert!(blame[0] > blame[1]);
//!
//! let stored = forest.to_bytes();
//! assert_eq!(IsolationForest::from_bytes(&stored)?, forest);
//! # Ok(())
//! # }
//! ```

mod bytes;
mod error;
mod fit;
mod forest;
mod math;
mod params;
mod rng;
mod score;
mod table;
mod tree;

pub use bytes::FORMAT_VERSION;
pub use error::IsolationForestError;
pub use forest::{IsolationForest, TrainingScores};
pub use math::average_path_length;
pub use params::{IsolationForestParams, IsolationForestValidParams};
