//! Adversarial training: two networks, one loop.
//!
//! A discriminator step shows D a batch of real images and one of fakes made without gradients; a generator step
//! draws fresh fakes and sends D's opinion back through them, D's weights frozen. Progress is counted in thousands
//! of real images (kimg). Every random number is a function of the seed and of the number of the image it is for,
//! so a run is the same in one piece or resumed. With its batch worked through in parts it is the same to rounding, but for
//! what looks at a whole batch and then sees a part: batch norm, minibatch stddev, spectral norm's turns, LeCam's averages.

use std::sync::atomic::Ordering;
use std::time::Instant;

use candle_core::Tensor;
use nestgen_kernels::cuda::upload;
use nestgen_kernels::{
    Adam, AdamConfig, Gradients, Param, Var, add, backward, clip_grad_norm, ema_update, no_grad, scale,
};

use super::event::{Event, Outcome, Progress};
use super::fakes::latents;
use super::guard::Trouble;
use super::parallel::backward_averaged;
use super::penalties::gradient_penalty;
use super::readings::{Readings, mean};
use super::resources::memory_gib;
use super::schedule::Length;
use super::session::{Clock, Networks, Session};
use super::settings::AdamSettings;
use super::state::{Position, SavedState};
use super::tensorboard::EventFile;
use crate::error::Result;
use crate::nn::ParamSet;
use crate::ranks::Ranks;
use crate::rng::Rng;

/// A run in progress.
pub struct Training<'a> {
    pub(super) session: Session<'a>,
    pub(super) networks: Networks,
    pub(super) adam_g: Adam,
    pub(super) adam_d: Adam,
    pub(super) position: Position,
    pub(super) length: Length,
    pub(super) clock: Clock,
    /// The next real images and the number of the first, where they were uploaded ahead.
    ahead: Option<(u64, Tensor)>,
    /// On the rank that writes, once the run is open.
    pub(super) events: Option<EventFile>,
    /// Spread of the real images of `reals.png`.
    pub(super) real_diversity: f64,
    progress: Progress,
}

fn adam(params: &ParamSet, settings: &AdamSettings) -> Result<Adam> {
    let AdamSettings { lr, beta1, beta2, eps, weight_decay } = *settings;
    Ok(Adam::new(params.params(), AdamConfig { lr, beta1, beta2, eps, weight_decay })?)
}

impl<'a> Training<'a> {
    /// Sets a run up: from its beginning, or from a saved state.
    ///
    /// # Errors
    /// When the state does not fit the networks, or the folder cannot be written.
    pub fn new(session: Session<'a>, networks: Networks, resume: Option<SavedState>) -> Result<Self> {
        let config = session.config;
        let clock = Clock {
            session_start: Instant::now(),
            before_secs: 0.0,
            tick_start_secs: 0.0,
            maintenance_secs: 0.0,
            longest_maintenance_secs: 0.0,
            memory_secs: f64::NEG_INFINITY,
        };
        let mut training = Self {
            adam_g: adam(networks.generator.params(), &config.generator)?,
            adam_d: adam(networks.discriminator.params(), &config.discriminator)?,
            position: Position { augment: config.augment.start(), ..Position::default() },
            length: Length::Images((config.kimg * 1e3) as u64),
            clock,
            ahead: None,
            events: None,
            real_diversity: 0.0,
            progress: Progress::default(),
            session,
            networks,
        };
        match resume {
            Some(state) => training.restore(&state)?,
            None => training.networks.generator_ema.params().copy_from(training.networks.generator.params())?,
        }
        training.clock.before_secs = training.position.elapsed_secs;
        training.clock.longest_maintenance_secs = training.position.longest_maintenance_secs;
        training.clock.tick_start_secs = training.position.elapsed_secs - training.position.tick_secs;
        Ok(training)
    }

