//! `nestgen fid REAL FAKE`: how far apart two image sets are, with an error bar.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::score_space;
use nestgen::score_space::over_ranks::Together;
use nestgen_fid::{Ball, Input, Metric, Resize, ScoreConfig, Tap, score};
use nestgen_images::OpenOptions;

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
    /// Real images: a folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive, or .npz statistics (mu, sigma), whose own error
    /// is then not in the ±
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
    /// Parts over which the Inception score is averaged
    #[arg(long, value_name = "N", default_value_t = 1)]
    is_splits: usize,
    /// Neighbour whose distance sets the balls of precision, recall, density and coverage
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Balls without their border, as in the prdc package (with it, as in the paper's code, otherwise)
    #[arg(long)]
    open_balls: bool,
    /// Also the distance between two random halves of REAL: what a perfect generator would get at that size
    #[arg(long)]
    floor: bool,
    /// Real images that no generator was trained on: also look for copies of training images
    #[arg(long, value_name = "PATH")]
    held_out: Option<PathBuf>,
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
    if !matches!(args.features.as_str(), "inception" | "random-v1")
        && (args.dims != Tap::D2048 || args.resize.is_some())
    {
        anyhow::bail!(Error::Usage {
            message: format!(
                "--dims and --resize are Inception's: `{}` has its own size and features",
                args.features
            ),
            hint: Some("leave them out".into()),
        });
    }
    let real_options = OpenOptions { split: args.split.clone(), ..OpenOptions::default() };
    // Cheap mistakes first: sources before weights, weights before an hour of features.
    let real = Input::open(&args.real, &real_options)?;
    let fake = Input::open(&args.fake, &OpenOptions::default())?;
    let held_out =
        args.held_out.as_deref().map(|path| Input::open(path, &OpenOptions::default())).transpose()?;
    if args.split.is_none() {
        name_split(&real);
    }
    [&fake].into_iter().chain(&held_out).for_each(name_split);
    let device = args.place.open(ranks)?;
    let extractor = score_space::extractor(&args.features, args.weights.as_deref(), &device)?;
    let config = config(args);
    let together = Together { ranks, extractor: &extractor, config: &config };
    if !ranks.is_first() {
        let sides: Vec<&Input> = [&real, &fake].into_iter().chain(&held_out).collect();
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
    if args.json {
        ui::result_line(&serde_json::to_string_pretty(&report)?)?;
    } else {
        ui::result_line(report.to_string().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
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
        is_splits: args.is_splits,
        k: args.k,
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

fn subsets(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(n, size)| Some((n.parse().ok()?, size.parse().ok()?)));
    parsed.filter(|&(n, size)| n > 0 && size > 1).ok_or_else(|| "COUNTxSIZE, for example 100x1000".into())
}
