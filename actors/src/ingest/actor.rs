//! The Ingest actor: takes deliveries in, sends batches out, answers the sources.

use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Supervised, WrapFuture,
};
use tokio::time::{Duration, Instant};

use super::batcher::{Batcher, Dispatch, Verdict};
use super::intake::Delivery;
use crate::batch::{Answer, Batch, Epochs, Refusal};
use crate::clock::{Clock, Steps};
use crate::failpoint;
use crate::message::{Arrived, Drain, Tick, To};
use crate::metrics::{Mailbox, Metrics, StageMetrics};
use crate::reading::Arrival;
use crate::stats::hearing::Hearing;
use crate::supervise::Guard;

/// Passes a batch to every Stats share; false if one of them did not take it.
pub type Shares = Box<dyn Fn(&Arc<Batch>) -> bool + Send>;

/// The actor.
pub struct Ingest {
    batcher: Batcher,
    credits: usize,
    shares: Shares,
    epochs: Arc<Epochs>,
    clock: Option<Arc<dyn Clock>>,
    steps: Steps,
    hearing: Arc<Hearing>,
    event_ms: i64,
    guard: Guard,
    metrics: Metrics,
    stage: StageMetrics,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("batcher", &self.batcher)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    /// In logs and metrics.
    pub const NAME: &'static str = "ingest";

    /// `credits`: batches under way at most. Without a `clock` the stream's
    /// time is that of the readings.
    pub fn new(
        credits: usize,
        shares: Shares,
        epochs: Arc<Epochs>,
        clock: Option<Arc<dyn Clock>>,
        hearing: Arc<Hearing>,
        guard: Guard,
        metrics: Metrics,
    ) -> Self {
        let stage = metrics.stage(Self::NAME);
        let batcher = Batcher::new(credits, clock.is_some(), 0);
        let event_ms = i64::MIN;
        Self {
            batcher,
            credits,
            shares,
            epochs,
            clock,
            steps: Steps::default(),
            hearing,
            event_ms,
            guard,
            metrics,
            stage,
        }
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        while let Some(dispatch) = self.batcher.dispatch() {
            self.send(dispatch, ctx);
        }
    }

    fn send(&mut self, dispatch: Dispatch, ctx: &mut Context<Self>) {
        let Dispatch { serial, arrivals } = dispatch;
        self.stage.sent.inc_by(arrivals.len() as u64);
        let now_ms = self.now_ms(&arrivals);
        let (batch, answer) = Batch::new(arrivals, now_ms, &self.epochs);
        if !(self.shares)(&batch) {
            batch.refuse(Refusal::Failed("stats"));
        }
        drop(batch);
        let begun = Instant::now();
        ctx.spawn(answer.into_actor(self).map(move |answer, ingest, ctx| {
            let answer = answer.unwrap_or(Err(Refusal::Failed("a stage")));
            ingest.answered(serial, answer, begun, ctx);
        }));
    }

    /// The stream's time, with which a batch sets out.
    fn now_ms(&mut self, arrivals: &[Arrival]) -> i64 {
        if let Some(clock) = &self.clock {
            let (now_ms, step) = self.steps.look(clock.as_ref());
            if let Some(step_ms) = step {
                tracing::warn!(
                    step_s = step_ms / 1000,
                    "the clock of this machine was set, or it slept; silence counts from here"
                );
                self.hearing.stepped(now_ms);
            }
            return now_ms;
        }
        let times = arrivals.iter().filter_map(|arrival| match arrival {
            Arrival::Reading(reading) => Some(reading.order_ms),
            Arrival::Quarantine(_) => None,
        });
        self.event_ms = times.fold(self.event_ms, i64::max);
        self.event_ms
    }

    fn answered(&mut self, serial: u64, answer: Answer, begun: Instant, ctx: &mut Context<Self>) {
        let batcher = &mut self.batcher;
        match self.guard.run(None, || batcher.answered(serial, answer)) {
            Ok(Verdict::Stored(outcomes)) => {
                failpoint::pass("ingest.answered");
                self.metrics.outcomes(&outcomes);
                let answered = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
                self.metrics.in_flight.sub(answered);
                self.metrics
                    .durable_seconds
                    .record(begun.elapsed(), outcomes.len() as u64);
            }
            Ok(Verdict::TryAgain) => self.stage.refused.inc(),
            Ok(Verdict::Wait(why)) => {
                tracing::warn!(%why, "the store cannot write now; trying again in a second");
                self.stage.refused.inc();
                ctx.wait(tokio::time::sleep(Duration::from_secs(1)).into_actor(self));
            }
            Ok(Verdict::Unknown) => {}
            Err(panic) => return Self::fail(&panic, ctx),
        }
        self.pump(ctx);
    }

    fn fail(panic: &str, ctx: &mut Context<Self>) {
        tracing::error!(
            stage = Self::NAME,
            panic,
            "restarting it; sources will send again"
        );
        ctx.stop();
    }
}

impl Actor for Ingest {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Every delivery holds at least one permit of the intake, which bounds them.
        ctx.set_mailbox_capacity(super::intake::CAPACITY as usize + 16);
    }
}

impl Supervised for Ingest {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        let pause = self.guard.restarting();
        // Deliveries that were inside are dropped, which tells their sources; answers to batches
        // that are still under way are of an unknown serial to the new batcher.
        self.epochs.abandon();
        let inside = self.metrics.in_flight.get();
        self.metrics.lost.inc_by(inside.max(0).cast_unsigned());
        self.metrics.in_flight.set(0);
        let serial = self.batcher.next_serial();
        self.batcher = Batcher::new(self.credits, self.clock.is_some(), serial);
        self.guard.restarted(pause);
        if !pause.is_zero() {
            ctx.wait(tokio::time::sleep(pause).into_actor(self));
        }
    }
}

impl Handler<To<Delivery>> for Ingest {
    type Result = ();

    fn handle(&mut self, to: To<Delivery>, ctx: &mut Context<Self>) {
        let To {
            message: delivery,
            mut way,
        } = to;
        way.arrive();
        let readings = delivery.arrivals.len() as u64;
        self.stage.received.inc_by(readings);
        self.metrics.received.inc_by(readings);
        self.metrics.in_flight.add(readings.cast_signed());
        let batcher = &mut self.batcher;
        if let Err(panic) = self.guard.run(None, || batcher.push(delivery)) {
            return Self::fail(&panic, ctx);
        }
        self.pump(ctx);
    }
}

impl Handler<Tick> for Ingest {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) {
        if let Some(tick) = self.batcher.tick() {
            self.send(tick, ctx);
        }
    }
}

impl Handler<Drain> for Ingest {
    type Result = ();

    /// The intake is closed and empty by now, so nothing is under way but perhaps a tick.
    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {}
}

/// Hands what came to Stats on, in the wiring. `readings`: how many count as in flight by it.
pub fn arrived(batch: &Arc<Batch>, mailbox: &Mailbox, readings: usize) -> To<Arrived> {
    To::new(Arrived(Arc::clone(batch)), mailbox, readings)
}