    /// Trains to the end of the run.
    ///
    /// # Errors
    /// When a step, a picture or a save fails; what was saved before stays whole.
    pub fn run(mut self) -> Result<Outcome> {
        let config = self.session.config;
        self.open_together()?;
        loop {
            let mut over = self.is_over();
            if over && !self.tick_is_due(over) {
                let (snapshot, _) = self.save()?;
                return Ok(Outcome::Finished { snapshot });
            }
            let mut trouble = None;
            // Of a run that was stopped while a tick was scored, the tick comes first.
            if !self.tick_is_due(over) {
                // Discriminator.
                let mut real = None;
                for _ in 0..config.d_steps {
                    let images = self.real_images()?;
                    self.progress.discriminator_loss = self.discriminator_step(&images)?;
                    self.position.d_steps += 1;
                    self.position.cur_nimg += config.batch as u64;
                    real = Some(images);
                }

                // Generator.
                self.progress.generator_loss = self.generator_step(real.as_ref())?;
                self.position.g_steps += 1;

                // Numbers that are not finite would only spread: nothing of this step is kept.
                let losses = [
                    ("generator's loss", self.progress.generator_loss),
                    ("discriminator's loss", self.progress.discriminator_loss),
                ];
                let broken = losses.iter().find(|(_, loss)| !loss.is_finite());
                trouble = broken.map(|&(what, _)| Trouble::NonFinite { what: what.into() });
                self.report_progress();
                over = self.is_over();
            }

            // Tick: statistics, pictures, scores, snapshots.
            if trouble.is_none() && self.tick_is_due(over) {
                trouble = self.tick_together(over)?;
            }
            if let Some(trouble) = trouble {
                if let Some(outcome) = self.respond(trouble, over)? {
                    return Ok(outcome);
                }
                // It may be back at an earlier state.
                over = self.is_over();
            }
            let unfinished = !over || self.tick_is_due(over);
            if self.session.ranks.any(self.session.stop.load(Ordering::Relaxed)) && unfinished {
                if let Some(trouble) = self.broken_weights()?
                    && let Some(outcome) = self.respond(trouble, over)?
                {
                    return Ok(outcome);
                }
                return Ok(Outcome::Interrupted { state: self.save_stopped()? });
            }
        }
    }

    /// This rank's share of the batch of real images that comes now, where the networks are.
    fn real_images(&mut self) -> Result<Tensor> {
        let first = self.position.cur_nimg;
        match self.ahead.take() {
            Some((number, images)) if number == first => Ok(images),
            _ => {
                let device = self.networks.discriminator.params().device();
                Ok(upload(&self.session.real_images.batch(first)?, &device)?)
            }
        }
    }

    /// Uploads the images that the next step will ask for while a GPU works. What fails here will fail there again, in its turn.
    fn upload_ahead(&mut self) {
        let device = self.networks.discriminator.params().device();
        if device.is_cpu() {
            return;
        }
        let first = self.position.cur_nimg;
        let images = self.session.real_images.batch(first).map(|images| upload(&images, &device));
        self.ahead = images.ok().and_then(|images| Some((first, images.ok()?)));
    }

