//! Supervision: a stage that panics comes back with its mailbox, its state rebuilt from the store.
//!
//! `actix::Supervisor` alone does not survive a panic: the unwinding task takes the mailbox with
//! it. So each handler body runs under `catch_unwind`; after a panic the batch is refused first,
//! then the context is stopped, which the Supervisor answers by restarting the same actor with the
//! same mailbox. Many restarts without any commit between them mean that restarting does not help:
//! then the engine is told to drain and exit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Supervised, WrapFuture,
};
use tokio::sync::watch;
use vigie_wire::SensorId;

use crate::batch::{Batch, Refusal};
use crate::message::{Carrier, Drain, To};
use crate::metrics::StageMetrics;
use crate::reading::Arrival;

#[cfg(panic = "abort")]
compile_error!("supervision needs panic = \"unwind\": with abort a panic ends the process");

/// Why the stream cannot go on, by what may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The store must be opened again: there was no room for what it had to write, or a table could
    /// not be written in the background. What it acknowledged is safe.
    #[error("the stream cannot go on: {0}")]
    Reopen(String),
    /// Somebody has to look.
    #[error("the stream cannot go on: {0}")]
    Fatal(String),
}

/// What all stages share: whether the stream moves, and whether it cannot go on.
#[derive(Debug)]
pub struct Health {
    commits: AtomicU64,
    end: watch::Sender<Option<End>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            commits: AtomicU64::new(0),
            end: watch::Sender::new(None),
        }
    }
}

impl Health {
    /// A batch was committed: there is progress.
    pub fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The stream cannot go on: the engine drains. The first reason counts.
    pub fn give_up(&self, end: End) {
        self.end.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(end);
            }
            first
        });
    }

    /// Why the stream cannot go on; `None`: it can.
    pub fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Waits until the stream cannot go on.
    pub async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(end)) => end.clone(),
            // The sender is borrowed, and what was waited for is there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// A panic on purpose, for tests of supervision.
#[derive(Debug, Clone, Copy, Default)]
pub enum Sabotage {
    /// None.
    #[default]
    Never,
    /// At every n-th message.
    Every(u64),
    /// At every message that holds a reading of this sensor.
    Sensor(SensorId),
}

impl Sabotage {
    /// Called in front of each handler body, with the count of messages so far.
    fn strike(self, messages: u64, batch: Option<&Batch>) {
        let holds = |sensor| {
            batch.is_some_and(|batch| {
                batch.arrivals.iter().any(
                    |arrival| matches!(arrival, Arrival::Reading(reading) if reading.sensor == sensor),
                )
            })
        };
        let strikes = match self {
            Self::Never => false,
            Self::Every(every) => messages.is_multiple_of(every),
            Self::Sensor(sensor) => holds(sensor),
        };
        assert!(!strikes, "sabotage");
    }
}

/// Catches panics of one actor, and decides how long to wait and when to give up.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    health: Arc<Health>,
    metrics: StageMetrics,
    sabotage: Sabotage,
    messages: u64,
    /// Restarts since the last commit, and the commit count then.
    restarts: (u32, u64),
    /// When the last panic was caught.
    panicked: Option<tokio::time::Instant>,
}

impl Guard {
    /// Restarts without any commit between them before the engine gives up. Halving a full batch
    /// down to one poisonous reading takes up to fifteen.
    const MOST_RESTARTS: u32 = 40;

    /// For the actor called `name`.
    pub fn new(
        name: &'static str,
        health: Arc<Health>,
        metrics: StageMetrics,
        sabotage: Sabotage,
    ) -> Self {
        Self {
            name,
            health,
            metrics,
            sabotage,
            messages: 0,
            restarts: (0, 0),
            panicked: None,
        }
    }

    /// Runs `body`, which works on `batch`; a panic in it becomes its message.
    ///
    /// # Errors
    /// What the panic said.
    pub fn run<T>(&mut self, batch: Option<&Batch>, body: impl FnOnce() -> T) -> Result<T, String> {
        self.messages += 1;
        catch_unwind(AssertUnwindSafe(|| {
            self.sabotage.strike(self.messages, batch);
            body()
        }))
        .map_err(|panic| {
            self.panicked = Some(tokio::time::Instant::now());
            message_of(&*panic)
        })
    }

    /// The actor is about to be restarted: counts it, and says how long to wait first.
    pub fn restarting(&mut self) -> Duration {
        self.metrics.restarts.inc();
        // The first comes back at once, the others within 50 ms.
        match self.failed() {
            0 | 1 => Duration::ZERO,
            n => Duration::from_millis(1 << (n - 2).min(5)).min(Duration::from_millis(50)),
        }
    }

    /// The actor takes messages again after `pause`.
    pub fn restarted(&mut self, pause: Duration) {
        if let Some(panicked) = self.panicked.take() {
            let seconds = (panicked.elapsed() + pause).as_secs_f64();
            self.metrics.restart_seconds.observe(seconds);
        }
    }

    /// Counts a failure; gives up after many without progress between them. Returns how many there
    /// were since the last progress.
    fn failed(&mut self) -> u32 {
        let commits = self.health.commits();
        let (count, at) = &mut self.restarts;
        if commits == *at {
            *count += 1;
        } else {
            (*count, *at) = (1, commits);
        }
        if *count > Self::MOST_RESTARTS {
            self.health.give_up(End::Fatal(format!(
                "{} failed {count} times without any progress between",
                self.name
            )));
        }
        *count
    }

