//! SHT30, SHT31, SHT35 by Sensirion. Sections are those of the data sheet SHT3x-DIS, version 7.

use alloc::vec;

use embedded_hal_async::delay::DelayNs;
use embedded_hal_async::i2c::I2c;
use node_core::{Quantity, Sensor, SensorError, Values};

use crate::{crc8, failure, round};

/// One measurement of high repeatability, without clock stretching (§4.3): a sensor that holds the
/// clock would hold the others on the bus as well.
const MEASURE: [u8; 2] = [0x24, 0x00];
/// A measurement of high repeatability takes 15.5 ms at most (§2.2).
const CONVERSION_MS: u32 = 16;
/// While it measures, it does not acknowledge a read (§4.4). It gets as long again.
const TRIES: u32 = 5;
const AGAIN_MS: u32 = 4;

/// A sensor on an I²C bus.
#[derive(Debug)]
pub struct Sht3x<I, D> {
    bus: I,
    delay: D,
    address: u8,
}

impl<I: I2c, D: DelayNs> Sht3x<I, D> {
    /// The address with pin ADDR low; high it is 0x45 (§3.4).
    pub const ADDRESS: u8 = 0x44;

    /// A sensor at this address.
    pub fn new(bus: I, delay: D, address: u8) -> Self {
        Self {
            bus,
            delay,
            address,
        }
    }

    async fn fetch(&mut self) -> Result<[u8; 6], SensorError> {
        let mut frame = [0; 6];
        for _ in 0..TRIES {
            match self.bus.read(self.address, &mut frame).await {
                Ok(()) => return Ok(frame),
                Err(error) if failure::is_busy(&error) => self.delay.delay_ms(AGAIN_MS).await,
                Err(_) => return Err(SensorError::Bus),
            }
        }
        Err(SensorError::Timeout)
    }
}

impl<I: I2c, D: DelayNs> Sensor for Sht3x<I, D> {
    async fn read(&mut self) -> Result<Values, SensorError> {
        self.bus
            .write(self.address, &MEASURE)
            .await
            .map_err(|error| failure::address(&error))?;
        self.delay.delay_ms(CONVERSION_MS).await;
        let frame = self.fetch().await?;
        let (temperature, humidity) = crc8::words(frame).ok_or(SensorError::Checksum)?;
        // §4.13.
        let celsius = -45.0 + 175.0 * f64::from(temperature) / 65_535.0;
        let percent = 100.0 * f64::from(humidity) / 65_535.0;
        Ok(vec![
            (Quantity::Temperature, round::decimals(celsius, 2)),
            (Quantity::Humidity, round::decimals(percent, 2)),
        ])
    }
}
