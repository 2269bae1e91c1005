//! What the core asks of the thing that it runs on.

/// Time, chance, text and the watchdog. All by shared reference: sampling, uplink and console use it
/// side by side in one task.
pub trait Board {
    /// Milliseconds since the node began to run. Never goes back. It goes on through deep sleep if
    /// [`Retained`](crate::Retained) is kept through it.
    fn uptime_ms(&self) -> u64;

    /// Waits until [`uptime_ms`](Board::uptime_ms) is at least this. Dropping the future is fine.
    fn sleep_until(&self, uptime_ms: u64) -> impl Future<Output = ()>;

    /// Random bytes good enough for a key.
    fn random(&self, bytes: &mut [u8]);

    /// Shows one line of text, without its end. It never holds a secret.
    fn print(&self, line: &str);

    /// Tells the watchdog that the node lives. Called every [`FEED_EVERY_MS`] while
    /// [`Node::run`](crate::Node::run) lives and both sampling and uplink move: each announces when it
    /// will, and a minute later at most it has.
    fn feed(&self) {}

    /// The broker has acknowledged one more reading: a board may blink.
    fn acknowledged(&self) {}
}

/// How often the core calls [`Board::feed`]: give the watchdog six times as long.
pub const FEED_EVERY_MS: u64 = 5_000;

/// What is typed at the console.
pub trait Keys {
    /// Waits for bytes and gives how many there are; for ever if nothing can be typed.
    fn read(&mut self, bytes: &mut [u8]) -> impl Future<Output = usize>;
}

/// No console.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl Keys for NoKeys {
    async fn read(&mut self, _: &mut [u8]) -> usize {
        core::future::pending().await
    }
}
