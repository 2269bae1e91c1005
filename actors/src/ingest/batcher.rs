//! Which batch goes next, and what happens to one that was refused. Pure.
//!
//! Natural batching, no linger: what arrives while a batch is under way becomes the next one. A
//! refused batch is tried again in halves until the reading that cannot pass stands alone; after
//! three tries alone it goes to the quarantine. While anything is being tried again, nothing new is
//! sent, so the order per source stays.

use std::collections::VecDeque;
use std::sync::Arc;

use super::intake::Delivery;
use crate::batch::{Answer, Refusal};
use crate::reading::{Arrival, Outcome, Quarantined};

/// Readings per batch, unless one delivery brings more.
pub const BATCH_READINGS: usize = 4096;

/// A second batch sets out behind the first only if it has so many readings: then the first stages
/// work on it while the store commits. Smaller ones had better wait and grow, for the disk's sake.
const WORTH_OVERLAPPING: usize = 512;

/// How often a reading that is refused alone is tried before it goes to the quarantine.
const TRIES: u8 = 3;

/// Arrivals that go together.
#[derive(Debug)]
struct Piece {
    arrivals: Arc<Vec<Arrival>>,
    tries: u8,
}

/// Deliveries that are answered together, cut into the pieces that are still to be stored.
#[derive(Debug)]
struct Load {
    order: u64,
    deliveries: Vec<Delivery>,
    pieces: VecDeque<Piece>,
}

/// A batch to be sent.
#[derive(Debug)]
pub struct Dispatch {
    /// Its number, to be given back with the answer.
    pub serial: u64,
    /// Its contents.
    pub arrivals: Arc<Vec<Arrival>>,
}

/// What an answer means to the caller.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Stored: one outcome per arrival of the batch.
    Stored(Vec<Outcome>),
    /// To be tried again at once.
    TryAgain,
    /// To be tried again after a pause.
    Wait(String),
    /// Not a batch of this batcher.
    Unknown,
}

/// The Ingest actor's logic.
#[derive(Debug)]
pub struct Batcher {
    /// Batches under way at most.
    credits: usize,
    /// Several deliveries may become one batch.
    merge: bool,
    queue: VecDeque<Delivery>,
    /// Refused before, oldest first.
    again: VecDeque<Load>,
    under_way: Vec<(u64, Load)>,
    next_serial: u64,
    next_order: u64,
}

impl Batcher {
    /// With `merge`, deliveries that wait go together; without, each is a batch of its own, so that
    /// the batches of a replay do not depend on timing. `first_serial` must be above those of any
    /// batcher before it.
    pub fn new(credits: usize, merge: bool, first_serial: u64) -> Self {
        Self {
            credits,
            merge,
            queue: VecDeque::new(),
            again: VecDeque::new(),
            under_way: Vec::new(),
            next_serial: first_serial,
            next_order: 0,
        }
    }

    /// Number of the next batch.
    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// A source brought something.
    pub fn push(&mut self, delivery: Delivery) {
        self.queue.push_back(delivery);
    }

