//! Whether the discriminator knows its images by heart: what it thinks of real images it never saw.
//!
//! A discriminator that generalises takes held-out images for as real as those it trains on; one that overfits takes them
//! for fakes. The figure is ADA's `r_v` (Karras et al., arXiv 2006.06676, section 3.1, from means of raw logits).

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use nestgen_kernels::{Var, no_grad};

use crate::data::ImageData;
use crate::error::Result;
use crate::models::Discriminator;

/// Images that are judged at once.
const BATCH: usize = 16;

/// Real images that no step trains on.
pub struct HeldOut {
    data: ImageData,
}

impl HeldOut {
    /// The second part of [`ImageData::hold_out`].
    pub fn new(data: ImageData) -> Self {
        Self { data }
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)] // A set without images cannot be made.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// `count` of them, `[count, H, W, 3]` in -1..1, evenly from the whole set: its first ones may be of one class.
    pub(super) fn images(&self, count: usize) -> Result<Tensor> {
        let res = self.data.res();
        let mut pixels = vec![0; count * res * res * 3];
        for (i, image) in pixels.chunks_exact_mut(res * res * 3).enumerate() {
            self.data.read(i * self.data.len() / count, image)?;
        }
        let images = Tensor::from_vec(pixels, (count, res, res, 3), &Device::Cpu)?;
        Ok(images.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)?)
    }
}

/// Mean logits of D, without augmentation.
pub(super) struct Opinions {
    /// Of images it trains on.
    pub(super) seen: f64,
    /// Of images it never saw.
    pub(super) held_out: f64,
    /// Of generated ones.
    pub(super) fake: f64,
}

impl Opinions {
    /// Asks D about three batches.
    pub(super) fn of(d: &Discriminator, seen: &Tensor, held_out: &Tensor, fake: &Tensor) -> TensorResult<Self> {
        let mean = |images: &Tensor| {
            let (count, mut sum) = (images.dim(0)?, 0.0);
            for first in (0..count).step_by(BATCH) {
                let images = Var::constant(images.narrow(0, first, BATCH.min(count - first))?);
                let logits = no_grad(|| d.forward(&images, false))?;
                sum += logits.value().to_vec1::<f32>()?.into_iter().map(f64::from).sum::<f64>();
            }
            TensorResult::Ok(sum / count as f64)
        };
        Ok(Self { seen: mean(seen)?, held_out: mean(held_out)?, fake: mean(fake)? })
    }

    /// 0: held-out images count as much as those it trains on; 1: as little as fakes.
    pub(super) fn share(&self) -> f64 {
        let gap = self.seen - self.fake;
        if gap.abs() < f64::EPSILON { 0.0 } else { (self.seen - self.held_out) / gap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_taken_evenly_from_a_set_in_the_order_of_its_classes() {
        // Six classes of four images of one pixel, whose value is the class.
        let pixels = (0..24u8).flat_map(|i| [i / 4; 3]).collect();
        let data = ImageData::from_pixels(1, pixels, None, vec![], "classes".into(), String::new()).unwrap();
        let held_out = HeldOut::new(data);
        for (count, expected) in
            [(6, vec![0, 1, 2, 3, 4, 5]), (3, vec![0, 2, 4]), (24, (0..24).map(|i| i / 4).collect())]
        {
            let images = held_out.images(count).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let classes: Vec<i32> =
                images.iter().step_by(3).map(|v| ((v + 1.0) * 127.5).round() as i32).collect();
            assert_eq!(classes, expected);
        }
    }
}
