//! Scores of the snapshots that a run kept: by the protocol of training, whenever they are wanted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device};

use super::load::{Source, load, parse};
use super::overrides::Override;
use super::run::{DataConfig, RunConfig};
use crate::error::{Error, Result};
use crate::models::Generator;
use crate::nn::Builder;
use crate::sample::{Snapshot, read_snapshot};
use crate::score_space;
use crate::study::provenance::Provenance;
use crate::train::classify::SUMMARY;
use crate::train::evaluate::Evaluator;
use crate::train::folder::{RunFolder, snapshots};
use crate::train::score::{file_name, insert, put_aside_others, scored_kimg};
use crate::train::state::CONFIG;
use crate::train::stats::unix_secs;

/// Told how many images have been read, of how many.
pub type Reading<'a> = dyn Fn(usize, usize) -> bool + Sync + 'a;

/// Scores runs one after another. Real images are read again, and their features computed again, only where a run has others
/// than the run before.
pub struct Rescorer<'a> {
    overrides: &'a [Override],
    device: &'a Device,
    reals: Option<Reals>,
}

/// The real side, and what it depends on.
struct Reals {
    data: DataConfig,
    resolution: usize,
    images: usize,
    features: String,
    /// Of the part that is trained on, and of the whole source.
    digests: [String; 2],
    evaluator: Evaluator,
}

/// What became of a run's snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescored {
    /// Those that were scored.
    pub scored: usize,
    /// Those that had these scores.
    pub had: usize,
    /// Those that were not reached.
    pub left: usize,
    /// The names of the scores.
    pub metrics: Vec<String>,
}

impl<'a> Rescorer<'a> {
    /// By every run's own configuration, where `overrides` do not say otherwise; features are computed on `device`.
    pub fn new(overrides: &'a [Override], device: &'a Device) -> Self {
        Self { overrides, device, reals: None }
    }

    /// Finds cheap mistakes before the work on runs before this one.
    ///
    /// # Errors
    /// When `run` is no run of a generator, or has no snapshots.
    pub fn check(&self, run: &Path) -> Result<()> {
        self.open(run).map(drop)
    }

    /// A run's configuration and its snapshots.
    fn open(&self, run: &Path) -> Result<(RunConfig, Vec<PathBuf>)> {
        let config = config_of(run, self.overrides)?;
        let found: Vec<PathBuf> = snapshots(run)?.into_iter().map(|(_, path)| path).collect();
        if found.is_empty() {
            return Err(Error::Usage {
                message: format!("there is no network-snapshot-*.safetensors in `{}`", run.display()),
                hint: Some("leave this run out, or resume it: it saves one at its end".into()),
            });
        }
        Ok((config, found))
    }

