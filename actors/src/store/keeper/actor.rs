//! The Keeper: one pass now and then, on a thread of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, Handler, Supervised};
use tokio::time::Instant;

use super::Keeper;
use crate::clock::Clock;
use crate::message::{Drain, Tick};
use crate::metrics::Metrics;
use crate::store::outlook::{Measured, Outlook};
use crate::store::room::Room;
use crate::supervise::{Guard, chain};

/// Between two passes, unless the store is too large.
const EVERY: Duration = Duration::from_mins(10);

/// The actor.
pub struct Keeping {
    keeper: Keeper,
    room: Room,
    outlook: Outlook,
    clock: Arc<dyn Clock>,
    guard: Guard,
    metrics: Metrics,
    /// Set when the end is near.
    closing: Arc<OnceLock<Instant>>,
    /// When it looked ahead, and when the last pass began.
    looked: Option<Instant>,
    last: Option<Instant>,
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}

impl Keeping {
    /// In logs and metrics.
    pub const NAME: &'static str = "keeper";

    /// The first pass comes with the first tick.
    pub fn new(
        keeper: Keeper,
        room: Room,
        clock: Arc<dyn Clock>,
        guard: Guard,
        metrics: Metrics,
        closing: Arc<OnceLock<Instant>>,
    ) -> Self {
        Self {
            keeper,
            room,
            outlook: Outlook::default(),
            clock,
            guard,
            metrics,
            closing,
            looked: None,
            last: None,
        }
    }
}

impl Keeping {
    /// As for readings: a write that fails half-way would end the database.
    fn has_room(&self) -> bool {
        self.room.missing().is_none()
    }

    fn mark(&mut self) {
        if let Err(error) = self.keeper.mark() {
            tracing::debug!(
                error = chain(&error),
                "cannot write down how many are stored"
            );
        }
    }

    fn look_ahead(&mut self, now_ms: i64) {
        let (store, max) = self.keeper.size();
        let Some(room) = self.room.left() else {
            return;
        };
        let measured = Measured {
            at_ms: now_ms,
            store,
            room,
        };
        let full_at = self.outlook.look(measured, max);
        self.metrics.outlook(max, room, full_at);
    }
}

impl Actor for Keeping {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(2);
    }
}

impl Supervised for Keeping {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let pause = self.guard.restarting();
        self.guard.restarted(pause);
    }
}

impl Handler<Tick> for Keeping {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) {
        let is_over = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() >= EVERY);
        let now_ms = self.clock.now_ms();
        if is_over(self.looked) {
            self.looked = Some(Instant::now());
            self.look_ahead(now_ms);
        }
        if !self.has_room() {
            return;
        }
        self.mark();
        // What cannot be read is told by the next pass.
        if !is_over(self.last) && !self.keeper.is_too_large(now_ms).unwrap_or(false) {
            return;
        }
        self.last = Some(Instant::now());
        let (keeper, room) = (&mut self.keeper, &self.room);
        let stop = || self.closing.get().is_some() || room.missing().is_some();
        match self.guard.run(None, || keeper.pass(now_ms, &stop)) {
            Ok(Ok(done)) => {
                self.metrics.kept(done);
                if !self.has_room() {
                    // The rest as soon as there is some.
                    self.last = None;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = chain(&error),
                    "cannot roll hours up; trying again later"
                );
            }
            Err(panic) => {
                tracing::error!(stage = Self::NAME, panic, "restarting it");
                ctx.stop();
            }
        }
    }
}

impl Handler<Drain> for Keeping {
    type Result = ();

    /// A pass ends by itself once the end is near.
    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {
        if self.has_room() {
            self.mark();
        }
    }
}
