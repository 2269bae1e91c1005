//! Places where the process dies on purpose, for the tests that kill it there. They exist only with
//! the feature `failpoints`, which the tests of `engine` switch on: the program as it is built for
//! use has none.
//!
//! `VIGIE_FAILPOINT=store.committed@3` ends the process when it passes there for the third time, as
//! `kill -9` does: nothing unwinds, nothing is flushed, nobody is told. `freeze:store.commit@3` stops it
//! there each time from the third on, until it gets SIGCONT.

/// Passes the place of this name.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn pass(_name: &str) {}

/// Passes the place of this name, or ends or stops the process there.
///
/// # Panics
/// If `VIGIE_FAILPOINT` is not `name@number` or `freeze:name@number`.
#[cfg(feature = "failpoints")]
#[allow(
    clippy::panic,
    reason = "a test that cannot say what it wants must not pass"
)]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        freeze: bool,
        name: String,
        nth: u32,
        passed: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("VIGIE_FAILPOINT").ok()?;
        let place = text.strip_prefix("freeze:");
        let parsed = place.unwrap_or(&text).split_once('@');
        let armed = parsed.and_then(|(name, nth)| {
            Some(Armed {
                freeze: place.is_some(),
                name: name.to_owned(),
                nth: nth.parse().ok()?,
                passed: AtomicU32::new(0),
            })
        });
        Some(armed.unwrap_or_else(|| {
            panic!("VIGIE_FAILPOINT={text} is not name@number or freeze:name@number")
        }))
    });
    let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else {
        return;
    };
    let passage = armed.passed.fetch_add(1, Ordering::Relaxed) + 1;
    if !armed.freeze && passage == armed.nth {
        std::process::abort();
    }
    if armed.freeze && passage >= armed.nth {
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::STOP)
            .unwrap_or_else(|error| panic!("cannot freeze: {error}"));
        // Another thread may be the first that the signal reaches; this one must not go on meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
