//! What keeps the sources within bounds: sizes, read buffers that follow the load, warnings that do
//! not flood the log, and sensor text that cannot harm it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Read buffers grow and shrink between these …
const SMALL_READ: usize = 4 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// … and all connections together grow theirs to so much, beyond the small ones.
const READ_BUDGET: usize = 8 * 1024 * 1024;

/// Largest payload that is taken in at all. Between `max_payload_bytes` and this the message is
/// quarantined; beyond it the packet would have to be held in memory only to be thrown away.
pub(crate) const PAYLOAD_CEILING: u32 = 1024 * 1024;

/// Room for topic and properties of one PUBLISH.
pub(crate) const HEADER_ALLOWANCE: u32 = 66 * 1024;

/// One warning per cause and second; `more` says how many were left out since the last.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Nothing was said yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Says it, or counts it.
    pub(crate) fn warn(&self, say: impl FnOnce(u64)) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, more) = *state;
        if last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            state.1 += 1;
            return;
        }
        *state = (Some(now), 0);
        drop(state);
        say(more);
    }
}

/// Sensor text for a log line: quoted, control characters escaped, cut.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// Bytes read and not yet fed to the protocol core. Small while a node says little, large while
/// reads fill it: ten thousand idle connections hold 4 KiB each.
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    unread: Range<usize>,
    /// Size that the load asks for.
    wanted: usize,
    /// Reads in a row that would have fitted a buffer of a quarter of the size.
    sparse: u8,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            unread: 0..0,
            wanted: SMALL_READ,
            sparse: 0,
        }
    }
}

impl ReadBuffer {
    /// True if everything was fed.
    pub(crate) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// What was read and not fed yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.unread.clone()]
    }

    /// The first `count` unread bytes were fed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.unread.start = (self.unread.start + count).min(self.unread.end);
    }

    /// Where the next read goes; only when everything was fed. So many `connections` share the
    /// memory.
    pub(crate) fn space(&mut self, connections: usize) -> &mut [u8] {
        let share = (READ_BUDGET / connections.max(1)).max(SMALL_READ);
        let size = self.wanted.min(share);
        if size != self.bytes.len() {
            self.bytes.resize(size, 0);
            self.bytes.shrink_to_fit();
        }
        &mut self.bytes
    }

    /// `read` bytes came into [`ReadBuffer::space`].
    pub(crate) fn filled(&mut self, read: usize) {
        self.unread = 0..read;
        let size = self.bytes.len();
        self.sparse = if read < size / 4 {
            self.sparse.saturating_add(1)
        } else {
            0
        };
        if read == size {
            self.wanted = (size * 4).min(LARGE_READ);
        } else if self.sparse >= 32 {
            self.wanted = (size / 4).max(SMALL_READ);
            self.sparse = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One read that fills the buffer.
    fn fill(buffer: &mut ReadBuffer, connections: usize) -> usize {
        let size = buffer.space(connections).len();
        buffer.filled(size);
        assert_eq!(buffer.unread().len(), size);
        buffer.consume(size);
        assert!(buffer.is_empty());
        size
    }

    #[test]
    fn buffers_follow_the_load() {
        let mut buffer = ReadBuffer::default();
        let sizes: Vec<usize> = (0..4).map(|_| fill(&mut buffer, 10)).collect();
        assert_eq!(sizes, [4, 16, 64, 64].map(|kib| kib * 1024));
        for _ in 0..100 {
            buffer.space(10);
            buffer.filled(100);
            buffer.consume(100);
        }
        assert_eq!(buffer.space(10).len(), SMALL_READ);
    }

    #[test]
    fn many_connections_have_smaller_buffers() {
        let mut buffer = ReadBuffer::default();
        for (connections, largest) in [(1, LARGE_READ), (1_000, 17_000), (100_000, SMALL_READ)] {
            for _ in 0..5 {
                fill(&mut buffer, connections);
            }
            let size = buffer.space(connections).len();
            assert!(
                (SMALL_READ..=largest).contains(&size),
                "{connections}: {size}"
            );
        }
    }

    #[test]
    fn sensor_text_is_cut_and_escaped() {
        assert_eq!(quoted("a\n\u{1b}[31m"), "\"a\\n\\u{1b}[31m\"");
        assert_eq!(quoted(&"x".repeat(500)).len(), 66);
    }

    #[tokio::test(start_paused = true)]
    async fn one_warning_per_second() {
        let throttle = Throttle::default();
        let mut said = Vec::new();
        for _ in 0..5 {
            throttle.warn(|more| said.push(more));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        throttle.warn(|more| said.push(more));
        assert_eq!(said, [0, 4]);
    }
}
