//! From the configuration of a classifier to a run: images, network, folder, state to go on from.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};

use super::{ClassData, ClassifyRunConfig, Weights};
use crate::config::launch::{Begun, FoundState, create_run, enter, resume, say_beginning};
use crate::data::LabelledImages;
use crate::error::{Error, Result};
use crate::models::Classifier;
use crate::ranks::Ranks;
use crate::rng::Rng;
use crate::study::provenance::{self, Network, Provenance};
use crate::train::classify::training::{Event, Outcome, Position, Session, Training};
use crate::train::classify::{TENSOR_FILES, TENSOR_FILES_EMA};
use crate::train::parallel::{check_work, share_out_pairs};
use crate::train::resume_point::ResumePoint;
use crate::train::state::{SavedState, load_as};

/// What a run needs beside its configuration.
pub struct Launch<'a> {
    /// The configuration.
    pub config: &'a ClassifyRunConfig,
    /// The images, from [`super::ClassDataConfig::open`].
    pub data: &'a ClassData,
    /// Where to compute.
    pub device: &'a Device,
    /// The folder that run folders are made in.
    pub outdir: &'a Path,
    /// The name of the model or file, for the name of the run folder.
    pub name: &'a str,
    /// Where the run begins.
    pub start: Start,
    /// The processes that make this run together.
    pub ranks: &'a Ranks,
    /// Set to end the run at the next step.
    pub stop: &'a AtomicBool,
    /// Told where the run folder is, once there is one.
    pub on_start: &'a mut dyn FnMut(&Path),
    /// Told what happens.
    pub on_event: &'a mut dyn FnMut(Event),
}

/// Where a run begins.
pub enum Start {
    /// With a new network, in a new folder.
    New,
    /// Where a run stopped, in its folder and under its settings, but for those that may change; from
    /// [`crate::train::resume_point::resume_point`].
    Resume(ResumePoint),
    /// In a new folder and under any settings, with the weights of another classifier.
    Transfer(Weights),
}

/// Trains; gives the run folder and how it ended.
///
/// # Errors
/// When images and network do not fit, the folder cannot be made, the state to go on from does not fit, or training
/// fails.
pub fn launch(launch: Launch) -> Result<(PathBuf, Outcome)> {
    let config = launch.config;
    let (train, test) = launch.data.chosen(&config.data);
    refuse_misfits(config, &train, &launch.start)?;
    let ranks = launch.ranks;
    let share = share_out_pairs(config.train.batch, ranks)?;
    let config_text = config.to_toml();
    let averaged = config.train.ema.halflife_kimg > 0.0;
    let classifier = initial(config)?;
    let ema = averaged.then(|| initial(config)).transpose()?;
    for network in [Some(&classifier), ema.as_ref()].into_iter().flatten() {
        network.params().move_to(launch.device)?;
    }
    // Before the folder: what cannot be had leaves none behind.
    check_work(ranks, &[train.data(), test.data()], &config_text)?;
    let record = provenance(config, &classifier, &train, launch.device);
    let create = || create_run(launch.outdir, &config.data.path, &config.data.name(), launch.name);
    let Begun { folder, state, told, record } = match launch.start {
        Start::New => Begun::anew(enter(ranks, create)?, record),
        Start::Transfer(weights) => {
            let said = weights.give(&classifier, train.data().class_names())?;
            let record = Provenance { initial: weights.identity()?, ..record };
            Begun { told: vec![said], ..Begun::anew(enter(ranks, create)?, record) }
        }
        Start::Resume(point) => {
            let begun = resume(ranks, &point, load_state, record, &[train.data().digest()])?;
            begun.under::<ClassifyRunConfig>(&config_text, &length(config), |state| {
                other_length(config, state)
            })?
        }
    };
    (launch.on_start)(folder.path());
    say_beginning(ranks, &folder, told, |line| (launch.on_event)(Event::Line(line)))?;
    let session = Session {
        config: &config.train,
        config_text: &config_text,
        folder: &folder,
        ranks,
        share,
        train,
        test,
        normalise: config.data.normalise(),
        workers: config.data.workers,
        stop: launch.stop,
        on_event: launch.on_event,
    };
    let training = Training::new(session, classifier, ema, state.map(|state| state.saved))?;
    // Only now: what cannot go on changes nothing.
    if ranks.is_first() {
        folder.forget_divergence()?;
        folder.write(provenance::FILE, record.to_json().as_bytes())?;
    }
    let outcome = training.run();
    if let Err(error @ Error::NonFinite { .. }) = &outcome
        && ranks.is_first()
    {
        folder.mark_diverged(&error.to_string())?;
    }
    Ok((folder.path().to_path_buf(), outcome?))
}

