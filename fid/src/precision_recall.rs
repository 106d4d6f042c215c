//! Precision, recall, density and coverage: how far two sets cover each other's neighbourhoods.
//!
//! Sources: Kynkaanniemi et al., "Improved Precision and Recall Metric" (arXiv 1904.06991); Naeem et al., "Reliable
//! Fidelity and Diversity Metrics" (arXiv 2002.09797). A ball reaches from an image to the k-th nearest other image
//! of its set. Precision: share of fakes inside some real ball; recall: share of reals inside some fake ball;
//! density: mean number of real balls around a fake, over k; coverage: share of real balls with a fake inside.
//!
//! Tools differ in whether a ball includes its border: torch-fidelity counts `<=`, clovaai's prdc `<`. See [`Ball`].
//!
//! Standard errors come from halves. Both sides are cut into two at random. The halves share no image, so half the
//! squared difference of their scores is on average the variance of a score at half the size, and half of that the
//! variance at the whole size; 63 cuts are averaged, all from the same distances. An error that holds the balls fixed, as a
//! share's binomial error does, leaves out that other images have other balls. On Gaussian features (4 to 64 of them, 200 to
//! 1000 images a side, 28 settings of 150 repeats) the true spread was 0.9 to 3.7 times that error, and is 0.7 to 1.2 times this
//! one, for density 0.8 to 1.4 times: most where the fakes are crowded and density is above 4.

use crate::error::{Error, Result};
use crate::features::Features;
use crate::formula::draw;
use crate::kid::{same_dims, sample};
use crate::neighbours::{distances, nearest_others};
use crate::statistics::{Estimate, at_least};

/// Whether a point on the border of a ball is inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ball {
    /// distance <= radius: the paper's code and torch-fidelity.
    #[default]
    Closed,
    /// distance < radius: clovaai's prdc and dgm-eval.
    Open,
}

impl Ball {
    fn contains(self, distance: f64, radius: f64) -> bool {
        match self {
            Ball::Closed => distance <= radius,
            Ball::Open => distance < radius,
        }
    }
}

/// Groups of images that are scored by themselves: a bit each of a mask. All but the last are random cuts into two halves.
const GROUPS: usize = 64;

/// The group that is not cut: all its images are in half 1.
const WHOLE: usize = GROUPS - 1;

/// Seed of the cuts; any will do.
const SEED: u64 = 0x6861_6C76_6573;

/// Numbers of both halves of each group.
type Counts = [[u64; 2]; GROUPS];

/// The four shares, with standard errors over the images of both sides: none where a half of a side has no ball, having no
/// more than k images.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PrecisionRecall {
    /// Share of fakes inside a real ball.
    pub precision: Estimate,
    /// Share of reals inside a fake ball.
    pub recall: Estimate,
    /// Mean number of real balls around a fake, over k.
    pub density: Estimate,
    /// Share of real balls with a fake inside.
    pub coverage: Estimate,
    /// The neighbour that sets a ball's radius.
    pub k: usize,
    /// The border's convention.
    pub ball: Ball,
}

/// Refuses a side without a k-th neighbour.
pub(crate) fn enough(k: usize, images: usize, side: &str) -> Result<()> {
    if k == 0 {
        return Err(Error::Setting { setting: "k", value: "0".into(), reason: "it is at least 1".into() });
    }
    at_least("precision and recall with this k", k + 1, images, side)
}

/// All four at once.
///
/// # Errors
/// k of zero, or not more than k images on a side.
pub fn precision_recall(real: &Features, fake: &Features, k: usize, ball: Ball) -> Result<PrecisionRecall> {
    enough(k, real.len(), "real")?;
    enough(k, fake.len(), "fake")?;
    same_dims(real, fake)?;
    let (reals, fakes) = (Side::new(real, k, 0), Side::new(fake, k, 1));
    let hits = meet(real, fake, &reals, &fakes, ball);
    let cut = real.len() / 2 > k && fake.len() / 2 > k;
    let estimate = |counts: &Counts, side: &Side, per_image: usize| {
        let share = |group: usize, half: usize| {
            counts[group][half] as f64 / (side.size(group, half) * per_image) as f64
        };
        let squares: f64 = (0..WHOLE).map(|cut| (share(cut, 0) - share(cut, 1)).powi(2)).sum();
        let standard_error = cut.then(|| (squares / WHOLE as f64).sqrt() / 2.0);
        Estimate { value: share(WHOLE, 1), standard_error }
    };
    Ok(PrecisionRecall {
        precision: estimate(&fakes.count(&hits.inside), &fakes, 1),
        recall: estimate(&reals.count(&hits.recalled), &reals, 1),
        density: estimate(&hits.balls, &fakes, k),
        coverage: estimate(&reals.count(&hits.covered), &reals, 1),
        k,
        ball,
    })
}

