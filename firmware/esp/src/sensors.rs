//! From the config to drivers on pins.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use embassy_embedded_hal::shared_bus::asynch::i2c::I2cDevice;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::mutex::Mutex;
use embassy_time::{Delay, Timer};
use esp_hal::Async;
use esp_hal::Blocking;
use esp_hal::analog::adc::{Adc, AdcCalScheme, AdcChannel, AdcConfig, AdcPin, Attenuation};
use esp_hal::gpio::{AnalogPin, DriveMode, Flex, InputConfig, Level, Output, OutputConfig, Pull};
use esp_hal::i2c::master::{AnyI2c, Config as I2cConfig, I2c};
use esp_hal::peripherals::{self, ADC1};
use esp_hal::time::Rate;
use node_core::{AnySensor, SensorError};
use node_drivers::{Battery, Bme280, Dht22, PinVoltage, SHT_ADDRESS, Sht};
use vigie_wire::node::{self, Config, Kind};

use crate::pins::{Board, Pins};

/// What every sensor and every cable of a metre can do.
const I2C_RATE: Rate = Rate::from_khz(100);

type Bus = Mutex<NoopRawMutex, I2c<'static, Async>>;
type Device = I2cDevice<'static, NoopRawMutex, I2c<'static, Async>>;
type Found = Result<Box<dyn AnySensor>, String>;

/// The sensors of the config by index, the battery behind them. One that cannot be built does not keep
/// the others from being read: in its place is what is wrong, in words.
pub(crate) fn build(
    config: &Config,
    board: Board,
    pins: &mut Pins,
    i2c: AnyI2c<'static>,
    adc: ADC1<'static>,
) -> Vec<(usize, Found)> {
    if let Some(power) = board.power.and_then(|pin| pins.take(pin)) {
        // Stays as it is when the driver is gone.
        let _ = Output::new(power, Level::High, OutputConfig::default());
    }
    let bus = open_bus(board, pins, i2c);
    let mut found: Vec<(usize, Found)> = config
        .sensors
        .iter()
        .map(|sensor| driver(sensor, board, pins, &bus))
        .enumerate()
        .collect();
    if let Some(settings) = config.battery {
        found.push((config.sensors.len(), battery(settings, pins, adc)));
    }
    found
}

