//! The stored form of a forest: a versioned header, flat arrays, a checksum.
//!
//! All numbers little-endian: magic (8 bytes), format version u32, seed u64, sample size u32,
//! training rows u32, features u32, trees u32, nodes u32, threshold f32, training quantiles
//! 3 × f32; then medians (f32), roots (u32), nodes (feature u32, value f32, child u32); last the
//! 64-bit FNV-1a hash of everything before it.

use crate::error::IsolationForestError;
use crate::forest::{IsolationForest, Parts, TrainingScores};
use crate::tree::Node;

/// Version of the format that [`IsolationForest::to_bytes`] writes, and the only one that
/// [`IsolationForest::from_bytes`] reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"isoforst";
const HEADER: usize = 8 + 4 + 8 + 5 * 4 + 4 * 4;
const CHECKSUM: usize = 8;

impl IsolationForest {
    /// The forest as bytes, the same on every platform. [`from_bytes`](Self::from_bytes) gives
    /// back an equal forest, with the same scores bit by bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Parts {
            seed,
            sample_size,
            n_rows,
            threshold,
            training,
            medians,
            roots,
            nodes,
        } = &self.parts;
        let words = medians.len() + roots.len() + 3 * nodes.len();
        let mut bytes = Vec::with_capacity(HEADER + 4 * words + CHECKSUM);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(seed.to_le_bytes());
        for count in [*sample_size, *n_rows] {
            bytes.extend(count.to_le_bytes());
        }
        for length in [medians.len(), roots.len(), nodes.len()] {
            // Training and loading refuse what 32 bits cannot count.
            bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        for score in [*threshold, training.median, training.q99, training.q999] {
            bytes.extend(score.to_le_bytes());
        }
        for median in medians {
            bytes.extend(median.to_le_bytes());
        }
        for root in roots {
            bytes.extend(root.to_le_bytes());
        }
        for node in nodes {
            bytes.extend(node.feature.to_le_bytes());
            bytes.extend(node.value.to_le_bytes());
            bytes.extend(node.child.to_le_bytes());
        }
        let checksum = fnv1a(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// A forest from the bytes of [`to_bytes`](Self::to_bytes).
    ///
    /// Any bytes are safe to pass: beyond the checksum, the trees themselves are checked, so that
    /// a forest that loads can be scored. Memory use is below 40 times the length of `bytes`.
    ///
    /// # Errors
    /// The bytes are not a stored forest, have another format version, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IsolationForestError> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err(IsolationForestError::NotAForest);
        };
        let version = u32::from_le_bytes(Reader(rest).take()?);
        if version != FORMAT_VERSION {
            return Err(IsolationForestError::UnsupportedVersion(version));
        }
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TRUNCATED)?;
        if fnv1a(body) != u64::from_le_bytes(*checksum) {
            return Err(IsolationForestError::Damaged("checksum"));
        }

        let mut reader = Reader(body.get(MAGIC.len() + 4..).ok_or(TRUNCATED)?);
        let seed = u64::from_le_bytes(reader.take()?);
        let [sample_size, n_rows] = [reader.u32()?, reader.u32()?];
        let [features, trees, nodes] = [reader.u32()?, reader.u32()?, reader.u32()?];
        let [threshold, median, q99, q999] =
            [reader.f32()?, reader.f32()?, reader.f32()?, reader.f32()?];
        // Before anything is allocated: the counts must be those of the bytes at hand.
        let words = u64::from(features) + u64::from(trees) + 3 * u64::from(nodes);
        if reader.0.len() as u64 != 4 * words {
            return Err(IsolationForestError::Damaged("length"));
        }
        Self::from_parts(Parts {
            seed,
            sample_size,
            n_rows,
            threshold,
            training: TrainingScores { median, q99, q999 },
            medians: reader.list(features, Reader::f32)?,
            roots: reader.list(trees, Reader::u32)?,
            nodes: reader.list(nodes, |reader| {
                Ok(Node {
                    feature: reader.u32()?,
                    value: reader.f32()?,
                    child: reader.u32()?,
                })
            })?,
        })
    }
}

