//! The embedded database: one keyspace per kind, atomic batches across them, each synced before it
//! is answered. The only file that knows fjall.
//!
//! fjall holds its journal lock through sync and insert, so there is one writer of readings; a
//! failed sync poisons the database for the process, so every error here is final for the writer.

mod buffers;
mod files;
mod keeping;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, FilterPolicy, PartitioningPolicy};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch,
    PersistMode,
};
use hashbrown::HashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use self::buffers::Buffers;
pub use self::files::LeftOut;
pub(super) use self::keeping::Marked;
use super::outgoing::{self, Outgoing};
use super::row::{self, Row, StoredAnomaly, StoredReading};
use super::{Config, Error, Exceptions, Ledger};
use crate::alert::History;
use crate::alert::budget::Sent;
use crate::alert::chart::Point;
use crate::failpoint;
use crate::reading::{Identity, Reading};
use crate::score::forest::Model;
use crate::score::incident::{Incident, Notice, Order, Raised};
use crate::score::maintenance::Silence;
use crate::score::rules::Verdict;
use crate::score::scorer::IncidentMemory;
use crate::stats::device::Device;
use crate::stats::share::{Memory, Recalled, Resting, Snapshot};
use crate::stats::state::SensorState;

/// How long it is known what was sent: longer than any budget asks for.
const BUDGET_MS: i64 = 48 * 3_600_000;
/// Format of the whole store; a store with another one is not opened.
const FORMAT: u32 = 5;

/// Handle to the open store; clones share it.
#[derive(Clone)]
pub struct Embedded {
    db: Database,
    dir: Arc<Path>,
    readings: Keyspace,
    identities: Keyspace,
    anomalies: Keyspace,
    states: Keyspace,
    incidents: Keyspace,
    current: Keyspace,
    orders: Keyspace,
    raised: Keyspace,
    outbox: Keyspace,
    sent: Keyspace,
    quarantine: Keyspace,
    models: Keyspace,
    outgoing: Keyspace,
    rejected: Keyspace,
    hours: Keyspace,
    due: Keyspace,
    ledgers: Keyspace,
    meta: Keyspace,
    buffers: Buffers,
    /// Number of the next row for MongoDB.
    line_end: Arc<Mutex<u64>>,
    /// Number of the next order.
    order_end: Arc<Mutex<u64>>,
    marked: Arc<Mutex<Marked>>,
    /// Read from `states` when it is first asked for, and then kept with each commit: a stage that
    /// restarts must not read every state there is.
    inventory: Arc<Mutex<Option<Inventory>>>,
}

type Inventory = HashMap<SensorId, Resting, Xxh3DefaultBuilder>;

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

fn failed(error: fjall::Error) -> Error {
    use std::io::ErrorKind::StorageFull;
    match &error {
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io))
            if io.kind() == StorageFull =>
        {
            Error::NoRoom(Box::new(error))
        }
        fjall::Error::Poisoned => Error::Stopped(Box::new(error)),
        _ => Error::Failed(Box::new(error)),
    }
}

/// Something of the store in `dir` that only a copy can mend.
fn damaged(dir: &Path, what: &str) -> Error {
    Error::DamagedFile {
        path: dir.into(),
        what: what.to_owned(),
        fix: "put the whole store back from a copy",
    }
}

/// Is it the machine that refuses (no handles left, no permission, a disk that fails), and not what
/// is in the files?
fn is_of_machine(error: &fjall::Error) -> bool {
    use std::io::ErrorKind;
    let (fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) = error else {
        return false;
    };
    // These come of files that are gone or too short, and of places in them that cannot be.
    !matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::NotFound
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
    )
}

/// Why the store in `dir` was not opened, by what the caller can do.
fn unopened(dir: &Path, error: fjall::Error) -> Error {
    let of_machine = is_of_machine(&error);
    match error {
        fjall::Error::Locked => Error::Locked(dir.into()),
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) if of_machine => {
            Error::Open {
                path: dir.into(),
                source: Box::new(error),
            }
        }
        error @ (fjall::Error::InvalidVersion(_)
        | fjall::Error::Storage(LsmError::InvalidVersion(_))) => Error::Open {
            path: dir.into(),
            source: format!(
                "its files have a version that this engine does not know ({error}); use the \
                 engine that wrote them, or another data directory"
            )
            .into(),
        },
        other => damaged(dir, &other.to_string()),
    }
}

