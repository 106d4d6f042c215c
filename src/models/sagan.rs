//! SAGAN without classes (Zhang et al., "Self-Attention Generative Adversarial Networks", arXiv 1805.08318):
//! the convolutional baseline, generator and discriminator.
//!
//! Residual blocks of 3x3 convolutions with spectral norm in both networks, batch norm in the generator, one
//! self-attention layer at 32x32 (16x16 for 32 px images). Widths follow StudioGAN's `resnet.py`: at 64 px the
//! generator has 12.24M parameters and the discriminator 19.55M. [`Config::matching`] widens it to another model's
//! budget.
//!
//! Differs from the authors' code: no classes, so plain batch norm and no projection; the 64 px shape is
//! StudioGAN's, as theirs is for 128 px only. 1x1 convolutions run before upsampling and after pooling, which gives
//! the same numbers for a quarter of the work.

use candle_core::{DType, Device, Result};
use nestgen_kernels::{self as k, Activation, SumOverParts, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, check};
use crate::nn::{BatchNorm, Builder, Conv2d, Init, Linear, ParamSet, SelfAttention};

/// Sides of images, in pixels, that SAGAN has shapes for.
const RESOLUTIONS: [usize; 3] = [32, 64, 128];
/// Narrowest and widest.
const MIN_WIDTH: usize = 8;
const MAX_WIDTH: usize = 512;
/// Side of the generator's first map.
const FIRST: usize = 4;

/// What two generators of the same budget have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Trainable parameters.
    Params,
    /// Floating-point operations to make one image.
    Flops,
}

/// The shape of the generator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the images in pixels: 32, 64 or 128.
    pub resolution: usize,
    /// Length of z.
    pub z_dim: usize,
    /// Channels of the last block; the others are multiples of it. A multiple of 4, at 32 px of 2, so that
    /// self-attention has channels in eights. Published: 64.
    pub width: usize,
    /// Whether there is a self-attention layer.
    pub attention: bool,
}

impl Config {
    /// The published shape.
    pub fn published(resolution: usize) -> Self {
        Self { resolution, z_dim: 128, width: 64, attention: true }
    }

    /// This shape with the width whose parameters or operations come closest to `target`.
    ///
    /// # Errors
    /// When this shape does not validate.
    pub fn matching(&self, budget: Budget, target: u64) -> Result<Self> {
        let at = |width: usize| Self { width, ..self.clone() };
        let cost = |width: usize| -> Result<u64> {
            let model = SaganGenerator::new(&at(width), &Builder::blank(DType::F32, &Device::Cpu))?;
            Ok(match budget {
                Budget::Params => model.params().count() as u64,
                Budget::Flops => model.flops(),
            })
        };
        // Cost grows with width: halve the interval.
        let step = width_step(self.resolution);
        let (mut below, mut above) = (MIN_WIDTH / step, MAX_WIDTH / step);
        while below + 1 < above {
            let middle = (below + above) / 2;
            if cost(step * middle)? <= target { below = middle } else { above = middle }
        }
        let (low, high) = (cost(step * below)?, cost(step * above)?);
        Ok(at(step * if target.abs_diff(low) <= target.abs_diff(high) { below } else { above }))
    }

    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        check_shape(self.resolution, self.width, width_step(self.resolution))?;
        check("z_dim", (1..=65_536).contains(&self.z_dim), || {
            format!("must be between 1 and 65536, got {}", self.z_dim)
        })
    }

    /// Input and output channels of each block, in units of the width.
    fn blocks(&self) -> &'static [(usize, usize)] {
        match self.resolution {
            32 => &[(4, 4), (4, 4), (4, 4)],
            64 => &[(16, 8), (8, 4), (4, 2), (2, 1)],
            _ => &[(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)],
        }
    }
}

/// What the generator's widths are multiples of: its attention sees `4 * width` channels at 32 px, twice the width else.
fn width_step(resolution: usize) -> usize {
    if resolution == 32 { 2 } else { 4 }
}

fn check_shape(resolution: usize, width: usize, step: usize) -> std::result::Result<(), ConfigError> {
    check("resolution", RESOLUTIONS.contains(&resolution), || {
        format!("must be one of {RESOLUTIONS:?}, got {resolution}")
    })?;
    check("width", (MIN_WIDTH..=MAX_WIDTH).contains(&width) && width.is_multiple_of(step), || {
        format!("must be a multiple of {step} from {MIN_WIDTH} to {MAX_WIDTH}, got {width}")
    })
}

