//! Random numbers for training: xoshiro256++, one generator per tree.
//!
//! Own code because the stream is part of the crate's promise: a seed must give the same forest on
//! every platform and with every version of every dependency.

/// Odd number nearest to 2^64 divided by the golden ratio, the step of `SplitMix64`.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// xoshiro256++ of Blackman and Vigna.
#[derive(Debug)]
pub(crate) struct Rng([u64; 4]);

impl Rng {
    /// Generator of one tree.
    ///
    /// Seed and index are hashed. With `seed + index` two forests with neighbouring seeds would
    /// share all trees but one, and a mean over seeds would look far more certain than it is.
    pub(crate) fn for_tree(seed: u64, tree: u32) -> Self {
        let mut state = mix(mix(seed.wrapping_add(GOLDEN)) ^ mix(!u64::from(tree)));
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        }))
    }

    fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), 53 bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in 0..`bound`, without bias; 0 for a `bound` of 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        // Lemire's method: the upper half of a 32 x 32 bit product, and a redraw of the few
        // lower halves that would make some results more likely than others.
        let bound = u64::from(bound);
        let reject = (1_u64 << 32).checked_rem(bound).unwrap_or(0);
        loop {
            let product = (self.next_u64() >> 32) * bound;
            if (product & u64::from(u32::MAX)) >= reject {
                return u32::try_from(product >> 32).unwrap_or(0);
            }
        }
    }
}

/// Finaliser of `SplitMix64`: a bijection in which every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xoshiro_reference_values() {
        // First outputs of the authors' C code for the state 1, 2, 3, 4.
        let mut rng = Rng([1, 2, 3, 4]);
        let expected = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
        ];
        assert_eq!(std::array::from_fn(|_| rng.next_u64()), expected);
    }

    #[test]
    fn below_is_in_range_and_even() {
        let mut rng = Rng::for_tree(1, 0);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_600..10_400).contains(count)),
            "{counts:?}"
        );
        assert_eq!((rng.below(1), rng.below(0)), (0, 0));
    }

    #[test]
    fn unit_is_in_range() {
        let mut rng = Rng::for_tree(1, 0);
        let mean = (0..10_000)
            .map(|_| rng.unit())
            .inspect(|u| assert!((0.0..1.0).contains(u)));
        assert!((mean.sum::<f64>() / 10_000.0 - 0.5).abs() < 0.02);
    }

    #[test]
    fn neighbouring_seeds_share_no_tree() {
        let mut firsts: Vec<u64> = (0..50)
            .flat_map(|seed| (0..100).map(move |tree| Rng::for_tree(seed, tree).next_u64()))
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 5_000);
    }
}
