//! MongoDB: connects, makes collections and indexes, copies rows, removes old ones. The only place
//! that knows the driver (`document` makes the documents, `copied` reads them back, `trouble` reads its errors, `old` reads what other
//! programs wrote).
//!
//! Every document has an `_id` that follows from what it says, so sending one twice changes
//! nothing: whatever may or may not have arrived is sent again. All commands go through one gate
//! that keeps to a number per second, for small clusters refuse more.

mod copied;
mod document;
mod old;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{ClientOptions, ConnectionString, HostInfo, Tls};
use mongodb::{Client, Database};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use self::copied::{Copied, Copy};
pub use self::old::{Fields, Old, Place, Reader};
pub use self::trouble::{Trouble, Why};
use self::trouble::{Written, written};
use super::outgoing::Outgoing;
use crate::config::{Invalid, Span, in_range};
use crate::quantity::Catalogue;
use crate::secret::{REDACTED, redacted};

/// Readings, one document each.
pub const MEASUREMENTS: &str = "measurements";
/// What rules and forest found, one document each.
pub const ANOMALIES: &str = "anomalies";
/// Roll-ups, one document per sensor and hour.
pub const HOURLY: &str = "measurements_hourly";

/// Documents in one command at most.
pub const BATCH: usize = 1000;

/// How soon a server that does not answer is noticed: its monitor asks this often, and waits this
/// long. The driver's defaults (10 s and 30 s) took 20 s to 30 s.
const NOTICE: Duration = Duration::from_secs(2);
/// A command that takes longer is given up, though its server lives.
const PATIENCE: Duration = Duration::from_mins(1);
/// Commands in one second at most, whatever the configuration says.
const MOST_OPERATIONS: u32 = 10_000;

/// Section `[mongodb]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connection string. It holds a password, so all of it is secret.
    #[serde(serialize_with = "redacted")]
    pub uri: Option<SecretString>,
    /// File that holds the connection string.
    pub uri_file: Option<PathBuf>,
    /// Database; `None`: the one that the connection string names, or `vigie`.
    pub database: Option<String>,
    /// Readings older than this are removed; their hours stay.
    pub keep: Span,
    /// Data and indexes together may have this size; beyond it the oldest readings go. MiB.
    pub max_mib: u32,
    /// Commands sent in a second at most.
    pub operations_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            uri: None,
            uri_file: None,
            database: None,
            keep: Span::secs(90 * 86_400),
            // Of the 512 MB that Atlas gives away.
            max_mib: 450,
            // Of the 100 that Atlas gives away: others want to read.
            operations_per_second: 80,
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(uri) = &self.uri {
            check_uri(uri)?;
        }
        if let Some(name) = &self.database {
            check_database(name)?;
        }
        if self.keep.as_ms() < 3_600_000 * 24 {
            return Err(Invalid::new(
                "keep",
                self.keep,
                "too short: late readings would be removed as they come",
                "use 1d or more",
            ));
        }
        in_range("max_mib", self.max_mib, 1, 1 << 30)?;
        in_range(
            "operations_per_second",
            self.operations_per_second,
            1,
            MOST_OPERATIONS,
        )
    }

    /// Where it goes, without secrets; `None`: nowhere.
    pub fn target(&self) -> Option<Target> {
        let parsed = ConnectionString::parse(self.uri.as_ref()?.expose_secret()).ok()?;
        let named = parsed.default_database.clone();
        let database = self.database.clone().or(named);
        Some(Target {
            hosts: hosts(&parsed.host_info),
            database: database.unwrap_or_else(|| "vigie".to_owned()),
        })
    }
}

/// Where the copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Servers, without user and password.
    pub hosts: String,
    /// Database.
    pub database: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.hosts, self.database)
    }
}

fn hosts(info: &HostInfo) -> String {
    match info {
        HostInfo::HostIdentifiers(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            hosts.join(",")
        }
        HostInfo::DnsRecord(name) => name.clone(),
        _ => "unknown".to_owned(),
    }
}

