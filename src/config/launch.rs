//! From a configuration to a run: images, networks, folder, state to go on from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::load::completed;
use super::run::RunConfig;
use crate::data::{ImageData, LoaderConfig};
use crate::error::{Error, Result};
use crate::models::{Discriminator, Generator};
use crate::nn::Builder;
use crate::ranks::Ranks;
use crate::rng::Rng;
use crate::score_space;
use crate::study::provenance::{self, Network, Provenance, flops_per_step};
use crate::train::adversarial::Training;
use crate::train::changes::{changes, refuse_changes};
use crate::train::evaluate::Evaluator;
use crate::train::event::{Event, Outcome};
use crate::train::folder::{RunFolder, refuse_among_images};
use crate::train::held_out::HeldOut;
use crate::train::parallel::{check_work, share_batches, share_out};
use crate::train::reals::RealImages;
use crate::train::resume_point::ResumePoint;
use crate::train::schedule::ScheduleKind;
use crate::train::session::{Networks, Session};
use crate::train::settings::TrainConfig;
use crate::train::state::{self, Position, SavedState};

/// What a run needs beside its configuration.
pub struct Launch<'a> {
    /// The configuration.
    pub config: &'a RunConfig,
    /// The images, from [`super::DataConfig::open`].
    pub data: Arc<ImageData>,
    /// Where to compute.
    pub device: &'a Device,
    /// The folder that run folders are made in.
    pub outdir: &'a Path,
    /// The name of the preset or file, for the name of the run folder.
    pub name: &'a str,
    /// Where the run begins.
    pub start: Start,
    /// The processes that make this run together.
    pub ranks: &'a Ranks,
    /// Set to end the run at the next step.
    pub stop: &'a AtomicBool,
    /// Told where the run folder is, once there is one.
    pub on_start: &'a mut dyn FnMut(&Path),
    /// Told what happens.
    pub on_event: &'a mut dyn FnMut(Event),
}

/// Where a run begins; points come from [`crate::train::resume_point::resume_point`].
pub enum Start {
    /// With new networks, in a new folder.
    New,
    /// Exactly where a run stopped, in its folder; under its settings, but for those that may change.
    Resume(ResumePoint),
    /// In a new folder and under any settings, with the networks' weights of another run.
    Transfer(ResumePoint),
}

/// Trains; gives the run folder and how it ended.
///
/// # Errors
/// When the folder cannot be made, the state to go on from does not fit, or training fails.
pub fn launch(launch: Launch) -> Result<(PathBuf, Outcome)> {
    let config = launch.config;
    let config_text = config.to_toml();
    let mut networks = build_networks(config)?;
    networks.move_to(launch.device)?;
    let ranks = launch.ranks;
    let share = share_out(&config.train, &networks, ranks)?;
    share_batches(&mut networks, ranks);
    let whole = launch.data.source_digest().to_owned();
    let (data, held_out) = config.data.parts(launch.data)?;
    // Before the folder: what cannot be had leaves none behind.
    check_work(ranks, &[&data], &config_text)?;
    let evaluate = if ranks.is_first() { evaluator(config, &data, launch.device)? } else { None };
    let create = || create_run(launch.outdir, &config.data.path, &config.data.name(), launch.name);
    let record = provenance(config, &networks, &data, launch.device);
    let Begun { folder, state, told, record } = match launch.start {
        Start::New => Begun::anew(enter(ranks, create)?, record),
        Start::Resume(point) => {
            point.refuse_abandoned()?;
            // Runs of before went by the whole source, whatever part of it they used.
            let trained_on = record.data_digest.clone();
            let begun = resume(ranks, &point, state::load, record, &[&trained_on, &whole])?;
            let before = |state: &_| other_length(config, &config_text, state);
            begun.under::<RunConfig>(&config_text, &length(&config.train), before)?
        }
        Start::Transfer(point) => transfer(ranks, &point, create, &networks, record)?,
    };
    (launch.on_start)(folder.path());
    say_beginning(ranks, &folder, told, |line| (launch.on_event)(Event::Line(line)))?;
    let train = &config.train;
    let loader = LoaderConfig {
        mirror: config.data.mirror,
        workers: config.data.workers,
        share,
        ..LoaderConfig::new(train.batch / ranks.size(), train.seed)
    };
    let session = Session {
        config: train,
        config_text: &config_text,
        folder: &folder,
        ranks,
        share,
        real_images: RealImages::new(data, loader),
        held_out: held_out.map(HeldOut::new),
        evaluate,
        stop: launch.stop,
        on_event: launch.on_event,
    };
    let training = Training::new(session, networks, state.map(|state| state.saved))?;
    // Only now: what cannot go on changes nothing.
    if ranks.is_first() {
        folder.forget_divergence()?;
        folder.write(provenance::FILE, record.to_json().as_bytes())?;
    }
    let outcome = training.run()?;
    Ok((folder.path().to_path_buf(), outcome))
}

