//! The Forwarder's work: what is stored goes to MongoDB, in the order in which it was stored.
//!
//! What MongoDB has leaves the line; what it will never take goes aside; everything else is sent
//! again until it is answered. It also keeps the copy within its age and its size.

pub mod actor;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failpoint;
use crate::metrics::ForwarderMetrics;
use crate::quantity::Catalogue;
use crate::store;
use crate::store::embedded::{Backlog, Embedded, Mirror};
use crate::store::mongo::{BATCH, Config, Mongo, Target, Trouble, Why};
use crate::store::outgoing::Outgoing;
use crate::supervise::chain;

/// Between two looks at the size and the age of the copy, unless there is something to remove.
const HOUSEKEEPING: Duration = Duration::from_mins(5);
/// The next look is due sooner when this part of the limit may have come since the last one, ...
const PART: u64 = 10;
/// ... if a row takes so many bytes, indexes and all.
const ROW_BYTES: u64 = 400;
/// While there is something to remove.
const REMOVING: Duration = Duration::from_secs(1);
/// Files whose size differs by less are the same.
const SAME: f64 = 0.02;
/// When the copy is too large, this share of the limit is what it is brought down to.
const ROOM: f64 = 0.95;
/// Readings removed in one command: a server may hold others up meanwhile, and some need long.
const REMOVED: u64 = 1000;
/// However full it is, this much of the last time stays.
const LAST_MS: i64 = 10 * 60_000;
/// Such commands in one round at most.
const REMOVALS: u32 = 20;
/// A server that removes old readings itself does so once in a while; only then it is helped.
const GRACE_MS: i64 = 2 * 3_600_000;
/// While there is always something new, so much of it goes before a part of what is old.
const NEW_FIRST: u32 = 4;
/// A warning about the same trouble is repeated after this time.
const REPEAT: Duration = Duration::from_mins(10);

/// What is new goes first, what is old has time; but where new rows fill one command after the other,
/// it must not wait for ever.
#[derive(Debug, Default)]
struct Turns {
    /// Commands in a row that were full of what is new.
    full: u32,
}

impl Turns {
    /// Whether a part of what is old goes now, after a command that was `full` of what is new or not.
    fn are_of_the_old(&mut self, full: bool) -> bool {
        self.full = if full { self.full + 1 } else { 0 };
        self.full.is_multiple_of(NEW_FIRST)
    }
}

/// Where the copy stands, for the API.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Servers and database.
    pub target: String,
    /// The last command was answered.
    pub connected: bool,
    /// Rows that wait for MongoDB.
    pub waiting: u64,
    /// What was stored before the copying began is being copied.
    pub catching_up: bool,
    /// Rows that MongoDB has taken since the start.
    pub forwarded: u64,
    /// Rows that it will never take, since the start.
    pub rejected: u64,
    /// Size of data and indexes, in bytes; `None`: not known yet.
    pub used_bytes: Option<u64>,
    /// The limit to it, in bytes.
    pub max_bytes: u64,
    /// Number of the next row to be sent.
    #[serde(skip)]
    position: u64,
    /// When the limit would be reached at the present rate, seconds since 1970; `None`: never, or
    /// not known yet. From then on the oldest readings go.
    pub full_at: Option<f64>,
    /// What is wrong, and what to do about it.
    pub trouble: Option<String>,
}

/// Shared with whoever wants to look.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Progress>>);

