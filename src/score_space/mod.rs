//! Feature spaces for scores beside Inception: a classifier of this program, or DINOv2.
//!
//! A distance in such a space is called `FD-<name>`, never FID. The features are those that the network's last
//! linear layer sees: NesT's mean over all places, ViT's class token, both after the final layer norm.
//!
//! Images are brought to the network's resolution by Pillow's antialiased bicubic filter on floats (the `clean`
//! rule of `nestgen-fid`), then normalised by the network's own mean and deviation.

mod dinov2;
pub mod over_ranks;
pub mod scenes_v1;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nestgen_fid::preprocess::{Preprocessor, Resize};
use nestgen_fid::{Extractor, weights};
use nestgen_images::RgbImage8;
use nestgen_kernels::precision::{Precision, with};
use nestgen_kernels::{self as k, Var, no_grad, portable};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::models::{Classifier, ClassifierConfig};
use crate::nn::Builder;
use crate::train::classify::FORMAT;
use crate::train::tensors::{self, Metadata};

/// Images that go through the network together: enough to fill the cores, little memory.
const BATCH: usize = 16;

/// The extractor that a setting names: `auto` (Inception where its weights are found, else `scenes-v1`), `inception`
/// (with the weights of that file, if one is given), `scenes-v1` (see [`scenes_v1`]), `random-v1`, or a file for
/// [`open`]. Its features are computed on `device`.
///
/// # Errors
/// When a file is missing or not usable, or the device has no room.
pub fn extractor(name: &str, inception: Option<&Path>, device: &Device) -> Result<Extractor<'static>> {
    match chosen(name, inception)? {
        "inception" => Ok(Extractor::inception_on(&weights::find(inception)?, device)?),
        scenes_v1::NAME => scenes_v1::extractor(device),
        "random-v1" => Ok(Extractor::random_v1_on(device)?),
        file => {
            refuse_no_space(file)?;
            open(Path::new(file), device)
        }
    }
}

/// Refuses what is neither the name of a space nor a file.
fn refuse_no_space(name: &str) -> Result<()> {
    if Path::new(name).exists() {
        return Ok(());
    }
    let known = ["auto", "inception", scenes_v1::NAME, "random-v1"];
    Err(Error::Usage {
        message: format!("there is no feature space `{name}`, nor a file of that name"),
        hint: Some(format!(
            "{}, or a .safetensors file of DINOv2 or of one of our classifiers",
            known.join(", ")
        )),
    })
}

/// The setting that `auto` comes to here; others as they are.
///
/// # Errors
/// When a file of Inception's weights is named and not there.
pub fn chosen<'a>(name: &'a str, inception: Option<&Path>) -> Result<&'a str> {
    if name != "auto" {
        return Ok(name);
    }
    match weights::find(inception) {
        Ok(_) => Ok("inception"),
        Err(nestgen_fid::Error::NoWeights { .. }) => Ok(scenes_v1::NAME),
        // A file that somebody has named is not replaced by another space without a word.
        Err(error) => Err(error.into()),
    }
}

/// The feature space of a file: a classifier of this program, or DINOv2's weights under the names of its authors,
/// timm or transformers. Its features are computed on `device`.
///
/// # Errors
/// When the file cannot be read, is neither of the two, or its tensors do not fit; when the device has no room.
pub fn open(path: &Path, device: &Device) -> Result<Extractor<'static>> {
    let bad = |reason: String| {
        Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
        hint: Some(
            "give a classifier of ours (`nestgen classify train`) or DINOv2's weights, both as .safetensors; or \
             `scenes-v1`"
                .into(),
        ),
    }
    };
    let (metadata, tensors) = tensors::read(path)?;
    let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    let space = if metadata.get("format").map(String::as_str) == Some(FORMAT) {
        Space::classifier(name_of(path), &metadata, &tensors).map_err(bad)?
    } else if dinov2::is_one(&tensors) {
        dinov2::space(tensors).map_err(bad)?
    } else {
        return Err(bad("it holds tensors, but neither a classifier of ours nor DINOv2".into()));
    };
    space.extractor(tensors::file_sha256(path).map_err(Error::io("read", path))?, device)
}

/// A network whose features are compared.
///
/// It keeps tensors, which threads may share, and not a [`Classifier`], whose parameters belong to one thread;
/// putting the tensors into one costs nothing beside running it.
struct Space {
    name: String,
    config: ClassifierConfig,
    tensors: BTreeMap<String, Tensor>,
    /// Mean and deviation of each channel of pixels in 0..1.
    normal: [[f32; 3]; 2],
}

/// The part of a classifier's configuration that says how to run it.
#[derive(serde::Deserialize)]
struct ClassifierFile {
    model: ClassifierConfig,
    data: Normal,
}

/// Mean and deviation of each channel of pixels in 0..1.
#[derive(serde::Deserialize)]
struct Normal {
    mean: [f32; 3],
    std: [f32; 3],
}

