//! Everything that can go wrong in this crate, as one type.

/// Error of training, scoring or loading an isolation forest.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IsolationForestError {
    /// `n_trees` is 0.
    #[error("n_trees must be at least 1")]
    InvalidTrees,
    /// `max_samples` is below 2: one row cannot be isolated from anything.
    #[error("max_samples must be at least 2, is {0}")]
    InvalidMaxSamples(usize),
    /// `contamination` is outside (0, 0.5] or not a number.
    #[error("contamination must be above 0 and at most 0.5, is {0}")]
    InvalidContamination(f64),
    /// The training data have no rows.
    #[error("no rows to train on")]
    NoRows,
    /// The training data have no columns.
    #[error("no columns to train on")]
    NoFeatures,
    /// A training value is NaN or infinite, or too large for `f32`. Both indices start at 0.
    #[error("row {row}, column {column} is not a finite number (or too large for f32)")]
    NotFinite {
        /// Row of the first such value.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// More rows or nodes than 32-bit offsets can address.
    #[error("{rows} rows and {trees} trees of {samples} rows are more than 32-bit offsets hold")]
    TooLarge {
        /// Rows of the training data.
        rows: usize,
        /// Trees asked for.
        trees: usize,
        /// Rows per tree.
        samples: usize,
    },
    /// A row to score has another number of features than the training data.
    #[error("rows have {found} features, the forest was trained on {expected}")]
    WidthMismatch {
        /// Features of the training data.
        expected: usize,
        /// Features of the row.
        found: usize,
    },
    /// A flat slice does not hold a whole number of rows, or not as many as expected.
    #[error("a slice of {found} values does not hold the expected {expected}")]
    LengthMismatch {
        /// Values expected: rows times features.
        expected: usize,
        /// Values found.
        found: usize,
    },
    /// The bytes do not begin like a stored forest.
    #[error("not a stored isolation forest")]
    NotAForest,
    /// The stored forest has a format that this version of the crate does not read.
    #[error("stored forest has format {0}, this version reads {version}", version = crate::FORMAT_VERSION)]
    UnsupportedVersion(u32),
    /// The stored forest is truncated, altered, or contradicts itself.
    #[error("stored forest is damaged: {0}")]
    Damaged(&'static str),
    /// An error of linfa itself.
    #[error(transparent)]
    Linfa(#[from] linfa::Error),
}
