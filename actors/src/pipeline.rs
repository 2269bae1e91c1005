//! The wiring: builds the actors downstream first, each on a thread of its own, and takes them down
//! in the order of the stream.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Context, Recipient, Supervised, Supervisor};
use futures_util::future::join_all;

use crate::alert::Channel;
use crate::alert::actor::Alerter;
use crate::alert::route::Route;
use crate::batch::Epochs;
use crate::clock::Clock;
use crate::forward::actor::Forwarder;
use crate::ingest::actor::{Ingest, arrived};
use crate::ingest::intake::{self, Intake, Level, Refused};
use crate::message::{Arrived, Drain, Noticed, Tick, To};
use crate::metrics::Metrics;
use crate::quantity::{self, Catalogue};
use crate::score::actor::Gathering;
use crate::score::scorer::{Scored, Scorer};
use crate::stats::hearing::Hearing;
use crate::stats::share::{Part, Share, SilenceLine};
use crate::store::actor::Storing;
use crate::store::committer::Committer;
use crate::store::embedded::Embedded;
use crate::store::keeper::Keeper;
use crate::store::keeper::actor::Keeping;
use crate::store::room::Room;
use crate::supervise::{Guard, Health, Sabotage, Shell, chain};
use crate::{forward, score, stats, store};

/// Settings of the stages.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Section `[stats]`.
    pub stats: stats::Config,
    /// Section `[score]`.
    pub score: score::Config,
    /// Sections `[incidents]`, `[groups]` and `[[maintenance]]`.
    pub incidents: score::episodes::Setup,
    /// Section `[store]`.
    pub store: store::Config,
    /// Batches under way at most; 0 stands for 2. The second one sets out only under load.
    pub credits: usize,
    /// Time is that of the readings instead of the clock's: for recorded data.
    pub event_time: bool,
    /// A MongoDB to copy to.
    pub forward: Option<forward::Settings>,
    /// Stages that panic on purpose, for tests of supervision.
    pub sabotage: Vec<(&'static str, Sabotage)>,
}

/// Opens the store in `dir` and gives every declared quantity its id for ever.
///
/// # Errors
/// A sentence that says what to do.
pub fn open_store(
    dir: &Path,
    config: &store::Config,
    quantities: &std::collections::BTreeMap<String, quantity::Config>,
) -> Result<(Embedded, Arc<Catalogue>), String> {
    let store = Embedded::open(dir, config).map_err(|error| chain(&error))?;
    let known = store.quantities().map_err(|error| chain(&error))?;
    let catalogue = Catalogue::build(quantities, &known)
        .map_err(|invalid| invalid.within("quantities").to_string())?;
    let names: Vec<&str> = catalogue
        .iter()
        .map(|(_, spec)| spec.name.as_str())
        .collect();
    store
        .put_quantities(&names)
        .map_err(|error| chain(&error))?;
    Ok((store, Arc::new(catalogue)))
}

/// A stage that can be asked to finish.
type Draining = (&'static str, Recipient<Drain>);

/// The running stream.
pub struct Pipeline {
    intake: Intake,
    ingest: Addr<Ingest>,
    /// One per channel.
    alerters: Vec<Addr<Alerter>>,
    forwarder: Option<Addr<Forwarder>>,
    keeper: Addr<Keeping>,
    /// Until when they may deliver, once the end is near.
    closing: Arc<OnceLock<tokio::time::Instant>>,
    /// In the order of the stream.
    stages: Vec<Draining>,
    arbiters: Vec<Arbiter>,
    /// Of those that the stream does not wait for.
    background: Vec<Arbiter>,
    health: Arc<Health>,
    hearing: Arc<Hearing>,
    store: Embedded,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("intake", &self.intake)
            .finish_non_exhaustive()
    }
}

/// Starts a supervised actor on a thread of its own.
fn start<A>(arbiters: &mut Vec<Arbiter>, actor: A) -> Addr<A>
where
    A: Actor<Context = Context<A>> + Supervised + Send,
{
    let arbiter = Arbiter::new();
    let addr = Supervisor::start_in_arbiter(&arbiter.handle(), |_| actor);
    arbiters.push(arbiter);
    addr
}

