//! BME280 by Bosch: temperature, humidity, pressure. Sections are those of the data sheet
//! BST-BME280-DS001, revision 1.24.

use alloc::vec;

use embedded_hal_async::delay::DelayNs;
use embedded_hal_async::i2c::I2c;
use node_core::{Quantity, Sensor, SensorError, Values};

use crate::{failure, round};

// Registers (§5.3).
const CALIBRATION_TP: u8 = 0x88;
const ID: u8 = 0xd0;
const CALIBRATION_H: u8 = 0xe1;
const CTRL_HUM: u8 = 0xf2;
const STATUS: u8 = 0xf3;
const CTRL_MEAS: u8 = 0xf4;
const CONFIG: u8 = 0xf5;
const DATA: u8 = 0xf7;

/// What register 0xD0 holds. A BMP280, which has no humidity, holds 0x58.
const BME280: u8 = 0x60;
/// Humidity once (§5.4.3). It counts from the next write to `CTRL_MEAS`.
const HUMIDITY_ONCE: u8 = 0b001;
/// Temperature once (bits 7 to 5), pressure once (4 to 2), forced mode: one measurement, then sleep (§5.4.5).
const MEASURE_ONCE: u8 = 0b0010_0101;
/// Neither filter nor SPI with three wires (§5.4.6). What the weather recipe wants (§3.5.1).
const NO_FILTER: u8 = 0;
/// One measurement of each takes 9.3 ms at most (§9.1).
const CONVERSION_MS: u32 = 10;
/// Bit 3 of the status: a conversion is running (§5.4.4). It gets as long again.
const MEASURING: u8 = 1 << 3;
const TRIES: u32 = 5;
const AGAIN_MS: u32 = 2;
/// The value of a channel that was not measured (§5.4.7 to §5.4.9).
const SKIPPED_20: u32 = 0x8_0000;
const SKIPPED_16: u16 = 0x8000;

/// A sensor on an I²C bus.
#[derive(Debug)]
pub struct Bme280<I, D> {
    bus: I,
    delay: D,
    address: u8,
    /// Read at first use, and again after anything went wrong: it may be another chip by then.
    calibration: Option<Calibration>,
}

impl<I: I2c, D: DelayNs> Bme280<I, D> {
    /// The address with pin SDO low; high it is 0x77 (§6.2).
    pub const ADDRESS: u8 = 0x76;

    /// A sensor at this address.
    pub fn new(bus: I, delay: D, address: u8) -> Self {
        Self {
            bus,
            delay,
            address,
            calibration: None,
        }
    }

    async fn registers<const N: usize>(&mut self, from: u8) -> Result<[u8; N], SensorError> {
        let mut bytes = [0; N];
        self.bus
            .write_read(self.address, &[from], &mut bytes)
            .await
            .map_err(|error| failure::address(&error))?;
        Ok(bytes)
    }

    async fn calibration(&mut self) -> Result<Calibration, SensorError> {
        if let Some(calibration) = self.calibration {
            return Ok(calibration);
        }
        let [id] = self.registers(ID).await?;
        if id != BME280 {
            return Err(SensorError::NotPresent);
        }
        let tp = self.registers(CALIBRATION_TP).await?;
        let h = self.registers(CALIBRATION_H).await?;
        let calibration = Calibration::new(tp, h).ok_or(SensorError::Checksum)?;
        self.calibration = Some(calibration);
        Ok(calibration)
    }

    async fn measure(&mut self) -> Result<Values, SensorError> {
        let calibration = self.calibration().await?;
        // Pairs of register and value in one transfer (§6.2.1). A sensor that lost its supply for
        // a moment has forgotten all of them, so they are written every time.
        let settings = [
            CTRL_HUM,
            HUMIDITY_ONCE,
            CONFIG,
            NO_FILTER,
            CTRL_MEAS,
            MEASURE_ONCE,
        ];
        self.bus
            .write(self.address, &settings)
            .await
            .map_err(|error| failure::address(&error))?;
        self.delay.delay_ms(CONVERSION_MS).await;
        for _ in 0..TRIES {
            let [status] = self.registers(STATUS).await?;
            if status & MEASURING == 0 {
                let raw = Raw::new(self.registers(DATA).await?).ok_or(SensorError::Checksum)?;
                return calibration.values(raw).ok_or(SensorError::Checksum);
            }
            self.delay.delay_ms(AGAIN_MS).await;
        }
        Err(SensorError::Timeout)
    }
}

impl<I: I2c, D: DelayNs> Sensor for Bme280<I, D> {
    async fn read(&mut self) -> Result<Values, SensorError> {
        let result = self.measure().await;
        if result.is_err() {
            self.calibration = None;
        }
        result
    }
}

/// What the converter gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw {
    pressure: u32,
    temperature: u32,
    humidity: u16,
}

