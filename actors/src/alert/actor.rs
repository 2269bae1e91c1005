//! The Alerter: delivers what the outbox holds for its channel, oldest first, and takes it out. It
//! has an Arbiter of its own, so however slow the channel is, neither the stream nor another
//! channel notices.

use std::sync::{Arc, OnceLock};

use actix::{Actor, ActorContext, Context, Handler, Supervised};
use tokio::time::Instant;

use super::Channel;
use crate::message::{Drain, Noticed, Tick, To};
use crate::metrics::{ChannelMetrics, Metrics, StageMetrics};
use crate::store::embedded::Embedded;
use crate::supervise::{Guard, chain};

/// The actor.
pub struct Alerter {
    delivery: Delivery,
    guard: Guard,
}

/// What it does, without the actor.
struct Delivery {
    store: Embedded,
    channel: Box<dyn Channel>,
    metrics: ChannelMetrics,
    stage: StageMetrics,
    closing: Arc<OnceLock<Instant>>,
    /// Failures since the last success, and when to try again.
    failures: u32,
    later: Option<Instant>,
}

impl std::fmt::Debug for Alerter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alerter")
            .field("channel", &self.delivery.channel.name())
            .finish_non_exhaustive()
    }
}

impl Alerter {
    /// In logs and metrics.
    pub const NAME: &'static str = "alerter";
    /// Notices read from the outbox at once.
    const CHUNK: usize = 64;

    /// Delivers through `channel`. Once `closing` is set, only until then: what is left waits in
    /// the outbox for the next start.
    pub fn new(
        store: Embedded,
        channel: Box<dyn Channel>,
        guard: Guard,
        metrics: &Metrics,
        closing: Arc<OnceLock<Instant>>,
    ) -> Self {
        let delivery = Delivery {
            store,
            metrics: metrics.channel(channel.name()),
            stage: metrics.stage(Self::NAME),
            channel,
            closing,
            failures: 0,
            later: None,
        };
        Self { delivery, guard }
    }

    fn deliver(&mut self, ctx: &mut Context<Self>) {
        let delivery = &mut self.delivery;
        if let Err(panic) = self.guard.run(None, || delivery.go()) {
            tracing::error!(
                stage = Self::NAME,
                panic,
                "restarting it; the outbox keeps all"
            );
            ctx.stop();
        }
    }
}

impl Delivery {
    /// Delivers what waits, if it is time to.
    fn go(&mut self) {
        if self.later.is_some_and(|later| Instant::now() < later) {
            self.count_waiting();
            return;
        }
        self.later = None;
        if let Err(error) = self.empty() {
            tracing::error!(
                channel = self.channel.name(),
                error = chain(&error),
                "cannot work off the outbox"
            );
        }
        self.count_waiting();
    }

    fn count_waiting(&self) {
        match self.store.waiting(self.channel.name()) {
            Ok(waiting) => self.metrics.waiting(waiting),
            Err(error) => tracing::error!(error = chain(&error), "cannot count the outbox"),
        }
    }

    /// Delivers until the outbox is empty, the channel has to wait or the engine has to end.
    fn empty(&mut self) -> Result<(), crate::store::Error> {
        loop {
            let rows = self.store.outbox(self.channel.name(), Alerter::CHUNK)?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, notice) in rows {
                if self.closing.get().is_some_and(|end| Instant::now() >= *end) {
                    tracing::info!("notices wait in the outbox for the next start");
                    return Ok(());
                }
                self.stage.received.inc();
                match notice {
                    Ok(notice) => {
                        let delivered = self.channel.deliver(&notice);
                        let result = delivered.as_ref().err().map(|undelivered| undelivered.why);
                        self.metrics.notice(notice.kind, result);
                        match delivered {
                            Ok(()) => self.failures = 0,
                            Err(why) if self.has_to_wait(&notice.incident.id(), &why) => {
                                return Ok(());
                            }
                            Err(_put_aside) => {}
                        }
                    }
                    Err(error) => tracing::error!(
                        channel = self.channel.name(),
                        error = chain(&error),
                        "a notice cannot be read, and is thrown away"
                    ),
                }
                self.store.delivered(&key)?;
                self.stage.sent.inc();
            }
        }
    }

    /// Says what went wrong, and decides whether the notice stays.
    fn has_to_wait(&mut self, incident: &str, undelivered: &super::Undelivered) -> bool {
        let (channel, error) = (self.channel.name(), chain(undelivered));
        self.stage.refused.inc();
        let Some(pause) = undelivered.why.pause(self.failures + 1) else {
            tracing::error!(channel, incident, error, "a notice was put aside");
            return false;
        };
        self.failures += 1;
        self.later = Some(Instant::now() + pause);
        tracing::warn!(
            channel,
            incident,
            error,
            ?pause,
            "a notice waits in the outbox"
        );
        true
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
