//! The door of the stream: every source (listener connection, broker client, replay) hands over
//! what one read brought and waits until it is durable. Bounded by the number of readings inside.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::reading::Arrival;

/// Readings that may be inside the stream at once: sixteen full batches, some 10 MB.
pub const CAPACITY: u32 = 65_536;

/// What one read of one source brought, and the promise to answer it as a whole.
#[derive(Debug)]
pub struct Delivery {
    /// In order of receipt. May be empty only for a probe.
    pub arrivals: Vec<Arrival>,
    answer: oneshot::Sender<()>,
    _permit: OwnedSemaphorePermit,
}

impl Delivery {
    /// Everything in it is durable (or was already): the source may acknowledge. Dropping a
    /// delivery unanswered is the refusal: the source must not acknowledge.
    pub fn complete(self) {
        // The source may be gone (connection lost); the readings are stored all the same.
        let _gone = self.answer.send(());
    }
}

/// The stream did not take the delivery: nothing of it may be acknowledged, the device will send
/// it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream did not take the readings")]
pub struct Refused;

type Sink = dyn Fn(Delivery) -> Result<(), Refused> + Send + Sync;

/// Handle that sources use; clones share the bound.
#[derive(Clone)]
pub struct Intake {
    sink: Arc<Sink>,
    gate: Arc<Semaphore>,
    capacity: u32,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake")
            .field("capacity", &self.capacity)
            .field("free", &self.gate.available_permits())
            .finish_non_exhaustive()
    }
}

impl Intake {
    /// `capacity`: how many readings may be inside the stream at once, over all sources.
    pub fn new(
        capacity: u32,
        sink: impl Fn(Delivery) -> Result<(), Refused> + Send + Sync + 'static,
    ) -> Self {
        let gate = Arc::new(Semaphore::new(capacity as usize));
        Self {
            sink: Arc::new(sink),
            gate,
            capacity,
        }
    }

    /// Hands over `arrivals` and waits until all of them are durable. Waits before that while the
    /// stream is full: a source that does not read on meanwhile is the backpressure.
    ///
    /// # Errors
    /// [`Refused`] if the stream is shutting down or lost them on the way.
    pub async fn deliver(&self, arrivals: Vec<Arrival>) -> Result<(), Refused> {
        if arrivals.is_empty() {
            return Ok(());
        }
        // One delivery larger than the whole capacity must still pass, alone.
        let weight = u32::try_from(arrivals.len())
            .unwrap_or(u32::MAX)
            .min(self.capacity);
        let permit = Arc::clone(&self.gate)
            .acquire_many_owned(weight)
            .await
            .map_err(|_closed| Refused)?;
        let (answer, answered) = oneshot::channel();
        (self.sink)(Delivery {
            arrivals,
            answer,
            _permit: permit,
        })?;
        answered.await.map_err(|_dropped| Refused)
    }

    /// Is there room for anything more right now?
    pub fn has_room(&self) -> bool {
        self.gate.available_permits() > 0
    }

    /// Waits, in turn with all others, until there is room (or the intake is closed).
    pub async fn room(&self) {
        // Whoever finds it closed learns that from `deliver`.
        let _free = self.gate.acquire().await;
    }

    /// Readings inside the stream now.
    pub fn in_flight(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.gate.available_permits())
    }

    /// Lets nothing more in, and waits until everything inside is answered.
    pub async fn close(&self) {
        let all = self.gate.acquire_many(self.capacity).await;
        self.gate.close();
        drop(all);
    }
}