impl Raw {
    /// From registers 0xF7 to 0xFE (§4). `None` if a channel was not measured.
    fn new(data: [u8; 8]) -> Option<Self> {
        let [p2, p1, p0, t2, t1, t0, h1, h0] = data;
        let raw = Self {
            pressure: u32::from_be_bytes([0, p2, p1, p0]) >> 4,
            temperature: u32::from_be_bytes([0, t2, t1, t0]) >> 4,
            humidity: u16::from_be_bytes([h1, h0]),
        };
        let skipped = raw.pressure == SKIPPED_20
            || raw.temperature == SKIPPED_20
            || raw.humidity == SKIPPED_16;
        (!skipped).then_some(raw)
    }
}

/// The chip's own trimming values (§4.2.2).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Calibration {
    t: [f64; 3],
    p: [f64; 9],
    h: [f64; 6],
}

impl Calibration {
    /// From registers 0x88 to 0xA1 and 0xE1 to 0xE7. `None` if they are blank: a chip has none of
    /// these at zero or at ones.
    fn new(tp: [u8; 26], h: [u8; 7]) -> Option<Self> {
        let unsigned = |at: usize| f64::from(u16::from_le_bytes([tp[at], tp[at + 1]]));
        let signed = |at: usize| f64::from(i16::from_le_bytes([tp[at], tp[at + 1]]));
        let t1 = u16::from_le_bytes([tp[0], tp[1]]);
        let p1 = u16::from_le_bytes([tp[6], tp[7]]);
        if [t1, p1].iter().any(|&x| x == 0 || x == u16::MAX) {
            return None;
        }
        // H4 and H5 are 12 bits each, and share a byte.
        let [h2_0, h2_1, h3, h4_hi, h45, h5_hi, h6] = h;
        let twelve = |high: u8, low: u8| {
            let value = i16::from_le_bytes([low << 4, high]);
            f64::from(value >> 4)
        };
        Some(Self {
            t: [unsigned(0), signed(2), signed(4)],
            p: core::array::from_fn(|i| {
                if i == 0 {
                    unsigned(6)
                } else {
                    signed(6 + 2 * i)
                }
            }),
            h: [
                f64::from(tp[25]),
                f64::from(i16::from_le_bytes([h2_0, h2_1])),
                f64::from(h3),
                twelve(h4_hi, h45 & 0x0f),
                twelve(h5_hi, h45 >> 4),
                f64::from(h6.cast_signed()),
            ],
        })
    }

    /// The formulas of §8.1. `None` outside what the sensor can give (§1.1 to §1.4).
    fn values(&self, raw: Raw) -> Option<Values> {
        let (celsius, fine) = self.temperature(raw.temperature);
        let hpa = self.pressure(raw.pressure, fine)? / 100.0;
        let percent = self.humidity(raw.humidity, fine);
        let possible = (-45.0..=90.0).contains(&celsius) && (250.0..=1_150.0).contains(&hpa);
        possible.then(|| {
            vec![
                (Quantity::Temperature, round::decimals(celsius, 2)),
                (Quantity::Humidity, round::decimals(percent, 2)),
                (Quantity::Pressure, round::decimals(hpa, 2)),
            ]
        })
    }

    /// °C, and what the other formulas call `t_fine`.
    fn temperature(&self, raw: u32) -> (f64, f64) {
        let [t1, t2, t3] = self.t;
        let raw = f64::from(raw);
        let var1 = (raw / 16_384.0 - t1 / 1_024.0) * t2;
        let difference = raw / 131_072.0 - t1 / 8_192.0;
        let fine = var1 + difference * difference * t3;
        (fine / 5_120.0, fine)
    }

    /// Pa.
    fn pressure(&self, raw: u32, fine: f64) -> Option<f64> {
        let [p1, p2, p3, p4, p5, p6, p7, p8, p9] = self.p;
        let var1 = fine / 2.0 - 64_000.0;
        let var2 = var1 * var1 * p6 / 32_768.0 + var1 * p5 * 2.0;
        let var2 = var2 / 4.0 + p4 * 65_536.0;
        let var1 = (p3 * var1 * var1 / 524_288.0 + p2 * var1) / 524_288.0;
        let var1 = (1.0 + var1 / 32_768.0) * p1;
        if var1.abs() < f64::EPSILON {
            return None;
        }
        let p = 1_048_576.0 - f64::from(raw);
        let p = (p - var2 / 4_096.0) * 6_250.0 / var1;
        let var1 = p9 * p * p / 2_147_483_648.0;
        let var2 = p * p8 / 32_768.0;
        Some(p + (var1 + var2 + p7) / 16.0)
    }

    /// % relative humidity.
    fn humidity(&self, raw: u16, fine: f64) -> f64 {
        let [h1, h2, h3, h4, h5, h6] = self.h;
        let h = fine - 76_800.0;
        let h = (f64::from(raw) - (h4 * 64.0 + h5 / 16_384.0 * h))
            * (h2 / 65_536.0 * (1.0 + h6 / 67_108_864.0 * h * (1.0 + h3 / 67_108_864.0 * h)));
        (h * (1.0 - h1 * h / 524_288.0)).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests;
