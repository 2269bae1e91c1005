//! Places where the process dies on purpose, for the tests that kill it there. They exist only with
//! the feature `failpoints`, which the tests of `engine` switch on: the program as it is built for
//! use has none.
//!
//! `VIGIE_FAILPOINT=store.committed@3` ends the process when it passes there for the third time, as
//! `kill -9` does: nothing unwinds, nothing is flushed, nobody is told.

/// Passes the place of this name.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn pass(_name: &str) {}

/// Passes the place of this name, or ends the process there.
///
/// # Panics
/// If `VIGIE_FAILPOINT` is not `name@number`.
#[cfg(feature = "failpoints")]
#[allow(
    clippy::panic,
    reason = "a test that cannot say what it wants must not pass"
)]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("VIGIE_FAILPOINT").ok()?;
        let parsed = text
            .split_once('@')
            .and_then(|(name, nth)| Some((name.to_owned(), AtomicU32::new(nth.parse().ok()?))));
        Some(parsed.unwrap_or_else(|| panic!("VIGIE_FAILPOINT={text} is not name@number")))
    });
    if let Some((armed, left)) = armed
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
