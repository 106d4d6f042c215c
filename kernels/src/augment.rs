//! What augmentation does to images: colour, shift and hole, of each image its own.
//!
//! For given numbers this is an affine map of every image, `y = A x + b`, with `A = hole . shift . contrast . saturation`. So
//! the gradient is `A^T` and the second derivative `A` again: one pass over memory each, and gradient penalties go through.

use std::ops::Range;
use std::rc::Rc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::with_slice;
use crate::{Var, portable};

/// What happens to one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageChange {
    /// Added to every number.
    pub brightness: f32,
    /// How far from its grey a pixel stays; 1 changes nothing.
    pub saturation: f32,
    /// How far from the image's mean a number stays; 1 changes nothing.
    pub contrast: f32,
    /// Rows and columns that the image moves down and right; zeros come in from outside.
    pub shift: [isize; 2],
    /// Rows and columns of a hole of zeros: start and end.
    pub hole: [Range<usize>; 2],
}

impl Default for ImageChange {
    /// No change.
    fn default() -> Self {
        Self { brightness: 0.0, saturation: 1.0, contrast: 1.0, shift: [0, 0], hole: [0..0, 0..0] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Direction {
    /// `A x + b`
    Forward,
    /// `A g`, the map without its offset: the second derivative's way.
    Linear,
    /// `A^T g`
    Transposed,
}

/// Each of `images [B, H, W, 3]`, f32, through its change. Can be differentiated any number of times.
///
/// # Errors
/// When these are no such images, or there is not one change for each.
pub fn change_images(images: &Var, changes: Rc<[ImageChange]>) -> Result<Var> {
    let &[batch, .., 3] = images.dims() else {
        bail!("change_images: expected [B, H, W, 3], got {:?}", images.dims())
    };
    if images.dims().len() != 4 || changes.len() != batch {
        bail!("change_images: {} changes for images {:?}", changes.len(), images.dims());
    }
    if images.value().elem_count() == 0 {
        return Ok(images.clone());
    }
    affine(images, changes, Direction::Forward)
}

/// The map of every image, in one of its directions.
fn affine(images: &Var, changes: Rc<[ImageChange]>, direction: Direction) -> Result<Var> {
    let out = match portable::takes(images.value()) {
        true => portable::augment::affine(images.value(), &changes, direction)?,
        false => on_slices(images.value(), &changes, direction)?,
    };
    let back = if direction == Direction::Transposed { Direction::Linear } else { Direction::Transposed };
    Ok(Var::record("change_images", out, &[images], move |grad, _| {
        Ok(vec![Some(affine(grad, changes.clone(), back)?)])
    }))
}

fn on_slices(images: &Tensor, changes: &[ImageChange], direction: Direction) -> Result<Tensor> {
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

impl ImageChange {
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
    pub(crate) fn visible(&self, height: usize, width: usize, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let [down, right] = self.shift;
        let first = right.max(0) as usize;
        let last = (width as isize + right).clamp(0, width as isize) as usize;
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
    use crate::cuda::emulation;
    use crate::gradcheck::{device, pattern};

    const DIMS: [usize; 4] = [6, 16, 24, 3];

    fn images(seed: u64) -> Result<Tensor> {
        pattern(&DIMS, seed)?.to_dtype(candle_core::DType::F32)
    }

    /// None; each by itself; everything at once, to both sides, with holes at the borders.
    fn changes() -> Vec<ImageChange> {
        let none = ImageChange::default();
        vec![
            none.clone(),
            ImageChange { brightness: 0.3, saturation: 1.7, contrast: 0.6, ..none.clone() },
            ImageChange { shift: [2, -3], ..none.clone() },
            ImageChange { hole: [4..12, 0..10], ..none.clone() },
            ImageChange {
                brightness: -0.4,
                saturation: 0.0,
                contrast: 1.4,
                shift: [-2, 3],
                hole: [0..5, 20..24],
            },
            ImageChange { saturation: 1.2, shift: [1, 0], hole: [9..16, 3..15], ..none },
        ]
    }

    /// The map, its transpose and its transpose's transpose on slices, composed, and by the kernel where it can be emulated.
    #[test]
    fn every_way_gives_the_same_images() -> Result<()> {
        let (images, changes) = (images(2)?, changes());
        for direction in [Direction::Forward, Direction::Linear, Direction::Transposed] {
            let composed = portable::augment::affine(&images, &changes, direction)?;
            let mut ways = Vec::new();
            if !portable::forced() && images.device().is_cpu() {
                ways.push(on_slices(&images, &changes, direction)?);
            }
            if emulation::can_run() {
                ways.push(crate::cuda::images::change_images(&images, &changes, direction)?);
            }
            for way in ways {
                let worst = (way - &composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
                // f32; the mean is a sum of a thousand numbers in another order.
                assert!(worst < 2e-5, "{direction:?}: {worst}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_gradient_is_the_adjoint_and_can_be_differentiated() -> Result<()> {
        let changes: Rc<[ImageChange]> = changes().into();
        let (x, g) = (Var::leaf(images(2)?), Var::leaf(images(3)?));
        let zero = change_images(&Var::constant(images(2)?.zeros_like()?), changes.clone())?;
        let dot = |a: &Tensor, b: &Tensor| -> Result<f32> { (a * b)?.sum_all()?.to_scalar() };
        // <A x, g> = <x, A^T g>, A from the offset-free part of the map.
        let forward = change_images(&x, changes)?;
        let linear = (forward.value() - zero.value())?;
        let back = crate::grad(&crate::sum_all(&crate::mul(&forward, &g)?)?, &[&x], true)?;
        let (left, right) = (dot(&linear, g.value())?, dot(x.value(), back[0].value())?);
        assert!((left - right).abs() < 1e-3 * left.abs().max(1.0), "{left} {right}");
        // d/dg <A^T g, x> = A x: the second derivative comes back to the forward map without its offset.
        let again = crate::grad(&crate::sum_all(&crate::mul(&back[0], &x.detach())?)?, &[&g], false)?;
        let worst = (again[0].value() - &linear)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(worst < 1e-4, "{worst}");
        Ok(())
    }

    #[test]
    fn a_shift_moves_and_a_hole_cuts() -> Result<()> {
        let change = ImageChange { shift: [1, -1], hole: [2..3, 0..2], ..ImageChange::default() };
        let x = Tensor::from_iter((0..27).map(|i| i as f32), &device())?.reshape((1, 3, 3, 3))?;
        let y = change_images(&Var::constant(x), [change].into())?;
        let red: Vec<f32> = y.value().narrow(3, 0, 1)?.flatten_all()?.to_vec1()?;
        // The pixel at row 0, column 1 begins with 3, the next with 6.
        for (found, want) in red.iter().zip([0.0, 0.0, 0.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0]) {
            assert!((found - want).abs() < 1e-5, "{red:?}");
        }
        Ok(())
    }

    #[test]
    fn images_without_pixels_stay_what_they_are() -> Result<()> {
        for dims in [[2, 0, 4, 3], [2, 4, 0, 3], [0, 4, 4, 3]] {
            let images = Tensor::zeros(&dims, candle_core::DType::F32, &device())?;
            let changed = change_images(&Var::leaf(images), vec![ImageChange::default(); dims[0]].into())?;
            assert_eq!(changed.dims(), dims);
            crate::backward(crate::sum_all(&changed)?)?;
        }
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let images = Var::constant(images(1)?);
        assert!(change_images(&images, vec![ImageChange::default(); 5].into()).is_err());
        let grey = Var::constant(pattern(&[2, 4, 4, 1], 1)?);
        assert!(change_images(&grey, vec![ImageChange::default(); 2].into()).is_err());
        Ok(())
    }
}
