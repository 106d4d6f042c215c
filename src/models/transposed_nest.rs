//! The transposed NesT generator (Zhang et al., "Nested Hierarchical Transformer", arXiv 2105.12723, section 3.3).
//!
//! z -> linear -> one block of tokens -> levels. Level `l` holds `4^l` blocks of the same number of tokens; its
//! transformer layers attend inside each block with weights that all blocks share. Between levels, block
//! de-aggregation doubles the side of the token map on the image plane. After the last level every token is a
//! pixel: layer norm, linear to RGB ([`Rgb`]).
//!
//! Not stated in the paper, chosen here:
//! - The first map is 8x8 tokens, one block, so 32, 64, 128 and 256 px have 3, 4, 5 and 6 levels.
//! - [`Config::paper`]: widths 1024, 256, 64, 16 (pixel shuffle without extra weights) and depths 5, 3, 3, 3
//!   with z of 128 numbers come to 74.2M parameters at 64 px; the paper's count is about 74M. At larger sizes the
//!   width stays at 16 and a linear layer widens before the shuffle.
//! - Heads have 32 channels, as in the NesT classifier (16 where the level is 16 wide).
//! - The position embedding is learned for every block, added once at the start of a level, as in the classifier.
//! - A layer norm follows every de-aggregation and precedes every linear layer to RGB.
//! - Pictures are drawn once, at the end, but for [`Config::fast`] at 32 px, which draws at every level, as HiT and StyleGAN2
//!   do: small generators of 32 px came further with it, and those of 64 px less far (samples/rgb-levels).
//! - RGB comes from a linear layer without tanh, as in HiT and TransGAN: pictures with plain white or black
//!   areas would drive tanh into saturation, where its gradient vanishes. Values beyond -1..1 are possible, and are
//!   cut when an image is written.
//! - GELU is the tanh approximation, flax's default.
//! - Initial weights are NesT's truncated normal with standard deviation 0.02, those before a pixel shuffle equal for the
//!   four pixels it makes of a token.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Param, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, check};
use crate::nn::{
    AttentionKind, BlockDeaggregation, Builder, Deaggregation, Gelu, INIT, LayerNorm, LayerShape, Linear,
    ParamSet, TransformerLayer,
};

/// Sides of images, in pixels, that the generator can make.
const RESOLUTIONS: [usize; 4] = [32, 64, 128, 256];
/// RGB.
const CHANNELS: usize = 3;

/// The shape of a generator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the images in pixels: 32, 64, 128 or 256.
    pub resolution: usize,
    /// Length of z.
    pub z_dim: usize,
    /// Side of a block, and of the first token map, in tokens.
    pub block_size: usize,
    /// Channels of each level's tokens, first (smallest map) to last.
    pub dims: Vec<usize>,
    /// Transformer layers of each level; 0 leaves only the de-aggregation before it.
    pub depths: Vec<usize>,
    /// Channels of a head; a level narrower than this has one head.
    pub head_dim: usize,
    /// How heads share keys and values.
    pub attention: AttentionKind,
    /// How the token map doubles its side.
    pub deaggregation: Deaggregation,
    /// Which levels draw; runs from before there was a choice have the last one.
    #[serde(default)]
    pub rgb: Rgb,
}

/// Which levels draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rgb {
    /// The last, at full size.
    #[default]
    LastLevel,
    /// Each draws a picture of its own size; the smaller ones are enlarged, smoothly, and added (the output skips of StyleGAN2
    /// and HiT).
    EveryLevel,
}

impl Config {
    /// The published size, about 74M parameters at 64 px.
    pub fn paper(resolution: usize) -> Self {
        Self {
            z_dim: 128,
            ..Self::with_levels(resolution, &[1024, 256, 64, 16, 16, 16], &[5, 3, 3, 3, 3, 3], 128)
        }
    }

    /// Half the paper's first width, more width where the pixels are: trains well on one GPU.
    pub fn fast(resolution: usize) -> Self {
        let levels = Self::with_levels(resolution, &[512, 256, 128, 64, 32, 32], &[4, 3, 2, 2, 1, 0], 256);
        let rgb = if resolution == 32 { Rgb::EveryLevel } else { Rgb::LastLevel };
        Self { deaggregation: Deaggregation::PixelShuffleConv, rgb, ..levels }
    }

    /// Small enough for two CPU cores: attention where it is cheap, a convolution where pixels are many. Blocks of
    /// narrow tokens at 32 and 64 px made pictures blocky, and pixel shuffle a checkerboard that short runs did not
    /// unlearn.
    pub fn demo(resolution: usize) -> Self {
        let levels = Self::with_levels(resolution, &[128, 64, 32, 16, 16, 16], &[2, 1, 0, 0, 0, 0], 128);
        Self { deaggregation: Deaggregation::NearestConv, ..levels }
    }

