//! Averaged weights: what snapshots, samples and scores of a generator use, and a classifier if it is asked to.
//!
//! An exponential moving average given by its half-life in thousands of images, so that it means the same at
//! any batch size, with a ramp that keeps it short while the run is young (Karras et al., arXiv 2006.06676).

use serde::{Deserialize, Serialize};

/// `[train.ema]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// Thousands of images after which an old weight counts half; 0 follows the trained weights exactly (of a classifier: no average is
    /// kept).
    pub halflife_kimg: f64,
    /// The half-life is at most this share of the images seen so far; 0 switches the ramp off.
    pub ramp: f64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { halflife_kimg: 10.0, ramp: 0.05 }
    }
}

impl EmaConfig {
    /// The weight of the old average after a step that showed `step_nimg` images, `cur_nimg` in all.
    pub fn beta(&self, step_nimg: u64, cur_nimg: u64) -> f64 {
        let mut halflife = self.halflife_kimg * 1e3;
        if self.ramp > 0.0 {
            halflife = halflife.min(cur_nimg as f64 * self.ramp);
        }
        if halflife > 0.0 { 0.5f64.powf(step_nimg as f64 / halflife) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_weight_counts_half_after_the_halflife_at_any_batch() {
        let ema = EmaConfig { halflife_kimg: 1.0, ramp: 0.0 };
        for batch in [10u64, 50, 250] {
            let left: f64 = (0..1000 / batch).map(|_| ema.beta(batch, 1_000_000)).product();
            assert!((left - 0.5).abs() < 1e-12, "{batch}: {left}");
        }
    }

    #[test]
    fn the_ramp_keeps_the_average_short_early() {
        let ema = EmaConfig { halflife_kimg: 1.0, ramp: 0.05 };
        assert!(ema.beta(32, 32) < 1e-5);
        assert!(ema.beta(32, 10_000) < ema.beta(32, 20_000));
        assert!((ema.beta(32, 20_000) - ema.beta(32, 90_000)).abs() < 1e-12);
        assert_eq!(EmaConfig { halflife_kimg: 0.0, ramp: 0.0 }.beta(32, 1000), 0.0);
    }
}