/// What scores the run, and how many kimg apart; `None` where it is not to be scored.
fn evaluator(config: &RunConfig, data: &Arc<ImageData>, device: &Device) -> Result<Option<(Evaluator, f64)>> {
    let eval = &config.eval;
    if eval.every_kimg == 0.0 {
        return Ok(None);
    }
    let extractor = score_space::extractor(&eval.features, None, device)?;
    Ok(Some((Evaluator::new(data.clone(), eval.images, extractor)?, eval.every_kimg)))
}

/// A run that can be trained.
pub(super) struct Begun<P> {
    pub(super) folder: RunFolder,
    /// What it goes on from.
    pub(super) state: Option<FoundState<P>>,
    /// What is to be said of its beginning, a line each.
    pub(super) told: Vec<String>,
    /// What it will be known by.
    pub(super) record: Provenance,
}

impl<P> Begun<P> {
    /// A run in a new folder.
    pub(super) fn anew(folder: RunFolder, record: Provenance) -> Self {
        Self { folder, state: None, told: Vec::new(), record }
    }

    /// A run that goes on under the settings `text`, of kind `C`: refuses those that may not change, and notes that it is to be as
    /// long as `now` where its length `before` gave it other rates.
    pub(super) fn under<C: DeserializeOwned + Serialize>(
        mut self,
        text: &str,
        now: &str,
        before: impl FnOnce(&FoundState<P>) -> Result<Option<String>>,
    ) -> Result<Self> {
        let Some(state) = &self.state else { return Ok(self) };
        refuse_changes(&state.path, &completed::<C>(&state.saved.config), text)?;
        if let Some(before) = before(state)? {
            self.told.push(format!(
                "its length was {before} and is {now} now: learning rates go on as in a run of {now}"
            ));
            // One attempt may have died before it saved anything.
            if self.record.lengths.last() != Some(&before) {
                self.record.lengths.push(before);
            }
        }
        Ok(self)
    }
}

/// A state and where it lies.
pub(super) struct FoundState<P> {
    pub(super) path: PathBuf,
    pub(super) saved: SavedState<P>,
}

/// Opens a run to go on with it: on the images it began with, which go by one of `digests` now.
pub(super) fn resume<P>(
    ranks: &Ranks,
    point: &ResumePoint,
    load: impl Fn(&Path) -> Result<SavedState<P>>,
    record: Provenance,
    digests: &[&str],
) -> Result<Begun<P>> {
    let folder = enter(ranks, || RunFolder::open(&point.run))?;
    let (path, saved, damaged) = read_state(ranks, &point.states, load)?;
    let record = match Provenance::read(folder.path())? {
        Some(before) => {
            before.refuse_other_images(folder.path(), digests)?;
            record.after(before)
        }
        None => record,
    };
    let told = damaged.iter().map(passed_over).collect();
    Ok(Begun { folder, state: Some(FoundState { path, saved }), told, record })
}

