//! The battery's voltage behind a divider.

use embassy_futures::block_on;
use node_core::{Quantity, Sensor, SensorError};
use node_drivers::{Battery, PinVoltage};

/// Gives these samples in turn.
struct Samples(Vec<Result<u16, SensorError>>, usize);

impl PinVoltage for Samples {
    async fn millivolts(&mut self) -> Result<u16, SensorError> {
        let sample = self.0[self.1 % self.0.len()];
        self.1 += 1;
        sample
    }
}

fn read(
    samples: &[Result<u16, SensorError>],
    divider_milli: u32,
) -> Result<Vec<(Quantity, f64)>, SensorError> {
    block_on(Battery::new(Samples(samples.to_vec(), 0), divider_milli).read())
}

#[test]
fn the_mean_times_the_divider() {
    let expected = |volts| Ok(vec![(Quantity::Battery, volts)]);
    assert_eq!(read(&[Ok(1_850)], 2_000), expected(3.7));
    // 100 kΩ and 220 kΩ: 1 + 220/100.
    assert_eq!(read(&[Ok(1_200), Ok(1_300)], 3_200), expected(4.0));
    assert_eq!(read(&[Ok(0)], 2_000), expected(0.0));
}

#[test]
fn a_failed_or_impossible_sample_is_no_voltage() {
    assert_eq!(
        read(&[Ok(1_850), Err(SensorError::Timeout)], 2_000),
        Err(SensorError::Timeout)
    );
    assert_eq!(read(&[Ok(u16::MAX)], 2_000), Err(SensorError::Checksum));
}
