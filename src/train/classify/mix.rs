//! MixUp (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) with smoothed labels.
//!
//! One choice and one share for a batch; image i is mixed with image B-1-i, as timm's batch mode does.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::train::settings::{BadSetting, must, share};

/// `[train.mix]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixConfig {
    /// Probability that a batch is mixed, 0 to 1.
    pub probability: f64,
    /// MixUp's share is drawn from Beta(alpha, alpha); 0 switches MixUp off.
    pub mixup_alpha: f64,
    /// CutMix's share of the area likewise; 0 switches CutMix off.
    pub cutmix_alpha: f64,
    /// Probability of CutMix where both are on, 0 to 1.
    pub switch: f64,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self { probability: 1.0, mixup_alpha: 0.8, cutmix_alpha: 1.0, switch: 0.5 }
    }
}

/// What is done to a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixing {
    /// Nothing.
    Plain,
    /// `kept` of an image plus the rest of its partner.
    MixUp {
        /// In 0..1.
        kept: f64,
    },
    /// A rectangle of the partner's, in pixels: rows and columns from and up to.
    CutMix {
        /// First row and the one after the last.
        rows: (usize, usize),
        /// First column and the one after the last.
        columns: (usize, usize),
        /// The share of the image that stays.
        kept: f64,
    },
}

impl MixConfig {
    pub(super) fn validate(&self) -> std::result::Result<(), BadSetting> {
        let alpha = |key, x: f64| must(key, (0.0..=100.0).contains(&x), || format!("{x} is not in 0..100"));
        share("mix.probability", self.probability)?;
        share("mix.switch", self.switch)?;
        alpha("mix.mixup_alpha", self.mixup_alpha)?;
        alpha("mix.cutmix_alpha", self.cutmix_alpha)
    }

    /// Draws for one batch of images of `side` px.
    pub fn draw(&self, rng: &mut Rng, side: usize) -> Mixing {
        let (mixup, cutmix) = (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0);
        if !(mixup || cutmix) || rng.uniform() >= self.probability {
            return Mixing::Plain;
        }
        if mixup && !(cutmix && rng.uniform() < self.switch) {
            return Mixing::MixUp { kept: beta(rng, self.mixup_alpha) };
        }
        let cut = side as f64 * (1.0 - beta(rng, self.cutmix_alpha)).sqrt();
        let mut span = || {
            let center = rng.below(side as u64) as f64;
            let edge = |x: f64| x.floor().clamp(0.0, side as f64) as usize;
            (edge(center - cut / 2.0), edge(center + cut / 2.0))
        };
        let (rows, columns) = (span(), span());
        let area = (rows.1 - rows.0) * (columns.1 - columns.0);
        Mixing::CutMix { rows, columns, kept: 1.0 - area as f64 / (side * side) as f64 }
    }
}

impl Mixing {
    /// Mixes images `[B, H, W, 3]` and gives the targets `[B, classes]`.
    ///
    /// # Errors
    /// Only those of tensors.
    pub fn apply(
        self,
        images: &Tensor,
        labels: &[u32],
        classes: usize,
        smoothing: f64,
    ) -> Result<(Tensor, Tensor)> {
        let (_, height, width, channels) = images.dims4()?;
        let (size, row) = (height * width * channels, width * channels);
        let mut pixels = images.flatten_all()?.to_vec1::<f32>()?;
        let (top, rest) = pixels.split_at_mut(labels.len() / 2 * size);
        let pairs = top.par_chunks_exact_mut(size).zip(rest.par_chunks_exact_mut(size).rev());
        let kept = match self {
            Self::Plain => 1.0,
            Self::MixUp { kept } => {
                pairs.for_each(|(a, b)| mix(a, b, kept as f32));
                kept
            }
            Self::CutMix { rows, columns, kept } => {
                let span = columns.0 * channels..columns.1 * channels;
                pairs.for_each(|(a, b)| {
                    for start in (rows.0..rows.1).map(|y| y * row) {
                        let span = start + span.start..start + span.end;
                        a[span.clone()].swap_with_slice(&mut b[span]);
                    }
                });
                kept
            }
        };
        let images = Tensor::from_vec(pixels, images.shape(), &Device::Cpu)?;
        Ok((images, targets(labels, kept, classes, smoothing)?))
    }
}

fn mix(a: &mut [f32], b: &mut [f32], kept: f32) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a * kept + *b * (1.0 - kept), *b * kept + *a * (1.0 - kept));
    }
}

