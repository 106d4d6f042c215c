//! Which trained network a verb is to use: a run's, or a file's.

use std::path::{Path, PathBuf};

use clap::Args;
use nestgen::config::generator_of;
use nestgen::error::Error;
use nestgen::models::Generator;
use nestgen::ranks::Ranks;
use nestgen::sample::read_snapshot;
use nestgen::train::classify::{MODEL_BEST, SUMMARY};
use nestgen::train::folder::{LATEST, meant, numbered, snapshots};
use nestgen::train::state::MANIFEST;

use super::device::DeviceArgs;
use super::ui::quoted;

/// Which trained generator to use.
#[derive(Args)]
pub(super) struct Network {
    /// A run folder, whose newest snapshot is taken, or `latest` for the newest one with a snapshot in --runs
    #[arg(long, default_value = LATEST, conflicts_with = "network")]
    run: String,
    /// Where `latest` looks
    #[arg(long, value_name = "DIR", default_value = super::train::RUNS)]
    runs: PathBuf,
    /// A snapshot file, instead of a run: `RUN/network-snapshot-best.safetensors` is the one that scored best
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Network {
    /// Builds the network of a snapshot and gives it its weights.
    pub(super) fn load(&self) -> anyhow::Result<(Generator, PathBuf)> {
        refuse_swapped(&self.run, self.network.as_deref())?;
        let path = match &self.network {
            Some(file) => file.clone(),
            None => newest_snapshot(&self.run, &self.runs)?,
        };
        let generator = generator_of(&path, read_snapshot(&path)?)?;
        generator.params().move_to(&self.device.open(&Ranks::alone())?)?;
        Ok((generator, path))
    }
}

/// Refuses a folder as the file and a file as the run, and says which flag takes it.
pub(super) fn refuse_swapped(run: &str, network: Option<&Path>) -> Result<(), Error> {
    match network {
        Some(folder) if folder.is_dir() => Err(Error::usage(
            format!("--network `{}` is a folder, not a file", folder.display()),
            format!("a run folder is given as --run {}", quoted(folder)),
        )),
        None if run != LATEST && Path::new(run).is_file() => Err(Error::usage(
            format!("--run `{run}` is a file, not a run folder"),
            format!("a file is given as --network {}", quoted(Path::new(run))),
        )),
        _ => Ok(()),
    }
}

/// What else than a run of the kind that was looked for `--run` names, if that can be told.
pub(super) fn refuse_no_run(run: &str, classifier: bool) -> Result<(), Error> {
    let folder = Path::new(run);
    if run == LATEST {
        return Ok(());
    }
    if !folder.is_dir() {
        return Err(Error::usage(
            format!("there is no folder `{run}`"),
            "check the path; without --run the newest run in --runs is taken",
        ));
    }
    if folder.join(MANIFEST).is_file() {
        return Err(Error::usage(
            format!("`{run}` is a training state, not a run"),
            "name the run folder that it is in",
        ));
    }
    let is_other = if classifier {
        !snapshots(folder)?.is_empty()
    } else {
        folder.join(SUMMARY).is_file() || folder.join(MODEL_BEST).is_file()
    };
    if is_other {
        let [kind, verbs] = if classifier {
            ["generator", "`nestgen sample` and `nestgen interpolate` take it"]
        } else {
            ["classifier", "`nestgen classify eval` and `nestgen classify explain` take it"]
        };
        return Err(Error::usage(format!("`{run}` is the run of a {kind}"), verbs));
    }
    if !numbered(folder)?.is_empty() {
        return Err(Error::usage(
            format!("`{run}` holds runs, and is none"),
            format!("name one of them, or take the newest with --runs {}", quoted(folder)),
        ));
    }
    Ok(())
}

/// The newest numbered `network-snapshot-*` of a run, or of the newest run that has one. Not `-best`: the best of many scores
/// flatters, so it is taken where it is named.
fn newest_snapshot(run: &str, runs: &Path) -> anyhow::Result<PathBuf> {
    for folder in meant(run, runs)?.iter().filter(|folder| folder.is_dir()) {
        if let Some((_, snapshot)) = snapshots(folder)?.pop() {
            return Ok(snapshot);
        }
    }
    refuse_no_run(run, false)?;
    let place = if run == LATEST { runs.display().to_string() } else { run.to_owned() };
    anyhow::bail!(Error::usage(
        format!("there is no network-snapshot-*.safetensors in `{place}`"),
        "train first (`nestgen train`), or name a run with --run or a file with --network"
    ))
}
