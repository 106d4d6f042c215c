//! Which generator and which discriminator: what every architecture can do, handed on to it.

use candle_core::{DType, Device, Result};
use nestgen_kernels::{SumOverParts, Var, widened};
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, ResidualDiscriminator, SaganDiscriminator, SaganGenerator, TransposedNest, discriminator,
    sagan, transposed_nest,
};
use crate::nn::{Builder, ParamSet};
use crate::rng::Rng;

/// Which generator, and its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GeneratorConfig {
    /// See [`transposed_nest`].
    TransposedNest(transposed_nest::Config),
    /// See [`sagan`].
    Sagan(sagan::Config),
}

impl GeneratorConfig {
    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        match self {
            Self::TransposedNest(config) => config.validate(),
            Self::Sagan(config) => config.validate(),
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::TransposedNest(config) => config.resolution,
            Self::Sagan(config) => config.resolution,
        }
    }
}

/// Anything that makes images from z.
pub enum Generator {
    /// See [`transposed_nest`].
    TransposedNest(TransposedNest),
    /// See [`sagan`].
    Sagan(SaganGenerator),
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
        Ok(match config {
            GeneratorConfig::TransposedNest(config) => Self::TransposedNest(TransposedNest::new(config, b)?),
            GeneratorConfig::Sagan(config) => Self::Sagan(SaganGenerator::new(config, b)?),
        })
    }

    /// z `[B, z_dim]` -> images `[B, H, W, 3]`, nominally in -1..1. `train` uses and moves the statistics of
    /// batch norm and spectral norm where the architecture has them.
    pub fn forward(&self, z: &Var, train: bool) -> Result<Var> {
        let z = self.params().bring(z)?;
        widened(&match self {
            Self::TransposedNest(generator) => generator.forward(&z)?,
            Self::Sagan(generator) => generator.forward(&z, train)?,
        })
    }

    /// From here on the batches of training are parts of larger ones, held by several processes: what looks at a whole
    /// batch, as batch norm does, adds up over all parts.
    pub fn share_batches(&mut self, parts: &SumOverParts) {
        match self {
            // Looks at each image alone.
            Self::TransposedNest(_) => {}
            Self::Sagan(generator) => generator.share_batches(parts),
        }
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        match self {
            Self::TransposedNest(generator) => generator.params(),
            Self::Sagan(generator) => generator.params(),
        }
    }

    /// Length of z.
    pub fn z_dim(&self) -> usize {
        match self {
            Self::TransposedNest(generator) => generator.config().z_dim,
            Self::Sagan(generator) => generator.config().z_dim,
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::TransposedNest(generator) => generator.config().resolution,
            Self::Sagan(generator) => generator.config().resolution,
        }
    }

    /// Floating-point operations to make one image.
    pub fn flops(&self) -> u64 {
        match self {
            Self::TransposedNest(generator) => generator.flops(),
            Self::Sagan(generator) => generator.flops(),
        }
    }
}

/// Which discriminator, and its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiscriminatorConfig {
    /// See [`discriminator`].
    Residual(discriminator::Config),
    /// See [`sagan`].
    Sagan(sagan::DiscriminatorConfig),
}

impl DiscriminatorConfig {
    /// Checks every field and how they fit together.
    ///
    /// # Errors
    /// The first field that is wrong, with the reason.
    pub fn validate(&self) -> std::result::Result<(), ConfigError> {
        match self {
            Self::Residual(config) => config.validate(),
            Self::Sagan(config) => config.validate(),
        }
    }

    /// Side of the images in pixels.
    pub fn resolution(&self) -> usize {
        match self {
            Self::Residual(config) => config.resolution,
            Self::Sagan(config) => config.resolution,
        }
    }
}

/// Anything that tells real images from made ones.
pub enum Discriminator {
    /// See [`discriminator`].
    Residual(ResidualDiscriminator),
    /// See [`sagan`].
    Sagan(SaganDiscriminator),
}

impl Discriminator {
    /// A discriminator with the builder's initial weights.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: &DiscriminatorConfig, b: &Builder) -> Result<Self> {
        Ok(match config {
            DiscriminatorConfig::Residual(config) => Self::Residual(ResidualDiscriminator::new(config, b)?),
            DiscriminatorConfig::Sagan(config) => Self::Sagan(SaganDiscriminator::new(config, b)?),
        })
    }

    /// Images `[B, H, W, 3]` -> logits `[B]`, positive for "real". In training, spectral norm's estimates move.
    pub fn forward(&self, images: &Var, train: bool) -> Result<Var> {
        let images = self.params().bring(images)?;
        widened(&match self {
            Self::Residual(discriminator) => discriminator.forward(&images, train)?,
            Self::Sagan(discriminator) => discriminator.forward(&images, train)?,
        })
    }

    /// How many samples of a batch it compares with one another; 1 where it judges each by itself. They lie as many
    /// images apart as there are groups.
    pub fn compared_samples(&self, batch: usize) -> usize {
        match self {
            Self::Residual(discriminator) => discriminator.compared_samples(batch),
            Self::Sagan(_) => 1,
        }
    }

    /// Its named tensors.
    pub fn params(&self) -> &ParamSet {
        match self {
            Self::Residual(discriminator) => discriminator.params(),
            Self::Sagan(discriminator) => discriminator.params(),
        }
    }

    /// Floating-point operations to judge one image.
    pub fn flops(&self) -> u64 {
        match self {
            Self::Residual(discriminator) => discriminator.flops(),
            Self::Sagan(discriminator) => discriminator.flops(),
        }
    }
}