/// The file's name; for the best model of a run, which is always called the same, the run's.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    let run = path.parent().and_then(Path::file_name).filter(|_| stem == "model_best");
    run.unwrap_or(stem).to_string_lossy().into_owned()
}

impl Space {
    /// Checks that the tensors, in timm's layout and under its names, are those of the network.
    fn new(
        name: String,
        config: ClassifierConfig,
        tensors: &BTreeMap<String, Tensor>,
        normal: [[f32; 3]; 2],
    ) -> std::result::Result<Self, String> {
        config.validate().map_err(|error| error.to_string())?;
        if normal.iter().flatten().any(|x| !x.is_finite()) || normal[1].contains(&0.0) {
            return Err(format!("its mean and deviation {normal:?} cannot normalise an image"));
        }
        let builder = Builder::blank_for(tensors.values(), DType::F32, &Device::Cpu);
        let network = Classifier::build(&config, &builder).map_err(|error| error.to_string())?;
        network.load_timm(tensors).map_err(|error| error.to_string())?;
        let tensors: BTreeMap<_, _> = network.params().tensors().into_iter().collect();
        if let Some(name) = not_finite(&tensors).map_err(|error| error.to_string())? {
            return Err(format!("`{name}` holds a number that is not finite"));
        }
        Ok(Self { name, config, tensors, normal })
    }

    /// A classifier's own file.
    fn classifier(
        name: String,
        metadata: &Metadata,
        tensors: &BTreeMap<String, Tensor>,
    ) -> std::result::Result<Self, String> {
        let text = metadata.get("config").ok_or("it does not say which network it is")?;
        let ClassifierFile { model, data } =
            toml::from_str(text).map_err(|e| format!("its configuration: {}", e.message()))?;
        Self::new(name, model, tensors, [data.mean, data.std])
    }

    /// The feature space of this network, which `sha256` names, on `device`.
    fn extractor(mut self, sha256: String, device: &Device) -> Result<Extractor<'static>> {
        for tensor in self.tensors.values_mut() {
            *tensor = tensor.to_device(device)?;
        }
        let (name, dims) = (self.name.clone(), self.dims());
        let features = Box::new(move |images: &[RgbImage8]| self.features(images).map_err(|e| e.to_string()));
        Ok(Extractor::Custom {
            name,
            sha256,
            dims,
            features,
            on_device: !device.is_cpu() || portable::forced(),
        })
    }

    /// Number of features of an image.
    fn dims(&self) -> usize {
        match &self.config {
            ClassifierConfig::Nest(config) => config.dims.last().copied().unwrap_or(0),
            ClassifierConfig::Vit(config) => config.dim,
        }
    }

    /// Features `[images, dims]`, row-major.
    fn features(&self, images: &[RgbImage8]) -> Result<Vec<f32>> {
        let network = blank(&self.config)?;
        for param in network.params().all() {
            if let Some(tensor) = self.tensors.get(param.name()) {
                param.set(tensor.clone())?;
            }
        }
        let mut features = Vec::with_capacity(images.len() * self.dims());
        for images in images.chunks(BATCH) {
            let input = Var::constant(self.input(images)?);
            let row = with(Precision::F32, || no_grad(|| penultimate(&network, &input)))?;
            features.extend(row.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(features)
    }

    /// Resized and normalised images `[B, H, W, 3]`.
    fn input(&self, images: &[RgbImage8]) -> Result<Tensor> {
        let side = self.config.resolution();
        let [mean, deviation] = self.normal.map(|of| of.map(f64::from));
        let mut pixels = vec![0f32; images.len() * side * side * 3];
        pixels.par_chunks_mut(side * side * 3).zip(images).for_each_init(
            || Preprocessor::with_side(Resize::Clean, side),
            |preprocessor, (pixels, image)| {
                preprocessor.resample(image, pixels, |channel, level| {
                    ((level.clamp(0.0, 255.0) / 255.0 - mean[channel]) / deviation[channel]) as f32
                });
            },
        );
        Ok(Tensor::from_vec(pixels, (images.len(), side, side, 3), &Device::Cpu)?)
    }
}

fn blank(config: &ClassifierConfig) -> candle_core::Result<Classifier> {
    Classifier::build(config, &Builder::blank(DType::F32, &Device::Cpu))
}

/// What the head sees, `[B, C]`.
fn penultimate(network: &Classifier, images: &Var) -> candle_core::Result<Tensor> {
    let tokens = network.tokens(images)?;
    let features = match network {
        Classifier::Nest(_) => k::mean_middle(&tokens)?,
        Classifier::Vit(_) => k::narrow(&tokens, 2, 0, 1)?,
    };
    Ok(features.into_value())
}

/// The first tensor with a NaN or an infinity.
fn not_finite(tensors: &BTreeMap<String, Tensor>) -> candle_core::Result<Option<&String>> {
    for (name, tensor) in tensors {
        let finite = k::cpu::with_downloaded::<f32, _>(tensor, |data| Ok(data.iter().all(|x| x.is_finite())))?;
        if !finite {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
