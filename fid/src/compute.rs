//! The scores of two sides, from their features.

use crate::config::{Metric, ScoreConfig};
use crate::error::{Error, Result};
use crate::extractor::Extractor;
use crate::features::Features;
use crate::fid_infinity::fid_infinity;
use crate::frechet::{Frechet, Spectrum, frechet_distance};
use crate::inception::Tap;
use crate::inception_score::{InceptionScore, inception_score, logits};
use crate::kid::{kid, kid_subsets, sample};
use crate::memorization::memorization;
use crate::precision_recall::precision_recall;
use crate::report::Scores;
use crate::statistics::{Moments, at_least};

/// Names in messages of what is no [`Metric`].
pub(crate) const FLOOR: &str = "the real/real floor";
pub(crate) const COPIES: &str = "the memorisation check";

/// The features of a side, or its statistics.
pub(crate) enum Side {
    Features(Features),
    Statistics(Moments),
}

impl Side {
    /// The features, which `what` needs of the side called `name`.
    fn features(&self, what: &'static str, name: &str) -> Result<&Features> {
        match self {
            Side::Features(features) => Ok(features),
            Side::Statistics(_) => Err(Error::NeedsImages { what, side: name.to_owned() }),
        }
    }

    fn spectrum(&self, name: &str) -> Result<Spectrum<'_>> {
        match self {
            Side::Features(features) => Spectrum::new(features, name),
            Side::Statistics(moments) => Ok(Spectrum::from_moments(moments)),
        }
    }
}

/// The class weights `[1008, 2048]` of the network.
pub(crate) fn classifier<'a>(extractor: &'a Extractor, config: &ScoreConfig) -> Result<&'a [f32]> {
    let Extractor::Inception { network, .. } = extractor else {
        return Err(Error::Mismatch("the Inception score needs the Inception network".into()));
    };
    if config.tap != Tap::D2048 {
        return Err(Error::Mismatch("the Inception score needs the 2048 last features".into()));
    }
    Ok(network.classifier().0)
}

/// The scores that [`crate::plan::plan`] found.
pub(crate) fn compute(
    real: &Side,
    fake: &Side,
    held_out: Option<&Side>,
    metrics: &[Metric],
    extractor: &Extractor,
    config: &ScoreConfig,
) -> Result<Scores> {
    let both = |what| Ok::<_, Error>((real.features(what, "real")?, fake.features(what, "fake")?));
    let mut scores = Scores::default();
    let wanted = |metric| metrics.contains(&metric);
    if wanted(Metric::Fid) || wanted(Metric::FidInfinity) {
        let real_spectrum = real.spectrum("real")?;
        if wanted(Metric::Fid) {
            scores.frechet = Some(frechet_distance(&real_spectrum, &fake.spectrum("fake")?)?);
        }
        if wanted(Metric::FidInfinity) {
            let fake = fake.features(Metric::FidInfinity.title(), "fake")?;
            scores.fid_infinity = Some(fid_infinity(&real_spectrum, fake, config.seed)?);
        }
    }
    if config.floor {
        scores.floor = Some(floor(real.features(FLOOR, "real")?, config.seed)?);
    }
    if wanted(Metric::Kid) {
        let (real, fake) = both(Metric::Kid.title())?;
        scores.kid = Some(kid(real, fake)?);
        if let Some((subsets, size)) = config.kid_subsets {
            scores.kid_subsets = Some(kid_subsets(real, fake, subsets, size, config.seed)?);
        }
    }
    if wanted(Metric::Is) {
        let fake = fake.features(Metric::Is.title(), "fake")?;
        let logits = logits(fake, classifier(extractor, config)?, None);
        scores.inception_score = Some(mixed_splits(&logits, config.is_splits, config.seed)?);
    }
    if wanted(Metric::Prdc) {
        let (real, fake) = both(Metric::Prdc.title())?;
        scores.precision_recall = Some(precision_recall(real, fake, config.k, config.ball)?);
    }
    if let Some(held_out) = held_out {
        let ((real, fake), held_out) = (both(COPIES)?, held_out.features(COPIES, "held-out")?);
        scores.memorization = Some(memorization(real, held_out, fake, config.seed)?);
    }
    Ok(scores)
}

/// The Inception score over splits of images drawn by `seed`: sources list their images by name, and a split of neighbours may be one
/// class, which looks like no variety.
fn mixed_splits(logits: &[Vec<f64>], splits: usize, seed: u64) -> Result<InceptionScore> {
    if splits < 2 {
        return inception_score(logits, splits);
    }
    let mixed = sample(logits.len(), logits.len(), seed).into_iter().map(|image| logits[image].clone());
    inception_score(&mixed.collect::<Vec<_>>(), splits)
}

/// Refuses a real side without two images in each half.
pub(crate) fn enough_for_floor(images: usize) -> Result<()> {
    at_least(FLOOR, 4, images, "real")
}

/// The Frechet distance between two halves of the real images. They are drawn by `seed`: sources list their images by
/// name, so the first half of a set with class folders has other classes than the second.
fn floor(real: &Features, seed: u64) -> Result<Frechet> {
    enough_for_floor(real.len())?;
    let half = real.len() / 2;
    let order = sample(real.len(), 2 * half, seed);
    let (first, second) = (real.select(&order[..half]), real.select(&order[half..]));
    frechet_distance(&Spectrum::new(&first, "real")?, &Spectrum::new(&second, "real")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of two classes, the second brighter, 100 of each: in the order that `class` tells.
    fn two_classes(class: impl Fn(usize) -> usize) -> Features {
        let dims = 8;
        let unit = |i: usize, k: usize| crate::formula::unit(7, (i * dims + k) as u64) as f32;
        let data = (0..200).flat_map(|i| (0..dims).map(move |k| (i, k)));
        Features { dims, data: data.map(|(i, k)| unit(i, k) + 2.0 * class(i) as f32).collect() }
    }

    #[test]
    fn the_floor_does_not_depend_on_the_order_of_the_images() {
        let (sorted, mixed) = (two_classes(|i| i / 100), two_classes(|i| i % 2));
        let floors = [&sorted, &mixed].map(|set| floor(set, 0).expect("enough images"));
        let [sorted, mixed] = floors.map(|floor| floor.value);
        // Halves in the order of the files would be 32 apart: one class against the other.
        assert!(sorted < 2.0 && mixed < 2.0, "floor {sorted} of sorted images, {mixed} of mixed ones");
    }

    #[test]
    fn splits_are_of_all_classes_however_the_images_are_sorted() {
        // Two classes, each image certain: 2 in a split that has both alike, 1 in a split of one.
        let row = |class| [0, 1].map(|output| if output == class { 1000.0 } else { 0.0 }).to_vec();
        let sorted: Vec<Vec<f64>> = (0..400).map(|image| row(image / 200)).collect();
        let score = mixed_splits(&sorted, 2, 0).expect("enough images");
        assert!(score.value > 1.98 && score.standard_error.is_none(), "{score:?}");
    }
}
