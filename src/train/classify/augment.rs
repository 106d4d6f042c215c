//! What is done to a training image: crop, mirror, RandAugment, normalisation, random erasing.
//!
//! Everything is drawn from the stream (seed, epoch, image), so that workers, batch size and interruptions change
//! nothing. Random erasing: Zhong et al., arXiv 1708.04896, filled with noise as in timm's `pixel` mode.

use candle_core::{Result as TensorResult, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::rand_augment::{self, Bitmap};
use crate::rng::Rng;
use crate::train::settings::{BadSetting, must, share};

/// `[train.augment]` of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Pixels of black added on every side before a crop of the old size, as is usual at 32 px; 0 for none.
    pub crop_padding: usize,
    /// Crop a random part of at least this share of the area (aspect 3/4 to 4/3) and resize it, as is usual at
    /// 224 px; 1 for none.
    pub crop_area: f64,
    /// Flip half of the images left to right.
    pub mirror: bool,
    /// Operations of RandAugment tried on an image; 0 for none.
    pub rand_layers: usize,
    /// Their strength, 0 to 10.
    pub rand_magnitude: f64,
    /// Its standard deviation.
    pub rand_std: f64,
    /// Probability of each of them, 0 to 1.
    pub rand_probability: f64,
    /// Probability that a rectangle is erased, 0 to 1.
    pub erase_probability: f64,
    /// Its share of the area, least and most.
    pub erase_area: [f64; 2],
    /// Its least aspect ratio; the greatest is one over it.
    pub erase_aspect: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            crop_padding: 2,
            crop_area: 1.0,
            mirror: true,
            rand_layers: 2,
            rand_magnitude: 9.0,
            rand_std: 0.5,
            rand_probability: 0.5,
            erase_probability: 0.25,
            erase_area: [0.02, 1.0 / 3.0],
            erase_aspect: 0.3,
        }
    }
}

impl AugmentConfig {
    pub(super) fn validate(&self) -> Result<(), BadSetting> {
        must("augment.crop_padding", self.crop_padding <= 256, || {
            format!("{} px are more than 256", self.crop_padding)
        })?;
        must("augment.crop_area", self.crop_area > 0.0 && self.crop_area <= 1.0, || {
            format!("{} is not above 0 and at most 1", self.crop_area)
        })?;
        must("augment.rand_layers", self.rand_layers <= 15, || {
            format!("{} is more than 15", self.rand_layers)
        })?;
        must("augment.rand_magnitude", (0.0..=10.0).contains(&self.rand_magnitude), || {
            format!("{} is not in 0..10", self.rand_magnitude)
        })?;
        must("augment.rand_std", (0.0..=10.0).contains(&self.rand_std), || {
            format!("{} is not in 0..10", self.rand_std)
        })?;
        share("augment.rand_probability", self.rand_probability)?;
        share("augment.erase_probability", self.erase_probability)?;
        let [least, most] = self.erase_area;
        must("augment.erase_area", least > 0.0 && least <= most && most <= 1.0, || {
            format!("[{least}, {most}] is not a range within 0..1")
        })?;
        must("augment.erase_aspect", self.erase_aspect > 0.0 && self.erase_aspect <= 1.0, || {
            format!("{} is not above 0 and at most 1", self.erase_aspect)
        })
    }
}

/// From bytes to the numbers that a classifier sees: `(byte / 255 - mean) / std` for each channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// Of each channel, in 0..1.
    pub mean: [f32; 3],
    /// Of each channel, above 0.
    pub std: [f32; 3],
}

impl Normalise {
    /// Appends the values of bytes `[H, W, 3]`.
    pub fn append(&self, bytes: &[u8], out: &mut Vec<f32>) {
        let value =
            |channel: usize, byte: u8| (f32::from(byte) / 255.0 - self.mean[channel]) / self.std[channel];
        // Looked up, a value costs no division.
        let of_bytes: [[f32; 256]; 3] =
            std::array::from_fn(|channel| std::array::from_fn(|byte| value(channel, byte as u8)));
        let start = out.len();
        out.resize(start + bytes.len(), 0.0);
        let values = out[start..].as_chunks_mut::<3>().0;
        for (values, pixel) in values.iter_mut().zip(bytes.as_chunks::<3>().0) {
            for ((value, table), &byte) in values.iter_mut().zip(&of_bytes).zip(pixel) {
                *value = table[usize::from(byte)];
            }
        }
    }

