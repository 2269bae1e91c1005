//! One isolation tree: its nodes and how it is grown (algorithm 2 of the paper).

use crate::math::{average_path_length, to_f32};
use crate::rng::Rng;

/// One node of the flat array that holds all trees of a forest.
///
/// The children of an inner node are neighbours: the right one (`x < value` is false, NaN
/// included) at `child`, the left one at `child + 1`, so a step down is one addition and needs no
/// branch. Children come after their parent. A leaf has `child` 0 and `feature` 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Node {
    /// Feature that an inner node looks at.
    pub(crate) feature: u32,
    /// Split point of an inner node; of a leaf, the path length that ends here: depth + c(n).
    pub(crate) value: f32,
    /// Index of the right child in the forest's array, 0 for a leaf.
    pub(crate) child: u32,
}

impl Node {
    pub(crate) fn leaf(depth: u32, rows: usize) -> Self {
        let path = f64::from(depth) + average_path_length(rows as u64);
        Self {
            feature: 0,
            value: to_f32(path),
            child: 0,
        }
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.child == 0
    }
}

/// Grows trees, one after the other, into the shared array.
#[derive(Debug)]
pub(crate) struct Grower<'a> {
    /// Training data, row by row.
    data: &'a [f32],
    width: usize,
    height_limit: u32,
    /// All features; a node's candidates are a prefix of it.
    features: Vec<u32>,
    pub(crate) nodes: Vec<Node>,
}

impl<'a> Grower<'a> {
    pub(crate) fn new(data: &'a [f32], width: u32, height_limit: u32) -> Self {
        let features = (0..width).collect();
        Self {
            data,
            width: width as usize,
            height_limit,
            features,
            nodes: Vec::new(),
        }
    }

    /// Grows one tree from the rows of its sample, which end up in another order. Returns the
    /// index of its root.
    pub(crate) fn grow(&mut self, rows: &mut [u32], rng: &mut Rng) -> usize {
        let root = self.nodes.len();
        self.nodes.push(Node::leaf(0, rows.len()));
        // The order of the features must not depend on the trees before, or a tree could not be
        // repeated from its seed.
        self.features.sort_unstable();
        self.split(root, rows, 0, self.features.len(), rng);
        root
    }

    /// Splits the node `at`, now a leaf, that holds `rows`. All features that are not constant in
    /// it are among the first `candidates`.
    fn split(
        &mut self,
        at: usize,
        rows: &mut [u32],
        depth: u32,
        mut candidates: usize,
        rng: &mut Rng,
    ) {
        if rows.len() < 2 || depth >= self.height_limit {
            return;
        }
        let Some((feature, low, high)) = self.draw_feature(rows, &mut candidates, rng) else {
            return; // equal rows
        };
        let point = split_point(low, high, rng);
        let left = self.partition(rows, feature, point);

        let right_child = self.nodes.len();
        let Ok(child) = u32::try_from(right_child) else {
            return; // `fit` has checked that all nodes can be addressed
        };
        self.nodes[at] = Node {
            feature,
            value: point,
            child,
        };
        let (left_rows, right_rows) = rows.split_at_mut(left);
        self.nodes.push(Node::leaf(depth + 1, right_rows.len()));
        self.nodes.push(Node::leaf(depth + 1, left_rows.len()));
        // A subtree reorders the candidates only among themselves, so the set is the same for
        // its sibling. What is constant here is constant in every subset.
        self.split(right_child, right_rows, depth + 1, candidates, rng);
        self.split(right_child + 1, left_rows, depth + 1, candidates, rng);
    }

    /// Draws a feature that is not constant in `rows`, each with equal chance, with its range.
    /// Constant ones that it meets are moved behind `candidates`.
    fn draw_feature(
        &mut self,
        rows: &[u32],
        candidates: &mut usize,
        rng: &mut Rng,
    ) -> Option<(u32, f32, f32)> {
        while *candidates > 0 {
            let bound = u32::try_from(*candidates).unwrap_or(u32::MAX);
            let drawn = rng.below(bound) as usize;
            let feature = self.features[drawn];
            let (low, high) = self.range(rows, feature);
            if low < high {
                return Some((feature, low, high));
            }
            *candidates -= 1;
            self.features.swap(drawn, *candidates);
        }
        None
    }

