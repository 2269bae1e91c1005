//! Every message that crosses an actor boundary, in the order of the stream. Facts are past
//! participles; imperatives are control.
//!
//! | message | from → to | answer | when full |
//! | --- | --- | --- | --- |
//! | [`Delivery`](crate::ingest::intake::Delivery) | a source → Ingest | its completion, when all of it is durable | the source waits at the door ([`crate::ingest::intake`]) |
//! | [`Arrived`] | Ingest → Stats (each share) | the batch's answer, after the commit | cannot be: Ingest has one or two batches under way |
//! | [`Part`] (observed) | Stats → Scorer | – (the batch carries it) | as above |
//! | [`Scored`] | Scorer → Store | – | as above |
//! | [`Noticed`] | Store → Alerter | none: the outbox is the truth | dropped: one is waiting already |
//! | [`Tick`] | engine → Ingest, Alerter, Forwarder, Keeper | none | dropped |
//! | [`Drain`] | engine → each stage, in order | `()` when everything before it is done | waits, under a deadline |
//!
//! A batch that is dropped on the way is refused ([`crate::batch`]).

use std::sync::Arc;

use actix::Message;

use crate::batch::Batch;
use crate::metrics::{Mailbox, Way};
use crate::score::scorer::Scored;
use crate::stats::share::Part;

/// Addressed to a stage: keeps a stage's own message apart from the control messages.
#[derive(Debug)]
pub struct To<M> {
    /// What it says.
    pub message: M,
    /// Counted until the stage is done with it.
    pub way: Way,
}

impl<M> To<M> {
    /// Sets out for the stage with this mailbox, with so many readings.
    pub fn new(message: M, mailbox: &Mailbox, readings: usize) -> Self {
        let way = mailbox.send(readings);
        Self { message, way }
    }
}

impl<M> Message for To<M> {
    type Result = ();
}

/// A batch of arrivals sets out.
#[derive(Debug)]
pub struct Arrived(pub Arc<Batch>);

/// There are notices in the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Noticed;

/// Time has passed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Tick;

/// Finish what came before this.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// A message that belongs to a batch.
pub trait Carrier {
    /// The batch.
    fn batch(&self) -> &Arc<Batch>;
}

impl Carrier for Arrived {
    fn batch(&self) -> &Arc<Batch> {
        &self.0
    }
}

impl Carrier for Part {
    fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }
}

impl Carrier for Scored {
    fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }
}
