//! The settings of training a classifier, each with its unit, range and default.
//!
//! The defaults are the recipe of NesT on CIFAR (arXiv 2105.12723, and its authors' configuration): AdamW with
//! 2.5e-4 for every 256 images, weight decay 0.05, warm-up and half a cosine, RandAugment (2, 9), random erasing,
//! MixUp or CutMix, label smoothing 0.1. The length is that of the paper's convergence figure, 30 epochs, not 300.

use serde::{Deserialize, Serialize};

use super::augment::AugmentConfig;
use super::mix::MixConfig;
use crate::train::ema::EmaConfig;
use crate::train::settings::{BadSetting, below_one, must, not_negative, positive};

/// When the learning rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrPer {
    /// With every step.
    #[default]
    Step,
    /// At the start of every epoch, as timm does unless told otherwise.
    Epoch,
}

/// `[train]` of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyConfig {
    /// The root of every random stream: weights, order of images, augmentation, drop-path.
    pub seed: u64,
    /// Length of the run in passes over the training images; 1 and more.
    pub epochs: u64,
    /// Images in one step, 1 and more.
    pub batch: usize,
    /// Learning rate for a batch of 256 images; scaled with the batch. Above 0.
    pub base_lr: f64,
    /// What the cosine ends at, for a batch of 256 images as well.
    pub min_lr: f64,
    /// Epochs over which the learning rate rises from zero.
    pub warmup_epochs: f64,
    /// When the learning rate changes.
    pub lr_per: LrPer,
    /// AdamW's decay of the mean of gradients, 0 up to 1.
    pub beta1: f64,
    /// AdamW's decay of the mean of squared gradients, 0 up to 1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay a step, times the learning rate; norms, biases and embeddings have none.
    pub weight_decay: f64,
    /// Gradients longer than this are shortened to it; 0 leaves them as they are.
    pub clip_norm: f64,
    /// The share of the target that goes to all classes alike, 0 up to 1.
    pub label_smoothing: f64,
    /// Epochs between tests; the last epoch is always tested.
    pub eval_epochs: u64,
    /// Averaged weights, which are then what is tested and kept; a half-life of 0 keeps none.
    pub ema: EmaConfig,
    /// MixUp and CutMix.
    pub mix: MixConfig,
    /// What is done to single images.
    pub augment: AugmentConfig,
}

impl Default for ClassifyConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 30,
            batch: 64,
            base_lr: 2.5e-4,
            min_lr: 0.0,
            warmup_epochs: 5.0,
            lr_per: LrPer::Step,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.05,
            clip_norm: 0.0,
            label_smoothing: 0.1,
            eval_epochs: 1,
            ema: EmaConfig { halflife_kimg: 0.0, ramp: 0.05 },
            mix: MixConfig::default(),
            augment: AugmentConfig::default(),
        }
    }
}

impl ClassifyConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), BadSetting> {
        must("epochs", self.epochs >= 1, || "0 epochs train nothing".into())?;
        must("batch", self.batch >= 1, || "0 images make no step".into())?;
        must("eval_epochs", self.eval_epochs >= 1, || "0 is no interval".into())?;
        positive("base_lr", self.base_lr)?;
        not_negative("min_lr", self.min_lr)?;
        not_negative("warmup_epochs", self.warmup_epochs)?;
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2)?;
        positive("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("clip_norm", self.clip_norm)?;
        below_one("label_smoothing", self.label_smoothing)?;
        not_negative("ema.halflife_kimg", self.ema.halflife_kimg)?;
        not_negative("ema.ramp", self.ema.ramp)?;
        self.mix.validate()?;
        self.augment.validate()
    }

    /// The learning rate after `done_epochs` (1.5: in the middle of the second).
    ///
    /// Loshchilov and Hutter, arXiv 1608.03983; a linear warm-up to the whole rate, then the cosine over what is left, as the
    /// NesT paper's authors have it (`libml/utils.py` of their code).
    pub fn lr(&self, done_epochs: f64) -> f64 {
        let done = match self.lr_per {
            LrPer::Step => done_epochs,
            LrPer::Epoch => done_epochs.floor(),
        };
        let falling = self.epochs as f64 - self.warmup_epochs;
        let way = if falling > 0.0 { ((done - self.warmup_epochs) / falling).clamp(0.0, 1.0) } else { 0.0 };
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
        let lr = self.min_lr + (self.base_lr - self.min_lr) * cosine;
        let warmup = if done < self.warmup_epochs { done / self.warmup_epochs } else { 1.0 };
        let scale = self.batch as f64 / 256.0;
        // A rate of exactly zero would waste the first step, or the first epoch.
        lr * scale * warmup.max(0.01)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f64 arithmetic on numbers below 1.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn the_rate_rises_then_falls_along_a_cosine() {
        let config = ClassifyConfig { batch: 128, epochs: 20, warmup_epochs: 4.0, ..ClassifyConfig::default() };
        let peak = 2.5e-4 / 2.0;
        let cosine = |way: f64| peak * 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
        assert!((config.lr(2.0) - peak / 2.0).abs() < TOLERANCE);
        assert!((config.lr(4.0) - peak).abs() < TOLERANCE);
        assert!((config.lr(8.0) - cosine(0.25)).abs() < TOLERANCE);
        assert!((config.lr(12.0) - peak / 2.0).abs() < TOLERANCE);
        assert!(config.lr(20.0).abs() < TOLERANCE && config.lr(0.0) > 0.0);
        let stairs = ClassifyConfig { lr_per: LrPer::Epoch, ..config.clone() };
        assert_eq!(stairs.lr(10.9), config.lr(10.0));
        // Nothing but warm-up.
        let short = ClassifyConfig { epochs: 4, ..config };
        assert!((short.lr(4.0) - peak).abs() < TOLERANCE);
    }

    #[test]
    fn bad_settings_are_named() {
        let bad = |change: fn(&mut ClassifyConfig)| {
            let mut config = ClassifyConfig::default();
            change(&mut config);
            config.validate().unwrap_err().0
        };
        assert_eq!(ClassifyConfig::default().validate(), Ok(()));
        assert_eq!(bad(|c| c.epochs = 0), "epochs");
        assert_eq!(bad(|c| c.base_lr = f64::NAN), "base_lr");
        for odd in [f64::INFINITY, f64::NAN] {
            let reason = ClassifyConfig { base_lr: odd, ..ClassifyConfig::default() }.validate().unwrap_err().1;
            assert_eq!(reason, format!("{odd} is not a finite number above 0"));
        }
        assert_eq!(bad(|c| c.label_smoothing = 1.0), "label_smoothing");
        assert_eq!(bad(|c| c.mix.probability = 2.0), "mix.probability");
        assert_eq!(bad(|c| c.augment.erase_area = [0.5, 0.2]), "augment.erase_area");
    }
}