/// Makes a run that begins with the weights of another.
fn transfer<P>(
    ranks: &Ranks,
    point: &ResumePoint,
    create: impl FnOnce() -> Result<RunFolder>,
    networks: &Networks,
    record: Provenance,
) -> Result<Begun<P>> {
    let (path, saved, damaged) = read_state(ranks, &point.states, state::load)?;
    take_weights(networks, &path, &saved)?;
    let folder = enter(ranks, create)?;
    let record = Provenance { initial: path.display().to_string(), ..record };
    let told = [format!("weights of {}", path.display())].into_iter().chain(damaged.iter().map(passed_over));
    Ok(Begun { told: told.collect(), ..Begun::anew(folder, record) })
}

/// Refuses a new length that lies behind the run. Its own length never does, also where it went beyond it: by a part of a step,
/// or, if timed, by what its last score and save took.
fn refuse_the_past(config: &RunConfig, config_text: &str, state: &FoundState<Position>) -> Result<()> {
    let (train, position) = (&config.train, &state.saved.position);
    let changed = changes(&state.saved.config, config_text).unwrap_or_default();
    if !changed.iter().any(|change| ["train.kimg", "train.minutes"].contains(&change.key.as_str())) {
        return Ok(());
    }
    let (done_minutes, done_kimg) = (position.elapsed_secs / 60.0, position.kimg());
    let behind = if train.minutes > 0.0 {
        (train.minutes <= done_minutes)
            .then(|| (format!("{} minutes", train.minutes), format!("{done_minutes:.1}")))
    } else {
        (train.kimg <= done_kimg).then(|| (format!("{} kimg", train.kimg), format!("{done_kimg:.3}")))
    };
    match behind {
        None => Ok(()),
        Some((wanted, done)) => Err(Error::Usage {
            message: format!("a length of {wanted}, but `{}` is at {done} already", state.path.display()),
            hint: Some("give a longer --kimg or --minutes, or leave it out".into()),
        }),
    }
}

/// The length that a run had before, where that gave it other rates than it would have had with its length of now.
///
/// # Errors
/// As [`refuse_the_past`].
fn other_length(config: &RunConfig, config_text: &str, state: &FoundState<Position>) -> Result<Option<String>> {
    refuse_the_past(config, config_text, state)?;
    let Ok(before) = toml::from_str::<RunConfig>(&state.saved.config) else { return Ok(None) };
    let (before, now) = (&before.train, &config.train);
    let is_as_long = (before.kimg, before.minutes) == (now.kimg, now.minutes);
    Ok((!is_as_long && now.schedule.kind != ScheduleKind::Constant).then(|| length(before)))
}

/// A length as people write it.
fn length(train: &TrainConfig) -> String {
    if train.minutes > 0.0 { format!("{} minutes", train.minutes) } else { format!("{} kimg", train.kimg) }
}

/// The folder of a new run, which must not lie among its images.
pub(super) fn create_run(outdir: &Path, images: &str, data: &str, name: &str) -> Result<RunFolder> {
    refuse_among_images(outdir, images)?;
    RunFolder::create(outdir, data, name)
}

/// The run folder: opened by the first rank, known to all.
pub(super) fn enter(ranks: &Ranks, open: impl FnOnce() -> Result<RunFolder>) -> Result<RunFolder> {
    let opened = if ranks.is_first() { Some(open()?) } else { None };
    let path = opened.as_ref().map(|folder| folder.path().to_path_buf()).unwrap_or_default();
    let path = ranks.first_tells(path)?;
    Ok(opened.unwrap_or_else(|| RunFolder::follow(path)))
}

