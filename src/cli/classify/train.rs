//! `nestgen classify train`: flags to configuration, one progress line, and how to go on afterwards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::{DType, Device};
use clap::Args;
use nestgen::config::Override;
use nestgen::config::classify::{
    ClassData, ClassifyRunConfig, Launch, Start, Weights, launch, model_preset, refuse_misfits, warm_up,
};
use nestgen::data::LabelledImages;
use nestgen::error::Error;
use nestgen::models::Classifier;
use nestgen::nn::Builder;
use nestgen::ranks::Ranks;
use nestgen::train::classify::training::{Event, Outcome, Progress};
use nestgen::train::folder::LATEST;
use nestgen::train::resume_point::ResumePoint;

use super::open_data;
use crate::cli::device::DeviceArgs;
use crate::cli::ranks::{RankArgs, connect_gpus, describe_ranks, find_point};
use crate::cli::train::{name_of, progress_line, refuse_other_outdir};
use crate::cli::{interrupt, ui};

/// The model of a CPU.
const CPU_MODEL: &str = "nest-xs";

/// Train a classifier
#[cfg_attr(feature = "mpi", doc = "")]
#[cfg_attr(
    feature = "mpi",
    doc = "Under mpirun or srun all processes train one classifier together: each works on"
)]
#[cfg_attr(feature = "mpi", doc = "its share of every batch, and the result is that of one process.")]
#[derive(Args)]
pub(in crate::cli) struct TrainArgs {
    /// nest-t, nest-s, nest-b, vit-t, vit-s, or nest-xs and vit-xs for a CPU; `nest-t:pool` for another aggregation [default:
    /// nest-xs]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["config", "resume"])]
    model: Option<String>,
    /// Side of the images in pixels: 32, 64 or 224 [default: 32]
    #[arg(long, value_name = "PX", conflicts_with_all = ["config", "resume"])]
    res: Option<usize>,
    /// Class folders, a zip or tar(.gz) of them, an HDF5 pack, a CIFAR-10 archive or an .npz [default: the built-in scenes]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// A configuration file, as `-n` prints it
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Length: passes over the training images; the warm-up takes a sixth of them, at most 5, but that of a resumed run is as it was
    /// [default: 30]
    #[arg(long)]
    epochs: Option<u32>,
    /// Images a step
    #[arg(long)]
    batch: Option<usize>,
    /// Learning rate for a batch of 256 images; it is scaled with the batch
    #[arg(long, value_name = "RATE")]
    base_lr: Option<f64>,
    /// The share of the training images that is used, of every class alike
    #[arg(long, value_name = "SHARE")]
    fraction: Option<f64>,
    /// Keep averaged weights too, of this half-life; they are then what is tested and kept
    #[arg(long, value_name = "KIMG")]
    ema: Option<f64>,
    /// Go on with a run: `latest`, a run folder, or a training state; with more --epochs it gets longer
    #[arg(long, value_name = "WHAT")]
    resume: Option<String>,
    /// Begin a new run, under any settings, with the weights of another: `latest`, a run folder, a training state, or a file: a
    /// model_best.safetensors, or timm's weights with --model
    #[arg(long, value_name = "WHAT", conflicts_with = "resume")]
    transfer: Option<String>,
    /// The root of every random stream
    #[arg(long)]
    seed: Option<i64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Where run folders are made [default: runs/classify]
    #[arg(long, value_name = "DIR")]
    outdir: Option<PathBuf>,
    /// Any setting of the configuration, for example `--set train.augment.rand_layers=0`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print the configuration, parameter count and FLOPs; train nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the verb.
pub(super) fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    args.ranks.run(|ranks| run_on(args, ranks))
}

fn run_on(args: &TrainArgs, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let start = start(args, ranks)?;
    let overrides = overrides(args)?;
    let (mut config, name) = resolve(args, &start, &overrides)?;
    let data = open_data(&config.data, config.model.resolution())?;
    if args.resume.is_none() && args.config.is_none() {
        config.model.set_classes(data.class_names().len());
    }
    warn_of_hold_out(&overrides, &config, &data);
    refuse_misfits(&config, &data.chosen(&config.data).0, &start)?;
    if args.dry_run {
        return dry_run(&config);
    }
    let device = args.device.open(ranks)?;
    let started = launch_and_show(&config, &data, &device, outdir(args), &name, start, ranks)?;
    conclude(&started.0, &started.1, ranks)
}

