//! `nestgen fid REAL FAKE`: how far apart two image sets are, with an error bar.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nestgen::config::refuse_run_folder;
use nestgen::data::splits_called;
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::score_space;
use nestgen::score_space::over_ranks::Together;
use nestgen::train::files::same_place;
use nestgen_fid::{Ball, Input, Metric, Resize, ScoreConfig, Tap, score};
use nestgen_images::{OpenOptions, TEST_SPLITS, VALIDATION_SPLITS, is_array_of_images};

use super::device::PlaceArgs;
use super::ranks::RankArgs;
use super::ui;

/// Score generated images against real ones
#[cfg_attr(feature = "mpi", doc = "")]
#[cfg_attr(
    feature = "mpi",
    doc = "Under mpirun or srun all processes make features, each of its share of the images."
)]
#[derive(Args)]
pub(super) struct FidArgs {
    /// Real images: a folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive, uint8 .npz of images, or .npz
    /// statistics (mu, sigma), whose own error is then not in the ±
    real: PathBuf,
    /// Generated images, in any of the same forms
    fake: PathBuf,
    /// What to compute: fid, kid, is, prdc, fid-infinity [default: fid,kid; with .npz statistics fid]
    #[arg(long, value_delimiter = ',')]
    metrics: Option<Vec<Metric>>,
    /// The published Inception weights [default: $NESTGEN_INCEPTION, then torch's cache]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The feature space: inception; scenes-v1, a small network that is part of this program; random-v1; or a .safetensors
    /// FILE of DINOv2 or of one of our classifiers. Only inception gives FID
    #[arg(long, value_name = "inception|scenes-v1|random-v1|FILE", default_value = "inception")]
    features: String,
    #[command(flatten)]
    place: PlaceArgs,
    /// How images become 299x299: pytorch (pytorch-fid), tf1 (TTUR, torch-fidelity), clean (clean-fid)
    /// [default: pytorch]
    #[arg(long)]
    resize: Option<Resize>,
    /// Which layer's features: 64, 192, 768 or 2048; only 2048 is FID as published
    #[arg(long, default_value = "2048", value_parser = tap)]
    dims: Tap,
    /// The part of REAL to use, where it has parts: train, test, all [default: train]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Also KID as a mean over COUNTxSIZE random subsets, for comparison with other tools
    #[arg(long, value_name = "COUNTxSIZE", value_parser = subsets)]
    kid_subsets: Option<(usize, usize)>,
    /// Parts, of images drawn at random, over which the Inception score is averaged [default: 1]
    #[arg(long, value_name = "N")]
    is_splits: Option<usize>,
    /// Neighbour whose distance sets the balls of precision, recall, density and coverage [default: 3]
    #[arg(short)]
    k: Option<usize>,
    /// Balls without their border, as in the prdc package (with it, as in the paper's code, otherwise)
    #[arg(long)]
    open_balls: bool,
    /// Also the distance between two random halves of REAL: what a perfect generator would get at that size
    #[arg(long)]
    floor: bool,
    /// Real images that no generator was trained on: also look for copies of training images
    #[arg(long, value_name = "PATH")]
    held_out: Option<PathBuf>,
    /// The part of the held-out images to use, where they have parts [default: test, else validation]
    #[arg(long, value_name = "NAME", requires = "held_out")]
    held_out_split: Option<String>,
    /// Leave out images that cannot be read, and list them
    #[arg(long)]
    skip_bad: bool,
    /// Keep features here, by content, and use them again
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Write REAL's mu and sigma, with how they were made: `fid` refuses them where it scores otherwise
    #[arg(long, value_name = "FILE.npz")]
    save_stats: Option<PathBuf>,
    /// Seed of random subsets
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    ranks: RankArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FidArgs) -> anyhow::Result<ExitCode> {
    args.ranks.run(|ranks| run_on(args, ranks))
}