fn check_uri(uri: &SecretString) -> Result<(), Invalid> {
    let bad = |problem: String, fix: &str| Err(Invalid::new("uri", REDACTED, problem, fix));
    let text = uri.expose_secret();
    if !["mongodb://", "mongodb+srv://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return bad(
            "not a MongoDB connection string".to_owned(),
            "it begins with mongodb:// or mongodb+srv://",
        );
    }
    let parsed = match ConnectionString::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            return bad(
                format!(
                    "the driver does not understand it{}",
                    without_secrets(&error, text)
                ),
                "copy it from the cluster's page; in user and password write : / ? # [ ] @ % as \
                 %3A %2F %3F %23 %5B %5D %40 %25",
            );
        }
    };
    if let Some(Tls::Enabled(options)) = &parsed.tls
        && options.allow_invalid_certificates == Some(true)
    {
        return bad(
            "it switches the verification of certificates off".to_owned(),
            "take tlsInsecure and tlsAllowInvalidCertificates out; for a CA of your own write \
             tlsCAFile=/path/to/ca.pem",
        );
    }
    Ok(())
}

/// The driver's words, unless they quote the user or the password.
fn without_secrets(error: &mongodb::error::Error, uri: &str) -> String {
    let words = error.kind.to_string();
    let user_info = uri
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .map_or("", |(user_info, _)| user_info);
    let quotes = user_info
        .split(':')
        .any(|part| !part.is_empty() && words.contains(part));
    if quotes {
        String::new()
    } else {
        format!(" ({words})")
    }
}

/// The server's rule for names of databases, the strictest system's.
fn check_database(name: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=63).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Invalid::new(
        "database",
        format!("{name:?}"),
        "no name for a database",
        "use 1 to 63 letters, digits, _ and -",
    ))
}

/// How much room the database takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Data, uncompressed, and indexes, in bytes: what Atlas counts.
    pub bytes: u64,
}

/// A document that MongoDB will never take: its place among those sent, and its words.
pub type Rejection = (usize, String);

/// A client and its gate.
#[derive(Debug)]
pub struct Mongo {
    client: Client,
    db: Database,
    catalogue: Arc<Catalogue>,
    spacing: Duration,
    next: Instant,
}

