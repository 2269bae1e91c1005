//! Scores a batch: rules on each reading, the forest on all readings of a group together, then the
//! incidents. Pure, apart from asking the store for an incident after a refusal.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use vigie_wire::SensorId;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::forest::{FitJob, Group, GroupKey, Model, features};
use super::incident::{Changes, Incident, Incidents};
use super::rules::{Near, Rule, Verdict, judge, judge_gap, judge_silence};
use super::{Config, ForestPer};
use crate::batch::Batch;
use crate::quantity::Catalogue;
use crate::reading::{Arrival, Reading};
use crate::stats::hearing::Hearing;
use crate::stats::share::{Finding, Part, SilenceLine};
use crate::stats::state::Observed;
use crate::store;

/// How a reading goes into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As the next one of its sensor.
    Entered,
    /// As a late one, unless the store has it already.
    Late,
    /// Not at all: it is known.
    Duplicate,
    /// Into the quarantine: more sensors than config allows.
    TooManySensors,
}

/// What the stages found out about one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredReading {
    /// Index into the batch's arrivals.
    pub index: u32,
    /// Its order time.
    pub time_ms: i64,
    /// How it goes into the store.
    pub kind: Kind,
    /// Its number among the sensor's readings.
    pub entered: u64,
    /// z-score per value, in the order of the reading's values.
    pub z: SmallVec<[f32; 2]>,
    /// r / (1 + r) of the largest ratio r: 0.5 is the line.
    pub score: f32,
    /// Which rules are not far enough below their lines to end an incident.
    pub near: Near,
    /// Generation of the forest that took part; 0 if none did.
    pub generation: u32,
    /// What fired, most telling first. Empty for most readings.
    pub fired: Vec<Verdict>,
    /// Sequence numbers that are missing before it.
    pub skipped: u64,
    /// The sensor's expected interval.
    pub expected_ms: Option<i64>,
    /// When the reading before was received.
    pub heard_before_ms: i64,
}

/// A sensor's silence, found by a tick.
#[derive(Debug, Clone, PartialEq)]
pub struct SilentSensor {
    /// Who.
    pub sensor: SensorId,
    /// The verdict.
    pub verdict: Verdict,
}

/// A batch with everything that has to be committed together.
#[derive(Debug)]
pub struct Scored {
    /// The batch.
    pub batch: Arc<Batch>,
    /// By index, ascending; readings only.
    pub readings: Vec<ScoredReading>,
    /// Found silent.
    pub silent: Vec<SilentSensor>,
    /// Incidents and notices.
    pub changes: Changes,
    /// States to be written.
    pub snapshots: Vec<(SensorId, Vec<u8>)>,
    /// Forests in use that the store may not have yet.
    pub models: Vec<Arc<Model>>,
}

/// What the Scorer asks of the store.
pub trait IncidentMemory {
    /// The incidents that are open or cooling down.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn current_incidents(&self) -> Result<Vec<Incident>, store::Error>;

    /// The newest forest of each group.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn newest_models(&self) -> Result<Vec<Model>, store::Error>;
}

/// Readings of one group in the present batch.
#[derive(Debug, Default)]
struct Rows {
    features: Vec<f32>,
    /// Index into `Scored::readings`, and whether the row may be learned.
    of: Vec<(usize, bool)>,
}

/// The Scorer's logic.
#[derive(Debug)]
pub struct Scorer<M> {
    memory: M,
    catalogue: Arc<Catalogue>,
    config: Config,
    /// See [`Config::margin`].
    margin: f64,
    line: SilenceLine,
    groups: Vec<(Group, Rows)>,
    by_key: HashMap<GroupKey, usize, Xxh3DefaultBuilder>,
    incidents: Incidents,
    next_generation: u32,
    unsaved: Vec<Arc<Model>>,
    jobs: Vec<FitJob>,
    scores: Vec<f32>,
    /// A gap after a reading from before is the engine's own deafness.
    hearing: Arc<Hearing>,
    epoch: u64,
}