/// Side of the map that self-attention looks at.
fn attention_side(resolution: usize) -> usize {
    if resolution == 32 { 16 } else { 32 }
}

fn conv(b: &Builder, inputs: usize, outputs: usize, kernel: usize) -> Result<Conv2d> {
    Conv2d::build(b, inputs, outputs, kernel, k::Conv2d::same(kernel), Init::Xavier, true, true)
}

struct UpBlock {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
    shortcut: Conv2d,
}

impl UpBlock {
    fn new(b: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            norm1: BatchNorm::new(&b.pp("norm1"), inputs)?,
            conv1: conv(&b.pp("conv1"), inputs, outputs, 3)?,
            norm2: BatchNorm::new(&b.pp("norm2"), outputs)?,
            conv2: conv(&b.pp("conv2"), outputs, outputs, 3)?,
            shortcut: conv(&b.pp("shortcut"), inputs, outputs, 1)?,
        })
    }

    /// `[B, H, W, C]` -> `[B, 2H, 2W, C']`.
    fn forward(&self, x: &Var, train: bool) -> Result<Var> {
        let shortcut = k::upsample_nearest2(&self.shortcut.forward(x, Activation::None, train)?)?;
        let x = k::activate(&self.norm1.forward(x, train)?, Activation::Relu)?;
        let x = self.conv1.forward(&k::upsample_nearest2(&x)?, Activation::None, train)?;
        let x = k::activate(&self.norm2.forward(&x, train)?, Activation::Relu)?;
        k::add(&self.conv2.forward(&x, Activation::None, train)?, &shortcut)
    }

    fn norms(&mut self) -> [&mut BatchNorm; 2] {
        [&mut self.norm1, &mut self.norm2]
    }

    /// Multiply-adds for `pixels` outputs.
    fn macs(&self, pixels: usize) -> u64 {
        self.conv1.macs(pixels) + self.conv2.macs(pixels) + self.shortcut.macs(pixels / 4)
    }
}

/// The generator.
pub struct SaganGenerator {
    config: Config,
    input: Linear,
    blocks: Vec<UpBlock>,
    attention: Option<SelfAttention>,
    norm: BatchNorm,
    to_rgb: Conv2d,
    params: ParamSet,
}

impl SaganGenerator {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &Config, b: &Builder) -> Result<Self> {
        config.validate()?;
        let (width, shape) = (config.width, config.blocks());
        let (first, last) = (shape[0].0 * width, shape[shape.len() - 1].1 * width);
        let outputs = FIRST * FIRST * first;
        let input = Linear::build(&b.pp("input"), config.z_dim, outputs, Init::Xavier, true, true)?;
        let blocks = shape.iter().enumerate();
        let blocks = blocks
            .map(|(i, &(inputs, outputs))| UpBlock::new(&b.pp("blocks").pp(i), inputs * width, outputs * width))
            .collect::<Result<_>>()?;
        let mut sides = shape.iter().enumerate().map(|(i, &(_, outputs))| (FIRST << (i + 1), outputs * width));
        let place = sides.find(|&(side, _)| config.attention && side == attention_side(config.resolution));
        let attention =
            place.map(|(_, channels)| SelfAttention::new(&b.pp("attention"), channels)).transpose()?;
        let norm = BatchNorm::new(&b.pp("norm"), last)?;
        let to_rgb = conv(&b.pp("to_rgb"), last, 3, 3)?;
        Ok(Self { config: config.clone(), input, blocks, attention, norm, to_rgb, params: b.params() })
    }

    /// z `[B, z_dim]` -> images `[B, H, W, 3]` in -1..1.
    pub fn forward(&self, z: &Var, train: bool) -> Result<Var> {
        let (batch, _) = z.value().dims2()?;
        let x = self.input.forward(z, Activation::None, train)?;
        let channels = x.value().elem_count() / (batch * FIRST * FIRST).max(1);
        let mut x = k::reshape(&x, &[batch, FIRST, FIRST, channels])?;
        for block in &self.blocks {
            x = block.forward(&x, train)?;
            x = attend(self.attention.as_ref(), x, self.config.resolution, train)?;
        }
        let x = k::activate(&self.norm.forward(&x, train)?, Activation::Relu)?;
        self.to_rgb.forward(&x, Activation::Tanh, train)
    }

    /// From here on the batches of training are parts of larger ones: batch norm takes the statistics of these.
    pub fn share_batches(&mut self, parts: &SumOverParts) {
        let norms = self.blocks.iter_mut().flat_map(UpBlock::norms).chain([&mut self.norm]);
        norms.for_each(|norm| norm.share_batches(parts.clone()));
    }

    /// The shape this generator was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Floating-point operations to make one image: twice the multiply-adds of products and convolutions.
    pub fn flops(&self) -> u64 {
        let pixels = |i: usize| (FIRST * FIRST) << (2 * (i + 1));
        let blocks: u64 = self.blocks.iter().enumerate().map(|(i, block)| block.macs(pixels(i))).sum();
        let rgb = self.to_rgb.macs(self.config.resolution * self.config.resolution);
        2 * (self.input.macs(1)
            + blocks
            + attention_macs(self.attention.as_ref(), self.config.resolution)
            + rgb)
    }
}

