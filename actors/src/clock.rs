//! Time as the stream sees it: milliseconds since 1970 UTC, asked of a `Clock` so that tests and
//! replay can drive it.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Source of the receive time. Implementations never go backwards by themselves.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> i64;

    /// Milliseconds since some moment, by a clock that nobody sets. A clock that is never set itself
    /// has no other.
    fn steady_ms(&self) -> i64 {
        self.now_ms()
    }
}

/// By how much the clock was set between two looks, for it to count.
pub const STEP_MS: i64 = 5_000;

/// Notices that a clock is set, or that the machine was asleep.
#[derive(Debug, Default)]
pub struct Steps(Option<i64>);

impl Steps {
    /// Looks at the clock: the time, and by how much it was set since the last look.
    pub fn look(&mut self, clock: &dyn Clock) -> (i64, Option<i64>) {
        let now_ms = clock.now_ms();
        let ahead_ms = now_ms - clock.steady_ms();
        let step_ms = ahead_ms - self.0.unwrap_or(ahead_ms);
        // Small steps count when they have added up.
        if self.0.is_none() || step_ms.abs() >= STEP_MS {
            self.0 = Some(ahead_ms);
        }
        (now_ms, (step_ms.abs() >= STEP_MS).then_some(step_ms))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the Clock that everybody else asks"
        )]
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            })
    }

    #[allow(
        clippy::disallowed_types,
        reason = "a clock that tests pause would seem to be set"
    )]
    fn steady_ms(&self) -> i64 {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        let since = ORIGIN.get_or_init(std::time::Instant::now).elapsed();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is moved; clones share the time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    now_ms: Arc<AtomicI64>,
    /// By how much it was set, and not moved.
    set_ms: Arc<AtomicI64>,
}

impl ManualClock {
    /// Starts at `now_ms`.
    pub fn at(now_ms: i64) -> Self {
        Self {
            now_ms: Arc::new(AtomicI64::new(now_ms)),
            set_ms: Arc::default(),
        }
    }

    /// Moves to `now_ms` if that is later; time never goes back.
    pub fn advance_to(&self, now_ms: i64) {
        self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Somebody sets it: it says another time, and none has passed.
    pub fn set_by(&self, step_ms: i64) {
        self.now_ms.fetch_add(step_ms, Ordering::Relaxed);
        self.set_ms.fetch_add(step_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn steady_ms(&self) -> i64 {
        self.now_ms() - self.set_ms.load(Ordering::Relaxed)
    }
}

/// `2026-11-22T14:03:22.123Z`, or the bare number where the calendar ends.
pub fn rfc3339(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Set(i64, i64);

    impl Clock for Set {
        fn now_ms(&self) -> i64 {
            self.0
        }

        fn steady_ms(&self) -> i64 {
            self.1
        }
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_runs_never() {
        let mut steps = Steps::default();
        let mut look = |now, steady| steps.look(&Set(now, steady)).1;
        assert_eq!(look(1_000_000, 5), None);
        assert_eq!(look(8_000_000, 7_000_005), None);
        assert_eq!(look(8_001_000 + 3_600_000, 7_001_005), Some(3_600_000));
        assert_eq!(look(8_002_000 + 3_600_000, 7_002_005), None);
        assert_eq!(look(8_003_000, 7_003_005), Some(-3_600_000));
        // Crept away.
        for n in 1..5 {
            assert_eq!(look(8_003_000 + n * 2_000, 7_003_005 + n * 1_000), None);
        }
        assert_eq!(look(8_003_000 + 10_000, 7_003_005 + 5_000), Some(5_000));
    }

    #[test]
    fn a_clock_that_is_moved_by_hand_is_never_set() {
        let (clock, mut steps) = (ManualClock::at(5), Steps::default());
        assert_eq!(steps.look(&clock), (5, None));
        clock.advance_to(1 << 40);
        assert_eq!(steps.look(&clock), (1 << 40, None));
    }
}
