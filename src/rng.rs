//! One seeded random number generator for everything: initial weights, z, shuffling, augmentation.
//!
//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): number `n` of a
//! stream is a pure function of (key, stream, n), so nothing depends on the order in which streams are used
//! or on the number of threads, and the whole state is three integers that a checkpoint can hold.
//!
//! A generator is a place in a tree of streams. [`Rng::split`] descends by name, [`Rng::at`] by number;
//! both leave the parent untouched, so the z of image `i` is `Rng::new(seed).split("z").at(i)`, whatever
//! else was drawn before it and whatever the batch size is.

use serde::{Deserialize, Serialize};

/// Separates the numbers that name a child by string, name a child by number, and are handed out.
const SPLIT: u32 = 0x5350_4c54;
const AT: u32 = 0x4154_4154;
const SEED: u32 = 0x5345_4544;

/// What a hash by [`fnv1a`] starts from.
pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Takes a number into a hash (FNV-1a, 64 bits; as published of bytes).
pub(crate) fn fnv1a(hash: u64, number: u64) -> u64 {
    (hash ^ number).wrapping_mul(0x0100_0000_01b3)
}

/// A stream of random numbers. Saved and restored with serde; equal states continue equally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rng {
    key: u64,
    stream: u64,
    /// How many 64-bit numbers have been drawn.
    drawn: u64,
}

impl Rng {
    /// The root of all streams of a run.
    pub fn new(seed: u64) -> Self {
        Self { key: seed, stream: 0, drawn: 0 }.child(SEED, 0)
    }

    /// The stream named `name` below this one: the same whatever was drawn from this one.
    #[must_use]
    pub fn split(&self, name: &str) -> Self {
        // Names are few, short and ours.
        self.child(SPLIT, name.bytes().map(u64::from).fold(FNV_START, fnv1a))
    }

    /// The stream numbered `index` below this one: the same whatever was drawn from this one.
    #[must_use]
    pub fn at(&self, index: u64) -> Self {
        self.child(AT, index)
    }

    /// Key and stream of a child are one Philox block under a key that no draw uses.
    fn child(&self, domain: u32, tag: u64) -> Self {
        let [k0, k1] = halves(self.key);
        let [t0, t1] = halves(tag);
        let [s0, s1] = halves(self.stream);
        let [a, b, c, d] = philox4x32([t0, t1, s0, s1], [k0 ^ domain, k1 ^ domain.rotate_left(16)]);
        Self { key: whole(a, b), stream: whole(c, d), drawn: 0 }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [first, second] = self.block();
        let second_is_next = self.drawn % 2 == 1;
        self.drawn = self.drawn.wrapping_add(1);
        if second_is_next { second } else { first }
    }

    /// The two numbers of the block that the next one is in.
    fn block(&self) -> [u64; 2] {
        let [n0, n1] = halves(self.drawn / 2);
        let [s0, s1] = halves(self.stream);
        let [a, b, c, d] = philox4x32([n0, n1, s0, s1], halves(self.key));
        [whole(a, b), whole(c, d)]
    }

    /// The next two numbers; where they are one block, that is computed once.
    fn next_two(&mut self) -> [u64; 2] {
        if self.drawn % 2 == 1 {
            return [self.next_u64(), self.next_u64()];
        }
        let both = self.block();
        self.drawn = self.drawn.wrapping_add(2);
        both
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// Uniform in `0..n` without bias; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Lemire, "Fast random integer generation in an interval" (2019): reject the few low products that
        // would make some results likelier.
        let threshold = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box-Muller, one of the pair; always two draws, so positions stay predictable).
    pub fn normal(&mut self) -> f32 {
        let [first, second] = self.next_two().map(unit);
        let radius = (-2.0 * (1.0 - first).ln()).sqrt();
        (radius * (std::f64::consts::TAU * second).cos()) as f32
    }

