//! Whether the disk has room: a write that fails half-way ends the database for this process, so
//! nothing is written when little is left. Whoever sends waits, and nothing is lost.

use std::path::PathBuf;

/// Looks at the disk, before each write: a copy that somebody makes fills it within a second.
#[derive(Debug)]
pub struct Room {
    dir: PathBuf,
    least: u64,
}

impl Room {
    /// Of the disk that `dir` is on; `least_mib` must be free.
    pub fn new(dir: PathBuf, least_mib: u32) -> Self {
        Self {
            dir,
            least: u64::from(least_mib) << 20,
        }
    }

    /// Bytes that may still be written; `None`: the disk cannot be asked.
    pub fn left(&self) -> Option<u64> {
        Some(self.free()?.saturating_sub(self.least))
    }

    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Why nothing may be written now; `None`: there is room.
    pub fn missing(&self) -> Option<String> {
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
