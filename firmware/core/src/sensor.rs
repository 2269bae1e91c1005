//! What a sensor is to the node.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;

/// What a sensor can measure. The names are those of the wire format; the engine knows the first
/// two, the others are declared in its config (`[quantities.pressure]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Quantity {
    /// Air temperature in °C.
    Temperature = 0,
    /// Relative humidity in %.
    Humidity = 1,
    /// Air pressure in hPa.
    Pressure = 2,
    /// Voltage of the battery in V.
    Battery = 3,
}

impl Quantity {
    /// Every quantity, by number.
    pub const ALL: [Self; 4] = [
        Self::Temperature,
        Self::Humidity,
        Self::Pressure,
        Self::Battery,
    ];

    /// Its key in a reading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Pressure => "pressure",
            Self::Battery => "battery",
        }
    }
}

/// What one reading of a sensor gave: no quantity twice, every number finite, rounded to what the
/// sensor resolves (`21.4`, not `21.399999618530273`: each digit costs flash and air time).
pub type Values = Vec<(Quantity, f64)>;

/// Why a reading of a sensor gave nothing. The core tries again, counts it and reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorError {
    /// The bus failed: no acknowledgement in the middle of a transfer, arbitration lost, and so on.
    Bus,
    /// The data came and its checksum is wrong, or it is outside what the sensor can give.
    Checksum,
    /// The sensor did not answer in time.
    Timeout,
    /// Nothing answers at that address or on that pin.
    NotPresent,
}

impl fmt::Display for SensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bus => "the bus failed",
            Self::Checksum => "its checksum is wrong",
            Self::Timeout => "it did not answer in time",
            Self::NotPresent => "nothing answers there, see wiring and address",
        })
    }
}

impl core::error::Error for SensorError {}

/// A sensor: one chip that gives one or several quantities at once.
pub trait Sensor {
    /// Measures once. It wakes the chip, waits for the conversion, reads and checks; it does not
    /// retry (the core does) and it leaves the chip such that the next call can succeed, whatever
    /// failed in this one. The core drops the future after 5 s.
    fn read(&mut self) -> impl Future<Output = Result<Values, SensorError>>;
}

/// A [`Sensor`] behind a pointer, so that one list can hold all kinds. Every sensor is one.
pub trait AnySensor {
    /// [`Sensor::read`].
    fn read_boxed(&mut self) -> Pin<Box<dyn Future<Output = Result<Values, SensorError>> + '_>>;
}

impl<S: Sensor> AnySensor for S {
    fn read_boxed(&mut self) -> Pin<Box<dyn Future<Output = Result<Values, SensorError>> + '_>> {
        Box::pin(self.read())
    }
}
