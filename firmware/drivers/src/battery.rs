//! The voltage of a battery behind a resistor divider.

use alloc::vec;

use node_core::{Quantity, Sensor, SensorError, Values};

use crate::round;

/// Samples of which the mean is taken: one alone jumps by tens of mV when the radio sends.
const SAMPLES: u32 = 16;
/// More than this at the pin is outside what an ADC of these chips can give.
const FULL_SCALE_MV: u16 = 4_095;

/// An analogue pin.
pub trait PinVoltage {
    /// Samples once, and gives mV at the pin.
    fn millivolts(&mut self) -> impl Future<Output = Result<u16, SensorError>>;
}

/// A battery.
#[derive(Debug)]
pub struct Battery<P> {
    pin: P,
    divider_milli: u32,
}

impl<P: PinVoltage> Battery<P> {
    /// A battery whose voltage is that of the pin times `divider_milli` / 1000.
    pub fn new(pin: P, divider_milli: u32) -> Self {
        Self { pin, divider_milli }
    }
}

impl<P: PinVoltage> Sensor for Battery<P> {
    async fn read(&mut self) -> Result<Values, SensorError> {
        let mut sum = 0;
        for _ in 0..SAMPLES {
            let sample = self.pin.millivolts().await?;
            if sample > FULL_SCALE_MV {
                return Err(SensorError::Checksum);
            }
            sum += u32::from(sample);
        }
        let pin_mv = f64::from(sum) / f64::from(SAMPLES);
        let volts = pin_mv * f64::from(self.divider_milli) / 1e6;
        Ok(vec![(Quantity::Battery, round::decimals(volts, 2))])
    }
}
