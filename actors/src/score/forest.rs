//! One isolation forest per group of sensors (those with the same set of quantities), on
//! dimensionless features, so that ten thousand sensors share one. Pure: growing a forest is a job
//! that the caller runs wherever it likes.

use std::sync::Arc;

use linfa::ParamGuard;
use linfa_isolation_forest::IsolationForest;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::QuantityId;
use xxhash_rust::xxh3::xxh3_64;

use super::Config;
use crate::stats::channel::Look;

/// Features per quantity: z, distance from the short-term expectation, step, noise.
pub const FEATURES: usize = 4;
/// Features beyond this many spreads say no more.
const CLIP: f64 = 25.0;

/// The quantities of a group, sorted.
pub type GroupKey = SmallVec<[QuantityId; 4]>;

/// Appends the features of one value.
#[allow(
    clippy::cast_possible_truncation,
    reason = "clipped to ±25; the forest works in f32"
)]
pub fn features(look: &Look, out: &mut Vec<f32>) {
    let clip = |x: f64| x.clamp(-CLIP, CLIP) as f32;
    out.extend([
        clip(look.z),
        clip(look.residual_z),
        clip(look.step / look.residual_spread),
        clip(look.noise_ratio),
    ]);
}

/// A forest in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Rises with every forest of this engine; stored rows name it.
    pub generation: u32,
    /// Whom it is for.
    pub group: GroupKey,
    /// The trees.
    pub forest: IsolationForest,
}

/// What is stored of a model, in front of the forest's own bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    generation: u32,
    group: GroupKey,
}

/// Stored bytes that are no model.
#[derive(Debug, thiserror::Error)]
#[error("not a stored forest")]
pub struct NotAModel;

impl Model {
    /// Anomaly score over the line: 1 at the line, 0 at the training median.
    pub fn ratio(&self, score: f32) -> f64 {
        let training = self.forest.training_scores();
        let median = f64::from(training.median);
        let line = self.line();
        ((f64::from(score) - median) / (line - median).max(1e-6)).max(0.0)
    }

    /// The alarm line: the training quantile, with a margin of a third of its distance from the
    /// median.
    pub fn line(&self) -> f64 {
        let median = f64::from(self.forest.training_scores().median);
        let quantile = f64::from(self.forest.threshold());
        quantile + (quantile - median) / 3.0
    }

    /// The quantity that has most to do with the score of `row`.
    pub fn subject(&self, row: &[f32]) -> Option<QuantityId> {
        let contributions = self.forest.contributions(row).ok()?;
        let sums = contributions
            .chunks_exact(FEATURES)
            .map(|of| of.iter().sum());
        let most = sums
            .enumerate()
            .max_by(|(_, a): &(_, f32), (_, b)| a.total_cmp(b));
        self.group.get(most?.0).copied()
    }

    /// For the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            generation: self.generation,
            group: self.group.clone(),
        };
        // Two integers and a short list always serialise.
        let mut bytes = postcard::to_allocvec(&header).unwrap_or_default();
        bytes.extend(self.forest.to_bytes());
        bytes
    }

    /// Inverse of [`Model::to_bytes`].
    ///
    /// # Errors
    /// [`NotAModel`] if the bytes are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAModel> {
        let (header, rest): (Header, _) =
            postcard::take_from_bytes(bytes).map_err(|_| NotAModel)?;
        let forest = IsolationForest::from_bytes(rest).map_err(|_| NotAModel)?;
        if forest.n_features() != header.group.len() * FEATURES {
            return Err(NotAModel);
        }
        Ok(Self {
            generation: header.generation,
            group: header.group,
            forest,
        })
    }
}

/// A forest to be grown.
#[derive(Debug)]
pub struct FitJob {
    generation: u32,
    group: GroupKey,
    rows: Vec<f32>,
    trees: u32,
    samples: u32,
    contamination: f64,
    seed: u64,
}

impl FitJob {
    /// Grows the forest: a few milliseconds. `None` if the rows do not give one (then the group
    /// keeps what it has).
    pub fn run(self) -> Option<Model> {
        let seed = xxh3_64(
            &[
                self.seed.to_le_bytes(),
                u64::from(self.generation).to_le_bytes(),
            ]
            .concat(),
        );
        let params = IsolationForest::params()
            .n_trees(self.trees as usize)
            .max_samples(self.samples as usize)
            .contamination(self.contamination)
            .seed(seed)
            .check()
            .ok()?;
        let forest = params
            .fit_rows(&self.rows, self.group.len() * FEATURES)
            .ok()?;
        Some(Model {
            generation: self.generation,
            group: self.group,
            forest,
        })
    }
}

/// One group: its forest, and the sample from which the next one will be grown.
#[derive(Debug)]
pub struct Group {
    key: GroupKey,
    model: Option<Arc<Model>>,
    /// Row-major sample of accepted rows (reservoir sampling, Vitter 1985, algorithm R).
    sample: Vec<f32>,
    seen: u64,
    since_fit: u64,
    fit_at: u64,
    fitting: bool,
}

