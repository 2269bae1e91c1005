//! What Mbed TLS wants of a C library and the chip's ROM does not have.

use core::ffi::{c_int, c_void};

/// The first `byte` in the `length` bytes from `start`, or null. The ROM of the C6 lacks it; a ROM that
/// has it comes later in the order of linking.
///
/// # Safety
///
/// As in C: `length` bytes from `start` can be read.
#[expect(unsafe_code, reason = "a C function is an unsafe one")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memchr(
    start: *const c_void,
    byte: c_int,
    length: usize,
) -> *const c_void {
    // SAFETY: the caller promises these bytes.
    let bytes = unsafe { core::slice::from_raw_parts(start.cast::<u8>(), length) };
    // In C, the value is converted to an unsigned char.
    let [wanted, ..] = byte.to_le_bytes();
    bytes
        .iter()
        .position(|&byte| byte == wanted)
        .map_or(core::ptr::null(), |at| bytes[at..].as_ptr().cast())
}
