//! The architectures, one a file, and the enums through which the rest of the program uses them.
//!
//! Each file names its paper, holds a `Config` with presets, and counts its own parameters and operations.

pub mod classifier;
pub mod discriminator;
pub mod nest;
pub mod transposed_nest;
pub mod vit;

use candle_core::{DType, Device, Result};
use nestgen_kernels::Var;
use serde::{Deserialize, Serialize};

use crate::nn::{Builder, ParamSet};
use crate::rng::Rng;

use classifier::watch;
pub use classifier::{Classifier, ClassifierConfig, FeatureMap, Features};
pub use discriminator::Discriminator;
pub use transposed_nest::TransposedNest;

/// The discriminator's configuration.
pub type DiscriminatorConfig = discriminator::Config;

/// A field of a model's configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct ConfigError {
    /// The field's name in the configuration.
    pub field: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

impl From<ConfigError> for candle_core::Error {
    fn from(error: ConfigError) -> Self {
        Self::Msg(error.to_string())
    }
}

/// An error about `field` unless `holds`.
fn check(
    field: &'static str,
    holds: bool,
    reason: impl FnOnce() -> String,
) -> std::result::Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { field, reason: reason() }) }
}

/// Which generator, and its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GeneratorConfig {
    /// See [`transposed_nest`].
    TransposedNest(transposed_nest::Config),
}

impl GeneratorConfig {
    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        match self {
            Self::TransposedNest(config) => config.validate(),
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::TransposedNest(config) => config.resolution,
        }
    }

    /// Length of z.
    pub fn z_dim(&self) -> usize {
        match self {
            Self::TransposedNest(config) => config.z_dim,
        }
    }
}

/// Anything that makes images from z.
pub enum Generator {
    /// See [`transposed_nest`].
    TransposedNest(TransposedNest),
}

impl Generator {
    /// A generator with initial weights; every tensor draws from its own stream of `rng`.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &GeneratorConfig, rng: &Rng, dtype: DType, device: &Device) -> Result<Self> {
        Self::build(config, &Builder::new(rng, dtype, device))
    }

    /// [`Generator::new`] with a builder of the caller's: [`Builder::blank`] for one that is loaded next.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn build(config: &GeneratorConfig, b: &Builder) -> Result<Self> {
        match config {
            GeneratorConfig::TransposedNest(config) => {
                Ok(Self::TransposedNest(TransposedNest::new(config, b)?))
            }
        }
    }

    /// z `[B, z_dim]` -> images `[B, H, W, 3]`, nominally in -1..1. `train` uses and moves the statistics of
    /// batch norm and spectral norm where the architecture has them.
    pub fn forward(&self, z: &Var, _train: bool) -> Result<Var> {
        match self {
            Self::TransposedNest(generator) => generator.forward(z),
        }
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        match self {
            Self::TransposedNest(generator) => generator.params(),
        }
    }

    /// Length of z.
    pub fn z_dim(&self) -> usize {
        match self {
            Self::TransposedNest(generator) => generator.config().z_dim,
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::TransposedNest(generator) => generator.config().resolution,
        }
    }

    /// Floating-point operations to make one image.
    pub fn flops(&self) -> u64 {
        match self {
            Self::TransposedNest(generator) => generator.flops(),
        }
    }
}
