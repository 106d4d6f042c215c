//! The vision transformer (Dosovitskiy et al., arXiv 2010.11929) in DeiT's sizes (arXiv 2012.12877): the
//! baseline that NesT is compared with.
//!
//! Image -> patches and a class token -> layers in which every token sees every other -> layer norm -> linear
//! on the class token. Structure and names of parameters follow timm's `vision_transformer.py`. Differs from the
//! papers at 32 and 64 px: patches of an eighth of the side, so that there are 64 tokens, as is usual for CIFAR.

use candle_core::{Result, Tensor};
use nestgen_kernels::{self as k, Activation, Param, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Features, check, watch};
use crate::nn::{
    AttentionKind, Builder, Conv2d, DropPath, Gelu, INIT, LayerNorm, LayerShape, Linear, ParamSet,
    TransformerLayer,
};

/// The shape of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the images in pixels.
    pub resolution: usize,
    /// Side of a patch, which becomes one token, in pixels.
    pub patch_size: usize,
    /// Channels of a token.
    pub dim: usize,
    /// Number of layers.
    pub depth: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Which form of GELU.
    pub gelu: Gelu,
    /// Probability of dropping the last layer's branches in training; earlier layers drop linearly less.
    pub drop_path: f64,
    /// Number of classes.
    pub classes: usize,
}

impl Config {
    /// DeiT-T: 12 layers of 192 channels; patches of 16 px at 224 px, an eighth of the side at 32 and 64 px.
    pub fn tiny(resolution: usize, classes: usize) -> Self {
        let patch_size = if resolution >= 128 { 16 } else { resolution / 8 };
        Self { resolution, patch_size, dim: 192, depth: 12, heads: 3, gelu: Gelu::Erf, drop_path: 0.1, classes }
    }

    /// DeiT-S: 12 layers of 384 channels.
    pub fn small(resolution: usize, classes: usize) -> Self {
        Self { dim: 384, heads: 6, ..Self::tiny(resolution, classes) }
    }

    fn side(&self) -> usize {
        self.resolution / self.patch_size.max(1)
    }

    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        let Self { resolution, patch_size, dim, depth, heads, drop_path, classes, .. } = *self;
        check("resolution", (1..=1024).contains(&resolution), || {
            format!("must be between 1 and 1024, got {resolution}")
        })?;
        check("patch_size", patch_size >= 1 && resolution % patch_size == 0, || {
            format!("must divide the {resolution} px of the image, got {patch_size}")
        })?;
        check("dim", (1..=8192).contains(&dim), || format!("must be between 1 and 8192, got {dim}"))?;
        check("heads", heads >= 1 && dim % heads == 0, || format!("must divide {dim} channels, got {heads}"))?;
        check("depth", (1..=64).contains(&depth), || format!("must be between 1 and 64, got {depth}"))?;
        check("drop_path", (0.0..1.0).contains(&drop_path), || {
            format!("must be at least 0 and below 1, got {drop_path}")
        })?;
        check("classes", (1..=100_000).contains(&classes), || {
            format!("must be between 1 and 100000, got {classes}")
        })
    }
}

/// The classifier.
pub struct Vit {
    config: Config,
    patch_embed: Conv2d,
    /// `[1, 1, C]`.
    cls_token: Param,
    /// `[1, 1 + N, C]`.
    pos_embed: Param,
    layers: Vec<TransformerLayer>,
    norm: LayerNorm,
    head: Linear,
    params: ParamSet,
}

impl Vit {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &Config, b: &Builder) -> Result<Self> {
        config.validate()?;
        let Config { patch_size, dim, depth, heads, gelu, .. } = *config;
        let patch = k::Conv2d { stride: (patch_size, patch_size), padding: (0, 0) };
        let patch_embed =
            Conv2d::build(&b.pp("patch_embed.proj"), 3, dim, patch_size, patch, INIT, false, true)?;
        let tokens = config.side() * config.side();
        let shape = LayerShape { dim, heads, attention: AttentionKind::MultiHead, gelu };
        let drop = |i: usize| config.drop_path * i as f64 / (depth - 1).max(1) as f64;
        let layers = (0..depth)
            .map(|i| TransformerLayer::new(&b.pp("blocks").pp(i), shape, drop(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            patch_embed,
            cls_token: b.get(&[1, 1, dim], INIT, "cls_token")?,
            pos_embed: b.get(&[1, tokens + 1, dim], INIT, "pos_embed")?,
            layers,
            norm: LayerNorm::new(&b.pp("norm"), dim)?,
            head: Linear::new(&b.pp("head"), dim, config.classes, INIT)?,
            params: b.params(),
        })
    }

    /// Images `[B, H, W, 3]` -> logits `[B, classes]` and the maps on the way: the only one is the output of
    /// the last layer. Arguments as [`super::nest::Nest::forward`].
    pub fn forward(&self, images: &Var, mut drop: Option<&mut DropPath>, watched: bool) -> Result<Features> {
        let (dim, side) = (self.config.dim, self.config.side());
        let patches = self.patch_embed.forward(images, Activation::None, false)?;
        let batch = patches.value().dim(0)?;
        let patches = k::reshape(&patches, &[batch, 1, side * side, dim])?;
        let nothing = Var::constant(Tensor::zeros((batch, 1, 1, dim), images.dtype(), images.device())?);
        let class = k::add_broadcast(&nothing, &self.cls_token.var())?;
        let mut x = k::add_broadcast(&k::cat(&[&class, &patches], 2)?, &self.pos_embed.var())?;
        for layer in &self.layers {
            x = layer.forward(&x, drop.as_deref_mut())?;
        }
        let mut maps = Vec::new();
        x = watch(x, watched, &mut maps)?;
        let tokens = self.norm.forward(&x)?;
        let class = k::reshape(&k::narrow(&tokens, 2, 0, 1)?, &[batch, dim])?;
        let logits = self.head.forward(&class, Activation::None, false)?;
        Ok(Features { logits, maps, tokens })
    }

    /// The shape this classifier was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Floating-point operations to classify one image: twice the multiply-adds of products and convolutions.
    pub fn flops(&self) -> u64 {
        let patches = self.config.side() * self.config.side();
        let layers: u64 = self.layers.iter().map(|layer| layer.macs(1, patches + 1)).sum();
        2 * (self.patch_embed.macs(patches) + layers + self.head.macs(1))
    }
}
