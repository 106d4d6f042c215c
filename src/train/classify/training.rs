//! Training a classifier: one network, one loop.
//!
//! Batches come from an endless order in which every epoch shows each image once, so a batch may span two epochs and
//! no image is left out. Every random number is a function of the seed and of the step, or of the epoch and the
//! image, it is for: a run is the same in one piece or resumed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use nestgen_kernels::cuda::upload;
use nestgen_kernels::{Adam, AdamConfig, Gradients, Var, clip_grad_norm, cross_entropy, ema_update};
use serde::{Deserialize, Serialize};

use super::augment::{Augment, Normalise};
use super::settings::ClassifyConfig;
use crate::data::{Batch, LabelledImages, Loader, LoaderConfig, Share};
use crate::error::{Error, Result};
use crate::models::Classifier;
use crate::nn::{DropPath, ParamSet};
use crate::ranks::Ranks;
use crate::rng::Rng;
use crate::train::folder::RunFolder;
use crate::train::parallel::backward_averaged;
use crate::train::state::{Best, SavedState};
use crate::train::stats::Collector;
use crate::train::tensorboard::EventFile;

/// What a run is given, beside its network.
pub struct Session<'a> {
    /// The settings.
    pub config: &'a ClassifyConfig,
    /// The whole configuration as text, kept in every model and state.
    pub config_text: &'a str,
    /// Where everything is written.
    pub folder: &'a RunFolder,
    /// The processes that make this run together.
    pub ranks: &'a Ranks,
    /// Which images of a batch are this one's, from [`crate::train::parallel::share_out_pairs`].
    pub share: Share,
    /// The images to train on.
    pub train: LabelledImages,
    /// The images to test on.
    pub test: LabelledImages,
    /// How bytes become numbers.
    pub normalise: Normalise,
    /// Threads that prepare batches.
    pub workers: usize,
    /// Set to end the run at the next step.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub on_event: &'a mut dyn FnMut(Event),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step was made.
    Progress(Progress),
    /// A line for people. It is in `log.txt` as well.
    Line(String),
}

/// Where a run is: enough for one line of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Epochs done, with the share of the running one.
    pub epochs: f64,
    /// Epochs of the whole run.
    pub total_epochs: f64,
    /// Training images a second in this epoch.
    pub images_per_sec: f64,
    /// Seconds of training to the end, estimated.
    pub eta_secs: f64,
    /// The loss of the last step.
    pub loss: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is as long as it should be.
    Finished {
        /// The weights of the best epoch.
        model_best: PathBuf,
    },
    /// It was asked to stop, and saved.
    Interrupted {
        /// What to resume from.
        state: PathBuf,
    },
}

/// Where a run is, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The names of its classes, in label order. Empty in older states.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Training images shown.
    pub cur_nimg: u64,
    /// Steps made.
    pub steps: u64,
    /// Epochs ended.
    pub epoch: u64,
    /// Images shown when the running epoch began.
    pub epoch_start_nimg: u64,
    /// Seconds of training in the running epoch.
    pub epoch_secs: f64,
    /// Seconds of training in the epochs before.
    pub train_secs: f64,
    /// Seconds since the start, tests and saving included, over all sessions.
    pub wall_secs: f64,
    /// The best test so far; its score is the top-1 error in per cent.
    pub best: Option<Best>,
    /// Statistics of the unfinished epoch.
    pub collected: Collector,
}

/// What a step takes, after MixUp or CutMix and on the device: this rank's share.
struct Inputs {
    /// `[batch / ranks, H, W, 3]`
    images: Tensor,
    /// `[batch / ranks, classes]`
    targets: Tensor,
}

/// A run in progress.
pub struct Training<'a> {
    pub(super) session: Session<'a>,
    pub(super) classifier: Classifier,
    /// The same architecture with averaged weights, where they are wanted.
    pub(super) ema: Option<Classifier>,
    pub(super) adam: Adam,
    pub(super) position: Position,
    /// On the rank that writes.
    pub(super) events: Option<EventFile>,
    augment: Arc<Augment>,
    loader: Option<Loader>,
    /// What the next step takes, made before the loss of this one is waited for.
    ahead: Option<Result<Inputs>>,
    /// When training last went on.
    lap: Instant,
    pub(super) session_start: Instant,
    /// Wall seconds of earlier sessions.
    pub(super) before_secs: f64,
}

