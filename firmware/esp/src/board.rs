//! Time, chance, watchdog, sleep, and why the chip started.

use core::cell::RefCell;

use embassy_time::{Instant, Timer};
use esp_hal::peripherals::LPWR;
use esp_hal::rng::Trng;
use esp_hal::rtc_cntl::sleep::{LowPower, RtcSleepConfig};
use esp_hal::rtc_cntl::{Rwdt, RwdtStage};
use esp_hal::system::Cpu;
use esp_hal::time::Duration;
use esp_println::println;
use node_core::{FEED_EVERY_MS, Retained};

/// The version that goes out after a start.
pub(crate) const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// The reset reason after which [`Retained`] counts.
pub(crate) const DEEP_SLEEP: &str = "deep-sleep";

/// What the core asks of the chip.
pub(crate) struct Board {
    random: Trng,
    watchdog: RefCell<Rwdt>,
    /// The uptime when the chip started: not 0 after deep sleep.
    base_ms: u64,
}

impl Board {
    /// Starts the watchdog. It resets the chip, radio and all, when the node does not feed it.
    pub(crate) fn new(mut watchdog: Rwdt, random: Trng, retained: Option<Retained>) -> Self {
        watchdog.enable();
        watchdog.set_timeout(RwdtStage::Stage0, Duration::from_millis(6 * FEED_EVERY_MS));
        Self {
            random,
            watchdog: RefCell::new(watchdog),
            base_ms: retained.map_or(0, |r| r.slept_at_ms.saturating_add(r.sleep_ms)),
        }
    }
}

impl node_core::Board for Board {
    fn uptime_ms(&self) -> u64 {
        self.base_ms.saturating_add(Instant::now().as_millis())
    }

    async fn sleep_until(&self, uptime_ms: u64) {
        let since_start_ms = uptime_ms.saturating_sub(self.base_ms);
        // Beyond this is centuries away, and would overflow the ticks.
        Timer::at(Instant::from_millis(since_start_ms.min(1 << 43))).await;
    }

    fn random(&self, bytes: &mut [u8]) {
        self.random.read(bytes);
    }

    fn print(&self, line: &str) {
        println!("{line}");
    }

    fn feed(&self) {
        self.watchdog.borrow_mut().feed();
    }
}

/// A seed for the port numbers of the network stack.
pub(crate) fn seed(random: &Trng) -> u64 {
    (u64::from(random.random()) << 32) | u64::from(random.random())
}

/// Why the chip started, in the words of [`node_core::Start::reset`]. The numbers are the same on all
/// chips (`RESET_REASON` in their technical reference manuals); the names are not.
pub(crate) fn reset_reason() -> &'static str {
    match esp_hal::rtc_cntl::reset_reason(Cpu::ProCpu).map(|reason| reason as usize) {
        Some(0x01) => "power-on",
        Some(0x03 | 0x0c) if crate::retain::holds_crash() => "panic",
        Some(0x03 | 0x0c) => "software",
        Some(0x05) => DEEP_SLEEP,
        Some(0x07..=0x09 | 0x0b | 0x0d | 0x10..=0x12) => "watchdog",
        Some(0x0f) => "brown-out",
        Some(0x15 | 0x16) => "usb",
        Some(_) | None => "unknown",
    }
}

/// Lets the chip reset when its supply sags, at the level that its boot ROM sets: a processor that goes
/// on with too little writes anything into its flash.
pub(crate) fn guard_against_brown_out() {
    #[cfg(feature = "esp32c3")]
    LPWR::regs()
        .brown_out()
        .modify(|_, w| w.brown_out_rst_ena().set_bit());
    #[cfg(feature = "esp32c6")]
    esp_hal::peripherals::LP_ANA::regs()
        .bod_mode0_cntl()
        .modify(|_, w| w.bod_mode0_reset_ena().set_bit());
}

/// Deep sleep. The chip starts anew after it.
pub(crate) fn sleep(lpwr: LPWR<'static>, for_ms: u64) -> ! {
    let mut power = LowPower::new(lpwr);
    // A deadline that is nearly there would be missed.
    let duration = Duration::from_millis(for_ms.max(50));
    power.set_wakeup_deadline(esp_hal::time::Instant::now() + duration);
    power.sleep_deep(RtcSleepConfig::deep())
}

/// Repeats what a person has to change. If the watchdog runs already, the chip starts anew every 30 s, and
/// tries again.
pub(crate) async fn tell_for_ever(problem: &str) -> ! {
    loop {
        println!("cannot start: {problem}");
        Timer::after_secs(10).await;
    }
}
