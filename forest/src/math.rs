//! The paper's *c(n)* and the two elementary functions that the score needs.
//!
//! `f64::ln` and `f64::exp2` go to the platform's libm, which may round differently from one
//! system to the next. The versions here use only additions, multiplications and divisions, which
//! IEEE 754 defines to the last bit.

use std::f64::consts::LN_2;

const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;

/// *c(n)*, equation 1 of the paper: the average path length of an unsuccessful search in a binary
/// search tree of `n` rows.
///
/// 2 H(n − 1) − 2 (n − 1) / n with H(i) ≈ ln(i) + γ; the exact values 0 for `n` ≤ 1 and 1 for
/// `n` = 2, where the approximation is far off. Never negative, grows with `n`.
pub fn average_path_length(n: u64) -> f64 {
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => 2.0 * (ln(n - 1) + EULER_GAMMA) - 2.0 * (n - 1) as f64 / n as f64,
    }
}

/// Height limit of algorithm 1: ⌈log₂ ψ⌉, at least 1.
pub(crate) fn height_limit(sample_size: u32) -> u32 {
    u32::BITS - sample_size.max(2).saturating_sub(1).leading_zeros()
}

/// Natural logarithm of `n` ≥ 1: *n = m 2^e* with *m* in [1, 2) and the atanh series for *ln m*.
fn ln(n: u64) -> f64 {
    let exponent = u64::BITS - 1 - n.max(1).leading_zeros();
    let mantissa = n.max(1) as f64 / (1_u64 << exponent) as f64;
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    // s < 1/3: the term after the twentieth is below 1e-19. Smallest first, for accuracy.
    let series = (0..20)
        .rev()
        .fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * LN_2 + 2.0 * s * series
}

/// 2^(−y) for the small `y` ≥ 0 of the score; exact for whole `y`.
pub(crate) fn exp2_neg(y: f64) -> f64 {
    /// 1 / k!, highest first. |z| ≤ 0.35 below, so the first term left out is under 1e-15.
    const INVERSE_FACTORIALS: [f64; 13] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
        1.0,
        1.0,
    ];
    let mut fraction = y;
    let mut scale = 1.0;
    // y = E[h] / c(psi) is below 3 (`Parts::check` bounds the leaves), so this ends at once.
    while fraction >= 0.5 {
        fraction -= 1.0;
        scale *= 0.5;
    }
    let z = -fraction * LN_2;
    scale
        * INVERSE_FACTORIALS
            .iter()
            .fold(0.0, |sum, term| sum * z + term)
}

/// Nearest `f32`: scores, path lengths and split points are kept in 32 bits as in scikit-learn.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to 32 bits is the purpose"
)]
pub(crate) fn to_f32(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_path_length_known_values() {
        // 2 (ln(n - 1) + gamma) - 2 (n - 1) / n with 40 decimal digits, rounded.
        let known = [
            (0, 0.0),
            (1, 0.0),
            (2, 1.0),
            (3, 1.207_392_357_589_623),
            (10, 3.748_880_484_475_505),
            (256, 10.244_770_920_119_918),
        ];
        for (n, expected) in known {
            let found = average_path_length(n);
            assert!(
                (found - expected).abs() < 1e-12,
                "c({n}) = {found}, not {expected}"
            );
        }
    }

    #[test]
    fn average_path_length_is_the_formula() {
        let mut last = 1.0;
        for n in (3..5_000).chain([1 << 20, (1 << 32) - 1, 1 << 52]) {
            let i = (n - 1) as f64;
            let expected = 2.0 * (i.ln() + EULER_GAMMA) - 2.0 * i / n as f64;
            let found = average_path_length(n);
            assert!((found - expected).abs() < 1e-12 * expected, "c({n})");
            assert!(found > last, "c({n}) does not grow");
            last = found;
        }
    }

    #[test]
    fn height_limit_is_the_rounded_up_logarithm() {
        let known = [
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (255, 8),
            (256, 8),
            (257, 9),
            (u32::MAX, 32),
        ];
        for (psi, height) in known {
            assert_eq!(height_limit(psi), height, "psi {psi}");
        }
    }

    #[test]
    fn exp2_neg_is_exp2() {
        for step in 0..30_000 {
            let y = f64::from(step) / 10_000.0;
            let (found, expected) = (exp2_neg(y), (-y).exp2());
            assert!(
                (found - expected).abs() < 1e-14,
                "2^-{y} = {found}, not {expected}"
            );
        }
        for (y, exact) in [(0.0, 1.0_f64), (1.0, 0.5), (2.0, 0.25)] {
            assert_eq!(exp2_neg(y).to_bits(), exact.to_bits());
        }
    }
}
