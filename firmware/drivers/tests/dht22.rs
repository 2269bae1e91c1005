//! The DHT22 on a wire that behaves as its data sheet says, and on wires that do not.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use embassy_futures::block_on;
use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use node_core::{Quantity, Sensor, SensorError, Values};
use node_drivers::Dht22;

/// What happens on the wire after the node lets go: levels and for how long they last, in µs. The
/// last one stays.
type Wave = Vec<(bool, u32)>;

/// The time, and when the node let go.
#[expect(clippy::struct_field_names, reason = "units belong into names")]
#[derive(Default)]
struct Shared {
    now_us: Cell<u32>,
    released_us: Cell<Option<u32>>,
    held_low_us: Cell<u32>,
}

struct Wire {
    shared: Rc<Shared>,
    wave: Wave,
}

impl ErrorType for Wire {
    type Error = Infallible;
}

impl OutputPin for Wire {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.shared.released_us.set(None);
        self.shared.held_low_us.set(self.shared.now_us.get());
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        let now = self.shared.now_us.get();
        self.shared.released_us.set(Some(now));
        self.shared
            .held_low_us
            .set(now - self.shared.held_low_us.get());
        Ok(())
    }
}

impl InputPin for Wire {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        let Some(released) = self.shared.released_us.get() else {
            return Ok(false);
        };
        let mut since = self.shared.now_us.get() - released;
        for (level, for_us) in &self.wave {
            if since < *for_us {
                return Ok(*level);
            }
            since -= for_us;
        }
        Ok(self.wave.last().is_some_and(|(level, _)| *level))
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        self.is_high().map(|high| !high)
    }
}

/// Moves the time on. A poll costs a bit more than its delay.
struct Delay(Rc<Shared>, u32);

impl embedded_hal::delay::DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        self.0.now_us.set(self.0.now_us.get() + ns / 1_000 + self.1);
    }
}

impl embedded_hal_async::delay::DelayNs for Delay {
    async fn delay_ns(&mut self, ns: u32) {
        self.0.now_us.set(self.0.now_us.get() + ns / 1_000);
    }
}

/// The answer of the data sheet to these bytes.
fn answer(frame: [u8; 5]) -> Wave {
    let mut wave = vec![(true, 30), (false, 80), (true, 80)];
    for bit in 0..40 {
        let one = frame[bit / 8] & (0x80 >> (bit % 8)) != 0;
        wave.push((false, 50));
        wave.push((true, if one { 70 } else { 27 }));
    }
    wave.extend([(false, 50), (true, 1)]);
    wave
}

fn read(wave: Wave, poll_us: u32) -> (Result<Values, SensorError>, u32) {
    let shared = Rc::new(Shared::default());
    let wire = Wire {
        shared: Rc::clone(&shared),
        wave,
    };
    let mut sensor = Dht22::new(
        wire,
        Delay(Rc::clone(&shared), 0),
        Delay(Rc::clone(&shared), poll_us),
    );
    (block_on(sensor.read()), shared.held_low_us.get())
}

fn values(temperature: f64, humidity: f64) -> Values {
    vec![
        (Quantity::Temperature, temperature),
        (Quantity::Humidity, humidity),
    ]
}

#[test]
fn the_examples_of_the_data_sheet() {
    // 65.2 %, 35.1 °C; and -10.1 °C.
    let frame = [0x02, 0x8c, 0x01, 0x5f, 0xee];
    let cold = [0x02, 0x8c, 0x80, 0x65, 0x73];
    // Polls from 1 to 9 µs: whatever clock the chip has.
    for poll_us in 0..9 {
        let (result, held_low_us) = read(answer(frame), poll_us);
        assert_eq!(result, Ok(values(35.1, 65.2)), "poll + {poll_us} µs");
        assert!((1_000..20_000).contains(&held_low_us), "{held_low_us}");
        assert_eq!(read(answer(cold), poll_us).0, Ok(values(-10.1, 65.2)));
    }
}

#[test]
fn a_wrong_sum_or_values_that_cannot_be() {
    for frame in [
        [0x02, 0x8c, 0x01, 0x5f, 0xef],
        [0x02, 0x8d, 0x01, 0x5f, 0xee],
        // 102.4 %, and 120 °C, with right sums.
        [0x04, 0x00, 0x01, 0x5f, 0x64],
        [0x02, 0x8c, 0x04, 0xb0, 0x42],
        [0; 5],
    ] {
        assert_eq!(
            read(answer(frame), 0).0,
            Err(SensorError::Checksum),
            "{frame:x?}"
        );
    }
}

#[test]
fn nothing_connected() {
    // The pull-up alone.
    assert_eq!(read(vec![(true, 1)], 0).0, Err(SensorError::NotPresent));
    // No pull-up, or a short circuit.
    assert_eq!(read(vec![(false, 1)], 0).0, Err(SensorError::Bus));
}

#[test]
fn an_answer_that_stops() {
    let whole = answer([0x02, 0x8c, 0x01, 0x5f, 0xee]);
    for length in 2..whole.len() - 2 {
        let (result, _) = read(whole[..length].to_vec(), 0);
        assert_eq!(result, Err(SensorError::Timeout), "after {length} levels");
    }
}
