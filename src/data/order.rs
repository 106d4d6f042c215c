//! Which image is shown when: a pure function of the seed and the running number of the image since the start of training.
//!
//! Epoch `e` shows each image once, in the order of a Fisher-Yates shuffle drawn from stream ("shuffle", e); image number
//! `n` is entry `n % len` of epoch `n / len`. Mirroring draws one bit from stream ("mirror", n). Workers, prefetching, batch
//! size and ranks have no say in it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::rng::Rng;

/// The endless sequence of images of a run.
pub(super) struct Order {
    len: u64,
    shuffle: Rng,
    mirror: Option<Rng>,
    /// The two epochs last used: batches may span a boundary, and workers run ahead by a few batches.
    epochs: Mutex<Vec<(u64, Arc<Vec<u32>>)>>,
}

/// One place in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) epoch: u64,
    pub(super) image: u32,
    pub(super) mirrored: bool,
}

impl Order {
    /// `len` images, at least 1 and fewer than 2^32.
    pub(super) fn new(len: u64, seed: u64, mirror: bool) -> Self {
        let root = Rng::new(seed).split("data");
        Order {
            len,
            shuffle: root.split("shuffle"),
            mirror: mirror.then(|| root.split("mirror")),
            epochs: Mutex::new(Vec::new()),
        }
    }

    /// Image number `n` since the start of training.
    pub(super) fn at(&self, n: u64) -> Shown {
        let permutation = self.epoch(n / self.len);
        let image = permutation.get((n % self.len) as usize).copied().unwrap_or_default();
        let mirrored = self.mirror.as_ref().is_some_and(|stream| stream.at(n).next_u64() & 1 == 1);
        Shown { epoch: n / self.len, image, mirrored }
    }

    fn epoch(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, permutation)) = epochs.iter().find(|(number, _)| *number == epoch) {
            return permutation.clone();
        }
        let mut permutation: Vec<u32> = (0..self.len as u32).collect();
        self.shuffle.at(epoch).shuffle(&mut permutation);
        let permutation = Arc::new(permutation);
        if epochs.len() == 2 {
            epochs.remove(0);
        }
        epochs.push((epoch, permutation.clone()));
        permutation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_shows_every_image_once_in_its_own_order() {
        let order = Order::new(100, 7, false);
        let epoch = |e: u64| (e * 100..(e + 1) * 100).map(|n| order.at(n).image).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut shown in [first.clone(), second] {
            shown.sort_unstable();
            assert_eq!(shown, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(epoch(0), first, "going back gives the same epoch again");
        assert_ne!(first[0..10], Order::new(100, 8, false).epoch(0)[0..10]);
    }

    /// Recorded figures: a run that is resumed goes on with the images that it would have seen.
    #[test]
    fn the_order_stays_the_same() {
        let order = Order::new(10, 7, true);
        let epoch = |e: u64| (e * 10..(e + 1) * 10).map(|n| order.at(n).image).collect::<Vec<_>>();
        assert_eq!(epoch(0), [1, 3, 2, 9, 7, 6, 4, 8, 0, 5]);
        assert_eq!(epoch(1), [9, 1, 5, 7, 3, 4, 2, 8, 0, 6]);
        let mirrored: Vec<u8> = (0..10).map(|n| u8::from(order.at(n).mirrored)).collect();
        assert_eq!(mirrored, [1, 0, 1, 1, 0, 0, 1, 0, 0, 1]);
    }

    #[test]
    fn about_half_is_mirrored_and_shuffling_does_not_change() {
        let (plain, mirrored) = (Order::new(50, 1, false), Order::new(50, 1, true));
        let count = (0..1000).filter(|&n| mirrored.at(n).mirrored).count();
        assert!((400..600).contains(&count), "{count}");
        assert!((0..1000).all(|n| plain.at(n).image == mirrored.at(n).image && !plain.at(n).mirrored));
    }
}
