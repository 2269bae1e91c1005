//! What time it is, and what time it was when a reading was taken before anybody knew.
//!
//! Three sources, in this order:
//! 1. a time server's answer in this boot; it is asked again once a day;
//! 2. the floor: the time at which a broker's certificate was last accepted, kept in flash. An ESP32
//!    wakes up in 1970, and some networks have no way to a time server; with the floor, certificates
//!    are still checked against a date that was true once;
//! 3. [`EARLIEST`].
//!
//! A time server's answer is not authenticated. An answer before the floor is refused; one far
//! beyond it makes the broker's certificate look expired, and since the floor is raised only by an
//! accepted certificate, such an answer does harm until the next one and no longer.
//!
//! Only a server's answer dates readings. Without one they go out without a time, and the engine
//! takes the time of receipt.

use crate::entry::{Entry, Taken};
use crate::queue::Boot;

/// No certificate and no time server from before this was written: 2026-01-01.
pub(crate) const EARLIEST: i64 = 1_767_225_600_000;

/// How far before the floor a server's answer may be: clocks differ.
const SLACK_MS: i64 = 300_000;

/// When a time server is asked again.
pub(crate) const AGAIN_MS: u64 = 86_400_000;

/// Time, as far as it is known.
#[expect(clippy::struct_field_names, reason = "each name ends in its unit")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// UTC minus uptime.
    pub(crate) offset_ms: Option<i64>,
    /// The uptime of the last answer.
    pub(crate) synced_ms: u64,
    pub(crate) floor_ms: i64,
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Clock {
    /// UTC, if a server said so.
    pub(crate) fn utc(&self, uptime_ms: u64) -> Option<i64> {
        Some(self.offset_ms?.saturating_add(signed(uptime_ms)))
    }

    /// What certificates' dates are compared with.
    pub(crate) fn for_certificates(&self, uptime_ms: u64) -> i64 {
        self.utc(uptime_ms).unwrap_or(self.floor_ms.max(EARLIEST))
    }

    /// Whether a time server should be asked.
    pub(crate) fn is_stale(&self, uptime_ms: u64) -> bool {
        self.offset_ms.is_none() || uptime_ms.saturating_sub(self.synced_ms) > AGAIN_MS
    }

    /// Takes a server's answer; false if it cannot be true.
    pub(crate) fn set(&mut self, utc_ms: i64, uptime_ms: u64) -> bool {
        if utc_ms < self.floor_ms.max(EARLIEST).saturating_sub(SLACK_MS) {
            return false;
        }
        self.offset_ms = Some(utc_ms.saturating_sub(signed(uptime_ms)));
        self.synced_ms = uptime_ms;
        true
    }

    /// When a reading was taken. Of an earlier boot that had no time yet it is an estimate: as if each
    /// boot had begun where the one before ended, and before what that boot took with a time. It keeps
    /// order and distances.
    pub(crate) fn taken_at(&self, entry: &Entry, boot: [u8; 8], boots: &[Boot]) -> Option<i64> {
        let uptime_ms = match entry.taken {
            Taken::Utc(ms) => return Some(ms),
            Taken::Uptime(ms) => signed(ms),
        };
        let mut begin = self.offset_ms?;
        if entry.boot == boot {
            return Some(begin.saturating_add(uptime_ms));
        }
        for earlier in boots.iter().rev().filter(|earlier| earlier.id != boot) {
            let end = earlier.first_utc_ms.map_or(begin, |first| first.min(begin));
            begin = end.saturating_sub(signed(earlier.last_ms).saturating_add(1));
            if earlier.id == entry.boot {
                return Some(begin.saturating_add(uptime_ms));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::sample;

    fn taken(boot: [u8; 8], uptime_ms: u64) -> Entry {
        Entry {
            boot,
            taken: Taken::Uptime(uptime_ms),
            ..sample(0)
        }
    }

    const NOW: i64 = EARLIEST + 1_000_000_000;
    const A: [u8; 8] = *b"aaaaaaaa";
    const B: [u8; 8] = *b"bbbbbbbb";
    const C: [u8; 8] = *b"cccccccc";

    #[test]
    fn a_reading_before_the_clock_was_set_gets_its_time() {
        let mut clock = Clock::default();
        let reading = taken(C, 4_000);
        assert_eq!(clock.taken_at(&reading, C, &[]), None);
        assert!(clock.set(NOW, 10_000));
        assert_eq!(clock.taken_at(&reading, C, &[]), Some(NOW - 6_000));
    }

    #[test]
    fn earlier_boots_lie_one_before_the_other() {
        let mut clock = Clock::default();
        assert!(clock.set(NOW, 10_000));
        let boots = [(A, 5_000), (B, 7_000), (C, 9_000)].map(|(id, last_ms)| Boot {
            id,
            last_ms,
            first_utc_ms: None,
        });
        let at = |reading: &Entry| clock.taken_at(reading, C, &boots).unwrap();
        let begin_of_c = NOW - 10_000;
        assert_eq!(at(&taken(B, 7_000)), begin_of_c - 1);
        assert_eq!(at(&taken(B, 1_000)), begin_of_c - 6_001);
        assert_eq!(at(&taken(A, 5_000)), begin_of_c - 7_001 - 1);
        assert_eq!(clock.taken_at(&taken(*b"unknown!", 1), C, &boots), None);
    }

    #[test]
    fn what_was_taken_before_the_clock_was_set_lies_before_what_was_taken_after() {
        let mut clock = Clock::default();
        assert!(clock.set(NOW, 10_000));
        let first_utc_ms = Some(NOW - 60_000);
        let boots = [(A, None), (B, first_utc_ms)].map(|(id, first_utc_ms)| Boot {
            id,
            last_ms: 2_000,
            first_utc_ms,
        });
        let at = |reading: &Entry| clock.taken_at(reading, C, &boots).unwrap();
        assert_eq!(at(&taken(B, 2_000)), NOW - 60_001);
        assert_eq!(at(&taken(B, 500)), NOW - 61_501);
        assert_eq!(at(&taken(A, 2_000)), NOW - 62_001 - 1);
    }

    #[test]
    fn a_time_before_the_floor_is_refused() {
        let mut clock = Clock {
            floor_ms: NOW,
            ..Clock::default()
        };
        assert!(!clock.set(NOW - SLACK_MS - 1, 0));
        assert_eq!(clock.for_certificates(5), NOW);
        assert!(clock.set(NOW - SLACK_MS, 0));
        assert!(!Clock::default().set(EARLIEST - SLACK_MS - 1, 0));
        assert_eq!(Clock::default().for_certificates(5), EARLIEST);
    }
}