    /// Shared by all stages.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// The actor's name in logs and metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(crate) fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Why a stage could not do its work, by what follows from it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The batch is refused as it says; the stage goes on as it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing can go on: the batch is refused, the engine drains.
    #[error(transparent)]
    Ended(#[from] End),
}

/// The logic of one stage, without any actor.
pub trait Stage: Unpin + Send + 'static {
    /// In logs and metrics.
    const NAME: &'static str;
    /// What it takes.
    type In: Carrier + Send + 'static;
    /// What it gives to the next.
    type Out: Send + 'static;
    /// Work that runs beside the mailbox.
    type Job: FnOnce() -> Self::Done + Send + 'static;
    /// Its result.
    type Done: Send + 'static;

    /// One message. `None`: there is nothing to pass on (yet).
    ///
    /// # Errors
    /// [`Failure`], by what follows from it.
    fn handle(&mut self, input: Self::In) -> Result<Option<Self::Out>, Failure>;

    /// Work that has become due.
    fn jobs(&mut self) -> Vec<Self::Job> {
        Vec::new()
    }

    /// A job is done.
    fn done(&mut self, _done: Self::Done) {}
}

type Make<S> = Box<dyn Fn() -> Result<S, String> + Send>;
type Next<O> = Box<dyn Fn(O) -> bool + Send>;

/// The actix actor around a [`Stage`].
pub struct Shell<S: Stage> {
    stage: S,
    make: Make<S>,
    next: Next<S::Out>,
    guard: Guard,
    metrics: StageMetrics,
}

impl<S: Stage> std::fmt::Debug for Shell<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell")
            .field("stage", &S::NAME)
            .finish_non_exhaustive()
    }
}

impl<S: Stage> Shell<S> {
    /// `make` builds the stage anew from the store; `next` passes a result on and says whether
    /// that went well.
    ///
    /// # Errors
    /// What `make` says.
    pub fn new(
        make: impl Fn() -> Result<S, String> + Send + 'static,
        next: impl Fn(S::Out) -> bool + Send + 'static,
        guard: Guard,
        metrics: StageMetrics,
    ) -> Result<Self, String> {
        Ok(Self {
            stage: make()?,
            make: Box::new(make),
            next: Box::new(next),
            guard,
            metrics,
        })
    }

    fn fail(ctx: &mut Context<Self>, batch: &Batch, why: &str) {
        tracing::error!(
            stage = S::NAME,
            readings = batch.arrivals.len(),
            "{why}; restarting it"
        );
        // First the answer, then the stop: the other way round the answer would be lost.
        batch.refuse(Refusal::Failed(S::NAME));
        ctx.stop();
    }
}

impl<S: Stage> Actor for Shell<S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Ingest never has more than two batches under way, so this is never reached; a control
        // message must find room beside them.
        ctx.set_mailbox_capacity(16);
    }
}

impl<S: Stage> Supervised for Shell<S> {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        let pause = self.guard.restarting();
        match (self.make)() {
            Ok(stage) => self.stage = stage,
            Err(why) => {
                self.guard
                    .health()
                    .give_up(End::Fatal(format!("{} cannot be rebuilt: {why}", S::NAME)));
            }
        }
        self.guard.restarted(pause);
        if !pause.is_zero() {
            ctx.wait(tokio::time::sleep(pause).into_actor(self));
        }
    }
}

impl<S: Stage> Handler<To<S::In>> for Shell<S> {
    type Result = ();

    fn handle(&mut self, to: To<S::In>, ctx: &mut Context<Self>) {
        let To {
            message: input,
            mut way,
        } = to;
        way.arrive();
        let batch = Arc::clone(input.batch());
        let readings = batch.arrivals.len() as u64;
        self.metrics.received.inc_by(readings);
        let timer = self.metrics.seconds.start_timer();
        let stage = &mut self.stage;
        let result = self.guard.run(Some(&batch), || stage.handle(input));
        timer.observe_duration();
        match result {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(out))) => {
                if (self.next)(out) {
                    self.metrics.sent.inc_by(readings);
                } else {
                    self.metrics.refused.inc_by(readings);
                    batch.refuse(Refusal::Failed(S::NAME));
                }
                for job in self.stage.jobs() {
                    ctx.spawn(tokio::task::spawn_blocking(job).into_actor(self).map(
                        |done, shell, _| match done {
                            Ok(done) => shell.stage.done(done),
                            Err(error) => tracing::error!(stage = S::NAME, %error, "a job failed"),
                        },
                    ));
                }
            }
            Ok(Err(failure)) => {
                self.metrics.refused.inc_by(readings);
                match failure {
                    Failure::Refused(refusal) => {
                        if matches!(refusal, Refusal::Unavailable(_)) {
                            // Tried again every second; not for ever.
                            self.guard.failed();
                        }
                        batch.refuse(refusal);
                    }
                    Failure::Ended(end) => {
                        batch.refuse(Refusal::Unavailable(end.to_string()));
                        self.guard.health().give_up(end);
                    }
                }
            }
            Err(panic) => {
                self.metrics.refused.inc_by(readings);
                Self::fail(ctx, &batch, &format!("panic: {panic}"));
            }
        }
    }
}

impl<S: Stage> Handler<Drain> for Shell<S> {
    type Result = ();

    /// Handlers are synchronous, so everything before it is done.
    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {}
}
