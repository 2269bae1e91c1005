//! Scores a batch: rules on each reading, the forest on all readings of a group together, then the
//! incidents. Pure, apart from asking the store for an incident after a refusal.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use vigie_wire::SensorId;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::episodes::{Incidents, Setup};
use super::forest::{FitJob, Group, GroupKey, Model, features};
use super::incident::{Changes, Incident, Order, Raised};
use super::maintenance::Silence;
use super::peers::Peers;
use super::rules::{Band, Near, Rule, Verdict, band, judge, judge_gap, judge_silence};
use super::{Config, ForestPer};
use crate::batch::{Batch, Forget};
use crate::quantity::Catalogue;
use crate::reading::{Arrival, Reading};
use crate::stats::channel::Channel;
use crate::stats::hearing::{Hearing, Meanwhile};
use crate::stats::share::{Finding, Part, Recalled, SilenceLine, Snapshot};
use crate::stats::state::{Observed, SensorState};
use crate::store::row::{EncodedRows, Row, StoredValue};
use crate::{stats, store};

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
    /// Where each value should be, in the same order.
    pub bands: SmallVec<[Option<Band>; 2]>,
    /// r / (1 + r) of the largest ratio r: 0.5 is the line.
    pub score: f32,
    /// The same of the forest alone, if one took part.
    pub forest: f32,
    /// Which rules are not far enough below their lines to end an incident.
    pub near: Near,
    /// Generation of the forest that took part; 0 if none did.
    pub generation: u32,
    /// What fired, most telling first. Empty for most readings.
    pub fired: Vec<Verdict>,
    /// Sequence numbers that are missing before it.
    pub skipped: u64,
    /// What was going on while those went missing.
    pub meanwhile: Meanwhile,
    /// The node has restarted since the reading before.
    pub restarted: bool,
    /// The sensor's expected interval.
    pub expected_ms: Option<i64>,
    /// When the reading before was received.
    pub heard_before_ms: i64,
}

impl ScoredReading {
    /// What is known of it before any rule.
    fn of(index: u32, reading: &Reading, kind: Kind, observed: &Observed) -> Self {
        Self {
            index,
            time_ms: reading.order_ms,
            kind,
            entered: observed.entered,
            z: SmallVec::new(),
            bands: SmallVec::new(),
            score: 0.0,
            forest: 0.0,
            near: Near::default(),
            generation: 0,
            fired: Vec::new(),
            skipped: observed.skipped,
            meanwhile: Meanwhile::default(),
            restarted: observed.restarted,
            expected_ms: observed.expected_gap_ms,
            heard_before_ms: observed.heard_before_ms.unwrap_or(i64::MAX),
        }
    }

    /// As it is stored.
    fn row(&self, reading: &Reading) -> Row {
        let z = self.z.iter().copied().chain(std::iter::repeat(0.0));
        let values = reading.values.iter().zip(z);
        Row {
            entered: self.entered,
            late: self.kind == Kind::Late,
            anomaly: !self.fired.is_empty(),
            score: self.score,
            generation: self.generation,
            delay_ms: reading.received_ms - reading.order_ms,
            ahead_ms: reading.device_ms.map(|device| device - reading.order_ms),
            next_s: reading.next_s,
            start: reading.start.clone(),
            values: values
                .map(|((quantity, value), z)| StoredValue {
                    quantity: *quantity,
                    value: *value,
                    z,
                })
                .collect(),
        }
    }
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
    /// Each of them as it is written, if it is: made here, because the Store has the most to do.
    pub rows: EncodedRows,
    /// Found silent.
    pub silent: Vec<SilentSensor>,
    /// Incidents and notices.
    pub changes: Changes,
    /// States to be written.
    pub snapshots: Vec<(SensorId, Snapshot)>,
    /// Forests in use that the store may not have yet.
    pub models: Vec<Arc<Model>>,
}

