//! The Scorer as a stage: gathers the parts of a batch from all Stats shares, then scores it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::forest::{FitJob, Model, Refused};
use super::scorer::{IncidentMemory, Scored, Scorer};
use crate::batch::{Batch, Refusal};
use crate::metrics::Metrics;
use crate::stats::share::Part;
use crate::supervise::{Failure, Stage};

/// The Scorer and what it waits for.
#[derive(Debug)]
pub struct Gathering<M> {
    scorer: Scorer<M>,
    shares: usize,
    /// Parts of batches of which some share has not answered yet.
    waiting: Vec<(Arc<Batch>, Vec<Part>)>,
    /// Forests are grown beside the mailbox: the stream goes on meanwhile.
    beside: bool,
    metrics: Metrics,
}

impl<M> Gathering<M> {
    /// Waits for the parts of `shares` shares. With `beside`, forests are grown beside the mailbox;
    /// without, before the next batch, so that a replay does not depend on timing.
    pub fn new(scorer: Scorer<M>, shares: usize, beside: bool, metrics: Metrics) -> Self {
        Self {
            scorer,
            shares,
            beside,
            waiting: Vec::new(),
            metrics,
        }
    }

    /// All parts of the part's batch, if this was the last.
    fn gather(&mut self, part: Part) -> Option<Vec<Part>> {
        if self.shares == 1 {
            return Some(vec![part]);
        }
        // What was refused meanwhile will never be complete.
        self.waiting.retain(|(batch, _)| batch.is_current());
        let batch = Arc::clone(&part.batch);
        let known = |(known, _): &(Arc<Batch>, _)| Arc::ptr_eq(known, &batch);
        let at = self.waiting.iter().position(known).unwrap_or_else(|| {
            self.waiting.push((batch, Vec::with_capacity(self.shares)));
            self.waiting.len() - 1
        });
        self.waiting[at].1.push(part);
        if self.waiting[at].1.len() < self.shares {
            return None;
        }
        Some(self.waiting.remove(at).1)
    }
}

impl<M: IncidentMemory + Unpin + Send + 'static> Stage for Gathering<M> {
    const NAME: &'static str = "scorer";
    type In = Part;
    type Out = Scored;
    type Job = Box<dyn FnOnce() -> Result<Model, Refused> + Send>;
    type Done = Result<Model, Refused>;

    fn handle(&mut self, part: Part) -> Result<Option<Scored>, Failure> {
        if !part.batch.is_current() {
            return Err(Refusal::Stale.into());
        }
        let Some(parts) = self.gather(part) else {
            return Ok(None);
        };
        let known: usize = parts.iter().map(|part| part.known).sum();
        self.metrics
            .sensors
            .set(i64::try_from(known).unwrap_or(i64::MAX));
        let scored = self
            .scorer
            .score(parts)
            .map_err(|error| Refusal::Unavailable(crate::supervise::chain(&error)))?;
        if !self.beside {
            for job in self.jobs() {
                let done = job();
                self.done(done);
            }
        }
        let open = i64::try_from(self.scorer.open_incidents()).unwrap_or(i64::MAX);
        self.metrics.incidents_open.set(open);
        Ok(scored)
    }

    fn jobs(&mut self) -> Vec<Self::Job> {
        // Whatever happens to a job, its group must hear that it is over.
        let boxed = |job: FitJob| {
            let guarded = move || {
                catch_unwind(AssertUnwindSafe(|| job.run()))
                    .unwrap_or(Err(Refused::Failed { rows: 0 }))
            };
            Box::new(guarded) as Self::Job
        };
        self.scorer.take_jobs().into_iter().map(boxed).collect()
    }

    fn done(&mut self, grown: Result<Model, Refused>) {
        match &grown {
            Ok(model) => {
                self.metrics
                    .forest_generation
                    .set(i64::from(model.generation));
                tracing::debug!(
                    generation = model.generation,
                    line = model.line(),
                    "a new forest"
                );
            }
            Err(refused) => {
                self.metrics.forests_refused.inc();
                tracing::warn!("a new forest was refused, the one before goes on: {refused}");
            }
        }
        self.scorer.install(grown.ok());
    }
}