/// Keeps other engines out while files are looked at; fjall takes the same lock when it opens.
fn lock(dir: &Path) -> Result<Option<File>, Error> {
    let failed = |error: std::io::Error| Error::Open {
        path: dir.into(),
        source: Box::new(error),
    };
    let file = match File::options().write(true).open(dir.join("lock")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(dir.into())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A keyspace that cannot be read to its end.
#[derive(Debug)]
pub struct Unreadable {
    /// Its name.
    pub keyspace: &'static str,
    /// Rows that can be read.
    pub rows: u64,
    /// What the database says of the next one.
    pub why: String,
}

/// Part of a listing, and where to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Pass it to get the next page; `None` at the end.
    pub next: Option<Vec<u8>>,
}

impl Embedded {
    /// Opens the store in `dir`, or makes it. Repairs what a crash left half-written, and cuts off a
    /// damaged end of the journal, which it says.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Open`], [`Error::DamagedFile`] or [`Error::OtherFormat`].
    pub fn open(dir: &Path, config: &Config) -> Result<Self, Error> {
        {
            let _mine = lock(dir)?;
            for cut in files::inspect(dir)? {
                tracing::error!(
                    journal = %cut.journal.display(),
                    bytes = cut.bytes,
                    kept = %cut.kept.display(),
                    "the last batch of the journal cannot be read and is left out: if it was \
                     acknowledged, its readings are lost"
                );
            }
        }
        // What fjall says by a panic is that a file does not hold what it must.
        let opened = AssertUnwindSafe(|| Self::open_whole(dir, config));
        let store = catch_unwind(opened)
            .unwrap_or_else(|_| Err(damaged(dir, "the database gave up reading it")))?;
        let stored = store.ledger()?.stored;
        if let Some(gone) = files::marked(dir).and_then(|marked| marked.checked_sub(stored + 1)) {
            tracing::error!(
                store = %dir.display(),
                readings = gone + 1,
                "so many readings at least had been stored and are gone: the end of a file is \
                 missing. Put the whole store back from a copy if there is a newer one"
            );
        }
        Ok(store)
    }

    /// Leaves what cannot be read out of the journal, and keeps it as it was beside it.
    ///
    /// # Errors
    /// [`Error::Locked`], or [`Error::DamagedFile`] if something else is damaged.
    pub fn repair(dir: &Path) -> Result<Vec<LeftOut>, Error> {
        let _mine = lock(dir)?;
        files::repair(dir)
    }

    fn open_whole(dir: &Path, config: &Config) -> Result<Self, Error> {
        let opened = |error| unopened(dir, error);
        let mib = |n: u32| u64::from(n) << 20;
        let db = Database::builder(dir)
            .cache_size(mib(config.cache_mib))
            // What a start after a crash has to read: half a second's worth.
            .max_journaling_size(64 << 20)
            // A full store has more tables than the 1,024 files that a process may usually have open.
            .max_cached_files(Some(256))
            // A second worker would spin while the first one merges.
            .worker_threads(1)
            .open()
            .map_err(opened)?;
        let mut limits = Vec::new();
        // How tables are made: stores keep what they were made with.
        let mut keyspace = |name: &str, limit: u64| {
            let options = KeyspaceCreateOptions::default()
                .max_memtable_size(buffers::NO_LIMIT)
                // Young tables are soon merged into older ones: only those are compressed.
                .data_block_compression_policy(CompressionPolicy::new([
                    CompressionType::None,
                    CompressionType::Lz4,
                ]))
                // The index of a table of 64 MiB takes 1.5 MB: in one piece it would be held, or be read
                // anew for each look into the table.
                .index_block_partitioning_policy(PartitioningPolicy::new([false, true]));
            let options = match name {
                // Every flush touches every sensor, so merging early writes everything again and
                // again; and so does a large first level, which has as many tables of this size as
                // are waited for: whatever comes is merged with all of it, which takes as much room
                // once more. From 20 waiting tables on fjall slows commits, from 30 on it stops them.
                // Readings are read by range; a filter would help only the rare look-up of a late one.
                "readings" => options
                    .filter_policy(FilterPolicy::disabled())
                    .compaction_strategy(Arc::new(
                        Leveled::default()
                            .with_l0_threshold(16)
                            .with_table_target_size(8 << 20),
                    )),
                _ => options,
            };
            let keyspace = db.keyspace(name, || options).map_err(opened)?;
            limits.push((keyspace.clone(), limit));
            Ok::<_, Error>(keyspace)
        };
        let small = 1 << 20;
        let store = Self {
            readings: keyspace("readings", mib(config.write_buffer_mib))?,
            identities: keyspace("identities", small)?,
            anomalies: keyspace("anomalies", small)?,
            states: keyspace("states", mib(config.write_buffer_mib))?,
            incidents: keyspace("incidents", small)?,
            current: keyspace("current", small)?,
            orders: keyspace("orders", small)?,
            raised: keyspace("raised", small)?,
            outbox: keyspace("outbox", small)?,
            sent: keyspace("sent", small)?,
            quarantine: keyspace("quarantine", small)?,
            models: keyspace("models", small)?,
            outgoing: keyspace("outgoing", small)?,
            rejected: keyspace("rejected", small)?,
            hours: keyspace("hours", small)?,
            due: keyspace("due", small)?,
            ledgers: keyspace("ledgers", small)?,
            meta: keyspace("meta", small)?,
            buffers: Buffers::new(db.clone(), limits),
            line_end: Arc::default(),
            order_end: Arc::default(),
            marked: Arc::default(),
            inventory: Arc::default(),
            dir: dir.into(),
            db,
        };
        if let Some(last) = store.outgoing.last_key_value() {
            *store.line() = number(last)? + 1;
        }
        if let Some(last) = store.orders.last_key_value() {
            let mut next = store
                .order_end
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *next = number(last)? + 1;
        }
        match store.meta_value::<u32>("format")? {
            None => store.put_meta("format", &FORMAT)?,
            Some(found) if found != FORMAT => {
                return Err(Error::OtherFormat {
                    found,
                    known: FORMAT,
                });
            }
            Some(_) => {}
        }
        failpoint::pass("store.opened");
        Ok(store)
    }

    fn known(&self) -> MutexGuard<'_, Option<Inventory>> {
        self.inventory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> MutexGuard<'_, u64> {
        self.line_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta_value<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.meta
            .get(key)
            .map_err(failed)?
            .map(|bytes| decode(&bytes, "meta"))
            .transpose()
    }

    fn put_meta<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let mut batch = self.write();
        batch.batch.insert(&self.meta, key, encode(value, "meta")?);
        batch.commit()
    }

    /// Names that have ids, in order of id.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn quantities(&self) -> Result<Vec<String>, Error> {
        Ok(self.meta_value("quantities")?.unwrap_or_default())
    }

    /// Gives ids to names, for ever: `names` must begin with what [`Embedded::quantities`] gives.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_quantities(&self, names: &[&str]) -> Result<(), Error> {
        if self.quantities()? == names {
            return Ok(());
        }
        self.put_meta("quantities", &names)
    }

    /// Eight hexadecimal digits that this store got when it was made, and no other has.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read or written.
    pub fn id(&self) -> Result<String, Error> {
        if let Some(id) = self.meta_value("id")? {
            return Ok(id);
        }
        let id = format!("{:08x}", rand::random::<u32>());
        self.put_meta("id", &id)?;
        Ok(id)
    }

    /// Topic filters that an external broker has granted.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn subscriptions(&self) -> Result<Vec<String>, Error> {
        Ok(self.meta_value("subscriptions")?.unwrap_or_default())
    }

    /// Keeps the topic filters that an external broker has granted.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_subscriptions(&self, filters: &[String]) -> Result<(), Error> {
        if self.subscriptions()? == filters {
            return Ok(());
        }
        self.put_meta("subscriptions", &filters)
    }

    /// How far a foreign collection is imported, in its own terms; empty: not at all.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn import_position(&self, source: &str) -> Result<Vec<u8>, Error> {
        let known = self.meta_value(&format!("import {source}"))?;
        Ok(known.unwrap_or_default())
    }

    /// Keeps how far a foreign collection is imported.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_import_position(&self, source: &str, position: &[u8]) -> Result<(), Error> {
        self.put_meta(&format!("import {source}"), &position)
    }

    /// The ledger as of the last commit.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn ledger(&self) -> Result<Ledger, Error> {
        let bytes = self.meta.get("ledger").map_err(failed)?;
        let ledger = bytes.map(|bytes| decode(&bytes, "ledger")).transpose()?;
        Ok(ledger.unwrap_or_default())
    }

    /// What happened to a sensor's messages beside being stored in order.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn exceptions(&self, sensor: &SensorId) -> Result<Exceptions, Error> {
        let bytes = self.ledgers.get(sensor.as_str()).map_err(failed)?;
        let row = bytes.map(|bytes| decode(&bytes, "ledger")).transpose()?;
        Ok(row.unwrap_or_default())
    }

    /// Has this sensor ever sent a reading?
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn has_sensor(&self, sensor: &SensorId) -> Result<bool, Error> {
        self.states.contains_key(sensor.as_str()).map_err(failed)
    }

    /// Begins an atomic write.
    pub fn write(&self) -> Write<'_> {
        Write {
            store: self,
            batch: self.db.batch().durability(Some(PersistMode::SyncData)),
            resting: Vec::new(),
            outgoing: None,
        }
    }

    /// Begins an atomic write that a crash may undo.
    fn write_unsynced(&self) -> Write<'_> {
        Write {
            store: self,
            batch: self.db.batch(),
            resting: Vec::new(),
            outgoing: None,
        }
    }

    /// Is this reading stored, by its identity?
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn contains(&self, reading: &Reading) -> Result<bool, Error> {
        if let Identity::Unique(_) = reading.identity {
            return Ok(false);
        }
        if let Some(device_ms) = reading.device_ms {
            let key = row::reading_key(&reading.sensor, device_ms, reading.identity);
            if self.readings.contains_key(key).map_err(failed)? {
                return Ok(true);
            }
        }
        let key = row::identity_key(&reading.sensor, reading.identity);
        self.identities.contains_key(key).map_err(failed)
    }

    /// Reads everything, and gives what cannot be read. For checks: it takes as long as the store is
    /// large.
    ///
    /// # Errors
    /// [`Error::Failed`] if it is the machine that does not let it be read.
    pub fn read_through(&self) -> Result<Vec<Unreadable>, Error> {
        let keyspaces = [
            ("readings", &self.readings),
            ("identities", &self.identities),
            ("anomalies", &self.anomalies),
            ("states", &self.states),
            ("incidents", &self.incidents),
            ("current", &self.current),
            ("orders", &self.orders),
            ("raised", &self.raised),
            ("outbox", &self.outbox),
            ("sent", &self.sent),
            ("quarantine", &self.quarantine),
            ("models", &self.models),
            ("outgoing", &self.outgoing),
            ("rejected", &self.rejected),
            ("hours", &self.hours),
            ("due", &self.due),
            ("ledgers", &self.ledgers),
            ("meta", &self.meta),
        ];
        let mut unreadable = Vec::new();
        for (name, keyspace) in keyspaces {
            let mut rows = 0;
            let read = catch_unwind(AssertUnwindSafe(|| {
                for guard in keyspace.iter() {
                    let value = match guard.into_inner() {
                        Ok((_, value)) => value,
                        Err(error) if is_of_machine(&error) => return Err(failed(error)),
                        Err(error) => return Ok(Some(error.to_string())),
                    };
                    if name == "readings"
                        && let Err(error) = Row::decode(&value)
                    {
                        return Ok(Some(error.to_string()));
                    }
                    rows += 1;
                }
                Ok(None)
            }));
            let why = match read {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(why))) => why,
                Ok(Err(error)) => return Err(error),
                Err(_panic) => "the database gave up reading it".to_owned(),
            };
            unreadable.push(Unreadable {
                keyspace: name,
                rows,
                why,
            });
        }
        Ok(unreadable)
    }

    /// Number of stored readings, counted one by one: for checks, not for dashboards.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn count_readings(&self) -> Result<u64, Error> {
        self.readings
            .len()
            .map(|count| count as u64)
            .map_err(failed)
    }

    /// Number of stored forests: of each group the newest, and the one before.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn count_models(&self) -> Result<usize, Error> {
        self.models.len().map_err(failed)
    }

    /// Readings of one sensor with `from_ms` ≤ order time < `to_ms`, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn readings(
        &self,
        sensor: &SensorId,
        (from_ms, to_ms): (i64, i64),
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<StoredReading>, Error> {
        let prefix = row::sensor_prefix(sensor);
        let floor = row::reading_floor(sensor, from_ms);
        let ceiling = row::reading_floor(sensor, to_ms);
        let start = after
            .map(|tail| [prefix.as_slice(), tail, &[0]].concat())
            .map_or_else(|| floor.clone(), |after| after.max(floor.clone()));
        if start >= ceiling {
            return Ok(Page {
                items: Vec::new(),
                next: None,
            });
        }
        page(
            self.readings.range(start..ceiling),
            limit,
            prefix.len(),
            |key, value| {
                let (order_ms, identity) = row::split_reading_key(sensor, key)?;
                Ok(StoredReading {
                    order_ms,
                    identity,
                    row: Row::decode(value)?,
                })
            },
        )
    }

    /// The first reading of each of `slots` equal parts of a span of time: what a small picture
    /// needs, at the same cost however many readings there are. Nothing for parts without any.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn sampled(
        &self,
        sensor: &SensorId,
        (from_ms, to_ms): (i64, i64),
        slots: u32,
    ) -> Result<Vec<StoredReading>, Error> {
        let step = ((to_ms - from_ms) / i64::from(slots.max(1))).max(1);
        let mut sampled = Vec::new();
        let mut at_ms = from_ms;
        while at_ms < to_ms {
            let page = self.readings(sensor, (at_ms, to_ms), None, 1)?;
            let Some(first) = page.items.into_iter().next() else {
                break;
            };
            // The beginning of the next part, also if parts were empty.
            at_ms += step * ((first.order_ms - at_ms) / step + 1);
            sampled.push(first);
        }
        Ok(sampled)
    }

    /// The newest stored reading of a sensor.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn newest(&self, sensor: &SensorId) -> Result<Option<StoredReading>, Error> {
        let Some(guard) = self.readings.prefix(row::sensor_prefix(sensor)).next_back() else {
            return Ok(None);
        };
        let (key, value) = guard.into_inner().map_err(failed)?;
        let (order_ms, identity) = row::split_reading_key(sensor, &key)?;
        Ok(Some(StoredReading {
            order_ms,
            identity,
            row: Row::decode(&value)?,
        }))
    }

    /// Sensors in the order of their ids, from behind `after` on.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn sensors(&self, after: Option<&[u8]>, limit: usize) -> Result<Page<SensorId>, Error> {
        let start = after.map(|key| [key, &[0]].concat()).unwrap_or_default();
        page(self.states.range(start..), limit, 0, |key, _| {
            row::sensor_before_nul(key)
        })
    }

    /// Anomalies with `from_ms` ≤ time < `to_ms`, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn anomalies(
        &self,
        span: (i64, i64),
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<StoredAnomaly>, Error> {
        by_time(&self.anomalies, span, after, limit, |key, value| {
            let (time_ms, sensor) = row::split_by_time_key(key)?;
            Ok(StoredAnomaly {
                time_ms,
                sensor,
                verdict: decode(value, "anomaly")?,
            })
        })
    }

    /// Keeps what a person wants done; gives its number.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_order(&self, order: &Order) -> Result<u64, Error> {
        // Numbers only have to rise while orders wait.
        let mut next = self
            .order_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        let mut batch = self.write();
        let bytes = encode(order, "order")?;
        batch
            .batch
            .insert(&self.orders, number.to_be_bytes(), bytes);
        batch.commit()?;
        *next += 1;
        Ok(number)
    }

    /// Is the order of that number still to be done?
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn is_ordered(&self, number: u64) -> Result<bool, Error> {
        self.orders
            .contains_key(number.to_be_bytes())
            .map_err(failed)
    }

    /// The incidents that are open, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn open_incidents(&self) -> Result<Vec<Incident>, Error> {
        let mut open = self.current_incidents()?;
        open.retain(Incident::is_open);
        open.sort_by_cached_key(|incident| (incident.opened_ms, incident.id()));
        Ok(open)
    }

    /// Notices that a channel has not delivered yet, oldest first, with the key to
    /// [`Embedded::delivered`].
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn outbox(&self, channel: &str, limit: usize) -> Result<Vec<OutboxRow>, Error> {
        self.outbox
            .prefix(outbox_prefix(channel))
            .take(limit)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(failed)?;
                Ok((key.to_vec(), decode(&value, "notice")))
            })
            .collect()
    }

    /// How many notices wait for a channel.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn waiting(&self, channel: &str) -> Result<u64, Error> {
        let mut waiting = 0;
        for guard in self.outbox.prefix(outbox_prefix(channel)) {
            guard.key().map_err(failed)?;
            waiting += 1;
        }
        Ok(waiting)
    }

    /// Notices are delivered: they leave the outbox, and what that took of the channel's budget is
    /// written down. Not synced: after a crash they may be delivered once more, under the same id.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn delivered<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        spent: Option<(&str, Sent)>,
    ) -> Result<(), Error> {
        let mut write = self.write_unsynced();
        let batch = &mut write.batch;
        for key in keys {
            batch.remove(&self.outbox, key);
        }
        if let Some((channel, sent)) = spent {
            let prefix = outbox_prefix(channel);
            let key = [prefix.as_slice(), &row::time_floor(sent.at_ms)].concat();
            batch.insert(&self.sent, key, sent.recipients.to_be_bytes());
            let old = row::time_floor(sent.at_ms - BUDGET_MS);
            let old = [prefix.as_slice(), &old].concat();
            for guard in self.sent.range(prefix..old) {
                batch.remove(&self.sent, guard.key().map_err(failed)?);
            }
        }
        write.commit()
    }

    /// What a channel with a budget sent in the last 24 hours at least, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn sent(&self, channel: &str) -> Result<Vec<Sent>, Error> {
        let prefix = outbox_prefix(channel);
        let skip = prefix.len();
        let damaged = || Error::Damaged { what: "budget" };
        self.sent
            .prefix(prefix)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(failed)?;
                let at_ms = key.get(skip..).and_then(row::time_of).ok_or_else(damaged)?;
                let recipients = <[u8; 4]>::try_from(&*value).map_err(|_| damaged())?;
                Ok(Sent {
                    at_ms,
                    recipients: u32::from_be_bytes(recipients),
                })
            })
            .collect()
    }

    /// 32 secret bytes of this store, made with it: what it signs links with.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read or written.
    pub fn link_key(&self) -> Result<[u8; 32], Error> {
        if let Some(key) = self.meta_value("link key")? {
            return Ok(key);
        }
        let key: [u8; 32] = rand::random();
        self.put_meta("link key", &key)?;
        Ok(key)
    }

    /// The last snapshot of a sensor's state; `None` if the sensor was never seen.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn snapshot(&self, sensor: &SensorId) -> Result<Option<SensorState>, Error> {
        let bytes = self.states.get(sensor.as_str()).map_err(failed)?;
        // A state of another version is learned anew from all readings.
        Ok(bytes.map(|bytes| super::decode_state(&bytes).unwrap_or_default()))
    }

    /// The state of a sensor as a restart would rebuild it from the last snapshot.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn recalled(&self, sensor: &SensorId) -> Result<Option<Recalled>, Error> {
        let Some(state) = self.snapshot(sensor)? else {
            return Ok(None);
        };
        let from = if state.entered == 0 {
            i64::MIN
        } else {
            state.newest_ms
        };
        let mut since = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.readings(sensor, (from, i64::MAX), after.as_deref(), 4096)?;
            for stored in page.items {
                if !stored.row.late && stored.row.entered > state.entered {
                    since.push((
                        stored.row.entered,
                        stored
                            .row
                            .reading(*sensor, stored.order_ms, stored.identity),
                    ));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // Order times of what entered never fall. Numbers alone do not tell: after a repair that
        // left out states they may be given a second time.
        since.sort_by_key(|(entered, reading)| (reading.order_ms, *entered));
        failpoint::pass("stats.recalled");
        Ok(Some(Recalled {
            state,
            since: since.into_iter().map(|(_, reading)| reading).collect(),
        }))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }

    /// Writes everything to disk, at a shutdown.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn persist(&self) -> Result<(), Error> {
        self.db.persist(PersistMode::SyncAll).map_err(failed)
    }
}

