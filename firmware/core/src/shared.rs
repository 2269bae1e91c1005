//! What sampling, uplink and console of a node share. One task runs them, so nothing here is ever
//! locked across a wait of another, except the flash.

use alloc::string::String;
use core::cell::{Cell, RefCell};

use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use vigie_wire::node::Config;

use crate::clock::Clock;
use crate::entry::Names;
use crate::facts::Facts;
use crate::queue::Queue;
use crate::session::within;
use crate::sntp;
use crate::{Board, Network, Timing};

/// How long a time server may take.
const SNTP_MS: u64 = 3_000;

/// The floor is written when it has moved by so much: flash wears.
const FLOOR_STEP_MS: i64 = 3_600_000;

pub(crate) struct Shared<B, F: MultiwriteNorFlash, S: MultiwriteNorFlash> {
    pub(crate) board: B,
    pub(crate) timing: Timing,
    /// With what was changed at the console.
    pub(crate) config: Config,
    /// Of the config without that.
    pub(crate) fingerprint: u32,
    pub(crate) queue: Mutex<NoopRawMutex, Queue<F>>,
    pub(crate) facts: Mutex<NoopRawMutex, Facts<S>>,
    pub(crate) clock: Cell<Clock>,
    pub(crate) counters: Counters,
    /// What the uplink does, in words.
    pub(crate) link: RefCell<String>,
    /// By when sampling and uplink move again.
    pub(crate) due: Due,
    /// There is something new to send, or to do.
    pub(crate) fresh: Signal<NoopRawMutex, ()>,
    pub(crate) boot: [u8; 8],
    pub(crate) names: Names,
}

/// What is counted since the boot.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    readings: Cell<u64>,
    failed_reads: Cell<u64>,
    connects: Cell<u64>,
    acknowledged: Cell<u64>,
    refused: Cell<u64>,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

impl Counters {
    pub(crate) fn add_reading(&self) {
        add(&self.readings);
    }

    pub(crate) fn add_failed_read(&self) {
        add(&self.failed_reads);
    }

    pub(crate) fn add_acknowledged(&self) {
        add(&self.acknowledged);
    }

    pub(crate) fn add_refused(&self) {
        add(&self.refused);
    }

    #[cfg(test)]
    pub(crate) fn readings(&self) -> u64 {
        self.readings.get()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.get()
    }
}

/// How much later than it announced a loop may move: asking every time server, writing to flash and
/// waiting for the other loop's writes are in it.
pub(crate) const GRACE_MS: u64 = 60_000;

/// By which uptime sampling and uplink have announced to move again. The watchdog is fed only while
/// both keep their word. A loop that does not run has announced nothing.
#[derive(Debug)]
pub(crate) struct Due {
    sampling_ms: Cell<u64>,
    uplink_ms: Cell<u64>,
}

impl Default for Due {
    fn default() -> Self {
        Self {
            sampling_ms: Cell::new(u64::MAX),
            uplink_ms: Cell::new(u64::MAX),
        }
    }
}

impl Due {
    pub(crate) fn sampling_at(&self, uptime_ms: u64) {
        self.sampling_ms.set(uptime_ms.saturating_add(GRACE_MS));
    }

    pub(crate) fn uplink_at(&self, uptime_ms: u64) {
        self.uplink_ms.set(uptime_ms.saturating_add(GRACE_MS));
    }

    /// There is nothing more to sample: the node sleeps when it has sent.
    pub(crate) fn sampling_is_over(&self) {
        self.sampling_ms.set(u64::MAX);
    }

    pub(crate) fn is_kept(&self, now_ms: u64) -> bool {
        now_ms <= self.sampling_ms.get().min(self.uplink_ms.get())
    }
}

/// The counters of a node since its boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings taken.
    pub readings: u64,
    /// Attempts to read a sensor that failed.
    pub failed_reads: u64,
    /// Sessions with the broker; all but the first are reconnects.
    pub connects: u64,
    /// Readings that the broker acknowledged.
    pub acknowledged: u64,
    /// Readings that the broker will never take.
    pub refused: u64,
    /// Readings dropped for want of room, oldest first.
    pub dropped: u64,
    /// Failures of the flash.
    pub flash_errors: u64,
    /// Readings that wait.
    pub waiting: u64,
}

impl<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash> Shared<B, F, S> {
    pub(crate) fn say(&self, line: &str) {
        self.board.print(line);
    }

    pub(crate) async fn counts(&self) -> Counts {
        let queue = self.queue.lock().await;
        Counts {
            readings: self.counters.readings.get(),
            failed_reads: self.counters.failed_reads.get(),
            connects: self.counters.connects.get(),
            acknowledged: self.counters.acknowledged.get(),
            refused: self.counters.refused.get(),
            dropped: queue.dropped(),
            flash_errors: queue.flash_errors(),
            waiting: queue.len() as u64,
        }
    }

    /// The broker has accepted us: with TLS, its certificate was valid at this time.
    pub(crate) async fn connected(&self) {
        add(&self.counters.connects);
        self.link.replace("connected".into());
        self.say("connected");
        let mut clock = self.clock.get();
        if let Some(utc_ms) = clock.utc(self.board.uptime_ms())
            && utc_ms > clock.floor_ms.saturating_add(FLOOR_STEP_MS)
        {
            clock.floor_ms = utc_ms;
            self.clock.set(clock);
            let kept = self.facts.lock().await.set_floor_ms(utc_ms).await;
            if !kept {
                self.say("the flash does not keep the time");
            }
        }
    }

    /// Asks the time servers one after the other; whether one had the time.
    pub(crate) async fn ask_the_time(&self, network: &impl Network) -> bool {
        for host in &self.config.ntp {
            let mut nonce = [0; 8];
            self.board.random(&mut nonce);
            let request = sntp::request(nonce);
            let mut bytes = [0; 64];
            // "host:port" is for tests and for networks with a server of their own.
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') => {
                    (name, port.parse().unwrap_or(sntp::PORT))
                }
                _ => (host.as_str(), sntp::PORT),
            };
            let exchange = network.exchange(name, port, &request, &mut bytes);
            let Some(Ok(length)) = within(&self.board, SNTP_MS, exchange).await else {
                continue;
            };
            let Ok(utc_ms) = sntp::reply(nonce, bytes.get(..length).unwrap_or_default()) else {
                continue;
            };
            let mut clock = self.clock.get();
            if clock.set(utc_ms, self.board.uptime_ms()) {
                self.clock.set(clock);
                return true;
            }
            self.say("a time server says a time before the last good one: not believed");
        }
        false
    }
}
