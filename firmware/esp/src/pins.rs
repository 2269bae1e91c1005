//! Boards: which pin leads where.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use esp_hal::gpio::{AnyPin, Pin as _};
use vigie_wire::node::Config;

/// A board's pin map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    /// Its name in the config.
    pub(crate) name: &'static str,
    /// Data of the I²C bus.
    pub(crate) sda: u8,
    /// Clock of the I²C bus.
    pub(crate) scl: u8,
    /// A pin that has to be high for the bus to have power.
    pub(crate) power: Option<u8>,
}

const fn board(name: &'static str, sda: u8, scl: u8, power: Option<u8>) -> Board {
    Board {
        name,
        sda,
        scl,
        power,
    }
}

#[cfg(feature = "esp32c3")]
const BOARDS: [Board; 3] = [
    board("esp32c3-devkitm-1", 6, 7, None),
    board("esp32c3-supermini", 8, 9, None),
    board("xiao-esp32c3", 6, 7, None),
];
#[cfg(feature = "esp32c6")]
const BOARDS: [Board; 3] = [
    board("esp32c6-devkitc-1", 6, 7, None),
    board("firebeetle2-esp32c6", 19, 20, None),
    board("xiao-esp32c6", 22, 23, None),
];
#[cfg(feature = "esp32")]
const BOARDS: [Board; 3] = [
    board("esp32-devkitc", 21, 22, None),
    board("firebeetle-esp32", 21, 22, None),
    board("lolin-d32", 21, 22, None),
];
#[cfg(feature = "esp32s2")]
const BOARDS: [Board; 3] = [
    board("esp32s2-saola-1", 8, 9, None),
    board("feather-esp32s2", 3, 4, Some(7)),
    board("lolin-s2-mini", 33, 35, None),
];
#[cfg(feature = "esp32s3")]
const BOARDS: [Board; 3] = [
    board("esp32s3-devkitc-1", 8, 9, None),
    board("feather-esp32s3", 3, 4, Some(7)),
    board("xiao-esp32s3", 5, 6, None),
];

/// The pin at which the first UART listens.
const CONSOLE: u8 = cfg_select! {
    feature = "esp32" => { 3 }
    feature = "esp32c3" => { 20 }
    feature = "esp32c6" => { 17 }
    _ => { 44 }
};

/// The board of this name.
///
/// # Errors
///
/// The names that there are.
pub(crate) fn map(name: &str) -> Result<Board, String> {
    BOARDS
        .iter()
        .find(|board| board.name == name)
        .copied()
        .ok_or_else(|| {
            let [a, b, c] = BOARDS.map(|board| board.name);
            format!("the config names board {name:?}; this firmware knows {a}, {b}, {c}")
        })
}

/// The pin of the serial console, unless the config wants it for something else.
pub(crate) fn spare_console(
    config: &Config,
    board: Board,
    pins: &mut Pins,
) -> Option<AnyPin<'static>> {
    let wanted = config
        .sensors
        .iter()
        .any(|sensor| sensor.pin == Some(CONSOLE))
        || config.battery.is_some_and(|battery| battery.pin == CONSOLE)
        || [Some(board.sda), Some(board.scl), board.power].contains(&Some(CONSOLE));
    if wanted { None } else { pins.take(CONSOLE) }
}

/// The pins that nobody has yet.
pub(crate) struct Pins(Vec<AnyPin<'static>>);

impl Pins {
    /// These pins.
    pub(crate) fn new(pins: Vec<AnyPin<'static>>) -> Self {
        Self(pins)
    }

    /// The pin with this number, once.
    pub(crate) fn take(&mut self, number: u8) -> Option<AnyPin<'static>> {
        let at = self.0.iter().position(|pin| pin.number() == number)?;
        Some(self.0.swap_remove(at))
    }
}

/// All pins of the chip but those of the flash and of USB.
macro_rules! pins {
    ($p:ident) => {
        cfg_select! {
            feature = "esp32" => {
                $crate::pins::list!($p: GPIO0 GPIO1 GPIO2 GPIO3 GPIO4 GPIO5 GPIO12 GPIO13 GPIO14 GPIO15
                    GPIO16 GPIO17 GPIO18 GPIO19 GPIO21 GPIO22 GPIO23 GPIO25 GPIO26 GPIO27 GPIO32 GPIO33
                    GPIO34 GPIO35 GPIO36 GPIO39)
            }
            feature = "esp32c3" => {
                $crate::pins::list!($p: GPIO0 GPIO1 GPIO2 GPIO3 GPIO4 GPIO5 GPIO6 GPIO7 GPIO8 GPIO9 GPIO10
                    GPIO20 GPIO21)
            }
            feature = "esp32c6" => {
                $crate::pins::list!($p: GPIO0 GPIO1 GPIO2 GPIO3 GPIO4 GPIO5 GPIO6 GPIO7 GPIO8 GPIO9 GPIO10
                    GPIO11 GPIO14 GPIO15 GPIO16 GPIO17 GPIO18 GPIO19 GPIO20 GPIO21 GPIO22 GPIO23)
            }
            feature = "esp32s2" => {
                $crate::pins::list!($p: GPIO0 GPIO1 GPIO2 GPIO3 GPIO4 GPIO5 GPIO6 GPIO7 GPIO8 GPIO9 GPIO10
                    GPIO11 GPIO12 GPIO13 GPIO14 GPIO15 GPIO16 GPIO17 GPIO18 GPIO21 GPIO33 GPIO34 GPIO35
                    GPIO36 GPIO37 GPIO38 GPIO39 GPIO40 GPIO41 GPIO42 GPIO43 GPIO44)
            }
            feature = "esp32s3" => {
                $crate::pins::list!($p: GPIO0 GPIO1 GPIO2 GPIO3 GPIO4 GPIO5 GPIO6 GPIO7 GPIO8 GPIO9 GPIO10
                    GPIO11 GPIO12 GPIO13 GPIO14 GPIO15 GPIO16 GPIO17 GPIO18 GPIO21 GPIO35 GPIO36 GPIO37
                    GPIO38 GPIO39 GPIO40 GPIO41 GPIO42 GPIO43 GPIO44 GPIO47 GPIO48)
            }
        }
    };
}

macro_rules! list {
    ($p:ident: $($pin:ident)*) => {{
        use esp_hal::gpio::Pin as _;
        $crate::pins::Pins::new(alloc::vec![$($p.$pin.degrade()),*])
    }};
}

pub(crate) use {list, pins};
