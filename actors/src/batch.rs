//! What travels: a batch of arrivals, with the one answer that its sources wait for.
//!
//! A batch is answered once: committed by the Store, or refused by whoever cannot go on with it
//! (also by being dropped, as a panic does). A refusal begins a new *epoch*: whatever a stage
//! computed from the refused readings is no longer true, so each stage forgets the states of the
//! sensors concerned (they come back from the store), and batches computed in the old epoch are
//! refused as well.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use vigie_wire::SensorId;

use crate::reading::{Arrival, Outcome};

/// Why a batch did not reach the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something in it (or near it) made a stage panic or fail: to be tried again in halves.
    #[error("{0} failed on it")]
    Failed(&'static str),
    /// It was computed in an old epoch: to be tried again as it is.
    #[error("a batch before it was refused")]
    Stale,
    /// The store cannot be read or written now: to be tried again later, as it is.
    #[error("the store cannot write: {0}")]
    Unavailable(String),
    /// There is no room on the disk: to be tried again later, as it is, for as long as it takes.
    #[error("the disk is full: {0}")]
    Full(String),
}

/// The answer to a batch: one outcome per arrival, in order, or the refusal of all.
pub type Answer = Result<Vec<Outcome>, Refusal>;

/// Arrivals on their way through the stages, shared by all that look at them.
pub struct Batch {
    /// In order of receipt; shared with Ingest, which keeps them for a second try.
    pub arrivals: Arc<Vec<Arrival>>,
    /// The stream's time when the batch was sent: drives silence, reminders and flushes. A batch
    /// without arrivals is a tick.
    pub now_ms: i64,
    /// See the module's text.
    pub epoch: u64,
    epochs: Arc<Epochs>,
    answer: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("arrivals", &self.arrivals.len())
            .field("now_ms", &self.now_ms)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// A batch of the current epoch, and the receiver of its answer.
    pub fn new(
        arrivals: Arc<Vec<Arrival>>,
        now_ms: i64,
        epochs: &Arc<Epochs>,
    ) -> (Arc<Self>, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let batch = Self {
            arrivals,
            now_ms,
            epoch: epochs.current(),
            epochs: Arc::clone(epochs),
            answer: Mutex::new(Some(sender)),
        };
        (Arc::new(batch), receiver)
    }

    /// True if nothing that was refused lies between this batch and the stored state.
    pub fn is_current(&self) -> bool {
        self.epoch == self.epochs.current()
    }

    /// See [`Epochs::catch_up`].
    pub fn catch_up(&self, seen: &mut u64) -> Option<Forget> {
        self.epochs.catch_up(seen)
    }

    /// All arrivals are durable. The first answer counts, later ones change nothing.
    pub fn commit(&self, outcomes: Vec<Outcome>) {
        debug_assert_eq!(outcomes.len(), self.arrivals.len());
        if let Some(sender) = lock(&self.answer).take() {
            // Ingest may have been restarted meanwhile; then its sources were told already.
            let _gone = sender.send(Ok(outcomes));
        }
    }

    /// None of the arrivals may be acknowledged. The first answer counts.
    pub fn refuse(&self, why: Refusal) {
        let Some(sender) = lock(&self.answer).take() else {
            return;
        };
        self.epochs.begin(&self.arrivals);
        let _gone = sender.send(Err(why));
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.refuse(Refusal::Failed("a stage"));
    }
}

/// The count of refusals, and which sensors each of them touched.
#[derive(Debug, Default)]
pub struct Epochs {
    current: AtomicU64,
    touched: Mutex<Vec<(u64, Vec<SensorId>)>>,
}

/// What a stage has to forget before it goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Forget {
    /// The states of these sensors.
    Sensors(Vec<SensorId>),
    /// All states: too many refusals were missed to know.
    Everything,
}

impl Epochs {
    /// How many refusals are remembered one by one.
    const REMEMBERED: usize = 64;

    /// The epoch that new batches belong to.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    fn begin(&self, refused: &[Arrival]) {
        let mut sensors: Vec<SensorId> = refused
            .iter()
            .filter_map(|arrival| match arrival {
                Arrival::Reading(reading) => Some(reading.sensor),
                Arrival::Quarantine(_) => None,
            })
            .collect();
        sensors.sort_unstable();
        sensors.dedup();
        let mut touched = lock(&self.touched);
        let epoch = self.current.load(Ordering::Relaxed) + 1;
        if touched.len() == Self::REMEMBERED {
            touched.remove(0);
        }
        touched.push((epoch, sensors));
        self.current.store(epoch, Ordering::Release);
    }

    /// Nothing under way may be committed any more: whoever would hear of it is gone.
    pub fn abandon(&self) {
        let mut touched = lock(&self.touched);
        touched.clear();
        // With nothing remembered, a stage that is two epochs behind forgets everything.
        self.current.fetch_add(2, Ordering::AcqRel);
    }

    /// What a stage that has seen everything up to `seen` must forget now; moves `seen` on.
    pub fn catch_up(&self, seen: &mut u64) -> Option<Forget> {
        if *seen == self.current() {
            return None;
        }
        let touched = lock(&self.touched);
        let current = self.current.load(Ordering::Relaxed);
        let oldest = touched.first().map_or(current, |(epoch, _)| *epoch);
        let forget = if oldest > *seen + 1 {
            Forget::Everything
        } else {
            Forget::Sensors(
                touched
                    .iter()
                    .filter(|(epoch, _)| epoch > seen)
                    .flat_map(|(_, sensors)| sensors.iter().copied())
                    .collect(),
            )
        };
        *seen = current;
        Some(forget)
    }
}

/// The values behind these locks are whole at every step, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_batch_is_a_refusal_and_begins_an_epoch() {
        let epochs = Arc::new(Epochs::default());
        let (batch, mut answer) = Batch::new(Arc::default(), 0, &epochs);
        let (behind, mut behind_answer) = Batch::new(Arc::default(), 0, &epochs);
        assert!(behind.is_current());
        drop(batch);
        assert!(matches!(answer.try_recv(), Ok(Err(Refusal::Failed(_)))));
        assert!(!behind.is_current());
        behind.commit(Vec::new());
        behind.refuse(Refusal::Stale);
        assert_eq!(
            behind_answer.try_recv(),
            Ok(Ok(Vec::new())),
            "the first answer counts"
        );
    }

    #[test]
    fn a_stage_that_missed_too_much_forgets_everything() {
        let epochs = Epochs::default();
        let mut seen = 0;
        assert_eq!(epochs.catch_up(&mut seen), None);
        epochs.begin(&[]);
        assert_eq!(
            epochs.catch_up(&mut seen),
            Some(Forget::Sensors(Vec::new()))
        );
        for _ in 0..=Epochs::REMEMBERED {
            epochs.begin(&[]);
        }
        assert_eq!(epochs.catch_up(&mut seen), Some(Forget::Everything));
        assert_eq!(epochs.catch_up(&mut seen), None);
    }
}
