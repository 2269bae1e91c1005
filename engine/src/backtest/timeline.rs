//! Recorded readings through the live stages, one at a time and without a store: what the engine
//! would have said, and when.

use std::sync::Arc;

use vigie_actors::batch::{Batch, Epochs};
use vigie_actors::config::Span;
use vigie_actors::quantity::Catalogue;
use vigie_actors::reading::Arrival;
use vigie_actors::score::forest::Model;
use vigie_actors::score::incident::{Incident, Kind, Notice, NoticeKind, Raised};
use vigie_actors::score::maintenance::Calendar;
use vigie_actors::score::rules::Verdict;
use vigie_actors::score::scorer::{IncidentMemory, Kind as Entry, Scored, Scorer};
use vigie_actors::stats::hearing::Hearing;
use vigie_actors::stats::share::{Memory, Share, SilenceLine};
use vigie_actors::store;
use vigie_wire::SensorId;

use crate::config::Config;

/// What the engine made of one moment of one sensor: a reading, or its silence.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) sensor: SensorId,
    pub(crate) time_ms: i64,
    /// r / (1 + r): 0.5 is the line.
    pub(crate) score: f32,
    /// What fired, the explanation first.
    pub(crate) fired: Vec<Verdict>,
    /// How the incident that it belongs to is explained from now on, if that is news.
    pub(crate) because: Option<Verdict>,
    /// A person would have been told now: an incident opened, or became critical.
    pub(crate) told: Option<NoticeKind>,
}

/// The stages, and the time that they have reached.
pub(crate) struct Timeline {
    share: Share<Nothing>,
    scorer: Scorer<Nothing>,
    epochs: Arc<Epochs>,
    checked_ms: i64,
}

/// A store that has nothing but the lines that false alarms have raised.
#[derive(Debug, Default)]
struct Nothing {
    raised: Vec<Raised>,
}

impl Memory for Nothing {}

impl IncidentMemory for Nothing {
    fn current_incidents(&self) -> Result<Vec<Incident>, store::Error> {
        Ok(Vec::new())
    }

    fn newest_models(&self) -> Result<Vec<Model>, store::Error> {
        Ok(Vec::new())
    }

    fn raised(&self) -> Result<Vec<Raised>, store::Error> {
        Ok(self.raised.clone())
    }
}

impl Timeline {
    /// Knows nothing yet, but that these lines are higher than others.
    pub(crate) fn new(
        config: &Config,
        catalogue: &Arc<Catalogue>,
        raised: Vec<Raised>,
    ) -> anyhow::Result<Self> {
        let silence = SilenceLine {
            gaps: config.score.silence_intervals,
            least_ms: config.score.silence_least.as_ms(),
        };
        // Of sensors that sleep in the store there is no store here.
        let stats = vigie_actors::stats::Config {
            max_resident: u32::MAX,
            snapshot_every: u32::MAX,
            ..config.stats.clone()
        };
        let hearing = Arc::new(Hearing::since(i64::MIN));
        let share = Share::new(
            (0, 1),
            Nothing::default(),
            Arc::clone(catalogue),
            stats,
            silence,
            Arc::clone(&hearing),
            0,
        )?;
        let mut setup = config.setup();
        // What is told is compared with when it was: nothing is held back, nothing left out.
        setup.config.gather = Span::secs(0);
        // A reminder repeats what was told, and comes only where nobody acknowledges.
        setup.config.remind_after = Span::secs(0);
        setup.calendar = Calendar::default();
        let scorer = Scorer::new(
            Nothing { raised },
            Arc::clone(catalogue),
            config.score.clone(),
            setup,
            config.stats.clone(),
            hearing,
            0,
        )?;
        Ok(Self {
            share,
            scorer,
            epochs: Arc::new(Epochs::default()),
            checked_ms: i64::MIN,
        })
    }

    /// The next reading, and the silences before it. What is no reading is no moment.
    pub(crate) fn feed(&mut self, arrival: Arrival) -> anyhow::Result<Vec<Moment>> {
        let mut moments = Vec::new();
        let Arrival::Reading(reading) = &arrival else {
            return Ok(moments);
        };
        let now_ms = reading.order_ms;
        if now_ms.saturating_sub(self.checked_ms) >= 1000 {
            self.checked_ms = now_ms;
            while let Some(due_ms) = self.share.overdue_ms().filter(|due| *due < now_ms) {
                let before = moments.len();
                // The live tick comes once a second.
                let tick_ms = (due_ms.div_euclid(1000) + 1) * 1000;
                self.step(Vec::new(), tick_ms, &mut moments)?;
                if moments.len() == before {
                    break;
                }
            }
        }
        self.step(vec![arrival], now_ms, &mut moments)?;
        Ok(moments)
    }

    fn step(
        &mut self,
        arrivals: Vec<Arrival>,
        now_ms: i64,
        moments: &mut Vec<Moment>,
    ) -> anyhow::Result<()> {
        let (batch, _answer) = Batch::new(arrivals.into(), now_ms, &self.epochs);
        let part = self.share.take(&batch)?;
        let Some(scored) = self.scorer.score(vec![part])? else {
            return Ok(());
        };
        collect(&scored, now_ms, moments);
        batch.commit(vec![
            vigie_actors::reading::Outcome::Stored;
            batch.arrivals.len()
        ]);
        for job in self.scorer.take_jobs() {
            self.scorer.install(job.run().ok());
        }
        Ok(())
    }
}

fn collect(scored: &Scored, now_ms: i64, moments: &mut Vec<Moment>) {
    let told = |sensor: SensorId| {
        let news = |notice: &&Notice| {
            let concerned = notice.incident.sensors().any(|one| *one == sensor);
            concerned && notice.kind != NoticeKind::Resolved
        };
        scored
            .changes
            .notices
            .iter()
            .find(news)
            .map(|notice| notice.kind)
    };
    let because = |sensor: SensorId| {
        let changed = scored.changes.incidents.iter();
        let mut about = changed.filter(|one| one.kind == Kind::Values);
        let own = about.find(|one| one.sensor == Some(sensor) && one.is_open())?;
        Some(own.explanation().clone())
    };
    for silent in &scored.silent {
        let ratio = silent.verdict.ratio;
        #[allow(clippy::cast_possible_truncation, reason = "shown as f32")]
        moments.push(Moment {
            sensor: silent.sensor,
            time_ms: now_ms,
            score: (ratio / (1.0 + ratio)) as f32,
            fired: vec![silent.verdict.clone()],
            because: None,
            told: told(silent.sensor),
        });
    }
    for row in &scored.readings {
        let Some(Arrival::Reading(reading)) = scored.batch.arrivals.get(row.index as usize) else {
            continue;
        };
        let enters = row.kind == Entry::Entered;
        moments.push(Moment {
            sensor: reading.sensor,
            time_ms: row.time_ms,
            score: row.score,
            fired: row.fired.clone(),
            because: because(reading.sensor).filter(|_| !row.fired.is_empty()),
            told: told(reading.sensor).filter(|_| enters),
        });
    }
}
