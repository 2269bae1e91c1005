//! Hyperparameters, unchecked and checked, in linfa's two-step form.

use linfa::ParamGuard;

use crate::error::IsolationForestError;

/// Checked hyperparameters: trains through linfa's `Fit` or through
/// [`fit_rows`](Self::fit_rows). Made by [`IsolationForestParams`]' `check` or `check_ref`.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct IsolationForestValidParams {
    n_trees: usize,
    max_samples: usize,
    contamination: Option<f64>,
    seed: u64,
}

impl IsolationForestValidParams {
    /// Number of trees, the paper's *t*.
    pub fn n_trees(&self) -> usize {
        self.n_trees
    }

    /// Most rows that a tree is grown from, the paper's *ψ*.
    pub fn max_samples(&self) -> usize {
        self.max_samples
    }

    /// Share of the training rows that the threshold calls anomalous, if one was set.
    pub fn contamination(&self) -> Option<f64> {
        self.contamination
    }

    /// Seed of the random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Unchecked hyperparameters, set through builder methods.
///
/// ```
/// use linfa::ParamGuard;
/// use linfa_isolation_forest::IsolationForestParams;
///
/// let params = IsolationForestParams::new().n_trees(50).max_samples(128).contamination(0.001);
/// assert!(params.check().is_ok());
/// assert!(IsolationForestParams::new().contamination(0.7).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Stored", into = "Stored"))]
pub struct IsolationForestParams(IsolationForestValidParams);

impl Default for IsolationForestParams {
    fn default() -> Self {
        Self::new()
    }
}

impl IsolationForestParams {
    /// The paper's defaults: 100 trees, 256 rows each, no contamination (threshold 0.5), seed 0.
    pub fn new() -> Self {
        Self(IsolationForestValidParams {
            n_trees: 100,
            max_samples: 256,
            contamination: None,
            seed: 0,
        })
    }

    /// Number of trees, at least 1. Path lengths converge well before 100 (section 4.1).
    #[must_use]
    pub fn n_trees(mut self, n_trees: usize) -> Self {
        self.0.n_trees = n_trees;
        self
    }

    /// Most rows that a tree is grown from, at least 2; fewer are used when there are fewer.
    /// More do not help: small samples are what keeps anomalies from masking each other
    /// (section 3).
    #[must_use]
    pub fn max_samples(mut self, max_samples: usize) -> Self {
        self.0.max_samples = max_samples;
        self
    }

    /// Puts the threshold at the (1 − `contamination`) quantile of the training scores, so that
    /// about this share of the training rows is called anomalous. In (0, 0.5].
    #[must_use]
    pub fn contamination(mut self, contamination: f64) -> Self {
        self.0.contamination = Some(contamination);
        self
    }

    /// Seed of the random numbers; any value. Equal seeds give equal forests, and the forests of
    /// any two different seeds are independent.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seed = seed;
        self
    }
}

impl ParamGuard for IsolationForestParams {
    type Checked = IsolationForestValidParams;
    type Error = IsolationForestError;

    /// Fails on a parameter outside its range.
    fn check_ref(&self) -> Result<&Self::Checked, Self::Error> {
        let params = &self.0;
        if params.n_trees == 0 {
            return Err(IsolationForestError::InvalidTrees);
        }
        if params.max_samples < 2 {
            return Err(IsolationForestError::InvalidMaxSamples(params.max_samples));
        }
        match params.contamination {
            Some(share) if !(share > 0.0 && share <= 0.5) => {
                Err(IsolationForestError::InvalidContamination(share))
            }
            _ => Ok(params),
        }
    }

    fn check(self) -> Result<Self::Checked, Self::Error> {
        self.check_ref()?;
        Ok(self.0)
    }
}

/// Stored form of the unchecked parameters. The checked ones cannot be read back, since that
/// would be a way around the check.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    n_trees: usize,
    max_samples: usize,
    contamination: Option<f64>,
    seed: u64,
}

#[cfg(feature = "serde")]
impl From<Stored> for IsolationForestParams {
    fn from(stored: Stored) -> Self {
        let Stored {
            n_trees,
            max_samples,
            contamination,
            seed,
        } = stored;
        Self(IsolationForestValidParams {
            n_trees,
            max_samples,
            contamination,
            seed,
        })
    }
}

#[cfg(feature = "serde")]
impl From<IsolationForestParams> for Stored {
    fn from(params: IsolationForestParams) -> Self {
        let IsolationForestValidParams {
            n_trees,
            max_samples,
            contamination,
            seed,
        } = params.0;
        Self {
            n_trees,
            max_samples,
            contamination,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers() {
        let params = IsolationForestParams::default().check().unwrap();
        assert_eq!(
            (params.n_trees(), params.max_samples(), params.seed()),
            (100, 256, 0)
        );
        assert_eq!(params.contamination(), None);
    }

    #[test]
    fn ranges_are_checked() {
        let params = IsolationForestParams::new;
        assert!(matches!(
            params().n_trees(0).check(),
            Err(IsolationForestError::InvalidTrees)
        ));
        assert!(matches!(
            params().max_samples(1).check(),
            Err(IsolationForestError::InvalidMaxSamples(1))
        ));
        for share in [0.0, -0.1, 0.51, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                params().contamination(share).check(),
                Err(IsolationForestError::InvalidContamination(_))
            ));
        }
        assert!(
            params()
                .n_trees(1)
                .max_samples(2)
                .contamination(0.5)
                .check()
                .is_ok()
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_round_trip() {
        let params = IsolationForestParams::new()
            .contamination(0.01)
            .seed(u64::MAX);
        let json = serde_json::to_string(&params).unwrap();
        assert_eq!(
            serde_json::from_str::<IsolationForestParams>(&json).unwrap(),
            params
        );
    }
}
