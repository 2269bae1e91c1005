//! Mbed TLS on a PC: its hooks, and a handshake that says what was wrong.
#![expect(unsafe_code, reason = "the library's hooks are set by unsafe calls")]

use std::ffi::CString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use embedded_io_adapters::tokio_1::FromTokio;
use mbedtls_rs::sys::hook::timer::{MbedtlsTimer, hook_timer};
use mbedtls_rs::sys::hook::wall_clock::{MbedtlsWallClock, hook_wall_clock};
use mbedtls_rs::sys::tm;
use mbedtls_rs::{
    Certificate, ClientSessionConfig, Session, SessionConfig, SessionError, Tls, X509,
};
use node_core::{Civil, DialError, certificate_words};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What certificates' dates are compared with: what the node that dials believes.
static UTC_MS: AtomicI64 = AtomicI64::new(0);
static BEGUN: OnceLock<Instant> = OnceLock::new();
static TLS: OnceLock<Option<Tls<'static>>> = OnceLock::new();

struct Clocks;

impl MbedtlsWallClock for Clocks {
    fn instant(&self) -> Option<tm> {
        let civil = Civil::of(UTC_MS.load(Ordering::Relaxed));
        Some(tm {
            tm_year: i32::try_from(civil.year - 1900).ok()?,
            tm_mon: i32::from(civil.month) - 1,
            tm_mday: civil.day.into(),
            tm_hour: civil.hour.into(),
            tm_min: civil.minute.into(),
            tm_sec: civil.second.into(),
            ..tm::default()
        })
    }
}

impl MbedtlsTimer for Clocks {
    fn now(&self) -> i64 {
        let since = BEGUN.get().map(Instant::elapsed).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Once, before anything else of TLS.
pub(crate) fn install() {
    static CLOCKS: Clocks = Clocks;
    BEGUN.get_or_init(Instant::now);
    // SAFETY: nothing of Mbed TLS runs yet, and the clocks live for ever.
    unsafe {
        hook_timer(Some(&CLOCKS));
        hook_wall_clock(Some(&CLOCKS));
    }
    TLS.get_or_init(|| {
        let chance: StdRng = StdRng::from_rng(&mut rand::rng());
        Tls::new(Box::leak(Box::new(chance))).ok()
    });
}

/// TLS over a connection, with the server's certificate verified.
pub(crate) async fn handshake(
    stream: FromTokio<TcpStream>,
    host: &str,
    ca_pem: &str,
    utc_ms: i64,
) -> Result<Session<'static, FromTokio<TcpStream>>, DialError> {
    UTC_MS.store(utc_ms, Ordering::Relaxed);
    let failed = |what: &str| DialError::Tls(what.to_owned());
    let tls = TLS.get().and_then(Option::as_ref);
    let tls = tls.ok_or_else(|| failed("Mbed TLS did not start"))?;
    let host = CString::new(host).map_err(|_| DialError::Resolve)?;
    let ca_pem = CString::new(ca_pem).map_err(|_| failed("the authority is no PEM text"))?;
    let ca = Certificate::new(X509::PEM(&ca_pem))
        .map_err(|_| failed("the authority cannot be read, see broker.ca_file"))?;
    let mut config = ClientSessionConfig::new();
    config.ca_chain = Some(ca);
    let config = SessionConfig::Client(config);
    let session = Session::new(tls.reference(), stream, &config);
    let mut session = session.map_err(words)?;
    session.set_server_name(&host).map_err(words)?;
    match session.connect().await {
        Ok(()) => Ok(session),
        Err(error) => Err(
            match certificate_words(session.tls_verification_details()) {
                Some(why) => failed(why),
                None => words(error),
            },
        ),
    }
}

fn words(error: SessionError) -> DialError {
    DialError::Tls(match error {
        SessionError::Io(kind) => format!("the connection broke in the TLS handshake: {kind:?}"),
        SessionError::MbedTls(error) => format!("TLS: {error}"),
    })
}
