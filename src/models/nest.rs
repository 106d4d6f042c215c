//! The NesT classifier (Zhang et al., "Nested Hierarchical Transformer", arXiv 2105.12723).
//!
//! Image -> patches -> levels -> layer norm -> mean -> linear. The first level cuts the map of patches into
//! many small blocks; each block aggregation quarters their number, until one block holds the whole map.
//! Structure and names of parameters follow timm's `nest.py`, so that its weights load.
//!
//! The paper's table A1 lists depths in reverse and other heads; its authors confirmed that their code, which
//! the presets here follow, is right.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Param, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Features, check, watch};
use crate::nn::{
    Aggregation, AttentionKind, BlockAggregation, Builder, Conv2d, DropPath, Gelu, INIT, LayerNorm, LayerShape,
    Linear, Padding, ParamSet, TransformerLayer,
};

/// The shape of a NesT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the images in pixels.
    pub resolution: usize,
    /// Side of a patch, which becomes one token, in pixels.
    pub patch_size: usize,
    /// Channels of each level's tokens, first (largest map) to last.
    pub dims: Vec<usize>,
    /// Transformer layers of each level.
    pub depths: Vec<usize>,
    /// Heads of each level.
    pub heads: Vec<usize>,
    /// How heads share keys and values.
    pub attention: AttentionKind,
    /// How the token map halves its side.
    pub aggregation: Aggregation,
    /// Where aggregation's pool puts its padding.
    pub padding: Padding,
    /// Which form of GELU.
    pub gelu: Gelu,
    /// Probability of dropping the last layer's branches in training; earlier layers drop linearly less.
    pub drop_path: f64,
    /// Number of classes.
    pub classes: usize,
}

impl Config {
    /// NesT-T for ImageNet, 224 px: 17.06M parameters with 1000 classes.
    pub fn imagenet_tiny(classes: usize) -> Self {
        Self::imagenet(96, &[2, 2, 8], &[3, 6, 12], 0.2, classes)
    }

    /// NesT-S for ImageNet, 224 px: 38.35M parameters with 1000 classes.
    pub fn imagenet_small(classes: usize) -> Self {
        Self::imagenet(96, &[2, 2, 20], &[3, 6, 12], 0.3, classes)
    }

    /// NesT-B for ImageNet, 224 px: 67.72M parameters with 1000 classes.
    pub fn imagenet_base(classes: usize) -> Self {
        Self::imagenet(128, &[2, 2, 20], &[4, 8, 16], 0.5, classes)
    }

    /// NesT-T for CIFAR at 32 px (6.01M parameters with 10 classes), or with twice the patch at 64 px.
    pub fn tiny(resolution: usize, classes: usize) -> Self {
        Self::cifar(resolution, 192, 3, classes)
    }

    /// NesT-S for CIFAR at 32 px (22.85M parameters with 10 classes), or with twice the patch at 64 px.
    pub fn small(resolution: usize, classes: usize) -> Self {
        Self::cifar(resolution, 384, 6, classes)
    }

    /// NesT-B for CIFAR at 32 px (89.05M parameters with 10 classes), or with twice the patch at 64 px.
    pub fn base(resolution: usize, classes: usize) -> Self {
        Self::cifar(resolution, 768, 12, classes)
    }

    fn imagenet(dim: usize, depths: &[usize], heads: &[usize], drop_path: f64, classes: usize) -> Self {
        Self {
            resolution: 224,
            patch_size: 4,
            dims: vec![dim, 2 * dim, 4 * dim],
            depths: depths.to_vec(),
            heads: heads.to_vec(),
            attention: AttentionKind::MultiHead,
            aggregation: Aggregation::ConvPool,
            padding: Padding::Same,
            gelu: Gelu::Tanh,
            drop_path,
            classes,
        }
    }

    fn cifar(resolution: usize, dim: usize, heads: usize, classes: usize) -> Self {
        Self {
            resolution,
            patch_size: resolution / 32,
            dims: vec![dim; 4],
            depths: vec![3; 4],
            heads: vec![heads; 4],
            attention: AttentionKind::MultiQuery,
            ..Self::imagenet(dim, &[], &[], 0.1, classes)
        }
    }

    /// Side of the first level's token map.
    fn side(&self) -> usize {
        self.resolution / self.patch_size.max(1)
    }

    /// Side of a block in tokens, the same on every level.
    fn block_size(&self) -> usize {
        self.side() >> (self.dims.len() - 1)
    }

    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        let Self { resolution, patch_size, .. } = *self;
        check("resolution", (1..=1024).contains(&resolution), || {
            format!("must be between 1 and 1024, got {resolution}")
        })?;
        check("patch_size", patch_size >= 1 && resolution % patch_size == 0, || {
            format!("must divide the {resolution} px of the image, got {patch_size}")
        })?;
        let levels = self.dims.len();
        check("dims", (1..=8).contains(&levels), || format!("must list 1 to 8 levels, got {levels}"))?;
        for (field, len) in [("depths", self.depths.len()), ("heads", self.heads.len())] {
            check(field, len == levels, || format!("must have {levels} entries as `dims` has, got {len}"))?;
        }
        let (side, blocks) = (self.side(), 1 << (levels - 1));
        check("dims", side % blocks == 0, || {
            format!("{levels} levels need a token map divisible by {blocks}, it is {side}x{side}")
        })?;
        for (&dim, &heads) in self.dims.iter().zip(&self.heads) {
            check("dims", (1..=8192).contains(&dim), || format!("must be between 1 and 8192, got {dim}"))?;
            check("heads", heads >= 1 && dim % heads == 0, || {
                format!("must divide {dim} channels, got {heads}")
            })?;
        }
        check("depths", self.depths.iter().all(|&depth| depth <= 64), || "must be at most 64".into())?;
        check("drop_path", (0.0..1.0).contains(&self.drop_path), || {
            format!("must be at least 0 and below 1, got {}", self.drop_path)
        })?;
        check("classes", (1..=100_000).contains(&self.classes), || {
            format!("must be between 1 and 100000, got {}", self.classes)
        })
    }

    /// Drop-path probability of layer `index` counted over all levels.
    fn drop(&self, index: usize) -> f64 {
        let last = self.depths.iter().sum::<usize>().saturating_sub(1).max(1);
        self.drop_path * index as f64 / last as f64
    }
}