fn outdir(args: &TrainArgs) -> &Path {
    args.outdir.as_deref().unwrap_or(Path::new(super::RUNS))
}

/// Where the run begins. What is no folder is a file of weights.
fn start(args: &TrainArgs, ranks: &Ranks) -> anyhow::Result<Start> {
    let point = |what: &str, hint: &str| -> anyhow::Result<ResumePoint> {
        let point = find_point(outdir(args), what, ranks)?;
        anyhow::ensure!(
            point.is_of_classifier(),
            Error::Usage {
                message: format!("`{}` is the run of a generator", point.run.display()),
                hint: Some(hint.into()),
            }
        );
        Ok(point)
    };
    Ok(match (&args.resume, &args.transfer) {
        (Some(what), _) => {
            let point = point(what, "`nestgen train --resume` goes on with it")?;
            refuse_other_outdir(args.outdir.as_deref(), &point.run)?;
            Start::Resume(point)
        }
        (None, Some(what)) if what == LATEST || Path::new(what).is_dir() => {
            let point = point(what, "`nestgen train --transfer` begins with its weights")?;
            Start::Transfer(Weights::read(point.states.first().unwrap_or(&point.run))?)
        }
        (None, Some(file)) => Start::Transfer(Weights::read(Path::new(file))?),
        (None, None) => Start::New,
    })
}

/// The configuration that the flags ask for, and its name.
fn resolve(
    args: &TrainArgs,
    start: &Start,
    overrides: &[Override],
) -> anyhow::Result<(ClassifyRunConfig, String)> {
    let saved = match start {
        Start::Resume(point) => Some(point.config()?),
        _ => None,
    };
    if let Some(path) = saved.as_deref().or(args.config.as_deref()) {
        return Ok((ClassifyRunConfig::read(path, overrides)?, name_of(path)));
    }
    if let (Start::Transfer(weights), None) = (start, &args.model) {
        let config = weights.config()?.with(&weights.path().display().to_string(), overrides)?;
        let own = config.model.resolution();
        if let Some(res) = args.res.filter(|res| *res != own) {
            return Err(Error::Usage {
                message: format!(
                    "--res {res}, but `{}` is of a classifier for {own} px",
                    weights.path().display()
                ),
                hint: Some("leave --res out: images of any size are cropped and resized".into()),
            }
            .into());
        }
        return Ok((config, weights.name()));
    }
    let (name, res) = (args.model.as_deref().unwrap_or(CPU_MODEL), args.res.unwrap_or(32));
    let model = model_preset(name, res, nestgen::data::synthetic::class_names().len())?;
    let recipe = match start {
        Start::Transfer(weights) => weights.recipe(model),
        _ => ClassifyRunConfig::of_model(model),
    };
    Ok((recipe.with(&format!("--model {name}"), overrides)?, name.to_owned()))
}

/// What the flags set; a `--set` that contradicts one is refused.
fn overrides(args: &TrainArgs) -> anyhow::Result<Vec<Override>> {
    let mut all = Vec::new();
    // A run that is made longer has its warm-up behind it, or has begun it.
    let warmed_up = args.epochs.filter(|_| args.resume.is_none());
    all.extend(warmed_up.map(|epochs| Override::new("--epochs", "train.warmup_epochs", warm_up(epochs))));
    for text in &args.set {
        all.push(Override::parse(text)?);
    }
    let mut add =
        |flag, key: &str, value: Option<toml::Value>| all.extend(value.map(|v| Override::new(flag, key, v)));
    add("--data", "data.path", args.data.clone().map(Into::into));
    add("--fraction", "data.fraction", args.fraction.map(Into::into));
    add("--epochs", "train.epochs", args.epochs.map(|n| i64::from(n).into()));
    add("--batch", "train.batch", args.batch.map(|n| (n as i64).into()));
    add("--base-lr", "train.base_lr", args.base_lr.map(Into::into));
    add("--ema", "train.ema.halflife_kimg", args.ema.map(Into::into));
    add("--seed", "train.seed", args.seed.map(Into::into));
    Ok(all)
}