impl<'a> Training<'a> {
    /// Sets a run up: from its beginning, or from a saved state. `ema` is a second network of the same shape.
    ///
    /// # Errors
    /// When the state does not fit the network, or the folder cannot be written.
    pub fn new(
        session: Session<'a>,
        classifier: Classifier,
        ema: Option<Classifier>,
        resume: Option<SavedState<Position>>,
    ) -> Result<Self> {
        let config = session.config;
        let events_path = session.folder.path();
        let events = session.ranks.is_first().then(|| {
            EventFile::create(events_path, crate::train::stats::unix_secs())
                .map_err(Error::io("write", events_path))
        });
        let augment = Arc::new(Augment {
            config: config.augment,
            normalise: session.normalise,
            stream: Rng::new(config.seed).split("train").split("augment"),
            res: session.train.data().res(),
        });
        let mut training = Self {
            adam: adam(classifier.params(), config)?,
            position: Position {
                class_names: session.train.data().class_names().to_vec(),
                ..Position::default()
            },
            events: events.transpose()?,
            augment,
            loader: None,
            ahead: None,
            lap: Instant::now(),
            session_start: Instant::now(),
            before_secs: 0.0,
            session,
            classifier,
            ema,
        };
        match resume {
            Some(state) => training.restore(&state)?,
            None => {
                if let Some(ema) = &training.ema {
                    ema.params().copy_from(training.classifier.params())?;
                }
            }
        }
        training.before_secs = training.position.wall_secs;
        Ok(training)
    }

    /// Trains to the end of the run.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a loss is not a number; when a step, a test or a save fails. What was saved before
    /// stays whole.
    pub fn run(mut self) -> Result<Outcome> {
        let config = self.session.config;
        self.open_together()?;
        self.lap = Instant::now();
        while self.position.epoch < config.epochs {
            // One step.
            let lr = config.lr(self.done_epochs());
            let loss = self.step(lr)?;
            self.position.steps += 1;
            self.position.cur_nimg += config.batch as u64;
            if !loss.is_finite() {
                return Err(self.diverged());
            }
            self.position.collected.report("Loss/train", loss);
            self.position.epoch_secs += self.lap.elapsed().as_secs_f64();
            self.lap = Instant::now();
            self.report_progress(loss);

            // The end of an epoch: test, statistics, files.
            if self.done_epochs() >= (self.position.epoch + 1) as f64 {
                self.end_epoch(lr)?;
                self.lap = Instant::now();
            }
            let over = self.position.epoch >= config.epochs;
            if self.session.ranks.any(self.session.stop.load(Ordering::Relaxed)) && !over {
                return Ok(Outcome::Interrupted { state: self.save()? });
            }
        }
        Ok(Outcome::Finished { model_best: self.session.folder.file(super::MODEL_BEST) })
    }

    /// One step of AdamW on this rank's share of a batch, and of the averaged weights; gives the loss of the whole.
    fn step(&mut self, lr: f64) -> Result<f64> {
        let config = self.session.config;
        let Inputs { images, targets } = match self.ahead.take() {
            Some(inputs) => inputs?,
            None => self.inputs(self.position.steps)?,
        };
        let (ranks, share) = (self.session.ranks, self.session.share);
        let numbers = share.numbers(0, 0..images.dim(0)?);
        let places = numbers.into_iter().map(|place| place as usize).collect();
        let dropped = Rng::new(config.seed).split("train").split("drop-path").at(self.position.steps);
        let mut dropped = DropPath::new(dropped, config.batch, places);
        let logits = self.classifier.forward(&Var::constant(images), Some(&mut dropped))?;
        let loss = cross_entropy(&logits, &targets)?;
        let value = loss.value().clone();
        drop(logits);
        let params = self.classifier.params().params();
        let mut grads = backward_averaged(ranks, loss, Gradients::default(), params)?;
        if config.clip_norm > 0.0 {
            clip_grad_norm(&mut grads, self.classifier.params().params(), config.clip_norm)?;
        }
        self.adam.step(&grads, lr)?;
        let shown = self.position.cur_nimg + config.batch as u64;
        self.update_ema(shown)?;
        if shown < config.epochs * self.session.train.len() as u64 {
            self.ahead = Some(self.inputs(self.position.steps + 1));
        }
        // Reading waits for the device: when all of the step is queued, and what the next one takes.
        let mut value = [f64::from(value.to_scalar::<f32>()?)];
        ranks.sum(&mut value);
        Ok(value[0] / ranks.size() as f64)
    }

