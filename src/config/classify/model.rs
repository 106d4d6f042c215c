//! Classifiers by name, and trained ones from their files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::ClassifyRunConfig;
use crate::config::overrides::nearest;
use crate::data::{IMAGENET, ImageData};
use crate::error::{Error, Result};
use crate::models::{Classifier, ClassifierConfig, nest, vit};
use crate::nn::{Aggregation, AttentionKind, Builder, LoadError};
use crate::train::classify::{DATA_DIGEST, MODEL_BEST, PACKED_FROM, TEST_DIGEST, model_metadata};
use crate::train::folder::{LATEST, meant};
use crate::train::tensors::{self, Metadata};

const NAMES: [&str; 7] = ["nest-xs", "nest-t", "nest-s", "nest-b", "vit-xs", "vit-t", "vit-s"];

/// The names that [`model_preset`] knows.
pub fn model_names() -> [&'static str; 7] {
    NAMES
}

/// The classifier called `name` for images of `res` px. `nest-t`, `-s` and `-b` are those of the paper, for CIFAR at
/// 32 and 64 px and for ImageNet at 224 px; `vit-t` and `-s` are DeiT's; `nest-xs` and `vit-xs` (0.8M parameters
/// each) train on a CPU. `nest-t:conv`, `:pool` and `:none` have another block aggregation.
///
/// # Errors
/// A name that is none, with the nearest one; a resolution that the model was not made for.
pub fn model_preset(name: &str, res: usize, classes: usize) -> Result<ClassifierConfig> {
    let usage = |message: String, hint: String| Error::Usage { message, hint: Some(hint) };
    if !matches!(res, 32 | 64 | 224) {
        return Err(usage(
            format!("--res {res}: classifiers by name are for 32, 64 or 224 px"),
            "images of any size are cropped and resized to --res; other shapes come from --config".into(),
        ));
    }
    let (base, aggregation) = match name.split_once(':') {
        Some((base, "conv_pool")) => (base, Aggregation::ConvPool),
        Some((base, "conv")) => (base, Aggregation::Conv),
        Some((base, "pool")) => (base, Aggregation::Pool),
        Some((base, "none")) => (base, Aggregation::None),
        Some((_, other)) => {
            return Err(usage(
                format!("`{name}`: there is no block aggregation `{other}`"),
                "aggregations: conv_pool, conv, pool, none".into(),
            ));
        }
        None => (name, Aggregation::ConvPool),
    };
    let nest = |config: nest::Config| ClassifierConfig::Nest(nest::Config { aggregation, ..config });
    let large = res == 224;
    Ok(match base {
        "nest-t" if large => nest(nest::Config::imagenet_tiny(classes)),
        "nest-s" if large => nest(nest::Config::imagenet_small(classes)),
        "nest-b" if large => nest(nest::Config::imagenet_base(classes)),
        "nest-t" => nest(nest::Config::tiny(res, classes)),
        "nest-s" => nest(nest::Config::small(res, classes)),
        "nest-b" => nest(nest::Config::base(res, classes)),
        "nest-xs" => nest(reduced_nest(res, classes)),
        "vit-t" | "vit-s" | "vit-xs" if aggregation != Aggregation::ConvPool => {
            return Err(usage(format!("`{name}`: a ViT has no block aggregation"), format!("write `{base}`")));
        }
        "vit-t" => ClassifierConfig::Vit(vit::Config::tiny(res, classes)),
        "vit-s" => ClassifierConfig::Vit(vit::Config::small(res, classes)),
        "vit-xs" => {
            let shape = vit::Config::tiny(res, classes);
            ClassifierConfig::Vit(vit::Config { dim: 96, depth: 7, heads: 3, drop_path: 0.05, ..shape })
        }
        _ => {
            let hint = match nearest(base, NAMES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("models: {}", NAMES.join(", ")),
            };
            return Err(usage(format!("there is no classifier `{base}`"), hint));
        }
    })
}

/// 16x16 tokens at 32 and 64 px (32x32 at 224 px), three levels of two layers, 96 channels.
fn reduced_nest(res: usize, classes: usize) -> nest::Config {
    nest::Config {
        // At 224 px blocks of 8x8 tokens: those of 7x7, of patches of 8, have no quarters for GradCAT.
        patch_size: if res == 224 { 7 } else { res / 16 },
        dims: vec![96; 3],
        depths: vec![2; 3],
        heads: vec![3; 3],
        attention: AttentionKind::MultiQuery,
        drop_path: 0.05,
        resolution: res,
        ..nest::Config::imagenet_tiny(classes)
    }
}

/// A trained classifier.
pub struct Trained {
    /// The network with its weights.
    pub classifier: Classifier,
    /// The configuration it was trained with.
    pub config: ClassifyRunConfig,
    /// Class names in label order; empty if the file does not tell.
    pub class_names: Vec<String>,
    /// The images it was trained on; `None` if the file does not tell.
    pub trained_on: Option<TrainedOn>,
}

/// Which images a classifier was trained on.
#[derive(Clone, Debug)]
pub struct TrainedOn {
    digest: String,
    /// The digest of the set that their pack was made of.
    packed_from: Option<String>,
    /// Whether the images it was tested on were held out of the same set: not so where the set has a split for them.
    pub held_out: bool,
}

