//! `nestgen train`: flags to configuration, one progress line, and how to go on afterwards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use candle_core::Device;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nestgen::config::{Launch, Override, RunConfig, Source, Start, as_sagan, launch, load, preset_names};
use nestgen::error::Error;
use nestgen::models::{GeneratorConfig, discriminator, transposed_nest};
use nestgen::ranks::Ranks;
use nestgen::train::event::{Event, Outcome, Progress};
use nestgen::train::files::lies_in;
use nestgen::train::folder::settings_name;
use nestgen::train::state::CONFIG;

use super::device::DeviceArgs;
use super::ranks::{RankArgs, connect_gpus, describe_ranks, find_point};
use super::{dry_run, interrupt, memory, ui};

/// The preset of a CPU, whatever the resolution.
pub(super) const CPU_PRESET: &str = "demo64";

/// Where run folders are made unless `--outdir` says otherwise.
pub(super) const RUNS: &str = "runs";

/// Train a generator
#[cfg_attr(feature = "mpi", doc = "")]
#[cfg_attr(
    feature = "mpi",
    doc = "Under mpirun or srun all processes train one generator together: each works on"
)]
#[cfg_attr(feature = "mpi", doc = "its share of every batch, and the result is that of one process.")]
#[derive(Args)]
pub(super) struct TrainArgs {
    /// Side of the images in pixels: 32, 64, 128 or 256 [default: the preset's]
    #[arg(long, value_name = "PX")]
    res: Option<usize>,
    /// A folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive or .npz of images [default: the built-in scenes]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// A built-in configuration: demo64 (15 minutes, for a CPU), fast32 or fast64 (30 minutes, for a GPU), quality32, quality64
    /// or paper64 (a day and more on a GPU) [default: demo64, at --res]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A configuration file, as in configs/
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The generator: `nest` (of the configuration) or `sagan`, the convolutional baseline as large as that one [default: the
    /// configuration's]
    #[arg(long, value_name = "KIND", value_parser = ["nest", "sagan"], conflicts_with_all = ["resume", "transfer"])]
    arch: Option<String>,
    /// What `--arch sagan` has as much of as the configuration's generator [default: params]
    #[arg(long = "match", value_name = "WHAT", value_parser = ["params", "flops"], requires = "arch")]
    budget: Option<String>,
    /// Length: thousands of real images shown to the discriminator
    #[arg(long, conflicts_with = "minutes")]
    kimg: Option<f64>,
    /// Length: wall time in the place of images, to which schedules are fitted; a first score that comes at the very end takes longer
    #[arg(long)]
    minutes: Option<f64>,
    /// Images a step
    #[arg(long)]
    batch: Option<usize>,
    /// Show half of the images flipped left to right
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    mirror: Option<bool>,
    /// Thousands of images between lines of progress
    #[arg(long, value_name = "KIMG")]
    tick: Option<f64>,
    /// Ticks between snapshots
    #[arg(long, value_name = "TICKS")]
    snap: Option<i64>,
    /// Thousands of images between scores while training; 0 for none
    #[arg(long, value_name = "KIMG")]
    eval: Option<f64>,
    /// Go on with a run: `latest`, a run folder, or a training state
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["preset", "config", "res"])]
    resume: Option<String>,
    /// Begin a new run, under any settings, with the weights of another: `latest`, a run folder, or a training state
    #[arg(long, value_name = "WHAT", conflicts_with = "resume")]
    transfer: Option<String>,
    /// The root of every random stream
    #[arg(long)]
    seed: Option<i64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Where run folders are made [default: runs]
    #[arg(long, value_name = "DIR")]
    outdir: Option<PathBuf>,
    /// Any setting of the configuration file, for example `--set train.ema.halflife_kimg=5`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print the configuration, parameter counts, FLOPs and memory; train nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    args.ranks.run(|ranks| run_on(args, ranks))
}