impl Pipeline {
    /// Builds and starts all stages. Needs a running actix `System`.
    ///
    /// # Errors
    /// A sentence that says which stage could not be built, and why.
    #[allow(
        clippy::too_many_lines,
        reason = "the wiring is one list, downstream first"
    )]
    pub fn start(
        settings: &Settings,
        store: Embedded,
        catalogue: &Arc<Catalogue>,
        clock: Arc<dyn Clock>,
        channels: Vec<(Box<dyn Channel>, Route)>,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let health = Arc::new(Health::default());
        let epochs = Arc::new(Epochs::default());
        let mut arbiters = Vec::new();
        // In recorded data somebody has always been listening.
        let hearing = Arc::new(Hearing::since(if settings.event_time {
            i64::MIN
        } else {
            clock.now_ms()
        }));
        let guard = |name: &'static str| {
            let sabotage = settings
                .sabotage
                .iter()
                .find(|(stage, _)| *stage == name)
                .map_or(Sabotage::Never, |(_, sabotage)| *sabotage);
            Guard::new(name, Arc::clone(&health), metrics.stage(name), sabotage)
        };

        let closing = Arc::new(OnceLock::new());
        let mut background = Vec::new();
        let mut alerters: Vec<Addr<Alerter>> = Vec::with_capacity(channels.len());
        let mut routes = Vec::with_capacity(channels.len());
        for (channel, route) in channels {
            let guard = guard(Alerter::NAME);
            let (clock, closing) = (Arc::clone(&clock), Arc::clone(&closing));
            let alerter = Alerter::new(store.clone(), channel, clock, guard, metrics, closing)
                .map_err(|error| chain(&error))?;
            alerters.push(start(&mut background, alerter));
            routes.push(route);
        }

        let target = settings.forward.as_ref().map(|forward| &forward.target);
        let mirror = store
            .mirror_to(target.map(ToString::to_string).as_deref())
            .map_err(|error| chain(&error))?;
        if let Some(mirror) = mirror.filter(|mirror| mirror.backlog.is_some()) {
            tracing::info!(
                target_database = mirror.target,
                "copying to MongoDB; what is stored already goes as well"
            );
        }
        let forwarder = match settings.forward.clone() {
            None => None,
            Some(forward) => {
                let (catalogue, clock) = (Arc::clone(catalogue), Arc::clone(&clock));
                let forwarder = Forwarder::new(forward, store.clone(), catalogue, clock)
                    .map_err(|error| chain(&error))?;
                Some(start(&mut background, forwarder))
            }
        };

        let keeping = Keeping::new(
            Keeper::new(store.clone(), settings.store.clone()),
            Room::new(store.dir().to_owned(), settings.store.min_free_mib),
            Arc::clone(&clock),
            guard(Keeping::NAME),
            metrics.clone(),
            Arc::clone(&closing),
        );
        let keeper = start(&mut background, keeping);

        let storing = {
            let (store, config) = (store.clone(), settings.store.clone());
            let (metrics, health) = (metrics.clone(), Arc::clone(&health));
            let clock = (!settings.event_time).then(|| Arc::clone(&clock));
            move || {
                let committer = Committer::new(store.clone(), &config, routes.clone())
                    .map_err(|error| chain(&error))?;
                let room = Room::new(store.dir().to_owned(), config.min_free_mib);
                Ok(Storing::new(
                    committer,
                    room,
                    clock.clone(),
                    metrics.clone(),
                    Arc::clone(&health),
                ))
            }
        };
        let to_alerters = alerters.clone();
        let mailbox = |name: &str| metrics.stage(name).mailbox;
        let alerters_mailbox = mailbox(Alerter::NAME);
        let shell = Shell::new(
            storing,
            move |stored: store::actor::Stored| {
                for alerter in to_alerters.iter().filter(|_| stored.notices) {
                    // Full means that one is waiting already.
                    let _waiting = alerter.try_send(To::new(Noticed, &alerters_mailbox, 0));
                }
                true
            },
            guard("store"),
            metrics.stage("store"),
        )?;
        let storing = start(&mut arbiters, shell);

        let shares = settings.shares();
        let beside = !settings.event_time;
        let scoring = {
            let (store, catalogue) = (store.clone(), Arc::clone(catalogue));
            let score = settings.score.clone();
            let (incidents, stats) = (settings.incidents.clone(), settings.stats.clone());
            let (metrics, epochs) = (metrics.clone(), Arc::clone(&epochs));
            let hearing = Arc::clone(&hearing);
            move || {
                let scorer = Scorer::new(
                    store.clone(),
                    Arc::clone(&catalogue),
                    score.clone(),
                    incidents.clone(),
                    stats.clone(),
                    Arc::clone(&hearing),
                    epochs.current(),
                )
                .map_err(|error| chain(&error))?;
                Ok(Gathering::new(scorer, shares, beside, metrics.clone()))
            }
        };
        let (to_store, store_mailbox) = (storing.clone(), mailbox("store"));
        let shell = Shell::new(
            scoring,
            move |scored: Scored| {
                let readings = scored.batch.arrivals.len();
                let to = To::new(scored, &store_mailbox, readings);
                to_store.try_send(to).is_ok()
            },
            guard("scorer"),
            metrics.stage("scorer"),
        )?;
        let scorer = start(&mut arbiters, shell);

        let silence = SilenceLine {
            gaps: settings.score.silence_intervals,
            least_ms: settings.score.silence_least.as_ms(),
        };
        let mut owners = Vec::with_capacity(shares);
        for index in 0..shares as u64 {
            let (store, catalogue) = (store.clone(), Arc::clone(catalogue));
            let (config, epochs) = (settings.stats.clone(), Arc::clone(&epochs));
            let hearing = Arc::clone(&hearing);
            let make = move || {
                Share::new(
                    (index, shares as u64),
                    store.clone(),
                    Arc::clone(&catalogue),
                    config.clone(),
                    silence,
                    Arc::clone(&hearing),
                    epochs.current(),
                )
                .map_err(|error| chain(&error))
            };
            let (to_scorer, scorer_mailbox) = (scorer.clone(), mailbox("scorer"));
            let shell = Shell::new(
                make,
                move |part: Part| {
                    let readings = part.found.len();
                    let to = To::new(part, &scorer_mailbox, readings);
                    to_scorer.try_send(to).is_ok()
                },
                guard("stats"),
                metrics.stage("stats"),
            )?;
            owners.push(start(&mut arbiters, shell));
        }

        let to_shares: Vec<Recipient<To<Arrived>>> = owners
            .iter()
            .map(|share| share.clone().recipient())
            .collect();
        let stats_mailbox = mailbox("stats");
        let ingest = Ingest::new(
            match settings.credits {
                0 => 2,
                credits => credits,
            },
            Box::new(move |batch| {
                // Counted once, however many shares look at them.
                let mut readings = batch.arrivals.len();
                to_shares.iter().all(|share| {
                    let readings = std::mem::take(&mut readings);
                    let to = arrived(batch, &stats_mailbox, readings);
                    share.try_send(to).is_ok()
                })
            }),
            epochs,
            (!settings.event_time).then_some(clock),
            Arc::clone(&hearing),
            guard(Ingest::NAME),
            metrics.clone(),
        );
        let ingest = start(&mut arbiters, ingest);
        let (to_ingest, ingest_mailbox) = (ingest.clone(), mailbox(Ingest::NAME));
        let intake = Intake::new(intake::CAPACITY, move |delivery| {
            let readings = delivery.arrivals.len();
            let to = To::new(delivery, &ingest_mailbox, readings);
            to_ingest.try_send(to).map_err(|_| Refused)
        });
        let watched = [
            (&metrics.intake, "free", Level::free as fn(&Level) -> usize),
            (&metrics.intake, "reserved", Level::reserved),
            (&metrics.intake_sources, "sources", Level::waiting),
        ];
        for (metric, name, read) in watched {
            let level = intake.level();
            metric.watch(name, move || Some(read(&level) as f64));
        }

        let mut stages: Vec<Draining> = vec![(Ingest::NAME, ingest.clone().recipient())];
        stages.extend(owners.into_iter().map(|share| ("stats", share.recipient())));
        stages.push(("scorer", scorer.recipient()));
        stages.push(("store", storing.recipient()));
        Ok(Self {
            intake,
            ingest,
            alerters,
            forwarder,
            keeper,
            closing,
            stages,
            arbiters,
            background,
            health,
            hearing,
            store,
        })
    }

    /// The door for sources.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Whether the stream can go on.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// For sources that can be lost: while one is, silence says nothing.
    pub fn hearing(&self) -> &Arc<Hearing> {
        &self.hearing
    }

    /// Lets time pass: silence, ends of incidents, what waits in the outbox. To be called once a
    /// second.
    pub fn ticker(&self) -> impl Fn() + Send + 'static {
        let (ingest, alerters) = (self.ingest.clone(), self.alerters.clone());
        let (forwarder, keeper) = (self.forwarder.clone(), self.keeper.clone());
        move || {
            // Full: there is so much to do that time passes with it.
            let _busy = ingest.try_send(Tick);
            for alerter in &alerters {
                let _busy = alerter.try_send(Tick);
            }
            if let Some(forwarder) = &forwarder {
                let _busy = forwarder.try_send(Tick);
            }
            let _busy = keeper.try_send(Tick);
        }
    }

    /// Ends in the order of the stream: nothing more comes in, everything inside is stored and
    /// answered, notices are delivered as far as time allows (the outbox keeps the rest), threads
    /// end. `Err` names who had not finished in time.
    ///
    /// # Errors
    /// After `deadline`: the stages that had not answered.
    pub async fn drain(self, deadline: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + deadline;
        // Early enough for the Alerters to answer in time. Nobody else sets it.
        let notices_end = end - deadline / 4;
        let _first = self.closing.set(notices_end - deadline / 8);
        let inside = || {
            format!(
                "{} readings were not stored; their sources will send them again",
                self.intake.in_flight()
            )
        };
        let closed = tokio::time::timeout_at(end, self.intake.close())
            .await
            .map_err(|_| inside());
        let mut late = Vec::new();
        for (name, stage) in &self.stages {
            match tokio::time::timeout_at(end, stage.send(Drain)).await {
                Ok(_answered) => {}
                Err(_elapsed) => late.push(*name),
            }
        }
        // A channel may be in the midst of something that takes longer. That is no failure: the
        // notice is in the outbox until it is delivered.
        let drained = join_all(self.alerters.iter().map(|alerter| alerter.send(Drain)));
        let delivered = tokio::time::timeout_at(notices_end, drained).await.is_ok();
        // It ends its pass by itself; without an answer its thread is not waited for.
        let kept = tokio::time::timeout_at(notices_end, self.keeper.send(Drain)).await;
        if let Some(forwarder) = &self.forwarder {
            let _no_hurry = tokio::time::timeout_at(notices_end, forwarder.send(Drain)).await;
        }
        let persisted = self.store.persist().map_err(|error| chain(&error));
        for arbiter in self.arbiters.iter().chain(&self.background) {
            arbiter.stop();
        }
        if delivered && kept.is_ok() {
            for arbiter in self.background {
                let _ended = arbiter.join();
            }
        }
        for arbiter in self.arbiters {
            if late.is_empty() {
                // A thread that panicked outside of any handler has nothing left to say.
                let _ended = arbiter.join();
            }
        }
        closed?;
        if !late.is_empty() {
            return Err(format!("not finished in time: {}", late.join(", ")));
        }
        persisted
    }
}

impl Settings {
    /// How many Stats actors there will be.
    fn shares(&self) -> usize {
        match self.stats.shares {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).max(1)),
            shares => shares as usize,
        }
    }
}
