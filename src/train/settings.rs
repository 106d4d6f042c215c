//! The settings of adversarial training, each with its unit, range and default.

use serde::{Deserialize, Serialize};

use super::augment::{AugmentConfig, AugmentKind};
use super::ema::EmaConfig;
use super::guard::GuardConfig;
use super::losses::Loss;
use super::schedule::ScheduleConfig;

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The root of every random stream: weights, z, order of images, augmentation.
    pub seed: u64,
    /// Length of the run: thousands of real images shown to the discriminator, above 0.
    pub kimg: f64,
    /// Length of the run in minutes of wall time instead of `kimg`; 0 for none.
    pub minutes: f64,
    /// Images in one step of either network, 2 and more.
    pub batch: usize,
    /// A batch is worked through in this many equal parts, to save memory; 1 and more. Batch norm, minibatch stddev, spectral
    /// norm and LeCam see the parts, so with them it is another training.
    pub accumulate: usize,
    /// Steps of the discriminator for each step of the generator; 1 and more.
    pub d_steps: usize,
    /// Which game the networks play.
    pub loss: Loss,
    /// Adam for the generator.
    pub generator: AdamSettings,
    /// Adam for the discriminator.
    pub discriminator: AdamSettings,
    /// Gradients longer than this are shortened to it; 0 leaves them as they are.
    pub clip_norm: f64,
    /// Thousands of images between lines of progress and statistics.
    pub tick_kimg: f64,
    /// Ticks between sample grids; 0 for the first and the last one only.
    pub image_ticks: u64,
    /// Ticks between snapshots and training states; 0 for only one at the end.
    pub snap_ticks: u64,
    /// Training states to keep; older ones are removed. 1 and more.
    pub keep_states: usize,
    /// Columns and rows of sample grids.
    pub grid: [usize; 2],
    /// Penalties on the discriminator.
    pub penalty: PenaltyConfig,
    /// The averaged generator.
    pub ema: EmaConfig,
    /// Learning rates and penalties over the run.
    pub schedule: ScheduleConfig,
    /// What the discriminator sees.
    pub augment: AugmentConfig,
    /// What counts as trouble, and what to do then.
    pub guard: GuardConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            kimg: 1000.0,
            minutes: 0.0,
            batch: 64,
            accumulate: 1,
            d_steps: 1,
            loss: Loss::Hinge,
            generator: AdamSettings { lr: 2e-4, ..AdamSettings::default() },
            discriminator: AdamSettings { lr: 2e-4, ..AdamSettings::default() },
            clip_norm: 0.0,
            tick_kimg: 4.0,
            image_ticks: 5,
            snap_ticks: 10,
            keep_states: 2,
            grid: [8, 8],
            penalty: PenaltyConfig::default(),
            ema: EmaConfig::default(),
            schedule: ScheduleConfig::default(),
            augment: AugmentConfig::default(),
            guard: GuardConfig::default(),
        }
    }
}

/// `[train.generator]` and `[train.discriminator]`: Adam of one network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamSettings {
    /// Learning rate before the schedule, above 0.
    pub lr: f64,
    /// Decay of the mean of gradients, 0 up to 1.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, 0 up to 1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay a step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { lr: 2e-4, beta1: 0.0, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// `[train.penalty]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PenaltyConfig {
    /// Weight of the gradient penalty at real images; 0 for none.
    pub r1_gamma: f64,
    /// Weight of the gradient penalty at fake images; 0 for none.
    pub r2_gamma: f64,
    /// Discriminator steps from one gradient penalty to the next, whose weight is multiplied by it; 1 and more.
    pub interval: u64,
    /// Weight of the LeCam penalty; 0 for none.
    pub lecam: f64,
    /// Thousands of images before LeCam starts (its averages need some).
    pub lecam_start_kimg: f64,
}

impl Default for PenaltyConfig {
    fn default() -> Self {
        Self { r1_gamma: 0.0, r2_gamma: 0.0, interval: 1, lecam: 0.0, lecam_start_kimg: 1.0 }
    }
}

