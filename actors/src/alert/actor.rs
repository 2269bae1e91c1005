//! The Alerter: delivers what the outbox holds for its channel, oldest first, and takes it out. It
//! has an Arbiter of its own, so however slow the channel is, neither the stream nor another
//! channel notices.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, Handler, Supervised};
use tokio::time::Instant;

use super::Channel;
use super::budget::{Budget, Plan, Sent};
use crate::clock::Clock;
use crate::failpoint;
use crate::message::{Drain, Noticed, Tick, To};
use crate::metrics::{ChannelMetrics, Metrics, StageMetrics};
use crate::score::incident::Notice;
use crate::score::rules::Severity;
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
    clock: Arc<dyn Clock>,
    metrics: ChannelMetrics,
    stage: StageMetrics,
    closing: Arc<OnceLock<Instant>>,
    /// What went out in the last 24 hours; empty without a budget.
    log: Vec<Sent>,
    /// Failures since the last success, and when to try again.
    failures: u32,
    later: Option<Instant>,
}

/// A notice that waits, with its key in the outbox.
type Waiting = (Vec<u8>, Notice);

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
    /// Notices read from the outbox at once …
    const CHUNK: usize = 64;
    /// … and by a channel that may have to put them together.
    const TOGETHER: usize = 2000;

    /// Delivers through `channel`. Once `closing` is set, only until then: what is left waits in
    /// the outbox for the next start.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn new(
        store: Embedded,
        channel: Box<dyn Channel>,
        clock: Arc<dyn Clock>,
        guard: Guard,
        metrics: &Metrics,
        closing: Arc<OnceLock<Instant>>,
    ) -> Result<Self, crate::store::Error> {
        let log = match channel.budget() {
            Some(_) => store.sent(channel.name())?,
            None => Vec::new(),
        };
        let delivery = Delivery {
            store,
            metrics: metrics.channel(channel.name()),
            stage: metrics.stage(Self::NAME),
            channel,
            clock,
            closing,
            log,
            failures: 0,
            later: None,
        };
        // What waits from before is told before it is delivered, which may take long.
        delivery.account();
        Ok(Self { delivery, guard })
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
            self.account();
            return;
        }
        self.later = None;
        // Somebody may take minutes to answer; what waits for that is known meanwhile.
        self.account();
        if let Err(error) = self.empty() {
            tracing::error!(
                channel = self.channel.name(),
                error = chain(&error),
                "cannot work off the outbox"
            );
        }
        if self.later.is_none()
            && let Err(error) = self.channel.keep_up()
        {
            let error = chain(&error);
            tracing::warn!(channel = self.channel.name(), error, "not told again");
        }
        self.account();
    }

    /// What waits, and what of the budget is left: time alone gives some of it back.
    fn account(&self) {
        if let Some(budget) = self.channel.budget() {
            let left = |log| budget.left(log, Severity::Warn, self.clock.now_ms());
            self.metrics.budget(left(&[]), left(&self.log));
        }
        match self.store.waiting(self.channel.name()) {
            Ok(waiting) => self.metrics.waiting(waiting),
            Err(error) => tracing::error!(error = chain(&error), "cannot count the outbox"),
        }
    }

    /// Delivers until the outbox is empty, the channel has to wait or the engine has to end.
    fn empty(&mut self) -> Result<(), crate::store::Error> {
        loop {
            let waiting = self.waiting()?;
            if waiting.is_empty() {
                return Ok(());
            }
            let goes_on = match self.plan(&waiting) {
                Plan::Each => {
                    // Each may change what the next one may do.
                    let most = if self.channel.budget().is_some() {
                        1
                    } else {
                        Alerter::CHUNK
                    };
                    let mut goes_on = true;
                    for one in waiting.chunks(1).take(most) {
                        goes_on = goes_on && self.send(one)?;
                    }
                    goes_on
                }
                Plan::Together => self.send(&waiting)?,
                Plan::Later(pause) => {
                    // What comes meanwhile may be more urgent.
                    let pause = pause.min(Duration::from_secs(30));
                    self.later = Some(Instant::now() + pause);
                    false
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// What waits, oldest first. What cannot be read is thrown away.
    fn waiting(&self) -> Result<Vec<Waiting>, crate::store::Error> {
        let most = match self.channel.budget() {
            Some(_) => Alerter::TOGETHER,
            None => Alerter::CHUNK,
        };
        let mut waiting = Vec::new();
        for (key, notice) in self.store.outbox(self.channel.name(), most)? {
            match notice {
                Ok(notice) => waiting.push((key, notice)),
                Err(error) => {
                    tracing::error!(
                        channel = self.channel.name(),
                        error = chain(&error),
                        "a notice cannot be read, and is thrown away"
                    );
                    self.store.delivered([key.as_slice()].into_iter(), None)?;
                }
            }
        }
        Ok(waiting)
    }

    fn plan(&self, waiting: &[Waiting]) -> Plan {
        let Some(budget) = self.channel.budget() else {
            return Plan::Each;
        };
        let now_ms = self.clock.now_ms();
        let severities = waiting.iter().map(|(_, notice)| notice.incident.severity);
        let worst = severities.max().unwrap_or(Severity::Warn);
        budget.plan(&self.log, waiting.len(), worst, now_ms)
    }

    /// Delivers these, as one. False: no more for now.
    fn send(&mut self, waiting: &[Waiting]) -> Result<bool, crate::store::Error> {
        if self.closing.get().is_some_and(|end| Instant::now() >= *end) {
            tracing::info!("notices wait in the outbox for the next start");
            return Ok(false);
        }
        let Some((_, first)) = waiting.first() else {
            return Ok(true);
        };
        let incident = first.incident.id();
        let notices: Vec<Notice> = waiting.iter().map(|(_, notice)| notice.clone()).collect();
        self.stage.received.inc_by(notices.len() as u64);
        let now_ms = self.clock.now_ms();
        let recipients = self.channel.budget().map(|budget| budget.recipients);
        let used = Budget::used(&self.log, now_ms) + recipients.unwrap_or(0);
        let delivered = self.channel.deliver(&notices, used);
        let result = delivered.as_ref().err().map(|undelivered| undelivered.why);
        for notice in &notices {
            self.metrics.notice(notice.kind, result);
        }
        let mut spent = None;
        match delivered {
            Ok(()) => {
                self.failures = 0;
                if let Some(recipients) = recipients {
                    let sent = Sent {
                        at_ms: now_ms,
                        recipients,
                    };
                    self.log.push(sent);
                    spent = Some((self.channel.name(), sent));
                }
            }
            Err(why) if self.has_to_wait(&incident, &why) => return Ok(false),
            Err(_not_tried_again) => {}
        }
        let keys = waiting.iter().map(|(key, _)| key.as_slice());
        failpoint::pass("alert.delivered");
        self.store.delivered(keys, spent)?;
        self.stage.sent.inc_by(notices.len() as u64);
        Ok(true)
    }

    /// Says what went wrong, and decides whether the notice stays.
    fn has_to_wait(&mut self, incident: &str, undelivered: &super::Undelivered) -> bool {
        let (channel, error) = (self.channel.name(), chain(undelivered));
        self.stage.refused.inc();
        let Some(pause) = undelivered.why.pause(self.failures + 1) else {
            tracing::error!(channel, incident, error, "a notice is not tried again");
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

    fn handle(&mut self, mut noticed: To<Noticed>, ctx: &mut Context<Self>) {
        noticed.way.arrive();
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
