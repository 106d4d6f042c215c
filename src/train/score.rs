//! A score of a snapshot, with everything that must be known to compare it, and its line in `metric-<name>.jsonl`.

use serde::{Deserialize, Serialize};

/// What a line says of the choice of real images. Before it was said, they were every n-th of the set.
pub(super) const REALS: &str = "at random";

/// One score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its name, which says the features and the count: `kid2k-random-v1`.
    pub metric: String,
    /// The value; lower is better.
    pub value: f64,
    /// Its standard error, where there is one.
    pub standard_error: Option<f64>,
    /// Real images it was taken with.
    pub num_real: usize,
    /// Generated images it was taken with.
    pub num_fake: usize,
    /// The feature extractor and its hash.
    pub features: String,
}

impl Score {
    /// The line of the metric's file.
    pub fn line(&self, kimg: f64, snapshot: &str, timestamp_secs: f64) -> String {
        serde_json::json!({
            "results": { &self.metric: self.value },
            "metric": self.metric,
            "kimg": kimg,
            "standard_error": self.standard_error,
            "num_real": self.num_real,
            "num_fake": self.num_fake,
            "features": self.features,
            "reals": REALS,
            "weights": "ema",
            "snapshot": snapshot,
            "timestamp": timestamp_secs,
        })
        .to_string()
    }
}
