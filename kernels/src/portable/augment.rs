//! The maps of augmentation as tensor operations.
//!
//! Colour is arithmetic with a few numbers an image; shift and hole are one gather of pixels, whose indices the
//! processor counts and uploads (4 bytes a pixel).

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::augment::{Direction, ImageChange};
use crate::cuda::{fused, images as kernels};

/// `images [B, H, W, 3]` through the map of every image's [`ImageChange`], in one of its directions.
pub(crate) fn affine(images: &Tensor, changes: &[ImageChange], direction: Direction) -> Result<Tensor> {
    if fused::takes(images) && images.dtype() == DType::F32 {
        return kernels::change_images(images, changes, direction);
    }
    match direction {
        Direction::Forward => moved(&colored(images, changes, true)?, changes, direction),
        Direction::Linear => moved(&colored(images, changes, false)?, changes, direction),
        Direction::Transposed => colored(&moved(images, changes, direction)?, changes, false),
    }
}

/// Saturation, contrast and, if asked for, brightness.
fn colored(images: &Tensor, changes: &[ImageChange], brightness: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let numbers = |of: fn(&ImageChange) -> f32| {
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
fn moved(images: &Tensor, changes: &[ImageChange], direction: Direction) -> Result<Tensor> {
    let (batch, height, width, channels) = images.dims4()?;
    let unmoved = |change: &ImageChange| change.shift == [0, 0] && change.hole[0].is_empty();
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
