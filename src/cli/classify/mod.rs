//! `nestgen classify`: the classifier path, one file a verb.

mod eval;
mod explain;
mod sources;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use nestgen::config::classify::{
    ClassData, ClassDataConfig, Trained, model_preset, newest_model, read_timm, read_trained,
};
use nestgen::error::{Error, Result};
use nestgen::train::folder::LATEST;

use super::network::{refuse_no_run, refuse_swapped};
use super::ui;

pub(super) use train::{describe, warn_of_copies};

/// The verbs of `nestgen classify`.
#[derive(clap::Subcommand)]
pub(super) enum ClassifyVerb {
    Train(Box<train::TrainArgs>),
    Eval(eval::EvalArgs),
    Explain(explain::ExplainArgs),
}

/// Runs one of them.
pub(super) fn run(verb: &ClassifyVerb) -> anyhow::Result<ExitCode> {
    match verb {
        ClassifyVerb::Train(args) => train::run(args),
        ClassifyVerb::Eval(args) => eval::run(args),
        ClassifyVerb::Explain(args) => explain::run(args),
    }
}

/// Where run folders of classifiers are.
pub(super) const RUNS: &str = "runs/classify";

/// Which trained classifier to use.
#[derive(clap::Args)]
pub(super) struct Network {
    /// A run folder, or `latest` for the newest one with a model in --runs
    #[arg(long, default_value = LATEST, conflicts_with = "network")]
    run: String,
    /// Where `latest` looks
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,
    /// A file instead of a run: a model_best.safetensors, or timm's weights with --model
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Which model timm's weights are of: nest-t, nest-s, nest-b, vit-t, vit-s
    #[arg(long, value_name = "NAME", requires = "network")]
    model: Option<String>,
    /// Side of that model's images in pixels [default: 224]
    #[arg(long, value_name = "PX")]
    res: Option<usize>,
    /// Number of that model's classes [default: 1000]
    #[arg(long, value_name = "N")]
    num_classes: Option<usize>,
    /// What that model subtracts from each channel, in 0..1 [default: the file's own; of timm's files ImageNet's for NesT, 0.5 for ViT]
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    mean: Option<[f32; 3]>,
    /// What it divides each channel by then
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    std: Option<[f32; 3]>,
}

/// Three numbers.
fn channels(text: &str) -> Result<[f32; 3], String> {
    let numbers: Vec<f32> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    let numbers = <[f32; 3]>::try_from(numbers).ok().filter(|numbers| numbers.iter().all(|n| n.is_finite()));
    numbers.ok_or_else(|| "three numbers, like 0.485,0.456,0.406".to_owned())
}

impl Network {
    /// Reads it.
    pub(super) fn load(&self) -> Result<(Trained, PathBuf)> {
        refuse_swapped(&self.run, self.network.as_deref())?;
        self.refuse_traits_of_ours()?;
        let path = match &self.network {
            Some(path) => path.clone(),
            None => newest_model(&self.run, &self.runs)
                .or_else(|nothing| refuse_no_run(&self.run, true).and(Err(nothing)))?,
        };
        let (res, classes) = (self.res.unwrap_or(224), self.num_classes.unwrap_or(1000));
        let mut trained = match &self.model {
            Some(name) => read_timm(&path, &model_preset(name, res, classes)?)?,
            None => read_trained(&path)?,
        };
        let data = &mut trained.config.data;
        (data.mean, data.std) = (self.mean.unwrap_or(data.mean), self.std.unwrap_or(data.std));
        if data.std.iter().any(|&std| std <= 0.0) {
            return Err(Error::Usage {
                message: format!("--std {:?} is not above 0", data.std),
                hint: Some("ImageNet's is 0.229,0.224,0.225".into()),
            });
        }
        Ok((trained, path))
    }

    /// Refuses what is to be told of timm's weights where ours, which tell it themselves, are tested.
    fn refuse_traits_of_ours(&self) -> Result<()> {
        let given = [
            ("--res", self.res.is_some()),
            ("--num-classes", self.num_classes.is_some()),
            ("--mean", self.mean.is_some()),
            ("--std", self.std.is_some()),
        ];
        match given.iter().find(|(_, given)| *given && self.model.is_none()) {
            None => Ok(()),
            Some((flag, _)) => Err(Error::Usage {
                message: format!("{flag}: a classifier of ours tells that itself"),
                hint: Some(format!(
                    "leave {flag} out, images of any size are brought to the classifier's own; it is for timm's weights: --network FILE \
                     --model NAME"
                )),
            }),
        }
    }
}

/// Reads or renders the images, with a bar.
pub(super) fn open_data(config: &ClassDataConfig, res: usize) -> Result<ClassData> {
    ui::reading_images(|told| config.open(res, told))
}
