//! The convolutional baseline of an experiment.

use super::launch::build_generator;
use super::run::RunConfig;
use crate::error::{Error, Result};
use crate::models::GeneratorConfig;
use crate::models::sagan::{self, Budget};

/// The same experiment with SAGAN's generator, as wide as makes it equal to the one there in `params` or in `flops`.
///
/// # Errors
/// A resolution that it cannot have; no width that comes near.
pub fn as_sagan(mut config: RunConfig, budget: &str) -> Result<RunConfig> {
    let generator = build_generator(&config)?;
    let (budget, target) = match budget {
        "flops" => (Budget::Flops, generator.flops()),
        _ => (Budget::Params, generator.params().count() as u64),
    };
    let shape = sagan::Config { z_dim: generator.z_dim(), ..sagan::Config::published(generator.resolution()) };
    shape.validate().map_err(|bad| Error::Usage {
        message: format!("sagan: {bad}"),
        hint: Some("choose --res 32, 64 or 128".into()),
    })?;
    config.model = GeneratorConfig::Sagan(shape.matching(budget, target)?);
    Ok(config)
}
