//! Since when the engine has been able to hear its sensors. What it could not hear is not their
//! silence: a broker that is away is one problem, not one per sensor.

use std::sync::atomic::{AtomicI64, Ordering};

/// Shared by the sources, which know, and by the stages, which judge silence.
#[derive(Debug)]
pub struct Hearing(AtomicI64);

impl Hearing {
    /// Able to hear since `ms` (stream time). [`i64::MIN`]: always, as in recorded data.
    pub fn since(ms: i64) -> Self {
        Self(AtomicI64::new(ms))
    }

    /// A source was lost: from now on silence says nothing.
    pub fn lost(&self) {
        self.0.store(i64::MAX, Ordering::Relaxed);
    }

    /// The source is back at `now_ms`: silence counts from here.
    pub fn regained(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// Receive times before this say nothing about silence. [`i64::MAX`] while a source is lost.
    pub fn since_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}
