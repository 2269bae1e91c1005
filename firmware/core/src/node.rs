//! The node: what chip glue and host both drive.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use vigie_wire::node::Config;

use crate::{AnySensor, Board, Keys, Network};

/// What a node is made of.
pub struct Parts<B, N, K, F, S> {
    /// Time, chance, text, watchdog.
    pub board: B,
    /// Connections.
    pub network: N,
    /// The console.
    pub keys: K,
    /// Where readings wait: all of it is used. At least 4 pages; 256 KiB is usual.
    pub queue_flash: F,
    /// Where a few facts outlive a boot (time floor, changed settings): at least 2 pages.
    pub facts_flash: S,
    /// The config, as decoded from its partition.
    pub config: Config,
    /// The sensors, each with its index in `config.sensors`.
    pub sensors: Vec<(usize, Box<dyn AnySensor>)>,
    /// What goes out with the first reading: version, reset reason, crash message.
    pub start: Start,
    /// What came through deep sleep in RTC memory; `None` after any other start.
    pub retained: Option<Retained>,
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
    /// The boot id goes on, so that `seq` does.
    pub boot: [u8; 8],
    /// The next sequence number of each sensor id, by position.
    pub seq: [u64; 8],
    /// UTC minus uptime in ms, if the clock was set.
    pub utc_offset_ms: Option<i64>,
    /// The uptime at which the node went to sleep.
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
pub struct Node<B, N, K, F, S> {
    parts: Parts<B, N, K, F, S>,
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
        Ok(Self { parts })
    }

    /// Samples, sends and listens to the console until the chip has to do something itself.
    pub async fn run(&mut self) -> Ended {
        core::future::pending().await
    }
}