/// Where the copy in MongoDB stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Mirror {
    /// Which database; another one gets everything anew.
    pub target: String,
    /// What was stored before the copying began, as far as it is not copied yet.
    pub backlog: Option<Backlog>,
}

/// What is stored but was never put in line: everything of a part behind a key, and the parts after
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Backlog {
    /// What is under way.
    part: Part,
    /// The last key that is copied; empty at the beginning.
    behind: Vec<u8>,
}

/// The parts of a backlog, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
enum Part {
    #[default]
    Readings,
    Anomalies,
    Hours,
}

impl Part {
    fn next(self) -> Option<Self> {
        match self {
            Self::Readings => Some(Self::Anomalies),
            Self::Anomalies => Some(Self::Hours),
            Self::Hours => None,
        }
    }
}

/// Rows that wait for MongoDB, with their numbers.
pub type OutgoingRows = Vec<(u64, Result<Outgoing, Error>)>;

/// The line in front of MongoDB.
impl Embedded {
    /// Where the copy stands; `None`: nothing is copied.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn mirror(&self) -> Result<Option<Mirror>, Error> {
        self.meta_value("mirror")
    }

    /// Readings are to be copied to `target` from now on, or to nowhere. Another target gets
    /// everything that is stored; without a target nothing waits any longer. Gives what is waiting.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn mirror_to(&self, target: Option<&str>) -> Result<Option<Mirror>, Error> {
        let known = self.mirror()?;
        match target {
            None => {
                // In this order: after a death in between, a MongoDB that is named again has to get
                // everything anew, for a part of it may be gone.
                if known.is_some() {
                    self.meta.remove("mirror").map_err(failed)?;
                    self.persist()?;
                }
                if known.is_some() || !self.outgoing.is_empty().map_err(failed)? {
                    failpoint::pass("forward.unmirror");
                    self.outgoing.clear().map_err(failed)?;
                    failpoint::pass("forward.unmirrored");
                    self.persist()?;
                }
                Ok(None)
            }
            Some(target) if known.as_ref().is_some_and(|known| known.target == target) => Ok(known),
            Some(target) => {
                let empty = self.readings.is_empty().map_err(failed)?
                    && self.anomalies.is_empty().map_err(failed)?;
                let mirror = Mirror {
                    target: target.to_owned(),
                    backlog: (!empty).then(Backlog::default),
                };
                self.put_meta("mirror", &mirror)?;
                Ok(Some(mirror))
            }
        }
    }

    /// Keeps where the copying of the backlog stands. Not synced: after a crash some of it is
    /// copied again, which changes nothing.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn put_mirror(&self, mirror: &Mirror) -> Result<(), Error> {
        self.meta
            .insert("mirror", encode(mirror, "meta")?)
            .map_err(failed)
    }

    /// Number of the oldest row that waits for MongoDB, or of the next one if none does.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn line_start(&self) -> Result<u64, Error> {
        let first = self.outgoing.first_key_value().map(number).transpose()?;
        Ok(first.unwrap_or_else(|| self.line_end()))
    }

    /// Number of the next row for MongoDB.
    pub fn line_end(&self) -> u64 {
        *self.line()
    }

    /// Rows that wait for MongoDB, from number `from` on.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn outgoing(&self, from: u64, limit: usize) -> Result<OutgoingRows, Error> {
        self.outgoing
            .range(from.to_be_bytes()..)
            .take(limit)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(failed)?;
                Ok((number_of(&key)?, outgoing::decode(&value)))
            })
            .collect()
    }

    /// Rows that MongoDB has: they leave the line. Those that it will never take, with its words,
    /// go aside. Not synced: after a crash they are sent again, which changes nothing.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be written.
    pub fn forwarded(&self, rows: &[u64], rejected: &[(u64, String)]) -> Result<(), Error> {
        let mut write = self.write_unsynced();
        for number in rows {
            write.batch.remove(&self.outgoing, number.to_be_bytes());
        }
        for (number, words) in rejected {
            let number = number.to_be_bytes();
            write.batch.insert(&self.rejected, number, words.as_bytes());
        }
        write.commit()
    }

    /// The next part of the backlog, and where to go on; `None`: there is none left.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn backlog(
        &self,
        backlog: &Backlog,
        limit: usize,
    ) -> Result<Option<(Vec<Outgoing>, Backlog)>, Error> {
        type Decode = fn(&[u8], &[u8]) -> Result<Outgoing, Error>;
        let (keyspace, decode): (_, Decode) = match backlog.part {
            Part::Readings => (&self.readings, outgoing::reading),
            Part::Anomalies => (&self.anomalies, outgoing::anomaly),
            Part::Hours => (&self.hours, outgoing::hour),
        };
        let start = match backlog.behind.as_slice() {
            [] => Vec::new(),
            behind => [behind, &[0]].concat(),
        };
        let mut rows = Vec::new();
        let mut behind = Vec::new();
        for guard in keyspace.range(start..).take(limit) {
            let (key, value) = guard.into_inner().map_err(failed)?;
            rows.push(decode(&key, &value)?);
            behind = key.to_vec();
        }
        let part = if rows.is_empty() {
            backlog.part.next()
        } else {
            Some(backlog.part)
        };
        Ok(part.map(|part| (rows, Backlog { part, behind })))
    }
}

