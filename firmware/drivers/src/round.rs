//! Rounding to what a sensor resolves.

/// `value` to so many decimals, half away from zero. For the small numbers of sensors.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the result is meant to be an integer, and a cast from f64 saturates"
)]
pub(crate) fn decimals(value: f64, decimals: u8) -> f64 {
    let scale = [1.0, 10.0, 100.0, 1_000.0][usize::from(decimals.min(3))];
    let half = if value < 0.0 { -0.5 } else { 0.5 };
    ((value * scale + half) as i64) as f64 / scale
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the same literal is meant")]
mod tests {
    use super::decimals;

    #[test]
    fn rounds_half_away_from_zero() {
        assert_eq!(decimals(21.399_999_618, 2), 21.4);
        assert_eq!(decimals(-40.125, 2), -40.13);
        assert_eq!(decimals(0.05, 1), 0.1);
        assert_eq!(decimals(-0.04, 1), 0.0);
        assert_eq!(decimals(1_006.532_7, 2), 1006.53);
    }
}