fn run_on(args: &TrainArgs, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let outdir = args.outdir.as_deref().unwrap_or(Path::new(RUNS));
    let point = |what: &str| find_point(outdir, what, ranks);
    let start = match (&args.resume, &args.transfer) {
        (Some(what), _) => Start::Resume(point(what)?),
        (None, Some(what)) => Start::Transfer(point(what)?),
        (None, None) => Start::New,
    };
    if let Start::Resume(point) | Start::Transfer(point) = &start
        && point.is_of_classifier()
    {
        let hint = match start {
            Start::Transfer(_) => "`nestgen classify train --transfer` begins with its weights",
            _ => "`nestgen classify train --resume` goes on with it",
        };
        anyhow::bail!(Error::Usage {
            message: format!("`{}` is the run of a classifier", point.run.display()),
            hint: Some(hint.into()),
        });
    }
    if let Start::Resume(point) = &start {
        refuse_other_outdir(args.outdir.as_deref(), &point.run)?;
    }
    let (config, name) = resolve(args, &start)?;
    if args.dry_run {
        return if ranks.is_first() { dry_run::print(&config) } else { Ok(ExitCode::SUCCESS) };
    }
    let device = args.device.open(ranks)?;
    // What is counted is the processor's memory.
    if device.is_cpu() {
        memory::refuse_what_cannot_fit(&config, ranks)?;
    }
    train(&config, &name, outdir, start, ranks, &device)
}

/// Refuses to go on with a run whose folder lies elsewhere than the one that was asked for.
pub(super) fn refuse_other_outdir(outdir: Option<&Path>, run: &Path) -> Result<(), Error> {
    let Some(outdir) = outdir else { return Ok(()) };
    if lies_in(run, outdir)? {
        return Ok(());
    }
    Err(Error::Usage {
        message: format!("--outdir {}: `{}` is not in there", outdir.display(), run.display()),
        hint: Some(
            "a run goes on in its own folder: leave --outdir out, or begin another run with --transfer in the place of --resume".into(),
        ),
    })
}