impl<M: IncidentMemory> Scorer<M> {
    /// Goes on with the forests and incidents that the store has.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub fn new(
        memory: M,
        catalogue: Arc<Catalogue>,
        config: Config,
        incidents: super::incident::Config,
        hearing: Arc<Hearing>,
        epoch: u64,
    ) -> Result<Self, store::Error> {
        let line = SilenceLine {
            gaps: config.silence_intervals,
            least_ms: config.silence_least.as_ms(),
        };
        let incidents = Incidents::new(incidents, memory.current_incidents()?);
        let mut scorer = Self {
            catalogue,
            margin: config.margin(),
            config,
            line,
            groups: Vec::new(),
            by_key: HashMap::default(),
            incidents,
            next_generation: 1,
            unsaved: Vec::new(),
            jobs: Vec::new(),
            scores: Vec::new(),
            hearing,
            epoch,
            memory,
        };
        for model in scorer.memory.newest_models()? {
            scorer.next_generation = scorer.next_generation.max(model.generation + 1);
            let key = model.group.clone();
            // Grown under another setting.
            if key.sensor.is_some() != (scorer.config.forest_per == ForestPer::Sensor) {
                continue;
            }
            let group = Group::new(key.clone(), Some(Arc::new(model)), &scorer.config);
            scorer.by_key.insert(key, scorer.groups.len());
            scorer.groups.push((group, Rows::default()));
        }
        Ok(scorer)
    }

    /// Open incidents.
    pub fn open_incidents(&self) -> usize {
        self.incidents.open()
    }

    /// Forests that are due; run each, then [`Scorer::install`] what it gives.
    pub fn take_jobs(&mut self) -> Vec<FitJob> {
        std::mem::take(&mut self.jobs)
    }

    /// A forest is grown: from the next batch on it is in use.
    pub fn install(&mut self, model: Option<Model>) {
        let Some(model) = model else {
            // A job without a result: whoever waited for it may ask again.
            for (group, _) in &mut self.groups {
                group.install(None);
            }
            return;
        };
        let model = Arc::new(model);
        if let Some(at) = self.by_key.get(&model.group) {
            self.groups[*at].0.install(Some(Arc::clone(&model)));
            self.unsaved.push(model);
        }
    }

    /// Scores a batch; `parts`: what each Stats share made of it.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read: the batch must be refused.
    pub fn score(&mut self, parts: Vec<Part>) -> Result<Option<Scored>, store::Error> {
        let Some(batch) = parts.first().map(|part| Arc::clone(&part.batch)) else {
            return Ok(None);
        };
        self.forget(&batch)?;
        let mut found = Vec::new();
        let mut scored = Scored {
            readings: Vec::with_capacity(batch.arrivals.len()),
            batch,
            silent: Vec::new(),
            changes: Changes::default(),
            snapshots: Vec::new(),
            models: Vec::new(),
        };
        let mut silences = Vec::new();
        let shares = parts.len();
        for mut part in parts {
            if found.is_empty() {
                found = part.found;
            } else {
                found.append(&mut part.found);
            }
            scored.snapshots.append(&mut part.snapshots);
            silences.append(&mut part.silent);
        }
        if shares > 1 {
            found.sort_unstable_by_key(|(index, _)| *index);
            silences.sort_unstable_by_key(|silence| silence.sensor);
        }

        let arrivals = Arc::clone(&scored.batch.arrivals);
        for (index, finding) in found {
            let Some(Arrival::Reading(reading)) = arrivals.get(index as usize) else {
                continue;
            };
            let at = scored.readings.len();
            scored
                .readings
                .push(self.rules(at, index, reading, finding));
        }
        self.forests(&mut scored.readings);
        self.episodes(&arrivals, &mut scored);

        let now_ms = scored.batch.now_ms;
        for silence in silences {
            let verdict = judge_silence(&silence, now_ms, self.line);
            self.incidents
                .silence(silence.sensor, now_ms, &verdict, &mut scored.changes);
            scored.silent.push(SilentSensor {
                sensor: silence.sensor,
                verdict,
            });
        }
        self.incidents.tick(now_ms, &mut scored.changes);
        scored.models = std::mem::take(&mut self.unsaved);
        Ok(Some(scored))
    }

    fn forget(&mut self, batch: &Batch) -> Result<(), store::Error> {
        if batch.catch_up(&mut self.epoch).is_none() {
            return Ok(());
        }
        // Not only of the readings' sensors: time alone ends incidents, and silences begin them.
        self.incidents.replace(self.memory.current_incidents()?);
        // A refused batch may have carried them.
        self.unsaved = self
            .groups
            .iter()
            .filter_map(|(group, _)| group.model().cloned())
            .collect();
        Ok(())
    }

    fn rules(
        &mut self,
        at: usize,
        index: u32,
        reading: &Reading,
        finding: Finding,
    ) -> ScoredReading {
        let (kind, observed) = match finding {
            Finding::Entered(observed) => (Kind::Entered, observed),
            Finding::Late(observed) => (Kind::Late, observed),
            Finding::Duplicate => (Kind::Duplicate, Observed::default()),
            Finding::TooManySensors => (Kind::TooManySensors, Observed::default()),
        };
        let mut fired = Vec::new();
        let mut worst = 0.0_f64;
        let mut near = Near::default();
        for look in &observed.looks {
            let ratio = judge(
                look,
                reading.order_ms,
                &self.catalogue,
                self.margin,
                &mut fired,
                &mut near,
            );
            worst = worst.max(ratio);
        }
        if let (Some(gap), Some(expected)) = (observed.gap_ms, observed.expected_gap_ms) {
            let ratio = judge_gap(gap, expected, reading.order_ms, self.line, &mut fired);
            worst = worst.max(ratio);
        }
        self.gather(
            at,
            reading.sensor,
            &observed,
            kind == Kind::Entered && fired.is_empty(),
        );
        #[allow(clippy::cast_possible_truncation, reason = "shown and compared as f32")]
        let z = observed.looks.iter().map(|look| look.z as f32).collect();
        ScoredReading {
            index,
            time_ms: reading.order_ms,
            kind,
            entered: observed.entered,
            z,
            score: score_of(worst),
            near,
            generation: 0,
            fired,
            skipped: observed.skipped,
            expected_ms: observed.expected_gap_ms,
            heard_before_ms: observed.heard_before_ms.unwrap_or(i64::MAX),
        }
    }

    /// Puts the reading's features beside those of its group.
    fn gather(&mut self, at: usize, sensor: SensorId, observed: &Observed, learn: bool) {
        let ready =
            |look: &crate::stats::channel::Look| look.plausible && look.warm && look.residual_warm;
        if observed.looks.is_empty() || !observed.looks.iter().all(ready) {
            return;
        }
        let key = GroupKey {
            quantities: observed.looks.iter().map(|look| look.quantity).collect(),
            sensor: (self.config.forest_per == ForestPer::Sensor).then_some(sensor),
        };
        let group = if let Some(group) = self.by_key.get(&key) {
            *group
        } else {
            self.by_key.insert(key.clone(), self.groups.len());
            self.groups
                .push((Group::new(key, None, &self.config), Rows::default()));
            self.groups.len() - 1
        };
        let rows = &mut self.groups[group].1;
        for look in &observed.looks {
            features(look, &mut rows.features);
        }
        rows.of.push((at, learn));
    }

    /// Scores what was gathered, group by group, eight rows at a time.
    fn forests(&mut self, readings: &mut [ScoredReading]) {
        for (group, rows) in &mut self.groups {
            if rows.of.is_empty() {
                continue;
            }
            let width = group.key().width();
            if let Some(model) = group.model() {
                self.scores.clear();
                self.scores.resize(rows.of.len(), 0.0);
                let scored = model
                    .forest
                    .anomaly_scores_into(&rows.features, &mut self.scores);
                debug_assert!(scored.is_ok(), "the group's key gives both widths");
                let features = rows.features.chunks_exact(width);
                for (((at, learn), score), row) in
                    rows.of.iter_mut().zip(&self.scores).zip(features)
                {
                    let reading = &mut readings[*at];
                    reading.generation = model.generation;
                    let ratio = model.ratio(*score);
                    reading.score = reading.score.max(score_of(ratio));
                    if ratio >= 1.0 {
                        *learn = *learn && ratio < 2.0;
                        let (quantity, evidence) = model.explain(row);
                        reading.fired.push(Verdict {
                            rule: Rule::Forest,
                            quantity,
                            observed: f64::from(*score),
                            expected: f64::from(model.forest.training_scores().median),
                            line: model.line(),
                            ratio,
                            since_ms: reading.time_ms,
                            evidence,
                        });
                    }
                }
            }
            for (row, (_, learn)) in rows.features.chunks_exact(width).zip(&rows.of) {
                if *learn {
                    group.learn(row, self.config.seed);
                }
            }
            rows.features.clear();
            rows.of.clear();
            if let Some(job) = group.due(self.next_generation, &self.config) {
                self.next_generation += 1;
                self.jobs.push(job);
            }
        }
    }

    /// Readings become episodes. Late ones never alert.
    fn episodes(&mut self, arrivals: &[Arrival], scored: &mut Scored) {
        let now_ms = scored.batch.now_ms;
        let hearing_since_ms = self.hearing.since_ms();
        for row in &mut scored.readings {
            let Some(Arrival::Reading(reading)) = arrivals.get(row.index as usize) else {
                continue;
            };
            let times = (reading.order_ms, now_ms);
            row.fired.sort_by_key(|verdict| verdict.rule);
            match row.kind {
                Kind::Entered => {
                    let silence = row
                        .fired
                        .iter()
                        .position(|fired| fired.rule == Rule::Silence);
                    let excused = silence.filter(|_| row.heard_before_ms < hearing_since_ms);
                    let excused = excused.map(|at| row.fired.remove(at));
                    let changes = &mut scored.changes;
                    self.incidents
                        .reading(reading.sensor, times, (&row.fired, row.near), changes);
                    // The row tells of the gap all the same: rules depend on readings alone.
                    row.fired.extend(excused);
                    row.fired.sort_by_key(|verdict| verdict.rule);
                }
                Kind::Late => {
                    row.fired.clear();
                    let changes = &mut scored.changes;
                    self.incidents
                        .reading(reading.sensor, times, (&[], Near::default()), changes);
                }
                Kind::Duplicate | Kind::TooManySensors => {}
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "shown and compared as f32")]
fn score_of(ratio: f64) -> f32 {
    (ratio / (1.0 + ratio)) as f32
}
