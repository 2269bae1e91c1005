//! The checksum of Sensirion's sensors.

/// CRC-8 with polynomial 0x31 and initial value 0xFF, neither reflected nor inverted at the end
/// (data sheets SHT3x-DIS §4.12 and `SHT4x` §4.4).
fn crc8(bytes: [u8; 2]) -> u8 {
    bytes.iter().fold(0xff, |crc, &byte| {
        (0..8).fold(crc ^ byte, |crc, _| (crc << 1) ^ (0x31 * (crc >> 7)))
    })
}

/// The two words of a frame (word, checksum, word, checksum), if both checksums are right.
pub(crate) fn words(frame: [u8; 6]) -> Option<(u16, u16)> {
    let [a1, a0, a_crc, b1, b0, b_crc] = frame;
    let right = crc8([a1, a0]) == a_crc && crc8([b1, b0]) == b_crc;
    right.then(|| (u16::from_be_bytes([a1, a0]), u16::from_be_bytes([b1, b0])))
}

#[cfg(test)]
mod tests {
    use super::{crc8, words};

    #[test]
    fn the_example_of_both_data_sheets() {
        assert_eq!(crc8([0xbe, 0xef]), 0x92);
    }

    #[test]
    fn a_zero_word_has_a_checksum_that_is_not_zero() {
        // So a bus that reads as zeroes is noticed.
        assert_eq!(crc8([0, 0]), 0x81);
        assert_eq!(words([0; 6]), None);
        assert_eq!(words([0xff; 6]), None);
    }

    #[test]
    fn every_single_bit_error_is_noticed() {
        let good = [0xbe, 0xef, 0x92, 0x00, 0x00, 0x81];
        assert_eq!(words(good), Some((0xbeef, 0)));
        for bit in 0..48 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(words(bad), None, "bit {bit}");
        }
    }
}