const TRUNCATED: IsolationForestError = IsolationForestError::Damaged("truncated");

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], IsolationForestError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, IsolationForestError> {
        self.take().map(u32::from_le_bytes)
    }

    fn f32(&mut self) -> Result<f32, IsolationForestError> {
        self.take().map(f32::from_le_bytes)
    }

    fn list<T>(
        &mut self,
        count: u32,
        mut one: impl FnMut(&mut Self) -> Result<T, IsolationForestError>,
    ) -> Result<Vec<T>, IsolationForestError> {
        (0..count).map(|_| one(self)).collect()
    }
}

/// 64-bit FNV-1a. Each step is a bijection of the state, so no change of a single byte goes
/// unnoticed; it guards against damage, not against intent.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use linfa::ParamGuard;
    use proptest::prelude::*;

    use super::*;
    use crate::forest::tests::{cloud, small_forest};

    #[test]
    fn fnv1a_known_values() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn round_trip_keeps_every_bit() {
        let params = IsolationForest::params()
            .contamination(0.01)
            .seed(u64::MAX - 5);
        let rows = cloud(900, 6, 2);
        let forest = params.check().unwrap().fit_rows(&rows, 6).unwrap();
        let bytes = forest.to_bytes();
        let loaded = IsolationForest::from_bytes(&bytes).unwrap();
        assert_eq!(loaded, forest);
        assert_eq!(loaded.to_bytes(), bytes);
        for row in rows.chunks(6) {
            assert_eq!(
                loaded.score_one(row).to_bits(),
                forest.score_one(row).to_bits()
            );
        }
        assert_eq!(
            bytes.len(),
            HEADER + 4 * (6 + 100) + 12 * forest.n_nodes() + CHECKSUM
        );
    }

    #[test]
    fn every_prefix_and_suffix_is_refused() {
        let bytes = small_forest().to_bytes();
        for length in 0..bytes.len() {
            assert!(
                IsolationForest::from_bytes(&bytes[..length]).is_err(),
                "{length}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(IsolationForest::from_bytes(&longer).is_err());
    }

    #[test]
    fn other_formats_are_named() {
        let mut bytes = small_forest().to_bytes();
        bytes[8] = 9;
        assert!(matches!(
            IsolationForest::from_bytes(&bytes),
            Err(IsolationForestError::UnsupportedVersion(9))
        ));
        bytes[0] = b'x';
        assert!(matches!(
            IsolationForest::from_bytes(&bytes),
            Err(IsolationForestError::NotAForest)
        ));
    }

    /// Writes the right checksum for altered bytes, so that the checks behind it are reached.
    fn seal(bytes: &mut [u8]) {
        let end = bytes.len() - CHECKSUM;
        let checksum = fnv1a(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_changed_byte_is_an_error(at in any::<prop::sample::Index>(), change in 1_u8..) {
            let mut bytes = small_forest().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(IsolationForest::from_bytes(&bytes).is_err());
        }

        #[test]
        fn forged_bytes_are_an_error_or_a_forest(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            row in prop::collection::vec(any::<f32>(), 3),
        ) {
            let mut bytes = small_forest().to_bytes();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            seal(&mut bytes);
            if let Ok(forest) = IsolationForest::from_bytes(&bytes) {
                let one = forest.score_one(&row);
                prop_assert!(one > 0.0 && one <= 1.0);
                let mut block = [0.0; 8];
                forest.anomaly_scores_into(&row.repeat(8), &mut block).unwrap();
                prop_assert!(block.iter().all(|score| score.to_bits() == one.to_bits()));
            }
        }

        #[test]
        fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(IsolationForest::from_bytes(&noise).is_err());
            let mut bytes = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &noise, &[0; 8]].concat();
            seal(&mut bytes);
            prop_assert!(IsolationForest::from_bytes(&bytes).is_err());
        }
    }
}