struct Level {
    blocks: usize,
    block_size: usize,
    /// From the level before; `None` on the first.
    pool: Option<BlockAggregation>,
    /// `[T, N, C]`.
    pos_embed: Param,
    layers: Vec<TransformerLayer>,
}

impl Level {
    fn new(b: &Builder, config: &Config, index: usize) -> Result<Self> {
        let (dim, block_size) = (config.dims[index], config.block_size());
        let blocks = 1 << (2 * (config.dims.len() - 1 - index));
        let pool = match index.checked_sub(1).map(|before| config.dims[before]) {
            Some(inputs) => {
                let pool = b.pp("pool");
                Some(BlockAggregation::new(&pool, config.aggregation, config.padding, inputs, dim)?)
            }
            None => None,
        };
        let shape =
            LayerShape { dim, heads: config.heads[index], attention: config.attention, gelu: config.gelu };
        let before: usize = config.depths[..index].iter().sum();
        let layers = (0..config.depths[index])
            .map(|i| TransformerLayer::new(&b.pp("transformer_encoder").pp(i), shape, config.drop(before + i)))
            .collect::<Result<_>>()?;
        let pos_embed = b.get(&[blocks, block_size * block_size, dim], INIT, "pos_embed")?;
        Ok(Self { blocks, block_size, pool, pos_embed, layers })
    }

    /// What the level's layers get, on the image plane: `[B, H, W, C]` -> `[B, H', W', C']`.
    fn aggregate(&self, x: Var) -> Result<Var> {
        self.pool.as_ref().map_or(Ok(x.clone()), |pool| pool.forward(&x))
    }

    /// `[B, H', W', C']`, aggregated, through the layers.
    fn forward(&self, x: &Var, mut drop: Option<&mut DropPath>) -> Result<Var> {
        let mut x = k::add_broadcast(&k::blockify(x, self.block_size)?, &self.pos_embed.var())?;
        for layer in &self.layers {
            x = layer.forward(&x, drop.as_deref_mut())?;
        }
        k::deblockify(&x, self.block_size)
    }

    fn macs(&self) -> u64 {
        let tokens = self.block_size * self.block_size;
        let layers: u64 = self.layers.iter().map(|layer| layer.macs(self.blocks, tokens)).sum();
        layers + self.pool.as_ref().map_or(0, |pool| pool.macs(4 * self.blocks * tokens))
    }
}

/// The classifier.
pub struct Nest {
    config: Config,
    patch_embed: Conv2d,
    levels: Vec<Level>,
    norm: LayerNorm,
    head: Linear,
    params: ParamSet,
}

impl Nest {
    /// Makes the parameters.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &Config, b: &Builder) -> Result<Self> {
        config.validate()?;
        let (first, last) = (config.dims[0], config.dims[config.dims.len() - 1]);
        let patch = k::Conv2d { stride: (config.patch_size, config.patch_size), padding: (0, 0) };
        let embed = b.pp("patch_embed.proj");
        let patch_embed = Conv2d::build(&embed, 3, first, config.patch_size, patch, INIT, false, true)?;
        let levels = (0..config.dims.len())
            .map(|index| Level::new(&b.pp("levels").pp(index), config, index))
            .collect::<Result<_>>()?;
        let norm = LayerNorm::new(&b.pp("norm"), last)?;
        let head = Linear::new(&b.pp("head"), last, config.classes, INIT)?;
        Ok(Self { config: config.clone(), patch_embed, levels, norm, head, params: b.params() })
    }

    /// Images `[B, H, W, 3]` -> logits `[B, classes]` and the maps on the way. `drop` is the stream of
    /// drop-path decisions in training; with `watched`, each map can be asked for its gradient.
    pub fn forward(&self, images: &Var, mut drop: Option<&mut DropPath>, watched: bool) -> Result<Features> {
        let mut x = self.patch_embed.forward(images, Activation::None, false)?;
        let mut maps = Vec::new();
        for level in &self.levels {
            x = watch(level.aggregate(x)?, watched, &mut maps)?;
            x = level.forward(&x, drop.as_deref_mut())?;
        }
        let tokens = self.norm.forward(&x)?;
        let logits = self.head.forward(&k::mean_middle(&tokens)?, Activation::None, false)?;
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
        let levels: u64 = self.levels.iter().map(Level::macs).sum();
        let side = self.config.side();
        2 * (self.patch_embed.macs(side * side) + levels + self.head.macs(1))
    }
}
