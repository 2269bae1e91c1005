//! The node: what chip glue and host both drive.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use embassy_futures::select::{Either3, select3};
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use vigie_wire::node::{Config, Kind, MAX_SENSORS, Sleep};

use crate::clock::Clock;
use crate::entry::Names;
use crate::facts::Facts;
use crate::queue::Queue;
use crate::sampling::{Sampled, Sampling};
use crate::shared::{Counters, Counts, Due, Shared};
use crate::{AnySensor, Board, Keys, Network, console, settings, uplink};

/// How long a node that sleeps tries to get rid of its readings before it sleeps again.
const AWAKE_MS: u64 = 60_000;

/// The most sensor ids of one node: each sensor may have its own, and the battery has the node's.
pub const MAX_IDS: usize = MAX_SENSORS + 1;

/// What a node is made of.
#[expect(missing_debug_implementations, reason = "holds drivers and secrets")]
pub struct Parts<B, N, K, F, S> {
    /// Time, chance, text, watchdog.
    pub board: B,
    /// Connections.
    pub network: N,
    /// The console.
    pub keys: K,
    /// Where readings wait: all of it is used. At least 4 pages; a board has 416 KiB.
    pub queue_flash: F,
    /// Where a few facts outlive a boot (time floor, changed settings): at least 2 pages.
    pub facts_flash: S,
    /// The config, as decoded from its partition; the changes made at the console are applied here.
    pub config: Config,
    /// The sensors, each with its index in `config.sensors`. One whose index is beyond them, such as
    /// the battery's, belongs to the node's own id.
    pub sensors: Vec<(usize, Box<dyn AnySensor>)>,
    /// What goes out with the first reading: version, reset reason, crash message.
    pub start: Start,
    /// What came through deep sleep in RTC memory; `None` after any other start.
    pub retained: Option<Retained>,
    /// How patient the node is.
    pub timing: Timing,
}

/// How patient a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A ping goes out when nothing was sent for half of this; the broker declares the node gone
    /// after one and a half.
    pub keep_alive_ms: u64,
    /// How long the broker may owe an answer.
    pub answer_ms: u64,
    /// How long connecting may take, TLS included.
    pub dial_ms: u64,
    /// The pause after the first failure; it doubles with each.
    pub pause_ms: u64,
    /// The longest pause.
    pub longest_pause_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive_ms: 60_000,
            answer_ms: 20_000,
            dial_ms: 30_000,
            pause_ms: 1_000,
            longest_pause_ms: 300_000,
        }
    }
}

/// What the first reading after a start tells about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Version of the firmware.
    pub firmware: String,
    /// Why the chip restarted: `power-on`, `brown-out`, `watchdog`, `panic`, `software`.
    pub reset: String,
    /// What the panic before it said. Cut to 256 bytes by the core.
    pub crash: Option<String>,
}

/// What has to come through deep sleep in RTC memory: the glue keeps it as it is, and gives it back
/// in [`Parts::retained`] when the reset reason was deep sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// The boot id goes on, so that `seq` does. Zeros fill up.
    pub boot: [u8; 8],
    /// The next sequence number of each sensor id, by position.
    pub seq: [u64; MAX_IDS],
    /// UTC minus uptime in ms, if the clock was set.
    pub utc_offset_ms: Option<i64>,
    /// The uptime at which a time server was last heard.
    pub synced_ms: u64,
    /// The uptime at which the node went to sleep. The glue's
    /// [`Board::uptime_ms`] goes on from this plus `sleep_ms`, or from an RTC that counts on.
    pub slept_at_ms: u64,
    /// For how long, in ms.
    pub sleep_ms: u64,
}

/// Why [`Node::run`] ended: the glue's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Deep sleep for so long, keeping this.
    Sleep {
        /// For how long, in ms.
        for_ms: u64,
        /// What to keep.
        retained: Retained,
    },
    /// Restart: somebody asked for it at the console.
    Reboot,
}

/// Why a node cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The flash for the queue or the facts is too small or not whole pages.
    Flash,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash => f.write_str("the flash of the queue or of the facts has the wrong size"),
        }
    }
}

impl core::error::Error for OpenError {}

/// A node.
#[expect(missing_debug_implementations, reason = "holds drivers and secrets")]
pub struct Node<B, N, K, F: MultiwriteNorFlash, S: MultiwriteNorFlash> {
    shared: Shared<B, F, S>,
    network: N,
    keys: K,
    sampling: Sampling,
}

