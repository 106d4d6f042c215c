//! `nestgen study accuracy`: several classifiers, several seeds, shares of the training images; one page at the end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use candle_core::{DType, Device};
use nestgen::config::Override;
use nestgen::config::classify::{
    ClassData, ClassifyRunConfig, Launch, Start, launch, model_preset, refuse_misfits, warm_up,
};
use nestgen::error::{Error, Result};
use nestgen::models::Classifier;
use nestgen::nn::Builder;
use nestgen::ranks::Ranks;
use nestgen::study::axis::Axis;
use nestgen::study::plan::{Plan, PlannedArm};
use nestgen::study::task::{Ended, Status, Task};
use nestgen::study::tuned::AT;
use nestgen::train::classify::training::{Event, Outcome};
use nestgen::train::folder::refuse_among_images;
use nestgen::train::parallel::check_work;

use super::over_ranks::{conclude_together, open_and_deal};
use super::{describe, digests, refuse_seed};
use crate::cli::device::DeviceArgs;
use crate::cli::ranks::{RankArgs, describe_ranks};
use crate::cli::{classify, interrupt, train, ui};

/// Train classifiers on the same images in the same order, and compare their accuracy
#[cfg_attr(feature = "mpi", doc = "")]
#[cfg_attr(feature = "mpi", doc = "Under mpirun or srun the runs are dealt over the processes.")]
#[derive(clap::Args)]
pub(in crate::cli) struct Accuracy {
    /// Classifiers by name, with another block aggregation (`nest-t:conv`, `:pool`, `:none`), or configuration files
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "nest-xs,vit-xs")]
    arms: Vec<String>,
    /// Runs of each arm, with seeds 0, 1, ...
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Length of a run: passes over the training images; the warm-up takes a sixth of them, at most 5 [default: 30, of a file its own]
    #[arg(long)]
    epochs: Option<u32>,
    /// Shares of the training images, each an arm of its own for every classifier
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    fraction: Vec<f64>,
    /// Class folders, a zip or tar(.gz) of them, an HDF5 pack, a CIFAR-10 archive or an .npz [default: the built-in scenes]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// Side of the images in pixels: 32, 64 or 224 [default: 32; files have their own]
    #[arg(long, value_name = "PX")]
    res: Option<usize>,
    /// Any setting, for all arms
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The study's folder; the same command goes on with a study that was interrupted
    #[arg(long, value_name = "DIR", default_value = "studies/accuracy")]
    outdir: PathBuf,
    /// What the page opens on: epochs, kimg, steps, seconds or flops
    #[arg(long, default_value = "epochs", value_name = "AXIS")]
    x: Axis,
    /// Go on although arms differ in more than their classifiers, or these in size; the page says so
    #[arg(long)]
    allow_unfair: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print the plan; train nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// An arm: its name and configuration.
type Arm = (String, ClassifyRunConfig);

/// Runs the verb.
pub(super) fn run(args: &Accuracy) -> anyhow::Result<ExitCode> {
    args.ranks.run(|ranks| run_on(args, ranks))
}