    /// One step of D on this rank's real images `[batch / ranks, H, W, 3]`; gives its loss, penalties included.
    fn discriminator_step(&mut self, real: &Tensor) -> Result<f64> {
        let config = self.session.config;
        let penalty = &config.penalty;
        let position = &mut self.position;
        // A lazy penalty makes up for its absence with its weight.
        let due = position.d_steps.is_multiple_of(penalty.interval);
        let gamma =
            config.schedule.gamma_factor(position.cur_nimg, position.total_nimg) * penalty.interval as f64;
        let [r1, r2] =
            [penalty.r1_gamma, penalty.r2_gamma].map(|weight| if due { weight * gamma } else { 0.0 });
        let lecam = position.kimg() >= penalty.lecam_start_kimg && penalty.lecam > 0.0;

        let streams = self.session.rng(position.rollbacks);
        let ranks = self.session.ranks;
        let micro = config.micro_batch() / ranks.size();
        let share = 1.0 / config.accumulate as f64;
        // Of all parts: loss, and signs of real logits.
        let (mut grads, mut sums) = (Gradients::default(), [0.0; 2]);
        let mut unread: Option<Readings> = None;
        for part in 0..config.accumulate {
            let numbers = self.session.share.numbers(position.cur_nimg, part * micro..(part + 1) * micro);
            let z = latents(&streams.split("z-discriminator"), &numbers, self.networks.generator.z_dim())?;
            let fake_images = no_grad(|| self.networks.generator.forward(&z, true))?;
            let real_images = Var::constant(real.narrow(0, part * micro, micro)?);
            let augment = |images: &Var, stream| {
                config.augment.apply(&position.augment, images, &streams.split(stream), &numbers)
            };
            let mut real_images = augment(&real_images, "augment-real")?;
            let mut fake_images = augment(&fake_images, "augment-fake")?;
            if r1 > 0.0 {
                real_images = Var::leaf(real_images.into_value());
            }
            if r2 > 0.0 {
                fake_images = Var::leaf(fake_images.into_value());
            }

            let discriminator = &self.networks.discriminator;
            let real_logits = discriminator.forward(&real_images, true)?;
            let fake_logits = discriminator.forward(&fake_images, true)?;
            // Penalties of this part may follow averages of the one before.
            if let Some(readings) = unread.take() {
                readings.settle(position, ranks, share, config.loss.pairs(), &mut sums)?;
            }
            let mut loss = config.loss.discriminator(&real_logits, &fake_logits)?;
            let mut readings = Readings::default();
            readings.add("Loss/D", &loss)?;
            for (weight, logits, images, key) in
                [(r1, &real_logits, &real_images, "Loss/R1"), (r2, &fake_logits, &fake_images, "Loss/R2")]
            {
                if weight > 0.0 {
                    let penalty = gradient_penalty(logits, images)?;
                    readings.add(key, &penalty)?;
                    loss = add(&loss, &scale(&penalty, weight)?)?;
                }
            }
            if lecam {
                let term = position.lecam.penalty(&real_logits, &fake_logits)?;
                readings.add("Loss/LeCam", &term)?;
                loss = add(&loss, &scale(&term, penalty.lecam)?)?;
            }
            readings.add(Readings::REAL, &real_logits)?;
            readings.add(Readings::FAKE, &fake_logits)?;
            readings.add(Readings::WHOLE, &loss)?;
            unread = Some(readings);

            drop((real_logits, fake_logits));
            let params = self.networks.discriminator.params().params();
            grads = add_gradients(grads, scale(&loss, share)?, params, part + 1 == config.accumulate, ranks)?;
        }
        let lr = config.discriminator.lr * self.lr_factor();
        if config.clip_norm > 0.0 {
            clip_grad_norm(&mut grads, self.networks.discriminator.params().params(), config.clip_norm)?;
        }
        self.adam_d.step(&grads, lr)?;
        // All of the step is queued: the first read that waits for it.
        let position = &mut self.position;
        if let Some(readings) = unread {
            readings.settle(position, ranks, share, config.loss.pairs(), &mut sums)?;
        }
        ranks.sum(&mut sums);
        // What the adaptive augmentation steers by.
        position.collected.report("Loss/signs_real", sums[1] / config.batch as f64);
        config.augment.adapt(&mut position.augment, sums[1], config.batch);
        Ok(sums[0] / ranks.size() as f64)
    }

    /// One step of G, and of its average; gives its loss. `real` is for losses that compare with real images.
    fn generator_step(&mut self, real: Option<&Tensor>) -> Result<f64> {
        let config = self.session.config;
        let position = &self.position;
        let streams = self.session.rng(position.rollbacks);
        let ranks = self.session.ranks;
        let micro = config.micro_batch() / ranks.size();
        let share = 1.0 / config.accumulate as f64;
        let (mut grads, mut readings) = (Gradients::default(), Readings::default());
        let discriminator = &self.networks.discriminator;
        discriminator.params().set_trainable(false);
        for part in 0..config.accumulate {
            let first = position.g_steps * config.batch as u64;
            let numbers = self.session.share.numbers(first, part * micro..(part + 1) * micro);
            let z = latents(&streams.split("z-generator"), &numbers, self.networks.generator.z_dim())?;
            let fake_images = self.networks.generator.forward(&z, true)?;
            let augment = |images: &Var, stream| {
                config.augment.apply(&position.augment, images, &streams.split(stream), &numbers)
            };
            let fake_logits = discriminator.forward(&augment(&fake_images, "augment-generator")?, false)?;
            let real_logits = match real.filter(|_| config.loss.pairs()) {
                Some(real) => {
                    let images = Var::constant(real.narrow(0, part * micro, micro)?);
                    Some(no_grad(|| discriminator.forward(&augment(&images, "augment-pair")?, false))?)
                }
                None => None,
            };
            let loss = config.loss.generator(&fake_logits, real_logits.as_ref())?;
            readings.add("Loss/G", &loss)?;
            drop((fake_images, fake_logits));
            let params = self.networks.generator.params().params();
            grads = add_gradients(grads, scale(&loss, share)?, params, part + 1 == config.accumulate, ranks)?;
        }
        discriminator.params().set_trainable(true);
        let lr = config.generator.lr * self.lr_factor();
        if config.clip_norm > 0.0 {
            clip_grad_norm(&mut grads, self.networks.generator.params().params(), config.clip_norm)?;
        }
        self.adam_g.step(&grads, lr)?;
        self.update_ema()?;
        self.upload_ahead();
        // All of the step is queued: the first read that waits for it.
        let mut measured: Vec<_> = readings.read()?.iter().map(|(key, loss)| (*key, mean(loss))).collect();
        ranks.mean_measured(&mut measured);
        measured.iter().for_each(|&(key, loss)| self.position.collected.report(key, loss));
        Ok(measured.iter().map(|&(_, loss)| loss * share).sum())
    }

