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
use crate::store;
use crate::store::embedded::Embedded;
use crate::supervise::{chain, message_of};

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
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub fn new(
        settings: Settings,
        store: Embedded,
        catalogue: Arc<Catalogue>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, store::Error> {
        let mut forwarder = Self {
            settings,
            store,
            catalogue,
            clock,
            stop: watch::Sender::new(false),
            work: None,
        };
        forwarder.work = Some(forwarder.begin()?);
        Ok(forwarder)
    }

    fn begin(&self) -> Result<Forwarding, store::Error> {
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
        ctx.spawn(done.map(|done, forwarder, _| match done {
            Ok(work) => forwarder.work = Some(work),
            Err(panic) => {
                let panic = message_of(&*panic);
                tracing::error!(panic, "forwarding begins anew; the store keeps all");
                forwarder.settings.metrics.restarts.inc();
                match forwarder.begin() {
                    Ok(work) => forwarder.work = Some(work),
                    Err(error) => tracing::error!(
                        error = chain(&error),
                        "nothing is copied to MongoDB until the engine is started again"
                    ),
                }
            }
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
