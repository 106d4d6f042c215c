//! Watches a run for the ways adversarial training goes wrong, and says so with the figure.
//!
//! - numbers that are not finite (looked at every step)
//! - collapse: a batch from fixed z whose images hardly differ from one another
//! - a discriminator that is always right by a wide margin: the generator learns nothing any more
//! - a score that has become much worse than its best, by more than its error (scores in random features say nothing of it)
//!
//! What is dangerous by how much differs between data sets, so the limits are settings.

use serde::{Deserialize, Serialize};

use super::settings::{BadSetting, must, not_negative};

/// What to do about trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    /// Warn, keep the last good state, end the run.
    #[default]
    Stop,
    /// Warn, go back to the last good state with half the learning rate and other random numbers.
    Rollback,
    /// Warn and go on (non-finite numbers end the run all the same).
    Warn,
}

/// `[train.guard]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// What to do about trouble.
    pub on_divergence: OnDivergence,
    /// Rollbacks before the run is given up.
    pub max_rollbacks: u32,
    /// Collapse: the spread of a fixed-z batch below this share of the spread of real images, 0 to 1.
    pub min_diversity: f64,
    /// Saturation: the gap between mean real and mean fake logits above this.
    pub max_logit_gap: f64,
    /// Worsening: a score above this multiple of its best, above 1, and above it by four of its standard errors.
    pub max_score_ratio: f64,
    /// Ticks in a row that must look bad; for collapse those with a sample grid, for worsening those with a score.
    pub patience: u32,
    /// Thousands of images before anything but a non-finite number counts.
    pub start_kimg: f64,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            on_divergence: OnDivergence::Stop,
            max_rollbacks: 3,
            min_diversity: 0.1,
            max_logit_gap: 20.0,
            max_score_ratio: 2.0,
            patience: 3,
            start_kimg: 10.0,
        }
    }
}

impl GuardConfig {
    pub(super) fn validate(&self) -> Result<(), BadSetting> {
        must("guard.min_diversity", (0.0..=1.0).contains(&self.min_diversity), || {
            format!("{} is not in 0..1", self.min_diversity)
        })?;
        must("guard.max_logit_gap", self.max_logit_gap > 0.0, || {
            format!("{} is not above 0", self.max_logit_gap)
        })?;
        must("guard.max_score_ratio", self.max_score_ratio > 1.0, || {
            format!("{} is not above 1", self.max_score_ratio)
        })?;
        must("guard.patience", self.patience >= 1, || "0 would always stop".into())?;
        not_negative("guard.start_kimg", self.start_kimg)
    }
}

/// What is wrong with a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Trouble {
    /// A loss is infinite or not a number.
    NonFinite {
        /// Which one.
        what: String,
    },
    /// All fixed-z images look alike.
    Collapse {
        /// Their spread over that of real images.
        diversity: f64,
    },
    /// The discriminator tells real from fake by a wide margin.
    Saturation {
        /// Mean real logit less mean fake logit.
        logit_gap: f64,
    },
    /// The score has become worse.
    Worsening {
        /// The score now.
        score: f64,
        /// The best one.
        best: f64,
    },
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NonFinite { what } => write!(f, "the {what} is not a finite number: lower the learning rate"),
            Self::Collapse { diversity } => write!(
                f,
                "the generator draws nearly one image: fixed-z images vary {diversity:.3} times as much as real ones (train.guard.min_diversity)"
            ),
            Self::Saturation { logit_gap } => write!(
                f,
                "the discriminator wins by {logit_gap:.1} (train.guard.max_logit_gap): lower its learning rate, or raise its penalty or augmentation"
            ),
            Self::Worsening { score, best } => write!(f, "the score is {score:.4}, its best was {best:.4}"),
        }
    }
}

/// What the guard remembers between ticks; saved with the training state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    collapsed: u32,
    saturated: u32,
    worse: u32,
}

/// Standard errors by which a score must be above its best: the best has an error as well, so these are about three of their
/// difference. A KID near 0, which may be below it, is a multiple of its best by chance alone.
const ERRORS: f64 = 4.0;

/// A score beside the best one so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The score.
    pub score: f64,
    /// The best one, this one included.
    pub best: f64,
    /// The standard error of the score.
    pub standard_error: f64,
}

