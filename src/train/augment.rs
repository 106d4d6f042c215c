//! Augmentation of what the discriminator sees, real and fake alike, with gradients through it.
//!
//! Colour, translation and cutout of DiffAugment: Zhao et al., "Differentiable Augmentation for Data-Efficient
//! GAN Training", arXiv 2006.10738. Each kind is applied to an image with probability p, which is fixed or
//! steered so that a given share of real logits stays positive: Karras et al., "Training Generative Adversarial
//! Networks with Limited Data", arXiv 2006.06676, section 3.2.
//!
//! For given random numbers the whole augmentation of one image is an affine map `y = A x + b`, with
//! `A = cutout . translation . contrast . saturation`. So the gradient is `A^T` and the second derivative `A`
//! again: one pass over memory each, and gradient penalties go through.
//!
//! Differs from the references: brightness, saturation and contrast are drawn as in DiffAugment, but each of the
//! three kinds has its own coin, as in the second paper; the adaptive pipeline has these kinds and a mirror, not
//! its rotations and filters.

mod on_device;

use candle_core::{Result, Tensor, bail};
use nestgen_kernels::Var;
use nestgen_kernels::cpu::with_slice;
use nestgen_kernels::portable;
use rayon::prelude::*;
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
    /// Starts at 0 and follows the sign of D(real).
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
    /// The mean sign of D(real) to hold, -1 to 1 (adaptive).
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
        let draw = |&number: &u64| Change::draw(self, strength.probability, height, width, &mut rng.at(number));
        let changes: std::rc::Rc<[Change]> = numbers.iter().map(draw).collect();
        affine(images, changes, Direction::Forward)
    }
}

/// The sign of a logit as a number. `f32::signum` calls 0 positive; an undecided discriminator counts for neither side.
pub fn sign(logit: f32) -> f64 {
    if logit == 0.0 { 0.0 } else { f64::from(logit.signum()) }
}

/// What happens to one image.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    brightness: f32,
    saturation: f32,
    contrast: f32,
    /// Rows and columns that the image moves down and right.
    shift: [isize; 2],
    /// Rows and columns of the hole: start and end.
    hole: [std::ops::Range<usize>; 2],
}

impl Change {
    fn draw(config: &AugmentConfig, probability: f64, height: usize, width: usize, rng: &mut Rng) -> Self {
        let mut change =
            Self { brightness: 0.0, saturation: 1.0, contrast: 1.0, shift: [0, 0], hole: [0..0, 0..0] };
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
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// `A x + b`
    Forward,
    /// `A g`, the map without its offset: the second derivative's way.
    Linear,
    /// `A^T g`
    Transposed,
}

/// The map of every image's [`Change`], in one of its directions.
fn affine(images: &Var, changes: std::rc::Rc<[Change]>, direction: Direction) -> Result<Var> {
    let out = match portable::takes(images.value()) {
        true => on_device::affine(images.value(), &changes, direction)?,
        false => on_slices(images.value(), &changes, direction)?,
    };
    let back = if direction == Direction::Transposed { Direction::Linear } else { Direction::Transposed };
    Ok(Var::record("augment", out, &[images], move |grad, _| {
        Ok(vec![Some(affine(grad, changes.clone(), back)?)])
    }))
}

fn on_slices(images: &Tensor, changes: &[Change], direction: Direction) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let len = height * width * channels;
    let mut out = vec![0f32; batch * len];
    with_slice::<f32, _>(&images.contiguous()?, |x| {
        let pairs = out.par_chunks_mut(len).zip(x.par_chunks(len));
        pairs.zip(changes.par_iter()).for_each(|((y, x), change)| match direction {
            Direction::Forward => change.forward(x, y, width, change.brightness),
            Direction::Linear => change.forward(x, y, width, 0.0),
            Direction::Transposed => change.transposed(x, y, width),
        });
        Ok(())
    })?;
    Tensor::from_vec(out, images.dims(), images.device())
}

impl Change {
    /// Colour, then shift, then hole, from `x` into the zeroed `y`.
    fn forward(&self, x: &[f32], y: &mut [f32], width: usize, brightness: f32) {
        let color = self.color(x);
        self.visible(y.len() / 3 / width, width, |to, from| {
            if let (Some(to), Some(from)) = (y.get_mut(to), x.get(from)) {
                for (to, from) in to.chunks_exact_mut(3).zip(from.chunks_exact(3)) {
                    color(from, to, brightness);
                }
            }
        });
    }