    fn value(&self, row: u32, feature: u32) -> f32 {
        self.data[row as usize * self.width + feature as usize]
    }

    fn range(&self, rows: &[u32], feature: u32) -> (f32, f32) {
        // Comparisons and not `f32::min`: which zero that returns for -0 and 0 is not fixed.
        let first = self.value(rows[0], feature);
        rows[1..].iter().fold((first, first), |(low, high), &row| {
            let x = self.value(row, feature);
            (
                if x < low { x } else { low },
                if x > high { x } else { high },
            )
        })
    }

    /// Moves the rows with `x < point` to the front and returns their number.
    fn partition(&self, rows: &mut [u32], feature: u32, point: f32) -> usize {
        let mut left = 0;
        for i in 0..rows.len() {
            if self.value(rows[i], feature) < point {
                rows.swap(i, left);
                left += 1;
            }
        }
        left
    }
}

/// Uniform in (low, high], so that `x < point` leaves neither side empty.
fn split_point(low: f32, high: f32, rng: &mut Rng) -> f32 {
    // In f64, where high - low cannot overflow; rounding to f32 may reach `low` again.
    let (from, to) = (f64::from(low), f64::from(high));
    to_f32(to - rng.unit() * (to - from)).max(low.next_up())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(data: &[f32], width: u32, height: u32, seed: u64) -> Vec<Node> {
        let mut grower = Grower::new(data, width, height);
        let mut rows: Vec<u32> = (0..u32::try_from(data.len()).unwrap() / width).collect();
        assert_eq!(grower.grow(&mut rows, &mut Rng::for_tree(seed, 0)), 0);
        grower.nodes
    }

    #[test]
    fn two_rows_are_isolated_at_depth_one() {
        let nodes = grown(&[1.0, 2.0], 1, 1, 5);
        assert_eq!(nodes.len(), 3);
        assert_eq!((nodes[0].feature, nodes[0].child), (0, 1));
        assert!(nodes[0].value > 1.0 && nodes[0].value <= 2.0);
        assert_eq!(nodes[1..], [Node::leaf(1, 1); 2]);
    }

    #[test]
    fn equal_rows_are_one_leaf() {
        assert_eq!(grown(&[3.0; 20], 2, 4, 5), [Node::leaf(0, 10)]);
        // -0 and 0 compare equal.
        assert_eq!(grown(&[0.0, -0.0, 0.0], 1, 2, 5), [Node::leaf(0, 3)]);
    }

    #[test]
    fn constant_features_are_never_drawn() {
        let data: Vec<f32> = (0..64_u8)
            .flat_map(|i| [7.0, f32::from(i), -1.0, f32::from(i % 2)])
            .collect();
        for seed in 0..20 {
            let nodes = grown(&data, 4, 6, seed);
            assert!(
                nodes
                    .iter()
                    .all(|node| node.is_leaf() || node.feature % 2 == 1)
            );
            assert!(!nodes[0].is_leaf());
        }
    }

    #[test]
    fn features_that_vary_are_drawn_equally_often() {
        let data: Vec<f32> = (0..8_u8)
            .flat_map(|i| [f32::from(i), 7.0, f32::from(i) * 1e6, f32::from(i)])
            .collect();
        let mut counts = [0; 4];
        for seed in 0..3_000 {
            counts[grown(&data, 4, 1, seed)[0].feature as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!(
            [0, 2, 3].iter().all(|&i| (900..1_100).contains(&counts[i])),
            "{counts:?}"
        );
    }

    #[test]
    fn split_points_leave_no_side_empty() {
        let mut rng = Rng::for_tree(0, 0);
        let ranges = [
            (1.0, 1.0_f32.next_up()),
            (0.0, f32::from_bits(1)),
            (f32::MIN, f32::MAX),
            (-1.0, 1.0),
            (1e6, 1_000_001.0),
        ];
        for (low, high) in ranges {
            for _ in 0..1_000 {
                let point = split_point(low, high, &mut rng);
                assert!(low < point && point <= high, "{low} {point} {high}");
            }
        }
    }
}
