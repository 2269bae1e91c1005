//! The I²C sensors on a mocked bus: good frames, wrong checksums, time-outs, nothing connected.

use embassy_futures::block_on;
use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::delay::NoopDelay;
use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
use node_core::{Quantity, Sensor, SensorError, Values};
use node_drivers::{Bme280, SHT_ADDRESS, Sht};

const NOBODY: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
const DATA_REFUSED: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data);

type Bus = Mock;

/// Which sensor, and how often it is read.
fn sht3x(bus: &Bus) -> Sht<Bus, NoopDelay> {
    Sht::sht3x(bus.clone(), NoopDelay::new(), SHT_ADDRESS)
}

fn sht4x(bus: &Bus) -> Sht<Bus, NoopDelay> {
    Sht::sht4x(bus.clone(), NoopDelay::new(), SHT_ADDRESS)
}

fn bme280(bus: &Bus) -> Bme280<Bus, NoopDelay> {
    Bme280::new(bus.clone(), NoopDelay::new(), 0x76)
}

/// Reads once, and checks that exactly these transfers took place.
fn once<S: Sensor>(
    transfers: &[Transaction],
    sensor: impl FnOnce(&Bus) -> S,
) -> Result<Values, SensorError> {
    let mut bus = Mock::new(transfers);
    let mut sensor = sensor(&bus);
    let result = block_on(sensor.read());
    bus.done();
    result
}

fn values(expected: &[(Quantity, f64)]) -> Values {
    expected.to_vec()
}

#[test]
fn sht3x_good_frames() {
    // 0x6666 and 0x8000 by the formulas of §4.13: -45 + 175 × 0.4 and 100 × 0.5 (rounded).
    let frame = vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2];
    let transfers = [
        Transaction::write(0x44, vec![0x24, 0x00]),
        Transaction::read(0x44, frame),
    ];
    let expected = Ok(values(&[
        (Quantity::Temperature, 25.0),
        (Quantity::Humidity, 50.0),
    ]));
    assert_eq!(once(&transfers, sht3x), expected);

    // The ends of the scale.
    let transfers = [
        Transaction::write(0x44, vec![0x24, 0x00]),
        Transaction::read(0x44, vec![0x00, 0x00, 0x81, 0xff, 0xff, 0xac]),
    ];
    let expected = Ok(values(&[
        (Quantity::Temperature, -45.0),
        (Quantity::Humidity, 100.0),
    ]));
    assert_eq!(once(&transfers, sht3x), expected);
}

#[test]
fn sht4x_good_frames() {
    let frame = vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2];
    let transfers = [
        Transaction::write(0x44, vec![0xfd]),
        Transaction::read(0x44, frame),
    ];
    let expected = Ok(values(&[
        (Quantity::Temperature, 25.0),
        (Quantity::Humidity, 56.5),
    ]));
    assert_eq!(once(&transfers, sht4x), expected);

    // The formula of §4.6 gives -6 % and 119 % at its ends; both are cut.
    for (word, percent) in [([0x00, 0x00, 0x81], 0.0), ([0xff, 0xff, 0xac], 100.0)] {
        let frame = [[0x66, 0x66, 0x93], word].concat();
        let transfers = [
            Transaction::write(0x44, vec![0xfd]),
            Transaction::read(0x44, frame),
        ];
        let expected = Ok(values(&[
            (Quantity::Temperature, 25.0),
            (Quantity::Humidity, percent),
        ]));
        assert_eq!(once(&transfers, sht4x), expected);
    }
}

#[test]
fn sht_wrong_checksums() {
    for at in 0..6 {
        let mut frame = vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2];
        frame[at] ^= 0x10;
        let three = [
            Transaction::write(0x44, vec![0x24, 0x00]),
            Transaction::read(0x44, frame.clone()),
        ];
        assert_eq!(once(&three, sht3x), Err(SensorError::Checksum), "byte {at}");
        let four = [
            Transaction::write(0x44, vec![0xfd]),
            Transaction::read(0x44, frame),
        ];
        assert_eq!(once(&four, sht4x), Err(SensorError::Checksum), "byte {at}");
    }
}