    /// As many of the levels as `resolution` has; [`Config::validate`] refuses other resolutions later.
    fn with_levels(resolution: usize, dims: &[usize], depths: &[usize], z_dim: usize) -> Self {
        let block_size = 8;
        let levels = (resolution / block_size).max(1).ilog2() as usize + 1;
        Self {
            resolution,
            z_dim,
            block_size,
            dims: dims.iter().copied().take(levels).collect(),
            depths: depths.iter().copied().take(levels).collect(),
            head_dim: 32,
            attention: AttentionKind::MultiHead,
            deaggregation: Deaggregation::PixelShuffle,
            rgb: Rgb::LastLevel,
        }
    }

    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        check("resolution", RESOLUTIONS.contains(&self.resolution), || {
            format!("must be one of {RESOLUTIONS:?}, got {}", self.resolution)
        })?;
        check("z_dim", (1..=65_536).contains(&self.z_dim), || {
            format!("must be between 1 and 65536, got {}", self.z_dim)
        })?;
        check("block_size", matches!(self.block_size, 4 | 8 | 16), || {
            format!("must be 4, 8 or 16, got {}", self.block_size)
        })?;
        let levels = (self.resolution / self.block_size).ilog2() as usize + 1;
        for (field, len) in [("dims", self.dims.len()), ("depths", self.depths.len())] {
            check(field, len == levels, || {
                let Self { resolution, block_size, .. } = self;
                format!("{resolution} px from blocks of {block_size} takes {levels} levels, got {len} entries")
            })?;
        }
        check("head_dim", self.head_dim >= 1, || "must be at least 1".into())?;
        for &dim in &self.dims {
            let head = self.head_dim.min(dim);
            check("dims", (1..=8192).contains(&dim), || format!("must be between 1 and 8192, got {dim}"))?;
            check("dims", dim % head == 0, || format!("{dim} is not a multiple of head_dim {head}"))?;
        }
        check("depths", self.depths.iter().all(|&depth| depth <= 64), || "must be at most 64".into())
    }

    fn layer(&self, dim: usize) -> LayerShape {
        let heads = (dim / self.head_dim).max(1);
        LayerShape { dim, heads, attention: self.attention, gelu: Gelu::Tanh }
    }
}

/// Tokens as colours: layer norm, linear.
struct ToRgb {
    norm: LayerNorm,
    linear: Linear,
    block_size: usize,
}

impl ToRgb {
    fn new(b: &Builder, dim: usize, block_size: usize) -> Result<Self> {
        let (norm, linear) = (b.pp("norm"), b.pp("to_rgb"));
        Ok(Self {
            norm: LayerNorm::new(&norm, dim)?,
            linear: Linear::new(&linear, dim, CHANNELS, INIT)?,
            block_size,
        })
    }

    /// `[B, T, N, C]` -> `[B, H, W, 3]`.
    fn forward(&self, x: &Var) -> Result<Var> {
        let rgb = self.linear.forward(&self.norm.forward(x)?, Activation::None, false)?;
        k::widened(&k::deblockify(&rgb, self.block_size)?)
    }
}

/// A picture of twice the side, between neighbouring pixels a ramp of weights 1/3 and 2/3.
fn enlarged(picture: &Var) -> Result<Var> {
    k::avg_pool3(&k::upsample_nearest2(picture)?)
}

/// The tokens of one resolution: `blocks` blocks of `tokens` tokens.
struct Level {
    blocks: usize,
    tokens: usize,
    /// `[T, N, C]`.
    pos_embed: Param,
    layers: Vec<TransformerLayer>,
    /// The picture of a level that is not the last; `None` where such levels do not draw.
    rgb: Option<ToRgb>,
    /// Towards the next level; `None` on the last.
    up: Option<BlockDeaggregation>,
}

impl Level {
    fn new(b: &Builder, config: &Config, index: usize) -> Result<Self> {
        let (blocks, tokens) = (1 << (2 * index), config.block_size * config.block_size);
        let dim = config.dims[index];
        let layers = (0..config.depths[index])
            .map(|i| TransformerLayer::new(&b.pp("layers").pp(i), config.layer(dim), 0.0))
            .collect::<Result<_>>()?;
        let next = config.dims.get(index + 1);
        let rgb = next
            .filter(|_| config.rgb == Rgb::EveryLevel)
            .map(|_| ToRgb::new(b, dim, config.block_size))
            .transpose()?;
        let up = next
            .map(|&next| {
                BlockDeaggregation::new(&b.pp("up"), config.deaggregation, config.block_size, dim, next)
            })
            .transpose()?;
        let pos_embed = b.get(&[blocks, tokens, dim], INIT, "pos_embed")?;
        Ok(Self { blocks, tokens, pos_embed, layers, rgb, up })
    }