fn number_of(key: &[u8]) -> Result<u64, Error> {
    <[u8; 8]>::try_from(key)
        .map(u64::from_be_bytes)
        .map_err(|_| Error::Damaged { what: "key" })
}

fn number(guard: fjall::Guard) -> Result<u64, Error> {
    number_of(&guard.key().map_err(failed)?)
}

/// A row of the outbox: its key, and the notice unless it is damaged.
pub type OutboxRow = (Vec<u8>, Result<Notice, Error>);

/// The rows of one channel: its name, and a byte that no name holds.
fn outbox_prefix(channel: &str) -> Vec<u8> {
    [channel.as_bytes(), &[0]].concat()
}

/// Reads a keyspace whose keys begin with a time.
fn by_time<T>(
    keyspace: &Keyspace,
    (from_ms, to_ms): (i64, i64),
    after: Option<&[u8]>,
    limit: usize,
    item: impl FnMut(&[u8], &[u8]) -> Result<T, Error>,
) -> Result<Page<T>, Error> {
    let floor = row::time_floor(from_ms).to_vec();
    let ceiling = row::time_floor(to_ms).to_vec();
    let start = after.map(|key| [key, &[0]].concat()).unwrap_or_default();
    let start = start.max(floor);
    if start >= ceiling {
        return Ok(Page {
            items: Vec::new(),
            next: None,
        });
    }
    page(keyspace.range(start..ceiling), limit, 0, item)
}

