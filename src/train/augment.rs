//! Augmentation of what the discriminator sees, real and fake alike, with gradients through it.
//!
//! Colour, translation and cutout of DiffAugment: Zhao et al., "Differentiable Augmentation for Data-Efficient
//! GAN Training", arXiv 2006.10738. Each kind is applied to an image with probability p, which is fixed or
//! steered so that a given share of real logits stays positive: Karras et al., "Training Generative Adversarial
//! Networks with Limited Data", arXiv 2006.06676, section 3.2.
//!
//! Differs from the references: brightness, saturation and contrast are drawn as in DiffAugment, but each of the
//! three kinds has its own coin, as in the second paper; the adaptive pipeline has these kinds, not its
//! rotations and filters. With a loss on pairs, whose logits have no level of their own, "positive" is above the fake
//! partner's logit. R1 and R2 are taken at the augmented images (StyleGAN2-ADA and R3GAN: at the images before).

use candle_core::{Result, Tensor, bail};
use nestgen_kernels::{ImageChange, Var, change_images};
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// How the probability of augmentation is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AugmentKind {
    /// No augmentation.
    #[default]
    None,
    /// Always `probability`.
    Fixed,
    /// Starts at 0 and follows the sign of D(real), of a loss on pairs that of D(real) - D(fake).
    Adaptive,
}

/// `[train.augment]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// How the probability is chosen.
    pub kind: AugmentKind,
    /// The probability of each kind of change for an image, 0 to 1 (fixed), or its upper limit (adaptive).
    pub probability: f64,
    /// Brightness, saturation and contrast.
    pub color: bool,
    /// Shifts by up to an eighth of the side, zeros (grey) from outside.
    pub translation: bool,
    /// A square hole of half the side.
    pub cutout: bool,
    /// The mean sign to hold, -1 to 1 (adaptive).
    pub target: f64,
    /// Thousands of images over which the probability can go from 0 to 1 (adaptive).
    pub adjust_kimg: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            kind: AugmentKind::None,
            probability: 1.0,
            color: true,
            translation: true,
            cutout: true,
            target: 0.6,
            adjust_kimg: 100.0,
        }
    }
}

/// The probability of augmentation and what steers it; saved with the training state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AugmentStrength {
    /// The probability now.
    pub probability: f64,
    sign_sum: f64,
    sign_count: f64,
}

/// Images between two adjustments of an adaptive probability, in steps (the authors' interval).
const STEPS_PER_ADJUSTMENT: f64 = 4.0;

impl AugmentConfig {
    /// The strength at the start of a run.
    pub fn start(&self) -> AugmentStrength {
        let probability = if self.kind == AugmentKind::Fixed { self.probability } else { 0.0 };
        AugmentStrength { probability, ..Default::default() }
    }

    /// Takes one step's real images into account: how many there were, and the sum of [`sign`] of their logits.
    pub fn adapt(&self, strength: &mut AugmentStrength, sign_sum: f64, images: usize) {
        if self.kind != AugmentKind::Adaptive || images == 0 {
            return;
        }
        strength.sign_sum += sign_sum;
        strength.sign_count += images as f64;
        if strength.sign_count < STEPS_PER_ADJUSTMENT * images as f64 {
            return;
        }
        let sign = strength.sign_sum / strength.sign_count;
        let change = strength.sign_count / (self.adjust_kimg * 1e3) * (sign - self.target).signum();
        let probability = (strength.probability + change).clamp(0.0, self.probability);
        *strength = AugmentStrength { probability, ..Default::default() };
    }

    /// Augments `images [B, H, W, 3]`; image `i` is changed as `rng.at(numbers[i])` says.
    pub fn apply(&self, strength: &AugmentStrength, images: &Var, rng: &Rng, numbers: &[u64]) -> Result<Var> {
        if self.kind == AugmentKind::None || strength.probability <= 0.0 {
            return Ok(images.clone());
        }
        let &[batch, height, width, 3] = images.dims() else {
            bail!("augment: expected [B, H, W, 3], got {:?}", images.dims())
        };
        if numbers.len() != batch {
            bail!("augment: {} numbers for {batch} images", numbers.len());
        }
        let draw = |&number: &u64| draw(self, strength.probability, height, width, &mut rng.at(number));
        change_images(images, numbers.iter().map(draw).collect())
    }

    /// How `images [B, H, W, 3]` may look to the discriminator at most: at the limit of an adaptive probability. `None` where it sees
    /// them as they are.
    pub fn preview(&self, images: &Tensor) -> Result<Option<Tensor>> {
        if self.kind == AugmentKind::None {
            return Ok(None);
        }
        let most = AugmentStrength { probability: self.probability, ..Default::default() };
        let numbers: Vec<u64> = (0..images.dim(0)? as u64).collect();
        let changed =
            self.apply(&most, &Var::constant(images.clone()), &Rng::new(0).split("augment-preview"), &numbers)?;
        Ok(Some(changed.value().clone()))
    }
}

/// The sign of a logit as a number. `f32::signum` calls 0 positive; an undecided discriminator counts for neither side.
pub fn sign(logit: f32) -> f64 {
    if logit == 0.0 { 0.0 } else { f64::from(logit.signum()) }
}