    /// Images `[N, H, W, 3]` as pictures have them, in -1..1.
    ///
    /// # Errors
    /// Only those of tensors.
    pub fn undo(&self, images: &Tensor) -> TensorResult<Tensor> {
        let of_channels = |values: [f32; 3]| Tensor::from_slice(&values, 3, images.device());
        let shares = images.broadcast_mul(&of_channels(self.std)?)?.broadcast_add(&of_channels(self.mean)?)?;
        shares.affine(2.0, -1.0)
    }
}

/// The augmentation of a run.
#[derive(Clone, Debug)]
pub struct Augment {
    /// The settings.
    pub config: AugmentConfig,
    /// How bytes become numbers.
    pub normalise: Normalise,
    /// The root of its random streams.
    pub stream: Rng,
    /// Side of the images, px.
    pub res: usize,
}

impl Augment {
    /// Appends the augmented, normalised image `[res, res, 3]` of this epoch.
    pub fn append(&self, epoch: u64, image: u32, bytes: &[u8], out: &mut Vec<f32>) {
        let config = &self.config;
        let mut rng = self.stream.at(epoch).at(u64::from(image));
        let mut bitmap = Bitmap::new(bytes.to_vec(), self.res);
        if config.crop_area < 1.0 {
            bitmap = self.resized_crop(&bitmap, &mut rng);
        }
        if config.crop_padding > 0 {
            let mut shift =
                || rng.below(2 * config.crop_padding as u64 + 1) as i64 - config.crop_padding as i64;
            let (dx, dy) = (shift(), shift());
            bitmap = bitmap.shifted(dx, dy);
        }
        if config.mirror && rng.next_u64() & 1 == 1 {
            bitmap.mirror();
        }
        for _ in 0..config.rand_layers {
            if rng.uniform() < config.rand_probability {
                let magnitude = config.rand_magnitude + config.rand_std * f64::from(rng.normal());
                bitmap = rand_augment::random_operation(bitmap, magnitude.clamp(0.0, 10.0), &mut rng);
            }
        }
        let start = out.len();
        self.normalise.append(bitmap.bytes(), out);
        if rng.uniform() < config.erase_probability {
            self.erase(&mut out[start..], &mut rng);
        }
    }

    /// Inception's crop: an area and an aspect ratio that fit within ten draws, else the whole image.
    fn resized_crop(&self, bitmap: &Bitmap, rng: &mut Rng) -> Bitmap {
        let side = self.res as f64;
        for _ in 0..10 {
            let area = self.config.crop_area + (1.0 - self.config.crop_area) * rng.uniform();
            let aspect = log_uniform(rng, 3.0 / 4.0);
            let (height, width) = (side * (area / aspect).sqrt(), side * (area * aspect).sqrt());
            if height <= side && width <= side {
                let top = rng.uniform() * (side - height);
                let left = rng.uniform() * (side - width);
                let map = [width / side, 0.0, left, 0.0, height / side, top];
                return bitmap.affine(map);
            }
        }
        bitmap.clone()
    }

    /// Fills a rectangle of `[res, res, 3]` with normal noise, if one fits within ten draws.
    fn erase(&self, values: &mut [f32], rng: &mut Rng) {
        let (side, [least, most]) = (self.res, self.config.erase_area);
        for _ in 0..10 {
            let area = (side * side) as f64 * (least + (most - least) * rng.uniform());
            let aspect = log_uniform(rng, self.config.erase_aspect);
            let height = (area * aspect).sqrt().round() as usize;
            let width = (area / aspect).sqrt().round() as usize;
            if height >= side || width >= side {
                continue;
            }
            let top = rng.below((side - height + 1) as u64) as usize;
            let left = rng.below((side - width + 1) as u64) as usize;
            for row in values.chunks_exact_mut(side * 3).skip(top).take(height) {
                row[left * 3..(left + width) * 3].fill_with(|| rng.normal());
            }
            return;
        }
    }

    /// [`Augment::append`] for the bytes of many images side by side; for figures and tests.
    pub fn batch(&self, epoch: u64, images: &[(u32, &[u8])]) -> Vec<f32> {
        let one = |&(image, bytes): &(u32, &[u8])| {
            let mut out = Vec::with_capacity(bytes.len());
            self.append(epoch, image, bytes, &mut out);
            out
        };
        images.par_iter().map(one).collect::<Vec<_>>().concat()
    }
}

/// From `least` to one over it, uniform in the logarithm.
fn log_uniform(rng: &mut Rng, least: f64) -> f64 {
    let width = -2.0 * least.ln();
    (least.ln() + width * rng.uniform()).exp()
}

#[cfg(test)]
mod tests;