/// Reads up to `limit` entries; the cursor is the last key without its first `skip` bytes.
fn page<T>(
    entries: fjall::Iter,
    limit: usize,
    skip: usize,
    mut item: impl FnMut(&[u8], &[u8]) -> Result<T, Error>,
) -> Result<Page<T>, Error> {
    let mut items = Vec::new();
    let mut last = None;
    for guard in entries {
        if items.len() == limit {
            return Ok(Page { items, next: last });
        }
        let (key, value) = guard.into_inner().map_err(failed)?;
        items.push(item(&key, &value)?);
        if items.len() == limit {
            last = key.get(skip..).map(<[u8]>::to_vec);
        }
    }
    Ok(Page { items, next: None })
}

fn encode<T: Serialize>(value: &T, what: &'static str) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value).map_err(|_| Error::Damaged { what })
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|_| Error::Damaged { what })
}

/// An atomic write under construction: all of it is durable after [`Write::commit`], or none.
pub struct Write<'a> {
    store: &'a Embedded,
    batch: OwnedWriteBatch,
    /// For the inventory.
    resting: Vec<(SensorId, Resting)>,
    /// What is put in line for MongoDB; `None`: nothing is.
    outgoing: Option<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write")
            .field("entries", &self.batch.len())
            .finish_non_exhaustive()
    }
}