fn run_on(args: &FidArgs, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    if args.weights.is_some() && !matches!(args.features.as_str(), "auto" | "inception") {
        anyhow::bail!(Error::Usage {
            message: format!("--weights are Inception's, and the features are `{}`", args.features),
            hint: Some("leave --weights out, or score with --features inception".into()),
        });
    }
    let features = score_space::chosen(&args.features, args.weights.as_deref())?;
    if !matches!(features, "inception" | "random-v1") && (args.dims != Tap::D2048 || args.resize.is_some()) {
        anyhow::bail!(Error::Usage {
            message: format!("--dims and --resize are Inception's: `{features}` has its own size and features"),
            hint: Some("leave them out".into()),
        });
    }
    refuse_idle(args)?;
    refuse_sides(args)?;
    let real_options = OpenOptions { split: args.split.clone(), ..OpenOptions::default() };
    // Cheap mistakes first: sources before weights, weights before an hour of features.
    let real = Input::open(&args.real, &real_options)?;
    let fake = Input::open(&args.fake, &OpenOptions::default())?;
    let held_out = args.held_out.as_deref();
    let held_out = held_out.map(|path| open_held_out(path, args.held_out_split.as_deref())).transpose()?;
    if let Some(held_out) = &held_out {
        refuse_same(&real, held_out)?;
    }
    if args.split.is_none() {
        name_split(&real);
    }
    [&fake].into_iter().chain(&held_out).for_each(name_split);
    let device = args.place.open(ranks)?;
    let extractor = score_space::extractor(features, args.weights.as_deref(), &device)?;
    let config = config(args);
    let together = Together { ranks, extractor: &extractor, config: &config };
    let sides: Vec<&Input> = [&real, &fake].into_iter().chain(&held_out).collect();
    together.check(&sides)?;
    if !ranks.is_first() {
        together.serve(&sides)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (real, fake) = (together.delegate(0, real), together.delegate(1, fake));
    let held_out = held_out.map(|input| together.delegate(2, input));
    let bar = ui::progress_bar("", 0);
    let progress = |side: &'static str, done: usize, total: usize| {
        bar.set_message(side);
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let report = score(&real, &fake, held_out.as_ref(), &extractor, &config, &progress);
    bar.finish_and_clear();
    let report = report?;
    together.dismiss()?;
    for (side, found) in [("real", &report.real), ("fake", &report.fake)] {
        found.skipped.iter().for_each(|skipped| ui::warn(&format!("{side}: {}", skipped.reason)));
    }
    if args.json {
        ui::result_line(&serde_json::to_string_pretty(&report)?)?;
    } else {
        ui::result_line(report.to_string().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses settings of what is not computed: nobody would see that they did nothing.
fn refuse_idle(args: &FidArgs) -> Result<(), Error> {
    let idle = |asked: bool, metric: Metric| {
        asked && args.metrics.as_ref().is_some_and(|metrics| !metrics.contains(&metric))
    };
    let by_default = |asked: bool, metric: Metric| asked && args.metrics.is_none() || idle(asked, metric);
    let statistics = args.real.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"))
        && !is_array_of_images(&args.real);
    let found = [
        (idle(args.kid_subsets.is_some(), Metric::Kid), "--kid-subsets", "there is no kid in --metrics"),
        (by_default(args.is_splits.is_some(), Metric::Is), "--is-splits", "there is no is in --metrics"),
        (by_default(args.k.is_some(), Metric::Prdc), "-k", "there is no prdc in --metrics"),
        (by_default(args.open_balls, Metric::Prdc), "--open-balls", "there is no prdc in --metrics"),
        (args.split.is_some() && statistics, "--split", "REAL are statistics, of one part already"),
    ];
    match found.into_iter().find(|(idle, ..)| *idle) {
        None => Ok(()),
        Some((_, option, why)) => Err(Error::Usage {
            message: format!("{option} changes nothing: {why}"),
            hint: Some(format!("leave {option} out, or ask for what it is for")),
        }),
    }
}

/// Refuses run folders as sides, and to write the statistics of one side over another side.
fn refuse_sides(args: &FidArgs) -> Result<(), Error> {
    [&args.real, &args.fake].into_iter().chain(&args.held_out).try_for_each(|path| refuse_run_folder(path))?;
    let sides = [Some(&args.real), Some(&args.fake), args.held_out.as_ref()];
    let is_target = |side: &&PathBuf| args.save_stats.as_ref().is_some_and(|target| same_place(target, side));
    match sides.into_iter().flatten().find(is_target) {
        None => Ok(()),
        Some(side) => Err(Error::Usage {
            message: format!("--save-stats would replace `{}`, which is to be scored", side.display()),
            hint: Some("name another file".into()),
        }),
    }
}

/// Images that no generator was trained on: of a source with parts never the one that is trained on, unless it is named.
fn open_held_out(path: &Path, split: Option<&str>) -> anyhow::Result<Input<'static>> {
    let open = |split: Option<&str>| {
        Input::open(path, &OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() })
    };
    let first = open(split)?;
    let has_parts = matches!(&first, Input::Images(set) if set.split().is_some());
    if split.is_some() || !has_parts {
        return Ok(first);
    }
    match splits_called(path, &[TEST_SPLITS, VALIDATION_SPLITS].concat())?.first() {
        Some(name) => Ok(open(Some(name))?),
        None => Err(Error::Usage {
            message: format!("`{}` has a part for training and none for testing", path.display()),
            hint: Some("name the part of it that is held out with --held-out-split".into()),
        }
        .into()),
    }
}

/// Refuses held-out images that are the real ones: every copy is as near to the ones as to the others, and nothing looks copied.
fn refuse_same(real: &Input, held_out: &Input) -> anyhow::Result<()> {
    let (Input::Images(real), Input::Images(held_out)) = (real, held_out) else { return Ok(()) };
    if real.digest()? != held_out.digest()? {
        return Ok(());
    }
    Err(Error::Usage {
        message: format!("the images of --held-out `{}` are those of REAL", held_out.path().display()),
        hint: Some("give images that were not trained on, or name their part with --held-out-split".into()),
    }
    .into())
}

/// Says which part of a side is scored, where it has parts and nobody chose one.
fn name_split(input: &Input) {
    if let Input::Images(set) = input
        && let Some(split) = set.split()
    {
        let path = set.path().display();
        ui::note(&format!("of `{path}` the split `{split}` is scored ({} images)", set.len()));
    }
}

fn config(args: &FidArgs) -> ScoreConfig {
    ScoreConfig {
        metrics: args.metrics.clone(),
        resize: args.resize.unwrap_or_default(),
        tap: args.dims,
        kid_subsets: args.kid_subsets,
        is_splits: args.is_splits.unwrap_or(ScoreConfig::default().is_splits),
        k: args.k.unwrap_or(ScoreConfig::default().k),
        ball: if args.open_balls { Ball::Open } else { Ball::Closed },
        floor: args.floor,
        skip_bad: args.skip_bad,
        cache: args.cache.as_deref().map(Path::to_path_buf),
        save_stats: args.save_stats.clone(),
        seed: args.seed,
    }
}

fn tap(text: &str) -> Result<Tap, String> {
    let found = Tap::ALL.into_iter().find(|tap| tap.dims().to_string() == text);
    found.ok_or_else(|| "one of 64, 192, 768, 2048".into())
}

/// Of KID: by far more than tools use, which take 100.
const MOST_SUBSETS: usize = 1_000_000;

fn subsets(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(n, size)| Some((n.parse().ok()?, size.parse().ok()?)));
    let parsed = parsed.filter(|&(n, size)| (1..=MOST_SUBSETS).contains(&n) && size > 1);
    parsed.ok_or_else(|| format!("COUNTxSIZE with a COUNT up to {MOST_SUBSETS}, for example 100x1000"))
}
