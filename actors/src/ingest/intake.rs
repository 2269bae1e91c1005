//! The door of the stream: every source (listener connection, broker client, replay) hands over
//! what one read brought and waits until it is durable. Bounded by the number of readings inside.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::reading::Arrival;

/// Readings that may be inside the stream at once: four full batches, some 3 MB.
pub const CAPACITY: u32 = 16_384;

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
    level: Level,
}

/// How full the stream is.
#[derive(Debug, Clone)]
pub struct Level {
    gate: Arc<Semaphore>,
    capacity: u32,
    waiting: Arc<AtomicUsize>,
}

impl Level {
    /// Readings that there is room for.
    pub fn free(&self) -> usize {
        self.gate.available_permits()
    }

    /// Readings that are inside, or may come in.
    pub fn reserved(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.free())
    }

    /// Sources that wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counted as waiting until dropped: whoever waits may give up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn count(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// Room in the stream for so many readings, taken before they are decoded: what waits at the door
/// is bytes, never readings.
pub struct Room {
    sink: Arc<Sink>,
    permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("readings", &self.readings())
            .finish_non_exhaustive()
    }
}

impl Room {
    /// For how many readings.
    pub fn readings(&self) -> usize {
        self.permit.num_permits()
    }

    /// Hands over `arrivals` (no more than there is room for; room that is not needed is given
    /// back) and gives the answer: whether all of them are durable.
    pub fn send(mut self, arrivals: Vec<Arrival>) -> Answered {
        if arrivals.is_empty() {
            return Answered(None);
        }
        debug_assert!(arrivals.len() <= self.readings());
        let unused = self.readings().saturating_sub(arrivals.len());
        drop(self.permit.split(unused));
        let (answer, answered) = oneshot::channel();
        let delivery = Delivery {
            arrivals,
            answer,
            _permit: self.permit,
        };
        // A sink that refuses drops the delivery: that is the answer.
        let _refused = (self.sink)(delivery);
        Answered(Some(answered))
    }
}

/// The answer to come. `Ok`: everything is durable, the source may acknowledge.
#[derive(Debug)]
pub struct Answered(Option<oneshot::Receiver<()>>);

impl Future for Answered {
    type Output = Result<(), Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        Pin::new(answer).poll(context).map_err(|_dropped| Refused)
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
            level: Level {
                gate,
                capacity,
                waiting: Arc::default(),
            },
        }
    }

    /// Waits, in turn with all others, until the stream has room for `readings` (at most its whole
    /// capacity). A source that does not read on meanwhile is the backpressure.
    ///
    /// # Errors
    /// [`Refused`] if the stream is shutting down.
    pub async fn reserve(&self, readings: usize) -> Result<Room, Refused> {
        if let Some(room) = self.try_reserve(readings) {
            return Ok(room);
        }
        let _waiting = Waiting::count(&self.level.waiting);
        let permit = Arc::clone(&self.level.gate)
            .acquire_many_owned(self.weight(readings))
            .await
            .map_err(|_closed| Refused)?;
        Ok(self.room(permit))
    }

    /// The same without waiting; `None` if there is no room now.
    pub fn try_reserve(&self, readings: usize) -> Option<Room> {
        let permit = Arc::clone(&self.level.gate)
            .try_acquire_many_owned(self.weight(readings))
            .ok()?;
        Some(self.room(permit))
    }

    /// Hands over `arrivals` that exist already and waits until all of them are durable.
    ///
    /// # Errors
    /// [`Refused`] if the stream is shutting down or lost them on the way.
    pub async fn deliver(&self, mut arrivals: Vec<Arrival>) -> Result<(), Refused> {
        // More than the whole capacity passes in parts.
        while arrivals.len() > self.level.capacity as usize {
            let rest = arrivals.split_off(self.level.capacity as usize);
            self.reserve(arrivals.len()).await?.send(arrivals).await?;
            arrivals = rest;
        }
        self.reserve(arrivals.len()).await?.send(arrivals).await
    }

    fn weight(&self, readings: usize) -> u32 {
        u32::try_from(readings)
            .unwrap_or(u32::MAX)
            .min(self.level.capacity)
    }

    fn room(&self, permit: OwnedSemaphorePermit) -> Room {
        Room {
            sink: Arc::clone(&self.sink),
            permit,
        }
    }

    /// Readings inside the stream now.
    pub fn in_flight(&self) -> usize {
        self.level.reserved()
    }

    /// How full it is, for whoever watches.
    pub fn level(&self) -> Level {
        self.level.clone()
    }

    /// Lets nothing more in, and waits until everything inside is answered.
    pub async fn close(&self) {
        let all = self.level.gate.acquire_many(self.level.capacity).await;
        self.level.gate.close();
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::reading::Quarantined;

    fn arrivals(count: usize) -> Vec<Arrival> {
        let message = Quarantined::new("test", String::new(), "a", b"", 0);
        vec![Arrival::Quarantine(message); count]
    }

    /// An intake for ten readings, and the deliveries that nobody has answered yet.
    fn ten() -> (Intake, Arc<Mutex<Vec<Delivery>>>) {
        let held = Arc::new(Mutex::new(Vec::new()));
        let holding = Arc::clone(&held);
        let intake = Intake::new(10, move |delivery| {
            holding.lock().unwrap().push(delivery);
            Ok(())
        });
        (intake, held)
    }

    #[tokio::test]
    async fn room_is_taken_before_and_given_back_after() {
        let (intake, held) = ten();
        let room = intake.reserve(8).await.unwrap();
        assert_eq!(intake.in_flight(), 8);
        assert!(intake.try_reserve(3).is_none());
        let answered = room.send(arrivals(2));
        assert_eq!(intake.in_flight(), 2, "what is not needed is free at once");
        let delivery = held.lock().unwrap().pop().unwrap();
        delivery.complete();
        assert_eq!(answered.await, Ok(()));
        assert_eq!(intake.in_flight(), 0);
        drop(intake.reserve(10_000).await.unwrap());
        assert_eq!(
            intake.reserve(5).await.unwrap().send(Vec::new()).await,
            Ok(())
        );
        assert_eq!(intake.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_dropped_delivery_and_a_closed_door_are_refusals() {
        let (intake, held) = ten();
        let answered = intake.reserve(1).await.unwrap().send(arrivals(1));
        held.lock().unwrap().clear();
        assert_eq!(answered.await, Err(Refused));
        intake.close().await;
        assert_eq!(intake.deliver(arrivals(1)).await, Err(Refused));
        assert!(intake.try_reserve(1).is_none());
    }

    #[tokio::test]
    async fn more_than_the_capacity_passes_in_parts() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let intake = Intake::new(10, move |delivery| {
            seen.lock().unwrap().push(delivery.arrivals.len());
            delivery.complete();
            Ok(())
        });
        assert_eq!(intake.deliver(arrivals(25)).await, Ok(()));
        assert_eq!(*sizes.lock().unwrap(), [10, 10, 5]);
    }
}