impl Mongo {
    /// Makes a client. Resolves names, but talks to no server yet.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn new(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self, Trouble> {
        let (Some(uri), Some(target)) = (&config.uri, config.target()) else {
            return Err(Trouble::new(Why::Other, "no connection string"));
        };
        let mut options = ClientOptions::parse(uri.expose_secret())
            .await
            .map_err(|error| Trouble::of(&error))?;
        // What the connection string says stays.
        let default = |option: &mut Option<Duration>| {
            option.get_or_insert(NOTICE);
        };
        default(&mut options.server_selection_timeout);
        default(&mut options.connect_timeout);
        default(&mut options.heartbeat_freq);
        options
            .app_name
            .get_or_insert_with(|| "vigie-engine".to_owned());
        options.max_pool_size.get_or_insert(2);
        // Everything is sent until it is answered, whatever the driver tries itself.
        options.retry_writes = Some(false);
        let client = Client::with_options(options).map_err(|error| Trouble::of(&error))?;
        Ok(Self {
            db: client.database(&target.database),
            client,
            catalogue,
            spacing: Duration::from_secs(1)
                / config.operations_per_second.clamp(1, MOST_OPERATIONS),
            next: Instant::now(),
        })
    }

    /// Waits for its turn, then runs a command.
    async fn run(&mut self, command: Document) -> Result<Document, mongodb::error::Error> {
        let answer = self.db.run_command(command).into_future();
        pass(&mut self.next, self.spacing, answer).await
    }

    /// Asks the server whether it is there, and makes collections and indexes that are missing.
    /// True if the server removes old readings by itself.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn prepare(&mut self, keep: Duration) -> Result<bool, Trouble> {
        let trouble = |error| Trouble::of(&error);
        self.run(doc! { "ping": 1 }).await.map_err(trouble)?;
        self.is_ours().await?;
        let by_sensor = doc! {
            "key": { "sensor_id": 1, "timestamp": 1 }, "name": "sensor_id_1_timestamp_1",
        };
        let by_hour = doc! { "key": { "sensor_id": 1, "hour": 1 }, "name": "sensor_id_1_hour_1" };
        for (collection, index) in [
            (MEASUREMENTS, by_sensor.clone()),
            (ANOMALIES, by_sensor),
            (HOURLY, by_hour),
        ] {
            match self.index(collection, index).await {
                Ok(()) => {}
                // Somebody has made one like it; it only helps those who read.
                Err(error) if trouble::is_command(&error) => {
                    tracing::warn!(collection, error = %error.kind, "an index could not be made");
                }
                Err(error) => return Err(Trouble::of(&error)),
            }
        }

        let name = "timestamp_1";
        let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let plain = doc! { "key": { "timestamp": 1 }, "name": name };
        let mut expiring = plain.clone();
        expiring.insert("expireAfterSeconds", seconds);
        let Err(refused) = self.index(MEASUREMENTS, expiring.clone()).await else {
            return Ok(true);
        };
        if !trouble::is_command(&refused) {
            return Err(Trouble::of(&refused));
        }
        // There is one with another span, or the server knows no such indexes.
        let change = doc! {
            "collMod": MEASUREMENTS,
            "index": { "name": name, "expireAfterSeconds": seconds },
        };
        if self.run(change).await.is_ok() {
            return Ok(true);
        }
        tracing::info!(
            server = %refused.kind,
            "this server removes no old readings by itself; the engine does it"
        );
        match self.index(MEASUREMENTS, plain).await {
            Ok(()) => Ok(false),
            Err(error) if trouble::is_command(&error) => {
                tracing::warn!(error = %error.kind, "no index by time; removing old readings will be slow");
                Ok(false)
            }
            Err(error) => Err(Trouble::of(&error)),
        }
    }

    /// Errs if other programs have documents where old ones would be removed. Ours have text as
    /// `_id`, which sorts between numbers and what drivers choose by themselves.
    async fn is_ours(&mut self) -> Result<(), Trouble> {
        for order in [1, -1] {
            let collection = self.db.collection::<Document>(MEASUREMENTS);
            let find = collection
                .find_one(doc! {})
                .sort(doc! { "_id": order })
                .projection(doc! { "_id": 1 });
            let found = pass(&mut self.next, self.spacing, find.into_future())
                .await
                .map_err(|error| Trouble::of(&error))?;
            if found.is_some_and(|found| found.get_str("_id").is_err()) {
                let words = format!(
                    "the collection {MEASUREMENTS} of the database {} holds documents of another \
                     program",
                    self.db.name()
                );
                return Err(Trouble::new(Why::Foreign, words));
            }
        }
        Ok(())
    }

    async fn index(
        &mut self,
        collection: &str,
        index: Document,
    ) -> Result<(), mongodb::error::Error> {
        let command = doc! { "createIndexes": collection, "indexes": [index] };
        self.run(command).await.map(|_| ())
    }

    /// Copies rows, up to [`BATCH`]. What is there already stays as it is. Gives the rows that
    /// MongoDB will never take.
    ///
    /// # Errors
    /// [`Trouble`]: some rows may be there, some not; send all of them again.
    pub async fn copy(&mut self, rows: &[Outgoing]) -> Result<Vec<Rejection>, Trouble> {
        let mut rejected = Vec::new();
        let mut hours = Vec::new();
        let mut measurements = Vec::new();
        let mut anomalies = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            match row {
                Outgoing::Reading(sensor, reading) => {
                    let document = document::measurement(sensor, reading, &self.catalogue);
                    measurements.push((at, document));
                }
                Outgoing::Anomaly(anomaly, tail) => {
                    let document = document::anomaly(anomaly, tail, &self.catalogue);
                    anomalies.push((at, document));
                }
                Outgoing::Hour(hour) => {
                    hours.push((at, document::hour(hour, &self.catalogue)));
                }
            }
        }
        // A reading before what was found in it.
        for (collection, documents) in [(MEASUREMENTS, measurements), (ANOMALIES, anomalies)] {
            self.insert(collection, documents, &mut rejected).await?;
        }
        self.replace(HOURLY, hours, &mut rejected).await?;
        Ok(rejected)
    }

    /// Inserts documents in one unordered command; halves it if the command as a whole is refused
    /// for what is in it.
    async fn insert(
        &mut self,
        collection: &str,
        documents: Vec<(usize, Document)>,
        rejected: &mut Vec<Rejection>,
    ) -> Result<(), Trouble> {
        let mut parts = vec![documents];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let target = self.db.collection::<Document>(collection);
            let insert = target
                .insert_many(part.iter().map(|(_, document)| document))
                .ordered(false);
            let answer = pass(&mut self.next, self.spacing, insert.into_future()).await;
            match written(answer.map(|_| ()))? {
                Written::All => {}
                Written::Except(refused) => {
                    for (index, words) in refused {
                        rejected.extend(part.get(index).map(|(at, _)| (*at, words)));
                    }
                }
                Written::Nothing(words) => {
                    if let [(at, _)] = part.as_slice() {
                        rejected.push((*at, words));
                    } else {
                        let rest = part.split_off(part.len() / 2);
                        parts.push(rest);
                        parts.push(part);
                    }
                }
            }
        }
        Ok(())
    }

    /// Replaces documents by their `_id`, or inserts them.
    async fn replace(
        &mut self,
        collection: &str,
        documents: Vec<(usize, Document)>,
        rejected: &mut Vec<Rejection>,
    ) -> Result<(), Trouble> {
        if documents.is_empty() {
            return Ok(());
        }
        let updates: Vec<Document> = documents
            .iter()
            .map(|(_, document)| {
                let id = document.get("_id").cloned();
                doc! { "q": { "_id": id }, "u": document, "upsert": true }
            })
            .collect();
        let command = doc! { "update": collection, "updates": updates, "ordered": false };
        let answer = self.run(command).await;
        for (index, words) in trouble::updated(answer)? {
            rejected.extend(documents.get(index).map(|(at, _)| (*at, words)));
        }
        Ok(())
    }

    /// How much room the database takes.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn usage(&mut self) -> Result<Usage, Trouble> {
        let stats = self
            .run(doc! { "dbStats": 1, "scale": 1 })
            .await
            .map_err(|error| Trouble::of(&error))?;
        Ok(Usage {
            bytes: number(&stats, "dataSize").saturating_add(number(&stats, "indexSize")),
        })
    }

    /// Time of the oldest reading but `skip`, ms since 1970; `None`: there are fewer.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn oldest(&mut self, skip: u64) -> Result<Option<i64>, Trouble> {
        let collection = self.db.collection::<Document>(MEASUREMENTS);
        let find = collection
            .find_one(doc! {})
            .sort(doc! { "timestamp": 1 })
            .projection(doc! { "timestamp": 1 })
            .skip(skip);
        let found = pass(&mut self.next, self.spacing, find.into_future())
            .await
            .map_err(|error| Trouble::of(&error))?;
        Ok(found.and_then(|found| {
            let time = found.get_datetime("timestamp").ok()?;
            Some(time.timestamp_millis())
        }))
    }

    /// Removes readings before a time; gives how many.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn remove_before(&mut self, ms: i64) -> Result<u64, Trouble> {
        let collection = self.db.collection::<Document>(MEASUREMENTS);
        let before = doc! { "timestamp": { "$lt": DateTime::from_millis(ms) } };
        let delete = collection.delete_many(before);
        let answer = pass(&mut self.next, self.spacing, delete.into_future())
            .await
            .map_err(|error| Trouble::of(&error))?;
        Ok(answer.deleted_count)
    }

    /// How many readings there are, roughly.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn count(&mut self) -> Result<u64, Trouble> {
        let collection = self.db.collection::<Document>(MEASUREMENTS);
        let count = collection.estimated_document_count();
        pass(&mut self.next, self.spacing, count.into_future())
            .await
            .map_err(|error| Trouble::of(&error))
    }

    /// Closes all connections.
    pub async fn close(self) {
        self.client.shutdown().immediate(true).await;
    }
}

