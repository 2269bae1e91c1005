//! The way into a stage: how many messages wait in its mailbox, for how long, and how many readings
//! are in it or on their way.

use std::sync::Arc;

use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

/// The numbers of one stage's mailbox; clones share them.
#[derive(Debug, Clone)]
pub struct Mailbox(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    waiting: IntGauge,
    seconds: Histogram,
    in_flight: IntGauge,
}

impl Mailbox {
    pub(super) fn new(waiting: IntGauge, seconds: Histogram, in_flight: IntGauge) -> Self {
        Self(Arc::new(Numbers {
            waiting,
            seconds,
            in_flight,
        }))
    }

    /// A message with so many readings sets out. Whatever becomes of it: what was counted is taken
    /// off when the way is dropped.
    pub fn send(&self, readings: usize) -> Way {
        let readings = i64::try_from(readings).unwrap_or(i64::MAX);
        self.0.waiting.inc();
        self.0.in_flight.add(readings);
        Way {
            mailbox: self.clone(),
            sent: Instant::now(),
            waits: true,
            readings,
        }
    }
}

/// The way of one message, up to the end of its handler.
#[derive(Debug)]
pub struct Way {
    mailbox: Mailbox,
    sent: Instant,
    waits: bool,
    readings: i64,
}

impl Way {
    /// Out of the mailbox, into the handler.
    pub fn arrive(&mut self) {
        if std::mem::take(&mut self.waits) {
            let numbers = &self.mailbox.0;
            numbers.waiting.dec();
            numbers.seconds.observe(self.sent.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let numbers = &self.mailbox.0;
        if self.waits {
            numbers.waiting.dec();
        }
        numbers.in_flight.sub(self.readings);
    }
}