/// The classifier with the initial weights of the configuration's seed, in the processor's memory.
fn initial(config: &ClassifyRunConfig) -> Result<Classifier> {
    let rng = Rng::new(config.train.seed).split("init").split("classifier");
    Ok(Classifier::new(&config.model, &rng, DType::F32, &Device::Cpu)?)
}

/// The state at `path`, with averaged weights if it has them.
pub(super) fn load_state(path: &Path) -> Result<SavedState<Position>> {
    let averaged = path.join("classifier-ema.safetensors").is_file();
    load_as(path, if averaged { &TENSOR_FILES_EMA } else { &TENSOR_FILES })
}

/// The length that a run had before, where that gave it other rates than it would have had with its length of now: not where
/// rates do not fall.
///
/// # Errors
/// When the new length lies behind the run.
fn other_length(config: &ClassifyRunConfig, state: &FoundState<Position>) -> Result<Option<String>> {
    let before = ClassifyRunConfig::parse(&state.path.display().to_string(), &state.saved.config)?;
    let done = state.saved.position.epoch;
    if before.train.epochs == config.train.epochs {
        return Ok(None);
    }
    if config.train.epochs <= done {
        return Err(Error::Usage {
            message: format!(
                "a length of {}, but `{}` is at {done} already",
                length(config),
                state.path.display()
            ),
            hint: Some("give more --epochs, or leave it out".into()),
        });
    }
    Ok((config.train.base_lr != config.train.min_lr).then(|| length(&before)))
}

/// A length as people write it.
fn length(config: &ClassifyRunConfig) -> String {
    let epochs = config.train.epochs;
    if epochs == 1 { "1 epoch".into() } else { format!("{epochs} epochs") }
}

/// Refuses to go on with a run on other images than it began with, of which what follows may come; a network of other classes;
/// a batch larger than an epoch.
pub fn refuse_misfits(config: &ClassifyRunConfig, train: &LabelledImages, start: &Start) -> Result<()> {
    if let Start::Resume(point) = start
        && let Some(before) = Provenance::read(&point.run)?
    {
        before.refuse_other_images(&point.run, &[train.data().digest()])?;
    }
    let classes = train.data().class_names().len();
    let bad = |key: &str, reason: String, hint: &str| Error::Config {
        place: "configuration".into(),
        key: key.into(),
        reason,
        hint: Some(hint.into()),
    };
    if config.model.classes() != classes {
        let reason = format!("{}, but the images have {classes} classes", config.model.classes());
        return Err(bad(
            "model.classes",
            reason,
            "leave it out with --model, or set it to the number of classes",
        ));
    }
    if config.train.batch > train.len() {
        let reason = format!("{} is more than the {} images of an epoch", config.train.batch, train.len());
        return Err(bad("train.batch", reason, "choose a smaller one: --set train.batch=N"));
    }
    Ok(())
}

/// Where the run comes from and what it costs: a backward pass is counted as two forward passes.
fn provenance(
    config: &ClassifyRunConfig,
    classifier: &Classifier,
    train: &LabelledImages,
    device: &Device,
) -> Provenance {
    let flops = classifier.flops();
    Provenance {
        data_digest: train.data().digest().to_owned(),
        data_images: train.len() as u64,
        classifier: Network { parameters: classifier.params().count() as u64, flops },
        flops_per_step: 3.0 * flops as f64 * config.train.batch as f64,
        ..Provenance::of_process(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::classify::model_preset;

    #[test]
    fn initial_weights_are_those_of_the_seed() {
        let mut config = ClassifyRunConfig::of_model(model_preset("vit-xs", 32, 3).unwrap());
        let mut weights = |seed| {
            config.train.seed = seed;
            let tensors = initial(&config).unwrap().timm_tensors().unwrap();
            let values =
                tensors.iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            values.collect::<Vec<_>>().concat()
        };
        let zero = weights(0);
        assert!(zero == weights(0) && zero != weights(1));
    }
}