    /// Fills `out` with standard normal numbers.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        out.fill_with(|| self.normal());
    }

    /// `n` standard normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// Puts the items in uniformly random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// 64 random bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    const STEP: f64 = 1.0 / (1u64 << 53) as f64;
    (bits >> 11) as f64 * STEP
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The Philox 4x32 block function with 10 rounds.
fn philox4x32(mut x: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low0, high0] = halves(u64::from(x[0]) * 0xd251_1f53);
        let [low1, high1] = halves(u64::from(x[2]) * 0xcd9e_8d57);
        x = [high1 ^ x[1] ^ key[0], low1, high0 ^ x[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors of Philox publish with Random123.
    #[test]
    fn philox_matches_published_answers() {
        let all = u32::MAX;
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    /// Checkpoints and published samples depend on these numbers: they must never change.
    #[test]
    fn streams_are_pinned() {
        let mut root = Rng::new(0);
        let mut z = Rng::new(42).split("z").at(7);
        let got = [root.next_u64(), root.next_u64(), z.next_u64(), z.next_u64()];
        assert_eq!(got, PINNED, "{got:#x?}");
    }
    const PINNED: [u64; 4] =
        [0x01c1_b225_14d3_3a8f, 0xfd78_176b_79ce_e8e8, 0x59a0_5c6e_2a1f_7c02, 0x36e7_640d_4007_6548];

    /// From an odd place on, where the two draws of a number are of two blocks, too.
    #[test]
    fn normal_numbers_are_box_and_mullers_of_two_draws() {
        for skipped in [0, 1] {
            let mut rng = Rng::new(4).split("normal");
            for _ in 0..skipped {
                rng.next_u64();
            }
            let mut draws = rng.clone();
            for _ in 0..5 {
                let radius = (-2.0 * (1.0 - draws.uniform()).ln()).sqrt();
                let want = (radius * (std::f64::consts::TAU * draws.uniform()).cos()) as f32;
                assert_eq!(rng.normal().to_bits(), want.to_bits());
            }
            assert_eq!(rng, draws);
        }
    }

    #[test]
    fn streams_do_not_depend_on_what_was_drawn() {
        let mut used = Rng::new(3);
        used.normals(101);
        assert_eq!(used.split("z").at(5), Rng::new(3).split("z").at(5));
        let names = ["a", "b", "z"].map(|name| Rng::new(3).split(name).next_u64());
        let numbers = [0, 1, 2].map(|index| Rng::new(3).at(index).next_u64());
        let mut all = [names, numbers].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn a_saved_state_continues() {
        let mut rng = Rng::new(9).split("data");
        rng.normals(7);
        rng.next_u64();
        let saved = serde_json::to_string(&rng).unwrap();
        let mut restored: Rng = serde_json::from_str(&saved).unwrap();
        assert_eq!(restored.normals(20), rng.normals(20));
        assert!(serde_json::from_str::<Rng>(&saved.replace("drawn", "drown")).is_err());
    }

    #[test]
    fn moments_are_right() {
        let n = 100_000;
        let mut rng = Rng::new(1);
        let normals: Vec<f64> = rng.normals(n).into_iter().map(f64::from).collect();
        let moment = |k: i32| normals.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
        // Five standard errors: sqrt(1/n), sqrt(2/n), sqrt(96/n).
        assert!(moment(1).abs() < 5.0 * (1.0 / n as f64).sqrt());
        assert!((moment(2) - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
        assert!((moment(4) - 3.0).abs() < 5.0 * (96.0 / n as f64).sqrt());
        let mean = (0..n).map(|_| rng.uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n as f64).sqrt());
    }

    #[test]
    fn below_and_shuffle_are_fair() {
        let mut rng = Rng::new(2);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            let mut items = [0usize, 1, 2];
            rng.shuffle(&mut items);
            counts[items[0] * 2 + usize::from(items[1] > items[2])] += 1;
        }
        // 10000 expected, standard deviation 91.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 5 * 91), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