/// The images of a side in their groups, and their balls there.
struct Side {
    /// Of each image, bit by bit, which half it is in.
    halves: Vec<u64>,
    /// Of each image and group, the radius of its ball among the images of its half.
    radii: Vec<[f64; GROUPS]>,
    /// The largest of an image's radii.
    reach: Vec<f64>,
}

impl Side {
    fn new(set: &Features, k: usize, stream: u64) -> Self {
        let mut halves = vec![1u64 << WHOLE; set.len()];
        for cut in 0..WHOLE {
            let seed = draw(draw(SEED, stream), cut as u64);
            sample(set.len(), set.len() / 2, seed).into_iter().for_each(|image| halves[image] |= 1 << cut);
        }
        // A neighbour is in the same half every other time. That k of this many are not happens once in 10^10 balls, and
        // then the ball reaches to the last of them.
        let neighbours = nearest_others(set, 4 * k + 32);
        let radii: Vec<_> = (0..set.len()).map(|image| radii(image, &neighbours[image], &halves, k)).collect();
        let reach = radii.iter().map(|radii| radii.iter().fold(0f64, |a, &b| a.max(b))).collect();
        Self { halves, radii, reach }
    }

    /// Images in a half of a group.
    fn size(&self, group: usize, half: usize) -> usize {
        let all = self.halves.len();
        match (group, half) {
            (WHOLE, _) => all * half,
            (_, 0) => all - all / 2,
            _ => all / 2,
        }
    }

    /// How many images of each half have their bit set.
    fn count(&self, hits: &[u64]) -> Counts {
        let mut counts = [[0; 2]; GROUPS];
        for (hits, halves) in hits.iter().zip(&self.halves) {
            bits(*hits).for_each(|group| counts[group][half(*halves, group)] += 1);
        }
        counts
    }
}

/// The distance from an image to the k-th of its `nearest` (distance, index) that is in its half, for each group.
fn radii(image: usize, nearest: &[(f64, usize)], halves: &[u64], k: usize) -> [f64; GROUPS] {
    let (mut radii, mut seen, mut open) = ([0.0; GROUPS], [0; GROUPS], u64::MAX);
    for &(distance, other) in nearest {
        for group in bits(!(halves[image] ^ halves[other]) & open) {
            radii[group] = distance;
            seen[group] += 1;
            if seen[group] == k {
                open &= !(1 << group);
            }
        }
    }
    radii
}

/// What was found where fakes met reals of their half: of each image, bit by bit, whether it was hit.
struct Hits {
    /// Fakes inside a real ball.
    inside: Vec<u64>,
    /// Reals inside a fake ball.
    recalled: Vec<u64>,
    /// Reals with a fake inside their ball.
    covered: Vec<u64>,
    /// Pairs of a fake and a real ball around it.
    balls: Counts,
}

fn meet(real: &Features, fake: &Features, reals: &Side, fakes: &Side, ball: Ball) -> Hits {
    let (inside, recalled, covered) = (vec![0; fake.len()], vec![0; real.len()], vec![0; real.len()]);
    let mut hits = Hits { inside, recalled, covered, balls: [[0; 2]; GROUPS] };
    let containing = |radii: &[f64; GROUPS], distance: f64| {
        let inside = |group: usize| u64::from(ball.contains(distance, radii[group])) << group;
        (0..GROUPS).fold(0, |mask, group| mask | inside(group))
    };
    distances(fake, real, |i, first, row| {
        for (j, &distance) in (first..).zip(row) {
            let together = !(fakes.halves[i] ^ reals.halves[j]);
            // Nearly all pairs are further apart than any ball of theirs reaches.
            if distance <= reals.reach[j] {
                let hit = together & containing(&reals.radii[j], distance);
                hits.inside[i] |= hit;
                hits.covered[j] |= hit;
                bits(hit).for_each(|group| hits.balls[group][half(fakes.halves[i], group)] += 1);
            }
            if distance <= fakes.reach[i] {
                hits.recalled[j] |= together & containing(&fakes.radii[i], distance);
            }
        }
    });
    hits
}

