//! The write buffers (memtables) of the store: whoever fills one closes it, so that it is written to
//! a table.
//!
//! fjall leaves that to its worker, which it tells by a queue of a thousand places; every commit into a
//! full buffer takes one. A worker that merges for a while finds the queue full; then, closing a buffer,
//! it waits for a place in the queue that nobody but itself empties: for ever, while the buffer and the
//! journal grow with each commit (fjall issue 257; 12 million readings at 50,000/s were enough). So fjall
//! is given a limit that no buffer reaches.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fjall::{AbstractTree as _, Database, Keyspace, PersistMode};
use tokio::time::Instant;

/// What fjall is told.
pub(super) const NO_LIMIT: u64 = u64::MAX;
/// Closed buffers of one keyspace that may wait for the worker. With one more fjall would have
/// every commit wait.
const WAITING: usize = 3;
/// While that many wait, the open one may become so many times as large, before commits wait for
/// the worker.
const STRETCH: u64 = 2;
/// A worker that takes longer than this for one table is stuck, or the disk is.
const PATIENCE: Duration = Duration::from_mins(5);

/// The keyspaces, each with its largest write buffer in bytes.
#[derive(Clone)]
pub(super) struct Buffers {
    db: Database,
    limits: Arc<[(Keyspace, u64)]>,
    /// Held by who closes: of two that see a full buffer the second would close the next one, empty.
    closing: Arc<Mutex<()>>,
}

/// Nothing was written to a table for minutes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store could not write a table for {} s: the disk does not answer, or is far too slow",
    PATIENCE.as_secs()
)]
struct Stuck;

impl Buffers {
    pub(super) fn new(db: Database, limits: Vec<(Keyspace, u64)>) -> Self {
        Self {
            db,
            limits: limits.into(),
            closing: Arc::default(),
        }
    }

    /// Closes what is full; waits if the worker cannot keep up. To be called after each commit.
    pub(super) fn close_full(&self) -> Result<(), super::Error> {
        for (keyspace, limit) in self.limits.iter() {
            if size(keyspace) > *limit {
                self.close(keyspace, *limit)?;
            }
        }
        Ok(())
    }

    /// Does a closed buffer wait for the worker?
    pub(super) fn are_behind(&self) -> bool {
        let waiting = |(keyspace, _): &(Keyspace, u64)| keyspace.tree.sealed_memtable_count() > 0;
        self.limits.iter().any(waiting)
    }

    fn close(&self, keyspace: &Keyspace, limit: u64) -> Result<(), super::Error> {
        let begun = Instant::now();
        loop {
            let size = size(keyspace);
            if size <= limit {
                return Ok(());
            }
            if self.rotate(keyspace, limit)? {
                return Ok(());
            }
            // Whoever writes waits then, not only the first to come.
            if size <= limit.saturating_mul(STRETCH) {
                return Ok(());
            }
            // A worker that has failed will never be done.
            self.db
                .persist(PersistMode::Buffer)
                .map_err(super::failed)?;
            if begun.elapsed() > PATIENCE {
                return Err(super::Error::Failed(Box::new(Stuck)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// False if somebody else is at it, or too many wait already.
    fn rotate(&self, keyspace: &Keyspace, limit: u64) -> Result<bool, super::Error> {
        let Ok(_closing) = self.closing.try_lock() else {
            return Ok(false);
        };
        if keyspace.tree.sealed_memtable_count() >= WAITING {
            return Ok(false);
        }
        if size(keyspace) > limit {
            keyspace.rotate_memtable().map_err(super::failed)?;
        }
        Ok(true)
    }
}

fn size(keyspace: &Keyspace) -> u64 {
    keyspace.tree.active_memtable().size()
}

#[cfg(test)]
mod tests {
    use fjall::KeyspaceCreateOptions;

    use super::*;

    const LIMIT: u64 = 64 << 10;

    fn open(dir: &std::path::Path) -> (Database, Keyspace, Buffers) {
        let db = Database::builder(dir).worker_threads(1).open().unwrap();
        let options = || KeyspaceCreateOptions::default().max_memtable_size(NO_LIMIT);
        let keyspace = db.keyspace("readings", options).unwrap();
        let buffers = Buffers::new(db.clone(), vec![(keyspace.clone(), LIMIT)]);
        (db, keyspace, buffers)
    }

    /// Many times what the worker's queue holds, and the worker busy with the tables before.
    #[test]
    fn buffers_are_closed_however_busy_the_worker_is() {
        let dir = tempfile::tempdir().unwrap();
        let (db, keyspace, buffers) = open(dir.path());
        for number in 0..200_000_u32 {
            let mut batch = db.batch();
            batch.insert(&keyspace, number.to_be_bytes(), [7; 100]);
            batch.commit().unwrap();
            buffers.close_full().unwrap();
        }
        assert!(size(&keyspace) <= LIMIT * STRETCH + 1024);
        let begun = Instant::now();
        while db.outstanding_flushes() > 0 {
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "the worker stands"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(keyspace.table_count() > 0);
        assert_eq!(keyspace.len().unwrap(), 200_000);
    }

    /// Readings come while old ones are removed.
    #[test]
    fn a_buffer_is_bounded_however_many_write() {
        const ROW: usize = 4 << 10;
        let dir = tempfile::tempdir().unwrap();
        let (db, keyspace, buffers) = open(dir.path());
        let writers = 4;
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let (db, keyspace, buffers) = (&db, &keyspace, &buffers);
                scope.spawn(move || {
                    for number in 0..4_000_u32 {
                        let mut batch = db.batch();
                        let key = [number.to_be_bytes(), u32::to_be_bytes(writer)].concat();
                        batch.insert(keyspace, key, vec![7; ROW]);
                        batch.commit().unwrap();
                        buffers.close_full().unwrap();
                        let size = size(keyspace);
                        // Each of them may have written once since it looked.
                        let most = LIMIT * STRETCH + u64::from(writers) * 2 * ROW as u64;
                        assert!(size <= most, "{size} bytes");
                    }
                });
            }
        });
    }
}
