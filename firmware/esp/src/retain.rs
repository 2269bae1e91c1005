//! What outlives a reset, in the memory of the real-time clock: the message of a panic, and what the
//! core wants kept through deep sleep. Both carry a checksum, because after a power cut they are noise.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::panic::PanicInfo;

use esp_hal::ram;
use node_core::{MAX_IDS, Retained};
use portable_atomic::{AtomicU32, Ordering::Relaxed};
use vigie_wire::node::crc32;

/// A checksum and a length, then the bytes.
const HEADER: usize = 2;
/// The longest panic message that is kept.
const CRASH_BYTES: usize = 256;
const CRASH_WORDS: usize = HEADER + CRASH_BYTES / 4;
const RETAINED_WORDS: usize = HEADER + (8 + 8 * MAX_IDS + 9 + 3 * 8).div_ceil(4);

#[ram(unstable(rtc_fast, persistent))]
static CRASH: [AtomicU32; CRASH_WORDS] = [const { AtomicU32::new(0) }; CRASH_WORDS];
#[ram(unstable(rtc_fast, persistent))]
static RETAINED: [AtomicU32; RETAINED_WORDS] = [const { AtomicU32::new(0) }; RETAINED_WORDS];

/// Keeps what a panic says. It allocates nothing: the panic may be for want of memory.
pub(crate) fn keep_crash(info: &PanicInfo<'_>) {
    let mut text = Text {
        bytes: [0; CRASH_BYTES],
        length: 0,
    };
    // A text that is full refuses more, and what it has is what counts.
    let _ = write!(text, "{}", info.message());
    if let Some(place) = info.location() {
        let _ = write!(text, " at {}:{}", place.file(), place.line());
    }
    store(&CRASH, &text.bytes[..text.length]);
}

/// Whether a panic left a message.
pub(crate) fn holds_crash() -> bool {
    load(&CRASH).is_some()
}

/// The message of the panic before this start, once.
pub(crate) fn take_crash() -> Option<String> {
    let bytes = load(&CRASH)?;
    clear(&CRASH);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Keeps the core's things through deep sleep.
pub(crate) fn keep_retained(retained: &Retained) {
    let Retained {
        boot,
        seq,
        utc_offset_ms,
        synced_ms,
        slept_at_ms,
        sleep_ms,
    } = retained;
    let mut bytes = Vec::with_capacity(RETAINED_WORDS * 4);
    bytes.extend_from_slice(boot);
    for n in seq {
        bytes.extend(n.to_le_bytes());
    }
    bytes.push(u8::from(utc_offset_ms.is_some()));
    bytes.extend(utc_offset_ms.unwrap_or(0).to_le_bytes());
    for ms in [synced_ms, slept_at_ms, sleep_ms] {
        bytes.extend(ms.to_le_bytes());
    }
    store(&RETAINED, &bytes);
}

/// The core's things from before the sleep, once.
pub(crate) fn take_retained() -> Option<Retained> {
    let bytes = load(&RETAINED)?;
    clear(&RETAINED);
    let mut rest = bytes.as_slice();
    let boot = take(&mut rest)?;
    let mut seq = [0; MAX_IDS];
    for n in &mut seq {
        *n = u64::from_le_bytes(take(&mut rest)?);
    }
    let [set] = take(&mut rest)?;
    let offset_ms = i64::from_le_bytes(take(&mut rest)?);
    Some(Retained {
        boot,
        seq,
        utc_offset_ms: (set != 0).then_some(offset_ms),
        synced_ms: u64::from_le_bytes(take(&mut rest)?),
        slept_at_ms: u64::from_le_bytes(take(&mut rest)?),
        sleep_ms: u64::from_le_bytes(take(&mut rest)?),
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

/// The bytes, word by word. A reset in between leaves a wrong checksum.
fn store(words: &[AtomicU32], bytes: &[u8]) {
    let [checksum, length, data @ ..] = words else {
        return;
    };
    let bytes = &bytes[..bytes.len().min(data.len() * 4)];
    checksum.store(0, Relaxed);
    for (word, chunk) in data.iter().zip(bytes.chunks(4)) {
        let mut padded = [0; 4];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u32::from_le_bytes(padded), Relaxed);
    }
    length.store(u32::try_from(bytes.len()).unwrap_or(0), Relaxed);
    checksum.store(crc32(bytes), Relaxed);
}

fn load(words: &[AtomicU32]) -> Option<Vec<u8>> {
    let [checksum, length, data @ ..] = words else {
        return None;
    };
    let length = usize::try_from(length.load(Relaxed)).ok()?;
    if length == 0 || length > data.len() * 4 {
        return None;
    }
    let mut bytes: Vec<u8> = data
        .iter()
        .take(length.div_ceil(4))
        .flat_map(|word| word.load(Relaxed).to_le_bytes())
        .collect();
    bytes.truncate(length);
    (crc32(&bytes) == checksum.load(Relaxed)).then_some(bytes)
}

fn clear(words: &[AtomicU32]) {
    for word in words {
        word.store(0, Relaxed);
    }
}

/// A text of limited length; what does not fit is cut.
struct Text {
    bytes: [u8; CRASH_BYTES],
    length: usize,
}

impl core::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let free = &mut self.bytes[self.length..];
        let fits = text.len().min(free.len());
        free[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.length += fits;
        if fits == text.len() {
            Ok(())
        } else {
            Err(core::fmt::Error)
        }
    }
}