/// What the guard looks at after a tick.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// Images seen.
    pub kimg: f64,
    /// Spread of the fixed-z batch over the spread of real images; `None` when none was drawn this tick.
    pub diversity: Option<f64>,
    /// Mean real logit less mean fake logit over the tick.
    pub logit_gap: f64,
    /// The score of this tick, when one was taken.
    pub score: Option<Judged>,
}

impl Guard {
    /// Scores from here on are not those of before.
    pub(super) fn forget_scores(&mut self) {
        self.worse = 0;
    }

    /// Whether nothing is suspected: what was saved then was good.
    pub(super) fn is_calm(&self) -> bool {
        *self == Self::default()
    }

    /// Judges a tick.
    pub fn judge(&mut self, config: &GuardConfig, signs: &Signs) -> Option<Trouble> {
        if signs.kimg < config.start_kimg {
            return None;
        }
        let count = |counter: &mut u32, bad: bool| {
            *counter = if bad { *counter + 1 } else { 0 };
            *counter >= config.patience
        };
        let mut trouble = None;
        if let Some(Judged { score, best, standard_error }) = signs.score {
            let bound = (best.max(0.0) * config.max_score_ratio).max(best + ERRORS * standard_error);
            if count(&mut self.worse, score > bound) {
                trouble = Some(Trouble::Worsening { score, best });
            }
        }
        if count(&mut self.saturated, signs.logit_gap > config.max_logit_gap) {
            trouble = Some(Trouble::Saturation { logit_gap: signs.logit_gap });
        }
        if let Some(diversity) = signs.diversity
            && count(&mut self.collapsed, diversity < config.min_diversity)
        {
            trouble = Some(Trouble::Collapse { diversity });
        }
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Signs = Signs {
        kimg: 100.0,
        diversity: Some(0.8),
        logit_gap: 1.0,
        score: Some(Judged { score: 1.0, best: 1.0, standard_error: 0.1 }),
    };

    #[test]
    fn trouble_must_last_to_count() {
        let config = GuardConfig::default();
        let mut guard = Guard::default();
        let flat = Signs { diversity: Some(0.01), ..FINE };
        assert_eq!(guard.judge(&config, &flat), None);
        assert_eq!(guard.judge(&config, &flat), None);
        assert_eq!(guard.judge(&config, &FINE), None);
        assert_eq!(guard.judge(&config, &flat), None);
        assert_eq!(guard.judge(&config, &flat), None);
        assert_eq!(guard.judge(&config, &flat), Some(Trouble::Collapse { diversity: 0.01 }));
    }

    #[test]
    fn scores_of_another_kind_do_not_count_on() {
        let config = GuardConfig::default();
        let mut guard = Guard::default();
        let worse = Signs { score: Some(Judged { score: 9.0, best: 1.0, standard_error: 0.1 }), ..FINE };
        for _ in 0..2 {
            assert_eq!(guard.judge(&config, &worse), None);
        }
        guard.forget_scores();
        assert_eq!(guard.judge(&config, &worse), None);
    }

    #[test]
    fn each_sign_has_its_trouble_and_a_young_run_has_none() {
        let config = GuardConfig { patience: 1, ..GuardConfig::default() };
        let judge = |signs| Guard::default().judge(&config, &signs);
        assert_eq!(judge(FINE), None);
        let wide = Signs { logit_gap: 50.0, ..FINE };
        assert_eq!(judge(wide), Some(Trouble::Saturation { logit_gap: 50.0 }));
        assert_eq!(judge(Signs { kimg: 1.0, ..wide }), None);
        let scored =
            |score, best, standard_error| Signs { score: Some(Judged { score, best, standard_error }), ..FINE };
        assert_eq!(judge(scored(3.0, 1.0, 0.1)), Some(Trouble::Worsening { score: 3.0, best: 1.0 }));
        assert_eq!(judge(scored(3.0, 1.0, 1.0)), None);
        // An unbiased score near 0: better than all before, and noise around it.
        assert_eq!(judge(scored(-0.001, -0.001, 0.001)), None);
        assert_eq!(judge(scored(0.002, -0.001, 0.001)), None);
        assert_eq!(judge(scored(0.1, -0.001, 0.001)), Some(Trouble::Worsening { score: 0.1, best: -0.001 }));
    }
}