/// The half that a mask tells of a group.
fn half(halves: u64, group: usize) -> usize {
    (halves >> group & 1) as usize
}

/// The numbers of the bits that are set.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < GROUPS).then_some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[f32]) -> Features {
        Features { dims: 1, data: points.to_vec() }
    }

    #[test]
    fn points_on_a_line_are_counted_by_hand() {
        // Real balls (k = 1): 0 +- 1, 1 +- 1, 3 +- 2. Fake balls: 2 +- 0.5, 2.5 +- 0.5, 9 +- 6.5.
        let (real, fake) = (line(&[0.0, 1.0, 3.0]), line(&[2.0, 2.5, 9.0]));
        let closed = precision_recall(&real, &fake, 1, Ball::Closed).expect("enough images");
        assert_eq!(closed.precision.value, 2.0 / 3.0);
        assert_eq!(closed.recall.value, 1.0 / 3.0);
        assert_eq!(closed.density.value, 1.0);
        assert_eq!(closed.coverage.value, 2.0 / 3.0);
        // Without borders: fake 2 leaves the ball of 1, real 3 leaves the ball of 2.5 but not the ball of 9.
        let open = precision_recall(&real, &fake, 1, Ball::Open).expect("enough images");
        assert_eq!((open.precision.value, open.coverage.value), (2.0 / 3.0, 1.0 / 3.0));
        assert_eq!((open.recall.value, open.density.value), (1.0 / 3.0, 2.0 / 3.0));
    }

    #[test]
    fn copies_are_inside_their_own_closed_balls_even_with_radius_zero() {
        let data: Vec<f32> = (0..40).flat_map(|i| vec![(i / 4) as f32 * 0.37 + 0.1; 50]).collect();
        let set = Features { dims: 50, data };
        let same = precision_recall(&set, &set, 3, Ball::Closed).expect("enough images");
        assert_eq!((same.precision.value, same.recall.value, same.coverage.value), (1.0, 1.0, 1.0));
    }

    #[test]
    fn too_few_images_for_k_are_refused() {
        assert!(precision_recall(&line(&[0.0, 1.0, 2.0]), &line(&[0.0, 1.0, 2.0]), 3, Ball::Closed).is_err());
    }

    #[test]
    fn the_standard_errors_are_the_spread_over_repeats() {
        let noise = |seed: u64, images: usize| Features {
            dims: 5,
            data: (0..images * 5).map(|i| crate::formula::unit(seed, i as u64) as f32).collect(),
        };
        // With balls held fixed, the side with more images would get errors of less than half of its spread.
        for (reals, fakes) in [(60, 200), (200, 60)] {
            let repeats: Vec<PrecisionRecall> = (0..200)
                .map(|r| precision_recall(&noise(2 * r, reals), &noise(2 * r + 1, fakes), 3, Ball::Closed))
                .collect::<Result<_>>()
                .expect("enough images");
            let scores: [(&str, fn(&PrecisionRecall) -> Estimate); 4] = [
                ("precision", |found| found.precision),
                ("recall", |found| found.recall),
                ("density", |found| found.density),
                ("coverage", |found| found.coverage),
            ];
            for (name, score) in scores {
                let values: Vec<f64> = repeats.iter().map(|found| score(found).value).collect();
                let spread = crate::statistics::variance(&values).sqrt();
                let squares =
                    repeats.iter().filter_map(|found| Some(score(found).standard_error?.powi(2))).sum::<f64>();
                // 200 repeats give the spread to 5 %.
                let ratio = (squares / 200.0).sqrt() / spread;
                assert!(
                    (ratio - 1.0).abs() < 0.25,
                    "{name} of {reals} and {fakes}: error {ratio} of the spread"
                );
            }
        }
    }

    #[test]
    fn halves_without_balls_have_no_standard_error() {
        let (seven, eight) = (line(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), line(&[0.5; 8]));
        let error = |real, fake| {
            precision_recall(real, fake, 3, Ball::Closed).expect("enough images").density.standard_error
        };
        assert!(error(&seven, &eight).is_none() && error(&eight, &seven).is_none());
        assert!(error(&eight, &eight).is_some());
    }
}
