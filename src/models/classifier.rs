//! The classifiers behind one enum, what their forward pass returns, and timm's checkpoints.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use nestgen_kernels::{self as k, Var};
use serde::{Deserialize, Serialize};

use super::{ConfigError, nest, vit};
use crate::nn::{Builder, DropPath, LoadError, ParamSet};
use crate::rng::Rng;

/// The tensors of the last layer, with a row for every class: the only ones whose shape is a matter of the classes.
pub const HEAD: [&str; 2] = ["head.weight", "head.bias"];

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

    /// Makes it a classifier of this many classes.
    pub fn set_classes(&mut self, classes: usize) {
        match self {
            Self::Nest(config) => config.classes = classes,
            Self::Vit(config) => config.classes = classes,
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
    /// Feature maps, first to last: what the layers of each of NesT's levels get, `[B, H, W, C]`; of a ViT one, what its last layer
    /// gives.
    pub maps: Vec<FeatureMap>,
    /// The last map after the final layer norm; NesT's logits are the mean over its places, times the head.
    pub tokens: Var,
}

/// The input of a NesT's level, or the output of a ViT's layers.
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
        Self::build(config, &Builder::new(rng, dtype, device))
    }

    /// [`Classifier::new`] with a builder of the caller's: [`Builder::blank`] for one that is loaded next.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn build(config: &ClassifierConfig, b: &Builder) -> Result<Self> {
        Ok(match config {
            ClassifierConfig::Nest(config) => Self::Nest(nest::Nest::new(config, b)?),
            ClassifierConfig::Vit(config) => Self::Vit(vit::Vit::new(config, b)?),
        })
    }

    /// Normalised images `[B, H, W, 3]` -> logits `[B, classes]`. `drop` has the drop-path decisions of
    /// training, `None` in evaluation.
    pub fn forward(&self, images: &Var, drop: Option<&mut DropPath>) -> Result<Var> {
        Ok(self.run(images, drop, false)?.logits)
    }

    /// The evaluation pass with every level's map, each with a probe for its gradient.
    pub fn features(&self, images: &Var) -> Result<Features> {
        self.run(images, None, true)
    }

    /// The evaluation pass up to the final layer norm: NesT `[B, H, W, C]`, ViT `[B, 1, 1 + N, C]`.
    pub fn tokens(&self, images: &Var) -> Result<Var> {
        Ok(self.run(images, None, false)?.tokens)
    }

    fn run(&self, images: &Var, drop: Option<&mut DropPath>, watched: bool) -> Result<Features> {
        let images = self.params().bring(images)?;
        let found = match self {
            Self::Nest(model) => model.forward(&images, drop, watched)?,
            Self::Vit(model) => model.forward(&images, drop, watched)?,
        };
        Ok(Features { logits: k::widened(&found.logits)?, tokens: k::widened(&found.tokens)?, ..found })
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

    /// Every tensor under timm's name, in timm's shape and order.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn timm_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let convert = |(name, t): (String, Tensor)| {
            let t = match self.heads_of_projection(&name) {
                Some(heads) => swap_columns(&t, heads)?,
                None if is_level_embedding(&name) => t.unsqueeze(0)?,
                None => t,
            };
            Ok((name, t))
        };
        self.params().torch_tensors()?.into_iter().map(convert).collect()
    }

    /// Copies values from tensors with timm's names, shapes and order (`nest_*`, `vit_*`, `deit_*`).
    ///
    /// # Errors
    /// [`LoadError::Mismatch`] with every difference, as from another variant or number of classes.
    pub fn load_timm(&self, tensors: &BTreeMap<String, Tensor>) -> std::result::Result<(), LoadError> {
        let convert = |(name, t): (&String, &Tensor)| {
            let t = match self.heads_of_projection(name) {
                Some(heads) if t.rank() == 2 && t.dim(1)? % heads == 0 => swap_columns(t, t.dim(1)? / heads)?,
                None if is_level_embedding(name) && t.rank() == 4 && t.dim(0)? == 1 => t.squeeze(0)?,
                _ => t.clone(),
            };
            Ok((name.clone(), t))
        };
        let tensors: Result<_> = tensors.iter().map(convert).collect();
        self.params().load_torch(&tensors?)
    }

    /// Heads of the NesT level whose output projection is called `name`. timm's NesT joins heads channel by
    /// channel, not head by head, so the columns of that weight stand in another order.
    fn heads_of_projection(&self, name: &str) -> Option<usize> {
        let Self::Nest(model) = self else { return None };
        let (level, rest) = name.strip_prefix("levels.")?.split_once('.')?;
        let heads = *model.config().heads.get(level.parse::<usize>().ok()?)?;
        rest.ends_with(".attn.proj.weight").then_some(heads)
    }
}

/// `[rows, a b]` -> `[rows, b a]`.
fn swap_columns(t: &Tensor, a: usize) -> Result<Tensor> {
    let (rows, columns) = t.dims2()?;
    t.reshape((rows, a, columns / a))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))
}

fn is_level_embedding(name: &str) -> bool {
    name.starts_with("levels.") && name.ends_with(".pos_embed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millions(config: ClassifierConfig) -> f64 {
        let model = Classifier::build(&config, &Builder::blank(DType::F32, &Device::Cpu)).unwrap();
        (model.params().count() as f64 / 1e4).round() / 1e2
    }

    /// The counts of the authors' code.
    #[test]
    fn presets_have_the_published_sizes() {
        use nest::Config;
        let imagenet = [Config::imagenet_tiny, Config::imagenet_small, Config::imagenet_base];
        assert_eq!(
            imagenet.map(|preset| millions(ClassifierConfig::Nest(preset(1000)))),
            [17.06, 38.35, 67.72]
        );
        let cifar = [Config::tiny, Config::small, Config::base];
        assert_eq!(cifar.map(|preset| millions(ClassifierConfig::Nest(preset(32, 10)))), [6.01, 22.85, 89.05]);
    }

    /// DeiT's published 5.7M and 22.1M at 224 px with 1000 classes.
    #[test]
    fn vit_presets_have_the_published_sizes() {
        let vit = [vit::Config::tiny, vit::Config::small];
        assert_eq!(vit.map(|preset| millions(ClassifierConfig::Vit(preset(224, 1000)))), [5.72, 22.05]);
    }

    #[test]
    fn validation_names_the_field() {
        let good = nest::Config::tiny(64, 10);
        assert_eq!(good.validate(), Ok(()));
        let bad = |change: fn(&mut nest::Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(bad(|c| c.resolution = 0), "resolution");
        assert_eq!(bad(|c| c.patch_size = 3), "patch_size");
        assert_eq!(bad(|c| c.dims = vec![]), "dims");
        assert_eq!(bad(|c| c.resolution = 36), "dims");
        assert_eq!(bad(|c| c.depths = vec![1]), "depths");
        assert_eq!(bad(|c| c.heads[2] = 5), "heads");
        assert_eq!(bad(|c| c.drop_path = 1.0), "drop_path");
        assert_eq!(bad(|c| c.classes = 0), "classes");
        let error = serde_json::from_str::<ClassifierConfig>(r#"{"kind": "vit", "widht": 3}"#).unwrap_err();
        assert!(error.to_string().contains("widht"), "{error}");
    }
}
