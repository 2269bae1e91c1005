//! DHT22 (AM2302) by Aosong: one wire with a pull-up. What follows is the section "Communication" of
//! its data sheet.
//!
//! The node pulls the wire low for at least 1 ms and lets go. The sensor answers with 80 µs low and
//! 80 µs high, then 40 bits: 50 µs low, then high for 26–28 µs (0) or 70 µs (1).

use alloc::vec;

use embedded_hal::delay::DelayNs as BusyDelayNs;
use embedded_hal::digital::{InputPin, OutputPin};
use embedded_hal_async::delay::DelayNs;
use node_core::{Quantity, Sensor, SensorError, Values};

use crate::round;

const START_MS: u32 = 2;
const BITS: usize = 40;
/// Polls, at least 1 µs apart, after which a level is not going to end. The longest is 80 µs; while
/// the chip does something else a poll takes longer, never shorter.
const MAX_POLLS: u32 = 200;

/// A sensor on an open-drain pin.
#[derive(Debug)]
pub struct Dht22<P, D, B> {
    pin: P,
    delay: D,
    busy: B,
}

impl<P: InputPin + OutputPin, D: DelayNs, B: BusyDelayNs> Dht22<P, D, B> {
    /// A sensor on this pin, which must be open drain: writing high lets go of the wire. `busy` waits
    /// between polls.
    pub fn new(pin: P, delay: D, busy: B) -> Self {
        Self { pin, delay, busy }
    }

    /// Polls for which the wire stays as it is.
    fn pulse(&mut self, high: bool) -> Result<u32, SensorError> {
        for polls in 0..MAX_POLLS {
            if self.pin.is_high().map_err(|_| SensorError::Bus)? != high {
                return Ok(polls);
            }
            self.busy.delay_us(1);
        }
        Err(SensorError::Timeout)
    }

    /// The answer: the length of each bit's low and high part, compared with each other. So neither
    /// the clock of the sensor nor the duration of a poll matters.
    fn frame(&mut self) -> Result<[u8; 5], SensorError> {
        // The pull-up takes 20–40 µs until the sensor pulls.
        self.pulse(true).map_err(|_| SensorError::NotPresent)?;
        self.pulse(false)?;
        self.pulse(true)?;
        let mut frame = [0_u8; 5];
        for bit in 0..BITS {
            let low = self.pulse(false)?;
            let high = self.pulse(true)?;
            frame[bit / 8] = (frame[bit / 8] << 1) | u8::from(high > low);
        }
        Ok(frame)
    }
}

impl<P: InputPin + OutputPin, D: DelayNs, B: BusyDelayNs> Sensor for Dht22<P, D, B> {
    async fn read(&mut self) -> Result<Values, SensorError> {
        self.pin.set_low().map_err(|_| SensorError::Bus)?;
        self.delay.delay_ms(START_MS).await;
        // An interrupt in the middle would make a 0 a 1. The answer takes 5 ms.
        let frame = critical_section::with(|_| {
            self.pin.set_high().map_err(|_| SensorError::Bus)?;
            // A wire that does not rise has no pull-up, or is held down.
            self.pulse(false).map_err(|_| SensorError::Bus)?;
            self.frame()
        });
        decode(frame?)
    }
}

/// Humidity and temperature in tenths, the sign as a bit of its own, and the sum of the bytes.
fn decode(frame: [u8; 5]) -> Result<Values, SensorError> {
    let [h1, h0, t1, t0, sum] = frame;
    let expected = [h1, h0, t1, t0].into_iter().fold(0_u8, u8::wrapping_add);
    if sum != expected {
        return Err(SensorError::Checksum);
    }
    let percent = f64::from(u16::from_be_bytes([h1, h0])) / 10.0;
    let magnitude = f64::from(u16::from_be_bytes([t1 & 0x7f, t0])) / 10.0;
    let celsius = if t1 & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    };
    // Zeroes have a right sum, and what they say is possible but for a wire that is stuck.
    let possible = percent <= 100.0 && (-40.0..=80.0).contains(&celsius) && frame != [0; 5];
    if !possible {
        return Err(SensorError::Checksum);
    }
    Ok(vec![
        (Quantity::Temperature, round::decimals(celsius, 1)),
        (Quantity::Humidity, round::decimals(percent, 1)),
    ])
}