    /// Makes what step `step` takes; the first one is 0.
    fn inputs(&mut self, step: u64) -> Result<Inputs> {
        let batch = self.batch()?;
        let (images, targets) = self.mixed(&batch, step)?;
        if step == 0 && self.session.ranks.is_first() {
            self.write_first_batch(&images)?;
        }
        let device = self.classifier.params().device();
        Ok(Inputs { targets: upload(&targets, &device)?, images: upload(&images, &device)? })
    }

    /// The images and targets of a step, after MixUp or CutMix.
    fn mixed(&self, batch: &Batch, step: u64) -> Result<(Tensor, Tensor)> {
        let config = self.session.config;
        let mut stream = Rng::new(config.seed).split("train").split("mix").at(step);
        let mixing = config.mix.draw(&mut stream, self.augment.res);
        let classes = self.session.train.data().class_names().len();
        let labels = batch.labels.as_deref().unwrap_or_default();
        Ok(mixing.apply(&batch.images, labels, classes, config.label_smoothing)?)
    }

    /// Moves the averaged weights towards the trained ones, which have seen `shown` images.
    fn update_ema(&self, shown: u64) -> Result<()> {
        let Some(ema) = &self.ema else { return Ok(()) };
        let config = self.session.config;
        let beta = config.ema.beta(config.batch as u64, shown);
        let pairs =
            ema.params().params().iter().cloned().zip(self.classifier.params().params().iter().cloned());
        Ok(ema_update(&pairs.collect::<Vec<_>>(), beta)?)
    }

    /// This rank's share of the next training batch.
    fn batch(&mut self) -> Result<Batch> {
        let loader = match &mut self.loader {
            Some(loader) => loader,
            none => none.insert(loader(&self.session, &self.augment, self.position.cur_nimg)?),
        };
        loader.next_batch()
    }

    /// Passes over the training images so far.
    pub(super) fn done_epochs(&self) -> f64 {
        self.position.cur_nimg as f64 / self.session.train.len().max(1) as f64
    }

    fn diverged(&self) -> Error {
        let last = self.session.folder.file(crate::train::state::LAST);
        Error::NonFinite {
            what: "the classifier's loss".into(),
            kimg: self.position.cur_nimg as f64 / 1e3,
            last_good: last.is_dir().then_some(last),
        }
    }

    fn report_progress(&mut self, loss: f64) {
        let (done, total) = (self.done_epochs(), self.session.config.epochs as f64);
        let shown = self.position.cur_nimg - self.position.epoch_start_nimg;
        let images_per_sec = shown as f64 / self.position.epoch_secs.max(1e-9);
        let left = (total - done).max(0.0) * self.session.train.len() as f64;
        let eta_secs = left / images_per_sec.max(1e-9);
        let progress = Progress { epochs: done, total_epochs: total, images_per_sec, eta_secs, loss };
        (self.session.on_event)(Event::Progress(progress));
    }
}

/// This rank's shares of the batches from image number `start` on.
fn loader(session: &Session, augment: &Augment, start: u64) -> Result<Loader> {
    let (config, train) = (session.config, &session.train);
    let loader = LoaderConfig {
        start,
        workers: session.workers,
        share: session.share,
        ..LoaderConfig::new(config.batch / session.ranks.size(), config.seed)
    };
    let augment = augment.clone();
    let prepare =
        move |epoch, image, bytes: &[u8], out: &mut Vec<f32>| augment.append(epoch, image, bytes, out);
    Loader::of_chosen(train.data().clone(), train.indices().clone(), Arc::new(prepare), loader)
}

/// AdamW without decay of norms, biases and embeddings, as timm groups parameters.
fn adam(params: &ParamSet, config: &ClassifyConfig) -> Result<Adam> {
    let ClassifyConfig { base_lr, beta1, beta2, eps, weight_decay, .. } = *config;
    let adam = Adam::new(params.params(), AdamConfig { lr: base_lr, beta1, beta2, eps, weight_decay })?;
    let flat = params.params().iter().filter(|param| param.value().rank() <= 1);
    let flat: std::collections::HashSet<String> = flat.map(|param| param.name().to_owned()).collect();
    Ok(adam.without_decay(|name| flat.contains(name) || name.ends_with("pos_embed") || name == "cls_token"))
}