fn targets(labels: &[u32], kept: f64, classes: usize, smoothing: f64) -> Result<Tensor> {
    let mut targets = vec![(smoothing / classes as f64) as f32; labels.len() * classes];
    let partners = labels.iter().rev();
    for (row, (&own, &partner)) in targets.chunks_exact_mut(classes).zip(labels.iter().zip(partners)) {
        for (label, share) in [(own, kept), (partner, 1.0 - kept)] {
            if let Some(target) = row.get_mut(label as usize) {
                *target += (share * (1.0 - smoothing)) as f32;
            }
        }
    }
    Tensor::from_vec(targets, (labels.len(), classes), &Device::Cpu)
}

/// One draw from Beta(alpha, alpha), alpha above 0.
fn beta(rng: &mut Rng, alpha: f64) -> f64 {
    let (a, b) = (gamma(rng, alpha), gamma(rng, alpha));
    // Both can underflow where alpha is tiny; then the distribution is a fair coin.
    if a + b > 0.0 { a / (a + b) } else { f64::from(rng.next_u64() & 1 == 1) }
}

/// One draw from Gamma(shape, 1): Marsaglia and Tsang, "A simple method for generating gamma variables" (2000).
fn gamma(rng: &mut Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        return gamma(rng, shape + 1.0) * (1.0 - rng.uniform()).powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = f64::from(rng.normal());
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_moments_of_the_beta_distribution() {
        const DRAWS: usize = 20_000;
        for alpha in [0.2, 0.8, 1.0, 3.0] {
            let mut rng = Rng::new(1);
            let draws: Vec<f64> = (0..DRAWS).map(|_| beta(&mut rng, alpha)).collect();
            let mean = draws.iter().sum::<f64>() / DRAWS as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / DRAWS as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // Five standard errors of the mean; the variance's are smaller than this part of it.
            assert!((mean - 0.5).abs() < 5.0 * (expected / DRAWS as f64).sqrt(), "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance} {expected}");
        }
    }

    #[test]
    fn mixing_pairs_the_ends_and_labels_follow_the_area() -> Result<()> {
        let images = Tensor::arange(0f32, 4.0, &Device::Cpu)?.reshape((4, 1, 1, 1))?;
        let images = images.broadcast_as((4, 4, 4, 3))?.contiguous()?;
        let labels = [0, 1, 2, 0];
        let (mixed, targets) = Mixing::MixUp { kept: 0.75 }.apply(&images, &labels, 3, 0.0)?;
        let firsts =
            mixed.narrow(1, 0, 1)?.narrow(2, 0, 1)?.narrow(3, 0, 1)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(firsts, [0.75, 1.25, 1.75, 2.25]);
        assert_eq!(targets.to_vec2::<f32>()?[1], [0.0, 0.75, 0.25]);

        let cut = Mixing::CutMix { rows: (1, 3), columns: (0, 2), kept: 0.75 };
        let (mixed, targets) = cut.apply(&images, &labels, 3, 0.3)?;
        let first = mixed.get(0)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(first.iter().filter(|&&x| x == 3.0).count(), 4 * 3);
        assert_eq!((first[4 * 3], first[4 * 3 + 6]), (3.0, 0.0), "row 1: two columns are the partner's");
        let row = &targets.to_vec2::<f32>()?[1];
        let expected = [0.1, 0.1 + 0.7 * 0.75, 0.1 + 0.7 * 0.25];
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
        Ok(())
    }

    #[test]
    fn a_batch_is_mixed_as_often_as_it_should_be() {
        let config = MixConfig { probability: 0.5, switch: 0.25, ..MixConfig::default() };
        let draws: Vec<Mixing> = (0..4000).map(|i| config.draw(&mut Rng::new(2).at(i), 32)).collect();
        let count = |f: fn(&Mixing) -> bool| draws.iter().filter(|mixing| f(mixing)).count();
        // 2000 and 1500 expected, standard deviations 32 and 31.
        assert!(count(|m| *m == Mixing::Plain).abs_diff(2000) < 5 * 32);
        assert!(count(|m| matches!(m, Mixing::MixUp { .. })).abs_diff(1500) < 5 * 31);
        for mixing in draws {
            if let Mixing::CutMix { rows, columns, kept } = mixing {
                let area = (rows.1 - rows.0) * (columns.1 - columns.0);
                assert!((0.0..=1.0).contains(&kept) && (1.0 - kept - area as f64 / 1024.0).abs() < 1e-12);
            }
        }
    }
}
