//! The convolutional residual discriminator that judges every generator, so that only generators differ.
//!
//! Image -> 3x3 convolution -> one residual block per halving down to 4x4 -> 3x3 convolution -> linear -> one
//! logit. Each block: 3x3 convolution, 2x2 average pool, 3x3 convolution, beside a pooled 1x1 convolution;
//! leaky ReLU throughout. Pooling first makes the second convolution and the shortcut four times cheaper.
//!
//! After SNGAN (arXiv 1802.05957) and HiT (arXiv 2106.07631). Differs from them: SNGAN pools after the second
//! convolution and sums over the last map, here a linear layer sees its 4x4 places; HiT blurs before pooling and
//! scales the sum of both paths by the square root of a half, which spectral norm makes needless.

use candle_core::{Result, Tensor};
use nestgen_kernels::{self as k, Activation, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, check};
use crate::nn::{Builder, Conv2d, Init, Linear, ParamSet};

/// Side of the last feature map.
const LAST: usize = 4;
/// Slope of the leaky ReLU for negative numbers.
const SLOPE: f32 = 0.2;
const ACTIVATION: Activation = Activation::LeakyRelu(SLOPE);
/// Samples that minibatch standard deviation compares with each other (StyleGAN: 4).
const GROUP: usize = 4;

/// The shape of a discriminator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the images in pixels: a power of two from 32 to 256.
    pub resolution: usize,
    /// Channels at each side, from the image's down to 4.
    pub channels: Vec<usize>,
    /// Divides every weight by its spectral norm.
    pub spectral_norm: bool,
    /// Shows the last convolution how much the samples of a batch differ.
    pub minibatch_stddev: bool,
}

impl Config {
    /// Small enough for two CPU cores.
    pub fn demo(resolution: usize) -> Self {
        // Those of 256 px; smaller images start further in.
        let channels = [8, 8, 8, 16, 32, 64, 128];
        let sides = (resolution / LAST).max(1).ilog2() as usize + 1;
        let channels = channels.iter().copied().skip(channels.len().saturating_sub(sides)).collect();
        Self { resolution, channels, spectral_norm: true, minibatch_stddev: false }
    }

    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        let fits = self.resolution.is_power_of_two() && (32..=256).contains(&self.resolution);
        check("resolution", fits, || format!("must be 32, 64, 128 or 256, got {}", self.resolution))?;
        let (sides, len) = ((self.resolution / LAST).ilog2() as usize + 1, self.channels.len());
        check("channels", len == sides, || {
            format!("{} px takes {sides} entries, one a side down to {LAST}, got {len}", self.resolution)
        })?;
        check("channels", self.channels.iter().all(|c| (1..=8192).contains(c)), || {
            "must be between 1 and 8192".into()
        })
    }
}

struct Block {
    conv1: Conv2d,
    conv2: Conv2d,
    shortcut: Conv2d,
}

impl Block {
    fn new(b: &Builder, inputs: usize, outputs: usize, sn: bool) -> Result<Self> {
        let conv = |name: &str, inputs, outputs, kernel, bias| {
            let geometry = k::Conv2d::same(kernel);
            Conv2d::build(&b.pp(name), inputs, outputs, kernel, geometry, Init::Xavier, sn, bias)
        };
        Ok(Self {
            conv1: conv("conv1", inputs, inputs, 3, true)?,
            conv2: conv("conv2", inputs, outputs, 3, true)?,
            shortcut: conv("shortcut", inputs, outputs, 1, false)?,
        })
    }

    /// `[B, 2H, 2W, C]` -> `[B, H, W, C']`.
    fn forward(&self, x: &Var, train: bool) -> Result<Var> {
        let shortcut = self.shortcut.forward(&k::avg_pool2(x)?, Activation::None, train)?;
        let x = k::avg_pool2(&self.conv1.forward(x, ACTIVATION, train)?)?;
        k::add(&self.conv2.forward(&x, ACTIVATION, train)?, &shortcut)
    }

    /// Multiply-adds for `pixels` inputs.
    fn macs(&self, pixels: usize) -> u64 {
        self.conv1.macs(pixels) + self.conv2.macs(pixels / 4) + self.shortcut.macs(pixels / 4)
    }
}

/// The discriminator.
pub struct ResidualDiscriminator {
    config: Config,
    from_rgb: Conv2d,
    blocks: Vec<Block>,
    conv: Conv2d,
    head: Linear,
    params: ParamSet,
}