#[test]
fn sht_that_is_slow_and_sht_that_never_ends() {
    let not_yet = || Transaction::read(0x44, vec![0; 6]).with_error(NOBODY);
    let slow = [
        Transaction::write(0x44, vec![0x24, 0x00]),
        not_yet(),
        not_yet(),
        Transaction::read(0x44, vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2]),
    ];
    let expected = Ok(values(&[
        (Quantity::Temperature, 25.0),
        (Quantity::Humidity, 50.0),
    ]));
    assert_eq!(once(&slow, sht3x), expected);

    let never = |command: Vec<u8>| {
        let mut transfers = vec![Transaction::write(0x44, command)];
        transfers.extend((0..5).map(|_| not_yet()));
        transfers
    };
    assert_eq!(
        once(&never(vec![0x24, 0x00]), sht3x),
        Err(SensorError::Timeout)
    );
    assert_eq!(once(&never(vec![0xfd]), sht4x), Err(SensorError::Timeout));
}

#[test]
fn nothing_connected_and_a_bus_that_fails() {
    let write = |bytes: &[u8], error| Transaction::write(0x44, bytes.to_vec()).with_error(error);
    let register = |error| Transaction::write_read(0x76, vec![0xd0], vec![0]).with_error(error);
    for (error, expected) in [
        (NOBODY, SensorError::NotPresent),
        (
            ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown),
            SensorError::NotPresent,
        ),
        (DATA_REFUSED, SensorError::Bus),
        (ErrorKind::ArbitrationLoss, SensorError::Bus),
        (ErrorKind::Bus, SensorError::Bus),
        (ErrorKind::Other, SensorError::Bus),
    ] {
        assert_eq!(
            once(&[write(&[0x24, 0x00], error)], sht3x),
            Err(expected),
            "{error:?}"
        );
        assert_eq!(
            once(&[write(&[0xfd], error)], sht4x),
            Err(expected),
            "{error:?}"
        );
        assert_eq!(once(&[register(error)], bme280), Err(expected), "{error:?}");
    }
    // It was there for the command, and the bus fails in the answer.
    let transfers = [
        Transaction::write(0x44, vec![0xfd]),
        Transaction::read(0x44, vec![0; 6]).with_error(ErrorKind::Bus),
    ];
    assert_eq!(once(&transfers, sht4x), Err(SensorError::Bus));
}

#[test]
fn an_sht_can_be_read_again_after_every_failure() {
    let good = [
        Transaction::write(0x44, vec![0xfd]),
        Transaction::read(0x44, vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2]),
    ];
    let mut transfers = vec![
        Transaction::write(0x44, vec![0xfd]).with_error(NOBODY),
        Transaction::write(0x44, vec![0xfd]),
        Transaction::read(0x44, vec![0x66, 0x66, 0x00, 0x80, 0x00, 0xa2]),
    ];
    transfers.extend(good);
    let mut bus = Mock::new(&transfers);
    let mut sensor = sht4x(&bus);
    assert_eq!(block_on(sensor.read()), Err(SensorError::NotPresent));
    assert_eq!(block_on(sensor.read()), Err(SensorError::Checksum));
    assert!(block_on(sensor.read()).is_ok());
    bus.done();
}

// ---- BME280 ----

/// Trimming values of BST-BMP280-DS001 §3.12 and, for humidity, of a chip that was read; registers
/// 0x88 to 0xA1.
const TP: [u8; 26] = [
    0x70, 0x6b, 0x43, 0x67, 0x18, 0xfc, 0x7d, 0x8e, 0x43, 0xd6, 0xd0, 0x0b, 0x27, 0x0b, 0x8c, 0x00,
    0xf9, 0xff, 0x8c, 0x3c, 0xf8, 0xc6, 0x70, 0x17, 0x00, 75,
];
/// Registers 0xE1 to 0xE7: H2 = 362, H3 = 0, H4 = 321, H5 = 50, H6 = 30.
const H: [u8; 7] = [0x6a, 0x01, 0x00, 0x14, 0x21, 0x03, 0x1e];
/// Raw pressure 415148, temperature 519888 (the data sheet's example), humidity 0x6a00.
const DATA: [u8; 8] = [0x65, 0x5a, 0xc0, 0x7e, 0xed, 0x00, 0x6a, 0x00];