impl TrainedOn {
    fn of(metadata: &Metadata) -> Option<Self> {
        let digest = metadata.get(DATA_DIGEST)?.clone();
        // Files of before the test images were recorded do not tell: most sets have no splits.
        let held_out = metadata.get(TEST_DIGEST).is_none_or(|tested| *tested == digest);
        Some(Self { packed_from: metadata.get(PACKED_FROM).cloned(), digest, held_out })
    }

    /// Whether these are the images, in their order.
    pub fn is(&self, images: &ImageData) -> bool {
        images.digest() == self.digest
    }

    /// Whether these are the images, or some of them, in a pack or out of one.
    pub fn is_packed_in_or_from(&self, images: &ImageData) -> bool {
        let theirs = [Some(images.digest()), images.packed_from()];
        let ours = [Some(self.digest.as_str()), self.packed_from.as_deref()];
        ours.iter().flatten().any(|digest| theirs.contains(&Some(*digest)))
    }
}

/// Mean and deviation by which images are normalised for timm's weights of a NesT (`nest.py`, `_cfg`); of a ViT by 0.5, as ours
/// are.
pub(super) fn timm_normalisation(model: &ClassifierConfig) -> Option<[[f32; 3]; 2]> {
    match model {
        ClassifierConfig::Nest(_) => Some(IMAGENET),
        ClassifierConfig::Vit(_) => None,
    }
}

/// Reads a classifier that `nestgen classify train` wrote.
///
/// # Errors
/// When the file is damaged, or is not one of ours.
pub fn read_trained(path: &Path) -> Result<Trained> {
    let (metadata, tensors) = tensors::read(path)?;
    let Some((config, class_names)) = model_metadata(&metadata) else {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            reason: "it holds tensors, but not a classifier of ours".into(),
            hint: Some(
                "give a model_best.safetensors of a run, or say which timm model it is with --model".into(),
            ),
        });
    };
    let config = ClassifyRunConfig::parse(&path.display().to_string(), config)?;
    let builder = Builder::blank_for(tensors.iter().map(|(_, tensor)| tensor), DType::F32, &Device::Cpu);
    let classifier = Classifier::build(&config.model, &builder).map_err(|error| Error::Checkpoint {
        path: path.to_path_buf(),
        reason: error.to_string(),
        hint: Some("the file is damaged: take another".into()),
    })?;
    fill(path, &classifier, tensors)?;
    Ok(Trained { classifier, config, class_names, trained_on: TrainedOn::of(&metadata) })
}

/// Reads weights that timm saved (or we did) into a model of this shape. Images are to be normalised as the file says, or by
/// ImageNet's figures for timm's NesTs and by 0.5 for its ViTs.
///
/// # Errors
/// When the file is damaged, or holds another variant or another number of classes.
pub fn read_timm(path: &Path, config: &ClassifierConfig) -> Result<Trained> {
    let (metadata, tensors) = tensors::read(path)?;
    let classifier = Classifier::build(config, &Builder::blank(DType::F32, &Device::Cpu))?;
    fill(path, &classifier, tensors)?;
    let (mut config, mut class_names) = (ClassifyRunConfig::of_model(config.clone()), Vec::new());
    if let Some((own, classes)) = model_metadata(&metadata) {
        config.data = ClassifyRunConfig::parse(&path.display().to_string(), own)?.data;
        class_names = classes;
    } else if let Some(normalisation) = timm_normalisation(&config.model) {
        [config.data.mean, config.data.std] = normalisation;
    }
    Ok(Trained { classifier, config, class_names, trained_on: TrainedOn::of(&metadata) })
}

fn fill(path: &Path, classifier: &Classifier, tensors: tensors::NamedTensors) -> Result<()> {
    let loaded = classifier.load_timm(&tensors.into_iter().collect());
    loaded.map_err(|error| match error {
        LoadError::Tensor(error) => Error::Tensor(error),
        LoadError::Mismatch(_) => Error::Checkpoint {
            path: path.to_path_buf(),
            hint: Some(
                "it was saved by another variant, or with another number of classes: see --model".into(),
            ),
            reason: error.to_string(),
        },
    })
}

/// The best model of a run folder, or of the newest run in `runs` for `latest`.
///
/// # Errors
/// When there is none.
pub fn newest_model(run: &str, runs: &Path) -> Result<PathBuf> {
    let models = meant(run, runs)?.into_iter().map(|folder| folder.join(MODEL_BEST));
    let place = if run == LATEST { runs.display().to_string() } else { run.to_owned() };
    models.into_iter().find(|path| path.is_file()).ok_or_else(|| Error::Usage {
        message: format!("there is no {MODEL_BEST} in `{place}`"),
        hint: Some(
            "train first (`nestgen classify train`), or name a run with --run or a file with --network".into(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_model_is_that_of_the_highest_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9-set-nest", "00010-set-nest", "backup-old", "00011-set-nest"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            if !name.starts_with("00011") {
                std::fs::write(dir.path().join(name).join(MODEL_BEST), "").unwrap();
            }
        }
        let found = |run: &str| newest_model(run, dir.path());
        assert_eq!(found("latest").unwrap(), dir.path().join("00010-set-nest").join(MODEL_BEST));
        let named = dir.path().join("backup-old");
        assert_eq!(found(named.to_str().unwrap()).unwrap(), named.join(MODEL_BEST));
        assert!(found("00011-set-nest").is_err() && newest_model("latest", &named.join("none")).is_err());
    }
}