/// Only the images tell whether a share of them is held out.
fn warn_of_hold_out(overrides: &[Override], config: &ClassifyRunConfig, data: &ClassData) {
    let (train, test) = data.chosen(&config.data);
    let asked_for = overrides.iter().any(|setting| setting.key() == "data.hold_out");
    if asked_for && !Arc::ptr_eq(train.data(), test.data()) {
        let split = test.data().split().unwrap_or_default();
        ui::warn(&format!("data.hold_out changes nothing: the images have a split to test on, `{split}`"));
    }
}

/// What is learnt by heart would look like what is recognised.
pub(in crate::cli) fn warn_of_copies(train: &LabelledImages, test: &LabelledImages) -> anyhow::Result<()> {
    if let Some(count @ 1..) = test.count_among(train)? {
        ui::warn(&format!(
            "{count} of the {} images to test on are also trained on, pixel for pixel: accuracy there says little of other images",
            test.len()
        ));
    }
    Ok(())
}

fn dry_run(config: &ClassifyRunConfig) -> anyhow::Result<ExitCode> {
    let classifier = Classifier::build(&config.model, &Builder::blank(DType::F32, &Device::Cpu))?;
    ui::result_line(&config.to_toml())?;
    ui::result_line(&format!(
        "# classifier: {:.2} M parameters, {:.2} GFLOP an image forward",
        classifier.params().count() as f64 / 1e6,
        classifier.flops() as f64 / 1e9
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Trains and shows how it goes.
fn launch_and_show(
    config: &ClassifyRunConfig,
    data: &ClassData,
    device: &Device,
    outdir: &Path,
    name: &str,
    start: Start,
    ranks: &Ranks,
) -> anyhow::Result<(PathBuf, Outcome)> {
    let (train, test) = data.chosen(&config.data);
    let part = match test.data().split() {
        _ if Arc::ptr_eq(train.data(), test.data()) => " (held out)".to_owned(),
        Some(split) => format!(" ({split})"),
        None => String::new(),
    };
    ui::note(&format!(
        "{}: {} images to train on, {} to test on{part}, {} classes, {} px",
        config.data.name(),
        train.len(),
        test.len(),
        data.class_names().len(),
        config.model.resolution()
    ));
    warn_of_copies(&train, &test)?;
    let (epochs, warm_up) = (config.train.epochs, config.train.warmup_epochs);
    if warm_up >= epochs as f64 {
        // The warm-up of a run that goes on is not fitted.
        let is_resumed = matches!(start, Start::Resume(_));
        let advice = if is_resumed { String::new() } else { format!(": --epochs {epochs} fits both") };
        ui::warn(&format!(
            "the warm-up of {warm_up} epochs is not over when the run ends after {epochs}{advice}"
        ));
    }
    describe_ranks(ranks);
    connect_gpus(ranks, device)?;
    let stop = interrupt::flag()?;
    let line = progress_line();
    let mut on_event = |event: Event| match event {
        Event::Progress(progress) => line.set_message(describe(&progress)),
        Event::Line(text) => line.suspend(|| ui::note(&text)),
    };
    let mut on_start = |folder: &Path| ui::note(&format!("run folder: {}", folder.display()));
    let launched = launch(Launch {
        config,
        data,
        device,
        outdir,
        name,
        start,
        ranks,
        stop: &stop,
        on_start: &mut on_start,
        on_event: &mut on_event,
    });
    line.finish_and_clear();
    launched.context("training")
}

/// One line of progress.
pub(in crate::cli) fn describe(p: &Progress) -> String {
    format!(
        "epoch {:.2}/{:.0}  {:.1} img/s  {} left  loss {:.3}",
        p.epochs,
        p.total_epochs,
        p.images_per_sec,
        ui::duration(p.eta_secs),
        p.loss
    )
}

fn conclude(folder: &Path, outcome: &Outcome, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let command = ui::quoted(folder);
    let folder = folder.display();
    match outcome {
        Outcome::Finished { model_best } => {
            ui::result_line(&format!("done: {}", model_best.display()))?;
            ui::result_line(&format!("every epoch is in {folder}/summary.csv"))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { state } => {
            ui::result_line(&format!("saved: {}", state.display()))?;
            ui::result_line(&format!("go on with: nestgen classify train --resume {command}"))?;
            Ok(interrupt::exit_code(ranks))
        }
    }
}
