//! The Forwarder: one round of forwarding at a time, begun by each tick. It has an Arbiter of its
//! own, and the driver lives there, so however slow MongoDB is, the stream does not notice.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Supervised, WrapFuture};
use futures_util::FutureExt;
use tokio::sync::watch;

use super::{Forwarding, Settings};
use crate::clock::Clock;
use crate::message::{Drain, Tick};
use crate::quantity::Catalogue;
use crate::store::embedded::Embedded;
use crate::supervise::message_of;

/// The actor.
pub struct Forwarder {
    settings: Settings,
    store: Embedded,
    catalogue: Arc<Catalogue>,
    clock: Arc<dyn Clock>,
    stop: watch::Sender<bool>,
    /// Away while a round is under way.
    work: Option<Forwarding>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("target", &self.settings.target)
            .finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Copies from `store` to where `settings` says.
    pub fn new(
        settings: Settings,
        store: Embedded,
        catalogue: Arc<Catalogue>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut forwarder = Self {
            settings,
            store,
            catalogue,
            clock,
            stop: watch::Sender::new(false),
            work: None,
        };
        forwarder.work = Some(forwarder.begin());
        forwarder
    }

    fn begin(&self) -> Forwarding {
        Forwarding::new(
            self.settings.clone(),
            self.store.clone(),
            Arc::clone(&self.catalogue),
            self.stop.subscribe(),
        )
    }
}

impl Actor for Forwarder {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(2);
    }
}

impl Supervised for Forwarder {}

impl Handler<Tick> for Forwarder {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) {
        let Some(mut work) = self.work.take() else {
            return;
        };
        let now_ms = self.clock.now_ms();
        let round = AssertUnwindSafe(async move {
            work.go(now_ms).await;
            work
        });
        let done = round.catch_unwind().into_actor(self);
        ctx.spawn(done.map(|done, forwarder, _| {
            let work = done.unwrap_or_else(|panic| {
                let panic = message_of(&*panic);
                tracing::error!(panic, "forwarding begins anew; the store keeps all");
                forwarder.settings.metrics.restarts.inc();
                forwarder.begin()
            });
            forwarder.work = Some(work);
        }));
    }
}

impl Handler<Drain> for Forwarder {
    type Result = ();

    /// What is not forwarded waits in the store for the next start.
    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {
        self.stop.send_replace(true);
    }
}
