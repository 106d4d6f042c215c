//! `nestgen study convergence`: several generators, several seeds, everything else equal; one page at the end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nestgen::config::{Override, RunConfig, Source, as_sagan, build_generator, load};
use nestgen::error::{Error, Result};
use nestgen::ranks::Ranks;
use nestgen::study::axis::Axis;
use nestgen::study::plan::{Plan, PlannedArm};
use nestgen::study::study_folder::CONFIRMED;
use nestgen::study::tuned::AT;
use nestgen::train::folder::refuse_among_images;
use nestgen::train::parallel::check_work;

use super::runs::{Study, fresh_seeds, listed};
use super::tune::{At, Tune, arms_at};
use super::{describe, digests, refuse_seed};
use crate::cli::device::DeviceArgs;
use crate::cli::ranks::{RankArgs, describe_ranks};
use crate::cli::{interrupt, train, ui};

/// Scores of a run whose length is given in images and which does not say how often to score.
const SCORES_PER_RUN: f64 = 10.0;

/// Train generators against the same discriminator, on the same images in the same order, and compare them
#[cfg_attr(feature = "mpi", doc = "")]
#[cfg_attr(feature = "mpi", doc = "Under mpirun or srun the runs are dealt over the processes.")]
#[derive(clap::Args)]
pub(in crate::cli) struct Convergence {
    /// Generators: `nest` (of the configuration), `sagan` (as large as that one), or configuration files; with --tune also at a
    /// value, like `nest@1e-4`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "nest,sagan")]
    arms: Vec<String>,
    /// Train every generator at each of these values of a setting, and name the best value of each: a rate that suits one may not
    /// suit another
    #[arg(long, value_name = "KEY=V1,V2", value_parser = Tune::parse)]
    tune: Option<Tune>,
    /// Runs of each arm, with seeds 0, 1, ... (from --first-seed on)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first seed: others than before, to confirm what was chosen on those
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    first_seed: u64,
    /// Then train the best of every generator on N other seeds, in the folder `confirmed` of the study: a verdict by seeds that did
    /// not choose
    #[arg(long, value_name = "N", requires = "tune", value_parser = clap::value_parser!(u64).range(1..=1000))]
    confirm: Option<u64>,
    /// Length of a run: thousands of real images shown to the discriminator; this or --minutes is needed
    #[arg(long, conflicts_with = "minutes")]
    kimg: Option<f64>,
    /// Length of a run: wall time
    #[arg(long)]
    minutes: Option<f64>,
    /// A folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive or .npz of images [default: the built-in scenes]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// Side of the images in pixels [default: the preset's]
    #[arg(long, value_name = "PX")]
    res: Option<usize>,
    /// The configuration that arms share [default: demo64, at --res]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// The configuration that arms share, as a file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Thousands of images between scores [default: a tenth of --kimg, or every second tick]
    #[arg(long, value_name = "KIMG")]
    eval: Option<f64>,
    /// Any setting, for all arms
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The study's folder; the same command goes on with a study that was interrupted
    #[arg(long, value_name = "DIR", default_value = "studies/convergence")]
    outdir: PathBuf,
    /// What `sagan` has as much of as `nest`
    #[arg(long = "match", value_name = "WHAT", default_value = "params", value_parser = ["params", "flops"])]
    budget: String,
    /// What the page opens on: kimg, steps, seconds, flops or epochs
    #[arg(long, default_value = "kimg", value_name = "AXIS")]
    x: Axis,
    /// Go on although arms differ in more than their generators, or their generators in size; the page says so
    #[arg(long)]
    allow_unfair: bool,
    /// Runs to train at once on the processor, each with its share of the threads; results are the same, seconds are not those
    /// of a run alone
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    parallel: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print the plan; train nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the verb.
pub(super) fn run(args: &Convergence) -> anyhow::Result<ExitCode> {
    args.ranks.run(|ranks| run_on(args, ranks))
}

fn run_on(args: &Convergence, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    if ranks.size() > 1 && args.parallel > 1 {
        return Err(Error::usage(
            "--parallel on several ranks",
            "each rank trains one run at a time; start more ranks",
        )
        .into());
    }
    let configs = arm_configs(args)?;
    let plan = plan(args, &configs)?;
    if args.confirm.is_some() && one_value_each(&plan) {
        return Err(Error::usage(
            "--confirm: every generator has one value, nothing is chosen",
            "give several, like --tune train.generator.lr=1e-4,2e-4",
        )
        .into());
    }
    for arm in &plan.arms {
        let (parameters, flops) = (arm.parameters as f64 / 1e6, arm.flops as f64 / 1e9);
        ui::note(&format!(
            "{}: generator of {parameters:.2} M parameters, {flops:.2} GFLOP an image",
            arm.name
        ));
    }
    plan.allowed_unfair.iter().for_each(|reason| ui::warn(&format!("unfair: {reason}")));
    if args.dry_run {
        for task in plan.tasks(&args.outdir) {
            ui::result_line(&format!("{}  {}", task.outdir.display(), describe(&task.status()?)))?;
        }
        if let Some(seeds) = args.confirm {
            let folder = args.outdir.join(CONFIRMED);
            let seeds = listed(&fresh_seeds(&plan, seeds));
            ui::result_line(&format!("{}  then the best of every generator, seeds {seeds}", folder.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let device = args.device.open(ranks)?;
    if args.parallel > 1 && !device.is_cpu() {
        return Err(Error::usage(
            "--parallel on a GPU, whose work is done in one line: runs would wait for each other",
            "leave it out; with several GPUs start a rank for each (mpirun)",
        )
        .into());
    }
    describe_ranks(ranks);
    let (_, first) =
        configs.first().ok_or_else(|| Error::usage("a study needs an arm", "--arms nest,sagan"))?;
    // Before the plan is written: images that cannot be read are no study yet, and the next command may name others.
    let data = ui::reading_images(|told| first.data.open(first.model.resolution(), told))?;
    check_work(ranks, &[&data], &plan.settings_of_all())?;
    let plan = Plan { images: digests(&data), ..plan };
    refuse_among_images(&args.outdir, &first.data.path)?;
    let stop = interrupt::flag()?;
    let parallel = args.parallel as usize;
    let study = Study { configs: &configs, data: &data, device: &device, stop: &stop, parallel, axis: args.x };
    let (concluded, _held) = study.train_all(&plan, &args.outdir, ranks)?;
    match args.confirm {
        Some(seeds) if !concluded.chosen.is_empty() => {
            study.confirm(&plan, &concluded.chosen, seeds, &args.outdir, ranks)
        }
        Some(_) if concluded.exit == ExitCode::SUCCESS => {
            ui::warn("nothing to confirm: no generator has a value whose runs can be compared");
            Ok(concluded.exit)
        }
        _ => Ok(concluded.exit),
    }
}

fn one_value_each(plan: &Plan) -> bool {
    let generators = plan.arms.iter().filter_map(|arm| Some(arm.name.rsplit_once(AT)?.0));
    generators.collect::<BTreeSet<_>>().len() == plan.arms.len()
}

/// The name and configuration of each arm.
fn arm_configs(args: &Convergence) -> anyhow::Result<Vec<(String, RunConfig)>> {
    let preset = args.preset.as_deref().unwrap_or(train::CPU_PRESET);
    let base = args.config.as_deref().map_or(Source::Preset(preset), Source::File);
    let fixed = args.config.is_some() || args.preset.as_deref().is_some_and(|name| name != train::CPU_PRESET);
    let mut arms: Vec<(String, RunConfig)> = Vec::new();
    for At { name, arm, value } in arms_at(&args.arms, args.tune.as_ref())? {
        let path = Path::new(&arm);
        let (name, source) = match arm.as_str() {
            "nest" | "sagan" => (name, base),
            _ if path.extension().is_some_and(|extension| extension == "toml") => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                (format!("{stem}{}", &name[arm.len()..]), Source::File(path))
            }
            _ => {
                return Err(Error::usage(
                    format!("`{arm}` is no arm"),
                    "arms are `nest`, `sagan` and configuration files ending in .toml; with --tune KEY also `nest@VALUE`",
                )
                .into());
            }
        };
        if arms.iter().any(|(other, _)| *other == name) {
            let hint = if args.arms.iter().filter(|other| **other == arm || **other == name).count() > 1 {
                "name each arm once"
            } else {
                "name files differently"
            };
            return Err(Error::usage(format!("two arms are named {name}"), hint).into());
        }
        let mut settings = overrides(args, source, fixed)?;
        settings.extend(value);
        let config = load(source, &settings)?;
        if config.eval.every_kimg == 0.0 {
            let hint = "leave --eval out for ten scores a run, or give thousands of images between scores";
            return Err(Error::usage("--eval 0: without scores there is nothing to compare", hint).into());
        }
        arms.push((name, if arm == "sagan" { as_sagan(config, &args.budget)? } else { config }));
    }
    Ok(arms)
}

/// What the flags set, for every arm alike.
fn overrides(args: &Convergence, source: Source, fixed: bool) -> anyhow::Result<Vec<Override>> {
    let plain = load(source, &[])?;
    let mut overrides = match args.res {
        Some(res) => train::at_resolution(res, plain.model.resolution(), fixed)?,
        None => Vec::new(),
    };
    // A run that ends because its score is bad has no score at the end: its arm would gain by losing it.
    overrides.push(Override::new("study convergence", "train.guard.on_divergence", "warn"));
    // Of a length that is none the length is to blame, not what would follow from it.
    let is_length = |kimg: f64| kimg > 0.0 && kimg.is_finite();
    if plain.eval.every_kimg == 0.0 && args.kimg.is_none_or(is_length) {
        let usual = args.kimg.map_or(2.0 * plain.train.tick_kimg, |kimg| kimg / SCORES_PER_RUN);
        overrides.push(Override::new("study convergence", "eval.every_kimg", usual));
    }
    refuse_seed(&args.set)?;
    if let Some(Tune { key, .. }) = &args.tune
        && args.set.iter().any(|text| text.split('=').next().is_some_and(|other| other.trim() == key))
    {
        let message = format!("--set {key}: --tune gives this setting its values");
        return Err(Error::usage(message, "leave one of them out").into());
    }
    if args.kimg.is_none() && args.minutes.is_none() {
        return Err(Error::usage("a study needs the length of its runs", "give --kimg or --minutes").into());
    }
    train::refuse_no_time(args.minutes)?;
    let set = args.set.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
    train::refuse_two_lengths(&set, args.minutes)?;
    overrides.extend(set);
    let mut add = |flag, key: &str, value: Option<toml::Value>| {
        overrides.extend(value.map(|v| Override::new(flag, key, v)));
    };
    add("--data", "data.path", args.data.clone().map(Into::into));
    add("--kimg", "train.kimg", args.kimg.map(Into::into));
    // A length in images replaces the preset's length in minutes.
    add("--minutes", "train.minutes", args.minutes.map(Into::into));
    add("--kimg", "train.minutes", args.kimg.map(|_| 0.0.into()));
    add("--eval", "eval.every_kimg", args.eval.map(Into::into));
    Ok(overrides)
}

/// The plan, if it is fair or may be unfair.
fn plan(args: &Convergence, configs: &[(String, RunConfig)]) -> anyhow::Result<Plan> {
    let arm = |(name, config): &(String, RunConfig)| -> Result<PlannedArm> {
        let generator = build_generator(config)?;
        let parameters = generator.params().count() as u64;
        Ok(PlannedArm { name: name.clone(), parameters, flops: generator.flops(), config: config.to_toml() })
    };
    let arms = configs.iter().map(arm).collect::<Result<_>>()?;
    let seeds = (args.first_seed..args.first_seed + args.seeds).collect();
    let tuned = args.tune.as_ref().map(|tune| tune.key.clone());
    let plan = Plan { seeds, tuned, arms, ..Plan::default() };
    plan.refuse_names()?;
    plan.refuse_other_images()?;
    plan.refuse_twins()?;
    let unfair = plan.unfair()?;
    Ok(plan.allowing(unfair, args.allow_unfair)?)
}
