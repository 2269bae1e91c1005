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

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    /// A message may be dropped anywhere: refused, or with a handler that panics.
    #[test]
    fn whatever_becomes_of_a_message_nothing_stays_counted() {
        let gauge = || IntGauge::new("n", "n").unwrap();
        let (waiting, in_flight) = (gauge(), gauge());
        let seconds = Histogram::with_opts(HistogramOpts::new("n", "n")).unwrap();
        let mailbox = Mailbox::new(waiting.clone(), seconds.clone(), in_flight.clone());
        let counts = || (waiting.get(), in_flight.get(), seconds.get_sample_count());
        let (refused, mut handled) = (mailbox.send(3), mailbox.send(4));
        assert_eq!(counts(), (2, 7, 0));
        drop(refused);
        handled.arrive();
        handled.arrive();
        assert_eq!(counts(), (0, 4, 1));
        drop(handled);
        assert_eq!(counts(), (0, 0, 1));
    }
}
