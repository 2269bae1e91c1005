//! The node on an ESP32. What a node does is in `node-core`; here is what only a chip has: pins, radio,
//! flash, sleep, watchdog.
//!
//! One executor runs three tasks: the node, the radio's connection, the network stack. `main` is the
//! order of things at a start; each module is one piece of hardware.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod flash;
mod libc;
mod network;
mod pins;
mod retain;
mod sensors;
mod serial;
mod tls;
mod wifi;

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use embassy_executor::Spawner;
use embassy_net::StackResources;
use esp_hal::clock::CpuClock;
use esp_hal::peripherals::Peripherals;
use esp_hal::ram;
use esp_hal::rng::Trng;
use esp_hal::rtc_cntl::Rtc;
use esp_hal::timer::timg::TimerGroup;
use esp_println::println;
use esp_radio::wifi::{ControllerConfig, Interface, WifiController};
use node_core::{AnySensor, Ended, Node, Parts, Retained, Start, Timing};
use vigie_wire::node::Config;

use crate::board::Board;
use crate::flash::Partitions;

esp_bootloader_esp_idf::esp_app_desc!();

/// Sockets: DHCP, DNS, the connections of [`network`], one to a time server.
const SOCKETS: usize = 3 + network::CONNECTIONS;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    retain::keep_crash(info);
    esp_hal::system::software_reset()
}

#[esp_hal::main]
async fn main(spawner: Spawner) -> ! {
    let p = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
    // RAM that only the boot loader used, and a part of the other.
    esp_alloc::heap_allocator!(#[ram(reclaimed)] size: 64 * 1024);
    esp_alloc::heap_allocator!(size: 72 * 1024);
    board::guard_against_brown_out();

    let reset = board::reset_reason();
    let start = Start {
        firmware: board::FIRMWARE.into(),
        reset: reset.into(),
        crash: retain::take_crash(),
    };
    let retained = retain::take_retained().filter(|_| reset == board::DEEP_SLEEP);
    println!("node {}, reset: {reset}", board::FIRMWARE);
    if let Some(message) = &start.crash {
        println!("before the reset: {message}");
    }

    let (ended, lpwr) = run(spawner, p, start, retained).await;
    match ended {
        Ok(Ended::Sleep { for_ms, retained }) => {
            retain::keep_retained(&retained);
            board::sleep(lpwr, for_ms)
        }
        Ok(Ended::Reboot) => esp_hal::system::software_reset(),
        Err(why) => board::tell_for_ever(&why).await,
    }
}

/// Starts what there is, in the order of dependence, and runs the node. An error is something that
/// only a person can change, in words for them.
async fn run(
    spawner: Spawner,
    p: Peripherals,
    start: Start,
    retained: Option<Retained>,
) -> (Result<Ended, String>, esp_hal::peripherals::LPWR<'static>) {
    let lpwr = p.LPWR;
    let timers = TimerGroup::new(p.TIMG0);
    esp_rtos::start(timers.timer0, p.FROM_CPU_INTR0);
    let mut pins = pins::pins!(p);
    let hardware = Hardware {
        #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
        usb: p.USB_DEVICE,
        uart: p.UART0,
        i2c: p.I2C0.into(),
        adc: p.ADC1,
        flash: p.FLASH,
        wifi: p.WIFI,
        watchdog: Rtc::new(p.RTC_TIMER).rwdt,
    };
    (
        node(spawner, hardware, &mut pins, start, retained).await,
        lpwr,
    )
}

/// The peripherals that a node has.
struct Hardware {
    #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
    usb: esp_hal::peripherals::USB_DEVICE<'static>,
    uart: esp_hal::peripherals::UART0<'static>,
    i2c: esp_hal::i2c::master::AnyI2c<'static>,
    adc: esp_hal::peripherals::ADC1<'static>,
    flash: esp_hal::peripherals::FLASH<'static>,
    wifi: esp_hal::peripherals::WIFI<'static>,
    watchdog: esp_hal::rtc_cntl::Rwdt,
}

async fn node(
    spawner: Spawner,
    hardware: Hardware,
    pins: &mut pins::Pins,
    start: Start,
    retained: Option<Retained>,
) -> Result<Ended, String> {
    let partitions = Partitions::find(hardware.flash)?;
    let config = Config::decode(&partitions.config_bytes()?)
        .map_err(|why| alloc::format!("{why}; {}", flash::HOW_TO_CONFIGURE))?;
    let changed = node_core::with_changes(config.clone(), partitions.facts)
        .await
        .map_err(|why| why.to_string())?;
    let map = pins::map(&changed.board)?;

    // From here on the radio's noise feeds the random numbers, which are true ones then.
    let controller = WifiController::new(hardware.wifi, ControllerConfig::default())
        .map_err(|why| alloc::format!("the radio does not start: {why}"))?;
    let random = Trng::try_new().map_err(|_| "there are no true random numbers")?;
    let (stack, runner) = embassy_net::new(
        Interface::station(),
        embassy_net::Config::dhcpv4(embassy_net::DhcpConfig::default()),
        Box::leak(Box::new(StackResources::<SOCKETS>::new())),
        board::seed(&random),
    );
    let joining = wifi::stay_joined(controller, changed.wifi.clone());
    spawner.spawn(joining.map_err(|_| "the task of the radio does not start")?);
    let network = wifi::run_stack(runner);
    spawner.spawn(network.map_err(|_| "the task of the network does not start")?);

    let keys = serial::Keys::new(
        #[cfg(not(any(feature = "esp32", feature = "esp32s2")))]
        hardware.usb,
        hardware.uart,
        pins::spare_console(&changed, map, pins),
    );
    let built = sensors::build(&changed, map, pins, hardware.i2c, hardware.adc);
    let mut found: Vec<(usize, Box<dyn AnySensor>)> = Vec::new();
    for (index, sensor) in built {
        match sensor {
            Ok(sensor) => found.push((index, sensor)),
            Err(problem) => println!("{problem}"),
        }
    }

    let mut node = Node::open(Parts {
        network: network::Network::new(stack, random.clone())?,
        board: Board::new(hardware.watchdog, random, retained),
        keys,
        queue_flash: partitions.queue,
        facts_flash: partitions.facts,
        config,
        sensors: found,
        start,
        retained,
        timing: Timing::default(),
    })
    .await
    .map_err(|why| why.to_string())?;
    Ok(node.run().await)
}
