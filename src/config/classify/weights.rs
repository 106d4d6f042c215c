//! The weights that a new classifier begins with: those of another one, from its training state or a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::ClassifyRunConfig;
use super::launch::load_state;
use super::model::timm_normalisation;
use crate::error::{Error, Result};
use crate::models::{Classifier, ClassifierConfig, HEAD};
use crate::nn::LoadError;
use crate::train::classify::model_metadata;
use crate::train::folder::settings_name;
use crate::train::state::{FORMAT, SavedState};
use crate::train::tensors;

/// Weights of a classifier, and what is known of them.
pub struct Weights {
    /// The state or file.
    path: PathBuf,
    /// Where the tensors are: a file of the state, or the file itself.
    file: PathBuf,
    /// The configuration that they were trained under; of timm's files none.
    config: Option<String>,
    /// Class names in label order; empty where they are not told.
    class_names: Vec<String>,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads a training state, of which the averaged weights are taken where it has them, or a file: ours, or one of timm's.
    ///
    /// # Errors
    /// When it is damaged, or holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let (metadata, tensors) = tensors::read(path)?;
            if metadata.get("format").map(String::as_str) == Some(FORMAT) {
                return Err(Error::usage(
                    format!("`{}` is a generator's snapshot", path.display()),
                    "name a run, state or file of a classifier; a generator begins with a state: nestgen train --transfer",
                ));
            }
            let (config, class_names) =
                model_metadata(&metadata).map(|(config, names)| (config.to_owned(), names)).unzip();
            return Ok(Self {
                path: path.into(),
                file: path.into(),
                config,
                class_names: class_names.unwrap_or_default(),
                tensors: tensors.into_iter().collect(),
            });
        }
        let SavedState { position, config, mut tensors } = load_state(path)?;
        let name = if tensors.contains_key(AVERAGED) { AVERAGED } else { "classifier" };
        Ok(Self {
            path: path.into(),
            file: path.join(format!("{name}.safetensors")),
            config: Some(config),
            class_names: position.class_names,
            tensors: tensors.remove(name).unwrap_or_default().into_iter().collect(),
        })
    }

    /// Where they lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Their place with the beginning of their SHA-256: a run goes on, and others lie there then.
    ///
    /// # Errors
    /// When the file cannot be read again.
    pub fn identity(&self) -> Result<String> {
        let sha256 = tensors::file_sha256(&self.file).map_err(Error::io("read", &self.file))?;
        Ok(format!("{} ({})", self.path.display(), sha256.get(..8).unwrap_or(&sha256)))
    }

    /// What the settings that they were trained under are called.
    pub fn name(&self) -> String {
        let of_run = self.path.parent().and_then(settings_name);
        of_run.unwrap_or_else(|| self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// The configuration that they were trained under.
    ///
    /// # Errors
    /// Where they do not tell, as timm's.
    pub fn config(&self) -> Result<ClassifyRunConfig> {
        match &self.config {
            Some(text) => ClassifyRunConfig::parse(&self.path.display().to_string(), text),
            None => Err(Error::Usage {
                message: format!("`{}` does not say which classifier its weights are of", self.path.display()),
                hint: Some("say it with --model, and with --res for which images".into()),
            }),
        }
    }

    /// The recipe of a model; images are normalised as timm's weights are used to it, if they are timm's.
    pub fn recipe(&self, model: ClassifierConfig) -> ClassifyRunConfig {
        let mut recipe = ClassifyRunConfig::of_model(model);
        if let Some([mean, std]) = timm_normalisation(&recipe.model).filter(|_| self.config.is_none()) {
            (recipe.data.mean, recipe.data.std) = (mean, std);
        }
        recipe
    }

    /// Gives them to a classifier of these classes, and says so. The head, a row for every class, is taken over where the names of
    /// the classes are the same: each class its own row. Else it stays as it is: rows of other classes would be no better than
    /// random ones.
    ///
    /// # Errors
    /// When the rest does not fit, with every difference.
    pub fn give(&self, classifier: &Classifier, class_names: &[String]) -> Result<String> {
        let rows = rows(&self.class_names, class_names);
        let mut tensors = self.tensors.clone();
        for param in classifier.params().params().iter().filter(|param| HEAD.contains(&param.name())) {
            let theirs =
                tensors.get(param.name()).filter(|theirs| theirs.dims().first() == Some(&class_names.len()));
            let value = match (&rows, theirs) {
                (Ok(rows), Some(theirs)) => {
                    theirs.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu)?, 0)?
                }
                // What does not fit its own classes is for the loading to name.
                (Ok(_), None) => continue,
                (Err(_), _) => param.value(),
            };
            tensors.insert(param.name().to_owned(), value);
        }
        let loaded = if self.path == self.file {
            classifier.load_timm(&tensors)
        } else {
            classifier.params().load(&tensors)
        };
        loaded.map_err(|error| match error {
            LoadError::Tensor(error) => Error::Tensor(error),
            LoadError::Mismatch(_) => Error::Checkpoint {
                path: self.file.clone(),
                reason: error.to_string(),
                hint: Some(
                    "weights only fit a classifier of the same shape: leave --model, --config and model.… out, or name theirs".into(),
                ),
            },
        })?;
        let head = match rows {
            Err(why) => format!("the head begins anew: {why}"),
            Ok(rows) if rows.is_sorted() => format!("the head is theirs: the same {} classes", rows.len()),
            Ok(_) => "the head's rows go by the classes' names, which have another order here".into(),
        };
        Ok(format!("weights of {}; {head}", self.path.display()))
    }
}

/// The averaged weights of a state.
const AVERAGED: &str = "classifier-ema";

/// The place among the classes `before` of each of the classes `now`, if they have the same names; else why there are none.
fn rows(before: &[String], now: &[String]) -> std::result::Result<Vec<u32>, String> {
    if before.is_empty() {
        return Err("they do not name their classes".into());
    }
    if before.len() != now.len() {
        return Err(format!("{} classes there, {} here", before.len(), now.len()));
    }
    let place = |name: &String| {
        let place = before.iter().position(|other| other == name);
        place.map(|place| place as u32).ok_or_else(|| format!("no class there is called `{name}`"))
    };
    now.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn rows_of_a_head_go_by_the_names_of_the_classes() {
        let of = |before: &str, now: &str| rows(&names(before), &names(now));
        assert_eq!(of("cat dog eel", "cat dog eel").unwrap(), [0, 1, 2]);
        assert_eq!(of("cat dog eel", "eel cat dog").unwrap(), [2, 0, 1]);
        for (before, now, says) in [
            ("", "cat dog", "do not name"),
            ("cat dog", "cat dog eel", "2 classes there, 3 here"),
            ("cat dog eel", "cat dog", "3 classes there, 2 here"),
            ("cat dog", "cat eel", "`eel`"),
        ] {
            let why = of(before, now).unwrap_err();
            assert!(why.contains(says), "{before} {now}: {why}");
        }
    }
}