fn open_bus(board: Board, pins: &mut Pins, i2c: AnyI2c<'static>) -> Result<&'static Bus, String> {
    let (Some(sda), Some(scl)) = (pins.take(board.sda), pins.take(board.scl)) else {
        return Err(format!(
            "the pins of the I²C bus of {} are taken",
            board.name
        ));
    };
    let bus = I2c::new(i2c, I2cConfig::default().with_frequency(I2C_RATE))
        .map_err(|why| format!("the I²C bus does not start: {why}"))?
        .with_sda(sda)
        .with_scl(scl)
        .into_async();
    Ok(Box::leak(Box::new(Mutex::new(bus))))
}

fn driver(
    sensor: &node::Sensor,
    board: Board,
    pins: &mut Pins,
    bus: &Result<&'static Bus, String>,
) -> Found {
    let device = || -> Result<Device, String> {
        if sensor.bus != 0 {
            return Err(format!("bus {}: {} has bus 0 only", sensor.bus, board.name));
        }
        bus.clone().map(I2cDevice::new)
    };
    let at = |usual| sensor.address.unwrap_or(usual);
    match sensor.kind {
        Kind::Sht3x => Ok(Box::new(Sht::sht3x(device()?, Delay, at(SHT_ADDRESS)))),
        Kind::Sht4x => Ok(Box::new(Sht::sht4x(device()?, Delay, at(SHT_ADDRESS)))),
        Kind::Bme280 => {
            let address = at(Bme280::<Device, Delay>::ADDRESS);
            Ok(Box::new(Bme280::new(device()?, Delay, address)))
        }
        Kind::Dht22 => {
            let number = sensor.pin.ok_or("dht22 needs `pin`, the GPIO number")?;
            let pin = pins.take(number).ok_or_else(|| no_pin("dht22", number))?;
            let mut pin = Flex::new(pin);
            pin.set_high();
            pin.apply_output_config(
                &OutputConfig::default()
                    .with_drive_mode(DriveMode::OpenDrain)
                    .with_pull(Pull::Up),
            );
            pin.apply_input_config(&InputConfig::default().with_pull(Pull::Up));
            pin.set_output_enable(true);
            pin.set_input_enable(true);
            let busy = esp_hal::delay::Delay::new();
            Ok(Box::new(Dht22::new(pin, Delay, busy)))
        }
        Kind::Generated | Kind::Recorded => {
            Err("sensors `generated` and `recorded` are for the node on a PC".into())
        }
    }
}

fn no_pin(what: &str, number: u8) -> String {
    format!("{what}: this chip has no GPIO {number} that is free")
}

/// Makes the driver for the pin with this number. The list is that of the chip's first converter; the
/// second one cannot be used beside the radio.
macro_rules! battery_on {
    ($settings:ident, $pins:ident, $adc:ident: $($number:literal $gpio:ident),*) => {
        match $settings.pin {
            $($number => {
                let pin = $pins.take($number).ok_or_else(|| no_pin("battery", $number))?;
                let pin: peripherals::$gpio<'static> =
                    pin.downcast().map_err(|_| no_pin("battery", $number))?;
                let pin = AnalogInput::new(pin, $adc);
                Ok(Box::new(Battery::new(pin, $settings.divider_milli)))
            })*
            other => Err(format!("battery: GPIO {other} has no analogue input of ADC1")),
        }
    };
}

fn battery(settings: node::Battery, pins: &mut Pins, adc: ADC1<'static>) -> Found {
    cfg_select! {
        feature = "esp32" => {
            battery_on!(settings, pins, adc: 32 GPIO32, 33 GPIO33, 34 GPIO34, 35 GPIO35, 36 GPIO36,
                39 GPIO39)
        }
        feature = "esp32c3" => {
            battery_on!(settings, pins, adc: 0 GPIO0, 1 GPIO1, 2 GPIO2, 3 GPIO3, 4 GPIO4)
        }
        feature = "esp32c6" => {
            battery_on!(settings, pins, adc: 0 GPIO0, 1 GPIO1, 2 GPIO2, 3 GPIO3, 4 GPIO4, 5 GPIO5,
                6 GPIO6)
        }
        _ => {
            battery_on!(settings, pins, adc: 1 GPIO1, 2 GPIO2, 3 GPIO3, 4 GPIO4, 5 GPIO5, 6 GPIO6,
                7 GPIO7, 8 GPIO8, 9 GPIO9, 10 GPIO10)
        }
    }
}

/// The calibration that the chip carries in its fuses; it makes millivolts of what is read.
type Calibration = cfg_select! {
    feature = "esp32" => { () }
    feature = "esp32s2" => { esp_hal::analog::adc::AdcCalLine<ADC1<'static>> }
    _ => { esp_hal::analog::adc::AdcCalCurve<ADC1<'static>> }
};

/// An analogue input over the whole range, 0 to about 3 V.
struct AnalogInput<P> {
    adc: Adc<'static, ADC1<'static>, Blocking>,
    pin: AdcPin<P, ADC1<'static>, Calibration>,
}

impl<P: AdcChannel + AnalogPin> AnalogInput<P>
where
    Calibration: AdcCalScheme<ADC1<'static>>,
{
    fn new(pin: P, adc: ADC1<'static>) -> Self {
        let mut config = AdcConfig::new();
        let pin = config.enable_pin_with_cal(pin, Attenuation::_11dB);
        Self {
            adc: Adc::new(adc, config),
            pin,
        }
    }
}

/// A conversion takes some 10 µs.
const POLLS: u32 = 100;

impl<P: AdcChannel + AnalogPin> PinVoltage for AnalogInput<P> {
    async fn millivolts(&mut self) -> Result<u16, SensorError> {
        for _ in 0..POLLS {
            match self.adc.read_oneshot(&mut self.pin) {
                // The classic ESP32 has no calibration here: 12 bits are 3.3 V, within 10 %.
                #[cfg(feature = "esp32")]
                Ok(raw) => {
                    return u16::try_from(u32::from(raw) * 3_300 / 4_095)
                        .map_err(|_| SensorError::Checksum);
                }
                #[cfg(not(feature = "esp32"))]
                Ok(millivolts) => return Ok(millivolts),
                Err(nb::Error::WouldBlock) => Timer::after_micros(50).await,
                Err(nb::Error::Other(())) => return Err(SensorError::Bus),
            }
        }
        Err(SensorError::Timeout)
    }
}