/// What a run with the settings of a file is called: as the run whose settings they are, else as the file.
pub(super) fn name_of(path: &Path) -> String {
    let of_run = path.ancestors().skip(1).take(2).find_map(settings_name).filter(|_| path.ends_with(CONFIG));
    of_run.unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

/// The configuration that the flags ask for, and its name.
fn resolve(args: &TrainArgs, start: &Start) -> anyhow::Result<(RunConfig, String)> {
    let chosen = args.preset.is_some() || args.config.is_some();
    let saved = match start {
        Start::Resume(point) => Some(point.config()?),
        // The networks' shapes come with the weights, unless a configuration is named; a state may have been copied from its run.
        Start::Transfer(point) if !chosen => point.states.first().map(|state| state.join(CONFIG)),
        _ => None,
    };
    let file = saved.as_deref().or(args.config.as_deref());
    let preset = args.preset.as_deref().unwrap_or(CPU_PRESET);
    let source = file.map_or(Source::Preset(preset), Source::File);
    let name = match file {
        Some(path) => name_of(path),
        None => preset.to_owned(),
    };
    let mut overrides = Vec::new();
    if let Some(res) = args.res {
        overrides.extend(at_resolution(
            res,
            load(source, &[])?.model.resolution(),
            file.is_some() || preset != CPU_PRESET,
        )?);
    }
    let set = args.set.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let sets = |key: &str| set.iter().any(|setting| setting.key() == key);
    // A length in images replaces the preset's length in minutes, here as with --kimg.
    if sets("train.kimg") && !sets("train.minutes") {
        overrides.push(Override::new("--set train.kimg", "train.minutes", 0.0));
    }
    refuse_two_lengths(&set, args.minutes)?;
    overrides.extend(set);
    refuse_no_time(args.minutes)?;
    overrides.extend(flags(args));
    let config = load(source, &overrides).map_err(|error| of_nest(args, error))?;
    match (args.arch.as_deref(), &config.model) {
        (Some("sagan"), GeneratorConfig::TransposedNest(_)) => {
            let budget = args.budget.as_deref().unwrap_or("params");
            Ok((as_sagan(config, budget)?, format!("{name}-sagan")))
        }
        (arch, _) if arch != Some("sagan") && args.budget.is_some() => {
            Err(Error::usage("--match is for --arch sagan", "leave it out, or add --arch sagan").into())
        }
        (Some(_), GeneratorConfig::Sagan(_)) if args.budget.is_some() => {
            let message = format!("--match: the generator of `{name}` is a SAGAN already");
            Err(Error::usage(message, "leave it out, or name the configuration of a NesT").into())
        }
        (Some("nest"), GeneratorConfig::Sagan(_)) => Err(Error::Usage {
            message: format!("--arch nest: the generator of `{name}` is another"),
            hint: Some("leave --config out, or name one of a NesT".into()),
        }
        .into()),
        _ => Ok((config, name)),
    }
}

/// Says of the baseline's own setting, which a NesT does not have, what `--arch sagan` makes of it.
fn of_nest(args: &TrainArgs, error: Error) -> Error {
    match error {
        Error::Config { place, key, reason, .. }
            if args.arch.as_deref() == Some("sagan")
                && key == "model.width"
                && reason.starts_with("there is no") =>
        {
            let hint = "with --arch sagan `model.…` are still the settings of the NesT that the baseline is as large as; the same \
                        command with -n, and without this --set, prints a file of the baseline's own";
            Error::Config { place, key, reason, hint: Some(hint.into()) }
        }
        error => error,
    }
}

/// Refuses a length in minutes beside one in images, which would say nothing.
pub(super) fn refuse_two_lengths(set: &[Override], minutes: Option<f64>) -> Result<(), Error> {
    if minutes.is_some() && set.iter().any(|setting| setting.key() == "train.kimg") {
        return Err(Error::usage(
            "--minutes and --set train.kimg are two lengths of a run",
            "leave one of them out",
        ));
    }
    Ok(())
}

/// Refuses a length of no minutes, which in a configuration stands for one in images.
pub(super) fn refuse_no_time(minutes: Option<f64>) -> Result<(), Error> {
    match minutes {
        Some(minutes) if minutes <= 0.0 || minutes.is_nan() => Err(Error::Usage {
            message: "--minutes is not above 0".into(),
            hint: Some("give a length in minutes, or one in thousands of images with --kimg".into()),
        }),
        _ => Ok(()),
    }
}

/// The dedicated flags, as settings.
fn flags(args: &TrainArgs) -> Vec<Override> {
    let mut flags = Vec::new();
    let mut add = |flag, key: &str, value: Option<toml::Value>| {
        flags.extend(value.map(|v| Override::new(flag, key, v)));
    };
    add("--data", "data.path", args.data.clone().map(Into::into));
    add("--mirror", "data.mirror", args.mirror.map(Into::into));
    add("--kimg", "train.kimg", args.kimg.map(Into::into));
    // A length in images replaces the preset's length in minutes.
    add("--minutes", "train.minutes", args.minutes.map(Into::into));
    add("--kimg", "train.minutes", args.kimg.map(|_| 0.0.into()));
    add("--batch", "train.batch", args.batch.map(|n| (n as i64).into()));
    add("--tick", "train.tick_kimg", args.tick.map(Into::into));
    add("--snap", "train.snap_ticks", args.snap.map(Into::into));
    add("--seed", "train.seed", args.seed.map(Into::into));
    add("--eval", "eval.every_kimg", args.eval.map(Into::into));
    flags
}

/// The CPU preset's networks at another resolution. Other presets and files, whose resolution is `fixed`, have that which they were
/// made for.
pub(super) fn at_resolution(res: usize, preset_res: usize, fixed: bool) -> Result<Vec<Override>, Error> {
    if res == preset_res {
        return Ok(Vec::new());
    }
    if fixed {
        return Err(Error::Usage {
            message: format!("--res {res}, but this configuration is for {preset_res} px"),
            hint: Some(format!(
                "leave --res out, or name another configuration; of the presets ({}) {CPU_PRESET} is for every --res",
                preset_names().join(", ")
            )),
        });
    }
    if !matches!(res, 32 | 128 | 256) {
        return Err(Error::Usage {
            message: format!("--res {res}: the generator draws 32, 64, 128 or 256 px"),
            hint: Some("images of any size are cropped and resized to --res".into()),
        });
    }
    let generator = transposed_nest::Config::demo(res);
    let list = |values: &[usize]| values.iter().map(|&v| toml::Value::Integer(v as i64)).collect::<Vec<_>>();
    let channels = discriminator::Config::demo(res).channels;
    Ok(vec![
        Override::new("--res", "model.resolution", res as i64),
        Override::new("--res", "model.dims", list(&generator.dims)),
        Override::new("--res", "model.depths", list(&generator.depths)),
        Override::new("--res", "discriminator.resolution", res as i64),
        Override::new("--res", "discriminator.channels", list(&channels)),
    ])
}

/// Trains, shows how it goes, and says how to go on.
fn train(
    config: &RunConfig,
    name: &str,
    outdir: &Path,
    start: Start,
    ranks: &Ranks,
    device: &Device,
) -> anyhow::Result<ExitCode> {
    let res = config.model.resolution();
    let data = ui::reading_images(|told| config.data.open(res, told))?;
    let split = data.split().map_or_else(String::new, |split| format!(", the split `{split}`"));
    ui::note(&format!("{}: {} images of {res} px{split}", config.data.name(), data.len()));
    describe_ranks(ranks);
    connect_gpus(ranks, device)?;

    let stop = interrupt::flag()?;
    let line = progress_line();
    let mut on_event = |event: Event| match event {
        Event::Progress(progress) => line.set_message(describe(&progress)),
        Event::Line(text) => line.suspend(|| ui::note(&text)),
        Event::Trouble { trouble, action } => line.suspend(|| ui::warn(&format!("{trouble}; {action}"))),
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
    let (folder, outcome) = launched.context("training")?;
    conclude(&folder, &outcome, ranks)
}

/// One line, redrawn in place; nothing where nobody looks (ticks are printed either way).
pub(super) fn progress_line() -> ProgressBar {
    let line = ui::progress_bar("", 0);
    line.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    line
}

pub(super) fn describe(p: &Progress) -> String {
    format!(
        "{:.2}/{:.0} kimg  {:.2} s/kimg  {} left  {:.2} GiB  G {:.3}  D {:.3}",
        p.kimg,
        p.total_kimg,
        p.sec_per_kimg,
        ui::duration(p.eta_secs),
        p.memory_gib,
        p.generator_loss,
        p.discriminator_loss
    )
}

fn conclude(folder: &Path, outcome: &Outcome, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let command = ui::quoted(folder);
    let folder = folder.display();
    match outcome {
        Outcome::Finished { snapshot } => {
            ui::result_line(&format!("done: {}", snapshot.display()))?;
            ui::result_line(&format!(
                "look at {folder}/fakes*.png; draw more with: nestgen sample -n 1000 --run {command}"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { state } => {
            ui::result_line(&format!("saved: {}", state.display()))?;
            ui::result_line(&format!("go on with: nestgen train --resume {command}"))?;
            Ok(interrupt::exit_code(ranks))
        }
        Outcome::Diverged { trouble, last_good } => Err(Error::Usage {
            message: format!("training diverged: {trouble}"),
            hint: Some(match last_good {
                Some(state) => {
                    format!(
                        "begin anew from its last good state, with lower rates: nestgen train --transfer {} --set \
                         train.generator.lr=… --set train.discriminator.lr=…",
                        ui::quoted(state)
                    )
                }
                None => "lower the learning rates, or raise the penalty".into(),
            }),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TrainArgs,
    }

    fn resolved(flags: &[&str]) -> anyhow::Result<RunConfig> {
        let line = Line::try_parse_from([&["train"], flags].concat())?;
        Ok(resolve(&line.args, &Start::New)?.0)
    }

    #[test]
    fn every_resolution_has_a_valid_default() {
        for res in ["32", "64", "128", "256"] {
            let config = resolved(&["--res", res]).unwrap();
            assert_eq!(config.model.resolution().to_string(), res);
        }
        assert_eq!(
            resolved(&["--res", "32", "--preset", CPU_PRESET]).unwrap(),
            resolved(&["--res", "32"]).unwrap()
        );
        assert!(resolved(&["--res", "48"]).is_err());
        assert!(resolved(&["--res", "32", "--preset", "fast64"]).unwrap_err().to_string().contains("64 px"));
    }

    #[test]
    fn flags_win_over_the_preset_and_contradict_no_setting() {
        let config =
            resolved(&["--set", "train.kimg=3", "--batch", "8", "--kimg", "3", "--mirror=false"]).unwrap();
        assert_eq!((config.train.batch, config.train.kimg, config.train.minutes), (8, 3.0, 0.0));
        let error = resolved(&["--set", "data.path=a", "--data", "b"]).unwrap_err().to_string();
        assert!(error.contains("--set: `data.path`: it is \"a\" there, and --data makes it \"b\""), "{error}");
        assert!(!config.data.mirror);
        let flags = ["--snap", "7", "--eval", "3", "--tick", "2", "--minutes", "4", "--seed", "9"];
        let config = resolved(&flags).unwrap();
        let train = &config.train;
        assert_eq!((train.snap_ticks, train.tick_kimg, train.minutes, train.seed), (7, 2.0, 4.0, 9));
        assert_eq!(config.eval.every_kimg, 3.0);
        assert!(
            resolved(&["--minutes", "5", "--set", "train.kimg=3"])
                .unwrap_err()
                .to_string()
                .contains("two lengths")
        );
        assert_eq!(resolved(&["--set", "data.path=2024", "--data", "2024"]).unwrap().data.path, "2024");
        assert!(resolved(&["--minutes", "0"]).unwrap_err().to_string().contains("--minutes is not above 0"));
        let crowd = resolved(&["--set", "data.workers=100000"]).unwrap_err().to_string();
        assert!(crowd.contains("data.workers") && crowd.contains("more than 256"), "{crowd}");
    }
}