    /// Scores the snapshots of `run` that lack these scores, and adds them to its `metric-*.jsonl`, until `stop` is set.
    /// `tell` hears of each, and of what stepped aside for them.
    ///
    /// # Errors
    /// Those of [`Rescorer::check`]; when the run is being trained, or was trained on other images; when images, features
    /// or scores cannot be read, or written.
    pub fn score(
        &mut self,
        run: &Path,
        reading: &Reading,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Rescored> {
        let (config, snapshots) = self.open(run)?;
        let folder = RunFolder::open(run)?;
        let device = self.device;
        let reals = self.reals(&config, reading)?;
        if let Some(before) = Provenance::read(run)? {
            before.refuse_other_images(run, &reals.digests.each_ref().map(String::as_str))?;
        }
        let evaluator = &mut reals.evaluator;
        let metrics = evaluator.metrics();
        for metric in &metrics {
            if let Some(warning) = put_aside_others(&folder.file(&file_name(metric)), Some(&evaluator.space()))?
            {
                folder.log(&warning)?;
                tell(&warning);
            }
        }
        let mut rescored = Rescored { metrics: metrics.to_vec(), ..Rescored::default() };
        for (index, path) in snapshots.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                rescored.left = snapshots.len() - index;
                break;
            }
            let snapshot = read_snapshot(path)?;
            let kimg = kimg_of(path, &snapshot)?;
            if has_all(&folder, &metrics, kimg)? {
                rescored.had += 1;
                continue;
            }
            let generator = generator_of(path, snapshot)?;
            generator.params().move_to(device)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(scores) = evaluator.score(&generator, stop)? else {
                rescored.left = snapshots.len() - index;
                break;
            };
            for score in scores {
                let file = folder.file(&file_name(&score.metric));
                if !scored_kimg(&file)?.contains(&kimg) {
                    insert(&file, kimg, &score.line(kimg, &name, unix_secs()))?;
                }
                tell(&score.at(kimg));
            }
            rescored.scored += 1;
        }
        Ok(rescored)
    }

    /// The real side for a configuration.
    fn reals(&mut self, config: &RunConfig, reading: &Reading) -> Result<&mut Reals> {
        let resolution = config.model.resolution();
        let same = |reals: &Reals| {
            reals.data == config.data
                && reals.resolution == resolution
                && reals.images == config.eval.images
                && reals.features == config.eval.features
        };
        let reals = match self.reals.take().filter(same) {
            Some(reals) => reals,
            None => {
                let extractor = score_space::extractor(&config.eval.features, None, self.device)?;
                let data = config.data.open(resolution, reading)?;
                let whole = data.source_digest().to_owned();
                let (data, _) = config.data.parts(data)?;
                Reals {
                    data: config.data.clone(),
                    resolution,
                    images: config.eval.images,
                    features: config.eval.features.clone(),
                    digests: [data.digest().to_owned(), whole],
                    evaluator: Evaluator::new(data, config.eval.images, extractor)?,
                }
            }
        };
        Ok(self.reals.insert(reals))
    }
}

/// The configuration of a run of a generator.
fn config_of(run: &Path, overrides: &[Override]) -> Result<RunConfig> {
    let path = run.join(CONFIG);
    if !path.is_file() {
        return Err(Error::no_run_folder(run));
    }
    if run.join(SUMMARY).is_file() {
        return Err(Error::Usage {
            message: format!("`{}` is the run of a classifier", run.display()),
            hint: Some("it was tested as it trained: `nestgen compare` takes it as it is".into()),
        });
    }
    load(Source::File(&path), overrides)
}

fn has_all(folder: &RunFolder, metrics: &[String], kimg: f64) -> Result<bool> {
    for metric in metrics {
        if !scored_kimg(&folder.file(&file_name(metric)))?.contains(&kimg) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When a snapshot was taken.
fn kimg_of(path: &Path, snapshot: &Snapshot) -> Result<f64> {
    let kimg = snapshot.metadata.get("kimg").and_then(|kimg| kimg.parse().ok());
    kimg.ok_or_else(|| Error::Checkpoint {
        path: path.to_path_buf(),
        reason: "it does not tell its kimg".into(),
        hint: Some("move it out of the run folder".into()),
    })
}

/// The generator of a snapshot, from the file at `path`, in the processor's memory.
///
/// # Errors
/// When its weights do not fit its configuration.
pub fn generator_of(path: &Path, snapshot: Snapshot) -> Result<Generator> {
    let Snapshot { config, tensors, .. } = snapshot;
    let config = parse(&path.display().to_string(), &config)?;
    let unusable = |reason: String| Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
        hint: Some("the file was saved by a model with another configuration, or is damaged".into()),
    };
    let builder = Builder::blank_for(tensors.iter().map(|(_, tensor)| tensor), DType::F32, &Device::Cpu);
    let generator = Generator::build(&config.model, &builder).map_err(|error| unusable(error.to_string()))?;
    let tensors = tensors.into_iter().collect();
    generator.params().load(&tensors).map_err(|error| unusable(error.to_string()))?;
    Ok(generator)
}
