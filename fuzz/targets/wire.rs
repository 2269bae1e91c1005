//! Any bytes as a payload in the native format: a reading that is written and read again is the same,
//! or a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vigie_wire::{Quantities, decode, encode};

fuzz_target!(|payload: &[u8]| {
    let names = Quantities::builtin();
    if let Ok(reading) = decode(payload, &names) {
        let mut bytes = Vec::new();
        encode(&reading, &names, &mut bytes);
        let again = decode(&bytes, &names).expect("what was encoded can be decoded");
        assert_eq!(reading, again);
    }
});
