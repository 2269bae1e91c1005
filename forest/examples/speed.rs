//! Prints how long training and scoring take, for `benches/beside_sklearn.py`:
//! `fit_ms row_us batch_rows_per_s`, on 8 features, 100 trees of 256 rows.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures, and prints what it measured"
)]

use std::time::Instant;

use linfa::ParamGuard;
use linfa_isolation_forest::{IsolationForest, IsolationForestError};

const WIDTH: usize = 8;

/// Numbers from −1 to 1 that need no crate (splitmix64).
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits >> 40) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn main() -> Result<(), IsolationForestError> {
    let params = IsolationForest::params().check()?;
    let training = noise(2_000 * WIDTH);
    let begun = Instant::now();
    for _ in 0..20 {
        params.fit_rows(&training, WIDTH)?;
    }
    let fit_ms = begun.elapsed().as_secs_f64() * 1e3 / 20.0;
    let forest = params.fit_rows(&training, WIDTH)?;

    let rows = noise(100_000 * WIDTH);
    let begun = Instant::now();
    let sum: f32 = rows
        .chunks_exact(WIDTH)
        .map(|row| forest.score_one(row))
        .sum();
    let row_us = begun.elapsed().as_secs_f64() * 1e6 / 100_000.0;

    let mut scores = vec![0.0; 100_000];
    let begun = Instant::now();
    forest.anomaly_scores_into(&rows, &mut scores)?;
    let per_second = 100_000.0 / begun.elapsed().as_secs_f64();
    assert!((scores.iter().sum::<f32>() - sum).abs() < 10.0);
    println!("{fit_ms} {row_us} {per_second}");
    Ok(())
}