/// Applies self-attention to a map of the side it belongs to, and nothing to other maps.
fn attend(attention: Option<&SelfAttention>, x: Var, resolution: usize, train: bool) -> Result<Var> {
    match attention {
        Some(attention) if x.value().dim(1)? == attention_side(resolution) => attention.forward(&x, train),
        _ => Ok(x),
    }
}

fn attention_macs(attention: Option<&SelfAttention>, resolution: usize) -> u64 {
    attention.map_or(0, |attention| attention.macs(attention_side(resolution).pow(2)))
}

/// The shape of the discriminator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Side of the images in pixels: 32, 64 or 128.
    pub resolution: usize,
    /// Channels of the first block at 64 and 128 px; the others are multiples of it. Published: 64.
    pub width: usize,
    /// Whether there is a self-attention layer.
    pub attention: bool,
}

impl DiscriminatorConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        check_shape(self.resolution, self.width, 8)
    }

    /// Output channels of each block in units of the width, and whether it halves the side.
    fn blocks(&self) -> &'static [(usize, bool)] {
        match self.resolution {
            32 => &[(2, true), (2, true), (2, false), (2, false)],
            64 => &[(1, true), (2, true), (4, true), (8, true), (16, false)],
            _ => &[(1, true), (2, true), (4, true), (8, true), (16, true), (16, false)],
        }
    }
}

struct DownBlock {
    /// The first block sees pixels: no activation before its first convolution.
    first: bool,
    down: bool,
    conv1: Conv2d,
    conv2: Conv2d,
    /// `None` where neither channels nor side change.
    shortcut: Option<Conv2d>,
}

impl DownBlock {
    fn new(b: &Builder, inputs: usize, outputs: usize, down: bool, first: bool) -> Result<Self> {
        let shortcut = (down || inputs != outputs).then(|| conv(&b.pp("shortcut"), inputs, outputs, 1));
        Ok(Self {
            first,
            down,
            conv1: conv(&b.pp("conv1"), inputs, outputs, 3)?,
            conv2: conv(&b.pp("conv2"), outputs, outputs, 3)?,
            shortcut: shortcut.transpose()?,
        })
    }

    /// `[B, H, W, C]` -> `[B, H', W', C']`.
    fn forward(&self, x: &Var, train: bool) -> Result<Var> {
        let pool = |x: Var| if self.down { k::avg_pool2(&x) } else { Ok(x) };
        let mut shortcut = pool(x.clone())?;
        if let Some(conv) = &self.shortcut {
            shortcut = conv.forward(&shortcut, Activation::None, train)?;
        }
        let x = if self.first { x.clone() } else { k::activate(x, Activation::Relu)? };
        let x = self.conv1.forward(&x, Activation::Relu, train)?;
        k::add(&pool(self.conv2.forward(&x, Activation::None, train)?)?, &shortcut)
    }

    /// Multiply-adds for `pixels` inputs.
    fn macs(&self, pixels: usize) -> u64 {
        let outputs = if self.down { pixels / 4 } else { pixels };
        let shortcut = self.shortcut.as_ref().map_or(0, |conv| conv.macs(outputs));
        self.conv1.macs(pixels) + self.conv2.macs(pixels) + shortcut
    }
}

/// The discriminator.
pub struct SaganDiscriminator {
    config: DiscriminatorConfig,
    blocks: Vec<DownBlock>,
    attention: Option<SelfAttention>,
    head: Linear,
    params: ParamSet,
}