/// What the Scorer asks of the store. By default there is no such thing as people.
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

    /// Silences that people asked for.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn silences(&self) -> Result<Vec<Silence>, store::Error> {
        Ok(Vec::new())
    }

    /// Lines that false alarms have raised.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn raised(&self) -> Result<Vec<Raised>, store::Error> {
        Ok(Vec::new())
    }

    /// What people want done and is not done yet, with numbers, from number `from` on.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn orders(&self, _from: u64) -> Result<Vec<(u64, Order)>, store::Error> {
        Ok(Vec::new())
    }

    /// An incident, however long ago it was.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn incident(&self, _id: &str) -> Result<Option<Incident>, store::Error> {
        Ok(None)
    }

    /// The state of a sensor, as it was stored, and the readings since.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn state(&self, _sensor: &SensorId) -> Result<Option<Recalled>, store::Error> {
        Ok(None)
    }

    /// All sensors there are.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn sensor_ids(&self) -> Result<Vec<SensorId>, store::Error> {
        Ok(Vec::new())
    }
}

/// The largest ratio that has not fired.
const BELOW: f64 = 0.999;
/// How often people's orders are looked for, ms.
const ORDERS_EVERY_MS: i64 = 200;
/// How often the sensors are counted, ms.
const COUNTED_EVERY_MS: i64 = 600_000;

/// Readings of one group in the present batch.
#[derive(Debug, Default)]
struct Rows {
    features: Vec<f32>,
    /// Index into `Scored::readings`, and whether the row may be learned.
    of: Vec<(usize, bool)>,
}

/// By how much a sensor's lines are higher than those of others.
type Lines = HashMap<SensorId, SmallVec<[(Rule, f64); 1]>, Xxh3DefaultBuilder>;

/// By how much that line is higher; 1 if it is not.
fn factor(lines: &Lines, sensor: &SensorId, rule: Rule) -> f64 {
    let lines = lines.get(sensor).map_or(&[][..], |lines| lines);
    let own = lines.iter().find(|(raised, _)| *raised == rule);
    own.map_or(1.0, |(_, factor)| *factor)
}