/// Lets one command through the gate: `spacing` after the one before, and not for ever.
async fn pass<T>(
    next: &mut Instant,
    spacing: Duration,
    command: impl Future<Output = Result<T, mongodb::error::Error>>,
) -> Result<T, mongodb::error::Error> {
    tokio::time::sleep_until(*next).await;
    *next = Instant::now() + spacing;
    match tokio::time::timeout(PATIENCE, command).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(mongodb::error::Error::custom(format!(
            "no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// A size in the server's statistics: servers differ in the type of number.
fn number(stats: &Document, key: &str) -> u64 {
    use mongodb::bson::Bson;
    match stats.get(key) {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sizes are below 2^53, and a negative one means nothing"
        )]
        Some(Bson::Double(n)) => *n as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of commands that take less than the spacing each, and one that takes longer.
    #[tokio::test(start_paused = true)]
    async fn no_more_commands_go_in_a_second_than_is_said() {
        let spacing = Duration::from_secs(1) / 80;
        let begun = Instant::now();
        let mut next = begun;
        let mut starts = Vec::new();
        for nth in 0..240_u64 {
            let takes = Duration::from_millis(if nth == 100 { 700 } else { nth % 10 });
            let command = async {
                starts.push(begun.elapsed());
                tokio::time::sleep(takes).await;
                Ok(nth)
            };
            assert_eq!(pass(&mut next, spacing, command).await.unwrap(), nth);
        }
        for (nth, start) in starts.iter().enumerate() {
            let in_a_second = starts[nth..]
                .iter()
                .take_while(|later| **later < *start + Duration::from_secs(1))
                .count();
            assert!(
                in_a_second <= 80,
                "{in_a_second} commands from {start:?} on"
            );
        }
        // And not much fewer: three seconds for three times as many, and the one that was slow.
        let took = begun.elapsed().as_secs_f64();
        assert!((3.6..4.0).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_without_an_answer_is_given_up() {
        let begun = Instant::now();
        let mut next = begun;
        let never = std::future::pending::<Result<(), mongodb::error::Error>>();
        let error = pass(&mut next, Duration::ZERO, never).await.unwrap_err();
        assert_eq!(Trouble::of(&error).why, Why::Unreachable);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[test]
    fn connection_strings_that_cannot_work_are_told_without_their_secrets() {
        for (uri, words) in [
            ("http://user:s3cret@host", "mongodb+srv://"),
            ("mongodb://user:s3cret@", "%40"),
            ("mongodb://user:s3cret/x@host/db", "%2F"),
            ("mongodb://user:s3cret@host:port", "%3A"),
            (
                "mongodb://user:s3cret@host/?tls=true&tlsAllowInvalidCertificates=true",
                "tlsCAFile",
            ),
        ] {
            let config = Config {
                uri: Some(uri.into()),
                ..Config::default()
            };
            let told = config.validate().unwrap_err().to_string();
            assert!(told.contains(words), "{uri}: {told}");
            assert!(!told.contains("s3cret"), "{told}");
        }
        let config = Config {
            uri: Some("mongodb+srv://user:s3cret@cluster0.example.net/cellar?w=majority".into()),
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
        let target = config.target().unwrap().to_string();
        assert_eq!(target, "cluster0.example.net/cellar");
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