impl Write<'_> {
    /// What is stored by this write is put in line for MongoDB as well, if `forward`.
    #[must_use]
    pub fn forwarding(mut self, forward: bool) -> Self {
        self.outgoing = forward.then(Vec::new);
        self
    }

    fn forward(&mut self, kind: outgoing::Kind, key: &[u8], value: &[u8]) {
        if let Some(rows) = &mut self.outgoing {
            rows.push(outgoing::encode(kind, key, value));
        }
    }

    /// A reading, and its index entry if its key cannot be found by its device time.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the row cannot be encoded.
    pub fn reading(&mut self, reading: &Reading, row: &Row) -> Result<(), Error> {
        let key = row::reading_key(&reading.sensor, reading.order_ms, reading.identity);
        self.encoded(reading, (&key, &row.encode()?));
        Ok(())
    }

    /// The same, with key and value as [`row::EncodedRows`] has them.
    pub fn encoded(&mut self, reading: &Reading, (key, value): (&[u8], &[u8])) {
        self.forward(outgoing::Kind::Reading, key, value);
        self.batch.insert(&self.store.readings, key, value);
        if reading.needs_index() {
            let key = row::identity_key(&reading.sensor, reading.identity);
            self.batch
                .insert(&self.store.identities, key, reading.order_ms.to_be_bytes());
        }
    }

    /// An anomaly. `tail` makes the key unique within sensor and time.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn anomaly(
        &mut self,
        time_ms: i64,
        sensor: &SensorId,
        tail: &[u8],
        verdict: &Verdict,
    ) -> Result<(), Error> {
        let mut tail = tail.to_vec();
        tail.push(verdict.rule as u8);
        tail.push(verdict.quantity.map_or(u8::MAX, |quantity| quantity.0));
        let key = row::by_time_key(time_ms, sensor, &tail);
        let value = encode(verdict, "anomaly")?;
        self.forward(outgoing::Kind::Anomaly, &key, &value);
        self.batch.insert(&self.store.anomalies, key, value);
        Ok(())
    }

    /// A sensor's state.
    pub fn state(&mut self, sensor: &SensorId, snapshot: Snapshot) {
        self.resting.push((*sensor, snapshot.resting));
        self.batch
            .insert(&self.store.states, sensor.as_str(), snapshot.bytes);
    }

    /// An incident as it is now, which more can become of.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn incident(&mut self, incident: &Incident) -> Result<(), Error> {
        let bytes = encode(incident, "incident")?;
        let id = incident.id();
        let key = row::incident_key(incident.opened_ms, &id);
        self.batch.insert(&self.store.incidents, key, bytes.clone());
        self.batch.insert(&self.store.current, id, bytes);
        Ok(())
    }

    /// An incident as it stays.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn past(&mut self, incident: &Incident) -> Result<(), Error> {
        let bytes = encode(incident, "incident")?;
        let id = incident.id();
        let key = row::incident_key(incident.opened_ms, &id);
        self.batch.insert(&self.store.incidents, key, bytes);
        self.batch.remove(&self.store.current, id);
        Ok(())
    }

    /// Somebody's order is done.
    pub fn done(&mut self, number: u64) {
        self.batch.remove(&self.store.orders, number.to_be_bytes());
    }

    /// A line is higher than those of other sensors.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn raised(&mut self, raised: &Raised) -> Result<(), Error> {
        let mut key = row::sensor_prefix(&raised.sensor);
        key.push(raised.rule as u8);
        self.batch
            .insert(&self.store.raised, key, encode(raised, "line")?);
        Ok(())
    }

    /// The silences that people asked for, all of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they cannot be encoded.
    pub fn silences(&mut self, silences: &[Silence]) -> Result<(), Error> {
        let bytes = encode(&silences, "meta")?;
        self.batch.insert(&self.store.meta, "silences", bytes);
        Ok(())
    }

    /// A notice to be delivered by each of `channels`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn notice<'c>(
        &mut self,
        notice: &Notice,
        channels: impl Iterator<Item = &'c str>,
    ) -> Result<(), Error> {
        let mut key = row::incident_key(notice.at_ms, &notice.incident.id());
        key.extend_from_slice(&notice.number.to_be_bytes());
        let bytes = encode(notice, "notice")?;
        for channel in channels {
            let key = [outbox_prefix(channel), key.clone()].concat();
            self.batch.insert(&self.store.outbox, key, bytes.clone());
        }
        Ok(())
    }

    /// A forest. Of its group the one before is kept as well, older ones go.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn model(&mut self, model: &Model) -> Result<(), Error> {
        let group = row::group_prefix(&model.group);
        let mut before = Vec::new();
        for guard in self.store.models.prefix(&group) {
            let key = guard.key().map_err(failed)?;
            if key.len() == group.len() + size_of::<u32>() {
                before.push(key);
            }
        }
        let key = [group.as_slice(), &model.generation.to_be_bytes()].concat();
        before.retain(|other| **other != *key);
        before.pop();
        for old in before {
            self.batch.remove(&self.store.models, old);
        }
        self.batch.insert(&self.store.models, key, model.to_bytes());
        Ok(())
    }

    /// A quarantined message under its number.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn quarantine(
        &mut self,
        number: u64,
        message: &super::committer::KeptMessage,
    ) -> Result<(), Error> {
        let bytes = encode(message, "quarantined message")?;
        self.batch
            .insert(&self.store.quarantine, number.to_be_bytes(), bytes);
        Ok(())
    }

    /// Lets go of a quarantined message.
    pub fn drop_quarantined(&mut self, number: u64) {
        self.batch
            .remove(&self.store.quarantine, number.to_be_bytes());
    }

    /// What happened to a sensor's messages beside being stored in order, as of this write.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn exceptions(&mut self, sensor: &SensorId, row: &Exceptions) -> Result<(), Error> {
        let bytes = encode(row, "ledger")?;
        self.batch
            .insert(&self.store.ledgers, sensor.as_str(), bytes);
        Ok(())
    }

    /// The ledger as of this write.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be encoded.
    pub fn ledger(&mut self, ledger: &Ledger) -> Result<(), Error> {
        self.batch
            .insert(&self.store.meta, "ledger", encode(ledger, "ledger")?);
        Ok(())
    }

    /// Is there anything to write?
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Writes and syncs.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::Stopped`], [`Error::Failed`]: nothing more can be written until the
    /// store is opened again.
    pub fn commit(mut self) -> Result<(), Error> {
        if self.resting.is_empty() {
            return self.commit_rows();
        }
        // Held meanwhile: whoever reads the states for the inventory has them all or none.
        let store = self.store;
        let mut inventory = store.known();
        let resting = std::mem::take(&mut self.resting);
        self.commit_rows()?;
        if let Some(inventory) = &mut *inventory {
            inventory.extend(resting);
        }
        Ok(())
    }

    fn commit_rows(mut self) -> Result<(), Error> {
        let buffers = &self.store.buffers;
        let rows = self.outgoing.take().unwrap_or_default();
        if rows.is_empty() {
            self.batch.commit().map_err(failed)?;
            return buffers.close_full();
        }
        // Held until the rows can be seen: who reads the line by number must not meet a gap that is
        // filled later.
        let mut next = self.store.line();
        let end = *next + rows.len() as u64;
        for (number, row) in (*next..end).zip(rows) {
            self.batch
                .insert(&self.store.outgoing, number.to_be_bytes(), row);
        }
        self.batch.commit().map_err(failed)?;
        *next = end;
        drop(next);
        buffers.close_full()
    }
}

/// The numbers of the oldest and newest quarantined message, and all of them for inspection.
impl Embedded {
    /// Numbers of the oldest and the newest quarantined message.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn quarantine_span(&self) -> Result<Option<(u64, u64)>, Error> {
        match (
            self.quarantine.first_key_value(),
            self.quarantine.last_key_value(),
        ) {
            (Some(first), Some(last)) => Ok(Some((number(first)?, number(last)?))),
            _ => Ok(None),
        }
    }

    /// The newest quarantined messages, newest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn quarantined(&self, limit: usize) -> Result<Vec<super::committer::KeptMessage>, Error> {
        self.quarantine
            .iter()
            .rev()
            .take(limit)
            .map(|guard| {
                let (_, value) = guard.into_inner().map_err(failed)?;
                decode(&value, "quarantined message")
            })
            .collect()
    }

    /// Incidents with `from_ms` ≤ opening < `to_ms`, oldest first.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be read.
    pub fn incidents(
        &self,
        span: (i64, i64),
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<Incident>, Error> {
        by_time(&self.incidents, span, after, limit, |_, value| {
            decode(value, "incident")
        })
    }
}

/// Readings that a picture is made of at most.
const PICTURED: usize = 50_000;

impl History for Embedded {
    fn past(&self, sensor: &SensorId, quantity: QuantityId, span: (i64, i64)) -> Vec<Point> {
        let mut points = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        let span = (span.0, span.1.saturating_add(1));
        while let Ok(page) = self.readings(sensor, span, after.as_deref(), 4096) {
            for StoredReading { order_ms, row, .. } in page.items {
                let value = row.values.iter().find(|value| value.quantity == quantity);
                points.extend(value.map(|value| Point {
                    at_ms: order_ms,
                    value: value.value,
                    anomaly: row.anomaly,
                }));
            }
            after = page.next;
            if after.is_none() || points.len() >= PICTURED {
                break;
            }
        }
        points
    }

    fn device(&self, sensor: &SensorId) -> Option<Box<Device>> {
        self.snapshot(sensor).ok()??.device
    }
}

impl Memory for Embedded {
    fn recall(&self, sensor: &SensorId) -> Result<Option<Recalled>, Error> {
        self.recalled(sensor)
    }

    fn knows(&self, reading: &Reading) -> Result<bool, Error> {
        self.contains(reading)
    }

    fn inventory(&self) -> Result<Vec<(SensorId, Resting)>, Error> {
        let mut inventory = self.known();
        if inventory.is_none() {
            let read = self.states.iter().map(|guard| {
                let (key, value) = guard.into_inner().map_err(failed)?;
                Ok((row::sensor_before_nul(&key)?, super::decode_resting(&value)))
            });
            *inventory = Some(read.collect::<Result<_, Error>>()?);
        }
        let sensors = inventory.iter().flatten();
        Ok(sensors
            .map(|(sensor, resting)| (*sensor, *resting))
            .collect())
    }
}

impl IncidentMemory for Embedded {
    fn current_incidents(&self) -> Result<Vec<Incident>, Error> {
        self.current
            .iter()
            .map(|guard| decode(&guard.into_inner().map_err(failed)?.1, "incident"))
            .collect()
    }

    fn silences(&self) -> Result<Vec<Silence>, Error> {
        Ok(self.meta_value("silences")?.unwrap_or_default())
    }

    fn raised(&self) -> Result<Vec<Raised>, Error> {
        self.raised
            .iter()
            .map(|guard| decode(&guard.into_inner().map_err(failed)?.1, "line"))
            .collect()
    }

    fn orders(&self, from: u64) -> Result<Vec<(u64, Order)>, Error> {
        self.orders
            .range(from.to_be_bytes()..)
            .map(|guard| {
                let (key, value) = guard.into_inner().map_err(failed)?;
                Ok((number_of(&key)?, decode(&value, "order")?))
            })
            .collect()
    }

    fn incident(&self, id: &str) -> Result<Option<Incident>, Error> {
        let Some(opened_ms) = Incident::opened_in(id) else {
            return Ok(None);
        };
        let key = row::incident_key(opened_ms, id);
        let bytes = self.incidents.get(key).map_err(failed)?;
        bytes.map(|bytes| decode(&bytes, "incident")).transpose()
    }

    fn state(&self, sensor: &SensorId) -> Result<Option<Recalled>, Error> {
        self.recalled(sensor)
    }

    fn sensor_ids(&self) -> Result<Vec<SensorId>, Error> {
        let inventory = self.inventory()?;
        Ok(inventory.into_iter().map(|(sensor, _)| sensor).collect())
    }

    fn newest_models(&self) -> Result<Vec<Model>, Error> {
        // Keys sort by group, then generation: from the end, the last of each group. A damaged
        // model is skipped; its group learns a new one.
        let mut newest = Vec::new();
        let mut below: Option<Vec<u8>> = None;
        loop {
            let last = match &below {
                None => self.models.last_key_value(),
                Some(key) => self.models.range(..key.as_slice()).next_back(),
            };
            let Some(last) = last else {
                return Ok(newest);
            };
            let (key, value) = last.into_inner().map_err(failed)?;
            newest.extend(Model::from_bytes(&value));
            let group = key.len().saturating_sub(size_of::<u32>());
            below = Some(key[..group].to_vec());
        }
    }
}