impl<B: Board, N: Network, K: Keys, F: MultiwriteNorFlash, S: MultiwriteNorFlash>
    Node<B, N, K, F, S>
{
    /// Opens the queue and the facts in flash, repairing what a power cut left.
    ///
    /// # Errors
    ///
    /// When a piece of flash cannot be used at all.
    pub async fn open(parts: Parts<B, N, K, F, S>) -> Result<Self, OpenError> {
        let mut facts = Facts::open(parts.facts_flash).await?;
        let queue = Queue::open(parts.queue_flash).await?;
        let config = settings::changed(&parts.config, &mut facts).await;
        let mut clock = Clock {
            floor_ms: facts.floor_ms().await,
            ..Clock::default()
        };
        let mut sampling = Sampling {
            ids: Vec::new(),
            sensors: Vec::new(),
            start: None,
        };
        for (index, sensor) in parts.sensors {
            let known = config.sensors.get(index);
            let id = known.map_or(config.id, |known| config.id_of(known));
            let place = sampling.ids.iter().position(|&(held, _)| held == id);
            let place = place.unwrap_or(sampling.ids.len());
            if place == sampling.ids.len() {
                sampling.ids.push((id, 0));
            }
            sampling.sensors.push(Sampled {
                name: known.map_or("battery", |known| kind_name(known.kind)),
                sensor,
                id: place,
                trouble: None,
            });
        }
        let boot = if let Some(retained) = parts.retained {
            clock.offset_ms = retained.utc_offset_ms;
            clock.synced_ms = retained.synced_ms;
            for ((_, seq), kept) in sampling.ids.iter_mut().zip(retained.seq) {
                *seq = kept;
            }
            retained.boot
        } else {
            sampling.start = Some(parts.start);
            boot_id(&parts.board)
        };
        let shared = Shared {
            fingerprint: settings::fingerprint(&parts.config),
            board: parts.board,
            timing: parts.timing,
            config,
            queue: Mutex::new(queue),
            facts: Mutex::new(facts),
            clock: Cell::new(clock),
            counters: Counters::default(),
            link: RefCell::new("not connected yet".into()),
            due: Due::default(),
            fresh: Signal::new(),
            boot,
            names: Names::new(),
        };
        Ok(Self {
            shared,
            network: parts.network,
            keys: parts.keys,
            sampling,
        })
    }

    /// Samples, sends and listens to the console until the chip has to do something itself.
    pub async fn run(&mut self) -> Ended {
        let Self {
            shared,
            network,
            keys,
            sampling,
        } = self;
        let shared = &*shared;
        let work = async {
            match shared.config.sleep {
                Sleep::None => {
                    embassy_futures::join::join(
                        sampling.for_ever(shared),
                        uplink::for_ever(shared, network),
                    )
                    .await;
                }
                Sleep::Deep => {
                    sampling.once(shared).await;
                    shared.due.sampling_is_over();
                    uplink::until_sent(shared, network, AWAKE_MS).await;
                }
            }
        };
        let ended = select3(work, console::run(shared, keys), heartbeat(shared)).await;
        // What the flash is doing is done first.
        let _queue = shared.queue.lock().await;
        let _facts = shared.facts.lock().await;
        match ended {
            Either3::First(()) => {
                let now_ms = shared.board.uptime_ms();
                let interval_ms = u64::from(shared.config.interval_ms.max(1));
                let for_ms = interval_ms - now_ms % interval_ms;
                let mut seq = [0; MAX_IDS];
                for (kept, &(_, next)) in seq.iter_mut().zip(&sampling.ids) {
                    *kept = next;
                }
                let clock = shared.clock.get();
                let retained = Retained {
                    boot: shared.boot,
                    seq,
                    utc_offset_ms: clock.offset_ms,
                    synced_ms: clock.synced_ms,
                    slept_at_ms: now_ms,
                    sleep_ms: for_ms,
                };
                Ended::Sleep { for_ms, retained }
            }
            Either3::Second(()) | Either3::Third(()) => Ended::Reboot,
        }
    }

    /// What was counted since the boot.
    pub async fn counts(&self) -> Counts {
        self.shared.counts().await
    }
}

/// Feeds the watchdog for ever, if sampling and uplink move when they said they would: the executor
/// alone may live on while one of them waits for something that never comes.
async fn heartbeat<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
) {
    loop {
        let now_ms = shared.board.uptime_ms();
        if shared.due.is_kept(now_ms) {
            shared.board.feed();
        }
        let next_ms = now_ms.saturating_add(crate::FEED_EVERY_MS);
        shared.board.sleep_until(next_ms).await;
    }
}

/// Eight random characters.
fn boot_id(board: &impl Board) -> [u8; 8] {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 8];
    board.random(&mut bytes);
    bytes.map(|byte| LETTERS[usize::from(byte & 31)])
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sht3x => "sht3x",
        Kind::Sht4x => "sht4x",
        Kind::Bme280 => "bme280",
        Kind::Dht22 => "dht22",
        Kind::Generated => "generated",
        Kind::Recorded => "recorded",
    }
}

#[cfg(test)]
mod tests;
