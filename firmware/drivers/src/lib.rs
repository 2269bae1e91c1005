//! Sensor drivers: what the data sheets say, behind [`node_core::Sensor`].
//!
//! Each driver measures once, checks what came, and says what was wrong in one of the four words of
//! [`SensorError`]. Trying again, counting and reporting is the core's business. The drivers hold no
//! unfinished business between two calls, so whatever failed, the next call can succeed.
//!
//! They are generic over the traits of `embedded-hal` and `embedded-hal-async`: the tests run them on
//! mocks, a chip on its peripherals. Several drivers on one I²C bus share it through any bus manager.
#![no_std]

extern crate alloc;

mod battery;
mod bme280;
mod crc8;
mod dht22;
mod failure;
mod round;
mod sht;

pub use battery::{Battery, PinVoltage};
pub use bme280::Bme280;
pub use dht22::Dht22;
pub use sht::{ADDRESS as SHT_ADDRESS, Sht};

pub use node_core::SensorError;