    /// Moves the averaged generator towards the trained one.
    fn update_ema(&mut self) -> Result<()> {
        // Nobody looks at the other ranks' averages.
        if !self.session.ranks.is_first() {
            return Ok(());
        }
        let step_nimg = (self.session.config.batch * self.session.config.d_steps) as u64;
        let beta = self.session.config.ema.beta(step_nimg, self.position.cur_nimg);
        let (ema, source) = (self.networks.generator_ema.params(), self.networks.generator.params());
        // Statistics with the weights, as BigGAN averages them: those of the last steps' weights do not fit an average over
        // thousands, and with them averaged SAGANs scored worse than their raw weights.
        let averaged = |set: &ParamSet| [set.params(), set.statistics()].concat();
        let pairs: Vec<_> = averaged(ema).into_iter().zip(averaged(source)).collect();
        ema_update(&pairs, beta)?;
        // Spectral norm's vectors are directions, which an average over turns would shorten.
        for (ema, source) in ema.buffers().iter().zip(source.buffers()) {
            ema.set(source.value())?;
        }
        Ok(())
    }

    /// What learning rates are multiplied with now.
    pub(super) fn lr_factor(&self) -> f64 {
        let schedule = &self.session.config.schedule;
        let factor = schedule.lr_factor(self.position.cur_nimg, self.position.total_nimg);
        factor * 0.5f64.powi(self.position.rollbacks as i32)
    }

    fn report_progress(&mut self) {
        let elapsed_secs = self.clock.elapsed_secs();
        let cur_nimg = self.position.cur_nimg;
        let total_nimg = self.length.total_nimg(cur_nimg, elapsed_secs, self.position.total_nimg);
        let tick_nimg = cur_nimg - self.position.tick_start_nimg.min(cur_nimg);
        let speed = (elapsed_secs - self.clock.tick_start_secs) / (tick_nimg.max(1) as f64 / 1e3);
        // Early in a tick the last one's speed says more, where there was one in this session.
        let is_first = self.clock.tick_start_secs <= self.clock.before_secs;
        let warm = is_first || tick_nimg as f64 >= self.session.config.tick_kimg * 250.0;
        let sec_per_kimg = if warm { speed } else { self.progress.sec_per_kimg };
        let mut memory = self.progress.memory_gib;
        if elapsed_secs >= self.clock.memory_secs + 1.0 {
            memory = memory_gib().map_or(0.0, |(now, _)| now);
            self.clock.memory_secs = elapsed_secs;
        }
        self.progress = Progress {
            kimg: cur_nimg as f64 / 1e3,
            total_kimg: total_nimg as f64 / 1e3,
            elapsed_secs,
            sec_per_kimg,
            eta_secs: match self.length {
                Length::Seconds { total_secs, .. } => (total_secs - elapsed_secs).max(0.0),
                Length::Images(_) => total_nimg.saturating_sub(cur_nimg) as f64 / 1e3 * sec_per_kimg,
            },
            memory_gib: memory,
            augment: self.position.augment.probability,
            ..self.progress
        };
        (self.session.on_event)(Event::Progress(self.progress));
    }
}

impl Session<'_> {
    /// The root of the random streams of training: another one after every rollback.
    fn rng(&self, rollbacks: u32) -> Rng {
        Rng::new(self.config.seed).split("train").at(u64::from(rollbacks))
    }
}

/// Adds a part's gradients to those before; with the last part, they are averaged over all ranks.
fn add_gradients(
    mut before: Gradients,
    loss: Var,
    params: &[Param],
    last: bool,
    ranks: &Ranks,
) -> Result<Gradients> {
    if last {
        return backward_averaged(ranks, loss, before, params);
    }
    before.accumulate(backward(loss)?)?;
    Ok(before)
}