fn run_on(args: &Accuracy, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let (data, arms) = arms(args)?;
    let mut plan = plan(args, &arms)?;
    for arm in &plan.arms {
        let (parameters, flops) = (arm.parameters as f64 / 1e6, arm.flops as f64 / 1e9);
        ui::note(&format!("{}: {parameters:.2} M parameters, {flops:.3} GFLOP an image", arm.name));
    }
    let lengths: BTreeSet<u64> = arms.iter().map(|(_, config)| config.train.epochs).collect();
    let lengths = lengths.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let (_, test) = data.chosen(&arms.first().map(|(_, config)| config.data.clone()).unwrap_or_default());
    ui::note(&format!(
        "{lengths} epochs each; tested on {} images of {}",
        test.len(),
        test.data().description()
    ));
    let share = |arm: &&Arm| arm.1.data.fraction;
    if let Some((_, config)) = arms.iter().max_by(|a, b| share(a).total_cmp(&share(b))) {
        let (train, test) = data.chosen(&config.data);
        classify::warn_of_copies(&train, &test)?;
    }
    plan.allowed_unfair.iter().for_each(|reason| ui::warn(&format!("unfair: {reason}")));
    if args.dry_run {
        for task in plan.tasks(&args.outdir) {
            ui::result_line(&format!("{}  {}", task.outdir.display(), describe(&task.status()?)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let device = args.device.open(ranks)?;
    describe_ranks(ranks);
    if let Some((_, config)) = arms.first() {
        let (train, test) = data.chosen(&config.data);
        check_work(ranks, &[train.data(), test.data()], &plan.settings_of_all())?;
        (plan.images, plan.test_images) = (digests(train.data()), digests(test.data()));
        refuse_among_images(&args.outdir, &config.data.path)?;
    }
    let (tasks, _held) = open_and_deal(&plan, &args.outdir, ranks)?;
    let stop = interrupt::flag()?;
    let train_all = || -> anyhow::Result<bool> {
        for task in &tasks {
            let (name, config) = &arms[task.arm];
            if !train_task(task, name, config, &data, &device, ranks, &stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(conclude_together(train_all(), &plan, &args.outdir, args.x, ranks)?.exit)
}

/// The images, and every classifier with every share of them.
fn arms(args: &Accuracy) -> anyhow::Result<(ClassData, Vec<Arm>)> {
    refuse_seed(&args.set)?;
    let warmed_up = args.epochs.map(|epochs| Override::new("--epochs", "train.warmup_epochs", warm_up(epochs)));
    let mut overrides: Vec<Override> = warmed_up.into_iter().collect();
    for text in &args.set {
        overrides.push(Override::parse(text)?);
    }
    overrides.extend(args.epochs.map(|epochs| Override::new("--epochs", "train.epochs", i64::from(epochs))));
    overrides.extend(args.data.clone().map(|path| Override::new("--data", "data.path", path)));

    for (number, share) in args.fraction.iter().enumerate() {
        if args.fraction[..number].contains(share) {
            return Err(Error::usage(format!("--fraction names {share} twice"), "name each share once").into());
        }
    }
    let scenes = nestgen::data::synthetic::class_names().len();
    let is_file = |arm: &String| Path::new(arm).extension().is_some_and(|extension| extension == "toml");
    if args.res.is_some() && args.arms.iter().all(is_file) {
        return Err(Error::usage("--res: every arm is a file", "set model.resolution in the files").into());
    }
    let mut named: Vec<Arm> = Vec::new();
    for arm in &args.arms {
        let path = Path::new(arm);
        let config = if is_file(arm) {
            ClassifyRunConfig::read(path, &overrides)?
        } else {
            let model = model_preset(arm, args.res.unwrap_or(32), scenes)?;
            ClassifyRunConfig::of_model(model).with(arm, &overrides)?
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().replace(':', "-");
        if named.iter().any(|(other, _)| *other == name) {
            return Err(Error::usage(format!("two arms are named {name}"), "name each arm once").into());
        }
        named.push((name, config));
    }
    let (_, first) =
        named.first().ok_or_else(|| Error::usage("a study needs an arm", "--arms nest-xs,vit-xs"))?;
    let data = classify::open_data(&first.data, first.model.resolution())?;
    let mut arms = Vec::new();
    for (name, mut config) in named {
        config.model.set_classes(data.class_names().len());
        if args.fraction.is_empty() {
            arms.push((name, config));
            continue;
        }
        for &fraction in &args.fraction {
            let share = [Override::new("--fraction", "data.fraction", fraction)];
            arms.push((format!("{name}{AT}{fraction}"), config.with("--fraction", &share)?));
        }
    }
    // Before the plan is written: an arm that cannot be trained would be met when others have been.
    for (name, config) in &arms {
        let (train, _) = data.chosen(&config.data);
        refuse_misfits(config, &train, &Start::New).with_context(|| format!("arm {name}"))?;
    }
    Ok((data, arms))
}

/// The plan, if it is fair or may be unfair. Only arms with the same share of the images need to be alike.
fn plan(args: &Accuracy, arms: &[Arm]) -> anyhow::Result<Plan> {
    let arm = |(name, config): &Arm| -> Result<PlannedArm> {
        let classifier = Classifier::build(&config.model, &Builder::blank(DType::F32, &Device::Cpu))?;
        let parameters = classifier.params().count() as u64;
        Ok(PlannedArm { name: name.clone(), parameters, flops: classifier.flops(), config: config.to_toml() })
    };
    let planned: Vec<PlannedArm> = arms.iter().map(arm).collect::<Result<_>>()?;
    let plan = Plan { seeds: (0..args.seeds).collect(), arms: planned, ..Plan::default() };
    plan.refuse_names()?;
    plan.refuse_other_images()?;
    plan.refuse_twins()?;
    let mut unfair: Vec<String> = Vec::new();
    let mut shares: Vec<f64> = arms.iter().map(|(_, config)| config.data.fraction).collect();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    for share in shares {
        let alike = arms.iter().zip(&plan.arms).filter(|((_, config), _)| config.data.fraction == share);
        // Without the share in their names, so that what holds of every share is one reason.
        let bare = |name: &str| name.rsplit_once(AT).map_or(name, |(bare, _)| bare).to_owned();
        let arms = alike.map(|(_, planned)| PlannedArm { name: bare(&planned.name), ..planned.clone() });
        let arms = arms.collect();
        let of_share = Plan { arms, ..Plan::default() }.unfair()?;
        let mut reasons: Vec<String> = of_share.into_iter().filter(|reason| !unfair.contains(reason)).collect();
        unfair.append(&mut reasons);
    }
    Ok(plan.allowing(unfair, args.allow_unfair)?)
}

/// Trains one run of the study, or goes on with it; `false` if it was interrupted.
fn train_task(
    task: &Task,
    name: &str,
    config: &ClassifyRunConfig,
    data: &ClassData,
    device: &Device,
    ranks: &Ranks,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let (start, going_on) = match task.status()? {
        Status::Ended(_) => return Ok(true),
        Status::Interrupted(point) => (Start::Resume(point), ", going on"),
        Status::New => {
            task.begin_anew()?;
            (Start::New, "")
        }
    };
    ui::note(&format!("{name}, seed {}{going_on}", task.seed));
    let mut config = config.clone();
    config.train.seed = task.seed;
    let line = train::progress_line();
    let mut on_event = |event: Event| {
        ranks.at_work();
        match event {
            Event::Progress(progress) => {
                line.set_message(format!("{name} seed {}: {}", task.seed, classify::describe(&progress)));
            }
            Event::Line(text) => line.suspend(|| ui::note(&text)),
        }
    };
    let mut folder = None;
    let launched = launch(Launch {
        config: &config,
        data,
        device,
        outdir: &task.outdir,
        name,
        start,
        ranks: &Ranks::alone(),
        stop,
        on_start: &mut |path| folder = Some(path.to_path_buf()),
        on_event: &mut on_event,
    });
    line.finish_and_clear();
    let run = folder.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    match launched {
        Ok((_, Outcome::Interrupted { .. })) => return Ok(false),
        Ok((_, Outcome::Finished { .. })) => task.end(&Ended { run, diverged: None })?,
        Err(error @ Error::NonFinite { .. }) => task.end(&Ended { run, diverged: Some(error.to_string()) })?,
        Err(error) => return Err(anyhow::Error::from(error).context(format!("{name}, seed {}", task.seed))),
    }
    Ok(true)
}
