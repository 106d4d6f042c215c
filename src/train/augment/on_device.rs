//! The maps of augmentation as tensor operations, for images that are not in the processor's memory.
//!
//! Colour is arithmetic with a few numbers an image; shift and hole are one gather of pixels, whose indices the
//! processor counts and uploads (4 bytes a pixel).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Change, Direction};

/// `images [B, H, W, 3]` through the map of every image's [`Change`], in one of its directions.
pub(super) fn affine(images: &Tensor, changes: &[Change], direction: Direction) -> Result<Tensor> {
    match direction {
        Direction::Forward => moved(&colored(images, changes, true)?, changes, direction),
        Direction::Linear => moved(&colored(images, changes, false)?, changes, direction),
        Direction::Transposed => colored(&moved(images, changes, direction)?, changes, false),
    }
}

/// Saturation, contrast and, if asked for, brightness.
fn colored(images: &Tensor, changes: &[Change], brightness: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let numbers = |of: fn(&Change) -> f32| {
        let numbers: Vec<f32> = changes.iter().map(of).collect();
        Tensor::from_vec(numbers, (batch, 1, 1, 1), images.device())
    };
    let flat = images.contiguous()?.reshape((batch, height * width * channels))?;
    let mean = flat.mean_keepdim(1)?.reshape((batch, 1, 1, 1))?;
    let grey = (images.narrow(3, 0, 1)? + images.narrow(3, 1, 1)?)?;
    let grey = (grey + images.narrow(3, 2, 1)?)?.affine(1.0 / 3.0, 0.0)?;
    let saturated = images.broadcast_sub(&grey)?.broadcast_mul(&numbers(|change| change.saturation)?)?;
    let saturated = saturated.broadcast_add(&grey)?;
    let contrasted = saturated.broadcast_sub(&mean)?.broadcast_mul(&numbers(|change| change.contrast)?)?;
    let offset = if brightness { (mean + numbers(|change| change.brightness)?)? } else { mean };
    contrasted.broadcast_add(&offset)
}

/// Shift and hole, or (transposed) the way back.
fn moved(images: &Tensor, changes: &[Change], direction: Direction) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let unmoved = |change: &Change| change.shift == [0, 0] && change.hole[0].is_empty();
    if changes.iter().all(unmoved) {
        return Ok(images.clone());
    }
    let (pixels, nowhere) = (height * width, (batch * height * width) as u32);
    let mut sources = vec![nowhere; batch * pixels];
    let each = sources.par_chunks_mut(pixels.max(1)).zip(changes.par_iter()).enumerate();
    each.for_each(|(image, (sources, change))| {
        let first = (image * pixels) as u32;
        change.visible(height, width, |to, from| {
            let (at, of) = if direction == Direction::Transposed { (from, to) } else { (to, from) };
            if let Some(run) = sources.get_mut(at.start / 3..at.end / 3) {
                (first + (of.start / 3) as u32..).zip(run).for_each(|(source, place)| *place = source);
            }
        });
    });
    let sources = Tensor::from_vec(sources, batch * pixels, images.device())?;
    // One more pixel, of zeros: what is moved in from outside or cut out.
    let zeros = Tensor::zeros((1, channels), images.dtype(), images.device())?;
    let table = Tensor::cat(&[&images.contiguous()?.reshape((batch * pixels, channels))?, &zeros], 0)?;
    table.index_select(&sources, 0)?.reshape(images.dims())
}

#[cfg(test)]
mod tests {
    use super::super::{AugmentConfig, AugmentKind, on_slices};
    use super::*;
    use crate::rng::Rng;

    /// Both are f32; the mean is a sum of a thousand numbers in another order.
    const TOLERANCE: f32 = 2e-5;

    /// With the arithmetic of slices, whatever the directions.
    #[test]
    fn both_ways_give_the_same_images() -> Result<()> {
        if nestgen_kernels::portable::forced() {
            return Ok(());
        }
        let config = AugmentConfig {
            kind: AugmentKind::Fixed,
            probability: 1.0,
            color: true,
            translation: true,
            cutout: true,
            target: 0.6,
            adjust_kimg: 1.0,
        };
        let dims = [6, 16, 24, 3];
        let rng = Rng::new(5);
        let changes: Vec<Change> =
            (0..6).map(|i| Change::draw(&config, 0.7, dims[1], dims[2], &mut rng.at(i))).collect();
        let images = Rng::new(2).normals(dims.iter().product());
        let images = Tensor::from_vec(images, &dims, &candle_core::Device::Cpu)?;
        for direction in [Direction::Forward, Direction::Linear, Direction::Transposed] {
            let (a, b) = (affine(&images, &changes, direction)?, on_slices(&images, &changes, direction)?);
            let worst = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(worst < TOLERANCE, "{worst}");
        }
        Ok(())
    }
}
