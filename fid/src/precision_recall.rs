//! Precision, recall, density and coverage: how far two sets cover each other's neighbourhoods.
//!
//! Sources: Kynkaanniemi et al., "Improved Precision and Recall Metric" (arXiv 1904.06991); Naeem et al., "Reliable
//! Fidelity and Diversity Metrics" (arXiv 2002.09797). A ball reaches from an image to the k-th nearest other image
//! of its set. Precision: share of fakes inside some real ball; recall: share of reals inside some fake ball;
//! density: mean number of real balls around a fake, over k; coverage: share of real balls with a fake inside.
//!
//! Tools differ in whether a ball includes its border: torch-fidelity counts `<=`, clovaai's prdc `<`. See [`Ball`].

use crate::error::{Error, Result};
use crate::features::Features;
use crate::kid::same_dims;
use crate::neighbours::{ball_radii, distances};
use crate::statistics::{Estimate, at_least, variance};

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

/// The four shares, with standard errors over the images that are counted (the balls held fixed).
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

/// All four at once.
///
/// # Errors
/// k of zero, or not more than k images on a side.
pub fn precision_recall(real: &Features, fake: &Features, k: usize, ball: Ball) -> Result<PrecisionRecall> {
    if k == 0 {
        return Err(Error::Setting { setting: "k", value: "0".into(), reason: "at least 1".into() });
    }
    at_least("precision and recall with this k", k + 1, real, "real")?;
    at_least("precision and recall with this k", k + 1, fake, "fake")?;
    same_dims(real, fake)?;
    let (real_radii, fake_radii) = (ball_radii(real, k), ball_radii(fake, k));
    let mut balls_around = vec![0f64; fake.len()];
    let (mut recalled, mut covered) = (vec![0f64; real.len()], vec![0f64; real.len()]);
    distances(fake, real, |i, first, row| {
        for (j, &distance) in row.iter().enumerate() {
            if ball.contains(distance, real_radii[first + j]) {
                balls_around[i] += 1.0;
                covered[first + j] = 1.0;
            }
            if ball.contains(distance, fake_radii[i]) {
                recalled[first + j] = 1.0;
            }
        }
    });
    let inside: Vec<f64> = balls_around.iter().map(|&balls| f64::from(u8::from(balls > 0.0))).collect();
    let density: Vec<f64> = balls_around.iter().map(|balls| balls / k as f64).collect();
    Ok(PrecisionRecall {
        precision: mean_of(&inside),
        recall: mean_of(&recalled),
        density: mean_of(&density),
        coverage: mean_of(&covered),
        k,
        ball,
    })
}

fn mean_of(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    Estimate { value: values.iter().sum::<f64>() / count, standard_error: (variance(values) / count).sqrt() }
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
}
