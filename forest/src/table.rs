//! Small trees as complete ones, for scoring many rows: a step down is a subtraction of integers
//! and shifts, and no index can be outside of its array.

use crate::tree::Node;

/// Levels of a tree of 256 rows, the paper's sub-sampling size. Larger trees have no table.
const LEVELS: u32 = 8;
/// Splits of a complete tree, numbered from 1: those below split `n` are `2 n` (right) and
/// `2 n + 1` (left), and what is below the last ones are leaves.
const SPLITS: usize = 1 << LEVELS;
/// The most features that a row may have.
const FEATURES: usize = 32;
/// Rows that go through a tree before the next one: it is in the nearest cache by then.
pub(crate) const ROWS: usize = 48;

/// Rows walked through a tree together. Their walks do not depend on each other, so the processor
/// overlaps the waits for memory.
const LANES: usize = 8;

/// Keys of `LANES` rows, feature by feature, shifted by 31 bits and with ones below: minus a
/// [`Split`], it is negative if and only if its key is the smaller one. (The last lanes only spare
/// checks of bounds.)
type Block = [u64; FEATURES * LANES + LANES];

/// Key of the split point, shifted by 31 bits, and where its feature begins in a [`Block`].
type Split = u64;

/// Trees have at least so many nodes on average, or the table would be too large beside them.
const NODES: usize = 8;

/// All trees of a forest, 3 KB each.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    splits: Vec<[Split; SPLITS]>,
    /// Path lengths of the leaves, by number modulo `SPLITS`.
    paths: Vec<[f32; SPLITS]>,
}

/// Keys compare like the numbers: `key(x) < key(p)` if and only if `x < p`, for a `p` that is a
/// number. That of NaN is above all, and none is 0.
fn key(x: f32) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    // Both zeros are equal.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 0 {
        bits | 1 << 31
    } else {
        !bits
    }
}

impl Table {
    /// Of the trees with these roots, at most `height` high; `None` if they are too small, or they
    /// or rows too large for it.
    pub(crate) fn of(nodes: &[Node], roots: &[u32], height: u32, width: usize) -> Option<Self> {
        if height > LEVELS || width > FEATURES || nodes.len() / NODES < roots.len() {
            return None;
        }
        let mut table = Self {
            splits: vec![[0; SPLITS]; roots.len()],
            paths: vec![[0.0; SPLITS]; roots.len()],
        };
        for (tree, root) in roots.iter().enumerate() {
            table.fill(tree, nodes, *root, 1);
        }
        Some(table)
    }

    /// Writes node `at`, and what is below it, to place `number` of a tree.
    fn fill(&mut self, tree: usize, nodes: &[Node], at: u32, number: usize) {
        let node = nodes[at as usize];
        if node.is_leaf() {
            // No key is below 0: from here on, all go right.
            let mut leaf = number;
            while leaf < SPLITS {
                leaf *= 2;
            }
            self.paths[tree][leaf % SPLITS] = node.value;
            return;
        }
        let feature = u64::from(node.feature) * LANES as u64;
        let split = u64::from(key(node.value)) << 31 | feature;
        self.splits[tree][number] = split;
        self.fill(tree, nodes, node.child, 2 * number);
        self.fill(tree, nodes, node.child + 1, 2 * number + 1);
    }

    /// Sums of the path lengths of rows of `width` features; of [`ROWS`] rows at most.
    pub(crate) fn path_lengths(&self, rows: &[f32], width: usize) -> [f64; ROWS] {
        let mut blocks: [Block; ROWS / LANES] = [[0; FEATURES * LANES + LANES]; ROWS / LANES];
        let mut sums = [0.0; ROWS];
        let given = rows.chunks(LANES * width);
        let count = given.len();
        for (rows, block) in given.zip(&mut blocks) {
            for (lane, row) in rows.chunks_exact(width).enumerate() {
                for (x, keys) in row.iter().zip(block.chunks_exact_mut(LANES)) {
                    keys[lane] = u64::from(key(*x)) << 31 | u64::from(u32::MAX >> 1);
                }
            }
        }
        for (splits, paths) in self.splits.iter().zip(&self.paths) {
            let sums = sums.chunks_exact_mut(LANES);
            for (block, sums) in blocks.iter().zip(sums).take(count) {
                let leaves = walk(splits, block);
                for (sum, leaf) in sums.iter_mut().zip(leaves) {
                    *sum += f64::from(paths[usize::from(leaf)]);
                }
            }
        }
        sums
    }
}

/// The leaves in which the rows of a block end, modulo `SPLITS`.
fn walk(splits: &[Split; SPLITS], block: &Block) -> [u8; LANES] {
    let mut at = [1_u8; LANES];
    for _ in 0..LEVELS {
        for (lane, at) in at.iter_mut().enumerate() {
            let split = splits[usize::from(*at)];
            let [feature, ..] = split.to_le_bytes();
            let difference = block[usize::from(feature) + lane].wrapping_sub(split);
            let [.., sign] = difference.to_le_bytes();
            *at = *at << 1 | sign >> 7;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_like_numbers() {
        let numbers = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.5,
            -f32::MIN_POSITIVE,
            -0.0,
            0.0,
            1e-45,
            1.5,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        for p in numbers.into_iter().filter(|p| !p.is_nan()) {
            for x in numbers {
                assert_eq!(key(x) < key(p), x < p, "{x} < {p}");
            }
            assert!(key(p) > 0);
        }
    }
}