impl Group {
    /// Rows that the first forest needs.
    const FIRST_FIT: u64 = 256;
    /// Rows kept for the next one.
    const KEPT: u64 = 4096;

    /// A group without a forest yet, or with the stored one.
    pub fn new(key: GroupKey, model: Option<Arc<Model>>, config: &Config) -> Self {
        let fit_at = if model.is_some() {
            Self::later(config)
        } else {
            Self::FIRST_FIT
        };
        Self {
            key,
            model,
            sample: Vec::new(),
            seen: 0,
            since_fit: 0,
            fit_at,
            fitting: false,
        }
    }

    fn later(config: &Config) -> u64 {
        if config.refit_every == 0 {
            u64::MAX
        } else {
            u64::from(config.refit_every)
        }
    }

    /// Whose it is.
    pub fn key(&self) -> &GroupKey {
        &self.key
    }

    /// The forest in use.
    pub fn model(&self) -> Option<&Arc<Model>> {
        self.model.as_ref()
    }

    /// Takes an accepted row into the sample.
    pub fn learn(&mut self, row: &[f32], seed: u64) {
        self.since_fit += 1;
        self.seen += 1;
        if self.seen <= Self::KEPT {
            self.sample.extend_from_slice(row);
            return;
        }
        let random = xxh3_64(&[seed.to_le_bytes(), self.seen.to_le_bytes()].concat());
        let at = random % self.seen;
        if at < Self::KEPT {
            #[allow(clippy::cast_possible_truncation, reason = "below 4,096")]
            let start = at as usize * row.len();
            self.sample[start..start + row.len()].copy_from_slice(row);
        }
    }

    /// The job for the next forest, when it is time.
    pub fn due(&mut self, generation: u32, config: &Config) -> Option<FitJob> {
        if self.fitting || self.since_fit < self.fit_at {
            return None;
        }
        self.fitting = true;
        self.since_fit = 0;
        // 256, 1,024, 4,096, … until the configured distance is reached.
        self.fit_at = match config.refit_every {
            0 => u64::MAX,
            _ => self.fit_at.saturating_mul(4).min(Self::later(config)),
        };
        // Newer rows weigh more in the next sample than a whole history would let them.
        let rows = self.sample.clone();
        self.seen = self.seen.min(Self::KEPT);
        Some(FitJob {
            generation,
            group: self.key.clone(),
            rows,
            trees: config.forest_trees,
            samples: config.forest_samples,
            contamination: config.forest_contamination,
            seed: config.seed,
        })
    }

    /// The job is done: its forest takes over.
    pub fn install(&mut self, model: Option<Arc<Model>>) {
        self.fitting = false;
        if model.is_some() {
            self.model = model;
        }
    }
}

#[cfg(test)]
mod tests {
    use vigie_wire::TEMPERATURE;

    use super::*;

    fn row(n: u64) -> [f32; FEATURES] {
        let noise = |salt: u64| {
            (xxh3_64(&[n.to_le_bytes(), salt.to_le_bytes()].concat()) % 2000) as f32 / 1000.0 - 1.0
        };
        [noise(1), noise(2), noise(3), noise(4)]
    }

    fn grown(config: &Config) -> Model {
        let mut group = Group::new(GroupKey::from_slice(&[TEMPERATURE]), None, config);
        for n in 0..300 {
            assert_eq!(group.due(7, config).is_some(), n == 256, "after {n} rows");
            group.learn(&row(n), config.seed);
        }
        FitJob {
            generation: 7,
            group: group.key.clone(),
            rows: group.sample.clone(),
            trees: 100,
            samples: 256,
            contamination: 0.001,
            seed: 1,
        }
        .run()
        .unwrap()
    }

    #[test]
    fn the_line_separates_strangers() {
        let model = grown(&Config::default());
        let over = (300..2300)
            .filter(|n| model.ratio(model.forest.score_one(&row(*n))) >= 1.0)
            .count();
        assert!(over <= 4, "{over} of 2,000 ordinary rows over the line");
        let stranger = [12.0, -12.0, 12.0, 3.0];
        assert!(model.ratio(model.forest.score_one(&stranger)) > 1.0);
        assert_eq!(model.subject(&stranger), Some(TEMPERATURE));
        assert_eq!(model.subject(&stranger[..2]), None);
    }

    #[test]
    fn stored_and_loaded_it_scores_the_same() {
        let model = grown(&Config::default());
        let again = Model::from_bytes(&model.to_bytes()).unwrap();
        assert_eq!(again, model);
        let mut damaged = model.to_bytes();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(Model::from_bytes(&damaged).is_err());
        assert!(Model::from_bytes(&[]).is_err());
    }
}
