//! The Alerter: delivers what the outbox holds, oldest first, and takes it out. It has an Arbiter
//! of its own, so however slow a channel is, the stream does not notice.

use std::sync::{Arc, OnceLock};

use actix::{Actor, ActorContext, Context, Handler, Supervised};
use tokio::time::Instant;

use super::Channel;
use crate::message::{Drain, Noticed, Tick, To};
use crate::metrics::{Metrics, StageMetrics};
use crate::store::embedded::Embedded;
use crate::supervise::{Guard, chain};

/// The actor.
pub struct Alerter {
    store: Embedded,
    channels: Vec<Box<dyn Channel>>,
    guard: Guard,
    metrics: Metrics,
    stage: StageMetrics,
    closing: Arc<OnceLock<Instant>>,
}

impl std::fmt::Debug for Alerter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alerter")
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

impl Alerter {
    /// In logs and metrics.
    pub const NAME: &'static str = "alerter";
    /// Notices read from the outbox at once.
    const CHUNK: usize = 64;

    /// Delivers through every one of `channels`. Once `closing` is set, only until then: what is
    /// left waits in the outbox for the next start.
    pub fn new(
        store: Embedded,
        channels: Vec<Box<dyn Channel>>,
        guard: Guard,
        metrics: Metrics,
        closing: Arc<OnceLock<Instant>>,
    ) -> Self {
        let stage = metrics.stage(Self::NAME);
        Self {
            store,
            channels,
            guard,
            metrics,
            stage,
            closing,
        }
    }

    fn deliver(&mut self, ctx: &mut Context<Self>) {
        let (store, channels, metrics, stage) =
            (&self.store, &mut self.channels, &self.metrics, &self.stage);
        let closing = &*self.closing;
        if let Err(panic) = self
            .guard
            .run(None, || empty(store, channels, metrics, stage, closing))
        {
            tracing::error!(
                stage = Self::NAME,
                panic,
                "restarting it; the outbox keeps all"
            );
            ctx.stop();
        }
    }
}

/// Delivers until the outbox is empty, a channel refuses or the engine has to end.
fn empty(
    store: &Embedded,
    channels: &mut [Box<dyn Channel>],
    metrics: &Metrics,
    stage: &StageMetrics,
    closing: &OnceLock<Instant>,
) {
    loop {
        let notices = match store.outbox(Alerter::CHUNK) {
            Ok(notices) if notices.is_empty() => return,
            Ok(notices) => notices,
            Err(error) => {
                tracing::error!(error = chain(&error), "cannot read the outbox");
                return;
            }
        };
        for (key, notice) in notices {
            if closing.get().is_some_and(|end| Instant::now() >= *end) {
                tracing::info!("notices wait in the outbox for the next start");
                return;
            }
            stage.received.inc();
            for channel in channels.iter_mut() {
                if let Err(error) = channel.deliver(&notice) {
                    metrics.notice(notice.kind, false);
                    stage.refused.inc();
                    tracing::warn!(
                        channel = channel.name(),
                        incident = notice.incident.id(),
                        error = chain(&error),
                        "a notice waits in the outbox"
                    );
                    return;
                }
            }
            if let Err(error) = store.delivered(&key) {
                tracing::error!(
                    error = chain(&error),
                    "a delivered notice stays in the outbox"
                );
                return;
            }
            metrics.notice(notice.kind, true);
            stage.sent.inc();
        }
    }
}

impl Actor for Alerter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // One message says "look into the outbox"; a second one waiting says nothing more.
        ctx.set_mailbox_capacity(2);
    }
}

impl Supervised for Alerter {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        let pause = self.guard.restarting();
        self.guard.restarted(pause);
        if !pause.is_zero() {
            use actix::{AsyncContext, WrapFuture};
            ctx.wait(tokio::time::sleep(pause).into_actor(self));
        }
    }
}

impl Handler<To<Noticed>> for Alerter {
    type Result = ();

    fn handle(&mut self, _: To<Noticed>, ctx: &mut Context<Self>) {
        self.deliver(ctx);
    }
}

impl Handler<Tick> for Alerter {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) {
        self.deliver(ctx);
    }
}

impl Handler<Drain> for Alerter {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Context<Self>) {
        self.deliver(ctx);
    }
}