/// Lowers the ratios (all, or those of one rule) whose lines are raised, and takes out what has not
/// fired then.
fn lower(lines: &Lines, sensor: SensorId, only: Option<Rule>, fired: &mut Vec<Verdict>) {
    let Some(lines) = lines.get(&sensor) else {
        return;
    };
    for verdict in fired.iter_mut() {
        for (rule, factor) in lines {
            if verdict.judged_by() == *rule && only.is_none_or(|only| only == *rule) {
                verdict.ratio /= factor;
                verdict.line = verdict.expected + (verdict.line - verdict.expected) * factor;
            }
        }
    }
    fired.retain(|verdict| verdict.ratio >= 1.0);
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
    /// Group of the last reading, and mostly of the next one.
    latest: usize,
    incidents: Incidents,
    peers: Peers,
    /// How states are made of readings.
    stats: stats::Config,
    raised: Lines,
    /// Number of the next order.
    next_order: u64,
    asked_ms: i64,
    counted_ms: i64,
    next_generation: u32,
    unsaved: Vec<Arc<Model>>,
    jobs: Vec<FitJob>,
    scores: Vec<f32>,
    /// A gap after a reading from before is the engine's own deafness.
    hearing: Arc<Hearing>,
    epoch: u64,
    /// No batch was scored yet. The one before the first may have been on its way into the store while
    /// this was made.
    fresh: bool,
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
        setup: Setup,
        stats: stats::Config,
        hearing: Arc<Hearing>,
        epoch: u64,
    ) -> Result<Self, store::Error> {
        let line = SilenceLine {
            gaps: config.silence_intervals,
            least_ms: config.silence_least.as_ms(),
        };
        let peers = Peers::new(Arc::clone(&setup.groups));
        let incidents = Incidents::new(setup, memory.current_incidents()?, memory.silences()?);
        let mut scorer = Self {
            catalogue,
            margin: config.margin(),
            config,
            line,
            groups: Vec::new(),
            by_key: HashMap::default(),
            latest: 0,
            incidents,
            peers,
            stats,
            raised: HashMap::default(),
            next_order: 0,
            asked_ms: i64::MIN,
            counted_ms: i64::MIN,
            next_generation: 1,
            unsaved: Vec::new(),
            jobs: Vec::new(),
            scores: Vec::new(),
            hearing,
            epoch,
            fresh: true,
            memory,
        };
        for model in scorer.memory.newest_models()? {
            scorer.next_generation = scorer.next_generation.max(model.generation + 1);
            let key = model.group.clone();
            // Grown under another setting.
            if key.sensor.is_some() != (scorer.config.forest_per == ForestPer::Sensor) {
                continue;
            }
            scorer.add(key, Some(Arc::new(model)));
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
            rows: EncodedRows::with_capacity(batch.arrivals.len()),
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
        let nothing = Observed::default();
        for (index, finding) in &found {
            let Some(Arrival::Reading(reading)) = arrivals.get(*index as usize) else {
                continue;
            };
            let (kind, observed) = match finding {
                Finding::Entered(observed) => (Kind::Entered, observed),
                Finding::Late(observed) => (Kind::Late, observed),
                Finding::Duplicate => (Kind::Duplicate, &nothing),
                Finding::TooManySensors => (Kind::TooManySensors, &nothing),
            };
            let at = scored.readings.len();
            let row = ScoredReading::of(*index, reading, kind, observed);
            scored.readings.push(row);
            // Filled where it is: it is too large to be moved.
            if let Some(row) = scored.readings.last_mut() {
                self.rules(at, reading, (kind, observed), row);
            }
        }
        self.forests(&mut scored.readings);
        self.episodes(&arrivals, &mut scored);
        for row in &scored.readings {
            if let Some(Arrival::Reading(reading)) = arrivals.get(row.index as usize) {
                scored.rows.push(reading, &row.row(reading))?;
            }
        }

        let now_ms = scored.batch.now_ms;
        for silence in silences {
            let verdict = judge_silence(&silence, now_ms, self.line);
            let times = (now_ms, now_ms);
            self.incidents.silence(silence.sensor, times, &verdict);
            scored.silent.push(SilentSensor {
                sensor: silence.sensor,
                verdict,
            });
        }
        self.obey(now_ms, &mut scored.changes)?;
        let deaf = self.hearing.since_ms() == i64::MAX;
        self.incidents.tick(now_ms, deaf, &mut scored.changes);
        scored.models = std::mem::take(&mut self.unsaved);
        Ok(Some(scored))
    }

    fn forget(&mut self, batch: &Batch) -> Result<(), store::Error> {
        let mut forget = batch.catch_up(&mut self.epoch);
        if self.fresh {
            // Nothing is under way now: what was is stored, or will come again.
            forget = Some(Forget::Everything);
        }
        let Some(forget) = forget else {
            return Ok(());
        };
        // Not only of the readings' sensors: time alone ends incidents, and silences begin them.
        let (current, silences) = (self.memory.current_incidents()?, self.memory.silences()?);
        self.incidents.replace(current, silences);
        self.raised.clear();
        self.raise(&self.memory.raised()?);
        match forget {
            Forget::Sensors(sensors) => self.meet_again(&sensors)?,
            Forget::Everything => self.meet()?,
        }
        self.next_order = 0;
        if !self.fresh {
            // A refused batch may have carried them.
            self.unsaved = self
                .groups
                .iter()
                .filter_map(|(group, _)| group.model().cloned())
                .collect();
        }
        self.fresh = false;
        Ok(())
    }

    /// Learns anew from the store where the sensors of the groups are.
    fn meet(&mut self) -> Result<(), store::Error> {
        self.peers.clear();
        if self.peers.is_empty() {
            return Ok(());
        }
        for sensor in self.memory.sensor_ids()? {
            if self.peers.has(&sensor)
                && let Some(state) = self.state_of(&sensor)?
            {
                self.peers.enter(sensor, state.courses());
            }
        }
        Ok(())
    }

    /// The same of sensors whose readings were refused: they are where they were before.
    fn meet_again(&mut self, sensors: &[SensorId]) -> Result<(), store::Error> {
        for sensor in sensors {
            if self.peers.has(sensor) {
                let state = self.state_of(sensor)?.unwrap_or_default();
                self.peers.put_back(*sensor, state.courses());
            }
        }
        self.peers.count_anew(sensors);
        Ok(())
    }

    /// As the store has it.
    fn state_of(&self, sensor: &SensorId) -> Result<Option<SensorState>, store::Error> {
        let recalled = self.memory.state(sensor)?;
        Ok(recalled.map(|recalled| recalled.replay(&self.catalogue, &self.stats)))
    }

    /// Does what people want done.
    fn obey(&mut self, now_ms: i64, changes: &mut Changes) -> Result<(), store::Error> {
        // Also after the clock was set back.
        let due = |last_ms: i64, every_ms: i64| now_ms.abs_diff(last_ms) >= every_ms.unsigned_abs();
        if due(self.counted_ms, COUNTED_EVERY_MS) {
            self.counted_ms = now_ms;
            self.incidents
                .set_sizes(self.memory.sensor_ids()?.into_iter());
        }
        if !due(self.asked_ms, ORDERS_EVERY_MS) {
            return Ok(());
        }
        self.asked_ms = now_ms;
        for (number, order) in self.memory.orders(self.next_order)? {
            self.next_order = number + 1;
            let stored = |id: &str| self.memory.incident(id);
            let raised_by = |sensor: &SensorId, rule| factor(&self.raised, sensor, rule);
            self.incidents
                .order(number, &order, now_ms, stored, raised_by, changes)?;
            // The next one finds them so.
            self.raise(&changes.raised);
        }
        Ok(())
    }

    fn raise(&mut self, raised: &[Raised]) {
        for Raised {
            sensor,
            rule,
            factor,
        } in raised
        {
            let lines = self.raised.entry(*sensor).or_default();
            lines.retain(|(known, _)| known != rule);
            lines.push((*rule, *factor));
        }
    }

    fn rules(
        &mut self,
        at: usize,
        reading: &Reading,
        (kind, observed): (Kind, &Observed),
        row: &mut ScoredReading,
    ) {
        let entered = kind == Kind::Entered;
        let mut worst = 0.0_f64;
        let shared = if entered {
            let values = observed.looks.iter().filter(|look| look.plausible);
            let at_ms = reading.order_ms;
            let values = values.map(|look| (look.quantity, at_ms, look.course()));
            self.peers.enter(reading.sensor, values)
        } else {
            SmallVec::new()
        };
        for look in &observed.looks {
            let shared = shared.iter().find(|(id, _)| *id == look.quantity);
            let shared = shared.map_or([1.0; 3], |(_, factors)| *factors);
            let ratio = judge(
                look,
                reading.order_ms,
                &self.catalogue,
                (self.margin, shared),
                &mut row.fired,
                &mut row.near,
            );
            worst = worst.max(ratio);
        }
        if let (Some(gap), Some(expected)) = (observed.gap_ms, observed.expected_gap_ms) {
            let ratio = judge_gap(gap, expected, reading.order_ms, self.line, &mut row.fired);
            worst = worst.max(ratio);
        }
        if !row.fired.is_empty() && self.raised.contains_key(&reading.sensor) {
            lower(&self.raised, reading.sensor, None, &mut row.fired);
            // What rose above the others' lines only is below this sensor's own.
            let over = row.fired.iter().map(|verdict| verdict.ratio);
            worst = over.fold(worst.min(BELOW), f64::max);
        }
        let learn = entered && row.fired.is_empty();
        self.gather(at, reading.sensor, observed, learn);
        row.score = score_of(worst);
        if row.skipped > 0 {
            row.meanwhile = self.hearing.meanwhile(row.heard_before_ms);
        }
        let margin = |rule| self.margin * factor(&self.raised, &reading.sensor, rule);
        for look in &observed.looks {
            #[allow(clippy::cast_possible_truncation, reason = "shown and compared as f32")]
            row.z.push(look.z as f32);
            // Nobody looks at those of others.
            if entered {
                row.bands.push(band(look, margin));
            }
        }
    }

    /// A group that is not there yet, with its stored forest if there is one. Returns its place.
    fn add(&mut self, key: GroupKey, model: Option<Arc<Model>>) -> usize {
        let place = self.groups.len();
        self.by_key.insert(key.clone(), place);
        let group = Group::new(key, model, &self.config);
        self.groups.push((group, Rows::default()));
        place
    }

    /// Puts the reading's features beside those of its group.
    fn gather(&mut self, at: usize, sensor: SensorId, observed: &Observed, learn: bool) {
        let ready =
            |look: &crate::stats::channel::Look| look.plausible && look.warm && look.residual_warm;
        if observed.looks.is_empty() || !observed.looks.iter().all(ready) {
            return;
        }
        let sensor = (self.config.forest_per == ForestPer::Sensor).then_some(sensor);
        let quantities = observed.looks.iter().map(|look| look.quantity);
        let is_key = |key: &GroupKey| {
            key.sensor == sensor && key.quantities.iter().copied().eq(quantities.clone())
        };
        let latest = self.groups.get(self.latest);
        if !latest.is_some_and(|(group, _)| is_key(group.key())) {
            let quantities = quantities.collect();
            let key = GroupKey { quantities, sensor };
            let known = self.by_key.get(&key).copied();
            self.latest = known.unwrap_or_else(|| self.add(key, None));
        }
        let rows = &mut self.groups[self.latest].1;
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
                    reading.forest = score_of(ratio);
                    reading.score = reading.score.max(reading.forest);
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
            if row.fired.iter().any(|fired| fired.rule == Rule::Forest) {
                lower(
                    &self.raised,
                    reading.sensor,
                    Some(Rule::Forest),
                    &mut row.fired,
                );
                if row.fired.is_empty() {
                    row.score = row.score.min(score_of(BELOW));
                }
            }
            let often = |expected_ms: i64| (expected_ms as f64) < Channel::OFTEN_MS;
            let often = row.expected_ms.is_some_and(often);
            row.fired.sort_by_key(|verdict| verdict.place(often));
            match row.kind {
                Kind::Entered => {
                    let silence = row
                        .fired
                        .iter()
                        .position(|fired| fired.rule == Rule::Silence);
                    let excused = silence.filter(|_| row.heard_before_ms < hearing_since_ms);
                    let excused = excused.map(|at| row.fired.remove(at));
                    let found = (row.fired.as_slice(), row.near);
                    self.incidents.reading(reading.sensor, times, found);
                    // The row tells of the gap all the same: rules depend on readings alone.
                    row.fired.extend(excused);
                    row.fired.sort_by_key(|verdict| verdict.place(often));
                }
                Kind::Late => {
                    row.fired.clear();
                    let normal = (&[] as &[Verdict], Near::default());
                    self.incidents.reading(reading.sensor, times, normal);
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::batch::Epochs;

    const NOW_MS: i64 = 1_790_000_000_000;

    /// A store that gets something while a Scorer is made.
    #[derive(Debug, Clone, Default)]
    struct Later(Rc<RefCell<Vec<Incident>>>);

    impl IncidentMemory for Later {
        fn current_incidents(&self) -> Result<Vec<Incident>, store::Error> {
            Ok(self.0.borrow().clone())
        }

        fn newest_models(&self) -> Result<Vec<Model>, store::Error> {
            Ok(Vec::new())
        }
    }

    fn scorer(memory: &Later) -> Scorer<Later> {
        let hearing = Arc::new(Hearing::since(i64::MIN));
        let (config, setup, stats) = (
            Config::default(),
            Setup::default(),
            stats::Config::default(),
        );
        Scorer::new(
            memory.clone(),
            Arc::default(),
            config,
            setup,
            stats,
            hearing,
            0,
        )
        .unwrap()
    }

    /// A tick that finds `silent`.
    fn tick(
        scorer: &mut Scorer<Later>,
        now_ms: i64,
        silent: Vec<crate::stats::share::Silence>,
    ) -> Changes {
        let (batch, _answer) = Batch::new(Arc::default(), now_ms, &Arc::new(Epochs::default()));
        let part = Part {
            batch,
            found: Vec::new(),
            snapshots: Vec::new(),
            silent,
            known: 1,
        };
        scorer.score(vec![part]).unwrap().unwrap().changes
    }

    #[test]
    fn what_was_committed_while_it_was_made_is_known() {
        let memory = Later::default();
        let silence = crate::stats::share::Silence {
            sensor: "C001".try_into().unwrap(),
            since_ms: NOW_MS - 600_000,
            expected_ms: 10_000,
        };
        let opened = tick(&mut scorer(&memory), NOW_MS, vec![silence]).incidents;
        assert_eq!(opened.len(), 1);
        let mut again = scorer(&memory);
        memory.0.borrow_mut().extend(opened.iter().cloned());
        let changes = tick(&mut again, NOW_MS + 1000, vec![silence]);
        assert_eq!(again.open_incidents(), 1);
        let others = changes
            .incidents
            .iter()
            .filter(|one| one.id() != opened[0].id());
        assert_eq!(others.count(), 0);
    }
}