    /// Nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.again.is_empty() && self.under_way.is_empty()
    }

    /// The next batch, if one may go now.
    pub fn dispatch(&mut self) -> Option<Dispatch> {
        if !self.again.is_empty() {
            if !self.under_way.is_empty() {
                return None;
            }
            let load = self.again.pop_front()?;
            return Some(self.send(load));
        }
        if self.under_way.len() >= self.credits || self.queue.is_empty() {
            return None;
        }
        let waiting = || self.queue.iter().map(|delivery| delivery.arrivals.len());
        if !self.under_way.is_empty() && waiting().sum::<usize>() < WORTH_OVERLAPPING {
            return None;
        }
        let mut deliveries = Vec::new();
        let mut total = 0;
        while let Some(delivery) = self.queue.front() {
            let size = delivery.arrivals.len();
            if total > 0 && (!self.merge || total + size > BATCH_READINGS) {
                break;
            }
            total += size;
            deliveries.extend(self.queue.pop_front());
        }
        let mut brought = deliveries.iter_mut().map(|delivery| &mut delivery.arrivals);
        // Mostly there is nothing more.
        let mut arrivals = brought.next().map(std::mem::take).unwrap_or_default();
        arrivals.reserve_exact(total - arrivals.len());
        brought.for_each(|more| arrivals.append(more));
        Some(self.begin(deliveries, arrivals.into()))
    }

    /// An empty batch, to let time pass through the stages; only when nothing else does.
    pub fn tick(&mut self) -> Option<Dispatch> {
        self.is_idle()
            .then(|| self.begin(Vec::new(), Arc::default()))
    }

    fn begin(&mut self, deliveries: Vec<Delivery>, arrivals: Arc<Vec<Arrival>>) -> Dispatch {
        let order = self.next_order;
        self.next_order += 1;
        let pieces = VecDeque::from([Piece { arrivals, tries: 0 }]);
        self.send(Load {
            order,
            deliveries,
            pieces,
        })
    }

    fn send(&mut self, load: Load) -> Dispatch {
        let serial = self.next_serial;
        self.next_serial += 1;
        let arrivals = load
            .pieces
            .front()
            .map_or_else(Arc::default, |piece| Arc::clone(&piece.arrivals));
        self.under_way.push((serial, load));
        Dispatch { serial, arrivals }
    }

    /// The answer to batch `serial`.
    pub fn answered(&mut self, serial: u64, answer: Answer) -> Verdict {
        let Some(at) = self
            .under_way
            .iter()
            .position(|(known, _)| *known == serial)
        else {
            return Verdict::Unknown;
        };
        let (_, mut load) = self.under_way.remove(at);
        match answer {
            Ok(outcomes) => {
                load.pieces.pop_front();
                if load.pieces.is_empty() {
                    load.deliveries.into_iter().for_each(Delivery::complete);
                } else {
                    self.put_back(load);
                }
                Verdict::Stored(outcomes)
            }
            // A tick that fails is not tried again: the next one will tell.
            Err(_) if load.deliveries.is_empty() => Verdict::TryAgain,
            Err(Refusal::Stale) => {
                self.put_back(load);
                Verdict::TryAgain
            }
            Err(Refusal::Unavailable(why) | Refusal::Full(why)) => {
                self.put_back(load);
                Verdict::Wait(why)
            }
            Err(Refusal::Failed(stage)) => {
                if let Some(piece) = load.pieces.pop_front() {
                    for part in divide(piece, stage).into_iter().rev() {
                        load.pieces.push_front(part);
                    }
                }
                self.put_back(load);
                Verdict::TryAgain
            }
        }
    }

    fn put_back(&mut self, load: Load) {
        let at = self.again.partition_point(|other| other.order < load.order);
        self.again.insert(at, load);
    }
}