/// A setting out of its range: dotted key below `train`, and what is wrong with it.
pub type BadSetting = (&'static str, String);

impl TrainConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), BadSetting> {
        positive("kimg", self.kimg)?;
        must("kimg", self.kimg >= 0.001, || format!("{} is less than one image", self.kimg))?;
        not_negative("minutes", self.minutes)?;
        must("batch", self.batch >= 2, || format!("{} is less than 2", self.batch))?;
        must("accumulate", self.accumulate >= 1 && self.batch.is_multiple_of(self.accumulate), || {
            format!("{} does not divide the batch of {}", self.accumulate, self.batch)
        })?;
        must("d_steps", (1..=100).contains(&self.d_steps), || {
            format!(
                "{} steps of the discriminator for one of the generator are not from 1 to 100",
                self.d_steps
            )
        })?;
        positive("tick_kimg", self.tick_kimg)?;
        must("keep_states", self.keep_states >= 1, || "0 would leave nothing to resume from".into())?;
        must("grid", self.grid.iter().all(|&n| (1..=64).contains(&n)), || {
            format!("{:?} is not within 1..64 by 1..64", self.grid)
        })?;
        not_negative("clip_norm", self.clip_norm)?;
        for (adam, lr, beta1, beta2, eps, decay) in [
            (
                &self.generator,
                "generator.lr",
                "generator.beta1",
                "generator.beta2",
                "generator.eps",
                "generator.weight_decay",
            ),
            (
                &self.discriminator,
                "discriminator.lr",
                "discriminator.beta1",
                "discriminator.beta2",
                "discriminator.eps",
                "discriminator.weight_decay",
            ),
        ] {
            positive(lr, adam.lr)?;
            below_one(beta1, adam.beta1)?;
            below_one(beta2, adam.beta2)?;
            positive(eps, adam.eps)?;
            not_negative(decay, adam.weight_decay)?;
        }
        let penalty = &self.penalty;
        not_negative("penalty.r1_gamma", penalty.r1_gamma)?;
        not_negative("penalty.r2_gamma", penalty.r2_gamma)?;
        must("penalty.interval", penalty.interval >= 1, || "0 steps".into())?;
        not_negative("penalty.lecam", penalty.lecam)?;
        not_negative("penalty.lecam_start_kimg", penalty.lecam_start_kimg)?;
        not_negative("ema.halflife_kimg", self.ema.halflife_kimg)?;
        not_negative("ema.ramp", self.ema.ramp)?;
        not_negative("schedule.warmup_kimg", self.schedule.warmup_kimg)?;
        positive("schedule.burn_in", self.schedule.burn_in)?;
        share("schedule.burn_in", self.schedule.burn_in)?;
        share("schedule.lr_final", self.schedule.lr_final)?;
        share("schedule.gamma_final", self.schedule.gamma_final)?;
        share("augment.probability", self.augment.probability)?;
        must("augment.target", (-1.0..=1.0).contains(&self.augment.target), || {
            format!("{} is not in -1..1", self.augment.target)
        })?;
        positive("augment.adjust_kimg", self.augment.adjust_kimg)?;
        let any = self.augment.color || self.augment.translation || self.augment.cutout;
        must("augment.kind", any || self.augment.kind == AugmentKind::None, || {
            "augmentation is on, but colour, translation and cutout are all off".into()
        })?;
        self.guard.validate()
    }

    /// The images of a micro-batch.
    pub fn micro_batch(&self) -> usize {
        self.batch / self.accumulate.max(1)
    }
}

/// `Ok` when the condition holds.
pub(super) fn must(key: &'static str, holds: bool, reason: impl FnOnce() -> String) -> Result<(), BadSetting> {
    if holds { Ok(()) } else { Err((key, reason())) }
}

pub(super) fn positive(key: &'static str, x: f64) -> Result<(), BadSetting> {
    must(key, x > 0.0 && x.is_finite(), || format!("{x} is not a finite number above 0"))
}

pub(super) fn not_negative(key: &'static str, x: f64) -> Result<(), BadSetting> {
    must(key, x >= 0.0 && x.is_finite(), || format!("{x} is not a finite number, 0 or more"))
}

/// 0 to 1, both included.
pub(super) fn share(key: &'static str, x: f64) -> Result<(), BadSetting> {
    must(key, (0.0..=1.0).contains(&x), || format!("{x} is not in 0..1"))
}

/// 0 up to 1, which is not included: a decay of 1 never forgets.
pub(super) fn below_one(key: &'static str, x: f64) -> Result<(), BadSetting> {
    must(key, (0.0..1.0).contains(&x), || format!("{x} is not at least 0 and below 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_bad_range_names_its_key() {
        assert_eq!(TrainConfig::default().validate(), Ok(()));
        type Spoil = fn(&mut TrainConfig);
        let cases: [(&str, Spoil); 21] = [
            ("batch", |c| c.batch = 1),
            ("accumulate", |c| c.accumulate = 3),
            ("kimg", |c| c.kimg = f64::NAN),
            ("generator.lr", |c| c.generator.lr = 0.0),
            ("discriminator.beta2", |c| c.discriminator.beta2 = 1.0),
            ("schedule.burn_in", |c| c.schedule.burn_in = 0.0),
            ("augment.probability", |c| c.augment.probability = 1.5),
            ("penalty.interval", |c| c.penalty.interval = 0),
            ("kimg", |c| c.kimg = 0.000_5),
            ("minutes", |c| c.minutes = -1.0),
            ("tick_kimg", |c| c.tick_kimg = 0.0),
            ("guard.patience", |c| c.guard.patience = 0),
            ("guard.start_kimg", |c| c.guard.start_kimg = f64::NAN),
            ("grid", |c| c.grid = [0, 1]),
            ("keep_states", |c| c.keep_states = 0),
            ("d_steps", |c| c.d_steps = 0),
            ("clip_norm", |c| c.clip_norm = -1.0),
            ("schedule.lr_final", |c| c.schedule.lr_final = 2.0),
            ("ema.ramp", |c| c.ema.ramp = -1.0),
            ("augment.target", |c| c.augment.target = 2.0),
            ("penalty.lecam", |c| c.penalty.lecam = -1.0),
        ];
        for (key, spoil) in cases {
            let mut config = TrainConfig::default();
            spoil(&mut config);
            assert_eq!(config.validate().map_err(|bad| bad.0), Err(key));
        }
    }
}
