//! SHT30, SHT31, SHT35 and SHT40, SHT41, SHT45 by Sensirion. Sections are those of the data sheets
//! SHT3x-DIS, version 7, and `SHT4x`, version 6.5.

use alloc::vec;

use embedded_hal_async::delay::DelayNs;
use embedded_hal_async::i2c::I2c;
use node_core::{Quantity, Sensor, SensorError, Values};

use crate::{crc8, failure, round};

/// The address of both families: of an `SHT3x` with pin ADDR low (high it is 0x45, §3.4), and of the
/// usual version of an `SHT4x` (there are others with 0x45 and 0x46).
pub const ADDRESS: u8 = 0x44;
/// While it measures, it does not acknowledge a read (`SHT3x` §4.4, `SHT4x` §4.1). It gets as long again.
const TRIES: u32 = 5;

/// In what the two families differ.
#[derive(Debug)]
struct Family {
    /// One measurement of high repeatability.
    measure: &'static [u8],
    /// It takes so long at most.
    conversion_ms: u32,
    again_ms: u32,
    /// Relative humidity, %, of the raw value: so much at 0, and so much more at the end of the scale.
    humidity: (f64, f64),
}

/// Without clock stretching (§4.3): a sensor that holds the clock would hold the others on the bus as
/// well. 15.5 ms at most (§2.2); formula: §4.13.
const SHT3X: Family = Family {
    measure: &[0x24, 0x00],
    conversion_ms: 16,
    again_ms: 4,
    humidity: (0.0, 100.0),
};

/// Command: §4.5. 8.3 ms at most (§3.1). The formula (§4.6) goes beyond 0 and 100 %, and is to be cut
/// there.
const SHT4X: Family = Family {
    measure: &[0xfd],
    conversion_ms: 9,
    again_ms: 2,
    humidity: (-6.0, 125.0),
};

/// A sensor on an I²C bus.
#[derive(Debug)]
pub struct Sht<I, D> {
    bus: I,
    delay: D,
    address: u8,
    family: &'static Family,
}

impl<I: I2c, D: DelayNs> Sht<I, D> {
    /// An SHT30, SHT31 or SHT35 at this address.
    pub fn sht3x(bus: I, delay: D, address: u8) -> Self {
        Self::of(&SHT3X, bus, delay, address)
    }

    /// An SHT40, SHT41 or SHT45 at this address.
    pub fn sht4x(bus: I, delay: D, address: u8) -> Self {
        Self::of(&SHT4X, bus, delay, address)
    }

    fn of(family: &'static Family, bus: I, delay: D, address: u8) -> Self {
        Self {
            bus,
            delay,
            address,
            family,
        }
    }

    async fn fetch(&mut self) -> Result<[u8; 6], SensorError> {
        let again_ms = self.family.again_ms;
        let mut frame = [0; 6];
        for _ in 0..TRIES {
            match self.bus.read(self.address, &mut frame).await {
                Ok(()) => return Ok(frame),
                Err(error) if failure::is_busy(&error) => self.delay.delay_ms(again_ms).await,
                Err(_) => return Err(SensorError::Bus),
            }
        }
        Err(SensorError::Timeout)
    }
}

impl<I: I2c, D: DelayNs> Sensor for Sht<I, D> {
    async fn read(&mut self) -> Result<Values, SensorError> {
        let family = self.family;
        self.bus
            .write(self.address, family.measure)
            .await
            .map_err(|error| failure::address(&error))?;
        self.delay.delay_ms(family.conversion_ms).await;
        let frame = self.fetch().await?;
        let (temperature, humidity) = crc8::words(frame).ok_or(SensorError::Checksum)?;
        let share = |raw: u16| f64::from(raw) / 65_535.0;
        let celsius = -45.0 + 175.0 * share(temperature);
        let (least, scale) = family.humidity;
        let percent = (least + scale * share(humidity)).clamp(0.0, 100.0);
        Ok(vec![
            (Quantity::Temperature, round::decimals(celsius, 2)),
            (Quantity::Humidity, round::decimals(percent, 2)),
        ])
    }
}