    /// The adjoint: shift back what the hole left, then colour (which is its own adjoint).
    fn transposed(&self, g: &[f32], y: &mut [f32], width: usize) {
        let mut moved = vec![0f32; g.len()];
        self.visible(g.len() / 3 / width, width, |to, from| {
            if let (Some(moved), Some(g)) = (moved.get_mut(from), g.get(to)) {
                moved.copy_from_slice(g);
            }
        });
        let color = self.color(&moved);
        for (to, from) in y.chunks_exact_mut(3).zip(moved.chunks_exact(3)) {
            color(from, to, 0.0);
        }
    }

    /// Saturation mixes each pixel with its grey, contrast with the mean of the image; both keep that mean.
    fn color(&self, x: &[f32]) -> impl Fn(&[f32], &mut [f32], f32) + use<> {
        let mean = (x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len().max(1) as f64) as f32;
        let (saturation, contrast) = (self.saturation, self.contrast);
        move |from, to, brightness| {
            let grey = from.iter().sum::<f32>() / 3.0;
            for (to, from) in to.iter_mut().zip(from) {
                let saturated = (from - grey) * saturation + grey;
                *to = (saturated - mean) * contrast + mean + brightness;
            }
        }
    }

    /// Calls `f(to, from)` for every run of elements in a row that is moved in and not cut out.
    fn visible(
        &self,
        height: usize,
        width: usize,
        mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let [down, right] = self.shift;
        let first = right.max(0) as usize;
        let last = (width as isize + right.min(0)) as usize;
        let [hole_rows, hole_columns] = &self.hole;
        for row in 0..height {
            let Some(source) = row.checked_add_signed(-down).filter(|&r| r < height) else { continue };
            let mut run = |from: usize, to: usize| {
                if from < to {
                    let moved = from.wrapping_add_signed(-right);
                    f((row * width + from) * 3..(row * width + to) * 3, {
                        let start = (source * width + moved) * 3;
                        start..start + (to - from) * 3
                    });
                }
            };
            if hole_rows.contains(&row) && !hole_columns.is_empty() {
                run(first, last.min(hole_columns.start));
                run(first.max(hole_columns.end), last);
            } else {
                run(first, last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use nestgen_kernels::{grad, mul, sum_all};

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
    fn the_gradient_is_the_adjoint_and_can_be_differentiated() -> Result<()> {
        let rng = Rng::new(1).split("augment");
        let (x, g) = (Var::leaf(images(2)?), Var::leaf(images(3)?));
        let augment = |x: &Var| ALWAYS.apply(&ALWAYS.start(), x, &rng, &[0, 1, 2, 3, 4]);
        let zero = augment(&Var::constant(images(2)?.zeros_like()?))?;
        let dot = |a: &Tensor, b: &Tensor| -> candle_core::Result<f32> { (a * b)?.sum_all()?.to_scalar() };
        // <A x, g> = <x, A^T g>, A from the offset-free part of the map.
        let forward = augment(&x)?;
        let linear = (forward.value() - zero.value())?;
        let back = grad(&sum_all(&mul(&forward, &g)?)?, &[&x], true)?;
        let (left, right) = (dot(&linear, g.value())?, dot(x.value(), back[0].value())?);
        assert!((left - right).abs() < 1e-3 * left.abs().max(1.0), "{left} {right}");
        // d/dg <A^T g, x> = A x: the second derivative comes back to the forward map without its offset.
        let again = grad(&sum_all(&mul(&back[0], &x.detach())?)?, &[&g], false)?;
        let worst = (again[0].value() - &linear)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(worst < 1e-4, "{worst}");
        Ok(())
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
    fn translation_moves_and_cutout_cuts() {
        let change =
            Change { brightness: 0.0, saturation: 1.0, contrast: 1.0, shift: [1, -1], hole: [2..3, 0..2] };
        let x: Vec<f32> = (0..27).map(|i| i as f32).collect();
        let mut y = vec![0f32; 27];
        change.forward(&x, &mut y, 3, 0.0);
        let pixel = |y: &[f32], row: usize, column: usize| y[(row * 3 + column) * 3];
        assert_eq!([pixel(&y, 0, 0), pixel(&y, 0, 1)], [0.0, 0.0]);
        assert!((pixel(&y, 1, 0) - pixel(&x, 0, 1)).abs() < 1e-5);
        assert!((pixel(&y, 1, 1) - pixel(&x, 0, 2)).abs() < 1e-5);
        assert_eq!([pixel(&y, 1, 2), pixel(&y, 2, 0), pixel(&y, 2, 1), pixel(&y, 2, 2)], [0.0; 4]);
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
}