/// What happens to an image of this size.
fn draw(config: &AugmentConfig, probability: f64, height: usize, width: usize, rng: &mut Rng) -> ImageChange {
    let mut change = ImageChange::default();
    // Every number is drawn whether or not it is used, so switching one kind off leaves the others as they were.
    let coins = [(); 3].map(|()| rng.uniform() < probability);
    let [brightness, saturation, contrast] = [(); 3].map(|()| rng.uniform() as f32);
    if config.color && coins[0] {
        (change.brightness, change.saturation, change.contrast) =
            (brightness - 0.5, 2.0 * saturation, contrast + 0.5);
    }
    let shift = [height, width].map(|side| {
        let most = (side / 8) as i64;
        rng.below(2 * most as u64 + 1) as i64 - most
    });
    if config.translation && coins[1] {
        change.shift = shift.map(|s| s as isize);
    }
    let hole = [height, width].map(|side| {
        let center = rng.below(side as u64 + 1) as usize;
        center.saturating_sub(side / 4)..(center + side / 4).min(side)
    });
    if config.cutout && coins[2] {
        change.hole = hole;
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const ALWAYS: AugmentConfig = AugmentConfig {
        kind: AugmentKind::Fixed,
        probability: 1.0,
        color: true,
        translation: true,
        cutout: true,
        target: 0.6,
        adjust_kimg: 1.0,
    };
    const DIMS: [usize; 4] = [5, 16, 24, 3];

    fn images(seed: u64) -> Result<Tensor> {
        Tensor::from_vec(Rng::new(seed).normals(DIMS.iter().product()), &DIMS, &Device::Cpu)
    }

    #[test]
    fn every_image_has_its_own_change_whatever_the_batch() -> Result<()> {
        let rng = Rng::new(1);
        let x = images(2)?;
        let all = ALWAYS.apply(&ALWAYS.start(), &Var::constant(x.clone()), &rng, &[7, 8, 9, 10, 11])?;
        let last = ALWAYS.apply(&ALWAYS.start(), &Var::constant(x.narrow(0, 3, 2)?), &rng, &[10, 11])?;
        let worst = (all.value().narrow(0, 3, 2)? - last.value())?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert_eq!(worst, 0.0);
        Ok(())
    }

    #[test]
    fn the_controller_rises_when_d_is_sure_and_falls_when_not() {
        let config = AugmentConfig { kind: AugmentKind::Adaptive, ..ALWAYS };
        let mut strength = config.start();
        assert_eq!(strength.probability, 0.0);
        for _ in 0..8 {
            config.adapt(&mut strength, 10.0 * sign(0.5), 10);
        }
        assert!((strength.probability - 0.08).abs() < 1e-12, "{strength:?}");
        for _ in 0..4 {
            config.adapt(&mut strength, 10.0 * sign(-2.0), 10);
        }
        assert!((strength.probability - 0.04).abs() < 1e-12, "{strength:?}");
    }

    #[test]
    fn changes_are_as_large_and_as_frequent_as_they_are_called() {
        let changes = |color, translation, cutout, probability| -> Vec<ImageChange> {
            let config = AugmentConfig { color, translation, cutout, ..ALWAYS };
            (0..4000).map(|n| draw(&config, probability, 16, 24, &mut Rng::new(5).at(n))).collect()
        };
        let plain = ImageChange::default();
        let is_colored = |change: &ImageChange| change.brightness != plain.brightness;
        let ends = |values: Vec<f32>| {
            (
                values.iter().copied().fold(f32::INFINITY, f32::min),
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            )
        };
        let colored = changes(true, false, false, 1.0);
        assert!(colored.iter().all(|change| change.shift == plain.shift && change.hole == plain.hole));
        for (values, low, high) in [
            (colored.iter().map(|change| change.brightness).collect(), -0.5, 0.5),
            (colored.iter().map(|change| change.saturation).collect(), 0.0, 2.0),
            (colored.iter().map(|change| change.contrast).collect(), 0.5, 1.5),
        ] {
            let (least, most) = ends(values);
            let near = 0.01 * (high - low);
            assert!(least >= low && least < low + near && most <= high && most > high - near, "{least} {most}");
        }
        // An eighth of the side.
        let shifted = changes(false, true, false, 1.0);
        for (axis, most) in [(0, 2), (1, 3)] {
            let shifts: Vec<isize> = shifted.iter().map(|change| change.shift[axis]).collect();
            assert_eq!((shifts.iter().min(), shifts.iter().max()), (Some(&-most), Some(&most)));
        }
        assert!(!shifted.iter().any(is_colored));
        // Half of the side, less at the borders.
        let cut = changes(false, false, true, 1.0);
        for (axis, side) in [(0, 16), (1, 24)] {
            let sizes: Vec<usize> = cut.iter().map(|change| change.hole[axis].len()).collect();
            assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&(side / 4)), Some(&(side / 2))));
            assert!(cut.iter().all(|change| change.hole[axis].end <= side));
        }
        // Each kind has a coin of its own.
        let some = changes(true, true, true, 0.25);
        let share = |holds: &dyn Fn(&ImageChange) -> bool| {
            some.iter().filter(|change| holds(change)).count() as f64 / 4000.0
        };
        let is_cut = |change: &ImageChange| change.hole != plain.hole;
        assert!((share(&is_colored) - 0.25).abs() < 0.035 && (share(&is_cut) - 0.25).abs() < 0.035);
        let both = share(&|change| is_colored(change) && is_cut(change));
        assert!((both - 0.0625).abs() < 0.02, "{both}");
        // A shift is none for one of 35 that are drawn.
        let shifts = share(&|change| change.shift != plain.shift);
        assert!((shifts - 0.25 * 34.0 / 35.0).abs() < 0.035, "{shifts}");
        let together = share(&|change| is_colored(change) && change.shift != plain.shift);
        assert!((together - 0.0625).abs() < 0.02, "{together}");
    }
}
