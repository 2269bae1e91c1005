//! Everything of the node that is not a peripheral. The same code runs on a chip and on a PC.
//!
//! # Architecture
//!
//! ```text
//!  Sensor(s) ──▶ sampling ──▶ queue (flash) ──▶ session (MQTT 5) ──▶ Network::dial ──▶ broker
//!                   │             ▲                    │
//!                 Board         Flash          PUBACK removes
//! ```
//!
//! A chip or a PC provides five things and calls [`Node::open`] and [`Node::run`]:
//!
//! - [`Board`]: uptime, waiting, random numbers, text out, the watchdog;
//! - [`Network`]: one dialled connection (TLS is inside the dialler) and one UDP exchange. Joining
//!   Wi-Fi and keeping the address is the glue's own task: while there is no network, both calls say
//!   [`DialError::NoNetwork`], and the core tries again later;
//! - [`Sensor`]s, boxed as [`AnySensor`], each with the index of its entry in the config;
//! - two pieces of flash, as [`MultiwriteNorFlash`](embedded_storage_async::nor_flash::MultiwriteNorFlash):
//!   one for the queue, one for the few facts that outlive a boot ([`Parts`]);
//! - [`Keys`]: what somebody types at the console. A node without a console passes [`NoKeys`].
//!
//! Everything runs in one task: [`Node::run`] joins sampling, uplink and console, and returns when
//! the chip has to do something itself ([`Ended`]): sleep, or restart. No callback is called from an
//! interrupt, and nothing here needs `Send`.
//!
//! The config comes out of its partition by [`vigie_wire::node::Config::decode`]; the glue reads the
//! bytes, applies [`with_changes`] for what it needs itself (Wi-Fi), builds drivers from it, and hands
//! the decoded config on as it was.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod board;
mod clock;
mod console;
#[cfg(any(test, feature = "emulated"))]
pub mod emulated;
mod entry;
mod facts;
#[cfg(test)]
mod fuzz;
mod mend;
mod network;
mod node;
mod queue;
mod sampling;
mod sensor;
mod session;
mod settings;
mod shared;
mod sntp;
#[cfg(test)]
mod testing;
mod tls;
mod uplink;

pub use board::{Board, FEED_EVERY_MS, Keys, NoKeys};
pub use network::{DialError, Link, Network, Target};
pub use node::{Ended, MAX_IDS, Node, OpenError, Parts, Retained, Start, Timing};
pub use queue::{capacity_hours, capacity_readings, page_life_years};
pub use sensor::{AnySensor, Quantity, Sensor, SensorError, Values};
pub use settings::with_changes;
pub use shared::Counts;
pub use tls::{Civil, certificate_words};