impl SaganDiscriminator {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &DiscriminatorConfig, b: &Builder) -> Result<Self> {
        config.validate()?;
        let (mut inputs, mut side) = (3, config.resolution);
        let (mut blocks, mut attention) = (Vec::new(), None);
        for (i, &(outputs, down)) in config.blocks().iter().enumerate() {
            let outputs = outputs * config.width;
            blocks.push(DownBlock::new(&b.pp("blocks").pp(i), inputs, outputs, down, i == 0)?);
            (inputs, side) = (outputs, if down { side / 2 } else { side });
            if config.attention && down && side == attention_side(config.resolution) {
                attention = Some(SelfAttention::new(&b.pp("attention"), outputs)?);
            }
        }
        let head = Linear::build(&b.pp("head"), inputs, 1, Init::Xavier, true, true)?;
        Ok(Self { config: config.clone(), blocks, attention, head, params: b.params() })
    }

    /// Images `[B, H, W, 3]` -> logits `[B]`, positive for "real".
    pub fn forward(&self, images: &Var, train: bool) -> Result<Var> {
        let (batch, _, _, _) = images.value().dims4()?;
        let mut x = images.clone();
        for block in &self.blocks {
            x = block.forward(&x, train)?;
            x = attend(self.attention.as_ref(), x, self.config.resolution, train)?;
        }
        let x = k::sum_middle(&k::activate(&x, Activation::Relu)?)?;
        k::reshape(&self.head.forward(&x, Activation::None, train)?, &[batch])
    }

    /// The shape this discriminator was made with.
    pub fn config(&self) -> &DiscriminatorConfig {
        &self.config
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Floating-point operations to judge one image: twice the multiply-adds of products and convolutions.
    pub fn flops(&self) -> u64 {
        let (mut macs, mut pixels) = (0, self.config.resolution * self.config.resolution);
        for block in &self.blocks {
            macs += block.macs(pixels);
            pixels = if block.down { pixels / 4 } else { pixels };
        }
        2 * (macs + attention_macs(self.attention.as_ref(), self.config.resolution) + self.head.macs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Builder {
        Builder::blank(DType::F32, &Device::Cpu)
    }

    /// At 64 px StudioGAN logs 13,387,396 and 19,752,642 with 200 classes; without them these numbers remain.
    #[test]
    fn the_published_shapes_have_the_published_sizes() -> Result<()> {
        let generator = |resolution| SaganGenerator::new(&Config::published(resolution), &blank());
        assert_eq!(generator(64)?.params().count(), 12_241_156);
        assert_eq!((generator(128)?.params().count() as f64 / 1e5).round(), 322.0);
        let published = DiscriminatorConfig { resolution: 64, width: 64, attention: true };
        let discriminator = SaganDiscriminator::new(&published, &blank())?;
        assert_eq!(discriminator.params().count(), 19_547_842);
        Ok(())
    }

    #[test]
    fn widths_match_a_budget() -> Result<()> {
        let without = Config { attention: false, ..Config::published(64) };
        let wide = without.matching(Budget::Params, 74_400_000)?;
        let count = SaganGenerator::new(&wide, &blank())?.params().count() as f64;
        assert!((count / 74.4e6 - 1.0).abs() < 0.05, "{count} at width {}", wide.width);
        let published = SaganGenerator::new(&Config::published(64), &blank())?;
        let again = Config { width: 8, ..Config::published(64) }.matching(Budget::Flops, published.flops())?;
        assert_eq!(again.width, 64);
        // Steps of 2 where pictures and budgets are small.
        let small = Config { width: 14, ..Config::published(32) };
        let flops = SaganGenerator::new(&small, &blank())?.flops();
        assert_eq!(Config::published(32).matching(Budget::Flops, flops)?, small);
        Ok(())
    }

    #[test]
    fn validation_names_the_field() {
        let bad = |config: Config| config.validate().unwrap_err().field;
        assert_eq!(bad(Config { resolution: 256, ..Config::published(64) }), "resolution");
        assert_eq!(bad(Config { width: 6, ..Config::published(64) }), "width");
        assert_eq!(bad(Config { width: 10, ..Config::published(64) }), "width");
        assert!(Config { width: 10, ..Config::published(32) }.validate().is_ok());
        assert_eq!(bad(Config { z_dim: 0, ..Config::published(64) }), "z_dim");
    }
}
