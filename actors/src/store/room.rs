//! Whether the disk has room: a write that fails half-way ends the database for this process, so
//! nothing is written when little is left. Whoever sends waits, and nothing is lost.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at the disk.
const EVERY: Duration = Duration::from_secs(1);

/// Looks at the disk now and then.
#[derive(Debug)]
pub struct Room {
    dir: PathBuf,
    least: u64,
    looked: Option<Instant>,
    missing: Option<String>,
}

impl Room {
    /// Of the disk that `dir` is on; `least_mib` must be free.
    pub fn new(dir: PathBuf, least_mib: u32) -> Self {
        Self {
            dir,
            least: u64::from(least_mib) << 20,
            looked: None,
            missing: None,
        }
    }

    /// Why nothing may be written now; `None`: there is room.
    pub fn missing(&mut self) -> Option<&str> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            self.looked = Some(Instant::now());
            self.missing = self.look();
        }
        self.missing.as_deref()
    }

    /// Bytes that may still be written; `None`: the disk cannot be asked.
    pub fn left(&self) -> Option<u64> {
        Some(self.free()?.saturating_sub(self.least))
    }

    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn look(&self) -> Option<String> {
        // A disk that cannot be asked may have room.
        let free = self.free()?;
        (free < self.least).then(|| {
            format!(
                "{} MiB are free at {}, store.min_free_mib = {}; make room, nothing is \
                 acknowledged until then",
                free >> 20,
                self.dir.display(),
                self.least >> 20
            )
        })
    }
}
