//! One isolation forest per group of sensors (those with the same set of quantities), on
//! dimensionless features, so that ten thousand sensors share one; or one per sensor. Pure: growing a forest is a job
//! that the caller runs wherever it likes.

use std::sync::Arc;

use linfa::ParamGuard;
use linfa_isolation_forest::IsolationForest;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::xxh3_64;

use super::Config;
use super::rules::{Evidence, Feature};
use crate::stats::channel::Look;

/// Features per quantity.
pub const FEATURES: usize = Feature::ALL.len();
/// Features beyond this many spreads say no more.
const CLIP: f64 = 25.0;

/// Whose forest it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// What its sensors measure, in the order of a row.
    pub quantities: SmallVec<[QuantityId; 4]>,
    /// The only one that it is for, if it is not for all.
    pub sensor: Option<SensorId>,
}

impl GroupKey {
    /// Features of a row.
    pub fn width(&self) -> usize {
        self.quantities.len() * FEATURES
    }
}

/// Appends the features of one value, in the order of [`Feature::ALL`].
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
    /// Of each feature the 5 % and the 95 % quantile over the training rows.
    pub typical: Vec<(f32, f32)>,
}

/// What is stored of a model, in front of the forest's own bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    generation: u32,
    group: GroupKey,
    typical: Vec<(f32, f32)>,
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

    /// What has most to do with the score of `row`: the quantity, and the two features.
    pub fn explain(&self, row: &[f32]) -> (Option<QuantityId>, Vec<Evidence>) {
        let Ok(parts) = self.forest.contributions(row) else {
            return (None, Vec::new());
        };
        let sums = parts.chunks_exact(FEATURES).map(|of| of.iter().sum());
        let most = sums
            .enumerate()
            .max_by(|(_, a): &(_, f32), (_, b)| a.total_cmp(b));
        let quantity = most.and_then(|(at, _)| self.group.quantities.get(at).copied());
        let mut order: Vec<usize> = (0..parts.len()).filter(|at| parts[*at] > 0.0).collect();
        order.sort_by(|a, b| parts[*b].total_cmp(&parts[*a]));
        let evidence = |at: usize| Evidence {
            quantity: self.group.quantities[at / FEATURES],
            feature: Feature::ALL[at % FEATURES],
            value: row[at],
            low: self.typical[at].0,
            high: self.typical[at].1,
        };
        (quantity, order.into_iter().take(2).map(evidence).collect())
    }

    fn accepted(&self, rows: &[f32], before: Option<&Self>) -> Result<(), Refused> {
        let width = self.group.width();
        let mut scores = vec![0.0; rows.len() / width];
        let scored = self.forest.anomaly_scores_into(rows, &mut scores);
        debug_assert!(scored.is_ok(), "whole rows of the group's width");
        let strange = scores.iter().filter(|score| self.ratio(**score) >= 1.0);
        let share = strange.count() as f64 / scores.len().max(1) as f64;
        if share > FitJob::ALARMS {
            return Err(Refused::Alarms { share });
        }
        let to = self.line();
        if to <= f64::from(self.forest.training_scores().median) {
            return Err(Refused::Blind);
        }
        match before.map(Self::line) {
            Some(from) if (to - from).abs() > FitJob::MOVED * from => {
                Err(Refused::Moved { from, to })
            }
            _ => Ok(()),
        }
    }

    /// For the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            generation: self.generation,
            group: self.group.clone(),
            typical: self.typical.clone(),
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
        let width = header.group.width();
        if forest.n_features() != width || header.typical.len() != width {
            return Err(NotAModel);
        }
        Ok(Self {
            generation: header.generation,
            group: header.group,
            forest,
            typical: header.typical,
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
    /// The one in use.
    before: Option<Arc<Model>>,
}

/// Why a new forest does not take over: the group keeps what it has.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The job could not be done.
    #[error("no forest could be grown from {rows} rows")]
    Failed {
        /// How many there were.
        rows: usize,
    },
    /// It sees no difference between the rows that it grew from.
    #[error("all rows that it grew from look the same to it")]
    Blind,
    /// It finds too many of the rows strange that it grew from.
    #[error("it would alarm on {:.1} % of the rows that it grew from", share * 100.0)]
    Alarms {
        /// Which share, from 0 to 1.
        share: f64,
    },
    /// Its idea of strange is another one.
    #[error("its line is {to:.3}, that of the one in use {from:.3}")]
    Moved {
        /// Line of the forest in use.
        from: f64,
        /// Of the new one.
        to: f64,
    },
}

