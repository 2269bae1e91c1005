//! How many mails may go out: a rolling window of 24 hours, as Gmail counts (500 recipients there).
//! Few notices go alone; when many come at once, or the day's mails run short, they go together.
//! Pure.

use std::time::Duration;

use crate::score::rules::Severity;

const DAY_MS: i64 = 24 * 3_600_000;
/// Within this time …
const CALM_MS: i64 = 600_000;
/// … so many mails are no flood.
const CALM_MAILS: usize = 10;

/// A mail that went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at_ms: i64,
    /// To how many recipients.
    pub recipients: u32,
}

/// What a channel may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Deliver each notice on its own.
    Each,
    /// Deliver all that wait at once.
    Together,
    /// Nothing before this time has passed.
    Later(Duration),
}

/// How much a channel may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Recipients within 24 hours.
    pub daily: u32,
    /// The last of them, for critical incidents only.
    pub reserve: u32,
    /// Recipients of each mail.
    pub recipients: u32,
}

impl Budget {
    /// Recipients of the last 24 hours.
    pub fn used(log: &[Sent], now_ms: i64) -> u32 {
        log.iter()
            .filter(|sent| now_ms - sent.at_ms < DAY_MS)
            .map(|sent| sent.recipients)
            .sum()
    }

    /// Recipients that are left, by how bad the worst is that waits.
    pub fn left(&self, log: &[Sent], worst: Severity, now_ms: i64) -> u32 {
        let kept = match worst {
            Severity::Warn => self.reserve,
            Severity::Critical => 0,
        };
        (self.daily.saturating_sub(kept)).saturating_sub(Self::used(log, now_ms))
    }

    /// What may go out now, with so many notices waiting. `log`: at least the last 24 hours,
    /// oldest first.
    pub fn plan(&self, log: &[Sent], waiting: usize, worst: Severity, now_ms: i64) -> Plan {
        let left = self.left(log, worst, now_ms);
        if left < self.recipients {
            return Plan::Later(Self::until_some_are_left(log, now_ms));
        }
        let lately = log.iter().rev();
        let lately = lately
            .take_while(|sent| now_ms - sent.at_ms < CALM_MS)
            .count();
        let ample = Self::used(log, now_ms) < self.daily / 2;
        if ample && lately + waiting <= CALM_MAILS {
            return Plan::Each;
        }
        // At this pace what is left lasts for a day; what is critical may be faster for a while.
        let faster = match worst {
            Severity::Warn => 1,
            Severity::Critical => 4,
        };
        let pace_ms = DAY_MS * i64::from(self.recipients) / i64::from(left) / faster;
        let pace_ms = pace_ms.clamp(1_000, 3_600_000);
        let next_ms = log.last().map_or(i64::MIN, |sent| sent.at_ms + pace_ms);
        if next_ms > now_ms {
            return Plan::Later(millis(next_ms - now_ms));
        }
        Plan::Together
    }

    /// Until the oldest mails are a day old; looked at every minute at least, for others may wait.
    fn until_some_are_left(log: &[Sent], now_ms: i64) -> Duration {
        let counted = |sent: &&Sent| now_ms - sent.at_ms < DAY_MS;
        let oldest = log.iter().find(counted).map(|sent| sent.at_ms);
        let until = oldest.map_or(60_000, |at_ms| at_ms + DAY_MS - now_ms);
        millis(until.clamp(1_000, 60_000))
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget {
        daily: 400,
        reserve: 50,
        recipients: 1,
    };
    const MINUTE: i64 = 60_000;

    fn sent(count: u32, at_ms: i64) -> Vec<Sent> {
        let one = Sent {
            at_ms,
            recipients: 1,
        };
        vec![one; count as usize]
    }

    fn plan(log: &[Sent], waiting: usize, worst: Severity) -> Plan {
        BUDGET.plan(log, waiting, worst, DAY_MS)
    }

    #[test]
    fn few_go_alone_and_many_go_together() {
        let warn = Severity::Warn;
        assert_eq!(plan(&[], 1, warn), Plan::Each);
        assert_eq!(plan(&sent(9, DAY_MS - MINUTE), 1, warn), Plan::Each);
        assert_eq!(plan(&[], 11, warn), Plan::Together);
        let Plan::Later(pause) = plan(&sent(10, DAY_MS - MINUTE), 1, warn) else {
            panic!("the eleventh in ten minutes does not go alone");
        };
        assert!(pause < Duration::from_mins(4), "{pause:?}");
        assert_eq!(
            plan(&sent(10, DAY_MS - 5 * MINUTE), 1, warn),
            Plan::Together
        );
        assert_eq!(plan(&sent(10, DAY_MS - 11 * MINUTE), 1, warn), Plan::Each);
    }

    #[test]
    fn the_last_ones_are_for_what_is_critical() {
        let hour = DAY_MS - 60 * MINUTE;
        let much = sent(350, hour);
        assert!(matches!(plan(&much, 1, Severity::Warn), Plan::Later(_)));
        assert_eq!(plan(&much, 1, Severity::Critical), Plan::Together);
        assert!(matches!(
            plan(&sent(400, hour), 1, Severity::Critical),
            Plan::Later(_)
        ));
        assert_eq!(
            plan(&sent(400, 0), 1, Severity::Warn),
            Plan::Each,
            "a day ago"
        );
    }

    /// A flood for two days: in no 24 hours more than the budget, and digests go on to the end.
    #[test]
    fn no_window_of_a_day_has_more_than_the_budget() {
        let mut log: Vec<Sent> = Vec::new();
        let mut now_ms = 0;
        while now_ms < 2 * DAY_MS {
            let worst = if now_ms % (7 * MINUTE) == 0 {
                Severity::Critical
            } else {
                Severity::Warn
            };
            if !matches!(BUDGET.plan(&log, 20, worst, now_ms), Plan::Later(_)) {
                log.extend(sent(1, now_ms));
            }
            now_ms += MINUTE;
        }
        for (at, first) in log.iter().enumerate() {
            let day = log[at..].iter();
            let day = day
                .take_while(|sent| sent.at_ms - first.at_ms < DAY_MS)
                .count();
            assert!(day <= 400, "{day} from {}", first.at_ms);
        }
        let last = log.last().unwrap().at_ms;
        assert!(
            log.len() > 400 && 2 * DAY_MS - last < 60 * MINUTE,
            "{} {last}",
            log.len()
        );
    }
}