impl Board {
    /// As it is now.
    pub fn look(&self, store: &Embedded) -> Progress {
        let mut progress = self.lock().clone();
        progress.waiting = store.line_end().saturating_sub(progress.position);
        progress
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything the Forwarder needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Section `[mongodb]`.
    pub config: Config,
    /// Where to.
    pub target: Target,
    /// Where it stands.
    pub board: Board,
    /// What it counts.
    pub metrics: ForwarderMetrics,
}

impl Settings {
    /// `None`: there is no MongoDB.
    pub fn new(config: &Config, metrics: ForwarderMetrics) -> Option<Self> {
        let target = config.target()?;
        let board = Board::default();
        {
            let mut progress = board.lock();
            progress.target = target.to_string();
            progress.max_bytes = u64::from(config.max_mib) << 20;
        }
        Some(Self {
            config: config.clone(),
            target,
            board,
            metrics,
        })
    }
}

/// Why a round ended early.
#[derive(Debug)]
enum Stop {
    /// The engine ends.
    Asked,
    /// MongoDB.
    Trouble(Trouble),
    /// The store.
    Store(store::Error),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// The work, and what it remembers between rounds.
pub(crate) struct Forwarding {
    settings: Settings,
    store: Embedded,
    catalogue: Arc<Catalogue>,
    metrics: ForwarderMetrics,
    stop: watch::Receiver<bool>,
    mongo: Option<Mongo>,
    mirror: Option<Mirror>,
    failures: u32,
    later: Option<Instant>,
    warned: Option<(Why, Instant)>,
    /// When the size and the age of the copy are looked at next.
    housekeeping: Instant,
    /// Rows sent since the last look.
    sent: u64,
    pace: Pace,
}

impl Forwarding {
    pub(crate) fn new(
        settings: Settings,
        store: Embedded,
        catalogue: Arc<Catalogue>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, store::Error> {
        let mirror = store.mirror()?;
        {
            let mut progress = settings.board.lock();
            progress.position = store.line_start()?;
            progress.catching_up = mirror.as_ref().is_some_and(|it| it.backlog.is_some());
        }
        Ok(Self {
            metrics: settings.metrics.clone(),
            settings,
            store,
            catalogue,
            stop,
            mongo: None,
            mirror,
            failures: 0,
            later: None,
            warned: None,
            housekeeping: Instant::now(),
            sent: 0,
            pace: Pace::default(),
        })
    }

    /// Forwards what waits, if it is time to.
    pub(crate) async fn go(&mut self, now_ms: i64) {
        // What need not wait is tried again at once.
        while self.later.is_none_or(|later| Instant::now() >= later) {
            self.later = None;
            match self.round(now_ms).await {
                Ok(()) => {
                    self.well();
                    break;
                }
                Err(Stop::Asked) => break,
                Err(Stop::Trouble(trouble)) => self.troubled(&trouble),
                Err(Stop::Store(error)) => {
                    tracing::error!(error = chain(&error), "cannot read what is to be forwarded");
                    self.later = Some(Instant::now() + Duration::from_secs(10));
                }
            }
        }
        self.publish();
    }

    async fn round(&mut self, now_ms: i64) -> Result<(), Stop> {
        if self.mongo.is_none() {
            self.connect().await?;
        }
        let begun = Instant::now();
        let mut turns = Turns::default();
        loop {
            if *self.stop.borrow() {
                return Err(Stop::Asked);
            }
            let passed_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
            let now_ms = now_ms.saturating_add(passed_ms);
            // First: if the database is full, nothing goes before something is removed.
            self.keep_house_if_due(now_ms).await?;
            let position = self.settings.board.lock().position;
            let rows = self.store.outgoing(position, BATCH)?;
            let full = rows.len() == BATCH;
            if !rows.is_empty() {
                self.forward(rows).await?;
            }
            // What comes within the second goes in one command.
            if turns.are_of_the_old(full) && !self.catch_up(now_ms).await? && !full {
                return Ok(());
            }
        }
    }

    async fn keep_house_if_due(&mut self, now_ms: i64) -> Result<(), Stop> {
        let max = u64::from(self.settings.config.max_mib) << 20;
        if Instant::now() < self.housekeeping && self.sent < max / PART / ROW_BYTES {
            return Ok(());
        }
        match self.keep_house(now_ms, max).await {
            Err(Stop::Trouble(trouble)) => {
                tracing::warn!(
                    error = %trouble,
                    "cannot look after the size and the age of the copy; trying again later"
                );
                // A server that cannot remove may be able to take.
                self.housekeeping = Instant::now() + HOUSEKEEPING;
                self.sent = 0;
                if trouble.why.is_connection() {
                    return Err(trouble.into());
                }
                Ok(())
            }
            other => other,
        }
    }

    async fn connect(&mut self) -> Result<(), Stop> {
        let config = &self.settings.config;
        let catalogue = Arc::clone(&self.catalogue);
        let mut mongo = Mongo::new(config, catalogue).await?;
        let expires = mongo.prepare(config.keep.duration()).await?;
        tracing::info!(
            target_database = %self.settings.target,
            expires,
            "MongoDB is ready"
        );
        self.mongo = Some(mongo);
        Ok(())
    }

    /// Sends rows and takes those that MongoDB has out of the line.
    async fn forward(
        &mut self,
        rows: Vec<(u64, Result<Outgoing, store::Error>)>,
    ) -> Result<(), Stop> {
        let mut aside = Vec::new();
        let mut numbers = Vec::with_capacity(rows.len());
        let mut sent = Vec::with_capacity(rows.len());
        let mut whole = Vec::with_capacity(rows.len());
        for (number, row) in rows {
            numbers.push(number);
            match row {
                Ok(row) => {
                    sent.push(number);
                    whole.push(row);
                }
                Err(error) => aside.push((number, chain(&error))),
            }
        }
        failpoint::pass("forward.insert");
        let rejections = self.copy(&whole).await?;
        failpoint::pass("forward.inserted");
        for (at, words) in rejections {
            aside.extend(sent.get(at).map(|number| (*number, words)));
        }
        for (number, words) in &aside {
            tracing::error!(number, words, "MongoDB will never take this row; put aside");
        }
        self.store.forwarded(&numbers, &aside)?;
        failpoint::pass("forward.removed");
        let taken = numbers.len() - aside.len();
        self.count(taken, aside.len());
        self.pace.taken += taken as u64;
        if let Some(last) = numbers.last() {
            self.settings.board.lock().position = last + 1;
        }
        Ok(())
    }

    /// Copies the next part of what was stored before the copying began; false: there is none.
    async fn catch_up(&mut self, now_ms: i64) -> Result<bool, Stop> {
        let Some(mirror) = &self.mirror else {
            return Ok(false);
        };
        let Some(backlog) = &mirror.backlog else {
            return Ok(false);
        };
        let oldest = now_ms - self.settings.config.keep.as_ms();
        let next: Option<Backlog> = match self.store.backlog(backlog, BATCH)? {
            None => None,
            Some((mut rows, next)) => {
                // What would be removed at once need not go.
                rows.retain(|row| match row {
                    Outgoing::Reading(_, reading) => reading.order_ms >= oldest,
                    Outgoing::Anomaly(..) | Outgoing::Hour(_) => true,
                });
                let rejections = self.copy(&rows).await?;
                failpoint::pass("forward.backlog");
                for (_, words) in &rejections {
                    tracing::error!(words, "MongoDB will never take this row; left in the store");
                }
                self.count(rows.len() - rejections.len(), rejections.len());
                Some(next)
            }
        };
        if let Some(mirror) = &mut self.mirror {
            mirror.backlog = next;
            self.store.put_mirror(mirror)?;
        }
        Ok(true)
    }

    async fn copy(
        &mut self,
        rows: &[Outgoing],
    ) -> Result<Vec<crate::store::mongo::Rejection>, Stop> {
        let Some(mongo) = &mut self.mongo else {
            return Err(Trouble::lost().into());
        };
        // A server that does not answer must not hold up the end of the engine.
        let rejections = tokio::select! {
            copied = mongo.copy(rows) => copied?,
            _ = self.stop.wait_for(|stop| *stop) => return Err(Stop::Asked),
        };
        self.well();
        self.sent += rows.len() as u64;
        Ok(rejections)
    }

    /// Keeps the copy within its age and its size.
    async fn keep_house(&mut self, now_ms: i64, max: u64) -> Result<(), Stop> {
        let Some(mongo) = &mut self.mongo else {
            return Ok(());
        };
        let keep_ms = self.settings.config.keep.as_ms();
        let for_age = Instant::now() >= self.housekeeping;
        let count = mongo.count().await?;
        let used = self.pace.used(mongo.usage().await?.bytes, count);
        let surplus = if used > max {
            surplus(used, max, count)
        } else {
            0
        };
        let too_old = now_ms - keep_ms;
        let mut removed = 0;
        for _ in 0..REMOVALS {
            // Some servers need long to find the oldest.
            if removed >= surplus && !for_age {
                break;
            }
            let Some(oldest) = mongo.oldest(0).await? else {
                break;
            };
            let latest = if removed < surplus {
                now_ms - LAST_MS
            } else if oldest < too_old - GRACE_MS || (removed > 0 && oldest < too_old) {
                too_old
            } else {
                break;
            };
            let left = surplus.saturating_sub(removed);
            let some = if left > 0 { left.min(REMOVED) } else { REMOVED };
            let before = mongo.oldest(some).await?.unwrap_or(latest);
            if oldest >= latest {
                break;
            }
            // Past the oldest, or it would never come to an end where many are of the same moment.
            let gone = mongo
                .remove_before(before.clamp(oldest + 1, latest))
                .await?;
            removed += gone;
        }
        if surplus > 0 {
            tracing::info!(
                used_bytes = used,
                max_bytes = max,
                removed,
                "the copy in MongoDB is too large: the oldest readings go, their hours stay"
            );
        }
        // What is still too much goes next time.
        if removed > 0 {
            self.housekeeping = Instant::now() + REMOVING;
        } else if for_age {
            self.housekeeping = Instant::now() + HOUSEKEEPING;
        }
        self.sent = 0;
        self.metrics.removed.inc_by(removed);
        self.pace.size(now_ms, used, removed);
        let full_at = self.pace.full_at(now_ms, used, max, keep_ms);
        self.metrics.used(used, max, full_at);
        let mut progress = self.settings.board.lock();
        progress.used_bytes = Some(used);
        progress.full_at = full_at;
        Ok(())
    }

    fn count(&self, taken: usize, rejected: usize) {
        self.metrics.rows(taken as u64, rejected as u64);
        let mut progress = self.settings.board.lock();
        progress.forwarded += taken as u64;
        progress.rejected += rejected as u64;
    }

    fn well(&mut self) {
        if self.warned.is_some() {
            tracing::info!(target_database = %self.settings.target, "MongoDB answers again");
        }
        self.failures = 0;
        self.warned = None;
        let mut progress = self.settings.board.lock();
        progress.connected = true;
        progress.trouble = None;
    }

    fn troubled(&mut self, trouble: &Trouble) {
        self.failures += 1;
        self.metrics.failed(trouble.why);
        let pause = pause(trouble.why, self.failures, rand::random());
        self.later = Some(Instant::now() + pause);
        let told = self
            .warned
            .is_some_and(|(why, at)| why == trouble.why && at.elapsed() < REPEAT);
        // What the next attempt mends is not worth a line.
        if !told && !pause.is_zero() {
            tracing::warn!(
                target_database = %self.settings.target,
                error = %trouble,
                advice = trouble.why.advice(),
                "MongoDB takes nothing at the moment"
            );
            self.warned = Some((trouble.why, Instant::now()));
        }
        if pause.is_zero() {
            return;
        }
        let mut progress = self.settings.board.lock();
        progress.connected = false;
        progress.trouble = Some(format!("{trouble}; {}", trouble.why.advice()));
        if trouble.why == Why::Full {
            // Perhaps there is something to be removed.
            self.housekeeping = Instant::now();
        }
    }

    fn publish(&self) {
        let mirror = self.mirror.as_ref();
        self.settings.board.lock().catching_up =
            mirror.is_some_and(|mirror| mirror.backlog.is_some());
        let progress = self.settings.board.look(&self.store);
        self.metrics.state(progress.connected, progress.waiting);
    }
}

/// Readings to be removed so that `used` bytes become less than `max`, with room to grow.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and the number of readings"
)]
fn surplus(used: u64, max: u64, readings: u64) -> u64 {
    let share = 1.0 - (max as f64 * ROOM) / used as f64;
    ((readings as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1)
}

/// How long to wait after so many failures in a row. `random` spreads many engines out.
fn pause(why: Why, failures: u32, random: f64) -> Duration {
    let longest = match why {
        Why::Broken if failures == 1 => 0.0,
        // It should not wait long for a server that is back.
        Why::Broken | Why::Unreachable | Why::Other => 4.0,
        Why::Certificate | Why::Denied | Why::Full | Why::Foreign => 60.0,
    };
    let seconds = (0.25 * f64::from(1_u32 << failures.min(9))).min(longest);
    Duration::from_secs_f64(seconds * (0.75 + 0.5 * random))
}

/// How fast the copy grows.
#[derive(Debug, Default)]
struct Pace {
    /// Rows taken since the last look.
    taken: u64,
    /// Time and size at the last look.
    last: Option<(i64, u64)>,
    /// Bytes per ms, smoothed; `None` before the second look.
    growth: Option<f64>,
    /// Bytes and readings at the last look, and how many readings were removed after it.
    look: Option<(u64, u64, u64)>,
    /// Bytes and readings before the removal after which the files did not shrink, while their size
    /// is still that. Within it there is room.
    hollow: Option<(u64, u64)>,
}

impl Pace {
    /// How much of `bytes` is in use. Some servers do not give back what removed readings took:
    /// there the size says nothing after a removal, and would never again be small enough.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most `bytes`"
    )]
    fn used(&mut self, bytes: u64, readings: u64) -> u64 {
        let each = |bytes: u64, readings: u64| bytes as f64 / readings as f64;
        if let Some((before, more, removed)) = self.look.replace((bytes, readings, 0))
            && removed > 0
            && readings < more
        {
            let gone = each(before, more) * (more - readings) as f64;
            // Indexes may keep their room where the rest is given back.
            if before as f64 - bytes as f64 > 0.05 * gone {
                self.hollow = None;
            } else {
                self.hollow.get_or_insert((before, more));
            }
        }
        let Some((full, most)) = self.hollow else {
            return bytes;
        };
        // Other files than those, or no room in them any more.
        if readings >= most || (bytes as f64 / full as f64 - 1.0).abs() > SAME {
            self.hollow = None;
            return bytes;
        }
        let room = each(full, most) * (most - readings) as f64;
        (bytes as f64 - room).max(0.0).ceil() as u64
    }