impl FitJob {
    /// A new forest may find so many of its own rows strange, …
    const ALARMS: f64 = 0.01;
    /// … and its line may be apart from that of the one before by this share.
    const MOVED: f64 = 0.3;

    /// Grows the forest, a few milliseconds, and looks whether it is fit to take over.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn run(self) -> Result<Model, Refused> {
        let rows = self.rows.len() / self.group.width().max(1);
        let before = self.before.clone();
        let model = self.grow().ok_or(Refused::Failed { rows })?;
        model.0.accepted(&model.1, before.as_deref())?;
        Ok(model.0)
    }

    /// The forest, and the rows that it grew from.
    fn grow(self) -> Option<(Model, Vec<f32>)> {
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
        let width = self.group.width();
        let forest = params.fit_rows(&self.rows, width).ok()?;
        let model = Model {
            generation: self.generation,
            group: self.group,
            forest,
            typical: (0..width)
                .map(|at| typical(&self.rows, width, at))
                .collect(),
        };
        Some((model, self.rows))
    }
}

/// Nine tenths of feature `at` of `rows`.
fn typical(rows: &[f32], width: usize, at: usize) -> (f32, f32) {
    let mut column: Vec<f32> = rows.iter().skip(at).step_by(width).copied().collect();
    column.sort_unstable_by(f32::total_cmp);
    let edge = column.len() / 20;
    match (
        column.get(edge),
        column.get(column.len().saturating_sub(edge + 1)),
    ) {
        (Some(low), Some(high)) => (*low, *high),
        _ => (0.0, 0.0),
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
            before: self.model.clone(),
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

    fn group() -> GroupKey {
        GroupKey {
            quantities: SmallVec::from_slice(&[TEMPERATURE]),
            sensor: None,
        }
    }

    fn job(rows: Vec<f32>, before: Option<Arc<Model>>) -> FitJob {
        FitJob {
            generation: 7,
            group: group(),
            rows,
            trees: 100,
            samples: 256,
            contamination: 0.001,
            seed: 1,
            before,
        }
    }

    fn grown(config: &Config) -> Model {
        let mut group = Group::new(group(), None, config);
        for n in 0..300 {
            assert_eq!(group.due(7, config).is_some(), n == 256, "after {n} rows");
            group.learn(&row(n), config.seed);
        }
        job(group.sample.clone(), None).run().unwrap()
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
        let (quantity, evidence) = model.explain(&stranger);
        assert_eq!(quantity, Some(TEMPERATURE));
        assert_eq!(evidence.len(), 2, "{evidence:?}");
        for evidence in evidence {
            assert!((-1.1..-0.7).contains(&evidence.low), "{evidence:?}");
            assert!((0.7..1.1).contains(&evidence.high), "{evidence:?}");
            assert!(evidence.value.abs() >= 3.0, "{evidence:?}");
        }
        let jump = [0.1, 0.2, 20.0, 0.1];
        assert_eq!(model.explain(&jump).1[0].feature, Feature::Step);
        assert_eq!(model.explain(&stranger[..2]), (None, Vec::new()));
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

    #[test]
    fn a_bad_new_forest_does_not_take_over() {
        let good = Arc::new(grown(&Config::default()));
        let rows: Vec<f32> = (0..1000).flat_map(row).collect();
        assert!(job(rows.clone(), Some(Arc::clone(&good))).run().is_ok());

        // A line at the median of its own rows: every other reading would be strange.
        let mut loose = job(rows.clone(), Some(Arc::clone(&good)));
        loose.contamination = 0.5;
        assert!(matches!(loose.run(), Err(Refused::Alarms { share }) if share > 0.01));

        let same = job([0.0; 4 * 256].to_vec(), Some(Arc::clone(&good)));
        assert_eq!(same.run(), Err(Refused::Blind));

        // Four giants among a thousand: nothing smaller would ever be strange again.
        let mut giants = rows;
        giants[..4 * FEATURES].fill(25.0);
        let mut high = job(giants, Some(Arc::clone(&good)));
        high.contamination = 0.0001;
        let refused = high.run();
        let Err(Refused::Moved { from, to }) = refused else {
            panic!("{:?}", refused.map(|model| model.line()));
        };
        assert!(to > 1.3 * from);

        let none = job(Vec::new(), Some(Arc::clone(&good))).run();
        assert_eq!(none, Err(Refused::Failed { rows: 0 }));

        let config = Config::default();
        let mut group = Group::new(good.group.clone(), Some(Arc::clone(&good)), &config);
        group.install(None);
        assert_eq!(group.model(), Some(&good));
    }
}
