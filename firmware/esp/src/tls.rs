//! TLS to the broker: chain, host name and dates are always verified.

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::cell::Cell;

use embassy_sync::blocking_mutex::CriticalSectionMutex;
use embassy_time::Instant;
use embedded_io_async::{Read, Write};
use esp_hal::rng::Trng;
use mbedtls_rs::sys::hook::timer::{MbedtlsTimer, hook_timer};
use mbedtls_rs::sys::hook::wall_clock::{MbedtlsWallClock, hook_wall_clock};
use mbedtls_rs::sys::{mbedtls_ms_time_t, tm};
use mbedtls_rs::{
    Certificate, ClientSessionConfig, Session, SessionConfig, SessionError, Tls, X509,
};
use node_core::{Civil, certificate_words};

/// Mbed TLS, with a source of random numbers, a timer and a clock.
pub(crate) struct MbedTls(Tls<'static>);

impl MbedTls {
    /// Starts it. Once: it holds its source of random numbers in a global.
    ///
    /// # Errors
    ///
    /// When it was started before.
    #[expect(unsafe_code, reason = "the hooks are global")]
    pub(crate) fn start(random: Trng) -> Result<Self, &'static str> {
        // SAFETY: no TLS is used before this, and both hooks are statics without state of their own.
        unsafe {
            hook_timer(Some(&Uptime));
            hook_wall_clock(Some(&WallClock));
        }
        Tls::new(Box::leak(Box::new(random)))
            .map(Self)
            .map_err(|_| "TLS was started twice")
    }

    /// A handshake over an open connection.
    ///
    /// # Errors
    ///
    /// Why it failed, in words.
    pub(crate) async fn handshake<S: Read + Write>(
        &self,
        stream: S,
        host: &str,
        ca_pem: &str,
        utc_ms: i64,
    ) -> Result<Session<'_, S>, String> {
        WallClock::set(utc_ms);
        let ca_pem = CString::new(ca_pem).map_err(|_| "broker.ca holds a zero byte")?;
        let host = CString::new(host).map_err(|_| "broker.host holds a zero byte")?;
        let authorities = Certificate::new(X509::PEM(&ca_pem))
            .map_err(|_| "broker.ca is not the PEM text of certificates")?;
        let config = SessionConfig::Client(ClientSessionConfig {
            ca_chain: Some(authorities),
            ..ClientSessionConfig::new()
        });
        let words = |error: SessionError| format!("TLS: {error}");
        let mut session = Session::new(self.0.reference(), stream, &config).map_err(words)?;
        // For the certificate, and as SNI. Without it, Mbed TLS would refuse the handshake.
        session.set_server_name(&host).map_err(words)?;
        match session.connect().await {
            Ok(()) => Ok(session),
            Err(error) => Err(certificate_words(session.tls_verification_details())
                .map_or_else(|| words(error), Into::into)),
        }
    }
}

/// Time since the start, for time-outs.
struct Uptime;

impl MbedtlsTimer for Uptime {
    fn now(&self) -> mbedtls_ms_time_t {
        mbedtls_ms_time_t::try_from(Instant::now().as_millis()).unwrap_or(mbedtls_ms_time_t::MAX)
    }
}

/// The time that dates of certificates are compared with. Until it is set, none is valid.
struct WallClock;

/// UTC minus uptime, in ms.
static OFFSET_MS: CriticalSectionMutex<Cell<Option<i64>>> =
    CriticalSectionMutex::new(Cell::new(None));

fn uptime_ms() -> i64 {
    i64::try_from(Instant::now().as_millis()).unwrap_or(i64::MAX)
}

impl WallClock {
    fn set(utc_ms: i64) {
        OFFSET_MS.lock(|offset| offset.set(utc_ms.checked_sub(uptime_ms())));
    }
}

impl MbedtlsWallClock for WallClock {
    fn instant(&self) -> Option<tm> {
        let utc_ms = OFFSET_MS.lock(Cell::get)?.checked_add(uptime_ms())?;
        let Civil {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = Civil::of(utc_ms);
        // Mbed TLS does not look at the days of week and year.
        Some(tm {
            tm_sec: second.into(),
            tm_min: minute.into(),
            tm_hour: hour.into(),
            tm_mday: day.into(),
            tm_mon: i32::from(month) - 1,
            tm_year: i32::try_from(year - 1_900).ok()?,
            tm_wday: 0,
            tm_yday: 0,
            tm_isdst: 0,
        })
    }
}