impl ResidualDiscriminator {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &Config, b: &Builder) -> Result<Self> {
        config.validate()?;
        let (channels, sn) = (&config.channels, config.spectral_norm);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv = |name: &str, inputs, outputs| {
            let geometry = k::Conv2d::same(3);
            Conv2d::build(&b.pp(name), inputs, outputs, 3, geometry, Init::Xavier, sn, true)
        };
        let from_rgb = conv("from_rgb", 3, first)?;
        let blocks = channels
            .windows(2)
            .enumerate()
            .map(|(i, pair)| Block::new(&b.pp("blocks").pp(i), pair[0], pair[1], sn))
            .collect::<Result<_>>()?;
        let conv = conv("conv", last + usize::from(config.minibatch_stddev), last)?;
        let head = Linear::build(&b.pp("head"), LAST * LAST * last, 1, Init::Xavier, sn, true)?;
        Ok(Self { config: config.clone(), from_rgb, blocks, conv, head, params: b.params() })
    }

    /// Images `[B, H, W, 3]` -> logits `[B]`, positive for "real". In training, spectral norm's estimates move.
    pub fn forward(&self, images: &Var, train: bool) -> Result<Var> {
        let (batch, _, _, _) = images.value().dims4()?;
        let mut x = self.from_rgb.forward(images, ACTIVATION, train)?;
        for block in &self.blocks {
            x = block.forward(&x, train)?;
        }
        if self.config.minibatch_stddev {
            x = append_minibatch_stddev(&x)?;
        }
        let x = self.conv.forward(&x, ACTIVATION, train)?;
        let features = x.value().elem_count() / batch.max(1);
        let logits = self.head.forward(&k::reshape(&x, &[batch, features])?, Activation::None, train)?;
        k::reshape(&logits, &[batch])
    }

    /// How many samples of a batch are compared with one another: `B / group` apart; 1 without minibatch stddev.
    pub fn compared_samples(&self, batch: usize) -> usize {
        if self.config.minibatch_stddev { group_size(batch) } else { 1 }
    }

    /// The shape this discriminator was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Floating-point operations to judge one image: twice the multiply-adds of products and convolutions.
    pub fn flops(&self) -> u64 {
        let pixels = self.config.resolution * self.config.resolution;
        let blocks: u64 = self.blocks.iter().enumerate().map(|(i, block)| block.macs(pixels >> (2 * i))).sum();
        2 * (self.from_rgb.macs(pixels) + blocks + self.conv.macs(LAST * LAST) + self.head.macs(1))
    }
}

/// Samples of a group: as many as divide the batch.
fn group_size(batch: usize) -> usize {
    (1..=GROUP).rev().find(|g| batch.is_multiple_of(*g)).unwrap_or(1)
}

/// `[B, H, W, C]` -> `[B, H, W, C + 1]`: the mean over features of the standard deviation over a group of
/// samples (Karras et al., arXiv 1710.10196). Sample `b` is in group `b mod (B / group)`.
fn append_minibatch_stddev(x: &Var) -> Result<Var> {
    /// Keeps the square root's slope finite where all samples agree.
    const EPS: f64 = 1e-8;
    let (batch, height, width, channels) = x.value().dims4()?;
    let group = group_size(batch);
    let (groups, features) = (batch / group, height * width * channels);
    let flat = k::reshape(x, &[group, groups * features])?;
    let members = (0..group).map(|i| k::narrow(&flat, 0, i, 1)).collect::<Result<Vec<_>>>()?;
    let sum = |parts: &[Var]| -> Result<Var> {
        let mut sum = parts[0].clone();
        for part in &parts[1..] {
            sum = k::add(&sum, part)?;
        }
        k::scale(&sum, 1.0 / group as f64)
    };
    let mean = sum(&members)?;
    let squares = members.iter().map(|m| k::square(&k::sub(m, &mean)?)).collect::<Result<Vec<_>>>()?;
    let std = k::sqrt(&k::add_scalar(&sum(&squares)?, EPS)?)?;
    let stat = k::scale(&k::sum_per_sample(&k::reshape(&std, &[groups, features])?)?, 1.0 / features as f64)?;
    let stat = k::reshape(&k::cat(&vec![&stat; group], 0)?, &[batch, 1])?;
    let ones = Var::constant(Tensor::ones((1, height * width), x.dtype(), x.device())?);
    let plane = k::reshape(&k::matmul(&stat, &ones, false, false)?, &[batch, height, width, 1])?;
    k::cat(&[x, &plane], 3)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_small_one_fits_every_resolution() {
        for resolution in [32, 64, 128, 256] {
            assert_eq!(Config::demo(resolution).validate(), Ok(()), "{resolution}");
        }
    }

    #[test]
    fn validation_names_the_field() {
        let bad = |config: Config| config.validate().unwrap_err().field;
        assert_eq!(bad(Config { resolution: 16, ..Config::demo(64) }), "resolution");
        assert_eq!(bad(Config { resolution: 128, ..Config::demo(64) }), "channels");
        assert_eq!(bad(Config { channels: vec![1, 0, 1, 1, 1], ..Config::demo(64) }), "channels");
    }

    /// All samples of a batch are equal: the standard deviation is its floor. They differ: it is not.
    #[test]
    fn minibatch_stddev_sees_differences() -> Result<()> {
        let stat = |values: Vec<f64>| -> Result<f64> {
            let x = Var::constant(Tensor::from_vec(values, (4, 1, 1, 1), &Device::Cpu)?);
            append_minibatch_stddev(&x)?.value().narrow(3, 1, 1)?.to_dtype(DType::F64)?.max_all()?.to_scalar()
        };
        assert!(stat(vec![2.0; 4])? < 1e-3);
        assert!((stat(vec![1.0, 1.0, 3.0, 3.0])? - 1.0).abs() < 1e-6);
        Ok(())
    }
}
