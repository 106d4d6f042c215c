//! The architectures, one a file, and the enums through which the rest of the program uses them.
//!
//! Each file names its paper, holds a `Config` with presets, and counts its own parameters and operations.

pub mod classifier;
pub mod discriminator;
mod dispatch;
pub mod nest;
pub mod sagan;
pub mod transposed_nest;
pub mod vit;

use classifier::watch;
pub use classifier::{Classifier, ClassifierConfig, FeatureMap, Features, HEAD};
pub use discriminator::ResidualDiscriminator;
pub use dispatch::{Discriminator, DiscriminatorConfig, Generator, GeneratorConfig};
pub use sagan::{Budget, SaganDiscriminator, SaganGenerator};
pub use transposed_nest::TransposedNest;

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
