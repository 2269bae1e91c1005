//! A reading to its payload.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::{Quantities, Reading, Start, VERSION};

/// More than the payload of two quantities, so that most calls grow `out` once at most.
const USUAL_BYTES: usize = 192;

/// Appends the payload of a reading to `out`.
///
/// A value that is not finite, or whose id is not in `quantities`, has no form in the format: it
/// is left out. A reading left without any value gives a payload that [`decode`](crate::decode)
/// refuses.
pub fn encode(reading: &Reading, quantities: &Quantities, out: &mut Vec<u8>) {
    out.reserve(USUAL_BYTES);
    out.extend_from_slice(b"{\"v\":");
    number(VERSION, out);
    // Neither id holds a character that JSON escapes.
    out.extend_from_slice(b",\"id\":\"");
    out.extend_from_slice(reading.sensor.as_bytes());
    out.push(b'"');
    if let Some(boot) = reading.boot {
        out.extend_from_slice(b",\"boot\":\"");
        out.extend_from_slice(boot.as_str().as_bytes());
        out.push(b'"');
    }
    if let Some(seq) = reading.seq {
        out.extend_from_slice(b",\"seq\":");
        number(seq, out);
    }
    if let Some(time_ms) = reading.time_ms {
        out.extend_from_slice(b",\"t\":");
        number(time_ms, out);
    }
    for &(id, value) in &reading.values {
        if let Some(name) = quantities.name(id)
            && value.is_finite()
        {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            number(value, out);
        }
    }
    if let Some(next_s) = reading.next_s {
        out.extend_from_slice(b",\"next_s\":");
        number(next_s, out);
    }
    if let Some(start) = &reading.start {
        text("fw", start.firmware.as_deref(), Start::WORD, out);
        text("reset", start.reset.as_deref(), Start::WORD, out);
        text("crash", start.crash.as_deref(), Start::SENTENCE, out);
    }
    out.push(b'}');
}

/// Appends a text for people, cut to `most` bytes.
fn text(key: &str, value: Option<&str>, most: usize, out: &mut Vec<u8>) {
    let Some(value) = value else {
        return;
    };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":\"");
    for c in Start::cut(value, most).chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\0'..='\x1f' => {
                let written = write!(Digits(out), "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok(), "memory took the digits");
            }
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Lets `core` write numbers straight into the payload: the writer of `serde_json` is private
/// without std, and its `to_string` allocates.
struct Digits<'o>(&'o mut Vec<u8>);

impl fmt::Write for Digits<'_> {
    fn write_str(&mut self, digits: &str) -> fmt::Result {
        self.0.extend_from_slice(digits.as_bytes());
        Ok(())
    }
}

/// Appends a number as `Debug` shows it: of a float, the fewest digits that read back the same,
/// with an exponent where `Display` would write hundreds of zeros. Either form is JSON.
fn number(value: impl fmt::Debug, out: &mut Vec<u8>) {
    // `Digits` never fails, so neither does this.
    let written = write!(Digits(out), "{value:?}");
    debug_assert!(written.is_ok(), "memory took the digits");
}
