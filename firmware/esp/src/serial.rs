//! What is typed: over USB where the chip has a serial port in it, and at the first UART, which most
//! boards lead to a USB bridge.

use embassy_futures::select::{Either, select};
use embassy_time::Timer;
use embedded_io_async::Read;
use esp_hal::Async;
use esp_hal::gpio::AnyPin;
use esp_hal::peripherals::UART0;
use esp_hal::uart::{Config, UartRx};
#[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
use esp_hal::{peripherals::USB_DEVICE, usb::usb_serial_jtag::UsbSerialJtag};

/// Both inputs.
pub(crate) struct Keys {
    #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
    usb: UsbSerialJtag<'static, Async>,
    uart: Option<UartRx<'static, Async>>,
}

impl Keys {
    /// Opens what there is; without a pin there is no UART.
    pub(crate) fn new(
        #[cfg(not(any(feature = "esp32", feature = "esp32s2")))] usb: USB_DEVICE<'static>,
        uart: UART0<'static>,
        pin: Option<AnyPin<'static>>,
    ) -> Self {
        // 115200 Bd, 8 bits, as the ROM has it.
        let uart = pin.and_then(|pin| {
            let uart = UartRx::new(uart, Config::default()).ok()?;
            Some(uart.with_rx(pin).into_async())
        });
        Self {
            #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
            usb: UsbSerialJtag::new(usb).into_async(),
            uart,
        }
    }
}

impl node_core::Keys for Keys {
    async fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut typed = [0; 16];
        let uart = async {
            match &mut self.uart {
                Some(uart) => Read::read(uart, &mut typed).await.ok(),
                None => core::future::pending().await,
            }
        };
        #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
        let usb = async { Read::read(&mut self.usb, bytes).await.ok() };
        #[cfg(any(feature = "esp32", feature = "esp32s2"))]
        let usb = core::future::pending::<Option<usize>>();
        let length = match select(usb, uart).await {
            Either::First(length) => length,
            Either::Second(length) => length.map(|length| {
                let length = length.min(bytes.len());
                bytes[..length].copy_from_slice(&typed[..length]);
                length
            }),
        };
        if length.is_none() {
            // Noise on the wire. It must not keep the node busy.
            Timer::after_millis(100).await;
        }
        length.unwrap_or(0)
    }
}
