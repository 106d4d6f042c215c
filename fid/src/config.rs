//! What to compute, and how.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::inception::Tap;
use crate::precision_recall::Ball;
use crate::preprocess::Resize;

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The Frechet distance.
    Fid,
    /// Kernel inception distance.
    Kid,
    /// Inception score.
    Is,
    /// Precision, recall, density, coverage.
    Prdc,
    /// The extrapolated Frechet distance.
    FidInfinity,
}

impl Metric {
    /// Its name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Fid => "the Frechet distance",
            Metric::Kid => "KID",
            Metric::Is => "the Inception score",
            Metric::Prdc => "precision and recall",
            Metric::FidInfinity => "FID-infinity",
        }
    }
}

impl std::str::FromStr for Metric {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "fid" => Metric::Fid,
            "kid" => Metric::Kid,
            "is" => Metric::Is,
            "prdc" => Metric::Prdc,
            "fid-infinity" => Metric::FidInfinity,
            _ => {
                let reason = "one of fid, kid, is, prdc, fid-infinity".into();
                return Err(Error::Setting { setting: "metrics", value: text.into(), reason });
            }
        })
    }
}

/// Settings of a scoring.
#[derive(Clone, Debug)]
pub struct ScoreConfig {
    /// What to compute. `None`: the Frechet distance, and KID unless a side is given as statistics.
    pub metrics: Option<Vec<Metric>>,
    /// How images become network inputs.
    pub resize: Resize,
    /// Which features.
    pub tap: Tap,
    /// Subsets of KID: number and size. `None`: all images only.
    pub kid_subsets: Option<(usize, usize)>,
    /// Splits of the Inception score.
    pub is_splits: usize,
    /// The neighbour that sets the balls of precision and recall.
    pub k: usize,
    /// Whether the balls include their border.
    pub ball: Ball,
    /// Also compare two random halves of the real images.
    pub floor: bool,
    /// Leave out images that cannot be read, and list them, instead of stopping.
    pub skip_bad: bool,
    /// A folder in which features are kept.
    pub cache: Option<PathBuf>,
    /// Where to write the real side's statistics.
    pub save_stats: Option<PathBuf>,
    /// Seed of all random subsets.
    pub seed: u64,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self {
            metrics: None,
            resize: Resize::default(),
            tap: Tap::D2048,
            kid_subsets: None,
            is_splits: 1,
            k: 3,
            ball: Ball::default(),
            floor: false,
            skip_bad: false,
            cache: None,
            save_stats: None,
            seed: 0,
        }
    }
}
