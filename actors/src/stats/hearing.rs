//! Since when the engine has been able to hear its sensors. What it could not hear is not their
//! silence: a broker that is away is one problem, not one per sensor.

use std::sync::atomic::{AtomicI64, Ordering};

/// What was going on while readings went missing, as far as the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Meanwhile {
    /// The engine was not there for some of the time.
    EngineDown,
    /// The engine was there all the time, its link to the broker was not.
    BrokerAway,
    /// Both were there all the time.
    #[default]
    Unknown,
}

/// Shared by the sources, which know, and by the stages, which judge silence.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "times carry their unit")]
pub struct Hearing {
    since_ms: AtomicI64,
    /// When the engine started.
    started_ms: AtomicI64,
    /// When the link to the broker came up last.
    linked_ms: AtomicI64,
}

impl Hearing {
    /// Able to hear since `ms` (stream time). [`i64::MIN`]: always, as in recorded data.
    pub fn since(ms: i64) -> Self {
        Self {
            since_ms: AtomicI64::new(ms),
            started_ms: AtomicI64::new(ms),
            linked_ms: AtomicI64::new(i64::MIN),
        }
    }

    /// A source was lost: from now on silence says nothing.
    pub fn lost(&self) {
        self.since_ms.store(i64::MAX, Ordering::Relaxed);
    }

    /// The source is back at `now_ms`: silence counts from here.
    pub fn regained(&self, now_ms: i64) {
        self.since_ms.store(now_ms, Ordering::Relaxed);
        self.linked_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The clock was set, and is at `now_ms` now: what waited by the old one waits anew. While a
    /// source is lost that is so anyway.
    pub fn stepped(&self, now_ms: i64) {
        let since = |since_ms| (since_ms != i64::MAX && since_ms != i64::MIN).then_some(now_ms);
        // Lost meanwhile: nothing to do.
        let _lost = self
            .since_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, since);
        // By the clock as it is now, nothing was later than now.
        self.started_ms.fetch_min(now_ms, Ordering::Relaxed);
        self.linked_ms.fetch_min(now_ms, Ordering::Relaxed);
    }

    /// Receive times before this say nothing about silence. [`i64::MAX`] while a source is lost.
    pub fn since_ms(&self) -> i64 {
        self.since_ms.load(Ordering::Relaxed)
    }

    /// What was going on between a reading received at `before_ms` and the next one of its sensor.
    pub fn meanwhile(&self, before_ms: i64) -> Meanwhile {
        if before_ms < self.started_ms.load(Ordering::Relaxed) {
            Meanwhile::EngineDown
        } else if before_ms < self.linked_ms.load(Ordering::Relaxed) {
            Meanwhile::BrokerAway
        } else {
            Meanwhile::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_going_on_is_the_longest_of_it() {
        let hearing = Hearing::since(1000);
        assert_eq!(hearing.meanwhile(999), Meanwhile::EngineDown);
        assert_eq!(hearing.meanwhile(1000), Meanwhile::Unknown);
        hearing.lost();
        hearing.regained(2000);
        assert_eq!(hearing.meanwhile(999), Meanwhile::EngineDown);
        assert_eq!(hearing.meanwhile(1999), Meanwhile::BrokerAway);
        assert_eq!(hearing.meanwhile(2000), Meanwhile::Unknown);
        hearing.stepped(5000);
        assert_eq!(hearing.since_ms(), 5000);
        assert_eq!(hearing.meanwhile(2000), Meanwhile::Unknown);
    }

    #[test]
    fn a_clock_that_is_set_while_a_source_is_lost_regains_nothing() {
        let hearing = Hearing::since(1000);
        hearing.lost();
        hearing.stepped(5000);
        assert_eq!(hearing.since_ms(), i64::MAX);
    }
}
