//! Alert: delivers what the outbox holds. What is said and when was decided before the commit
//! ([`crate::score::episodes`]); here are the words, the channels and the actor.

pub mod actor;
pub mod alertmanager;
pub mod budget;
pub mod chart;
pub mod endpoint;
pub mod letter;
pub mod link;
pub mod mail;
pub mod report;
pub mod route;
pub mod text;
pub mod webhook;

use std::time::Duration;

use vigie_wire::{QuantityId, SensorId};

use crate::score::incident::Notice;
use crate::stats::device::Device;
use budget::Budget;
use chart::Point;

/// A way to a person. Each has rows of its own in the outbox and a thread of its own: one that
/// hangs holds up none of the others.
pub trait Channel: Send {
    /// In logs and metrics, and of its rows in the outbox: it stays the same from start to start.
    fn name(&self) -> &str;

    /// How much it may send; `None`: as much as there is.
    fn budget(&self) -> Option<Budget> {
        None
    }

    /// Delivers notices, one or several at once. `used`: what of the budget is spent, this time
    /// included. Called again with the same notices after an error or a crash. May take its time,
    /// but not for ever.
    ///
    /// # Errors
    /// Why not, and with it what becomes of the notices.
    fn deliver(&mut self, notices: &[Notice], used: u32) -> Result<(), Undelivered>;

    /// Called about once a second, for other sides that forget what they are not told again.
    ///
    /// # Errors
    /// Why that did not work this time.
    fn keep_up(&mut self) -> Result<(), Undelivered> {
        Ok(())
    }
}

/// Whom mails ask about the past.
pub trait History: Send {
    /// Readings of one quantity of a sensor from `from_ms` to `to_ms` (inclusive), in the order of
    /// time. Nothing if the store cannot be read: a mail without a picture is better than none.
    fn past(&self, sensor: &SensorId, quantity: QuantityId, span: (i64, i64)) -> Vec<Point>;

    /// What the sensor's device told of itself; `None` if nothing, or the store cannot be read.
    fn device(&self, sensor: &SensorId) -> Option<Box<Device>>;
}

/// A notice did not get through this time.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Undelivered {
    /// Decides when to try again, and whether.
    pub why: Why,
    /// What was tried, what happened and what to do about it.
    pub what: String,
    /// What went wrong.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Kinds of failure, by what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Time: the other side is down, slow, busy, or its certificate is being renewed.
    Unavailable,
    /// A person: the other side does not accept who we are.
    Credentials,
    /// A day: as many were sent as the other side allows.
    Quota,
    /// Nothing: this notice is refused for good, and was put aside.
    Undeliverable,
}

impl Why {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Unavailable,
        Self::Credentials,
        Self::Quota,
        Self::Undeliverable,
    ];

    /// In metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Credentials => "credentials",
            Self::Quota => "quota",
            Self::Undeliverable => "undeliverable",
        }
    }

    /// The pause before the next attempt, after so many failures in a row (1 for the first).
    /// `None`: there is none for this notice, and the next one goes at once.
    pub fn pause(self, failures: u32) -> Option<Duration> {
        let (first, most) = match self {
            Self::Unavailable => (5, 15 * 60),
            // An account that is hammered with a wrong password gets locked.
            Self::Credentials => (15 * 60, 15 * 60),
            Self::Quota => (3600, 3600),
            Self::Undeliverable => return None,
        };
        let doubled = 1_u64 << failures.saturating_sub(1).min(10);
        Some(Duration::from_secs((first * doubled).min(most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let pauses = [1, 2, 3, 8, 9, 1000].map(|failures| Why::Unavailable.pause(failures));
        let seconds = [5, 10, 20, 640, 900, 900].map(|s| Some(Duration::from_secs(s)));
        assert_eq!(pauses, seconds);
        assert_eq!(
            Why::Credentials.pause(1),
            Some(Duration::from_mins(15)),
            "a wrong password is not hammered"
        );
        assert_eq!(Why::Undeliverable.pause(1), None);
    }
}
