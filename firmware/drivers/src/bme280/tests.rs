//! The formulas against the data sheet's example and its integer version.

use super::{Calibration, Raw};

/// Trimming values as registers, in the order of the data sheet.
fn registers(
    t: (u16, i16, i16),
    p1: u16,
    p: [i16; 8],
    h: (u8, i16, u8, i16, i16, i8),
) -> Calibration {
    let mut tp = [0; 26];
    tp[0..2].copy_from_slice(&t.0.to_le_bytes());
    tp[2..4].copy_from_slice(&t.1.to_le_bytes());
    tp[4..6].copy_from_slice(&t.2.to_le_bytes());
    tp[6..8].copy_from_slice(&p1.to_le_bytes());
    for (at, value) in p.iter().enumerate() {
        tp[8 + 2 * at..10 + 2 * at].copy_from_slice(&value.to_le_bytes());
    }
    tp[25] = h.0;
    let [h2_0, h2_1] = h.1.to_le_bytes();
    let [h4_low, h4_high] = (h.3 << 4).to_le_bytes();
    let [h5_low, h5_high] = (h.4 << 4).to_le_bytes();
    let shared = (h4_low >> 4) | h5_low;
    let h = [
        h2_0,
        h2_1,
        h.2,
        h4_high,
        shared,
        h5_high,
        h.5.cast_unsigned(),
    ];
    Calibration::new(tp, h).expect("not blank")
}

/// The example of BST-BMP280-DS001 §3.12, whose temperature and pressure are computed alike, with the
/// humidity values of a chip that was read.
fn example() -> Calibration {
    registers(
        (27_504, 26_435, -1_000),
        36_477,
        [-10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000],
        (75, 362, 0, 321, 50, 30),
    )
}

/// The integer formula of §4.2.3, in 1/1024 %.
fn integer_humidity(raw: i32, fine: i32, h: (i32, i32, i32, i32, i32, i32)) -> i32 {
    let x = fine - 76_800;
    let x = ((((raw << 14) - (h.3 << 20) - (h.4 * x)) + 16_384) >> 15)
        * (((((((x * h.5) >> 10) * (((x * h.2) >> 11) + 32_768)) >> 10) + 2_097_152) * h.1
            + 8_192)
            >> 14);
    let x = x - (((((x >> 15) * (x >> 15)) >> 7) * h.0) >> 4);
    x.clamp(0, 419_430_400) >> 12
}

#[test]
fn the_example_of_the_data_sheet() {
    let (celsius, fine) = example().temperature(519_888);
    assert!((celsius - 25.08).abs() < 0.005, "{celsius}");
    let pascal = example().pressure(415_148, fine).expect("a pressure");
    assert!((pascal - 100_653.27).abs() < 0.05, "{pascal}");
}

#[test]
fn humidity_is_that_of_the_integer_formula() {
    for raw in (16_000..40_000).step_by(250) {
        let (_, fine) = example().temperature(519_888);
        #[expect(clippy::cast_possible_truncation, reason = "as the data sheet does")]
        let expected = integer_humidity(raw, fine as i32, (75, 362, 0, 321, 50, 30));
        let expected = f64::from(expected) / 1_024.0;
        let got = example().humidity(u16::try_from(raw).expect("16 bits"), fine);
        assert!((got - expected).abs() < 0.02, "{raw}: {got}, {expected}");
    }
}

#[test]
fn twelve_bit_values_keep_their_sign() {
    let calibration = registers((1, 0, 0), 1, [0; 8], (0, -2, 255, -2_048, -1, -128));
    let [_, h2, h3, h4, h5, h6] = calibration.h;
    let expected = [-2.0, 255.0, -2_048.0, -1.0, -128.0];
    for (got, expected) in [h2, h3, h4, h5, h6].iter().zip(expected) {
        assert!((got - expected).abs() < 1e-9, "{got}, {expected}");
    }
}

#[test]
fn blank_registers_are_no_calibration() {
    assert_eq!(Calibration::new([0; 26], [0; 7]), None);
    assert_eq!(Calibration::new([0xff; 26], [0xff; 7]), None);
}

#[test]
fn a_channel_that_was_not_measured_is_noticed() {
    assert_eq!(Raw::new([0x80, 0, 0, 0x80, 0, 0, 0x80, 0]), None);
    let raw = Raw::new([0x65, 0x5a, 0xc0, 0x7e, 0xed, 0x00, 0x6a, 0x00]);
    assert_eq!(
        raw,
        Some(Raw {
            pressure: 415_148,
            temperature: 519_888,
            humidity: 0x6a00,
        })
    );
}