fn register(from: u8, bytes: &[u8]) -> Transaction {
    Transaction::write_read(0x76, vec![from], bytes.to_vec())
}

fn calibration() -> Vec<Transaction> {
    vec![
        register(0xd0, &[0x60]),
        register(0x88, &TP),
        register(0xe1, &H),
    ]
}

fn start() -> Transaction {
    Transaction::write(0x76, vec![0xf2, 0x01, 0xf5, 0x00, 0xf4, 0x25])
}

fn measurement(data: [u8; 8]) -> Vec<Transaction> {
    vec![start(), register(0xf3, &[0x00]), register(0xf7, &data)]
}

#[test]
fn bme280_good_frames() {
    // The calibration is read once.
    let transfers = [calibration(), measurement(DATA), measurement(DATA)].concat();
    let mut bus = Mock::new(&transfers);
    let mut sensor = bme280(&bus);
    for _ in 0..2 {
        let values = block_on(sensor.read()).expect("a reading");
        let [t, h, p] = values[..] else {
            panic!("three values, not {values:?}")
        };
        assert_eq!(t, (Quantity::Temperature, 25.08));
        assert_eq!(p, (Quantity::Pressure, 1006.53));
        assert_eq!(h.0, Quantity::Humidity);
        assert!((0.0..=100.0).contains(&h.1), "{h:?}");
    }
    bus.done();
}

#[test]
fn bme280_another_chip_or_blank_registers() {
    // 0x58 is a BMP280, which has no humidity.
    assert_eq!(
        once(&[register(0xd0, &[0x58])], bme280),
        Err(SensorError::NotPresent)
    );
    let blank = [
        register(0xd0, &[0x60]),
        register(0x88, &[0xff; 26]),
        register(0xe1, &[0xff; 7]),
    ];
    assert_eq!(once(&blank, bme280), Err(SensorError::Checksum));
}

#[test]
fn bme280_data_that_cannot_be() {
    // Not measured, and all ones as from a bus that nobody drives.
    for data in [[0x80, 0, 0, 0x80, 0, 0, 0x80, 0], [0xff; 8], [0; 8]] {
        let transfers = [calibration(), measurement(data)].concat();
        assert_eq!(
            once(&transfers, bme280),
            Err(SensorError::Checksum),
            "{data:?}"
        );
    }
}

#[test]
fn bme280_that_never_ends_is_asked_for_its_calibration_again() {
    let mut transfers = calibration();
    transfers.push(start());
    transfers.extend((0..5).map(|_| register(0xf3, &[0x08])));
    transfers.extend(calibration());
    transfers.extend(measurement(DATA));
    let mut bus = Mock::new(&transfers);
    let mut sensor = bme280(&bus);
    assert_eq!(block_on(sensor.read()), Err(SensorError::Timeout));
    assert!(block_on(sensor.read()).is_ok());
    bus.done();
}

#[test]
fn several_sensors_share_a_bus() {
    let mut transfers = vec![
        Transaction::write(0x44, vec![0xfd]),
        Transaction::read(0x44, vec![0x66, 0x66, 0x93, 0x80, 0x00, 0xa2]),
    ];
    transfers.extend(calibration());
    transfers.extend(measurement(DATA));
    let mut bus = Mock::new(&transfers);
    let mut first = sht4x(&bus);
    let mut second = bme280(&bus);
    assert!(block_on(first.read()).is_ok());
    assert!(block_on(second.read()).is_ok());
    bus.done();
}
