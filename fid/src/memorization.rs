//! Does the generator copy its training images? Each fake's nearest training image against its nearest held-out one.
//!
//! The held-out images come from the same source but were never trained on, so a generator that does not copy is as
//! near to the one set as to the other: half of its images are nearer to the training set. FID itself cannot tell, it
//! rewards copies. The training set is reduced to the size of the held-out set, since more points lie nearer.

use crate::error::Result;
use crate::features::Features;
use crate::kid::{same_dims, sample};
use crate::neighbours::nearest;
use crate::statistics::{Estimate, at_least};

/// A generated image and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Pair {
    /// Index of the fake.
    pub fake: usize,
    /// Index of its nearest training image.
    pub train: usize,
    /// Distance to it.
    pub train_distance: f64,
    /// Distance to the nearest held-out image.
    pub held_out_distance: f64,
}

/// What the comparison found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Memorization {
    /// Share of fakes that are nearer to a training image than to any held-out one: 0.5 when nothing is copied.
    pub nearer_to_train: Estimate,
    /// Median over fakes of (distance to training set) / (distance to held-out set).
    pub median_distance_ratio: f64,
    /// Images of each set that were compared.
    pub compared: usize,
    /// The fakes most suspect: smallest distance ratio first, up to ten.
    pub closest: Vec<Pair>,
}

/// Compares fakes with training and held-out images of one feature space; `seed` picks the training images.
///
/// # Errors
/// Fewer than two images anywhere, or different numbers of features.
pub fn memorization(train: &Features, held_out: &Features, fake: &Features, seed: u64) -> Result<Memorization> {
    for (features, side) in [(train, "training"), (held_out, "held-out"), (fake, "fake")] {
        at_least("the memorisation check", 2, features, side)?;
        same_dims(features, fake)?;
    }
    let compared = train.len().min(held_out.len());
    let train_indices = sample(train.len(), compared, seed);
    let to_train = nearest(fake, &train.select(&train_indices));
    let to_held_out = nearest(fake, &held_out.select(&sample(held_out.len(), compared, seed)));
    let mut pairs: Vec<Pair> = to_train
        .iter()
        .zip(&to_held_out)
        .enumerate()
        .map(|(fake, (&(train_distance, train), &(held_out_distance, _)))| Pair {
            fake,
            train: train_indices[train],
            train_distance,
            held_out_distance,
        })
        .collect();
    // A distance of zero to both sets is a tie, not a copy of the training set alone.
    let ratio = |pair: &Pair| {
        if pair.train_distance == pair.held_out_distance {
            1.0
        } else {
            pair.train_distance / pair.held_out_distance
        }
    };
    let score = |pair: &Pair| match ratio(pair).total_cmp(&1.0) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    };
    let count = pairs.len() as f64;
    let share = pairs.iter().map(score).sum::<f64>() / count;
    let nearer_to_train = Estimate { value: share, standard_error: (share * (1.0 - share) / count).sqrt() };
    pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let median_distance_ratio = ratio(&pairs[pairs.len() / 2]);
    pairs.truncate(10);
    Ok(Memorization { nearer_to_train, median_distance_ratio, compared, closest: pairs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, images: usize) -> Features {
        let dims = 6;
        Features {
            dims,
            data: (0..images * dims).map(|i| crate::formula::unit(seed, i as u64) as f32).collect(),
        }
    }

    #[test]
    fn an_honest_generator_is_as_near_to_both_and_a_copier_is_caught() {
        let (train, held_out, honest) = (noise(1, 300), noise(2, 200), noise(3, 400));
        let found = memorization(&train, &held_out, &honest, 0).expect("enough images");
        assert_eq!(found.compared, 200);
        assert!((found.nearer_to_train.value - 0.5).abs() < 4.0 * found.nearer_to_train.standard_error);
        // Copies of all training images: those that stay in the comparison are at distance zero.
        let found = memorization(&train, &held_out, &train, 0).expect("enough images");
        assert!(found.nearer_to_train.value > 0.75);
        assert!(found.closest.iter().all(|pair| pair.train_distance == 0.0 && pair.train == pair.fake));
    }
}