/// The newest whole state by the first rank's judgement, and on that rank what is wrong with newer ones.
fn read_state<P>(
    ranks: &Ranks,
    states: &[PathBuf],
    load: impl Fn(&Path) -> Result<SavedState<P>>,
) -> Result<(PathBuf, SavedState<P>, Vec<Error>)> {
    if ranks.is_first() {
        let (path, state, damaged) = newest_whole(states, load)?;
        Ok((ranks.first_tells(path)?, state, damaged))
    } else {
        let path = ranks.first_tells(PathBuf::new())?;
        let state = load(&path)?;
        Ok((path, state, Vec::new()))
    }
}

/// Says which state was passed over, and why.
fn passed_over(damaged: &Error) -> String {
    format!("warning: {damaged}; an older state is taken")
}

/// Says how a run begins, in its log as well.
pub(super) fn say_beginning(
    ranks: &Ranks,
    folder: &RunFolder,
    told: Vec<String>,
    mut tell: impl FnMut(String),
) -> Result<()> {
    for line in told {
        if ranks.is_first() {
            folder.log(&line)?;
        }
        tell(line);
    }
    Ok(())
}

/// Where the run comes from and what it costs.
fn provenance(config: &RunConfig, networks: &Networks, data: &ImageData, device: &Device) -> Provenance {
    let network = |parameters: usize, flops| Network { parameters: parameters as u64, flops };
    let generator = network(networks.generator.params().count(), networks.generator.flops());
    let discriminator = network(networks.discriminator.params().count(), networks.discriminator.flops());
    Provenance {
        data_digest: data.digest().to_owned(),
        data_images: data.len() as u64,
        flops_per_step: flops_per_step(&config.train, generator.flops, discriminator.flops),
        generator,
        discriminator,
        ..Provenance::of_process(device)
    }
}

/// The newest state that is whole, and what is wrong with those that were passed over for it.
fn newest_whole<P>(
    states: &[PathBuf],
    load: impl Fn(&Path) -> Result<SavedState<P>>,
) -> Result<(PathBuf, SavedState<P>, Vec<Error>)> {
    let mut damaged = Vec::new();
    for path in states {
        match load(path) {
            Ok(state) => return Ok((path.clone(), state, damaged)),
            Err(error) => damaged.push(error),
        }
    }
    Err(damaged
        .into_iter()
        .next()
        .unwrap_or_else(|| Error::Usage { message: "there is no state to resume from".into(), hint: None }))
}

/// Gives the networks the weights of a state; the averaged generator is the start of both generators' future.
fn take_weights(networks: &Networks, path: &Path, state: &SavedState) -> Result<()> {
    for (name, params) in
        [("generator-ema", networks.generator.params()), ("discriminator", networks.discriminator.params())]
    {
        let tensors = state.tensors.get(name).map(Vec::as_slice).unwrap_or_default();
        params.load(&tensors.iter().cloned().collect()).map_err(|error| Error::Checkpoint {
            path: path.join(format!("{name}.safetensors")),
            reason: error.to_string(),
            hint: Some("weights only fit networks of the same shape: keep [model] and [discriminator]".into()),
        })?;
    }
    Ok(())
}

/// A generator with the initial weights of the configuration's seed.
///
/// # Errors
/// When memory runs out.
pub fn build_generator(config: &RunConfig) -> Result<Generator> {
    let rng = Rng::new(config.train.seed).split("init").split("generator");
    Ok(Generator::new(&config.model, &rng, DType::F32, &Device::Cpu)?)
}

/// The networks of a run with the initial weights of the configuration's seed, in the processor's memory.
///
/// # Errors
/// When memory runs out.
pub fn build_networks(config: &RunConfig) -> Result<Networks> {
    let rng = Rng::new(config.train.seed).split("init").split("discriminator");
    let builder = Builder::new(&rng, DType::F32, &Device::Cpu);
    Ok(Networks {
        generator: build_generator(config)?,
        generator_ema: build_generator(config)?,
        discriminator: Discriminator::new(&config.discriminator, &builder)?,
    })
}
