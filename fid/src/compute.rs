//! Which scores two sides allow, known before any features are, and the scores from the features.

use crate::config::{Metric, ScoreConfig};
use crate::error::{Error, Result};
use crate::extractor::Extractor;
use crate::features::Features;
use crate::fid_infinity::fid_infinity;
use crate::frechet::{Frechet, Spectrum, frechet_distance};
use crate::inception::Tap;
use crate::inception_score::{inception_score, logits};
use crate::kid::{kid, kid_subsets, sample};
use crate::memorization::memorization;
use crate::precision_recall::precision_recall;
use crate::report::{Scores, Warning};
use crate::statistics::Moments;

/// Names in messages of what is no [`Metric`].
const FLOOR: &str = "the real/real floor";
const COPIES: &str = "the memorisation check";

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

/// Whether each side is given as images (or their features), not as statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images {
    pub(crate) real: bool,
    pub(crate) fake: bool,
    /// `None`: there is no held-out side.
    pub(crate) held_out: Option<bool>,
}

impl Images {
    /// An error where `what` needs the images of a side of this list that has none.
    fn needed(self, what: &'static str, sides: &[&'static str]) -> Result<()> {
        let given = [("real", self.real), ("fake", self.fake), ("held-out", self.held_out == Some(true))];
        match given.into_iter().find(|(side, given)| !given && sides.contains(side)) {
            Some((side, _)) => Err(Error::NeedsImages { what, side: side.to_owned() }),
            None => Ok(()),
        }
    }
}

/// What will be computed: what was asked for or, where nothing was, what the sides allow, with a warning of what they
/// do not.
///
/// # Errors
/// Something was asked for that these sides or this network cannot give.
pub(crate) fn plan(
    given: Images,
    extractor: &Extractor,
    config: &ScoreConfig,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Metric>> {
    let metrics = config.metrics.clone().unwrap_or_else(|| {
        let without = [("real", given.real), ("fake", given.fake)].into_iter().find(|(_, given)| !given);
        // Whoever sets KID's subsets asks for KID.
        match without {
            Some((side, _)) if config.kid_subsets.is_none() => {
                warnings.push(Warning::LeftOut { what: Metric::Kid.title(), side });
                vec![Metric::Fid]
            }
            _ => vec![Metric::Fid, Metric::Kid],
        }
    });
    for metric in &metrics {
        let sides: &[&str] = match metric {
            Metric::Fid => &[],
            Metric::Kid | Metric::Prdc => &["real", "fake"],
            Metric::Is | Metric::FidInfinity => &["fake"],
        };
        given.needed(metric.title(), sides)?;
        if *metric == Metric::Is {
            classifier(extractor, config)?;
        }
    }
    if config.floor {
        given.needed(FLOOR, &["real"])?;
    }
    if given.held_out.is_some() {
        given.needed(COPIES, &["real", "fake", "held-out"])?;
    }
    Ok(metrics)
}

/// The class weights `[1008, 2048]` of the network.
fn classifier<'a>(extractor: &'a Extractor, config: &ScoreConfig) -> Result<&'a [f32]> {
    let Extractor::Inception { network, .. } = extractor else {
        return Err(Error::Mismatch("the Inception score needs the Inception network".into()));
    };
    if config.tap != Tap::D2048 {
        return Err(Error::Mismatch("the Inception score needs the 2048 last features".into()));
    }
    Ok(network.classifier().0)
}

/// The scores that [`plan`] found.
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
        scores.inception_score = Some(inception_score(&logits, config.is_splits)?);
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

/// The Frechet distance between two halves of the real images. They are drawn by `seed`: sources list their images by
/// name, so the first half of a set with class folders has other classes than the second.
fn floor(real: &Features, seed: u64) -> Result<Frechet> {
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
}