    /// The copy has this size now, after `removed` readings went.
    fn size(&mut self, now_ms: i64, bytes: u64, removed: u64) {
        if let Some((then, before)) = self.last
            && now_ms > then
            // While readings go the size says nothing about how many come.
            && removed == 0
            && self.taken > 0
        {
            let growth = (bytes as f64 - before as f64) / (now_ms - then) as f64;
            let smooth = self.growth.map_or(growth, |old| 0.8 * old + 0.2 * growth);
            self.growth = Some(smooth);
        }
        if let Some((_, _, gone)) = &mut self.look {
            *gone = removed;
        }
        self.taken = 0;
        self.last = Some((now_ms, bytes));
    }

    /// When `max` would be reached, seconds since 1970. Never, if what comes in the time that
    /// readings are kept fits.
    fn full_at(&self, now_ms: i64, bytes: u64, max: u64, keep_ms: i64) -> Option<f64> {
        let growth = self.growth.filter(|growth| *growth > 0.0)?;
        if growth * keep_ms as f64 <= max as f64 {
            return None;
        }
        let left = max.saturating_sub(bytes) as f64 / growth;
        Some((now_ms as f64 + left) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_goes_first_and_what_is_old_does_not_wait_for_ever() {
        let mut turns = Turns::default();
        let old = [true; 9].map(|full| turns.are_of_the_old(full));
        assert_eq!(
            old,
            [false, false, false, true, false, false, false, true, false]
        );
        assert!(turns.are_of_the_old(false), "nothing new waits");
        assert!(!turns.are_of_the_old(true));
    }

    #[test]
    fn pauses_grow_and_end() {
        let seconds = |why, failures| pause(why, failures, 0.5).as_secs_f64();
        assert!(seconds(Why::Broken, 1).abs() < 1e-9);
        assert!((seconds(Why::Broken, 2) - 1.0).abs() < 1e-9);
        assert!((seconds(Why::Unreachable, 1) - 0.5).abs() < 1e-9);
        assert!((seconds(Why::Unreachable, 99) - 4.0).abs() < 1e-9);
        assert!((seconds(Why::Full, 99) - 60.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_too_much_goes_with_some_room() {
        assert_eq!(surplus(1_000, 950, 1_000), 98);
        assert_eq!(surplus(2_000, 1_000, 100), 53);
        assert_eq!(surplus(951, 950, 0), 1);
    }

    #[test]
    fn room_that_is_not_given_back_is_not_taken_for_use() {
        let mut pace = Pace::default();
        assert_eq!(pace.used(200_000, 1_000), 200_000);
        assert_eq!(pace.used(1_000_000, 10_000), 1_000_000);
        // Half of them went, and nothing shrank.
        pace.size(0, 1_000_000, 5_000);
        assert_eq!(pace.used(1_000_000, 5_000), 500_000);
        // The room is filled, by whatever: what more comes counts, and files that grow are full.
        assert_eq!(pace.used(1_000_000, 7_500), 750_000);
        assert_eq!(pace.used(1_010_000, 7_500), 760_000);
        assert_eq!(pace.used(1_030_000, 7_500), 1_030_000);
        assert_eq!(pace.used(1_030_000, 7_500), 1_030_000);
        pace.size(1, 1_030_000, 7_499);
        assert_eq!(pace.used(90, 1), 90);
    }

    /// Hours and anomalies grow, and readings are as many as before.
    #[test]
    fn where_room_is_given_back_all_of_the_size_is_in_use() {
        let mut pace = Pace::default();
        assert_eq!(pace.used(200_000, 1_000), 200_000);
        for (now_ms, hours) in (0..50).zip((0..).step_by(20_000)) {
            assert_eq!(pace.used(200_000 + hours, 1_000), 200_000 + hours);
            pace.size(now_ms, 200_000 + hours, 0);
        }
        // The data of 500 readings is given back, their part of the indexes is not.
        pace.size(50, 1_180_000, 500);
        assert_eq!(pace.used(1_110_000, 500), 1_110_000);
        // As many go as come.
        for _ in 0..3 {
            pace.size(51, 1_110_000, 100);
            assert_eq!(pace.used(1_110_000, 500), 1_110_000);
        }
    }

    #[test]
    fn the_day_it_is_full_is_forecast_from_growth() {
        let day = 86_400_000_i64;
        let mut pace = Pace::default();
        pace.size(0, 0, 0);
        assert_eq!(pace.full_at(0, 0, 1_000, day), None);
        pace.taken = 10;
        pace.size(day, 100, 0);
        // 100 bytes a day, kept for 30 days: 3,000 in the end, 1,000 after nine more.
        let full = pace.full_at(day, 100, 1_000, 30 * day).unwrap();
        assert!((full - 10.0 * 86_400.0).abs() < 1.0, "{full}");
        // Kept for nine days it never is.
        assert_eq!(pace.full_at(day, 100, 1_000, 9 * day), None);
    }
}
