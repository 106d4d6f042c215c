//! One classification experiment, complete: which network, on which images, trained how; and from there to a run or
//! to a trained classifier.

mod data;
mod launch;
mod model;
mod weights;

pub use data::{ClassData, ClassDataConfig, Tested};
pub use launch::{Launch, Start, launch, refuse_misfits};
pub use model::{Trained, TrainedOn, model_names, model_preset, newest_model, read_timm, read_trained};
pub use weights::Weights;

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::idle::in_classify_run;
use super::load::{of_other_kind, parse_as, resolve};
use super::overrides::Override;
use super::run::RunConfig;
use crate::error::{Error, Result};
use crate::models::ClassifierConfig;
use crate::train::classify::settings::ClassifyConfig;

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRunConfig {
    /// The classifier.
    pub model: ClassifierConfig,
    /// The images.
    #[serde(default)]
    pub data: ClassDataConfig,
    /// The training.
    #[serde(default)]
    pub train: ClassifyConfig,
}

/// Epochs of warm-up of a training of so many: a sixth, five at most.
pub fn warm_up(epochs: u32) -> f64 {
    (f64::from(epochs) / 6.0).min(5.0)
}

impl ClassifyRunConfig {
    /// The recipe of the paper for a model: pad and crop below 128 px, random parts of the image from there on.
    pub fn of_model(model: ClassifierConfig) -> Self {
        let mut train = ClassifyConfig::default();
        if model.resolution() >= 128 {
            train.augment.crop_padding = 0;
            train.augment.crop_area = 0.05;
        } else {
            // Of 32 px, 36x36.
            train.augment.crop_padding = model.resolution() / 16;
        }
        Self { model, data: ClassDataConfig::default(), train }
    }

    /// Overrides and validates this configuration; `place` is where it comes from, for messages.
    ///
    /// # Errors
    /// [`Error::Config`] names the override, the key, and near names for unknown ones.
    pub fn with(&self, place: &str, overrides: &[Override]) -> Result<Self> {
        with_own_hint(resolve(place, &self.to_toml(), overrides, Self::validate, in_classify_run))
    }

    /// Reads a file, overrides and validates.
    ///
    /// # Errors
    /// As [`ClassifyRunConfig::with`].
    pub fn read(path: &Path, overrides: &[Override]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        if toml::from_str::<RunConfig>(&text).is_ok() {
            return Err(of_other_kind(&path.display().to_string(), "a generator", "nestgen train"));
        }
        with_own_hint(resolve(&path.display().to_string(), &text, overrides, Self::validate, in_classify_run))
    }

    /// Reads a complete configuration back, as saved beside a run or in a model.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(place: &str, text: &str) -> Result<Self> {
        with_own_hint(parse_as(place, text))
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The dotted key of the first bad setting, and what is wrong with it.
    pub fn validate(&self) -> std::result::Result<(), (String, String)> {
        self.model.validate().map_err(|bad| (format!("model.{}", bad.field), bad.reason))?;
        self.data.validate().map_err(|(key, reason)| (format!("data.{key}"), reason))?;
        self.train.validate().map_err(|(key, reason)| (format!("train.{key}"), reason))
    }

    /// The configuration as a complete file: every setting, defaults included.
    pub fn to_toml(&self) -> String {
        // Only maps with keys that are not text can fail, and there are none.
        toml::to_string(self).unwrap_or_default()
    }
}

/// Of a bad setting without a better hint, where to see the settings: those of a generator are others.
fn with_own_hint<T>(outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Config { place, key, reason, hint: None } => {
            let hint = Some("`nestgen classify train -n` prints every setting with its value".into());
            Error::Config { place, key, reason, hint }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_valid_recipe_that_reads_back() {
        for name in model_names() {
            for res in [32, 64, 224] {
                let config = ClassifyRunConfig::of_model(model_preset(name, res, 10).unwrap());
                assert_eq!(config.validate(), Ok(()), "{name} at {res} px");
                assert_eq!(ClassifyRunConfig::parse("x", &config.to_toml()).unwrap(), config);
            }
        }
    }

    #[test]
    fn small_images_are_padded_and_of_large_ones_parts_shown() {
        for (res, padding, area) in [(32, 2, 1.0), (64, 4, 1.0), (224, 0, 0.05)] {
            let train = ClassifyRunConfig::of_model(model_preset("nest-t", res, 10).unwrap()).train;
            assert_eq!((train.augment.crop_padding, train.augment.crop_area), (padding, area), "{res} px");
        }
    }

    #[test]
    fn overrides_are_checked_and_blamed() {
        let base = ClassifyRunConfig::of_model(model_preset("nest-t", 32, 10).unwrap());
        let set = |text: &str| base.with("--model nest-t", &[Override::parse(text).unwrap()]);
        assert_eq!(set("train.epochs=3").unwrap().train.epochs, 3);
        assert_eq!(set("train.epohcs=3").unwrap_err().hint().as_deref(), Some("did you mean `train.epochs`?"));
        let error = set("data.fraction=2").unwrap_err();
        assert!(error.to_string().starts_with("--set: `data.fraction`"), "{error}");
    }

    #[test]
    fn the_files_in_configs_are_what_the_program_would_choose() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/classify");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let config = ClassifyRunConfig::read(&path, &[]).unwrap();
            assert_eq!(config.validate(), Ok(()), "{}", path.display());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                ["Purpose:", "Cost:", "Expected:"].iter().all(|word| text.contains(word)),
                "{}",
                path.display()
            );
            count += 1;
        }
        assert!(count > 0);
    }
}
