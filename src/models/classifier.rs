//! The classifiers behind one enum, what their forward pass returns, and timm's checkpoints.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use nestgen_kernels::{self as k, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, nest, vit};
use crate::nn::{Builder, LoadError, ParamSet};
use crate::rng::Rng;

/// Which classifier, and its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClassifierConfig {
    /// See [`nest`].
    Nest(nest::Config),
    /// See [`vit`].
    Vit(vit::Config),
}

impl ClassifierConfig {
    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        match self {
            Self::Nest(config) => config.validate(),
            Self::Vit(config) => config.validate(),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Nest(config) => config.classes,
            Self::Vit(config) => config.classes,
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::Nest(config) => config.resolution,
            Self::Vit(config) => config.resolution,
        }
    }
}

/// What a classifier computes on the way to its answer.
pub struct Features {
    /// `[B, classes]`.
    pub logits: Var,
    /// The output of each level's layers, first to last: NesT `[B, H, W, C]`, ViT `[B, 1, 1 + N, C]`.
    pub maps: Vec<FeatureMap>,
    /// The last map after the final layer norm; NesT's logits are the mean over its places, times the head.
    pub tokens: Var,
}

/// The output of a level.
pub struct FeatureMap {
    /// The activations.
    pub value: Tensor,
    /// A leaf of zeros that was added to them: its gradient is theirs. Present when the map was watched.
    pub probe: Option<Var>,
}

/// Notes `x` as a feature map; when `watched`, through a probe.
pub(super) fn watch(x: Var, watched: bool, maps: &mut Vec<FeatureMap>) -> Result<Var> {
    let probe = watched.then(|| Ok::<_, candle_core::Error>(Var::leaf(x.value().zeros_like()?))).transpose()?;
    let out = match &probe {
        Some(probe) => k::add(&x, probe)?,
        None => x.clone(),
    };
    maps.push(FeatureMap { value: x.into_value(), probe });
    Ok(out)
}

/// Anything that puts images into classes.
pub enum Classifier {
    /// See [`nest`].
    Nest(nest::Nest),
    /// See [`vit`].
    Vit(vit::Vit),
}

impl Classifier {
    /// A classifier with initial weights; every tensor draws from its own stream of `rng`.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &ClassifierConfig, rng: &Rng, dtype: DType, device: &Device) -> Result<Self> {
        let b = Builder::new(rng, dtype, device);
        Ok(match config {
            ClassifierConfig::Nest(config) => Self::Nest(nest::Nest::new(config, &b)?),
            ClassifierConfig::Vit(config) => Self::Vit(vit::Vit::new(config, &b)?),
        })
    }

    /// Normalised images `[B, H, W, 3]` -> logits `[B, classes]`. `drop` is the stream of drop-path decisions in
    /// training, `None` in evaluation.
    pub fn forward(&self, images: &Var, drop: Option<&mut Rng>) -> Result<Var> {
        Ok(self.run(images, drop, false)?.logits)
    }

    /// The evaluation pass with every level's map, each with a probe for its gradient.
    pub fn features(&self, images: &Var) -> Result<Features> {
        self.run(images, None, true)
    }

    fn run(&self, images: &Var, drop: Option<&mut Rng>, watched: bool) -> Result<Features> {
        match self {
            Self::Nest(model) => model.forward(images, drop, watched),
            Self::Vit(model) => model.forward(images, drop, watched),
        }
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        match self {
            Self::Nest(model) => model.params(),
            Self::Vit(model) => model.params(),
        }
    }

    /// Floating-point operations to classify one image.
    pub fn flops(&self) -> u64 {
        match self {
            Self::Nest(model) => model.flops(),
            Self::Vit(model) => model.flops(),
        }
    }

    /// Every tensor under timm's name and in timm's shape.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn timm_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let shape = |(name, t): (String, Tensor)| {
            // timm keeps a batch dimension on the position embedding of each level.
            let t = if is_level_embedding(&name) { t.unsqueeze(0)? } else { t };
            Ok((name, t))
        };
        self.params().torch_tensors()?.into_iter().map(shape).collect()
    }

    /// Copies values from tensors with timm's names and shapes (`nest_*_jx`, `vit_*`, `deit_*`).
    ///
    /// # Errors
    /// [`LoadError::Mismatch`] with every difference, as from another variant or number of classes.
    pub fn load_timm(&self, tensors: &BTreeMap<String, Tensor>) -> std::result::Result<(), LoadError> {
        let shape = |(name, t): (&String, &Tensor)| {
            let squeeze = is_level_embedding(name) && t.rank() == 4 && t.dim(0)? == 1;
            Ok((name.clone(), if squeeze { t.squeeze(0)? } else { t.clone() }))
        };
        let tensors: Result<_> = tensors.iter().map(shape).collect();
        self.params().load_torch(&tensors?)
    }
}

fn is_level_embedding(name: &str) -> bool {
    name.starts_with("levels.") && name.ends_with(".pos_embed")
}
