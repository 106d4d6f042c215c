//! `nestgen score`: scores for snapshots that were kept, in whichever features are wanted now.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use clap::Args;
use nestgen::config::{Override, Rescorer};
use nestgen::error::Error;
use nestgen::ranks::Ranks;

use super::device::PlaceArgs;
use super::{interrupt, ui};

/// Score the snapshots of runs as training does, so that `compare` can compare them
///
/// Adds to each run's metric-*.jsonl what its snapshots lack, with KID and the Frechet distance; the same scores in another
/// feature space or of another number of images are other scores beside them, which `compare --metric` names. Runs that were
/// scored otherwise, or not at all, can then be compared. Networks compute in f32. Stopped (exit code 130), it goes on with the same
/// command.
#[derive(Args)]
pub(super) struct ScoreArgs {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The feature space: auto, inception, scenes-v1, random-v1, or a .safetensors FILE of DINOv2 or of one of our
    /// classifiers [default: as the run is set]
    #[arg(long, value_name = "auto|inception|scenes-v1|random-v1|FILE")]
    features: Option<String>,
    /// Images of either side, but no more than there are real ones [default: as the run is set]
    #[arg(long, value_name = "N")]
    images: Option<u32>,
    /// Where the images that the run was trained on lie now [default: as the run is set]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) fn run(args: &ScoreArgs) -> anyhow::Result<ExitCode> {
    let device = args.place.open(&Ranks::alone())?;
    let overrides = overrides(args);
    let mut rescorer = Rescorer::new(&overrides, &device);
    for run in &args.runs {
        rescorer.check(run)?;
    }
    let stop = interrupt::flag_saying("stopping; the scores that are there are kept")?;
    for (index, run) in args.runs.iter().enumerate() {
        // Not all runs read images: those of the run before may be the same.
        let bar = OnceLock::new();
        let reading = |done: usize, total: usize| {
            let bar = bar.get_or_init(|| ui::progress_bar("reading images", total as u64));
            bar.set_position(done as u64);
            if done == total {
                bar.finish_and_clear();
            }
            !stop.load(Ordering::Relaxed)
        };
        let scored = rescorer.score(run, &reading, &stop, &mut |line| ui::note(line));
        bar.get().iter().for_each(|bar| bar.finish_and_clear());
        let runs_left = args.runs.len() - index - 1;
        let stopped = stop.load(Ordering::Relaxed);
        let done = match scored {
            // Stopped while real images were read: nothing is wrong with them.
            Err(Error::Usage { hint: None, .. }) if stopped => {
                return Ok(goes_on(&format!("runs left: {}", runs_left + 1)));
            }
            scored => scored?,
        };
        let (run, metrics) = (run.display(), done.metrics.join(", "));
        let had = if done.had > 0 { format!(", {} had these scores", done.had) } else { String::new() };
        ui::result_line(&format!("{run}: snapshots scored: {}{had} ({metrics})", done.scored))?;
        if done.left > 0 || stopped && runs_left > 0 {
            return Ok(goes_on(&format!("snapshots left: {}, runs not begun: {runs_left}", done.left)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is left of work that was told to stop.
fn goes_on(left: &str) -> ExitCode {
    ui::note(&format!("{left}; the same command goes on"));
    interrupt::exit_code(&Ranks::alone())
}

/// What the flags say otherwise than the runs' configurations.
fn overrides(args: &ScoreArgs) -> Vec<Override> {
    let flags = [
        ("--features", "eval.features", args.features.clone().map(toml::Value::from)),
        ("--images", "eval.images", args.images.map(toml::Value::from)),
        ("--data", "data.path", args.data.clone().map(toml::Value::from)),
    ];
    flags.into_iter().filter_map(|(flag, key, value)| Some(Override::new(flag, key, value?))).collect()
}