    /// `[B, T, N, C]` -> `[B, 4T, N, C']`, or the same shape on the last level; and the level's picture, added to that of the
    /// levels before.
    fn forward(&self, x: &Var, picture: Option<Var>) -> Result<(Var, Option<Var>)> {
        let mut x = k::add_broadcast(x, &self.pos_embed.var())?;
        for layer in &self.layers {
            x = layer.forward(&x, None)?;
        }
        let picture = match &self.rgb {
            Some(rgb) => Some(enlarged(&onto(picture, rgb.forward(&x)?)?)?),
            None => picture,
        };
        let x = match &self.up {
            Some(up) => up.forward(&x)?,
            None => x,
        };
        Ok((x, picture))
    }

    fn macs(&self) -> u64 {
        let tokens = self.blocks * self.tokens;
        let layers: u64 = self.layers.iter().map(|layer| layer.macs(self.blocks, self.tokens)).sum();
        let rgb = self.rgb.as_ref().map_or(0, |rgb| rgb.linear.macs(tokens));
        layers + rgb + self.up.as_ref().map_or(0, |up| up.macs(tokens))
    }
}

/// `rgb` on top of the picture so far, if there is one.
fn onto(picture: Option<Var>, rgb: Var) -> Result<Var> {
    match picture {
        Some(picture) => k::add(&picture, &rgb),
        None => Ok(rgb),
    }
}

/// The generator.
pub struct TransposedNest {
    config: Config,
    input: Linear,
    levels: Vec<Level>,
    rgb: ToRgb,
    params: ParamSet,
}

impl TransposedNest {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &Config, b: &Builder) -> Result<Self> {
        config.validate()?;
        let tokens = config.block_size * config.block_size;
        let (first, last) = (config.dims[0], config.dims[config.dims.len() - 1]);
        let input = Linear::new(&b.pp("input"), config.z_dim, tokens * first, INIT)?;
        let levels = (0..config.dims.len())
            .map(|index| Level::new(&b.pp("levels").pp(index), config, index))
            .collect::<Result<_>>()?;
        let rgb = ToRgb::new(b, last, config.block_size)?;
        Ok(Self { config: config.clone(), input, levels, rgb, params: b.params() })
    }

    /// z `[B, z_dim]` -> images `[B, H, W, 3]`, nominally in -1..1.
    pub fn forward(&self, z: &Var) -> Result<Var> {
        let Config { block_size, dims, .. } = &self.config;
        let (batch, _) = z.value().dims2()?;
        let x = self.input.forward(z, Activation::None, false)?;
        let mut x = k::reshape(&x, &[batch, 1, block_size * block_size, dims[0]])?;
        let mut picture = None;
        for level in &self.levels {
            (x, picture) = level.forward(&x, picture)?;
        }
        onto(picture, self.rgb.forward(&x)?)
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
        let pixels = self.config.resolution * self.config.resolution;
        let levels: u64 = self.levels.iter().map(Level::macs).sum();
        2 * (self.input.macs(1) + levels + self.rgb.linear.macs(pixels))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_paper_preset_has_the_published_size() -> Result<()> {
        let blank = Builder::blank(DType::F32, &Device::Cpu);
        let model = TransposedNest::new(&Config::paper(64), &blank)?;
        let millions = model.params().count() as f64 / 1e6;
        assert!((millions / 74.4 - 1.0).abs() < 0.01, "{millions}M");
        Ok(())
    }

    #[test]
    fn every_preset_fits_every_resolution() {
        for resolution in RESOLUTIONS {
            for preset in [Config::paper, Config::fast, Config::demo] {
                assert_eq!(preset(resolution).validate(), Ok(()), "{resolution}");
            }
        }
    }

    #[test]
    fn validation_names_the_field() {
        let bad = |change: fn(&mut Config)| {
            let mut config = Config::demo(64);
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(bad(|c| c.resolution = 48), "resolution");
        assert_eq!(bad(|c| c.resolution = 0), "resolution");
        assert_eq!(bad(|c| c.z_dim = 0), "z_dim");
        assert_eq!(bad(|c| c.block_size = 0), "block_size");
        assert_eq!(bad(|c| c.dims = vec![8]), "dims");
        assert_eq!(bad(|c| c.dims[1] = 0), "dims");
        assert_eq!(bad(|c| c.dims[1] = 33), "dims");
        assert_eq!(bad(|c| c.depths[0] = 1000), "depths");
        assert_eq!(bad(|c| c.head_dim = 0), "head_dim");
        let unknown = toml::from_str::<super::super::GeneratorConfig>("kind = \"transposed_nest\"\nz_dims = 3");
        assert!(unknown.unwrap_err().to_string().contains("z_dims"));
    }
}
