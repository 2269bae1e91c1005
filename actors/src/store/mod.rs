//! Store: what is durable. `row` is the bytes of one reading, `embedded` the database that is
//! always there, `committer` turns a scored batch into one atomic write; `hourly` is what stays of
//! readings for ever, `keeper` makes that and removes old readings, `outgoing` what waits for MongoDB, `mongo` the MongoDB;
//! `room` looks after the disk.

pub mod actor;
pub mod committer;
pub mod embedded;
pub mod hourly;
pub mod keeper;
pub mod mongo;
pub mod outgoing;
pub mod outlook;
pub mod room;
pub mod row;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Invalid, Span, in_range};
use crate::stats::hearing::Meanwhile;
use crate::stats::share::Resting;
use crate::stats::state::SensorState;

/// Section `[store]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Memory for blocks read from disk, in MiB.
    pub cache_mib: u32,
    /// Memory for readings that are durable in the journal but not sorted into tables yet, in MiB; and
    /// as much for states.
    pub write_buffer_mib: u32,
    /// Quarantined messages that are kept; beyond it the oldest go first (they stay counted).
    pub quarantine_rows: u32,
    /// Readings older than the newest of their sensor by this are removed; their hours stay.
    pub keep: Span,
    /// Size on disk; beyond it the oldest readings are removed, in MiB.
    pub max_mib: u32,
    /// With less room on the disk nothing is written and nothing acknowledged, in MiB.
    pub min_free_mib: u32,
}

/// Readings are kept for at least this long: late ones may be a week old.
const SHORTEST: Span = Span::secs(8 * 86_400);

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_mib: 16,
            write_buffer_mib: 4,
            quarantine_rows: 100_000,
            keep: Span::secs(365 * 86_400),
            max_mib: 10_240,
            min_free_mib: 64,
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        in_range("cache_mib", self.cache_mib, 1, 1 << 20)?;
        in_range("write_buffer_mib", self.write_buffer_mib, 1, 4096)?;
        in_range("quarantine_rows", self.quarantine_rows, 1, 100_000_000)?;
        if self.keep < SHORTEST {
            return Err(Invalid::new(
                "keep",
                self.keep,
                "too short: readings that come late would be removed at once, and taken for new \
                 ones when they come again",
                format!("use {SHORTEST} or more"),
            ));
        }
        // The journal alone takes 64 MiB from the first reading on, and over twice that in a flood.
        in_range("max_mib", self.max_mib, 256, 1 << 30)?;
        in_range("min_free_mib", self.min_free_mib, 16, 1 << 20)
    }
}

/// What can go wrong with the store, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another engine has it open.
    #[error("{} is in use by another engine; stop that one, or give another --data-dir", .0.display())]
    Locked(PathBuf),
    /// It cannot be opened or created.
    #[error("cannot open the store in {}", .path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// What the database said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of it is damaged. Nothing was changed.
    #[error("{} is damaged ({what}); nothing was changed: {fix}", .path.display())]
    DamagedFile {
        /// The file, or the store.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        fix: &'static str,
    },
    /// It was written by another version of the engine.
    #[error(
        "the store has format {found}, this engine knows {known}; use the engine that wrote it, or another data directory"
    )]
    OtherFormat {
        /// The store's.
        found: u32,
        /// This engine's.
        known: u32,
    },
    /// Reading or writing failed. After a failed write nothing more is written by this process:
    /// what the disk has is not known until the store is opened again.
    #[error("the store failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The same, because there was no room on the disk.
    #[error(
        "the disk was full before the engine saw it come; make room: nothing that was acknowledged \
         is lost"
    )]
    NoRoom(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing more is written by this process, because a table could not be written in the
    /// background; its rows are in the journal.
    #[error(
        "the store could not write or merge a table; if the disk is nearly full, make room: nothing \
         that was acknowledged is lost"
    )]
    Stopped(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A value cannot be what was written.
    #[error("damaged {what} in the store")]
    Damaged {
        /// Which kind of value.
        what: &'static str,
    },
}