/// Halves of a refused piece, in order; a single one is tried again, then quarantined.
fn divide(piece: Piece, stage: &'static str) -> Vec<Piece> {
    if let [arrival] = piece.arrivals.as_slice() {
        let tries = piece.tries + 1;
        return match arrival {
            Arrival::Reading(reading) if tries >= TRIES => {
                let message = Quarantined::new(
                    "poison",
                    format!("{stage} failed on it {tries} times"),
                    &format!("sensors/{}/reading", reading.sensor),
                    format!("{reading:?}").as_bytes(),
                    reading.received_ms,
                );
                vec![Piece {
                    arrivals: Arc::new(vec![Arrival::Quarantine(message)]),
                    tries: 0,
                }]
            }
            _ => vec![Piece {
                arrivals: piece.arrivals,
                tries,
            }],
        };
    }
    let (left, right) = piece.arrivals.split_at(piece.arrivals.len() / 2);
    vec![
        Piece {
            arrivals: Arc::new(left.to_vec()),
            tries: 0,
        },
        Piece {
            arrivals: Arc::new(right.to_vec()),
            tries: 0,
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use vigie_wire::TEMPERATURE;

    use super::*;
    use crate::ingest::intake::{Intake, Refused};
    use crate::reading::{Identity, Reading};

    type Answered = std::pin::Pin<Box<dyn Future<Output = Result<(), Refused>>>>;

    fn reading(seq: u64) -> Arrival {
        Arrival::Reading(Reading {
            sensor: "C001".try_into().unwrap(),
            device_ms: Some(0),
            received_ms: 0,
            order_ms: 0,
            identity: Identity::Sequence {
                boot: "b".try_into().unwrap(),
                seq,
            },
            next_s: None,
            start: None,
            values: smallvec::smallvec![(TEMPERATURE, 21.0)],
        })
    }

    /// A delivery of `seqs`, and the future its source waits on.
    fn delivery(seqs: std::ops::Range<u64>) -> (Delivery, Answered) {
        let slot = Arc::new(Mutex::new(None));
        let inner = Arc::clone(&slot);
        let intake = Intake::new(100_000, move |delivery| {
            *inner.lock().unwrap() = Some(delivery);
            Ok(())
        });
        let mut future: Answered =
            Box::pin(async move { intake.deliver(seqs.map(reading).collect()).await });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        let delivery = slot.lock().unwrap().take().unwrap();
        (delivery, future)
    }

    fn is_done(future: &mut Answered) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(future.as_mut().poll(&mut cx), Poll::Ready(Ok(())))
    }

    fn seqs(arrivals: &[Arrival]) -> Vec<Option<u64>> {
        arrivals
            .iter()
            .map(|arrival| match arrival {
                Arrival::Reading(Reading {
                    identity: Identity::Sequence { seq, .. },
                    ..
                }) => Some(*seq),
                _ => None,
            })
            .collect()
    }

    fn stored(dispatch: &Dispatch) -> Vec<Outcome> {
        vec![Outcome::Stored; dispatch.arrivals.len()]
    }

    #[test]
    fn what_arrives_meanwhile_becomes_the_next_batch() {
        let mut batcher = Batcher::new(1, true, 0);
        let (first, mut first_done) = delivery(0..3);
        batcher.push(first);
        let one = batcher.dispatch().unwrap();
        let (second, mut second_done) = delivery(3..5);
        let (third, _third_done) = delivery(5..6);
        batcher.push(second);
        batcher.push(third);
        assert!(batcher.dispatch().is_none(), "one under way");
        batcher.answered(one.serial, Ok(stored(&one)));
        assert!(is_done(&mut first_done) && !is_done(&mut second_done));
        assert_eq!(
            seqs(&batcher.dispatch().unwrap().arrivals),
            [Some(3), Some(4), Some(5)]
        );
    }

    /// Whatever single reading is poisonous: it alone is quarantined, after three tries alone, and
    /// everything passes in order.
    #[test]
    fn poison_ends_up_alone() {
        for poison in 0..20 {
            let mut batcher = Batcher::new(1, true, 0);
            let (all, mut done) = delivery(0..20);
            batcher.push(all);
            let (mut passed, mut alone) = (Vec::new(), 0);
            while let Some(dispatch) = batcher.dispatch() {
                let inside = seqs(&dispatch.arrivals);
                if inside.contains(&Some(poison)) {
                    alone += usize::from(inside.len() == 1);
                    let refused = Err(Refusal::Failed("Stats"));
                    assert_eq!(
                        batcher.answered(dispatch.serial, refused),
                        Verdict::TryAgain
                    );
                } else {
                    passed.extend(inside);
                    batcher.answered(dispatch.serial, Ok(stored(&dispatch)));
                }
            }
            let expect: Vec<_> = (0..20).map(|seq| (seq != poison).then_some(seq)).collect();
            assert_eq!((passed, alone), (expect, 3), "poison at {poison}");
            assert!(is_done(&mut done) && batcher.is_idle());
        }
    }

    #[test]
    fn refused_batches_go_again_in_their_order() {
        let mut batcher = Batcher::new(2, true, 0);
        let size = WORTH_OVERLAPPING as u64;
        let (a, _a) = delivery(0..1);
        let (b, _b) = delivery(1..1 + size);
        let (c, _c) = delivery(1 + size..2 + size);
        batcher.push(a);
        let one = batcher.dispatch().unwrap();
        batcher.push(b);
        let two = batcher.dispatch().unwrap();
        batcher.push(c);
        // The second is told first that it is stale; the first then that it failed.
        batcher.answered(two.serial, Err(Refusal::Stale));
        assert!(batcher.dispatch().is_none(), "the first is still under way");
        batcher.answered(one.serial, Err(Refusal::Failed("Store")));
        let mut order = Vec::new();
        while let Some(dispatch) = batcher.dispatch() {
            order.extend(seqs(&dispatch.arrivals));
            batcher.answered(dispatch.serial, Ok(stored(&dispatch)));
        }
        let expect: Vec<_> = (0..2 + size).map(Some).collect();
        assert_eq!(order, expect);
    }
}
