//! How learning rates and penalties change over a run, and how long the run is.
//!
//! A schedule is a function of the share of the run that is done. A run of a fixed number of images knows
//! that share exactly; a run of a fixed number of minutes estimates it from its own speed at every tick, so
//! a cosine ends where the time ends.

use serde::{Deserialize, Serialize};

/// The shape of the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// No change after the warm-up.
    #[default]
    Constant,
    /// Half a cosine from the start of the run to its end.
    Cosine,
    /// Half a cosine over the first `burn_in` of the run, then no more change (R3GAN).
    BurnIn,
}

/// `[train.schedule]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape of the change.
    pub kind: ScheduleKind,
    /// Thousands of images over which learning rates rise from zero; 0 or more.
    pub warmup_kimg: f64,
    /// The share of the run that a burn-in takes, above 0 and up to 1.
    pub burn_in: f64,
    /// Learning rates end at this share of their start, 0 to 1.
    pub lr_final: f64,
    /// Gradient penalties end at this share of their start, 0 to 1.
    pub gamma_final: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Constant, warmup_kimg: 0.0, burn_in: 0.1, lr_final: 0.1, gamma_final: 1.0 }
    }
}

impl ScheduleConfig {
    /// What to multiply learning rates with after `cur_nimg` of `total_nimg` images.
    pub fn lr_factor(&self, cur_nimg: u64, total_nimg: u64) -> f64 {
        let warmup_nimg = self.warmup_kimg * 1e3;
        let warmup = if warmup_nimg > 0.0 { ((cur_nimg as f64 + 1.0) / warmup_nimg).min(1.0) } else { 1.0 };
        warmup * self.between(self.lr_final, cur_nimg, total_nimg)
    }

    /// What to multiply gradient penalties with after `cur_nimg` of `total_nimg` images.
    pub fn gamma_factor(&self, cur_nimg: u64, total_nimg: u64) -> f64 {
        self.between(self.gamma_final, cur_nimg, total_nimg)
    }

    /// From 1 to `last` along the shape.
    fn between(&self, last: f64, cur_nimg: u64, total_nimg: u64) -> f64 {
        let done = (cur_nimg as f64 / total_nimg.max(1) as f64).min(1.0);
        let done = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Cosine => done,
            ScheduleKind::BurnIn => (done / self.burn_in).min(1.0),
        };
        last + (1.0 - last) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// After this many real images.
    Images(u64),
    /// After this much wall time, of which `reserve_secs` are kept for the last score and save.
    Seconds {
        /// The whole time.
        total_secs: f64,
        /// What the end of the run needs of it.
        reserve_secs: f64,
    },
}

impl Length {
    /// The images a run of this length will have shown, judged after `cur_nimg` of them and `elapsed_secs`.
    ///
    /// Before there is a speed to judge by (the first tick) a timed run guesses `first_guess`.
    pub fn total_nimg(&self, cur_nimg: u64, elapsed_secs: f64, first_guess: u64) -> u64 {
        match *self {
            Self::Images(total) => total,
            Self::Seconds { .. } if cur_nimg == 0 || elapsed_secs <= 0.0 => first_guess,
            Self::Seconds { total_secs, reserve_secs } => {
                let time = (total_secs - reserve_secs).max(0.0);
                ((cur_nimg as f64 * time / elapsed_secs) as u64).max(1)
            }
        }
    }

    /// Whether the run is over.
    pub fn is_over(&self, cur_nimg: u64, elapsed_secs: f64) -> bool {
        match *self {
            Self::Images(total) => cur_nimg >= total,
            Self::Seconds { total_secs, reserve_secs } => elapsed_secs >= total_secs - reserve_secs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f64 arithmetic on numbers below 1.
    const TOLERANCE: f64 = 1e-12;

    #[test]
    fn cosine_goes_from_one_to_its_end() {
        let cosine = ScheduleConfig { kind: ScheduleKind::Cosine, lr_final: 0.2, ..Default::default() };
        for (cur, expected) in [(0, 1.0), (50, 0.6), (100, 0.2), (150, 0.2)] {
            assert!((cosine.lr_factor(cur, 100) - expected).abs() < TOLERANCE, "{cur}");
            assert!((cosine.gamma_factor(cur, 100) - 1.0).abs() < TOLERANCE);
        }
    }

    #[test]
    fn burn_in_ends_early_and_stays() {
        let config =
            ScheduleConfig { kind: ScheduleKind::BurnIn, burn_in: 0.5, gamma_final: 0.1, ..Default::default() };
        assert!((config.gamma_factor(25, 100) - 0.55).abs() < TOLERANCE);
        assert!((config.gamma_factor(50, 100) - 0.1).abs() < TOLERANCE);
        assert!((config.gamma_factor(90, 100) - 0.1).abs() < TOLERANCE);
    }

    #[test]
    fn warmup_rises_to_one() {
        let config = ScheduleConfig { warmup_kimg: 1.0, ..Default::default() };
        assert!((config.lr_factor(499, 10_000) - 0.5).abs() < TOLERANCE);
        assert!((config.lr_factor(5_000, 10_000) - 1.0).abs() < TOLERANCE);
    }

    #[test]
    fn a_timed_run_fits_its_length_to_its_speed() {
        let length = Length::Seconds { total_secs: 100.0, reserve_secs: 10.0 };
        assert_eq!(length.total_nimg(0, 0.0, 777), 777);
        assert_eq!(length.total_nimg(1000, 30.0, 777), 3000);
        assert!(!length.is_over(1, 89.0));
        assert!(length.is_over(1, 90.0));
        assert_eq!(Length::Images(50).total_nimg(3, 1e9, 0), 50);
    }
}