/// First byte of each stored state: another version is not read, but learned anew from the
/// readings.
const STATE_VERSION: u8 = 9;

/// A sensor's state as it is stored.
///
/// # Errors
/// [`Error::Damaged`] cannot happen with a state made by this program; it keeps the caller from
/// having to trust that.
pub fn encode_state(state: &SensorState) -> Result<Vec<u8>, Error> {
    postcard::to_extend(state, vec![STATE_VERSION]).map_err(|_| Error::Damaged { what: "state" })
}

/// Inverse of [`encode_state`].
///
/// # Errors
/// [`Error::Damaged`].
pub fn decode_state(bytes: &[u8]) -> Result<SensorState, Error> {
    match bytes.split_first() {
        Some((&STATE_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|_| Error::Damaged { what: "state" })
        }
        _ => Err(Error::Damaged { what: "state" }),
    }
}

/// What is known of a sensor without its whole state; nothing, if it is one of another version.
pub fn decode_resting(bytes: &[u8]) -> Resting {
    let head = match bytes.split_first() {
        Some((&STATE_VERSION, rest)) => SensorState::decode_head(rest).unwrap_or_default(),
        _ => SensorState::default(),
    };
    Resting::of(&head)
}

/// How many readings became what, since the store was made. Written in the same batch as the
/// readings, so it can never disagree with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// In the store.
    pub stored: u64,
    /// Of these: older than the newest of their sensor when they came.
    pub late: u64,
    /// Came again; nothing changed.
    pub duplicate: u64,
    /// Kept aside, by reason.
    pub quarantined: std::collections::BTreeMap<String, u64>,
    /// Sequence numbers that never came (late arrivals do not take them back).
    pub missing: u64,
    /// Anomalies found.
    pub anomalies: u64,
    /// What was going on while they went missing.
    pub missing_while: Missing,
    /// Restarts of nodes, told by a new boot id.
    pub restarts: u64,
}

impl Ledger {
    /// Everything that was taken in.
    pub fn received(&self) -> u64 {
        self.stored + self.duplicate + self.quarantined.values().sum::<u64>()
    }
}

/// What happened to the messages of one sensor beside being stored in order. What was stored in
/// order is the number of its newest reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions {
    /// Stored, but older than the newest when they came.
    pub late: u64,
    /// Came again.
    pub duplicate: u64,
    /// Sequence numbers that never came (late arrivals do not take them back).
    pub missing: u64,
    /// Kept aside, by reason.
    pub quarantined: std::collections::BTreeMap<String, u64>,
    /// What was going on while they went missing.
    pub missing_while: Missing,
    /// How often it restarted, told by a new boot id. Numbers do not go on over a restart: what was
    /// lost there is not counted.
    pub restarts: u64,
}

/// Missing readings, by what was going on between the reading before and the next one of the
/// sensor. It need not be the cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The engine was not there for some of the time.
    pub engine_down: u64,
    /// The engine was there, its link to the broker was not for some of the time.
    pub broker_away: u64,
    /// Both were there all the time: lost by the node, on its way, or by the broker.
    pub unknown: u64,
}

impl Missing {
    /// So many more.
    pub fn add(&mut self, meanwhile: Meanwhile, numbers: u64) {
        let sum = match meanwhile {
            Meanwhile::EngineDown => &mut self.engine_down,
            Meanwhile::BrokerAway => &mut self.broker_away,
            Meanwhile::Unknown => &mut self.unknown,
        };
        *sum = sum.saturating_add(numbers);
    }

    /// With the names of what was going on.
    pub fn by_name(&self) -> [(&'static str, u64); 3] {
        [
            ("engine_down", self.engine_down),
            ("broker_away", self.broker_away),
            ("unknown", self.unknown),
        ]
    }
}
